//! Progress on stderr: a bar on a terminal, plain lines otherwise.

use std::io::IsTerminal as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::screen::{number, remark};
use crate::control::config::Config;
use crate::control::drlhp::{Report, Run};

/// How far something has come.
pub(crate) struct Progress {
    state: Mutex<State>,
}

struct State {
    bar: Option<ProgressBar>,
    /// What is counted, since when, and from where.
    counting: Option<(String, Instant, usize)>,
    last_line: Option<Instant>,
}

/// How an agent's training is doing.
pub(crate) struct TrainingProgress {
    progress: Progress,
    total: usize,
    /// When this process first reported, and the environment steps of then: the random phase before it and a resumed
    /// run's past say nothing about the speed from here on.
    first: Option<(Instant, usize)>,
}

/// Time between two plain lines: a log of a long run stays readable.
const BETWEEN_LINES: Duration = Duration::from_secs(5);

impl Progress {
    pub(crate) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{wide_bar} {pos}/{len}, ETA {eta}\n{msg}");
            ProgressBar::new(0).with_style(style.expect("the template is a constant and valid"))
        });
        Self { state: Mutex::new(State { bar, counting: None, last_line: None }) }
    }

    /// A line that stays.
    pub(crate) fn note(&self, text: &str) {
        let Ok(state) = self.state.lock() else { return };
        match &state.bar {
            Some(bar) => bar.suspend(|| remark(text)),
            None => remark(text),
        }
    }

    /// `done` of `of` things called `what` are done; how fast is found here.
    pub(crate) fn count(&self, what: &str, done: usize, of: usize) {
        let Ok(mut state) = self.state.lock() else { return };
        let state = &mut *state;
        if state.counting.as_ref().is_none_or(|(name, ..)| name != what) {
            // What was there at the start says nothing about the speed from here on.
            state.counting = Some((what.to_owned(), Instant::now(), done));
            state.last_line = None;
        }
        let Some((_, since, first)) = &state.counting else { return };
        let seconds = since.elapsed().as_secs_f64();
        let rate = done.checked_sub(*first).filter(|new| *new > 0 && seconds > 0.0).map(|new| new as f64 / seconds);
        state.show(done, of, what, || match rate {
            Some(rate) => {
                format!("{what}: {done}/{of}, {rate:.1}/s, ETA {:.0} s", of.saturating_sub(done) as f64 / rate)
            }
            None => format!("{what}: {done}/{of}"),
        });
    }

    /// Step `done` of `of`: `beside` goes under the bar, `line` is for where there is none.
    pub(crate) fn step(&self, done: usize, of: usize, beside: &str, line: impl FnOnce() -> String) {
        if let Ok(mut state) = self.state.lock() {
            state.show(done, of, beside, line);
        }
    }

    /// Leaves the bar where it is.
    pub(crate) fn finish(&self) {
        if let Ok(state) = self.state.lock()
            && let Some(bar) = &state.bar
        {
            bar.abandon();
        }
    }
}

impl State {
    fn show(&mut self, done: usize, of: usize, beside: &str, line: impl FnOnce() -> String) {
        if let Some(bar) = &self.bar {
            bar.set_length(of as u64);
            bar.set_position(done as u64);
            bar.set_message(beside.to_owned());
        } else if done >= of || self.last_line.is_none_or(|last| last.elapsed() >= BETWEEN_LINES) {
            self.last_line = Some(Instant::now());
            remark(&line());
        }
    }
}

impl TrainingProgress {
    /// For a run with this configuration.
    pub(crate) fn new(config: &Config) -> Self {
        let total = config.preferences.random_steps + config.iterations() * config.rollout_len();
        Self { progress: Progress::new(), total, first: None }
    }

    /// Shows one iteration.
    pub(crate) fn show(&mut self, run: &Run, report: &Report) {
        let (since, first) = *self.first.get_or_insert((Instant::now(), report.env_steps));
        let rate =
            (report.env_steps > first).then(|| (report.env_steps - first) as f64 / since.elapsed().as_secs_f64());
        let mut line = format!("return {}", number(report.true_return, 1));
        if let Some(reward) = report.reward {
            line += &format!(", reward correlation {}", number(reward.pearson, 2));
            line += &format!(", labels {}/{}", report.labels_asked, run.config.preferences.labels);
            line += &format!(", disagreement {}", number(report.disagreement, 3));
        }
        line += &format!(", {} steps/s", number(rate, 0));
        let (done, of) = (report.env_steps, self.total);
        self.progress.step(done, of, &line, || {
            let left = rate.map(|rate| of.saturating_sub(done) as f64 / rate);
            format!("{done}/{of} steps, {line}, ETA {} s", number(left, 0))
        });
    }

    /// Leaves the bar where it is.
    pub(crate) fn finish(&self) {
        self.progress.finish();
    }
}
