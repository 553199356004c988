//! How a server is used.

use std::fmt::Display;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::evals::error::EndpointError;

/// How a server is used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EndpointConfig {
    /// Requests at the same time.
    pub concurrency: usize,
    /// How often a request that failed is made again, each time after a longer wait: 0.5 s, 1 s, 2 s, … With the
    /// default a server may be away for half a minute.
    pub retries: usize,
    /// Seconds that a request may take.
    pub timeout_seconds: f64,
    /// Most requests a minute; 0 for no limit.
    pub requests_per_minute: f64,
    /// Folder of answers that are not asked for again; none without. Several processes may share it.
    pub cache: Option<PathBuf>,
    /// Which of the protocol's two forms.
    pub api: Api,
    /// Environment variable with the key; nothing is sent where it is not set.
    pub key_variable: String,
    /// Answers that are drawn for each question where the server gives no log-probabilities; 0 makes that an error.
    pub samples: usize,
    /// Price of a million tokens read, and of a million written; 0 where it is not known.
    pub prices: [f64; 2],
}

/// Forms of OpenAI's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Api {
    /// Completions for prompts that are text, chat for conversations, and where there are no completions.
    Auto,
    /// `/v1/completions`.
    Completions,
    /// `/v1/chat/completions`; text is sent as a user's turn.
    Chat,
}

/// Most seconds that a request may have, a day, and the least.
const SECONDS: [f64; 2] = [1e-3, 86_400.0];

/// Most requests at the same time: each has a thread.
const MOST_CONCURRENCY: usize = 1024;

/// Most answers that are drawn for a question.
const MOST_SAMPLES: usize = 10_000;

impl Default for EndpointConfig {
    fn default() -> Self {
        Self {
            concurrency: 4,
            retries: 6,
            timeout_seconds: 120.0,
            requests_per_minute: 0.0,
            cache: None,
            api: Api::Auto,
            key_variable: "OPENAI_API_KEY".to_owned(),
            samples: 20,
            prices: [0.0; 2],
        }
    }
}

impl EndpointConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`EndpointError::Config`], naming the first one out of range.
    pub(super) fn validate(&self) -> Result<(), EndpointError> {
        let check = |name: &str, found: &dyn Display, fine: bool, expected: &str| match fine {
            true => Ok(()),
            false => Err(EndpointError::Config(format!("{name} = {found}: must be {expected}"))),
        };
        let Self { timeout_seconds: seconds, requests_per_minute: rate, concurrency, samples, prices, .. } = self;
        let [least, most] = SECONDS;
        check("timeout_seconds", seconds, *seconds > 0.0 || seconds.is_nan(), "above 0")?;
        check("timeout_seconds", seconds, (least..=most).contains(seconds), &format!("from {least} to {most}"))?;
        check("requests_per_minute", rate, rate.is_finite() && *rate >= 0.0, "above 0, or 0 for no limit")?;
        check("concurrency", concurrency, *concurrency > 0, "at least 1")?;
        check("concurrency", concurrency, *concurrency <= MOST_CONCURRENCY, &format!("at most {MOST_CONCURRENCY}"))?;
        check("samples", samples, *samples <= MOST_SAMPLES, &format!("at most {MOST_SAMPLES}"))?;
        prices.iter().try_for_each(|price| check("prices", price, price.is_finite() && *price >= 0.0, "0 or more"))
    }
}
