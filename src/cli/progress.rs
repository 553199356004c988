//! Progress on stderr: a bar on a terminal, plain lines otherwise.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::drlhp::{Report, Run};
use crate::run::config::Config;

/// Shows how a run is doing.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    total: usize,
    /// When this process first reported, and the environment steps of then: the random phase before it and a resumed
    /// run's past say nothing about the speed from here on.
    first: Option<(Instant, usize)>,
    last_line: Instant,
}

/// Time between two plain lines: a log of a long run stays readable.
const BETWEEN_LINES: Duration = Duration::from_secs(5);

impl Progress {
    /// For a run with this configuration.
    pub(crate) fn new(config: &Config) -> Self {
        let total = config.preferences.random_steps + config.iterations() * config.rollout_len();
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} steps, ETA {eta}\n{msg}");
            ProgressBar::new(total as u64).with_style(style.expect("the template is a constant and valid"))
        });
        Self { bar, total, first: None, last_line: Instant::now() }
    }

    /// Shows one iteration.
    pub(crate) fn show(&mut self, run: &Run, report: &Report) {
        let (since, first) = *self.first.get_or_insert((Instant::now(), report.env_steps));
        let rate =
            (report.env_steps > first).then(|| (report.env_steps - first) as f64 / since.elapsed().as_secs_f64());
        let number = |value: Option<f64>, digits: usize| value.map_or("-".to_owned(), |v| format!("{v:.digits$}"));
        let mut line = format!("return {}", number(report.true_return, 1));
        if let Some(reward) = report.reward {
            line += &format!(", reward correlation {}", number(reward.pearson, 2));
            line += &format!(", labels {}/{}", report.labels_asked, run.config.preferences.labels);
            line += &format!(", disagreement {}", number(report.disagreement, 3));
        }
        line += &format!(", {} steps/s", number(rate, 0));
        if let Some(bar) = &self.bar {
            bar.set_position(report.env_steps as u64);
            bar.set_message(line);
        } else if self.last_line.elapsed() >= BETWEEN_LINES || report.env_steps >= self.total {
            self.last_line = Instant::now();
            let left = rate.map(|rate| self.total.saturating_sub(report.env_steps) as f64 / rate);
            eprintln!("{}/{} steps, {line}, ETA {} s", report.env_steps, self.total, number(left, 0));
        }
    }

    /// Leaves the bar where it is.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}
