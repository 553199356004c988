//! Samplers that ask where a score is largest.

use super::candidates::{Candidates, Reads, Sampler, sampler};
use super::uniform::select_uniform;
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
