//! Merging PEFT's adapters of one base.
//!
//! An adapter's update is ΔW = s·B·A. The soup of updates is Σ λ_i s_i B_i A_i, which is a low-rank product again: `B =
//! [λ_1 s_1 B_1, …]`, `A = [A_1; …]`. Averaging A and B separately gives another result, with products of one model's B
//! and another model's A.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use nalgebra::DMatrix;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde_json::{Map, Value, json};

use super::{Checkpoint, MergeFolderError, MergeReport, NewFolder, copy_tokenizer, write_header, write_values};
use crate::disk::DiskError;
use crate::lm::fields::{FolderError, content, write_json};
use crate::lm::folder::peft::{ADAPTER_CONFIG, ADAPTER_PREFIX, ADAPTER_WEIGHTS, AdapterFile, taken_out};
use crate::lm::folder::weights::Weights;
use crate::lm::folder::whole::read_whole;
use crate::lm::lora::LoraStart;
use crate::nn::to_host;
use crate::soup::{MergeConfig, Method, merge};

/// How adapters are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdapterMerge {
    /// Exactly: the rank of the result is the sum of the ranks. Linear methods only.
    Concatenated,
    /// The best approximation of this rank to the merged update (Eckart & Young 1936).
    Rank(usize),
    /// A and B are averaged separately: an approximation that is widely used. Linear methods only.
    Averaged,
}

/// Merges adapters of one base into a new folder.
///
/// # Errors
/// [`MergeFolderError`]; a folder that was begun is removed.
pub fn merge_adapters(
    config: &MergeConfig,
    how: AdapterMerge,
    models: &[PathBuf],
    out: &Path,
) -> Result<MergeReport, MergeFolderError> {
    // An adapter's update is a task vector whose base is zero.
    config.validate(models.len(), true)?;
    let adapters = models.iter().map(|folder| Adapter::open(folder)).collect::<Result<Vec<_>, _>>()?;
    let first = &adapters[0];
    for (adapter, folder) in adapters.iter().zip(models) {
        if adapter.base != first.base {
            return Err(MergeFolderError::Apart(format!(
                "{}: is an adapter of {}, but {} is one of {}: adapters can be merged where they have one base",
                folder.display(),
                adapter.base,
                models[0].display(),
                first.base
            )));
        }
        let rank = |adapter: &Adapter, name: &str| adapter.modules.get(name).map(|product| product.a.nrows());
        let differs = |name: &&String| rank(first, name).is_some_and(|own| rank(adapter, name) != Some(own));
        if how == AdapterMerge::Averaged
            && let Some(name) = adapter.modules.keys().find(differs)
        {
            return Err(MergeFolderError::Apart(format!(
                "{}: {name} has the rank {}, but in {} the rank {}: A and B can be averaged where ranks are the same; merge exactly, or to a rank",
                folder.display(),
                rank(adapter, name).unwrap_or_default(),
                models[0].display(),
                rank(first, name).unwrap_or_default()
            )));
        }
    }
    let linear = matches!(config.method, Method::Linear | Method::TaskArithmetic);
    if !linear && !matches!(how, AdapterMerge::Rank(_)) {
        return Err(MergeFolderError::Apart(format!(
            "{} of adapters is no product of their ranks: give the rank to come back to (--rank)",
            config.method.name()
        )));
    }
    // The factor of each update, where the method is linear.
    let sum: f64 = config.weights.iter().sum();
    let normalizes = config.normalize.unwrap_or(config.method == Method::Linear);
    let scale = if config.method == Method::TaskArithmetic { config.lambda } else { 1.0 };
    let shares: Vec<f64> =
        config.weights.iter().map(|weight| weight * scale / if normalizes { sum } else { 1.0 }).collect();

    let names: BTreeSet<&String> = adapters.iter().flat_map(|adapter| adapter.modules.keys()).collect();
    let mut rank = 0;
    let mut products: Vec<(&String, Product)> = Vec::new();
    let (mut error, mut whole) = (0.0, 0.0);
    for name in names {
        let parts: Vec<Option<&Product>> = adapters.iter().map(|adapter| adapter.modules.get(name)).collect();
        let shape = parts.iter().flatten().map(|product| product.shape()).collect::<BTreeSet<_>>();
        if shape.len() != 1 {
            let shapes: Vec<String> = shape.iter().map(|(out, inputs)| format!("{out} × {inputs}")).collect();
            return Err(MergeFolderError::Apart(format!("{name}: the updates have shapes {}", shapes.join(" and "))));
        }
        let exact = match linear {
            true => concatenated(&parts, &shares),
            false => merged_update(config, name, &parts),
        };
        let kept = match how {
            AdapterMerge::Concatenated => exact.clone(),
            AdapterMerge::Averaged => averaged(&parts, &shares),
            AdapterMerge::Rank(rank) => truncated(&exact, rank),
        };
        error += difference(&kept, &exact).norm_squared();
        whole += exact.norm_squared();
        rank = rank.max(kept.a.nrows());
        products.push((name, kept));
    }
    let new = NewFolder::make(out)?;
    let report = write_adapter(first, &products, rank, out)?;
    copy_tokenizer(&models[0], out)?;
    new.keep();
    let relative = if whole > 0.0 { (error / whole).sqrt() } else { 0.0 };
    Ok(MergeReport {
        bytes_read: adapters.iter().map(|adapter| adapter.bytes).sum(),
        relative_error: Some(relative),
        ..report
    })
}

/// Whether a folder holds an adapter.
#[must_use]
pub fn is_adapter(folder: &Path) -> bool {
    folder.join(ADAPTER_CONFIG).is_file()
}

/// An adapter's files.
struct Adapter {
    config: Map<String, Value>,
    /// The folder of its base, or the name of the base where it is not on this machine.
    base: String,
    /// Updates by the names of their modules.
    modules: BTreeMap<String, Product>,
    bytes: u64,
}

/// ΔW = B·A, with the scale in B.
#[derive(Debug, Clone, PartialEq)]
struct Product {
    /// `[out, rank]`
    b: DMatrix<f64>,
    /// `[rank, in]`
    a: DMatrix<f64>,
}

impl Product {
    fn shape(&self) -> (usize, usize) {
        (self.b.nrows(), self.a.ncols())
    }

    /// ‖ΔW‖² without ΔW: the trace of (BᵀB)(AAᵀ).
    fn norm_squared(&self) -> f64 {
        let (left, right) = (self.b.tr_mul(&self.b), &self.a * self.a.transpose());
        left.component_mul(&right).sum().max(0.0)
    }
}

impl Adapter {
    fn open(folder: &Path) -> Result<Self, FolderError> {
        let file = AdapterFile::read(folder)?;
        if file.dora {
            let problem = "use_dora = true is not supported: its updates are no products of A and B";
            return Err(content(&file.file, problem));
        }
        // One path may be spelled in several ways, and one relative path may lead to several places.
        let base = match file.base() {
            Ok(path) => path.canonicalize().unwrap_or(path).display().to_string(),
            // The weights of the base are needed only to compute what was taken out of them.
            Err(error) if file.start != LoraStart::Whole => return Err(error),
            Err(error) => match file.object.get("base_model_name_or_path").and_then(Value::as_str) {
                Some(named) if !Path::new(named).exists() && !folder.join(named).exists() => named.to_owned(),
                _ => return Err(error),
            },
        };
        let weights = Weights::of_files(folder, [ADAPTER_WEIGHTS.to_owned()])?;
        let names: Vec<String> = weights.index.keys().cloned().collect();
        let mut weights = Checkpoint { weights, bytes_read: 0 };
        let path = folder.join(ADAPTER_WEIGHTS);
        let mut modules = BTreeMap::new();
        for name in &names {
            if let Some(module) = name.strip_suffix(".lora_A.weight") {
                let a = weights.matrix(name)?;
                let other = format!("{module}.lora_B.weight");
                if !names.contains(&other) {
                    return Err(content(&path, &format!("tensor '{other}' is missing")));
                }
                let b = weights.matrix(&other)?;
                let plain = module.strip_prefix(ADAPTER_PREFIX).unwrap_or(module);
                let (rank, alpha) = file.size(plain);
                if [a.nrows(), b.ncols()] != [rank, rank] {
                    let found = format!("A has {} rows and B {} columns", a.nrows(), b.ncols());
                    return Err(content(&path, &format!("{module}: {found}, but its rank is {rank}")));
                }
                file.check_covers(plain)?;
                modules.insert(module.to_owned(), Product { b: b * file.config.scale(rank, alpha), a });
            } else if !name.ends_with(".lora_B.weight") {
                let problem = format!(
                    "tensor '{name}' is no part of a low-rank update: merge adapters that were saved without whole modules"
                );
                return Err(content(&path, &problem));
            }
        }
        if modules.is_empty() {
            return Err(content(&path, "has no low-rank update"));
        }
        if file.start != LoraStart::Whole {
            without_start(&file, &mut modules)?;
        }
        Ok(Self { config: file.object, base, modules, bytes: weights.bytes_read })
    }
}

/// Changes updates of a base that something was taken out of into updates of the whole base: W − CD + BA is
/// W + [B, −C]·[A; D].
fn without_start(file: &AdapterFile, modules: &mut BTreeMap<String, Product>) -> Result<(), FolderError> {
    let base = read_whole(&file.base()?, &Device::flex())?.decoder;
    for module in file.modules(&base.layout)? {
        let Some(product) = modules.get_mut(&format!("{ADAPTER_PREFIX}{}", module.name)) else { continue };
        let values = to_host(base.parameters[module.weight].clone());
        let part = &values[module.rows.start * module.inputs..module.rows.end * module.inputs];
        let part = part.iter().map(|value| f64::from(*value));
        let weight = DMatrix::from_row_iterator(module.rows.len(), module.inputs, part);
        if product.shape() != weight.shape() {
            let problem = format!(
                "{}: the update has the shape {:?}, the base {:?}",
                module.name,
                product.shape(),
                weight.shape()
            );
            return Err(content(&file.file, &problem));
        }
        let scale = file.config.scale(module.rank, module.alpha);
        let Some((left, right)) = taken_out(file.start, &weight, module.rank, scale) else { continue };
        *product = difference(product, &Product { b: left, a: right });
    }
    Ok(())
}

impl Checkpoint {
    fn matrix(&mut self, name: &str) -> Result<DMatrix<f64>, FolderError> {
        let shape = self.weights.info(name).map(|info| info.shape.clone()).unwrap_or_default();
        let path = self.weights.files[0].path.clone();
        let &[rows, columns] = shape.as_slice() else {
            return Err(content(&path, &format!("tensor '{name}' has the shape {shape:?}: must have two sizes")));
        };
        let values = self.read(name)?;
        Ok(DMatrix::from_row_iterator(rows, columns, values.into_iter().map(f64::from)))
    }
}

/// Σ λ_i B_i A_i as one product.
fn concatenated(parts: &[Option<&Product>], shares: &[f64]) -> Product {
    let present: Vec<(&Product, f64)> =
        parts.iter().zip(shares).filter_map(|(part, share)| Some(((*part)?, *share))).collect();
    let (out, inputs) = present[0].0.shape();
    let rank = present.iter().map(|(product, _)| product.a.nrows()).sum();
    let (mut b, mut a) = (DMatrix::zeros(out, rank), DMatrix::zeros(rank, inputs));
    let mut at = 0;
    for (product, share) in present {
        let own = product.a.nrows();
        b.columns_mut(at, own).copy_from(&(&product.b * share));
        a.rows_mut(at, own).copy_from(&product.a);
        at += own;
    }
    Product { b, a }
}

/// (Σ λ_i B_i)(Σ λ_i A_i) / Σ λ_i. The scale is in B, as it is when PEFT's files are averaged tensor by tensor.
fn averaged(parts: &[Option<&Product>], shares: &[f64]) -> Product {
    let present: Vec<(&Product, f64)> =
        parts.iter().zip(shares).filter_map(|(part, share)| Some(((*part)?, *share))).collect();
    let first = present[0].0;
    let (mut b, mut a) = (first.b.scale(0.0), first.a.scale(0.0));
    for (product, share) in present {
        b += &product.b * share;
        a += &product.a * share;
    }
    Product { b, a }
}

/// A method that is not linear, applied to the updates themselves.
fn merged_update(config: &MergeConfig, name: &str, parts: &[Option<&Product>]) -> Product {
    let (out, inputs) = parts.iter().flatten().next().expect("the name is some adapter's").shape();
    let update = |part: &Option<&Product>| -> Vec<f32> {
        match part {
            None => vec![0.0; out * inputs],
            // Row by row, as tensors of checkpoints are.
            Some(Product { b, a }) => (b * a).transpose().iter().map(|value| *value as f32).collect(),
        }
    };
    let updates: Vec<Vec<f32>> = parts.iter().map(update).collect();
    let slices: Vec<&[f32]> = updates.iter().map(Vec::as_slice).collect();
    let merged = merge(config, name, Some(&vec![0.0; out * inputs]), &slices);
    let whole = DMatrix::from_row_iterator(out, inputs, merged.into_iter().map(f64::from));
    // As a product of the smaller of the two possible ranks.
    match out <= inputs {
        true => Product { b: DMatrix::identity(out, out), a: whole },
        false => Product { b: whole, a: DMatrix::identity(inputs, inputs) },
    }
}

/// The best approximation of a rank: singular values of B·A from those of the small matrix R_B R_Aᵀ, where B = Q_B R_B
/// and Aᵀ = Q_A R_A. The values are shared between both factors by their roots.
fn truncated(product: &Product, rank: usize) -> Product {
    let (left, right) = (product.b.clone().qr(), product.a.transpose().qr());
    let core = left.r() * right.r().transpose();
    let svd = core.svd(true, true);
    let (u, vt) = (svd.u.expect("it was asked for"), svd.v_t.expect("it was asked for"));
    // nalgebra sorts singular values, the largest first. The matrix may have fewer of them than were asked for.
    let (out, inputs) = product.shape();
    let rank = rank.min(out).min(inputs);
    let kept = rank.min(svd.singular_values.len());
    let (mut b, mut a) = (DMatrix::zeros(out, rank), DMatrix::zeros(rank, inputs));
    let (wide, tall) = (left.q() * u, vt * right.q().transpose());
    for i in 0..kept {
        let root = svd.singular_values[i].max(0.0).sqrt();
        b.set_column(i, &(wide.column(i) * root));
        a.set_row(i, &(tall.row(i) * root));
    }
    Product { b, a }
}

/// One update minus another, as a product.
fn difference(one: &Product, other: &Product) -> Product {
    concatenated(&[Some(one), Some(other)], &[1.0, -1.0])
}

fn write_adapter(
    first: &Adapter,
    products: &[(&String, Product)],
    rank: usize,
    out: &Path,
) -> Result<MergeReport, FolderError> {
    let mut tensors: Vec<(String, TensorInfo)> = Vec::new();
    let mut values: Vec<f32> = Vec::new();
    for (name, Product { b, a }) in products {
        // Products of a lower rank are filled up with zeros, because PEFT has one rank for all modules.
        let own = a.nrows();
        let (mut wide, mut tall) = (DMatrix::zeros(b.nrows(), rank), DMatrix::zeros(rank, a.ncols()));
        wide.columns_mut(0, own).copy_from(b);
        tall.rows_mut(0, own).copy_from(a);
        for (part, matrix) in [("A", &tall), ("B", &wide)] {
            let start = values.len() * 4;
            values.extend(matrix.transpose().iter().map(|value| *value as f32));
            tensors.push((
                format!("{name}.lora_{part}.weight"),
                TensorInfo {
                    dtype: Dtype::F32,
                    shape: vec![matrix.nrows(), matrix.ncols()],
                    data_offsets: (start, values.len() * 4),
                },
            ));
        }
    }
    let count = tensors.len();
    let path = out.join(ADAPTER_WEIGHTS);
    let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(about), tensors).expect("offsets were counted as the values were added");
    let written = File::create(&path).and_then(|file| {
        let mut writer = BufWriter::new(file);
        let bytes = write_header(&mut writer, &metadata)? + write_values(&mut writer, Dtype::F32, &values)?;
        writer.into_inner()?.sync_all()?;
        Ok(bytes)
    });
    let bytes_written = written.map_err(DiskError::io(&path, "write"))?;
    // The first adapter's configuration stays, but for the fields that describe the updates.
    let mut config = first.config.clone();
    let anew = [
        ("base_model_name_or_path", json!(first.base)),
        // The scale is in B.
        ("r", json!(rank)),
        ("lora_alpha", json!(rank)),
        ("use_rslora", json!(false)),
        ("rank_pattern", json!({})),
        ("alpha_pattern", json!({})),
        ("init_lora_weights", json!(true)),
        ("target_modules", json!(target_names(products))),
        ("exclude_modules", Value::Null),
        ("layers_to_transform", Value::Null),
        ("layers_pattern", Value::Null),
        ("modules_to_save", Value::Null),
        ("bias", json!("none")),
    ];
    for (field, value) in anew {
        config.insert(field.to_owned(), value);
    }
    for unused in ["corda_config", "eva_config", "loftq_config", "lora_ga_config"] {
        config.remove(unused);
    }
    write_json(&out.join(ADAPTER_CONFIG), &Value::Object(config))?;
    Ok(MergeReport {
        tensors: count,
        parameters: values.len(),
        bytes_read: 0,
        bytes_written,
        least_cosine: None,
        relative_error: None,
    })
}

/// The ends of the modules' names, or whole names where not all ends are in the same layers.
fn target_names(products: &[(&String, Product)]) -> BTreeSet<String> {
    let plain = |name: &&String| name.strip_prefix(ADAPTER_PREFIX).unwrap_or(name).to_owned();
    let names: BTreeSet<String> = products.iter().map(|(name, _)| plain(name)).collect();
    let mut layers: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for name in &names {
        let end = name.rsplit('.').next().unwrap_or(name);
        layers.entry(end).or_default().extend(name.split('.').find_map(|part| part.parse::<u64>().ok()));
    }
    let all: BTreeSet<u64> = layers.values().flatten().copied().collect();
    // All layers from the first one on. Only the base knows their number; PEFT's updates without tensors are zero.
    let whole = all.iter().zip(0..).all(|(layer, i)| *layer == i) && layers.values().all(|own| *own == all);
    match whole {
        true => layers.into_keys().map(str::to_owned).collect(),
        false => names,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn::tensor::{Device, Tensor};
    use rand::RngExt as _;
    use serde_json::Value;

    use super::{AdapterMerge, merge_adapters};
    use crate::lm::data::Encoded;
    use crate::lm::folder::{read, write};
    use crate::lm::lora::{Adapters, LoraConfig};
    use crate::lm::merge::tests::{soup, start, tuned};
    use crate::lm::model::Decoder;
    use crate::lm::score::token_log_probs;
    use crate::nn::{constant, to_host};
    use crate::random::stream;
    use crate::soup::{MergeConfig, Method};

    fn adapter(rank: usize, seed: u64, a_seed: u64, base: &Path, folder: &Path) -> Decoder {
        let targets = vec!["q_proj".into(), "down_proj".into()];
        let config = LoraConfig { rank, alpha: 4.0, targets, ..LoraConfig::default() };
        let mut model = start();
        let mut adapters = Adapters::new(config, &model.layout, a_seed, &Device::flex()).unwrap();
        for (i, tensor) in adapters.parameters.iter_mut().enumerate().filter(|(i, _)| i % 2 == 1) {
            let mut rng = stream(seed, "b", i as u64);
            let values: Vec<f32> =
                (0..tensor.shape().num_elements()).map(|_| rng.random_range(-0.1..0.1_f32)).collect();
            *tensor = constant(&values, tensor.dims(), &Device::flex());
        }
        model.adapters = Some(adapters);
        write(&model, Some(base), folder).unwrap();
        model
    }

    fn updates(model: &Decoder) -> Vec<Tensor<2>> {
        let adapters = model.adapters.as_ref().unwrap();
        (0..adapters.modules.len()).map(|i| adapters.update(i)).collect()
    }

    #[test]
    fn the_soup_of_adapters_is_that_of_their_updates() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        write(&start(), None, &place("base")).unwrap();
        let a = adapter(3, 1, 1, &place("base"), &place("a"));
        let b = adapter(2, 2, 2, &place("base"), &place("b"));
        let models = [place("a"), place("b")];
        let config = soup(&[0.25, 0.75]);
        let expected: Vec<Tensor<2>> =
            updates(&a).into_iter().zip(updates(&b)).map(|(a, b)| a * 0.25 + b * 0.75).collect();
        let distance = |found: &Path| -> f64 {
            let found = updates(&read(found, &Device::flex()).unwrap().decoder);
            let norm = |tensor: &Tensor<2>| to_host(tensor.clone()).iter().map(|v| f64::from(v * v)).sum::<f64>();
            let error: f64 = found.iter().zip(&expected).map(|(f, e)| norm(&(f.clone() - e.clone()))).sum();
            (error / expected.iter().map(norm).sum::<f64>()).sqrt()
        };
        for (name, how) in [("exact", AdapterMerge::Concatenated), ("five", AdapterMerge::Rank(5))] {
            let report = merge_adapters(&config, how, &models, &place(name)).unwrap();
            assert!(report.relative_error.unwrap() < 1e-6 && distance(&place(name)) < 1e-6, "{name}: {report:?}");
            let rank = read(&place(name), &Device::flex()).unwrap().decoder.adapters.unwrap().config.rank;
            assert_eq!(rank, 5);
        }
        // A lower rank loses something, and as much as is said; the less the higher it is.
        let mut last = 1.0;
        for rank in 1..5 {
            let name = format!("rank-{rank}");
            let error = merge_adapters(&config, AdapterMerge::Rank(rank), &models, &place(&name))
                .unwrap()
                .relative_error
                .unwrap();
            assert!((error - distance(&place(&name))).abs() < 1e-5, "{rank}: {error}");
            assert!(error < last && error > 0.01, "{rank}: {error}");
            last = error;
        }
        // TIES of updates that all count is a sum where signs agree.
        let ties = MergeConfig { method: Method::Ties, density: 1.0, ..soup(&[1.0]) };
        let report = merge_adapters(&ties, AdapterMerge::Rank(3), &models[..1], &place("ties")).unwrap();
        assert!(report.relative_error.unwrap() < 1e-5, "{report:?}");
    }

    /// `(Σ λB)(Σ λA)` is the soup where all A are the same, and far from it where they are not.
    #[test]
    fn averaging_the_factors_says_how_far_it_is_from_the_soup() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        write(&start(), None, &place("base")).unwrap();
        for (name, seed, a_seed) in [("a", 1, 1), ("twin", 2, 1), ("stranger", 3, 9)] {
            let _ = adapter(3, seed, a_seed, &place("base"), &place(name));
        }
        let error = |other: &str| {
            let out = place(&format!("averaged-{other}"));
            let models = [place("a"), place(other)];
            merge_adapters(&soup(&[0.5, 0.5]), AdapterMerge::Averaged, &models, &out).unwrap().relative_error.unwrap()
        };
        assert!(error("twin") < 1e-6);
        assert!(error("stranger") > 0.4, "{}", error("stranger"));
    }

    /// Half of each of two models' weights, as PEFT's merge_and_unload has them: `tests/data/models/make.py`.
    #[test]
    fn what_is_merged_is_the_function_of_each_adapter() {
        let data = crate::fixtures::own("models");
        let text = std::fs::read_to_string(data.join("expected.json")).unwrap();
        let expected: Value = serde_json::from_str(&text).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let ids = |row: &Value| -> Vec<u32> { serde_json::from_value(row.clone()).unwrap() };
        for (pair, values) in expected["merged"].as_object().unwrap() {
            let models: Vec<_> = pair.split('+').map(|name| data.join(name)).collect();
            let out = folder.path().join(pair);
            let config = soup(&[0.5, 0.5]);
            let report = merge_adapters(&config, AdapterMerge::Concatenated, &models, &out).unwrap();
            assert!(report.relative_error.unwrap() < 1e-6);
            let model = read(&out, &Device::flex()).unwrap().decoder;
            for (row, values) in expected["ids"].as_array().unwrap().iter().zip(values.as_array().unwrap()) {
                let (ids, values): (_, Vec<f64>) = (ids(row), serde_json::from_value(values.clone()).unwrap());
                let examples = [Encoded { ids, prompt_len: 1 }];
                let found = token_log_probs(&model, &examples, 1024, &|_| ()).concat();
                assert_eq!(found.len(), values.len());
                let difference = found.iter().zip(values).map(|(f, e)| (f64::from(*f) - e).abs()).fold(0.0, f64::max);
                assert!(difference < 3e-5, "{pair}: {difference}");
            }
            // Nothing of one adapter's choice of modules is left.
            let text = std::fs::read_to_string(out.join("adapter_config.json")).unwrap();
            let config: Value = serde_json::from_str(&text).unwrap();
            for name in ["layers_to_transform", "layers_pattern", "exclude_modules"] {
                assert!(config[name].is_null(), "{pair}: {name}");
            }
            assert!(Path::new(config["base_model_name_or_path"].as_str().unwrap()).is_absolute());
        }
    }

    #[test]
    fn adapters_that_do_not_go_together_are_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        write(&start(), None, &place("base")).unwrap();
        write(&tuned(1), None, &place("other-base")).unwrap();
        let _ = adapter(3, 1, 1, &place("base"), &place("a"));
        let _ = adapter(2, 2, 2, &place("base"), &place("b"));
        let _ = adapter(3, 2, 2, &place("other-base"), &place("c"));
        let two = soup(&[0.5, 0.5]);
        let ties = MergeConfig { method: Method::Ties, ..two.clone() };
        let out = place("out");
        for (config, how, other, expected) in [
            (&two, AdapterMerge::Averaged, "b", "A and B can be averaged where ranks are the same"),
            (&two, AdapterMerge::Concatenated, "c", "adapters can be merged where they have one base"),
            (&ties, AdapterMerge::Concatenated, "b", "ties of adapters is no product of their ranks: give the rank"),
        ] {
            let error = merge_adapters(config, how, &[place("a"), place(other)], &out).unwrap_err().to_string();
            assert!(error.contains(expected), "{other}: {error}");
            assert!(!out.exists());
        }
    }
}
