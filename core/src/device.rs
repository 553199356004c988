//! Turns `--device` into a burn [`Device`]; beside `nn/fused`, the only place that names backends.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

/// Where tensors live, as written on the command line: `auto`, `cpu`, `cuda` or `cuda:n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    /// The CPU for the small networks of control tasks, whatever else is there: they run faster on it.
    #[default]
    Auto,
    /// The CPU (burn-flex).
    Cpu,
    /// An NVIDIA GPU by its index.
    Cuda(usize),
}

/// Why a device cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// Not a device name.
    #[error("unknown device '{0}': use auto, cpu, cuda or cuda:N")]
    Unknown(String),
    /// The program was built without CUDA.
    #[error(
        "this build of pairwise has no CUDA: use --device cpu, or build with `cargo build --release --features cuda`"
    )]
    NotBuilt,
    /// No such GPU.
    #[error(
        "no CUDA device {index} found ({found} present): is the NVIDIA driver installed? Use --device cpu to run without it"
    )]
    NotFound {
        /// Index asked for.
        index: usize,
        /// GPUs present.
        found: usize,
    },
}

/// The device for a choice, without autodiff.
///
/// # Errors
/// [`DeviceError`] when a GPU was asked for by name and there is none; `auto` never fails.
pub fn pick(choice: DeviceChoice) -> Result<Device, DeviceError> {
    match choice {
        DeviceChoice::Auto | DeviceChoice::Cpu => Ok(Device::flex()),
        DeviceChoice::Cuda(index) => cuda(index),
    }
}

/// What a user should know of the device that `auto` chose: that a build for GPUs found none.
#[must_use]
pub fn note(choice: DeviceChoice) -> Option<&'static str> {
    let missing = choice == DeviceChoice::Auto && matches!(cuda(0), Err(DeviceError::NotFound { .. }));
    missing.then_some("no CUDA device found: running on the CPU")
}

/// Whether tensors of this device live in the host's memory, with or without autodiff.
#[must_use]
pub fn is_cpu(device: &Device) -> bool {
    device.clone().without_autodiff() == Device::flex()
}

#[cfg(feature = "cuda")]
fn cuda(index: usize) -> Result<Device, DeviceError> {
    // Enumerating looks for the driver library first, so that nothing is touched on a machine without one.
    let devices = Device::enumerate(burn::tensor::DeviceType::Cuda).into_vec();
    let found = devices.len();
    devices.into_iter().nth(index).ok_or(DeviceError::NotFound { index, found })
}

#[cfg(not(feature = "cuda"))]
fn cuda(_index: usize) -> Result<Device, DeviceError> {
    Err(DeviceError::NotBuilt)
}

impl FromStr for DeviceChoice {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let unknown = || DeviceError::Unknown(text.to_owned());
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                let index = text.strip_prefix("cuda:").ok_or_else(unknown)?;
                index.parse().map(Self::Cuda).map_err(|_| unknown())
            }
        }
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = DeviceError;

    fn try_from(text: String) -> Result<Self, DeviceError> {
        text.parse()
    }
}

impl From<DeviceChoice> for String {
    fn from(choice: DeviceChoice) -> Self {
        choice.to_string()
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}
