//! How much of the study is done.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::config::{Branch, SycophancyConfig};
use crate::lm::run::{LmProgress, Show};

/// How much is done: what is shown while models are trained.
pub(super) struct Work<'a> {
    done: AtomicU64,
    of: u64,
    show: &'a Show<'a>,
}

impl<'a> Work<'a> {
    pub(super) fn new(config: &SycophancyConfig, folder: &Path, units: &[(u64, &str)], show: &'a Show<'a>) -> Self {
        let (mut done, mut of) = (0, 0);
        for &(seed, size) in units {
            for branch in config.branches(size) {
                let cost = cost(config, size, branch);
                of += cost;
                done += if point_file(folder, seed, size, branch).exists() { cost } else { 0 };
            }
        }
        let work = Self { done: AtomicU64::new(0), of, show };
        work.add(done);
        work
    }

    /// In thousandths, because models are of different sizes.
    pub(super) fn add(&self, cost: u64) {
        let done = self.done.fetch_add(cost, Ordering::Relaxed) + cost;
        (self.show)(LmProgress::Preparing(
            "thousandths of the work",
            (1000 * done / self.of.max(1)).min(1000) as usize,
            1000,
        ));
    }

    pub(super) fn note(&self, text: &str) {
        (self.show)(LmProgress::Note(text));
    }
}

pub(super) fn cost(config: &SycophancyConfig, size: &str, branch: Branch) -> u64 {
    config.model(size, config.vocabulary).parameters() as u64 * branch.cost()
}

/// Where the points of a branch are.
pub(super) fn point_file(folder: &Path, seed: u64, size: &str, branch: Branch) -> PathBuf {
    folder.join(format!("points/{seed}-{size}-{}.json", branch.name()))
}
