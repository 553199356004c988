//! The engine behind the Language panel: a teaching session in threads of its own.
//!
//! As beside it for agents: the **worker** owns the model and every tensor; the **clerk** takes commands, and has an
//! answer in the ledger and on the disk before it counts, while the worker may be learning. Which update an answer takes
//! effect in is stamped on it under the lock that the worker takes to collect answers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use burn::tensor::Device;

use super::book::{Asked, Book, query_of};
use super::{COMMANDS, Given, MESSAGES, Refused, lock};
use crate::device;
use crate::disk::Folder;
use crate::lm::run::{self, LmConfig, LmError, LmOutcome, Shown};
use crate::lm::teach::folder::{TeachSession as Session, TeachSummary, create, read_config};
use crate::lm::teach::{Doing, TeachConfig, TeachQuestion as Question, TeachReport as Report, complete, due};
use crate::preference::ledger::{Answer, Ledger, answers, undone};
use crate::preference::{Event, Label};

/// A teaching session going on in threads of its own.
pub struct LanguageEngine {
    /// Where it is kept.
    pub path: PathBuf,
    commands: SyncSender<Command>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// How a session begins.
#[derive(Debug, Clone, PartialEq)]
pub enum Begin {
    /// In a new folder, with a model that is there.
    New(Box<TeachConfig>),
    /// In a new folder, with a model that is made first; the configuration's `model` becomes that one.
    Make(Box<TeachConfig>, Box<Making>),
    /// Where it was left.
    Open,
}

/// A model to make first.
#[derive(Debug, Clone, PartialEq)]
pub struct Making {
    /// How it is trained.
    pub config: LmConfig,
    /// Its run folder; one that holds a run already is gone on with.
    pub path: PathBuf,
}

/// What a window can ask of a session.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Answers an open question.
    Answer {
        /// Number of the query.
        query: u64,
        /// The answer.
        label: Label,
        /// Seconds from the appearance of the pair to the answer.
        seconds: f64,
    },
    /// Takes an answer back.
    Undo {
        /// Number of the query.
        query: u64,
    },
    /// Changes an answer, or gives it again after it was taken back.
    Relabel {
        /// Number of the query.
        query: u64,
        /// The new answer.
        label: Label,
    },
    /// Stops learning until [`Command::Go`]; answers are still taken.
    Pause,
    /// Goes on.
    Go,
    /// Completes a text with the start and with the present policy, and again after every update.
    Compare {
        /// The text.
        text: String,
        /// Number of the draw: another one completes it otherwise.
        draw: u64,
    },
    /// Writes a checkpoint and the model.
    Save,
    /// Does the same and ends.
    Stop,
}

/// What a window shows; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// What is going on.
    pub phase: Phase,
    /// How the model is taught; `None` until that is known.
    pub config: Option<Arc<TeachConfig>>,
    /// Open questions, the next one first.
    pub questions: Vec<Arc<Question>>,
    /// Answered questions, in the order in which they were answered first.
    pub answered: Arc<Vec<Arc<Question>>>,
    /// Answers in force by query; "skip" after an answer was taken back.
    pub labels: Arc<BTreeMap<u64, Given>>,
    /// Queries whose answer was taken back and not given again, the last one last: they are asked again.
    pub undone: Vec<u64>,
    /// One for the start, and one for each update.
    pub reports: Arc<Vec<Report>>,
    /// Answers that take effect in the next update.
    pub given: usize,
    /// The newest comparison of the start with the present policy.
    pub comparison: Option<Arc<Comparison>>,
    /// What is to be known of the model and the prompts.
    pub remarks: Arc<Vec<String>>,
    /// What was saved last.
    pub saved: Option<Arc<TeachSummary>>,
    /// What went wrong without ending the session, newest last.
    pub messages: Vec<String>,
    /// Messages so far; only the newest are kept.
    pub told: usize,
}

/// What a session is doing.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Phase {
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

/// A text completed by the start and by the present policy, with the same random draws.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The text.
    pub text: String,
    /// Number of the draw.
    pub draw: u64,
    /// Updates that the present policy had made.
    pub updates: usize,
    /// What the start, and the present policy, wrote.
    pub completions: [String; 2],
}

impl LanguageEngine {
    /// Starts a session, or goes on with one. `wake` is called when there is something new to show.
    ///
    /// What cannot be read ends it as [`Phase::Failed`], because reading a model takes longer than a window may wait.
    pub fn start(begin: Begin, path: &Path, wake: impl Fn() + Send + Sync + 'static) -> Self {
        let (commands, received) = sync_channel(COMMANDS);
        let shared = Arc::new(Shared { wake: Box::new(wake), ..Shared::default() });
        let clerk = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || clerk(&received, &shared))
        };
        let worker = {
            let (path, shared) = (path.to_owned(), Arc::clone(&shared));
            std::thread::spawn(move || work(begin, &path, &shared))
        };
        Self { path: path.to_owned(), commands, shared, threads: vec![clerk, worker] }
    }

    /// Sends a command; never waits.
    ///
    /// # Errors
    /// [`Refused`] when the session has ended, or has hundreds of commands to do still.
    pub fn send(&self, command: Command) -> Result<(), Refused> {
        self.commands.try_send(command).map_err(|_| Refused)
    }

    /// What there is to show now.
    #[must_use]
    pub fn view(&self) -> View {
        lock(&self.shared.view).clone()
    }

    /// Whether the session has come to an end, one way or the other.
    #[must_use]
    pub fn ended(&self) -> bool {
        matches!(lock(&self.shared.view).phase, Phase::Stopped | Phase::Failed(_))
    }

    /// Ends the session, saves it, and waits for that.
    pub fn close(self) {
        drop(self);
    }
}

impl Drop for LanguageEngine {
    fn drop(&mut self) {
        self.shared.stop();
        // The clerk ends with the channel; what it still has in hand is written first.
        let (closed, _) = sync_channel(1);
        drop(std::mem::replace(&mut self.commands, closed));
        for thread in self.threads.drain(..) {
            // A panic of the worker was reported by its own hook.
            thread.join().ok();
        }
    }
}

// --------------------------------------------------------------------------------------------------- between threads

/// What the threads share.
struct Shared {
    desk: Mutex<Desk>,
    /// Notified when something on the desk changes.
    changed: Condvar,
    view: Mutex<View>,
    /// Ends what takes long.
    stop: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

/// What lies between clerk and worker.
#[derive(Default)]
struct Desk {
    book: Book,
    paused: bool,
    save: bool,
    /// A text to be completed, and the number of the draw.
    compare: Option<(String, u64)>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            desk: Mutex::default(),
            changed: Condvar::new(),
            view: Mutex::default(),
            stop: AtomicBool::new(false),
            wake: Box::new(|| {}),
        }
    }
}

impl Shared {
    fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    fn show(&self, change: impl FnOnce(&mut View)) {
        change(&mut lock(&self.view));
        (self.wake)();
    }

    fn tell(&self, message: String) {
        self.show(|view| {
            view.messages.push(message);
            view.told += 1;
            let surplus = view.messages.len().saturating_sub(MESSAGES);
            view.messages.drain(..surplus);
        });
    }
}

/// Takes commands until the window lets go of its end.
fn clerk(commands: &Receiver<Command>, shared: &Shared) {
    while let Ok(command) = commands.recv() {
        let outcome = match command {
            Command::Answer { query, label, seconds } => answer(shared, query, label, seconds),
            Command::Undo { query } => amend(shared, query, None),
            Command::Relabel { query, label } => amend(shared, query, Some(label)),
            Command::Pause => change(shared, |desk| desk.paused = true),
            Command::Go => change(shared, |desk| desk.paused = false),
            Command::Compare { text, draw } => change(shared, |desk| desk.compare = Some((text, draw))),
            Command::Save => change(shared, |desk| desk.save = true),
            Command::Stop => {
                shared.stop();
                Ok(())
            }
        };
        if let Err(reason) = outcome {
            shared.tell(reason);
        }
        shared.changed.notify_all();
    }
}

fn change(shared: &Shared, change: impl FnOnce(&mut Desk)) -> Result<(), String> {
    change(&mut lock(&shared.desk));
    Ok(())
}

fn answer(shared: &Shared, query: u64, label: Label, seconds: f64) -> Result<(), String> {
    let mut desk = lock(&shared.desk);
    let given = desk.book.answer(query, label, seconds)?;
    // Still under the lock: the worker counts what it takes.
    shared.show(|view| {
        if let Some(i) = view.questions.iter().position(|question| question.query == query) {
            let question = view.questions.remove(i);
            Arc::make_mut(&mut view.answered).push(question);
        }
        Arc::make_mut(&mut view.labels).insert(query, given);
        view.given += 1;
    });
    Ok(())
}

fn amend(shared: &Shared, query: u64, label: Option<Label>) -> Result<(), String> {
    let answered = lock(&shared.view).labels.contains_key(&query);
    lock(&shared.desk).book.amend(query, label, answered)?;
    shared.show(|view| {
        if let Some(given) = Arc::make_mut(&mut view.labels).get_mut(&query) {
            given.label = label.unwrap_or(Label::Skip);
        }
        view.undone.retain(|other| *other != query);
        if label.is_none() {
            view.undone.push(query);
        }
    });
    Ok(())
}

// ----------------------------------------------------------------------------------------------------------- the worker

/// How often the worker looks up while it has nothing to do: it is notified of everything.
const LOOK_UP: Duration = Duration::from_millis(200);

/// What the worker does next.
enum Next {
    Update(Vec<Event>),
    Compare(String, u64),
    Save,
    Stop,
}

fn work(begin: Begin, path: &Path, shared: &Shared) {
    let mut claimed = None;
    let outcome = teach(begin, path, &mut claimed, shared);
    // From here on nobody collects answers, nor writes anything: others may.
    lock(&shared.desk).book.close();
    drop(claimed);
    shared.show(|view| {
        view.questions.clear();
        view.phase = match outcome {
            Ok(()) => Phase::Stopped,
            Err(error) => Phase::Failed(error.to_string()),
        };
    });
}

/// Takes a session as far as the window lets it, and saves it. Its folder stays claimed until `claimed` is dropped.
fn teach(begin: Begin, path: &Path, claimed: &mut Option<Folder>, shared: &Shared) -> Result<(), LmError> {
    let device = |choice| device::pick(choice);
    let config = match begin {
        Begin::Open => read_config(path)?,
        Begin::New(config) => *config,
        Begin::Make(mut config, making) => {
            shared.show(|view| view.config = Some(Arc::new((*config).clone())));
            if !make(&making, &device(making.config.device)?, shared)? {
                return Ok(());
            }
            config.model = making.path.join("model");
            *config
        }
    };
    shared.show(|view| (view.config, view.phase) = (Some(Arc::new(config.clone())), Phase::Opening));
    let device = device(config.device)?;
    let folder = match path.join("config.toml").exists() {
        true => Folder::open_to_write(path)?,
        false => create(path, &config)?,
    };
    *claimed = Some(folder.clone());
    let (mut session, ledger, events) = Session::open(&folder, &device, &|message| shared.tell(message))?;
    let last = events.iter().map(Event::session).max().map_or(0, |last| last as usize);
    let given = |a: &Answer| (a.query, Given { label: a.label, seconds: a.seconds, repeat: a.repeat });
    let labels = Arc::new(answers(&events).iter().map(given).collect());
    let undone = undone(&events);
    shared.show(|view| {
        view.labels = labels;
        view.undone = undone;
        view.remarks = Arc::new(session.material.remarks.clone());
        view.reports = Arc::new(session.reports.clone());
    });
    let show = |session: &Session, _: Doing| {
        shared.show(|view| view.phase = Phase::CatchingUp(session.lesson.updates, last));
    };
    let left = session.catch_up(&events, &shared.stop, &show)?;
    if let Some(left) = left {
        open_book(&session, ledger, left, &events, shared);
        go_on(&mut session, shared)?;
    }
    // What nothing was learned in is as quick to begin anew.
    if session.lesson.trainee.step > 0 {
        session.save()?;
    }
    Ok(())
}

/// Makes the model to begin with; whether it is finished.
fn make(making: &Making, device: &Device, shared: &Shared) -> Result<bool, LmError> {
    let Making { config, path } = making;
    let progress = Mutex::new(MakingProgress::default());
    let show = |shown: Shown<'_>| {
        let mut now = lock(&progress);
        match shown {
            Shown::Note(note) => note.clone_into(&mut now.note),
            Shown::Preparing(what, done, of) => now.note = format!("{what}: {done} of {of}"),
            Shown::Step(step, of, metrics, _) => {
                (now.step, now.of, now.loss) = (step, of, metrics.get("loss").or(now.loss));
            }
            Shown::Evaluation(_) => return,
        }
        let now = now.clone();
        shared.show(|view| view.phase = Phase::Making(now));
    };
    let outcome = match path.join("config.toml").exists() {
        true => run::resume(path, &[], device, &shared.stop, &show)?,
        false => run::train(config, path, device, &shared.stop, &show)?,
    };
    Ok(matches!(outcome, LmOutcome::Finished(_)))
}

/// Lets the clerk take answers. `left` takes effect in the next update.
fn open_book(session: &Session, ledger: Ledger, left: Vec<Event>, events: &[Event], shared: &Shared) {
    let answered = events.iter().filter_map(|event| match event {
        Event::Answer(answer) => session.lesson.questions.get(usize::try_from(answer.query).ok()?).cloned(),
        _ => None,
    });
    let answered: Vec<Arc<Question>> = answered.collect();
    let given = left.iter().filter(|event| matches!(event, Event::Answer(_))).count();
    let mut desk = lock(&shared.desk);
    desk.book.ledger = Some(ledger);
    desk.book.session = session.lesson.updates as u64;
    desk.book.given = left;
    drop(desk);
    shared.show(|view| (view.answered, view.given) = (Arc::new(answered), given));
    publish(session, shared);
}

/// Questions and reports as they are now.
fn publish(session: &Session, shared: &Shared) {
    let mut desk = lock(&shared.desk);
    // Questions that were answered since, but not handed over, are closed already.
    let closed: Vec<u64> = desk.book.given.iter().map(query_of).collect();
    let open = || session.lesson.pending().filter(|question| !closed.contains(&question.query));
    let asked = |question: &Arc<Question>| {
        let [first, second] = question.sides();
        (question.query, Asked { step: question.step as u64, first, second, why: question.why, repeat: None })
    };
    desk.book.open = open().map(asked).collect();
    let questions = open().cloned().collect();
    // Under the lock of the desk: an answer that comes now must not bring its question back.
    shared.show(|view| {
        view.questions = questions;
        view.reports = Arc::new(session.reports.clone());
    });
}

/// Teaches until the window stops it.
fn go_on(session: &mut Session, shared: &Shared) -> Result<(), LmError> {
    let show = |doing: Doing| {
        shared.show(|view| {
            view.phase = match doing {
                Doing::Writing => Phase::Writing,
                Doing::Learning(step, of) => Phase::Learning(step, of),
                Doing::Measuring => Phase::Measuring,
            };
        });
    };
    let mut compared: Option<(String, u64)> = None;
    loop {
        match next(session, shared) {
            Next::Stop => return Ok(()),
            Next::Save => match session.save() {
                Ok(summary) => shared.show(|view| view.saved = Some(Arc::new(summary))),
                Err(error) => shared.tell(format!("the model was not saved: {error}; the session goes on")),
            },
            Next::Compare(text, draw) => {
                compare(session, &text, draw, shared);
                compared = Some((text, draw));
            }
            Next::Update(events) => {
                if !session.update(&events, &shared.stop, &|_, doing| show(doing))? {
                    return Ok(());
                }
                show(Doing::Writing);
                let asked = session.ask(&shared.stop)?;
                publish(session, shared);
                if asked.is_none() {
                    return Ok(());
                }
                if let Some((text, draw)) = &compared {
                    compare(session, text, *draw, shared);
                }
            }
        }
    }
}

fn compare(session: &Session, text: &str, draw: u64, shared: &Shared) {
    match complete(&session.material, &session.lesson.trainee.model, text, draw, &shared.stop) {
        Ok(completions) => {
            let updates = session.lesson.updates;
            let comparison = Comparison { text: text.to_owned(), draw, updates, completions };
            shared.show(|view| view.comparison = Some(Arc::new(comparison)));
        }
        Err(error) => shared.tell(error.to_string()),
    }
}

/// Waits until there is something to do.
fn next(session: &Session, shared: &Shared) -> Next {
    let mut desk = lock(&shared.desk);
    loop {
        if shared.stop.load(Ordering::Relaxed) {
            return Next::Stop;
        }
        if std::mem::take(&mut desk.save) {
            return Next::Save;
        }
        if let Some((text, draw)) = desk.compare.take() {
            return Next::Compare(text, draw);
        }
        if !desk.paused && due(&session.lesson, &session.material, &desk.book.given) {
            // What is said from here on takes effect in the update after this one.
            desk.book.session = session.lesson.updates as u64 + 1;
            let given = std::mem::take(&mut desk.book.given);
            let answers = given.iter().filter(|event| matches!(event, Event::Answer(_))).count();
            shared.show(|view| view.given -= answers.min(view.given));
            return Next::Update(given);
        }
        let phase = if desk.paused { Phase::Paused } else { Phase::Waiting };
        if lock(&shared.view).phase != phase {
            shared.show(|view| view.phase = phase);
        }
        desk = shared.changed.wait_timeout(desk, LOOK_UP).unwrap_or_else(|e| e.into_inner()).0;
    }
}
