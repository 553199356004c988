//! Teach a language model: two completions of a prompt, which is better? See the model change, and the frontier.

mod choose;
mod compare;
mod measures;

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use egui::{Panel as Side, RichText, Ui};

use self::choose::Choose;
use self::compare::Compare;
use super::theme::Theme;
use super::{Action, Message, in_background, waker};
use crate::engine::language::{Begin, Command, LanguageEngine, Phase, View};
use crate::engine::shelf::{Shelf, look};

/// What the panel remembers.
#[derive(Default)]
pub(super) struct Language {
    session: Option<Session>,
    tab: Tab,
    choose: Choose,
    shelf: Shelf,
    reading: Option<JoinHandle<Shelf>>,
    read: Option<Instant>,
    /// Which of the frontiers is shown.
    frontier: usize,
    /// Sessions that are being ended and saved.
    closing: Vec<(PathBuf, JoinHandle<()>)>,
}

/// A session that is open.
struct Session {
    engine: LanguageEngine,
    view: View,
    compare: Compare,
    /// Messages of the engine that were shown.
    told: usize,
    /// Whether its failure was shown.
    mourned: bool,
    /// Step of the making of a model when it was seen first, and when that was: for the time that is left.
    making: Option<(usize, Instant)>,
}

/// What is shown in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Tab {
    #[default]
    Teach,
    Frontier,
}

/// What the panel asks for.
pub(super) enum Request {
    /// A session, in this folder.
    Begin(Begin, PathBuf),
    /// Something for the engine.
    Send(Command),
    /// End the session; everything is saved.
    Close,
}

/// Time between two looks at the folder of runs while nothing is being taught.
const BETWEEN_READS: Duration = Duration::from_secs(3);

impl Language {
    /// Shows the panel. `runs` is the folder of all runs.
    pub(super) fn show(&mut self, ui: &mut Ui, theme: &Theme, runs: &Path, least: &mut f64, actions: &mut Vec<Action>) {
        self.refresh(ui, runs);
        let mut requests = Vec::new();
        if let Some(session) = &mut self.session {
            session.settle();
            let frame = egui::Frame::new().fill(theme.panel).inner_margin(12);
            Side::right("measures").default_size(270.0).min_size(240.0).frame(frame).show(ui, |ui| {
                measures::aside(ui, theme, session, least, &mut requests);
            });
        } else if self.tab == Tab::Teach {
            let frame = egui::Frame::new().fill(theme.panel).inner_margin(12);
            Side::right("sessions").default_size(300.0).min_size(240.0).frame(frame).show(ui, |ui| {
                choose::sessions(ui, theme, &self.shelf, runs, self.read.is_some(), &mut requests);
            });
        }
        egui::CentralPanel::default().show(ui, |ui| {
            self.tabs(ui);
            ui.add_space(6.0);
            match (self.tab, &mut self.session) {
                (Tab::Frontier, session) => {
                    measures::frontier(ui, theme, &self.shelf, &mut self.frontier, session.as_ref());
                }
                (Tab::Teach, Some(session)) => compare::show(ui, theme, session, *least, &mut requests),
                (Tab::Teach, None) => self.choose.show(ui, theme, &self.shelf, runs, &mut requests),
            }
        });
        actions.extend(requests.into_iter().map(Action::Language));
    }

    fn tabs(&mut self, ui: &mut Ui) {
        ui.horizontal(|ui| {
            let tabs = [
                (Tab::Teach, "Compare completions", "Say which of two completions is better, and see the model change"),
                (Tab::Frontier, "Frontier", "Gold reward against divergence, of every method that was measured"),
            ];
            for (tab, name, hint) in tabs {
                let button = egui::Button::selectable(self.tab == tab, name).frame_when_inactive(true);
                if ui.add(button).on_hover_text(hint).clicked() {
                    self.tab = tab;
                }
            }
            if let Some(session) = &self.session {
                ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
                    let path = session.engine.path.display().to_string();
                    let name = session.engine.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    ui.label(RichText::new(name).strong()).on_hover_text(format!("Everything is kept in {path}"));
                });
            }
        });
    }

    /// Carries a request out.
    pub(super) fn act(&mut self, ctx: &egui::Context, request: Request) -> Result<(), String> {
        match request {
            Request::Begin(begin, path) => {
                self.leave();
                // A session that is still being saved has to be, before it can go on.
                for (closing, thread) in std::mem::take(&mut self.closing) {
                    if closing == path {
                        thread.join().ok();
                    } else {
                        self.closing.push((closing, thread));
                    }
                }
                let engine = LanguageEngine::start(begin, &path, waker(ctx));
                self.session = Some(Session::new(engine));
                self.tab = Tab::Teach;
            }
            Request::Send(command) => {
                if let Some(session) = &mut self.session
                    && let Err(refused) = session.engine.send(command)
                {
                    session.compare.refused();
                    return Err(refused.to_string());
                }
            }
            Request::Close => self.leave(),
        }
        Ok(())
    }

    /// Takes in what the engine has to tell.
    pub(super) fn news(&mut self) -> Option<Message> {
        let session = self.session.as_mut()?;
        session.view = session.engine.view();
        if let Phase::Failed(reason) = &session.view.phase
            && !std::mem::replace(&mut session.mourned, true)
        {
            return Some(Message::Failed(format!("The session ended: {reason}. Every answer is kept")));
        }
        if session.view.told > session.told {
            session.told = session.view.told;
            return session.view.messages.last().cloned().map(Message::Failed);
        }
        None
    }

    /// Ends the session, if any. Saving takes time, for which the window does not wait.
    fn leave(&mut self) {
        self.closing.retain(|(_, thread)| !thread.is_finished());
        if let Some(Session { engine, .. }) = self.session.take() {
            let path = engine.path.clone();
            self.closing.push((path, std::thread::spawn(move || engine.close())));
        }
        self.read = None;
    }

    /// Ends the session, and waits for all that are being saved.
    pub(super) fn end(&mut self) {
        self.leave();
        for (_, thread) in self.closing.drain(..) {
            thread.join().ok();
        }
    }

    /// Looks through the folder of runs, off the window's thread.
    fn refresh(&mut self, ui: &Ui, runs: &Path) {
        if let Some(found) = self.reading.take_if(|thread| thread.is_finished()).and_then(|thread| thread.join().ok()) {
            self.shelf = found;
            self.read = Some(Instant::now());
        }
        let wanted = self.session.is_none() || self.tab == Tab::Frontier;
        let due = self.read.is_none_or(|read| read.elapsed() >= BETWEEN_READS);
        if wanted && due && self.reading.is_none() {
            let (runs, known) = (runs.to_owned(), self.shelf.clone());
            self.reading = Some(in_background(ui.ctx(), move || look(&runs, &known)));
        }
        if wanted {
            ui.ctx().request_repaint_after(BETWEEN_READS);
        }
    }
}

impl Session {
    fn new(engine: LanguageEngine) -> Self {
        let view = engine.view();
        Self { engine, view, compare: Compare::default(), told: 0, mourned: false, making: None }
    }

    /// Takes in what the engine has done since the last frame.
    fn settle(&mut self) {
        self.compare.settle(&self.view);
        if let Phase::Making(progress) = &self.view.phase
            && progress.step > 0
        {
            self.making.get_or_insert((progress.step, Instant::now()));
        }
    }
}

/// What a session is doing, in words.
fn phase(phase: &Phase) -> String {
    match phase {
        Phase::Opening => "reading the model".to_owned(),
        Phase::Making(_) => "making a model".to_owned(),
        Phase::CatchingUp(_, 0) => "measuring the start, writing completions".to_owned(),
        Phase::CatchingUp(update, of) => format!("repeating the ledger: update {update} of {of}"),
        Phase::Writing => "writing new completions".to_owned(),
        Phase::Learning(step, of) => format!("learning: step {} of {of}", step + 1),
        Phase::Measuring => "measuring".to_owned(),
        Phase::Waiting => "waiting for your answers".to_owned(),
        Phase::Paused => "paused".to_owned(),
        Phase::Stopped => "closed and saved".to_owned(),
        Phase::Failed(_) => "ended by an error".to_owned(),
    }
}

/// A folder's own name, or that of its run where it is the run's `model`.
fn short(path: &Path) -> String {
    let own = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = own(path).filter(|name| name != "model").or_else(|| path.parent().and_then(own));
    name.unwrap_or_else(|| path.display().to_string())
}

/// Rows of a table of names and values.
fn table(ui: &mut Ui, theme: &Theme, id: &str, rows: &[(&str, String, &str)]) {
    egui::Grid::new(id).num_columns(2).spacing([14.0, 4.0]).min_row_height(20.0).show(ui, |ui| {
        for (name, value, hint) in rows {
            ui.label(RichText::new(*name).color(theme.weak_text)).on_hover_text(*hint);
            ui.label(RichText::new(value).strong()).on_hover_text(*hint);
            ui.end_row();
        }
    });
}
