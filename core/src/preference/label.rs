//! Answers to "which of the two is better?".

use std::fmt;

use serde::{Deserialize, Serialize};

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Label {
    /// The first is better.
    First,
    /// The second is better.
    Second,
    /// Both are equally good.
    Equal,
    /// Can't tell; the comparison is not used.
    Skip,
}

impl Label {
    /// Probability mass on the first, μ(1) of Christiano et al. 2017, §2.2.3; `None` for a skipped comparison.
    #[must_use]
    pub fn target(self) -> Option<f64> {
        match self {
            Self::First => Some(1.0),
            Self::Second => Some(0.0),
            Self::Equal => Some(0.5),
            Self::Skip => None,
        }
    }

    /// The answer to the same question with its sides swapped.
    #[must_use]
    pub fn swapped(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
            other => other,
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::First => "first",
            Self::Second => "second",
            Self::Equal => "equal",
            Self::Skip => "skip",
        })
    }
}
