//! An ensemble of reward models (Christiano et al. 2017, arXiv 1706.03741, §2.2.3): members that differ by their score
//! heads' first weights, the order of their examples and the comparisons they see, so that they agree where comparisons
//! have settled the question, and disagree where to ask next (§2.2.4).
//!
//! ```text
//! runs/<name>/
//!   config.toml      resolved configuration
//!   member-0/ …      a run folder for each member
//!   summary.json     what --json printed: of the mean over members, and of each
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::config::Output;
use super::data::EncodedPair;
use super::folder;
use super::model::Decoder;
use super::reward::{RewardLoss, pair_scores, positions, probabilities};
use super::run::{
    self, LmConfig, LmError, LmOutcome, LmSummary, RewardRunConfig, Shown, StageKind, Work, evaluated, hex, prepare,
    read_config, tokenizer_of,
};
use super::tokenizer::Tokenizer;
use crate::preference::query::{disagreement, entropy, select};
use crate::preference::{Likelihood, Sampler};
use crate::random::Rng;
use crate::run::Folder;

/// Reward models that read the same tokens: the members of an ensemble, or a single one.
#[derive(Debug, Clone)]
pub struct RewardModels {
    /// The models, adapters merged.
    pub members: Vec<Decoder>,
    /// Their tokenizer.
    pub tokenizer: Tokenizer,
    /// How differences of their scores become probabilities.
    pub likelihood: Likelihood,
    /// The run they come from, where its folder was given.
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
    /// P[first is preferred] of each member; first is the one called chosen.
    pub probabilities: Vec<f64>,
}

/// Folder of a member's run.
#[must_use]
pub fn member_folder(run: &Path, member: usize) -> PathBuf {
    run.join(format!("member-{member}"))
}

/// Whether this is a run of several members.
#[must_use]
pub fn is_wanted(config: &LmConfig) -> bool {
    config.reward.is_some_and(|reward| reward.members > 1 && reward.member.is_none())
}

/// Reads reward models: the folder of a run (of one, or of an ensemble), or that of a model.
///
/// # Errors
/// [`LmError`]: a run of something else, one that is not finished, a model that does not score.
pub fn read(path: &Path, device: &Device) -> Result<RewardModels, LmError> {
    let config = path.join("config.toml").is_file().then(|| read_config(path)).transpose()?;
    let wrong = |problem: String| Err(LmError::Config(format!("{}: {problem}", path.display())));
    let folders = match config.as_ref().map(|config| config.reward) {
        None => vec![path.to_owned()],
        Some(None) => {
            return wrong("is a run of another stage, not of a reward model (`lm reward` makes one)".to_owned());
        }
        Some(Some(RewardRunConfig { members, member, .. })) if members > 1 && member.is_none() => {
            (0..members).map(|member| member_folder(path, member).join("model")).collect()
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
        let own = tokenizer_of(&loaded)?;
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

/// Chooses `count` candidates to ask about, in the order in which to ask: see [`select`]. Which side of a candidate is
/// called chosen means nothing. `asked` are those of before, which k-center keeps away from.
#[must_use]
pub fn choose(
    models: &RewardModels,
    candidates: &[EncodedPair],
    asked: &[EncodedPair],
    sampler: Sampler,
    count: usize,
    part_tokens: usize,
    rng: &mut Rng,
) -> Vec<Query> {
    let RewardModels { members, likelihood, .. } = models;
    let all = probabilities(members, candidates, likelihood, part_tokens);
    let by_place = matches!(sampler, Sampler::KCenter | Sampler::KCenterDisagreement | Sampler::KCenterEntropy);
    let places = |pairs| if by_place { positions(members, pairs, part_tokens) } else { Vec::new() };
    let chosen = select(&sampler, count, &all, members.len(), &places(candidates), &places(asked), rng);
    let (disagreements, entropies) = (disagreement(&all, members.len()), entropy(&all, members.len()));
    let query = |candidate: usize| Query {
        candidate,
        disagreement: disagreements[candidate],
        entropy: entropies[candidate],
        probabilities: all.iter().skip(candidate).step_by(candidates.len()).copied().collect(),
    };
    chosen.into_iter().map(query).collect()
}

/// Trains the members that are not finished, one after another, and measures the ensemble.
///
/// # Errors
/// [`LmError`].
pub(super) fn train(
    config: &LmConfig,
    path: &Path,
    device: &Device,
    stop: &AtomicBool,
    show: &(dyn Fn(Shown<'_>) + Sync),
) -> Result<LmOutcome, LmError> {
    let count = config.reward.map_or(1, |reward| reward.members);
    let mut summaries: Vec<LmSummary> = Vec::with_capacity(count);
    for member in 0..count {
        let folder = member_folder(path, member);
        if let Some(summary) = LmSummary::load(&folder)? {
            summaries.push(summary);
            continue;
        }
        let (steps, tokens) = totals(&summaries);
        if stop.load(Ordering::Relaxed) && member > 0 {
            return Ok(LmOutcome::Interrupted { step: steps });
        }
        show(Shown::Note(&format!("member {} of {count}", member + 1)));
        // Steps and tokens are counted over all members.
        let of_member = |shown: Shown<'_>| match shown {
            Shown::Step(step, total, metrics, own) => {
                show(Shown::Step(member * total + step, count * total, metrics, tokens + own));
            }
            other => show(other),
        };
        let outcome = match folder.join("config.toml").is_file() {
            true => run::resume(&folder, device, stop, &of_member)?,
            false => {
                // What a kill leaves before there is a configuration: empty folders.
                for name in ["checkpoints", "figures", ""] {
                    let _ = fs::remove_dir(folder.join(name));
                }
                run::train(&of_one(config, member), &folder, device, stop, &of_member)?
            }
        };
        match outcome {
            LmOutcome::Finished(summary) => summaries.push(*summary),
            LmOutcome::Interrupted { step } => return Ok(LmOutcome::Interrupted { step: steps + step }),
        }
    }
    let summary = summarise(config, path, device, &summaries)?;
    summary.save()?;
    Ok(LmOutcome::Finished(Box::new(summary)))
}

/// The configuration of a member's run.
fn of_one(config: &LmConfig, member: usize) -> LmConfig {
    let reward = config.reward.map(|reward| RewardRunConfig { member: Some(member), ..reward });
    LmConfig { reward, ..config.clone() }
}

/// Steps taken and tokens gone over.
fn totals(summaries: &[LmSummary]) -> (usize, u64) {
    summaries.iter().fold((0, 0), |(steps, tokens), summary| (steps + summary.steps, tokens + summary.tokens))
}

/// What the ensemble does on the held-out comparisons: measures of the mean of the members' scores under the names of a
/// single model's, each member's accuracy, and how much they disagree on average.
fn summarise(config: &LmConfig, path: &Path, device: &Device, summaries: &[LmSummary]) -> Result<LmSummary, LmError> {
    let mut eval = Map::new();
    // Remarks on the rows were shown by every member.
    let prepared = prepare(&of_one(config, 0), &Folder::open(&member_folder(path, 0))?, device, &|_| ())?;
    if let Work::Comparisons(_, Some(held_out)) = prepared.work {
        let RewardModels { members, likelihood, .. } = read(path, device)?;
        let part_tokens = config.train.part_tokens;
        let count = members.len() as f64;
        let mut means = vec![[0.0; 2]; held_out.pairs.len()];
        let mut all = Vec::with_capacity(members.len() * means.len());
        for member in &members {
            let scores = pair_scores(member, &held_out.pairs, part_tokens);
            all.extend(scores.iter().map(|[chosen, rejected]| likelihood.probability(chosen - rejected)));
            for (mean, score) in means.as_flattened_mut().iter_mut().zip(scores.as_flattened()) {
                *mean += score / count;
            }
        }
        let pairs: Vec<usize> = (0..means.len()).collect();
        eval = evaluated(&held_out.measure(&pairs, &means).0);
        let disagreements = disagreement(&all, members.len());
        let mean = disagreements.iter().sum::<f64>() / disagreements.len() as f64;
        eval.insert("eval_disagreement".to_owned(), json!(mean));
        for (member, summary) in summaries.iter().enumerate() {
            let own = summary.eval.get("eval_accuracy").cloned().unwrap_or(Value::Null);
            eval.insert(format!("eval_accuracy/member-{member}"), own);
        }
    }
    let mut hash = Sha256::new();
    summaries.iter().for_each(|summary| hash.update(&summary.weights_sha256));
    let (steps, tokens) = totals(summaries);
    Ok(LmSummary {
        stage: StageKind::Reward,
        seed: config.seed,
        steps,
        trained_parameters: summaries.iter().map(|summary| summary.trained_parameters).sum(),
        eval,
        sampled: None,
        tokens,
        wall_seconds: summaries.iter().map(|summary| summary.wall_seconds).sum(),
        cpu_seconds: summaries.iter().map(|summary| summary.cpu_seconds).sum(),
        weights_sha256: hex(&hash.finalize()),
        model: path.to_owned(),
        run_dir: path.to_owned(),
    })
}
