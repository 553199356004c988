//! The engine behind the panels of a run: an agent learns while it is watched, and a person answers.
//!
//! The clerk writes an answer to the ledger and syncs it before it counts, while the worker may be in the middle of an
//! iteration. The number of the exchange in which an answer takes effect is stamped on it under the lock that the worker
//! takes to collect answers. So the ledger says exactly what training saw, and when.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use super::book::{Answers, Book, Given, OpenQuestion, Saying};
use super::desk::{Desk, Engine, LOOK_UP};
use super::snapshot::{ClipPair, Episode, RunPhase, RunView, Slice, SliceRequest};
use crate::control::config::{Config, Rater};
use crate::control::drlhp::{self, Compared, Report, Run, SegmentQuery};
use crate::control::run::{self, Answers as Recorded, Host, Outcome, Reopened, RunError};
use crate::device;
use crate::disk::{Clock, Folder};
use crate::preference::ledger::Ledger;
use crate::preference::{Event, Label};

/// A run going on in threads of its own. The worker holds the claim on its folder until the run has ended.
pub type RunEngine = Engine<RunCommand, RunView>;

/// What a window can ask of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RunCommand {
    /// Takes what a person says.
    Say(Saying),
    /// Stops training until [`RunCommand::Go`]; answers are still taken.
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
}

/// What lies between clerk and worker.
#[derive(Default)]
struct Tray {
    book: Book,
    paused: bool,
    /// Iterations to take although paused.
    steps: usize,
    checkpoint: bool,
    speed_limit: Option<f64>,
    episode: bool,
    slice: Option<SliceRequest>,
}

type RunDesk = Desk<Tray, RunView>;

impl RunEngine {
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
        let view = RunView::new(folder.path.clone(), config);
        Self::launch(view, |view| &mut view.messages, wake, clerk, move |desk| work(folder, desk))
    }
}

fn clerk(desk: &RunDesk, command: RunCommand) -> Result<(), String> {
    let mut tray = desk.tray();
    match command {
        RunCommand::Say(saying) => {
            tray.book.write(saying)?;
            show_answers(desk, &tray);
        }
        RunCommand::Pause => tray.paused = true,
        RunCommand::Go => tray.paused = false,
        RunCommand::Step => tray.steps += 1,
        RunCommand::Checkpoint => tray.checkpoint = true,
        RunCommand::SpeedLimit(limit) => tray.speed_limit = limit,
        RunCommand::Episode => tray.episode = true,
        RunCommand::Slice(request) => tray.slice = Some(request),
    }
    Ok(())
}

/// Under the lock of the tray: a question that is answered now must not come back.
fn show_answers(desk: &RunDesk, tray: &Tray) {
    desk.show(|view| view.answers = tray.book.answers.clone());
}

// ----------------------------------------------------------------------------------------------------------- the worker

struct Worker<'a> {
    desk: &'a RunDesk,
    recorded: Recorded,
    /// The last exchange that the ledger knew when the run was opened.
    last_session: Option<u64>,
    /// Handed to the clerk when the run has caught up with its ledger.
    person_ledger: Option<Ledger>,
    /// Every pair that was asked about, by query.
    pairs: Arc<BTreeMap<u64, Arc<ClipPair>>>,
    /// When the present iteration began.
    began: Instant,
    episodes: u64,
}

/// Opens the folder and trains until the run or the window ends it. A finished run can still be looked at.
fn work(folder: Folder, desk: &RunDesk) {
    let (outcome, worker) = match open(&folder, desk) {
        Ok((run, clock, mut worker)) => (run::execute(run, &folder, clock, &mut worker), Some(worker)),
        Err(error) => (Err(error), None),
    };
    let finished = matches!(outcome, Ok(Outcome::Finished(_)));
    // From here on nobody collects answers or writes to the folder, so others may.
    let mut tray = desk.tray();
    tray.book.close();
    show_answers(desk, &tray);
    drop(tray);
    let to_read = folder.to_read();
    drop(folder);
    let phase = match outcome {
        Ok(Outcome::Finished(summary)) => RunPhase::Finished(summary),
        Ok(Outcome::Interrupted { .. }) => RunPhase::Stopped,
        Err(error) => RunPhase::Failed(error.to_string()),
    };
    let failure = match &phase {
        RunPhase::Failed(reason) => Some(format!(
            "The run ended: {reason}. Every answer is kept, and what was learned up to the last checkpoint"
        )),
        _ => None,
    };
    desk.show(|view| view.phase = phase);
    failure.into_iter().for_each(|failure| desk.tell(failure));
    if let Some(mut worker) = worker.filter(|_| finished)
        && let Err(error) = worker.exhibit(&to_read)
    {
        desk.tell(error.to_string());
    }
}

fn open<'a>(folder: &Folder, desk: &'a RunDesk) -> Result<(Run, Clock, Worker<'a>), RunError> {
    // This has the changes, too, that take effect only after the run has caught up.
    let config = folder.config()?;
    let device = device::pick(config.device)?;
    let Reopened { run, clock, ledger, events } = folder.reopen(&device, &mut |message| desk.tell(message))?;
    // Bad lines were told when the folder was reopened.
    let reports = folder.metrics(&mut |_| ())?;
    desk.tray().book.answers = Answers::of(&events);
    let total_steps = config.preferences.random_steps + config.iterations() * config.rollout_len();
    desk.show(|view| {
        let past = Arc::make_mut(&mut view.past);
        reports.into_iter().for_each(|report| past.push(report));
        view.progress.total_steps = total_steps;
        view.progress.labels = config.preferences.labels;
    });
    let simulated = run.config.preferences.rater == Rater::Simulated;
    let (for_teacher, for_person) = if simulated { (Some(ledger), None) } else { (None, Some(ledger)) };
    let ledger = folder.ledger();
    let mut worker = Worker {
        desk,
        last_session: events.iter().map(Event::session).max(),
        recorded: Recorded::new(events, for_teacher, ledger),
        person_ledger: for_person,
        pairs: Arc::default(),
        began: Instant::now(),
        episodes: 0,
    };
    worker.show(&run, RunPhase::Training);
    Ok((run, clock, worker))
}

impl Host for Worker<'_> {
    fn answer(&mut self, question: &SegmentQuery) -> Result<Label, RunError> {
        let label = self.recorded.answer(question)?;
        let mut tray = self.desk.tray();
        tray.book.answers.add(question.query, Given { label, seconds: None, repeat: None });
        show_answers(self.desk, &tray);
        Ok(label)
    }

    fn exchange(&mut self, run: &Run, waits: bool) -> Result<Option<Vec<Event>>, RunError> {
        let now = run.sessions as u64;
        if self.last_session.is_some_and(|last| now <= last) {
            self.show(run, RunPhase::CatchingUp);
            return self.recorded.exchange(run, waits);
        }
        if let Some(ledger) = self.person_ledger.take() {
            self.desk.tray().book.begin(ledger, now);
        }
        self.show(run, if waits { RunPhase::Waiting } else { RunPhase::Training });
        // What is said from here on takes effect in the exchange after this one.
        let take = |tray: &mut Tray| tray.book.hand_over(now + 1);
        // A pause has been kept after the last iteration already. Only waiting takes time here.
        if !waits {
            let mut tray = self.desk.tray();
            return Ok((!self.desk.stopped()).then(|| take(&mut tray)));
        }
        let events = self.pause(run, |tray| !tray.book.given.is_empty(), take);
        self.desk.show(|view| view.phase = RunPhase::Training);
        Ok(events)
    }

    fn iterated(&mut self, run: &Run, report: &Report) -> bool {
        let seconds = self.began.elapsed().as_secs_f64();
        let steps = run.config.rollout_len() as f64;
        self.desk.show(|view| {
            Arc::make_mut(&mut view.past).push(report.clone());
            view.progress.steps_per_second = steps / seconds.max(1e-9);
        });
        self.show(run, RunPhase::Training);
        let began = self.began;
        let due = move |tray: &Tray| {
            tray.speed_limit.is_none_or(|limit| began.elapsed().as_secs_f64() >= steps / limit.max(1e-3))
        };
        let on = self.pause(run, due, |_| ()).is_some();
        self.began = Instant::now();
        on
    }

    fn wants_checkpoint(&mut self) -> bool {
        std::mem::take(&mut self.desk.tray().checkpoint)
    }
}

impl<'a> Worker<'a> {
    /// Shows what the window asks for of a finished run, until it is closed.
    fn exhibit(&mut self, folder: &Folder) -> Result<(), RunError> {
        let device = device::pick(folder.config()?.device)?;
        let Some((run, _)) = folder.newest_state(&device, &mut |_| {})? else { return Ok(()) };
        let mut tray = self.desk.tray();
        while !self.desk.stopped() {
            tray = self.look(&run, tray);
            tray = self.desk.wait(tray, LOOK_UP);
        }
        Ok(())
    }

    /// Makes what the window wants to see: an episode, a slice of the reward.
    fn look(&mut self, run: &Run, mut tray: MutexGuard<'a, Tray>) -> MutexGuard<'a, Tray> {
        if std::mem::take(&mut tray.episode) {
            drop(tray);
            if let Some(episode) = Episode::of(run, self.episodes) {
                self.episodes += 1;
                self.desk.show(|view| view.episode = Some(Arc::new(episode)));
            }
            tray = self.desk.tray();
        }
        if let Some(request) = tray.slice.take() {
            drop(tray);
            match Slice::of(run, request) {
                Ok(slice) => self.desk.show(|view| view.slice = Some(Arc::new(slice))),
                Err(reason) => self.desk.tell(reason),
            }
            tray = self.desk.tray();
        }
        tray
    }

    /// Shows what the window asks for until training may go on, and then calls `take`. `None` ends the run.
    fn pause<T>(&mut self, run: &Run, ready: impl Fn(&Tray) -> bool, take: impl FnOnce(&mut Tray) -> T) -> Option<T> {
        let mut shown = None;
        let mut tray = self.desk.tray();
        loop {
            tray = self.look(run, tray);
            if self.desk.stopped() {
                return None;
            }
            if (!tray.paused || tray.steps > 0) && ready(&tray) {
                tray.steps = tray.steps.saturating_sub(1);
                return Some(take(&mut tray));
            }
            let phase = if tray.paused { Some(RunPhase::Paused) } else { None };
            if phase != shown {
                let waits = drlhp::waits(run);
                let phase = phase.clone().unwrap_or(if waits { RunPhase::Waiting } else { RunPhase::Training });
                self.desk.show(|view| view.phase = phase);
            }
            shown = phase;
            // Nobody notifies the worker when it has waited long enough for a speed limit.
            let patience = if tray.speed_limit.is_some() { LOOK_UP / 20 } else { LOOK_UP };
            tray = self.desk.wait(tray, patience);
        }
    }

    /// Brings the view up to date.
    fn show(&mut self, run: &Run, phase: RunPhase) {
        for compared in run.comparisons.iter().chain(&run.pending) {
            if !self.pairs.contains_key(&compared.query) {
                Arc::make_mut(&mut self.pairs).insert(compared.query, Arc::new(ClipPair::of(run, compared)));
            }
        }
        let mut tray = self.desk.tray();
        let live = self.person_ledger.is_none() && run.config.preferences.rater == Rater::Person;
        let asked = |q: &Compared| {
            let sides = [q.first.id(), q.second.id()];
            (q.query, OpenQuestion { step: q.step as u64, sides, why: q.why, repeat: q.repeat })
        };
        tray.book.open(run.pending.iter().filter(|_| live).map(asked));
        self.desk.show(|view| {
            view.phase = phase;
            view.progress.env_steps = run.env_steps;
            view.pairs = Arc::clone(&self.pairs);
            view.answers = tray.book.answers.clone();
        });
    }
}
