//! Chat templates turn messages into the text that a model was trained on, as transformers' `apply_chat_template` does.
//! What a template may cost is bounded: fuel, depth, memory and time.

mod jinja;
mod python;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::Value;
use minijinja::{Environment, ErrorKind};
use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

pub use self::jinja::TemplateError;
use self::python::wrong;
use super::tokenizer::{SpecialTokens, Tokenizer};
use crate::disk::DiskError;
use crate::disk::calendar::civil;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, or another role that the template knows.
    pub role: String,
    /// What was said: the text, or the texts of all parts.
    pub content: String,
    /// The message as it was read, where it has more than a role and a text; empty otherwise. Templates see this.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub object: Map<String, Json>,
}

/// What a template sees beside the messages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extras {
    /// Functions that the model may call, as JSON schemas.
    pub tools: Option<Json>,
    /// Documents to answer from.
    pub documents: Option<Json>,
    /// `chat_template_kwargs`: variables of the template, by name.
    pub variables: Map<String, Json>,
}

/// A template, compiled.
#[derive(Debug)]
pub struct ChatTemplate {
    main: Compiled,
    /// The tokenizer's template for conversations with tools, where it has one and no template was asked for by name.
    with_tools: Option<Compiled>,
    special: SpecialTokens,
}

#[derive(Debug)]
struct Compiled {
    environment: Arc<Environment<'static>>,
    source: String,
}

/// A template that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The template is wrong, or refuses these messages.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The tokenizer has no template.
    #[error(
        "the rows are chats, but the tokenizer has no chat template: choose one by name ({BUILT_IN}), or give a .jinja \
         file; a model of ours that has seen no chats yet is best trained with \"hh\""
    )]
    Missing,
    /// The choice is neither a name nor a file.
    #[error("no chat template {choice:?}: expected {known}, or a .jinja file")]
    Unknown {
        /// What was asked for.
        choice: String,
        /// The names that are known.
        known: String,
    },
    /// The file cannot be read.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A template in a file is wrong.
    #[error("{}: {source}", path.display())]
    File {
        /// File.
        path: PathBuf,
        /// What is wrong.
        source: Box<ChatError>,
    },
}

/// A text that is no date.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a date such as 2024-07-26")]
pub struct NoDate(String);

/// The format of HH-RLHF (Bai et al. 2022). It needs no tokens of its own, so it is the default for models that
/// Pairwise made. EOS follows only the assistant's last turn, as in training on single completions.
pub const HH: &str = "\
{%- for message in messages -%}
{%- if message.role == 'user' -%}
{{- '\\n\\nHuman: ' + message.content -}}
{%- elif message.role == 'assistant' -%}
{{- '\\n\\nAssistant: ' + message.content + (eos_token if loop.last and eos_token is defined else '') -}}
{%- elif message.role == 'system' and loop.first -%}
{{- message.content -}}
{%- else -%}
{{- raise_exception('the roles are user and assistant, and system at the start; found ' + message.role) -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '\\n\\nAssistant:' -}}{%- endif -%}
";

/// ChatML, documented by OpenAI and used by Qwen and others. The tokenizer should have `<|im_start|>` and `<|im_end|>`.
pub const CHATML: &str = "\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
";

/// Names of the built-in templates.
const BUILT_IN: &str = "\"hh\", \"chatml\"";

/// The name of the only template of an environment. It has no ending such as `.html`, so nothing is escaped.
const NAME: &str = "chat";

impl Message {
    /// A turn.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), object: Map::new() }
    }

    /// Whether nothing was said, and the message has nothing else, such as a call of a tool.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.content.is_empty() && !SPOKEN.iter().any(|key| self.object.get(*key).is_some_and(|value| !is_void(value)))
    }
}

/// Keys of a message that hold what was said, beside its content. A template that does not know such a key would drop
/// what it holds.
pub const SPOKEN: [&str; 9] = [
    "tool_calls", "function_call", "reasoning_content", "reasoning", "thinking", "images", "image", "audio",
    "documents",
];

/// The names that transformers gives to a message's reasoning. A template reads one of them.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Whether a value says nothing.
#[must_use]
pub fn is_void(value: &Json) -> bool {
    match value {
        Json::Null => true,
        Json::String(text) => text.is_empty(),
        Json::Array(list) => list.is_empty(),
        Json::Object(object) => object.is_empty(),
        Json::Bool(_) | Json::Number(_) => false,
    }
}

impl ChatTemplate {
    /// Compiles a template. `now`, seconds since 1970, is the time that `strftime_now` tells, in UTC. Without it, that
    /// is the time of the call.
    ///
    /// # Errors
    /// [`ChatError::Template`] with the line.
    pub fn new(source: &str, special: &SpecialTokens, now: Option<i64>) -> Result<Self, ChatError> {
        let main = Compiled::new(source, now)?;
        Ok(Self { main, with_tools: None, special: special.clone() })
    }

    /// The template that was chosen: a built-in one (`hh`, `chatml`), one of the tokenizer's by its name, or a `.jinja`
    /// file. `None` is the tokenizer's default template.
    ///
    /// # Errors
    /// When there is no such template (the error lists the names that there are), or it does not compile.
    pub fn choose(tokenizer: &Tokenizer, choice: Option<&str>, now: Option<i64>) -> Result<Self, ChatError> {
        let special = tokenizer.special();
        match choice {
            None => {
                let default = tokenizer.chat_template(None).ok_or(ChatError::Missing)?;
                let mut chosen = Self::new(default, special, now)?;
                let with_tools = tokenizer.chat_template(Some("tool_use"));
                chosen.with_tools = with_tools.map(|source| Compiled::new(source, now)).transpose()?;
                Ok(chosen)
            }
            Some("hh") => Self::new(HH, special, now),
            Some("chatml") => Self::new(CHATML, special, now),
            Some(choice) => match tokenizer.chat_template(Some(choice)) {
                Some(template) => Self::new(template, special, now),
                None if Path::new(choice).extension().is_some_and(|e| e == "jinja") => {
                    let path = PathBuf::from(choice);
                    let source = read_source(&path)?;
                    Self::new(&source, special, now)
                        .map_err(|source| ChatError::File { path, source: Box::new(source) })
                }
                None => {
                    let own = tokenizer.chat_template_names().map(|name| format!(", {name:?}"));
                    let known = BUILT_IN.to_owned() + &own.collect::<String>();
                    Err(ChatError::Unknown { choice: choice.to_owned(), known })
                }
            },
        }
    }

    /// The template that was chosen, or else the tokenizer's default template; `None` where it has none.
    ///
    /// # Errors
    /// As [`ChatTemplate::choose`].
    pub fn wanted(tokenizer: &Tokenizer, choice: Option<&str>, now: Option<i64>) -> Result<Option<Self>, ChatError> {
        match (choice, tokenizer.chat_template(None)) {
            (None, None) => Ok(None),
            _ => Ok(Some(Self::choose(tokenizer, choice, now)?)),
        }
    }

    /// Whether the text that it writes may depend on the day.
    #[must_use]
    pub fn asks_for_the_date(&self) -> bool {
        [Some(&self.main), self.with_tools.as_ref()]
            .into_iter()
            .flatten()
            .any(|one| one.source.contains("strftime_now"))
    }

    /// The text of a conversation; with `add_generation_prompt`, up to where the assistant begins to speak. It holds
    /// all special tokens already: encode it without adding any.
    ///
    /// # Errors
    /// [`ChatError::Template`] with the line. The template may refuse the messages itself, or it would drop something
    /// that was said, or it costs too much.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, ChatError> {
        self.render_with(messages, &Extras::default(), add_generation_prompt)
    }

    /// The text of a conversation that has more than messages.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn render_with(
        &self,
        messages: &[Message],
        extras: &Extras,
        add_generation_prompt: bool,
    ) -> Result<String, ChatError> {
        let tools = extras.tools.as_ref().is_some_and(|tools| !is_void(tools));
        let one = self.with_tools.as_ref().filter(|_| tools).unwrap_or(&self.main);
        one.knows_all(messages, extras)?;
        let (text, lists) = self.rendered(one, messages, extras, add_generation_prompt)?;
        match lists.iter().any(|list| text.contains(list.as_str())) {
            true => Err(refused(
                "the template writes a message's list of parts as Python would print it: it knows texts only; expected \
                 contents that are texts",
            )),
            false => Ok(text),
        }
    }

    /// The text that one of the templates makes of it, and the messages' lists of parts as Python prints them.
    fn rendered(
        &self,
        one: &Compiled,
        messages: &[Message],
        extras: &Extras,
        add_generation_prompt: bool,
    ) -> Result<(String, Vec<String>), ChatError> {
        let tools = extras.tools.as_ref().filter(|tools| !is_void(tools));
        let mut bytes = 0;
        let mut handover = Handover { bytes: &mut bytes, exact: one.source.contains('~') };
        let mut variables: Vec<(String, Value)> = Vec::new();
        let SpecialTokens { bos, eos, pad, unk, others } = &self.special;
        for (name, token) in [("bos_token", bos), ("eos_token", eos), ("pad_token", pad), ("unk_token", unk)] {
            if let Some(token) = token {
                variables.push((name.to_owned(), Value::from(token.text.as_str())));
            }
        }
        for (name, token) in others {
            variables.push((name.clone(), Value::from(token.as_str())));
        }
        for (name, value) in &extras.variables {
            variables.push((name.clone(), handover.value(value, 0)?));
        }
        let turns = messages.iter().map(|message| handover.message(message)).collect::<Result<Vec<Value>, _>>()?;
        // Lists of parts as a template would write them that takes them for texts.
        let lists: Vec<String> = messages
            .iter()
            .zip(&turns)
            .filter(|(message, _)| message.object.get("content").is_some_and(Json::is_array))
            .filter_map(|(_, turn)| python::str_of(&turn.get_attr("content").ok()?).ok())
            .collect();
        let none = Value::from(());
        let given = |value: Option<&Json>, handover: &mut Handover<'_>| value.map(|v| handover.value(v, 0)).transpose();
        variables.push(("tools".into(), given(tools, &mut handover)?.unwrap_or_else(|| none.clone())));
        let documents = extras.documents.as_ref().filter(|documents| !is_void(documents));
        variables.push(("documents".into(), given(documents, &mut handover)?.unwrap_or(none)));
        variables.push(("messages".into(), Value::from(turns)));
        variables.push(("add_generation_prompt".into(), Value::from(add_generation_prompt)));
        let mut environment = Environment::clone(&one.environment);
        environment.set_fuel(Some(jinja::fuel(bytes)));
        let context = Value::from_pairs(variables);
        let work = move || environment.get_template(NAME).and_then(|template| template.render(context));
        let text = jinja::on_a_deep_stack(work)?.map_err(|error| template_error(&error))?;
        Ok((text, lists))
    }
}

impl Compiled {
    fn new(source: &str, now: Option<i64>) -> Result<Self, ChatError> {
        let prepared = jinja::prepare(source)?;
        let compile = move || {
            let mut environment = jinja::environment()?;
            environment.add_function("strftime_now", move |format: &str| strftime(now.unwrap_or_else(today), format));
            environment.add_template_owned(NAME, prepared)?;
            Ok::<_, minijinja::Error>(environment)
        };
        let environment = jinja::on_a_deep_stack(compile)?.map_err(|error| template_error(&error))?;
        Ok(Self { environment: Arc::new(environment), source: source.to_owned() })
    }

    /// Checks that the template reads all that the messages have, and what is given beside them. transformers does not
    /// notice when a template drops something.
    fn knows_all(&self, messages: &[Message], extras: &Extras) -> Result<(), ChatError> {
        static WHOLE: LazyLock<Regex> = LazyLock::new(|| {
            Regex::new(r"\b(messages?|msg|m)\b(\[[^\]]*\])?\s*(\|\s*(tojson|items|string)\b|\.\s*items\b)|\{\{-?\s*(messages|message|msg|m)\s*-?\}\}")
                .expect("a constant, valid pattern")
        });
        let knows = |name: &str| {
            let is_part = |c: char| c.is_alphanumeric() || c == '_';
            self.source.match_indices(name).any(|(at, _)| {
                !self.source[..at].ends_with(is_part) && !self.source[at + name.len()..].starts_with(is_part)
            })
        };
        for (i, message) in messages.iter().enumerate().filter(|(_, message)| !message.object.is_empty()) {
            for key in SPOKEN.into_iter().filter(|key| message.object.get(*key).is_some_and(|value| !is_void(value))) {
                let known = if REASONING.contains(&key) { REASONING.into_iter().any(knows) } else { knows(key) };
                if !known && !WHOLE.is_match(&self.source) {
                    return Err(refused(&format!("message {} has '{key}', which the template does not read", i + 1)));
                }
            }
        }
        let beside = [("tools", &extras.tools), ("documents", &extras.documents)];
        for (name, value) in beside {
            if value.as_ref().is_some_and(|value| !is_void(value)) && !knows(name) {
                return Err(refused(&format!("the row has '{name}', which the template does not read")));
            }
        }
        match extras.variables.keys().find(|name| !knows(name)) {
            Some(name) => Err(refused(&format!("chat_template_kwargs has '{name}', which the template does not read"))),
            None => Ok(()),
        }
    }
}

/// Turns values into those of a template, and counts their bytes.
struct Handover<'a> {
    /// Bytes so far.
    bytes: &'a mut usize,
    /// Whether the template joins texts with `~`, which writes very small and very large numbers unlike Python.
    exact: bool,
}

impl Handover<'_> {
    /// A message as transformers hands it over: without nulls, and with reasoning under all names that templates read.
    fn message(&mut self, message: &Message) -> Result<Value, ChatError> {
        if message.object.is_empty() {
            *self.bytes += message.role.len() + message.content.len() + 32;
            let pairs = [("role", message.role.as_str()), ("content", message.content.as_str())];
            return Ok(Value::from_pairs(pairs));
        }
        let mut pairs: Vec<(String, Value)> = Vec::new();
        let reasoning = REASONING.iter().find_map(|name| message.object.get(*name).filter(|value| !value.is_null()));
        if let Some(reasoning) = reasoning {
            let own = message.object.get("thinking").filter(|value| !value.is_null()).unwrap_or(reasoning);
            pairs.push(("thinking".into(), self.value(own, 0)?));
        }
        for (key, value) in message.object.iter().filter(|(_, value)| !value.is_null()) {
            match (key.as_str(), reasoning) {
                ("thinking", Some(_)) => {}
                ("reasoning_content", Some(reasoning)) => pairs.push((key.clone(), self.value(reasoning, 0)?)),
                _ => pairs.push((key.clone(), self.value(value, 0)?)),
            }
        }
        if let (Some(reasoning), false) = (reasoning, pairs.iter().any(|(key, _)| key == "reasoning_content")) {
            pairs.push(("reasoning_content".into(), self.value(reasoning, 0)?));
        }
        Ok(Value::from_pairs(pairs))
    }

    fn value(&mut self, json: &Json, depth: usize) -> Result<Value, ChatError> {
        *self.bytes += 8;
        if depth > python::MAX_DEPTH {
            return Err(refused(&format!("values are nested more than {} deep", python::MAX_DEPTH)));
        }
        Ok(match json {
            Json::Null => Value::from(()),
            Json::Bool(flag) => Value::from(*flag),
            Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
                (Some(whole), ..) => Value::from(whole),
                (_, Some(whole), _) => Value::from(whole),
                (.., Some(float)) => {
                    let plain = float == 0.0 || (1e-4..1e16).contains(&float.abs());
                    if self.exact && !plain {
                        let float = python::float_repr(float);
                        return Err(refused(&format!(
                            "the number {float} in a template that joins texts with ~ is not supported"
                        )));
                    }
                    Value::from(float)
                }
                _ => return Err(refused(&format!("the number {number} is too large"))),
            },
            Json::String(text) => {
                *self.bytes += text.len();
                Value::from(text.as_str())
            }
            Json::Array(list) => {
                Value::from(list.iter().map(|item| self.value(item, depth + 1)).collect::<Result<Vec<_>, _>>()?)
            }
            Json::Object(object) => {
                let mut pairs = Vec::with_capacity(object.len());
                for (key, value) in object {
                    *self.bytes += key.len();
                    pairs.push((key.as_str(), self.value(value, depth + 1)?));
                }
                Value::from_pairs(pairs)
            }
        })
    }
}

fn refused(reason: &str) -> ChatError {
    TemplateError { line: None, reason: reason.to_owned() }.into()
}

/// Reads a template's file, if it is a regular file, and no longer than a template may be.
fn read_source(path: &Path) -> Result<String, ChatError> {
    let io = || DiskError::io(path, "read the chat template");
    let found = std::fs::metadata(path).map_err(io())?;
    if !found.is_file() {
        return Err(io()(std::io::Error::other("not a regular file")).into());
    }
    if found.len() > jinja::MAX_SOURCE as u64 {
        let reason = format!("has {} bytes; a template has at most {}", found.len(), jinja::MAX_SOURCE);
        return Err(io()(std::io::Error::other(reason)).into());
    }
    Ok(std::fs::read_to_string(path).map_err(io())?)
}

fn template_error(error: &minijinja::Error) -> ChatError {
    let reason = match error.kind() {
        ErrorKind::OutOfFuel => "costs too much: it takes too many steps, or makes too long texts".to_owned(),
        _ => error.detail().map_or_else(|| error.to_string(), str::to_owned),
    };
    TemplateError { line: error.line(), reason }.into()
}

/// Seconds since 1970.
fn today() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

/// Today, in UTC, as [`date`] reads it.
#[must_use]
pub fn date_of_today() -> String {
    let (year, month, day) = civil(today().div_euclid(DAY));
    format!("{year:04}-{month:02}-{day:02}")
}

/// The beginning of a day, such as `2024-07-26`, in UTC: seconds since 1970.
///
/// # Errors
/// [`NoDate`].
pub fn date(text: &str) -> Result<i64, NoDate> {
    let wrong = || NoDate(text.to_owned());
    let parts: Vec<&str> = text.split('-').collect();
    let &[year, month, day] = &parts[..] else { return Err(wrong()) };
    let fits = |part: &str, digits: usize| part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit());
    if !fits(year, 4) || !fits(month, 2) || !fits(day, 2) {
        return Err(wrong());
    }
    let number = |part: &str| part.parse::<i64>().map_err(|_| wrong());
    let wanted = (number(year)?, number(month)?, number(day)?);
    // Less than two days off, whatever the month.
    let about = (wanted.0 - 1970) * 365 + (wanted.0 - 1969).div_euclid(4) + (wanted.1 - 1) * 30 + wanted.2 - 1;
    (about - 40..about + 40).find(|&day| civil(day) == wanted).map(|day| day * DAY).ok_or_else(wrong)
}

/// Seconds of a day.
const DAY: i64 = 86_400;

const MONTHS: [&str; 12] = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
];

/// The days of the week, beginning with that of 1970-01-01.
const WEEKDAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// Python's `strftime` in the C locale, for the directives that templates use.
fn strftime(seconds: i64, format: &str) -> Result<String, minijinja::Error> {
    /// Longest format, bytes.
    const LONGEST: usize = 1_000;
    if format.len() > LONGEST {
        return Err(wrong(format!("strftime_now: a format of {} bytes; at most {LONGEST}", format.len())));
    }
    let (days, time) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
    let (year, month, day) = civil(days);
    let weekday = days.rem_euclid(7) as usize;
    let month_name = MONTHS[(month - 1) as usize];
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    let of_year = 1 + (0..366).take_while(|&back| civil(days - back).0 == year).count() as i64 - 1;
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        let padded = directive != Some('-');
        if !padded {
            directive = chars.next();
        }
        let mut number = |value: i64, width: usize| {
            let _ = if padded { write!(out, "{value:0width$}") } else { write!(out, "{value}") };
        };
        match directive {
            Some('d') => number(day, 2),
            Some('m') => number(month, 2),
            Some('y') => number(year.rem_euclid(100), 2),
            Some('H') => number(hour, 2),
            Some('I') => number((hour + 11) % 12 + 1, 2),
            Some('M') => number(minute, 2),
            Some('S') => number(second, 2),
            Some('j') => number(of_year, 3),
            Some('Y') => out.push_str(&year.to_string()),
            Some('B') => out.push_str(month_name),
            Some('b' | 'h') => out.push_str(&month_name[..3]),
            Some('A') => out.push_str(WEEKDAYS[weekday]),
            Some('a') => out.push_str(&WEEKDAYS[weekday][..3]),
            Some('e') if padded => _ = write!(out, "{day:2}"),
            Some('F') => _ = write!(out, "{year}-{month:02}-{day:02}"),
            Some('D' | 'x') => _ = write!(out, "{month:02}/{day:02}/{:02}", year.rem_euclid(100)),
            Some('T' | 'X') => _ = write!(out, "{hour:02}:{minute:02}:{second:02}"),
            Some('R') => _ = write!(out, "{hour:02}:{minute:02}"),
            // 1970-01-01 was a Thursday, of number 4.
            Some('w') => _ = write!(out, "{}", (weekday + 4) % 7),
            Some('u') => _ = write!(out, "{}", (weekday + 3) % 7 + 1),
            Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            Some('%') => out.push('%'),
            other => {
                let other = other.map(String::from).unwrap_or_default();
                return Err(wrong(format!(
                    "strftime_now does not know %{other} (it knows d m y Y H I M S j B b A a e F D T R x X w u p)"
                )));
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use serde_json::{Value as Json, json};

    use super::{CHATML as OUR_CHATML, ChatTemplate, Extras, HH, Message, civil, date, date_of_today};
    use crate::lm::tokenizer::{SpecialToken, SpecialTokens, Tokenizer, TokenizerConfig};

    // In the formats that Meta, Qwen and Mistral document.

    const LLAMA3: &str = r#"{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"#;

    const CHATML: &str = r#"{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"#;

    const MISTRAL: &str = r#"{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] + '\n\n' %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set system = '' %}
    {%- set turns = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in turns %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- '[INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}
    {%- else %}
        {{- ' ' + message['content'].strip() + eos_token }}
    {%- endif %}
{%- endfor %}
"#;

    const FEATURES: &str = r#"{%- set ns = namespace(users=0, found=false) -%}
{%- set date = strftime_now('%d %b %Y, %A %-d.%m.%y %H:%M:%S %I %p %%') if strftime_now is defined else 'none' -%}
  Date: {{ date }}
{% for message in messages %}
    {% if message.role == 'system' %}{% continue %}{% endif %}
    {%- if message.role == 'user' %}{% set ns.users = ns.users + 1 %}{% endif %}
    {% generation %}
{{ message.role | upper }}: {{ message | tojson }}
    {% endgeneration %}
    {% if loop.index > 2 %}{% break %}{% endif %}
{% endfor %}
{{ messages | tojson(indent=2) }}
{{ ns.users }} {{ messages[-1].content.split(' ')[0].upper() }} {{ messages[-1]['content'].startswith('I') }} {{ pad_token }}
{%- for key, value in messages[0].items() %} {{ key }}={{ value }}{% endfor %}
{{ [1, 2.5, true, none] | tojson }} {{ {'a': {}, 'b': []} | tojson }}

"#;

    fn one() -> Vec<Message> {
        vec![Message::new("user", "Hi  ")]
    }

    fn answered() -> Vec<Message> {
        vec![Message::new("user", "Hi"), Message::new("assistant", "Hello!")]
    }

    fn system() -> Vec<Message> {
        vec![
            Message::new("system", "Be brief."),
            Message::new("user", " <b>2 & 2</b> 'é' \"q\"\n"),
            Message::new("assistant", " It is 4. "),
            Message::new("user", "I see ☃\ttab"),
        ]
    }

    fn special() -> SpecialTokens {
        let token = |id, text: &str| Some(SpecialToken { id, text: text.into() });
        SpecialTokens { bos: token(0, "<s>"), eos: token(1, "</s>"), ..SpecialTokens::default() }
    }

    /// 2024-07-06 15:04:09 UTC.
    const NOW: Option<i64> = Some(1_720_278_249);

    /// Rendered by transformers 5.23.0 with the same date.
    #[test]
    fn templates_render_as_in_transformers() {
        for (template, messages, add_generation_prompt, expected) in [
            (
                LLAMA3,
                system(),
                true,
                "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n<b>2 & 2</b> 'é' \"q\"<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nIt is 4.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nI see ☃\ttab<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
            ),
            (
                LLAMA3,
                answered(),
                false,
                "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHello!<|eot_id|>",
            ),
            (
                CHATML,
                one(),
                true,
                "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nHi  <|im_end|>\n<|im_start|>assistant\n",
            ),
            (
                CHATML,
                system(),
                false,
                "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n <b>2 & 2</b> 'é' \"q\"\n<|im_end|>\n<|im_start|>assistant\n It is 4. <|im_end|>\n<|im_start|>user\nI see ☃\ttab<|im_end|>\n",
            ),
            (
                MISTRAL,
                system(),
                false,
                "<s>[INST] Be brief.\n\n <b>2 & 2</b> 'é' \"q\"\n [/INST] It is 4.</s>[INST] I see ☃\ttab [/INST]",
            ),
            (MISTRAL, answered(), false, "<s>[INST] Hi [/INST] Hello!</s>"),
            (
                FEATURES,
                one(),
                true,
                "Date: 06 Jul 2024, Saturday 6.07.24 15:04:09 03 PM %\nUSER: {\"role\": \"user\", \"content\": \"Hi  \"}\n[\n  {\n    \"role\": \"user\",\n    \"content\": \"Hi  \"\n  }\n]\n1 HI False  role=user content=Hi  [1, 2.5, true, null] {\"a\": {}, \"b\": []}\n",
            ),
            (
                FEATURES,
                system(),
                false,
                "Date: 06 Jul 2024, Saturday 6.07.24 15:04:09 03 PM %\nUSER: {\"role\": \"user\", \"content\": \" <b>2 & 2</b> 'é' \\\"q\\\"\\n\"}\nASSISTANT: {\"role\": \"assistant\", \"content\": \" It is 4. \"}\n[\n  {\n    \"role\": \"system\",\n    \"content\": \"Be brief.\"\n  },\n  {\n    \"role\": \"user\",\n    \"content\": \" <b>2 & 2</b> 'é' \\\"q\\\"\\n\"\n  },\n  {\n    \"role\": \"assistant\",\n    \"content\": \" It is 4. \"\n  },\n  {\n    \"role\": \"user\",\n    \"content\": \"I see ☃\\ttab\"\n  }\n]\n1 I True  role=system content=Be brief.[1, 2.5, true, null] {\"a\": {}, \"b\": []}\n",
            ),
        ] {
            let template = ChatTemplate::new(template, &special(), NOW).unwrap();
            assert_eq!(template.render(&messages, add_generation_prompt).unwrap(), expected);
        }
    }

    /// The format of HH-RLHF's files; an answer ends with EOS, turns before it do not.
    #[test]
    fn the_default_template_is_that_of_hh() {
        let template = ChatTemplate::new(HH, &special(), None).unwrap();
        let [system, user, assistant, last] = <[Message; 4]>::try_from(system()).unwrap();
        let prompt = template.render(&[user.clone(), assistant.clone(), last.clone()], true).unwrap();
        assert_eq!(
            prompt,
            "\n\nHuman:  <b>2 & 2</b> 'é' \"q\"\n\n\nAssistant:  It is 4. \n\nHuman: I see ☃\ttab\n\nAssistant:"
        );
        assert_eq!(
            template.render(&answered(), false).unwrap(),
            template.render(&answered()[..1], true).unwrap() + " Hello!</s>"
        );
        assert!(template.render(&[system, user], true).unwrap().starts_with("Be brief.\n\nHuman:"));
        let chatml = ChatTemplate::new(OUR_CHATML, &special(), None).unwrap();
        assert_eq!(chatml.render(&one(), true).unwrap(), "<|im_start|>user\nHi  <|im_end|>\n<|im_start|>assistant\n");
    }

    #[test]
    fn errors_name_the_line() {
        let new = |source: &str| ChatTemplate::new(source, &special(), None);
        let error = new("a\n\n{% if %}").unwrap_err().to_string();
        assert!(error.starts_with("chat template, line 3: "), "{error}");
        let error = new(MISTRAL).unwrap().render(&[one(), one()].concat(), false).unwrap_err().to_string();
        assert_eq!(error, "chat template, line 11: roles must alternate user/assistant/user/assistant/...");
        let error = ChatTemplate::new("{{ strftime_now('%Q') }}", &special(), NOW).unwrap().render(&one(), false);
        assert!(error.unwrap_err().to_string().contains("does not know %Q"));
    }

    #[test]
    fn a_template_is_chosen_by_name_or_file() {
        let config = TokenizerConfig { vocab_size: 257, ..TokenizerConfig::default() };
        let mut tokenizer = Tokenizer::train(std::iter::empty(), &config).unwrap();
        let error = ChatTemplate::choose(&tokenizer, None, None).unwrap_err().to_string();
        assert!(error.contains("\"hh\"") && error.contains(".jinja"), "{error}");
        let error = ChatTemplate::choose(&tokenizer, Some("hhh"), None).unwrap_err().to_string();
        assert!(error.contains("\"hh\", \"chatml\""), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("own.jinja");
        std::fs::write(&path, "own").unwrap();
        tokenizer.set_chat_template("default".into());
        let file = path.to_str().unwrap();
        for (choice, expected) in [(None, "default"), (Some("hh"), "\n\nHuman: Hi  "), (Some(file), "own")] {
            let template = ChatTemplate::choose(&tokenizer, choice, None).unwrap();
            assert_eq!(template.render(&one(), false).unwrap(), expected);
        }
    }

    /// What transformers and jinja2 render of small templates: tests/data/chat/make.py writes it.
    #[test]
    fn every_construct_renders_as_in_jinja() {
        /// What is refused, though Jinja renders it; each for what stands in its template.
        const REFUSED: [(&str, &str); 24] = [
            ("\\U0001f600", "the escape \\U"),
            ("' % ", "% operator"),
            ("{!r}", "format spec"),
            ("+number", "unexpected `+`"),
            ("| safe) is", "'| safe' within"),
            ("| safe) | tojson", "'| safe' within"),
            ("{% set x = '<' | safe", "'| safe' within"),
            ("| safe + '<'", "'| safe' within"),
            ("('<' | e)", "'| e' within"),
            ("| pprint", "pprint"),
            ("| urlencode", "urlencode"),
            ("| xmlattr", "xmlattr"),
            ("| striptags", "striptags"),
            ("| filesizeformat", "filesizeformat"),
            ("| wordwrap", "wordwrap"),
            ("| random", "random"),
            (".encode()", "encode"),
            ("'ß'.casefold()", "casefold"),
            ("varargs", "too many arguments"),
            ("{% block", "block"),
            ("{% autoescape", "autoescape"),
            ("lipsum", "lipsum"),
            (".properties.items %}", "'.items' without a call"),
            ("1e-05 ~", "exponent beside ~"),
        ];
        /// What is rendered, though Jinja stops: comparisons of values that Python does not compare, a search for a
        /// number in a text, and a method that is not called.
        const LENIENT: [&str; 5] =
            ["{{ 'a' < 1 }}", "{{ none < 1 }}", "{{ 1 in 'abc' }}", "{{ undefined_name < 1 }}", "{{ 'abc'.upper }}"];
        let all = crate::fixtures::json(crate::fixtures::own("chat/cases.json"));
        let messages: Vec<Message> = all["messages"].as_array().unwrap().iter().map(read).collect();
        let mut special = special();
        special.others = Vec::new();
        let (mut differ, mut cases, mut refused) = (Vec::new(), 0, 0);
        for case in all["cases"].as_array().unwrap() {
            let template = case["template"].as_str().unwrap();
            let extras = Extras {
                tools: Some(all["tools"].clone()),
                documents: None,
                variables: all["kwargs"].as_object().unwrap().clone(),
            };
            let got = ChatTemplate::new(template, &special, None)
                .and_then(|one| Ok(one.rendered(&one.main, &messages, &extras, true)?.0));
            cases += 1;
            match (case["expected"].as_str(), got) {
                (Some(expected), Ok(got)) if got == expected => {}
                (Some(expected), Err(error)) => {
                    let reason = error.to_string();
                    let known = |(part, why): &(&str, &str)| template.contains(part) && reason.contains(why);
                    refused += 1;
                    if !REFUSED.iter().any(known) {
                        differ.push(format!("{template}\n  expected {expected:?}\n  refused: {reason}"));
                    }
                }
                (None, Err(_)) => {}
                (None, Ok(_)) if LENIENT.contains(&template) => {}
                (expected, got) => differ.push(format!("{template}\n  expected {expected:?}\n  got {got:?}")),
            }
        }
        assert!(cases > 300 && refused < 32, "{cases} cases, {refused} refused");
        assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ.join("\n"));
    }

    fn read(json: &Json) -> Message {
        let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
        let plain = json.as_object().unwrap().len() == 2 && json["content"].is_string();
        let object = if plain { serde_json::Map::new() } else { json.as_object().unwrap().clone() };
        Message { role: text("role"), content: text("content"), object }
    }

    /// Each ends within two seconds, with a reason.
    #[test]
    fn no_template_runs_away() {
        let doubled = |made: &str, used: &str| {
            format!(
                "{{% set ns = namespace(x=[1]) %}}{{% for i in range(60) %}}{{% set ns.x = {made} %}}{{% endfor %}}{{{{ {used} }}}}"
            )
        };
        let nested = "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}";
        for (template, reason) in [
            ("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}".to_owned(), "costs too much"),
            ("{% set ns = namespace(s='aaaaaaaaaa') %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}".to_owned(), "costs too much"),
            (format!("{{{{ {}1 }}}}", "-".repeat(100_000)), "words and signs"),
            (format!("{{{{ {}1 }}}}", "not ".repeat(50_000)), "words and signs"),
            (format!("{{{{ 1{} }}}}", "+1".repeat(50_000)), "words and signs"),
            (format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}".repeat(20_000)), "elif"),
            ("{% if a %}".repeat(20_000), "recursion"),
            ("{{ [1]|tojson(indent=10000000000) }}".into(), "at most 100000"),
            ("{{ 'x' * 1000000000 }}".into(), "costs too much"),
            ("{{ 'x'.ljust(1000000000) }}".into(), "at most 100000"),
            ("{{ '{:1000000000}'.format(1) }}".into(), "at most 100000"),
            ("{{ '%1000000000d'|format(1) }}".into(), "at most 100000"),
            ("{{ range(1000000000)|list }}".into(), "at most 100000"),
            ("{% set s = '\n' * 100000 %}{{ s|indent(100000) }}".into(), "at most"),
            ("{% set s = 'a' * 100000 %}{{ s.join(s) }}".into(), "bytes"),
            ("{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}".into(), "recursion"),
            (format!("{nested}{{{{ ns.x }}}}"), "nested"),
            (format!("{nested}{{{{ ns.x == 1 }}}}"), "nested"),
            (doubled("[ns.x, ns.x]", "ns.x ~ ''"), "values"),
            (doubled("ns.x, ns.x", "ns.x ~ ''"), "values"),
            (doubled("{'a': ns.x, 'b': ns.x}", "ns.x == ns.x"), "values"),
            (doubled("[{}, {}]|map(attribute='k', default=ns.x)|list", "ns.x|upper"), "values"),
            (doubled("dict(a=ns.x, b=ns.x)", "ns.x|tojson"), "values"),
            ("{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns.x ~ '' }}".into(), "namespace"),
            ("{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{% set x = s == s ~ '' %}{% endfor %}".into(), ""),
            ("{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{% set x = s[999999] %}{% endfor %}".into(), "takes longer"),
            ("x".repeat(2 << 20), "at most 1048576"),
        ] {
            let began = Instant::now();
            let result = ChatTemplate::new(&template, &special(), None).and_then(|one| one.render(&one_turn(), true));
            let error = result.unwrap_err().to_string();
            let short: String = template.chars().take(80).collect();
            // On a loaded machine, without optimisation, the time may end before the fuel.
            let late = reason == "costs too much" && error.contains("takes longer");
            assert!(error.contains(reason) || late, "{short}: {error}");
            // Debug builds of other tests run beside this one.
            assert!(began.elapsed() < Duration::from_secs(6), "{short}: {:?}", began.elapsed());
        }
    }

    fn one_turn() -> Vec<Message> {
        vec![Message::new("user", "hi")]
    }

    #[test]
    fn what_a_template_does_not_read_is_refused() {
        let call =
            json!({"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]});
        let thought = json!({"role": "assistant", "content": "a", "reasoning_content": "hm"});
        let tools = Extras { tools: Some(json!([{"name": "f"}])), ..Extras::default() };
        let variables = json!({"enable_thinking": false}).as_object().unwrap().clone();
        let variables = Extras { variables, ..Extras::default() };
        let documents = Extras { documents: Some(json!([{"title": "a", "text": "b"}])), ..Extras::default() };
        for (template, message, extras, expected) in [
            (OUR_CHATML, &call, Extras::default(), "message 1 has 'tool_calls', which the template does not read"),
            (OUR_CHATML, &thought, Extras::default(), "message 1 has 'reasoning_content'"),
            (OUR_CHATML, &json!({"role": "user", "content": "a"}), tools, "the row has 'tools'"),
            (OUR_CHATML, &json!({"role": "user", "content": "a"}), documents, "the row has 'documents'"),
            (
                OUR_CHATML,
                &json!({"role": "user", "content": "a"}),
                variables,
                "chat_template_kwargs has 'enable_thinking'",
            ),
            (
                "{% for m in messages %}{{ m.content }}{% endfor %}",
                &json!({"role": "user", "content": [{"type": "text", "text": "Sky?"}]}),
                Extras::default(),
                "list of parts",
            ),
        ] {
            let template = ChatTemplate::new(template, &special(), None).unwrap();
            let error = template.render_with(&[read(message)], &extras, false).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        // The names of reasoning stand for one another, as in transformers.
        let template = "{% for m in messages %}{{ m.thinking }}|{{ m.content }}{% endfor %}";
        let template = ChatTemplate::new(template, &special(), None).unwrap();
        assert_eq!(template.render(&[read(&thought)], false).unwrap(), "hm|a");
        // What is null is not there.
        let template = "{% for m in messages %}{{ m.tool_calls is defined }}{{ m.name is defined }}{% endfor %}";
        let template = ChatTemplate::new(template, &special(), None).unwrap();
        let message = json!({"role": "user", "content": "a", "tool_calls": null, "name": "n"});
        assert_eq!(template.render(&[read(&message)], false).unwrap(), "FalseTrue");
    }

    #[test]
    fn a_date_is_a_day() {
        assert_eq!(date("1970-01-01"), Ok(0));
        assert_eq!(date("2024-02-29"), Ok(19_782 * 86_400));
        assert_eq!(date("2100-03-01"), Ok(47_541 * 86_400));
        assert!(date(&date_of_today()).is_ok());
        for text in ["2024-02-30", "2023-02-29", "24-01-01", "2024-13-01", "2024-1-1", "today", "2024-01-01-"] {
            assert!(date(text).unwrap_err().to_string().contains("2024-07-26"), "{text}");
        }
        let template = ChatTemplate::new("{{ strftime_now('%d %B %Y, %j %F') }}", &special(), date("2024-07-26").ok());
        assert_eq!(template.unwrap().render(&one(), false).unwrap(), "26 July 2024, 208 2024-07-26");
        let template = ChatTemplate::new("{{ strftime_now('%F') }}", &special(), None).unwrap();
        assert!(template.asks_for_the_date());
        assert_eq!(template.render(&one(), false).unwrap(), date_of_today());
    }

    #[test]
    fn days_have_their_dates() {
        for (days, date) in [
            (0, (1970, 1, 1)),
            (-1, (1969, 12, 31)),
            (11_016, (2000, 2, 29)),
            (19_782, (2024, 2, 29)),
            (19_783, (2024, 3, 1)),
            (47_541, (2100, 3, 1)),
        ] {
            assert_eq!(civil(days), date);
        }
    }
}
