//! Progress of evaluations on stderr: a bar on a terminal, plain lines otherwise.

use std::io::IsTerminal as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Shows how far a command has come.
pub(super) struct Progress {
    state: Mutex<State>,
}

struct State {
    bar: Option<ProgressBar>,
    /// What is counted, since when, and from where.
    counting: Option<(String, Instant, usize)>,
    last_line: Option<Instant>,
}

/// Time between two plain lines.
const BETWEEN_LINES: Duration = Duration::from_secs(5);

impl Progress {
    pub(super) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{wide_bar} {pos}/{len}, ETA {eta}\n{msg}");
            ProgressBar::new(0).with_style(style.expect("the template is a constant and valid"))
        });
        Self { state: Mutex::new(State { bar, counting: None, last_line: None }) }
    }

    /// A remark.
    pub(super) fn note(&self, text: &str) {
        let Ok(state) = self.state.lock() else { return };
        match &state.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// `done` of `of` things are done.
    pub(super) fn count(&self, what: &str, done: usize, of: usize) {
        let Ok(mut state) = self.state.lock() else { return };
        let state = &mut *state;
        if state.counting.as_ref().is_none_or(|(name, ..)| name != what) {
            // What was there at the start says nothing about the speed from here on.
            state.counting = Some((what.to_owned(), Instant::now(), done));
            state.last_line = None;
        }
        let Some((_, since, first)) = &state.counting else { return };
        if let Some(bar) = &state.bar {
            bar.set_length(of as u64);
            bar.set_position(done as u64);
            bar.set_message(what.to_owned());
            return;
        }
        if done < of && state.last_line.is_some_and(|last| last.elapsed() < BETWEEN_LINES) {
            return;
        }
        state.last_line = Some(Instant::now());
        let seconds = since.elapsed().as_secs_f64();
        match done.checked_sub(*first).filter(|new| *new > 0 && seconds > 0.0) {
            Some(new) => {
                let rate = new as f64 / seconds;
                eprintln!("{what}: {done}/{of}, {rate:.1}/s, ETA {:.0} s", of.saturating_sub(done) as f64 / rate);
            }
            None => eprintln!("{what}: {done}/{of}"),
        }
    }

    /// Leaves the bar where it is.
    pub(super) fn finish(&self) {
        if let Ok(state) = self.state.lock()
            && let Some(bar) = &state.bar
        {
            bar.abandon();
        }
    }
}
