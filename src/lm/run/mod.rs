//! A training run of a language model and its folder.
//!
//! ```text
//! runs/<name>/
//!   config.toml      resolved configuration, as the run began
//!   changes.jsonl    what of it was changed since, and when
//!   metrics.jsonl    one object for each logged step, under TRL's names; evaluations begin with eval_
//!   tb/              the same as TensorBoard events
//!   reference.safetensors  the reference policy's log-probabilities, asked for once
//!   checkpoints/     step-000120.safetensors: everything needed to go on exactly
//!   model/           the trained model as a Hugging Face folder
//!   summary.json     what --json printed
//! ```

pub(crate) mod checkpoint;
mod config;
pub(in crate::lm) mod course;
mod ensemble;
mod execute;
mod margins;
mod one;
pub(in crate::lm) mod outcome;
mod prepare;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use burn::tensor::Device;
use toml::Table;

pub use self::config::{
    DpoConfig, LmConfig, ModpoRunConfig, ObjectiveConfig, PpoRunConfig, PretrainConfig, ReferenceKind, RewardRunConfig,
    SIZES, SftConfig, StageKind,
};
pub use self::course::{AtStep, planned, read_config};
pub use self::outcome::{LmOutcome, LmSummary, Shown, member_folder};
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
    show: &(dyn Fn(Shown<'_>) + Sync),
) -> Result<LmOutcome, LmError> {
    match config.is_ensemble() {
        false => one::train(config, path, device, stop, show),
        true => ensemble::begin(config, path, device, stop, show),
    }
}

/// Goes on with an interrupted run from its newest checkpoint. What `set` lays over the configuration is recorded and
/// takes effect there; a finished run goes on with more steps.
///
/// # Errors
/// [`LmError`].
pub fn resume(
    path: &Path,
    set: &[Table],
    device: &Device,
    stop: &AtomicBool,
    show: &(dyn Fn(Shown<'_>) + Sync),
) -> Result<LmOutcome, LmError> {
    let folder = Folder::open_to_write(path)?;
    let config = read_config(path)?;
    match (config.is_ensemble(), planned(&config, set)?) {
        (false, planned) => one::resume(&folder, &config, planned, device, stop, show),
        (true, None) => ensemble::train(&config, path, device, stop, show),
        (true, Some(_)) => Err(LmError::Config(format!(
            "{}: is an ensemble, whose members are trained alike: nothing of it can change; train another one",
            path.display()
        ))),
    }
}

/// Checks that a run's newest whole checkpoint belongs to its configuration.
///
/// # Errors
/// [`DiskError::Edited`](crate::disk::DiskError::Edited); what cannot be read.
pub fn check(path: &Path, show: &(dyn Fn(Shown<'_>) + Sync)) -> Result<(), LmError> {
    let checkpoint = checkpoint::newest_checkpoint(path, show)?;
    course::Course::open(path, checkpoint.as_ref()).map(|_| ())
}
