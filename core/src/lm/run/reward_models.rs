//! Reward models that runs left, one or an ensemble, and what to ask next (Christiano et al. 2017, arXiv 1706.03741,
//! §2.2.3). The members of an ensemble differ by the first weights of their score heads, the order of their examples and the
//! comparisons that they see. So they agree where comparisons have settled the question, and disagree where a further
//! comparison would help (§2.2.4).

use std::path::Path;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::config::LmConfig;
use super::course::read_config;
use super::outcome::member_folder;
use crate::lm::config::Output;
use crate::lm::data::EncodedPair;
use crate::lm::error::LmError;
use crate::lm::folder;
use crate::lm::model::Decoder;
use crate::lm::open::tokenizer_of;
use crate::lm::reward::{RewardLoss, positions, probabilities};
use crate::lm::tokenizer::Tokenizer;
use crate::preference::Likelihood;
use crate::preference::query::{Candidates, Reads, Sampler, disagreement, entropy};
use crate::random::Rng;

/// Reward models that read the same tokens: the members of an ensemble, or a single one.
#[derive(Debug, Clone)]
pub struct RewardModels {
    /// The models, adapters merged.
    pub members: Vec<Decoder>,
    /// Their tokenizer.
    pub tokenizer: Tokenizer,
    /// How differences of their scores become probabilities.
    pub likelihood: Likelihood,
    /// The configuration of the run that they come from, where a run's folder was given.
    pub config: Option<LmConfig>,
    /// What the user should know of their folders.
    pub remarks: Vec<String>,
}

/// A candidate that was chosen to be asked about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Query {
    /// Number of the candidate.
    pub candidate: usize,
    /// Variance over members of P[first is preferred].
    pub disagreement: f64,
    /// Mean over members of the entropy of their prediction, nats.
    pub entropy: f64,
    /// P[first is preferred] of each member. The first side is the one called chosen.
    pub probabilities: Vec<f64>,
}

/// Reads reward models from the folder of a run (of one model, or of an ensemble), or from a model's folder.
///
/// # Errors
/// [`LmError`]: a run of another stage, a run that is not finished, or a model that does not score.
pub fn read(path: &Path, device: &Device) -> Result<RewardModels, LmError> {
    let config = path.join("config.toml").is_file().then(|| read_config(path)).transpose()?;
    let wrong = |problem: String| Err(LmError::Config(format!("{}: {problem}", path.display())));
    let folders = match config.as_ref().map(|config| config.reward) {
        None => vec![path.to_owned()],
        Some(None) => {
            return wrong("is a run of another stage, not of a reward model (`lm reward` makes one)".to_owned());
        }
        Some(Some(reward)) if reward.is_ensemble() => {
            (0..reward.members).map(|member| member_folder(path, member).join("model")).collect()
        }
        Some(Some(_)) => vec![path.join("model")],
    };
    if config.is_some() && folders.iter().any(|folder| !folder.is_dir()) {
        return wrong(format!("is not finished; go on with: pairwise lm resume {}", path.display()));
    }
    let (mut members, mut remarks, mut tokenizer) = (Vec::new(), Vec::new(), None);
    for folder in folders {
        let loaded = folder::read(&folder, device)?;
        if loaded.decoder.config.output == Output::Tokens {
            return wrong("is a model that writes, not a reward model (`lm reward` makes one)".to_owned());
        }
        let own = tokenizer_of(&folder, &loaded)?;
        if tokenizer.get_or_insert_with(|| own.clone()).fingerprint() != own.fingerprint() {
            return wrong(format!("{} has another tokenizer than the first member", folder.display()));
        }
        members.push(folder::merged(&loaded.decoder));
        remarks.extend(loaded.remarks);
    }
    let tokenizer = tokenizer.expect("an ensemble has a member, as its configuration was checked");
    let likelihood = config.as_ref().and_then(|config| config.reward).map(|reward| reward.likelihood);
    let likelihood = likelihood.unwrap_or(RewardLoss::default().likelihood);
    Ok(RewardModels { members, tokenizer, likelihood, config, remarks })
}

/// Chooses `count` candidates to ask about, in the order in which to ask: see [`Sampler::select`]. Which side of a candidate is
/// called chosen means nothing. `asked` are the candidates that were asked before; k-center keeps away from them.
#[must_use]
pub fn choose(
    models: &RewardModels,
    candidates: &[EncodedPair],
    asked: &[EncodedPair],
    sampler: &Sampler,
    count: usize,
    part_tokens: usize,
    rng: &mut Rng,
) -> Vec<Query> {
    let RewardModels { members, likelihood, .. } = models;
    let all = probabilities(members, candidates, likelihood, part_tokens);
    let places = |pairs| match sampler.reads.contains(&Reads::Positions) {
        true => positions(members, pairs, part_tokens),
        false => Vec::new(),
    };
    let (positions, labelled) = (places(candidates), places(asked));
    let to_choose =
        Candidates { probabilities: &all, members: members.len(), positions: &positions, labelled: &labelled };
    let chosen = sampler.select(count, &to_choose, rng);
    let (disagreements, entropies) = (disagreement(&all, members.len()), entropy(&all, members.len()));
    let query = |candidate: usize| Query {
        candidate,
        disagreement: disagreements[candidate],
        entropy: entropies[candidate],
        probabilities: all.iter().skip(candidate).step_by(candidates.len()).copied().collect(),
    };
    chosen.into_iter().map(query).collect()
}
