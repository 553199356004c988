//! A run and its folder: what is written when, and how a run is continued or repeated from it.
//!
//! ```text
//! runs/<name>/
//!   config.toml      resolved configuration, as the run began
//!   changes.jsonl    changes of the configuration since then; see [`crate::disk::changes`]
//!   beginning.safetensors  the policy that the run began with, where it did not begin with random weights
//!   labels.jsonl     the ledger of questions and answers
//!   metrics.jsonl    one object for each iteration; names in [`crate::control::drlhp::Report`]
//!   tb/              the same as TensorBoard events
//!   checkpoints/     iteration-000012.safetensors: everything needed to go on exactly
//!   figures/         learning curve
//!   exports/         what was exported from the window
//!   summary.json     what --json printed; of a run that was extended since, summary-000003000.json and so on
//!   .pairwise.lock   who writes to the folder ([`crate::disk::lock`])
//! ```

mod answers;
mod begin;
mod changes;
pub mod checkpoint;
pub mod curve;
mod error;
pub mod export;
pub mod film;
mod folder;
pub mod moment;
pub mod past;
pub mod policy;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use toml::Table;

pub use self::answers::Answers;
pub use self::begin::Reopened;
use self::begin::begin;
use self::changes::Changes;
pub use self::changes::planned;
pub use self::error::RunError;
pub use self::folder::Summary;
use self::policy::BEGINNING;
use crate::control::config::{Config, Rater, RewardSource};
use crate::control::drlhp::{self, ExchangeError, Halt, Report, RewardMetrics, Run, SegmentQuery};
use crate::control::epic::epic;
use crate::control::rl::evaluate::evaluate;
use crate::disk::tensorboard::EventFile;
use crate::disk::{Clock, DiskError, Folder, lines};
use crate::finite::NotFinite;
use crate::preference::ledger::{self, Ledger};
use crate::preference::{Event, Label};

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All iterations are done.
    Finished(Box<Summary>),
    /// It was asked to stop, or waits for a person's answers, and wrote a checkpoint.
    Interrupted {
        /// Iterations done.
        iteration: usize,
        /// Whether a person has to answer before it can go on.
        waiting: bool,
    },
}

/// Starts a run in a new folder and takes it to its end.
///
/// # Errors
/// [`RunError`]; when the folder cannot be set up, nothing is left of it.
pub fn train(
    config: Config,
    path: &Path,
    device: &Device,
    stop: &AtomicBool,
    observe: &mut dyn FnMut(&Run, &Report),
) -> Result<Outcome, RunError> {
    let clock = Clock::new();
    let run = drlhp::start(config, device)?;
    let folder = Folder::create(path, &run.config)?;
    let run = begin(run, Some(&folder.file(BEGINNING)), device)?;
    let ledger = Ledger::create(&folder.ledger())?;
    let answers = Answers::new(Vec::new(), Some(ledger), folder.ledger());
    execute(run, &folder, clock, &mut Headless { answers, set: None, stop, observe })
}

/// A whole run without a folder, answered by its simulated teacher: for benchmarks.
///
/// # Errors
/// When the environment does not exist.
pub fn in_memory(config: Config, device: &Device) -> Result<Summary, RunError> {
    let clock = Clock::new();
    let run = simulated_run(config, device)?;
    summarize(&run, Path::new(""), &clock)
}

/// As [`in_memory`], but returns the run itself.
///
/// # Errors
/// When the environment does not exist, or the policy to begin with cannot be used.
pub fn simulated_run(config: Config, device: &Device) -> Result<Run, RunError> {
    let mut run = begin(drlhp::start(config, device)?, None, device)?;
    while !drlhp::finished(&run) {
        drlhp::iterate(&mut run, &mut |question| Ok::<_, RunError>(question.simulated))?;
    }
    Ok(run)
}

/// Goes on with an interrupted run from its newest checkpoint; answers given since then are taken from the ledger. What
/// `set` lays over the configuration is recorded, and takes effect as soon as the run has caught up with its ledger; a
/// finished run goes on with more steps.
///
/// # Errors
/// [`RunError`]. `warn` receives what was found damaged and left out.
pub fn resume(
    path: &Path,
    set: &[Table],
    device: &Device,
    stop: &AtomicBool,
    warn: &mut dyn FnMut(String),
    observe: &mut dyn FnMut(&Run, &Report),
) -> Result<Outcome, RunError> {
    let folder = Folder::open_to_write(path)?;
    // Before anything is touched.
    let set = planned(&folder.config()?, set)?.map(|_| set);
    let Reopened { run, clock, ledger, events } = folder.reopen(device, warn)?;
    let answers = Answers::new(events, Some(ledger), folder.ledger());
    execute(run, &folder, clock, &mut Headless { answers, set, stop, observe })
}

/// What a replay found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Replay {
    /// Whether the weights agree to the bit.
    pub agrees: bool,
    /// The first difference in the order of the run, in words.
    pub first_difference: Option<String>,
    /// Hash in `summary.json`.
    pub recorded_sha256: String,
    /// Hash of the repeated run.
    pub replayed_sha256: String,
}

/// Runs a finished run again from its configuration, its ledger and its changes, writing nothing, and compares the
/// weights.
///
/// # Errors
/// [`RunError`] when the folder is not a finished run, or its configuration was edited. `warn` receives what of the
/// metrics cannot be compared.
pub fn replay(
    path: &Path,
    device: &Device,
    warn: &mut dyn FnMut(String),
    observe: &mut dyn FnMut(&Run, &Report),
) -> Result<Replay, RunError> {
    let folder = Folder::open(path)?;
    let summary = folder.summary()?;
    // Refuses an edited configuration, before the ledger is blamed for the differences.
    folder.newest_checkpoint(warn)?;
    let mut differences = Vec::new();
    if let Some((line, reason)) = ledger::first_difference(&folder.ledger())? {
        differences.push(format!("labels.jsonl line {line}: {reason}"));
    }
    let events = ledger::read_events_unchecked(&folder.ledger())?;
    let recorded: BTreeMap<usize, String> =
        folder.metrics(warn)?.into_iter().map(|report| (report.env_steps, report.weights_sha256)).collect();
    let run = drlhp::start(folder.first_config()?, device)?;
    let mut run = begin(run, Some(&folder.file(BEGINNING)), device)?;
    let mut changes = Changes::open(&folder, &run)?;
    let mut answers = Answers::new(events, None, folder.ledger());
    let mut weights_difference = None;
    let mut missing = 0;
    loop {
        changes.take_effect(&mut run)?;
        if drlhp::finished(&run) {
            break;
        }
        let turn =
            turn(&mut run, &folder, &mut |run, waits| answers.exchange(run, waits)).and_then(|turn| match turn {
                Turn::Again => Ok(None),
                Turn::Train => drlhp::iterate(&mut run, &mut |question| answers.answer(question)).map(Some),
                Turn::End => Err(answers.ends(run.comparisons.len() as u64)),
            });
        let report = match turn {
            Ok(Some(report)) => report,
            Ok(None) => continue,
            Err(error) => {
                answers.differences.push(error.to_string());
                break;
            }
        };
        match recorded.get(&report.env_steps) {
            // A missing line says nothing about the weights.
            None => missing += 1,
            Some(weights) if *weights != report.weights_sha256 && weights_difference.is_none() => {
                let iteration = report.iteration;
                weights_difference =
                    Some(format!("iteration {iteration}: the weights differ from those in metrics.jsonl"));
            }
            Some(_) => {}
        }
        observe(&run, &report);
    }
    if missing > 0 {
        warn(format!(
            "{}: has no readable line for {missing} iterations: their weights could not be compared",
            folder.file("metrics.jsonl").display()
        ));
    }
    let replayed_sha256 = drlhp::weights_sha256(&run);
    differences.extend(answers.differences);
    differences.extend(weights_difference);
    differences.extend(changes.all_were_due(&run).err().map(|error| error.to_string()));
    if replayed_sha256 != summary.weights_sha256 {
        differences.push("the final weights differ from those in summary.json".to_owned());
    }
    Ok(Replay {
        agrees: differences.is_empty(),
        first_difference: differences.into_iter().next(),
        recorded_sha256: summary.weights_sha256,
        replayed_sha256,
    })
}

/// What a run needs from its surroundings.
pub trait Host {
    /// The answer to a simulated teacher's question, once it is safely stored.
    ///
    /// # Errors
    /// When it cannot be stored, or the ledger answers another question.
    fn answer(&mut self, question: &SegmentQuery) -> Result<Label, RunError>;

    /// What a person did since the last exchange; `None` ends the run here. If training `waits`, it must not be empty.
    ///
    /// # Errors
    /// When the ledger does not belong to this run.
    fn exchange(&mut self, run: &Run, waits: bool) -> Result<Option<Vec<Event>>, RunError>;

    /// Called after each iteration; whether to go on. Otherwise the run ends here, with a checkpoint.
    fn iterated(&mut self, run: &Run, report: &Report) -> bool;

    /// Layers for the configuration from now on. Asked before every exchange and iteration, and once more when the run
    /// is finished.
    fn set(&mut self, _run: &Run) -> Option<Vec<Table>> {
        None
    }

    /// Whether a checkpoint was asked for.
    fn wants_checkpoint(&mut self) -> bool {
        false
    }
}

/// Takes a run from where it is to its end, or to where its host ends it, and writes to its folder.
///
/// # Errors
/// [`RunError`]
///
/// # Panics
/// When the folder is not claimed.
pub fn execute(run: Run, folder: &Folder, clock: Clock, host: &mut dyn Host) -> Result<Outcome, RunError> {
    folder.assert_claimed();
    go_on(run, folder, clock, host).map_err(|error| match error {
        RunError::Halted { source, .. } => {
            let checkpoint = folder.checkpoints().ok().and_then(|mut all| all.pop());
            RunError::Halted { source, checkpoint }
        }
        other => other,
    })
}

fn go_on(mut run: Run, folder: &Folder, clock: Clock, host: &mut dyn Host) -> Result<Outcome, RunError> {
    let mut changes = Changes::open(folder, &run)?;
    // Once before anything is written: a change may be refused.
    changes.next(&mut run, |run| host.set(run))?;
    let mut metrics = folder.open_metrics()?;
    // Bad lines were reported when the folder was opened.
    let mut events = EventFile::create(&folder.file("tb"))?;
    for report in folder.metrics(&mut |_| ())? {
        events.append(report.env_steps as u64, &report)?;
    }
    loop {
        changes.next(&mut run, |run| host.set(run))?;
        if drlhp::finished(&run) {
            break;
        }
        match turn(&mut run, folder, &mut |run, waits| host.exchange(run, waits))? {
            Turn::Train => {}
            Turn::Again => continue,
            Turn::End => {
                folder.save_checkpoint(&run, &clock, changes.seen())?;
                let waiting = drlhp::waits(&run);
                return Ok(Outcome::Interrupted { iteration: run.iteration, waiting });
            }
        }
        let report = drlhp::iterate(&mut run, &mut |question| host.answer(question))?;
        // The line goes out in one write, so that a kill tears at most the last one.
        let path = folder.file("metrics.jsonl");
        metrics.write_all(lines::line(&report).as_bytes()).map_err(DiskError::io(&path, "write metrics"))?;
        events.append(report.env_steps as u64, &report)?;
        let interrupted = !host.iterated(&run, &report);
        let wanted = host.wants_checkpoint();
        if wanted || interrupted || run.iteration.is_multiple_of(run.config.checkpoint_every) || drlhp::finished(&run) {
            folder.save_checkpoint(&run, &clock, changes.seen())?;
        }
        if interrupted && !drlhp::finished(&run) {
            return Ok(Outcome::Interrupted { iteration: run.iteration, waiting: false });
        }
    }
    changes.all_were_due(&run)?;
    let summary = summarize(&run, &folder.path, &clock)?;
    curve::learning_curve(&folder.file("figures").join("learning.svg"), &run.config, &folder.metrics(&mut |_| ())?)?;
    folder.write_summary(&summary)?;
    Ok(Outcome::Finished(Box::new(summary)))
}

/// [`Host::exchange`] as a function.
type Handover<'a> = dyn FnMut(&Run, bool) -> Result<Option<Vec<Event>>, RunError> + 'a;

/// What comes after an exchange with a person.
enum Turn {
    /// An iteration.
    Train,
    /// Another exchange: training waits for answers.
    Again,
    /// Nothing: the run ends here for now.
    End,
}

/// The exchange with a person before an iteration, if one is due. An exchange in which training waits is never empty,
/// so that the ledger alone determines all exchanges.
fn turn(run: &mut Run, folder: &Folder, events: &mut Handover<'_>) -> Result<Turn, RunError> {
    let config = &run.config;
    let alone = config.preferences.rater == Rater::Simulated || config.reward == RewardSource::True;
    if alone || run.env_steps == 0 {
        return Ok(Turn::Train);
    }
    let Some(events) = events(run, drlhp::waits(run))? else { return Ok(Turn::End) };
    drlhp::exchange(run, &events).map_err(|error| match error {
        ExchangeError::Event(source) => RunError::Event { path: folder.ledger(), source },
        ExchangeError::Halt(source) => source.into(),
    })?;
    Ok(if drlhp::waits(run) { Turn::Again } else { Turn::Train })
}

/// A run without a window: answers come from the ledger as far as it goes, then from the simulated teacher.
struct Headless<'a> {
    answers: Answers,
    /// Layers for the configuration, from when the run has caught up with its ledger.
    set: Option<&'a [Table]>,
    stop: &'a AtomicBool,
    observe: &'a mut dyn FnMut(&Run, &Report),
}

impl Host for Headless<'_> {
    fn answer(&mut self, question: &SegmentQuery) -> Result<Label, RunError> {
        self.answers.answer(question)
    }

    fn exchange(&mut self, run: &Run, waits: bool) -> Result<Option<Vec<Event>>, RunError> {
        self.answers.exchange(run, waits)
    }

    fn set(&mut self, run: &Run) -> Option<Vec<Table>> {
        // The answers that the ledger holds already were given under the old configuration.
        let due = drlhp::finished(run) || !self.answers.holds_more(run);
        if due { self.set.take().map(<[Table]>::to_vec) } else { None }
    }

    fn iterated(&mut self, run: &Run, report: &Report) -> bool {
        (self.observe)(run, report);
        !self.stop.load(Ordering::Relaxed)
    }
}

/// Evaluates a finished run.
///
/// # Errors
/// When its environment does not exist.
pub fn summarize(run: &Run, run_dir: &Path, clock: &Clock) -> Result<Summary, RunError> {
    let config = &run.config;
    let evaluation = evaluate(&run.agent, &config.env, config.evaluation_episodes, config.seed)?;
    let returns = evaluation.returns.iter().copied();
    let what = |episode| format!("the return of evaluation episode {episode} of {}", config.env);
    let advice = "the policy drives the environment to states that it cannot compute";
    NotFinite::check(returns, what, || "the end of training".to_owned(), advice).map_err(Halt::from)?;
    let learned = config.reward == RewardSource::Preferences;
    let reward = if learned { drlhp::reward_metrics(run) } else { RewardMetrics::default() };
    Ok(Summary {
        env: config.env.clone(),
        seed: config.seed,
        reward: config.reward,
        true_return_mean: evaluation.mean,
        true_return_std: evaluation.std,
        episodes: evaluation.returns.len(),
        labels_asked: run.labels_asked,
        labels_answered: drlhp::labels_answered(run),
        env_steps: run.env_steps,
        reward_pearson: reward.pearson,
        reward_spearman: reward.spearman,
        epic: if learned { epic(run) } else { None },
        wall_seconds: clock.wall(),
        cpu_seconds: clock.cpu(),
        unfitted_iterations: run.unfitted,
        weights_sha256: drlhp::weights_sha256(run),
        run_dir: run_dir.to_owned(),
    })
}
