//! `bench`: several configurations over several seeds; a table with intervals, a figure, resumable.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use clap::{Args, Subcommand};
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use serde::{Deserialize, Serialize};

use super::train::Threads;
use super::{Failure, print_json, print_line};
use crate::device;
use crate::preference::statistics::{bootstrap_interval, interquartile_mean};
use crate::random::stream;
use crate::run::archive::write_atomically;
use crate::run::config::{Config, set_layer};
use crate::run::{self, figure};

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// The ablations of Christiano et al. 2017: what each part of the method is worth
    Ablations(BenchRunArgs),
    /// The method with the true reward, with preferences, and with each of B-Pref's simulated teachers
    Teachers(BenchRunArgs),
}

#[derive(Debug, Args)]
struct BenchRunArgs {
    /// Environment
    #[arg(long, default_value = "pendulum")]
    env: String,
    /// Seeds, from 0
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// Set any value of the configuration for all runs, e.g. --set preferences.labels=100
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    threads: Threads,
    /// Folder for results; a benchmark that was stopped goes on from it [default: runs/bench-NAME-ENV]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print one JSON object as the last line
    #[arg(long)]
    json: bool,
}

/// One finished run, a line of `results.jsonl`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Result1 {
    variant: String,
    seed: u64,
    /// The exact configuration, so that results of another one are never taken for this one's.
    config: String,
    true_return: f64,
    reward_pearson: Option<f64>,
    labels_asked: usize,
    cpu_seconds: f64,
}

/// A row of the table.
#[derive(Debug, Clone, Serialize)]
struct Row {
    variant: String,
    interquartile_mean: f64,
    interval_95: [f64; 2],
    returns: Vec<f64>,
    reward_pearson: Option<f64>,
}

/// What is changed, by name; assignments as for `--set`.
type Variant = (&'static str, &'static [&'static str]);

const ABLATIONS: &[Variant] = &[
    ("full method", &[]),
    ("random queries", &["preferences.sampler=uniform"]),
    // §3.3: without an ensemble there is no disagreement to ask by.
    ("no ensemble", &["reward_model.members=1", "reward_model.bootstrap=false", "preferences.sampler=uniform"]),
    ("no online queries", &["preferences.online=false"]),
    ("no regularisation", &["reward_model.adaptive_l2=false", "reward_model.l2=0.0"]),
    ("single frames", &["preferences.segment_steps=1"]),
    ("true returns as target", &["reward_model.target=returns"]),
    ("true reward (PPO)", &["reward=true"]),
];

const TEACHERS: &[Variant] = &[
    ("true reward (PPO)", &["reward=true"]),
    ("oracle", &[]),
    ("mistake", &["preferences.teacher.mistake=0.1"]),
    ("noisy", &["preferences.teacher.beta=1.0"]),
    ("myopic", &["preferences.teacher.gamma=0.9"]),
    ("skip", &["preferences.teacher.skip=0.1"]),
    ("equal", &["preferences.teacher.equal=0.1"]),
];

pub(crate) fn bench(args: &BenchArgs) -> Result<(), Failure> {
    match &args.command {
        BenchCommand::Ablations(args) => compare("ablations", ABLATIONS, args),
        BenchCommand::Teachers(args) => compare("teachers", TEACHERS, args),
    }
}

fn compare(name: &str, variants: &[Variant], args: &BenchRunArgs) -> Result<(), Failure> {
    // All configurations are checked before the first run starts.
    let mut runs = Vec::new();
    for (variant, changes) in variants {
        for seed in 0..args.seeds {
            let seed_layer = set_layer(&format!("seed={seed}"))?;
            let layers = args.set.iter().map(String::as_str).chain(changes.iter().copied()).map(set_layer);
            let layers = layers.chain([Ok(seed_layer)]).collect::<Result<Vec<_>, _>>()?;
            runs.push((*variant, Config::resolve(&args.env, &layers)?));
        }
    }
    args.threads.apply()?;
    let out = args.out.clone().unwrap_or_else(|| Path::new("runs").join(format!("bench-{name}-{}", args.env)));
    let io = |e: std::io::Error| Failure::usage(format!("{}: {e}", out.display()));
    std::fs::create_dir_all(&out).map_err(io)?;
    let results_path = out.join("results.jsonl");
    let old = std::fs::read_to_string(&results_path).unwrap_or_default();
    let old: Vec<Result1> = old.lines().map_while(|line| serde_json::from_str(line).ok()).collect();
    let kept: String = old.iter().map(|r| serde_json::to_string(r).expect("results serialise") + "\n").collect();
    write_atomically(&results_path, kept.as_bytes()).map_err(io)?;
    let log = std::fs::OpenOptions::new().append(true).open(&results_path).map_err(io)?;
    let log = Mutex::new((log, 0_usize));

    let results = runs.par_iter().map(|(variant, config)| -> Result<Result1, Failure> {
        let text = config.to_toml();
        let done = old.iter().find(|r| r.variant == *variant && r.seed == config.seed && r.config == text);
        if let Some(done) = done {
            return Ok(done.clone());
        }
        let device = device::pick(config.device)?;
        let summary = run::in_memory(config.clone(), &device)?;
        let result = Result1 {
            variant: (*variant).to_owned(),
            seed: config.seed,
            config: text,
            true_return: summary.true_return_mean,
            reward_pearson: summary.reward_pearson,
            labels_asked: summary.labels_asked,
            cpu_seconds: summary.cpu_seconds,
        };
        let line = serde_json::to_string(&result).expect("results serialise") + "\n";
        let mut log = log.lock().map_err(|_| Failure::negative("another run of the benchmark failed"))?;
        log.0.write_all(line.as_bytes()).map_err(io)?;
        log.1 += 1;
        eprintln!(
            "{}/{}: {variant}, seed {}: true return {:.1}",
            log.1 + old.len().min(runs.len()),
            runs.len(),
            config.seed,
            result.true_return
        );
        Ok(result)
    });
    let results: Vec<Result1> = results.collect::<Result<_, _>>()?;

    let rows: Vec<Row> = variants.iter().map(|(variant, _)| row(variant, &results)).collect();
    let title =
        format!("{name} on {}, {} seeds: true return, interquartile mean and 95 % interval", args.env, args.seeds);
    print_line(&title);
    print_line(&format!("{:<24}{:>10}  {:>20}  {:>8}  returns", "", "IQM", "95 % interval", "Pearson"));
    for Row { variant, interquartile_mean: iqm, interval_95: [low, high], returns, reward_pearson } in &rows {
        let interval = format!("[{low:.1}, {high:.1}]");
        let pearson = reward_pearson.map_or("-".to_owned(), |r| format!("{r:.2}"));
        let returns: Vec<String> = returns.iter().map(|r| format!("{r:.0}")).collect();
        print_line(&format!("{variant:<24}{iqm:>10.1}  {interval:>20}  {pearson:>8}  {}", returns.join(" ")));
    }
    let svg = out.join(format!("{name}.svg"));
    let bars: Vec<figure::Bar> = rows
        .iter()
        .map(|row| figure::Bar { name: row.variant.clone(), value: row.interquartile_mean, interval: row.interval_95 })
        .collect();
    figure::bars(&svg, &title, &bars)?;
    print_line(&format!("figure: {}", svg.display()));
    if args.json {
        print_json(
            &serde_json::json!({ "benchmark": name, "env": args.env, "seeds": args.seeds, "rows": rows, "figure": svg }),
        );
    }
    Ok(())
}

fn row(variant: &str, results: &[Result1]) -> Row {
    let of: Vec<&Result1> = results.iter().filter(|r| r.variant == variant).collect();
    let returns: Vec<f64> = of.iter().map(|r| r.true_return).collect();
    let pearson: Vec<f64> = of.iter().filter_map(|r| r.reward_pearson).collect();
    Row {
        variant: variant.to_owned(),
        interquartile_mean: interquartile_mean(&returns),
        interval_95: bootstrap_interval(&returns, interquartile_mean, 0.95, &mut stream(0, "bootstrap", 0)),
        returns,
        reward_pearson: (!pearson.is_empty()).then(|| interquartile_mean(&pearson)),
    }
}
