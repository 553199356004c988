//! Sizes of a multilayer perceptron, and where its parameters are; the network and its fused operations share them.

use serde::{Deserialize, Serialize};

use super::init::orthogonal;
use crate::random::Rng;

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

    /// Numbers per row that the backward pass needs of layer `i`: its values, and the nonlinearity's slopes where these
    /// cannot be told from the values. A linear output needs none.
    pub(super) fn saved_of(&self, i: usize) -> usize {
        match self.activation_of(i) {
            Activation::Identity if i + 2 == self.sizes.len() => 0,
            Activation::Silu => 2 * self.sizes[i + 1],
            _ => self.sizes[i + 1],
        }
    }

    /// Numbers per row that the backward pass needs of all layers.
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

    /// Weight and bias among a network's parameters, to be written.
    pub(super) fn of_mut<'a>(&self, parameters: &'a mut [f32]) -> (&'a mut [f32], &'a mut [f32]) {
        parameters[self.start..self.start + self.len()].split_at_mut(self.inputs * self.outputs)
    }
}
