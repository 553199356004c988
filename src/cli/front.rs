//! `front`: agents with several tastes, by soups and by multi-objective RL.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use toml::Table;

use super::train::{Threads, note_few};
use super::{Failure, LayerArgs, cpu_seconds, over_seeds, print_json, print_line, remark, shown};
use crate::device::{self, DeviceChoice};
use crate::disk::archive::write_atomically;
use crate::disk::figure::{self, Series, SeriesPoint};
use crate::disk::files::make_folder;
use crate::disk::layers::merge;
use crate::disk::lines;
use crate::disk::lock::Claim;
use crate::pareto::attainment_front;
use crate::studies::control_front::{
    self as rl, ControlFront, ControlFrontConfig, ControlMethod, ControlRow, ControlSeed,
};

/// Arguments of `front`.
#[derive(Debug, Args)]
pub(crate) struct FrontArgs {
    /// reacher (precision against effort), pendulum (upright against torque) or inverted-pendulum (upright against force)
    env: Option<String>,
    /// Seeds, from 0 [default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000), allow_negative_numbers = true)]
    seeds: Option<u64>,
    /// Leave multi-objective RL out, which trains a policy for every mix
    #[arg(long)]
    no_morl: bool,
    /// Comparisons that a simulated teacher of each taste answers; policies learn from these instead of the tastes' rewards
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    labels: Option<u32>,
    #[command(flatten)]
    layers: LayerArgs,
    #[command(flatten)]
    threads: Threads,
    /// Folder; seeds that it holds already are not run again [default: runs/front-ENV]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print one JSON object as the last line
    #[arg(long)]
    json: bool,
}

pub(crate) fn front(args: &FrontArgs) -> Result<(), Failure> {
    let config = config(args)?;
    config.validate().map_err(Failure::usage)?;
    args.threads.apply()?;
    note_few(config.episodes);
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("runs/front-{}", config.env)));
    let io = |error: std::io::Error| Failure::usage(format!("{}: {error}", out.display()));
    let _claim = Claim::make(&out)?;
    make_folder(&out.join("seeds")).map_err(io)?;
    // A seed's result belongs to the configuration, whatever the other seeds are.
    let mut shared = Table::try_from(&config)?;
    shared.remove("seeds");
    let shared = toml::to_string(&shared)?;
    let kept = out.join("config.toml");
    match std::fs::read_to_string(&kept) {
        Ok(found) if found != shared => {
            return Err(Failure::usage(format!(
                "{}: holds another front: choose another --out, or give the same configuration to go on",
                kept.display()
            )));
        }
        Ok(_) => {}
        Err(_) => write_atomically(&kept, shared.as_bytes()).map_err(io)?,
    }
    let device = device::pick(DeviceChoice::Cpu)?;
    let mut seeds: Vec<ControlSeed> = Vec::new();
    for &seed in &config.seeds {
        let path = out.join("seeds").join(format!("{seed}.json"));
        let found = match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map_err(|error| {
                Failure::usage(format!("{}: {error}: remove it, and it is measured again", path.display()))
            })?,
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure::usage(format!("{}: {error}", path.display())));
            }
            Err(_) => {
                let found = rl::seed(&config, seed, &out, &device, &remark)?;
                let text = lines::pretty(&found);
                write_atomically(&path, text.as_bytes()).map_err(io)?;
                found
            }
        };
        seeds.push(found);
    }
    let table = rl::table(&config, &seeds);
    let tastes = rl::tastes(&config.env)?.each_ref().map(|taste| taste.name);
    print(&config, &seeds, &table, tastes);
    let result = ControlFront {
        config: config.clone(),
        tastes: tastes.map(str::to_owned).to_vec(),
        seeds: seeds.clone(),
        table: table.clone(),
    };
    let text = lines::pretty(&result);
    write_atomically(&out.join("front.json"), text.as_bytes()).map_err(io)?;
    let svg = out.join("front.svg");
    draw(&config, &seeds, tastes, &svg)?;
    print_line(&format!("points in {}, figure in {}", out.join("front.json").display(), svg.display()));
    if args.json {
        print_json(
            &json!({ "env": config.env, "tastes": tastes, "seeds": config.seeds, "table": table, "out": shown(&out) }),
        );
    }
    Ok(())
}

fn print(config: &ControlFrontConfig, seeds: &[ControlSeed], table: &[ControlRow], tastes: [&str; 2]) {
    let between = config.mix_steps - 1;
    let learned = match config.labels {
        0 => String::new(),
        labels => format!(", each taste learned from {labels} answers of its teacher"),
    };
    print_line(&format!(
        "{}: {} against {}, {} seed{}, {} episodes each; ends are policies of one taste{learned}",
        config.env,
        tastes[0],
        tastes[1],
        seeds.len(),
        if seeds.len() == 1 { "" } else { "s" },
        config.episodes
    ));
    print_line(&format!(
        "{:<6} {:<24} {:<28} {:<24} {:<11} {:<11} CPU s",
        "method",
        "box covered",
        format!("of {between} not dominated by ends"),
        "above the chord",
        "trainings",
        "env steps"
    ));
    let list = |counts: &[usize]| counts.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    for row in table {
        let ControlRow { volume, interval, .. } = row;
        print_line(&format!(
            "{:<6} {:<24} {:<28} {:<24} {:<11} {:<11} {}",
            name(row.method),
            volume.map_or_else(|| "–".to_owned(), |volume| over_seeds(volume, *interval)),
            list(&row.not_dominated),
            list(&row.above_chord),
            row.trainings,
            row.env_steps,
            cpu_seconds(row.cpu_seconds, 0)
        ));
    }
}

fn name(method: ControlMethod) -> &'static str {
    match method {
        ControlMethod::Soup => "soup",
        ControlMethod::Morl => "MORL",
    }
}

fn draw(
    config: &ControlFrontConfig,
    seeds: &[ControlSeed],
    tastes: [&str; 2],
    path: &std::path::Path,
) -> Result<(), Failure> {
    let series = |method: ControlMethod| {
        let of_seed = |seed: &ControlSeed| -> Vec<Vec<f64>> {
            let own = seed.points.iter().filter(|point| point.method == method);
            own.map(|point| point.returns.to_vec()).collect()
        };
        let sets: Vec<Vec<Vec<f64>>> = seeds.iter().map(of_seed).collect();
        let mut line: Vec<SeriesPoint> = attainment_front(&sets, sets.len().div_ceil(2))
            .into_iter()
            .map(|[x, y]| SeriesPoint { x, y, interval: None })
            .collect();
        line.reverse();
        let dots = sets.iter().flatten().map(|point| (point[0], point[1])).collect();
        Series { name: name(method).to_owned(), points: line, dots }
    };
    let methods = if config.morl { vec![ControlMethod::Soup, ControlMethod::Morl] } else { vec![ControlMethod::Soup] };
    let all: Vec<Series> = methods.into_iter().map(series).collect();
    let learned = if config.labels == 0 { String::new() } else { format!(", {} answers each", config.labels) };
    let title = format!("{}: return of an episode by two tastes, {} seeds{learned}", config.env, seeds.len());
    Ok(figure::curves(path, &title, tastes, &all)?)
}

/// Defaults ← `--config` ← `--set` ← flags.
fn config(args: &FrontArgs) -> Result<ControlFrontConfig, Failure> {
    let mut table = Table::try_from(ControlFrontConfig::default())?;
    for layer in args.layers.read()? {
        merge(&mut table, layer);
    }
    if let Some(env) = &args.env {
        table.insert("env".to_owned(), env.as_str().into());
    }
    if let Some(seeds) = args.seeds {
        let seeds = (0..seeds).map(|seed| i64::try_from(seed).map(toml::Value::Integer));
        table.insert("seeds".to_owned(), toml::Value::Array(seeds.collect::<Result<_, _>>()?));
    }
    if let Some(labels) = args.labels {
        table.insert("labels".to_owned(), i64::from(labels).into());
    }
    if args.no_morl {
        table.insert("morl".to_owned(), false.into());
    }
    serde_path_to_error::deserialize(table)
        .map_err(|error| Failure::usage(format!("{}: {}", error.path(), error.inner().message())))
}
