//! What was written for a request, in the shapes of OpenAI's answers: whole, or as a stream of events.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::body::Bytes;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::request::{Refusal, Wanted};
use super::write::{Answer, Choice, Served, Told};
use crate::lm::sample::Finish;

/// What a thread that works on a request reports.
pub(super) enum Word {
    /// The request is accepted. A stream of events begins with this.
    Begins(Option<Bytes>),
    /// More events.
    Piece(Bytes),
    /// The last events, or a whole answer that is not a stream.
    Ends(Bytes),
    /// There is no answer.
    Refuses(Refusal),
}

/// A request that was understood, while it is answered.
pub(super) struct Telling<'a> {
    pub(super) served: &'a Served,
    pub(super) stop: &'a AtomicBool,
    pub(super) wanted: &'a Wanted,
    pub(super) id: u64,
    pub(super) words: &'a mpsc::Sender<Word>,
}

impl Telling<'_> {
    /// Sends what is written as it comes. Returns the end of the answer.
    pub(super) fn tell(&self) -> Result<String, Refusal> {
        let Self { served, stop, wanted, words, .. } = self;
        let comes_in_pieces = wanted.stream && wanted.log_probs.is_none();
        let begins = Once::new();
        let piece = |index: usize, text: &str| {
            begins.call_once(|| {
                let opening = wanted.stream.then(|| self.openings().into());
                words.blocking_send(Word::Begins(opening)).ok();
            });
            if comes_in_pieces && !text.is_empty() {
                let event = event(&self.piece(index, text, None, None));
                words.blocking_send(Word::Piece(event.into())).is_ok()
            } else {
                !words.is_closed()
            }
        };
        let ends = || stop.load(Ordering::Relaxed) || words.is_closed();
        let answer = served.write(wanted, &ends, &piece)?;
        Ok(if wanted.stream { self.closings(&answer) } else { self.whole(&answer).to_string() })
    }

    /// The beginning of every answer, and of every piece of one.
    fn head(&self) -> Map<String, Value> {
        let wanted = self.wanted;
        let kind = match (wanted.chat, wanted.stream) {
            (false, _) => "text_completion",
            (true, false) => "chat.completion",
            (true, true) => "chat.completion.chunk",
        };
        let id = format!("{}-{}", if wanted.chat { "chatcmpl" } else { "cmpl" }, self.id);
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        [
            ("id", json!(id)),
            ("object", json!(kind)),
            ("created", json!(created)),
            ("model", json!(self.served.name)),
            ("system_fingerprint", json!(self.served.fingerprint)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .collect()
    }

    fn whole(&self, answer: &Answer) -> Value {
        let wanted = self.wanted;
        let one = |(index, choice): (usize, &Choice)| {
            let log_probs = log_probs(wanted, &choice.tokens, 0);
            let finish = finish_reason(choice.finish);
            match wanted.chat {
                false => json!({
                    "index": index, "text": choice.text, "logprobs": log_probs, "finish_reason": finish
                }),
                true => json!({
                    "index": index,
                    "message": {"role": "assistant", "content": choice.text, "refusal": null},
                    "logprobs": log_probs,
                    "finish_reason": finish,
                }),
            }
        };
        let mut body = self.head();
        body.insert("choices".to_owned(), answer.choices.iter().enumerate().map(one).collect());
        body.insert("usage".to_owned(), usage(answer));
        Value::Object(body)
    }

    /// The beginning of a stream: of chats, an event for each completion that says whose turn it is.
    fn openings(&self) -> String {
        let count = if self.wanted.chat { self.wanted.count } else { 0 };
        let one = |index: usize| {
            let delta = json!({"role": "assistant", "content": "", "refusal": null});
            let choice = json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": null});
            event(&self.chunk(json!([choice]), None))
        };
        (0..count).map(one).collect()
    }

    /// The end of a stream: tokens with log-probabilities, the reasons why completions end, and counts.
    fn closings(&self, answer: &Answer) -> String {
        let wanted = self.wanted;
        let mut events = String::new();
        for (index, choice) in answer.choices.iter().enumerate() {
            if wanted.log_probs.is_some() {
                let mut offset = 0;
                for told in &choice.tokens {
                    let log_probs = log_probs(wanted, std::slice::from_ref(told), offset);
                    events += &event(&self.piece(index, &told.text, Some(&log_probs), None));
                    offset += told.text.chars().count();
                }
            }
            events += &event(&self.piece(index, "", None, Some(choice.finish)));
        }
        if wanted.usage {
            events += &event(&self.chunk(json!([]), Some(usage(answer))));
        }
        events + "data: [DONE]\n\n"
    }

    /// Some text of a completion.
    fn piece(&self, index: usize, text: &str, log_probs: Option<&Value>, finish: Option<Finish>) -> Value {
        let finish = finish.map(finish_reason);
        let choice = match self.wanted.chat {
            false => json!({"index": index, "text": text, "logprobs": log_probs, "finish_reason": finish}),
            true => {
                let delta = if finish.is_some() { json!({}) } else { json!({"content": text}) };
                json!({"index": index, "delta": delta, "logprobs": log_probs, "finish_reason": finish})
            }
        };
        self.chunk(json!([choice]), None)
    }

    fn chunk(&self, choices: Value, usage: Option<Value>) -> Value {
        let mut body = self.head();
        body.insert("choices".to_owned(), choices);
        if self.wanted.usage {
            body.insert("usage".to_owned(), usage.unwrap_or(Value::Null));
        }
        Value::Object(body)
    }
}

fn usage(answer: &Answer) -> Value {
    let Answer { prompt_tokens, completion_tokens, .. } = answer;
    json!({
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    })
}

fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Eos | Finish::Stop => "stop",
        Finish::Length => "length",
    }
}

/// Log-probabilities in the shape of OpenAI's form for completions or chats; `null` where they are not wanted. `offset`
/// is where the first token begins in the text, characters.
fn log_probs(wanted: &Wanted, tokens: &[Told], offset: usize) -> Value {
    let Some(top) = wanted.log_probs else { return Value::Null };
    if wanted.chat {
        let one = |told: &Told| {
            let top = told
                .top
                .iter()
                .map(|(own, log_prob)| json!({"token": own.name, "logprob": log_prob, "bytes": own.bytes}));
            json!({
                "token": told.own.name, "logprob": told.log_prob, "bytes": told.own.bytes,
                "top_logprobs": top.collect::<Value>(),
            })
        };
        return json!({"content": tokens.iter().map(one).collect::<Value>(), "refusal": null});
    }
    let mut offsets = Vec::with_capacity(tokens.len());
    let mut at = offset;
    for told in tokens {
        offsets.push(at);
        at += told.text.chars().count();
    }
    let likeliest = |told: &Told| {
        let Some(log_prob) = told.log_prob else { return Value::Null };
        let mut all = Map::new();
        // Of tokens that add the same text, only the likeliest is listed. The token itself is always listed.
        for (own, log_prob) in told.top.iter().filter(|(own, _)| own.id != told.own.id) {
            all.entry(own.name.clone()).or_insert_with(|| json!(log_prob));
        }
        all.insert(told.text.clone(), json!(log_prob));
        Value::Object(all)
    };
    let likeliest: Value = if top == 0 { Value::Null } else { tokens.iter().map(likeliest).collect() };
    json!({
        "tokens": tokens.iter().map(|told| told.text.as_str()).collect::<Vec<_>>(),
        "token_logprobs": tokens.iter().map(|told| told.log_prob).collect::<Vec<_>>(),
        "top_logprobs": likeliest,
        "text_offset": offsets,
    })
}

/// A server-sent event.
pub(super) fn event(data: &Value) -> String {
    format!("data: {data}\n\n")
}
