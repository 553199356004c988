//! `bench`: several configurations over several seeds; a table with intervals, a figure; goes on where it was stopped.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use clap::{Args, Subcommand};
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::flags::{SharedArgs, assigned};
use super::screen::{number, print_line, remark, shown, warn};
use super::train::{ENOUGH_EPISODES, note_few};
use crate::control::config::{Config, RewardSource};
use crate::control::reward::ensemble::FitTarget;
use crate::control::rl::evaluate::evaluate_random;
use crate::control::run;
use crate::device;
use crate::disk::archive::write_atomically;
use crate::disk::layers::{layer, resolve};
use crate::disk::lock::Claim;
use crate::disk::{figure, lines};
use crate::preference::query::UNIFORM;
use crate::preference::statistics::{bootstrap_interval, interquartile_mean};
use crate::preference::{TEACHERS, Teacher};
use crate::random::stream;

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// The ablations of Christiano et al. 2017: what each part of the method is worth
    Ablations(EnvRunsArgs),
    /// The true reward beside the method with each of B-Pref's simulated teachers
    Teachers(EnvRunsArgs),
    /// Every fixed-horizon task, with the true reward and with preferences
    Tasks(TasksArgs),
}

#[derive(Debug, Args)]
struct EnvRunsArgs {
    /// Environment
    #[arg(long, default_value = "pendulum")]
    env: String,
    #[command(flatten)]
    runs: RunsArgs,
}

#[derive(Debug, Args)]
struct TasksArgs {
    /// A task; may be given several times [default: all]
    #[arg(long = "env", value_name = "ENV")]
    envs: Vec<String>,
    #[command(flatten)]
    runs: RunsArgs,
}

#[derive(Debug, Args)]
struct RunsArgs {
    /// Seeds, from 0
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000), allow_negative_numbers = true)]
    seeds: u64,
    /// Set any value of the configuration for all runs, such as preferences.labels=100
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Folder for results; a benchmark that was stopped goes on from it [default: runs/bench-NAME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    shared: SharedArgs,
}

/// One finished run, a line of `results.jsonl`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Finished {
    env: String,
    variant: String,
    seed: u64,
    /// The exact configuration, so that results of another one are never taken for this one's.
    config: String,
    true_return: f64,
    reward_pearson: Option<f64>,
    epic: Option<f64>,
    labels_asked: usize,
}

/// A variant on a task, over all seeds.
#[derive(Debug, Clone, Serialize)]
struct VariantRow {
    env: String,
    variant: String,
    labels: usize,
    /// Interquartile mean of the true return over seeds.
    interquartile_mean: f64,
    /// None of a single seed.
    interval_95: Option<[f64; 2]>,
    returns: Vec<f64>,
    /// Interquartile means of the learned reward's correlation with and EPIC distance to the true one.
    reward_pearson: Option<f64>,
    epic: Option<f64>,
}

/// Its name, and what it changes.
type Variant = (&'static str, Change);

enum Change {
    Of(fn(&mut Config)),
    /// To a teacher, by what tells it from the oracle: the rest may be set for all of them.
    To(&'static Teacher),
}

const TRUE_REWARD: Variant = ("true reward (PPO)", Change::Of(|config| config.reward = RewardSource::True));

const ABLATIONS: &[Variant] = &[
    ("full method", Change::Of(|_| ())),
    ("random queries", Change::Of(|config| config.preferences.sampler = &UNIFORM)),
    // §3.3: without an ensemble there is no disagreement to ask by.
    (
        "no ensemble",
        Change::Of(|Config { preferences, reward_model, .. }| {
            (reward_model.members, reward_model.bootstrap, preferences.sampler) = (1, false, &UNIFORM);
        }),
    ),
    ("no online queries", Change::Of(|config| config.preferences.online = false)),
    (
        "no regularisation",
        Change::Of(|Config { reward_model, .. }| (reward_model.adaptive_l2, reward_model.l2) = (false, 0.0)),
    ),
    ("single frames", Change::Of(|config| config.preferences.segment_steps = 1)),
    ("true returns as target", Change::Of(|config| config.reward_model.target = FitTarget::Returns)),
    TRUE_REWARD,
];

const TASKS: &[Variant] = &[TRUE_REWARD, ("preferences", Change::Of(|_| ()))];

/// The row that shows where returns start; not in the figure, whose axis it would stretch.
const RANDOM: &str = "random actions";

/// Episodes of the row of random actions, for each seed.
const RANDOM_EPISODES: usize = 100;

pub(crate) fn bench(args: &BenchArgs) -> Result<(), Failure> {
    match &args.command {
        BenchCommand::Ablations(args) => compare("ablations", &[args.env.as_str()], ABLATIONS, &args.runs),
        BenchCommand::Teachers(args) => compare("teachers", &[args.env.as_str()], &teachers(), &args.runs),
        BenchCommand::Tasks(args) => {
            let mut envs: Vec<&str> = args.envs.iter().map(String::as_str).collect();
            if envs.is_empty() {
                envs = pairwise_envs::tasks().map(|spec| spec.id).collect();
            }
            compare("tasks", &envs, TASKS, &args.runs)
        }
    }
}

/// The true reward, and every teacher.
fn teachers() -> Vec<Variant> {
    let known = TEACHERS.iter().map(|line| (line.name, Change::To(&line.item)));
    std::iter::once(TRUE_REWARD).chain(known).collect()
}

impl Change {
    /// The configuration with the change.
    fn made(&self, config: &Config) -> Result<Config, Failure> {
        let mut config = config.clone();
        match self {
            Self::Of(change) => change(&mut config),
            Self::To(teacher) => {
                let oracle = layer(&Teacher::default())?;
                let mut own = layer(teacher)?;
                own.retain(|key, value| oracle.get(key) != Some(value));
                config.preferences.teacher = resolve(&config.preferences.teacher, &[own])?;
            }
        }
        Ok(config)
    }
}

fn compare(name: &str, envs: &[&str], variants: &[Variant], args: &RunsArgs) -> Result<(), Failure> {
    // All configurations are checked before the first run starts.
    let mut runs = Vec::new();
    let set = assigned(&args.set)?;
    for env in envs {
        for (variant, change) in variants {
            for seed in 0..args.seeds {
                let mut config = change.made(&Config::resolve(env, &set)?)?;
                config.seed = seed;
                config.validate()?;
                runs.push((*variant, config));
            }
        }
    }
    args.shared.threads.apply()?;
    note_few(runs.iter().map(|(_, config)| config.evaluation_episodes).min().unwrap_or(ENOUGH_EPISODES));
    let subject = if let [env] = envs { format!("-{env}") } else { String::new() };
    let out = args.out.clone().unwrap_or_else(|| Path::new("runs").join(format!("bench-{name}{subject}")));
    let io = |e: std::io::Error| Failure::usage(format!("{}: {e}", out.display()));
    let _claim = Claim::make(&out)?;
    let results_path = out.join("results.jsonl");
    let mut old = lines::read::<Finished>(&results_path).map_err(io)?;
    for bad in old.iter().filter_map(|line| line.value.as_ref().err()) {
        let what = if bad.torn { "dropped" } else { "left as it is" };
        warn(&format!("{bad}; {what}, and its run is made again"));
    }
    old.retain(|line| line.value.as_ref().err().is_none_or(|bad| !bad.torn));
    write_atomically(&results_path, &lines::join(&old)).map_err(io)?;
    let (old, _) = lines::split(old);
    let log = std::fs::OpenOptions::new().append(true).open(&results_path).map_err(io)?;
    let log = Mutex::new((log, 0_usize));

    let results = runs.par_iter().map(|(variant, config)| -> Result<Finished, Failure> {
        let text = config.to_toml();
        let done = old.iter().find(|r| r.variant == *variant && r.config == text);
        let result = match done {
            Some(done) => done.clone(),
            None => {
                let summary = run::in_memory(config.clone(), &device::pick(config.device)?)?;
                Finished {
                    env: config.env.clone(),
                    variant: (*variant).to_owned(),
                    seed: config.seed,
                    config: text,
                    true_return: summary.true_return_mean,
                    reward_pearson: summary.reward_pearson,
                    epic: summary.epic,
                    labels_asked: summary.labels_asked,
                }
            }
        };
        let mut log = log.lock().map_err(|_| Failure::negative("another run of the benchmark failed"))?;
        log.1 += 1;
        if done.is_none() {
            log.0.write_all(lines::line(&result).as_bytes()).map_err(io)?;
            let Finished { env, seed, true_return, .. } = &result;
            remark(&format!("{}/{}: {env}, {variant}, seed {seed}: true return {true_return:.1}", log.1, runs.len()));
        }
        Ok(result)
    });
    let results: Vec<Finished> = results.collect::<Result<_, _>>()?;

    let mut rows = Vec::new();
    for env in envs {
        let random = |seed| Ok(evaluate_random(env, RANDOM_EPISODES, seed)?.mean);
        let random: Vec<f64> = (0..args.seeds).map(random).collect::<Result<_, Failure>>()?;
        rows.push(row(env, RANDOM, 0, random, [&[], &[]]));
        rows.extend(variants.iter().map(|(variant, _)| {
            let of: Vec<&Finished> = results.iter().filter(|r| r.env == *env && r.variant == *variant).collect();
            let labels = of.iter().map(|r| r.labels_asked).max().unwrap_or_default();
            let pearson: Vec<f64> = of.iter().filter_map(|r| r.reward_pearson).collect();
            let epic: Vec<f64> = of.iter().filter_map(|r| r.epic).collect();
            row(env, variant, labels, of.iter().map(|r| r.true_return).collect(), [&pearson, &epic])
        }));
    }
    let title = format!(
        "{name}{}: true return over {} seeds, interquartile mean and 95 % interval",
        if let [env] = envs { format!(" on {env}") } else { String::new() },
        args.seeds
    );
    let table = markdown(&rows);
    print_line(&format!("{title}\n\n{table}"));
    let markdown_path = out.join(format!("{name}.md"));
    write_atomically(&markdown_path, format!("{title}\n\n{table}").as_bytes()).map_err(io)?;
    let svg = out.join(format!("{name}.svg"));
    // Returns of different tasks have different units: they share no axis.
    if let [_] = envs {
        let bar = |row: &VariantRow| figure::Bar {
            name: row.variant.clone(),
            value: row.interquartile_mean,
            interval: row.interval_95,
        };
        figure::bars(
            &svg,
            &title,
            "true return",
            &rows.iter().filter(|row| row.variant != RANDOM).map(bar).collect::<Vec<_>>(),
        )?;
        print_line(&format!("figure: {}", svg.display()));
    }
    print_line(&format!("table: {}", markdown_path.display()));
    let figure = svg.exists().then(|| shown(&svg));
    args.shared.json.print(&serde_json::json!({
        "benchmark": name, "envs": envs, "seeds": args.seeds, "rows": rows, "table": shown(&markdown_path), "figure": figure
    }));
    Ok(())
}

fn row(env: &str, variant: &str, labels: usize, returns: Vec<f64>, [pearson, epic]: [&[f64]; 2]) -> VariantRow {
    let middle = |values: &[f64]| (!values.is_empty()).then(|| interquartile_mean(values));
    VariantRow {
        env: env.to_owned(),
        variant: variant.to_owned(),
        labels,
        interquartile_mean: interquartile_mean(&returns),
        interval_95: bootstrap_interval(&returns, interquartile_mean, 0.95, &mut stream(0, "bootstrap", 0)),
        returns,
        reward_pearson: middle(pearson),
        epic: middle(epic),
    }
}

/// A Markdown table whose columns line up as plain text too.
fn markdown(rows: &[VariantRow]) -> String {
    let mut text = format!(
        "| {:<18} | {:<24} | {:>6} | {:>9} | {:>20} | {:>11} | {:>5} | {} |\n",
        "task", "variant", "labels", "IQM", "95 % interval", "reward corr", "EPIC", "each seed"
    );
    text += "|---|---|---:|---:|---:|---:|---:|---|\n";
    for row in rows {
        let VariantRow { env, variant, labels, interquartile_mean: iqm, interval_95, .. } = row;
        let interval = interval_95.map_or_else(|| "–".to_owned(), |[low, high]| format!("[{low:.1}, {high:.1}]"));
        let [pearson, epic] = [row.reward_pearson, row.epic].map(|value| number(value, 2));
        let returns: Vec<String> = row.returns.iter().map(|r| format!("{r:.0}")).collect();
        let returns = returns.join(" ");
        text += &format!(
            "| {env:<18} | {variant:<24} | {labels:>6} | {iqm:>9.1} | {interval:>20} | {pearson:>11} | {epic:>5} | {returns} |\n"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{ABLATIONS, Change, TASKS, teachers};
    use crate::control::config::Config;

    #[test]
    fn every_variant_is_a_configuration_of_its_own() {
        for env in pairwise_envs::tasks().map(|spec| spec.id) {
            let teachers = teachers();
            for variants in [ABLATIONS, &teachers, TASKS] {
                let resolve = |change: &Change| change.made(&Config::preset(env).unwrap()).unwrap();
                let (count, all) = (variants.len(), variants.iter().map(|(_, change)| resolve(change)));
                let mut all: Vec<String> =
                    all.inspect(|config| config.validate().unwrap()).map(|config| config.to_toml()).collect();
                all.sort();
                all.dedup();
                assert_eq!(all.len(), count, "{env}");
            }
        }
    }
}
