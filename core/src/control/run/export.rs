//! Files made of a run to be used elsewhere: figures, films, tables, answers.

use std::path::{Path, PathBuf};

use super::error::RunError;
use super::past::PastRun;
use super::{curve, film};
use crate::control::drlhp::Report;
use crate::device;
use crate::disk::archive::write_atomically;
use crate::disk::lines::plain_line;
use crate::disk::tensorboard::scalars;
use crate::disk::text::make_parent;
use crate::disk::{DiskError, Folder, figure};
use crate::preference::ledger::{answers, read_events_unchecked};

/// What to export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Export {
    /// The learning curve as SVG.
    Figure,
    /// The learning curve as PNG.
    Picture,
    /// An episode of the newest policy as animated GIF.
    Film,
    /// Every number of every iteration as CSV; columns are named as in TensorBoard.
    Metrics,
    /// The answers in force, after undoing and relabelling, one JSON object a line.
    Labels,
}

/// Side of an exported film in pixels, were the picture square.
const FILM_SIZE: u32 = 320;

impl Export {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Figure, Self::Picture, Self::Film, Self::Metrics, Self::Labels];

    /// Name of the file in the run's folder `exports`.
    #[must_use]
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Figure => "learning-curve.svg",
            Self::Picture => "learning-curve.png",
            Self::Film => "episode.gif",
            Self::Metrics => "metrics.csv",
            Self::Labels => "labels.jsonl",
        }
    }
}

/// Writes an export into the run's folder `exports` and returns its path. An older one of the same kind is replaced.
///
/// # Errors
/// [`RunError`]; a film needs a checkpoint.
pub fn export(run: &PastRun, what: Export) -> Result<PathBuf, RunError> {
    let folder = Folder::open(&run.path)?;
    let path = run.path.join("exports").join(what.file_name());
    make_parent(&path)?;
    let bytes = match what {
        Export::Figure | Export::Picture => {
            curve::learning_curve(&path, &run.config, &run.reports)?;
            return Ok(path);
        }
        Export::Film => episode(&folder, run)?,
        Export::Metrics => csv(&run.reports).into_bytes(),
        Export::Labels => {
            let answers = answers(&read_events_unchecked(&folder.ledger())?);
            answers.iter().map(plain_line).collect::<String>().into_bytes()
        }
    };
    write_atomically(&path, &bytes).map_err(DiskError::io(&path, "export"))?;
    Ok(path)
}

fn episode(folder: &Folder, run: &PastRun) -> Result<Vec<u8>, RunError> {
    let device = device::pick(run.config.device)?;
    let newest = folder.newest_state(&device, &mut |_| {})?;
    let missing = "a readable checkpoint (let it train on, or press Checkpoint); it";
    let (run, _) = newest.ok_or_else(|| DiskError::NotARun { path: folder.path.clone(), missing })?;
    Ok(film::episode(&run.config.env, &run.agent, run.config.seed, FILM_SIZE)?.bytes)
}

/// A table with a row for each report. A number that some reports do not have is an empty field there.
fn csv(reports: &[Report]) -> String {
    let rows: Vec<Vec<(String, f64)>> = reports.iter().map(scalars).collect();
    let mut columns: Vec<&str> = Vec::new();
    for (name, _) in rows.iter().flatten() {
        if !columns.contains(&name.as_str()) {
            columns.push(name);
        }
    }
    let mut table = columns.join(",") + "\n";
    for row in &rows {
        let value =
            |column: &&str| row.iter().find(|(name, _)| name == column).map_or(String::new(), |v| v.1.to_string());
        table += &(columns.iter().map(value).collect::<Vec<_>>().join(",") + "\n");
    }
    table
}

/// Writes several runs' curves into one figure: PNG if `path` ends in `.png`, else SVG.
///
/// # Errors
/// When the file cannot be written.
pub fn comparison(path: &Path, unit: &str, series: &[figure::Series]) -> Result<(), DiskError> {
    let title = format!("{unit}: interquartile mean over seeds, 95 % interval");
    figure::curves(path, &title, ["environment steps", unit], series)
}

#[cfg(test)]
mod tests {
    use super::csv;
    use crate::control::drlhp::Report;

    #[test]
    fn a_table_has_every_number_under_its_name() {
        let first = Report { iteration: 0, env_steps: 100, ..Report::default() };
        let second = Report { iteration: 1, env_steps: 200, true_return: Some(-3.5), ..Report::default() };
        let table = csv(&[first, second]);
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split(',').collect()).collect();
        let column = |name: &str| lines[0].iter().position(|found| *found == name).unwrap();
        assert!(lines.iter().all(|line| line.len() == lines[0].len()));
        assert_eq!([lines[1][column("env_steps")], lines[2][column("env_steps")]], ["100", "200"]);
        assert_eq!([lines[1][column("true_return")], lines[2][column("true_return")]], ["", "-3.5"]);
    }
}
