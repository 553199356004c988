//! What a panel of the window is, and what it draws from.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use egui::{ThemePreference, Ui};
use serde::{Deserialize, Serialize};

use super::canvas::{Canvas, Player};
use super::compare::LEAST_SECONDS;
use super::curves::Comparison;
use super::narrate::Narration;
use super::theme::Theme;
use super::widgets::animate;
use crate::control::config::Config;
use crate::engine::run::{RunCommand, RunEngine};
use crate::engine::snapshot::{Episode, RunView};
use crate::preference::Label;

/// A panel: its state, and how it is drawn.
pub(super) trait Panel {
    /// Draws the panel, and then does what the user asks of it.
    fn show(&mut self, ui: &mut Ui, context: &mut Context<'_>);

    /// Takes in what has happened since the last frame; called whether the panel is shown or not. What went wrong, if
    /// anything did.
    fn news(&mut self) -> Option<String> {
        None
    }

    /// Forgets the run that was open: another one is, or none.
    fn run_changed(&mut self) {}

    /// Opens a folder, if it is of the kind that this panel opens. Whether it did.
    fn open(&mut self, _: &egui::Context, _: &Path) -> bool {
        false
    }

    /// Ends what goes on, and waits for that. Returns what a narration says of it.
    fn end(&mut self) -> Option<Narration> {
        None
    }
}

/// A line of the table of panels.
pub(super) struct Entry {
    /// Its name in small letters, as `--panel` takes it; the rail begins it with a capital.
    pub name: &'static str,
    /// What it is for.
    pub hint: &'static str,
    /// Why it cannot be shown with this run, or with none; `None` where it can.
    pub missing: fn(Option<&OpenRun>) -> Option<&'static str>,
    /// Makes it.
    pub make: fn() -> Box<dyn Panel>,
}

/// What a panel draws from.
pub(super) struct Context<'a> {
    pub theme: &'static Theme,
    /// What is remembered from one start to the next.
    pub settings: &'a mut Settings,
    /// Folder of all runs.
    pub runs: &'a Path,
    /// The run that is open.
    pub run: Option<&'a mut OpenRun>,
    /// What the window is to do after everything is drawn.
    pub actions: Vec<Action>,
}

/// What a panel asks of the window.
pub(super) enum Action {
    /// Show another panel, by its name.
    Show(&'static str),
    /// Begin a new run, watched or taught.
    Run(Box<Config>),
    /// Open the folder of a run, or of whatever a panel opens.
    Open(PathBuf),
    /// End the present run, with a checkpoint.
    Close,
    /// Begin a new run that goes as the present one up to an answer, with that answer changed, and show the old one beside
    /// it.
    Branch {
        /// The query.
        query: u64,
        /// The answer in the new run.
        label: Label,
    },
    /// Show curves beside those of the run that is open.
    Beside(Arc<Comparison>),
    /// Do something that takes longer than a frame, and tell what was done or why not.
    Work(Box<dyn FnOnce() -> Result<String, String> + Send>),
    /// Tell that something went wrong.
    Tell(String),
    /// Say something on stdout, where that is asked for.
    Narrate(Narration),
}

/// What is remembered from one start to the next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Settings {
    pub theme: ThemePreference,
    /// Share of the old value that smoothed curves keep.
    pub smoothing: f64,
    /// Disagreement and losses on a logarithmic scale.
    pub log: bool,
    /// Questions in a new teaching run.
    pub labels: usize,
    /// Seconds from a question's appearance in which no answer counts.
    pub least_seconds: f64,
}

pub(super) struct OpenRun {
    pub engine: RunEngine,
    /// The newest snapshot.
    pub view: RunView,
    /// Other runs' curves, shown beside this one's.
    pub beside: Arc<Comparison>,
    /// Where its clips are drawn.
    pub canvas: Canvas,
    /// Messages of the engine that were told.
    told: usize,
}

/// Plays episodes of the newest policy, one after the other.
#[derive(Default)]
pub(super) struct EpisodePlayer {
    player: Player,
    /// Number of the episode that plays.
    number: Option<u64>,
}

/// For panels that need no run.
pub(super) fn always(_: Option<&OpenRun>) -> Option<&'static str> {
    None
}

/// For panels of the run that is open.
pub(super) fn needs_a_run(run: Option<&OpenRun>) -> Option<&'static str> {
    run.is_none().then_some("Open a run first")
}

impl Default for Settings {
    fn default() -> Self {
        let (theme, least_seconds) = (ThemePreference::System, LEAST_SECONDS);
        Self { theme, smoothing: 0.6, log: false, labels: 100, least_seconds }
    }
}

impl OpenRun {
    /// Of an engine.
    ///
    /// # Errors
    /// When its environment is not there, in words for the user.
    pub(super) fn new(engine: RunEngine) -> Result<Self, String> {
        let view = engine.view();
        let canvas = Canvas::new(&view.config.env).ok_or("the environment of this run does not exist")?;
        Ok(Self { engine, view, beside: Arc::default(), canvas, told: 0 })
    }

    /// Takes in what the engine has done since the last frame. What went wrong, if anything did.
    pub(super) fn news(&mut self) -> Option<String> {
        self.view = self.engine.view();
        self.view.messages.news(&mut self.told)
    }

    /// Sends a command. Whether it was taken; if not, the user is told.
    pub(super) fn send(&self, command: RunCommand, actions: &mut Vec<Action>) -> bool {
        let sent = self.engine.send(command);
        actions.extend(sent.err().map(|refused| Action::Tell(refused.to_string())));
        sent.is_ok()
    }
}

impl EpisodePlayer {
    /// The episode that plays, and its frame to show now; `None` before the first one has come.
    pub(super) fn next(&mut self, ui: &Ui, run: &OpenRun, actions: &mut Vec<Action>) -> Option<(Arc<Episode>, usize)> {
        let playing = run.view.episode.clone().map(|episode| {
            if self.number.replace(episode.number) != Some(episode.number) {
                self.player = Player::default();
            }
            let frames = run.canvas.frames(&episode.clip.states);
            let before = self.player.frame(frames);
            self.player.advance(f64::from(ui.input(|input| input.stable_dt)), run.canvas.spec().dt, frames);
            let frame = self.player.frame(frames);
            (episode, frame, frame < before)
        });
        // At its end the newest policy plays, from another initial state.
        if run.view.shows() && playing.as_ref().is_none_or(|(.., over)| *over) {
            run.send(RunCommand::Episode, actions);
        }
        animate(ui);
        playing.map(|(episode, frame, _)| (episode, frame))
    }
}
