//! What several layers ask of the file system.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;

/// Whether the file that is open is the one that stands at `path`. Where the system has no numbers for files, it is taken
/// to be.
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

/// Has the disk keep the names in a folder: after a file was made there, or renamed into it. A file's own sync does not.
///
/// # Errors
/// When the disk cannot write. A folder that may not be read, and a file system that syncs no folders, are none.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
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
pub(crate) fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
