//! What an evaluation is of and what it leaves: the models, the sets, and what was found of each.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, Serializer};

use super::ask::{Free, MeasureConfig};
use super::endpoint::is_address;
use super::estimate::{BehaviourEstimate, PronounsEstimate};
use crate::lm::config::ModelConfig;
use crate::lm::run::{LmSummary, StageKind};

/// What is run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Files or folders of questions.
    #[serde(serialize_with = "shown")]
    pub sets: Vec<PathBuf>,
    /// How they are asked.
    pub measure: MeasureConfig,
    /// Who is asked.
    pub models: Vec<ModelEntry>,
}

/// A model, and where it stands in tables.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelEntry {
    /// What it is called.
    pub name: String,
    /// A folder, or `http://HOST:PORT/v1#NAME`.
    pub spec: String,
    /// Parameters, where they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<usize>,
    /// Steps of preference training that it has had, where they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// SHA-256 of the weights in its folder; a run finds it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
}

/// A model on a set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The model.
    pub model: ModelEntry,
    /// The set.
    pub set: String,
    /// What was asked, as a hash: results are compared where it is the same.
    pub asked: String,
    /// What was found.
    pub found: Findings,
    /// How it answers freely, where that was asked.
    pub free: Option<Free>,
}

/// What the answers to a set say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Findings {
    /// Answers to questions.
    Behaviour(Box<BehaviourEstimate>),
    /// Filled sentences of Winogenerated.
    Pronouns(PronounsEstimate),
}

impl ModelEntry {
    /// A model by its spec. What a folder tells of its size and its training is taken from there: a run folder of
    /// `pairwise lm` stands for the model in it, with its steps where it learned from preferences, and 0 where it has only
    /// read texts.
    #[must_use]
    pub fn of(spec: &str) -> Self {
        if is_address(spec) {
            return Self { name: server_name(spec), spec: spec.to_owned(), ..Self::default() };
        }
        let given = Path::new(spec);
        let (folder, run) = match (given.join("model/config.json").is_file(), given.parent()) {
            (true, _) => (given.join("model"), Some(given)),
            (false, parent) => (given.to_owned(), parent.filter(|_| given.file_name().is_some_and(|n| n == "model"))),
        };
        let named = run.unwrap_or(&folder);
        let name = named.file_name().map_or_else(|| spec.to_owned(), |name| name.to_string_lossy().into_owned());
        let summary = run.and_then(|run| fs::read_to_string(run.join("summary.json")).ok());
        let summary = summary.and_then(|text| serde_json::from_str::<LmSummary>(&text).ok());
        let steps = summary.map(|summary| match summary.stage {
            StageKind::Pretrain | StageKind::Sft | StageKind::Reward => 0,
            StageKind::Dpo | StageKind::Modpo | StageKind::Kto | StageKind::Ppo => summary.steps,
        });
        let config = ModelConfig::read(&folder.join("config.json")).ok();
        let parameters = config.map(|config| config.parameters());
        Self { name, spec: folder.display().to_string(), parameters, steps, weights: None }
    }
}

/// What a server's spec calls the model, or else the server's address.
fn server_name(spec: &str) -> String {
    let rest = spec.split_once("://").map_or(spec, |(_, rest)| rest);
    match rest.split_once('#') {
        Some((_, name)) if !name.is_empty() => name.to_owned(),
        _ => rest.trim_end_matches('/').to_owned(),
    }
}

/// Paths as they are shown: JSON and TOML have no others.
///
/// # Errors
/// The serializer's.
pub(super) fn shown<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.display().to_string()))
}
