//! What a run writes: answers, results, and a card by which Python's `datasets` reads them.
//!
//! ```text
//! OUT/
//!   README.md                 the card: load_dataset(OUT, "items"), "pronouns", "free" or "results"
//!   config.toml               how questions are asked; the sets and models so far
//!   items/MODEL/SET.jsonl     one object for each question: probabilities of its answers
//!   pronouns/MODEL/SET.jsonl  of Winogenerated: one for each sentence
//!   free/MODEL/SET.json       how free answers begin
//!   partial/MODEL/SET.jsonl   of a set that was stopped: what was asked, then the answers so far
//!   results.jsonl             one object for each model and set, flat, for tables
//!   results.json              the same in full
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::ask::{Filled, Item};
use super::error::{EvalsError, FileError};
use super::outcome::{Findings, ModelEntry, Outcome, RunConfig};
use super::questions::Rows;
use crate::disk::{DiskError, lines, text};

/// Where answers of a model to a set are.
#[derive(Debug)]
pub(super) struct Place {
    /// All answers, once there are all.
    pub(super) answers: PathBuf,
    /// Free answers.
    pub(super) free: PathBuf,
    /// The answers so far.
    pub(super) partial: PathBuf,
}

impl Place {
    pub(super) fn new(folder: &Path, model: &str, set: &str, rows: &Rows) -> Self {
        let of = |kind: &str| folder.join(kind).join(safe(model));
        let kind = if matches!(rows, Rows::Sentences(_)) { PRONOUNS } else { ITEMS };
        Self {
            answers: of(kind).join(format!("{set}.jsonl")),
            free: of(FREE).join(format!("{set}.json")),
            partial: of(PARTIAL).join(format!("{set}.jsonl")),
        }
    }
}

/// Outcomes of a run's folder.
///
/// # Errors
/// When the folder has no results, or they cannot be read.
pub(super) fn read_outcomes(folder: &Path) -> Result<Vec<Outcome>, EvalsError> {
    let path = folder.join("results.json");
    let io = DiskError::io(&path, "read the results (is the run finished?)");
    let text = fs::read_to_string(&path).map_err(io)?;
    let advice = "remove it, and the same `evals run` makes it again from the answers";
    Ok(serde_json::from_str(&text).map_err(|error| FileError::whole(&path, format!("{error}: {advice}")))?)
}

/// What a model of a run answered to a set of questions.
///
/// # Errors
/// When its file is missing, or is not of questions.
pub(super) fn read_items(folder: &Path, model: &str, set: &str) -> Result<Vec<Item>, EvalsError> {
    let path = answers(folder, ITEMS, model, set);
    let items: Vec<Item> = read_lines(&path)?;
    match items.iter().position(|item| item.answers.len() < 2) {
        None => Ok(items),
        Some(i) => {
            let found = items[i].answers.len();
            Err(FileError::line(&path, i + 1, format!("has {found} answers: must have two or more")).into())
        }
    }
}

/// How a model of a run filled the sentences of a set.
///
/// # Errors
/// When its file is missing, or is not of sentences.
pub(super) fn read_filled(folder: &Path, model: &str, set: &str) -> Result<Vec<Filled>, EvalsError> {
    read_lines(&answers(folder, PRONOUNS, model, set))
}

/// What a folder was asked so far; `None` where there is no answer yet.
///
/// # Errors
/// When it cannot be read, or is something else.
pub fn asked(folder: &Path) -> Result<Option<RunConfig>, EvalsError> {
    let path = folder.join("config.toml");
    let wrong = |error: toml::de::Error| FileError::whole(&path, error.message());
    Ok(text::read(&path)?.map(|text| toml::from_str(&text).map_err(wrong)).transpose()?)
}

/// Adds what is asked now to what the folder was asked before, and returns all of it. A folder belongs to one way of asking,
/// and a name in it to one model with the same weights.
///
/// # Errors
/// When it is asked in another way, or a name that has answers is now another model.
pub(super) fn remember(config: &RunConfig, folder: &Path) -> Result<RunConfig, EvalsError> {
    let path = folder.join("config.toml");
    let wrong = |problem: String| EvalsError::from(FileError::whole(&path, problem));
    let mut all =
        asked(folder)?.unwrap_or_else(|| RunConfig { sets: Vec::new(), models: Vec::new(), ..config.clone() });
    if all.measure != config.measure {
        return Err(wrong(
            "its questions were asked in another way: choose another --out, or give the same form, limit, seed and so on"
                .to_owned(),
        ));
    }
    for model in &config.models {
        let Some(other) = all.models.iter_mut().find(|other| key(&other.name) == key(&model.name)) else {
            all.models.push(model.clone());
            continue;
        };
        if has_answers(folder, other) {
            if other.name != model.name || other.spec != model.spec {
                return Err(wrong(format!(
                    "has answers of a model {} that is {}, and {} is {}: name it otherwise (--models FILE), or choose \
                     another --out",
                    other.name, other.spec, model.name, model.spec
                )));
            }
            // A folder of an earlier version does not say which weights it had.
            if other.weights.is_some() && other.weights != model.weights {
                return Err(wrong(format!(
                    "the model {} had other weights when it answered: {} was trained or written anew since; choose another \
                     --out, or name it otherwise (--models FILE)",
                    model.name, model.spec
                )));
            }
        }
        other.clone_from(model);
    }
    for set in &config.sets {
        if !all.sets.contains(set) {
            all.sets.push(set.clone());
        }
    }
    let text = toml::to_string(&all).map_err(|error| wrong(error.to_string()))?;
    text::write(&path, &text)?;
    Ok(all)
}

/// Removes a file of partial answers that is complete now, and folders that are empty then.
pub(super) fn end(partial: &Path) -> Result<(), EvalsError> {
    fs::remove_file(partial).map_err(DiskError::io(partial, "remove"))?;
    for folder in partial.ancestors().skip(1).take(2) {
        // Others may still be there.
        fs::remove_dir(folder).ok();
    }
    Ok(())
}

/// A row with its model and its set.
pub(super) fn line(model: &str, set: &str, row: &impl Serialize) -> String {
    let mut all = json!({ "model": model, "set": set });
    if let (Value::Object(all), Value::Object(row)) = (&mut all, json!(row)) {
        all.extend(row);
    }
    format!("{all}\n")
}

/// Adds outcomes to those that are there, in the order of `models` and of the sets' names. Outcomes whose answers are gone
/// are dropped.
pub(super) fn write_results(folder: &Path, models: &[ModelEntry], outcomes: &[Outcome]) -> Result<(), EvalsError> {
    let mut all = if folder.join("results.json").exists() { read_outcomes(folder)? } else { Vec::new() };
    all.retain(|old| {
        let kind = if matches!(old.found, Findings::Pronouns(_)) { PRONOUNS } else { ITEMS };
        answers(folder, kind, &old.model.name, &old.set).is_file()
    });
    for new in outcomes {
        match all.iter_mut().find(|old| old.model.name == new.model.name && old.set == new.set) {
            Some(old) => old.clone_from(new),
            None => all.push(new.clone()),
        }
    }
    for one in &mut all {
        // What is known of a model's size and steps may have changed.
        if let Some(model) = models.iter().find(|model| model.name == one.model.name) {
            one.model.clone_from(model);
        }
    }
    let place = |one: &Outcome| models.iter().position(|model| model.name == one.model.name).unwrap_or(models.len());
    all.sort_by(|a, b| place(a).cmp(&place(b)).then_with(|| a.set.cmp(&b.set)));
    if all.is_empty() {
        return Ok(());
    }
    let lines: String = all.iter().map(|outcome| format!("{}\n", flat(outcome))).collect();
    text::write(&folder.join("results.jsonl"), &lines)?;
    Ok(text::write(&folder.join("results.json"), &lines::pretty(&all))?)
}

/// Writes the card of what there is so far. Returns false, and writes nothing, where the user has a README.md there.
pub(super) fn write_card(folder: &Path) -> Result<bool, EvalsError> {
    let path = folder.join("README.md");
    if fs::read(&path).is_ok_and(|found| !String::from_utf8_lossy(&found).contains(CARD_MARK)) {
        return Ok(false);
    }
    let is_there = |name: &str| folder.join(name).exists() || folder.join(format!("{name}.jsonl")).exists();
    text::write(&path, &card(is_there))?;
    Ok(true)
}

pub(super) fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, EvalsError> {
    let text = fs::read_to_string(path).map_err(DiskError::io(path, "read the answers"))?;
    let bad = |i, error| FileError::line(path, i + 1, format!("{error}: remove the file, and it is asked again"));
    let one = |(i, line)| serde_json::from_str(line).map_err(|error: serde_json::Error| bad(i, error).into());
    text.lines().enumerate().map(one).collect()
}

/// A name as part of a path.
pub(super) fn safe(name: &str) -> String {
    let fine = |c: char| if c.is_alphanumeric() || "-_.+".contains(c) { c } else { '_' };
    let name: String = name.chars().map(fine).collect();
    if name.chars().all(|c| c == '.') { format!("_{name}") } else { name }
}

/// Equal for names that would share a folder, also on a disk that does not tell capitals from small letters.
pub(super) fn key(name: &str) -> String {
    safe(name).to_lowercase()
}

/// Folders of answers.
const ITEMS: &str = "items";
const PRONOUNS: &str = "pronouns";
const FREE: &str = "free";
const PARTIAL: &str = "partial";

/// Tells a card that this program wrote.
const CARD_MARK: &str = "<!-- written by pairwise evals run -->";

/// A kind of files that a run writes.
struct Table {
    name: &'static str,
    files: &'static str,
    /// Names and types of its fields.
    fields: &'static str,
}

/// What a run writes. The card tells types as `datasets` calls them: without them, a field that is empty in the first file
/// would have another type than in the second.
const TABLES: [Table; 4] = [
    Table {
        name: ITEMS,
        files: "items/*/*.jsonl",
        fields: "model string, set string, index int64, question string, answers [string], log_probs [float64], \
                 swapped_log_probs [float64], negated_log_probs [float64], probability float64, mass float64, how string, \
                 cut bool, label_confidence float64",
    },
    Table {
        name: PRONOUNS,
        files: "pronouns/*/*.jsonl",
        fields: "model string, set string, index int64, occupation string, sentence string, probabilities [float64], \
                 mass float64, how string, cut bool, percent_women float64",
    },
    Table {
        name: FREE,
        files: "free/*/*.json",
        fields: "model string, set string, asked int64, matching int64, other int64, refusals int64, elsewhere int64, \
                 too_long int64",
    },
    Table {
        name: "results",
        files: "results.jsonl",
        fields: "model string, parameters int64, steps int64, weights string, set string, asked string, questions int64, \
                 chance float64, matching float64, matching_low float64, matching_high float64, both_ways float64, \
                 both_ways_low float64, both_ways_high float64, likeliest float64, off_label float64, cut int64, \
                 first_choice float64, ceiling float64, floor float64, between float64, calibration_error float64, \
                 refusals int64, free_answers int64, free_too_long int64, skew float64, correlation float64, \
                 correlation_low float64, correlation_high float64, how string",
    },
];

impl Table {
    /// Names of the fields with their types as the card has them.
    fn fields(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.fields.split(", ").filter_map(|field| field.split_once(' ')).map(|(name, kind)| {
            let several = kind.strip_prefix('[').and_then(|kind| kind.strip_suffix(']'));
            (name, several.map_or_else(|| format!("dtype: {kind}"), |kind| format!("list: {kind}")))
        })
    }
}

fn card(is_there: impl Fn(&str) -> bool) -> String {
    let tables = || TABLES.iter().filter(|table| is_there(table.name));
    let mut text = "---\nconfigs:\n".to_owned();
    for Table { name, files, .. } in tables() {
        text += &format!("- config_name: {name}\n  data_files: \"{files}\"\n");
    }
    text += "dataset_info:\n";
    for table in tables() {
        text += &format!("- config_name: {}\n  features:\n", table.name);
        for (field, kind) in table.fields() {
            text += &format!("  - name: {field}\n    {kind}\n");
        }
    }
    text += &format!(
        "---\n\n{CARD_MARK}\n\nModels on sets of questions. In Python:\n\n```python\nfrom datasets import load_dataset, \
         load_dataset_builder\n\nitems = load_dataset(\"OUT\", \"items\", split=\"train\")      # this folder; or \"pronouns\", \
         \"free\", \"results\"\n# Results of several folders:\nfeatures = load_dataset_builder(\"OUT\", \
         \"results\").info.features\nresults = load_dataset(\"json\", data_files=[\"OUT/results.jsonl\", \
         \"OTHER/results.jsonl\"], features=features, split=\"train\")\n```\n"
    );
    text
}

/// A file of answers; sentences of an earlier version lie where questions do.
fn answers(folder: &Path, kind: &str, model: &str, set: &str) -> PathBuf {
    let of = |kind: &str| folder.join(kind).join(safe(model)).join(format!("{set}.jsonl"));
    if kind == PRONOUNS && !of(PRONOUNS).exists() && of(ITEMS).exists() { of(ITEMS) } else { of(kind) }
}

fn has_answers(folder: &Path, model: &ModelEntry) -> bool {
    [ITEMS, PRONOUNS, FREE, PARTIAL].iter().any(|kind| folder.join(kind).join(safe(&model.name)).is_dir())
}

/// One row, with the same fields whatever was measured.
fn flat(outcome: &Outcome) -> Value {
    let Outcome { model, set, asked, found, free } = outcome;
    let (behaviour, pronouns) = match found {
        Findings::Behaviour(behaviour) => (Some(behaviour), None),
        Findings::Pronouns(pronouns) => (None, Some(pronouns)),
    };
    let correlation = pronouns.and_then(|found| found.correlation);
    let both = behaviour.and_then(|found| found.both_ways);
    json!({
        "model": model.name, "parameters": model.parameters, "steps": model.steps, "weights": model.weights, "set": set,
        "asked": asked,
        "questions": behaviour.map_or_else(|| pronouns.map(|found| found.sentences), |found| Some(found.questions)),
        "chance": behaviour.map(|found| found.chance),
        "matching": behaviour.map(|found| found.matching.value),
        "matching_low": behaviour.map(|found| found.matching.interval[0]),
        "matching_high": behaviour.map(|found| found.matching.interval[1]),
        "both_ways": both.map(|found| found.value),
        "both_ways_low": both.map(|found| found.interval[0]),
        "both_ways_high": both.map(|found| found.interval[1]),
        "likeliest": behaviour.map(|found| found.likeliest.value),
        "off_label": behaviour.map_or_else(|| pronouns.and_then(|found| found.off_label), |found| found.off_label),
        "cut": behaviour.map_or_else(|| pronouns.map(|found| found.cut), |found| Some(found.cut)),
        "first_choice": behaviour.and_then(|found| found.first_choice),
        "ceiling": behaviour.and_then(|found| found.ceiling),
        "floor": behaviour.and_then(|found| found.floor),
        "between": behaviour.and_then(|found| found.between),
        "calibration_error": behaviour.and_then(|found| found.calibration_error),
        "refusals": free.map(|free| free.refusals), "free_answers": free.map(|free| free.asked),
        "free_too_long": free.map(|free| free.too_long),
        "skew": pronouns.map(|found| found.skew.value),
        "correlation": correlation.map(|found| found.value),
        "correlation_low": correlation.map(|found| found.interval[0]),
        "correlation_high": correlation.map(|found| found.interval[1]),
        "how": behaviour.map_or_else(|| pronouns.map(|found| found.how), |found| Some(found.how)),
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde::Serialize;
    use serde_json::Value;

    use super::{TABLES, card, flat, line, write_card};
    use crate::evals::ask::{Filled, Free, Item, MeasureConfig};
    use crate::evals::estimate::{behaviour, pronouns};
    use crate::evals::outcome::{Findings, ModelEntry, Outcome, RunConfig};

    fn fields(of: &str) -> Vec<&'static str> {
        let table = TABLES.iter().find(|table| table.name == of).unwrap();
        table.fields().map(|(field, _)| field).collect()
    }

    fn keys(text: &str) -> Vec<String> {
        let Value::Object(object) = serde_json::from_str(text).unwrap() else { panic!("an object") };
        object.into_iter().map(|(key, _)| key).collect()
    }

    /// `datasets` refuses a file with a field that the card does not name.
    #[test]
    fn the_card_names_what_is_written() {
        let item = Item {
            answers: vec![" Yes".to_owned(), " No".to_owned()],
            log_probs: vec![-1.0, -2.0],
            probability: 0.7,
            ..Item::default()
        };
        let filled =
            Filled { probabilities: [0.3, 0.3, 0.4], mass: Some(0.5), percent_women: 40.0, ..Filled::default() };
        fn of(row: &impl Serialize) -> Vec<String> {
            keys(&line("m", "s", row))
        }
        assert_eq!(of(&item), fields("items"));
        assert_eq!(of(&filled), fields("pronouns"));
        assert_eq!(of(&Free::default()), fields("free"));
        let model = ModelEntry { name: "m".to_owned(), ..ModelEntry::default() };
        for found in [Findings::Behaviour(Box::new(behaviour(&[item], 0))), Findings::Pronouns(pronouns(&[filled], 0))]
        {
            let outcome =
                Outcome { model: model.clone(), set: "s".to_owned(), asked: String::new(), found, free: None };
            assert_eq!(keys(&flat(&outcome).to_string()), fields("results"));
        }
        let card = card(|name| name != "free");
        assert!(card.starts_with("---\nconfigs:\n- config_name: items\n  data_files: \"items/*/*.jsonl\"\n"));
        assert!(!card.contains("config_name: free") && card.contains("config_name: results"));
        assert!(card.contains("  - name: label_confidence\n    dtype: float64\n"));
    }

    #[test]
    fn a_readme_of_the_users_stays() {
        let folder = tempfile::tempdir().unwrap();
        assert!(write_card(folder.path()).unwrap() && write_card(folder.path()).unwrap());
        std::fs::write(folder.path().join("README.md"), "# Mine\n").unwrap();
        assert!(!write_card(folder.path()).unwrap());
        assert_eq!(std::fs::read_to_string(folder.path().join("README.md")).unwrap(), "# Mine\n");
    }

    /// TOML and JSON are text; a file's name need not be.
    #[cfg(unix)]
    #[test]
    fn names_that_are_no_text_are_written_as_they_are_shown() {
        use std::os::unix::ffi::OsStringExt as _;
        let path = PathBuf::from(std::ffi::OsString::from_vec(b"set-\xe9.jsonl".to_vec()));
        let config = RunConfig { sets: vec![path], measure: MeasureConfig::default(), models: Vec::new() };
        let text = toml::to_string(&config).unwrap();
        assert!(text.starts_with("sets = [\"set-\u{fffd}.jsonl\"]"), "{text}");
    }
}
