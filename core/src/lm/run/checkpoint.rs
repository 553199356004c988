//! What a run leaves on disk while it goes on: checkpoints and metrics.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::course::Course;
use super::outcome::{LmProgress, Show};
use crate::disk::archive::{Archive, write_atomically};
use crate::disk::changes::{self, CONFIGURATION};
use crate::disk::tensorboard::EventFile;
use crate::disk::{Clock, DiskError, lines, text};
use crate::lm::error::LmError;
use crate::lm::optim::Optimizer;
use crate::lm::train::Trainee;
use crate::nn::{constant, to_host};

/// A run's metrics, as lines of JSON and as TensorBoard events.
pub(super) struct Log {
    path: PathBuf,
    events: EventFile,
}

/// How many checkpoints are kept: the newest, and the one before it in case the newest is torn.
const KEPT: usize = 2;

/// Writes the checkpoint of a run after so many steps.
pub(super) fn write_checkpoint(
    course: &Course<'_>,
    mut archive: Archive,
    step: usize,
    clock: &Clock,
    tokens: u64,
) -> Result<(), LmError> {
    archive.put("step", &step);
    archive.put("tokens", &tokens);
    archive.put(CONFIGURATION, &course.config.to_toml());
    changes::note(&mut archive, course.seen());
    save(course.run, &format!("step-{step:08}.safetensors"), archive, clock)
}

/// Writes the newest checkpoint of a run or session, with the times, and removes the oldest ones.
pub(crate) fn save(run: &Path, name: &str, mut archive: Archive, clock: &Clock) -> Result<(), LmError> {
    archive.put("wall_seconds", &clock.wall());
    archive.put("cpu_seconds", &clock.cpu());
    let path = run.join("checkpoints").join(name);
    // Numbers that are not finite are found where they arise. If one slips through, no good checkpoint may be lost.
    archive.check_finite(&path, &[])?;
    text::make_parent(&path)?;
    archive.save(&path)?;
    for old in checkpoints(run).into_iter().rev().skip(KEPT) {
        // A checkpoint that cannot be removed harms nothing.
        let _ = fs::remove_file(old);
    }
    Ok(())
}

/// Puts a model in training into a checkpoint. `prefix` stands before the names of all entries.
pub fn put(archive: &mut Archive, prefix: &str, trainee: &mut Trainee) {
    let names = trainee.model.trained_names();
    for (name, tensor) in names.iter().zip(trainee.model.trained_mut()) {
        archive.put_f32(format!("{prefix}{name}"), &tensor.dims(), &to_host(tensor.clone()));
    }
    for (name, moments) in names.iter().zip(&trainee.optimizer.moments) {
        for (i, tensor) in moments.iter().enumerate() {
            archive.put_f32(format!("{prefix}optimizer.{i}.{name}"), &tensor.dims(), &to_host(tensor.clone()));
        }
    }
    archive.put(&format!("{prefix}optimizer_steps"), &trainee.optimizer.steps);
    archive.put(&format!("{prefix}trainee_step"), &trainee.step);
}

/// Reads a model in training from a checkpoint, as [`put`] wrote it.
pub fn take(archive: &Archive, prefix: &str, trainee: &mut Trainee) -> Result<(), LmError> {
    let device = trainee.model.device();
    let names = trainee.model.trained_names();
    let mut moments = Vec::with_capacity(names.len());
    for (name, tensor) in names.iter().zip(trainee.model.trained_mut()) {
        let shape = tensor.dims();
        *tensor = constant(&archive.f32(&format!("{prefix}{name}"), &shape)?, shape, &device);
        let moment = |i: usize| -> Result<_, LmError> {
            let name = format!("{prefix}optimizer.{i}.{name}");
            let values = archive.f32_any(&name)?;
            // An optimiser keeps a number for each weight, row or column of the parameter, or none.
            let shapes = [shape, [shape[0], 1], [1, shape[1]], [1, 1]];
            let fits = shapes.into_iter().find(|shape| archive.f32(&name, shape).is_ok()).unwrap_or(shape);
            Ok(constant(&values, fits, &device))
        };
        moments.push([moment(0)?, moment(1)?]);
    }
    trainee.optimizer = Optimizer { steps: archive.get(&format!("{prefix}optimizer_steps"))?, moments };
    trainee.step = archive.get(&format!("{prefix}trainee_step"))?;
    Ok(())
}

/// The newest checkpoint that is whole, and where it is.
pub(crate) fn newest_checkpoint(run: &Path, show: &Show<'_>) -> Result<Option<(PathBuf, Archive)>, LmError> {
    for path in checkpoints(run).into_iter().rev() {
        match Archive::load(&path).and_then(|all| all.check_finite(&path, &[]).map(|()| all)) {
            Ok(archive) => return Ok(Some((path, archive))),
            Err(error) => show(LmProgress::Note(&format!("{error}; trying the one before it"))),
        }
    }
    Ok(None)
}

/// Checkpoints, oldest first.
pub(crate) fn checkpoints(run: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(run.join("checkpoints")) else { return Vec::new() };
    let mut all: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    all.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    all.sort();
    all
}

impl Log {
    /// Opens both files. Lines of steps that will be taken again, and a torn last line, are removed. Other lines that
    /// cannot be read stay as they are, and `show` receives a remark.
    pub(super) fn open(run: &Path, step: usize, show: &Show<'_>) -> Result<Self, LmError> {
        let path = run.join("metrics.jsonl");
        let all = lines::read::<Logged>(&path).map_err(DiskError::io(&path, "read metrics"))?;
        for bad in all.iter().filter_map(|line| line.value.as_ref().err()) {
            show(LmProgress::Note(&format!("{bad}; {}", if bad.torn { "dropped" } else { "left as it is" })));
        }
        let kept = lines::until(all, step as u64, |line| line.step);
        write_atomically(&path, &lines::join(&kept)).map_err(DiskError::io(&path, "write metrics"))?;
        let mut events = EventFile::create(&run.join("tb"))?;
        for line in lines::split(kept).0 {
            events.append_scalars(line.step, &scalars(line.step, &line.values))?;
        }
        Ok(Self { path, events })
    }

    pub(super) fn write(&mut self, step: usize, values: Map<String, Value>) -> Result<(), LmError> {
        let events = scalars(step as u64, &values);
        let mut line = Map::from_iter([("step".to_owned(), json!(step))]);
        line.extend(values);
        let text = lines::line(&line);
        let append = || OpenOptions::new().append(true).open(&self.path)?.write_all(text.as_bytes());
        append().map_err(DiskError::io(&self.path, "write metrics"))?;
        Ok(self.events.append_scalars(step as u64, &events)?)
    }
}

/// A line of `metrics.jsonl`.
#[derive(Debug, Deserialize)]
struct Logged {
    step: u64,
    #[serde(flatten)]
    values: Map<String, Value>,
}

fn scalars(step: u64, values: &Map<String, Value>) -> Vec<(String, f64)> {
    let step = std::iter::once(("step".to_owned(), step as f64));
    step.chain(values.iter().filter_map(|(name, value)| Some((name.clone(), value.as_f64()?)))).collect()
}
