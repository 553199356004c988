//! A training run of a language model and its folder.
//!
//! ```text
//! runs/<name>/
//!   config.toml      resolved configuration, as the run began
//!   changes.jsonl    what of it was changed since, and when
//!   metrics.jsonl    one object for each logged step, under TRL's names; evaluations begin with eval_
//!   tb/              the same as TensorBoard events
//!   reference.safetensors  the reference policy's log-probabilities, asked for once
//!   checkpoints/     step-000120.safetensors: everything needed to go on exactly
//!   model/           the trained model as a Hugging Face folder
//!   summary.json     what --json printed
//! ```

pub(crate) mod checkpoint;
mod config;
mod course;
mod ensemble;
mod execute;
mod margins;
mod prepare;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use toml::Table;

pub use self::config::{
    DpoConfig, LmConfig, ModpoRunConfig, ObjectiveConfig, PpoRunConfig, PretrainConfig, ReferenceKind, RewardRunConfig,
    SIZES, SftConfig, StageKind, read_config,
};
use self::course::Course;
pub use self::course::{AtStep, planned};
pub use self::ensemble::member_folder;
use super::chat::{self, ChatError, ChatTemplate};
use super::data::DataError;
use super::diagnose::Sampled;
use super::folder::{FolderError, Loaded};
use super::gold::GoldError;
use super::model::Decoder;
use super::ppo::PpoError;
use super::tokenizer::{Tokenizer, TokenizerError};
use super::train::Metrics;
use crate::device::DeviceError;
use crate::disk::archive::{ArchiveError, write_atomically};
use crate::disk::layers::LayerError;
use crate::disk::{DiskError, Folder, kept, lines, shown};
use crate::finite::NotFinite;
use crate::nn::to_host;
use crate::preference::ledger::LedgerError;

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
    /// CPU seconds of the process, likewise; `None` where the system does not tell.
    pub cpu_seconds: Option<f64>,
    /// SHA-256 of what was trained.
    pub weights_sha256: String,
    /// Folder of the trained model: where it is now, as the run folder.
    #[serde(serialize_with = "shown")]
    pub model: PathBuf,
    /// Run folder: where it is now. In the file both are only for those who read it.
    #[serde(serialize_with = "shown")]
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
    Disk(#[from] DiskError),
    /// A session's ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// There is no such device.
    #[error(transparent)]
    Device(#[from] DeviceError),
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
    /// A layer of the configuration, or a value that no configuration can hold.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// A value out of range, or values that do not go together.
    #[error("{0}")]
    Config(String),
    /// Training went astray.
    #[error("{source}. {}", kept(checkpoint.as_deref()))]
    Diverged {
        /// Which number of what, and when.
        source: NotFinite,
        /// The newest checkpoint, from before it happened.
        checkpoint: Option<PathBuf>,
    },
}

impl From<NotFinite> for LmError {
    fn from(source: NotFinite) -> Self {
        Self::Diverged { source, checkpoint: None }
    }
}

impl From<PpoError<Self>> for LmError {
    fn from(error: PpoError<Self>) -> Self {
        match error {
            PpoError::Reward(error) => error,
            PpoError::NotFinite(source) => source.into(),
            PpoError::Score { iteration, prompt, found } => NotFinite {
                what: format!("the reward of the completion of prompt {prompt}"),
                found,
                at: format!("iteration {iteration}"),
                advice: "nothing can be learned from it; look at the reward model, or at the gold reward",
            }
            .into(),
            other => Self::Config(format!("PPO: {other}")),
        }
    }
}

impl LmError {
    /// The same with the newest checkpoint of a run's folder, where training went astray.
    fn of_run(self, run: &Path) -> Self {
        match self {
            Self::Diverged { source, .. } => Self::Diverged { source, checkpoint: checkpoint::checkpoints(run).pop() },
            other => other,
        }
    }
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
    let dated = with_date(config)?;
    let config = &dated;
    let folder = Folder::create_with(path, &config.to_toml())?;
    if config.is_ensemble() {
        let outcome = ensemble::train(config, path, device, stop, show);
        if outcome.is_err() && !member_folder(path, 0).exists() {
            // The first member could not begin, so nor could the ensemble.
            let _ = fs::remove_dir_all(path);
        }
        return outcome;
    }
    match prepare::prepare(config, &folder, device, show) {
        Ok(prepared) => execute::execute(Course::new(path, config), &folder, &prepared, None, stop, show)
            .map_err(|error| error.of_run(path)),
        Err(error) => {
            // A run that could not begin leaves no folder that the next try would trip over.
            let _ = fs::remove_dir_all(path);
            Err(error)
        }
    }
}

/// The configuration with today's date where the chat template asks for one, so that the run can be repeated.
fn with_date(config: &LmConfig) -> Result<LmConfig, LmError> {
    let mut dated = config.clone();
    config.template_time()?;
    if config.template_date.is_none() && config.stage != StageKind::Pretrain {
        dated.template_date = asked_date(&config.model, config.template());
    }
    Ok(dated)
}

/// Today's date where a model's chat template asks for one; `choice` is another template, by name or file. What is wrong
/// with the model or the template is told where they are read.
#[must_use]
pub fn asked_date(model: &Path, choice: Option<&str>) -> Option<String> {
    let tokenizer = Tokenizer::load_for(model, &base_of(model)).ok()?;
    let template = ChatTemplate::wanted(&tokenizer, choice, None).ok()??;
    template.asks_for_the_date().then(chat::date_of_today)
}

/// The folder of a model's base: of an adapter, the one that it names; itself for what is no adapter.
fn base_of(model: &Path) -> PathBuf {
    let text = fs::read_to_string(model.join("adapter_config.json")).unwrap_or_default();
    let object: Value = serde_json::from_str(&text).unwrap_or_default();
    let Some(base) = object.get("base_model_name_or_path").and_then(Value::as_str) else { return model.to_owned() };
    // As where the adapter is read; what is wrong with it is told there.
    let places = [PathBuf::from(base), model.join(base)];
    places.into_iter().find(|path| path.join("config.json").is_file()).unwrap_or_else(|| model.to_owned())
}

/// Goes on with an interrupted run from its newest checkpoint. What `set` lays over the configuration is recorded and
/// takes effect there; a finished run goes on with more steps.
///
/// # Errors
/// [`LmError`].
pub fn resume(
    path: &Path,
    set: &[Table],
    device: &Device,
    stop: &AtomicBool,
    show: &(dyn Fn(Shown<'_>) + Sync),
) -> Result<LmOutcome, LmError> {
    let folder = Folder::open_to_write(path)?;
    let mut config = read_config(path)?;
    let planned = planned(&config, set)?;
    if config.is_ensemble() {
        return match planned {
            None => ensemble::train(&config, path, device, stop, show),
            Some(_) => Err(LmError::Config(format!(
                "{}: is an ensemble, whose members are trained alike: nothing of it can change; train another one",
                path.display()
            ))),
        };
    }
    let checkpoint = checkpoint::newest_checkpoint(path, show)?;
    let mut course = Course::open(path, checkpoint.as_ref())?;
    let checkpoint = checkpoint.map(|(_, archive)| archive);
    if let Some((_, new)) = &planned {
        config = new.clone();
    }
    // Files that were moved are where the newest configuration says.
    let prepared = prepare::prepare(&config, &folder, device, show)?;
    if let Some((fields, new)) = planned {
        let step = checkpoint.as_ref().map_or(Ok(0), |archive| archive.get("step"))?;
        course.add(step, fields, &new, |config| execute::total_steps(config, &prepared))?;
    }
    execute::execute(course, &folder, &prepared, checkpoint, stop, show).map_err(|error| error.of_run(path))
}

/// Checks that a run's newest whole checkpoint belongs to its configuration.
///
/// # Errors
/// [`DiskError::Edited`]; what cannot be read.
pub fn check(path: &Path, show: &(dyn Fn(Shown<'_>) + Sync)) -> Result<(), LmError> {
    let checkpoint = checkpoint::newest_checkpoint(path, show)?;
    Course::open(path, checkpoint.as_ref()).map(|_| ())
}

/// The tokenizer of the model that was read from `folder`, checked against its vocabulary. An adapter's may lie with it.
///
/// # Errors
/// When there is none, or it belongs to another model.
pub fn tokenizer_of(folder: &Path, loaded: &Loaded) -> Result<Tokenizer, LmError> {
    let tokenizer = Tokenizer::load_for(folder, &loaded.base)?;
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
    hex(&hash.finalize())
}

/// Bytes as hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl LmSummary {
    /// The summary of a run folder; `None` where the run is not finished.
    ///
    /// # Errors
    /// When the file is there, but not one that a run wrote.
    pub fn load(run: &Path) -> Result<Option<Self>, LmError> {
        let path = run.join(SUMMARY);
        let Ok(text) = fs::read_to_string(&path) else { return Ok(None) };
        let wrong = |error| LmError::Config(format!("{}: {error}", path.display()));
        let summary: Self = serde_json::from_str(&text).map_err(wrong)?;
        // It may have been moved since. The model of an ensemble is its whole folder.
        let model = if summary.model == summary.run_dir { run.to_owned() } else { run.join(MODEL) };
        Ok(Some(Self { model, run_dir: run.to_owned(), ..summary }))
    }

    /// Writes it to its run folder.
    fn save(&self) -> Result<(), LmError> {
        let text = lines::pretty(self);
        let path = self.run_dir.join(SUMMARY);
        Ok(write_atomically(&path, text.as_bytes()).map_err(|source| DiskError::Io {
            path,
            action: "write the summary",
            source,
        })?)
    }
}

/// Folder of the trained model in that of its run.
const MODEL: &str = "model";

/// What `--json` printed.
const SUMMARY: &str = "summary.json";
