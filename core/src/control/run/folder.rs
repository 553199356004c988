//! A run's folder: what is written to it and read back.

use std::fs::{self, File, OpenOptions};
use std::path::PathBuf;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::checkpoint;
use super::error::RunError;
use super::moment::Moment;
use crate::control::config::{Config, RewardSource};
use crate::control::drlhp::{Report, Run};
use crate::disk::archive::{Archive, ArchiveError, write_atomically};
use crate::disk::changes::{self, CONFIGURATION, Change, fits_configuration};
use crate::disk::{Clock, DiskError, Folder, lines, shown, text};
use crate::preference::ledger::{MARK, Mark};

/// The results of a finished run: `summary.json`, and the last line that `--json` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Environment.
    pub env: String,
    /// Seed.
    pub seed: u64,
    /// What the agent was trained on.
    pub reward: RewardSource,
    /// Mean true return of the evaluation episodes, deterministic actions.
    pub true_return_mean: f64,
    /// Its standard deviation over episodes; `None` for a single one.
    pub true_return_std: Option<f64>,
    /// Evaluation episodes.
    pub episodes: usize,
    /// Questions asked.
    pub labels_asked: usize,
    /// Questions answered with anything but "skip".
    pub labels_answered: usize,
    /// Environment steps taken in training.
    pub env_steps: usize,
    /// Pearson correlation of learned and true reward, step by step, on a uniform sample of all training transitions.
    pub reward_pearson: Option<f64>,
    /// Spearman correlation on the same sample.
    pub reward_spearman: Option<f64>,
    /// EPIC distance of learned and true reward.
    pub epic: Option<f64>,
    /// Wall-clock seconds, summed over interruptions.
    pub wall_seconds: f64,
    /// CPU seconds of the process, summed over interruptions; `None` where the system does not tell.
    pub cpu_seconds: Option<f64>,
    /// Iterations in which the agent was trained on a reward that had not been fitted to any answer; left out of the
    /// file where it is 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unfitted_iterations: usize,
    /// SHA-256 of all weights.
    pub weights_sha256: String,
    /// Run folder: where it is now. The path in the file is only for readers.
    #[serde(serialize_with = "shown")]
    pub run_dir: PathBuf,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Checkpoints kept: the newest, and one more in case the newest is damaged.
const CHECKPOINTS_KEPT: usize = 2;

/// A whole checkpoint, with the configuration that it was made with.
pub(super) struct Stored {
    archive: Archive,
    name: PathBuf,
    config: Config,
}

impl Stored {
    /// What it has seen of the ledger, and its iteration.
    pub(super) fn mark(&self) -> Result<(Mark, usize), RunError> {
        let Self { archive, name, .. } = self;
        let read = || -> Result<(Mark, usize), ArchiveError> {
            let mark = if archive.meta.contains_key(MARK) {
                archive.get(MARK)?
            } else {
                // An older checkpoint has no mark, but it knows its answers, each of which has a line.
                let asked = archive.get::<Vec<serde_json::Value>>("comparisons")?.len() as u64;
                Mark { lines: asked.saturating_sub(archive.get("pending")?), chain: None }
            };
            Ok((mark, archive.get("iteration")?))
        };
        read().map_err(|source| DiskError::Misfit { path: name.clone(), source: source.into() }.into())
    }

    pub(super) fn state(self, device: &Device) -> Result<(Run, Clock), RunError> {
        let Self { archive, name, config } = self;
        let state = || -> Result<(Run, Clock), ArchiveError> {
            let clock = Clock::start(archive.get("wall_seconds")?, archive.get("cpu_seconds")?);
            Ok((checkpoint::from_archive(&archive, config, device)?, clock))
        };
        state().map_err(|source| DiskError::Misfit { path: name, source: source.into() }.into())
    }
}

impl Folder {
    /// The configuration as the run began.
    ///
    /// # Errors
    /// When the file is torn or holds something else.
    pub fn first_config(&self) -> Result<Config, RunError> {
        Ok(Config::read(&self.file("config.toml"))?)
    }

    /// The configuration as it is now: as the run began, with all changes since.
    ///
    /// # Errors
    /// When a file is torn or holds something else.
    pub fn config(&self) -> Result<Config, RunError> {
        let mut config = self.first_config()?;
        for (i, change) in changes::read::<Moment>(&self.path)?.iter().enumerate() {
            config = self.changed(&config, change, i)?;
        }
        Ok(config)
    }

    /// A configuration after the change in line `index` + 1.
    pub(super) fn changed(&self, config: &Config, change: &Change<Moment>, index: usize) -> Result<Config, RunError> {
        let wrong = |reason: String| DiskError::Line { path: self.file(changes::FILE), line: index + 1, reason };
        let mut table = config.to_table();
        changes::apply(&mut table, &change.fields).map_err(|error| wrong(error.to_string()))?;
        Config::from_table(table).map_err(|error| wrong(error.to_string()).into())
    }

    /// The summary of a finished run.
    ///
    /// # Errors
    /// When the run is not finished.
    pub fn summary(&self) -> Result<Summary, RunError> {
        let path = self.file("summary.json");
        let missing = DiskError::NotARun {
            path: self.path.clone(),
            missing: "summary.json of a finished run (finish it with `pairwise resume`); it",
        };
        let text = fs::read_to_string(&path).map_err(|_| missing)?;
        let summary: Summary = lines::from_text(&text)
            .map_err(|error| DiskError::io(&path, "read the summary")(std::io::Error::other(error)))?;
        // It may have been moved since.
        Ok(Summary { run_dir: self.path.clone(), ..summary })
    }

    /// The newest state, and the time spent until then; `None` before the first checkpoint. Damaged checkpoints are
    /// reported to `warn` and left out.
    ///
    /// # Errors
    /// When the folder cannot be listed, or a whole checkpoint does not fit the configuration.
    pub fn newest_state(
        &self,
        device: &Device,
        warn: &mut dyn FnMut(String),
    ) -> Result<Option<(Run, Clock)>, RunError> {
        self.newest_checkpoint(warn)?.map(|stored| stored.state(device)).transpose()
    }

    /// Checks that the newest whole checkpoint and the ledger belong to the configuration and to each other.
    ///
    /// # Errors
    /// [`DiskError::Edited`], and what [`Mark::check`] finds. `warn` receives what was found damaged.
    pub fn check(&self, warn: &mut dyn FnMut(String)) -> Result<(), RunError> {
        let Some(stored) = self.newest_checkpoint(warn)? else { return Ok(()) };
        let (mark, iteration) = stored.mark()?;
        Ok(mark.check(&self.ledger(), &format!("iteration {iteration}"))?)
    }

    /// The newest checkpoint that is whole, checked against the configuration.
    pub(super) fn newest_checkpoint(&self, warn: &mut dyn FnMut(String)) -> Result<Option<Stored>, RunError> {
        for name in self.checkpoints()?.into_iter().rev() {
            match Archive::load(&name).and_then(|all| all.check_finite(&name, &[]).map(|()| all)) {
                Ok(archive) => return self.fitting(archive, name).map(Some),
                Err(error) => warn(format!("{error}; trying the one before it")),
            }
        }
        Ok(None)
    }

    /// A checkpoint with the configuration that it was made with.
    fn fitting(&self, archive: Archive, name: PathBuf) -> Result<Stored, RunError> {
        let moment = || -> Result<Moment, ArchiveError> {
            let (env_steps, session) = (archive.get("env_steps")?, archive.get("sessions")?);
            Ok(Moment { env_steps, session, iteration: archive.get("iteration")? })
        };
        let now = moment().map_err(|source| DiskError::Misfit { path: name.clone(), source: source.into() })?;
        // It may have been made before or after a change of this very moment: either configuration may be its own.
        let mut candidates = vec![self.first_config()?];
        let recorded: Vec<Change<Moment>> = changes::read(&self.path)?;
        for (i, change) in recorded.iter().enumerate() {
            let config = self.changed(&candidates[candidates.len() - 1], change, i)?;
            match change.at < now {
                true => candidates = vec![config],
                false if change.at == now => candidates.push(config),
                false => break,
            }
        }
        let command = format!("pairwise resume {}", self.path.display());
        fits_configuration(&archive, &name, &candidates, Some(&command))?;
        changes::check_seen(&self.path, &recorded, &archive, &name, &now)?;
        let config = candidates.swap_remove(0);
        Ok(Stored { archive, name, config })
    }

    /// The reports of all iterations. Lines that cannot be read are reported to `warn` and left out.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn metrics(&self, warn: &mut dyn FnMut(String)) -> Result<Vec<Report>, DiskError> {
        let path = self.file("metrics.jsonl");
        let all = lines::read(&path).map_err(DiskError::io(&path, "read metrics"))?;
        let (reports, bad) = lines::split(all);
        bad.iter().for_each(|bad| warn(format!("{bad}; left out")));
        Ok(reports)
    }

    pub(super) fn open_metrics(&self) -> Result<File, DiskError> {
        let path = self.file("metrics.jsonl");
        OpenOptions::new().create(true).append(true).open(&path).map_err(DiskError::io(&path, "open metrics"))
    }

    /// Drops the reports of iterations after the checkpoint: they will be written again.
    pub(super) fn cut_metrics(&self, env_steps: usize, warn: &mut dyn FnMut(String)) -> Result<(), DiskError> {
        let path = self.file("metrics.jsonl");
        if !path.exists() {
            return Ok(());
        }
        let all = lines::read::<Report>(&path).map_err(DiskError::io(&path, "read metrics"))?;
        for bad in all.iter().filter_map(|line| line.value.as_ref().err()) {
            warn(format!("{bad}; {}", if bad.torn { "dropped" } else { "left as it is" }));
        }
        let kept = lines::until(all, env_steps as u64, |report| report.env_steps as u64);
        write_atomically(&path, &lines::join(&kept)).map_err(DiskError::io(&path, "write metrics"))
    }

    pub(super) fn checkpoints(&self) -> Result<Vec<PathBuf>, DiskError> {
        let path = self.file("checkpoints");
        let io = DiskError::io(&path, "list checkpoints");
        if !path.exists() {
            return Ok(Vec::new());
        }
        let entries = fs::read_dir(&path).map_err(&io)?.collect::<Result<Vec<_>, _>>().map_err(&io)?;
        let mut paths: Vec<PathBuf> = entries.iter().map(fs::DirEntry::path).collect();
        paths.retain(|p| p.extension().is_some_and(|e| e == "safetensors"));
        paths.sort();
        Ok(paths)
    }

    pub(super) fn save_checkpoint(&self, run: &Run, clock: &Clock, seen: &[Change<Moment>]) -> Result<(), RunError> {
        let mut archive = checkpoint::to_archive(run);
        archive.put("wall_seconds", &clock.wall());
        archive.put("cpu_seconds", &clock.cpu());
        archive.put(CONFIGURATION, &run.config.to_toml());
        archive.put(MARK, &Mark::of(&self.ledger(), run.sessions as u64)?);
        changes::note(&mut archive, seen);
        let path = self.file("checkpoints").join(format!("iteration-{:06}.safetensors", run.iteration));
        // Every number is checked where it arises; what slips through must not take the place of a good checkpoint.
        archive.check_finite(&path, &[])?;
        archive.save(&path)?;
        let all = self.checkpoints()?;
        for old in &all[..all.len().saturating_sub(CHECKPOINTS_KEPT)] {
            // An old checkpoint that stays does no harm.
            fs::remove_file(old).ok();
        }
        Ok(())
    }

    pub(super) fn write_summary(&self, summary: &Summary) -> Result<(), DiskError> {
        text::write(&self.file("summary.json"), &lines::pretty(summary))
    }
}
