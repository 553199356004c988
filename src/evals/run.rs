//! Models on sets of questions, in a folder.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::endpoint;
use super::folder::{self, Place, io, key, line, read_lines, safe, write};
pub use super::folder::{read_filled, read_items, read_outcomes};
use super::measure::{
    Behaviour, Filled, Free, Item, MeasureConfig, Pronouns, answer_freely, ask, behaviour, drawn, fill, fingerprint,
    fingerprint_of_sentences, pronouns,
};
use super::model::{Model, ModelError, weights_digest};
use super::questions::{self, Question, QuestionsError, Rows, Sentence, Set};
use crate::disk::lock::{Claim, LockError};
use crate::lm::config::{ModelConfig, Output};
use crate::lm::run::{LmSummary, StageKind};

/// What is run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Files or folders of questions.
    #[serde(serialize_with = "folder::shown")]
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
    /// SHA-256 of its weights, of a folder; a run finds it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
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
    /// Somebody else writes to the folder.
    #[error(transparent)]
    Lock(#[from] LockError),
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
            return Self { name, spec: spec.to_owned(), parameters: None, steps: None, weights: None };
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
        let parameters = config.map(|config| config.parameters());
        Self { name, spec: folder.display().to_string(), parameters, steps, weights: None }
    }
}

/// Gives models that are called alike, or whose names would be the same folder's, different names.
pub fn name_apart(models: &mut [ModelEntry]) {
    let mut taken = BTreeSet::new();
    for model in models {
        let wanted = model.name.clone();
        let mut number = 2;
        while !taken.insert(key(&model.name)) {
            model.name = format!("{wanted}-{number}");
            number += 1;
        }
    }
}

/// Asks every model everything that the folder does not hold yet; nothing where it was stopped. `open` opens a model by
/// its spec.
///
/// # Errors
/// [`EvalsError`]; what was answered before is kept, block by block, and a later call goes on from there.
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
    // An address that must not be stored, as it holds a password, is refused before anything is.
    for model in &config.models {
        endpoint::check(&model.spec).map_err(ModelError::from)?;
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
    let mut config = config.clone();
    for entry in &mut config.models {
        entry.weights = checked(&entry.spec, open)?;
    }
    let _claim = Claim::make(folder)?;
    let known = folder::remember(&config, folder)?;
    let (mut outcomes, mut has_card) = (Vec::new(), true);
    for entry in &config.models {
        let ended = all_sets(entry, &sets, &names, &config.measure, folder, open, stop, shown, &mut outcomes);
        // What there is can be reported, whatever happens to the next set or model.
        folder::write_results(folder, &known.models, &outcomes)?;
        has_card = folder::write_card(folder)?;
        if !ended? {
            return Ok(None);
        }
    }
    if !has_card {
        shown.note(&format!("{}: has a README.md of its own: Python's datasets is told nothing", folder.display()));
    }
    Ok(Some(outcomes))
}

/// What a folder was asked so far; nothing where there is none yet.
///
/// # Errors
/// When its `config.toml` cannot be read, or is that of something else.
pub fn config(folder: &Path) -> Result<Option<RunConfig>, EvalsError> {
    folder::asked(folder)
}

/// Sees before the first question whether there is such a model: found after hours of another one, a wrong name is dear.
/// The digest of its weights, where there are any on this machine.
fn checked(spec: &str, open: &Open<'_>) -> Result<Option<String>, EvalsError> {
    if server(spec).is_some() {
        // Nothing is asked yet: the address and the cache are looked at.
        drop(open(spec)?);
        return Ok(None);
    }
    let folder = Path::new(spec);
    let file = folder.join("config.json");
    if file.is_file() {
        let config = ModelConfig::read(&file).map_err(|error| EvalsError::Config(error.to_string()))?;
        if config.output != Output::Tokens {
            return Err(EvalsError::Config(format!("{spec}: is a model that scores, not one that writes")));
        }
    } else if !folder.join("adapter_config.json").is_file() {
        return Err(EvalsError::Config(format!(
            "{spec}: no config.json and no adapter_config.json here: this is not a model's folder"
        )));
    }
    weights_digest(folder).map_err(|source| io(folder, "read the weights", source))
}

/// A model and a set.
struct Asking<'a> {
    entry: &'a ModelEntry,
    set: &'a Set,
    name: &'a str,
    config: &'a MeasureConfig,
    place: Place,
    /// Which questions of the set.
    numbers: Vec<usize>,
}

/// False where it was stopped.
fn all_sets(
    entry: &ModelEntry,
    sets: &[Set],
    names: &[String],
    config: &MeasureConfig,
    folder: &Path,
    open: &Open<'_>,
    stop: &AtomicBool,
    shown: &dyn Shown,
    outcomes: &mut Vec<Outcome>,
) -> Result<bool, EvalsError> {
    let mut model: Option<Box<dyn Model>> = None;
    for (set, name) in sets.iter().zip(names) {
        let count = match &set.rows {
            Rows::Questions(questions) => questions.len(),
            Rows::Sentences(sentences) => sentences.len(),
            Rows::Occupations(_) => continue,
        };
        let place = Place::new(folder, &entry.name, name, &set.rows);
        let asking = Asking { entry, set, name, config, place, numbers: drawn(count, config) };
        if !asking.place.answers.exists() {
            let model = match &mut model {
                Some(model) => model,
                none => none.insert(open(&entry.spec)?),
            };
            if !answered(&**model, &asking, stop, shown)? {
                return Ok(false);
            }
        }
        outcomes.push(outcome(&asking)?);
    }
    for remark in model.iter().flat_map(|model| model.remarks()) {
        shown.note(&format!("note: {remark}"));
    }
    Ok(true)
}

/// Asks a set, and writes the answers down; false where it was stopped.
fn answered(model: &dyn Model, asking: &Asking<'_>, stop: &AtomicBool, shown: &dyn Shown) -> Result<bool, EvalsError> {
    let Asking { entry, set, name, config, place, numbers } = asking;
    let what = format!("{}, {name}", entry.name);
    let head = json!({ "asked": digest(asking), "measure": config, "weights": entry.weights });
    let mut lines = folder::begun(&place.partial, &head, numbers.len(), BLOCK)?;
    while lines.len() < numbers.len() {
        shown.count(&what, lines.len(), numbers.len());
        if stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let block = &numbers[lines.len()..numbers.len().min(lines.len() + BLOCK)];
        let new: Vec<String> = match &set.rows {
            Rows::Questions(questions) => {
                let items = ask(model, questions, block, config, &|_| ())?;
                items.iter().map(|item| line(&entry.name, name, item)).collect()
            }
            Rows::Sentences(sentences) => {
                let filled = fill(model, sentences, block, config.form, &|_| ())?;
                filled.iter().map(|filled| line(&entry.name, name, filled)).collect()
            }
            Rows::Occupations(_) => return Ok(true),
        };
        folder::append(&place.partial, &new)?;
        lines.extend(new);
    }
    shown.count(&what, numbers.len(), numbers.len());
    if let (Rows::Questions(questions), true) = (&set.rows, config.free_answers > 0) {
        let free = answer_freely(model, questions, numbers, config)?;
        folder::make_parent(&place.free)?;
        write(&place.free, &line(&entry.name, name, &free))?;
    }
    folder::make_parent(&place.answers)?;
    write(&place.answers, &lines.concat())?;
    folder::end(&place.partial)?;
    Ok(true)
}

/// SHA-256 of the rows that are asked, with all of their fields.
fn digest(asking: &Asking<'_>) -> String {
    let mut hash = Sha256::new();
    for &number in &asking.numbers {
        let row = match &asking.set.rows {
            Rows::Questions(questions) => json!([number, questions[number]]),
            Rows::Sentences(sentences) => json!([number, sentences[number]]),
            Rows::Occupations(_) => continue,
        };
        hash.update(format!("{row}\n"));
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the answers that are there say, if they are to these questions.
fn outcome(asking: &Asking<'_>) -> Result<Outcome, EvalsError> {
    let Asking { entry, set, name, config, place, numbers } = asking;
    let file = &place.answers;
    let other = || {
        EvalsError::Config(format!(
            "{}: holds answers to other questions than {} has now: remove it, or choose another --out",
            file.display(),
            set.path.display()
        ))
    };
    let (asked, found) = match &set.rows {
        Rows::Questions(questions) => {
            let items: Vec<Item> = read_lines(file)?;
            let same = |(item, &number): (&Item, &usize)| item.index == number && is_of(item, &questions[number]);
            if items.len() != numbers.len() || !items.iter().zip(numbers).all(same) {
                return Err(other());
            }
            (fingerprint(&items, config), Found::Behaviour(Box::new(behaviour(&items, config.seed))))
        }
        Rows::Sentences(sentences) => {
            let filled: Vec<Filled> = read_lines(file)?;
            let asked: Vec<&Sentence> = numbers.iter().map(|&number| &sentences[number]).collect();
            let same = |((filled, &number), sentence): ((&Filled, &usize), &&Sentence)| {
                filled.index == number && is_of_sentence(filled, sentence)
            };
            if filled.len() != numbers.len() || !filled.iter().zip(numbers).zip(&asked).all(same) {
                return Err(other());
            }
            (fingerprint_of_sentences(&asked, config), Found::Pronouns(pronouns(&filled, config.seed)))
        }
        Rows::Occupations(_) => return Err(other()),
    };
    let free = match fs::read_to_string(&place.free) {
        Ok(text) => Some(serde_json::from_str(&text).map_err(|error| {
            EvalsError::Config(format!(
                "{}: {error}: remove it and {}, and both are asked again",
                place.free.display(),
                file.display()
            ))
        })?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(source) => return Err(io(&place.free, "read", source)),
    };
    Ok(Outcome { model: (*entry).clone(), set: (*name).to_owned(), asked, found, free })
}

fn is_of(item: &Item, question: &Question) -> bool {
    item.question == question.question
        && item.label_confidence == question.label_confidence
        && question.answers().eq(item.answers.iter().map(String::as_str))
}

fn is_of_sentence(filled: &Filled, sentence: &Sentence) -> bool {
    filled.sentence == sentence.sentence_with_blank
        && filled.occupation == sentence.occupation
        && filled.percent_women == sentence.percent_women
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
    let mut taken = BTreeSet::new();
    let mut names: Vec<String> = sets.iter().map(|set| safe(&of(set))).collect();
    for name in &mut names {
        let wanted = name.clone();
        let mut number = 2;
        while !taken.insert(key(name)) {
            *name = format!("{wanted}-{number}");
            number += 1;
        }
    }
    names
}

/// Address and model's name of a server's spec.
fn server(spec: &str) -> Option<(String, String)> {
    let rest = spec.strip_prefix("http://").or_else(|| spec.strip_prefix("https://"))?;
    Some(match rest.split_once('#') {
        Some((address, name)) if !name.is_empty() => (address.to_owned(), name.to_owned()),
        _ => (rest.to_owned(), rest.trim_end_matches('/').to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::{BLOCK, EvalsError, ModelEntry, Outcome, RunConfig, Shown, name_apart, read_outcomes, run};
    use crate::evals::measure::MeasureConfig;
    use crate::evals::model::{Answered, Asked, How, Model, ModelError, Prompt, Sampling, Written};

    /// Says yes with ¾; counts what it is asked, and fails or stops after some of it.
    #[derive(Clone, Default)]
    struct Fake {
        asked: Arc<AtomicUsize>,
        stop: Arc<AtomicBool>,
        /// Blocks that are answered before it is stopped.
        stops_after: Option<usize>,
        fails: bool,
    }

    impl Model for Fake {
        fn name(&self) -> &str {
            "fake"
        }

        fn parameters(&self) -> Option<usize> {
            None
        }

        fn answers(&self, asked: &[Asked], _done: &(dyn Fn(usize) + Sync)) -> Result<Vec<Answered>, ModelError> {
            if self.fails {
                return Err(ModelError::Config("is broken".to_owned()));
            }
            let before = self.asked.fetch_add(asked.len(), Ordering::Relaxed);
            if self.stops_after.is_some_and(|blocks| before + asked.len() >= blocks * BLOCK) {
                self.stop.store(true, Ordering::Relaxed);
            }
            let log_prob = |answer: &String| if answer == " Yes" { 0.75_f64.ln() } else { 0.25_f64.ln() };
            let one = |asked: &Asked| Answered {
                log_probs: asked.answers.iter().map(log_prob).collect(),
                how: How::Exact,
                cut: false,
                conditional: false,
            };
            Ok(asked.iter().map(one).collect())
        }

        fn write(
            &self,
            prompts: &[Prompt],
            _sampling: &Sampling,
            _first: u64,
            _done: &(dyn Fn(usize) + Sync),
        ) -> Result<Vec<Written>, ModelError> {
            Ok(prompts.iter().map(|_| Written { text: " Yes".to_owned(), ended: true }).collect())
        }

        fn remarks(&self) -> Vec<String> {
            Vec::new()
        }
    }

    struct Quiet;

    impl Shown for Quiet {
        fn note(&self, _text: &str) {}

        fn count(&self, _what: &str, _done: usize, _of: usize) {}
    }

    fn persona(path: &Path, count: usize, change: impl Fn(&mut serde_json::Value)) {
        let one = |i: usize| {
            let (matching, other) = if i.is_multiple_of(2) { (" Yes", " No") } else { (" No", " Yes") };
            let mut row = serde_json::json!({
                "question": format!("Is it {i}?"), "label_confidence": 0.9, "answer_matching_behavior": matching,
                "answer_not_matching_behavior": other,
            });
            if i == count - 1 {
                change(&mut row);
            }
            format!("{row}\n")
        };
        fs::write(path, (0..count).map(one).collect::<String>()).unwrap();
    }

    fn entry(name: &str, spec: &str) -> ModelEntry {
        ModelEntry { name: name.to_owned(), spec: spec.to_owned(), parameters: None, steps: None, weights: None }
    }

    /// A model's folder, as far as it is looked at before the first question.
    fn model(folder: &Path, weights: &str) -> String {
        fs::create_dir_all(folder).unwrap();
        let config = serde_json::json!({
            "model_type": "gpt2", "vocab_size": 10, "n_embd": 4, "n_layer": 1, "n_head": 1, "n_positions": 8,
        });
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
        fs::write(folder.join("model.safetensors"), weights).unwrap();
        folder.display().to_string()
    }

    fn asked(
        models: &[ModelEntry],
        data: &[PathBuf],
        out: &Path,
        fake: &Fake,
    ) -> Result<Option<Vec<Outcome>>, EvalsError> {
        let measure = MeasureConfig { free_answers: 2, ..MeasureConfig::default() };
        let config = RunConfig { sets: data.to_vec(), measure, models: models.to_vec() };
        let open = |spec: &str| -> Result<Box<dyn Model>, ModelError> {
            Ok(Box::new(Fake { fails: spec.contains("broken"), ..fake.clone() }))
        };
        fake.stop.store(false, Ordering::Relaxed);
        run(&config, out, &open, &fake.stop, &Quiet)
    }

    fn names(out: &Path) -> Vec<String> {
        read_outcomes(out).unwrap().into_iter().map(|outcome| outcome.model.name).collect()
    }

    #[test]
    fn models_of_earlier_calls_stay_and_a_name_stays_one_model() {
        let folder = tempfile::tempdir().unwrap();
        let (out, data) = (folder.path().join("out"), vec![folder.path().join("set.jsonl")]);
        persona(&data[0], 6, |_| ());
        let fake = Fake::default();
        asked(&[entry("dpo", "http://a/v1#x")], &data, &out, &fake).unwrap().unwrap();
        asked(&[entry("other", "http://a/v1#y")], &data, &out, &fake).unwrap().unwrap();
        assert_eq!(names(&out), ["dpo", "other"]);
        assert_eq!(fs::read_to_string(out.join("results.jsonl")).unwrap().lines().count(), 2);
        let error = asked(&[entry("dpo", "http://a/v1#z")], &data, &out, &fake).unwrap_err().to_string();
        assert!(error.contains("has answers of a model dpo that is http://a/v1#x"), "{error}");
        // Another name that would be the same folder.
        let error = asked(&[entry("DPO", "http://a/v1#x")], &data, &out, &fake).unwrap_err().to_string();
        assert!(error.contains("and DPO is http://a/v1#x"), "{error}");
        // The same again asks nothing, and what is known of a model now is shown everywhere.
        let before = fake.asked.load(Ordering::Relaxed);
        let sized = ModelEntry { parameters: Some(1000), ..entry("dpo", "http://a/v1#x") };
        asked(&[sized], &data, &out, &fake).unwrap().unwrap();
        assert_eq!(fake.asked.load(Ordering::Relaxed), before);
        assert_eq!(read_outcomes(&out).unwrap()[0].model.parameters, Some(1000));
        assert_eq!(names(&out), ["dpo", "other"]);
        // What has no answers any more has no results.
        fs::remove_dir_all(out.join("items/other")).unwrap();
        asked(&[entry("third", "http://a/v1#y")], &data, &out, &fake).unwrap().unwrap();
        assert_eq!(names(&out), ["dpo", "third"]);

        let mut alike = ["org/m", "org:m", "Org/M", "m"].map(|name| entry(name, "http://a/v1"));
        name_apart(&mut alike);
        assert_eq!(alike.map(|model| model.name), ["org/m", "org:m-2", "Org/M-3", "m"]);
    }

    #[test]
    fn answers_to_other_questions_or_of_other_weights_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (out, data) = (folder.path().join("out"), vec![folder.path().join("set.jsonl")]);
        let fake = Fake::default();
        let spec = model(&folder.path().join("m"), "weights");
        let again = || asked(&[entry("m", &spec)], &data, &out, &fake);
        persona(&data[0], 6, |_| ());
        again().unwrap().unwrap();
        let changes: [fn(&mut serde_json::Value); 3] = [
            |row| row["label_confidence"] = 0.8.into(),
            |row| row["answer_not_matching_behavior"] = " Maybe".into(),
            |row| row["question"] = "Is it?".into(),
        ];
        for change in changes {
            persona(&data[0], 6, change);
            let error = again().unwrap_err().to_string();
            assert!(error.contains("holds answers to other questions than"), "{error}");
        }
        persona(&data[0], 6, |_| ());
        again().unwrap().unwrap();
        model(&folder.path().join("m"), "trained further");
        let error = again().unwrap_err().to_string();
        assert!(error.contains("the model m had other weights when it answered"), "{error}");
        // Where nothing was answered, there is nothing to mistake.
        fs::remove_dir_all(out.join("items")).unwrap();
        fs::remove_dir_all(out.join("free")).unwrap();
        again().unwrap().unwrap();
    }

    #[test]
    fn sentences_are_held_against_the_set_too() {
        let folder = tempfile::tempdir().unwrap();
        let (out, data) = (folder.path().join("out"), vec![folder.path().join("set.jsonl")]);
        let fake = Fake::default();
        let write = |women: f64, sentence: &str| {
            let row = serde_json::json!({
                "occupation": "cook", "sentence_with_blank": sentence, "pronoun_options": ["he", "she", "they"],
                "BLS_percent_women_2019": women,
            });
            fs::write(&data[0], format!("{row}\n")).unwrap();
        };
        write(40.0, "The cook said _ was late.");
        let models = [entry("m", "http://a/v1#m")];
        let found = asked(&models, &data, &out, &fake).unwrap().unwrap();
        assert!(out.join("pronouns/m/set.jsonl").is_file() && found[0].asked != "set");
        for (women, sentence) in [(60.0, "The cook said _ was late."), (40.0, "The cook knew _ was late.")] {
            write(women, sentence);
            let error = asked(&models, &data, &out, &fake).unwrap_err().to_string();
            assert!(error.contains("holds answers to other questions than"), "{error}");
        }
    }

    #[test]
    fn what_was_answered_before_a_stop_is_not_asked_again() {
        let folder = tempfile::tempdir().unwrap();
        let data = vec![folder.path().join("set.jsonl")];
        let [out, whole] = ["out", "whole"].map(|name| folder.path().join(name));
        let count = BLOCK + 10;
        persona(&data[0], count, |_| ());
        let models = [entry("m", "http://a/v1#m")];
        let stopping = Fake { stops_after: Some(1), ..Fake::default() };
        assert_eq!(asked(&models, &data, &out, &stopping).unwrap(), None);
        let partial = out.join("partial/m/set.jsonl");
        assert_eq!(fs::read_to_string(&partial).unwrap().lines().count(), 1 + BLOCK);
        assert!(!out.join("items").exists());
        // A line in the middle that cannot be read is named, and nothing is lost.
        let intact = fs::read_to_string(&partial).unwrap();
        for line in [1, 3] {
            let lines: Vec<&str> =
                intact.lines().enumerate().map(|(i, l)| if i + 1 == line { "{\"ind" } else { l }).collect();
            fs::write(&partial, lines.join("\n") + "\n").unwrap();
            let before = fs::read(&partial).unwrap();
            let error = asked(&models, &data, &out, &Fake::default()).unwrap_err().to_string();
            assert!(error.contains(&format!("set.jsonl:{line}: EOF")) && error.contains("mend the line"), "{error}");
            assert_eq!(fs::read(&partial).unwrap(), before);
        }
        fs::write(&partial, &intact).unwrap();
        // A torn line is asked again; so is what is not a whole block.
        let mut torn = fs::read(&partial).unwrap();
        torn.extend(b"{\"model\": \"m\"}\n{\"ind");
        fs::write(&partial, torn).unwrap();
        let fake = Fake::default();
        asked(&models, &data, &out, &fake).unwrap().unwrap();
        assert_eq!(fake.asked.load(Ordering::Relaxed), 10);
        assert!(!out.join("partial").exists());
        asked(&models, &data, &whole, &fake).unwrap().unwrap();
        for file in ["items/m/set.jsonl", "free/m/set.json", "results.json"] {
            assert_eq!(fs::read(out.join(file)).unwrap(), fs::read(whole.join(file)).unwrap(), "{file}");
        }
        // Answers to other questions are neither taken nor lost.
        fs::remove_dir_all(out.join("items")).unwrap();
        assert_eq!(asked(&models, &data, &out, &Fake { stops_after: Some(1), ..Fake::default() }).unwrap(), None);
        let kept = fs::read(&partial).unwrap();
        persona(&data[0], count, |row| row["label_confidence"] = 0.8.into());
        let error = asked(&models, &data, &out, &fake).unwrap_err().to_string();
        assert!(error.contains("partial/m/set.jsonl: holds answers to other questions"), "{error}");
        assert_eq!(fs::read(&partial).unwrap(), kept);
    }

    #[test]
    fn a_model_that_is_not_there_is_found_first_and_one_that_fails_keeps_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let (out, data) = (folder.path().join("out"), vec![folder.path().join("set.jsonl")]);
        persona(&data[0], 6, |_| ());
        let fake = Fake::default();
        let good = entry("good", "http://a/v1#good");
        let typo = folder.path().join("typo").display().to_string();
        let error = asked(&[good.clone(), entry("typo", &typo)], &data, &out, &fake).unwrap_err().to_string();
        assert!(error.contains("typo: no config.json and no adapter_config.json here"), "{error}");
        assert!(fake.asked.load(Ordering::Relaxed) == 0 && !out.exists());
        let broken = entry("broken", "http://a/v1#broken");
        let error = asked(&[good, broken], &data, &out, &fake).unwrap_err().to_string();
        assert!(error.contains("is broken"), "{error}");
        assert_eq!(names(&out), ["good"]);
    }
}
