//! Kahneman-Tversky Optimization (Ethayarajh et al. 2024, arXiv 2402.01306): the policy is trained on completions that
//! are good or bad, without pairs.

use burn::tensor::Tensor;

use super::batch::{Batch, Targets};
use super::data::Encoded;
use super::loss::KtoConfig;
use super::model::Decoder;
use super::score;
use super::train::{Metrics, Part, Stage, Whole};
use crate::nn::to_host;

/// Policy training on single completions.
///
/// The loss needs z₀, which is estimated on prompts with completions of other prompts. Each prompt gets the completion
/// of the next example, always the same one, so the reference is asked for its log-probability only once.
#[derive(Debug, Clone)]
pub struct Kto {
    /// Completions, and whether each is desirable.
    pub examples: Vec<(Encoded, bool)>,
    /// Each prompt with the completion of the next example.
    mismatched: Vec<Encoded>,
    /// The loss.
    pub loss: KtoConfig,
    /// The reference's log-probability of each completion, nats.
    reference: Vec<f64>,
    /// The reference's log-probability of each of the `mismatched`, nats.
    reference_mismatched: Vec<f64>,
}

impl Kto {
    /// Asks the reference policy for its log-probabilities.
    #[must_use]
    pub fn new(
        examples: Vec<(Encoded, bool)>,
        loss: KtoConfig,
        reference: &Decoder,
        part_tokens: usize,
        done: &(dyn Fn(usize) + Sync),
    ) -> Self {
        let mismatch = |i: usize| {
            let (own, _) = &examples[i];
            let (other, _) = &examples[(i + 1) % examples.len()];
            // No longer than the longer of the two examples, so it fits the model's context, too.
            let mut ids = [own.prompt(), other.completion()].concat();
            ids.truncate(own.ids.len().max(other.ids.len()));
            Encoded { ids, prompt_len: own.prompt_len }
        };
        let mismatched: Vec<Encoded> = (0..examples.len()).map(mismatch).collect();
        let own: Vec<Encoded> = examples.iter().map(|(encoded, _)| encoded.clone()).collect();
        let reference_own = score::log_probs(reference, &own, part_tokens, done);
        let reference_mismatched = score::log_probs(reference, &mismatched, part_tokens, &|_| ());
        Self { examples, mismatched, loss, reference: reference_own, reference_mismatched }
    }
}

impl Stage for Kto {
    type Packed = (Vec<usize>, Targets);

    fn len(&self) -> usize {
        self.examples.len()
    }

    fn tokens(&self, example: usize) -> usize {
        self.examples[example].0.ids.len()
    }

    fn pack(&self, examples: &[usize]) -> (Batch, Self::Packed) {
        let (batch, targets) = Batch::of(examples.iter().map(|&example| &self.examples[example].0));
        (batch, (examples.to_vec(), targets))
    }

    fn baseline(&self, model: &Decoder, examples: &[usize], part_tokens: usize) -> f64 {
        let mismatched: Vec<Encoded> = examples.iter().map(|&example| self.mismatched[example].clone()).collect();
        let policy = score::log_probs(model, &mismatched, part_tokens, &|_| ());
        let ratio = |(policy, &example): (f64, &usize)| policy - self.reference_mismatched[example];
        KtoConfig::baseline(&policy.into_iter().zip(examples).map(ratio).collect::<Vec<_>>())
    }

    fn loss(&self, model: &Decoder, hidden: Tensor<2>, (examples, targets): &Self::Packed, whole: Whole) -> Part {
        let (log_probs, _) = model.log_probs(hidden, targets, 1.0);
        let policy = targets.sums(&to_host(log_probs.clone()));
        let mut metrics = Metrics::default();
        let mut slopes = Vec::with_capacity(policy.len());
        for (i, &example) in examples.iter().enumerate() {
            let desirable = self.examples[example].1;
            let ratio = policy[i] - self.reference[example];
            let (loss, slope) = self.loss.value(ratio, desirable, whole.baseline);
            slopes.push(slope / whole.weight);
            metrics.add("loss", loss, 1.0);
            let (reward, of_policy) =
                if desirable { ("rewards/chosen", "logps/chosen") } else { ("rewards/rejected", "logps/rejected") };
            metrics.add(reward, self.loss.beta * ratio, 1.0);
            metrics.add(of_policy, policy[i], 1.0);
        }
        metrics.add("kl", whole.baseline, examples.len() as f64);
        let slopes = targets.spread(&slopes, &model.device());
        Part { objective: (log_probs * slopes).sum(), metrics }
    }
}
