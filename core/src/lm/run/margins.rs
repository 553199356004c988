//! Margin rewards of MODPO's objectives. They are computed once, and kept beside the runs for runs with other weights.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use sha2::{Digest as _, Sha256};

use super::config::{ModpoRunConfig, ObjectiveConfig};
use super::outcome::{LmProgress, Show};
use super::reward_models;
use crate::disk::archive::Archive;
use crate::disk::files::hex;
use crate::disk::text;
use crate::lm::config::Output;
use crate::lm::data::{Encoded, EncodedPair};
use crate::lm::error::LmError;
use crate::lm::model::Decoder;
use crate::lm::modpo::{MarginReward, Scale, margins};
use crate::lm::open::tokenizer_of;
use crate::lm::sample::{SampleConfig, generate};
use crate::lm::tokenizer::Tokenizer;
use crate::lm::{folder, gold};
use crate::nn::to_host;

/// What margin rewards are computed with.
pub(super) struct Judging<'a> {
    pub(super) config: &'a ModpoRunConfig,
    /// The model to begin with, which is the reference policy.
    pub(super) reference: &'a Decoder,
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) eos: &'a [u32],
    pub(super) seed: u64,
    /// Most tokens of a sampled completion.
    pub(super) tokens: usize,
    pub(super) part_tokens: usize,
    /// Folder that the rewards are kept in.
    pub(super) cache: PathBuf,
    pub(super) device: &'a Device,
}

/// w_{−k}ᵀ δr_{−k} of the training pairs, and of the evaluation pairs.
pub(super) fn of_pairs(
    judging: &Judging<'_>,
    pairs: &[EncodedPair],
    eval: &[EncodedPair],
    show: &Show<'_>,
) -> Result<[Vec<f64>; 2], LmError> {
    let carrier = judging.config.carrier()?;
    let counted: Vec<&ObjectiveConfig> =
        judging.config.objectives.iter().filter(|other| other.name != carrier.name && other.weight > 0.0).collect();
    let standardize = judging.config.standardize && !counted.is_empty();
    let unit = match (standardize, carrier.reward.is_empty()) {
        (false, _) => 1.0,
        (true, true) => {
            show(LmProgress::Note(&format!(
                "objective {}: carries the preferences and has no reward of its own, so margins are scaled to a \
                 deviation of 1. With reward = \"implicit:DIR\" of its DPO policy, they would get the deviation that \
                 its preferences teach",
                carrier.name
            )));
            1.0
        }
        (true, false) => {
            let [_, _, samples] = rewards(judging, carrier, pairs, [&[], &[]], show)?;
            scale(carrier, &samples, show)?.deviation
        }
    };
    let (mut weights, mut of_train, mut of_eval) = (Vec::new(), Vec::new(), Vec::new());
    for objective in counted {
        let [train, eval, samples] = rewards(judging, objective, pairs, [pairs, eval], show)?;
        let scale = if standardize { scale(objective, &samples, show)? } else { Scale::NONE };
        let both = |values: Vec<f64>| -> Vec<[f64; 2]> {
            values.as_chunks::<2>().0.iter().map(|both| both.map(|reward| unit * scale.apply(reward))).collect()
        };
        weights.push(objective.weight);
        of_train.push(both(train));
        of_eval.push(both(eval));
    }
    Ok([margins(&weights, &of_train, pairs.len()), margins(&weights, &of_eval, eval.len())])
}

/// The scale of an objective's reward, from its values on samples of the model.
fn scale(objective: &ObjectiveConfig, samples: &[f64], show: &Show<'_>) -> Result<Scale, LmError> {
    let scale = Scale::of(samples).ok_or_else(|| {
        LmError::Config(format!(
            "modpo.objectives.{}: all {} samples of the model have the same reward, so it cannot be standardized: set \
             modpo.standardize = false, or choose another reward",
            objective.name,
            samples.len()
        ))
    })?;
    show(LmProgress::Note(&format!(
        "objective {}: {:.3} ± {:.3} on samples of the model",
        objective.name, scale.mean, scale.deviation
    )));
    Ok(scale)
}

/// The result of a run whose preferences have weight 0: the policy of the only other objective, if it has one.
pub(super) fn policy_without_preferences(
    config: &ModpoRunConfig,
    reference: &Decoder,
    tokenizer: &Tokenizer,
    device: &Device,
) -> Result<Decoder, LmError> {
    let mut counted = config.objectives.iter().filter(|objective| objective.weight > 0.0);
    let only = counted.next().filter(|_| counted.next().is_none());
    let implicit = only.and_then(|objective| Some((objective, objective.reward.strip_prefix("implicit:")?)));
    let Some((objective, path)) = implicit else {
        return Err(LmError::Config(format!(
            "modpo.carrier = \"{}\": has weight 0, so the result would be the policy of the margin rewards. That \
             policy is known only if a single other objective has all the weight and an implicit reward",
            config.carrier
        )));
    };
    read_policy(&objective.name, Path::new(path), reference, tokenizer, device)
}

/// Rewards of both sides of the two lists of judged pairs, chosen before rejected, and of samples of the reference
/// policy, which completes prompts of `pairs`. They come from the cache, or are computed and kept there.
fn rewards(
    judging: &Judging<'_>,
    objective: &ObjectiveConfig,
    pairs: &[EncodedPair],
    judged: [&[EncodedPair]; 2],
    show: &Show<'_>,
) -> Result<[Vec<f64>; 3], LmError> {
    let Judging { reference, tokenizer, part_tokens, .. } = judging;
    let reward = open(judging, objective)?;
    let sides = judged.map(|pairs| -> Vec<Encoded> {
        pairs.iter().flat_map(|pair| [pair.chosen.clone(), pair.rejected.clone()]).collect()
    });
    let mut prompts: Vec<Vec<u32>> = Vec::new();
    for pair in pairs {
        let prompt = pair.chosen.prompt();
        // The reference policy cannot begin with nothing, and needs room for a token.
        if !prompt.is_empty() && prompt.len() < reference.config.context && prompts.iter().all(|known| known != prompt)
        {
            prompts.push(prompt.to_vec());
        }
        if prompts.len() == judging.config.samples {
            break;
        }
    }
    let samples = if judging.config.standardize { judging.config.samples } else { 0 };
    let prompts: Vec<Vec<u32>> = prompts.iter().cycle().take(samples).cloned().collect();

    let content = identity(objective, &reward).map(|mut hash| {
        hash_model(&mut hash, reference);
        hash.update(judging.seed.to_le_bytes());
        hash.update((judging.tokens as u64).to_le_bytes());
        sides.iter().flatten().for_each(|side| hash_side(&mut hash, side));
        prompts.iter().for_each(|prompt| hash_ids(&mut hash, prompt));
        hex(&hash.finalize())
    });
    let path = content.as_ref().map(|content| judging.cache.join(format!("rewards-{}.safetensors", &content[..16])));
    if let (Some(content), Some(path)) = (&content, &path)
        && let Some(archive) = kept(path, content)
    {
        show(LmProgress::Note(&format!("objective {}: rewards as kept in {}", objective.name, path.display())));
        return Ok([archive.f64_any("train")?, archive.f64_any("eval")?, archive.f64_any("samples")?]);
    }
    show(LmProgress::Note(&format!(
        "objective {}: judging {} completions",
        objective.name,
        sides[0].len() + sides[1].len() + prompts.len()
    )));
    let sampling = SampleConfig { max_new_tokens: judging.tokens, seed: judging.seed, ..SampleConfig::default() };
    let written = generate(reference, &prompts, &sampling, judging.eos, 5 << 32, &|_, _| true);
    let samples: Vec<Encoded> =
        prompts.iter().zip(written).map(|(prompt, completion)| Encoded::new(prompt, &completion.ids)).collect();
    let [train, eval] = &sides;
    let found = [train, eval, &samples].map(|completions| reward.of(completions, tokenizer, *part_tokens));
    let [train, eval, samples] = found;
    let found = [train?, eval?, samples?];
    if let (Some(content), Some(path)) = (content, path) {
        let mut archive = Archive::default();
        for (name, values) in ["train", "eval", "samples"].into_iter().zip(&found) {
            archive.put_f64(name, &[values.len()], values);
        }
        keep(&path, &content, archive)?;
    }
    Ok(found)
}

fn open(judging: &Judging<'_>, objective: &ObjectiveConfig) -> Result<MarginReward, LmError> {
    let Judging { reference, tokenizer, device, .. } = judging;
    if let Some(path) = objective.reward.strip_prefix("model:") {
        let found = reward_models::read(Path::new(path), device)?;
        if found.tokenizer.fingerprint() != tokenizer.fingerprint() {
            let name = &objective.name;
            let problem = format!("modpo.objectives.{name}: {path}: has another tokenizer than the policy");
            return Err(LmError::Config(problem));
        }
        return Ok(MarginReward::Model(found.members));
    }
    if let Some(path) = objective.reward.strip_prefix("implicit:") {
        let policy = read_policy(&objective.name, Path::new(path), reference, tokenizer, device)?;
        let own = match objective.reference.as_os_str().is_empty() {
            true => (*reference).clone(),
            false => read_policy(&objective.name, &objective.reference, reference, tokenizer, device)?,
        };
        return Ok(MarginReward::Implicit { policy: Box::new(policy), reference: Box::new(own), beta: objective.beta });
    }
    Ok(MarginReward::Gold(gold::open(&objective.reward)?))
}

/// A policy with the same tokens as the reference policy.
fn read_policy(
    objective: &str,
    path: &Path,
    reference: &Decoder,
    tokenizer: &Tokenizer,
    device: &Device,
) -> Result<Decoder, LmError> {
    let loaded = folder::read(path, device)?;
    let found = folder::merged(&loaded.decoder);
    let problem = if found.config.output != Output::Tokens {
        format!("{}: is a model that scores: use it as \"model:…\"", path.display())
    } else if found.config.vocabulary != reference.config.vocabulary {
        let (own, other) = (found.config.vocabulary, reference.config.vocabulary);
        format!("{}: has {own} tokens, but the model to begin with {other}", path.display())
    } else if tokenizer_of(path, &loaded)?.fingerprint() != tokenizer.fingerprint() {
        format!(
            "{}: has another tokenizer than the model to begin with: the same token ids are other texts",
            path.display()
        )
    } else {
        return Ok(Decoder { precision: reference.precision, ..found });
    };
    Err(LmError::Config(format!("modpo.objectives.{objective}: {problem}")))
}

/// The hash of a reward; `None` for a program, which may answer differently each time.
fn identity(objective: &ObjectiveConfig, reward: &MarginReward) -> Option<Sha256> {
    let mut hash = Sha256::new();
    match reward {
        MarginReward::Model(members) => members.iter().for_each(|member| hash_model(&mut hash, member)),
        MarginReward::Implicit { policy, reference, beta } => {
            hash.update(beta.to_le_bytes());
            [policy, reference].into_iter().for_each(|model| hash_model(&mut hash, model));
        }
        MarginReward::Gold(_) => {
            let (name, rest) = objective.reward.split_once(':').unwrap_or((&objective.reward, ""));
            if name == "command" {
                return None;
            }
            hash.update(objective.reward.as_bytes());
            // A lexicon or a classifier also counts by the content of its file.
            if let Ok(content) = fs::read(rest) {
                hash.update(&content);
            }
        }
    }
    Some(hash)
}

/// The archive in a file, if the file is whole and was computed from this content.
pub(super) fn kept(path: &Path, content: &str) -> Option<Archive> {
    Archive::load(path).ok().filter(|archive| archive.get::<String>("content").is_ok_and(|found| found == content))
}

/// Writes an archive that was computed from this content.
pub(super) fn keep(path: &Path, content: &str, mut archive: Archive) -> Result<(), LmError> {
    archive.put("content", &content);
    text::make_parent(path)?;
    Ok(archive.save(path)?)
}

/// Adds a model's weights, adapters included, to a hash.
pub(super) fn hash_model(hash: &mut Sha256, model: &Decoder) {
    let mut whole = folder::merged(model);
    for tensor in whole.trained_mut() {
        to_host(tensor.clone()).iter().for_each(|value| hash.update(value.to_le_bytes()));
    }
}

/// Adds one side of a pair to a hash.
pub(super) fn hash_side(hash: &mut Sha256, side: &Encoded) {
    hash.update((side.prompt_len as u64).to_le_bytes());
    hash_ids(hash, &side.ids);
}

/// Adds token ids, and their end, to a hash.
fn hash_ids(hash: &mut Sha256, ids: &[u32]) {
    ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
    hash.update(u32::MAX.to_le_bytes());
}
