//! Losses of preference learning without a reward model: DPO and its family.
//!
//! A loss is a function of a pair's log-probabilities, on the host and in f64; its slopes are what the two
//! log-probabilities are pulled with. One name, one formula: where programs disagree under one name, both formulas are
//! here under their own.
//!
//! Notation: `c`, `r` are log π(chosen | x), log π(rejected | x), summed over the completion's tokens with its EOS;
//! u_c = c − log π_ref(chosen | x), u_r likewise; Δ = u_c − u_r; |c|, |r| are lengths in tokens; z = βΔ.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::preference::Likelihood;
use crate::preference::likelihood::{log_sigmoid, sigmoid};

/// Which loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossKind {
    /// DPO (Rafailov et al. 2023, arXiv 2305.18290, eq. 7): −ln σ(z). With label smoothing ε conservative DPO
    /// (Mitchell 2023): −(1 − ε) ln σ(z) − ε ln σ(−z).
    Sigmoid,
    /// Robust DPO (Chowdhury et al. 2024, arXiv 2403.00409): [−(1 − ε) ln σ(z) + ε ln σ(−z)] / (1 − 2ε). Unbiased when
    /// a share ε of the labels is flipped, but unbounded below.
    Robust,
    /// IPO (Azar et al. 2023, arXiv 2310.12036, eq. 17) with each log-ratio divided by its length, as in TRL:
    /// (u_c/|c| − u_r/|r| − 1/(2β))².
    Ipo,
    /// IPO with summed log-ratios, as in DPO's reference code: (Δ − 1/(2β))².
    IpoSum,
    /// SLiC's (Zhao et al. 2023, arXiv 2305.10425): max(0, 1 − z).
    Hinge,
    /// EXO (Ji et al. 2024, arXiv 2402.00856, eq. 16): the reverse Kullback-Leibler divergence of (σ(z), σ(−z)) from
    /// (1 − ε, ε). Needs label smoothing.
    Exo,
    /// NCA (Chen et al. 2024, arXiv 2402.05369): −ln σ(βu_c) − ½ ln σ(−βu_c) − ½ ln σ(−βu_r).
    Nca,
    /// BCO (Jung et al. 2024, arXiv 2404.04656) with its shift δ = 0, as TRL's `bco_pair`: −ln σ(βu_c) − ln σ(−βu_r).
    Bco,
    /// SPPO with hard labels (Wu et al. 2024, arXiv 2405.00675): (u_c − 1/(2β))² + (u_r + 1/(2β))².
    Sppo,
    /// APO-zero (D'Oosterlinck et al. 2024, arXiv 2408.06266, eq. 7): 1 − σ(βu_c) + σ(βu_r).
    ApoZero,
    /// APO-down (same, eq. 8): σ(βu_c) + 1 − σ(z).
    ApoDown,
    /// DiscoPOP (Lu et al. 2024, arXiv 2406.08414, eq. 5): (1 − m)·(−ln σ(z)) + m·e^(−z), m = σ(z/τ).
    Discopop,
    /// DPO with length-normalised log-ratios (Lambert et al. 2024, arXiv 2411.15124, eq. 6).
    SigmoidNorm,
    /// SimPO (Meng et al. 2024, arXiv 2405.14734, eq. 6): −ln σ(β(c/|c| − r/|r|) − γ); no reference.
    Simpo,
    /// ORPO (Hong et al. 2024, arXiv 2403.07691, eq. 6): −c/|c| − λ ln σ(ln odds(c) − ln odds(r)), where a completion's
    /// odds are those of its tokens' geometric mean. No reference. The first term is over the completion alone.
    Orpo,
}

/// A loss and its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossConfig {
    /// Which.
    pub kind: LossKind,
    /// β: strength of the pull to the reference policy; IPO's τ.
    pub beta: f64,
    /// ε: share of labels taken to be flipped.
    pub label_smoothing: f64,
    /// Takes a reference that finds all completions equally likely (u = log π).
    pub reference_free: bool,
    /// SimPO's target margin γ.
    pub simpo_gamma: f64,
    /// ORPO's λ.
    pub orpo_lambda: f64,
    /// DiscoPOP's temperature τ.
    pub discopop_tau: f64,
}

/// Log-probabilities of a pair, nats, and lengths, tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairLogProbs {
    /// log π(chosen | x)
    pub chosen: f64,
    /// log π(rejected | x)
    pub rejected: f64,
    /// log π_ref(chosen | x)
    pub reference_chosen: f64,
    /// log π_ref(rejected | x)
    pub reference_rejected: f64,
    /// Tokens of the chosen completion, with its EOS.
    pub chosen_length: f64,
    /// Tokens of the rejected one.
    pub rejected_length: f64,
}

/// A loss at a point.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Value {
    /// The loss.
    pub loss: f64,
    /// d loss / d log π(chosen | x)
    pub of_chosen: f64,
    /// d loss / d log π(rejected | x)
    pub of_rejected: f64,
}

impl PairLogProbs {
    /// The same pair with the other one preferred.
    #[must_use]
    pub fn swapped(&self) -> Self {
        Self {
            chosen: self.rejected,
            rejected: self.chosen,
            reference_chosen: self.reference_rejected,
            reference_rejected: self.reference_chosen,
            chosen_length: self.rejected_length,
            rejected_length: self.chosen_length,
        }
    }

    /// u = log π − log π_ref of the two completions.
    #[must_use]
    pub fn log_ratios(&self) -> [f64; 2] {
        [self.chosen - self.reference_chosen, self.rejected - self.reference_rejected]
    }
}

impl Value {
    /// The mean of this, with probability `target`, and of the loss of the swapped pair.
    #[must_use]
    pub fn mixed(&self, swapped: &Self, target: f64) -> Self {
        let mix = |one: f64, other: f64| target * one + (1.0 - target) * other;
        Self {
            loss: mix(self.loss, swapped.loss),
            of_chosen: mix(self.of_chosen, swapped.of_rejected),
            of_rejected: mix(self.of_rejected, swapped.of_chosen),
        }
    }
}

/// Numbers that a loss cannot be used with.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{field} = {found}: must be {expected}")]
pub struct LossError {
    field: &'static str,
    found: f64,
    expected: &'static str,
}

/// Not a loss.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown loss '{name}': use {}", names())]
pub struct UnknownLoss {
    name: String,
}

impl LossKind {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Sigmoid,
        Self::Robust,
        Self::Ipo,
        Self::IpoSum,
        Self::Hinge,
        Self::Exo,
        Self::Nca,
        Self::Bco,
        Self::Sppo,
        Self::ApoZero,
        Self::ApoDown,
        Self::Discopop,
        Self::SigmoidNorm,
        Self::Simpo,
        Self::Orpo,
    ];

    /// Whether it compares with a reference policy.
    #[must_use]
    pub fn has_reference(self) -> bool {
        !matches!(self, Self::Simpo | Self::Orpo)
    }
}

impl fmt::Display for LossKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sigmoid => "sigmoid",
            Self::Robust => "robust",
            Self::Ipo => "ipo",
            Self::IpoSum => "ipo-sum",
            Self::Hinge => "hinge",
            Self::Exo => "exo",
            Self::Nca => "nca",
            Self::Bco => "bco",
            Self::Sppo => "sppo",
            Self::ApoZero => "apo-zero",
            Self::ApoDown => "apo-down",
            Self::Discopop => "discopop",
            Self::SigmoidNorm => "sigmoid-norm",
            Self::Simpo => "simpo",
            Self::Orpo => "orpo",
        })
    }
}

impl FromStr for LossKind {
    type Err = UnknownLoss;

    fn from_str(text: &str) -> Result<Self, UnknownLoss> {
        let found = Self::ALL.into_iter().find(|kind| kind.to_string() == text);
        found.ok_or_else(|| UnknownLoss { name: text.to_owned() })
    }
}

fn names() -> String {
    LossKind::ALL.map(|kind| kind.to_string()).join(", ")
}

impl Default for LossConfig {
    /// DPO with TRL's β; the papers' values for the others.
    fn default() -> Self {
        Self {
            kind: LossKind::Sigmoid,
            beta: 0.1,
            label_smoothing: 0.0,
            reference_free: false,
            simpo_gamma: 0.5,
            orpo_lambda: 0.1,
            discopop_tau: 0.05,
        }
    }
}

impl LossConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// Naming the first one out of range.
    pub fn validate(&self) -> Result<(), LossError> {
        let check = |field, found: f64, fine: bool, expected| match fine && found.is_finite() {
            true => Ok(()),
            false => Err(LossError { field, found, expected }),
        };
        // The losses have terms of 1/β and of β²: beyond these bounds their slopes leave single precision.
        check("beta", self.beta, (1e-9..=1e6).contains(&self.beta), "between 1e-9 and 1e6")?;
        let smoothing = self.label_smoothing;
        match self.kind {
            LossKind::Exo => {
                let fine = smoothing > 0.0 && smoothing < 0.5;
                check("label_smoothing", smoothing, fine, "above 0 and below 0.5 for exo")?;
            }
            LossKind::Sigmoid | LossKind::Robust => {
                check("label_smoothing", smoothing, (0.0..0.5).contains(&smoothing), "at least 0 and below 0.5")?;
            }
            _ => check("label_smoothing", smoothing, smoothing == 0.0, "0 for this loss, which has none")?,
        }
        let tau = self.discopop_tau;
        check("discopop_tau", tau, (1e-9..=1e9).contains(&tau), "between 1e-9 and 1e9")?;
        let lambda = self.orpo_lambda;
        check("orpo_lambda", lambda, (0.0..=1e9).contains(&lambda), "between 0 and 1e9")?;
        let gamma = self.simpo_gamma;
        check("simpo_gamma", gamma, (-1e9..=1e9).contains(&gamma), "between -1e9 and 1e9")
    }

    /// The loss of a pair.
    #[must_use]
    pub fn value(&self, pair: &PairLogProbs) -> Value {
        let beta = self.beta;
        let [chosen, rejected] = self.log_ratios(pair);
        let (z, of_chosen, of_rejected) = (beta * (chosen - rejected), beta * chosen, beta * rejected);
        // Slopes with respect to z, and to the implicit rewards βu.
        let along = |loss: f64, slope: f64| Value { loss, of_chosen: beta * slope, of_rejected: -beta * slope };
        let apart = |loss: f64, of_chosen: f64, of_rejected: f64| Value {
            loss,
            of_chosen: beta * of_chosen,
            of_rejected: beta * of_rejected,
        };
        // The same for z′ = (…)/|c| − (…)/|r|.
        let normalised = |loss: f64, slope: f64| Value {
            loss,
            of_chosen: slope / pair.chosen_length,
            of_rejected: -slope / pair.rejected_length,
        };
        let per_token = chosen / pair.chosen_length - rejected / pair.rejected_length;
        let steepness = |x: f64| sigmoid(x) * sigmoid(-x);
        let smoothing = self.label_smoothing;
        match self.kind {
            LossKind::Sigmoid => along(BRADLEY_TERRY.loss(z, 1.0 - smoothing), BRADLEY_TERRY.slope(z, 1.0 - smoothing)),
            LossKind::Robust => {
                let loss = smoothing * log_sigmoid(-z) - (1.0 - smoothing) * log_sigmoid(z);
                let slope = -(1.0 - smoothing) * sigmoid(-z) - smoothing * sigmoid(z);
                along(loss / (1.0 - 2.0 * smoothing), slope / (1.0 - 2.0 * smoothing))
            }
            LossKind::Ipo => {
                let error = per_token - 1.0 / (2.0 * beta);
                normalised(error * error, 2.0 * error)
            }
            LossKind::IpoSum => {
                let error = chosen - rejected - 1.0 / (2.0 * beta);
                Value { loss: error * error, of_chosen: 2.0 * error, of_rejected: -2.0 * error }
            }
            LossKind::Hinge => along((1.0 - z).max(0.0), if z < 1.0 { -1.0 } else { 0.0 }),
            LossKind::Exo => {
                let (likely, unlikely) = ((1.0 - smoothing).ln(), smoothing.ln());
                let loss = sigmoid(z) * (log_sigmoid(z) - likely) + sigmoid(-z) * (log_sigmoid(-z) - unlikely);
                along(loss, steepness(z) * (z - likely + unlikely))
            }
            LossKind::Nca => apart(
                -log_sigmoid(of_chosen) - 0.5 * log_sigmoid(-of_chosen) - 0.5 * log_sigmoid(-of_rejected),
                0.5 * sigmoid(of_chosen) - sigmoid(-of_chosen),
                0.5 * sigmoid(of_rejected),
            ),
            LossKind::Bco => {
                apart(-log_sigmoid(of_chosen) - log_sigmoid(-of_rejected), -sigmoid(-of_chosen), sigmoid(of_rejected))
            }
            LossKind::Sppo => {
                let errors = [chosen - 1.0 / (2.0 * beta), rejected + 1.0 / (2.0 * beta)];
                let loss = errors[0] * errors[0] + errors[1] * errors[1];
                Value { loss, of_chosen: 2.0 * errors[0], of_rejected: 2.0 * errors[1] }
            }
            LossKind::ApoZero => {
                let loss = sigmoid(-of_chosen) + sigmoid(of_rejected);
                apart(loss, -steepness(of_chosen), steepness(of_rejected))
            }
            LossKind::ApoDown => {
                let loss = sigmoid(of_chosen) + sigmoid(-z);
                apart(loss, steepness(of_chosen) - steepness(z), steepness(z))
            }
            LossKind::Discopop => {
                let mix = sigmoid(z / self.discopop_tau);
                let mix_slope = steepness(z / self.discopop_tau) / self.discopop_tau;
                let exponential = (-z).exp();
                let loss = -log_sigmoid(z) * (1.0 - mix) + exponential * mix;
                let slope = -sigmoid(-z) * (1.0 - mix) - exponential * mix + (exponential + log_sigmoid(z)) * mix_slope;
                along(loss, slope)
            }
            LossKind::SigmoidNorm => normalised(-log_sigmoid(beta * per_token), -beta * sigmoid(-beta * per_token)),
            LossKind::Simpo => {
                let x = beta * per_token - self.simpo_gamma;
                normalised(-log_sigmoid(x), -beta * sigmoid(-x))
            }
            LossKind::Orpo => {
                // ln odds(m) = m − ln(1 − eᵐ) of a mean log-probability m < 0; its slope is 1 / (1 − eᵐ).
                let (c, r) = (chosen / pair.chosen_length, rejected / pair.rejected_length);
                let kept = |m: f64| -m.min(-1e-12).exp_m1();
                let x = (c - kept(c).ln()) - (r - kept(r).ln());
                let pull = self.orpo_lambda * sigmoid(-x);
                Value {
                    loss: -c - self.orpo_lambda * log_sigmoid(x),
                    of_chosen: (-1.0 - pull / kept(c)) / pair.chosen_length,
                    of_rejected: pull / kept(r) / pair.rejected_length,
                }
            }
        }
    }

    /// The loss of a pair of which the first completion is preferred with probability `target`: the mean over the two
    /// answers. A tie is ½.
    #[must_use]
    pub fn expected(&self, pair: &PairLogProbs, target: f64) -> Value {
        let value = self.value(pair);
        if target == 1.0 {
            return value;
        }
        let swapped = self.value(&pair.swapped());
        value.mixed(&swapped, target)
    }

    /// Implicit rewards β·u of the two completions (arXiv 2305.18290, eq. 5, up to a term of the prompt).
    #[must_use]
    pub fn rewards(&self, pair: &PairLogProbs) -> [f64; 2] {
        self.log_ratios(pair).map(|ratio| self.beta * ratio)
    }

    /// u of the two completions.
    fn log_ratios(&self, pair: &PairLogProbs) -> [f64; 2] {
        match self.reference_free || !self.kind.has_reference() {
            true => [pair.chosen, pair.rejected],
            false => pair.log_ratios(),
        }
    }
}

/// The likelihood of the shared core that DPO maximises: without errors, margins or ties.
pub(super) const BRADLEY_TERRY: Likelihood = Likelihood { temperature: 1.0, error_rate: 0.0, margin: 0.0, tie: 0.0 };

/// Hyper-parameters of KTO (Ethayarajh et al. 2024, arXiv 2402.01306).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KtoConfig {
    /// β: strength of the pull to the reference policy.
    pub beta: f64,
    /// λ_D: weight of desirable completions.
    pub desirable_weight: f64,
    /// λ_U: weight of undesirable ones.
    pub undesirable_weight: f64,
}

impl Default for KtoConfig {
    /// TRL's.
    fn default() -> Self {
        Self { beta: 0.1, desirable_weight: 1.0, undesirable_weight: 1.0 }
    }
}

impl KtoConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// Naming the first one out of range.
    pub fn validate(&self) -> Result<(), LossError> {
        let check = |field, found: f64, least: f64, expected| match (least..=1e6).contains(&found) {
            true => Ok(()),
            false => Err(LossError { field, found, expected }),
        };
        check("beta", self.beta, 1e-9, "between 1e-9 and 1e6")?;
        check("desirable_weight", self.desirable_weight, 0.0, "between 0 and 1e6")?;
        check("undesirable_weight", self.undesirable_weight, 0.0, "between 0 and 1e6")
    }

    /// The loss of one completion and its slope (eq. 8): λ_D (1 − σ(β(u − z₀))) or λ_U (1 − σ(β(z₀ − u))), where u is
    /// its log-ratio to the reference, and z₀ the batch's estimate of the divergence from it ([`KtoConfig::baseline`]).
    #[must_use]
    pub fn value(&self, log_ratio: f64, desirable: bool, baseline: f64) -> (f64, f64) {
        let (weight, sign) = if desirable { (self.desirable_weight, 1.0) } else { (self.undesirable_weight, -1.0) };
        let x = sign * self.beta * (log_ratio - baseline);
        (weight * sigmoid(-x), -weight * sign * self.beta * sigmoid(x) * sigmoid(-x))
    }

    /// z₀: the mean log-ratio of completions given prompts that are not theirs, at least 0.
    #[must_use]
    pub fn baseline(mismatched: &[f64]) -> f64 {
        (mismatched.iter().sum::<f64>() / mismatched.len().max(1) as f64).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{KtoConfig, LossConfig, LossKind, PairLogProbs};

    fn config(kind: LossKind) -> LossConfig {
        let smoothing = if matches!(kind, LossKind::Sigmoid | LossKind::Robust | LossKind::Exo) { 0.1 } else { 0.0 };
        LossConfig { kind, label_smoothing: smoothing, beta: 0.3, ..LossConfig::default() }
    }

    const PAIRS: [PairLogProbs; 4] = [
        PairLogProbs {
            chosen: -12.5,
            rejected: -14.0,
            reference_chosen: -13.0,
            reference_rejected: -13.5,
            chosen_length: 6.0,
            rejected_length: 8.0,
        },
        PairLogProbs {
            chosen: -40.25,
            rejected: -38.0,
            reference_chosen: -41.0,
            reference_rejected: -39.5,
            chosen_length: 20.0,
            rejected_length: 17.0,
        },
        PairLogProbs {
            chosen: -7.0,
            rejected: -7.0,
            reference_chosen: -6.5,
            reference_rejected: -7.5,
            chosen_length: 3.0,
            rejected_length: 4.0,
        },
        PairLogProbs {
            chosen: -101.0,
            rejected: -99.5,
            reference_chosen: -100.0,
            reference_rejected: -101.0,
            chosen_length: 48.0,
            rejected_length: 52.0,
        },
    ];

    #[test]
    fn slopes_are_those_of_the_losses() {
        for kind in LossKind::ALL {
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
                    assert!((found - expected).abs() < 1e-6 * (1.0 + expected.abs()), "{kind}: {found}, {expected}");
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
        let losses = golden["losses"].as_object().unwrap();
        let mut seen = 0;
        for (name, expected) in losses {
            let mut config = LossConfig::default();
            let (kind, smoothing) = match name.as_str() {
                "dpo_sigmoid" | "reference_free" => (LossKind::Sigmoid, 0.0),
                "cdpo_eps0.1" => (LossKind::Sigmoid, 0.1),
                "robust_eps0.1" => (LossKind::Robust, 0.1),
                "hinge" => (LossKind::Hinge, 0.0),
                "ipo_sum" => (LossKind::IpoSum, 0.0),
                "ipo_mean(TRL)" => (LossKind::Ipo, 0.0),
                "sigmoid_norm(TRL)" => (LossKind::SigmoidNorm, 0.0),
                "exo_pair_eps0.1" => (LossKind::Exo, 0.1),
                "nca_pair" => (LossKind::Nca, 0.0),
                "bco_pair_no_delta" => (LossKind::Bco, 0.0),
                "sppo_hard" => (LossKind::Sppo, 0.0),
                "apo_zero" => (LossKind::ApoZero, 0.0),
                "apo_down" => (LossKind::ApoDown, 0.0),
                "discopop_tau0.05" => (LossKind::Discopop, 0.0),
                "simpo_b2.0_g0.5" => {
                    (config.beta, config.simpo_gamma) = (2.0, 0.5);
                    (LossKind::Simpo, 0.0)
                }
                "orpo_lambda0.1" => (LossKind::Orpo, 0.0),
                other => {
                    println!("not compared: {other}");
                    continue;
                }
            };
            (config.kind, config.label_smoothing, config.reference_free) = (kind, smoothing, name == "reference_free");
            for (pair, expected) in PAIRS.iter().zip(expected.as_array().unwrap()) {
                let (found, expected) = (config.value(pair).loss, expected.as_f64().unwrap());
                assert!((found - expected).abs() < 1e-9 * (1.0 + expected.abs()), "{name}: {found}, {expected}");
            }
            seen += 1;
        }
        assert!(seen == 17, "{seen} losses compared");
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
        let simpo = LossConfig { kind: LossKind::Simpo, beta: 2.0, simpo_gamma: 0.5, ..LossConfig::default() };
        // −ln σ(2·(−2.083333 + 1.75) − 0.5) = ln(1 + e^1.1666667)
        assert!((simpo.value(&PAIRS[0]).loss - 1.437_764_4).abs() < 1e-6);
        let orpo = LossConfig { kind: LossKind::Orpo, orpo_lambda: 0.25, ..LossConfig::default() };
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
        assert!(error(LossConfig { kind: LossKind::Exo, ..LossConfig::default() }).contains("label_smoothing = 0"));
        assert!("dpo".parse::<LossKind>().unwrap_err().to_string().contains("sigmoid, robust, ipo"));
    }
}
