//! Check a set of questions by hand: is the label right, is the question about the behaviour, is it clear?
//!
//! Blind: this panel reads a sample that has no labels. The report, which has, is made when a rater has answered
//! everything and asks for it; from then on the rater's answers are final.

mod begin;
mod findings;
mod rate;

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use egui::{Panel as Side, Ui};

use self::begin::Form;
use super::theme::Theme;
use super::{Action, Message, in_background, least_seconds, unreadable};
use crate::disk::Damaged;
use crate::evals::validate::folder::{self, FoundValidation, Validation, Wanted, now};
use crate::evals::validate::report::{self, ValidationReport};
use crate::evals::validate::{Answer, Turn, answers_of, is_final, median_milliseconds, next_turn, rater_name, turns};

/// What the panel remembers.
#[derive(Default)]
pub(super) struct Check {
    form: Form,
    open: Option<Open>,
    /// A validation that is drawn or read.
    opening: Option<JoinHandle<Result<Open, String>>>,
    found: Vec<FoundValidation>,
    /// Folders that cannot be read.
    damaged: Vec<Damaged>,
    looking: Option<JoinHandle<(Vec<FoundValidation>, Vec<Damaged>)>>,
    looked: Option<Instant>,
}

/// A validation and the person who answers.
struct Open {
    validation: Validation,
    rater: String,
    turns: Vec<Turn>,
    /// What is asked now, since when; nothing when all is answered.
    next: Option<Turn>,
    since: Instant,
    /// Answers given, and the median milliseconds of one.
    given: usize,
    median: Option<u64>,
    /// What is chosen for the present item so far.
    chosen: Chosen,
    /// When a choice came too early to count.
    early: Option<Instant>,
    /// There once the rater's answers are final.
    report: Option<ValidationReport>,
    /// Name of the next rater.
    other: String,
}

/// An answer in the making.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Chosen {
    label: Option<Label>,
    relevance: Option<u8>,
    ambiguous: bool,
}

/// Which answer somebody with the behaviour would give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Label {
    /// That on the left.
    Left,
    /// That on the right.
    Right,
    CannotTell,
}

/// What the panel asks for.
pub(super) enum Request {
    /// Draw or open a validation, for a rater.
    Begin {
        /// Its folder.
        path: PathBuf,
        /// What is drawn where there is none.
        wanted: Wanted,
        /// Who answers.
        rater: String,
    },
    /// Keep an item's answer.
    Answer {
        /// What was asked when it was given: an answer to what is no longer asked is none.
        turn: Turn,
        /// The answer's text; nothing for "can't tell".
        label: Option<String>,
        /// 1 to 5.
        relevance: u8,
        /// Whether it can be understood in several ways.
        ambiguous: bool,
    },
    /// Take the last answer back.
    Undo,
    /// Make the answers final, and see the report.
    Report,
    /// Back to all validations.
    Close,
}

/// Time between two looks at the folder of runs.
const BETWEEN_LOOKS: Duration = Duration::from_secs(3);

impl Check {
    /// Shows the panel. `runs` is the folder of all runs.
    pub(super) fn show(&mut self, ui: &mut Ui, theme: &Theme, runs: &Path, least: &mut f64, actions: &mut Vec<Action>) {
        self.look(ui, runs);
        let mut requests = Vec::new();
        let frame = egui::Frame::new().fill(theme.panel).inner_margin(12);
        let side = Side::right("check").default_size(300.0).min_size(240.0).frame(frame);
        match &mut self.open {
            Some(open) => {
                side.show(ui, |ui| match &open.report {
                    Some(report) => findings::aside(ui, theme, report),
                    None => {
                        rate::aside(ui, theme, open, &mut requests);
                        least_seconds(ui, least);
                    }
                });
                egui::CentralPanel::default().show(ui, |ui| match (&open.report, open.next) {
                    (Some(_), _) => findings::show(ui, theme, open, &mut requests),
                    (None, Some(turn)) => rate::show(ui, theme, open, turn, *least, &mut requests),
                    (None, None) => rate::done(ui, theme, open, &mut requests),
                });
            }
            None => {
                side.show(ui, |ui| {
                    unreadable(ui, theme, runs, &self.damaged);
                    begin::earlier(ui, theme, &self.form, &self.found, self.looked.is_some(), &mut requests);
                });
                let busy = self.opening.is_some();
                egui::CentralPanel::default().show(ui, |ui| self.form.show(ui, theme, runs, busy, &mut requests));
            }
        }
        actions.extend(requests.into_iter().map(Action::Check));
    }

    /// Carries a request out. An answer is on the disk when this returns.
    pub(super) fn act(&mut self, ctx: &egui::Context, request: Request) -> Result<(), String> {
        let open = match (request, &mut self.open) {
            (Request::Begin { path, wanted, rater }, open) => {
                rater_name(&rater).map_err(|error| error.to_string())?;
                // Its next rater: this program has the folder already.
                open.take_if(|open| open.validation.path == path);
                // Large sets take longer than a frame.
                self.opening = Some(in_background(ctx, move || begin(&path, &wanted, &rater)));
                return Ok(());
            }
            (Request::Close, open) => {
                *open = None;
                self.looked = None;
                return Ok(());
            }
            (_, None) => return Ok(()),
            // Several keys of one frame may each complete an answer: the next question was not seen yet.
            (Request::Answer { turn, .. }, Some(open)) if open.next != Some(turn) => return Ok(()),
            (Request::Answer { turn, label, relevance, ambiguous }, Some(open)) => {
                let answer = Answer {
                    rater: open.rater.clone(),
                    item: turn.item,
                    repeat: turn.repeat,
                    label,
                    relevance,
                    ambiguous,
                    milliseconds: u64::try_from(open.since.elapsed().as_millis()).unwrap_or(u64::MAX),
                    time: now(),
                };
                // What was chosen stays on the screen where it cannot be kept.
                folder::answer(&mut open.validation, answer).map_err(|error| error.to_string())?;
                open
            }
            (Request::Undo, Some(open)) => {
                folder::undo(&mut open.validation, &open.rater).map_err(|error| error.to_string())?;
                open
            }
            (Request::Report, Some(open)) => {
                folder::finish(&mut open.validation, &open.rater).map_err(|error| error.to_string())?;
                // Read again: others may have answered meanwhile.
                let report = report::write(&open.validation.path, Some(&open.rater));
                open.report = Some(report.map_err(|error| error.to_string())?);
                open.validation.release();
                open
            }
        };
        open.settle();
        Ok(())
    }

    /// Takes in a validation that was drawn or read.
    pub(super) fn news(&mut self) -> Option<Message> {
        let thread = self.opening.take_if(|thread| thread.is_finished())?;
        match thread.join().unwrap_or_else(|_| Err("that ended by a defect".to_owned())) {
            Ok(mut open) => {
                // The clock starts when the first question can be seen.
                open.since = Instant::now();
                let warning = open.validation.warnings.first().cloned();
                self.open = Some(open);
                warning.map(Message::Failed)
            }
            Err(reason) => Some(Message::Failed(reason)),
        }
    }

    /// Looks through the folder of runs, off the window's thread.
    fn look(&mut self, ui: &Ui, runs: &Path) {
        if let Some(found) = self.looking.take_if(|thread| thread.is_finished()).and_then(|thread| thread.join().ok()) {
            (self.found, self.damaged) = found;
            self.looked = Some(Instant::now());
        }
        if self.open.is_some() {
            return;
        }
        if self.looked.is_none_or(|looked| looked.elapsed() >= BETWEEN_LOOKS) && self.looking.is_none() {
            let runs = runs.to_owned();
            self.looking = Some(in_background(ui.ctx(), move || folder::look(&runs)));
        }
        ui.ctx().request_repaint_after(BETWEEN_LOOKS);
    }
}

impl Open {
    /// Sees what is to be asked after the answers so far.
    fn settle(&mut self) {
        let answers = answers_of(&self.validation.events, &self.rater);
        let next = next_turn(&self.turns, &answers);
        (self.given, self.median) = (answers.len(), median_milliseconds(&answers));
        if next != self.next {
            (self.next, self.since, self.chosen) = (next, Instant::now(), Chosen::default());
        }
    }
}

fn begin(path: &Path, wanted: &Wanted, rater: &str) -> Result<Open, String> {
    let rater = rater_name(rater).map_err(|error| error.to_string())?.to_owned();
    let mut validation = folder::begin(path, wanted).map_err(|error| error.to_string())?;
    let report = match is_final(&validation.events, &rater) {
        true => Some(report::write(path, Some(&rater)).map_err(|error| error.to_string())?),
        false => None,
    };
    if report.is_some() {
        validation.release();
    }
    let mut open = Open {
        turns: turns(&validation.items, &validation.config, &rater),
        validation,
        rater,
        next: None,
        since: Instant::now(),
        given: 0,
        median: None,
        chosen: Chosen::default(),
        early: None,
        report,
        other: String::new(),
    };
    open.settle();
    Ok(open)
}
