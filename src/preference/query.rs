//! Which pairs to ask about (Christiano et al. 2017, §2.2.4; B-Pref's samplers).

use std::fmt;
use std::str::FromStr;

use rand::seq::index;
use serde::{Deserialize, Serialize};

use crate::random::Rng;

/// How questions are chosen among candidate pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sampler {
    /// At random.
    Uniform,
    /// Where the members' predictions vary most: the paper's method.
    Disagreement,
    /// Where the members are least certain on average.
    Entropy,
    /// Greedily farthest from everything asked before (Sener & Savarese 2018).
    KCenter,
    /// K-center among the half with most disagreement.
    KCenterDisagreement,
    /// K-center among the half with most entropy.
    KCenterEntropy,
    /// Half by disagreement, half at random: disagreement alone can ask about oddities only.
    Mixture,
}

/// Not a sampler.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown sampler '{given}': use {}", Sampler::ALL.map(|s| s.to_string()).join(", "))]
pub struct SamplerError {
    given: String,
}

impl Sampler {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Uniform,
        Self::Disagreement,
        Self::Entropy,
        Self::KCenter,
        Self::KCenterDisagreement,
        Self::KCenterEntropy,
        Self::Mixture,
    ];
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

/// Chooses `count` of the candidates (all, when there are fewer), in the order in which to ask them.
///
/// # Shapes
/// - `probabilities`: `[members, candidates]`
/// - `positions`: `[candidates][dim]`, where a pair is, for k-center
/// - `labelled`: `[n][dim]`, where the pairs asked before are
#[must_use]
pub fn select(
    sampler: &Sampler,
    count: usize,
    probabilities: &[f64],
    members: usize,
    positions: &[Vec<f32>],
    labelled: &[Vec<f32>],
    rng: &mut Rng,
) -> Vec<usize> {
    let candidates = probabilities.len() / members;
    let count = count.min(candidates);
    let everything: Vec<usize> = (0..candidates).collect();
    let half = count.max(candidates / 2);
    match sampler {
        Sampler::Uniform => select_uniform(count, candidates, rng),
        Sampler::Disagreement => top(&disagreement(probabilities, members), count),
        Sampler::Entropy => top(&entropy(probabilities, members), count),
        Sampler::KCenter => k_center(&everything, positions, labelled, count),
        Sampler::KCenterDisagreement => {
            k_center(&top(&disagreement(probabilities, members), half), positions, labelled, count)
        }
        Sampler::KCenterEntropy => k_center(&top(&entropy(probabilities, members), half), positions, labelled, count),
        Sampler::Mixture => {
            // A coin for the odd one, so that sessions of a single question mix as well.
            let coin = usize::from(select_uniform(1, 2, rng) == [0]);
            let mut chosen = top(&disagreement(probabilities, members), (count + coin) / 2);
            let order = select_uniform(candidates, candidates, rng);
            let rest: Vec<usize> = order.into_iter().filter(|c| !chosen.contains(c)).collect();
            let missing = count - chosen.len();
            chosen.extend(rest.into_iter().take(missing));
            chosen
        }
    }
}

/// `count` different candidates at random, in random order.
#[must_use]
pub fn select_uniform(count: usize, candidates: usize, rng: &mut Rng) -> Vec<usize> {
    index::sample(rng, candidates, count.min(candidates)).into_vec()
}

/// The `count` largest scores, largest first; equal ones by index.
fn top(scores: &[f64], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order.truncate(count);
    order
}

/// Greedy farthest points of `among`, starting from the labelled ones.
fn k_center(among: &[usize], positions: &[Vec<f32>], labelled: &[Vec<f32>], count: usize) -> Vec<usize> {
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

impl fmt::Display for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uniform => "uniform",
            Self::Disagreement => "disagreement",
            Self::Entropy => "entropy",
            Self::KCenter => "k-center",
            Self::KCenterDisagreement => "k-center-disagreement",
            Self::KCenterEntropy => "k-center-entropy",
            Self::Mixture => "mixture",
        })
    }
}

impl FromStr for Sampler {
    type Err = SamplerError;

    fn from_str(text: &str) -> Result<Self, SamplerError> {
        let found = Self::ALL.into_iter().find(|sampler| sampler.to_string() == text);
        found.ok_or_else(|| SamplerError { given: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::{Sampler, disagreement, entropy, select};
    use crate::random::stream;

    /// Two members, five candidates: (.5,.5) (.1,.9) (.2,.4) (.99,.99) (.5,.6)
    const PROBABILITIES: [f64; 10] = [0.5, 0.1, 0.2, 0.99, 0.5, 0.5, 0.9, 0.4, 0.99, 0.6];

    fn chosen(sampler: Sampler, count: usize) -> Vec<usize> {
        let positions: Vec<Vec<f32>> = [0.0, 1.0, 5.0, 5.1, 9.0].iter().map(|&x| vec![x]).collect();
        select(&sampler, count, &PROBABILITIES, 2, &positions, &[vec![0.2]], &mut stream(0, "test", 0))
    }

    #[test]
    fn scores_agree_with_hand_computed_ones() {
        let expected = [0.0, 0.16, 0.01, 0.0, 0.0025];
        assert!(disagreement(&PROBABILITIES, 2).iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-15));
        let h = |p: f64| -p * p.ln() - (1.0 - p) * (1.0 - p).ln();
        let entropy = entropy(&PROBABILITIES, 2);
        assert!((entropy[0] - 2.0_f64.ln()).abs() < 1e-15);
        assert!((entropy[2] - 0.5 * (h(0.2) + h(0.4))).abs() < 1e-15);
    }

    #[test]
    fn every_sampler_chooses_by_its_own_rule() {
        assert_eq!(chosen(Sampler::Disagreement, 2), [1, 2]);
        assert_eq!(chosen(Sampler::Entropy, 2), [0, 4]);
        assert_eq!(chosen(Sampler::KCenter, 3), [4, 2, 1]);
        // Among the half (2 of 5, at least as many as asked for) with the highest score.
        assert_eq!(chosen(Sampler::KCenterDisagreement, 2), [2, 1]);
        assert_eq!(chosen(Sampler::KCenterEntropy, 2), [4, 0]);
        let mixed = chosen(Sampler::Mixture, 4);
        assert_eq!(mixed[..2], [1, 2]);
        for sampler in Sampler::ALL {
            let mut all = chosen(sampler, 9);
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2, 3, 4], "{sampler}");
            assert_eq!(sampler.to_string().parse(), Ok(sampler));
        }
    }
}
