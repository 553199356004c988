//! `lm soup`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use toml::{Table, Value};

use super::progress::StageProgress;
use super::{Failure, LayerArgs, SharedArgs, paths, print_json, print_line, shown, whole, write};
use crate::cli::train::on_interrupt;
use crate::device::{self, DeviceChoice};
use crate::disk::figure::{self, Series, SeriesPoint};
use crate::disk::layers::merge;
use crate::disk::lines;
use crate::disk::lock::{Claim, is_vacant};
use crate::lm::merge::adapters::{AdapterMerge, is_adapter, merge_adapters};
use crate::lm::merge::{MergeFolderError, merge_models};
use crate::soup::MergeConfig;
use crate::studies::soup_path::{self as lm, Mix, Soup, SoupConfig};

#[derive(Debug, Args)]
pub(super) struct SoupArgs {
    /// Folders of models, or of adapters of one base, that were fine-tuned from one model
    #[arg(value_name = "MODEL")]
    models: Vec<PathBuf>,
    /// A gold reward, or model:DIR of a reward model; once for each objective
    #[arg(long, value_name = "SPEC")]
    objective: Vec<String>,
    /// Rows {"prompt"} that mixes are measured on
    #[arg(long, value_name = "FILE,FILE,…")]
    data: Vec<PathBuf>,
    /// Weights of the models [default: those that are best on half of the prompts]
    #[arg(long, value_name = "W,W,…", value_delimiter = ',', conflicts_with = "uniform")]
    weights: Vec<f64>,
    /// The same weight for all models
    #[arg(long)]
    uniform: bool,
    /// Weights of the objectives where the best mix is searched for [default: the same for all]
    #[arg(long, value_name = "W,W,…", value_delimiter = ',')]
    preference: Vec<f64>,
    /// Steps of the path from one model to another
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Prompts to use
    #[arg(long, value_name = "N")]
    prompts: Option<usize>,
    /// Most tokens of a completion
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<usize>,
    /// Seed of every draw
    #[arg(long, value_name = "S")]
    seed: Option<usize>,
    /// Folder for the soup (`model`), the path (`soup.json`) and its figures; made new
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    layers: LayerArgs,
    #[command(flatten)]
    shared: SharedArgs,
}

pub(super) fn soup(args: &SoupArgs) -> Result<(), Failure> {
    let config = config(args)?;
    // What stands behind a list of files without a comma.
    if let Some(file) = args.models.iter().find(|model| model.is_file()) {
        let file = file.display();
        return Err(Failure::usage(format!("{file}: is a file, not a model's folder; files are --data FILE,FILE")));
    }
    config.validate()?;
    // What a killed command left of a folder is none.
    if args.out.exists() && !is_vacant(&args.out, &[]).unwrap_or(false) {
        return Err(Failure::usage(format!("{}: is there already: choose another --out", args.out.display())));
    }
    let claim = Claim::make(&args.out)?;
    let done = write_soup(args, &config);
    if done.is_err() {
        // Empty again: the next try shall not trip over it.
        claim.abandon();
    }
    done
}

fn write_soup(args: &SoupArgs, config: &SoupConfig) -> Result<(), Failure> {
    args.shared.threads.apply()?;
    let device = device::pick(DeviceChoice::Cpu)?;
    let stop = on_interrupt()?;
    let progress = StageProgress::new();
    let found = lm::soup(config, &device, &stop, &|shown| progress.show(&shown))?;
    progress.finish();
    let interrupted = || Failure::interrupted("nothing was written".to_owned());
    let found = found.ok_or_else(interrupted)?;
    print(&found);
    let model = args.out.join("model");
    let merging = MergeConfig { weights: found.chosen.clone(), ..MergeConfig::default() };
    let merged = match config.models.iter().all(|model| is_adapter(model)) {
        true => merge_adapters(&merging, AdapterMerge::Concatenated, &config.models, &model),
        false => merge_models(&merging, None, &config.models, &model, false, &stop, &|_, _| ()),
    };
    let merged = merged.map_err(|error| match error {
        MergeFolderError::Interrupted => interrupted(),
        other => Failure::usage(other.to_string()),
    })?;
    write(&args.out.join("soup.json"), &lines::pretty(&found))?;
    draw(&found, &args.out)?;
    print_line(&format!("soup of {}: {}", shares(&found.chosen), model.display()));
    if args.shared.json {
        print_json(&json!({
            "chosen": found.chosen, "barrier": found.barrier, "mixes": found.mixes, "model": shown(&model),
            "parameters": merged.parameters, "least_cosine": merged.least_cosine,
        }));
    }
    Ok(())
}

fn print(found: &Soup) {
    let Soup { config, mixes, barrier, .. } = found;
    for (i, objective) in config.objectives.iter().enumerate() {
        print_line(&format!("objective {}: {objective}", i + 1));
    }
    let columns: String = (1..=config.objectives.len())
        .map(|i| format!("{:<20}{:<30}", format!("reward {i}"), "above the chord"))
        .collect();
    print_line(&format!("{:<20}{:<8}{}", "weights", "tokens", columns.trim_end()));
    for Mix { weights, rewards, above, intervals, length, .. } in mixes {
        let cells: String = (0..rewards.len())
            .map(|i| {
                let chord = match (above.get(i), intervals.get(i)) {
                    (Some(above), Some(Some([low, high]))) => format!("{above:+.3} [{low:+.3}, {high:+.3}]"),
                    (Some(above), Some(None)) => format!("{above:+.3}"),
                    _ => "-".to_owned(),
                };
                format!("{:<20}{chord:<30}", format!("{:.3}{}", rewards[i].mean, rewards[i].plus_minus(3)))
            })
            .collect();
        print_line(&format!("{:<20}{length:<8.1}{}", shares(weights), cells.trim_end()));
    }
    for (i, barrier) in barrier.iter().enumerate() {
        let line = match *barrier {
            0.0 => format!("objective {}: no mix lies below the chord", i + 1),
            depth => format!("objective {}: the deepest mix lies {depth:.3} below the chord", i + 1),
        };
        print_line(&line);
    }
}

fn shares(weights: &[f64]) -> String {
    weights.iter().map(|weight| format!("{weight:.2}")).collect::<Vec<_>>().join("/")
}

/// Of two models: for every objective the path, and its chord.
fn draw(found: &Soup, out: &std::path::Path) -> Result<(), Failure> {
    let Soup { config, mixes, .. } = found;
    if config.models.len() != 2 {
        return Ok(());
    }
    for (i, objective) in config.objectives.iter().enumerate() {
        let point = |mix: &Mix| {
            let (x, mean) = (mix.weights[0], mix.rewards[i].mean);
            let interval = mix.rewards[i].error.map(|error| [mean - 1.96 * error, mean + 1.96 * error]);
            SeriesPoint { x, y: mean, interval }
        };
        let path: Vec<SeriesPoint> = mixes.iter().map(point).collect();
        let ends = [&path[0], &path[path.len() - 1]].map(|end| SeriesPoint { interval: None, ..*end });
        let series = [
            Series { name: "mixes".to_owned(), points: path, dots: Vec::new() },
            Series { name: "chord".to_owned(), points: ends.to_vec(), dots: Vec::new() },
        ];
        let title = format!("{} and {}", config.models[1].display(), config.models[0].display());
        figure::curves(
            &out.join(format!("soup-{}.svg", i + 1)),
            &title,
            ["share of the first model", objective],
            &series,
        )?;
    }
    Ok(())
}

/// Defaults ← `--config` ← `--set` ← flags.
fn config(args: &SoupArgs) -> Result<SoupConfig, Failure> {
    let mut table = Table::try_from(SoupConfig::default())?;
    for layer in args.layers.read()? {
        merge(&mut table, layer);
    }
    for (name, given) in [("models", &args.models), ("data", &args.data)] {
        if !given.is_empty() {
            table.insert(name.to_owned(), paths(given)?);
        }
    }
    if !args.objective.is_empty() {
        table.insert("objectives".to_owned(), Value::try_from(&args.objective)?);
    }
    for (name, weights) in [("weights", &args.weights), ("preference", &args.preference)] {
        if !weights.is_empty() {
            table.insert(name.to_owned(), Value::try_from(weights)?);
        }
    }
    if args.uniform {
        table.insert("choice".to_owned(), "uniform".into());
    } else if !args.weights.is_empty() {
        table.insert("choice".to_owned(), "given".into());
    }
    let numbers = [
        ("steps", args.steps),
        ("prompts", args.prompts),
        ("max_new_tokens", args.max_new_tokens),
        ("seed", args.seed),
    ];
    for (name, value) in numbers {
        if let Some(value) = value {
            table.insert(name.to_owned(), whole(name, value)?);
        }
    }
    serde_path_to_error::deserialize(table)
        .map_err(|error| Failure::usage(format!("{}: {}", error.path(), error.inner().message())))
}
