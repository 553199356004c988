//! `front`: agents with several tastes, by soups and by multi-objective RL.

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::TypedValueParser as _;
use serde::Serialize;
use serde_json::json;

use super::failure::Failure;
use super::flags::{LayerArgs, SharedArgs, is_on};
use super::screen::{number, over_seeds, print_line, print_table, remark, shown, write};
use super::train::note_few;
use crate::device::{self, DeviceChoice};
use crate::disk::figure::{self, Series, SeriesPoint};
use crate::disk::files::make_folder;
use crate::disk::layers::layer;
use crate::disk::lines;
use crate::disk::lock::Claim;
use crate::pareto::attainment_front;
use crate::studies::control_front::{
    self as rl, ControlFront, ControlFrontConfig, ControlMethod, ControlRow, ControlSeed,
};

/// Arguments of `front`.
#[derive(Debug, Args)]
pub(crate) struct FrontArgs {
    #[command(flatten)]
    flags: FrontFlags,
    #[command(flatten)]
    layers: LayerArgs,
    /// Folder; seeds that it holds already are not run again [default: runs/front-ENV]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    shared: SharedArgs,
}

/// Flags of `front` that are values of [`ControlFrontConfig`].
#[derive(Debug, Args, Serialize)]
struct FrontFlags {
    /// Environment: reacher (precision against effort), pendulum (upright against torque) or inverted-pendulum (upright
    /// against force)
    env: Option<String>,
    /// How many seeds, counted from 0 [default: 5]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1000).map(|count| Seeds((0..count).collect())))]
    seeds: Option<Seeds>,
    /// Leave out multi-objective RL, which trains a policy for every mix
    #[arg(long = "no-morl", action = clap::ArgAction::SetFalse)]
    #[serde(skip_serializing_if = "is_on")]
    morl: bool,
    /// Comparisons that a simulated teacher of each taste answers; policies learn from these instead of the tastes' rewards
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    labels: Option<u32>,
}

/// Seeds from 0.
#[derive(Debug, Clone, Serialize)]
struct Seeds(Vec<u64>);

pub(super) fn config(args: &FrontArgs) -> Result<ControlFrontConfig, Failure> {
    args.layers.resolve(&ControlFrontConfig::default(), &args.flags)
}

pub(crate) fn front(args: &FrontArgs) -> Result<(), Failure> {
    let config = config(args)?;
    config.validate().map_err(Failure::usage)?;
    args.shared.threads.apply()?;
    note_few(config.episodes);
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("runs/front-{}", config.env)));
    let _claim = Claim::make(&out)?;
    make_folder(&out.join("seeds")).map_err(|error| Failure::usage(format!("{}: {error}", out.display())))?;
    // A seed's result belongs to the configuration, whatever the other seeds are.
    let mut shared = layer(&config)?;
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
        Err(_) => write(&kept, &shared)?,
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
                write(&path, &lines::pretty(&found))?;
                found
            }
        };
        seeds.push(found);
    }
    let tastes = rl::tastes(&config.env)?.iter().map(|taste| taste.name.to_owned()).collect();
    let front = ControlFront { table: rl::table(&config, &seeds), config, tastes, seeds };
    print(&front);
    let (points, svg) = (out.join("front.json"), out.join("front.svg"));
    write(&points, &lines::pretty(&front))?;
    draw(&front, &svg)?;
    print_line(&format!("points in {}, figure in {}", points.display(), svg.display()));
    let ControlFront { config, tastes, table, .. } = &front;
    args.shared.json.print(
        &json!({ "env": config.env, "tastes": tastes, "seeds": config.seeds, "table": table, "out": shown(&out) }),
    );
    Ok(())
}

fn print(ControlFront { config, tastes, seeds, table }: &ControlFront) {
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
    let list = |counts: &[usize]| counts.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let row = |row: &ControlRow| {
        vec![
            name(row.method).to_owned(),
            over_seeds(row.volume, row.interval),
            list(&row.not_dominated),
            list(&row.above_chord),
            row.trainings.to_string(),
            row.env_steps.to_string(),
            number(row.cpu_seconds, 0),
        ]
    };
    let not_dominated = format!("of {between} not dominated by ends");
    let head = ["method", "box covered", &not_dominated, "above the chord", "trainings", "env steps", "CPU s"];
    print_table(&head, table.iter().map(row));
}

fn name(method: ControlMethod) -> &'static str {
    match method {
        ControlMethod::Soup => "soup",
        ControlMethod::Morl => "MORL",
    }
}

fn draw(ControlFront { config, tastes, seeds, .. }: &ControlFront, path: &Path) -> Result<(), Failure> {
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
    Ok(figure::curves(path, &title, [&tastes[0], &tastes[1]], &all)?)
}
