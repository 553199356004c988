//! The append-only ledger of questions and answers, `labels.jsonl`: one JSON object a line, synced to disk before an
//! answer counts.
//!
//! Every line carries `seq`, its number from 0, and `chain`, the first 16 hex digits of SHA-256 over the chain of the
//! line before and this line without its chain. Editing, inserting or deleting a line is thereby found and named.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::label::Label;
use crate::disk::files::{folder_of, hex, is_at, sync_folder};

/// Digest of a clip's content, 16 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SegmentId(String);

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Event {
    /// A question was answered.
    Answer(Answer),
    /// An answer was undone.
    Undo {
        /// The query.
        query: u64,
        /// Exchange in which this takes effect.
        session: u64,
    },
    /// An answer was changed.
    Relabel {
        /// The query.
        query: u64,
        /// The new answer.
        label: Label,
        /// Exchange in which this takes effect.
        session: u64,
    },
}

/// A question and its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Number of the query, from 0.
    pub query: u64,
    /// Environment steps at which it was asked.
    pub step: u64,
    /// Its logical time: the label session, or the exchange in which a person's answer takes effect.
    pub session: u64,
    /// The first clip.
    pub first: SegmentId,
    /// The second clip.
    pub second: SegmentId,
    /// The answer.
    pub label: Label,
    /// Who answered: `simulated`, or a person's name.
    pub rater: String,
    /// Why it was asked; absent in the first session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<Why>,
    /// The pair was shown before, unknown to the rater.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeat: Option<Repeat>,
    /// Seconds from the appearance of the pair to a person's answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

/// A pair that is shown again, to see whether a rater agrees with themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repeat {
    /// The query that showed it first.
    pub of: u64,
    /// Whether the sides are swapped.
    pub swapped: bool,
}

/// What the ensemble thought of a pair before the answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Why {
    /// Variance of the members' predictions.
    pub disagreement: f64,
    /// Mean entropy of the members' predictions, nats.
    pub entropy: f64,
}

/// A ledger open for appending.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    file: File,
    /// Bytes of whole, good lines; what lies beyond is torn and cut off by the next append.
    good: u64,
    /// Bytes in all, as this program left or found them.
    length: u64,
    /// How the good lines end, to see that they still do.
    end: Vec<u8>,
    seq: u64,
    chain: String,
}

/// What was found wrong with a ledger but did no harm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{}: line {line}: torn (the program was stopped while writing it), dropped; everything before it is kept",
    path.display()
)]
pub struct TornLine {
    path: PathBuf,
    line: u64,
}

/// Name of a [`Mark`] in a checkpoint.
pub(crate) const MARK: &str = "ledger";

/// What a checkpoint remembers of the ledger: what had taken effect when it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// Lines.
    pub lines: u64,
    /// Chain of the last of them; `None` in checkpoints that are older than marks.
    pub chain: Option<String>,
}

/// A ledger that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file system said no; the ledger holds what it held before.
    #[error("{}: cannot {action} the label ledger: {source}", path.display())]
    Io {
        /// File.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// Reason.
        source: io::Error,
    },
    /// Somebody else wrote to the file while it was open here.
    #[error(
        "{}: cannot append to the label ledger: {found}; another program has changed it meanwhile, so nothing was \
         written: end that one, and open the run again", path.display()
    )]
    Changed {
        /// File.
        path: PathBuf,
        /// What is there, and what this program left there.
        found: String,
    },
    /// A line is not what this program writes.
    #[error("{}: line {line}: {reason}", path.display())]
    Line {
        /// File.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// A ledger that lacks what a checkpoint has seen.
    #[error(
        "{}: {}, but the checkpoint of {checkpoint} has seen {}: put back what is missing; or remove the folder \
         checkpoints, and the run is repeated from the lines that are there",
        path.display(),
        if let Some(lines) = lines { format!("has {}", counted(*lines)) } else { "is missing".to_owned() },
        counted(*seen)
    )]
    Behind {
        /// File.
        path: PathBuf,
        /// Lines that are there; `None` where the file is missing.
        lines: Option<u64>,
        /// Which checkpoint.
        checkpoint: String,
        /// Lines that it has seen.
        seen: u64,
    },
    /// Another ledger than a checkpoint has seen.
    #[error(
        "{}: line {line} has the chain {found}, but the checkpoint of {checkpoint} has seen {expected} there, so this \
         is another ledger: put back the one that the run wrote",
        path.display()
    )]
    Other {
        /// File.
        path: PathBuf,
        /// Line, from 1: the last one that the checkpoint has seen.
        line: u64,
        /// Which checkpoint.
        checkpoint: String,
        /// Chain that it has seen.
        expected: String,
        /// Chain that is there.
        found: String,
    },
}

fn counted(lines: u64) -> String {
    format!("{lines} line{}", if lines == 1 { "" } else { "s" })
}

/// Chain of the line before the first.
const GENESIS: &str = "0000000000000000";

impl Ledger {
    /// Starts a ledger.
    ///
    /// # Errors
    /// When there is one already, or the file cannot be made.
    pub fn create(path: &Path) -> Result<Self, LedgerError> {
        let io = |source| LedgerError::Io { path: path.to_owned(), action: "create", source };
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path).map_err(io)?;
        // Its content is synced with every answer; its name is now.
        sync_folder(folder_of(path)).map_err(io)?;
        let (path, chain) = (path.to_owned(), GENESIS.to_owned());
        Ok(Self { path, file, good: 0, length: 0, end: Vec::new(), seq: 0, chain })
    }

    /// Opens a ledger, checks all of it, and returns its events. A torn last line is left out and reported; the file
    /// itself is not touched before the next append.
    ///
    /// # Errors
    /// [`LedgerError::Line`] for the first line that is damaged, with its number.
    pub fn open(path: &Path) -> Result<(Self, Vec<Event>, Vec<TornLine>), LedgerError> {
        let io = |source| LedgerError::Io { path: path.to_owned(), action: "open", source };
        let scan = scan(path)?;
        if let Some((line, reason)) = scan.broken {
            return Err(LedgerError::Line { path: path.to_owned(), line, reason });
        }
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(io)?;
        let torn = scan.torn.then(|| TornLine { path: path.to_owned(), line: scan.events.len() as u64 + 1 });
        let seq = scan.events.len() as u64;
        let Scan { good, length, end, chain, .. } = scan;
        let ledger = Self { path: path.to_owned(), file, good, length, end, seq, chain };
        Ok((ledger, scan.events, torn.into_iter().collect()))
    }

    /// Appends an event; when this returns, it is on the disk.
    ///
    /// # Errors
    /// When it cannot be written (a full disk); then no part of it stays. [`LedgerError::Changed`] when the file is no
    /// longer as this program left it; then nothing is written.
    pub fn append(&mut self, event: &Event) -> Result<(), LedgerError> {
        self.check_unchanged()?;
        let (line, chain) = write_line(&finite(event), self.seq, &self.chain);
        let mut write = || -> io::Result<()> {
            self.file.set_len(self.good)?;
            self.file.seek(SeekFrom::Start(self.good))?;
            self.file.write_all(line.as_bytes())?;
            self.file.sync_data()
        };
        if let Err(source) = write() {
            // What was written of the line is cut off; if even that fails, the next open sees a torn last line.
            self.file.set_len(self.good).ok();
            self.length = self.file.metadata().map_or(self.good, |file| file.len());
            return Err(LedgerError::Io { path: self.path.clone(), action: "append to", source });
        }
        self.good += line.len() as u64;
        self.length = self.good;
        self.end = end_of(line.as_bytes());
        self.seq += 1;
        self.chain = chain;
        Ok(())
    }

    /// Refuses a file that another program wrote to: it was replaced, or has grown, shrunk, or does not end with this
    /// program's last line. Two writers would overwrite each other's answers.
    fn check_unchanged(&mut self) -> Result<(), LedgerError> {
        let io = |source| LedgerError::Io { path: self.path.clone(), action: "append to", source };
        let changed = |found: String| Err(LedgerError::Changed { path: self.path.clone(), found });
        if !is_at(&self.file, &self.path).map_err(io)? {
            return changed("it is gone, or another file stands in its place".to_owned());
        }
        let length = self.file.metadata().map_err(io)?.len();
        if length != self.length {
            return changed(format!("it has {length} bytes, and had {} after line {}", self.length, self.seq));
        }
        let mut found = vec![0; self.end.len()];
        let mut read = || -> io::Result<()> {
            self.file.seek(SeekFrom::Start(self.good.saturating_sub(found.len() as u64)))?;
            self.file.read_exact(&mut found)
        };
        read().map_err(io)?;
        match found == self.end {
            true => Ok(()),
            false => changed(format!("line {} is no longer what it was", self.seq)),
        }
    }
}

/// The events of a ledger that is only read, all of it checked; a torn last line is left out.
///
/// # Errors
/// As [`Ledger::open`].
pub fn read_events(path: &Path) -> Result<Vec<Event>, LedgerError> {
    let scan = scan(path)?;
    match scan.broken {
        Some((line, reason)) => Err(LedgerError::Line { path: path.to_owned(), line, reason }),
        None => Ok(scan.events),
    }
}

/// An event without NaN and infinities: JSON has no word for them, and the line could not be read again.
fn finite(event: &Event) -> Event {
    let mut event = event.clone();
    if let Event::Answer(Answer { why, seconds, .. }) = &mut event {
        *seconds = seconds.filter(|seconds| seconds.is_finite());
        *why = why.filter(|why| why.disagreement.is_finite() && why.entropy.is_finite());
    }
    event
}

impl Mark {
    /// What a ledger holds from before session, or exchange, number `sessions`.
    ///
    /// # Errors
    /// When it cannot be read, or a line among these is not an event at all.
    pub fn of(path: &Path, sessions: u64) -> Result<Self, LedgerError> {
        let mut mark = Self { lines: 0, chain: Some(GENESIS.to_owned()) };
        // A line without its end is being written, and takes effect later.
        for line in read(path)?.split_inclusive(|&b| b == b'\n').filter(|line| line.ends_with(b"\n")) {
            let parsed = std::str::from_utf8(line).map_err(|error| error.to_string()).and_then(parse_line);
            let (event, _, chain) =
                parsed.map_err(|reason| LedgerError::Line { path: path.to_owned(), line: mark.lines + 1, reason })?;
            if event.session() >= sessions {
                break;
            }
            mark = Self { lines: mark.lines + 1, chain: Some(chain) };
        }
        Ok(mark)
    }

    /// Checks that a ledger begins with what a checkpoint has seen; more may follow.
    ///
    /// # Errors
    /// [`LedgerError::Behind`] and [`LedgerError::Other`].
    pub fn check(&self, path: &Path, checkpoint: &str) -> Result<(), LedgerError> {
        let Self { lines: seen, chain: expected } = self;
        let behind = |lines| LedgerError::Behind {
            path: path.to_owned(),
            lines,
            checkpoint: checkpoint.to_owned(),
            seen: *seen,
        };
        if *seen == 0 {
            return Ok(());
        }
        if !path.exists() {
            return Err(behind(None));
        }
        let text = read(path)?;
        let lines: Vec<&[u8]> = text.split_inclusive(|&b| b == b'\n').filter(|line| line.ends_with(b"\n")).collect();
        let last = usize::try_from(*seen).ok().and_then(|seen| lines.get(seen - 1));
        let Some(last) = last else { return Err(behind(Some(lines.len() as u64))) };
        let Some(expected) = expected else { return Ok(()) };
        let found = std::str::from_utf8(last).map_err(|error| error.to_string()).and_then(parse_line);
        match found {
            Ok((_, _, found)) if found == *expected => Ok(()),
            found => Err(LedgerError::Other {
                path: path.to_owned(),
                line: *seen,
                checkpoint: checkpoint.to_owned(),
                expected: expected.clone(),
                found: found.map_or_else(|_| "of no event".to_owned(), |(_, _, found)| found),
            }),
        }
    }
}

/// The first line that is not as it was written, and how; `None` when the chain is whole. A torn last line counts.
///
/// # Errors
/// When the file cannot be read.
pub fn first_difference(path: &Path) -> Result<Option<(u64, String)>, LedgerError> {
    let scan = scan(path)?;
    let torn = scan.torn.then(|| (scan.events.len() as u64 + 1, "torn".to_owned()));
    Ok(scan.broken.or(torn))
}

/// The events of a ledger, whether or not its chain holds.
///
/// # Errors
/// When it cannot be read, or a line is not an event at all.
pub fn read_events_unchecked(path: &Path) -> Result<Vec<Event>, LedgerError> {
    let text = read(path)?;
    let parse = |(i, line): (usize, &str)| {
        let bad = |reason| LedgerError::Line { path: path.to_owned(), line: i as u64 + 1, reason };
        parse_line(line).map(|(event, ..)| event).map_err(bad)
    };
    String::from_utf8_lossy(&text).lines().enumerate().map(parse).collect()
}

/// The answers in force, in the order of their queries: after undoing (which leaves a "skip") and relabelling.
#[must_use]
pub fn answers(events: &[Event]) -> Vec<Answer> {
    let mut answers: Vec<Answer> = Vec::new();
    for event in events {
        let (query, label) = match event {
            Event::Answer(answer) => {
                answers.push(answer.clone());
                continue;
            }
            Event::Undo { query, .. } => (query, Label::Skip),
            Event::Relabel { query, label, .. } => (query, *label),
        };
        answers.iter_mut().filter(|a| a.query == *query).for_each(|a| a.label = label);
    }
    answers
}

/// Queries whose answer was undone and not given again, in the order in which that happened: they are asked again.
#[must_use]
pub fn undone(events: &[Event]) -> Vec<u64> {
    let mut undone: Vec<u64> = Vec::new();
    for event in events {
        match event {
            Event::Answer(_) => {}
            Event::Undo { query, .. } => {
                undone.retain(|other| other != query);
                undone.push(*query);
            }
            Event::Relabel { query, .. } => undone.retain(|other| other != query),
        }
    }
    undone
}

impl Event {
    /// Session, or exchange, in which it takes effect.
    #[must_use]
    pub fn session(&self) -> u64 {
        match self {
            Self::Answer(Answer { session, .. }) | Self::Undo { session, .. } | Self::Relabel { session, .. } => {
                *session
            }
        }
    }
}

struct Scan {
    events: Vec<Event>,
    good: u64,
    length: u64,
    end: Vec<u8>,
    chain: String,
    torn: bool,
    broken: Option<(u64, String)>,
}

fn scan(path: &Path) -> Result<Scan, LedgerError> {
    let bytes = read(path)?;
    let length = bytes.len() as u64;
    let (events, chain) = (Vec::new(), GENESIS.to_owned());
    let mut scan = Scan { events, good: 0, length, end: Vec::new(), chain, torn: false, broken: None };
    for (i, line) in bytes.split_inclusive(|&b| b == b'\n').enumerate() {
        let Some(content) = line.strip_suffix(b"\n") else {
            scan.torn = true;
            break;
        };
        let number = i as u64 + 1;
        match check_line(content, i as u64, &scan.chain) {
            Ok((event, chain)) => {
                scan.events.push(event);
                scan.chain = chain;
                scan.good += line.len() as u64;
                scan.end = end_of(line);
            }
            Err(reason) => {
                scan.broken = Some((number, reason));
                break;
            }
        }
    }
    Ok(scan)
}

/// The end of a line, with its chain, which stands for everything before it.
fn end_of(line: &[u8]) -> Vec<u8> {
    line[line.len().saturating_sub(24)..].to_vec()
}

fn read(path: &Path) -> Result<Vec<u8>, LedgerError> {
    std::fs::read(path).map_err(|source| LedgerError::Io { path: path.to_owned(), action: "read", source })
}

fn check_line(line: &[u8], seq: u64, chain: &str) -> Result<(Event, String), String> {
    let text = std::str::from_utf8(line).map_err(|_| "not UTF-8 text; expected a JSON object".to_owned())?;
    // What editors, git and file transfers do to a file whose content nobody meant to change.
    if text.ends_with('\r') {
        let reason = "ends with CR LF, but was written with LF: a program changed the line endings. Change them back \
                      (sed -i 's/\\r$//' FILE, or dos2unix FILE), and the chain holds again";
        return Err(reason.to_owned());
    }
    if text.starts_with('\u{feff}') {
        let reason = "begins with a byte-order mark that a program put there: save the file as UTF-8 without one, and \
                      the chain holds again";
        return Err(reason.to_owned());
    }
    let (event, found_seq, found_chain) = parse_line(text)?;
    if found_seq != seq {
        return Err(format!("has seq {found_seq}, expected {seq}: a line was removed or added before it"));
    }
    let (expected_line, expected_chain) = write_line(&event, seq, chain);
    if found_chain == expected_chain && expected_line.trim_end() != text {
        let reason = "says what was written, but in another spelling (spaces, or the order of its fields): a program \
                      wrote it anew. Put back the file as the run wrote it";
        return Err(reason.to_owned());
    }
    if found_chain != expected_chain {
        return Err(format!(
            "was changed after it was written (its chain is {found_chain}, its content gives {expected_chain})"
        ));
    }
    Ok((event, expected_chain))
}

fn parse_line(text: &str) -> Result<(Event, u64, String), String> {
    let mut object: Map<String, Value> = serde_json::from_str(text).map_err(|e| format!("not a JSON object ({e})"))?;
    let seq = object.remove("seq").and_then(|v| v.as_u64()).ok_or("has no number 'seq'")?;
    let chain = object.remove("chain").and_then(|v| v.as_str().map(str::to_owned)).ok_or("has no text 'chain'")?;
    let event = serde_json::from_value(Value::Object(object)).map_err(|e| format!("not an event of a ledger ({e})"))?;
    Ok((event, seq, chain))
}

/// The line for an event, and its chain.
fn write_line(event: &Event, seq: u64, chain: &str) -> (String, String) {
    let mut object = Map::from_iter([("seq".to_owned(), Value::from(seq))]);
    if let Ok(Value::Object(fields)) = serde_json::to_value(event) {
        object.extend(fields);
    }
    let content = serde_json::to_string(&object).expect("a JSON object always serialises");
    let chain = hex(&Sha256::new_with_prefix(chain).chain_update(&content).finalize()[..8]);
    object.insert("chain".to_owned(), Value::from(chain.as_str()));
    (serde_json::to_string(&object).expect("a JSON object always serialises") + "\n", chain)
}

impl SegmentId {
    /// The first 16 hex digits of a digest, which has 8 bytes or more.
    #[must_use]
    pub fn from_digest(digest: &[u8]) -> Self {
        Self(hex(&digest[..8]))
    }
}

impl std::fmt::Display for SegmentId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Answer> for Event {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, Event, Ledger, Mark, SegmentId, answers, first_difference, undone};
    use crate::preference::{Label, Why};

    fn event(query: u64) -> Event {
        let label = if query.is_multiple_of(2) { Label::First } else { Label::Equal };
        let (first, second) = (SegmentId::from_digest(&[query as u8; 8]), SegmentId::from_digest(&[7; 8]));
        Event::Answer(Answer {
            query,
            step: 100 * query,
            session: 0,
            first,
            second,
            label,
            rater: "simulated".into(),
            why: None,
            repeat: None,
            seconds: None,
        })
    }

    fn sample(path: &std::path::Path) -> Vec<u8> {
        let mut ledger = Ledger::create(path).unwrap();
        (0..4).for_each(|query| ledger.append(&event(query)).unwrap());
        std::fs::read(path).unwrap()
    }

    #[test]
    fn a_torn_last_line_is_dropped_wherever_it_tears_and_appending_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.jsonl");
        let bytes = sample(&path);
        let last = bytes[..bytes.len() - 1].iter().rposition(|&b| b == b'\n').unwrap() + 1;
        for len in last + 1..bytes.len() {
            std::fs::write(&path, &bytes[..len]).unwrap();
            let (mut ledger, events, warnings) = Ledger::open(&path).unwrap();
            assert_eq!((events.len(), warnings.len()), (3, 1));
            assert_eq!(std::fs::read(&path).unwrap().len(), len, "opening does not touch the file");
            ledger.append(&event(3)).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
    }

    /// Two ledgers open on one file, as two programs would have them that take turns.
    #[test]
    fn a_second_writer_is_noticed_before_anything_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.jsonl");
        let bytes = sample(&path);
        let (mut first, ..) = Ledger::open(&path).unwrap();
        let (mut second, ..) = Ledger::open(&path).unwrap();
        first.append(&event(4)).unwrap();
        let written = std::fs::read(&path).unwrap();
        let refused = |ledger: &mut Ledger, what: &str| {
            let before = std::fs::read(&path).unwrap_or_default();
            let error = ledger.append(&event(5)).unwrap_err().to_string();
            assert!(error.contains(what) && error.contains("another program has changed it"), "{error}");
            assert_eq!(std::fs::read(&path).unwrap_or_default(), before, "nothing was written");
        };
        refused(&mut second, &format!("has {} bytes, and had {} after line 4", written.len(), bytes.len()));
        // Cut back, and of the same length, but with another last line.
        std::fs::write(&path, &bytes).unwrap();
        refused(&mut first, "bytes, and had");
        let aside = folder.path().join("other.jsonl");
        sample(&aside);
        Ledger::open(&aside).unwrap().0.append(&event(6)).unwrap();
        let other = std::fs::read(&aside).unwrap();
        std::fs::write(&path, &other).unwrap();
        assert_eq!(other.len(), written.len());
        refused(&mut first, "line 5 is no longer what it was");
        // Put back, it goes on; renamed over or removed, it does not.
        std::fs::write(&path, &written).unwrap();
        first.append(&event(5)).unwrap();
        std::fs::copy(&path, folder.path().join("copy")).unwrap();
        std::fs::rename(folder.path().join("copy"), &path).unwrap();
        refused(&mut first, "another file stands in its place");
        std::fs::remove_file(&path).unwrap();
        refused(&mut first, "it is gone");
    }

    #[test]
    fn any_changed_byte_is_found_in_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.jsonl");
        let bytes = sample(&path);
        assert_eq!(first_difference(&path).unwrap(), None);
        let mut line = 1;
        for i in 0..bytes.len() - 1 {
            let mut changed = bytes.clone();
            changed[i] ^= 1;
            std::fs::write(&path, &changed).unwrap();
            let found = first_difference(&path).unwrap().map(|(line, _)| line);
            assert_eq!(found, Some(line), "byte {i}");
            line += u64::from(bytes[i] == b'\n');
        }
    }

    #[test]
    fn removed_and_exchanged_lines_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.jsonl");
        let text = String::from_utf8(sample(&path)).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (order, expected) in [([0, 2, 3].as_slice(), 2), (&[0, 1, 3, 2], 3), (&[1, 2, 3], 1)] {
            let changed: String = order.iter().map(|&i: &usize| format!("{}\n", lines[i])).collect();
            std::fs::write(&path, changed).unwrap();
            assert_eq!(first_difference(&path).unwrap().map(|(line, _)| line), Some(expected));
            let error = Ledger::open(&path).unwrap_err().to_string();
            assert!(error.contains(&format!("line {expected}")), "{error}");
        }
    }

    #[test]
    fn a_ledger_that_a_program_spelled_otherwise_is_told_from_one_that_was_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.jsonl");
        let text = String::from_utf8(sample(&path)).unwrap();
        let refused = |text: String| {
            std::fs::write(&path, text).unwrap();
            Ledger::open(&path).unwrap_err().to_string()
        };
        let error = refused(text.replace('\n', "\r\n"));
        assert!(error.contains("line 1: ends with CR LF") && error.contains("sed -i 's/\\r$//' FILE"), "{error}");
        let error = refused(format!("\u{feff}{text}"));
        assert!(error.contains("line 1: begins with a byte-order mark"), "{error}");
        let error = refused(text.replace("\"query\":1", "\"query\": 1"));
        assert!(error.contains("line 2: says what was written, but in another spelling"), "{error}");
        let error = refused(text.replace("\"query\":1", "\"query\":2"));
        assert!(error.contains("line 2: was changed after it was written"), "{error}");
    }

    #[test]
    fn numbers_that_are_none_do_not_break_a_ledger() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.jsonl");
        let mut ledger = Ledger::create(&path).unwrap();
        let Event::Answer(answer) = event(0) else { panic!("an answer") };
        let why = Some(Why { disagreement: f64::NAN, entropy: 0.5 });
        ledger.append(&Event::Answer(Answer { why, seconds: Some(f64::INFINITY), ..answer })).unwrap();
        ledger.append(&event(1)).unwrap();
        assert_eq!(Ledger::open(&path).unwrap().1, [event(0), event(1)]);
    }

    #[test]
    fn a_ledger_that_lacks_what_a_checkpoint_has_seen_is_refused_with_the_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.jsonl");
        let mut ledger = Ledger::create(&path).unwrap();
        let at = |query, session| {
            let Event::Answer(answer) = event(query) else { panic!("an answer") };
            Event::Answer(Answer { session, ..answer })
        };
        (0..6).for_each(|query| ledger.append(&at(query, query / 2)).unwrap());
        let mark = Mark::of(&path, 2).unwrap();
        assert_eq!((mark.lines, Mark::of(&path, 0).unwrap().lines, Mark::of(&path, 9).unwrap().lines), (4, 0, 6));
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let check = |text: &str| {
            std::fs::write(&path, text).unwrap();
            mark.check(&path, "iteration 12").map_err(|error| error.to_string())
        };
        // What came after the checkpoint may be there or not.
        for count in 4..=6 {
            check(&lines[..count].concat()).unwrap();
        }
        check(&text[..text.len() - 3]).unwrap();
        let error = check(&lines[..3].concat()).unwrap_err();
        assert!(
            error.contains("labels.jsonl: has 3 lines, but the checkpoint of iteration 12 has seen 4 lines"),
            "{error}"
        );
        let torn = lines[..4].concat();
        assert!(check(&torn[..torn.len() - 1]).unwrap_err().contains("has 3 lines"));
        assert!(check("").unwrap_err().contains("has 0 lines, but the checkpoint"));
        std::fs::remove_file(&path).unwrap();
        assert!(mark.check(&path, "iteration 12").unwrap_err().to_string().contains("labels.jsonl: is missing, but"));

        // A whole ledger of another run.
        let mut other = Ledger::create(&path).unwrap();
        (0..5).for_each(|query| other.append(&at(query + 1, query / 2)).unwrap());
        let error = mark.check(&path, "iteration 12").unwrap_err().to_string();
        assert!(error.contains("line 4 has the chain") && error.contains("another ledger"), "{error}");
    }

    #[test]
    fn undoing_and_relabelling_are_events() {
        let relabel = Event::Relabel { query: 1, label: Label::Second, session: 9 };
        let events = [event(0), event(1), event(2), Event::Undo { query: 0, session: 9 }, relabel];
        let labels: Vec<Label> = answers(&events).iter().map(|a| a.label).collect();
        assert_eq!(labels, [Label::Skip, Label::Second, Label::First]);
        assert_eq!(undone(&events), [0]);
        let undo = |query| Event::Undo { query, session: 9 };
        let again = |query, label| Event::Relabel { query, label, session: 9 };
        assert_eq!(undone(&[event(0), event(1), undo(1), undo(0), undo(1)]), [0, 1], "the last one last");
        // "Can't tell" is an answer, and the last word.
        assert_eq!(undone(&[event(0), event(1), undo(0), undo(1), again(0, Label::Skip)]), [1]);
    }
}
