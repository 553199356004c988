//! Layers of settings: a file over the defaults, `--set` over the file, flags over both.
//!
//! A layer is a table with some of a configuration's values. [`layer`] makes one from typed options, [`resolve`] lays
//! layers over a configuration's defaults and reads the result back into its type. So the type itself finds a name that
//! does not exist.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::lines::typed;

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
    /// The configuration has no value with that name.
    #[error("{field}: there is no such value; {hint}")]
    Unknown {
        /// The name that was given, as `--set` has it.
        field: String,
        /// The nearest name that there is, or all names beside it.
        hint: String,
    },
    /// A value of the wrong kind, one that is missing, or one that TOML cannot hold.
    #[error("{field}: {problem}")]
    Value {
        /// Its name, as `--set` has it.
        field: String,
        /// What is wrong with it.
        problem: String,
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

/// A layer from options, or a whole configuration as a table. What is `None` is in no layer.
///
/// # Errors
/// [`LayerError::Value`], naming the value that TOML cannot hold: a path that is not UTF-8, a number from 2⁶³ on.
pub fn layer(options: &impl Serialize) -> Result<Table, LayerError> {
    // A table's own error does not say where; JSON can hold all that a table can, and more.
    let mut track = serde_path_to_error::Track::new();
    let all = serde_path_to_error::Serializer::new(serde_json::value::Serializer, &mut track);
    let all = options
        .serialize(all)
        .map_err(|error| LayerError::Value { field: track.path().to_string(), problem: error.to_string() })?;
    if let Some(field) = too_large(&all, "") {
        let problem = "must be below 2^63, like every number of a configuration".to_owned();
        return Err(LayerError::Value { field, problem });
    }
    table(options).map_err(|problem| LayerError::Value { field: "configuration".to_owned(), problem })
}

/// A configuration as a table, by way of its text: so each type is compiled for one format less than by [`Table::try_from`].
///
/// # Errors
/// Why TOML cannot hold it.
pub fn table(config: &impl Serialize) -> Result<Table, String> {
    let text = toml::to_string(config).map_err(|error| error.to_string())?;
    text.parse::<Table>().map_err(|error| error.to_string())
}

/// A configuration with `layers` laid over it, the last one on top.
///
/// # Errors
/// [`LayerError::Unknown`] and [`LayerError::Value`], naming the first value that does not belong.
pub fn resolve<C: Serialize + DeserializeOwned>(defaults: &C, layers: &[Table]) -> Result<C, LayerError> {
    let mut table = layer(defaults)?;
    let mut known = Vec::new();
    names(&table, "", &mut known);
    layers.iter().for_each(|layer| merge(&mut table, layer.clone()));
    read(table, known)
}

/// The configuration that a table holds; nothing may be missing.
///
/// # Errors
/// As [`resolve`].
pub fn from_table<C: DeserializeOwned>(table: Table) -> Result<C, LayerError> {
    read(table, Vec::new())
}

/// The configuration that a text holds; nothing may be missing.
///
/// # Errors
/// [`LayerError::Parse`], naming the text's origin, and the field that does not belong.
pub fn from_text<C: DeserializeOwned>(text: &str, origin: &Path) -> Result<C, LayerError> {
    let origin = origin.display().to_string();
    from_table(parse(text, &origin)?).map_err(|error| LayerError::Parse { origin, reason: error.to_string() })
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

/// Reads a table into its type; `known` are names that may have been meant.
fn read<C: DeserializeOwned>(table: Table, mut known: Vec<String>) -> Result<C, LayerError> {
    typed(&json(Value::Table(table), "")?).map_err(|error| {
        let (path, problem) = (error.path().to_string(), error.inner().to_string());
        // A type that reads its parts itself puts their name before the problem.
        let inside = problem.split_once(": ").filter(|(field, _)| path == "." && !field.contains(' '));
        let (field, problem) = inside.map_or((path, problem.as_str()), |(field, problem)| (field.to_owned(), problem));
        // Serde's words: unknown field `gama`, expected one of `envs`, `gamma`.
        let Some(words) = problem.strip_prefix("unknown field `") else {
            return LayerError::Value { field, problem: problem.to_owned() };
        };
        let word = words.split('`').next().unwrap_or_default();
        // A flattened table does not know its place.
        let field = if last(&field) == word { field } else { word.to_owned() };
        let beside = words.split('`').skip(2).step_by(2).map(|name| join(parent(&field), name));
        known.extend(beside);
        LayerError::Unknown { hint: hint(&field, &known), field }
    })
}

/// A value of TOML in JSON, which has no word for what is not finite: that is an error, with its name.
fn json(value: Value, path: &str) -> Result<serde_json::Value, LayerError> {
    Ok(match value {
        Value::Float(number) if !number.is_finite() => {
            let problem = "must be a finite number".to_owned();
            return Err(LayerError::Value { field: format!("{path} = {number}"), problem });
        }
        Value::Float(number) => number.into(),
        Value::Integer(number) => number.into(),
        Value::Boolean(is) => is.into(),
        Value::String(text) => text.into(),
        Value::Datetime(time) => time.to_string().into(),
        Value::Array(values) => {
            let of = |(i, value)| json(value, &format!("{path}[{i}]"));
            values.into_iter().enumerate().map(of).collect::<Result<Vec<_>, _>>()?.into()
        }
        Value::Table(table) => {
            let of = |(name, value): (String, Value)| Ok((name.clone(), json(value, &join(path, &name))?));
            serde_json::Value::Object(table.into_iter().map(of).collect::<Result<_, LayerError>>()?)
        }
    })
}

/// The first whole number from 2⁶³ on, with its name.
fn too_large(value: &serde_json::Value, path: &str) -> Option<String> {
    match value {
        serde_json::Value::Number(number) if number.is_u64() && !number.is_i64() => Some(format!("{path} = {number}")),
        serde_json::Value::Array(all) => {
            all.iter().enumerate().find_map(|(i, value)| too_large(value, &format!("{path}[{i}]")))
        }
        serde_json::Value::Object(all) => all.iter().find_map(|(name, value)| too_large(value, &join(path, name))),
        _ => None,
    }
}

/// The names of all values, as `--set` has them.
fn names(table: &Table, path: &str, found: &mut Vec<String>) {
    for (name, value) in table {
        let name = join(path, name);
        if let Value::Table(inside) = value {
            names(inside, &name, found);
        }
        found.push(name);
    }
}

/// What may have been meant: the name that is spelled alike or is the same word elsewhere, or else what is beside it.
fn hint(field: &str, known: &[String]) -> String {
    let distance = |name: &str| strsim::damerau_levenshtein(last(field), last(name));
    let near = known.iter().filter(|name| distance(name) <= last(field).len() / 3);
    match near.min_by_key(|name| (distance(name), strsim::damerau_levenshtein(parent(field), parent(name)))) {
        Some(name) => format!("did you mean {name}?"),
        None => {
            let beside: std::collections::BTreeSet<&str> =
                known.iter().filter(|name| parent(name) == parent(field)).map(|name| last(name)).collect();
            format!("there are {}", beside.into_iter().collect::<Vec<_>>().join(", "))
        }
    }
}

/// A name inside a table, as `--set` has it.
pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// The names of all real numbers.
#[cfg(test)]
pub(crate) fn reals(table: &Table, path: &str) -> Vec<String> {
    let of = |(name, value): (&String, &Value)| match value {
        Value::Float(_) => vec![join(path, name)],
        Value::Table(inside) => reals(inside, &join(path, name)),
        _ => Vec::new(),
    };
    table.iter().flat_map(of).collect()
}

fn parent(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(parent, _)| parent)
}

fn last(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(_, last)| last)
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::{layer, resolve, set_layer};

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Outer {
        seed: u64,
        gold: Option<String>,
        ppo: Inner,
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Inner {
        gamma: f64,
        path: std::path::PathBuf,
    }

    #[test]
    fn a_name_that_does_not_exist_is_told_with_the_one_that_was_meant() {
        let told = |text: &str| resolve(&Outer::default(), &[set_layer(text).unwrap()]).unwrap_err().to_string();
        assert_eq!(told("ppo.gama=1"), "ppo.gama: there is no such value; did you mean ppo.gamma?");
        assert_eq!(told("gamma=1"), "gamma: there is no such value; did you mean ppo.gamma?");
        assert_eq!(told("pppo.gamma=1"), "pppo: there is no such value; did you mean ppo?");
        // One without a default is in no table, but in the type.
        assert_eq!(told("goold=1"), "goold: there is no such value; did you mean gold?");
        assert_eq!(told("ppo.lr=1"), "ppo.lr: there is no such value; there are gamma, path");
        assert!(told("ppo.gamma=many").starts_with("ppo.gamma: invalid type"), "{}", told("ppo.gamma=many"));
    }

    #[test]
    fn what_toml_cannot_hold_is_told_by_name() {
        let outer = Outer { seed: 1 << 63, ..Outer::default() };
        let expected = "seed = 9223372036854775808: must be below 2^63, like every number of a configuration";
        assert_eq!(layer(&outer).unwrap_err().to_string(), expected);
        assert!(!layer(&Outer { seed: (1 << 63) - 1, ..outer }).unwrap().contains_key("gold"));
        #[cfg(unix)]
        {
            use std::os::unix::ffi::OsStringExt as _;
            let path = std::ffi::OsString::from_vec(vec![0xff]).into();
            // A `None` before it must not mislead.
            let error = layer(&Outer { ppo: Inner { gamma: 0.5, path }, ..Outer::default() }).unwrap_err().to_string();
            assert!(error.starts_with("ppo.path: path contains invalid UTF-8"), "{error}");
        }
    }
}
