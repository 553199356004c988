//! What a run tells while it goes on, and what it leaves when it ends.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::config::StageKind;
use crate::disk::archive::write_atomically;
use crate::disk::{DiskError, lines, shown};
use crate::lm::diagnose::Sampled;
use crate::lm::error::LmError;
use crate::lm::train::Metrics;

/// What a run says when it ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LmSummary {
    /// What was trained for.
    pub stage: StageKind,
    /// Seed.
    pub seed: u64,
    /// Steps taken.
    pub steps: usize,
    /// Parameters of the model; with adapters, of these.
    pub trained_parameters: usize,
    /// The last evaluation, by name.
    pub eval: Map<String, Value>,
    /// Completions of held-out prompts, if any were sampled.
    pub sampled: Option<Sampled>,
    /// Tokens that training went over.
    pub tokens: u64,
    /// Wall-clock seconds, summed over interruptions.
    pub wall_seconds: f64,
    /// CPU seconds of the process, likewise; `None` where the system does not tell.
    pub cpu_seconds: Option<f64>,
    /// SHA-256 of what was trained.
    pub weights_sha256: String,
    /// Folder of the trained model: where it is now, as the run folder.
    #[serde(serialize_with = "shown")]
    pub model: PathBuf,
    /// Run folder: where it is now. In the file both are only for those who read it.
    #[serde(serialize_with = "shown")]
    pub run_dir: PathBuf,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum LmOutcome {
    /// With all steps.
    Finished(Box<LmSummary>),
    /// It was asked to stop, and wrote a checkpoint.
    Interrupted {
        /// Steps taken.
        step: usize,
    },
}

/// What is shown while a run goes on.
#[derive(Debug, Clone)]
pub enum Shown<'a> {
    /// A remark for the user.
    Note(&'a str),
    /// Something before training: what, how much is done, of how much.
    Preparing(&'a str, usize, usize),
    /// A step: its number from 1, of how many, what was measured, tokens so far.
    Step(usize, usize, &'a Metrics, u64),
    /// An evaluation.
    Evaluation(&'a Map<String, Value>),
}

/// Folder of a member's run.
#[must_use]
pub fn member_folder(run: &Path, member: usize) -> PathBuf {
    run.join(format!("member-{member}"))
}

impl LmSummary {
    /// The summary of a run folder; `None` where the run is not finished.
    ///
    /// # Errors
    /// When the file is there, but not one that a run wrote.
    pub fn load(run: &Path) -> Result<Option<Self>, LmError> {
        let path = run.join(SUMMARY);
        let Ok(text) = fs::read_to_string(&path) else { return Ok(None) };
        let wrong = |error| LmError::Config(format!("{}: {error}", path.display()));
        let summary: Self = serde_json::from_str(&text).map_err(wrong)?;
        // It may have been moved since. The model of an ensemble is its whole folder.
        let model = if summary.model == summary.run_dir { run.to_owned() } else { run.join(MODEL) };
        Ok(Some(Self { model, run_dir: run.to_owned(), ..summary }))
    }

    /// Writes it to its run folder.
    pub(super) fn save(&self) -> Result<(), LmError> {
        let text = lines::pretty(self);
        let path = self.run_dir.join(SUMMARY);
        Ok(write_atomically(&path, text.as_bytes()).map_err(|source| DiskError::Io {
            path,
            action: "write the summary",
            source,
        })?)
    }
}

/// Folder of the trained model in that of its run.
pub(super) const MODEL: &str = "model";

/// What `--json` printed.
pub(super) const SUMMARY: &str = "summary.json";
