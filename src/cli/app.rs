//! `app`: the window.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Args, ValueEnum};

use super::failure::Failure;
use crate::app::{self, Options};
use crate::control::config::Config;
use crate::disk::Folder;
use crate::engine::free_folder;
use crate::lm::teach::folder::is_session;

/// Arguments of `app`.
#[derive(Debug, Args)]
pub(crate) struct AppArgs {
    /// Open this folder of a run or of a teaching session, and go on with it
    #[arg(long, value_name = "DIR", conflicts_with_all = ["env", "teach"])]
    run: Option<PathBuf>,
    /// Start a run on this environment at once; `pairwise envs` lists them
    #[arg(long)]
    env: Option<String>,
    /// With --env: you answer the questions, not a simulated teacher
    #[arg(long, requires = "env")]
    teach: bool,
    /// With --teach: questions in all
    #[arg(long, value_name = "N", requires = "teach", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    labels: u32,
    /// With --teach: what you want to see, in a sentence, instead of the task's own goal
    #[arg(long, value_name = "TEXT", requires = "teach")]
    wanted: Option<String>,
    /// Seed of every random draw of a new run
    #[arg(long, value_name = "S", allow_negative_numbers = true, requires = "env", default_value_t = 0)]
    seed: u64,
    /// Folder of all runs
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs: PathBuf,
    /// Colours [default: as last time]
    #[arg(long, value_enum)]
    theme: Option<Theme>,
    /// Panel to show first
    #[arg(long, value_name = "PANEL", value_parser = panels())]
    panel: Option<String>,
    /// Size of the window in points [default: as last time]
    #[arg(long, value_name = "WIDTHxHEIGHT", value_parser = size)]
    size: Option<[f32; 2]>,
    /// Save a picture of the window as PNG after some seconds, and end
    #[arg(long, value_name = "FILE.png")]
    screenshot: Option<PathBuf>,
    /// With --screenshot: seconds to wait
    #[arg(long, value_name = "SECONDS", requires = "screenshot", default_value_t = 3.0)]
    after: f32,
    /// Seconds from a question's appearance in which no answer counts: nobody can have seen it by then [default: as last
    /// time; 0.2 at first]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    least_seconds: Option<f64>,
    /// Say on stdout what is shown, one JSON object a line: for tests that press keys, and for measurements
    #[arg(long)]
    narrate: bool,
}

/// Light or dark colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Theme {
    Light,
    Dark,
}

pub(crate) fn app(args: &AppArgs) -> Result<(), Failure> {
    if let Some(least) = args.least_seconds.filter(|least| !(0.0..=app::MOST_LEAST_SECONDS).contains(least)) {
        let most = app::MOST_LEAST_SECONDS;
        return Err(Failure::usage(format!("--least-seconds {least}: must be between 0 and {most}")));
    }
    let after = Duration::try_from_secs_f32(args.after)
        .map_err(|_| Failure::usage(format!("--after {}: must be a number of seconds, 0 or more", args.after)))?;
    if let Some(run) = args.run.as_ref().filter(|run| !is_session(run)) {
        Folder::open(run)?.config()?;
    }
    let start = args.env.as_deref().map(|env| -> Result<(Config, PathBuf), Failure> {
        let mut config = match args.teach {
            true => Config::taught(env, args.labels as usize, args.wanted.clone())?,
            false => Config::preset(env)?,
        };
        config.seed = i64::try_from(args.seed)
            .map(|_| args.seed)
            .map_err(|_| Failure::usage(format!("--seed {}: must be below 2^63", args.seed)))?;
        let path = free_folder(&args.runs, &format!("{}-s{}", config.env, config.seed));
        Ok((config, path))
    });
    let theme = args.theme.map(|theme| match theme {
        Theme::Light => egui::Theme::Light,
        Theme::Dark => egui::Theme::Dark,
    });
    open(Options {
        run: args.run.clone(),
        start: start.transpose()?,
        runs: args.runs.clone(),
        theme,
        panel: args.panel.clone(),
        least_seconds: args.least_seconds,
        size: args.size,
        screenshot: args.screenshot.clone().map(|path| (path, after)),
        narrate: args.narrate,
    })
}

fn panels() -> PossibleValuesParser {
    PossibleValuesParser::new(app::panels().map(|(name, hint)| PossibleValue::new(name).help(hint)))
}

fn size(text: &str) -> Result<[f32; 2], String> {
    let side = |text: &str| text.trim().parse::<u16>().ok().filter(|side| (200..=16_384).contains(side)).map(f32::from);
    let sides = text.split_once('x').and_then(|(width, height)| Some([side(width)?, side(height)?]));
    sides.ok_or_else(|| format!("'{text}' is not a size like 1280x800, sides from 200 to 16384"))
}

/// The window on a run that starts now.
pub(crate) fn watch(config: Config, path: &Path) -> Result<(), Failure> {
    let runs = path.parent().unwrap_or(Path::new(".")).to_owned();
    open(Options { start: Some((config, path.to_owned())), runs, ..Options::default() })
}

fn open(options: Options) -> Result<(), Failure> {
    app::run(options).map_err(Failure::usage)
}
