//! `train`, `resume`, `replay`, `evaluate`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use serde::Serialize;
use toml::Value;

use super::app;
use super::arguments::named;
use super::failure::Failure;
use super::flags::{self, JsonArgs, LayerArgs, ResumeArgs, RunFlags, SharedArgs, assigned};
use super::progress::TrainingProgress;
use super::screen::{note, number, plus_minus, print_line, remark, shown, warn};
use crate::control::config::{Config, RewardSource};
use crate::control::drlhp::{self, Run};
use crate::control::rl::evaluate as rl;
use crate::control::run::policy::Policy;
use crate::control::run::{self, Outcome, Summary};
use crate::device::{self, DeviceChoice};
use crate::disk::{DiskError, Folder};
use crate::engine::free_folder;
use crate::finite;
use crate::preference::{Sampler, Teacher};
use crate::table::Line;

/// Arguments of `train`.
#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    /// Environment; `pairwise envs` lists them. With --config it may be left out
    env: Option<String>,
    #[command(flatten)]
    flags: TrainFlags,
    /// Run folder; made new [default: runs/ENV-sSEED]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    layers: LayerArgs,
    /// Open the window on the run
    #[arg(long, conflicts_with = "json")]
    watch: bool,
    #[command(flatten)]
    shared: SharedArgs,
}

/// Flags of `train` that are values of [`Config`].
#[derive(Debug, Args, Serialize)]
struct TrainFlags {
    #[command(flatten)]
    preferences: PreferenceFlags,
    /// Environment steps in all
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    steps: Option<usize>,
    /// Train on the reward learned from preferences, or on the true one as a baseline
    #[arg(long, value_name = "REWARD", value_parser = named::<RewardSource>())]
    #[serde(serialize_with = "flags::item")]
    reward: Option<&'static Line<RewardSource>>,
    /// Begin with the policy of another run, or of a policy's file, instead of random weights; runs that begin with one
    /// policy can be mixed (`pairwise soup`)
    #[arg(long, value_name = "RUN")]
    #[serde(serialize_with = "flags::text")]
    init: Option<PathBuf>,
    #[command(flatten)]
    #[serde(flatten)]
    run: RunFlags,
}

#[derive(Debug, Args, Serialize)]
struct PreferenceFlags {
    /// Questions that the teacher is asked in all
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    labels: Option<usize>,
    /// Simulated teacher (B-Pref)
    #[arg(long, value_name = "NAME", value_parser = named::<Teacher>())]
    #[serde(serialize_with = "flags::item")]
    teacher: Option<&'static Line<Teacher>>,
    /// How questions are chosen
    #[arg(long, value_name = "NAME", value_parser = named::<Sampler>())]
    sampler: Option<&'static Line<Sampler>>,
}

/// Arguments of `replay`.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// Run folder of a finished run
    run: PathBuf,
    #[command(flatten)]
    shared: SharedArgs,
}

/// Arguments of `evaluate`.
#[derive(Debug, Args)]
pub(crate) struct EvaluateArgs {
    /// Run folder, or the file of a policy that a front, a soup or the window saved
    run: PathBuf,
    /// Episodes
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000), allow_negative_numbers = true)]
    episodes: u16,
    /// Seed of the initial states [default: the run's]
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    seed: Option<u64>,
    #[command(flatten)]
    json: JsonArgs,
}

/// What `evaluate` prints.
#[derive(Debug, Serialize)]
struct Evaluated<'a> {
    env: &'a str,
    seed: u64,
    true_return_mean: f64,
    true_return_std: Option<f64>,
    episodes: usize,
    returns: &'a [f64],
    weights_sha256: String,
    run_dir: String,
}

pub(crate) fn train(args: &TrainArgs) -> Result<(), Failure> {
    let config = resolve(args)?;
    if config.reward == RewardSource::True {
        let PreferenceFlags { labels, teacher, sampler } = &args.flags.preferences;
        let given =
            [("--labels", labels.is_some()), ("--teacher", teacher.is_some()), ("--sampler", sampler.is_some())];
        if let Some((flag, _)) = given.iter().find(|(_, given)| *given) {
            return Err(Failure::usage(format!(
                "{flag} contradicts --reward true, which asks no questions: leave one of them out"
            )));
        }
    }
    let device = device::pick(config.device)?;
    let path = args.out.clone().unwrap_or_else(|| default_folder(&config));
    args.shared.threads.apply()?;
    if args.watch {
        return app::watch(config, &path);
    }
    let stop = on_interrupt()?;
    if let Some(text) = device::note(config.device) {
        note(text);
    }
    note_few(config.evaluation_episodes);
    let mut progress = TrainingProgress::new(&config);
    let outcome = run::train(config, &path, &device, &stop, &mut |run, report| progress.show(run, report))?;
    progress.finish();
    conclude(outcome, &path, &args.shared.json)
}

pub(crate) fn resume(args: &ResumeArgs) -> Result<(), Failure> {
    let folder = Folder::open(&args.run)?;
    let mut config = folder.config()?;
    let set = assigned(&args.set)?;
    let planned = run::planned(&config, &set)?;
    let device = device::pick(config.device)?;
    if let Ok(summary) = folder.summary()
        && planned.is_none()
    {
        // An edited configuration would say that it finished something else.
        folder.check(&mut |message| warn(&message))?;
        print_line(&format!("{} is finished already", args.run.display()));
        return conclude(Outcome::Finished(Box::new(summary)), &args.run, &args.shared.json);
    }
    args.shared.threads.apply()?;
    let stop = on_interrupt()?;
    if let Some((_, changed)) = planned {
        config = changed;
    }
    let mut progress = TrainingProgress::new(&config);
    let mut told = |message: String| warn(&message);
    let outcome =
        run::resume(&args.run, &set, &device, &stop, &mut told, &mut |run, report| progress.show(run, report))?;
    progress.finish();
    conclude(outcome, &args.run, &args.shared.json)
}

pub(crate) fn replay(args: &ReplayArgs) -> Result<(), Failure> {
    let config = Folder::open(&args.run)?.config()?;
    let device = device::pick(config.device)?;
    args.shared.threads.apply()?;
    let mut progress = TrainingProgress::new(&config);
    let mut told = |message: String| warn(&message);
    let replay = run::replay(&args.run, &device, &mut told, &mut |run, report| progress.show(run, report))?;
    progress.finish();
    print_line(&match &replay.first_difference {
        None => format!("replay agrees: weights {}", replay.replayed_sha256),
        Some(difference) => format!("replay differs: {difference}"),
    });
    args.shared.json.print(&replay);
    match replay.agrees {
        true => Ok(()),
        false => Err(Failure::negative("the replay does not agree with the recorded run")),
    }
}

pub(crate) fn evaluate(args: &EvaluateArgs) -> Result<(), Failure> {
    let GivenPolicy { policy: Policy { env, agent, .. }, seed, weights_sha256 } = policy(&args.run)?;
    let seed = args.seed.unwrap_or(seed);
    note_few(usize::from(args.episodes));
    let evaluation = rl::evaluate(&agent, &env, usize::from(args.episodes), seed)?;
    let rl::Evaluation { mean, std, returns } = &evaluation;
    if let Some((episode, found)) = finite::first(returns.iter().copied()) {
        return Err(Failure::negative(format!(
            "{env}: the return of episode {episode} is {found}: the policy drives the environment to states that it cannot \
             compute"
        )));
    }
    print_line(&format!("{env}: true return {mean:.1}{} over {} episodes", plus_minus(*std, 1), returns.len()));
    args.json.print(&Evaluated {
        env: &env,
        seed,
        true_return_mean: *mean,
        true_return_std: *std,
        episodes: returns.len(),
        returns,
        weights_sha256,
        run_dir: shown(&args.run),
    });
    Ok(())
}

/// Returns are means over this many episodes or more.
pub(crate) const ENOUGH_EPISODES: usize = 20;

/// Says where a mean return is over so few episodes that it tells little.
pub(crate) fn note_few(episodes: usize) {
    if episodes < ENOUGH_EPISODES {
        let of = if episodes == 1 { "a single episode".to_owned() } else { format!("{episodes} episodes") };
        note(&format!("a mean return over {of} tells little: compare means over {ENOUGH_EPISODES} episodes or more"));
    }
}

/// A policy that a command was given.
pub(crate) struct GivenPolicy {
    pub(crate) policy: Policy,
    /// Seed of its run; 0 for a file.
    pub(crate) seed: u64,
    weights_sha256: String,
}

/// The policy of a file, or the newest one of a run.
pub(crate) fn policy(path: &Path) -> Result<GivenPolicy, Failure> {
    if path.is_file() {
        let policy = Policy::read(path, &device::pick(DeviceChoice::Cpu)?)?;
        return Ok(GivenPolicy { seed: 0, weights_sha256: policy.fingerprint(), policy });
    }
    let run = load(path)?;
    let weights_sha256 = drlhp::weights_sha256(&run);
    let Run { config, agent, .. } = run;
    let policy = Policy { env: config.env, ppo: config.ppo, beginning: None, agent };
    Ok(GivenPolicy { policy, seed: config.seed, weights_sha256 })
}

/// The newest state of a run folder.
pub(crate) fn load(path: &Path) -> Result<Run, Failure> {
    let folder = Folder::open(path)?;
    let device = device::pick(folder.config()?.device)?;
    let newest = folder.newest_state(&device, &mut |message| warn(&message))?;
    let missing = "a readable checkpoint, which `pairwise resume` makes,";
    let (run, _) = newest.ok_or_else(|| DiskError::NotARun { path: path.to_owned(), missing })?;
    Ok(run)
}

pub(super) fn resolve(args: &TrainArgs) -> Result<Config, Failure> {
    let layers = args.layers.under(&args.flags)?;
    let from_layers = layers.iter().rev().find_map(|layer| layer.get("env").and_then(Value::as_str));
    let env = match (&args.env, from_layers) {
        (Some(given), Some(configured)) if given != configured => {
            return Err(Failure::usage(format!(
                "'{given}' contradicts env = \"{configured}\" in the configuration: leave one of them out"
            )));
        }
        (Some(given), _) => given,
        (None, Some(configured)) => configured,
        (None, None) => return Err(Failure::usage("which environment? `pairwise envs` lists them")),
    };
    Ok(Config::resolve(env, &layers)?)
}

/// `runs/ENV-sSEED`, or the first free name after it.
fn default_folder(config: &Config) -> PathBuf {
    let suffix = if config.reward == RewardSource::True { "-true" } else { "" };
    free_folder(Path::new("runs"), &format!("{}{suffix}-s{}", config.env, config.seed))
}

/// Set on the first Ctrl-C (or SIGTERM); the second one ends the program at once.
pub(crate) fn on_interrupt() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        remark("stopping; press Ctrl-C again to stop at once");
    })
    .map_err(|e| Failure::negative(e.to_string()))?;
    Ok(stop)
}

fn conclude(outcome: Outcome, path: &Path, json: &JsonArgs) -> Result<(), Failure> {
    match outcome {
        Outcome::Finished(summary) => {
            describe(&summary);
            json.print(&summary);
            Ok(())
        }
        Outcome::Interrupted { iteration, waiting: false } => Err(Failure::interrupted(format!(
            "after iteration {iteration}; go on with: pairwise resume {}",
            path.display()
        ))),
        Outcome::Interrupted { iteration, waiting: true } => Err(Failure::negative(format!(
            "after iteration {iteration} the run waits for a person's answers; give them with: pairwise app --run {}",
            path.display()
        ))),
    }
}

fn describe(summary: &Summary) {
    let Summary { true_return_mean: mean, true_return_std: std, episodes, .. } = summary;
    print_line(&format!("true return        {mean:.1}{} over {episodes} episodes", plus_minus(*std, 1)));
    if summary.reward == RewardSource::Preferences {
        print_line(&format!("labels             {} asked, {} answered", summary.labels_asked, summary.labels_answered));
        let [pearson, spearman, epic] =
            [summary.reward_pearson, summary.reward_spearman, summary.epic].map(|value| number(value, 3));
        print_line(&format!("learned v. true    Pearson {pearson}, Spearman {spearman}, EPIC distance {epic}"));
        if summary.unfitted_iterations > 0 {
            let nothing = if summary.labels_answered == 0 { ": no question was answered" } else { "" };
            print_line(&format!(
                "unfitted reward    the agent was trained on a reward that knew no answer for {} iterations{nothing}",
                summary.unfitted_iterations
            ));
        }
    }
    let cpu = number(summary.cpu_seconds, 1);
    print_line(&format!("time               {:.1} s, {cpu} CPU s", summary.wall_seconds));
    print_line(&format!("weights            {}", summary.weights_sha256));
    print_line(&format!("run folder         {}", summary.run_dir.display()));
}
