//! A run of one model, from its start or from its newest checkpoint.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use burn::tensor::Device;

use super::checkpoint::{checkpoints, newest_checkpoint};
use super::config::{LmConfig, StageKind};
use super::course::Course;
use super::execute::{execute, total_steps};
use super::outcome::{LmOutcome, Show};
use super::prepare::prepare;
use crate::disk::Folder;
use crate::disk::changes::Fields;
use crate::lm::error::LmError;
use crate::lm::open::asked_date;

/// Trains in a new folder.
///
/// # Errors
/// [`LmError`].
pub(super) fn train(
    config: &LmConfig,
    path: &Path,
    device: &Device,
    stop: &AtomicBool,
    show: &Show<'_>,
) -> Result<LmOutcome, LmError> {
    let config = checked(config)?;
    let folder = Folder::create_with(path, &config.to_toml())?;
    match prepare(&config, &folder, device, show) {
        Ok(prepared) => execute(Course::new(path, &config), &folder, &prepared, None, stop, show)
            .map_err(|error| error.with_checkpoint(|| checkpoints(path).pop())),
        Err(error) => {
            // A run that could not begin leaves no folder, which would stop the next try.
            let _ = fs::remove_dir_all(path);
            Err(error)
        }
    }
}

/// Goes on with a run that has this configuration. A `planned` change of the configuration is recorded first.
///
/// # Errors
/// [`LmError`].
pub(super) fn resume(
    folder: &Folder,
    config: &LmConfig,
    planned: Option<(Fields, LmConfig)>,
    device: &Device,
    stop: &AtomicBool,
    show: &Show<'_>,
) -> Result<LmOutcome, LmError> {
    let path = &folder.path;
    let checkpoint = newest_checkpoint(path, show)?;
    let mut course = Course::open(path, checkpoint.as_ref())?;
    let checkpoint = checkpoint.map(|(_, archive)| archive);
    // The newest configuration says where moved files are.
    let newest = planned.as_ref().map_or(config, |(_, new)| new);
    let prepared = prepare(newest, folder, device, show)?;
    if let Some((fields, new)) = planned {
        let step = checkpoint.as_ref().map_or(Ok(0), |archive| archive.get("step"))?;
        course.add(step, fields, &new, |config| total_steps(config, &prepared))?;
    }
    execute(course, folder, &prepared, checkpoint.as_ref(), stop, show)
        .map_err(|error| error.with_checkpoint(|| checkpoints(path).pop()))
}

/// A checked configuration for a new run. If the chat template asks for a date, today's date is recorded, so that the
/// run can be repeated.
///
/// # Errors
/// [`LmError::Config`].
pub(super) fn checked(config: &LmConfig) -> Result<LmConfig, LmError> {
    config.validate()?;
    config.template_time()?;
    let mut dated = config.clone();
    if config.template_date.is_none() && config.stage != StageKind::Pretrain {
        dated.template_date = asked_date(&config.model, config.template());
    }
    Ok(dated)
}
