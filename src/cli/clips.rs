//! `clips`: an episode of a run's policy, or a compared pair side by side, as a GIF.

use std::path::PathBuf;

use clap::Args;
use pairwise_envs::{Env, EnvSpec, Frame, Palette, Point, Scene, gif, render, side_by_side};
use serde::Serialize;

use super::train::load;
use super::{Failure, print_json, print_line};
use crate::drlhp::{self, Segment};
use crate::run::archive::write_atomically;

/// Arguments of `clips`.
#[derive(Debug, Args)]
pub(crate) struct ClipsArgs {
    /// Run folder
    run: PathBuf,
    /// GIF file to write
    #[arg(long, value_name = "FILE.gif")]
    out: PathBuf,
    /// Draw the pair of this query, first clip left under blue, second right under orange, instead of an episode
    #[arg(long, value_name = "QUERY", allow_negative_numbers = true)]
    pair: Option<u64>,
    /// Pixels of a side, were the picture square; wide scenes keep the area
    #[arg(long, default_value_t = 240, value_parser = clap::value_parser!(u32).range(16..=2048), allow_negative_numbers = true)]
    size: u32,
    /// Seed of the episode's initial state [default: the run's]
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    seed: Option<u64>,
    /// Print one JSON object as the last line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Written {
    path: PathBuf,
    frames: usize,
    bytes: usize,
}

/// States whose tracked point is shown as a trail: about a third of a second.
const TRAIL: usize = 12;

pub(crate) fn clips(args: &ClipsArgs) -> Result<(), Failure> {
    if args.out.extension().is_none_or(|e| !e.eq_ignore_ascii_case("gif")) {
        return Err(Failure::usage(format!("--out {}: the file must end in .gif", args.out.display())));
    }
    let run = load(&args.run)?;
    let spec = run.envs.spec();
    let frames = match args.pair {
        Some(query) => {
            let compared = run.comparisons.iter().find(|c| c.query == query).ok_or_else(|| {
                let there = run.comparisons.iter().map(|c| c.query).max();
                let range = there.map_or("there are none".to_owned(), |max| format!("there are 0 to {max}"));
                Failure::usage(format!("--pair {query}: no such answered query; {range}"))
            })?;
            let side = |segment: &Segment| film(spec, &segment.states, args.size);
            let pairs = side(&compared.first)?.into_iter().zip(side(&compared.second)?);
            pairs.map(|(a, b)| side_by_side(&a, &b, &Palette::default())).collect::<Result<Vec<_>, _>>()?
        }
        None => film(spec, &drlhp::episode(&run, args.seed.unwrap_or(run.config.seed))?.states, args.size)?,
    };
    // GIF counts in hundredths of a second, and players slow down anything below two.
    let delay = (spec.dt * 100.0).round().clamp(2.0, 100.0) as u16;
    let bytes = gif(&frames, delay)?;
    write_atomically(&args.out, &bytes)
        .map_err(|e| Failure::usage(format!("{}: cannot write the film: {e}", args.out.display())))?;
    print_line(&format!("{}: {} frames, {} kB", args.out.display(), frames.len(), bytes.len() / 1000));
    if args.json {
        print_json(&Written { path: args.out.clone(), frames: frames.len(), bytes: bytes.len() });
    }
    Ok(())
}

/// Re-renders saved states.
fn film(spec: &EnvSpec, states: &[f64], size: u32) -> Result<Vec<Frame>, Failure> {
    let mut env: Box<dyn Env> = pairwise_envs::make(spec.id)?;
    let mut scene = Scene::default();
    let mut trail: Vec<Point> = Vec::new();
    let mut frames = Vec::new();
    for state in states.chunks(spec.saved_len) {
        env.load(state)?;
        env.draw(&mut scene);
        trail.extend(scene.tracked);
        let recent = &trail[trail.len().saturating_sub(TRAIL)..];
        let [w, h] = [0, 1].map(|i| scene.max[i] - scene.min[i]);
        // Wide scenes get wide pictures of the same area.
        let height = ((size as f32) * (h / w).sqrt()).round().max(1.0) as u32;
        let width = ((size as f32) * (w / h).sqrt()).round().max(1.0) as u32;
        frames.push(render(&scene, recent, width, height, &Palette::default())?);
    }
    Ok(frames)
}
