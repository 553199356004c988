//! Text data: rows read from JSONL and text files, encoded into token ids under named conventions.
//!
//! Rows are checked before anything is trained on them. What is left out or cut is counted, never silent.

mod encode;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::seq::SliceRandom as _;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::encode::{
    Boundary, Conventions, EncodeReport, Encoded, EncodedCompletion, EncodedPair, EncodedPrompt, Eos, Packed,
    Truncation, encode_completions, encode_pairs, encode_prompts, pack,
};
use super::chat::{ChatError, Extras, Message, SPOKEN, is_void};
use super::tokenizer::TokenizerError;
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
    /// What its chat template sees beside the messages.
    pub extras: Extras,
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
    /// What its chat template sees beside the messages.
    pub extras: Extras,
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
    /// What its chat template sees beside the messages.
    pub extras: Extras,
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
    /// The fields that are read, or that are known to hold something else than the row.
    const FIELDS: &[&str];

    /// The row of a JSON object; fields that are not known are not looked at.
    ///
    /// # Errors
    /// For the first field that is missing or wrong.
    fn parse(object: &Map<String, Value>, origin: Origin) -> Result<Self, Problem>;

    /// Where it stands.
    fn origin(&self) -> &Origin;
}

/// How files are read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReadConfig {
    /// Leaves bad rows out, and counts them, instead of stopping at the first one.
    pub skip_bad_rows: bool,
    /// Takes every line of a `.txt` file for a document; otherwise a file is one.
    pub text_lines: bool,
    /// Most bytes of a line.
    #[serde(skip_serializing_if = "is_usual_line")]
    pub max_line_bytes: u64,
    /// How many times larger than its compressed file a text may be, once it is larger than 16 MB.
    #[serde(skip_serializing_if = "is_usual_ratio")]
    pub max_ratio: u64,
    /// Fields that would be taken for a part of the conversation, and are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignore_fields: Vec<String>,
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
    /// More than is read.
    #[error("{}: line {line}: {problem}", path.display())]
    TooLarge {
        /// File.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
        /// What is too large, the limit, and how to raise it.
        problem: String,
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
    /// Fields that were not read, and in how many rows they stand.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unread: BTreeMap<String, u64>,
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

/// Bad or dropped rows that are listed in a report.
const LISTED: usize = 10;

/// Most bytes of a line, unless said otherwise: a conversation of four million words.
const LINE_BYTES: u64 = 16 << 20;

/// How many times larger than its compressed file a text may be, unless said otherwise. Rows are about ten times
/// larger; a file made to fill the memory, a thousand times.
const RATIO: u64 = 200;

/// From how many bytes on that is looked at.
const RATIO_FROM: u64 = 16 << 20;

/// Most blank lines one after another.
const BLANK_LINES: u64 = 1_000_000;

/// Most bytes of a text file that is one document.
const TEXT_BYTES: u64 = 1 << 30;

/// Different fields that were not read, at most, which are counted.
const UNREAD: usize = 50;

fn is_usual_line(bytes: &u64) -> bool {
    *bytes == LINE_BYTES
}

fn is_usual_ratio(ratio: &u64) -> bool {
    *ratio == RATIO
}

/// Fields that hold a part of the conversation in some format of rows. One of them that is not read would be lost
/// without a word. `chosen`, `rejected` and `completion` are not among them: they are the answers of this program's own
/// formats, and one file may serve several stages (SFT on the chosen ones, PPO on the prompts of pairs). What a stage
/// leaves out of them is told in a remark.
const SPEAKING: [&str; 33] = [
    "system",
    "system_prompt",
    "system_message",
    "question",
    "query",
    "instruction",
    "instructions",
    "input",
    "inputs",
    "context",
    "history",
    "passage",
    "conversation",
    "conversations",
    "dialogue",
    "dialog",
    "turns",
    "messages",
    "prompt",
    "completions",
    "response",
    "responses",
    "answer",
    "output",
    "tools",
    "functions",
    "function_call",
    "tool_calls",
    "documents",
    "images",
    "image",
    "videos",
    "audio",
];

/// What a chat template sees beside the messages, in rows as TRL has them.
const TOOLS: &str = "tools";
const DOCUMENTS: &str = "documents";
const VARIABLES: &str = "chat_template_kwargs";

impl Default for ReadConfig {
    fn default() -> Self {
        Self {
            skip_bad_rows: false,
            text_lines: false,
            max_line_bytes: LINE_BYTES,
            max_ratio: RATIO,
            ignore_fields: Vec::new(),
        }
    }
}

/// What begins an answer in HH-RLHF.
const HH_ASSISTANT: &str = "\n\nAssistant:";

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

/// The order of `len` rows in an epoch: a permutation that depends on the seed and the epoch alone.
#[must_use]
pub fn order(seed: u64, epoch: u64, len: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    order.shuffle(&mut stream(seed, "lm-data-order", epoch));
    order
}

impl Row for PreferenceRow {
    const SHAPE: &str = "rows {\"prompt\", \"chosen\", \"rejected\"} or {\"chosen\", \"rejected\"}";
    // `messages` is the chosen conversation once more, in UltraFeedback's files.
    const FIELDS: &[&str] = &[
        "prompt",
        "chosen",
        "rejected",
        "margin",
        "target",
        "label_probability",
        "preference",
        TOOLS,
        DOCUMENTS,
        VARIABLES,
        "messages",
    ];

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
        let extras = extras(object, &prompt)?;
        Ok(Self { origin, prompt, extras, chosen, rejected, margin, target: target(object)? })
    }

    fn origin(&self) -> &Origin {
        &self.origin
    }
}

impl Row for CandidateRow {
    const SHAPE: &str = "rows {\"prompt\", \"completions\"} or {\"prompt\", \"chosen\", \"rejected\"}";
    const FIELDS: &[&str] = &[
        "prompt",
        COMPLETIONS,
        "chosen",
        "rejected",
        "margin",
        "target",
        "label_probability",
        "preference",
        TOOLS,
        DOCUMENTS,
        VARIABLES,
        "messages",
    ];

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
        let extras = extras(object, &prompt)?;
        let (mut candidates, mut places) = (Vec::new(), Vec::new());
        for (i, chosen) in completions.iter().enumerate() {
            for (j, rejected) in completions.iter().enumerate().skip(i + 1).filter(|(_, other)| *other != chosen) {
                let [prompt, chosen, rejected] = [&prompt, chosen, rejected].map(Content::clone);
                let (origin, extras) = (origin.clone(), extras.clone());
                candidates.push(PreferenceRow { origin, prompt, extras, chosen, rejected, margin: None, target: None });
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
    const FIELDS: &[&str] = &["prompt", "completion", "messages", "label", TOOLS, DOCUMENTS, VARIABLES];

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
        let extras = extras(object, &prompt)?;
        Ok(Self { origin, prompt, extras, completion, label })
    }

    fn origin(&self) -> &Origin {
        &self.origin
    }
}

impl Row for PromptRow {
    const SHAPE: &str = "rows {\"prompt\"}";
    // Rows of every other kind have prompts, too.
    const FIELDS: &[&str] = &[
        "prompt",
        "completion",
        COMPLETIONS,
        "chosen",
        "rejected",
        "messages",
        "label",
        "margin",
        "target",
        "label_probability",
        "preference",
        TOOLS,
        DOCUMENTS,
        VARIABLES,
    ];

    fn parse(object: &Map<String, Value>, origin: Origin) -> Result<Self, Problem> {
        let prompt = content(object, "prompt", PROMPT)?;
        let extras = extras(object, &prompt)?;
        Ok(Self { origin, prompt, extras })
    }

    fn origin(&self) -> &Origin {
        &self.origin
    }
}

impl Row for Document {
    const SHAPE: &str = "rows {\"text\"}";
    const FROM_TEXT: bool = true;
    const FIELDS: &[&str] = &["text"];

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
            let message = |(i, item): (usize, &Value)| match item {
                Value::Object(object) => message(object).map_err(|(found, expected)| {
                    field(name, format!("has a message {} whose {found}", i + 1), expected)
                }),
                _ => Err(field(name, format!("has an item {} that {}", i + 1, describe(item)), expected)),
            };
            Ok(Content::Chat(list.iter().enumerate().map(message).collect::<Result<_, _>>()?))
        }
        Some(other) => Err(field(name, describe(other), expected)),
    }
}

/// A message of a row, with all that stands in it.
fn message(object: &Map<String, Value>) -> Result<Message, (String, &'static str)> {
    let Some(Value::String(role)) = object.get("role") else {
        return Err((format!("role {}", object.get("role").map_or("is missing".into(), describe)), "a text"));
    };
    let calls = SPOKEN.iter().any(|key| object.get(*key).is_some_and(|value| !is_void(value)));
    let content = match object.get("content") {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) if calls => String::new(),
        Some(Value::Array(parts)) if !parts.is_empty() => {
            let mut texts = String::new();
            for (i, part) in parts.iter().enumerate() {
                match (part.get("type"), part.get("text")) {
                    (Some(Value::String(kind)), Some(Value::String(text))) if kind == "text" => texts.push_str(text),
                    (Some(Value::String(kind)), _) => {
                        return Err((
                            format!("content has a part {} of type {kind:?}", i + 1),
                            "parts of type \"text\"",
                        ));
                    }
                    _ => {
                        let expected = "a text, or parts {\"type\": \"text\", \"text\"}";
                        return Err((format!("content has a part {} that {}", i + 1, describe(part)), expected));
                    }
                }
            }
            texts
        }
        other => return Err((format!("content {}", other.map_or("is missing".into(), describe)), "a text")),
    };
    let plain = object.len() == 2 && object.get("content").is_some_and(Value::is_string);
    let object = if plain { Map::new() } else { object.clone() };
    Ok(Message { role: role.clone(), content, object })
}

/// What a chat template sees beside the messages. `tools` may be a text that holds JSON, as tables have it.
fn extras(object: &Map<String, Value>, prompt: &Content) -> Result<Extras, Problem> {
    let given = |name| object.get(name).filter(|value| !is_void(value));
    let list = |name: &'static str| match given(name) {
        None => Ok(None),
        Some(Value::Array(list)) if list.iter().all(Value::is_object) => Ok(Some(Value::Array(list.clone()))),
        Some(Value::String(text)) => match serde_json::from_str::<Vec<Map<String, Value>>>(text) {
            Ok(list) => Ok(Some(Value::Array(list.into_iter().map(Value::Object).collect()))),
            Err(_) => Err(field(name, "is a text that is no JSON list of objects".into(), "a list of objects")),
        },
        Some(other) => Err(field(name, describe(other), "a list of objects")),
    };
    let variables = match given(VARIABLES) {
        None => Map::new(),
        Some(Value::Object(variables)) => {
            // These have their own places, and transformers takes them twice for an error.
            for name in ["messages", TOOLS, DOCUMENTS, "add_generation_prompt"] {
                if variables.contains_key(name) {
                    return Err(field(VARIABLES, format!("has '{name}'"), "variables of the template's own"));
                }
            }
            variables.clone()
        }
        Some(other) => return Err(field(VARIABLES, describe(other), "an object")),
    };
    let extras = Extras { tools: list(TOOLS)?, documents: list(DOCUMENTS)?, variables };
    if matches!(prompt, Content::Text(_)) && extras != Extras::default() {
        let reason = "'tools', 'documents' and 'chat_template_kwargs' are for chat templates, and the prompt is a text; \
                      expected a list of messages";
        return Err(Problem::Fields(reason.into()));
    }
    Ok(extras)
}

/// Tables that became JSONL have null where there was nothing.
fn is_given(object: &Map<String, Value>, name: &str) -> bool {
    object.get(name).is_some_and(|value| !value.is_null())
}

fn not_empty(name: &'static str, content: &Content) -> Result<(), Problem> {
    let empty = match content {
        Content::Text(text) => text.is_empty(),
        Content::Chat(messages) => messages.iter().all(Message::is_empty),
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
                Ok(Some((origin, object))) => match object.and_then(|object| {
                    let row = T::parse(&object, origin.clone())?;
                    Ok((row, unread::<T>(&object, &self.config.ignore_fields)?))
                }) {
                    Ok((row, unread)) => {
                        for name in unread {
                            if self.skipped.unread.len() < UNREAD || self.skipped.unread.contains_key(&name) {
                                *self.skipped.unread.entry(name).or_default() += 1;
                            }
                        }
                        return Some(Ok(row));
                    }
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

/// Names of the fields that are not read and hold no part of the conversation, as far as their names tell.
fn unread<T: Row>(object: &Map<String, Value>, ignored: &[String]) -> Result<Vec<String>, Problem> {
    let mut unread = Vec::new();
    for (name, value) in object.iter().filter(|(name, _)| !T::FIELDS.contains(&name.as_str())) {
        // What is said once more in a field that is read is not lost.
        let said_elsewhere = || {
            let text = value.as_str().map(str::trim);
            let holds = |other: &Value| text.is_some_and(|text| holds_text(other, text));
            T::FIELDS.iter().filter_map(|field| object.get(*field)).any(holds)
        };
        let speaks = SPEAKING.contains(&name.as_str()) && !is_void(value) && !T::FROM_TEXT;
        if speaks && !ignored.contains(name) && !said_elsewhere() {
            let found = describe(value);
            return Err(Problem::Fields(format!(
                "field '{name}' {found}, and is not read: put it into the prompt, or take it out (in training: --set \
                 'read.ignore_fields=[\"{name}\"]' leaves it out)"
            )));
        }
        unread.push(name.clone());
    }
    Ok(unread)
}

fn holds_text(value: &Value, text: &str) -> bool {
    match value {
        Value::String(whole) => whole.contains(text),
        Value::Array(list) => list.iter().any(|item| holds_text(item, text)),
        Value::Object(object) => object.values().any(|item| holds_text(item, text)),
        _ => false,
    }
}

impl Skipped {
    /// The fields that were not read, as a remark; `None` if there were none.
    #[must_use]
    pub fn unread_fields(&self) -> Option<String> {
        let most = self.unread.values().max()?;
        let names: Vec<&str> = self.unread.keys().map(String::as_str).collect();
        Some(format!("fields that are not read: {} (in up to {most} rows)", names.join(", ")))
    }

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
    /// Most bytes of a line, or of the whole file where it is one document.
    most: u64,
    /// Blank lines since the last one that was not.
    blank: u64,
    /// Of a compressed file.
    unpacking: Option<Unpacking>,
}

/// How much larger a compressed file becomes.
struct Unpacking {
    packed: Arc<AtomicU64>,
    unpacked: u64,
    ratio: u64,
}

/// A reader that counts.
struct Counted<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
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
        let file = File::open(path).map_err(io)?;
        let is_regular = file.metadata().map_err(io)?.is_file();
        let packed = Arc::new(AtomicU64::new(0));
        let mut file = BufReader::new(Counted { inner: file, count: Arc::clone(&packed) });
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
        let most = match kind {
            LineKind::Whole if is_regular => TEXT_BYTES.max(config.max_line_bytes),
            _ => config.max_line_bytes,
        };
        let unpacking = compressed.then_some(Unpacking { packed, unpacked: 0, ratio: config.max_ratio });
        Ok(Self { path: path.into(), reader, line: 0, kind, most, blank: 0, unpacking })
    }

    fn too_large(&self, problem: String) -> DataError {
        DataError::TooLarge { path: self.path.to_path_buf(), line: self.line, problem }
    }

    /// Reads a line, or all of a file that is one document; `false` at the end.
    fn read(&mut self, bytes: &mut Vec<u8>) -> Result<bool, DataError> {
        bytes.clear();
        loop {
            let io = |source| DataError::Io { path: self.path.to_path_buf(), line: Some(self.line), source };
            let part = match self.reader.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                part => part.map_err(io)?,
            };
            let end = match self.kind {
                LineKind::Whole => None,
                LineKind::Json | LineKind::Text => part.iter().position(|&byte| byte == b'\n'),
            };
            let used = end.map_or(part.len(), |end| end + 1);
            bytes.extend_from_slice(&part[..used]);
            self.reader.consume(used);
            if bytes.len() as u64 > self.most {
                let raise = match self.kind {
                    LineKind::Whole => "one line of it is a text with --set read.text_lines=true",
                    _ => "--max-line-bytes allows more, in training --set read.max_line_bytes",
                };
                return Err(self.too_large(format!("is longer than {} bytes; {raise}", self.most)));
            }
            if let Some(unpacking) = &mut self.unpacking {
                unpacking.unpacked += used as u64;
                let packed = unpacking.packed.load(Ordering::Relaxed);
                if unpacking.unpacked > RATIO_FROM && unpacking.unpacked / unpacking.ratio.max(1) > packed {
                    let times = unpacking.ratio;
                    return Err(self.too_large(format!(
                        "the file unpacks to more than {times} times its size so far: it is damaged, or made to fill the \
                         memory; in training, --set read.max_ratio allows more"
                    )));
                }
            }
            if used == 0 || end.is_some() {
                return Ok(!bytes.is_empty());
            }
        }
    }

    /// The next line that is not blank, as an object; a text is one with the field `text`.
    #[expect(clippy::type_complexity, reason = "a row that is bad is not an end of the file; one use")]
    fn next_object(&mut self) -> Result<Option<(Origin, Result<Map<String, Value>, Problem>)>, DataError> {
        let mut bytes = Vec::new();
        loop {
            self.line += 1;
            if !self.read(&mut bytes)? {
                return Ok(None);
            }
            // Some editors begin a file with a byte order mark.
            let line = if self.line == 1 { bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes) } else { &bytes };
            if line.iter().all(u8::is_ascii_whitespace) {
                self.blank += 1;
                if self.blank > BLANK_LINES {
                    return Err(self.too_large(format!("{BLANK_LINES} blank lines stand before it")));
                }
                continue;
            }
            self.blank = 0;
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

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::path::{Path, PathBuf};

    use serde_json::Value;

    use super::{
        CandidateRow, CompletionRow, Content, Document, PreferenceRow, PromptRow, ReadConfig, Row, order, read,
        read_all,
    };

    pub(super) fn rows_of<T: Row>(lines: &str) -> Result<Vec<T>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        std::fs::write(&path, lines).unwrap();
        read_all(&[path], &ReadConfig::default()).map(|(rows, _)| rows).map_err(|e| e.to_string())
    }

    fn text(content: &Content) -> &str {
        match content {
            Content::Text(text) => text,
            Content::Chat(_) => panic!("a chat"),
        }
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
    #[ignore = "needs ../shared/data/hh-rlhf"]
    fn hh_rlhf_is_read() {
        let folder = crate::fixtures::shared("hh-rlhf");
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
                "message 1 whose content is missing; expected a text",
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
    fn nothing_of_a_conversation_is_dropped() {
        let user = r#"{"role": "user", "content": "Hi"}"#;
        let good = format!("\"messages\": [{user}, {{\"role\": \"assistant\", \"content\": \"Yes\"}}]");
        for (line, expected) in [
            (
                r#"{"system": "Be brief.", "question": "Sky?", "chosen": "a", "rejected": "b"}"#.to_owned(),
                "field 'system' is a text",
            ),
            (
                r#"{"question": "Sky?", "prompt": "x", "chosen": "a", "rejected": "b"}"#.into(),
                "field 'question' is a text",
            ),
            (
                r#"{"prompt": "x", "chosen": "a", "rejected": "b", "images": ["a.png"]}"#.into(),
                "field 'images' is a list",
            ),
            (
                r#"{"prompt": "x", "chosen": "a", "rejected": "b", "tools": [{"name": "f"}]}"#.into(),
                "and the prompt is a text",
            ),
            (r#"{"prompt": "x", "chosen": "a", "rejected": "b", "tools": 3}"#.into(), "field 'tools' is a number (3)"),
        ] {
            let error = rows_of::<PreferenceRow>(&line).unwrap_err();
            assert!(error.contains("rows.jsonl: line 1: ") && error.contains(expected), "{error}");
        }
        for (line, expected) in [
            (format!("{{{good}, \"functions\": [1]}}"), "field 'functions' is a list"),
            (format!("{{{good}, \"chat_template_kwargs\": 3}}"), "field 'chat_template_kwargs' is a number"),
            (format!("{{{good}, \"chat_template_kwargs\": {{\"messages\": 3}}}}"), "has 'messages'"),
            (
                format!(
                    "{{\"messages\": [{user}, {{\"role\": \"assistant\", \"content\": [{{\"type\": \"image\"}}]}}]}}"
                ),
                "message 2 whose content has a part 1 of type \"image\"",
            ),
            (format!("{{\"messages\": [{user}, {{\"role\": \"assistant\", \"content\": null}}]}}"), "content is null"),
            (format!("{{\"messages\": [{user}, {{\"content\": \"a\"}}]}}"), "message 2 whose role is missing"),
        ] {
            let error = rows_of::<CompletionRow>(&line).unwrap_err();
            assert!(error.contains("rows.jsonl: line 1: ") && error.contains(expected), "{error}");
        }
        // What says nothing, what is said elsewhere, and what is no part of it.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.jsonl");
        let lines = r#"{"prompt": "What is it?", "question": "What is it?", "system": "", "chosen": "a", "rejected": "b", "id": 7}
{"prompt": "x", "chosen": "a", "rejected": "b", "id": 8, "source": "s", "tools": []}"#;
        std::fs::write(&path, lines).unwrap();
        let paths = [path];
        let (_, skipped) = read_all::<PreferenceRow>(&paths, &ReadConfig::default()).unwrap();
        let remark = "fields that are not read: id, question, source, system (in up to 2 rows)";
        assert_eq!(skipped.unread_fields().as_deref(), Some(remark));
        let lines = r#"{"question": "Sky?", "prompt": "x", "chosen": "a", "rejected": "b"}"#;
        std::fs::write(&paths[0], lines).unwrap();
        let config = ReadConfig { ignore_fields: vec!["question".into()], ..ReadConfig::default() };
        assert_eq!(read_all::<PreferenceRow>(&paths, &config).unwrap().0.len(), 1);

        let calls =
            r#"{"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}"#;
        let line = format!(
            "{{\"tools\": \"[{{\\\"name\\\": \\\"f\\\"}}]\", \"documents\": null, \"chat_template_kwargs\": {{\"a\": 1}}, \
             \"messages\": [{user}, {calls}]}}"
        );
        let row = &rows_of::<CompletionRow>(&line).unwrap()[0];
        assert_eq!(row.extras.tools, Some(serde_json::json!([{"name": "f"}])));
        assert_eq!((row.extras.variables["a"].as_i64(), &row.extras.documents), (Some(1), &None));
        let Content::Chat(answer) = &row.completion else { panic!("a chat") };
        assert!(answer[0].content.is_empty() && answer[0].object.contains_key("tool_calls"));
        let parts = r#"[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]"#;
        let line = format!("{{\"messages\": [{user}, {{\"role\": \"assistant\", \"content\": {parts}}}]}}");
        let row = &rows_of::<CompletionRow>(&line).unwrap()[0];
        assert!(
            matches!(&row.completion, Content::Chat(m) if m[0].content == "ab" && m[0].object["content"].is_array())
        );
    }

    #[test]
    fn lines_and_archives_have_limits() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let error =
            |path: PathBuf, config: &ReadConfig| read_all::<PromptRow>(&[path], config).unwrap_err().to_string();
        let line =
            |length: usize| format!("{{\"prompt\": \"x\"}}\n{{\"prompt\": \"{}\"}}\n", "x".repeat(length)).into_bytes();
        let small = ReadConfig { max_line_bytes: 1000, ..ReadConfig::default() };
        let found = error(file("long.jsonl", &line(2000)), &small);
        assert!(
            found.contains("long.jsonl: line 2: is longer than 1000 bytes") && found.contains("--max-line-bytes"),
            "{found}"
        );
        assert_eq!(read_all::<PromptRow>(&[file("fits.jsonl", &line(900))], &small).unwrap().0.len(), 2);
        let zip = |bytes: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        let usual = ReadConfig::default();
        let bomb = zip(&b"\n".repeat(64 << 20));
        let found = error(file("bomb.jsonl.gz", &bomb), &usual);
        assert!(found.contains("bomb.jsonl.gz: line ") && found.contains("blank lines"), "{found}");
        let bomb = zip(&line(2000).repeat(16 << 10));
        let found = error(file("rows.jsonl.gz", &bomb), &usual);
        assert!(found.contains("rows.jsonl.gz: line ") && found.contains("200 times"), "{found}");
        let bomb = zip(&[b'x'; 64 << 20]);
        let found = error(file("line.jsonl.gz", &bomb), &usual);
        assert!(found.contains("line.jsonl.gz: line 1: is longer than 16777216 bytes"), "{found}");
        let raised = ReadConfig { max_ratio: 10_000, ..ReadConfig::default() };
        let small = zip(&line(2000).repeat(9 << 10));
        assert!(error(file("small.jsonl.gz", &small), &usual).contains("200 times"));
        assert_eq!(read_all::<PromptRow>(&[file("small.jsonl.gz", &small)], &raised).unwrap().0.len(), 18 << 10);
        #[cfg(unix)]
        if Path::new("/dev/zero").exists() {
            let found = error("/dev/zero".into(), &usual);
            assert!(found.contains("/dev/zero: line 1: is longer than"), "{found}");
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
}
