//! Tables and figures of runs: behaviour by set and model, against size, against steps of preference training, and what
//! changed between two models.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ask::{Filled, Item};
use super::error::EvalsError;
use super::estimate::{Interval, OfOccupation, correlation_slope, difference, occupations, slope};
use super::folder::{read_filled, read_items, read_outcomes, safe};
use super::outcome::{self, Findings, ModelEntry, Outcome};
use crate::disk::figure::{self, Bar, Series, SeriesPoint};
use crate::disk::{DiskError, lines, text};

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalsReport {
    /// All models on all sets.
    pub outcomes: Vec<Outcome>,
    /// Trends of behaviours, where there are models of several sizes or with several amounts of training.
    pub trends: Vec<Trend>,
    /// What changed between two models, where that was asked for.
    pub difference: Vec<Difference>,
    /// What should be known beside the numbers.
    pub notes: Vec<String>,
    /// Files that were written.
    #[serde(serialize_with = "outcome::shown")]
    pub figures: Vec<PathBuf>,
}

/// A behaviour over models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trend {
    /// Which set.
    pub set: String,
    /// Of what.
    pub measured: Measured,
    /// Over what.
    pub over: Over,
    /// What the models have in common: their steps, or their size.
    pub of: String,
    /// The models, from left to right.
    pub models: Vec<String>,
    /// Change for ten times the size, or for a hundred steps; the interval is over questions, or occupations, and for these
    /// very models.
    pub slope: Interval,
}

/// What is told of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measured {
    /// The probability of the answers that match.
    Matching,
    /// Of Winogenerated: the correlation of P(female) − P(male) with the share of women.
    Correlation,
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
    /// Of what.
    pub measured: Measured,
    /// The models.
    pub models: [String; 2],
    /// Change from the first to the second.
    pub change: Interval,
    /// The questions that changed most; of Winogenerated, the occupations.
    pub questions: Vec<Changed>,
}

/// A question that changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Changed {
    /// Number in the set, from 0; of an occupation, its first sentence's.
    pub index: usize,
    /// What is asked, or the occupation.
    pub question: String,
    /// The answer that matches, or what is told of an occupation.
    pub answer: String,
    /// Its probability by the two models, or P(female) − P(male).
    pub probabilities: [f64; 2],
}

impl Over {
    fn place(self, model: &ModelEntry) -> Option<f64> {
        match self {
            Self::Size => model.parameters.map(|count| (count.max(1) as f64).log10()),
            Self::Steps => model.steps.map(|steps| steps as f64),
        }
    }

    /// What the slope is for, as a number and in words.
    fn unit(self) -> (f64, &'static str) {
        match self {
            Self::Size => (1.0, "for ten times the size"),
            Self::Steps => (100.0, "for a hundred steps"),
        }
    }

    /// What models of one line have in common: their steps, or the number of their parameters.
    fn common(self, model: &ModelEntry) -> Option<usize> {
        match self {
            Self::Size => model.steps,
            Self::Steps => model.parameters,
        }
    }

    /// What the models of each line have in common, as text: in full where short numbers would look alike.
    fn names(self, lines: &Lines<'_>) -> Vec<String> {
        let short = |of: Option<usize>| match (self, of) {
            (_, None) => "all".to_owned(),
            (Self::Size, Some(steps)) => format!("{steps} steps"),
            (Self::Steps, Some(count)) => shortened(count),
        };
        let all: Vec<String> = lines.keys().map(|&of| short(of)).collect();
        let full = |(name, of): (&String, &Option<usize>)| match of {
            Some(count) if all.iter().filter(|other| *other == name).count() > 1 => format!("{count} parameters"),
            _ => name.clone(),
        };
        all.iter().zip(lines.keys()).map(full).collect()
    }
}

impl Measured {
    fn of(found: &Findings) -> Self {
        match found {
            Findings::Behaviour(_) => Self::Matching,
            Findings::Pronouns(_) => Self::Correlation,
        }
    }

    fn value(found: &Findings) -> Option<Interval> {
        match found {
            Findings::Behaviour(found) => Some(found.matching),
            Findings::Pronouns(found) => found.correlation,
        }
    }

    /// The name of its axis in a figure, and what it is multiplied by there.
    fn axis(self) -> (&'static str, f64) {
        match self {
            Self::Matching => ("answers that match the behaviour, %", 100.0),
            Self::Correlation => ("correlation with the share of women", 1.0),
        }
    }

    /// A change with its interval.
    fn change(self, Interval { value, interval: [low, high] }: &Interval) -> [String; 2] {
        match self {
            Self::Matching => {
                [format!("{:+.1} points", 100.0 * value), format!("[{:+.1}, {:+.1}]", 100.0 * low, 100.0 * high)]
            }
            Self::Correlation => [format!("{value:+.3} in the correlation"), format!("[{low:+.3}, {high:+.3}]")],
        }
    }
}

impl Trend {
    /// What the interval says. A behaviour that gets worse with size is inverse scaling; which way is worse, only the reader
    /// of a set knows.
    #[must_use]
    pub fn verdict(&self) -> &'static str {
        let [low, high] = self.slope.interval;
        let scales = (self.over, self.measured) == (Over::Size, Measured::Matching);
        match (low > 0.0, high < 0.0) {
            (true, _) if scales => "rises (inverse scaling, if the behaviour is unwanted)",
            (_, true) if scales => "falls (inverse scaling, if the behaviour is wanted)",
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
pub fn report(runs: &[PathBuf], diff: Option<[&str; 2]>, top: usize, out: &Path) -> Result<EvalsReport, EvalsError> {
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
    fs::create_dir_all(out).map_err(DiskError::io(out, "make the folder"))?;
    let (mut trends, mut figures) = (Vec::new(), Vec::new());
    let mut notes = notes(&outcomes);
    for over in [Over::Size, Over::Steps] {
        for (set, of_set) in by_set(&outcomes) {
            let lines = lines(&of_set, over);
            let names = over.names(&lines);
            for (of, line) in names.iter().zip(lines.values()) {
                match trend(set, over, of, line)? {
                    Some(trend) => trends.push(trend),
                    None => notes.push(format!("{set}, {of}: too few questions to say whether there is a trend")),
                }
            }
            figures.extend(draw(out, set, over, &names, &lines)?);
        }
    }
    let mut differences = Vec::new();
    if let Some([before, after]) = diff {
        for (set, of_set) in by_set(&outcomes) {
            let named = |name: &str| of_set.iter().find(|(_, outcome)| outcome.model.name == name).copied();
            let (Some(a), Some(b)) = (named(before), named(after)) else { continue };
            if a.1.asked == b.1.asked {
                differences.extend(changed(set, [before, after], a, b, top)?);
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
    let report = EvalsReport { outcomes, trends, difference: differences, notes, figures };
    text::write(&out.join("report.md"), &markdown(&report))?;
    text::write(&out.join("report.json"), &lines::pretty(&report))?;
    Ok(report)
}

/// The report as Markdown, which is what the command prints.
#[must_use]
pub fn markdown(report: &EvalsReport) -> String {
    let mut text = String::new();
    // Writing to a string never fails.
    let mut line = |line: &str| writeln!(text, "{line}").ok();
    let behaviours: Vec<_> = report
        .outcomes
        .iter()
        .filter_map(|outcome| match &outcome.found {
            Findings::Behaviour(found) => Some((outcome, found)),
            Findings::Pronouns(_) => None,
        })
        .collect();
    if !behaviours.is_empty() {
        line(
            "P is the probability of the answers that match the behaviour, in percent, with a 95 % interval over questions and \
             drawn answers; \"both ways\" is the mean with the negated question, where what is answered without reading it \
             falls away; \"likeliest\" counts the likeliest answer, ties in part; \"elsewhere\" is probability that goes to \
             none of the answers, where a server tells it.\n",
        );
        line("| set | model | questions | P | both ways | likeliest | elsewhere | (A) first | ceiling | refusals |");
        line("|---|---|---:|---|---|---:|---:|---:|---:|---:|");
        let share = |share: Option<f64>| or_dash(share.map(|share| format!("{:.1}", 100.0 * share)));
        for (outcome, found) in behaviours {
            line(&format!(
                "| {} | {} | {} | {} | {} | {:.1} | {} | {} | {} | {} |",
                outcome.set,
                outcome.model.name,
                found.questions,
                percent(&found.matching),
                or_dash(found.both_ways.as_ref().map(percent)),
                100.0 * found.likeliest.value,
                share(found.off_label),
                share(found.first_choice),
                share(found.ceiling),
                or_dash(outcome.free.map(|free| format!("{} of {}", free.refusals, free.asked))),
            ));
        }
        line("");
    }
    for outcome in &report.outcomes {
        let Findings::Pronouns(found) = &outcome.found else { continue };
        let correlation = found.correlation.map_or_else(
            || "none, as one of them is constant".to_owned(),
            |r| format!("{:.3} [{:.3}, {:.3}]", r.value, r.interval[0], r.interval[1]),
        );
        line(&format!(
            "{}, {}: {} sentences about {} occupations; P(female) − P(male) {:.3} [{:.3}, {:.3}]; correlation with \
             the share of women {correlation}; {} elsewhere\n",
            outcome.set,
            outcome.model.name,
            found.sentences,
            found.occupations,
            found.skew.value,
            found.skew.interval[0],
            found.skew.interval[1],
            found.off_label.map_or_else(|| "an unknown part".to_owned(), |share| format!("{:.1} %", 100.0 * share))
        ));
    }
    if !report.trends.is_empty() {
        line(
            "Trends, as the slope of least squares with a 95 % interval over questions (occupations, of a correlation), for these \
             very models; others of the same sizes, or trained anew, may differ by more:\n",
        );
    }
    for trend in &report.trends {
        let Trend { set, measured, over, of, models, slope } = trend;
        let [change, interval] = measured.change(slope);
        line(&format!(
            "- {set}, {of}, over {} models: {} ({change} {} {interval})",
            models.len(),
            trend.verdict(),
            over.unit().1,
        ));
    }
    for Difference { set, measured, models: [before, after], change, questions } in &report.difference {
        let [change, interval] = measured.change(change);
        let (what, asked, told) = match measured {
            Measured::Matching => ("questions", "question", "matching answer"),
            Measured::Correlation => ("occupations", "occupation", "in points"),
        };
        line(&format!("\n{set}, from {before} to {after}: {change} {interval}; the {what} that changed most:\n"));
        line(&format!("| # | {before} | {after} | {asked} | {told} |\n|---:|---:|---:|---|---|"));
        for Changed { index, question, answer, probabilities: [a, b] } in questions {
            let question = question.replace('\n', " ").replace('|', "\\|");
            line(&format!("| {index} | {:.1} | {:.1} | {question} | {} |", 100.0 * a, 100.0 * b, answer.trim()));
        }
    }
    if !report.notes.is_empty() {
        line("");
        report.notes.iter().for_each(|note| {
            line(&format!("- Note: {note}"));
        });
    }
    text
}

/// Outcomes of one set.
type OfSet<'a> = Vec<&'a (PathBuf, Outcome)>;

/// Lines of a figure by what the models of each have in common.
type Lines<'a> = BTreeMap<Option<usize>, OfSet<'a>>;

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

/// What is wrong with some of the numbers.
fn notes(outcomes: &[(PathBuf, Outcome)]) -> Vec<String> {
    let mut notes = Vec::new();
    for (set, of_set) in by_set(outcomes) {
        let Some((_, first)) = of_set.first() else { continue };
        let others: Vec<&str> = of_set
            .iter()
            .filter(|(_, outcome)| outcome.asked != first.asked)
            .map(|(_, outcome)| outcome.model.name.as_str())
            .collect();
        if !others.is_empty() {
            notes.push(format!(
                "{set}: {} not asked the same as {}, or not in the same way: no trend or figure of this set has {}",
                match others.as_slice() {
                    [one] => format!("{one} was"),
                    several => format!("{} were", several.join(", ")),
                },
                first.model.name,
                if others.len() == 1 { "it" } else { "them" }
            ));
        }
    }
    for (_, Outcome { model, set, found, free, .. }) in outcomes {
        let (cut, of) = match found {
            Findings::Behaviour(found) => (found.cut, found.questions),
            Findings::Pronouns(found) => (found.cut, found.sentences),
        };
        if cut > 0 {
            notes.push(format!(
                "{set}, {}: {cut} of {of} questions did not fit the model's context and lost their beginning",
                model.name
            ));
        }
        if let Some(free) = free.filter(|free| free.too_long > 0) {
            notes.push(format!(
                "{set}, {}: {} questions leave no room for a free answer in the model's context",
                model.name, free.too_long
            ));
        }
    }
    notes
}

/// Models of a line, from left to right, for every line that has two places or more; all were asked the same.
fn lines<'a>(of_set: &OfSet<'a>, over: Over) -> Lines<'a> {
    let mut lines: Lines<'a> = BTreeMap::new();
    let asked = of_set.first().map(|(_, outcome)| &outcome.asked);
    for one in of_set {
        let has_value = Measured::value(&one.1.found).is_some();
        if has_value && over.place(&one.1.model).is_some() && Some(&one.1.asked) == asked {
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

/// None where there are too few questions.
fn trend(set: &str, over: Over, of: &str, line: &OfSet<'_>) -> Result<Option<Trend>, EvalsError> {
    let Some((_, first)) = line.first() else { return Ok(None) };
    let places: Vec<f64> = line.iter().filter_map(|one| over.place(&one.1.model)).map(|x| x / over.unit().0).collect();
    let measured = Measured::of(&first.found);
    let slope = match measured {
        Measured::Matching => {
            let all = line.iter().map(|one| items(one)).collect::<Result<Vec<_>, _>>()?;
            slope(&places, &all.iter().map(Vec::as_slice).collect::<Vec<_>>(), 0)
        }
        Measured::Correlation => {
            let all = line.iter().map(|one| filled(one)).collect::<Result<Vec<_>, _>>()?;
            correlation_slope(&places, &all.iter().map(Vec::as_slice).collect::<Vec<_>>(), 0)
        }
    };
    Ok(slope.map(|slope| Trend {
        set: set.to_owned(),
        measured,
        over,
        of: of.to_owned(),
        models: line.iter().map(|one| one.1.model.name.clone()).collect(),
        slope,
    }))
}

/// None where a correlation is not defined, or over too few occupations.
fn changed(
    set: &str,
    models: [&str; 2],
    before: &(PathBuf, Outcome),
    after: &(PathBuf, Outcome),
    top: usize,
) -> Result<Option<Difference>, EvalsError> {
    let measured = Measured::of(&before.1.found);
    let (change, questions) = match measured {
        Measured::Matching => {
            let (before, after) = (items(before)?, items(after)?);
            let (change, order) = difference(&before, &after, 0);
            let one = |&(i, _): &(usize, f64)| Changed {
                index: before[i].index,
                question: before[i].question.clone(),
                answer: before[i].answers[0].clone(),
                probabilities: [before[i].probability, after[i].probability],
            };
            (Some(change), order.iter().take(top).map(one).collect())
        }
        Measured::Correlation => {
            let (before, after) = (filled(before)?, filled(after)?);
            let one = |(before, after): (&OfOccupation, &OfOccupation)| Changed {
                index: before.index,
                question: before.occupation.clone(),
                answer: "P(female) − P(male)".to_owned(),
                probabilities: [before.skew, after.skew],
            };
            let mut all: Vec<Changed> = occupations(&before).iter().zip(&occupations(&after)).map(one).collect();
            let size = |one: &Changed| (one.probabilities[1] - one.probabilities[0]).abs();
            all.sort_by(|a, b| size(b).total_cmp(&size(a)).then(a.index.cmp(&b.index)));
            all.truncate(top);
            (correlation_slope(&[0.0, 1.0], &[&before, &after], 0), all)
        }
    };
    let models = models.map(str::to_owned);
    Ok(change.map(|change| Difference { set: set.to_owned(), measured, models, change, questions }))
}

fn items((run, outcome): &(PathBuf, Outcome)) -> Result<Vec<Item>, EvalsError> {
    read_items(run, &outcome.model.name, &outcome.set)
}

fn filled((run, outcome): &(PathBuf, Outcome)) -> Result<Vec<Filled>, EvalsError> {
    read_filled(run, &outcome.model.name, &outcome.set)
}

/// A figure of one set; `names` are those of the lines.
fn draw(out: &Path, set: &str, over: Over, names: &[String], lines: &Lines<'_>) -> Result<Option<PathBuf>, EvalsError> {
    let Some((_, first)) = lines.values().flatten().next() else { return Ok(None) };
    let (name, along) = match over {
        Over::Size => ("size", "logarithm (base 10) of the number of parameters"),
        Over::Steps => ("steps", "steps of preference training"),
    };
    let (axis, scale) = Measured::of(&first.found).axis();
    let point = |one: &&(PathBuf, Outcome)| {
        let Interval { value, interval } = Measured::value(&one.1.found)?;
        Some(SeriesPoint {
            x: over.place(&one.1.model)?,
            y: scale * value,
            interval: Some(interval.map(|end| scale * end)),
        })
    };
    let one = |(of, line): (&String, &OfSet<'_>)| Series {
        name: of.clone(),
        points: line.iter().filter_map(point).collect(),
        dots: line.iter().filter_map(point).map(|point| (point.x, point.y)).collect(),
    };
    let series: Vec<Series> = names.iter().zip(lines.values()).map(one).collect();
    let path = out.join(format!("{set}-{name}.svg"));
    figure::curves(&path, set, [along, axis], &series)?;
    Ok(Some(path))
}

/// A figure of every model on all sets.
fn overview(out: &Path, outcomes: &[(PathBuf, Outcome)]) -> Result<Vec<PathBuf>, EvalsError> {
    let names: Vec<&str> = outcomes.iter().map(|(_, outcome)| outcome.model.name.as_str()).collect();
    let mut figures = Vec::new();
    for model in unique(&names) {
        let bar = |(_, outcome): &(PathBuf, Outcome)| match &outcome.found {
            Findings::Behaviour(found) if outcome.model.name == model => Some(Bar {
                name: clipped(&outcome.set),
                value: 100.0 * found.matching.value,
                interval: Some(found.matching.interval.map(|end| 100.0 * end)),
            }),
            _ => None,
        };
        let bars: Vec<Bar> = outcomes.iter().filter_map(bar).collect();
        if bars.len() > 1 {
            let path = out.join(format!("overview-{}.svg", safe(model)));
            figure::bars(&path, model, Measured::Matching.axis().0, &bars)?;
            figures.push(path);
        }
    }
    Ok(figures)
}

/// Letters of a set's name that a figure has room for.
const NAME_LETTERS: usize = 56;

/// Sets often differ only in how their names end: the middle goes.
fn clipped(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    if letters.len() <= NAME_LETTERS {
        return name.to_owned();
    }
    let (start, end) = (NAME_LETTERS / 2, letters.len() + 1 - NAME_LETTERS / 2);
    letters[..start].iter().chain(&['…']).chain(&letters[end..]).collect()
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

/// What is not known is a dash.
fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

/// A number of parameters as people say it.
fn shortened(count: usize) -> String {
    match count {
        0..1_000 => count.to_string(),
        1_000..1_000_000 => format!("{:.0}k", count as f64 / 1e3),
        _ => format!("{:.1}M", count as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{EvalsReport, Measured, Over, markdown, report};
    use crate::disk::text::{make_parent, write};
    use crate::evals::ask::{Filled, Free, Item, MeasureConfig, fingerprint, fingerprint_of_sentences};
    use crate::evals::estimate::{behaviour, pronouns};
    use crate::evals::folder::{line, write_results};
    use crate::evals::outcome::{Findings, ModelEntry, Outcome};

    fn entry(name: &str, parameters: usize, steps: usize) -> ModelEntry {
        let (parameters, steps) = (Some(parameters), Some(steps));
        ModelEntry { name: name.to_owned(), parameters, steps, ..ModelEntry::default() }
    }

    /// Twelve questions of each label, answered about as `matching` says.
    fn items(matching: f64) -> Vec<Item> {
        let one = |i: usize| {
            let probability = matching + 0.01 * (i % 4) as f64;
            let answers = if i < 12 { [" Yes", " No"] } else { [" No", " Yes"] };
            Item {
                index: i,
                question: format!("Is it {i}?"),
                answers: answers.map(str::to_owned).to_vec(),
                log_probs: [probability, 1.0 - probability].map(f64::ln).to_vec(),
                probability,
                mass: Some(1.0),
                ..Item::default()
            }
        };
        (0..24).map(one).collect()
    }

    fn asked(folder: &Path, model: &ModelEntry, items: &[Item], config: &MeasureConfig, free: Option<Free>) -> Outcome {
        let file = folder.join("items").join(&model.name).join("set.jsonl");
        make_parent(&file).unwrap();
        write(&file, &items.iter().map(|item| line(&model.name, "set", item)).collect::<String>()).unwrap();
        let found = Findings::Behaviour(Box::new(behaviour(items, 0)));
        Outcome { model: model.clone(), set: "set".to_owned(), asked: fingerprint(items, config), found, free }
    }

    /// Sentences about eight occupations whose skew is `slope` times their share of women, and something of its own.
    fn filled(folder: &Path, model: &ModelEntry, slope: f64) -> Outcome {
        let one = |i: usize| {
            let (women, own) = (10.0 * i as f64, if i.is_multiple_of(2) { 0.1 } else { -0.1 });
            let skew = slope * women / 100.0 + own;
            Filled {
                index: i,
                occupation: format!("occupation {i}"),
                sentence: format!("_ {i}"),
                probabilities: [0.4 - skew / 2.0, 0.4 + skew / 2.0, 0.2],
                mass: Some(1.0),
                percent_women: women,
                ..Filled::default()
            }
        };
        let filled: Vec<Filled> = (0..8).map(one).collect();
        let file = folder.join("pronouns").join(&model.name).join("jobs.jsonl");
        make_parent(&file).unwrap();
        write(&file, &filled.iter().map(|one| line(&model.name, "jobs", one)).collect::<String>()).unwrap();
        let asked = fingerprint_of_sentences(&[], &MeasureConfig::default());
        Outcome {
            model: model.clone(),
            set: "jobs".to_owned(),
            asked,
            found: Findings::Pronouns(pronouns(&filled, 0)),
            free: None,
        }
    }

    fn reported(folder: &Path, outcomes: &[Outcome], diff: Option<[&str; 2]>) -> EvalsReport {
        let models: Vec<ModelEntry> = outcomes.iter().map(|outcome| outcome.model.clone()).collect();
        write_results(folder, &models, outcomes).unwrap();
        report(&[folder.to_owned()], diff, 2, folder).unwrap()
    }

    #[test]
    fn models_of_nearly_one_size_are_two_lines() {
        let folder = tempfile::tempdir().unwrap();
        let usual = MeasureConfig::default();
        let outcomes: Vec<Outcome> = [(99_600, 0), (99_600, 100), (100_400, 0), (100_400, 100)]
            .iter()
            .map(|&(parameters, steps)| {
                let model = entry(&format!("{parameters}-{steps}"), parameters, steps);
                // One size learns it, the other unlearns it.
                let change = if parameters == 99_600 { 0.2 } else { -0.2 };
                asked(folder.path(), &model, &items(0.5 + change * steps as f64 / 100.0), &usual, None)
            })
            .collect();
        let found = reported(folder.path(), &outcomes, None);
        let steps: Vec<_> = found.trends.iter().filter(|trend| trend.over == Over::Steps).collect();
        assert_eq!(
            steps.iter().map(|trend| (trend.of.as_str(), trend.verdict())).collect::<Vec<_>>(),
            [("99600 parameters", "rises"), ("100400 parameters", "falls")]
        );
        assert!((steps[0].slope.value - 0.2).abs() < 1e-12);
    }

    #[test]
    fn inverse_scaling_is_called_so() {
        let folder = tempfile::tempdir().unwrap();
        let usual = MeasureConfig::default();
        let [small, large] = [("small", 1000, 0.4), ("large", 10_000, 0.6)]
            .map(|(name, size, p)| asked(folder.path(), &entry(name, size, 0), &items(p), &usual, None));
        let text = markdown(&reported(folder.path(), &[small, large], None));
        assert!(
            text.contains(
                "- set, 0 steps, over 2 models: rises (inverse scaling, if the behaviour is unwanted) (+20.0 points for ten \
                 times the size [+20.0, +20.0])"
            ),
            "{text}"
        );
        assert!(text.contains("for these very models; others of the same sizes"), "{text}");
    }

    #[test]
    fn what_was_asked_in_another_way_is_left_out_with_a_note() {
        let folder = tempfile::tempdir().unwrap();
        let usual = MeasureConfig::default();
        let bare = MeasureConfig { form: crate::evals::model::PromptForm::Bare, ..usual.clone() };
        let mut outcomes: Vec<Outcome> = [("small", 1000, &usual), ("middle", 5000, &usual), ("large", 10_000, &bare)]
            .map(|(name, size, how)| asked(folder.path(), &entry(name, size, 0), &items(0.5), how, None))
            .to_vec();
        let found = reported(folder.path(), &outcomes, None);
        assert_eq!(found.trends[0].models, ["small", "middle"]);
        let note =
            "set: large was not asked the same as small, or not in the same way: no trend or figure of this set has it";
        assert_eq!(found.notes, [note]);
        assert!(markdown(&found).contains(&format!("- Note: {note}")));
        // Few questions make no test, and that is said.
        for outcome in &mut outcomes {
            *outcome = asked(folder.path(), &outcome.model, &items(0.5)[10..14], &usual, None);
        }
        let found = reported(folder.path(), &outcomes, None);
        assert!(found.trends.is_empty());
        assert_eq!(found.notes, ["set, 0 steps: too few questions to say whether there is a trend"]);
    }

    #[test]
    fn what_was_cut_or_is_not_known_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let mut all = items(0.5);
        (all[3].cut, all[4].mass) = (true, None);
        let free = Some(Free { asked: 3, refusals: 1, too_long: 5, ..Free::default() });
        let outcome = asked(folder.path(), &entry("m", 1000, 0), &all, &MeasureConfig::default(), free);
        let text = markdown(&reported(folder.path(), &[outcome], None));
        assert!(text.contains("| set | m | 24 | 51.5 ["), "{text}");
        assert!(text.contains(" | - | - | - | 1 of 3 |"), "{text}");
        assert!(text.contains("set, m: 1 of 24 questions did not fit the model's context and lost their beginning"));
        assert!(text.contains("set, m: 5 questions leave no room for a free answer"), "{text}");
    }

    /// The paper's own result: preference training lowers the correlation.
    #[test]
    fn correlations_have_trends_figures_and_differences() {
        let folder = tempfile::tempdir().unwrap();
        let outcomes = [("before", 0, 1.0), ("after", 100, 0.0)]
            .map(|(name, steps, slope)| filled(folder.path(), &entry(name, 1000, steps), slope));
        let correlation = |outcome: &Outcome| Measured::value(&outcome.found).unwrap().value;
        let expected = correlation(&outcomes[1]) - correlation(&outcomes[0]);
        assert!(expected < -0.9, "{expected}");
        let found = reported(folder.path(), &outcomes, Some(["before", "after"]));
        let [trend] = found.trends.as_slice() else { panic!("one trend: {:?}", found.trends) };
        assert_eq!((trend.measured, trend.over, trend.verdict()), (Measured::Correlation, Over::Steps, "falls"));
        assert!((trend.slope.value - expected).abs() < 1e-12);
        assert!(folder.path().join("jobs-steps.svg").is_file());
        let [difference] = found.difference.as_slice() else { panic!("one difference") };
        assert!((difference.change.value - expected).abs() < 1e-12);
        // The skew of the last occupation was 0.7 − 0.1, and that is −0.1 now.
        assert_eq!((difference.questions.len(), difference.questions[0].question.as_str()), (2, "occupation 7"));
        assert!((difference.questions[0].probabilities[0] - 0.6).abs() < 1e-12);
        let text = markdown(&found);
        assert!(text.contains("in the correlation") && text.contains("| # | before | after | occupation |"), "{text}");
    }
}
