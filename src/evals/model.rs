//! Whatever answers questions and writes texts: a folder of this machine, or a server.

use serde::{Deserialize, Serialize};

use super::error::ModelError;
use crate::lm::chat::Message;
use crate::lm::sample::SampleConfig;

/// Is told how many more questions are answered, or prompts completed. Several threads call it.
pub type Done<'a> = dyn Fn(usize) + Sync + 'a;

/// A model that answers questions and writes texts.
pub trait Model: Send + Sync {
    /// Its name in tables. A server that was opened without a model's name is called by its address until [`Model::settle`].
    fn name(&self) -> &str;

    /// Finds out the name, which does not change from then on.
    ///
    /// # Errors
    /// [`ModelError`]: a server that does not answer, or has several models.
    fn settle(&self) -> Result<(), ModelError> {
        Ok(())
    }

    /// Number of its parameters, where that is known.
    fn parameters(&self) -> Option<usize> {
        None
    }

    /// The most tokens that it reads and writes together, where that is known.
    fn context(&self) -> Option<usize> {
        None
    }

    /// Whether there is room to write as much as is wanted after a prompt. A server may only find out when it writes.
    ///
    /// # Errors
    /// [`ModelError`] with the lengths, where it cannot.
    fn fits(&self, _prompt: &Prompt, _sampling: &Sampling) -> Result<(), ModelError> {
        Ok(())
    }

    /// How likely every answer to every question is.
    ///
    /// # Errors
    /// [`ModelError`]. Nothing that a server has answered is lost: it is in the cache.
    fn answers(&self, asked: &[ClosedQuestion], done: &Done<'_>) -> Result<Vec<AnswerProbabilities>, ModelError>;

    /// What it writes after each prompt. Prompt i draws from stream `first + i` of the seed, so that a long list can be
    /// written in pieces; a server is given `seed + first + i`.
    ///
    /// # Errors
    /// [`ModelError`], also for a prompt that leaves no room. What a server has written is in the cache.
    fn write(
        &self,
        prompts: &[Prompt],
        sampling: &Sampling,
        first: u64,
        done: &Done<'_>,
    ) -> Result<Vec<Written>, ModelError>;

    /// What the user should know when the work is done: prompts that were cut, requests and their cost.
    fn remarks(&self) -> Vec<String> {
        Vec::new()
    }
}

/// What a model reads before it answers or writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Prompt {
    /// Text that it goes on with.
    Text(String),
    /// Turns of a conversation. The assistant speaks next.
    Chat(Vec<Message>),
}

/// A question with its possible answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosedQuestion {
    /// The question.
    pub prompt: Prompt,
    /// The answers, each with the space before it. No answer begins with another one.
    pub answers: Vec<String>,
}

/// How likely answers are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnswerProbabilities {
    /// log P(answer | question) of each, nats.
    pub log_probs: Vec<f64>,
    /// How they were found.
    pub how: How,
    /// Whether the prompt lost its beginning, being too long.
    pub cut: bool,
    /// Whether they are conditional on what the answers have in common at their beginning, so that their sum says nothing
    /// about other answers.
    pub conditional: bool,
}

/// How probabilities of answers were found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// From the log-probabilities of all their tokens.
    #[default]
    Exact,
    /// From the likeliest first tokens, which a server tells. An answer that begins with none of them is given the
    /// probability of the least likely one: it has no more.
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
    /// Texts before which a written text ends.
    pub stop: Vec<String>,
    /// Seed of every draw.
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
pub enum PromptForm {
    /// "Human: QUESTION\n\nAssistant:", the paper's.
    Dialogue,
    /// The question alone, as lm-evaluation-harness has it.
    Bare,
    /// A turn of a conversation, by the model's chat template.
    Chat,
}

impl PromptForm {
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
    /// [`ModelError::Config`], naming the first one out of range.
    pub fn validate(&self) -> Result<(), ModelError> {
        if let Some(i) = self.stop.iter().position(String::is_empty) {
            return Err(ModelError::Config(format!("stop: number {} is empty: must be text", i + 1)));
        }
        self.sample_config().validate().map_err(|error| ModelError::Config(error.to_string()))
    }

    pub(super) fn sample_config(&self) -> SampleConfig {
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
