//! `lm merge`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::progress::StageProgress;
use crate::cli::failure::Failure;
use crate::cli::flags::{LayerArgs, SharedArgs};
use crate::cli::screen::{print_line, shown};
use crate::cli::train::on_interrupt;
use crate::lm::merge::adapters::{AdapterMerge, is_adapter, merge_adapters};
use crate::lm::merge::{MergeFolderError, MergeReport, merge_models};
use crate::lm::run::LmProgress;
use crate::soup::MergeConfig;

/// Arguments of `lm merge`.
#[derive(Debug, Args)]
pub(in crate::cli) struct MergeArgs {
    /// Folders of the models, all whole or all adapters of one base
    #[arg(value_name = "MODEL", required = true)]
    models: Vec<PathBuf>,
    #[command(flatten)]
    flags: MergeFlags,
    /// Folder of the model that all were fine-tuned from: for task-arithmetic, ties, dare and dare-ties
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// Adapters: come back to this rank by singular values, instead of the exact sum of the ranks
    #[arg(long, value_name = "RANK", conflicts_with = "average")]
    rank: Option<usize>,
    /// Adapters: average A and B one by one, an approximation whose error is printed
    #[arg(long)]
    average: bool,
    /// Also merge models that were not fine-tuned from one initialisation
    #[arg(long)]
    unrelated: bool,
    /// Folder of the merged model; made new
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    layers: LayerArgs,
    #[command(flatten)]
    shared: SharedArgs,
}

/// Flags of `lm merge` that are values of [`MergeConfig`].
#[derive(Debug, Args, Serialize)]
struct MergeFlags {
    /// Method: linear (a rewarded soup), slerp, task-arithmetic, ties, dare or dare-ties [default: linear]
    #[arg(long, value_name = "NAME")]
    method: Option<String>,
    /// One weight for each model, such as 0.3,0.7 or -0.5,1.5 [default: the same for all, summing to 1]
    #[arg(long, value_name = "W,W,…", value_delimiter = ',')]
    weights: Option<Vec<f64>>,
    /// Share of each model's changes that ties and dare keep
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    density: Option<f64>,
    /// What the merged change is multiplied by
    #[arg(long, allow_negative_numbers = true)]
    lambda: Option<f64>,
    /// Divide by the sum of the weights: true or false [default: true for linear and ties]
    #[arg(long, value_name = "BOOL")]
    normalize: Option<bool>,
    /// Seed of dare's choice
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
}

pub(super) fn config(args: &MergeArgs) -> Result<MergeConfig, Failure> {
    let mut config = args.layers.resolve(&MergeConfig::default(), &args.flags)?;
    if config.weights.is_empty() {
        config.weights = vec![1.0 / args.models.len() as f64; args.models.len()];
    }
    Ok(config)
}

pub(super) fn merge(args: &MergeArgs) -> Result<(), Failure> {
    let config = config(args)?;
    args.shared.threads.apply()?;
    if args.rank == Some(0) {
        return Err(Failure::usage("--rank 0: must be 1 or more"));
    }
    let adapters = args.models.iter().filter(|model| is_adapter(model)).count();
    if adapters > 0 && adapters < args.models.len() {
        return Err(Failure::usage(
            "some of the models are adapters and some are whole: merge only models of one kind",
        ));
    }
    if adapters == 0 && (args.rank.is_some() || args.average) {
        return Err(Failure::usage("--rank and --average are for adapters; these models are whole"));
    }
    let stop = on_interrupt()?;
    let started = Instant::now();
    let report = if adapters > 0 {
        let how = match (args.rank, args.average) {
            (Some(rank), _) => AdapterMerge::Rank(rank),
            (None, true) => AdapterMerge::Averaged,
            (None, false) => AdapterMerge::Concatenated,
        };
        merge_adapters(&config, how, &args.models, &args.out)
    } else {
        let progress = StageProgress::new();
        let show = |done, total| progress.show(&LmProgress::Preparing("tensors", done, total));
        let report = merge_models(&config, args.base.as_deref(), &args.models, &args.out, args.unrelated, &stop, &show);
        progress.finish();
        report
    };
    let report = report.map_err(merge_failure)?;
    let seconds = started.elapsed().as_secs_f64();
    let MergeReport { tensors, parameters, bytes_read, bytes_written, least_cosine, relative_error } = &report;
    print_line(&format!(
        "{tensors} tensors of {parameters} values from {} models into {}",
        args.models.len(),
        args.out.display()
    ));
    if let Some(cosine) = least_cosine {
        print_line(&format!("cosine of the models' weights: {cosine:.4} at least"));
    }
    if let Some(error) = relative_error {
        print_line(&format!("relative error to the exact merged update: {error:.2e} (Frobenius norm)"));
    }
    let moved = (bytes_read + bytes_written) as f64 / 1e9;
    print_line(&format!("{moved:.2} GB read and written in {seconds:.1} s, {:.2} GB/s", moved / seconds.max(1e-9)));
    let models: Vec<String> = args.models.iter().map(|model| shown(model)).collect();
    args.shared.json.print(&json!({
        "out": shown(&args.out), "models": models, "method": config.method, "weights": config.weights,
        "tensors": tensors, "parameters": parameters, "bytes_read": bytes_read, "bytes_written": bytes_written,
        "least_cosine": least_cosine, "relative_error": relative_error, "wall_seconds": seconds,
    }));
    Ok(())
}

/// Why a merge ended.
pub(super) fn merge_failure(error: MergeFolderError) -> Failure {
    match error {
        MergeFolderError::Interrupted => Failure::interrupted(error.to_string()),
        other => Failure::usage(other.to_string()),
    }
}
