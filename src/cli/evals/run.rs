//! `evals run`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::models::ModelArgs;
use crate::cli::failure::Failure;
use crate::cli::flags::{SeedArgs, SharedArgs, template_time};
use crate::cli::progress::Progress;
use crate::cli::screen::{print_line, shown};
use crate::cli::train::on_interrupt;
use crate::evals::ask::MeasureConfig;
use crate::evals::model::PromptForm;
use crate::evals::outcome::{ModelEntry, RunConfig};
use crate::evals::report;
use crate::evals::run::{self as evals, RunObserver, name_apart};
use crate::lm::run::asked_date;

/// Arguments of `evals run`.
#[derive(Debug, Args)]
pub(in crate::cli) struct RunArgs {
    /// A model's folder, the folder of a run of `pairwise lm`, or a server: http://HOST:PORT/v1#NAME; may be given several
    /// times
    #[arg(long, value_name = "SPEC,SPEC,…", value_hint = clap::ValueHint::AnyPath)]
    model: Vec<String>,
    /// TOML file with a table [[model]] for each: spec and, if you like, name, parameters and steps
    #[arg(long, value_name = "FILE")]
    models: Option<PathBuf>,
    /// Files or folders of questions, in the formats of anthropics/evals
    #[arg(long, value_name = "FILE,FILE,…", required = true)]
    data: Vec<PathBuf>,
    /// How a question becomes a prompt
    #[arg(long, value_enum, default_value_t = PromptForm::Dialogue)]
    form: PromptForm,
    /// With --form chat: a chat template by name or file, for models of this machine [default: the tokenizer's]
    #[arg(long, value_name = "NAME")]
    chat_template: Option<String>,
    /// With --form chat: the date that a chat template receives if it asks for one, such as 2024-07-26 [default: the day of the
    /// folder's first answers, in UTC]
    #[arg(long, value_name = "DATE")]
    template_date: Option<String>,
    /// Ask questions with choices only in the order of the file
    #[arg(long)]
    no_swap: bool,
    /// Do not also ask whether a statement is something that one would not say
    #[arg(long)]
    no_negation: bool,
    /// Most questions of a set, drawn by the seed; 0 for all
    #[arg(long, value_name = "N", default_value_t = 0)]
    limit: usize,
    /// Questions of a set that are also answered freely, to see refusals; 0 for none
    #[arg(long, value_name = "N", default_value_t = MeasureConfig::default().free_answers)]
    free: usize,
    #[command(flatten)]
    seed: SeedArgs,
    /// Folder; what it holds already is not asked again
    #[arg(long, value_name = "DIR", default_value = "runs/evals")]
    out: PathBuf,
    #[command(flatten)]
    models_args: ModelArgs,
    #[command(flatten)]
    shared: SharedArgs,
}

/// A file of models.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelsFile {
    model: Vec<ModelLine>,
}

/// A model of such a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelLine {
    spec: String,
    name: Option<String>,
    parameters: Option<usize>,
    steps: Option<usize>,
}

pub(super) fn run(args: &RunArgs) -> Result<(), Failure> {
    args.shared.threads.apply()?;
    let started = Instant::now();
    let stop = on_interrupt()?;
    if let Some(name) = [("--chat-template", &args.chat_template), ("--template-date", &args.template_date)]
        .iter()
        .find_map(|(name, value)| value.as_ref().filter(|_| args.form != PromptForm::Chat).map(|_| name))
    {
        return Err(Failure::usage(format!("{name}: only --form chat uses a template; give it, too")));
    }
    let models = models(args)?;
    let template_date = date(args, &models)?;
    let now = template_time(template_date.as_deref())?;
    let config = RunConfig {
        sets: args.data.clone(),
        measure: MeasureConfig {
            form: args.form,
            swap: !args.no_swap,
            negate: !args.no_negation,
            limit: args.limit,
            free_answers: args.free,
            seed: args.seed.seed,
            chat_template: args.chat_template.clone(),
            template_date,
        },
        models,
    };
    let progress = Progress::new();
    let open = |spec: &str| args.models_args.open(spec, args.chat_template.as_deref(), now);
    let found = evals::run(&config, &args.out, &open, &stop, &progress)?;
    progress.finish();
    let outcomes = found.ok_or_else(|| Failure::kept("answered", &args.out))?;
    let found = report::report(std::slice::from_ref(&args.out), None, 0, &args.out)?;
    report::markdown(&found).lines().for_each(print_line);
    let seconds = started.elapsed().as_secs_f64();
    print_line(&format!("{seconds:.0} s; answers, results.jsonl, report.md and figures in {}", args.out.display()));
    let figures: Vec<String> = found.figures.iter().map(|path| shown(path)).collect();
    args.shared.json.print(&json!({
        "results": outcomes, "trends": found.trends, "notes": found.notes, "figures": figures, "wall_seconds": seconds,
        "seed": args.seed.seed, "out": shown(&args.out),
    }));
    Ok(())
}

/// The day that templates are told: the one that is given, that of the folder's answers, or today where a template asks.
fn date(args: &RunArgs, models: &[ModelEntry]) -> Result<Option<String>, Failure> {
    if args.form != PromptForm::Chat || args.template_date.is_some() {
        return Ok(args.template_date.clone());
    }
    let before = evals::asked(&args.out)?.and_then(|before| before.measure.template_date);
    Ok(before
        .or_else(|| models.iter().find_map(|model| asked_date(Path::new(&model.spec), args.chat_template.as_deref()))))
}

fn models(args: &RunArgs) -> Result<Vec<ModelEntry>, Failure> {
    let mut all: Vec<ModelEntry> = args.model.iter().map(|spec| ModelEntry::of(spec)).collect();
    if let Some(path) = &args.models {
        let wrong = |problem: String| Failure::usage(format!("{}: {problem}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let file: ModelsFile = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        all.extend(file.model.into_iter().map(|line| {
            let own = ModelEntry::of(&line.spec);
            ModelEntry {
                name: line.name.unwrap_or(own.name),
                parameters: line.parameters.or(own.parameters),
                steps: line.steps.or(own.steps),
                spec: own.spec,
                weights: None,
            }
        }));
    }
    if all.is_empty() {
        return Err(Failure::usage("no model: give --model SPEC (a folder or a server), or --models FILE"));
    }
    name_apart(&mut all);
    Ok(all)
}

impl RunObserver for Progress {
    fn note(&self, text: &str) {
        Self::note(self, text);
    }

    fn count(&self, what: &str, done: usize, of: usize) {
        Self::count(self, what, done, of);
    }
}
