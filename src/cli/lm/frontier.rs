//! `lm frontier`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde_json::json;
use toml::Table;

use super::progress::StageProgress;
use super::{Failure, LayerArgs, SharedArgs, print_json, print_line, shown};
use crate::cli::train::on_interrupt;
use crate::device::{self, DeviceChoice};
use crate::disk::layers::merge;
use crate::studies::frontier::{self as lm, BUDGETS, FrontierConfig};

#[derive(Debug, Args)]
pub(super) struct FrontierArgs {
    /// `reviews`, imdb:DIR with the files train.pos.jsonl.gz, train.neg.jsonl.gz and so on, or a file or folder of texts
    #[arg(long)]
    corpus: Option<String>,
    /// Gold reward that says which completion is better [default: the sentiment of reviews and of IMDB]
    #[arg(long, value_name = "SPEC")]
    gold: Option<String>,
    /// Size of the model: 30k, 100k, 300k, 1m, 3m or 10m parameters
    #[arg(long)]
    size: Option<String>,
    /// Seeds, each with a model and runs of its own
    #[arg(long, value_name = "S,S,…", value_delimiter = ',')]
    seeds: Vec<u64>,
    /// dpo, cdpo, ipo, ppo, ppo-gold, preferred-ft, best-of-n
    #[arg(long, value_name = "NAME,NAME,…", value_delimiter = ',')]
    methods: Vec<String>,
    /// Folder; what it holds already is not measured again
    #[arg(long, value_name = "DIR", default_value = "runs/frontier")]
    out: PathBuf,
    #[command(flatten)]
    layers: LayerArgs,
    #[command(flatten)]
    shared: SharedArgs,
}

pub(super) fn frontier(args: &FrontierArgs) -> Result<(), Failure> {
    let mut table = Table::try_from(FrontierConfig::default())?;
    if args.corpus.as_ref().is_some_and(|corpus| corpus.starts_with("imdb:")) {
        merge(&mut table, Table::try_from(FrontierConfig::imdb_layer())?);
    }
    for layer in args.layers.read()? {
        merge(&mut table, layer);
    }
    if let Some(corpus) = &args.corpus {
        table.insert("corpus".to_owned(), super::corpus(corpus)?);
    }
    if let Some(gold) = &args.gold {
        table.insert("gold".to_owned(), gold.as_str().into());
    }
    if let Some(size) = &args.size {
        table.insert("size".to_owned(), size.as_str().into());
    }
    if !args.seeds.is_empty() {
        table.insert("seeds".to_owned(), super::seeds(&args.seeds)?);
    }
    if !args.methods.is_empty() {
        let names = args.methods.iter().map(|name| name.as_str().into()).collect();
        table.insert("methods".to_owned(), toml::Value::Array(names));
    }
    let config: FrontierConfig = serde_path_to_error::deserialize(table)
        .map_err(|error| Failure::usage(format!("{}: {}", error.path(), error.inner().message())))?;
    args.shared.threads.apply()?;
    let device = device::pick(DeviceChoice::Cpu)?;
    let stop = on_interrupt()?;
    let progress = StageProgress::new();
    let started = Instant::now();
    let found = lm::frontier(&config, &args.out, &device, &stop, &|shown| progress.show(&shown))?;
    progress.finish();
    let Some(found) = found else {
        return Err(Failure::interrupted(format!(
            "what is measured is kept; go on with the same command and --out {}",
            args.out.display()
        )));
    };
    let start = found.start.iter().sum::<f64>() / found.start.len().max(1) as f64;
    print_line(&format!("gold reward of the model all begin with: {start:.3}"));
    print_line(&format!("{:<20} best gold reward within a sampled sequence KL of", "method"));
    let budgets = BUDGETS.map(|budget| format!("{:<22}", format!("{budget} nats")));
    print_line(&format!("{:<20} {}", "", budgets.concat().trim_end()));
    for row in &found.table {
        let cells = row.reward.iter().zip(&row.interval).map(|(reward, interval)| {
            let cell = match (reward, interval) {
                (Some(reward), Some([low, high])) => format!("{reward:.3} [{low:.3}, {high:.3}]"),
                (Some(reward), None) => format!("{reward:.3}"),
                _ => "-".to_owned(),
            };
            format!("{cell:<22}")
        });
        print_line(&format!("{:<20} {}", row.method.name(), cells.collect::<String>().trim_end()));
    }
    print_line(&format!(
        "{:.0} s; table and points in {}",
        started.elapsed().as_secs_f64(),
        args.out.join("frontier.json").display()
    ));
    print_line(&format!("figure in {}", args.out.join("frontier.svg").display()));
    if args.shared.json {
        print_json(&json!({
            "start": found.start, "table": found.table, "points": found.points.len(), "seeds": config.common.seeds,
            "wall_seconds": started.elapsed().as_secs_f64(), "out": shown(&args.out),
        }));
    }
    Ok(())
}
