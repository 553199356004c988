//! `evals report`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::arguments::pair;
use crate::cli::failure::Failure;
use crate::cli::flags::JsonArgs;
use crate::cli::screen::print_line;
use crate::evals::report as evals;

/// Arguments of `evals report`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ReportArgs {
    /// Folders of `evals run`
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// Compare two models by name: the questions that changed most, set by set
    #[arg(long, value_name = "BEFORE,AFTER", value_parser = pair::<String>)]
    diff: Option<[String; 2]>,
    /// Questions listed for each set
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
    /// Folder for the report [default: the first run's]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    json: JsonArgs,
}

pub(super) fn report(args: &ReportArgs) -> Result<(), Failure> {
    let out = match (&args.out, args.runs.first()) {
        (Some(out), _) | (None, Some(out)) => out,
        (None, None) => return Err(Failure::usage("no run: give the folder of an `evals run`")),
    };
    let diff = args.diff.as_ref().map(|names| names.each_ref().map(String::as_str));
    let found = evals::report(&args.runs, diff, args.top, out)?;
    evals::markdown(&found).lines().for_each(print_line);
    print_line(&format!("report.md, report.json and {} figures in {}", found.figures.len(), out.display()));
    args.json.print(&found);
    Ok(())
}
