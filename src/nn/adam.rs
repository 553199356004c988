//! Adam with decoupled weight decay, over all parameters of a step at once, with clipping by the global norm.

use burn::tensor::{Gradients, Tensor};
use serde::{Deserialize, Serialize};

use super::fused;

/// Hyper-parameters of Adam (Kingma & Ba 2015, arXiv 1412.6980).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamConfig {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
}

/// Adam's state. Moments are in the order in which the parameters are given to [`Adam::step`].
#[derive(Debug, Clone)]
pub struct Adam {
    /// Hyper-parameters.
    pub config: AdamConfig,
    /// Steps taken.
    pub steps: u64,
    /// First moments, one a parameter; empty before the first step.
    pub first: Vec<Tensor<2>>,
    /// Second moments, likewise.
    pub second: Vec<Tensor<2>>,
}

/// What a step saw.
#[derive(Debug, Clone)]
pub struct StepInfo {
    /// Square of the global L2 norm of the gradients before clipping, left on the device: `[1]`.
    pub gradient_squares: Tensor<1>,
}

impl Default for AdamConfig {
    /// PyTorch's values, but ε = 1e-5 as in the PPO code base.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-5 }
    }
}

impl Adam {
    /// A fresh optimiser.
    #[must_use]
    pub fn new(config: AdamConfig) -> Self {
        Self { config, steps: 0, first: Vec::new(), second: Vec::new() }
    }

    /// One step of Adam on `parameters`, with `gradients` first scaled so that their global norm over *all*
    /// parameters is at most `max_norm` (PyTorch's `clip_grad_norm_`).
    ///
    /// A parameter without a gradient is treated as having a zero one.
    pub fn step(
        &mut self,
        parameters: &mut [&mut Tensor<2>],
        gradients: &mut Gradients,
        learning_rate: f64,
        max_norm: Option<f32>,
    ) -> StepInfo {
        if self.first.is_empty() {
            self.first = parameters.iter().map(|p| (**p).clone().inner().zeros_like()).collect();
            self.second.clone_from(&self.first);
        }
        assert_eq!(self.first.len(), parameters.len(), "an optimiser belongs to one list of parameters");
        let gradients: Vec<Tensor<2>> = parameters
            .iter()
            .map(|p| p.grad_remove(gradients).unwrap_or_else(|| (**p).clone().inner().zeros_like()))
            .collect();
        let device = gradients.first().expect("a network has parameters").device();
        let zero: Tensor<1> = super::constant(&[0.0], [1], &device);
        let squares = gradients.iter().fold(zero, |sum, gradient| fused::add_squares(gradient.clone(), sum));
        self.steps += 1;
        let step = fused::AdamStep { config: self.config, learning_rate, number: self.steps, max_norm };
        let firsts = std::mem::take(&mut self.first);
        let seconds = std::mem::take(&mut self.second);
        for ((parameter, gradient), (first, second)) in
            parameters.iter_mut().zip(gradients).zip(firsts.into_iter().zip(seconds))
        {
            // Taken out rather than cloned: a tensor with one owner is updated in place.
            let value = std::mem::replace(*parameter, squares.clone().unsqueeze()).inner();
            let [value, first, second] = fused::adam([value, gradient, first, second], squares.clone(), step);
            **parameter = value.autodiff().require_grad();
            self.first.push(first);
            self.second.push(second);
        }
        StepInfo { gradient_squares: squares }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::{Adam, AdamConfig};
    use crate::nn::{parameter, to_host};

    /// torch.optim.Adam(lr=0.1, eps=1e-5) with clip_grad_norm_(1.0) on f(a, b) = Σ a³ + Σ (b − 1)², three steps, in
    /// PyTorch 2.15 (float32).
    #[test]
    fn three_clipped_steps_agree_with_pytorch() {
        let device = Device::flex();
        let mut a = parameter(vec![1.0, -2.0], [1, 2], &device);
        let mut b = parameter(vec![0.5], [1, 1], &device);
        let mut adam = Adam::new(AdamConfig::default());
        let mut norms = Vec::new();
        for _ in 0..3 {
            let loss = a.clone().powi_scalar(3).sum() + (b.clone() - 1.0).powi_scalar(2).sum();
            let mut gradients = loss.backward();
            let info = adam.step(&mut [&mut a, &mut b], &mut gradients, 0.1, Some(1.0));
            norms.extend(to_host(info.gradient_squares.sqrt()));
        }
        let close = |found: &[f32], expected: &[f32]| {
            assert_eq!(found.len(), expected.len());
            for (f, e) in found.iter().zip(expected) {
                assert!((f - e).abs() < 2e-6, "{found:?} {expected:?}");
            }
        };
        close(&to_host(a), EXPECTED_A);
        close(&to_host(b), EXPECTED_B);
        close(&norms, EXPECTED_NORMS);
    }

    const EXPECTED_A: &[f32] = &[0.706_674_46, -2.300_111_5];
    const EXPECTED_B: &[f32] = &[0.792_485_83];
    const EXPECTED_NORMS: &[f32] = &[12.409_674, 13.475_073, 14.660_424];
}
