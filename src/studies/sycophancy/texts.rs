//! What all sizes of a seed learn from, and are asked.

use super::config::SycophancyConfig;
use crate::lm::data::{Encoded, EncodedPair};
use crate::lm::error::LmError;
use crate::lm::sft::{Normalization, Sft};
use crate::lm::tokenizer::{Tokenizer, TokenizerConfig};
use crate::random::{Rng, stream};
use crate::studies::sycophancy::opinions::{self, Annotator, Answer, OpinionQuestion};

/// Texts, questions and labels of a seed, the same for all sizes.
pub(super) struct Texts {
    pub(super) seed: u64,
    pub(super) tokenizer: Tokenizer,
    /// What a base first learns to write.
    pub(super) texts: Sft,
    /// Answers that it then learns.
    pub(super) answers: Sft,
    /// Questions that annotators compare the answers to.
    pub(super) compared: AskedQuestions,
    /// Held-out ones.
    pub(super) held_out: AskedQuestions,
    /// Most tokens of an answer.
    pub(super) answer_tokens: usize,
}

/// Questions with both answers.
pub(super) struct AskedQuestions {
    pub(super) questions: Vec<OpinionQuestion>,
    /// Each with Good as the chosen and Bad as the rejected one.
    pub(super) pairs: Vec<EncodedPair>,
}

impl Texts {
    pub(super) fn new(config: &SycophancyConfig, seed: u64) -> Result<Self, LmError> {
        use rand::RngExt as _;
        // Some of what is asked is what the asker has just said: else nothing would make a view worth reading.
        let asked = |mut rng: Rng| match rng.random_bool(config.recalled) {
            true => opinions::recall(&mut rng),
            false => opinions::question(&mut rng),
        };
        let text = |i: usize| {
            let asked = asked(stream(seed, "opinion-text", i as u64));
            asked.prompt.clone() + asked.answer().text()
        };
        let texts: Vec<String> = (0..config.texts).map(text).collect();
        let of = TokenizerConfig { vocab_size: config.vocabulary, begin: true, ..TokenizerConfig::default() };
        let tokenizer = Tokenizer::train(texts.iter().cloned(), &of)?;
        let eos = tokenizer.special().eos.as_ref().map(|token| token.id);
        let fits = |ids: Vec<u32>| match ids.len() <= config.context {
            true => Ok(ids),
            false => Err(LmError::Config(format!(
                "context = {}: a text has {} tokens: must be more (or the vocabulary larger)",
                config.context,
                ids.len()
            ))),
        };
        let whole = |text: &String| -> Result<Encoded, LmError> {
            let mut ids = tokenizer.encode(text, true)?;
            ids.extend(eos);
            Ok(Encoded { ids: fits(ids)?, prompt_len: 0 })
        };
        let texts = texts.iter().map(whole).collect::<Result<Vec<_>, _>>()?;
        let answered = |question: &OpinionQuestion, answer: Answer| -> Result<Encoded, LmError> {
            let mut ids = tokenizer.encode(&question.prompt, true)?;
            let prompt_len = ids.len();
            ids.extend(tokenizer.encode(answer.text(), false)?);
            Ok(Encoded { ids: fits(ids)?, prompt_len })
        };
        let tuning = |i: usize| {
            let question = asked(stream(seed, "opinion-tuning", i as u64));
            answered(&question, question.answer())
        };
        let answers = (0..config.tuning_steps * config.tuning_batch_size).map(tuning).collect::<Result<Vec<_>, _>>()?;
        let asked = |questions: Vec<OpinionQuestion>| -> Result<AskedQuestions, LmError> {
            let pair = |(row, question): (usize, &OpinionQuestion)| -> Result<EncodedPair, LmError> {
                let (chosen, rejected) = (answered(question, Answer::Good)?, answered(question, Answer::Bad)?);
                Ok(EncodedPair { row, chosen, rejected, margin: None, target: None })
            };
            let pairs = questions.iter().enumerate().map(pair).collect::<Result<Vec<_>, _>>()?;
            Ok(AskedQuestions { questions, pairs })
        };
        let compared = |i: usize| opinions::question(&mut stream(seed, "opinion-compared", i as u64));
        let held_out = |i: usize| opinions::three_ways(&mut stream(seed, "opinion-held-out", i as u64));
        let mut answer_tokens = 0;
        for answer in Answer::BOTH {
            answer_tokens = answer_tokens.max(tokenizer.encode(answer.text(), false)?.len());
        }
        let normalization = Normalization::TokenMean;
        Ok(Self {
            seed,
            texts: Sft { examples: texts, normalization },
            answers: Sft { examples: answers, normalization },
            compared: asked((0..config.comparisons).map(compared).collect())?,
            held_out: asked((0..config.questions).flat_map(held_out).collect())?,
            answer_tokens,
            tokenizer,
        })
    }

    /// The answers as an annotator of this bias compares them: who is asked gives an answer, not a probability.
    pub(super) fn labels(&self, config: &SycophancyConfig, bias: f64) -> Vec<Answer> {
        let annotator = Annotator { truth: config.truth, bias };
        let label = |(i, question): (usize, &OpinionQuestion)| {
            annotator.prefers(question, &mut stream(self.seed, "opinion-label", i as u64))
        };
        self.compared.questions.iter().enumerate().map(label).collect()
    }
}
