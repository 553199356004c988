//! Everything a checkpoint holds, in one `.safetensors` file: named arrays, and a JSON object for the rest.
//!
//! The JSON object stands in the file's metadata under the name `pairwise`, as `{"sha256":"…","state":{…}}`. The
//! checksum covers the state's text and all arrays with their names, types and shapes, so that a flipped bit is found.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use super::files::{folder_of, hex, sync_folder, temporary};
use super::lines::{field_problem, typed};
use crate::finite;

/// Named arrays and a JSON object.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Archive {
    arrays: BTreeMap<String, Array>,
    /// Everything that is not an array.
    pub meta: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Clone, PartialEq)]
struct Array {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// A checkpoint that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The file system said no.
    #[error("{}: {source}", path.display())]
    Io {
        /// File.
        path: PathBuf,
        /// Reason.
        source: std::io::Error,
    },
    /// Not a safetensors file, or a torn one.
    #[error("{}: not a readable checkpoint ({reason}); use an older one from the same folder", path.display())]
    Format {
        /// File.
        path: PathBuf,
        /// Reason.
        reason: String,
    },
    /// The file was changed since it was written.
    #[error(
        "{}: damaged: its content gives the checksum {found}…, not {expected}…, so it was changed after it was written \
         (a disk can flip a bit); use another copy or an older one",
        path.display()
    )]
    Damaged {
        /// File.
        path: PathBuf,
        /// Beginning of the checksum that it was written with.
        expected: String,
        /// Beginning of the one that its content gives.
        found: String,
    },
    /// An array with a number that is not finite: nothing can be computed from it.
    #[error("{}: array '{name}' holds {found} at place {place}; every number must be finite", path.display())]
    NotFinite {
        /// File.
        path: PathBuf,
        /// Array.
        name: String,
        /// What was found.
        found: f64,
        /// Where in the array.
        place: usize,
    },
    /// Something is missing or has another size.
    #[error("checkpoint entry '{name}': expected {expected}, found {found}")]
    Entry {
        /// Entry.
        name: String,
        /// What would be right.
        expected: String,
        /// What is there.
        found: String,
    },
}

/// Key of the JSON object among the file's metadata.
const META_KEY: &str = "pairwise";

/// What the metadata's text begins with: the checksum follows.
const BEFORE: &str = "{\"sha256\":\"";
/// What stands between the checksum and the state, which a closing brace follows.
const BETWEEN: &str = "\",\"state\":";
/// Hexadecimal digits of a checksum.
const DIGITS: usize = 64;

impl ArchiveError {
    pub(crate) fn entry(name: &str, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::Entry { name: name.to_owned(), expected: expected.into(), found: found.into() }
    }
}

impl Archive {
    /// Adds an array of f32.
    pub fn put_f32(&mut self, name: impl Into<String>, shape: &[usize], values: &[f32]) {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.arrays.insert(name.into(), Array { dtype: Dtype::F32, shape: shape.to_vec(), bytes });
    }

    /// Adds an array of f64.
    pub fn put_f64(&mut self, name: impl Into<String>, shape: &[usize], values: &[f64]) {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.arrays.insert(name.into(), Array { dtype: Dtype::F64, shape: shape.to_vec(), bytes });
    }

    /// Adds anything serialisable to the JSON object.
    pub fn put(&mut self, name: &str, value: &impl Serialize) {
        let value = serde_json::to_value(value).expect("plain state structs always serialise");
        self.meta.insert(name.to_owned(), value);
    }

    /// Reads an array of f32 of the given shape.
    ///
    /// # Errors
    /// [`ArchiveError::Entry`] when it is missing or has another shape or type.
    pub fn f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ArchiveError> {
        Ok(floats(self.bytes(name, Dtype::F32, Some(shape))?, f32::from_le_bytes).collect())
    }

    /// Reads an array of f32 of any shape.
    ///
    /// # Errors
    /// [`ArchiveError::Entry`] when it is missing or has another type.
    pub fn f32_any(&self, name: &str) -> Result<Vec<f32>, ArchiveError> {
        Ok(floats(self.bytes(name, Dtype::F32, None)?, f32::from_le_bytes).collect())
    }

    /// Reads an array of f64 of any shape.
    ///
    /// # Errors
    /// [`ArchiveError::Entry`] when it is missing or has another type.
    pub fn f64_any(&self, name: &str) -> Result<Vec<f64>, ArchiveError> {
        Ok(floats(self.bytes(name, Dtype::F64, None)?, f64::from_le_bytes).collect())
    }

    /// Reads something from the JSON object.
    ///
    /// # Errors
    /// [`ArchiveError::Entry`] when it is missing or something else.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Result<T, ArchiveError> {
        let entry = |found: &str| ArchiveError::entry(name, std::any::type_name::<T>(), found);
        let value = self.meta.get(name).ok_or_else(|| entry("nothing"))?;
        typed(value).map_err(|e| entry(&field_problem(&e)))
    }

    /// Refuses numbers that are not finite, except in arrays whose names begin with one of `except`.
    ///
    /// # Errors
    /// [`ArchiveError::NotFinite`] with the first one; `path` is the file that it comes from or goes to.
    pub fn check_finite(&self, path: &Path, except: &[&str]) -> Result<(), ArchiveError> {
        for (name, array) in &self.arrays {
            if except.iter().any(|prefix| name.starts_with(prefix)) {
                continue;
            }
            let found = match array.dtype {
                Dtype::F32 => finite::first(floats(&array.bytes, f32::from_le_bytes).map(f64::from)),
                Dtype::F64 => finite::first(floats(&array.bytes, f64::from_le_bytes)),
                _ => None,
            };
            if let Some((place, found)) = found {
                return Err(ArchiveError::NotFinite { path: path.to_owned(), name: name.clone(), found, place });
            }
        }
        Ok(())
    }

    fn bytes(&self, name: &str, dtype: Dtype, shape: Option<&[usize]>) -> Result<&[u8], ArchiveError> {
        let expected = || match shape {
            Some(shape) => format!("{dtype:?} {shape:?}"),
            None => format!("{dtype:?}"),
        };
        let entry = |found: String| ArchiveError::entry(name, expected(), found);
        let array = self.arrays.get(name).ok_or_else(|| entry("nothing".to_owned()))?;
        if array.dtype != dtype || shape.is_some_and(|shape| shape != array.shape) {
            return Err(entry(format!("{:?} {:?}", array.dtype, array.shape)));
        }
        Ok(&array.bytes)
    }

    /// Writes the archive to a temporary file beside `path` and renames it: a crash leaves the old file or the new
    /// one, never half of one.
    ///
    /// # Errors
    /// [`ArchiveError::Io`] when the file system refuses.
    pub fn save(&self, path: &Path) -> Result<(), ArchiveError> {
        let views: Vec<(&str, TensorView<'_>)> = self
            .arrays
            .iter()
            .map(|(name, a)| {
                let view = TensorView::new(a.dtype, a.shape.clone(), &a.bytes);
                (name.as_str(), view.expect("the put functions store as many bytes as the shape says"))
            })
            .collect();
        let state = serde_json::to_string(&self.meta).expect("a JSON object always serialises");
        let meta = format!("{BEFORE}{}{BETWEEN}{state}}}", self.checksum(&state));
        // One entry: several would be written in an order of their own each time.
        let meta = HashMap::from([(META_KEY.to_owned(), meta)]);
        let bytes = safetensors::serialize(views, Some(meta))
            .map_err(|e| ArchiveError::Format { path: path.to_owned(), reason: e.to_string() })?;
        write_atomically(path, &bytes).map_err(|source| ArchiveError::Io { path: path.to_owned(), source })
    }

    /// SHA-256 of the JSON object's text and of all arrays, as hexadecimal digits.
    fn checksum(&self, state: &str) -> String {
        let mut hash = Sha256::new();
        // Lengths first, so that no two contents give the same bytes.
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        part(state.as_bytes());
        for (name, Array { dtype, shape, bytes }) in &self.arrays {
            part(name.as_bytes());
            part(format!("{dtype:?} {shape:?}").as_bytes());
            part(bytes);
        }
        hex(&hash.finalize())
    }

    /// Reads an archive, and checks that it is as it was written. Older archives, which have no checksum, are read too.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read, is not what [`Archive::save`] writes, or was changed since.
    pub fn load(path: &Path) -> Result<Self, ArchiveError> {
        let bytes = fs::read(path).map_err(|source| ArchiveError::Io { path: path.to_owned(), source })?;
        let format = |reason: String| ArchiveError::Format { path: path.to_owned(), reason };
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| format(e.to_string()))?;
        let meta = header.metadata().as_ref().and_then(|m| m.get(META_KEY));
        let meta = meta.ok_or_else(|| format("it was not written by pairwise".to_owned()))?;
        let (checksum, state) = parts(meta).map_err(&format)?;
        let meta = serde_json::from_str(state).map_err(|e| format(e.to_string()))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| format(e.to_string()))?;
        let array = |(name, view): (String, TensorView<'_>)| {
            (name, Array { dtype: view.dtype(), shape: view.shape().to_vec(), bytes: view.data().to_vec() })
        };
        let archive = Self { arrays: tensors.tensors().into_iter().map(array).collect(), meta };
        let found = archive.checksum(state);
        match checksum {
            Some(expected) if expected != found => Err(ArchiveError::Damaged {
                path: path.to_owned(),
                expected: expected[..12].to_owned(),
                found: found[..12].to_owned(),
            }),
            _ => Ok(archive),
        }
    }
}

/// Checksum and state in the metadata's text; without a checksum, all of it is the state.
fn parts(meta: &str) -> Result<(Option<&str>, &str), String> {
    let checksummed = || {
        let (checksum, rest) = meta.strip_prefix(BEFORE)?.split_at_checked(DIGITS)?;
        let state = rest.strip_prefix(BETWEEN)?.strip_suffix('}')?;
        checksum.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')).then_some((Some(checksum), state))
    };
    // A damaged checksum must not pass for an older file without one.
    let between = meta.get(BEFORE.len() + DIGITS..).is_some_and(|rest| rest.starts_with(BETWEEN));
    match checksummed() {
        Some(parts) => Ok(parts),
        None if between || meta.starts_with(BEFORE) => Err("its checksum is damaged".to_owned()),
        None => Ok((None, meta)),
    }
}

/// Numbers from their little-endian bytes.
fn floats<'a, const N: usize, T: 'a>(bytes: &'a [u8], read: fn([u8; N]) -> T) -> impl Iterator<Item = T> + 'a {
    bytes.chunks_exact(N).map(move |b| read(b.try_into().expect("chunks of so many bytes")))
}

/// Writes a file so that it is whole or not there: temporary name, sync, rename, sync of the folder. A link stays a
/// link, and the file that it leads to is written. Anything but a plain file, such as `/dev/null`, is written directly.
///
/// # Errors
/// Those of the file system; the temporary file is removed again.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let real = fs::canonicalize(path);
    let path = real.as_deref().unwrap_or(path);
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return fs::write(path, bytes);
    }
    let mut file = temporary(folder_of(path))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    // Temporary files are private; results are as readable as any other file the user makes.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    }
    file.persist(path).map_err(|e| e.error)?;
    sync_folder(folder_of(path))
}

#[cfg(test)]
mod tests {
    use super::{Archive, ArchiveError};

    /// As files were before they had checksums.
    fn save_plain(archive: &Archive, path: &std::path::Path) {
        let meta = [("pairwise".to_owned(), serde_json::to_string(&archive.meta).unwrap())].into();
        let views = archive
            .arrays
            .iter()
            .map(|(name, a)| (name, safetensors::tensor::TensorView::new(a.dtype, a.shape.clone(), &a.bytes).unwrap()));
        std::fs::write(path, safetensors::serialize(views, Some(meta)).unwrap()).unwrap();
    }

    fn sample() -> Archive {
        let mut archive = Archive::default();
        archive.put_f32("a", &[2, 3], &[1.0, -2.5, f32::MIN_POSITIVE, 0.1, 1e30, -0.0]);
        archive.put_f64("b", &[2], &[std::f64::consts::PI, 1e-300]);
        archive.put("n", &7_u64);
        archive
    }

    #[test]
    fn what_is_saved_is_loaded_to_the_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        sample().save(&path).unwrap();
        assert_eq!(Archive::load(&path).unwrap(), sample());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays behind");
    }

    /// Issue 28, found/robust: a checkpoint with one NaN in its arrays never ended.
    #[test]
    fn an_array_with_a_number_that_is_not_finite_is_named() {
        let path = std::path::Path::new("x.safetensors");
        assert!(sample().check_finite(path, &[]).is_ok());
        for wrong in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut archive = sample();
            archive.put_f64("b", &[2], &[1.0, wrong]);
            let error = archive.check_finite(path, &[]).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("x.safetensors: array 'b' holds {wrong} at place 1; every number must be finite")
            );
            assert!(archive.check_finite(path, &["b"]).is_ok());
            archive.put_f32("a.weight", &[1], &[wrong as f32]);
            assert!(archive.check_finite(path, &["b"]).unwrap_err().to_string().contains("'a.weight'"));
        }
    }

    #[test]
    fn every_bit_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        sample().save(&path).unwrap();
        let intact = std::fs::read(&path).unwrap();
        let mut damaged = 0;
        for bit in 0..8 * intact.len() {
            let mut bytes = intact.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bytes).unwrap();
            let error = Archive::load(&path).expect_err(&format!("bit {bit} of {} was turned over", 8 * intact.len()));
            assert!(error.to_string().contains("x.safetensors"), "{error}");
            damaged += usize::from(matches!(error, ArchiveError::Damaged { .. }));
        }
        // All of the arrays, at least.
        assert!(damaged >= 8 * (24 + 16), "{damaged}");
    }

    #[test]
    fn files_of_before_there_were_checksums_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        save_plain(&sample(), &path);
        assert_eq!(Archive::load(&path).unwrap(), sample());
        save_plain(&Archive::default(), &path);
        assert_eq!(Archive::load(&path).unwrap(), Archive::default());
    }

    #[test]
    fn the_same_content_is_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let save = |name: &str| {
            let path = folder.path().join(name);
            sample().save(&path).unwrap();
            std::fs::read(path).unwrap()
        };
        assert_eq!(save("x"), save("y"));
    }

    #[test]
    fn wrong_sizes_and_torn_files_are_named() {
        let error = sample().f32("a", &[3, 2]).unwrap_err().to_string();
        assert_eq!(error, "checkpoint entry 'a': expected F32 [3, 2], found F32 [2, 3]");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        sample().save(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for len in 0..bytes.len() {
            std::fs::write(&path, &bytes[..len]).unwrap();
            assert!(matches!(Archive::load(&path), Err(ArchiveError::Format { .. })), "{len} bytes");
        }
    }
}
