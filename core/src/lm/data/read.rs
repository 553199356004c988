//! Files of rows: JSONL and texts, compressed or not, read line by line within limits.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::seq::SliceRandom as _;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::row::{Origin, RowKind, RowProblem, describe};
use crate::lm::chat::{ChatError, is_void};
use crate::lm::tokenizer::TokenizerError;
use crate::random::stream;
use crate::range::OutOfRange;

/// How files are read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReadConfig {
    /// Leaves bad rows out, and counts them, instead of stopping at the first one.
    pub skip_bad_rows: bool,
    /// Takes every line of a `.txt` file for a document; otherwise a file is one.
    pub text_lines: bool,
    /// Most bytes of a line.
    #[serde(skip_serializing_if = "is_usual_line")]
    pub max_line_bytes: u64,
    /// How many times larger than its compressed file a text may be. For texts of up to 16 MB there is no limit.
    #[serde(skip_serializing_if = "is_usual_ratio")]
    pub max_ratio: u64,
    /// Fields that are no part of the conversation, though their names say so.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignore_fields: Vec<String>,
}

/// Data that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file system said no, or the file is a damaged archive.
    #[error("{}: cannot read{}: {source}", path.display(), line.map(|line| format!(" line {line}")).unwrap_or_default())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// Line, from 1, where it is known.
        line: Option<u64>,
        /// Reason.
        source: io::Error,
    },
    /// A file has more than is read.
    #[error("{}: line {line}: {problem}", path.display())]
    TooLarge {
        /// File.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
        /// What is too large, the limit, and how to raise it.
        problem: String,
    },
    /// A file or folder is not of this kind.
    #[error("{}: {reason}", path.display())]
    File {
        /// File or folder.
        path: PathBuf,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// A bad row.
    #[error("{}: line {}: {problem}", origin.path.display(), origin.line)]
    Row {
        /// Where.
        origin: Origin,
        /// What.
        problem: RowProblem,
    },
    /// A row is too long, and the conventions neither cut nor drop it.
    #[error("{}: line {}: {what} has {length} tokens, the limit is {limit}", origin.path.display(), origin.line)]
    TooLong {
        /// Where.
        origin: Origin,
        /// What is too long.
        what: &'static str,
        /// Its tokens.
        length: usize,
        /// Most tokens there may be.
        limit: usize,
    },
    /// A row cannot be rendered.
    #[error("{}: line {}: {source}", origin.path.display(), origin.line)]
    Chat {
        /// Where.
        origin: Origin,
        /// Reason.
        source: Box<ChatError>,
    },
    /// Every row was dropped.
    #[error("no row is left of {rows}: all are too long; the first: {first}")]
    NothingLeft {
        /// Rows there were.
        rows: usize,
        /// The first one that was dropped.
        first: String,
    },
    /// Conventions that cannot be followed.
    #[error(transparent)]
    Conventions(#[from] OutOfRange),
    /// Texts that cannot be packed into blocks.
    #[error("texts cannot be packed: {0}")]
    Packing(String),
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// Rows that were left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// How many.
    pub count: u64,
    /// Where the first ones come from, and what is wrong with them.
    pub first: Vec<String>,
    /// Fields that were not read, and how many rows have them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unread: BTreeMap<String, u64>,
}

/// Rows of files, one after another. Only one line is kept in memory.
pub struct Rows<T> {
    config: ReadConfig,
    /// Files still to be read, the next one last.
    files: Vec<PathBuf>,
    open: Option<Lines>,
    skipped: Skipped,
    kind: PhantomData<T>,
}

/// Most bad or dropped rows that are listed in a report.
const LISTED: usize = 10;

/// Most bytes of a line, unless said otherwise: a conversation of four million words.
const LINE_BYTES: u64 = 16 << 20;

/// How many times larger than its compressed file a text may be, unless said otherwise. Rows become about ten times
/// larger; a file that was made to fill the memory becomes a thousand times larger.
const RATIO: u64 = 200;

/// Bytes of a text from which on this ratio is checked.
const RATIO_FROM: u64 = 16 << 20;

/// Most blank lines one after another.
const BLANK_LINES: u64 = 1_000_000;

/// Most bytes of a text file that is one document.
const TEXT_BYTES: u64 = 1 << 30;

/// Most fields that were not read that are counted by name.
const UNREAD: usize = 50;

/// Fields that hold a part of the conversation in some format of rows: a row with one of them that is not read is
/// refused. `chosen`, `rejected` and `completion` are not among them: they are the answers of this program's own
/// formats, and one file may serve several stages (SFT on the chosen completions, PPO on the prompts of pairs). A
/// remark tells which of them a stage leaves out.
const SPEAKING: [&str; 33] = [
    "system", "system_prompt", "system_message", "question", "query", "instruction", "instructions", "input", "inputs",
    "context", "history", "passage", "conversation", "conversations", "dialogue", "dialog", "turns", "messages",
    "prompt", "completions", "response", "responses", "answer", "output", "tools", "functions", "function_call",
    "tool_calls", "documents", "images", "image", "videos", "audio",
];

fn is_usual_line(bytes: &u64) -> bool {
    *bytes == LINE_BYTES
}

fn is_usual_ratio(ratio: &u64) -> bool {
    *ratio == RATIO
}

impl Default for ReadConfig {
    fn default() -> Self {
        Self {
            skip_bad_rows: false,
            text_lines: false,
            max_line_bytes: LINE_BYTES,
            max_ratio: RATIO,
            ignore_fields: Vec::new(),
        }
    }
}

/// The rows of files. Of a folder, its `.jsonl` and `.jsonl.gz` files (and `.txt`, for documents) are read in the order
/// of their names. The first bytes of a file tell whether it is compressed.
///
/// # Errors
/// When a path does not exist, or a folder has no such file.
pub fn read<T: RowKind>(paths: &[PathBuf], config: &ReadConfig) -> Result<Rows<T>, DataError> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let io = |source| DataError::Io { path: path.clone(), line: None, source };
            let mut found = Vec::new();
            for entry in std::fs::read_dir(path).map_err(io)? {
                let file = entry.map_err(io)?.path();
                let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                let name = name.strip_suffix(".gz").unwrap_or(name);
                if file.is_file() && (name.ends_with(".jsonl") || (T::FROM_TEXT && name.ends_with(".txt"))) {
                    found.push(file);
                }
            }
            if found.is_empty() {
                let kinds = if T::FROM_TEXT { ".jsonl, .jsonl.gz, .txt or .txt.gz" } else { ".jsonl or .jsonl.gz" };
                return Err(DataError::File { path: path.clone(), reason: format!("has no {kinds} file") });
            }
            found.sort();
            files.extend(found);
        } else if let Err(source) = path.metadata() {
            return Err(DataError::Io { path: path.clone(), line: None, source });
        } else {
            files.push(path.clone());
        }
    }
    files.reverse();
    Ok(Rows { config: config.clone(), files, open: None, skipped: Skipped::default(), kind: PhantomData })
}

/// All rows of files, and which were left out.
///
/// # Errors
/// Errors of [`read`], the first bad row unless bad rows are skipped, and files without any good row.
pub fn read_all<T: RowKind>(paths: &[PathBuf], config: &ReadConfig) -> Result<(Vec<T>, Skipped), DataError> {
    let mut rows = read(paths, config)?;
    let list = rows.by_ref().collect::<Result<Vec<T>, _>>()?;
    let skipped = rows.skipped().clone();
    if let (true, Some(path)) = (list.is_empty(), paths.first()) {
        let first = skipped.first.first().map(|first| format!("; the first bad one: {first}")).unwrap_or_default();
        let reason = format!("has no good row ({} bad ones{first}); expected {}", skipped.count, T::SHAPE);
        return Err(DataError::File { path: path.clone(), reason });
    }
    Ok((list, skipped))
}

/// The order of `len` rows in an epoch: a permutation that depends on the seed and the epoch alone.
#[must_use]
pub fn order(seed: u64, epoch: u64, len: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    order.shuffle(&mut stream(seed, "lm-data-order", epoch));
    order
}

impl<T: RowKind> Rows<T> {
    /// What was left out so far.
    #[must_use]
    pub fn skipped(&self) -> &Skipped {
        &self.skipped
    }
}

impl<T: RowKind> Iterator for Rows<T> {
    type Item = Result<T, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let lines = match &mut self.open {
                Some(lines) => lines,
                None => {
                    let path = self.files.pop()?;
                    match Lines::open::<T>(&path, &self.config) {
                        Ok(lines) => self.open.insert(lines),
                        Err(error) => return Some(Err(error)),
                    }
                }
            };
            match lines.next_object() {
                Ok(None) => self.open = None,
                Err(error) => {
                    // Nothing that comes after a broken archive or a failing disk can be relied on.
                    self.open = None;
                    self.files.clear();
                    return Some(Err(error));
                }
                Ok(Some((origin, object))) => match object.and_then(|object| {
                    let row = T::parse(&object, origin.clone())?;
                    Ok((row, unread::<T>(&object, &self.config.ignore_fields)?))
                }) {
                    Ok((row, unread)) => {
                        for name in unread {
                            if self.skipped.unread.len() < UNREAD || self.skipped.unread.contains_key(&name) {
                                *self.skipped.unread.entry(name).or_default() += 1;
                            }
                        }
                        return Some(Ok(row));
                    }
                    Err(problem) => {
                        let error = DataError::Row { origin, problem };
                        if !self.config.skip_bad_rows {
                            return Some(Err(error));
                        }
                        self.skipped.add(error.to_string());
                    }
                },
            }
        }
    }
}

/// Names of the fields that are not read and, by their names, hold no part of the conversation.
fn unread<T: RowKind>(object: &Map<String, Value>, ignored: &[String]) -> Result<Vec<String>, RowProblem> {
    let mut unread = Vec::new();
    for (name, value) in object.iter().filter(|(name, _)| !T::FIELDS.contains(&name.as_str())) {
        // A text that a field which is read holds, too, is not lost.
        let said_elsewhere = || {
            let text = value.as_str().map(str::trim);
            let holds = |other: &Value| text.is_some_and(|text| holds_text(other, text));
            T::FIELDS.iter().filter_map(|field| object.get(*field)).any(holds)
        };
        let speaks = SPEAKING.contains(&name.as_str()) && !is_void(value) && !T::FROM_TEXT;
        if speaks && !ignored.contains(name) && !said_elsewhere() {
            let found = describe(value);
            return Err(RowProblem::Fields(format!(
                "field '{name}' {found}, and is not read: put it into the prompt, or take it out (in training: --set \
                 'read.ignore_fields=[\"{name}\"]' leaves it out)"
            )));
        }
        unread.push(name.clone());
    }
    Ok(unread)
}

fn holds_text(value: &Value, text: &str) -> bool {
    match value {
        Value::String(whole) => whole.contains(text),
        Value::Array(list) => list.iter().any(|item| holds_text(item, text)),
        Value::Object(object) => object.values().any(|item| holds_text(item, text)),
        _ => false,
    }
}

impl Skipped {
    /// The fields that were not read, as a remark; `None` if there were none.
    #[must_use]
    pub fn unread_fields(&self) -> Option<String> {
        let most = self.unread.values().max()?;
        let names: Vec<&str> = self.unread.keys().map(String::as_str).collect();
        Some(format!("fields that are not read: {} (in up to {most} rows)", names.join(", ")))
    }

    pub(super) fn add(&mut self, what: String) {
        self.count += 1;
        if self.first.len() < LISTED {
            self.first.push(what);
        }
    }
}

/// An open file.
struct Lines {
    path: Arc<Path>,
    reader: Box<dyn BufRead + Send>,
    line: u64,
    kind: LineKind,
    /// Most bytes of a line, or of the whole file where it is one document.
    most: u64,
    /// Blank lines since the last line that was not blank.
    blank: u64,
    /// How much a compressed file has grown so far.
    unpacking: Option<Unpacking>,
}

/// How much larger a compressed file becomes.
struct Unpacking {
    packed: Arc<AtomicU64>,
    unpacked: u64,
    ratio: u64,
}

/// A reader that counts.
struct Counted<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

enum LineKind {
    /// JSON objects.
    Json,
    /// Lines of text.
    Text,
    /// The whole file is one text.
    Whole,
}

impl Lines {
    fn open<T: RowKind>(path: &Path, config: &ReadConfig) -> Result<Self, DataError> {
        let io = |source| DataError::Io { path: path.to_owned(), line: None, source };
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_text = name.strip_suffix(".gz").unwrap_or(name).ends_with(".txt");
        if is_text && !T::FROM_TEXT {
            let reason = format!("is a text file; expected JSONL with {}", T::SHAPE);
            return Err(DataError::File { path: path.to_owned(), reason });
        }
        let file = File::open(path).map_err(io)?;
        let is_regular = file.metadata().map_err(io)?.is_file();
        let packed = Arc::new(AtomicU64::new(0));
        let mut file = BufReader::new(Counted { inner: file, count: Arc::clone(&packed) });
        let compressed = file.fill_buf().map_err(io)?.starts_with(&[0x1f, 0x8b]);
        let reader: Box<dyn BufRead + Send> = if compressed {
            Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(file)))
        } else {
            Box::new(file)
        };
        let kind = match (is_text, config.text_lines) {
            (false, _) => LineKind::Json,
            (true, true) => LineKind::Text,
            (true, false) => LineKind::Whole,
        };
        let most = match kind {
            LineKind::Whole if is_regular => TEXT_BYTES.max(config.max_line_bytes),
            _ => config.max_line_bytes,
        };
        let unpacking = compressed.then_some(Unpacking { packed, unpacked: 0, ratio: config.max_ratio });
        Ok(Self { path: path.into(), reader, line: 0, kind, most, blank: 0, unpacking })
    }

    fn too_large(&self, problem: String) -> DataError {
        DataError::TooLarge { path: self.path.to_path_buf(), line: self.line, problem }
    }

    /// Reads a line, or all of a file that is one document; `false` at the end.
    fn read(&mut self, bytes: &mut Vec<u8>) -> Result<bool, DataError> {
        bytes.clear();
        loop {
            let io = |source| DataError::Io { path: self.path.to_path_buf(), line: Some(self.line), source };
            let part = match self.reader.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                part => part.map_err(io)?,
            };
            let end = match self.kind {
                LineKind::Whole => None,
                LineKind::Json | LineKind::Text => part.iter().position(|&byte| byte == b'\n'),
            };
            let used = end.map_or(part.len(), |end| end + 1);
            bytes.extend_from_slice(&part[..used]);
            self.reader.consume(used);
            if bytes.len() as u64 > self.most {
                let raise = match self.kind {
                    LineKind::Whole => "one line of it is a text with --set read.text_lines=true",
                    _ => "--max-line-bytes allows more, in training --set read.max_line_bytes",
                };
                return Err(self.too_large(format!("is longer than {} bytes; {raise}", self.most)));
            }
            if let Some(unpacking) = &mut self.unpacking {
                unpacking.unpacked += used as u64;
                let packed = unpacking.packed.load(Ordering::Relaxed);
                if unpacking.unpacked > RATIO_FROM && unpacking.unpacked / unpacking.ratio.max(1) > packed {
                    let times = unpacking.ratio;
                    return Err(self.too_large(format!(
                        "the file unpacks to more than {times} times its size so far: it is damaged, or made to fill \
                         the memory; in training, --set read.max_ratio allows more"
                    )));
                }
            }
            if used == 0 || end.is_some() {
                return Ok(!bytes.is_empty());
            }
        }
    }

    /// The next line that is not blank, as an object. A line of a text becomes an object with the field `text`.
    #[expect(clippy::type_complexity, reason = "a bad row is not the end of the file; one use")]
    fn next_object(&mut self) -> Result<Option<(Origin, Result<Map<String, Value>, RowProblem>)>, DataError> {
        let mut bytes = Vec::new();
        loop {
            self.line += 1;
            if !self.read(&mut bytes)? {
                return Ok(None);
            }
            // Some editors begin a file with a byte order mark.
            let line = if self.line == 1 { bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes) } else { &bytes };
            if line.iter().all(u8::is_ascii_whitespace) {
                self.blank += 1;
                if self.blank > BLANK_LINES {
                    return Err(self.too_large(format!("{BLANK_LINES} blank lines stand before it")));
                }
                continue;
            }
            self.blank = 0;
            let origin = Origin { path: Arc::clone(&self.path), line: self.line };
            let Ok(text) = std::str::from_utf8(line) else {
                return Ok(Some((origin, Err(RowProblem::Json("not UTF-8 text".into())))));
            };
            let object = match self.kind {
                LineKind::Json => serde_json::from_str(text).map_err(|e| RowProblem::Json(e.to_string())),
                LineKind::Text => Ok(text_object(text.trim_end_matches(['\n', '\r']))),
                LineKind::Whole => Ok(text_object(text)),
            };
            return Ok(Some((origin, object)));
        }
    }
}

fn text_object(text: &str) -> Map<String, Value> {
    Map::from_iter([("text".to_owned(), Value::from(text))])
}
