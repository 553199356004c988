//! `clips`: an episode of a run's policy, or a compared pair side by side, as a GIF.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::failure::Failure;
use super::flags::JsonArgs;
use super::screen::{print_line, shown};
use super::train::{GivenPolicy, load, policy};
use crate::control::run::film::{self, Film};
use crate::disk::archive::write_atomically;

/// Arguments of `clips`.
#[derive(Debug, Args)]
pub(crate) struct ClipsArgs {
    /// Run folder, or the file of a policy that a front, a soup or the window saved
    run: PathBuf,
    /// GIF file to write
    #[arg(long, value_name = "FILE.gif")]
    out: PathBuf,
    /// Draw the pair of this query instead of an episode: the first clip left under blue, the second right under orange
    #[arg(long, value_name = "QUERY", allow_negative_numbers = true)]
    pair: Option<u64>,
    /// Side of a square picture, in pixels; wide scenes have the same area
    #[arg(long, default_value_t = 240, value_parser = clap::value_parser!(u32).range(16..=2048), allow_negative_numbers = true)]
    size: u32,
    /// Seed of the episode's initial state [default: the run's]
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    seed: Option<u64>,
    #[command(flatten)]
    json: JsonArgs,
}

/// What `clips` prints.
#[derive(Debug, Serialize)]
struct WrittenFilm {
    path: String,
    frames: usize,
    bytes: usize,
}

pub(crate) fn clips(args: &ClipsArgs) -> Result<(), Failure> {
    if args.out.extension().is_none_or(|e| !e.eq_ignore_ascii_case("gif")) {
        return Err(Failure::usage(format!("--out {}: the file must end in .gif", args.out.display())));
    }
    let Film { bytes, frames } = match args.pair {
        Some(query) => film::pair(&load(&args.run)?, query, args.size)?,
        None => {
            let GivenPolicy { policy, seed, .. } = policy(&args.run)?;
            film::episode(&policy.env, &policy.agent, args.seed.unwrap_or(seed), args.size)?
        }
    };
    write_atomically(&args.out, &bytes)
        .map_err(|e| Failure::usage(format!("{}: cannot write the film: {e}", args.out.display())))?;
    print_line(&format!("{}: {} frames, {} kB", args.out.display(), frames, bytes.len() / 1000));
    args.json.print(&WrittenFilm { path: shown(&args.out), frames, bytes: bytes.len() });
    Ok(())
}
