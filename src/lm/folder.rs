//! Hugging Face folders: `config.json` with `model.safetensors`, whole or in shards, and PEFT's adapters.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData};
use memmap2::Mmap;
use nalgebra::DMatrix;
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, View};
use serde_json::{Map, Value, json};

use super::config::{ConfigError, Family, ModelConfig, Output, read_text, short, token_ids};
use super::lora::{AdapterModule, Adapters, LoraConfig, Start};
use super::model::{Decoder, Layout, Piece, Precision, TensorSpec};
use super::peft::{AdapterFile, taken_out};
use crate::disk::archive::write_atomically;
use crate::disk::files::{folder_of, sync_folder};
use crate::nn::{constant, to_host};

/// A model that was read.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The model, with its adapters.
    pub decoder: Decoder,
    /// The folder of the whole model: an adapter's is that of its base.
    pub base: PathBuf,
    /// What the user should know.
    pub remarks: Vec<String>,
    /// What the user should know where the model is to write: how transformers would sample, and this program does not.
    pub sampling: Vec<String>,
    /// Why the model cannot be trained any further here, where it cannot: its adapter has parts that are only read.
    pub only_read: Option<String>,
}

/// A folder that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Its configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file cannot be read or written.
    #[error("{}: {error}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file's content is not what it should be.
    #[error("{}: {problem}", file.display())]
    Content {
        /// The file.
        file: PathBuf,
        /// What was found, and what would be right.
        problem: String,
    },
}

/// Bytes of weights in one file; transformers' default.
const SHARD_BYTES: usize = 5_000_000_000;

/// Reads a model: a folder with `config.json`, or one with `adapter_config.json`, whose base is then read too.
///
/// # Errors
/// [`FolderError`], naming the file and what is wrong with it.
pub fn read(folder: &Path, device: &Device) -> Result<Loaded, FolderError> {
    match folder.join(ADAPTER_CONFIG).is_file() {
        true => read_adapted(folder, device),
        false => read_whole(folder, device),
    }
}

/// Reads a folder with `config.json`.
pub(super) fn read_whole(folder: &Path, device: &Device) -> Result<Loaded, FolderError> {
    let file = folder.join("config.json");
    if !file.is_file() {
        let problem = match folder.is_dir() {
            true => "no config.json and no adapter_config.json here: this is not a model's folder",
            false => "there is no such folder; a model is a folder with config.json and model.safetensors",
        };
        return Err(content(folder, problem));
    }
    let mut config = ModelConfig::read(&file)?;
    let sampling = read_generation(folder, &mut config)?;
    if let Output::Scores(count) = config.output
        && count != 1
    {
        return Err(content(
            &file,
            &format!(
                "num_labels = {count}: which label is the reward is not said: must be 1; keep that label's row of score.weight, and set num_labels to 1 and id2label to one name"
            ),
        ));
    }
    let weights = Weights::open(folder)?;
    // Sizes are compared with the files before anything is made of them.
    weights.check_layers(&config)?;
    let mut remarks = Vec::new();
    if config.tied && config.output == Output::Tokens && weights.has_own_head(&config)? {
        config.tied = false;
        remarks.push(format!(
            "{}: tie_word_embeddings is true, but lm_head.weight is another tensor than the embedding: they are taken as two, as transformers 5 does",
            file.display()
        ));
    }
    let layout = Layout::new(&config);
    for spec in &layout.tensors {
        for piece in &spec.pieces {
            weights.check(piece, spec.shape[1], &config)?;
        }
    }
    let mut used = BTreeSet::new();
    let read_one = |spec: &TensorSpec| -> Result<Tensor<2>, FolderError> {
        let [rows, columns] = spec.shape;
        let mut values = vec![0.0; rows * columns];
        for piece in &spec.pieces {
            let (name, ..) = weights.check(piece, columns, &config)?;
            used.insert(name.to_owned());
            weights.read(name, piece, columns, &mut values)?;
        }
        Ok(constant(&values, spec.shape, device))
    };
    let parameters = layout.tensors.iter().map(read_one).collect::<Result<Vec<_>, _>>()?;
    remarks.extend(weights.unused(&used, &config));
    let decoder =
        Decoder { config, layout: Arc::new(layout), parameters, adapters: None, precision: Precision::default() };
    Ok(Loaded { decoder, base: folder.to_owned(), remarks, sampling, only_read: None })
}

/// Writes a model's configuration and weights; with adapters, these only, with a reference to their base's folder.
///
/// # Errors
/// Those of the file system. A folder that is there keeps its other files.
pub fn write(decoder: &Decoder, base: Option<&Path>, folder: &Path) -> Result<(), FolderError> {
    std::fs::create_dir_all(folder).map_err(|error| io(folder, error))?;
    if let Some(adapters) = &decoder.adapters {
        return write_adapters(decoder, adapters, base, folder);
    }
    let mut shards: Vec<BTreeMap<String, PieceView<'_>>> = vec![BTreeMap::new()];
    let mut size = 0;
    let mut total = 0;
    for (spec, tensor) in decoder.layout.tensors.iter().zip(&decoder.parameters) {
        for piece in &spec.pieces {
            let view = PieceView::new(piece, tensor);
            if size > 0 && size + view.data_len() > SHARD_BYTES {
                shards.push(BTreeMap::new());
                size = 0;
            }
            size += view.data_len();
            total += view.data_len();
            shards.last_mut().expect("there is one at the start").insert(piece.name.clone(), view);
        }
    }
    let count = shards.len();
    let mut index = Map::new();
    for (i, shard) in shards.iter().enumerate() {
        let name = match count {
            1 => WEIGHTS.to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
        };
        write_tensors(&folder.join(&name), shard)?;
        index.extend(shard.keys().map(|tensor| (tensor.clone(), json!(name))));
    }
    match count {
        // An older index would hide the new file.
        1 => remove_if_there(&folder.join(INDEX))?,
        _ => write_json(&folder.join(INDEX), &json!({"metadata": {"total_size": total}, "weight_map": index}))?,
    }
    write_json(&folder.join("config.json"), &decoder.config.to_json())?;
    write_json(&folder.join(GENERATION), &decoder.config.generation_json())
}

/// The same model with its adapters merged into its weights.
#[must_use]
pub fn merged(decoder: &Decoder) -> Decoder {
    let mut merged = Decoder { adapters: None, ..decoder.clone() };
    for (i, module) in decoder.adapters.iter().flat_map(|adapters| adapters.modules.iter().enumerate()) {
        let update = decoder.adapters.as_ref().expect("the loop is over its modules").update(i);
        let weight = &mut merged.parameters[module.weight];
        let [_, columns] = weight.dims();
        let rows = module.rows.clone();
        let sum = weight.clone().slice([rows.clone(), 0..columns]) + update;
        *weight = weight.clone().slice_assign([rows, 0..columns], sum);
    }
    merged
}

/// The same decoder with a fresh head that scores: how a reward model or a value function begins.
#[must_use]
pub fn with_scores(decoder: &Decoder, count: usize, seed: u64) -> Decoder {
    let mut config = decoder.config.clone();
    config.output = Output::Scores(count);
    let layout = Layout::new(&config);
    let device = decoder.device();
    let by_name: BTreeMap<&str, &Tensor<2>> =
        decoder.layout.tensors.iter().map(|spec| spec.name.as_str()).zip(&decoder.parameters).collect();
    let parameter = |(i, spec): (usize, &TensorSpec)| match by_name.get(spec.name.as_str()) {
        Some(&tensor) if i != layout.head => tensor.clone(),
        _ => spec.fresh(seed, i, &device),
    };
    let parameters = layout.tensors.iter().enumerate().map(parameter).collect();
    // The blocks' parameters come before the head in both layouts, so that adapters fit.
    Decoder { config, layout: Arc::new(layout), parameters, ..decoder.clone() }
}

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const GENERATION: &str = "generation_config.json";
pub(super) const ADAPTER_CONFIG: &str = "adapter_config.json";
pub(super) const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
/// A head that is no embedding, in all families.
pub(super) const HEAD: &str = "lm_head.weight";
/// What PEFT puts before the names of modules.
pub(super) const ADAPTER_PREFIX: &str = "base_model.model.";

// ----------------------------------------------------------------------------------------------------------- reading

/// The files of a checkpoint, mapped.
struct Weights {
    files: Vec<(PathBuf, Mmap)>,
    index: BTreeMap<String, Place>,
}

/// Where a tensor is.
struct Place {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Its bytes.
    range: Range<usize>,
}

impl Weights {
    fn open(folder: &Path) -> Result<Self, FolderError> {
        let Shards { names, index } = Shards::of(folder)?;
        let weights = Self::map(names.iter().map(|name| folder.join(name)).collect())?;
        if let Some((file, index)) = index {
            let missing = index.iter().find(|(tensor, name)| {
                weights.index.get(*tensor).is_none_or(|found| weights.files[found.file].0 != folder.join(name))
            });
            if let Some((tensor, name)) = missing {
                let problem = format!("weight_map says that '{tensor}' is in {name}, but it is not");
                return Err(content(&file, &problem));
            }
        }
        Ok(weights)
    }

    fn map(paths: Vec<PathBuf>) -> Result<Self, FolderError> {
        let mut weights = Self { files: Vec::new(), index: BTreeMap::new() };
        for path in paths {
            let file = open_regular(&path)?;
            #[expect(
                unsafe_code,
                reason = "mapping a file has no safe form; read access, as every reader of weights does"
            )]
            // SAFETY: the bytes are only read, and checked as they are; a file that another program cuts short while it
            // is mapped ends this one with SIGBUS, as with any mapped file.
            let map = unsafe { Mmap::map(&file) }.map_err(|error| io(&path, error))?;
            // This also compares the file's length with what its header says.
            let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|error| {
                content(&path, &format!("not a whole safetensors file ({error}): was it copied to its end?"))
            })?;
            let start = size_of::<u64>() + header;
            for name in metadata.offset_keys() {
                let Some(info) = metadata.info(&name) else { continue };
                if let Some(other) = weights.index.get(&name) {
                    let other = weights.files[other.file].0.display();
                    return Err(content(&path, &format!("tensor '{name}' is in {other}, too: which one counts?")));
                }
                let range = start + info.data_offsets.0..start + info.data_offsets.1;
                let place = Place { file: weights.files.len(), dtype: info.dtype, shape: info.shape.clone(), range };
                weights.index.insert(name, place);
            }
            weights.files.push((path, map));
        }
        Ok(weights)
    }

    fn tensor(&self, name: &str) -> Result<Option<(&Path, TensorView<'_>)>, FolderError> {
        let Some(Place { file, dtype, shape, range }) = self.index.get(name) else { return Ok(None) };
        let (path, map) = &self.files[*file];
        let view = TensorView::new(*dtype, shape.clone(), &map[range.clone()]);
        let view = view.map_err(|error| content(path, &format!("{name}: {error}")))?;
        Ok(Some((path, view)))
    }

    /// The tensor under this name, or under that of a base model which was saved without its head: without a prefix.
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
    fn check_layers(&self, config: &ModelConfig) -> Result<(), FolderError> {
        let last = config.layers - 1;
        let (name, field) = match config.family {
            Family::Gpt2 => (format!("transformer.h.{last}.ln_1.weight"), "n_layer"),
            _ => (format!("model.layers.{last}.input_layernorm.weight"), "num_hidden_layers"),
        };
        match self.find(&name)? {
            Some(_) => Ok(()),
            None => Err(content(
                &self.files[0].0,
                &format!("tensor '{name}' is missing, though config.json says {field} = {}", config.layers),
            )),
        }
    }

    /// Whether the head is there beside the embedding, with other values.
    fn has_own_head(&self, config: &ModelConfig) -> Result<bool, FolderError> {
        let Some((path, head)) = self.tensor(HEAD)? else { return Ok(false) };
        let embedding =
            if config.family == Family::Gpt2 { "transformer.wte.weight" } else { "model.embed_tokens.weight" };
        let Some((_, other, embedding)) = self.find(embedding)? else { return Ok(false) };
        if head.shape() != embedding.shape() || head.dtype() == embedding.dtype() {
            return Ok(head.shape() != embedding.shape() || head.data() != embedding.data());
        }
        Ok(to_f32(path, HEAD, &head)? != to_f32(other, "the embedding", &embedding)?)
    }

    /// Finds one piece of a parameter, and compares its shape with what the configuration makes of it.
    fn check<'a>(
        &self,
        piece: &'a Piece,
        columns: usize,
        config: &ModelConfig,
    ) -> Result<(&'a str, &Path, TensorView<'_>), FolderError> {
        let Some((name, path, view)) = self.find(&piece.name)? else {
            return Err(content(&self.files[0].0, &format!("tensor '{}' is missing", piece.name)));
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

    /// Reads the tensor of this name as one piece of a parameter; its shape was checked.
    fn read(&self, name: &str, piece: &Piece, columns: usize, values: &mut [f32]) -> Result<(), FolderError> {
        let Some((path, view)) = self.tensor(name)? else {
            return Err(content(&self.files[0].0, &format!("tensor '{name}' is missing")));
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
    fn unused(&self, used: &BTreeSet<String>, config: &ModelConfig) -> Vec<String> {
        // Masks and tables that older versions saved; a tied head; a head that is replaced by another.
        let harmless = |name: &str| {
            [".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"].iter().any(|end| name.ends_with(end))
                || (name == HEAD && (config.tied || config.output != Output::Tokens))
        };
        let rest = self.index.iter().filter(|(name, _)| !used.contains(*name) && !harmless(name));
        rest.map(|(name, at)| format!("{}: tensor '{name}' is not used", self.files[at.file].0.display())).collect()
    }
}

/// The files of weights in a folder, by name, with the index that lists them, if there is one.
pub(super) struct Shards {
    /// The files' names.
    pub(super) names: BTreeSet<String>,
    /// The index's path, and which file it says a tensor is in.
    pub(super) index: Option<(PathBuf, BTreeMap<String, String>)>,
}

impl Shards {
    /// # Errors
    /// [`FolderError`]: there are none, or the index names what is not a file of this folder.
    pub(super) fn of(folder: &Path) -> Result<Self, FolderError> {
        let file = folder.join(INDEX);
        if !file.is_file() {
            return match (folder.join(WEIGHTS).is_file(), folder.join("pytorch_model.bin").is_file()) {
                (true, _) => Ok(Self { names: BTreeSet::from([WEIGHTS.to_owned()]), index: None }),
                (false, true) => Err(content(
                    folder,
                    "only pytorch_model.bin is here, which can run code: save the model as safetensors (transformers' save_pretrained does)",
                )),
                (false, false) => Err(content(folder, "no model.safetensors and no model.safetensors.index.json here")),
            };
        }
        let object = read_json(&file)?;
        let map = object.get("weight_map").and_then(Value::as_object);
        let map = map.ok_or_else(|| content(&file, "field 'weight_map' is missing: must name each tensor's file"))?;
        if map.is_empty() {
            return Err(content(&file, "weight_map = {}: must name each tensor's file"));
        }
        let mut index = BTreeMap::new();
        for (tensor, name) in map {
            // Links may lead elsewhere, as in Hugging Face's cache; names may not.
            let inside = |name: &str| Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
            let Some(name) = name.as_str().filter(|name| !name.is_empty() && inside(name)) else {
                let tensor = short(&json!(tensor));
                let problem =
                    format!("weight_map.{tensor} = {}: must be the name of a file in this folder", short(name));
                return Err(content(&file, &problem));
            };
            index.insert(tensor.clone(), name.to_owned());
        }
        Ok(Self { names: index.values().cloned().collect(), index: Some((file, index)) })
    }
}

/// Opens a file of weights. Pipes would wait for somebody to write, and devices never end.
pub(super) fn open_regular(path: &Path) -> Result<File, FolderError> {
    let about = std::fs::metadata(path).map_err(|error| io(path, error))?;
    match about.is_file() {
        true => File::open(path).map_err(|error| io(path, error)),
        false => Err(content(path, "is no regular file")),
    }
}

/// A tensor's values; numbers that are none are refused.
fn to_f32(path: &Path, name: &str, view: &TensorView<'_>) -> Result<Vec<f32>, FolderError> {
    let dtype = match view.dtype() {
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        other => {
            let problem = format!("tensor '{name}' is of type {other:?}: must be F32, F16, BF16 or F64");
            return Err(content(path, &problem));
        }
    };
    let shape: Vec<usize> = view.shape().to_vec();
    let data = TensorData::from_bytes_vec(view.data().to_vec(), shape, dtype).convert::<f32>();
    let values: Vec<f32> = data.try_into_vec().expect("the data were converted to f32 on the line above");
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(values),
        Some(at) => {
            let problem = format!("tensor '{name}' has the value {} at index {at}: weights must be finite", values[at]);
            Err(content(path, &problem))
        }
    }
}

/// Fields of `generation_config.json` that say nothing about which tokens are drawn, but about how, or what is returned.
const OF_NO_EFFECT: &[&str] = &[
    "_from_model_config",
    "cache_config",
    "cache_implementation",
    "compile_config",
    "continuous_batching_config",
    "disable_compile",
    "is_assistant",
    "low_memory",
    "max_cache_len",
    "max_time",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "pad_token_id",
    "prefill_chunk_size",
    "return_dict_in_generate",
    "transformers_version",
    "use_cache",
];

/// Fields by which transformers draws other tokens, with the values that change nothing. They are not applied here.
const OF_SAMPLING: &[(&str, &[f64])] = &[
    ("assistant_confidence_threshold", &[]),
    ("assistant_early_exit", &[]),
    ("assistant_ensemble_weight", &[]),
    ("assistant_lookbehind", &[]),
    ("bad_words_ids", &[]),
    ("begin_suppress_tokens", &[]),
    ("constraints", &[]),
    ("decoder_start_token_id", &[]),
    ("diversity_penalty", &[0.0]),
    ("do_sample", &[]),
    ("dola_layers", &[]),
    ("early_stopping", &[0.0]),
    ("encoder_no_repeat_ngram_size", &[0.0]),
    ("encoder_repetition_penalty", &[1.0]),
    ("epsilon_cutoff", &[0.0]),
    ("eta_cutoff", &[0.0]),
    ("exponential_decay_length_penalty", &[]),
    ("force_words_ids", &[]),
    ("forced_bos_token_id", &[]),
    ("forced_decoder_ids", &[]),
    ("forced_eos_token_id", &[]),
    ("guidance_scale", &[1.0]),
    ("length_penalty", &[1.0]),
    ("max_length", &[]),
    ("max_matching_ngram_size", &[]),
    ("max_new_tokens", &[]),
    ("min_length", &[0.0]),
    ("min_new_tokens", &[0.0]),
    ("min_p", &[0.0]),
    ("no_repeat_ngram_size", &[0.0]),
    ("num_assistant_tokens", &[]),
    ("num_assistant_tokens_schedule", &[]),
    ("num_beam_groups", &[1.0]),
    ("num_beams", &[1.0]),
    ("penalty_alpha", &[0.0]),
    ("prompt_lookup_num_tokens", &[]),
    ("remove_invalid_values", &[]),
    ("renormalize_logits", &[]),
    ("repetition_penalty", &[1.0]),
    ("sequence_bias", &[]),
    ("speculation_type", &[]),
    ("stop_strings", &[]),
    ("suppress_tokens", &[]),
    ("target_lookbehind", &[]),
    ("temperature", &[1.0]),
    ("token_healing", &[]),
    ("top_h", &[]),
    ("top_k", &[0.0]),
    ("top_p", &[1.0]),
    ("typical_p", &[1.0]),
    ("use_mtp", &[]),
    ("watermarking_config", &[]),
];

/// Tokens that end a text may be given only in `generation_config.json`, and more of them than in `config.json`. Returns
/// what of the file is not applied.
fn read_generation(folder: &Path, config: &mut ModelConfig) -> Result<Vec<String>, FolderError> {
    let file = folder.join(GENERATION);
    if !file.is_file() {
        return Ok(Vec::new());
    }
    let object = read_json(&file)?;
    if let Some(value) = object.get("eos_token_id").filter(|value| !value.is_null()) {
        let problem = format!("eos_token_id = {value}: must be a token's number, or several");
        config.eos = token_ids(value).ok_or_else(|| content(&file, &problem))?;
    }
    let mut ignored = Vec::new();
    for (name, value) in object.iter().filter(|(_, value)| !value.is_null()) {
        if OF_NO_EFFECT.contains(&name.as_str()) || ["bos_token_id", "eos_token_id"].contains(&name.as_str()) {
            continue;
        }
        let Some((_, neutral)) = OF_SAMPLING.iter().find(|(known, _)| known == name) else {
            let problem = format!(
                "{name} = {}: pairwise does not know what it does; take it out of the file if the model writes the same without",
                short(value)
            );
            return Err(content(&file, &problem));
        };
        let nothing = *value == json!(false) || *value == json!([]) || *value == json!({});
        if !nothing && value.as_f64().is_none_or(|value| !neutral.contains(&value)) {
            ignored.push(format!("{name} = {}", short(value)));
        }
    }
    config.generation = object;
    Ok(match ignored.as_slice() {
        [] => Vec::new(),
        _ => vec![format!(
            "{}: {} {} not applied: tokens are drawn as this program's own options say",
            file.display(),
            ignored.join(", "),
            if ignored.len() == 1 { "is" } else { "are" }
        )],
    })
}

// ---------------------------------------------------------------------------------------------------------- adapters

fn read_adapted(folder: &Path, device: &Device) -> Result<Loaded, FolderError> {
    let file = AdapterFile::read(folder)?;
    let wrong = |problem: &str| content(&file.file, problem);
    let Loaded { mut decoder, base, mut remarks, sampling, .. } = read_whole(&file.base()?, device)?;
    if file.start == Start::Olora && decoder.config.family == Family::Gpt2 {
        return Err(wrong(
            "init_lora_weights = \"olora\" is not supported with GPT-2, whose weights PEFT takes transposed",
        ));
    }
    let path = folder.join(ADAPTER_WEIGHTS);
    let weights = Weights::map(vec![path.clone()])?;
    // What has an update is what is in the file.
    let everything = LoraConfig { targets: vec!["all-linear".to_owned()], ..file.config.clone() };
    let all = everything.modules(&decoder.layout).map_err(|problem| wrong(&problem))?;
    let (mut modules, mut parameters, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
    let mut used = BTreeSet::new();
    let mut matrix = |name: &str, shape: &[usize]| -> Result<Vec<f32>, FolderError> {
        let Some((path, view)) = weights.tensor(name)? else {
            return Err(content(&path, &format!("tensor '{name}' is missing")));
        };
        if view.shape() != shape {
            let problem = format!("tensor '{name}' has the shape {:?}, but must have {shape:?}", view.shape());
            return Err(content(path, &problem));
        }
        used.insert(name.to_owned());
        to_f32(path, name, &view)
    };
    for mut module in all {
        let names = ["A", "B"].map(|part| format!("{ADAPTER_PREFIX}{}.lora_{part}.weight", module.name));
        let covered = file.covers(&module.name);
        if !weights.index.contains_key(&names[0]) {
            if covered == Some(true) && file.needs_all {
                let problem = format!("tensor '{}' is missing, for which PEFT would draw random numbers", names[0]);
                return Err(content(&path, &problem));
            }
            continue;
        }
        if covered == Some(false) {
            let problem = format!(
                "there are tensors for {}, which target_modules, exclude_modules and layers_to_transform leave out: PEFT would not read them",
                module.name
            );
            return Err(wrong(&problem));
        }
        (module.rank, module.alpha) = file.size(&module.name);
        let (rank, rows) = (module.rank, module.rows.len());
        for (name, shape) in names.iter().zip([[rank, module.inputs], [rows, rank]]) {
            parameters.push(constant(&matrix(name, &shape)?, shape, device));
        }
        if file.dora {
            let name = format!("{ADAPTER_PREFIX}{}.lora_magnitude_vector", module.name);
            // As PEFT named it for a while.
            let longer = format!("{name}.weight");
            let name = if weights.index.contains_key(&longer) { longer } else { name };
            lengths.push(matrix(&name, &[rows])?);
        }
        modules.push(module);
    }
    let head = format!("{ADAPTER_PREFIX}score.weight");
    if let Some((path, view)) = weights.tensor(&head)? {
        let [count, hidden] = <[usize; 2]>::try_from(view.shape())
            .map_err(|_| content(path, &format!("tensor '{head}' has the shape {:?}, not two sizes", view.shape())))?;
        if hidden != decoder.config.hidden || count != 1 {
            let problem = format!(
                "tensor '{head}' has the shape [{count}, {hidden}]: must be [1, {}], one score of a hidden state",
                decoder.config.hidden
            );
            return Err(content(path, &problem));
        }
        decoder = with_scores(&decoder, count, 0);
        let at = decoder.layout.head;
        decoder.parameters[at] = constant(&to_f32(path, &head, &view)?, [count, hidden], device);
        used.insert(head);
    } else if file.scores && decoder.config.output == Output::Tokens {
        return Err(content(&path, &format!("tensor '{head}' is missing, for which PEFT would draw random numbers")));
    }
    let replaced = replace(&mut decoder, &weights, &mut used)?;
    if let Some(name) = weights.index.keys().find(|name| !used.contains(*name)) {
        let problem = format!("tensor '{name}' fits no linear layer and no tensor of {}", base.display());
        return Err(content(&path, &problem));
    }
    let adapters = Adapters { config: file.config.clone(), modules, parameters, start: file.start };
    if let Some(module) = change_base(&mut decoder, &adapters, &lengths) {
        let problem = format!("{module}: its weights become infinite or no numbers: weights must be finite");
        return Err(content(&path, &problem));
    }
    let mut only_read = None;
    if file.dora {
        // Their lengths are learned by nothing here: what they make of the base's weights stands in the adapters' place.
        only_read = Some(format!("{}: use_dora is read here, but not trained", file.file.display()));
    } else {
        decoder.adapters = Some(adapters);
    }
    if let Some(name) = replaced.first() {
        let problem = format!("{}: '{name}' is read here, but trained only with the whole model", path.display());
        only_read = only_read.or(Some(problem));
    }
    remarks.extend(file.remarks);
    Ok(Loaded { decoder, base, remarks, sampling, only_read })
}

/// Puts whole tensors that were saved with an adapter (PEFT's `modules_to_save` and `bias`) in the place of the base's.
/// Returns their names.
fn replace(decoder: &mut Decoder, weights: &Weights, used: &mut BTreeSet<String>) -> Result<Vec<String>, FolderError> {
    // By the names of the base's tensors.
    let found: BTreeMap<String, String> = weights
        .index
        .keys()
        .filter(|name| !used.contains(*name))
        .filter_map(|name| Some((name.strip_prefix(ADAPTER_PREFIX)?.replace(".base_layer.", "."), name.clone())))
        .collect();
    let embedding = decoder.layout.tensors[decoder.layout.embedding].pieces[0].name.clone();
    if decoder.layout.head == decoder.layout.embedding && (found.contains_key(HEAD) || found.contains_key(&embedding)) {
        // PEFT replaces the one of them that was saved.
        decoder.config.tied = false;
        decoder.layout = Arc::new(Layout::new(&decoder.config));
        decoder.parameters.push(decoder.parameters[decoder.layout.embedding].clone());
    }
    let layout = decoder.layout.clone();
    let mut replaced = Vec::new();
    for (i, spec) in layout.tensors.iter().enumerate() {
        for piece in &spec.pieces {
            let Some(name) = found.get(&piece.name) else { continue };
            let columns = spec.shape[1];
            let piece = Piece { name: name.clone(), ..piece.clone() };
            weights.check(&piece, columns, &decoder.config)?;
            let mut values = to_host(decoder.parameters[i].clone());
            weights.read(name, &piece, columns, &mut values)?;
            decoder.parameters[i] = constant(&values, spec.shape, &decoder.device());
            used.insert(name.clone());
            replaced.push(name.clone());
        }
    }
    Ok(replaced)
}

/// What PEFT makes of the base's weights: takes the adapters' start out of them, and where `lengths` has a vector for each
/// module, puts DoRA's weights in their place. Returns the first module whose weights are no longer finite.
fn change_base(decoder: &mut Decoder, adapters: &Adapters, lengths: &[Vec<f32>]) -> Option<String> {
    if adapters.start == Start::Whole && lengths.is_empty() {
        return None;
    }
    let values: BTreeMap<usize, Vec<f32>> = adapters
        .modules
        .iter()
        .map(|module| (module.weight, to_host(decoder.parameters[module.weight].clone())))
        .collect();
    let changed = |i: &usize| -> DMatrix<f64> {
        let module = &adapters.modules[*i];
        let AdapterModule { rows, inputs, rank, alpha, .. } = module.clone();
        let part = &values[&module.weight][rows.start * inputs..rows.end * inputs];
        let matrix = |values: &[f32], rows: usize, columns: usize| {
            DMatrix::from_row_iterator(rows, columns, values.iter().map(|value| f64::from(*value)))
        };
        let mut weight = matrix(part, rows.len(), inputs);
        let scale = adapters.config.scale(rank, alpha);
        if let Some((left, right)) = taken_out(adapters.start, &weight, rank, scale) {
            weight -= left * right;
        }
        if let Some(lengths) = lengths.get(*i) {
            let parameter = |at: usize| to_host(adapters.parameters[at].clone());
            weight += matrix(&parameter(2 * i + 1), rows.len(), rank) * matrix(&parameter(2 * i), rank, inputs) * scale;
            for (mut row, length) in weight.row_iter_mut().zip(lengths) {
                let own = row.norm();
                row *= f64::from(*length) / own;
            }
        }
        weight
    };
    let all: Vec<usize> = (0..adapters.modules.len()).collect();
    let changed: Vec<DMatrix<f64>> = all.par_iter().map(changed).collect();
    let mut values = values;
    for (module, weight) in adapters.modules.iter().zip(changed) {
        let whole = values.get_mut(&module.weight).expect("it was read from the same modules");
        let part = &mut whole[module.rows.start * module.inputs..module.rows.end * module.inputs];
        // By columns in memory; row by row in the parameter.
        part.iter_mut().zip(weight.transpose().iter()).for_each(|(slot, value)| *slot = *value as f32);
        if part.iter().any(|value| !value.is_finite()) {
            return Some(module.name.clone());
        }
    }
    for (at, values) in values {
        let shape = decoder.layout.tensors[at].shape;
        decoder.parameters[at] = constant(&values, shape, &decoder.device());
    }
    None
}

fn write_adapters(
    decoder: &Decoder,
    adapters: &Adapters,
    base: Option<&Path>,
    folder: &Path,
) -> Result<(), FolderError> {
    let names: Vec<String> = adapters.names().map(|name| format!("{ADAPTER_PREFIX}{name}")).collect();
    let pieces: Vec<Piece> = names
        .iter()
        .zip(&adapters.parameters)
        .map(|(name, tensor)| Piece { name: name.clone(), rows: 0..tensor.dims()[0], transposed: false, vector: false })
        .collect();
    let mut views: BTreeMap<String, PieceView<'_>> = BTreeMap::new();
    for (piece, tensor) in pieces.iter().zip(&adapters.parameters) {
        views.insert(piece.name.clone(), PieceView::new(piece, tensor));
    }
    let head = Piece {
        name: format!("{ADAPTER_PREFIX}score.weight"),
        rows: 0..decoder.parameters[decoder.layout.head].dims()[0],
        transposed: false,
        vector: false,
    };
    let scores = matches!(decoder.config.output, Output::Scores(_));
    if scores {
        views.insert(head.name.clone(), PieceView::new(&head, &decoder.parameters[decoder.layout.head]));
    }
    write_tensors(&folder.join(ADAPTER_WEIGHTS), &views)?;
    let LoraConfig { rank, alpha, .. } = adapters.config;
    let targets = target_names(adapters, &decoder.layout);
    let pattern = |value: &dyn Fn(&AdapterModule) -> Option<Value>| -> Map<String, Value> {
        adapters.modules.iter().filter_map(|module| Some((module.name.clone(), value(module)?))).collect()
    };
    let ranks = pattern(&|module| (module.rank != rank).then(|| json!(module.rank)));
    let alphas = pattern(&|module| (module.alpha != alpha).then(|| json!(module.alpha)));
    let base = base.map(|base| base.canonicalize().unwrap_or_else(|_| base.to_owned()));
    let gpt2 = decoder.config.family == Family::Gpt2;
    let mut config = json!({
        "peft_type": "LORA",
        "task_type": if scores { "SEQ_CLS" } else { "CAUSAL_LM" },
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": adapters.config.dropout,
        "use_rslora": adapters.config.rslora,
        "target_modules": targets,
        "modules_to_save": if scores { json!(["score"]) } else { Value::Null },
        "bias": "none",
        "fan_in_fan_out": gpt2,
        "inference_mode": true,
    });
    // Only what is not as PEFT takes it to be.
    for (name, pattern) in [("rank_pattern", ranks), ("alpha_pattern", alphas)] {
        if !pattern.is_empty() {
            config[name] = pattern.into();
        }
    }
    match adapters.start {
        Start::Whole => {}
        Start::Pissa => config["init_lora_weights"] = json!("pissa"),
        Start::Olora => config["init_lora_weights"] = json!("olora"),
    }
    write_json(&folder.join(ADAPTER_CONFIG), &config)
}

/// The ends of the modules' names; where not all modules with these ends have an update, whole names.
fn target_names<'a>(adapters: &'a Adapters, layout: &Layout) -> BTreeSet<&'a str> {
    let ends: BTreeSet<&str> = adapters.modules.iter().filter_map(|module| module.name.rsplit('.').next()).collect();
    let by_ends = LoraConfig { targets: ends.iter().map(|end| (*end).to_owned()).collect(), ..adapters.config.clone() };
    match by_ends.modules(layout) {
        Ok(all) if all.len() == adapters.modules.len() => ends,
        _ => adapters.modules.iter().map(|module| module.name.as_str()).collect(),
    }
}

// ----------------------------------------------------------------------------------------------------------- writing

/// A piece of a parameter as a checkpoint has it, made when it is written.
struct PieceView<'a> {
    piece: &'a Piece,
    tensor: &'a Tensor<2>,
    shape: Vec<usize>,
}

impl<'a> PieceView<'a> {
    fn new(piece: &'a Piece, tensor: &'a Tensor<2>) -> Self {
        Self { piece, tensor, shape: piece.shape(tensor.dims()[1]) }
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
        self.shape.iter().product::<usize>() * size_of::<f32>()
    }
}

impl PieceView<'_> {
    fn data_len(&self) -> usize {
        (&self).data_len()
    }
}

/// Writes tensors under a temporary name, and then in the place of the old file.
fn write_tensors(path: &Path, tensors: &BTreeMap<String, PieceView<'_>>) -> Result<(), FolderError> {
    // Of the kind that a kill may leave: the next claim of the folder removes it.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".pairwise-{name}.part"));
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(tensors, Some(metadata), &temporary).map_err(|error| {
        let _ = std::fs::remove_file(&temporary);
        content(path, &format!("cannot be written: {error}"))
    })?;
    let synced = File::open(&temporary).and_then(|file| file.sync_all());
    let renamed = synced.and_then(|()| std::fs::rename(&temporary, path));
    renamed.and_then(|()| sync_folder(folder_of(path))).map_err(|error| io(path, error))
}

pub(super) fn write_json(path: &Path, value: &Value) -> Result<(), FolderError> {
    let text = serde_json::to_string_pretty(value).expect("a JSON value can be written") + "\n";
    write_atomically(path, text.as_bytes()).map_err(|error| io(path, error))
}

pub(super) fn read_json(path: &Path) -> Result<Map<String, Value>, FolderError> {
    let text = read_text(path).map_err(|error| io(path, error))?;
    match serde_json::from_str(&text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(content(path, "must be a JSON object")),
        Err(error) => Err(content(path, &format!("not valid JSON: {error}"))),
    }
}

fn remove_if_there(path: &Path) -> Result<(), FolderError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io(path, error)),
        _ => Ok(()),
    }
}

pub(super) fn io(file: &Path, error: std::io::Error) -> FolderError {
    FolderError::Io { file: file.to_owned(), error }
}

pub(super) fn content(file: &Path, problem: &str) -> FolderError {
    FolderError::Content { file: file.to_owned(), problem: problem.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use burn::tensor::Device;
    use serde_json::{Value, json};

    use super::{merged, read, with_scores, write};
    use crate::fixtures;
    use crate::lm::batch::{Batch, Targets};
    use crate::lm::config::{ModelConfig, SmallLlama};
    use crate::lm::lora::{Adapters, LoraConfig};
    use crate::lm::model::Decoder;
    use crate::nn::to_host;

    fn lines(path: &Path) -> Vec<Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn ids(value: &Value) -> Vec<u32> {
        value.as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
    }

    fn numbers(value: &Value) -> Vec<f64> {
        value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
    }

    /// Log-probabilities of every token after the first, of all sequences in one batch.
    fn log_probs(decoder: &Decoder, sequences: &[Vec<u32>]) -> Vec<Vec<f64>> {
        let (mut batch, mut targets) = (Batch::default(), Targets::default());
        for ids in sequences {
            let rows: Vec<usize> = batch.push(ids).collect();
            targets.push(ids, &rows, 1);
        }
        let all = to_host(decoder.log_probs(decoder.hidden(&batch, None), &targets, 1.0).0);
        targets.examples.into_iter().map(|range| all[range].iter().map(|&l| f64::from(l)).collect()).collect()
    }

    fn largest_difference(found: &[f64], expected: &[f64]) -> f64 {
        assert_eq!(found.len(), expected.len());
        found.iter().zip(expected).map(|(f, e)| (f - e).abs()).fold(0.0, f64::max)
    }

    /// Golden log-probabilities in float64, from which transformers 5.23 differs by 1.6e-6 (EXPECTED.md there).
    #[test]
    #[ignore = "needs ../shared/data/hf"]
    fn log_probabilities_of_four_families_are_those_of_transformers() {
        let data = fixtures::shared("hf");
        let device = Device::flex();
        for family in ["llama", "gpt2", "qwen2", "mistral"] {
            let decoder = read(&data.join(family), &device).unwrap().decoder;
            let rows = lines(&data.join(family).join("pairs.jsonl"));
            let sequences: Vec<Vec<u32>> = rows.iter().map(|row| ids(&row["full_ids"])).collect();
            let found = log_probs(&decoder, &sequences);
            let worst =
                rows.iter().zip(&found).map(|(row, found)| largest_difference(found, &numbers(&row["token_logprobs"])));
            let worst = worst.fold(0.0, f64::max);
            println!("{family}: {worst:.2e}");
            assert!(worst < 2e-5, "{family}: {worst}");
        }
    }

    #[test]
    fn both_spellings_of_a_configuration_are_one() {
        let data = fixtures::own("hf");
        for family in ["llama", "gpt2", "qwen2", "mistral", "stories260K"] {
            let [new, old] = ["config.json", "config_v4style.json"].map(|name| {
                let config = ModelConfig::read(&data.join(family).join(name)).unwrap();
                ModelConfig { original: serde_json::Map::new(), ..config }
            });
            assert_eq!(new, old, "{family}");
        }
    }

    #[test]
    #[ignore = "needs ../shared/data/hf"]
    fn a_padded_batch_without_its_padding_is_the_same() {
        let data = fixtures::shared("hf");
        for family in ["llama", "gpt2", "qwen2", "mistral"] {
            let decoder = read(&data.join(family), &Device::flex()).unwrap().decoder;
            let text = std::fs::read_to_string(data.join(family).join("batch_padding.json")).unwrap();
            let padded: Value = serde_json::from_str(&text).unwrap();
            for side in ["left", "right"] {
                let side = &padded[side];
                let rows = side["input_ids"].as_array().unwrap().iter().zip(side["attention_mask"].as_array().unwrap());
                let sequences: Vec<Vec<u32>> = rows
                    .map(|(row, mask)| {
                        ids(row).into_iter().zip(ids(mask)).filter(|(_, mask)| *mask == 1).map(|(id, _)| id).collect()
                    })
                    .collect();
                let found = log_probs(&decoder, &sequences);
                for (found, expected) in found.iter().zip(side["token_logprobs_unpadded"].as_array().unwrap()) {
                    assert!(largest_difference(found, &numbers(expected)) < 2e-5, "{family}");
                }
            }
        }
    }

    #[test]
    #[ignore = "needs ../shared/data/hf"]
    fn an_adapter_adds_what_peft_adds_and_can_be_merged() {
        let data = fixtures::shared("hf");
        let decoder = read(&data.join("llama_lora"), &Device::flex()).unwrap().decoder;
        assert_eq!(decoder.adapters.as_ref().unwrap().modules.len(), 9);
        let all = lines(&data.join("llama/pairs.jsonl"));
        let expected = lines(&data.join("llama_lora/pairs_lora.jsonl"));
        let row = |id: &Value| all.iter().find(|row| row["id"] == *id).unwrap();
        let sequences: Vec<Vec<u32>> = expected.iter().map(|line| ids(&row(&line["id"])["full_ids"])).collect();
        for decoder in [merged(&decoder), decoder] {
            for (found, expected) in log_probs(&decoder, &sequences).iter().zip(&expected) {
                assert!(largest_difference(found, &numbers(&expected["token_logprobs"])) < 2e-5);
            }
        }
    }

    /// Small models and adapters of transformers and PEFT, and what these compute with them: `make.py` there.
    fn own() -> (PathBuf, Value) {
        let folder = fixtures::own("models");
        let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
        (folder, serde_json::from_str(&text).unwrap())
    }

    fn assert_log_probs(decoder: &Decoder, all_ids: &Value, expected: &Value, what: &str) {
        let sequences: Vec<Vec<u32>> = all_ids.as_array().unwrap().iter().map(ids).collect();
        let found = log_probs(decoder, &sequences);
        for (found, expected) in found.iter().zip(expected.as_array().unwrap()) {
            let difference = largest_difference(found, &numbers(expected));
            assert!(difference < 3e-5, "{what}: {difference}");
        }
    }

    #[test]
    fn adapters_are_read_as_by_peft_and_written_as_what_was_read() {
        let (folder, expected) = own();
        let device = Device::flex();
        let all = expected["adapters"].as_object().unwrap();
        assert_eq!(all.len(), 18);
        for (name, values) in all {
            let loaded = read(&folder.join(name), &device).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(loaded.remarks, Vec::<String>::new(), "{name}");
            assert_log_probs(&loaded.decoder, &expected["ids"], values, name);
            assert_log_probs(&merged(&loaded.decoder), &expected["ids"], values, name);
            let untrained = ["dora", "saved", "biases"].iter().any(|part| name.contains(part));
            assert_eq!(loaded.only_read.is_some(), untrained, "{name}");
            if untrained {
                continue;
            }
            let written = tempfile::tempdir().unwrap();
            write(&loaded.decoder, Some(&loaded.base), written.path()).unwrap();
            let again = read(written.path(), &device).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_log_probs(&again.decoder, &expected["ids"], values, name);
        }
    }

    #[test]
    fn ways_to_begin_that_leave_the_base_alone_change_nothing() {
        let (folder, expected) = own();
        let copy = tempfile::tempdir().unwrap();
        let file = folder.join("plain/adapter_config.json");
        let mut object: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        object["base_model_name_or_path"] = folder.join("llama").to_str().unwrap().into();
        let tensors = "adapter_model.safetensors";
        std::fs::copy(folder.join("plain").join(tensors), copy.path().join(tensors)).unwrap();
        for (start, values) in expected["starts"].as_object().unwrap() {
            object["init_lora_weights"] = serde_json::from_str(start).unwrap();
            std::fs::write(copy.path().join("adapter_config.json"), object.to_string()).unwrap();
            let loaded = read(copy.path(), &Device::flex()).unwrap();
            assert_log_probs(&loaded.decoder, &expected["ids"], values, start);
            assert_eq!(loaded.remarks.len(), usize::from(start.contains("lora_ga")), "{start}");
        }
        // Without tensors for a module that is said to have some, these would be drawn.
        object["target_modules"] = json!(["q_proj", "v_proj", "k_proj"]);
        for (start, problem) in [(json!(true), None), (json!(false), Some("k_proj.lora_A.weight' is missing"))] {
            object["init_lora_weights"] = start;
            std::fs::write(copy.path().join("adapter_config.json"), object.to_string()).unwrap();
            let error = read(copy.path(), &Device::flex()).map(drop).map_err(|error| error.to_string());
            match problem {
                None => error.unwrap(),
                Some(problem) => assert!(error.clone().unwrap_err().contains(problem), "{error:?}"),
            }
        }
        // PEFT would leave tensors unread that the configuration does not name.
        object["target_modules"] = json!(["q_proj"]);
        std::fs::write(copy.path().join("adapter_config.json"), object.to_string()).unwrap();
        let error = read(copy.path(), &Device::flex()).unwrap_err().to_string();
        assert!(
            error.contains("there are tensors for model.layers.0.self_attn.v_proj, which target_modules"),
            "{error}"
        );
    }

    /// A folder with the tensors of another, and its files with changes; null takes a field out.
    fn changed(from: &Path, file: &str, changes: &Value) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
        let mut object: Value = serde_json::from_str(&std::fs::read_to_string(from.join(file)).unwrap()).unwrap();
        let fields = object.as_object_mut().unwrap();
        for (name, value) in changes.as_object().unwrap() {
            if value.is_null() {
                fields.remove(name);
            } else {
                fields.insert(name.clone(), value.clone());
            }
        }
        std::fs::write(copy.path().join(file), object.to_string()).unwrap();
        copy
    }

    #[test]
    fn configurations_mean_what_they_mean_to_transformers() {
        let (folder, expected) = own();
        let all = expected["configs"].as_array().unwrap();
        assert_eq!(all.len(), 14);
        for case in all {
            let base = folder.join(case["base"].as_str().unwrap());
            let copy = changed(&base, "config.json", &case["changes"]);
            let loaded = read(copy.path(), &Device::flex()).unwrap_or_else(|error| panic!("{case}: {error}"));
            let what = case["changes"].to_string();
            let ids = &expected[case["ids"].as_str().unwrap()];
            assert!(ids[0].as_array().unwrap().len() <= loaded.decoder.config.context, "{what}");
            assert_log_probs(&loaded.decoder, ids, &case["log_probs"], &what);
            // And so when it is written again.
            let written = tempfile::tempdir().unwrap();
            write(&loaded.decoder, None, written.path()).unwrap();
            let again = read(written.path(), &Device::flex()).unwrap();
            assert_log_probs(&again.decoder, ids, &case["log_probs"], &what);
            assert_eq!(again.remarks, Vec::<String>::new(), "{what}");
        }
    }

    #[test]
    fn a_folder_that_is_written_says_what_is_in_it_and_keeps_the_rest() {
        let (folder, _) = own();
        let copy =
            changed(&folder.join("llama"), "config.json", &json!({"dtype": "bfloat16", "_name_or_path": "mine"}));
        let sampling = json!({
            "bos_token_id": 0, "eos_token_id": [1, 4], "pad_token_id": 2, "do_sample": true, "temperature": 0.7,
            "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05, "num_beams": 1,
        });
        std::fs::write(copy.path().join("generation_config.json"), sampling.to_string()).unwrap();
        let loaded = read(copy.path(), &Device::flex()).unwrap();
        let [remark] = loaded.sampling.as_slice() else { panic!("{:?}", loaded.sampling) };
        assert!(
            remark.contains("repetition_penalty = 1.05 are not applied") && !remark.contains("num_beams"),
            "{remark}"
        );
        let written = tempfile::tempdir().unwrap();
        write(&loaded.decoder, None, written.path()).unwrap();
        let json = |name: &str| -> Value {
            serde_json::from_str(&std::fs::read_to_string(written.path().join(name)).unwrap()).unwrap()
        };
        assert_eq!(json("generation_config.json"), sampling);
        let (config, original) = (json("config.json"), loaded.decoder.config.original.clone());
        for (name, value) in original {
            let expected = if name == "dtype" { json!("float32") } else { value };
            assert_eq!(config[&name], expected, "{name}");
        }
        std::fs::write(copy.path().join("generation_config.json"), r#"{"colour": 1}"#).unwrap();
        let error = read(copy.path(), &Device::flex()).unwrap_err().to_string();
        assert!(error.contains("generation_config.json: colour = 1: pairwise does not know what it does"), "{error}");
    }

    #[test]
    fn a_classifier_of_several_labels_is_refused() {
        let (folder, _) = own();
        let two = json!({"architectures": ["LlamaForSequenceClassification"]});
        let copy = changed(&folder.join("llama"), "config.json", &two);
        let error = read(copy.path(), &Device::flex()).unwrap_err().to_string();
        assert!(error.contains("config.json: num_labels = 2: which label is the reward is not said"), "{error}");
        let one = json!({"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "x"}, "num_labels": 5});
        let copy = changed(&folder.join("llama"), "config.json", &one);
        let error = read(copy.path(), &Device::flex()).unwrap_err().to_string();
        assert!(error.contains("tensor 'score.weight' is missing"), "{error}");
    }

    /// Sizes that no file has: what is said of them is said before anything of that size is made.
    #[test]
    fn sizes_are_compared_with_the_files_before_memory_is_asked_for() {
        let (folder, _) = own();
        let huge = 1 << 30;
        for (changes, expected) in [
            (json!({"vocab_size": huge}), "config.json makes it [1073741824, 16] (vocab_size, "),
            (json!({"hidden_size": huge}), "config.json makes it [40, 1073741824] (vocab_size, hidden_size)"),
            (json!({"intermediate_size": huge}), "config.json makes it [1073741824, 16] (intermediate_size, "),
            (json!({"num_hidden_layers": huge}), "though config.json says num_hidden_layers = 1073741824"),
            (json!({"num_hidden_layers": huge, "vocab_size": huge, "hidden_size": huge}), "num_hidden_layers = "),
            (json!({"head_dim": huge}), "config.json makes it [4294967296, 16] (num_attention_heads × head_dim, "),
            (json!({"num_key_value_heads": huge}), "num_attention_heads = 4 is not a multiple of"),
            (
                json!({"num_attention_heads": huge, "num_key_value_heads": huge, "head_dim": huge}),
                "num_attention_heads ×",
            ),
            (
                json!({"max_position_embeddings": huge}),
                "max_position_embeddings = 1073741824: must be at most 16777216",
            ),
        ] {
            let copy = changed(&folder.join("llama"), "config.json", &changes);
            let error = read(copy.path(), &Device::flex()).unwrap_err().to_string();
            assert!(error.contains(expected) && error.lines().count() == 1, "{error}");
        }
        let copy = changed(&folder.join("gpt2"), "config.json", &json!({"n_positions": huge}));
        let error = read(copy.path(), &Device::flex()).unwrap_err().to_string();
        assert!(error.contains("config.json makes it [1073741824, 16] (n_positions, "), "{error}");
        // As long as this, it is no matter for a model that turns.
        let copy = changed(&folder.join("llama"), "config.json", &json!({"max_position_embeddings": 1 << 24}));
        let model = read(copy.path(), &Device::flex()).unwrap().decoder;
        let sampling = crate::lm::sample::SampleConfig { max_new_tokens: 3, ..Default::default() };
        let written = crate::lm::sample::generate(&model, &[vec![0, 2]], &sampling, &[], 0, &|_, _| true);
        assert_eq!(written[0].ids.len(), 3);
    }

    #[cfg(unix)]
    #[test]
    fn an_index_names_regular_files_of_its_folder_only() {
        let (folder, _) = own();
        let copy = changed(&folder.join("llama"), "config.json", &json!({}));
        let index = copy.path().join("model.safetensors.index.json");
        let names: Vec<String> = {
            let bytes = std::fs::read(copy.path().join("model.safetensors")).unwrap();
            let names = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            names.names().into_iter().map(str::to_owned).collect()
        };
        let map =
            |file: &str| names.iter().map(|name| (name.clone(), file.into())).collect::<serde_json::Map<_, Value>>();
        let error = |map: Value| {
            std::fs::write(&index, json!({ "weight_map": map }).to_string()).unwrap();
            let error = read(copy.path(), &Device::flex()).map(drop).map_err(|error| error.to_string());
            // Merging has a reader of its own.
            let config = crate::soup::MergeConfig { weights: vec![1.0], ..Default::default() };
            let out = copy.path().join("out");
            let models = [copy.path().to_owned()];
            let merged = crate::lm::merge::merge_models(&config, None, &models, &out, false, &false.into(), &|_, _| ());
            assert_eq!(merged.map(drop).map_err(|error| error.to_string()), error);
            let _ = std::fs::remove_dir_all(out);
            error
        };
        assert_eq!(error(map("model.safetensors").into()), Ok(()));
        std::os::unix::fs::symlink(folder.join("llama/model.safetensors"), copy.path().join("linked")).unwrap();
        assert_eq!(error(map("linked").into()), Ok(()), "as in Hugging Face's cache");
        for (value, expected) in [
            (json!({}), "weight_map = {}: must name each tensor's file"),
            (json!([]), "field 'weight_map' is missing"),
            (map("../model.safetensors").into(), "\"../model.safetensors\": must be the name of a file in this folder"),
            (map("/etc/passwd").into(), "\"/etc/passwd\": must be the name of a file in this folder"),
            (map("").into(), "\"\": must be the name of a file in this folder"),
            (json!({"a": 1}), "weight_map.\"a\" = 1: must be the name of a file in this folder"),
            (map("none").into(), "none: No such file or directory"),
            (
                json!({"other": "model.safetensors"}),
                "weight_map says that 'other' is in model.safetensors, but it is not",
            ),
        ] {
            let found = error(value).unwrap_err();
            assert!(found.contains(expected), "{found}, expected {expected}");
        }
        // A tensor that is in two files.
        let mut both = map("model.safetensors");
        both.insert(names[0].clone(), "linked".into());
        let found = error(both.into()).unwrap_err();
        assert!(found.contains(", too: which one counts?"), "{found}");
        // Neither a pipe, nor a folder, nor what never ends is opened.
        std::os::unix::fs::symlink("/dev/zero", copy.path().join("endless")).unwrap();
        std::fs::create_dir(copy.path().join("folder")).unwrap();
        let pipe = copy.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for name in ["endless", "folder", "pipe"] {
            let found = error(map(name).into()).unwrap_err();
            assert!(found.ends_with(&format!("{name}: is no regular file")), "{found}");
        }
        std::fs::remove_file(&index).unwrap();
        for name in ["config.json", "model.safetensors", "generation_config.json"] {
            let path = copy.path().join(name);
            let bytes = std::fs::read(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
            // A generation_config.json that is none is as none.
            assert_eq!(read(copy.path(), &Device::flex()).is_ok(), name.starts_with("generation"), "{name}");
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, bytes).unwrap();
        }
    }

    #[test]
    fn an_adapter_of_an_adapter_is_refused() {
        let (folder, _) = own();
        let at = |path: &Path| json!({ "base_model_name_or_path": path.to_str().unwrap() });
        let plain = folder.join("plain");
        let of_adapter = changed(&plain, "adapter_config.json", &at(&plain));
        let error = |path: &Path| read(path, &Device::flex()).unwrap_err().to_string();
        assert!(error(of_adapter.path()).contains("is an adapter, too: must be a whole model"));
        // Its own, and two in a circle.
        let own = changed(&plain, "adapter_config.json", &at(&plain));
        let circle = changed(&plain, "adapter_config.json", &at(own.path()));
        for (base, expected) in [(own.path(), "is this adapter's own folder"), (circle.path(), "is an adapter, too")] {
            let file = own.path().join("adapter_config.json");
            let mut object: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
            object["base_model_name_or_path"] = base.to_str().unwrap().into();
            std::fs::write(&file, object.to_string()).unwrap();
            let found = error(own.path());
            assert!(
                found.contains("adapter_config.json: base_model_name_or_path") && found.contains(expected),
                "{found}"
            );
        }
    }

    fn small() -> Decoder {
        let size = SmallLlama { vocabulary: 50, hidden: 16, layers: 2, heads: 2, context: 32 };
        Decoder::new(ModelConfig::small_llama(size), 3, &Device::flex())
    }

    fn values(decoder: &Decoder) -> Vec<Vec<f32>> {
        let own = decoder.parameters.iter();
        own.chain(decoder.adapters.iter().flat_map(|adapters| &adapters.parameters))
            .map(|tensor| to_host(tensor.clone()))
            .collect()
    }

    #[test]
    fn what_is_written_is_read_again_to_the_bit() {
        let folder = tempfile::tempdir().unwrap();
        let device = Device::flex();
        let (base, adapter, scorer) =
            (folder.path().join("base"), folder.path().join("lora"), folder.path().join("rm"));
        let decoder = small();
        write(&decoder, None, &base).unwrap();
        let again = read(&base, &device).unwrap();
        assert_eq!((values(&again.decoder), again.remarks), (values(&decoder), Vec::new()));

        let config =
            LoraConfig { rank: 3, targets: vec!["q_proj".into(), "down_proj".into()], ..LoraConfig::default() };
        let mut adapted = decoder.clone();
        adapted.adapters = Some(Adapters::new(config.clone(), &adapted.layout, 5, &device).unwrap());
        write(&adapted, Some(&base), &adapter).unwrap();
        let again = read(&adapter, &device).unwrap().decoder;
        assert_eq!(values(&again), values(&adapted));
        assert_eq!(again.adapters.as_ref().unwrap().modules, adapted.adapters.as_ref().unwrap().modules);

        let model = with_scores(&adapted, 1, 9);
        write(&Decoder { adapters: None, ..model.clone() }, None, &scorer).unwrap();
        assert_eq!(values(&read(&scorer, &device).unwrap().decoder), values(&with_scores(&decoder, 1, 9)));
        write(&model, Some(&base), &adapter).unwrap();
        assert_eq!(values(&read(&adapter, &device).unwrap().decoder), values(&model));
    }

    #[test]
    fn files_that_cannot_be_used_are_named_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let device = Device::flex();
        let path = folder.path();
        let error = |path: &Path| read(path, &device).unwrap_err().to_string();
        assert!(error(&path.join("none")).contains("there is no such folder"));
        assert!(error(path).contains("this is not a model's folder"));
        write(&small(), None, path).unwrap();
        let weights = path.join("model.safetensors");
        let whole = std::fs::read(&weights).unwrap();
        for len in [0, 5, 100, whole.len() - 1] {
            std::fs::write(&weights, &whole[..len]).unwrap();
            let error = error(path);
            assert!(error.contains("model.safetensors: not a whole safetensors file"), "{len}: {error}");
        }
        let mut broken = whole.clone();
        let at = broken.len() - 4;
        broken[at..].copy_from_slice(&f32::NAN.to_le_bytes());
        std::fs::write(&weights, &broken).unwrap();
        assert!(error(path).contains("has the value NaN at index"), "{}", error(path));
        std::fs::write(&weights, &whole).unwrap();
        let config = std::fs::read_to_string(path.join("config.json")).unwrap();
        std::fs::write(path.join("config.json"), config.replace("\"vocab_size\": 50", "\"vocab_size\": 60")).unwrap();
        assert!(error(path).contains("has the shape [50, 16], but config.json makes it [60, 16]"), "{}", error(path));
        std::fs::write(
            path.join("config.json"),
            config.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3"),
        )
        .unwrap();
        assert!(error(path).contains("tensor 'model.layers.2.input_layernorm.weight' is missing"), "{}", error(path));
        let unknown = LoraConfig { targets: vec!["c_attn".into()], ..LoraConfig::default() };
        let error = unknown.modules(&small().layout).unwrap_err();
        assert!(error.contains("no linear layer is called 'c_attn'") && error.contains("q_proj"), "{error}");
    }

    #[test]
    fn a_shared_prompt_changes_no_log_probability() {
        let decoder = small();
        let sequences: [&[u32]; 2] = [&[1, 2, 3, 4, 5, 6], &[1, 2, 3, 9, 9]];
        let apart = log_probs(&decoder, &sequences.map(<[u32]>::to_vec));
        let (mut batch, mut targets) = (Batch::default(), Targets::default());
        for (ids, rows) in sequences.iter().zip(batch.push_sharing(&sequences)) {
            targets.push(ids, &rows, 1);
        }
        assert_eq!(batch.len(), 8);
        let (found, _) = decoder.log_probs(decoder.hidden(&batch, None), &targets, 1.0);
        let expected: Vec<f64> = apart.concat();
        let found: Vec<f64> = to_host(found).into_iter().map(f64::from).collect();
        assert!(largest_difference(&found, &expected) < 1e-6);
        assert!(Arc::strong_count(&decoder.layout) == 1);
    }
}
