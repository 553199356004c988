//! Whatever answers questions and writes texts: a folder of this machine, or a server.

use std::path::Path;

use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use serde::{Deserialize, Serialize};

use super::endpoint::{Endpoint, EndpointConfig, EndpointError};
use crate::device::{self, DeviceChoice, DeviceError};
use crate::lm::batch::{Batch, Targets};
use crate::lm::chat::{ChatTemplate, Message};
use crate::lm::config::Output;
use crate::lm::data::Encoded;
use crate::lm::folder;
use crate::lm::model::Decoder;
use crate::lm::run::{LmError, eos_of, tokenizer_of};
use crate::lm::sample::{Completion, Finish, SampleConfig, generate};
use crate::lm::tokenizer::Tokenizer;
use crate::lm::train::cut;
use crate::nn::to_host;

/// Something that answers and writes.
pub trait Model: Send + Sync {
    /// What tables call it.
    fn name(&self) -> &str;

    /// Number of its parameters, where that is known.
    fn parameters(&self) -> Option<usize>;

    /// How likely every answer to every question is. `done` is told of how many more questions are answered, from several
    /// threads.
    ///
    /// # Errors
    /// [`ModelError`]. Nothing that a server has answered is lost: it is in the cache.
    fn answers(&self, asked: &[Asked], done: &(dyn Fn(usize) + Sync)) -> Result<Vec<Answered>, ModelError>;

    /// What it writes after each prompt. Prompt i draws from stream `first + i` of the seed, so that a long list can be
    /// written in pieces; a server is given `seed + first + i`.
    ///
    /// # Errors
    /// [`ModelError`], likewise.
    fn write(
        &self,
        prompts: &[Prompt],
        sampling: &Sampling,
        first: u64,
        done: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<Written>, ModelError>;

    /// What the user should know when the work is done, such as prompts that were cut, requests and their cost.
    fn remarks(&self) -> Vec<String>;
}

/// What a model reads before it answers or writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Prompt {
    /// Text that it goes on with.
    Text(String),
    /// Turns of a conversation, with the assistant to speak next.
    Chat(Vec<Message>),
}

/// A question, and its possible answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The question.
    pub prompt: Prompt,
    /// The answers, with the space before them; no one begins with another.
    pub answers: Vec<String>,
}

/// How likely answers are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    /// log P(answer | question) of each, nats.
    pub log_probs: Vec<f64>,
    /// How they were found.
    pub how: How,
}

/// How probabilities of answers were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// By the log-probabilities of all of their tokens.
    Exact,
    /// By the likeliest first tokens that a server tells; an answer that is not among them has at most the probability of
    /// the least likely one told.
    FirstToken,
    /// As shares of answers that were written.
    Written,
}

/// How texts are drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// Most tokens.
    pub max_new_tokens: usize,
    /// Divides the logits; 0 takes the likeliest token.
    pub temperature: f64,
    /// Draws among the likeliest tokens that have this probability together.
    pub top_p: f64,
    /// A text ends before any of these.
    pub stop: Vec<String>,
    /// Of every draw.
    pub seed: u64,
}

/// A text that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The text, without what ended it.
    pub text: String,
    /// Whether it ended by itself or before a stop text, not by its length.
    pub ended: bool,
}

/// How a question becomes a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// "Human: QUESTION\n\nAssistant:", the paper's.
    Dialogue,
    /// The question alone, as lm-evaluation-harness has it.
    Bare,
    /// A turn of a conversation, by the model's chat template.
    Chat,
}

/// A model that cannot be had, or fails.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A folder's.
    #[error(transparent)]
    Lm(#[from] LmError),
    /// A server's.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// This machine's.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// It cannot do what is wanted.
    #[error("{0}")]
    Config(String),
}

/// Opens a folder, or a server: `http://HOST:PORT/v1#NAME`.
///
/// # Errors
/// [`ModelError`]. Whether a server answers is seen at the first request.
pub fn open(spec: &str, config: &EndpointConfig, template: Option<&str>) -> Result<Box<dyn Model>, ModelError> {
    if spec.starts_with("http://") || spec.starts_with("https://") {
        return Ok(Box::new(Endpoint::open(spec, config)?));
    }
    Ok(Box::new(Local::open(Path::new(spec), template)?))
}

impl Form {
    /// The prompt of a question.
    #[must_use]
    pub fn prompt(self, question: &str) -> Prompt {
        match self {
            Self::Dialogue => Prompt::Text(format!("Human: {question}\n\nAssistant:")),
            Self::Bare => Prompt::Text(question.to_owned()),
            Self::Chat => Prompt::Chat(vec![Message::new("user", question)]),
        }
    }
}

impl Default for Sampling {
    fn default() -> Self {
        Self { max_new_tokens: 48, temperature: 1.0, top_p: 1.0, stop: Vec::new(), seed: 0 }
    }
}

impl Sampling {
    /// Checks the numbers.
    ///
    /// # Errors
    /// Naming the first one out of range.
    pub fn validate(&self) -> Result<(), String> {
        if let Some(i) = self.stop.iter().position(String::is_empty) {
            return Err(format!("stop: number {} is empty: must be text", i + 1));
        }
        self.sample_config().validate()
    }

    fn sample_config(&self) -> SampleConfig {
        SampleConfig {
            max_new_tokens: self.max_new_tokens,
            temperature: self.temperature,
            top_p: self.top_p,
            seed: self.seed,
            ..SampleConfig::default()
        }
    }

    /// A text up to the first of the stop texts, and whether one was found.
    #[must_use]
    pub fn stopped(&self, text: &str) -> (String, bool) {
        match self.stop.iter().filter_map(|stop| text.find(stop.as_str())).min() {
            Some(at) => (text[..at].to_owned(), true),
            None => (text.to_owned(), false),
        }
    }
}

/// A model of this machine.
pub struct Local {
    name: String,
    decoder: Decoder,
    tokenizer: Tokenizer,
    /// For prompts that are conversations.
    template: Option<ChatTemplate>,
    eos: Vec<u32>,
    remarks: Vec<String>,
    /// Prompts that lost their beginning, being too long.
    cut: std::sync::atomic::AtomicUsize,
}

/// Tokens that are computed together.
const PART_TOKENS: usize = 2048;

impl Local {
    /// Reads a folder; `template` is a chat template by name or file.
    ///
    /// # Errors
    /// [`ModelError`]: no model, one that scores, a missing tokenizer.
    pub fn open(folder: &Path, template: Option<&str>) -> Result<Self, ModelError> {
        let device = device::pick(DeviceChoice::Cpu)?;
        let loaded = folder::read(folder, &device).map_err(LmError::from)?;
        if loaded.decoder.config.output != Output::Tokens {
            let problem = format!("{}: is a model that scores, not one that writes", folder.display());
            return Err(ModelError::Config(problem));
        }
        let tokenizer = tokenizer_of(&loaded)?;
        let template = ChatTemplate::wanted(&tokenizer, template).map_err(LmError::from)?;
        let remarks = loaded.remarks.clone();
        let decoder = folder::merged(&loaded.decoder);
        Ok(Self::new(name_of(folder), decoder, tokenizer, template, remarks))
    }

    /// One that is in memory.
    #[must_use]
    pub fn new(
        name: String,
        decoder: Decoder,
        tokenizer: Tokenizer,
        template: Option<ChatTemplate>,
        remarks: Vec<String>,
    ) -> Self {
        let eos = eos_of(&decoder, &tokenizer);
        Self { name, decoder, tokenizer, template, eos, remarks, cut: 0.into() }
    }

    /// The text of a prompt, and whether special tokens are to be put around it.
    fn text(&self, prompt: &Prompt) -> Result<(String, bool), ModelError> {
        match prompt {
            Prompt::Text(text) => Ok((text.clone(), true)),
            Prompt::Chat(messages) => {
                let template = self.template.as_ref().ok_or_else(|| {
                    ModelError::Config(format!(
                        "{}: has no chat template: choose one (--chat-template hh), or another --form",
                        self.name
                    ))
                })?;
                Ok((template.render(messages, true).map_err(LmError::from)?, false))
            }
        }
    }

    fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, ModelError> {
        Ok(self.tokenizer.encode(text, special).map_err(LmError::from)?)
    }

    /// The last tokens that leave room for `room` more.
    fn fitted(&self, mut ids: Vec<u32>, room: usize) -> Vec<u32> {
        let most = self.decoder.config.context.saturating_sub(room).max(1);
        if ids.len() > most {
            self.cut.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            ids.drain(..ids.len() - most);
        }
        ids
    }

    /// What a completion adds to its prompt's text: some tokenizers drop a space at the beginning of a text.
    fn continuation(&self, prompt: &[u32], written: &[u32]) -> Result<String, ModelError> {
        // The last token is enough to be in the middle of a text.
        let before = &prompt[prompt.len().saturating_sub(1)..];
        let decode = |ids: &[u32]| self.tokenizer.decode(ids, true).map_err(LmError::from);
        let (before_text, all) = (decode(before)?, decode(&[before, written].concat())?);
        Ok(all.strip_prefix(&before_text).map_or_else(|| decode(written), |text| Ok(text.to_owned()))?)
    }

    /// A question with each of its answers, tokenised together: an answer begins where these differ from the question.
    fn encoded(&self, asked: &Asked) -> Result<Vec<Encoded>, ModelError> {
        let (prompt, special) = self.text(&asked.prompt)?;
        let prompt_ids = self.encode(&prompt, special)?;
        let mut all = Vec::with_capacity(asked.answers.len());
        for answer in &asked.answers {
            // Where a template ends with white space, the answer brings none of its own; texts are taken as they are.
            let bare = matches!(asked.prompt, Prompt::Chat(_)) && prompt.ends_with(char::is_whitespace);
            let answer = if bare { answer.trim_start() } else { answer };
            let ids = self.encode(&format!("{prompt}{answer}"), special)?;
            let same = ids.iter().zip(&prompt_ids).take_while(|(a, b)| a == b).count();
            all.push(Encoded { prompt_len: same.min(ids.len().saturating_sub(1)), ids });
        }
        // All answers are scored from one place on.
        let shared = all.iter().map(|encoded| encoded.prompt_len).min().unwrap_or(0);
        let longest = all.iter().map(|encoded| encoded.ids.len()).max().unwrap_or(0);
        let over = longest.saturating_sub(self.decoder.config.context);
        if over > 0 {
            self.cut.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        if over >= shared && over > 0 {
            return Err(ModelError::Config(format!(
                "{}: an answer has more tokens than the context of {}: {:?}",
                self.name, self.decoder.config.context, asked.answers
            )));
        }
        all.iter_mut().for_each(|encoded| {
            encoded.ids.drain(..over);
            encoded.prompt_len = shared - over;
        });
        Ok(all)
    }
}

impl Model for Local {
    fn name(&self) -> &str {
        &self.name
    }

    fn parameters(&self) -> Option<usize> {
        Some(self.decoder.config.parameters())
    }

    fn answers(&self, asked: &[Asked], done: &(dyn Fn(usize) + Sync)) -> Result<Vec<Answered>, ModelError> {
        let encoded: Vec<Vec<Encoded>> =
            asked.par_iter().map(|asked| self.encoded(asked)).collect::<Result<_, ModelError>>()?;
        let all: Vec<usize> = (0..encoded.len()).collect();
        let length = |i: usize| encoded[i].iter().map(|one| one.ids.len()).max().unwrap_or(0);
        let of_part = |part: &Vec<usize>| {
            let (mut batch, mut targets) = (Batch::default(), Targets::default());
            for &i in part {
                let ids: Vec<&[u32]> = encoded[i].iter().map(|one| one.ids.as_slice()).collect();
                let rows = batch.push_sharing(&ids);
                for (one, rows) in encoded[i].iter().zip(&rows) {
                    targets.push(&one.ids, rows, one.prompt_len);
                }
            }
            let values = to_host(self.decoder.log_probs(self.decoder.hidden(&batch, None), &targets, 1.0).0);
            done(part.len());
            let mut sums = targets.sums(&values).into_iter();
            let one = |&i: &usize| sums.by_ref().take(encoded[i].len()).collect();
            part.iter().map(one).collect::<Vec<Vec<f64>>>()
        };
        let parts = cut(length, &all, PART_TOKENS);
        let found: Vec<Vec<f64>> = parts.par_iter().flat_map(of_part).collect();
        Ok(found.into_iter().map(|log_probs| Answered { log_probs, how: How::Exact }).collect())
    }

    fn write(
        &self,
        prompts: &[Prompt],
        sampling: &Sampling,
        first: u64,
        done: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<Written>, ModelError> {
        let mut ids = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            let (text, special) = self.text(prompt)?;
            let mut own = self.encode(&text, special)?;
            if own.is_empty() {
                // A model that was trained on texts between EOS tokens begins one after it.
                own.extend(self.eos.first());
            }
            ids.push(self.fitted(own, sampling.max_new_tokens));
        }
        if ids.iter().any(Vec::is_empty) {
            return Err(ModelError::Config(format!(
                "{}: a prompt is empty, and there is no token to begin with",
                self.name
            )));
        }
        // What follows stays the same when more is written, so a stop text that was seen is there to stay.
        let goes_on = |number: usize, written: &[u32]| {
            sampling.stop.is_empty()
                || self.continuation(&ids[number], written).is_ok_and(|text| !sampling.stopped(&text).1)
        };
        let completions = generate(&self.decoder, &ids, &sampling.sample_config(), &self.eos, first, &goes_on);
        done(prompts.len());
        let one = |(prompt, completion): (&Vec<u32>, &Completion)| {
            let text = self.continuation(prompt, &completion.ids)?;
            let (text, stopped) = sampling.stopped(&text);
            Ok(Written { text, ended: stopped || completion.finish != Finish::Length })
        };
        ids.iter().zip(&completions).map(one).collect()
    }

    fn remarks(&self) -> Vec<String> {
        let cut = self.cut.load(std::sync::atomic::Ordering::Relaxed);
        let note = (cut > 0).then(|| {
            let context = self.decoder.config.context;
            format!("{}: {cut} prompts did not fit the context of {context} tokens and lost their beginning", self.name)
        });
        self.remarks.iter().cloned().chain(note).collect()
    }
}

/// A folder's name as tables have it: `model` says less than what it is in.
fn name_of(folder: &Path) -> String {
    let own = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    match own(folder) {
        Some(name) if name == "model" => folder.parent().and_then(own).unwrap_or(name),
        Some(name) => name,
        None => folder.display().to_string(),
    }
}
