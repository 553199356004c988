//! Policies in files of their own: fronts, soups and the window save them, and runs begin with them.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use sha2::{Digest as _, Sha256};

use super::checkpoint::{moments, put_moments};
use super::error::RunError;
use crate::control::rl::ppo::{Agent, PpoConfig};
use crate::disk::Folder;
use crate::disk::archive::{Archive, ArchiveError};
use crate::disk::files::hex;
use crate::nn::{parameter, to_host};
use crate::soup::{MergeConfig, merge};

/// A policy with all that is needed to use it.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Its environment.
    pub env: String,
    /// The algorithm that it was trained with, which says what its networks are.
    pub ppo: PpoConfig,
    /// Fingerprint of the policy that it was fine-tuned from, if it was.
    pub beginning: Option<String>,
    /// The policy itself.
    pub agent: Agent,
}

/// A policy that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// There is nothing at that place.
    #[error("{}: there is no such run or policy", path.display())]
    Missing {
        /// Where.
        path: PathBuf,
    },
    /// The file is missing, torn, or something else.
    #[error("{}: is not a policy: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ArchiveError,
    },
    /// The run cannot be read.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A run without a state.
    #[error("{}: has no checkpoint yet (`pairwise resume` makes one)", path.display())]
    NoState {
        /// The run.
        path: PathBuf,
    },
    /// No such environment.
    #[error(transparent)]
    Env(#[from] pairwise_envs::UnknownEnv),
    /// Policies that cannot be mixed.
    #[error("{0}")]
    Mix(String),
}

/// The file in a run's folder with the policy that the run began with.
pub const BEGINNING: &str = "beginning.safetensors";

impl Policy {
    /// Reads a policy's file, or the newest policy of a run's folder.
    ///
    /// # Errors
    /// [`PolicyError`]
    pub fn read(path: &Path, device: &Device) -> Result<Self, PolicyError> {
        if path.is_dir() {
            return Self::of_run(path, device);
        }
        if !path.exists() {
            return Err(PolicyError::Missing { path: path.to_owned() });
        }
        let file = |source| PolicyError::File { path: path.to_owned(), source };
        // A pipe would wait for somebody to write, and a device may never end.
        if !path.is_file() {
            let source = std::io::Error::other("is no regular file");
            return Err(file(ArchiveError::Io { path: path.to_owned(), source }));
        }
        let archive = Archive::load(path).map_err(file)?;
        archive.check_finite(path, &[]).map_err(file)?;
        let env: String = archive.get("env").map_err(file)?;
        let ppo: PpoConfig = archive.get("ppo").map_err(file)?;
        let task = pairwise_envs::make(&env)?;
        let spec = task.spec();
        // Before any network is made: the file may ask for one of any size.
        let count = Agent::parameters_of(&ppo, &spec.observation, &spec.action).ok_or_else(|| {
            let expected = "widths of layers that memory can hold";
            file(ArchiveError::entry("ppo.hidden", expected, format!("{:?}", ppo.hidden)))
        })?;
        let shape = [1, count];
        let parameters = archive.f32("parameters", &shape).map_err(file)?;
        let mut agent = Agent::new(&ppo, &spec.observation, &spec.action, 0, device);
        agent.parameters = parameter(parameters, shape, device);
        agent.observations = moments(&archive, "observations", spec.observation.len()).map_err(file)?;
        Ok(Self { env, ppo, beginning: archive.get("beginning").map_err(file)?, agent })
    }

    fn of_run(path: &Path, device: &Device) -> Result<Self, PolicyError> {
        let folder = Folder::open(path).map_err(RunError::from)?;
        let config = folder.config()?;
        let newest = folder.newest_state(device, &mut |_| ())?;
        let (run, _) = newest.ok_or_else(|| PolicyError::NoState { path: path.to_owned() })?;
        let beginning = match config.init {
            Some(_) => Some(Self::read(&path.join(BEGINNING), device)?.fingerprint()),
            None => None,
        };
        Ok(Self { env: config.env, ppo: config.ppo, beginning, agent: run.agent })
    }

    /// Writes it.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn save(&self, path: &Path) -> Result<(), ArchiveError> {
        let mut archive = Archive::default();
        archive.put("env", &self.env);
        archive.put("ppo", &self.ppo);
        archive.put("beginning", &self.beginning);
        let parameters = to_host(self.agent.parameters.clone().inner());
        archive.put_f32("parameters", &[1, parameters.len()], &parameters);
        put_moments(&mut archive, "observations", &self.agent.observations);
        archive.check_finite(path, &[])?;
        archive.save(path)
    }

    /// SHA-256 of its weights, as little-endian f32.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        to_host(self.agent.parameters.clone().inner()).iter().for_each(|value| hash.update(value.to_le_bytes()));
        hex(&hash.finalize())
    }
}

/// Σ w_i θ_i of policies that were fine-tuned from one: weights of policy, exploration and value function.
///
/// # Panics
/// When there are no policies, or they have different networks; [`mixable`] finds that out first.
#[must_use]
pub fn mixed(agents: &[&Agent], weights: &[f64]) -> Agent {
    let config = MergeConfig { weights: weights.to_vec(), normalize: Some(false), ..MergeConfig::default() };
    let parameters: Vec<Vec<f32>> = agents.iter().map(|agent| to_host(agent.parameters.clone().inner())).collect();
    let parts: Vec<&[f32]> = parameters.iter().map(Vec::as_slice).collect();
    let merged = merge(&config, "agent", None, &parts);
    let mut mixed = agents[0].clone();
    let device = mixed.parameters.device().without_autodiff();
    let shape = [1, merged.len()];
    mixed.parameters = parameter(merged, shape, &device);
    mixed
}

/// Whether policies can be mixed; `names` says whose they are.
///
/// # Errors
/// [`PolicyError::Mix`]: another body, other networks, or another beginning, with what would be right.
pub fn mixable(policies: &[Policy], names: &[String]) -> Result<(), PolicyError> {
    let wrong = |problem: String| Err(PolicyError::Mix(problem));
    let Some(first) = policies.first() else { return wrong("there are no policies to mix".to_owned()) };
    let task = |policy: &Policy| pairwise_envs::task(&policy.env).to_owned();
    for (policy, name) in policies.iter().zip(names).skip(1) {
        let one = &names[0];
        if task(policy) != task(first) {
            return wrong(format!(
                "{one} is of {} and {name} of {}: policies of one body can be mixed",
                task(first),
                task(policy)
            ));
        }
        if policy.ppo.hidden != first.ppo.hidden || policy.ppo.activation != first.ppo.activation {
            return wrong(format!(
                "{one} has hidden layers of {:?} and {name} of {:?}: only networks of one shape can be mixed",
                first.ppo.hidden, policy.ppo.hidden
            ));
        }
        let begun = |policy: &Policy| match &policy.beginning {
            Some(fingerprint) => format!("from {}…", &fingerprint[..12]),
            None => "from random weights".to_owned(),
        };
        if policy.beginning.is_none() || policy.beginning != first.beginning {
            return wrong(format!(
                "{one} began {}, {name} {}: weights can be mixed where all were fine-tuned from one policy \
                 (pairwise train … --init RUN)",
                begun(first),
                begun(policy)
            ));
        }
        if policy.agent.observations != first.agent.observations {
            return wrong(format!(
                "{one} and {name} read observations on different scales: fine-tune both with the statistics of their \
                 beginning (ppo.normalize_observations = false, as --init sets it)"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use pairwise_envs::make;

    use super::{Policy, mixable, mixed};
    use crate::control::rl::ppo::{Agent, PpoConfig};
    use crate::nn::to_host;

    fn policy(env: &str, seed: u64, hidden: &[usize]) -> Policy {
        let ppo = PpoConfig { hidden: hidden.to_vec(), ..PpoConfig::default() };
        let task = make(env).unwrap();
        let agent = Agent::new(&ppo, &task.spec().observation, &task.spec().action, seed, &Device::flex());
        Policy { env: env.to_owned(), ppo, beginning: Some("0123456789abcdef".to_owned()), agent }
    }

    #[test]
    fn a_saved_policy_is_read_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.safetensors");
        let mut saved = policy("reacher-gentle", 4, &[8, 8]);
        saved.agent.observations.update(&[1.0; 16]);
        saved.save(&path).unwrap();
        let read = Policy::read(&path, &Device::flex()).unwrap();
        assert_eq!((read.fingerprint(), &read.env, &read.ppo), (saved.fingerprint(), &saved.env, &saved.ppo));
        assert!(read.agent.observations == saved.agent.observations && read.beginning == saved.beginning);
        std::fs::write(&path, "nothing").unwrap();
        let error = Policy::read(&path, &Device::flex()).unwrap_err().to_string();
        assert!(error.contains("policy.safetensors: is not a policy"), "{error}");
        let error = Policy::read(folder.path(), &Device::flex()).unwrap_err().to_string();
        assert!(error.contains("config.toml"), "{error}");
    }

    /// A file may ask for networks of any size, and have statistics of any length.
    #[test]
    fn sizes_are_compared_before_a_network_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.safetensors");
        let saved = policy("pendulum", 4, &[8]);
        let error = |change: &dyn Fn(&mut Policy)| {
            let mut changed = saved.clone();
            change(&mut changed);
            changed.save(&path).unwrap();
            Policy::read(&path, &Device::flex()).unwrap_err().to_string()
        };
        for hidden in [vec![1 << 40, 1 << 40], vec![1 << 20, 1 << 20], vec![usize::MAX], vec![0], vec![9]] {
            let found = error(&|policy| policy.ppo.hidden = hidden.clone());
            assert!(found.contains("policy.safetensors: is not a policy: checkpoint entry '"), "{found}");
            assert!(found.contains("'ppo.hidden'") || found.contains("'parameters': expected F32 [1, "), "{found}");
        }
        for (what, change) in [
            ("mean", (|policy: &mut Policy| policy.agent.observations.mean.clear()) as fn(&mut Policy)),
            ("squares", |policy| policy.agent.observations.squares.push(1.0)),
            ("squares", |policy| policy.agent.observations.squares[0] = -1.0),
            ("count", |policy| policy.agent.observations.count = -1.0),
        ] {
            let found = error(&change);
            assert!(found.contains(&format!("checkpoint entry 'observations.{what}': expected ")), "{found}");
        }
    }

    #[test]
    fn a_mix_of_three_is_the_weighted_sum() {
        let three = [1, 2, 3].map(|seed| policy("reacher", seed, &[8]));
        let weights = |agent: &Agent| to_host(agent.parameters.clone().inner());
        let all = three.each_ref().map(|policy| &policy.agent);
        let found = weights(&mixed(&all, &[0.5, 0.25, 0.25]));
        for (i, found) in found.iter().enumerate() {
            let [a, b, c] = all.map(|agent| weights(agent)[i]);
            assert!((found - (0.5 * a + 0.25 * b + 0.25 * c)).abs() < 1e-6);
        }
    }

    #[test]
    fn what_cannot_be_mixed_is_refused_with_the_reason() {
        let names = ["a".to_owned(), "b".to_owned()];
        let problem = |other: Policy| mixable(&[policy("reacher", 1, &[8]), other], &names).unwrap_err().to_string();
        mixable(&[policy("reacher", 1, &[8]), policy("reacher-gentle", 2, &[8])], &names).unwrap();
        assert!(problem(policy("pendulum", 2, &[8])).contains("a is of reacher and b of pendulum"));
        assert!(problem(policy("reacher", 2, &[9])).contains("hidden layers of [8] and b of [9]"));
        let other = Policy { beginning: Some("fedcba9876543210".to_owned()), ..policy("reacher", 2, &[8]) };
        assert!(problem(other).contains("a began from 0123456789ab…, b from fedcba987654…"));
        let fresh = Policy { beginning: None, ..policy("reacher", 2, &[8]) };
        assert!(problem(fresh).contains("b from random weights"));
        let mut scaled = policy("reacher", 2, &[8]);
        scaled.agent.observations.update(&[1.0; 16]);
        assert!(problem(scaled).contains("different scales"));
    }
}
