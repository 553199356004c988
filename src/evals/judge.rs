//! Who says which of two answers is right: a preference model, whose probability is that of the shared core, σ(s₊ − s₋) of
//! the scores of both answers (Bradley-Terry); or a language model, with the probabilities of both answers divided by
//! their sum.

use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::behaviour::PosedQuestion;
use super::error::{EvalsError, ModelError};
use super::local::weights_digest;
use super::model::{AnswerProbabilities, ClosedQuestion, Done, Model, Prompt};
use crate::device::{self, DeviceChoice};
use crate::disk::DiskError;
use crate::lm::chat::Extras;
use crate::lm::config::{ModelConfig, Output};
use crate::lm::data::{Content, Conventions, DataError, Origin, PreferenceRow, Truncation, encode_pairs};
use crate::lm::reward::probabilities;
use crate::lm::run::reward_models::{self, RewardModels};
use crate::lm::run::{LmError, read_config, weights_sha256};
use crate::preference::likelihood::sigmoid;

/// Who answers which of two answers is right.
pub enum Judge {
    /// A preference model, or an ensemble of them.
    Preference(Box<RewardModels>),
    /// A language model.
    Language {
        /// The model.
        model: Box<dyn Model>,
        /// SHA-256 of its weights, where they are on this machine.
        weights: Option<String>,
    },
}

/// Tokens that are computed together.
const PART_TOKENS: usize = 2048;
/// The probability where nothing is known.
pub(super) const UNDECIDED: f64 = 0.5;

impl Judge {
    /// A preference model where the folder holds one, or a run of one; otherwise what `open` makes of it.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn open(spec: &str, open: impl FnOnce(&str) -> Result<Box<dyn Model>, ModelError>) -> Result<Self, EvalsError> {
        let path = Path::new(spec);
        if is_preference_model(path)? {
            let device = device::pick(DeviceChoice::Cpu).map_err(ModelError::from)?;
            let models = reward_models::read(path, &device).map_err(ModelError::from)?;
            return Ok(Self::Preference(Box::new(models)));
        }
        let is_run = path.join("config.toml").is_file();
        let spec = if is_run { path.join("model").display().to_string() } else { spec.to_owned() };
        let model = open(&spec)?;
        model.settle()?;
        let folder = Path::new(&spec);
        let weights = weights_digest(folder).map_err(DiskError::io(folder, "read the weights"))?;
        Ok(Self::Language { model, weights })
    }

    /// What tells it apart from other judges with the same spec.
    pub(super) fn identity(&self) -> serde_json::Value {
        match self {
            Self::Preference(models) => json!(models.members.iter().map(weights_sha256).collect::<Vec<_>>()),
            Self::Language { model, weights } => json!({"model": model.name(), "weights": weights}),
        }
    }

    /// The most tokens of a question, where that is known.
    pub(super) fn limit(&self) -> Option<usize> {
        match self {
            Self::Preference(models) => Some(conventions(models).max_length),
            Self::Language { model, .. } => model.context(),
        }
    }

    /// What kind of judge it is, for reports.
    #[must_use]
    pub fn kind(&self) -> String {
        match self {
            Self::Preference(models) if models.members.len() > 1 => {
                format!("ensemble of {} preference models", models.members.len())
            }
            Self::Preference(_) => "preference model".to_owned(),
            Self::Language { model, .. } => format!("language model {}", model.name()),
        }
    }

    /// What the user should know.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        match self {
            Self::Preference(models) => models.remarks.clone(),
            Self::Language { model, .. } => model.remarks(),
        }
    }

    /// P[the first answer] of each question; the mean over an ensemble's members. `None` for a question that is too long: it
    /// would be judged by a part of it.
    ///
    /// # Shapes
    /// - returns `[posed.len()]`
    ///
    /// # Errors
    /// [`EvalsError`].
    pub fn probabilities(&self, posed: &[PosedQuestion], done: &Done<'_>) -> Result<Vec<Option<f64>>, EvalsError> {
        match self {
            Self::Preference(models) => {
                let found = preferences(models, posed)?;
                done(posed.len());
                Ok(found)
            }
            Self::Language { model, .. } => {
                let asked: Vec<ClosedQuestion> = posed
                    .iter()
                    .map(|PosedQuestion { prompt, answers, .. }| ClosedQuestion {
                        prompt: Prompt::Text(prompt.clone()),
                        answers: answers.to_vec(),
                    })
                    .collect();
                let answered = model.answers(&asked, done)?;
                let of = |answered: &AnswerProbabilities| match answered.log_probs.as_slice() {
                    _ if answered.cut => Some(None),
                    // Both as good as impossible: nothing is known.
                    [first, second] if first == second => Some(Some(UNDECIDED)),
                    [first, second] => Some(sigmoid(first - second)).filter(|p| p.is_finite()).map(Some),
                    _ => None,
                };
                let found: Option<Vec<Option<f64>>> = answered.iter().map(of).collect();
                found.filter(|found| found.len() == posed.len()).ok_or_else(|| {
                    let problem = "did not give two log-probabilities for every question";
                    EvalsError::Config(format!("{}: {problem}", model.name()))
                })
            }
        }
    }
}

fn is_preference_model(path: &Path) -> Result<bool, EvalsError> {
    if path.join("config.toml").is_file() {
        return Ok(read_config(path).map_err(ModelError::from)?.reward.is_some());
    }
    let file = path.join("config.json");
    if !file.is_file() {
        return Ok(false);
    }
    let config = ModelConfig::read(&file).map_err(|error| EvalsError::Config(error.to_string()))?;
    Ok(config.output != Output::Tokens)
}

/// As in a preference model's training, but whole.
fn conventions(models: &RewardModels) -> Conventions {
    let context = models.members.iter().map(|member| member.config.context).min().unwrap_or(0);
    let own = models.config.as_ref().map(|config| config.conventions.clone()).unwrap_or_default();
    Conventions { truncation: Truncation::Filter, ..own }.within(context)
}

/// P[first answer] by preference models; nothing for questions that are too long.
fn preferences(models: &RewardModels, posed: &[PosedQuestion]) -> Result<Vec<Option<f64>>, EvalsError> {
    let origin = Origin { path: Arc::from(Path::new("statement")), line: 0 };
    let row = |(i, PosedQuestion { prompt, answers: [first, second], rest }): (usize, &PosedQuestion)| PreferenceRow {
        origin: Origin { line: i as u64 + 1, ..origin.clone() },
        prompt: Content::Text(prompt.clone()),
        extras: Extras::default(),
        chosen: Content::Text(format!("{first}{rest}")),
        rejected: Content::Text(format!("{second}{rest}")),
        margin: None,
        target: None,
    };
    let rows: Vec<PreferenceRow> = posed.iter().enumerate().map(row).collect();
    let pairs = match encode_pairs(&rows, &models.tokenizer, None, &conventions(models)) {
        Ok((pairs, _)) => pairs,
        Err(DataError::NothingLeft { .. }) => Vec::new(),
        Err(error) => return Err(ModelError::from(LmError::from(error)).into()),
    };
    let mut found = vec![None; posed.len()];
    if pairs.is_empty() {
        return Ok(found);
    }
    let all = probabilities(&models.members, &pairs, &models.likelihood, PART_TOKENS);
    if let Some(wrong) = all.iter().find(|p| !p.is_finite()) {
        let problem = format!("the judge finds a probability of {wrong}: are its weights finite numbers?");
        return Err(EvalsError::Config(problem));
    }
    for (i, pair) in pairs.iter().enumerate() {
        found[pair.row] = Some(all.iter().skip(i).step_by(pairs.len()).sum::<f64>() / models.members.len() as f64);
    }
    Ok(found)
}
