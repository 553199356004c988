//! `evals …`: model-written evaluations.

mod filter;
mod generate;
mod report;
mod run;
mod sycophancy;
mod validate;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::arguments::pair;
use super::flags::SeedArgs;
use super::{Failure, JsonArgs, SharedArgs, ask, note, number, print_line, print_table, remark, shown, warn};
use crate::evals::endpoint::{Api, EndpointConfig};
use crate::evals::error::ModelError;
use crate::evals::model::Model;

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

/// How models are reached.
#[derive(Debug, Args)]
struct ModelArgs {
    /// Server: requests at the same time
    #[arg(long, value_name = "N", default_value_t = EndpointConfig::default().concurrency)]
    concurrency: usize,
    /// Server: how often a failed request is made again, after longer and longer waits
    #[arg(long, value_name = "N", default_value_t = EndpointConfig::default().retries)]
    retries: usize,
    /// Server: seconds that a request may take
    #[arg(long, value_name = "SECONDS", default_value_t = EndpointConfig::default().timeout_seconds)]
    timeout: f64,
    /// Server: most requests a minute; 0 for no limit
    #[arg(long, value_name = "N", default_value_t = 0.0)]
    requests_per_minute: f64,
    /// Server: folder that keeps answers, so that nothing is asked for twice
    #[arg(long, value_name = "DIR", default_value = "runs/evals-cache")]
    cache: PathBuf,
    /// Server: ask every time, and keep nothing
    #[arg(long)]
    no_cache: bool,
    /// Server: form of the protocol
    #[arg(long, value_enum, default_value_t = Api::Auto)]
    api: Api,
    /// Server: environment variable that holds the key
    #[arg(long, value_name = "NAME", default_value = "OPENAI_API_KEY")]
    key_variable: String,
    /// Server: answers drawn for a question where it gives no log-probabilities
    #[arg(long, value_name = "N", default_value_t = EndpointConfig::default().samples)]
    samples: usize,
    /// Server: price of a million tokens read and of a million written, to add up the cost
    #[arg(long, value_name = "READ,WRITTEN", value_parser = pair::<f64>)]
    prices: Option<[f64; 2]>,
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

impl ModelArgs {
    /// Opens a folder or a server. Of a folder, conversations are written by a `template`, by name or file, that is told the
    /// time `now`.
    fn open(&self, spec: &str, template: Option<&str>, now: Option<i64>) -> Result<Box<dyn Model>, ModelError> {
        let config = EndpointConfig {
            concurrency: self.concurrency,
            retries: self.retries,
            timeout_seconds: self.timeout,
            requests_per_minute: self.requests_per_minute,
            cache: (!self.no_cache).then(|| self.cache.clone()),
            api: self.api,
            key_variable: self.key_variable.clone(),
            samples: self.samples,
            prices: self.prices.unwrap_or_default(),
        };
        crate::evals::open(spec, &config, template, now)
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
