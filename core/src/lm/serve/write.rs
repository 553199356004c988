//! A model that is served: texts written for requests, with log-probabilities of their tokens.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::Rng as _;

use super::error::ServeError;
use super::request::{Input, Refusal, Wanted};
use crate::device::{self, DeviceChoice};
use crate::lm::batch::Batch;
use crate::lm::chat::{ChatTemplate, Message};
use crate::lm::config::Output;
use crate::lm::error::LmError;
use crate::lm::folder;
use crate::lm::model::Decoder;
use crate::lm::open::{eos_of, tokenizer_of, weights_sha256};
use crate::lm::sample::{Finish, Pen, SampleConfig};
use crate::lm::tokenizer::{Stream, Tokenizer};
use crate::nn::fused::decoder::{linear, rows};
use crate::nn::to_host;
use crate::random::stream;

/// A model that is served.
pub struct Served {
    /// What clients call it.
    pub name: String,
    /// SHA-256 of its weights or, where it has an adapter, of the adapter's.
    pub fingerprint: String,
    /// What the user should know.
    pub remarks: Vec<String>,
    decoder: Decoder,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    eos: Vec<u32>,
    /// The weights in the form that computing needs. They are made for the first request.
    pen: OnceLock<Pen>,
    /// Places for requests whose texts may take long to be read as tokens, so that a slow template or a long text holds
    /// up only other requests of this kind.
    pub(super) reading: Gate,
    /// Places for threads that write for requests that may take long (`long`), and for other requests (`short`), so
    /// that short requests never wait for long ones.
    pub(super) long: Gate,
    short: Gate,
    /// Most threads that a request may use.
    threads: usize,
    /// Held while a body is read as JSON. That takes up to 40 times its bytes, so one body is read at a time.
    pub(super) parsing: Mutex<()>,
    /// Requests that choose no seed draw from streams of this one, each from its own.
    seed: u64,
    unseeded: AtomicU64,
}

/// A completion.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Choice {
    /// Its text, after the text of the prompt where the prompt is repeated.
    pub(super) text: String,
    /// Its tokens, after those of the prompt where the prompt is repeated. A token that ends a text is left out.
    pub(super) tokens: Vec<Told>,
    /// Why it ends.
    pub(super) finish: Finish,
}

/// A token, and the numbers that an answer gives for it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Told {
    /// What it adds to the text: nothing while a character is not whole.
    pub(super) text: String,
    /// The token by itself.
    pub(super) own: Own,
    /// Its log-probability by the model's own distribution, nats. The first token of a text has none.
    pub(super) log_prob: Option<f64>,
    /// The likeliest tokens in its place, the likeliest first.
    pub(super) top: Vec<(Own, f64)>,
}

/// A token by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Own {
    pub(super) id: u32,
    /// Its text. A part of a character is written as OpenAI writes it, such as `\xe2\x82`.
    pub(super) name: String,
    /// Its bytes; `None` for a special token, which stands for no text.
    pub(super) bytes: Option<Vec<u8>>,
}

/// What was written for a request.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    /// All completions of the first prompt, then all completions of the second, and so on.
    pub(super) choices: Vec<Choice>,
    /// Tokens read, each prompt once.
    pub(super) prompt_tokens: usize,
    /// Tokens written, including tokens that end a text.
    pub(super) completion_tokens: usize,
}

/// A text with more bytes than so many for each token of the context is refused unread. Hardly any token is longer than
/// half of that.
const MOST_TOKEN_BYTES: usize = 256;

/// Most log-probabilities of a request, including the likeliest tokens. With its text, each takes some 300 bytes.
const MOST_TOLD: usize = 1 << 20;

/// Bytes of a text from which reading it as tokens may take long.
const LONG_TEXT: usize = 64 << 10;

/// Tokens of all completions and their prompts together from which writing them may take long.
const LONG_WORK: usize = 4096;

/// Most requests that do not take long and are written for at the same time. They share the processor.
const MOST_SHORT: usize = 32;

/// Rows whose logits are computed together, so that their memory stays small with a large vocabulary.
const LOGIT_ROWS: usize = 64;

/// How many tokens before a place decide what a token there adds to the text.
const WINDOW: usize = 4;

impl Served {
    /// Reads a folder. `name` is what clients call the model, by default the name of the folder. `template` is a chat
    /// template by name or file, by default the tokenizer's, or else "hh". A template that asks for the time is told
    /// `now`, in seconds since 1970, by default the time of each request.
    ///
    /// # Errors
    /// [`ServeError`]: no model, a model that scores, or no tokenizer.
    pub fn open(
        folder: &Path,
        name: Option<&str>,
        template: Option<&str>,
        now: Option<i64>,
    ) -> Result<Self, ServeError> {
        let device = device::pick(DeviceChoice::Cpu)?;
        let loaded = folder::read(folder, &device).map_err(LmError::from)?;
        if loaded.decoder.config.output != Output::Tokens {
            return Err(ServeError::Config(format!(
                "{}: is a reward model, which scores texts and writes none: serve the policy instead",
                folder.display()
            )));
        }
        let tokenizer = tokenizer_of(folder, &loaded)?;
        let name = name.map_or_else(|| name_of(folder), str::to_owned);
        let mut served = Self::new(name, &loaded.decoder, tokenizer, template, now)?;
        served.remarks.splice(0..0, loaded.remarks.into_iter().chain(loaded.sampling));
        Ok(served)
    }

    /// Serves a model that is in memory.
    ///
    /// # Errors
    /// [`ServeError`]: there is no such template.
    pub fn new(
        name: String,
        decoder: &Decoder,
        tokenizer: Tokenizer,
        template: Option<&str>,
        now: Option<i64>,
    ) -> Result<Self, ServeError> {
        let mut remarks = Vec::new();
        let choice = match (template, tokenizer.chat_template(None)) {
            (None, None) => {
                remarks.push(format!(
                    "{name} has no chat template: chats are written as \"hh\" (Human: … Assistant: …); --chat-template \
                     chooses another"
                ));
                Some("hh")
            }
            (choice, _) => choice,
        };
        let template = ChatTemplate::choose(&tokenizer, choice, now).map_err(LmError::from)?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let threads = rayon::current_num_threads();
        Ok(Self {
            name,
            fingerprint: weights_sha256(decoder),
            remarks,
            eos: eos_of(decoder, &tokenizer),
            decoder: folder::merged(decoder),
            tokenizer,
            template,
            pen: OnceLock::new(),
            reading: Gate::new(threads),
            long: Gate::new(2 * threads),
            short: Gate::new(threads.max(MOST_SHORT)),
            threads,
            parsing: Mutex::new(()),
            seed: since as u64,
            unseeded: AtomicU64::new(0),
        })
    }

    /// Writes the completions. `piece` receives a completion's number and text that is certain, from several threads;
    /// the text is empty for tokens that add none. When it returns false, or `ends` returns true, writing stops.
    pub(super) fn write(
        &self,
        wanted: &Wanted,
        ends: &(dyn Fn() -> bool + Sync),
        piece: &(dyn Fn(usize, &str) -> bool + Sync),
    ) -> Result<Answer, Refusal> {
        let reading = match self.fits(wanted)? {
            true => Some(self.reading.enter(1, ends).ok_or_else(ended)?),
            false => None,
        };
        let prompt = |input: &Input| if ends() { Err(ended()) } else { self.prompt(input, wanted.echo) };
        let prompts: Vec<Prompt> = wanted.prompts.iter().map(prompt).collect::<Result<_, _>>()?;
        drop(reading);
        let draw = self.draw(wanted, &prompts)?;
        let tokens = |prompt: &Prompt| prompt.ids.len() + draw.as_ref().map_or(0, |draw| draw.max_new_tokens);
        let work = prompts.iter().map(tokens).sum::<usize>().saturating_mul(wanted.count);
        let (gate, threads) = match work > LONG_WORK {
            true => (&self.long, Pen::threads(prompts.len() * wanted.count).min(self.threads)),
            false => (&self.short, 1),
        };
        let pass = gate.enter(threads, ends).ok_or_else(ended)?;
        let repeated = || prompts.iter().flat_map(|prompt| std::iter::repeat_n(prompt, wanted.count));
        let track = |prompt: &Prompt| Mutex::new(Track::new(&self.tokenizer, &prompt.ids, &wanted.stop));
        let tracks: Vec<Mutex<Track>> = repeated().map(track).collect();
        let echoed: Vec<String> = match wanted.echo {
            true => prompts.iter().map(|prompt| self.pieces(prompt).concat()).collect(),
            false => vec![String::new(); prompts.len()],
        };
        for i in 0..tracks.len() {
            piece(i, &echoed[i / wanted.count]);
        }
        let goes_on = |i: usize, ids: &[u32]| {
            let mut track = lock(&tracks[i]);
            let text = ids.last().map_or_else(String::new, |&id| track.push(id));
            piece(i, &text) && !track.stopped && !ends()
        };
        let completions = match draw {
            None => Vec::new(),
            Some(draw) => {
                let ids: Vec<Vec<u32>> = repeated().map(|prompt| prompt.ids.clone()).collect();
                let pen = self.pen.get_or_init(|| Pen::new(&self.decoder, false));
                let write = || pen.write(&ids, &draw, &self.eos, 0, &goes_on);
                // Threads of its own: shared ones would belong to another request until that has ended.
                let threads = rayon::ThreadPoolBuilder::new().num_threads(pass.taken);
                threads.build().map_err(no_threads)?.install(write)
            }
        };
        let mut choices = Vec::with_capacity(tracks.len());
        let mut kept: Vec<Vec<u32>> = Vec::with_capacity(tracks.len());
        for (i, track) in tracks.into_iter().enumerate() {
            let mut track = track.into_inner().unwrap_or_else(PoisonError::into_inner);
            piece(i, &track.finish());
            let finish = match completions.get(i) {
                _ if track.stopped => Finish::Stop,
                Some(completion) => completion.finish,
                None => Finish::Length,
            };
            let text = format!("{}{}", echoed[i / wanted.count], track.text);
            let tokens = track.kept_pieces();
            // A token that ends a text adds nothing to it.
            kept.push(
                completions.get(i).map_or_else(Vec::new, |own| own.ids[..tokens.len().min(own.ids.len())].to_vec()),
            );
            let tokens = tokens.into_iter().zip(&kept[i]).map(|(text, &id)| self.told(id, text)).collect();
            choices.push(Choice { text, tokens, finish });
        }
        if let Some(top) = wanted.log_probs {
            for (i, prompt) in prompts.iter().enumerate() {
                if ends() {
                    break;
                }
                let own = i * wanted.count..(i + 1) * wanted.count;
                self.tell(prompt, wanted.echo, top, &kept[own.clone()], &mut choices[own]);
            }
        }
        if ends() {
            return Err(ended());
        }
        Ok(Answer {
            choices,
            prompt_tokens: prompts.iter().map(|prompt| prompt.ids.len()).sum(),
            completion_tokens: completions.iter().map(|completion| completion.ids.len()).sum(),
        })
    }

    /// Refuses prompts that are longer than the context, whatever tokens they are read as. Returns whether reading them
    /// may take long.
    fn fits(&self, wanted: &Wanted) -> Result<bool, Refusal> {
        let mut text = 0;
        let context = self.decoder.config.context;
        let bytes = context.saturating_mul(MOST_TOKEN_BYTES);
        for input in &wanted.prompts {
            let (found, most, unit) = match input {
                Input::Ids(ids) => (ids.len(), context, "tokens"),
                Input::Text(text) => (text.len(), bytes, "bytes"),
                // A turn is at least one token.
                Input::Chat(messages) => {
                    let turn = |message: &Message| message.role.len() + message.content.len() + 1;
                    (messages.iter().map(turn).sum(), bytes, "bytes")
                }
            };
            if unit == "bytes" {
                text += found;
            }
            if found > most {
                let its = format!("its {found} {unit} are more than fit the model's context of {context} tokens");
                return Err(too_long(param_of(wanted), &format!("{its}: shorten it")));
            }
        }
        Ok(wanted.chat || text > LONG_TEXT)
    }

    /// The token ids of a prompt.
    fn prompt(&self, input: &Input, echo: bool) -> Result<Prompt, Refusal> {
        let param = if matches!(input, Input::Chat(_)) { "messages" } else { "prompt" };
        let refused = |error: &dyn std::error::Error| Refusal::bad(Some(param), format!("{param}: {error}"));
        let encode = |text: &str, special: bool| self.tokenizer.encode(text, special).map_err(|error| refused(&error));
        let mut prompt = match input {
            Input::Ids(ids) => {
                let vocabulary = self.decoder.config.vocabulary;
                if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
                    let message = format!("prompt: there is no token {id}: must be below {vocabulary}");
                    return Err(Refusal::bad(Some("prompt"), message));
                }
                Prompt { ids: ids.clone(), added: 0 }
            }
            Input::Text(text) => {
                let ids = encode(text, true)?;
                let mut added = 0;
                if echo {
                    let plain = encode(text, false)?;
                    added = if ids.ends_with(&plain) { ids.len() - plain.len() } else { 0 };
                }
                Prompt { ids, added }
            }
            Input::Chat(messages) => {
                let text = self.template.render(messages, true).map_err(|error| refused(&error))?;
                Prompt { ids: encode(&text, false)?, added: 0 }
            }
        };
        if prompt.ids.is_empty() {
            // A model that was trained on texts between EOS tokens begins a text after an EOS token.
            let special = self.tokenizer.special();
            let begin = special.bos.as_ref().or(special.eos.as_ref());
            let Some(begin) = begin else {
                let message = format!("{param}: is empty, and the model has no token that begins a text");
                return Err(Refusal::bad(Some(param), message));
            };
            prompt = Prompt { ids: vec![begin.id], added: 1 };
        }
        Ok(prompt)
    }

    /// How tokens are drawn; `None` where no tokens are wanted.
    fn draw(&self, wanted: &Wanted, prompts: &[Prompt]) -> Result<Option<SampleConfig>, Refusal> {
        let context = self.decoder.config.context;
        let longest = prompts.iter().map(|prompt| prompt.ids.len()).max().unwrap_or(0);
        let most = wanted.max_tokens.unwrap_or_else(|| context.saturating_sub(longest).max(1));
        if longest.saturating_add(most) > context {
            let problem = format!(
                "its {longest} tokens and the {most} to be written are more than the model's context of {context} \
                 tokens: shorten it, or lower max_tokens"
            );
            return Err(too_long(param_of(wanted), &problem));
        }
        if let Some(top) = wanted.log_probs {
            let (sequences, tokens) = (prompts.len() * wanted.count, most + if wanted.echo { longest } else { 0 });
            if sequences * tokens * (top + 1) > MOST_TOLD {
                let problem = format!(
                    "logprobs: {sequences} completions of up to {tokens} tokens, with {} numbers at each, are more \
                     than {MOST_TOLD}: ask for fewer of them, or of their likeliest tokens",
                    top + 1
                );
                return Err(Refusal::bad(Some("logprobs"), problem));
            }
        }
        if most == 0 {
            return Ok(None);
        }
        let mut draw = SampleConfig { max_new_tokens: most, ..wanted.draw.clone() };
        if !wanted.seeded {
            let number = self.unseeded.fetch_add(1, Ordering::Relaxed);
            draw.seed = stream(self.seed, "serve", number).next_u64();
        }
        match draw.validate() {
            Ok(()) => Ok(Some(draw)),
            Err(error) => Err(Refusal::bad(Some(&error.field), error.to_string())),
        }
    }

    /// What each token of a prompt adds to its text. Tokens that were put around the text add nothing.
    fn pieces(&self, prompt: &Prompt) -> Vec<String> {
        let mut pieces = vec![String::new(); prompt.added];
        // Special tokens that the client wrote stay.
        let mut stream = self.tokenizer.stream(false);
        let mut text = |id: &u32| stream.push(*id).unwrap_or_default();
        pieces.extend(prompt.ids[prompt.added..].iter().map(&mut text));
        if let (Some(last), Ok(rest)) = (pieces.last_mut(), stream.finish()) {
            *last += &rest;
        }
        pieces
    }

    /// Fills in the log-probabilities of the completions of one prompt. With `echo`, the prompt's tokens are put before
    /// them.
    fn tell(&self, prompt: &Prompt, echo: bool, top: usize, completions: &[Vec<u32>], choices: &mut [Choice]) {
        let sequences: Vec<Vec<u32>> =
            completions.iter().map(|completion| [prompt.ids.as_slice(), completion].concat()).collect();
        let from = if echo { 1 } else { prompt.ids.len() };
        let mut batch = Batch::default();
        let slices: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
        let at = batch.push_sharing(&slices);
        let hidden = self.decoder.hidden(&batch, None);
        let pieces = if echo { self.pieces(prompt) } else { Vec::new() };
        for ((ids, at), choice) in sequences.iter().zip(&at).zip(choices) {
            let before: Vec<Told> =
                pieces.iter().zip(&prompt.ids).map(|(text, &id)| self.told(id, text.clone())).collect();
            choice.tokens.splice(0..0, before);
            let places: Vec<usize> = (from..ids.len()).collect();
            for places in places.chunks(LOGIT_ROWS) {
                let predicting = places.iter().map(|&place| u32::try_from(at[place - 1]).expect("a batch is shorter"));
                let predicting = rows(hidden.clone(), Arc::new(predicting.collect()));
                let logits =
                    to_host(linear(predicting, self.decoder.parameters[self.decoder.layout.head].clone(), None));
                for (&place, logits) in places.iter().zip(logits.chunks_exact(self.decoder.config.vocabulary)) {
                    let told = &mut choice.tokens[if echo { place } else { place - prompt.ids.len() }];
                    let normaliser = log_sum_exp(logits);
                    let log_prob = |id: u32| f64::from(logits[id as usize]) - normaliser;
                    told.log_prob = Some(log_prob(ids[place]));
                    let before = &ids[place.saturating_sub(WINDOW)..place];
                    let likeliest = likeliest(logits, top);
                    let own = |id: u32| match id == ids[place] {
                        true => told.own.clone(),
                        false => self.own(id, &self.added(before, id)),
                    };
                    told.top = likeliest.into_iter().map(|id| (own(id), log_prob(id))).collect();
                }
            }
        }
    }

    /// What a token would add to the text after others.
    fn added(&self, before: &[u32], id: u32) -> String {
        let decode = |ids: &[u32]| self.tokenizer.decode(ids, true).unwrap_or_default();
        let alone = decode(before);
        let both = decode(&[before, &[id]].concat());
        both.strip_prefix(alone.trim_end_matches('\u{fffd}')).unwrap_or_default().to_owned()
    }

    /// A token that adds `text`, without its log-probability.
    fn told(&self, id: u32, text: String) -> Told {
        Told { own: self.own(id, &text), text, log_prob: None, top: Vec::new() }
    }

    /// The token by itself that adds `text` to the text.
    fn own(&self, id: u32, text: &str) -> Own {
        let spelled = self.tokenizer.token(id).unwrap_or_default();
        if text.is_empty() && self.tokenizer.is_special(&spelled) {
            return Own { id, name: spelled, bytes: None };
        }
        let Some(bytes) = self.tokenizer.bytes(&spelled) else {
            return Own { id, name: text.to_owned(), bytes: Some(text.as_bytes().to_vec()) };
        };
        let name = match std::str::from_utf8(&bytes) {
            // A stop text may have cut the last token.
            Ok(whole) if !text.is_empty() && whole.starts_with(text) => text.to_owned(),
            // The added text may include bytes of earlier tokens that form no character.
            Ok(whole) => whole.to_owned(),
            Err(_) => return Own { id, name: escaped(&bytes), bytes: Some(bytes) },
        };
        Own { id, bytes: Some(name.clone().into_bytes()), name }
    }
}

/// Bytes that are not text, as OpenAI writes them.
fn escaped(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()
}

/// The client is gone, or the server ends.
fn ended() -> Refusal {
    Refusal { status: 503, message: "the server is shutting down".to_owned(), param: None, code: None }
}

fn no_threads(_: rayon::ThreadPoolBuildError) -> Refusal {
    let message = "there are no threads: try again later";
    Refusal::new(503, "overloaded", message)
}

/// A prompt as token ids.
struct Prompt {
    ids: Vec<u32>,
    /// How many of the first ids were put before the text. It is counted only where the prompt is repeated.
    added: usize,
}

/// A completion while it is written.
struct Track<'a> {
    stream: Option<Stream<'a>>,
    stops: &'a [String],
    /// Text so far, up to a stop text.
    text: String,
    /// Bytes of the text that were sent. An end that could begin a stop text is not sent.
    sent: usize,
    /// What each token added.
    pieces: Vec<String>,
    stopped: bool,
}

impl<'a> Track<'a> {
    /// After a prompt, so that the first token brings the space before it.
    fn new(tokenizer: &'a Tokenizer, prompt: &[u32], stops: &'a [String]) -> Self {
        let mut stream = tokenizer.stream(true);
        for &id in prompt {
            stream.push(id).ok();
        }
        Self { stream: Some(stream), stops, text: String::new(), sent: 0, pieces: Vec::new(), stopped: false }
    }

    /// What may be sent after one more token.
    fn push(&mut self, id: u32) -> String {
        let piece = self.stream.as_mut().and_then(|stream| stream.push(id).ok()).unwrap_or_default();
        self.text += &piece;
        self.pieces.push(piece);
        self.certain(false)
    }

    /// What is left to be sent at the end.
    fn finish(&mut self) -> String {
        let rest = self.stream.take().and_then(|stream| stream.finish().ok()).unwrap_or_default();
        if !self.stopped
            && let Some(last) = self.pieces.last_mut()
        {
            *last += &rest;
            self.text += &rest;
        }
        self.certain(true)
    }

    fn certain(&mut self, ended: bool) -> String {
        let unsent = &self.text[self.sent..];
        // A stop text cannot begin in what was sent: whatever could have begun one was held back.
        if let Some(at) = self.stops.iter().filter_map(|stop| unsent.find(stop.as_str())).min() {
            self.text.truncate(self.sent + at);
            self.stopped = true;
        }
        let held = if ended || self.stopped { 0 } else { held_back(&self.text[self.sent..], self.stops) };
        let end = self.text.len() - held;
        let certain = self.text[self.sent..end].to_owned();
        self.sent = end;
        certain
    }

    /// What each token of the text added. A last token that reaches into a stop text counts up to there.
    fn kept_pieces(&self) -> Vec<String> {
        let mut left = self.text.as_str();
        let mut kept = Vec::new();
        for piece in &self.pieces {
            if self.stopped && left.is_empty() {
                break;
            }
            let own = if left.starts_with(piece.as_str()) { piece.as_str() } else { left };
            kept.push(own.to_owned());
            left = &left[own.len()..];
        }
        kept
    }
}

/// Bytes at the end of a text that are the beginning of a stop text, but not the whole.
fn held_back(text: &str, stops: &[String]) -> usize {
    let of_stop = |stop: &String| {
        let ends = stop.char_indices().skip(1).map(|(end, _)| end).take_while(|&end| end <= text.len());
        let ends = ends.filter(|&end| text.ends_with(&stop[..end]));
        ends.max().unwrap_or(0)
    };
    stops.iter().map(of_stop).max().unwrap_or(0)
}

/// The field that the prompts are in.
fn param_of(wanted: &Wanted) -> &'static str {
    if wanted.chat { "messages" } else { "prompt" }
}

fn too_long(param: &str, problem: &str) -> Refusal {
    let refusal = Refusal::new(400, "context_length_exceeded", format!("{param}: {problem}"));
    Refusal { param: Some(param.to_owned()), ..refusal }
}

/// ln Σ exp, in f64.
fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    largest + logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum::<f64>().ln()
}

/// The likeliest tokens, the likeliest first; of equal ones the one with the smaller number.
fn likeliest(logits: &[f32], count: usize) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..u32::try_from(logits.len()).expect("a vocabulary has fewer than 2³² tokens")).collect();
    let order = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    if count < ids.len() {
        ids.select_nth_unstable_by(count, order);
        ids.truncate(count);
    }
    ids.sort_by(order);
    ids
}

/// How often a thread that waits for a place checks whether it has to end.
const GLANCE: Duration = Duration::from_millis(50);

/// A number of places, which threads take and give back.
pub(super) struct Gate {
    free: Mutex<usize>,
    left: Condvar,
}

/// Places that a thread has taken. They are given back when this is dropped.
pub(super) struct Pass<'a> {
    gate: &'a Gate,
    /// How many places.
    pub(super) taken: usize,
}

impl Gate {
    fn new(count: usize) -> Self {
        Self { free: Mutex::new(count.max(1)), left: Condvar::new() }
    }

    /// Waits for a free place, and takes up to `most` of them, but only half of the free ones if there are several.
    /// `None` when `ends` returns true before a place is free.
    pub(super) fn enter(&self, most: usize, ends: &dyn Fn() -> bool) -> Option<Pass<'_>> {
        let mut free = lock(&self.free);
        loop {
            if ends() {
                return None;
            }
            if *free > 0 {
                let taken = most.min(*free / 2).max(1);
                *free -= taken;
                return Some(Pass { gate: self, taken });
            }
            free = self.left.wait_timeout(free, GLANCE).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        *lock(&self.gate.free) += self.taken;
        self.gate.left.notify_all();
    }
}

/// Locks, also after a panic of another request.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A folder's name. For a folder called `model`, it is the name of the folder above it.
fn name_of(folder: &Path) -> String {
    let whole = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let own = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    match own(&whole) {
        Some(name) if name == "model" => whole.parent().and_then(own).unwrap_or(name),
        Some(name) => name,
        None => "model".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::{Own, Served, Track, Wanted, held_back, likeliest};
    use crate::lm::config::{ModelConfig, SmallLlama};
    use crate::lm::model::Decoder;
    use crate::lm::tokenizer::{Tokenizer, TokenizerConfig};

    fn stops(all: &[&str]) -> Vec<String> {
        all.iter().map(|&stop| stop.to_owned()).collect()
    }

    #[test]
    fn what_could_become_a_stop_text_is_held_back() {
        let all = stops(&["\n\nHuman:", "é!", "aab"]);
        assert_eq!(held_back("Yes", &all), 0);
        assert_eq!(held_back("Yes\n", &all), 1);
        assert_eq!(held_back("Yes\n\nHum", &all), 5);
        assert_eq!(held_back("café", &all), 2);
        // The whole of a stop text is not held back, it ends the text; and only its longest beginning counts.
        assert_eq!(held_back("xaa", &all), 2);
        assert_eq!(held_back("", &all), 0);
    }

    /// A tokenizer with a token for each byte: every text comes byte by byte.
    #[test]
    fn texts_come_without_stop_texts_and_without_halves_of_characters() {
        let config = TokenizerConfig { vocab_size: 257, ..TokenizerConfig::default() };
        let tokenizer = Tokenizer::train(std::iter::once("a".to_owned()), &config).unwrap();
        let run = |text: &str, stops: &[String]| {
            let mut track = Track::new(&tokenizer, &tokenizer.encode("x", true).unwrap(), stops);
            let mut sent = Vec::new();
            for id in tokenizer.encode(text, false).unwrap() {
                let piece = track.push(id);
                sent.push(piece);
                if track.stopped {
                    break;
                }
            }
            sent.push(track.finish());
            assert_eq!(sent.concat(), track.text);
            assert_eq!(track.kept_pieces().concat(), track.text);
            (track.text.clone(), track.stopped, sent)
        };
        assert_eq!(run("ab, no stop", &[]).0, "ab, no stop");
        let (text, stopped, sent) = run("ab\n\nHuman: c", &stops(&["\n\nHuman:"]));
        assert_eq!((text.as_str(), stopped), ("ab", true));
        assert!(sent.iter().all(|piece| !piece.contains('\n')), "{sent:?}");
        // What was held back for nothing comes after all, also at the end.
        assert_eq!(run("a\n\nHumble\n", &stops(&["\n\nHuman:", "\n\n\n"])).0, "a\n\nHumble\n");
        let (text, stopped, sent) = run("è 🙂é! no", &stops(&["é!"]));
        assert_eq!((text.as_str(), stopped), ("è 🙂", true));
        assert_eq!(sent.iter().filter(|piece| !piece.is_empty()).count(), 3, "{sent:?}");
        // The first stop text ends the text, whichever it is.
        assert_eq!(run("one two three", &stops(&["three", "two"])).0, "one ");
        assert_eq!(run("two", &stops(&["two"])).0, "");
    }

    /// A vocabulary in which `<0xE2>` is a byte, and one in which every character stands for one.
    #[test]
    fn parts_of_characters_have_their_own_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let vocabulary = serde_json::json!({
            "<unk>": 0, "</s>": 1, "<0xE2>": 2, "<0x82>": 3, "<0xAC>": 4, "▁a": 5, "<0x41>": 6, "é": 7, "<0xZZ>": 8
        });
        let special = |id: u32, text: &str| {
            serde_json::json!({
                "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                "special": true,
            })
        };
        let file = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
            "post_processor": null, "added_tokens": [special(0, "<unk>"), special(1, "</s>")],
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            ]},
            "model": {
                "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": vocabulary, "merges": [],
            },
        });
        std::fs::write(folder.path().join("tokenizer.json"), file.to_string()).unwrap();
        let fallback = Tokenizer::load(folder.path()).unwrap();
        let config = TokenizerConfig { vocab_size: 257, ..TokenizerConfig::default() };
        let bytes = Tokenizer::train(std::iter::once("a".to_owned()), &config).unwrap();
        let serve = |tokenizer: &Tokenizer, vocabulary: usize| {
            let size = SmallLlama { vocabulary, hidden: 8, layers: 1, heads: 1, context: 64 };
            let decoder = Decoder::new(ModelConfig::small_llama(size), 0, &Device::flex());
            Served::new("tiny".to_owned(), &decoder, tokenizer.clone(), None, None).unwrap()
        };
        let own = |served: &Served, id: u32, text: &str| {
            let Own { name, bytes, .. } = served.own(id, text);
            (name, bytes)
        };
        let told = |name: &str, bytes: &[u8]| (name.to_owned(), Some(bytes.to_vec()));
        let served = serve(&fallback, 9);
        assert_eq!(own(&served, 2, ""), told("\\xe2", &[0xe2]));
        assert_eq!(own(&served, 3, ""), told("\\x82", &[0x82]));
        // The last one adds the whole character, and is a part of it all the same.
        assert_eq!(own(&served, 4, "€"), told("\\xac", &[0xac]));
        assert_eq!(own(&served, 6, "A"), told("A", b"A"));
        assert_eq!(own(&served, 6, "\u{fffd}A"), told("A", b"A"));
        assert_eq!(own(&served, 5, " a"), told(" a", b" a"));
        assert_eq!(own(&served, 5, "a"), told("a", b"a"));
        assert_eq!(own(&served, 7, "é"), told("é", "é".as_bytes()));
        assert_eq!(own(&served, 8, "<0xZZ>"), told("<0xZZ>", b"<0xZZ>"));
        assert_eq!(own(&served, 1, ""), ("</s>".to_owned(), None));
        let served = serve(&bytes, 257);
        let ids = bytes.encode("€ A\n", false).unwrap();
        let found: Vec<_> = ids.iter().map(|&id| own(&served, id, "")).collect();
        let expected = [
            told("\\xe2", &[0xe2]),
            told("\\x82", &[0x82]),
            told("\\xac", &[0xac]),
            told(" ", b" "),
            told("A", b"A"),
            told("\n", b"\n"),
        ];
        assert_eq!(found, expected);
        // Every byte is one token's.
        let all: std::collections::BTreeSet<_> = (1..257).map(|id| own(&served, id, "").1).collect();
        assert_eq!(all.len(), 256);
        // Cut by a stop text, and special.
        assert_eq!(own(&served, ids[4], "A"), told("A", b"A"));
        assert_eq!(own(&served, 0, ""), ("<|endoftext|>".to_owned(), None));
        // What is told in the place of a part of a character: parts apart.
        let wanted = Wanted::read(
            &serde_json::to_vec(&serde_json::json!({
                "messages": [{"role": "user", "content": "a"}], "max_tokens": 8, "seed": 1, "logprobs": true, "top_logprobs": 20,
            }))
            .unwrap(),
            true,
            "tiny",
        )
        .unwrap();
        let answer = served.write(&wanted, &|| false, &|_, _| true).unwrap();
        for told in &answer.choices[0].tokens {
            let names: std::collections::BTreeSet<_> = told.top.iter().map(|(own, _)| &own.name).collect();
            assert_eq!(names.len(), 20, "{names:?}");
            assert!(told.top.iter().all(|(own, _)| own.bytes.as_deref() != Some("\u{fffd}".as_bytes())));
        }
    }

    #[test]
    fn the_likeliest_come_first_and_equals_by_number() {
        assert_eq!(likeliest(&[0.1, 3.0, 2.0, 3.0, -1.0], 3), [1, 3, 2]);
        assert_eq!(likeliest(&[0.1, 3.0], 5), [1, 0]);
        assert_eq!(likeliest(&[0.1, 3.0], 0), [0_u32; 0]);
    }
}
