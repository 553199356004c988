//! Figures as SVG, for people and papers.

use std::path::Path;

use plotters::prelude::*;

use super::RunError;
use super::archive::write_atomically;
use super::config::Config;
use crate::drlhp::Report;

/// A bar with an interval.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// What it stands for.
    pub name: String,
    /// Its value.
    pub value: f64,
    /// Interval around the value.
    pub interval: [f64; 2],
}

/// Blue, but not the blue that stands for the first clip.
const LINE: RGBColor = RGBColor(44, 52, 68);

/// Draws true training return against environment steps, with the reward correlation where there is one.
///
/// # Errors
/// When the file cannot be written.
pub fn learning_curve(path: &Path, config: &Config, reports: &[Report]) -> Result<(), RunError> {
    let returns: Vec<(f64, f64)> = reports.iter().filter_map(|r| Some((r.env_steps as f64, r.true_return?))).collect();
    let last = returns.last().map_or(1.0, |point| point.0);
    let range = padded(returns.iter().map(|point| point.1));
    let title = format!("{}, seed {}: true return of the last ten training episodes", config.env, config.seed);
    let draw = |svg: &mut String| -> Result<(), Box<dyn std::error::Error>> {
        let root = SVGBackend::with_string(svg, (720, 400)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(&title, ("sans-serif", 16))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..last, range.0..range.1)?;
        chart
            .configure_mesh()
            .x_desc("environment steps")
            .x_label_formatter(&|steps| format!("{steps:.0}"))
            .y_desc("true return")
            .y_label_formatter(&tick)
            .light_line_style(TRANSPARENT)
            .draw()?;
        chart.draw_series(LineSeries::new(returns.iter().copied(), LINE.stroke_width(2)))?;
        root.present()?;
        Ok(())
    };
    write(path, draw)
}

/// A number as short as it can be said; positions of ticks carry rounding errors.
fn tick(value: &f64) -> String {
    ((value * 1e6).round() / 1e6).to_string()
}

/// Draws values with intervals, one a row.
///
/// # Errors
/// When the file cannot be written.
pub fn bars(path: &Path, title: &str, bars: &[Bar]) -> Result<(), RunError> {
    let all = bars.iter().flat_map(|bar| [bar.value, bar.interval[0], bar.interval[1]]);
    let range = padded(all.filter(|v| v.is_finite()));
    let height = 90 + 34 * u32::try_from(bars.len()).unwrap_or(100);
    let count = bars.len();
    let draw = |svg: &mut String| -> Result<(), Box<dyn std::error::Error>> {
        let root = SVGBackend::with_string(svg, (720, height)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 15))
            .margin(12)
            .x_label_area_size(32)
            .y_label_area_size(170)
            .build_cartesian_2d(range.0..range.1, -0.5..count as f64 - 0.5)?;
        let name = |y: &f64| {
            let row = count as f64 - 1.0 - y.round();
            let whole = (y - y.round()).abs() < 1e-6 && row >= 0.0;
            if whole { bars.get(row as usize).map_or(String::new(), |bar| bar.name.clone()) } else { String::new() }
        };
        chart
            .configure_mesh()
            .x_desc("true return")
            .x_label_formatter(&tick)
            .disable_y_mesh()
            .y_labels(2 * count + 1)
            .y_label_formatter(&name)
            .light_line_style(TRANSPARENT)
            .draw()?;
        for (i, bar) in bars.iter().enumerate() {
            let y = (count - 1 - i) as f64;
            let [low, high] = bar.interval;
            chart.draw_series(LineSeries::new([(low, y), (high, y)], LINE.mix(0.5).stroke_width(4)))?;
            chart.draw_series([Circle::new((bar.value, y), 5, LINE.filled())])?;
        }
        root.present()?;
        Ok(())
    };
    write(path, draw)
}

/// Smallest and largest value with a margin; never an empty range.
fn padded(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if !(low.is_finite() && high.is_finite()) {
        return (0.0, 1.0);
    }
    let margin = ((high - low) * 0.05).max(1e-3 * high.abs()).max(1e-6);
    (low - margin, high + margin)
}

fn write(
    path: &Path,
    draw: impl FnOnce(&mut String) -> Result<(), Box<dyn std::error::Error>>,
) -> Result<(), RunError> {
    let mut svg = String::new();
    let drawn = draw(&mut svg).map_err(|e| std::io::Error::other(e.to_string()));
    let written = drawn.and_then(|()| write_atomically(path, svg.as_bytes()));
    written.map_err(|source| RunError::Io { path: path.to_owned(), action: "write the figure", source })
}
