//! Small networks: multilayer perceptrons with a leading member dimension, their initialisation, and Adam.
//!
//! Parameters are plain tensors in a list, in the manner of JAX: there are no module ids, so that saving, hashing
//! and stepping them is a loop. Data live on the plain device, parameters on the autodiff device.

mod adam;
pub mod fused;
mod init;
mod layout;
mod mlp;
mod tensors;

pub use adam::{Adam, StepInfo};
pub use fused::AdamConfig;
pub use init::{kaiming_uniform, orthogonal};
pub use layout::{Activation, Layout, Span};
pub use mlp::Mlp;
pub(crate) use tensors::joined;
pub use tensors::{constant, parameter, to_host};
