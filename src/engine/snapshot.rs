//! What a window shows of a run: snapshots, computed by the worker and cheap to clone.

use std::collections::BTreeMap;
use std::f64::consts::{PI, TAU};
use std::path::PathBuf;
use std::sync::Arc;

use rand::RngExt as _;

use super::book::Answers;
use super::desk::Messages;
use crate::control::config::{Config, RewardSource};
use crate::control::drlhp::{self, Compared, Report, Run, Segment};
use crate::control::epic::epic;
use crate::control::run::Summary;
use crate::preference::statistics::quantile;
use crate::preference::{Repeat, Why, pearson};
use crate::random::stream;

/// What a window shows of a run; cheap to clone.
#[derive(Debug, Clone)]
pub struct RunView {
    /// Its folder.
    pub folder: PathBuf,
    /// What it was started with.
    pub config: Arc<Config>,
    /// What it is doing.
    pub phase: RunPhase,
    /// Where it is.
    pub progress: Progress,
    /// Every pair that was asked about, by query.
    pub pairs: Arc<BTreeMap<u64, Arc<ClipPair>>>,
    /// Which of them are open, and what was answered.
    pub answers: Answers,
    /// How it has gone so far.
    pub past: Arc<PastReports>,
    /// The newest episode that was asked for.
    pub episode: Option<Arc<Episode>>,
    /// The newest slice of the learned reward that was asked for.
    pub slice: Option<Arc<Slice>>,
    /// What went wrong.
    pub messages: Messages,
}

/// What a run is doing.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum RunPhase {
    /// Reading the run folder.
    #[default]
    Opening,
    /// Repeating what is in the ledger already.
    CatchingUp,
    /// Training.
    Training,
    /// Waiting for answers: training is as far ahead of them as it may be.
    Waiting,
    /// Paused.
    Paused,
    /// Done.
    Finished(Box<Summary>),
    /// Ended before its end, with a checkpoint.
    Stopped,
    /// Ended by an error; everything up to the last checkpoint and every acknowledged label is kept.
    Failed(String),
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Progress {
    /// Environment steps taken.
    pub env_steps: usize,
    /// Environment steps in all.
    pub total_steps: usize,
    /// Environment steps a second over the last iteration.
    pub steps_per_second: f64,
    /// Questions in all.
    pub labels: usize,
}

/// Reports of a run's iterations: the newest one, and evenly spaced ones before it. A screen has no room for more, and a
/// run of days needs no more memory than one of minutes.
#[derive(Debug, Clone)]
pub struct PastReports {
    /// At most [`PAST`] reports, oldest first; the last one is the newest.
    pub reports: Vec<Arc<Report>>,
    /// One iteration of so many is kept, from the first one on.
    pub every: usize,
    /// Iterations so far.
    pub iterations: usize,
}

/// Two clips to compare.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipPair {
    /// Number of the query.
    pub query: u64,
    /// The clips.
    pub clips: [Clip; 2],
    /// Environment steps at which it was asked.
    pub step: usize,
    /// What the ensemble thought of the pair; `None` before the first fit.
    pub why: Option<Why>,
    /// How far it is from all pairs before it: from each clip's mean observation to the nearest one of an earlier clip, in
    /// standard deviations of what the agent has seen (root mean square over the observation), the larger of the two.
    /// `None` for the first pair.
    pub novelty: Option<f64>,
    /// Each member's probability that the first clip is preferred, when it was asked.
    pub predicted: Vec<f64>,
    /// The earlier pair that is shown again. Not for the rater to see.
    pub repeat: Option<Repeat>,
}

/// What an agent did for a while: states to draw, and rewards.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Clip {
    /// `[steps, saved]`
    pub states: Vec<f64>,
    /// `[members][steps]`: predicted rewards, raw.
    pub predicted: Vec<Vec<f32>>,
    /// `[steps]`: true rewards, for metrics only.
    pub true_rewards: Vec<f64>,
}

/// An episode of the policy after some iteration.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Episode {
    /// Number of the episode, from 0.
    pub number: u64,
    /// Environment steps at which the policy was taken.
    pub env_steps: usize,
    /// What happened.
    pub clip: Clip,
    /// `[steps]`: the reward that the agent is trained on, normalised.
    pub reward: Vec<f64>,
    /// EPIC distance of learned and true reward at that time; `None` where the task's own reward is not what is wanted.
    pub epic: Option<f64>,
}

/// What to draw of the learned reward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SliceRequest {
    /// State variable along x.
    pub x: usize,
    /// State variable along y; the same as `x` for a line.
    pub y: usize,
    /// Points along each axis.
    pub points: usize,
}

/// The learned reward over two state variables, all others at the median of what the agent has seen, for no action (the
/// mean over all actions where these are discrete).
#[derive(Debug, Clone, PartialEq)]
pub struct Slice {
    /// What was asked for.
    pub request: SliceRequest,
    /// Environment steps at which it was drawn.
    pub env_steps: usize,
    /// Smallest and largest value along x and y: the middle 98 % of what the agent has seen, or one turn of an angle whose
    /// full turns the agent does not see.
    pub range: [[f64; 2]; 2],
    /// `[points (y), points (x)]`; a line has one row: the reward that the agent is trained on.
    pub reward: Vec<f64>,
    /// The same shape: standard deviation of the members, each normalised.
    pub spread: Vec<f64>,
    /// The same shape: the true reward; empty where what is wanted is not the task's own reward.
    pub truth: Vec<f64>,
    /// Where the answered clips lie, along x and y.
    pub labelled: Vec<[f64; 2]>,
    /// Correlation of learned and true reward over the slice.
    pub correlation: Option<f64>,
}

/// Reports kept in memory; the run folder has all.
pub const PAST: usize = 2000;

impl RunView {
    /// The view of a run that is being opened.
    pub(super) fn new(folder: PathBuf, config: Config) -> Self {
        Self {
            folder,
            config: Arc::new(config),
            phase: RunPhase::Opening,
            progress: Progress::default(),
            pairs: Arc::default(),
            answers: Answers::default(),
            past: Arc::default(),
            episode: None,
            slice: None,
            messages: Messages::default(),
        }
    }

    /// The open pair that comes next.
    #[must_use]
    pub fn next(&self) -> Option<&Arc<ClipPair>> {
        self.pairs.get(self.answers.open.first()?)
    }

    /// Whether the run has come to an end, one way or the other.
    #[must_use]
    pub fn ended(&self) -> bool {
        matches!(self.phase, RunPhase::Finished(_) | RunPhase::Stopped | RunPhase::Failed(_))
    }

    /// Whether it shows episodes and slices on demand: while it goes on, and after it has finished.
    #[must_use]
    pub fn shows(&self) -> bool {
        !matches!(self.phase, RunPhase::Stopped | RunPhase::Failed(_))
    }
}

impl Default for PastReports {
    fn default() -> Self {
        Self { reports: Vec::new(), every: 1, iterations: 0 }
    }
}

impl PastReports {
    pub(super) fn push(&mut self, report: Report) {
        // The last report stays only if its iteration is one of those that are kept.
        if self.iterations > 0 && !(self.iterations - 1).is_multiple_of(self.every) {
            self.reports.pop();
        }
        self.reports.push(Arc::new(report));
        self.iterations += 1;
        if self.reports.len() > PAST {
            let mut position = 0..;
            let last = self.reports.len() - 1;
            self.reports.retain(|_| position.next().is_some_and(|i: usize| i.is_multiple_of(2) || i == last));
            self.every *= 2;
        }
    }
}

impl ClipPair {
    /// A pair, as the run sees it now.
    pub(super) fn of(run: &Run, compared: &Compared) -> Self {
        let returns = drlhp::predicted_returns(run, &[&compared.first, &compared.second]);
        let likelihood = &run.config.reward_model.likelihood;
        Self {
            query: compared.query,
            clips: [Clip::of(run, &compared.first), Clip::of(run, &compared.second)],
            step: compared.step,
            why: compared.why,
            novelty: novelty(run, compared),
            predicted: returns.iter().map(|member| likelihood.probability(member[0] - member[1])).collect(),
            repeat: compared.repeat,
        }
    }
}

/// See [`ClipPair::novelty`].
fn novelty(run: &Run, compared: &Compared) -> Option<f64> {
    let obs = run.envs.spec().observation.len();
    let column = |rows: &[f32], i: usize| rows.iter().skip(i).step_by(obs).map(|&x| f64::from(x)).collect::<Vec<f64>>();
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let deviation = |i: usize| {
        let seen = column(&run.reference.observations, i);
        let middle = mean(&seen);
        mean(&seen.iter().map(|x| (x - middle) * (x - middle)).collect::<Vec<f64>>()).sqrt().max(1e-6)
    };
    let scale: Vec<f64> = (0..obs).map(deviation).collect();
    let place =
        |clip: &Segment| (0..obs).map(|i| mean(&column(&clip.observations, i)) / scale[i]).collect::<Vec<f64>>();
    let earlier = run.comparisons.iter().chain(&run.pending).filter(|other| other.query < compared.query);
    let earlier: Vec<Vec<f64>> = earlier.flat_map(|other| [place(&other.first), place(&other.second)]).collect();
    let distance =
        |a: &[f64], b: &[f64]| (a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>() / obs as f64).sqrt();
    let nearest = |clip: &Segment| {
        let here = place(clip);
        earlier.iter().map(|there| distance(&here, there)).fold(f64::INFINITY, f64::min)
    };
    (!earlier.is_empty()).then(|| nearest(&compared.first).max(nearest(&compared.second)))
}

impl Clip {
    fn of(run: &Run, segment: &Segment) -> Self {
        let learned = run.config.reward == RewardSource::Preferences;
        let features = run.ensemble.features(&segment.observations, &segment.actions);
        Self {
            states: segment.states.clone(),
            predicted: if learned { run.ensemble.predict_members(&features) } else { Vec::new() },
            true_rewards: segment.true_rewards.clone(),
        }
    }
}

impl Episode {
    /// The next episode of the present policy. `None` where it cannot be rolled out.
    pub(super) fn of(run: &Run, number: u64) -> Option<Self> {
        // Its initial states are used neither by training nor by the final evaluation.
        let seed = stream(run.config.seed, "watched-episodes", number).random();
        let segment = drlhp::episode(&run.config.env, &run.agent, seed).ok()?;
        let features = run.ensemble.features(&segment.observations, &segment.actions);
        let learned = run.config.reward == RewardSource::Preferences;
        let known = run.config.preferences.wanted.is_none();
        Some(Self {
            number,
            env_steps: run.env_steps,
            reward: if learned { run.ensemble.predict(&run.config.reward_model, &features) } else { Vec::new() },
            clip: Clip::of(run, &segment),
            epic: if learned && known { epic(run) } else { None },
        })
    }
}

impl Slice {
    /// Draws it.
    ///
    /// # Errors
    /// When there is nothing to draw, in words for the user.
    pub(super) fn of(run: &Run, request: SliceRequest) -> Result<Self, String> {
        let SliceRequest { x, y, points } = request;
        let mut env = pairwise_envs::make(&run.config.env).map_err(|e| e.to_string())?;
        let spec = env.spec();
        let (variables, saved, obs) = (spec.state.len(), spec.saved_len, spec.observation.len());
        if x >= variables || y >= variables || !(2..=512).contains(&points) {
            return Err(format!("a slice needs two of the {variables} state variables and 2 to 512 points"));
        }
        let seen = &run.reference.states;
        if seen.is_empty() {
            return Err("the agent has seen nothing yet that the reward could be drawn over".to_owned());
        }
        let seen_at = |variable: usize, share: f64| {
            quantile(seen.chunks(saved).map(|state| state[variable]), share).unwrap_or_default()
        };
        let median: Vec<f64> = (0..variables).map(|variable| seen_at(variable, 0.5)).collect();
        // Whether the agent sees the same after a full turn of a variable. Such an angle may have made many turns.
        let mut turns = |variable: usize| -> Result<bool, String> {
            let mut seen = [vec![0.0; obs], vec![0.0; obs]];
            for (turn, seen) in [0.0, TAU].into_iter().zip(&mut seen) {
                let mut state = median.clone();
                state[variable] += turn;
                env.load(&state).map_err(|e| e.to_string())?;
                env.observe(seen);
            }
            Ok(seen[0].iter().zip(&seen[1]).all(|(a, b)| (a - b).abs() < 1e-5))
        };
        let turning = [turns(x)?, turns(y)?];
        let range = |axis: usize, variable| {
            if turning[axis] { [-PI, PI] } else { [seen_at(variable, 0.01), seen_at(variable, 0.99)] }
        };
        let range = [range(0, x), range(1, y)];
        let place = |axis: usize, value: f64| if turning[axis] { (value + PI).rem_euclid(TAU) - PI } else { value };

        // Of a box one action, zero; of a discrete space every action, averaged afterwards.
        let outputs = run.agent.head.outputs();
        let actions: Vec<Vec<f32>> = match spec.action {
            pairwise_envs::Space::Discrete { n } => {
                (0..n).map(|action| (0..n).map(|i| f32::from(u8::from(i == action))).collect()).collect()
            }
            pairwise_envs::Space::Box { .. } => vec![vec![0.0; outputs]],
        };
        let rows = if x == y { 1 } else { points };
        let at = |[low, high]: [f64; 2], i: usize| low + (high - low) * i as f64 / (points - 1) as f64;
        let learned = run.config.reward == RewardSource::Preferences;
        let known = run.config.preferences.wanted.is_none();
        let (mut observations, mut features, mut truth) = (Vec::new(), Vec::new(), Vec::new());
        let mut observation = vec![0.0; obs];
        for row in 0..rows {
            for column in 0..points {
                let mut state = median.clone();
                state[y] = at(range[1], row);
                state[x] = at(range[0], column);
                let mut mean = 0.0;
                for action in &actions {
                    env.load(&state).map_err(|e| e.to_string())?;
                    env.observe(&mut observation);
                    observations.extend_from_slice(&observation);
                    features.extend_from_slice(action);
                    mean +=
                        run.agent.head.step_one(env.as_mut(), action, &mut observation).reward / actions.len() as f64;
                }
                truth.push(mean);
            }
        }
        let over_actions = |values: &[f64]| -> Vec<f64> {
            values.chunks(actions.len()).map(|v| v.iter().sum::<f64>() / v.len() as f64).collect()
        };
        let (mut reward, mut spread) = (Vec::new(), Vec::new());
        if learned {
            let inputs = run.ensemble.features(&observations, &features);
            reward = over_actions(&run.ensemble.predict(&run.config.reward_model, &inputs));
            let members: Vec<Vec<f64>> = run
                .ensemble
                .predict_members(&inputs)
                .iter()
                .zip(&run.ensemble.member_scale)
                .map(|(r, s)| over_actions(&r.iter().map(|&r| (f64::from(r) - s.mean) / s.std).collect::<Vec<f64>>()))
                .collect();
            let n = members.len().max(1) as f64;
            spread = (0..reward.len())
                .map(|i| {
                    let mean = members.iter().map(|m| m[i]).sum::<f64>() / n;
                    (members.iter().map(|m| (m[i] - mean) * (m[i] - mean)).sum::<f64>() / n).sqrt()
                })
                .collect();
        }
        let clips = run.comparisons.iter().flat_map(|c| [&c.first, &c.second]);
        // One state in five shows the path of a clip as well as all of them.
        let path = |clip: &Segment| {
            clip.states.chunks(saved).step_by(5).map(|s| [place(0, s[x]), place(1, s[y])]).collect::<Vec<_>>()
        };
        let labelled = clips.flat_map(path).collect();
        let correlation = if known && learned { pearson(&reward, &truth) } else { None };
        if !known {
            truth.clear();
        }
        Ok(Self { request, env_steps: run.env_steps, range, reward, spread, truth, labelled, correlation })
    }
}

#[cfg(test)]
mod tests {
    use super::{PAST, PastReports};
    use crate::control::drlhp::Report;

    #[test]
    fn the_past_is_evenly_spaced_and_ends_with_the_newest_report() {
        let mut past = PastReports::default();
        for iteration in 0..20 * PAST {
            past.push(Report { iteration, ..Report::default() });
            let kept: Vec<usize> = past.reports.iter().map(|report| report.iteration).collect();
            assert!(kept.len() <= PAST);
            let mut expected: Vec<usize> = (0..=iteration).step_by(past.every).collect();
            if expected.last() != Some(&iteration) {
                expected.push(iteration);
            }
            if iteration % 997 == 0 || iteration < 3 * PAST {
                assert_eq!(kept, expected);
            }
        }
        assert_eq!((past.iterations, past.every), (20 * PAST, 32));
    }
}
