//! Log-probabilities of completions.

use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};

use super::batch::Batch;
use super::data::Encoded;
use super::model::Decoder;
use super::train::cut;
use crate::nn::to_host;

/// Log-probability of every token of every completion, nats. `done` is told how many more of them are finished.
///
/// The result does not depend on the number of threads.
///
/// # Shapes
/// - returns for each example one value for each token of its completion, but none for the first token of a sequence
#[must_use]
pub fn token_log_probs(
    model: &Decoder,
    examples: &[Encoded],
    part_tokens: usize,
    done: &(dyn Fn(usize) + Sync),
) -> Vec<Vec<f32>> {
    let all: Vec<usize> = (0..examples.len()).collect();
    let of_part = |part: &Vec<usize>| {
        let (batch, targets) = Batch::of(part.iter().map(|&example| &examples[example]));
        let values = to_host(model.log_probs(model.hidden(&batch, None), &targets, 1.0).0);
        done(part.len());
        targets.examples.into_iter().map(|range| values[range].to_vec()).collect::<Vec<_>>()
    };
    cut(|example| examples[example].ids.len(), &all, part_tokens).par_iter().flat_map(of_part).collect()
}

/// Log-probability of every completion, nats: the sum over its tokens.
///
/// # Shapes
/// - returns `[examples.len()]`
#[must_use]
pub fn log_probs(model: &Decoder, examples: &[Encoded], part_tokens: usize, done: &(dyn Fn(usize) + Sync)) -> Vec<f64> {
    let sum = |values: Vec<f32>| values.into_iter().map(f64::from).sum();
    token_log_probs(model, examples, part_tokens, done).into_iter().map(sum).collect()
}
