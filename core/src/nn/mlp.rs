//! A multilayer perceptron whose parameters are one tensor with a leading member dimension.

use burn::tensor::{Device, Tensor};

use super::fused;
use super::init::kaiming_uniform;
use super::layout::{Activation, Layout, Span};
use super::tensors::{constant, joined, parameter};
use crate::random::Rng;

/// A multilayer perceptron, or several of the same size evaluated as one.
#[derive(Debug, Clone)]
pub struct Mlp {
    /// Sizes and nonlinearity.
    pub layout: Layout,
    /// `[members, layout.len()]`: for every layer its weight `[in, out]` and its bias `[out]`, input first.
    pub parameters: Tensor<2>,
}

impl Mlp {
    /// A network initialised like PyTorch's linear layers.
    ///
    /// # Shapes
    /// - `sizes`: widths, input first, output last
    #[must_use]
    pub fn kaiming(sizes: &[usize], activation: Activation, rng: &mut Rng, device: &Device) -> Self {
        let layer = |pair: &[usize]| kaiming_uniform((pair[0] + 1) * pair[1], pair[0], rng);
        let parameters = sizes.windows(2).flat_map(layer).collect();
        let layout = Layout { sizes: sizes.to_vec(), activation, output: Activation::Identity };
        Self { parameters: parameter(parameters, [1, layout.len()], device), layout }
    }

    /// Evaluates the network.
    ///
    /// # Shapes
    /// - `input`: `[members, batch, in]`, or `[1, batch, in]` for the same input to all members
    /// - returns `[members, batch, out]`
    #[must_use]
    pub fn forward(&self, input: Tensor<3>) -> Tensor<3> {
        fused::mlp(input, self.parameters.clone(), &self.layout)
    }

    /// Evaluates the network on numbers of the host; on the CPU, without making tensors of them.
    ///
    /// # Shapes
    /// - `input`: `[batch, in]`; `output`: becomes `[members, batch, out]`
    pub fn evaluate(&self, input: &[f32], output: &mut Vec<f32>) {
        fused::mlp_on_host(input, &self.parameters, &self.layout, output);
    }

    /// A copy without gradients, for inference.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self { layout: self.layout.clone(), parameters: self.parameters.clone().inner() }
    }

    /// Weights `[members, in, out]` and biases `[members, 1, out]` with their names (`layers.0.weight`, …), without
    /// gradients.
    #[must_use]
    pub fn named(&self) -> Vec<(String, Tensor<3>)> {
        let all = self.parameters.clone().inner();
        let members = all.dims()[0];
        let part = |range: std::ops::Range<usize>, rows: usize, columns: usize| {
            all.clone().narrow(1, range.start, range.len()).reshape([members, rows, columns])
        };
        let layers = self.layout.layers();
        let both = layers.iter().enumerate().flat_map(|(i, layer)| {
            let Span { inputs, outputs, .. } = *layer;
            [
                (format!("layers.{i}.weight"), part(layer.weight(), inputs, outputs)),
                (format!("layers.{i}.bias"), part(layer.bias(), 1, outputs)),
            ]
        });
        both.collect()
    }

    /// Replaces the parameters by tensors in the order and the shapes of [`Mlp::named`].
    ///
    /// # Panics
    /// When there is a tensor too many or too few.
    pub fn set_named(&mut self, tensors: Vec<Tensor<3>>) {
        self.parameters = joined(tensors, [self.parameters.dims()[0], self.layout.len()]);
    }

    /// Σ w² over the weights, not the biases, for L2 regularisation.
    ///
    /// # Shapes
    /// - returns `[1]`
    #[must_use]
    pub fn squared_norm(&self) -> Tensor<1> {
        let mask = self.layout.weight_mask();
        let device = self.parameters.device().without_autodiff();
        let weights = self.parameters.clone() * constant(&mask, [1, mask.len()], &device);
        (weights.clone() * weights).sum()
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::{Activation, Mlp};
    use crate::nn::to_host;
    use crate::random::stream;

    #[test]
    fn regularisation_is_of_the_weights_and_not_of_the_biases() {
        let device = Device::flex();
        let network = Mlp::kaiming(&[3, 7, 2], Activation::Tanh, &mut stream(0, "test", 0), &device);
        let weights = network.named().into_iter().filter(|(name, _)| name.ends_with("weight"));
        let expected: f32 = weights.flat_map(|(_, weight)| to_host(weight)).map(|w| w * w).sum();
        let found = to_host(network.squared_norm())[0];
        assert!((found - expected).abs() < 1e-6 * expected, "{found} {expected}");
    }
}
