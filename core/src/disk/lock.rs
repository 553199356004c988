//! One writer: a folder that is written to belongs to one process at a time.
//!
//! Whoever writes to a folder holds its [`Claim`]: a lock of the operating system on the file [`LOCK`] in it, which
//! ends with the process, however that ends. The file says who holds it. It stays when they have gone: a lock file that
//! is removed can be locked twice, once by whoever opened it before and once by whoever makes it anew.
//!
//! Reading needs no claim. On NFS, Linux has the server keep these locks, so that machines see each other's.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::calendar::minute;
use super::files::{is_at, is_temporary, make_folder};
use super::lines::from_text;

/// Name of the file that is locked, in every folder that is written to. Nothing that reads folders looks at it.
pub const LOCK: &str = ".pairwise.lock";

/// Levels of folders below a claimed one in which temporary files are looked for: no folder of this program is deeper.
const DEPTH: usize = 4;

/// Set to 1, this lets programs write where a file system has no locks.
const WITHOUT_LOCKS: &str = "PAIRWISE_WITHOUT_LOCKS";

/// How often, and how far apart, a lock file is read until its new holder has written to it.
const LOOKS: u32 = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// A folder that nobody else writes to until this is dropped, or the process has ended.
#[derive(Debug)]
pub struct Claim {
    folder: PathBuf,
    /// `None` where the file system has no locks and the user wants to go on.
    file: Option<File>,
}

/// Who writes to a folder; the content of its lock file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Process id.
    pub process: u32,
    /// Name of the machine.
    pub host: String,
    /// When it began, as `2026-11-30 17:31 UTC`.
    pub since: String,
    /// The command, without its arguments: these may hold what is nobody else's business.
    pub command: String,
}

/// A folder that this process may not write to.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process, or another part of this one, does.
    #[error("{}: {}", path.display(), refusal(holder.as_ref()))]
    Held {
        /// Folder.
        path: PathBuf,
        /// Who; `None` where the lock file does not tell.
        holder: Option<Holder>,
    },
    /// The file system has no locks, so nobody can tell.
    #[error(
        "{}: this file system has no locks ({source}), so another process could write here too: use a folder on \
         another one, or set {WITHOUT_LOCKS}=1 where you know that no other process writes here", path.display()
    )]
    Unsupported {
        /// Folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file system said no.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// Folder or lock file.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// Reason.
        source: io::Error,
    },
}

impl Claim {
    /// Claims a folder, and removes the temporary files that killed processes left in it.
    ///
    /// # Errors
    /// [`LockError::Held`] while somebody else has it; when the folder is missing or cannot be written to.
    pub fn take(folder: &Path) -> Result<Self, LockError> {
        let path = folder.join(LOCK);
        let io = |source| LockError::Io { path: path.clone(), action: "lock the folder", source };
        loop {
            let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            let mut file = open.map_err(io)?;
            if !locked(folder, &file, std::env::var_os(WITHOUT_LOCKS).as_deref())? {
                return Ok(Self { folder: folder.to_owned(), file: None });
            }
            // Whoever had it before may have deleted the folder: then this is the lock of nothing.
            if !is_at(&file, &path).map_err(io)? {
                continue;
            }
            write_holder(&mut file, &Holder::this()).map_err(io)?;
            sweep(folder, DEPTH);
            return Ok(Self { folder: folder.to_owned(), file: Some(file) });
        }
    }

    /// Makes a folder unless it is there, and claims it.
    ///
    /// # Errors
    /// As [`Claim::take`]; when it cannot be made.
    pub fn make(folder: &Path) -> Result<Self, LockError> {
        let io = |source| LockError::Io { path: folder.to_owned(), action: "make the folder", source };
        make_folder(folder).map_err(io)?;
        Self::take(folder)
    }

    /// Gives up a folder in which nothing was done: removes its lock file, and the folder if it is empty then.
    pub fn abandon(self) {
        // Whoever waits for this file sees that it is gone, and makes another.
        fs::remove_file(self.folder.join(LOCK)).ok();
        fs::remove_dir(&self.folder).ok();
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // The file must name nobody who has gone. Closing alone would leave the lock to a child before its exec.
            file.set_len(0).ok();
            file.unlock().ok();
        }
    }
}

impl Holder {
    /// This process.
    fn this() -> Self {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self {
            process: std::process::id(),
            host: host(),
            since: minute(seconds),
            command: command(std::env::args_os()),
        }
    }

    /// Who holds the lock of a folder; `None` where its file does not tell, or nobody does.
    #[must_use]
    pub fn of(folder: &Path) -> Option<Self> {
        let mut text = String::new();
        File::open(folder.join(LOCK)).ok()?.read_to_string(&mut text).ok()?;
        from_text(&text).ok()
    }
}

/// Tries to lock the lock file of a folder; false where there are no locks and the user chose to go on without them:
/// `wish` is the value of [`WITHOUT_LOCKS`].
fn locked(folder: &Path, file: &File, wish: Option<&OsStr>) -> Result<bool, LockError> {
    let path = folder.to_owned();
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => {
            // A holder writes to the file a moment after locking it.
            let holder = (0..LOOKS).find_map(|look| {
                if look > 0 {
                    std::thread::sleep(BETWEEN_LOOKS);
                }
                Holder::of(folder)
            });
            Err(LockError::Held { path, holder })
        }
        Err(TryLockError::Error(source)) if has_no_locks(&source) => match wish {
            Some(wish) if wish == "1" => Ok(false),
            _ => Err(LockError::Unsupported { path, source }),
        },
        Err(TryLockError::Error(source)) => Err(LockError::Io { path, action: "lock the folder", source }),
    }
}

/// Whether an error says that a file system knows no locks, rather than that this one failed.
fn has_no_locks(error: &io::Error) -> bool {
    // ENOLCK, of an NFS whose server has no lock daemon, has no kind of its own.
    let none = if cfg!(target_os = "linux") { 37 } else { 77 };
    error.kind() == ErrorKind::Unsupported || (cfg!(unix) && error.raw_os_error() == Some(none))
}

fn refusal(holder: Option<&Holder>) -> String {
    let Some(holder) = holder else {
        return "is written to by another process, which has not said who it is; wait for it or end it".to_owned();
    };
    let Holder { process, host: of, since, command } = holder;
    let who = format!("process {process} on host {of} since {since} (`{command}`)");
    match *process == std::process::id() && *of == host() {
        true => format!("is written to by this same program already, {who}; close it there first"),
        false => format!("is written to by {who}; wait for it or end it"),
    }
}

/// In one write, so that whoever reads it meanwhile finds nothing or all of it.
fn write_holder(file: &mut File, holder: &Holder) -> io::Result<()> {
    let text = serde_json::to_string(holder).expect("strings and numbers always serialise") + "\n";
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(text.as_bytes())
}

fn host() -> String {
    let read = |path: &str| fs::read_to_string(path).ok();
    let set = |name: &str| std::env::var(name).ok();
    let program = || Some(String::from_utf8_lossy(&Command::new("hostname").output().ok()?.stdout).into_owned());
    let found = read("/proc/sys/kernel/hostname").or_else(|| set("COMPUTERNAME")).or_else(program);
    found.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

/// The words that name a command, and a sign that there was more.
fn command(arguments: impl Iterator<Item = OsString>) -> String {
    // Of a path that is no UTF-8, nothing is shown anyway.
    let all: Vec<String> = arguments.map(|argument| argument.to_string_lossy().into_owned()).collect();
    let name = all.first().and_then(|path| Path::new(path).file_stem()).map(|name| name.to_string_lossy().into_owned());
    let words = || all.iter().skip(1).take(2).take_while(|word| word.bytes().all(|byte| byte.is_ascii_lowercase()));
    let mut text = name.unwrap_or_else(|| "pairwise".to_owned());
    words().for_each(|word| text += &format!(" {word}"));
    if all.len() > 1 + words().count() {
        text += " …";
    }
    text
}

/// Whether a folder holds only what a killed creation leaves: a lock file that nobody holds any more, temporary files,
/// and those of `begun` as empty folders.
///
/// # Errors
/// When it cannot be listed.
pub fn is_vacant(folder: &Path, begun: &[&str]) -> io::Result<bool> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let ours = match entry.file_type()?.is_dir() {
            true => begun.iter().any(|begun| name == *begun) && is_vacant(&entry.path(), &[])?,
            false => name == LOCK || is_temporary(&name),
        };
        if !ours {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes temporary files that nobody writes any more. One that cannot be removed harms nothing.
fn sweep(folder: &Path, depth: usize) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        // Links are not followed.
        let Ok(kind) = entry.file_type() else { continue };
        let path = entry.path();
        if kind.is_dir() {
            // A folder with a lock of its own is its holder's to tidy.
            if depth > 0 && !path.join(LOCK).exists() {
                sweep(&path, depth - 1);
            }
        } else if kind.is_file() && is_temporary(&entry.file_name()) {
            let left = OpenOptions::new().write(true).open(&path);
            if left.is_ok_and(|file| file.try_lock().is_ok()) {
                fs::remove_file(&path).ok();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::fs;
    use std::io::{self, Write as _};
    use std::path::Path;
    use std::process::{Command, Stdio};

    use super::{Claim, Holder, LOCK, LockError, command, has_no_locks, is_vacant, minute, refusal};
    use crate::disk::files::temporary;

    fn names(folder: &Path) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn a_folder_has_one_claim_at_a_time_and_says_whose() {
        let folder = tempfile::tempdir().unwrap();
        let first = Claim::take(folder.path()).unwrap();
        let error = Claim::take(folder.path()).unwrap_err();
        let LockError::Held { holder: Some(holder), .. } = &error else { panic!("{error:?}") };
        assert_eq!(holder, &Holder { since: holder.since.clone(), ..Holder::this() });
        let said = error.to_string();
        for part in [
            format!("{}: is written to by this same program already", folder.path().display()),
            format!("process {} on host {} since 2", std::process::id(), holder.host),
            " UTC (`".to_owned(),
        ] {
            assert!(said.contains(&part), "{said}");
        }
        drop(first);
        assert_eq!(Holder::of(folder.path()), None, "nobody is named who has gone");
        drop(Claim::take(folder.path()).unwrap());
        assert_eq!(names(folder.path()), [LOCK], "the file stays");
        assert!(Claim::take(&folder.path().join("missing")).is_err());
        // The holder deletes the folder, and it is made again: a new lock, which the old one does not touch.
        let made = folder.path().join("new/inner");
        let old = Claim::make(&made).unwrap();
        fs::remove_dir_all(&made).unwrap();
        let new = Claim::make(&made).unwrap();
        drop(old);
        assert_eq!(Holder::of(&made), Some(Holder { since: Holder::of(&made).unwrap().since, ..Holder::this() }));
        assert!(matches!(Claim::take(&made), Err(LockError::Held { .. })));
        drop(new);
    }

    #[test]
    fn others_are_named_and_who_says_nothing_too() {
        let holder = Holder {
            process: std::process::id(),
            host: "elsewhere".to_owned(),
            since: minute(1_796_059_899),
            command: command(["/usr/bin/pairwise", "resume", "runs/a"].map(OsString::from).into_iter()),
        };
        assert_eq!(
            refusal(Some(&holder)),
            format!(
                "is written to by process {} on host elsewhere since 2026-11-30 17:31 UTC (`pairwise resume …`); wait \
                 for it or end it",
                std::process::id()
            )
        );
        assert!(refusal(None).contains("another process, which has not said"));
        let words = |all: &[&str]| command(all.iter().map(OsString::from));
        assert_eq!(words(&["pairwise"]), "pairwise");
        assert_eq!(words(&["a/pairwise.exe", "lm", "dpo", "--data", "x"]), "pairwise lm dpo …");
        assert_eq!(words(&["pairwise", "evals", "--key=secret"]), "pairwise evals …");
        #[cfg(unix)]
        {
            use std::os::unix::ffi::OsStringExt as _;
            let all = ["pairwise".into(), OsString::from_vec(b"\xff".to_vec())];
            assert_eq!(command(all.into_iter()), "pairwise …", "a path that is no UTF-8");
        }
    }

    /// A child that outlives its parent's claim has no part in it.
    #[cfg(unix)]
    #[test]
    fn children_do_not_inherit_a_claim() {
        let folder = tempfile::tempdir().unwrap();
        let claim = Claim::take(folder.path()).unwrap();
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        drop(claim);
        Claim::take(folder.path()).unwrap();
        if cfg!(target_os = "linux") {
            let links = fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap();
            let open = links.filter_map(|link| fs::read_link(link.unwrap().path()).ok());
            assert!(!open.into_iter().any(|path| path.ends_with(LOCK)));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_file_system_without_locks_is_told_from_a_lock_that_failed() {
        let raw = |number| has_no_locks(&io::Error::from_raw_os_error(number));
        if cfg!(target_os = "linux") {
            // ENOSYS, EOPNOTSUPP, ENOLCK; EIO, EBADF.
            assert_eq!([38, 95, 37, 5, 9].map(raw), [true, true, true, false, false]);
        }
        let source = io::Error::from(io::ErrorKind::Unsupported);
        let said = LockError::Unsupported { path: "a".into(), source }.to_string();
        assert!(
            said.contains("a: this file system has no locks") && said.contains("PAIRWISE_WITHOUT_LOCKS=1"),
            "{said}"
        );
    }

    #[test]
    fn what_a_kill_left_is_removed_and_what_is_being_written_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["checkpoints", "own/models"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        // As a killed process leaves it: there, and locked by nobody.
        let left = |place: &str| {
            let file = temporary(&at(place)).unwrap();
            file.as_file().write_all(b"half").unwrap();
            file.keep().unwrap().1
        };
        let (one, two) = (left(""), left("checkpoints"));
        let held = Claim::take(&at("own")).unwrap();
        let others = left("own/models");
        let living = temporary(folder.path()).unwrap();
        fs::write(at(".pairwise-mine"), "mine").unwrap();
        let claim = Claim::take(folder.path()).unwrap();
        assert_eq!([&one, &two].map(|path| path.exists()), [false, false]);
        assert!(others.exists(), "a folder below that has a claim of its own is left alone");
        assert!(living.path().exists() && at(".pairwise-mine").exists());
        living.persist(at("whole")).unwrap();
        drop((claim, held));
        drop(Claim::take(&at("own")).unwrap());
        assert!(!others.exists());
    }

    #[test]
    fn a_folder_is_vacant_with_what_a_killed_creation_leaves() {
        let folder = tempfile::tempdir().unwrap();
        let vacant = || is_vacant(folder.path(), &["checkpoints"]).unwrap();
        assert!(vacant());
        drop(Claim::take(folder.path()).unwrap());
        fs::create_dir(folder.path().join("checkpoints")).unwrap();
        temporary(folder.path()).unwrap().keep().unwrap();
        assert!(vacant());
        fs::write(folder.path().join("checkpoints/mine"), "").unwrap();
        assert!(!vacant());
        fs::remove_file(folder.path().join("checkpoints/mine")).unwrap();
        fs::create_dir(folder.path().join("mine")).unwrap();
        assert!(!vacant());
    }
}
