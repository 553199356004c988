//! Curves of runs: a value over environment steps, of one run or of several.

use std::path::Path;

use crate::control::config::Config;
use crate::control::drlhp::Report;
use crate::disk::DiskError;
use crate::disk::figure::{Series, SeriesPoint, curves};
use crate::preference::statistics::{bootstrap_interval, interquartile_mean};
use crate::random::stream;

/// The true training return against environment steps.
///
/// # Errors
/// When the file cannot be written.
pub fn learning_curve(path: &Path, config: &Config, reports: &[Report]) -> Result<(), DiskError> {
    let title = format!("{}, seed {}: true return of the last ten training episodes", config.env, config.seed);
    let series =
        Series { name: config.env.clone(), points: curve(reports, |report| report.true_return), dots: Vec::new() };
    curves(path, &title, ["environment steps", "true return"], &[series])
}

/// A value of a run's reports over environment steps.
#[must_use]
pub fn curve(reports: &[Report], value: fn(&Report) -> Option<f64>) -> Vec<SeriesPoint> {
    let point = |r: &Report| Some(SeriesPoint { x: r.env_steps as f64, y: value(r)?, interval: None });
    reports.iter().filter_map(point).filter(|point| point.y.is_finite()).collect()
}

/// Points at which curves of several runs are summarised.
const SUMMARY_POINTS: usize = 60;

/// The interquartile mean of several runs' curves with its 95 % bootstrap interval, over the steps that all of them
/// cover; between its reports a run's curve is a straight line.
#[must_use]
pub fn summarized(curves: &[Vec<SeriesPoint>]) -> Vec<SeriesPoint> {
    let ends = |end: fn(&Vec<SeriesPoint>) -> Option<&SeriesPoint>| curves.iter().filter_map(end).map(|point| point.x);
    let first = ends(|curve| curve.first()).fold(f64::NEG_INFINITY, f64::max);
    let last = ends(|curve| curve.last()).fold(f64::INFINITY, f64::min);
    if !(first.is_finite() && last >= first) {
        return Vec::new();
    }
    let mut rng = stream(0, "bootstrap", 0);
    let point = |i: usize| {
        let x = first + (last - first) * i as f64 / (SUMMARY_POINTS - 1) as f64;
        let values: Vec<f64> = curves.iter().filter_map(|curve| at(curve, x)).collect();
        let interval = bootstrap_interval(&values, interquartile_mean, 0.95, &mut rng);
        SeriesPoint { x, y: interquartile_mean(&values), interval }
    };
    (0..SUMMARY_POINTS).map(point).collect()
}

/// A curve's value at `x`, on the line between its neighbours.
fn at(curve: &[SeriesPoint], x: f64) -> Option<f64> {
    let after = curve.partition_point(|point| point.x < x).min(curve.len().checked_sub(1)?);
    let (a, b) = (curve[after.saturating_sub(1)], curve[after]);
    let share = if b.x > a.x { ((x - a.x) / (b.x - a.x)).clamp(0.0, 1.0) } else { 1.0 };
    Some(a.y + share * (b.y - a.y))
}
