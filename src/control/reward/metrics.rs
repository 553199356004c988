//! How far a learned reward is from the true one: correlations.

use serde::{Deserialize, Serialize};

use crate::preference::{pearson, spearman};

/// Correlations between learned and true reward, step by step.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct RewardMetrics {
    /// Pearson's correlation; `None` when one of them is constant.
    pub pearson: Option<f64>,
    /// Spearman's rank correlation; `None` when one of them is constant.
    pub spearman: Option<f64>,
}

/// Correlations of two rewards over the same transitions.
///
/// # Shapes
/// - `predicted`, `truth`: `[n]`
#[must_use]
pub fn correlations(predicted: &[f64], truth: &[f64]) -> RewardMetrics {
    RewardMetrics { pearson: pearson(predicted, truth), spearman: spearman(predicted, truth) }
}
