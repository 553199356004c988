//! Running statistics, and what is normalised with them.

use serde::{Deserialize, Serialize};

/// Mean and variance of a stream of vectors, merged batch by batch (Chan et al. 1979), in f64.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunningMoments {
    /// Vectors seen.
    pub count: f64,
    /// Mean of each element.
    pub mean: Vec<f64>,
    /// Sum of squared deviations of each element.
    pub squares: Vec<f64>,
}

impl RunningMoments {
    /// Statistics before any data: normalising with them changes nothing.
    #[must_use]
    pub fn new(len: usize) -> Self {
        Self { count: 0.0, mean: vec![0.0; len], squares: vec![0.0; len] }
    }

    /// Takes in a batch.
    ///
    /// # Shapes
    /// - `batch`: `[n, len]`, row-major
    pub fn update(&mut self, batch: &[f32]) {
        let len = self.mean.len();
        let rows = batch.len() / len.max(1);
        if rows == 0 {
            return;
        }
        let n = rows as f64;
        for i in 0..len {
            let column = || batch.iter().skip(i).step_by(len).map(|&x| f64::from(x));
            let mean = column().sum::<f64>() / n;
            let squares = column().map(|x| (x - mean) * (x - mean)).sum::<f64>();
            let delta = mean - self.mean[i];
            let total = self.count + n;
            self.mean[i] += delta * n / total;
            self.squares[i] += squares + delta * delta * self.count * n / total;
        }
        self.count += n;
    }

    /// Standard deviation of each element; 1 before any data and for constants.
    #[must_use]
    pub fn std(&self) -> Vec<f64> {
        (0..self.squares.len()).map(|column| self.std_of(column)).collect()
    }

    /// (x − mean) / std, clipped to ±10 as in the PPO code base.
    ///
    /// # Shapes
    /// - `values`: `[n, len]`; the same is returned
    #[must_use]
    pub fn normalize(&self, values: &[f32]) -> Vec<f32> {
        let mut normalized = Vec::new();
        self.normalize_into(values, &mut normalized);
        normalized
    }

    /// [`Self::normalize`] into a buffer that is used again.
    pub fn normalize_into(&self, values: &[f32], normalized: &mut Vec<f32>) {
        normalized.clear();
        normalized.extend_from_slice(values);
        if self.count == 0.0 {
            return;
        }
        let len = self.mean.len();
        for column in 0..len {
            let (mean, std) = (self.mean[column], self.std_of(column));
            for x in normalized.iter_mut().skip(column).step_by(len) {
                *x = ((f64::from(*x) - mean) / std).clamp(-10.0, 10.0) as f32;
            }
        }
    }

    fn std_of(&self, column: usize) -> f64 {
        let std = (self.squares[column] / self.count.max(1.0)).sqrt();
        if std > 1e-6 { std } else { 1.0 }
    }
}

/// Scales rewards by the running standard deviation of discounted returns, so that values are of order one whatever
/// the task's unit of reward (Engstrom et al. 2020, arXiv 2005.12729). The mean is left alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReturnScaler {
    /// Discounted return so far of each environment.
    pub returns: Vec<f64>,
    /// Their statistics.
    pub moments: RunningMoments,
}

impl ReturnScaler {
    /// For `envs` environments.
    #[must_use]
    pub fn new(envs: usize) -> Self {
        Self { returns: vec![0.0; envs], moments: RunningMoments::new(1) }
    }

    /// Takes in a rollout's rewards and scales them.
    ///
    /// # Shapes
    /// - `rewards`, `done`: `[envs, steps]`, environment-major
    pub fn scale(&mut self, rewards: &mut [f64], done: &[bool], gamma: f64) {
        let envs = self.returns.len();
        let steps = rewards.len() / envs.max(1);
        let mut seen = Vec::with_capacity(rewards.len());
        for env in 0..envs {
            for i in env * steps..(env + 1) * steps {
                self.returns[env] = self.returns[env] * gamma + rewards[i];
                seen.push(self.returns[env] as f32);
                if done[i] {
                    self.returns[env] = 0.0;
                }
            }
        }
        self.moments.update(&seen);
        let std = self.moments.std()[0];
        for reward in rewards {
            *reward = (*reward / std).clamp(-10.0, 10.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ReturnScaler, RunningMoments};

    #[test]
    fn moments_do_not_depend_on_how_the_stream_is_cut() {
        let data: Vec<f32> = (0..60).map(|i| ((i * 37 % 17) as f32).sqrt() + 100.0).collect();
        let mut whole = RunningMoments::new(3);
        whole.update(&data);
        let mut parts = RunningMoments::new(3);
        for part in [&data[..9], &data[9..12], &data[12..]] {
            parts.update(part);
        }
        for i in 0..3 {
            assert!((whole.mean[i] - parts.mean[i]).abs() < 1e-12 && (whole.std()[i] - parts.std()[i]).abs() < 1e-12);
        }
        let rows: Vec<f64> = whole.normalize(&data).iter().skip(1).step_by(3).map(|&x| f64::from(x)).collect();
        let mean = rows.iter().sum::<f64>() / 20.0;
        let variance = rows.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / 20.0;
        assert!(mean.abs() < 1e-6 && (variance - 1.0).abs() < 1e-6);
    }

    #[test]
    fn scaled_rewards_keep_their_sign_and_forget_the_unit() {
        let rewards: Vec<f64> = (0..40).map(|i| f64::from(i % 7) - 5.0).collect();
        let done: Vec<bool> = (0..40).map(|i| i % 10 == 9).collect();
        let (mut small, mut large) = (rewards.clone(), rewards.iter().map(|r| r * 1000.0).collect::<Vec<_>>());
        ReturnScaler::new(2).scale(&mut small, &done, 0.9);
        ReturnScaler::new(2).scale(&mut large, &done, 0.9);
        for ((s, l), r) in small.iter().zip(&large).zip(&rewards) {
            assert!((s - l).abs() < 1e-3 && s.signum() * r.signum() >= 0.0);
        }
    }
}
