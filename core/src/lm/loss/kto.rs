//! KTO (Ethayarajh et al. 2024, arXiv 2402.01306): a loss of single completions, good or bad, instead of pairs.

use serde::{Deserialize, Serialize};

use crate::preference::likelihood::sigmoid;
use crate::range::OutOfRange;

/// Hyper-parameters of KTO.
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
    pub fn validate(&self) -> Result<(), OutOfRange> {
        let check = OutOfRange::check;
        let fine = |number: f64, least: f64| (least..=1e6).contains(&number);
        check("beta", self.beta, fine(self.beta, 1e-9), "between 1e-9 and 1e6")?;
        for (field, weight) in
            [("desirable_weight", self.desirable_weight), ("undesirable_weight", self.undesirable_weight)]
        {
            check(field, weight, fine(weight, 0.0), "between 0 and 1e6")?;
        }
        Ok(())
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
