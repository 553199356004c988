//! How much better an action was than expected: what PPO of agents and of language models learn from.

/// Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438, eq. 16):
/// Âₜ = δₜ + γλ·Âₜ₊₁ with δₜ = rₜ + γ·V(sₜ₊₁) − V(sₜ).
///
/// A terminated step has no value beyond it; a time limit only cuts the sum, the value of the state it reached still
/// counts, so `next_values` are those of the states *before* any reset.
///
/// # Shapes
/// - `rewards`, `values`, `next_values`, `terminated`, `done`: `[envs, steps]`, environment-major
/// - returns advantages, `[envs, steps]`
#[must_use]
pub fn gae(
    rewards: &[f64],
    values: &[f32],
    next_values: &[f32],
    terminated: &[bool],
    done: &[bool],
    steps: usize,
    gamma: f64,
    lambda: f64,
) -> Vec<f32> {
    let mut advantages = vec![0.0; rewards.len()];
    for start in (0..rewards.len()).step_by(steps.max(1)) {
        let mut next_advantage = 0.0;
        for i in (start..start + steps).rev() {
            let next_value = if terminated[i] { 0.0 } else { f64::from(next_values[i]) };
            let delta = rewards[i] + gamma * next_value - f64::from(values[i]);
            let carried = if done[i] { 0.0 } else { next_advantage };
            next_advantage = delta + gamma * lambda * carried;
            advantages[i] = next_advantage as f32;
        }
    }
    advantages
}

#[cfg(test)]
mod tests {
    use super::gae;

    /// Two environments of six steps; the first ends in its third step, the second is cut off after its second and ends
    /// in its last. Expected: `compute_returns_and_advantage` of Stable-Baselines3 2.2.1, whose rollouts add
    /// γ·V(state reached) to the reward of a step that was cut off.
    #[test]
    fn advantages_agree_with_stable_baselines() {
        let rewards = [1.0, -0.5, 0.25, 2.0, 0.0, 1.0, 0.5, 1.5, -1.0, 0.0, 1.0, -2.0];
        let values = [0.1, 0.4, -0.3, 0.8, 0.2, -0.6, 1.0, 0.3, 0.7, -0.2, 0.9, 0.5];
        // 9.9 is the value of a state after the end, which must not count.
        let next_values = [0.4, -0.3, 9.9, 0.2, -0.6, 0.35, 0.3, -0.45, -0.2, 0.9, 0.5, 9.9];
        let (mut terminated, mut done) = ([false; 12], [false; 12]);
        for i in [2, 11] {
            (terminated[i], done[i]) = (true, true);
        }
        done[7] = true;
        let found = gae(&rewards, &values, &next_values, &terminated, &done, 6, 0.9, 0.8);
        let expected = [0.702_72, -0.774, 0.55, 1.839_936, 0.638_8, 1.915, 0.342_4, 0.795, -1.800_8, 0.11, -1.25, -2.5];
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }
}
