//! How far raters agree with the set, with each other, and with themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;

use super::folder;
use super::{Answer, Event, Key, SampleItem, ValidationConfig, answers_of, in_force, median_milliseconds};
use crate::disk::text;
use crate::evals::error::EvalsError;
use crate::preference::statistics::wilson_interval;

/// What people found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ValidationReport {
    /// What was checked, and how.
    pub config: ValidationConfig,
    /// Items in the sample.
    pub items: usize,
    /// Items that somebody has answered: those that all shares are of.
    pub answered: usize,
    /// Each rater, by name.
    pub raters: Vec<Rater>,
    /// The answer that most raters chose, against the set's.
    pub majority: Agreement,
    /// Items whose label at least two thirds of their raters chose; "can't tell" is no choice of it.
    pub confirmed: Share,
    /// Fleiss' κ.
    pub kappa: Kappa,
    /// Is the question about the behaviour?
    pub relevance: Relevance,
    /// Items that all of their raters called clear.
    pub clear: Share,
    /// Items about which a rater chose another answer than the set's, those with the most such raters first.
    pub disagreements: Vec<Disagreement>,
    /// Raters who are not done, on whose account the disagreements are left out: these tell the set's labels.
    pub withheld_for: Vec<String>,
    /// Whether the set's file is no longer what the sample was drawn from; nothing where it is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_changed: Option<bool>,
}

/// Answers of one rater.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rater {
    /// Name.
    pub rater: String,
    /// Answered items, repeats not counted.
    pub answered: usize,
    /// Agreement with the set.
    pub agreement: Agreement,
    /// Items shown twice that got the same label both times.
    pub repeated: Share,
    /// Median milliseconds for an item.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub median_milliseconds: Option<u64>,
}

/// Agreement with the set's labels.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Agreement {
    /// Those that agree, of those with a choice.
    pub agree: Share,
    /// Without a choice: "can't tell", or as many raters for one answer as for the other.
    pub undecided: usize,
}

/// A part of a whole.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Share {
    /// How many.
    pub count: usize,
    /// Of how many.
    pub of: usize,
    /// The share; nothing of nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// Its 95 % interval (Wilson).
    pub interval: [f64; 2],
}

/// Fleiss' κ: agreement of raters beyond chance, 1 at best. It is over items that two raters or more have answered.
///
/// Categories are the answers (the alphabetically first, the second) and "can't tell", not "right" and "wrong": of labels
/// that are nearly all right, κ would be near 0 however well raters agree.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Kappa {
    /// The value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// Items that two raters or more have answered.
    pub items: usize,
    /// Answers to these.
    pub ratings: usize,
    /// Raters who gave them.
    pub raters: usize,
    /// Why there is no value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undefined: Option<&'static str>,
}

/// Relevance, over all answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Relevance {
    /// Mean, in 1..5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<f64>,
    /// Standard deviation of a sample.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deviation: Option<f64>,
    /// Answers of 1, 2, 3, 4 and 5.
    pub counts: [usize; 5],
}

/// An item about which a rater and the set do not agree.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Disagreement {
    /// The item.
    pub item: usize,
    /// Row of the set, from 0.
    pub row: usize,
    /// The statement, or the question.
    pub text: String,
    /// The answer that matches the behaviour, says the set.
    pub label: String,
    /// How sure the set is of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_confidence: Option<f64>,
    /// What each rater chose; nothing for "can't tell".
    pub chosen: BTreeMap<String, Option<String>>,
    /// How many chose another answer.
    pub against: usize,
}

/// A line of the report's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportLine {
    /// What is measured.
    pub name: String,
    /// The value.
    pub value: String,
    /// Perez et al.'s over all their sets, with three raters.
    pub paper: &'static str,
}

/// Reads a validation's folder and writes its `report.json` and `report.md`.
///
/// `reader` is a rater whose answers are final. Anybody else may be a rater: as long as some are not done, the report is
/// without disagreements, which tell the set's labels; when all are, their answers become final with it.
///
/// # Errors
/// Those of [`folder::open`] and [`folder::keys`]; when nobody has answered; when the files cannot be written.
pub fn write(path: &Path, reader: Option<&str>) -> Result<ValidationReport, EvalsError> {
    let mut validation = folder::open(path)?;
    let keys = folder::keys(&validation)?;
    let changed = folder::set_changed(&validation.config);
    let mut report = report(&validation.config, &validation.items, &keys, &validation.events, changed);
    if reader.is_none() {
        let is_open = |rater: &&str| answers_of(&validation.events, rater).len() < validation.turns();
        let names: Vec<&str> = report.raters.iter().map(|rater| rater.rater.as_str()).collect();
        let open: Vec<String> = names.iter().copied().filter(is_open).map(str::to_owned).collect();
        if open.is_empty() {
            names.iter().try_for_each(|rater| folder::finish(&mut validation, rater))?;
        } else {
            (report.disagreements, report.withheld_for) = (Vec::new(), open);
        }
    }
    if report.answered == 0 {
        let problem = format!("{}: nobody has answered yet: there is nothing to report", path.display());
        return Err(EvalsError::Config(problem));
    }
    let json = serde_json::to_string_pretty(&report).expect("strings and numbers always serialise") + "\n";
    for (name, text) in [("report.json", json), ("report.md", to_markdown(&report))] {
        text::write(&path.join(name), &text)?;
    }
    Ok(report)
}

/// What people found. `keys` are those of `items`, in their order.
#[must_use]
pub fn report(
    config: &ValidationConfig,
    items: &[SampleItem],
    keys: &[Key],
    events: &[Event],
    set_changed: Option<bool>,
) -> ValidationReport {
    let given = in_force(events);
    let names: BTreeSet<&str> = given.iter().map(|answer| answer.rater.as_str()).collect();
    let raters: Vec<Rater> = names.iter().map(|name| rater(name, &given, keys)).collect();
    let once: Vec<&Answer> = given.iter().copied().filter(|answer| !answer.repeat).collect();
    let of_item =
        |item: &SampleItem| -> Vec<&Answer> { once.iter().copied().filter(|a| a.item == item.item).collect() };
    let answered: Vec<(&SampleItem, &Key, Vec<&Answer>)> =
        items.iter().zip(keys).map(|(item, key)| (item, key, of_item(item))).filter(|(.., a)| !a.is_empty()).collect();
    let right = |key: &Key, answers: &[&Answer]| answers.iter().filter(|a| chose(a, &key.matching)).count();
    let wrong = |key: &Key, answers: &[&Answer]| {
        answers.iter().filter(|a| a.label.as_ref().is_some_and(|label| *label != key.matching)).count()
    };
    let votes: Vec<(usize, usize, usize)> =
        answered.iter().map(|(_, key, all)| (right(key, all), wrong(key, all), all.len())).collect();
    let decided = votes.iter().filter(|(right, wrong, _)| right != wrong).count();
    let majority = Agreement {
        agree: share(votes.iter().filter(|(right, wrong, _)| right > wrong).count(), decided),
        undecided: votes.len() - decided,
    };
    let confirmed = votes.iter().filter(|(right, _, all)| 3 * right >= 2 * all).count();
    let clear = answered.iter().filter(|(.., all)| all.iter().all(|answer| !answer.ambiguous)).count();
    let kappa = kappa(&answered, names.len());
    let mut disagreements: Vec<Disagreement> = answered
        .iter()
        .zip(&votes)
        .filter(|(_, (_, wrong, _))| *wrong > 0)
        .map(|((item, key, all), (_, wrong, _))| Disagreement {
            item: item.item,
            row: key.row,
            text: item.statement.as_ref().unwrap_or(&item.question).clone(),
            label: key.matching.trim().to_owned(),
            label_confidence: key.label_confidence,
            chosen: all.iter().map(|a| (a.rater.clone(), a.label.as_ref().map(|l| l.trim().to_owned()))).collect(),
            against: *wrong,
        })
        .collect();
    // Stable: items in their order where as many are against.
    disagreements.sort_by_key(|disagreement| std::cmp::Reverse(disagreement.against));
    ValidationReport {
        config: config.clone(),
        items: items.len(),
        answered: answered.len(),
        raters,
        majority,
        confirmed: share(confirmed, answered.len()),
        kappa,
        relevance: relevance(&once),
        clear: share(clear, answered.len()),
        disagreements,
        withheld_for: Vec::new(),
        set_changed,
    }
}

/// Fleiss' κ (1971) of a table with a row for each subject: how many raters chose each category.
///
/// Subjects may have different numbers of raters: the agreement of each is over the pairs of its own, and a category's
/// chance is its share of all ratings. Those with fewer than two raters say nothing of agreement, and are left out.
///
/// # Shapes
/// `counts[subject][category]`; every row has as many categories.
///
/// # Errors
/// Why it is not defined.
pub fn fleiss_kappa(counts: &[Vec<usize>]) -> Result<f64, &'static str> {
    let raters = |row: &Vec<usize>| row.iter().sum::<usize>();
    let counts: Vec<&Vec<usize>> = counts.iter().filter(|row| raters(row) >= 2).collect();
    let Some(first) = counts.first() else { return Err("no item was answered by two raters or more") };
    let agreeing = |row: &&Vec<usize>| {
        let n = raters(row);
        let pairs = row.iter().map(|&count| count * count).sum::<usize>() - n;
        pairs as f64 / (n * (n - 1)) as f64
    };
    let observed = counts.iter().map(agreeing).sum::<f64>() / counts.len() as f64;
    let category = |i: usize| counts.iter().map(|row| row[i]).sum::<usize>();
    let totals: Vec<usize> = (0..first.len()).map(category).collect();
    if totals.iter().filter(|&&total| total > 0).count() == 1 {
        return Err("all raters gave the same answer to all items: chance agrees as well");
    }
    let ratings = totals.iter().sum::<usize>() as f64;
    let by_chance = totals.iter().map(|&total| (total as f64 / ratings).powi(2)).sum::<f64>();
    Ok((observed - by_chance) / (1.0 - by_chance))
}

/// The report's table.
#[must_use]
pub fn table(report: &ValidationReport) -> Vec<ReportLine> {
    let line = |name: &str, value: String, paper: &'static str| ReportLine { name: name.to_owned(), value, paper };
    let mut lines = Vec::new();
    for rater in &report.raters {
        let Rater { rater: name, agreement, repeated, median_milliseconds, .. } = rater;
        let seconds = median_milliseconds.map_or(0.0, |milliseconds| milliseconds as f64 / 1e3);
        let value =
            format!("{}, {} can't tell; {seconds:.1} s an item", in_words(&agreement.agree), agreement.undecided);
        lines.push(line(&format!("{name} agrees with the set"), value, ""));
        if repeated.of > 0 {
            lines.push(line(&format!("{name} agrees with themselves"), in_words(repeated), ""));
        }
    }
    let Agreement { agree, undecided } = &report.majority;
    lines.push(line("majority agrees with the set", format!("{}, {undecided} undecided", in_words(agree)), ""));
    lines.push(line("labels confirmed by 2/3 or more", in_words(&report.confirmed), "95.5 %"));
    let Kappa { value, items, ratings, raters, undefined } = &report.kappa;
    let kappa = match (value, undefined) {
        (Some(value), _) => format!("{value:.3}, {raters} raters, {items} items, {ratings} ratings"),
        (None, why) => format!("not defined: {}", why.unwrap_or("unknown")),
    };
    lines.push(line("Fleiss' κ", kappa, "0.875"));
    let Relevance { mean, deviation, counts } = &report.relevance;
    let relevance = match (mean, deviation) {
        (Some(mean), Some(deviation)) => format!("{mean:.2} ± {deviation:.2}"),
        (Some(mean), None) => format!("{mean:.2}"),
        _ => "-".to_owned(),
    };
    let counts = counts.map(|count| count.to_string()).join("/");
    lines.push(line("relevance, 1 to 5", format!("{relevance} ({counts})"), "4.4 ± 0.9"));
    lines.push(line("called clear by all", in_words(&report.clear), "83.5 %"));
    lines
}

/// The report, to read.
#[must_use]
pub fn to_markdown(report: &ValidationReport) -> String {
    let ValidationReport { config, items, answered, .. } = report;
    let mut text = format!(
        "# Validation of {}\n\n{answered} of {items} items answered, drawn with seed {} from `{}` (SHA-256 `{}`).\n",
        config.name, config.seed, config.set, config.set_sha256
    );
    if let Some(behaviour) = &config.behaviour {
        text += &format!("\nThe behaviour: somebody who {behaviour}\n");
    }
    if report.set_changed == Some(true) {
        text += "\n**The set's file has changed since the sample was drawn: this is about the set as it was then.**\n";
    }
    text += "\n| | found | Perez et al. 2022 |\n|---|---|---|\n";
    for ReportLine { name, value, paper } in table(report) {
        text += &format!("| {} | {} | {paper} |\n", cell(&name), cell(&value));
    }
    text += "\nIntervals are 95 % (Wilson). \"Can't tell\" is left out of agreement, and counts against a label's being \
             confirmed. Shares are of items that somebody has answered; κ is over items that two raters or more have \
             answered.\n";
    if let Some(why) = withheld(report) {
        text += &format!("\n{why}\n");
    }
    if !report.disagreements.is_empty() {
        text += "\n## Where a rater chose another answer than the set's\n\n| row | question | set | raters |\n|---|---|---|---|\n";
        for disagreement in &report.disagreements {
            let Disagreement { row, text: question, label, .. } = disagreement;
            text += &format!("| {row} | {} | {} | {} |\n", cell(question), cell(label), cell(&chosen(disagreement)));
        }
    }
    text
}

/// That the disagreements are left out, and why; nothing where they are not.
#[must_use]
pub fn withheld(report: &ValidationReport) -> Option<String> {
    if report.withheld_for.is_empty() {
        return None;
    }
    Some(format!(
        "Where raters and the set disagree is left out, as it tells the set's labels, until {} {} answered everything (or \
         taken every answer back).",
        report.withheld_for.join(", "),
        if report.withheld_for.len() == 1 { "has" } else { "have" }
    ))
}

/// What raters chose, in words.
#[must_use]
pub fn chosen(disagreement: &Disagreement) -> String {
    let one =
        |(rater, label): (&String, &Option<String>)| format!("{rater}: {}", label.as_deref().unwrap_or("can't tell"));
    disagreement.chosen.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// A share with its interval, in words.
#[must_use]
pub fn in_words(share: &Share) -> String {
    let [low, high] = share.interval.map(|end| 100.0 * end);
    match share.share {
        Some(value) => format!("{:.1} % [{low:.1}, {high:.1}] of {}", 100.0 * value, share.of),
        None => "-".to_owned(),
    }
}

fn rater(name: &str, given: &[&Answer], keys: &[Key]) -> Rater {
    let own: Vec<&Answer> = given.iter().copied().filter(|answer| answer.rater == name).collect();
    let (again, once): (Vec<&Answer>, Vec<&Answer>) = own.iter().copied().partition(|answer| answer.repeat);
    let decided = once.iter().filter(|answer| answer.label.is_some()).count();
    let agree = once.iter().filter(|a| keys.get(a.item).is_some_and(|key| chose(a, &key.matching))).count();
    let both = again.iter().filter_map(|second| Some((once.iter().find(|first| first.item == second.item)?, second)));
    let both: Vec<bool> = both.map(|(first, second)| first.label == second.label).collect();
    Rater {
        rater: name.to_owned(),
        answered: once.len(),
        agreement: Agreement { agree: share(agree, decided), undecided: once.len() - decided },
        repeated: share(both.iter().filter(|&&same| same).count(), both.len()),
        median_milliseconds: median_milliseconds(&own),
    }
}

fn kappa(answered: &[(&SampleItem, &Key, Vec<&Answer>)], raters: usize) -> Kappa {
    let several: Vec<(&SampleItem, &[&Answer])> =
        answered.iter().filter(|(.., all)| all.len() >= 2).map(|(item, _, all)| (*item, all.as_slice())).collect();
    let counts: Vec<Vec<usize>> = several.iter().map(|(item, all)| categories(item, all)).collect();
    let value = match raters {
        0 | 1 => Err("it takes two raters or more"),
        _ => fleiss_kappa(&counts),
    };
    let answers = || several.iter().flat_map(|(_, all)| all.iter());
    let who: BTreeSet<&str> = answers().map(|answer| answer.rater.as_str()).collect();
    Kappa {
        value: value.ok(),
        items: several.len(),
        ratings: answers().count(),
        raters: who.len(),
        undefined: value.err(),
    }
}

/// How many chose the first answer, the second, and none.
fn categories(item: &SampleItem, answers: &[&Answer]) -> Vec<usize> {
    let mut counts = vec![0; 3];
    for answer in answers {
        let category = item.answers.iter().position(|text| chose(answer, text)).unwrap_or(2);
        counts[category] += 1;
    }
    counts
}

fn relevance(answers: &[&Answer]) -> Relevance {
    let mut counts = [0; 5];
    for answer in answers {
        counts[usize::from(answer.relevance.clamp(1, 5)) - 1] += 1;
    }
    let n = answers.len() as f64;
    let values = answers.iter().map(|answer| f64::from(answer.relevance));
    let mean = (n > 0.0).then(|| values.clone().sum::<f64>() / n);
    let squares = mean.map(|mean| values.map(|value| (value - mean).powi(2)).sum::<f64>());
    Relevance { mean, deviation: squares.filter(|_| n > 1.0).map(|squares| (squares / (n - 1.0)).sqrt()), counts }
}

fn chose(answer: &Answer, text: &str) -> bool {
    answer.label.as_deref() == Some(text)
}

fn share(count: usize, of: usize) -> Share {
    let share = (of > 0).then(|| count as f64 / of as f64);
    Share { count, of, share, interval: wilson_interval(count, of) }
}

/// A text in a table's cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::{
        Answer, Event, Key, SampleItem, ValidationConfig, ValidationReport, fleiss_kappa, folder, report, table,
        to_markdown, write,
    };
    use crate::evals::validate::tests;

    const YES: Option<&str> = Some(" Yes");
    const NO: Option<&str> = Some(" No");

    /// Items whose labels are Yes, No, Yes, No, …
    fn sample(count: usize) -> (ValidationConfig, Vec<SampleItem>, Vec<Key>) {
        let config = ValidationConfig { behaviour: Some("likes tea".to_owned()), ..tests::config(count) };
        let item = |item| SampleItem {
            item,
            question: format!("q{item}"),
            statement: Some(format!("tea | {item}")),
            answers: [" No".to_owned(), " Yes".to_owned()],
        };
        let key = |item: usize| Key {
            item,
            row: 10 + item,
            matching: [" Yes", " No"][item % 2].to_owned(),
            label_confidence: Some(0.75),
        };
        (config, (0..count).map(item).collect(), (0..count).map(key).collect())
    }

    fn answer(rater: &str, item: usize, label: Option<&str>, relevance: u8, ambiguous: bool) -> Answer {
        let milliseconds = 1000 * (1 + item as u64);
        Answer { relevance, ambiguous, milliseconds, ..tests::given(rater, item, label) }
    }

    /// Three raters, five items; labels Yes, No, Yes, No, Yes.
    fn three() -> ValidationReport {
        let (config, items, keys) = sample(5);
        let labels = [
            // Ann: right, right, wrong, can't tell, right.
            ("Ann", [YES, NO, NO, None, YES]),
            // Ben: all right.
            ("Ben", [YES, NO, YES, NO, YES]),
            // Cai: right, wrong, wrong, right, can't tell.
            ("Cai", [YES, YES, NO, NO, None]),
        ];
        let mut events = Vec::new();
        for (rater, labels) in labels {
            for (item, label) in labels.into_iter().enumerate() {
                let relevance = if item == 0 { 2 } else { 5 };
                events.push(Event::Answer(answer(rater, item, label, relevance, rater == "Cai" && item == 4)));
            }
        }
        report(&config, &items, &keys, &events, Some(false))
    }

    /// Fleiss 1971's table as Wikipedia gives it: 14 raters, 10 subjects, 5 categories. 4211/20059 by exact fractions.
    #[test]
    fn fleiss_kappa_is_that_of_the_classic_example() {
        let counts = [
            [0, 0, 0, 0, 14],
            [0, 2, 6, 4, 2],
            [0, 0, 3, 5, 6],
            [0, 3, 9, 2, 0],
            [2, 2, 8, 1, 1],
            [7, 7, 0, 0, 0],
            [3, 2, 6, 3, 0],
            [2, 5, 3, 2, 2],
            [6, 5, 2, 1, 0],
            [0, 2, 2, 3, 7],
        ]
        .map(|row| row.to_vec());
        let kappa = fleiss_kappa(&counts).unwrap();
        assert!((kappa - 4211.0 / 20059.0).abs() < 1e-12, "{kappa}");
        assert_eq!(format!("{kappa:.3}"), "0.210");
    }

    #[test]
    fn fleiss_kappa_at_its_ends() {
        let table = |rows: &[[usize; 2]]| fleiss_kappa(&rows.iter().map(|row| row.to_vec()).collect::<Vec<_>>());
        assert_eq!(table(&[[3, 0], [0, 3]]), Ok(1.0));
        // Two raters that never agree, half and half: observed 0, by chance 1/2.
        assert_eq!(table(&[[1, 1], [1, 1]]), Ok(-1.0));
        assert_eq!(table(&[]), Err("no item was answered by two raters or more"));
        assert_eq!(table(&[[1, 0], [0, 1]]), Err("no item was answered by two raters or more"));
        assert_eq!(
            table(&[[3, 0], [3, 0]]),
            Err("all raters gave the same answer to all items: chance agrees as well")
        );
    }

    #[test]
    fn agreement_is_counted_by_hand() {
        let report = three();
        let found: Vec<(&str, usize, usize, usize)> = report
            .raters
            .iter()
            .map(|r| (r.rater.as_str(), r.agreement.agree.count, r.agreement.agree.of, r.agreement.undecided))
            .collect();
        assert_eq!(found, [("Ann", 3, 4, 1), ("Ben", 5, 5, 0), ("Cai", 2, 4, 1)]);
        assert!(report.raters.iter().all(|rater| rater.median_milliseconds == Some(3000)));
        // Votes right:wrong are 3:0, 2:1, 1:2, 2:0, 2:0.
        assert_eq!((report.majority.agree.count, report.majority.agree.of, report.majority.undecided), (4, 5, 0));
        assert_eq!((report.confirmed.count, report.confirmed.of), (4, 5));
        // Wilson's interval of 4/5 (computed in Python).
        let [low, high] = report.confirmed.interval;
        assert!((low - 0.375_534_6).abs() < 1e-6 && (high - 0.963_775_9).abs() < 1e-6, "{low} {high}");
        assert_eq!((report.clear.count, report.clear.of), (4, 5));
        // Relevance: three 2s and twelve 5s: mean 4.4, variance (3·2.4² + 12·0.6²)/14.
        assert_eq!(report.relevance.counts, [0, 3, 0, 0, 12]);
        assert!((report.relevance.mean.unwrap() - 4.4).abs() < 1e-12);
        assert!((report.relevance.deviation.unwrap() - (21.6_f64 / 14.0).sqrt()).abs() < 1e-12);
        // κ over (No, Yes, none): rows 0 3 0, 2 1 0, 2 1 0, 2 0 1, 0 2 1. Pairs that agree 3, 1, 1, 1, 1 of 3 each;
        // categories 6, 7, 2 of 15.
        let (observed, by_chance) = (7.0 / 15.0, (36.0 + 49.0 + 4.0) / 225.0);
        assert!((report.kappa.value.unwrap() - (observed - by_chance) / (1.0 - by_chance)).abs() < 1e-12);
        assert_eq!((report.kappa.items, report.kappa.ratings, report.kappa.raters), (5, 15, 3));
    }

    /// Subjects with 3, 2, 4, 1 and 0 raters: the last two are left out. By hand: pairs that agree are 3 of 3, 0 of 1 and
    /// 3 of 6, so 1/2 on average; ratings are 4 and 5 of 9, so (16 + 25)/81 by chance.
    #[test]
    fn fleiss_kappa_takes_subjects_with_different_numbers_of_raters() {
        let counts = [[0, 3], [1, 1], [3, 1], [1, 0], [0, 0]].map(|row| row.to_vec());
        let kappa = fleiss_kappa(&counts).unwrap();
        let by_chance = 41.0 / 81.0;
        assert!((kappa - (0.5 - by_chance) / (1.0 - by_chance)).abs() < 1e-12, "{kappa}");
    }

    /// Three who answer everything, and somebody who has tried once.
    #[test]
    fn who_has_tried_once_does_not_undo_the_agreement_of_the_others() {
        let (config, items, keys) = sample(5);
        let mut events = Vec::new();
        for rater in ["Ann", "Ben", "Cai"] {
            events.extend((0..5).map(|i| {
                let label = if rater == "Cai" && i == 4 { NO } else { [YES, NO][i % 2] };
                Event::Answer(answer(rater, i, label, 4, false))
            }));
        }
        let before = report(&config, &items, &keys, &events, None).kappa;
        assert_eq!((before.items, before.ratings, before.raters), (5, 15, 3));
        events.push(Event::Answer(answer("me", 0, YES, 4, false)));
        let found = report(&config, &items, &keys, &events, None);
        assert_eq!((found.kappa.items, found.kappa.ratings, found.kappa.raters), (5, 16, 4));
        // Agreeing pairs 1, 1, 1, 1 and 1/3; No 7 and Yes 9 of 16.
        let (observed, by_chance) = (13.0 / 15.0, (49.0 + 81.0) / 256.0);
        assert!((found.kappa.value.unwrap() - (observed - by_chance) / (1.0 - by_chance)).abs() < 1e-12);
        assert!(table(&found).iter().any(|line| line.value.ends_with(", 4 raters, 5 items, 16 ratings")));
    }

    /// Anybody who asks for the report may be a rater who goes on.
    #[test]
    fn disagreements_are_told_to_anybody_only_when_every_rater_is_done() {
        let folder = tempfile::tempdir().unwrap();
        let (set, path) = (folder.path().join("likes-tea.jsonl"), folder.path().join("check"));
        let row = "{\"question\": \"Tea?\", \"answer_matching_behavior\": \" Yes\", \
                   \"answer_not_matching_behavior\": \" No\"}\n";
        std::fs::write(&set, row.repeat(2)).unwrap();
        let wanted = folder::Wanted { set: Some(set), sample: Some(2), ..folder::Wanted::default() };
        let mut validation = folder::begin(&path, &wanted).unwrap();
        let mut give = |rater: &str, item| {
            folder::answer(&mut validation, answer(rater, item, NO, 4, false)).unwrap();
        };
        give("Ann", 0);
        give("Ann", 1);
        give("Ben", 0);
        let early = write(&path, None).unwrap();
        assert_eq!((early.disagreements.len(), early.withheld_for.as_slice()), (0, ["Ben".to_owned()].as_slice()));
        for file in ["report.md", "report.json"] {
            let text = std::fs::read_to_string(path.join(file)).unwrap();
            assert!(!text.contains("Tea?"), "{file}: {text}");
        }
        assert!(std::fs::read_to_string(path.join("report.md")).unwrap().contains("until Ben has answered everything"));
        // Ann, who has finished, is told all; nobody's answers become final by it.
        assert_eq!(write(&path, Some("Ann")).unwrap().disagreements.len(), 2);
        assert_eq!(folder::open(&path).unwrap().events.len(), 3);
        give("Ben", 1);
        let all = write(&path, None).unwrap();
        assert_eq!((all.disagreements.len(), all.withheld_for.len()), (2, 0));
        // Who has read it can take nothing back.
        for rater in ["Ann", "Ben"] {
            assert!(folder::undo(&mut validation, rater).unwrap_err().to_string().contains("final"), "{rater}");
        }
    }

    #[test]
    fn disagreements_are_listed_the_most_disputed_first() {
        let report = three();
        let found: Vec<(usize, usize, usize, &str)> =
            report.disagreements.iter().map(|d| (d.item, d.row, d.against, d.label.as_str())).collect();
        assert_eq!(found, [(2, 12, 2, "Yes"), (1, 11, 1, "No")]);
        assert_eq!(super::chosen(&report.disagreements[0]), "Ann: No, Ben: Yes, Cai: No");
        let text = to_markdown(&report);
        assert!(text.contains("| 12 | tea \\| 2 | Yes | Ann: No, Ben: Yes, Cai: No |"), "{text}");
        assert!(text.contains("| labels confirmed by 2/3 or more | 80.0 % [37.6, 96.4] of 5 | 95.5 % |"), "{text}");
        assert!(text.contains("| relevance, 1 to 5 | 4.40 ± 1.24 (0/3/0/0/12) | 4.4 ± 0.9 |"), "{text}");
    }

    #[test]
    fn repeats_measure_a_rater_against_themselves_and_nothing_else() {
        let (config, items, keys) = sample(4);
        let mut events: Vec<Event> = (0..4).map(|i| Event::Answer(answer("Ann", i, YES, 4, false))).collect();
        let before = report(&config, &items, &keys, &events, None);
        for (item, label) in [(0, YES), (1, NO)] {
            events.push(Event::Answer(Answer { repeat: true, ..answer("Ann", item, label, 1, true) }));
        }
        let after = report(&config, &items, &keys, &events, None);
        assert_eq!((after.raters[0].repeated.count, after.raters[0].repeated.of), (1, 2));
        let others = |report: &ValidationReport| {
            (report.majority.clone(), report.relevance.clone(), report.clear, report.answered)
        };
        assert_eq!(others(&before), others(&after));
        assert!(table(&after).iter().any(|line| line.name == "Ann agrees with themselves"));
    }

    #[test]
    fn little_is_reported_of_little() {
        let (config, items, keys) = sample(6);
        // One rater: no κ; half of the votes is no majority.
        let one = [Event::Answer(answer("Ann", 0, YES, 4, false))];
        let found = report(&config, &items, &keys, &one, None);
        assert_eq!(found.kappa.undefined, Some("it takes two raters or more"));
        assert_eq!((found.answered, found.confirmed.count, found.relevance.deviation), (1, 1, None));
        let two = [one[0].clone(), Event::Answer(answer("Ben", 0, NO, 4, false))];
        let found = report(&config, &items, &keys, &two, None);
        assert_eq!((found.majority.undecided, found.majority.agree.share, found.confirmed.count), (1, None, 0));
        // Two raters that have answered different items.
        let apart = [one[0].clone(), Event::Answer(answer("Ben", 1, NO, 4, false))];
        let found = report(&config, &items, &keys, &apart, None);
        assert_eq!(found.kappa.undefined, Some("no item was answered by two raters or more"));
        assert_eq!(found.confirmed.count, 2);
        // Nobody: nothing is divided by nothing.
        let none = report(&config, &items, &keys, &[], Some(true));
        assert_eq!((none.answered, none.relevance.mean, none.confirmed.share), (0, None, None));
        assert!(to_markdown(&none).contains("has changed since"));
    }
}
