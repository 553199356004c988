//! Why a model cannot be served.

use std::io;

use crate::device::DeviceError;
use crate::lm::error::LmError;

/// A model that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Its folder cannot be used.
    #[error(transparent)]
    Lm(#[from] LmError),
    /// This machine has no device for it.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The model, or an option, is of the wrong kind.
    #[error("{0}")]
    Config(String),
    /// The address cannot be listened at.
    #[error("cannot listen on {host}:{port}: {reason}; choose another --port (0 for any free one) or --host")]
    Listen {
        /// Name or number of this machine.
        host: String,
        /// Port.
        port: u16,
        /// Why.
        reason: String,
    },
    /// No more connections can be accepted.
    #[error("the server can take no more connections: {0}")]
    Accept(io::Error),
}
