//! Direct Preference Optimization (Rafailov et al. 2023, arXiv 2305.18290): the policy is trained on comparisons, with
//! any loss of `super::loss`.

use burn::tensor::Tensor;
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};

use super::batch::{Batch, Targets};
use super::data::{Encoded, EncodedPair};
use super::loss::{LossConfig, PairLogProbs, Value};
use super::model::Decoder;
use super::reward::agrees;
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
        let Completions { batch, targets, sides, .. } = pack(part.iter().map(|&pair| &pairs[pair]));
        let sums = targets.sums(&to_host(model.log_probs(model.hidden(&batch, None), &targets, 1.0).0));
        done(part.len());
        sides.into_iter().map(|both| both.map(|i| sums[i])).collect::<Vec<_>>()
    };
    parts.par_iter().flat_map(of_part).collect()
}

/// Which pairs a part holds, and their completions.
#[derive(Debug)]
pub struct PackedPairs {
    pairs: Vec<usize>,
    completions: Completions,
}

/// The completions of some pairs, each of them once: of all comparisons of a prompt's K completions, which are
/// K (K − 1)/2, only these K are computed (Ouyang et al. 2022, arXiv 2203.02155, §3.5).
#[derive(Debug, Default)]
pub(super) struct Completions {
    /// Sequences; those that follow the same prompt share it.
    pub(super) batch: Batch,
    /// Every completion's tokens, to be predicted.
    pub(super) targets: Targets,
    /// Row of every completion's last token.
    pub(super) last: Vec<u32>,
    /// Which completions a pair is of: chosen and rejected.
    pub(super) sides: Vec<[usize; 2]>,
}

impl PackedPairs {
    /// Some of these pairs, by their numbers.
    pub(super) fn of(all: &[EncodedPair], pairs: &[usize]) -> (Batch, Self) {
        let completions = pack(pairs.iter().map(|&pair| &all[pair]));
        (completions.batch.clone(), Self { pairs: pairs.to_vec(), completions })
    }
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

/// A pair's loss, and what is logged of it.
#[derive(Debug)]
pub(super) struct Judged {
    /// The loss.
    pub(super) value: Value,
    /// Implicit rewards of chosen and rejected.
    pub(super) rewards: [f64; 2],
    /// Log-odds that the chosen one is preferred.
    pub(super) logit: f64,
    /// How likely it was preferred.
    pub(super) target: f64,
}

/// What pairs add to a loss of their log-probabilities; `judge` is given the pair's number.
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
    // Those of a model are of the completions, those from before of the pairs.
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

/// The completions of these pairs, in the order in which their prompts and then they themselves first appear.
pub(super) fn pack<'a>(pairs: impl Iterator<Item = &'a EncodedPair>) -> Completions {
    // Of every prompt: its completions, and where the pairs' sides are found.
    let mut prompts: Vec<(&[u32], Vec<&Encoded>)> = Vec::new();
    let mut places = Vec::new();
    for EncodedPair { chosen, rejected, .. } in pairs {
        let prompt = chosen.prompt();
        let at = prompts.iter().position(|(other, _)| *other == prompt).unwrap_or_else(|| {
            prompts.push((prompt, Vec::new()));
            prompts.len() - 1
        });
        let known = &mut prompts[at].1;
        let mut place = |side: &'a Encoded| {
            known.iter().position(|other| *other == side).unwrap_or_else(|| {
                known.push(side);
                known.len() - 1
            })
        };
        places.push((at, [place(chosen), place(rejected)]));
    }
    let mut found = Completions::default();
    let mut first = Vec::with_capacity(prompts.len());
    for (_, completions) in &prompts {
        first.push(found.last.len());
        let ids: Vec<&[u32]> = completions.iter().map(|completion| completion.ids.as_slice()).collect();
        let rows = found.batch.push_sharing(&ids);
        for (completion, rows) in completions.iter().zip(&rows) {
            found.targets.push(&completion.ids, rows, completion.prompt_len);
            let last = rows.last().expect("an encoded completion has a token");
            found.last.push(u32::try_from(*last).expect("a batch has fewer than 2³² rows"));
        }
    }
    found.sides = places.into_iter().map(|(at, sides)| sides.map(|side| first[at] + side)).collect();
    found
}

/// Tokens of a pair on its own: those of a prompt that it shares with other pairs count for each of them.
pub(super) fn pair_tokens(pair: &EncodedPair) -> usize {
    pair.chosen.ids.len() + pair.rejected.ids.len() - pair.chosen.prompt_len
}
