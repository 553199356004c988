//! What a clerk writes down: answers, stamped with their logical time and on the disk before they count.

use std::collections::BTreeMap;

use super::Given;
use crate::preference::ledger::{Answer, Ledger};
use crate::preference::{Event, Label, Repeat, SegmentId, Why};

/// Name of the person in the ledger.
const PERSON: &str = "person";

/// The ledger, and what was said and is not handed over yet.
#[derive(Default)]
pub(super) struct Book {
    /// `None` until the folder is read, and for runs of a simulated teacher.
    pub ledger: Option<Ledger>,
    /// Logical time at which what is said now takes effect.
    pub session: u64,
    /// Questions that may be answered.
    pub open: BTreeMap<u64, Asked>,
    /// What was said and is not handed over yet.
    pub given: Vec<Event>,
}

/// A question as the ledger describes it.
pub(super) struct Asked {
    pub step: u64,
    pub first: SegmentId,
    pub second: SegmentId,
    pub why: Option<Why>,
    pub repeat: Option<Repeat>,
}

impl Book {
    /// Writes an answer down, and only then lets it count.
    ///
    /// # Errors
    /// Why it was not taken, for the user.
    pub(super) fn answer(&mut self, query: u64, label: Label, seconds: f64) -> Result<Given, String> {
        let ledger = self.ledger.as_mut().ok_or("this run takes no answers at the moment")?;
        let asked = self.open.get(&query).ok_or_else(|| format!("question {query} is not open (any more)"))?;
        let event = Event::Answer(Answer {
            query,
            step: asked.step,
            session: self.session,
            first: asked.first.clone(),
            second: asked.second.clone(),
            label,
            rater: PERSON.to_owned(),
            why: asked.why,
            repeat: asked.repeat,
            seconds: Some(seconds),
        });
        ledger.append(&event).map_err(|e| format!("the answer was not taken: {e}"))?;
        let repeat = self.open.remove(&query).and_then(|asked| asked.repeat);
        self.given.push(event);
        Ok(Given { label, seconds: Some(seconds), repeat })
    }

    /// Writes down that an answer was taken back (`None`) or changed. `answered`: whether there is one.
    ///
    /// # Errors
    /// Why it was not taken, for the user.
    pub(super) fn amend(&mut self, query: u64, label: Option<Label>, answered: bool) -> Result<(), String> {
        let refusal = "the answers of this run cannot be changed at the moment; branch it instead";
        let ledger = self.ledger.as_mut().ok_or(refusal)?;
        if !answered {
            return Err(format!("question {query} has no answer yet"));
        }
        let session = self.session;
        let event = match label {
            Some(label) => Event::Relabel { query, label, session },
            None => Event::Undo { query, session },
        };
        ledger.append(&event).map_err(|e| format!("the change was not taken: {e}"))?;
        self.given.push(event);
        Ok(())
    }

    /// Takes no answers any more.
    pub(super) fn close(&mut self) {
        (self.ledger, self.open) = (None, BTreeMap::new());
    }
}

/// The question that an event is about.
pub(super) fn query_of(event: &Event) -> u64 {
    match event {
        Event::Answer(answer) => answer.query,
        Event::Undo { query, .. } | Event::Relabel { query, .. } => *query,
    }
}
