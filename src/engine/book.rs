//! What a clerk writes down: answers, stamped with their logical time and on the disk before they count.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::preference::ledger::{self, Answer, Ledger};
use crate::preference::statistics::quantile;
use crate::preference::{Event, Label, Repeat, SegmentId, Why};

/// What a person says about a question.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Saying {
    /// Answers an open question.
    Answer {
        /// Number of the query.
        query: u64,
        /// The answer.
        label: Label,
        /// Seconds from the appearance of the pair to the answer.
        seconds: f64,
    },
    /// Takes an answer back.
    Undo {
        /// Number of the query.
        query: u64,
    },
    /// Changes an answer, or gives it again after it was taken back.
    Relabel {
        /// Number of the query.
        query: u64,
        /// The new answer.
        label: Label,
    },
}

/// Which questions are open, and what was answered; cheap to clone.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answers {
    /// Whether a person's answers are taken.
    pub taken: bool,
    /// Open questions, the next one first.
    pub open: Vec<u64>,
    /// Answered questions, in the order in which they were answered first.
    pub answered: Arc<Vec<u64>>,
    /// Answers in force by query; "skip" after an answer was taken back.
    pub labels: Arc<BTreeMap<u64, Given>>,
    /// Queries whose answer was taken back and not given again, the last one last: they are asked again.
    pub undone: Vec<u64>,
}

/// An answer in force.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Given {
    /// The answer.
    pub label: Label,
    /// Seconds it took; `None` for a simulated teacher.
    pub seconds: Option<f64>,
    /// The earlier pair that was shown again.
    pub repeat: Option<Repeat>,
}

/// The ledger and what it says, and what was said and is not handed over yet.
#[derive(Default)]
pub(super) struct Book {
    /// What is in force.
    pub answers: Answers,
    /// What was said and is not handed over yet.
    pub given: Vec<Event>,
    /// `None` until the folder is read, and for runs of a simulated teacher.
    ledger: Option<Ledger>,
    /// Logical time at which what is said now takes effect.
    session: u64,
    open: BTreeMap<u64, OpenQuestion>,
}

/// A question as the ledger describes it.
pub(super) struct OpenQuestion {
    pub step: u64,
    pub sides: [SegmentId; 2],
    pub why: Option<Why>,
    pub repeat: Option<Repeat>,
}

/// Name of the person in the ledger.
const PERSON: &str = "person";

impl Answers {
    /// What a ledger says.
    pub(super) fn of(events: &[Event]) -> Self {
        let mut answers = Self { undone: ledger::undone(events), ..Self::default() };
        for Answer { query, label, seconds, repeat, .. } in ledger::answers(events) {
            answers.add(query, Given { label, seconds, repeat });
        }
        answers
    }

    pub(super) fn add(&mut self, query: u64, given: Given) {
        self.open.retain(|other| *other != query);
        if Arc::make_mut(&mut self.labels).insert(query, given).is_none() {
            Arc::make_mut(&mut self.answered).push(query);
        }
    }

    /// Questions answered or skipped; hidden repeats do not count.
    #[must_use]
    pub fn resolved(&self) -> usize {
        self.labels.values().filter(|given| given.repeat.is_none()).count()
    }

    /// Median seconds of an answer; `None` before the first one of a person.
    #[must_use]
    pub fn pace(&self) -> Option<f64> {
        quantile(self.labels.values().filter_map(|given| given.seconds), 0.5)
    }
}

impl Book {
    /// Takes answers from now on, which take effect at the logical time `session`.
    pub(super) fn begin(&mut self, ledger: Ledger, session: u64) {
        (self.ledger, self.session, self.answers.taken) = (Some(ledger), session, true);
    }

    /// Opens these questions, but for those that were answered since and are not handed over yet.
    pub(super) fn open(&mut self, asked: impl IntoIterator<Item = (u64, OpenQuestion)>) {
        let given = |query: u64| self.given.iter().any(|event| matches!(event, Event::Answer(a) if a.query == query));
        let asked: Vec<(u64, OpenQuestion)> = asked.into_iter().filter(|(query, _)| !given(*query)).collect();
        self.answers.open = asked.iter().map(|(query, _)| *query).collect();
        self.open = asked.into_iter().collect();
    }

    /// Writes down what a person says, and only then lets it count.
    ///
    /// # Errors
    /// Why it was not taken, for the user. Then nothing has changed.
    pub(super) fn write(&mut self, saying: Saying) -> Result<(), String> {
        let event = self.event(saying)?;
        let ledger = self.ledger.as_mut().ok_or("answers cannot be given or changed at the moment")?;
        ledger.append(&event).map_err(|error| format!("the answer was not written, and does not count: {error}"))?;
        self.given.push(event);
        let answers = &mut self.answers;
        let (query, label) = match saying {
            Saying::Answer { query, label, seconds } => {
                let repeat = self.open.remove(&query).and_then(|question| question.repeat);
                answers.add(query, Given { label, seconds: Some(seconds), repeat });
                return Ok(());
            }
            Saying::Undo { query } => (query, None),
            Saying::Relabel { query, label } => (query, Some(label)),
        };
        if let Some(given) = Arc::make_mut(&mut answers.labels).get_mut(&query) {
            given.label = label.unwrap_or(Label::Skip);
        }
        answers.undone.retain(|other| *other != query);
        if label.is_none() {
            answers.undone.push(query);
        }
        Ok(())
    }

    /// Hands over what was said. What is said from here on takes effect at the logical time `next`.
    pub(super) fn hand_over(&mut self, next: u64) -> Vec<Event> {
        self.session = next;
        std::mem::take(&mut self.given)
    }

    /// Takes no answers any more.
    pub(super) fn close(&mut self) {
        (self.ledger, self.open) = (None, BTreeMap::new());
        (self.answers.taken, self.answers.open) = (false, Vec::new());
    }

    fn event(&self, saying: Saying) -> Result<Event, String> {
        let session = self.session;
        match saying {
            Saying::Answer { query, label, seconds } => {
                let asked = self.open.get(&query).ok_or_else(|| format!("question {query} is not open (any more)"))?;
                let [first, second] = asked.sides.clone();
                Ok(Event::Answer(Answer {
                    query,
                    step: asked.step,
                    session,
                    first,
                    second,
                    label,
                    rater: PERSON.to_owned(),
                    why: asked.why,
                    repeat: asked.repeat,
                    seconds: Some(seconds),
                }))
            }
            Saying::Undo { query } | Saying::Relabel { query, .. } if !self.answers.labels.contains_key(&query) => {
                Err(format!("question {query} has no answer yet"))
            }
            Saying::Undo { query } => Ok(Event::Undo { query, session }),
            Saying::Relabel { query, label } => Ok(Event::Relabel { query, label, session }),
        }
    }
}
