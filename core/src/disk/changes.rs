//! Changes of a run's configuration while it goes on: `changes.jsonl`, one object a line.
//!
//! ```json
//! {"at":{"iteration":4,"env_steps":3000,"session":5},"fields":{"steps":{"old":3000,"new":6000}},"time":"2026-11-30T18:00:00Z"}
//! ```
//!
//! `config.toml` stays as it was at the start. A change takes effect at its logical time, between two iterations (steps,
//! in language models), so that a replay does the same at the same place: the first configuration, the ledger and the
//! changes determine a run. From then on everything is as the new configuration has it for this point of a run: an
//! annealed learning rate and the schedule of questions follow the new totals.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::archive::Archive;
use super::error::DiskError;
use super::layers::{self, join};
use super::{lines, text};

/// The file in a run's folder.
pub const FILE: &str = "changes.jsonl";

/// A change; `At` is a run's logical time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change<At> {
    /// When it takes effect.
    pub at: At,
    /// What changes, by the names that `--set` has.
    pub fields: Fields,
    /// When it was asked for, UTC.
    pub time: String,
}

/// What changes, by name.
pub type Fields = BTreeMap<String, Values>;

/// A value before and after; absent where there was, or is, none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Values {
    /// Before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<Value>,
    /// After.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<Value>,
}

/// A change that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// A field that may not change.
    #[error("--set {field}: cannot change in a run: {why}. These can: {may}")]
    Fixed {
        /// The field.
        field: String,
        /// Why not.
        why: &'static str,
        /// The fields that may change, with commas.
        may: String,
    },
    /// A recorded change that does not fit the configuration before it.
    #[error("changes {field} from {old}, but it is {found}")]
    Misfit {
        /// The field.
        field: String,
        /// Its value before the change, as recorded.
        old: String,
        /// Its value in the configuration.
        found: String,
    },
}

/// Fields, or tables of fields, and why they may or may not change while a run goes on.
pub type Rules = [(&'static str, &'static str)];

/// What `--set` changes of a configuration.
///
/// # Errors
/// The first field that may not change, with the reason and with what may.
pub fn planned(old: &Table, new: &Table, may: &Rules, may_not: &Rules) -> Result<Fields, ChangeError> {
    let mut fields = Fields::new();
    for Difference { field, .. } in differences(old, new) {
        let of = |rules: &Rules| rules.iter().copied().find(|(name, _)| covers(name, &field));
        match of(may) {
            // The whole value: a sampler is a word or a table.
            Some((name, _)) => {
                fields.insert(name.to_owned(), Values { old: at(old, name).cloned(), new: at(new, name).cloned() });
            }
            None => {
                let why = of(may_not).map_or("a run stays as it began", |(_, why)| why);
                let names: Vec<&str> = may.iter().map(|(name, _)| *name).collect();
                return Err(ChangeError::Fixed { field, why, may: names.join(", ") });
            }
        }
    }
    Ok(fields)
}

/// Whether a rule's name is that of a field or of a table around it.
pub(crate) fn covers(name: &str, field: &str) -> bool {
    field.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Lets a change take effect in a configuration; one that has taken effect already changes nothing.
///
/// # Errors
/// When a field has another value than the change found there.
pub fn apply(table: &mut Table, fields: &Fields) -> Result<(), ChangeError> {
    for (field, Values { old, new }) in fields {
        let present = at(table, field);
        if present != old.as_ref() && present != new.as_ref() {
            let (old, found) = (shown(old.as_ref()), shown(present));
            return Err(ChangeError::Misfit { field: field.clone(), old, found });
        }
        put(table, field, new.clone());
    }
    Ok(())
}

/// A field in which two configurations differ.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Its name, as `--set` has it.
    pub field: String,
    /// Its value in the first.
    pub first: Option<Value>,
    /// Its value in the second.
    pub second: Option<Value>,
}

/// All fields in which two configurations differ.
#[must_use]
pub fn differences(first: &Table, second: &Table) -> Vec<Difference> {
    fn walk(first: &Table, second: &Table, path: &str, found: &mut Vec<Difference>) {
        for name in first.keys().chain(second.keys().filter(|name| !first.contains_key(*name))) {
            let field = join(path, name);
            match (first.get(name), second.get(name)) {
                (Some(Value::Table(first)), Some(Value::Table(second))) => walk(first, second, &field, found),
                (first, second) if first != second => {
                    found.push(Difference { field, first: first.cloned(), second: second.cloned() });
                }
                _ => {}
            }
        }
    }
    let mut found = Vec::new();
    walk(first, second, "", &mut found);
    found
}

/// Why a checkpoint does not belong to a configuration, field by field; `None` where it does.
///
/// `stored` is the configuration that it was made with, `candidates` are those that the folder may mean. If another
/// version of the program stored it, only the fields that both have are compared.
#[must_use]
pub fn misfit<C: Serialize + DeserializeOwned>(stored: &str, candidates: &[C]) -> Option<String> {
    let table = |config: &C| layers::table(config).expect("a configuration always serialises");
    let text = stored.parse::<Table>().ok()?;
    // Fields that are newer than the checkpoint have their defaults, as in the folder's own configuration.
    let known = layers::from_table::<C>(text.clone()).ok().map(|config| table(&config));
    let of = |candidate: &C| {
        let mut found = differences(known.as_ref().unwrap_or(&text), &table(candidate));
        found.retain(|one| known.is_some() || (one.first.is_some() && one.second.is_some()));
        found
    };
    let all: Vec<Vec<Difference>> = candidates.iter().map(of).collect();
    let found = all.into_iter().min_by_key(Vec::len).filter(|found| !found.is_empty())?;
    let mut words = String::new();
    for (i, Difference { field, first, second }) in found.iter().enumerate() {
        let and = if i > 0 { "; " } else { "" };
        let (made, says) = (shown(first.as_ref()), shown(second.as_ref()));
        write!(words, "{and}{field}: the checkpoint was made with {made}, config.toml says {says}").ok();
    }
    Some(words)
}

/// A value as TOML.
fn shown(value: Option<&Value>) -> String {
    value.map_or_else(|| "nothing".to_owned(), ToString::to_string)
}

fn at<'a>(table: &'a Table, field: &str) -> Option<&'a Value> {
    match field.split_once('.') {
        None => table.get(field),
        Some((name, rest)) => at(table.get(name)?.as_table()?, rest),
    }
}

fn put(table: &mut Table, field: &str, value: Option<Value>) {
    match (field.split_once('.'), value) {
        (None, Some(value)) => {
            table.insert(field.to_owned(), value);
        }
        (None, None) => {
            table.remove(field);
        }
        (Some((name, rest)), value) => {
            let inner = table.entry(name.to_owned()).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

/// The changes of a run's folder, in their order. A torn last one never took effect, and is left out.
///
/// # Errors
/// When the file cannot be read, or a line is not one that this program writes.
pub fn read<At: DeserializeOwned>(folder: &Path) -> Result<Vec<Change<At>>, DiskError> {
    let path = folder.join(FILE);
    let all = lines::read::<Change<At>>(&path).map_err(DiskError::io(&path, "read the changes"))?;
    let (changes, bad) = lines::split(all);
    match bad.into_iter().find(|bad| !bad.torn) {
        Some(bad) => Err(DiskError::Line { path, line: bad.line, reason: bad.reason }),
        None => Ok(changes),
    }
}

/// Adds a change to a run's folder; when this returns, it is on the disk.
///
/// # Errors
/// When the file cannot be written.
pub fn append<At: Serialize + DeserializeOwned>(folder: &Path, change: Change<At>) -> Result<(), DiskError> {
    let mut all = read::<At>(folder)?;
    all.push(change);
    write(folder, &all)
}

/// Writes all changes of a run's folder.
///
/// # Errors
/// When the file cannot be written.
pub fn write<At: Serialize>(folder: &Path, changes: &[Change<At>]) -> Result<(), DiskError> {
    text::write(&folder.join(FILE), &changes.iter().map(lines::line).collect::<String>())
}

/// Name in a checkpoint of the changes that had taken effect when it was made.
const SEEN: &str = "changes";

/// Notes in a checkpoint which changes have taken effect.
pub(crate) fn note<At: Serialize>(archive: &mut Archive, seen: &[Change<At>]) {
    archive.put(SEEN, &seen);
}

/// Checks that a checkpoint has seen exactly those of the `recorded` changes that came before it. Older checkpoints, in
/// which none are noted, fit any.
///
/// # Errors
/// [`DiskError::Line`] with the first line that differs.
pub(crate) fn check_seen<At>(
    folder: &Path,
    recorded: &[Change<At>],
    archive: &Archive,
    checkpoint: &Path,
    now: &At,
) -> Result<(), DiskError>
where
    At: PartialOrd + Serialize + DeserializeOwned,
{
    if !archive.meta.contains_key(SEEN) {
        return Ok(());
    }
    let seen: Vec<Change<At>> =
        archive.get(SEEN).map_err(|source| DiskError::Misfit { path: checkpoint.to_owned(), source: source.into() })?;
    let name = checkpoint.file_name().unwrap_or(checkpoint.as_os_str()).display();
    for index in 0..seen.len().max(recorded.len()) {
        let reason = match (seen.get(index), recorded.get(index)) {
            (Some(seen), Some(recorded)) if seen == recorded => continue,
            (Some(seen), found) => {
                let is = if found.is_some() { "was edited" } else { "is missing" };
                format!("{is}: the checkpoint {name} was made after this change: {}", lines::line(seen).trim_end())
            }
            (None, Some(recorded)) if recorded.at < *now => {
                format!("was not there when the checkpoint {name} was made, but is of an earlier time: remove it")
            }
            (None, _) => break,
        };
        return Err(DiskError::Line { path: folder.join(FILE), line: index + 1, reason });
    }
    Ok(())
}

/// Name of the configuration in a checkpoint, as TOML.
pub(crate) const CONFIGURATION: &str = "configuration";

/// Checks that a checkpoint was made with one of these configurations. Older checkpoints, which do not hold their
/// configuration, fit any. `command` takes `--set` to change a configuration.
///
/// # Errors
/// [`DiskError::Edited`] with the fields that differ.
pub(crate) fn fits_configuration<C: Serialize + DeserializeOwned>(
    archive: &Archive,
    checkpoint: &Path,
    candidates: &[C],
    command: Option<&str>,
) -> Result<(), DiskError> {
    let stored: Option<String> = archive.get(CONFIGURATION).ok();
    match stored.and_then(|stored| misfit(&stored, candidates)) {
        None => Ok(()),
        Some(differences) => Err(DiskError::Edited {
            checkpoint: checkpoint.to_owned(),
            differences,
            advice: command.map_or_else(String::new, |command| {
                format!("; `{command} --set FIELD=VALUE` changes what can be changed, and records it")
            }),
        }),
    }
}
