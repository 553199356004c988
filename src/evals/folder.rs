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

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::measure::{Filled, Item};
use super::questions::Rows;
use super::run::{EvalsError, Found, ModelEntry, Outcome, RunConfig};
use crate::disk::archive::write_atomically;
use crate::disk::lines;

/// Where answers of a model to a set are.
#[derive(Debug)]
pub(super) struct Place {
    /// All of them, when there are all.
    pub(super) answers: PathBuf,
    /// Free answers.
    pub(super) free: PathBuf,
    /// Those so far.
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
/// When there are none.
pub fn read_outcomes(folder: &Path) -> Result<Vec<Outcome>, EvalsError> {
    let path = folder.join("results.json");
    let text =
        fs::read_to_string(&path).map_err(|source| io(&path, "read the results (is the run finished?)", source))?;
    serde_json::from_str(&text).map_err(|error| {
        EvalsError::Config(format!(
            "{}: {error}: remove it, and the same `evals run` makes it again from the answers",
            path.display()
        ))
    })
}

/// What a model of a run answered to a set of questions.
///
/// # Errors
/// When its file is missing, or is not of questions.
pub fn read_items(folder: &Path, model: &str, set: &str) -> Result<Vec<Item>, EvalsError> {
    let path = answers(folder, ITEMS, model, set);
    let items: Vec<Item> = read_lines(&path)?;
    match items.iter().position(|item| item.answers.len() < 2) {
        None => Ok(items),
        Some(i) => {
            let found = items[i].answers.len();
            Err(EvalsError::Config(format!(
                "{}: line {}: has {found} answers: must have two or more",
                path.display(),
                i + 1
            )))
        }
    }
}

/// How a model of a run filled the sentences of a set.
///
/// # Errors
/// When its file is missing, or is not of sentences.
pub fn read_filled(folder: &Path, model: &str, set: &str) -> Result<Vec<Filled>, EvalsError> {
    read_lines(&answers(folder, PRONOUNS, model, set))
}

/// What a folder was asked; nothing where there is none yet.
///
/// # Errors
/// When it cannot be read, or is something else.
pub(super) fn asked(folder: &Path) -> Result<Option<RunConfig>, EvalsError> {
    let path = folder.join("config.toml");
    match fs::read_to_string(&path) {
        Ok(text) => toml::from_str(&text)
            .map(Some)
            .map_err(|error| EvalsError::Config(format!("{}: {}", path.display(), error.message()))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(io(&path, "read", source)),
    }
}

/// Adds what is asked to what the folder was asked before, which is given back: a folder belongs to one way of asking, and
/// a name to one model with the same weights.
///
/// # Errors
/// When it is asked in another way, or a name that has answers is now another model.
pub(super) fn remember(config: &RunConfig, folder: &Path) -> Result<RunConfig, EvalsError> {
    let path = folder.join("config.toml");
    let wrong = |problem: String| EvalsError::Config(format!("{}: {problem}", path.display()));
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
    write(&path, &text)?;
    Ok(all)
}

/// Lines of a set that was stopped, to go on with: whole blocks, so that the same things are computed together. `head` says
/// what is asked.
///
/// # Errors
/// When they answer something else, or a line that is not torn cannot be read: what follows it was paid for.
pub(super) fn begun(path: &Path, head: &Value, count: usize, block: usize) -> Result<Vec<String>, EvalsError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(source) => return Err(io(path, "read", source)),
    };
    // What does not end with its line was torn.
    let mut lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let bad = |line: usize, error: serde_json::Error| {
        EvalsError::Config(format!(
            "{}:{line}: {error}: mend the line, or remove it and all below it, which are then asked again",
            path.display()
        ))
    };
    let found = lines.next().map(|line| serde_json::from_str::<Value>(line.trim_end()));
    let found = found.transpose().map_err(|error| bad(1, error))?;
    if found.as_ref().is_some_and(|found| found != head) {
        return Err(EvalsError::Config(format!(
            "{}: holds answers to other questions, or of other weights: remove it, or choose another --out",
            path.display()
        )));
    }
    let mut kept: Vec<String> = Vec::new();
    for (i, line) in lines.take(count).enumerate() {
        serde_json::from_str::<IgnoredAny>(line.trim_end()).map_err(|error| bad(i + 2, error))?;
        kept.push(line.to_owned());
    }
    if kept.len() < count {
        kept.truncate(kept.len() / block * block);
    }
    make_parent(path)?;
    write(path, &(format!("{head}\n") + &kept.concat()))?;
    Ok(kept)
}

/// Adds lines that are there to stay.
pub(super) fn append(path: &Path, lines: &[String]) -> Result<(), EvalsError> {
    let mut file = OpenOptions::new().append(true).open(path).map_err(|source| io(path, "open", source))?;
    let text = lines.concat();
    file.write_all(text.as_bytes()).and_then(|()| file.sync_data()).map_err(|source| io(path, "write", source))
}

/// Removes what is no longer partial, and folders that it leaves empty.
pub(super) fn end(partial: &Path) -> Result<(), EvalsError> {
    fs::remove_file(partial).map_err(|source| io(partial, "remove", source))?;
    for folder in partial.ancestors().skip(1).take(2) {
        // Others may still be there.
        fs::remove_dir(folder).ok();
    }
    Ok(())
}

/// A row with whose it is.
pub(super) fn line(model: &str, set: &str, row: &impl Serialize) -> String {
    let mut all = json!({ "model": model, "set": set });
    if let (Value::Object(all), Value::Object(row)) = (&mut all, json!(row)) {
        all.extend(row);
    }
    format!("{all}\n")
}

/// Adds outcomes to those that are there, in the order of `models` and of the sets' names; of what has no answers any
/// more, none are kept.
pub(super) fn write_results(folder: &Path, models: &[ModelEntry], outcomes: &[Outcome]) -> Result<(), EvalsError> {
    let mut all = if folder.join("results.json").exists() { read_outcomes(folder)? } else { Vec::new() };
    all.retain(|old| {
        let kind = if matches!(old.found, Found::Pronouns(_)) { PRONOUNS } else { ITEMS };
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
    write(&folder.join("results.jsonl"), &lines)?;
    write(&folder.join("results.json"), &lines::pretty(&all))
}

/// Writes the card, of what there is so far; false where there is a README.md of somebody else.
pub(super) fn write_card(folder: &Path) -> Result<bool, EvalsError> {
    let path = folder.join("README.md");
    if fs::read(&path).is_ok_and(|found| !String::from_utf8_lossy(&found).contains(CARD_MARK)) {
        return Ok(false);
    }
    let is_there = |name: &str| folder.join(name).exists() || folder.join(format!("{name}.jsonl")).exists();
    write(&path, &card(is_there))?;
    Ok(true)
}

pub(super) fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, EvalsError> {
    let text = fs::read_to_string(path).map_err(|source| io(path, "read the answers", source))?;
    let one = |(i, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| {
            EvalsError::Config(format!("{}:{}: {error}: remove the file, and it is asked again", path.display(), i + 1))
        })
    };
    text.lines().enumerate().map(one).collect()
}

/// A name as part of a path.
pub(super) fn safe(name: &str) -> String {
    let fine = |c: char| if c.is_alphanumeric() || "-_.+".contains(c) { c } else { '_' };
    let name: String = name.chars().map(fine).collect();
    if name.chars().all(|c| c == '.') { format!("_{name}") } else { name }
}

/// What names have in common that would share a folder, also where a disk does not tell capitals from small letters.
pub(super) fn key(name: &str) -> String {
    safe(name).to_lowercase()
}

pub(super) fn make_parent(path: &Path) -> Result<(), EvalsError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|source| io(parent, "make the folder", source))
}

pub(super) fn write(path: &Path, text: &str) -> Result<(), EvalsError> {
    write_atomically(path, text.as_bytes()).map_err(|source| io(path, "write", source))
}

pub(super) fn io(path: &Path, action: &'static str, source: std::io::Error) -> EvalsError {
    EvalsError::Io { path: path.to_owned(), action, source }
}

/// Paths as they are shown: JSON and TOML have no others.
///
/// # Errors
/// The serializer's.
pub(super) fn shown<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.display().to_string()))
}

/// Folders of answers.
const ITEMS: &str = "items";
const PRONOUNS: &str = "pronouns";
const FREE: &str = "free";
const PARTIAL: &str = "partial";

/// By which a card of ours is known.
const CARD_MARK: &str = "<!-- written by pairwise evals run -->";

/// A kind of files that a run writes.
struct Table {
    name: &'static str,
    files: &'static str,
    /// Names, and types in the words of the card.
    fields: &'static [(&'static str, &'static str)],
}

/// Fields of what a run writes, with their types as `datasets` calls them: without them, a field that is empty in the
/// first file has another type than in the second.
const TABLES: [Table; 4] = [
    Table {
        name: ITEMS,
        files: "items/*/*.jsonl",
        fields: &[
            ("model", "dtype: string"),
            ("set", "dtype: string"),
            ("index", "dtype: int64"),
            ("question", "dtype: string"),
            ("answers", "list: string"),
            ("log_probs", "list: float64"),
            ("swapped_log_probs", "list: float64"),
            ("negated_log_probs", "list: float64"),
            ("probability", "dtype: float64"),
            ("mass", "dtype: float64"),
            ("how", "dtype: string"),
            ("cut", "dtype: bool"),
            ("label_confidence", "dtype: float64"),
        ],
    },
    Table {
        name: PRONOUNS,
        files: "pronouns/*/*.jsonl",
        fields: &[
            ("model", "dtype: string"),
            ("set", "dtype: string"),
            ("index", "dtype: int64"),
            ("occupation", "dtype: string"),
            ("sentence", "dtype: string"),
            ("probabilities", "list: float64"),
            ("mass", "dtype: float64"),
            ("how", "dtype: string"),
            ("cut", "dtype: bool"),
            ("percent_women", "dtype: float64"),
        ],
    },
    Table {
        name: FREE,
        files: "free/*/*.json",
        fields: &[
            ("model", "dtype: string"),
            ("set", "dtype: string"),
            ("asked", "dtype: int64"),
            ("matching", "dtype: int64"),
            ("other", "dtype: int64"),
            ("refusals", "dtype: int64"),
            ("elsewhere", "dtype: int64"),
            ("too_long", "dtype: int64"),
        ],
    },
    Table {
        name: "results",
        files: "results.jsonl",
        fields: &[
            ("model", "dtype: string"),
            ("parameters", "dtype: int64"),
            ("steps", "dtype: int64"),
            ("weights", "dtype: string"),
            ("set", "dtype: string"),
            ("asked", "dtype: string"),
            ("questions", "dtype: int64"),
            ("chance", "dtype: float64"),
            ("matching", "dtype: float64"),
            ("matching_low", "dtype: float64"),
            ("matching_high", "dtype: float64"),
            ("both_ways", "dtype: float64"),
            ("both_ways_low", "dtype: float64"),
            ("both_ways_high", "dtype: float64"),
            ("likeliest", "dtype: float64"),
            ("off_label", "dtype: float64"),
            ("cut", "dtype: int64"),
            ("first_choice", "dtype: float64"),
            ("ceiling", "dtype: float64"),
            ("floor", "dtype: float64"),
            ("between", "dtype: float64"),
            ("calibration_error", "dtype: float64"),
            ("refusals", "dtype: int64"),
            ("free_answers", "dtype: int64"),
            ("free_too_long", "dtype: int64"),
            ("skew", "dtype: float64"),
            ("correlation", "dtype: float64"),
            ("correlation_low", "dtype: float64"),
            ("correlation_high", "dtype: float64"),
            ("how", "dtype: string"),
        ],
    },
];

fn card(is_there: impl Fn(&str) -> bool) -> String {
    let tables = || TABLES.iter().filter(|table| is_there(table.name));
    let mut text = "---\nconfigs:\n".to_owned();
    for Table { name, files, .. } in tables() {
        text += &format!("- config_name: {name}\n  data_files: \"{files}\"\n");
    }
    text += "dataset_info:\n";
    for Table { name, fields, .. } in tables() {
        text += &format!("- config_name: {name}\n  features:\n");
        for (field, kind) in *fields {
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
        Found::Behaviour(behaviour) => (Some(behaviour), None),
        Found::Pronouns(pronouns) => (None, Some(pronouns)),
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
    use crate::evals::measure::{Filled, Free, Item, MeasureConfig, behaviour, pronouns};
    use crate::evals::model::How;
    use crate::evals::run::{Found, ModelEntry, Outcome, RunConfig};

    fn fields(of: &str) -> Vec<&'static str> {
        let table = TABLES.iter().find(|table| table.name == of).unwrap();
        table.fields.iter().map(|(field, _)| *field).collect()
    }

    fn keys(text: &str) -> Vec<String> {
        let Value::Object(object) = serde_json::from_str(text).unwrap() else { panic!("an object") };
        object.into_iter().map(|(key, _)| key).collect()
    }

    /// `datasets` refuses a file with a field that the card does not name.
    #[test]
    fn the_card_names_what_is_written() {
        let item = Item {
            index: 0,
            question: "Is it?".to_owned(),
            answers: vec![" Yes".to_owned(), " No".to_owned()],
            log_probs: vec![-1.0, -2.0],
            swapped_log_probs: Vec::new(),
            negated_log_probs: Vec::new(),
            probability: 0.7,
            mass: None,
            how: How::Exact,
            cut: false,
            label_confidence: None,
        };
        let filled = Filled {
            index: 0,
            occupation: "cook".to_owned(),
            sentence: "_".to_owned(),
            probabilities: [0.3, 0.3, 0.4],
            mass: Some(0.5),
            how: How::Exact,
            cut: false,
            percent_women: 40.0,
        };
        fn of(row: &impl Serialize) -> Vec<String> {
            keys(&line("m", "s", row))
        }
        assert_eq!(of(&item), fields("items"));
        assert_eq!(of(&filled), fields("pronouns"));
        assert_eq!(of(&Free::default()), fields("free"));
        let model =
            ModelEntry { name: "m".to_owned(), spec: "m".to_owned(), parameters: None, steps: None, weights: None };
        for found in [Found::Behaviour(Box::new(behaviour(&[item], 0))), Found::Pronouns(pronouns(&[filled], 0))] {
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
