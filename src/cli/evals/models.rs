//! Options of all commands that ask models.

use std::path::PathBuf;

use clap::Args;

use crate::cli::arguments::pair;
use crate::evals;
use crate::evals::endpoint::{Api, EndpointConfig};
use crate::evals::error::ModelError;
use crate::evals::model::Model;

/// How models are reached.
#[derive(Debug, Args)]
pub(super) struct ModelArgs {
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

impl ModelArgs {
    /// Opens a folder or a server. Of a folder, conversations are written by a `template`, by name or file, that is told the
    /// time `now`.
    pub(super) fn open(
        &self,
        spec: &str,
        template: Option<&str>,
        now: Option<i64>,
    ) -> Result<Box<dyn Model>, ModelError> {
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
        evals::open(spec, &config, template, now)
    }
}
