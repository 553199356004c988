//! Changes of a run's configuration while the run goes on.

use std::fs;

use toml::Table;

use super::error::RunError;
use super::moment::{self, Moment};
use crate::control::config::Config;
use crate::control::drlhp::Run;
use crate::disk::changes::{self, Change, Fields};
use crate::disk::{DiskError, Folder, calendar};

/// The fields of a configuration that `set` changes, and the new configuration; `None` if nothing changes.
///
/// # Errors
/// When a field may not change, or its new value is invalid.
pub fn planned(config: &Config, set: &[Table]) -> Result<Option<(Fields, Config)>, RunError> {
    let new = config.with(set)?;
    let fields = changes::planned(&config.to_table(), &new.to_table(), moment::MAY, moment::MAY_NOT)?;
    Ok((!fields.is_empty()).then_some((fields, new)))
}

/// The changes of a run's configuration, as they take effect.
pub(super) struct Changes<'a> {
    folder: &'a Folder,
    /// All that were recorded, in order.
    recorded: Vec<Change<Moment>>,
    /// How many of them have taken effect.
    done: usize,
}

impl<'a> Changes<'a> {
    /// Those of a folder; a run from a checkpoint contains those before the checkpoint already.
    pub(super) fn open(folder: &'a Folder, run: &Run) -> Result<Self, RunError> {
        let recorded: Vec<Change<Moment>> = changes::read(&folder.path)?;
        let done = recorded.iter().take_while(|change| change.at < moment(run)).count();
        Ok(Self { folder, recorded, done })
    }

    /// Those that have taken effect.
    pub(super) fn seen(&self) -> &[Change<Moment>] {
        &self.recorded[..self.done]
    }

    /// Lets those that are due now take effect.
    pub(super) fn take_effect(&mut self, run: &mut Run) -> Result<(), RunError> {
        while let Some(change) = self.recorded.get(self.done).filter(|change| change.at == moment(run)) {
            run.config = self.folder.changed(&run.config, change, self.done)?;
            self.done += 1;
        }
        Ok(())
    }

    /// Lets those that are due take effect, and, after the last recorded one, what `set` asks for.
    pub(super) fn next(&mut self, run: &mut Run, set: impl FnOnce(&Run) -> Option<Vec<Table>>) -> Result<(), RunError> {
        self.take_effect(run)?;
        match self.done == self.recorded.len() {
            true => set(run).map_or(Ok(()), |set| self.add(run, &set)),
            false => Ok(()),
        }
    }

    /// Records a change and lets it take effect.
    fn add(&mut self, run: &mut Run, set: &[Table]) -> Result<(), RunError> {
        let Some((fields, config)) = planned(&run.config, set)? else { return Ok(()) };
        let refuse = |problem: String| Err(RunError::Unchangeable(problem));
        if config.iterations() < run.iteration {
            return refuse(format!("--set steps={}: the run has taken {} steps already", config.steps, run.env_steps));
        }
        let over = run.env_steps > 0 && run.iteration >= config.iterations();
        let idle =
            fields.keys().find(|name| !["steps", "evaluation_episodes", "checkpoint_every"].contains(&name.as_str()));
        if let Some(name) = idle.filter(|_| over) {
            return refuse(format!(
                "--set {name}: the run has taken all its steps, so this would change nothing: give it more steps too, \
                 for example --set steps={}",
                2 * config.steps
            ));
        }
        // The summary of the run so far is kept under another name.
        let summary = self.folder.file("summary.json");
        if summary.exists() {
            let kept = self.folder.file(&format!("summary-{:09}.json", run.env_steps));
            fs::rename(&summary, kept).map_err(DiskError::io(&summary, "keep the summary"))?;
        }
        let change = Change { at: moment(run), fields, time: calendar::now() };
        changes::append(&self.folder.path, change.clone())?;
        self.recorded.push(change);
        self.done = self.recorded.len();
        run.config = config;
        Ok(())
    }

    /// Refuses a run that has ended before a recorded change took effect.
    pub(super) fn all_were_due(&self, run: &Run) -> Result<(), RunError> {
        let Some(change) = self.recorded.get(self.done) else { return Ok(()) };
        let reason = format!(
            "takes effect after {} steps and {} sessions, which the run never reached: it ended after {} and {}",
            change.at.env_steps, change.at.session, run.env_steps, run.sessions
        );
        Err(DiskError::Line { path: self.folder.file(changes::FILE), line: self.done + 1, reason }.into())
    }
}

/// Where a run is.
fn moment(run: &Run) -> Moment {
    Moment { env_steps: run.env_steps, session: run.sessions, iteration: run.iteration }
}
