//! Files of text: read and written with errors that name them.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use super::archive::write_atomically;
use super::error::DiskError;
use super::files::{folder_of, sync_folder};

/// The text of a file; `None` where there is no file.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path) -> Result<Option<String>, DiskError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(DiskError::io(path, "read")(error)),
    }
}

/// Writes a file whole ([`write_atomically`]).
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, text: &str) -> Result<(), DiskError> {
    write_atomically(path, text.as_bytes()).map_err(DiskError::io(path, "write"))
}

/// Adds to a file, which is made if need be. The text goes out in one write, and is on the disk when this returns.
///
/// # Errors
/// When it cannot be written.
pub fn append(path: &Path, text: &str) -> Result<(), DiskError> {
    let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(DiskError::io(path, "open"))?;
    let add = file.write_all(text.as_bytes()).and_then(|()| file.sync_data());
    add.and_then(|()| sync_folder(folder_of(path))).map_err(DiskError::io(path, "write"))
}

/// Makes the folder that a file is to be in.
///
/// # Errors
/// When it cannot be made.
pub fn make_parent(path: &Path) -> Result<(), DiskError> {
    let folder = folder_of(path);
    fs::create_dir_all(folder).map_err(DiskError::io(folder, "make the folder"))
}
