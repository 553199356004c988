//! What several tests share.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use pairwise::control::config::{Config, Rater};

/// A short run of a person on `pendulum`: takes seconds in a development build.
pub(crate) fn short_lesson(labels: usize) -> Config {
    let mut config = Config::preset("pendulum").unwrap();
    config.steps = 9_000;
    config.evaluation_episodes = 20;
    config.preferences.rater = Rater::Person;
    config.preferences.labels = labels;
    config.preferences.random_steps = 1_000;
    config.preferences.repeat_every = 0;
    config.reward_model.steps = 20;
    config.ppo.rollout_steps = 256;
    config
}
