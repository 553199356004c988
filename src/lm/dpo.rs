//! Direct Preference Optimization (Rafailov et al. 2023, arXiv 2305.18290): the policy is trained on comparisons, with
//! any loss of `super::loss`.

use burn::tensor::Tensor;
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};

use super::batch::{Batch, Targets};
use super::data::EncodedPair;
use super::loss::{LossConfig, PairLogProbs};
use super::model::Decoder;
use super::train::{Metrics, Part, Stage, Whole, cut};
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
    /// There is none.
    None,
    /// A model, asked for each batch.
    Model(Box<Decoder>),
    /// Its log-probabilities of every pair's chosen and rejected completion, nats.
    LogProbs(Vec<[f64; 2]>),
}

/// Log-probabilities of the pairs' completions, `[chosen, rejected]`, nats: what a reference policy is asked for once.
///
/// The result does not depend on the number of threads.
#[must_use]
pub fn log_probs(
    model: &Decoder,
    pairs: &[EncodedPair],
    part_tokens: usize,
    done: &(dyn Fn(usize) + Sync),
) -> Vec<[f64; 2]> {
    let all: Vec<usize> = (0..pairs.len()).collect();
    let parts = cut(|pair| pair_tokens(&pairs[pair]), &all, part_tokens);
    let of_part = |part: &Vec<usize>| {
        let (batch, targets) = pack(part.iter().map(|&pair| &pairs[pair]));
        let sums = targets.sums(&to_host(model.log_probs(model.hidden(&batch, None), &targets, 1.0).0));
        done(part.len());
        sums.chunks_exact(2).map(|both| [both[0], both[1]]).collect::<Vec<_>>()
    };
    parts.par_iter().flat_map(of_part).collect()
}

/// Which pairs a part holds, and the tokens to be predicted: chosen and rejected in turn.
#[derive(Debug)]
pub struct PackedPairs {
    pairs: Vec<usize>,
    targets: Targets,
    batch: Batch,
}

impl Stage for Dpo {
    type Packed = PackedPairs;

    fn len(&self) -> usize {
        self.pairs.len()
    }

    fn tokens(&self, pair: usize) -> usize {
        pair_tokens(&self.pairs[pair])
    }

    fn weight(&self, _pair: usize) -> f64 {
        1.0
    }

    fn pack(&self, pairs: &[usize]) -> (Batch, PackedPairs) {
        let (batch, targets) = pack(pairs.iter().map(|&pair| &self.pairs[pair]));
        (batch.clone(), PackedPairs { pairs: pairs.to_vec(), targets, batch })
    }

    fn loss(&self, model: &Decoder, hidden: Tensor<2>, packed: &PackedPairs, whole: Whole) -> Part {
        let PackedPairs { pairs, targets, batch } = packed;
        let (log_probs, about) = model.log_probs(hidden, targets, 1.0);
        let policy = targets.sums(&to_host(log_probs.clone()));
        let reference: Vec<f64> = match &self.reference {
            Reference::None => vec![0.0; policy.len()],
            Reference::LogProbs(all) => pairs.iter().flat_map(|&pair| all[pair]).collect(),
            Reference::Model(model) => {
                targets.sums(&to_host(model.log_probs(model.hidden(batch, None), targets, 1.0).0))
            }
        };
        let mut metrics = Metrics::default();
        let mut slopes = Vec::with_capacity(policy.len());
        for i in 0..pairs.len() {
            let length = |i: usize| targets.examples[i].len() as f64;
            let pair = PairLogProbs {
                chosen: policy[2 * i],
                rejected: policy[2 * i + 1],
                reference_chosen: reference[2 * i],
                reference_rejected: reference[2 * i + 1],
                chosen_length: length(2 * i),
                rejected_length: length(2 * i + 1),
            };
            let target = self.pairs[pairs[i]].target.unwrap_or(1.0);
            let value = self.loss.expected(&pair, target);
            slopes.extend([value.of_chosen / whole.weight, value.of_rejected / whole.weight]);
            let [chosen, rejected] = self.loss.rewards(&pair);
            metrics.answer(sigmoid(chosen - rejected), target);
            let mut add = |name, value| metrics.add(name, value, 1.0);
            add("loss", value.loss);
            add("rewards/chosen", chosen);
            add("rewards/rejected", rejected);
            add("rewards/margins", chosen - rejected);
            add("rewards/accuracies", if chosen > rejected { 1.0 } else { 0.0 });
            add("logps/chosen", pair.chosen);
            add("logps/rejected", pair.rejected);
            if !matches!(self.reference, Reference::None) {
                // How far the chosen completion has become likelier, or not: it often has not.
                add("logps/chosen_displacement", pair.chosen - pair.reference_chosen);
            }
            add("completions/mean_length", 0.5 * (pair.chosen_length + pair.rejected_length));
        }
        let entropy = &to_host(about)[..targets.ids.len()];
        let sum: f64 = entropy.iter().map(|&value| f64::from(value)).sum();
        metrics.add("entropy", sum / entropy.len().max(1) as f64, entropy.len() as f64);
        // Each completion's log-probability times the loss's slope with respect to it: the same gradient as the loss's.
        let slopes = targets.spread(&slopes, &model.device());
        Part { objective: (log_probs * slopes).sum(), metrics }
    }
}

/// Both completions, with what they share once.
fn pack<'a>(pairs: impl Iterator<Item = &'a EncodedPair>) -> (Batch, Targets) {
    let (mut batch, mut targets) = (Batch::default(), Targets::default());
    for EncodedPair { chosen, rejected, .. } in pairs {
        let rows = batch.push_sharing(&[&chosen.ids, &rejected.ids]);
        for (side, rows) in [chosen, rejected].into_iter().zip(rows) {
            targets.push(&side.ids, &rows, side.prompt_len);
        }
    }
    (batch, targets)
}

pub(super) fn pair_tokens(pair: &EncodedPair) -> usize {
    pair.chosen.ids.len() + pair.rejected.ids.len() - pair.chosen.prompt_len
}
