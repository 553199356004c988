//! Tables and figures of runs: behaviour by set and model, against size, against steps of preference training, and what
//! changed between two models.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::measure::{Interval, Item, difference, slope};
use super::run::{EvalsError, Found, ModelEntry, Outcome, read_items, read_outcomes};
use crate::run::archive::write_atomically;
use crate::run::figure::{self, Bar, Series, SeriesPoint};

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// All models on all sets.
    pub outcomes: Vec<Outcome>,
    /// Trends of behaviours, where there are models of several sizes or with several amounts of training.
    pub trends: Vec<Trend>,
    /// What changed between two models, where that was asked for.
    pub difference: Vec<Difference>,
    /// Files that were written.
    pub figures: Vec<PathBuf>,
}

/// A behaviour over models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trend {
    /// Which set.
    pub set: String,
    /// Over what.
    pub over: Over,
    /// What the models have in common: their steps, or their size.
    pub of: String,
    /// The models, from left to right.
    pub models: Vec<String>,
    /// Change of the probability for ten times the size, or for a hundred steps; the interval is over questions.
    pub slope: Interval,
}

/// Over what a trend goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Over {
    /// The logarithm of the number of parameters.
    Size,
    /// Steps of preference training.
    Steps,
}

/// Two models on a set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Which set.
    pub set: String,
    /// The models.
    pub models: [String; 2],
    /// Change of the probability of matching answers from the first to the second.
    pub change: Interval,
    /// The questions that changed most.
    pub questions: Vec<Changed>,
}

/// A question that changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Changed {
    /// Number in the set, from 0.
    pub index: usize,
    /// What is asked.
    pub question: String,
    /// The answer that matches.
    pub answer: String,
    /// Its probability by the two models.
    pub probabilities: [f64; 2],
}

impl Over {
    fn place(self, model: &ModelEntry) -> Option<f64> {
        match self {
            Self::Size => model.parameters.map(|count| (count.max(1) as f64).log10()),
            Self::Steps => model.steps.map(|steps| steps as f64),
        }
    }

    /// What the slope is for.
    fn unit(self) -> f64 {
        match self {
            Self::Size => 1.0,
            Self::Steps => 100.0,
        }
    }

    fn unit_name(self) -> &'static str {
        match self {
            Self::Size => "for ten times the size",
            Self::Steps => "for a hundred steps",
        }
    }

    /// What models of one line have in common.
    fn common(self, model: &ModelEntry) -> String {
        match self {
            Self::Size => model.steps.map_or_else(|| "all".to_owned(), |steps| format!("{steps} steps")),
            Self::Steps => model.parameters.map_or_else(|| "all".to_owned(), shortened),
        }
    }
}

impl Trend {
    /// What the interval says.
    #[must_use]
    pub fn verdict(&self) -> &'static str {
        let [low, high] = self.slope.interval;
        match (low > 0.0, high < 0.0) {
            (true, _) => "rises",
            (_, true) => "falls",
            _ => "cannot be told from flat",
        }
    }
}

/// Puts together what the folders of runs hold, and writes `report.md`, `report.json` and figures. `diff` names two
/// models that are compared, and `top` how many questions are listed for each set.
///
/// # Errors
/// [`EvalsError`]: a run that is not finished, a model that is not there.
pub fn report(runs: &[PathBuf], diff: Option<[&str; 2]>, top: usize, out: &Path) -> Result<Report, EvalsError> {
    let mut outcomes: Vec<(PathBuf, Outcome)> = Vec::new();
    for run in runs {
        for outcome in read_outcomes(run)? {
            let same =
                |(_, other): &&(PathBuf, Outcome)| other.model.name == outcome.model.name && other.set == outcome.set;
            if let Some((other, _)) = outcomes.iter().find(same) {
                return Err(EvalsError::Config(format!(
                    "{} and {} both have a model {} on {}: name them apart (--models FILE)",
                    other.display(),
                    run.display(),
                    outcome.model.name,
                    outcome.set
                )));
            }
            outcomes.push((run.clone(), outcome));
        }
    }
    fs::create_dir_all(out).map_err(|source| io(out, "make the folder", source))?;
    let items = |(run, outcome): &(PathBuf, Outcome)| read_items(run, &outcome.model.name, &outcome.set);
    let (mut trends, mut figures) = (Vec::new(), Vec::new());
    for over in [Over::Size, Over::Steps] {
        for (set, of_set) in by_set(&outcomes) {
            let lines = lines(&of_set, over);
            for (of, line) in &lines {
                trends.extend(trend(set, over, of, line, &items)?);
            }
            figures.extend(draw(out, set, over, &lines)?);
        }
    }
    let mut differences = Vec::new();
    if let Some([before, after]) = diff {
        for (set, of_set) in by_set(&outcomes) {
            let named = |name: &str| of_set.iter().find(|(_, outcome)| outcome.model.name == name).copied();
            let (Some(a), Some(b)) = (named(before), named(after)) else { continue };
            if a.1.asked == b.1.asked && matches!(a.1.found, Found::Behaviour(_)) {
                differences.push(changed(set, [before, after], &items(a)?, &items(b)?, top));
            }
        }
        if differences.is_empty() {
            let known: Vec<&str> = outcomes.iter().map(|(_, outcome)| outcome.model.name.as_str()).collect();
            return Err(EvalsError::Config(format!(
                "--diff {before} {after}: no set was asked of both in the same way; there are {}",
                unique(&known).join(", ")
            )));
        }
    }
    figures.extend(overview(out, &outcomes)?);
    let outcomes = outcomes.into_iter().map(|(_, outcome)| outcome).collect();
    let report = Report { outcomes, trends, difference: differences, figures };
    write(&out.join("report.md"), &markdown(&report))?;
    let whole = serde_json::to_string_pretty(&report).expect("plain structs always serialise") + "\n";
    write(&out.join("report.json"), &whole)?;
    Ok(report)
}

/// The report as Markdown, which is what the command prints.
#[must_use]
pub fn markdown(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string never fails.
    let mut line = |line: String| writeln!(text, "{line}").ok();
    let behaviours: Vec<_> = report
        .outcomes
        .iter()
        .filter_map(|outcome| match &outcome.found {
            Found::Behaviour(found) => Some((outcome, found)),
            Found::Pronouns(_) => None,
        })
        .collect();
    if !behaviours.is_empty() {
        line(
            "P is the probability of the answers that match the behaviour, in percent, with a 95 % interval over questions and \
             drawn answers; \"both ways\" is the mean with the negated question, where what is answered without reading it \
             falls away; \"likeliest\" counts the likeliest answer, ties in part; \"elsewhere\" is probability that goes to \
             none of the answers."
                .to_owned(),
        );
        line(String::new());
        line(
            "| set | model | questions | P | both ways | likeliest | elsewhere | (A) first | ceiling | refusals |"
                .to_owned(),
        );
        line("|---|---|---:|---|---|---:|---:|---:|---:|---:|".to_owned());
        for (outcome, found) in behaviours {
            line(format!(
                "| {} | {} | {} | {} | {} | {:.1} | {:.1} | {} | {} | {} |",
                outcome.set,
                outcome.model.name,
                found.questions,
                percent(&found.matching),
                found.both_ways.as_ref().map_or_else(|| "-".to_owned(), percent),
                100.0 * found.likeliest.value,
                100.0 * found.off_label,
                found.first_choice.map_or_else(|| "-".to_owned(), |share| format!("{:.1}", 100.0 * share)),
                found.ceiling.map_or_else(|| "-".to_owned(), |ceiling| format!("{:.1}", 100.0 * ceiling)),
                outcome.free.map_or_else(|| "-".to_owned(), |free| format!("{} of {}", free.refusals, free.asked)),
            ));
        }
        line(String::new());
    }
    for outcome in &report.outcomes {
        let Found::Pronouns(found) = &outcome.found else { continue };
        let correlation = found.correlation.map_or_else(
            || "none, as one of them is constant".to_owned(),
            |r| format!("{:.3} [{:.3}, {:.3}]", r.value, r.interval[0], r.interval[1]),
        );
        line(format!(
            "{}, {}: {} sentences about {} occupations; P(female) − P(male) {:.3} [{:.3}, {:.3}]; correlation with the share of \
             women {correlation}; {:.1} % elsewhere",
            outcome.set,
            outcome.model.name,
            found.sentences,
            found.occupations,
            found.skew.value,
            found.skew.interval[0],
            found.skew.interval[1],
            100.0 * found.off_label
        ));
        line(String::new());
    }
    for trend in &report.trends {
        let Trend { set, over, of, models, slope, .. } = trend;
        line(format!(
            "- {set}, {of}, over {} models: {} ({:+.1} points {} [{:+.1}, {:+.1}])",
            models.len(),
            trend.verdict(),
            100.0 * slope.value,
            over.unit_name(),
            100.0 * slope.interval[0],
            100.0 * slope.interval[1]
        ));
    }
    for Difference { set, models: [before, after], change, questions } in &report.difference {
        line(String::new());
        line(format!("{set}, from {before} to {after}: {} points; the questions that changed most:", percent(change)));
        line(String::new());
        line(format!("| # | {before} | {after} | question | matching answer |"));
        line("|---:|---:|---:|---|---|".to_owned());
        for Changed { index, question, answer, probabilities: [a, b] } in questions {
            let question = question.replace('\n', " ").replace('|', "\\|");
            line(format!("| {index} | {:.1} | {:.1} | {question} | {} |", 100.0 * a, 100.0 * b, answer.trim()));
        }
    }
    text
}

/// Reads what was answered.
type ReadItems<'a> = dyn Fn(&(PathBuf, Outcome)) -> Result<Vec<Item>, EvalsError> + 'a;

/// Outcomes of one set.
type OfSet<'a> = Vec<&'a (PathBuf, Outcome)>;

/// Names of sets with their outcomes, in the order in which sets first appear.
fn by_set(outcomes: &[(PathBuf, Outcome)]) -> Vec<(&str, OfSet<'_>)> {
    let mut sets: Vec<(&str, OfSet<'_>)> = Vec::new();
    for one in outcomes {
        match sets.iter_mut().find(|(set, _)| *set == one.1.set) {
            Some((_, all)) => all.push(one),
            None => sets.push((&one.1.set, vec![one])),
        }
    }
    sets
}

/// Models of a line, from left to right, for every line that has two places or more; all were asked the same.
fn lines<'a>(of_set: &OfSet<'a>, over: Over) -> BTreeMap<String, OfSet<'a>> {
    let mut lines: BTreeMap<String, OfSet<'a>> = BTreeMap::new();
    let asked = of_set.first().map(|(_, outcome)| &outcome.asked);
    for one in of_set {
        let is_behaviour = matches!(one.1.found, Found::Behaviour(_));
        if is_behaviour && over.place(&one.1.model).is_some() && Some(&one.1.asked) == asked {
            lines.entry(over.common(&one.1.model)).or_default().push(one);
        }
    }
    let place = |one: &&(PathBuf, Outcome)| over.place(&one.1.model).unwrap_or(0.0);
    lines.retain(|_, line| {
        line.sort_by(|a, b| place(a).total_cmp(&place(b)));
        line.first().map(place) < line.last().map(place)
    });
    lines
}

fn trend(
    set: &str,
    over: Over,
    of: &str,
    line: &OfSet<'_>,
    items: &ReadItems<'_>,
) -> Result<Option<Trend>, EvalsError> {
    let places: Vec<f64> = line.iter().filter_map(|one| over.place(&one.1.model)).map(|x| x / over.unit()).collect();
    let all = line.iter().map(|one| items(one)).collect::<Result<Vec<_>, _>>()?;
    let all: Vec<&[Item]> = all.iter().map(Vec::as_slice).collect();
    Ok(slope(&places, &all, 0).map(|slope| Trend {
        set: set.to_owned(),
        over,
        of: of.to_owned(),
        models: line.iter().map(|one| one.1.model.name.clone()).collect(),
        slope,
    }))
}

fn changed(set: &str, models: [&str; 2], before: &[Item], after: &[Item], top: usize) -> Difference {
    let (change, order) = difference(before, after, 0);
    let one = |&(i, _): &(usize, f64)| Changed {
        index: before[i].index,
        question: before[i].question.clone(),
        answer: before[i].answers[0].clone(),
        probabilities: [before[i].probability, after[i].probability],
    };
    Difference {
        set: set.to_owned(),
        models: models.map(str::to_owned),
        change,
        questions: order.iter().take(top).map(one).collect(),
    }
}

/// A figure of one set.
fn draw(out: &Path, set: &str, over: Over, lines: &BTreeMap<String, OfSet<'_>>) -> Result<Option<PathBuf>, EvalsError> {
    if lines.is_empty() {
        return Ok(None);
    }
    let (name, along) = match over {
        Over::Size => ("size", "logarithm (base 10) of the number of parameters"),
        Over::Steps => ("steps", "steps of preference training"),
    };
    let point = |one: &&(PathBuf, Outcome)| match &one.1.found {
        Found::Behaviour(found) => over.place(&one.1.model).map(|x| SeriesPoint {
            x,
            y: 100.0 * found.matching.value,
            interval: Some(found.matching.interval.map(|end| 100.0 * end)),
        }),
        Found::Pronouns(_) => None,
    };
    let one = |(of, line): (&String, &OfSet<'_>)| Series {
        name: of.clone(),
        points: line.iter().filter_map(point).collect(),
        dots: line.iter().filter_map(point).map(|point| (point.x, point.y)).collect(),
    };
    let series: Vec<Series> = lines.iter().map(one).collect();
    let path = out.join(format!("{set}-{name}.svg"));
    let axes = [along, "answers that match the behaviour, %"];
    figure::curves(&path, set, axes, &series).map_err(|error| EvalsError::Config(error.to_string()))?;
    Ok(Some(path))
}

/// A figure of every model on all sets.
fn overview(out: &Path, outcomes: &[(PathBuf, Outcome)]) -> Result<Vec<PathBuf>, EvalsError> {
    let names: Vec<&str> = outcomes.iter().map(|(_, outcome)| outcome.model.name.as_str()).collect();
    let mut figures = Vec::new();
    for model in unique(&names) {
        let bar = |(_, outcome): &(PathBuf, Outcome)| match &outcome.found {
            Found::Behaviour(found) if outcome.model.name == model => Some(Bar {
                name: clipped(&outcome.set),
                value: 100.0 * found.matching.value,
                interval: found.matching.interval.map(|end| 100.0 * end),
            }),
            _ => None,
        };
        let bars: Vec<Bar> = outcomes.iter().filter_map(bar).collect();
        if bars.len() > 1 {
            let path = out.join(format!("overview-{}.svg", model.replace(['/', '\\', ':'], "_")));
            let along = "answers that match the behaviour, %";
            figure::bars(&path, model, along, &bars).map_err(|error| EvalsError::Config(error.to_string()))?;
            figures.push(path);
        }
    }
    Ok(figures)
}

/// Letters of a set's name that a figure has room for.
const NAME_LETTERS: usize = 26;

fn clipped(name: &str) -> String {
    match name.char_indices().nth(NAME_LETTERS) {
        Some((at, _)) => format!("{}…", &name[..at]),
        None => name.to_owned(),
    }
}

fn unique<'a>(names: &[&'a str]) -> Vec<&'a str> {
    let mut all: Vec<&str> = Vec::new();
    names.iter().for_each(|name| {
        if !all.contains(name) {
            all.push(name);
        }
    });
    all
}

fn percent(interval: &Interval) -> String {
    let Interval { value, interval: [low, high] } = interval;
    format!("{:.1} [{:.1}, {:.1}]", 100.0 * value, 100.0 * low, 100.0 * high)
}

/// A number of parameters as people say it.
fn shortened(count: usize) -> String {
    match count {
        0..1_000 => count.to_string(),
        1_000..1_000_000 => format!("{:.0}k", count as f64 / 1e3),
        _ => format!("{:.1}M", count as f64 / 1e6),
    }
}

fn write(path: &Path, text: &str) -> Result<(), EvalsError> {
    write_atomically(path, text.as_bytes()).map_err(|source| io(path, "write", source))
}

fn io(path: &Path, action: &'static str, source: std::io::Error) -> EvalsError {
    EvalsError::Io { path: path.to_owned(), action, source }
}
