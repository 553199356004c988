//! PPO from a reward of whole completions (Ziegler et al. 2019, arXiv 1909.08593; Stiennon et al. 2020, arXiv
//! 2009.01325; Ouyang et al. 2022, arXiv 2203.02155), top to bottom: configuration → state → [`run`] → [`iterate`]:
//! rolling out, rewards, advantages, clipped steps, control of the divergence → the losses.
//!
//! A state is a prompt with the completion so far, an action is the next token, an episode is one completion. What the
//! policy earns with a token is minus its divergence from the reference policy there; the last token earns the score of
//! the whole completion, too.
//!
//! Policy and value function are two models with an optimiser each, so there is no weight of the value loss: with Adam
//! it would change nothing but how gradients are clipped together. The policy is the distribution that is sampled from:
//! all log-probabilities, the reference's too, are at the sampling temperature.

use std::error::Error;
use std::ops::{ControlFlow, Range};

use burn::tensor::Tensor;
use rand::seq::SliceRandom as _;
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use serde::{Deserialize, Serialize};

use super::batch::{Batch, Targets};
use super::data::Encoded;
use super::model::Decoder;
use super::optim::{OptimizerConfig, check_learning_rate};
use super::sample::{Completion, Finish, SampleConfig, generate};
use super::train::{DIVERGED, Metrics, Part, Stage, TrainConfig, Trainee, Whole, cut, step};
use crate::advantage::gae;
use crate::finite::NotFinite;
use crate::nn::{constant, to_host};
use crate::preference::statistics::sample_variance;
use crate::random::stream;
use crate::range::OutOfRange;

/// Hyper-parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PpoConfig {
    /// Number of iterations. The schedule of learning rates runs over all of them.
    pub iterations: usize,
    /// Completions written in an iteration, one for each of as many prompts.
    pub batch_size: usize,
    /// Completions of a step; the last one of an epoch may have fewer.
    pub minibatch_size: usize,
    /// Passes over an iteration's completions.
    pub epochs: usize,
    /// How completions are written. Its seed is not used: the run's is.
    pub sampling: SampleConfig,
    /// Subtracted from the score of a completion that does not end with an EOS token.
    pub missing_eos_penalty: Option<f64>,
    /// β: what a nat of divergence from the reference policy costs, in units of the score. With a target, at the start.
    pub kl_coefficient: f64,
    /// How a token's divergence is estimated.
    pub kl_estimator: KlEstimator,
    /// Divergence of a whole completion, nats, that β is adapted to; none for a fixed β.
    pub target_kl: Option<f64>,
    /// Episodes in which β grows or falls by about a fifth at most.
    pub kl_horizon: f64,
    /// Scale the rewards of an iteration's tokens to a standard deviation of 1 around their mean, which stays.
    pub whiten_rewards: bool,
    /// Scale and shift the advantages of an iteration's tokens to mean 0 and standard deviation 1.
    pub normalize_advantages: bool,
    /// Discount γ, per token.
    pub gamma: f64,
    /// λ of generalised advantage estimation.
    pub gae_lambda: f64,
    /// Clipping range ε of the probability ratio.
    pub clip_range: f64,
    /// How far from the value before the update the value loss follows a value.
    pub value_clip_range: f64,
    /// Optimiser of both models, with the policy's learning rate.
    pub optimizer: OptimizerConfig,
    /// The value function's largest learning rate.
    pub value_learning_rate: f64,
    /// Tokens that are computed together, as in the other stages.
    pub part_tokens: usize,
    /// Computes activations again in the backward pass, as in the other stages.
    pub gradient_checkpointing: bool,
}

/// An estimate of the divergence of π from π_ref at a token drawn from π (Schulman 2020, "Approximating KL
/// divergence"), with d = ln π − ln π_ref. Both are unbiased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KlEstimator {
    /// d: may be negative for a token.
    K1,
    /// e^(−d) − 1 + d: never negative, and of less variance where π is close to π_ref.
    K3,
}

/// Training in progress: all that an iteration needs from the iterations before it.
#[derive(Debug, Clone)]
pub struct Ppo {
    /// What is learned.
    pub policy: Trainee,
    /// V: its first score at a token is the expected return of the tokens after it.
    pub value: Trainee,
    /// β as it is now.
    pub kl_coefficient: f64,
    /// Iterations done.
    pub iteration: usize,
}

/// Scores completions, in their order. Each completion comes with the number of its prompt.
pub type Reward<'a, E> = dyn Fn(&[(usize, &Completion)]) -> Result<Vec<f64>, E> + 'a;

/// Called after each iteration; training ends when it returns a break.
pub type Each<'a, E> = dyn FnMut(&mut Ppo, &Metrics) -> Result<ControlFlow<()>, E> + 'a;

/// An iteration that could not be done.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum PpoError<E: Error + 'static> {
    /// There is nothing to complete.
    #[error("there are no prompts: must be at least 1")]
    NoPrompts,
    /// A prompt is empty or longer than the context.
    #[error(
        "prompt {index} has {found} tokens: must be from 1 to {most}, so that a completion fits the policy's context"
    )]
    Prompt {
        /// Number of the prompt, from 0.
        index: usize,
        /// Its tokens.
        found: usize,
        /// Most tokens it may have.
        most: usize,
    },
    /// A model cannot read what the policy writes.
    #[error("{model} has {field} = {found}: must be at least the policy's, {expected}")]
    Model {
        /// The model.
        model: &'static str,
        /// The size that is too small.
        field: &'static str,
        /// The model's size.
        found: usize,
        /// The policy's size.
        expected: usize,
    },
    /// The reward gave too few or too many scores.
    #[error("the reward gave {found} scores for {expected} completions")]
    Scores {
        /// Scores.
        found: usize,
        /// Completions.
        expected: usize,
    },
    /// A score is not finite, so nothing can be learned from it.
    #[error("the reward gave {found} for the completion of prompt {prompt}: must be finite")]
    Score {
        /// Iteration in which it was given, from 1.
        iteration: usize,
        /// Number of the prompt, from 0.
        prompt: usize,
        /// Score.
        found: f64,
    },
    /// Training has led to a number that is not finite.
    #[error(transparent)]
    NotFinite(NotFinite),
    /// The reward failed.
    #[error(transparent)]
    Reward(E),
}

/// Largest relative error that β is adapted to in one iteration (Ziegler et al. 2019, 2.2).
const MAX_KL_ERROR: f64 = 0.2;
/// Keeps a variance of zero apart from zero, as in TRL.
const VARIANCE_EPSILON: f64 = 1e-8;

impl Default for PpoConfig {
    /// TRL's defaults, except sampling and the optimiser, which are as in the other stages. Completions are drawn at
    /// temperature 1, so that the model itself is trained. The value function learns faster, as its head is fresh.
    fn default() -> Self {
        Self {
            iterations: 100,
            batch_size: 64,
            minibatch_size: 16,
            epochs: 4,
            sampling: SampleConfig::default(),
            missing_eos_penalty: None,
            kl_coefficient: 0.05,
            kl_estimator: KlEstimator::K1,
            target_kl: None,
            kl_horizon: 10_000.0,
            whiten_rewards: false,
            normalize_advantages: true,
            gamma: 1.0,
            gae_lambda: 0.95,
            clip_range: 0.2,
            value_clip_range: 0.2,
            optimizer: OptimizerConfig::default(),
            value_learning_rate: 1e-5,
            part_tokens: 1024,
            gradient_checkpointing: false,
        }
    }
}

impl PpoConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`OutOfRange`] with the first one.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        let check = OutOfRange::check;
        for (name, found) in [
            ("iterations", self.iterations),
            ("batch_size", self.batch_size),
            ("minibatch_size", self.minibatch_size),
            ("epochs", self.epochs),
            ("part_tokens", self.part_tokens),
        ] {
            check(name, found as f64, found > 0, "a whole number from 1 on")?;
        }
        self.sampling.validate().map_err(|error| error.of("sampling"))?;
        self.optimizer.validate().map_err(|error| error.of("optimizer"))?;
        let SampleConfig { temperature, top_k, top_p, min_p, .. } = self.sampling;
        let all = "so that completions are drawn from the policy itself";
        check("sampling.temperature", temperature, temperature > 0.0, &format!("above 0, {all}"))?;
        check("sampling.top_k", top_k as f64, top_k == 0, &format!("0, {all}"))?;
        check("sampling.top_p", top_p, top_p == 1.0, &format!("1, {all}"))?;
        check("sampling.min_p", min_p, min_p == 0.0, &format!("0, {all}"))?;
        for (name, found) in
            [("missing_eos_penalty", self.missing_eos_penalty.unwrap_or(0.0)), ("kl_coefficient", self.kl_coefficient)]
        {
            check(name, found, (0.0..=1e9).contains(&found), "between 0 and 1e9")?;
        }
        for (name, found) in [
            ("target_kl", self.target_kl.unwrap_or(1.0)),
            ("clip_range", self.clip_range),
            ("value_clip_range", self.value_clip_range),
        ] {
            check(name, found, found > 0.0, "positive")?;
        }
        // With a horizon of less than an episode, β could change its sign.
        check("kl_horizon", self.kl_horizon, self.kl_horizon >= 1.0, "1 or more")?;
        check_learning_rate("value_learning_rate", self.value_learning_rate)?;
        for (name, found) in [("gamma", self.gamma), ("gae_lambda", self.gae_lambda)] {
            check(name, found, (0.0..=1.0).contains(&found), "between 0 and 1")?;
        }
        Ok(())
    }

    /// Steps of each model in all iterations.
    #[must_use]
    pub fn total_steps(&self) -> usize {
        self.iterations * self.epochs * self.batch_size.div_ceil(self.minibatch_size)
    }

    /// The configuration of training steps with this learning rate.
    fn training(&self, learning_rate: f64) -> TrainConfig {
        TrainConfig {
            batch_size: self.batch_size,
            part_tokens: self.part_tokens,
            gradient_checkpointing: self.gradient_checkpointing,
            optimizer: OptimizerConfig { learning_rate, ..self.optimizer },
            ..TrainConfig::default()
        }
    }
}

impl KlEstimator {
    /// The estimate for a token with this ln π − ln π_ref, nats.
    #[must_use]
    pub fn of(self, difference: f64) -> f64 {
        match self {
            Self::K1 => difference,
            Self::K3 => (-difference).exp_m1() + difference,
        }
    }
}

impl Ppo {
    /// The state before the first iteration. [`super::folder::with_scores`] makes a value function from the policy or
    /// from a reward model.
    ///
    /// Dropout in adapters is switched off: with it, the policy that learns would differ from the policy that wrote.
    #[must_use]
    pub fn new(policy: Decoder, value: Decoder, config: &PpoConfig) -> Self {
        let trainee = |mut model: Decoder| {
            if let Some(adapters) = &mut model.adapters {
                adapters.config.dropout = 0.0;
            }
            Trainee::new(model)
        };
        Self { policy: trainee(policy), value: trainee(value), kl_coefficient: config.kl_coefficient, iteration: 0 }
    }
}

// ------------------------------------------------------------------------------------------------------ an iteration

/// One iteration: `batch_size` prompts are completed, the completions scored, and policy and value function trained on
/// them.
///
/// A completion ends the episode even if it was cut off for its length: no value beyond it counts, as in TRL. Prompts
/// come in epochs, and each epoch has every prompt once, in a new order. All random draws depend only on `seed` and the
/// number of the iteration, so a saved state goes on as if it had not been saved. The result does not depend on the
/// number of threads.
///
/// The metrics have TRL's names: `objective/kl` (of a whole completion, nats, by the configured estimator),
/// `objective/entropy` (likewise), `objective/non_score_reward` (minus the divergence's cost), `objective/scores`
/// (less what a missing EOS costs), `objective/rlhf_reward` (the sum of these two); means over all steps
/// `loss/policy_avg`, `loss/value_avg`, `policy/approxkl_avg`, `policy/clipfrac_avg`, `policy/entropy_avg`,
/// `val/clipfrac_avg`, `val/ratio`; `val/num_eos_tokens`, `lr`, `episode`. Beside these `kl/k1` and `kl/k3`, both
/// estimates of the divergence of a whole completion, `kl_coefficient` (as it was for this iteration),
/// `completions/mean_length`, `value/lr`, and of both models `policy/grad_norm` and `value/grad_norm`.
///
/// # Errors
/// Prompts, models or scores that cannot be used, and the reward's own errors, leave the state as it was. After
/// [`PpoError::NotFinite`] the state is of no use.
///
/// # Panics
/// With a configuration that [`PpoConfig::validate`] refuses, or a value function that does not score.
pub fn iterate<E: Error + 'static>(
    state: &mut Ppo,
    reference: &Decoder,
    prompts: &[Vec<u32>],
    eos: &[u32],
    config: &PpoConfig,
    seed: u64,
    reward: &Reward<'_, E>,
) -> Result<Metrics, PpoError<E>> {
    check(state, reference, prompts)?;
    let (policy_training, value_training) =
        (config.training(config.optimizer.learning_rate), config.training(config.value_learning_rate));
    let beta = state.kl_coefficient;
    let mut metrics = Metrics::default();

    // Roll out: complete the next prompts, and have the completions scored.
    let numbers = policy_training.examples(seed, state.iteration, prompts.len());
    let asked: Vec<Vec<u32>> = numbers.iter().map(|&number| prompts[number].clone()).collect();
    let sampling = SampleConfig { seed, ..config.sampling.clone() };
    let first = state.iteration * config.batch_size;
    let completions = generate(&state.policy.model, &asked, &sampling, eos, first as u64, &|_, _| true);
    let scored: Vec<(usize, &Completion)> = numbers.iter().copied().zip(&completions).collect();
    let mut scores = reward(&scored).map_err(PpoError::Reward)?;
    if scores.len() != scored.len() {
        return Err(PpoError::Scores { found: scores.len(), expected: scored.len() });
    }
    if let Some(i) = scores.iter().position(|score| !score.is_finite()) {
        return Err(PpoError::Score { iteration: state.iteration + 1, prompt: numbers[i], found: scores[i] });
    }
    let unfinished = scores.iter_mut().zip(&completions).filter(|(_, completion)| completion.finish != Finish::Eos);
    unfinished.for_each(|(score, _)| *score -= config.missing_eos_penalty.unwrap_or(0.0));

    // The numbers of policy, reference and value function for every token before the update. The policy's are computed
    // again rather than taken from the sampler: computed as in the update, the ratio is 1 until the first step.
    let sequences = asked.iter().zip(&completions).map(|(prompt, completion)| Encoded::new(prompt, &completion.ids));
    let episodes = Episodes::new(sequences.collect());
    let log_probs = |model: &Decoder| {
        let of = |hidden, targets: &Targets| model.log_probs(hidden, targets, sampling.temperature).0;
        episodes.of_tokens(model, config.part_tokens, &of)
    };
    let old_log_probs = log_probs(&state.policy.model);
    let reference_log_probs = log_probs(reference);
    let value_model = &state.value.model;
    let old_values = episodes.of_tokens(value_model, config.part_tokens, &|hidden, targets| {
        values(value_model, hidden, targets).squeeze_dim(1)
    });

    for (what, numbers) in [
        ("the policy's log-probability of a token", &old_log_probs),
        ("the reference's log-probability of a token", &reference_log_probs),
        ("the value of a token", &old_values),
    ] {
        let numbers = numbers.iter().map(|&number| f64::from(number));
        NotFinite::check(numbers, |_| what, || format!("iteration {}", state.iteration + 1), DIVERGED)
            .map_err(PpoError::NotFinite)?;
    }

    // Rewards: every token pays for its divergence from the reference, the last one earns the score.
    let differences: Vec<f64> =
        old_log_probs.iter().zip(&reference_log_probs).map(|(&p, &r)| f64::from(p) - f64::from(r)).collect();
    let penalties: Vec<f64> = differences.iter().map(|&d| -beta * config.kl_estimator.of(d)).collect();
    let mut rewards = rewards(&episodes, &penalties, &scores);
    if config.whiten_rewards {
        whiten(&mut rewards, false);
    }

    // Advantages; the return that the value function learns is the advantage plus its own estimate.
    let advantages = advantages(&episodes, &rewards, &old_values, config.gamma, config.gae_lambda);
    let returns: Vec<f64> =
        advantages.iter().zip(&old_values).map(|(&a, &value)| f64::from(a) + f64::from(value)).collect();
    let mut advantages: Vec<f64> = advantages.into_iter().map(f64::from).collect();
    if config.normalize_advantages {
        whiten(&mut advantages, true);
    }

    let now = format!("iteration {}", state.iteration + 1);
    let astray = |of: &str, error: NotFinite| {
        let what = format!("{of}{}", error.what);
        PpoError::NotFinite(NotFinite { what, at: format!("{now}, {}", error.at), ..error })
    };

    // Epochs of minibatches: a clipped step of the policy, and one of the value function.
    let policy_loss = PolicyLoss {
        old_log_probs: &old_log_probs,
        advantages: &advantages,
        temperature: sampling.temperature,
        clip_range: config.clip_range,
    };
    let policy_loss = OnEpisodes { episodes: &episodes, loss: policy_loss };
    let value_loss = ValueLoss { old_values: &old_values, returns: &returns, clip_range: config.value_clip_range };
    let value_loss = OnEpisodes { episodes: &episodes, loss: value_loss };
    let (mut of_policy, mut of_value) = (Metrics::default(), Metrics::default());
    let mut order: Vec<usize> = (0..completions.len()).collect();
    let total = config.total_steps();
    let mut rng = stream(seed, "minibatch", state.iteration as u64);
    for _ in 0..config.epochs {
        order.shuffle(&mut rng);
        for minibatch in order.chunks(config.minibatch_size) {
            let went = step(&mut state.policy, &policy_loss, &policy_training, minibatch, total, seed);
            of_policy += &went.map_err(|error| astray("the policy: ", error))?;
            let went = step(&mut state.value, &value_loss, &value_training, minibatch, total, seed);
            of_value += &went.map_err(|error| astray("the value function: ", error))?;
        }
    }

    // Metrics. A sum over all tokens, divided by the number of completions, is a mean over completions.
    let count = completions.len() as f64;
    let per_completion = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / count;
    let divergence =
        |estimator: KlEstimator| per_completion(&mut differences.iter().map(|&difference| estimator.of(difference)));
    let kl = divergence(config.kl_estimator);
    let mut add = |name, value| metrics.add(name, value, 1.0);
    let (score, penalty) = (per_completion(&mut scores.into_iter()), per_completion(&mut penalties.into_iter()));
    add("objective/kl", kl);
    add("objective/entropy", per_completion(&mut old_log_probs.iter().map(|&log_prob| -f64::from(log_prob))));
    add("objective/non_score_reward", penalty);
    add("objective/scores", score);
    add("objective/rlhf_reward", penalty + score);
    add("kl/k1", divergence(KlEstimator::K1));
    add("kl/k3", divergence(KlEstimator::K3));
    add("kl_coefficient", beta);
    add("completions/mean_length", rewards.len() as f64 / count);
    add("val/num_eos_tokens", completions.iter().filter(|completion| completion.finish == Finish::Eos).count() as f64);
    add("episode", (first + completions.len()) as f64);
    for (of, prefix) in [(&of_policy, ["policy/grad_norm", "lr"]), (&of_value, ["value/grad_norm", "value/lr"])] {
        for (name, mean) in of.means() {
            let name = match name.as_ref() {
                "grad_norm" => prefix[0].into(),
                "learning_rate" => prefix[1].into(),
                _ => name.clone(),
            };
            metrics.add(name, mean, 1.0);
        }
    }

    // Control: a divergence above the target makes the next one dearer.
    if let Some(target) = config.target_kl {
        state.kl_coefficient = adapted(beta, kl, target, count / config.kl_horizon);
    }
    metrics.check_finite("", || now.clone()).map_err(PpoError::NotFinite)?;
    state.iteration += 1;
    Ok(metrics)
}

/// Does the remaining iterations. After each iteration, `each` receives the state and the iteration's metrics. If it
/// returns a break before the last iteration, training ends there, and a break is returned.
///
/// # Errors
/// As [`iterate`], and the errors of `each`.
///
/// # Panics
/// As [`iterate`].
pub fn run<E: Error + From<PpoError<E>> + 'static>(
    state: &mut Ppo,
    reference: &Decoder,
    prompts: &[Vec<u32>],
    eos: &[u32],
    config: &PpoConfig,
    seed: u64,
    reward: &Reward<'_, E>,
    each: &mut Each<'_, E>,
) -> Result<ControlFlow<()>, E> {
    while state.iteration < config.iterations {
        let metrics = iterate(state, reference, prompts, eos, config, seed, reward)?;
        if each(state, &metrics)?.is_break() && state.iteration < config.iterations {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn check<E: Error + 'static>(state: &Ppo, reference: &Decoder, prompts: &[Vec<u32>]) -> Result<(), PpoError<E>> {
    let policy = &state.policy.model.config;
    for (model, config) in [("the reference", &reference.config), ("the value function", &state.value.model.config)] {
        for (field, found, expected) in
            [("vocabulary", config.vocabulary, policy.vocabulary), ("context", config.context, policy.context)]
        {
            if found < expected {
                return Err(PpoError::Model { model, field, found, expected });
            }
        }
    }
    let most = policy.context - 1;
    match prompts.iter().position(|prompt| prompt.is_empty() || prompt.len() > most) {
        Some(index) => Err(PpoError::Prompt { index, found: prompts[index].len(), most }),
        None if prompts.is_empty() => Err(PpoError::NoPrompts),
        None => Ok(()),
    }
}

/// Rewards of all tokens: every token's penalty, and the completion's score at its last token.
fn rewards(episodes: &Episodes, penalties: &[f64], scores: &[f64]) -> Vec<f64> {
    let mut rewards = penalties.to_vec();
    episodes.tokens.iter().zip(scores).for_each(|(tokens, score)| rewards[tokens.end - 1] += score);
    rewards
}

/// Generalised advantage estimates. Nothing follows the last token of a completion, whether it is EOS or not.
///
/// # Shapes
/// - `rewards`, `values`, and what is returned: over the tokens of all completions
fn advantages(episodes: &Episodes, rewards: &[f64], values: &[f32], gamma: f64, lambda: f64) -> Vec<f32> {
    // To `gae` the completions are episodes of one environment, one after another. At the end of an episode, the value
    // after it is not used.
    let next_values: Vec<f32> = values.iter().skip(1).copied().chain([0.0]).collect();
    let ends = episodes.ends();
    gae(rewards, values, &next_values, &ends, &ends, ends.len(), gamma, lambda)
}

/// Scales values to a standard deviation of 1 around their mean, and with `shift` moves the mean to 0. A single value
/// has no deviation and is left alone. Variances are of a sample (n − 1), as in TRL.
pub fn whiten(values: &mut [f64], shift: bool) {
    if values.len() < 2 {
        return;
    }
    let (mean, variance) = sample_variance(values);
    let scale = 1.0 / (variance + VARIANCE_EPSILON).sqrt();
    let middle = if shift { 0.0 } else { mean };
    values.iter_mut().for_each(|value| *value = (*value - mean) * scale + middle);
}

/// Ziegler et al. 2019, 2.2: β ← β·(1 + share·e), where e is the relative error of the divergence, at most ±0.2, and
/// `share` is the share of the horizon that has passed.
#[must_use]
pub fn adapted(coefficient: f64, kl: f64, target: f64, share: f64) -> f64 {
    let error = (kl / target - 1.0).clamp(-MAX_KL_ERROR, MAX_KL_ERROR);
    coefficient * (1.0 + share * error)
}

// ---------------------------------------------------------------------------------------------- tokens of completions

/// Prompts with their completions. The numbers of their tokens are in lists over the tokens of all completions, one
/// completion after another.
#[derive(Debug)]
struct Episodes {
    sequences: Vec<Encoded>,
    /// Where each completion's tokens are in such lists.
    tokens: Vec<Range<usize>>,
}

/// The tokens of some episodes' completions.
#[derive(Debug, Default)]
struct PackedEpisodes {
    /// The tokens, to be predicted.
    targets: Targets,
    /// Places of the tokens in lists over the tokens of all completions.
    tokens: Vec<usize>,
}

impl Episodes {
    fn new(sequences: Vec<Encoded>) -> Self {
        let tokens = sequences.iter().scan(0, |end, sequence| {
            let start = *end;
            *end += sequence.completion().len();
            Some(start..*end)
        });
        Self { tokens: tokens.collect(), sequences }
    }

    /// Whether a token is the last of its completion.
    fn ends(&self) -> Vec<bool> {
        let of_one = |tokens: &Range<usize>| tokens.clone().map(move |i| i + 1 == tokens.end).collect::<Vec<_>>();
        self.tokens.iter().flat_map(of_one).collect()
    }

    /// Tokens that are computed for an episode. The last token predicts nothing, so it is left out.
    fn computed(&self, episode: usize) -> usize {
        self.sequences[episode].ids.len() - 1
    }

    fn pack(&self, episodes: &[usize]) -> (Batch, PackedEpisodes) {
        let (mut batch, mut packed) = (Batch::default(), PackedEpisodes::default());
        for &episode in episodes {
            let Encoded { ids, prompt_len } = &self.sequences[episode];
            let rows: Vec<usize> = batch.push(&ids[..self.computed(episode)]).collect();
            packed.targets.push(ids, &rows, *prompt_len);
            packed.tokens.extend(self.tokens[episode].clone());
        }
        (batch, packed)
    }

    /// A model's numbers for the tokens of all completions, in parts as in training.
    ///
    /// # Shapes
    /// - `of`: from `[rows, hidden]` to `[targets]`
    fn of_tokens(
        &self,
        model: &Decoder,
        part_tokens: usize,
        of: &(dyn Fn(Tensor<2>, &Targets) -> Tensor<1> + Sync),
    ) -> Vec<f32> {
        let all: Vec<usize> = (0..self.sequences.len()).collect();
        let of_part = |part: &Vec<usize>| {
            let (batch, packed) = self.pack(part);
            to_host(of(model.hidden(&batch, None), &packed.targets))
        };
        cut(|episode| self.computed(episode), &all, part_tokens).par_iter().flat_map_iter(of_part).collect()
    }
}

/// Values of the states in which the targets are the actions.
///
/// # Shapes
/// - `hidden`: `[rows, hidden]`; returns `[targets, 1]`
fn values(model: &Decoder, hidden: Tensor<2>, targets: &Targets) -> Tensor<2> {
    model.scores(hidden, targets.rows.clone()).narrow(1, 0, 1)
}

// ------------------------------------------------------------------------------------------------------------- losses

/// The clipped surrogate objective (Schulman et al. 2017, arXiv 1707.06347, eq. 7), a mean over tokens.
struct PolicyLoss<'a> {
    old_log_probs: &'a [f32],
    advantages: &'a [f64],
    temperature: f64,
    clip_range: f64,
}

/// Squared errors of values, clipped, a mean over tokens.
struct ValueLoss<'a> {
    old_values: &'a [f32],
    returns: &'a [f64],
    clip_range: f64,
}

/// One of the two losses, on the tokens of episodes.
struct OnEpisodes<'a, L> {
    episodes: &'a Episodes,
    loss: L,
}

/// A loss of a model's numbers for tokens.
trait TokenLoss: Sync {
    /// The loss of some episodes; see [`Stage::loss`].
    fn part(&self, model: &Decoder, hidden: Tensor<2>, packed: &PackedEpisodes, whole: Whole) -> Part;
}

/// A clipped loss at a point.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Clipped {
    loss: f64,
    /// Slope with respect to the number that is learned.
    slope: f64,
    /// Whether clipping made the slope 0.
    clipped: bool,
}

/// −min(r·Â, clip(r, 1 − ε, 1 + ε)·Â) with r = π / π_old; its slope is with respect to ln π.
fn surrogate(log_prob: f64, old_log_prob: f64, advantage: f64, clip_range: f64) -> Clipped {
    let ratio = (log_prob - old_log_prob).exp();
    let plain = -advantage * ratio;
    let limited = -advantage * ratio.clamp(1.0 - clip_range, 1.0 + clip_range);
    match limited > plain {
        true => Clipped { loss: limited, slope: 0.0, clipped: true },
        false => Clipped { loss: plain, slope: plain, clipped: false },
    }
}

/// ½·max((V − R)², (clip(V, V_old − ε, V_old + ε) − R)²); its slope is with respect to V.
fn value_error(value: f64, old_value: f64, target: f64, clip_range: f64) -> Clipped {
    let plain = value - target;
    let limited = value.clamp(old_value - clip_range, old_value + clip_range) - target;
    match limited * limited > plain * plain {
        true => Clipped { loss: 0.5 * limited * limited, slope: 0.0, clipped: true },
        false => Clipped { loss: 0.5 * plain * plain, slope: plain, clipped: false },
    }
}

impl<L: TokenLoss> Stage for OnEpisodes<'_, L> {
    type Packed = PackedEpisodes;

    fn len(&self) -> usize {
        self.episodes.sequences.len()
    }

    fn tokens(&self, episode: usize) -> usize {
        self.episodes.computed(episode)
    }

    fn weight(&self, episode: usize) -> f64 {
        self.episodes.tokens[episode].len() as f64
    }

    fn pack(&self, episodes: &[usize]) -> (Batch, PackedEpisodes) {
        self.episodes.pack(episodes)
    }

    fn loss(&self, model: &Decoder, hidden: Tensor<2>, packed: &PackedEpisodes, whole: Whole) -> Part {
        self.loss.part(model, hidden, packed, whole)
    }
}

impl TokenLoss for PolicyLoss<'_> {
    fn part(&self, model: &Decoder, hidden: Tensor<2>, packed: &PackedEpisodes, whole: Whole) -> Part {
        let (log_probs, about) = model.log_probs(hidden, &packed.targets, self.temperature);
        let mut metrics = Metrics::default();
        let mut slopes = Vec::with_capacity(packed.tokens.len());
        let found = to_host(log_probs.clone());
        for ((&i, &log_prob), entropy) in packed.tokens.iter().zip(&found).zip(to_host(about)) {
            let (log_prob, old) = (f64::from(log_prob), f64::from(self.old_log_probs[i]));
            let Clipped { loss, slope, clipped } = surrogate(log_prob, old, self.advantages[i], self.clip_range);
            slopes.push((slope / whole.weight) as f32);
            let mut add = |name, value| metrics.add(name, value, 1.0);
            add("loss/policy_avg", loss);
            add("policy/approxkl_avg", 0.5 * (log_prob - old) * (log_prob - old));
            add("policy/clipfrac_avg", if clipped { 1.0 } else { 0.0 });
            add("policy/entropy_avg", entropy.into());
            add("val/ratio", (log_prob - old).exp());
        }
        // Each log-probability times the loss's slope with respect to it: the same gradient as the loss's.
        let slopes: Tensor<1> = constant(&slopes, [slopes.len()], &model.device());
        Part { objective: (log_probs * slopes).sum(), metrics }
    }
}

impl TokenLoss for ValueLoss<'_> {
    fn part(&self, model: &Decoder, hidden: Tensor<2>, packed: &PackedEpisodes, whole: Whole) -> Part {
        let values = values(model, hidden, &packed.targets);
        let mut metrics = Metrics::default();
        let mut slopes = Vec::with_capacity(packed.tokens.len());
        for (&i, value) in packed.tokens.iter().zip(to_host(values.clone())) {
            let Clipped { loss, slope, clipped } =
                value_error(value.into(), self.old_values[i].into(), self.returns[i], self.clip_range);
            slopes.push((slope / whole.weight) as f32);
            metrics.add("loss/value_avg", loss, 1.0);
            metrics.add("val/clipfrac_avg", if clipped { 1.0 } else { 0.0 }, 1.0);
        }
        let slopes: Tensor<2> = constant(&slopes, [slopes.len(), 1], &model.device());
        Part { objective: (values * slopes).sum(), metrics }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::convert::Infallible;

    use burn::tensor::Device;

    use super::{
        Completion, Encoded, Episodes, KlEstimator, Ppo, PpoConfig, PpoError, Trainee, adapted, advantages, iterate,
        rewards, surrogate, value_error, whiten,
    };
    use crate::lm::config::{ModelConfig, SmallLlama};
    use crate::lm::folder::with_scores;
    use crate::lm::lora::{Adapters, LoraConfig};
    use crate::lm::model::Decoder;
    use crate::lm::optim::{OptimizerConfig, Schedule};
    use crate::lm::sample::{Finish, SampleConfig};
    use crate::lm::score;
    use crate::lm::train::Metrics;
    use crate::nn::{constant, to_host};

    const EOS: u32 = 0;

    fn model(seed: u64) -> Decoder {
        let size = SmallLlama { vocabulary: 12, hidden: 16, layers: 1, heads: 2, context: 12 };
        let mut config = ModelConfig::small_llama(size);
        config.initializer_range = 0.2;
        Decoder::new(config, seed, &Device::flex())
    }

    fn start(config: &PpoConfig) -> Ppo {
        Ppo::new(model(1), with_scores(&model(1), 1, 2), config)
    }

    fn prompts() -> Vec<Vec<u32>> {
        (1..10).map(|i| vec![i, 11 - i, 1 + i % 3][..1 + i as usize % 3].to_vec()).collect()
    }

    fn small() -> PpoConfig {
        let optimizer =
            OptimizerConfig { learning_rate: 0.002, schedule: Schedule::Constant, ..OptimizerConfig::default() };
        PpoConfig {
            iterations: 12,
            batch_size: 32,
            minibatch_size: 16,
            sampling: SampleConfig { max_new_tokens: 8, ..SampleConfig::default() },
            optimizer,
            value_learning_rate: 0.01,
            part_tokens: 100,
            ..PpoConfig::default()
        }
    }

    /// How many of a completion's tokens are 5.
    #[expect(clippy::unnecessary_wraps, reason = "it is a reward, which may fail")]
    fn fives(completions: &[(usize, &Completion)]) -> Result<Vec<f64>, Infallible> {
        let count = |ids: &[u32]| ids.iter().filter(|&&id| id == 5).count() as f64;
        Ok(completions.iter().map(|(_, completion)| count(&completion.ids)).collect())
    }

    fn run(state: &mut Ppo, config: &PpoConfig, iterations: usize) -> Vec<Metrics> {
        let one = |_| iterate(state, &model(1), &prompts(), &[EOS], config, 3, &fives).unwrap();
        (0..iterations).map(one).collect()
    }

    fn get(metrics: &Metrics, name: &str) -> f64 {
        metrics.get(name).unwrap_or_else(|| panic!("no {name} in {metrics:?}"))
    }

    #[test]
    fn rewards_and_advantages_are_those_by_hand() {
        let sequence = |ids: &[u32]| Encoded { ids: ids.to_vec(), prompt_len: 1 };
        let episodes = Episodes::new(vec![sequence(&[9, 1, 2, 3]), sequence(&[9, 4])]);
        let rewards = rewards(&episodes, &[-0.1, 0.2, 0.5, 0.0], &[0.5, 2.0]);
        assert_eq!(rewards, [-0.1, 0.2, 1.0, 2.0]);
        let found = advantages(&episodes, &rewards, &[0.5, 0.4, 0.2, 0.3], 0.9, 0.5);
        // δ₂ = 1 − 0.2; δ₁ = 0.2 + 0.9·0.2 − 0.4; δ₀ = −0.1 + 0.9·0.4 − 0.5; each Â is δ + 0.45·(the next one's).
        let expected = [-0.24 + 0.45 * (-0.02 + 0.45 * 0.8), -0.02 + 0.45 * 0.8, 0.8, 1.7];
        for (found, expected) in found.into_iter().zip(expected) {
            assert!((f64::from(found) - expected).abs() < 1e-6, "{found}, expected {expected}");
        }
    }

    #[test]
    fn whitening_scales_and_shifts() {
        let mut values = [1.0, 2.0, 6.0];
        whiten(&mut values, false);
        // Mean 3, variance 7.
        let root = 7.0_f64.sqrt();
        for (found, expected) in values.into_iter().zip([3.0 - 2.0 / root, 3.0 - 1.0 / root, 3.0 + 3.0 / root]) {
            assert!((found - expected).abs() < 1e-8, "{found}, expected {expected}");
        }
        let shifted = |mut values: Vec<f64>| {
            whiten(&mut values, true);
            values
        };
        assert!(shifted(vec![1.0, 2.0, 6.0]).iter().zip(values).all(|(a, b)| (a - (b - 3.0)).abs() < 1e-12));
        assert_eq!(shifted(vec![4.0; 3]), [0.0; 3]);
        assert_eq!(shifted(vec![4.0]), [4.0]);
    }

    #[test]
    fn the_coefficient_follows_the_divergence() {
        for (kl, expected) in [(6.0, 0.1), (6.6, 0.101), (600.0, 0.102), (5.7, 0.0995), (-3.0, 0.098)] {
            let found = adapted(0.1, kl, 6.0, 0.1);
            assert!((found - expected).abs() < 1e-12, "{kl}: {found}, expected {expected}");
        }
    }

    #[test]
    fn estimates_of_the_divergence_are_unbiased() {
        let (policy, reference) = ([0.5_f64, 0.3, 0.2], [0.1_f64, 0.3, 0.6]);
        let mean = |estimator: KlEstimator| {
            let of = |(p, r): (&f64, &f64)| p * estimator.of((p / r).ln());
            policy.iter().zip(&reference).map(of).sum::<f64>()
        };
        let expected = 0.5 * 5.0_f64.ln() - 0.2 * 3.0_f64.ln();
        for estimator in [KlEstimator::K1, KlEstimator::K3] {
            assert!((mean(estimator) - expected).abs() < 1e-12, "{estimator:?}: {}", mean(estimator));
        }
        assert!(KlEstimator::K3.of(-0.4) > 0.0 && KlEstimator::K1.of(-0.4) == -0.4);
    }

    #[test]
    fn slopes_are_differences_of_the_losses() {
        let step = 1e-6;
        let check = |loss: &dyn Fn(f64) -> super::Clipped, at: f64, clipped: bool| {
            let expected = (loss(at + step).loss - loss(at - step).loss) / (2.0 * step);
            let found = loss(at);
            assert!((found.slope - expected).abs() < 1e-7, "at {at}: {found:?}, expected {expected}");
            assert_eq!(found.clipped, clipped, "at {at}: {found:?}");
        };
        // Clipped where the ratio has gone beyond its range in the direction of the advantage: 0.2 in the log is 1.22.
        for (advantage, at, clipped) in [
            (1.5, -2.0, false),
            (1.5, -1.0, false),
            (1.5, -0.8, true),
            (1.5, -1.3, false),
            (-0.7, -1.1, false),
            (-0.7, -1.3, true),
            (-0.7, -0.8, false),
        ] {
            check(&|log_prob| surrogate(log_prob, -1.0, advantage, 0.2), at, clipped);
        }
        // Clipped where the value has gone further than 0.2 from 1 and is nearer to its target than the limit is.
        for (target, at, clipped) in
            [(2.0, 1.1, false), (2.0, 1.5, true), (2.0, 0.5, false), (0.0, 0.7, true), (0.0, 1.3, false)]
        {
            check(&|value| value_error(value, 1.0, target, 0.2), at, clipped);
        }
        assert!((surrogate(-0.5, -1.0, 1.5, 0.2).loss + 1.8).abs() < 1e-12);
        assert!((value_error(1.5, 1.0, 2.0, 0.2).loss - 0.32).abs() < 1e-12);
    }

    /// One step an iteration: what it reports is of the policy that wrote, so it can be computed in another way.
    #[test]
    fn before_the_first_step_ratios_are_one_and_the_rewards_are_what_they_should_be() {
        let config = PpoConfig {
            minibatch_size: 32,
            epochs: 1,
            kl_coefficient: 0.3,
            target_kl: Some(1e-3),
            kl_horizon: 320.0,
            missing_eos_penalty: Some(0.5),
            sampling: SampleConfig { temperature: 0.7, ..small().sampling },
            ..small()
        };
        // Where the temperature, adapters' dropout or the order of tokens were not what they should be, it would show.
        let mut policy = model(1);
        let lora = LoraConfig { rank: 2, dropout: 0.5, ..LoraConfig::default() };
        policy.adapters = Some(Adapters::new(lora, &policy.layout, 4, &Device::flex()).unwrap());
        let mut state = Ppo::new(policy.clone(), with_scores(&policy, 1, 2), &config);
        let reference = model(7);
        let seen = RefCell::new(Vec::new());
        let reward = |completions: &[(usize, &Completion)]| {
            let all = completions.iter().map(|&(prompt, completion)| (prompt, completion.clone()));
            seen.borrow_mut().extend(all);
            fives(completions)
        };
        let found = iterate(&mut state, &reference, &prompts(), &[EOS], &config, 3, &reward).unwrap();
        let seen = seen.into_inner();
        assert!((get(&found, "val/ratio") - 1.0).abs() < 1e-5, "{found:?}");
        // Half the mean square of ln π − ln π_old.
        assert!(get(&found, "policy/approxkl_avg") < 1e-11, "{found:?}");
        assert_eq!(get(&found, "policy/clipfrac_avg"), 0.0);

        let encoded = |(prompt, completion): &(usize, Completion)| Encoded::new(&prompts()[*prompt], &completion.ids);
        let sequences: Vec<Encoded> = seen.iter().map(encoded).collect();
        let total = |model: &Decoder| {
            // Larger hidden states are larger logits.
            let mut cooled = model.clone();
            let norm = cooled.layout.final_norm.weight;
            cooled.parameters[norm] = cooled.parameters[norm].clone() / 0.7;
            score::log_probs(&cooled, &sequences, 100, &|_| ()).iter().sum::<f64>() / 32.0
        };
        let (own, other) = (total(&policy), total(&reference));
        let ended = seen.iter().filter(|(_, completion)| completion.finish == Finish::Eos).count() as f64;
        assert!(ended > 0.0 && ended < 32.0, "the case needs both");
        let fives: f64 = seen.iter().map(|(_, c)| c.ids.iter().filter(|&&id| id == 5).count() as f64).sum();
        let scores = fives / 32.0 - 0.5 * (1.0 - ended / 32.0);
        for (name, expected) in [
            ("objective/kl", own - other),
            ("kl/k1", own - other),
            ("objective/entropy", -own),
            ("objective/non_score_reward", -0.3 * (own - other)),
            ("objective/scores", scores),
            ("objective/rlhf_reward", scores - 0.3 * (own - other)),
            ("val/num_eos_tokens", ended),
            ("episode", 32.0),
            ("kl_coefficient", 0.3),
            ("lr", 0.002),
        ] {
            assert!((get(&found, name) - expected).abs() < 1e-4, "{name} = {}, not {expected}", get(&found, name));
        }
        assert!(get(&found, "kl/k3") > 0.0);
        // A tenth of the horizon has passed, with a divergence far above the target.
        assert!((state.kl_coefficient - 0.3 * 1.02).abs() < 1e-12, "{}", state.kl_coefficient);
    }

    #[test]
    fn the_reward_is_learned_unless_divergence_is_dear() {
        let learn = |kl_coefficient: f64| {
            let config = PpoConfig { kl_coefficient, ..small() };
            let all = run(&mut start(&config), &config, 12);
            assert!(all.iter().all(|metrics| metrics.means().all(|(_, mean)| mean.is_finite())), "{all:?}");
            let last = |name: &str| all[8..].iter().map(|metrics| get(metrics, name)).sum::<f64>() / 4.0;
            (get(&all[0], "objective/scores"), last("objective/scores"), last("kl/k1"), last("kl/k3"))
        };
        // Eight tokens may be 5; at first one in twelve is.
        let (first, last, k1, k3) = learn(0.05);
        assert!(first < 1.5 && last > 6.0, "{first} {last}");
        assert!(k1 > 5.0 && k3 > 5.0, "{k1} {k3}");
        let (_, last, k1, k3) = learn(100.0);
        assert!(last < 1.5 && k1 < 0.4 && k3 < 0.4, "{last} {k1} {k3}");
    }

    /// A model and an optimiser made anew from numbers alone, as if they had been saved and read.
    fn copied(trainee: &Trainee) -> Trainee {
        let copied =
            |tensor: &burn::tensor::Tensor<2>| constant(&to_host(tensor.clone()), tensor.dims(), &Device::flex());
        let mut new = trainee.clone();
        new.model.parameters = trainee.model.parameters.iter().map(copied).collect();
        new.optimizer.moments = trainee.optimizer.moments.iter().map(|both| both.each_ref().map(copied)).collect();
        new
    }

    #[test]
    fn neither_threads_nor_an_interruption_change_a_bit() {
        let config = PpoConfig { target_kl: Some(0.1), whiten_rewards: true, ..small() };
        let pool = |threads: usize| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let numbers = |state: &Ppo| -> Vec<Vec<f32>> {
            [&state.policy, &state.value].iter().flat_map(|t| t.model.parameters.clone()).map(to_host).collect()
        };
        let mut whole = start(&config);
        let expected = pool(1).install(|| run(&mut whole, &config, 3));
        let mut parts = start(&config);
        let mut found = Vec::new();
        for _ in 0..3 {
            parts = Ppo { policy: copied(&parts.policy), value: copied(&parts.value), ..parts };
            found.extend(pool(3).install(|| run(&mut parts, &config, 1)));
        }
        assert_eq!(found, expected);
        assert_eq!(numbers(&parts), numbers(&whole));
        assert_eq!(parts.kl_coefficient, whole.kl_coefficient);
        assert_ne!(get(&expected[1], "kl_coefficient"), get(&expected[0], "kl_coefficient"));
    }

    #[derive(Debug, PartialEq, thiserror::Error)]
    #[error("no reward today")]
    struct NoReward;

    #[test]
    fn what_cannot_be_learned_from_is_refused() {
        let config = small();
        let mut state = start(&config);
        let before = to_host(state.policy.model.parameters[0].clone());
        let mut refused = |prompts: &[Vec<u32>], scores: Result<Vec<f64>, NoReward>| {
            let reward = |_: &[(usize, &Completion)]| scores.as_ref().map(Clone::clone).map_err(|_| NoReward);
            let error = iterate(&mut state, &model(1), prompts, &[EOS], &config, 3, &reward).unwrap_err();
            assert_eq!((state.iteration, to_host(state.policy.model.parameters[0].clone())), (0, before.clone()));
            error
        };
        assert_eq!(refused(&[], Ok(vec![])), PpoError::NoPrompts);
        assert_eq!(refused(&[vec![1], vec![]], Ok(vec![])), PpoError::Prompt { index: 1, found: 0, most: 11 });
        assert_eq!(refused(&[vec![1; 12]], Ok(vec![])), PpoError::Prompt { index: 0, found: 12, most: 11 });
        assert_eq!(refused(&prompts(), Ok(vec![1.0; 3])), PpoError::Scores { found: 3, expected: 32 });
        assert!(matches!(refused(&prompts(), Ok(vec![f64::NAN; 32])), PpoError::Score { .. }));
        assert_eq!(refused(&prompts(), Err(NoReward)), PpoError::Reward(NoReward));
        let size = SmallLlama { vocabulary: 11, hidden: 16, layers: 1, heads: 2, context: 12 };
        let other = Decoder::new(ModelConfig::small_llama(size), 1, &Device::flex());
        let error = iterate(&mut state, &other, &prompts(), &[EOS], &config, 3, &fives).unwrap_err();
        let expected = "the reference has vocabulary = 11: must be at least the policy's, 12";
        assert_eq!(error.to_string(), expected);
        // The longest prompt there may be has room for one token.
        iterate(&mut state, &model(1), &[vec![1; 11]], &[EOS], &config, 3, &fives).unwrap();
    }

    /// Issue 28, B1.
    #[test]
    fn numbers_that_are_not_finite_are_named() {
        let config = small();
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let spoil = |model: &mut Decoder, i: usize| {
                let tensor = &mut model.parameters[i];
                let mut values = to_host(tensor.clone());
                values[0] = wrong;
                *tensor = constant(&values, tensor.dims(), &Device::flex());
            };
            let error = |mut state: Ppo| {
                let error = iterate(&mut state, &model(1), &prompts(), &[EOS], &config, 3, &fives).unwrap_err();
                match error {
                    PpoError::NotFinite(error) => error,
                    other => panic!("{other}"),
                }
            };
            let norm = model(1).layout.final_norm.weight;
            let mut state = start(&config);
            spoil(&mut state.policy.model, norm);
            assert!(error(state).what.starts_with("the policy's log-probability"), "{wrong}");
            let mut state = start(&config);
            spoil(&mut state.value.model, norm);
            let found = error(state);
            assert!(found.what.starts_with("the value") && found.at.starts_with("iteration 1"), "{found}");
        }
        // Its error is one of a run that failed, whatever it passes through.
        let error = PpoError::<crate::lm::error::LmError>::Score { iteration: 4, prompt: 2, found: f64::NAN };
        let error = crate::lm::error::LmError::from(error);
        assert!(crate::finite::is_behind::<crate::finite::NotFinite>(&error), "{error}");
        assert!(
            error.to_string().starts_with("the reward of the completion of prompt 2 is NaN at iteration 4"),
            "{error}"
        );
    }

    #[test]
    fn settings_out_of_range_are_named() {
        assert_eq!(PpoConfig::default().validate(), Ok(()));
        type Damage = fn(&mut PpoConfig);
        let cases: [(&str, Damage); 9] = [
            ("epochs = 0", |config| config.epochs = 0),
            ("sampling.top_p = 0.9: must be 1, so that", |config| config.sampling.top_p = 0.9),
            ("sampling.temperature = 0: must be above 0", |config| config.sampling.temperature = 0.0),
            ("sampling.max_new_tokens = 0", |config| config.sampling.max_new_tokens = 0),
            ("optimizer.learning_rate = -1", |config| config.optimizer.learning_rate = -1.0),
            ("kl_coefficient = -0.1", |config| config.kl_coefficient = -0.1),
            ("target_kl = 0", |config| config.target_kl = Some(0.0)),
            ("gamma = 1.1", |config| config.gamma = 1.1),
            ("clip_range = NaN", |config| config.clip_range = f64::NAN),
        ];
        for (expected, damage) in cases {
            let mut config = PpoConfig::default();
            damage(&mut config);
            let found = config.validate().unwrap_err().to_string();
            assert!(found.starts_with(expected), "{found}, expected {expected}");
        }
    }
}
