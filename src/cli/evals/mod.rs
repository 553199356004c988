//! `evals …`: model-written evaluations.

mod filter;
mod generate;
mod models;
mod report;
mod run;
mod sycophancy;
mod validate;

use clap::{Args, Subcommand};

use super::failure::Failure;

/// Arguments of `evals`.
#[derive(Debug, Args)]
pub(crate) struct EvalsArgs {
    #[command(subcommand)]
    pub(super) command: EvalsCommand,
}

/// Commands of `evals`.
#[derive(Debug, Subcommand)]
pub(super) enum EvalsCommand {
    /// Let a model write statements for the behaviours that a file describes
    Generate(generate::GenerateArgs),
    /// Keep the statements that a preference model or a language model is surest of, as a balanced set of questions
    Filter(filter::FilterArgs),
    /// Have people check a sample of a set, and report how far they agree with it
    Validate(validate::ValidateArgs),
    /// Measure models on sets of questions, those of anthropics/evals or your own
    Run(run::RunArgs),
    /// Make tables and figures of runs: behaviour by model size and by steps of training, differences of two models
    Report(report::ReportArgs),
    /// Measure how preference training teaches models to agree with the user: by size, by steps, by bias, and the remedies
    Sycophancy(sycophancy::SycophancyArgs),
}

pub(crate) fn evals(args: &EvalsArgs) -> Result<(), Failure> {
    match &args.command {
        EvalsCommand::Generate(args) => generate::generate(args),
        EvalsCommand::Filter(args) => filter::filter(args),
        EvalsCommand::Validate(args) => validate::validate(args),
        EvalsCommand::Run(args) => run::run(args),
        EvalsCommand::Report(args) => report::report(args),
        EvalsCommand::Sycophancy(args) => sycophancy::sycophancy(args),
    }
}

/// The configuration of a command that has one.
#[cfg(test)]
pub(super) fn resolved(args: &EvalsArgs) -> Result<toml::Table, Failure> {
    match &args.command {
        EvalsCommand::Sycophancy(args) => Ok(crate::disk::layers::layer(&sycophancy::config(args)?)?),
        other => panic!("{other:?}: has no configuration here"),
    }
}
