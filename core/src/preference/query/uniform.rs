//! Any pair.

use rand::seq::index;

use super::candidates::{Sampler, sampler};
use crate::random::Rng;
use crate::table::Line;

/// B-Pref's baseline.
pub static UNIFORM: Line<Sampler> =
    sampler("uniform", "at random", &[], |candidates, count, rng| select_uniform(count, candidates.len(), rng));

/// `count` different candidates at random, in random order.
#[must_use]
pub fn select_uniform(count: usize, candidates: usize, rng: &mut Rng) -> Vec<usize> {
    index::sample(rng, candidates, count.min(candidates)).into_vec()
}
