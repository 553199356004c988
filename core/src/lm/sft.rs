//! Supervised fine-tuning and pre-training: the likelihood of given texts.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::batch::{Batch, Targets};
use super::data::Encoded;
use super::model::Decoder;
use super::train::{Metrics, Part, Stage, Whole};
use crate::nn::to_host;

/// What a batch's loss is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalization {
    /// The number of its completions' tokens, counted over the whole batch, as in TRL.
    TokenMean,
    /// The number of its sequences, as in DPO's reference code: long completions count more.
    SequenceSum,
}

/// Maximum likelihood of completions. Of a text without a prompt, all tokens after the first are learned.
#[derive(Debug, Clone)]
pub struct Sft {
    /// What is learned.
    pub examples: Vec<Encoded>,
    /// What the loss is divided by.
    pub normalization: Normalization,
}

impl Sft {
    /// Tokens of an example that are predicted.
    fn predicted(&self, example: usize) -> usize {
        let Encoded { ids, prompt_len } = &self.examples[example];
        ids.len() - (*prompt_len).max(1).min(ids.len())
    }
}

impl Stage for Sft {
    type Packed = Targets;

    fn len(&self) -> usize {
        self.examples.len()
    }

    fn tokens(&self, example: usize) -> usize {
        self.examples[example].ids.len()
    }

    fn weight(&self, example: usize) -> f64 {
        match self.normalization {
            Normalization::TokenMean => self.predicted(example) as f64,
            Normalization::SequenceSum => 1.0,
        }
    }

    fn pack(&self, examples: &[usize]) -> (Batch, Targets) {
        Batch::of(examples.iter().map(|&example| &self.examples[example]))
    }

    fn loss(&self, model: &Decoder, hidden: Tensor<2>, targets: &Targets, whole: Whole) -> Part {
        let (log_probs, about) = model.log_probs(hidden, targets, 1.0);
        let values = to_host(log_probs.clone());
        let about = to_host(about);
        let tokens = targets.ids.len() as f64;
        let mut metrics = Metrics::default();
        let sums = targets.sums(&values);
        let total: f64 = sums.iter().sum();
        match self.normalization {
            Normalization::TokenMean => metrics.add("loss", -total / tokens.max(1.0), tokens),
            Normalization::SequenceSum => metrics.add("loss", -total / sums.len() as f64, sums.len() as f64),
        }
        let mean = |values: &[f32]| values.iter().map(|&value| f64::from(value)).sum::<f64>() / tokens.max(1.0);
        let (entropy, likeliest) = about.split_at(values.len());
        metrics.add("entropy", mean(entropy), tokens);
        metrics.add("mean_token_accuracy", mean(likeliest), tokens);
        metrics.add("completions/mean_length", tokens / sums.len() as f64, sums.len() as f64);
        Part { objective: log_probs.sum() * (-1.0 / whole.weight), metrics }
    }
}
