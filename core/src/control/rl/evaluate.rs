//! Evaluation: deterministic actions (or random ones, to compare with), true reward, fresh episodes.

use pairwise_envs::VecEnv;
use serde::{Deserialize, Serialize};

use super::ppo::{ActionHead, Agent, random_actions};
use crate::preference::statistics::deviation;
use crate::random::{Rng, stream};

/// True returns of a policy acting without exploration noise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Mean over the episodes.
    pub mean: f64,
    /// Standard deviation over the episodes; `None` for a single one.
    pub std: Option<f64>,
    /// Return of each episode, in the order of their initial states.
    pub returns: Vec<f64>,
}

/// Runs `episodes` episodes of `env`, each from its own initial state given by `seed`; the same seed gives every
/// policy the same initial states.
///
/// # Errors
/// When there is no such environment.
pub fn evaluate(agent: &Agent, env: &str, episodes: usize, seed: u64) -> Result<Evaluation, pairwise_envs::UnknownEnv> {
    first_episodes(env, episodes, seed, &mut |envs| {
        let actions = agent.act_deterministic(envs.observations());
        agent.head.step(envs, &actions);
    })
}

/// Evaluates uniformly random actions, whose mean return is the zero of normalised returns.
///
/// # Errors
/// When there is no such environment.
pub fn evaluate_random(env: &str, episodes: usize, seed: u64) -> Result<Evaluation, pairwise_envs::UnknownEnv> {
    let head = ActionHead::new(&pairwise_envs::make(env)?.spec().action);
    let mut rng = stream(seed, "evaluation-actions", 0);
    first_episodes(env, episodes, seed, &mut |envs| {
        let actions = random_actions(&head, envs.len(), &mut rng);
        head.step(envs, &actions);
    })
}

fn first_episodes(
    env: &str,
    episodes: usize,
    seed: u64,
    step: &mut dyn FnMut(&mut VecEnv),
) -> Result<Evaluation, pairwise_envs::UnknownEnv> {
    let mut envs = VecEnv::new(env, episodes, seed, episode_rng)?;
    let mut returns = vec![None; episodes];
    // Every environment runs its first episode to the end; what faster ones do afterwards is ignored.
    while returns.iter().any(Option::is_none) {
        step(&mut envs);
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
    /// Mean and standard deviation of at least one return.
    #[must_use]
    pub fn of(returns: Vec<f64>) -> Self {
        let (mean, std) = deviation(&returns);
        Self { mean, std: (returns.len() > 1).then_some(std), returns }
    }
}
