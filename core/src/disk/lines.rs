//! Files with one JSON object a line, such as `metrics.jsonl`: written so that every reader understands them, and read
//! so that one bad line hides no other.
//!
//! What is undefined is absent. JSON has no NaN and no infinity, so such a number is left out too: `null` would be a
//! second word for "unknown", which some readers take for a missing value and others for an error.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::de::{DeserializeOwned, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// A line of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Line<T> {
    /// As it stands there, without its end.
    pub text: Vec<u8>,
    /// What it says.
    pub value: Result<T, BadLine>,
}

/// A line that this program cannot have written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: line {line}: {reason}", path.display())]
pub struct BadLine {
    /// File.
    pub path: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
    /// Whether it is the last one and has no end: the program was stopped while it wrote it.
    pub torn: bool,
}

/// A value as a line with its end. What is `None`, NaN or infinite is left out.
///
/// # Panics
/// When the value has keys that are no text: never with plain structs.
#[must_use]
pub fn line(value: &impl Serialize) -> String {
    format!("{}\n", finite(value))
}

/// A value as a line with its end, as its type writes it: `None` becomes `null` unless the type leaves it out.
///
/// # Panics
/// As [`line()`].
pub fn plain_line(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain structs always serialise") + "\n"
}

/// A value as JSON in which what is `None`, NaN or infinite is left out.
///
/// # Panics
/// As [`line()`].
#[must_use]
pub fn finite(value: &impl Serialize) -> Value {
    // NaN and infinity become null there. By way of the text, in which an `f32` has its own few digits.
    let text = serde_json::to_string(value).expect("plain structs always serialise");
    without_nulls(serde_json::from_str(&text).expect("what was written can be read"))
}

/// A value as the text of a file, indented, in which what is `None`, NaN or infinite is left out.
///
/// # Panics
/// As [`line()`].
#[must_use]
pub fn pretty(value: &impl Serialize) -> String {
    format!("{:#}\n", finite(value))
}

/// A path as it is shown: JSON is text, and paths need not be UTF-8.
///
/// # Errors
/// The serializer's.
pub(crate) fn shown<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// The lines of a file; none where there is no file. Empty lines are passed over.
///
/// # Errors
/// When the file cannot be read.
pub fn read<T: DeserializeOwned>(path: &Path) -> std::io::Result<Vec<Line<T>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(parse(path, &bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// What the lines of a file say, and those that say nothing.
#[must_use]
pub fn split<T>(lines: Vec<Line<T>>) -> (Vec<T>, Vec<BadLine>) {
    let (mut values, mut bad) = (Vec::with_capacity(lines.len()), Vec::new());
    for line in lines {
        match line.value {
            Ok(value) => values.push(value),
            Err(line) => bad.push(line),
        }
    }
    (values, bad)
}

/// The lines that a log keeps when its run goes on from `limit`: all before the first that lies beyond it. Bad lines
/// stay as they are, but a torn last one goes. `at` says where a line lies.
#[must_use]
pub fn until<T>(mut lines: Vec<Line<T>>, limit: u64, at: impl Fn(&T) -> u64) -> Vec<Line<T>> {
    let after = |line: &Line<T>| line.value.as_ref().is_ok_and(|value| at(value) > limit);
    lines.truncate(lines.iter().position(after).unwrap_or(lines.len()));
    lines.retain(|line| line.value.as_ref().err().is_none_or(|bad| !bad.torn));
    lines
}

/// Lines as a file.
#[must_use]
pub fn join<T>(lines: &[Line<T>]) -> Vec<u8> {
    lines.iter().flat_map(|line| [line.text.as_slice(), b"\n"]).flatten().copied().collect()
}

fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Vec<Line<T>> {
    // Editors put a byte-order mark there.
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let of_line = |(i, whole): (usize, &[u8])| {
        let text = whole.strip_suffix(b"\n").unwrap_or(whole);
        // JSON marks its own end, so that a line without a newline may be whole.
        let value = value(text).map_err(|reason| {
            let torn = text.len() == whole.len();
            let reason =
                if torn { format!("torn (the program was stopped while it wrote it): {reason}") } else { reason };
            BadLine { path: path.to_owned(), line: i + 1, reason, torn }
        });
        (!text.trim_ascii().is_empty()).then(|| Line { text: text.to_owned(), value })
    };
    bytes.split_inclusive(|&byte| byte == b'\n').enumerate().filter_map(of_line).collect()
}

fn value<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    let text = std::str::from_utf8(text).map_err(|_| "is not UTF-8; expected a JSON object".to_owned())?;
    let Unique(value) = serde_json::from_str(text).map_err(|error| format!("is not a JSON object ({error})"))?;
    let value = without_nulls(value);
    let error = match typed(&value) {
        Ok(found) => return Ok(found),
        Err(error) => error,
    };
    // A group of numbers one of which is unknown (a loss that was NaN) may be unknown as a whole.
    let group = error.path().iter().next().map(ToString::to_string);
    if let Value::Object(mut fields) = value.clone()
        && group
            .is_some_and(|group| fields.get(&group).is_some_and(Value::is_object) && fields.remove(&group).is_some())
        && let Ok(found) = typed(&Value::Object(fields))
    {
        return Ok(found);
    }
    Err(field_problem(&error))
}

/// A value as what it stands for. Configurations, states and results are read in this way, whatever the file's format:
/// each further way of reading would be compiled for all of them.
///
/// # Errors
/// What does not belong, with the path of its field.
pub fn typed<T: DeserializeOwned>(value: &Value) -> Result<T, serde_path_to_error::Error<serde_json::Error>> {
    serde_path_to_error::deserialize(value)
}

/// What a JSON text stands for.
///
/// # Errors
/// What is wrong with it, and where.
pub fn from_text<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let Unique(value) = serde_json::from_str(text).map_err(|error| error.to_string())?;
    typed(&value).map_err(|error| field_problem(&error))
}

/// What is wrong with a value, after the path of its field.
pub fn field_problem(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    match error.path().to_string().as_str() {
        "." => error.inner().to_string(),
        field => format!("{field}: {}", error.inner()),
    }
}

/// JSON in which no object has a name twice: [`Value`]'s own reader takes the last one and says nothing.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor).map(Self)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        text.write_str("any JSON")
    }
    fn visit_bool<E>(self, is: bool) -> Result<Value, E> {
        Ok(is.into())
    }
    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }
    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }
    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(number.into())
    }
    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Value, A::Error> {
        let next = || all.next_element().transpose().map(|value| value.map(|Unique(value)| value));
        std::iter::from_fn(next).collect()
    }
    fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = all.next_key::<String>()? {
            if fields.contains_key(&name) {
                return Err(A::Error::custom(format_args!("duplicate field `{name}`")));
            }
            let Unique(value) = all.next_value()?;
            fields.insert(name, value);
        }
        Ok(fields.into())
    }
}

/// Without the entries of objects that are null.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let known = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(known.map(|(name, value)| (name, without_nulls(value))).collect())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde::{Deserialize, Serialize};

    use super::{from_text, join, line, parse, pretty, split, until};

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Row {
        step: u64,
        loss: Option<f64>,
        update: Option<Update>,
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Update {
        entropy: f64,
        kl: f64,
    }

    const PATH: &str = "metrics.jsonl";

    fn rows(text: &[u8]) -> (Vec<u64>, Vec<String>) {
        let (rows, bad) = split(parse::<Row>(Path::new(PATH), text));
        (rows.into_iter().map(|row| row.step).collect(), bad.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_is_no_number_is_left_out_and_read_back_as_unknown() {
        let row = |loss, kl| Row { step: 7, loss, update: Some(Update { entropy: 0.5, kl }) };
        let healthy = line(&row(Some(0.5), 1.0));
        assert_eq!(healthy, "{\"step\":7,\"loss\":0.5,\"update\":{\"entropy\":0.5,\"kl\":1.0}}\n");
        for loss in [None, Some(f64::NAN), Some(f64::INFINITY), Some(f64::NEG_INFINITY)] {
            let text = line(&row(loss, 1.0));
            assert_eq!(text, "{\"step\":7,\"update\":{\"entropy\":0.5,\"kl\":1.0}}\n");
            let (read, bad) = split(parse::<Row>(Path::new(PATH), text.as_bytes()));
            assert!(bad.is_empty() && read == [row(None, 1.0)]);
        }
        // Older files have nulls. Where a field must be a number, the object around it becomes unknown, not the line.
        assert_eq!(line(&row(None, f64::NAN)), "{\"step\":7,\"update\":{\"entropy\":0.5}}\n");
        for text in
            ["{\"step\":7,\"loss\":null,\"update\":{\"entropy\":0.5,\"kl\":null}}\n", &line(&row(None, f64::NAN))]
        {
            let (read, bad) = split(parse::<Row>(Path::new(PATH), text.as_bytes()));
            assert!(bad.is_empty() && read == [Row { step: 7, loss: None, update: None }], "{text}: {read:?} {bad:?}");
        }
    }

    #[test]
    fn a_file_leaves_out_what_is_unknown_and_writes_numbers_as_they_are() {
        #[derive(Serialize)]
        struct Found {
            rate: f32,
            share: f64,
            interval: Option<[f64; 2]>,
            of_seeds: Vec<Option<f64>>,
        }
        let found = Found { rate: 0.3, share: 1.0 / 3.0, interval: None, of_seeds: vec![None, Some(2.0)] };
        let expected =
            "{\n  \"rate\": 0.3,\n  \"share\": 0.3333333333333333,\n  \"of_seeds\": [\n    null,\n    2.0\n  ]\n}\n";
        assert_eq!(pretty(&found), expected);
    }

    #[test]
    fn a_bad_line_hides_no_other() {
        let text = b"{\"step\":1}\r\n\n{\"step\":tw}\n\xff\n{\"stop\":3}\n{\"step\":\"4\"}\n{\"step\":5,\"step\":6}\n{\"step\":5}\n{\"step\":";
        let (steps, bad) = rows(text);
        assert_eq!(steps, [1, 5]);
        let expected = [
            "metrics.jsonl: line 3: is not a JSON object (expected ident at line 1 column 10)",
            "metrics.jsonl: line 4: is not UTF-8; expected a JSON object",
            "metrics.jsonl: line 5: missing field `step`",
            "metrics.jsonl: line 6: step: invalid type: string \"4\", expected u64",
            "metrics.jsonl: line 7: is not a JSON object (duplicate field `step` at line 1 column 16)",
            "metrics.jsonl: line 9: torn (the program was stopped while it wrote it): is not a JSON object \
             (EOF while parsing a value at line 1 column 8)",
        ];
        assert_eq!(bad, expected);
        // A last line that is whole lacks nothing but its end.
        assert_eq!(rows(b"\xef\xbb\xbf{\"step\":1}\n{\"step\":2}"), (vec![1, 2], Vec::new()));
    }

    #[test]
    fn a_name_that_stands_twice_is_refused_at_any_depth() {
        let text = r#"{"entropy": 0.5, "kl": [{"a": {"b": null, "c": -1, "b": true}}]}"#;
        let error = from_text::<Update>(text).unwrap_err();
        assert_eq!(error, "duplicate field `b` at line 1 column 54");
        let text = r#"{"entropy": 0.1, "kl": -2}"#;
        assert_eq!(from_text::<Update>(text).unwrap(), Update { entropy: 0.1, kl: -2.0 });
    }

    #[test]
    fn a_log_is_cut_at_the_step_and_not_at_a_bad_line() {
        let text =
            b"{\"step\":1}\nbad \xff line\n{\"step\":2}\n{\"step\":2}\n{\"step\":3}\nbad too\n{\"step\":4}\n{\"st";
        let cut = |limit: u64| join(&until(parse::<Row>(Path::new(PATH), text), limit, |row| row.step));
        assert_eq!(cut(2), b"{\"step\":1}\nbad \xff line\n{\"step\":2}\n{\"step\":2}\n");
        assert_eq!(cut(0), b"");
        assert_eq!(cut(9), text[..text.len() - 4]);
    }
}
