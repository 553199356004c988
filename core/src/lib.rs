//! What Pairwise knows of preferences, agents and language models. The library `pairwise` has all of it again, under the same
//! names, beside the studies, the window and the command line.
//!
//! It is a crate of its own because it is compiled with all optimisations, and what stands on it is not.

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

#[cfg(test)]
mod fixtures;
