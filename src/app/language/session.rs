//! A teaching session that is open, and what a user asks of the panel.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::app::compare::Compare;
use crate::engine::language::{Begin, LanguageCommand, LanguageEngine, LanguagePhase, LanguageView};

pub(super) struct OpenSession {
    pub engine: LanguageEngine,
    /// The newest snapshot.
    pub view: LanguageView,
    pub compare: Compare,
    /// What the model at the start and the model now are to complete.
    pub text: String,
    /// Number of its draw.
    pub draw: u64,
    /// What was asked to be completed last.
    pub asked: Option<(String, u64)>,
    /// Step of the making of a model when it was seen first, and when that was: for the time that is left.
    pub making: Option<(usize, Instant)>,
    /// Messages of the engine that were told.
    told: usize,
}

/// What a user asks of the panel.
pub(super) enum LanguageRequest {
    /// A session, in this folder.
    Begin(Begin, PathBuf),
    /// Something of its engine.
    Send(LanguageCommand),
    /// The end of the session; everything is saved.
    Close,
}

impl OpenSession {
    pub(super) fn new(engine: LanguageEngine) -> Self {
        let (view, text) = (engine.view(), String::new());
        Self { engine, view, compare: Compare::default(), text, draw: 0, asked: None, making: None, told: 0 }
    }

    /// Takes in what the engine has done since the last frame. What went wrong, if anything did.
    pub(super) fn news(&mut self) -> Option<String> {
        self.view = self.engine.view();
        self.compare.settle(&self.view.answers, self.view.messages.count);
        if let LanguagePhase::Making(progress) = &self.view.phase
            && progress.step > 0
        {
            self.making.get_or_insert((progress.step, Instant::now()));
        }
        self.view.messages.news(&mut self.told)
    }

    /// Asks for the text to be completed.
    pub(super) fn complete(&mut self, requests: &mut Vec<LanguageRequest>) {
        if self.text.is_empty() {
            return;
        }
        let (text, draw) = (self.text.clone(), self.draw);
        self.asked = Some((text.clone(), draw));
        requests.push(LanguageRequest::Send(LanguageCommand::Compare { text, draw }));
    }
}

/// What a session is doing.
pub(super) fn phase(phase: &LanguagePhase) -> String {
    match phase {
        LanguagePhase::Opening => "reading the model".to_owned(),
        LanguagePhase::Making(_) => "making a model".to_owned(),
        LanguagePhase::CatchingUp(_, 0) => "measuring the start, writing completions".to_owned(),
        LanguagePhase::CatchingUp(update, of) => format!("repeating the ledger: update {update} of {of}"),
        LanguagePhase::Writing => "writing new completions".to_owned(),
        LanguagePhase::Learning(step, of) => format!("learning: step {} of {of}", step + 1),
        LanguagePhase::Measuring => "measuring".to_owned(),
        LanguagePhase::Waiting => "waiting for your answers".to_owned(),
        LanguagePhase::Paused => "paused".to_owned(),
        LanguagePhase::Stopped => "closed and saved".to_owned(),
        LanguagePhase::Failed(_) => "ended by an error".to_owned(),
    }
}

/// A folder's own name, or that of its run where it is the run's `model`.
pub(super) fn short(path: &Path) -> String {
    let own = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = own(path).filter(|name| name != "model").or_else(|| path.parent().and_then(own));
    name.unwrap_or_else(|| path.display().to_string())
}
