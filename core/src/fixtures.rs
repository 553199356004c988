//! Where the files lie that tests read.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// A file or folder in `tests/data`: every clone has it.
pub(crate) fn own(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data").join(name)
}

/// One in `../shared/data`, which is too large for a clone. A test that needs it is ignored, with this reason, and `.ci/run`
/// runs it where the data are.
pub(crate) fn shared(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data").join(name);
    assert!(path.exists(), "{} is not there", path.display());
    path
}

/// A file of JSON.
pub(crate) fn json(path: impl AsRef<Path>) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}
