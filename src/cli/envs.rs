//! `envs`: the list of environments; `envs rollout`: one of them stepped from a given state with given actions.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use pairwise_envs::{Action, EnvSpec, Space};
use serde::Serialize;
use serde_json::Value;

use super::failure::Failure;
use super::flags::JsonArgs;
use super::screen::{print_line, print_table};
use crate::finite;

/// Arguments of `envs`.
#[derive(Debug, Args)]
pub(crate) struct EnvsArgs {
    #[command(subcommand)]
    command: Option<EnvsCommand>,
    #[command(flatten)]
    json: JsonArgs,
}

#[derive(Debug, Subcommand)]
enum EnvsCommand {
    /// Set the internal state, apply actions, and return what happened; stops at the first termination
    Rollout(RolloutArgs),
}

#[derive(Debug, Args)]
struct RolloutArgs {
    /// Environment
    env: String,
    /// Physical state to start from, as a JSON list of numbers; `pairwise envs --json` names them
    #[arg(long, value_name = "JSON")]
    state: String,
    /// JSON file with a list of actions: numbers for discrete ones, lists of numbers for continuous ones
    #[arg(long, value_name = "FILE")]
    actions: PathBuf,
    #[command(flatten)]
    json: JsonArgs,
}

/// What `envs rollout` prints.
#[derive(Debug, Serialize)]
struct Rollout {
    env: String,
    observations: Vec<Vec<f32>>,
    rewards: Vec<f64>,
    terminated: Vec<bool>,
    truncated: Vec<bool>,
    states: Vec<Vec<f64>>,
}

#[derive(Debug, Serialize)]
struct ListedEnv {
    id: &'static str,
    summary: &'static str,
    observation: usize,
    action: String,
    state: &'static [&'static str],
    dt: f64,
    horizon: usize,
    terminates: bool,
}

pub(crate) fn envs(args: &EnvsArgs) -> Result<(), Failure> {
    match &args.command {
        Some(EnvsCommand::Rollout(rollout_args)) => rollout(rollout_args),
        None => {
            list(&args.json);
            Ok(())
        }
    }
}

fn list(json: &JsonArgs) {
    let listed = |spec: &'static EnvSpec| ListedEnv {
        id: spec.id,
        summary: spec.summary,
        observation: spec.observation.len(),
        action: describe(&spec.action),
        state: spec.state,
        dt: spec.dt,
        horizon: spec.horizon,
        terminates: spec.terminates,
    };
    let all: Vec<ListedEnv> = pairwise_envs::specs().map(listed).collect();
    let row = |env: &ListedEnv| {
        let [observation, horizon] = [env.observation, env.horizon].map(|count| count.to_string());
        let ends = if env.terminates { "early" } else { "never" };
        vec![env.id.to_owned(), observation, env.action.clone(), horizon, ends.to_owned(), env.summary.to_owned()]
    };
    print_table(&["environment", "obs", "action", "steps", "ends", "what it is"], all.iter().map(row));
    json.print(&serde_json::json!({ "environments": all }));
}

fn describe(space: &Space) -> String {
    match space {
        Space::Discrete { n } => format!("{n} choices"),
        Space::Box { low, .. } => format!("{} real", low.len()),
    }
}

fn rollout(args: &RolloutArgs) -> Result<(), Failure> {
    let mut env = pairwise_envs::make(&args.env)?;
    let spec = env.spec();
    let state: Vec<f64> = serde_json::from_str(&args.state)
        .map_err(|e| Failure::usage(format!("--state: expected a JSON list of numbers ({e})")))?;
    env.load(&state)?;
    let actions = read_actions(&args.actions, &spec.action)?;
    let mut result = Rollout {
        env: spec.id.to_owned(),
        observations: Vec::new(),
        rewards: Vec::new(),
        terminated: Vec::new(),
        truncated: Vec::new(),
        states: Vec::new(),
    };
    let mut observation = vec![0.0; spec.observation.len()];
    let mut saved = vec![0.0; spec.saved_len];
    for action in &actions {
        let action = match &spec.action {
            Space::Discrete { .. } => Action::Discrete(action[0] as usize),
            Space::Box { .. } => Action::Continuous(action),
        };
        let step = env.step(action, &mut observation);
        env.save(&mut saved);
        let numbers = saved.iter().copied().chain(observation.iter().map(|&x| f64::from(x))).chain([step.reward]);
        if finite::first(numbers).is_some() {
            let variables = spec.state.iter().zip(&saved).map(|(name, value)| format!("{name} = {value:e}"));
            return Err(Failure::negative(format!(
                "{}: step {} leads to a state that cannot be computed ({}): begin nearer to usual states, or act less",
                spec.id,
                result.rewards.len() + 1,
                variables.collect::<Vec<_>>().join(", ")
            )));
        }
        result.observations.push(observation.clone());
        result.rewards.push(step.reward);
        result.terminated.push(step.terminated);
        result.truncated.push(step.truncated);
        result.states.push(saved[..spec.state.len()].to_vec());
        if step.terminated {
            break;
        }
    }
    let total: f64 = result.rewards.iter().sum();
    print_line(&format!("{}: {} steps, return {total}", spec.id, result.rewards.len()));
    args.json.print(&result);
    Ok(())
}

/// A list of actions, each as numbers; a discrete one is a single whole number.
fn read_actions(path: &Path, space: &Space) -> Result<Vec<Vec<f32>>, Failure> {
    let at = |message: String| Failure::usage(format!("{}: {message}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| at(e.to_string()))?;
    let values: Vec<Value> =
        serde_json::from_str(&text).map_err(|e| at(format!("expected a JSON list of actions ({e})")))?;
    let parse = |(i, value): (usize, &Value)| {
        let expected = match space {
            Space::Discrete { n } => format!("a whole number from 0 to {}", n - 1),
            Space::Box { low, .. } => format!("a list of {} finite numbers", low.len()),
        };
        let wrong = || at(format!("action {i}: expected {expected}, found {value}"));
        match space {
            Space::Discrete { n } => {
                let index = value.as_u64().filter(|&index| index < *n as u64).ok_or_else(wrong)?;
                Ok(vec![index as f32])
            }
            Space::Box { low, .. } => {
                let numbers = value.as_array().filter(|a| a.len() == low.len()).ok_or_else(wrong)?;
                let number = |v: &Value| v.as_f64().map(|v| v as f32).filter(|v| v.is_finite()).ok_or_else(wrong);
                numbers.iter().map(number).collect()
            }
        }
    };
    values.iter().enumerate().map(parse).collect()
}
