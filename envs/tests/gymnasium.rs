//! The ports of Gymnasium's tasks against rollouts of Gymnasium itself: observations within 1e-5, rewards within 1e-4
//! relative, the same terminations to the last step.
//!
//! `data/gymnasium.json` was made by `data/gymnasium.py`. Longer rollouts lie beside the project: a test that is ignored
//! without them replays those as well.

use std::path::Path;

use pairwise_envs::{Action, Space, make};
use serde_json::Value;

fn numbers(value: &Value) -> Vec<f64> {
    let all = value.as_array().expect("a list of numbers");
    all.iter().map(|v| v.as_f64().expect("a number")).collect()
}

fn list<'a>(rollout: &'a Value, key: &str) -> &'a Vec<Value> {
    rollout[key].as_array().unwrap_or_else(|| panic!("{key} is a list"))
}

/// Replays one rollout; returns its number of steps.
fn replay(id: &str, rollout: &Value) -> usize {
    let mut env = make(id).expect("Gymnasium's classic control is ported");
    env.load(&numbers(&rollout["initial_state"])).expect("Gymnasium's state is ours");
    let mut observation = vec![0.0; env.spec().observation.len()];
    for (t, action) in list(rollout, "actions").iter().enumerate() {
        let step = match env.spec().action {
            Space::Discrete { .. } => {
                env.step(Action::Discrete(action.as_u64().expect("an index") as usize), &mut observation)
            }
            Space::Box { .. } => {
                let values: Vec<f32> = numbers(action).iter().map(|&a| a as f32).collect();
                env.step(Action::Continuous(&values), &mut observation)
            }
        };
        for (found, expected) in observation.iter().zip(numbers(&list(rollout, "observations")[t])) {
            let error = (f64::from(*found) - expected).abs();
            assert!(error <= 1e-5, "{id} step {t}: observation {found} instead of {expected}");
        }
        let expected = list(rollout, "rewards")[t].as_f64().expect("a reward");
        let error = (step.reward - expected).abs();
        assert!(error <= 1e-4 * expected.abs(), "{id} step {t}: reward {} instead of {expected}", step.reward);
        assert_eq!(Value::from(step.terminated), list(rollout, "terminated")[t], "{id} step {t}");
    }
    list(rollout, "actions").len()
}

#[test]
fn short_rollouts_are_reproduced() {
    let data: Value = serde_json::from_str(include_str!("data/gymnasium.json")).expect("valid JSON");
    let tasks = list(&data, "tasks");
    assert_eq!(tasks.len(), 5);
    let mut ended = 0;
    for task in tasks {
        for rollout in list(task, "rollouts") {
            replay(task["env_id"].as_str().expect("a name"), rollout);
            ended += usize::from(list(rollout, "terminated").iter().any(|t| t == true));
        }
    }
    assert!(ended >= 3, "some of the rollouts must reach an end: {ended}");
}

#[test]
#[ignore = "needs ../shared/data/gymnasium"]
fn shared_rollouts_are_reproduced() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/gymnasium");
    let mut steps = 0;
    for entry in std::fs::read_dir(&folder).expect("the shared data lie beside the project") {
        let text = std::fs::read_to_string(entry.expect("readable").path()).expect("readable");
        let data: Value = serde_json::from_str(&text).expect("valid JSON");
        let id = data["env_id"].as_str().expect("a name");
        steps += list(&data, "rollouts").iter().map(|rollout| replay(id, rollout)).sum::<usize>();
    }
    assert!(steps > 4000, "the shared rollouts have thousands of steps, found {steps}");
}
