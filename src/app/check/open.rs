//! A validation that is open, and what a user asks of the panel.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::app::compare::Early;
use crate::evals::validate::folder::{self, Validation, Wanted};
use crate::evals::validate::report::{self, ValidationReport};
use crate::evals::validate::{Turn, answers_of, is_final, median_milliseconds, next_turn, rater_name, turns};

/// A validation and the person who answers.
pub(super) struct OpenCheck {
    pub validation: Validation,
    pub rater: String,
    pub turns: Vec<Turn>,
    /// What is asked now, since when; nothing when all is answered.
    pub next: Option<Turn>,
    pub since: Instant,
    /// Answers given, and the median milliseconds of one.
    pub given: usize,
    pub median: Option<u64>,
    /// What is chosen for the present item so far.
    pub draft: Draft,
    /// When a choice came too early to count.
    pub early: Early,
    /// The report, once the rater's answers are final.
    pub report: Option<ValidationReport>,
    /// Name of the next rater.
    pub other: String,
}

/// An answer in the making.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Draft {
    pub label: Option<Choice>,
    pub relevance: Option<u8>,
    pub ambiguous: bool,
}

/// Which answer somebody with the behaviour would give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// The left one.
    Left,
    /// The right one.
    Right,
    CannotTell,
}

/// What a user asks of the panel.
pub(super) enum CheckRequest {
    /// Draw or open a validation, for a rater.
    Begin {
        /// Its folder.
        path: PathBuf,
        /// What is drawn where there is none.
        wanted: Wanted,
        /// Who answers.
        rater: String,
    },
    /// Keep an item's answer.
    Answer {
        /// What was asked when it was given: an answer to what is no longer asked is none.
        turn: Turn,
        /// The answer's text; nothing for "can't tell".
        label: Option<String>,
        /// 1 to 5.
        relevance: u8,
        /// Whether it can be understood in several ways.
        ambiguous: bool,
    },
    /// Take the last answer back.
    Undo,
    /// Make the answers final, and see the report.
    Report,
    /// Back to all validations.
    Close,
}

impl OpenCheck {
    /// Sees what is to be asked after the answers so far.
    pub(super) fn settle(&mut self) {
        let answers = answers_of(&self.validation.events, &self.rater);
        let next = next_turn(&self.turns, &answers);
        (self.given, self.median) = (answers.len(), median_milliseconds(&answers));
        if next != self.next {
            (self.next, self.since, self.draft) = (next, Instant::now(), Draft::default());
        }
    }
}

/// Draws or opens a validation.
///
/// # Errors
/// Why it cannot be opened, for the user.
pub(super) fn begin(path: &Path, wanted: &Wanted, rater: &str) -> Result<OpenCheck, String> {
    let rater = rater_name(rater).map_err(|error| error.to_string())?.to_owned();
    let mut validation = folder::begin(path, wanted).map_err(|error| error.to_string())?;
    let report = match is_final(&validation.events, &rater) {
        true => Some(report::write(path, Some(&rater)).map_err(|error| error.to_string())?),
        false => None,
    };
    if report.is_some() {
        validation.release();
    }
    let mut open = OpenCheck {
        turns: turns(&validation.items, &validation.config, &rater),
        validation,
        rater,
        next: None,
        since: Instant::now(),
        given: 0,
        median: None,
        draft: Draft::default(),
        early: Early::default(),
        report,
        other: String::new(),
    };
    open.settle();
    Ok(open)
}
