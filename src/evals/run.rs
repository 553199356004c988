//! Models on sets of questions, in a folder.
//!
//! ```text
//! OUT/
//!   config.toml           what was asked for
//!   items/MODEL/SET.jsonl one object for each question: probabilities of its answers
//!   results.jsonl         one object for each model and set, flat, for tables (Python: datasets, pandas)
//!   results.json          the same in full
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::measure::{
    Behaviour, Filled, Free, Item, Items, MeasureConfig, Pronouns, answer_freely, ask, behaviour, drawn, fill,
    fingerprint, pronouns,
};
use super::model::{Model, ModelError};
use super::questions::{self, QuestionsError, Rows, Set};
use crate::lm::config::ModelConfig;
use crate::lm::run::{LmSummary, StageKind};
use crate::run::archive::write_atomically;

/// What is run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Files or folders of questions.
    pub sets: Vec<PathBuf>,
    /// How they are asked.
    pub measure: MeasureConfig,
    /// Who is asked.
    pub models: Vec<ModelEntry>,
}

/// A model, and where it stands in tables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelEntry {
    /// What it is called.
    pub name: String,
    /// A folder, or `http://HOST:PORT/v1#NAME`.
    pub spec: String,
    /// Parameters, where they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<usize>,
    /// Steps of preference training that it has had, where they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
}

/// A model on a set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The model.
    pub model: ModelEntry,
    /// The set.
    pub set: String,
    /// What was asked, as a hash: results are compared where it is the same.
    pub asked: String,
    /// What was found.
    pub found: Found,
    /// Answers that were written freely, where there are any.
    pub free: Option<Free>,
}

/// What was found of a set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Found {
    /// Of questions.
    Behaviour(Box<Behaviour>),
    /// Of Winogenerated.
    Pronouns(Pronouns),
}

/// A run that fails.
#[derive(Debug, thiserror::Error)]
pub enum EvalsError {
    /// A set.
    #[error(transparent)]
    Questions(#[from] QuestionsError),
    /// A model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A file.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What was done.
        action: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Values that do not go together.
    #[error("{0}")]
    Config(String),
}

/// What is shown while it goes on.
pub trait Shown: Sync {
    /// A remark.
    fn note(&self, text: &str);
    /// How far something has come.
    fn count(&self, what: &str, done: usize, of: usize);
}

/// Opens a model by its spec.
pub type Open<'a> = dyn Fn(&str) -> Result<Box<dyn Model>, ModelError> + 'a;

/// Questions that are asked between two looks at Ctrl-C.
const BLOCK: usize = 256;

impl ModelEntry {
    /// A model by its spec. What a folder tells of its size and its training is taken from there: a run folder of
    /// `pairwise lm` stands for the model in it, with its steps where it learned from preferences, and 0 where it has only
    /// read texts.
    #[must_use]
    pub fn of(spec: &str) -> Self {
        if let Some((_, name)) = server(spec) {
            return Self { name, spec: spec.to_owned(), parameters: None, steps: None };
        }
        let given = Path::new(spec);
        let (folder, run) = match (given.join("model/config.json").is_file(), given.parent()) {
            (true, _) => (given.join("model"), Some(given)),
            (false, parent) => (given.to_owned(), parent.filter(|_| given.file_name().is_some_and(|n| n == "model"))),
        };
        let named = run.unwrap_or(&folder);
        let name = named.file_name().map_or_else(|| spec.to_owned(), |name| name.to_string_lossy().into_owned());
        let summary = run.and_then(|run| fs::read_to_string(run.join("summary.json")).ok());
        let summary = summary.and_then(|text| serde_json::from_str::<LmSummary>(&text).ok());
        let steps = summary.map(|summary| match summary.stage {
            StageKind::Pretrain | StageKind::Sft | StageKind::Reward => 0,
            StageKind::Dpo | StageKind::Modpo | StageKind::Kto | StageKind::Ppo => summary.steps,
        });
        let config = ModelConfig::read(&folder.join("config.json")).ok();
        let parameters = config.map(|(config, _)| config.parameters());
        Self { name, spec: folder.display().to_string(), parameters, steps }
    }
}

/// Gives models that are called alike different names.
pub fn name_apart(models: &mut [ModelEntry]) {
    let mut taken = BTreeSet::new();
    for model in models {
        let wanted = model.name.clone();
        let mut number = 2;
        while !taken.insert(model.name.clone()) {
            model.name = format!("{wanted}-{number}");
            number += 1;
        }
    }
}

/// Asks every model everything that the folder does not hold yet; nothing where it was stopped. `open` opens a model by
/// its spec.
///
/// # Errors
/// [`EvalsError`]; what was answered before is kept, set by set, and a later call goes on from there.
pub fn run(
    config: &RunConfig,
    folder: &Path,
    open: &Open<'_>,
    stop: &AtomicBool,
    shown: &dyn Shown,
) -> Result<Option<Vec<Outcome>>, EvalsError> {
    if config.models.is_empty() {
        return Err(EvalsError::Config("models: there is none: give a folder or a server (--model SPEC)".to_owned()));
    }
    let mut sets = Vec::new();
    for path in &config.sets {
        sets.extend(questions::read(path)?);
    }
    sets.retain(|set| {
        let asks = !matches!(set.rows, Rows::Occupations(_));
        if !asks {
            shown.note(&format!("{}: occupations and their shares of women; nothing is asked", set.path.display()));
        }
        asks
    });
    if sets.is_empty() {
        return Err(EvalsError::Config("sets: there is no question: give a file or folder (--data FILE …)".to_owned()));
    }
    let names = set_names(&sets);
    fs::create_dir_all(folder).map_err(|source| io(folder, "make the folder", source))?;
    same_config(config, folder)?;
    let mut outcomes = Vec::new();
    for entry in &config.models {
        let mut model: Option<Box<dyn Model>> = None;
        for (set, name) in sets.iter().zip(&names) {
            let file = folder.join("items").join(safe(&entry.name)).join(format!("{name}.jsonl"));
            let free_file = file.with_extension("free.json");
            if !file.exists() {
                let model = match &mut model {
                    Some(model) => model,
                    none => none.insert(open(&entry.spec)?),
                };
                let what = format!("{}, {name}", entry.name);
                if !answered(&**model, set, &config.measure, &file, &free_file, &what, stop, shown)? {
                    return Ok(None);
                }
            }
            outcomes.push(outcome(entry, set, name, &config.measure, &file, &free_file)?);
        }
        for remark in model.iter().flat_map(|model| model.remarks()) {
            shown.note(&format!("note: {remark}"));
        }
    }
    write_results(folder, &outcomes)?;
    Ok(Some(outcomes))
}

/// Outcomes of a run's folder.
///
/// # Errors
/// When there are none.
pub fn read_outcomes(folder: &Path) -> Result<Vec<Outcome>, EvalsError> {
    let path = folder.join("results.json");
    let text =
        fs::read_to_string(&path).map_err(|source| io(&path, "read the results (is the run finished?)", source))?;
    serde_json::from_str(&text).map_err(|error| EvalsError::Config(format!("{}: {error}", path.display())))
}

/// What a model of a run answered to a set of questions.
///
/// # Errors
/// When its file is missing, or is not of questions.
pub fn read_items(folder: &Path, model: &str, set: &str) -> Result<Vec<Item>, EvalsError> {
    read_lines(&folder.join("items").join(safe(model)).join(format!("{set}.jsonl")))
}

fn answered(
    model: &dyn Model,
    set: &Set,
    config: &MeasureConfig,
    file: &Path,
    free_file: &Path,
    what: &str,
    stop: &AtomicBool,
    shown: &dyn Shown,
) -> Result<bool, EvalsError> {
    let count = match &set.rows {
        Rows::Questions(questions) => questions.len(),
        Rows::Sentences(sentences) => sentences.len(),
        Rows::Occupations(_) => return Ok(true),
    };
    let numbers = drawn(count, config);
    let mut lines = String::new();
    let mut line = |value: serde_json::Value| lines += &format!("{value}\n");
    for (block, numbers) in numbers.chunks(BLOCK).enumerate() {
        if stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        shown.count(what, block * BLOCK, count.min(if config.limit > 0 { config.limit } else { count }));
        match &set.rows {
            Rows::Questions(questions) => {
                ask(model, questions, numbers, config, &|_| ())?.iter().for_each(|item| line(json!(item)));
            }
            Rows::Sentences(sentences) => {
                fill(model, sentences, numbers, config.form, &|_| ())?.iter().for_each(|filled| line(json!(filled)));
            }
            Rows::Occupations(_) => {}
        }
    }
    let parent = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|source| io(parent, "make the folder", source))?;
    if let (Rows::Questions(questions), true) = (&set.rows, config.free_answers > 0) {
        let free = answer_freely(model, questions, &numbers, config)?;
        write(free_file, &(json!(free).to_string() + "\n"))?;
    }
    shown.count(what, numbers.len(), numbers.len());
    write(file, &lines)?;
    Ok(true)
}

fn outcome(
    entry: &ModelEntry,
    set: &Set,
    name: &str,
    config: &MeasureConfig,
    file: &Path,
    free_file: &Path,
) -> Result<Outcome, EvalsError> {
    let items = match &set.rows {
        Rows::Questions(questions) => {
            let items: Vec<Item> = read_lines(file)?;
            let numbers = drawn(questions.len(), config);
            let same = items.len() == numbers.len()
                && items.iter().zip(&numbers).all(|(item, &number)| item.question == questions[number].question);
            if !same {
                return Err(EvalsError::Config(format!(
                    "{}: holds answers to other questions than {} has now: remove it, or choose another --out",
                    file.display(),
                    set.path.display()
                )));
            }
            Items::Questions(items)
        }
        Rows::Sentences(_) | Rows::Occupations(_) => Items::Sentences(read_lines::<Filled>(file)?),
    };
    let free = fs::read_to_string(free_file).ok().and_then(|text| serde_json::from_str(&text).ok());
    let (asked, found) = match &items {
        Items::Questions(items) => (fingerprint(items), Found::Behaviour(Box::new(behaviour(items, config.seed)))),
        Items::Sentences(filled) => (name.to_owned(), Found::Pronouns(pronouns(filled, config.seed))),
    };
    Ok(Outcome { model: entry.clone(), set: name.to_owned(), asked, found, free })
}

fn write_results(folder: &Path, outcomes: &[Outcome]) -> Result<(), EvalsError> {
    let lines: String = outcomes.iter().map(|outcome| format!("{}\n", flat(outcome))).collect();
    write(&folder.join("results.jsonl"), &lines)?;
    let whole = serde_json::to_string_pretty(outcomes).expect("plain structs always serialise") + "\n";
    write(&folder.join("results.json"), &whole)
}

/// One row, with the same fields whatever was measured.
fn flat(outcome: &Outcome) -> serde_json::Value {
    let Outcome { model, set, asked, found, free } = outcome;
    let (behaviour, pronouns) = match found {
        Found::Behaviour(behaviour) => (Some(behaviour), None),
        Found::Pronouns(pronouns) => (None, Some(pronouns)),
    };
    let correlation = pronouns.and_then(|found| found.correlation);
    let both = behaviour.and_then(|found| found.both_ways);
    json!({
        "model": model.name, "parameters": model.parameters, "steps": model.steps, "set": set, "asked": asked,
        "questions": behaviour.map_or_else(|| pronouns.map(|found| found.sentences), |found| Some(found.questions)),
        "chance": behaviour.map(|found| found.chance),
        "matching": behaviour.map(|found| found.matching.value),
        "matching_low": behaviour.map(|found| found.matching.interval[0]),
        "matching_high": behaviour.map(|found| found.matching.interval[1]),
        "both_ways": both.map(|found| found.value),
        "both_ways_low": both.map(|found| found.interval[0]),
        "both_ways_high": both.map(|found| found.interval[1]),
        "likeliest": behaviour.map(|found| found.likeliest.value),
        "off_label": behaviour.map_or_else(|| pronouns.map(|found| found.off_label), |found| Some(found.off_label)),
        "first_choice": behaviour.and_then(|found| found.first_choice),
        "ceiling": behaviour.and_then(|found| found.ceiling),
        "floor": behaviour.and_then(|found| found.floor),
        "between": behaviour.and_then(|found| found.between),
        "calibration_error": behaviour.map(|found| found.calibration_error),
        "refusals": free.map(|free| free.refusals), "free_answers": free.map(|free| free.asked),
        "skew": pronouns.map(|found| found.skew.value),
        "correlation": correlation.map(|found| found.value),
        "correlation_low": correlation.map(|found| found.interval[0]),
        "correlation_high": correlation.map(|found| found.interval[1]),
        "how": behaviour.map_or_else(|| pronouns.map(|found| found.how), |found| Some(found.how)),
    })
}

/// Names of sets: that of the file, and of its folder where two files are called alike.
fn set_names(sets: &[Set]) -> Vec<String> {
    let of = |set: &Set| match sets.iter().filter(|other| other.name == set.name).count() {
        1 => set.name.clone(),
        _ => {
            let folder = set.path.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
            folder.map_or_else(|| set.name.clone(), |folder| format!("{folder}-{}", set.name))
        }
    };
    let mut names: Vec<String> = sets.iter().map(|set| safe(&of(set))).collect();
    for i in 0..names.len() {
        if names[..i].contains(&names[i]) {
            names[i] = format!("{}-{}", names[i], i + 1);
        }
    }
    names
}

/// A name as part of a path.
fn safe(name: &str) -> String {
    let fine = |c: char| if c.is_alphanumeric() || "-_.+".contains(c) { c } else { '_' };
    let name: String = name.chars().map(fine).collect();
    if name.chars().all(|c| c == '.') { format!("_{name}") } else { name }
}

/// Address and model's name of a server's spec.
fn server(spec: &str) -> Option<(String, String)> {
    let rest = spec.strip_prefix("http://").or_else(|| spec.strip_prefix("https://"))?;
    Some(match rest.split_once('#') {
        Some((address, name)) if !name.is_empty() => (address.to_owned(), name.to_owned()),
        _ => (rest.to_owned(), rest.trim_end_matches('/').to_owned()),
    })
}

/// A folder belongs to one way of asking; sets and models may be added.
fn same_config(config: &RunConfig, folder: &Path) -> Result<(), EvalsError> {
    let path = folder.join("config.toml");
    if let Ok(text) = fs::read_to_string(&path) {
        let found: RunConfig = toml::from_str(&text)
            .map_err(|error| EvalsError::Config(format!("{}: {}", path.display(), error.message())))?;
        if found.measure != config.measure {
            return Err(EvalsError::Config(format!(
                "{}: its questions were asked in another way: choose another --out, or give the same form, limit and seed",
                path.display()
            )));
        }
        for model in &config.models {
            if let Some(other) = found.models.iter().find(|other| other.name == model.name && other.spec != model.spec)
            {
                return Err(EvalsError::Config(format!(
                    "{}: has a model {} that is {}, and this is {}: choose another --out",
                    path.display(),
                    model.name,
                    other.spec,
                    model.spec
                )));
            }
        }
    }
    let text = toml::to_string(config).expect("a configuration always serialises");
    write(&path, &text)
}

fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, EvalsError> {
    let text = fs::read_to_string(path).map_err(|source| io(path, "read the answers", source))?;
    let one = |(i, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| {
            EvalsError::Config(format!("{}:{}: {error}: remove the file, and it is asked again", path.display(), i + 1))
        })
    };
    text.lines().enumerate().map(one).collect()
}

fn write(path: &Path, text: &str) -> Result<(), EvalsError> {
    write_atomically(path, text.as_bytes()).map_err(|source| io(path, "write", source))
}

fn io(path: &Path, action: &'static str, source: std::io::Error) -> EvalsError {
    EvalsError::Io { path: path.to_owned(), action, source }
}
