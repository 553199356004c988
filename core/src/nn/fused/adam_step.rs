//! The numbers of a step of Adam.

use serde::{Deserialize, Serialize};

/// Hyper-parameters of Adam (Kingma & Ba 2015, arXiv 1412.6980) with decoupled weight decay (AdamW, Loshchilov &
/// Hutter 2019, arXiv 1711.05101).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamConfig {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Share of each parameter that a step takes away, times the learning rate, as in PyTorch's AdamW; 0 is Adam.
    pub weight_decay: f32,
}

/// Numbers of one step of Adam.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamStep {
    /// Hyper-parameters.
    pub config: AdamConfig,
    /// Learning rate α.
    pub learning_rate: f64,
    /// Which step it is, from 1: t.
    pub number: u64,
    /// The norm that gradients are scaled down to, as PyTorch's `clip_grad_norm_` does.
    pub max_norm: Option<f32>,
}

/// `torch.nn.utils.clip_grad_norm_` divides by the norm plus this.
pub(super) const CLIP_EPSILON: f32 = 1e-6;

impl Default for AdamConfig {
    /// PyTorch's values for Adam, but ε = 1e-5 as in the PPO code base.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-5, weight_decay: 0.0 }
    }
}

impl AdamStep {
    /// What gradients with this sum of squares are multiplied with.
    pub(super) fn scale(&self, squares: f32) -> f32 {
        self.max_norm.map_or(1.0, |max| (max / (squares.sqrt() + CLIP_EPSILON)).min(1.0))
    }

    /// What is left of a parameter after its weight decay: 1 − α·λ.
    pub(super) fn kept(&self) -> f32 {
        (1.0 - self.learning_rate * f64::from(self.config.weight_decay)) as f32
    }

    /// α / (1 − β₁ᵗ) and 1 / (1 − β₂ᵗ).
    pub(super) fn corrected(&self) -> (f32, f32) {
        let exponent = i32::try_from(self.number).unwrap_or(i32::MAX);
        let correction = |beta: f32| 1.0 - f64::from(beta).powi(exponent);
        let step_size = self.learning_rate / correction(self.config.beta1);
        (step_size as f32, correction(self.config.beta2).recip() as f32)
    }
}
