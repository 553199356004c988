//! What the decoder's operations compute, in plain tensor operations of any device, with or without gradients.

use burn::tensor::activation::{log_softmax, sigmoid, softmax};
use burn::tensor::{Bool, Device, FloatDType, Int, Tensor, TensorData};

use super::layout::{AttentionLayout, NormConfig, NormKind, Rotation, Sequence};

/// See [`super::ops::linear`].
pub(super) fn linear(input: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    let kind: FloatDType = input.dtype().into();
    input.matmul(weight.cast(kind).transpose())
}

/// See [`super::ops::rows`].
pub(super) fn rows(table: Tensor<2>, indices: &[u32]) -> Tensor<2> {
    let indices = integers(indices, &table.device());
    table.select(0, indices)
}

/// See [`super::ops::norm`].
pub(super) fn norm(input: Tensor<2>, weight: Tensor<2>, norm: NormConfig) -> Tensor<2> {
    let centred = match norm.kind {
        NormKind::Layer => input.clone() - input.mean_dim(1),
        NormKind::RootMeanSquare => input,
    };
    let scale = (centred.clone().square().mean_dim(1) + norm.epsilon).sqrt();
    centred / scale * weight
}

/// See [`super::ops::gated_silu`].
pub(super) fn gated_silu(gate_up: Tensor<2>) -> Tensor<2> {
    let width = gate_up.dims()[1] / 2;
    let (gate, up) = (gate_up.clone().narrow(1, 0, width), gate_up.narrow(1, width, width));
    gate.clone() * sigmoid(gate) * up
}

/// See [`super::ops::gelu_tanh`].
pub(super) fn gelu_tanh(input: Tensor<2>) -> Tensor<2> {
    let cubed = input.clone().powi_scalar(3);
    let inner = (input.clone() + cubed * GELU_CUBIC) * GELU_SCALE;
    input * 0.5 * (inner.tanh() + 1.0)
}

/// √(2/π)
pub(super) const GELU_SCALE: f32 = 0.797_884_6;
/// The cubic term of the approximation.
pub(super) const GELU_CUBIC: f32 = 0.044_715;

/// See [`super::ops::attention`].
pub(super) fn attention(qkv: &Tensor<2>, layout: &AttentionLayout) -> Tensor<2> {
    let heads = layout.heads;
    let [rows, _] = qkv.dims();
    let kind: FloatDType = qkv.dtype().into();
    let plain = qkv.device().without_autodiff();
    let part = |start: usize, count: usize| {
        qkv.clone().narrow(1, start, count * heads.width).reshape([rows, count, heads.width])
    };
    let query = part(0, heads.queries);
    let key = part(heads.query_columns(), heads.keys);
    let value = part(heads.query_columns() + heads.key_columns(), heads.keys);
    let (query, key) = match &layout.rotation {
        None => (query, key),
        Some(rotation) => (rotate(query, rotation, &plain), rotate(key, rotation, &plain)),
    };
    // Padded to the longest sequence: the own rows of every sequence as queries, all its rows as keys.
    let longest = |lengths: &dyn Fn(&Sequence) -> usize| layout.sequences.iter().map(lengths).max().unwrap_or(0);
    let (own, all) = (longest(&|s| s.rows.len()), longest(&|s| s.tokens()));
    let count = layout.sequences.len();
    let (mut of_queries, mut of_keys) = (Vec::with_capacity(count * own), Vec::with_capacity(count * all));
    let mut hidden = vec![true; count * own * all];
    // Where each row of the batch is among the padded queries.
    let mut back = vec![0; rows];
    for (s, sequence) in layout.sequences.iter().enumerate() {
        let filled = |mut rows: Vec<usize>, len: usize| {
            rows.resize(len, 0);
            rows
        };
        of_queries.extend(filled(sequence.rows.clone().collect(), own));
        of_keys.extend(filled(sequence.prefix.clone().chain(sequence.rows.clone()).collect(), all));
        for (i, row) in sequence.rows.clone().enumerate() {
            back[row] = s * own + i;
            let start = (s * own + i) * all;
            for position in layout.visible(sequence.prefix.len() + i) {
                hidden[start + position] = false;
            }
        }
        // A padded query sees its first key, so that its softmax is a number; nobody reads it.
        for i in sequence.rows.len()..own {
            hidden[(s * own + i) * all] = false;
        }
    }
    let gather = |x: Tensor<3>, indices: &[usize], len: usize| {
        let groups = x.dims()[1];
        let indices: Vec<u32> = indices.iter().map(|&i| u32::try_from(i).expect("a batch has fewer rows")).collect();
        x.select(0, integers(&indices, &plain)).reshape([count, len, groups, heads.width]).swap_dims(1, 2)
    };
    let repeated = |x: Tensor<4>| {
        let times = heads.queries / heads.keys;
        let wide: Tensor<5> = x.unsqueeze_dim(2);
        wide.repeat_dim(2, times).reshape([count, heads.queries, all, heads.width])
    };
    let query = gather(query, &of_queries, own);
    let (key, value) = (repeated(gather(key, &of_keys, all)), repeated(gather(value, &of_keys, all)));
    let hidden: Tensor<4, Bool> = Tensor::from_data(TensorData::new(hidden, [count, 1, own, all]), &plain);
    let scores = query.matmul(key.swap_dims(2, 3)).cast(FloatDType::F32) * layout.scale;
    let hidden = hidden.expand([count, heads.queries, own, all]);
    let weights = softmax(scores.mask_fill(hidden, f32::MIN / 2.0), 3).cast(kind);
    let output = weights.matmul(value).swap_dims(1, 2).reshape([count * own, heads.queries * heads.width]);
    let back: Vec<u32> = back.iter().map(|&i| u32::try_from(i).expect("a batch has fewer rows")).collect();
    output.select(0, integers(&back, &plain))
}

/// Turns every head of every row by its row's angles.
fn rotate(x: Tensor<3>, rotation: &Rotation, device: &Device) -> Tensor<3> {
    let [rows, _, width] = x.dims();
    let half = width / 2;
    let table = |values: &[f32]| {
        let table: Tensor<3> = Tensor::from_data(TensorData::new(values.to_vec(), [rows, 1, half]), device);
        table
    };
    let (cos, sin) = (table(&rotation.cos), table(&rotation.sin));
    let kind: FloatDType = x.dtype().into();
    let x = x.cast(FloatDType::F32);
    let (real, imaginary) = (x.clone().narrow(2, 0, half), x.narrow(2, half, half));
    let turned_real = real.clone() * cos.clone() - imaginary.clone() * sin.clone();
    let turned_imaginary = imaginary * cos + real * sin;
    Tensor::cat(vec![turned_real, turned_imaginary], 2).cast(kind)
}

/// See [`super::ops::token_log_probs`].
pub(super) fn token_log_probs(hidden: Tensor<2>, head: Tensor<2>, targets: &[u32]) -> (Tensor<1>, Tensor<2>) {
    let device = hidden.device().without_autodiff();
    let log_probs = log_softmax(linear(hidden, head).cast(FloatDType::F32), 1);
    let plain = log_probs.clone().inner();
    let targets: Tensor<2, Int> = integers(targets, &device).unsqueeze_dim(1);
    let entropy = (plain.clone().exp() * plain.clone()).sum_dim(1).neg();
    let likeliest = plain.clone().gather(1, targets.clone()).greater_equal(plain.max_dim(1)).float();
    (log_probs.gather(1, targets).squeeze_dim(1), Tensor::cat(vec![entropy, likeliest], 1).transpose())
}

/// Indices on a device.
fn integers(values: &[u32], device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = values.iter().map(|&value| i64::from(value)).collect();
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), &device.clone().without_autodiff())
}
