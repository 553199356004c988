//! Measures of a policy's completions: how far the policy has moved from its reference, and the gold reward.

use serde::{Deserialize, Serialize};

use super::data::Encoded;
use super::error::LmError;
use super::gold::{Gold, Scored};
use super::model::Decoder;
use super::sample::{Completion, Finish, SampleConfig, generate};
use super::score;
use super::tokenizer::Tokenizer;
use crate::preference::statistics::sample_variance;

/// Measures of a policy's completions: means with standard errors.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sampled {
    /// Number of completions.
    pub count: usize,
    /// Divergence of the policy from the reference over whole completions, nats: the mean of
    /// log π(y | x) − log π_ref(y | x) over y ~ π ("k1", Schulman 2020).
    pub kl: Estimate,
    /// The same divergence, estimated by "k3": Σ over tokens of e^(−d) − 1 + d. It is never negative, and has less
    /// variance near 0.
    pub kl_k3: Estimate,
    /// Tokens of a completion.
    pub length: Estimate,
    /// Share of completions that end by themselves.
    pub ended: f64,
    /// The gold reward.
    pub gold: Option<Estimate>,
}

/// A mean and its standard error.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its standard error over completions; `None` for a single completion.
    #[serde(default)]
    pub error: Option<f64>,
}

impl Estimate {
    /// The estimate from values that were drawn independently. There must be at least one.
    #[must_use]
    pub fn of(values: &[f64]) -> Self {
        let (mean, variance) = sample_variance(values);
        Self { mean, error: (values.len() > 1).then(|| (variance / values.len() as f64).sqrt()) }
    }

    /// " ± error", or nothing where there is no error.
    #[must_use]
    pub fn plus_minus(&self, digits: usize) -> String {
        self.error.map_or_else(String::new, |error| format!(" ± {error:.digits$}"))
    }
}

impl Sampled {
    /// The means by the names under which they are logged.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let always = [
            ("kl", self.kl.mean),
            ("kl_k3", self.kl_k3.mean),
            ("completions/sampled_length", self.length.mean),
            ("completions/ended", self.ended),
        ];
        always.into_iter().chain(self.gold.map(|gold| ("gold_reward", gold.mean)))
    }
}

/// The first stream of evaluations. It is far from the streams of training with the same seed.
const FIRST_STREAM: u64 = 1 << 40;

/// Lets the policy complete the prompts at temperature 1, and measures.
///
/// # Errors
/// Errors of the gold reward and of decoding.
pub fn sampled(
    policy: &Decoder,
    reference: &Decoder,
    prompts: &[Vec<u32>],
    max_new_tokens: usize,
    eos: &[u32],
    seed: u64,
    part_tokens: usize,
    gold: Option<(&dyn Gold, &Tokenizer)>,
) -> Result<Sampled, LmError> {
    let config = SampleConfig { max_new_tokens, seed, ..SampleConfig::default() };
    let completions = generate(policy, prompts, &config, eos, FIRST_STREAM, &|_, _| true);
    let (kl, kl_k3) = divergences(policy, reference, prompts, &completions, part_tokens);
    let lengths: Vec<f64> = completions.iter().map(|completion| completion.ids.len() as f64).collect();
    let ended = completions.iter().filter(|completion| completion.finish == Finish::Eos).count();
    let gold = match gold {
        None => None,
        Some((gold, tokenizer)) => Some(Estimate::of(&gold_scores(gold, tokenizer, prompts, &completions)?)),
    };
    Ok(Sampled {
        count: completions.len(),
        kl: Estimate::of(&kl),
        kl_k3: Estimate::of(&kl_k3),
        length: Estimate::of(&lengths),
        ended: ended as f64 / completions.len().max(1) as f64,
        gold,
    })
}

/// Estimates k1 and k3 of the divergence over each completion, nats.
#[must_use]
pub fn divergences(
    policy: &Decoder,
    reference: &Decoder,
    prompts: &[Vec<u32>],
    completions: &[Completion],
    part_tokens: usize,
) -> (Vec<f64>, Vec<f64>) {
    let sequence = |(prompt, completion): (&Vec<u32>, &Completion)| Encoded::new(prompt, &completion.ids);
    let sequences: Vec<Encoded> = prompts.iter().zip(completions).map(sequence).collect();
    let [own, others] =
        [policy, reference].map(|model| score::token_log_probs(model, &sequences, part_tokens, &|_| ()));
    let differences = |(own, other): (&Vec<f32>, &Vec<f32>)| -> (f64, f64) {
        let of_token = |(own, other): (&f32, &f32)| {
            let difference = f64::from(*own) - f64::from(*other);
            (difference, (-difference).exp() - 1.0 + difference)
        };
        own.iter().zip(other).map(of_token).fold((0.0, 0.0), |sum, of| (sum.0 + of.0, sum.1 + of.1))
    };
    own.iter().zip(&others).map(differences).unzip()
}

/// The gold reward of each completion, as text.
///
/// # Errors
/// Errors of the reward, and of decoding.
pub fn gold_scores(
    gold: &dyn Gold,
    tokenizer: &Tokenizer,
    prompts: &[Vec<u32>],
    completions: &[Completion],
) -> Result<Vec<f64>, LmError> {
    let written = prompts.iter().zip(completions);
    scores_of(gold, tokenizer, written.map(|(prompt, completion)| (prompt.as_slice(), completion.ids.as_slice())))
}

/// The gold reward of each prompt with its completion, as text.
pub(super) fn scores_of<'a>(
    gold: &dyn Gold,
    tokenizer: &Tokenizer,
    written: impl Iterator<Item = (&'a [u32], &'a [u32])>,
) -> Result<Vec<f64>, LmError> {
    let text = |(prompt, completion): (&[u32], &[u32])| -> Result<(String, String), LmError> {
        Ok((tokenizer.decode(prompt, true)?, tokenizer.decode(completion, true)?))
    };
    let texts = written.map(text).collect::<Result<Vec<_>, _>>()?;
    let rows: Vec<Scored<'_>> = texts.iter().map(|(prompt, completion)| Scored { prompt, completion }).collect();
    Ok(gold.scores(&rows)?)
}
