//! The desktop app: watch an agent learn, and be the oracle.
//!
//! **Architecture invariant:** nothing here touches a tensor or waits for one. Panels read a snapshot of the engine
//! ([`View`]) and push actions, which are carried out once a frame, after everything is drawn.

mod check;
mod curves;
mod history;
mod language;
mod mix;
mod reward;
mod runs;
mod stage;
mod start;
mod teach;
mod theme;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use egui::{Align, Layout, Panel as Side, RichText, Theme as Mode, ThemePreference, Ui};
use serde::{Deserialize, Serialize};

use self::stage::Stage;
use self::theme::Theme;
use crate::control::config::{Config, Rater};
use crate::control::run::export::{self, Export};
use crate::control::run::past::{self, PastRun};
use crate::disk::Damaged;
use crate::disk::figure::Series;
use crate::engine::language::Begin;
use crate::engine::{Command, Engine, Past, Phase, View, free_folder};
use crate::lm::teach::folder::is_session;
use crate::preference::Label;

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
    /// The panel to show first, where it can be shown.
    pub panel: Option<Panel>,
    /// Seconds from a question's appearance in which no answer counts; as last time without.
    pub least_seconds: Option<f64>,
    /// Size of the window in points; as last time without.
    pub size: Option<[f32; 2]>,
    /// Save a picture of the window to a file after some seconds, and end.
    pub screenshot: Option<(PathBuf, Duration)>,
    /// Say on stdout what is shown, one JSON object a line: for tests that press keys, and for measurements.
    pub narrate: bool,
}

/// The app's state.
pub struct App {
    options: Options,
    settings: Settings,
    panel: Panel,
    session: Option<Session>,
    start: start::Start,
    runs: runs::Runs,
    language: language::Language,
    check: check::Check,
    mix: mix::Mix,
    /// What went wrong last or was done, until it is dismissed.
    message: Option<Message>,
    /// What takes longer than a frame.
    jobs: Vec<JoinHandle<Message>>,
    /// Runs that are being ended, with their checkpoints.
    closing: Vec<(PathBuf, JoinHandle<()>)>,
    began: Instant,
    photographed: bool,
    /// Why the picture could not be saved.
    failure: Arc<Mutex<Option<String>>>,
    /// Set to close the window.
    stop: Arc<AtomicBool>,
    /// Kept where it is asked for.
    timing: Timing,
}

/// Something to tell.
#[derive(Debug, Clone, PartialEq)]
enum Message {
    /// It is done.
    Done(String),
    /// It went wrong.
    Failed(String),
}

/// What is remembered from one start to the next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Settings {
    theme: ThemePreference,
    /// Share of the old value that smoothed curves keep.
    smoothing: f64,
    /// Disagreement and losses on a logarithmic scale.
    log: bool,
    /// Questions in a new teaching run.
    labels: usize,
    /// Seconds from a question's appearance in which no answer counts.
    least_seconds: f64,
}

/// A run that is open.
struct Session {
    engine: Engine,
    view: View,
    past: Past,
    /// Other runs' curves, shown beside this one's.
    beside: Arc<runs::Comparison>,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Panel {
    /// What this is, and ways to begin.
    Start,
    /// The agent, and how it is learning.
    Watch,
    /// Which of two clips is better?
    Teach,
    /// All answers.
    History,
    /// The learned reward.
    Reward,
    /// How much of which objective?
    Mix,
    /// Which of two completions of a language model is better?
    Language,
    /// Are a set's labels right?
    Check,
    /// Past runs.
    Runs,
}

/// What is said on stdout where it is asked for.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Narration {
    /// The window is there.
    FirstFrame,
    /// A pair has appeared.
    Pair {
        /// The query.
        query: u64,
        /// True returns of the left and of the right clip, for a test that knows what is right.
        true_returns: [f64; 2],
        /// From the key or click of the last answer to the frame with this pair.
        milliseconds: Option<f64>,
    },
    /// Mixes were shown.
    Mixed {
        /// Median and 99th percentile of the milliseconds from a movement to what it shows.
        milliseconds: [f64; 2],
        /// How many were not overtaken by another.
        count: usize,
    },
    /// The window has closed.
    End {
        /// Frames drawn.
        frames: usize,
        /// Median and 99th percentile of the milliseconds that a frame took: its logic and layout.
        logic_ms: [f64; 2],
        /// Of those and tessellation and drawing together.
        frame_ms: [f64; 2],
    },
}

/// Milliseconds that frames took.
#[derive(Debug, Default)]
struct Timing {
    /// Logic and layout.
    logic: Vec<f64>,
    /// Those, tessellation and drawing.
    frame: Vec<f64>,
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
    /// A new run that goes as the present one up to an answer, with that answer changed, beside the old one.
    Branch {
        /// The query.
        query: u64,
        /// The answer in the new run.
        label: Label,
    },
    /// Curves beside those of the run that is open.
    Beside(Arc<runs::Comparison>),
    /// Write something of a run into its folder.
    Export(Arc<PastRun>, Export),
    /// Write a figure of several runs.
    Compare {
        /// File.
        path: PathBuf,
        /// What is compared.
        measure: &'static str,
        /// The curves.
        series: Vec<Series>,
    },
    /// Delete a run's folder.
    Delete(PathBuf),
    /// Something for the Mix panel.
    Mix(mix::Request),
    /// Something for the Language panel.
    Language(language::Request),
    /// Something for the Check panel.
    Check(check::Request),
    /// Tell that something went wrong.
    Tell(String),
}

/// What nobody can have answered after having seen it: a decision between two takes people a third of a second and more,
/// and studies of reaction times take answers below a fifth for anticipations (Whelan 2008, The Psychological Record 58).
const LEAST_SECONDS: f64 = 0.2;

/// Largest setting of that.
pub(crate) const MOST_LEAST_SECONDS: f64 = 5.0;

/// How long it is said that an answer did not count, seconds.
const SAID: f64 = 4.0;

/// Height of the list of folders that cannot be read, points.
const UNREADABLE: f32 = 110.0;

/// Frames a second while something moves.
const FRAMES_PER_SECOND: f64 = 60.0;

impl Default for Settings {
    fn default() -> Self {
        let (theme, least_seconds) = (ThemePreference::System, LEAST_SECONDS);
        Self { theme, smoothing: 0.6, log: false, labels: 100, least_seconds }
    }
}

/// What [`eframe`] makes a window with.
type WindowBuilder = Box<dyn FnOnce(egui::ViewportBuilder) -> egui::ViewportBuilder>;

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
    let size = options.size;
    let failure = Arc::new(Mutex::new(None));
    let native = eframe::NativeOptions {
        viewport,
        // A size that is asked for comes before the remembered one, and is not remembered.
        window_builder: size.map(|size| -> WindowBuilder { Box::new(move |window| window.with_inner_size(size)) }),
        persist_window: options.screenshot.is_none() && size.is_none(),
        ..eframe::NativeOptions::default()
    };
    let create = |context: &eframe::CreationContext<'_>| -> Box<dyn eframe::App> {
        let mut app = App::new(context, options);
        app.failure = Arc::clone(&failure);
        let (stop, ctx) = (Arc::clone(&app.stop), context.egui_ctx.clone());
        // Ctrl-C and SIGTERM close the window as its button does. Without a handler they still end the program.
        let handler = move || {
            stop.store(true, Ordering::Relaxed);
            ctx.request_repaint();
        };
        ctrlc::set_handler(handler).ok();
        Box::new(app)
    };
    eframe::run_native("pairwise", native, Box::new(|context| Ok(create(context))))
        .map_err(|e| format!("no window can be opened ({e}); `pairwise train` runs without one"))?;
    failure.lock().ok().and_then(|mut failure| failure.take()).map_or(Ok(()), Err)
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
        if let Some(least) = options.least_seconds {
            settings.least_seconds = least;
        }
        // A file that was edited may say anything.
        if !(0.0..=MOST_LEAST_SECONDS).contains(&settings.least_seconds) {
            settings.least_seconds = LEAST_SECONDS;
        }
        ctx.set_theme(settings.theme);
        let mut app = Self {
            settings,
            panel: Panel::Start,
            session: None,
            start: start::Start::default(),
            runs: runs::Runs::default(),
            language: language::Language::default(),
            check: check::Check::default(),
            mix: mix::Mix::default(),
            message: None,
            jobs: Vec::new(),
            closing: Vec::new(),
            began: Instant::now(),
            photographed: false,
            failure: Arc::default(),
            stop: Arc::default(),
            timing: Timing::default(),
            options,
        };
        if let Some(run) = app.options.run.clone() {
            app.act(ctx, Action::Open(run));
        } else if let Some((config, path)) = app.options.start.clone() {
            app.begin(ctx, config, &path);
        }
        if let Some(panel) = app.options.panel {
            app.panel = panel;
        }
        app
    }

    fn begin(&mut self, ctx: &egui::Context, config: Config, path: &Path) {
        let wake = waker(ctx);
        let engine = Engine::start(config, path, wake);
        self.adopt(engine.map_err(|e| e.to_string()));
    }

    fn open(&mut self, ctx: &egui::Context, path: &Path) {
        if is_session(path) {
            let request = language::Request::Begin(Begin::Open, path.to_owned());
            self.act(ctx, Action::Language(request));
            self.panel = Panel::Language;
            return;
        }
        // A run that is still being ended has to be, before it can go on.
        for (closing, thread) in std::mem::take(&mut self.closing) {
            if closing == path {
                thread.join().ok();
            } else {
                self.closing.push((closing, thread));
            }
        }
        self.adopt(Engine::open(path, waker(ctx)).map_err(|e| e.to_string()));
    }

    /// Ends the present run, if any, with a checkpoint. That can take an iteration, for which the window does not wait.
    fn leave(&mut self) {
        self.closing.retain(|(_, thread)| !thread.is_finished());
        if let Some(Session { engine, .. }) = self.session.take() {
            let path = engine.folder.path.clone();
            self.closing.push((path, std::thread::spawn(move || engine.close())));
        }
    }

    /// Does something that takes longer than a frame.
    fn work(&mut self, ctx: &egui::Context, work: impl FnOnce() -> Result<String, String> + Send + 'static) {
        let job = in_background(ctx, move || match work() {
            Ok(done) => Message::Done(done),
            Err(reason) => Message::Failed(reason),
        });
        self.jobs.push(job);
    }

    fn branch(&mut self, ctx: &egui::Context, query: u64, label: Label) {
        let Some(old) = self.session.as_ref().map(|session| session.engine.folder.path.clone()) else { return };
        let name = old.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let path = free_folder(&self.options.runs, &format!("{name}-at-{}", query + 1));
        if let Err(error) = past::branch(&old, &path, query, Some(label)) {
            self.message = Some(Message::Failed(error.to_string()));
            return;
        }
        self.open(ctx, &path);
        if let (Some(session), Ok(old)) = (&mut self.session, past::past(&old)) {
            session.beside = Arc::new(runs::Comparison::of(vec![Arc::new(old)]));
            self.panel = Panel::Watch;
        }
    }

    fn adopt(&mut self, engine: Result<Engine, String>) {
        let session = engine.and_then(|engine| {
            let stage = Stage::new(&engine.config.env).ok_or("the environment of this run does not exist")?;
            Ok(Session {
                view: engine.view(),
                engine,
                past: Past::default(),
                beside: Arc::default(),
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
                self.leave();
                self.session = Some(session);
            }
            Err(reason) => self.message = Some(Message::Failed(reason)),
        }
    }

    fn act(&mut self, ctx: &egui::Context, action: Action) {
        match action {
            Action::Send(command) => {
                if let Some(session) = &mut self.session
                    && let Err(refused) = session.engine.send(command)
                {
                    session.teach.refused();
                    self.message = Some(Message::Failed(refused.to_string()));
                }
            }
            Action::Show(panel) => self.panel = panel,
            Action::Run(config) => {
                let path = free_folder(&self.options.runs, &format!("{}-s{}", config.env, config.seed));
                self.begin(ctx, *config, &path);
            }
            Action::Open(path) => self.open(ctx, &path),
            Action::Close => {
                self.leave();
                self.panel = Panel::Start;
            }
            Action::Branch { query, label } => self.branch(ctx, query, label),
            Action::Beside(comparison) => {
                if let Some(session) = &mut self.session {
                    session.beside = comparison;
                    self.panel = Panel::Watch;
                }
            }
            Action::Export(run, what) => self.work(ctx, move || {
                let path = export::export(&run, what).map_err(|e| e.to_string())?;
                Ok(format!("Exported to {}", path.display()))
            }),
            Action::Compare { path, measure, series } => self.work(ctx, move || {
                export::comparison(&path, measure, &series).map_err(|e| e.to_string())?;
                Ok(format!("Exported to {}", path.display()))
            }),
            Action::Delete(path) => self.work(ctx, move || {
                past::delete(&path).map_err(|e| e.to_string())?;
                Ok(format!("Deleted {}", path.display()))
            }),
            Action::Mix(request) => {
                if let Err(reason) = self.mix.act(ctx, request) {
                    self.message = Some(Message::Failed(reason));
                }
            }
            Action::Language(request) => {
                if let Err(reason) = self.language.act(ctx, request) {
                    self.message = Some(Message::Failed(reason));
                }
            }
            Action::Check(request) => {
                if let Err(reason) = self.check.act(ctx, request) {
                    self.message = Some(Message::Failed(reason));
                }
            }
            Action::Tell(message) => self.message = Some(Message::Failed(message)),
        }
    }

    fn narrate(&mut self, began: Instant, frame: &eframe::Frame) {
        let milliseconds = began.elapsed().as_secs_f64() * 1e3;
        if self.timing.logic.is_empty() {
            say(&Narration::FirstFrame);
        }
        self.timing.logic.push(milliseconds);
        // That of the frame before this one.
        self.timing.frame.extend(frame.info().cpu_usage.map(|seconds| f64::from(seconds) * 1e3));
        let appeared = self.session.as_mut().filter(|_| self.panel == Panel::Teach);
        if let Some(pair) = appeared.and_then(|session| session.teach.appeared()) {
            say(&pair);
        }
    }

    /// Ends the run with a checkpoint, and waits for that and for all other work.
    fn end(&mut self) {
        self.leave();
        self.language.end();
        for (_, thread) in self.closing.drain(..) {
            thread.join().ok();
        }
        for job in self.jobs.drain(..) {
            job.join().ok();
        }
    }

    fn rail(&mut self, ui: &mut Ui, theme: &Theme, actions: &mut Vec<Action>) {
        let frame = egui::Frame::new().fill(theme.panel).inner_margin(8);
        Side::left("rail").resizable(false).exact_size(100.0).frame(frame).show(ui, |ui| {
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
                (Panel::Mix, "Mix", true, "Weigh objectives by hand, and see at once what the mix does"),
                (Panel::Language, "Language", true, "Say which of two completions of a language model is better"),
                (Panel::Check, "Check", true, "Say whether the labels of a set of questions are right"),
                (Panel::Runs, "Runs", true, "Past runs: open, compare, export, delete"),
            ];
            for (panel, name, enabled, hint) in panels {
                let button = egui::Button::selectable(self.panel == panel, name).min_size(egui::vec2(84.0, 32.0));
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
        let Some(message) = self.message.clone() else { return };
        let (text, color) = match message {
            Message::Done(text) => (text, theme.text),
            Message::Failed(text) => (text, theme.error),
        };
        let frame = egui::Frame::new().fill(theme.card).inner_margin(8);
        Side::bottom("message").resizable(false).frame(frame).show(ui, |ui| {
            ui.horizontal_wrapped(|ui| {
                ui.colored_label(color, text);
                if ui.button("Dismiss").on_hover_text("Hide this message").clicked() {
                    self.message = None;
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
        let (window, failure) = (ctx.clone(), Arc::clone(&self.failure));
        ctx.request_screenshot(move |image| {
            if let (Err(reason), Ok(mut failure)) = (save_picture(&path, &image), failure.lock()) {
                *failure = Some(reason);
            }
            window.send_viewport_cmd(egui::ViewportCommand::Close);
        });
    }
}

impl eframe::App for App {
    fn logic(&mut self, ctx: &egui::Context, _: &mut eframe::Frame) {
        if self.stop.load(Ordering::Relaxed) {
            ctx.send_viewport_cmd(egui::ViewportCommand::Close);
        }
        for job in self.jobs.extract_if(.., |job| job.is_finished()) {
            self.message = Some(job.join().unwrap_or_else(|_| Message::Failed("that ended by a defect".to_owned())));
        }
        for message in [self.language.news(), self.mix.news(), self.check.news()].into_iter().flatten() {
            self.message = Some(message);
        }
        if let Some(session) = &mut self.session {
            session.view = session.engine.view();
            if let Some(past) = session.engine.past(session.past.iterations) {
                session.past = past;
            }
            if session.view.told > session.told {
                session.told = session.view.told;
                self.message = session.view.messages.last().cloned().map(Message::Failed);
            }
            if let Phase::Failed(reason) = &session.view.phase
                && !std::mem::replace(&mut session.mourned, true)
            {
                let kept = "Every answer is kept, and what was learned up to the last checkpoint";
                self.message = Some(Message::Failed(format!("The run ended: {reason}. {kept}")));
            }
        }
    }

    fn ui(&mut self, ui: &mut Ui, frame: &mut eframe::Frame) {
        let began = Instant::now();
        let theme = Theme::of(ui.ctx().theme());
        let mut actions = Vec::new();
        self.rail(ui, theme, &mut actions);
        self.footer(ui, theme);
        match (self.panel, &mut self.session) {
            (Panel::Watch, Some(session)) => {
                watch::show(ui, theme, session, &mut self.settings, &mut actions);
            }
            (Panel::Runs, session) => {
                // A run that ended by an error can be opened again.
                let open = session.as_ref().map(|session| &session.engine).filter(|engine| engine.shows());
                let open = open.map(|engine| engine.folder.path.as_path());
                self.runs.show(ui, theme, &self.options.runs, open, &mut actions);
            }
            (Panel::Mix, _) => self.mix.show(ui, theme, &self.options.runs, &mut actions),
            (Panel::Language, _) => {
                let least = &mut self.settings.least_seconds;
                self.language.show(ui, theme, &self.options.runs, least, &mut actions);
            }
            (Panel::Check, _) => {
                self.check.show(ui, theme, &self.options.runs, &mut self.settings.least_seconds, &mut actions);
            }
            (Panel::Teach, Some(session)) => {
                teach::show(ui, theme, session, &mut self.settings.least_seconds, &mut actions);
            }
            (Panel::History, Some(session)) => history::show(ui, theme, session, &mut actions),
            (Panel::Reward, Some(session)) => reward::show(ui, theme, session, &mut actions),
            _ => self.start.show(ui, theme, &mut self.settings.labels, &mut actions),
        }
        let ctx = ui.ctx().clone();
        actions.into_iter().for_each(|action| self.act(&ctx, action));
        self.photograph(&ctx);
        if self.options.narrate {
            self.narrate(began, frame);
        }
    }

    fn save(&mut self, storage: &mut dyn eframe::Storage) {
        eframe::set_value(storage, eframe::APP_KEY, &self.settings);
    }

    fn on_exit(&mut self, _: Option<&eframe::glow::Context>) {
        self.end();
        if self.options.narrate {
            if let Some((milliseconds, count)) = self.mix.latency() {
                say(&Narration::Mixed { milliseconds, count });
            }
            let Timing { logic, frame } = &self.timing;
            say(&Narration::End { frames: logic.len(), logic_ms: quantiles(logic), frame_ms: quantiles(frame) });
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.end();
    }
}

/// Says kindly, for a while after `dropped`, that an answer came too early to count.
fn too_early(ui: &mut Ui, theme: &Theme, dropped: Option<Instant>) {
    if dropped.is_some_and(|since| since.elapsed().as_secs_f64() < SAID) {
        ui.colored_label(
            theme.accent,
            "That came before you can have seen this one, so it was not counted: take your time",
        );
        ui.ctx().request_repaint_after(Duration::from_millis(500));
    }
}

/// The setting of how early an answer counts.
fn least_seconds(ui: &mut Ui, least: &mut f64) {
    ui.add_space(8.0);
    ui.horizontal(|ui| {
        let name = ui.label("Answers count after");
        let drag = egui::DragValue::new(least).range(0.0..=MOST_LEAST_SECONDS).speed(0.01).fixed_decimals(2).suffix(" s");
        ui.add(drag)
            .on_hover_text(
                "A key or click that comes sooner after a question appears was meant for the one before, and is dropped. \
                 Nobody sees two clips and decides in less than a fifth of a second; 0 counts everything",
            )
            .labelled_by(name.id);
    });
}

/// Takes away that a key is still held down: one press is one answer.
fn once_a_press(input: &mut egui::InputState, keys: impl Fn(egui::Key) -> bool) {
    input.events.retain(|event| !matches!(event, egui::Event::Key { key, repeat: true, .. } if keys(*key)));
}

/// Folders that cannot be read, and why: whoever looks for them finds that out. `runs` is the folder of all runs.
fn unreadable(ui: &mut Ui, theme: &Theme, runs: &Path, damaged: &[Damaged]) {
    if damaged.is_empty() {
        return;
    }
    ui.add_space(4.0);
    ui.label(RichText::new("Cannot be read").color(theme.weak_text));
    egui::ScrollArea::vertical().id_salt("unreadable").max_height(UNREADABLE).auto_shrink([false, true]).show(
        ui,
        |ui| {
            for Damaged { path, problem } in damaged {
                ui.horizontal_wrapped(|ui| {
                    let name = path.strip_prefix(runs).ok().filter(|name| !name.as_os_str().is_empty()).unwrap_or(path);
                    ui.label(RichText::new(name.display().to_string()).strong())
                        .on_hover_text(path.display().to_string());
                    ui.colored_label(theme.error, problem);
                });
            }
        },
    );
    ui.add_space(4.0);
}

/// Calls for a new frame when `work` is done.
fn in_background<T: Send + 'static>(ctx: &egui::Context, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let ctx = ctx.clone();
    std::thread::spawn(move || {
        let result = work();
        // The thread has ended when the next frame is drawn, or in the one after it.
        ctx.request_repaint_after(Duration::from_millis(20));
        result
    })
}

/// Calls for a new frame, at most thirty times a second.
fn waker(ctx: &egui::Context) -> impl Fn() + Send + Sync + 'static {
    let ctx = ctx.clone();
    move || ctx.request_repaint_after(Duration::from_millis(33))
}

/// A closed pipe is no error.
fn say(what: &Narration) {
    use std::io::Write as _;
    let line = serde_json::to_string(what).expect("plain structs always serialise");
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).ok();
}

/// Median and 99th percentile.
fn quantiles(values: &[f64]) -> [f64; 2] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| sorted.get((sorted.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
    [at(0.5), at(0.99)]
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
    crate::disk::archive::write_atomically(path, &bytes)
        .map_err(|e| format!("{}: cannot save the picture: {e}", path.display()))
}
