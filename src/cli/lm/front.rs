//! `lm front`.

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::shared::{StudyArgs, WorldFlags, study};
use crate::cli::failure::Failure;
use crate::cli::screen::{number, over_seeds, print_line, print_table, shares, shown};
use crate::studies::front::{self as lm, ChordRow, FrontConfig, Fronts, Row};

/// Arguments of `lm front`.
#[derive(Debug, Args)]
#[command(mut_arg("out", |arg| arg.required(false).default_value("runs/front")))]
pub(in crate::cli) struct FrontArgs {
    #[command(flatten)]
    flags: FrontFlags,
    #[command(flatten)]
    study: StudyArgs,
}

/// Flags of `lm front` that are values of [`FrontConfig`].
#[derive(Debug, Args, Serialize)]
struct FrontFlags {
    /// Objectives: gold rewards, such as sentiment,reviews:specificity
    #[arg(long, value_name = "SPEC,SPEC,…", value_delimiter = ',')]
    objectives: Option<Vec<String>>,
    /// Methods: modpo, dpo-soup, dpo-weighting, mod, morlhf, ppo-soup, best-of-n
    #[arg(long, value_name = "NAME,NAME,…", value_delimiter = ',')]
    methods: Option<Vec<String>>,
    #[command(flatten)]
    #[serde(flatten)]
    world: WorldFlags,
}

pub(super) fn config(args: &FrontArgs) -> Result<FrontConfig, Failure> {
    args.study.layers.resolve(&FrontConfig::default(), &args.flags)
}

pub(super) fn front(args: &FrontArgs) -> Result<(), Failure> {
    let config = config(args)?;
    let StudyArgs { out, shared, .. } = &args.study;
    let (found, seconds) = study(&args.study, |device, stop, show| lm::fronts(&config, out, device, stop, show))?;
    print(&found);
    print_line(&format!("{seconds:.0} s; table, points and models in {}", out.join("front.json").display()));
    shared.json.print(&json!({
        "objectives": config.own.objectives, "seeds": config.common.seeds, "starts": found.starts, "table": found.table,
        "points": found.points.len(), "wall_seconds": seconds, "out": shown(out),
    }));
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
    let row = |row: &Row| {
        let [own, all] = row.non_dominated;
        vec![
            row.method.name().to_owned(),
            over_seeds(Some(row.hypervolume), row.interval),
            number(row.igd_plus, 3),
            number(row.largest_kl, 1),
            format!("{own} of {all}"),
            row.trainings.to_string(),
            number(row.cpu_seconds, 0),
        ]
    };
    let head = ["method", "hypervolume", "IGD+", "KL, most", "non-dominated", "trainings", "CPU s"];
    print_table(&head, table.iter().map(row));
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
