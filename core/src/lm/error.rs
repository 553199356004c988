//! What stops work with language models.

use std::path::PathBuf;

use super::chat::ChatError;
use super::data::DataError;
use super::folder::FolderError;
use super::gold::GoldError;
use super::ppo::PpoError;
use super::tokenizer::TokenizerError;
use crate::device::DeviceError;
use crate::disk::archive::ArchiveError;
use crate::disk::layers::LayerError;
use crate::disk::{DiskError, kept};
use crate::finite::NotFinite;
use crate::preference::ledger::LedgerError;

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

impl LmError {
    /// The same error with the newest checkpoint, where training went astray.
    pub(super) fn with_checkpoint(self, newest: impl FnOnce() -> Option<PathBuf>) -> Self {
        match self {
            Self::Diverged { source, .. } => Self::Diverged { source, checkpoint: newest() },
            other => other,
        }
    }
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
