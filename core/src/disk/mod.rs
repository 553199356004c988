//! The floor that everything stands on: files that are written whole, folders with one writer, layers of settings,
//! lines of JSON, figures. Knows no algorithm.

pub mod archive;
pub(crate) mod calendar;
pub mod changes;
mod clock;
mod error;
pub mod figure;
pub mod files;
mod folder;
pub mod layers;
pub mod lines;
pub mod lock;
pub mod tensorboard;
pub mod text;

pub use self::clock::Clock;
pub use self::error::DiskError;
pub(crate) use self::error::kept;
pub use self::folder::configuration;
pub use self::folder::{Damaged, Folder};
pub(crate) use self::lines::shown;
