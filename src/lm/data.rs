//! Text data: rows read from JSONL and text files, encoded into token ids under named conventions.
//!
//! Rows are checked before anything is trained on them. What is left out or cut is counted, never silent.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::seq::SliceRandom as _;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::chat::{ChatError, ChatTemplate, Message};
use super::tokenizer::{Tokenizer, TokenizerError};
use crate::random::stream;

/// A text, or the messages of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Content {
    /// As it is.
    Text(String),
    /// To be rendered by a chat template.
    Chat(Vec<Message>),
}

/// Where a row stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// File.
    pub path: Arc<Path>,
    /// Line, from 1.
    pub line: u64,
}

/// A comparison: `{prompt, chosen, rejected}`, or `{chosen, rejected}` that begin alike.
#[derive(Debug, Clone, PartialEq)]
pub struct PreferenceRow {
    /// Where it stands.
    pub origin: Origin,
    /// What both answer.
    pub prompt: Content,
    /// The preferred completion; of the same kind as the prompt.
    pub chosen: Content,
    /// The other one.
    pub rejected: Content,
    /// `margin`: how much better the chosen one is, in the unit of rewards.
    pub margin: Option<f64>,
    /// `target`, `label_probability` or `preference`: the probability that `chosen` is preferred, if it is not 1; a
    /// tie is ½.
    pub target: Option<f64>,
}

/// A demonstration: `{prompt, completion}`, or `{messages}` of which the last one, the assistant's, is the completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompletionRow {
    /// Where it stands.
    pub origin: Origin,
    /// What is answered.
    pub prompt: Content,
    /// The answer; of the same kind as the prompt.
    pub completion: Content,
    /// `label`: whether it is a desirable one (KTO, Ethayarajh et al. 2024).
    pub label: Option<bool>,
}

/// Something to be completed: `{prompt}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptRow {
    /// Where it stands.
    pub origin: Origin,
    /// The prompt.
    pub prompt: Content,
}

/// What a question can be chosen from: `{prompt, completions}`, of which every two that differ are a candidate, or a
/// comparison as in [`PreferenceRow`], whose order means nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct CandidateRow {
    /// Where it stands.
    pub origin: Origin,
    /// The row as it was read.
    pub object: Map<String, Value>,
    /// Its candidates, the first side of each called chosen.
    pub candidates: Vec<PreferenceRow>,
    /// Which of `completions` a candidate's sides are; of a comparison there are none.
    pub places: Vec<[usize; 2]>,
}

/// A text to learn from: `{text}`, or a text file or a line of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Where it stands.
    pub origin: Origin,
    /// The text.
    pub text: String,
}

/// A kind of row.
pub trait Row: Sized {
    /// What a line may look like, for messages.
    const SHAPE: &str;
    /// Whether a text file holds such rows.
    const FROM_TEXT: bool = false;

    /// The row of a JSON object; fields that are not known are ignored.
    ///
    /// # Errors
    /// For the first field that is missing or wrong.
    fn parse(object: &Map<String, Value>, origin: Origin) -> Result<Self, Problem>;

    /// Where it stands.
    fn origin(&self) -> &Origin;
}

/// How files are read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReadConfig {
    /// Leaves bad rows out, and counts them, instead of stopping at the first one.
    pub skip_bad_rows: bool,
    /// Takes every line of a `.txt` file for a document; otherwise a file is one.
    pub text_lines: bool,
}

/// What is wrong with a row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The line is not a JSON object.
    #[error("not a JSON object ({0}); expected one object a line")]
    Json(String),
    /// A field is missing or wrong.
    #[error("field '{field}' {found}; expected {expected}")]
    Field {
        /// Field.
        field: &'static str,
        /// What was found.
        found: String,
        /// What would be right.
        expected: &'static str,
    },
    /// The fields do not go together.
    #[error("{0}")]
    Fields(String),
}

/// Data that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file system said no, or the file is a damaged archive.
    #[error("{}: cannot read{}: {source}", path.display(), line.map(|line| format!(" line {line}")).unwrap_or_default())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// Line, from 1, where it is known.
        line: Option<u64>,
        /// Reason.
        source: io::Error,
    },
    /// No file of this kind.
    #[error("{}: {reason}", path.display())]
    File {
        /// File or folder.
        path: PathBuf,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// A bad row.
    #[error("{}: line {}: {problem}", origin.path.display(), origin.line)]
    Row {
        /// Where.
        origin: Origin,
        /// What.
        problem: Problem,
    },
    /// A row is too long, and was not to be cut or dropped.
    #[error("{}: line {}: {what} has {length} tokens, the limit is {limit}", origin.path.display(), origin.line)]
    TooLong {
        /// Where.
        origin: Origin,
        /// What is too long.
        what: &'static str,
        /// Its tokens.
        length: usize,
        /// Most tokens there may be.
        limit: usize,
    },
    /// A row cannot be rendered.
    #[error("{}: line {}: {source}", origin.path.display(), origin.line)]
    Chat {
        /// Where.
        origin: Origin,
        /// Reason.
        source: ChatError,
    },
    /// Every row was dropped.
    #[error("no row is left of {rows}: all are too long; the first: {first}")]
    NothingLeft {
        /// Rows there were.
        rows: usize,
        /// The first one that was dropped.
        first: String,
    },
    /// Conventions that cannot be followed.
    #[error("{field} = {found}: {expected}")]
    Value {
        /// Field.
        field: &'static str,
        /// What was found.
        found: String,
        /// What would be right.
        expected: &'static str,
    },
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// Rows that were left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// How many.
    pub count: u64,
    /// Where the first ones stand, and what is wrong with them.
    pub first: Vec<String>,
}

/// Rows of files, one after another. Only the line in hand is kept in memory.
pub struct Rows<T> {
    config: ReadConfig,
    /// Files still to be read, the next one last.
    files: Vec<PathBuf>,
    open: Option<Lines>,
    skipped: Skipped,
    kind: PhantomData<T>,
}

/// Where a completion begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Boundary {
    /// TRL 1.16: prompt and prompt + completion are tokenised; the completion begins where they differ.
    Together,
    /// The DPO reference: prompt and completion are tokenised each on its own, without special tokens (no BOS), and
    /// joined. Neither may hold EOS.
    Separate,
    /// MODPO's repository: a completion begins where chosen and rejected differ, so that a beginning they share is not
    /// scored. A single completion begins as in `Together`.
    CommonPrefix,
}

/// How a completion ends. Chats end as their template says, whatever stands here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Eos {
    /// TRL: EOS is appended as text before tokenising, unless it is there.
    AppendText,
    /// The DPO reference: EOS is appended as a token, unless it is there.
    AppendId,
    /// As the text says.
    None,
}

/// What is done with rows of too many tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Truncation {
    /// TRL: keeps the first `max_length` tokens; a row whose prompt alone fills them is dropped.
    KeepStart,
    /// TRL, deprecated there: keeps the last `max_length` tokens.
    KeepEnd,
    /// The DPO reference, as for HH: keeps the last `max_prompt_length` tokens of the prompt; if that is not enough, the
    /// first `max_length` − `max_prompt_length` of the completions. EOS may be lost.
    Reference,
    /// MODPO's repository: rows longer than `max_length` are dropped.
    Filter,
    /// A row longer than `max_length` stops the run.
    Error,
}

/// How rows become token ids: the choices in which systems differ silently.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Conventions {
    /// Where a completion begins.
    pub boundary: Boundary,
    /// How it ends.
    pub eos: Eos,
    /// What is done with long rows.
    pub truncation: Truncation,
    /// Most tokens of prompt and completion together.
    pub max_length: usize,
    /// Most tokens of a prompt, where `truncation` is `reference` and the row is too long, and of a prompt without a
    /// completion.
    pub max_prompt_length: usize,
}

/// Prompt and completion as token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Of both, one after the other.
    pub ids: Vec<u32>,
    /// How many of them are the prompt's. With 0 the first token has nothing before it and no probability.
    pub prompt_len: usize,
}

/// A comparison as token ids. The first ids of both sides are those of the prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodedPair {
    /// Number of its row among those that were encoded.
    pub row: usize,
    /// The preferred one.
    pub chosen: Encoded,
    /// The other one.
    pub rejected: Encoded,
    /// As in the row.
    pub margin: Option<f64>,
    /// As in the row.
    pub target: Option<f64>,
}

/// A demonstration as token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedCompletion {
    /// Number of its row among those that were encoded.
    pub row: usize,
    /// Prompt and completion.
    pub encoded: Encoded,
    /// As in the row.
    pub label: Option<bool>,
}

/// A prompt as token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedPrompt {
    /// Number of its row among those that were encoded.
    pub row: usize,
    /// Ids.
    pub ids: Vec<u32>,
}

/// What encoding did to the rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncodeReport {
    /// Rows there were.
    pub rows: usize,
    /// Rows whose prompt alone has other tokens than within prompt + completion: the model is then trained on a prompt
    /// that it does not meet when it is asked.
    pub prompt_not_prefix: usize,
    /// Rows that were shortened.
    pub cut: usize,
    /// Rows left out as too long.
    pub dropped: Skipped,
}

/// Texts as one sequence of tokens, EOS after each, for training in blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Token ids; their number is a multiple of `context`.
    pub ids: Vec<u32>,
    /// Tokens of a block.
    pub context: usize,
    /// Tokens at the end that did not fill a block.
    pub dropped_tokens: usize,
}

/// Bad or dropped rows that are listed in a report.
const LISTED: usize = 10;

/// Texts that are tokenised at once while packing: enough for all threads, little memory.
const PACK_BATCH: usize = 1024;

/// What begins an answer in HH-RLHF.
const HH_ASSISTANT: &str = "\n\nAssistant:";

impl Default for Conventions {
    /// TRL 1.16's for DPO. (`max_prompt_length` is the DPO reference's; TRL has none any more.)
    fn default() -> Self {
        Self {
            boundary: Boundary::Together,
            eos: Eos::AppendText,
            truncation: Truncation::KeepStart,
            max_length: 1024,
            max_prompt_length: 512,
        }
    }
}

impl Conventions {
    /// Checks the lengths.
    ///
    /// # Errors
    /// Naming the first one that cannot be.
    pub fn validate(&self) -> Result<(), DataError> {
        let Self { max_length, max_prompt_length, truncation, .. } = *self;
        let check = |field, found: usize, fine: bool, expected| match fine {
            true => Ok(()),
            false => Err(DataError::Value { field, found: found.to_string(), expected }),
        };
        check("max_length", max_length, max_length >= 2, "at least 2, for a token and what comes before it")?;
        check("max_prompt_length", max_prompt_length, max_prompt_length >= 1, "at least 1")?;
        let fine = truncation != Truncation::Reference || max_prompt_length < max_length;
        check("max_prompt_length", max_prompt_length, fine, "below max_length, where truncation is reference")
    }

    /// The same for a model that sees this many tokens.
    #[must_use]
    pub fn within(&self, context: usize) -> Self {
        let mut conventions = self.clone();
        if conventions.max_length > context {
            conventions.max_length = context;
            conventions.max_prompt_length = conventions.max_prompt_length.min(context - 1);
        }
        conventions
    }
}

impl CandidateRow {
    /// The row of one of its candidates alone, with all other fields as they were.
    #[must_use]
    pub fn only(&self, candidate: usize) -> Map<String, Value> {
        let mut object = self.object.clone();
        if let Some(places) = self.places.get(candidate)
            && let Some(Value::Array(all)) = object.get_mut(COMPLETIONS)
        {
            *all = places.iter().map(|&place| all[place].clone()).collect();
        }
        object
    }
}

/// The rows of files; of a folder, its `.jsonl` and `.jsonl.gz` files (and `.txt`, for documents) in the order of their
/// names. Whether a file is compressed is read from its first bytes.
///
/// # Errors
/// When a path does not exist, or a folder has no such file.
pub fn read<T: Row>(paths: &[PathBuf], config: &ReadConfig) -> Result<Rows<T>, DataError> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let io = |source| DataError::Io { path: path.clone(), line: None, source };
            let mut found = Vec::new();
            for entry in std::fs::read_dir(path).map_err(io)? {
                let file = entry.map_err(io)?.path();
                let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                let name = name.strip_suffix(".gz").unwrap_or(name);
                if file.is_file() && (name.ends_with(".jsonl") || (T::FROM_TEXT && name.ends_with(".txt"))) {
                    found.push(file);
                }
            }
            if found.is_empty() {
                let kinds = if T::FROM_TEXT { ".jsonl, .jsonl.gz, .txt or .txt.gz" } else { ".jsonl or .jsonl.gz" };
                return Err(DataError::File { path: path.clone(), reason: format!("has no {kinds} file") });
            }
            found.sort();
            files.extend(found);
        } else if let Err(source) = path.metadata() {
            return Err(DataError::Io { path: path.clone(), line: None, source });
        } else {
            files.push(path.clone());
        }
    }
    files.reverse();
    Ok(Rows { config: config.clone(), files, open: None, skipped: Skipped::default(), kind: PhantomData })
}

/// All rows of files, and which were left out.
///
/// # Errors
/// Those of [`read`], the first bad row unless they are skipped, and files without a single good row.
pub fn read_all<T: Row>(paths: &[PathBuf], config: &ReadConfig) -> Result<(Vec<T>, Skipped), DataError> {
    let mut rows = read(paths, config)?;
    let list = rows.by_ref().collect::<Result<Vec<T>, _>>()?;
    let skipped = rows.skipped().clone();
    if let (true, Some(path)) = (list.is_empty(), paths.first()) {
        let first = skipped.first.first().map(|first| format!("; the first bad one: {first}")).unwrap_or_default();
        let reason = format!("has no good row ({} bad ones{first}); expected {}", skipped.count, T::SHAPE);
        return Err(DataError::File { path: path.clone(), reason });
    }
    Ok((list, skipped))
}

/// Encodes comparisons, with as many threads as there are; the order stays.
///
/// # Errors
/// When a chat meets no template, a row cannot be encoded, is too long under [`Truncation::Error`], or none is left.
pub fn encode_pairs(
    rows: &[PreferenceRow],
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    conventions: &Conventions,
) -> Result<(Vec<EncodedPair>, EncodeReport), DataError> {
    encode_rows(rows, conventions, |row, PreferenceRow { origin, prompt, chosen, rejected, margin, target }| {
        let sides = encode(prompt, &[chosen, rejected], origin, tokenizer, template, conventions)?;
        Ok(sides.map(|sides| {
            let [chosen, rejected] = <[Encoded; 2]>::try_from(sides).expect("one side was encoded for each of two");
            EncodedPair { row, chosen, rejected, margin: *margin, target: *target }
        }))
    })
}

/// Encodes demonstrations; see [`encode_pairs`].
///
/// # Errors
/// As [`encode_pairs`].
pub fn encode_completions(
    rows: &[CompletionRow],
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    conventions: &Conventions,
) -> Result<(Vec<EncodedCompletion>, EncodeReport), DataError> {
    encode_rows(rows, conventions, |row, CompletionRow { origin, prompt, completion, label }| {
        let sides = encode(prompt, &[completion], origin, tokenizer, template, conventions)?;
        Ok(sides.map(|mut sides| {
            let encoded = sides.pop().expect("one side was encoded");
            EncodedCompletion { row, encoded, label: *label }
        }))
    })
}

/// Encodes prompts as [`encode_completions`] encodes those before a completion. One of more than `max_prompt_length`
/// tokens loses its beginning (`keep-end`, `reference`), is dropped (`keep-start`, `filter`) or stops the run (`error`).
///
/// # Errors
/// As [`encode_pairs`].
pub fn encode_prompts(
    rows: &[PromptRow],
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    conventions: &Conventions,
) -> Result<(Vec<EncodedPrompt>, EncodeReport), DataError> {
    let limit = conventions.max_prompt_length;
    encode_rows(rows, conventions, |row, PromptRow { origin, prompt }| {
        let (text, special) = render(prompt, &[], true, origin, template)?;
        let mut ids = tokenizer.encode(&text, special && conventions.boundary != Boundary::Separate)?;
        let length = ids.len();
        let mut cut = false;
        if length > limit {
            match conventions.truncation {
                Truncation::KeepEnd | Truncation::Reference => {
                    ids.drain(..length - limit);
                    cut = true;
                }
                Truncation::KeepStart | Truncation::Filter => {
                    return Ok(Outcome::Dropped(format!("the prompt has {length} tokens, the limit is {limit}")));
                }
                Truncation::Error => {
                    return Err(DataError::TooLong { origin: origin.clone(), what: "the prompt", length, limit });
                }
            }
        }
        Ok(Outcome::Kept { item: EncodedPrompt { row, ids }, cut, not_prefix: false })
    })
}

/// Packs texts into blocks of `context` tokens, one after another with EOS after each, as in GPT-2's pre-training and
/// TRL's `packing_strategy="wrapped"`; the tokens at the end that fill no block are left out. Each text begins with BOS
/// where the tokenizer adds it. Nothing parts the texts within a block but EOS: a token sees those before, as there.
///
/// # Errors
/// A text that cannot be encoded; a tokenizer without EOS; too little text for one block.
pub fn pack(texts: &[String], tokenizer: &Tokenizer, context: usize) -> Result<Packed, DataError> {
    let value = |field, found: String, expected| DataError::Value { field, found, expected };
    if context < 2 {
        return Err(value("context", context.to_string(), "at least 2 tokens"));
    }
    let Some(eos) = &tokenizer.special().eos else {
        let expected = "a tokenizer with an EOS token, which separates texts (eos_token in tokenizer_config.json)";
        return Err(value("tokenizer", "has no EOS token".into(), expected));
    };
    let mut ids = Vec::new();
    for batch in texts.chunks(PACK_BATCH) {
        let encoded = batch.par_iter().map(|text| tokenizer.encode(text, true));
        for mut text in encoded.collect::<Result<Vec<_>, _>>()? {
            if text.last() == Some(&eos.id) {
                text.pop();
            }
            ids.append(&mut text);
            ids.push(eos.id);
        }
    }
    let dropped_tokens = ids.len() % context;
    ids.truncate(ids.len() - dropped_tokens);
    if ids.is_empty() {
        let found = format!("{dropped_tokens} tokens in {} documents", texts.len());
        return Err(value("text", found, "at least one block of `context` tokens"));
    }
    Ok(Packed { ids, context, dropped_tokens })
}

/// The order of `len` rows in an epoch: a permutation that depends on the seed and the epoch alone.
#[must_use]
pub fn order(seed: u64, epoch: u64, len: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    order.shuffle(&mut stream(seed, "lm-data-order", epoch));
    order
}

impl Packed {
    /// The blocks, each `[context]`.
    pub fn blocks(&self) -> impl Iterator<Item = &[u32]> {
        self.ids.chunks_exact(self.context)
    }
}

impl Encoded {
    /// The prompt's ids.
    #[must_use]
    pub fn prompt(&self) -> &[u32] {
        &self.ids[..self.prompt_len]
    }

    /// The completion's ids.
    #[must_use]
    pub fn completion(&self) -> &[u32] {
        &self.ids[self.prompt_len..]
    }
}

impl Row for PreferenceRow {
    const SHAPE: &str = "rows {\"prompt\", \"chosen\", \"rejected\"} or {\"chosen\", \"rejected\"}";

    fn parse(object: &Map<String, Value>, origin: Origin) -> Result<Self, Problem> {
        let chosen = content(object, "chosen", COMPLETION)?;
        let rejected = content(object, "rejected", COMPLETION)?;
        let prompt = is_given(object, "prompt").then(|| content(object, "prompt", PROMPT)).transpose()?;
        let (prompt, chosen, rejected) = match (prompt, chosen, rejected) {
            (Some(Content::Text(prompt)), Content::Text(chosen), Content::Text(rejected)) => {
                (Content::Text(prompt), Content::Text(chosen), Content::Text(rejected))
            }
            (Some(Content::Chat(prompt)), chosen, rejected) => {
                (Content::Chat(prompt), answer(chosen), answer(rejected))
            }
            (None, Content::Text(chosen), Content::Text(rejected)) => {
                let at = shared_prompt(&chosen, &rejected);
                let part = |text: &str| Content::Text(text.to_owned());
                (part(&chosen[..at]), part(&chosen[at..]), part(&rejected[at..]))
            }
            // With a prompt as text the conversations hold it too, as in UltraFeedback.
            (prompt, Content::Chat(mut chosen), Content::Chat(mut rejected)) => {
                let at = common_prefix(&chosen, &rejected);
                let is_prompt = |message: &Message| match &prompt {
                    Some(Content::Text(prompt)) => *prompt == message.content,
                    _ => true,
                };
                if !chosen[..at].iter().any(is_prompt) {
                    let reason = "'chosen' and 'rejected' do not begin with the same prompt; expected messages that \
                                  do, or 'prompt' as a list of messages";
                    return Err(Problem::Fields(reason.into()));
                }
                let rest = chosen.split_off(at);
                (Content::Chat(chosen), Content::Chat(rest), Content::Chat(rejected.split_off(at)))
            }
            _ => {
                return Err(Problem::Fields(
                    "'chosen' and 'rejected' are a text and a list of messages; expected the same for both".into(),
                ));
            }
        };
        if chosen == rejected {
            return Err(Problem::Fields(
                "'chosen' and 'rejected' are equal; expected two different completions".into(),
            ));
        }
        for (field, side) in [("chosen", &chosen), ("rejected", &rejected)] {
            not_empty(field, side)?;
        }
        let margin = number(object, "margin", f64::NEG_INFINITY..=f64::INFINITY, "a finite number")?;
        Ok(Self { origin, prompt, chosen, rejected, margin, target: target(object)? })
    }

    fn origin(&self) -> &Origin {
        &self.origin
    }
}

impl Row for CandidateRow {
    const SHAPE: &str = "rows {\"prompt\", \"completions\"} or {\"prompt\", \"chosen\", \"rejected\"}";

    fn parse(object: &Map<String, Value>, origin: Origin) -> Result<Self, Problem> {
        if !is_given(object, COMPLETIONS) {
            let candidates = vec![PreferenceRow::parse(object, origin.clone())?];
            return Ok(Self { origin, object: object.clone(), candidates, places: Vec::new() });
        }
        let prompt = content(object, "prompt", PROMPT)?;
        let Some(Value::Array(list)) = object.get(COMPLETIONS) else {
            let found = object.get(COMPLETIONS).map_or("is missing".into(), describe);
            return Err(field(COMPLETIONS, found, "a list of completions"));
        };
        let mut completions = Vec::with_capacity(list.len());
        for item in list {
            let one = content(&Map::from_iter([(COMPLETIONS.to_owned(), item.clone())]), COMPLETIONS, COMPLETION)?;
            not_empty(COMPLETIONS, &one)?;
            completions.push(match (&prompt, one) {
                (Content::Chat(_), one) => answer(one),
                (Content::Text(_), Content::Text(text)) => Content::Text(text),
                (Content::Text(_), Content::Chat(_)) => {
                    return Err(field(COMPLETIONS, "has a list of messages".into(), "texts, as the prompt is one"));
                }
            });
        }
        let (mut candidates, mut places) = (Vec::new(), Vec::new());
        for (i, chosen) in completions.iter().enumerate() {
            for (j, rejected) in completions.iter().enumerate().skip(i + 1).filter(|(_, other)| *other != chosen) {
                let [prompt, chosen, rejected] = [&prompt, chosen, rejected].map(Content::clone);
                let origin = origin.clone();
                candidates.push(PreferenceRow { origin, prompt, chosen, rejected, margin: None, target: None });
                places.push([i, j]);
            }
        }
        match candidates.is_empty() {
            true => Err(field(COMPLETIONS, "has no two that differ".into(), "at least two different completions")),
            false => Ok(Self { origin, object: object.clone(), candidates, places }),
        }
    }

    fn origin(&self) -> &Origin {
        &self.origin
    }
}

impl Row for CompletionRow {
    const SHAPE: &str = "rows {\"prompt\", \"completion\"} or {\"messages\"}";

    fn parse(object: &Map<String, Value>, origin: Origin) -> Result<Self, Problem> {
        let (prompt, completion) = if is_given(object, "messages") && !is_given(object, "completion") {
            let Content::Chat(mut messages) = content(object, "messages", MESSAGES)? else {
                return Err(field("messages", "is a text".into(), MESSAGES));
            };
            let Some(last) = messages.pop_if(|last| last.role == "assistant") else {
                let found = format!("ends with {}", messages.last().map_or("nothing", |last| last.role.as_str()));
                return Err(field("messages", found, "the assistant's message at the end"));
            };
            if messages.is_empty() {
                return Err(field("messages", "has only one message".into(), "a prompt before the last message"));
            }
            (Content::Chat(messages), Content::Chat(vec![last]))
        } else {
            let prompt = content(object, "prompt", PROMPT)?;
            match (prompt, content(object, "completion", COMPLETION)?) {
                (prompt @ Content::Chat(_), completion) => (prompt, answer(completion)),
                (Content::Text(prompt), Content::Text(text)) => (Content::Text(prompt), Content::Text(text)),
                (Content::Text(_), Content::Chat(_)) => {
                    return Err(field("completion", "is a list of messages".into(), "a text, as the prompt is one"));
                }
            }
        };
        not_empty("completion", &completion)?;
        let label = match object.get("label") {
            None | Some(Value::Null) => None,
            Some(Value::Bool(label)) => Some(*label),
            Some(other) => return Err(field("label", describe(other), "true (desirable) or false")),
        };
        Ok(Self { origin, prompt, completion, label })
    }

    fn origin(&self) -> &Origin {
        &self.origin
    }
}

impl Row for PromptRow {
    const SHAPE: &str = "rows {\"prompt\"}";

    fn parse(object: &Map<String, Value>, origin: Origin) -> Result<Self, Problem> {
        Ok(Self { origin, prompt: content(object, "prompt", PROMPT)? })
    }

    fn origin(&self) -> &Origin {
        &self.origin
    }
}

impl Row for Document {
    const SHAPE: &str = "rows {\"text\"}";
    const FROM_TEXT: bool = true;

    fn parse(object: &Map<String, Value>, origin: Origin) -> Result<Self, Problem> {
        match object.get("text") {
            Some(Value::String(text)) if !text.is_empty() => Ok(Self { origin, text: text.clone() }),
            other => Err(field("text", other.map_or("is missing".into(), describe), "a text that is not empty")),
        }
    }

    fn origin(&self) -> &Origin {
        &self.origin
    }
}

const COMPLETIONS: &str = "completions";
const PROMPT: &str = "a text or a list of messages {\"role\", \"content\"}";
const COMPLETION: &str = "a text or a list of messages {\"role\", \"content\"}, not empty";
const MESSAGES: &str = "a list of messages {\"role\", \"content\"}, not empty";

fn field(field: &'static str, found: String, expected: &'static str) -> Problem {
    Problem::Field { field, found, expected }
}

/// What a value is, as the middle of a sentence.
fn describe(value: &Value) -> String {
    /// Most characters of a value that are quoted.
    const QUOTED: usize = 40;
    let quote = || {
        let text = value.to_string();
        let short: String = text.chars().take(QUOTED).collect();
        if short.len() < text.len() { short + "…" } else { text }
    };
    match value {
        Value::Null => "is null".into(),
        Value::Bool(_) => format!("is a truth value ({value})"),
        Value::Number(_) => format!("is a number ({value})"),
        Value::String(text) if text.is_empty() => "is empty".into(),
        Value::String(_) => format!("is a text ({})", quote()),
        Value::Array(list) if list.is_empty() => "is an empty list".into(),
        Value::Array(_) => format!("is a list ({})", quote()),
        Value::Object(_) => format!("is an object ({})", quote()),
    }
}

fn content(object: &Map<String, Value>, name: &'static str, expected: &'static str) -> Result<Content, Problem> {
    match object.get(name) {
        None => Err(field(name, "is missing".into(), expected)),
        Some(Value::String(text)) => Ok(Content::Text(text.clone())),
        Some(Value::Array(list)) if !list.is_empty() => {
            let message = |(i, item): (usize, &Value)| match (item.get("role"), item.get("content")) {
                (Some(Value::String(role)), Some(Value::String(text))) => Ok(Message::new(role, text)),
                (Some(Value::String(_)), other) => {
                    let found = other.map_or("is missing".into(), describe);
                    Err(field(name, format!("has a message {} whose content {found}", i + 1), "messages with a text"))
                }
                _ => Err(field(name, format!("has an item {} that {}", i + 1, describe(item)), expected)),
            };
            Ok(Content::Chat(list.iter().enumerate().map(message).collect::<Result<_, _>>()?))
        }
        Some(other) => Err(field(name, describe(other), expected)),
    }
}

/// Tables that became JSONL have null where there was nothing.
fn is_given(object: &Map<String, Value>, name: &str) -> bool {
    object.get(name).is_some_and(|value| !value.is_null())
}

fn not_empty(name: &'static str, content: &Content) -> Result<(), Problem> {
    let empty = match content {
        Content::Text(text) => text.is_empty(),
        Content::Chat(messages) => messages.iter().all(|message| message.content.is_empty()),
    };
    match empty {
        true => Err(field(name, "has no completion".into(), "some text after the prompt")),
        false => Ok(()),
    }
}

/// A completion of a chat: messages as they are, a text as the assistant's message.
fn answer(completion: Content) -> Content {
    match completion {
        Content::Text(text) => Content::Chat(vec![Message::new("assistant", text)]),
        chat @ Content::Chat(_) => chat,
    }
}

fn number(
    object: &Map<String, Value>,
    name: &'static str,
    range: std::ops::RangeInclusive<f64>,
    expected: &'static str,
) -> Result<Option<f64>, Problem> {
    match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64().filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(field(name, describe(value), expected)),
        },
    }
}

/// The soft label, under one of its names.
fn target(object: &Map<String, Value>) -> Result<Option<f64>, Problem> {
    const EXPECTED: &str = "a probability between 0 and 1 that the chosen one is preferred";
    let preference = match object.get("preference") {
        Some(Value::String(word)) => match word.as_str() {
            "chosen" => Some(1.0),
            "rejected" => Some(0.0),
            "tie" | "equal" => Some(0.5),
            _ => {
                let expected = "\"chosen\", \"rejected\", \"tie\", or a probability between 0 and 1";
                return Err(field("preference", format!("is a text ({word:?})"), expected));
            }
        },
        _ => number(object, "preference", 0.0..=1.0, EXPECTED)?,
    };
    let target = number(object, "target", 0.0..=1.0, EXPECTED)?;
    let probability = number(object, "label_probability", 0.0..=1.0, EXPECTED)?;
    let mut given = [target, probability, preference].into_iter().flatten();
    match (given.next(), given.next()) {
        (_, Some(_)) => Err(Problem::Fields(
            "has more than one of 'target', 'label_probability' and 'preference'; expected one of them".into(),
        )),
        (target, None) => Ok(target),
    }
}

/// Byte at which two texts with the same prompt stop sharing it.
///
/// HH-RLHF: after the last "\n\nAssistant:" they share, as in the DPO reference. Otherwise they are cut at the last
/// boundary of words they share, a space before the completion going to the completion. (TRL's `extract_prompt` does
/// the same, but cuts within words that begin alike.)
fn shared_prompt(chosen: &str, rejected: &str) -> usize {
    let both = chosen.char_indices().zip(rejected.chars());
    let shared = both.take_while(|((_, a), b)| a == b).map(|((i, a), _)| i + a.len_utf8()).last().unwrap_or(0);
    let prefix = &chosen[..shared];
    if let (true, Some(at)) = (prefix.starts_with("\n\nHuman:"), prefix.rfind(HH_ASSISTANT)) {
        return at + HH_ASSISTANT.len();
    }
    let goes_on = |text: &str| text[shared..].starts_with(|c: char| !c.is_whitespace());
    let within_word = !prefix.ends_with(char::is_whitespace) && (goes_on(chosen) || goes_on(rejected));
    let prefix = if within_word { prefix.trim_end_matches(|c: char| !c.is_whitespace()) } else { prefix };
    prefix.strip_suffix(' ').unwrap_or(prefix).len()
}

/// Items that two lists share at their beginning.
fn common_prefix<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl<T: Row> Rows<T> {
    /// What was left out so far.
    #[must_use]
    pub fn skipped(&self) -> &Skipped {
        &self.skipped
    }
}

impl<T: Row> Iterator for Rows<T> {
    type Item = Result<T, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let lines = match &mut self.open {
                Some(lines) => lines,
                None => {
                    let path = self.files.pop()?;
                    match Lines::open::<T>(&path, &self.config) {
                        Ok(lines) => self.open.insert(lines),
                        Err(error) => return Some(Err(error)),
                    }
                }
            };
            match lines.next_object() {
                Ok(None) => self.open = None,
                Err(error) => {
                    // What follows a broken archive or disk is not worth guessing.
                    self.open = None;
                    self.files.clear();
                    return Some(Err(error));
                }
                Ok(Some((origin, object))) => match object.and_then(|object| T::parse(&object, origin.clone())) {
                    Ok(row) => return Some(Ok(row)),
                    Err(problem) => {
                        let error = DataError::Row { origin, problem };
                        if !self.config.skip_bad_rows {
                            return Some(Err(error));
                        }
                        self.skipped.add(error.to_string());
                    }
                },
            }
        }
    }
}

impl Skipped {
    fn add(&mut self, what: String) {
        self.count += 1;
        if self.first.len() < LISTED {
            self.first.push(what);
        }
    }
}

/// An open file.
struct Lines {
    path: Arc<Path>,
    reader: Box<dyn BufRead + Send>,
    line: u64,
    kind: LineKind,
}

enum LineKind {
    /// JSON objects.
    Json,
    /// Lines of text.
    Text,
    /// The whole file is one text.
    Whole,
}

impl Lines {
    fn open<T: Row>(path: &Path, config: &ReadConfig) -> Result<Self, DataError> {
        let io = |source| DataError::Io { path: path.to_owned(), line: None, source };
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_text = name.strip_suffix(".gz").unwrap_or(name).ends_with(".txt");
        if is_text && !T::FROM_TEXT {
            let reason = format!("is a text file; expected JSONL with {}", T::SHAPE);
            return Err(DataError::File { path: path.to_owned(), reason });
        }
        let mut file = BufReader::new(File::open(path).map_err(io)?);
        let compressed = file.fill_buf().map_err(io)?.starts_with(&[0x1f, 0x8b]);
        let reader: Box<dyn BufRead + Send> = if compressed {
            Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(file)))
        } else {
            Box::new(file)
        };
        let kind = match (is_text, config.text_lines) {
            (false, _) => LineKind::Json,
            (true, true) => LineKind::Text,
            (true, false) => LineKind::Whole,
        };
        Ok(Self { path: path.into(), reader, line: 0, kind })
    }

    /// The next line that is not blank, as an object; a text is one with the field `text`.
    #[expect(clippy::type_complexity, reason = "a row that is bad is not an end of the file; one use")]
    fn next_object(&mut self) -> Result<Option<(Origin, Result<Map<String, Value>, Problem>)>, DataError> {
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let read = match self.kind {
                LineKind::Whole => self.reader.read_to_end(&mut bytes),
                LineKind::Json | LineKind::Text => self.reader.read_until(b'\n', &mut bytes),
            };
            self.line += 1;
            let read =
                read.map_err(|source| DataError::Io { path: self.path.to_path_buf(), line: Some(self.line), source })?;
            if read == 0 {
                return Ok(None);
            }
            // Some editors begin a file with a byte order mark.
            let line = if self.line == 1 { bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes) } else { &bytes };
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let origin = Origin { path: Arc::clone(&self.path), line: self.line };
            let Ok(text) = std::str::from_utf8(line) else {
                return Ok(Some((origin, Err(Problem::Json("not UTF-8 text".into())))));
            };
            let object = match self.kind {
                LineKind::Json => serde_json::from_str(text).map_err(|e| Problem::Json(e.to_string())),
                LineKind::Text => Ok(text_object(text.trim_end_matches(['\n', '\r']))),
                LineKind::Whole => Ok(text_object(text)),
            };
            return Ok(Some((origin, object)));
        }
    }
}

fn text_object(text: &str) -> Map<String, Value> {
    Map::from_iter([("text".to_owned(), Value::from(text))])
}

/// What became of a row.
enum Outcome<T> {
    Kept { item: T, cut: bool, not_prefix: bool },
    Dropped(String),
}

impl<T> Outcome<T> {
    fn map<U>(self, f: impl FnOnce(T) -> U) -> Outcome<U> {
        match self {
            Self::Kept { item, cut, not_prefix } => Outcome::Kept { item: f(item), cut, not_prefix },
            Self::Dropped(why) => Outcome::Dropped(why),
        }
    }
}

fn encode_rows<R: Row + Sync, T: Send>(
    rows: &[R],
    conventions: &Conventions,
    encode: impl Fn(usize, &R) -> Result<Outcome<T>, DataError> + Sync,
) -> Result<(Vec<T>, EncodeReport), DataError> {
    conventions.validate()?;
    let outcomes: Vec<_> = rows.par_iter().enumerate().map(|(i, row)| encode(i, row)).collect();
    let mut report = EncodeReport { rows: rows.len(), ..EncodeReport::default() };
    let mut items = Vec::with_capacity(rows.len());
    // Errors are looked for in the order of rows, so that the first one is named with any number of threads.
    for (outcome, row) in outcomes.into_iter().zip(rows) {
        match outcome? {
            Outcome::Kept { item, cut, not_prefix } => {
                report.cut += usize::from(cut);
                report.prompt_not_prefix += usize::from(not_prefix);
                items.push(item);
            }
            Outcome::Dropped(why) => {
                let Origin { path, line } = row.origin();
                report.dropped.add(format!("{}: line {line}: {why}", path.display()));
            }
        }
    }
    match report.dropped.first.first() {
        Some(first) if items.is_empty() => Err(DataError::NothingLeft { rows: rows.len(), first: first.clone() }),
        _ => Ok((items, report)),
    }
}

/// The text of a prompt followed by a completion, and whether the tokenizer's special tokens belong around it.
fn render(
    prompt: &Content,
    completion: &[&Content],
    add_generation_prompt: bool,
    origin: &Origin,
    template: Option<&ChatTemplate>,
) -> Result<(String, bool), DataError> {
    let chat_error = |source| DataError::Chat { origin: origin.clone(), source };
    match prompt {
        Content::Text(prompt) => {
            let mut text = prompt.clone();
            for part in completion {
                if let Content::Text(part) = part {
                    text.push_str(part);
                }
            }
            Ok((text, true))
        }
        Content::Chat(prompt) => {
            let template = template.ok_or(ChatError::Missing).map_err(chat_error)?;
            let mut messages = prompt.clone();
            for part in completion {
                if let Content::Chat(part) = part {
                    messages.extend_from_slice(part);
                }
            }
            Ok((template.render(&messages, add_generation_prompt).map_err(chat_error)?, false))
        }
    }
}

/// Token ids of a prompt with each of its completions.
fn encode(
    prompt: &Content,
    completions: &[&Content],
    origin: &Origin,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    conventions: &Conventions,
) -> Result<Outcome<Vec<Encoded>>, DataError> {
    let is_chat = matches!(prompt, Content::Chat(_));
    let eos = tokenizer.special().eos.as_ref().filter(|_| !is_chat && conventions.eos != Eos::None);
    let (prompt_text, special) = render(prompt, &[], true, origin, template)?;
    let mut full_texts = Vec::with_capacity(completions.len());
    for completion in completions {
        let (mut text, _) = render(prompt, &[completion], false, origin, template)?;
        if let (Some(eos), Eos::AppendText) = (eos, conventions.eos)
            && !text[prompt_text.len()..].ends_with(&eos.text)
        {
            text.push_str(&eos.text);
        }
        full_texts.push(text);
    }
    let append_id = |ids: &mut Vec<u32>| {
        if let (Some(eos), Eos::AppendId) = (eos, conventions.eos)
            && ids.last() != Some(&eos.id)
        {
            ids.push(eos.id);
        }
    };
    let mut not_prefix = false;
    let mut sides: Vec<Encoded> = Vec::with_capacity(full_texts.len());
    if conventions.boundary == Boundary::Separate {
        // A template may render a prompt otherwise when an answer follows.
        let shared = |text: &String| common_prefix(prompt_text.as_bytes(), text.as_bytes());
        let mut at = full_texts.iter().map(shared).min().unwrap_or(0);
        while !prompt_text.is_char_boundary(at) {
            at -= 1;
        }
        not_prefix = at < prompt_text.len();
        let prompt_ids = tokenizer.encode(&prompt_text[..at], false)?;
        for text in &full_texts {
            let mut ids = tokenizer.encode(&text[at..], false)?;
            append_id(&mut ids);
            if let Some(eos) = eos
                && prompt_ids.iter().chain(&ids[..ids.len().saturating_sub(1)]).any(|&id| id == eos.id)
            {
                let reason = format!("holds the EOS token {:?}; expected texts without it", eos.text);
                return Err(DataError::Row { origin: origin.clone(), problem: Problem::Fields(reason) });
            }
            sides.push(Encoded { ids: [&prompt_ids[..], &ids].concat(), prompt_len: prompt_ids.len() });
        }
    } else {
        let prompt_ids = tokenizer.encode(&prompt_text, special)?;
        for text in &full_texts {
            let mut ids = tokenizer.encode(text, special)?;
            append_id(&mut ids);
            sides.push(Encoded { prompt_len: common_prefix(&prompt_ids, &ids), ids });
        }
        let shortest = sides.iter().map(|side| side.prompt_len).min().unwrap_or(0);
        not_prefix |= shortest < prompt_ids.len();
        let shared = match (conventions.boundary, &sides[..]) {
            (Boundary::CommonPrefix, [a, b]) => common_prefix(&a.ids, &b.ids),
            _ => shortest,
        };
        // Each side keeps a token to be scored. If one is the beginning of the other, that token is in both.
        let least = sides.iter().map(|side| side.ids.len()).min().unwrap_or(0);
        let prompt_len = shared.min(least.saturating_sub(1));
        sides.iter_mut().for_each(|side| side.prompt_len = prompt_len);
    }
    truncate(sides, origin, conventions).map(|outcome| match outcome {
        Outcome::Kept { item, cut, .. } => Outcome::Kept { item, cut, not_prefix },
        dropped @ Outcome::Dropped(_) => dropped,
    })
}

fn truncate(
    mut sides: Vec<Encoded>,
    origin: &Origin,
    conventions: &Conventions,
) -> Result<Outcome<Vec<Encoded>>, DataError> {
    let Conventions { truncation, max_length: limit, max_prompt_length, .. } = *conventions;
    let longest = sides.iter().map(|side| side.ids.len()).max().unwrap_or(0);
    let prompt_len = sides.first().map_or(0, |side| side.prompt_len);
    let cut = longest > limit;
    if !cut {
        return Ok(Outcome::Kept { item: sides, cut, not_prefix: false });
    }
    let (what, length) = if prompt_len >= limit { ("the prompt", prompt_len) } else { ("the row", longest) };
    match truncation {
        Truncation::KeepStart if prompt_len >= limit => {
            return Ok(Outcome::Dropped(format!("{what} has {length} tokens, the limit is {limit}")));
        }
        Truncation::KeepStart => sides.iter_mut().for_each(|side| side.ids.truncate(limit)),
        Truncation::KeepEnd => {
            for side in &mut sides {
                let excess = side.ids.len().saturating_sub(limit);
                side.ids.drain(..excess);
                side.prompt_len = side.prompt_len.saturating_sub(excess);
            }
        }
        Truncation::Reference => {
            let excess = prompt_len.saturating_sub(max_prompt_length);
            let completions_too = longest - excess > limit;
            for side in &mut sides {
                side.ids.drain(..excess);
                side.prompt_len -= excess;
                if completions_too {
                    side.ids.truncate(side.prompt_len + limit - max_prompt_length);
                }
            }
        }
        Truncation::Filter => return Ok(Outcome::Dropped(format!("{what} has {length} tokens, the limit is {limit}"))),
        Truncation::Error => return Err(DataError::TooLong { origin: origin.clone(), what, length, limit }),
    }
    Ok(Outcome::Kept { item: sides, cut, not_prefix: false })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::path::{Path, PathBuf};

    use serde_json::Value;

    use super::{
        Boundary, CandidateRow, CompletionRow, Content, Conventions, Document, Encoded, Eos, PreferenceRow, PromptRow,
        ReadConfig, Row, Truncation, encode_completions, encode_pairs, encode_prompts, order, pack, read, read_all,
    };
    use crate::lm::chat::{ChatTemplate, HH};
    use crate::lm::tokenizer::{Tokenizer, TokenizerConfig};

    /// The data beside the project; `None`, with a note, where they are not.
    fn shared(name: &str) -> Option<PathBuf> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(name);
        if !path.exists() {
            eprintln!("skipped: {} is not there", path.display());
        }
        path.exists().then_some(path)
    }

    fn rows_of<T: Row>(lines: &str) -> Result<Vec<T>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        std::fs::write(&path, lines).unwrap();
        read_all(&[path], &ReadConfig::default()).map(|(rows, _)| rows).map_err(|e| e.to_string())
    }

    fn pair(prompt: &str, chosen: &str, rejected: &str) -> PreferenceRow {
        let row = serde_json::json!({"prompt": prompt, "chosen": chosen, "rejected": rejected});
        rows_of(&row.to_string()).unwrap().remove(0)
    }

    fn text(content: &Content) -> &str {
        match content {
            Content::Text(text) => text,
            Content::Chat(_) => panic!("a chat"),
        }
    }

    /// One token for each byte; EOS is token 0, and nothing is added around a text.
    fn bytes() -> Tokenizer {
        let config = TokenizerConfig { vocab_size: 257, ..TokenizerConfig::default() };
        Tokenizer::train(std::iter::empty(), &config).unwrap()
    }

    /// Prompt and completion, EOS written as `$`.
    fn spelled(encoded: &Encoded) -> (String, String) {
        let spell = |ids: &[u32]| bytes().decode(ids, false).unwrap().replace("<|endoftext|>", "$");
        (spell(encoded.prompt()), spell(encoded.completion()))
    }

    /// Values of TRL 1.16.0: `DPOTrainer._prepare_dataset` and its collator.
    #[test]
    fn pairs_have_the_ids_that_trl_gives_them() {
        let (Some(model), Some(path)) = (shared("hf/llama"), shared("prefs/pairs.jsonl")) else { return };
        let tokenizer = Tokenizer::load(&model).unwrap();
        let (rows, _) = read_all::<PreferenceRow>(std::slice::from_ref(&path), &ReadConfig::default()).unwrap();
        let trl = Conventions::default();
        let (pairs, report) = encode_pairs(&rows, &tokenizer, None, &trl).unwrap();
        assert_eq!((pairs.len(), report.cut, report.dropped.count, report.prompt_not_prefix), (64, 0, 0, 0));
        let expected = std::fs::read_to_string(&path).unwrap();
        for (pair, line) in pairs.iter().zip(expected.lines()) {
            let expected: Value = serde_json::from_str(line).unwrap();
            let ids = |name: &str| serde_json::from_value::<Vec<u32>>(expected[name].clone()).unwrap();
            assert_eq!(pair.chosen.prompt(), ids("prompt_ids"));
            assert_eq!(pair.rejected.prompt(), ids("prompt_ids"));
            assert_eq!(pair.chosen.completion(), ids("chosen_ids"));
            assert_eq!(pair.rejected.completion(), ids("rejected_ids"));
        }

        let short = Conventions { max_length: 20, ..trl.clone() };
        let (cut, report) = encode_pairs(&rows[..6], &tokenizer, None, &short).unwrap();
        assert_eq!(
            cut.iter().map(|pair| pair.row).collect::<Vec<_>>(),
            [0, 2, 3, 4, 5],
            "row 1's prompt has 20 tokens"
        );
        assert_eq!((report.cut, report.dropped.count, report.rows), (5, 1, 6));
        assert!(report.dropped.first[0].ends_with("pairs.jsonl: line 2: the prompt has 20 tokens, the limit is 20"));
        for (cut, prompt_len) in cut.iter().zip([18, 16, 19, 19, 19]) {
            let whole = &pairs[cut.row];
            assert_eq!((&cut.chosen.ids[..], cut.chosen.prompt_len), (&whole.chosen.ids[..20], prompt_len));
            assert_eq!((&cut.rejected.ids[..], cut.rejected.prompt_len), (&whole.rejected.ids[..20], prompt_len));
        }

        let end = Conventions { truncation: Truncation::KeepEnd, ..short };
        let (cut, report) = encode_pairs(&rows[..6], &tokenizer, None, &end).unwrap();
        assert_eq!((report.cut, report.dropped.count), (6, 0));
        for (cut, prompt_len) in cut.iter().zip([[0, 0], [0, 1], [0, 1], [1, 1], [6, 0], [1, 0]]) {
            let (whole, tail) = (&pairs[cut.row], |ids: &[u32]| ids[ids.len() - 20..].to_vec());
            assert_eq!((&cut.chosen.ids, cut.chosen.prompt_len), (&tail(&whole.chosen.ids), prompt_len[0]));
            assert_eq!((&cut.rejected.ids, cut.rejected.prompt_len), (&tail(&whole.rejected.ids), prompt_len[1]));
        }

        for (row, chosen, rejected, prompt_len, is_prefix) in [
            (
                pair("I love th", "ee, my lord.", "is fair maid and th"),
                &[0, 43, 478, 417, 14, 309, 449, 16, 1][..],
                &[0, 43, 478, 371, 405, 316, 265, 67, 363, 303, 286, 1][..],
                3,
                false,
            ),
            (
                pair("The king ", "is dead.", " speaks"),
                &[0, 349, 518, 330, 359, 338, 16, 1],
                &[0, 349, 518, 223, 420, 589, 85, 1],
                3,
                false,
            ),
            (pair("", "Come.", "Go."), &[0, 37, 341, 16, 1], &[0, 41, 81, 16, 1], 1, true),
            (
                pair("What is it?", " Nothing.</s>", " Nothing"),
                &[0, 474, 330, 351, 33, 223, 48, 497, 298, 16, 1],
                &[0, 474, 330, 351, 33, 223, 48, 497, 298, 1],
                5,
                true,
            ),
        ] {
            let (pairs, report) = encode_pairs(&[row], &tokenizer, None, &trl).unwrap();
            assert_eq!(pairs[0].chosen, Encoded { ids: chosen.to_vec(), prompt_len });
            assert_eq!(pairs[0].rejected, Encoded { ids: rejected.to_vec(), prompt_len });
            assert_eq!(report.prompt_not_prefix, usize::from(!is_prefix));
        }

        let template = "{% for m in messages %}{% if m.role=='user' %}[U] {{ m.content }} [/U]{% else %} \
                        {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %} {% endif %}";
        let template = ChatTemplate::new(template, tokenizer.special(), None).unwrap();
        let row = r#"{"prompt": [{"role": "user", "content": "What is it?"}], "rejected": "The king is dead.",
                      "chosen": [{"role": "assistant", "content": "Nothing, my lord."}]}"#;
        let rows = rows_of::<PreferenceRow>(&row.replace('\n', "")).unwrap();
        let (pairs, report) = encode_pairs(&rows, &tokenizer, Some(&template), &trl).unwrap();
        let chosen = [61, 55, 63, 223, 474, 330, 351, 33, 223, 61, 17, 55, 63, 223, 48, 497, 298, 14, 309, 449, 16, 1];
        let rejected = [61, 55, 63, 223, 474, 330, 351, 33, 223, 61, 17, 55, 63, 223, 349, 518, 330, 359, 338, 16, 1];
        assert_eq!(pairs[0].chosen, Encoded { ids: chosen.to_vec(), prompt_len: 14 });
        assert_eq!(pairs[0].rejected, Encoded { ids: rejected.to_vec(), prompt_len: 14 });
        assert_eq!(report.prompt_not_prefix, 0);
        let error = encode_pairs(&rows, &tokenizer, None, &trl).unwrap_err().to_string();
        assert!(error.contains("line 1: the rows are chats") && error.contains("\"hh\""), "{error}");
    }

    /// One row under every rule, by hand: `0123456789` is answered with `abcdefgh` or `abX`.
    #[test]
    fn conventions_do_what_they_say() {
        use Boundary::{CommonPrefix, Separate, Together};
        use Truncation::{Error, Filter, KeepEnd, KeepStart, Reference};
        let rows = [pair("0123456789", "abcdefgh", "abX")];
        for (boundary, eos, truncation, max_length, expected) in [
            (Together, Eos::AppendText, Error, 19, ["0123456789|abcdefgh$", "0123456789|abX$"]),
            (Separate, Eos::AppendId, Error, 19, ["0123456789|abcdefgh$", "0123456789|abX$"]),
            (CommonPrefix, Eos::None, Error, 18, ["0123456789ab|cdefgh", "0123456789ab|X"]),
            (Together, Eos::None, KeepStart, 12, ["0123456789|ab", "0123456789|ab"]),
            (Together, Eos::AppendId, KeepEnd, 12, ["789|abcdefgh$", "23456789|abX$"]),
            (Separate, Eos::AppendId, Reference, 14, ["56789|abcdefgh$", "56789|abX$"]),
            (Separate, Eos::AppendId, Reference, 12, ["56789|abcdefg", "56789|abX$"]),
            (Separate, Eos::AppendId, Reference, 19, ["0123456789|abcdefgh$", "0123456789|abX$"]),
            (Together, Eos::AppendId, Filter, 19, ["0123456789|abcdefgh$", "0123456789|abX$"]),
        ] {
            let conventions = Conventions { boundary, eos, truncation, max_length, max_prompt_length: 5 };
            let (pairs, _) = encode_pairs(&rows, &bytes(), None, &conventions).unwrap();
            let sides = [&pairs[0].chosen, &pairs[0].rejected].map(spelled).map(|(p, c)| format!("{p}|{c}"));
            assert_eq!(sides, expected, "{conventions:?}");
        }
        let conventions = |truncation, max_length| Conventions { truncation, max_length, ..Conventions::default() };
        let error = encode_pairs(&rows, &bytes(), None, &conventions(Error, 18)).unwrap_err().to_string();
        assert!(error.ends_with("line 1: the row has 19 tokens, the limit is 18"), "{error}");
        for (truncation, limit) in [(Filter, 18), (KeepStart, 10)] {
            let error = encode_pairs(&rows, &bytes(), None, &conventions(truncation, limit)).unwrap_err().to_string();
            assert!(error.starts_with("no row is left of 1: all are too long; the first: "), "{error}");
        }
        let separate = Conventions { boundary: Separate, ..Conventions::default() };
        let error = encode_pairs(&[pair("a<|endoftext|>", "b", "c")], &bytes(), None, &separate).unwrap_err();
        assert!(error.to_string().contains("line 1: holds the EOS token \"<|endoftext|>\""), "{error}");
        let wrong =
            Conventions { max_prompt_length: 9, max_length: 9, truncation: Reference, ..Conventions::default() };
        let error = encode_pairs(&rows, &bytes(), None, &wrong).unwrap_err().to_string();
        assert_eq!(error, "max_prompt_length = 9: below max_length, where truncation is reference");
    }

    #[test]
    fn eos_that_is_there_is_not_doubled() {
        for eos in [Eos::AppendText, Eos::AppendId] {
            let conventions = Conventions { eos, ..Conventions::default() };
            let (pairs, _) = encode_pairs(&[pair("p", "a<|endoftext|>", "b")], &bytes(), None, &conventions).unwrap();
            assert_eq!([&pairs[0].chosen, &pairs[0].rejected].map(|side| spelled(side).1), ["a$", "b$"], "{eos:?}");
        }
    }

    /// Nothing but the common beginning would be left of the shorter one.
    #[test]
    fn every_completion_keeps_a_token() {
        let conventions = Conventions { boundary: Boundary::CommonPrefix, eos: Eos::None, ..Conventions::default() };
        let (pairs, _) = encode_pairs(&[pair("p", "ab", "abc")], &bytes(), None, &conventions).unwrap();
        assert_eq!(spelled(&pairs[0].chosen), ("pa".into(), "b".into()));
        assert_eq!(spelled(&pairs[0].rejected), ("pa".into(), "bc".into()));
    }

    #[test]
    fn demonstrations_and_prompts_agree_about_the_prompt() {
        let lines = r#"{"prompt": "one", "completion": " two", "label": false}
{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]}"#;
        let rows = rows_of::<CompletionRow>(lines).unwrap();
        let template = ChatTemplate::new(HH, bytes().special(), None).unwrap();
        let conventions = Conventions::default();
        let (completions, _) = encode_completions(&rows, &bytes(), Some(&template), &conventions).unwrap();
        assert_eq!(spelled(&completions[0].encoded), ("one".into(), " two$".into()));
        assert_eq!(completions[0].label, Some(false));
        assert_eq!(spelled(&completions[1].encoded), ("\n\nHuman: Hi\n\nAssistant:".into(), " Yes$".into()));
        let prompts: Vec<PromptRow> =
            rows.iter().map(|row| PromptRow { origin: row.origin.clone(), prompt: row.prompt.clone() }).collect();
        let (encoded, _) = encode_prompts(&prompts, &bytes(), Some(&template), &conventions).unwrap();
        for (prompt, completion) in encoded.iter().zip(&completions) {
            assert_eq!(prompt.ids, completion.encoded.prompt());
        }
        let short = Conventions { max_prompt_length: 10, ..conventions };
        let (encoded, report) = encode_prompts(&prompts, &bytes(), Some(&template), &short).unwrap();
        assert_eq!((encoded.len(), report.dropped.count, encoded[0].row), (1, 1, 0));
        let end = Conventions { truncation: Truncation::KeepEnd, ..short };
        let (encoded, report) = encode_prompts(&prompts, &bytes(), Some(&template), &end).unwrap();
        assert_eq!((bytes().decode(&encoded[1].ids, false).unwrap().as_str(), report.cut), ("Assistant:", 1));
    }

    #[test]
    fn an_implicit_prompt_is_what_both_begin_with() {
        for (chosen, rejected, prompt) in [
            ("The sky is blue.", "The sky is green.", "The sky is"),
            ("The sky is blue.", "The sky is black.", "The sky is"),
            ("The sky is blue.", "The skyline", "The"),
            ("a\nbc", "a\nbd", "a\n"),
            ("Yes", "No", ""),
            ("naïve ☃", "naïve ☂", "naïve"),
            ("word", "word more.", "word"),
            ("\n\nHuman: Hi\n\nAssistant: I am", "\n\nHuman: Hi\n\nAssistant: I was", "\n\nHuman: Hi\n\nAssistant:"),
            (
                "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d",
                "\n\nHuman: a\n\nAssistant: b\n\nHuman: e\n\nAssistant: f",
                "\n\nHuman: a\n\nAssistant:",
            ),
        ] {
            let row = serde_json::json!({"chosen": chosen.to_owned() + "!", "rejected": rejected}).to_string();
            let rows = rows_of::<PreferenceRow>(&row);
            if chosen == "word" {
                assert_eq!(super::shared_prompt(chosen, rejected), 4, "the space goes to the completion");
                continue;
            }
            let row = &rows.unwrap()[0];
            assert_eq!(text(&row.prompt), prompt);
            assert_eq!(format!("{}{}", prompt, text(&row.rejected)), rejected);
        }
        let turns =
            |last: &str| serde_json::json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": last}]);
        // The prompt as text, and once more in the conversations: UltraFeedback's form.
        for prompt in ["", "\"prompt\": \"Hi\", "] {
            let line = format!("{{{prompt}\"chosen\": {}, \"rejected\": {}}}", turns("a"), turns("b"));
            let row = &rows_of::<PreferenceRow>(&line).unwrap()[0];
            assert!(matches!(&row.prompt, Content::Chat(m) if m.len() == 1 && m[0].content == "Hi"));
            assert!(matches!(&row.rejected, Content::Chat(m) if m.len() == 1 && m[0].content == "b"));
        }
    }

    #[test]
    fn every_two_different_completions_are_a_candidate() {
        let lines = r#"{"prompt": "p", "completions": ["a", "b", "a"], "id": 7}
{"prompt": "p", "chosen": "a", "rejected": "b", "margin": 2}"#;
        let rows = rows_of::<CandidateRow>(lines).unwrap();
        let sides = |row: &CandidateRow| -> Vec<String> {
            row.candidates.iter().map(|pair| [text(&pair.chosen), text(&pair.rejected)].concat()).collect()
        };
        assert_eq!((sides(&rows[0]), sides(&rows[1])), (vec!["ab".into(), "ba".into()], vec!["ab".into()]));
        let written = |row: &CandidateRow, i: usize| Value::Object(row.only(i)).to_string();
        assert_eq!(written(&rows[0], 1), r#"{"prompt":"p","completions":["b","a"],"id":7}"#);
        assert_eq!(written(&rows[1], 0), r#"{"prompt":"p","chosen":"a","rejected":"b","margin":2}"#);
        for (line, expected) in [
            (r#"{"prompt": "p", "completions": ["a", "a"]}"#, "field 'completions' has no two that differ"),
            (r#"{"prompt": "p", "completions": ["a", 3]}"#, "field 'completions' is a number (3)"),
            (r#"{"prompt": "p", "completions": "a"}"#, "field 'completions' is a text"),
            (r#"{"completions": ["a", "b"]}"#, "field 'prompt' is missing"),
            (r#"{"prompt": "p"}"#, "field 'chosen' is missing"),
        ] {
            let error = rows_of::<CandidateRow>(line).unwrap_err();
            assert!(error.contains("rows.jsonl: line 1: ") && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn hh_rlhf_is_read() {
        let Some(folder) = shared("hh-rlhf") else { return };
        let (rows, skipped) = read_all::<PreferenceRow>(&[folder], &ReadConfig::default()).unwrap();
        assert_eq!((rows.len(), skipped.count), (1156, 0));
        // In this half of the file chosen and rejected always agree up to the last turn.
        for row in &rows {
            assert!(text(&row.prompt).ends_with("\n\nAssistant:"));
            assert!([&row.chosen, &row.rejected].iter().all(|answer| !text(answer).contains("\n\nAssistant:")));
        }
    }

    #[test]
    fn bad_rows_are_named() {
        let good = r#""prompt": "p", "chosen": "a", "rejected": "b""#;
        let user = r#"{"role": "user", "content": "p"}"#;
        let answer = r#"{"role": "assistant", "content": "a"}"#;
        for (line, expected) in [
            ("{".to_owned(), "not a JSON object (EOF"),
            ("[1]".to_owned(), "expected one object a line"),
            (r#"{"prompt": "p", "chosen": "a"}"#.into(), "field 'rejected' is missing; expected a text or a list of"),
            (r#"{"prompt": 3, "chosen": "a", "rejected": "b"}"#.into(), "field 'prompt' is a number (3); expected"),
            (r#"{"prompt": [], "chosen": "a", "rejected": "b"}"#.into(), "field 'prompt' is an empty list"),
            (
                r#"{"prompt": [{"role": "user"}], "chosen": "a", "rejected": "b"}"#.into(),
                "message 1 whose content is missing",
            ),
            (r#"{"prompt": ["x"], "chosen": "a", "rejected": "b"}"#.into(), "has an item 1 that is a text (\"x\")"),
            (r#"{"prompt": "p", "chosen": "", "rejected": "b"}"#.into(), "field 'chosen' has no completion"),
            (r#"{"chosen": "x y", "rejected": "x y z"}"#.into(), "field 'chosen' has no completion"),
            (r#"{"prompt": "p", "chosen": "a", "rejected": "a"}"#.into(), "'chosen' and 'rejected' are equal"),
            (r#"{"prompt": null, "chosen": "a b", "rejected": "a b"}"#.into(), "'chosen' and 'rejected' are equal"),
            (
                format!("{{\"prompt\": [{user}], \"chosen\": \"a\", \"rejected\": [{answer}]}}"),
                "'chosen' and 'rejected' are equal",
            ),
            (
                format!("{{\"prompt\": \"q\", \"chosen\": [{user}, {answer}], \"rejected\": [{user}, {user}]}}"),
                "do not begin with the same prompt",
            ),
            (
                r#"{"prompt": "p", "chosen": "a", "rejected": [{"role": "assistant", "content": "b"}]}"#.into(),
                "expected the same for both",
            ),
            (format!("{{{good}, \"margin\": \"1\"}}"), "field 'margin' is a text (\"1\"); expected a finite number"),
            (format!("{{{good}, \"target\": 1.5}}"), "field 'target' is a number (1.5); expected a probability"),
            (format!("{{{good}, \"preference\": \"first\"}}"), "field 'preference' is a text (\"first\")"),
            (format!("{{{good}, \"preference\": \"tie\", \"target\": 0.5}}"), "has more than one of 'target'"),
        ] {
            let error = rows_of::<PreferenceRow>(&format!("{{{good}}}\n\n{line}\n")).unwrap_err();
            assert!(error.contains("rows.jsonl: line 3: ") && error.contains(expected), "{error}");
        }
        for (line, expected) in [
            (r#"{"prompt": "p", "completion": "c", "label": 1}"#, "field 'label' is a number (1); expected true"),
            (r#"{"messages": [{"role": "user", "content": "x"}]}"#, "field 'messages' ends with user; expected the"),
            (r#"{"messages": [{"role": "assistant", "content": "x"}]}"#, "has only one message"),
            (r#"{"completion": "c"}"#, "field 'prompt' is missing"),
        ] {
            let error = rows_of::<CompletionRow>(line).unwrap_err();
            assert!(error.contains("rows.jsonl: line 1: ") && error.contains(expected), "{error}");
        }
        for (extra, target) in [
            ("", None),
            (", \"label_probability\": 0.25", Some(0.25)),
            (", \"preference\": \"tie\"", Some(0.5)),
            (", \"preference\": 0.75, \"unknown\": []", Some(0.75)),
        ] {
            assert_eq!(rows_of::<PreferenceRow>(&format!("{{{good}{extra}}}")).unwrap()[0].target, target);
        }
    }

    #[test]
    fn skipped_rows_are_counted_and_the_first_listed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.jsonl");
        std::fs::write(&path, "{}\n{\"prompt\": \"x\"}\n".to_owned() + &"{\"prompt\": 1}\n".repeat(20)).unwrap();
        let config = ReadConfig { skip_bad_rows: true, ..ReadConfig::default() };
        let (rows, skipped) = read_all::<PromptRow>(&[path], &config).unwrap();
        assert_eq!((rows.len(), rows[0].origin.line), (1, 2));
        assert_eq!((skipped.count, skipped.first.len()), (21, 10));
        assert!(skipped.first[0].contains("p.jsonl: line 1: field 'prompt' is missing"));
        let path = folder.path().join("q.jsonl");
        std::fs::write(&path, "{}\n").unwrap();
        let error = read_all::<PromptRow>(&[path], &config).unwrap_err().to_string();
        assert!(
            error.contains("has no good row (1 bad ones") && error.contains("expected rows {\"prompt\"}"),
            "{error}"
        );
    }

    #[test]
    fn files_are_read_in_order_compressed_or_not() {
        let zip = |text: &str| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(text.as_bytes()).unwrap();
            encoder.finish().unwrap()
        };
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
        file("b.jsonl.gz", &[zip("{\"text\": \"3\"}\n"), zip("{\"text\": \"4\"}")].concat());
        // Compressed, whatever the name says; and a byte order mark, and lines of Windows.
        file("a.jsonl", &zip("\u{feff}{\"text\": \"1\"}\r\n\r\n{\"text\": \"2\"}\r\n"));
        file("c.txt", b"5\n\n6\n");
        file("ignored.json", b"{}");
        let texts = |text_lines| -> Vec<String> {
            let config = ReadConfig { text_lines, ..ReadConfig::default() };
            read::<Document>(&[folder.path().to_owned()], &config).unwrap().map(|row| row.unwrap().text).collect()
        };
        assert_eq!(texts(false), ["1", "2", "3", "4", "5\n\n6\n"]);
        assert_eq!(texts(true), ["1", "2", "3", "4", "5", "6"]);

        let error = |name: &str| match read_all::<PromptRow>(&[folder.path().join(name)], &ReadConfig::default()) {
            Ok(_) => panic!("{name} was read"),
            Err(error) => error.to_string(),
        };
        assert!(error("c.txt").contains("is a text file; expected JSONL with rows {\"prompt\"}"));
        assert!(error("none.jsonl").contains("none.jsonl: cannot read"));
        let whole = zip(&"{\"prompt\": \"x\"}\n".repeat(3));
        file("torn.jsonl.gz", &whole[..whole.len() - 9]);
        assert!(error("torn.jsonl.gz").contains("torn.jsonl.gz: cannot read line "), "{}", error("torn.jsonl.gz"));
        file("latin.jsonl", b"{\"prompt\": \"\xe9\"}");
        assert!(error("latin.jsonl").contains("line 1: not a JSON object (not UTF-8 text)"));
        let empty = tempfile::tempdir().unwrap();
        let error = read_all::<PromptRow>(&[empty.path().to_owned()], &ReadConfig::default()).unwrap_err().to_string();
        assert!(error.contains("has no .jsonl or .jsonl.gz file"), "{error}");
    }

    #[test]
    fn the_order_of_an_epoch_is_a_permutation_of_its_own() {
        let first = order(7, 0, 100);
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        assert_eq!(first, order(7, 0, 100));
        assert_ne!(first, order(7, 1, 100));
        assert_ne!(first, order(8, 0, 100));
        // As first written: checkpoints of an older build must go on in the same order.
        assert_eq!(order(0, 0, 8), [1, 2, 4, 6, 0, 5, 3, 7]);
    }

    #[test]
    fn texts_are_packed_with_eos_after_each() {
        let tokenizer = bytes();
        let texts = ["ab", "c<|endoftext|>", "de"].map(str::to_owned);
        let packed = pack(&texts, &tokenizer, 3).unwrap();
        let blocks: Vec<String> = packed.blocks().map(|block| tokenizer.decode(block, false).unwrap()).collect();
        assert_eq!(blocks, ["ab<|endoftext|>", "c<|endoftext|>d"]);
        assert_eq!(packed.dropped_tokens, 2);
        let error = pack(&[], &tokenizer, 3).unwrap_err().to_string();
        assert!(error.contains("0 tokens in 0 documents"), "{error}");
    }
}
