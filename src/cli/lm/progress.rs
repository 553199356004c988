//! What is shown while a language model is trained.

use std::io::IsTerminal as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::lm::run::Shown;

/// Progress on stderr: a bar on a terminal, plain lines otherwise.
pub(super) struct Progress {
    state: Mutex<ProgressState>,
}

struct ProgressState {
    bar: Option<ProgressBar>,
    /// When the run's first step was shown, its number and its tokens.
    first: Option<(Instant, usize, u64)>,
    /// The step that was shown last: the next run begins before it.
    last_step: usize,
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
        Self { state: Mutex::new(ProgressState { bar, first: None, last_step: 0, last_line: None }) }
    }

    pub(super) fn show(&self, shown: &Shown<'_>) {
        let Ok(mut state) = self.state.lock() else { return };
        let state = &mut *state;
        let waited = state.last_line.is_none_or(|last| last.elapsed() >= BETWEEN_LINES);
        match shown {
            Shown::Note(note) => match &state.bar {
                Some(bar) => bar.suspend(|| eprintln!("{note}")),
                None => eprintln!("{note}"),
            },
            Shown::Preparing(what, done, of) => match &state.bar {
                Some(bar) => {
                    bar.set_length(*of as u64);
                    bar.set_position(*done as u64);
                    bar.set_message((*what).to_owned());
                }
                None if waited || done == of => {
                    state.last_line = Some(Instant::now());
                    eprintln!("{what}: {done}/{of}");
                }
                None => {}
            },
            Shown::Step(step, total, metrics, tokens) => {
                if *step <= state.last_step {
                    state.first = None;
                }
                state.last_step = *step;
                let (since, first, tokens_then) = *state.first.get_or_insert((Instant::now(), *step, *tokens));
                let seconds = since.elapsed().as_secs_f64();
                let number = |name: &str| metrics.get(name).unwrap_or(f64::NAN);
                let mut line = match metrics.get("objective/scores") {
                    Some(score) => format!("score {score:.3}, KL {:.2}", number("objective/kl")),
                    None => format!("loss {:.4}, gradient {:.3}", number("loss"), number("grad_norm")),
                };
                if let Some(accuracy) = metrics.get("rewards/accuracies").or(metrics.get("accuracy")) {
                    line += &format!(", accuracy {accuracy:.2}");
                }
                if *step > first {
                    line += &format!(", {:.0} tokens/s", (tokens - tokens_then) as f64 / seconds);
                }
                match &state.bar {
                    Some(bar) => {
                        bar.set_length(*total as u64);
                        bar.set_position(*step as u64);
                        bar.set_message(line);
                    }
                    None if waited || step == total => {
                        state.last_line = Some(Instant::now());
                        let left = seconds / (step - first).max(1) as f64 * (total - step) as f64;
                        eprintln!("step {step}/{total}, {line}, ETA {left:.0} s");
                    }
                    None => {}
                }
            }
            Shown::Evaluation(values) => {
                let all =
                    values.iter().map(|(name, value)| format!("{name} {:.4}", value.as_f64().unwrap_or(f64::NAN)));
                let line = all.collect::<Vec<_>>().join(", ");
                match &state.bar {
                    Some(bar) => bar.suspend(|| eprintln!("{line}")),
                    None => eprintln!("{line}"),
                }
            }
        }
    }

    pub(super) fn finish(&self) {
        if let Ok(state) = self.state.lock()
            && let Some(bar) = &state.bar
        {
            bar.abandon();
        }
    }
}
