//! What was found of every method: its volume, its cost, the chord of its soups; and figures of all.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::{COST, ChordRow, Cost, FrontConfig, Fronts, Method, Point, Recipe, Row, Single, Way, policy_name};
use crate::disk::figure::{self, Series, SeriesPoint};
use crate::lm::error::LmError;
use crate::pareto::{above_chord, attainment_front, front as non_dominated, hypervolume, igd_plus};
use crate::preference::statistics::bootstrap_interval;
use crate::random::stream;
use crate::soup::grid;
use crate::studies::beginning::{corpus_name, read_json};

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

/// Names of all trainings that a method's front takes.
fn trainings(config: &FrontConfig, method: Method) -> Vec<String> {
    let Recipe { singles, way, .. } = method.recipe();
    let objectives = config.own.objectives.len();
    let each = |single: &Single| (0..objectives).map(|objective| single.name(objective)).collect::<Vec<_>>();
    let mut all: Vec<String> = singles.iter().flat_map(each).collect();
    if let Way::Trains(_) = way {
        let weights = grid(objectives, config.own.weight_steps);
        let inner = weights.into_iter().filter(|weights| !weights.contains(&1.0));
        all.extend(inner.map(|weights| policy_name(method, &weights)));
    }
    all
}

/// What a method got over all seeds, and what that took.
pub(super) fn row(config: &FrontConfig, points: &[Point], costs: &BTreeMap<String, f64>, method: Method) -> Row {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
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
    let names = trainings(config, method);
    let cost =
        |&seed: &u64| -> Option<f64> { names.iter().map(|name| costs.get(&format!("{seed}/{name}")).copied()).sum() };
    let costs: Option<Vec<f64>> = config.common.seeds.iter().map(cost).collect();
    Row {
        method,
        hypervolume: mean(&volumes),
        interval,
        igd_plus: beyond.map(|beyond| mean(&beyond)),
        largest_kl: largest.map(|largest| mean(&largest)),
        non_dominated: counts.fold([0, 0], |sum, counts| [sum[0] + counts[0], sum[1] + counts[1]]),
        trainings: names.len(),
        cpu_seconds: costs.map(|costs| mean(&costs)),
        chord: match method.recipe().way {
            Way::Soup => chord(config, points, method),
            _ => Vec::new(),
        },
    }
}

/// Every mix against the chord between the single objectives' policies.
fn chord(config: &FrontConfig, points: &[Point], method: Method) -> Vec<ChordRow> {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
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
pub(super) fn draw(fronts: &Fronts, folder: &Path) -> Result<(), LmError> {
    let Fronts { config, points, .. } = fronts;
    for second in 1..config.own.objectives.len() {
        for first in 0..second {
            let series = |&method: &Method| {
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
                Series { name: method.name().to_owned(), points: line, dots }
            };
            let all: Vec<Series> = config.own.methods.iter().map(series).collect();
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
