//! What a run shows while it goes on, and what it leaves when it ends.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::config::StageKind;
use crate::disk::{lines, shown, text};
use crate::lm::diagnose::Sampled;
use crate::lm::error::LmError;
use crate::lm::train::Metrics;

/// What came of a run: its `summary.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LmSummary {
    /// The stage.
    pub stage: StageKind,
    /// Seed.
    pub seed: u64,
    /// Steps taken.
    pub steps: usize,
    /// Parameters that were trained: the adapters', if there are adapters, or else the model's.
    pub trained_parameters: usize,
    /// The last evaluation, by name.
    pub eval: Map<String, Value>,
    /// Completions of held-out prompts, if any were sampled.
    pub sampled: Option<Sampled>,
    /// Tokens that training went over.
    pub tokens: u64,
    /// Wall-clock seconds, summed over interruptions.
    pub wall_seconds: f64,
    /// CPU seconds of the process, summed over interruptions, too; `None` where the system does not tell.
    pub cpu_seconds: Option<f64>,
    /// SHA-256 of what was trained.
    pub weights_sha256: String,
    /// Folder of the trained model. As [`LmSummary::load`] gives it, it is where the folder is now.
    #[serde(serialize_with = "shown")]
    pub model: PathBuf,
    /// Run folder, likewise. The file has both paths as they were when the run ended.
    #[serde(serialize_with = "shown")]
    pub run_dir: PathBuf,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum LmOutcome {
    /// It took all its steps.
    Finished(Box<LmSummary>),
    /// It was asked to stop, and wrote a checkpoint.
    Interrupted {
        /// Steps taken.
        step: usize,
    },
}

/// What is shown while a run goes on.
#[derive(Debug, Clone)]
pub enum LmProgress<'a> {
    /// A remark for the user.
    Note(&'a str),
    /// Work before training: its name, how much of it is done, and how much there is.
    Preparing(&'a str, usize, usize),
    /// A step: its number from 1, the number of all steps, its metrics, and the tokens that training went over so far.
    Step(usize, usize, &'a Metrics, u64),
    /// An evaluation: its measures by name.
    Evaluation(&'a Map<String, Value>),
}

/// Receives what a run shows, from several threads.
pub type Show<'a> = dyn Fn(LmProgress<'_>) + Sync + 'a;

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
        let wrong = |error: String| LmError::Config(format!("{}: {error}", path.display()));
        let summary: Self = lines::from_text(&text).map_err(wrong)?;
        // The folder may have been moved since. The model of an ensemble is its whole folder.
        let model = if summary.model == summary.run_dir { run.to_owned() } else { run.join(MODEL) };
        Ok(Some(Self { model, run_dir: run.to_owned(), ..summary }))
    }

    /// Writes the summary to the run folder.
    pub(super) fn save(&self) -> Result<(), LmError> {
        Ok(text::write(&self.run_dir.join(SUMMARY), &lines::pretty(self))?)
    }
}

/// Folder of the trained model in the run folder.
pub(super) const MODEL: &str = "model";

/// The file of a run's [`LmSummary`], which `--json` prints, too.
pub(super) const SUMMARY: &str = "summary.json";
