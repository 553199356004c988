//! What was found of every method: its volume, its cost, the chord of its soups; and figures of all.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::config::{FrontConfig, Method, Point, Start};
use crate::disk::figure::{self, Series, SeriesPoint};
use crate::lm::error::LmError;
use crate::pareto::{above_chord, attainment_front, front as non_dominated, hypervolume, igd_plus};
use crate::preference::statistics::{bootstrap_interval, mean};
use crate::random::stream;
use crate::soup::grid;
use crate::studies::beginning::{corpus_name, read_json};

/// A method's front over all seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Which method.
    pub method: Method,
    /// Volume above the start that its points cover: mean over seeds.
    pub hypervolume: f64,
    /// 95 % bootstrap interval of that mean; of a single seed there is none.
    #[serde(default)]
    pub interval: Option<[f64; 2]>,
    /// How far the points of all methods together lie beyond its own: mean over seeds.
    pub igd_plus: Option<f64>,
    /// The largest divergence from the start among its points, nats: mean over seeds. What one method gets at a larger
    /// divergence than another says little about the two.
    pub largest_kl: Option<f64>,
    /// How many of its points others of its own do not dominate, of how many: over all seeds.
    pub non_dominated: [usize; 2],
    /// Trainings in a seed: of policies and of reward models.
    pub trainings: usize,
    /// CPU seconds of these in a seed: mean; `None` where they are not known of every training.
    #[serde(default)]
    pub cpu_seconds: Option<f64>,
    /// Of soups: how far mixes lie above the chord between their ends.
    pub chord: Vec<ChordRow>,
}

/// A mix against the chord between the ends it is mixed of (linear mode connectivity).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChordRow {
    /// The mix.
    pub weights: Vec<f64>,
    /// How far it lies above, in each objective: mean over seeds.
    pub above: Vec<f64>,
    /// 95 % bootstrap intervals of these means; of a single seed there are none.
    pub intervals: Vec<Option<[f64; 2]>>,
}

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fronts {
    /// What was run.
    pub config: FrontConfig,
    /// What each seed began with.
    pub starts: Vec<Start>,
    /// All policies.
    pub points: Vec<Point>,
    /// By method.
    pub table: Vec<Row>,
    /// CPU seconds of every training, by seed and name.
    pub costs: BTreeMap<String, f64>,
}

/// What a training took.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Cost {
    pub(super) cpu_seconds: Option<f64>,
    pub(super) wall_seconds: f64,
}

/// File with a model's [`Cost`].
pub(super) const COST: &str = "cost.json";

/// CPU seconds of every training of a seed, by name.
pub(super) fn costs_of(folder: &Path, seed: u64) -> Result<Vec<(String, f64)>, LmError> {
    let models = folder.join(format!("models/{seed}"));
    let Ok(entries) = fs::read_dir(&models) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let file = entry.path().join(COST);
        if file.is_file() {
            let cost: Cost = read_json(&file)?;
            found.extend(cost.cpu_seconds.map(|seconds| (entry.file_name().to_string_lossy().into_owned(), seconds)));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// What a method got over all seeds, and what that took.
///
/// `trainings` are the names of the trainings that its front takes; `soup` is whether it mixes weights.
pub(super) fn row(
    config: &FrontConfig,
    points: &[Point],
    costs: &BTreeMap<String, f64>,
    method: Method,
    trainings: &[String],
    soup: bool,
) -> Row {
    let of = |seed: u64, method: Option<Method>| -> Vec<Vec<f64>> {
        let own =
            points.iter().filter(|point| point.seed == seed && method.is_none_or(|method| point.method == method));
        own.map(|point| point.rewards.clone()).collect()
    };
    let start = vec![0.0; config.own.objectives.len()];
    let volumes: Vec<f64> =
        config.common.seeds.iter().map(|&seed| hypervolume(&of(seed, Some(method)), &start)).collect();
    let interval = bootstrap_interval(&volumes, mean, 0.95, &mut stream(0, "front-interval", 0));
    let beyond = |&seed: &u64| {
        let all = of(seed, None);
        let known: Vec<Vec<f64>> = non_dominated(&all).into_iter().map(|i| all[i].clone()).collect();
        igd_plus(&of(seed, Some(method)), &known)
    };
    let beyond: Option<Vec<f64>> = config.common.seeds.iter().map(beyond).collect();
    let counts = config.common.seeds.iter().map(|&seed| {
        let own = of(seed, Some(method));
        [non_dominated(&own).len(), own.len()]
    });
    let largest = |&seed: &u64| {
        let own = points.iter().filter(|point| point.seed == seed && point.method == method);
        own.filter_map(|point| point.kl.as_ref()).map(|kl| kl.mean).max_by(f64::total_cmp)
    };
    let largest: Option<Vec<f64>> = config.common.seeds.iter().map(largest).collect();
    let cost = |&seed: &u64| -> Option<f64> {
        trainings.iter().map(|name| costs.get(&format!("{seed}/{name}")).copied()).sum()
    };
    let costs: Option<Vec<f64>> = config.common.seeds.iter().map(cost).collect();
    Row {
        method,
        hypervolume: mean(&volumes),
        interval,
        igd_plus: beyond.map(|beyond| mean(&beyond)),
        largest_kl: largest.map(|largest| mean(&largest)),
        non_dominated: counts.fold([0, 0], |sum, counts| [sum[0] + counts[0], sum[1] + counts[1]]),
        trainings: trainings.len(),
        cpu_seconds: costs.map(|costs| mean(&costs)),
        chord: if soup { chord(config, points, method) } else { Vec::new() },
    }
}

/// Every mix against the chord between the single objectives' policies.
fn chord(config: &FrontConfig, points: &[Point], method: Method) -> Vec<ChordRow> {
    let objectives = config.own.objectives.len();
    let find = |seed: u64, weights: &[f64]| {
        points.iter().find(|point| point.method == method && point.seed == seed && point.weights == weights)
    };
    let end = |seed: u64, objective: usize| {
        let weights: Vec<f64> = (0..objectives).map(|i| if i == objective { 1.0 } else { 0.0 }).collect();
        find(seed, &weights).map(|point| point.rewards.clone())
    };
    let of_weights = |weights: Vec<f64>| {
        let of_seed = |&seed: &u64| {
            let ends: Option<Vec<Vec<f64>>> = (0..objectives).map(|objective| end(seed, objective)).collect();
            Some(above_chord(&ends?, &weights, &find(seed, &weights)?.rewards))
        };
        let seeds: Option<Vec<Vec<f64>>> = config.common.seeds.iter().map(of_seed).collect();
        let seeds = seeds?;
        let of_objective = |objective: usize| seeds.iter().map(|above| above[objective]).collect::<Vec<f64>>();
        let interval = |values: &[f64]| bootstrap_interval(values, mean, 0.95, &mut stream(0, "chord-interval", 0));
        let all: Vec<Vec<f64>> = (0..objectives).map(of_objective).collect();
        Some(ChordRow {
            above: all.iter().map(|values| mean(values)).collect(),
            intervals: all.iter().map(|values| interval(values)).collect(),
            weights,
        })
    };
    grid(objectives, config.own.mix_steps)
        .into_iter()
        .filter(|weights| !weights.contains(&1.0))
        .filter_map(of_weights)
        .collect()
}

/// For every two objectives a figure: a dot for every policy, and the line that at least half of the seeds reach.
/// `names` are those of the methods.
pub(super) fn draw(fronts: &Fronts, names: &[&str], folder: &Path) -> Result<(), LmError> {
    let Fronts { config, points, .. } = fronts;
    for second in 1..config.own.objectives.len() {
        for first in 0..second {
            let series = |(&method, &name): (&Method, &&str)| {
                let of_seed = |&seed: &u64| -> Vec<Vec<f64>> {
                    let own = points.iter().filter(|point| point.method == method && point.seed == seed);
                    own.map(|point| vec![point.rewards[first], point.rewards[second]]).collect()
                };
                let seeds: Vec<Vec<Vec<f64>>> = config.common.seeds.iter().map(of_seed).collect();
                let mut line: Vec<SeriesPoint> = attainment_front(&seeds, seeds.len().div_ceil(2))
                    .into_iter()
                    .map(|[x, y]| SeriesPoint { x, y, interval: None })
                    .collect();
                line.reverse();
                let dots = seeds.iter().flatten().map(|point| (point[0], point[1])).collect();
                Series { name: name.to_owned(), points: line, dots }
            };
            let all: Vec<Series> = config.own.methods.iter().zip(names).map(series).collect();
            let seeds = config.common.seeds.len();
            let title = format!(
                "{}, {} parameters, {seeds} seed{}: standard deviations above the start",
                corpus_name(&config.common.corpus),
                config.common.size,
                if seeds == 1 { "" } else { "s" }
            );
            let path = match config.own.objectives.len() {
                2 => folder.join("front.svg"),
                _ => folder.join(format!("front-{}-{}.svg", first + 1, second + 1)),
            };
            figure::curves(&path, &title, [&config.own.objectives[first], &config.own.objectives[second]], &all)?;
        }
    }
    Ok(())
}
