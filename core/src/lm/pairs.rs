//! Comparisons as batches: every completion once, however many pairs it is in.

use burn::tensor::Tensor;
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};

use super::batch::{Batch, Targets};
use super::data::{Encoded, EncodedPair};
use super::model::Decoder;
use super::train::cut;

/// Which pairs a part of a batch holds, and their completions.
#[derive(Debug)]
pub struct PackedPairs {
    pub(super) pairs: Vec<usize>,
    pub(super) completions: Completions,
}

/// The completions of some pairs, each of them once: a prompt with K completions has K (K − 1)/2 comparisons, but only
/// K completions to compute (Ouyang et al. 2022, arXiv 2203.02155, §3.5).
#[derive(Debug, Default)]
pub(super) struct Completions {
    /// Sequences; those that follow the same prompt share it.
    pub(super) batch: Batch,
    /// Every completion's tokens, to be predicted.
    pub(super) targets: Targets,
    /// Row of every completion's last token.
    pub(super) last: Vec<u32>,
    /// For each pair the numbers of its completions: chosen and rejected.
    pub(super) sides: Vec<[usize; 2]>,
}

impl PackedPairs {
    /// Some of these pairs, by their numbers.
    pub(super) fn of(all: &[EncodedPair], pairs: &[usize]) -> (Batch, Self) {
        let completions = pack(pairs.iter().map(|&pair| &all[pair]));
        (completions.batch.clone(), Self { pairs: pairs.to_vec(), completions })
    }
}

/// The completions of these pairs. Prompts, and the completions of each prompt, are in the order of their first pairs.
pub(super) fn pack<'a>(pairs: impl Iterator<Item = &'a EncodedPair>) -> Completions {
    // For every prompt its completions; for every pair its prompt and the places of its sides among these completions.
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

/// What `of` makes of every pair, given the last hidden states of a part of the pairs and their completions; it is
/// called in several threads. `done` is told how many more pairs are finished.
///
/// The result does not depend on the number of threads.
pub(super) fn of_pairs<T: Send>(
    model: &Decoder,
    pairs: &[EncodedPair],
    part_tokens: usize,
    done: &(dyn Fn(usize) + Sync),
    of: &(dyn Fn(Tensor<2>, &Completions) -> Vec<T> + Sync),
) -> Vec<T> {
    let all: Vec<usize> = (0..pairs.len()).collect();
    let of_part = |part: &Vec<usize>| {
        let completions = pack(part.iter().map(|&pair| &pairs[pair]));
        let found = of(model.hidden(&completions.batch, None), &completions);
        done(part.len());
        found
    };
    cut(|pair| pair_tokens(&pairs[pair]), &all, part_tokens).par_iter().flat_map(of_part).collect()
}

/// Tokens of a pair on its own. A prompt that it shares with other pairs counts for each of them.
pub(super) fn pair_tokens(pair: &EncodedPair) -> usize {
    pair.chosen.ids.len() + pair.rejected.ids.len() - pair.chosen.prompt_len
}

/// Whether the side that scores higher is the one that is likelier preferred: `difference` is the first side's score
/// minus the other's, and `target` the probability that the first is preferred. `None` of a tie.
pub(super) fn agrees(difference: f64, target: f64) -> Option<bool> {
    match () {
        () if target == 0.5 => None,
        () if target > 0.5 => Some(difference > 0.0),
        () => Some(difference < 0.0),
    }
}
