//! Things that are chosen by name: teachers, samplers, losses. Each kind has one table. Help, errors, lists and benches
//! follow from it, and files hold the name of a line.

use std::ops::Deref;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A line of a table; files hold its name.
#[derive(Debug)]
pub struct Line<T> {
    /// What it is called on the command line and in files.
    pub name: &'static str,
    /// What it is, for people.
    pub summary: &'static str,
    /// What is meant.
    pub item: T,
}

/// What is chosen by name.
pub trait Table: Sync + Sized + 'static {
    /// What it is, in one word for messages: "teacher".
    const KIND: &'static str;

    /// All there are, in the order in which they are shown.
    const LINES: &'static [&'static Line<Self>];
}

/// No line of a table has that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {kind} '{given}': {} {}", hint(given, all), all.join(", "))]
pub struct UnknownName {
    kind: &'static str,
    given: String,
    all: Vec<&'static str>,
}

impl<T> PartialEq for Line<T> {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl<T> Deref for Line<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.item
    }
}

impl<T> Serialize for Line<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

impl<'de, T: Table> Deserialize<'de> for &'static Line<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        find(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// The line of that name.
///
/// # Errors
/// [`UnknownName`] with the nearest name and all of them.
pub fn find<T: Table>(name: &str) -> Result<&'static Line<T>, UnknownName> {
    let found = T::LINES.iter().find(|line| line.name == name).copied();
    let all = || T::LINES.iter().map(|line| line.name).collect();
    found.ok_or_else(|| UnknownName { kind: T::KIND, given: name.to_owned(), all: all() })
}

/// The name that was probably meant; one letter in four may be wrong, since beyond that it is another word.
#[must_use]
pub fn nearest<'a>(given: &str, names: &[&'a str]) -> Option<&'a str> {
    let distance = |name: &&str| strsim::damerau_levenshtein(&given.to_lowercase(), &name.to_lowercase());
    names.iter().copied().min_by_key(distance).filter(|name| distance(name) <= given.chars().count() / 4)
}

fn hint(given: &str, all: &[&str]) -> String {
    nearest(given, all).map_or_else(|| "there are".to_owned(), |name| format!("did you mean '{name}'? There are"))
}

#[cfg(test)]
mod tests {
    use super::{Table, find, nearest};
    use crate::lm::loss::Loss;
    use crate::preference::{Sampler, Teacher};

    #[test]
    fn the_nearest_name_is_suggested_where_it_is_near() {
        for (given, expected) in [
            ("oracel", "unknown teacher 'oracel': did you mean 'oracle'? There are oracle, mistake, "),
            ("Oracle", "unknown teacher 'Oracle': did you mean 'oracle'? There are oracle, mistake, "),
            ("judge", "unknown teacher 'judge': there are oracle, mistake, "),
        ] {
            let message = find::<Teacher>(given).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{message}");
        }
        // Three letters of which one is wrong are another loss.
        assert_eq!(nearest("dpo", &["ipo", "bco"]), None);
    }

    fn check<T: Table>() {
        for line in T::LINES {
            let (name, summary) = (line.name, line.summary);
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{name}");
            assert!(!summary.is_empty() && !summary.ends_with('.') && !summary.contains('\n'), "{name}: {summary}");
            assert_eq!(T::LINES.iter().filter(|other| other == &line).count(), 1, "{name} is there twice");
        }
    }

    #[test]
    fn every_line_has_a_name_of_its_own_and_says_what_it_is() {
        check::<Teacher>();
        check::<Sampler>();
        check::<Loss>();
    }
}
