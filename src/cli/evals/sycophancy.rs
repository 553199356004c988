//! `evals sycophancy`.

use clap::Args;
use serde::Serialize;
use serde_json::json;

use crate::cli::failure::Failure;
use crate::cli::lm::{StudyArgs, study};
use crate::cli::screen::{print_line, shown};
use crate::studies::sycophancy::{self as lm, SycophancyConfig};

/// Arguments of `evals sycophancy`.
#[derive(Debug, Args)]
#[command(mut_arg("out", |arg| arg.required(false).default_value("runs/sycophancy")))]
pub(in crate::cli) struct SycophancyArgs {
    #[command(flatten)]
    flags: SycophancyFlags,
    #[command(flatten)]
    study: StudyArgs,
}

/// Flags of `evals sycophancy` that are values of [`SycophancyConfig`].
#[derive(Debug, Args, Serialize)]
struct SycophancyFlags {
    /// Seeds, each with texts, labels and models of its own; intervals are over them
    #[arg(long, value_name = "S,S,…", value_delimiter = ',')]
    seeds: Option<Vec<u64>>,
    /// Sizes of models: 30k, 100k, 300k, 1m, 3m or 10m parameters
    #[arg(long, value_name = "SIZE,SIZE,…", value_delimiter = ',')]
    sizes: Option<Vec<String>>,
    /// What annotators give for being agreed with, in nats: 0, the control, and others
    #[arg(long, value_name = "NATS,NATS,…", value_delimiter = ',')]
    biases: Option<Vec<f64>>,
}

pub(super) fn config(args: &SycophancyArgs) -> Result<SycophancyConfig, Failure> {
    args.study.layers.resolve(&SycophancyConfig::default(), &args.flags)
}

pub(super) fn sycophancy(args: &SycophancyArgs) -> Result<(), Failure> {
    let config = config(args)?;
    let StudyArgs { out, shared, .. } = &args.study;
    let (found, seconds) = study(&args.study, |device, stop, show| lm::sycophancy(&config, out, device, stop, show))?;
    print_line(found.text().trim_end());
    let [json, figure, table] = ["sycophancy.json", "sycophancy.svg", "table.txt"].map(|name| out.join(name));
    print_line(&format!("{seconds:.0} s; {}, {}, {}", json.display(), figure.display(), table.display()));
    shared.json.print(&json!({
        "seeds": config.seeds, "sizes": config.sizes, "biases": config.biases, "table": found.table,
        "trends": found.trends, "controls": found.controls, "points": found.points.len(), "wall_seconds": seconds,
        "figure": shown(&figure), "out": shown(out),
    }));
    Ok(())
}
