//! Lets a model write statements for a behaviour (Perez et al. 2022, arXiv 2212.09251, §3.1.1).
//!
//! Everything that was written is kept, in the order in which it was asked for; what is no statement and what stands
//! there already is left out of the candidates that a filter gets.
//!
//! ```text
//! NAME/provenance.json    behaviour, model, prompts, settings; at the end also the counts
//! NAME/written.jsonl      every text, a line each; grows by whole blocks
//! NAME/candidates.jsonl   statements with the label that was wanted; there when all is written
//! ```

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rand::RngExt as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::behaviour::Behaviour;
use super::blocks::Blocks;
use super::diversity::words;
use super::error::{EvalsError, FileError};
use super::model::{Model, Prompt, Sampling, Written};
use crate::disk::lines::{self, plain_line};
use crate::disk::lock::Claim;
use crate::disk::{DiskError, text};
use crate::random::stream;

/// How statements are written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GenerateConfig {
    /// Folder or server.
    pub model: String,
    /// Texts for each label.
    pub count: usize,
    /// Shows the model examples, other ones before every text.
    pub few_shot: bool,
    /// Divides the logits; none for the paper's.
    pub temperature: Option<f64>,
    /// Draws among the likeliest tokens that have this probability together; none for the paper's.
    pub top_p: Option<f64>,
    /// Most tokens of a text; none for 48 for statements, 256 for questions with choices.
    pub max_new_tokens: Option<usize>,
    /// What ends a text; none for the paper's.
    pub stop: Option<Vec<String>>,
    /// A statement is left out if it shares this much of its runs of three words (Jaccard's index) with an earlier one.
    pub near_duplicates: f64,
    /// Seed of every draw.
    pub seed: u64,
}

/// Where statements come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// What they are about.
    pub behaviour: Behaviour,
    /// Who wrote them.
    pub model: Writer,
    /// The prompt for each label.
    pub prompts: [String; 2],
    /// How they were drawn. The seed is of this behaviour alone, made of the command's and the behaviour's name.
    pub sampling: Sampling,
    /// The command.
    pub config: GenerateConfig,
    /// For each label; none as long as not all is written.
    pub counts: Option<[Counts; 2]>,
}

/// A model that wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// As tables have it.
    pub name: String,
    /// Its parameters, where that is known.
    pub parameters: Option<usize>,
    /// SHA-256 of its weights, where they are on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
}

/// What became of the texts of a label.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Texts.
    pub written: usize,
    /// Texts as long as they could be, which may lack their end. They are kept, as in the paper.
    pub unended: usize,
    /// Without a letter or digit.
    pub empty: usize,
    /// Of a single word.
    pub short: usize,
    /// Questions without two choices.
    pub malformed: usize,
    /// Equal to an earlier one but for case, white space, punctuation and quotes.
    pub duplicates: usize,
    /// Nearly equal to an earlier one.
    pub near_duplicates: usize,
    /// Candidates.
    pub kept: usize,
}

/// A statement that may become a question of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The statement.
    pub statement: String,
    /// The label that it was written for.
    pub label: String,
    /// Name of the behaviour.
    pub behaviour: String,
    /// Number of the text: it was drawn from this stream of the seed.
    pub index: usize,
    /// Numbers of the examples that were shown before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<usize>,
    /// Its true label, or `neither`, where somebody has added that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truth: Option<String>,
}

/// Texts that are asked for together and written down together.
const BLOCK: usize = 64;
/// Words of the runs by which near-duplicates are found.
const SHINGLE: usize = 3;

const PROVENANCE: &str = "provenance.json";
const WRITTEN: &str = "written.jsonl";
const CANDIDATES: &str = "candidates.jsonl";

/// What is there already, if all is written; `None` if there is something to do. `weights` is the SHA-256 of the model's
/// weights, where they are on this machine.
///
/// # Errors
/// When the folder holds statements of another configuration or of other weights, or it or the examples are not what they
/// should be.
pub fn finished(
    behaviour: &Behaviour,
    config: &GenerateConfig,
    weights: Option<&str>,
    out: &Path,
) -> Result<Option<Provenance>, EvalsError> {
    config.validate(behaviour)?;
    let folder = out.join(&behaviour.name);
    let path = folder.join(PROVENANCE);
    let Some(found) = read_json::<Provenance>(&path)? else {
        // Whose texts these are nobody knows.
        return match [WRITTEN, CANDIDATES].map(|name| folder.join(name)).into_iter().find(|path| path.exists()) {
            Some(path) => {
                let problem = format!("is there without {PROVENANCE}: remove it, or choose another --out");
                Err(FileError::whole(&path, problem).into())
            }
            None => Ok(None),
        };
    };
    let wanted = provenance(behaviour, config, found.model.clone());
    let problem = |what: &str| {
        let problem =
            format!("holds statements of another {what}: choose another --out, or give the same command to go on");
        Err(FileError::whole(&path, problem).into())
    };
    if found.behaviour != wanted.behaviour {
        return problem("description of the behaviour");
    }
    if found.config.model != wanted.config.model {
        return problem(&format!("model, {}", found.config.model));
    }
    if (&found.config, &found.sampling) != (&wanted.config, &wanted.sampling) {
        return problem("configuration");
    }
    if let (Some(then), Some(now)) = (found.model.weights.as_deref(), weights)
        && then != now
    {
        let problem = format!(
            "holds statements of {} as it was before: its weights have changed since; choose another --out",
            found.config.model
        );
        return Err(FileError::whole(&path, problem).into());
    }
    Ok(found.counts.is_some().then_some(found))
}

/// Writes statements for a behaviour into a folder of its name, and goes on where it was stopped. `weights` as for
/// [`finished`]. `done` is told how many texts are written and of how many. Nothing when stopped; the result is the same
/// whether it was or not.
///
/// # Errors
/// [`EvalsError`]. What was written is kept.
pub fn generate(
    behaviour: &Behaviour,
    config: &GenerateConfig,
    model: &dyn Model,
    weights: Option<&str>,
    out: &Path,
    stop: &AtomicBool,
    done: &(dyn Fn(usize, usize) + Sync),
) -> Result<Option<Provenance>, EvalsError> {
    if let Some(found) = finished(behaviour, config, weights, out)? {
        return Ok(Some(found));
    }
    // A server's model may be known by the server's address until it is asked.
    model.settle()?;
    let writer =
        Writer { name: model.name().to_owned(), parameters: model.parameters(), weights: weights.map(str::to_owned) };
    let mut provenance = provenance(behaviour, config, writer);
    let prompt = |index: usize, examples: &[usize]| Prompt::Text(behaviour.prompt(index / config.count, examples));
    let total = 2 * config.count;
    // What cannot be finished is not begun. Without examples there are only two prompts.
    for index in (0..total).step_by(if config.few_shot { 1 } else { config.count }) {
        model.fits(&prompt(index, &examples(behaviour, config, index)), &provenance.sampling)?;
    }
    let folder = out.join(&behaviour.name);
    let _claim = Claim::make(&folder).map_err(DiskError::from)?;
    let path = folder.join(PROVENANCE);
    match read_json::<Provenance>(&path)? {
        Some(found) if (&found.model.name, found.model.parameters) != (&provenance.model.name, model.parameters()) => {
            let problem = format!(
                "was begun by the model {}, and this is {}: choose another --out, or give the same model to go on",
                found.model.name, provenance.model.name
            );
            return Err(FileError::whole(&path, problem).into());
        }
        Some(_) => {}
        None => text::write(&path, &lines::pretty(&provenance))?,
    }
    let written_path = folder.join(WRITTEN);
    let texts = blocks(&written_path, total).work(
        numbered,
        plain_line,
        stop,
        |begun| done(begun, total),
        |block| {
            let first = block.start;
            let shown: Vec<Vec<usize>> = block.clone().map(|index| examples(behaviour, config, index)).collect();
            let prompts: Vec<Prompt> = block.zip(&shown).map(|(index, examples)| prompt(index, examples)).collect();
            let of_block = AtomicUsize::new(0);
            let count = |more: usize| done(first + of_block.fetch_add(more, Ordering::Relaxed) + more, total);
            let written = model.write(&prompts, &provenance.sampling, first as u64, &count)?;
            if written.len() != prompts.len() {
                let problem = format!("{}: wrote {} texts for {} prompts", model.name(), written.len(), prompts.len());
                return Err(EvalsError::Config(problem));
            }
            let text =
                |(i, (Written { text, ended }, examples))| WrittenText { index: first + i, text, ended, examples };
            Ok(written.into_iter().zip(shown).enumerate().map(text).collect())
        },
    )?;
    let Some(texts) = texts else { return Ok(None) };
    let (candidates, counts) = sift(behaviour, config, &texts);
    text::write(&folder.join(CANDIDATES), &candidates.iter().map(plain_line).collect::<String>())?;
    provenance.counts = Some(counts);
    text::write(&folder.join(PROVENANCE), &lines::pretty(&provenance))?;
    Ok(Some(provenance))
}

/// The candidates of a behaviour's folder.
///
/// # Errors
/// When it is not finished, or a line is not what it should be.
pub fn read(folder: &Path) -> Result<(Provenance, Vec<Candidate>), EvalsError> {
    let Some(provenance) = read_json::<Provenance>(&folder.join(PROVENANCE))? else {
        return Err(FileError::whole(folder, "has no provenance.json: expected what `evals generate` writes").into());
    };
    if provenance.counts.is_none() {
        return Err(FileError::whole(folder, "is not finished; go on with the same `evals generate`").into());
    }
    let path = folder.join(CANDIDATES);
    let text = fs::read_to_string(&path).map_err(DiskError::io(&path, "read"))?;
    let mut candidates: Vec<Candidate> = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let here = |problem: String| FileError::line(&path, i + 1, problem);
        let candidate: Candidate = serde_json::from_str(line).map_err(|error| here(error.to_string()))?;
        let labels = &provenance.behaviour.labels;
        if !labels.contains(&candidate.label) {
            return Err(
                here(format!("label: is '{}': must be '{}' or '{}'", candidate.label, labels[0], labels[1])).into()
            );
        }
        if candidate.statement.trim().is_empty() {
            return Err(here("statement: is empty: must be text".to_owned()).into());
        }
        candidates.push(candidate);
    }
    Ok((provenance, candidates))
}

/// The behaviours' folders in a folder, or this one itself, in the order of their names.
///
/// # Errors
/// When there is no such folder.
pub fn folders(path: &Path) -> Result<Vec<PathBuf>, EvalsError> {
    if path.join(PROVENANCE).is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    let io = DiskError::io(path, "read the folder");
    for entry in fs::read_dir(path).map_err(&io)? {
        let own = entry.map_err(&io)?.path();
        if own.join(PROVENANCE).is_file() {
            found.push(own);
        }
    }
    found.sort();
    match found.is_empty() {
        true => {
            let problem = "holds no statements: expected a folder that `evals generate` has written".to_owned();
            Err(FileError::whole(path, problem).into())
        }
        false => Ok(found),
    }
}

impl Default for GenerateConfig {
    fn default() -> Self {
        Self {
            model: String::new(),
            count: 5000,
            few_shot: false,
            temperature: None,
            top_p: None,
            max_new_tokens: None,
            stop: None,
            near_duplicates: 0.8,
            seed: 0,
        }
    }
}

impl GenerateConfig {
    /// How the texts of a behaviour are drawn.
    #[must_use]
    pub fn sampling(&self, behaviour: &Behaviour) -> Sampling {
        let paper = behaviour.form.sampling();
        // 31 bits, as not every server takes more; the number of the text is added.
        let seed = stream(self.seed, &format!("generate {}", behaviour.name), 0).random::<u64>() >> 33;
        Sampling {
            max_new_tokens: self.max_new_tokens.unwrap_or(paper.max_new_tokens),
            temperature: self.temperature.unwrap_or(paper.temperature),
            top_p: self.top_p.unwrap_or(paper.top_p),
            stop: self.stop.clone().unwrap_or(paper.stop),
            seed,
        }
    }

    fn validate(&self, behaviour: &Behaviour) -> Result<(), EvalsError> {
        let wrong = |problem: String| Err(EvalsError::Config(problem));
        if self.count == 0 {
            return wrong("count = 0: must be 1 or more".to_owned());
        }
        if self.count.checked_mul(2).is_none() {
            return wrong(format!("count = {}: must be at most {}", self.count, usize::MAX / 2));
        }
        if !(self.near_duplicates > 0.0 && self.near_duplicates <= 1.0) {
            let problem = "must be above 0, and at most 1, which leaves out only those with the same runs of words";
            return wrong(format!("near_duplicates = {}: {problem}", self.near_duplicates));
        }
        if self.few_shot {
            behaviour.check_examples().map_err(|error| EvalsError::Config(error.to_string()))?;
        }
        Ok(self.sampling(behaviour).validate()?)
    }
}

/// A text as it was written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct WrittenText {
    index: usize,
    text: String,
    ended: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    examples: Vec<usize>,
}

fn provenance(behaviour: &Behaviour, config: &GenerateConfig, model: Writer) -> Provenance {
    let prompt = |label| if config.few_shot { behaviour.prompt_template(label) } else { behaviour.prompt(label, &[]) };
    Provenance {
        behaviour: behaviour.clone(),
        model,
        prompts: [0, 1].map(prompt),
        sampling: config.sampling(behaviour),
        config: config.clone(),
        counts: None,
    }
}

/// The examples before a text.
fn examples(behaviour: &Behaviour, config: &GenerateConfig, index: usize) -> Vec<usize> {
    match config.few_shot {
        true => {
            behaviour.draw_examples(index / config.count, &mut stream(config.seed, "generate-examples", index as u64))
        }
        false => Vec::new(),
    }
}

/// What is kept of all that was written.
fn sift(behaviour: &Behaviour, config: &GenerateConfig, lines: &[WrittenText]) -> (Vec<Candidate>, [Counts; 2]) {
    let mut candidates = Vec::new();
    let mut counts = [Counts::default(); 2];
    for (label, counts) in counts.iter_mut().enumerate() {
        // A statement that was written for both labels stays for both: the filter knows better which it has.
        let (mut seen, mut shingles) = (BTreeSet::new(), Shingles::default());
        for line in lines.iter().filter(|line| line.index / config.count == label) {
            counts.written += 1;
            counts.unended += usize::from(!line.ended);
            let Some(statement) = behaviour.statement(&line.text) else {
                counts.malformed += 1;
                continue;
            };
            let words = words(&statement);
            if words.len() < 2 {
                *(if words.is_empty() { &mut counts.empty } else { &mut counts.short }) += 1;
            } else if !seen.insert(words.clone()) {
                counts.duplicates += 1;
            } else if !shingles.insert(&words, config.near_duplicates) {
                counts.near_duplicates += 1;
            } else {
                counts.kept += 1;
                candidates.push(Candidate {
                    statement,
                    label: behaviour.labels[label].clone(),
                    behaviour: behaviour.name.clone(),
                    index: line.index,
                    examples: line.examples.clone(),
                    truth: None,
                });
            }
        }
    }
    (candidates, counts)
}

/// Runs of words of the texts so far.
#[derive(Default)]
struct Shingles {
    /// Which texts have a run.
    texts: HashMap<String, Vec<usize>>,
    /// Number of each text's runs.
    sizes: Vec<usize>,
}

impl Shingles {
    /// Adds a text unless it shares too much with one before.
    fn insert(&mut self, words: &[String], threshold: f64) -> bool {
        // A text of fewer words is one run.
        let own: BTreeSet<String> = words.windows(SHINGLE.min(words.len()).max(1)).map(|run| run.join(" ")).collect();
        let mut shared = vec![0_usize; self.sizes.len()];
        own.iter().filter_map(|run| self.texts.get(run)).flatten().for_each(|&text| shared[text] += 1);
        let like = |(&shared, &size): (&usize, &usize)| {
            shared > 0 && shared as f64 >= threshold * (own.len() + size - shared) as f64
        };
        if shared.iter().zip(&self.sizes).any(like) {
            return false;
        }
        let text = self.sizes.len();
        self.sizes.push(own.len());
        own.into_iter().for_each(|run| self.texts.entry(run).or_default().push(text));
        true
    }
}

/// The file of all texts.
fn blocks(path: &Path, total: usize) -> Blocks<'_> {
    Blocks { path, head: None, other: "", total, size: BLOCK }
}

/// A text, if it has this number.
fn numbered(i: usize, line: &str) -> Result<WrittenText, String> {
    let text: WrittenText = serde_json::from_str(line).map_err(|error| error.to_string())?;
    match text.index == i {
        true => Ok(text),
        false => Err(format!("index: is {}: must be {i}", text.index)),
    }
}

/// `None` where there is no file.
fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, EvalsError> {
    let wrong =
        |error: serde_json::Error| FileError::whole(path, format!("{error}: is not what `evals generate` writes"));
    Ok(text::read(path)?.map(|text| serde_json::from_str(&text).map_err(wrong)).transpose()?)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::{
        Counts, GenerateConfig, Shingles, WrittenText, blocks, finished, folders, generate, numbered, read, sift,
    };
    use crate::disk::DiskError;
    use crate::disk::lines::plain_line;
    use crate::evals::behaviour::{Behaviour, Example};
    use crate::evals::diversity::words;
    use crate::evals::error::{EvalsError, ModelError};
    use crate::evals::model::{AnswerProbabilities, ClosedQuestion, Done, Model, Prompt, Sampling, Written};

    /// Writes what the prompt and the stream say; fails when it was asked too often. Like a server without a name given it
    /// is known by its own once it is settled or has written.
    struct Fake {
        calls: AtomicUsize,
        fails_at: usize,
        settled: AtomicBool,
    }

    fn fake(fails_at: usize) -> Fake {
        Fake { calls: 0.into(), fails_at, settled: false.into() }
    }

    impl Model for Fake {
        fn name(&self) -> &str {
            let known = self.settled.load(Ordering::Relaxed) || self.calls.load(Ordering::Relaxed) > 0;
            if known { "fake" } else { "http://host/v1" }
        }
        fn settle(&self) -> Result<(), ModelError> {
            self.settled.store(true, Ordering::Relaxed);
            Ok(())
        }
        /// Of texts with "room" it has none for more than 9 tokens.
        fn fits(&self, prompt: &Prompt, sampling: &Sampling) -> Result<(), ModelError> {
            let Prompt::Text(text) = prompt else { panic!("text") };
            match text.contains("room") && sampling.max_new_tokens > 9 {
                true => Err(ModelError::Config("no room".to_owned())),
                false => Ok(()),
            }
        }
        fn parameters(&self) -> Option<usize> {
            Some(7)
        }
        fn answers(&self, _: &[ClosedQuestion], _: &Done<'_>) -> Result<Vec<AnswerProbabilities>, ModelError> {
            Err(ModelError::Config("writes only".to_owned()))
        }
        fn write(
            &self,
            prompts: &[Prompt],
            sampling: &Sampling,
            first: u64,
            done: &Done<'_>,
        ) -> Result<Vec<Written>, ModelError> {
            if self.calls.fetch_add(1, Ordering::Relaxed) == self.fails_at {
                return Err(ModelError::Config("the server is gone".to_owned()));
            }
            let one = |(i, prompt): (usize, &Prompt)| {
                let Prompt::Text(text) = prompt else { panic!("text") };
                let n = first + i as u64;
                let kind = if text.contains("would agree with, but") { "like" } else { "hate" };
                done(1);
                Written {
                    text: format!(" I {kind} {} {}", n % 90, (sampling.seed + n) % 7),
                    ended: !n.is_multiple_of(3),
                }
            };
            Ok(prompts.iter().enumerate().map(one).collect())
        }
    }

    fn config() -> GenerateConfig {
        GenerateConfig { model: "fake".to_owned(), count: 100, ..GenerateConfig::default() }
    }

    fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
        let names = ["provenance.json", "written.jsonl", "candidates.jsonl"];
        names.iter().map(|name| ((*name).to_owned(), std::fs::read(folder.join(name)).unwrap())).collect()
    }

    #[test]
    fn what_was_stopped_anywhere_ends_as_what_was_not() {
        let folder = tempfile::tempdir().unwrap();
        let dogs = Behaviour::persona("dogs", "likes dogs");
        let never = AtomicBool::new(false);
        let whole = folder.path().join("whole");
        let done = generate(&dogs, &config(), &fake(99), None, &whole, &never, &|_, _| ()).unwrap().unwrap();
        assert_eq!(done.counts.unwrap()[0].written, 100);
        let expected = files(&whole.join("dogs"));

        // The server fails at the third block.
        let broken = folder.path().join("broken");
        let error = generate(&dogs, &config(), &fake(2), None, &broken, &never, &|_, _| ()).unwrap_err().to_string();
        assert_eq!(error, "the server is gone");
        let written = broken.join("dogs/written.jsonl");
        let text = std::fs::read_to_string(&written).unwrap();
        assert_eq!(text.lines().count(), 128);
        assert!(read(&broken.join("dogs")).unwrap_err().to_string().contains("is not finished; go on with"));
        // Killed while writing: the block's line is torn. A block is asked for again, the one before is not.
        std::fs::write(&written, &text[..text.len() - 9]).unwrap();
        // Stopped by Ctrl-C before the next block.
        assert_eq!(
            generate(&dogs, &config(), &fake(0), None, &broken, &AtomicBool::new(true), &|_, _| ()).unwrap(),
            None
        );
        assert_eq!(std::fs::read_to_string(&written).unwrap().lines().count(), 64);
        let model = fake(99);
        generate(&dogs, &config(), &model, None, &broken, &never, &|_, _| ()).unwrap().unwrap();
        assert_eq!(model.calls.load(Ordering::Relaxed), 3);
        assert_eq!(files(&broken.join("dogs")), expected);
        // Killed before the candidates were written.
        std::fs::remove_file(broken.join("dogs/candidates.jsonl")).unwrap();
        let provenance = std::fs::read_to_string(broken.join("dogs/provenance.json")).unwrap();
        let mut value: serde_json::Value = serde_json::from_str(&provenance).unwrap();
        value["counts"] = serde_json::Value::Null;
        std::fs::write(broken.join("dogs/provenance.json"), value.to_string()).unwrap();
        let model = fake(0);
        generate(&dogs, &config(), &model, None, &broken, &never, &|_, _| ()).unwrap().unwrap();
        assert_eq!(model.calls.load(Ordering::Relaxed), 0);
        assert_eq!(files(&broken.join("dogs")), expected);
        // Finished: nothing is asked, nothing changes.
        assert!(finished(&dogs, &config(), None, &broken).unwrap().is_some());
        generate(&dogs, &config(), &fake(0), None, &broken, &never, &|_, _| ()).unwrap().unwrap();
        assert_eq!(files(&broken.join("dogs")), expected);
        let (found, candidates) = read(&broken.join("dogs")).unwrap();
        assert_eq!(found, done);
        assert_eq!(candidates.len(), done.counts.unwrap().iter().map(|counts| counts.kept).sum::<usize>());
        assert_eq!(folders(&broken).unwrap(), [broken.join("dogs")]);
        assert_eq!(folders(&broken.join("dogs")).unwrap(), [broken.join("dogs")]);
        // Other behaviours have other draws.
        assert_ne!(done.sampling.seed, config().sampling(&Behaviour::persona("cats", "likes cats")).seed);
    }

    #[test]
    fn a_folder_belongs_to_one_command() {
        let folder = tempfile::tempdir().unwrap();
        let dogs = Behaviour::persona("dogs", "likes dogs");
        let never = AtomicBool::new(false);
        generate(&dogs, &config(), &fake(99), None, folder.path(), &never, &|_, _| ()).unwrap();
        let error = |behaviour: &Behaviour, config: &GenerateConfig| {
            finished(behaviour, config, None, folder.path()).unwrap_err().to_string()
        };
        let other = GenerateConfig { seed: 1, ..config() };
        assert!(
            error(&dogs, &other).contains("dogs/provenance.json: holds statements of another configuration: choose")
        );
        let other = GenerateConfig { model: "other".to_owned(), ..config() };
        assert!(error(&dogs, &other).contains("of another model, fake: choose another --out"));
        let cats = Behaviour::persona("dogs", "likes cats");
        assert!(error(&cats, &config()).contains("of another description of the behaviour"));
        for (config, expected) in [
            (GenerateConfig { count: 0, ..config() }, "count = 0: must be 1 or more"),
            (GenerateConfig { count: usize::MAX / 2 + 1, ..config() }, ": must be at most "),
            (GenerateConfig { near_duplicates: 0.0, ..config() }, "near_duplicates = 0: must be above 0"),
            (GenerateConfig { near_duplicates: f64::NAN, ..config() }, "near_duplicates = NaN: must be above 0"),
            (GenerateConfig { temperature: Some(-1.0), ..config() }, "temperature"),
            (GenerateConfig { top_p: Some(2.0), ..config() }, "top_p"),
            (GenerateConfig { max_new_tokens: Some(0), ..config() }, "max_new_tokens"),
            (GenerateConfig { stop: Some(vec![String::new()]), ..config() }, "stop: number 1 is empty"),
            (GenerateConfig { few_shot: true, ..config() }, "examples: there are none with the label 'agree'"),
        ] {
            let found = error(&dogs, &config);
            assert!(found.contains(expected), "{found}, expected {expected}");
        }
        let written = folder.path().join("dogs/written.jsonl");
        let text = std::fs::read_to_string(&written).unwrap();
        std::fs::write(&written, text.replacen("\"index\":3,", "\"index\":4,", 1)).unwrap();
        let found = blocks(&written, 200).begun(numbered, plain_line).unwrap_err().to_string();
        assert!(found.contains("written.jsonl: line 4: index: is 4: must be 3: mend the line"), "{found}");
        std::fs::write(folder.path().join("dogs/candidates.jsonl"), "{\"statement\": \"a b\"}\n").unwrap();
        let found = read(&folder.path().join("dogs")).unwrap_err().to_string();
        assert!(found.contains("candidates.jsonl:1: missing field `label`"), "{found}");
        let found = folders(&folder.path().join("none")).unwrap_err();
        assert!(matches!(found, EvalsError::Disk(DiskError::Io { .. })), "{found}");
        let empty = tempfile::tempdir().unwrap();
        assert!(folders(empty.path()).unwrap_err().to_string().contains("holds no statements"));
    }

    #[test]
    fn a_server_is_known_by_its_models_name_from_the_first_behaviour_on() {
        let folder = tempfile::tempdir().unwrap();
        let [dogs, cats] = ["dogs", "cats"].map(|name| Behaviour::persona(name, name));
        let (never, at_once) = (AtomicBool::new(false), AtomicBool::new(true));
        let model = fake(99);
        let first = generate(&dogs, &config(), &model, None, folder.path(), &never, &|_, _| ()).unwrap().unwrap();
        assert_eq!(first.model.name, "fake");
        // Stopped in the second behaviour; another process goes on.
        assert_eq!(generate(&cats, &config(), &model, None, folder.path(), &at_once, &|_, _| ()).unwrap(), None);
        let second = generate(&cats, &config(), &fake(99), None, folder.path(), &never, &|_, _| ()).unwrap().unwrap();
        assert_eq!(second.model, first.model);
    }

    #[test]
    fn texts_of_other_weights_or_of_nobody_are_not_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path();
        let dogs = Behaviour::persona("dogs", "likes dogs");
        let (never, at_once) = (AtomicBool::new(false), AtomicBool::new(true));
        let error = |weights: Option<&str>| finished(&dogs, &config(), weights, out).unwrap_err().to_string();
        // Begun, and finished.
        for stop in [&at_once, &never] {
            generate(&dogs, &config(), &fake(99), Some("a"), out, stop, &|_, _| ()).unwrap();
            let found = error(Some("b"));
            assert!(
                found.contains("holds statements of fake as it was before: its weights have changed since"),
                "{found}"
            );
        }
        assert_eq!(finished(&dogs, &config(), Some("a"), out).unwrap().unwrap().model.weights.as_deref(), Some("a"));
        // A finished folder may be read after the model is gone.
        assert!(finished(&dogs, &config(), None, out).unwrap().is_some());
        std::fs::remove_file(out.join("dogs/provenance.json")).unwrap();
        let found = error(Some("a"));
        assert!(found.contains("written.jsonl: is there without provenance.json: remove it, or choose"), "{found}");
        std::fs::remove_file(out.join("dogs/written.jsonl")).unwrap();
        let found = error(Some("a"));
        assert!(found.contains("candidates.jsonl: is there without provenance.json"), "{found}");
    }

    #[test]
    fn what_leaves_no_room_is_not_begun() {
        let folder = tempfile::tempdir().unwrap();
        // Only the prompt of the second label is too long.
        let dogs =
            Behaviour { labels: ["agree", "room"].map(str::to_owned), ..Behaviour::persona("dogs", "likes dogs") };
        let dogs = Behaviour { generation: "{label}".to_owned(), ..dogs };
        let never = AtomicBool::new(false);
        let model = fake(99);
        let found = generate(&dogs, &config(), &model, None, folder.path(), &never, &|_, _| ()).unwrap_err();
        assert_eq!(found.to_string(), "no room");
        assert!(!folder.path().join("dogs").exists() && model.calls.load(Ordering::Relaxed) == 0);
    }

    #[test]
    fn what_is_no_statement_or_stands_there_already_is_left_out_and_counted() {
        let dogs = Behaviour::persona("dogs", "likes dogs");
        let texts = [
            " I like dogs very much",                                 // kept
            " i LIKE  “dogs”, very much!",                            // the same
            "",                                                       // empty
            " \"…\"",                                                 // only punctuation
            " Dogs",                                                  // one word
            " I like dogs very very much", // shares i-like-dogs, like-dogs-very of 5 runs: kept
            " I really like dogs very much", // shares 2 of its 4, of 5: kept
            " My dog and I go for a walk in the woods every day", // 11 runs: kept
            " My dog and I go for a walk in the woods every morning", // shares 10 of 12: .833
            " I don't",                    // kept: a single run
            " I don’t",                    // the same
        ];
        let line = |(index, text): (usize, &&str)| WrittenText {
            index,
            text: (*text).to_owned(),
            ended: index != 0,
            examples: Vec::new(),
        };
        let lines: Vec<WrittenText> = texts.iter().enumerate().map(line).collect();
        let config = GenerateConfig { count: 11, ..config() };
        let (candidates, counts) = sift(&dogs, &config, &lines);
        let expected = Counts {
            written: 11,
            unended: 1,
            empty: 2,
            short: 1,
            malformed: 0,
            duplicates: 2,
            near_duplicates: 1,
            kept: 5,
        };
        assert_eq!(counts, [expected, Counts::default()]);
        assert_eq!(candidates[0].statement, "I like dogs very much");
        assert_eq!(candidates.iter().map(|candidate| candidate.index).collect::<Vec<_>>(), [0, 5, 6, 7, 9]);
        // At .84 the walk in the morning stays.
        let (_, counts) = sift(&dogs, &GenerateConfig { near_duplicates: 0.84, ..config }, &lines);
        assert_eq!((counts[0].near_duplicates, counts[0].kept), (0, 6));
        let mut shingles = Shingles::default();
        assert!(shingles.insert(&words("a b c d"), 0.5));
        // abc of abc, bcd, bce: a third; abc, bcd of abc, bcd, cde: two thirds.
        assert!(shingles.insert(&words("a b c e"), 0.5));
        assert!(!shingles.insert(&words("a b c d e"), 0.5));
    }

    #[test]
    fn examples_differ_from_prompt_to_prompt_and_are_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let mut dogs = Behaviour::persona("dogs", "likes dogs");
        dogs.examples = (0..12)
            .map(|i| Example { statement: format!("number {i}"), label: ["agree", "disagree"][i % 2].to_owned() })
            .collect();
        let config = GenerateConfig { few_shot: true, ..config() };
        let never = AtomicBool::new(false);
        let found = generate(&dogs, &config, &fake(99), None, folder.path(), &never, &|_, _| ()).unwrap().unwrap();
        assert!(found.prompts[0].ends_with("\n-{examples}"));
        let (_, candidates) = read(&folder.path().join("dogs")).unwrap();
        assert!(candidates.iter().all(|one| one.examples.len() == 5));
        assert!(candidates.iter().all(|one| one.examples.iter().all(|i| (i % 2 == 1) == (one.label == "disagree"))));
        assert_ne!(candidates[0].examples, candidates[1].examples);
    }
}
