//! Changes of a run's configuration while it goes on: `changes.jsonl`, one object a line.
//!
//! ```json
//! {"at":{"iteration":4,"env_steps":3000,"session":5},"fields":{"steps":{"old":3000,"new":6000}},"time":"2026-11-30T18:00:00Z"}
//! ```
//!
//! `config.toml` stays as it was at the start. A change takes effect at its logical time, between two iterations (steps,
//! in language models), so that a replay does the same at the same place: the start's configuration, the ledger and the
//! changes say all of a run. From there on everything is as the new configuration says of this point of a run: an
//! annealed learning rate and the schedule of questions follow the new totals.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::archive::{Archive, write_atomically};
use super::{RunError, lines};

/// The file in a run's folder.
pub const FILE: &str = "changes.jsonl";

/// A change; `At` is a run's logical time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change<At> {
    /// When it takes effect.
    pub at: At,
    /// What changes, by the names that `--set` has.
    pub fields: Fields,
    /// When it was asked for, UTC.
    pub time: String,
}

/// What changes, by name.
pub type Fields = BTreeMap<String, Values>;

/// A value before and after; absent where there was, or is, none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Values {
    /// Before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<Value>,
    /// After.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<Value>,
}

/// A place in time of an agent's run: between two iterations, before an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moment {
    /// Environment steps taken.
    pub env_steps: usize,
    /// Label sessions, or exchanges with a person, so far.
    pub session: usize,
    /// Iterations done.
    pub iteration: usize,
}

/// Fields, or tables of fields, and why they may or may not change while a run goes on.
pub type Rules = [(&'static str, &'static str)];

/// What of an agent's run may change, with what that does.
pub const MAY: &Rules = &[
    ("steps", "how long the run goes on"),
    ("evaluation_episodes", "only measures"),
    ("checkpoint_every", "only saves"),
    ("preferences.labels", "the schedule of questions follows the new total"),
    ("preferences.online", "whether questions come while the agent learns"),
    ("preferences.rate_half", "how the questions that are left are spread"),
    ("preferences.candidates", "of the next questions"),
    ("preferences.sampler", "of the next questions"),
    ("preferences.ahead", "of the next questions"),
    ("preferences.lead", "how far training may be ahead of a person"),
    ("preferences.repeat_every", "of the next questions"),
    ("preferences.window_steps", "of the next questions"),
    ("reward_model.l2_rate", "of the next fits"),
    ("reward_model.learning_rate", "of the next fits"),
    ("reward_model.batch_size", "of the next fits"),
    ("reward_model.steps", "of the next fits"),
    ("ppo.epochs", "of the next updates"),
    ("ppo.minibatch_size", "of the next updates"),
    ("ppo.learning_rate", "of the next updates"),
    ("ppo.anneal_learning_rate", "of the next updates"),
    ("ppo.gae_lambda", "of the next updates"),
    ("ppo.clip_range", "of the next updates"),
    ("ppo.anneal_clip_range", "of the next updates"),
    ("ppo.entropy_coefficient", "of the next updates"),
    ("ppo.value_coefficient", "of the next updates"),
    ("ppo.max_gradient_norm", "of the next updates"),
    ("ppo.normalize_advantages", "of the next updates"),
];

/// What of it may not, with the reason.
pub const MAY_NOT: &Rules = &[
    ("env", "the networks and all that was seen belong to it"),
    ("seed", "every draw comes from it, also those of the past"),
    ("reward", "it would be another experiment; `pairwise train --init RUN` begins one with this policy"),
    ("init", "the run has begun"),
    ("device", "another device changes the last bits of every number, so that a replay could not agree"),
    ("preferences.first_share", "the first questions are asked"),
    ("preferences.first_rounds", "the first questions are asked"),
    ("preferences.segment_steps", "the clips that were compared have this length"),
    ("preferences.rater", "the answers so far are those of the other"),
    ("preferences.teacher", "the answers so far are those of the other"),
    ("preferences.wanted", "the answers so far are about it"),
    ("preferences.random_steps", "they are taken"),
    ("reward_model.members", "the members are there"),
    ("reward_model.bootstrap", "the members were trained so"),
    ("reward_model.holdout", "what a member has seen cannot be held out"),
    ("reward_model.adaptive_l2", "the members were trained so"),
    ("reward_model.l2", "it is where the coefficient began"),
    ("reward_model.likelihood", "the rewards so far have its scale"),
    ("reward_model.normalize_members", "the value function was trained on rewards of this scale"),
    ("reward_model.reward_std", "the value function was trained on rewards of this scale"),
    ("reward_model.hidden", "the networks have this shape"),
    ("reward_model.activation", "the networks have this shape"),
    ("reward_model.first_steps", "they are taken"),
    ("reward_model.target", "it would be another experiment"),
    ("ppo.envs", "iterations are counted in rollouts of this size"),
    ("ppo.rollout_steps", "iterations are counted in rollouts of this size"),
    ("ppo.gamma", "the value function was trained with it"),
    ("ppo.hidden", "the networks have this shape"),
    ("ppo.activation", "the networks have this shape"),
    ("ppo.initial_log_std", "it is where the weights began"),
    ("ppo.normalize_observations", "the policy was trained so"),
    ("ppo.scale_rewards", "the value function was trained on rewards of this scale"),
];

/// What `--set` changes of a configuration.
///
/// # Errors
/// The first field that may not change, with the reason and with what may.
pub fn planned(old: &Table, new: &Table, may: &Rules, may_not: &Rules) -> Result<Fields, String> {
    let mut fields = Fields::new();
    for Difference { field, .. } in differences(old, new) {
        let of = |rules: &Rules| rules.iter().copied().find(|(name, _)| covers(name, &field));
        match of(may) {
            // The whole value: a sampler is a word or a table.
            Some((name, _)) => {
                fields.insert(name.to_owned(), Values { old: at(old, name).cloned(), new: at(new, name).cloned() });
            }
            None => {
                let why = of(may_not).map_or("a run stays as it began", |(_, why)| why);
                let names: Vec<&str> = may.iter().map(|(name, _)| *name).collect();
                return Err(format!("--set {field}: cannot change in a run: {why}. What can: {}", names.join(", ")));
            }
        }
    }
    Ok(fields)
}

/// Whether a rule's name is that of a field or of a table around it.
fn covers(name: &str, field: &str) -> bool {
    field.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Lets a change take effect in a configuration; one that has taken effect already changes nothing.
///
/// # Errors
/// When a field has another value than the change found there.
pub fn apply(table: &mut Table, fields: &Fields) -> Result<(), String> {
    for (field, Values { old, new }) in fields {
        let present = at(table, field);
        if present != old.as_ref() && present != new.as_ref() {
            return Err(format!("changes {field} from {}, but it is {}", shown(old.as_ref()), shown(present)));
        }
        put(table, field, new.clone());
    }
    Ok(())
}

/// A field in which two configurations differ.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Its name, as `--set` has it.
    pub field: String,
    /// Its value in the first.
    pub first: Option<Value>,
    /// In the second.
    pub second: Option<Value>,
}

/// All fields in which two configurations differ.
#[must_use]
pub fn differences(first: &Table, second: &Table) -> Vec<Difference> {
    fn walk(first: &Table, second: &Table, path: &str, found: &mut Vec<Difference>) {
        for name in first.keys().chain(second.keys().filter(|name| !first.contains_key(*name))) {
            let field = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            match (first.get(name), second.get(name)) {
                (Some(Value::Table(first)), Some(Value::Table(second))) => walk(first, second, &field, found),
                (first, second) if first != second => {
                    found.push(Difference { field, first: first.cloned(), second: second.cloned() });
                }
                _ => {}
            }
        }
    }
    let mut found = Vec::new();
    walk(first, second, "", &mut found);
    found
}

/// Why a checkpoint does not belong to a configuration, field by field; `None` where it does.
///
/// `stored` is the configuration that it was made with; `candidates` those that the folder may mean. A stored one of
/// another version of the program is compared in what both have.
#[must_use]
pub fn misfit<C: Serialize + DeserializeOwned>(stored: &str, candidates: &[C]) -> Option<String> {
    let table = |config: &C| Table::try_from(config).expect("a configuration always serialises");
    let text = stored.parse::<Table>().ok()?;
    // What is new since has its default there, as in the folder's own.
    let known = toml::from_str::<C>(stored).ok().map(|config| table(&config));
    let of = |candidate: &C| {
        let mut found = differences(known.as_ref().unwrap_or(&text), &table(candidate));
        found.retain(|one| known.is_some() || (one.first.is_some() && one.second.is_some()));
        found
    };
    let all: Vec<Vec<Difference>> = candidates.iter().map(of).collect();
    let found = all.into_iter().min_by_key(Vec::len).filter(|found| !found.is_empty())?;
    let mut words = String::new();
    for (i, Difference { field, first, second }) in found.iter().enumerate() {
        let and = if i > 0 { "; " } else { "" };
        let (made, says) = (shown(first.as_ref()), shown(second.as_ref()));
        write!(words, "{and}{field}: the checkpoint was made with {made}, config.toml says {says}").ok();
    }
    Some(words)
}

/// A value as TOML.
fn shown(value: Option<&Value>) -> String {
    value.map_or_else(|| "nothing".to_owned(), ToString::to_string)
}

fn at<'a>(table: &'a Table, field: &str) -> Option<&'a Value> {
    match field.split_once('.') {
        None => table.get(field),
        Some((name, rest)) => at(table.get(name)?.as_table()?, rest),
    }
}

fn put(table: &mut Table, field: &str, value: Option<Value>) {
    match (field.split_once('.'), value) {
        (None, Some(value)) => {
            table.insert(field.to_owned(), value);
        }
        (None, None) => {
            table.remove(field);
        }
        (Some((name, rest)), value) => {
            let inner = table.entry(name.to_owned()).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

/// The changes of a run's folder, in their order. A torn last one never took effect, and is left out.
///
/// # Errors
/// When the file cannot be read, or a line is none that this program writes.
pub fn read<At: DeserializeOwned>(folder: &Path) -> Result<Vec<Change<At>>, RunError> {
    let path = folder.join(FILE);
    let all = lines::read::<Change<At>>(&path);
    let all = all.map_err(|source| RunError::Io { path: path.clone(), action: "read the changes", source })?;
    let (changes, bad) = lines::split(all);
    match bad.into_iter().find(|bad| !bad.torn) {
        Some(bad) => Err(RunError::Changes { path, line: bad.line, reason: bad.reason }),
        None => Ok(changes),
    }
}

/// Adds a change to a run's folder; when this returns, it is on the disk.
///
/// # Errors
/// When the file cannot be written.
pub fn append<At: Serialize + DeserializeOwned>(folder: &Path, change: Change<At>) -> Result<(), RunError> {
    let mut all = read::<At>(folder)?;
    all.push(change);
    write(folder, &all)
}

/// Writes all changes of a run's folder.
///
/// # Errors
/// When the file cannot be written.
pub fn write<At: Serialize>(folder: &Path, changes: &[Change<At>]) -> Result<(), RunError> {
    let path: PathBuf = folder.join(FILE);
    let text: String = changes.iter().map(lines::line).collect();
    write_atomically(&path, text.as_bytes()).map_err(|source| RunError::Io {
        path,
        action: "write the changes",
        source,
    })
}

/// Name in a checkpoint of the changes that had taken effect when it was made.
const SEEN: &str = "changes";

/// Notes in a checkpoint which changes have taken effect.
pub(crate) fn note<At: Serialize>(archive: &mut Archive, seen: &[Change<At>]) {
    archive.put(SEEN, &seen);
}

/// Checks that a checkpoint has seen what a run's folder has `recorded` of the time before it, and nothing else. One of
/// before these were noted fits any.
///
/// # Errors
/// [`RunError::Changes`] with the first line that differs.
pub(crate) fn check_seen<At>(
    folder: &Path,
    recorded: &[Change<At>],
    archive: &Archive,
    checkpoint: &Path,
    now: &At,
) -> Result<(), RunError>
where
    At: PartialOrd + Serialize + DeserializeOwned,
{
    if !archive.meta.contains_key(SEEN) {
        return Ok(());
    }
    let seen: Vec<Change<At>> =
        archive.get(SEEN).map_err(|source| RunError::Misfit { path: checkpoint.to_owned(), source })?;
    let name = checkpoint.file_name().unwrap_or(checkpoint.as_os_str()).display();
    for index in 0..seen.len().max(recorded.len()) {
        let reason = match (seen.get(index), recorded.get(index)) {
            (Some(seen), Some(recorded)) if seen == recorded => continue,
            (Some(seen), found) => {
                let is = if found.is_some() { "was edited" } else { "is missing" };
                format!("{is}: the checkpoint {name} was made after this change: {}", lines::line(seen).trim_end())
            }
            (None, Some(recorded)) if recorded.at < *now => {
                format!("was not there when the checkpoint {name} was made, and is about an earlier time: take it out")
            }
            (None, _) => break,
        };
        return Err(RunError::Changes { path: folder.join(FILE), line: index + 1, reason });
    }
    Ok(())
}

/// The time now as RFC 3339 has it, UTC, to the second.
#[must_use]
pub fn now() -> String {
    rfc3339(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

/// Seconds since 1970 as a date and a time (Hinnant 2013, `civil_from_days`).
fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + 400 * era + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use toml::Table;

    use super::{Change, MAY, MAY_NOT, Moment, append, apply, covers, misfit, planned, read, rfc3339};
    use crate::run::config::{Config, set_layer};

    fn table(config: &Config) -> Table {
        Table::try_from(config).unwrap()
    }

    fn config() -> Config {
        set(&Config::preset("pendulum").unwrap(), &["steps=150000", "preferences.labels=350", "ppo.gamma=0.99"])
    }

    fn set(config: &Config, assignments: &[&str]) -> Config {
        config.with(&assignments.iter().map(|one| set_layer(one).unwrap()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn it_is_decided_of_every_field_whether_it_may_change() {
        let mut full = config();
        (full.init, full.preferences.wanted) = (Some("run".into()), Some("a loop".to_owned()));
        fn leaves(table: &Table, path: &str, found: &mut Vec<String>) {
            for (name, value) in table {
                let field = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match value.as_table() {
                    Some(inner) => leaves(inner, &field, found),
                    None => found.push(field),
                }
            }
        }
        let mut fields = Vec::new();
        leaves(&table(&full), "", &mut fields);
        assert!(fields.len() > 40);
        for field in &fields {
            let rules = MAY.iter().chain(MAY_NOT).filter(|(name, _)| covers(name, field)).count();
            assert_eq!(rules, 1, "{field}");
        }
        for (name, _) in MAY.iter().chain(MAY_NOT) {
            assert!(fields.iter().any(|field| covers(name, field)), "{name} is no field");
        }
    }

    #[test]
    fn a_change_takes_effect_once_and_names_what_does_not_fit() {
        let old = config();
        let new = set(&old, &["steps=300000", "ppo.learning_rate=1e-4", "preferences.sampler=entropy"]);
        let fields = planned(&table(&old), &table(&new), MAY, MAY_NOT).unwrap();
        assert_eq!(fields.keys().collect::<Vec<_>>(), ["ppo.learning_rate", "preferences.sampler", "steps"]);
        let mut found = table(&old);
        for _ in 0..2 {
            apply(&mut found, &fields).unwrap();
            assert_eq!(Config::from_table(found.clone()).unwrap(), new);
        }
        let mut other = table(&set(&old, &["steps=200000"]));
        assert_eq!(apply(&mut other, &fields).unwrap_err(), "changes steps from 150000, but it is 200000");
        for (assignment, expected) in [
            ("seed=3", "--set seed: cannot change in a run: every draw"),
            ("ppo.gamma=0.9", "--set ppo.gamma: cannot change in a run: the value function"),
            ("preferences.teacher.mistake=0.5", "--set preferences.teacher.mistake: cannot change"),
        ] {
            let new = set(&old, &[assignment]);
            let error = planned(&table(&old), &table(&new), MAY, MAY_NOT).unwrap_err();
            assert!(error.starts_with(expected) && error.contains("What can: steps, "), "{error}");
        }
    }

    #[test]
    fn changes_are_lines_that_can_be_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let old = config();
        let fields = planned(&table(&old), &table(&set(&old, &["steps=300000"])), MAY, MAY_NOT).unwrap();
        let change = |iteration| Change {
            at: Moment { env_steps: 100 * iteration, session: 5, iteration },
            fields: fields.clone(),
            time: rfc3339(1_796_061_599),
        };
        append(folder.path(), change(3)).unwrap();
        let path = folder.path().join("changes.jsonl");
        let text = std::fs::read_to_string(&path).unwrap();
        let expected = "{\"at\":{\"env_steps\":300,\"session\":5,\"iteration\":3},\
                        \"fields\":{\"steps\":{\"old\":150000,\"new\":300000}},\"time\":\"2026-11-30T17:59:59Z\"}\n";
        assert_eq!(text, expected);
        // What a kill left of one that never took effect.
        std::fs::write(&path, format!("{text}{{\"at\":")).unwrap();
        append(folder.path(), change(4)).unwrap();
        assert_eq!(read::<Moment>(folder.path()).unwrap(), [change(3), change(4)]);
        std::fs::write(&path, format!("{{\"at\":\n{text}")).unwrap();
        let error = read::<Moment>(folder.path()).unwrap_err().to_string();
        assert!(error.contains("changes.jsonl: line 1: is not a JSON object"), "{error}");
    }

    #[test]
    fn a_difference_is_named_field_by_field() {
        let old = config();
        let new = set(&old, &["ppo.gamma=0.9", "preferences.labels=7"]);
        assert_eq!(misfit(&old.to_toml(), std::slice::from_ref(&old)), None);
        assert_eq!(misfit(&old.to_toml(), &[new.clone(), old.clone()]), None);
        let found = misfit(&old.to_toml(), &[new]).unwrap();
        let expected = "ppo.gamma: the checkpoint was made with 0.99, config.toml says 0.9; \
                        preferences.labels: the checkpoint was made with 350, config.toml says 7";
        assert_eq!(found, expected);
        // Of another version: only what both have is compared.
        let mut stored = table(&old);
        stored.remove("checkpoint_every");
        stored.insert("gone".to_owned(), 1.into());
        assert_eq!(misfit(&toml::to_string(&stored).unwrap(), std::slice::from_ref(&old)), None);
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        // `date -u -d @N`.
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(4_107_542_399), "2100-02-28T23:59:59Z");
    }
}
