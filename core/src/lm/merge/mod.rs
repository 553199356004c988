//! Merging checkpoints: [`crate::soup`] over Hugging Face folders, tensor by tensor, and over PEFT's [`adapters`].
//!
//! Whole models are never in memory: one tensor at a time is read from all files, merged, and written. So the memory is
//! that of the largest tensor, once for every model and a few times more. A tensor is written while the next one is
//! read and merged, so merging takes about as long as the disk needs.

pub mod adapters;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::Serialize;
use serde_json::Value;

use super::config::{Family, HARMLESS, ModelConfig, Output};
use super::fields::{FolderError, content, read_json, write_json};
use super::folder::weights::{HEAD, TensorFile, Weights, finite, wrong_type};
use super::model::Decoder;
use super::tokenizer::{Tokenizer, TokenizerError};
use crate::disk::DiskError;
use crate::disk::files::{folder_of, sync_folder};
use crate::nn::{constant, to_host};
use crate::soup::{MergeConfig, MergeError, merge};

/// Figures of a merge.
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
    /// The least cosine of a model's weights with the first model's or, in methods with task vectors, the base's.
    pub least_cosine: Option<f64>,
    /// For adapters: ‖merged − exact‖ / ‖exact‖ over all modules, Frobenius norms.
    pub relative_error: Option<f64>,
}

/// What stops merging.
#[derive(Debug, thiserror::Error)]
pub enum MergeFolderError {
    /// The numbers of the method cannot be used.
    #[error(transparent)]
    Numbers(#[from] MergeError),
    /// A folder cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A tokenizer cannot be read.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The models do not fit together.
    #[error("{0}")]
    Apart(String),
    /// It was asked to stop; nothing of the new model is left.
    #[error("interrupted: nothing was written")]
    Interrupted,
}

/// Models whose weights have a cosine below this were not fine-tuned from one initialisation: independent models have
/// about 0, fine-tuned ones above 0.9.
pub const LEAST_COSINE: f64 = 0.5;

/// How many values of each matrix the cosine is computed from: more than enough to tell 0 from 0.5.
const SAMPLED: usize = 1 << 16;

/// Merges whole models into a new folder. `show` is called after every tensor: how many are done, of how many.
///
/// The first model gives the other files of the folder, the precision, and the division into files.
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
    // All folders that are read; the base of task vectors is the last one.
    let folders: Vec<&Path> = models.iter().map(PathBuf::as_path).chain(base).collect();
    let mut read = folders.iter().map(|folder| Checkpoint::open(folder)).collect::<Result<Vec<_>, _>>()?;
    let tied = same_settings(&folders, &read)?;
    same_shapes(&read)?;
    same_tokenizers(&folders)?;
    // Distances are measured from the base if the method has one, or else from the first model.
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
    true_config(out, &read[0], tied)?;
    let mut report = MergeReport {
        tensors: 0,
        parameters: 0,
        bytes_read: 0,
        bytes_written: 0,
        least_cosine: least_cosine.map(|(cosine, _)| cosine),
        relative_error: None,
    };
    let total = read[0].weights.index.len();
    let shards: Vec<(String, Metadata)> =
        read[0].weights.files.iter().map(|file| (file.name.clone(), file.metadata.clone())).collect();
    let written = thread::scope(|scope| {
        // One tensor is written while the next one is made. There is never a third one in memory.
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
            // Random draws depend on a tensor's name. A head that is the embedding must get the embedding's draws.
            let drawn = match tied == Some(true) && tensor == HEAD {
                true => read[0].weights.embedding().unwrap_or(&tensor),
                false => &tensor,
            };
            let merged = merge(config, drawn, base.first().copied(), models);
            report.parameters += merged.len();
            if sender.send(merged).is_err() {
                // The writer has stopped. Its error is returned below.
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

/// A model's files, from which one tensor is read at a time.
struct Checkpoint {
    weights: Weights,
    bytes_read: u64,
}

impl Checkpoint {
    fn open(folder: &Path) -> Result<Self, FolderError> {
        Ok(Self { weights: Weights::open(folder)?, bytes_read: 0 })
    }

    fn read(&mut self, name: &str) -> Result<Vec<f32>, FolderError> {
        let mut values = Vec::new();
        self.read_into(&mut values, name, usize::MAX)?;
        Ok(values)
    }

    /// Reads the first values of a tensor, at most `most`, in the place of what was read before: the system would have
    /// to clear new memory.
    fn read_into(&mut self, values: &mut Vec<f32>, name: &str, most: usize) -> Result<(), FolderError> {
        let TensorFile { path, metadata, start, file, .. } =
            &mut self.weights.files[*self.weights.index.get(name).expect("names are those of the index")];
        let &TensorInfo { dtype, data_offsets: (first, end), .. } =
            metadata.info(name).expect("the index was made from the metadata");
        let width = width(dtype).ok_or_else(|| wrong_type(path, name, dtype))?;
        let count = ((end - first) / width).min(most);
        let read = || DiskError::io(path, "read");
        file.seek(SeekFrom::Start((*start + first) as u64)).map_err(read())?;
        values.clear();
        values.reserve_exact(count);
        let mut bytes = vec![0; BUFFER.min(count * width)];
        while values.len() < count {
            let wanted = ((count - values.len()) * width).min(BUFFER);
            let part = &mut bytes[..wanted];
            file.read_exact(part).map_err(read())?;
            let before = values.len();
            append(values, dtype, part);
            // The check of a whole part is fast; only the search for the value that is not finite goes value by value.
            if !values[before..].iter().fold(true, |finite, value| finite & value.is_finite()) {
                finite(path, name, values)?;
            }
        }
        self.bytes_read += (count * width) as u64;
        Ok(())
    }
}

/// Bytes that are read at once; a multiple of every type's width.
const BUFFER: usize = 1 << 20;

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

/// Writes the files of a new model. Tensors come in the order of the files. Returns how many bytes were written; they
/// are fewer than the files should have if the tensors end early.
fn write_files(out: &Path, shards: &[(String, Metadata)], tensors: Receiver<Vec<f32>>) -> Result<u64, FolderError> {
    let mut tensors = tensors.into_iter();
    let mut written = 0;
    for (name, metadata) in shards {
        let path = out.join(name);
        let wrong = || DiskError::io(&path, "write");
        let mut file = File::create(&path).map_err(wrong())?;
        written += write_header(&mut file, metadata).map_err(wrong())?;
        let mut unsynced = 0;
        for tensor in metadata.offset_keys() {
            let Some(values) = tensors.next() else { return Ok(written) };
            let dtype = metadata.info(&tensor).map_or(Dtype::F32, |info| info.dtype);
            for part in values.chunks(SYNCED / 8) {
                let bytes = write_values(&mut file, dtype, part).map_err(wrong())?;
                written += bytes;
                unsynced += bytes;
                if unsynced >= SYNCED as u64 {
                    file.sync_data().map_err(wrong())?;
                    unsynced = 0;
                }
            }
        }
        file.sync_all().map_err(wrong())?;
    }
    sync_folder(out).map_err(DiskError::io(out, "write"))?;
    Ok(written)
}

/// Bytes after which the disk is made to write. Otherwise the system keeps everything in memory until the end, and the
/// disk has nothing to do until then.
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
    let first = &read[0].weights;
    let place = |one: &Weights| one.files[0].path.display().to_string();
    for Checkpoint { weights: other, .. } in &read[1..] {
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

/// Refuses models whose configurations mean different functions of the same tensors. Returns whether the output layer
/// is the embedding, where that is known.
fn same_settings(folders: &[&Path], read: &[Checkpoint]) -> Result<Option<bool>, MergeFolderError> {
    let files: Vec<PathBuf> = folders.iter().map(|folder| folder.join("config.json")).collect();
    let objects = files.iter().map(|file| read_json(file)).collect::<Result<Vec<_>, _>>()?;
    let apart = |field: &str, i: usize, found: &str, own: &str| {
        Err(MergeFolderError::Apart(format!(
            "{}: {field} = {found}, but in {} {own}: these are different models",
            files[i].display(),
            files[0].display()
        )))
    };
    let family =
        |object: &serde_json::Map<String, Value>| object.get("model_type").and_then(Value::as_str).and_then(Family::of);
    if objects.iter().all(|object| family(object).is_none()) {
        // Models of these families can only be merged here. All fields that may change the function must be equal.
        let harmless = |name: &str| HARMLESS.iter().any(|(_, names)| names.contains(&name));
        for (i, object) in objects.iter().enumerate().skip(1) {
            let names: BTreeSet<&String> = objects[0].keys().chain(object.keys()).collect();
            for name in names.into_iter().filter(|name| *name == "model_type" || !harmless(name) && !is_token(name)) {
                let [own, found] = [&objects[0], object].map(|object| object.get(name).unwrap_or(&Value::Null));
                if own != found {
                    return apart(name, i, &found.to_string(), &own.to_string());
                }
            }
        }
        return Ok(None);
    }
    let mut all = Vec::new();
    for ((file, object), one) in files.iter().zip(objects).zip(read) {
        let mut config = ModelConfig::parse(file, object.into())?;
        if config.output == Output::Tokens && config.tied {
            config.tied = !one.weights.has_own_head()?;
        }
        all.push(config);
    }
    let own = all[0].function();
    for (i, config) in all.iter().enumerate().skip(1) {
        for (field, found) in config.function() {
            match own.iter().find(|(name, _)| *name == field) {
                Some((_, own)) if *own != found => return apart(field, i, &found, own),
                _ => {}
            }
        }
    }
    Ok(Some(all[0].output == Output::Tokens && all[0].tied))
}

/// Whether a field does not matter for weights: which tokens begin, end and fill up texts.
fn is_token(name: &str) -> bool {
    ["bos_token_id", "eos_token_id", "pad_token_id", "initializer_range"].contains(&name)
}

/// Makes the copied configuration say what is in the files that are written.
fn true_config(out: &Path, first: &Checkpoint, tied: Option<bool>) -> Result<(), FolderError> {
    let file = out.join("config.json");
    let mut object = read_json(&file)?;
    let types: BTreeSet<String> = first
        .weights
        .files
        .iter()
        .flat_map(|file| file.metadata.tensors().into_values().map(|info| torch_type(info.dtype)))
        .collect();
    let mut changed = false;
    if let [only] = types.iter().collect::<Vec<_>>().as_slice() {
        for name in ["dtype", "torch_dtype"] {
            if object.get(name).is_some_and(|value| !value.is_null() && value != *only) {
                object.insert(name.to_owned(), Value::from(only.as_str()));
                changed = true;
            }
        }
    }
    if tied == Some(false) && object.get("tie_word_embeddings") == Some(&Value::Bool(true)) {
        object.insert("tie_word_embeddings".to_owned(), Value::Bool(false));
        changed = true;
    }
    if changed { write_json(&file, &object.into()) } else { Ok(()) }
}

/// PyTorch's name of a type.
fn torch_type(dtype: Dtype) -> String {
    match dtype {
        Dtype::F64 => "float64".to_owned(),
        Dtype::F32 => "float32".to_owned(),
        Dtype::F16 => "float16".to_owned(),
        Dtype::BF16 => "bfloat16".to_owned(),
        other => other.to_string(),
    }
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

/// The least cosine of a model's weights with those of the model number `origin`, over the first values of every
/// matrix, and the number of the model that has it.
fn least_cosine(read: &mut [Checkpoint], origin: usize) -> Result<Option<(f64, usize)>, FolderError> {
    // Vectors are left out, because normalisations begin with ones in all models.
    let first = &read[0].weights;
    let matrices: Vec<String> =
        first.index.keys().filter(|name| first.info(name).is_some_and(|info| info.shape.len() > 1)).cloned().collect();
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

/// A new folder, which is removed again unless it is kept.
struct NewFolder<'a>(Option<&'a Path>);

impl<'a> NewFolder<'a> {
    fn make(path: &'a Path) -> Result<Self, FolderError> {
        let taken = || content(path, "is there already: choose another --out, or remove it");
        if path.exists() {
            return Err(taken());
        }
        fs::create_dir_all(folder_of(path)).map_err(DiskError::io(path, "make the folder"))?;
        // If two processes get here at the same time, only one of them makes the folder.
        match fs::create_dir(path) {
            Ok(()) => Ok(Self(Some(path))),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(taken()),
            Err(error) => Err(DiskError::io(path, "make the folder")(error).into()),
        }
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

/// Copies all files but weights.
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
    for entry in fs::read_dir(from).map_err(DiskError::io(from, "read"))? {
        let entry = entry.map_err(DiskError::io(from, "read"))?;
        let name = entry.file_name();
        if entry.path().is_file() && name.to_str().is_some_and(wanted) {
            fs::copy(entry.path(), to.join(&name)).map_err(DiskError::io(&entry.path(), "copy"))?;
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
    use serde_json::{Value, json};

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

    /// Writes a model, and changes fields of its configuration; null takes one out.
    fn written(model: &Decoder, changes: &Value, folder: &Path) {
        write(model, None, folder).unwrap();
        let file = folder.join("config.json");
        let mut config = crate::fixtures::json(&file);
        for (name, value) in changes.as_object().unwrap() {
            match value.is_null() {
                true => drop(config.as_object_mut().unwrap().remove(name)),
                false => config[name] = value.clone(),
            }
        }
        std::fs::write(file, config.to_string()).unwrap();
    }

    #[test]
    fn what_configurations_mean_is_compared_and_not_how_they_say_it() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        let untied = |seed: u64| {
            let config = ModelConfig { tied: false, ..ModelConfig::small_llama(SIZE) };
            let mut model = Decoder::new(config, 3, &Device::flex());
            model.parameters[0] = tuned(seed).parameters[0].clone();
            model
        };
        let llama3 = json!({
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        });
        let mut newer = llama3.clone();
        newer["rope_theta"] = json!(10_000.0);
        for (name, changes) in [
            ("plain", json!({})),
            ("newer", json!({"rope_theta": null, "rope_parameters": {"rope_type": "default", "rope_theta": 10_000}})),
            (
                "silent",
                json!({"rope_theta": null, "num_key_value_heads": null, "head_dim": null, "hidden_act": "swish"}),
            ),
            ("llama3", json!({"rope_scaling": llama3})),
            ("llama3-newer", json!({"rope_theta": null, "rope_parameters": newer})),
            ("epsilon", json!({"rms_norm_eps": 1e-6})),
            ("theta", json!({"rope_theta": null, "rope_parameters": {"rope_theta": 5e5}})),
            ("window", json!({"model_type": "mistral", "sliding_window": 8, "attention_bias": null})),
            ("no-window", json!({"model_type": "mistral", "sliding_window": null, "attention_bias": null})),
            ("tokens", json!({"eos_token_id": 5, "initializer_range": 0.5})),
            // The flag is wrong: both tensors are there and differ.
            ("flag", json!({"tie_word_embeddings": true})),
        ] {
            written(&untied(1), &changes, &place(name));
        }
        // Without the field the window is 4096.
        let file = place("no-window").join("config.json");
        let mut config = crate::fixtures::json(&file);
        config["sliding_window"] = Value::Null;
        std::fs::write(file, config.to_string()).unwrap();
        // The head is there, and is the embedding.
        for (name, seed) in [("tied", 1), ("tied-other", 2)] {
            let mut same = untied(seed);
            let head = same.layout.head;
            same.parameters[head] = same.parameters[same.layout.embedding].clone();
            written(&same, &json!({"tie_word_embeddings": true}), &place(name));
        }

        let mut count = 0;
        let mut merge = |one: &str, other: &str| {
            count += 1;
            let out = place(&format!("out-{count}"));
            let found = merged(&soup(&[0.5, 0.5]), None, &[place(one), place(other)], &out);
            found.map(|_| out).map_err(|error| error.to_string())
        };
        for (one, other) in [
            ("plain", "newer"),
            ("newer", "silent"),
            ("llama3", "llama3-newer"),
            ("plain", "tokens"),
            ("plain", "flag"),
            ("window", "window"),
            ("tied", "tied-other"),
        ] {
            let _ = merge(one, other).unwrap_or_else(|error| panic!("{one} and {other}: {error}"));
        }
        for (one, other, field, found, own) in [
            ("plain", "llama3", "rope_scaling", "llama3, factor 8", "none"),
            ("newer", "llama3-newer", "rope_scaling", "llama3, factor 8", "none"),
            ("llama3-newer", "plain", "rope_scaling", "none", "llama3, factor 8"),
            ("plain", "theta", "rope_theta", "500000", "10000"),
            ("plain", "epsilon", "rms_norm_eps", "0.000001", "0.00001"),
            ("window", "no-window", "sliding_window", "null", "8"),
            ("plain", "window", "model_type", "mistral", "llama"),
            ("plain", "tied", "tie_word_embeddings", "true", "false"),
            ("tied", "flag", "tie_word_embeddings", "false", "true"),
        ] {
            let error = merge(one, other).unwrap_err();
            assert!(error.contains(&format!("config.json: {field} = {found}")), "{one} and {other}: {error}");
            assert!(error.contains(&format!("config.json {own}")) && error.ends_with("different models"), "{error}");
        }
        // What is written says so.
        let out = merge("flag", "plain").unwrap();
        let config = ModelConfig::read(&out.join("config.json")).unwrap();
        assert!(!config.tied);
        // Draws do not part a head from the embedding that it is.
        let dare = MergeConfig { method: Method::Dare, density: 0.5, ..soup(&[1.0]) };
        let out = place("drawn");
        let _ = merged(&dare, Some(&place("tied")), &[place("tied-other")], &out).unwrap();
        assert!(read(&out, &Device::flex()).unwrap().decoder.config.tied);

        // Families that are only merged here are compared to the letter.
        for (name, changes) in [
            ("gemma", json!({"model_type": "gemma", "a": 1, "use_cache": true})),
            ("gemma-same", json!({"model_type": "gemma", "a": 1, "use_cache": false})),
            ("gemma-other", json!({"model_type": "gemma", "a": 2})),
        ] {
            written(&untied(1), &changes, &place(name));
        }
        let _ = merge("gemma", "gemma-same").unwrap();
        let error = merge("gemma", "gemma-other").unwrap_err();
        assert!(error.contains("config.json: a = 2, but in") && error.contains("config.json 1: these"), "{error}");
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
            ("turned", "these are different models"),
            ("short", "not a whole safetensors file ("),
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
