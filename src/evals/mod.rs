//! Model-written evaluations (Perez et al. 2022, arXiv 2212.09251): a model writes questions, a preference model keeps
//! the good ones, persons check a sample, and models are measured on them.
//!
//! ```text
//! behaviour ─ generate ─ filter ─ validate        a set of questions, in the format of anthropics/evals
//!                                     └─ measure ─ report
//! ```
//!
//! Whatever answers is a [`model::Model`]: a folder, or a server that speaks OpenAI's protocol.

pub mod behaviour;
pub mod diversity;
pub mod endpoint;
pub mod filter;
mod folder;
pub mod generate;
pub mod judge;
pub mod measure;
pub mod model;
pub mod questions;
pub mod report;
pub mod run;
pub mod validate;
