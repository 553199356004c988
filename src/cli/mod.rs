//! The command line: arguments → validated configuration → one call into the library.

#[cfg_attr(not(feature = "app"), path = "no_app.rs")]
mod app;
mod arguments;
mod bench;
mod clips;
mod envs;
mod evals;
mod front;
mod lm;
mod progress;
mod screen;
mod soup;
mod train;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use toml::Table;

use crate::disk::layers::{read_layer, set_layer};
use screen::{ask, note, print_json, print_line, print_text, remark, shown, warn};
use train::Threads;

/// Teach agents by comparing two of something: "which of these two clips is better?"
#[derive(Debug, Parser)]
#[command(name = "pairwise", version, after_help = more_help())]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

const EXAMPLES: &str = "\
Examples:
  pairwise train pendulum --labels 200         learn a task from 200 answers of a simulated teacher
  pairwise train pendulum --reward true        the same agent on the true reward, to compare with
  pairwise clips runs/pendulum-s0 --out a.gif  an episode of what it learned";

/// What stands below the commands.
fn more_help() -> String {
    let window = match cfg!(feature = "app") {
        true => "Without a command, a window opens, as with `app`.",
        false => "This program was built without its window (cargo's feature `app`).",
    };
    format!("{window}\n\n{EXAMPLES}")
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Open the window: watch an agent learn, or teach one yourself
    App(app::AppArgs),
    /// Train an agent from comparisons, or on the true reward
    Train(train::TrainArgs),
    /// Go on with an interrupted run from its newest checkpoint
    Resume(train::ResumeArgs),
    /// Run again from configuration and ledger, and say whether the weights agree to the bit
    Replay(train::ReplayArgs),
    /// Measure the true return of a run's policy on fresh episodes
    Evaluate(train::EvaluateArgs),
    /// Draw an episode, or a compared pair of clips, as a GIF
    Clips(clips::ClipsArgs),
    /// List the environments, or step one with given actions
    Envs(envs::EnvsArgs),
    /// Run a benchmark over several seeds: a table with intervals, and a figure
    Bench(bench::BenchArgs),
    /// Weigh two tastes of an agent: soups of fine-tuned policies beside multi-objective RL; a table and a figure
    Front(front::FrontArgs),
    /// Mix the policies of runs that were fine-tuned from one, and measure every mix
    Soup(soup::SoupArgs),
    /// Language models: pre-train, fine-tune, learn from preferences, sample, score
    Lm(lm::LmArgs),
    /// Model-written evaluations: write questions, filter and check them, measure models on them
    Evals(evals::EvalsArgs),
}

impl Command {
    /// What the program does without a command: with a window it opens it.
    fn window() -> Option<Self> {
        let cli = Cli::try_parse_from(["pairwise", "app"]);
        cli.ok().and_then(|cli| cli.command).filter(|_| cfg!(feature = "app"))
    }
}

/// What most commands take.
#[derive(Debug, Args)]
struct SharedArgs {
    #[command(flatten)]
    threads: Threads,
    /// Print one JSON object as the last line
    #[arg(long)]
    json: bool,
}

/// What lies over a configuration's defaults.
#[derive(Debug, Args)]
struct LayerArgs {
    /// TOML file laid over the defaults (of a task, over its preset), e.g. the config.toml of another run
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set any value of the configuration by its path in config.toml, as KEY.PART=VALUE
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
}

impl LayerArgs {
    /// The layers, the last one on top.
    fn read(&self) -> Result<Vec<Table>, Failure> {
        let file = self.config.iter().map(|path| read_layer(path));
        Ok(file.chain(self.set.iter().map(|assignment| set_layer(assignment))).collect::<Result<_, _>>()?)
    }
}

impl Failure {
    /// Something is wrong with what was given: exit code 2.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, message: message.into() }
    }

    /// The command ran and the answer is no: exit code 1.
    pub(crate) fn negative(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into() }
    }

    /// Stopped by Ctrl-C: the shell's convention, 128 + SIGINT.
    pub(crate) fn interrupted(message: impl Into<String>) -> Self {
        Self { code: 130, message: message.into() }
    }
}

/// Errors of the library are about what the user gave it: arguments, files, folders, disks. But where training came to
/// numbers that are not finite, or to nothing to train on, the command ran and failed.
impl<E: std::error::Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        match crate::finite::is_behind(&error) || crate::control::drlhp::Halt::is_behind(&error) {
            true => Self::negative(error.to_string()),
            false => Self::usage(error.to_string()),
        }
    }
}

/// Runs the program.
#[must_use]
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let command = Cli::command();
    let arguments = arguments::spread(&command, arguments);
    let matches = command.clone().try_get_matches_from(arguments);
    let parsed = matches.and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    let (cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            let printed = error.print();
            return match (error.kind(), printed) {
                // A closed pipe (`pairwise --help | head`) is no error.
                (ErrorKind::DisplayHelp | ErrorKind::DisplayVersion, Err(lost))
                    if lost.kind() != std::io::ErrorKind::BrokenPipe =>
                {
                    remark(&format!("error: standard output: {lost}"));
                    ExitCode::from(1)
                }
                (ErrorKind::DisplayHelp | ErrorKind::DisplayVersion, _) => ExitCode::SUCCESS,
                _ => ExitCode::from(2),
            };
        }
    };
    let result = arguments::check_paths(&command, &matches).and_then(|()| execute(cli));
    // What somebody wanted to read and did not get is a failure; everything is on the disk all the same.
    let lost = || screen::lost().map(|why| Failure::negative(format!("standard output: {why}: not all was printed")));
    match result.and_then(|()| lost().map_or(Ok(()), Err)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, message }) => {
            remark(&format!("{}: {message}", if code == 130 { "stopped" } else { "error" }));
            ExitCode::from(code)
        }
    }
}

fn execute(cli: Cli) -> Result<(), Failure> {
    let Some(command) = cli.command.or_else(Command::window) else {
        print_text(&Cli::command().render_help().to_string());
        return Ok(());
    };
    match command {
        Command::App(args) => app::app(&args),
        Command::Train(args) => train::train(&args),
        Command::Resume(args) => train::resume(&args),
        Command::Replay(args) => train::replay(&args),
        Command::Evaluate(args) => train::evaluate(&args),
        Command::Clips(args) => clips::clips(&args),
        Command::Envs(args) => envs::envs(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::Front(args) => front::front(&args),
        Command::Soup(args) => soup::soup(&args),
        Command::Lm(args) => lm::lm(&args),
        Command::Evals(args) => evals::evals(&args),
    }
}

/// A mean over seeds with its interval, which a single seed does not have.
fn over_seeds(mean: f64, interval: Option<[f64; 2]>) -> String {
    match interval {
        None => format!("{mean:.3}"),
        Some([low, high]) => format!("{mean:.3} [{low:.3}, {high:.3}]"),
    }
}

/// A deviation beside its mean, where there is one.
fn plus_minus(deviation: Option<f64>, digits: usize) -> String {
    deviation.map_or_else(String::new, |deviation| format!(" ± {deviation:.digits$}"))
}

/// CPU seconds, where the system tells them.
fn cpu_seconds(seconds: Option<f64>, digits: usize) -> String {
    seconds.map_or_else(|| "–".to_owned(), |seconds| format!("{seconds:.digits$}"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::{Cli, Command, over_seeds};

    #[test]
    fn one_seed_shows_no_interval() {
        assert_eq!(over_seeds(0.5, Some([0.25, 1.0])), "0.500 [0.250, 1.000]");
        assert_eq!(over_seeds(0.5, None), "0.500");
    }

    #[test]
    fn the_command_line_is_sound_and_the_window_needs_no_arguments() {
        Cli::command().debug_assert();
        assert_eq!(matches!(Command::window(), Some(Command::App(_))), cfg!(feature = "app"));
    }
}
