//! A training run of a language model and its folder.
//!
//! ```text
//! runs/<name>/
//!   config.toml      the resolved configuration that the run began with
//!   changes.jsonl    later changes of the configuration
//!   metrics.jsonl    one object for each logged step, under TRL's names; names of evaluations begin with eval_
//!   tb/              the same metrics as TensorBoard events
//!   reference.safetensors  the reference policy's log-probabilities, computed once
//!   checkpoints/     step-00000120.safetensors: everything needed to go on exactly
//!   model/           the trained model as a Hugging Face folder
//!   summary.json     what --json printed
//! ```

pub mod checkpoint;
mod config;
pub(in crate::lm) mod course;
mod ensemble;
mod execute;
mod margins;
mod one;
pub(in crate::lm) mod outcome;
mod prepare;
pub mod reward_models;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use burn::tensor::Device;
use toml::Table;

pub(in crate::lm) use self::config::read_checked;
pub use self::config::{
    DpoConfig, LmConfig, ModpoRunConfig, ObjectiveConfig, PpoRunConfig, PretrainConfig, ReferenceKind, RewardRunConfig,
    SIZES, SftConfig, StageKind,
};
pub use self::course::{AtStep, planned, read_config};
pub use self::outcome::{LmOutcome, LmProgress, LmSummary, Show, member_folder};
pub use super::error::LmError;
pub use super::open::{asked_date, eos_of, tokenizer_of, weights_sha256};
use crate::disk::Folder;

/// Trains in a new folder.
///
/// # Errors
/// [`LmError`].
pub fn train(
    config: &LmConfig,
    path: &Path,
    device: &Device,
    stop: &AtomicBool,
    show: &Show<'_>,
) -> Result<LmOutcome, LmError> {
    match config.is_ensemble() {
        false => one::train(config, path, device, stop, show),
        true => ensemble::begin(config, path, device, stop, show),
    }
}

/// Goes on with an interrupted run from its newest checkpoint. Changes that `set` makes to the configuration are
/// recorded, and take effect there. With more steps, a finished run goes on, too.
///
/// # Errors
/// [`LmError`].
pub fn resume(
    path: &Path,
    set: &[Table],
    device: &Device,
    stop: &AtomicBool,
    show: &Show<'_>,
) -> Result<LmOutcome, LmError> {
    let folder = Folder::open_to_write(path)?;
    let config = read_config(path)?;
    match (config.is_ensemble(), planned(&config, set)?) {
        (false, planned) => one::resume(&folder, &config, planned, device, stop, show),
        (true, None) => ensemble::train(&config, path, device, stop, show),
        (true, Some(_)) => Err(LmError::Config(format!(
            "{}: is an ensemble, whose members are trained alike: its configuration cannot change; train another one",
            path.display()
        ))),
    }
}

/// Checks that a run's newest whole checkpoint belongs to its configuration.
///
/// # Errors
/// [`DiskError::Edited`](crate::disk::DiskError::Edited) if it does not, or a file cannot be read.
pub fn check(path: &Path, show: &Show<'_>) -> Result<(), LmError> {
    let checkpoint = checkpoint::newest_checkpoint(path, show)?;
    course::Course::open(path, checkpoint.as_ref()).map(|_| ())
}
