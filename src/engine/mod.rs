//! The engines behind the window: what takes long goes on in threads of its own, and a window talks to it without ever
//! waiting. All of them have the same [desk]: commands in, snapshots out.
//!
//! **Architecture invariant:** nothing here draws, and the window touches no tensor.

pub mod book;
pub mod desk;
pub mod language;
pub mod mix;
pub mod run;
pub mod shelf;
pub mod snapshot;

use std::path::{Path, PathBuf};

/// The folder of something new: `name` below `parent`, or the first free name after it.
#[must_use]
pub fn free_folder(parent: &Path, name: &str) -> PathBuf {
    let candidates = std::iter::once(name.to_owned()).chain((2..).map(|n| format!("{name}-{n}")));
    candidates.map(|name| parent.join(name)).find(|path| !path.exists()).expect("names never end")
}
