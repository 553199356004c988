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

/// A claimed run folder opened to go on with.
pub struct Reopened {
    /// The newest state.
    pub run: Run,
    /// Time spent until then.
    pub clock: Clock,
    /// The ledger, to append to.
    pub ledger: Ledger,
    /// All that it holds, also what the state does not know yet.
    pub events: Vec<Event>,
}

/// Gives a fresh run the policy that its configuration asks for, from this file or run; `None` for the one it names.
pub(super) fn begin(run: &mut Run, kept: Option<&Path>, device: &Device) -> Result<(), RunError> {
    let Some(init) = run.config.init.clone() else { return Ok(()) };
    let policy = beginning(&run.config, kept.unwrap_or(&init), device)?;
    run.agent.parameters = policy.agent.parameters;
    run.agent.observations = policy.agent.observations;
    Ok(())
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
            "has hidden layers of {:?}, but ppo.hidden = {:?}: set it to the former",
            policy.ppo.hidden, config.ppo.hidden
        )));
    }
    Ok(policy)
}

impl Folder {
    /// Makes a run folder with its configuration, and claims it.
    ///
    /// # Errors
    /// [`DiskError::Occupied`] when something is there already; [`DiskError::Lock`] when somebody else makes it; I/O errors,
    /// after which nothing is left.
    pub fn create(path: &Path, config: &Config) -> Result<Self, RunError> {
        Self::create_from(path, config, config.init.as_deref())
    }

    /// As [`Folder::create`], with the policy that the run begins with taken from `init` instead of the configuration's place.
    pub(super) fn create_from(path: &Path, config: &Config, init: Option<&Path>) -> Result<Self, RunError> {
        // Kept, since the place may change.
        let policy = init.map(|init| beginning(config, init, &Device::flex())).transpose()?;
        let folder = Self::create_with(path, &config.to_toml())?;
        if let Some(policy) = policy {
            // Without it the folder would be of another run.
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
                let mut run = drlhp::start(self.first_config()?, device)?;
                begin(&mut run, Some(&self.file(BEGINNING)), device)?;
                (run, Clock::new())
            }
        };
        self.cut_metrics(run.env_steps, warn)?;
        Ok(Reopened { run, clock, ledger, events })
    }
}
