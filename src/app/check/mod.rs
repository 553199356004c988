//! Check a set of questions by hand: is the label right, is the question about the behaviour, is it clear?
//!
//! Blind: this panel reads a sample that has no labels. The report, which has, is made when a rater has answered
//! everything and asks for it; from then on the rater's answers are final.

mod begin;
mod findings;
mod open;
mod rate;

use std::thread::JoinHandle;
use std::time::Instant;

use egui::Ui;

use self::begin::CheckForm;
use self::open::{CheckRequest, OpenCheck, begin};
use super::background::{Repeated, in_background};
use super::compare::least_seconds;
use super::panel::{Action, Context, Entry, Panel, always};
use super::widgets::{aside, unreadable};
use crate::disk::Damaged;
use crate::evals::validate::folder::{self, FoundValidation, now};
use crate::evals::validate::report;
use crate::evals::validate::{Answer, rater_name};

pub(super) const PANEL: Entry = Entry {
    name: "check",
    hint: "Say whether the labels of a set of questions are right",
    missing: always,
    make: || Box::new(Check::default()),
};

/// What the panel remembers.
#[derive(Default)]
struct Check {
    form: CheckForm,
    open: Option<OpenCheck>,
    /// A validation that is drawn or read.
    opening: Option<JoinHandle<Result<OpenCheck, String>>>,
    found: Vec<FoundValidation>,
    /// Folders that cannot be read.
    damaged: Vec<Damaged>,
    reading: Repeated<(Vec<FoundValidation>, Vec<Damaged>)>,
}

impl Panel for Check {
    fn show(&mut self, ui: &mut Ui, context: &mut Context<'_>) {
        let Context { theme, settings, runs, actions, .. } = context;
        let least = &mut settings.least_seconds;
        let mut requests = Vec::new();
        match &mut self.open {
            Some(open) => {
                aside(ui, theme, "check", [300.0, 240.0], |ui| match &open.report {
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
                let found = self.reading.news(ui.ctx(), || {
                    let runs = runs.to_owned();
                    move || folder::look(&runs)
                });
                if let Some(found) = found {
                    (self.found, self.damaged) = found;
                }
                aside(ui, theme, "check", [300.0, 240.0], |ui| {
                    unreadable(ui, theme, runs, &self.damaged);
                    begin::earlier(ui, theme, &self.form, &self.found, self.reading.looked(), &mut requests);
                });
                let busy = self.opening.is_some();
                egui::CentralPanel::default().show(ui, |ui| self.form.show(ui, theme, runs, busy, &mut requests));
            }
        }
        for request in requests {
            actions.extend(self.act(ui.ctx(), request).err().map(Action::Tell));
        }
    }

    fn news(&mut self) -> Option<String> {
        let thread = self.opening.take_if(|thread| thread.is_finished())?;
        match thread
            .join()
            .unwrap_or_else(|_| Err("this ended in a crash, which is a defect of the program".to_owned()))
        {
            Ok(mut open) => {
                // The clock starts when the first question can be seen.
                open.since = Instant::now();
                let warning = open.validation.warnings.first().cloned();
                self.open = Some(open);
                warning
            }
            Err(reason) => Some(reason),
        }
    }
}

impl Check {
    /// Does what the user asks. An answer is on the disk when this returns.
    fn act(&mut self, ctx: &egui::Context, request: CheckRequest) -> Result<(), String> {
        let open = match (request, &mut self.open) {
            (CheckRequest::Begin { path, wanted, rater }, open) => {
                rater_name(&rater).map_err(|error| error.to_string())?;
                // Its next rater: this program has the folder already.
                open.take_if(|open| open.validation.path == path);
                // Large sets take longer than a frame.
                self.opening = Some(in_background(ctx, move || begin(&path, &wanted, &rater)));
                return Ok(());
            }
            (CheckRequest::Close, open) => {
                *open = None;
                self.reading.changed();
                return Ok(());
            }
            (_, None) => return Ok(()),
            // Several keys of one frame may each complete an answer: the next question was not seen yet.
            (CheckRequest::Answer { turn, .. }, Some(open)) if open.next != Some(turn) => return Ok(()),
            (CheckRequest::Answer { turn, label, relevance, ambiguous }, Some(open)) => {
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
            (CheckRequest::Undo, Some(open)) => {
                folder::undo(&mut open.validation, &open.rater).map_err(|error| error.to_string())?;
                open
            }
            (CheckRequest::Report, Some(open)) => {
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
}
