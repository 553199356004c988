//! `lm front`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde_json::json;
use toml::Table;

use super::progress::StageProgress;
use super::{Failure, LayerArgs, SharedArgs, print_json, print_line, shown};
use crate::cli::train::on_interrupt;
use crate::cli::{cpu_seconds, over_seeds};
use crate::device::{self, DeviceChoice};
use crate::disk::layers::merge;
use crate::studies::front::{self as lm, ChordRow, FrontConfig, Fronts, Row};

#[derive(Debug, Args)]
pub(super) struct FrontArgs {
    /// `reviews`, imdb:DIR with the files train.pos.jsonl.gz, train.neg.jsonl.gz and so on, or a file or folder of texts
    #[arg(long)]
    corpus: Option<String>,
    /// Objectives: gold rewards, such as sentiment,reviews:specificity
    #[arg(long, value_name = "SPEC,SPEC,…", value_delimiter = ',')]
    objectives: Vec<String>,
    /// modpo, dpo-soup, dpo-weighting, mod, morlhf, ppo-soup, best-of-n
    #[arg(long, value_name = "NAME,NAME,…", value_delimiter = ',')]
    methods: Vec<String>,
    /// Seeds, each with a model and runs of its own
    #[arg(long, value_name = "S,S,…", value_delimiter = ',')]
    seeds: Vec<u64>,
    /// Size of the model: 30k, 100k, 300k, 1m, 3m or 10m parameters
    #[arg(long)]
    size: Option<String>,
    /// Folder; what it holds already is not trained or measured again
    #[arg(long, value_name = "DIR", default_value = "runs/front")]
    out: PathBuf,
    #[command(flatten)]
    layers: LayerArgs,
    #[command(flatten)]
    shared: SharedArgs,
}

pub(super) fn front(args: &FrontArgs) -> Result<(), Failure> {
    let config = config(args)?;
    args.shared.threads.apply()?;
    let device = device::pick(DeviceChoice::Cpu)?;
    let stop = on_interrupt()?;
    let progress = StageProgress::new();
    let started = Instant::now();
    let found = lm::fronts(&config, &args.out, &device, &stop, &|shown| progress.show(&shown))?;
    progress.finish();
    let Some(found) = found else {
        return Err(Failure::interrupted(format!(
            "what is trained and measured is kept; go on with the same command and --out {}",
            args.out.display()
        )));
    };
    print(&found);
    let seconds = started.elapsed().as_secs_f64();
    print_line(&format!("{seconds:.0} s; table, points and models in {}", args.out.join("front.json").display()));
    if args.shared.json {
        print_json(&json!({
            "objectives": config.own.objectives, "seeds": config.common.seeds, "starts": found.starts, "table": found.table,
            "points": found.points.len(), "wall_seconds": seconds, "out": shown(&args.out),
        }));
    }
    Ok(())
}

fn print(found: &Fronts) {
    let Fronts { config, starts, table, .. } = found;
    let seeds = starts.len() as f64;
    for (i, objective) in config.own.objectives.iter().enumerate() {
        let mean = starts.iter().map(|start| start.gold[i]).sum::<f64>() / seeds;
        let deviation = starts.iter().map(|start| start.scales[i].deviation).sum::<f64>() / seeds;
        print_line(&format!(
            "objective {}: {objective}, {mean:.3} at the start, standard deviation {deviation:.3}",
            i + 1
        ));
    }
    print_line(
        "rewards are in standard deviations above the start, which is the reference of hypervolumes; costs are of a seed",
    );
    print_line(&format!(
        "{:<20} {:<24} {:<8} {:<10} {:<14} {:<11} CPU s",
        "method", "hypervolume", "IGD+", "KL, most", "non-dominated", "trainings"
    ));
    for row in table {
        let Row { method, hypervolume, interval, igd_plus, non_dominated: [own, all], .. } = row;
        let volume = over_seeds(*hypervolume, *interval);
        let beyond = igd_plus.map_or_else(|| "-".to_owned(), |beyond| format!("{beyond:.3}"));
        let kl = row.largest_kl.map_or_else(|| "-".to_owned(), |kl| format!("{kl:.1}"));
        print_line(&format!(
            "{:<20} {volume:<24} {beyond:<8} {kl:<10} {:<14} {:<11} {}",
            method.name(),
            format!("{own} of {all}"),
            row.trainings,
            cpu_seconds(row.cpu_seconds, 0)
        ));
    }
    for row in table.iter().filter(|row| !row.chord.is_empty()) {
        for line in connectivity(row, &config.own.objectives) {
            print_line(&line);
        }
    }
}

/// Where a soup's mixes lie above the chord between their ends, and where they do not.
fn connectivity(row: &Row, objectives: &[String]) -> Vec<String> {
    let of_objective = |(i, objective): (usize, &String)| {
        let all = row.chord.len();
        let above = row.chord.iter().filter(|mix| mix.above[i] >= 0.0).count();
        // Of a single seed there is no interval: the mean is all that is known.
        let highest = |mix: &ChordRow| mix.intervals.get(i).copied().flatten().map_or(mix.above[i], |[_, high]| high);
        let surely_below: Vec<String> =
            row.chord.iter().filter(|mix| highest(mix) < 0.0).map(|mix| shares(&mix.weights)).collect();
        let single = row.chord.iter().all(|mix| mix.intervals.get(i).copied().flatten().is_none());
        let below = match surely_below.as_slice() {
            [] => String::new(),
            some if single => format!("; below it at {}", some.join(", ")),
            some => format!("; below it, with its interval, at {}", some.join(", ")),
        };
        format!("{}: {above} of {all} mixes on or above the chord in {objective}{below}", row.method.name())
    };
    objectives.iter().enumerate().map(of_objective).collect()
}

fn shares(weights: &[f64]) -> String {
    weights.iter().map(|weight| format!("{weight:.2}")).collect::<Vec<_>>().join("/")
}

/// Defaults ← `--config` ← `--set` ← flags.
fn config(args: &FrontArgs) -> Result<FrontConfig, Failure> {
    let mut table = Table::try_from(FrontConfig::default())?;
    for layer in args.layers.read()? {
        merge(&mut table, layer);
    }
    if let Some(corpus) = &args.corpus {
        table.insert("corpus".to_owned(), super::corpus(corpus)?);
    }
    if let Some(size) = &args.size {
        table.insert("size".to_owned(), size.as_str().into());
    }
    for (name, words) in [("objectives", &args.objectives), ("methods", &args.methods)] {
        if !words.is_empty() {
            let words = words.iter().map(|word| word.as_str().into()).collect();
            table.insert(name.to_owned(), toml::Value::Array(words));
        }
    }
    if !args.seeds.is_empty() {
        table.insert("seeds".to_owned(), super::seeds(&args.seeds)?);
    }
    serde_path_to_error::deserialize(table)
        .map_err(|error| Failure::usage(format!("{}: {}", error.path(), error.inner().message())))
}
