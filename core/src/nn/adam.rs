//! Adam and AdamW, over all parameters of a step at once, with clipping by the global norm.

use burn::tensor::{Gradients, Tensor};

use super::fused::{self, AdamConfig, AdamStep};
use super::tensors::constant;

/// Adam's state. Moments are in the order in which the parameters are given to [`Adam::step`].
#[derive(Debug, Clone)]
pub struct Adam {
    /// Hyper-parameters.
    pub config: AdamConfig,
    /// Steps taken.
    pub steps: u64,
    /// First moments, one a parameter; empty before the first step.
    pub first: Vec<Tensor<2>>,
    /// Second moments, one a parameter; empty before the first step.
    pub second: Vec<Tensor<2>>,
}

/// What a step reports.
#[derive(Debug, Clone)]
pub struct StepInfo {
    /// Square of the global L2 norm of the gradients before clipping, left on the device: `[1]`.
    pub gradient_squares: Tensor<1>,
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
        let zero: Tensor<1> = constant(&[0.0], [1], &device);
        let squares = gradients.iter().fold(zero, |sum, gradient| fused::add_squares(gradient.clone(), sum));
        self.steps += 1;
        let step = AdamStep { config: self.config, learning_rate, number: self.steps, max_norm };
        let firsts = std::mem::take(&mut self.first);
        let seconds = std::mem::take(&mut self.second);
        let placeholder: Tensor<2> = squares.clone().unsqueeze();
        for ((parameter, gradient), (first, second)) in
            parameters.iter_mut().zip(gradients).zip(firsts.into_iter().zip(seconds))
        {
            // Taken out rather than cloned: a tensor with one owner is updated in place.
            let value = std::mem::replace(*parameter, placeholder.clone()).inner();
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

    use super::Adam;
    use crate::nn::{AdamConfig, parameter, to_host};

    /// Three steps on f(a, b) = Σ a³ + Σ (b − 1)² with a learning rate of 0.1 and the global norm clipped to 1: a, b,
    /// and the norms.
    fn three_steps(config: AdamConfig) -> [Vec<f32>; 3] {
        let device = Device::flex();
        let mut a = parameter(vec![1.0, -2.0], [1, 2], &device);
        let mut b = parameter(vec![0.5], [1, 1], &device);
        let mut adam = Adam::new(config);
        let mut norms = Vec::new();
        for _ in 0..3 {
            let loss = a.clone().powi_scalar(3).sum() + (b.clone() - 1.0).powi_scalar(2).sum();
            let mut gradients = loss.backward();
            let info = adam.step(&mut [&mut a, &mut b], &mut gradients, 0.1, Some(1.0));
            norms.extend(to_host(info.gradient_squares.sqrt()));
        }
        [to_host(a), to_host(b), norms]
    }

    fn assert_close(found: &[Vec<f32>; 3], expected: [&[f32]; 3]) {
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!(found.len(), expected.len());
            for (f, e) in found.iter().zip(expected) {
                assert!((f - e).abs() < 2e-6, "{found:?} {expected:?}");
            }
        }
    }

    /// Expected values: torch.optim.Adam(eps=1e-5) with clip_grad_norm_(1.0) in PyTorch 2.15 (float32).
    #[test]
    fn three_clipped_steps_agree_with_pytorch() {
        let found = three_steps(AdamConfig::default());
        let norms = &[12.409_674, 13.475_073, 14.660_424];
        assert_close(&found, [&[0.706_674_46, -2.300_111_5], &[0.792_485_83], norms]);
    }

    /// Expected values: torch.optim.AdamW(eps=1e-5, weight_decay=0.3), likewise.
    #[test]
    fn three_decayed_steps_agree_with_pytorch() {
        let found = three_steps(AdamConfig { weight_decay: 0.3, ..AdamConfig::default() });
        let norms = &[12.409_674, 12.716_722, 13.088_626];
        assert_close(&found, [&[0.628_651_14, -2.116_546_9], &[0.743_134_8], norms]);
    }
}
