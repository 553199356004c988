//! Writes a run's whole state to a file, and reads it back.

use std::collections::VecDeque;

use burn::tensor::{Device, Tensor};
use pairwise_envs::{EnvSpec, Space, VecEnvState};
use serde::{Deserialize, Serialize};

use crate::control::config::Config;
use crate::control::drlhp::{self, Compared, Reference, Run, Segment};
use crate::control::reward::ensemble::Scale;
use crate::control::rl::normalize::RunningMoments;
use crate::control::rl::ppo::Rollout;
use crate::disk::archive::{Archive, ArchiveError};
use crate::nn::{Adam, constant, to_host};
use crate::preference::{Label, Repeat, Why};

/// Everything of a run but its configuration.
#[must_use]
pub fn to_archive(run: &Run) -> Archive {
    let Run {
        config: _,
        iteration,
        env_steps,
        envs,
        agent,
        ensemble,
        scaler,
        recent,
        reference,
        pending,
        comparisons,
        labels_asked,
        sessions,
        fitted,
        disagreement,
        segment_returns,
        episode_returns,
        unfitted,
    } = run;
    let mut archive = Archive::default();
    for (name, tensor) in drlhp::named_weights(run) {
        archive.put_f32(name, &tensor.dims(), &to_host(tensor.clone()));
    }
    put_adam(&mut archive, "agent", &agent.optimizer);
    for (i, member) in ensemble.members.iter().enumerate() {
        put_adam(&mut archive, &format!("reward.{i}"), &member.optimizer);
    }
    archive.put("iteration", iteration);
    archive.put("env_steps", env_steps);
    archive.put("labels_asked", labels_asked);
    archive.put("sessions", sessions);
    archive.put("unfitted", unfitted);
    archive.put("fitted", fitted);
    archive.put("disagreement", disagreement);
    put_numbers(&mut archive, "episode_returns", &episode_returns.iter().copied().collect::<Vec<f64>>());
    put_moments(&mut archive, "segment_returns", segment_returns);
    put_moments(&mut archive, "observations", &agent.observations);
    put_moments(&mut archive, "reward_inputs", &ensemble.inputs);
    put_moments(&mut archive, "scaler", &scaler.moments);
    put_numbers(&mut archive, "scaler.returns", &scaler.returns);
    put_numbers(&mut archive, "l2", &ensemble.members.iter().map(|m| m.l2).collect::<Vec<f64>>());
    let scales = ensemble.member_scale.iter().chain([&ensemble.average_scale]);
    put_numbers(&mut archive, "scales", &scales.flat_map(|s| [s.mean, s.std]).collect::<Vec<f64>>());
    let state = envs.snapshot();
    put_numbers(&mut archive, "envs.states", &state.states);
    put_numbers(&mut archive, "envs.returns", &state.returns);
    archive.put("envs.episodes", &state.episodes);
    archive.put("envs.lengths", &state.lengths);
    archive.put("recent", &recent.len());
    for (i, rollout) in recent.iter().enumerate() {
        put_rollout(&mut archive, &format!("recent.{i}"), rollout);
    }
    archive.put("reference.seen", &reference.seen);
    put_floats(&mut archive, "reference.observations", &reference.observations);
    put_floats(&mut archive, "reference.actions", &reference.actions);
    put_floats(&mut archive, "reference.next_observations", &reference.next_observations);
    put_numbers(&mut archive, "reference.states", &reference.states);
    put_numbers(&mut archive, "reference.true_rewards", &reference.true_rewards);
    archive.put("pending", &pending.len());
    let entries: Vec<Entry> = comparisons.iter().chain(pending).map(Entry::of).collect();
    archive.put("comparisons", &entries);
    let segments: Vec<&Segment> = comparisons.iter().chain(pending).flat_map(|c| [&c.first, &c.second]).collect();
    fn joined<T: Copy>(segments: &[&Segment], field: fn(&Segment) -> &[T]) -> Vec<T> {
        segments.iter().flat_map(|&segment| field(segment)).copied().collect()
    }
    put_floats(&mut archive, "segments.observations", &joined(&segments, |s| &s.observations));
    put_floats(&mut archive, "segments.actions", &joined(&segments, |s| &s.actions));
    put_numbers(&mut archive, "segments.states", &joined(&segments, |s| &s.states));
    put_numbers(&mut archive, "segments.true_rewards", &joined(&segments, |s| &s.true_rewards));
    archive
}

/// The run that [`to_archive`] wrote.
///
/// # Errors
/// [`ArchiveError::Entry`] when the checkpoint does not fit the configuration, e.g. networks of another size.
pub fn from_archive(archive: &Archive, config: Config, device: &Device) -> Result<Run, ArchiveError> {
    let misfit = |what: &str, reason: String| ArchiveError::entry(what, "what config.toml describes", reason);
    let mut run = drlhp::start(config, device).map_err(|e| misfit("env", e.to_string()))?;

    let weights = |prefix: &str, named: Vec<(String, Tensor<3>)>| -> Result<Vec<Tensor<3>>, ArchiveError> {
        let read = |(name, fresh): (String, Tensor<3>)| {
            Ok(constant(&archive.f32(&format!("{prefix}{name}"), &fresh.dims())?, fresh.dims(), device))
        };
        named.into_iter().map(read).collect()
    };
    let parameters = weights("", run.agent.named())?;
    run.agent.set_named(parameters);
    run.agent.optimizer = adam(archive, "agent", &[&run.agent.parameters], device, &run.agent.optimizer)?;
    for (i, member) in run.ensemble.members.iter_mut().enumerate() {
        let network = weights(&format!("reward.{i}."), member.network.named())?;
        member.network.set_named(network);
        let parameters = &member.network.parameters;
        member.optimizer = adam(archive, &format!("reward.{i}"), &[parameters], device, &member.optimizer)?;
    }

    run.iteration = archive.get("iteration")?;
    // Older checkpoints do not have it.
    run.unfitted = archive.get("unfitted").unwrap_or_default();
    run.env_steps = archive.get("env_steps")?;
    run.labels_asked = archive.get("labels_asked")?;
    run.sessions = archive.get("sessions")?;
    run.fitted = archive.get("fitted")?;
    run.disagreement = archive.get("disagreement")?;
    run.episode_returns = VecDeque::from(archive.f64_any("episode_returns")?);
    run.segment_returns = moments(archive, "segment_returns", run.segment_returns.mean.len())?;
    run.agent.observations = moments(archive, "observations", run.agent.observations.mean.len())?;
    run.ensemble.inputs = moments(archive, "reward_inputs", run.ensemble.inputs.mean.len())?;
    run.scaler.moments = moments(archive, "scaler", run.scaler.moments.mean.len())?;
    run.scaler.returns = archive.f64_any("scaler.returns")?;
    for (member, l2) in run.ensemble.members.iter_mut().zip(archive.f64_any("l2")?) {
        member.l2 = l2;
    }
    let scales: Vec<Scale> =
        archive.f64_any("scales")?.chunks_exact(2).map(|s| Scale { mean: s[0], std: s[1] }).collect();
    let (average, members) =
        scales.split_last().filter(|(_, members)| members.len() == run.ensemble.members.len()).ok_or_else(|| {
            misfit("scales", format!("{} entries for {} members", scales.len(), run.ensemble.members.len()))
        })?;
    run.ensemble.member_scale = members.to_vec();
    run.ensemble.average_scale = *average;
    let state = VecEnvState {
        states: archive.f64_any("envs.states")?,
        returns: archive.f64_any("envs.returns")?,
        episodes: archive.get("envs.episodes")?,
        lengths: archive.get("envs.lengths")?,
    };
    run.envs.restore(&state).map_err(|e| misfit("envs", e.to_string()))?;
    let task = pairwise_envs::make(&run.config.env).map_err(|e| misfit("env", e.to_string()))?;
    let widths = Widths::of(task.spec());
    let recent: usize = archive.get("recent")?;
    if recent == 0 && run.env_steps > 0 {
        return Err(misfit("recent", "no rollout, though steps were taken".to_owned()));
    }
    let least = run.config.preferences.segment_steps;
    run.recent =
        (0..recent).map(|i| rollout(archive, &format!("recent.{i}"), &widths, least)).collect::<Result<_, _>>()?;
    let true_rewards = archive.f64_any("reference.true_rewards")?;
    let (seen, count): (usize, usize) = (archive.get("reference.seen")?, true_rewards.len());
    if seen < count {
        return Err(misfit("reference.seen", format!("{seen} transitions, of which {count} are kept")));
    }
    run.reference = Reference {
        seen,
        observations: floats(archive, "reference.observations", count * widths.observation)?,
        actions: floats(archive, "reference.actions", count * widths.features)?,
        next_observations: floats(archive, "reference.next_observations", count * widths.observation)?,
        states: numbers(archive, "reference.states", count * widths.saved)?,
        true_rewards,
    };
    let entries: Vec<Entry> = archive.get("comparisons")?;
    let pending: usize = archive.get("pending")?;
    let answered = entries
        .len()
        .checked_sub(pending)
        .ok_or_else(|| misfit("pending", format!("{pending} open questions of {} in all", entries.len())))?;
    let true_rewards = archive.f64_any("segments.true_rewards")?;
    let count = true_rewards.len();
    if count % (2 * entries.len()).max(1) != 0 || (count == 0) != entries.is_empty() {
        let found = format!("{count} steps of the clips of {} questions", entries.len());
        return Err(misfit("segments.true_rewards", found));
    }
    let observations = floats(archive, "segments.observations", count * widths.observation)?;
    let actions = floats(archive, "segments.actions", count * widths.features)?;
    let states = numbers(archive, "segments.states", count * widths.saved)?;
    let segment = |i: usize| Segment {
        observations: piece(&observations, i, 2 * entries.len()),
        actions: piece(&actions, i, 2 * entries.len()),
        states: piece(&states, i, 2 * entries.len()),
        true_rewards: piece(&true_rewards, i, 2 * entries.len()),
    };
    let compared = |(i, entry): (usize, &Entry)| {
        let Entry { query, label, step, why, repeat } = *entry;
        Compared { query, first: segment(2 * i), second: segment(2 * i + 1), label, step, why, repeat }
    };
    run.comparisons = entries.iter().enumerate().map(compared).collect();
    run.pending = run.comparisons.split_off(answered).into();
    Ok(run)
}

/// A comparison without its clips.
#[derive(Serialize, Deserialize)]
struct Entry {
    query: u64,
    label: Label,
    step: usize,
    why: Option<Why>,
    repeat: Option<Repeat>,
}

impl Entry {
    fn of(compared: &Compared) -> Self {
        let Compared { query, label, step, why, repeat, first: _, second: _ } = *compared;
        Self { query, label, step, why, repeat }
    }
}

/// Part `i` of `parts` equal ones.
fn piece<T: Clone>(all: &[T], i: usize, parts: usize) -> Vec<T> {
    let len = all.len() / parts;
    all[i * len..(i + 1) * len].to_vec()
}

fn put_floats(archive: &mut Archive, name: &str, values: &[f32]) {
    archive.put_f32(name, &[values.len()], values);
}

fn put_numbers(archive: &mut Archive, name: &str, values: &[f64]) {
    archive.put_f64(name, &[values.len()], values);
}

pub(crate) fn put_moments(archive: &mut Archive, name: &str, moments: &RunningMoments) {
    // Not as JSON: decimal text would have to round-trip every f64 exactly, arrays do so by construction.
    put_numbers(archive, &format!("{name}.mean"), &moments.mean);
    put_numbers(archive, &format!("{name}.squares"), &moments.squares);
    put_numbers(archive, &format!("{name}.count"), &[moments.count]);
}

/// Statistics of vectors of this length, whose numbers were already checked to be finite.
pub(crate) fn moments(archive: &Archive, name: &str, len: usize) -> Result<RunningMoments, ArchiveError> {
    let read = |part: &str, len: usize| {
        let name = format!("{name}.{part}");
        let values = numbers(archive, &name, len)?;
        match values.iter().find(|value| part != "mean" && **value < 0.0) {
            Some(value) => Err(ArchiveError::entry(&name, "numbers from 0 on", value.to_string())),
            None => Ok(values),
        }
    };
    Ok(RunningMoments { count: read("count", 1)?[0], mean: read("mean", len)?, squares: read("squares", len)? })
}

fn put_adam(archive: &mut Archive, name: &str, adam: &Adam) {
    archive.put(&format!("{name}.adam.steps"), &adam.steps);
    for (i, (first, second)) in adam.first.iter().zip(&adam.second).enumerate() {
        archive.put_f32(format!("{name}.adam.{i}.first"), &first.dims(), &to_host(first.clone()));
        archive.put_f32(format!("{name}.adam.{i}.second"), &second.dims(), &to_host(second.clone()));
    }
}

fn adam(
    archive: &Archive,
    name: &str,
    parameters: &[&Tensor<2>],
    device: &Device,
    fresh: &Adam,
) -> Result<Adam, ArchiveError> {
    let mut adam = Adam { steps: archive.get(&format!("{name}.adam.steps"))?, ..Adam::new(fresh.config) };
    if adam.steps > 0 {
        for (i, parameter) in parameters.iter().enumerate() {
            let shape = parameter.dims();
            let moment = |which: &str| -> Result<Tensor<2>, ArchiveError> {
                Ok(constant(&archive.f32(&format!("{name}.adam.{i}.{which}"), &shape)?, shape, device))
            };
            adam.first.push(moment("first")?);
            adam.second.push(moment("second")?);
        }
    }
    Ok(adam)
}

fn put_rollout(archive: &mut Archive, name: &str, rollout: &Rollout) {
    // Log-probabilities, next observations and finished returns belong to the update that is over.
    archive.put(&format!("{name}.shape"), &(rollout.envs, rollout.steps));
    archive.put(&format!("{name}.done"), &done_steps(&rollout.done));
    put_floats(archive, &format!("{name}.observations"), &rollout.observations);
    put_floats(archive, &format!("{name}.actions"), &rollout.actions);
    put_numbers(archive, &format!("{name}.states"), &rollout.states);
    put_numbers(archive, &format!("{name}.true_rewards"), &rollout.true_rewards);
}

fn done_steps(done: &[bool]) -> Vec<usize> {
    done.iter().enumerate().filter(|(_, done)| **done).map(|(i, _)| i).collect()
}

/// How many numbers of each kind belong to a step.
struct Widths {
    observation: usize,
    /// Of an action as it was drawn.
    action: usize,
    /// Of an action as networks see it.
    features: usize,
    saved: usize,
}

impl Widths {
    fn of(spec: &EnvSpec) -> Self {
        let (action, features) = match &spec.action {
            // Networks see it one-hot.
            Space::Discrete { n } => (1, *n),
            Space::Box { low, .. } => (low.len(), low.len()),
        };
        Self { observation: spec.observation.len(), action, features, saved: spec.saved_len }
    }
}

/// An array of this length.
fn floats(archive: &Archive, name: &str, len: usize) -> Result<Vec<f32>, ArchiveError> {
    sized(name, archive.f32_any(name)?, len)
}

/// An array of this length, in double precision.
fn numbers(archive: &Archive, name: &str, len: usize) -> Result<Vec<f64>, ArchiveError> {
    sized(name, archive.f64_any(name)?, len)
}

/// The values, if there are as many as expected.
fn sized<T>(name: &str, values: Vec<T>, expected: usize) -> Result<Vec<T>, ArchiveError> {
    match values.len() == expected {
        true => Ok(values),
        false => Err(ArchiveError::entry(name, format!("{expected} numbers"), format!("{} numbers", values.len()))),
    }
}

/// A rollout of at least `least` steps in each environment.
fn rollout(archive: &Archive, name: &str, widths: &Widths, least: usize) -> Result<Rollout, ArchiveError> {
    let of = |part: &str| format!("{name}.{part}");
    let (envs, steps): (usize, usize) = archive.get(&of("shape"))?;
    let true_rewards = archive.f64_any(&of("true_rewards"))?;
    let count = true_rewards.len();
    let wrong = |part: &str, expected: String, found: String| ArchiveError::entry(&of(part), expected, found);
    // Checked before memory is asked for.
    if envs.checked_mul(steps) != Some(count) || count == 0 || steps < least {
        let expected = format!("{count} steps in all, {least} or more of each environment");
        return Err(wrong("shape", expected, format!("{steps} steps of {envs} environments")));
    }
    let mut done = vec![false; count];
    for i in archive.get::<Vec<usize>>(&of("done"))? {
        *done.get_mut(i).ok_or_else(|| wrong("done", format!("numbers below {count}"), i.to_string()))? = true;
    }
    Ok(Rollout {
        envs,
        steps,
        observations: floats(archive, &of("observations"), count * widths.observation)?,
        actions: floats(archive, &of("actions"), count * widths.action)?,
        states: numbers(archive, &of("states"), count * widths.saved)?,
        true_rewards,
        done,
        ..Rollout::default()
    })
}
