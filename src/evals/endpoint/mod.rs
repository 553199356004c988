//! A model behind OpenAI's protocol: llama.cpp's server, vLLM, Ollama, `pairwise lm serve`, or a service.
//!
//! How likely an answer is, a server tells in one of three ways. They are tried in this order at the first question,
//! and the first that works is kept:
//!
//! 1. it repeats the question and the answer with the log-probabilities of their tokens ([`How::Exact`]);
//! 2. it tells the likeliest first tokens after the question ([`How::FirstToken`]);
//! 3. it writes answers, and their shares are counted ([`How::Written`]).

mod cache;
mod client;
mod config;

use std::collections::BTreeMap;
use std::env::VarError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use serde_json::{Value, json};

use self::client::{Client, Mode};
pub use self::config::{Api, EndpointConfig};
use super::error::{EndpointError, ModelError};
use super::model::{AnswerProbabilities, ClosedQuestion, Done, How, Model, Prompt, Sampling, Written};
use crate::lm::chat::Message;

/// A model behind a server.
#[derive(Debug)]
pub struct Endpoint {
    client: Client,
    config: EndpointConfig,
    /// The model's name, when it is known.
    model: OnceLock<String>,
    /// How each kind of question is answered: the number of the first way that worked.
    ways: Mutex<BTreeMap<QuestionKind, usize>>,
    /// Held by whoever finds that out.
    finding: Mutex<()>,
    /// The server has no form for text.
    chat_only: AtomicBool,
    /// The server wants OpenAI's newer name for the most tokens.
    newer_names: AtomicBool,
    /// Questions answered in each of the three ways.
    answered: [AtomicUsize; 3],
}

/// Tokens that the first of two forms tells at most: vLLM and others, then OpenAI.
const MOST_TOP: usize = 20;
const LEAST_TOP: usize = 5;

/// Stop texts that every server takes; text is cut at the others here.
const STOPS: usize = 4;

/// Tokens of an answer that is drawn: at least, and at most.
const WRITTEN_TOKENS: [usize; 2] = [4, 64];

impl Endpoint {
    /// `http://HOST:PORT/v1#MODEL`; without a model, the only one that the server has. Nothing is asked yet.
    ///
    /// # Errors
    /// [`EndpointError`]: no address, a value out of range, a cache that cannot be read.
    pub fn open(spec: &str, config: &EndpointConfig) -> Result<Self, EndpointError> {
        let key = match std::env::var(&config.key_variable) {
            Ok(key) => Some(key).filter(|key| !key.is_empty()),
            Err(VarError::NotPresent) => None,
            Err(VarError::NotUnicode(_)) => {
                let problem = format!("the environment variable {} is not UTF-8: no key is", config.key_variable);
                return Err(EndpointError::Config(problem));
            }
        };
        Self::with_key(spec, key, config)
    }

    /// As [`Endpoint::open`], with this key.
    fn with_key(spec: &str, key: Option<String>, config: &EndpointConfig) -> Result<Self, EndpointError> {
        let (address, name) = parts(spec)?;
        let path = address.splitn(4, '/').nth(3).unwrap_or_default();
        let base = match path.trim_end_matches('/') {
            "" => format!("{}/v1", address.trim_end_matches('/')),
            _ => address.trim_end_matches('/').to_owned(),
        };
        let model = OnceLock::new();
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            model.get_or_init(|| name.to_owned());
        }
        Ok(Self {
            client: Client::new(&base, key, config)?,
            config: config.clone(),
            model,
            ways: Mutex::default(),
            finding: Mutex::default(),
            chat_only: AtomicBool::new(false),
            newer_names: AtomicBool::new(false),
            answered: Default::default(),
        })
    }

    /// The model's name; the server is asked for it where none was given.
    fn model(&self, gone: &AtomicBool) -> Result<&str, EndpointError> {
        if let Some(name) = self.model.get() {
            return Ok(name);
        }
        let _finding = lock(&self.finding);
        if let Some(name) = self.model.get() {
            return Ok(name);
        }
        let there = self.models(gone)?;
        match there.as_slice() {
            [only] => Ok(self.model.get_or_init(|| only.clone())),
            [] => Err(EndpointError::Config(format!("{}: has no model", self.client.base))),
            several => Err(EndpointError::Config(format!(
                "{0}: has {1} models: say which, as {0}#MODEL: {2}",
                self.client.base,
                several.len(),
                several.join(", ")
            ))),
        }
    }

    fn models(&self, gone: &AtomicBool) -> Result<Vec<String>, EndpointError> {
        let path = "/models";
        let answer = self.client.get(path, gone)?;
        let data = answer.get("data").and_then(Value::as_array);
        let ids = data.map(|all| all.iter().filter_map(|one| one.get("id")?.as_str().map(str::to_owned)).collect());
        ids.ok_or_else(|| self.client.malformed(path, "lacks the list `data`", &answer.to_string()))
    }

    /// How a prompt is sent.
    fn form(&self, prompt: &Prompt) -> Result<Prompt, EndpointError> {
        match (prompt, self.config.api) {
            (Prompt::Text(text), Api::Auto) if self.chat_only.load(Ordering::Relaxed) => Ok(turn(text)),
            (Prompt::Text(text), Api::Chat) => Ok(turn(text)),
            (Prompt::Text(text), _) => Ok(Prompt::Text(text.clone())),
            (Prompt::Chat(messages), Api::Auto | Api::Chat) => Ok(Prompt::Chat(messages.clone())),
            (Prompt::Chat(_), Api::Completions) => Err(EndpointError::Config(
                "a conversation cannot be sent as a completion: choose --api chat, or questions as text (--form \
                 dialogue)"
                    .to_owned(),
            )),
        }
    }

    /// Sends a prompt in its form; text as a turn where the server turns out to have no form for text.
    fn in_form<T>(
        &self,
        prompt: &Prompt,
        gone: &AtomicBool,
        send: impl Fn(&Prompt) -> Result<T, EndpointError>,
    ) -> Result<T, EndpointError> {
        let form = self.form(prompt)?;
        match (send(&form), &form) {
            (Err(EndpointError::NotFound { url, status, said, .. }), form) => {
                if let (Prompt::Text(text), Api::Auto) = (form, self.config.api)
                    && let Ok(answer) = send(&turn(text))
                {
                    self.chat_only.store(true, Ordering::Relaxed);
                    return Ok(answer);
                }
                let there = self.models(gone).unwrap_or_default();
                Err(EndpointError::NotFound { url, status, said, there })
            }
            (result, _) => result,
        }
    }

    fn answer(&self, asked: &ClosedQuestion, gone: &AtomicBool) -> Result<AnswerProbabilities, EndpointError> {
        let is_new = lock(&self.ways).is_empty();
        let kept = if is_new {
            self.kept(&asked.prompt, |form| self.kept_answer(&SentQuestion::new(form, &asked.answers), gone))?
        } else {
            None
        };
        let found = match kept {
            Some(found) => found,
            None => {
                self.in_form(&asked.prompt, gone, |form| self.found(&SentQuestion::new(form, &asked.answers), gone))?
            }
        };
        self.answered[found.how as usize].fetch_add(1, Ordering::Relaxed);
        Ok(found)
    }

    /// What the cache has for a prompt in any form, as long as the server has not shown which it takes.
    fn kept<T>(
        &self,
        prompt: &Prompt,
        look: impl Fn(&Prompt) -> Result<Option<T>, EndpointError>,
    ) -> Result<Option<T>, EndpointError> {
        let form = self.form(prompt)?;
        let found = look(&form)?;
        match (&form, self.config.api) {
            (Prompt::Text(text), Api::Auto) if found.is_none() => look(&turn(text)),
            _ => Ok(found),
        }
    }

    fn kept_answer(
        &self,
        question: &SentQuestion<'_>,
        gone: &AtomicBool,
    ) -> Result<Option<AnswerProbabilities>, EndpointError> {
        for way in Way::all(question.kind().chat) {
            if let Some(found) = self.by(*way, question, Mode::Cached, gone)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Probabilities of answers, in the best way there is.
    fn found(&self, question: &SentQuestion<'_>, gone: &AtomicBool) -> Result<AnswerProbabilities, EndpointError> {
        let kind = question.kind();
        let ways = Way::all(kind.chat);
        let known = || lock(&self.ways).get(&kind).copied();
        let mut first = known();
        let mut finding = None;
        if first.is_none() {
            // What is in the cache needs no server.
            if let Some(found) = self.kept_answer(question, gone)? {
                return Ok(found);
            }
            // The name first: who asks for it holds the same lock.
            self.model(gone)?;
            finding = Some(lock(&self.finding));
            first = known();
        }
        let is_known = first.is_some();
        let mode = if is_known { Mode::Ask } else { Mode::Probe };
        if is_known {
            finding = None;
        }
        let first = first.unwrap_or(0);
        for (i, way) in ways.iter().enumerate().skip(first) {
            match self.by(*way, question, mode, gone) {
                Ok(Some(found)) => {
                    if !is_known {
                        lock(&self.ways).insert(kind, i);
                    }
                    return Ok(found);
                }
                Ok(None) => {}
                Err(error) if !is_known && error.is_refusal() && i + 1 < ways.len() => {}
                Err(error) => return Err(error),
            }
        }
        drop(finding);
        Err(EndpointError::NoLogProbs { url: self.client.base.clone() })
    }

    /// Probabilities of answers in one way; `None` where the server cannot, or only the cache is asked and has no
    /// answer.
    fn by(
        &self,
        way: Way,
        question: &SentQuestion<'_>,
        mode: Mode,
        gone: &AtomicBool,
    ) -> Result<Option<AnswerProbabilities>, EndpointError> {
        let mut conditional = false;
        let (log_probs, how) = match (way, question.form) {
            (Way::Echo(written), Prompt::Text(prompt)) => {
                let mut log_probs = Vec::with_capacity(question.answers.len());
                for answer in &question.answers {
                    let body = json!({
                        "prompt": format!("{prompt}{answer}"), "max_tokens": written, "temperature": 0, "logprobs": 1,
                        "echo": true,
                    });
                    let read = |value: &Value| echoed(value, answer, written);
                    match self.post("/completions", body, mode, gone, read)?.flatten() {
                        Some(log_prob) => log_probs.push(log_prob),
                        None => return Ok(None),
                    }
                }
                (log_probs, How::Exact)
            }
            (Way::Top(count), form) => {
                let (path, body, answers) = match form {
                    // All answers begin alike: the next token is what counts.
                    Prompt::Text(prompt) => {
                        conditional = !question.common.is_empty();
                        let body = json!({
                            "prompt": format!("{prompt}{}", question.common), "max_tokens": 1, "temperature": 1,
                            "logprobs": count,
                        });
                        let rest = question.answers.iter().map(|answer| &answer[question.common.len()..]);
                        ("/completions", body, rest.collect::<Vec<_>>())
                    }
                    Prompt::Chat(messages) => {
                        let mut body = json!({
                            "messages": messages, "temperature": 1, "logprobs": true, "top_logprobs": count,
                        });
                        self.most_tokens(&mut body, 1);
                        ("/chat/completions", body, question.answers.iter().map(String::as_str).collect())
                    }
                };
                let told = self.post(path, body, mode, gone, |value| Ok(likeliest(value)))?.flatten();
                let Some(log_probs) = told.and_then(|told| by_first_token(&told, &answers)) else { return Ok(None) };
                (log_probs, How::FirstToken)
            }
            (Way::Written, form) if self.config.samples > 0 => {
                let longest = question.answers.iter().map(String::len).max().unwrap_or(0);
                let [least, most] = WRITTEN_TOKENS;
                let sampling = Sampling { max_new_tokens: longest.clamp(least, most), ..Sampling::default() };
                let mut texts = Vec::new();
                for seed in 0..self.config.samples {
                    match self.text(form, &sampling, seed as u64, mode, gone)? {
                        Some(written) => texts.push(written.text),
                        None => return Ok(None),
                    }
                }
                (shares(&texts, &question.answers), How::Written)
            }
            (Way::Echo(_) | Way::Written, _) => return Ok(None),
        };
        // What a server does with a prompt that is too long is its own affair, and it does not tell.
        Ok(Some(AnswerProbabilities { log_probs, how, cut: false, conditional }))
    }

    /// A text that the model writes.
    fn text(
        &self,
        form: &Prompt,
        sampling: &Sampling,
        seed: u64,
        mode: Mode,
        gone: &AtomicBool,
    ) -> Result<Option<Written>, EndpointError> {
        let mut body = json!({
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            // Servers keep it in 64 bits with a sign.
            "seed": seed & i64::MAX.cast_unsigned(),
        });
        if !sampling.stop.is_empty() {
            body["stop"] = sampling.stop.iter().take(STOPS).map(String::as_str).collect();
        }
        let path = match form {
            Prompt::Text(prompt) => {
                body["prompt"] = prompt.as_str().into();
                body["max_tokens"] = sampling.max_new_tokens.into();
                "/completions"
            }
            Prompt::Chat(messages) => {
                body["messages"] = json!(messages);
                self.most_tokens(&mut body, sampling.max_new_tokens);
                "/chat/completions"
            }
        };
        self.post(path, body, mode, gone, |value| written(value, sampling))
    }

    fn most_tokens(&self, body: &mut Value, count: usize) {
        let newer = self.newer_names.load(Ordering::Relaxed);
        body[if newer { "max_completion_tokens" } else { "max_tokens" }] = count.into();
    }

    /// Sends a request to the model, with OpenAI's newer name for the most tokens where the server insists on it.
    fn post<T>(
        &self,
        path: &str,
        mut body: Value,
        mode: Mode,
        gone: &AtomicBool,
        read: impl Fn(&Value) -> Result<T, String>,
    ) -> Result<Option<T>, EndpointError> {
        // Without a name nothing is in the cache.
        if mode == Mode::Cached && self.model.get().is_none() {
            return Ok(None);
        }
        body["model"] = self.model(gone)?.into();
        let has_older = body.get("max_tokens").is_some() && path == "/chat/completions";
        match self.client.post(path, &body, mode, gone, &read) {
            Err(EndpointError::Status { status: 400, said, .. })
                if said.contains("max_completion_tokens") && body.get("max_tokens").is_some() =>
            {
                self.newer_names.store(true, Ordering::Relaxed);
            }
            // The server may have insisted on the newer name before.
            Ok(None) if mode == Mode::Cached && has_older => {}
            result => return result,
        }
        if let Value::Object(fields) = &mut body {
            let most = fields.shift_remove("max_tokens").unwrap_or_default();
            fields.insert("max_completion_tokens".to_owned(), most);
        }
        self.client.post(path, &body, mode, gone, &read)
    }

    /// Works on `count` things, several at a time; results are in order. After an error nothing new is begun.
    fn each<T: Send>(
        &self,
        count: usize,
        done: &Done<'_>,
        work: impl Fn(usize, &AtomicBool) -> Result<T, EndpointError> + Sync,
    ) -> Result<Vec<T>, EndpointError> {
        let (next, gone) = (AtomicUsize::new(0), AtomicBool::new(false));
        let results: Mutex<Vec<Option<T>>> = Mutex::new((0..count).map(|_| None).collect());
        // The first error in time: others may only follow from it.
        let failed = Mutex::new(None);
        let worker = || {
            while !gone.load(Ordering::Relaxed) {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= count {
                    return;
                }
                match work(i, &gone) {
                    Ok(result) => {
                        lock(&results)[i] = Some(result);
                        done(1);
                    }
                    Err(error) => {
                        lock(&failed).get_or_insert(error);
                        gone.store(true, Ordering::Relaxed);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.config.concurrency.min(count) {
                scope.spawn(worker);
            }
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => {
                let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
                Ok(results.into_iter().map(|result| result.expect("without an error all were worked on")).collect())
            }
        }
    }
}

impl Model for Endpoint {
    fn name(&self) -> &str {
        self.model.get().unwrap_or(&self.client.base)
    }

    fn settle(&self) -> Result<(), ModelError> {
        self.model(&AtomicBool::new(false))?;
        Ok(())
    }

    fn answers(&self, asked: &[ClosedQuestion], done: &Done<'_>) -> Result<Vec<AnswerProbabilities>, ModelError> {
        Ok(self.each(asked.len(), done, |i, gone| self.answer(&asked[i], gone))?)
    }

    fn write(
        &self,
        prompts: &[Prompt],
        sampling: &Sampling,
        first: u64,
        done: &Done<'_>,
    ) -> Result<Vec<Written>, ModelError> {
        let one = |i: usize, gone: &AtomicBool| {
            let seed = sampling.seed.wrapping_add(first).wrapping_add(i as u64);
            if let Some(kept) = self.kept(&prompts[i], |form| self.text(form, sampling, seed, Mode::Cached, gone))? {
                return Ok(kept);
            }
            let found = self.in_form(&prompts[i], gone, |form| self.text(form, sampling, seed, Mode::Ask, gone))?;
            Ok(found.expect("with Mode::Ask there is an answer or an error"))
        };
        Ok(self.each(prompts.len(), done, one)?)
    }

    fn remarks(&self) -> Vec<String> {
        let Client { counts, base, cache, key, is_loopback, .. } = &self.client;
        let of = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        let (read, written) = (of(&counts.read), of(&counts.written));
        let mut line = format!("{} at {base}: {} requests", self.name(), of(&counts.requests));
        if of(&counts.repeated) > 0 {
            line += &format!(", {} of them repeated", of(&counts.repeated));
        }
        line += &format!(", {} answers from the cache; {read} tokens read, {written} written", of(&counts.cached));
        let [price_read, price_written] = self.config.prices;
        if price_read != 0.0 || price_written != 0.0 {
            // Prices are those of a million.
            let cost = (read as f64 * price_read + written as f64 * price_written) / 1e6;
            line += &format!(", cost {cost:.4}");
        }
        let mut remarks = vec![line];
        let kinds = ["exactly", "by the likeliest first tokens", "by counting answers that were drawn"];
        let numbers = self.answered.iter().map(|count| count.load(Ordering::Relaxed));
        let found: Vec<String> = kinds
            .iter()
            .zip(numbers)
            .filter(|(_, number)| *number > 0)
            .map(|(kind, number)| format!("{number} {kind}"))
            .collect();
        if !found.is_empty() {
            remarks.push(format!("{}: probabilities of answers were found {}", self.name(), found.join(", ")));
        }
        if of(&counts.cached) > 0 && !self.client.tells_weights() {
            remarks.push(format!(
                "{}: {} answers are from the cache, and the server does not tell which weights it has: if they have changed \
                 under the same name, choose another --cache, or --no-cache",
                self.name(),
                of(&counts.cached)
            ));
        }
        if key.is_some() && !is_loopback && base.starts_with("http://") {
            let variable = &self.config.key_variable;
            remarks.push(format!("{base}: the key in {variable} goes over the network unencrypted: use https://"));
        }
        if let Some(dropped) = cache.as_ref().map(|cache| cache.dropped).filter(|dropped| *dropped > 0) {
            remarks.push(format!("{dropped} torn lines of the cache were dropped; they are asked for again"));
        }
        remarks
    }
}

/// Whether a spec, where it is a server's, is one that can be shown and stored. Nothing is opened.
///
/// # Errors
/// [`EndpointError::Address`].
pub(crate) fn check(spec: &str) -> Result<(), EndpointError> {
    match is_address(spec) {
        true => parts(spec).map(|_| ()),
        false => Ok(()),
    }
}

/// Whether a spec is a server's, and not a folder's.
pub(crate) fn is_address(spec: &str) -> bool {
    spec.starts_with("http://") || spec.starts_with("https://")
}

/// Address and model's name. What may be a password is not shown.
fn parts(spec: &str) -> Result<(&str, Option<&str>), EndpointError> {
    let (address, name) = match spec.split_once('#') {
        Some((address, name)) => (address, Some(name)),
        None => (spec, None),
    };
    let wrong = |address: String, problem: &str| Err(EndpointError::Address { address, problem: problem.to_owned() });
    let has_path = address.splitn(4, '/').nth(3).is_some_and(|path| !path.is_empty());
    // Names of Cloudflare's models begin with it, and its addresses have a path; elsewhere it ends a password.
    let in_name = name.is_some_and(|name| name.contains('@') && !(has_path && name.rfind('@') == Some(0)));
    if address.contains('@') || in_name {
        let scheme = spec.split_once("://").map_or("", |(scheme, _)| scheme);
        let problem = "the address has a user or password in it: put the key into an environment variable instead \
                       (OPENAI_API_KEY, or that of --key-variable)";
        return wrong(format!("{scheme}://…"), problem);
    }
    if let Some((before, _)) = address.split_once('?') {
        return wrong(format!("{before}?…"), "an address with a query is not supported");
    }
    if !is_address(address) {
        return wrong(address.to_owned(), "is no web address");
    }
    Ok((address, name))
}

/// A text as a user's turn.
fn turn(text: &str) -> Prompt {
    Prompt::Chat(vec![Message::new("user", text)])
}

/// A question in the form in which it is sent.
struct SentQuestion<'a> {
    form: &'a Prompt,
    answers: Vec<String>,
    /// What all answers begin with, if it is more than white space.
    common: String,
}

/// Questions that are answered in one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct QuestionKind {
    chat: bool,
    /// Whether all answers begin alike.
    alike: bool,
}

impl<'a> SentQuestion<'a> {
    fn new(form: &'a Prompt, answers: &[String]) -> Self {
        // As they are, as a folder's model takes them.
        let answers = answers.to_vec();
        let first = answers.first().map_or("", String::as_str);
        let same = |answer: &String| {
            first
                .char_indices()
                .zip(answer.chars())
                .find(|((_, a), b)| a != b)
                .map_or(first.len().min(answer.len()), |((at, _), _)| at)
        };
        let length = answers.iter().map(same).min().unwrap_or(0);
        let common = if answers.len() > 1 { first[..length].to_owned() } else { String::new() };
        let common = if common.trim().is_empty() { String::new() } else { common };
        Self { form, answers, common }
    }

    fn kind(&self) -> QuestionKind {
        QuestionKind { chat: matches!(self.form, Prompt::Chat(_)), alike: !self.common.is_empty() }
    }
}

/// A way to learn how likely answers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The server repeats question and answer, and writes so many tokens after them: some refuse to write none.
    Echo(usize),
    /// It tells so many of the likeliest first tokens.
    Top(usize),
    /// It writes.
    Written,
}

impl Way {
    fn all(chat: bool) -> &'static [Self] {
        match chat {
            true => &[Self::Top(MOST_TOP), Self::Top(LEAST_TOP), Self::Written],
            false => &[Self::Echo(0), Self::Echo(1), Self::Top(MOST_TOP), Self::Top(LEAST_TOP), Self::Written],
        }
    }
}

/// The log-probability of an answer at the end of a text that was repeated; `None` where it was not, or nothing is
/// told. A token that spans the boundary counts for the answer.
fn echoed(value: &Value, answer: &str, written: usize) -> Result<Option<f64>, String> {
    let choice = choice(value)?;
    let list = |name: &str| choice.pointer(&format!("/logprobs/{name}")).and_then(Value::as_array);
    let (Some(tokens), Some(log_probs)) = (list("tokens"), list("token_logprobs")) else { return Ok(None) };
    let tokens: Option<Vec<&str>> = tokens.iter().map(Value::as_str).collect();
    let Some(mut tokens) = tokens else { return Err("has a `tokens` that is not a list of texts".to_owned()) };
    if tokens.len() != log_probs.len() {
        return Err(format!("has {} `tokens`, but {} `token_logprobs`", tokens.len(), log_probs.len()));
    }
    // What was written after the answer does not count. Servers that wrote nothing, although asked to, say so.
    let after = value.pointer("/usage/completion_tokens").and_then(Value::as_u64);
    let after = after.map_or(written, |after| usize::try_from(after).unwrap_or(written).min(written));
    tokens.truncate(tokens.len().saturating_sub(after));
    // Where each begins: servers that put a token before the text count it in or do not, so only differences are used.
    let offsets: Option<Vec<u64>> = list("text_offset").and_then(|all| all.iter().map(Value::as_u64).collect());
    let length = |i: usize| {
        let own = tokens[i].chars().count();
        match &offsets {
            Some(offsets) if i + 1 < tokens.len() && offsets.len() > i + 1 => {
                usize::try_from(offsets[i + 1].saturating_sub(offsets[i])).unwrap_or(own)
            }
            _ => own,
        }
    };
    let mut left = answer.chars().count();
    let (mut sum, mut from) = (0.0, tokens.len());
    while left > 0 {
        let Some(i) = from.checked_sub(1) else { return Ok(None) };
        from = i;
        let Some(log_prob) = log_probs[i].as_f64() else { return Ok(None) };
        sum += log_prob;
        left = left.saturating_sub(length(i));
    }
    let end = tokens[from..].concat();
    // A server that repeats nothing tells of what it wrote. Bytes of a character may be told one by one.
    let is_answer = end.ends_with(answer) || end.contains('\u{fffd}') || end.chars().count() < answer.chars().count();
    Ok((is_answer && from > 0).then_some(sum))
}

/// The likeliest first tokens, in either form's shape.
fn likeliest(value: &Value) -> Option<Vec<(String, f64)>> {
    let choice = choice(value).ok()?;
    if let Some(Value::Object(told)) = choice.pointer("/logprobs/top_logprobs/0") {
        return told.iter().map(|(token, log_prob)| Some((token.clone(), log_prob.as_f64()?))).collect();
    }
    let told = choice.pointer("/logprobs/content/0/top_logprobs")?.as_array()?;
    let one = |told: &Value| Some((told.get("token")?.as_str()?.to_owned(), told.get("logprob")?.as_f64()?));
    told.iter().map(one).collect()
}

/// log P of each answer by the tokens that it begins with; one without any has at most the probability of the least
/// likely token told. `None` if most of the probability is on tokens that begin several answers.
fn by_first_token(told: &[(String, f64)], answers: &[&str]) -> Option<Vec<f64>> {
    let least = told.iter().map(|(_, log_prob)| *log_prob).min_by(f64::total_cmp)?;
    let mut sums = vec![0.0; answers.len()];
    let mut undecided = 0.0;
    for (token, log_prob) in told {
        let token = token.trim();
        let begun: Vec<usize> = (0..answers.len()).filter(|&i| answers[i].trim().starts_with(token)).collect();
        match begun.as_slice() {
            _ if token.is_empty() => {}
            [] => {}
            [one] => sums[*one] += log_prob.exp(),
            _ => undecided += log_prob.exp(),
        }
    }
    if undecided > sums.iter().sum::<f64>() {
        return None;
    }
    Some(sums.into_iter().map(|sum| if sum > 0.0 { f64::ln(sum) } else { least }).collect())
}

/// log of each answer's share of what was written. Each answer, and everything else together, counts half a text more, so
/// that no share is 0.
fn shares(texts: &[String], answers: &[String]) -> Vec<f64> {
    let total = texts.len() as f64 + 0.5 * (answers.len() + 1) as f64;
    let share = |answer: &String| {
        let count = texts.iter().filter(|text| text.trim_start().starts_with(answer.trim())).count();
        ((count as f64 + 0.5) / total).ln()
    };
    answers.iter().map(share).collect()
}

/// A text that was written, in either form's shape.
fn written(value: &Value, sampling: &Sampling) -> Result<Written, String> {
    let choice = choice(value)?;
    let text = match (choice.get("text"), choice.pointer("/message/content")) {
        (Some(Value::String(text)), _) | (_, Some(Value::String(text))) => text.as_str(),
        // A refusal.
        (None, Some(Value::Null)) => "",
        _ => return Err("lacks the text `choices[0].text` or `choices[0].message.content`".to_owned()),
    };
    let (text, stopped) = sampling.stopped(text);
    let by_length = choice.get("finish_reason").is_some_and(|reason| reason == "length");
    Ok(Written { text, ended: stopped || !by_length })
}

fn choice(value: &Value) -> Result<&Value, String> {
    let choice = value.pointer("/choices/0").filter(|choice| choice.is_object());
    choice.ok_or_else(|| "lacks `choices[0]`".to_owned())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
