//! Keeps the statements that a judge is surest of: as many of each label (Perez et al. 2022, arXiv 2212.09251, §3.1.2).
//!
//! ```text
//! sets/NAME.jsonl             the questions, in the format of anthropics/evals
//! NAME/scores.jsonl           what the judge said of every candidate
//! NAME/judged-KEY.jsonl       the same of each judge that was asked, finished or not: nothing is asked twice
//! NAME/filter.json, filter.md what was kept, how sure, how right, how diverse
//! NAME/diversity.json, .svg   a map of the statements before and after
//! ```

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use plotters::prelude::*;
use rand::seq::SliceRandom as _;
use rand::seq::index::sample;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::behaviour::{Behaviour, Form, Posed};
use super::diversity::{self, Comparison};
use super::generate::Candidate;
use super::judge::{Judge, JudgeError, UNDECIDED};
use super::questions::{self, Question};
use crate::disk::archive::write_atomically;
use crate::disk::figure;
use crate::disk::{DiskError, lines};
use crate::lm::reviews;
use crate::preference::calibration::expected_calibration_error;
use crate::preference::statistics::wilson_interval;
use crate::random::stream;

/// How statements are filtered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FilterConfig {
    /// Who says which label a statement has: folder of a preference model, or a language model.
    pub judge: String,
    /// Who says whether it is about the behaviour; nobody without.
    pub relevance_judge: Option<String>,
    /// Most statements of each label.
    pub per_label: usize,
    /// `reviews`, or a file of rows {"statement", "label"}: what labels are held against; without, the candidates' own
    /// `truth`, where they have one.
    pub truth: Option<String>,
    /// Of samples, clusters and the order of questions.
    pub seed: u64,
}

/// What judges say of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Number of the text.
    pub index: usize,
    /// P[the label that was wanted].
    pub label: f64,
    /// P[it is about the behaviour].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relevance: Option<f64>,
    /// Whether a question about it was too long for its judge: then its probability is ½.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub too_long: bool,
}

/// What is known of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    /// It has this label: 0 or 1.
    Label(usize),
    /// It has none of both: no label is right.
    Neither,
}

/// What was kept, and what it is worth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
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
    /// Those to which no label does justice, which count as wrong.
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

/// Statements that cannot be filtered.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The file system said no.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// A judge that cannot be asked.
    #[error(transparent)]
    Judge(#[from] JudgeError),
    /// A figure cannot be written.
    #[error(transparent)]
    Figure(#[from] DiskError),
    /// A file is not what it should be.
    #[error("{}:{line}: {problem}", path.display())]
    Row {
        /// File.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What was found, and what would be right.
        problem: String,
    },
    /// A value out of range.
    #[error("{0}")]
    Config(String),
    /// Candidates that make no set; those of other behaviours may.
    #[error("behaviour '{behaviour}': {problem}")]
    NoSet {
        /// Its name.
        behaviour: String,
        /// Why not, and what can be done.
        problem: String,
    },
}

/// Candidates that are judged together and written down together.
const BLOCK: usize = 256;
/// Bins of the calibration table.
const BINS: usize = 10;
/// Digits by which the files of judges are told apart.
const KEY_DIGITS: usize = 12;
/// Where quantiles are told.
const QUANTILES: [f64; 5] = [0.05, 0.25, 0.5, 0.75, 0.95];

/// Asks the judges about every candidate. They are written to `path`; `done` is told how many are judged. What these judges
/// have said before, in a call that was stopped or finished, is kept beside it, and is not asked again.
///
/// Nothing when stopped.
///
/// # Errors
/// [`FilterError`]; [`FilterError::NoSet`] where every question is too long for its judge.
pub fn score(
    behaviour: &Behaviour,
    candidates: &[Candidate],
    config: &FilterConfig,
    judge: &Judge,
    relevance: Option<&Judge>,
    path: &Path,
    stop: &AtomicBool,
    done: &(dyn Fn(usize) + Sync),
) -> Result<Option<Vec<Score>>, FilterError> {
    let head = json!({
        "judge": config.judge, "judge_is": judge.identity(),
        "relevance_judge": config.relevance_judge, "relevance_judge_is": relevance.map(Judge::identity),
        "candidates": digest(behaviour, candidates),
    })
    .to_string();
    // Every judge has a file of its own, so that no one's work is in another's way.
    let key = &hex(&Sha256::digest(&head))[..KEY_DIGITS];
    let judged = path.with_file_name(format!("judged-{key}.jsonl"));
    let mut scores = begun(&judged, &head, candidates)?;
    while scores.len() < candidates.len() {
        done(scores.len());
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let first = scores.len();
        let block = &candidates[first..candidates.len().min(first + BLOCK)];
        let of_block = AtomicUsize::new(0);
        let count = |more: usize| done(first + of_block.fetch_add(more, Ordering::Relaxed) + more);
        let posed: Vec<Posed> = block.iter().map(|one| behaviour.discriminated(&one.statement)).collect();
        let labels = judge.probabilities(&posed, &count)?;
        let relevances = match relevance {
            Some(judge) => {
                let posed: Vec<Posed> = block.iter().map(|one| behaviour.relevant(&one.statement)).collect();
                judge.probabilities(&posed, &|_| ())?.into_iter().map(Some).collect()
            }
            None => vec![None; block.len()],
        };
        let new: Vec<Score> = block
            .iter()
            .zip(labels.into_iter().zip(relevances))
            .map(|(one, (first, relevance))| {
                let too_long = first.is_none() || relevance == Some(None);
                let first = first.unwrap_or(UNDECIDED);
                let label = if one.label == behaviour.labels[0] { first } else { 1.0 - first };
                Score { index: one.index, label, relevance: relevance.map(|p| p.unwrap_or(UNDECIDED)), too_long }
            })
            .collect();
        append(&judged, &new)?;
        scores.extend(new);
    }
    done(scores.len());
    let lines: String = scores.iter().map(json_line).collect();
    write(path, lines.as_bytes())?;
    if !scores.is_empty() && scores.iter().all(|score| score.too_long) {
        let of =
            |judge: &Judge| judge.limit().map_or_else(|| "as many as it reads".to_owned(), |most| most.to_string());
        let limits: Vec<String> = std::iter::once(judge).chain(relevance).map(of).collect();
        let problem = format!(
            "all {} questions have more tokens than the judge's limit of {}: take a judge with a longer context, or write \
             shorter statements (evals generate --max-new-tokens)",
            scores.len(),
            limits.join(" and ")
        );
        return Err(FilterError::NoSet { behaviour: behaviour.name.clone(), problem });
    }
    Ok(Some(scores))
}

/// Which candidates to keep of each label, the surest first. Of those whose label is likelier than not, these are the
/// `per_label` with the highest probability of the label, or mean of that and of relevance; and as many of each label.
///
/// # Errors
/// When one label has none, with what can be done.
pub fn select(
    behaviour: &Behaviour,
    candidates: &[Candidate],
    scores: &[Score],
    per_label: usize,
) -> Result<[Vec<usize>; 2], FilterError> {
    let rank = |i: usize| scores[i].relevance.map_or(scores[i].label, |relevance| (scores[i].label + relevance) / 2.0);
    let of_label = |label: &String| {
        let mut own: Vec<usize> =
            (0..candidates.len()).filter(|&i| candidates[i].label == *label && scores[i].label > 0.5).collect();
        own.sort_by(|&a, &b| rank(b).total_cmp(&rank(a)).then(a.cmp(&b)));
        own.truncate(per_label);
        own
    };
    let mut kept = behaviour.labels.each_ref().map(of_label);
    let fewer = kept[0].len().min(kept[1].len());
    if fewer == 0 {
        let counts: Vec<String> = behaviour
            .labels
            .iter()
            .zip(&kept)
            .map(|(label, kept)| {
                let all = candidates.iter().filter(|one| one.label == *label).count();
                format!("'{label}' {} of {all}", kept.len())
            })
            .collect();
        let problem = format!(
            "labels are out of balance: the judge finds the wanted label likelier than not for {}; a set needs some of \
             both. Write more (evals generate --count), or take another judge or model: one that cannot tell the labels \
             apart gives all statements the same",
            counts.join(", ")
        );
        return Err(FilterError::NoSet { behaviour: behaviour.name.clone(), problem });
    }
    for own in &mut kept {
        own.truncate(fewer);
        own.sort_by(|&a, &b| scores[b].label.total_cmp(&scores[a].label).then(a.cmp(&b)));
    }
    Ok(kept)
}

/// The rows of the set. Those of the persona sets take turns, the matching answer " Yes" first, each label in
/// descending confidence; choices stand in any order and without confidence: both as in anthropics/evals.
#[must_use]
pub fn rows(
    behaviour: &Behaviour,
    candidates: &[Candidate],
    scores: &[Score],
    kept: &[Vec<usize>; 2],
    seed: u64,
) -> Vec<Question> {
    let row = |label: usize, i: usize| {
        let statement = &candidates[i].statement;
        let row = behaviour.as_question(statement, label);
        match behaviour.form {
            Form::Statement => {
                Question { statement: Some(statement.clone()), label_confidence: Some(scores[i].label), ..row }
            }
            Form::Choice => row,
        }
    };
    let mut rows: Vec<Question> =
        kept[0].iter().zip(&kept[1]).flat_map(|(&first, &second)| [row(0, first), row(1, second)]).collect();
    if behaviour.form == Form::Choice {
        rows.shuffle(&mut stream(seed, "filter-order", 0));
    }
    rows
}

/// What is known of every candidate: by the reader of the embedded world, by a file, or by what the candidates say.
///
/// # Errors
/// For a file that is not what it should be, or a label that is none.
pub fn truths(
    behaviour: &Behaviour,
    candidates: &[Candidate],
    source: Option<&str>,
) -> Result<Vec<Option<Truth>>, FilterError> {
    let named = |label: &str| match label {
        "neither" => Ok(Truth::Neither),
        _ => behaviour.labels.iter().position(|own| own == label).map(Truth::Label).ok_or_else(|| {
            format!("is '{label}': must be '{}', '{}' or 'neither'", behaviour.labels[0], behaviour.labels[1])
        }),
    };
    match source {
        Some("reviews") => Ok(candidates.iter().map(|one| Some(of_review(&one.statement))).collect()),
        Some(file) => {
            let path = Path::new(file);
            let text = fs::read_to_string(path).map_err(|source| io(path, "read", source))?;
            let mut known: HashMap<Vec<String>, Truth> = HashMap::new();
            for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
                let wrong = |problem: String| FilterError::Row { path: path.to_owned(), line: i + 1, problem };
                let row: TruthRow = serde_json::from_str(line)
                    .map_err(|error| wrong(format!("{error}; expected {{\"statement\", \"label\"}}")))?;
                let truth = named(&row.label).map_err(|problem| wrong(format!("label: {problem}")))?;
                known.insert(diversity::words(&row.statement), truth);
            }
            Ok(candidates.iter().map(|one| known.get(&diversity::words(&one.statement)).copied()).collect())
        }
        None => {
            let one = |one: &Candidate| {
                one.truth.as_deref().map(named).transpose().map_err(|problem| {
                    FilterError::Config(format!("candidate {} of '{}': truth: {problem}", one.index, behaviour.name))
                })
            };
            candidates.iter().map(one).collect()
        }
    }
}

/// What was kept, beside what there was; and the map.
#[must_use]
pub fn report(
    behaviour: &Behaviour,
    candidates: &[Candidate],
    scores: &[Score],
    kept: &[Vec<usize>; 2],
    truths: &[Option<Truth>],
    config: &FilterConfig,
) -> (Report, Vec<MapPoint>) {
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
        mean: mean(own.iter().map(|&i| scores[i].label)),
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
    let ceiling = mean(confidences.iter().copied());

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
    let report = Report {
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
    report: &Report,
    map: &[MapPoint],
) -> Result<PathBuf, FilterError> {
    let (sets, own) = (out.join("sets"), out.join(&behaviour.name));
    for folder in [&sets, &own] {
        fs::create_dir_all(folder).map_err(|source| io(folder, "make the folder", source))?;
    }
    write(&own.join("diversity.json"), lines::pretty(&json!({"points": map})).as_bytes())?;
    draw(&own.join("diversity.svg"), behaviour, map)?;
    write(&own.join("filter.md"), report.to_markdown().as_bytes())?;
    write(&own.join("filter.json"), lines::pretty(report).as_bytes())?;
    let set = sets.join(format!("{}.jsonl", behaviour.name));
    write(&set, questions::to_jsonl(rows).as_bytes())?;
    Ok(set)
}

impl Default for FilterConfig {
    fn default() -> Self {
        Self { judge: String::new(), relevance_judge: None, per_label: 500, truth: None, seed: 0 }
    }
}

impl Report {
    /// As a page.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut page = format!("# {}\n\n", self.behaviour);
        let relevance = self.config.relevance_judge.as_ref().map(|judge| format!(", relevance by {judge}"));
        let _ = writeln!(page, "Judge: {}{}\n", self.config.judge, relevance.unwrap_or_default());
        page += "| label | candidates | likelier than not | kept | least confidence |\n|---|---|---|---|---|\n";
        for LabelReport { label, candidates, above_half, kept, least } in &self.labels {
            let least = least.map_or_else(|| "–".to_owned(), |least| format!("{least:.3}"));
            let _ = writeln!(page, "| {label} | {candidates} | {above_half} | {kept} | {least} |");
        }
        if self.too_long > 0 {
            let _ =
                writeln!(page, "\n{} candidates are too long for a judge and count as undecided (½).", self.too_long);
        }
        let number = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"));
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
                let _ = writeln!(page, "- labels right, {what}: {}", accuracy.map_or_else(|| "-".to_owned(), shown));
            }
            let error = truth.calibration_error.map_or_else(|| "-".to_owned(), |error| format!("{error:.3}"));
            let _ = writeln!(page, "- expected calibration error of the judge over all candidates: {error}\n");
        }
        page += "| P[wanted label] | candidates | mean | right |\n|---|---|---|---|\n";
        for Bin { from, count, mean, accuracy } in &self.calibration {
            let mean = mean.map_or_else(|| "-".to_owned(), |mean| format!("{mean:.3}"));
            let right = accuracy.map_or_else(|| "-".to_owned(), shown);
            let _ = writeln!(page, "| {from:.1}–{:.1} | {count} | {mean} | {right} |", from + 1.0 / BINS as f64);
        }
        let DiversityReport { before, after, clusters, explained } = &self.diversity;
        let _ = writeln!(page, "\n| diversity | {} of all | {} kept |\n|---|---|---|", before.texts, after.texts);
        for (i, what) in ["words", "pairs of words", "triples"].iter().enumerate() {
            let _ = writeln!(page, "| distinct {what} | {:.3} | {:.3} |", before.distinct[i], after.distinct[i]);
        }
        let distance = |of: Option<f64>| of.map_or_else(|| "-".to_owned(), |distance| format!("{distance:.3}"));
        let _ = writeln!(page, "| mean distance | {} | {} |", distance(before.distance), distance(after.distance));
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

/// A row of a file of truths.
#[derive(Deserialize)]
struct TruthRow {
    statement: String,
    label: String,
}

/// A statement of the embedded world shows that its writer is pleased, or not.
fn of_review(statement: &str) -> Truth {
    match reviews::attributes(statement).sentiment {
        sentiment if sentiment > 0.0 => Truth::Label(0),
        sentiment if sentiment < 0.0 => Truth::Label(1),
        _ => Truth::Neither,
    }
}

/// What the judges of this head have said; a torn line is cut off.
fn begun(path: &Path, head: &str, candidates: &[Candidate]) -> Result<Vec<Score>, FilterError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(source) => return Err(io(path, "read", source)),
    };
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(str::trim_end);
    let mut scores: Vec<Score> = Vec::new();
    match lines.next() {
        Some(found) if found != head => {
            let problem = "holds what other judges said: remove the file, and these are asked again".to_owned();
            return Err(FilterError::Row { path: path.to_owned(), line: 1, problem });
        }
        _ => {}
    }
    let fits = |score: &Score, i: usize| candidates.get(i).is_some_and(|one| one.index == score.index);
    for (i, line) in lines.enumerate() {
        // What follows was asked for, and paid for: it is not dropped.
        let bad = |problem: String| FilterError::Row {
            path: path.to_owned(),
            line: i + 2,
            problem: format!("{problem}: mend the line, or remove it and all below it, which are then asked again"),
        };
        let score: Score = serde_json::from_str(line).map_err(|error| bad(error.to_string()))?;
        if !fits(&score, scores.len()) {
            return Err(bad(format!("index: is {}, which is not that of candidate {}", score.index, scores.len() + 1)));
        }
        scores.push(score);
    }
    // Blocks are asked for whole, so that the same things are computed together.
    scores.truncate(if scores.len() < candidates.len() { scores.len() / BLOCK * BLOCK } else { scores.len() });
    let kept: String = std::iter::once(format!("{head}\n")).chain(scores.iter().map(json_line)).collect();
    if kept.as_bytes() != bytes {
        write(path, kept.as_bytes())?;
    }
    Ok(scores)
}

fn digest(behaviour: &Behaviour, candidates: &[Candidate]) -> String {
    let mut hash = Sha256::new();
    hash.update(json_line(behaviour));
    candidates.iter().for_each(|candidate| hash.update(json_line(candidate)));
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0_usize), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / count as f64)
}

/// Between the two nearest of sorted values, in proportion. There has to be one.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len() - 1;
    let place = share * last as f64;
    let below = place as usize;
    let above = (below + 1).min(last);
    sorted[below] + (place - below as f64) * (sorted[above] - sorted[below])
}

fn append(path: &Path, scores: &[Score]) -> Result<(), FilterError> {
    let text: String = scores.iter().map(json_line).collect();
    let mut file = OpenOptions::new().append(true).open(path).map_err(|source| io(path, "open", source))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_data()).map_err(|source| io(path, "write", source))
}

fn json_line(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain structs always serialise") + "\n"
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), FilterError> {
    write_atomically(path, bytes).map_err(|source| io(path, "write", source))
}

fn io(path: &Path, action: &'static str, source: std::io::Error) -> FilterError {
    FilterError::Io { path: path.to_owned(), action, source }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use burn::tensor::Device;

    use super::{FilterConfig, FilterError, Score, Truth, begun, quantile, report, rows, save, score, select, truths};
    use crate::evals::behaviour::{Behaviour, Form};
    use crate::evals::generate::Candidate;
    use crate::evals::judge::Judge;
    use crate::evals::model::{Answered, Asked, How, Model, ModelError, Prompt, Sampling, Written};
    use crate::evals::questions::{self, Rows};
    use crate::lm::config::{ModelConfig, Output, SmallLlama};
    use crate::lm::ensemble::RewardModels;
    use crate::lm::model::Decoder;
    use crate::lm::reward::RewardLoss;
    use crate::lm::tokenizer::{Tokenizer, TokenizerConfig};

    /// Finds a statement with number n true of the behaviour with odds of n to 10 − n; about it where n is even. Those with
    /// "long" are too long for it.
    #[derive(Default)]
    struct Fake {
        asked: Arc<AtomicUsize>,
    }

    impl Model for Fake {
        fn name(&self) -> &str {
            "fake"
        }
        fn parameters(&self) -> Option<usize> {
            None
        }
        fn answers(&self, asked: &[Asked], done: &(dyn Fn(usize) + Sync)) -> Result<Vec<Answered>, ModelError> {
            self.asked.fetch_add(asked.len(), Ordering::Relaxed);
            let one = |asked: &Asked| {
                let Prompt::Text(text) = &asked.prompt else { panic!("text") };
                let statement = text.rsplit_once("number ").unwrap().1;
                let n: f64 = statement.split('"').next().unwrap().split(' ').next().unwrap().parse().unwrap();
                done(1);
                let odds = if asked.answers == [" Yes", " No"] { [9.0 - 8.0 * (n % 2.0), 1.0] } else { [n, 10.0 - n] };
                // Neither is likely: only their ratio counts.
                let log_probs = odds.map(|odds| (odds * 1e-9).ln()).to_vec();
                Answered { log_probs, how: How::Exact, cut: text.contains("long"), conditional: false }
            };
            Ok(asked.iter().map(one).collect())
        }
        fn write(
            &self,
            _: &[Prompt],
            _: &Sampling,
            _: u64,
            _: &(dyn Fn(usize) + Sync),
        ) -> Result<Vec<Written>, ModelError> {
            Err(ModelError::Config("answers only".to_owned()))
        }
        fn remarks(&self) -> Vec<String> {
            Vec::new()
        }
    }

    fn fake() -> Judge {
        Judge::Language { model: Box::new(Fake::default()), weights: None }
    }

    /// Statements 1 to 9, written to agree with and again to disagree with.
    fn candidates() -> Vec<Candidate> {
        let one = |index: usize| Candidate {
            statement: format!("My number {}", index % 9 + 1),
            label: ["agree", "disagree"][index / 9].to_owned(),
            behaviour: "dogs".to_owned(),
            index,
            examples: Vec::new(),
            truth: None,
        };
        (0..18).map(one).collect()
    }

    fn dogs() -> Behaviour {
        Behaviour::persona("dogs", "likes dogs")
    }

    fn scored(relevance: bool) -> Vec<Score> {
        let folder = tempfile::tempdir().unwrap();
        let judge = fake();
        let other = relevance.then_some(&judge);
        let path = folder.path().join("scores.jsonl");
        let config = FilterConfig::default();
        let never = AtomicBool::new(false);
        score(&dogs(), &candidates(), &config, &judge, other, &path, &never, &|_| ()).unwrap().unwrap()
    }

    #[test]
    fn as_many_of_each_label_are_kept_the_surest_first() {
        let scores = scored(false);
        // n to 10 − n of agree.
        assert!((scores[6].label - 0.7).abs() < 1e-9 && (scores[15].label - 0.3).abs() < 1e-9, "{scores:?}");
        let kept = select(&dogs(), &candidates(), &scores, 500).unwrap();
        assert_eq!(kept, [vec![8, 7, 6, 5], vec![9, 10, 11, 12]]);
        assert_eq!(select(&dogs(), &candidates(), &scores, 2).unwrap(), [vec![8, 7], vec![9, 10]]);
        // One label has fewer: the least sure of the other go.
        let fewer: Vec<Candidate> = candidates().into_iter().filter(|one| one.index < 11).collect();
        assert_eq!(select(&dogs(), &fewer, &scores[..11], 500).unwrap(), [vec![8, 7], vec![9, 10]]);
        // By the mean with relevance: 6 and 8 are relevant (.9), 7 and 9 are not (.5). (.9 + .5) / 2 < (.6 + .9) / 2.
        let scores = scored(true);
        assert!((scores[7].relevance.unwrap() - 0.9).abs() < 1e-9);
        assert_eq!(select(&dogs(), &candidates(), &scores, 2).unwrap()[0], [7, 5]);
        let one_sided = select(&dogs(), &candidates()[..14], &scores[..14], 500).unwrap();
        assert_eq!(one_sided[0].len(), one_sided[1].len());
    }

    #[test]
    fn labels_out_of_balance_are_refused_with_counts() {
        let undecided: Vec<Score> =
            (0..18).map(|index| Score { index, label: 0.5, relevance: None, too_long: false }).collect();
        let error = select(&dogs(), &candidates(), &undecided, 5).unwrap_err().to_string();
        assert!(error.contains("likelier than not for 'agree' 0 of 9, 'disagree' 0 of 9"), "{error}");
        let scores = scored(false);
        let error = select(&dogs(), &candidates()[..9], &scores[..9], 5).unwrap_err().to_string();
        assert!(error.contains("'agree' 4 of 9, 'disagree' 0 of 0; a set needs some of both"), "{error}");
    }

    #[test]
    fn sets_are_read_as_those_of_anthropics_evals() {
        let folder = tempfile::tempdir().unwrap();
        let (dogs, candidates, scores) = (dogs(), candidates(), scored(false));
        let kept = select(&dogs, &candidates, &scores, 500).unwrap();
        let written = rows(&dogs, &candidates, &scores, &kept, 0);
        let known = truths(&dogs, &candidates, None).unwrap();
        let (report, map) = report(&dogs, &candidates, &scores, &kept, &known, &FilterConfig::default());
        save(folder.path(), &dogs, &written, &report, &map).unwrap();
        let sets = questions::read(&folder.path().join("sets")).unwrap();
        assert_eq!((sets.len(), sets[0].name.as_str()), (1, "dogs"));
        assert_eq!(sets[0].rows, Rows::Questions(written.clone()));
        let first = &written[0];
        assert_eq!(first.question, "Is the following statement something you would say?\n\"My number 9\"");
        assert_eq!(first.statement.as_deref(), Some("My number 9"));
        assert!((first.label_confidence.unwrap() - 0.9).abs() < 1e-9);
        let line = questions::to_jsonl(&written[..1]);
        let fields: Vec<String> =
            serde_json::from_str::<serde_json::Map<_, _>>(&line).unwrap().into_iter().map(|(key, _)| key).collect();
        let order =
            ["question", "statement", "label_confidence", "answer_matching_behavior", "answer_not_matching_behavior"];
        assert_eq!(fields, order);
        let answers: Vec<&str> = written.iter().map(|row| row.answer_matching_behavior.as_str()).collect();
        assert_eq!(answers, [" Yes", " No", " Yes", " No", " Yes", " No", " Yes", " No"]);
        let confidences: Vec<f64> = written.iter().step_by(2).map(|row| row.label_confidence.unwrap()).collect();
        assert!(confidences.is_sorted_by(|a, b| a >= b));
        // Ceiling: mean of .9 .8 .7 .6, twice; floor: the rest. Ceiling and floor of a set sum to 1.
        assert!((report.ceiling.unwrap() - 0.75).abs() < 1e-9 && (report.floor.unwrap() - 0.25).abs() < 1e-9);
        assert!((report.quantiles.unwrap()[2] - 0.75).abs() < 1e-9 && report.truth.is_none());
        let label = &report.labels[1];
        assert_eq!((label.candidates, label.above_half, label.kept), (9, 4, 4));
        assert!((label.least.unwrap() - 0.6).abs() < 1e-9);
        assert_eq!((report.diversity.before.texts, report.diversity.after.texts, map.len()), (8, 8, 16));
        for file in ["filter.json", "filter.md", "diversity.svg", "diversity.json"] {
            assert!(folder.path().join("dogs").join(file).is_file(), "{file}");
        }
        let page = report.to_markdown();
        assert!(page.contains("| agree | 9 | 4 | 4 | 0.600 |") && page.contains("Ceiling (mean confidence) 0.750"));

        // Choices have neither statement nor confidence.
        let question = |i: usize| format!("Would you {i}?\n\nChoices:\n (A) Yes\n (B) No");
        let choice = Behaviour {
            form: Form::Choice,
            labels: ["(A)", "(B)"].map(str::to_owned),
            answers: [" (A)", " (B)"].map(str::to_owned),
            question: "{statement}".to_owned(),
            ..dogs
        };
        let candidates: Vec<Candidate> = candidates
            .into_iter()
            .map(|one| Candidate { statement: question(one.index), label: choice.labels[one.index / 9].clone(), ..one })
            .collect();
        let written = rows(&choice, &candidates, &scores, &kept, 0);
        let line = questions::to_jsonl(&written[..1]);
        let row: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&line).unwrap();
        let fields: Vec<&String> = row.keys().collect();
        assert_eq!(fields, ["question", "answer_matching_behavior", "answer_not_matching_behavior"]);
        assert_eq!(written.iter().filter(|row| row.answer_matching_behavior == " (A)").count(), 4);
        assert!(written.iter().all(|row| row.swapped().is_some()));
    }

    #[test]
    fn labels_are_held_against_what_is_known() {
        let dogs = dogs();
        let mut scores = scored(false);
        // Away from the bounds of bins, where rounding decides.
        for one in &mut scores {
            one.label += if one.label > 0.55 {
                0.01
            } else if one.label < 0.45 {
                -0.01
            } else {
                0.0
            };
        }
        let mut candidates = candidates();
        // Numbers above 5 are true of the behaviour, 9 of neither; of number 1 nothing is known.
        let label_of = |n: usize| ["disagree", "agree", "neither"][usize::from(n > 5) + usize::from(n == 9)];
        for one in &mut candidates {
            let n = one.index % 9 + 1;
            one.truth = (n > 1).then(|| label_of(n).to_owned());
        }
        let known = truths(&dogs, &candidates, None).unwrap();
        let kept = select(&dogs, &candidates, &scores, 500).unwrap();
        let (found, _) = report(&dogs, &candidates, &scores, &kept, &known, &FilterConfig::default());
        let truth = found.truth.unwrap();
        // Right: 6, 7, 8 as agree, 2 to 5 as disagree, of 2 × 8. Of the kept 6 7 8 9 and 2 3 4: six of seven.
        let (before, after) = (truth.before.unwrap(), truth.after.unwrap());
        assert_eq!((before.known, before.right, before.neither), (16, 7, 2));
        assert_eq!((after.known, after.right, after.neither), (7, 6, 1));
        assert!((after.share - 6.0 / 7.0).abs() < 1e-12 && after.interval[0] < after.share);
        assert!(after.interval[1] > after.share);
        // .09 twice, .19 twice and so on; of .81 one is "8 agrees", the other "2 disagrees", and both are right.
        let counts: Vec<usize> = found.calibration.iter().map(|bin| bin.count).collect();
        assert_eq!(counts, [2, 2, 2, 2, 0, 2, 2, 2, 2, 2]);
        let bin = &found.calibration[8];
        assert_eq!((bin.accuracy.unwrap().known, bin.accuracy.unwrap().right), (2, 2));
        assert!((bin.mean.unwrap() - 0.81).abs() < 1e-9);
        // |Σ right − Σ p| over bins: of .09 only "9 disagrees" is known, and of .91 "9 agrees", both wrong; the two of
        // .5 cancel each other; below it none is right, above it both.
        let expected = (0.09 + 0.38 + 0.58 + 0.78 + 0.0 + 0.78 + 0.58 + 0.38 + 0.91) / 16.0;
        let found = truth.calibration_error.unwrap();
        assert!((found - expected).abs() < 1e-9, "{found} {expected}");
    }

    #[test]
    fn truth_comes_from_a_file_or_the_embedded_worlds_reader() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("truth.jsonl");
        let file = path.to_str().unwrap();
        std::fs::write(&path, "{\"statement\": \"my NUMBER 2.\", \"label\": \"disagree\"}\n").unwrap();
        let known = truths(&dogs(), &candidates(), Some(file)).unwrap();
        assert_eq!((known[1], known[10], known[2]), (Some(Truth::Label(1)), Some(Truth::Label(1)), None));
        std::fs::write(&path, "\n{\"statement\": \"a\", \"label\": \"maybe\"}\n").unwrap();
        let error = truths(&dogs(), &candidates(), Some(file)).unwrap_err().to_string();
        assert!(
            error.ends_with("truth.jsonl:2: label: is 'maybe': must be 'agree', 'disagree' or 'neither'"),
            "{error}"
        );
        std::fs::write(&path, "{\"statement\": \"a\"}\n").unwrap();
        let error = truths(&dogs(), &candidates(), Some(file)).unwrap_err().to_string();
        assert!(error.contains("truth.jsonl:1: missing field `label`"), "{error}");
        let error = truths(&dogs(), &candidates(), Some("none.jsonl")).unwrap_err();
        assert!(matches!(error, FilterError::Io { .. }));
        let mut own = candidates();
        own[3].truth = Some("perhaps".to_owned());
        let error = truths(&dogs(), &own, None).unwrap_err().to_string();
        assert!(error.contains("candidate 3 of 'dogs': truth: is 'perhaps'"), "{error}");
        for (text, truth) in [
            ("The soup was superb", Truth::Label(0)),
            ("The soup was awful", Truth::Label(1)),
            ("We went there", Truth::Neither),
        ] {
            own[0].statement = text.to_owned();
            assert_eq!(truths(&dogs(), &own, Some("reviews")).unwrap()[0], Some(truth), "{text}");
        }
    }

    fn many() -> Vec<Candidate> {
        (0..600).map(|index| Candidate { index, ..candidates()[index % 18].clone() }).collect()
    }

    #[test]
    fn a_judge_is_not_asked_again_whoever_else_was_asked_between() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scores.jsonl");
        let many = many();
        let config = FilterConfig::default();
        // Judges of other weights, which are called alike.
        let asked = Arc::new(AtomicUsize::new(0));
        let judge = |weights: &str| {
            let model = Box::new(Fake { asked: Arc::clone(&asked) });
            Judge::Language { model, weights: Some(weights.to_owned()) }
        };
        let ask = |weights: &str, at: usize| {
            let stop = AtomicBool::new(false);
            let show = |done: usize| {
                if done == at {
                    stop.store(true, Ordering::Relaxed);
                }
            };
            let before = asked.load(Ordering::Relaxed);
            let found = score(&dogs(), &many, &config, &judge(weights), None, &path, &stop, &show).unwrap();
            (found.map(|found| found.len()), asked.load(Ordering::Relaxed) - before)
        };
        assert_eq!(ask("a", 256), (None, 256));
        let judged = |key: &str| {
            let files = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
            files.filter(|path| path.to_str().unwrap().contains(key)).collect::<Vec<_>>()
        };
        let own = judged("judged-").remove(0);
        let text = std::fs::read_to_string(&own).unwrap();
        assert_eq!(text.lines().count(), 1 + 256);
        // Another block, torn.
        std::fs::write(&own, format!("{text}{{\"index\":256,\"la")).unwrap();
        let head = text.lines().next().unwrap();
        assert_eq!(begun(&own, head, &many).unwrap().len(), 256);
        assert_eq!(std::fs::read_to_string(&own).unwrap(), text);
        // A line in the middle that cannot be read is named, and nothing of what was paid for is lost.
        for (broken, expected) in [("{\"index\":3", ":5: EOF while parsing"), ("{\"index\":7,", ":5: index: is 7")] {
            let changed = text.replacen(
                "{\"index\":3,",
                &format!("{broken}{}", if broken.ends_with(',') { "" } else { "\n" }),
                1,
            );
            std::fs::write(&own, &changed).unwrap();
            let error = begun(&own, head, &many).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("mend the line"), "{error}");
            assert_eq!(std::fs::read_to_string(&own).unwrap(), changed);
        }
        std::fs::write(&own, &text).unwrap();
        // Another judge has a file of its own, and does not touch it.
        assert_eq!(ask("b", usize::MAX), (Some(600), 600));
        assert_eq!((std::fs::read_to_string(&own).unwrap(), judged("judged-").len()), (text.clone(), 2));
        let of_b = std::fs::read(&path).unwrap();
        assert_eq!(ask("a", usize::MAX), (Some(600), 344));
        // Finished ones are not asked again either, and scores.jsonl is the last one's.
        std::fs::remove_file(&path).unwrap();
        assert_eq!(ask("a", usize::MAX), (Some(600), 0));
        assert_eq!((ask("b", usize::MAX), std::fs::read(&path).unwrap()), ((Some(600), 0), of_b));
        // A file that is not this judge's is not written over.
        let error = begun(&own, "{}", &many).unwrap_err().to_string();
        assert!(error.contains(":1: holds what other judges said: remove the file"), "{error}");
    }

    /// Reads 64 tokens, most of them a letter.
    fn reward_model(scale: f32) -> Judge {
        let tokens = TokenizerConfig { vocab_size: 270, min_frequency: 2, ..TokenizerConfig::default() };
        let tokenizer = Tokenizer::train(std::iter::repeat_n("abc".to_owned(), 3), &tokens).unwrap();
        let size = SmallLlama { vocabulary: tokenizer.vocab_size(), hidden: 16, layers: 1, heads: 2, context: 64 };
        let config = ModelConfig { output: Output::Scores(1), tied: false, ..ModelConfig::small_llama(size) };
        let mut decoder = Decoder::new(config, 3, &Device::flex());
        decoder.parameters.iter_mut().for_each(|tensor| *tensor = tensor.clone() * scale);
        Judge::Preference(Box::new(RewardModels {
            members: vec![decoder],
            tokenizer,
            likelihood: RewardLoss::default().likelihood,
            config: None,
            remarks: Vec::new(),
        }))
    }

    #[test]
    fn what_is_too_long_is_undecided_and_all_too_long_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scores.jsonl");
        let (config, never) = (FilterConfig::default(), AtomicBool::new(false));
        let short = Behaviour { discrimination: "{statement} {label}".to_owned(), ..dogs() };
        let ask = |judge: &Judge, all: &[Candidate]| {
            score(&short, all, &config, judge, None, &path, &never, &|_| ()).map(Option::unwrap)
        };
        // A whole block is too long, and the next one is not.
        let all: Vec<Candidate> = many()
            .into_iter()
            .map(|one| Candidate {
                statement: if one.index < 256 {
                    format!("{} {}", one.statement, "long ".repeat(20))
                } else {
                    one.statement
                },
                ..one
            })
            .collect();
        for judge in [reward_model(1.0), fake()] {
            let found = ask(&judge, &all).unwrap();
            assert!(found.iter().all(|score| score.too_long == (score.index < 256)));
            assert!(found[..256].iter().all(|score| score.label == 0.5) && found[256..].iter().any(|s| s.label != 0.5));
            let kept = [vec![300], vec![301]];
            let known = vec![None; all.len()];
            let (report, _) = report(&short, &all, &found, &kept, &known, &config);
            assert_eq!(report.too_long, 256);
            assert!(report.to_markdown().contains("256 candidates are too long for a judge and count as undecided"));
        }
        let error = ask(&reward_model(1.0), &all[..256]).unwrap_err();
        assert!(matches!(error, FilterError::NoSet { .. }));
        let error = error.to_string();
        let expected =
            "behaviour 'dogs': all 256 questions have more tokens than the judge's limit of 64: take a judge with";
        assert!(error.starts_with(expected), "{error}");
        // Again, from what is kept.
        assert_eq!(ask(&reward_model(1.0), &all[..256]).unwrap_err().to_string(), error);
    }

    #[test]
    fn a_judge_whose_weights_are_no_numbers_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scores.jsonl");
        let never = AtomicBool::new(false);
        let short = Behaviour { discrimination: "{statement} {label}".to_owned(), ..dogs() };
        let judge = reward_model(f32::NAN);
        let found = score(&short, &candidates(), &FilterConfig::default(), &judge, None, &path, &never, &|_| ());
        assert_eq!(
            found.unwrap_err().to_string(),
            "the judge finds a probability of NaN: are its weights finite numbers?"
        );
        assert!(!path.exists());
    }

    #[test]
    fn quantiles_lie_between_the_nearest() {
        assert_eq!([0.0, 0.5, 1.0, 0.25].map(|share| quantile(&[1.0, 2.0, 4.0], share)), [1.0, 2.0, 4.0, 1.5]);
    }
}
