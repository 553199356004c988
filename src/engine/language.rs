//! The engine behind the Language panel: a model is taught while a person answers.
//!
//! Which update an answer takes effect in is stamped on it under the lock that the worker takes to collect answers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Device;

use super::book::{Answers, Book, OpenQuestion, Saying};
use super::desk::{Desk, Engine, LOOK_UP, Messages};
use crate::device;
use crate::disk::Folder;
use crate::lm::run::{self, LmConfig, LmError, LmOutcome, LmProgress};
use crate::lm::teach::folder::{TeachSession, TeachSummary, create, read_config};
use crate::lm::teach::{Doing, TeachConfig, TeachQuestion, TeachReport, complete, due};
use crate::preference::Event;
use crate::preference::ledger::Ledger;

/// A teaching session going on in threads of its own.
pub type LanguageEngine = Engine<LanguageCommand, LanguageView>;

/// How a session begins.
#[derive(Debug, Clone, PartialEq)]
pub enum Begin {
    /// In a new folder, with a model that exists.
    New(Box<TeachConfig>),
    /// In a new folder, with a model that is trained first. The configuration's `model` is then set to it.
    Make(Box<TeachConfig>, Box<Making>),
    /// In its folder, where it was left off.
    Open,
}

/// A model to make first.
#[derive(Debug, Clone, PartialEq)]
pub struct Making {
    /// How it is trained.
    pub config: LmConfig,
    /// Its run folder. A run that is already there is continued.
    pub path: PathBuf,
}

/// What a window can ask of a session.
#[derive(Debug, Clone, PartialEq)]
pub enum LanguageCommand {
    /// Takes what a person says.
    Say(Saying),
    /// Stops learning until [`LanguageCommand::Go`]; answers are still taken.
    Pause,
    /// Goes on.
    Go,
    /// Completes a text with the model at the start and with the model now, and again after every update.
    Compare {
        /// The text.
        text: String,
        /// Number of the random draw. Another number gives other completions.
        draw: u64,
    },
    /// Writes a checkpoint and the model.
    Save,
}

/// What a window shows of a session; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct LanguageView {
    /// Its folder.
    pub folder: PathBuf,
    /// What is going on.
    pub phase: LanguagePhase,
    /// How the model is taught; `None` until that is known.
    pub config: Option<Arc<TeachConfig>>,
    /// Every pair of completions that was asked about, by query.
    pub pairs: Arc<BTreeMap<u64, Arc<TeachQuestion>>>,
    /// Which of them are open, and what was answered.
    pub answers: Answers,
    /// One for the start, and one for each update.
    pub reports: Arc<Vec<TeachReport>>,
    /// The newest comparison of the model at the start with the model now.
    pub comparison: Option<Arc<Comparison>>,
    /// What the user should know about the model and the prompts.
    pub remarks: Arc<Vec<String>>,
    /// What was saved last.
    pub saved: Option<Arc<TeachSummary>>,
    /// What went wrong.
    pub messages: Messages,
    /// Answers that updates have taken.
    handed_over: usize,
}

/// What a session is doing.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum LanguagePhase {
    /// Reading the model and the session.
    #[default]
    Opening,
    /// Making the model to begin with.
    Making(MakingProgress),
    /// Repeating what is in the ledger already: updates made, of how many.
    CatchingUp(usize, usize),
    /// Writing completions for new questions.
    Writing,
    /// Learning: steps of this update, of how many.
    Learning(usize, usize),
    /// Measuring the policy on held-out prompts.
    Measuring,
    /// Waiting for answers.
    Waiting,
    /// Paused.
    Paused,
    /// Ended, with everything saved.
    Stopped,
    /// Ended by an error; every acknowledged answer is kept.
    Failed(String),
}

/// How far the making of a model is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MakingProgress {
    /// What is done before the first step.
    pub note: String,
    /// Steps taken.
    pub step: usize,
    /// Steps in all; 0 before the first.
    pub of: usize,
    /// Loss of the last step, nats a token.
    pub loss: Option<f64>,
}

/// A text completed by the model at the start and by the model now, with the same random draws.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The text.
    pub text: String,
    /// Number of the draw.
    pub draw: u64,
    /// Updates that the model now had made.
    pub updates: usize,
    /// What the model at the start, and the model now, wrote.
    pub completions: [String; 2],
}

/// What lies between clerk and worker.
#[derive(Default)]
struct Tray {
    book: Book,
    paused: bool,
    save: bool,
    /// A text to be completed, and the number of the draw.
    compare: Option<(String, u64)>,
}

type LanguageDesk = Desk<Tray, LanguageView>;

impl LanguageEngine {
    /// Starts a session, or goes on with one. `wake` is called when there is something new to show.
    ///
    /// What cannot be read ends it as [`LanguagePhase::Failed`], because reading a model takes longer than a window may
    /// wait.
    pub fn start(begin: Begin, path: &Path, wake: impl Fn() + Send + Sync + 'static) -> Self {
        let (path, view) = (path.to_owned(), LanguageView { folder: path.to_owned(), ..LanguageView::default() });
        Self::launch(view, |view| &mut view.messages, wake, clerk, move |desk| work(begin, &path, desk))
    }
}

impl LanguageView {
    /// The open question that comes next.
    #[must_use]
    pub fn next(&self) -> Option<&Arc<TeachQuestion>> {
        self.pairs.get(self.answers.open.first()?)
    }

    /// Answers that take effect in the next update.
    #[must_use]
    pub fn given(&self) -> usize {
        self.answers.answered.len().saturating_sub(self.handed_over)
    }

    /// Whether the session has come to an end, one way or the other.
    #[must_use]
    pub fn ended(&self) -> bool {
        matches!(self.phase, LanguagePhase::Stopped | LanguagePhase::Failed(_))
    }
}

fn clerk(desk: &LanguageDesk, command: LanguageCommand) -> Result<(), String> {
    let mut tray = desk.tray();
    match command {
        LanguageCommand::Say(saying) => {
            tray.book.write(saying)?;
            // Under the lock of the tray: the worker counts what it takes.
            desk.show(|view| view.answers = tray.book.answers.clone());
        }
        LanguageCommand::Pause => tray.paused = true,
        LanguageCommand::Go => tray.paused = false,
        LanguageCommand::Compare { text, draw } => tray.compare = Some((text, draw)),
        LanguageCommand::Save => tray.save = true,
    }
    Ok(())
}

// ----------------------------------------------------------------------------------------------------------- the worker

/// What the worker does next.
enum Next {
    Update(Vec<Event>),
    Compare(String, u64),
    Save,
    Stop,
}

fn work(begin: Begin, path: &Path, desk: &LanguageDesk) {
    let mut claimed = None;
    let outcome = teach(begin, path, &mut claimed, desk);
    // From here on nobody collects answers or writes to the folder, so others may.
    let mut tray = desk.tray();
    tray.book.close();
    desk.show(|view| view.answers = tray.book.answers.clone());
    drop(tray);
    drop(claimed);
    match outcome {
        Ok(()) => desk.show(|view| view.phase = LanguagePhase::Stopped),
        Err(error) => {
            desk.show(|view| view.phase = LanguagePhase::Failed(error.to_string()));
            desk.tell(format!("The session ended: {error}. Every answer is kept"));
        }
    }
}

/// Teaches until the window stops it, and saves the session. The folder stays claimed until `claimed` is dropped.
fn teach(begin: Begin, path: &Path, claimed: &mut Option<Folder>, desk: &LanguageDesk) -> Result<(), LmError> {
    let config = match begin {
        Begin::Open => read_config(path)?,
        Begin::New(config) => *config,
        Begin::Make(mut config, making) => {
            desk.show(|view| view.config = Some(Arc::new((*config).clone())));
            if !make(&making, &device::pick(making.config.device)?, desk)? {
                return Ok(());
            }
            config.model = making.path.join("model");
            *config
        }
    };
    desk.show(|view| (view.config, view.phase) = (Some(Arc::new(config.clone())), LanguagePhase::Opening));
    let device = device::pick(config.device)?;
    let folder = match path.join("config.toml").exists() {
        true => Folder::open_to_write(path)?,
        false => create(path, &config)?,
    };
    *claimed = Some(folder.clone());
    let (mut session, ledger, events) = TeachSession::open(&folder, &device, &|message| desk.tell(message))?;
    let last = events.iter().map(Event::session).max().map_or(0, |last| last as usize);
    let answers = Answers::of(&events);
    desk.tray().book.answers = answers.clone();
    desk.show(|view| {
        view.answers = answers;
        view.remarks = Arc::new(session.material.remarks.clone());
        view.reports = Arc::new(session.reports.clone());
    });
    let show = |session: &TeachSession, _: Doing| {
        desk.show(|view| view.phase = LanguagePhase::CatchingUp(session.lesson.updates, last));
    };
    if let Some(left) = session.catch_up(&events, &desk.stop, &show)? {
        open_book(&session, ledger, left, desk);
        go_on(&mut session, desk)?;
    }
    // A session that has learned nothing is as quick to begin again.
    if session.lesson.trainee.step > 0 {
        session.save()?;
    }
    Ok(())
}

/// Makes the model to begin with; whether it is finished.
fn make(making: &Making, device: &Device, desk: &LanguageDesk) -> Result<bool, LmError> {
    let Making { config, path } = making;
    let progress = Mutex::new(MakingProgress::default());
    let show = |shown: LmProgress<'_>| {
        let mut now = progress.lock().unwrap_or_else(PoisonError::into_inner);
        match shown {
            LmProgress::Note(note) => note.clone_into(&mut now.note),
            LmProgress::Preparing(what, done, of) => now.note = format!("{what}: {done} of {of}"),
            LmProgress::Step(step, of, metrics, _) => {
                (now.step, now.of, now.loss) = (step, of, metrics.get("loss").or(now.loss));
            }
            LmProgress::Evaluation(_) => return,
        }
        let now = now.clone();
        desk.show(|view| view.phase = LanguagePhase::Making(now));
    };
    let outcome = match path.join("config.toml").exists() {
        true => run::resume(path, &[], device, &desk.stop, &show)?,
        false => run::train(config, path, device, &desk.stop, &show)?,
    };
    Ok(matches!(outcome, LmOutcome::Finished(_)))
}

/// Lets the clerk take answers. `left` takes effect in the next update.
fn open_book(session: &TeachSession, ledger: Ledger, left: Vec<Event>, desk: &LanguageDesk) {
    let given = left.iter().filter(|event| matches!(event, Event::Answer(_))).count();
    let mut tray = desk.tray();
    tray.book.given = left;
    tray.book.begin(ledger, session.lesson.updates as u64);
    desk.show(|view| view.handed_over = tray.book.answers.answered.len() - given);
    drop(tray);
    publish(session, desk);
}

/// Shows questions and reports as they are now.
fn publish(session: &TeachSession, desk: &LanguageDesk) {
    let asked = |question: &Arc<TeachQuestion>| {
        let (step, sides) = (question.step as u64, question.sides());
        (question.query, OpenQuestion { step, sides, why: question.why, repeat: None })
    };
    let pairs = session.lesson.questions.iter().map(|question| (question.query, Arc::clone(question))).collect();
    let mut tray = desk.tray();
    tray.book.open(session.lesson.pending().map(asked));
    // Under the lock of the tray: an answer that comes now must not bring its question back.
    desk.show(|view| {
        view.pairs = Arc::new(pairs);
        view.answers = tray.book.answers.clone();
        view.reports = Arc::new(session.reports.clone());
    });
}

/// Teaches until the window stops it.
fn go_on(session: &mut TeachSession, desk: &LanguageDesk) -> Result<(), LmError> {
    let show = |doing: Doing| {
        desk.show(|view| {
            view.phase = match doing {
                Doing::Writing => LanguagePhase::Writing,
                Doing::Learning(step, of) => LanguagePhase::Learning(step, of),
                Doing::Measuring => LanguagePhase::Measuring,
            };
        });
    };
    let mut compared: Option<(String, u64)> = None;
    loop {
        match next(session, desk) {
            Next::Stop => return Ok(()),
            Next::Save => match session.save() {
                Ok(summary) => desk.show(|view| view.saved = Some(Arc::new(summary))),
                Err(error) => desk.tell(format!("the model was not saved: {error}; the session goes on")),
            },
            Next::Compare(text, draw) => {
                compare(session, &text, draw, desk);
                compared = Some((text, draw));
            }
            Next::Update(events) => {
                if !session.update(&events, &desk.stop, &|_, doing| show(doing))? {
                    return Ok(());
                }
                show(Doing::Writing);
                let asked = session.ask(&desk.stop)?;
                publish(session, desk);
                if asked.is_none() {
                    return Ok(());
                }
                if let Some((text, draw)) = &compared {
                    compare(session, text, *draw, desk);
                }
            }
        }
    }
}

fn compare(session: &TeachSession, text: &str, draw: u64, desk: &LanguageDesk) {
    match complete(&session.material, &session.lesson.trainee.model, text, draw, &desk.stop) {
        Ok(completions) => {
            let updates = session.lesson.updates;
            let comparison = Comparison { text: text.to_owned(), draw, updates, completions };
            desk.show(|view| view.comparison = Some(Arc::new(comparison)));
        }
        Err(error) => desk.tell(error.to_string()),
    }
}

/// Waits until there is something to do.
fn next(session: &TeachSession, desk: &LanguageDesk) -> Next {
    let mut shown = None;
    let mut tray = desk.tray();
    loop {
        if desk.stopped() {
            return Next::Stop;
        }
        if std::mem::take(&mut tray.save) {
            return Next::Save;
        }
        if let Some((text, draw)) = tray.compare.take() {
            return Next::Compare(text, draw);
        }
        if !tray.paused && due(&session.lesson, &session.material, &tray.book.given) {
            // What is said from here on takes effect in the update after this one.
            let given = tray.book.hand_over(session.lesson.updates as u64 + 1);
            desk.show(|view| view.handed_over = tray.book.answers.answered.len());
            return Next::Update(given);
        }
        let phase = if tray.paused { LanguagePhase::Paused } else { LanguagePhase::Waiting };
        if shown.as_ref() != Some(&phase) {
            desk.show(|view| view.phase = phase.clone());
            shown = Some(phase);
        }
        tray = desk.wait(tray, LOOK_UP);
    }
}
