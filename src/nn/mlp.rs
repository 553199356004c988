//! A multilayer perceptron whose parameters carry a leading member dimension.

use burn::tensor::{Device, Tensor, activation};
use serde::{Deserialize, Serialize};

use super::{kaiming_uniform, orthogonal, parameter};
use crate::random::Rng;

/// A multilayer perceptron, or several of the same size evaluated as one.
#[derive(Debug, Clone)]
pub struct Mlp {
    /// Linear layers, input first.
    pub layers: Vec<Layer>,
    /// Nonlinearity between the layers; the last layer is linear.
    pub activation: Activation,
}

/// One linear layer: `x · weight + bias`.
#[derive(Debug, Clone)]
pub struct Layer {
    /// `[members, in, out]`
    pub weight: Tensor<3>,
    /// `[members, 1, out]`
    pub bias: Tensor<3>,
}

/// Nonlinearity between layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// Hyperbolic tangent.
    Tanh,
    /// max(0, x)
    Relu,
    /// x for x > 0, else 0.01·x, the slope of Christiano et al. 2017, A.1.
    LeakyRelu,
}

impl Mlp {
    /// A network with orthogonal weights (gain √2, and `output_gain` on the last layer) and zero biases: the
    /// initialisation that "What Matters in On-Policy RL" (arXiv 2006.05990) found to matter for PPO.
    ///
    /// # Shapes
    /// - `sizes`: widths, input first, output last
    #[must_use]
    pub fn orthogonal(
        sizes: &[usize],
        activation: Activation,
        output_gain: f64,
        rng: &mut Rng,
        device: &Device,
    ) -> Self {
        let last = sizes.len().saturating_sub(2);
        let layer = |(i, pair): (usize, &[usize])| {
            let gain = if i == last { output_gain } else { std::f64::consts::SQRT_2 };
            Layer {
                weight: parameter(orthogonal(pair[0], pair[1], gain, rng), [1, pair[0], pair[1]], device),
                bias: parameter(vec![0.0; pair[1]], [1, 1, pair[1]], device),
            }
        };
        Self { layers: sizes.windows(2).enumerate().map(layer).collect(), activation }
    }

    /// A network initialised like PyTorch's linear layers.
    ///
    /// # Shapes
    /// - `sizes`: widths, input first, output last
    #[must_use]
    pub fn kaiming(sizes: &[usize], activation: Activation, rng: &mut Rng, device: &Device) -> Self {
        let layer = |pair: &[usize]| Layer {
            weight: parameter(kaiming_uniform(pair[0] * pair[1], pair[0], rng), [1, pair[0], pair[1]], device),
            bias: parameter(kaiming_uniform(pair[1], pair[0], rng), [1, 1, pair[1]], device),
        };
        Self { layers: sizes.windows(2).map(layer).collect(), activation }
    }

    /// Evaluates the network.
    ///
    /// # Shapes
    /// - `input`: `[members, batch, in]`
    /// - returns `[members, batch, out]`
    #[must_use]
    pub fn forward(&self, input: Tensor<3>) -> Tensor<3> {
        let mut x = input;
        for (i, layer) in self.layers.iter().enumerate() {
            x = x.matmul(layer.weight.clone()) + layer.bias.clone();
            if i + 1 < self.layers.len() {
                x = match self.activation {
                    Activation::Tanh => x.tanh(),
                    Activation::Relu => activation::relu(x),
                    Activation::LeakyRelu => activation::leaky_relu(x, 0.01),
                };
            }
        }
        x
    }

    /// The same network without gradients, for inference.
    #[must_use]
    pub fn detached(&self) -> Self {
        let layer = |layer: &Layer| Layer { weight: layer.weight.clone().inner(), bias: layer.bias.clone().inner() };
        Self { layers: self.layers.iter().map(layer).collect(), activation: self.activation }
    }

    /// All parameters with their names (`layers.0.weight`, …), in a fixed order.
    #[must_use]
    pub fn named(&self) -> Vec<(String, &Tensor<3>)> {
        let mut all = Vec::with_capacity(2 * self.layers.len());
        for (i, Layer { weight, bias }) in self.layers.iter().enumerate() {
            all.push((format!("layers.{i}.weight"), weight));
            all.push((format!("layers.{i}.bias"), bias));
        }
        all
    }

    /// All parameters in the order of [`Mlp::named`].
    pub fn parameters_mut(&mut self) -> Vec<&mut Tensor<3>> {
        self.layers.iter_mut().flat_map(|Layer { weight, bias }| [weight, bias]).collect()
    }

    /// Σ w² over the weights, not the biases, for L2 regularisation.
    ///
    /// # Shapes
    /// - returns `[1]`
    #[must_use]
    pub fn squared_norm(&self) -> Tensor<1> {
        let square = |layer: &Layer| (layer.weight.clone() * layer.weight.clone()).sum();
        let mut terms = self.layers.iter().map(square);
        let first = terms.next().expect("a network has at least one layer");
        terms.fold(first, |sum, term| sum + term)
    }
}
