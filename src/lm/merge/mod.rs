//! Merging checkpoints: [`crate::soup`] over Hugging Face folders, tensor by tensor, and over PEFT's [`adapters`].
//!
//! Whole models are never held: of each tensor the models' values are read from their files, merged, and written, so that
//! memory is that of the largest tensor, once for every model and a few times more. A tensor is written while the next is
//! read and merged, so that it takes about as long as the disk does.

pub mod adapters;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::Serialize;
use serde_json::Value;

use super::folder::{FolderError, INDEX, WEIGHTS, content, io, read_json};
use super::model::Decoder;
use super::tokenizer::{Tokenizer, TokenizerError};
use crate::nn::{constant, to_host};
use crate::soup::{MergeConfig, MergeError, merge};

/// What merging did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MergeReport {
    /// Tensors that were written.
    pub tensors: usize,
    /// Values in them.
    pub parameters: usize,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// Bytes that were written.
    pub bytes_written: u64,
    /// Cosine of the models' weights with the first one's (of task vectors' methods with the base's), least of all.
    pub least_cosine: Option<f64>,
    /// Of adapters: ‖merged − exact‖ / ‖exact‖ over all modules, Frobenius norms.
    pub relative_error: Option<f64>,
}

/// What stops merging.
#[derive(Debug, thiserror::Error)]
pub enum MergeFolderError {
    /// The method's numbers.
    #[error(transparent)]
    Numbers(#[from] MergeError),
    /// A folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Models that do not go together.
    #[error("{0}")]
    Apart(String),
    /// It was asked to stop; nothing of the new model is left.
    #[error("interrupted: nothing was written")]
    Interrupted,
}

/// Models whose weights have a cosine below this were not fine-tuned from one initialisation: independent ones have
/// about 0, fine-tuned ones above 0.9.
pub const LEAST_COSINE: f64 = 0.5;

/// Values of each matrix that the cosine is taken over: enough to tell 0 from 0.5 many times over.
const SAMPLED: usize = 1 << 16;

/// Merges whole models into a new folder, `show` is told of every tensor: how many are done, of how many.
///
/// The first model gives the folder's other files, the precision and the division into files.
///
/// # Errors
/// [`MergeFolderError`]; a folder that was begun is removed.
pub fn merge_models(
    config: &MergeConfig,
    base: Option<&Path>,
    models: &[PathBuf],
    out: &Path,
    unrelated: bool,
    stop: &AtomicBool,
    show: &(dyn Fn(usize, usize) + Sync),
) -> Result<MergeReport, MergeFolderError> {
    config.validate(models.len(), base.is_some())?;
    // What is read, with the origin of task vectors last.
    let folders: Vec<&Path> = models.iter().map(PathBuf::as_path).chain(base).collect();
    let mut read = folders.iter().map(|folder| Checkpoint::open(folder)).collect::<Result<Vec<_>, _>>()?;
    same_shapes(&read)?;
    same_settings(&folders)?;
    same_tokenizers(&folders)?;
    // To the base if it takes part, else to the first.
    let origin = if config.method.needs_base() { read.len() - 1 } else { 0 };
    let least_cosine = least_cosine(&mut read, origin)?;
    if let Some((cosine, other)) = least_cosine
        && cosine < LEAST_COSINE
        && !unrelated
    {
        return Err(MergeFolderError::Apart(format!(
            "{} and {} were not fine-tuned from one initialisation: the cosine of their weights is {cosine:.3}, where independent \
             models have about 0 and fine-tuned ones above 0.9. Between such models a mix is mostly noise; --unrelated mixes them nevertheless",
            folders[origin].display(),
            folders[other].display()
        )));
    }
    let new = NewFolder::make(out)?;
    copy_files(folders[0], out)?;
    let mut report = MergeReport {
        tensors: 0,
        parameters: 0,
        bytes_read: 0,
        bytes_written: 0,
        least_cosine: least_cosine.map(|(cosine, _)| cosine),
        relative_error: None,
    };
    let total = read[0].index.len();
    let shards: Vec<(String, Metadata)> =
        read[0].files.iter().map(|file| (file.name.clone(), file.metadata.clone())).collect();
    let written = thread::scope(|scope| {
        // One tensor is written while the next is made; no third is held.
        let (sender, receiver) = sync_channel(0);
        let writer = scope.spawn(|| write_files(out, &shards, receiver));
        let mut values = vec![Vec::new(); read.len()];
        for tensor in shards.iter().flat_map(|(_, metadata)| metadata.offset_keys()) {
            if stop.load(Ordering::Relaxed) {
                return Err(MergeFolderError::Interrupted);
            }
            let each = read.par_iter_mut().zip(&mut values);
            let found: Vec<_> = each.map(|(one, values)| one.read_into(values, &tensor, usize::MAX)).collect();
            found.into_iter().collect::<Result<(), _>>()?;
            let slices: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
            let (models, base) = slices.split_at(models.len());
            let merged = merge(config, &tensor, base.first().copied(), models);
            report.parameters += merged.len();
            if sender.send(merged).is_err() {
                // The writer has stopped, and says why below.
                break;
            }
            report.tensors += 1;
            show(report.tensors, total);
        }
        drop(sender);
        Ok(writer.join().expect("writing has no panics of its own")?)
    });
    report.bytes_written = written?;
    report.bytes_read = read.iter().map(|one| one.bytes_read).sum();
    new.keep();
    Ok(report)
}

/// The soup of models in memory, without adapters: Σ w_i θ_i.
///
/// # Panics
/// When the models' shapes differ.
#[must_use]
pub fn mixed(models: &[&Decoder], weights: &[f64]) -> Decoder {
    let first = models[0];
    let config = MergeConfig { weights: weights.to_vec(), normalize: Some(false), ..MergeConfig::default() };
    let parameter = |i: usize| {
        let own: Vec<Vec<f32>> = models.iter().map(|model| to_host(model.parameters[i].clone())).collect();
        let slices: Vec<&[f32]> = own.iter().map(Vec::as_slice).collect();
        let mixed = merge(&config, &first.layout.tensors[i].name, None, &slices);
        constant(&mixed, first.layout.tensors[i].shape, &first.device())
    };
    Decoder { parameters: (0..first.parameters.len()).map(parameter).collect(), adapters: None, ..first.clone() }
}

// ------------------------------------------------------------------------------------------------------- whole models

/// The files of a model, opened: tensors are read one at a time.
struct Checkpoint {
    files: Vec<Shard>,
    /// Which file a tensor is in.
    index: BTreeMap<String, usize>,
    bytes_read: u64,
}

/// One safetensors file.
struct Shard {
    name: String,
    path: PathBuf,
    file: File,
    metadata: Metadata,
    /// Where the values begin.
    start: u64,
}

impl Checkpoint {
    fn open(folder: &Path) -> Result<Self, FolderError> {
        let index = folder.join(INDEX);
        let names: BTreeSet<String> = if index.is_file() {
            let map = read_json(&index)?;
            let map = map.get("weight_map").and_then(Value::as_object);
            let map =
                map.ok_or_else(|| content(&index, "field 'weight_map' is missing: must name each tensor's file"))?;
            map.values().filter_map(Value::as_str).map(str::to_owned).collect()
        } else if folder.join(WEIGHTS).is_file() {
            BTreeSet::from([WEIGHTS.to_owned()])
        } else {
            return Err(content(folder, "no model.safetensors and no model.safetensors.index.json here"));
        };
        Self::of_files(folder, names)
    }

    fn of_files(folder: &Path, names: BTreeSet<String>) -> Result<Self, FolderError> {
        let files = names.into_iter().map(|name| Shard::open(folder, name)).collect::<Result<Vec<_>, _>>()?;
        let tensors = files
            .iter()
            .enumerate()
            .flat_map(|(i, file)| file.metadata.offset_keys().into_iter().map(move |name| (name, i)));
        Ok(Self { index: tensors.collect(), files, bytes_read: 0 })
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.files[*self.index.get(name)?].metadata.info(name)
    }

    fn read(&mut self, name: &str) -> Result<Vec<f32>, FolderError> {
        let mut values = Vec::new();
        self.read_into(&mut values, name, usize::MAX)?;
        Ok(values)
    }

    /// The first values of a tensor, as many as are wanted, in the place of what was read before: memory that is asked for
    /// anew has to be cleared by the system.
    fn read_into(&mut self, values: &mut Vec<f32>, name: &str, most: usize) -> Result<(), FolderError> {
        let shard = &mut self.files[*self.index.get(name).expect("names are those of the index")];
        let info = shard.metadata.info(name).expect("the index was made from the metadata");
        let width = width(info.dtype).ok_or_else(|| {
            let problem = format!("tensor '{name}' is of type {}: must be F32, F16, BF16 or F64", info.dtype);
            content(&shard.path, &problem)
        })?;
        let count = ((info.data_offsets.1 - info.data_offsets.0) / width).min(most);
        let dtype = info.dtype;
        let at = shard.start + info.data_offsets.0 as u64;
        shard.file.seek(SeekFrom::Start(at)).map_err(|error| io(&shard.path, error))?;
        values.clear();
        values.reserve_exact(count);
        let mut bytes = vec![0; BUFFER.min(count * width)];
        while values.len() < count {
            let wanted = ((count - values.len()) * width).min(BUFFER);
            let part = &mut bytes[..wanted];
            shard.file.read_exact(part).map_err(|error| io(&shard.path, error))?;
            let before = values.len();
            append(values, dtype, part);
            // All of a part at once, which vectors can do; looking for the first one goes value by value.
            let finite = values[before..].iter().fold(true, |finite, value| finite & value.is_finite());
            if !finite {
                let at = values.iter().position(|value| !value.is_finite()).unwrap_or(before);
                let problem =
                    format!("tensor '{name}' has the value {} at index {at}: weights must be finite", values[at]);
                return Err(content(&shard.path, &problem));
            }
        }
        self.bytes_read += (count * width) as u64;
        Ok(())
    }
}

/// Bytes that are read at once; a multiple of every type's width.
const BUFFER: usize = 1 << 20;

/// Longest header of a safetensors file, as the format's own reader has it, bytes.
const LONGEST_HEADER: u64 = 100_000_000;

impl Shard {
    fn open(folder: &Path, name: String) -> Result<Self, FolderError> {
        let path = folder.join(&name);
        let mut file = File::open(&path).map_err(|error| io(&path, error))?;
        let length = file.metadata().map_err(|error| io(&path, error))?.len();
        let broken = |reason: &dyn std::fmt::Display| {
            content(&path, &format!("not a whole safetensors file ({reason}): was it copied to its end?"))
        };
        let mut eight = [0; 8];
        file.read_exact(&mut eight).map_err(|error| broken(&error))?;
        let header = u64::from_le_bytes(eight);
        if header > LONGEST_HEADER.min(length) {
            return Err(broken(&"its header is longer than the file"));
        }
        let mut text = vec![0; usize::try_from(header).expect("it is at most 10⁸")];
        file.read_exact(&mut text).map_err(|error| broken(&error))?;
        let metadata: Metadata = serde_json::from_slice(&text).map_err(|error| broken(&error))?;
        let start = 8 + header;
        if start + metadata.data_len() as u64 != length {
            return Err(broken(&format!(
                "it should have {} bytes and has {length}",
                start + metadata.data_len() as u64
            )));
        }
        Ok(Self { name, path, file, metadata, start })
    }
}

fn width(dtype: Dtype) -> Option<usize> {
    match dtype {
        Dtype::F64 => Some(8),
        Dtype::F32 => Some(4),
        Dtype::F16 | Dtype::BF16 => Some(2),
        _ => None,
    }
}

fn append(values: &mut Vec<f32>, dtype: Dtype, bytes: &[u8]) {
    match dtype {
        Dtype::F64 => values.extend(bytes.as_chunks().0.iter().map(|eight| f64::from_le_bytes(*eight) as f32)),
        Dtype::F16 => values.extend(bytes.as_chunks().0.iter().map(|two| f16::from_le_bytes(*two).to_f32())),
        Dtype::BF16 => values.extend(bytes.as_chunks().0.iter().map(|two| bf16::from_le_bytes(*two).to_f32())),
        _ => values.extend(bytes.as_chunks().0.iter().map(|four| f32::from_le_bytes(*four))),
    }
}

/// Writes the files of a new model; tensors come in the files' order. Returns how many bytes it wrote, which are fewer than all
/// when no more tensors came.
fn write_files(out: &Path, shards: &[(String, Metadata)], tensors: Receiver<Vec<f32>>) -> Result<u64, FolderError> {
    let mut tensors = tensors.into_iter();
    let mut written = 0;
    for (name, metadata) in shards {
        let path = out.join(name);
        let wrong = |error| io(&path, error);
        let mut file = File::create(&path).map_err(wrong)?;
        written += write_header(&mut file, metadata).map_err(wrong)?;
        let mut unsynced = 0;
        for tensor in metadata.offset_keys() {
            let Some(values) = tensors.next() else { return Ok(written) };
            let dtype = metadata.info(&tensor).map_or(Dtype::F32, |info| info.dtype);
            for part in values.chunks(SYNCED / 8) {
                let bytes = write_values(&mut file, dtype, part).map_err(wrong)?;
                written += bytes;
                unsynced += bytes;
                if unsynced >= SYNCED as u64 {
                    file.sync_data().map_err(wrong)?;
                    unsynced = 0;
                }
            }
        }
        file.sync_all().map_err(wrong)?;
    }
    Ok(written)
}

/// Bytes after which the disk is made to write: left alone, the system keeps everything in memory until the end, and the disk
/// has nothing to do until then.
const SYNCED: usize = 64 << 20;

fn write_header(writer: &mut impl std::io::Write, metadata: &Metadata) -> std::io::Result<u64> {
    let mut text = serde_json::to_vec(metadata)?;
    // The values begin at a multiple of eight bytes.
    text.resize(text.len().next_multiple_of(8), b' ');
    writer.write_all(&(text.len() as u64).to_le_bytes())?;
    writer.write_all(&text)?;
    Ok(8 + text.len() as u64)
}

fn write_values(writer: &mut impl std::io::Write, dtype: Dtype, values: &[f32]) -> std::io::Result<u64> {
    fn fill<const N: usize>(bytes: &mut [u8], values: &[f32], of: impl Fn(f32) -> [u8; N]) {
        bytes.as_chunks_mut().0.iter_mut().zip(values).for_each(|(slot, value)| *slot = of(*value));
    }
    let width = width(dtype).unwrap_or(4);
    let mut bytes = vec![0; BUFFER];
    for part in values.chunks(BUFFER / width) {
        let bytes = &mut bytes[..part.len() * width];
        match dtype {
            Dtype::F64 => fill(bytes, part, |value| f64::from(value).to_le_bytes()),
            Dtype::F16 => fill(bytes, part, |value| f16::from_f32(value).to_le_bytes()),
            Dtype::BF16 => fill(bytes, part, |value| bf16::from_f32(value).to_le_bytes()),
            _ => fill(bytes, part, f32::to_le_bytes),
        }
        writer.write_all(bytes)?;
    }
    Ok((values.len() * width) as u64)
}

fn same_shapes(read: &[Checkpoint]) -> Result<(), MergeFolderError> {
    let apart = |problem: String| Err(MergeFolderError::Apart(problem));
    let first = &read[0];
    let place = |one: &Checkpoint| one.files[0].path.display().to_string();
    for other in &read[1..] {
        for name in first.index.keys() {
            let (Some(own), found) = (first.info(name), other.info(name)) else { continue };
            let Some(found) = found else {
                return apart(format!("{}: tensor '{name}' is missing, which {} has", place(other), place(first)));
            };
            if own.shape != found.shape {
                return apart(format!(
                    "{}: tensor '{name}' has the shape {:?}, but in {} {:?}: only models of one architecture and size can be merged",
                    place(other),
                    found.shape,
                    place(first),
                    own.shape
                ));
            }
        }
        if let Some(name) = other.index.keys().find(|name| !first.index.contains_key(*name)) {
            return apart(format!("{}: tensor '{name}' is missing, which {} has", place(first), place(other)));
        }
    }
    Ok(())
}

/// Fields of `config.json` by which the same tensors make another model.
const SETTINGS: [&str; 10] = [
    "model_type",
    "num_attention_heads",
    "num_key_value_heads",
    "n_head",
    "head_dim",
    "rope_theta",
    "rope_parameters",
    "hidden_act",
    "rms_norm_eps",
    "layer_norm_epsilon",
];

fn same_settings(folders: &[&Path]) -> Result<(), MergeFolderError> {
    let configs = folders.iter().map(|folder| read_json(&folder.join("config.json"))).collect::<Result<Vec<_>, _>>()?;
    for (other, folder) in configs.iter().zip(folders).skip(1) {
        for field in SETTINGS {
            // The same may be said in several ways; what both say must agree.
            if let (Some(own), Some(found)) = (configs[0].get(field), other.get(field))
                && own != found
            {
                return Err(MergeFolderError::Apart(format!(
                    "{}: {field} = {found}, but in {} {own}: these are other models",
                    folder.join("config.json").display(),
                    folders[0].display()
                )));
            }
        }
    }
    Ok(())
}

fn same_tokenizers(folders: &[&Path]) -> Result<(), MergeFolderError> {
    let mut first: Option<(&Path, String)> = None;
    for folder in folders.iter().filter(|folder| folder.join("tokenizer.json").is_file()) {
        let own = Tokenizer::load(folder)?.fingerprint();
        let (other, known) = first.get_or_insert_with(|| (folder, own.clone()));
        if *known != own {
            return Err(MergeFolderError::Apart(format!(
                "{} and {} have different tokenizers: their embeddings stand for other tokens",
                other.display(),
                folder.display()
            )));
        }
    }
    Ok(())
}

/// The least cosine of a model's weights with those of `origin`, over the first values of every matrix, and which model
/// has it.
fn least_cosine(read: &mut [Checkpoint], origin: usize) -> Result<Option<(f64, usize)>, FolderError> {
    // Vectors are left out: normalisations begin as ones everywhere.
    let matrices: Vec<String> = read[0]
        .index
        .keys()
        .filter(|name| read[0].info(name).is_some_and(|info| info.shape.len() > 1))
        .cloned()
        .collect();
    let mut sums = vec![[0.0; 3]; read.len()];
    let mut values = vec![Vec::new(); read.len()];
    for name in &matrices {
        for (one, values) in read.iter_mut().zip(&mut values) {
            one.read_into(values, name, SAMPLED)?;
        }
        for (sums, own) in sums.iter_mut().zip(&values) {
            for (a, b) in own.iter().zip(&values[origin]) {
                let (a, b) = (f64::from(*a), f64::from(*b));
                sums[0] += a * b;
                sums[1] += a * a;
                sums[2] += b * b;
            }
        }
    }
    let cosines = sums.iter().enumerate().filter(|(i, _)| *i != origin);
    let cosines = cosines.map(|(i, [product, own, other])| (product / (own * other).sqrt(), i));
    Ok(cosines.filter(|(cosine, _)| cosine.is_finite()).min_by(|a, b| a.0.total_cmp(&b.0)))
}

/// A folder that is removed again unless it is kept.
struct NewFolder<'a>(Option<&'a Path>);

impl<'a> NewFolder<'a> {
    fn make(path: &'a Path) -> Result<Self, FolderError> {
        if path.exists() {
            return Err(content(path, "is there already: choose another --out, or remove it"));
        }
        fs::create_dir_all(path).map_err(|error| io(path, error))?;
        Ok(Self(Some(path)))
    }

    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for NewFolder<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.0 {
            let _ = fs::remove_dir_all(path);
        }
    }
}

/// Everything but weights, of which the new ones are written.
fn copy_files(from: &Path, to: &Path) -> Result<(), FolderError> {
    let skipped = |name: &str| {
        let binary = [".safetensors", ".bin", ".pt", ".pth", ".gguf"].iter().any(|end| name.ends_with(end));
        binary || name.starts_with('.')
    };
    copy_if(from, to, &|name| !skipped(name))
}

fn copy_tokenizer(from: &Path, to: &Path) -> Result<(), FolderError> {
    let own = ["vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json"];
    copy_if(from, to, &|name| name.starts_with("tokenizer") || name.starts_with("chat_template") || own.contains(&name))
}

fn copy_if(from: &Path, to: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<(), FolderError> {
    let entries = fs::read_dir(from).map_err(|error| io(from, error))?;
    for entry in entries {
        let entry = entry.map_err(|error| io(from, error))?;
        let name = entry.file_name();
        if entry.path().is_file() && name.to_str().is_some_and(wanted) {
            fs::copy(entry.path(), to.join(&name)).map_err(|error| io(&entry.path(), error))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::sync::atomic::AtomicBool;

    use burn::tensor::Device;
    use rand::RngExt as _;
    use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
    use serde_json::Value;

    use super::{MergeFolderError, MergeReport, merge_models};
    use crate::lm::config::{ModelConfig, SmallLlama};
    use crate::lm::folder::{read, write};
    use crate::lm::model::Decoder;
    use crate::nn::{constant, to_host};
    use crate::random::stream;
    use crate::soup::{MergeConfig, Method};

    const SIZE: SmallLlama = SmallLlama { vocabulary: 50, hidden: 16, layers: 2, heads: 2, context: 32 };

    pub(super) fn start() -> Decoder {
        Decoder::new(ModelConfig::small_llama(SIZE), 3, &Device::flex())
    }

    /// The start with some noise, as fine-tuning would change it.
    pub(super) fn tuned(seed: u64) -> Decoder {
        let mut model = start();
        for (i, tensor) in model.parameters.iter_mut().enumerate() {
            let mut rng = stream(seed, "noise", i as u64);
            let noise: Vec<f32> =
                (0..tensor.shape().num_elements()).map(|_| rng.random_range(-0.005..0.005_f32)).collect();
            *tensor = tensor.clone() + constant(&noise, tensor.dims(), &Device::flex());
        }
        model
    }

    fn values(model: &Decoder) -> Vec<f32> {
        model.parameters.iter().flat_map(|tensor| to_host(tensor.clone())).collect()
    }

    fn merged(
        config: &MergeConfig,
        base: Option<&Path>,
        models: &[PathBuf],
        out: &Path,
    ) -> Result<MergeReport, MergeFolderError> {
        merge_models(config, base, models, out, false, &AtomicBool::new(false), &|_, _| ())
    }

    pub(super) fn soup(weights: &[f64]) -> MergeConfig {
        MergeConfig { weights: weights.to_vec(), ..MergeConfig::default() }
    }

    #[test]
    fn a_merged_folder_is_a_model_of_the_mixed_weights() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        let (a, b) = (tuned(1), tuned(2));
        write(&start(), None, &place("base")).unwrap();
        write(&a, None, &place("a")).unwrap();
        write(&b, None, &place("b")).unwrap();
        std::fs::write(place("a").join("README.md"), "mine").unwrap();
        let models = [place("a"), place("b")];

        let report = merged(&soup(&[0.3, 0.7]), None, &models, &place("soup")).unwrap();
        assert_eq!(report.parameters, values(&a).len());
        assert!(report.least_cosine.unwrap() > 0.9, "{report:?}");
        let found = read(&place("soup"), &Device::flex()).unwrap();
        assert_eq!(found.remarks, Vec::<String>::new());
        for ((found, a), b) in values(&found.decoder).iter().zip(values(&a)).zip(values(&b)) {
            let expected = 0.3 * f64::from(a) + 0.7 * f64::from(b);
            assert!(
                (f64::from(*found) - expected).abs() < 1e-7 * expected.abs().max(0.1),
                "{found}, expected {expected}"
            );
        }
        assert_eq!(std::fs::read_to_string(place("soup").join("README.md")).unwrap(), "mine");

        // A task vector added in full is the model itself.
        let config = MergeConfig { method: Method::TaskArithmetic, ..soup(&[1.0]) };
        let _ = merged(&config, Some(&place("base")), &models[..1], &place("task")).unwrap();
        for (found, expected) in values(&read(&place("task"), &Device::flex()).unwrap().decoder).iter().zip(values(&a))
        {
            assert!((found - expected).abs() < 1e-7);
        }
    }

    /// Writes a model's tensors anew: in two files with an index, in another type.
    fn in_two_files(from: &Path, to: &Path, dtype: Dtype) {
        std::fs::create_dir_all(to).unwrap();
        std::fs::copy(from.join("config.json"), to.join("config.json")).unwrap();
        let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut names = tensors.names();
        names.sort_unstable();
        let converted: Vec<(String, Vec<usize>, Vec<u8>)> = names
            .iter()
            .map(|name| {
                let view = tensors.tensor(name).unwrap();
                let values = view.data().chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap()));
                let bytes = match dtype {
                    Dtype::BF16 => values.flat_map(|value| half::bf16::from_f32(value).to_le_bytes()).collect(),
                    _ => values.flat_map(|value| half::f16::from_f32(value).to_le_bytes()).collect(),
                };
                ((*name).to_owned(), view.shape().to_vec(), bytes)
            })
            .collect();
        let mut index = serde_json::Map::new();
        for (i, part) in converted.chunks(converted.len().div_ceil(2)).enumerate() {
            let file = format!("model-0000{}-of-00002.safetensors", i + 1);
            let views = part.iter().map(|(name, shape, bytes)| {
                index.insert(name.clone(), Value::from(file.clone()));
                (name.clone(), TensorView::new(dtype, shape.clone(), bytes).unwrap())
            });
            serialize_to_file(views.collect::<Vec<_>>(), None, &to.join(&file)).unwrap();
        }
        let index = serde_json::json!({ "metadata": {}, "weight_map": index });
        std::fs::write(to.join("model.safetensors.index.json"), index.to_string()).unwrap();
    }

    #[test]
    fn shards_and_half_precision_are_those_of_the_first_model() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        let (a, b) = (tuned(1), tuned(2));
        write(&a, None, &place("a")).unwrap();
        write(&b, None, &place("b")).unwrap();
        for (dtype, precision) in [(Dtype::BF16, 1.0 / 256.0), (Dtype::F16, 1.0 / 2048.0)] {
            let (halved, out) = (place(&format!("{dtype}")), place(&format!("{dtype}-soup")));
            in_two_files(&place("a"), &halved, dtype);
            let _ = merged(&soup(&[0.5, 0.5]), None, &[halved, place("b")], &out).unwrap();
            assert!(out.join("model-00002-of-00002.safetensors").is_file());
            assert!(!out.join("model.safetensors").exists());
            for ((found, a), b) in
                values(&read(&out, &Device::flex()).unwrap().decoder).iter().zip(values(&a)).zip(values(&b))
            {
                let expected = 0.5 * (a + b);
                // Once when the first was written, once now.
                let allowed = precision * (a.abs() + expected.abs()) + 1e-6;
                assert!((found - expected).abs() <= allowed, "{dtype}: {found}, expected {expected}");
            }
        }
    }

    #[test]
    fn models_that_do_not_go_together_are_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        write(&tuned(1), None, &place("a")).unwrap();
        write(&tuned(2), None, &place("b")).unwrap();
        let stranger = Decoder::new(ModelConfig::small_llama(SIZE), 77, &Device::flex());
        write(&stranger, None, &place("stranger")).unwrap();
        let wide = Decoder::new(ModelConfig::small_llama(SmallLlama { vocabulary: 60, ..SIZE }), 3, &Device::flex());
        write(&wide, None, &place("wide")).unwrap();
        let deep = Decoder::new(ModelConfig::small_llama(SmallLlama { layers: 3, ..SIZE }), 3, &Device::flex());
        write(&deep, None, &place("deep")).unwrap();
        write(&tuned(2), None, &place("turned")).unwrap();
        let config = place("turned").join("config.json");
        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, text.replace("10000.0", "500000.0")).unwrap();
        write(&tuned(2), None, &place("short")).unwrap();
        let weights = place("short").join("model.safetensors");
        let bytes = std::fs::read(&weights).unwrap();
        std::fs::write(&weights, &bytes[..bytes.len() - 1]).unwrap();
        write(&tuned(2), None, &place("broken")).unwrap();
        let mut bytes = std::fs::read(place("broken").join("model.safetensors")).unwrap();
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&f32::INFINITY.to_le_bytes());
        std::fs::write(place("broken").join("model.safetensors"), bytes).unwrap();

        let out = place("out");
        let two = soup(&[0.5, 0.5]);
        for (other, expected) in [
            ("stranger", "were not fine-tuned from one initialisation: the cosine of their weights is"),
            ("wide", "has the shape [60, 16], but in"),
            ("deep", "tensor 'model.layers.2.input_layernorm.weight' is missing, which"),
            ("turned", "these are other models"),
            ("short", "not a whole safetensors file (it should have"),
            ("broken", "has the value inf at index"),
            ("none", "no model.safetensors and no model.safetensors.index.json here"),
        ] {
            let error = merged(&two, None, &[place("a"), place(other)], &out).unwrap_err().to_string();
            assert!(error.contains(expected), "{other}: {error}");
            assert!(!out.exists(), "{other}");
        }
        let error = merged(&soup(&[1.0]), None, &[place("a"), place("b")], &out).unwrap_err().to_string();
        assert_eq!(error, "weights: there are 1 for 2 models: must be one for each");
        let error = merged(&two, None, &[place("a"), place("b")], &place("b")).unwrap_err().to_string();
        assert!(error.contains("is there already"), "{error}");
        let stopped =
            merge_models(&two, None, &[place("a"), place("b")], &out, false, &AtomicBool::new(true), &|_, _| ());
        assert!(matches!(stopped, Err(MergeFolderError::Interrupted)) && !out.exists());
        // Asked for, strangers are merged.
        let models = [place("a"), place("stranger")];
        let merged = merge_models(&two, None, &models, &out, true, &AtomicBool::new(false), &|_, _| ());
        assert!(merged.unwrap().least_cosine.unwrap().abs() < 0.3);
    }
}
