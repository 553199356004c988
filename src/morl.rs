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
use pairwise_envs::VecEnv;
use rand::Rng as _;
use serde::{Deserialize, Serialize};

use crate::drlhp::episode_rng;
use crate::nn::{Adam, AdamConfig, parameter, to_host};
use crate::pareto::{above_chord, dominates, hypervolume};
use crate::preference::statistics::{bootstrap_interval, interquartile_mean};
use crate::random::{Rng, stream};
use crate::rl::normalize::ReturnScaler;
use crate::rl::ppo::{self, ActionHead, Agent, PpoConfig, Rollout};
use crate::run::Clock;
use crate::run::archive::{Archive, ArchiveError};
use crate::run::checkpoint::{moments, put_moments};
use crate::soup::{MergeConfig, merge};

/// What somebody wants of an agent, step by step; more is better.
#[derive(Debug, Clone, Copy)]
pub struct Taste {
    /// What it is called.
    pub name: &'static str,
    /// Reward of a step.
    pub reward: fn(&Judged<'_>) -> f64,
}

/// A step as a taste sees it.
#[derive(Debug, Clone, Copy)]
pub struct Judged<'a> {
    /// The task's own reward.
    pub true_reward: f64,
    /// What is observed after the step.
    pub next_observation: &'a [f32],
    /// The action, element by element in −1..1 of its range.
    pub action: &'a [f32],
}

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
    pub soup_cpu_seconds: f64,
    /// CPU seconds of MORL's fine-tunings, the two ends included.
    pub morl_cpu_seconds: f64,
}

/// A method over all seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ControlRow {
    /// Which method.
    pub method: ControlMethod,
    /// Share of the box between the two ends that the points between them cover: interquartile mean over seeds. A straight
    /// line between the ends would cover a half.
    pub volume: f64,
    /// 95 % bootstrap interval.
    pub interval: [f64; 2],
    /// Of each seed: how many policies between the ends are dominated by neither end.
    pub not_dominated: Vec<usize>,
    /// Of each seed: how many lie above the chord between the ends in both tastes.
    pub above_chord: Vec<usize>,
    /// Fine-tunings in a seed.
    pub trainings: usize,
    /// Environment steps of these.
    pub env_steps: usize,
    /// CPU seconds of these: mean over seeds.
    pub cpu_seconds: f64,
}

/// What stops a front.
#[derive(Debug, thiserror::Error)]
pub enum ControlFrontError {
    /// A task without tastes.
    #[error("{env}: has no tastes to weigh: choose reacher, pendulum or inverted-pendulum")]
    NoTastes {
        /// The task.
        env: String,
    },
    /// A policy's file.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A folder.
    #[error("{}: cannot be made: {error}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

/// The two tastes of a task: what it is about, and little effort.
///
/// # Errors
/// [`ControlFrontError::NoTastes`].
pub fn tastes(env: &str) -> Result<[Taste; 2], ControlFrontError> {
    let effort = |step: &Judged<'_>| {
        let squares = step.action.iter().map(|a| f64::from(a * a)).sum::<f64>();
        -squares / step.action.len().max(1) as f64
    };
    match env {
        "reacher" => Ok([
            Taste { name: "precision", reward: |step| step.true_reward },
            Taste { name: "effort saved", reward: effort },
        ]),
        // Its own reward counts a little torque already; the height of its end does not.
        "pendulum" => Ok([
            Taste { name: "upright", reward: |step| f64::from(step.next_observation[0]) },
            Taste { name: "torque saved", reward: effort },
        ]),
        "inverted-pendulum" => Ok([
            Taste { name: "upright", reward: |step| step.true_reward },
            Taste { name: "force saved", reward: effort },
        ]),
        _ => Err(ControlFrontError::NoTastes { env: env.to_owned() }),
    }
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
        let iteration = self.ppo.envs * self.ppo.rollout_steps;
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
        match rate > 0.0 && rate.is_finite() {
            true => Ok(()),
            false => Err(format!("finetune_learning_rate = {rate}: must be positive")),
        }
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
    let start = pretrained(config, seed, device);
    let measure = |agent: &Agent| returns(agent, &config.env, &tastes, config.episodes, seed);
    // So that weights compare like with like: a step's reward by each taste in standard deviations of the beginning's.
    let scales = deviations(config, &start, &tastes, seed);
    let tuned = |weights: [f64; 2]| {
        let clock = Clock::start(0.0, 0.0);
        let reward = |step: &Judged<'_>| (0..2).map(|i| weights[i] * (tastes[i].reward)(step) / scales[i]).sum();
        let agent = finetuned(config, &start, &format!("{:.4}", weights[0]), seed, &reward);
        show(&format!("seed {seed}: fine-tuned for {:.2}/{:.2} in {:.0} s", weights[0], weights[1], clock.wall()));
        (agent, clock.cpu())
    };
    let policies = PathBuf::from(format!("models/{seed}"));
    let place = folder.join(&policies);
    fs::create_dir_all(&place).map_err(|error| ControlFrontError::Folder { path: place, error })?;
    let keep = |weights: [f64; 2], agent: &Agent| -> Result<PathBuf, ControlFrontError> {
        let file = policies.join(format!("{:.4}-{:.4}.safetensors", weights[0], weights[1]));
        save(agent, &folder.join(&file))?;
        Ok(file)
    };
    let mut points = Vec::new();
    let ends = [tuned([1.0, 0.0]), tuned([0.0, 1.0])];
    let files = [keep([1.0, 0.0], &ends[0].0)?, keep([0.0, 1.0], &ends[1].0)?];
    let soup_cpu_seconds = ends.iter().map(|(_, cpu)| cpu).sum();
    let mut morl_cpu_seconds = soup_cpu_seconds;
    for i in 0..=config.mix_steps {
        let share = i as f64 / config.mix_steps as f64;
        let weights = [share, 1.0 - share];
        let soup = mixed([&ends[0].0, &ends[1].0], weights);
        let found = measure(&soup);
        points.push(ControlPoint { method: ControlMethod::Soup, weights, returns: found, policies: files.to_vec() });
        if config.morl {
            let (returns, file) = match i {
                0 => (found, files[1].clone()),
                end if end == config.mix_steps => (found, files[0].clone()),
                _ => {
                    let (agent, cpu) = tuned(weights);
                    morl_cpu_seconds += cpu;
                    (measure(&agent), keep(weights, &agent)?)
                }
            };
            points.push(ControlPoint { method: ControlMethod::Morl, weights, returns, policies: vec![file] });
        }
    }
    Ok(ControlSeed { seed, start: measure(&start), points, soup_cpu_seconds, morl_cpu_seconds })
}

/// Writes a policy: its weights, and the statistics that its observations are normalised with.
///
/// # Errors
/// Those of the file system.
pub fn save(agent: &Agent, path: &Path) -> Result<(), ArchiveError> {
    let mut archive = Archive::default();
    let parameters = to_host(agent.parameters.clone().inner());
    archive.put_f32("parameters", &[1, parameters.len()], &parameters);
    put_moments(&mut archive, "observations", &agent.observations);
    archive.save(path)
}

/// Reads a policy of this task and algorithm.
///
/// # Errors
/// When the file is missing, torn, or that of other networks.
///
/// # Panics
/// When the configuration was not validated.
pub fn load(config: &ControlFrontConfig, path: &Path, device: &Device) -> Result<Agent, ArchiveError> {
    let env = pairwise_envs::make(&config.env).expect("the configuration was validated");
    let spec = env.spec();
    let mut agent = Agent::new(&config.ppo, &spec.observation, &spec.action, 0, device);
    let archive = Archive::load(path)?;
    let shape = [1, agent.networks.len()];
    agent.parameters = parameter(archive.f32("parameters", &shape)?, shape, device);
    agent.observations = moments(&archive, "observations")?;
    Ok(agent)
}

/// Σ w_i θ_i of two agents with one beginning: weights of policy, exploration and value function.
///
/// # Panics
/// When the agents have different networks.
#[must_use]
pub fn mixed(agents: [&Agent; 2], weights: [f64; 2]) -> Agent {
    let config = MergeConfig { weights: weights.to_vec(), normalize: Some(false), ..MergeConfig::default() };
    let parameters = agents.map(|agent| to_host(agent.parameters.clone().inner()));
    let merged = merge(&config, "agent", None, &[&parameters[0], &parameters[1]]);
    let mut mixed = agents[0].clone();
    let device = mixed.parameters.device().without_autodiff();
    let shape = [1, merged.len()];
    mixed.parameters = parameter(merged, shape, &device);
    mixed
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
        let found: Vec<(f64, usize, usize)> = seeds.iter().map(of_seed).collect();
        let volumes: Vec<f64> = found.iter().map(|(volume, ..)| *volume).collect();
        let trainings = if method == ControlMethod::Soup { 2 } else { config.mix_steps + 1 };
        let cpu = |seed: &ControlSeed| match method {
            ControlMethod::Soup => seed.soup_cpu_seconds,
            ControlMethod::Morl => seed.morl_cpu_seconds,
        };
        ControlRow {
            method,
            volume: interquartile_mean(&volumes),
            interval: bootstrap_interval(&volumes, interquartile_mean, 0.95, &mut stream(0, "control-front", 0)),
            not_dominated: found.iter().map(|(_, free, _)| *free).collect(),
            above_chord: found.iter().map(|(.., above)| *above).collect(),
            trainings,
            env_steps: trainings * config.finetune_steps,
            cpu_seconds: seeds.iter().map(cpu).sum::<f64>() / seeds.len() as f64,
        }
    };
    methods.into_iter().map(row).collect()
}

/// Share of the box between the ends that the points cover.
fn covered(points: &[&ControlPoint], ends: &[Vec<f64>; 2]) -> f64 {
    let least = [0, 1].map(|i| ends[0][i].min(ends[1][i]));
    let sides = [0, 1].map(|i| (ends[0][i] - ends[1][i]).abs());
    let all: Vec<Vec<f64>> = points.iter().map(|point| point.returns.to_vec()).collect();
    hypervolume(&all, &least) / (sides[0] * sides[1])
}

// ----------------------------------------------------------------------------------------------------------- training

/// The common beginning: PPO on the task's own reward.
fn pretrained(config: &ControlFrontConfig, seed: u64, device: &Device) -> Agent {
    let envs = envs(config, "pretrain", seed);
    let spec = envs.spec();
    let mut agent = Agent::new(&config.ppo, &spec.observation, &spec.action, seed, device);
    train(config, &mut agent, envs, "pretrain", seed, config.pretrain_steps, true, &|step| step.true_reward);
    agent
}

/// PPO from the beginning on another reward; its observation statistics stay.
fn finetuned(
    config: &ControlFrontConfig,
    start: &Agent,
    name: &str,
    seed: u64,
    reward: &dyn Fn(&Judged<'_>) -> f64,
) -> Agent {
    let mut agent = start.clone();
    agent.optimizer = Adam::new(AdamConfig::default());
    let tuning = ControlFrontConfig {
        ppo: PpoConfig { learning_rate: config.finetune_learning_rate, ..config.ppo.clone() },
        ..config.clone()
    };
    train(&tuning, &mut agent, envs(config, name, seed), name, seed, config.finetune_steps, false, reward);
    agent
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
    reward: &dyn Fn(&Judged<'_>) -> f64,
) {
    let ppo = &config.ppo;
    let iterations = steps.div_ceil(ppo.envs * ppo.rollout_steps);
    let mut scaler = ReturnScaler::new(ppo.envs);
    for iteration in 0..iterations {
        let rng = |what: &str| stream(seed, &format!("front-{name}-{what}"), iteration as u64);
        let rollout = ppo::collect(Some(agent), &agent.head, &mut envs, ppo.rollout_steps, &mut rng("actions"));
        let mut rewards = judged(&rollout, reward);
        if ppo.scale_rewards {
            scaler.scale(&mut rewards, &rollout.done, ppo.gamma);
        }
        let progress = iteration as f64 / iterations as f64;
        let _ = ppo::update(agent, ppo, &rollout, &rewards, progress, &mut rng("minibatches"));
        if learns_statistics && ppo.normalize_observations {
            agent.observations.update(&rollout.observations);
        }
    }
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
            true_reward: rollout.true_rewards[i],
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
        let rewards = judged(&rollout, &taste.reward);
        let mean = rewards.iter().sum::<f64>() / rewards.len() as f64;
        let variance = rewards.iter().map(|reward| (reward - mean).powi(2)).sum::<f64>() / rewards.len() as f64;
        // A taste that finds all steps alike is left as it is.
        if variance > 0.0 { variance.sqrt() } else { 1.0 }
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
                true_reward: envs.rewards()[i],
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

    use super::{ControlFrontConfig, ControlMethod, load, mixed, pretrained, returns, seed, table, tastes};
    use crate::nn::to_host;
    use crate::rl::evaluate::evaluate;
    use crate::rl::ppo::PpoConfig;

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
        for env in ["reacher", "pendulum", "inverted-pendulum"] {
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
            assert!(rows[0].not_dominated[0] <= 3 && rows[0].volume.is_finite());
            // The same again, to the bit.
            let again = seed(&config, 3, folder.path(), &Device::flex(), &|_| ()).unwrap();
            assert_eq!(again.points, found.points);
            // What was written is what was measured.
            for point in &found.points {
                let read = |file| load(&config, &folder.path().join(file), &Device::flex()).unwrap();
                let policies: Vec<_> = point.policies.iter().map(read).collect();
                let policy = match policies.as_slice() {
                    [one] => one.clone(),
                    two => mixed([&two[0], &two[1]], point.weights),
                };
                let returns = returns(&policy, env, &tastes(env).unwrap(), config.episodes, 3);
                assert_eq!(returns, point.returns, "{env}, {:?} {:?}", point.method, point.weights);
            }
        }
        assert!(tastes("acrobot").unwrap_err().to_string().contains("choose reacher"));
    }

    #[test]
    fn a_soup_is_between_its_ends_and_judged_as_evaluation_judges() {
        let config = small("reacher");
        let (a, b) = (pretrained(&config, 1, &Device::flex()), pretrained(&config, 2, &Device::flex()));
        let weights = |agent: &crate::rl::ppo::Agent| to_host(agent.parameters.clone().inner());
        let half = mixed([&a, &b], [0.25, 0.75]);
        for ((mixed, a), b) in weights(&half).iter().zip(weights(&a)).zip(weights(&b)) {
            assert!((mixed - (0.25 * a + 0.75 * b)).abs() < 1e-6);
        }
        assert_eq!(weights(&mixed([&a, &b], [1.0, 0.0])), weights(&a));
        // Precision is the task's own reward.
        let [precision, _] = returns(&a, "reacher", &tastes("reacher").unwrap(), 5, 9);
        let expected = evaluate(&a, "reacher", 5, 9).unwrap().mean;
        assert!((precision - expected).abs() < 1e-9, "{precision}, expected {expected}");
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
