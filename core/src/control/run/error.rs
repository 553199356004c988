//! What stops a run.

use std::path::PathBuf;

use super::film::FilmError;
use crate::control::config::ConfigError;
use crate::control::drlhp::{EventError, Halt};
use crate::device::DeviceError;
use crate::disk::archive::ArchiveError;
use crate::disk::changes::ChangeError;
use crate::disk::layers::LayerError;
use crate::disk::{DiskError, kept};
use crate::preference::ledger::LedgerError;

/// What stops a run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The folder, or a file in it: also a ledger that answers other questions than this run asks.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The ledger says something that does not belong to this run.
    #[error("{}: {source}", path.display())]
    Event {
        /// File.
        path: PathBuf,
        /// What does not belong.
        source: EventError,
    },
    /// There is no answer to branch at.
    #[error("{}: query {query} has no answer", path.display())]
    NoAnswer {
        /// Ledger.
        path: PathBuf,
        /// The query.
        query: u64,
    },
    /// Training cannot go on.
    #[error("{source}. {}", kept(checkpoint.as_deref()))]
    Halted {
        /// Why.
        source: Halt,
        /// The newest checkpoint, from before it happened.
        checkpoint: Option<PathBuf>,
    },
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The ledger cannot be used.
    #[error(transparent)]
    LedgerFile(#[from] LedgerError),
    /// A field that cannot change.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// A change that this run cannot take now.
    #[error("{0}")]
    Unchangeable(String),
    /// A policy that a run cannot begin with.
    #[error("init = {}: {problem}", path.display())]
    Beginning {
        /// Its file or run.
        path: PathBuf,
        /// Why not.
        problem: String,
    },
    /// A film cannot be made.
    #[error(transparent)]
    Film(#[from] FilmError),
    /// There is no such device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// No such environment.
    #[error(transparent)]
    Env(#[from] pairwise_envs::UnknownEnv),
}

impl From<ArchiveError> for RunError {
    fn from(error: ArchiveError) -> Self {
        Self::Disk(error.into())
    }
}

impl From<LayerError> for RunError {
    fn from(error: LayerError) -> Self {
        Self::Config(error.into())
    }
}

impl From<Halt> for RunError {
    fn from(source: Halt) -> Self {
        Self::Halted { source, checkpoint: None }
    }
}
