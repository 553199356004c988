//! The configuration of a language model's run as it changes while the run goes on: see [`crate::disk::changes`].

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::Table;

use super::config::{LmConfig, StageKind, first_config};
use super::outcome::SUMMARY;
use crate::disk::archive::Archive;
use crate::disk::changes::{self, Change, Fields, Rules, fits_configuration};
use crate::disk::{DiskError, calendar, layers};
use crate::lm::error::LmError;

/// A point in the time of a run: after so many steps (iterations, with PPO).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AtStep {
    /// Steps taken.
    pub step: usize,
}

/// The fields of a configuration that may change during a run, with the effect of the change.
const MAY: &Rules = &[
    ("train.steps", "how long the run goes on"),
    ("train.epochs", "how long the run goes on"),
    ("train.optimizer.learning_rate", "of the next steps"),
    ("train.optimizer.schedule", "of the next steps"),
    ("train.optimizer.warmup", "of the next steps"),
    ("train.optimizer.weight_decay", "of the next steps"),
    ("train.optimizer.max_gradient_norm", "of the next steps"),
    ("train.part_tokens", "memory"),
    ("train.gradient_checkpointing", "memory"),
    ("train.log_every", "only reports"),
    ("train.eval_every", "only measures"),
    ("train.save_every", "only saves"),
    ("eval_samples", "only measures"),
    ("eval_tokens", "only measures"),
    ("ppo.algorithm.iterations", "how long the run goes on"),
    ("ppo.algorithm.optimizer.learning_rate", "of the next iterations"),
    ("ppo.algorithm.value_learning_rate", "of the next iterations"),
    ("ppo.algorithm.part_tokens", "memory"),
    ("ppo.algorithm.gradient_checkpointing", "memory"),
    ("model", "a folder that was moved"),
    ("data", "files that were moved"),
    ("eval_data", "files that were moved"),
    ("dpo.reference_model", "a folder that was moved"),
    ("ppo.reward_model", "a folder that was moved"),
];

/// The fields that may not change, with the reason.
const MAY_NOT: &Rules = &[
    ("stage", "it would be another run"),
    ("seed", "every draw comes from it, also those of the past"),
    ("device", "another device changes the last bits of every number"),
    ("precision", "the steps so far were computed in the other"),
    ("eval_share", "what was trained on cannot be held out"),
    ("chat_template", "the steps so far saw other texts"),
    ("template_date", "the steps so far saw other texts"),
    ("read", "the steps so far saw other rows"),
    ("conventions", "the steps so far saw other tokens"),
    ("train.batch_size", "the place in the data is counted in batches of this size"),
    ("train.optimizer", "the optimiser's state belongs to it"),
    ("lora", "the adapters have this shape"),
    ("pretrain", "the model was made so"),
];

/// Fields that PPO does not read, because it has its own.
const NOT_OF_PPO: [&str; 3] = ["train.steps", "train.epochs", "train.optimizer"];

/// Fields whose change still has an effect on a run that has taken all its steps: it is measured at its end.
const HARMLESS: [&str; 2] = ["eval_samples", "eval_tokens"];

/// The fields that `set` changes in a configuration, and the configuration after the change; `None` if it changes none.
///
/// # Errors
/// When a field may not change, or its value cannot be.
pub fn planned(config: &LmConfig, set: &[Table]) -> Result<Option<(Fields, LmConfig)>, LmError> {
    let new = config.with(set)?;
    let fields = changes::planned(&config.to_table(), &new.to_table(), MAY, MAY_NOT)
        .map_err(|e| LmError::Config(e.to_string()))?;
    let ignored = fields.keys().find(|name| NOT_OF_PPO.iter().any(|other| name.starts_with(other)));
    match ignored.filter(|_| config.stage == StageKind::Ppo) {
        Some(name) => Err(LmError::Config(format!(
            "--set {name}: PPO does not read it; it goes by ppo.algorithm.iterations, \
             ppo.algorithm.optimizer.learning_rate and so on"
        ))),
        None => Ok((!fields.is_empty()).then_some((fields, new))),
    }
}

/// The present configuration of a run folder: the one that the run began with, and all changes since.
///
/// # Errors
/// When it is missing or torn, or belongs to another kind of run.
pub fn read_config(path: &Path) -> Result<LmConfig, LmError> {
    let mut config = first_config(path)?;
    for (i, change) in changes::read::<AtStep>(path)?.iter().enumerate() {
        config = changed(path, &config, change, i)?;
    }
    Ok(config)
}

/// A configuration after the change in line `index` + 1 of a run folder's `changes.jsonl`.
fn changed(run: &Path, config: &LmConfig, change: &Change<AtStep>, index: usize) -> Result<LmConfig, LmError> {
    let wrong = |reason: String| DiskError::Line { path: run.join(changes::FILE), line: index + 1, reason };
    let mut table = config.to_table();
    changes::apply(&mut table, &change.fields).map_err(|error| wrong(error.to_string()))?;
    let config: LmConfig = layers::from_table(table).map_err(|error| wrong(error.to_string()))?;
    config.validate().map_err(|error| wrong(error.to_string()))?;
    Ok(config)
}

/// A run's configuration, and the changes that are still to come.
pub(super) struct Course<'a> {
    /// The run's folder.
    pub(super) run: &'a Path,
    /// The configuration after all changes that have taken effect.
    pub(super) config: LmConfig,
    recorded: Vec<Change<AtStep>>,
    /// How many of the recorded changes have taken effect.
    done: usize,
}

impl<'a> Course<'a> {
    /// The course of a run that begins.
    pub(super) fn new(run: &'a Path, config: &LmConfig) -> Self {
        Self { run, config: config.clone(), recorded: Vec::new(), done: 0 }
    }

    /// The course of a run that goes on from its start, or from a checkpoint, which must fit the configuration.
    pub(super) fn open(run: &'a Path, checkpoint: Option<&(PathBuf, Archive)>) -> Result<Self, LmError> {
        let now = checkpoint.map_or(Ok(0), |(_, archive)| archive.get("step"))?;
        let recorded: Vec<Change<AtStep>> = changes::read(run)?;
        let done = recorded.iter().take_while(|change| change.at.step < now).count();
        // The checkpoint may be from before or after a change at its own step: each of these configurations fits.
        let mut candidates = vec![first_config(run)?];
        for (i, change) in recorded.iter().enumerate().take_while(|(_, change)| change.at.step <= now) {
            let config = changed(run, &candidates[candidates.len() - 1], change, i)?;
            if i < done {
                candidates.clear();
            }
            candidates.push(config);
        }
        if let Some((path, archive)) = checkpoint {
            let command = format!("pairwise lm resume {}", run.display());
            fits_configuration(archive, path, &candidates, Some(&command))?;
            changes::check_seen(run, &recorded, archive, path, &AtStep { step: now })?;
        }
        Ok(Self { run, config: candidates.swap_remove(0), recorded, done })
    }

    /// Records a change of a run that has taken `step` steps. `total` gives a configuration's number of steps.
    pub(super) fn add(
        &mut self,
        step: usize,
        fields: Fields,
        new: &LmConfig,
        total: impl Fn(&LmConfig) -> usize,
    ) -> Result<(), LmError> {
        // A new change comes after all recorded ones.
        let at = AtStep { step: self.recorded.last().map_or(step, |last| last.at.step.max(step)) };
        let refuse = |problem: String| Err(LmError::Config(problem));
        let (steps, name) = (total(new), fields.keys().next().cloned().unwrap_or_default());
        if steps < at.step {
            return refuse(format!("--set {name}: gives {steps} steps, but the run has taken {} already", at.step));
        }
        let idle = fields.keys().find(|name| !HARMLESS.contains(&name.as_str()));
        if let Some(name) = idle.filter(|_| steps == at.step && total(&self.config) <= at.step) {
            return refuse(format!(
                "--set {name}: the run has taken all its {steps} steps, so this would change nothing: give it more too \
                 (train.steps, or with PPO ppo.algorithm.iterations)"
            ));
        }
        // The summary of the run so far is kept under another name.
        let summary = self.run.join(SUMMARY);
        if summary.exists() {
            let kept = self.run.join(format!("summary-{:08}.json", at.step));
            fs::rename(&summary, kept).map_err(DiskError::io(&summary, "keep the summary"))?;
        }
        let change = Change { at, fields, time: calendar::now() };
        changes::append(self.run, change.clone())?;
        self.recorded.push(change);
        Ok(())
    }

    /// The changes that have taken effect.
    pub(super) fn seen(&self) -> &[Change<AtStep>] {
        &self.recorded[..self.done]
    }

    /// Whether a change is due after `step` steps.
    pub(super) fn changes_after(&self, step: usize) -> bool {
        self.recorded.get(self.done).is_some_and(|change| change.at.step == step)
    }

    /// Lets the changes that are due after `step` steps take effect.
    pub(super) fn take_effect(&mut self, step: usize) -> Result<(), LmError> {
        while self.changes_after(step) {
            self.config = changed(self.run, &self.config, &self.recorded[self.done], self.done)?;
            self.done += 1;
        }
        Ok(())
    }
}
