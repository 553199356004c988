//! Hugging Face folders: `config.json` with `model.safetensors`, whole or in shards, and PEFT's adapters.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, View};
use serde_json::{Map, Value, json};

use super::config::{ConfigError, ModelConfig, Output, token_ids};
use super::lora::{AdapterModule, Adapters, LoraConfig};
use super::model::{Decoder, Layout, Piece, Precision};
use crate::nn::{constant, to_host};
use crate::run::archive::write_atomically;

/// A model that was read.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The model, with its adapters.
    pub decoder: Decoder,
    /// The folder of the whole model: an adapter's is that of its base.
    pub base: PathBuf,
    /// What the user should know, such as fields that are not known.
    pub remarks: Vec<String>,
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
    if folder.join(ADAPTER_CONFIG).is_file() {
        return read_adapted(folder, device);
    }
    let file = folder.join("config.json");
    if !file.is_file() {
        let problem = match folder.is_dir() {
            true => "no config.json and no adapter_config.json here: this is not a model's folder",
            false => "there is no such folder; a model is a folder with config.json and model.safetensors",
        };
        return Err(content(folder, problem));
    }
    let (mut config, mut remarks) = ModelConfig::read(&file)?;
    read_generation(folder, &mut config)?;
    let layout = Layout::new(&config);
    let weights = Weights::open(folder)?;
    let mut used = BTreeSet::new();
    let read_one = |spec: &super::model::TensorSpec| -> Result<Tensor<2>, FolderError> {
        let [rows, columns] = spec.shape;
        let mut values = vec![0.0; rows * columns];
        for piece in &spec.pieces {
            weights.read(piece, spec.shape, &mut values, &mut used)?;
        }
        Ok(constant(&values, spec.shape, device))
    };
    let parameters = layout.tensors.iter().map(read_one).collect::<Result<Vec<_>, _>>()?;
    remarks.extend(weights.unused(&used, &config));
    let decoder =
        Decoder { config, layout: Arc::new(layout), parameters, adapters: None, precision: Precision::default() };
    Ok(Loaded { decoder, base: folder.to_owned(), remarks })
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
    let eos = match decoder.config.eos.as_slice() {
        [] => Value::Null,
        [one] => json!(one),
        several => json!(several),
    };
    write_json(&folder.join(GENERATION), &json!({"bos_token_id": decoder.config.bos, "eos_token_id": eos}))
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
    let parameter = |(i, spec): (usize, &super::model::TensorSpec)| match by_name.get(spec.name.as_str()) {
        Some(&tensor) if i != layout.head => tensor.clone(),
        _ => spec.fresh(seed, i, &device),
    };
    let parameters = layout.tensors.iter().enumerate().map(parameter).collect();
    // The blocks' parameters come before the head in both layouts, so that adapters fit.
    Decoder { config, layout: Arc::new(layout), parameters, ..decoder.clone() }
}

pub(super) const WEIGHTS: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";
const GENERATION: &str = "generation_config.json";
pub(super) const ADAPTER_CONFIG: &str = "adapter_config.json";
pub(super) const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT puts before the names of modules.
const ADAPTER_PREFIX: &str = "base_model.model.";

// ----------------------------------------------------------------------------------------------------------- reading

/// The files of a checkpoint, mapped.
struct Weights {
    files: Vec<(PathBuf, Mmap)>,
    /// Which file a tensor is in.
    index: BTreeMap<String, usize>,
}

impl Weights {
    fn open(folder: &Path) -> Result<Self, FolderError> {
        let index = folder.join(INDEX);
        let whole = folder.join(WEIGHTS);
        let names: Vec<String> = if index.is_file() {
            let map = read_json(&index)?;
            let map = map.get("weight_map").and_then(Value::as_object);
            let map =
                map.ok_or_else(|| content(&index, "field 'weight_map' is missing: must name each tensor's file"))?;
            let files: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
            files.into_iter().map(str::to_owned).collect()
        } else if whole.is_file() {
            vec![WEIGHTS.to_owned()]
        } else if folder.join("pytorch_model.bin").is_file() {
            let problem = "only pytorch_model.bin is here, which can run code: save the model as safetensors (transformers' save_pretrained does)";
            return Err(content(folder, problem));
        } else {
            return Err(content(folder, "no model.safetensors and no model.safetensors.index.json here"));
        };
        Self::map(names.iter().map(|name| folder.join(name)).collect())
    }

    fn map(paths: Vec<PathBuf>) -> Result<Self, FolderError> {
        let mut weights = Self { files: Vec::new(), index: BTreeMap::new() };
        for path in paths {
            let file = File::open(&path).map_err(|error| io(&path, error))?;
            #[expect(
                unsafe_code,
                reason = "mapping a file has no safe form; read access, as every reader of weights does"
            )]
            // SAFETY: the bytes are only read, and checked as they are; a file that another program cuts short while it
            // is mapped ends this one with SIGBUS, as with any mapped file.
            let map = unsafe { Mmap::map(&file) }.map_err(|error| io(&path, error))?;
            let tensors = parse(&path, &map)?;
            for name in tensors.names() {
                weights.index.insert(name.to_owned(), weights.files.len());
            }
            weights.files.push((path, map));
        }
        Ok(weights)
    }

    fn tensor(&self, name: &str) -> Result<Option<(&Path, TensorView<'_>)>, FolderError> {
        let Some(&file) = self.index.get(name) else { return Ok(None) };
        let (path, map) = &self.files[file];
        let view = parse(path, map)?.tensor(name).map_err(|error| content(path, &format!("{name}: {error}")))?;
        Ok(Some((path, view)))
    }

    /// Reads one piece of a parameter.
    fn read(
        &self,
        piece: &Piece,
        [rows, columns]: [usize; 2],
        values: &mut [f32],
        used: &mut BTreeSet<String>,
    ) -> Result<(), FolderError> {
        // A base model saved without its head has no prefix.
        let bare = piece.name.split_once('.').map_or(piece.name.as_str(), |(_, rest)| rest);
        let (name, (path, view)) = match (self.tensor(&piece.name)?, self.tensor(bare)?) {
            (Some(found), _) => (piece.name.as_str(), found),
            (None, Some(found)) => (bare, found),
            (None, None) => {
                let path = &self.files[0].0;
                return Err(content(path, &format!("tensor '{}' is missing", piece.name)));
            }
        };
        used.insert(name.to_owned());
        let count = piece.rows.len();
        let expected = match (piece.vector, piece.transposed) {
            (true, _) => vec![count],
            (false, true) => vec![columns, count],
            (false, false) => vec![count, columns],
        };
        if view.shape() != expected {
            let problem =
                format!("tensor '{name}' has the shape {:?}, but config.json makes it {expected:?}", view.shape());
            return Err(content(path, &problem));
        }
        let found = to_f32(path, name, &view)?;
        match (piece.vector, piece.transposed) {
            (true, _) => values[piece.rows.clone()].copy_from_slice(&found),
            (false, false) => values[piece.rows.start * columns..piece.rows.end * columns].copy_from_slice(&found),
            (false, true) => {
                debug_assert_eq!(rows, count, "a transposed tensor is a whole parameter");
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
                || (name == "lm_head.weight" && (config.tied || config.output != Output::Tokens))
        };
        let rest = self.index.iter().filter(|(name, _)| !used.contains(*name) && !harmless(name));
        rest.map(|(name, &file)| format!("{}: tensor '{name}' is not used", self.files[file].0.display())).collect()
    }
}

fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<SafeTensors<'a>, FolderError> {
    SafeTensors::deserialize(bytes)
        .map_err(|error| content(path, &format!("not a whole safetensors file ({error}): was it copied to its end?")))
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

/// Tokens that end a text may be given only in `generation_config.json`, and more of them than in `config.json`.
fn read_generation(folder: &Path, config: &mut ModelConfig) -> Result<(), FolderError> {
    let file = folder.join(GENERATION);
    if !file.is_file() {
        return Ok(());
    }
    let object = read_json(&file)?;
    if let Some(value) = object.get("eos_token_id").filter(|value| !value.is_null()) {
        let problem = format!("eos_token_id = {value}: must be a token's number, or several");
        config.eos = token_ids(value).ok_or_else(|| content(&file, &problem))?;
    }
    Ok(())
}

// ---------------------------------------------------------------------------------------------------------- adapters

fn read_adapted(folder: &Path, device: &Device) -> Result<Loaded, FolderError> {
    let file = folder.join(ADAPTER_CONFIG);
    let object = read_json(&file)?;
    let wrong = |problem: String| content(&file, &problem);
    if object.get("peft_type").and_then(Value::as_str) != Some("LORA") {
        let found = object.get("peft_type").unwrap_or(&Value::Null);
        return Err(wrong(format!("peft_type = {found} is not supported: must be \"LORA\"")));
    }
    for (name, plain) in [("use_dora", json!(false)), ("bias", json!("none")), ("lora_bias", json!(false))] {
        if let Some(value) = object.get(name).filter(|value| !value.is_null() && **value != plain) {
            return Err(wrong(format!("{name} = {value} is not supported: must be {plain}")));
        }
    }
    for name in ["rank_pattern", "alpha_pattern"] {
        if object.get(name).and_then(Value::as_object).is_some_and(|pattern| !pattern.is_empty()) {
            return Err(wrong(format!("{name} is not supported: all modules must have one rank and one alpha")));
        }
    }
    let number = |name: &str| {
        let value = object.get(name).unwrap_or(&Value::Null);
        value
            .as_f64()
            .filter(|number| *number >= 0.0)
            .ok_or_else(|| content(&file, &format!("{name} = {value}: must be a number")))
    };
    let rank = number("r")? as usize;
    if rank == 0 {
        return Err(wrong("r = 0: must be a whole number from 1 on".to_owned()));
    }
    let dropout = object.get("lora_dropout").and_then(Value::as_f64).unwrap_or(0.0);
    let rslora = object.get("use_rslora").and_then(Value::as_bool).unwrap_or(false);
    let alpha = number("lora_alpha")?;
    let base = object.get("base_model_name_or_path").and_then(Value::as_str).unwrap_or_default();
    // As transformers: a path from where the program runs; else from where the adapter lies.
    let base = [PathBuf::from(base), folder.join(base)].into_iter().find(|path| path.join("config.json").is_file());
    let base = base.ok_or_else(|| {
        let found = object.get("base_model_name_or_path").unwrap_or(&Value::Null);
        wrong(format!(
            "base_model_name_or_path = {found}: there is no model in that folder; set it to where the base is"
        ))
    })?;
    let Loaded { mut decoder, base, remarks } = read(&base, device)?;

    let path = folder.join(ADAPTER_WEIGHTS);
    let weights = Weights::map(vec![path.clone()])?;
    let targets = match object.get("target_modules") {
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Some(Value::String(one)) => vec![one.clone()],
        _ => Vec::new(),
    };
    let config = LoraConfig { rank, alpha, dropout, targets, rslora };
    // What has an update is what is in the file: `target_modules` may be a pattern.
    let everything = LoraConfig { targets: vec!["all-linear".to_owned()], ..config.clone() };
    let all = everything.modules(&decoder.layout).map_err(wrong)?;
    let (mut modules, mut parameters) = (Vec::new(), Vec::new());
    let mut used = BTreeSet::new();
    for module in all {
        let names = ["A", "B"].map(|part| format!("{ADAPTER_PREFIX}{}.lora_{part}.weight", module.name));
        let shapes = [[rank, module.inputs], [module.rows.len(), rank]];
        if !weights.index.contains_key(&names[0]) {
            continue;
        }
        for (name, shape) in names.iter().zip(shapes) {
            let Some((path, view)) = weights.tensor(name)? else {
                return Err(content(&path, &format!("tensor '{name}' is missing")));
            };
            if view.shape() != shape {
                let problem = format!("tensor '{name}' has the shape {:?}, but must have {shape:?}", view.shape());
                return Err(content(path, &problem));
            }
            parameters.push(constant(&to_f32(path, name, &view)?, shape, device));
            used.insert(name.clone());
        }
        modules.push(module);
    }
    let head = format!("{ADAPTER_PREFIX}score.weight");
    if let Some((path, view)) = weights.tensor(&head)? {
        let [count, hidden] = <[usize; 2]>::try_from(view.shape())
            .map_err(|_| content(path, &format!("tensor '{head}' has the shape {:?}, not two sizes", view.shape())))?;
        if hidden != decoder.config.hidden {
            let problem = format!("tensor '{head}' is {hidden} wide, but the model {}", decoder.config.hidden);
            return Err(content(path, &problem));
        }
        decoder = with_scores(&decoder, count, 0);
        let at = decoder.layout.head;
        decoder.parameters[at] = constant(&to_f32(path, &head, &view)?, [count, hidden], device);
        used.insert(head);
    }
    if let Some(name) = weights.index.keys().find(|name| !used.contains(*name)) {
        let problem = format!("tensor '{name}' fits no linear layer of {}", base.display());
        return Err(content(&path, &problem));
    }
    decoder.adapters = Some(Adapters { config, modules, parameters });
    Ok(Loaded { decoder, base, remarks })
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
    let targets: BTreeSet<&str> = adapters.modules.iter().filter_map(target).collect();
    let base = base.map(|base| base.canonicalize().unwrap_or_else(|_| base.to_owned()));
    let gpt2 = decoder.config.family == super::config::Family::Gpt2;
    let config = json!({
        "peft_type": "LORA",
        "task_type": if scores { "SEQ_CLS" } else { "CAUSAL_LM" },
        "base_model_name_or_path": base,
        "r": adapters.config.rank,
        "lora_alpha": adapters.config.alpha,
        "lora_dropout": adapters.config.dropout,
        "use_rslora": adapters.config.rslora,
        "target_modules": targets,
        "modules_to_save": if scores { json!(["score"]) } else { Value::Null },
        "bias": "none",
        "fan_in_fan_out": gpt2,
        "inference_mode": true,
    });
    write_json(&folder.join(ADAPTER_CONFIG), &config)
}

/// The end of a module's name.
fn target(module: &AdapterModule) -> Option<&str> {
    module.name.rsplit('.').next()
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
        let columns = tensor.dims()[1];
        let shape = match (piece.vector, piece.transposed) {
            (true, _) => vec![piece.rows.len()],
            (false, true) => vec![columns, piece.rows.len()],
            (false, false) => vec![piece.rows.len(), columns],
        };
        Self { piece, tensor, shape }
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
    let temporary = path.with_extension("safetensors.part");
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(tensors, Some(metadata), &temporary).map_err(|error| {
        let _ = std::fs::remove_file(&temporary);
        content(path, &format!("cannot be written: {error}"))
    })?;
    let synced = File::open(&temporary).and_then(|file| file.sync_all());
    synced.and_then(|()| std::fs::rename(&temporary, path)).map_err(|error| io(path, error))
}

pub(super) fn write_json(path: &Path, value: &Value) -> Result<(), FolderError> {
    let text = serde_json::to_string_pretty(value).expect("a JSON value can be written") + "\n";
    write_atomically(path, text.as_bytes()).map_err(|error| io(path, error))
}

pub(super) fn read_json(path: &Path) -> Result<Map<String, Value>, FolderError> {
    let text = std::fs::read_to_string(path).map_err(|error| io(path, error))?;
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
    use serde_json::Value;

    use super::{merged, read, with_scores, write};
    use crate::lm::batch::{Batch, Targets};
    use crate::lm::config::{ModelConfig, SmallLlama};
    use crate::lm::lora::{Adapters, LoraConfig};
    use crate::lm::model::Decoder;
    use crate::nn::to_host;

    /// Real models and expected values, which the project's own tests must do without.
    fn data() -> Option<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/hf");
        if !folder.is_dir() {
            eprintln!("skipped: {} is not there", folder.display());
            return None;
        }
        Some(folder)
    }

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
    fn log_probabilities_of_four_families_are_those_of_transformers() {
        let Some(data) = data() else { return };
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
        let Some(data) = data() else { return };
        for family in ["llama", "gpt2", "qwen2", "mistral", "stories260K"] {
            let [new, old] = ["config.json", "config_v4style.json"].map(|name| {
                let (config, remarks) = ModelConfig::read(&data.join(family).join(name)).unwrap();
                assert_eq!(remarks, Vec::<String>::new());
                ModelConfig { original: serde_json::Map::new(), ..config }
            });
            assert_eq!(new, old, "{family}");
        }
    }

    #[test]
    fn a_padded_batch_without_its_padding_is_the_same() {
        let Some(data) = data() else { return };
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
    fn an_adapter_adds_what_peft_adds_and_can_be_merged() {
        let Some(data) = data() else { return };
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
