//! What is shown while a language model is trained.

use std::sync::Mutex;
use std::time::Instant;

use crate::cli::progress::Progress;
use crate::lm::run::LmProgress;

/// How a language model's training is doing.
pub(super) struct StageProgress {
    progress: Progress,
    speed: Mutex<Speed>,
}

#[derive(Default)]
struct Speed {
    /// When the run's first step was shown, its number and its tokens.
    first: Option<(Instant, usize, u64)>,
    /// The step that was shown last: the next run begins before it.
    last_step: usize,
}

impl StageProgress {
    pub(super) fn new() -> Self {
        Self { progress: Progress::new(), speed: Mutex::default() }
    }

    pub(super) fn show(&self, shown: &LmProgress<'_>) {
        match shown {
            LmProgress::Note(note) => self.progress.note(note),
            LmProgress::Preparing(what, done, of) => self.progress.count(what, *done, *of),
            LmProgress::Step(step, total, metrics, tokens) => {
                let Ok(mut speed) = self.speed.lock() else { return };
                if *step <= speed.last_step {
                    speed.first = None;
                }
                speed.last_step = *step;
                let (since, first, tokens_then) = *speed.first.get_or_insert((Instant::now(), *step, *tokens));
                let seconds = since.elapsed().as_secs_f64();
                let number = |name: &str, digits: usize| {
                    metrics.get(name).map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
                };
                let mut line = match metrics.get("objective/scores") {
                    Some(score) => format!("score {score:.3}, KL {}", number("objective/kl", 2)),
                    None => format!("loss {}, gradient {}", number("loss", 4), number("grad_norm", 3)),
                };
                if let Some(accuracy) = metrics.get("rewards/accuracies").or(metrics.get("accuracy")) {
                    line += &format!(", accuracy {accuracy:.2}");
                }
                if *step > first {
                    line += &format!(", {:.0} tokens/s", (tokens - tokens_then) as f64 / seconds);
                }
                self.progress.step(*step, *total, &line, || {
                    // Nothing is known of the speed before a second step.
                    let left = (*step > first).then(|| seconds / (step - first) as f64 * (total - step) as f64);
                    let left = left.map_or_else(|| "–".to_owned(), |left| format!("{left:.0} s"));
                    format!("step {step}/{total}, {line}, ETA {left}")
                });
            }
            LmProgress::Evaluation(values) => {
                let all =
                    values.iter().map(|(name, value)| format!("{name} {:.4}", value.as_f64().unwrap_or(f64::NAN)));
                self.progress.note(&all.collect::<Vec<_>>().join(", "));
            }
        }
    }

    pub(super) fn finish(&self) {
        self.progress.finish();
    }
}
