//! The desktop app: watch an agent learn, and be the oracle.
//!
//! **Architecture invariant:** nothing here touches a tensor or waits for one. Panels draw a snapshot of an engine and push
//! actions, which are carried out once a frame, after everything is drawn.
//!
//! A panel is one file here and one line in the table `PANELS`.

mod background;
mod canvas;
mod check;
mod compare;
mod curves;
mod history;
mod language;
mod mix;
mod narrate;
mod panel;
mod reward;
mod runs;
mod start;
mod teach;
mod theme;
mod watch;
mod widgets;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use egui::{Align, Layout, Panel as Side, RichText, Theme as Mode, ThemePreference, Ui};

use self::background::{Closing, in_background, waker};
pub(crate) use self::compare::MOST_LEAST_SECONDS;
use self::curves::Comparison;
use self::narrate::{Timing, say};
use self::panel::{Action, Context, Entry, OpenRun, Panel, Settings};
use self::theme::Theme;
use crate::control::config::{Config, Rater};
use crate::control::run::past;
use crate::engine::free_folder;
use crate::engine::run::RunEngine;
use crate::preference::Label;

/// All panels, in the order of the rail. The first is shown where another cannot be.
const PANELS: &[Entry] = &[
    start::PANEL,
    watch::PANEL,
    teach::PANEL,
    history::PANEL,
    reward::PANEL,
    mix::PANEL,
    language::PANEL,
    check::PANEL,
    runs::PANEL,
];

/// Names of all panels, as [`Options::panel`] takes them, and what each is for.
pub fn panels() -> impl Iterator<Item = (&'static str, &'static str)> {
    PANELS.iter().map(|entry| (entry.name, entry.hint))
}

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
    /// The panel to show first, by its name ([`panels`]), where it can be shown.
    pub panel: Option<String>,
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
    /// As in the table `PANELS`.
    panels: Vec<Box<dyn Panel>>,
    /// Which of them is shown.
    shown: usize,
    run: Option<OpenRun>,
    /// What went wrong last or was done, until it is dismissed.
    message: Option<Message>,
    /// What takes longer than a frame.
    jobs: Vec<JoinHandle<Message>>,
    /// Runs that are being ended, with their checkpoints.
    closing: Closing,
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
            settings.least_seconds = Settings::default().least_seconds;
        }
        ctx.set_theme(settings.theme);
        let mut app = Self {
            settings,
            panels: PANELS.iter().map(|entry| (entry.make)()).collect(),
            shown: 0,
            run: None,
            message: None,
            jobs: Vec::new(),
            closing: Closing::default(),
            began: Instant::now(),
            photographed: false,
            failure: Arc::default(),
            stop: Arc::default(),
            timing: Timing::default(),
            options,
        };
        if let Some(run) = app.options.run.clone() {
            app.open(ctx, &run);
        } else if let Some((config, path)) = app.options.start.clone() {
            app.begin(ctx, config, &path);
        }
        if let Some(panel) = app.options.panel.clone() {
            app.show(&panel);
        }
        app
    }

    /// Shows the panel of this name.
    fn show(&mut self, name: &str) {
        self.shown = PANELS.iter().position(|entry| entry.name == name).unwrap_or(self.shown);
    }

    fn begin(&mut self, ctx: &egui::Context, config: Config, path: &Path) {
        let engine = RunEngine::start(config, path, waker(ctx));
        self.adopt(engine.map_err(|error| error.to_string()));
    }

    fn open(&mut self, ctx: &egui::Context, path: &Path) {
        if let Some(opener) = self.panels.iter_mut().position(|panel| panel.open(ctx, path)) {
            self.shown = opener;
            return;
        }
        self.closing.wait(Some(path));
        self.adopt(RunEngine::open(path, waker(ctx)).map_err(|error| error.to_string()));
    }

    /// Ends the present run, if any, with a checkpoint. That can take an iteration, for which the window does not wait.
    fn leave(&mut self) {
        if let Some(OpenRun { engine, view, .. }) = self.run.take() {
            self.closing.close(view.folder, engine);
        }
        self.panels.iter_mut().for_each(|panel| panel.run_changed());
    }

    fn adopt(&mut self, engine: Result<RunEngine, String>) {
        match engine.and_then(OpenRun::new) {
            Ok(run) => {
                let person = run.view.config.preferences.rater == Rater::Person;
                self.show(if person { teach::PANEL.name } else { watch::PANEL.name });
                self.leave();
                self.run = Some(run);
            }
            Err(reason) => self.message = Some(Message::Failed(reason)),
        }
    }

    fn branch(&mut self, ctx: &egui::Context, query: u64, label: Label) {
        let Some(old) = self.run.as_ref().map(|run| run.view.folder.clone()) else { return };
        let name = old.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let path = free_folder(&self.options.runs, &format!("{name}-at-{}", query + 1));
        if let Err(error) = past::branch(&old, &path, query, Some(label)) {
            self.message = Some(Message::Failed(error.to_string()));
            return;
        }
        self.open(ctx, &path);
        if let Ok(old) = past::past(&old) {
            self.beside(Arc::new(Comparison::of(vec![Arc::new(old)])));
        }
    }

    /// Shows curves beside those of the run that is open.
    fn beside(&mut self, comparison: Arc<Comparison>) {
        if let Some(run) = &mut self.run {
            run.beside = comparison;
            self.show(watch::PANEL.name);
        }
    }

    fn act(&mut self, ctx: &egui::Context, action: Action) {
        match action {
            Action::Show(panel) => self.show(panel),
            Action::Run(config) => {
                let path = free_folder(&self.options.runs, &format!("{}-s{}", config.env, config.seed));
                self.begin(ctx, *config, &path);
            }
            Action::Open(path) => self.open(ctx, &path),
            Action::Close => {
                self.leave();
                self.shown = 0;
            }
            Action::Branch { query, label } => self.branch(ctx, query, label),
            Action::Beside(comparison) => self.beside(comparison),
            Action::Work(work) => {
                let job = in_background(ctx, move || work().map_or_else(Message::Failed, Message::Done));
                self.jobs.push(job);
            }
            Action::Tell(reason) => self.message = Some(Message::Failed(reason)),
            Action::Narrate(narration) if self.options.narrate => say(&narration),
            Action::Narrate(_) => {}
        }
    }

    /// Ends everything that goes on, and waits for it.
    fn end(&mut self) {
        self.leave();
        for narration in self.panels.iter_mut().filter_map(|panel| panel.end()) {
            if self.options.narrate {
                say(&narration);
            }
        }
        self.closing.wait(None);
        for job in self.jobs.drain(..) {
            job.join().ok();
        }
    }

    fn rail(&mut self, ui: &mut Ui, theme: &Theme) {
        let frame = egui::Frame::new().fill(theme.panel).inner_margin(8);
        Side::left("rail").resizable(false).exact_size(100.0).frame(frame).show(ui, |ui| {
            ui.add_space(4.0);
            ui.label(RichText::new("Pairwise").strong());
            ui.add_space(12.0);
            for (i, entry) in PANELS.iter().enumerate() {
                let missing = (entry.missing)(self.run.as_ref());
                let name = entry.name[..1].to_uppercase() + &entry.name[1..];
                let button = egui::Button::selectable(self.shown == i, name).min_size(egui::vec2(84.0, 32.0));
                let response = ui.add_enabled(missing.is_none(), button).on_hover_text(entry.hint);
                if response.on_disabled_hover_text(missing.unwrap_or_default()).clicked() {
                    self.shown = i;
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
        let (text, color) = match self.message.clone() {
            None => return,
            Some(Message::Done(text)) => (text, theme.text),
            Some(Message::Failed(text)) => (text, theme.error),
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
            self.message = Some(job.join().unwrap_or_else(|_| {
                Message::Failed("this ended in a crash, which is a defect of the program".to_owned())
            }));
        }
        let news = self.panels.iter_mut().filter_map(|panel| panel.news());
        if let Some(reason) = news.chain(self.run.as_mut().and_then(OpenRun::news)).last() {
            self.message = Some(Message::Failed(reason));
        }
    }

    fn ui(&mut self, ui: &mut Ui, frame: &mut eframe::Frame) {
        let began = Instant::now();
        let theme = Theme::of(ui.ctx().theme());
        self.rail(ui, theme);
        self.footer(ui, theme);
        let possible = PANELS.get(self.shown).is_some_and(|entry| (entry.missing)(self.run.as_ref()).is_none());
        let mut context = Context {
            theme,
            settings: &mut self.settings,
            runs: &self.options.runs,
            run: self.run.as_mut(),
            actions: Vec::new(),
        };
        self.panels[if possible { self.shown } else { 0 }].show(ui, &mut context);
        let (ctx, actions) = (ui.ctx().clone(), context.actions);
        if self.options.narrate {
            self.timing.add(began, frame.info().cpu_usage);
        }
        actions.into_iter().for_each(|action| self.act(&ctx, action));
        self.photograph(&ctx);
    }

    fn save(&mut self, storage: &mut dyn eframe::Storage) {
        eframe::set_value(storage, eframe::APP_KEY, &self.settings);
    }

    fn on_exit(&mut self, _: Option<&eframe::glow::Context>) {
        self.end();
        if self.options.narrate {
            self.timing.end();
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.end();
    }
}

fn save_picture(path: &Path, image: &egui::ColorImage) -> Result<(), String> {
    let size = |side: usize| u32::try_from(side).map_err(|_| "the window is too large for a picture".to_owned());
    let rgba = image.pixels.iter().flat_map(|pixel| pixel.to_array()).collect();
    let frame = pairwise_envs::Frame { width: size(image.size[0])?, height: size(image.size[1])?, rgba };
    let bytes = pairwise_envs::png(&frame).map_err(|e| e.to_string())?;
    crate::disk::archive::write_atomically(path, &bytes)
        .map_err(|e| format!("{}: cannot save the picture: {e}", path.display()))
}
