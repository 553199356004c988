//! What a sampler is, and what it reads of the candidates.

use crate::random::Rng;
use crate::table::Line;

/// How questions are chosen among candidate pairs.
#[derive(Debug)]
pub struct Sampler {
    /// What it goes by; nothing, if any candidate is as good as another.
    pub reads: &'static [Reads],
    /// Chooses so many of the candidates, of which there are enough, in the order in which to ask them.
    pub choose: Choose,
}

/// How a sampler chooses.
pub type Choose = fn(candidates: &Candidates<'_>, count: usize, rng: &mut Rng) -> Vec<usize>;

/// What a sampler reads of candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// What the members predict.
    Predictions,
    /// How much their predictions differ: a single member has no such thing.
    Disagreement,
    /// Where the pairs are.
    Positions,
}

/// Pairs to choose from.
#[derive(Debug, Clone, Copy)]
pub struct Candidates<'a> {
    /// P[first is preferred] by each member, `[members, candidates]`.
    pub probabilities: &'a [f64],
    /// Members of the ensemble.
    pub members: usize,
    /// Where each pair is, `[candidates][dim]`; may be empty for samplers that do not read it.
    pub positions: &'a [Vec<f32>],
    /// Where the pairs are that were asked about before, `[n][dim]`.
    pub labelled: &'a [Vec<f32>],
}

/// Variance across members of P[first is preferred], of every candidate (§2.2.4).
///
/// # Shapes
/// - `probabilities`: `[members, candidates]`
/// - returns `[candidates]`
#[must_use]
pub fn disagreement(probabilities: &[f64], members: usize) -> Vec<f64> {
    let candidates = probabilities.len() / members;
    let of = |c: usize| (0..members).map(move |m| probabilities[m * candidates + c]);
    let variance = |c: usize| {
        let mean = of(c).sum::<f64>() / members as f64;
        of(c).map(|p| (p - mean) * (p - mean)).sum::<f64>() / members as f64
    };
    (0..candidates).map(variance).collect()
}

/// Mean over members of the entropy of their prediction, nats, of every candidate.
///
/// # Shapes
/// - `probabilities`: `[members, candidates]`
/// - returns `[candidates]`
#[must_use]
pub fn entropy(probabilities: &[f64], members: usize) -> Vec<f64> {
    let candidates = probabilities.len() / members;
    let term = |p: f64| if p > 0.0 { -p * p.ln() } else { 0.0 };
    let mean = |c: usize| {
        let of = (0..members).map(|m| probabilities[m * candidates + c]);
        of.map(|p| term(p) + term(1.0 - p)).sum::<f64>() / members as f64
    };
    (0..candidates).map(mean).collect()
}

impl Sampler {
    /// Chooses `count` of the candidates (all, when there are fewer), in the order in which to ask them.
    #[must_use]
    pub fn select(&self, count: usize, candidates: &Candidates<'_>, rng: &mut Rng) -> Vec<usize> {
        (self.choose)(candidates, count.min(candidates.len()), rng)
    }
}

impl Candidates<'_> {
    pub(super) fn len(&self) -> usize {
        self.probabilities.len() / self.members
    }

    pub(super) fn disagreement(&self) -> Vec<f64> {
        disagreement(self.probabilities, self.members)
    }

    pub(super) fn entropy(&self) -> Vec<f64> {
        entropy(self.probabilities, self.members)
    }
}

/// A line of the table.
pub(super) const fn sampler(
    name: &'static str,
    summary: &'static str,
    reads: &'static [Reads],
    choose: Choose,
) -> Line<Sampler> {
    Line { name, summary, item: Sampler { reads, choose } }
}
