//! A reward model: a decoder whose head gives one number at the last token, fitted to comparisons with the likelihood
//! of the shared core (Bradley-Terry; Ouyang et al. 2022, arXiv 2203.02155, eq. 1).

use burn::tensor::Tensor;

use super::batch::Batch;
use super::data::{Encoded, EncodedPair};
use super::model::Decoder;
use super::pairs::{Completions, PackedPairs, agrees, of_pairs, pair_tokens};
use super::train::{Metrics, Part, Stage, Whole};
use crate::nn::{constant, to_host};
use crate::preference::Likelihood;

/// Hyper-parameters of a reward model's loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RewardLoss {
    /// How a difference of scores becomes the probability of an answer. A row that has a margin of its own uses that.
    pub likelihood: Likelihood,
    /// Weight of (score of the chosen + score of the rejected)², which keeps scores around zero (Eisenstein et al.
    /// 2023, arXiv 2312.09244); 0 for none.
    pub centering: f64,
}

/// Fitting a reward model.
#[derive(Debug, Clone)]
pub struct RewardModel {
    /// What is learned from.
    pub pairs: Vec<EncodedPair>,
    /// The loss.
    pub loss: RewardLoss,
}

impl Default for RewardLoss {
    /// TRL's: no errors, no margin, no centring.
    fn default() -> Self {
        let likelihood = Likelihood { temperature: 1.0, error_rate: 0.0, margin: 0.0, tie: 0.0 };
        Self { likelihood, centering: 0.0 }
    }
}

/// Scores of sequences: the head's first output at the last token of each.
///
/// # Shapes
/// - returns `[sequences.len()]`
#[must_use]
pub fn scores(model: &Decoder, sequences: &[&[u32]]) -> Vec<f32> {
    let mut batch = Batch::default();
    let last_row = |ids: &&[u32]| {
        let end = batch.push(ids).end;
        u32::try_from(end.saturating_sub(1)).expect("a batch has fewer than 2³² rows")
    };
    let last = sequences.iter().map(last_row).collect();
    to_host(model.scores(model.hidden(&batch, None), last).narrow(1, 0, 1))
}

/// Scores of sequences by an ensemble: means over its members.
///
/// # Shapes
/// - returns `[sequences.len()]`
#[must_use]
pub fn mean_scores(members: &[Decoder], sequences: &[&[u32]]) -> Vec<f64> {
    let mut sums = vec![0.0; sequences.len()];
    for member in members {
        sums.iter_mut().zip(scores(member, sequences)).for_each(|(sum, score)| *sum += f64::from(score));
    }
    sums.into_iter().map(|sum| sum / members.len() as f64).collect()
}

/// Scores of completions by an ensemble, means over its members. A few completions are scored at a time.
///
/// # Shapes
/// - returns `[completions.len()]`
#[must_use]
pub fn completion_scores(members: &[Decoder], completions: &[Encoded]) -> Vec<f64> {
    let ids: Vec<&[u32]> = completions.iter().map(|completion| completion.ids.as_slice()).collect();
    ids.chunks(SCORED_TOGETHER).flat_map(|part| mean_scores(members, part)).collect()
}

/// Completions that a reward model scores together, so that their hidden states fit the memory.
const SCORED_TOGETHER: usize = 64;

/// Scores of both sides of every pair. They do not depend on the number of threads.
///
/// # Shapes
/// - returns `[pairs.len()]`, each of chosen and rejected
#[must_use]
pub fn pair_scores(model: &Decoder, pairs: &[EncodedPair], part_tokens: usize) -> Vec<[f64; 2]> {
    let of = |hidden: Tensor<2>, Completions { last, sides, .. }: &Completions| {
        let scores = to_host(model.scores(hidden, last.clone()).narrow(1, 0, 1));
        sides.iter().map(|both| both.map(|i| f64::from(scores[i]))).collect()
    };
    of_pairs(model, pairs, part_tokens, &|_| (), &of)
}

/// Every member's P[chosen is preferred to rejected] of every pair: what
/// [`disagreement`](crate::preference::query::disagreement) and the samplers go by.
///
/// # Shapes
/// - returns `[members.len(), pairs.len()]`
#[must_use]
pub fn probabilities(
    members: &[Decoder],
    pairs: &[EncodedPair],
    likelihood: &Likelihood,
    part_tokens: usize,
) -> Vec<f64> {
    let of_member = |member: &Decoder| {
        let scores = pair_scores(member, pairs, part_tokens);
        scores.into_iter().map(move |[chosen, rejected]| likelihood.probability(chosen - rejected))
    };
    members.iter().flat_map(of_member).collect()
}

/// Where pairs are, for k-center: the last hidden state of the side that scores higher minus that of the other side, a
/// mean over the members.
///
/// A difference of scores is linear in the difference of hidden states, so two pairs at the same place are the same
/// question to every score head. Both hidden states side by side would also tell questions apart by their prompts,
/// which add the same to both scores. Because the difference goes from the lower to the higher score, swapping the
/// sides of a pair does not move it.
///
/// # Shapes
/// - returns `[pairs.len()][hidden]`
#[must_use]
pub fn positions(members: &[Decoder], pairs: &[EncodedPair], part_tokens: usize) -> Vec<Vec<f32>> {
    let mut sums: Vec<(f64, Vec<f32>)> = Vec::new();
    for member in members {
        let of = |hidden: Tensor<2>, Completions { last, sides, .. }: &Completions| {
            let scores = to_host(member.scores(hidden.clone(), last.clone()).narrow(1, 0, 1));
            let width = member.config.hidden;
            let hidden = to_host(hidden);
            let row = |i: usize| &hidden[last[i] as usize * width..][..width];
            let differences = sides.iter().map(|&[chosen, rejected]| {
                let difference = row(chosen).iter().zip(row(rejected)).map(|(chosen, rejected)| chosen - rejected);
                (f64::from(scores[chosen] - scores[rejected]), difference.collect::<Vec<f32>>())
            });
            differences.collect()
        };
        let found = of_pairs(member, pairs, part_tokens, &|_| (), &of);
        if sums.is_empty() {
            sums = found;
            continue;
        }
        for ((margin, sum), (own_margin, own)) in sums.iter_mut().zip(found) {
            *margin += own_margin;
            sum.iter_mut().zip(own).for_each(|(sum, own)| *sum += own);
        }
    }
    let count = members.len() as f32;
    let oriented = |(margin, sum): (f64, Vec<f32>)| {
        let scale = if margin < 0.0 { -1.0 / count } else { 1.0 / count };
        sum.into_iter().map(|value| value * scale).collect()
    };
    sums.into_iter().map(oriented).collect()
}

impl RewardModel {
    /// What is logged about these pairs when their sides have these scores, and the slopes of the loss with respect to
    /// the scores.
    #[must_use]
    pub fn measure(&self, pairs: &[usize], scores: &[[f64; 2]]) -> (Metrics, Vec<[f64; 2]>) {
        let RewardLoss { likelihood, centering } = self.loss;
        let mut metrics = Metrics::default();
        let mut slopes = Vec::with_capacity(pairs.len());
        for (&pair, &[chosen, rejected]) in pairs.iter().zip(scores) {
            let EncodedPair { margin, target, .. } = &self.pairs[pair];
            let likelihood = Likelihood { margin: margin.unwrap_or(likelihood.margin), ..likelihood };
            let target = target.unwrap_or(1.0);
            let (difference, sum) = (chosen - rejected, chosen + rejected);
            let loss = likelihood.loss(difference, target) + centering * sum * sum;
            let slope = likelihood.slope(difference, target);
            slopes.push([slope, -slope].map(|slope| slope + 2.0 * centering * sum));
            metrics.answer(likelihood.probability(difference), target);
            let mut add = |name, value| metrics.add(name, value, 1.0);
            add("loss", loss);
            add("margin", difference);
            add("mean_reward", 0.5 * sum);
            // Nobody can be right about two completions that are equally good.
            if let Some(right) = agrees(difference, target) {
                add("accuracy", f64::from(u8::from(right)));
            }
        }
        (metrics, slopes)
    }
}

impl Stage for RewardModel {
    type Packed = PackedPairs;

    fn len(&self) -> usize {
        self.pairs.len()
    }

    fn tokens(&self, pair: usize) -> usize {
        pair_tokens(&self.pairs[pair])
    }

    fn pack(&self, pairs: &[usize]) -> (Batch, Self::Packed) {
        PackedPairs::of(&self.pairs, pairs)
    }

    fn loss(&self, model: &Decoder, hidden: Tensor<2>, packed: &PackedPairs, whole: Whole) -> Part {
        let PackedPairs { pairs, completions: Completions { last, sides, .. } } = packed;
        let scores = model.scores(hidden, last.clone()).narrow(1, 0, 1);
        let values = to_host(scores.clone());
        let of_sides: Vec<[f64; 2]> = sides.iter().map(|both| both.map(|i| f64::from(values[i]))).collect();
        let (metrics, of_pairs) = self.measure(pairs, &of_sides);
        let mut slopes = vec![0.0; values.len()];
        for (side, slope) in sides.as_flattened().iter().zip(of_pairs.as_flattened()) {
            slopes[*side] += slope / whole.weight;
        }
        let slopes: Vec<f32> = slopes.into_iter().map(|slope| slope as f32).collect();
        let slopes: Tensor<2> = constant(&slopes, [slopes.len(), 1], &model.device());
        Part { objective: (scores * slopes).sum(), metrics }
    }
}
