//! Proximal Policy Optimization (Schulman et al. 2017, arXiv 1707.06347), top to bottom:
//! configuration → agent → acting → collecting a rollout → advantages (GAE) → update.
//!
//! The reward is a parameter of [`update`]: the true one for the baseline, the learned one otherwise. Nothing in here
//! reads the true reward that a [`Rollout`] carries for teachers and metrics.

use burn::tensor::{Device, Int, Tensor, TensorData};
use pairwise_envs::{Action, Actions, Env, Space, Step, VecEnv};
use rand::RngExt as _;
use rand::seq::SliceRandom as _;
use rand_distr::{Distribution as _, StandardNormal};
use serde::{Deserialize, Serialize};

use super::normalize::RunningMoments;
use crate::advantage::gae;
use crate::nn::fused::{self, ActorCritic, HALF_LN_2PI, PpoLoss};
use crate::nn::{self, Activation, Adam, AdamConfig, Layout, Mlp, constant, parameter, to_host};
use crate::random::{Rng, stream};

/// Hyper-parameters of PPO.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PpoConfig {
    /// Environments stepped side by side (N).
    pub envs: usize,
    /// Steps of each environment between two updates (T).
    pub rollout_steps: usize,
    /// Passes over a rollout (K).
    pub epochs: usize,
    /// Transitions in a minibatch (M).
    pub minibatch_size: usize,
    /// Adam's learning rate at the start.
    pub learning_rate: f64,
    /// Anneal the learning rate linearly to zero over the run.
    pub anneal_learning_rate: bool,
    /// Discount γ.
    pub gamma: f64,
    /// λ of generalised advantage estimation.
    pub gae_lambda: f64,
    /// Clipping range ε of the probability ratio (eq. 7).
    pub clip_range: f64,
    /// Anneal the clipping range linearly to zero over the run.
    pub anneal_clip_range: bool,
    /// Weight c₂ of the entropy bonus (eq. 9).
    pub entropy_coefficient: f64,
    /// Weight c₁ of the value loss (eq. 9).
    pub value_coefficient: f64,
    /// Largest global gradient norm.
    pub max_gradient_norm: f32,
    /// Widths of the hidden layers of both networks, policy and value.
    pub hidden: Vec<usize>,
    /// Nonlinearity of both networks.
    pub activation: Activation,
    /// Logarithm of the Gaussian policy's standard deviation at the start, in units of half the action range.
    pub initial_log_std: f32,
    /// Normalise observations with running statistics, frozen during a rollout and its update.
    pub normalize_observations: bool,
    /// Scale rewards by the running standard deviation of discounted returns.
    pub scale_rewards: bool,
    /// Normalise advantages within a minibatch.
    pub normalize_advantages: bool,
}

/// Policy, value function and their optimiser.
#[derive(Debug, Clone)]
pub struct Agent {
    /// The networks: observation → logits (discrete) or mean action (continuous, 1 = upper bound), and → value.
    pub networks: ActorCritic,
    /// `[1, networks.len()]`: their parameters, so that one step of Adam is one operation.
    pub parameters: Tensor<2>,
    /// Adam over `parameters`.
    pub optimizer: Adam,
    /// Statistics for observation normalisation.
    pub observations: RunningMoments,
    /// How the policy's outputs become actions.
    pub head: ActionHead,
}

/// How a network's output becomes an action.
#[derive(Debug, Clone, PartialEq)]
pub enum ActionHead {
    /// A softmax over `n` actions.
    Categorical {
        /// Number of actions.
        n: usize,
    },
    /// A diagonal Gaussian in units of half the action range around its middle.
    Gaussian {
        /// Middle of the range, element by element.
        middle: Vec<f32>,
        /// Half the range (1 where it is unbounded).
        half: Vec<f32>,
    },
}

/// `steps` transitions of each of `envs` environments. Everything is environment-major: index = env · steps + t.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rollout {
    /// Environments.
    pub envs: usize,
    /// Steps of each.
    pub steps: usize,
    /// `[envs, steps, obs]`: raw observations before the action.
    pub observations: Vec<f32>,
    /// `[envs, steps, obs]`: raw observations after the action, before any reset.
    pub next_observations: Vec<f32>,
    /// `[envs, steps, action]`: what the policy drew: an index, or unclipped Gaussian samples.
    pub actions: Vec<f32>,
    /// `[envs, steps]`: log π(a|s) when drawn.
    pub log_probs: Vec<f32>,
    /// `[envs, steps, saved]`: states before the action, for clips.
    pub states: Vec<f64>,
    /// `[envs, steps]`: true reward, for teachers and metrics only.
    pub true_rewards: Vec<f64>,
    /// `[envs, steps]`: the task ended.
    pub terminated: Vec<bool>,
    /// `[envs, steps]`: the episode ended, by the task or by its time limit.
    pub done: Vec<bool>,
    /// True returns of the episodes that ended in this rollout, in the order in which they ended.
    pub episode_returns: Vec<f64>,
}

/// What an update reports; means over its minibatches.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct UpdateMetrics {
    /// Clipped surrogate loss (eq. 7, negated).
    pub policy_loss: f64,
    /// Mean squared error of the value function.
    pub value_loss: f64,
    /// Policy entropy, nats.
    pub entropy: f64,
    /// E[(r − 1) − ln r], the k3 estimator of KL(old ‖ new) (joschu.net/blog/kl-approx.html).
    pub approx_kl: f64,
    /// Share of samples whose ratio was outside the clipping range.
    pub clip_fraction: f64,
    /// Global gradient norm before clipping.
    pub gradient_norm: f64,
    /// 1 − Var(return − value) / Var(return), before the update; `None` where all returns are the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explained_variance: Option<f64>,
}

impl Rollout {
    /// The earliest number that is not finite, and what it belongs to; within a step, the policy's numbers come before
    /// the environment's. A reward must fit single precision, in which its statistics are kept.
    #[must_use]
    pub fn not_finite(&self, env: &str) -> Option<(String, f64)> {
        let rows = self.envs * self.steps;
        let step = |row: usize| row % self.steps.max(1);
        let floats = [
            ("the observation of", &self.observations),
            ("the action of the policy in", &self.actions),
            ("the log-probability of the policy's action in", &self.log_probs),
            ("the observation after a step of", &self.next_observations),
        ];
        let found = floats.into_iter().flat_map(|(what, values)| {
            let width = (values.len() / rows.max(1)).max(1);
            let wrong = values.iter().enumerate().filter(|(_, value)| !value.is_finite());
            wrong.map(move |(place, value)| (place / width, what, f64::from(*value)))
        });
        let wrong = self.true_rewards.iter().enumerate().filter(|(_, reward)| !(**reward as f32).is_finite());
        let rewards = wrong.map(|(row, reward)| (row, "the reward of", *reward));
        let (row, what, found) = found.chain(rewards).min_by_key(|(row, ..)| step(*row))?;
        let copy = row / self.steps.max(1);
        Some((format!("{what} {env} (environment {copy} of {}, step {} of the rollout)", self.envs, step(row)), found))
    }
}

impl UpdateMetrics {
    /// The first of these numbers that is not finite, and its name.
    #[must_use]
    pub fn not_finite(&self) -> Option<(&'static str, f64)> {
        let Self { policy_loss, value_loss, entropy, approx_kl, clip_fraction, gradient_norm, explained_variance } =
            *self;
        let all = [
            ("policy loss", policy_loss),
            ("value loss", value_loss),
            ("entropy", entropy),
            ("divergence from the policy before the update", approx_kl),
            ("share of clipped samples", clip_fraction),
            ("gradient norm", gradient_norm),
            ("explained variance", explained_variance.unwrap_or_default()),
        ];
        all.into_iter().find(|(_, value)| !value.is_finite())
    }
}

impl Default for PpoConfig {
    fn default() -> Self {
        Self {
            envs: 8,
            rollout_steps: 256,
            epochs: 10,
            minibatch_size: 64,
            learning_rate: 3e-4,
            anneal_learning_rate: true,
            gamma: 0.99,
            gae_lambda: 0.95,
            clip_range: 0.2,
            anneal_clip_range: false,
            entropy_coefficient: 0.0,
            value_coefficient: 0.5,
            max_gradient_norm: 0.5,
            hidden: vec![64, 64],
            activation: Activation::Tanh,
            initial_log_std: 0.0,
            normalize_observations: true,
            scale_rewards: true,
            normalize_advantages: true,
        }
    }
}

// ------------------------------------------------------------------------------------------------------- the agent

impl Agent {
    /// The networks that an agent for these spaces has.
    fn networks(config: &PpoConfig, observation: &Space, head: &ActionHead) -> ActorCritic {
        let network = |output: usize| Layout {
            sizes: std::iter::once(observation.len()).chain(config.hidden.iter().copied()).chain([output]).collect(),
            activation: config.activation,
            output: Activation::Identity,
        };
        ActorCritic {
            policy: network(head.outputs()),
            log_std: if matches!(head, ActionHead::Gaussian { .. }) { head.outputs() } else { 0 },
            value: network(1),
        }
    }

    /// How many parameters an agent for these spaces has, without making one: a file may ask for networks of any size.
    /// `None` where the number overflows or a layer has no units.
    #[must_use]
    pub fn parameters_of(config: &PpoConfig, observation: &Space, action: &Space) -> Option<usize> {
        let networks = Self::networks(config, observation, &ActionHead::new(action));
        let len = |layout: &Layout| {
            layout.sizes.windows(2).try_fold(0_usize, |sum, pair| {
                let layer = pair[0].checked_add(1)?.checked_mul(pair[1])?;
                sum.checked_add(layer).filter(|_| pair[1] > 0)
            })
        };
        len(&networks.policy)?.checked_add(networks.log_std)?.checked_add(len(&networks.value)?)
    }

    /// A fresh agent for the given spaces; weights come from the stream `"agent"` of `seed`.
    #[must_use]
    pub fn new(config: &PpoConfig, observation: &Space, action: &Space, seed: u64, device: &Device) -> Self {
        let head = ActionHead::new(action);
        let networks = Self::networks(config, observation, &head);
        let mut rng = stream(seed, "agent", 0);
        // A small last layer starts the policy near uniform; see "What Matters in On-Policy RL", arXiv 2006.05990.
        let mut parameters = networks.policy.orthogonal(0.01, &mut rng);
        parameters.extend(std::iter::repeat_n(config.initial_log_std, networks.log_std));
        parameters.extend(networks.value.orthogonal(1.0, &mut rng));
        Self {
            parameters: parameter(parameters, [1, networks.len()], device),
            networks,
            optimizer: Adam::new(AdamConfig::default()),
            observations: RunningMoments::new(observation.len()),
            head,
        }
    }

    /// The policy network, without gradients.
    #[must_use]
    pub fn policy(&self) -> Mlp {
        Mlp { layout: self.networks.policy.clone(), parameters: self.part(self.networks.policy_range()) }
    }

    /// The value network, without gradients.
    #[must_use]
    pub fn value(&self) -> Mlp {
        Mlp { layout: self.networks.value.clone(), parameters: self.part(self.networks.value_range()) }
    }

    /// `[action]`: log standard deviation of the Gaussian policy; empty for discrete actions.
    #[must_use]
    pub fn log_std(&self) -> Vec<f32> {
        if self.networks.log_std == 0 { Vec::new() } else { to_host(self.part(self.networks.log_std_range())) }
    }

    fn part(&self, range: std::ops::Range<usize>) -> Tensor<2> {
        self.parameters.clone().inner().narrow(1, range.start, range.len())
    }

    /// All parameters with their names, without gradients.
    #[must_use]
    pub fn named(&self) -> Vec<(String, Tensor<3>)> {
        let prefixed = |prefix: &str, (name, tensor)| (format!("{prefix}.{name}"), tensor);
        let policy = self.policy().named().into_iter().map(|p| prefixed("policy", p));
        let log_std = (self.networks.log_std > 0)
            .then(|| ("policy.log_std".to_owned(), self.part(self.networks.log_std_range()).unsqueeze_dim(0)));
        let value = self.value().named().into_iter().map(|p| prefixed("value", p));
        policy.chain(log_std).chain(value).collect()
    }

    /// Replaces the parameters by tensors in the order and the shapes of [`Agent::named`].
    ///
    /// # Panics
    /// When there is a tensor too many or too few.
    pub fn set_named(&mut self, tensors: Vec<Tensor<3>>) {
        self.parameters = nn::joined(tensors, [1, self.networks.len()]);
    }

    /// Actions without exploration noise: the mode of the policy.
    ///
    /// # Shapes
    /// - `observations`: `[n, obs]`, raw
    /// - returns `[n, action]`: indices, or means in units of half the action range
    #[must_use]
    pub fn act_deterministic(&self, observations: &[f32]) -> Vec<f32> {
        let mut outputs = Vec::new();
        self.policy().evaluate(&self.observations.normalize(observations), &mut outputs);
        match &self.head {
            ActionHead::Categorical { n } => outputs.chunks(*n).map(|logits| argmax(logits) as f32).collect(),
            ActionHead::Gaussian { .. } => outputs,
        }
    }

    /// Value of each observation.
    ///
    /// # Shapes
    /// - `observations`: `[n, obs]`, raw
    /// - returns `[n]`
    #[must_use]
    pub fn values(&self, observations: &[f32]) -> Vec<f32> {
        let mut values = Vec::new();
        self.value().evaluate(&self.observations.normalize(observations), &mut values);
        values
    }
}

impl ActionHead {
    /// The head for an action space.
    #[must_use]
    pub fn new(space: &Space) -> Self {
        match space {
            Space::Discrete { n } => Self::Categorical { n: *n },
            Space::Box { low, high } => {
                let bounded = |low: f32, high: f32| low.is_finite() && high.is_finite();
                let middle = |(&low, &high)| if bounded(low, high) { 0.5 * (low + high) } else { 0.0 };
                let half = |(&low, &high)| if bounded(low, high) { 0.5 * (high - low) } else { 1.0 };
                Self::Gaussian {
                    middle: low.iter().zip(high).map(middle).collect(),
                    half: low.iter().zip(high).map(half).collect(),
                }
            }
        }
    }

    /// Outputs of the policy network.
    #[must_use]
    pub fn outputs(&self) -> usize {
        match self {
            Self::Categorical { n } => *n,
            Self::Gaussian { half, .. } => half.len(),
        }
    }

    /// Numbers that describe one drawn action.
    #[must_use]
    pub fn action_len(&self) -> usize {
        match self {
            Self::Categorical { .. } => 1,
            Self::Gaussian { half, .. } => half.len(),
        }
    }

    /// A drawn action as a reward predictor sees it: one-hot, or the action as executed, in [−1, 1].
    ///
    /// # Shapes
    /// - `actions`: `[n, action_len]`
    /// - returns `[n, outputs]`
    #[must_use]
    pub fn features(&self, actions: &[f32]) -> Vec<f32> {
        match self {
            Self::Categorical { n } => {
                let one_hot = |&action: &f32| (0..*n).map(move |i| f32::from(u8::from(action == i as f32)));
                actions.iter().flat_map(one_hot).collect()
            }
            Self::Gaussian { .. } => actions.iter().map(|a| a.clamp(-1.0, 1.0)).collect(),
        }
    }

    /// Steps one environment with an action given as features.
    ///
    /// # Shapes
    /// - `features`: `[outputs]`
    pub fn step_one(&self, env: &mut dyn Env, features: &[f32], observation: &mut [f32]) -> Step {
        match self {
            Self::Categorical { .. } => env.step(Action::Discrete(argmax(features)), observation),
            Self::Gaussian { middle, half } => {
                let scaled: Vec<f32> = (0..half.len()).map(|i| middle[i] + half[i] * features[i]).collect();
                env.step(Action::Continuous(&scaled), observation)
            }
        }
    }

    /// Steps every environment with drawn actions.
    ///
    /// # Shapes
    /// - `actions`: `[envs, action_len]`
    pub fn step(&self, envs: &mut VecEnv, actions: &[f32]) {
        match self {
            Self::Categorical { .. } => {
                let indices: Vec<usize> = actions.iter().map(|&a| a as usize).collect();
                envs.step(Actions::Discrete(&indices));
            }
            Self::Gaussian { middle, half } => {
                let scaled = |(i, a): (usize, &f32)| middle[i % half.len()] + half[i % half.len()] * a.clamp(-1.0, 1.0);
                let scaled: Vec<f32> = actions.iter().enumerate().map(scaled).collect();
                envs.step(Actions::Continuous(&scaled));
            }
        }
    }
}

fn argmax(logits: &[f32]) -> usize {
    logits.iter().enumerate().fold(0, |best, (i, &value)| if value > logits[best] { i } else { best })
}

/// Draws an action of one environment from the policy's outputs and writes it to `action`; its log-probability is
/// returned.
///
/// # Shapes
/// - `outputs`: `[k]`; `log_std`: `[k]`, or empty for a softmax; `action`: `[head.action_len()]`
fn draw(head: &ActionHead, outputs: &[f32], log_std: &[f32], rng: &mut Rng, action: &mut [f32]) -> f32 {
    match head {
        ActionHead::Categorical { .. } => {
            let max = outputs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let total: f32 = outputs.iter().map(|logit| (logit - max).exp()).sum();
            let mut left = rng.random::<f32>() * total;
            let mut drawn = outputs.len() - 1;
            for (i, logit) in outputs.iter().enumerate() {
                let weight = (logit - max).exp();
                if left < weight {
                    drawn = i;
                    break;
                }
                left -= weight;
            }
            action[0] = drawn as f32;
            outputs[drawn] - max - total.ln()
        }
        ActionHead::Gaussian { .. } => {
            let mut log_prob = 0.0;
            for ((action, mean), log_std) in action.iter_mut().zip(outputs).zip(log_std) {
                let noise: f32 = StandardNormal.sample(rng);
                *action = mean + log_std.exp() * noise;
                log_prob += -0.5 * noise * noise - log_std - HALF_LN_2PI;
            }
            log_prob
        }
    }
}

// ------------------------------------------------------------------------------------------------ collect a rollout

/// Steps every environment `steps` times with actions drawn from the agent's policy, or uniformly at random without
/// an agent.
#[must_use]
pub fn collect(agent: Option<&Agent>, head: &ActionHead, envs: &mut VecEnv, steps: usize, rng: &mut Rng) -> Rollout {
    let count = envs.len();
    let (obs, act, saved) = (envs.spec().observation.len(), head.action_len(), envs.spec().saved_len);
    let mut rollout = Rollout {
        envs: count,
        steps,
        observations: vec![0.0; count * steps * obs],
        next_observations: vec![0.0; count * steps * obs],
        actions: vec![0.0; count * steps * act],
        log_probs: vec![0.0; count * steps],
        states: vec![0.0; count * steps * saved],
        true_rewards: vec![0.0; count * steps],
        terminated: vec![false; count * steps],
        done: vec![false; count * steps],
        episode_returns: Vec::new(),
    };
    // Made once, not in every step.
    let policy = agent.map(|agent| (agent, agent.policy(), agent.log_std()));
    let mut states = vec![0.0; count * saved];
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    let (mut actions, mut log_probs) = (vec![0.0; count * act], vec![0.0; count]);
    for t in 0..steps {
        envs.save_states(&mut states);
        for env in 0..count {
            let from = &envs.observations()[env * obs..(env + 1) * obs];
            rollout.observations[(env * steps + t) * obs..][..obs].copy_from_slice(from);
        }
        match &policy {
            Some((agent, network, log_std)) => {
                agent.observations.normalize_into(envs.observations(), &mut inputs);
                // One forward pass for all environments.
                network.evaluate(&inputs, &mut outputs);
                let drawn = outputs.chunks(head.outputs()).zip(actions.chunks_mut(act)).zip(&mut log_probs);
                for ((outputs, action), log_prob) in drawn {
                    *log_prob = draw(head, outputs, log_std, rng, action);
                }
            }
            None => actions = random_actions(head, count, rng),
        }
        head.step(envs, &actions);
        for env in 0..count {
            let i = env * steps + t;
            let copy = |to: &mut [f32], from: &[f32], len: usize| {
                to[i * len..(i + 1) * len].copy_from_slice(&from[env * len..(env + 1) * len]);
            };
            copy(&mut rollout.next_observations, envs.final_observations(), obs);
            copy(&mut rollout.actions, &actions, act);
            rollout.states[i * saved..(i + 1) * saved].copy_from_slice(&states[env * saved..(env + 1) * saved]);
            rollout.log_probs[i] = log_probs[env];
            rollout.true_rewards[i] = envs.rewards()[env];
            rollout.terminated[i] = envs.terminated()[env];
            rollout.done[i] = envs.terminated()[env] || envs.truncated()[env];
        }
        rollout.episode_returns.extend(envs.finished().iter().map(|episode| episode.true_return));
    }
    rollout
}

/// Uniformly random actions, `[count, action_len]`.
pub(super) fn random_actions(head: &ActionHead, count: usize, rng: &mut Rng) -> Vec<f32> {
    match head {
        ActionHead::Categorical { n } => (0..count).map(|_| rng.random_range(0..*n) as f32).collect(),
        ActionHead::Gaussian { half, .. } => (0..count * half.len()).map(|_| rng.random_range(-1.0..=1.0)).collect(),
    }
}

// -------------------------------------------------------------------------------------------------- update networks

/// Updates policy and value function on one rollout, with the given rewards.
///
/// `progress` in 0..1 is the share of the run that is over, for the schedules; minibatches come from `rng`.
///
/// # Shapes
/// - `rewards`: `[envs, steps]`, environment-major
pub fn update(
    agent: &mut Agent,
    config: &PpoConfig,
    rollout: &Rollout,
    rewards: &[f64],
    progress: f64,
    rng: &mut Rng,
) -> UpdateMetrics {
    let device = agent.parameters.device().without_autodiff();
    let count = rewards.len();
    let left = |annealed: bool| if annealed { 1.0 - progress } else { 1.0 };
    let learning_rate = config.learning_rate * left(config.anneal_learning_rate);
    let clip = config.clip_range * left(config.anneal_clip_range);

    // Advantages and returns, with the values from before the update.
    let values = agent.values(&rollout.observations);
    let next_values = next_values(agent, rollout, &values);
    let (terminated, done) = (&rollout.terminated, &rollout.done);
    let (gamma, lambda) = (config.gamma, config.gae_lambda);
    let advantages = gae(rewards, &values, &next_values, terminated, done, rollout.steps, gamma, lambda);
    let returns: Vec<f32> = advantages.iter().zip(&values).map(|(a, v)| a + v).collect();

    // The whole rollout on the device, once.
    let observations = agent.observations.normalize(&rollout.observations);
    let observations: Tensor<2> = constant(&observations, [count, agent.observations.mean.len()], &device);
    let actions = match &agent.head {
        ActionHead::Categorical { .. } => agent.head.features(&rollout.actions),
        ActionHead::Gaussian { .. } => rollout.actions.clone(),
    };
    let outputs = agent.head.outputs();
    let sample = |i: usize| {
        let extra = [rollout.log_probs[i], advantages[i], returns[i]];
        actions[i * outputs..(i + 1) * outputs].iter().copied().chain(extra)
    };
    let samples: Vec<f32> = (0..count).flat_map(sample).collect();
    let samples: Tensor<2> = constant(&samples, [count, outputs + PpoLoss::EXTRA_COLUMNS], &device);
    let loss = PpoLoss {
        clip: clip as f32,
        value_coefficient: config.value_coefficient as f32,
        entropy_coefficient: config.entropy_coefficient as f32,
        normalize_advantages: config.normalize_advantages,
    };

    let mut order: Vec<i32> = (0..i32::try_from(count).expect("a rollout has fewer than 2³¹ transitions")).collect();
    let mut rows: Vec<Tensor<1>> = Vec::new();
    for _ in 0..config.epochs {
        // One permutation of the whole rollout; a minibatch is then a view.
        order.shuffle(rng);
        let permutation = Tensor::<1, Int>::from_data(TensorData::new(order.clone(), [count]), &device);
        let observations = observations.clone().select(0, permutation.clone());
        let samples = samples.clone().select(0, permutation);
        for start in (0..count).step_by(config.minibatch_size) {
            let len = config.minibatch_size.min(count - start);
            // A last minibatch of a single sample has no advantage variance to normalise by.
            if len < 2 {
                continue;
            }
            let minibatch = |of: &Tensor<2>| of.clone().narrow(0, start, len);
            let Agent { parameters, networks, optimizer, .. } = agent;
            let (loss, metrics) =
                fused::ppo_loss(minibatch(&observations), parameters.clone(), minibatch(&samples), networks, loss);
            let mut gradients = loss.backward();
            let info = optimizer.step(&mut [parameters], &mut gradients, learning_rate, Some(config.max_gradient_norm));

            // Metrics stay on the device until the update is over.
            rows.extend([metrics, info.gradient_squares]);
        }
    }
    let rows = if rows.is_empty() { Vec::new() } else { to_host(Tensor::cat(rows, 0)) };
    // The loss's metrics and the gradient's square, minibatch by minibatch.
    let row_len = PpoLoss::METRICS + 1;
    let minibatches = (rows.len() / row_len).max(1) as f64;
    let mean = |i: usize| rows.chunks(row_len).map(|row| f64::from(row[i])).sum::<f64>() / minibatches;
    let norms = rows.chunks(row_len).map(|row| f64::from(row[PpoLoss::METRICS]).sqrt());
    UpdateMetrics {
        policy_loss: mean(0),
        value_loss: mean(1),
        entropy: mean(2),
        approx_kl: mean(3),
        clip_fraction: mean(4),
        gradient_norm: norms.sum::<f64>() / minibatches,
        explained_variance: explained_variance(&values, &returns),
    }
}

/// Value of the state after each step. Within an episode it is the next step's value, which is already known; at the
/// end of an episode or of the rollout, it belongs to an observation that no step starts from.
fn next_values(agent: &Agent, rollout: &Rollout, values: &[f32]) -> Vec<f32> {
    let obs = agent.observations.mean.len();
    let ends: Vec<usize> =
        (0..values.len()).filter(|i| rollout.done[*i] || (i + 1).is_multiple_of(rollout.steps)).collect();
    let last: Vec<f32> =
        ends.iter().flat_map(|i| &rollout.next_observations[i * obs..(i + 1) * obs]).copied().collect();
    let mut next: Vec<f32> = values.iter().skip(1).copied().chain([0.0]).collect();
    ends.into_iter().zip(agent.values(&last)).for_each(|(i, value)| next[i] = value);
    next
}

fn explained_variance(values: &[f32], returns: &[f32]) -> Option<f64> {
    let variance = |data: &mut dyn Iterator<Item = f64>| {
        let data: Vec<f64> = data.collect();
        let mean = data.iter().sum::<f64>() / data.len().max(1) as f64;
        data.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>()
    };
    let total = variance(&mut returns.iter().map(|&r| f64::from(r)));
    let residual = variance(&mut returns.iter().zip(values).map(|(r, v)| f64::from(r - v)));
    (total > 0.0).then(|| 1.0 - residual / total)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use pairwise_envs::VecEnv;

    use super::{Agent, PpoConfig, collect, next_values};
    use crate::random::stream;

    /// Episodes of CartPole end in the middle of a rollout, so the next step's observation is another episode's.
    #[test]
    fn next_values_are_those_of_the_observations_before_a_reset() {
        let episode_rng = |seed, env: usize, episode| stream(seed, &format!("episode-{env}"), episode);
        let mut envs = VecEnv::new("CartPole-v1", 3, 0, episode_rng).unwrap();
        let config = PpoConfig::default();
        let agent = Agent::new(&config, &envs.spec().observation, &envs.spec().action, 0, &Device::flex());
        let rollout = collect(Some(&agent), &agent.head, &mut envs, 70, &mut stream(0, "actions", 0));
        assert!(rollout.done.iter().filter(|done| **done).count() > 3, "the case needs episodes that end");
        let next = next_values(&agent, &rollout, &agent.values(&rollout.observations));
        assert_eq!(next, agent.values(&rollout.next_observations));
    }
}
