//! Evaluation: deterministic actions, true reward, fresh episodes.

use pairwise_envs::VecEnv;
use serde::{Deserialize, Serialize};

use super::ppo::Agent;
use crate::random::{Rng, stream};

/// True returns of a policy acting without exploration noise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Mean over the episodes.
    pub mean: f64,
    /// Standard deviation over the episodes.
    pub std: f64,
    /// Return of each episode, in the order of their initial states.
    pub returns: Vec<f64>,
}

/// Runs `episodes` episodes of `env`, each from its own initial state given by `seed`; the same seed gives every
/// policy the same initial states.
///
/// # Errors
/// When there is no such environment.
pub fn evaluate(agent: &Agent, env: &str, episodes: usize, seed: u64) -> Result<Evaluation, pairwise_envs::UnknownEnv> {
    let mut envs = VecEnv::new(env, episodes, seed, episode_rng)?;
    let mut returns = vec![None; episodes];
    // Every environment runs its first episode to the end; what faster ones do afterwards is ignored.
    while returns.iter().any(Option::is_none) {
        let actions = agent.act_deterministic(envs.observations());
        agent.head.step(&mut envs, &actions);
        for finished in envs.finished() {
            returns[finished.env].get_or_insert(finished.true_return);
        }
    }
    Ok(Evaluation::of(returns.into_iter().flatten().collect()))
}

fn episode_rng(seed: u64, env: usize, episode: u64) -> Rng {
    stream(seed, &format!("evaluation-episode-{env}"), episode)
}

impl Evaluation {
    /// Mean and standard deviation of returns.
    #[must_use]
    pub fn of(returns: Vec<f64>) -> Self {
        let n = returns.len().max(1) as f64;
        let mean = returns.iter().sum::<f64>() / n;
        let std = (returns.iter().map(|r| (r - mean) * (r - mean)).sum::<f64>() / n).sqrt();
        Self { mean, std, returns }
    }
}
