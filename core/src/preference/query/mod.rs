//! Which pairs to ask about (Christiano et al. 2017, §2.2.4; B-Pref's samplers). A sampler is a function in
//! a file here, and a line of [`SAMPLERS`].

mod candidates;
mod k_center;
mod score;
mod uniform;

use crate::table::{Line, Table};

pub use candidates::{Candidates, Choose, Reads, Sampler, disagreement, entropy};
pub use score::{DISAGREEMENT, ENTROPY};
pub use uniform::{UNIFORM, select_uniform};

/// All samplers.
pub const SAMPLERS: &[&Line<Sampler>] = &[
    &UNIFORM,
    &DISAGREEMENT,
    &ENTROPY,
    &k_center::K_CENTER,
    &k_center::K_CENTER_DISAGREEMENT,
    &k_center::K_CENTER_ENTROPY,
    &score::MIXTURE,
];

impl Table for Sampler {
    const KIND: &'static str = "sampler";
    const LINES: &'static [&'static Line<Self>] = SAMPLERS;
}

#[cfg(test)]
mod tests {
    use super::{Candidates, Reads, SAMPLERS, Sampler, disagreement, entropy};
    use crate::random::stream;
    use crate::table::find;

    /// Two members, five candidates: (.5,.5) (.1,.9) (.2,.4) (.99,.99) (.5,.6)
    const PROBABILITIES: [f64; 10] = [0.5, 0.1, 0.2, 0.99, 0.5, 0.5, 0.9, 0.4, 0.99, 0.6];

    /// Only what the sampler says that it reads is there.
    fn chosen(sampler: &Sampler, count: usize) -> Vec<usize> {
        let places = |all: &[f32]| match sampler.reads.contains(&Reads::Positions) {
            true => all.iter().map(|&x| vec![x]).collect(),
            false => Vec::new(),
        };
        let (positions, labelled) = (places(&[0.0, 1.0, 5.0, 5.1, 9.0]), places(&[0.2]));
        let candidates =
            Candidates { probabilities: &PROBABILITIES, members: 2, positions: &positions, labelled: &labelled };
        sampler.select(count, &candidates, &mut stream(0, "test", 0))
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
        let by = |name: &str, count: usize| chosen(find(name).unwrap(), count);
        assert_eq!(by("disagreement", 2), [1, 2]);
        assert_eq!(by("entropy", 2), [0, 4]);
        assert_eq!(by("k-center", 3), [4, 2, 1]);
        // Among the half (2 of 5, at least as many as asked for) with the highest score.
        assert_eq!(by("k-center-disagreement", 2), [2, 1]);
        assert_eq!(by("k-center-entropy", 2), [4, 0]);
        assert_eq!(by("mixture", 4)[..2], [1, 2]);
        for sampler in SAMPLERS {
            let mut all = chosen(sampler, 9);
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2, 3, 4], "{}", sampler.name);
        }
    }
}
