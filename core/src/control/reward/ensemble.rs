//! The ensemble of reward predictors: configuration, networks, predictions, normalisation.

use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::control::rl::normalize::RunningMoments;
use crate::nn::{Activation, Adam, AdamConfig, Mlp, constant, to_host};
use crate::preference::Likelihood;
use crate::random::stream;

/// Hyper-parameters of the reward ensemble. The defaults are the paper's method with every part on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardConfig {
    /// Predictors in the ensemble (§2.2.3: 3).
    pub members: usize,
    /// Train each member on its own bootstrap of the comparisons (§2.2.3).
    pub bootstrap: bool,
    /// Share of the comparisons each member keeps out of its training, for validation (§2.2.3: 1/e).
    pub holdout: f64,
    /// Adapt the L2 coefficient to keep the validation loss between 1.1 and 1.5 times the training loss (§2.2.3), both
    /// without the answers' own entropy.
    pub adaptive_l2: bool,
    /// L2 coefficient at the start; 0 together with `adaptive_l2 = false` switches regularisation off.
    pub l2: f64,
    /// Change of the L2 coefficient for one gradient step, as a share (Ibarz et al. 2018: 0.001).
    pub l2_rate: f64,
    /// How returns of two segments become a probability, and its loss (eq. 1; 10 % error model of §2.2.3).
    pub likelihood: Likelihood,
    /// Normalise each member on its own before averaging (§2.2.3).
    pub normalize_members: bool,
    /// Normalise the averaged reward to this standard deviation (§2.2.1; 1 for control tasks); 0 leaves it alone.
    pub reward_std: f64,
    /// Widths of the hidden layers (A.1: 64, 64).
    pub hidden: Vec<usize>,
    /// Nonlinearity (A.1: leaky ReLU of slope 0.01).
    pub activation: Activation,
    /// Adam's learning rate.
    pub learning_rate: f64,
    /// Comparisons in a minibatch, each with both of its segments.
    pub batch_size: usize,
    /// Gradient steps before any policy training, over all rounds of the first share.
    pub first_steps: usize,
    /// Gradient steps of every later fit.
    pub steps: usize,
    /// What the ensemble is fitted to: comparisons, or (the paper's "target" ablation) true segment returns.
    pub target: FitTarget,
}

/// What the ensemble is fitted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FitTarget {
    /// Answers to comparisons, through the Bradley-Terry likelihood.
    Comparisons,
    /// Mean squared error to true segment returns: the paper's "target" ablation, which needs a true reward.
    Returns,
}

/// The ensemble's state.
#[derive(Debug, Clone)]
pub struct Ensemble {
    /// Predictors.
    pub members: Vec<Member>,
    /// Statistics of observations, frozen at the first fit, so that the predictors' inputs never drift.
    pub inputs: RunningMoments,
    /// Mean and standard deviation of each member's reward on the reference transitions.
    pub member_scale: Vec<Scale>,
    /// Mean and standard deviation of the average of the normalised members, on the same transitions.
    pub average_scale: Scale,
}

/// One predictor.
#[derive(Debug, Clone)]
pub struct Member {
    /// Observation and action → reward.
    pub network: Mlp,
    /// Its own Adam.
    pub optimizer: Adam,
    /// Its present L2 coefficient.
    pub l2: f64,
}

/// A mean and a standard deviation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    /// Mean.
    pub mean: f64,
    /// Standard deviation.
    pub std: f64,
}

impl Default for RewardConfig {
    fn default() -> Self {
        Self {
            members: 3,
            bootstrap: true,
            holdout: std::f64::consts::E.recip(),
            adaptive_l2: true,
            l2: 1e-4,
            l2_rate: 0.001,
            likelihood: Likelihood::default(),
            normalize_members: true,
            reward_std: 1.0,
            hidden: vec![64, 64],
            activation: Activation::LeakyRelu,
            learning_rate: 1e-3,
            batch_size: 32,
            first_steps: 200,
            steps: 50,
            target: FitTarget::Comparisons,
        }
    }
}

impl Ensemble {
    /// A fresh ensemble on `observation` and `action` features; weights come from the streams `"reward"` of `seed`.
    #[must_use]
    pub fn new(config: &RewardConfig, observation: usize, action: usize, seed: u64, device: &Device) -> Self {
        let sizes: Vec<usize> =
            std::iter::once(observation + action).chain(config.hidden.iter().copied()).chain([1]).collect();
        let member = |index: usize| Member {
            network: Mlp::kaiming(&sizes, config.activation, &mut stream(seed, "reward", index as u64), device),
            optimizer: Adam::new(AdamConfig { epsilon: 1e-8, ..AdamConfig::default() }),
            l2: config.l2,
        };
        Self {
            members: (0..config.members).map(member).collect(),
            inputs: RunningMoments::new(observation),
            member_scale: vec![Scale::default(); config.members],
            average_scale: Scale::default(),
        }
    }

    /// Inputs of the predictors: normalised observations next to action features.
    ///
    /// # Shapes
    /// - `observations`: `[n, obs]`, raw; `actions`: `[n, action]`, features
    /// - returns `[n, obs + action]`
    #[must_use]
    pub fn features(&self, observations: &[f32], actions: &[f32]) -> Vec<f32> {
        let obs = self.inputs.mean.len();
        let rows = observations.len() / obs;
        let act = actions.len() / rows.max(1);
        let normalized = self.inputs.normalize(observations);
        let mut features = Vec::with_capacity(rows * (obs + act));
        for row in 0..rows {
            features.extend_from_slice(&normalized[row * obs..(row + 1) * obs]);
            features.extend_from_slice(&actions[row * act..(row + 1) * act]);
        }
        features
    }

    /// Every member's raw reward, from which segment returns and query scores are computed. Normalisation statistics
    /// are neither used nor changed.
    ///
    /// # Shapes
    /// - `features`: `[n, obs + action]`
    /// - returns `[members, n]`
    #[must_use]
    pub fn predict_members(&self, features: &[f32]) -> Vec<Vec<f32>> {
        let first = &self.members[0].network;
        let (width, device) = (first.layout.inputs(), first.parameters.device().without_autodiff());
        let input: Tensor<3> = constant(features, [1, features.len() / width, width], &device);
        self.members.iter().map(|member| to_host(member.network.detached().forward(input.clone()))).collect()
    }

    /// The reward the agent is trained on: members normalised independently, averaged, and the average normalised.
    ///
    /// # Shapes
    /// - `features`: `[n, obs + action]`
    /// - returns `[n]`
    #[must_use]
    pub fn predict(&self, config: &RewardConfig, features: &[f32]) -> Vec<f64> {
        let average = average(&self.predict_members(features), &self.member_scale);
        let Scale { mean, std } = self.average_scale;
        let target = if config.reward_std > 0.0 { config.reward_std } else { 1.0 };
        average.into_iter().map(|r| (r - mean) / std * target).collect()
    }

    /// Recomputes the normalisation statistics on reference transitions with the present members.
    ///
    /// # Shapes
    /// - `features`: `[n, obs + action]`
    pub fn normalize_on(&mut self, config: &RewardConfig, features: &[f32]) {
        let rewards = self.predict_members(features);
        let scale = |member: &Vec<f32>| Scale::of(member.iter().map(|&r| f64::from(r)));
        self.member_scale = match config.normalize_members {
            true => rewards.iter().map(scale).collect(),
            false => vec![Scale::default(); rewards.len()],
        };
        self.average_scale = match config.reward_std > 0.0 {
            true => Scale::of(average(&rewards, &self.member_scale).into_iter()),
            false => Scale::default(),
        };
    }
}

impl Scale {
    /// Mean and standard deviation of values; the deviation of a constant counts as 1.
    fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let n = values.clone().count().max(1) as f64;
        let mean = values.clone().sum::<f64>() / n;
        let std = (values.map(|v| (v - mean) * (v - mean)).sum::<f64>() / n).sqrt();
        Self { mean, std: if std > 1e-8 { std } else { 1.0 } }
    }
}

impl Default for Scale {
    /// The scale that changes nothing.
    fn default() -> Self {
        Self { mean: 0.0, std: 1.0 }
    }
}

fn average(rewards: &[Vec<f32>], scales: &[Scale]) -> Vec<f64> {
    let count = rewards.first().map_or(0, Vec::len);
    let normalized = |i: usize| rewards.iter().zip(scales).map(move |(r, s)| (f64::from(r[i]) - s.mean) / s.std);
    (0..count).map(|i| normalized(i).sum::<f64>() / rewards.len() as f64).collect()
}
