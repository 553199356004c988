//! `lm soup`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::merge::merge_failure;
use super::progress::StageProgress;
use crate::cli::failure::Failure;
use crate::cli::flags::{LayerArgs, SharedArgs, places};
use crate::cli::screen::{print_line, print_table, shares, shown, write};
use crate::cli::train::on_interrupt;
use crate::device::{self, DeviceChoice};
use crate::disk::figure::{self, Series, SeriesPoint};
use crate::disk::lines;
use crate::disk::lock::{Claim, is_vacant};
use crate::lm::merge::adapters::{AdapterMerge, is_adapter, merge_adapters};
use crate::lm::merge::merge_models;
use crate::soup::MergeConfig;
use crate::studies::soup_path::{self as lm, Choice, Mix, Soup, SoupConfig};

/// Arguments of `lm soup`.
#[derive(Debug, Args)]
pub(in crate::cli) struct SoupArgs {
    #[command(flatten)]
    flags: SoupFlags,
    /// Folder for the soup (`model`), the path (`soup.json`) and its figures; made new
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    layers: LayerArgs,
    #[command(flatten)]
    shared: SharedArgs,
}

/// Flags of `lm soup` that are values of [`SoupConfig`].
#[derive(Debug, Args, Serialize)]
struct SoupFlags {
    /// Folders of models, or of adapters of one base, that were fine-tuned from one model
    #[arg(value_name = "MODEL")]
    #[serde(serialize_with = "places")]
    models: Option<Vec<PathBuf>>,
    /// A gold reward, or model:DIR of a reward model; once for each objective
    #[arg(long = "objective", value_name = "SPEC")]
    objectives: Option<Vec<String>>,
    /// Rows {"prompt"} that mixes are measured on
    #[arg(long, value_name = "FILE,FILE,…")]
    #[serde(serialize_with = "places")]
    data: Option<Vec<PathBuf>>,
    /// Weights of the models [default: those that are best on half of the prompts]
    #[arg(long, value_name = "W,W,…", value_delimiter = ',', conflicts_with = "uniform")]
    weights: Option<Vec<f64>>,
    /// The same weight for all models
    #[arg(long)]
    #[serde(skip)]
    uniform: bool,
    #[arg(skip)]
    choice: Option<Choice>,
    /// Weights of the objectives by which the best mix is chosen [default: the same for all]
    #[arg(long, value_name = "W,W,…", value_delimiter = ',')]
    preference: Option<Vec<f64>>,
    /// Steps of the path from one model to another
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Prompts to use
    #[arg(long, value_name = "N")]
    prompts: Option<usize>,
    /// Most tokens of a completion
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<usize>,
    /// Seed of every random draw
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
}

pub(super) fn config(args: &mut SoupArgs) -> Result<SoupConfig, Failure> {
    let flags = &mut args.flags;
    // Whoever says which weights, does not want them searched for.
    flags.choice = match flags.uniform {
        true => Some(Choice::Uniform),
        false => flags.weights.as_ref().map(|_| Choice::Given),
    };
    args.layers.resolve(&SoupConfig::default(), &args.flags)
}

pub(super) fn soup(mut args: SoupArgs) -> Result<(), Failure> {
    let config = config(&mut args)?;
    // What stands behind a list of files without a comma.
    if let Some(file) = config.models.iter().find(|model| model.is_file()) {
        let file = file.display();
        return Err(Failure::usage(format!("{file}: is a file, not a model's folder; files are --data FILE,FILE")));
    }
    config.validate()?;
    // A folder with nothing in it but what a killed command left is as good as none.
    if args.out.exists() && !is_vacant(&args.out, &[]).unwrap_or(false) {
        return Err(Failure::usage(format!("{}: is there already: choose another --out", args.out.display())));
    }
    let claim = Claim::make(&args.out)?;
    let done = write_soup(&args, &config);
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
    let found = found.ok_or_else(|| Failure::interrupted("nothing was written"))?;
    print(&found);
    let model = args.out.join("model");
    let merging = MergeConfig { weights: found.chosen.clone(), ..MergeConfig::default() };
    let merged = match config.models.iter().all(|model| is_adapter(model)) {
        true => merge_adapters(&merging, AdapterMerge::Concatenated, &config.models, &model),
        false => merge_models(&merging, None, &config.models, &model, false, &stop, &|_, _| ()),
    };
    let merged = merged.map_err(merge_failure)?;
    write(&args.out.join("soup.json"), &lines::pretty(&found))?;
    draw(&found, &args.out)?;
    print_line(&format!("soup of {}: {}", shares(&found.chosen), model.display()));
    args.shared.json.print(&json!({
        "chosen": found.chosen, "barrier": found.barrier, "mixes": found.mixes, "model": shown(&model),
        "parameters": merged.parameters, "least_cosine": merged.least_cosine,
    }));
    Ok(())
}

fn print(found: &Soup) {
    let Soup { config, mixes, barrier, .. } = found;
    for (i, objective) in config.objectives.iter().enumerate() {
        print_line(&format!("objective {}: {objective}", i + 1));
    }
    let of_objective = |i| [format!("reward {i}"), "above the chord".to_owned()];
    let head: Vec<String> = ["weights".to_owned(), "tokens".to_owned()]
        .into_iter()
        .chain((1..=config.objectives.len()).flat_map(of_objective))
        .collect();
    let row = |mix: &Mix| {
        let cells = (0..mix.rewards.len()).flat_map(|i| {
            let chord = match (mix.above.get(i), mix.intervals.get(i)) {
                (Some(above), Some(Some([low, high]))) => format!("{above:+.3} [{low:+.3}, {high:+.3}]"),
                (Some(above), _) => format!("{above:+.3}"),
                _ => "–".to_owned(),
            };
            [format!("{:.3}{}", mix.rewards[i].mean, mix.rewards[i].plus_minus(3)), chord]
        });
        [shares(&mix.weights), format!("{:.1}", mix.length)].into_iter().chain(cells).collect()
    };
    print_table(&head.iter().map(String::as_str).collect::<Vec<_>>(), mixes.iter().map(row));
    for (i, barrier) in barrier.iter().enumerate() {
        let line = match *barrier {
            0.0 => format!("objective {}: no mix lies below the chord", i + 1),
            depth => format!("objective {}: the deepest mix lies {depth:.3} below the chord", i + 1),
        };
        print_line(&line);
    }
}

/// Of two models: for every objective the path, and its chord.
fn draw(found: &Soup, out: &Path) -> Result<(), Failure> {
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
