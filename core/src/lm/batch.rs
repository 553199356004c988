//! Sequences of tokens packed one after another.

use std::ops::Range;

use burn::tensor::{Device, Tensor};

use super::data::Encoded;
use crate::nn::constant;
use crate::nn::fused::decoder::Sequence;

/// Sequences without padding. The rows of a batch are the tokens of all sequences. A prefix that several sequences
/// share has its rows only once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Token of every row.
    pub ids: Vec<u32>,
    /// Place of every row in its sequence, from 0.
    pub places: Vec<u32>,
    /// Which rows make up a sequence.
    pub sequences: Vec<Sequence>,
}

/// Tokens whose log-probability is wanted, which rows predict them, and to which examples they belong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Targets {
    /// Row of the token before it.
    pub rows: Vec<u32>,
    /// The token.
    pub ids: Vec<u32>,
    /// Range of each example in the two lists.
    pub examples: Vec<Range<usize>>,
}

impl Batch {
    /// Sequences of their own, with the tokens of their completions as targets.
    #[must_use]
    pub fn of<'a>(examples: impl IntoIterator<Item = &'a Encoded>) -> (Self, Targets) {
        let (mut batch, mut targets) = (Self::default(), Targets::default());
        for Encoded { ids, prompt_len } in examples {
            let rows: Vec<usize> = batch.push(ids).collect();
            targets.push(ids, &rows, *prompt_len);
        }
        (batch, targets)
    }

    /// Adds a sequence of its own; its rows are returned.
    pub fn push(&mut self, ids: &[u32]) -> Range<usize> {
        self.push_after(0..0, ids)
    }

    /// Adds a sequence whose beginning is in the batch already: `prefix` are the first rows of a sequence that has no
    /// prefix itself. The rows of what follows the prefix are returned.
    pub fn push_after(&mut self, prefix: Range<usize>, ids: &[u32]) -> Range<usize> {
        let rows = self.ids.len()..self.ids.len() + ids.len();
        self.ids.extend_from_slice(ids);
        let places = prefix.len()..prefix.len() + ids.len();
        self.places.extend(places.map(|place| u32::try_from(place).expect("a sequence is shorter than 2³² tokens")));
        self.sequences.push(Sequence { prefix, rows: rows.clone() });
        rows
    }

    /// Adds sequences that begin alike, their common beginning only once. Returns the row of every token of each.
    pub fn push_sharing(&mut self, sequences: &[&[u32]]) -> Vec<Vec<usize>> {
        let common = |a: &[u32], b: &[u32]| a.iter().zip(b).take_while(|(a, b)| a == b).count();
        let first = sequences.first().copied().unwrap_or_default();
        let shared = sequences.iter().map(|sequence| common(first, sequence)).min().unwrap_or(0);
        let prefix = match shared {
            0 => 0..0,
            _ => self.push(&first[..shared]),
        };
        let after = |sequence: &&[u32]| {
            let rest = &sequence[shared..];
            let own = if rest.is_empty() { 0..0 } else { self.push_after(prefix.clone(), rest) };
            prefix.clone().chain(own).collect()
        };
        sequences.iter().map(after).collect()
    }
}

impl Targets {
    /// Adds an example: the tokens of `ids` from index `from` on. `rows` are the rows of all its tokens. No row
    /// predicts the first token of a sequence, so it is left out.
    pub fn push(&mut self, ids: &[u32], rows: &[usize], from: usize) {
        let start = self.ids.len();
        for i in from.max(1)..ids.len() {
            self.rows.push(u32::try_from(rows[i - 1]).expect("a batch has fewer than 2³² rows"));
            self.ids.push(ids[i]);
        }
        self.examples.push(start..self.ids.len());
    }

    /// Sums of the tokens' values over each example.
    ///
    /// # Shapes
    /// - `values`: `[tokens]`; returns `[examples]`
    #[must_use]
    pub fn sums(&self, values: &[f32]) -> Vec<f64> {
        let sum = |range: &Range<usize>| values[range.clone()].iter().map(|&value| f64::from(value)).sum();
        self.examples.iter().map(sum).collect()
    }

    /// Each example's value at every one of its tokens.
    ///
    /// # Shapes
    /// - `values`: `[examples]`; returns `[tokens]`
    #[must_use]
    pub fn spread(&self, values: &[f64], device: &Device) -> Tensor<1> {
        let mut all = vec![0.0; self.ids.len()];
        for (range, &value) in self.examples.iter().zip(values) {
            all[range.clone()].fill(value as f32);
        }
        constant(&all, [all.len()], device)
    }
}

#[cfg(test)]
mod tests {
    use super::{Batch, Targets};

    #[test]
    fn a_common_beginning_is_there_once() {
        let mut batch = Batch::default();
        batch.push(&[9, 9]);
        let rows = batch.push_sharing(&[&[1, 2, 3, 4], &[1, 2, 5], &[1, 2]]);
        assert_eq!(batch.ids, [9, 9, 1, 2, 3, 4, 5]);
        assert_eq!(batch.places, [0, 1, 0, 1, 2, 3, 2]);
        assert_eq!(rows, [vec![2, 3, 4, 5], vec![2, 3, 6], vec![2, 3]]);
        let mut targets = Targets::default();
        targets.push(&[1, 2, 3, 4], &rows[0], 2);
        targets.push(&[1, 2, 5], &rows[1], 2);
        targets.push(&[9, 9], &[0, 1], 0);
        assert_eq!((targets.rows, targets.ids), (vec![3, 4, 3, 0], vec![3, 4, 5, 9]));
        assert_eq!(targets.examples, [0..2, 2..3, 3..4]);
    }
}
