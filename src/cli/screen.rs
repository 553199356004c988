//! What the program says: results on stdout, everything else on stderr.
//!
//! Whoever reads may leave before the program ends (`… | head -1`), close a stream (`2>&-`) or have a full disk
//! (`2>/dev/full`). Work goes on all the same: no result is lost because nobody listens to remarks. `println!` and
//! `eprintln!` would end the program by a panic there; clippy refuses them everywhere but in tests.

use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::sync::OnceLock;

use serde::Serialize;

use super::failure::Failure;
use crate::disk::archive::write_atomically;
use crate::disk::lines::finite;

/// Why something did not arrive on stdout.
static LOST: OnceLock<String> = OnceLock::new();

/// Prints a line to stdout.
pub(crate) fn print_line(line: &str) {
    print_text(&format!("{line}\n"));
}

/// Prints a text to stdout, so that it is seen at once.
pub(crate) fn print_text(text: &str) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush())
        // Whoever read has left, and has what they wanted.
        && error.kind() != ErrorKind::BrokenPipe
    {
        LOST.get_or_init(|| error.to_string());
    }
}

/// Prints one JSON object as the last line of stdout; what is undefined is left out, as in files.
pub(crate) fn print_json(value: &impl Serialize) {
    print_line(&finite(value).to_string());
}

/// Why not all of stdout arrived, in words; `None` where it did, or where nobody wants more of it.
pub(super) fn lost() -> Option<&'static str> {
    LOST.get().map(String::as_str)
}

/// Writes lines to a file, or without one to the screen., or without one to the screen.
pub(crate) fn write_or_print(out: Option<&Path>, lines: &str) -> Result<(), Failure> {
    match out {
        Some(path) => write(path, lines)?,
        None => lines.lines().for_each(print_line),
    }
    Ok(())
}

/// Writes a file whole.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), Failure> {
    write_atomically(path, text.as_bytes()).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

/// Prints a line to stderr. Where it cannot be read, nobody misses it.
pub(crate) fn remark(line: &str) {
    std::io::stderr().lock().write_all(format!("{line}\n").as_bytes()).ok();
}

/// Prints a line to stderr that says what to know of what was given.
pub(crate) fn note(text: &str) {
    remark(&format!("note: {text}"));
}

/// Prints a line to stderr that says what is damaged, or left out.
pub(crate) fn warn(text: &str) {
    remark(&format!("warning: {text}"));
}

/// Prints a text to stderr, as the beginning of a line that a person goes on with.
pub(crate) fn ask(text: &str) {
    let mut out = std::io::stderr().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).ok();
}

/// Prints a table to stdout; a column is as wide as its widest cell.
pub(crate) fn print_table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    let head = head.iter().map(|&cell| cell.to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        print_line(cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

/// A number, or a dash where it is not known.
pub(crate) fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
}

/// A mean over seeds with its interval, which a single seed does not have.
pub(crate) fn over_seeds(mean: Option<f64>, interval: Option<[f64; 2]>) -> String {
    let interval = interval.filter(|_| mean.is_some()).map(|[low, high]| format!(" [{low:.3}, {high:.3}]"));
    number(mean, 3) + &interval.unwrap_or_default()
}

/// A deviation beside its mean, where there is one.
pub(crate) fn plus_minus(deviation: Option<f64>, digits: usize) -> String {
    deviation.map_or_else(String::new, |deviation| format!(" ± {deviation:.digits$}"))
}

/// Shares of a mix.
pub(crate) fn shares(weights: &[f64]) -> String {
    weights.iter().map(|weight| format!("{weight:.2}")).collect::<Vec<_>>().join("/")
}

/// A path in a result. JSON holds UTF-8 only, and paths need not be: what is none has the replacement character.
pub(crate) fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::{number, over_seeds};

    #[test]
    fn one_seed_shows_no_interval_and_what_is_not_known_no_number() {
        assert_eq!(over_seeds(Some(0.5), Some([0.25, 1.0])), "0.500 [0.250, 1.000]");
        assert_eq!((over_seeds(Some(0.5), None), over_seeds(None, None)), ("0.500".to_owned(), number(None, 3)));
    }
}
