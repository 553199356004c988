//! Models on sets of questions, in a folder.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use serde::de::IgnoredAny;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::ask::{Filled, Item, MeasureConfig, answer_freely, ask, drawn, fill, fingerprint, fingerprint_of_sentences};
use super::blocks::Blocks;
use super::endpoint::{self, is_address};
use super::error::{EvalsError, ModelError};
use super::estimate::{behaviour, pronouns};
pub use super::folder::asked;
use super::folder::{self, Place, key, line, read_lines, safe};
use super::local::weights_digest;
use super::model::Model;
use super::outcome::{Findings, ModelEntry, Outcome, RunConfig};
use super::questions::{self, Question, Rows, Sentence, Set};
use crate::disk::files::hex;
use crate::disk::lock::Claim;
use crate::disk::{DiskError, text};
use crate::lm::config::{ModelConfig, Output};

/// Whoever is told how a run goes on.
pub trait RunObserver: Sync {
    /// A remark.
    fn note(&self, text: &str);
    /// How far something has come.
    fn count(&self, what: &str, done: usize, of: usize);
}

/// Opens a model by its spec.
pub type Open<'a> = dyn Fn(&str) -> Result<Box<dyn Model>, ModelError> + 'a;

/// Questions that are asked between two looks at Ctrl-C.
const BLOCK: usize = 256;

/// Gives models that are called alike, or whose names would be the same folder's, different names.
pub fn name_apart(models: &mut [ModelEntry]) {
    number(models.iter_mut().map(|model| &mut model.name));
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
    shown: &dyn RunObserver,
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
    let _claim = Claim::make(folder).map_err(DiskError::from)?;
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

/// Checks before the first question that there is such a model: a wrong name that is found after hours of another model
/// is costly. Returns the digest of its weights, if they are on this machine.
fn checked(spec: &str, open: &Open<'_>) -> Result<Option<String>, EvalsError> {
    if is_address(spec) {
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
    Ok(weights_digest(folder).map_err(DiskError::io(folder, "read the weights"))?)
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
    shown: &dyn RunObserver,
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
fn answered(
    model: &dyn Model,
    asking: &Asking<'_>,
    stop: &AtomicBool,
    shown: &dyn RunObserver,
) -> Result<bool, EvalsError> {
    let Asking { entry, set, name, config, place, numbers } = asking;
    let what = format!("{}, {name}", entry.name);
    let head = json!({ "asked": digest(asking), "measure": config, "weights": entry.weights });
    let blocks = Blocks {
        path: &place.partial,
        head: Some(&head),
        other: "holds answers to other questions, or of other weights: remove the file, or choose another --out",
        total: numbers.len(),
        size: BLOCK,
    };
    let whole = |_, line: &str| match serde_json::from_str::<IgnoredAny>(line) {
        Ok(_) => Ok(format!("{line}\n")),
        Err(error) => Err(error.to_string()),
    };
    let count = |done| shown.count(&what, done, numbers.len());
    let lines = blocks.work(whole, String::clone, stop, count, |block| {
        Ok::<Vec<String>, EvalsError>(match &set.rows {
            Rows::Questions(questions) => {
                let items = ask(model, questions, &numbers[block], config, &|_| ())?;
                items.iter().map(|item| line(&entry.name, name, item)).collect()
            }
            Rows::Sentences(sentences) => {
                let filled = fill(model, sentences, &numbers[block], config.form, &|_| ())?;
                filled.iter().map(|filled| line(&entry.name, name, filled)).collect()
            }
            Rows::Occupations(_) => unreachable!("occupations are no questions, and were left out before"),
        })
    })?;
    let Some(lines) = lines else { return Ok(false) };
    if let (Rows::Questions(questions), true) = (&set.rows, config.free_answers > 0) {
        let free = answer_freely(model, questions, numbers, config)?;
        text::make_parent(&place.free)?;
        text::write(&place.free, &line(&entry.name, name, &free))?;
    }
    text::make_parent(&place.answers)?;
    text::write(&place.answers, &lines.concat())?;
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
    hex(&hash.finalize())
}

/// What the answers in the folder say, if they answer these questions.
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
            (fingerprint(&items, config), Findings::Behaviour(Box::new(behaviour(&items, config.seed))))
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
            (fingerprint_of_sentences(&asked, config), Findings::Pronouns(pronouns(&filled, config.seed)))
        }
        Rows::Occupations(_) => return Err(other()),
    };
    let bad = |error: serde_json::Error| {
        let (free, file) = (place.free.display(), file.display());
        EvalsError::Config(format!("{free}: {error}: remove it and {file}, and both are asked again"))
    };
    let free = text::read(&place.free)?.map(|text| serde_json::from_str(&text).map_err(bad)).transpose()?;
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
    let mut names: Vec<String> = sets.iter().map(|set| safe(&of(set))).collect();
    number(names.iter_mut());
    names
}

/// Adds numbers to names whose files would be the same, but to the first of them.
fn number<'a>(names: impl Iterator<Item = &'a mut String>) {
    let mut taken = BTreeSet::new();
    for name in names {
        let wanted = name.clone();
        let mut number = 2;
        while !taken.insert(key(name)) {
            *name = format!("{wanted}-{number}");
            number += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::{BLOCK, RunObserver, name_apart, run};
    use crate::evals::ask::MeasureConfig;
    use crate::evals::error::{EvalsError, ModelError};
    use crate::evals::folder::read_outcomes;
    use crate::evals::model::{AnswerProbabilities, ClosedQuestion, Done, How, Model, Prompt, Sampling, Written};
    use crate::evals::outcome::{ModelEntry, Outcome, RunConfig};

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

        fn answers(&self, asked: &[ClosedQuestion], _: &Done<'_>) -> Result<Vec<AnswerProbabilities>, ModelError> {
            if self.fails {
                return Err(ModelError::Config("is broken".to_owned()));
            }
            let before = self.asked.fetch_add(asked.len(), Ordering::Relaxed);
            if self.stops_after.is_some_and(|blocks| before + asked.len() >= blocks * BLOCK) {
                self.stop.store(true, Ordering::Relaxed);
            }
            let log_prob = |answer: &String| if answer == " Yes" { 0.75_f64.ln() } else { 0.25_f64.ln() };
            let one = |asked: &ClosedQuestion| AnswerProbabilities {
                log_probs: asked.answers.iter().map(log_prob).collect(),
                how: How::Exact,
                cut: false,
                conditional: false,
            };
            Ok(asked.iter().map(one).collect())
        }

        fn write(&self, prompts: &[Prompt], _: &Sampling, _: u64, _: &Done<'_>) -> Result<Vec<Written>, ModelError> {
            Ok(prompts.iter().map(|_| Written { text: " Yes".to_owned(), ended: true }).collect())
        }
    }

    struct Quiet;

    impl RunObserver for Quiet {
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
        ModelEntry { name: name.to_owned(), spec: spec.to_owned(), ..ModelEntry::default() }
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
            assert!(
                error.contains(&format!("set.jsonl: line {line}: EOF")) && error.contains("mend the line"),
                "{error}"
            );
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
        assert!(error.contains("partial/m/set.jsonl: line 1: holds answers to other questions"), "{error}");
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
