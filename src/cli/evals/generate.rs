//! `evals generate`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::models::ModelArgs;
use crate::cli::failure::Failure;
use crate::cli::flags::{SeedArgs, SharedArgs};
use crate::cli::progress::Progress;
use crate::cli::screen::{note, print_line, shown};
use crate::cli::train::on_interrupt;
use crate::evals::behaviour::{self, EXAMPLE};
use crate::evals::generate::{self as lib, GenerateConfig, Provenance};
use crate::evals::local::weights_digest;
use crate::evals::model::Model;

/// Arguments of `evals generate`.
#[derive(Debug, Args)]
pub(in crate::cli) struct GenerateArgs {
    /// TOML file that describes behaviours; `--example` prints one
    #[arg(long, value_name = "FILE", required_unless_present = "example")]
    behaviours: Option<PathBuf>,
    /// Print a file of behaviours with comments, as a start for your own
    #[arg(long)]
    example: bool,
    /// Who writes: a folder, or a server as http://HOST:PORT/v1#NAME
    #[arg(long, value_name = "SPEC", required_unless_present = "example")]
    model: Option<String>,
    /// Folder, with a folder for each behaviour; statements that are there already are not written again
    #[arg(long, value_name = "DIR", default_value = "runs/statements")]
    out: PathBuf,
    /// Only these behaviours of the file
    #[arg(long, value_name = "NAME,NAME,…", value_delimiter = ',')]
    only: Vec<String>,
    /// Texts for each of the two labels
    #[arg(long, value_name = "N", default_value_t = GenerateConfig::default().count)]
    count: usize,
    /// Show the model some of the file's examples, different ones before every text
    #[arg(long)]
    few_shot: bool,
    /// Temperature, which divides the logits [default: 1.4]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f64>,
    /// Draw among the likeliest tokens whose probabilities add up to this [default: 0.975]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f64>,
    /// Most tokens of a text [default: 48; of a question with choices 256]
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<usize>,
    /// What ends a text, \n being a new line; may be given several times [default: a new line, a full stop and " -"; of
    /// a question with choices an empty line]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// Leave out statements that have this share of their runs of three words in common with an earlier one
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    #[arg(default_value_t = GenerateConfig::default().near_duplicates)]
    near_duplicates: f64,
    #[command(flatten)]
    seed: SeedArgs,
    #[command(flatten)]
    models: ModelArgs,
    #[command(flatten)]
    shared: SharedArgs,
}

pub(super) fn generate(args: &GenerateArgs) -> Result<(), Failure> {
    if args.example {
        EXAMPLE.lines().for_each(print_line);
        return Ok(());
    }
    let (Some(file), Some(spec)) = (&args.behaviours, &args.model) else {
        return Err(Failure::usage("--behaviours FILE and --model SPEC are needed"));
    };
    let mut behaviours = behaviour::read(file)?;
    if let Some(unknown) = args.only.iter().find(|name| !behaviours.iter().any(|own| own.name == **name)) {
        let names: Vec<&str> = behaviours.iter().map(|own| own.name.as_str()).collect();
        return Err(Failure::usage(format!("--only {unknown}: {} has {}", file.display(), names.join(", "))));
    }
    behaviours.retain(|own| args.only.is_empty() || args.only.contains(&own.name));
    let config = GenerateConfig {
        model: spec.clone(),
        count: args.count,
        few_shot: args.few_shot,
        temperature: args.temperature,
        top_p: args.top_p,
        max_new_tokens: args.max_new_tokens,
        stop: (!args.stop.is_empty()).then(|| args.stop.iter().map(|stop| stop.replace("\\n", "\n")).collect()),
        near_duplicates: args.near_duplicates,
        seed: args.seed.seed,
    };
    // Everything is checked before anything is written.
    let weights = weights_digest(Path::new(spec))
        .map_err(|error| Failure::usage(format!("{spec}: its weights cannot be read: {error}")))?;
    let mut all = Vec::with_capacity(behaviours.len());
    for own in &behaviours {
        all.push(lib::finished(own, &config, weights.as_deref(), &args.out)?);
    }
    args.shared.threads.apply()?;
    let stop = on_interrupt()?;
    let (progress, started) = (Progress::new(), Instant::now());
    let mut model: Option<Box<dyn Model>> = None;
    for (own, found) in behaviours.iter().zip(&mut all) {
        if found.is_some() {
            continue;
        }
        let model = match &mut model {
            Some(model) => model,
            none => none.insert(args.models.open(spec, None, None)?),
        };
        let count = |done, of| progress.count(&format!("{}: texts", own.name), done, of);
        *found = lib::generate(own, &config, model.as_ref(), weights.as_deref(), &args.out, &stop, &count)?;
        if found.is_none() {
            progress.finish();
            return Err(Failure::kept("written", &args.out));
        }
    }
    progress.finish();
    model.iter().flat_map(|model| model.remarks()).for_each(|text| note(&text));
    let all: Vec<Provenance> = all.into_iter().flatten().collect();
    for provenance in &all {
        describe(provenance);
    }
    let seconds = started.elapsed().as_secs_f64();
    let what = if model.is_none() { "nothing to do: all is written" } else { "written" };
    print_line(&format!("{what}, {seconds:.0} s; candidates in {}", args.out.display()));
    let one = |one: &Provenance| {
        json!({
            "name": one.behaviour.name, "labels": one.behaviour.labels, "counts": one.counts,
            "candidates": shown(&args.out.join(&one.behaviour.name).join("candidates.jsonl")),
        })
    };
    args.shared.json.print(&json!({
        "behaviours": all.iter().map(one).collect::<Vec<_>>(), "model": spec, "seed": config.seed,
        "wall_seconds": seconds, "out": shown(&args.out),
    }));
    Ok(())
}

fn describe(provenance: &Provenance) {
    for (label, counts) in provenance.behaviour.labels.iter().zip(provenance.counts.iter().flatten()) {
        print_line(&format!(
            "{}, {label}: {} written, {} empty, {} of one word, {} malformed, {} duplicates, {} near-duplicates; {} \
             candidates, {} texts without an end",
            provenance.behaviour.name,
            counts.written,
            counts.empty,
            counts.short,
            counts.malformed,
            counts.duplicates,
            counts.near_duplicates,
            counts.kept,
            counts.unended
        ));
    }
}
