//! Long work in whole blocks, each written down before the next begins. What was done before a stop is kept, and is not done
//! again.

use std::fs;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::disk::{DiskError, text};

/// A file of lines, one for each piece of work.
pub(super) struct Blocks<'a> {
    /// The file.
    pub(super) path: &'a Path,
    /// What the work is about, as the file's first line; `None` where another file says it.
    pub(super) head: Option<&'a Value>,
    /// What is wrong with a file that begins with another head, and what to do.
    pub(super) other: &'static str,
    /// Pieces of work.
    pub(super) total: usize,
    /// Pieces of a block. A block that was cut off is done again as a whole, so that the same pieces are computed together
    /// whether the work was stopped or not.
    pub(super) size: usize,
}

impl Blocks<'_> {
    /// Does what the file does not hold yet. `read` makes a piece of its number and its line, `line` a line with its end, and
    /// `work` does a block. `done` is told how many pieces are done. Returns all pieces, or `None` when stopped.
    ///
    /// # Errors
    /// When the file is of other work or a line cannot be read; those of `work`. What was done is kept.
    pub(super) fn work<T, E: From<DiskError>>(
        &self,
        read: impl Fn(usize, &str) -> Result<T, String>,
        line: impl Fn(&T) -> String,
        stop: &AtomicBool,
        done: impl Fn(usize),
        mut work: impl FnMut(Range<usize>) -> Result<Vec<T>, E>,
    ) -> Result<Option<Vec<T>>, E> {
        let mut all = self.begun(read, &line)?;
        while all.len() < self.total {
            done(all.len());
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let new = work(all.len()..self.total.min(all.len() + self.size))?;
            text::append(self.path, &new.iter().map(&line).collect::<String>())?;
            all.extend(new);
        }
        done(self.total);
        Ok(Some(all))
    }

    /// The pieces of whole blocks. What comes after them is cut off.
    pub(super) fn begun<T>(
        &self,
        read: impl Fn(usize, &str) -> Result<T, String>,
        line: impl Fn(&T) -> String,
    ) -> Result<Vec<T>, DiskError> {
        let bytes = match fs::read(self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(DiskError::io(self.path, "read")(error)),
        };
        let wrong = |line: usize, reason: String| DiskError::Line { path: self.path.to_owned(), line, reason };
        // What follows a bad line was asked for, and paid for: it is not dropped.
        let bad = |line: usize, problem: String| {
            wrong(line, format!("{problem}: mend the line, or remove it and all below it, which are then asked again"))
        };
        // A last line without its end is torn.
        let whole = bytes.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n"));
        let mut lines = whole.map(<[u8]>::trim_ascii_end);
        let (mut text, mut first) = (String::new(), 1);
        if let Some(head) = self.head {
            if let Some(line) = lines.next() {
                let found: Value = serde_json::from_slice(line).map_err(|error| bad(1, error.to_string()))?;
                if found != *head {
                    return Err(wrong(1, self.other.to_owned()));
                }
            }
            (text, first) = (format!("{head}\n"), 2);
        }
        let mut kept = Vec::new();
        for (i, line) in lines.take(self.total).enumerate() {
            let line = std::str::from_utf8(line).map_err(|_| bad(first + i, "is not UTF-8".to_owned()))?;
            kept.push(read(i, line).map_err(|problem| bad(first + i, problem))?);
        }
        if kept.len() < self.total {
            kept.truncate(kept.len() / self.size * self.size);
        }
        text.extend(kept.iter().map(line));
        if text.as_bytes() != bytes {
            text::make_parent(self.path)?;
            text::write(self.path, &text)?;
        }
        Ok(kept)
    }
}
