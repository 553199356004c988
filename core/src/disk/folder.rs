//! A folder that a run of any kind keeps: to read, or claimed by this process to write as well.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::archive::write_atomically;
use super::error::DiskError;
use super::files::{make_folder, missing};
use super::layers::{LayerError, read_layer};
use super::lock::{Claim, is_vacant};

/// A run folder, open to read, or claimed by this process to write as well.
#[derive(Debug, Clone)]
pub struct Folder {
    /// Where it is.
    pub path: PathBuf,
    /// Held until the last clone is dropped; `None` where it is only read.
    claim: Option<Arc<Claim>>,
}

/// A folder that cannot be read, or not as a whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Damaged {
    /// The folder.
    pub path: PathBuf,
    /// Why not, with the file.
    pub problem: String,
}

/// Folders in a run folder that are made before its configuration.
const BEGUN: [&str; 2] = ["checkpoints", "figures"];

impl Folder {
    /// Makes a folder with this text as its configuration, and claims it.
    ///
    /// # Errors
    /// [`DiskError::Occupied`] when something is there already; [`DiskError::Lock`] when somebody else makes it; I/O
    /// errors, after which nothing is left.
    pub fn create_with(path: &Path, config: &str) -> Result<Self, DiskError> {
        if path.join("config.toml").exists() {
            return Err(DiskError::Occupied { path: path.to_owned(), found: "holds another run" });
        }
        let existed = path.exists();
        if existed && !(path.is_dir() && is_vacant(path, &BEGUN).unwrap_or(true)) {
            return Err(DiskError::Occupied { path: path.to_owned(), found: "exists and is not an empty folder" });
        }
        let made = missing(path);
        // Only what is empty: another process may have made the same folders, and hold them by now.
        let take_back = || made.iter().try_for_each(fs::remove_dir);
        let io = DiskError::io(path, "create the run folder");
        make_folder(path).map_err(&io).inspect_err(|_| take_back().unwrap_or_default())?;
        let claim = Claim::take(path).inspect_err(|_| take_back().unwrap_or_default())?;
        // From here on the folder is this process's; another one may have made a whole run of it before.
        if path.join("config.toml").exists() {
            return Err(DiskError::Occupied { path: path.to_owned(), found: "holds another run" });
        }
        let fill = || -> std::io::Result<()> {
            for name in BEGUN {
                make_folder(&path.join(name))?;
            }
            write_atomically(&path.join("config.toml"), config.as_bytes())
        };
        match fill() {
            Ok(()) => Ok(Self { path: path.to_owned(), claim: Some(Arc::new(claim)) }),
            Err(source) => {
                // Take back what this call made, and only that.
                if existed {
                    BEGUN.iter().try_for_each(|name| fs::remove_dir(path.join(name))).ok();
                } else {
                    fs::remove_dir_all(path).ok();
                    made.iter().skip(1).try_for_each(fs::remove_dir).ok();
                }
                Err(io(source))
            }
        }
    }

    /// An existing run folder, to read.
    ///
    /// # Errors
    /// [`DiskError::NotARun`] when it has no configuration.
    pub fn open(path: &Path) -> Result<Self, DiskError> {
        match path.join("config.toml").is_file() {
            true => Ok(Self { path: path.to_owned(), claim: None }),
            false => Err(DiskError::NotARun { path: path.to_owned(), missing: "config.toml" }),
        }
    }

    /// An existing run folder, claimed: nobody else writes to it as long as this or a clone of it is there.
    ///
    /// # Errors
    /// As [`Folder::open`]; [`DiskError::Lock`] while somebody else writes to it.
    pub fn open_to_write(path: &Path) -> Result<Self, DiskError> {
        let folder = Self::open(path)?;
        Ok(Self { claim: Some(Arc::new(Claim::take(path)?)), ..folder })
    }

    /// Writing to a folder without a claim would be a defect of this program.
    ///
    /// # Panics
    /// When the folder is not claimed.
    pub(crate) fn assert_claimed(&self) {
        assert!(self.claim.is_some(), "a folder that is written to is claimed");
    }

    /// The same folder, only to read.
    #[must_use]
    pub fn to_read(&self) -> Self {
        Self { path: self.path.clone(), claim: None }
    }

    /// The ledger.
    #[must_use]
    pub fn ledger(&self) -> PathBuf {
        self.file("labels.jsonl")
    }

    /// A file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// The configuration of a folder, whatever kind of run it is; `None` where there is none.
///
/// # Errors
/// When it cannot be read: then nobody knows what the folder is.
pub fn configuration(folder: &Path) -> Result<Option<toml::Table>, LayerError> {
    let path = folder.join("config.toml");
    match read_layer(&path) {
        // A link that leads nowhere is no configuration either.
        Err(LayerError::Read { source, .. })
            if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        read => read.map(Some),
    }
}
