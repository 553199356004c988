//! The command line: arguments → validated configuration → one call into the library.

#[cfg_attr(not(feature = "app"), path = "no_app.rs")]
mod app;
mod arguments;
mod bench;
mod clips;
mod envs;
mod evals;
mod failure;
mod flags;
mod front;
mod lm;
mod progress;
mod screen;
mod soup;
mod train;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use failure::Failure;
use flags::ResumeArgs;
use screen::{print_text, remark};

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
    Resume(ResumeArgs),
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
        Command::Lm(args) => lm::lm(args),
        Command::Evals(args) => evals::evals(&args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::{Cli, Command};

    #[test]
    fn the_command_line_is_sound_and_the_window_needs_no_arguments() {
        Cli::command().debug_assert();
        assert_eq!(matches!(Command::window(), Some(Command::App(_))), cfg!(feature = "app"));
    }
}
