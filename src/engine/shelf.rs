//! What language models a folder of runs holds: models to begin with, teaching sessions, and frontiers.

use std::fmt::Display;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::disk::figure::Series;
use crate::disk::{Damaged, configuration, lines};
use crate::lm::config::{ModelConfig, Output};
use crate::lm::run::{self, StageKind};
use crate::lm::teach::folder::{read_config, reports};
use crate::lm::teach::{TeachConfig, TeachReport as Report};
use crate::preference::ledger::read_events;
use crate::studies::frontier::{Frontier, LARGEST_KL, Method, series};

/// Everything that was found, the newest first.
#[derive(Debug, Clone, Default)]
pub struct Shelf {
    /// Models that write, with a tokenizer.
    pub models: Vec<ShelfModel>,
    /// Pre-training that was stopped before its end.
    pub unfinished: Vec<PathBuf>,
    /// Teaching sessions.
    pub sessions: Vec<PastSession>,
    /// Frontiers.
    pub frontiers: Vec<Arc<FrontierCurves>>,
    /// What cannot be read, by path.
    pub damaged: Vec<Damaged>,
}

/// A model's folder.
#[derive(Debug, Clone, PartialEq)]
pub struct ShelfModel {
    /// The folder.
    pub path: PathBuf,
    /// Its name below the folder of runs.
    pub name: String,
    /// Parameters.
    pub parameters: usize,
    changed: SystemTime,
}

/// A teaching session at a glance.
#[derive(Debug, Clone, PartialEq)]
pub struct PastSession {
    /// Its folder.
    pub path: PathBuf,
    /// Its name below the folder of runs.
    pub name: String,
    /// What it was started with.
    pub config: TeachConfig,
    /// Its last report, if there is one.
    pub last: Option<Report>,
    /// What is wrong with its ledger, if anything is. Then it cannot be resumed.
    pub problem: Option<String>,
    changed: SystemTime,
}

/// A frontier, ready to be drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct FrontierCurves {
    /// Its name below the folder of runs.
    pub name: String,
    /// What its models were trained on, and how large they are.
    pub corpus: String,
    /// Size of its models.
    pub size: String,
    /// Number of seeds.
    pub seeds: usize,
    /// For each method the best gold reward within a divergence (nats), mean over seeds with its 95 % bootstrap
    /// interval, and a dot for each policy measured.
    pub series: Vec<Series>,
    path: PathBuf,
    changed: SystemTime,
}

/// Levels of folders that are searched: the runs, and what a frontier keeps in its own folder.
const DEPTH: usize = 2;

/// The file that a frontier writes.
const FRONTIER: &str = "frontier.json";

/// Looks through a folder of runs. Frontiers and ledgers that are unchanged since `known` are taken from there. What cannot
/// be read is named.
#[must_use]
pub fn look(runs: &Path, known: &Shelf) -> Shelf {
    let mut shelf = Shelf::default();
    visit(runs, runs, DEPTH, known, &mut shelf);
    shelf.models.sort_by(|a, b| b.changed.cmp(&a.changed).then_with(|| a.path.cmp(&b.path)));
    shelf.sessions.sort_by(|a, b| b.changed.cmp(&a.changed).then_with(|| a.path.cmp(&b.path)));
    shelf.frontiers.sort_by(|a, b| b.changed.cmp(&a.changed).then_with(|| a.path.cmp(&b.path)));
    shelf.unfinished.sort();
    let ledgers =
        shelf.sessions.iter().filter_map(|one| Some(Damaged { path: one.path.clone(), problem: one.problem.clone()? }));
    shelf.damaged.extend(ledgers);
    shelf.damaged.sort();
    shelf
}

/// Parameters of a model that can be taught: one that writes, with a tokenizer beside it.
///
/// # Errors
/// Why it cannot, in words for the user.
pub fn parameters(folder: &Path) -> Result<usize, String> {
    // The size of an adapter is that of its base, in another folder: not worth reading that one for.
    if folder.join("adapter_config.json").is_file() {
        return Ok(0);
    }
    let config = ModelConfig::read(&folder.join("config.json")).map_err(|error| error.to_string())?;
    if config.output != Output::Tokens {
        return Err(format!("{}: is a model that scores, not one that writes", folder.display()));
    }
    match folder.join("tokenizer.json").is_file() {
        true => Ok(config.parameters()),
        false => Err(format!("{}: has no tokenizer.json", folder.display())),
    }
}

fn visit(runs: &Path, folder: &Path, depth: usize, known: &Shelf, shelf: &mut Shelf) {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        // The first run makes it, or it was deleted a moment ago.
        Err(error) if error.kind() == ErrorKind::NotFound => return,
        Err(error) => {
            let problem = format!("cannot be listed: {error}");
            shelf.damaged.push(Damaged { path: folder.to_owned(), problem });
            return;
        }
    };
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()) {
        let name = path.strip_prefix(runs).unwrap_or(&path).display().to_string();
        let mut damaged = |problem: String| shelf.damaged.push(Damaged { path: path.clone(), problem });
        let configuration = match configuration(&path) {
            Ok(found) => found.unwrap_or_default(),
            Err(error) => {
                damaged(error.to_string());
                continue;
            }
        };
        let model = path.join("model");
        let config = model.join("config.json");
        if let Err(error) = fs::metadata(&config)
            && !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
        {
            damaged(format!("{}: cannot be read: {error}", config.display()));
        } else if let Some(changed) = changed(&config) {
            match parameters(&model) {
                Ok(parameters) => {
                    shelf.models.push(ShelfModel { path: model.clone(), name: name.clone(), parameters, changed });
                }
                // A model that scores, or has no tokenizer, is not damaged. It just cannot be taught.
                Err(problem) if ModelConfig::read(&config).is_err() => damaged(problem),
                Err(_) => {}
            }
        } else if configuration.contains_key("stage") {
            match run::read_config(&path) {
                Ok(config) if config.stage == StageKind::Pretrain => shelf.unfinished.push(path.clone()),
                Ok(_) => {}
                Err(error) => damaged(error.to_string()),
            }
        }
        let ledger = path.join("labels.jsonl");
        if let Some(changed) = changed(&ledger)
            && configuration.contains_key("answers_per_update")
        {
            match read_config(&path) {
                Ok(config) => {
                    let old = known.sessions.iter().find(|session| session.path == path && session.changed == changed);
                    let problem = match old {
                        Some(old) => old.problem.clone(),
                        None => read_events(&ledger).err().map(|error| error.to_string()),
                    };
                    let last = reports(&path).pop();
                    let session =
                        PastSession { path: path.clone(), name: name.clone(), config, last, problem, changed };
                    shelf.sessions.push(session);
                }
                Err(error) => damaged(error.to_string()),
            }
        }
        if let Some(changed) = changed(&path.join(FRONTIER)) {
            let known = known.frontiers.iter().find(|curves| curves.path == path && curves.changed == changed);
            match known.cloned().map_or_else(|| curves(&path, name, changed).map(Arc::new), Ok) {
                Ok(curves) => shelf.frontiers.push(curves),
                Err(problem) => damaged(problem),
            }
        }
        if depth > 1 {
            visit(runs, &path, depth - 1, known, shelf);
        }
    }
}

fn changed(file: &Path) -> Option<SystemTime> {
    fs::metadata(file).and_then(|metadata| metadata.modified()).ok()
}

fn curves(path: &Path, name: String, changed: SystemTime) -> Result<FrontierCurves, String> {
    let wrong = |problem: &dyn Display| format!("{}: {problem}", path.join(FRONTIER).display());
    let text = fs::read_to_string(path.join(FRONTIER)).map_err(|error| wrong(&error))?;
    let Frontier { config, points, .. } = lines::from_text(&text).map_err(|error| wrong(&error))?;
    let of_method = |&method: &Method| {
        let shown = points.iter().filter(|point| point.method == method && point.kl.mean <= LARGEST_KL);
        series(&config, &points, method, shown.map(|point| point.kl.mean).fold(0.0, f64::max))
    };
    Ok(FrontierCurves {
        series: config.own.methods.iter().map(of_method).collect(),
        seeds: config.common.seeds.len(),
        corpus: config.common.corpus.clone(),
        size: config.common.size.clone(),
        name,
        path: path.to_owned(),
        changed,
    })
}
