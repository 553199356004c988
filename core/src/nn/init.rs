//! Weight initialisation from our own random streams; burn's generator is global and never used.

use rand::RngExt as _;
use rand_distr::{Distribution as _, StandardNormal};

use crate::random::Rng;

/// An orthogonal matrix times `gain` (Saxe et al. 2014, arXiv 1312.6120), as used for PPO's networks.
///
/// Rows are orthonormal when `rows <= columns`, columns otherwise.
///
/// # Shapes
/// - returns `[rows, columns]`, row-major
#[must_use]
pub fn orthogonal(rows: usize, columns: usize, gain: f64, rng: &mut Rng) -> Vec<f32> {
    // Gram-Schmidt on Gaussian vectors gives a Haar-distributed frame; done twice it is orthogonal to rounding.
    let (count, length) = (rows.min(columns), rows.max(columns));
    let mut frame: Vec<Vec<f64>> = Vec::with_capacity(count);
    while frame.len() < count {
        let mut vector: Vec<f64> = (0..length).map(|_| StandardNormal.sample(rng)).collect();
        for _ in 0..2 {
            for other in &frame {
                let dot: f64 = vector.iter().zip(other).map(|(a, b)| a * b).sum();
                for (value, direction) in vector.iter_mut().zip(other) {
                    *value -= dot * direction;
                }
            }
        }
        let norm = vector.iter().map(|value| value * value).sum::<f64>().sqrt();
        // A vector that happens to lie in the span of the others is drawn again.
        if norm > 1e-6 {
            frame.push(vector.into_iter().map(|value| value / norm).collect());
        }
    }
    let at = |row: usize, column: usize| if rows <= columns { frame[row][column] } else { frame[column][row] };
    (0..rows * columns).map(|i| (gain * at(i / columns, i % columns)) as f32).collect()
}

/// PyTorch's default for linear layers: uniform in ±1/√fan_in, for weights and biases alike.
///
/// # Shapes
/// - returns `[count]`
#[must_use]
pub fn kaiming_uniform(count: usize, fan_in: usize, rng: &mut Rng) -> Vec<f32> {
    let bound = 1.0 / (fan_in.max(1) as f32).sqrt();
    (0..count).map(|_| rng.random_range(-bound..=bound)).collect()
}

#[cfg(test)]
mod tests {
    use super::orthogonal;
    use crate::random::stream;

    #[test]
    fn orthogonal_matrices_are_orthogonal_in_their_short_direction() {
        for (rows, columns) in [(3, 64), (64, 64), (64, 2), (1, 5)] {
            let gain = 1.7;
            let matrix = orthogonal(rows, columns, gain, &mut stream(1, "test", 0));
            let vector = |i: usize| -> Vec<f64> {
                if rows <= columns {
                    (0..columns).map(|c| f64::from(matrix[i * columns + c])).collect()
                } else {
                    (0..rows).map(|r| f64::from(matrix[r * columns + i])).collect()
                }
            };
            for i in 0..rows.min(columns) {
                for j in 0..rows.min(columns) {
                    let dot: f64 = vector(i).iter().zip(vector(j)).map(|(a, b)| a * b).sum();
                    let expected = if i == j { gain * gain } else { 0.0 };
                    assert!((dot - expected).abs() < 1e-5, "{rows}x{columns} ({i},{j}): {dot}");
                }
            }
        }
    }
}
