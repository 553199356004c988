//! Teaching a language model by comparing its completions, with a person in the loop: *sample pairs of completions →
//! choose which to ask → label → train by DPO → measure*, and from the start again with the policy as it now is.
//!
//! This is the loop of Christiano et al. 2017 (arXiv 1706.03741) with the policy as its own reward model (Rafailov et
//! al. 2023, arXiv 2305.18290): DPO's implicit reward β·(log π − log π_ref) tells what the answers have taught.
//!
//! **Logical time.** Updates are counted from 0. An answer, an undo and a change carry the number of the update in
//! which they take effect. Update u happens as soon as enough answers carry u (see [`due`]). The questions before it
//! depend only on the configuration, the model to begin with, and the answers before u. So the ledger alone decides
//! what becomes of the model, and [`folder::TeachSession::catch_up`] repeats it to the bit.

pub mod folder;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;
use rand::RngExt as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::chat::{ChatTemplate, Extras};
use super::config::Output;
use super::data::{
    self, Content, Conventions, Document, Encoded, EncodedPair, EncodedPrompt, PromptRow, ReadConfig, Truncation,
};
use super::diagnose::{self, Sampled};
use super::dpo::{self, Dpo, Reference};
use super::error::LmError;
use super::gold::{self, Gold, Scored};
use super::loss::{LossConfig, PairLogProbs};
use super::model::Decoder;
use super::open::{eos_of, template_time, tokenizer_of};
use super::optim::{OptimizerConfig, Schedule};
use super::reviews;
use super::sample::{Completion, SampleConfig, generate};
use super::tokenizer::Tokenizer;
use super::train::{Metrics, TrainConfig, Trainee, step};
use crate::device::DeviceChoice;
use crate::disk::layers;
use crate::preference::ledger::SegmentId;
use crate::preference::likelihood::sigmoid;
use crate::preference::query::{self, Candidates, Reads, SAMPLERS, Sampler, UNIFORM};
use crate::preference::{Event, Label, Why};
use crate::random::stream;
use crate::table::Line;

/// How a model is taught.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TeachConfig {
    /// Seed of every random draw.
    pub seed: u64,
    /// Where tensors live.
    pub device: DeviceChoice,
    /// Folder of the policy to begin with, which is also the reference.
    pub model: PathBuf,
    /// The date that the model's chat template receives if it asks for one, such as 2024-07-26. A new session records
    /// today's date.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template_date: Option<String>,
    /// File or folder with prompts: rows `{"prompt"}`, or a `.txt` file with one prompt a line. `reviews` means
    /// beginnings of texts of the embedded world.
    pub prompts: PathBuf,
    /// Gold reward that the policy is measured with; empty for none. The policy never sees it.
    pub gold: String,
    /// Most tokens of a completion.
    pub max_new_tokens: usize,
    /// Temperature of the completions that are compared. The policy is measured at temperature 1.
    pub temperature: f64,
    /// How many pairs are written each time to choose questions from. `uniform` writes only the pairs that it asks.
    pub candidates: usize,
    /// How questions are chosen: `uniform`, or by the `entropy` of the answer that the implicit reward expects.
    pub sampler: &'static Line<Sampler>,
    /// Answers after which the policy learns.
    pub answers_per_update: usize,
    /// The loss.
    pub loss: LossConfig,
    /// Learning rate of AdamW, constant.
    pub learning_rate: f64,
    /// Comparisons a step, at most.
    pub batch_size: usize,
    /// Steps of an update, over all answers so far.
    pub steps_per_update: usize,
    /// Tokens that are computed together.
    pub part_tokens: usize,
    /// Held-out prompts that the policy is measured on after every update.
    pub held_out: usize,
    /// Updates between two checkpoints; 0 for one when the session is saved or closed.
    pub checkpoint_every: usize,
}

/// What stays the same during a session.
pub struct Material {
    /// How it is taught.
    pub config: TeachConfig,
    /// The policy to begin with, which is also the reference.
    pub start: Decoder,
    /// Folder of the whole model; for an adapter, the folder of its base.
    pub base: PathBuf,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Tokens that end a completion.
    pub eos: Vec<u32>,
    /// What the policy is measured with.
    pub gold: Option<Box<dyn Gold>>,
    /// What the user should know of the model and the prompts.
    pub remarks: Vec<String>,
    prompts: Prompts,
    held_out: Vec<Vec<u32>>,
}

/// What changes during a session: the policy, the questions and the answers.
#[derive(Debug, Clone)]
pub struct Lesson {
    /// The policy.
    pub trainee: Trainee,
    /// Updates made.
    pub updates: usize,
    /// Prompts that were drawn so far. The next ones have the numbers after these.
    pub drawn: u64,
    /// All questions, by their number.
    pub questions: Vec<Arc<TeachQuestion>>,
    /// Answers that have taken effect, by query. One that was taken back counts as "skip".
    pub labels: BTreeMap<u64, Label>,
}

/// Two completions to compare: a line of `completions.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeachQuestion {
    /// Its number, from 0.
    pub query: u64,
    /// Updates made when it was asked. They tell which policy wrote it.
    pub update: usize,
    /// Optimiser steps taken by then.
    pub step: usize,
    /// The text that is completed.
    pub prompt: String,
    /// The two completions.
    pub completions: [String; 2],
    /// Tokens of the prompt.
    pub prompt_ids: Vec<u32>,
    /// Tokens of the completions; the last one may be the end of the text.
    pub ids: [Vec<u32>; 2],
    /// log π_ref of the two, nats.
    pub reference: [f64; 2],
    /// Probability that the first one is preferred, by the implicit reward at that time; ½ before the first update.
    pub predicted: f64,
    /// Why it was chosen; absent where it was chosen at random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<Why>,
}

/// What an update did: a line of `metrics.jsonl`. The first line is about the start, before any update.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TeachReport {
    /// Updates made, this one included.
    pub updates: usize,
    /// Optimiser steps taken.
    pub step: usize,
    /// Questions answered or skipped so far.
    pub answered: usize,
    /// Answers that are trained on: neither skipped nor taken back.
    pub used: usize,
    /// How many new answers of this update prefer one side, and how many of these the implicit reward expected before
    /// it was trained on them. Both are 0 before anything was learned.
    pub ahead: [usize; 2],
    /// Mean loss of the update's last step; absent where there was nothing new to learn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Share of that step's answers whose preferred side has the higher implicit reward. They were trained on before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Measures of the policy's completions of held-out prompts.
    pub sampled: Sampled,
}

/// What is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// Completions are written for new questions.
    Writing,
    /// The policy learns: steps taken, of how many.
    Learning(usize, usize),
    /// The policy is measured.
    Measuring,
}

/// The name that stands for the embedded world where prompts are named.
pub const REVIEWS: &str = "reviews";

/// How many words of a text of the embedded world are a prompt.
const WORDS: std::ops::RangeInclusive<usize> = 2..=8;

/// For how many updates questions are open at a time: a person answers the next ones while the policy learns.
const AHEAD: usize = 2;

/// How often pairs are drawn anew because both completions are the same.
const ROUNDS: usize = 8;

/// The first stream that comparisons of the start with the present policy draw from. It is far from the streams of the
/// questions, and of measuring.
const COMPARING: u64 = 1 << 50;

/// Largest share of a file's prompts that is held out.
const HELD_OUT_SHARE: f64 = 0.2;

/// Samplers that a session can use. Its only judge is the policy, so there are no disagreements and no positions.
pub fn samplers() -> impl Iterator<Item = &'static Line<Sampler>> {
    SAMPLERS.iter().copied().filter(|sampler| sampler.reads.iter().all(|what| *what == Reads::Predictions))
}

impl Default for TeachConfig {
    /// For a model of a million parameters, where an update takes about two seconds on two cores.
    fn default() -> Self {
        Self {
            seed: 0,
            device: DeviceChoice::Auto,
            model: PathBuf::new(),
            template_date: None,
            prompts: REVIEWS.into(),
            gold: "reviews:sentiment".to_owned(),
            max_new_tokens: 48,
            temperature: 1.0,
            candidates: 32,
            sampler: &UNIFORM,
            answers_per_update: 8,
            loss: LossConfig::default(),
            learning_rate: 5e-5,
            batch_size: 16,
            steps_per_update: 8,
            part_tokens: 1024,
            held_out: 64,
            checkpoint_every: 10,
        }
    }
}

impl TeachConfig {
    /// The defaults for a model and prompts. A gold reward is known only for the embedded world.
    #[must_use]
    pub fn new(model: &Path, prompts: &Path) -> Self {
        let known = prompts == Path::new(REVIEWS);
        let gold = if known { Self::default().gold } else { String::new() };
        Self { model: model.to_owned(), prompts: prompts.to_owned(), gold, ..Self::default() }
    }

    /// The text of `config.toml`.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a configuration always serialises")
    }

    /// Checks what can be checked before anything is read.
    ///
    /// # Errors
    /// [`LmError::Config`], naming the first value out of range and what would be right.
    pub fn validate(&self) -> Result<(), LmError> {
        let wrong = |problem: String| Err(LmError::Config(problem));
        layers::layer(self)?;
        if self.model.as_os_str().is_empty() {
            return wrong("model: none is given; it must be the folder of a model that writes".to_owned());
        }
        let positive = [
            ("max_new_tokens", self.max_new_tokens),
            ("answers_per_update", self.answers_per_update),
            ("candidates", self.candidates),
            ("batch_size", self.batch_size),
            ("steps_per_update", self.steps_per_update),
            ("part_tokens", self.part_tokens),
            ("held_out", self.held_out),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return wrong(format!("{name} = 0: must be a whole number from 1 on"));
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            let found = self.temperature;
            return wrong(format!("temperature = {found}: must be positive, or both completions are the same"));
        }
        if !samplers().any(|sampler| sampler == self.sampler) {
            return wrong(format!(
                "sampler = {}: needs an ensemble of reward models, and the policy is the only one here; use {}",
                self.sampler.name,
                samplers().map(|sampler| sampler.name).collect::<Vec<_>>().join(" or ")
            ));
        }
        template_time(self.template_date.as_deref())?;
        self.loss.validate().map_err(|error| LmError::Config(format!("loss.{error}")))?;
        self.train().validate().map_err(|error| LmError::Config(error.to_string()))
    }

    /// The loop's own configuration of an update.
    fn train(&self) -> TrainConfig {
        let optimizer = OptimizerConfig {
            learning_rate: self.learning_rate,
            schedule: Schedule::Constant,
            ..OptimizerConfig::default()
        };
        TrainConfig {
            batch_size: self.batch_size,
            part_tokens: self.part_tokens,
            steps: self.steps_per_update,
            optimizer,
            ..TrainConfig::default()
        }
    }
}

// ------------------------------------------------------------------------------------------------------ the material

/// Where prompts come from.
enum Prompts {
    /// Beginnings of texts of the embedded world, with at most so many tokens.
    Reviews(usize),
    /// Rows of a file.
    Rows(Vec<EncodedPrompt>),
}

impl Material {
    /// Reads the model and the prompts.
    ///
    /// # Errors
    /// [`LmError`], naming the file or the value that cannot be used.
    pub fn read(config: &TeachConfig, device: &Device) -> Result<Self, LmError> {
        config.validate()?;
        let loaded = super::folder::read(&config.model, device)?;
        let tokenizer = tokenizer_of(&config.model, &loaded)?;
        if let Some(problem) = loaded.only_read {
            return Err(LmError::Config(format!("{problem}: merge the adapter into its base, and teach the result")));
        }
        let mut remarks = loaded.remarks;
        let (start, base) = (loaded.decoder, loaded.base);
        if start.config.output != Output::Tokens {
            let problem = format!("{}: is a model that scores, not one that writes", config.model.display());
            return Err(LmError::Config(problem));
        }
        let context = start.config.context;
        let Some(room) = context.checked_sub(config.max_new_tokens).filter(|room| *room > 0) else {
            let found = config.max_new_tokens;
            let problem = format!("max_new_tokens = {found}: must be below the model's context, {context} tokens");
            return Err(LmError::Config(problem));
        };
        let gold = (!config.gold.is_empty()).then(|| gold::open(&config.gold)).transpose()?;
        let (prompts, held_out) = match config.prompts == Path::new(REVIEWS) {
            true => {
                let ids =
                    (0..config.held_out as u64).map(|i| review(&tokenizer, config.seed, "held-out-prompt", i, room));
                let held_out = ids.collect::<Result<Vec<_>, _>>()?;
                (Prompts::Reviews(room), held_out)
            }
            false => rows(config, &tokenizer, room, &mut remarks)?,
        };
        let eos = eos_of(&start, &tokenizer);
        Ok(Self { config: config.clone(), start, base, tokenizer, eos, gold, remarks, prompts, held_out })
    }

    /// The prompts whose numbers are in `range`, as tokens.
    fn prompts(&self, range: Range<u64>) -> Result<Vec<Vec<u32>>, LmError> {
        let seed = self.config.seed;
        match &self.prompts {
            Prompts::Reviews(room) => range.map(|i| review(&self.tokenizer, seed, "prompt", i, *room)).collect(),
            Prompts::Rows(rows) => {
                // Each row once, then each row once more in another order, and so on.
                let mut order: (u64, Vec<usize>) = (u64::MAX, Vec::new());
                let len = rows.len() as u64;
                let mut row = |i: u64| {
                    if order.0 != i / len {
                        order = (i / len, data::order(seed, i / len, rows.len()));
                    }
                    rows[order.1[(i % len) as usize]].ids.clone()
                };
                Ok(range.map(&mut row).collect())
            }
        }
    }
}

/// The beginning of a text of the embedded world.
fn review(tokenizer: &Tokenizer, seed: u64, name: &str, i: u64, room: usize) -> Result<Vec<u32>, LmError> {
    let mut rng = stream(seed, name, i);
    let words = rng.random_range(WORDS);
    let text = reviews::review(&mut rng).text;
    let mut ids = tokenizer.encode(reviews::prefix(&text, words).0, true)?;
    ids.truncate(room);
    Ok(ids)
}

/// Prompts of a file: first those for questions, then the held-out ones.
fn rows(
    config: &TeachConfig,
    tokenizer: &Tokenizer,
    room: usize,
    remarks: &mut Vec<String>,
) -> Result<(Prompts, Vec<Vec<u32>>), LmError> {
    let paths = [config.prompts.clone()];
    let name = config.prompts.display().to_string();
    let rows: Vec<PromptRow> = match name.ends_with(".txt") || name.ends_with(".txt.gz") {
        true => {
            let lines = ReadConfig { text_lines: true, ..ReadConfig::default() };
            let (documents, _) = data::read_all::<Document>(&paths, &lines)?;
            let row = |Document { origin, text }| PromptRow {
                origin,
                prompt: Content::Text(text),
                extras: Extras::default(),
            };
            documents.into_iter().map(row).collect()
        }
        false => data::read_all::<PromptRow>(&paths, &ReadConfig::default())?.0,
    };
    let time = template_time(config.template_date.as_deref())?;
    let template = ChatTemplate::wanted(tokenizer, None, time)?;
    let conventions =
        Conventions { max_prompt_length: room, truncation: Truncation::KeepEnd, ..Conventions::default() };
    let (mut rows, report) = data::encode_prompts(&rows, tokenizer, template.as_ref(), &conventions)?;
    if report.cut > 0 {
        remarks.push(format!("{name}: {} prompts lost their beginning, to fit the model's context", report.cut));
    }
    rows.retain(|row| !row.ids.is_empty());
    if rows.is_empty() {
        return Err(LmError::Config(format!("{name}: every prompt is empty; a prompt must have at least one token")));
    }
    // The held-out prompts are drawn, because files are often sorted. A single prompt serves both purposes.
    let most = (rows.len() as f64 * HELD_OUT_SHARE).ceil() as usize;
    let count = config.held_out.min(most).min(rows.len() - 1);
    let order = data::order(config.seed, u64::MAX, rows.len());
    let (held, kept) = order.split_at(count);
    let held = if held.is_empty() { kept } else { held };
    let held_out = held.iter().cycle().take(config.held_out).map(|&i| rows[i].ids.clone()).collect();
    Ok((Prompts::Rows(kept.iter().map(|&i| rows[i].clone()).collect()), held_out))
}

// ---------------------------------------------------------------------------------------------------------- the loop

impl Lesson {
    /// A lesson before anything was asked.
    #[must_use]
    pub fn new(material: &Material) -> Self {
        Self {
            trainee: Trainee::new(material.start.clone()),
            updates: 0,
            drawn: 0,
            questions: Vec::new(),
            labels: BTreeMap::new(),
        }
    }

    /// Questions without an answer that has taken effect, the next one first.
    pub fn pending(&self) -> impl Iterator<Item = &Arc<TeachQuestion>> + '_ {
        self.questions.iter().filter(|question| !self.labels.contains_key(&question.query))
    }
}

/// Asks new questions until enough are open, and returns the new ones; `None`, without a change, when it was stopped.
///
/// # Errors
/// When both completions are the same in every attempt.
pub fn ask(
    lesson: &mut Lesson,
    material: &Material,
    stop: &AtomicBool,
) -> Result<Option<Vec<Arc<TeachQuestion>>>, LmError> {
    let Material { config, start, tokenizer, eos, .. } = material;
    let policy = &lesson.trainee.model;
    let open = lesson.pending().count();
    let mut missing = (AHEAD * config.answers_per_update).saturating_sub(open);
    let mut drawn = lesson.drawn;
    let mut asked: Vec<Arc<TeachQuestion>> = Vec::new();
    // Before anything was learned, all expected answers are ½, up to rounding.
    let sampler = if lesson.trainee.step == 0 { &UNIFORM } else { config.sampler };
    let sampling = SampleConfig {
        max_new_tokens: config.max_new_tokens,
        temperature: config.temperature,
        seed: config.seed,
        ..SampleConfig::default()
    };
    for _ in 0..ROUNDS {
        if missing == 0 {
            break;
        }
        let count = if sampler.reads.is_empty() { missing } else { missing.max(config.candidates) };
        let prompts = material.prompts(drawn..drawn + count as u64)?;
        let twice: Vec<Vec<u32>> = prompts.iter().flat_map(|prompt| [prompt.clone(), prompt.clone()]).collect();
        let goes_on = |_: usize, _: &[u32]| !stop.load(Ordering::Relaxed);
        let completions = generate(policy, &twice, &sampling, eos, 2 * drawn, &goes_on);
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        drawn += count as u64;
        let pair = |(row, (prompt, both)): (usize, (&Vec<u32>, &[Completion]))| {
            let side = |i: usize| Encoded::new(prompt, &both[i].ids);
            let differ = both[0].ids != both[1].ids;
            differ.then(|| EncodedPair { row, chosen: side(0), rejected: side(1), margin: None, target: None })
        };
        let pairs: Vec<EncodedPair> =
            prompts.iter().zip(completions.chunks_exact(2)).enumerate().filter_map(pair).collect();
        if pairs.is_empty() {
            continue;
        }
        let reference = dpo::log_probs(start, &pairs, config.part_tokens, &|_| ());
        let predicted = match lesson.trainee.step {
            0 => vec![0.5; pairs.len()],
            _ => expected(config, policy, &pairs, &reference),
        };
        // There is one member: the policy. An ensemble of reward models would have several.
        let (beliefs, members) = (&predicted, 1);
        let mut rng = stream(config.seed, "choose", drawn);
        let entropy = query::entropy(beliefs, members);
        let candidates = Candidates { probabilities: beliefs, members, positions: &[], labelled: &[] };
        for i in sampler.select(missing, &candidates, &mut rng) {
            let EncodedPair { chosen, rejected, .. } = &pairs[i];
            let text = |ids: &[u32]| tokenizer.decode(ids, true);
            let ids = [chosen.completion().to_vec(), rejected.completion().to_vec()];
            let why = Why { disagreement: 0.0, entropy: entropy[i] };
            asked.push(Arc::new(TeachQuestion {
                query: (lesson.questions.len() + asked.len()) as u64,
                update: lesson.updates,
                step: lesson.trainee.step,
                prompt: text(chosen.prompt())?,
                completions: [text(&ids[0])?, text(&ids[1])?],
                prompt_ids: chosen.prompt().to_vec(),
                ids,
                reference: reference[i],
                predicted: predicted[i],
                why: (!sampler.reads.is_empty()).then_some(why),
            }));
            missing -= 1;
        }
    }
    if open + asked.len() == 0 {
        return Err(LmError::Config(format!(
            "temperature = {}: both completions of every prompt are the same; a higher one makes them differ",
            config.temperature
        )));
    }
    lesson.drawn = drawn;
    lesson.questions.extend(asked.iter().cloned());
    Ok(Some(asked))
}

/// Probability that the first (chosen) completion of each pair is preferred, by the implicit reward.
fn expected(config: &TeachConfig, policy: &Decoder, pairs: &[EncodedPair], reference: &[[f64; 2]]) -> Vec<f64> {
    let own = dpo::log_probs(policy, pairs, config.part_tokens, &|_| ());
    let of_pair = |((pair, own), reference): ((&EncodedPair, &[f64; 2]), &[f64; 2])| {
        let length = |side: &Encoded| side.completion().len() as f64;
        let [first, second] = config.loss.rewards(&PairLogProbs {
            chosen: own[0],
            rejected: own[1],
            reference_chosen: reference[0],
            reference_rejected: reference[1],
            chosen_length: length(&pair.chosen),
            rejected_length: length(&pair.rejected),
        });
        sigmoid(first - second)
    };
    pairs.iter().zip(&own).zip(reference).map(of_pair).collect()
}

/// Whether these events, which carry the number of the present update, are enough for it: they need as many answers as
/// there are to an update, or as there are open questions.
#[must_use]
pub fn due(lesson: &Lesson, material: &Material, events: &[Event]) -> bool {
    let answers = events.iter().filter(|event| matches!(event, Event::Answer(_))).count();
    answers > 0 && answers >= material.config.answers_per_update.min(lesson.pending().count())
}

/// Lets events take effect: trains on all answers so far, and measures the policy. Returns `None` when it was stopped,
/// and nothing has changed.
///
/// If the events change no answer that is trained on (because all were skipped), nothing is learned.
///
/// # Errors
/// When an event does not fit the questions, training diverges, or the gold reward fails.
pub fn update(
    lesson: &mut Lesson,
    material: &Material,
    events: &[Event],
    stop: &AtomicBool,
    show: &dyn Fn(Doing),
) -> Result<Option<TeachReport>, LmError> {
    let config = &material.config;
    let mut labels = lesson.labels.clone();
    let mut fresh = Vec::new();
    for event in events {
        apply(&mut labels, &mut fresh, &lesson.questions, event)?;
    }
    let used = |labels: &BTreeMap<u64, Label>| -> Vec<(u64, Label)> {
        labels.iter().filter(|(_, label)| **label != Label::Skip).map(|(query, label)| (*query, *label)).collect()
    };
    let answers = used(&labels);
    let changed = answers != used(&lesson.labels);
    let question = |query: u64| &lesson.questions[query as usize];
    // Answers as comparisons to learn from, with log π_ref of both sides.
    let comparisons = |answers: &[(u64, Label)]| -> (Vec<EncodedPair>, Vec<[f64; 2]>) {
        answers.iter().map(|(query, label)| question(*query).comparison(*label)).unzip()
    };

    // How many of the new answers did the policy expect before it learned from them?
    let decided: Vec<(u64, Label)> = fresh
        .iter()
        .filter_map(|query| Some((*query, *labels.get(query)?)))
        .filter(|(_, label)| matches!(label, Label::First | Label::Second))
        .collect();
    let ahead = match lesson.trainee.step {
        0 => [0, 0],
        _ => {
            let (pairs, reference) = comparisons(&decided);
            let right = expected(config, &lesson.trainee.model, &pairs, &reference);
            [decided.len(), right.iter().filter(|probability| **probability > 0.5).count()]
        }
    };

    // Learn.
    let mut trainee = lesson.trainee.clone();
    let mut last = Metrics::default();
    if changed && !answers.is_empty() {
        let (pairs, reference) = comparisons(&answers);
        let stage = Dpo { pairs, loss: config.loss, reference: Reference::LogProbs(reference) };
        let mut train = config.train();
        train.batch_size = train.batch_size.min(answers.len());
        let order: u64 = stream(config.seed, "order", lesson.updates as u64).random();
        for i in 0..config.steps_per_update {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            show(Doing::Learning(i, config.steps_per_update));
            let examples = train.examples(order, i, answers.len());
            last = step(&mut trainee, &stage, &train, &examples, config.steps_per_update, config.seed)?;
        }
    }
    show(Doing::Measuring);
    let report = TeachReport {
        updates: lesson.updates + 1,
        step: trainee.step,
        answered: labels.len(),
        used: answers.len(),
        ahead,
        loss: last.get("loss"),
        accuracy: last.get("rewards/accuracies"),
        sampled: measure(material, &trainee.model)?,
    };
    (lesson.trainee, lesson.labels, lesson.updates) = (trainee, labels, lesson.updates + 1);
    Ok(Some(report))
}

/// Lets an event change the answers; a new answer's number goes to `fresh`.
fn apply(
    labels: &mut BTreeMap<u64, Label>,
    fresh: &mut Vec<u64>,
    questions: &[Arc<TeachQuestion>],
    event: &Event,
) -> Result<(), LmError> {
    let wrong = |query: u64, problem: &str| {
        Err(LmError::Config(format!("labels.jsonl: query {query}: {problem}; was the model or config.toml changed?")))
    };
    match event {
        Event::Answer(answer) => {
            let query = answer.query;
            let asked = usize::try_from(query).ok().and_then(|i| questions.get(i));
            let Some(question) = asked else { return wrong(query, "is answered, but was not asked before") };
            if question.sides() != [answer.first.clone(), answer.second.clone()] {
                return wrong(query, "was answered for other completions than are written now");
            }
            if labels.insert(query, answer.label).is_some() {
                return wrong(query, "is answered twice");
            }
            fresh.push(query);
        }
        Event::Undo { query, .. } | Event::Relabel { query, .. } => {
            let label = if let Event::Relabel { label, .. } = event { *label } else { Label::Skip };
            match labels.get_mut(query) {
                Some(known) => *known = label,
                None => return wrong(*query, "is changed, but has no answer before"),
            }
        }
    }
    Ok(())
}

/// The report of the start: how it completes the held-out prompts.
///
/// # Errors
/// Errors of the gold reward, and of decoding.
pub fn begin(material: &Material) -> Result<TeachReport, LmError> {
    let sampled = measure(material, &material.start)?;
    Ok(TeachReport { updates: 0, step: 0, answered: 0, used: 0, ahead: [0, 0], loss: None, accuracy: None, sampled })
}

fn measure(material: &Material, policy: &Decoder) -> Result<Sampled, LmError> {
    let Material { config, start, tokenizer, eos, gold, held_out, .. } = material;
    let judge = gold.as_deref().map(|gold| (gold, tokenizer));
    diagnose::sampled(policy, start, held_out, config.max_new_tokens, eos, config.seed, config.part_tokens, judge)
}

/// How the start and the present policy complete a text, with the same random draws.
///
/// # Errors
/// When there is nothing to complete.
pub fn complete(
    material: &Material,
    policy: &Decoder,
    text: &str,
    number: u64,
    stop: &AtomicBool,
) -> Result<[String; 2], LmError> {
    let Material { config, start, tokenizer, eos, .. } = material;
    let mut ids = tokenizer.encode(text, true)?;
    let room = start.config.context - config.max_new_tokens;
    ids.drain(..ids.len().saturating_sub(room));
    if ids.is_empty() {
        return Err(LmError::Config("there is nothing to complete: write a few words first".to_owned()));
    }
    let sampling = SampleConfig { max_new_tokens: config.max_new_tokens, seed: config.seed, ..SampleConfig::default() };
    let goes_on = |_: usize, _: &[u32]| !stop.load(Ordering::Relaxed);
    let prompt = [ids];
    let mut texts = [String::new(), String::new()];
    for (text, model) in texts.iter_mut().zip([start, policy]) {
        let completions = generate(model, &prompt, &sampling, eos, COMPARING + number, &goes_on);
        let ids = completions.first().map_or(&[][..], |completion| completion.ids.as_slice());
        *text = tokenizer.decode(ids, true)?;
    }
    Ok(texts)
}

/// The answer of a rater who knows the gold reward. Without a gold reward, both completions are equal.
///
/// # Errors
/// Errors of the gold reward.
pub fn gold_label(material: &Material, question: &TeachQuestion) -> Result<Label, LmError> {
    let Some(gold) = &material.gold else { return Ok(Label::Equal) };
    let rows = question.completions.each_ref().map(|completion| Scored { prompt: &question.prompt, completion });
    let scores = gold.scores(&rows)?;
    Ok(match scores[0].total_cmp(&scores[1]) {
        std::cmp::Ordering::Greater => Label::First,
        std::cmp::Ordering::Less => Label::Second,
        std::cmp::Ordering::Equal => Label::Equal,
    })
}

impl TeachQuestion {
    /// The names of the two completions in the ledger: digests of the prompt's and the completion's tokens.
    #[must_use]
    pub fn sides(&self) -> [SegmentId; 2] {
        self.ids.each_ref().map(|ids| {
            let mut hash = Sha256::new();
            hash.update((self.prompt_ids.len() as u64).to_le_bytes());
            self.prompt_ids.iter().chain(ids).for_each(|id| hash.update(id.to_le_bytes()));
            SegmentId::from_digest(&hash.finalize())
        })
    }

    /// The question with its answer, as a comparison to learn from, and log π_ref of its chosen and rejected side.
    fn comparison(&self, label: Label) -> (EncodedPair, [f64; 2]) {
        let sides = if label == Label::Second { [1, 0] } else { [0, 1] };
        let [chosen, rejected] = sides.map(|i| Encoded::new(&self.prompt_ids, &self.ids[i]));
        let target = (label == Label::Equal).then_some(0.5);
        let row = usize::try_from(self.query).unwrap_or(usize::MAX);
        (EncodedPair { row, chosen, rejected, margin: None, target }, sides.map(|i| self.reference[i]))
    }
}
