//! Answers of servers on disk, so that nothing is asked twice.
//!
//! A folder of JSON lines `{"key": SHA-256 of the request, "answer": …}`. Every process appends to a file of its own,
//! one write a line, and reads those of others: so several may share the folder, and a line that a killed process left
//! torn is the last of its file.
//!
//! Beside them lies what servers said of their models' weights when they were reached last.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::disk::DiskError;
use crate::disk::archive::write_atomically;
use crate::disk::files::hex;

/// SHA-256 of a request.
pub(super) type Key = [u8; 32];

/// Answers, by their requests.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    /// Lines that could not be read.
    pub(super) dropped: usize,
    state: Mutex<State>,
    /// Somebody has stopped asking.
    asked: Condvar,
}

#[derive(Debug, Default)]
struct State {
    files: Vec<PathBuf>,
    index: HashMap<Key, Place>,
    /// The file of this process, its number and its length.
    own: Option<(File, usize, u64)>,
    /// What is being asked for.
    asking: BTreeSet<Key>,
}

/// Where an answer's line is.
#[derive(Debug, Clone, Copy)]
struct Place {
    file: usize,
    at: u64,
    length: usize,
}

#[derive(Deserialize)]
struct Line<T> {
    key: String,
    answer: T,
}

/// The key of a request: neither the order of fields nor who asks changes it. `fingerprint` is that of the model's weights,
/// where the server tells one.
pub(super) fn key(base: &str, path: &str, body: &Value, fingerprint: Option<&str>) -> Key {
    let mut canonical = body.clone();
    canonical.sort_all_objects();
    let mut hash = Sha256::new();
    for part in [base, path, canonical.to_string().as_str()].into_iter().chain(fingerprint) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// Fingerprints by address and name; .json, as answers are in .jsonl.
const FINGERPRINTS: &str = "fingerprints.json";

/// What is done with a cache, for errors.
const READ: &str = "read the cache of answers";
const WRITE: &str = "write the cache of answers";

impl Cache {
    /// Reads a folder, which is made if it is not there.
    pub(super) fn open(folder: &Path) -> Result<Self, DiskError> {
        fs::create_dir_all(folder).map_err(DiskError::io(folder, "make the cache of answers"))?;
        let failed = DiskError::io(folder, READ);
        let mut files = Vec::new();
        for entry in fs::read_dir(folder).map_err(&failed)? {
            let path = entry.map_err(&failed)?.path();
            if path.extension().is_some_and(|extension| extension == "jsonl") {
                files.push(path);
            }
        }
        files.sort();
        let mut state = State::default();
        let mut dropped = 0;
        for path in files {
            dropped += state.read(&path).map_err(DiskError::io(&path, READ))?;
        }
        Ok(Self { folder: folder.to_owned(), dropped, state: Mutex::new(state), asked: Condvar::new() })
    }

    /// Answers that are kept.
    pub(super) fn len(&self) -> usize {
        self.state().index.len()
    }

    /// An answer that is kept.
    pub(super) fn get(&self, key: &Key) -> Result<Option<Value>, DiskError> {
        let place = {
            let state = self.state();
            state.index.get(key).map(|place| (state.files[place.file].clone(), *place))
        };
        let Some((path, place)) = place else { return Ok(None) };
        let read = || -> io::Result<Option<Value>> {
            let mut file = File::open(&path)?;
            file.seek(SeekFrom::Start(place.at))?;
            let mut bytes = vec![0; place.length];
            file.read_exact(&mut bytes)?;
            // What stands there now may be another request's, or nothing whole: then it is asked again.
            let line = serde_json::from_slice::<Line<Value>>(&bytes).ok();
            Ok(line.filter(|line| line.key == hex(key)).map(|line| line.answer))
        };
        read().map_err(DiskError::io(&path, READ))
    }

    /// Keeps an answer; what comes after this call finds it, also in another process.
    pub(super) fn put(&self, key: Key, answer: &Value) -> Result<(), DiskError> {
        let mut state = self.state();
        let line = format!("{}\n", json!({"key": hex(&key), "answer": answer}));
        let path = match &state.own {
            Some((_, file, _)) => state.files[*file].clone(),
            None => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
                self.folder.join(format!("answers-{since}-{}.jsonl", std::process::id()))
            }
        };
        let failed = DiskError::io(&path, WRITE);
        if state.own.is_none() {
            let file = File::options().append(true).create_new(true).open(&path).map_err(&failed)?;
            state.files.push(path.clone());
            state.own = Some((file, state.files.len() - 1, 0));
        }
        let State { own: Some((file, number, end)), index, .. } = &mut *state else {
            return Ok(());
        };
        if let Err(source) = file.write_all(line.as_bytes()) {
            // A part of the line may be there. Where it cannot be taken back, the next answer begins a new file.
            if file.set_len(*end).is_err() {
                state.own = None;
            }
            return Err(failed(source));
        }
        index.insert(key, Place { file: *number, at: *end, length: line.len() });
        *end += line.len() as u64;
        Ok(())
    }

    /// The fingerprint that a server told last for a model.
    pub(super) fn fingerprint(&self, base: &str, model: &str) -> Result<Option<String>, DiskError> {
        Ok(self.fingerprints()?.remove(&format!("{base}#{model}")))
    }

    /// Keeps what a server tells now.
    pub(super) fn set_fingerprint(&self, base: &str, model: &str, told: Option<&str>) -> Result<(), DiskError> {
        let mut all = self.fingerprints()?;
        let name = format!("{base}#{model}");
        let before = match told {
            Some(told) => all.insert(name, told.to_owned()),
            None => all.remove(&name),
        };
        if before.as_deref() == told {
            return Ok(());
        }
        let path = self.folder.join(FINGERPRINTS);
        let text = format!("{}\n", json!(all));
        write_atomically(&path, text.as_bytes()).map_err(DiskError::io(&path, WRITE))
    }

    fn fingerprints(&self) -> Result<BTreeMap<String, String>, DiskError> {
        let path = self.folder.join(FINGERPRINTS);
        match fs::read(&path) {
            // What cannot be read is told again.
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(DiskError::io(&path, READ)(error)),
        }
    }

    /// Waits while another thread asks for the same.
    pub(super) fn asking(&self, key: Key) -> Asking<'_> {
        let mut state = self.state();
        while !state.asking.insert(key) {
            state = self.asked.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Asking { cache: self, key }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// That this thread asks for something; until it is dropped, no other does.
pub(super) struct Asking<'a> {
    cache: &'a Cache,
    key: Key,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.cache.state().asking.remove(&self.key);
        self.cache.asked.notify_all();
    }
}

impl State {
    /// Reads a file; returns how many lines are no answers.
    fn read(&mut self, path: &Path) -> io::Result<usize> {
        let mut reader = BufReader::new(File::open(path)?);
        self.files.push(path.to_owned());
        let file = self.files.len() - 1;
        let (mut at, mut dropped) = (0, 0);
        let mut line = Vec::new();
        loop {
            line.clear();
            let length = reader.read_until(b'\n', &mut line)?;
            if length == 0 {
                return Ok(dropped);
            }
            // Without its end a line may be torn, or not be whole yet.
            let read = line.ends_with(b"\n").then(|| serde_json::from_slice::<Line<IgnoredAny>>(&line).ok()).flatten();
            match read.and_then(|line| unhex(&line.key)) {
                Some(key) => {
                    self.index.insert(key, Place { file, at, length });
                }
                None => dropped += 1,
            }
            at += length as u64;
        }
    }
}

fn unhex(text: &str) -> Option<Key> {
    let mut key = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (i, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use serde_json::{Value, json};

    use super::{Cache, key};

    #[test]
    fn answers_are_kept_and_torn_lines_are_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        let [a, b] = [json!({"x": 1, "y": [2]}), json!({"x": 2})].map(|body| key("u", "/p", &body, None));
        let cache = Cache::open(&path).unwrap();
        assert_eq!((cache.get(&a).unwrap(), cache.len()), (None, 0));
        cache.put(a, &json!({"text": "é\n"})).unwrap();
        cache.put(b, &json!(3)).unwrap();
        // A second process has a file of its own, and sees what was there when it began.
        let second = Cache::open(&path).unwrap();
        assert_eq!((second.get(&a).unwrap(), second.get(&b).unwrap()), (Some(json!({"text": "é\n"})), Some(json!(3))));
        second.put(a, &json!("newer")).unwrap();
        assert_eq!(second.get(&a).unwrap(), Some(json!("newer")));
        assert_eq!(cache.get(&a).unwrap(), Some(json!({"text": "é\n"})));

        // One is killed in the middle of a line: everything else is there.
        let mut files: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert_eq!(files.len(), 2);
        let mut file = fs::File::options().append(true).open(&files[0]).unwrap();
        file.write_all(b"{\"key\": \"00").unwrap();
        let third = Cache::open(&path).unwrap();
        assert_eq!((third.len(), third.dropped), (2, 1));
        assert_eq!((third.get(&a).unwrap(), third.get(&b).unwrap()), (Some(json!("newer")), Some(json!(3))));
    }

    #[test]
    fn keys_depend_on_what_is_asked_and_whom_but_not_on_the_order_of_fields() {
        let of = |text: &str| key("u", "/p", &serde_json::from_str::<Value>(text).unwrap(), None);
        assert_eq!(of(r#"{"a": 1, "b": {"c": 2, "d": 3}}"#), of(r#"{"b": {"d": 3, "c": 2}, "a": 1}"#));
        assert_ne!(of(r#"{"a": 1}"#), of(r#"{"a": 2}"#));
        let key = |base: &str, path: &str, fingerprint| key(base, path, &json!(1), fingerprint);
        assert_ne!(key("u", "/p", None), key("u/p", "", None));
        assert_ne!(key("u", "/p", None), key("v", "/p", None));
        assert_ne!(key("u", "/p", None), key("u", "/p", Some("a")));
        assert_ne!(key("u", "/p", Some("b")), key("u", "/p", Some("a")));
    }

    #[test]
    fn an_answer_is_that_of_its_key_also_when_the_file_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = [1, 2].map(|n| key("u", "/p", &json!(n), None));
        let cache = Cache::open(folder.path()).unwrap();
        cache.put(a, &json!("one")).unwrap();
        cache.put(b, &json!("two")).unwrap();
        let file = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        let text = fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        fs::write(&file, [lines[1], lines[0]].concat()).unwrap();
        assert_eq!((cache.get(&a).unwrap(), cache.get(&b).unwrap()), (None, None));
    }

    /// Linux has a file that is always full.
    #[cfg(target_os = "linux")]
    #[test]
    fn after_a_full_disk_nothing_else_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b, c] = [1, 2, 3].map(|n| key("u", "/p", &json!(n), None));
        let cache = Cache::open(folder.path()).unwrap();
        cache.put(a, &json!("one")).unwrap();
        let full = fs::File::options().append(true).open("/dev/full").unwrap();
        if let Some((file, _, _)) = &mut cache.state().own {
            *file = full;
        }
        assert!(cache.put(b, &json!("two")).unwrap_err().to_string().contains("cannot write the cache"));
        cache.put(c, &json!("three")).unwrap();
        for cache in [cache, Cache::open(folder.path()).unwrap()] {
            assert_eq!([a, b, c].map(|key| cache.get(&key).unwrap()), [Some(json!("one")), None, Some(json!("three"))]);
            assert_eq!(cache.dropped, 0);
        }
    }

    #[test]
    fn fingerprints_are_kept_by_address_and_name() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        cache.set_fingerprint("u", "m", Some("1")).unwrap();
        cache.set_fingerprint("u", "n", Some("2")).unwrap();
        cache.set_fingerprint("u", "m", Some("3")).unwrap();
        let again = Cache::open(folder.path()).unwrap();
        let found = [("u", "m"), ("u", "n"), ("v", "m")].map(|(base, name)| again.fingerprint(base, name).unwrap());
        assert_eq!(found, [Some("3".to_owned()), Some("2".to_owned()), None]);
        again.set_fingerprint("u", "m", None).unwrap();
        assert_eq!((cache.fingerprint("u", "m").unwrap(), again.dropped), (None, 0));
    }
}
