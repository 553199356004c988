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
    /// Texts that were read.
    pub documents: usize,
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
/// where the tokenizer adds it.
///
/// # Errors
/// The first bad document; a tokenizer without EOS; too little text for one block.
pub fn pack(
    documents: impl Iterator<Item = Result<Document, DataError>>,
    tokenizer: &Tokenizer,
    context: usize,
) -> Result<Packed, DataError> {
    let value = |field, found: String, expected| DataError::Value { field, found, expected };
    if context < 2 {
        return Err(value("context", context.to_string(), "at least 2 tokens"));
    }
    let Some(eos) = &tokenizer.special().eos else {
        let expected = "a tokenizer with an EOS token, which separates texts (eos_token in tokenizer_config.json)";
        return Err(value("tokenizer", "has no EOS token".into(), expected));
    };
    let mut documents = documents.peekable();
    let mut ids = Vec::new();
    let mut count = 0;
    while documents.peek().is_some() {
        let batch = documents.by_ref().take(PACK_BATCH).collect::<Result<Vec<_>, _>>()?;
        count += batch.len();
        let encoded = batch.par_iter().map(|document| tokenizer.encode(&document.text, true));
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
        let found = format!("{dropped_tokens} tokens in {count} documents");
        return Err(value("text", found, "at least one block of `context` tokens"));
    }
    Ok(Packed { ids, context, documents: count, dropped_tokens })
}

/// The order of `len` rows in an epoch: a permutation that depends on the seed and the epoch alone.
#[must_use]
pub fn order(seed: u64, epoch: u64, len: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    order.shuffle(&mut stream(seed, "lm-data-order", epoch));
    order
}

impl Packed {
    /// Number of blocks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len() / self.context
    }

    /// Whether there is no block; [`pack`] makes none such.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The tokens of a block, `[context]`.
    #[must_use]
    pub fn block(&self, index: usize) -> &[u32] {
        &self.ids[index * self.context..(index + 1) * self.context]
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
        if chosen == rejected {
            return Err(Problem::Fields(
                "'chosen' and 'rejected' are equal; expected two different completions".into(),
            ));
        }
        let prompt = object.contains_key("prompt").then(|| content(object, "prompt", PROMPT)).transpose()?;
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
            (_, Content::Chat(mut chosen), Content::Chat(mut rejected)) => {
                let at = common_prefix(&chosen, &rejected);
                if at == 0 {
                    let reason = "'chosen' and 'rejected' do not begin with the same message; expected a prompt";
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

impl Row for CompletionRow {
    const SHAPE: &str = "rows {\"prompt\", \"completion\"} or {\"messages\"}";

    fn parse(object: &Map<String, Value>, origin: Origin) -> Result<Self, Problem> {
        let (prompt, completion) = if object.contains_key("messages") && !object.contains_key("completion") {
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
    let (what, length) =
        if prompt_len >= limit { ("the prompt", prompt_len) } else { ("prompt and completion", longest) };
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
