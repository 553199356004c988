//! Margin rewards of MODPO's objectives: computed once, and kept beside the runs for all weights that are tried.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use sha2::{Digest as _, Sha256};

use super::config::{ModpoRunConfig, ObjectiveConfig};
use super::outcome::Shown;
use crate::disk::DiskError;
use crate::disk::archive::Archive;
use crate::lm::config::Output;
use crate::lm::data::{Encoded, EncodedPair};
use crate::lm::error::LmError;
use crate::lm::model::Decoder;
use crate::lm::modpo::{MarginReward, Scale, margins};
use crate::lm::open::{hex, tokenizer_of};
use crate::lm::sample::{SampleConfig, generate};
use crate::lm::tokenizer::Tokenizer;
use crate::lm::{ensemble, folder, gold};
use crate::nn::to_host;

/// What margin rewards are computed with.
pub(super) struct Judging<'a> {
    pub(super) config: &'a ModpoRunConfig,
    /// The model to begin with, which is the reference.
    pub(super) reference: &'a Decoder,
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) eos: &'a [u32],
    pub(super) seed: u64,
    /// Most tokens of a sampled completion.
    pub(super) tokens: usize,
    pub(super) part_tokens: usize,
    /// Folder of what is kept.
    pub(super) cache: PathBuf,
    pub(super) device: &'a Device,
}

/// w_{−k}ᵀ δr_{−k} of the pairs that are learned from, and of those for evaluation.
pub(super) fn of_pairs(
    judging: &Judging<'_>,
    pairs: &[EncodedPair],
    eval: &[EncodedPair],
    show: &(dyn Fn(Shown<'_>) + Sync),
) -> Result<[Vec<f64>; 2], LmError> {
    let carrier = judging.config.carrier()?;
    let counted: Vec<&ObjectiveConfig> =
        judging.config.objectives.iter().filter(|other| other.name != carrier.name && other.weight > 0.0).collect();
    let standardize = judging.config.standardize && !counted.is_empty();
    let unit = match (standardize, carrier.reward.is_empty()) {
        (false, _) => 1.0,
        (true, true) => {
            show(Shown::Note(&format!(
                "objective {}: carries the preferences and has no reward of its own, so margins have a deviation of 1; with \
                 reward = \"implicit:DIR\" of its DPO policy they would have the one that its preferences teach",
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
            values.chunks_exact(2).map(|both| [both[0], both[1]].map(|reward| unit * scale.apply(reward))).collect()
        };
        weights.push(objective.weight);
        of_train.push(both(train));
        of_eval.push(both(eval));
    }
    Ok([margins(&weights, &of_train, pairs.len()), margins(&weights, &of_eval, eval.len())])
}

/// Of an objective's reward on samples of the model.
fn scale(objective: &ObjectiveConfig, samples: &[f64], show: &(dyn Fn(Shown<'_>) + Sync)) -> Result<Scale, LmError> {
    let scale = Scale::of(samples).ok_or_else(|| {
        LmError::Config(format!(
            "modpo.objectives.{}: all {} samples of the model have the same reward, so there is no scale to bring it to: \
             set modpo.standardize = false, or choose another reward",
            objective.name,
            samples.len()
        ))
    })?;
    show(Shown::Note(&format!(
        "objective {}: {:.3} ± {:.3} on samples of the model",
        objective.name, scale.mean, scale.deviation
    )));
    Ok(scale)
}

/// The policy that is returned where the preferences have no weight: that of the only other objective, if it has one.
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
            "modpo.carrier = \"{}\": has the weight 0, so that its preferences say nothing, and the policy is that of the margin \
             rewards. That one is known where a single other objective has all the weight and an implicit reward",
            config.carrier
        )));
    };
    read_policy(&objective.name, Path::new(path), reference, tokenizer, device)
}

/// Rewards of both sides of the judged pairs, one after the other, and of samples of the reference, which completes
/// prompts of `pairs`: from the cache, or computed and kept there.
fn rewards(
    judging: &Judging<'_>,
    objective: &ObjectiveConfig,
    pairs: &[EncodedPair],
    judged: [&[EncodedPair]; 2],
    show: &(dyn Fn(Shown<'_>) + Sync),
) -> Result<[Vec<f64>; 3], LmError> {
    let Judging { reference, tokenizer, part_tokens, .. } = judging;
    let reward = open(judging, objective)?;
    let sides = judged.map(|pairs| -> Vec<Encoded> {
        pairs.iter().flat_map(|pair| [pair.chosen.clone(), pair.rejected.clone()]).collect()
    });
    let mut prompts: Vec<Vec<u32>> = Vec::new();
    for pair in pairs {
        let prompt = pair.chosen.prompt();
        // The reference writes on from something.
        if !prompt.is_empty() && prompt.len() < reference.config.context && prompts.iter().all(|known| known != prompt)
        {
            prompts.push(prompt.to_vec());
        }
        if prompts.len() == judging.config.samples {
            break;
        }
    }
    let prompts: Vec<Vec<u32>> = match judging.config.standardize {
        true => {
            prompts.iter().cycle().take(if prompts.is_empty() { 0 } else { judging.config.samples }).cloned().collect()
        }
        false => Vec::new(),
    };

    let content = identity(objective, &reward).map(|mut hash| {
        hash_model(&mut hash, reference);
        hash.update(judging.seed.to_le_bytes());
        hash.update((judging.tokens as u64).to_le_bytes());
        for side in sides.iter().flatten() {
            hash.update((side.prompt_len as u64).to_le_bytes());
            hash_ids(&mut hash, &side.ids);
        }
        prompts.iter().for_each(|prompt| hash_ids(&mut hash, prompt));
        hex(&hash.finalize())
    });
    let path = content.as_ref().map(|content| judging.cache.join(format!("rewards-{}.safetensors", &content[..16])));
    if let (Some(content), Some(path)) = (&content, &path)
        && let Ok(archive) = Archive::load(path)
        && archive.get::<String>("content").is_ok_and(|found| found == *content)
    {
        show(Shown::Note(&format!("objective {}: rewards as kept in {}", objective.name, path.display())));
        return Ok([archive.f64_any("train")?, archive.f64_any("eval")?, archive.f64_any("samples")?]);
    }
    show(Shown::Note(&format!(
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
        archive.put("content", &content);
        fs::create_dir_all(&judging.cache).map_err(|source| DiskError::Io {
            path: judging.cache.clone(),
            action: "make the folder",
            source,
        })?;
        archive.save(&path)?;
    }
    Ok(found)
}

fn open(judging: &Judging<'_>, objective: &ObjectiveConfig) -> Result<MarginReward, LmError> {
    let Judging { reference, tokenizer, device, .. } = judging;
    let wrong = |problem: String| LmError::Config(format!("modpo.objectives.{}: {problem}", objective.name));
    if objective.reward.is_empty() {
        return Err(wrong(
            "has a weight, but no reward to make a margin of: give reward = \"model:DIR\", \"implicit:DIR\" or a gold reward"
                .to_owned(),
        ));
    }
    if let Some(path) = objective.reward.strip_prefix("model:") {
        let found = ensemble::read(Path::new(path), device)?;
        if found.tokenizer.fingerprint() != tokenizer.fingerprint() {
            return Err(wrong(format!("{path}: has another tokenizer than the policy")));
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

/// A policy of the same tokens as the reference.
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
            "{}: has another tokenizer than the model to begin with: the same numbers are other texts",
            path.display()
        )
    } else {
        return Ok(Decoder { precision: reference.precision, ..found });
    };
    Err(LmError::Config(format!("modpo.objectives.{objective}: {problem}")))
}

/// What a reward is, as far as it can be told; a program may answer otherwise every time.
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
            // Of a lexicon or a classifier: its content.
            if let Ok(content) = fs::read(rest) {
                hash.update(&content);
            }
        }
    }
    Some(hash)
}

/// A model's weights, with its adapters.
pub(super) fn hash_model(hash: &mut Sha256, model: &Decoder) {
    let mut whole = folder::merged(model);
    for tensor in whole.trained_mut() {
        to_host(tensor.clone()).iter().for_each(|value| hash.update(value.to_le_bytes()));
    }
}

/// Token ids, and where they end.
pub(super) fn hash_ids(hash: &mut Sha256, ids: &[u32]) {
    ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
    hash.update(u32::MAX.to_le_bytes());
}
