//! Which settings of an agent's run may change while it goes on, and when: see [`crate::disk::changes`].

use serde::{Deserialize, Serialize};

use crate::disk::changes::Rules;

/// A place in time of an agent's run: between two iterations, before an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moment {
    /// Environment steps taken.
    pub env_steps: usize,
    /// Label sessions, or exchanges with a person, so far.
    pub session: usize,
    /// Iterations done.
    pub iteration: usize,
}

/// The settings that may change, with what a change does.
pub const MAY: &Rules = &[
    ("steps", "how long the run goes on"),
    ("evaluation_episodes", "only measures"),
    ("checkpoint_every", "only saves"),
    ("preferences.labels", "the schedule of questions follows the new total"),
    ("preferences.online", "whether questions come while the agent learns"),
    ("preferences.rate_half", "how the questions that are left are spread"),
    ("preferences.candidates", "of the next questions"),
    ("preferences.sampler", "of the next questions"),
    ("preferences.ahead", "of the next questions"),
    ("preferences.lead", "how far training may be ahead of a person"),
    ("preferences.repeat_every", "of the next questions"),
    ("preferences.window_steps", "of the next questions"),
    ("reward_model.l2_rate", "of the next fits"),
    ("reward_model.learning_rate", "of the next fits"),
    ("reward_model.batch_size", "of the next fits"),
    ("reward_model.steps", "of the next fits"),
    ("ppo.epochs", "of the next updates"),
    ("ppo.minibatch_size", "of the next updates"),
    ("ppo.learning_rate", "of the next updates"),
    ("ppo.anneal_learning_rate", "of the next updates"),
    ("ppo.gae_lambda", "of the next updates"),
    ("ppo.clip_range", "of the next updates"),
    ("ppo.anneal_clip_range", "of the next updates"),
    ("ppo.entropy_coefficient", "of the next updates"),
    ("ppo.value_coefficient", "of the next updates"),
    ("ppo.max_gradient_norm", "of the next updates"),
    ("ppo.normalize_advantages", "of the next updates"),
];

/// Those that may not, with the reason.
pub const MAY_NOT: &Rules = &[
    ("env", "the networks and all that was seen belong to it"),
    ("seed", "every draw comes from it, also the past ones"),
    ("reward", "it would be another experiment; `pairwise train --init RUN` begins one with this policy"),
    ("init", "the run has begun"),
    ("device", "another device changes the last bits of every number, so that a replay could not agree"),
    ("preferences.first_share", "the first questions were asked already"),
    ("preferences.first_rounds", "the first questions were asked already"),
    ("preferences.segment_steps", "the clips that were compared have this length"),
    ("preferences.rater", "the present rater gave the answers so far"),
    ("preferences.teacher", "the present teacher gave the answers so far"),
    ("preferences.wanted", "the answers so far are about it"),
    ("preferences.random_steps", "they were taken already"),
    ("reward_model.members", "the members exist already"),
    ("reward_model.bootstrap", "the members were trained with it"),
    ("reward_model.holdout", "what a member has seen cannot be held out"),
    ("reward_model.adaptive_l2", "the members were trained with it"),
    ("reward_model.l2", "the coefficient only began with it"),
    ("reward_model.likelihood", "the rewards so far have its scale"),
    ("reward_model.normalize_members", "the value function was trained on rewards of this scale"),
    ("reward_model.reward_std", "the value function was trained on rewards of this scale"),
    ("reward_model.hidden", "the networks have this shape"),
    ("reward_model.activation", "the networks have this shape"),
    ("reward_model.first_steps", "they were taken already"),
    ("reward_model.target", "it would be another experiment"),
    ("ppo.envs", "iterations are counted in rollouts of this size"),
    ("ppo.rollout_steps", "iterations are counted in rollouts of this size"),
    ("ppo.gamma", "the value function was trained with it"),
    ("ppo.hidden", "the networks have this shape"),
    ("ppo.activation", "the networks have this shape"),
    ("ppo.initial_log_std", "the weights only began with it"),
    ("ppo.normalize_observations", "the policy was trained with it"),
    ("ppo.scale_rewards", "the value function was trained on rewards of this scale"),
];

#[cfg(test)]
mod tests {
    use toml::Table;

    use super::{MAY, MAY_NOT, Moment};
    use crate::control::config::Config;
    use crate::disk::calendar::rfc3339;
    use crate::disk::changes::{Change, append, apply, covers, misfit, planned, read};
    use crate::disk::layers::set_layer;

    fn config() -> Config {
        set(&Config::preset("pendulum").unwrap(), &["steps=150000", "preferences.labels=350", "ppo.gamma=0.99"])
    }

    fn set(config: &Config, assignments: &[&str]) -> Config {
        config.with(&assignments.iter().map(|one| set_layer(one).unwrap()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn it_is_decided_of_every_field_whether_it_may_change() {
        let mut full = config();
        (full.init, full.preferences.wanted) = (Some("run".into()), Some("a loop".to_owned()));
        fn leaves(table: &Table, path: &str, found: &mut Vec<String>) {
            for (name, value) in table {
                let field = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match value.as_table() {
                    Some(inner) => leaves(inner, &field, found),
                    None => found.push(field),
                }
            }
        }
        let mut fields = Vec::new();
        leaves(&full.to_table(), "", &mut fields);
        assert!(fields.len() > 40);
        for field in &fields {
            let rules = MAY.iter().chain(MAY_NOT).filter(|(name, _)| covers(name, field)).count();
            assert_eq!(rules, 1, "{field}");
        }
        for (name, _) in MAY.iter().chain(MAY_NOT) {
            assert!(fields.iter().any(|field| covers(name, field)), "{name} is no field");
        }
    }

    #[test]
    fn a_change_takes_effect_once_and_names_what_does_not_fit() {
        let old = config();
        let new = set(&old, &["steps=300000", "ppo.learning_rate=1e-4", "preferences.sampler=entropy"]);
        let fields = planned(&old.to_table(), &new.to_table(), MAY, MAY_NOT).unwrap();
        assert_eq!(fields.keys().collect::<Vec<_>>(), ["ppo.learning_rate", "preferences.sampler", "steps"]);
        let mut found = old.to_table();
        for _ in 0..2 {
            apply(&mut found, &fields).unwrap();
            assert_eq!(Config::from_table(found.clone()).unwrap(), new);
        }
        let mut other = set(&old, &["steps=200000"]).to_table();
        assert_eq!(apply(&mut other, &fields).unwrap_err().to_string(), "changes steps from 150000, but it is 200000");
        for (assignment, expected) in [
            ("seed=3", "--set seed: cannot change in a run: every draw"),
            ("ppo.gamma=0.9", "--set ppo.gamma: cannot change in a run: the value function"),
            ("preferences.teacher.mistake=0.5", "--set preferences.teacher.mistake: cannot change"),
        ] {
            let new = set(&old, &[assignment]);
            let error = planned(&old.to_table(), &new.to_table(), MAY, MAY_NOT).unwrap_err().to_string();
            assert!(error.starts_with(expected) && error.contains("These can: steps, "), "{error}");
        }
    }

    #[test]
    fn changes_are_lines_that_can_be_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let old = config();
        let fields = planned(&old.to_table(), &set(&old, &["steps=300000"]).to_table(), MAY, MAY_NOT).unwrap();
        let change = |iteration| Change {
            at: Moment { env_steps: 100 * iteration, session: 5, iteration },
            fields: fields.clone(),
            time: rfc3339(1_796_061_599),
        };
        append(folder.path(), change(3)).unwrap();
        let path = folder.path().join("changes.jsonl");
        let text = std::fs::read_to_string(&path).unwrap();
        let expected = "{\"at\":{\"env_steps\":300,\"session\":5,\"iteration\":3},\
                        \"fields\":{\"steps\":{\"old\":150000,\"new\":300000}},\"time\":\"2026-11-30T17:59:59Z\"}\n";
        assert_eq!(text, expected);
        // What a kill left of one that never took effect.
        std::fs::write(&path, format!("{text}{{\"at\":")).unwrap();
        append(folder.path(), change(4)).unwrap();
        assert_eq!(read::<Moment>(folder.path()).unwrap(), [change(3), change(4)]);
        std::fs::write(&path, format!("{{\"at\":\n{text}")).unwrap();
        let error = read::<Moment>(folder.path()).unwrap_err().to_string();
        assert!(error.contains("changes.jsonl: line 1: is not a JSON object"), "{error}");
    }

    #[test]
    fn a_difference_is_named_field_by_field() {
        let old = config();
        let new = set(&old, &["ppo.gamma=0.9", "preferences.labels=7"]);
        assert_eq!(misfit(&old.to_toml(), std::slice::from_ref(&old)), None);
        assert_eq!(misfit(&old.to_toml(), &[new.clone(), old.clone()]), None);
        let found = misfit(&old.to_toml(), &[new]).unwrap();
        let expected = "ppo.gamma: the checkpoint was made with 0.99, config.toml says 0.9; \
                        preferences.labels: the checkpoint was made with 350, config.toml says 7";
        assert_eq!(found, expected);
        // Of another version: only what both have is compared.
        let mut stored = old.to_table();
        stored.remove("checkpoint_every");
        stored.insert("gone".to_owned(), 1.into());
        assert_eq!(misfit(&toml::to_string(&stored).unwrap(), std::slice::from_ref(&old)), None);
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        // `date -u -d @N`.
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(4_107_542_399), "2100-02-28T23:59:59Z");
    }
}
