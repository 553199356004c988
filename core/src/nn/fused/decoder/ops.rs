//! The decoder's operations on tensors.

use std::sync::Arc;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{DType, FloatDType, Tensor};

use super::layout::{AttentionLayout, NormConfig};
use super::reference;
use crate::device::is_cpu;

/// `input · weightᵀ + bias`, as PyTorch's `Linear`.
///
/// # Shapes
/// - `input`: `[rows, in]`; `weight`: `[out, in]`; `bias`: `[1, out]`
/// - returns `[rows, out]`
#[must_use]
pub fn linear(input: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<2>>) -> Tensor<2> {
    let product = match fused(&input) {
        true => Tensor::from_dispatch(<Dispatch as DecoderOps>::linear(input.into_dispatch(), weight.into_dispatch())),
        false => reference::linear(input, weight),
    };
    match bias {
        None => product,
        Some(bias) => {
            let kind: FloatDType = product.dtype().into();
            product + bias.cast(kind)
        }
    }
}

/// Rows of a table: an embedding, or the tokens of a batch that are needed further on.
///
/// # Shapes
/// - `table`: `[count, width]`; `indices`: each below `count`
/// - returns `[indices.len(), width]`
#[must_use]
pub fn rows(table: Tensor<2>, indices: Arc<Vec<u32>>) -> Tensor<2> {
    if !fused(&table) {
        return reference::rows(table, &indices);
    }
    Tensor::from_dispatch(<Dispatch as DecoderOps>::rows(table.into_dispatch(), indices))
}

/// Layer normalisation (Ba et al. 2016, arXiv 1607.06450), or root-mean-square normalisation (Zhang & Sennrich 2019,
/// arXiv 1910.07467), which has no bias.
///
/// # Shapes
/// - `input`: `[rows, width]`; `weight`, `bias`: `[1, width]`
/// - returns `[rows, width]`
#[must_use]
pub fn norm(input: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<2>>, norm: NormConfig) -> Tensor<2> {
    let scaled = match fused(&input) {
        true => {
            let (input, weight) = (input.into_dispatch(), weight.into_dispatch());
            Tensor::from_dispatch(<Dispatch as DecoderOps>::norm(input, weight, norm))
        }
        false => reference::norm(input, weight, norm),
    };
    match bias {
        None => scaled,
        Some(bias) => scaled + bias,
    }
}

/// SiLU(gate) · up, the gated unit of Llama's feed-forward layer (Shazeer 2020, arXiv 2002.05202).
///
/// # Shapes
/// - `gate_up`: `[rows, 2 · width]`, in every row the gates first
/// - returns `[rows, width]`
#[must_use]
pub fn gated_silu(gate_up: Tensor<2>) -> Tensor<2> {
    if !fused(&gate_up) {
        return reference::gated_silu(gate_up);
    }
    Tensor::from_dispatch(<Dispatch as DecoderOps>::gated_silu(gate_up.into_dispatch()))
}

/// GELU in its approximation with tanh (Hendrycks & Gimpel 2016, arXiv 1606.08415), which GPT-2 calls `gelu_new`.
///
/// # Shapes
/// - `input`, and what is returned: `[rows, width]`
#[must_use]
pub fn gelu_tanh(input: Tensor<2>) -> Tensor<2> {
    if !fused(&input) {
        return reference::gelu_tanh(input);
    }
    Tensor::from_dispatch(<Dispatch as DecoderOps>::gelu_tanh(input.into_dispatch()))
}

/// Causal attention with grouped keys (Ainslie et al. 2023, arXiv 2305.13245), rotary positions (Su et al. 2021, arXiv
/// 2104.09864) and a sliding window, each where the layout has it.
///
/// # Shapes
/// - `qkv`: `[rows, heads.joint()]`, in every row the queries of all heads, then the keys, then the values
/// - returns `[rows, heads.queries · heads.width]`
#[must_use]
pub fn attention(qkv: Tensor<2>, layout: &Arc<AttentionLayout>) -> Tensor<2> {
    if !fused(&qkv) {
        return reference::attention(&qkv, layout);
    }
    Tensor::from_dispatch(<Dispatch as DecoderOps>::attention(qkv.into_dispatch(), Arc::clone(layout)))
}

/// Log-probability of each target under softmax(hidden · headᵀ), nats; and, without gradients, the entropy of that
/// distribution, nats, and 1 where the target is its likeliest token, else 0.
///
/// # Shapes
/// - `hidden`: `[rows, width]`; `head`: `[vocabulary, width]`; `targets`: one a row, below `vocabulary`
/// - returns `[rows]` and `[2, rows]`
#[must_use]
pub fn token_log_probs(hidden: Tensor<2>, head: Tensor<2>, targets: Arc<Vec<u32>>) -> (Tensor<1>, Tensor<2>) {
    if !fused(&hidden) {
        return reference::token_log_probs(hidden, head, &targets);
    }
    let (log_probs, about) =
        <Dispatch as DecoderOps>::token_log_probs(hidden.into_dispatch(), head.into_dispatch(), targets);
    (Tensor::from_dispatch(log_probs), Tensor::<2>::from_dispatch(about).inner())
}

/// Whether the CPU's own kernels compute this: they know f32 only.
fn fused(input: &Tensor<2>) -> bool {
    is_cpu(&input.device()) && input.dtype() == DType::F32
}

/// The operations on the CPU; on a GPU the functions run `reference`.
#[backend_extension(Flex, Autodiff)]
pub trait DecoderOps: Backend {
    /// See [`linear`]; without the bias.
    fn linear(input: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;

    /// See [`rows`].
    fn rows(table: FloatTensor<Self>, indices: Arc<Vec<u32>>) -> FloatTensor<Self>;

    /// See [`norm`]; without the bias.
    fn norm(input: FloatTensor<Self>, weight: FloatTensor<Self>, norm: NormConfig) -> FloatTensor<Self>;

    /// See [`gated_silu`].
    fn gated_silu(gate_up: FloatTensor<Self>) -> FloatTensor<Self>;

    /// See [`gelu_tanh`].
    fn gelu_tanh(input: FloatTensor<Self>) -> FloatTensor<Self>;

    /// See [`attention`].
    fn attention(qkv: FloatTensor<Self>, layout: Arc<AttentionLayout>) -> FloatTensor<Self>;

    /// See [`token_log_probs`].
    fn token_log_probs(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: Arc<Vec<u32>>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}
