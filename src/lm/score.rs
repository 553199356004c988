//! Log-probabilities of completions.

use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};

use super::batch::{Batch, Targets};
use super::data::Encoded;
use super::model::Decoder;
use super::train::cut;
use crate::nn::to_host;

/// Log-probability of every token of every completion, nats. `done` is told of how many more are finished.
///
/// The result does not depend on the number of threads.
///
/// # Shapes
/// - returns for each example as many values as its completion has tokens; without a prompt, one less
#[must_use]
pub fn token_log_probs(
    model: &Decoder,
    examples: &[Encoded],
    part_tokens: usize,
    done: &(dyn Fn(usize) + Sync),
) -> Vec<Vec<f32>> {
    let all: Vec<usize> = (0..examples.len()).collect();
    let of_part = |part: &Vec<usize>| {
        let (mut batch, mut targets) = (Batch::default(), Targets::default());
        for &example in part {
            let Encoded { ids, prompt_len } = &examples[example];
            let rows: Vec<usize> = batch.push(ids).collect();
            targets.push(ids, &rows, *prompt_len);
        }
        let values = to_host(model.log_probs(model.hidden(&batch, None), &targets, 1.0).0);
        done(part.len());
        targets.examples.into_iter().map(|range| values[range].to_vec()).collect::<Vec<_>>()
    };
    cut(|example| examples[example].ids.len(), &all, part_tokens).par_iter().flat_map(of_part).collect()
}

/// The same, summed.
///
/// # Shapes
/// - returns `[examples.len()]`
#[must_use]
pub fn log_probs(model: &Decoder, examples: &[Encoded], part_tokens: usize, done: &(dyn Fn(usize) + Sync)) -> Vec<f64> {
    let sum = |values: Vec<f32>| values.into_iter().map(f64::from).sum();
    token_log_probs(model, examples, part_tokens, done).into_iter().map(sum).collect()
}
