//! `evals filter`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::models::ModelArgs;
use crate::cli::failure::Failure;
use crate::cli::flags::{SeedArgs, SharedArgs};
use crate::cli::progress::Progress;
use crate::cli::screen::{note, number, print_line, shown as place};
use crate::cli::train::on_interrupt;
use crate::disk::lock::Claim;
use crate::evals::error::EvalsError;
use crate::evals::filter::report::{self, FilterReport, shown};
use crate::evals::filter::{self as lib, FilterConfig};
use crate::evals::generate::{folders, read};
use crate::evals::judge::Judge;

/// Arguments of `evals filter`.
#[derive(Debug, Args)]
pub(in crate::cli) struct FilterArgs {
    /// Folder that `evals generate` has written, or the folder of a single behaviour in it
    #[arg(value_name = "DIR")]
    candidates: PathBuf,
    /// Who says which label a statement has: a run of `lm reward` or a preference model's folder, a language model's,
    /// or a server as http://HOST:PORT/v1#NAME
    #[arg(long, value_name = "SPEC")]
    judge: String,
    /// Who says whether a statement is about the behaviour; may be the same as --judge. Statements are then kept by the
    /// mean of both probabilities [default: nobody]
    #[arg(long, value_name = "SPEC")]
    relevance_judge: Option<String>,
    /// Most statements of each label
    #[arg(long, value_name = "N", default_value_t = FilterConfig::default().per_label)]
    per_label: usize,
    /// What the labels are compared with: rows {"statement", "label"}, or `reviews`, which reads the texts of the embedded
    /// world [default: the candidates' own "truth", where they have one]
    #[arg(long, value_name = "FILE")]
    truth: Option<String>,
    /// Folder for sets and reports [default: DIR-filtered]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    seed: SeedArgs,
    #[command(flatten)]
    models: ModelArgs,
    #[command(flatten)]
    shared: SharedArgs,
}

pub(super) fn filter(args: &FilterArgs) -> Result<(), Failure> {
    if args.per_label == 0 {
        return Err(Failure::usage("--per-label 0: must be 1 or more"));
    }
    let folders = folders(&args.candidates)?;
    let config = FilterConfig {
        judge: args.judge.clone(),
        relevance_judge: args.relevance_judge.clone(),
        per_label: args.per_label,
        truth: args.truth.clone(),
        seed: args.seed.seed,
    };
    let out = args.out.clone().unwrap_or_else(|| {
        let mut name = args.candidates.components().as_path().as_os_str().to_owned();
        name.push("-filtered");
        PathBuf::from(name)
    });
    // Everything is read before anybody is asked.
    let mut all = Vec::with_capacity(folders.len());
    for folder in &folders {
        let (provenance, candidates) = read(folder)?;
        let truths = lib::truths(&provenance.behaviour, &candidates, config.truth.as_deref())?;
        all.push((provenance.behaviour, candidates, truths));
    }
    args.shared.threads.apply()?;
    let open = |spec: &str| Judge::open(spec, |spec| args.models.open(spec, None, None));
    let judge = open(&config.judge)?;
    let other = config.relevance_judge.as_deref().filter(|spec| *spec != config.judge).map(open).transpose()?;
    let relevance = config.relevance_judge.as_ref().map(|_| other.as_ref().unwrap_or(&judge));
    let stop = on_interrupt()?;
    let (progress, started) = (Progress::new(), Instant::now());
    let (mut reports, mut failures) = (Vec::new(), Vec::new());
    for (behaviour, candidates, truths) in &all {
        let own = out.join(&behaviour.name);
        let _claim = Claim::make(&own)?;
        let count = |done| progress.count(&format!("{}: statements judged", behaviour.name), done, candidates.len());
        let path = own.join("scores.jsonl");
        let scores = lib::score(behaviour, candidates, &config, &judge, relevance, &path, &stop, &count);
        let kept = match scores {
            Ok(Some(scores)) => {
                lib::select(behaviour, candidates, &scores, config.per_label).map(|kept| (scores, kept))
            }
            Ok(None) => {
                progress.finish();
                return Err(Failure::kept("judged", &out));
            }
            Err(error) => Err(error),
        };
        let (scores, kept) = match kept {
            Ok(found) => found,
            // Other behaviours may make their sets.
            Err(error @ EvalsError::NoSet { .. }) => {
                failures.push(error.to_string());
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let rows = lib::rows(behaviour, candidates, &scores, &kept, config.seed);
        let (report, map) = report::report(behaviour, candidates, &scores, &kept, truths, &config);
        let set = report::save(&out, behaviour, &rows, &report, &map)?;
        reports.push((report, set));
    }
    progress.finish();
    [Some(&judge), other.as_ref()].into_iter().flatten().flat_map(Judge::remarks).for_each(|text| note(&text));
    print_line(&format!("judge: {}, {}", config.judge, judge.kind()));
    reports.iter().for_each(|(report, _)| describe(report));
    let seconds = started.elapsed().as_secs_f64();
    if !reports.is_empty() {
        print_line(&format!("{seconds:.0} s; sets in {}", out.join("sets").display()));
    }
    let one = |(report, set): &(FilterReport, PathBuf)| json!({"set": place(set), "report": report});
    let sets: Vec<_> = reports.iter().map(one).collect();
    args.shared.json.print(&json!({
        "sets": sets, "failures": failures, "judge": config.judge, "judge_kind": judge.kind(), "seed": config.seed,
        "wall_seconds": seconds, "out": place(&out),
    }));
    match failures.is_empty() {
        true => Ok(()),
        false => Err(Failure::usage(failures.join("\n"))),
    }
}

fn describe(report: &FilterReport) {
    let of_label = |own: &report::LabelReport| format!("{} of {} '{}'", own.kept, own.candidates, own.label);
    print_line(&format!(
        "{}: {} questions, {} and {}; ceiling {}, floor {}",
        report.behaviour,
        report.kept,
        of_label(&report.labels[0]),
        of_label(&report.labels[1]),
        number(report.ceiling, 3),
        number(report.floor, 3)
    ));
    if report.too_long > 0 {
        print_line(&format!("  {} candidates are too long for a judge and count as undecided (½)", report.too_long));
    }
    if let Some(truth) = &report.truth {
        let of = |accuracy: Option<report::Accuracy>| accuracy.map_or_else(|| "not known".to_owned(), shown);
        print_line(&format!("  labels right: unfiltered {}; filtered {}", of(truth.before), of(truth.after)));
    }
    let report::DiversityReport { before, after, clusters, .. } = &report.diversity;
    print_line(&format!(
        "  diversity before and after: distinct words {:.3} {:.3}, pairs {:.3} {:.3}, triples {:.3} {:.3}; mean \
         distance {} {}; effective clusters of {clusters}: {:.1} {:.1}",
        before.distinct[0],
        after.distinct[0],
        before.distinct[1],
        after.distinct[1],
        before.distinct[2],
        after.distinct[2],
        number(before.distance, 3),
        number(after.distance, 3),
        before.effective_clusters,
        after.effective_clusters
    ));
}
