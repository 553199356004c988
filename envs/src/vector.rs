//! Several copies of one environment stepped side by side, reset in the step that ends an episode.

use crate::env::{Action, Env, EnvSpec, Rng, StateError, Step};
use crate::tasks::{UnknownEnv, make};

/// `n` copies of an environment. After [`VecEnv::step`], [`VecEnv::observations`] are those to act on next (of a new
/// episode where one ended) and [`VecEnv::final_observations`] those that the step led to.
pub struct VecEnv {
    envs: Vec<Box<dyn Env>>,
    seed: u64,
    episode_rng: EpisodeRng,
    observations: Vec<f32>,
    final_observations: Vec<f32>,
    rewards: Vec<f64>,
    terminated: Vec<bool>,
    truncated: Vec<bool>,
    episodes: Vec<u64>,
    returns: Vec<f64>,
    lengths: Vec<u64>,
    finished: Vec<Finished>,
}

/// The random stream of an episode, from a seed, the environment's number and the episode's number. Addressing streams
/// instead of carrying them makes a snapshot complete without generator states.
pub type EpisodeRng = fn(seed: u64, env: usize, episode: u64) -> Rng;

/// One action for every environment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Actions<'a> {
    /// `[n]` elements of a discrete space.
    Discrete(&'a [usize]),
    /// `[n, action]` elements of a box, row-major.
    Continuous(&'a [f32]),
}

/// An episode that ended in the last step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Finished {
    /// Number of the environment.
    pub env: usize,
    /// Sum of true rewards.
    pub true_return: f64,
    /// Steps.
    pub length: u64,
}

/// Everything needed to go on exactly.
#[derive(Debug, Clone, PartialEq)]
pub struct VecEnvState {
    /// `[n, saved]`: environments' states.
    pub states: Vec<f64>,
    /// `[n]`: episodes begun before the present one.
    pub episodes: Vec<u64>,
    /// `[n]`: true return of the present episode so far.
    pub returns: Vec<f64>,
    /// `[n]`: its steps so far.
    pub lengths: Vec<u64>,
}

impl VecEnv {
    /// `n` copies of environment `id`, each at the start of its first episode.
    ///
    /// # Errors
    /// [`UnknownEnv`] when there is no such environment.
    pub fn new(id: &str, n: usize, seed: u64, episode_rng: EpisodeRng) -> Result<Self, UnknownEnv> {
        let mut envs = (0..n).map(|_| make(id)).collect::<Result<Vec<_>, _>>()?;
        let obs = make(id)?.spec().observation.len();
        let mut observations = vec![0.0; n * obs];
        for (i, env) in envs.iter_mut().enumerate() {
            env.reset(&mut episode_rng(seed, i, 0), &mut observations[i * obs..(i + 1) * obs]);
        }
        Ok(Self {
            envs,
            seed,
            episode_rng,
            final_observations: observations.clone(),
            observations,
            rewards: vec![0.0; n],
            terminated: vec![false; n],
            truncated: vec![false; n],
            episodes: vec![0; n],
            returns: vec![0.0; n],
            lengths: vec![0; n],
            finished: Vec::with_capacity(n),
        })
    }

    /// Number of environments.
    #[must_use]
    pub fn len(&self) -> usize {
        self.envs.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.envs.is_empty()
    }

    /// What they are.
    #[must_use]
    pub fn spec(&self) -> &'static EnvSpec {
        self.envs.first().expect("a vector of environments is made with at least one").spec()
    }

    /// Steps every environment; those whose episode ends begin the next one.
    ///
    /// # Panics
    /// When there are fewer actions than environments.
    pub fn step(&mut self, actions: Actions<'_>) {
        let obs = self.spec().observation.len();
        self.finished.clear();
        for (i, env) in self.envs.iter_mut().enumerate() {
            let action = match actions {
                Actions::Discrete(all) => Action::Discrete(all[i]),
                Actions::Continuous(all) => {
                    let len = all.len() / self.rewards.len();
                    Action::Continuous(&all[i * len..(i + 1) * len])
                }
            };
            let range = i * obs..(i + 1) * obs;
            let Step { reward, terminated, truncated } = env.step(action, &mut self.final_observations[range.clone()]);
            self.rewards[i] = reward;
            self.terminated[i] = terminated;
            self.truncated[i] = truncated;
            self.returns[i] += reward;
            self.lengths[i] += 1;
            if terminated || truncated {
                self.finished.push(Finished { env: i, true_return: self.returns[i], length: self.lengths[i] });
                self.episodes[i] += 1;
                self.returns[i] = 0.0;
                self.lengths[i] = 0;
                env.reset(&mut (self.episode_rng)(self.seed, i, self.episodes[i]), &mut self.observations[range]);
            } else {
                self.observations[range.clone()].copy_from_slice(&self.final_observations[range]);
            }
        }
    }

    /// `[n, obs]`: what to act on next.
    #[must_use]
    pub fn observations(&self) -> &[f32] {
        &self.observations
    }

    /// `[n, obs]`: what the last step led to, before any reset.
    #[must_use]
    pub fn final_observations(&self) -> &[f32] {
        &self.final_observations
    }

    /// `[n]`: true rewards of the last step.
    #[must_use]
    pub fn rewards(&self) -> &[f64] {
        &self.rewards
    }

    /// `[n]`: whether the task ended in the last step.
    #[must_use]
    pub fn terminated(&self) -> &[bool] {
        &self.terminated
    }

    /// `[n]`: whether the time limit was reached in the last step.
    #[must_use]
    pub fn truncated(&self) -> &[bool] {
        &self.truncated
    }

    /// Episodes that ended in the last step, by environment.
    #[must_use]
    pub fn finished(&self) -> &[Finished] {
        &self.finished
    }

    /// Writes every environment's present state.
    ///
    /// # Shapes
    /// - `states`: `[n, saved]`
    pub fn save_states(&self, states: &mut [f64]) {
        let saved = self.spec().saved_len;
        for (env, state) in self.envs.iter().zip(states.chunks_mut(saved)) {
            env.save(state);
        }
    }

    /// Everything needed to go on exactly, with the same seed.
    #[must_use]
    pub fn snapshot(&self) -> VecEnvState {
        let mut states = vec![0.0; self.len() * self.spec().saved_len];
        self.save_states(&mut states);
        let (episodes, returns, lengths) = (self.episodes.clone(), self.returns.clone(), self.lengths.clone());
        VecEnvState { states, episodes, returns, lengths }
    }

    /// Goes back to a snapshot.
    ///
    /// # Errors
    /// [`StateError`] when it is of another environment or another number of them.
    pub fn restore(&mut self, state: &VecEnvState) -> Result<(), StateError> {
        let (spec, n) = (self.spec(), self.len());
        let lengths = [state.episodes.len(), state.returns.len(), state.lengths.len()];
        if state.states.len() != n * spec.saved_len || lengths.iter().any(|&len| len != n) {
            let (id, names, saved_len, found) = (spec.id, spec.state, spec.saved_len, state.states.len() / n.max(1));
            return Err(StateError::Length { id, names, saved_len, found });
        }
        let obs = spec.observation.len();
        for (i, (env, saved)) in self.envs.iter_mut().zip(state.states.chunks(spec.saved_len)).enumerate() {
            env.load(saved)?;
            env.observe(&mut self.observations[i * obs..(i + 1) * obs]);
        }
        self.episodes.clone_from(&state.episodes);
        self.returns.clone_from(&state.returns);
        self.lengths.clone_from(&state.lengths);
        Ok(())
    }
}
