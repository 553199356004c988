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
mod layout;
mod matrix;
mod ops;
mod reference;
#[cfg(test)]
mod tests;

pub(crate) use self::host::{
    AttendToCache, Kept, Quantized, add, gated_silu_on_host, gelu_tanh_on_host, norm_on_host, project,
    project_quantized, rotate_on_host,
};
pub use self::layout::{AttentionLayout, Heads, NormConfig, NormKind, Rotation, Sequence};
pub use self::ops::{DecoderOps, attention, gated_silu, gelu_tanh, linear, norm, rows, token_log_probs};
