//! Curves of a run over its environment steps.

use std::sync::Arc;

use egui::{Color32, Rangef, Ui};
use egui_plot::{Corner, FilledArea, GridMark, Legend, Line, LineStyle, Plot, PlotPoints, PlotUi, Points, VLine};

use super::theme::Theme;
use crate::control::drlhp::Report;
use crate::control::run::past::{self, PastRun};
use crate::disk::figure::Series;
use crate::engine::snapshot::PastReports;

/// A curve: what it is, and its value in a report.
pub(super) struct Curve {
    pub name: &'static str,
    pub value: fn(&Report) -> Option<f64>,
}

/// A value over which runs are compared.
pub(super) struct Measure {
    pub name: &'static str,
    pub hint: &'static str,
    /// Whether it needs the task's own reward to mean something.
    truth: bool,
    value: fn(&Report) -> Option<f64>,
}

/// Curves of several runs.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// The runs, as they were when it was made.
    pub runs: Vec<Arc<PastRun>>,
    /// For each of [`MEASURES`].
    pub series: Vec<Vec<Series>>,
}

pub(super) const MEASURES: [Measure; 4] = [
    Measure {
        name: "True return",
        hint: "Mean of the last ten training episodes by the task's own reward",
        truth: true,
        value: |r| r.true_return,
    },
    Measure {
        name: "Predicted return",
        hint: "What the learned reward, normalised, expects of an episode",
        truth: false,
        value: |r| r.predicted_return,
    },
    Measure {
        name: "Reward correlation",
        hint: "Pearson's, of learned and true reward, step by step",
        truth: true,
        value: |r| r.reward.and_then(|m| m.pearson),
    },
    Measure {
        name: "Held-out loss",
        hint: "Cross-entropy of the answers that the reward was not fitted to, in nats",
        truth: false,
        value: |r| r.fit.and_then(|f| f.validation_loss),
    },
];

/// Points drawn of a past run's curve: a screen has no more columns.
const POINTS: usize = 1000;

/// How curves are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Look {
    /// Share of the old value that smoothed curves keep.
    pub smoothing: f64,
    /// Logarithmic values; for those that are never negative.
    pub log: bool,
}

impl Comparison {
    /// Curves of these runs, those of several seeds as one.
    pub(super) fn of(runs: Vec<Arc<PastRun>>) -> Self {
        let known = |run: &&PastRun| run.config.preferences.wanted.is_none();
        let series = |measure: &Measure| {
            let shown: Vec<&PastRun> =
                runs.iter().map(Arc::as_ref).filter(|run| !measure.truth || known(run)).collect();
            past::series(&shown, measure.value)
        };
        Self { series: MEASURES.iter().map(series).collect(), runs }
    }

    /// Whether there is nothing to show.
    pub(super) fn is_empty(&self) -> bool {
        self.series.iter().all(Vec::is_empty)
    }

    /// Curves of the measure of this name.
    pub(super) fn measure(&self, name: &str) -> &[Series] {
        let found = MEASURES.iter().position(|measure| measure.name == name).and_then(|i| self.series.get(i));
        found.map_or(&[], Vec::as_slice)
    }
}

/// Draws a run's curves over environment steps, smoothed by an exponential average that is drawn over the faint raw
/// values, with label sessions marked by vertical lines, and those of other runs `beside` it.
pub(super) fn show(
    ui: &mut Ui,
    theme: &Theme,
    id: &str,
    height: f32,
    reported: &PastReports,
    curves: &[Curve],
    look: Look,
    beside: &[Series],
) {
    let reports = &reported.reports;
    // Zero has no logarithm; what is smaller than this is not worth looking at.
    let scaled = |value: f64| if look.log { value.max(1e-9).log10() } else { value };
    let mut plot = over_steps(theme, id, height);
    if look.log {
        plot = plot.y_axis_formatter(|mark, _| format!("{:.0e}", 10_f64.powf(mark.value)));
        plot = plot.y_grid_spacer(|grid| powers(grid.bounds));
    }
    if !beside.is_empty() {
        plot = plot.legend(legend());
    }
    let values = curves
        .iter()
        .flat_map(|curve| reports.iter().filter_map(|report| (curve.value)(report)))
        .filter(|v| v.is_finite());
    let plot = with_height(plot, values.map(scaled));
    // In a long run a report stands for several iterations, over which more of an old value is lost.
    let smoothing = look.smoothing.powi(i32::try_from(reported.every).unwrap_or(i32::MAX));
    plot.show(ui, |plot| {
        let changed = reports.windows(2).filter(|r| r[1].labels_asked > r[0].labels_asked);
        let marks: Vec<f64> = changed.map(|r| r[1].env_steps as f64).collect();
        // Marks as close as pixels say nothing.
        if marks.len() <= 60 {
            for mark in marks {
                let line = VLine::new("", mark).color(theme.weak_text.gamma_multiply(0.3)).width(1.0);
                plot.vline(line.style(LineStyle::dashed_dense()).allow_hover(false));
            }
        }
        for (i, curve) in curves.iter().enumerate() {
            let points = |r: &Arc<Report>| (curve.value)(r).map(|value| [r.env_steps as f64, value]);
            let raw: Vec<[f64; 2]> = reports.iter().filter_map(points).filter(|p| p[1].is_finite()).collect();
            let color: Color32 = theme.curve(i);
            let on_scale =
                |points: Vec<[f64; 2]>| -> Vec<[f64; 2]> { points.into_iter().map(|[x, y]| [x, scaled(y)]).collect() };
            let smooth = on_scale(smoothed(&raw, smoothing));
            if look.smoothing > 0.0 {
                let faint = color.gamma_multiply(0.25);
                plot.line(Line::new("", PlotPoints::from(on_scale(raw))).color(faint).width(1.0).allow_hover(false));
            }
            plot.line(Line::new(curve.name, PlotPoints::from(smooth)).color(color).width(2.0));
        }
        overlay(plot, theme, beside, curves.len(), &scaled);
    });
}

/// Draws curves of several runs with their intervals.
pub(super) fn beside_each_other(ui: &mut Ui, theme: &Theme, id: &str, height: f32, series: &[Series]) {
    let plot = over_steps(theme, id, height).legend(legend());
    plot.show(ui, |plot| overlay(plot, theme, series, 0, &|value| value));
}

/// A plot over environment steps.
fn over_steps<'a>(theme: &Theme, id: &str, height: f32) -> Plot<'a> {
    empty(theme, id, height).include_x(0.0).x_axis_formatter(|mark, _| steps(mark.value))
}

/// A legend in the corner that learning curves leave free.
pub(super) fn legend() -> Legend {
    Legend::default().position(Corner::RightBottom)
}

/// A plot with a few lines across it. The wheel scrolls the panel that it is in.
pub(super) fn empty<'a>(theme: &Theme, id: &str, height: f32) -> Plot<'a> {
    let number = |mark: GridMark| {
        let digits = (-mark.step_size.log10().floor()).clamp(0.0, 9.0) as usize;
        format!("{:.digits$}", mark.value)
    };
    Plot::new(id)
        .height(height)
        .allow_scroll(false)
        .allow_zoom(false)
        .allow_drag(false)
        .allow_boxed_zoom(false)
        .show_background(false)
        .grid_color(theme.outline)
        .show_grid([false, true])
        .grid_spacing(Rangef::new(4.0, 40.0))
        .x_grid_spacer(|grid| round_values(grid.bounds, COLUMNS))
        .y_grid_spacer(move |grid| round_values(grid.bounds, (height / BETWEEN_LINES).max(2.0)))
        .x_axis_formatter(move |mark, _| number(mark))
        .y_axis_formatter(move |mark, _| number(mark))
        .y_axis_min_width(48.0)
}

/// Numbers below a plot, at most.
const COLUMNS: f32 = 10.0;

/// Points between two lines of a grid, at least.
const BETWEEN_LINES: f32 = 32.0;

/// At most `count` values of one, two or five times a power of ten.
pub(super) fn round_values((low, high): (f64, f64), count: f32) -> Vec<GridMark> {
    let least = (high - low) / f64::from(count);
    if !(least.is_normal() && least > 0.0) {
        return Vec::new();
    }
    let power = 10_f64.powf(least.log10().floor());
    let step = [1.0, 2.0, 5.0].map(|times| times * power).into_iter().find(|step| *step >= least);
    let step = step.unwrap_or(10.0 * power);
    let marks = (low / step).ceil() as i64..=(high / step).floor() as i64;
    marks.map(|mark| GridMark { value: mark as f64 * step, step_size: step }).collect()
}

/// The same on a logarithmic scale: decimal logarithms of such values, or only of powers of ten where there are many.
fn powers((low, high): (f64, f64)) -> Vec<GridMark> {
    let (first, last) = (low.floor() as i32, high.ceil() as i32);
    let times: &[f64] = if last - first > 3 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let decade = |power: i32| times.iter().map(move |times| f64::from(power) + times.log10());
    let marks = (first..=last).flat_map(decade).filter(|value| (low..=high).contains(value));
    marks.map(|value| GridMark { value, step_size: 1.0 }).collect()
}

/// Lines with their intervals and dots, in the colours from number `first` on; dashed where there are fewer colours.
pub(super) fn overlay(
    plot: &mut PlotUi<'_>,
    theme: &Theme,
    series: &[Series],
    first: usize,
    scaled: &dyn Fn(f64) -> f64,
) {
    for (i, series) in (first..).zip(series) {
        let (name, color) = (series.name.as_str(), theme.curve(i));
        let stride = series.points.len().div_ceil(POINTS).max(1);
        let with_interval = || series.points.iter().filter_map(|point| Some((point.x, point.interval?)));
        let xs: Vec<f64> = with_interval().map(|(x, _)| x).collect();
        if !xs.is_empty() {
            let bound = |i: usize| with_interval().map(|(_, interval)| scaled(interval[i])).collect::<Vec<f64>>();
            let area = FilledArea::new("", &xs, &bound(0), &bound(1)).fill_color(color.gamma_multiply(0.15));
            plot.add(area.allow_hover(false));
        }
        let style = if i < theme.curves.len() { LineStyle::Solid } else { LineStyle::dashed_loose() };
        let points: PlotPoints<'static> =
            series.points.iter().step_by(stride).map(|point| [point.x, scaled(point.y)]).collect();
        plot.line(Line::new(name, points).color(color).width(2.0).style(style));
        let dots: PlotPoints<'static> = series.dots.iter().map(|&(x, y)| [x, scaled(y)]).collect();
        plot.points(Points::new(name, dots).color(color).radius(2.0));
    }
}

/// Gives a plot of one value, or of equal ones, a height: it has none of its own.
pub(super) fn with_height<'a>(plot: Plot<'a>, values: impl Iterator<Item = f64>) -> Plot<'a> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    match low <= high && high - low <= 1e-6 * high.abs().max(1.0) {
        true => plot.include_y(low - 0.5).include_y(high + 0.5),
        false => plot,
    }
}

/// Exponential average with the bias of its start removed, as in Adam.
fn smoothed(points: &[[f64; 2]], weight: f64) -> Vec<[f64; 2]> {
    let (mut sum, mut total) = (0.0, 0.0);
    let step = |&[x, y]: &[f64; 2]| {
        sum = weight * sum + (1.0 - weight) * y;
        total = weight * total + (1.0 - weight);
        [x, sum / total]
    };
    points.iter().map(step).collect()
}

/// A number of steps in few letters.
pub(super) fn steps(value: f64) -> String {
    match value {
        v if v.abs() >= 1e6 => format!("{:.1}M", v / 1e6),
        v if v.abs() >= 1e3 => format!("{:.0}k", v / 1e3),
        v => format!("{v:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{powers, round_values, smoothed, steps};

    #[test]
    fn smoothing_keeps_constants_and_weights_the_past() {
        let constant: Vec<[f64; 2]> = (0..5).map(|i| [f64::from(i), 3.0]).collect();
        assert!(smoothed(&constant, 0.9).iter().all(|p| (p[1] - 3.0).abs() < 1e-12));
        let two = smoothed(&[[0.0, 0.0], [1.0, 1.0]], 0.5);
        assert!((two[1][1] - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(smoothed(&[[0.0, 7.0]], 0.0), [[0.0, 7.0]]);
        assert_eq!([steps(999.0), steps(12_300.0), steps(2.5e6)], ["999", "12k", "2.5M"]);
    }

    #[test]
    fn a_grid_has_a_few_round_values() {
        let values = |marks: Vec<egui_plot::GridMark>| marks.iter().map(|mark| mark.value).collect::<Vec<f64>>();
        assert_eq!(values(round_values((25.0, 42.0), 4.0)), [25.0, 30.0, 35.0, 40.0]);
        assert_eq!(values(round_values((-1600.0, -100.0), 4.0)), [-1500.0, -1000.0, -500.0]);
        assert_eq!(values(round_values((0.0, 4.0), 4.0)), [0.0, 1.0, 2.0, 3.0, 4.0]);
        assert!(round_values((1.0, 1.0), 4.0).is_empty());
        assert_eq!(
            values(powers((-1.5, 0.1)))
                .iter()
                .map(|v| 10_f64.powf(*v))
                .map(|v| (v * 100.0).round())
                .collect::<Vec<f64>>(),
            [5.0, 10.0, 20.0, 50.0, 100.0]
        );
        assert_eq!(values(powers((-5.5, 0.1))), [-5.0, -4.0, -3.0, -2.0, -1.0, 0.0]);
    }
}
