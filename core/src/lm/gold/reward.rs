//! What all gold rewards have in common.

use std::path::PathBuf;

use crate::disk::DiskError;
use crate::range::OutOfRange;

/// What is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scored<'a> {
    /// The prompt.
    pub prompt: &'a str,
    /// The completion, with the white space that it begins with, so that prompt and completion together are the text.
    pub completion: &'a str,
}

/// A reward that is known, not learned from comparisons.
pub trait Gold: Send + Sync {
    /// One finite score for each row, in order; higher is better.
    ///
    /// # Errors
    /// When an external command fails. The built-in rewards cannot fail.
    fn scores(&self, rows: &[Scored<'_>]) -> Result<Vec<f64>, GoldError>;
}

/// A gold reward that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GoldError {
    /// No gold reward has this name.
    #[error("gold reward '{spec}': {reason}; possible are {POSSIBLE}")]
    Spec {
        /// What was given.
        spec: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file cannot be read or written, or a line of it cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A file is not a saved model.
    #[error("{}: not a model that `lm gold train` saved: {reason}", path.display())]
    Model {
        /// File.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A training setting out of its range.
    #[error(transparent)]
    Config(#[from] OutOfRange),
    /// Texts that no classifier can be trained on.
    #[error("cannot train a classifier: {0}")]
    Data(String),
    /// The external command failed, or gave something else than scores.
    #[error("gold reward command '{command}': {reason}{}", said(stderr))]
    Command {
        /// The command.
        command: String,
        /// What it did, and what would be right.
        reason: String,
        /// The end of what it wrote to its standard error.
        stderr: String,
    },
}

/// The gold rewards there are, for messages.
const POSSIBLE: &str = "reviews:sentiment|politeness|specificity|length, lexicon:FILE, lexicon-compound:FILE, \
                        logistic:FILE, logistic-odds:FILE, length, length:WORDS, regex:PATTERN, \
                        command:PROGRAM ARGUMENT…";

fn said(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!("; its standard error ends with:\n{stderr}") }
}
