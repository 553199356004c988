//! What a client asks for: the fields of OpenAI's two forms. Each is checked, and errors name the field.

use serde_json::{Map, Value};

use crate::lm::chat::Message;
use crate::lm::sample::SampleConfig;
use crate::table::nearest;

/// A request that was understood.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wanted {
    /// Whether it is a chat, or else a completion.
    pub(super) chat: bool,
    /// The texts that are completed.
    pub(super) prompts: Vec<Input>,
    /// Most tokens of a completion; 0 is possible only with `echo`. `None` is as many as the context has room for.
    pub(super) max_tokens: Option<usize>,
    /// How tokens are drawn. The most tokens are set later, when the tokens of the prompts are counted.
    pub(super) draw: SampleConfig,
    /// Whether the client chose the seed.
    pub(super) seeded: bool,
    /// Completions of each prompt.
    pub(super) count: usize,
    /// Texts that end a completion; it does not include them.
    pub(super) stop: Vec<String>,
    /// Repeat the prompt before the completion.
    pub(super) echo: bool,
    /// Give log-probabilities of the tokens, and of so many likeliest tokens at each place.
    pub(super) log_probs: Option<usize>,
    /// Send tokens as they come.
    pub(super) stream: bool,
    /// Send the count of tokens at the end of a stream.
    pub(super) usage: bool,
}

/// A prompt as the client sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Input {
    /// Text.
    Text(String),
    /// Token ids.
    Ids(Vec<u32>),
    /// A conversation.
    Chat(Vec<Message>),
}

/// Why a request is not answered, in the shape of OpenAI's errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// HTTP's status.
    pub(super) status: u16,
    /// What is wrong, what was found, and what would be right.
    pub(super) message: String,
    /// The field that is wrong.
    pub(super) param: Option<String>,
    /// A word for programs.
    pub(super) code: Option<&'static str>,
}

/// Most tokens of a completion if the request gives no number; OpenAI's default.
const MAX_TOKENS: usize = 16;

/// Most prompts of a request, as OpenAI has it, completions of each, and stop texts.
const MOST_PROMPTS: usize = 2048;
const MOST_COMPLETIONS: u64 = 128;
const MOST_STOPS: usize = 64;

/// Most completions of a request, all prompts together. Each of them holds memory until the last one is written.
const MOST_SEQUENCES: usize = 2048;

/// Most characters of a field's name that are compared and shown. No known field has as many.
const MOST_NAME: usize = 64;

/// Most alternatives to a token that an answer lists; OpenAI's limit for chats.
const MOST_TOP: u64 = 20;

/// Fields that are understood, in either form.
const KNOWN: &[&str] = &[
    "model", "prompt", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "min_p",
    "n", "stop", "seed", "stream", "stream_options", "logprobs", "top_logprobs", "echo",
];

/// Fields that do not change what is written.
const HARMLESS: &[&str] = &[
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "parallel_tool_calls", "cache_prompt",
];

/// Fields with an effect that this server does not have. They are refused unless their value asks for nothing.
const UNSUPPORTED: &[&str] = &[
    "tools", "tool_choice", "functions", "function_call", "response_format", "suffix", "best_of", "logit_bias",
    "presence_penalty", "frequency_penalty", "repetition_penalty", "modalities", "audio", "prediction",
    "reasoning_effort", "web_search_options", "verbosity",
];

impl Wanted {
    /// Reads the body of `/v1/completions`, or with `chat` of `/v1/chat/completions`, for the model called `served`.
    pub(super) fn read(body: &[u8], chat: bool, served: &str) -> Result<Self, Refusal> {
        let value: Value = serde_json::from_slice(body)
            .map_err(|error| Refusal::bad(None, format!("the body is no JSON ({error}): must be a JSON object")))?;
        let Value::Object(left) = value else {
            return Err(Refusal::bad(None, format!("the body is {}: must be a JSON object", shown(&value))));
        };
        let mut fields = Fields { left };
        match fields.take("model") {
            None => {}
            Some(Value::String(name)) if name == served || name.is_empty() => {}
            Some(other) => {
                return Err(Refusal {
                    status: 404,
                    message: format!("model = {}: there is only {served:?} here", shown(&other)),
                    param: Some("model".to_owned()),
                    code: Some("model_not_found"),
                });
            }
        }
        let prompts = match chat {
            true => vec![Input::Chat(messages(fields.take("messages").as_ref())?)],
            false => prompts(fields.take("prompt"))?,
        };
        let echo = !chat && fields.flag("echo")?.unwrap_or(false);
        let least = u64::from(!echo);
        let mut max_tokens = fields.whole("max_tokens", least, u64::from(u32::MAX))?;
        if chat {
            max_tokens = fields.whole("max_completion_tokens", least, u64::from(u32::MAX))?.or(max_tokens);
        }
        if max_tokens.is_none() && !chat {
            max_tokens = Some(MAX_TOKENS as u64);
        }
        let log_probs = match chat {
            false => fields.whole("logprobs", 0, MOST_TOP)?,
            true => {
                let wanted = fields.flag("logprobs")?.unwrap_or(false);
                let top = fields.whole("top_logprobs", 0, MOST_TOP)?;
                if let (false, Some(top)) = (wanted, top) {
                    return Err(wrong("top_logprobs", &top.into(), "left out, or logprobs be true"));
                }
                wanted.then(|| top.unwrap_or(0))
            }
        };
        let default = SampleConfig::default();
        let seed = fields.seed()?;
        let draw = SampleConfig {
            max_new_tokens: 1,
            temperature: fields.number("temperature", 0.0, f64::MAX, "a number of at least 0")?.unwrap_or(1.0),
            top_p: fields.number("top_p", f64::MIN_POSITIVE, 1.0, "above 0 and at most 1")?.unwrap_or(1.0),
            top_k: size(fields.whole("top_k", 0, u64::from(u32::MAX))?.unwrap_or(0)),
            min_p: fields.number("min_p", 0.0, 1.0, "between 0 and 1")?.unwrap_or(0.0),
            seed: seed.unwrap_or(0),
            ..default
        };
        let wanted = Self {
            chat,
            prompts,
            max_tokens: max_tokens.map(size),
            draw,
            seeded: seed.is_some(),
            count: size(fields.whole("n", 1, MOST_COMPLETIONS)?.unwrap_or(1)),
            stop: fields.stop()?,
            echo,
            log_probs: log_probs.map(size),
            stream: fields.flag("stream")?.unwrap_or(false),
            usage: fields.usage()?,
        };
        fields.finish(chat)?;
        let (prompts, count) = (wanted.prompts.len(), wanted.count);
        if prompts * count > MOST_SEQUENCES {
            let message = format!(
                "n = {count}: {prompts} prompts with {count} completions each are {}: must be at most {MOST_SEQUENCES} \
                 together",
                prompts * count
            );
            return Err(Refusal::bad(Some("n"), message));
        }
        Ok(wanted)
    }
}

impl Refusal {
    /// A request that is refused with this status of HTTP, and this word for programs.
    pub(super) fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: Some(code) }
    }

    /// Something is wrong with a field, or with the whole.
    pub(super) fn bad(param: Option<&str>, message: String) -> Self {
        Self { status: 400, message, param: param.map(str::to_owned), code: None }
    }

    /// The answer's body.
    pub(super) fn body(&self) -> Value {
        let kind = match self.status {
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        serde_json::json!({
            "error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        })
    }
}

/// The fields that are not read yet.
struct Fields {
    left: Map<String, Value>,
}

impl Fields {
    /// A field; `null` is as if it were not there.
    fn take(&mut self, name: &str) -> Option<Value> {
        self.left.shift_remove(name).filter(|value| !value.is_null())
    }

    fn flag(&mut self, name: &str) -> Result<Option<bool>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(wrong(name, &other, "true or false")),
        }
    }

    fn whole(&mut self, name: &str, least: u64, most: u64) -> Result<Option<u64>, Refusal> {
        let Some(value) = self.take(name) else { return Ok(None) };
        // Some clients write 16.0.
        let found = value.as_u64().or_else(|| {
            let number = value.as_f64().filter(|number| number.fract() == 0.0 && (0.0..=4e9).contains(number))?;
            Some(number as u64)
        });
        match found.filter(|found| (least..=most).contains(found)) {
            Some(found) => Ok(Some(found)),
            None if most == u64::from(u32::MAX) => Err(wrong(name, &value, &format!("a whole number from {least} on"))),
            None => Err(wrong(name, &value, &format!("a whole number from {least} to {most}"))),
        }
    }

    fn number(&mut self, name: &str, least: f64, most: f64, expected: &str) -> Result<Option<f64>, Refusal> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.as_f64().filter(|number| (least..=most).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(wrong(name, &value, expected)),
        }
    }

    /// Negative seeds are allowed.
    fn seed(&mut self) -> Result<Option<u64>, Refusal> {
        let Some(value) = self.take("seed") else { return Ok(None) };
        match value.as_u64().or(value.as_i64().map(i64::cast_unsigned)) {
            Some(seed) => Ok(Some(seed)),
            None => Err(wrong("seed", &value, "a whole number")),
        }
    }

    fn stop(&mut self) -> Result<Vec<String>, Refusal> {
        let Some(value) = self.take("stop") else { return Ok(Vec::new()) };
        let all: Option<Vec<String>> = match &value {
            Value::String(one) => Some(vec![one.clone()]),
            Value::Array(several) => several.iter().map(|one| one.as_str().map(str::to_owned)).collect(),
            _ => None,
        };
        match all {
            Some(all) if all.len() <= MOST_STOPS && all.iter().all(|stop| !stop.is_empty()) => Ok(all),
            _ => Err(wrong("stop", &value, &format!("a text or a list of at most {MOST_STOPS}, none of them empty"))),
        }
    }

    fn usage(&mut self) -> Result<bool, Refusal> {
        let Some(value) = self.take("stream_options") else { return Ok(false) };
        let expected = "an object such as {\"include_usage\": true}";
        let options = value.as_object().ok_or_else(|| wrong("stream_options", &value, expected))?;
        match options.get("include_usage") {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(wrong("stream_options.include_usage", other, "true or false")),
        }
    }

    /// Refuses the fields that are left, unless they have no effect.
    fn finish(self, chat: bool) -> Result<(), Refusal> {
        for (name, value) in self.left {
            let name = name.as_str();
            if value.is_null() || HARMLESS.contains(&name) {
                continue;
            }
            if UNSUPPORTED.contains(&name) {
                if is_neutral(name, &value) {
                    continue;
                }
                return Err(wrong(name, &value, "left out: this server does not support it"));
            }
            if KNOWN.contains(&name) {
                let form = if chat { "/v1/chat/completions" } else { "/v1/completions" };
                return Err(Refusal::bad(Some(name), format!("{name}: is not a field of {form}")));
            }
            let shown = shortened(name, MOST_NAME);
            // A longer name is not near to any field, and comparing it would take long.
            let near = if shown == name { nearest(name, KNOWN) } else { None };
            let hint = near.map_or_else(String::new, |known| format!("; did you mean {known:?}?"));
            return Err(Refusal::bad(Some(&shown), format!("{shown}: there is no such field{hint}")));
        }
        Ok(())
    }
}

/// Whether a value of a field that is not supported asks for nothing.
fn is_neutral(name: &str, value: &Value) -> bool {
    match (name, value) {
        ("best_of" | "repetition_penalty", value) => value.as_f64() == Some(1.0),
        ("tool_choice" | "function_call", Value::String(choice)) => matches!(choice.as_str(), "none" | "auto"),
        ("response_format", Value::Object(format)) => format.get("type").is_some_and(|kind| kind == "text"),
        ("modalities", Value::Array(all)) => all.iter().all(|one| one == "text"),
        (_, Value::Array(all)) => all.is_empty(),
        (_, Value::Object(all)) => all.is_empty(),
        (_, Value::String(text)) => text.is_empty(),
        (_, Value::Number(number)) => number.as_f64() == Some(0.0),
        (_, Value::Bool(flag)) => !flag,
        (_, Value::Null) => true,
    }
}

/// A text, several, token ids, or several lists of them.
fn prompts(value: Option<Value>) -> Result<Vec<Input>, Refusal> {
    let expected = "a text, a list of texts, a list of token ids, or a list of such lists";
    let Some(value) = value else {
        return Err(Refusal::bad(Some("prompt"), format!("prompt is missing: must be {expected}")));
    };
    let refused = || wrong("prompt", &value, expected);
    let ids = |list: &[Value]| -> Option<Vec<u32>> {
        list.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect()
    };
    let several = match &value {
        Value::String(text) => return Ok(vec![Input::Text(text.clone())]),
        Value::Array(several) if !several.is_empty() => several,
        _ => return Err(refused()),
    };
    if several.iter().all(Value::is_number) {
        return Ok(vec![Input::Ids(ids(several).ok_or_else(refused)?)]);
    }
    if several.len() > MOST_PROMPTS {
        let message = format!("prompt: there are {}: must be at most {MOST_PROMPTS} at a time", several.len());
        return Err(Refusal::bad(Some("prompt"), message));
    }
    let one = |value: &Value| match value {
        Value::String(text) => Some(Input::Text(text.clone())),
        Value::Array(list) => ids(list).map(Input::Ids),
        _ => None,
    };
    several.iter().map(one).collect::<Option<_>>().ok_or_else(refused)
}

fn messages(value: Option<&Value>) -> Result<Vec<Message>, Refusal> {
    let expected = "a list of turns such as {\"role\": \"user\", \"content\": \"Hello\"}";
    let several = match value {
        Some(Value::Array(several)) if !several.is_empty() => several,
        Some(other) => return Err(wrong("messages", other, expected)),
        None => return Err(Refusal::bad(Some("messages"), format!("messages is missing: must be {expected}"))),
    };
    let one = |(i, value): (usize, &Value)| {
        let at = |part: &str| format!("messages[{i}].{part}");
        let turn = value.as_object().ok_or_else(|| wrong(&format!("messages[{i}]"), value, "an object"))?;
        let null = Value::Null;
        let role = match turn.get("role") {
            // Newer clients call it so.
            Some(Value::String(role)) if role == "developer" => "system",
            Some(Value::String(role)) => role.as_str(),
            other => return Err(wrong(&at("role"), other.unwrap_or(&null), "system, user or assistant")),
        };
        if let Some(calls) = turn.get("tool_calls").filter(|calls| !is_neutral("tool_calls", calls)) {
            return Err(wrong(&at("tool_calls"), calls, "left out: this server does not support it"));
        }
        let content = match turn.get("content") {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(parts)) => {
                let text = |part: &Value| match (part.get("type").and_then(Value::as_str), part.get("text")) {
                    (Some("text"), Some(Value::String(text))) => Ok(text.clone()),
                    _ => Err(wrong(&at("content"), part, "parts such as {\"type\": \"text\", \"text\": \"Hello\"}")),
                };
                parts.iter().map(text).collect::<Result<String, Refusal>>()?
            }
            other => return Err(wrong(&at("content"), other.unwrap_or(&null), "a text, or a list of parts of text")),
        };
        Ok(Message::new(role, content))
    };
    several.iter().enumerate().map(one).collect()
}

fn wrong(name: &str, found: &Value, expected: &str) -> Refusal {
    Refusal::bad(Some(name), format!("{name} = {}: must be {expected}", shown(found)))
}

/// A value as messages show it: the beginning of a long one.
fn shown(value: &Value) -> String {
    const MOST: usize = 80;
    shortened(&value.to_string(), MOST)
}

/// The first characters of a text.
pub(super) fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text.to_owned(),
    }
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Input, Refusal, Wanted};
    use crate::lm::chat::Message;

    fn read(chat: bool, value: &Value) -> Result<Wanted, Refusal> {
        Wanted::read(value.to_string().as_bytes(), chat, "tiny")
    }

    #[test]
    fn every_form_of_prompt_is_understood() {
        let prompts = |prompt: Value| read(false, &json!({"prompt": prompt})).unwrap().prompts;
        assert_eq!(prompts(json!("a")), [Input::Text("a".into())]);
        assert_eq!(prompts(json!(["a", "b"])), [Input::Text("a".into()), Input::Text("b".into())]);
        assert_eq!(prompts(json!([1, 2])), [Input::Ids(vec![1, 2])]);
        assert_eq!(prompts(json!([[1, 2], [3]])), [Input::Ids(vec![1, 2]), Input::Ids(vec![3])]);
        let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        let messages = json!([{"role": "developer", "content": "c"}, {"role": "user", "content": parts, "name": "x"}]);
        let chat = read(true, &json!({"model": "tiny", "messages": messages})).unwrap();
        assert_eq!(chat.prompts, [Input::Chat(vec![Message::new("system", "c"), Message::new("user", "ab")])]);
        assert_eq!((chat.max_tokens, chat.log_probs), (None, None));
    }

    #[test]
    fn fields_are_read_and_neutral_ones_are_let_pass() {
        let wanted = read(
            false,
            &json!({
                "prompt": "a", "max_tokens": 0, "echo": true, "logprobs": 0, "n": 2, "stop": "x", "seed": -1,
                "top_p": 0.5, "temperature": 0, "stream": true, "stream_options": {"include_usage": true}, "user": "me",
                "suffix": null,
                "best_of": 1, "presence_penalty": 0.0, "logit_bias": {}, "response_format": {"type": "text"},
            }),
        )
        .unwrap();
        assert_eq!((wanted.max_tokens, wanted.echo, wanted.log_probs, wanted.count), (Some(0), true, Some(0), 2));
        assert_eq!((wanted.stop, wanted.draw.seed, wanted.seeded), (vec!["x".to_owned()], u64::MAX, true));
        assert_eq!((wanted.draw.temperature, wanted.draw.top_p, wanted.stream, wanted.usage), (0.0, 0.5, true, true));
        let plain = read(false, &json!({"prompt": "a"})).unwrap();
        assert_eq!((plain.max_tokens, plain.draw.temperature, plain.seeded), (Some(16), 1.0, false));
        let chat = json!({"messages": [{"role": "user", "content": "a"}], "max_tokens": 3, "max_completion_tokens": 4,
            "logprobs": true, "top_logprobs": 5, "tool_choice": "none"});
        let chat = read(true, &chat).unwrap();
        assert_eq!((chat.max_tokens, chat.log_probs), (Some(4), Some(5)));
    }

    /// Its distance from the names of fields would take minutes, and as much memory as 65 times the name.
    #[test]
    fn a_name_without_end_is_refused_at_once_and_shown_in_part() {
        let name = "temperature".repeat(400_000);
        let mut body = json!({"prompt": "a"});
        body[name.as_str()] = 1.into();
        let body = body.to_string();
        let began = std::time::Instant::now();
        let refusal = Wanted::read(body.as_bytes(), false, "tiny").unwrap_err();
        assert!(began.elapsed() < std::time::Duration::from_secs(1), "{:?}", began.elapsed());
        assert!(refusal.message.starts_with("temperaturetemperature"), "{}", refusal.message);
        assert!(refusal.message.ends_with(" …: there is no such field"), "{}", refusal.message);
        assert!(refusal.param.unwrap().len() < 80 && refusal.message.len() < 120);
    }

    #[test]
    fn what_is_wrong_is_named_with_what_was_found_and_what_would_be_right() {
        let refused = |chat: bool, extra: Value| {
            let mut body = match chat {
                true => json!({"messages": [{"role": "user", "content": "a"}]}),
                false => json!({"prompt": "a"}),
            };
            for (name, value) in extra.as_object().unwrap() {
                body[name] = value.clone();
            }
            let refusal = read(chat, &body).unwrap_err();
            (refusal.status, refusal.param.unwrap_or_default(), refusal.message)
        };
        let cases: &[(bool, Value, &str, &str)] = &[
            (false, json!({"temperature": "hot"}), "temperature", "= \"hot\": must be a number of at least 0"),
            (false, json!({"temperature": -1}), "temperature", "= -1: must be a number of at least 0"),
            (false, json!({"top_p": 0}), "top_p", "= 0: must be above 0 and at most 1"),
            (false, json!({"max_tokens": 0}), "max_tokens", "= 0: must be a whole number from 1 on"),
            (false, json!({"max_tokens": 1.5}), "max_tokens", "= 1.5: must be a whole number"),
            (false, json!({"n": 0}), "n", "= 0: must be a whole number from 1 to 128"),
            (false, json!({"logprobs": 21}), "logprobs", "= 21: must be a whole number from 0 to 20"),
            (false, json!({"logprobs": true}), "logprobs", "= true: must be a whole number"),
            (false, json!({"stop": ["a", ""]}), "stop", "none of them empty"),
            (false, json!({"seed": "s"}), "seed", "must be a whole number"),
            (false, json!({"stream": 1}), "stream", "= 1: must be true or false"),
            (false, json!({"best_of": 3}), "best_of", "= 3: must be left out"),
            (false, json!({"suffix": "x"}), "suffix", "must be left out"),
            (false, json!({"prompt": 3}), "prompt", "= 3: must be a text"),
            (false, json!({"prompt": []}), "prompt", "= []: must be a text"),
            (false, json!({"prompt": [1, -2]}), "prompt", "= [1,-2]: must be"),
            (false, json!({"prompt": [1, "a"]}), "prompt", "must be a text, a list"),
            (false, json!({"temprature": 1}), "temprature", "did you mean \"temperature\"?"),
            (false, json!({"messages": []}), "messages", "is not a field of /v1/completions"),
            (true, json!({"messages": []}), "messages", "= []: must be a list of turns"),
            (true, json!({"messages": [{"role": 1}]}), "messages[0].role", "= 1: must be system"),
            (true, json!({"messages": [{"role": "user"}]}), "messages[0].content", "= null: must be a text"),
            (
                true,
                json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
                "messages[0].content",
                "parts",
            ),
            (true, json!({"tools": [{}]}), "tools", "= [{}]: must be left out"),
            (true, json!({"response_format": {"type": "json_object"}}), "response_format", "must be left out"),
            (true, json!({"logprobs": 1}), "logprobs", "= 1: must be true or false"),
            (true, json!({"top_logprobs": 1}), "top_logprobs", "must be left out, or logprobs be true"),
        ];
        for (chat, extra, param, message) in cases {
            let found = refused(*chat, extra.clone());
            assert_eq!((found.0, found.1.as_str()), (400, *param), "{extra}");
            assert!(found.2.contains(message), "{extra}: {}", found.2);
        }
        let many = refused(false, json!({"prompt": vec!["a"; 2049]}));
        assert!(many.2.contains("there are 2049: must be at most 2048"), "{}", many.2);
        assert_eq!(refused(false, json!({"model": "large"})).0, 404);
        let many = refused(false, json!({"prompt": vec!["a"; 17], "n": 121}));
        assert_eq!((many.0, many.1.as_str()), (400, "n"));
        assert!(many.2.contains("17 prompts with 121 completions each are 2057: must be at most 2048"), "{}", many.2);
        assert!(read(false, &json!({"prompt": vec!["a"; 16], "n": 128})).is_ok());
        assert!(Wanted::read(b"{", false, "tiny").unwrap_err().message.starts_with("the body is no JSON"));
        assert!(Wanted::read(b"[1]", false, "tiny").unwrap_err().message.contains("[1]: must be a JSON object"));
        assert!(Wanted::read(b"{}", true, "tiny").unwrap_err().message.starts_with("messages is missing"));
    }
}
