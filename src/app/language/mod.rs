//! Teach a language model: two completions of a prompt, which is better? See the model change, and the frontier.

mod choose;
mod completions;
mod measures;
mod session;

use std::path::Path;

use egui::{RichText, Ui};

use self::choose::Choose;
use self::session::{LanguageRequest, OpenSession};
use super::background::{Closing, Repeated, waker};
use super::narrate::Narration;
use super::panel::{Action, Context, Entry, Panel, always};
use super::widgets::{aside, toggle};
use crate::engine::language::{Begin, LanguageEngine};
use crate::engine::shelf::{Shelf, look};
use crate::lm::teach::folder::is_session;

pub(super) const PANEL: Entry = Entry {
    name: "language",
    hint: "Say which of two completions of a language model is better",
    missing: always,
    make: || Box::new(Language::default()),
};

/// What the panel remembers.
#[derive(Default)]
struct Language {
    session: Option<OpenSession>,
    tab: Tab,
    choose: Choose,
    shelf: Shelf,
    reading: Repeated<Shelf>,
    /// Which of the frontiers is shown.
    frontier: usize,
    /// Sessions that are being ended and saved.
    closing: Closing,
}

/// What is shown in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Tab {
    #[default]
    Teach,
    Frontier,
}

impl Panel for Language {
    fn show(&mut self, ui: &mut Ui, context: &mut Context<'_>) {
        let Context { theme, settings, runs, actions, .. } = context;
        if self.session.is_none() || self.tab == Tab::Frontier {
            let prepare = || {
                let (runs, known) = (runs.to_owned(), self.shelf.clone());
                move || look(&runs, &known)
            };
            if let Some(found) = self.reading.news(ui.ctx(), prepare) {
                self.shelf = found;
            }
        }
        let mut requests = Vec::new();
        if let Some(session) = &mut self.session {
            aside(ui, theme, "measures", [270.0, 240.0], |ui| {
                measures::aside(ui, theme, session, &mut settings.least_seconds, &mut requests);
            });
        } else if self.tab == Tab::Teach {
            aside(ui, theme, "sessions", [300.0, 240.0], |ui| {
                choose::sessions(ui, theme, &self.shelf, runs, self.reading.looked(), &mut requests);
            });
        }
        egui::CentralPanel::default().show(ui, |ui| {
            self.tabs(ui);
            ui.add_space(6.0);
            match (self.tab, &mut self.session) {
                (Tab::Frontier, session) => {
                    measures::frontier(ui, theme, &self.shelf, &mut self.frontier, session.as_ref());
                }
                (Tab::Teach, Some(session)) => {
                    completions::show(ui, theme, session, settings.least_seconds, &mut requests);
                }
                (Tab::Teach, None) => self.choose.show(ui, theme, &self.shelf, runs, &mut requests),
            }
        });
        for request in requests {
            actions.extend(self.act(ui.ctx(), request).err().map(Action::Tell));
        }
    }

    fn news(&mut self) -> Option<String> {
        self.session.as_mut()?.news()
    }

    fn open(&mut self, ctx: &egui::Context, path: &Path) -> bool {
        let session = is_session(path);
        if session {
            self.begin(ctx, Begin::Open, path);
        }
        session
    }

    fn end(&mut self) -> Option<Narration> {
        self.leave();
        self.closing.wait(None);
        None
    }
}

impl Language {
    fn tabs(&mut self, ui: &mut Ui) {
        ui.horizontal(|ui| {
            let tabs = [
                (Tab::Teach, "Compare completions", "Say which of two completions is better, and see the model change"),
                (Tab::Frontier, "Frontier", "Gold reward against divergence, of every method that was measured"),
            ];
            for (tab, name, hint) in tabs {
                if toggle(ui, self.tab == tab, name, hint) {
                    self.tab = tab;
                }
            }
            if let Some(session) = &self.session {
                ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
                    let path = &session.view.folder;
                    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    let hint = format!("Everything is kept in {}", path.display());
                    ui.label(RichText::new(name).strong()).on_hover_text(hint);
                });
            }
        });
    }

    /// Does what the user asks.
    fn act(&mut self, ctx: &egui::Context, request: LanguageRequest) -> Result<(), String> {
        match request {
            LanguageRequest::Begin(begin, path) => self.begin(ctx, begin, &path),
            LanguageRequest::Send(command) => {
                if let Some(session) = &mut self.session
                    && let Err(refused) = session.engine.send(command)
                {
                    session.compare.refused();
                    return Err(refused.to_string());
                }
            }
            LanguageRequest::Close => self.leave(),
        }
        Ok(())
    }

    fn begin(&mut self, ctx: &egui::Context, begin: Begin, path: &Path) {
        self.leave();
        self.closing.wait(Some(path));
        self.session = Some(OpenSession::new(LanguageEngine::start(begin, path, waker(ctx))));
        self.tab = Tab::Teach;
    }

    /// Ends the session, if any. Saving takes time, for which the window does not wait.
    fn leave(&mut self) {
        if let Some(OpenSession { engine, view, .. }) = self.session.take() {
            self.closing.close(view.folder, engine);
        }
        self.reading.changed();
    }
}
