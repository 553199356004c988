//! The folder of a teaching session.
//!
//! ```text
//! runs/<name>/
//!   config.toml        resolved configuration
//!   labels.jsonl       the ledger
//!   completions.jsonl  what every question showed
//!   metrics.jsonl      one report for each update
//!   checkpoints/       update-00000012.safetensors: the policy and its optimiser
//!   model/             the policy as a Hugging Face folder
//!   summary.json       where the session stands
//! ```
//!
//! The ledger, the configuration and the model to begin with decide everything. The other files follow from them, and
//! exist to save time, or to be read. A file that is torn or missing is made again.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use burn::tensor::Device;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Doing, Lesson, Material, REVIEWS, TeachConfig, TeachQuestion, TeachReport, ask, begin, due, update};
use crate::disk::archive::Archive;
use crate::disk::changes::{CONFIGURATION, fits_configuration};
use crate::disk::{Clock, DiskError, Folder, lines, shown, text};
use crate::lm::error::LmError;
use crate::lm::open::{asked_date, weights_sha256};
use crate::lm::run::checkpoint::{checkpoints, newest_checkpoint, put, save, take};
use crate::lm::run::{LmProgress, read_checked};
use crate::preference::ledger::{Ledger, MARK, Mark, answers};
use crate::preference::{Event, Label};

/// A session and its folder.
pub struct TeachSession {
    /// The folder.
    pub folder: Folder,
    /// What stays the same during the session.
    pub material: Material,
    /// What changes during the session.
    pub lesson: Lesson,
    /// The report of the start, and a report for each update.
    pub reports: Vec<TeachReport>,
    clock: Clock,
    /// Optimiser steps and updates at the last checkpoint.
    saved: Option<(usize, usize)>,
}

/// Where a session stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TeachSummary {
    /// Seed.
    pub seed: u64,
    /// Questions answered or skipped that have taken effect.
    pub answered: usize,
    /// Answers that are trained on.
    pub used: usize,
    /// Updates made.
    pub updates: usize,
    /// Optimiser steps taken.
    pub steps: usize,
    /// The report of the start.
    pub start: TeachReport,
    /// The report of the policy.
    pub end: TeachReport,
    /// Wall-clock seconds, summed over interruptions.
    pub wall_seconds: f64,
    /// CPU seconds of the process, summed over interruptions, too; `None` where the system does not tell.
    pub cpu_seconds: Option<f64>,
    /// SHA-256 of the parameters that are trained.
    pub weights_sha256: String,
    /// Folder of the policy.
    #[serde(serialize_with = "shown")]
    pub model: PathBuf,
    /// The session's folder.
    #[serde(serialize_with = "shown")]
    pub run_dir: PathBuf,
}

/// Makes the folder of a new session.
///
/// # Errors
/// When the configuration cannot be used, or something is there already.
pub fn create(path: &Path, config: &TeachConfig) -> Result<Folder, LmError> {
    let mut config = config.clone();
    if config.template_date.is_none() && config.prompts != Path::new(REVIEWS) {
        config.template_date = asked_date(&config.model, None);
    }
    config.validate()?;
    let folder = Folder::create_with(path, &config.to_toml())?;
    Ledger::create(&folder.ledger())?;
    Ok(folder)
}

/// The configuration of a session's folder.
///
/// # Errors
/// When it is missing or torn, or belongs to another kind of run.
pub fn read_config(path: &Path) -> Result<TeachConfig, LmError> {
    read_checked(path, TeachConfig::validate)
}

/// Whether a folder holds a session.
#[must_use]
pub fn is_session(path: &Path) -> bool {
    path.join(LEDGER).is_file() && read_config(path).is_ok()
}

/// The questions in a session's folder. Lines that cannot be read are left out; opening the session tells of them.
#[must_use]
pub fn questions(path: &Path) -> Vec<TeachQuestion> {
    all(&path.join(QUESTIONS), &|_| ())
}

/// The reports in a session's folder. Lines that cannot be read are left out, as in [`questions`].
#[must_use]
pub fn reports(path: &Path) -> Vec<TeachReport> {
    all(&path.join(METRICS), &|_| ())
}

const LEDGER: &str = "labels.jsonl";
const QUESTIONS: &str = "completions.jsonl";
const METRICS: &str = "metrics.jsonl";

impl TeachSession {
    /// Reads a session from its claimed folder as it was at its newest checkpoint, or at its start, with its ledger and
    /// all events in it. [`TeachSession::catch_up`] has to follow. `warn` is told which damaged files are made again.
    ///
    /// # Errors
    /// When the model, the prompts, the configuration or the ledger cannot be used.
    ///
    /// # Panics
    /// When the folder is not claimed.
    pub fn open(
        folder: &Folder,
        device: &Device,
        warn: &(dyn Fn(String) + Sync),
    ) -> Result<(Self, Ledger, Vec<Event>), LmError> {
        folder.assert_claimed();
        let path = &folder.path;
        let material = Material::read(&read_config(path)?, device)?;
        let mut questions: Vec<TeachQuestion> = all(&path.join(QUESTIONS), warn);
        let mut reports: Vec<TeachReport> = all(&path.join(METRICS), warn);
        // All lines after a missing or bad line are made again.
        questions.truncate(questions.iter().zip(0..).take_while(|(question, i)| question.query == *i).count());
        reports.truncate(reports.iter().enumerate().take_while(|(i, report)| report.updates == *i).count());
        let mut lesson = Lesson::new(&material);
        let mut clock = Clock::new();
        let show = |progress: LmProgress<'_>| {
            if let LmProgress::Note(note) = progress {
                warn(note.to_owned());
            }
        };
        let newest = newest_checkpoint(path, &show)?;
        if let Some((checkpoint, archive)) = &newest {
            fits_configuration(archive, checkpoint, std::slice::from_ref(&material.config), None)?;
            if archive.meta.contains_key(MARK) {
                let mark: Mark = archive.get(MARK)?;
                let update: usize = archive.get("updates")?;
                mark.check(&folder.ledger(), &format!("update {update}"))?;
            }
        }
        if !folder.ledger().exists() {
            // The program was killed after it wrote the configuration, and before it wrote the ledger.
            Ledger::create(&folder.ledger())?;
        }
        let (ledger, events, torn) = Ledger::open(&folder.ledger())?;
        torn.iter().for_each(|torn| warn(torn.to_string()));
        let mut saved = None;
        if let Some((_, archive)) = newest {
            let asked: usize = archive.get("questions")?;
            let updates: usize = archive.get("updates")?;
            if questions.len() >= asked && reports.len() > updates {
                take(&archive, "", &mut lesson.trainee)?;
                lesson.updates = updates;
                lesson.drawn = archive.get("drawn")?;
                questions.truncate(asked);
                reports.truncate(updates + 1);
                lesson.questions = std::mem::take(&mut questions).into_iter().map(Arc::new).collect();
                let effective: Vec<Event> =
                    events.iter().filter(|event| event.session() < updates as u64).cloned().collect();
                lesson.labels = answers(&effective).iter().map(|answer| (answer.query, answer.label)).collect();
                clock = Clock::start(archive.get("wall_seconds")?, archive.get("cpu_seconds")?);
                saved = Some((lesson.trainee.step, updates));
            } else {
                warn(format!("{}: lines are missing, so the session is repeated from its start", path.display()));
            }
        }
        if saved.is_none() {
            reports = vec![begin(&material)?];
        }
        write_lines(&path.join(QUESTIONS), lesson.questions.iter().map(AsRef::as_ref))?;
        write_lines(&path.join(METRICS), reports.iter())?;
        Ok((Self { folder: folder.clone(), material, lesson, reports, clock, saved }, ledger, events))
    }

    /// Repeats what the ledger says, and asks new questions. Returns the events that take effect in the next update and
    /// are not enough for it yet; `None` when it was stopped.
    ///
    /// # Errors
    /// Errors of [`ask`] and [`update`], and of the file system.
    pub fn catch_up(
        &mut self,
        events: &[Event],
        stop: &AtomicBool,
        show: &dyn Fn(&Self, Doing),
    ) -> Result<Option<Vec<Event>>, LmError> {
        loop {
            show(self, Doing::Writing);
            if self.ask(stop)?.is_none() {
                return Ok(None);
            }
            let now = self.lesson.updates as u64;
            let present: Vec<Event> = events.iter().filter(|event| event.session() == now).cloned().collect();
            let later = events.iter().any(|event| event.session() > now);
            if !later && !due(&self.lesson, &self.material, &present) {
                return Ok(Some(present));
            }
            if !self.update(&present, stop, show)? {
                return Ok(None);
            }
        }
    }

    /// Asks new questions until enough are open, and writes them down. Returns `None` when it was stopped.
    ///
    /// # Errors
    /// Errors of [`ask`], and of the file system.
    pub fn ask(&mut self, stop: &AtomicBool) -> Result<Option<Vec<Arc<TeachQuestion>>>, LmError> {
        let asked = ask(&mut self.lesson, &self.material, stop)?;
        append(&self.folder.path.join(QUESTIONS), asked.iter().flatten().map(AsRef::as_ref))?;
        Ok(asked)
    }

    /// Lets events take effect, and writes down the report. Returns false when it was stopped.
    ///
    /// # Errors
    /// Errors of [`update`], and of the file system.
    pub fn update(
        &mut self,
        events: &[Event],
        stop: &AtomicBool,
        show: &dyn Fn(&Self, Doing),
    ) -> Result<bool, LmError> {
        // While it updates, the session from before the update is shown.
        let mut lesson = self.lesson.clone();
        let report = update(&mut lesson, &self.material, events, stop, &|doing| show(self, doing))
            .map_err(|error| error.with_checkpoint(|| checkpoints(&self.folder.path).pop()))?;
        let Some(report) = report else { return Ok(false) };
        self.lesson = lesson;
        append(&self.folder.path.join(METRICS), [&report].into_iter())?;
        self.reports.push(report);
        let every = self.material.config.checkpoint_every;
        if every > 0 && self.lesson.updates.is_multiple_of(every) {
            self.checkpoint()?;
        }
        Ok(true)
    }

    /// Writes a checkpoint, the model and a summary.
    ///
    /// # Errors
    /// Errors of the file system. What was saved before is kept.
    pub fn save(&mut self) -> Result<TeachSummary, LmError> {
        let model = self.folder.path.join("model");
        self.checkpoint()?;
        crate::lm::folder::write(&self.lesson.trainee.model, Some(&self.material.base), &model)?;
        self.material.tokenizer.save(&model)?;
        let [Some(start), Some(end)] = [self.reports.first(), self.reports.last()].map(|report| report.cloned()) else {
            unreachable!("a session begins with a report of its start");
        };
        let summary = TeachSummary {
            seed: self.material.config.seed,
            answered: self.lesson.labels.len(),
            used: self.lesson.labels.values().filter(|label| **label != Label::Skip).count(),
            updates: self.lesson.updates,
            steps: self.lesson.trainee.step,
            start,
            end,
            wall_seconds: self.clock.wall(),
            cpu_seconds: self.clock.cpu(),
            weights_sha256: weights_sha256(&self.lesson.trainee.model),
            model,
            run_dir: self.folder.path.clone(),
        };
        text::write(&self.folder.path.join("summary.json"), &lines::pretty(&summary))?;
        Ok(summary)
    }

    /// Writes a checkpoint if something was learned since the last one.
    fn checkpoint(&mut self) -> Result<(), LmError> {
        let now = (self.lesson.trainee.step, self.lesson.updates);
        // Before the first step there is nothing to keep: the start is made quickly.
        if now.0 == 0 || self.saved == Some(now) {
            return Ok(());
        }
        let mut archive = Archive::default();
        put(&mut archive, "", &mut self.lesson.trainee);
        archive.put("updates", &self.lesson.updates);
        archive.put("drawn", &self.lesson.drawn);
        archive.put("questions", &self.lesson.questions.len());
        archive.put(CONFIGURATION, &self.material.config.to_toml());
        let mark = Mark::of(&self.folder.ledger(), self.lesson.updates as u64)?;
        archive.put(MARK, &mark);
        // The name counts updates, because an update in which all was skipped takes no step.
        let name = format!("update-{:08}.safetensors", self.lesson.updates);
        save(&self.folder.path, &name, archive, &self.clock)?;
        self.saved = Some(now);
        Ok(())
    }
}

/// The values in the lines of a file. `warn` is told of lines that cannot be read. All of it follows from the ledger,
/// so a file that cannot be read at all counts as missing.
fn all<T: DeserializeOwned>(path: &Path, warn: &dyn Fn(String)) -> Vec<T> {
    let read = lines::read(path).unwrap_or_else(|error| {
        warn(format!("{}: {error}; made again", path.display()));
        Vec::new()
    });
    let (values, bad) = lines::split(read);
    bad.iter().for_each(|bad| warn(format!("{bad}; made again")));
    values
}

fn write_lines<'a, T: Serialize + 'a>(path: &Path, values: impl Iterator<Item = &'a T>) -> Result<(), LmError> {
    Ok(text::write(path, &joined(values))?)
}

fn append<'a, T: Serialize + 'a>(path: &Path, values: impl Iterator<Item = &'a T>) -> Result<(), LmError> {
    let write = || OpenOptions::new().append(true).open(path)?.write_all(joined(values).as_bytes());
    Ok(write().map_err(DiskError::io(path, "append to"))?)
}

fn joined<'a, T: Serialize + 'a>(values: impl Iterator<Item = &'a T>) -> String {
    values.map(lines::line).collect()
}
