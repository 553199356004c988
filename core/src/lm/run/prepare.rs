//! What a run needs before its first step: the model to begin with, the rows as tokens, and the reference policy's
//! log-probabilities.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::Device;
use rand::RngExt as _;
use sha2::{Digest as _, Sha256};

use super::config::{DpoConfig, LmConfig, PpoRunConfig, ReferenceKind, StageKind};
use super::margins::{self, Judging};
use super::outcome::{LmProgress, Show};
use super::reward_models;
use crate::disk::Folder;
use crate::disk::archive::Archive;
use crate::disk::files::hex;
use crate::lm::chat::ChatTemplate;
use crate::lm::config::{ModelConfig, Output, SmallLlama};
use crate::lm::data::{self, CompletionRow, Document, EncodeReport, Encoded, EncodedPair, PreferenceRow, PromptRow};
use crate::lm::dpo::{self, Dpo, Reference};
use crate::lm::error::LmError;
use crate::lm::kto::Kto;
use crate::lm::lora::Adapters;
use crate::lm::model::Decoder;
use crate::lm::modpo::{Modpo, ModpoLoss};
use crate::lm::open::{eos_of, tokenizer_of};
use crate::lm::reward::RewardModel;
use crate::lm::sft::{Normalization, Sft};
use crate::lm::tokenizer::{Tokenizer, TokenizerConfig};
use crate::lm::{folder, reviews};
use crate::random::stream;

/// Everything that a run needs, except the state that changes.
pub(super) struct Prepared {
    /// Seed of the training's random draws: the run's seed, or a member's own.
    pub(super) seed: u64,
    pub(super) tokenizer: Tokenizer,
    /// The model to begin with, which is also the reference of sampled completions.
    pub(super) start: Decoder,
    /// Folder of the base model that adapters belong to.
    pub(super) base: Option<PathBuf>,
    pub(super) work: Work,
    /// Prompts of the held-out rows.
    pub(super) prompts: Vec<Vec<u32>>,
}

/// The stage's examples, for training and for evaluation.
#[expect(clippy::large_enum_variant, reason = "a run has only one")]
pub(super) enum Work {
    /// Texts, or completions.
    Texts(Sft, Option<Sft>),
    Comparisons(RewardModel, Option<RewardModel>),
    Policy(Dpo, Option<Dpo>),
    Several(Modpo, Option<Modpo>),
    Single(Kto, Option<Kto>),
    Written(Written),
    /// There is nothing to train: the model to begin with is the result.
    Done,
}

/// What PPO needs: prompts, a reward, and a value function to begin with.
pub(super) struct Written {
    pub(super) prompts: Vec<Vec<u32>>,
    /// One reward model, or the members of an ensemble; empty for the gold reward.
    pub(super) reward_models: Vec<Decoder>,
    pub(super) value: Decoder,
}

pub(super) fn prepare(
    config: &LmConfig,
    folder: &Folder,
    device: &Device,
    show: &Show<'_>,
) -> Result<Prepared, LmError> {
    if config.stage == StageKind::Pretrain {
        return prepare_pretraining(config, device, show);
    }
    let loaded = folder::read(&config.model, device)?;
    loaded.remarks.iter().for_each(|remark| show(LmProgress::Note(remark)));
    let tokenizer = tokenizer_of(&config.model, &loaded)?;
    if let Some(problem) = loaded.only_read {
        return Err(LmError::Config(format!("{problem}: merge the adapter into its base, and train the result")));
    }
    let base = loaded.base.clone();
    let mut start = Decoder { precision: config.precision, ..loaded.decoder };
    let seed = training_seed(config);
    let member = config.reward.and_then(|reward| reward.member);
    if config.stage == StageKind::Reward {
        match start.config.output {
            Output::Tokens => start = folder::with_scores(&start, 1, seed),
            Output::Scores(_) if member.is_some() => {
                show(LmProgress::Note("the model has a score head: members begin with it, and differ by their data"));
            }
            Output::Scores(_) => {}
        }
        // transformers finds the last token of a padded sequence by the padding token, and takes no batch without one.
        if start.config.pad.is_none() {
            let special = tokenizer.special();
            let pad = special.pad.as_ref().map(|token| token.id);
            let ends = eos_of(&start, &tokenizer);
            start.config.pad = pad.filter(|pad| !ends.contains(pad));
            let why = match pad {
                None => "the tokenizer has no padding token",
                Some(_) => "the padding token also ends texts, and transformers would read the score before it",
            };
            if start.config.pad.is_none() {
                show(LmProgress::Note(&format!(
                    "config.json gets no pad_token_id: {why}; transformers will take one sequence at a time"
                )));
            }
        }
    }
    if config.stage != StageKind::Reward && start.config.output != Output::Tokens {
        let problem = format!("{}: is a model that scores, not one that writes", config.model.display());
        return Err(LmError::Config(problem));
    }
    let reference = start.clone();
    if let Some(lora) = &config.lora {
        if start.adapters.is_some() {
            let problem = "lora: the model has adapters already: leave lora out to train these, or merge them first";
            return Err(LmError::Config(problem.to_owned()));
        }
        let adapters = Adapters::new(lora.clone(), &start.layout, seed, device);
        start.adapters = Some(adapters.map_err(|problem| LmError::Config(format!("lora.targets: {problem}")))?);
    }
    let template = ChatTemplate::wanted(&tokenizer, config.template(), config.template_time()?)?;
    let context = start.config.context;
    let conventions = config.conventions.within(context);
    if conventions != config.conventions {
        show(LmProgress::Note(&format!("max_length is the model's context, {context} tokens")));
    }
    let part_tokens = config.train.part_tokens;
    let compared = |rows: &[PreferenceRow]| {
        let (pairs, report) = data::encode_pairs(rows, &tokenizer, template.as_ref(), &conventions)?;
        remark(&report, show);
        Ok::<_, LmError>(pairs)
    };
    let (work, prompts) = match config.stage {
        StageKind::Pretrain => unreachable!("pre-training is prepared above"),
        StageKind::Sft => {
            let (rows, eval) = rows::<CompletionRow>(config, show)?;
            let encode = |rows: &[CompletionRow]| {
                let (rows, report) = data::encode_completions(rows, &tokenizer, template.as_ref(), &conventions)?;
                remark(&report, show);
                Ok::<_, LmError>(rows.into_iter().map(|row| row.encoded).collect::<Vec<Encoded>>())
            };
            let (examples, eval) = (encode(&rows)?, some(&eval).map(encode).transpose()?);
            let normalization = config.sft.unwrap_or_default().normalization;
            let prompts = prompts(eval.as_deref().unwrap_or(&examples).iter().map(Encoded::prompt));
            let stage = |examples| Sft { examples, normalization };
            (Work::Texts(stage(examples), eval.map(stage)), prompts)
        }
        StageKind::Reward | StageKind::Dpo => {
            let (rows, eval) = rows::<PreferenceRow>(config, show)?;
            let (pairs, eval) = (compared(&rows)?, some(&eval).map(compared).transpose()?);
            if pairs.iter().all(|pair| pair.target == Some(0.5)) {
                let files: Vec<String> = config.data.iter().map(|path| path.display().to_string()).collect();
                let (files, count) = (files.join(", "), pairs.len());
                return Err(LmError::Config(format!(
                    "{files}: all {count} comparisons are ties: at least one must prefer a side"
                )));
            }
            let prompts = prompts(eval.as_deref().unwrap_or(&pairs).iter().map(|pair| pair.chosen.prompt()));
            if let Some(reward) = config.reward {
                let pairs = match member {
                    Some(_) if reward.bootstrap => {
                        let mut rng = stream(seed, "bootstrap", 0);
                        (0..pairs.len()).map(|_| pairs[rng.random_range(0..pairs.len())].clone()).collect()
                    }
                    _ => pairs,
                };
                let stage = |pairs| RewardModel { pairs, loss: reward.loss() };
                (Work::Comparisons(stage(pairs), eval.map(stage)), prompts)
            } else {
                let DpoConfig { loss, reference: kind, reference_model } = config.dpo.clone().unwrap_or_default();
                let other = match reference_model.as_os_str().is_empty() {
                    true => None,
                    false => {
                        let read = folder::read(&reference_model, device)?.decoder;
                        Some(Decoder { precision: config.precision, ..read })
                    }
                };
                let reference = other.as_ref().unwrap_or(&reference);
                let references = match kind {
                    ReferenceKind::None => (Reference::None, Reference::None),
                    ReferenceKind::Model => {
                        let model = || Reference::Model(Box::new(reference.clone()));
                        (model(), model())
                    }
                    ReferenceKind::Precomputed => {
                        let eval = eval.as_deref().unwrap_or_default();
                        let path = |_: &str| folder.path.join("reference.safetensors");
                        let [train, eval] = reference_log_probs(reference, &pairs, eval, part_tokens, path, show)?;
                        (Reference::LogProbs(train), Reference::LogProbs(eval))
                    }
                };
                let stage = |pairs, reference| Dpo { pairs, loss, reference };
                (Work::Policy(stage(pairs, references.0), eval.map(|pairs| stage(pairs, references.1))), prompts)
            }
        }
        StageKind::Modpo => {
            let modpo = config.modpo.clone().unwrap_or_default();
            let carrier = modpo.carrier()?.clone();
            let data = if carrier.data.is_empty() { config.data.clone() } else { carrier.data.clone() };
            let (rows, eval) = rows::<PreferenceRow>(&LmConfig { data, ..config.clone() }, show)?;
            let (pairs, eval) = (compared(&rows)?, some(&eval).map(compared).transpose()?);
            let prompts = prompts(eval.as_deref().unwrap_or(&pairs).iter().map(|pair| pair.chosen.prompt()));
            if carrier.weight == 0.0 {
                start = margins::policy_without_preferences(&modpo, &reference, &tokenizer, device)?;
                show(LmProgress::Note("the preferences have weight 0: the result is the other objective's policy"));
                return Ok(Prepared { seed, tokenizer, start, base: None, work: Work::Done, prompts });
            }
            // Numbers that do not depend on the weights are kept beside the run, for runs with other weights.
            let cache = folder.path.parent().unwrap_or(&folder.path).join("cache");
            let judging = Judging {
                config: &modpo,
                reference: &reference,
                tokenizer: &tokenizer,
                eos: &eos_of(&reference, &tokenizer),
                seed: config.seed,
                tokens: config.eval_tokens,
                part_tokens,
                cache: cache.clone(),
                device,
            };
            let of_eval = eval.as_deref().unwrap_or_default();
            let [margins, eval_margins] = margins::of_pairs(&judging, &pairs, of_eval, show)?;
            let path = |content: &str| cache.join(format!("reference-{}.safetensors", &content[..16]));
            let log_probs = reference_log_probs(&reference, &pairs, of_eval, part_tokens, path, show)?;
            let [train_log_probs, eval_log_probs] = log_probs;
            let loss = ModpoLoss { beta: modpo.beta, weight: carrier.weight, form: modpo.form };
            let stage =
                |pairs, margins, reference| Modpo { pairs, margins, reference: Reference::LogProbs(reference), loss };
            let eval = eval.map(|pairs| stage(pairs, eval_margins, eval_log_probs));
            (Work::Several(stage(pairs, margins, train_log_probs), eval), prompts)
        }
        StageKind::Kto => {
            let (rows, eval) = rows::<CompletionRow>(config, show)?;
            let encode = |rows: &[CompletionRow]| {
                let (rows, report) = data::encode_completions(rows, &tokenizer, template.as_ref(), &conventions)?;
                remark(&report, show);
                let labelled = |row: data::EncodedCompletion| match row.label {
                    Some(label) => Ok((row.encoded, label)),
                    None => Err(LmError::Config(format!(
                        "row {}: field 'label' is missing: KTO learns from completions with true (desirable) or false",
                        row.row + 1
                    ))),
                };
                rows.into_iter().map(labelled).collect::<Result<Vec<_>, LmError>>()
            };
            let (examples, eval) = (encode(&rows)?, some(&eval).map(encode).transpose()?);
            let prompts = prompts(eval.as_deref().unwrap_or(&examples).iter().map(|(encoded, _)| encoded.prompt()));
            let loss = config.kto.unwrap_or_default();
            let stage = |examples| Kto::new(examples, loss, &reference, part_tokens, &|_| ());
            (Work::Single(stage(examples), eval.map(stage)), prompts)
        }
        StageKind::Ppo => {
            let (rows, eval) = rows::<PromptRow>(config, show)?;
            let encode = |rows: &[PromptRow]| {
                let (rows, report) = data::encode_prompts(rows, &tokenizer, template.as_ref(), &conventions)?;
                remark(&report, show);
                Ok::<_, LmError>(rows.into_iter().map(|row| row.ids).collect::<Vec<_>>())
            };
            let (own, eval) = (encode(&rows)?, some(&eval).map(encode).transpose()?);
            let held_out = prompts(eval.as_deref().unwrap_or(&own).iter().map(Vec::as_slice));
            let PpoRunConfig { reward_model, .. } = config.ppo.clone().unwrap_or_default();
            let reward_models = match reward_model.as_os_str().is_empty() {
                true => Vec::new(),
                false => {
                    let found = reward_models::read(&reward_model, device)?;
                    if found.tokenizer.fingerprint() != tokenizer.fingerprint() {
                        let problem = format!("{}: has another tokenizer than the policy", reward_model.display());
                        return Err(LmError::Config(problem));
                    }
                    let members = found.members.into_iter();
                    members.map(|member| Decoder { precision: config.precision, ..member }).collect()
                }
            };
            // The value function begins as the (first) reward model, which knows what is good (Stiennon et al. 2020).
            // Without a reward model, it begins as the policy with a fresh head.
            let fresh = || folder::with_scores(&reference, 1, config.seed);
            let value = reward_models.first().cloned().unwrap_or_else(fresh);
            (Work::Written(Written { prompts: own, reward_models, value }), held_out)
        }
    };
    Ok(Prepared { seed, tokenizer, start, base: Some(base), work, prompts })
}

/// Seed of the training's random draws. Each member of an ensemble has its own seed, so members differ in their score
/// heads, the order of their examples and their bootstrap samples. All members hold out the same rows.
fn training_seed(config: &LmConfig) -> u64 {
    match config.reward.and_then(|reward| reward.member) {
        None => config.seed,
        Some(member) => stream(config.seed, "reward-member", member as u64).random(),
    }
}

/// Texts, a tokenizer, and a fresh model.
fn prepare_pretraining(config: &LmConfig, device: &Device, show: &Show<'_>) -> Result<Prepared, LmError> {
    let pretrain = config.pretrain.clone().unwrap_or_default();
    let embedded = config.data == [PathBuf::from("reviews")];
    let texts: Vec<String> = if embedded {
        show(LmProgress::Note(&format!("writing {} reviews", pretrain.texts)));
        (0..pretrain.texts as u64).map(|i| reviews::review(&mut stream(config.seed, "review", i)).text).collect()
    } else {
        let (documents, skipped) = data::read_all::<Document>(&config.data, &config.read)?;
        note_skipped(&skipped, show);
        documents.into_iter().map(|document| document.text).collect()
    };
    let tokenizer = match pretrain.tokenizer.as_os_str().is_empty() {
        false => Tokenizer::load(&pretrain.tokenizer)?,
        true => {
            show(LmProgress::Note(&format!("training a tokenizer of {} tokens", pretrain.vocabulary)));
            let of = TokenizerConfig { vocab_size: pretrain.vocabulary, begin: true, ..TokenizerConfig::default() };
            Tokenizer::train(texts.iter().cloned(), &of)?
        }
    };
    let eos = tokenizer.special().eos.as_ref().map(|token| token.id);
    let eos =
        eos.ok_or_else(|| LmError::Config("pretrain.tokenizer: has no EOS token to end a text with".to_owned()))?;
    let sequences: Vec<Vec<u32>> = if pretrain.packing {
        let packed = data::pack(&texts, &tokenizer, pretrain.context)?;
        if packed.dropped_tokens > 0 {
            show(LmProgress::Note(&format!("the last {} tokens do not fill a block", packed.dropped_tokens)));
        }
        packed.blocks().map(<[u32]>::to_vec).collect()
    } else {
        parts(&texts, &tokenizer, eos, pretrain.context)?
    };
    let mut examples: Vec<Encoded> = sequences.into_iter().map(|ids| Encoded { ids, prompt_len: 0 }).collect();
    let size = SmallLlama {
        vocabulary: tokenizer.vocab_size(),
        hidden: pretrain.hidden,
        layers: pretrain.layers,
        heads: pretrain.heads,
        context: pretrain.context,
    };
    let mut model = ModelConfig::small_llama(size);
    model.eos = vec![eos];
    model.bos = tokenizer.special().bos.as_ref().map(|token| token.id);
    let kind = if pretrain.packing { "blocks" } else { "texts" };
    show(LmProgress::Note(&format!("a model of {} parameters, {} {kind}", model.parameters(), examples.len())));
    let start = Decoder { precision: config.precision, ..Decoder::new(model, config.seed, device) };
    let held_out = held_out(config, examples.len());
    let eval = examples.split_off(examples.len() - held_out);
    let stage = |examples| Sft { examples, normalization: Normalization::TokenMean };
    let eval = (!eval.is_empty()).then(|| stage(eval));
    let work = Work::Texts(stage(examples), eval);
    Ok(Prepared { seed: config.seed, tokenizer, start, base: None, work, prompts: Vec::new() })
}

/// Texts as token ids with EOS at the end. A text of more than `context` tokens is cut into several parts.
fn parts(texts: &[String], tokenizer: &Tokenizer, eos: u32, context: usize) -> Result<Vec<Vec<u32>>, LmError> {
    let mut parts = Vec::with_capacity(texts.len());
    for text in texts {
        let mut ids = tokenizer.encode(text, true)?;
        ids.push(eos);
        // The last token of a part is the first token of the next part, so that every token is predicted once.
        let mut rest = ids.as_slice();
        while rest.len() > context {
            parts.push(rest[..context].to_vec());
            rest = &rest[context - 1..];
        }
        if rest.len() > 1 {
            parts.push(rest.to_vec());
        }
    }
    Ok(parts)
}

/// Rows for training and for evaluation.
fn rows<T: data::RowKind>(config: &LmConfig, show: &Show<'_>) -> Result<(Vec<T>, Vec<T>), LmError> {
    let read = |paths: &[PathBuf]| {
        let (rows, skipped) = data::read_all::<T>(paths, &config.read)?;
        note_skipped(&skipped, show);
        Ok::<_, LmError>(rows)
    };
    let mut rows = read(&config.data)?;
    let eval = match config.eval_data.is_empty() {
        false => read(&config.eval_data)?,
        true => {
            // The rows are drawn, because files are often sorted.
            let count = held_out(config, rows.len());
            let chosen: BTreeSet<usize> =
                data::order(config.seed, u64::MAX, rows.len()).into_iter().take(count).collect();
            let (mut eval, mut kept) = (Vec::with_capacity(count), Vec::with_capacity(rows.len() - count));
            for (i, row) in rows.into_iter().enumerate() {
                if chosen.contains(&i) { eval.push(row) } else { kept.push(row) }
            }
            rows = kept;
            eval
        }
    };
    Ok((rows, eval))
}

/// How many of the rows are held out for evaluation.
fn held_out(config: &LmConfig, rows: usize) -> usize {
    ((rows as f64 * config.eval_share).round() as usize).min(rows.saturating_sub(1))
}

/// The prompts in their order, each only once, without empty ones.
fn prompts<'a>(all: impl Iterator<Item = &'a [u32]>) -> Vec<Vec<u32>> {
    let mut seen = BTreeSet::new();
    all.filter(|prompt| !prompt.is_empty() && seen.insert(prompt.to_vec())).map(<[u32]>::to_vec).collect()
}

fn some<T>(rows: &[T]) -> Option<&[T]> {
    (!rows.is_empty()).then_some(rows)
}

fn note_skipped(skipped: &data::Skipped, show: &Show<'_>) {
    if skipped.count > 0 {
        show(LmProgress::Note(&format!("{} bad rows are left out:\n  {}", skipped.count, skipped.first.join("\n  "))));
    }
    if let Some(remark) = skipped.unread_fields() {
        show(LmProgress::Note(&remark));
    }
}

fn remark(report: &EncodeReport, show: &Show<'_>) {
    let EncodeReport { rows, prompt_not_prefix, cut, dropped } = report;
    let note = |count: u64, what: &str| {
        if count > 0 {
            show(LmProgress::Note(&format!("{count} of {rows} rows {what}")));
        }
    };
    note(*prompt_not_prefix as u64, "have a prompt whose tokens change when the completion follows");
    note(*cut as u64, "were cut to max_length");
    note(dropped.count, &format!("were left out as too long: {}", dropped.first.first().map_or("", String::as_str)));
}

/// The reference policy's log-probabilities of the training pairs and of the evaluation pairs. They are kept in a file;
/// `path` gives its place from the hash of everything that they depend on, the reference's weights and the tokens.
fn reference_log_probs(
    reference: &Decoder,
    pairs: &[EncodedPair],
    eval: &[EncodedPair],
    part_tokens: usize,
    path: impl FnOnce(&str) -> PathBuf,
    show: &Show<'_>,
) -> Result<[Vec<[f64; 2]>; 2], LmError> {
    let mut hash = Sha256::new();
    margins::hash_model(&mut hash, reference);
    let sides = pairs.iter().chain(eval).flat_map(|pair| [&pair.chosen, &pair.rejected]);
    sides.for_each(|side| margins::hash_side(&mut hash, side));
    let content = hex(&hash.finalize());
    let path = path(&content);
    if let Some(archive) = margins::kept(&path, &content) {
        let list = |name: &str| archive.f64_any(name).map(|values| values.as_chunks::<2>().0.to_vec());
        return Ok([list("train")?, list("eval")?]);
    }
    let found = [pairs, eval].map(|pairs| {
        let done = AtomicUsize::new(0);
        let report = |count: usize| {
            let so_far = done.fetch_add(count, Ordering::Relaxed) + count;
            show(LmProgress::Preparing("reference log-probs", so_far, pairs.len()));
        };
        dpo::log_probs(reference, pairs, part_tokens, &report)
    });
    let mut archive = Archive::default();
    for (name, list) in ["train", "eval"].into_iter().zip(&found) {
        archive.put_f64(name, &[list.len(), 2], list.as_flattened());
    }
    margins::keep(&path, &content, archive)?;
    Ok(found)
}
