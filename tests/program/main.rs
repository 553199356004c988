//! Pairwise as a user and a window use it, without a window: one binary, so that everything is linked once.
//!
//! The tests of one file: `cargo test --test program serve::`.

mod command_line;
mod common;
#[cfg(feature = "cuda")]
mod cuda;
mod docs;
#[cfg(unix)]
mod door;
mod engine;
mod evals;
mod evals_loop;
mod floors;
#[cfg(target_os = "linux")]
mod fuzz;
mod lesson;
mod models;
#[cfg(unix)]
mod one_writer;
mod reproducible;
mod resume;
mod serve;
