//! Fronts of agents with several tastes: Rewarded Soups (Ramé et al. 2023, arXiv 2306.04488, §3.4) beside
//! multi-objective RL.
//!
//! A policy is trained on the task, and fine-tuned once for every taste. A soup interpolates the fine-tuned weights, for
//! any preference between the tastes and without further training; multi-objective RL (MORL) fine-tunes a policy for
//! every preference. The policies' observation statistics are those of the common beginning and stay as they are, since
//! weights that read inputs on different scales cannot be mixed.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use pairwise_envs::{Judged, Taste, VecEnv};
use rand::Rng as _;
use serde::{Deserialize, Serialize};

use crate::control::config::{Config, ConfigError, validate_ppo};
use crate::control::drlhp::episode_rng;
use crate::control::reward::ensemble::{Ensemble, RewardConfig};
use crate::control::rl::normalize::ReturnScaler;
use crate::control::rl::ppo::{self, ActionHead, Agent, PpoConfig, Rollout};
use crate::control::run::policy::{Policy, PolicyError, mixed};
use crate::control::run::{self, RunError};
use crate::disk::Clock;
use crate::disk::archive::ArchiveError;
use crate::finite::{self, NotFinite};
use crate::nn::{Adam, AdamConfig};
use crate::pareto::{above_chord, dominates, hypervolume};
use crate::preference::statistics::{bootstrap_interval, deviation, interquartile_mean};
use crate::random::{Rng, stream};

/// What is run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ControlFrontConfig {
    /// The task: one that has [`tastes`].
    pub env: String,
    /// Each has a beginning and policies of its own.
    pub seeds: Vec<u64>,
    /// Environment steps of the common beginning, on the task's own reward.
    pub pretrain_steps: usize,
    /// Environment steps of every fine-tuning.
    pub finetune_steps: usize,
    /// Learning rate of fine-tuning.
    pub finetune_learning_rate: f64,
    /// Mixes go in so many steps from one taste to the other; there are one fewer between the ends.
    pub mix_steps: usize,
    /// Whether a policy is trained for every mix, too.
    pub morl: bool,
    /// Comparisons that a teacher of each taste answers: policies are fine-tuned on what their teacher's answers say, and
    /// MORL on the weighted rewards that were learned. 0: the tastes' rewards are known.
    pub labels: usize,
    /// Episodes that a policy is measured over.
    pub episodes: usize,
    /// The algorithm.
    pub ppo: PpoConfig,
}

/// How a policy was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlMethod {
    /// Weights of the two fine-tuned policies, interpolated.
    Soup,
    /// Fine-tuned on the weighted rewards.
    Morl,
}

/// A policy, measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ControlPoint {
    /// How it was made.
    pub method: ControlMethod,
    /// Weights of the two tastes.
    pub weights: [f64; 2],
    /// Mean return of an episode by each taste, with deterministic actions.
    pub returns: [f64; 2],
    /// Files of the policies that it is, or is mixed of, in the order of the weights; from the front's folder.
    pub policies: Vec<PathBuf>,
}

/// Everything that was found: `front.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ControlFront {
    /// What was run.
    pub config: ControlFrontConfig,
    /// Names of the two tastes.
    pub tastes: Vec<String>,
    /// By seed.
    pub seeds: Vec<ControlSeed>,
    /// By method.
    pub table: Vec<ControlRow>,
}

/// A seed's policies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ControlSeed {
    /// Seed.
    pub seed: u64,
    /// Returns of the common beginning by each taste.
    pub start: [f64; 2],
    /// Soups and, at the same weights, MORL; the ends are the same policies.
    pub points: Vec<ControlPoint>,
    /// CPU seconds of the two fine-tunings that soups take.
    pub soup_cpu_seconds: Option<f64>,
    /// CPU seconds of MORL's fine-tunings, the two ends included.
    pub morl_cpu_seconds: Option<f64>,
}

/// A method over all seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ControlRow {
    /// Which method.
    pub method: ControlMethod,
    /// Share of the box between the two ends that the points between them cover: interquartile mean over seeds. A straight
    /// line between the ends would cover a half. `None` where the ends of a seed are equal by a taste, so that there is no
    /// box.
    #[serde(default)]
    pub volume: Option<f64>,
    /// 95 % bootstrap interval; of a single seed there is none.
    #[serde(default)]
    pub interval: Option<[f64; 2]>,
    /// Of each seed: how many policies between the ends are dominated by neither end.
    pub not_dominated: Vec<usize>,
    /// Of each seed: how many lie above the chord between the ends in both tastes.
    pub above_chord: Vec<usize>,
    /// Fine-tunings in a seed.
    pub trainings: usize,
    /// Environment steps of these.
    pub env_steps: usize,
    /// CPU seconds of these: mean over seeds; `None` where the system does not tell.
    pub cpu_seconds: Option<f64>,
}

/// What stops a front.
#[derive(Debug, thiserror::Error)]
pub enum ControlFrontError {
    /// A task without tastes.
    #[error("{env}: has no tastes to weigh: choose {}", with_tastes().collect::<Vec<_>>().join(", "))]
    NoTastes {
        /// The task.
        env: String,
    },
    /// A policy's file.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A policy that cannot be written.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A teacher's configuration.
    #[error("labels: {0}")]
    Config(#[from] ConfigError),
    /// A run with a teacher.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Training went astray.
    #[error("{0}; policies that were finished before are kept")]
    NotFinite(#[from] NotFinite),
    /// A folder.
    #[error("{}: cannot be made: {error}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

/// The tasks that have tastes.
fn with_tastes() -> impl Iterator<Item = &'static str> {
    pairwise_envs::tasks().map(|spec| spec.id).filter(|id| pairwise_envs::tastes(id).is_some())
}

/// The two tastes of a task: what it is about, and little effort.
///
/// # Errors
/// [`ControlFrontError::NoTastes`].
pub fn tastes(env: &str) -> Result<&'static [Taste; 2], ControlFrontError> {
    pairwise_envs::tastes(env).ok_or_else(|| ControlFrontError::NoTastes { env: env.to_owned() })
}

impl Default for ControlFrontConfig {
    fn default() -> Self {
        Self {
            env: "reacher".to_owned(),
            seeds: (0..5).collect(),
            pretrain_steps: 200_000,
            finetune_steps: 200_000,
            finetune_learning_rate: 3e-4,
            mix_steps: 10,
            morl: true,
            labels: 0,
            episodes: 200,
            ppo: PpoConfig::default(),
        }
    }
}

impl ControlFrontConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// Naming the first one out of range, with what would be right.
    pub fn validate(&self) -> Result<(), String> {
        tastes(&self.env).map_err(|error| error.to_string())?;
        // A front's file may hold any number.
        let iteration = self.ppo.envs.saturating_mul(self.ppo.rollout_steps);
        let positive = [("mix_steps", self.mix_steps), ("episodes", self.episodes), ("seeds", self.seeds.len())];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{name}: must be 1 or more"));
        }
        for (name, steps) in [("pretrain_steps", self.pretrain_steps), ("finetune_steps", self.finetune_steps)] {
            if steps < iteration {
                return Err(format!("{name} = {steps}: must be {iteration} or more, an iteration of PPO"));
            }
        }
        let rate = self.finetune_learning_rate;
        if !(rate > 0.0 && rate <= 1.0) {
            return Err(format!("finetune_learning_rate = {rate}: must be positive and at most 1"));
        }
        validate_ppo(&self.ppo).map_err(|error| error.to_string())
    }
}

/// All policies of a seed, written to `models/SEED` in `folder`. `show` is told what was trained.
///
/// # Errors
/// [`ControlFrontError`].
///
/// # Panics
/// When the configuration was not validated.
pub fn seed(
    config: &ControlFrontConfig,
    seed: u64,
    folder: &Path,
    device: &Device,
    show: &(dyn Fn(&str) + Sync),
) -> Result<ControlSeed, ControlFrontError> {
    let tastes = tastes(&config.env)?;
    let policies = PathBuf::from(format!("models/{seed}"));
    let place = folder.join(&policies);
    fs::create_dir_all(&place).map_err(|error| ControlFrontError::Folder { path: place, error })?;
    let policy =
        |agent: Agent, beginning| Policy { env: config.env.clone(), ppo: config.ppo.clone(), beginning, agent };
    let start = policy(pretrained(config, seed, device)?, None);
    let beginning = folder.join(policies.join("beginning.safetensors"));
    start.save(&beginning)?;
    let fingerprint = start.fingerprint();
    let start = start.agent;
    let measure = |agent: &Agent| -> Result<[f64; 2], NotFinite> {
        let found = returns(agent, &config.env, tastes, config.episodes, seed);
        let what = |taste: usize| format!("the mean return by the taste '{}' in {}", tastes[taste].name, config.env);
        let advice = "the policy drives the environment out of what can be computed; try smaller learning rates";
        NotFinite::check(found, what, || format!("the measuring of seed {seed}"), advice)?;
        Ok(found)
    };
    let keep = |weights: [f64; 2], agent: &Agent| -> Result<PathBuf, ControlFrontError> {
        let file = policies.join(format!("{:.4}-{:.4}.safetensors", weights[0], weights[1]));
        policy(agent.clone(), Some(fingerprint.clone())).save(&folder.join(&file))?;
        Ok(file)
    };
    let told = |weights: [f64; 2], clock: &Clock| {
        show(&format!("seed {seed}: fine-tuned for {:.2}/{:.2} in {:.0} s", weights[0], weights[1], clock.wall()));
        clock.cpu()
    };

    // The ends, and what a policy between them is trained on: a reward for every step of a rollout.
    let between: Between<'_>;
    let ends: [(Agent, Option<f64>); 2];
    if config.labels == 0 {
        // So that weights compare like with like: a step's reward by each taste in standard deviations of the beginning's.
        let scales = deviations(config, &start, tastes, seed);
        let start = start.clone();
        between = Box::new(move |weights| {
            let clock = Clock::new();
            let reward = |step: &Judged<'_>| (0..2).map(|i| weights[i] * (tastes[i].reward)(step) / scales[i]).sum();
            let judge = |_: &Agent, rollout: &Rollout| judged(rollout, &reward);
            let agent = finetuned(config, &start, &format!("{:.4}", weights[0]), seed, &judge)?;
            Ok((agent, told(weights, &clock)))
        });
        ends = [between([1.0, 0.0])?, between([0.0, 1.0])?];
    } else {
        let lesson = |taste: usize| -> Result<(Agent, Ensemble, RewardConfig, Option<f64>), ControlFrontError> {
            let clock = Clock::new();
            let (agent, ensemble, rewards) = taught(config, &tastes[taste], &beginning, seed, device)?;
            let weights = if taste == 0 { [1.0, 0.0] } else { [0.0, 1.0] };
            Ok((agent, ensemble, rewards, told(weights, &clock)))
        };
        let (one, other) = (lesson(0)?, lesson(1)?);
        ends = [(one.0, one.3), (other.0, other.3)];
        let (learned, start) = ([(one.1, one.2), (other.1, other.2)], start.clone());
        between = Box::new(move |weights| {
            let clock = Clock::new();
            // Learned rewards have one standard deviation already.
            let judge = |agent: &Agent, rollout: &Rollout| {
                let actions = agent.head.features(&rollout.actions);
                let mut sums = vec![0.0; rollout.true_rewards.len()];
                for ((ensemble, rewards), weight) in learned.iter().zip(weights) {
                    let predicted = ensemble.predict(rewards, &ensemble.features(&rollout.observations, &actions));
                    sums.iter_mut().zip(predicted).for_each(|(sum, reward)| *sum += weight * reward);
                }
                sums
            };
            let agent = finetuned(config, &start, &format!("{:.4}", weights[0]), seed, &judge)?;
            Ok((agent, told(weights, &clock)))
        });
    }

    let mut points = Vec::new();
    let files = [keep([1.0, 0.0], &ends[0].0)?, keep([0.0, 1.0], &ends[1].0)?];
    let soup_cpu_seconds: Option<f64> = ends.iter().map(|(_, cpu)| *cpu).sum();
    let mut morl_cpu_seconds = soup_cpu_seconds;
    for i in 0..=config.mix_steps {
        let share = i as f64 / config.mix_steps as f64;
        let weights = [share, 1.0 - share];
        let soup = mixed(&[&ends[0].0, &ends[1].0], &weights);
        let found = measure(&soup)?;
        points.push(ControlPoint { method: ControlMethod::Soup, weights, returns: found, policies: files.to_vec() });
        if config.morl {
            let (returns, file) = match i {
                0 => (found, files[1].clone()),
                end if end == config.mix_steps => (found, files[0].clone()),
                _ => {
                    let (agent, cpu) = between(weights)?;
                    morl_cpu_seconds = morl_cpu_seconds.zip(cpu).map(|(sum, cpu)| sum + cpu);
                    (measure(&agent)?, keep(weights, &agent)?)
                }
            };
            points.push(ControlPoint { method: ControlMethod::Morl, weights, returns, policies: vec![file] });
        }
    }
    Ok(ControlSeed { seed, start: measure(&start)?, points, soup_cpu_seconds, morl_cpu_seconds })
}

/// What the methods come to over all seeds.
#[must_use]
pub fn table(config: &ControlFrontConfig, seeds: &[ControlSeed]) -> Vec<ControlRow> {
    let methods = if config.morl { vec![ControlMethod::Soup, ControlMethod::Morl] } else { vec![ControlMethod::Soup] };
    let row = |method: ControlMethod| {
        let of_seed = |seed: &ControlSeed| {
            let own: Vec<&ControlPoint> = seed.points.iter().filter(|point| point.method == method).collect();
            let ends = [own[own.len() - 1].returns.to_vec(), own[0].returns.to_vec()];
            let between = &own[1..own.len() - 1];
            let free = between.iter().filter(|point| !ends.iter().any(|end| dominates(end, &point.returns))).count();
            let above = between
                .iter()
                .filter(|point| above_chord(&ends, &point.weights, &point.returns).iter().all(|above| *above >= 0.0))
                .count();
            (covered(&own, &ends), free, above)
        };
        let found: Vec<(Option<f64>, usize, usize)> = seeds.iter().map(of_seed).collect();
        let volumes: Option<Vec<f64>> = found.iter().map(|(volume, ..)| *volume).collect();
        let trainings = if method == ControlMethod::Soup { 2 } else { config.mix_steps + 1 };
        let cpu = |seed: &ControlSeed| match method {
            ControlMethod::Soup => seed.soup_cpu_seconds,
            ControlMethod::Morl => seed.morl_cpu_seconds,
        };
        ControlRow {
            method,
            volume: volumes.as_deref().map(interquartile_mean),
            interval: volumes.and_then(|volumes| {
                bootstrap_interval(&volumes, interquartile_mean, 0.95, &mut stream(0, "control-front", 0))
            }),
            not_dominated: found.iter().map(|(_, free, _)| *free).collect(),
            above_chord: found.iter().map(|(.., above)| *above).collect(),
            trainings,
            env_steps: trainings * config.finetune_steps,
            cpu_seconds: seeds.iter().map(cpu).sum::<Option<f64>>().map(|sum| sum / seeds.len() as f64),
        }
    };
    methods.into_iter().map(row).collect()
}

/// Share of the box between the ends that the points cover; `None` where it has no area.
fn covered(points: &[&ControlPoint], ends: &[Vec<f64>; 2]) -> Option<f64> {
    let least = [0, 1].map(|i| ends[0][i].min(ends[1][i]));
    let sides = [0, 1].map(|i| (ends[0][i] - ends[1][i]).abs());
    let all: Vec<Vec<f64>> = points.iter().map(|point| point.returns.to_vec()).collect();
    let area = sides[0] * sides[1];
    (area > 0.0).then(|| hypervolume(&all, &least) / area)
}

// ----------------------------------------------------------------------------------------------------------- training

/// A policy for these weights, and the CPU seconds that it took.
type Between<'a> = Box<dyn Fn([f64; 2]) -> Result<(Agent, Option<f64>), ControlFrontError> + 'a>;

/// Rewards of a rollout's steps, `[envs, steps]`, environment-major.
type Judge<'a> = &'a dyn Fn(&Agent, &Rollout) -> Vec<f64>;

/// The common beginning: PPO on the task's own reward.
fn pretrained(config: &ControlFrontConfig, seed: u64, device: &Device) -> Result<Agent, NotFinite> {
    let envs = envs(config, "pretrain", seed);
    let spec = envs.spec();
    let mut agent = Agent::new(&config.ppo, &spec.observation, &spec.action, seed, device);
    train(config, &mut agent, envs, "pretrain", seed, config.pretrain_steps, true, &|_, rollout| {
        rollout.true_rewards.clone()
    })?;
    Ok(agent)
}

/// PPO from the beginning on another reward; its observation statistics stay.
fn finetuned(
    config: &ControlFrontConfig,
    start: &Agent,
    name: &str,
    seed: u64,
    judge: Judge<'_>,
) -> Result<Agent, NotFinite> {
    let mut agent = start.clone();
    agent.optimizer = Adam::new(AdamConfig::default());
    let tuning = ControlFrontConfig {
        ppo: PpoConfig { learning_rate: config.finetune_learning_rate, ..config.ppo.clone() },
        ..config.clone()
    };
    train(&tuning, &mut agent, envs(config, name, seed), name, seed, config.finetune_steps, false, judge)?;
    Ok(agent)
}

/// Fine-tuned by a teacher of this taste: the loop of [`crate::control::drlhp`] in the taste's environment, whose reward the teacher
/// answers by. Returns the reward that was learned, too.
fn taught(
    config: &ControlFrontConfig,
    taste: &Taste,
    beginning: &Path,
    seed: u64,
    device: &Device,
) -> Result<(Agent, Ensemble, RewardConfig), ControlFrontError> {
    let mut own = Config::preset(taste.env)?;
    own.init = Some(beginning.to_owned());
    own.ppo =
        PpoConfig { learning_rate: config.finetune_learning_rate, normalize_observations: false, ..config.ppo.clone() };
    own.preferences.labels = config.labels;
    own.preferences.random_steps = own.preferences.random_steps.max(own.ppo.envs * own.preferences.segment_steps);
    own.steps = config.finetune_steps + own.preferences.random_steps;
    own.validate()?;
    // Drawn from all that there are; only what is written as TOML has to be below 2^63, and this is not.
    own.seed = stream(seed, &format!("front-taught-{}", taste.env), 0).next_u64();
    let run = run::simulated_run(own, device)?;
    Ok((run.agent, run.ensemble, run.config.reward_model))
}

fn envs(config: &ControlFrontConfig, name: &str, seed: u64) -> VecEnv {
    let own = stream(seed, &format!("front-{name}"), 0).next_u64();
    VecEnv::new(&config.env, config.ppo.envs, own, episode_rng).expect("the configuration was validated")
}

fn train(
    config: &ControlFrontConfig,
    agent: &mut Agent,
    mut envs: VecEnv,
    name: &str,
    seed: u64,
    steps: usize,
    learns_statistics: bool,
    judge: Judge<'_>,
) -> Result<(), NotFinite> {
    let ppo = &config.ppo;
    let iterations = steps.div_ceil(ppo.envs * ppo.rollout_steps);
    let mut scaler = ReturnScaler::new(ppo.envs);
    for iteration in 0..iterations {
        let rng = |what: &str| stream(seed, &format!("front-{name}-{what}"), iteration as u64);
        let rollout = ppo::collect(Some(agent), &agent.head, &mut envs, ppo.rollout_steps, &mut rng("actions"));
        let wrong = |(what, found): (String, f64)| NotFinite {
            what,
            found,
            at: format!("iteration {} of the training '{name}' of seed {seed}", iteration + 1),
            advice: "the policy has diverged; try a smaller ppo.learning_rate or finetune_learning_rate",
        };
        if let Some(found) = rollout.not_finite(&config.env) {
            return Err(wrong(found));
        }
        let mut rewards = judge(agent, &rollout);
        if let Some((_, found)) = finite::first(rewards.iter().copied()) {
            return Err(wrong(("the reward that the policy is trained on".to_owned(), found)));
        }
        if ppo.scale_rewards {
            scaler.scale(&mut rewards, &rollout.done, ppo.gamma);
        }
        let progress = iteration as f64 / iterations as f64;
        let updated = ppo::update(agent, ppo, &rollout, &rewards, progress, &mut rng("minibatches"));
        if let Some((what, found)) = updated.not_finite() {
            return Err(wrong((format!("the {what} of PPO's update"), found)));
        }
        if learns_statistics && ppo.normalize_observations {
            agent.observations.update(&rollout.observations);
        }
    }
    Ok(())
}

/// Rewards of a rollout's steps.
///
/// # Shapes
/// - returns `[envs, steps]`, environment-major
fn judged(rollout: &Rollout, reward: &dyn Fn(&Judged<'_>) -> f64) -> Vec<f64> {
    let count = rollout.true_rewards.len();
    let (observation, action) = (rollout.next_observations.len() / count, rollout.actions.len() / count);
    let mut clipped = vec![0.0; action];
    let mut of_step = |i: usize| {
        // What the policy draws may lie outside the range; what is done does not.
        clipped.iter_mut().zip(&rollout.actions[i * action..]).for_each(|(to, from)| *to = from.clamp(-1.0, 1.0));
        reward(&Judged {
            own_reward: rollout.true_rewards[i],
            next_observation: &rollout.next_observations[i * observation..(i + 1) * observation],
            action: &clipped,
        })
    };
    (0..count).map(&mut of_step).collect()
}

/// Standard deviation of a step's reward by each taste under the beginning's policy.
fn deviations(config: &ControlFrontConfig, start: &Agent, tastes: &[Taste; 2], seed: u64) -> [f64; 2] {
    let mut envs = envs(config, "scales", seed);
    let steps = config.ppo.rollout_steps;
    let rollout =
        ppo::collect(Some(start), &start.head, &mut envs, steps, &mut stream(seed, "front-scales-actions", 0));
    tastes.map(|taste| {
        let (_, deviation) = deviation(&judged(&rollout, &taste.reward));
        // A taste that finds all steps alike is left as it is.
        if deviation > 0.0 { deviation } else { 1.0 }
    })
}

// ---------------------------------------------------------------------------------------------------------- measuring

/// Mean return of an episode by each taste: deterministic actions, every environment's first episode. The same seed gives
/// every policy the same initial states.
fn returns(agent: &Agent, env: &str, tastes: &[Taste; 2], episodes: usize, seed: u64) -> [f64; 2] {
    let mut envs = VecEnv::new(env, episodes, seed, evaluation_rng).expect("the task has tastes, so it exists");
    let (observation, action) = (envs.spec().observation.len(), agent.head.action_len());
    assert!(matches!(agent.head, ActionHead::Gaussian { .. }), "tasks with tastes have continuous actions");
    let mut sums = vec![[0.0; 2]; episodes];
    let mut over = vec![false; episodes];
    while over.contains(&false) {
        let actions = agent.act_deterministic(envs.observations());
        agent.head.step(&mut envs, &actions);
        for (i, sum) in sums.iter_mut().enumerate().filter(|(i, _)| !over[*i]) {
            let clipped: Vec<f32> =
                actions[i * action..(i + 1) * action].iter().map(|value| value.clamp(-1.0, 1.0)).collect();
            let step = Judged {
                own_reward: envs.rewards()[i],
                next_observation: &envs.final_observations()[i * observation..(i + 1) * observation],
                action: &clipped,
            };
            sum.iter_mut().zip(tastes).for_each(|(sum, taste)| *sum += (taste.reward)(&step));
        }
        for finished in envs.finished() {
            over[finished.env] = true;
        }
    }
    [0, 1].map(|i| sums.iter().map(|sum| sum[i]).sum::<f64>() / episodes as f64)
}

fn evaluation_rng(seed: u64, env: usize, episode: u64) -> Rng {
    stream(seed, &format!("evaluation-episode-{env}"), episode)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::{ControlFrontConfig, ControlMethod, mixed, pretrained, returns, seed, table, tastes, with_tastes};
    use crate::control::rl::evaluate::evaluate;
    use crate::control::rl::ppo::PpoConfig;
    use crate::control::run::policy::{Policy, mixable};
    use crate::nn::to_host;

    fn small(env: &str) -> ControlFrontConfig {
        ControlFrontConfig {
            env: env.to_owned(),
            seeds: vec![3],
            pretrain_steps: 128,
            finetune_steps: 128,
            mix_steps: 4,
            episodes: 3,
            ppo: PpoConfig { envs: 2, rollout_steps: 32, epochs: 2, hidden: vec![8], ..PpoConfig::default() },
            ..ControlFrontConfig::default()
        }
    }

    #[test]
    fn every_task_with_tastes_has_a_front_whose_ends_are_shared() {
        for env in with_tastes() {
            let config = small(env);
            config.validate().unwrap();
            let folder = tempfile::tempdir().unwrap();
            let found = seed(&config, 3, folder.path(), &Device::flex(), &|_| ()).unwrap();
            assert_eq!(found.points.len(), 10, "{env}");
            let of =
                |method, i: usize| found.points.iter().filter(|point| point.method == method).nth(i).unwrap().returns;
            for end in [0, 4] {
                assert_eq!(of(ControlMethod::Soup, end), of(ControlMethod::Morl, end), "{env}");
            }
            // Saved effort is a loss of at most 1 a step.
            assert!(found.points.iter().all(|point| (-500.0..=0.0).contains(&point.returns[1])), "{env}");
            let rows = table(&config, std::slice::from_ref(&found));
            assert_eq!((rows[0].trainings, rows[1].trainings), (2, 5));
            assert!(rows[0].not_dominated[0] <= 3 && rows[0].volume.unwrap().is_finite());
            // The same again, to the bit.
            let again = seed(&config, 3, folder.path(), &Device::flex(), &|_| ()).unwrap();
            assert_eq!(again.points, found.points);
            // What was written is what was measured.
            for point in &found.points {
                let read = |file| Policy::read(&folder.path().join(file), &Device::flex()).unwrap();
                let policies: Vec<_> = point.policies.iter().map(read).collect();
                mixable(&policies, &["one".to_owned(), "other".to_owned()]).unwrap();
                let policy = match policies.as_slice() {
                    [one] => one.agent.clone(),
                    two => mixed(&[&two[0].agent, &two[1].agent], &point.weights),
                };
                let returns = returns(&policy, env, tastes(env).unwrap(), config.episodes, 3);
                assert_eq!(returns, point.returns, "{env}, {:?} {:?}", point.method, point.weights);
            }
        }
        let error = tastes("acrobot").unwrap_err().to_string();
        assert!(error.contains("has no tastes to weigh: choose") && error.contains("reacher"), "{error}");
    }

    #[test]
    fn a_soup_is_between_its_ends_and_judged_as_evaluation_judges() {
        let config = small("reacher");
        let [a, b] = [1, 2].map(|seed| pretrained(&config, seed, &Device::flex()).unwrap());
        let weights = |agent: &crate::control::rl::ppo::Agent| to_host(agent.parameters.clone().inner());
        let half = mixed(&[&a, &b], &[0.25, 0.75]);
        for ((mixed, a), b) in weights(&half).iter().zip(weights(&a)).zip(weights(&b)) {
            assert!((mixed - (0.25 * a + 0.75 * b)).abs() < 1e-6);
        }
        assert_eq!(weights(&mixed(&[&a, &b], &[1.0, 0.0])), weights(&a));
        // Each taste's environment gives what the taste says.
        let found = returns(&a, "reacher", tastes("reacher").unwrap(), 5, 9);
        for (found, env) in found.iter().zip(["reacher", "reacher-gentle"]) {
            let expected = evaluate(&a, env, 5, 9).unwrap().mean;
            assert!((found - expected).abs() < 1e-6, "{env}: {found}, expected {expected}");
        }
    }

    #[test]
    fn teachers_of_two_tastes_leave_two_policies_of_one_beginning_and_morl_weighs_what_they_taught() {
        let folder = tempfile::tempdir().unwrap();
        let config = ControlFrontConfig {
            labels: 8,
            finetune_steps: 512,
            mix_steps: 2,
            ppo: PpoConfig { envs: 4, rollout_steps: 64, epochs: 2, hidden: vec![8], ..PpoConfig::default() },
            ..small("pendulum")
        };
        let found = seed(&config, 5, folder.path(), &Device::flex(), &|_| ()).unwrap();
        assert_eq!(found.points.len(), 6);
        let read = |file: &str| Policy::read(&folder.path().join("models/5").join(file), &Device::flex()).unwrap();
        let ends = [read("1.0000-0.0000.safetensors"), read("0.0000-1.0000.safetensors")];
        mixable(&ends, &["upright".to_owned(), "gentle".to_owned()]).unwrap();
        assert_eq!(ends[0].beginning.as_ref(), Some(&read("beginning.safetensors").fingerprint()));
        assert_ne!(ends[0].fingerprint(), ends[1].fingerprint());
        assert_ne!(read("0.5000-0.5000.safetensors").fingerprint(), ends[0].fingerprint());
        let again = seed(&config, 5, folder.path(), &Device::flex(), &|_| ()).unwrap();
        assert_eq!(again.points, found.points);
    }

    #[test]
    fn impossible_numbers_are_refused_with_the_reason() {
        let problem = |config: ControlFrontConfig| config.validate().unwrap_err();
        assert!(problem(small("cartpole")).contains("has no tastes"));
        assert_eq!(
            problem(ControlFrontConfig { finetune_steps: 10, ..small("reacher") }),
            "finetune_steps = 10: must be 64 or more, an iteration of PPO"
        );
        assert_eq!(problem(ControlFrontConfig { mix_steps: 0, ..small("reacher") }), "mix_steps: must be 1 or more");
    }
}
