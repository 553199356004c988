//! The engine behind the app: a run in threads of its own, which a window talks to without ever waiting for it.
//!
//! ```text
//!   window ──Command──▶ clerk ──ledger, synced──▶ inbox ──events──▶ worker (the run)
//!      ◀───────────────────────── View, newest wins ──────────────────┘
//! ```
//!
//! The **worker** owns the run and every tensor. The **clerk** takes commands; it writes an answer to the ledger and syncs
//! it before the answer counts, while the worker may be in the middle of an iteration. The number of the exchange in
//! which an answer takes effect is stamped on it under the lock that the worker takes to collect answers, so that the
//! ledger says exactly what training saw, and when.
//!
//! **Architecture invariant:** commands go through a bounded channel, and everything that comes back is a snapshot in a
//! slot: a slow window costs neither memory nor speed. Nothing here draws.

mod book;
pub mod language;
pub mod mix;
pub mod shelf;
mod worker;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use self::book::Book;
use crate::control::config::Config;
use crate::control::drlhp::Report;
use crate::control::run::{RunError, Summary};
use crate::disk::Folder;
use crate::preference::ledger::Ledger;
use crate::preference::{Label, Repeat, Why};

/// A run going on in threads of its own.
pub struct Engine {
    /// Where it is kept; the worker holds its claim until the run has ended.
    pub folder: Folder,
    /// What it was started with.
    pub config: Config,
    commands: SyncSender<Command>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What a window can ask of the engine.
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
    /// Stops training until [`Command::Go`]; answers are still taken.
    Pause,
    /// Goes on.
    Go,
    /// Takes one iteration while paused.
    Step,
    /// Writes a checkpoint after this iteration.
    Checkpoint,
    /// At most so many environment steps a second; `None` for as fast as it goes.
    SpeedLimit(Option<f64>),
    /// Rolls out an episode of the present policy, to watch.
    Episode,
    /// Draws the learned reward over two state variables.
    Slice(SliceRequest),
    /// Writes a checkpoint and ends.
    Stop,
}

/// The engine does not take commands at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the run is busy or has ended; nothing was changed")]
pub struct Refused;

/// What a window shows; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// What the run is doing.
    pub phase: Phase,
    /// Where it is.
    pub progress: Progress,
    /// Open questions, the next one first.
    pub questions: Vec<Arc<Pair>>,
    /// Answered questions by query, in the order in which they were answered first.
    pub answered: Arc<Vec<Arc<Pair>>>,
    /// Answers in force by query; "skip" after an answer was taken back.
    pub labels: Arc<BTreeMap<u64, Given>>,
    /// Queries whose answer was taken back and not given again, the last one last: they are asked again.
    pub undone: Vec<u64>,
    /// The newest episode that was asked for.
    pub episode: Option<Arc<Episode>>,
    /// The newest slice of the learned reward that was asked for.
    pub slice: Option<Arc<Slice>>,
    /// What went wrong without ending the run, newest last.
    pub messages: Vec<String>,
    /// Messages so far; only the newest are kept.
    pub told: usize,
}

/// Reports of a run's iterations, the newest and evenly spaced ones before it: a screen has no room for more, and a run of
/// days needs no more memory than one of minutes.
#[derive(Debug, Clone)]
pub struct Past {
    /// At most [`PAST`] reports, oldest first; the last one is the newest.
    pub reports: Vec<Report>,
    /// One iteration of so many is kept, from the first one on.
    pub every: usize,
    /// Iterations so far.
    pub iterations: usize,
}

/// What a run is doing.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Phase {
    /// Reading the run folder.
    #[default]
    Opening,
    /// Repeating what is in the ledger already.
    CatchingUp,
    /// Training.
    Training,
    /// Training is as far ahead of the answers as it may be.
    Waiting,
    /// Paused.
    Paused,
    /// Done.
    Finished(Box<Summary>),
    /// Ended before its end, with a checkpoint.
    Stopped,
    /// Ended by an error; everything up to the last checkpoint and every acknowledged label is kept.
    Failed(String),
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Progress {
    /// Environment steps taken.
    pub env_steps: usize,
    /// Environment steps in all.
    pub total_steps: usize,
    /// Environment steps a second over the last iteration.
    pub steps_per_second: f64,
    /// Questions answered or skipped by now; hidden repeats do not count.
    pub resolved: usize,
    /// Questions in all.
    pub labels: usize,
}

/// An answer in force.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Given {
    /// The answer.
    pub label: Label,
    /// Seconds it took; `None` for a simulated teacher.
    pub seconds: Option<f64>,
    /// The earlier pair that was shown again.
    pub repeat: Option<Repeat>,
}

/// Two clips to compare.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// Number of the query.
    pub query: u64,
    /// The clips.
    pub clips: [Clip; 2],
    /// Environment steps at which it was asked.
    pub step: usize,
    /// What the ensemble thought of the pair; `None` before the first fit.
    pub why: Option<Why>,
    /// How far it is from all pairs before it: from each clip's mean observation to the nearest one of an earlier clip, in
    /// standard deviations of what the agent has seen (root mean square over the observation), the larger of the two.
    /// `None` for the first pair.
    pub novelty: Option<f64>,
    /// Each member's probability that the first clip is preferred, when it was asked.
    pub predicted: Vec<f64>,
    /// The earlier pair that is shown again. Not for the rater to see.
    pub repeat: Option<Repeat>,
}

/// What an agent did for a while: states to draw, and rewards.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Clip {
    /// `[steps, saved]`
    pub states: Vec<f64>,
    /// `[members][steps]`: predicted rewards, raw.
    pub predicted: Vec<Vec<f32>>,
    /// `[steps]`: true rewards, for metrics only.
    pub true_rewards: Vec<f64>,
}

/// An episode of the policy after some iteration.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Episode {
    /// Number of the episode, from 0.
    pub number: u64,
    /// Environment steps at which the policy was taken.
    pub env_steps: usize,
    /// What happened.
    pub clip: Clip,
    /// `[steps]`: the reward that the agent is trained on, normalised.
    pub reward: Vec<f64>,
    /// EPIC distance of learned and true reward at that time; `None` where there is no true reward to speak of.
    pub epic: Option<f64>,
}

/// What to draw of the learned reward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SliceRequest {
    /// State variable along x.
    pub x: usize,
    /// State variable along y; the same as `x` for a line.
    pub y: usize,
    /// Points along each axis.
    pub points: usize,
}

/// The learned reward over two state variables, all others at the median of what the agent has seen, for no action (the
/// mean over all actions where these are discrete).
#[derive(Debug, Clone, PartialEq)]
pub struct Slice {
    /// What was asked for.
    pub request: SliceRequest,
    /// Environment steps at which it was drawn.
    pub env_steps: usize,
    /// Smallest and largest value along x and y: the middle 98 % of what the agent has seen, or one turn of an angle whose
    /// full turns the agent does not see.
    pub range: [[f64; 2]; 2],
    /// `[points (y), points (x)]`; a line has one row: the reward that the agent is trained on.
    pub reward: Vec<f64>,
    /// The same shape: standard deviation of the members, each normalised.
    pub spread: Vec<f64>,
    /// The same shape: the true reward; empty where what is wanted is not the task's own reward.
    pub truth: Vec<f64>,
    /// Where the answered clips lie, along x and y.
    pub labelled: Vec<[f64; 2]>,
    /// Correlation of learned and true reward over the slice.
    pub correlation: Option<f64>,
}

/// Commands that may wait: more than a person can give while an iteration lasts.
const COMMANDS: usize = 256;

/// Reports kept in memory; the run folder has all.
pub const PAST: usize = 2000;

/// Messages kept.
const MESSAGES: usize = 20;

impl Engine {
    /// Starts a new run. `wake` is called when there is something new to show.
    ///
    /// # Errors
    /// When the run folder cannot be made.
    pub fn start(config: Config, path: &Path, wake: impl Fn() + Send + Sync + 'static) -> Result<Self, RunError> {
        let folder = Folder::create(path, &config)?;
        Ledger::create(&folder.ledger())?;
        Ok(Self::spawn(folder, config, wake))
    }

    /// Goes on with a run from its folder.
    ///
    /// # Errors
    /// When there is no run folder, its configuration cannot be read, or somebody else writes to it.
    pub fn open(path: &Path, wake: impl Fn() + Send + Sync + 'static) -> Result<Self, RunError> {
        let folder = Folder::open_to_write(path)?;
        let config = folder.config()?;
        Ok(Self::spawn(folder, config, wake))
    }

    fn spawn(folder: Folder, config: Config, wake: impl Fn() + Send + Sync + 'static) -> Self {
        let (commands, received) = sync_channel(COMMANDS);
        let shared = Arc::new(Shared { wake: Box::new(wake), ..Shared::default() });
        let clerk = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || clerk(&received, &shared))
        };
        let to_read = folder.to_read();
        let worker = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || worker::work(folder, &shared))
        };
        Self { folder: to_read, config, commands, shared, threads: vec![clerk, worker] }
    }

    /// Sends a command; never waits.
    ///
    /// # Errors
    /// [`Refused`] when the engine has ended, or has hundreds of commands to do still.
    pub fn send(&self, command: Command) -> Result<(), Refused> {
        self.commands.try_send(command).map_err(|e| match e {
            TrySendError::Full(_) | TrySendError::Disconnected(_) => Refused,
        })
    }

    /// What there is to show now.
    #[must_use]
    pub fn view(&self) -> View {
        lock(&self.shared.view).clone()
    }

    /// What has become of the run so far, if it is longer than `known` iterations.
    #[must_use]
    pub fn past(&self, known: usize) -> Option<Past> {
        let past = lock(&self.shared.past);
        (past.iterations > known).then(|| past.clone())
    }

    /// Whether the run has come to an end, one way or the other.
    #[must_use]
    pub fn ended(&self) -> bool {
        matches!(lock(&self.shared.view).phase, Phase::Finished(_) | Phase::Stopped | Phase::Failed(_))
    }

    /// Whether it shows episodes and slices on demand: while it goes on, and after it has finished.
    #[must_use]
    pub fn shows(&self) -> bool {
        !matches!(lock(&self.shared.view).phase, Phase::Stopped | Phase::Failed(_))
    }

    /// Ends the run after this iteration, with a checkpoint, and waits for that.
    pub fn close(self) {
        drop(self);
    }
}

impl Default for Past {
    fn default() -> Self {
        Self { reports: Vec::new(), every: 1, iterations: 0 }
    }
}

impl Past {
    fn push(&mut self, report: Report) {
        // The newest one stays only if its turn has come.
        if self.iterations > 0 && !(self.iterations - 1).is_multiple_of(self.every) {
            self.reports.pop();
        }
        self.reports.push(report);
        self.iterations += 1;
        if self.reports.len() > PAST {
            let mut position = 0..;
            let last = self.reports.len() - 1;
            self.reports.retain(|_| position.next().is_some_and(|i: usize| i.is_multiple_of(2) || i == last));
            self.every *= 2;
        }
    }
}

impl Drop for Engine {
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
    past: Mutex<Past>,
    wake: Box<dyn Fn() + Send + Sync>,
}

/// What lies between clerk and worker.
#[derive(Default)]
struct Desk {
    book: Book,
    paused: bool,
    /// Iterations to take although paused.
    steps: usize,
    stop: bool,
    checkpoint: bool,
    speed_limit: Option<f64>,
    episode: bool,
    slice: Option<SliceRequest>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            desk: Mutex::default(),
            changed: Condvar::new(),
            view: Mutex::default(),
            past: Mutex::default(),
            wake: Box::new(|| {}),
        }
    }
}

impl Shared {
    fn stop(&self) {
        lock(&self.desk).stop = true;
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

/// A lock whose holder panicked still holds whole values: every change is one assignment or one push.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes commands until the window lets go of its end.
fn clerk(commands: &Receiver<Command>, shared: &Shared) {
    while let Ok(command) = commands.recv() {
        let outcome = match command {
            Command::Answer { query, label, seconds } => answer(shared, query, label, seconds),
            Command::Undo { query } => amend(shared, query, None),
            Command::Relabel { query, label } => amend(shared, query, Some(label)),
            other => {
                let mut desk = lock(&shared.desk);
                match other {
                    Command::Pause => desk.paused = true,
                    Command::Go => desk.paused = false,
                    Command::Step => desk.steps += 1,
                    Command::Checkpoint => desk.checkpoint = true,
                    Command::SpeedLimit(limit) => desk.speed_limit = limit,
                    Command::Episode => desk.episode = true,
                    Command::Slice(request) => desk.slice = Some(request),
                    Command::Stop => desk.stop = true,
                    Command::Answer { .. } | Command::Undo { .. } | Command::Relabel { .. } => {}
                }
                Ok(())
            }
        };
        if let Err(reason) = outcome {
            shared.tell(reason);
        }
        shared.changed.notify_all();
    }
}

fn answer(shared: &Shared, query: u64, label: Label, seconds: f64) -> Result<(), String> {
    let given = lock(&shared.desk).book.answer(query, label, seconds)?;
    shared.show(|view| {
        view.questions.retain(|pair| pair.query != query);
        Arc::make_mut(&mut view.labels).insert(query, given);
        view.progress.resolved += usize::from(given.repeat.is_none());
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

/// The folder of a new run: `runs/ENV-sSEED` below `parent`, or the first free name after it.
#[must_use]
pub fn free_folder(parent: &Path, name: &str) -> PathBuf {
    let candidates = std::iter::once(name.to_owned()).chain((2..).map(|n| format!("{name}-{n}")));
    candidates.map(|name| parent.join(name)).find(|path| !path.exists()).expect("names never end")
}

#[cfg(test)]
mod tests {
    use super::{PAST, Past};
    use crate::control::drlhp::Report;

    #[test]
    fn the_past_is_evenly_spaced_and_ends_with_the_newest_report() {
        let mut past = Past::default();
        for iteration in 0..20 * PAST {
            past.push(Report { iteration, ..Report::default() });
            let kept: Vec<usize> = past.reports.iter().map(|report| report.iteration).collect();
            assert!(kept.len() <= PAST);
            let mut expected: Vec<usize> = (0..=iteration).step_by(past.every).collect();
            if expected.last() != Some(&iteration) {
                expected.push(iteration);
            }
            if iteration % 997 == 0 || iteration < 3 * PAST {
                assert_eq!(kept, expected);
            }
        }
        assert_eq!((past.iterations, past.every), (20 * PAST, 32));
    }
}
