//! How a run begins: its folder, and the policy that it starts from.

use std::fs;
use std::path::Path;

use burn::tensor::Device;

use super::error::RunError;
use super::policy::{BEGINNING, Policy};
use crate::control::config::Config;
use crate::control::drlhp::{self, Run};
use crate::disk::{Clock, Folder};
use crate::preference::Event;
use crate::preference::ledger::Ledger;

/// A claimed run folder, opened to continue its run.
pub struct Reopened {
    /// The newest state.
    pub run: Run,
    /// Time spent until then.
    pub clock: Clock,
    /// The ledger, to append to.
    pub ledger: Ledger,
    /// All of its events, including those that the state has not seen yet.
    pub events: Vec<Event>,
}

/// Gives a fresh run the policy that its configuration asks for, read from `kept`; without it, from where the
/// configuration says.
pub(super) fn begin(mut run: Run, kept: Option<&Path>, device: &Device) -> Result<Run, RunError> {
    let Some(init) = run.config.init.clone() else { return Ok(run) };
    let policy = beginning(&run.config, kept.unwrap_or(&init), device)?;
    run.agent.parameters = policy.agent.parameters;
    run.agent.observations = policy.agent.observations;
    Ok(run)
}

/// A policy that a run of this configuration can begin with.
fn beginning(config: &Config, path: &Path, device: &Device) -> Result<Policy, RunError> {
    let wrong = |problem: String| RunError::Beginning { path: path.to_owned(), problem };
    let policy = Policy::read(path, device).map_err(|error| wrong(error.to_string()))?;
    let (own, other) = (pairwise_envs::task(&config.env), pairwise_envs::task(&policy.env));
    if own != other {
        return Err(wrong(format!("is a policy of {other}, but the run is of {own}")));
    }
    if (&policy.ppo.hidden, policy.ppo.activation) != (&config.ppo.hidden, config.ppo.activation) {
        return Err(wrong(format!(
            "has hidden layers of {:?}, but ppo.hidden = {:?}: set ppo.hidden as the policy has it",
            policy.ppo.hidden, config.ppo.hidden
        )));
    }
    Ok(policy)
}

impl Folder {
    /// Makes a run folder with its configuration, and claims it.
    ///
    /// # Errors
    /// [`RunError::Disk`] when something is there already, somebody else makes it, or the file system says no; then
    /// nothing is left. [`RunError::Beginning`] when the run cannot begin with that policy.
    pub fn create(path: &Path, config: &Config) -> Result<Self, RunError> {
        Self::create_from(path, config, config.init.as_deref())
    }

    /// As [`Folder::create`], but the policy that the run begins with is read from `init`.
    pub(super) fn create_from(path: &Path, config: &Config, init: Option<&Path>) -> Result<Self, RunError> {
        // A copy is kept, since the original may change.
        let policy = init.map(|init| beginning(config, init, &Device::flex())).transpose()?;
        let folder = Self::create_with(path, &config.to_toml())?;
        if let Some(policy) = policy {
            // Without its beginning the folder would describe another run.
            policy.save(&folder.file(BEGINNING)).inspect_err(|_| {
                fs::remove_dir_all(path).ok();
            })?;
        }
        Ok(folder)
    }

    /// The newest state, to go on from, with its ledger.
    ///
    /// # Errors
    /// [`RunError`]. `warn` receives what was found damaged and left out.
    ///
    /// # Panics
    /// When the folder is not claimed.
    pub fn reopen(&self, device: &Device, warn: &mut dyn FnMut(String)) -> Result<Reopened, RunError> {
        self.assert_claimed();
        let newest = self.newest_checkpoint(warn)?;
        let path = self.ledger();
        if let Some(stored) = &newest {
            let (mark, iteration) = stored.mark()?;
            mark.check(&path, &format!("iteration {iteration}"))?;
        }
        let (ledger, events) = if path.exists() {
            let (ledger, events, warnings) = Ledger::open(&path)?;
            warnings.into_iter().for_each(|w| warn(w.to_string()));
            (ledger, events)
        } else {
            (Ledger::create(&path)?, Vec::new())
        };
        let (run, clock) = match newest {
            Some(stored) => stored.state(device)?,
            None => {
                let run = drlhp::start(self.first_config()?, device)?;
                (begin(run, Some(&self.file(BEGINNING)), device)?, Clock::new())
            }
        };
        self.cut_metrics(run.env_steps, warn)?;
        Ok(Reopened { run, clock, ledger, events })
    }
}
