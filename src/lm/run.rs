//! A training run of a language model and its folder.
//!
//! ```text
//! runs/<name>/
//!   config.toml      resolved configuration
//!   metrics.jsonl    one object for each logged step, under TRL's names; evaluations begin with eval_
//!   tb/              the same as TensorBoard events
//!   reference.safetensors  the reference policy's log-probabilities, asked for once
//!   checkpoints/     step-000120.safetensors: everything needed to go on exactly
//!   model/           the trained model as a Hugging Face folder
//!   summary.json     what --json printed
//! ```

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use toml::Table;

use super::chat::{ChatError, ChatTemplate};
use super::config::{ModelConfig, Output, SmallLlama};
use super::data::{
    self, CompletionRow, Conventions, DataError, Document, EncodeReport, Encoded, EncodedPair, PreferenceRow,
    PromptRow, ReadConfig,
};
use super::diagnose::{self, Sampled};
use super::dpo::{self, Dpo, Reference};
use super::folder::{self, FolderError, Loaded};
use super::gold::{self, Gold, GoldError};
use super::kto::Kto;
use super::lora::{Adapters, LoraConfig};
use super::loss::{KtoConfig, LossConfig};
use super::model::Decoder;
use super::optim::Optimizer;
use super::ppo::{Ppo, PpoConfig, iterate};
use super::reviews;
use super::reward::{self, RewardLoss, RewardModel};
use super::sample::Completion;
use super::sft::{Normalization, Sft};
use super::tokenizer::{Tokenizer, TokenizerConfig, TokenizerError};
use super::train::{Metrics, Stage, TrainConfig, Trainee, evaluate, step};
use crate::device::DeviceChoice;
use crate::nn::{constant, to_host};
use crate::random::stream;
use crate::run::archive::{Archive, ArchiveError, write_atomically};
use crate::run::config::merge;
use crate::run::tensorboard::EventFile;
use crate::run::{Clock, Folder, RunError};

/// What is trained for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StageKind {
    /// A fresh model on texts.
    Pretrain,
    /// A model on completions.
    Sft,
    /// A reward model on comparisons.
    Reward,
    /// A policy on comparisons.
    Dpo,
    /// A policy on good and bad completions.
    Kto,
    /// A policy on a reward of its own completions.
    Ppo,
}

/// A resolved configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LmConfig {
    /// What is trained for.
    pub stage: StageKind,
    /// Seed of every random draw.
    pub seed: u64,
    /// Where tensors live.
    pub device: DeviceChoice,
    /// Folder of the model to begin with; empty in pre-training, which makes one.
    pub model: PathBuf,
    /// Files or folders with rows, or `reviews` for the embedded world.
    pub data: Vec<PathBuf>,
    /// The same for evaluation; without, `eval_share` of the data.
    pub eval_data: Vec<PathBuf>,
    /// Share of the rows that is kept for evaluation, where there are no files for it.
    pub eval_share: f64,
    /// A chat template by name or file, for rows that are chats.
    pub chat_template: String,
    /// Gold reward that completions are judged with at evaluations; empty for none.
    pub gold: String,
    /// Completions that are sampled at evaluations, for the divergence from the reference and the gold reward.
    pub eval_samples: usize,
    /// Most tokens of these.
    pub eval_tokens: usize,
    /// How files are read.
    pub read: ReadConfig,
    /// How rows become tokens.
    pub conventions: Conventions,
    /// The loop.
    pub train: TrainConfig,
    /// Adapters; without, all weights are trained.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lora: Option<LoraConfig>,
    /// Pre-training's own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pretrain: Option<PretrainConfig>,
    /// Fine-tuning's own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sft: Option<SftConfig>,
    /// The reward model's own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reward: Option<RewardLoss>,
    /// DPO's own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub dpo: Option<DpoConfig>,
    /// KTO's own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kto: Option<KtoConfig>,
    /// PPO's own. Its numbers of iterations, batches and rates take the place of `train`'s.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ppo: Option<PpoRunConfig>,
}

/// A fresh model and its texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PretrainConfig {
    /// Its size.
    pub hidden: usize,
    /// Its blocks.
    pub layers: usize,
    /// Its heads.
    pub heads: usize,
    /// Its longest sequence, tokens; longer texts are cut into several.
    pub context: usize,
    /// Tokens of the tokenizer that is trained on the texts.
    pub vocabulary: usize,
    /// Folder of a tokenizer to use instead.
    pub tokenizer: PathBuf,
    /// Texts of the embedded world.
    pub texts: usize,
}

/// Fine-tuning's own hyper-parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SftConfig {
    /// What the loss is divided by.
    pub normalization: Normalization,
}

/// DPO's own hyper-parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DpoConfig {
    /// The loss.
    pub loss: LossConfig,
    /// What the policy is compared with.
    pub reference: ReferenceKind,
    /// Folder of the reference; empty for the model to begin with.
    pub reference_model: PathBuf,
}

/// PPO's own hyper-parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct PpoRunConfig {
    /// Folder of a reward model that judges completions; empty for the gold reward.
    pub reward_model: PathBuf,
    /// The algorithm's.
    pub algorithm: PpoConfig,
}

/// How the reference policy is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReferenceKind {
    /// Once for every pair, before training; the answers are kept in the run folder.
    Precomputed,
    /// For each batch.
    Model,
    /// Never: losses without a reference, or `reference_free`.
    None,
}

/// What a run says when it ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LmSummary {
    /// What was trained for.
    pub stage: StageKind,
    /// Seed.
    pub seed: u64,
    /// Steps taken.
    pub steps: usize,
    /// Parameters of the model; with adapters, of these.
    pub trained_parameters: usize,
    /// The last evaluation, by name.
    pub eval: Map<String, Value>,
    /// Completions of held-out prompts, if any were sampled.
    pub sampled: Option<Sampled>,
    /// Tokens that training went over.
    pub tokens: u64,
    /// Wall-clock seconds, summed over interruptions.
    pub wall_seconds: f64,
    /// CPU seconds of the process, likewise.
    pub cpu_seconds: f64,
    /// SHA-256 of what was trained.
    pub weights_sha256: String,
    /// Folder of the trained model.
    pub model: PathBuf,
    /// Run folder.
    pub run_dir: PathBuf,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum LmOutcome {
    /// With all steps.
    Finished(Box<LmSummary>),
    /// It was asked to stop, and wrote a checkpoint.
    Interrupted {
        /// Steps taken.
        step: usize,
    },
}

/// What is shown while a run goes on.
#[derive(Debug, Clone)]
pub enum Shown<'a> {
    /// A remark for the user.
    Note(&'a str),
    /// Something before training: what, how much is done, of how much.
    Preparing(&'a str, usize, usize),
    /// A step: its number from 1, of how many, what was measured, tokens so far.
    Step(usize, usize, &'a Metrics, u64),
    /// An evaluation.
    Evaluation(&'a Map<String, Value>),
}

/// What stops a run.
#[derive(Debug, thiserror::Error)]
pub enum LmError {
    /// The run folder.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A model's folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A checkpoint.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// Data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A chat template.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// A tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A gold reward.
    #[error(transparent)]
    Gold(#[from] GoldError),
    /// A value out of range, or values that do not go together.
    #[error("{0}")]
    Config(String),
    /// Training went astray.
    #[error(
        "step {step}: the loss is {loss}: training has diverged; the last checkpoint is kept. Try a smaller learning rate"
    )]
    Diverged {
        /// Which step.
        step: usize,
        /// Its loss.
        loss: f64,
    },
}

impl Default for PretrainConfig {
    fn default() -> Self {
        Self {
            hidden: 128,
            layers: 4,
            heads: 8,
            context: 256,
            vocabulary: 1024,
            tokenizer: PathBuf::new(),
            texts: 100_000,
        }
    }
}

impl Default for SftConfig {
    fn default() -> Self {
        Self { normalization: Normalization::TokenMean }
    }
}

impl Default for DpoConfig {
    fn default() -> Self {
        Self { loss: LossConfig::default(), reference: ReferenceKind::Precomputed, reference_model: PathBuf::new() }
    }
}

/// Sizes that `--size` names: parameters, hidden size, layers, heads, with a vocabulary of 1,024 tokens.
pub const SIZES: [(&str, usize, usize, usize); 6] = [
    ("30k", 16, 3, 2),
    ("100k", 40, 3, 4),
    ("300k", 72, 4, 6),
    ("1m", 128, 4, 4),
    ("3m", 208, 5, 8),
    ("10m", 320, 8, 10),
];

impl LmConfig {
    /// The defaults of a stage.
    #[must_use]
    pub fn new(stage: StageKind) -> Self {
        let mut train = TrainConfig::default();
        match stage {
            StageKind::Pretrain => {
                // nanoGPT's, at the larger rate that smaller models take.
                train.optimizer.learning_rate = 3e-3;
                train.optimizer.schedule = super::optim::Schedule::Cosine;
                train.optimizer.warmup = 0.02;
                train.optimizer.beta2 = 0.95;
                train.optimizer.weight_decay = 0.1;
                train.batch_size = 64;
            }
            // TRL's rates of full fine-tuning are for models a thousand times as large.
            StageKind::Sft => train.optimizer.learning_rate = 2e-5,
            StageKind::Reward => train.optimizer.learning_rate = 1e-4,
            StageKind::Dpo | StageKind::Kto | StageKind::Ppo => train.optimizer.learning_rate = 1e-6,
        }
        Self {
            stage,
            seed: 0,
            device: DeviceChoice::Auto,
            model: PathBuf::new(),
            data: Vec::new(),
            eval_data: Vec::new(),
            eval_share: 0.05,
            chat_template: String::new(),
            gold: String::new(),
            eval_samples: 0,
            eval_tokens: 64,
            read: ReadConfig::default(),
            conventions: Conventions::default(),
            train,
            lora: None,
            pretrain: (stage == StageKind::Pretrain).then(PretrainConfig::default),
            sft: (stage == StageKind::Sft).then(SftConfig::default),
            reward: (stage == StageKind::Reward).then(RewardLoss::default),
            dpo: (stage == StageKind::Dpo).then(DpoConfig::default),
            kto: (stage == StageKind::Kto).then(KtoConfig::default),
            ppo: (stage == StageKind::Ppo).then(PpoRunConfig::default),
        }
    }

    /// A stage's defaults with layers of values over them, the last one on top.
    ///
    /// # Errors
    /// [`LmError::Config`], naming a value that is unknown or of the wrong kind.
    pub fn resolve(stage: StageKind, layers: &[Table]) -> Result<Self, LmError> {
        let mut table = Table::try_from(Self::new(stage)).expect("a configuration always serialises");
        for layer in layers {
            merge(&mut table, layer.clone());
        }
        let resolved: Self = serde_path_to_error::deserialize(table)
            .map_err(|error| LmError::Config(format!("{}: {}", error.path(), error.inner().message())))?;
        if resolved.stage != stage {
            let problem = format!("the configuration is for the stage {:?}, not {stage:?}", resolved.stage);
            return Err(LmError::Config(problem.to_lowercase()));
        }
        resolved.validate()?;
        Ok(resolved)
    }

    /// As `config.toml`.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a configuration always serialises")
    }

    /// Checks what can be checked before anything is read.
    ///
    /// # Errors
    /// [`LmError::Config`], naming the first value out of range and what would be right.
    pub fn validate(&self) -> Result<(), LmError> {
        let wrong = |problem: String| Err(LmError::Config(problem));
        self.train.validate().map_err(|problem| LmError::Config(format!("train.{problem}")))?;
        self.conventions.validate()?;
        if self.data.is_empty() {
            return wrong("data: no file is given (--data FILE …, or --corpus reviews)".to_owned());
        }
        if !(0.0..1.0).contains(&self.eval_share) {
            return wrong(format!("eval_share = {}: must be at least 0 and below 1", self.eval_share));
        }
        if self.stage != StageKind::Pretrain && self.model.as_os_str().is_empty() {
            return wrong("model: none is given (--model FOLDER)".to_owned());
        }
        if let Some(lora) = &self.lora {
            let positive = lora.rank > 0 && lora.alpha > 0.0 && lora.alpha.is_finite();
            if !positive || !(0.0..1.0).contains(&lora.dropout) {
                return wrong(
                    "lora: rank must be 1 or more, alpha positive, dropout at least 0 and below 1".to_owned(),
                );
            }
        }
        if let Some(DpoConfig { loss, reference, .. }) = &self.dpo {
            loss.validate().map_err(|error| LmError::Config(format!("dpo.loss.{error}")))?;
            let needed = loss.kind.has_reference() && !loss.reference_free;
            if needed && *reference == ReferenceKind::None {
                return wrong(format!(
                    "dpo.reference = none: the loss {} compares with a reference; set dpo.loss.reference_free, or use simpo or orpo",
                    loss.kind
                ));
            }
        }
        if let Some(loss) = &self.reward {
            loss.likelihood.validate().map_err(|error| LmError::Config(format!("reward.likelihood.{error}")))?;
        }
        if let Some(kto) = &self.kto
            && !(kto.beta > 0.0 && kto.desirable_weight >= 0.0 && kto.undesirable_weight >= 0.0)
        {
            return wrong("kto: beta must be positive, and both weights at least 0".to_owned());
        }
        if let Some(PpoRunConfig { reward_model, algorithm }) = &self.ppo {
            algorithm.validate().map_err(|problem| LmError::Config(format!("ppo.algorithm.{problem}")))?;
            if reward_model.as_os_str().is_empty() && self.gold.is_empty() {
                return wrong("ppo: no reward is given (--reward-model FOLDER, or --gold SPEC)".to_owned());
            }
        }
        if let Some(pretrain) = &self.pretrain {
            let PretrainConfig { hidden, layers, heads, context, vocabulary, texts, .. } = *pretrain;
            let sizes = [hidden, layers, heads, vocabulary, texts];
            if sizes.contains(&0) || context < 8 || !hidden.is_multiple_of(2 * heads.max(1)) {
                return wrong(
                    "pretrain: hidden must be a multiple of twice the heads, the context 8 or more, and the other sizes 1 or more"
                        .to_owned(),
                );
            }
        }
        Ok(())
    }
}

/// Everything that a run needs beside its state.
struct Prepared {
    tokenizer: Tokenizer,
    /// The model to begin with, which is also the reference of sampled completions.
    start: Decoder,
    /// Folder of the base that adapters belong to.
    base: Option<PathBuf>,
    work: Work,
    /// Prompts of held-out rows.
    prompts: Vec<Vec<u32>>,
}

/// The stage's examples, for training and for evaluation.
#[expect(clippy::large_enum_variant, reason = "there is one in a run")]
enum Work {
    Texts(Sft, Option<Sft>),
    Completions(Sft, Option<Sft>),
    Comparisons(RewardModel, Option<RewardModel>),
    Policy(Dpo, Option<Dpo>),
    Single(Kto, Option<Kto>),
    Written(Written),
}

/// What PPO needs: prompts, a reward, and a value function to begin with.
struct Written {
    prompts: Vec<Vec<u32>>,
    reward_model: Option<Decoder>,
    value: Decoder,
}

/// Trains in a new folder.
///
/// # Errors
/// [`LmError`].
pub fn train(
    config: &LmConfig,
    path: &Path,
    device: &Device,
    stop: &AtomicBool,
    show: &(dyn Fn(Shown<'_>) + Sync),
) -> Result<LmOutcome, LmError> {
    config.validate()?;
    let folder = Folder::create_with(path, &config.to_toml())?;
    match prepare(config, &folder, device, show) {
        Ok(prepared) => execute(config, &folder, &prepared, None, stop, show),
        Err(error) => {
            // A run that could not begin leaves no folder that the next try would trip over.
            let _ = fs::remove_dir_all(path);
            Err(error)
        }
    }
}

/// Goes on with an interrupted run from its newest checkpoint.
///
/// # Errors
/// [`LmError`].
pub fn resume(
    path: &Path,
    device: &Device,
    stop: &AtomicBool,
    show: &(dyn Fn(Shown<'_>) + Sync),
) -> Result<LmOutcome, LmError> {
    let folder = Folder::open(path)?;
    let config = read_config(path)?;
    let prepared = prepare(&config, &folder, device, show)?;
    let checkpoint = newest_checkpoint(path, show)?;
    execute(&config, &folder, &prepared, checkpoint, stop, show)
}

/// The configuration of a run folder.
///
/// # Errors
/// When it is missing, torn, or that of another kind of run.
pub fn read_config(path: &Path) -> Result<LmConfig, LmError> {
    let file = path.join("config.toml");
    let text = fs::read_to_string(&file).map_err(|source| RunError::Io {
        path: file.clone(),
        action: "read the configuration",
        source,
    })?;
    toml::from_str(&text).map_err(|error| LmError::Config(format!("{}: {}", file.display(), error.message())))
}

/// A model's tokenizer, checked against its vocabulary.
///
/// # Errors
/// When there is none, or it belongs to another model.
pub fn tokenizer_of(loaded: &Loaded) -> Result<Tokenizer, LmError> {
    let tokenizer = Tokenizer::load(&loaded.base)?;
    tokenizer.check_fits(loaded.decoder.config.vocabulary)?;
    Ok(tokenizer)
}

/// Tokens that end a model's texts: its configuration's, and the tokenizer's.
#[must_use]
pub fn eos_of(model: &Decoder, tokenizer: &Tokenizer) -> Vec<u32> {
    let own = model.config.eos.iter().copied();
    own.chain(tokenizer.special().eos.as_ref().map(|token| token.id)).collect::<BTreeSet<_>>().into_iter().collect()
}

/// SHA-256 of what is trained.
#[must_use]
pub fn weights_sha256(model: &Decoder) -> String {
    let mut model = model.clone();
    let mut hash = Sha256::new();
    for tensor in model.trained_mut() {
        for value in to_host(tensor.clone()) {
            hash.update(value.to_le_bytes());
        }
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

// --------------------------------------------------------------------------------------------------------- preparing

fn prepare(
    config: &LmConfig,
    folder: &Folder,
    device: &Device,
    show: &(dyn Fn(Shown<'_>) + Sync),
) -> Result<Prepared, LmError> {
    if config.stage == StageKind::Pretrain {
        return prepare_pretraining(config, device, show);
    }
    let loaded = folder::read(&config.model, device)?;
    loaded.remarks.iter().for_each(|remark| show(Shown::Note(remark)));
    let tokenizer = tokenizer_of(&loaded)?;
    let base = loaded.base.clone();
    let mut start = loaded.decoder;
    if config.stage == StageKind::Reward && start.config.output == Output::Tokens {
        start = folder::with_scores(&start, 1, config.seed);
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
        let adapters = Adapters::new(lora.clone(), &start.layout, config.seed, device);
        start.adapters = Some(adapters.map_err(|problem| LmError::Config(format!("lora.targets: {problem}")))?);
    }
    let template = chat_template(config, &tokenizer)?;
    let context = start.config.context;
    let mut conventions = config.conventions.clone();
    if conventions.max_length > context {
        conventions.max_length = context;
        conventions.max_prompt_length = conventions.max_prompt_length.min(context - 1);
        show(Shown::Note(&format!("max_length is the model's context, {context} tokens")));
    }
    let part_tokens = config.train.part_tokens;
    let log_probs_of = |model: &Decoder, pairs: &[EncodedPair], what: &str| {
        let done = AtomicUsize::new(0);
        let report = |count: usize| {
            let so_far = done.fetch_add(count, Ordering::Relaxed) + count;
            show(Shown::Preparing(what, so_far, pairs.len()));
        };
        dpo::log_probs(model, pairs, part_tokens, &report)
    };
    let (work, prompts) = match config.stage {
        StageKind::Pretrain => unreachable!("pre-training was prepared above"),
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
            (Work::Completions(stage(examples), eval.map(stage)), prompts)
        }
        StageKind::Reward | StageKind::Dpo => {
            let (rows, eval) = rows::<PreferenceRow>(config, show)?;
            let encode = |rows: &[PreferenceRow]| {
                let (pairs, report) = data::encode_pairs(rows, &tokenizer, template.as_ref(), &conventions)?;
                remark(&report, show);
                Ok::<_, LmError>(pairs)
            };
            let (pairs, eval) = (encode(&rows)?, some(&eval).map(encode).transpose()?);
            let prompts = prompts(eval.as_deref().unwrap_or(&pairs).iter().map(|pair| pair.chosen.prompt()));
            if let Some(loss) = config.reward {
                let stage = |pairs| RewardModel { pairs, loss };
                (Work::Comparisons(stage(pairs), eval.map(stage)), prompts)
            } else {
                let DpoConfig { loss, reference: kind, reference_model } = config.dpo.clone().unwrap_or_default();
                let other = match reference_model.as_os_str().is_empty() {
                    true => None,
                    false => Some(folder::read(&reference_model, device)?.decoder),
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
                        let cached = cached_log_probs(&folder.path, reference, &pairs, eval, &log_probs_of)?;
                        (Reference::LogProbs(cached.0), Reference::LogProbs(cached.1))
                    }
                };
                let stage = |pairs, reference| Dpo { pairs, loss, reference };
                (Work::Policy(stage(pairs, references.0), eval.map(|pairs| stage(pairs, references.1))), prompts)
            }
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
            let reward_model = match reward_model.as_os_str().is_empty() {
                true => None,
                false => Some(reward_model_of(&reward_model, &tokenizer, device)?),
            };
            // The value function begins as the reward model, which knows what is good (Stiennon et al. 2020); else as
            // the policy with a fresh head.
            let value = reward_model.clone().unwrap_or_else(|| folder::with_scores(&reference, 1, config.seed));
            (Work::Written(Written { prompts: own, reward_model, value }), held_out)
        }
    };
    Ok(Prepared { tokenizer, start, base: Some(base), work, prompts })
}

/// A reward model that reads the policy's tokens.
fn reward_model_of(path: &Path, tokenizer: &Tokenizer, device: &Device) -> Result<Decoder, LmError> {
    let loaded = folder::read(path, device)?;
    if loaded.decoder.config.output == Output::Tokens {
        let problem = format!("{}: is a model that writes, not a reward model (`lm reward` makes one)", path.display());
        return Err(LmError::Config(problem));
    }
    let own = tokenizer_of(&loaded)?;
    if own.fingerprint() != tokenizer.fingerprint() {
        let problem = format!("{}: has another tokenizer than the policy", path.display());
        return Err(LmError::Config(problem));
    }
    Ok(folder::merged(&loaded.decoder))
}

/// Texts, a tokenizer, and a fresh model.
fn prepare_pretraining(
    config: &LmConfig,
    device: &Device,
    show: &(dyn Fn(Shown<'_>) + Sync),
) -> Result<Prepared, LmError> {
    let pretrain = config.pretrain.clone().unwrap_or_default();
    let embedded = config.data == [PathBuf::from("reviews")];
    let texts: Vec<String> = if embedded {
        show(Shown::Note(&format!("writing {} reviews", pretrain.texts)));
        (0..pretrain.texts as u64).map(|i| reviews::review(&mut stream(config.seed, "review", i)).text).collect()
    } else {
        let (documents, skipped) = data::read_all::<Document>(&config.data, &config.read)?;
        note_skipped(&skipped, show);
        documents.into_iter().map(|document| document.text).collect()
    };
    let tokenizer = match pretrain.tokenizer.as_os_str().is_empty() {
        false => Tokenizer::load(&pretrain.tokenizer)?,
        true => {
            show(Shown::Note(&format!("training a tokenizer of {} tokens", pretrain.vocabulary)));
            let of = TokenizerConfig { vocab_size: pretrain.vocabulary, begin: true, ..TokenizerConfig::default() };
            Tokenizer::train(texts.iter().cloned(), &of)?
        }
    };
    let eos = tokenizer.special().eos.as_ref().map(|token| token.id);
    let eos =
        eos.ok_or_else(|| LmError::Config("pretrain.tokenizer: has no EOS token, which ends a text".to_owned()))?;
    let mut examples = Vec::with_capacity(texts.len());
    for text in &texts {
        let mut ids = tokenizer.encode(text, true)?;
        ids.push(eos);
        // The last token of a part is the first of the next one, so that each is predicted once.
        let mut rest = ids.as_slice();
        while rest.len() > pretrain.context {
            examples.push(Encoded { ids: rest[..pretrain.context].to_vec(), prompt_len: 0 });
            rest = &rest[pretrain.context - 1..];
        }
        if rest.len() > 1 {
            examples.push(Encoded { ids: rest.to_vec(), prompt_len: 0 });
        }
    }
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
    show(Shown::Note(&format!("a model of {} parameters, {} texts", model.parameters(), examples.len())));
    let start = Decoder::new(model, config.seed, device);
    let held_out = held_out(config, examples.len());
    let eval = examples.split_off(examples.len() - held_out);
    let stage = |examples| Sft { examples, normalization: Normalization::TokenMean };
    let eval = (!eval.is_empty()).then(|| stage(eval));
    Ok(Prepared { tokenizer, start, base: None, work: Work::Texts(stage(examples), eval), prompts: Vec::new() })
}

fn chat_template(config: &LmConfig, tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>, LmError> {
    let choice = (!config.chat_template.is_empty()).then_some(config.chat_template.as_str());
    match (choice, tokenizer.chat_template(None)) {
        (None, None) => Ok(None),
        _ => Ok(Some(ChatTemplate::choose(tokenizer, choice, None)?)),
    }
}

/// Rows for training and for evaluation.
fn rows<T: data::Row>(config: &LmConfig, show: &(dyn Fn(Shown<'_>) + Sync)) -> Result<(Vec<T>, Vec<T>), LmError> {
    let read = |paths: &[PathBuf]| {
        let (rows, skipped) = data::read_all::<T>(paths, &config.read)?;
        note_skipped(&skipped, show);
        Ok::<_, LmError>(rows)
    };
    let mut rows = read(&config.data)?;
    let eval = match config.eval_data.is_empty() {
        false => read(&config.eval_data)?,
        true => {
            // Drawn, because files are often sorted.
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

/// Rows that are kept for evaluation.
fn held_out(config: &LmConfig, rows: usize) -> usize {
    ((rows as f64 * config.eval_share).round() as usize).min(rows.saturating_sub(1))
}

/// Different prompts, in their order.
fn prompts<'a>(all: impl Iterator<Item = &'a [u32]>) -> Vec<Vec<u32>> {
    let mut seen = BTreeSet::new();
    all.filter(|prompt| !prompt.is_empty() && seen.insert(prompt.to_vec())).map(<[u32]>::to_vec).collect()
}

fn some<T>(rows: &[T]) -> Option<&[T]> {
    (!rows.is_empty()).then_some(rows)
}

fn note_skipped(skipped: &data::Skipped, show: &(dyn Fn(Shown<'_>) + Sync)) {
    if skipped.count > 0 {
        show(Shown::Note(&format!("{} bad rows are left out:\n  {}", skipped.count, skipped.first.join("\n  "))));
    }
}

fn remark(report: &EncodeReport, show: &(dyn Fn(Shown<'_>) + Sync)) {
    let EncodeReport { rows, prompt_not_prefix, cut, dropped } = report;
    let note = |count: u64, what: &str| {
        if count > 0 {
            show(Shown::Note(&format!("{count} of {rows} rows {what}")));
        }
    };
    note(*prompt_not_prefix as u64, "have a prompt whose tokens change when the completion follows");
    note(*cut as u64, "were cut to max_length");
    note(dropped.count, &format!("were left out as too long: {}", dropped.first.first().map_or("", String::as_str)));
}

/// The reference's log-probabilities of the training and evaluation pairs: from the run folder where they were computed
/// for the same model and tokens, else computed and written there.
#[expect(clippy::type_complexity, reason = "two lists of pairs, used once")]
fn cached_log_probs(
    run: &Path,
    reference: &Decoder,
    pairs: &[EncodedPair],
    eval: &[EncodedPair],
    compute: &dyn Fn(&Decoder, &[EncodedPair], &str) -> Vec<[f64; 2]>,
) -> Result<(Vec<[f64; 2]>, Vec<[f64; 2]>), LmError> {
    let mut hash = Sha256::new();
    let mut whole = folder::merged(reference);
    for tensor in whole.trained_mut() {
        to_host(tensor.clone()).iter().for_each(|value| hash.update(value.to_le_bytes()));
    }
    for side in pairs.iter().chain(eval).flat_map(|pair| [&pair.chosen, &pair.rejected]) {
        hash.update((side.prompt_len as u64).to_le_bytes());
        side.ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
        hash.update(u32::MAX.to_le_bytes());
    }
    let content: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let path = run.join("reference.safetensors");
    if let Ok(archive) = Archive::load(&path)
        && archive.get::<String>("content").is_ok_and(|found| found == content)
    {
        let list = |name: &str| -> Result<Vec<[f64; 2]>, LmError> {
            Ok(archive.f64_any(name)?.chunks_exact(2).map(|both| [both[0], both[1]]).collect())
        };
        return Ok((list("train")?, list("eval")?));
    }
    let found = (compute(reference, pairs, "reference log-probs"), compute(reference, eval, "reference log-probs"));
    let mut archive = Archive::default();
    for (name, list) in [("train", &found.0), ("eval", &found.1)] {
        archive.put_f64(name, &[list.len(), 2], list.as_flattened());
    }
    archive.put("content", &content);
    archive.save(&path)?;
    Ok(found)
}

// ---------------------------------------------------------------------------------------------------------- executing

fn execute(
    config: &LmConfig,
    folder: &Folder,
    prepared: &Prepared,
    checkpoint: Option<Archive>,
    stop: &AtomicBool,
    show: &(dyn Fn(Shown<'_>) + Sync),
) -> Result<LmOutcome, LmError> {
    match &prepared.work {
        Work::Texts(stage, eval) | Work::Completions(stage, eval) => {
            run_stage(config, folder, prepared, stage, eval.as_ref(), checkpoint, stop, show)
        }
        Work::Comparisons(stage, eval) => {
            run_stage(config, folder, prepared, stage, eval.as_ref(), checkpoint, stop, show)
        }
        Work::Policy(stage, eval) => run_stage(config, folder, prepared, stage, eval.as_ref(), checkpoint, stop, show),
        Work::Single(stage, eval) => run_stage(config, folder, prepared, stage, eval.as_ref(), checkpoint, stop, show),
        Work::Written(work) => run_ppo(config, folder, prepared, work, checkpoint, stop, show),
    }
}

fn run_stage<S: Stage>(
    config: &LmConfig,
    folder: &Folder,
    prepared: &Prepared,
    stage: &S,
    eval: Option<&S>,
    checkpoint: Option<Archive>,
    stop: &AtomicBool,
    show: &(dyn Fn(Shown<'_>) + Sync),
) -> Result<LmOutcome, LmError> {
    let mut trainee = Trainee { model: prepared.start.clone(), optimizer: Optimizer::default(), step: 0 };
    let mut clock = Clock::start(0.0, 0.0);
    let mut tokens = 0_u64;
    if let Some(archive) = checkpoint {
        restore(&archive, &mut trainee)?;
        clock = Clock::start(archive.get("wall_seconds")?, archive.get("cpu_seconds")?);
        tokens = archive.get("tokens")?;
    }
    let mut log = Log::open(&folder.path, trainee.step)?;
    let gold = match config.gold.as_str() {
        "" => None,
        spec => Some(gold::open(spec)?),
    };
    let evaluation = |trainee: &Trainee| -> Result<(Map<String, Value>, Option<Sampled>), LmError> {
        let mut all = Map::new();
        if let Some(eval) = eval {
            let examples: Vec<usize> = (0..eval.len()).collect();
            let metrics = evaluate(&trainee.model, eval, &examples, config.train.part_tokens);
            for (name, mean) in metrics.means() {
                all.insert(format!("eval_{name}"), json!(mean));
            }
            if let Some((count, [low, high], error)) = metrics.calibration() {
                all.insert("eval_comparisons".to_owned(), json!(count));
                all.insert("eval_accuracy_low".to_owned(), json!(low));
                all.insert("eval_accuracy_high".to_owned(), json!(high));
                all.insert("eval_calibration_error".to_owned(), json!(error));
            }
        }
        let sampled = sample_held_out(config, prepared, &trainee.model, gold.as_deref(), &mut all)?;
        Ok((all, sampled))
    };
    let total = config.train.total_steps(stage.len());
    let mut last = (Map::new(), None);
    let mut since = Metrics::default();
    let due = |every: usize, step: usize| every > 0 && step.is_multiple_of(every);
    while trainee.step < total {
        let examples = config.train.examples(config.seed, trainee.step, stage.len());
        let metrics = step(&mut trainee, stage, &config.train, &examples, total, config.seed);
        tokens += examples.iter().map(|&example| stage.tokens(example) as u64).sum::<u64>();
        let at = trainee.step;
        let loss = metrics.get("loss").unwrap_or(0.0);
        if !loss.is_finite() || !metrics.get("grad_norm").unwrap_or(0.0).is_finite() {
            return Err(LmError::Diverged { step: at, loss });
        }
        since += &metrics;
        show(Shown::Step(at, total, &metrics, tokens));
        if due(config.train.log_every, at) || at == total {
            let mut line = Map::new();
            since.means().for_each(|(name, mean)| {
                line.insert(name.to_owned(), json!(mean));
            });
            line.insert("num_tokens".to_owned(), json!(tokens));
            line.insert("epoch".to_owned(), json!((at * config.train.batch_size) as f64 / stage.len() as f64));
            log.write(at, line)?;
            since = Metrics::default();
        }
        if due(config.train.eval_every, at) || at == total {
            last = evaluation(&trainee)?;
            show(Shown::Evaluation(&last.0));
            if !last.0.is_empty() {
                log.write(at, last.0.clone())?;
            }
        }
        let stopping = stop.load(Ordering::Relaxed);
        if due(config.train.save_every, at) || at == total || stopping {
            save(&folder.path, &mut trainee, &clock, tokens)?;
        }
        if stopping && at < total {
            return Ok(LmOutcome::Interrupted { step: at });
        }
    }
    if last.0.is_empty() {
        last = evaluation(&trainee)?;
    }
    conclude(config, folder, prepared, &mut trainee, last, tokens, &clock)
}

/// PPO: iterations take the place of steps.
fn run_ppo(
    config: &LmConfig,
    folder: &Folder,
    prepared: &Prepared,
    work: &Written,
    checkpoint: Option<Archive>,
    stop: &AtomicBool,
    show: &(dyn Fn(Shown<'_>) + Sync),
) -> Result<LmOutcome, LmError> {
    let Written { prompts, reward_model, value } = work;
    let ppo = config.ppo.clone().unwrap_or_default().algorithm;
    let mut state = Ppo::new(prepared.start.clone(), value.clone(), &ppo);
    let (mut clock, mut tokens) = (Clock::start(0.0, 0.0), 0_u64);
    if let Some(archive) = checkpoint {
        take(&archive, "", &mut state.policy)?;
        take(&archive, "value.", &mut state.value)?;
        state.kl_coefficient = archive.get("kl_coefficient")?;
        state.iteration = archive.get("step")?;
        clock = Clock::start(archive.get("wall_seconds")?, archive.get("cpu_seconds")?);
        tokens = archive.get("tokens")?;
    }
    let mut log = Log::open(&folder.path, state.iteration)?;
    let gold = match config.gold.as_str() {
        "" => None,
        spec => Some(gold::open(spec)?),
    };
    let eos = eos_of(&prepared.start, &prepared.tokenizer);
    let reward = |rows: &[(usize, &Completion)]| -> Result<Vec<f64>, LmError> {
        let asked: Vec<Vec<u32>> = rows.iter().map(|(prompt, _)| prompts[*prompt].clone()).collect();
        match (reward_model, &gold) {
            (Some(model), _) => {
                let whole = |(prompt, (_, completion)): (&Vec<u32>, &(usize, &Completion))| {
                    [prompt.as_slice(), &completion.ids].concat()
                };
                let sequences: Vec<Vec<u32>> = asked.iter().zip(rows).map(whole).collect();
                let slices: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
                Ok(reward::scores(model, &slices).into_iter().map(f64::from).collect())
            }
            (None, Some(gold)) => {
                let completions: Vec<Completion> = rows.iter().map(|(_, completion)| (*completion).clone()).collect();
                diagnose::gold_scores(&**gold, &prepared.tokenizer, &asked, &completions)
            }
            (None, None) => Err(LmError::Config("ppo: no reward is given".to_owned())),
        }
    };
    let due = |every: usize, step: usize| every > 0 && step.is_multiple_of(every);
    let mut last = (Map::new(), None);
    while state.iteration < ppo.iterations {
        let metrics = iterate(&mut state, &prepared.start, prompts, &eos, &ppo, config.seed, &reward)
            .map_err(|error| LmError::Config(format!("PPO: {error}")))?;
        let at = state.iteration;
        let loss = metrics.get("loss/policy_avg").unwrap_or(0.0);
        if !loss.is_finite() || !metrics.get("objective/kl").unwrap_or(0.0).is_finite() {
            return Err(LmError::Diverged { step: at, loss });
        }
        tokens += (metrics.get("completions/mean_length").unwrap_or(0.0) * ppo.batch_size as f64).round() as u64;
        show(Shown::Step(at, ppo.iterations, &metrics, tokens));
        let mut line: Map<String, Value> = metrics.means().map(|(name, mean)| (name.to_owned(), json!(mean))).collect();
        line.insert("num_tokens".to_owned(), json!(tokens));
        log.write(at, line)?;
        if due(config.train.eval_every, at) || at == ppo.iterations {
            let mut all = Map::new();
            let sampled = sample_held_out(config, prepared, &state.policy.model, gold.as_deref(), &mut all)?;
            show(Shown::Evaluation(&all));
            if !all.is_empty() {
                log.write(at, all.clone())?;
            }
            last = (all, sampled);
        }
        let stopping = stop.load(Ordering::Relaxed);
        if due(config.train.save_every, at) || at == ppo.iterations || stopping {
            let mut archive = Archive::default();
            put(&mut archive, "", &mut state.policy);
            put(&mut archive, "value.", &mut state.value);
            archive.put("kl_coefficient", &state.kl_coefficient);
            write_checkpoint(&folder.path, archive, at, &clock, tokens)?;
        }
        if stopping && at < ppo.iterations {
            return Ok(LmOutcome::Interrupted { step: at });
        }
    }
    // What a run counts are its iterations, not the minibatches of its epochs.
    state.policy.step = state.iteration;
    conclude(config, folder, prepared, &mut state.policy, last, tokens, &clock)
}

/// Completions of held-out prompts, if any are wanted; their measures are added to `all`.
fn sample_held_out(
    config: &LmConfig,
    prepared: &Prepared,
    model: &Decoder,
    gold: Option<&dyn Gold>,
    all: &mut Map<String, Value>,
) -> Result<Option<Sampled>, LmError> {
    if config.eval_samples == 0 || prepared.prompts.is_empty() || model.config.output != Output::Tokens {
        return Ok(None);
    }
    let prompts = prompts_for(&prepared.prompts, config.eval_samples);
    let Prepared { tokenizer, start, .. } = prepared;
    let eos = eos_of(start, tokenizer);
    let judge = gold.map(|gold| (gold, tokenizer));
    let (tokens, seed, part) = (config.eval_tokens, config.seed, config.train.part_tokens);
    let sampled = diagnose::sampled(model, start, &prompts, tokens, &eos, seed, part, judge)?;
    for (name, value) in sampled.named() {
        all.insert(format!("eval_{name}"), json!(value));
    }
    Ok(Some(sampled))
}

/// Saves the model, and says what came of the run.
fn conclude(
    config: &LmConfig,
    folder: &Folder,
    prepared: &Prepared,
    trainee: &mut Trainee,
    (eval, sampled): (Map<String, Value>, Option<Sampled>),
    tokens: u64,
    clock: &Clock,
) -> Result<LmOutcome, LmError> {
    let model = folder.path.join("model");
    fs::create_dir_all(&model).map_err(|source| RunError::Io {
        path: model.clone(),
        action: "make the folder",
        source,
    })?;
    folder::write(&trainee.model, prepared.base.as_deref(), &model)?;
    prepared.tokenizer.save(&model)?;
    let parameters = trainee.model.trained_mut().iter().map(|tensor| tensor.shape().num_elements()).sum();
    let summary = LmSummary {
        stage: config.stage,
        seed: config.seed,
        steps: trainee.step,
        trained_parameters: parameters,
        eval,
        sampled,
        tokens,
        wall_seconds: clock.wall(),
        cpu_seconds: clock.cpu(),
        weights_sha256: weights_sha256(&trainee.model),
        model,
        run_dir: folder.path.clone(),
    };
    let text = serde_json::to_string_pretty(&summary).expect("a summary always serialises") + "\n";
    let path = folder.path.join("summary.json");
    write_atomically(&path, text.as_bytes()).map_err(|source| RunError::Io {
        path,
        action: "write the summary",
        source,
    })?;
    Ok(LmOutcome::Finished(Box::new(summary)))
}

/// As many prompts as wanted: each once, or several times where there are fewer.
fn prompts_for(all: &[Vec<u32>], count: usize) -> Vec<Vec<u32>> {
    all.iter().cycle().take(count).cloned().collect()
}

// -------------------------------------------------------------------------------------------------------- checkpoints

/// Checkpoints that are kept: the newest, and the one before in case it is torn.
const KEPT: usize = 2;

fn save(run: &Path, trainee: &mut Trainee, clock: &Clock, tokens: u64) -> Result<(), LmError> {
    let mut archive = Archive::default();
    put(&mut archive, "", trainee);
    write_checkpoint(run, archive, trainee.step, clock, tokens)
}

fn restore(archive: &Archive, trainee: &mut Trainee) -> Result<(), LmError> {
    take(archive, "", trainee)
}

/// Writes a checkpoint, and removes the oldest.
fn write_checkpoint(run: &Path, mut archive: Archive, step: usize, clock: &Clock, tokens: u64) -> Result<(), LmError> {
    archive.put("step", &step);
    archive.put("tokens", &tokens);
    archive.put("wall_seconds", &clock.wall());
    archive.put("cpu_seconds", &clock.cpu());
    let folder = run.join("checkpoints");
    archive.save(&folder.join(format!("step-{step:08}.safetensors")))?;
    for old in checkpoints(run).into_iter().rev().skip(KEPT) {
        // A checkpoint that cannot be removed harms nothing.
        let _ = fs::remove_file(old);
    }
    Ok(())
}

/// Puts a model in training into a checkpoint, its names behind a prefix.
pub(super) fn put(archive: &mut Archive, prefix: &str, trainee: &mut Trainee) {
    let names = trainee.model.trained_names();
    for (name, tensor) in names.iter().zip(trainee.model.trained_mut()) {
        archive.put_f32(format!("{prefix}{name}"), &tensor.dims(), &to_host(tensor.clone()));
    }
    for (name, moments) in names.iter().zip(&trainee.optimizer.moments) {
        for (i, tensor) in moments.iter().enumerate() {
            archive.put_f32(format!("{prefix}optimizer.{i}.{name}"), &tensor.dims(), &to_host(tensor.clone()));
        }
    }
    archive.put(&format!("{prefix}optimizer_steps"), &trainee.optimizer.steps);
    archive.put(&format!("{prefix}trainee_step"), &trainee.step);
}

/// Takes it out again.
pub(super) fn take(archive: &Archive, prefix: &str, trainee: &mut Trainee) -> Result<(), LmError> {
    let device = trainee.model.device();
    let names = trainee.model.trained_names();
    let mut moments = Vec::with_capacity(names.len());
    for (name, tensor) in names.iter().zip(trainee.model.trained_mut()) {
        let shape = tensor.dims();
        *tensor = constant(&archive.f32(&format!("{prefix}{name}"), &shape)?, shape, &device);
        let moment = |i: usize| -> Result<_, LmError> {
            let name = format!("{prefix}optimizer.{i}.{name}");
            let values = archive.f32_any(&name)?;
            // The optimiser's own shapes: as the parameter, or its rows, its columns, or nothing.
            let shapes = [shape, [shape[0], 1], [1, shape[1]], [1, 1]];
            let fits = shapes.into_iter().find(|shape| archive.f32(&name, shape).is_ok()).unwrap_or(shape);
            Ok(constant(&values, fits, &device))
        };
        moments.push([moment(0)?, moment(1)?]);
    }
    trainee.optimizer = Optimizer { steps: archive.get(&format!("{prefix}optimizer_steps"))?, moments };
    trainee.step = archive.get(&format!("{prefix}trainee_step"))?;
    Ok(())
}

/// Checkpoints, oldest first.
pub(super) fn checkpoints(run: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(run.join("checkpoints")) else { return Vec::new() };
    let mut all: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    all.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    all.sort();
    all
}

pub(super) fn newest_checkpoint(run: &Path, show: &(dyn Fn(Shown<'_>) + Sync)) -> Result<Option<Archive>, LmError> {
    for path in checkpoints(run).into_iter().rev() {
        match Archive::load(&path) {
            Ok(archive) => return Ok(Some(archive)),
            Err(error) => show(Shown::Note(&format!("{error}; trying the one before it"))),
        }
    }
    Ok(None)
}

// ---------------------------------------------------------------------------------------------------------------- log

/// The run's metrics, as lines and as events.
struct Log {
    path: PathBuf,
    events: EventFile,
}

impl Log {
    /// Opens both; lines of steps that will be taken again, and a torn last one, are taken out.
    fn open(run: &Path, step: usize) -> Result<Self, LmError> {
        let path = run.join("metrics.jsonl");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let parsed = text.lines().map_while(|line| serde_json::from_str::<Map<String, Value>>(line).ok());
        let at = |line: &Map<String, Value>| line.get("step").and_then(Value::as_u64).unwrap_or(u64::MAX);
        let kept: Vec<Map<String, Value>> = parsed.take_while(|line| at(line) <= step as u64).collect();
        let mut events = EventFile::create(&run.join("tb"), &[])?;
        let mut lines = String::new();
        for line in &kept {
            events.append_scalars(at(line), &scalars(line))?;
            lines += &(serde_json::to_string(line).expect("a JSON object always serialises") + "\n");
        }
        write_atomically(&path, lines.as_bytes()).map_err(|source| RunError::Io {
            path: path.clone(),
            action: "write metrics",
            source,
        })?;
        Ok(Self { path, events })
    }

    fn write(&mut self, step: usize, values: Map<String, Value>) -> Result<(), LmError> {
        let mut line = Map::from_iter([("step".to_owned(), json!(step))]);
        line.extend(values);
        let text = serde_json::to_string(&line).expect("a JSON object always serialises") + "\n";
        let append = || OpenOptions::new().append(true).open(&self.path)?.write_all(text.as_bytes());
        append().map_err(|source| RunError::Io { path: self.path.clone(), action: "write metrics", source })?;
        Ok(self.events.append_scalars(step as u64, &scalars(&line))?)
    }
}

fn scalars(line: &Map<String, Value>) -> Vec<(String, f64)> {
    line.iter().filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))).collect()
}
