//! What the tests of the window share.

use std::path::Path;
use std::time::{Duration, Instant};

use egui_kittest::Harness;
use egui_kittest::kittest::Queryable as _;
use pairwise::app::{App, Options};

/// A panel of a window in which every answer counts, however early it comes.
pub(crate) fn options(runs: &Path, panel: &str) -> Options {
    let (runs, panel) = (runs.to_owned(), Some(panel.to_owned()));
    Options { runs, panel, least_seconds: Some(0.0), ..Options::default() }
}

/// Draws frames until something with this in its name is there.
pub(crate) fn until(harness: &mut Harness<'_, App>, name: &str) {
    let began = Instant::now();
    while harness.query_all_by_label_contains(name).next().is_none() {
        assert!(began.elapsed() < Duration::from_secs(120), "no '{name}' on the screen");
        std::thread::sleep(Duration::from_millis(2));
        harness.step();
    }
}
