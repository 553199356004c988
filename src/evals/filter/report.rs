//! What a filter kept, beside what there was: how sure its labels are, how right, and how diverse the statements.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use plotters::prelude::*;
use rand::seq::index::sample;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{FilterConfig, Score, Truth};
use crate::disk::{DiskError, figure, lines, text};
use crate::evals::behaviour::Behaviour;
use crate::evals::diversity::{self, Comparison};
use crate::evals::generate::Candidate;
use crate::evals::questions::{self, Question};
use crate::preference::calibration::expected_calibration_error;
use crate::preference::statistics::{mean, wilson_interval};
use crate::random::stream;

/// What was kept, and what it is worth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FilterReport {
    /// Name of the behaviour.
    pub behaviour: String,
    /// How it was filtered.
    pub config: FilterConfig,
    /// For each label.
    pub labels: [LabelReport; 2],
    /// Candidates that were too long for a judge, and count as undecided.
    #[serde(default)]
    pub too_long: usize,
    /// Questions of the set.
    pub kept: usize,
    /// Mean confidence of the labels: what a model with the behaviour can reach. `None` of an empty set.
    pub ceiling: Option<f64>,
    /// 1 − ceiling: what one without it can.
    pub floor: Option<f64>,
    /// Confidences of the labels that were kept, at 5, 25, 50, 75 and 95 %; `None` of an empty set.
    pub quantiles: Option<[f64; 5]>,
    /// All candidates by the probability of their wanted label.
    pub calibration: Vec<Bin>,
    /// Labels against what is known.
    pub truth: Option<TruthReport>,
    /// Of a sample of all candidates, and of as many that were kept.
    pub diversity: DiversityReport,
}

/// Candidates of a label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabelReport {
    /// The label.
    pub label: String,
    /// Candidates.
    pub candidates: usize,
    /// Those whose label is likelier than not.
    pub above_half: usize,
    /// Those that were kept.
    pub kept: usize,
    /// The least confidence among these; `None` of none.
    pub least: Option<f64>,
}

/// Candidates whose wanted label has about the same probability.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// From this probability, up to the next bin's.
    pub from: f64,
    /// Candidates.
    pub count: usize,
    /// Mean probability; none for an empty bin.
    pub mean: Option<f64>,
    /// How many labels are right, where that is known.
    pub accuracy: Option<Accuracy>,
}

/// How many labels are right.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Statements of which the truth is known.
    pub known: usize,
    /// Those with the right label.
    pub right: usize,
    /// Those that neither label fits; they count as wrong.
    pub neither: usize,
    /// Right of known.
    pub share: f64,
    /// Wilson's 95 % interval.
    pub interval: [f64; 2],
}

/// Labels against what is known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TruthReport {
    /// Of all candidates.
    pub before: Option<Accuracy>,
    /// Of those that were kept.
    pub after: Option<Accuracy>,
    /// Expected calibration error over ten bins of the probability of the wanted label.
    pub calibration_error: Option<f64>,
}

/// Diversity without the map, which has a file of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DiversityReport {
    /// Of a sample of all candidates, as large as the set, and with as many of each label.
    pub before: diversity::Diversity,
    /// Of the set.
    pub after: diversity::Diversity,
    /// Clusters that both were divided into.
    pub clusters: usize,
    /// Shares of the variance along and up the map.
    pub explained: [f64; 2],
}

/// Bins of the calibration table.
const BINS: usize = 10;
/// Where quantiles are told.
const QUANTILES: [f64; 5] = [0.05, 0.25, 0.5, 0.75, 0.95];

/// What was kept, beside what there was; and the map.
#[must_use]
pub fn report(
    behaviour: &Behaviour,
    candidates: &[Candidate],
    scores: &[Score],
    kept: &[Vec<usize>; 2],
    truths: &[Option<Truth>],
    config: &FilterConfig,
) -> (FilterReport, Vec<MapPoint>) {
    let label_of = |i: usize| usize::from(candidates[i].label != behaviour.labels[0]);
    let all: Vec<usize> = (0..candidates.len()).collect();
    let set: Vec<usize> = kept.concat();
    let accuracy = |of: &[usize]| {
        let known: Vec<(usize, Truth)> = of.iter().filter_map(|&i| Some((i, truths[i]?))).collect();
        let right = known.iter().filter(|(i, truth)| *truth == Truth::Label(label_of(*i))).count();
        (!known.is_empty()).then(|| Accuracy {
            known: known.len(),
            right,
            neither: known.iter().filter(|(_, truth)| *truth == Truth::Neither).count(),
            share: right as f64 / known.len() as f64,
            interval: wilson_interval(right, known.len()),
        })
    };
    let mut bins: Vec<Vec<usize>> = vec![Vec::new(); BINS];
    for &i in &all {
        bins[((scores[i].label * BINS as f64) as usize).min(BINS - 1)].push(i);
    }
    let bin = |(number, own): (usize, &Vec<usize>)| Bin {
        from: number as f64 / BINS as f64,
        count: own.len(),
        mean: (!own.is_empty()).then(|| mean(&own.iter().map(|&i| scores[i].label).collect::<Vec<f64>>())),
        accuracy: accuracy(own),
    };
    let calibration = bins.iter().enumerate().map(bin).collect();
    let truth = truths.iter().any(Option::is_some).then(|| {
        let known = all.iter().filter_map(|&i| Some((scores[i].label, truths[i]? == Truth::Label(label_of(i)))));
        let (probabilities, right): (Vec<f64>, Vec<f64>) =
            known.map(|(p, right)| (p, f64::from(u8::from(right)))).unzip();
        TruthReport {
            before: accuracy(&all),
            after: accuracy(&set),
            calibration_error: expected_calibration_error(&probabilities, &right, BINS),
        }
    });
    let label_report = |label: usize| {
        let own: Vec<usize> = all.iter().copied().filter(|&i| label_of(i) == label).collect();
        LabelReport {
            label: behaviour.labels[label].clone(),
            candidates: own.len(),
            above_half: own.iter().filter(|&&i| scores[i].label > 0.5).count(),
            kept: kept[label].len(),
            least: kept[label].iter().map(|&i| scores[i].label).min_by(f64::total_cmp),
        }
    };
    let mut confidences: Vec<f64> = set.iter().map(|&i| scores[i].label).collect();
    confidences.sort_by(f64::total_cmp);
    let ceiling = (!confidences.is_empty()).then(|| mean(&confidences));

    // As many of all candidates as were kept, of each label.
    let drawn = |label: usize| {
        let own: Vec<usize> = all.iter().copied().filter(|&i| label_of(i) == label).collect();
        let mut rng = stream(config.seed, "filter-before", label as u64);
        sample(&mut rng, own.len(), kept[label].len().min(own.len())).into_iter().map(|i| own[i]).collect::<Vec<_>>()
    };
    let before = [drawn(0), drawn(1)].concat();
    let texts = |of: &[usize]| of.iter().map(|&i| candidates[i].statement.as_str()).collect::<Vec<_>>();
    let Comparison { before: sampled, after, clusters, explained, map } =
        diversity::compare(&texts(&before), &texts(&set), config.seed);
    let point = |(place, (&i, [x, y])): (usize, (&usize, [f64; 2]))| MapPoint {
        index: candidates[i].index,
        label: label_of(i),
        kept: place >= before.len(),
        place: [x, y],
    };
    let map = before.iter().chain(&set).zip(map).enumerate().map(point).collect();
    let report = FilterReport {
        behaviour: behaviour.name.clone(),
        config: config.clone(),
        labels: [0, 1].map(label_report),
        too_long: scores.iter().filter(|score| score.too_long).count(),
        kept: set.len(),
        ceiling,
        floor: ceiling.map(|ceiling| 1.0 - ceiling),
        quantiles: (!confidences.is_empty()).then(|| QUANTILES.map(|share| quantile(&confidences, share))),
        calibration,
        truth,
        diversity: DiversityReport { before: sampled, after, clusters, explained },
    };
    (report, map)
}

/// A statement's place on the map.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MapPoint {
    /// Number of the text.
    pub index: usize,
    /// Its label: 0 or 1.
    pub label: usize,
    /// Whether it is one of the set, or of the sample of all.
    pub kept: bool,
    /// Along and up.
    pub place: [f64; 2],
}

/// Writes the set, and all that is known of it.
///
/// # Errors
/// When a file cannot be written.
pub fn save(
    out: &Path,
    behaviour: &Behaviour,
    rows: &[Question],
    report: &FilterReport,
    map: &[MapPoint],
) -> Result<PathBuf, DiskError> {
    let (sets, own) = (out.join("sets"), out.join(&behaviour.name));
    for folder in [&sets, &own] {
        fs::create_dir_all(folder).map_err(DiskError::io(folder, "make the folder"))?;
    }
    text::write(&own.join("diversity.json"), &lines::pretty(&json!({"points": map})))?;
    draw(&own.join("diversity.svg"), behaviour, map)?;
    text::write(&own.join("filter.md"), &report.to_markdown())?;
    text::write(&own.join("filter.json"), &lines::pretty(report))?;
    let set = sets.join(format!("{}.jsonl", behaviour.name));
    text::write(&set, &questions::to_jsonl(rows))?;
    Ok(set)
}

impl FilterReport {
    /// As a page.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let number = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"));
        let right = |accuracy: Option<Accuracy>| accuracy.map_or_else(|| "–".to_owned(), shown);
        let mut page = format!("# {}\n\n", self.behaviour);
        let relevance = self.config.relevance_judge.as_ref().map(|judge| format!(", relevance by {judge}"));
        let _ = writeln!(page, "Judge: {}{}\n", self.config.judge, relevance.unwrap_or_default());
        page += "| label | candidates | likelier than not | kept | least confidence |\n|---|---|---|---|---|\n";
        for LabelReport { label, candidates, above_half, kept, least } in &self.labels {
            let _ = writeln!(page, "| {label} | {candidates} | {above_half} | {kept} | {} |", number(*least));
        }
        if self.too_long > 0 {
            let _ =
                writeln!(page, "\n{} candidates are too long for a judge and count as undecided (½).", self.too_long);
        }
        let all = (0..QUANTILES.len()).map(|i| number(self.quantiles.map(|quantiles| quantiles[i])));
        let _ = writeln!(
            page,
            "\nCeiling (mean confidence) {}, floor {}; confidence at 5, 25, 50, 75, 95 %: {}\n",
            number(self.ceiling),
            number(self.floor),
            all.collect::<Vec<_>>().join(", ")
        );
        if let Some(truth) = &self.truth {
            for (what, accuracy) in [("unfiltered", truth.before), ("filtered", truth.after)] {
                let _ = writeln!(page, "- labels right, {what}: {}", right(accuracy));
            }
            let error = number(truth.calibration_error);
            let _ = writeln!(page, "- expected calibration error of the judge over all candidates: {error}\n");
        }
        page += "| P[wanted label] | candidates | mean | right |\n|---|---|---|---|\n";
        for Bin { from, count, mean, accuracy } in &self.calibration {
            let (to, mean, right) = (from + 1.0 / BINS as f64, number(*mean), right(*accuracy));
            let _ = writeln!(page, "| {from:.1}–{to:.1} | {count} | {mean} | {right} |");
        }
        let DiversityReport { before, after, clusters, explained } = &self.diversity;
        let _ = writeln!(page, "\n| diversity | {} of all | {} kept |\n|---|---|---|", before.texts, after.texts);
        for (i, what) in ["words", "pairs of words", "triples"].iter().enumerate() {
            let _ = writeln!(page, "| distinct {what} | {:.3} | {:.3} |", before.distinct[i], after.distinct[i]);
        }
        let _ = writeln!(page, "| mean distance | {} | {} |", number(before.distance), number(after.distance));
        let _ = writeln!(page, "| clusters of {clusters} | {} | {} |", before.clusters, after.clusters);
        let _ = writeln!(
            page,
            "| effective clusters | {:.1} | {:.1} |\n\nThe map, diversity.svg, shows {:.0} % of the variance.",
            before.effective_clusters,
            after.effective_clusters,
            100.0 * (explained[0] + explained[1])
        );
        page
    }
}

/// A share with its interval.
#[must_use]
pub fn shown(accuracy: Accuracy) -> String {
    let Accuracy { known, right, share, interval: [low, high], .. } = accuracy;
    format!("{:.1} % [{:.1}, {:.1}], {right} of {known}", 100.0 * share, 100.0 * low, 100.0 * high)
}

/// Two pictures of one map: all candidates, and what was kept.
fn draw(path: &Path, behaviour: &Behaviour, map: &[MapPoint]) -> Result<(), DiskError> {
    figure::write(path, |svg| {
        let root = SVGBackend::with_string(svg, (960, 480)).into_drawing_area();
        root.fill(&WHITE)?;
        let range = |axis: usize| {
            let places = map.iter().map(|point| point.place[axis]);
            let (low, high) = places.fold((0.0_f64, 0.0_f64), |(low, high), place| (low.min(place), high.max(place)));
            let margin = 0.05 * (high - low).max(1e-6);
            low - margin..high + margin
        };
        for (kept, area) in [false, true].into_iter().zip(root.split_evenly((1, 2))) {
            let count = map.iter().filter(|point| point.kept == kept).count();
            let title = match kept {
                false => format!("{}: {count} of all candidates", behaviour.name),
                true => format!("{count} kept"),
            };
            let mut chart = ChartBuilder::on(&area)
                .caption(title, ("sans-serif", 16))
                .margin(12)
                .x_label_area_size(32)
                .y_label_area_size(40)
                .build_cartesian_2d(range(0), range(1))?;
            let mesh = &mut chart.configure_mesh();
            mesh.x_desc("first component").y_desc("second component").light_line_style(TRANSPARENT).draw()?;
            for (label, color) in LABEL_COLORS.into_iter().enumerate() {
                let own = map.iter().filter(|point| point.kept == kept && point.label == label);
                let dots = own.map(|point| Circle::new((point.place[0], point.place[1]), 3, color.mix(0.6).filled()));
                chart
                    .draw_series(dots)?
                    .label(&behaviour.labels[label])
                    .legend(move |(x, y)| Circle::new((x + 8, y), 3, color.filled()));
            }
            chart.configure_series_labels().label_font(("sans-serif", 12)).background_style(WHITE.mix(0.8)).draw()?;
        }
        root.present()?;
        Ok(())
    })
}

/// Not the blue and orange that stand for first and second.
const LABEL_COLORS: [RGBColor; 2] = [RGBColor(0, 158, 115), RGBColor(204, 121, 167)];

/// Between the two nearest of sorted values, in proportion. There has to be one.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len() - 1;
    let place = share * last as f64;
    let below = place as usize;
    let above = (below + 1).min(last);
    sorted[below] + (place - below as f64) * (sorted[above] - sorted[below])
}

#[cfg(test)]
mod tests {
    use super::quantile;

    #[test]
    fn quantiles_lie_between_the_nearest() {
        assert_eq!([0.0, 0.5, 1.0, 0.25].map(|share| quantile(&[1.0, 2.0, 4.0], share)), [1.0, 2.0, 4.0, 1.5]);
    }
}
