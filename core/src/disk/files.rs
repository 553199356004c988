//! What this program asks of the file system.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Around the random part of a temporary file's name.
const TEMPORARY: [&str; 2] = [".pairwise-", ".part"];

/// Whether an open file is the one that stands at `path`; assumed where the system has no numbers for files.
///
/// # Errors
/// When either cannot be asked for.
pub(crate) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let own = file.metadata()?;
        Ok((own.dev(), own.ino()) == (found.dev(), found.ino()))
    }
    #[cfg(not(unix))]
    Ok(file.metadata()?.is_file() == found.is_file())
}

/// Syncs the names in a folder, after a file was made there or renamed into it: the file's own sync does not.
///
/// # Errors
/// When the disk cannot write. A folder that may not be read is no error, nor is a file system that syncs no folders.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        match File::open(folder).and_then(|folder| folder.sync_all()) {
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::InvalidInput | ErrorKind::Unsupported | ErrorKind::PermissionDenied
                ) =>
            {
                Ok(())
            }
            other => other,
        }
    }
    #[cfg(not(unix))]
    {
        // Windows opens no folders as files, and writes their entries with the files.
        let _ = folder;
        Ok(())
    }
}

/// The folder that a file is in.
pub fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a folder with those above it, and syncs their names.
///
/// # Errors
/// The file system's; a link to nowhere is named.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    let missing = missing(folder);
    fs::create_dir_all(folder).map_err(|error| broken_link(folder).map_or(error, io::Error::other))?;
    missing.iter().try_for_each(|made| sync_folder(folder_of(made)))
}

/// Those of a folder and the folders above it that do not exist, the deepest first.
pub(crate) fn missing(folder: &Path) -> Vec<PathBuf> {
    folder.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.exists()).map(Path::to_owned).collect()
}

/// What is wrong with a path that goes through a link to nowhere. The system says that there is no such file, or, to
/// whoever wants to make it, that there is one.
#[must_use]
pub fn broken_link(path: &Path) -> Option<String> {
    let link = path.components().as_path().ancestors().find(|one| one.is_symlink() && !one.exists())?;
    let to = fs::read_link(link).ok()?;
    Some(format!("{} is a link to {}, which is not there", link.display(), to.display()))
}

/// A new file to be renamed when it is whole. It is locked as long as it is open:
/// [`Claim::take`](super::lock::Claim::take) removes those that nobody holds.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn temporary(folder: &Path) -> io::Result<NamedTempFile> {
    let [before, after] = TEMPORARY;
    loop {
        let file = tempfile::Builder::new().prefix(before).suffix(after).tempfile_in(folder)?;
        match file.as_file().try_lock() {
            Ok(()) if is_at(file.as_file(), file.path())? => return Ok(file),
            // Another process took it for a leftover, before it was locked.
            Ok(()) | Err(TryLockError::WouldBlock) => {}
            // Without locks nothing is removed either.
            Err(TryLockError::Error(_)) => return Ok(file),
        }
    }
}

pub(crate) fn is_temporary(name: &OsStr) -> bool {
    let [before, after] = TEMPORARY;
    name.to_str().is_some_and(|name| name.starts_with(before) && name.ends_with(after))
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
