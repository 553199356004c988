//! What the fused operations compute, in plain tensor operations of any backend, with or without gradients.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata as _};
use burn::tensor::{Shape, Slice};

use super::adam_step::{AdamStep, CLIP_EPSILON};
use crate::nn::layout::{Activation, Layout};

/// See [`super::ops::mlp`].
pub(super) fn mlp<B: Backend>(input: FloatTensor<B>, parameters: &FloatTensor<B>, layout: &Layout) -> FloatTensor<B> {
    let members = parameters.shape()[0];
    let part = |range: std::ops::Range<usize>, rows: usize, columns: usize| {
        let slices = [Slice::from(0..members), Slice::from(range)];
        B::float_reshape(B::float_slice(parameters.clone(), &slices), Shape::from([members, rows, columns]))
    };
    let layers = layout.layers();
    let mut x = input;
    for (i, layer) in layers.iter().enumerate() {
        let weight = part(layer.weight(), layer.inputs, layer.outputs);
        let bias = part(layer.bias(), 1, layer.outputs);
        x = activation::<B>(B::float_add(B::float_matmul(x, weight), bias), layout.activation_of(i));
    }
    x
}

fn activation<B: Backend>(x: FloatTensor<B>, activation: Activation) -> FloatTensor<B> {
    match activation {
        Activation::Identity => x,
        Activation::Tanh => B::float_tanh(x),
        Activation::Relu => B::relu(x),
        Activation::LeakyRelu => B::leaky_relu(x, 0.01.into()),
        Activation::Silu => B::float_mul(x.clone(), B::sigmoid(x)),
    }
}

/// See [`super::ops::add_squares`].
pub(super) fn add_squares<B: Backend>(values: FloatTensor<B>, sum: FloatTensor<B>) -> FloatTensor<B> {
    B::float_add(sum, B::float_sum(B::float_mul(values.clone(), values)))
}

/// See [`super::ops::adam`].
pub(super) fn adam<B: Backend>(
    [parameter, gradient, first, second]: [FloatTensor<B>; 4],
    squares: FloatTensor<B>,
    step: AdamStep,
) -> [FloatTensor<B>; 3] {
    let times = |x: FloatTensor<B>, factor: f32| B::float_mul_scalar(x, factor.into());
    let (step_size, correction2) = step.corrected();
    let gradient = match step.max_norm {
        None => gradient,
        Some(max) => {
            let norm = B::float_add_scalar(B::float_sqrt(squares), CLIP_EPSILON.into());
            let scale = times(B::float_recip(norm), max);
            let scale = B::float_clamp_max(scale, 1.0.into());
            let shape = Shape::from(vec![1; gradient.shape().num_dims()]);
            B::float_mul(gradient, B::float_reshape(scale, shape))
        }
    };
    let first = B::float_add(times(first, step.config.beta1), times(gradient.clone(), 1.0 - step.config.beta1));
    let square = B::float_mul(gradient.clone(), gradient);
    let second = B::float_add(times(second, step.config.beta2), times(square, 1.0 - step.config.beta2));
    let root = B::float_sqrt(times(second.clone(), correction2));
    let denominator = B::float_add_scalar(root, step.config.epsilon.into());
    let parameter =
        B::float_sub(times(parameter, step.kept()), B::float_div(times(first.clone(), step_size), denominator));
    [parameter, first, second]
}
