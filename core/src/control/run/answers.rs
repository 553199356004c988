//! Where a run's answers come from when nobody is there to give them.

use std::path::PathBuf;

use super::error::RunError;
use crate::control::drlhp::{Run, SegmentQuery};
use crate::disk::DiskError;
use crate::preference::ledger::{Answer, Ledger};
use crate::preference::{Event, Label};

/// The rater of an answer that was changed to branch a run, in the ledger of the branch.
pub(super) const BRANCHED: &str = "branch";

/// Answers questions from the ledger as far as it goes, then from the simulated teacher.
pub struct Answers {
    /// The events of the ledger when the run was opened.
    recorded: Vec<Event>,
    /// Where new answers go; `None` in a replay.
    ledger: Option<Ledger>,
    path: PathBuf,
    /// Where a replay's ledger differs from what the run would have recorded.
    pub(super) differences: Vec<String>,
}

impl Answers {
    /// Answers from a ledger at `path` that holds `recorded`; without a `ledger` to write to, the run is a replay.
    #[must_use]
    pub fn new(recorded: Vec<Event>, ledger: Option<Ledger>, path: PathBuf) -> Self {
        Self { recorded, ledger, path, differences: Vec::new() }
    }

    /// The answer to a simulated teacher's question.
    ///
    /// # Errors
    /// When the ledger answers another question, or cannot be written to.
    pub fn answer(&mut self, question: &SegmentQuery) -> Result<Label, RunError> {
        let index = usize::try_from(question.query).unwrap_or(usize::MAX);
        match self.recorded.get(index) {
            Some(Event::Answer(answer)) => {
                let clips = [&question.first, &question.second];
                if answer.query != question.query || [&answer.first, &answer.second] != clips {
                    let reason = format!(
                        "the ledger answers query {} on clips {} and {}, this run asks query {} on clips {} and {}",
                        answer.query, answer.first, answer.second, question.query, question.first, question.second
                    );
                    return Err(self.error(question.query, reason));
                }
                let changed = answer.rater == BRANCHED;
                if answer.label != question.simulated && !changed {
                    let (line, found, expected) = (question.query + 1, answer.label, question.simulated);
                    let reason = format!("the answer is '{found}', the simulated teacher gave '{expected}'");
                    if self.ledger.is_some() {
                        let reason = format!("{reason}: was the teacher in config.toml edited?");
                        return Err(self.error(question.query, reason));
                    }
                    self.differences.push(format!("labels.jsonl line {line}: {reason}"));
                }
                Ok(answer.label)
            }
            Some(Event::Undo { .. } | Event::Relabel { .. }) => {
                let reason = "changes an answer, but a simulated teacher answers this run's questions".to_owned();
                Err(self.error(question.query, reason))
            }
            None => {
                let Some(ledger) = &mut self.ledger else { return Err(self.ends(question.query)) };
                ledger.append(&simulated(question).into())?;
                Ok(question.simulated)
            }
        }
    }

    /// What the ledger holds for the next exchange with a person; `None` where training waits and there is nothing.
    ///
    /// # Errors
    /// When the ledger holds nothing for this exchange, but something for later ones.
    pub fn exchange(&self, run: &Run, waits: bool) -> Result<Option<Vec<Event>>, RunError> {
        let now = run.sessions as u64;
        let events: Vec<Event> = self.recorded.iter().filter(|event| event.session() == now).cloned().collect();
        match self.recorded.iter().position(|event| event.session() > now) {
            Some(later) if waits && events.is_empty() => {
                let found = self.recorded[later].session();
                let reason = format!("takes effect in exchange {found}, but exchange {now} needs events and has none");
                Err(self.error(later as u64, reason))
            }
            None if waits && events.is_empty() => Ok(None),
            _ => Ok(Some(events)),
        }
    }

    /// Whether the ledger held more, when the run was opened, than the run has seen by now.
    #[must_use]
    pub fn holds_more(&self, run: &Run) -> bool {
        self.recorded.iter().any(|event| event.session() >= run.sessions as u64)
    }

    pub(super) fn ends(&self, line: u64) -> RunError {
        self.error(line, "the ledger ends here, but the run asked more questions".to_owned())
    }

    /// An error in the line of number `index`, counting from 0.
    fn error(&self, index: u64, reason: String) -> RunError {
        let line = usize::try_from(index).map_or(usize::MAX, |index| index + 1);
        DiskError::Line { path: self.path.clone(), line, reason }.into()
    }
}

/// The simulated teacher's answer as an entry of the ledger.
fn simulated(question: &SegmentQuery) -> Answer {
    let SegmentQuery { query, step, session, first, second, why, simulated } = question.clone();
    let (label, rater) = (simulated, "simulated".to_owned());
    Answer { query, step, session, first, second, label, rater, why, repeat: None, seconds: None }
}
