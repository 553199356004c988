//! Files of weights in the format safetensors: whole or in shards, opened by an index or by name, and written.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::{Component, Path, PathBuf};

use burn::tensor::{DType, Tensor, TensorData};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo, TensorView, View};
use serde_json::{Value, json};

use crate::disk::DiskError;
use crate::disk::files::{folder_of, sync_folder};
use crate::lm::config::{Family, ModelConfig, Output};
use crate::lm::fields::{FolderError, content, read_json, short};
use crate::lm::layout::Piece;
use crate::nn::to_host;

/// The file of a model's weights that has all of them.
pub(super) const WEIGHTS: &str = "model.safetensors";
/// The file that says which tensor is in which file, where there are several.
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// The output layer where it is not the embedding, in all families.
pub(in crate::lm) const HEAD: &str = "lm_head.weight";
/// The embedding, by families, each with the name that it has where the model was saved without its head.
const EMBEDDINGS: [&str; 4] =
    ["model.embed_tokens.weight", "embed_tokens.weight", "transformer.wte.weight", "wte.weight"];

/// The files of a checkpoint, opened. Values are read only where they are asked for.
pub(in crate::lm) struct Weights {
    /// In the order of their names.
    pub(in crate::lm) files: Vec<TensorFile>,
    /// Number of the file that a tensor is in.
    pub(in crate::lm) index: BTreeMap<String, usize>,
}

/// A safetensors file.
pub(in crate::lm) struct TensorFile {
    pub(in crate::lm) name: String,
    pub(in crate::lm) path: PathBuf,
    pub(in crate::lm) file: File,
    pub(in crate::lm) metadata: Metadata,
    /// Byte at which the values begin.
    pub(in crate::lm) start: usize,
    map: Mmap,
}

/// A piece of a parameter as a checkpoint has it, computed when it is written.
pub(super) struct PieceView<'a> {
    piece: &'a Piece,
    tensor: &'a Tensor<2>,
    shape: Vec<usize>,
}

impl TensorFile {
    fn open(folder: &Path, name: String) -> Result<Self, FolderError> {
        let path = folder.join(&name);
        let read = || DiskError::io(&path, "read");
        // A pipe would wait for somebody to write, and some devices never end.
        if !std::fs::metadata(&path).map_err(read())?.is_file() {
            return Err(content(&path, "is no regular file"));
        }
        let file = File::open(&path).map_err(read())?;
        #[expect(unsafe_code, reason = "mapping a file has no safe form; read access, as every reader of weights does")]
        // SAFETY: the bytes are only read, and no property of them is relied on. If another program cuts the file short
        // while it is mapped, the system ends this program with SIGBUS, as with any mapped file.
        let map = unsafe { Mmap::map(&file) }.map_err(read())?;
        // This also compares the file's length with what its header says.
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|error| {
            content(&path, &format!("not a whole safetensors file ({error}): was it copied to its end?"))
        })?;
        Ok(Self { name, path, file, metadata, start: size_of::<u64>() + header, map })
    }
}

impl Weights {
    /// Opens the files of a folder.
    ///
    /// # Errors
    /// [`FolderError`]: there are none, one is not whole, or the index says something else than the files.
    pub(in crate::lm) fn open(folder: &Path) -> Result<Self, FolderError> {
        let index = folder.join(INDEX);
        if !index.is_file() {
            return match (folder.join(WEIGHTS).is_file(), folder.join("pytorch_model.bin").is_file()) {
                (true, _) => Self::of_files(folder, [WEIGHTS.to_owned()]),
                (false, true) => Err(content(
                    folder,
                    "only pytorch_model.bin is here, which can run code: save the model as safetensors (transformers' save_pretrained does)",
                )),
                (false, false) => Err(content(folder, "no model.safetensors and no model.safetensors.index.json here")),
            };
        }
        let named = read_index(&index)?;
        let weights = Self::of_files(folder, named.values().cloned().collect::<BTreeSet<_>>())?;
        let is_there = |(tensor, name): &(&String, &String)| {
            weights.index.get(*tensor).is_some_and(|&file| weights.files[file].name == **name)
        };
        match named.iter().find(|entry| !is_there(entry)) {
            None => Ok(weights),
            Some((tensor, name)) => {
                Err(content(&index, &format!("weight_map says that '{tensor}' is in {name}, but it is not")))
            }
        }
    }

    /// Opens files of a folder by their names.
    pub(in crate::lm) fn of_files(folder: &Path, names: impl IntoIterator<Item = String>) -> Result<Self, FolderError> {
        let open = |name| TensorFile::open(folder, name);
        let files = names.into_iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let mut index = BTreeMap::new();
        for (i, file) in files.iter().enumerate() {
            for name in file.metadata.offset_keys() {
                if let Some(other) = index.insert(name.clone(), i) {
                    let other = files[other].path.display();
                    return Err(content(&file.path, &format!("tensor '{name}' is in {other}, too: which one counts?")));
                }
            }
        }
        Ok(Self { files, index })
    }

    /// Type, shape and place of a tensor.
    pub(in crate::lm) fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.files[*self.index.get(name)?].metadata.info(name)
    }

    pub(super) fn tensor(&self, name: &str) -> Result<Option<(&Path, TensorView<'_>)>, FolderError> {
        let Some(info) = self.info(name) else { return Ok(None) };
        let TensorFile { path, map, start, .. } = &self.files[self.index[name]];
        let values = &map[start + info.data_offsets.0..start + info.data_offsets.1];
        let view = TensorView::new(info.dtype, info.shape.clone(), values);
        let view = view.map_err(|error| content(path, &format!("{name}: {error}")))?;
        Ok(Some((path, view)))
    }

    /// The tensor of this name. A base model that was saved without its head has it without the prefix.
    fn find<'a>(&self, name: &'a str) -> Result<Option<(&'a str, &Path, TensorView<'_>)>, FolderError> {
        let bare = name.split_once('.').map_or(name, |(_, rest)| rest);
        for name in [name, bare] {
            if let Some((path, view)) = self.tensor(name)? {
                return Ok(Some((name, path, view)));
            }
        }
        Ok(None)
    }

    /// Whether there are tensors for as many layers as `config.json` says, before anything is made for each.
    pub(super) fn check_layers(&self, config: &ModelConfig) -> Result<(), FolderError> {
        let last = config.layers - 1;
        let (name, field) = match config.family {
            Family::Gpt2 => (format!("transformer.h.{last}.ln_1.weight"), "n_layer"),
            _ => (format!("model.layers.{last}.input_layernorm.weight"), "num_hidden_layers"),
        };
        match self.find(&name)? {
            Some(_) => Ok(()),
            None => Err(content(
                &self.files[0].path,
                &format!("tensor '{name}' is missing, though config.json says {field} = {}", config.layers),
            )),
        }
    }

    /// The name of the embedding, in one of the families that are known.
    pub(in crate::lm) fn embedding(&self) -> Option<&'static str> {
        EMBEDDINGS.into_iter().find(|name| self.index.contains_key(*name))
    }

    /// Whether there is an output layer beside the embedding, with other values.
    pub(in crate::lm) fn has_own_head(&self) -> Result<bool, FolderError> {
        let (Some((path, head)), Some(name)) = (self.tensor(HEAD)?, self.embedding()) else { return Ok(false) };
        let Some((other, embedding)) = self.tensor(name)? else { return Ok(false) };
        if head.shape() != embedding.shape() || head.dtype() == embedding.dtype() {
            return Ok(head.shape() != embedding.shape() || head.data() != embedding.data());
        }
        Ok(to_f32(path, HEAD, &head)? != to_f32(other, name, &embedding)?)
    }

    /// Finds one piece of a parameter, and compares its shape with what the configuration makes of it.
    pub(super) fn check<'a>(
        &self,
        piece: &'a Piece,
        columns: usize,
        config: &ModelConfig,
    ) -> Result<(&'a str, &Path, TensorView<'_>), FolderError> {
        let Some((name, path, view)) = self.find(&piece.name)? else {
            return Err(content(&self.files[0].path, &format!("tensor '{}' is missing", piece.name)));
        };
        let expected = piece.shape(columns);
        if view.shape() != expected {
            let sizes = expected.iter().map(|&size| match config.size_names(size).as_slice() {
                [] => size.to_string(),
                names => names.join(" or "),
            });
            let sizes = sizes.collect::<Vec<_>>().join(", ");
            let problem = format!(
                "tensor '{name}' has the shape {:?}, but config.json makes it {expected:?} ({sizes})",
                view.shape()
            );
            return Err(content(path, &problem));
        }
        Ok((name, path, view))
    }

    /// Reads one piece of a parameter, whose shape was checked, from the tensor of this name.
    pub(super) fn read(
        &self,
        name: &str,
        piece: &Piece,
        columns: usize,
        values: &mut [f32],
    ) -> Result<(), FolderError> {
        let Some((path, view)) = self.tensor(name)? else {
            return Err(content(&self.files[0].path, &format!("tensor '{name}' is missing")));
        };
        let found = to_f32(path, name, &view)?;
        let count = piece.rows.len();
        match (piece.vector, piece.transposed) {
            (true, _) => values[piece.rows.clone()].copy_from_slice(&found),
            (false, false) => values[piece.rows.start * columns..piece.rows.end * columns].copy_from_slice(&found),
            (false, true) => {
                for (column, row) in found.chunks_exact(count).enumerate() {
                    for (i, value) in row.iter().enumerate() {
                        values[(piece.rows.start + i) * columns + column] = *value;
                    }
                }
            }
        }
        Ok(())
    }

    /// Remarks on tensors that belong to nothing.
    pub(super) fn unused(&self, used: &BTreeSet<String>, config: &ModelConfig) -> Vec<String> {
        // Masks and tables that older versions saved; a tied head; a head that is replaced by another.
        let harmless = |name: &str| {
            [".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"].iter().any(|end| name.ends_with(end))
                || (name == HEAD && (config.tied || config.output != Output::Tokens))
        };
        let rest = self.index.iter().filter(|(name, _)| !used.contains(*name) && !harmless(name));
        rest.map(|(name, at)| format!("{}: tensor '{name}' is not used", self.files[*at].path.display())).collect()
    }
}

/// Which file an index says each tensor is in.
fn read_index(file: &Path) -> Result<BTreeMap<String, String>, FolderError> {
    let object = read_json(file)?;
    let map = object.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| content(file, "field 'weight_map' is missing: must name each tensor's file"))?;
    if map.is_empty() {
        return Err(content(file, "weight_map = {}: must name each tensor's file"));
    }
    let of_tensor = |(tensor, name): (&String, &Value)| {
        // Links may lead elsewhere, as in Hugging Face's cache; names may not.
        let inside = |name: &str| Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        let fine = name.as_str().filter(|name| !name.is_empty() && inside(name));
        let named = fine.ok_or_else(|| {
            let (tensor, name) = (short(&json!(tensor)), short(name));
            content(file, &format!("weight_map.{tensor} = {name}: must be the name of a file in this folder"))
        })?;
        Ok((tensor.clone(), named.to_owned()))
    };
    map.iter().map(of_tensor).collect()
}

/// A tensor's values. A value that is not a finite number is refused.
pub(super) fn to_f32(path: &Path, name: &str, view: &TensorView<'_>) -> Result<Vec<f32>, FolderError> {
    let dtype = match view.dtype() {
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        other => return Err(wrong_type(path, name, other)),
    };
    let shape: Vec<usize> = view.shape().to_vec();
    let data = TensorData::from_bytes_vec(view.data().to_vec(), shape, dtype).convert::<f32>();
    let values: Vec<f32> = data.try_into_vec().expect("the data were converted to f32 on the line above");
    finite(path, name, &values)?;
    Ok(values)
}

pub(in crate::lm) fn wrong_type(path: &Path, name: &str, dtype: Dtype) -> FolderError {
    content(path, &format!("tensor '{name}' is of type {dtype:?}: must be F32, F16, BF16 or F64"))
}

/// Refuses a tensor with a value that is not a finite number.
pub(in crate::lm) fn finite(path: &Path, name: &str, values: &[f32]) -> Result<(), FolderError> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(at) => {
            let problem = format!("tensor '{name}' has the value {} at index {at}: weights must be finite", values[at]);
            Err(content(path, &problem))
        }
    }
}

impl<'a> PieceView<'a> {
    pub(super) fn new(piece: &'a Piece, tensor: &'a Tensor<2>) -> Self {
        Self { piece, tensor, shape: piece.shape(tensor.dims()[1]) }
    }

    pub(super) fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * size_of::<f32>()
    }
}

impl View for &PieceView<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let Piece { rows, transposed, vector, .. } = self.piece;
        let tensor = self.tensor.clone().inner();
        let part = match vector {
            true => tensor.slice([0..1, rows.clone()]),
            false => {
                let columns = tensor.dims()[1];
                tensor.slice([rows.clone(), 0..columns])
            }
        };
        let part = if *transposed { part.transpose() } else { part };
        to_host(part).iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn data_len(&self) -> usize {
        PieceView::data_len(self)
    }
}

/// Writes tensors under a temporary name, and then in the place of the old file.
pub(super) fn write_tensors(path: &Path, tensors: &BTreeMap<String, PieceView<'_>>) -> Result<(), FolderError> {
    // A kill may leave a file of such a name; the next claim of the folder removes it.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".pairwise-{name}.part"));
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(tensors, Some(metadata), &temporary).map_err(|error| {
        let _ = std::fs::remove_file(&temporary);
        content(path, &format!("cannot be written: {error}"))
    })?;
    let synced = File::open(&temporary).and_then(|file| file.sync_all());
    let renamed = synced.and_then(|()| std::fs::rename(&temporary, path));
    Ok(renamed.and_then(|()| sync_folder(folder_of(path))).map_err(DiskError::io(path, "write"))?)
}
