//! The configuration of a training run: the stage's defaults, then the `--config` file, then `--set` and flags.

use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use toml::Table;

use crate::device::DeviceChoice;
use crate::disk::{DiskError, layers};
use crate::lm::data::{Conventions, ReadConfig};
use crate::lm::error::LmError;
use crate::lm::lora::LoraConfig;
use crate::lm::loss::{KtoConfig, LOSSES, LossConfig};
use crate::lm::model::Precision;
use crate::lm::modpo::{ModpoForm, ModpoLoss};
use crate::lm::open::template_time;
use crate::lm::optim::Schedule;
use crate::lm::ppo::PpoConfig;
use crate::lm::reward::RewardLoss;
use crate::lm::sft::Normalization;
use crate::lm::train::TrainConfig;
use crate::preference::Likelihood;
use crate::range::OutOfRange;
use crate::soup::SUM_TOLERANCE;

/// A stage: what is trained, and on what.
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
    /// A policy on one objective's comparisons, with the rewards of the other objectives as margins.
    Modpo,
    /// A policy on good and bad completions.
    Kto,
    /// A policy on the rewards of its own completions.
    Ppo,
}

/// A resolved configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LmConfig {
    /// The stage.
    pub stage: StageKind,
    /// Seed of every random draw.
    pub seed: u64,
    /// Where tensors live.
    pub device: DeviceChoice,
    /// Number format of matrix products: `bf16` is for GPUs.
    #[serde(default)]
    pub precision: Precision,
    /// Folder of the model to begin with; empty in pre-training, which makes one.
    pub model: PathBuf,
    /// Files or folders with rows, or `reviews` for the embedded world.
    pub data: Vec<PathBuf>,
    /// Files or folders with rows for evaluation; without them, `eval_share` of the data is held out.
    pub eval_data: Vec<PathBuf>,
    /// Share of the rows that is held out for evaluation, where `eval_data` is empty.
    pub eval_share: f64,
    /// A chat template by name or file, for rows that are chats.
    pub chat_template: String,
    /// The date that a chat template receives if it asks for one, such as 2024-07-26, in UTC. A new run whose template
    /// asks for a date records today's.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub template_date: Option<String>,
    /// Gold reward that completions are judged with at evaluations; empty for none.
    pub gold: String,
    /// Completions that are sampled at evaluations, for the divergence from the reference and the gold reward.
    pub eval_samples: usize,
    /// Most tokens of such a completion.
    pub eval_tokens: usize,
    /// How files are read.
    pub read: ReadConfig,
    /// How rows become tokens.
    pub conventions: Conventions,
    /// The training loop.
    pub train: TrainConfig,
    /// Adapters; without them, all weights are trained.
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
    pub reward: Option<RewardRunConfig>,
    /// DPO's own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub dpo: Option<DpoConfig>,
    /// MODPO's own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub modpo: Option<ModpoRunConfig>,
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
    /// The model's hidden size.
    pub hidden: usize,
    /// The model's blocks.
    pub layers: usize,
    /// Attention heads of a block.
    pub heads: usize,
    /// The model's longest sequence, tokens. Longer texts are cut into several sequences.
    pub context: usize,
    /// Tokens of the tokenizer that is trained on the texts.
    pub vocabulary: usize,
    /// Folder of an existing tokenizer; empty to train one.
    pub tokenizer: PathBuf,
    /// How many texts of the embedded world are written.
    pub texts: usize,
    /// Fill every example with `context` tokens of consecutive texts, as in GPT-2's pre-training. Otherwise an example
    /// is one text, or a part of a long one.
    pub packing: bool,
}

/// Fine-tuning's own hyper-parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SftConfig {
    /// What the loss is divided by.
    pub normalization: Normalization,
}

/// The reward model's own hyper-parameters.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RewardRunConfig {
    /// How a difference of scores becomes the probability of an answer.
    pub likelihood: Likelihood,
    /// Weight that keeps scores around zero; see [`RewardLoss`].
    pub centering: f64,
    /// Reward models in the ensemble; 1 for a single reward model. (Christiano et al. 2017, §2.2.3, use 3. Here each
    /// member is a whole language model, so an ensemble is made only on request.)
    pub members: usize,
    /// Train each member of an ensemble on its own bootstrap sample of the comparisons: as many as there are, drawn
    /// with replacement (§2.2.3).
    pub bootstrap: bool,
    /// The member of the ensemble that this run trains, from 0; without it, all members are trained, one after another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member: Option<usize>,
}

/// DPO's own hyper-parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DpoConfig {
    /// The loss.
    pub loss: LossConfig,
    /// How the reference policy is asked.
    pub reference: ReferenceKind,
    /// Folder of the reference policy; empty for the model to begin with.
    pub reference_model: PathBuf,
}

/// MODPO's own hyper-parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModpoRunConfig {
    /// β: strength of the pull to the reference policy, which is the model to begin with.
    pub beta: f64,
    /// How the loss is scaled.
    pub form: ModpoForm,
    /// The objective whose preferences are learned from. If empty, it is the objective with the largest weight among
    /// those that have preferences, which keeps 1/w_k small.
    pub carrier: String,
    /// Scale every margin reward to the same standard deviation on samples of the reference policy, so that weights
    /// compare like with like: to the deviation of the carrier's own reward, or to 1 if the carrier has no reward.
    pub standardize: bool,
    /// How many samples the standard deviations are computed from.
    pub samples: usize,
    /// All objectives.
    pub objectives: Vec<ObjectiveConfig>,
}

/// An objective of MODPO.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectiveConfig {
    /// The objective's name.
    pub name: String,
    /// Weight in the collective reward; all weights sum to 1.
    pub weight: f64,
    /// Files with the objective's preferences. Without them it cannot carry the run, unless the run's own `data` are
    /// its preferences.
    #[serde(default)]
    pub data: Vec<PathBuf>,
    /// The objective's reward: `model:DIR` for a reward model or an ensemble's run, `implicit:DIR` for a policy trained
    /// with DPO, or a gold reward. Where another objective carries the run, it gives the margins. The carrier's reward
    /// gives the unit of the margins; the implicit reward of the carrier's own DPO policy gives the unit that its
    /// preferences teach.
    #[serde(default)]
    pub reward: String,
    /// β that the policy of an implicit reward was trained with.
    #[serde(default = "implicit_beta")]
    pub beta: f64,
    /// Folder of the reference policy that the policy of an implicit reward was trained with; empty for the model to
    /// begin with.
    #[serde(default)]
    pub reference: PathBuf,
}

/// PPO's own hyper-parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct PpoRunConfig {
    /// Folder of a reward model, or of an ensemble's run, that scores completions; empty for the gold reward.
    pub reward_model: PathBuf,
    /// Hyper-parameters of the algorithm.
    pub algorithm: PpoConfig,
}

/// How the reference policy is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReferenceKind {
    /// Once for every pair, before training. The log-probabilities are kept in the run folder.
    Precomputed,
    /// Anew for each batch.
    Model,
    /// Never: for losses without a reference policy, or with `reference_free`.
    None,
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

/// Most reward models of an ensemble, as for rewards of clips.
const MOST_MEMBERS: usize = 64;

impl LmConfig {
    /// The defaults of a stage.
    #[must_use]
    pub fn new(stage: StageKind) -> Self {
        let mut train = TrainConfig::default();
        match stage {
            StageKind::Pretrain => {
                // nanoGPT's settings, with a larger learning rate, which smaller models can take.
                train.optimizer.learning_rate = 3e-3;
                train.optimizer.schedule = Schedule::Cosine;
                train.optimizer.warmup = 0.02;
                train.optimizer.beta2 = 0.95;
                train.optimizer.weight_decay = 0.1;
                train.batch_size = 64;
            }
            // TRL's learning rates for full fine-tuning. They are meant for models a thousand times as large.
            StageKind::Sft => train.optimizer.learning_rate = 2e-5,
            StageKind::Reward => train.optimizer.learning_rate = 1e-4,
            StageKind::Dpo | StageKind::Modpo | StageKind::Kto | StageKind::Ppo => train.optimizer.learning_rate = 1e-6,
        }
        Self {
            stage,
            seed: 0,
            device: DeviceChoice::Auto,
            precision: Precision::default(),
            model: PathBuf::new(),
            data: if stage == StageKind::Pretrain { vec!["reviews".into()] } else { Vec::new() },
            eval_data: Vec::new(),
            eval_share: 0.05,
            chat_template: String::new(),
            template_date: None,
            gold: String::new(),
            eval_samples: 0,
            eval_tokens: 64,
            read: ReadConfig::default(),
            conventions: Conventions::default(),
            train,
            lora: None,
            pretrain: (stage == StageKind::Pretrain).then(PretrainConfig::default),
            sft: (stage == StageKind::Sft).then(SftConfig::default),
            reward: (stage == StageKind::Reward).then(RewardRunConfig::default),
            dpo: (stage == StageKind::Dpo).then(DpoConfig::default),
            modpo: (stage == StageKind::Modpo).then(ModpoRunConfig::default),
            kto: (stage == StageKind::Kto).then(KtoConfig::default),
            ppo: (stage == StageKind::Ppo).then(PpoRunConfig::default),
        }
    }

    /// A stage's defaults with layers of values over them, the last one on top.
    ///
    /// # Errors
    /// [`LmError::Config`], naming a value that is unknown or of the wrong kind.
    pub fn resolve(stage: StageKind, layers: &[Table]) -> Result<Self, LmError> {
        let resolved = layers::resolve(&Self::new(stage), layers)?;
        if resolved.stage != stage {
            let problem = format!("the configuration is for the stage {:?}, not {stage:?}", resolved.stage);
            return Err(LmError::Config(problem.to_lowercase()));
        }
        resolved.validate()?;
        Ok(resolved)
    }

    /// This configuration with layers of values over it, the last one on top.
    ///
    /// # Errors
    /// As [`LmConfig::resolve`].
    pub fn with(&self, layers: &[Table]) -> Result<Self, LmError> {
        let changed = layers::resolve(self, layers)?;
        changed.validate()?;
        Ok(changed)
    }

    /// The configuration as a table.
    pub(super) fn to_table(&self) -> Table {
        layers::table(self).expect("a configuration always serialises")
    }

    /// Whether the run trains several reward models.
    pub(super) fn is_ensemble(&self) -> bool {
        self.reward.is_some_and(|reward| reward.is_ensemble())
    }

    /// The chat template that the configuration names, if it names one.
    #[must_use]
    pub fn template(&self) -> Option<&str> {
        (!self.chat_template.is_empty()).then_some(self.chat_template.as_str())
    }

    /// The time that a chat template receives if it asks for the time: the beginning of `template_date`.
    ///
    /// # Errors
    /// [`LmError::Config`] if `template_date` is not a date.
    pub fn template_time(&self) -> Result<Option<i64>, LmError> {
        template_time(self.template_date.as_deref())
    }

    /// The text of `config.toml`.
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
        let check = |field: &str, found: f64, fine, expected: &str| {
            OutOfRange::check(field, found, fine, expected).map_err(|error| LmError::Config(error.to_string()))
        };
        let share = |field: &str, found| check(field, found, (0.0..1.0).contains(&found), "at least 0 and below 1");
        layers::layer(self)?;
        self.train.validate().map_err(|problem| LmError::Config(format!("train.{problem}")))?;
        self.conventions.validate().map_err(|error| LmError::Config(format!("conventions.{error}")))?;
        if self.data.is_empty() && self.stage != StageKind::Modpo {
            return wrong("data: no file is given (--data FILE …, or --corpus reviews)".to_owned());
        }
        share("eval_share", self.eval_share)?;
        if self.stage != StageKind::Pretrain && self.model.as_os_str().is_empty() {
            return wrong("model: none is given (--model FOLDER)".to_owned());
        }
        if let Some(lora) = &self.lora {
            check("lora.rank", lora.rank as f64, lora.rank > 0, "1 or more")?;
            check("lora.alpha", lora.alpha, lora.alpha > 0.0 && lora.alpha <= 1e6, "positive and at most 1e6")?;
            share("lora.dropout", lora.dropout)?;
        }
        if let Some(DpoConfig { loss, reference, .. }) = &self.dpo {
            loss.validate().map_err(|error| LmError::Config(format!("dpo.loss.{error}")))?;
            let needed = loss.kind.reference && !loss.reference_free;
            if needed && *reference == ReferenceKind::None {
                let others = LOSSES.iter().filter(|loss| !loss.reference).map(|loss| loss.name);
                return wrong(format!(
                    "dpo.reference = none: the loss {} needs a reference; set dpo.loss.reference_free, or use {}",
                    loss.kind.name,
                    others.collect::<Vec<_>>().join(" or ")
                ));
            }
        }
        if let Some(RewardRunConfig { likelihood, centering, members, member, .. }) = self.reward {
            likelihood.validate().map_err(|error| LmError::Config(format!("reward.likelihood.{error}")))?;
            check("reward.centering", centering, (0.0..=1e6).contains(&centering), "between 0 and 1e6")?;
            let (fine, expected) = ((1..=MOST_MEMBERS).contains(&members), format!("between 1 and {MOST_MEMBERS}"));
            check("reward.members", members as f64, fine, &expected)?;
            if let Some(member) = member.filter(|&member| member >= members) {
                return wrong(format!("reward.member = {member}: must be below reward.members, {members}"));
            }
        }
        if let Some(modpo) = &self.modpo {
            modpo.validate(!self.data.is_empty()).map_err(|problem| LmError::Config(format!("modpo.{problem}")))?;
        }
        if let Some(kto) = &self.kto {
            kto.validate().map_err(|error| LmError::Config(format!("kto.{error}")))?;
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
                    "pretrain: hidden must be a multiple of twice the heads, the context 8 or more, and the other \
                     sizes 1 or more"
                        .to_owned(),
                );
            }
        }
        Ok(())
    }
}

impl ModpoRunConfig {
    /// The objective whose preferences are learned from.
    ///
    /// # Errors
    /// [`LmError::Config`] if there is no objective of that name.
    pub fn carrier(&self) -> Result<&ObjectiveConfig, LmError> {
        let named = |name: &str| self.objectives.iter().find(|objective| objective.name == name);
        let found = match self.carrier.as_str() {
            // Among equal weights, the first objective wins.
            "" => self
                .objectives
                .iter()
                .rev()
                .filter(|objective| !objective.data.is_empty())
                .max_by(|a, b| a.weight.total_cmp(&b.weight)),
            name => named(name),
        };
        found.or_else(|| self.objectives.first().filter(|_| self.carrier.is_empty())).ok_or_else(|| {
            let names: Vec<&str> = self.objectives.iter().map(|objective| objective.name.as_str()).collect();
            LmError::Config(format!(
                "modpo.carrier = \"{}\": there are the objectives {}",
                self.carrier,
                names.join(", ")
            ))
        })
    }

    /// Checks the numbers and the objectives. `has_data` says whether the run's own `data` names preferences.
    fn validate(&self, has_data: bool) -> Result<(), String> {
        let Self { beta, samples, objectives, .. } = self;
        let check = |field: &str, found: f64, fine, expected: &str| {
            OutOfRange::check(field, found, fine, expected).map_err(|error| error.to_string())
        };
        let strength = |field: &str, beta| check(field, beta, (1e-9..=1e6).contains(&beta), "between 1e-9 and 1e6");
        strength("beta", *beta)?;
        check("samples", *samples as f64, *samples >= 2, "2 or more, to have a deviation")?;
        if objectives.len() < 2 {
            return Err("objectives: must be two or more (--objective name=…,weight=…); one alone is DPO".to_owned());
        }
        for (i, objective) in objectives.iter().enumerate() {
            let ObjectiveConfig { name, weight, beta, .. } = objective;
            if name.is_empty() || objectives[..i].iter().any(|other| other.name == *name) {
                return Err(format!("objectives: the name '{name}' is empty or there twice"));
            }
            check(&format!("objectives.{name}: weight"), *weight, *weight >= 0.0, "at least 0")?;
            strength(&format!("objectives.{name}: beta"), *beta)?;
        }
        let sum: f64 = objectives.iter().map(|objective| objective.weight).sum();
        if (sum - 1.0).abs() > SUM_TOLERANCE {
            return Err(format!(
                "objectives: the weights sum to {sum}: must sum to 1 (divide all of them, and beta, by it)"
            ));
        }
        let carrier = self.carrier().map_err(|error| error.to_string().trim_start_matches("modpo.").to_owned())?;
        if carrier.data.is_empty() && !has_data {
            return Err(format!(
                "objectives.{}: carries the run, but has no preferences to learn from: give data = [\"FILE\"]",
                carrier.name
            ));
        }
        let margin =
            objectives.iter().find(|other| other.name != carrier.name && other.weight > 0.0 && other.reward.is_empty());
        match margin {
            None => Ok(()),
            Some(other) => Err(format!(
                "objectives.{}: has a weight, but no reward to make a margin of: give reward = \"model:DIR\", \
                 \"implicit:DIR\" or a gold reward",
                other.name
            )),
        }
    }
}

impl RewardRunConfig {
    /// Whether the run trains several reward models.
    #[must_use]
    pub fn is_ensemble(&self) -> bool {
        self.members > 1 && self.member.is_none()
    }

    /// The loss of each reward model.
    #[must_use]
    pub fn loss(&self) -> RewardLoss {
        RewardLoss { likelihood: self.likelihood, centering: self.centering }
    }
}

impl Default for PretrainConfig {
    fn default() -> Self {
        Self {
            hidden: 128,
            layers: 4,
            heads: 4,
            context: 256,
            vocabulary: 1024,
            tokenizer: PathBuf::new(),
            texts: 100_000,
            packing: false,
        }
    }
}

impl Default for SftConfig {
    fn default() -> Self {
        Self { normalization: Normalization::TokenMean }
    }
}

impl Default for RewardRunConfig {
    fn default() -> Self {
        let RewardLoss { likelihood, centering } = RewardLoss::default();
        Self { likelihood, centering, members: 1, bootstrap: true, member: None }
    }
}

impl Default for ModpoRunConfig {
    fn default() -> Self {
        let ModpoLoss { beta, form, .. } = ModpoLoss::default();
        Self { beta, form, carrier: String::new(), standardize: true, samples: 256, objectives: Vec::new() }
    }
}

/// MODPO's own default.
fn implicit_beta() -> f64 {
    ModpoLoss::default().beta
}

impl Default for DpoConfig {
    fn default() -> Self {
        Self { loss: LossConfig::default(), reference: ReferenceKind::Precomputed, reference_model: PathBuf::new() }
    }
}

/// The configuration that a run began with.
pub(super) fn first_config(run: &Path) -> Result<LmConfig, LmError> {
    read_checked(run, LmConfig::validate)
}

/// The configuration in a folder's `config.toml`, which `validate` accepts.
pub(in crate::lm) fn read_checked<C: DeserializeOwned>(
    folder: &Path,
    validate: fn(&C) -> Result<(), LmError>,
) -> Result<C, LmError> {
    let file = folder.join("config.toml");
    let text = fs::read_to_string(&file).map_err(DiskError::io(&file, "read the configuration"))?;
    let wrong = |problem: &str| LmError::Config(format!("{}: {problem}", file.display()));
    let config: C = layers::from_text(&text, &file).map_err(|error| LmError::Config(error.to_string()))?;
    validate(&config).map_err(|error| wrong(&error.to_string()))?;
    Ok(config)
}
