//! `lm frontier`.

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::shared::{StudyArgs, WorldFlags, study};
use crate::cli::failure::Failure;
use crate::cli::screen::{over_seeds, print_line, print_table, shown};
use crate::disk::layers::{layer, resolve};
use crate::studies::frontier::{self as lm, BUDGETS, FrontierConfig};

/// Arguments of `lm frontier`.
#[derive(Debug, Args)]
#[command(mut_arg("out", |arg| arg.required(false).default_value("runs/frontier")))]
pub(in crate::cli) struct FrontierArgs {
    #[command(flatten)]
    flags: FrontierFlags,
    #[command(flatten)]
    study: StudyArgs,
}

/// Flags of `lm frontier` that are values of [`FrontierConfig`].
#[derive(Debug, Args, Serialize)]
struct FrontierFlags {
    /// Gold reward that says which completion is better [default: the sentiment of reviews and of IMDB]
    #[arg(long, value_name = "SPEC")]
    gold: Option<String>,
    /// Methods: dpo, cdpo, ipo, ppo, ppo-gold, preferred-ft, best-of-n
    #[arg(long, value_name = "NAME,NAME,…", value_delimiter = ',')]
    methods: Option<Vec<String>>,
    #[command(flatten)]
    #[serde(flatten)]
    world: WorldFlags,
}

pub(super) fn config(args: &FrontierArgs) -> Result<FrontierConfig, Failure> {
    let mut defaults = FrontierConfig::default();
    // IMDB has defaults of its own.
    if args.flags.world.corpus.as_ref().is_some_and(|corpus| corpus.starts_with("imdb:")) {
        defaults = resolve(&defaults, &[layer(&FrontierConfig::imdb_layer())?])?;
    }
    args.study.layers.resolve(&defaults, &args.flags)
}

pub(super) fn frontier(args: &FrontierArgs) -> Result<(), Failure> {
    let config = config(args)?;
    let StudyArgs { out, shared, .. } = &args.study;
    let (found, seconds) = study(&args.study, |device, stop, show| lm::frontier(&config, out, device, stop, show))?;
    let start = found.start.iter().sum::<f64>() / found.start.len().max(1) as f64;
    print_line(&format!("gold reward of the model that all begin with: {start:.3}"));
    print_line("best gold reward within a sampled divergence of the whole completion:");
    let budgets = BUDGETS.map(|budget| format!("{budget} nats"));
    let head: Vec<&str> = std::iter::once("method").chain(budgets.iter().map(String::as_str)).collect();
    print_table(
        &head,
        found.table.iter().map(|row| {
            let cells = row.reward.iter().zip(&row.interval).map(|(reward, interval)| over_seeds(*reward, *interval));
            std::iter::once(row.method.name().to_owned()).chain(cells).collect()
        }),
    );
    let [points, figure] = ["frontier.json", "frontier.svg"].map(|name| out.join(name));
    print_line(&format!("{seconds:.0} s; table and points in {}", points.display()));
    print_line(&format!("figure in {}", figure.display()));
    shared.json.print(&json!({
        "start": found.start, "table": found.table, "points": found.points.len(), "seeds": config.common.seeds,
        "wall_seconds": seconds, "out": shown(out),
    }));
    Ok(())
}
