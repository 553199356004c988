//! The engines behind the window: what takes long goes on in threads of its own, and a window talks to it without ever
//! waiting. All of them have the same [desk](desk): commands in, snapshots out.
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

/// The value below which so large a share of the values lies; `None` without any.
pub(crate) fn quantile(values: impl Iterator<Item = f64>, share: f64) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get((sorted.len().saturating_sub(1) as f64 * share).round() as usize).copied()
}

/// The folder of something new: `name` below `parent`, or the first free name after it.
#[must_use]
pub fn free_folder(parent: &Path, name: &str) -> PathBuf {
    let candidates = std::iter::once(name.to_owned()).chain((2..).map(|n| format!("{name}-{n}")));
    candidates.map(|name| parent.join(name)).find(|path| !path.exists()).expect("names never end")
}
