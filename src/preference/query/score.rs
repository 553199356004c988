//! Samplers that ask where a score is largest, and the scores.

use super::{Candidates, Reads, Sampler, sampler, select_uniform};
use crate::random::Rng;
use crate::table::Line;

/// The paper's method.
pub static DISAGREEMENT: Line<Sampler> = sampler(
    "disagreement",
    "where the members' predictions vary most",
    &[Reads::Disagreement],
    |candidates, count, _| top(&candidates.disagreement(), count),
);

/// Uncertainty, which a single member has as well.
pub static ENTROPY: Line<Sampler> = sampler(
    "entropy",
    "where the members are least certain on average",
    &[Reads::Predictions],
    |candidates, count, _| top(&candidates.entropy(), count),
);

/// Disagreement alone can ask about oddities only.
pub(super) static MIXTURE: Line<Sampler> =
    sampler("mixture", "half by disagreement, half at random", &[Reads::Disagreement], mixture);

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

fn mixture(candidates: &Candidates<'_>, count: usize, rng: &mut Rng) -> Vec<usize> {
    // A coin for the odd one, so that sessions of a single question mix as well.
    let coin = usize::from(select_uniform(1, 2, rng) == [0]);
    let mut chosen = top(&candidates.disagreement(), (count + coin) / 2);
    let order = select_uniform(candidates.len(), candidates.len(), rng);
    let rest: Vec<usize> = order.into_iter().filter(|c| !chosen.contains(c)).collect();
    let missing = count - chosen.len();
    chosen.extend(rest.into_iter().take(missing));
    chosen
}

/// The `count` largest scores, largest first; equal ones by index.
pub(super) fn top(scores: &[f64], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order.truncate(count);
    order
}
