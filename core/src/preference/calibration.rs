//! How good predicted preference probabilities are.
//!
//! Targets are the probability mass on the first: 1, 0, or ½ for "equal".

/// Share of decided comparisons (target not ½) whose better side got the higher probability; a prediction of exactly
/// ½ counts half. `None` without decided comparisons.
#[must_use]
pub fn accuracy(probabilities: &[f64], targets: &[f64]) -> Option<f64> {
    let mut decided = 0;
    let mut right = 0.0;
    for (&p, &t) in probabilities.iter().zip(targets).filter(|&(_, &t)| t != 0.5) {
        decided += 1;
        right += if p == 0.5 { 0.5 } else { f64::from(u8::from((p > 0.5) == (t > 0.5))) };
    }
    (decided > 0).then(|| right / f64::from(decided))
}

/// Expected calibration error (Guo et al. 2017, arXiv 1706.04599) over `bins` equal bins of `P[first]`:
/// Σ n_b/n·|mean target − mean probability|. `None` without comparisons.
#[must_use]
pub fn expected_calibration_error(probabilities: &[f64], targets: &[f64], bins: usize) -> Option<f64> {
    let mut gaps = vec![0.0; bins.max(1)];
    for (&p, &t) in probabilities.iter().zip(targets) {
        let bin = ((p * gaps.len() as f64) as usize).min(gaps.len() - 1);
        gaps[bin] += t - p;
    }
    let n = probabilities.len();
    (n > 0).then(|| gaps.iter().map(|gap: &f64| gap.abs()).sum::<f64>() / n as f64)
}

#[cfg(test)]
mod tests {
    use super::{accuracy, expected_calibration_error};

    #[test]
    fn hand_computed_values() {
        let (p, t) = ([0.9, 0.8, 0.3, 0.5, 0.6], [1.0, 0.0, 0.0, 1.0, 0.5]);
        assert_eq!(accuracy(&p, &t), Some(2.5 / 4.0));
        // Bins of a fifth: {.9, .8}, {.3}, {.5}, {.6}: |.1 − .8|, .3, .5, .1, over 5.
        assert!((expected_calibration_error(&p, &t, 5).unwrap() - 1.6 / 5.0).abs() < 1e-12);
        assert_eq!(accuracy(&[0.3], &[0.5]), None);
    }
}
