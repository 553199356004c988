//! A run and its folder: what is written when, and how a run is continued or repeated from it.
//!
//! ```text
//! runs/<name>/
//!   config.toml      resolved configuration, as the run began
//!   changes.jsonl    what of it was changed since, and when; see [`crate::disk::changes`]
//!   beginning.safetensors  the policy that the run began with, if that is another one's
//!   labels.jsonl     the ledger of questions and answers
//!   metrics.jsonl    one object for each iteration; names in [`crate::control::drlhp::Report`]
//!   tb/              the same as TensorBoard events
//!   checkpoints/     iteration-000012.safetensors: everything needed to go on exactly
//!   figures/         learning curve
//!   exports/         what was exported from the window
//!   summary.json     what --json printed; of a run that was extended since, summary-000003000.json and so on
//!   .pairwise.lock   who writes to the folder ([`crate::disk::lock`])
//! ```

pub mod checkpoint;
pub mod curve;
pub mod export;
pub mod film;
pub mod moment;
pub mod past;
pub mod policy;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use toml::Table;

use self::moment::Moment;
use self::policy::{BEGINNING, Policy};
use crate::control::config::{Config, ConfigError, Rater, RewardSource};
use crate::control::drlhp::{self, EventError, ExchangeError, Halt, Question, Report, Run};
use crate::control::epic::epic;
use crate::control::reward::metrics::RewardMetrics;
use crate::control::rl::evaluate::evaluate;
use crate::device::DeviceError;
use crate::disk::archive::{Archive, ArchiveError, write_atomically};
use crate::disk::changes::{self, CONFIGURATION, Change, Fields, fits_configuration};
use crate::disk::layers::LayerError;
use crate::disk::tensorboard::EventFile;
use crate::disk::{Clock, DiskError, Folder, kept, lines, shown};
use crate::finite::NotFinite;
use crate::preference::ledger::{self, Answer, Ledger, LedgerError, MARK, Mark};
use crate::preference::{Event, Label};

/// What a finished run says of itself; `summary.json`, and the last line with `--json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Environment.
    pub env: String,
    /// Seed.
    pub seed: u64,
    /// What the agent was trained on.
    pub reward: RewardSource,
    /// Mean true return of the evaluation episodes, deterministic actions.
    pub true_return_mean: f64,
    /// Its standard deviation over episodes; `None` of a single one.
    pub true_return_std: Option<f64>,
    /// Evaluation episodes.
    pub episodes: usize,
    /// Questions asked.
    pub labels_asked: usize,
    /// Questions answered with anything but "skip".
    pub labels_answered: usize,
    /// Environment steps taken in training.
    pub env_steps: usize,
    /// Pearson correlation of learned and true reward, step by step, on a uniform sample of all training transitions.
    pub reward_pearson: Option<f64>,
    /// Spearman correlation, likewise.
    pub reward_spearman: Option<f64>,
    /// EPIC distance of learned and true reward.
    pub epic: Option<f64>,
    /// Wall-clock seconds, summed over interruptions.
    pub wall_seconds: f64,
    /// CPU seconds of the process, likewise; `None` where the system does not tell.
    pub cpu_seconds: Option<f64>,
    /// Iterations in which the agent was trained on a reward that had not been fitted to any answer; left out of the file
    /// where there is none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unfitted_iterations: usize,
    /// SHA-256 of all weights.
    pub weights_sha256: String,
    /// Run folder: where it is now. In the file it is only for those who read it.
    #[serde(serialize_with = "shown")]
    pub run_dir: PathBuf,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

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

/// A claimed run folder opened to go on with.
pub struct Reopened {
    /// The newest state.
    pub run: Run,
    /// Time spent until then.
    pub clock: Clock,
    /// The ledger, to append to.
    pub ledger: Ledger,
    /// All that it holds, also what the state does not know yet.
    pub events: Vec<Event>,
}

/// What stops a run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The folder, or what lies in it.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The ledger answers other questions than this run asks.
    #[error("{}: line {line}: {reason}", path.display())]
    Ledger {
        /// File.
        path: PathBuf,
        /// Line, counting from 1.
        line: u64,
        /// What differs.
        reason: String,
    },
    /// The ledger says something that does not belong to this run.
    #[error("{}: {source}", path.display())]
    Event {
        /// File.
        path: PathBuf,
        /// What does not belong.
        source: EventError,
    },
    /// There is no answer to branch at.
    #[error("{}: query {query} has no answer", path.display())]
    NoAnswer {
        /// Ledger.
        path: PathBuf,
        /// The query.
        query: u64,
    },
    /// Training cannot go on.
    #[error("{source}. {}", kept(checkpoint.as_deref()))]
    Halted {
        /// Why.
        source: Halt,
        /// The newest checkpoint, from before it happened.
        checkpoint: Option<PathBuf>,
    },
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The ledger cannot be used.
    #[error(transparent)]
    LedgerFile(#[from] LedgerError),
    /// A change that a run cannot take.
    #[error("{0}")]
    Unchangeable(String),
    /// A policy that a run cannot begin with.
    #[error("init = {}: {problem}", path.display())]
    Beginning {
        /// Its file or run.
        path: PathBuf,
        /// Why not.
        problem: String,
    },
    /// A film cannot be made.
    #[error(transparent)]
    Film(#[from] film::FilmError),
    /// There is no such device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// No such environment.
    #[error(transparent)]
    Env(#[from] pairwise_envs::UnknownEnv),
}

impl From<ArchiveError> for RunError {
    fn from(error: ArchiveError) -> Self {
        Self::Disk(error.into())
    }
}

impl From<LayerError> for RunError {
    fn from(error: LayerError) -> Self {
        Self::Config(error.into())
    }
}

impl From<Halt> for RunError {
    fn from(source: Halt) -> Self {
        Self::Halted { source, checkpoint: None }
    }
}

/// Checkpoints kept: the newest, and one more in case the newest is damaged.
const CHECKPOINTS_KEPT: usize = 2;

// ------------------------------------------------------------------------------------------ start, resume, replay

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
    let mut run = drlhp::start(config, device)?;
    let folder = Folder::create(path, &run.config)?;
    begin(&mut run, Some(&folder.file(BEGINNING)), device)?;
    let ledger = Ledger::create(&folder.ledger())?;
    let answers = Answers::new(Vec::new(), Some(ledger), folder.ledger());
    execute(run, &folder, clock, &mut Headless { answers, set: None, stop, observe })
}

/// Gives a fresh run the policy that its configuration asks for, from this file or run; `None` for the one it names.
fn begin(run: &mut Run, kept: Option<&Path>, device: &Device) -> Result<(), RunError> {
    let Some(init) = run.config.init.clone() else { return Ok(()) };
    let policy = beginning(&run.config, kept.unwrap_or(&init), device)?;
    run.agent.parameters = policy.agent.parameters;
    run.agent.observations = policy.agent.observations;
    Ok(())
}

/// A policy that a run of this configuration can begin with.
fn beginning(config: &Config, path: &Path, device: &Device) -> Result<Policy, RunError> {
    let wrong = |problem: String| RunError::Beginning { path: path.to_owned(), problem };
    let policy = Policy::read(path, device).map_err(|error| wrong(error.to_string()))?;
    let (own, other) = (pairwise_envs::task(&config.env), pairwise_envs::task(&policy.env));
    if own != other {
        return Err(wrong(format!("is a policy of {other}, but the run is of {own}")));
    }
    if (&policy.ppo.hidden, policy.ppo.activation) != (&config.ppo.hidden, config.ppo.activation) {
        return Err(wrong(format!(
            "has hidden layers of {:?}, but ppo.hidden = {:?}: set it to the former",
            policy.ppo.hidden, config.ppo.hidden
        )));
    }
    Ok(policy)
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

/// The same, with all that it learned.
///
/// # Errors
/// When the environment does not exist, or the policy to begin with cannot be used.
pub fn simulated_run(config: Config, device: &Device) -> Result<Run, RunError> {
    let mut run = drlhp::start(config, device)?;
    begin(&mut run, None, device)?;
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

/// What `set` changes of a configuration, and the configuration after it; `None` where that is nothing.
///
/// # Errors
/// When a field may not change, or its value cannot be.
pub fn planned(config: &Config, set: &[Table]) -> Result<Option<(Fields, Config)>, RunError> {
    let new = config.with(set)?;
    let fields = changes::planned(&config.to_table(), &new.to_table(), moment::MAY, moment::MAY_NOT);
    let fields = fields.map_err(RunError::Unchangeable)?;
    Ok((!fields.is_empty()).then_some((fields, new)))
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
    // An edited configuration is not the ledger's fault.
    folder.newest_checkpoint(warn)?;
    let mut differences = Vec::new();
    if let Some((line, reason)) = ledger::first_difference(&folder.ledger())? {
        differences.push(format!("labels.jsonl line {line}: {reason}"));
    }
    let events = ledger::read_events_unchecked(&folder.ledger())?;
    let recorded: BTreeMap<usize, String> =
        folder.metrics(warn)?.into_iter().map(|report| (report.env_steps, report.weights_sha256)).collect();
    let mut run = drlhp::start(folder.first_config()?, device)?;
    begin(&mut run, Some(&folder.file(BEGINNING)), device)?;
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
            // That a line is missing says nothing of the weights.
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
            "{}: has no line that can be read for {missing} iterations: their weights could not be compared",
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

/// What a run needs of the world around it.
pub trait Host {
    /// The answer to a simulated teacher's question, once it is safely stored.
    ///
    /// # Errors
    /// When it cannot be stored, or the ledger answers another question.
    fn answer(&mut self, question: &Question) -> Result<Label, RunError>;

    /// What a person said since the last exchange; `None` ends the run here. Where training `waits`, there has to be
    /// something.
    ///
    /// # Errors
    /// When the ledger does not belong to this run.
    fn exchange(&mut self, run: &Run, waits: bool) -> Result<Option<Vec<Event>>, RunError>;

    /// Called after each iteration; whether to go on. Otherwise the run ends here, with a checkpoint.
    fn iterated(&mut self, run: &Run, report: &Report) -> bool;

    /// What is to be laid over the configuration now, before the next exchange or iteration; asked until the run is
    /// finished and once more then.
    fn set(&mut self, _run: &Run) -> Option<Vec<Table>> {
        None
    }

    /// Whether a checkpoint was asked for.
    fn wants_checkpoint(&mut self) -> bool {
        false
    }
}

/// Takes a run from where it is to its end, or to where its host ends it, and keeps its folder.
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
    changes.next(&mut run, host)?;
    let mut metrics = folder.open_metrics()?;
    // Bad lines were told when the folder was opened.
    let mut events = EventFile::create(&folder.file("tb"))?;
    for report in folder.metrics(&mut |_| ())? {
        events.append(report.env_steps as u64, &report)?;
    }
    loop {
        changes.next(&mut run, host)?;
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
        let io = |source| DiskError::Io { path: folder.file("metrics.jsonl"), action: "write metrics", source };
        metrics.write_all(lines::line(&report).as_bytes()).map_err(io)?;
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

/// The exchange with a person before an iteration, if one is due. An exchange in which training waits never is an empty
/// one, so that the ledger alone determines all of them.
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
    /// What is to be laid over the configuration when the run has caught up with its ledger.
    set: Option<&'a [Table]>,
    stop: &'a AtomicBool,
    observe: &'a mut dyn FnMut(&Run, &Report),
}

impl Host for Headless<'_> {
    fn answer(&mut self, question: &Question) -> Result<Label, RunError> {
        self.answers.answer(question)
    }

    fn exchange(&mut self, run: &Run, waits: bool) -> Result<Option<Vec<Event>>, RunError> {
        self.answers.exchange(run, waits)
    }

    fn set(&mut self, run: &Run) -> Option<Vec<Table>> {
        // What the ledger holds already was said under the old configuration.
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
    let advice = "the policy drives the environment out of what it can compute";
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

/// Answers questions from the ledger as far as it goes, then from the simulated teacher.
pub struct Answers {
    /// The events of the ledger when the run was opened.
    recorded: Vec<Event>,
    /// Where new answers go; `None` in a replay.
    ledger: Option<Ledger>,
    path: PathBuf,
    /// Where a replay's ledger differs from what the run would have recorded.
    differences: Vec<String>,
}

impl Answers {
    /// Answers from a ledger at `path` that holds `recorded`; without a `ledger` to write to, the run is a replay.
    #[must_use]
    pub fn new(recorded: Vec<Event>, ledger: Option<Ledger>, path: PathBuf) -> Self {
        Self { recorded, ledger, path, differences: Vec::new() }
    }

    /// The answer to a simulated teacher's question.
    ///
    /// # Errors
    /// When the ledger answers another question, or cannot be written to.
    pub fn answer(&mut self, question: &Question) -> Result<Label, RunError> {
        let index = usize::try_from(question.query).unwrap_or(usize::MAX);
        match self.recorded.get(index) {
            Some(Event::Answer(answer)) => {
                let clips = [&question.first, &question.second];
                if answer.query != question.query || [&answer.first, &answer.second] != clips {
                    let reason = format!(
                        "the ledger answers query {} on clips {} and {}, this run asks query {} on clips {} and {}",
                        answer.query, answer.first, answer.second, question.query, question.first, question.second
                    );
                    return Err(self.error(question.query, reason));
                }
                let changed = answer.rater == past::BRANCHED;
                if answer.label != question.simulated && !changed {
                    let (line, found, expected) = (question.query + 1, answer.label, question.simulated);
                    let reason = format!("the answer is '{found}', the simulated teacher gave '{expected}'");
                    if self.ledger.is_some() {
                        let reason = format!("{reason}: was the teacher in config.toml edited?");
                        return Err(self.error(question.query, reason));
                    }
                    self.differences.push(format!("labels.jsonl line {line}: {reason}"));
                }
                Ok(answer.label)
            }
            Some(Event::Undo { .. } | Event::Relabel { .. }) => {
                let reason = "changes an answer, but this run's answers are a simulated teacher's".to_owned();
                Err(self.error(question.query, reason))
            }
            None => {
                let Some(ledger) = &mut self.ledger else { return Err(self.ends(question.query)) };
                ledger.append(&simulated(question).into())?;
                Ok(question.simulated)
            }
        }
    }

    /// What the ledger holds for the next exchange with a person; `None` where training waits and there is nothing.
    ///
    /// # Errors
    /// When the ledger holds nothing for this exchange, but something for later ones.
    pub fn exchange(&self, run: &Run, waits: bool) -> Result<Option<Vec<Event>>, RunError> {
        let now = run.sessions as u64;
        let events: Vec<Event> = self.recorded.iter().filter(|event| event.session() == now).cloned().collect();
        match self.recorded.iter().position(|event| event.session() > now) {
            Some(later) if waits && events.is_empty() => {
                let found = self.recorded[later].session();
                let reason = format!("takes effect in exchange {found}, but nothing does in {now}, which waits for it");
                Err(self.error(later as u64, reason))
            }
            None if waits && events.is_empty() => Ok(None),
            _ => Ok(Some(events)),
        }
    }

    /// Whether the ledger held more, when the run was opened, than the run has seen by now.
    #[must_use]
    pub fn holds_more(&self, run: &Run) -> bool {
        self.recorded.iter().any(|event| event.session() >= run.sessions as u64)
    }

    fn ends(&self, line: u64) -> RunError {
        self.error(line, "the ledger ends here, but the run asked more questions".to_owned())
    }

    /// An error in the line of number `index`, counting from 0.
    fn error(&self, index: u64, reason: String) -> RunError {
        RunError::Ledger { path: self.path.clone(), line: index + 1, reason }
    }
}

/// The simulated teacher's answer as an entry of the ledger.
fn simulated(question: &Question) -> Answer {
    let Question { query, step, session, first, second, why, simulated } = question.clone();
    let (label, rater) = (simulated, "simulated".to_owned());
    Answer { query, step, session, first, second, label, rater, why, repeat: None, seconds: None }
}

// ----------------------------------------------------------------------------------------------------- the changes

/// The changes of a run's configuration, as they take effect.
struct Changes<'a> {
    folder: &'a Folder,
    /// Those that were recorded, with their numbers from 0.
    recorded: Vec<Change<Moment>>,
    /// How many of them have taken effect.
    done: usize,
}

impl<'a> Changes<'a> {
    /// A run from a checkpoint has what lies before it already.
    fn open(folder: &'a Folder, run: &Run) -> Result<Self, RunError> {
        let recorded: Vec<Change<Moment>> = changes::read(&folder.path)?;
        let done = recorded.iter().take_while(|change| change.at < moment(run)).count();
        Ok(Self { folder, recorded, done })
    }

    /// Those that have taken effect.
    fn seen(&self) -> &[Change<Moment>] {
        &self.recorded[..self.done]
    }

    /// Lets those that are due now take effect.
    fn take_effect(&mut self, run: &mut Run) -> Result<(), RunError> {
        while let Some(change) = self.recorded.get(self.done).filter(|change| change.at == moment(run)) {
            run.config = self.folder.changed(&run.config, change, self.done)?;
            self.done += 1;
        }
        Ok(())
    }

    /// Lets what is due take effect, and after all that was recorded what the host asks for.
    fn next(&mut self, run: &mut Run, host: &mut dyn Host) -> Result<(), RunError> {
        self.take_effect(run)?;
        match self.done == self.recorded.len() {
            true => host.set(run).map_or(Ok(()), |set| self.add(run, &set)),
            false => Ok(()),
        }
    }

    /// Records a change and lets it take effect.
    fn add(&mut self, run: &mut Run, set: &[Table]) -> Result<(), RunError> {
        let Some((fields, config)) = planned(&run.config, set)? else { return Ok(()) };
        let refuse = |problem: String| Err(RunError::Unchangeable(problem));
        if config.iterations() < run.iteration {
            return refuse(format!("--set steps={}: the run has taken {} steps already", config.steps, run.env_steps));
        }
        let over = run.env_steps > 0 && run.iteration >= config.iterations();
        let idle =
            fields.keys().find(|name| !["steps", "evaluation_episodes", "checkpoint_every"].contains(&name.as_str()));
        if let Some(name) = idle.filter(|_| over) {
            return refuse(format!(
                "--set {name}: the run has taken all its steps, so this would change nothing: give it more too, for example \
                 --set steps={}",
                2 * config.steps
            ));
        }
        // What is said of the run so far stays to be read.
        let summary = self.folder.file("summary.json");
        if summary.exists() {
            let kept = self.folder.file(&format!("summary-{:09}.json", run.env_steps));
            fs::rename(&summary, kept).map_err(|source| DiskError::Io {
                path: summary,
                action: "keep the summary",
                source,
            })?;
        }
        let change = Change { at: moment(run), fields, time: changes::now() };
        changes::append(&self.folder.path, change.clone())?;
        self.recorded.push(change);
        self.done = self.recorded.len();
        run.config = config;
        Ok(())
    }

    /// That a run has ended, and a change did not take effect.
    fn all_were_due(&self, run: &Run) -> Result<(), RunError> {
        let Some(change) = self.recorded.get(self.done) else { return Ok(()) };
        let reason = format!(
            "takes effect after {} steps and {} sessions, where the run never was: it ended after {} and {}",
            change.at.env_steps, change.at.session, run.env_steps, run.sessions
        );
        Err(DiskError::Changes { path: self.folder.file(changes::FILE), line: self.done + 1, reason }.into())
    }
}

/// Where a run is.
fn moment(run: &Run) -> Moment {
    Moment { env_steps: run.env_steps, session: run.sessions, iteration: run.iteration }
}

// ------------------------------------------------------------------------------------------------------ the folder

/// A whole checkpoint, with the configuration that it was made with.
struct Stored {
    archive: Archive,
    name: PathBuf,
    config: Config,
}

impl Stored {
    /// What it has seen of the ledger, and its iteration.
    fn mark(&self) -> Result<(Mark, usize), RunError> {
        let Self { archive, name, .. } = self;
        let read = || -> Result<(Mark, usize), ArchiveError> {
            let mark = if archive.meta.contains_key(MARK) {
                archive.get(MARK)?
            } else {
                // One of before there were marks knows its answers, each of which has a line.
                let asked = archive.get::<Vec<serde_json::Value>>("comparisons")?.len() as u64;
                Mark { lines: asked.saturating_sub(archive.get("pending")?), chain: None }
            };
            Ok((mark, archive.get("iteration")?))
        };
        read().map_err(|source| DiskError::Misfit { path: name.clone(), source: source.into() }.into())
    }

    fn state(self, device: &Device) -> Result<(Run, Clock), RunError> {
        let Self { archive, name, config } = self;
        let state = || -> Result<(Run, Clock), ArchiveError> {
            let clock = Clock::start(archive.get("wall_seconds")?, archive.get("cpu_seconds")?);
            Ok((checkpoint::from_archive(&archive, config, device)?, clock))
        };
        state().map_err(|source| DiskError::Misfit { path: name, source: source.into() }.into())
    }
}

impl Folder {
    /// Makes a run folder with its configuration, and claims it.
    ///
    /// # Errors
    /// [`DiskError::Occupied`] when something is there already; [`DiskError::Lock`] when somebody else makes it; I/O errors,
    /// after which nothing is left.
    pub fn create(path: &Path, config: &Config) -> Result<Self, RunError> {
        Self::create_from(path, config, config.init.as_deref())
    }

    /// The same, with the policy that the run begins with taken from another place than the configuration names.
    fn create_from(path: &Path, config: &Config, init: Option<&Path>) -> Result<Self, RunError> {
        // Kept, since the place may change.
        let policy = init.map(|init| beginning(config, init, &Device::flex())).transpose()?;
        let folder = Self::create_with(path, &config.to_toml())?;
        if let Some(policy) = policy {
            // Without it the folder would be of another run.
            policy.save(&folder.file(BEGINNING)).inspect_err(|_| {
                fs::remove_dir_all(path).ok();
            })?;
        }
        Ok(folder)
    }

    /// The newest state, to go on from, with its ledger.
    ///
    /// # Errors
    /// [`RunError`]. `warn` receives what was found damaged and left out.
    ///
    /// # Panics
    /// When the folder is not claimed.
    pub fn reopen(&self, device: &Device, warn: &mut dyn FnMut(String)) -> Result<Reopened, RunError> {
        self.assert_claimed();
        let newest = self.newest_checkpoint(warn)?;
        let path = self.ledger();
        if let Some(stored) = &newest {
            let (mark, iteration) = stored.mark()?;
            mark.check(&path, &format!("iteration {iteration}"))?;
        }
        let (ledger, events) = if path.exists() {
            let (ledger, events, warnings) = Ledger::open(&path)?;
            warnings.into_iter().for_each(|w| warn(w.to_string()));
            (ledger, events)
        } else {
            (Ledger::create(&path)?, Vec::new())
        };
        let (run, clock) = match newest {
            Some(stored) => stored.state(device)?,
            None => {
                let mut run = drlhp::start(self.first_config()?, device)?;
                begin(&mut run, Some(&self.file(BEGINNING)), device)?;
                (run, Clock::new())
            }
        };
        self.cut_metrics(run.env_steps, warn)?;
        Ok(Reopened { run, clock, ledger, events })
    }

    /// The configuration as the run began.
    ///
    /// # Errors
    /// When the file is torn or holds something else.
    pub fn first_config(&self) -> Result<Config, RunError> {
        Ok(Config::read(&self.file("config.toml"))?)
    }

    /// The configuration as it is now: as the run began, with all changes since.
    ///
    /// # Errors
    /// When a file is torn or holds something else.
    pub fn config(&self) -> Result<Config, RunError> {
        let mut config = self.first_config()?;
        for (i, change) in changes::read::<Moment>(&self.path)?.iter().enumerate() {
            config = self.changed(&config, change, i)?;
        }
        Ok(config)
    }

    /// A configuration after the change in line `index` + 1.
    fn changed(&self, config: &Config, change: &Change<Moment>, index: usize) -> Result<Config, RunError> {
        let wrong = |reason: String| DiskError::Changes { path: self.file(changes::FILE), line: index + 1, reason };
        let mut table = config.to_table();
        changes::apply(&mut table, &change.fields).map_err(wrong)?;
        Config::from_table(table).map_err(|error| wrong(error.to_string()).into())
    }

    /// The summary of a finished run.
    ///
    /// # Errors
    /// When the run is not finished.
    pub fn summary(&self) -> Result<Summary, RunError> {
        let path = self.file("summary.json");
        let missing = DiskError::NotARun {
            path: self.path.clone(),
            missing: "summary.json of a finished run (finish it with `pairwise resume`); it",
        };
        let text = fs::read_to_string(&path).map_err(|_| missing)?;
        let summary = serde_json::from_str(&text);
        let summary: Summary =
            summary.map_err(|e| DiskError::Io { path, action: "read the summary", source: e.into() })?;
        // It may have been moved since.
        Ok(Summary { run_dir: self.path.clone(), ..summary })
    }

    /// The newest state, and the time spent until then; `None` before the first checkpoint. Damaged checkpoints are
    /// reported to `warn` and left out.
    ///
    /// # Errors
    /// When the folder cannot be listed, or a whole checkpoint does not fit the configuration.
    pub fn newest_state(
        &self,
        device: &Device,
        warn: &mut dyn FnMut(String),
    ) -> Result<Option<(Run, Clock)>, RunError> {
        self.newest_checkpoint(warn)?.map(|stored| stored.state(device)).transpose()
    }

    /// Checks that the newest whole checkpoint and the ledger belong to the configuration and to each other.
    ///
    /// # Errors
    /// [`DiskError::Edited`], and what [`Mark::check`] finds. `warn` receives what was found damaged.
    pub fn check(&self, warn: &mut dyn FnMut(String)) -> Result<(), RunError> {
        let Some(stored) = self.newest_checkpoint(warn)? else { return Ok(()) };
        let (mark, iteration) = stored.mark()?;
        Ok(mark.check(&self.ledger(), &format!("iteration {iteration}"))?)
    }

    /// The newest checkpoint that is whole, checked against the configuration.
    fn newest_checkpoint(&self, warn: &mut dyn FnMut(String)) -> Result<Option<Stored>, RunError> {
        for name in self.checkpoints()?.into_iter().rev() {
            match Archive::load(&name).and_then(|all| all.check_finite(&name, &[]).map(|()| all)) {
                Ok(archive) => return self.fitting(archive, name).map(Some),
                Err(error) => warn(format!("{error}; trying the one before it")),
            }
        }
        Ok(None)
    }

    /// A checkpoint with the configuration that it was made with.
    fn fitting(&self, archive: Archive, name: PathBuf) -> Result<Stored, RunError> {
        let moment = || -> Result<Moment, ArchiveError> {
            let (env_steps, session) = (archive.get("env_steps")?, archive.get("sessions")?);
            Ok(Moment { env_steps, session, iteration: archive.get("iteration")? })
        };
        let now = moment().map_err(|source| DiskError::Misfit { path: name.clone(), source: source.into() })?;
        // Whether a change of this very moment was in it is not known: either may be what it was made with.
        let mut candidates = vec![self.first_config()?];
        let recorded: Vec<Change<Moment>> = changes::read(&self.path)?;
        for (i, change) in recorded.iter().enumerate() {
            let config = self.changed(&candidates[candidates.len() - 1], change, i)?;
            match change.at < now {
                true => candidates = vec![config],
                false if change.at == now => candidates.push(config),
                false => break,
            }
        }
        let command = format!("pairwise resume {}", self.path.display());
        fits_configuration(&archive, &name, &candidates, Some(&command))?;
        changes::check_seen(&self.path, &recorded, &archive, &name, &now)?;
        let config = candidates.swap_remove(0);
        Ok(Stored { archive, name, config })
    }

    /// The reports of all iterations. Lines that cannot be read are reported to `warn` and left out.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn metrics(&self, warn: &mut dyn FnMut(String)) -> Result<Vec<Report>, DiskError> {
        let path = self.file("metrics.jsonl");
        let all = lines::read(&path).map_err(|source| DiskError::Io { path, action: "read metrics", source })?;
        let (reports, bad) = lines::split(all);
        bad.iter().for_each(|bad| warn(format!("{bad}; left out")));
        Ok(reports)
    }

    fn open_metrics(&self) -> Result<File, DiskError> {
        let path = self.file("metrics.jsonl");
        let file = OpenOptions::new().create(true).append(true).open(&path);
        file.map_err(|source| DiskError::Io { path, action: "open metrics", source })
    }

    /// Drops the reports of iterations after the checkpoint: they will be written again.
    fn cut_metrics(&self, env_steps: usize, warn: &mut dyn FnMut(String)) -> Result<(), DiskError> {
        let path = self.file("metrics.jsonl");
        let io = |action| move |source| DiskError::Io { path: self.file("metrics.jsonl"), action, source };
        if !path.exists() {
            return Ok(());
        }
        let all = lines::read::<Report>(&path).map_err(io("read metrics"))?;
        for bad in all.iter().filter_map(|line| line.value.as_ref().err()) {
            warn(format!("{bad}; {}", if bad.torn { "dropped" } else { "left as it is" }));
        }
        let kept = lines::until(all, env_steps as u64, |report| report.env_steps as u64);
        write_atomically(&path, &lines::join(&kept)).map_err(io("write metrics"))
    }

    fn checkpoints(&self) -> Result<Vec<PathBuf>, DiskError> {
        let path = self.file("checkpoints");
        let io = |source| DiskError::Io { path: self.file("checkpoints"), action: "list checkpoints", source };
        if !path.exists() {
            return Ok(Vec::new());
        }
        let entries = fs::read_dir(&path).map_err(io)?.collect::<Result<Vec<_>, _>>().map_err(io)?;
        let mut paths: Vec<PathBuf> = entries.iter().map(fs::DirEntry::path).collect();
        paths.retain(|p| p.extension().is_some_and(|e| e == "safetensors"));
        paths.sort();
        Ok(paths)
    }

    fn save_checkpoint(&self, run: &Run, clock: &Clock, seen: &[Change<Moment>]) -> Result<(), RunError> {
        let mut archive = checkpoint::to_archive(run);
        archive.put("wall_seconds", &clock.wall());
        archive.put("cpu_seconds", &clock.cpu());
        archive.put(CONFIGURATION, &run.config.to_toml());
        archive.put(MARK, &Mark::of(&self.ledger(), run.sessions as u64)?);
        changes::note(&mut archive, seen);
        let path = self.file("checkpoints").join(format!("iteration-{:06}.safetensors", run.iteration));
        // Every number is looked at where it arises; what slips through must not take the place of a good checkpoint.
        archive.check_finite(&path, &[])?;
        archive.save(&path)?;
        let all = self.checkpoints()?;
        for old in &all[..all.len().saturating_sub(CHECKPOINTS_KEPT)] {
            // An old checkpoint that stays does no harm.
            fs::remove_file(old).ok();
        }
        Ok(())
    }

    fn write_summary(&self, summary: &Summary) -> Result<(), DiskError> {
        let path = self.file("summary.json");
        let text = lines::pretty(summary);
        write_atomically(&path, text.as_bytes()).map_err(|source| DiskError::Io {
            path,
            action: "write the summary",
            source,
        })
    }
}
