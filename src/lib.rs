//! Pairwise teaches agents by comparing two of something. A person, or a simulated one, says which of two clips is
//! better; Pairwise learns what they meant and trains on it.
//!
//! ARCHITECTURE.md says what is where, and which invariants hold.

pub mod app;
mod calendar;
pub mod cli;
pub mod device;
pub mod disk;
pub mod drlhp;
pub mod engine;
pub mod evals;
pub mod finite;
pub mod lm;
pub mod morl;
pub mod nn;
pub mod pareto;
pub mod preference;
pub mod random;
pub mod reward;
pub mod rl;
pub mod run;
pub mod soup;
