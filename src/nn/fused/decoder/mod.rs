//! The operations of a transformer's decoder, on batches of sequences that are packed one after another.
//!
//! A batch has no padding: its rows are the tokens of all sequences, and only attention knows where a sequence begins.
//! Sequences may share the rows of a common prefix, so the prompt of a preference pair is computed once.
//!
//! Numbers are f32, or bf16: then `input` is, weights are cast to it, and softmax and log-probabilities are in f32 still.
//!
//! As elsewhere in `nn::fused`, `reference` says in plain tensor operations what each one computes, and is what GPUs
//! run; `flex` is the CPU's, with its own backward pass.

mod flex;
mod host;
mod kernels;
mod matrix;
mod reference;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{DType, FloatDType, Tensor};

use crate::device::is_cpu;

pub(crate) use self::host::{
    AttendToCache, Kept, Quantized, add, gated_silu_on_host, gelu_tanh_on_host, norm_on_host, project,
    project_quantized, rotate_on_host,
};

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

/// How [`norm`] normalises a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormConfig {
    /// Which of the two.
    pub kind: NormKind,
    /// Added to the variance, or to the mean square.
    pub epsilon: f32,
}

/// What is normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// (x − mean) / √(variance + ε)
    Layer,
    /// x / √(mean square + ε)
    RootMeanSquare,
}

/// Who attends to whom in a packed batch; the same for all layers.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionLayout {
    /// The sequences. Every row of the batch is the own row of exactly one.
    pub sequences: Vec<Sequence>,
    /// Number and width of heads.
    pub heads: Heads,
    /// The scores' factor, 1/√width by default.
    pub scale: f32,
    /// A token sees itself and the window − 1 tokens before it.
    pub window: Option<usize>,
    /// Rotary positions of every row.
    pub rotation: Option<Rotation>,
}

/// One sequence of a packed batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// Rows before its own that it begins with: own rows of another sequence that has no prefix. May be empty.
    pub prefix: Range<usize>,
    /// Its own rows.
    pub rows: Range<usize>,
}

/// Heads of attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Heads of queries.
    pub queries: usize,
    /// Heads of keys and values: a divisor of `queries`.
    pub keys: usize,
    /// Width of a head.
    pub width: usize,
}

/// Rotary positions: the first half of a head is the real part, the second the imaginary part of numbers that are
/// turned, as in Hugging Face's Llama.
///
/// # Shapes
/// - both: `[rows, width / 2]`
#[derive(Debug, Clone, PartialEq)]
pub struct Rotation {
    /// Cosine of each row's angles.
    pub cos: Vec<f32>,
    /// Sine likewise.
    pub sin: Vec<f32>,
}

impl Heads {
    /// Columns of queries.
    #[must_use]
    pub fn query_columns(&self) -> usize {
        self.queries * self.width
    }

    /// Columns of keys, and of values.
    #[must_use]
    pub fn key_columns(&self) -> usize {
        self.keys * self.width
    }

    /// Columns of queries, keys and values together.
    #[must_use]
    pub fn joint(&self) -> usize {
        self.query_columns() + 2 * self.key_columns()
    }
}

impl Sequence {
    /// Tokens, with the prefix.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.prefix.len() + self.rows.len()
    }
}

impl AttentionLayout {
    /// Positions that the token at `position` of its sequence sees.
    #[must_use]
    pub fn visible(&self, position: usize) -> Range<usize> {
        let first = self.window.map_or(0, |window| (position + 1).saturating_sub(window));
        first..position + 1
    }
}

/// The operations on the CPU; on a GPU the functions above run `reference`.
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
