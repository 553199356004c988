//! PEFT's `adapter_config.json`: which modules have an update, of which rank and scale, and what PEFT makes of the base's
//! weights when it reads the adapter. Compared with PEFT 0.21.2, `tuners/lora`.

use std::path::{Path, PathBuf};

use nalgebra::DMatrix;
use rand::RngExt as _;
use regex::Regex;
use serde_json::{Map, Value, json};

use super::config::short;
use super::folder::{ADAPTER_CONFIG, FolderError, content, read_json};
use super::lora::{LoraConfig, Start};
use crate::random::stream;

/// An adapter's configuration.
#[derive(Debug)]
pub(super) struct AdapterFile {
    /// Where it is.
    pub(super) file: PathBuf,
    /// All of it.
    pub(super) object: Map<String, Value>,
    /// Rank and alpha where no pattern says another, and what else an update's scale needs.
    pub(super) config: LoraConfig,
    /// What is taken out of the base.
    pub(super) start: Start,
    /// Weights are given their lengths back (Liu et al. 2024, arXiv 2402.09353).
    pub(super) dora: bool,
    /// It belongs to a model that scores.
    pub(super) scores: bool,
    /// Modules without tensors in the file would be drawn at random.
    pub(super) needs_all: bool,
    /// What the user should know.
    pub(super) remarks: Vec<String>,
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
const HARMLESS: &[(&str, &[&str])] = &[
    ("where the adapter comes from", &["auto_mapping", "peft_version", "revision"]),
    ("whether PEFT goes on with training", &["inference_mode"]),
    ("how the family stores its linear layers, which PEFT finds out for itself", &["fan_in_fan_out"]),
    (
        "settings of a way to begin, of which `init_lora_weights` says whether it was taken",
        &["corda_config", "eva_config", "loftq_config", "lora_ga_config"],
    ),
    ("settings that count only with a field that is refused", &["megatron_core", "qalora_group_size"]),
    ("what the file's tensors say themselves", &["modules_to_save"]),
];

/// Fields that make another function of the adapter, with the values that do not, and what any other would do.
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
    pub(super) fn read(folder: &Path) -> Result<Self, FolderError> {
        let file = folder.join(ADAPTER_CONFIG);
        let object = read_json(&file)?;
        let wrong = |problem: String| content(&file, &problem);
        // What is null says nothing.
        let get = |name: &str| object.get(name).filter(|value| !value.is_null());
        if get("peft_type").and_then(Value::as_str) != Some("LORA") {
            let found = object.get("peft_type").unwrap_or(&Value::Null);
            return Err(wrong(format!("peft_type = {found} is not supported: must be \"LORA\"")));
        }
        let flag = |name: &str| match get(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(content(&file, &format!("{name} = {}: must be true or false", short(other)))),
        };
        let number = |name: &str, value: &Value| {
            let found = value.as_f64().filter(|number| *number >= 0.0 && number.is_finite());
            found.ok_or_else(|| content(&file, &format!("{name} = {}: must be a number from 0 on", short(value))))
        };
        let whole = |name: &str, value: &Value| {
            let found = value.as_u64().and_then(|number| usize::try_from(number).ok()).filter(|number| *number > 0);
            found.ok_or_else(|| content(&file, &format!("{name} = {}: must be a whole number from 1 on", short(value))))
        };
        let one_of = |name: &str, allowed: &[&str]| match get(name) {
            None => Ok(()),
            Some(Value::String(found)) if allowed.contains(&found.as_str()) => Ok(()),
            Some(other) => {
                let allowed: Vec<String> = allowed.iter().map(|allowed| format!("\"{allowed}\"")).collect();
                let allowed = allowed.join(" or ");
                Err(content(&file, &format!("{name} = {} is not supported: must be {allowed}", short(other))))
            }
        };
        one_of("task_type", &["CAUSAL_LM", "SEQ_CLS"])?;
        one_of("bias", &["none", "all", "lora_only"])?;
        let refused = refused();
        for (name, neutral, what) in &refused {
            if let Some(value) = get(name).filter(|value| !neutral.contains(value)) {
                return Err(wrong(format!("{name} = {} is not supported: {what}", short(value))));
            }
        }
        let mut remarks = Vec::new();
        let start = start(&file, get("init_lora_weights"), &mut remarks)?;
        let needs_all = get("init_lora_weights").is_some_and(|init| *init == json!(false) || init == "orthogonal");

        let missing = |name: &str| content(&file, &format!("field '{name}' is missing: must be a number"));
        let rank = whole("r", get("r").ok_or_else(|| missing("r"))?)?;
        let alpha = number("lora_alpha", get("lora_alpha").ok_or_else(|| missing("lora_alpha"))?)?;
        let dropout = get("lora_dropout").map_or(Ok(0.0), |value| number("lora_dropout", value))?;
        if dropout >= 1.0 {
            return Err(wrong(format!("lora_dropout = {dropout}: must be below 1")));
        }
        let pattern = |name: &str| -> Result<Vec<(Regex, &Value)>, FolderError> {
            let Some(value) = get(name) else { return Ok(Vec::new()) };
            let Value::Object(all) = value else {
                return Err(content(&file, &format!("{name} = {}: must be an object", short(value))));
            };
            let one = |(key, value)| {
                // As PEFT's get_pattern_key.
                let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{key})$"));
                let regex = regex.map_err(|_| {
                    content(
                        &file,
                        &format!("{name}: the pattern \"{key}\" cannot be read: must be a regular expression"),
                    )
                })?;
                Ok((regex, value))
            };
            all.iter().map(one).collect()
        };
        let ranks = pattern("rank_pattern")?.into_iter().map(|(key, value)| Ok((key, whole("rank_pattern", value)?)));
        let ranks = ranks.collect::<Result<Vec<_>, FolderError>>()?;
        let alphas =
            pattern("alpha_pattern")?.into_iter().map(|(key, value)| Ok((key, number("alpha_pattern", value)?)));
        let alphas = alphas.collect::<Result<Vec<_>, FolderError>>()?;

        let names = |name: &str| match get(name) {
            None => Ok(Names::Listed(Vec::new())),
            Some(Value::String(all)) if all == "all-linear" => Ok(Names::All),
            Some(Value::String(pattern)) => {
                Ok(Regex::new(&format!("^(?:{pattern})$")).map_or(Names::Unreadable, Names::Matching))
            }
            Some(Value::Array(all)) if all.iter().all(Value::is_string) => {
                Ok(Names::Listed(all.iter().filter_map(Value::as_str).map(str::to_owned).collect()))
            }
            Some(other) => Err(content(&file, &format!("{name} = {}: must be names or a pattern", short(other)))),
        };
        let targets = match get("target_modules") {
            // What PEFT takes for Llama, Mistral and Qwen2, and for GPT-2.
            None => Names::Listed(["q_proj", "v_proj", "c_attn"].map(str::to_owned).to_vec()),
            Some(_) => names("target_modules")?,
        };
        let excluded = names("exclude_modules")?;
        for (name, found) in [("target_modules", &targets), ("exclude_modules", &excluded)] {
            if matches!(found, Names::Unreadable) {
                remarks.push(format!(
                    "{}: the pattern of {name} cannot be read here: all modules count that the adapter has tensors for",
                    file.display()
                ));
            }
        }
        let layers = layers(&file, get("layers_to_transform"), get("layers_pattern"))?;
        let listed = match get("target_modules") {
            Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            Some(Value::String(one)) => vec![one.clone()],
            _ => Vec::new(),
        };
        let config = LoraConfig { rank, alpha, dropout, targets: listed, rslora: flag("use_rslora")? };
        let dora = flag("use_dora")?;
        let scores = get("task_type").and_then(Value::as_str) == Some("SEQ_CLS");

        let read = [
            "alpha_pattern",
            "base_model_name_or_path",
            "bias",
            "exclude_modules",
            "init_lora_weights",
            "layers_pattern",
            "layers_to_transform",
            "lora_alpha",
            "lora_dropout",
            "peft_type",
            "r",
            "rank_pattern",
            "target_modules",
            "task_type",
            "use_dora",
            "use_rslora",
        ];
        let known = |name: &str| {
            read.contains(&name)
                || HARMLESS.iter().any(|(_, names)| names.contains(&name))
                || refused.iter().any(|(refused, ..)| *refused == name)
        };
        if let Some((name, value)) = object.iter().find(|(name, value)| !value.is_null() && !known(name)) {
            let problem = format!(
                "{name} = {}: pairwise does not know what it does; take it out of the file if the adapter is the same without",
                short(value)
            );
            return Err(wrong(problem));
        }
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

    /// The base's folder: a path from where the program runs, as in transformers; else from where the adapter lies.
    ///
    /// # Errors
    /// [`FolderError`]: there is no model there, or another adapter.
    pub(super) fn base(&self) -> Result<PathBuf, FolderError> {
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
                true => "is this adapter's own folder: must be that of the model which it was trained on",
                false => "is an adapter, too: must be a whole model; merge that adapter into its base first",
            }));
        }
        Ok(base)
    }

    /// Rank and alpha of a module's update.
    pub(super) fn size(&self, module: &str) -> (usize, f64) {
        let rank = self.ranks.iter().find(|(key, _)| key.is_match(module)).map_or(self.config.rank, |(_, rank)| *rank);
        let alpha = self.alphas.iter().find(|(key, _)| key.is_match(module));
        (rank, alpha.map_or(self.config.alpha, |(_, alpha)| *alpha))
    }

    /// Whether PEFT gives a module of the base an update; where it takes a pattern that cannot be read here, `None`.
    pub(super) fn covers(&self, module: &str) -> Option<bool> {
        let is = |names: &Names| match names {
            Names::All => Some(true),
            Names::Listed(all) => Some(all.iter().any(|name| ends_with(module, name))),
            Names::Matching(pattern) => Some(pattern.is_match(module)),
            Names::Unreadable => None,
        };
        if is(&self.excluded)? {
            return Some(false);
        }
        // A module that is named whole is taken in whatever layer it is.
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

/// Whether this is the name of a module, or its end.
fn ends_with(module: &str, name: &str) -> bool {
    module == name || module.strip_suffix(name).is_some_and(|before| before.ends_with('.'))
}

/// What `init_lora_weights` makes of the base.
fn start(file: &Path, value: Option<&Value>, remarks: &mut Vec<String>) -> Result<Start, FolderError> {
    let convert = "PEFT's save_pretrained(…, path_initial_model_for_weight_conversion=…) makes a plain adapter of it";
    let problem = match value {
        None | Some(Value::Bool(_)) => return Ok(Start::Whole),
        Some(Value::String(name)) => match name.to_lowercase().as_str() {
            // Only where A and B begin.
            "gaussian" | "eva" | "orthogonal" | "mica" => return Ok(Start::Whole),
            "lora_ga" => {
                remarks.push(format!(
                    "{}: init_lora_weights = \"lora_ga\": training began from a changed base, which PEFT does not change again when it reads the adapter; nor is it here. {convert}",
                    file.display()
                ));
                return Ok(Start::Whole);
            }
            "pissa" => return Ok(Start::Pissa),
            "olora" => return Ok(Start::Olora),
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

/// What `layers_to_transform` and `layers_pattern` say.
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
    // As in PEFT's check_target_module_exists: the first number counts.
    let patterns = match names.is_empty() {
        true => vec![r"^.*?\.[^.]*\.(\d+)\.".to_owned()],
        false => names.iter().map(|name| format!(r"^(?:.*?\.)?{name}\.(\d+)\.")).collect(),
    };
    let read =
        |text: &String| Regex::new(text).map_err(|_| wrong("layers_pattern", &json!(names), "regular expressions"));
    Ok(Some(Layers { numbers, patterns: patterns.iter().map(read).collect::<Result<_, _>>()? }))
}

/// What is taken out of a weight `[out, in]` before an update of this rank and scale is added: a product of
/// `[out, rank]` and `[rank, in]`. `None` where it is nothing.
pub(super) fn taken_out(
    start: Start,
    weight: &DMatrix<f64>,
    rank: usize,
    scale: f64,
) -> Option<(DMatrix<f64>, DMatrix<f64>)> {
    match start {
        Start::Whole => None,
        // Of W = U S Vᵀ the first columns and rows: W projected to the first columns of U, or of V.
        Start::Pissa if weight.nrows() <= weight.ncols() => {
            let left = leading(weight, rank);
            let right = left.tr_mul(weight);
            Some((left, right))
        }
        Start::Pissa => {
            let right = leading(&weight.transpose(), rank);
            Some((weight * &right, right.transpose()))
        }
        // The first columns of Q are those of the first columns of W; R = Qᵀ W.
        Start::Olora => {
            let columns = rank.min(weight.ncols()).min(weight.nrows());
            let left = weight.columns(0, columns).into_owned().qr().q();
            let right = left.tr_mul(weight) * scale;
            Some((left, right))
        }
    }
}

/// Rows up to which all singular vectors are computed.
const DIRECT: usize = 384;

/// Singular vectors that belong to the largest singular values of a matrix which is not higher than wide.
///
/// # Shapes
/// - returns `[matrix.nrows(), rank]`, or fewer columns where there are fewer rows
fn leading(matrix: &DMatrix<f64>, rank: usize) -> DMatrix<f64> {
    let rank = rank.min(matrix.nrows());
    let found = if matrix.nrows() > DIRECT { iterated(matrix, rank) } else { None };
    found.unwrap_or_else(|| largest(&(matrix * matrix.transpose()), rank).1)
}

/// The same by block Krylov iteration (Musco & Musco 2015, arXiv 1504.05477) until they are singular vectors to ten digits;
/// `None` where that takes as many vectors as there are.
fn iterated(matrix: &DMatrix<f64>, rank: usize) -> Option<DMatrix<f64>> {
    let rows = matrix.nrows();
    let width = (2 * rank).max(16);
    let mut rng = stream(0, "singular-vectors", 0);
    let mut block = DMatrix::from_fn(rows, width, |_, _| rng.random_range(-1.0..1.0));
    // Columns, and what the matrix makes of them: what it is in their span.
    let (mut basis, mut seen) = (DMatrix::zeros(rows, 0), DMatrix::zeros(0, matrix.ncols()));
    while basis.ncols() + width <= rows {
        // Twice is enough to be orthogonal to the last digit.
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
    use crate::lm::lora::Start;
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
            let (b, a) = taken_out(Start::Pissa, &matrix, 3, 2.0).unwrap();
            assert_eq!((b.shape(), a.shape()), ((rows, 3), (3, columns)));
            let mut rest: Vec<f64> = (&matrix - b * a).svd(false, false).singular_values.iter().copied().collect();
            let whole = matrix.clone().svd(false, false).singular_values;
            rest.sort_by(f64::total_cmp);
            assert!(rest[..3].iter().all(|value| value.abs() < 1e-9));
            assert!((rest.last().unwrap() - whole[3]).abs() < 1e-9);
            let (b, a) = taken_out(Start::Olora, &matrix, 3, 2.0).unwrap();
            let qr = matrix.clone().qr();
            let expected = qr.q().columns(0, 3) * qr.r().rows(0, 3) * 2.0;
            assert!((b * a - expected).norm() < 1e-9);
        }
        assert!(taken_out(Start::Whole, &random(3, 3), 2, 1.0).is_none());
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
            (json!({"r": 2.5}), "r = 2.5: must be a whole number from 1 on"),
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
