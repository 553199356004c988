//! Pairwise teaches agents and language models by comparing two of something. A person, or a simulated one, says which of
//! two clips, or of two answers, is better; Pairwise learns what they meant and trains on it.
//!
//! ARCHITECTURE.md says what is where, and which invariants hold.

// From the ground up: see tests/program/floors.rs.
pub mod advantage;
pub mod finite;
pub mod random;
pub mod range;
pub mod table;

pub mod device;
pub mod disk;
pub mod pareto;
pub mod soup;

pub mod nn;
pub mod preference;

pub mod control;
pub mod lm;

pub mod evals;
pub mod studies;

pub mod engine;

#[cfg(feature = "app")]
pub mod app;

pub mod cli;

#[cfg(test)]
mod fixtures;
