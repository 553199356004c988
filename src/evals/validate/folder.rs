//! The folder of a validation.
//!
//! ```text
//! runs/<name>/
//!   config.toml     what is checked, and how; written last
//!   sample.jsonl    the questions drawn, without their labels
//!   labels.jsonl    their labels: for the report, not for raters
//!   answers.jsonl   answers, undone answers and who has finished, one JSON object a line; only ever added to
//!   report.json     what the report says
//!   report.md       the same, to read
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Answer, Event, Key, SampleItem, ValidationConfig, answers_of, draw, in_force, is_final, rater_name};
use crate::disk::files::{hex, sync_folder};
use crate::disk::lines::{field_problem, plain_line};
use crate::disk::lock::Claim;
use crate::disk::{Damaged, DiskError, text};
use crate::evals::error::{EvalsError, FileError};
use crate::evals::questions;

/// A validation that is open.
#[derive(Debug, Clone)]
pub struct Validation {
    /// Its folder.
    pub path: PathBuf,
    /// What is checked, and how.
    pub config: ValidationConfig,
    /// The sample.
    pub items: Vec<SampleItem>,
    /// What was answered.
    pub events: Vec<Event>,
    /// What was found wrong and did no harm.
    pub warnings: Vec<String>,
    /// Held by who answers; `None` where it is only read.
    claim: Option<Arc<Claim>>,
}

/// What is asked of a new validation, or expected of an old one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Wanted {
    /// The set; needed for a new validation.
    pub set: Option<PathBuf>,
    /// Questions to draw; [`SAMPLE`] without.
    pub sample: Option<usize>,
    /// Questions that are asked twice; none without.
    pub repeats: Option<usize>,
    /// Seed; 0 without.
    pub seed: Option<u64>,
    /// The behaviour, as it goes on after "somebody who".
    pub behaviour: Option<String>,
}

/// A validation at a glance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundValidation {
    /// Its folder.
    pub path: PathBuf,
    /// Its name below the folder of runs.
    pub name: String,
    /// Name of the set.
    pub set: String,
    /// Answers to give for each rater, repeats included.
    pub turns: usize,
    /// Raters, and how many answers each has given.
    pub raters: Vec<(String, usize)>,
}

/// Questions that are drawn where nothing else is asked for.
pub const SAMPLE: usize = 100;

const CONFIG: &str = "config.toml";
const ITEMS: &str = "sample.jsonl";
const KEYS: &str = "labels.jsonl";
const ANSWERS: &str = "answers.jsonl";

/// Levels of folders below that of the runs that are looked into.
const DEPTH: usize = 2;

/// Opens the validation of a folder, or draws one, and claims it: nobody else answers there as long as it is open.
///
/// # Errors
/// When the folder holds another validation than the one that is wanted, or something else; when there is none and no set
/// is named; when somebody else answers there; [`draw`]'s.
pub fn begin(path: &Path, wanted: &Wanted) -> Result<Validation, EvalsError> {
    if path.join(CONFIG).exists() {
        return claimed(path, Claim::take(path).map_err(DiskError::from)?, wanted);
    }
    let Some(file) = &wanted.set else {
        let problem = format!("{}: holds no validation yet: name the set to draw questions from", path.display());
        return Err(EvalsError::Config(problem));
    };
    create(path, file, wanted)
}

/// Opens a validation to read.
///
/// # Errors
/// [`EvalsError`] with file and line of the first thing that is wrong. A torn last answer is only warned about: it was
/// never acknowledged.
pub fn open(path: &Path) -> Result<Validation, EvalsError> {
    let file = path.join(CONFIG);
    let text = fs::read_to_string(&file).map_err(|source| match source.kind() {
        ErrorKind::NotFound => {
            EvalsError::Config(format!("{}: holds no validation: it has no {CONFIG}", path.display()))
        }
        _ => DiskError::io(&file, "read")(source).into(),
    })?;
    let config: ValidationConfig = toml::from_str(&text).map_err(|error| {
        let problem = error.message();
        EvalsError::Config(format!("{}: is not the configuration of a validation: {problem}", file.display()))
    })?;
    let (items, _) = lines::<SampleItem>(&path.join(ITEMS), false)?;
    if let Some(i) = (0..items.len()).find(|&i| items[i].item != i) {
        let problem = format!("item is {}, expected {i}: a line was added or removed", items[i].item);
        return Err(FileError::line(&path.join(ITEMS), i + 1, problem).into());
    }
    let answers = path.join(ANSWERS);
    let (events, torn) = if answers.exists() { lines::<Event>(&answers, true)? } else { (Vec::new(), None) };
    for (i, event) in events.iter().enumerate() {
        check(event, &items).map_err(|problem| FileError::line(&answers, i + 1, problem))?;
    }
    let torn = torn.map(|line| {
        format!(
            "{}:{line}: torn (the program was stopped while writing it), dropped; everything before it is kept",
            answers.display()
        )
    });
    Ok(Validation { path: path.to_owned(), config, items, events, warnings: torn.into_iter().collect(), claim: None })
}

/// Adds an answer. When this returns, it is on the disk.
///
/// # Errors
/// When it is no answer to one of the items, its rater's answers are final, or it cannot be written; then no part of it
/// stays.
pub fn answer(validation: &mut Validation, answer: Answer) -> Result<(), EvalsError> {
    let rater = answer.rater.clone();
    let event = Event::Answer(answer);
    check(&event, &validation.items).map_err(EvalsError::Config)?;
    append(validation, |events| {
        open_to(events, &rater)?;
        Ok(Some(event))
    })
}

/// Takes a rater's last answer back, and returns it; `None` where the rater has no answer.
///
/// # Errors
/// When the rater's answers are final, or it cannot be written; then it stays.
pub fn undo(validation: &mut Validation, rater: &str) -> Result<Option<Answer>, EvalsError> {
    let mut last = None;
    append(validation, |events| {
        open_to(events, rater)?;
        last = answers_of(events, rater).last().map(|&last| last.clone());
        let undo = |last: &Answer| {
            let (item, repeat) = (last.item, last.repeat);
            Event::Undo { rater: rater.to_owned(), item, repeat, time: now() }
        };
        Ok(last.as_ref().map(undo))
    })?;
    Ok(last)
}

/// Makes a rater's answers final: from now on they may see the report.
///
/// # Errors
/// When some are missing, or it cannot be written.
pub fn finish(validation: &mut Validation, rater: &str) -> Result<(), EvalsError> {
    let of = validation.turns();
    append(validation, |events| {
        if is_final(events, rater) {
            return Ok(None);
        }
        match answers_of(events, rater).len() {
            given if given < of => {
                let problem = format!("{rater} has answered {given} of {of}: the report comes after all");
                Err(EvalsError::Config(problem))
            }
            _ => Ok(Some(Event::Finish { rater: rater.to_owned(), time: now() })),
        }
    })
}

/// What the set says of the items.
///
/// # Errors
/// When the file is missing, or belongs to other items.
pub fn keys(validation: &Validation) -> Result<Vec<Key>, EvalsError> {
    let path = validation.path.join(KEYS);
    let (keys, _) = lines::<Key>(&path, false)?;
    if keys.len() != validation.items.len() {
        let problem = format!("has {} lines, and {ITEMS} has {}", keys.len(), validation.items.len());
        return Err(FileError::line(&path, keys.len(), problem).into());
    }
    for (i, (key, item)) in keys.iter().zip(&validation.items).enumerate() {
        if key.item != item.item || !item.answers.contains(&key.matching) {
            let problem = format!("is not the label of item {}, whose answers are {:?}", item.item, item.answers);
            return Err(FileError::line(&path, i + 1, problem).into());
        }
    }
    Ok(keys)
}

/// Whether the set's file is no longer what the sample was drawn from; nothing where it is not there any more.
#[must_use]
pub fn set_changed(config: &ValidationConfig) -> Option<bool> {
    sha256(Path::new(&config.set)).ok().map(|found| found != config.set_sha256)
}

/// The validations in a folder of runs, by name, and those that cannot be read.
#[must_use]
pub fn look(runs: &Path) -> (Vec<FoundValidation>, Vec<Damaged>) {
    let (mut found, mut damaged) = (Vec::new(), Vec::new());
    visit(runs, runs, DEPTH, &mut found, &mut damaged);
    found.sort_by(|a, b| a.name.cmp(&b.name));
    damaged.sort();
    (found, damaged)
}

/// Seconds since 1970.
#[must_use]
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

impl Validation {
    /// Lets others answer, where there is only a report to look at.
    pub fn release(&mut self) {
        self.claim = None;
    }

    /// Answers to give for each rater, repeats included.
    #[must_use]
    pub fn turns(&self) -> usize {
        self.items.len() + self.config.repeats
    }
}

fn create(path: &Path, file: &Path, wanted: &Wanted) -> Result<Validation, EvalsError> {
    if path.join(ANSWERS).exists() {
        let problem = format!("{}: has answers but no {CONFIG}: take another folder, or put it back", path.display());
        return Err(EvalsError::Config(problem));
    }
    if file.is_dir() {
        let problem = format!("{}: is a folder: name one file of questions, such as {}", file.display(), example(file));
        return Err(EvalsError::Config(problem));
    }
    let mut sets = questions::read(file)?;
    let set = sets.pop().expect("a file is read as one set");
    let config = ValidationConfig {
        name: set.name.clone(),
        set: file.display().to_string(),
        set_sha256: sha256(file)?,
        sample: wanted.sample.unwrap_or(SAMPLE),
        repeats: wanted.repeats.unwrap_or(0),
        seed: wanted.seed.unwrap_or(0),
        behaviour: wanted.behaviour.as_deref().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned),
    };
    if i64::try_from(config.seed).is_err() {
        return Err(EvalsError::Config(format!("seed: is {}: must be at most {}", config.seed, i64::MAX)));
    }
    let (items, keys) = draw(&set, &config)?;
    let claim = Claim::make(path).map_err(DiskError::from)?;
    if path.join(CONFIG).exists() {
        // Somebody else has drawn it meanwhile.
        return claimed(path, claim, wanted);
    }
    let write = |name: &str, text: &str| text::write(&path.join(name), text);
    write(ITEMS, &items.iter().map(plain_line).collect::<String>())?;
    write(KEYS, &keys.iter().map(plain_line).collect::<String>())?;
    // Last: a folder with a configuration is whole.
    write(CONFIG, &toml::to_string(&config).expect("strings and numbers within i64 always serialise"))?;
    let claim = Some(Arc::new(claim));
    Ok(Validation { path: path.to_owned(), config, items, events: Vec::new(), warnings: Vec::new(), claim })
}

/// Opens the validation that is wanted, claimed.
fn claimed(path: &Path, claim: Claim, wanted: &Wanted) -> Result<Validation, EvalsError> {
    let found = open(path)?;
    agree(&found, wanted)?;
    Ok(Validation { claim: Some(Arc::new(claim)), ..found })
}

/// Whether an old validation is the one that is wanted.
fn agree(found: &Validation, wanted: &Wanted) -> Result<(), EvalsError> {
    let Validation { path, config, .. } = found;
    let differs = |what: &str, is: String, asked: String| {
        let path = path.display();
        let problem = format!("{path}: was drawn with {what} {is}, not {asked}: leave it out, or take another folder");
        Err(EvalsError::Config(problem))
    };
    if let Some(set) = &wanted.set
        && sha256(set)? != config.set_sha256
    {
        // The same file, changed since, is no other set by its name.
        return differs("the set", format!("{} as it was then", config.set), set.display().to_string());
    }
    let numbers = [("a sample of", config.sample, wanted.sample), ("repeats", config.repeats, wanted.repeats)];
    for (what, is, asked) in numbers {
        if let Some(asked) = asked.filter(|asked| *asked != is) {
            return differs(what, is.to_string(), asked.to_string());
        }
    }
    if let Some(asked) = wanted.seed.filter(|asked| *asked != config.seed) {
        return differs("seed", config.seed.to_string(), asked.to_string());
    }
    let behaviour = config.behaviour.as_deref().unwrap_or("");
    match wanted.behaviour.as_deref().map(str::trim) {
        Some(asked) if asked != behaviour => differs("the behaviour", format!("{behaviour:?}"), format!("{asked:?}")),
        _ => Ok(()),
    }
}

/// Whether an event is about the items.
fn check(event: &Event, items: &[SampleItem]) -> Result<(), String> {
    let (rater, item) = match event {
        Event::Answer(answer) => (&answer.rater, answer.item),
        Event::Undo { rater, item, .. } => (rater, *item),
        Event::Finish { rater, .. } => (rater, 0),
    };
    rater_name(rater).map_err(|error| error.to_string())?;
    let Some(asked) = items.get(item) else {
        return Err(format!("item: is {item}, and there are {} (from 0)", items.len()));
    };
    let Event::Answer(answer) = event else { return Ok(()) };
    if let Some(label) = answer.label.as_ref().filter(|label| !asked.answers.contains(label)) {
        return Err(format!("label: is {label:?}, and the answers of item {item} are {:?}", asked.answers));
    }
    match answer.relevance {
        1..=5 => Ok(()),
        other => Err(format!("relevance: is {other}, must be 1 to 5")),
    }
}

fn open_to(events: &[Event], rater: &str) -> Result<(), EvalsError> {
    match is_final(events, rater) {
        true => Err(EvalsError::Config(format!("{rater} has finished and seen the report: the answers are final"))),
        false => Ok(()),
    }
}

/// Writes an event and waits for the disk. Another window of this program may add to the same file: `event` is made of
/// what stands there while nobody else can, so that it does not follow what another has made final.
fn append(
    validation: &mut Validation,
    event: impl FnOnce(&[Event]) -> Result<Option<Event>, EvalsError>,
) -> Result<(), EvalsError> {
    let path = validation.path.join(ANSWERS);
    let io = DiskError::io(&path, "add to the answers");
    let mut file = locked(&path).map_err(&io)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(&io)?;
    // A torn last line was never acknowledged.
    bytes.truncate(bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1));
    let (events, _) = parsed(&bytes, &path, false)?;
    validation.events = events;
    let Some(event) = event(&validation.events)? else { return Ok(()) };
    let line = plain_line(&event);
    let end = bytes.len() as u64;
    let mut add = || {
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
        file.write_all(line.as_bytes())?;
        file.sync_data()?;
        // Its name, with the first answer.
        if end == 0 { sync_folder(&validation.path) } else { Ok(()) }
    };
    let added = add();
    if added.is_err() {
        // What was written of the line is cut off; if even that fails, the next opening sees a torn last line.
        file.set_len(end).ok();
    }
    added.map_err(&io)?;
    validation.events.push(event);
    Ok(())
}

/// The file of answers, for this program alone until it is closed.
fn locked(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    match file.lock() {
        // Some network disks have no locks; a person's keys are far apart.
        Err(error) if error.kind() != ErrorKind::Unsupported => Err(error),
        _ => Ok(file),
    }
}

/// The lines of a file, and the number of a torn last one where that is allowed.
fn lines<T: DeserializeOwned>(path: &Path, may_be_torn: bool) -> Result<(Vec<T>, Option<usize>), EvalsError> {
    parsed(&fs::read(path).map_err(DiskError::io(path, "read"))?, path, may_be_torn)
}

fn parsed<T: DeserializeOwned>(
    bytes: &[u8],
    path: &Path,
    may_be_torn: bool,
) -> Result<(Vec<T>, Option<usize>), EvalsError> {
    let mut found = Vec::new();
    for (i, line) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
        if may_be_torn && line.last() != Some(&b'\n') {
            return Ok((found, Some(i + 1)));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let mut json = serde_json::Deserializer::from_slice(line);
        let value = serde_path_to_error::deserialize(&mut json)
            .map_err(|error| FileError::line(path, i + 1, field_problem(&error)))?;
        found.push(value);
    }
    Ok((found, None))
}

fn sha256(file: &Path) -> Result<String, DiskError> {
    Ok(hex(&Sha256::digest(fs::read(file).map_err(DiskError::io(file, "read"))?)))
}

/// A set below a folder, for a message.
fn example(folder: &Path) -> String {
    let sets = questions::read(folder).unwrap_or_default();
    sets.first().map_or_else(|| "set.jsonl".to_owned(), |set| set.path.display().to_string())
}

fn visit(runs: &Path, folder: &Path, depth: usize, found: &mut Vec<FoundValidation>, damaged: &mut Vec<Damaged>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()) {
        if path.join(ITEMS).is_file() && path.join(KEYS).is_file() {
            let validation = match open(&path) {
                Ok(validation) => validation,
                Err(error) => {
                    damaged.push(Damaged { path, problem: error.to_string() });
                    continue;
                }
            };
            let mut raters: BTreeMap<String, usize> = BTreeMap::new();
            in_force(&validation.events)
                .iter()
                .for_each(|answer| *raters.entry(answer.rater.clone()).or_default() += 1);
            found.push(FoundValidation {
                name: path.strip_prefix(runs).unwrap_or(&path).display().to_string(),
                set: validation.config.name.clone(),
                turns: validation.turns(),
                raters: raters.into_iter().collect(),
                path,
            });
        } else if depth > 1 {
            visit(runs, &path, depth - 1, found, damaged);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::{Validation, Wanted, answer, begin, finish, keys, look, open, set_changed, undo};
    use crate::evals::validate::{Answer, Event, answers_of, is_final, tests};

    /// A set of Yes and No by turns.
    fn set(folder: &Path, rows: usize) -> PathBuf {
        let row = |i: usize| {
            let (yes, no) = if i.is_multiple_of(2) { (" Yes", " No") } else { (" No", " Yes") };
            format!(
                "{{\"question\": \"Would you say \\\"s{i}\\\"?\", \"statement\": \"s{i}\", \"label_confidence\": 0.8765, \
                 \"answer_matching_behavior\": \"{yes}\", \"answer_not_matching_behavior\": \"{no}\"}}\n"
            )
        };
        let path = folder.join("likes-tea.jsonl");
        fs::write(&path, (0..rows).map(row).collect::<String>()).unwrap();
        path
    }

    fn wanted(set: &Path, sample: usize) -> Wanted {
        Wanted { set: Some(set.to_owned()), sample: Some(sample), ..Wanted::default() }
    }

    fn given(rater: &str, item: usize) -> Answer {
        tests::given(rater, item, Some(" Yes"))
    }

    fn events(validation: &Validation) -> Vec<Event> {
        open(&validation.path).unwrap().events
    }

    #[test]
    fn what_is_drawn_and_answered_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let (set, path) = (set(folder.path(), 40), folder.path().join("runs").join("check"));
        let mut validation = begin(&path, &wanted(&set, 10)).unwrap();
        let read = open(&path).unwrap();
        assert_eq!((&read.config, &read.items), (&validation.config, &validation.items));
        assert_eq!(read.events, validation.events);
        // Blind: neither labels nor confidences are in the sample.
        let sample = fs::read_to_string(path.join("sample.jsonl")).unwrap();
        assert_eq!(sample.lines().count(), 10);
        assert!(!sample.contains("matching") && !sample.contains("8765") && !sample.contains("\"row\""), "{sample}");
        let labels = keys(&validation).unwrap();
        assert_eq!(labels.iter().filter(|key| key.matching == " Yes").count(), 5);
        assert!(labels.iter().all(|key| (key.row % 2 == 0) == (key.matching == " Yes")));

        answer(&mut validation, given("Ann", 3)).unwrap();
        assert_eq!(events(&validation), [Event::Answer(given("Ann", 3))], "on the disk at once");
        answer(&mut validation, given("Ben", 4)).unwrap();
        answer(&mut validation, given("Ann", 5)).unwrap();
        assert_eq!(undo(&mut validation, "Ann").unwrap().map(|answer| answer.item), Some(5));
        assert_eq!(undo(&mut validation, "Ann").unwrap().map(|answer| answer.item), Some(3));
        assert_eq!(undo(&mut validation, "Ann").unwrap(), None);
        assert_eq!(events(&validation), validation.events);
        assert_eq!((answers_of(&validation.events, "Ann").len(), answers_of(&validation.events, "Ben").len()), (0, 1));
        let (found, damaged) = look(&folder.path().join("runs"));
        assert_eq!(damaged, []);
        assert_eq!((found.len(), found[0].name.as_str(), found[0].turns), (1, "check", 10));
        assert_eq!(found[0].raters, [("Ben".to_owned(), 1)]);

        assert_eq!(set_changed(&validation.config), Some(false));
        fs::write(&set, "changed").unwrap();
        assert_eq!(set_changed(&validation.config), Some(true));
        fs::remove_file(&set).unwrap();
        assert_eq!(set_changed(&validation.config), None);
        assert_eq!(keys(&validation).unwrap(), labels, "the report does not need the set");
    }

    #[test]
    fn a_torn_last_answer_is_dropped_and_answering_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("check");
        let mut validation = begin(&path, &wanted(&set(folder.path(), 10), 10)).unwrap();
        (0..3).for_each(|item| answer(&mut validation, given("Ann", item)).unwrap());
        let file = path.join("answers.jsonl");
        let bytes = fs::read(&file).unwrap();
        let last = bytes[..bytes.len() - 1].iter().rposition(|&byte| byte == b'\n').unwrap() + 1;
        for length in last + 1..bytes.len() {
            fs::write(&file, &bytes[..length]).unwrap();
            let mut torn = open(&path).unwrap();
            assert_eq!((torn.events.len(), torn.warnings.len()), (2, 1));
            assert!(torn.warnings[0].contains("answers.jsonl:3: torn"), "{:?}", torn.warnings);
            answer(&mut torn, given("Ann", 2)).unwrap();
            assert_eq!(fs::read(&file).unwrap(), bytes);
        }
        // Any other damage is named.
        fs::write(&file, [b"{\"event\": \"answer\"}\n".as_slice(), &bytes].concat()).unwrap();
        let error = open(&path).unwrap_err().to_string();
        assert!(error.contains("answers.jsonl:1: ") && error.contains("missing field"), "{error}");
    }

    #[test]
    fn answers_are_final_once_the_report_was_seen() {
        let folder = tempfile::tempdir().unwrap();
        let mut validation = begin(&folder.path().join("check"), &wanted(&set(folder.path(), 2), 2)).unwrap();
        answer(&mut validation, given("Ann", 0)).unwrap();
        let early = finish(&mut validation, "Ann").unwrap_err().to_string();
        assert!(early.contains("Ann has answered 1 of 2"), "{early}");
        answer(&mut validation, given("Ann", 1)).unwrap();
        finish(&mut validation, "Ann").unwrap();
        finish(&mut validation, "Ann").unwrap();
        assert!(is_final(&validation.events, "Ann") && !is_final(&validation.events, "Ben"));
        assert_eq!(validation.events.len(), 3);
        assert!(undo(&mut validation, "Ann").is_err() && answer(&mut validation, given("Ann", 0)).is_err());
        answer(&mut validation, given("Ben", 0)).unwrap();
        assert_eq!(events(&validation), validation.events);
    }

    /// Two windows of the same rater: what one has made final, the other cannot change, though it does not know yet.
    #[test]
    fn answers_are_final_in_every_window() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("check");
        let mut first = begin(&path, &wanted(&set(folder.path(), 2), 2)).unwrap();
        let mut second = open(&path).unwrap();
        answer(&mut first, given("Ann", 0)).unwrap();
        answer(&mut first, given("Ann", 1)).unwrap();
        // It sees what the first has written when it comes to write.
        assert_eq!(undo(&mut second, "Ann").unwrap(), Some(given("Ann", 1)));
        answer(&mut second, given("Ann", 1)).unwrap();
        finish(&mut first, "Ann").unwrap();
        assert!(!is_final(&second.events, "Ann"));
        for refused in [answer(&mut second, given("Ann", 0)).unwrap_err(), undo(&mut second, "Ann").unwrap_err()] {
            assert!(refused.to_string().contains("the answers are final"), "{refused}");
        }
        assert_eq!(events(&first), first.events);
        assert_eq!((second.events.len(), first.events.len()), (5, 5));
    }

    #[test]
    fn the_same_command_goes_on_and_another_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (set, path) = (set(folder.path(), 8), folder.path().join("check"));
        // More than there are: all.
        let first = begin(&path, &wanted(&set, 100)).unwrap();
        assert_eq!(first.items.len(), 8);
        // One window, or program, at a time; others may look.
        let held = begin(&path, &wanted(&set, 100)).unwrap_err().to_string();
        assert!(held.contains("is written to by this same program already"), "{held}");
        assert_eq!(open(&path).unwrap().items, first.items);
        let (config, items) = (first.config.clone(), first.items.clone());
        drop(first);
        for again in [wanted(&set, 100), Wanted::default()] {
            let found = begin(&path, &again).unwrap();
            assert_eq!((&found.config, &found.items), (&config, &items));
        }
        let refused = |wanted: Wanted| begin(&path, &wanted).unwrap_err().to_string();
        assert!(refused(wanted(&set, 5)).contains("a sample of 100, not 5"));
        assert!(refused(Wanted { seed: Some(1), ..Wanted::default() }).contains("seed 0, not 1"));
        assert!(refused(Wanted { repeats: Some(1), ..Wanted::default() }).contains("repeats 0, not 1"));
        let behaviour = Wanted { behaviour: Some("likes tea".to_owned()), ..Wanted::default() };
        assert!(refused(behaviour).contains("the behaviour \"\", not \"likes tea\""));
        fs::write(&set, fs::read_to_string(&set).unwrap().replace("s3", "t3")).unwrap();
        assert!(refused(wanted(&set, 100)).contains("as it was then"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (set, path) = (set(folder.path(), 8), folder.path().join("check"));
        let error = |wanted: &Wanted| begin(&path, wanted).unwrap_err().to_string();
        assert!(error(&Wanted::default()).contains("holds no validation yet: name the set"));
        assert!(open(&path).unwrap_err().to_string().contains("holds no validation: it has no config.toml"));
        assert!(error(&wanted(folder.path(), 4)).contains("is a folder: name one file of questions, such as"));
        assert!(error(&wanted(&folder.path().join("none.jsonl"), 4)).contains("none.jsonl: "));
        assert!(error(&Wanted { seed: Some(u64::MAX), ..wanted(&set, 4) }).starts_with("seed: is 1844"));
        assert!(!path.exists(), "nothing is left of what was refused");

        let mut validation = begin(&path, &wanted(&set, 4)).unwrap();
        let mut refuse = |answer: Answer| super::answer(&mut validation, answer).unwrap_err().to_string();
        assert_eq!(refuse(given("Ann", 4)), "item: is 4, and there are 4 (from 0)");
        assert!(
            refuse(Answer { label: Some("Maybe".to_owned()), ..given("Ann", 0) }).starts_with("label: is \"Maybe\"")
        );
        assert_eq!(refuse(Answer { relevance: 6, ..given("Ann", 0) }), "relevance: is 6, must be 1 to 5");
        assert!(refuse(given(" ", 0)).contains("needs a name"));
        assert!(!path.join("answers.jsonl").exists());

        let labels = path.join("labels.jsonl");
        let text = fs::read_to_string(&labels).unwrap();
        fs::write(&labels, text.replacen("{\"item\":0", "{\"item\":7", 1)).unwrap();
        assert!(keys(&validation).unwrap_err().to_string().contains("labels.jsonl:1: is not the label of item 0"));
        fs::write(path.join("config.toml"), "env = \"cartpole\"\n").unwrap();
        assert!(open(&path).unwrap_err().to_string().contains("is not the configuration of a validation"));
    }
}
