//! Files of models, read field by field: whatever is missing, wrong or unknown is named with its file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::disk::{DiskError, text};

/// A model's folder that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A file cannot be read or written.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A file's content is not what it should be.
    #[error("{}: {problem}", file.display())]
    Content {
        /// The file.
        file: PathBuf,
        /// What was found, and what would be right.
        problem: String,
    },
}

/// Names of fields that cannot change what is computed, in groups that have a common reason.
pub(super) type Harmless = &'static [(&'static str, &'static [&'static str])];

/// The fields of a JSON object. It remembers which of them were asked for, so that the rest can be refused.
pub(super) struct Fields<'a> {
    pub(super) file: &'a Path,
    pub(super) object: &'a Map<String, Value>,
    known: BTreeSet<&'a str>,
}

/// Larger sizes are mistakes; the product of several sizes up to this one still fits a number.
pub(super) const MAX_SIZE: usize = 1 << 30;

/// Longest JSON file that is read, bytes. Those in use have a few thousand.
const MAX_TEXT: u64 = 16 << 20;

impl<'a> Fields<'a> {
    /// The fields of an object in a file. Those in `harmless` may have any value.
    pub(super) fn new(file: &'a Path, object: &'a Map<String, Value>, harmless: Harmless) -> Self {
        Self { file, object, known: harmless.iter().flat_map(|(_, names)| names.iter().copied()).collect() }
    }

    pub(super) fn error(&self, problem: &str) -> FolderError {
        content(self.file, problem)
    }

    /// A value that must be something else.
    fn wrong(&self, name: &str, value: &Value, expected: &str) -> FolderError {
        self.error(&format!("{name} = {}: must be {expected}", short(value)))
    }

    /// A field that is there and not null.
    pub(super) fn get(&mut self, name: &'a str) -> Option<&'a Value> {
        self.known.insert(name);
        self.object.get(name).filter(|value| !value.is_null())
    }

    /// The value of a field called `name` as a size.
    pub(super) fn size_in(&self, name: &str, value: &Value) -> Result<usize, FolderError> {
        let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
        let number = number.filter(|number| (1..=MAX_SIZE).contains(number));
        number.ok_or_else(|| self.wrong(name, value, &format!("a whole number from 1 to {MAX_SIZE}")))
    }

    pub(super) fn optional_size(&mut self, name: &'a str) -> Result<Option<usize>, FolderError> {
        self.get(name).map(|value| self.size_in(name, value)).transpose()
    }

    pub(super) fn size(&mut self, name: &'a str) -> Result<usize, FolderError> {
        let missing = format!("field '{name}' is missing: must be a whole number from 1 on");
        self.optional_size(name)?.ok_or_else(|| self.error(&missing))
    }

    /// The value of a field called `name` as a finite number of at least 0.
    pub(super) fn number_in(&self, name: &str, value: &Value) -> Result<f64, FolderError> {
        let number = value.as_f64().filter(|number| *number >= 0.0 && number.is_finite());
        number.ok_or_else(|| self.wrong(name, value, "a number of at least 0"))
    }

    pub(super) fn positive(&mut self, name: &'a str, default: f64) -> Result<f64, FolderError> {
        let Some(value) = self.get(name) else { return Ok(default) };
        let number = value.as_f64().filter(|number| *number > 0.0 && number.is_finite());
        number.ok_or_else(|| self.wrong(name, value, "a positive number"))
    }

    pub(super) fn flag(&mut self, name: &'a str, default: bool) -> Result<bool, FolderError> {
        let Some(value) = self.get(name) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(name, value, "true or false"))
    }

    /// A token's id. Some files have a negative one where there is no token.
    pub(super) fn token(&mut self, name: &'a str) -> Result<Option<u32>, FolderError> {
        Ok(self.tokens(name)?.first().copied())
    }

    /// The ids of one token or of several.
    pub(super) fn tokens(&mut self, name: &'a str) -> Result<Vec<u32>, FolderError> {
        let Some(value) = self.get(name) else { return Ok(Vec::new()) };
        if value.as_i64().is_some_and(|id| id < 0) {
            return Ok(Vec::new());
        }
        token_ids(value).ok_or_else(|| self.wrong(name, value, "a token's number, or several"))
    }

    /// A field that changes the model, of which only some values are supported.
    pub(super) fn only(&mut self, name: &'a str, supported: &[Value], default: &Value) -> Result<(), FolderError> {
        let value = self.get(name).unwrap_or(default);
        if supported.contains(value) {
            return Ok(());
        }
        let listed: Vec<String> = supported.iter().map(Value::to_string).collect();
        let expected = listed.join(" or ");
        Err(self.error(&format!("{name} = {} is not supported: must be {expected}", short(value))))
    }

    /// Refuses the fields that were not asked for and are not known to be harmless. A null says nothing. `of` stands
    /// before the names, and `same` says what has to be so for a field to be superfluous.
    pub(super) fn no_others(&self, of: &str, same: &str) -> Result<(), FolderError> {
        let unknown = |(name, value): &(&String, &Value)| !value.is_null() && !self.known.contains(name.as_str());
        let all: Vec<String> =
            self.object.iter().filter(unknown).map(|(name, value)| format!("{of}{name} = {}", short(value))).collect();
        let (what, them) = match all.as_slice() {
            [] => return Ok(()),
            [_] => ("it does", "it"),
            _ => ("they do", "them"),
        };
        let all = all.join(", ");
        Err(self.error(&format!(
            "{all}: pairwise does not know what {what}; take {them} out of the file if {same} without {them}"
        )))
    }
}

/// One token's number, or a list of them.
pub(super) fn token_ids(value: &Value) -> Option<Vec<u32>> {
    let one = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(all) => all.iter().map(one).collect(),
        _ => one(value).map(|id| vec![id]),
    }
}

/// A value as a message shows it: its first 60 characters.
pub(super) fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        None => text,
        Some((at, _)) => format!("{}…", &text[..at]),
    }
}

/// The object in a JSON file. What is no regular file, such as a pipe that nobody writes to, is not opened.
pub(super) fn read_json(path: &Path) -> Result<Map<String, Value>, FolderError> {
    let about = std::fs::metadata(path).map_err(DiskError::io(path, "read"))?;
    if !about.is_file() {
        return Err(content(path, "is no regular file"));
    }
    if about.len() > MAX_TEXT {
        return Err(content(path, &format!("has {} bytes: must be at most {MAX_TEXT}", about.len())));
    }
    let text = std::fs::read_to_string(path).map_err(DiskError::io(path, "read"))?;
    match serde_json::from_str(&text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(content(path, "must be a JSON object")),
        Err(error) => Err(content(path, &format!("not valid JSON: {error}"))),
    }
}

pub(super) fn write_json(path: &Path, value: &Value) -> Result<(), FolderError> {
    let text = serde_json::to_string_pretty(value).expect("a JSON value can be written") + "\n";
    Ok(text::write(path, &text)?)
}

pub(super) fn content(file: &Path, problem: &str) -> FolderError {
    FolderError::Content { file: file.to_owned(), problem: problem.to_owned() }
}
