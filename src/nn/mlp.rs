//! A multilayer perceptron whose parameters are one tensor with a leading member dimension.

use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::{fused, joined, kaiming_uniform, orthogonal, parameter};
use crate::random::Rng;

/// A multilayer perceptron, or several of the same size evaluated as one.
#[derive(Debug, Clone)]
pub struct Mlp {
    /// Sizes and nonlinearity.
    pub layout: Layout,
    /// `[members, layout.len()]`: for every layer its weight `[in, out]` and its bias `[out]`, input first.
    pub parameters: Tensor<2>,
}

/// Sizes of a multilayer perceptron: linear layers (`x · weight + bias`), each with a nonlinearity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Widths, input first, output last.
    pub sizes: Vec<usize>,
    /// Nonlinearity of the hidden layers.
    pub activation: Activation,
    /// Nonlinearity of the last layer.
    pub output: Activation,
}

/// Where one linear layer's parameters are in a network's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Width of its input.
    pub inputs: usize,
    /// Width of its output.
    pub outputs: usize,
    /// Index of its first weight; the bias follows the weights.
    pub start: usize,
}

/// Nonlinearity between layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// None: x.
    Identity,
    /// Hyperbolic tangent.
    Tanh,
    /// max(0, x)
    Relu,
    /// x for x > 0, else 0.01·x, the slope of Christiano et al. 2017, A.1.
    LeakyRelu,
    /// x·σ(x), also called swish.
    Silu,
}

impl Layout {
    /// The layers, input first.
    #[must_use]
    pub fn layers(&self) -> Vec<Span> {
        let mut start = 0;
        let span = |pair: &[usize]| {
            let span = Span { inputs: pair[0], outputs: pair[1], start };
            start += span.len();
            span
        };
        self.sizes.windows(2).map(span).collect()
    }

    /// Number of parameters.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a network without parameters does not occur")]
    pub fn len(&self) -> usize {
        self.sizes.windows(2).map(|pair| (pair[0] + 1) * pair[1]).sum()
    }

    /// Width of the input.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.sizes[0]
    }

    /// Width of the output.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.sizes[self.sizes.len() - 1]
    }

    /// Orthogonal weights (gain √2, and `output_gain` on the last layer) and zero biases: the initialisation that "What
    /// Matters in On-Policy RL" (arXiv 2006.05990) found to matter for PPO.
    ///
    /// # Shapes
    /// - returns `[layout.len()]`
    #[must_use]
    pub fn orthogonal(&self, output_gain: f64, rng: &mut Rng) -> Vec<f32> {
        let layers = self.layers();
        let layer = |(i, layer): (usize, &Span)| {
            let gain = if i + 1 == layers.len() { output_gain } else { std::f64::consts::SQRT_2 };
            let mut parameters = orthogonal(layer.inputs, layer.outputs, gain, rng);
            parameters.extend(std::iter::repeat_n(0.0, layer.outputs));
            parameters
        };
        layers.iter().enumerate().flat_map(layer).collect()
    }

    /// 1 where there is a weight, 0 where there is a bias.
    ///
    /// # Shapes
    /// - returns `[layout.len()]`
    #[must_use]
    pub fn weight_mask(&self) -> Vec<f32> {
        let mut mask = vec![0.0; self.len()];
        self.layers().iter().for_each(|layer| mask[layer.weight()].fill(1.0));
        mask
    }

    /// Nonlinearity of layer `i`.
    pub(super) fn activation_of(&self, i: usize) -> Activation {
        if i + 2 == self.sizes.len() { self.output } else { self.activation }
    }

    /// Numbers a row that the backward pass needs of layer `i`: its values, and the nonlinearity's slopes where these
    /// cannot be told from the values. A linear output needs none.
    pub(super) fn saved_of(&self, i: usize) -> usize {
        match self.activation_of(i) {
            Activation::Identity if i + 2 == self.sizes.len() => 0,
            Activation::Silu => 2 * self.sizes[i + 1],
            _ => self.sizes[i + 1],
        }
    }

    /// The same of all layers.
    pub(super) fn saved(&self) -> usize {
        (0..self.sizes.len() - 1).map(|i| self.saved_of(i)).sum()
    }
}

impl Span {
    /// Parameters of the layer.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a layer without parameters does not occur")]
    pub fn len(&self) -> usize {
        (self.inputs + 1) * self.outputs
    }

    /// Indices of the weight `[in, out]`.
    #[must_use]
    pub fn weight(&self) -> std::ops::Range<usize> {
        self.start..self.start + self.inputs * self.outputs
    }

    /// Indices of the bias `[out]`.
    #[must_use]
    pub fn bias(&self) -> std::ops::Range<usize> {
        self.weight().end..self.start + self.len()
    }

    /// Weight and bias among a network's parameters.
    pub(super) fn of<'a>(&self, parameters: &'a [f32]) -> [&'a [f32]; 2] {
        [&parameters[self.weight()], &parameters[self.bias()]]
    }

    /// The same, to be written.
    pub(super) fn of_mut<'a>(&self, parameters: &'a mut [f32]) -> (&'a mut [f32], &'a mut [f32]) {
        parameters[self.start..self.start + self.len()].split_at_mut(self.inputs * self.outputs)
    }
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

    /// Evaluates the network on numbers of the host; on the CPU without making tensors of them.
    ///
    /// # Shapes
    /// - `input`: `[batch, in]`; `output`: becomes `[members, batch, out]`
    pub fn evaluate(&self, input: &[f32], output: &mut Vec<f32>) {
        fused::mlp_on_host(input, &self.parameters, &self.layout, output);
    }

    /// The same network without gradients, for inference.
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

    /// Takes over parameters in the order of [`Mlp::named`], each of its shape.
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
        let weights = self.parameters.clone() * super::constant(&mask, [1, mask.len()], &device);
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
