//! What goes wrong with a validation.

use std::path::PathBuf;

use crate::disk::DiskError;
use crate::evals::questions::QuestionsError;

/// A validation that cannot be drawn, opened or answered.
#[derive(Debug, thiserror::Error)]
pub enum ValidateError {
    /// The file is not a set of questions.
    #[error(transparent)]
    Questions(#[from] QuestionsError),
    /// A file or folder.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A line is not what this program writes.
    #[error("{}:{line}: {problem}", path.display())]
    Line {
        /// File.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What was found, and what would be right.
        problem: String,
    },
    /// What was asked for cannot be.
    #[error("{0}")]
    Refused(String),
}
