//! Operations that are fused by hand on the CPU: burn's `#[backend_extension]` picks the implementation by device.
//!
//! `reference` says what each one computes, in plain tensor operations; it is what CUDA runs, and what the tests
//! compare with. `flex` is the fast one, with its own backward pass; its arithmetic is in `kernels` and `simd`.
//! This and `device.rs` are the only places that name backends.

mod adam_step;
pub mod decoder;
mod flex;
mod kernels;
mod ops;
mod ppo_loss;
mod reference;
mod scratch;
mod simd;
#[cfg(test)]
mod tests;

pub use self::adam_step::{AdamConfig, AdamStep};
pub use self::flex::mlp_on_host;
pub use self::ops::{FusedOps, adam, add_squares, mlp, ppo_loss};
pub use self::ppo_loss::{ActorCritic, HALF_LN_2PI, PpoLoss};
