//! PEFT's adapters: their tensors, what they make of the base's weights, and writing them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use nalgebra::DMatrix;
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use serde_json::{Map, Value, json};

use super::peft::{ADAPTER_CONFIG, ADAPTER_PREFIX, ADAPTER_WEIGHTS, AdapterFile, taken_out};
use super::weights::{HEAD, PieceView, Weights, to_f32, write_tensors};
use super::whole::{Loaded, read_whole, with_scores};
use crate::lm::config::{Family, Output};
use crate::lm::fields::{FolderError, content, write_json};
use crate::lm::layout::{Layout, Piece};
use crate::lm::lora::{AdapterModule, Adapters, LoraConfig, LoraStart};
use crate::lm::model::Decoder;
use crate::nn::{constant, to_host};

/// Reads an adapter's folder, and the model in the folder of its base.
pub(super) fn read_adapted(folder: &Path, device: &Device) -> Result<Loaded, FolderError> {
    let file = AdapterFile::read(folder)?;
    let Loaded { mut decoder, base, mut remarks, sampling, .. } = read_whole(&file.base()?, device)?;
    if file.start == LoraStart::Olora && decoder.config.family == Family::Gpt2 {
        let problem = "init_lora_weights = \"olora\" is not supported with GPT-2, whose weights PEFT takes transposed";
        return Err(content(&file.file, problem));
    }
    let path = folder.join(ADAPTER_WEIGHTS);
    let weights = Weights::of_files(folder, [ADAPTER_WEIGHTS.to_owned()])?;
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
    // The modules that have an update are those that the file has tensors for.
    for module in file.modules(&decoder.layout)? {
        let names = ["A", "B"].map(|part| format!("{ADAPTER_PREFIX}{}.lora_{part}.weight", module.name));
        if !weights.index.contains_key(&names[0]) {
            if file.needs_all && file.covers(&module.name) == Some(true) {
                let problem = format!("tensor '{}' is missing, for which PEFT would draw random numbers", names[0]);
                return Err(content(&path, &problem));
            }
            continue;
        }
        file.check_covers(&module.name)?;
        let (rank, rows) = (module.rank, module.rows.len());
        for (name, shape) in names.iter().zip([[rank, module.inputs], [rows, rank]]) {
            parameters.push(constant(&matrix(name, &shape)?, shape, device));
        }
        if file.dora {
            let name = format!("{ADAPTER_PREFIX}{}.lora_magnitude_vector", module.name);
            // PEFT named it so for a while.
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
        let problem = format!("the weights of {module} become infinite or NaN: must be finite");
        return Err(content(&path, &problem));
    }
    let mut only_read = None;
    if file.dora {
        // Nothing here learns these lengths, so the changed weights of the base take the adapters' place.
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

/// Replaces tensors of the base by whole tensors that were saved with an adapter (PEFT's `modules_to_save` and `bias`).
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
        // PEFT replaces only the one that was saved, so the two are no longer tied.
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

/// Changes the base's weights as PEFT does: takes the adapters' start out of them and, where `lengths` has a vector for
/// each module, replaces them by DoRA's weights. Returns the first module whose weights are no longer finite.
fn change_base(decoder: &mut Decoder, adapters: &Adapters, lengths: &[Vec<f32>]) -> Option<String> {
    if adapters.start == LoraStart::Whole && lengths.is_empty() {
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
        // A matrix lies in memory column by column, a parameter row by row.
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

/// Writes the adapters of a model and their configuration.
pub(super) fn write_adapters(
    decoder: &Decoder,
    adapters: &Adapters,
    base: Option<&Path>,
    folder: &Path,
) -> Result<(), FolderError> {
    let names = adapters.names().map(|name| format!("{ADAPTER_PREFIX}{name}"));
    let mut tensors: Vec<(String, &Tensor<2>)> = names.zip(&adapters.parameters).collect();
    let scores = matches!(decoder.config.output, Output::Scores(_));
    if scores {
        tensors.push((format!("{ADAPTER_PREFIX}score.weight"), &decoder.parameters[decoder.layout.head]));
    }
    let piece = |(name, tensor): (String, &Tensor<2>)| Piece {
        name,
        rows: 0..tensor.dims()[0],
        transposed: false,
        vector: false,
    };
    let pieces: Vec<Piece> = tensors.iter().cloned().map(piece).collect();
    let views =
        pieces.iter().zip(&tensors).map(|(piece, (name, tensor))| (name.clone(), PieceView::new(piece, tensor)));
    let views: BTreeMap<String, PieceView<'_>> = views.collect();
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
    // Only values that are not PEFT's defaults.
    for (name, pattern) in [("rank_pattern", ranks), ("alpha_pattern", alphas)] {
        if !pattern.is_empty() {
            config[name] = pattern.into();
        }
    }
    match adapters.start {
        LoraStart::Whole => {}
        LoraStart::Pissa => config["init_lora_weights"] = json!("pissa"),
        LoraStart::Olora => config["init_lora_weights"] = json!("olora"),
    }
    write_json(&folder.join(ADAPTER_CONFIG), &config)
}

/// The ends of the modules' names, or their whole names where some module with such an end has no update.
fn target_names<'a>(adapters: &'a Adapters, layout: &Layout) -> BTreeSet<&'a str> {
    let ends: BTreeSet<&str> = adapters.modules.iter().filter_map(|module| module.name.rsplit('.').next()).collect();
    let by_ends = LoraConfig { targets: ends.iter().map(|end| (*end).to_owned()).collect(), ..adapters.config.clone() };
    match by_ends.modules(layout) {
        Ok(all) if all.len() == adapters.modules.len() => ends,
        _ => adapters.modules.iter().map(|module| module.name.as_str()).collect(),
    }
}
