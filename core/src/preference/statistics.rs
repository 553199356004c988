//! The few statistics that results are reported with.

use rand::RngExt as _;

use crate::random::Rng;

/// Mean; NaN without values.
#[must_use]
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Mean and variance of a sample: the squares are divided by n − 1, but never by 0.
#[must_use]
pub fn sample_variance(values: &[f64]) -> (f64, f64) {
    let (count, mean) = (values.len() as f64, mean(values));
    (mean, values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0))
}

/// Mean and standard deviation of all values that there are.
#[must_use]
pub fn deviation(values: &[f64]) -> (f64, f64) {
    let mean = mean(values);
    (mean, (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt())
}

/// Pearson's correlation; `None` when either is constant or there are fewer than two values.
#[must_use]
pub fn pearson(a: &[f64], b: &[f64]) -> Option<f64> {
    let n = a.len().min(b.len()) as f64;
    if n < 2.0 {
        return None;
    }
    let (mean_a, mean_b) = (a.iter().sum::<f64>() / n, b.iter().sum::<f64>() / n);
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        let (dx, dy) = (x - mean_a, y - mean_b);
        ab += dx * dy;
        aa += dx * dx;
        bb += dy * dy;
    }
    let scale = (aa * bb).sqrt();
    (scale > 0.0 && scale.is_finite()).then(|| (ab / scale).clamp(-1.0, 1.0))
}

/// Spearman's rank correlation, ties at their average rank; `None` as for [`pearson`], and where a value is NaN, which
/// has no rank.
#[must_use]
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    let ranked = !a.iter().chain(b).any(|value| value.is_nan());
    ranked.then(|| pearson(&ranks(a), &ranks(b)))?
}

/// EPIC distance of two canonically shaped rewards over the same transitions: √((1 − ρ) / 2), in 0..1 (Gleave et al.
/// 2021, arXiv 2006.13900, def. 4.4).
#[must_use]
pub fn epic_distance(canonical_a: &[f64], canonical_b: &[f64]) -> Option<f64> {
    pearson(canonical_a, canonical_b).map(|rho| ((1.0 - rho) / 2.0).sqrt())
}

/// Mean of the middle half (Agarwal et al. 2021, arXiv 2108.13264): a quarter of the values is cut off at either end,
/// rounded down, as `scipy.stats.trim_mean(x, 0.25)` does. NaN without values.
#[must_use]
pub fn interquartile_mean(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let cut = sorted.len() / 4;
    let middle = &sorted[cut..sorted.len() - cut];
    mean(middle)
}

/// The value at a quantile, rounded to the nearest of the values; `None` without values.
#[must_use]
pub fn quantile(values: impl Iterator<Item = f64>, share: f64) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get((sorted.len().saturating_sub(1) as f64 * share).round() as usize).copied()
}

/// 95 % interval of a share, from `successes` of `count` (Wilson 1927).
#[must_use]
pub fn wilson_interval(successes: usize, count: usize) -> [f64; 2] {
    /// The 97.5 % quantile of the normal distribution.
    const Z: f64 = 1.959_963_984_540_054;
    if count == 0 {
        return [0.0, 1.0];
    }
    let (n, share) = (count as f64, successes as f64 / count as f64);
    let centre = share + Z * Z / (2.0 * n);
    let half = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    [((centre - half) / scale).max(0.0), ((centre + half) / scale).min(1.0)]
}

/// 95 % interval of the mean of normal values, by Student's t; `None` for fewer than two. Meant for a handful of seeds:
/// a percentile bootstrap of three values ends at the smallest of them, and so misses a true mean of zero one time in
/// four.
#[must_use]
pub fn student_interval(values: &[f64]) -> Option<[f64; 2]> {
    /// 97.5 % quantiles of Student's t by degrees of freedom, from 1 on.
    const QUANTILES: [f64; 15] = [
        12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604,
        2.1448, 2.1314,
    ];
    let freedom = values.len().checked_sub(2)? + 1;
    let quantile = QUANTILES.get(freedom - 1).copied().unwrap_or_else(|| {
        // Abramowitz and Stegun 26.7.5, for z = 1.95996: right in the fourth digit from here on.
        let d = freedom as f64;
        1.959_964 + 2.372_27 / d + 2.822_5 / d.powi(2)
    });
    let (mean, variance) = sample_variance(values);
    let half = quantile * (variance / values.len() as f64).sqrt();
    Some([mean - half, mean + half])
}

/// Percentile bootstrap interval of a statistic; `None` for fewer than two values, of which all resamples are the same.
#[must_use]
pub fn bootstrap_interval(
    values: &[f64],
    statistic: fn(&[f64]) -> f64,
    confidence: f64,
    rng: &mut Rng,
) -> Option<[f64; 2]> {
    /// Enough for a 95 % interval stable to about 1 % of its width.
    const RESAMPLES: usize = 10_000;
    if values.len() < 2 {
        return None;
    }
    let mut resample = vec![0.0; values.len()];
    let mut statistics: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            resample.iter_mut().for_each(|slot| *slot = values[rng.random_range(0..values.len())]);
            statistic(&resample)
        })
        .collect();
    statistics.sort_by(f64::total_cmp);
    let at = |share: f64| statistics[((RESAMPLES - 1) as f64 * share).round() as usize];
    Some([at((1.0 - confidence) / 2.0), at((1.0 + confidence) / 2.0)])
}

/// Ranks from 0, ties at their average. Nothing is equal to NaN, not even itself, so that it stands alone.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let tied = order[start..].iter().take_while(|&&i| values[i] == values[order[start]]).count().max(1);
        for &i in &order[start..start + tied] {
            ranks[i] = start as f64 + (tied as f64 - 1.0) / 2.0;
        }
        start += tied;
    }
    ranks
}

#[cfg(test)]
mod tests {
    /// Expected values: statsmodels 0.15's proportion_confint(method="wilson").
    #[test]
    fn the_interval_of_a_share_is_wilsons() {
        let close = |found: [f64; 2], expected: [f64; 2]| {
            assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-6), "{found:?}");
        };
        close(super::wilson_interval(7, 10), [0.396_778_147_461, 0.892_208_732_593]);
        close(super::wilson_interval(0, 20), [0.0, 0.161_125_158_053]);
        close(super::wilson_interval(300, 578), [0.478_307_644_429, 0.559_503_342_854]);
    }

    /// Expected values: SciPy 1.17's t.interval(0.95, n - 1, mean, sem).
    #[test]
    fn the_interval_of_a_mean_is_students() {
        assert_eq!(super::student_interval(&[1.0]), None);
        assert_eq!(super::student_interval(&[]), None);
        let close = |values: &[f64], expected: [f64; 2]| {
            let found = super::student_interval(values).unwrap();
            assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 2e-4), "{found:?}");
        };
        close(&[0.001, 0.02, 0.0005], [-0.020_449, 0.034_782]);
        let many: Vec<f64> = (0..25).map(|i| f64::from(i * i % 7)).collect();
        close(&many, [1.358_511, 2.561_489]);
    }

    use super::{bootstrap_interval, epic_distance, interquartile_mean, pearson, spearman};
    use crate::random::stream;

    #[test]
    fn correlations_agree_with_hand_computed_ones() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 1.0, 4.0, 3.0, 5.0]);
        assert!((pearson(&a, &b).unwrap() - 0.8).abs() < 1e-15);
        assert!((spearman(&a, &b).unwrap() - 0.8).abs() < 1e-15);
        // Ranks with a tie: 0.5 0.5 2 3 against 0 1 2 3: cov 4.5/√(4.5·5).
        assert!(
            (spearman(&[1.0, 1.0, 7.0, 9.0], &[0.0, 1.0, 8.0, 90.0]).unwrap() - 4.5 / 22.5_f64.sqrt()).abs() < 1e-15
        );
        assert_eq!(pearson(&[1.0, 1.0], &[0.0, 1.0]), None);
        let opposite: Vec<f64> = a.iter().map(|x| 7.0 - 2.0 * x).collect();
        assert_eq!(epic_distance(&a, &opposite), Some(1.0));
        assert_eq!(epic_distance(&a, &a), Some(0.0));
    }

    /// Issue 28, B1: ranks never advanced on NaN.
    #[test]
    fn correlations_of_what_is_no_number_are_undefined_and_end() {
        let fine = [1.0, 2.0, 3.0, 4.0];
        for wrong in [f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            for place in 0..4 {
                let mut values = fine;
                values[place] = wrong;
                assert_eq!(pearson(&values, &fine), None, "{values:?}");
                assert_eq!(pearson(&fine, &values), None, "{values:?}");
                // Infinities have a rank.
                assert_eq!(spearman(&values, &fine).is_none(), wrong.is_nan(), "{values:?}");
                assert_eq!(epic_distance(&values, &fine), None, "{values:?}");
            }
            assert_eq!(spearman(&[wrong; 4], &fine), None);
        }
        assert_eq!(super::ranks(&[f64::NAN, 1.0, f64::NAN]), [1.0, 0.0, 2.0]);
    }

    #[test]
    fn the_interquartile_mean_cuts_a_quarter_at_either_end() {
        let values = [100.0, 3.0, 1.0, 2.0, 4.0, -50.0, 5.0, 6.0, 7.0, 8.0];
        // Two of ten are cut at either end: 2..=7 remain.
        assert_eq!(interquartile_mean(&values), 4.5);
        let [low, high] = bootstrap_interval(&values, interquartile_mean, 0.95, &mut stream(0, "test", 0)).unwrap();
        assert!(low < 4.5 && 4.5 < high);
        // One value says nothing of the spread of values.
        for few in [[].as_slice(), &[1.0]] {
            assert_eq!(bootstrap_interval(few, interquartile_mean, 0.95, &mut stream(0, "test", 0)), None);
        }
    }
}
