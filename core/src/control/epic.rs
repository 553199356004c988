//! How far a learned reward is from the true one, whatever shapes it: the EPIC distance.

use pairwise_envs::Env;
use rand::RngExt as _;

use crate::control::drlhp::Run;
use crate::preference::epic_distance;
use crate::random::stream;

/// Transitions whose canonical rewards are compared.
const EPIC_TRANSITIONS: usize = 512;
/// Actions drawn for the expectations inside the canonical reward.
const EPIC_ACTIONS: usize = 32;

/// EPIC distance between learned and true reward (Gleave et al. 2021, arXiv 2006.13900, def. 4.1–4.4), in 0..1.
///
/// C(R)(s, a, s') = R(s, a, s') + E[γR(s', A, S') − R(s, A, S') − γR(S, A, S')], with A drawn from the actions of the
/// reference transitions. Both rewards here depend on (s, a) alone, so S' drops out, and the last term is a constant,
/// to which the distance is blind. Loading a state into an environment and stepping it gives the true reward.
#[must_use]
pub fn epic(run: &Run) -> Option<f64> {
    let reference = &run.reference;
    let n = reference.true_rewards.len();
    let mut env = pairwise_envs::make(&run.config.env).ok()?;
    let spec = env.spec();
    let (obs, saved, act) = (spec.observation.len(), spec.saved_len, run.agent.head.outputs());
    if n == 0 || saved == 0 {
        return None;
    }
    let mut rng = stream(run.config.seed, "epic", 0);
    let rows: Vec<usize> = (0..EPIC_TRANSITIONS).map(|_| rng.random_range(0..n)).collect();
    let actions: Vec<usize> = (0..EPIC_ACTIONS).map(|_| rng.random_range(0..n)).collect();
    let action = |row: usize| &reference.actions[row * act..(row + 1) * act];

    // (state, action) points, row by row: (s, a), then (s', A) and (s, A) for every A.
    let mut truth = Vec::new();
    let mut observations = Vec::new();
    let mut features = Vec::new();
    let mut observation = vec![0.0; obs];
    let mut next_state = vec![0.0; saved];
    for &row in &rows {
        let state = &reference.states[row * saved..(row + 1) * saved];
        let mut point = |env: &mut dyn Env, state: &[f64], action: &[f32]| -> Option<()> {
            env.load(state).ok()?;
            env.observe(&mut observation);
            observations.extend_from_slice(&observation);
            features.extend_from_slice(action);
            truth.push(run.agent.head.step_one(env, action, &mut observation).reward);
            Some(())
        };
        point(env.as_mut(), state, action(row))?;
        env.save(&mut next_state);
        for &other in &actions {
            point(env.as_mut(), &next_state, action(other))?;
            point(env.as_mut(), state, action(other))?;
        }
    }
    let learned = run.ensemble.predict(&run.config.reward_model, &run.ensemble.features(&observations, &features));
    let gamma = run.config.ppo.gamma;
    let canonical = |rewards: &[f64]| -> Vec<f64> {
        let shape = |row: &[f64]| {
            let potential = row[1..].chunks(2).map(|pair| gamma * pair[0] - pair[1]).sum::<f64>();
            row[0] + potential / EPIC_ACTIONS as f64
        };
        rewards.chunks(1 + 2 * EPIC_ACTIONS).map(shape).collect()
    };
    epic_distance(&canonical(&learned), &canonical(&truth))
}
