//! Layers of settings: a file over the defaults, `--set` over the file.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// A layer that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// File.
        path: PathBuf,
        /// Reason.
        source: std::io::Error,
    },
    /// Not TOML.
    #[error("{origin}: {reason}")]
    Parse {
        /// File, or the `--set` that was meant.
        origin: String,
        /// Reason, with line and column.
        reason: String,
    },
}

/// Reads and parses a TOML file given by the user, as a layer of a configuration.
///
/// # Errors
/// [`LayerError`] naming the file, and the line when it is not TOML.
pub fn read_layer(path: &Path) -> Result<Table, LayerError> {
    parse(&read_text(path)?, &path.display().to_string())
}

/// A layer from `key=value` as given with `--set`: the value is TOML, or a bare word.
///
/// # Errors
/// [`LayerError::Parse`] when there is no `=` or the key is empty.
pub fn set_layer(assignment: &str) -> Result<Table, LayerError> {
    let bad = || LayerError::Parse {
        origin: format!("--set {assignment}"),
        reason: "expected key=value, for example ppo.gamma=0.9".to_owned(),
    };
    let (key, value) = assignment.split_once('=').ok_or_else(bad)?;
    let (key, value) = (key.trim(), value.trim());
    if key.is_empty() || key.split('.').any(str::is_empty) || value.is_empty() {
        return Err(bad());
    }
    let parsed = format!("v = {value}").parse::<Table>().ok().and_then(|mut t| t.remove("v"));
    let mut layer = parsed.unwrap_or_else(|| Value::String(value.to_owned()));
    for part in key.rsplit('.') {
        layer = Value::Table(Table::from_iter([(part.to_owned(), layer)]));
    }
    match layer {
        Value::Table(table) => Ok(table),
        _ => Err(bad()),
    }
}

/// The text of a file.
///
/// # Errors
/// [`LayerError::Read`].
pub(crate) fn read_text(path: &Path) -> Result<String, LayerError> {
    std::fs::read_to_string(path).map_err(|source| LayerError::Read { path: path.to_owned(), source })
}

/// A layer from a text.
///
/// # Errors
/// [`LayerError::Parse`].
pub(crate) fn parse(text: &str, origin: &str) -> Result<Table, LayerError> {
    text.parse::<Table>()
        .map_err(|e| LayerError::Parse { origin: origin.to_owned(), reason: e.to_string().trim_end().to_owned() })
}

/// Lays one table over another, value by value.
pub fn merge(into: &mut Table, layer: Table) {
    for (key, value) in layer {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            // A whole number where a real one is expected is what people write: 1 for 1.0.
            (Some(old @ Value::Float(_)), Value::Integer(new)) => *old = Value::Float(new as f64),
            // `--set reward=true` means the word.
            (Some(old @ Value::String(_)), Value::Boolean(new)) => *old = Value::String(new.to_string()),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}
