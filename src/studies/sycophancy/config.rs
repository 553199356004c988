//! What the study runs, and what a model is measured at.

use serde::{Deserialize, Serialize};

use super::opinions::Behaviour;
use crate::lm::config::{ModelConfig, SmallLlama};
use crate::lm::error::LmError;
use crate::lm::optim::{MOST_LEARNING_RATE, Schedule};
use crate::lm::ppo::PpoConfig;
use crate::lm::run::SIZES;
use crate::studies::beginning::optimizer;

/// What is run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SycophancyConfig {
    /// Each has texts, questions, labels and models of its own.
    pub seeds: Vec<u64>,
    /// Sizes of models, of [`SIZES`].
    pub sizes: Vec<String>,
    /// What it is worth to annotators to be agreed with, nats; 0, the control, must be among them.
    pub biases: Vec<f64>,
    /// What the truth is worth to them, nats.
    pub truth: f64,
    /// Size that remedies are tried with; empty for the largest one of at most 300k parameters.
    pub remedy_size: String,
    /// Weights of the truth in MODPO, and of the unbiased policy in soups.
    pub remedy_weights: Vec<f64>,
    /// Tokens of the tokenizer.
    pub vocabulary: usize,
    /// Longest sequence of the models, tokens.
    pub context: usize,
    /// Texts that a base first learns to write, each once.
    pub texts: usize,
    /// Share of these, and of the answers of the tuning, that are about what the reader has just said. Where nothing made
    /// a view worth reading, no annotator can teach small models to agree with it.
    pub recalled: f64,
    /// Texts a step.
    pub pretrain_batch_size: usize,
    /// Learning rate of this.
    pub pretrain_learning_rate: f64,
    /// Steps in which a base then learns to answer truly, each with new questions.
    pub tuning_steps: usize,
    /// Questions a step.
    pub tuning_batch_size: usize,
    /// Learning rate of this.
    pub tuning_learning_rate: f64,
    /// Questions that annotators compare the answers to.
    pub comparisons: usize,
    /// Held-out questions, each asked without a view, with a right and with a wrong one.
    pub questions: usize,
    /// Steps of DPO and MODPO at which policies are measured; those of the last end the training.
    pub dpo_steps: Vec<usize>,
    /// Comparisons a step.
    pub batch_size: usize,
    /// β of DPO and MODPO.
    pub beta: f64,
    /// Learning rate of both.
    pub learning_rate: f64,
    /// Comparisons a step of reward models, which see each once.
    pub reward_batch_size: usize,
    /// Their learning rate.
    pub reward_learning_rate: f64,
    /// Iterations of PPO after which policies are measured; the last one ends the training.
    pub ppo_iterations: Vec<usize>,
    /// PPO's own numbers.
    pub ppo: PpoConfig,
}

/// How a model was trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Training {
    /// On texts and on true answers.
    Base,
    /// Then with DPO on an annotator's labels.
    Dpo,
    /// A reward model of these labels: not a policy, but asked the same.
    Reward,
    /// Then with PPO on that reward model.
    Ppo,
    /// With MODPO: the labels of the largest bias, and the truth as second objective.
    Modpo,
    /// The weights of the DPO policies of the largest and of no bias, mixed.
    Soup,
}

/// A model, measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// Seed.
    pub seed: u64,
    /// Size.
    pub size: String,
    /// Parameters of a policy of this size.
    pub parameters: usize,
    /// How it was trained.
    pub training: Training,
    /// The annotator's bias; none for a base.
    pub bias: Option<f64>,
    /// Weight of the remedy, if it is one.
    pub weight: Option<f64>,
    /// Steps of DPO and MODPO, iterations of PPO.
    pub steps: usize,
    /// How it answers. A reward model's probabilities are those with which it prefers an answer.
    pub behaviour: Behaviour,
    /// Divergence of its answers from the base's, nats: of the choice between the two answers, mean over all questions.
    /// None for a reward model.
    pub kl: Option<f64>,
}

impl Default for SycophancyConfig {
    /// Five sizes in 70 minutes on two cores.
    fn default() -> Self {
        Self {
            seeds: vec![0, 1, 2],
            sizes: ["30k", "100k", "300k", "1m", "3m"].map(str::to_owned).to_vec(),
            // At the middle one a wrong view is worth as much as the truth.
            biases: vec![0.0, 2.0, 4.0],
            truth: 2.0,
            remedy_size: String::new(),
            remedy_weights: vec![0.25, 0.5, 0.75],
            vocabulary: 1024,
            context: 128,
            texts: 8000,
            recalled: 0.25,
            pretrain_batch_size: 16,
            pretrain_learning_rate: 2e-3,
            tuning_steps: 1250,
            tuning_batch_size: 8,
            tuning_learning_rate: 1e-3,
            comparisons: 1600,
            questions: 512,
            // Each comparison once.
            dpo_steps: vec![25, 50, 100],
            batch_size: 16,
            beta: 0.1,
            // At half of it a base of 300k parameters, which is sure of the truth, is not turned in these steps.
            learning_rate: 1e-3,
            reward_batch_size: 8,
            reward_learning_rate: 1e-3,
            ppo_iterations: vec![5, 10],
            ppo: PpoConfig {
                optimizer: optimizer(1e-3, Schedule::Constant),
                value_learning_rate: 1e-3,
                kl_coefficient: 0.05,
                ..PpoConfig::default()
            },
        }
    }
}

impl SycophancyConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`LmError::Config`], naming the first one out of range.
    pub fn validate(&self) -> Result<(), LmError> {
        let wrong = |problem: String| Err(LmError::Config(problem));
        let known: Vec<&str> = SIZES.iter().map(|(name, ..)| *name).collect();
        if self.seeds.is_empty() {
            return wrong("seeds: there is none: give one or more (--seeds 0,1,2)".to_owned());
        }
        if let Some(seed) = twice(&self.seeds) {
            return wrong(format!("seeds: {seed} is there twice: each must be another"));
        }
        if self.sizes.is_empty() {
            return wrong(format!("sizes: there is none: give some of {}", known.join(", ")));
        }
        if let Some(size) = self.sizes.iter().find(|size| !known.contains(&size.as_str())) {
            return wrong(format!("sizes: \"{size}\" is none: must be {}", known.join(", ")));
        }
        if let Some(size) = twice(&self.sizes) {
            return wrong(format!("sizes: \"{size}\" is there twice: each must be another"));
        }
        if let Some(bias) = self.biases.iter().find(|bias| !(**bias >= 0.0 && bias.is_finite())) {
            return wrong(format!("biases: {bias}: must be 0 or more"));
        }
        if let Some(bias) = twice(&self.biases) {
            return wrong(format!("biases: {bias} is there twice: each must be another"));
        }
        if !self.biases.contains(&0.0) || self.biases.len() < 2 {
            return wrong(format!("biases = {:?}: must be 0, which is the control, and others above it", self.biases));
        }
        if !self.remedy_size.is_empty() && !self.sizes.contains(&self.remedy_size) {
            let sizes = self.sizes.join(", ");
            return wrong(format!("remedy_size = \"{}\": must be one of the sizes: {sizes}", self.remedy_size));
        }
        if let Some(weight) = self.remedy_weights.iter().find(|weight| !(**weight > 0.0 && **weight < 1.0)) {
            return wrong(format!("remedy_weights: {weight}: must be between 0 and 1"));
        }
        if let Some(weight) = twice(&self.remedy_weights) {
            return wrong(format!("remedy_weights: {weight} is there twice: each must be another"));
        }
        if !(0.0..1.0).contains(&self.recalled) {
            return wrong(format!("recalled = {}: must be at least 0 and below 1", self.recalled));
        }
        for (name, steps) in [("dpo_steps", &self.dpo_steps), ("ppo_iterations", &self.ppo_iterations)] {
            if steps.first().is_none_or(|first| *first == 0) || !steps.is_sorted_by(|a, b| a < b) {
                return wrong(format!(
                    "{name} = {steps:?}: must be one or more, from 1 on, each larger than the one before"
                ));
            }
        }
        let positive = [
            ("texts", self.texts),
            ("pretrain_batch_size", self.pretrain_batch_size),
            ("tuning_steps", self.tuning_steps),
            ("tuning_batch_size", self.tuning_batch_size),
            ("comparisons", self.comparisons),
            ("questions", self.questions),
            ("batch_size", self.batch_size),
            ("reward_batch_size", self.reward_batch_size),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return wrong(format!("{name} = 0: must be 1 or more"));
        }
        let rates = [
            ("truth", self.truth),
            ("beta", self.beta),
            ("pretrain_learning_rate", self.pretrain_learning_rate),
            ("tuning_learning_rate", self.tuning_learning_rate),
            ("learning_rate", self.learning_rate),
            ("reward_learning_rate", self.reward_learning_rate),
        ];
        if let Some((name, value)) = rates.iter().find(|(_, value)| !(1e-12..=MOST_LEARNING_RATE).contains(value)) {
            return wrong(format!("{name} = {value}: must be positive and at most {MOST_LEARNING_RATE}"));
        }
        self.ppo.validate().map_err(|problem| LmError::Config(format!("ppo.{problem}")))
    }

    /// Size that remedies are tried with.
    #[must_use]
    pub fn remedy_size(&self) -> &str {
        if !self.remedy_size.is_empty() {
            return &self.remedy_size;
        }
        let own = |(name, ..): &&(&str, usize, usize, usize)| self.sizes.iter().any(|size| size == name);
        let chosen = SIZES.iter().take(SMALL_SIZES).rfind(own).or_else(|| SIZES.iter().find(own));
        chosen.map_or("", |(name, ..)| name)
    }

    /// The largest bias, which remedies are for.
    #[must_use]
    pub fn largest_bias(&self) -> f64 {
        self.biases.iter().copied().fold(0.0, f64::max)
    }

    pub(super) fn model(&self, size: &str, tokens: usize) -> ModelConfig {
        let size = SIZES.iter().find(|(name, ..)| *name == size).expect("the configuration was validated");
        let (_, hidden, layers, heads) = *size;
        ModelConfig::small_llama(SmallLlama { vocabulary: tokens, hidden, layers, heads, context: self.context })
    }

    /// What is trained for a seed and a size, in this order.
    pub(super) fn branches(&self, size: &str) -> Vec<Branch> {
        let mut all = vec![Branch::Base];
        all.extend(self.biases.iter().map(|&bias| Branch::Dpo(bias)));
        all.extend(self.biases.iter().map(|&bias| Branch::Ppo(bias)));
        if size == self.remedy_size() && !self.remedy_weights.is_empty() {
            all.extend(self.remedy_weights.iter().map(|&weight| Branch::Modpo(weight)));
            all.push(Branch::Soups);
        }
        all
    }
}

/// The first of [`SIZES`], up to 300k parameters: remedies with these take minutes.
const SMALL_SIZES: usize = 3;

/// One training with what is measured of it: a file of points.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Branch {
    Base,
    Dpo(f64),
    /// With the reward model.
    Ppo(f64),
    Modpo(f64),
    Soups,
}

impl Branch {
    pub(super) fn name(self) -> String {
        match self {
            Self::Base => "base".to_owned(),
            Self::Dpo(bias) => format!("dpo-{bias}"),
            Self::Ppo(bias) => format!("ppo-{bias}"),
            Self::Modpo(weight) => format!("modpo-{weight}"),
            Self::Soups => "soups".to_owned(),
        }
    }

    /// About how long it takes, in units of DPO: what is shown as progress.
    pub(super) fn cost(self) -> u64 {
        match self {
            Self::Base => 4,
            Self::Ppo(_) => 2,
            Self::Dpo(_) | Self::Modpo(_) | Self::Soups => 1,
        }
    }
}

/// The first one that was there before.
fn twice<T: PartialEq>(all: &[T]) -> Option<&T> {
    all.iter().enumerate().find(|(i, one)| all[..*i].contains(one)).map(|(_, one)| one)
}
