//! What the window says on stdout where it is asked to: for tests that press keys, and for measurements.

use std::io::Write as _;
use std::time::Instant;

use serde::Serialize;

use crate::preference::statistics::quantile;

/// What is said, one JSON object a line.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(super) enum Narration {
    /// The window is there.
    FirstFrame,
    /// A pair has appeared.
    Pair {
        /// The query.
        query: u64,
        /// True returns of the left and of the right clip, for a test that knows what is right.
        true_returns: [f64; 2],
        /// From the key or click of the last answer to the frame with this pair.
        milliseconds: Option<f64>,
    },
    /// Mixes were shown.
    Mixed {
        /// Median and 99th percentile of the milliseconds from a movement to what it shows.
        milliseconds: [f64; 2],
        /// How many were not overtaken by another.
        count: usize,
    },
    /// The window has closed.
    End {
        /// Frames drawn.
        frames: usize,
        /// Median and 99th percentile of the milliseconds that a frame took: its logic and layout.
        logic_ms: [f64; 2],
        /// The same, with tessellation and drawing.
        frame_ms: [f64; 2],
    },
}

/// Milliseconds that frames took.
#[derive(Debug, Default)]
pub(super) struct Timing {
    /// Logic and layout.
    logic: Vec<f64>,
    /// The same, with tessellation and drawing.
    frame: Vec<f64>,
}

impl Timing {
    /// Adds a frame whose layout began at `began`, and says so of the first one. `before`: seconds of the whole frame before
    /// it.
    pub(super) fn add(&mut self, began: Instant, before: Option<f32>) {
        let milliseconds = began.elapsed().as_secs_f64() * 1e3;
        if self.logic.is_empty() {
            say(&Narration::FirstFrame);
        }
        self.logic.push(milliseconds);
        self.frame.extend(before.map(|seconds| f64::from(seconds) * 1e3));
    }

    /// Says how long frames took.
    pub(super) fn end(&self) {
        let (logic_ms, frame_ms) = (quantiles(&self.logic), quantiles(&self.frame));
        say(&Narration::End { frames: self.logic.len(), logic_ms, frame_ms });
    }
}

/// Says something. A closed pipe is no error.
pub(super) fn say(what: &Narration) {
    let line = serde_json::to_string(what).expect("plain structs always serialise");
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).ok();
}

/// Median and 99th percentile.
fn quantiles(values: &[f64]) -> [f64; 2] {
    [0.5, 0.99].map(|share| quantile(values.iter().copied(), share).unwrap_or(f64::NAN))
}
