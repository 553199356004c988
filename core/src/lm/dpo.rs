//! Direct Preference Optimization (Rafailov et al. 2023, arXiv 2305.18290): the policy is trained on comparisons, with
//! any loss of `super::loss`.

use burn::tensor::Tensor;

use super::batch::Batch;
use super::data::EncodedPair;
use super::loss::{LossConfig, PairLogProbs, Value};
use super::model::Decoder;
use super::pairs::{Completions, PackedPairs, agrees, of_pairs, pair_tokens};
use super::train::{Metrics, Part, Stage, Whole};
use crate::nn::to_host;
use crate::preference::likelihood::sigmoid;

/// Policy training on comparisons.
#[derive(Debug, Clone)]
pub struct Dpo {
    /// What is learned from.
    pub pairs: Vec<EncodedPair>,
    /// The loss.
    pub loss: LossConfig,
    /// What the policy is compared with.
    pub reference: Reference,
}

/// A reference policy.
#[derive(Debug, Clone)]
pub enum Reference {
    /// No reference policy.
    None,
    /// A model, asked for each batch.
    Model(Box<Decoder>),
    /// Its log-probabilities of every pair's chosen and rejected completion, nats.
    LogProbs(Vec<[f64; 2]>),
}

/// Log-probabilities of the pairs' completions, `[chosen, rejected]`, nats. A reference policy is asked for them once.
///
/// The result does not depend on the number of threads.
#[must_use]
pub fn log_probs(
    model: &Decoder,
    pairs: &[EncodedPair],
    part_tokens: usize,
    done: &(dyn Fn(usize) + Sync),
) -> Vec<[f64; 2]> {
    let of = |hidden: Tensor<2>, Completions { targets, sides, .. }: &Completions| {
        let sums = targets.sums(&to_host(model.log_probs(hidden, targets, 1.0).0));
        sides.iter().map(|both| both.map(|i| sums[i])).collect()
    };
    of_pairs(model, pairs, part_tokens, done, &of)
}

impl Stage for Dpo {
    type Packed = PackedPairs;

    fn len(&self) -> usize {
        self.pairs.len()
    }

    fn tokens(&self, pair: usize) -> usize {
        pair_tokens(&self.pairs[pair])
    }

    fn pack(&self, pairs: &[usize]) -> (Batch, PackedPairs) {
        PackedPairs::of(&self.pairs, pairs)
    }

    fn loss(&self, model: &Decoder, hidden: Tensor<2>, packed: &PackedPairs, whole: Whole) -> Part {
        let judge = |number: usize, pair: &PairLogProbs| {
            let target = self.pairs[number].target.unwrap_or(1.0);
            let rewards = self.loss.rewards(pair);
            Judged { value: self.loss.expected(pair, target), rewards, logit: rewards[0] - rewards[1], target }
        };
        part(model, hidden, packed, &self.reference, whole, &judge)
    }
}

/// A pair's loss, and what is logged about it.
#[derive(Debug)]
pub(super) struct Judged {
    /// The loss.
    pub(super) value: Value,
    /// Implicit rewards of chosen and rejected.
    pub(super) rewards: [f64; 2],
    /// Log-odds that the chosen completion is preferred, as the policy has it.
    pub(super) logit: f64,
    /// Probability with which the chosen completion was preferred.
    pub(super) target: f64,
}

/// The part of a batch's loss that these pairs make up. `judge` turns the number of a pair and its log-probabilities
/// into the pair's loss.
pub(super) fn part(
    model: &Decoder,
    hidden: Tensor<2>,
    packed: &PackedPairs,
    reference: &Reference,
    whole: Whole,
    judge: &dyn Fn(usize, &PairLogProbs) -> Judged,
) -> Part {
    let PackedPairs { pairs, completions: Completions { batch, targets, sides, .. } } = packed;
    let (log_probs, about) = model.log_probs(hidden, targets, 1.0);
    let policy = targets.sums(&to_host(log_probs.clone()));
    // A model is asked for the log-probabilities of completions; known ones are per pair.
    let of_completions = match reference {
        Reference::Model(model) => targets.sums(&to_host(model.log_probs(model.hidden(batch, None), targets, 1.0).0)),
        Reference::None | Reference::LogProbs(_) => Vec::new(),
    };
    let mut metrics = Metrics::default();
    let mut slopes = vec![0.0; policy.len()];
    for (&number, &[chosen, rejected]) in pairs.iter().zip(sides) {
        let length = |i: usize| targets.examples[i].len() as f64;
        let [reference_chosen, reference_rejected] = match reference {
            Reference::None => [0.0; 2],
            Reference::LogProbs(all) => all[number],
            Reference::Model(_) => [chosen, rejected].map(|i| of_completions[i]),
        };
        let pair = PairLogProbs {
            chosen: policy[chosen],
            rejected: policy[rejected],
            reference_chosen,
            reference_rejected,
            chosen_length: length(chosen),
            rejected_length: length(rejected),
        };
        let Judged { value, rewards: [reward_chosen, reward_rejected], logit, target } = judge(number, &pair);
        slopes[chosen] += value.of_chosen / whole.weight;
        slopes[rejected] += value.of_rejected / whole.weight;
        metrics.answer(sigmoid(logit), target);
        let mut add = |name, value| metrics.add(name, value, 1.0);
        add("loss", value.loss);
        add("rewards/chosen", reward_chosen);
        add("rewards/rejected", reward_rejected);
        add("rewards/margins", reward_chosen - reward_rejected);
        if let Some(right) = agrees(reward_chosen - reward_rejected, target) {
            add("rewards/accuracies", f64::from(u8::from(right)));
        }
        add("logps/chosen", pair.chosen);
        add("logps/rejected", pair.rejected);
        if !matches!(reference, Reference::None) {
            // How much likelier the chosen completion has become. Often it has become less likely.
            add("logps/chosen_displacement", pair.chosen - pair.reference_chosen);
        }
        add("completions/mean_length", 0.5 * (pair.chosen_length + pair.rejected_length));
    }
    let entropy = &to_host(about)[..targets.ids.len()];
    let sum: f64 = entropy.iter().map(|&value| f64::from(value)).sum();
    metrics.add("entropy", sum / entropy.len().max(1) as f64, entropy.len() as f64);
    // The sum of log-probabilities times the loss's slopes has the same gradient as the loss.
    let slopes = targets.spread(&slopes, &model.device());
    Part { objective: (log_probs * slopes).sum(), metrics }
}
