//! Pairs that cover all there are (Sener & Savarese 2018), alone and among those that a score prefers.

use super::candidates::{Candidates, Reads, Sampler, sampler};
use super::score::top;
use crate::table::Line;

/// Of all.
pub(super) static K_CENTER: Line<Sampler> =
    sampler("k-center", "farthest from everything asked before", &[Reads::Positions], |candidates, count, _| {
        k_center(candidates, &(0..candidates.len()).collect::<Vec<_>>(), count)
    });

/// Of those with most disagreement.
pub(super) static K_CENTER_DISAGREEMENT: Line<Sampler> = sampler(
    "k-center-disagreement",
    "k-center among the half with most disagreement",
    &[Reads::Disagreement, Reads::Positions],
    |candidates, count, _| of_half(candidates, &candidates.disagreement(), count),
);

/// Of those with most entropy.
pub(super) static K_CENTER_ENTROPY: Line<Sampler> = sampler(
    "k-center-entropy",
    "k-center among the half with most entropy",
    &[Reads::Predictions, Reads::Positions],
    |candidates, count, _| of_half(candidates, &candidates.entropy(), count),
);

/// K-center among the half with the largest scores.
fn of_half(candidates: &Candidates<'_>, scores: &[f64], count: usize) -> Vec<usize> {
    k_center(candidates, &top(scores, count.max(candidates.len() / 2)), count)
}

/// Greedy farthest points of `among`, starting from the labelled ones.
fn k_center(candidates: &Candidates<'_>, among: &[usize], count: usize) -> Vec<usize> {
    let Candidates { positions, labelled, .. } = candidates;
    let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>();
    let nearest = |&c: &usize| labelled.iter().map(|l| distance(&positions[c], l)).fold(f64::INFINITY, f64::min);
    let mut gap: Vec<f64> = among.iter().map(nearest).collect();
    let mut chosen = Vec::new();
    while chosen.len() < count {
        let farthest = (0..among.len()).fold(0, |best, i| if gap[i] > gap[best] { i } else { best });
        chosen.push(among[farthest]);
        for (i, gap) in gap.iter_mut().enumerate() {
            *gap = gap.min(distance(&positions[among[i]], &positions[among[farthest]]));
        }
        // Chosen ones are out, also among identical pairs.
        gap[farthest] = f64::NEG_INFINITY;
    }
    chosen
}
