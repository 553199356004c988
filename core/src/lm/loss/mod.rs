//! Losses of preference learning without a reward model: DPO and its family. A loss is a function in a file here, and a
//! line of [`LOSSES`].
//!
//! It is a function of a pair's log-probabilities, on the host and in f64; its slopes are what the two log-probabilities
//! are pulled with. One name, one formula: where programs disagree under one name, both formulas are here under their own.
//!
//! Notation: `c`, `r` are log π(chosen | x), log π(rejected | x), summed over the completion's tokens with its EOS;
//! u_c = c − log π_ref(chosen | x), u_r likewise; Δ = u_c − u_r; |c|, |r| are lengths in tokens; z = βΔ.

mod definition;
mod difference;
mod kto;
mod means;
mod sides;

use crate::table::{Line, Table};

pub(super) use definition::BRADLEY_TERRY;
pub use definition::{Loss, LossConfig, PairLogProbs, Point, Smoothing, Value};
pub use difference::{IPO_SUM, SIGMOID};
pub use kto::KtoConfig;

/// All losses.
pub const LOSSES: &[&Line<Loss>] = &[
    &SIGMOID,
    &difference::ROBUST,
    &means::IPO,
    &IPO_SUM,
    &difference::HINGE,
    &difference::EXO,
    &sides::NCA,
    &sides::BCO,
    &sides::SPPO,
    &sides::APO_ZERO,
    &sides::APO_DOWN,
    &difference::DISCOPOP,
    &means::SIGMOID_NORM,
    &means::SIMPO,
    &means::ORPO,
];

impl Table for Loss {
    const KIND: &'static str = "loss";
    const LINES: &'static [&'static Line<Self>] = LOSSES;
}

impl Default for LossConfig {
    /// DPO with TRL's β; the papers' values for the others.
    fn default() -> Self {
        Self {
            kind: &SIGMOID,
            beta: 0.1,
            label_smoothing: 0.0,
            reference_free: false,
            simpo_gamma: 0.5,
            orpo_lambda: 0.1,
            discopop_tau: 0.05,
        }
    }
}

#[cfg(test)]
mod tests {

    use super::{KtoConfig, LOSSES, Loss, LossConfig, PairLogProbs, Smoothing};
    use crate::table::{Line, find};

    fn config(kind: &'static Line<Loss>) -> LossConfig {
        let smoothing = if kind.smoothing == Smoothing::None { 0.0 } else { 0.1 };
        LossConfig { kind, label_smoothing: smoothing, beta: 0.3, ..LossConfig::default() }
    }

    /// Policy's and reference's log-probabilities and lengths, each of chosen and rejected.
    const fn pair(of_policy: [f64; 2], of_reference: [f64; 2], lengths: [f64; 2]) -> PairLogProbs {
        let ([chosen, rejected], [reference_chosen, reference_rejected]) = (of_policy, of_reference);
        let [chosen_length, rejected_length] = lengths;
        PairLogProbs { chosen, rejected, reference_chosen, reference_rejected, chosen_length, rejected_length }
    }

    const PAIRS: [PairLogProbs; 4] = [
        pair([-12.5, -14.0], [-13.0, -13.5], [6.0, 8.0]),
        pair([-40.25, -38.0], [-41.0, -39.5], [20.0, 17.0]),
        pair([-7.0, -7.0], [-6.5, -7.5], [3.0, 4.0]),
        pair([-101.0, -99.5], [-100.0, -101.0], [48.0, 52.0]),
    ];

    #[test]
    fn slopes_are_those_of_the_losses() {
        for kind in LOSSES {
            let config = config(kind);
            config.validate().unwrap();
            for pair in PAIRS {
                let found = config.value(&pair);
                let h = 1e-5;
                let at = |chosen: f64, rejected: f64| {
                    config.value(&PairLogProbs {
                        chosen: pair.chosen + chosen,
                        rejected: pair.rejected + rejected,
                        ..pair
                    })
                };
                let of_chosen = (at(h, 0.0).loss - at(-h, 0.0).loss) / (2.0 * h);
                let of_rejected = (at(0.0, h).loss - at(0.0, -h).loss) / (2.0 * h);
                for (found, expected) in [(found.of_chosen, of_chosen), (found.of_rejected, of_rejected)] {
                    assert!(
                        (found - expected).abs() < 1e-6 * (1.0 + expected.abs()),
                        "{}: {found}, {expected}",
                        kind.name
                    );
                }
            }
        }
        for desirable in [false, true] {
            let config = KtoConfig { beta: 0.4, desirable_weight: 1.3, undesirable_weight: 0.7 };
            let loss = |ratio: f64| config.value(ratio, desirable, 0.2).0;
            let expected = (loss(1.0 + 1e-5) - loss(1.0 - 1e-5)) / 2e-5;
            assert!((config.value(1.0, desirable, 0.2).1 - expected).abs() < 1e-9);
        }
        assert_eq!(KtoConfig::baseline(&[-3.0, 1.0]), 0.0);
        assert_eq!(KtoConfig::baseline(&[3.0, 1.0]), 2.0);
    }

    /// Expected values: `golden/losses_merge_hv.json`, computed from the published formulas in float64.
    #[test]
    fn losses_are_those_of_the_formulas() {
        let text = std::fs::read_to_string(crate::fixtures::own("golden/losses_merge_hv.json")).unwrap();
        let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
        let plain = LossConfig::default();
        let of = |kind: &str, label_smoothing: f64| LossConfig { kind: find(kind).unwrap(), label_smoothing, ..plain };
        for (name, config) in [
            ("dpo_sigmoid", of("sigmoid", 0.0)),
            ("reference_free", LossConfig { reference_free: true, ..plain }),
            ("cdpo_eps0.1", of("sigmoid", 0.1)),
            ("robust_eps0.1", of("robust", 0.1)),
            ("hinge", of("hinge", 0.0)),
            ("ipo_sum", of("ipo-sum", 0.0)),
            ("ipo_mean(TRL)", of("ipo", 0.0)),
            ("sigmoid_norm(TRL)", of("sigmoid-norm", 0.0)),
            ("exo_pair_eps0.1", of("exo", 0.1)),
            ("nca_pair", of("nca", 0.0)),
            ("bco_pair_no_delta", of("bco", 0.0)),
            ("sppo_hard", of("sppo", 0.0)),
            ("apo_zero", of("apo-zero", 0.0)),
            ("apo_down", of("apo-down", 0.0)),
            ("discopop_tau0.05", of("discopop", 0.0)),
            ("simpo_b2.0_g0.5", LossConfig { beta: 2.0, simpo_gamma: 0.5, ..of("simpo", 0.0) }),
            ("orpo_lambda0.1", of("orpo", 0.0)),
        ] {
            for (pair, expected) in PAIRS.iter().zip(golden["losses"][name].as_array().unwrap()) {
                let (found, expected) = (config.value(pair).loss, expected.as_f64().unwrap());
                assert!((found - expected).abs() < 1e-9 * (1.0 + expected.abs()), "{name}: {found}, {expected}");
            }
        }
    }

    #[test]
    fn a_soft_label_is_a_flipped_share() {
        let soft = LossConfig { beta: 0.3, ..LossConfig::default() };
        let smoothed = LossConfig { label_smoothing: 0.2, ..soft };
        for pair in PAIRS {
            let (found, expected) = (soft.expected(&pair, 0.8), smoothed.value(&pair));
            for (f, e) in [
                (found.loss, expected.loss),
                (found.of_chosen, expected.of_chosen),
                (found.of_rejected, expected.of_rejected),
            ] {
                assert!((f - e).abs() < 1e-12, "{found:?} {expected:?}");
            }
            assert_eq!(soft.expected(&pair, 1.0), soft.value(&pair));
        }
    }

    /// SimPO and ORPO by hand on the first pair: means −12.5/6 and −14/8.
    #[test]
    fn losses_without_a_reference_are_those_of_the_papers() {
        let simpo = LossConfig { kind: find("simpo").unwrap(), beta: 2.0, simpo_gamma: 0.5, ..LossConfig::default() };
        // −ln σ(2·(−2.083333 + 1.75) − 0.5) = ln(1 + e^1.1666667)
        assert!((simpo.value(&PAIRS[0]).loss - 1.437_764_4).abs() < 1e-6);
        let orpo = LossConfig { kind: find("orpo").unwrap(), orpo_lambda: 0.25, ..LossConfig::default() };
        let odds = |mean: f64| mean.exp() / (1.0 - mean.exp());
        let (c, r) = (-12.5 / 6.0, -14.0 / 8.0);
        let ratio: f64 = odds(c) / odds(r);
        let expected = -c - 0.25 * (ratio / (1.0 + ratio)).ln();
        assert!((orpo.value(&PAIRS[0]).loss - expected).abs() < 1e-12);
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        let error = |config: LossConfig| config.validate().unwrap_err().to_string();
        assert_eq!(error(LossConfig { beta: 0.0, ..LossConfig::default() }), "beta = 0: must be between 1e-9 and 1e6");
        assert!(
            error(LossConfig { kind: find("exo").unwrap(), ..LossConfig::default() }).contains("label_smoothing = 0")
        );
        assert!(find::<Loss>("dpo").unwrap_err().to_string().contains("there are sigmoid, robust, ipo"));
    }
}
