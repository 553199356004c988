//! The configuration of a run: built-in defaults ← the task's preset ← `--config` file ← `--set` and flags.
//!
//! The resolved result is written to the run folder and can be fed back with `--config`.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::Table;

use crate::control::reward::ensemble::{FitTarget, RewardConfig};
use crate::control::rl::ppo::PpoConfig;
use crate::device::DeviceChoice;
use crate::disk::layers::{self, LayerError, parse, read_text};
use crate::preference::Teacher;
use crate::preference::query::{DISAGREEMENT, Sampler};
use crate::table::{self, Line};

/// Everything that determines a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Environment.
    pub env: String,
    /// Seed of every random stream.
    pub seed: u64,
    /// Environment steps in all, including the random ones at the start.
    pub steps: usize,
    /// What the agent is trained on.
    pub reward: RewardSource,
    /// Run or policy file whose policy the agent begins with, instead of random weights. Runs that begin with the same
    /// policy can be mixed, so its observation statistics stay fixed (`ppo.normalize_observations` is false).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    /// Where tensors live.
    pub device: DeviceChoice,
    /// Episodes of the final evaluation.
    pub evaluation_episodes: usize,
    /// Iterations between two checkpoints.
    pub checkpoint_every: usize,
    /// Questions and answers.
    pub preferences: PreferenceConfig,
    /// The reward ensemble.
    pub reward_model: RewardConfig,
    /// The agent.
    pub ppo: PpoConfig,
}

/// What the agent is trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RewardSource {
    /// The reward learned from comparisons.
    Preferences,
    /// The environment's own: the baseline to compare with.
    True,
}

impl table::Table for RewardSource {
    const KIND: &'static str = "reward";
    const LINES: &'static [&'static Line<Self>] = &[
        &Line { name: "preferences", summary: "The reward learned from comparisons", item: Self::Preferences },
        &Line { name: "true", summary: "The environment's own: the baseline to compare with", item: Self::True },
    ];
}

/// Who answers questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rater {
    /// A simulated teacher, at once.
    Simulated,
    /// A person, while training goes on.
    Person,
}

/// How questions are asked and answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreferenceConfig {
    /// Questions in all, skipped ones included.
    pub labels: usize,
    /// Share of them asked about a random policy before training starts (A.1: 0.25).
    pub first_share: f64,
    /// Rounds in which the first share is asked, with a fit after each. The first round's questions are random; in
    /// later rounds the sampler chooses them, from clips of the same random policy.
    pub first_rounds: usize,
    /// Keep asking while the agent learns (§3.3: otherwise it exploits errors of the learned reward).
    pub online: bool,
    /// The label rate after T steps is proportional to h / (T + h), with h this share of all steps (A.1: 2·10⁶ of
    /// 5·10⁶).
    pub rate_half: f64,
    /// Steps in a segment.
    pub segment_steps: usize,
    /// Candidate pairs per question (§2.2.4: 10).
    pub candidates: usize,
    /// How questions are chosen among the candidates.
    pub sampler: &'static Line<Sampler>,
    /// Who answers.
    pub rater: Rater,
    /// The simulated teacher.
    pub teacher: Teacher,
    /// What a person wants to see, in a sentence. If set, no true return is shown: the task's own reward does not
    /// measure what is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<String>,
    /// Questions kept ready for a person, so that the next pair appears at once.
    pub ahead: usize,
    /// How many questions training may run ahead of a person's answers before it waits.
    pub lead: usize,
    /// Of this many questions to a person, one shows an earlier pair again, unannounced; 0 for never.
    pub repeat_every: usize,
    /// Steps of a random policy before the first questions.
    pub random_steps: usize,
    /// How many of the newest environment steps questions are drawn from.
    pub window_steps: usize,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A layer that is not TOML, or that does not fit: unknown or missing fields, wrong types.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// Values that do not belong together, or a part of the configuration that cannot be used.
    #[error("{0}")]
    Shape(String),
    /// A value out of its range.
    #[error("{field} = {found}: {expected}")]
    Value {
        /// Field, as `--set` would name it.
        field: &'static str,
        /// What was found.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// No such environment.
    #[error(transparent)]
    Env(#[from] pairwise_envs::UnknownEnv),
}

/// Presets by task, measured on the tasks themselves; tasks without one learn well with the defaults.
const PRESETS: &str = include_str!("../../../assets/presets.toml");

impl Default for PreferenceConfig {
    fn default() -> Self {
        Self {
            labels: 350,
            first_share: 0.25,
            first_rounds: 8,
            online: true,
            rate_half: 0.4,
            segment_steps: 30,
            candidates: 10,
            sampler: &DISAGREEMENT,
            rater: Rater::Simulated,
            teacher: Teacher::default(),
            wanted: None,
            ahead: 4,
            lead: 8,
            repeat_every: 10,
            random_steps: 2048,
            window_steps: 20_000,
        }
    }
}

impl Config {
    /// Built-in defaults for an environment, before its preset.
    fn base(env: &str) -> Self {
        Self {
            env: env.to_owned(),
            seed: 0,
            steps: 150_000,
            reward: RewardSource::Preferences,
            init: None,
            device: DeviceChoice::Auto,
            evaluation_episodes: 100,
            checkpoint_every: 5,
            preferences: PreferenceConfig::default(),
            reward_model: RewardConfig::default(),
            ppo: PpoConfig::default(),
        }
    }

    /// The defaults of an environment: built-in values with its preset over them.
    ///
    /// # Errors
    /// When there is no such environment.
    pub fn preset(env: &str) -> Result<Self, ConfigError> {
        Self::resolve(env, &[])
    }

    /// The configuration of a run that a person teaches.
    ///
    /// Training takes tens of thousands of steps while a person answers one question, so it spends its time waiting for
    /// answers and can take four times the steps. Only a tenth of the questions come before training starts, so that
    /// the person soon sees what the answers do.
    ///
    /// # Errors
    /// When there is no such environment.
    pub fn taught(env: &str, labels: usize, wanted: Option<String>) -> Result<Self, ConfigError> {
        let mut config = Self::preset(env)?;
        config.steps *= 4;
        config.preferences.rater = Rater::Person;
        config.preferences.labels = labels;
        config.preferences.first_share = 0.1;
        config.preferences.rate_half = 1.0;
        // In a short lesson, a lead of eight questions would let training end before the answers count.
        config.preferences.lead = (labels / 20).clamp(1, config.preferences.lead);
        config.preferences.wanted = wanted;
        config.valid()
    }

    /// Defaults and preset of `env`, with `layers` laid over them in order.
    ///
    /// # Errors
    /// [`ConfigError`] for unknown fields, wrong types, and values out of range.
    pub fn resolve(env: &str, layers: &[Table]) -> Result<Self, ConfigError> {
        let env = pairwise_envs::make(env)?.spec().id;
        // Every taste of a task uses the task's preset.
        let task = pairwise_envs::task(env);
        let preset = match parse(PRESETS, "assets/presets.toml")?.remove(task) {
            Some(toml::Value::Table(preset)) => vec![preset],
            _ => Vec::new(),
        };
        let mut base = layers::resolve(&Self::base(env), &preset)?;
        base.ppo.normalize_observations &= !layers.iter().any(|layer| layer.contains_key("init"));
        base.with(layers)
    }

    /// This configuration with `layers` laid over it in order.
    ///
    /// # Errors
    /// [`ConfigError`] for unknown fields, wrong types, and values out of range.
    pub fn with(&self, layers: &[Table]) -> Result<Self, ConfigError> {
        layers::resolve(self, layers)?.valid()
    }

    /// The configuration that a table holds; nothing may be missing.
    ///
    /// # Errors
    /// [`ConfigError`] for unknown fields, wrong types, and values out of range.
    pub fn from_table(table: Table) -> Result<Self, ConfigError> {
        layers::from_table::<Self>(table)?.valid()
    }

    /// The configuration as a table.
    #[must_use]
    pub fn to_table(&self) -> Table {
        layers::table(self).expect("plain structs always become tables")
    }

    /// Reads a resolved configuration as [`Config::to_toml`] writes it; nothing may be missing.
    ///
    /// # Errors
    /// [`ConfigError`] naming the file, and the field or the line.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = read_text(path)?;
        layers::from_text::<Self>(&text, path)?.valid()
    }

    fn valid(self) -> Result<Self, ConfigError> {
        self.validate()?;
        Ok(self)
    }

    /// The configuration as TOML.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("plain structs always become TOML")
    }

    /// Environment steps of one iteration.
    #[must_use]
    pub fn rollout_len(&self) -> usize {
        self.ppo.envs * self.ppo.rollout_steps
    }

    /// Iterations of collecting and training after the random steps.
    #[must_use]
    pub fn iterations(&self) -> usize {
        (self.steps - self.preferences.random_steps) / self.rollout_len()
    }

    /// Checks every value that has a range.
    ///
    /// # Errors
    /// [`ConfigError::Value`] naming the first field that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let Self { preferences, reward_model, ppo, .. } = self;
        if i64::try_from(self.seed).is_err() {
            return wrong("seed", &self.seed, "must be below 2^63, like every number of a configuration");
        }
        within("steps", self.steps, 1, 1_000_000_000_000)?;
        within("evaluation_episodes", self.evaluation_episodes, 1, 10_000)?;
        within("checkpoint_every", self.checkpoint_every, 1, 1_000_000)?;
        validate_ppo(ppo)?;
        hidden_sizes("reward_model.hidden", &reward_model.hidden)?;
        within("preferences.labels", preferences.labels, 0, 10_000_000)?;
        within("preferences.first_share", preferences.first_share, 0.0, 1.0)?;
        within("preferences.first_rounds", preferences.first_rounds, 1, 1_000)?;
        within("preferences.rate_half", preferences.rate_half, 1e-6, 1e6)?;
        within("preferences.segment_steps", preferences.segment_steps, 1, ppo.rollout_steps)?;
        within("preferences.ahead", preferences.ahead, 1, 1_000)?;
        within("preferences.lead", preferences.lead, 0, 10_000_000)?;
        within("preferences.repeat_every", preferences.repeat_every, 0, 1_000_000)?;
        within("preferences.candidates", preferences.candidates, 1, 1_000)?;
        let least = ppo.envs * preferences.segment_steps.max(1);
        within("preferences.random_steps", preferences.random_steps, least, 100_000_000)?;
        within("preferences.window_steps", preferences.window_steps, preferences.segment_steps, 100_000_000)?;
        within("reward_model.members", reward_model.members, 1, 64)?;
        within("reward_model.holdout", reward_model.holdout, 0.0, 0.9)?;
        within("reward_model.l2", reward_model.l2, 0.0, 1.0)?;
        within("reward_model.l2_rate", reward_model.l2_rate, 0.0, 1.0)?;
        within("reward_model.reward_std", reward_model.reward_std, 0.0, 100.0)?;
        within("reward_model.learning_rate", reward_model.learning_rate, 0.0, 1.0)?;
        within("reward_model.batch_size", reward_model.batch_size, 1, 100_000)?;
        within("reward_model.first_steps", reward_model.first_steps, 0, 1_000_000)?;
        within("reward_model.steps", reward_model.steps, 0, 1_000_000)?;
        let shape = |field: &'static str, reason: String| ConfigError::Shape(format!("{field}: {reason}"));
        preferences.teacher.validate().map_err(|e| shape("preferences.teacher", e.to_string()))?;
        reward_model.likelihood.validate().map_err(|e| shape("reward_model.likelihood", e.to_string()))?;
        let least = preferences.random_steps + self.rollout_len();
        if self.steps < least {
            let (random, envs, steps) = (preferences.random_steps, ppo.envs, ppo.rollout_steps);
            let parts = format!("{random} random steps and one rollout of {envs} × {steps}");
            return wrong("steps", &self.steps, &format!("must be at least {least}: {parts}"));
        }
        if self.reward == RewardSource::Preferences && preferences.labels == 0 {
            let expected = "learning from preferences needs at least one label; `--reward true` needs none";
            return wrong("preferences.labels", &0, expected);
        }
        if self.reward == RewardSource::True && reward_model.target == FitTarget::Returns {
            let expected = "a reward model is only fitted with `--reward preferences`";
            return wrong("reward_model.target", &"returns", expected);
        }
        Ok(())
    }
}

fn wrong(field: &'static str, found: &dyn Display, expected: &str) -> Result<(), ConfigError> {
    Err(ConfigError::Value { field, found: found.to_string(), expected: expected.to_owned() })
}

/// Checks that a number lies between bounds; NaN never does.
fn within<T: Copy + PartialOrd + Display>(field: &'static str, found: T, least: T, most: T) -> Result<(), ConfigError> {
    match (least..=most).contains(&found) {
        true => Ok(()),
        false => wrong(field, &found, &format!("must be between {least} and {most}")),
    }
}

/// Checks the widths of hidden layers.
fn hidden_sizes(field: &'static str, hidden: &[usize]) -> Result<(), ConfigError> {
    within(field, hidden.len(), 0, 16)?;
    hidden.iter().try_for_each(|&width| within(field, width, 1, 16_384))
}

/// Checks PPO's part of a configuration.
///
/// # Errors
/// [`ConfigError::Value`] naming the first field that is out of range.
pub fn validate_ppo(ppo: &PpoConfig) -> Result<(), ConfigError> {
    within("ppo.envs", ppo.envs, 1, 65_536)?;
    within("ppo.rollout_steps", ppo.rollout_steps, 2, 1_000_000)?;
    within("ppo.epochs", ppo.epochs, 1, 1_000)?;
    within("ppo.minibatch_size", ppo.minibatch_size, 2, 1_000_000)?;
    within("ppo.learning_rate", ppo.learning_rate, 0.0, 1.0)?;
    within("ppo.gamma", ppo.gamma, 0.0, 1.0)?;
    within("ppo.gae_lambda", ppo.gae_lambda, 0.0, 1.0)?;
    within("ppo.clip_range", ppo.clip_range, 0.0, 10.0)?;
    within("ppo.entropy_coefficient", ppo.entropy_coefficient, 0.0, 10.0)?;
    within("ppo.value_coefficient", ppo.value_coefficient, 0.0, 100.0)?;
    within("ppo.max_gradient_norm", f64::from(ppo.max_gradient_norm), 1e-6, 1e6)?;
    within("ppo.initial_log_std", f64::from(ppo.initial_log_std), -10.0, 3.0)?;
    hidden_sizes("ppo.hidden", &ppo.hidden)
}

#[cfg(test)]
mod tests {
    use super::{Config, PRESETS, RewardSource};
    use crate::disk::layers::{parse, reals, set_layer};

    #[test]
    fn every_task_has_a_configuration_that_can_be_fed_back() {
        for spec in pairwise_envs::specs() {
            let config = Config::preset(spec.id).unwrap();
            let layer = config.to_toml().parse().unwrap();
            assert_eq!(Config::resolve(spec.id, &[layer]).unwrap(), config);
        }
        for (id, preset) in &parse(PRESETS, "presets").unwrap() {
            assert!(pairwise_envs::task(id) == id && pairwise_envs::make(id).is_ok() && preset.is_table(), "{id}");
        }
    }

    /// Issue 28, B1: what is not a finite number is refused by the name of its field, wherever it is given.
    #[test]
    fn every_real_number_refuses_nan_and_infinities_by_name() {
        let plain = Config::preset("pendulum").unwrap();
        let paths = reals(&plain.to_toml().parse().unwrap(), "");
        assert_eq!(paths.len(), 24, "{paths:?}");
        for path in &paths {
            let name = path.rsplit('.').next().unwrap();
            for wrong in ["nan", "-nan", "inf", "-inf", "1e300", "-1e300"] {
                let error = Config::resolve("pendulum", &[set_layer(&format!("{path}={wrong}")).unwrap()]);
                let error = error.expect_err(&format!("{path} = {wrong}")).to_string();
                assert!(error.contains(name), "{path} = {wrong}: {error}");
            }
        }
        // A run folder's file is refused in the same way.
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        let spoiled =
            |line: &str| if line.starts_with("gamma = ") { "gamma = nan".to_owned() } else { line.to_owned() };
        let text: Vec<String> = plain.to_toml().lines().map(spoiled).collect();
        std::fs::write(&file, text.join("\n")).unwrap();
        assert!(Config::read(&file).unwrap_err().to_string().contains("gamma"));
    }

    #[test]
    fn assignments_mean_what_people_write() {
        let resolve = |text: &str| Config::resolve("pendulum", &[set_layer(text).unwrap()]);
        assert_eq!(resolve("reward=true").unwrap().reward, RewardSource::True);
        assert_eq!(resolve("ppo.gamma = 1").unwrap().ppo.gamma, 1.0);
        assert_eq!(resolve("ppo.hidden=[8]").unwrap().ppo.hidden, [8]);
        for (text, named) in
            [("ppo.hidden=8", "ppo.hidden"), ("steps=1.5", "steps"), ("preferences.online=1", "online")]
        {
            let error = resolve(text).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
