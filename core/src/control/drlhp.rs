//! Deep reinforcement learning from human preferences (Christiano et al. 2017, arXiv 1706.03741), the loop:
//!
//! **collect → query → label → fit → train**
//!
//! The paper runs the three processes (policy, questions, reward fit) asynchronously; here they take turns inside one
//! iteration, so that a run is a function of its configuration and its answers and can be replayed to the bit.
//!
//! A simulated teacher answers at once, inside [`iterate`]. A person takes seconds, so training goes on meanwhile, and
//! between two iterations an [`exchange`] hands over the answers that have come and prepares the next questions. The
//! number of the exchange is the logical time of an answer: the same answers in the same exchanges give the same bits.
//!
//! **Architecture invariant:** the true reward that rollouts carry is read by the teacher (`label`) and by metrics
//! only; `train_reward` decides what the agent sees.

use std::collections::VecDeque;

use burn::tensor::Device;
use pairwise_envs::VecEnv;
use rand::RngExt as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::control::config::{Config, Rater, RewardSource};
use crate::control::reward::ensemble::{Ensemble, FitTarget};
use crate::control::reward::fit::{Astray, FitExample, FitMetrics, fit};
use crate::control::rl::normalize::{ReturnScaler, RunningMoments};
use crate::control::rl::ppo::{self, Agent, Rollout, UpdateMetrics};
use crate::disk::files::hex;
use crate::finite::{self, NotFinite};
use crate::preference::query::{self, Candidates};
use crate::preference::{Event, Label, Repeat, SegmentId, TeacherContext, Why, pearson, spearman};
use crate::random::{Rng, stream};

/// The whole state of a run between two iterations; what a checkpoint holds.
pub struct Run {
    /// Configuration; changes only between two iterations.
    pub config: Config,
    /// Iterations done, 0 after the random steps.
    pub iteration: usize,
    /// Environment steps taken, random ones included.
    pub env_steps: usize,
    /// The training environments.
    pub envs: VecEnv,
    /// Policy and value function.
    pub agent: Agent,
    /// Reward predictors.
    pub ensemble: Ensemble,
    /// Scales rewards for PPO.
    pub scaler: ReturnScaler,
    /// Newest rollouts, oldest first: where questions come from.
    pub recent: VecDeque<Rollout>,
    /// A uniform sample of all transitions so far: what rewards are normalised and measured on.
    pub reference: Reference,
    /// Questions that a person has not answered yet, the next one first.
    pub pending: VecDeque<Compared>,
    /// Answered comparisons, with their segments.
    pub comparisons: Vec<Compared>,
    /// Questions asked; hidden repeats do not count.
    pub labels_asked: usize,
    /// Label sessions, or exchanges with a person, so far.
    pub sessions: usize,
    /// The last fit since the last iteration, for the next report.
    pub fitted: Option<FitMetrics>,
    /// The candidates' mean disagreement in the last exchange, for the next report.
    pub disagreement: Option<f64>,
    /// Statistics of true segment returns, for the noisy teacher's relative temperature.
    pub segment_returns: RunningMoments,
    /// True returns of the last ten finished training episodes.
    pub episode_returns: VecDeque<f64>,
    /// Iterations in which the agent was trained on a reward that had not been fitted to any answer.
    pub unfitted: usize,
}

/// A clip: what the agent saw and did, and the states to draw it from.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Segment {
    /// `[steps, obs]`: raw observations.
    pub observations: Vec<f32>,
    /// `[steps, action]`: action features.
    pub actions: Vec<f32>,
    /// `[steps, saved]`: states, for drawing.
    pub states: Vec<f64>,
    /// `[steps]`: true rewards, for the teacher and metrics only.
    pub true_rewards: Vec<f64>,
}

/// A comparison: a question, and its answer where there is one.
#[derive(Debug, Clone, PartialEq)]
pub struct Compared {
    /// Number of the query, counting from 0.
    pub query: u64,
    /// The first clip.
    pub first: Segment,
    /// The second clip.
    pub second: Segment,
    /// The answer in force; "skip" before there is one, and after it was undone.
    pub label: Label,
    /// Environment steps at which it was asked.
    pub step: usize,
    /// What the ensemble thought of the pair when it was asked; `None` before the first fit.
    pub why: Option<Why>,
    /// The earlier query whose pair this one shows again, to see whether a person agrees with themselves. The fit
    /// leaves repeats out.
    pub repeat: Option<Repeat>,
}

/// A uniform sample of the transitions seen so far (reservoir sampling, Vitter 1985).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Reference {
    /// Transitions seen.
    pub seen: usize,
    /// `[n, obs]`
    pub observations: Vec<f32>,
    /// `[n, action]`: features
    pub actions: Vec<f32>,
    /// `[n, obs]`
    pub next_observations: Vec<f32>,
    /// `[n, saved]`: states before the action
    pub states: Vec<f64>,
    /// `[n]`: true rewards, for metrics only
    pub true_rewards: Vec<f64>,
}

/// A question put to a teacher.
#[derive(Debug, Clone, PartialEq)]
pub struct SegmentQuery {
    /// Number of the query.
    pub query: u64,
    /// Label session.
    pub session: u64,
    /// Environment steps at which it is asked: its logical time.
    pub step: u64,
    /// Digest of the first clip.
    pub first: SegmentId,
    /// Digest of the second clip.
    pub second: SegmentId,
    /// What the ensemble thinks of the pair.
    pub why: Option<Why>,
    /// The simulated teacher's answer.
    pub simulated: Label,
}

/// What one iteration did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// Iterations done.
    pub iteration: usize,
    /// Environment steps taken.
    pub env_steps: usize,
    /// Questions asked.
    pub labels_asked: usize,
    /// Questions answered.
    pub labels_answered: usize,
    /// Mean true return of the last ten training episodes; `None` before the first ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub true_return: Option<f64>,
    /// What the learned reward expects of an episode: its mean over this iteration's steps times the time limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted_return: Option<f64>,
    /// Mean variance of the members' predictions over this iteration's candidate pairs; `None` for a single member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disagreement: Option<f64>,
    /// Correlation of learned and true reward on the reference transitions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<RewardMetrics>,
    /// The reward fit, when there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fit: Option<FitMetrics>,
    /// PPO's update; `None` after the random steps at the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ppo: Option<UpdateMetrics>,
    /// SHA-256 of all weights after the iteration.
    pub weights_sha256: String,
}

/// Correlations between learned and true reward, step by step.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct RewardMetrics {
    /// Pearson's correlation; `None` when one of the rewards is constant.
    pub pearson: Option<f64>,
    /// Spearman's rank correlation; `None` when one of the rewards is constant.
    pub spearman: Option<f64>,
}

/// An event that does not belong to a run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// An answer without a question.
    #[error("answers query {query}, which is not open at this point of the run")]
    NotAsked {
        /// The query.
        query: u64,
    },
    /// An answer about other clips.
    #[error("answers query {query} on other clips than this run shows")]
    OtherClips {
        /// The query.
        query: u64,
    },
    /// A change of an answer that was not given.
    #[error("changes the answer to query {query}, which has none at this point of the run")]
    NotAnswered {
        /// The query.
        query: u64,
    },
}

/// What stops training.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Halt {
    /// A number that is not finite.
    #[error(transparent)]
    NotFinite(#[from] NotFinite),
    /// There is no reward to train on.
    #[error(
        "none of the {asked} questions asked by iteration {iteration} was answered with anything but \"skip\", so \
         there is no reward to train the agent on: ask more (preferences.labels, preferences.first_share), or choose a \
         teacher that skips less (preferences.teacher.skip)"
    )]
    Unanswered {
        /// Questions asked.
        asked: usize,
        /// The iteration that would have trained on it.
        iteration: usize,
    },
}

/// What stops an exchange with a person.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ExchangeError {
    /// An event that does not belong to this run.
    #[error(transparent)]
    Event(#[from] EventError),
    /// Training cannot go on.
    #[error(transparent)]
    Halt(#[from] Halt),
}

/// Transitions kept in [`Reference`]: enough for correlations to ±0.02, few enough to predict in milliseconds.
const REFERENCE_LEN: usize = 4096;

/// Finished episodes whose mean return the teacher's thresholds and the progress line use (B-Pref: 10).
const RECENT_EPISODES: usize = 10;

/// A fresh run. Nothing is stepped yet.
///
/// # Errors
/// When the environment does not exist.
pub fn start(config: Config, device: &Device) -> Result<Run, pairwise_envs::UnknownEnv> {
    let envs = VecEnv::new(&config.env, config.ppo.envs, config.seed, episode_rng)?;
    let spec = envs.spec();
    let agent = Agent::new(&config.ppo, &spec.observation, &spec.action, config.seed, device);
    let (obs, act) = (spec.observation.len(), agent.head.outputs());
    let ensemble = Ensemble::new(&config.reward_model, obs, act, config.seed, device);
    Ok(Run {
        iteration: 0,
        env_steps: 0,
        envs,
        agent,
        ensemble,
        scaler: ReturnScaler::new(config.ppo.envs),
        recent: VecDeque::new(),
        reference: Reference::default(),
        pending: VecDeque::new(),
        comparisons: Vec::new(),
        labels_asked: 0,
        sessions: 0,
        fitted: None,
        disagreement: None,
        segment_returns: RunningMoments::new(1),
        episode_returns: VecDeque::new(),
        unfitted: 0,
        config,
    })
}

/// Random numbers of a training episode.
pub fn episode_rng(seed: u64, env: usize, episode: u64) -> Rng {
    stream(seed, &format!("episode-{env}"), episode)
}

/// One iteration; the first call takes the random steps and asks the first questions instead (A.1: a quarter of the
/// labels compares clips of an untrained policy).
///
/// `ask` returns the answer to a question once it is safely stored.
///
/// # Errors
/// Those of `ask`, and [`Halt`]. The run is then in the middle of an iteration and cannot go on.
pub fn iterate<E: From<Halt>>(
    run: &mut Run,
    ask: &mut dyn FnMut(&SegmentQuery) -> Result<Label, E>,
) -> Result<Report, E> {
    let seed = run.config.seed;
    let learning = run.config.reward == RewardSource::Preferences;
    let first = run.env_steps == 0;
    let mut report = Report { fit: run.fitted.take(), disagreement: run.disagreement.take(), ..Report::default() };

    // Collect.
    let rollout = if first {
        let steps = run.config.preferences.random_steps / run.config.ppo.envs;
        // A run that begins with a policy asks about that one first; a fresh run asks about random actions.
        let begun = run.config.init.is_some().then_some(&run.agent);
        ppo::collect(begun, &run.agent.head, &mut run.envs, steps, &mut stream(seed, "random-actions", 0))
    } else {
        let steps = run.config.ppo.rollout_steps;
        let mut rng = stream(seed, "actions", run.iteration as u64);
        ppo::collect(Some(&run.agent), &run.agent.head, &mut run.envs, steps, &mut rng)
    };
    if let Some((what, found)) = rollout.not_finite(run.envs.spec().id) {
        let taken = run.env_steps + rollout.envs * rollout.steps;
        return Err(not_finite(run, what, found, OF_ROLLOUT, taken).into());
    }
    remember(run, &rollout);
    if first {
        run.ensemble.inputs = run.agent.observations.clone();
        run.ensemble.inputs.update(&rollout.observations);
    }

    if learning && run.config.preferences.rater == Rater::Simulated {
        let due = labels_due(&run.config, run.env_steps).saturating_sub(run.labels_asked);
        // The first share comes in rounds, with a fit after each: uniform first, then where the members disagree.
        let (rounds, steps) = match first {
            true => (run.config.preferences.first_rounds.min(due), run.config.reward_model.first_steps),
            false => (due.min(1), run.config.reward_model.steps),
        };
        for round in 0..rounds {
            let part = |whole: usize| whole * (round + 1) / rounds - whole * round / rounds;
            // Query and label.
            report.disagreement = label(run, part(due), ask)?;
            // Fit.
            report.fit = fit_ensemble(run, part(steps))?;
        }
    }

    // Train.
    if !first {
        if learning && !fitted(run) {
            let simulated = run.config.preferences.rater == Rater::Simulated;
            if simulated && run.labels_asked > 0 && labels_answered(run) == 0 {
                let (asked, iteration) = (run.labels_asked, run.iteration + 1);
                return Err(Halt::Unanswered { asked, iteration }.into());
            }
            run.unfitted += 1;
        }
        let mut rewards = train_reward(run, &rollout)?;
        let mean = rewards.iter().sum::<f64>() / rewards.len() as f64;
        report.predicted_return = learning.then(|| mean * run.envs.spec().horizon as f64);
        if run.config.ppo.scale_rewards {
            run.scaler.scale(&mut rewards, &rollout.done, run.config.ppo.gamma);
            let moments = &run.scaler.moments;
            if let Some((_, found)) = finite::first([moments.mean[0], moments.squares[0]]) {
                let what = "the spread of discounted returns, which rewards are scaled by,".to_owned();
                return Err(not_finite(run, what, found, OF_REWARD, run.env_steps).into());
            }
        }
        let progress = (run.iteration as f64 / run.config.iterations() as f64).min(1.0);
        let mut rng = stream(seed, "minibatches", run.iteration as u64);
        let updated = ppo::update(&mut run.agent, &run.config.ppo, &rollout, &rewards, progress, &mut rng);
        if let Some((what, found)) = updated.not_finite() {
            return Err(not_finite(run, format!("the {what} of PPO's update"), found, OF_UPDATE, run.env_steps).into());
        }
        report.ppo = Some(updated);
        run.iteration += 1;
    }
    // After the update: the statistics a rollout was collected with must also be those it is trained with.
    if run.config.ppo.normalize_observations {
        run.agent.observations.update(&rollout.observations);
    }

    if learning {
        run.ensemble.normalize_on(&run.config.reward_model, &reference_features(run));
        report.reward = Some(reward_metrics(run));
    }
    report.iteration = run.iteration;
    report.env_steps = run.env_steps;
    report.labels_asked = run.labels_asked;
    report.labels_answered = labels_answered(run);
    report.true_return = mean_episode_return(run);
    let (weights_sha256, wrong) = digest(run);
    if let Some((name, found)) = wrong {
        return Err(not_finite(run, format!("a weight of {name}"), found, OF_UPDATE, run.env_steps).into());
    }
    report.weights_sha256 = weights_sha256;
    Ok(report)
}

const OF_ROLLOUT: &str =
    "nothing can be learned from it; fix the environment or the policy that it comes from, or limit the actions";
const OF_REWARD: &str = "the agent cannot be trained on it; try a smaller reward_model.learning_rate, a larger \
                         reward_model.likelihood.temperature, or more regularisation (reward_model.l2)";
const OF_UPDATE: &str =
    "the update has diverged; try a smaller ppo.learning_rate or ppo.clip_range, or fewer ppo.epochs";

/// The error about a number that came up in the present iteration.
fn not_finite(run: &Run, what: String, found: f64, advice: &'static str, env_steps: usize) -> Halt {
    // The present iteration is not counted yet.
    let at = format!("iteration {} (environment step {env_steps})", run.iteration + 1);
    NotFinite { what, found, at, advice }.into()
}

/// Whether the ensemble was fitted to any answer.
#[must_use]
pub fn fitted(run: &Run) -> bool {
    run.ensemble.members.iter().any(|member| member.optimizer.steps > 0)
}

/// Hands a person's answers to training in the order in which they were given, fits the reward if there were any, and
/// prepares the next questions. Called between two iterations.
///
/// # Errors
/// When an event does not belong to this run: an answer to a question that was not asked or is answered already, or
/// about other clips. Such an event changes nothing. And [`Halt`], as in [`iterate`].
pub fn exchange(run: &mut Run, events: &[Event]) -> Result<(), ExchangeError> {
    events.iter().try_for_each(|event| apply(run, event))?;
    if !events.is_empty() {
        run.fitted = fit_ensemble(run, run.config.reward_model.steps)?.or(run.fitted);
    }
    prepare(run)?;
    run.sessions += 1;
    Ok(())
}

/// Whether training waits for a person. It runs ahead of the answers that the label schedule asks for by at most `lead`
/// questions, and by ever fewer towards its end, so that no answer comes too late. It never waits while no question is
/// open.
#[must_use]
pub fn waits(run: &Run) -> bool {
    let preferences = &run.config.preferences;
    if run.pending.is_empty() {
        return false;
    }
    let left = 1.0 - run.iteration as f64 / run.config.iterations() as f64;
    let lead = (preferences.lead as f64 * left.max(0.0)).floor() as usize;
    let resolved = run.labels_asked - run.pending.iter().filter(|q| q.repeat.is_none()).count();
    labels_due(&run.config, run.env_steps + run.config.rollout_len()) > resolved + lead
}

/// One episode of a policy with deterministic actions, from an initial state given by `seed`.
///
/// # Errors
/// When the environment does not exist.
pub fn episode(env: &str, agent: &Agent, seed: u64) -> Result<Segment, pairwise_envs::UnknownEnv> {
    let mut envs = VecEnv::new(env, 1, seed, episode_rng)?;
    let mut episode = Segment::default();
    let mut state = vec![0.0; envs.spec().saved_len];
    while episode.states.is_empty() || envs.finished().is_empty() {
        envs.save_states(&mut state);
        let actions = agent.act_deterministic(envs.observations());
        episode.states.extend_from_slice(&state);
        episode.observations.extend_from_slice(envs.observations());
        episode.actions.extend(agent.head.features(&actions));
        agent.head.step(&mut envs, &actions);
        episode.true_rewards.extend_from_slice(envs.rewards());
    }
    Ok(episode)
}

/// Questions answered with anything but "skip"; hidden repeats do not count.
#[must_use]
pub fn labels_answered(run: &Run) -> usize {
    run.comparisons.iter().filter(|c| c.repeat.is_none() && c.label != Label::Skip).count()
}

/// Whether all iterations are done.
#[must_use]
pub fn finished(run: &Run) -> bool {
    run.env_steps > 0 && run.iteration >= run.config.iterations()
}

/// The reward the agent is trained on, for each transition of a rollout: the learned one, or the true one in the
/// explicit baseline.
fn train_reward(run: &mut Run, rollout: &Rollout) -> Result<Vec<f64>, Halt> {
    match run.config.reward {
        RewardSource::True => Ok(rollout.true_rewards.clone()),
        RewardSource::Preferences => {
            run.ensemble.normalize_on(&run.config.reward_model, &reference_features(run));
            let actions = run.agent.head.features(&rollout.actions);
            let features = run.ensemble.features(&rollout.observations, &actions);
            let rewards = run.ensemble.predict(&run.config.reward_model, &features);
            match finite::first(rewards.iter().copied()) {
                None => Ok(rewards),
                Some((_, found)) => {
                    let (who, found) = not_finite_member(run, &features)
                        .unwrap_or_else(|| ("the ensemble, normalised".to_owned(), found));
                    Err(not_finite(run, format!("the predicted reward of {who}"), found, OF_REWARD, run.env_steps))
                }
            }
        }
    }
}

/// The first member whose predictions are not finite, by name, and what it predicts.
fn not_finite_member(run: &Run, features: &[f32]) -> Option<(String, f64)> {
    let members = run.ensemble.predict_members(features);
    members
        .iter()
        .enumerate()
        .find_map(|(i, rewards)| Some((format!("member {i}"), finite::first(rewards.iter().copied())?.1)))
}

/// Correlation of learned and true reward on the reference transitions.
#[must_use]
pub fn reward_metrics(run: &Run) -> RewardMetrics {
    let predicted = run.ensemble.predict(&run.config.reward_model, &reference_features(run));
    let truth = &run.reference.true_rewards;
    RewardMetrics { pearson: pearson(&predicted, truth), spearman: spearman(&predicted, truth) }
}

/// Trains the ensemble on the answers in force; `None` when there is none to learn from.
fn fit_ensemble(run: &mut Run, steps: usize) -> Result<Option<FitMetrics>, Halt> {
    let examples = examples(run);
    let (model, seed, session) = (&run.config.reward_model, run.config.seed, run.sessions as u64);
    fit(&mut run.ensemble, model, &examples, steps, seed, session).map_err(|Astray { member, what, found }| {
        not_finite(run, format!("the {what} of reward member {member}"), found, OF_REWARD, run.env_steps)
    })
}

/// Questions due in all after `env_steps` steps: the first share before training, then at a rate proportional to
/// h / (T + h) (A.1), which integrates to a logarithm.
#[must_use]
pub fn labels_due(config: &Config, env_steps: usize) -> usize {
    let preferences = &config.preferences;
    let first = (preferences.labels as f64 * preferences.first_share).round() as usize;
    let random = preferences.random_steps / config.ppo.envs * config.ppo.envs;
    let last = (config.iterations() * config.rollout_len()) as f64;
    if !preferences.online {
        return preferences.labels;
    }
    if env_steps <= random {
        return first;
    }
    let half = preferences.rate_half * last;
    let share = ((env_steps - random) as f64 / half).ln_1p() / (last / half).ln_1p();
    first + ((preferences.labels - first) as f64 * share.min(1.0) + 1e-9).floor() as usize
}

// ------------------------------------------------------------------------------------------------ query and label

/// Asks a simulated teacher `count` questions about recent clips. Returns the mean disagreement of the candidates.
fn label<E: From<Halt>>(
    run: &mut Run,
    count: usize,
    ask: &mut dyn FnMut(&SegmentQuery) -> Result<Label, E>,
) -> Result<Option<f64>, E> {
    let (questions, disagreement) = questions(run, count)?;
    let context = TeacherContext {
        segment_len: run.config.preferences.segment_steps,
        episode_len: run.envs.spec().horizon,
        mean_episode_return: mean_episode_return(run),
        segment_return_std: run.segment_returns.std()[0],
        sessions_before: run.sessions,
    };
    for compared in questions {
        let mut rng = stream(run.config.seed, "teacher", compared.query);
        let [first, second] = [&compared.first.true_rewards, &compared.second.true_rewards];
        let simulated = run.config.preferences.teacher.answer(first, second, &context, &mut rng);
        let label = ask(&SegmentQuery {
            query: compared.query,
            session: run.sessions as u64,
            step: compared.step as u64,
            first: compared.first.id(),
            second: compared.second.id(),
            why: compared.why,
            simulated,
        })?;
        run.labels_asked += 1;
        run.comparisons.push(Compared { label, ..compared });
    }
    run.sessions += 1;
    Ok(disagreement)
}

/// Chooses `count` pairs of recent clips to ask about, numbered from the next query on. Returns them with the mean
/// disagreement of the candidates, if there are several members, and they were fitted to anything.
fn questions(run: &mut Run, count: usize) -> Result<(Vec<Compared>, Option<f64>), Halt> {
    let preferences = run.config.preferences.clone();
    let mut rng = stream(run.config.seed, "queries", run.sessions as u64);
    // A sampler that reads nothing of the candidates needs no choice of them.
    let candidates = if preferences.sampler.reads.is_empty() { count } else { count * preferences.candidates };
    let mut pairs: Vec<[Segment; 2]> =
        (0..candidates).map(|_| [random_segment(run, &mut rng), random_segment(run, &mut rng)]).collect();

    let probabilities: Vec<f64> = {
        let likelihood = &run.config.reward_model.likelihood;
        let returns = predicted_returns(run, &pairs.iter().flatten().collect::<Vec<&Segment>>());
        for (member, returns) in returns.iter().enumerate() {
            if let Some((_, found)) = finite::first(returns.iter().copied()) {
                let what = format!("the return of a clip that member {member} predicts");
                return Err(not_finite(run, what, found, OF_REWARD, run.env_steps));
            }
        }
        let pairs = returns.iter().flat_map(|member| member.chunks(2));
        pairs.map(|pair| likelihood.probability(pair[0] - pair[1])).collect()
    };
    let members = run.ensemble.members.len();
    let disagreement = query::disagreement(&probabilities, members);
    let entropy = query::entropy(&probabilities, members);
    // Before the first fit the members know nothing: the first session is uniform, as in B-Pref.
    let fitted = fitted(run);
    let chosen = if fitted {
        let flat = |pair: [&Segment; 2]| pair.iter().flat_map(|s| s.observations.clone()).collect::<Vec<f32>>();
        let positions: Vec<Vec<f32>> = pairs.iter().map(|[first, second]| flat([first, second])).collect();
        let asked = run.comparisons.iter().chain(&run.pending);
        let labelled: Vec<Vec<f32>> = asked.map(|c| flat([&c.first, &c.second])).collect();
        let candidates =
            Candidates { probabilities: &probabilities, members, positions: &positions, labelled: &labelled };
        preferences.sampler.select(count, &candidates, &mut rng)
    } else {
        query::select_uniform(count, pairs.len(), &mut rng)
    };

    for pair in &pairs {
        for segment in pair {
            run.segment_returns.update(&[segment.true_rewards.iter().sum::<f64>() as f32]);
        }
    }
    let next = queries(run);
    let take = |(number, index): (usize, usize)| {
        let [first, second] = std::mem::take(&mut pairs[index]);
        Compared {
            query: next + number as u64,
            first,
            second,
            label: Label::Skip,
            step: run.env_steps,
            why: fitted.then(|| Why { disagreement: disagreement[index], entropy: entropy[index] }),
            repeat: None,
        }
    };
    let questions = chosen.into_iter().enumerate().map(take).collect();
    // A single member has nobody to disagree with.
    let known = fitted && members > 1 && !disagreement.is_empty();
    Ok((questions, known.then(|| disagreement.iter().sum::<f64>() / disagreement.len() as f64)))
}

/// Number of the next query.
fn queries(run: &Run) -> u64 {
    (run.comparisons.len() + run.pending.len()) as u64
}

/// Return of each clip as each member predicts it, raw: no normaliser is read or changed.
///
/// # Shapes
/// - returns `[members, clips]`
#[must_use]
pub fn predicted_returns(run: &Run, clips: &[&Segment]) -> Vec<Vec<f64>> {
    let features = clips.iter().flat_map(|clip| run.ensemble.features(&clip.observations, &clip.actions));
    let rewards = run.ensemble.predict_members(&features.collect::<Vec<f32>>());
    let steps = run.config.preferences.segment_steps;
    let sum = |rewards: &[f32]| rewards.iter().map(|&r| f64::from(r)).sum::<f64>();
    rewards.iter().map(|rewards| rewards.chunks(steps).map(sum).collect()).collect()
}

/// Keeps `ahead` questions ready for a person; one in every `repeat_every` is a hidden repeat of an earlier one.
fn prepare(run: &mut Run) -> Result<(), Halt> {
    let preferences = &run.config.preferences;
    let (ahead, repeat_every) = (preferences.ahead, preferences.repeat_every as u64);
    let missing = ahead.saturating_sub(run.pending.len()).min(preferences.labels.saturating_sub(run.labels_asked));
    if missing == 0 {
        return Ok(());
    }
    let (questions, disagreement) = questions(run, missing)?;
    run.disagreement = disagreement.or(run.disagreement);
    for mut compared in questions {
        // Numbers shift by one when a repeat comes first.
        if repeat_every > 0 && queries(run) % repeat_every == repeat_every - 1 {
            let repeated = repeat(run);
            run.pending.extend(repeated);
        }
        compared.query = queries(run);
        run.labels_asked += 1;
        run.pending.push_back(compared);
    }
    Ok(())
}

/// An earlier pair once more, with its sides swapped in half of the cases.
fn repeat(run: &Run) -> Option<Compared> {
    let query = queries(run);
    let mut rng = stream(run.config.seed, "repeats", query);
    let earlier: Vec<&Compared> =
        run.comparisons.iter().filter(|c| c.repeat.is_none() && c.label != Label::Skip).collect();
    if earlier.is_empty() {
        return None;
    }
    let chosen = earlier[rng.random_range(0..earlier.len())];
    let repeat = Repeat { of: chosen.query, swapped: rng.random() };
    let (first, second) = (chosen.first.clone(), chosen.second.clone());
    let (first, second) = if repeat.swapped { (second, first) } else { (first, second) };
    let (why, label, step) = (None, Label::Skip, run.env_steps);
    Some(Compared { query, first, second, label, step, why, repeat: Some(repeat) })
}

/// Carries out one event of a person.
fn apply(run: &mut Run, event: &Event) -> Result<(), EventError> {
    let (query, label) = match event {
        Event::Answer(answer) => {
            let place = run.pending.iter().position(|q| q.query == answer.query);
            let place = place.ok_or(EventError::NotAsked { query: answer.query })?;
            let asked = [run.pending[place].first.id(), run.pending[place].second.id()];
            if asked != [answer.first.clone(), answer.second.clone()] {
                return Err(EventError::OtherClips { query: answer.query });
            }
            let compared = run.pending.remove(place).expect("the place was just found");
            run.comparisons.push(Compared { label: answer.label, ..compared });
            return Ok(());
        }
        Event::Undo { query, .. } => (*query, Label::Skip),
        Event::Relabel { query, label, .. } => (*query, *label),
    };
    let compared = run.comparisons.iter_mut().find(|c| c.query == query).ok_or(EventError::NotAnswered { query })?;
    compared.label = label;
    Ok(())
}

/// A segment of a recent rollout, uniform over all places where one fits without crossing the end of an episode.
fn random_segment(run: &Run, rng: &mut Rng) -> Segment {
    let steps = run.config.preferences.segment_steps;
    let spec = run.envs.spec();
    let total: usize = run.recent.iter().map(|r| r.envs * r.steps).sum();
    // If episodes are much shorter than a segment, every place may cross the end of one; then the segment does too.
    const TRIES: usize = 1000;
    let mut tried = 0;
    loop {
        let mut place = rng.random_range(0..total);
        let rollout = run.recent.iter().find(|r| {
            let len = r.envs * r.steps;
            let found = place < len;
            if !found {
                place -= len;
            }
            found
        });
        let rollout = rollout.expect("the place is drawn below the total length");
        let offset = place % rollout.steps;
        tried += 1;
        let fits = offset + steps <= rollout.steps;
        if fits && (tried > TRIES || rollout.done[place..place + steps - 1].iter().all(|done| !done)) {
            let (obs, act, saved) = (spec.observation.len(), run.agent.head.action_len(), spec.saved_len);
            let range = |len: usize| place * len..(place + steps) * len;
            return Segment {
                observations: rollout.observations[range(obs)].to_vec(),
                actions: run.agent.head.features(&rollout.actions[range(act)]),
                states: rollout.states[range(saved)].to_vec(),
                true_rewards: rollout.true_rewards[range(1)].to_vec(),
            };
        }
    }
}

impl Segment {
    /// Digest of what happened in the clip.
    #[must_use]
    pub fn id(&self) -> SegmentId {
        let mut hash = Sha256::new();
        self.states.iter().for_each(|v| hash.update(v.to_le_bytes()));
        self.actions.iter().for_each(|v| hash.update(v.to_le_bytes()));
        SegmentId::from_digest(&hash.finalize())
    }
}

// ------------------------------------------------------------------------------------------------------- bookkeeping

/// Mean true return of the last ten training episodes, R̄; `None` before the first ends.
fn mean_episode_return(run: &Run) -> Option<f64> {
    let episodes = run.episode_returns.len();
    (episodes > 0).then(|| run.episode_returns.iter().sum::<f64>() / episodes as f64)
}

/// Adds a rollout to the query window, the reference sample and the return statistics.
fn remember(run: &mut Run, rollout: &Rollout) {
    run.env_steps += rollout.envs * rollout.steps;
    run.recent.push_back(rollout.clone());
    let len = |rollout: &Rollout| rollout.envs * rollout.steps;
    let mut total: usize = run.recent.iter().map(len).sum();
    while run.recent.len() > 1 && total > run.config.preferences.window_steps {
        total -= run.recent.pop_front().as_ref().map_or(0, len);
    }
    run.episode_returns.extend(rollout.episode_returns.iter());
    while run.episode_returns.len() > RECENT_EPISODES {
        run.episode_returns.pop_front();
    }
    let mut rng = stream(run.config.seed, "reference", run.env_steps as u64);
    let actions = run.agent.head.features(&rollout.actions);
    run.reference.sample(rollout, &actions, &mut rng);
}

impl Reference {
    fn sample(&mut self, rollout: &Rollout, actions: &[f32], rng: &mut Rng) {
        let rows = rollout.true_rewards.len();
        for row in 0..rows {
            let slot = if self.seen < REFERENCE_LEN { self.seen } else { rng.random_range(0..=self.seen) };
            self.seen += 1;
            if slot < REFERENCE_LEN {
                put_row(&mut self.observations, slot, &rollout.observations, row, rows);
                put_row(&mut self.actions, slot, actions, row, rows);
                put_row(&mut self.next_observations, slot, &rollout.next_observations, row, rows);
                put_row(&mut self.states, slot, &rollout.states, row, rows);
                put_row(&mut self.true_rewards, slot, &rollout.true_rewards, row, rows);
            }
        }
    }
}

/// Copies row `row` of `from` (of `rows`) to row `slot` of `to`, which grows by at most one row.
fn put_row<T: Copy>(to: &mut Vec<T>, slot: usize, from: &[T], row: usize, rows: usize) {
    let width = from.len() / rows;
    let source = &from[row * width..(row + 1) * width];
    if slot * width == to.len() {
        to.extend_from_slice(source);
    } else {
        to[slot * width..(slot + 1) * width].copy_from_slice(source);
    }
}

fn reference_features(run: &Run) -> Vec<f32> {
    run.ensemble.features(&run.reference.observations, &run.reference.actions)
}

/// The answers to learn from: all but "skip", each pair once.
fn examples(run: &Run) -> Vec<FitExample> {
    let example = |compared: &Compared| {
        let target = compared.label.target().filter(|_| compared.repeat.is_none())?;
        let features = |s: &Segment| run.ensemble.features(&s.observations, &s.actions);
        let sum = |s: &Segment| s.true_rewards.iter().sum::<f64>();
        Some(FitExample {
            id: compared.query,
            first: features(&compared.first),
            second: features(&compared.second),
            target,
            true_returns: (run.config.reward_model.target == FitTarget::Returns)
                .then(|| [sum(&compared.first), sum(&compared.second)]),
        })
    };
    run.comparisons.iter().filter_map(example).collect()
}

/// All weights with their names: policy, value, reward members.
#[must_use]
pub fn named_weights(run: &Run) -> Vec<(String, burn::tensor::Tensor<3>)> {
    let members = run.ensemble.members.iter().enumerate().flat_map(|(i, member)| {
        let name = move |(name, tensor): (String, _)| (format!("reward.{i}.{name}"), tensor);
        member.network.named().into_iter().map(name)
    });
    run.agent.named().into_iter().chain(members).collect()
}

/// SHA-256 over all weights in their order, as little-endian f32.
#[must_use]
pub fn weights_sha256(run: &Run) -> String {
    digest(run).0
}

/// Hash of all weights, and the name of the first tensor that holds a number that is not finite, with the number.
fn digest(run: &Run) -> (String, Option<(String, f64)>) {
    let mut hash = Sha256::new();
    let mut wrong = None;
    for (name, tensor) in named_weights(run) {
        let values = crate::nn::to_host(tensor);
        wrong = wrong.or_else(|| finite::first(values.iter().copied()).map(|(_, found)| (name, found)));
        let mut bytes = vec![0; 4 * values.len()];
        bytes.chunks_exact_mut(4).zip(values).for_each(|(bytes, value)| bytes.copy_from_slice(&value.to_le_bytes()));
        hash.update(bytes);
    }
    (hex(&hash.finalize()), wrong)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};

    use super::{Halt, iterate, start};
    use crate::control::config::Config;
    use crate::preference::Label;

    #[test]
    fn the_first_share_is_asked_in_rounds_and_only_the_first_of_them_is_blind() {
        let mut config = Config::preset("pendulum").unwrap();
        config.preferences.labels = 40;
        config.preferences.first_rounds = 3;
        config.preferences.random_steps = 1000;
        config.reward_model.first_steps = 30;
        let mut run = start(config, &Device::flex()).unwrap();
        let mut asked = Vec::new();
        let report = iterate::<Halt>(&mut run, &mut |question| {
            asked.push((question.session, question.why.is_some()));
            Ok(question.simulated)
        });
        // No gradient step is lost between the rounds.
        assert!(run.ensemble.members.iter().all(|member| member.optimizer.steps == 30));
        // A quarter of 40 labels: 3, 3 and 4.
        let expected = [[(0, false); 3].as_slice(), &[(1, true); 3], &[(2, true); 4]].concat();
        assert_eq!((asked, report.unwrap().labels_asked), (expected, 10));
    }

    fn small() -> Config {
        let mut config = Config::preset("pendulum").unwrap();
        config.preferences.labels = 24;
        config.preferences.random_steps = 1000;
        config.ppo.rollout_steps = 125;
        config.ppo.epochs = 1;
        config.reward_model.first_steps = 8;
        config.reward_model.steps = 4;
        config.steps = 5000;
        config
    }

    fn oracle(question: &super::SegmentQuery) -> Result<Label, Halt> {
        Ok(question.simulated)
    }

    /// A tensor with its first number replaced.
    fn with<const D: usize>(tensor: Tensor<D>, value: f32) -> Tensor<D> {
        let (shape, device) = (tensor.dims(), tensor.device().without_autodiff());
        let mut values = crate::nn::to_host(tensor.inner());
        values[0] = value;
        crate::nn::parameter(values, shape, &device)
    }

    /// Issue 28, B1: with a temperature of 1e-40 a run hung for ever; the numbers below are what such settings lead to.
    #[test]
    fn numbers_that_are_not_finite_are_named_where_they_arise() {
        let fresh = || {
            let mut run = start(small(), &Device::flex()).unwrap();
            iterate(&mut run, &mut oracle).unwrap();
            iterate(&mut run, &mut oracle).unwrap();
            run
        };
        let halted = |mut run: super::Run| match iterate(&mut run, &mut oracle).unwrap_err() {
            Halt::NotFinite(error) => error,
            other => panic!("{other}"),
        };
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut run = fresh();
            let member = &mut run.ensemble.members[1].network;
            member.parameters = with(member.parameters.clone(), value);
            let error = halted(run);
            let at = "iteration 2 (environment step 2000)";
            assert!(error.what.contains("member 1") && error.at == at, "{error}");
            assert!(error.to_string().contains("try a smaller"), "{error}");

            // Where a tanh hides an infinite weight, it is found among the weights.
            let mut run = fresh();
            run.agent.parameters = with(run.agent.parameters.clone(), value);
            let error = halted(run);
            let place = "pendulum (environment 0 of 4, step 0 of the rollout)";
            assert!(!value.is_nan() || error.what.contains(place), "{error}");

            // The last bias of the value function, which only the update sees.
            let mut run = fresh();
            let last = run.agent.networks.value_range().end - 1;
            let shape = run.agent.parameters.dims();
            let mut values = crate::nn::to_host(run.agent.parameters.clone().inner());
            values[last] = value;
            run.agent.parameters = crate::nn::parameter(values, shape, &Device::flex());
            let error = halted(run);
            assert!(error.what.contains("of PPO's update"), "{error}");
        }
    }

    #[test]
    fn a_rollout_names_the_first_number_that_is_not_finite_and_its_environment() {
        let fine = || crate::control::rl::ppo::Rollout {
            envs: 2,
            steps: 3,
            observations: vec![0.0; 12],
            next_observations: vec![0.0; 12],
            actions: vec![0.0; 6],
            log_probs: vec![0.0; 6],
            true_rewards: vec![0.0; 6],
            ..Default::default()
        };
        assert_eq!(fine().not_finite("x"), None);
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut rollout = fine();
            rollout.next_observations[11] = wrong;
            rollout.true_rewards[4] = f64::from(wrong);
            let (what, _) = rollout.not_finite("x").unwrap();
            assert_eq!(what, "the reward of x (environment 1 of 2, step 1 of the rollout)");
            rollout.observations[5] = wrong;
            rollout.actions[0] = wrong;
            let (what, _) = rollout.not_finite("x").unwrap();
            assert_eq!(what, "the action of the policy in x (environment 0 of 2, step 0 of the rollout)");
        }
        // Statistics of rewards are kept in single precision.
        let mut rollout = fine();
        rollout.true_rewards[0] = 1e39;
        assert!(rollout.not_finite("x").is_some());
    }

    /// Issue 28, B4: such a run trained on a reward that was never fitted, and ended with exit code 0.
    #[test]
    fn a_run_in_which_nothing_was_answered_is_refused_before_it_trains() {
        let mut run = start(small(), &Device::flex()).unwrap();
        let mut skip = |_: &super::SegmentQuery| Ok::<_, Halt>(Label::Skip);
        iterate(&mut run, &mut skip).unwrap();
        let error = iterate(&mut run, &mut skip).unwrap_err();
        assert!(matches!(error, Halt::Unanswered { iteration: 1, .. }), "{error:?}");
        assert!(error.to_string().contains("no reward to train the agent on"), "{error}");
        // One answer is something to learn from; "equal" is an answer.
        let mut run = start(small(), &Device::flex()).unwrap();
        let mut one = |question: &super::SegmentQuery| {
            Ok::<_, Halt>(if question.query == 3 { Label::Equal } else { Label::Skip })
        };
        for _ in 0..3 {
            iterate(&mut run, &mut one).unwrap();
        }
        assert_eq!(run.unfitted, 0);
    }

    /// Issue 28, B3: 58 of 80 questions were skipped, as the mean return was taken for 0.
    #[test]
    fn the_skip_teacher_answers_before_an_episode_has_ended() {
        let mut config = small();
        config.preferences.teacher = crate::table::find("skip").unwrap().item;
        // 150 steps of each of four environments, whose episodes have 200.
        config.preferences.random_steps = 600;
        let mut run = start(config, &Device::flex()).unwrap();
        let report = iterate(&mut run, &mut oracle).unwrap();
        assert_eq!((report.true_return, report.ppo), (None, None));
        assert_eq!((report.labels_asked, report.labels_answered), (6, 6));
        let line = serde_json::to_string(&report).unwrap();
        assert!(!line.contains("null") && !line.contains("true_return") && !line.contains("\"ppo\""), "{line}");
    }

    #[test]
    fn a_single_member_has_nobody_to_disagree_with() {
        let mut config = small();
        config.reward_model.members = 1;
        let mut run = start(config, &Device::flex()).unwrap();
        let reports = [(); 3].map(|()| iterate(&mut run, &mut oracle).unwrap());
        assert!(reports.iter().all(|report| report.disagreement.is_none()));
    }

    #[test]
    fn fewer_questions_than_rounds_take_a_round_each_and_all_gradient_steps() {
        let mut config = Config::preset("pendulum").unwrap();
        config.preferences.labels = 8;
        config.preferences.random_steps = 1000;
        config.reward_model.first_steps = 30;
        let mut run = start(config, &Device::flex()).unwrap();
        iterate::<Halt>(&mut run, &mut |question| Ok(question.simulated)).unwrap();
        assert_eq!((run.labels_asked, run.sessions), (2, 2));
        assert!(run.ensemble.members.iter().all(|member| member.optimizer.steps == 30));
    }
}
