//! The floor that everything stands on: files that are written whole, folders with one writer, layers of settings, lines of
//! JSON, figures. Knows no algorithm.

pub mod archive;
pub(crate) mod calendar;
pub mod changes;
mod clock;
pub mod figure;
pub(crate) mod files;
mod folder;
pub mod layers;
pub mod lines;
pub mod lock;
pub mod tensorboard;

use std::path::{Path, PathBuf};

use serde::Serializer;

use self::archive::ArchiveError;
pub use self::clock::Clock;
pub(crate) use self::folder::configuration;
pub use self::folder::{Damaged, Folder};
use self::lock::LockError;

/// What goes wrong with files and folders.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The file system said no.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// Reason.
        source: std::io::Error,
    },
    /// Somebody else writes to the folder.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The folder holds something already.
    #[error("{}: {found}; choose another --out, or go on with `pairwise resume {}`", path.display(), path.display())]
    Occupied {
        /// Folder.
        path: PathBuf,
        /// What is in it.
        found: &'static str,
    },
    /// The folder is not a run.
    #[error("{}: not a run folder: {missing} is missing", path.display())]
    NotARun {
        /// Folder.
        path: PathBuf,
        /// What a run folder would have.
        missing: &'static str,
    },
    /// A checkpoint cannot be written or read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A checkpoint of another configuration.
    #[error("{}: does not fit config.toml beside it: {source}; was one of them changed?", path.display())]
    Misfit {
        /// Checkpoint.
        path: PathBuf,
        /// What does not fit.
        source: Box<ArchiveError>,
    },
    /// A checkpoint of a configuration that was edited since.
    #[error("{}: does not belong to config.toml beside it: {differences}. Undo the edit{advice}", checkpoint.display())]
    Edited {
        /// Checkpoint.
        checkpoint: PathBuf,
        /// The fields that differ, with both values.
        differences: String,
        /// What changes a configuration, as the end of a sentence; empty where nothing does.
        advice: String,
    },
    /// The record of changes cannot be used.
    #[error("{}: line {line}: {reason}", path.display())]
    Changes {
        /// File.
        path: PathBuf,
        /// Line, counting from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

impl DiskError {
    /// What the file system said while something was done to a file or folder: for `map_err`.
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, action, source }
    }
}

/// A path as it is shown: JSON has no others, and paths need not be UTF-8.
///
/// # Errors
/// The serializer's.
pub(crate) fn shown<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// What is left of a run that was halted.
pub(crate) fn kept(checkpoint: Option<&Path>) -> String {
    match checkpoint {
        Some(path) => format!("The last good checkpoint is {}", path.display()),
        None => "There is no checkpoint from before it".to_owned(),
    }
}
