//! Whole models: `config.json` with `model.safetensors`, whole or in shards.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use serde_json::{Map, json};

use super::generation::{GENERATION, read_generation};
use super::weights::{INDEX, PieceView, WEIGHTS, Weights, write_tensors};
use crate::disk::DiskError;
use crate::lm::config::{ModelConfig, Output};
use crate::lm::fields::{FolderError, content, write_json};
use crate::lm::layout::{Layout, TensorSpec};
use crate::lm::model::{Decoder, Precision};
use crate::nn::constant;

/// A model that was read.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The model, with its adapters.
    pub decoder: Decoder,
    /// The folder of the whole model. For an adapter, that is the folder of its base.
    pub base: PathBuf,
    /// What the user should know.
    pub remarks: Vec<String>,
    /// What the user should know if the model is to write: how transformers would sample. This program does not.
    pub sampling: Vec<String>,
    /// Why the model cannot be trained any further, if it cannot: its adapter has parts that this program only reads.
    pub only_read: Option<String>,
}

/// Most bytes of weights in one file; transformers' default.
const SHARD_BYTES: usize = 5_000_000_000;

/// Reads a folder with `config.json`.
pub(in crate::lm) fn read_whole(folder: &Path, device: &Device) -> Result<Loaded, FolderError> {
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
                "num_labels = {count}: the file does not say which label is the reward: must be 1; keep the row of score.weight of that label, and set num_labels to 1 and id2label to one name"
            ),
        ));
    }
    let weights = Weights::open(folder)?;
    // Sizes are compared with the files before anything of these sizes is made.
    weights.check_layers(&config)?;
    let mut remarks = Vec::new();
    if config.tied && config.output == Output::Tokens && weights.has_own_head()? {
        config.tied = false;
        remarks.push(format!(
            "{}: tie_word_embeddings is true, but lm_head.weight is another tensor than the embedding: both are used, as in transformers 5",
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

/// Writes a model's configuration and weights into a folder that is there.
pub(super) fn write_whole(decoder: &Decoder, folder: &Path) -> Result<(), FolderError> {
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
        // An index of an earlier model would hide the new file.
        1 => remove_if_there(&folder.join(INDEX))?,
        _ => write_json(&folder.join(INDEX), &json!({"metadata": {"total_size": total}, "weight_map": index}))?,
    }
    write_json(&folder.join("config.json"), &decoder.config.to_json())?;
    write_json(&folder.join(GENERATION), &decoder.config.generation_json())
}

/// The model with its adapters merged into its weights.
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

/// The decoder with a fresh head that scores: how a reward model or a value function begins.
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

fn remove_if_there(path: &Path) -> Result<(), FolderError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(DiskError::io(path, "remove")(error).into()),
        _ => Ok(()),
    }
}
