//! Rows of the formats that this program reads, from JSON objects.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::lm::chat::{Extras, Message, SPOKEN, is_void};

/// A text, or the messages of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Content {
    /// As it is.
    Text(String),
    /// To be rendered by a chat template.
    Chat(Vec<Message>),
}

/// Where a row comes from.
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
    /// Where it comes from.
    pub origin: Origin,
    /// The prompt that both sides answer.
    pub prompt: Content,
    /// What the chat template sees beside the messages.
    pub extras: Extras,
    /// The preferred completion; of the same kind as the prompt.
    pub chosen: Content,
    /// The other one.
    pub rejected: Content,
    /// `margin`: how much better the chosen completion is, in the unit of rewards.
    pub margin: Option<f64>,
    /// `target`, `label_probability` or `preference`: the probability that `chosen` is preferred, if it is not 1; a
    /// tie is ½.
    pub target: Option<f64>,
}

/// A demonstration: `{prompt, completion}`, or `{messages}` of which the last one, the assistant's, is the completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompletionRow {
    /// Where it comes from.
    pub origin: Origin,
    /// The prompt that is answered.
    pub prompt: Content,
    /// What the chat template sees beside the messages.
    pub extras: Extras,
    /// The answer; of the same kind as the prompt.
    pub completion: Content,
    /// `label`: whether the completion is desirable (KTO, Ethayarajh et al. 2024).
    pub label: Option<bool>,
}

/// Something to be completed: `{prompt}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptRow {
    /// Where it comes from.
    pub origin: Origin,
    /// The prompt.
    pub prompt: Content,
    /// What the chat template sees beside the messages.
    pub extras: Extras,
}

/// A row from which a question can be chosen: `{prompt, completions}`, where every two completions that differ are a
/// candidate, or a comparison as in [`PreferenceRow`], whose order means nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct CandidateRow {
    /// Where it comes from.
    pub origin: Origin,
    /// The row as it was read.
    pub object: Map<String, Value>,
    /// Its candidates, the first side of each called chosen.
    pub candidates: Vec<PreferenceRow>,
    /// For each candidate the places of its sides in `completions`; empty for a comparison.
    pub places: Vec<[usize; 2]>,
}

/// A text to learn from: `{text}`, or a text file or a line of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Where it comes from.
    pub origin: Origin,
    /// The text.
    pub text: String,
}

/// A kind of row.
pub trait RowKind: Sized {
    /// The shapes that a line may have, for messages.
    const SHAPE: &str;
    /// Whether a text file holds such rows.
    const FROM_TEXT: bool = false;
    /// The fields that are read, and those that are known to be no part of the row.
    const FIELDS: &[&str];

    /// The row of a JSON object. Fields that are not known are not looked at.
    ///
    /// # Errors
    /// For the first field that is missing or wrong.
    fn parse(object: &Map<String, Value>, origin: Origin) -> Result<Self, RowProblem>;
}

/// What is wrong with a row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowProblem {
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
    /// The fields contradict each other.
    #[error("{0}")]
    Fields(String),
}

/// Fields that a chat template sees in addition to the messages, as in TRL's rows.
const TOOLS: &str = "tools";
const DOCUMENTS: &str = "documents";
const VARIABLES: &str = "chat_template_kwargs";

/// The text before an answer in HH-RLHF.
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

impl RowKind for PreferenceRow {
    const SHAPE: &str = "rows {\"prompt\", \"chosen\", \"rejected\"} or {\"chosen\", \"rejected\"}";
    // In UltraFeedback's files, `messages` is the chosen conversation once more.
    const FIELDS: &[&str] = &[
        "prompt", "chosen", "rejected", "margin", "target", "label_probability", "preference", TOOLS, DOCUMENTS,
        VARIABLES, "messages",
    ];

    fn parse(object: &Map<String, Value>, origin: Origin) -> Result<Self, RowProblem> {
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
            // Where the prompt is a text, the conversations hold it, too, as in UltraFeedback.
            (prompt, Content::Chat(mut chosen), Content::Chat(mut rejected)) => {
                let at = common_prefix(&chosen, &rejected);
                let is_prompt = |message: &Message| match &prompt {
                    Some(Content::Text(prompt)) => *prompt == message.content,
                    _ => true,
                };
                if !chosen[..at].iter().any(is_prompt) {
                    let reason = "'chosen' and 'rejected' do not begin with the same prompt; expected messages that \
                                  do, or 'prompt' as a list of messages";
                    return Err(RowProblem::Fields(reason.into()));
                }
                let rest = chosen.split_off(at);
                (Content::Chat(chosen), Content::Chat(rest), Content::Chat(rejected.split_off(at)))
            }
            _ => {
                return Err(RowProblem::Fields(
                    "'chosen' and 'rejected' are a text and a list of messages; expected the same for both".into(),
                ));
            }
        };
        if chosen == rejected {
            return Err(RowProblem::Fields(
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
}

impl RowKind for CandidateRow {
    const SHAPE: &str = "rows {\"prompt\", \"completions\"} or {\"prompt\", \"chosen\", \"rejected\"}";
    const FIELDS: &[&str] = &[
        "prompt", COMPLETIONS, "chosen", "rejected", "margin", "target", "label_probability", "preference", TOOLS,
        DOCUMENTS, VARIABLES, "messages",
    ];

    fn parse(object: &Map<String, Value>, origin: Origin) -> Result<Self, RowProblem> {
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
}

impl RowKind for CompletionRow {
    const SHAPE: &str = "rows {\"prompt\", \"completion\"} or {\"messages\"}";
    const FIELDS: &[&str] = &["prompt", "completion", "messages", "label", TOOLS, DOCUMENTS, VARIABLES];

    fn parse(object: &Map<String, Value>, origin: Origin) -> Result<Self, RowProblem> {
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
}

impl RowKind for PromptRow {
    const SHAPE: &str = "rows {\"prompt\"}";
    // Rows of all other kinds have prompts, too, so their fields are known here.
    const FIELDS: &[&str] = &[
        "prompt", "completion", COMPLETIONS, "chosen", "rejected", "messages", "label", "margin", "target",
        "label_probability", "preference", TOOLS, DOCUMENTS, VARIABLES,
    ];

    fn parse(object: &Map<String, Value>, origin: Origin) -> Result<Self, RowProblem> {
        let prompt = content(object, "prompt", PROMPT)?;
        let extras = extras(object, &prompt)?;
        Ok(Self { origin, prompt, extras })
    }
}

impl RowKind for Document {
    const SHAPE: &str = "rows {\"text\"}";
    const FROM_TEXT: bool = true;
    const FIELDS: &[&str] = &["text"];

    fn parse(object: &Map<String, Value>, origin: Origin) -> Result<Self, RowProblem> {
        match object.get("text") {
            Some(Value::String(text)) if !text.is_empty() => Ok(Self { origin, text: text.clone() }),
            other => Err(field("text", other.map_or("is missing".into(), describe), "a text that is not empty")),
        }
    }
}

const COMPLETIONS: &str = "completions";

const PROMPT: &str = "a text or a list of messages {\"role\", \"content\"}";

const COMPLETION: &str = "a text or a list of messages {\"role\", \"content\"}, not empty";

const MESSAGES: &str = "a list of messages {\"role\", \"content\"}, not empty";

fn field(field: &'static str, found: String, expected: &'static str) -> RowProblem {
    RowProblem::Field { field, found, expected }
}

/// What kind of value this is, as the middle of a sentence.
pub(super) fn describe(value: &Value) -> String {
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

fn content(object: &Map<String, Value>, name: &'static str, expected: &'static str) -> Result<Content, RowProblem> {
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
fn extras(object: &Map<String, Value>, prompt: &Content) -> Result<Extras, RowProblem> {
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
            // These have fields of their own, and transformers takes it for an error if they are given twice.
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
        let reason = "'tools', 'documents' and 'chat_template_kwargs' are for chat templates, and the prompt is a \
                      text; expected a list of messages";
        return Err(RowProblem::Fields(reason.into()));
    }
    Ok(extras)
}

/// Whether a field is there. Tables that became JSONL have null where there was nothing.
fn is_given(object: &Map<String, Value>, name: &str) -> bool {
    object.get(name).is_some_and(|value| !value.is_null())
}

fn not_empty(name: &'static str, content: &Content) -> Result<(), RowProblem> {
    let empty = match content {
        Content::Text(text) => text.is_empty(),
        Content::Chat(messages) => messages.iter().all(Message::is_empty),
    };
    match empty {
        true => Err(field(name, "has no completion".into(), "some text after the prompt")),
        false => Ok(()),
    }
}

/// A completion of a chat. A text becomes the assistant's message.
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
) -> Result<Option<f64>, RowProblem> {
    match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64().filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(field(name, describe(value), expected)),
        },
    }
}

/// The soft label, under one of its names.
fn target(object: &Map<String, Value>) -> Result<Option<f64>, RowProblem> {
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
        (_, Some(_)) => Err(RowProblem::Fields(
            "has more than one of 'target', 'label_probability' and 'preference'; expected one of them".into(),
        )),
        (target, None) => Ok(target),
    }
}

/// Byte at which two texts with the same prompt stop sharing it.
///
/// In HH-RLHF that is after the last "\n\nAssistant:" that they share, as in the DPO reference. Otherwise it is at the
/// last boundary of words that they share, and a space before the completion belongs to the completion. (TRL's
/// `extract_prompt` does the same, but also cuts within words that begin alike.)
pub(super) fn shared_prompt(chosen: &str, rejected: &str) -> usize {
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
pub(super) fn common_prefix<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
