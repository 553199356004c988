//! Chat templates: messages to the text that a model was trained on, rendered as transformers' `apply_chat_template`
//! does.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, ErrorKind, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use regex::Regex;
use serde::{Deserialize, Serialize};

use super::tokenizer::{SpecialTokens, Tokenizer};

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// A template, compiled.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    special: SpecialTokens,
}

/// A template that cannot be had or rendered.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The template is wrong, or refuses these messages.
    #[error("chat template{}: {reason}", line.map(|line| format!(", line {line}")).unwrap_or_default())]
    Template {
        /// Line of the template, from 1, where it is known.
        line: Option<usize>,
        /// What is wrong.
        reason: String,
    },
    /// The tokenizer has none.
    #[error(
        "the rows are chats, but the tokenizer has no chat template: choose one by name ({BUILT_IN}), or give a .jinja \
         file; a model of ours that has seen no chats yet is best trained with \"hh\""
    )]
    Missing,
    /// Neither a name nor a file.
    #[error("no chat template {choice:?}: expected {known}, or a .jinja file")]
    Unknown {
        /// What was asked for.
        choice: String,
        /// Names there are.
        known: String,
    },
    /// The file cannot be read.
    #[error("{}: cannot read the chat template: {source}", path.display())]
    Read {
        /// File.
        path: PathBuf,
        /// Reason.
        source: std::io::Error,
    },
}

/// The format of HH-RLHF (Bai et al. 2022), Pairwise's default for its own models: it needs no tokens of its own. EOS
/// follows the assistant's last turn only, as in training on single completions.
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

/// ChatML, as OpenAI documented it and Qwen and others use it. The tokenizer should have `<|im_start|>` and `<|im_end|>`.
pub const CHATML: &str = "\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
";

/// Names of the built-in templates.
const BUILT_IN: &str = "\"hh\", \"chatml\"";

/// The one template of an environment. Without an ending such as `.html`, so that nothing is escaped.
const NAME: &str = "chat";

impl Message {
    /// A turn.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

impl ChatTemplate {
    /// Compiles a template. `now`, seconds since 1970, is the time of `strftime_now`, in UTC. Without it the function
    /// is not defined and templates that ask whether it is use a date of their own: what a model reads must not
    /// depend on the day of the training.
    ///
    /// # Errors
    /// [`ChatError::Template`] with the line.
    pub fn new(source: &str, special: &SpecialTokens, now: Option<i64>) -> Result<Self, ChatError> {
        let mut environment = Environment::new();
        let mut syntax = minijinja::syntax::SyntaxConfig::builder();
        syntax.trim_blocks(true).lstrip_blocks(true);
        environment.set_syntax(syntax.build().map_err(|e| template_error(&e))?);
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.add_filter("tojson", tojson);
        environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        if let Some(now) = now {
            environment.add_function("strftime_now", move |format: &str| strftime(now, format));
        }
        environment.add_template_owned(NAME, without_generation(source)).map_err(|e| template_error(&e))?;
        Ok(Self { environment, special: special.clone() })
    }

    /// The template that was chosen: a built-in one (`hh`, `chatml`), one of the tokenizer's by its name, or a
    /// `.jinja` file; the tokenizer's default one for `None`.
    ///
    /// # Errors
    /// When there is no such template, saying which there are, or it does not compile.
    pub fn choose(tokenizer: &Tokenizer, choice: Option<&str>, now: Option<i64>) -> Result<Self, ChatError> {
        let source = match choice {
            None => tokenizer.chat_template(None).ok_or(ChatError::Missing)?.to_owned(),
            Some("hh") => HH.to_owned(),
            Some("chatml") => CHATML.to_owned(),
            Some(choice) => match tokenizer.chat_template(Some(choice)) {
                Some(template) => template.to_owned(),
                None if Path::new(choice).extension().is_some_and(|e| e == "jinja") => std::fs::read_to_string(choice)
                    .map_err(|source| ChatError::Read { path: PathBuf::from(choice), source })?,
                None => {
                    let own = tokenizer.chat_template_names().map(|name| format!(", {name:?}"));
                    let known = BUILT_IN.to_owned() + &own.collect::<String>();
                    return Err(ChatError::Unknown { choice: choice.to_owned(), known });
                }
            },
        };
        Self::new(&source, tokenizer.special(), now)
    }

    /// The template that was chosen, or else the tokenizer's default one; `None` where it has none.
    ///
    /// # Errors
    /// As [`ChatTemplate::choose`].
    pub fn wanted(tokenizer: &Tokenizer, choice: Option<&str>) -> Result<Option<Self>, ChatError> {
        match (choice, tokenizer.chat_template(None)) {
            (None, None) => Ok(None),
            _ => Ok(Some(Self::choose(tokenizer, choice, None)?)),
        }
    }

    /// The text of a conversation; with `add_generation_prompt`, up to where the assistant begins to speak. It holds
    /// all special tokens there should be: encode it without adding any.
    ///
    /// # Errors
    /// [`ChatError::Template`] with the line, also when the template itself refuses the messages.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, ChatError> {
        let messages: Vec<Value> =
            messages.iter().map(|m| context! { role => m.role.as_str(), content => m.content.as_str() }).collect();
        let text = |token: &Option<super::tokenizer::SpecialToken>| match token {
            Some(token) => Value::from(token.text.as_str()),
            None => Value::UNDEFINED,
        };
        let SpecialTokens { bos, eos, pad, unk } = &self.special;
        let context = context! {
            messages, add_generation_prompt, tools => (), documents => (),
            bos_token => text(bos), eos_token => text(eos), pad_token => text(pad), unk_token => text(unk),
        };
        let template = self.environment.get_template(NAME).map_err(|e| template_error(&e))?;
        template.render(context).map_err(|e| template_error(&e))
    }
}

/// `{% generation %}` only marks the assistant's text for transformers' masks. A condition that always holds takes its
/// place, so that the rules for white space around blocks go on to apply and lines keep their numbers.
fn without_generation(source: &str) -> String {
    let pattern = Regex::new(r"\{%([-+]?\s*)(end)?generation(\s*[-+]?)%\}").expect("a constant, valid pattern");
    let replace = |found: &regex::Captures<'_>| {
        let word = if found.get(2).is_some() { "endif" } else { "if true" };
        format!("{{%{}{word}{}%}}", &found[1], &found[3])
    };
    pattern.replace_all(source, replace).into_owned()
}

fn template_error(error: &minijinja::Error) -> ChatError {
    let mut reason = error.detail().map_or_else(|| error.to_string(), str::to_owned);
    if error.kind() == ErrorKind::UnknownFunction && reason.contains("strftime_now") {
        reason += "; the template asks for today's date: give one";
    }
    ChatError::Template { line: error.line(), reason }
}

/// Hugging Face's `tojson`: Python's `json.dumps` with `ensure_ascii=False`, and no escapes for HTML.
#[expect(clippy::needless_pass_by_value, reason = "the signature of a filter")]
fn tojson(value: &Value, kwargs: Kwargs) -> Result<Value, minijinja::Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    // The other arguments of `json.dumps` are rare; unknown ones are an error, never ignored.
    let ensure_ascii: Option<bool> = kwargs.get("ensure_ascii")?;
    kwargs.assert_all_used()?;
    if ensure_ascii == Some(true) {
        return Err(invalid("tojson with ensure_ascii=true is not supported".into()));
    }
    let mut json = String::new();
    write_json(value, indent, 0, &mut json)?;
    Ok(Value::from_safe_string(json))
}

fn write_json(value: &Value, indent: Option<usize>, depth: usize, out: &mut String) -> Result<(), minijinja::Error> {
    let new_line = |depth: usize, out: &mut String| {
        if let Some(indent) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    };
    let separator = if indent.is_some() { "," } else { ", " };
    let quoted = |text: &str| serde_json::to_string(text).map_err(|e| invalid(e.to_string()));
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => {
            let _ = write!(out, "{value}");
        }
        ValueKind::String => out.push_str(&quoted(value.as_str().unwrap_or_default())?),
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            let mut empty = true;
            for item in value.try_iter()? {
                if !empty {
                    out.push_str(separator);
                }
                empty = false;
                new_line(depth + 1, out);
                write_json(&item, indent, depth + 1, out)?;
            }
            if !empty {
                new_line(depth, out);
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            let mut empty = true;
            for key in value.try_iter()? {
                if !empty {
                    out.push_str(separator);
                }
                empty = false;
                new_line(depth + 1, out);
                out.push_str(&quoted(&key.to_string())?);
                out.push_str(": ");
                write_json(&value.get_item(&key)?, indent, depth + 1, out)?;
            }
            if !empty {
                new_line(depth, out);
            }
            out.push('}');
        }
        other => return Err(invalid(format!("tojson cannot write {other}"))),
    }
    Ok(())
}

fn invalid(reason: String) -> minijinja::Error {
    minijinja::Error::new(ErrorKind::InvalidOperation, reason)
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// From 1970-01-01, a Thursday.
const WEEKDAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// Python's `strftime` in the C locale, for the directives that templates use.
fn strftime(seconds: i64, format: &str) -> Result<String, minijinja::Error> {
    let (days, time) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let weekday = WEEKDAYS[days.rem_euclid(7) as usize];
    let month_name = MONTHS[(month - 1) as usize];
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
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
        let mut number = |value: i64| {
            let _ = if padded { write!(out, "{value:02}") } else { write!(out, "{value}") };
        };
        match directive {
            Some('d') => number(day),
            Some('m') => number(month),
            Some('y') => number(year.rem_euclid(100)),
            Some('H') => number(hour),
            Some('I') => number((hour + 11) % 12 + 1),
            Some('M') => number(minute),
            Some('S') => number(second),
            Some('Y') => out.push_str(&year.to_string()),
            Some('B') => out.push_str(month_name),
            Some('b') => out.push_str(&month_name[..3]),
            Some('A') => out.push_str(weekday),
            Some('a') => out.push_str(&weekday[..3]),
            Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            Some('%') => out.push('%'),
            other => {
                let other = other.map(String::from).unwrap_or_default();
                return Err(invalid(format!(
                    "strftime_now does not know %{other} (it knows d m y Y H I M S B b A a p)"
                )));
            }
        }
    }
    Ok(out)
}

/// Year, month and day of a day number since 1970-01-01, in the Gregorian calendar.
fn civil(days: i64) -> (i64, i64, i64) {
    /// Days of 400 years, after which the calendar repeats.
    const CYCLE: i64 = 146_097;
    let leap = |year: i64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let (mut year, mut day) = (1970 + 400 * days.div_euclid(CYCLE), days.rem_euclid(CYCLE));
    while day >= 365 + i64::from(leap(year)) {
        day -= 365 + i64::from(leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + i64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    (year, month, day + 1)
}

#[cfg(test)]
mod tests {
    use super::{CHATML as OUR_CHATML, ChatTemplate, HH, Message, civil};
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

    #[test]
    fn without_a_date_templates_use_their_own() {
        let text = ChatTemplate::new(FEATURES, &special(), None).unwrap().render(&one(), false).unwrap();
        assert!(text.starts_with("Date: none\n"), "{text}");
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
        let error = new("a\n{{ strftime_now('%Y') }}").unwrap().render(&one(), false).unwrap_err().to_string();
        assert!(error.starts_with("chat template, line 2: ") && error.contains("give one"), "{error}");
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
