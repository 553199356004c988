//! `evals sycophancy`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde_json::json;
use toml::{Table, Value};

use super::{Failure, LayerArgs, SharedArgs, print_json, print_line, shown};
use crate::cli::progress::Progress;
use crate::cli::train::on_interrupt;
use crate::device::{self, DeviceChoice};
use crate::disk::layers::merge;
use crate::lm::run::Shown;
use crate::studies::sycophancy::{self as lm, SycophancyConfig};

#[derive(Debug, Args)]
pub(super) struct SycophancyArgs {
    /// Seeds, each with texts, labels and models of its own; intervals are over them
    #[arg(long, value_name = "S,S,…", value_delimiter = ',')]
    seeds: Vec<u64>,
    /// Sizes of models: 30k, 100k, 300k, 1m, 3m or 10m parameters
    #[arg(long, value_name = "SIZE,SIZE,…", value_delimiter = ',')]
    sizes: Vec<String>,
    /// What it is worth to annotators to be agreed with, nats: 0, the control, and others
    #[arg(long, value_name = "NATS,NATS,…", value_delimiter = ',')]
    biases: Vec<f64>,
    /// Folder; what it holds already is not trained or measured again
    #[arg(long, value_name = "DIR", default_value = "runs/sycophancy")]
    out: PathBuf,
    #[command(flatten)]
    layers: LayerArgs,
    #[command(flatten)]
    shared: SharedArgs,
}

pub(super) fn sycophancy(args: &SycophancyArgs) -> Result<(), Failure> {
    let config = config(args)?;
    args.shared.threads.apply()?;
    let device = device::pick(DeviceChoice::Cpu)?;
    let stop = on_interrupt()?;
    let progress = Progress::new();
    let started = Instant::now();
    let show = |shown: Shown<'_>| match shown {
        Shown::Note(note) => progress.note(note),
        Shown::Preparing(what, done, of) => progress.count(what, done, of),
        Shown::Step(..) | Shown::Evaluation(_) => {}
    };
    let found = lm::sycophancy(&config, &args.out, &device, &stop, &show)?;
    progress.finish();
    let Some(found) = found else {
        return Err(Failure::interrupted(format!(
            "what is trained and measured is kept; go on with the same command and --out {}",
            args.out.display()
        )));
    };
    print_line(found.text().trim_end());
    let seconds = started.elapsed().as_secs_f64();
    let file = |name: &str| args.out.join(name);
    let [json, figure, table] = ["sycophancy.json", "sycophancy.svg", "table.txt"].map(file);
    print_line(&format!("{seconds:.0} s; {}, {}, {}", json.display(), figure.display(), table.display()));
    if args.shared.json {
        print_json(&json!({
            "seeds": config.seeds, "sizes": config.sizes, "biases": config.biases, "table": found.table,
            "trends": found.trends, "controls": found.controls, "points": found.points.len(), "wall_seconds": seconds,
            "figure": shown(&figure), "out": shown(&args.out),
        }));
    }
    Ok(())
}

/// Defaults ← `--config` ← `--set` ← flags.
fn config(args: &SycophancyArgs) -> Result<SycophancyConfig, Failure> {
    let mut table = Table::try_from(SycophancyConfig::default())?;
    for layer in args.layers.read()? {
        merge(&mut table, layer);
    }
    let whole = |&seed: &u64| {
        i64::try_from(seed).map(Value::Integer).map_err(|_| Failure::usage(format!("--seeds {seed}: far too large")))
    };
    let lists = [
        ("seeds", args.seeds.iter().map(whole).collect::<Result<Vec<_>, _>>()?),
        ("sizes", args.sizes.iter().map(|size| Value::from(size.as_str())).collect()),
        ("biases", args.biases.iter().map(|&bias| Value::Float(bias)).collect()),
    ];
    for (name, values) in lists {
        if !values.is_empty() {
            table.insert(name.to_owned(), Value::Array(values));
        }
    }
    serde_path_to_error::deserialize(table)
        .map_err(|error| Failure::usage(format!("{}: {}", error.path(), error.inner().message())))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{SycophancyArgs, config};

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: SycophancyArgs,
    }

    #[test]
    fn flags_lie_over_set_values_and_these_over_defaults() {
        let line = ["", "--seeds", "3,4", "--biases", "0,1.5", "--set", "biases=[0.0, 9.0]", "--set", "ppo.epochs=7"];
        let found = config(&Line::try_parse_from(line).unwrap().args).unwrap();
        assert_eq!((found.seeds, found.biases, found.ppo.epochs), (vec![3, 4], vec![0.0, 1.5], 7));
        assert_eq!(found.sizes.len(), 5);
        for (set, expected) in [("beeta=1", "beeta"), ("seeds=[-1]", "seeds")] {
            let line = Line::try_parse_from(["", "--set", set]).unwrap();
            let failure = config(&line.args).unwrap_err();
            assert!(failure.message.contains(expected) && failure.code == 2, "{failure:?}");
        }
    }
}
