//! PEFT's `adapter_config.json`: which modules have an update, of which rank and scale, and how PEFT changes the base's
//! weights when it reads the adapter. It was compared with PEFT 0.21.2, `tuners/lora`.

use std::path::{Path, PathBuf};

use nalgebra::DMatrix;
use rand::RngExt as _;
use regex::Regex;
use serde_json::{Map, Value, json};

use crate::lm::fields::{Fields, FolderError, Harmless, content, read_json, short};
use crate::lm::layout::Layout;
use crate::lm::lora::{AdapterModule, LoraConfig, LoraStart};
use crate::random::stream;

pub(in crate::lm) const ADAPTER_CONFIG: &str = "adapter_config.json";
pub(in crate::lm) const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT puts before the names of modules.
pub(in crate::lm) const ADAPTER_PREFIX: &str = "base_model.model.";

/// An adapter's configuration.
#[derive(Debug)]
pub(in crate::lm) struct AdapterFile {
    /// The file.
    pub(in crate::lm) file: PathBuf,
    /// All of its fields.
    pub(in crate::lm) object: Map<String, Value>,
    /// Rank and alpha where no pattern says otherwise, and what else the scale of an update depends on.
    pub(in crate::lm) config: LoraConfig,
    /// What is taken out of the base's weights.
    pub(in crate::lm) start: LoraStart,
    /// The rows of the updated weights are given learned lengths (Liu et al. 2024, arXiv 2402.09353).
    pub(in crate::lm) dora: bool,
    /// It belongs to a model that scores.
    pub(in crate::lm) scores: bool,
    /// Every module that should have an update must have its tensors: PEFT would draw missing ones at random.
    pub(in crate::lm) needs_all: bool,
    /// What the user should know.
    pub(in crate::lm) remarks: Vec<String>,
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f64)>,
    targets: Names,
    excluded: Names,
    layers: Option<Layers>,
}

/// Some of the layers.
#[derive(Debug)]
struct Layers {
    numbers: Vec<u64>,
    /// What finds a layer's number in the name of a module.
    patterns: Vec<Regex>,
}

/// Modules, as PEFT names them.
#[derive(Debug)]
enum Names {
    /// All linear layers but the output layer.
    All,
    /// By their whole names, or by the ends of these.
    Listed(Vec<String>),
    /// By a pattern that their whole names match.
    Matching(Regex),
    /// By a pattern that this program cannot read.
    Unreadable,
}

/// Fields that cannot change the model, each group with the reason.
const HARMLESS: Harmless = &[
    ("where the adapter comes from", &["auto_mapping", "peft_version", "revision"]),
    ("whether PEFT goes on with training", &["inference_mode"]),
    ("how the family stores its linear layers, which PEFT finds out by itself", &["fan_in_fan_out"]),
    (
        "settings of a way to begin; `init_lora_weights` says whether the adapter began so",
        &["corda_config", "eva_config", "loftq_config", "lora_ga_config"],
    ),
    ("settings that count only with a field that is refused", &["megatron_core", "qalora_group_size"]),
    ("the tensors of the file show which modules were saved", &["modules_to_save"]),
];

/// Fields that may change what the adapter computes: the values that change nothing, and what any other value would do.
fn refused() -> Vec<(&'static str, Vec<Value>, &'static str)> {
    let off = || vec![json!(false)];
    let empty = || vec![json!([]), json!({})];
    vec![
        ("alora_invocation_tokens", vec![], "the adapter would count only from these tokens on"),
        ("arrow_config", vec![], "several adapters would be mixed for every token"),
        ("ensure_weight_tying", off(), "updates of the embedding would be shared with the output layer"),
        ("kasa_config", vec![], "a diagonal would stand between A and B"),
        ("layer_replication", empty(), "the base's layers would be repeated"),
        ("lora_bias", off(), "B would have a bias"),
        ("megatron_config", empty(), "the linear layers would be Megatron's"),
        ("monteclora_config", vec![], "updates would be drawn at random"),
        ("target_parameters", empty(), "parameters without a module would have updates"),
        ("trainable_token_indices", empty(), "single rows of the embedding would be replaced"),
        ("use_bdlora", off(), "A or B would consist of blocks"),
        ("use_qalora", off(), "inputs would be pooled in groups"),
        ("velora_config", vec![], "activations would be compressed"),
    ]
}

impl AdapterFile {
    /// Reads an adapter's configuration.
    ///
    /// # Errors
    /// [`FolderError`], naming the field.
    pub(in crate::lm) fn read(folder: &Path) -> Result<Self, FolderError> {
        let file = folder.join(ADAPTER_CONFIG);
        let object = read_json(&file)?;
        let mut fields = Fields::new(&file, &object, HARMLESS);
        fields.only("peft_type", &[json!("LORA")], &Value::Null)?;
        fields.only("task_type", &[json!("CAUSAL_LM"), json!("SEQ_CLS")], &json!("CAUSAL_LM"))?;
        fields.only("bias", &[json!("none"), json!("all"), json!("lora_only")], &json!("none"))?;
        for (name, neutral, what) in refused() {
            if let Some(value) = fields.get(name).filter(|value| !neutral.contains(value)) {
                return Err(fields.error(&format!("{name} = {} is not supported: {what}", short(value))));
            }
        }
        let mut remarks = Vec::new();
        let init = fields.get("init_lora_weights");
        let start = start(&file, init, &mut remarks)?;
        let needs_all = init.is_some_and(|init| *init == json!(false) || init == "orthogonal");

        let rank = fields.size("r")?;
        let Some(alpha) = fields.get("lora_alpha") else {
            return Err(fields.error("field 'lora_alpha' is missing: must be a number"));
        };
        let alpha = fields.number_in("lora_alpha", alpha)?;
        let dropout = fields.get("lora_dropout").map_or(Ok(0.0), |value| fields.number_in("lora_dropout", value))?;
        if dropout >= 1.0 {
            return Err(fields.error(&format!("lora_dropout = {dropout}: must be below 1")));
        }
        let ranks = patterns(&mut fields, "rank_pattern", &Fields::size_in)?;
        let alphas = patterns(&mut fields, "alpha_pattern", &Fields::number_in)?;

        let (targets, listed) = match fields.get("target_modules") {
            // What PEFT takes for Llama, Mistral and Qwen2, and for GPT-2.
            None => (Names::Listed(["q_proj", "v_proj", "c_attn"].map(str::to_owned).to_vec()), Vec::new()),
            Some(value) => {
                let all = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
                let listed = all.iter().filter_map(Value::as_str).map(str::to_owned).collect();
                (names(&mut fields, "target_modules")?, listed)
            }
        };
        let excluded = names(&mut fields, "exclude_modules")?;
        for (name, found) in [("target_modules", &targets), ("exclude_modules", &excluded)] {
            if matches!(found, Names::Unreadable) {
                remarks.push(format!(
                    "{}: the pattern of {name} cannot be read here: every module counts that the adapter has tensors for",
                    file.display()
                ));
            }
        }
        let layers = layers(&file, fields.get("layers_to_transform"), fields.get("layers_pattern"))?;
        let config = LoraConfig { rank, alpha, dropout, targets: listed, rslora: fields.flag("use_rslora", false)? };
        let dora = fields.flag("use_dora", false)?;
        let scores = fields.get("task_type").is_some_and(|task| task == "SEQ_CLS");
        // It is read where the base is looked for.
        let _ = fields.get("base_model_name_or_path");
        fields.no_others("", "the adapter is the same")?;
        Ok(Self {
            config,
            start,
            dora,
            scores,
            needs_all,
            remarks,
            ranks,
            alphas,
            targets,
            excluded,
            layers,
            object,
            file,
        })
    }

    /// The base's folder. The path is tried from where the program runs, as in transformers, and then from the
    /// adapter's folder.
    ///
    /// # Errors
    /// [`FolderError`]: there is no model in that folder, or it is an adapter.
    pub(in crate::lm) fn base(&self) -> Result<PathBuf, FolderError> {
        let found = self.object.get("base_model_name_or_path").unwrap_or(&Value::Null);
        let wrong =
            |problem: &str| content(&self.file, &format!("base_model_name_or_path = {}: {problem}", short(found)));
        let nowhere = || wrong("there is no model in that folder; set it to where the base is");
        let named = found.as_str().filter(|named| !named.is_empty()).ok_or_else(nowhere)?;
        let own = self.file.parent().unwrap_or(Path::new("."));
        let is_model = |path: &PathBuf| path.join("config.json").is_file() || path.join(ADAPTER_CONFIG).is_file();
        let base = [PathBuf::from(named), own.join(named)].into_iter().find(is_model).ok_or_else(nowhere)?;
        if base.join(ADAPTER_CONFIG).is_file() {
            let itself = base.canonicalize().ok().is_some_and(|base| own.canonicalize().ok() == Some(base));
            return Err(wrong(match itself {
                true => "is this adapter's own folder: must be the folder of the model that it was trained on",
                false => "is an adapter, too: must be a whole model; merge that adapter into its base first",
            }));
        }
        Ok(base)
    }

    /// Rank and alpha of a module's update.
    pub(in crate::lm) fn size(&self, module: &str) -> (usize, f64) {
        let rank = self.ranks.iter().find(|(key, _)| key.is_match(module)).map_or(self.config.rank, |(_, rank)| *rank);
        let alpha = self.alphas.iter().find(|(key, _)| key.is_match(module));
        (rank, alpha.map_or(self.config.alpha, |(_, alpha)| *alpha))
    }

    /// All modules that an adapter of this model may have an update for, with their rank and alpha in this adapter.
    ///
    /// # Errors
    /// [`FolderError`]: the model has no linear layer.
    pub(in crate::lm) fn modules(&self, layout: &Layout) -> Result<Vec<AdapterModule>, FolderError> {
        let everything = LoraConfig { targets: vec!["all-linear".to_owned()], ..self.config.clone() };
        let mut all = everything.modules(layout).map_err(|problem| content(&self.file, &problem.to_string()))?;
        for module in &mut all {
            (module.rank, module.alpha) = self.size(&module.name);
        }
        Ok(all)
    }

    /// Refuses tensors for a module that PEFT would give no update.
    ///
    /// # Errors
    /// [`FolderError`], naming the fields that leave the module out.
    pub(in crate::lm) fn check_covers(&self, module: &str) -> Result<(), FolderError> {
        match self.covers(module) {
            Some(false) => Err(content(
                &self.file,
                &format!(
                    "there are tensors for {module}, which target_modules, exclude_modules and layers_to_transform leave out: PEFT would not read them"
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Whether PEFT gives a module of the base an update; `None` if a pattern that decides it cannot be read.
    pub(in crate::lm) fn covers(&self, module: &str) -> Option<bool> {
        let is = |names: &Names| match names {
            Names::All => Some(true),
            Names::Listed(all) => Some(all.iter().any(|name| ends_with(module, name))),
            Names::Matching(pattern) => Some(pattern.is_match(module)),
            Names::Unreadable => None,
        };
        if is(&self.excluded)? {
            return Some(false);
        }
        // A module that is listed by its whole name counts in whatever layer it is.
        let whole = matches!(&self.targets, Names::Listed(all) if all.iter().any(|name| name == module));
        match &self.layers {
            Some(Layers { numbers, patterns }) if !whole => {
                let layer = patterns.iter().find_map(|pattern| pattern.captures(module));
                let layer = layer.and_then(|found| found.get(1)?.as_str().parse().ok());
                Some(is(&self.targets)? && layer.is_some_and(|layer| numbers.contains(&layer)))
            }
            _ => is(&self.targets),
        }
    }
}

/// What a field says by patterns of modules' names.
fn patterns<'a, T>(
    fields: &mut Fields<'a>,
    name: &'a str,
    read: &dyn Fn(&Fields<'a>, &str, &Value) -> Result<T, FolderError>,
) -> Result<Vec<(Regex, T)>, FolderError> {
    let Some(value) = fields.get(name) else { return Ok(Vec::new()) };
    let Value::Object(all) = value else {
        return Err(fields.error(&format!("{name} = {}: must be an object", short(value))));
    };
    let one = |(key, value): (&String, &Value)| {
        // As PEFT's get_pattern_key.
        let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{key})$"));
        let problem = format!("{name}: the pattern \"{key}\" cannot be read: must be a regular expression");
        Ok((regex.map_err(|_| fields.error(&problem))?, read(fields, name, value)?))
    };
    all.iter().map(one).collect()
}

/// The modules that a field names.
fn names<'a>(fields: &mut Fields<'a>, name: &'a str) -> Result<Names, FolderError> {
    match fields.get(name) {
        None => Ok(Names::Listed(Vec::new())),
        Some(Value::String(all)) if all == "all-linear" => Ok(Names::All),
        Some(Value::String(pattern)) => {
            Ok(Regex::new(&format!("^(?:{pattern})$")).map_or(Names::Unreadable, Names::Matching))
        }
        Some(Value::Array(all)) if all.iter().all(Value::is_string) => {
            Ok(Names::Listed(all.iter().filter_map(Value::as_str).map(str::to_owned).collect()))
        }
        Some(other) => Err(fields.error(&format!("{name} = {}: must be names or a pattern", short(other)))),
    }
}

/// Whether this is the name of a module, or its end.
fn ends_with(module: &str, name: &str) -> bool {
    module == name || module.strip_suffix(name).is_some_and(|before| before.ends_with('.'))
}

/// How `init_lora_weights` changes the base.
fn start(file: &Path, value: Option<&Value>, remarks: &mut Vec<String>) -> Result<LoraStart, FolderError> {
    let convert = "PEFT's save_pretrained(…, path_initial_model_for_weight_conversion=…) makes a plain adapter of it";
    let problem = match value {
        None | Some(Value::Bool(_)) => return Ok(LoraStart::Whole),
        Some(Value::String(name)) => match name.to_lowercase().as_str() {
            // Only where A and B begin.
            "gaussian" | "eva" | "orthogonal" | "mica" => return Ok(LoraStart::Whole),
            "lora_ga" => {
                remarks.push(format!(
                    "{}: init_lora_weights = \"lora_ga\": training began from a changed base, which PEFT does not change again when it reads the adapter; nor is it here. {convert}",
                    file.display()
                ));
                return Ok(LoraStart::Whole);
            }
            "pissa" => return Ok(LoraStart::Pissa),
            "olora" => return Ok(LoraStart::Olora),
            "corda" => "the base would be changed by data that the adapter does not have",
            "loftq" => "the base would be quantized",
            other if other.starts_with("pissa_niter_") => {
                "PEFT would change the base by singular values that it estimates with random numbers, anew each time"
            }
            _ => {
                "must be true, false, \"gaussian\", \"eva\", \"orthogonal\", \"mica\", \"lora_ga\", \"pissa\" or \"olora\""
            }
        },
        Some(_) => "must be true, false or a name",
    };
    let value = value.unwrap_or(&Value::Null);
    Err(content(file, &format!("init_lora_weights = {} is not supported: {problem}. {convert}", short(value))))
}

/// The layers that `layers_to_transform` and `layers_pattern` name; `None` where all layers count.
fn layers(file: &Path, indices: Option<&Value>, pattern: Option<&Value>) -> Result<Option<Layers>, FolderError> {
    let wrong =
        |name: &str, value: &Value, right: &str| content(file, &format!("{name} = {}: must be {right}", short(value)));
    let numbers = match indices {
        None => return Ok(None),
        Some(Value::Array(all)) if all.is_empty() => return Ok(None),
        Some(value) => {
            let all = match value {
                Value::Array(all) => all.iter().map(Value::as_u64).collect(),
                one => one.as_u64().map(|one| vec![one]),
            };
            all.ok_or_else(|| wrong("layers_to_transform", value, "a layer's number, or several"))?
        }
    };
    let names: Vec<&str> = match pattern {
        None => Vec::new(),
        Some(Value::String(one)) => vec![one.as_str()],
        Some(Value::Array(all)) if all.iter().all(Value::is_string) => all.iter().filter_map(Value::as_str).collect(),
        Some(other) => return Err(wrong("layers_pattern", other, "a name, or several")),
    };
    // As in PEFT's check_target_module_exists, the first number in the name is the layer's.
    let patterns = match names.is_empty() {
        true => vec![r"^.*?\.[^.]*\.(\d+)\.".to_owned()],
        false => names.iter().map(|name| format!(r"^(?:.*?\.)?{name}\.(\d+)\.")).collect(),
    };
    let read =
        |text: &String| Regex::new(text).map_err(|_| wrong("layers_pattern", &json!(names), "regular expressions"));
    Ok(Some(Layers { numbers, patterns: patterns.iter().map(read).collect::<Result<_, _>>()? }))
}

/// What is taken out of a weight `[out, in]` before an update of this rank and scale is added, as the product of
/// `[out, rank]` and `[rank, in]`; `None` where nothing is taken out.
pub(in crate::lm) fn taken_out(
    start: LoraStart,
    weight: &DMatrix<f64>,
    rank: usize,
    scale: f64,
) -> Option<(DMatrix<f64>, DMatrix<f64>)> {
    match start {
        LoraStart::Whole => None,
        // Of W = U S Vᵀ the first columns and rows: W projected to the first columns of U, or of V.
        LoraStart::Pissa if weight.nrows() <= weight.ncols() => {
            let left = leading(weight, rank);
            let right = left.tr_mul(weight);
            Some((left, right))
        }
        LoraStart::Pissa => {
            let right = leading(&weight.transpose(), rank);
            Some((weight * &right, right.transpose()))
        }
        // The first columns of Q depend only on the first columns of W; R = Qᵀ W.
        LoraStart::Olora => {
            let columns = rank.min(weight.ncols()).min(weight.nrows());
            let left = weight.columns(0, columns).into_owned().qr().q();
            let right = left.tr_mul(weight) * scale;
            Some((left, right))
        }
    }
}

/// Most rows of a matrix whose singular vectors are all computed at once.
const DIRECT: usize = 384;

/// Singular vectors of the largest singular values of a matrix that has at most as many rows as columns.
///
/// # Shapes
/// - returns `[matrix.nrows(), rank]`, or fewer columns where there are fewer rows
fn leading(matrix: &DMatrix<f64>, rank: usize) -> DMatrix<f64> {
    let rank = rank.min(matrix.nrows());
    let found = if matrix.nrows() > DIRECT { iterated(matrix, rank) } else { None };
    found.unwrap_or_else(|| largest(&(matrix * matrix.transpose()), rank).1)
}

/// The leading singular vectors by block Krylov iteration (Musco & Musco 2015, arXiv 1504.05477), correct to ten
/// digits. `None` where that would take as many vectors as the matrix has rows.
fn iterated(matrix: &DMatrix<f64>, rank: usize) -> Option<DMatrix<f64>> {
    let rows = matrix.nrows();
    let width = (2 * rank).max(16);
    let mut rng = stream(0, "singular-vectors", 0);
    let mut block = DMatrix::from_fn(rows, width, |_, _| rng.random_range(-1.0..1.0));
    // Orthogonal columns, and their products with the matrix: the matrix in their span.
    let (mut basis, mut seen) = (DMatrix::zeros(rows, 0), DMatrix::zeros(0, matrix.ncols()));
    while basis.ncols() + width <= rows {
        // Doing it twice makes the columns orthogonal to the last digit.
        for _ in 0..2 {
            block -= &basis * basis.tr_mul(&block);
            block = block.qr().q();
        }
        let known = basis.ncols();
        basis = basis.resize_horizontally(known + width, 0.0);
        basis.columns_mut(known, width).copy_from(&block);
        let product = block.tr_mul(matrix);
        seen = seen.resize_vertically(known + width, 0.0);
        seen.rows_mut(known, width).copy_from(&product);
        let (values, vectors) = largest(&(&seen * seen.transpose()), rank);
        let found = &basis * vectors;
        let mut error = matrix * found.tr_mul(matrix).transpose();
        for (i, value) in values.iter().enumerate() {
            let mut column = error.column_mut(i);
            column -= found.column(i) * *value;
        }
        if error.column_iter().all(|column| column.norm() <= 1e-10 * values[0]) {
            return Some(found);
        }
        block = matrix * product.transpose();
    }
    None
}

/// The largest eigenvalues of a symmetric matrix, and their vectors.
fn largest(matrix: &DMatrix<f64>, count: usize) -> (Vec<f64>, DMatrix<f64>) {
    let found = matrix.clone().symmetric_eigen();
    let mut order: Vec<usize> = (0..matrix.nrows()).collect();
    order.sort_by(|&a, &b| found.eigenvalues[b].total_cmp(&found.eigenvalues[a]));
    order.truncate(count);
    let vectors = found.eigenvectors.select_columns(&order);
    (order.iter().map(|&i| found.eigenvalues[i]).collect(), vectors)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use nalgebra::DMatrix;
    use rand::RngExt as _;
    use serde_json::{Value, json};

    use super::{AdapterFile, iterated, taken_out};
    use crate::lm::lora::LoraStart;
    use crate::random::stream;

    fn random(rows: usize, columns: usize) -> DMatrix<f64> {
        let mut rng = stream(1, "matrix", 0);
        DMatrix::from_fn(rows, columns, |_, _| rng.random_range(-1.0..1.0))
    }

    /// The iteration for large matrices against nalgebra's own singular values.
    #[test]
    fn the_leading_part_of_a_large_matrix_is_that_of_its_singular_values() {
        // Singular values fall, as they do in models.
        let mut matrix = random(120, 130);
        for (i, mut column) in matrix.column_iter_mut().enumerate() {
            column *= 0.95_f64.powi(i32::try_from(i).unwrap());
        }
        let found = iterated(&matrix, 5).unwrap();
        let svd = matrix.clone().svd(true, false);
        let u = svd.u.unwrap().columns(0, 5).into_owned();
        let difference = &found * found.tr_mul(&matrix) - &u * u.tr_mul(&matrix);
        assert!(difference.norm() < 1e-6 * matrix.norm(), "{}", difference.norm());
        // Where it takes all vectors, these are computed at once.
        assert!(iterated(&random(20, 20), 15).is_none());
    }

    #[test]
    fn what_is_taken_out_is_of_the_rank_and_by_the_definition() {
        for (rows, columns) in [(7, 12), (12, 7), (6, 6)] {
            let matrix = random(rows, columns);
            let (b, a) = taken_out(LoraStart::Pissa, &matrix, 3, 2.0).unwrap();
            assert_eq!((b.shape(), a.shape()), ((rows, 3), (3, columns)));
            let mut rest: Vec<f64> = (&matrix - b * a).svd(false, false).singular_values.iter().copied().collect();
            let whole = matrix.clone().svd(false, false).singular_values;
            rest.sort_by(f64::total_cmp);
            assert!(rest[..3].iter().all(|value| value.abs() < 1e-9));
            assert!((rest.last().unwrap() - whole[3]).abs() < 1e-9);
            let (b, a) = taken_out(LoraStart::Olora, &matrix, 3, 2.0).unwrap();
            let qr = matrix.clone().qr();
            let expected = qr.q().columns(0, 3) * qr.r().rows(0, 3) * 2.0;
            assert!((b * a - expected).norm() < 1e-9);
        }
        assert!(taken_out(LoraStart::Whole, &random(3, 3), 2, 1.0).is_none());
    }

    fn with(changes: &Value) -> Result<AdapterFile, String> {
        let folder = tempfile::tempdir().unwrap();
        let mut object = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]});
        for (name, value) in changes.as_object().unwrap() {
            object[name] = value.clone();
        }
        std::fs::write(folder.path().join("adapter_config.json"), object.to_string()).unwrap();
        AdapterFile::read(folder.path()).map_err(|error| {
            let error = error.to_string();
            assert!(Path::new(error.split(':').next().unwrap()).ends_with("adapter_config.json"), "{error}");
            error
        })
    }

    #[test]
    fn fields_that_change_the_function_are_refused_by_name() {
        for (changes, expected) in [
            (json!({"alora_invocation_tokens": [1, 2]}), "alora_invocation_tokens = [1,2] is not supported"),
            (json!({"init_lora_weights": "corda"}), "init_lora_weights = \"corda\" is not supported"),
            (json!({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}), "init_lora_weights = \"loftq\""),
            (json!({"init_lora_weights": "pissa_niter_16"}), "init_lora_weights = \"pissa_niter_16\" is not supported"),
            (json!({"init_lora_weights": "new"}), "init_lora_weights = \"new\" is not supported: must be"),
            (json!({"layer_replication": [[0, 2]]}), "layer_replication = [[0,2]] is not supported"),
            (json!({"trainable_token_indices": [3]}), "trainable_token_indices = [3] is not supported"),
            (json!({"target_parameters": ["w"]}), "target_parameters = [\"w\"] is not supported"),
            (json!({"use_qalora": true}), "use_qalora = true is not supported"),
            (json!({"use_bdlora": {"nblocks": 2}}), "use_bdlora = {\"nblocks\":2} is not supported"),
            (json!({"lora_bias": true}), "lora_bias = true is not supported"),
            (json!({"ensure_weight_tying": true}), "ensure_weight_tying = true is not supported"),
            (json!({"bias": "some"}), "bias = \"some\" is not supported: must be \"none\" or \"all\""),
            (json!({"task_type": "TOKEN_CLS"}), "task_type = \"TOKEN_CLS\" is not supported"),
            (json!({"peft_type": "IA3"}), "peft_type = \"IA3\" is not supported"),
            (json!({"r": 2.5}), "r = 2.5: must be a whole number from 1"),
            (json!({"lora_alpha": "8"}), "lora_alpha = \"8\": must be a number"),
            (json!({"rank_pattern": {"q_proj": 0}}), "rank_pattern = 0: must be a whole number"),
            (json!({"rank_pattern": {"(": 2}}), "rank_pattern: the pattern \"(\" cannot be read"),
            (json!({"layers_to_transform": "all"}), "layers_to_transform = \"all\": must be a layer's number"),
            (json!({"colour": "blue"}), "colour = \"blue\": pairwise does not know what it does"),
        ] {
            let error = with(&changes).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        // What is null, or says only how training began, changes nothing.
        let plain = json!({"colour": null, "use_bdlora": null, "init_lora_weights": "eva", "eva_config": {"rho": 2.0}});
        assert!(with(&plain).unwrap().remarks.is_empty());
        assert_eq!(with(&json!({"init_lora_weights": "lora_ga"})).unwrap().remarks.len(), 1);
    }

    /// Expected: PEFT's `check_target_module_exists` and `get_pattern_key`.
    #[test]
    fn modules_are_matched_as_by_peft() {
        let name = |layer: usize, part: &str| format!("model.layers.{layer}.self_attn.{part}");
        let covered = |changes: Value| {
            let file = with(&changes).unwrap();
            let all = [(0, "q_proj"), (0, "k_proj"), (1, "q_proj"), (11, "q_proj")];
            all.map(|(layer, part)| file.covers(&name(layer, part)))
        };
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(covered(json!({})), [yes, no, yes, yes]);
        assert_eq!(covered(json!({"layers_to_transform": [1]})), [no, no, yes, no]);
        assert_eq!(covered(json!({"layers_to_transform": 1, "layers_pattern": "layers"})), [no, no, yes, no]);
        assert_eq!(covered(json!({"layers_to_transform": [1], "layers_pattern": ["h"]})), [no; 4]);
        assert_eq!(covered(json!({"exclude_modules": ["layers.1.self_attn.q_proj"]})), [yes, no, no, yes]);
        assert_eq!(covered(json!({"target_modules": ["proj"]})), [no; 4]);
        assert_eq!(covered(json!({"target_modules": "all-linear"})), [yes; 4]);
        assert_eq!(covered(json!({"target_modules": r".*\.1\.self_attn\.(q|v)_proj"})), [no, no, yes, no]);
        assert_eq!(covered(json!({"target_modules": "q_proj"})), [no; 4], "a pattern must match the whole name");
        assert_eq!(covered(json!({"target_modules": "(?!x).*"})), [None; 4]);
        assert_eq!(covered(json!({"target_modules": null})), [yes, no, yes, yes]);

        let file = with(&json!({
            "rank_pattern": {"q_proj": 2, "layers.1.self_attn.q_proj": 3, "^model.layers.0.*": 6},
            "alpha_pattern": {"1.self_attn.[qk]_proj": 1.5},
        }))
        .unwrap();
        assert_eq!(file.size(&name(0, "q_proj")), (2, 8.0), "the first pattern counts");
        assert_eq!(file.size(&name(0, "k_proj")), (6, 8.0));
        assert_eq!(file.size(&name(1, "k_proj")), (4, 1.5));
        assert_eq!(file.size(&name(11, "q_proj")), (2, 8.0), "a pattern begins where a part of the name does");
    }
}
