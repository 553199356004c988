//! How a command fails.

use std::path::Path;

use crate::control::drlhp::Halt;
use crate::finite::{NotFinite, is_behind};

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(super) code: u8,
    pub(super) message: String,
}

impl Failure {
    /// Something is wrong with what was given: exit code 2.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, message: message.into() }
    }

    /// The command ran and the answer is no: exit code 1.
    pub(crate) fn negative(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into() }
    }

    /// Stopped by Ctrl-C: the shell's convention, 128 + SIGINT.
    pub(crate) fn interrupted(message: impl Into<String>) -> Self {
        Self { code: 130, message: message.into() }
    }

    /// Stopped by Ctrl-C, and the folder `out` holds what was `done`.
    pub(crate) fn kept(done: &str, out: &Path) -> Self {
        let out = out.display();
        Self::interrupted(format!("what was {done} is kept; go on with the same command and --out {out}"))
    }
}

/// Errors of the library are about what the user gave it: arguments, files, folders, disks. But where training came to
/// numbers that are not finite, or to nothing to train on, the command ran and failed.
impl<E: std::error::Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        match is_behind::<NotFinite>(&error) || is_behind::<Halt>(&error) {
            true => Self::negative(error.to_string()),
            false => Self::usage(error.to_string()),
        }
    }
}
