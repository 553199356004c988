//! Model-written evaluations (Perez et al. 2022, arXiv 2212.09251): a model writes questions, a preference model keeps
//! the good ones, persons check a sample, and models are measured on them.
//!
//! ```text
//! behaviour ─ generate ─ filter ─ validate        a set of questions, in the format of anthropics/evals
//!                                     └─ ask ─ estimate ─ report
//! ```
//!
//! Whatever answers is a [`model::Model`]: a folder ([`local`]), or a server that speaks OpenAI's protocol ([`endpoint`]).

pub mod ask;
pub mod behaviour;
mod blocks;
pub mod diversity;
pub mod endpoint;
pub mod error;
pub mod estimate;
pub mod filter;
mod folder;
pub mod generate;
pub mod judge;
pub mod local;
pub mod model;
pub mod outcome;
pub mod questions;
pub mod report;
pub mod run;
#[cfg(test)]
mod tests;
pub mod validate;

use std::path::Path;

use self::endpoint::{Endpoint, EndpointConfig};
use self::error::ModelError;
use self::local::Local;
use self::model::Model;

/// Opens a folder, or a server: `http://HOST:PORT/v1#NAME`. A folder's conversations are written by `template`, by name or
/// file, or else by the tokenizer's. The template is told the time `now`, in seconds since 1970, or else the time of each
/// conversation.
///
/// # Errors
/// [`ModelError`]. Whether a server answers is seen at the first request.
pub fn open(
    spec: &str,
    config: &EndpointConfig,
    template: Option<&str>,
    now: Option<i64>,
) -> Result<Box<dyn Model>, ModelError> {
    Ok(match endpoint::is_address(spec) {
        true => Box::new(Endpoint::open(spec, config)?),
        false => Box::new(Local::open(Path::new(spec), template, now)?),
    })
}
