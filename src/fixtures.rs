//! Where the files lie that tests read.

use std::path::{Path, PathBuf};

/// A file or folder in `tests/data`: every clone has it.
pub(crate) fn own(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// One in `../shared/data`, which is too large for a clone. A test that needs it is ignored, with this reason, and `.ci/run`
/// runs it where the data are.
pub(crate) fn shared(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(name);
    assert!(path.exists(), "{} is not there", path.display());
    path
}
