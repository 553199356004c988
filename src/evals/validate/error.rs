//! What goes wrong with a validation.

use crate::disk::DiskError;
use crate::evals::error::FileError;

/// A validation that cannot be drawn, opened or answered.
#[derive(Debug, thiserror::Error)]
pub enum ValidateError {
    /// A file is not what it should be.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file or folder cannot be read or written.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// What was asked for cannot be.
    #[error("{0}")]
    Refused(String),
}
