//! What goes wrong with files and folders.

use std::path::{Path, PathBuf};

use super::archive::ArchiveError;
use super::lock::LockError;

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
    /// A line of a file cannot be used.
    #[error("{}: line {line}: {reason}", path.display())]
    Line {
        /// File.
        path: PathBuf,
        /// Line, counting from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

impl DiskError {
    /// The error of an `action` on a file or folder, made of the system's.
    pub fn io(path: &Path, action: &'static str) -> impl Fn(std::io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), action, source }
    }
}

/// What is left of a run that was halted.
pub(crate) fn kept(checkpoint: Option<&Path>) -> String {
    match checkpoint {
        Some(path) => format!("The last good checkpoint is {}", path.display()),
        None => "There is no checkpoint from before it".to_owned(),
    }
}
