//! What goes wrong with evaluations: with their files, models and servers.

use std::path::{Path, PathBuf};

use crate::device::DeviceError;
use crate::disk::DiskError;
use crate::lm::run::LmError;

/// A file that is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read or written.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A line is wrong.
    #[error("{}:{line}: {problem}", path.display())]
    Line {
        /// File.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What was found, and what would be right.
        problem: String,
    },
    /// The whole file, or folder, is wrong.
    #[error("{}: {problem}", path.display())]
    Whole {
        /// File or folder.
        path: PathBuf,
        /// What was found, and what would be right.
        problem: String,
    },
}

/// An evaluation that fails: a set that cannot be written, judged, checked or asked.
#[derive(Debug, thiserror::Error)]
pub enum EvalsError {
    /// A file, such as one of questions, is not what it should be.
    #[error(transparent)]
    File(#[from] FileError),
    /// A model cannot be had, or fails.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A file or folder cannot be read or written.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// What is asked for is out of range, does not go together, or cannot be done.
    #[error("{0}")]
    Config(String),
    /// Candidates that make no set; those of other behaviours may.
    #[error("behaviour '{behaviour}': {problem}")]
    NoSet {
        /// Its name.
        behaviour: String,
        /// Why not, and what can be done.
        problem: String,
    },
}

/// A model that cannot be had, or fails.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A folder's.
    #[error(transparent)]
    Lm(#[from] LmError),
    /// A server's.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// This machine's.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// It cannot do what is wanted.
    #[error("{0}")]
    Config(String),
}

/// A server that cannot be used, or fails.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Not an address.
    #[error("{address}: {problem}: expected http://HOST:PORT/v1#MODEL")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A value of the configuration, or something that does not go together.
    #[error("{0}")]
    Config(String),
    /// No connection.
    #[error("{url}: cannot be reached ({reason}; tried {attempts} times): is the server running? {kept}")]
    Unreachable {
        /// Address.
        url: String,
        /// How often it was tried.
        attempts: usize,
        /// The last reason.
        reason: String,
        /// What is kept.
        kept: String,
    },
    /// No answer in time.
    #[error(
        "{url}: gave no answer within {seconds} s (tried {attempts} times): allow more time, or make fewer requests at \
         the same time; {kept}"
    )]
    Timeout {
        /// Address.
        url: String,
        /// How often it was tried.
        attempts: usize,
        /// Seconds that it had.
        seconds: f64,
        /// What is kept.
        kept: String,
    },
    /// The key is missing or wrong.
    #[error("{url}: refused the request (HTTP {status}: {said}): {}", key_advice(variable, *is_set))]
    Key {
        /// Address.
        url: String,
        /// HTTP's.
        status: u16,
        /// The environment variable that keys are read from.
        variable: String,
        /// Whether there was one.
        is_set: bool,
        /// The server's words.
        said: String,
    },
    /// No such model, or no such form of the protocol.
    #[error("{url}: is not there (HTTP {status}: {said}){}", models_there(there))]
    NotFound {
        /// Address.
        url: String,
        /// HTTP's.
        status: u16,
        /// The server's words.
        said: String,
        /// Models that there are, where that is known.
        there: Vec<String>,
    },
    /// Any other status.
    #[error("{url}: HTTP {status}: {said}{}", after_attempts(*attempts, kept.as_deref()))]
    Status {
        /// Address.
        url: String,
        /// HTTP's.
        status: u16,
        /// The server's words.
        said: String,
        /// How often it was tried.
        attempts: usize,
        /// What is kept, where trying again later may help.
        kept: Option<String>,
    },
    /// An answer that is not what the protocol says.
    #[error("{url}: the answer {problem}; it begins: {found}")]
    Malformed {
        /// Address.
        url: String,
        /// What is wrong.
        problem: String,
        /// Its beginning.
        found: String,
    },
    /// It tells no log-probabilities, and none are to be estimated.
    #[error("{url}: tells no log-probabilities: let answers be drawn instead (samples of 1 or more)")]
    NoLogProbs {
        /// Address.
        url: String,
    },
    /// The cache of answers cannot be read or written.
    #[error(transparent)]
    Cache(#[from] DiskError),
}

impl FileError {
    /// A line that is wrong; lines count from 1.
    pub(super) fn line(path: &Path, line: usize, problem: impl Into<String>) -> Self {
        Self::Line { path: path.to_owned(), line, problem: problem.into() }
    }

    /// A file or folder that is wrong.
    pub(super) fn whole(path: &Path, problem: impl Into<String>) -> Self {
        Self::Whole { path: path.to_owned(), problem: problem.into() }
    }
}

impl EndpointError {
    /// Whether the server is there but cannot do what was asked for.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Status { status: 400 | 415 | 422 | 500 | 501, .. })
    }
}

fn key_advice(variable: &str, is_set: bool) -> String {
    match is_set {
        true => format!("the key in the environment variable {variable} is not accepted"),
        false => format!("put the key into the environment variable {variable}"),
    }
}

fn models_there(there: &[String]) -> String {
    match there {
        [] => String::new(),
        some => format!("; the server has: {}", some.join(", ")),
    }
}

fn after_attempts(attempts: usize, kept: Option<&str>) -> String {
    match kept {
        Some(kept) => format!(" (tried {attempts} times); {kept}"),
        None => String::new(),
    }
}
