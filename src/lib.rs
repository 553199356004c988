//! Pairwise teaches agents and language models by comparing two of something. A person, or a simulated one, says which of
//! two clips, or of two answers, is better; Pairwise learns what they meant and trains on it.
//!
//! ARCHITECTURE.md says what is where, and which invariants hold.

pub use pairwise_core::{
    advantage, control, device, disk, finite, lm, nn, pareto, preference, random, range, soup, table,
};

// From the ground up: see tests/program/floors.rs.
pub mod evals;
pub mod studies;

pub mod engine;

#[cfg(feature = "app")]
pub mod app;

pub mod cli;
