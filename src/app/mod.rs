//! The desktop app: watch an agent learn, and be the oracle.
//!
//! **Architecture invariant:** nothing here touches a tensor or waits for one. Panels read a snapshot of the engine
//! ([`View`]) and push actions, which are carried out once a frame, after everything is drawn.

mod curves;
mod history;
mod reward;
mod stage;
mod start;
mod teach;
mod theme;
mod watch;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use egui::{Align, Layout, Panel as Side, RichText, Theme as Mode, ThemePreference, Ui};
use serde::{Deserialize, Serialize};

use self::stage::Stage;
use self::theme::Theme;
use crate::drlhp::Report;
use crate::engine::{Command, Engine, Phase, View, free_folder};
use crate::run::config::{Config, Rater};

/// What the app is started with.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    /// A run to open.
    pub run: Option<PathBuf>,
    /// A run to start.
    pub start: Option<(Config, PathBuf)>,
    /// Where new runs are put.
    pub runs: PathBuf,
    /// Light or dark; as last time, or as the system has it, without.
    pub theme: Option<Mode>,
    /// Save a picture of the window to a file after some seconds, and end.
    pub screenshot: Option<(PathBuf, Duration)>,
}

/// The app's state.
pub struct App {
    options: Options,
    settings: Settings,
    panel: Panel,
    session: Option<Session>,
    start: start::Start,
    /// What went wrong last, until it is dismissed.
    error: Option<String>,
    began: Instant,
    photographed: bool,
}

/// What is remembered from one start to the next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Settings {
    theme: ThemePreference,
    /// Share of the old value that smoothed curves keep.
    smoothing: f64,
    /// Questions in a new teaching run.
    labels: usize,
}

/// A run that is open.
struct Session {
    engine: Engine,
    view: View,
    reports: Vec<Report>,
    stage: Stage,
    teach: teach::Teach,
    watch: watch::Watch,
    reward: reward::Reward,
    history: history::History,
    /// Messages of the engine that were shown.
    told: usize,
    /// Whether the run's failure was shown.
    mourned: bool,
}

/// A panel of the rail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Panel {
    Start,
    Watch,
    Teach,
    History,
    Reward,
}

/// What a panel asks for.
enum Action {
    /// Something for the engine.
    Send(Command),
    /// Another panel.
    Show(Panel),
    /// A new run, watched or taught.
    Run(Box<Config>),
    /// An old run.
    Open(PathBuf),
    /// End the present run, with a checkpoint.
    Close,
    /// Tell something.
    Tell(String),
}

/// Frames a second while something moves.
const FRAMES_PER_SECOND: f64 = 60.0;

impl Default for Settings {
    fn default() -> Self {
        Self { theme: ThemePreference::System, smoothing: 0.6, labels: 100 }
    }
}

/// Opens the window and runs the app until it is closed.
///
/// # Errors
/// When no window can be opened, in words for the user.
pub fn run(options: Options) -> Result<(), String> {
    let viewport = egui::ViewportBuilder::default()
        .with_title("Pairwise")
        .with_app_id("pairwise")
        .with_inner_size([1280.0, 800.0])
        .with_min_inner_size([1024.0, 700.0]);
    // A picture for the docs must not depend on where the window was last time.
    let persist_window = options.screenshot.is_none();
    let native = eframe::NativeOptions { viewport, persist_window, ..eframe::NativeOptions::default() };
    eframe::run_native("pairwise", native, Box::new(|context| Ok(Box::new(App::new(context, options)))))
        .map_err(|e| format!("no window can be opened ({e}); `pairwise train` runs without one"))
}

impl App {
    /// The app at its start.
    #[must_use]
    pub fn new(context: &eframe::CreationContext<'_>, options: Options) -> Self {
        let ctx = &context.egui_ctx;
        theme::install(ctx);
        let mut settings: Settings =
            context.storage.and_then(|storage| eframe::get_value(storage, eframe::APP_KEY)).unwrap_or_default();
        if let Some(mode) = options.theme {
            settings.theme = mode.into();
        }
        ctx.set_theme(settings.theme);
        let mut app = Self {
            settings,
            panel: Panel::Start,
            session: None,
            start: start::Start::default(),
            error: None,
            began: Instant::now(),
            photographed: false,
            options,
        };
        if let Some(run) = app.options.run.clone() {
            app.act(ctx, Action::Open(run));
        } else if let Some((config, path)) = app.options.start.clone() {
            app.begin(ctx, config, &path);
        }
        app
    }

    fn begin(&mut self, ctx: &egui::Context, config: Config, path: &Path) {
        let wake = waker(ctx);
        let engine = Engine::start(config, path, wake);
        self.adopt(engine.map_err(|e| e.to_string()));
    }

    fn adopt(&mut self, engine: Result<Engine, String>) {
        let session = engine.and_then(|engine| {
            let stage = Stage::new(&engine.config.env).ok_or("the environment of this run does not exist")?;
            Ok(Session {
                view: engine.view(),
                engine,
                reports: Vec::new(),
                stage,
                teach: teach::Teach::default(),
                watch: watch::Watch::default(),
                reward: reward::Reward::default(),
                history: history::History::default(),
                told: 0,
                mourned: false,
            })
        });
        match session {
            Ok(session) => {
                let person = session.engine.config.preferences.rater == Rater::Person;
                self.panel = if person { Panel::Teach } else { Panel::Watch };
                // The old run, if any, ends with a checkpoint.
                self.session = Some(session);
            }
            Err(reason) => self.error = Some(reason),
        }
    }

    fn act(&mut self, ctx: &egui::Context, action: Action) {
        match action {
            Action::Send(command) => {
                if let Some(session) = &mut self.session
                    && let Err(refused) = session.engine.send(command)
                {
                    session.teach.refused();
                    self.error = Some(refused.to_string());
                }
            }
            Action::Show(panel) => self.panel = panel,
            Action::Run(config) => {
                let path = free_folder(&self.options.runs, &format!("{}-s{}", config.env, config.seed));
                self.begin(ctx, *config, &path);
            }
            Action::Open(path) => self.adopt(Engine::open(&path, waker(ctx)).map_err(|e| e.to_string())),
            Action::Close => {
                self.session = None;
                self.panel = Panel::Start;
            }
            Action::Tell(message) => self.error = Some(message),
        }
    }

    fn rail(&mut self, ui: &mut Ui, theme: &Theme, actions: &mut Vec<Action>) {
        let frame = egui::Frame::new().fill(theme.panel).inner_margin(8);
        Side::left("rail").resizable(false).exact_size(92.0).frame(frame).show(ui, |ui| {
            ui.add_space(4.0);
            ui.label(RichText::new("Pairwise").strong());
            ui.add_space(12.0);
            let open = self.session.is_some();
            let person = self.session.as_ref().is_some_and(|s| s.engine.config.preferences.rater == Rater::Person);
            let panels = [
                (Panel::Start, "Start", true, "Begin something new, or open a run"),
                (Panel::Watch, "Watch", open, "The agent, and how it is learning"),
                (Panel::Teach, "Teach", person, "Say which of two clips is better"),
                (Panel::History, "History", open, "All answers: see, change or take back"),
                (Panel::Reward, "Reward", open, "What the learned reward looks like"),
            ];
            for (panel, name, enabled, hint) in panels {
                let button = egui::Button::selectable(self.panel == panel, name).min_size(egui::vec2(76.0, 32.0));
                let response = ui.add_enabled(enabled, button).on_hover_text(hint);
                let missing = if open { "A simulated teacher answers in this run" } else { "Open a run first" };
                if response.on_disabled_hover_text(missing).clicked() {
                    actions.push(Action::Show(panel));
                }
            }
            ui.with_layout(Layout::bottom_up(Align::Min), |ui| {
                let dark = ui.visuals().dark_mode;
                let name = if dark { "Light" } else { "Dark" };
                if ui.button(name).on_hover_text("Change between light and dark colours").clicked() {
                    self.settings.theme = if dark { ThemePreference::Light } else { ThemePreference::Dark };
                    ui.ctx().set_theme(self.settings.theme);
                }
            });
        });
    }

    fn footer(&mut self, ui: &mut Ui, theme: &Theme) {
        let Some(error) = self.error.clone() else { return };
        let frame = egui::Frame::new().fill(theme.card).inner_margin(8);
        Side::bottom("message").resizable(false).frame(frame).show(ui, |ui| {
            ui.horizontal_wrapped(|ui| {
                ui.colored_label(theme.error, error);
                if ui.button("Dismiss").on_hover_text("Hide this message").clicked() {
                    self.error = None;
                }
            });
        });
    }

    /// Saves a picture of the window once it is time, and ends.
    fn photograph(&mut self, ctx: &egui::Context) {
        let Some((path, after)) = self.options.screenshot.clone() else { return };
        ctx.request_repaint_after(Duration::from_millis(50));
        if self.photographed || self.began.elapsed() < after {
            return;
        }
        self.photographed = true;
        let window = ctx.clone();
        ctx.request_screenshot(move |image| {
            save_picture(&path, &image).unwrap_or_else(|reason| eprintln!("error: {reason}"));
            window.send_viewport_cmd(egui::ViewportCommand::Close);
        });
    }
}

impl eframe::App for App {
    fn logic(&mut self, _: &egui::Context, _: &mut eframe::Frame) {
        if let Some(session) = &mut self.session {
            session.view = session.engine.view();
            let new = session.engine.reports(session.reports.len());
            session.reports.extend(new);
            if session.view.told > session.told {
                session.told = session.view.told;
                self.error = session.view.messages.last().cloned();
            }
            if let Phase::Failed(reason) = &session.view.phase
                && !std::mem::replace(&mut session.mourned, true)
            {
                self.error = Some(format!("The run ended: {reason}. Its last checkpoint and every label are kept"));
            }
        }
    }

    fn ui(&mut self, ui: &mut Ui, _: &mut eframe::Frame) {
        let theme = Theme::of(ui.ctx().theme());
        let mut actions = Vec::new();
        self.rail(ui, &theme, &mut actions);
        self.footer(ui, &theme);
        match (self.panel, &mut self.session) {
            (Panel::Watch, Some(session)) => {
                watch::show(ui, &theme, session, &mut self.settings.smoothing, &mut actions);
            }
            (Panel::Teach, Some(session)) => teach::show(ui, &theme, session, &mut actions),
            (Panel::History, Some(session)) => history::show(ui, &theme, session, &mut actions),
            (Panel::Reward, Some(session)) => reward::show(ui, &theme, session, &mut actions),
            _ => self.start.show(ui, &theme, &mut self.settings.labels, &self.options.runs, &mut actions),
        }
        let ctx = ui.ctx().clone();
        actions.into_iter().for_each(|action| self.act(&ctx, action));
        self.photograph(&ctx);
    }

    fn save(&mut self, storage: &mut dyn eframe::Storage) {
        eframe::set_value(storage, eframe::APP_KEY, &self.settings);
    }

    fn on_exit(&mut self, _: Option<&eframe::glow::Context>) {
        // Ends the run with a checkpoint.
        self.session = None;
    }
}

/// Calls for a new frame, at most thirty times a second.
fn waker(ctx: &egui::Context) -> impl Fn() + Send + Sync + 'static {
    let ctx = ctx.clone();
    move || ctx.request_repaint_after(Duration::from_millis(33))
}

/// Keeps moving pictures moving.
fn animate(ui: &Ui) {
    ui.ctx().request_repaint_after(Duration::from_secs_f64(1.0 / FRAMES_PER_SECOND));
}

fn save_picture(path: &Path, image: &egui::ColorImage) -> Result<(), String> {
    let size = |side: usize| u32::try_from(side).map_err(|_| "the window is too large for a picture".to_owned());
    let rgba = image.pixels.iter().flat_map(|pixel| pixel.to_array()).collect();
    let frame = pairwise_envs::Frame { width: size(image.size[0])?, height: size(image.size[1])?, rgba };
    let bytes = pairwise_envs::png(&frame).map_err(|e| e.to_string())?;
    crate::run::archive::write_atomically(path, &bytes)
        .map_err(|e| format!("{}: cannot save the picture: {e}", path.display()))
}
