//! Figures as SVG, for people and papers.

use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

use super::archive::write_atomically;
use super::error::DiskError;

/// A bar with an interval.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// What it stands for.
    pub name: String,
    /// Its value.
    pub value: f64,
    /// Interval around the value, if it has one.
    pub interval: Option<[f64; 2]>,
}

/// Blue, but not the blue that stands for the first clip.
const LINE: RGBColor = RGBColor(44, 52, 68);

/// The one font of all figures.
const FONT: &str = "sans-serif";

/// A curve, with an interval around it where it stands for several runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// What it stands for.
    pub name: String,
    /// Its points, from left to right.
    pub points: Vec<SeriesPoint>,
    /// Single measurements, drawn as dots beside the curve.
    pub dots: Vec<(f64, f64)>,
}

/// A point of a [`Series`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SeriesPoint {
    /// Environment steps.
    pub x: f64,
    /// Value: of the run, or the interquartile mean over runs.
    pub y: f64,
    /// 95 % bootstrap interval over runs.
    pub interval: Option<[f64; 2]>,
}

/// Draws curves with their intervals: as PNG if `path` ends in `.png`, else as SVG. `axes` are the names of the
/// horizontal and the vertical axis.
///
/// # Errors
/// When the file cannot be written.
pub fn curves(path: &Path, title: &str, axes: [&str; 2], series: &[Series]) -> Result<(), DiskError> {
    if path.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("png")) {
        return write(path, |svg| {
            let root = SVGBackend::with_string(svg, CURVES_SIZE).into_drawing_area();
            draw_curves(&root, 1, title, axes, None, series)?;
            root.present()?;
            Ok(())
        });
    }
    install_font();
    let (width, height) = CURVES_SIZE;
    let (width, height) = (width * PICTURE_SCALE, height * PICTURE_SCALE);
    let draw = || -> Result<Vec<u8>, Box<dyn std::error::Error>> {
        let mut rgb = vec![0; 3 * width as usize * height as usize];
        let root = BitMapBackend::with_buffer(&mut rgb, (width, height)).into_drawing_area();
        draw_curves(&root, PICTURE_SCALE, title, axes, None, series)?;
        root.present()?;
        drop(root);
        let rgba = rgb.chunks(3).flat_map(|pixel| [pixel[0], pixel[1], pixel[2], 255]).collect();
        Ok(pairwise_envs::png(&pairwise_envs::Frame { width, height, rgba })?)
    };
    let drawn = draw().map_err(|e| std::io::Error::other(e.to_string()));
    let written = drawn.and_then(|bytes| write_atomically(path, &bytes));
    written.map_err(DiskError::io(path, "write the figure"))
}

/// One of several charts of a figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// What it shows.
    pub title: String,
    /// Names of the horizontal and the vertical axis.
    pub axes: [String; 2],
    /// Range of the vertical axis; `None` for that of the curves.
    pub heights: Option<[f64; 2]>,
    /// Its curves.
    pub series: Vec<Series>,
}

/// Draws several charts as one SVG, two in a row.
///
/// # Errors
/// When the file cannot be written.
pub fn panels(path: &Path, panels: &[Panel]) -> Result<(), DiskError> {
    let rows = panels.len().div_ceil(2);
    let (width, height) = CURVES_SIZE;
    write(path, |svg| {
        let size = (2 * width, height * u32::try_from(rows)?);
        let root = SVGBackend::with_string(svg, size).into_drawing_area();
        for (area, Panel { title, axes: [along, up], heights, series }) in
            root.split_evenly((rows, 2)).iter().zip(panels)
        {
            draw_curves(area, 1, title, [along, up], *heights, series)?;
        }
        root.present()?;
        Ok(())
    })
}

/// Size of a figure with curves.
const CURVES_SIZE: (u32, u32) = (720, 400);

/// Up to this largest place, labels of the horizontal axis have decimals.
const SMALL: f64 = 50.0;

/// Where the smallest place is above this share of the largest, the horizontal axis begins there, not at 0.
const FAR_FROM_ZERO: f64 = 0.5;

/// Curves with at most this many points show their intervals as bars side by side: bands would hide each other.
const FEW_POINTS: usize = 6;

/// Share of a figure's width between the bars of two curves.
const ASIDE: f64 = 0.008;

/// Width of a letter in the names of bars, pixels.
const LETTER: u32 = 7;

/// Pixels of a PNG for each pixel of the figure: sharp in print and on dense screens.
const PICTURE_SCALE: u32 = 2;

/// Colours of curves for the colour-blind (Okabe and Ito), less the blue and orange that stand for the two clips.
const COLORS: [RGBColor; 8] = [
    LINE,
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(150, 130, 0),
    RGBColor(120, 60, 140),
    RGBColor(150, 90, 60),
    RGBColor(140, 140, 140),
];

fn draw_curves<B: DrawingBackend>(
    root: &DrawingArea<B, Shift>,
    scale: u32,
    title: &str,
    [along, up]: [&str; 2],
    range: Option<[f64; 2]>,
    series: &[Series],
) -> Result<(), Box<dyn std::error::Error>>
where
    B::ErrorType: 'static,
{
    let font = |size: u32| (FONT, size * scale);
    let points = || series.iter().flat_map(|series| &series.points);
    let dots = || series.iter().flat_map(|series| &series.dots);
    let along_all = || points().map(|point| point.x).chain(dots().map(|dot| dot.0));
    let last = along_all().fold(1.0, f64::max);
    // Steps and divergences begin at 0, and rewards may lie below; what lies far from 0, such as a logarithm of sizes,
    // begins with its smallest value.
    let least = along_all().fold(f64::INFINITY, f64::min);
    let first = if least > FAR_FROM_ZERO * last && least < last { least } else { least.min(0.0) };
    let with_bars = series.len() > 1
        && series.iter().all(|series| series.points.len() <= FEW_POINTS)
        && points().any(|point| point.interval.is_some());
    let aside = if with_bars { ASIDE * (last - first) } else { 0.0 };
    // Room for the bars of the first and of the last curve.
    let room = aside * series.len() as f64;
    let heights = points().flat_map(|point| point.interval.unwrap_or([point.y; 2]));
    let range = match range {
        Some([low, high]) => (low, high),
        None => padded(heights.chain(dots().map(|dot| dot.1))),
    };
    let middle = 0.5 * series.len().saturating_sub(1) as f64;
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(root)
        .caption(title, font(16))
        .margin(12 * scale)
        .x_label_area_size(40 * scale)
        .y_label_area_size(60 * scale)
        .build_cartesian_2d(first - room..last + room, range.0..range.1)?;
    chart
        .configure_mesh()
        .x_desc(along)
        .x_label_formatter(&|x| if last < SMALL { tick(x) } else { format!("{x:.0}") })
        .y_desc(up)
        .y_label_formatter(&tick)
        .label_style(font(12))
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (number, (series, color)) in series.iter().zip(COLORS.iter().cycle()).enumerate() {
        let aside = aside * (number as f64 - middle);
        let bound = |i: usize| series.points.iter().filter_map(move |point| Some((point.x, point.interval?[i])));
        let (mut outline, high): (Vec<_>, Vec<_>) = (bound(0).collect(), bound(1).collect());
        outline.extend(high.into_iter().rev());
        if with_bars {
            let bar = |point: &SeriesPoint| {
                let ([low, high], x) = (point.interval?, point.x + aside);
                Some(PathElement::new([(x, low), (x, high)], color.mix(0.6).stroke_width(scale)))
            };
            chart.draw_series(series.points.iter().filter_map(bar))?;
            let place = |point: &SeriesPoint| Circle::new((point.x + aside, point.y), 3 * scale, color.filled());
            chart.draw_series(series.points.iter().map(place))?;
        } else if !outline.is_empty() {
            chart.draw_series([Polygon::new(outline, color.mix(0.2))])?;
        }
        let radius = 2 * scale;
        chart.draw_series(series.dots.iter().map(|&dot| Circle::new(dot, radius, color.mix(0.45).filled())))?;
        let line = series.points.iter().map(|point| (point.x + aside, point.y));
        if series.points.len() == 1 {
            // A line of one point would be invisible.
            chart.draw_series(line.clone().map(|point| Circle::new(point, radius, color.filled())))?;
        }
        let length = 16 * i32::try_from(scale)?;
        chart
            .draw_series(LineSeries::new(line, color.stroke_width(2 * scale)))?
            .label(&series.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + length, y)], color.stroke_width(2 * scale)));
    }
    if series.len() > 1 {
        let labels = &mut chart.configure_series_labels();
        labels.label_font(font(12)).position(free_place(series, first..last, range)).background_style(WHITE.mix(0.8));
        labels.draw()?;
    }
    Ok(())
}

/// The first place in which the names of the curves hide no point; the lower right if there is none.
fn free_place(series: &[Series], along: Range<f64>, (low, high): (f64, f64)) -> SeriesLabelPosition {
    // Each takes about a quarter of the width and a third of the height; its middle is given in shares of both.
    let places = [
        (SeriesLabelPosition::LowerRight, 0.875, 0.17),
        (SeriesLabelPosition::MiddleRight, 0.875, 0.5),
        (SeriesLabelPosition::UpperLeft, 0.125, 0.83),
        (SeriesLabelPosition::UpperRight, 0.875, 0.83),
        (SeriesLabelPosition::MiddleLeft, 0.125, 0.5),
        (SeriesLabelPosition::LowerLeft, 0.125, 0.17),
    ];
    let points = series
        .iter()
        .flat_map(|series| series.points.iter().map(|point| (point.x, point.y)).chain(series.dots.iter().copied()));
    let shares: Vec<[f64; 2]> =
        points.map(|(x, y)| [(x - along.start) / (along.end - along.start), (y - low) / (high - low)]).collect();
    let is_free =
        |x: f64, y: f64| !shares.iter().any(|share| (share[0] - x).abs() < 0.13 && (share[1] - y).abs() < 0.17);
    places
        .into_iter()
        .find(|&(_, x, y)| is_free(x, y))
        .map_or(SeriesLabelPosition::LowerRight, |(position, ..)| position)
}

/// A number without the rounding errors that positions of ticks carry.
fn tick(value: &f64) -> String {
    ((value * 1e6).round() / 1e6).to_string()
}

/// Draws values with intervals, one a row; `along` is the name of the axis.
///
/// # Errors
/// When the file cannot be written.
pub fn bars(path: &Path, title: &str, along: &str, bars: &[Bar]) -> Result<(), DiskError> {
    let all = bars.iter().flat_map(|bar| bar.interval.into_iter().flatten().chain([bar.value]));
    let range = padded(all.filter(|v| v.is_finite()));
    let height = 90 + 34 * u32::try_from(bars.len()).unwrap_or(100);
    let count = bars.len();
    let letters = bars.iter().map(|bar| bar.name.chars().count()).max().unwrap_or(0);
    let names = u32::try_from(letters).unwrap_or(u32::MAX).saturating_mul(LETTER).clamp(170, 400);
    let draw = |svg: &mut String| -> Result<(), Box<dyn std::error::Error>> {
        let root = SVGBackend::with_string(svg, (550 + names, height)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, (FONT, 15))
            .margin(12)
            .x_label_area_size(32)
            .y_label_area_size(names)
            .build_cartesian_2d(range.0..range.1, -0.5..count as f64 - 0.5)?;
        let name = |y: &f64| {
            let row = count as f64 - 1.0 - y.round();
            let whole = (y - y.round()).abs() < 1e-6 && row >= 0.0;
            if whole { bars.get(row as usize).map_or(String::new(), |bar| bar.name.clone()) } else { String::new() }
        };
        chart
            .configure_mesh()
            .x_desc(along)
            .x_label_formatter(&tick)
            .disable_y_mesh()
            .y_labels(2 * count + 1)
            .y_label_formatter(&name)
            .light_line_style(TRANSPARENT)
            .draw()?;
        for (i, bar) in bars.iter().enumerate() {
            let y = (count - 1 - i) as f64;
            if let Some([low, high]) = bar.interval {
                chart.draw_series(LineSeries::new([(low, y), (high, y)], LINE.mix(0.5).stroke_width(4)))?;
            }
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

/// Writes a figure as SVG, in the window's font; nothing is left of one that fails.
///
/// # Errors
/// [`DiskError::Io`], also where `draw` fails.
pub fn write(
    path: &Path,
    draw: impl FnOnce(&mut String) -> Result<(), Box<dyn std::error::Error>>,
) -> Result<(), DiskError> {
    install_font();
    let mut svg = String::new();
    let drawn = draw(&mut svg).map_err(|e| std::io::Error::other(e.to_string()));
    let written = drawn.and_then(|()| write_atomically(path, svg.as_bytes()));
    written.map_err(DiskError::io(path, "write the figure"))
}

/// Registers the window's font as [`FONT`], so that figures look alike on every machine. The viewer chooses an SVG's
/// letters, but they are laid out by this font's measures.
fn install_font() {
    let known = register_font(FONT, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT);
    assert!(known.is_ok(), "the built-in font is a font");
}

#[cfg(test)]
mod tests {
    use plotters::prelude::SeriesLabelPosition;

    use super::{Series, SeriesPoint, free_place};

    #[test]
    fn names_stand_where_no_point_is() {
        let place = |points: &[(f64, f64)]| {
            let points = points.iter().map(|&(x, y)| SeriesPoint { x, y, interval: None }).collect();
            free_place(&[Series { name: String::new(), points, dots: vec![(9.0, 5.1)] }], 0.0..10.0, (5.0, 6.0))
        };
        // The dot is below on the right.
        assert!(matches!(place(&[]), SeriesLabelPosition::MiddleRight));
        assert!(matches!(place(&[(10.0, 5.5)]), SeriesLabelPosition::UpperLeft));
        assert!(matches!(place(&[(10.0, 5.5), (1.0, 5.9)]), SeriesLabelPosition::UpperRight));
        let everywhere = [(10.0, 5.5), (1.0, 5.9), (9.5, 5.9), (1.0, 5.5), (1.0, 5.1)];
        assert!(matches!(place(&everywhere), SeriesLabelPosition::LowerRight));
    }
}
