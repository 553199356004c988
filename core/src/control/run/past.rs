//! Past runs: a folder of runs at a glance, deleting one, and branching one at an answer.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::answers::BRANCHED;
use super::curve::{curve, summarized};
use super::error::RunError;
use super::folder::Summary;
use super::moment::Moment;
use super::policy::BEGINNING;
use crate::control::config::{Config, Rater, RewardSource};
use crate::control::drlhp::Report;
use crate::disk::changes::{self, Change};
use crate::disk::figure::Series;
use crate::disk::{Damaged, DiskError, Folder, configuration};
use crate::preference::ledger::{Ledger, read_events};
use crate::preference::{Event, Label, TEACHERS};

/// A run at a glance.
#[derive(Debug, Clone)]
pub struct PastRun {
    /// Its folder.
    pub path: PathBuf,
    /// What it was started with.
    pub config: Config,
    /// How it ended; `None` while it goes on, or when it was stopped.
    pub summary: Option<Summary>,
    /// The reports of its iterations.
    pub reports: Vec<Report>,
    /// What is wrong with lines of its metrics that cannot be read.
    pub unread: Vec<String>,
    /// What is wrong with its ledger, so that the run cannot be resumed.
    pub problem: Option<String>,
    stamp: Stamp,
    changed: SystemTime,
}

/// What a folder of runs holds.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// The runs, the one changed last first.
    pub runs: Vec<Arc<PastRun>>,
    /// What cannot be read, by path.
    pub damaged: Vec<Damaged>,
}

/// What changes in a folder while its run goes on: bytes of metrics, whether it has a summary, bytes of its ledger, and
/// when ledger and configuration were written.
type Stamp = (u64, bool, u64, [Option<SystemTime>; 2]);

/// The runs below `parent`. Folders that are not runs are left out; runs that cannot be read are named. Runs that are
/// unchanged since `known` was read are taken from there.
#[must_use]
pub fn list(parent: &Path, known: &[Arc<PastRun>]) -> Listing {
    let mut found = Listing::default();
    let damaged = |path: &Path, problem: String| Damaged { path: path.to_owned(), problem };
    let entries = match fs::read_dir(parent) {
        Ok(entries) => entries,
        // The first run makes the folder.
        Err(error) if error.kind() == ErrorKind::NotFound => return found,
        Err(error) => {
            found.damaged.push(damaged(parent, format!("cannot be listed: {error}")));
            return found;
        }
    };
    for entry in entries {
        let path = match entry {
            Ok(entry) => entry.path(),
            Err(error) => {
                found.damaged.push(damaged(parent, format!("cannot be listed: {error}")));
                break;
            }
        };
        let stamp = stamp(&path);
        if let Some(run) = known.iter().find(|run| run.path == path && run.stamp == stamp) {
            found.runs.push(Arc::clone(run));
            continue;
        }
        match configuration(&path) {
            Ok(Some(table)) if is_of_an_agent(&table) => match past(&path) {
                Ok(run) => found.runs.push(Arc::new(run)),
                Err(error) => found.damaged.push(damaged(&path, error.to_string())),
            },
            // Another kind of run.
            Ok(Some(_)) => {}
            Ok(None) if path.join("labels.jsonl").is_file() && path.join("checkpoints").is_dir() => {
                found.damaged.push(damaged(&path, "a run whose config.toml is missing".to_owned()));
            }
            Ok(None) => {}
            Err(error) => found.damaged.push(damaged(&path, error.to_string())),
        }
    }
    let of_ledgers = found.runs.iter().filter_map(|run| Some(damaged(&run.path, run.problem.clone()?)));
    found.damaged.extend(of_ledgers);
    found.damaged.sort();
    found.runs.sort_by(|a, b| b.changed.cmp(&a.changed).then_with(|| a.path.cmp(&b.path)));
    found
}

/// Whether a configuration belongs to an agent's run, of this version or another. A front of agents has other steps.
fn is_of_an_agent(table: &toml::Table) -> bool {
    table.contains_key("env") && !table.contains_key("finetune_steps")
}

/// One run at a glance.
///
/// # Errors
/// When the folder is not a run, or cannot be read.
pub fn past(path: &Path) -> Result<PastRun, RunError> {
    let folder = Folder::open(path)?;
    // Taken first, so that what changes meanwhile is read again the next time.
    let stamp = stamp(path);
    // A run that has just begun has no ledger.
    let ledger = folder.ledger();
    let problem = if ledger.exists() { read_events(&ledger).err().map(|error| error.to_string()) } else { None };
    let mut unread = Vec::new();
    let reports = folder.metrics(&mut |problem| unread.push(problem))?;
    Ok(PastRun {
        path: path.to_owned(),
        config: folder.config()?,
        summary: folder.summary().ok(),
        reports,
        unread,
        problem,
        stamp,
        changed: modified(path, "metrics.jsonl").or(modified(path, "config.toml")).unwrap_or(SystemTime::UNIX_EPOCH),
    })
}

fn stamp(path: &Path) -> Stamp {
    let bytes = |name: &str| fs::metadata(path.join(name)).map_or(0, |m| m.len());
    let written = ["labels.jsonl", "config.toml"].map(|name| modified(path, name));
    (bytes("metrics.jsonl"), path.join("summary.json").exists(), bytes("labels.jsonl"), written)
}

fn modified(path: &Path, name: &str) -> Option<SystemTime> {
    fs::metadata(path.join(name)).and_then(|m| m.modified()).ok()
}

impl PastRun {
    /// The folder's own name.
    #[must_use]
    pub fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or(self.path.as_os_str());
        name.to_string_lossy().into_owned()
    }

    /// Whom the agent learns from, in words.
    #[must_use]
    pub fn teacher(&self) -> &'static str {
        match (self.config.reward, self.config.preferences.rater) {
            (RewardSource::True, _) => "true reward",
            (RewardSource::Preferences, Rater::Person) => "a person",
            (RewardSource::Preferences, Rater::Simulated) => {
                let known = TEACHERS.iter().find(|known| known.item == self.config.preferences.teacher);
                known.map_or("simulated", |known| known.name)
            }
        }
    }

    /// Questions answered by now.
    #[must_use]
    pub fn labels(&self) -> usize {
        self.reports.last().map_or(0, |report| report.labels_answered)
    }

    /// The true return: of the final evaluation, or of the last training episodes. `None` where a person wants
    /// something else than the task's own goal.
    #[must_use]
    pub fn true_return(&self) -> Option<f64> {
        let known = self.config.preferences.wanted.is_none();
        let last = self.reports.iter().rev().find_map(|report| report.true_return);
        known.then(|| self.summary.as_ref().map(|summary| summary.true_return_mean).or(last)).flatten()
    }

    /// Whether two runs differ in nothing but their seed.
    #[must_use]
    pub fn differs_in_seed_only(&self, other: &Self) -> bool {
        self.config == Config { seed: self.config.seed, ..other.config.clone() }
    }
}

/// A value over the steps of each run. Runs that differ in nothing but their seed become one curve: their interquartile
/// mean with its interval.
#[must_use]
pub fn series(runs: &[&PastRun], value: fn(&Report) -> Option<f64>) -> Vec<Series> {
    let mut groups: Vec<Vec<&PastRun>> = Vec::new();
    for run in runs {
        // A branch has the seed of the run that it came from; it is another run, not another seed.
        let belongs = |other: &&PastRun| other.config.seed != run.config.seed && other.differs_in_seed_only(run);
        match groups.iter_mut().find(|group| group.iter().all(belongs)) {
            Some(group) => group.push(run),
            None => groups.push(vec![run]),
        }
    }
    let curves = |group: &[&PastRun]| group.iter().map(|run| curve(&run.reports, value)).collect::<Vec<_>>();
    let one = |group: Vec<&PastRun>| match group[..] {
        [run] => Series { name: run.name(), points: curve(&run.reports, value), dots: Vec::new() },
        _ => {
            let (run, count) = (group[0], group.len());
            let asked = match run.config.reward {
                RewardSource::True => String::new(),
                RewardSource::Preferences => format!("{} questions, ", run.config.preferences.labels),
            };
            let name = format!("{}, {asked}{} ({count} seeds)", run.config.env, run.teacher());
            Series { name, points: summarized(&curves(&group)), dots: Vec::new() }
        }
    };
    groups.into_iter().map(one).collect()
}

/// Deletes a run folder for good.
///
/// # Errors
/// When it is not a run folder, somebody writes to it, or the file system says no.
pub fn delete(path: &Path) -> Result<(), DiskError> {
    let _claimed = Folder::open_to_write(path)?;
    fs::remove_dir_all(path).map_err(DiskError::io(path, "delete the run"))
}

/// Makes a new run that repeats an old one up to its answer to `query`, with that answer changed to `label` if given.
/// Later events are left out: from there the new run asks anew.
///
/// The new folder holds the configuration and the beginning of the ledger; opening it repeats the old run to the bit up
/// to that answer.
///
/// # Errors
/// When there is no such answer, the old ledger is damaged, or the new folder cannot be made (nothing is left of it).
pub fn branch(from: &Path, to: &Path, query: u64, label: Option<Label>) -> Result<Folder, RunError> {
    let old = Folder::open(from)?;
    let config = old.first_config()?;
    let mut events = read_events(&old.ledger())?;
    let is_answer = |event: &Event| matches!(event, Event::Answer(answer) if answer.query == query);
    let last = events.iter().position(is_answer).ok_or_else(|| RunError::NoAnswer { path: old.ledger(), query })?;
    events.truncate(last + 1);
    if let (Some(Event::Answer(answer)), Some(label)) = (events.last_mut(), label)
        && answer.label != label
    {
        answer.label = label;
        if config.preferences.rater == Rater::Simulated {
            BRANCHED.clone_into(&mut answer.rater);
        }
    }
    let init = config.init.as_ref().map(|_| old.file(BEGINNING));
    let folder = Folder::create_from(to, &config, init.as_deref())?;
    // Changes of the configuration before that answer are part of the run, too.
    let session = events.last().map_or(0, Event::session);
    let mut changes: Vec<Change<Moment>> = changes::read(from)?;
    changes.retain(|change| change.at.session as u64 <= session);
    let fill = || -> Result<(), RunError> {
        if !changes.is_empty() {
            changes::write(to, &changes)?;
        }
        let mut ledger = Ledger::create(&folder.ledger())?;
        events.iter().try_for_each(|event| Ok(ledger.append(event)?))
    };
    fill().inspect_err(|_| {
        // A folder that holds only a part of the answers would be another run.
        fs::remove_dir_all(to).ok();
    })?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::{PastRun, SystemTime, series};
    use crate::control::config::Config;
    use crate::control::drlhp::Report;

    fn run(seed: u64, labels: usize, returns: &[f64]) -> PastRun {
        let mut config = Config::preset("pendulum").unwrap();
        (config.seed, config.preferences.labels) = (seed, labels);
        let report =
            |(i, value): (usize, &f64)| Report { env_steps: 100 * i, true_return: Some(*value), ..Report::default() };
        let reports = returns.iter().enumerate().map(report).collect();
        let path = format!("run-{seed}-{labels}").into();
        let (stamp, changed) = ((0, false, 0, [None; 2]), SystemTime::UNIX_EPOCH);
        let unread = Vec::new();
        PastRun { path, config, summary: None, reports, unread, problem: None, stamp, changed }
    }

    #[test]
    fn seeds_of_one_configuration_are_one_curve_and_a_branch_is_not() {
        let runs = [run(0, 50, &[0.0, 10.0, 20.0]), run(1, 50, &[2.0, 12.0]), run(0, 50, &[7.0]), run(0, 60, &[1.0])];
        let found = series(&runs.iter().collect::<Vec<_>>(), |report| report.true_return);
        let names: Vec<&str> = found.iter().map(|series| series.name.as_str()).collect();
        assert_eq!(names, ["pendulum, 50 questions, oracle (2 seeds)", "run-0-50", "run-0-60"]);
        // The steps that both cover, 0 to 100; halfway between the two seeds and between two reports.
        let band = &found[0].points;
        assert_eq!((band[0].x, band[0].y, band[0].interval), (0.0, 1.0, Some([0.0, 2.0])));
        let last = band[band.len() - 1];
        assert_eq!((last.x, last.y, last.interval), (100.0, 11.0, Some([10.0, 12.0])));
        let middle = band.iter().find(|point| point.x > 50.0).unwrap();
        assert!((middle.y - (1.0 + middle.x / 10.0)).abs() < 1e-9);
    }
}
