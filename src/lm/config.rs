//! What a decoder looks like: Hugging Face's `config.json`, for the families Llama, Mistral, Qwen2 and GPT-2.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::nn::fused::decoder::{Heads, NormConfig, NormKind, Rotation};

/// A decoder-only transformer.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Whose names and defaults it goes by.
    pub family: Family,
    /// Tokens.
    pub vocabulary: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub intermediate: usize,
    /// Blocks.
    pub layers: usize,
    /// Heads of attention.
    pub heads: Heads,
    /// Longest sequence, tokens.
    pub context: usize,
    /// Added to variances.
    pub norm_epsilon: f64,
    /// How tokens know their places.
    pub positions: Positions,
    /// A token sees itself and the window − 1 tokens before it.
    pub window: Option<usize>,
    /// Queries, keys and values have biases.
    pub qkv_bias: bool,
    /// So has attention's output.
    pub output_bias: bool,
    /// So has the feed-forward layer.
    pub mlp_bias: bool,
    /// The output layer is the embedding.
    pub tied: bool,
    /// What is computed from the last hidden states.
    pub output: Output,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
    /// The token that sequences begin with, if they do.
    pub bos: Option<u32>,
    /// Tokens that end a sequence.
    pub eos: Vec<u32>,
    /// The file it was read from, so that nothing is lost when it is written again.
    pub original: Map<String, Value>,
}

/// Families of decoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Touvron et al. 2023, arXiv 2302.13971: RMSNorm, rotary positions, SwiGLU.
    Llama,
    /// Jiang et al. 2023, arXiv 2310.06825: Llama with grouped keys and a sliding window.
    Mistral,
    /// Yang et al. 2024, arXiv 2407.10671 (also Qwen2.5): Llama with biases on queries, keys and values.
    Qwen2,
    /// Radford et al. 2019: LayerNorm, learned positions, GELU.
    Gpt2,
}

/// What a model computes from its last hidden states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// The next token: a language model, transformers' `…ForCausalLM`.
    Tokens,
    /// Numbers: a reward model or a value function, transformers' `…ForSequenceClassification`.
    Scores(usize),
}

/// How tokens know their places.
#[derive(Debug, Clone, PartialEq)]
pub enum Positions {
    /// A vector for each place, added to the embedding.
    Learned,
    /// Queries and keys are turned (Su et al. 2021, arXiv 2104.09864).
    Rotary {
        /// Base of the wavelengths: θ.
        theta: f64,
        /// How they are changed for longer sequences than the model was trained on.
        scaling: RopeScaling,
    },
}

/// Changes of the wavelengths of rotary positions, under transformers' names.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// None.
    Default,
    /// All wavelengths are `factor` times as long.
    Linear {
        /// How many times.
        factor: f64,
    },
    /// Llama 3.1's: long wavelengths are stretched, short ones kept.
    Llama3 {
        /// How many times.
        factor: f64,
        /// Wavelengths above `original / low` are stretched wholly.
        low: f64,
        /// Wavelengths below `original / high` are kept.
        high: f64,
        /// Tokens the model was first trained on.
        original: f64,
    },
    /// YaRN (Peng et al. 2023, arXiv 2309.00071).
    Yarn {
        /// How many times.
        factor: f64,
        /// Turns over the original context above which a wavelength is kept.
        fast: f64,
        /// Turns below which it is stretched wholly.
        slow: f64,
        /// Tokens the model was first trained on.
        original: f64,
        /// Factor of cosines and sines.
        attention: f64,
        /// The range between the two is widened to whole dimensions.
        truncate: bool,
    },
}

/// A `config.json` that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{}: {error}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It is not JSON.
    #[error("{}: not valid JSON: {error}", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// Where and why.
        error: serde_json::Error,
    },
    /// A field is missing, of the wrong kind, or says what this program does not do.
    #[error("{}: {problem}", file.display())]
    Field {
        /// The file.
        file: PathBuf,
        /// Names the field, what was found, and what would be right.
        problem: String,
    },
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Gpt2 => "gpt2",
        })
    }
}

/// Fields that say nothing about the model's function, or that are only of use to other programs.
const HARMLESS: &[&str] = &[
    "_attn_implementation_autoset",
    "_name_or_path",
    "add_cross_attention",
    "architectures",
    "attention_dropout",
    "attn_pdrop",
    "dtype",
    "embd_pdrop",
    "gradient_checkpointing",
    "max_window_layers",
    "model_type",
    "n_ctx",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "pad_token_id",
    "pretraining_tp",
    "resid_pdrop",
    "return_dict",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "task_specific_params",
    "torch_dtype",
    "transformers_version",
    "use_cache",
];

impl ModelConfig {
    /// Reads a `config.json`. Beside the configuration: remarks for the user, such as fields that are not known.
    ///
    /// # Errors
    /// [`ConfigError`], naming the field.
    pub fn read(file: &Path) -> Result<(Self, Vec<String>), ConfigError> {
        let text = std::fs::read_to_string(file).map_err(|error| ConfigError::Read { file: file.to_owned(), error })?;
        let value: Value =
            serde_json::from_str(&text).map_err(|error| ConfigError::Json { file: file.to_owned(), error })?;
        Self::parse(file, value)
    }

    /// The same from the file's content.
    ///
    /// # Errors
    /// [`ConfigError`], naming the field.
    pub fn parse(file: &Path, value: Value) -> Result<(Self, Vec<String>), ConfigError> {
        let Value::Object(object) = value else {
            return Err(field(file, "must be a JSON object with the model's sizes"));
        };
        let mut fields = Fields { file, object: &object, known: HARMLESS.iter().copied().collect() };
        let family = match object.get("model_type").and_then(Value::as_str) {
            Some("llama") => Family::Llama,
            Some("mistral") => Family::Mistral,
            Some("qwen2") => Family::Qwen2,
            Some("gpt2") => Family::Gpt2,
            found => {
                let found = found.map_or_else(|| "is missing".to_owned(), |found| format!("= \"{found}\""));
                let problem = format!("model_type {found}: must be llama, mistral, qwen2 or gpt2");
                return Err(field(file, &problem));
            }
        };
        let mut config = match family {
            Family::Gpt2 => Self::gpt2(&mut fields)?,
            _ => Self::llama_like(family, &mut fields)?,
        };
        let unknown: Vec<String> = object
            .keys()
            .filter(|name| !fields.known.contains(name.as_str()))
            .map(|name| format!("{}: field '{name}' is not known to pairwise and changes nothing here", file.display()))
            .collect();
        config.original = object;
        Ok((config, unknown))
    }

    fn llama_like(family: Family, fields: &mut Fields<'_>) -> Result<Self, ConfigError> {
        let hidden = fields.size("hidden_size")?;
        let queries = fields.size("num_attention_heads")?;
        let keys = fields.size_or("num_key_value_heads", queries)?;
        let width = match fields.optional_size("head_dim")? {
            Some(width) => width,
            None if hidden.is_multiple_of(queries) => hidden / queries,
            None => {
                let problem = format!("hidden_size = {hidden} cannot be divided among num_attention_heads = {queries}");
                return Err(fields.error(&problem));
            }
        };
        if !queries.is_multiple_of(keys) {
            let problem = format!("num_attention_heads = {queries} is not a multiple of num_key_value_heads = {keys}");
            return Err(fields.error(&problem));
        }
        if !width.is_multiple_of(2) {
            return Err(fields.error(&format!("head_dim = {width}: must be even for rotary positions")));
        }
        fields.only("hidden_act", &[json!("silu"), json!("swish")], &json!("silu"))?;
        let bias = fields.flag("attention_bias", family == Family::Qwen2)?;
        let layers = fields.size("num_hidden_layers")?;
        let window = match family {
            // transformers' own default.
            Family::Mistral if !fields.object.contains_key("sliding_window") => Some(4096),
            _ => fields.optional_size("sliding_window")?,
        };
        let window = match family {
            Family::Mistral => window,
            Family::Qwen2 if fields.flag("use_sliding_window", false)? => {
                match fields.size_or("max_window_layers", 28)? {
                    first if first >= layers => None,
                    first => {
                        let problem = format!(
                            "max_window_layers = {first} with use_sliding_window: a model in which only some layers have a window is not supported"
                        );
                        return Err(fields.error(&problem));
                    }
                }
            }
            _ => None,
        };
        fields.layer_types(layers, window)?;
        let context = fields.size("max_position_embeddings")?;
        Ok(Self {
            family,
            vocabulary: fields.size("vocab_size")?,
            hidden,
            intermediate: fields.size("intermediate_size")?,
            layers,
            heads: Heads { queries, keys, width },
            context,
            norm_epsilon: fields.positive("rms_norm_eps", 1e-6)?,
            positions: fields.rotary(context)?,
            window,
            qkv_bias: bias,
            output_bias: bias && family != Family::Qwen2,
            mlp_bias: fields.flag("mlp_bias", false)?,
            tied: fields.flag("tie_word_embeddings", false)?,
            output: fields.output()?,
            initializer_range: fields.positive("initializer_range", 0.02)?,
            bos: fields.token("bos_token_id")?,
            eos: fields.tokens("eos_token_id")?,
            original: Map::new(),
        })
    }

    fn gpt2(fields: &mut Fields<'_>) -> Result<Self, ConfigError> {
        let hidden = fields.size("n_embd")?;
        let heads = fields.size("n_head")?;
        if !hidden.is_multiple_of(heads) {
            return Err(fields.error(&format!("n_embd = {hidden} cannot be divided among n_head = {heads}")));
        }
        let gelu = [json!("gelu_new"), json!("gelu_pytorch_tanh")];
        fields.only("activation_function", &gelu, &json!("gelu_new"))?;
        fields.only("scale_attn_weights", &[json!(true)], &json!(true))?;
        fields.only("scale_attn_by_inverse_layer_idx", &[json!(false)], &json!(false))?;
        // Only a matter of rounding.
        fields.known.insert("reorder_and_upcast_attn");
        Ok(Self {
            family: Family::Gpt2,
            vocabulary: fields.size("vocab_size")?,
            hidden,
            intermediate: fields.optional_size("n_inner")?.unwrap_or(4 * hidden),
            layers: fields.size("n_layer")?,
            heads: Heads { queries: heads, keys: heads, width: hidden / heads },
            context: fields.size("n_positions")?,
            norm_epsilon: fields.positive("layer_norm_epsilon", 1e-5)?,
            positions: Positions::Learned,
            window: None,
            qkv_bias: true,
            output_bias: true,
            mlp_bias: true,
            tied: fields.flag("tie_word_embeddings", true)?,
            output: fields.output()?,
            initializer_range: fields.positive("initializer_range", 0.02)?,
            bos: fields.token("bos_token_id")?,
            eos: fields.tokens("eos_token_id")?,
            original: Map::new(),
        })
    }

    /// A Llama of this size with fresh weights to come, for models that are trained here: as many key heads as query
    /// heads, the output layer tied to the embedding.
    #[must_use]
    pub fn small_llama(size: SmallLlama) -> Self {
        let SmallLlama { vocabulary, hidden, layers, heads, context } = size;
        Self {
            family: Family::Llama,
            vocabulary,
            hidden,
            // Shazeer 2020: 8/3 of the width has the parameters of a layer of four times the width without gate; here
            // to a multiple of 8.
            intermediate: (hidden * 8 / 3).next_multiple_of(8),
            layers,
            heads: Heads { queries: heads, keys: heads, width: hidden / heads },
            context,
            norm_epsilon: 1e-5,
            positions: Positions::Rotary { theta: 10_000.0, scaling: RopeScaling::Default },
            window: None,
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            tied: true,
            output: Output::Tokens,
            initializer_range: 0.02,
            bos: None,
            eos: Vec::new(),
            original: Map::new(),
        }
    }

    /// The `config.json` of this model. Fields of the file it was read from stay; a new one is written in the spelling
    /// that transformers 4 and 5 both read.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut object = match self.original.is_empty() {
            true => self.fresh_json(),
            false => Value::Object(self.original.clone()),
        };
        let base = match self.family {
            Family::Llama => "Llama",
            Family::Mistral => "Mistral",
            Family::Qwen2 => "Qwen2",
            Family::Gpt2 => "GPT2",
        };
        let fields = object.as_object_mut().expect("both are objects");
        match self.output {
            Output::Tokens => {
                let name = if self.family == Family::Gpt2 { "LMHeadModel" } else { "ForCausalLM" };
                fields.insert("architectures".into(), json!([format!("{base}{name}")]));
            }
            Output::Scores(count) => {
                fields.insert("architectures".into(), json!([format!("{base}ForSequenceClassification")]));
                fields.insert("num_labels".into(), json!(count));
                let names = |i: usize| (i.to_string(), json!(format!("LABEL_{i}")));
                fields.insert("id2label".into(), (0..count).map(names).collect::<Map<_, _>>().into());
                let ids = |i: usize| (format!("LABEL_{i}"), json!(i));
                fields.insert("label2id".into(), (0..count).map(ids).collect::<Map<_, _>>().into());
            }
        }
        object
    }

    /// The fields of a model that was not read from a file.
    fn fresh_json(&self) -> Value {
        let eos = match self.eos.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            several => json!(several),
        };
        match self.family {
            Family::Gpt2 => json!({
                "architectures": null,
                "model_type": "gpt2",
                "vocab_size": self.vocabulary,
                "n_embd": self.hidden,
                "n_inner": self.intermediate,
                "n_layer": self.layers,
                "n_head": self.heads.queries,
                "n_positions": self.context,
                "activation_function": "gelu_new",
                "layer_norm_epsilon": self.norm_epsilon,
                "initializer_range": self.initializer_range,
                "tie_word_embeddings": self.tied,
                "bos_token_id": self.bos,
                "eos_token_id": eos,
                "torch_dtype": "float32",
            }),
            family => {
                let theta = match self.positions {
                    Positions::Rotary { theta, .. } => theta,
                    Positions::Learned => 10_000.0,
                };
                let mut object = json!({
                    "architectures": null,
                    "model_type": family.to_string(),
                    "vocab_size": self.vocabulary,
                    "hidden_size": self.hidden,
                    "intermediate_size": self.intermediate,
                    "num_hidden_layers": self.layers,
                    "num_attention_heads": self.heads.queries,
                    "num_key_value_heads": self.heads.keys,
                    "head_dim": self.heads.width,
                    "hidden_act": "silu",
                    "max_position_embeddings": self.context,
                    "rms_norm_eps": self.norm_epsilon,
                    "rope_theta": theta,
                    "initializer_range": self.initializer_range,
                    "tie_word_embeddings": self.tied,
                    "bos_token_id": self.bos,
                    "eos_token_id": eos,
                    "torch_dtype": "float32",
                });
                let fields = object.as_object_mut().expect("it was made an object above");
                match family {
                    Family::Llama => {
                        fields.insert("attention_bias".into(), json!(self.qkv_bias));
                        fields.insert("mlp_bias".into(), json!(self.mlp_bias));
                    }
                    _ => {
                        fields.insert("sliding_window".into(), json!(self.window));
                    }
                }
                object
            }
        }
    }

    /// How rows are normalised.
    #[must_use]
    pub fn norm(&self) -> NormConfig {
        let kind = match self.family {
            Family::Gpt2 => NormKind::Layer,
            _ => NormKind::RootMeanSquare,
        };
        NormConfig { kind, epsilon: self.norm_epsilon as f32 }
    }

    /// Cosines and sines of rotary positions for rows at these places, if the model has such.
    #[must_use]
    pub fn rotation(&self, places: &[u32]) -> Option<Rotation> {
        let Positions::Rotary { theta, scaling } = &self.positions else { return None };
        let (frequencies, factor) = scaling.frequencies(*theta, self.heads.width);
        let angles = |f: fn(f64) -> f64| {
            let row = |&place: &u32| frequencies.iter().map(move |w| (f(f64::from(place) * w) * factor) as f32);
            places.iter().flat_map(row).collect()
        };
        Some(Rotation { cos: angles(f64::cos), sin: angles(f64::sin) })
    }

    /// Parameters in all; a tied output layer is counted once.
    #[must_use]
    pub fn parameters(&self) -> usize {
        super::model::Layout::new(self).tensors.iter().map(|tensor| tensor.shape[0] * tensor.shape[1]).sum()
    }
}

/// Sizes of [`ModelConfig::small_llama`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SmallLlama {
    /// Tokens.
    pub vocabulary: usize,
    /// Width: a multiple of twice the heads.
    pub hidden: usize,
    /// Blocks.
    pub layers: usize,
    /// Heads.
    pub heads: usize,
    /// Longest sequence, tokens.
    pub context: usize,
}

impl RopeScaling {
    /// Angular frequencies in radians a token, one for every pair of a head's columns, and the factor of cosines and
    /// sines.
    ///
    /// # Shapes
    /// - returns `[width / 2]`
    fn frequencies(&self, theta: f64, width: usize) -> (Vec<f64>, f64) {
        use std::f64::consts::TAU;
        let dimensions = width as f64;
        let plain = (0..width / 2).map(|i| theta.powf(-2.0 * i as f64 / dimensions));
        match *self {
            Self::Default => (plain.collect(), 1.0),
            Self::Linear { factor } => (plain.map(|w| w / factor).collect(), 1.0),
            Self::Llama3 { factor, low, high, original } => {
                let scaled = |w: f64| {
                    // Turns over the original context.
                    let turns = original * w / TAU;
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    w * (kept + (1.0 - kept) / factor)
                };
                (plain.map(scaled).collect(), 1.0)
            }
            Self::Yarn { factor, fast, slow, original, attention, truncate } => {
                // The pair that turns so often over the original context (arXiv 2309.00071, eq. 15 f.).
                let pair = |turns: f64| dimensions * (original / (turns * TAU)).ln() / (2.0 * theta.ln());
                let (mut first, mut last) = (pair(fast), pair(slow));
                if truncate {
                    (first, last) = (first.floor(), last.ceil());
                }
                let (first, last) = (first.max(0.0), last.min(dimensions - 1.0));
                // transformers' guard against an empty range.
                let last = if first == last { last + 0.001 } else { last };
                let scaled = |(i, w): (usize, f64)| {
                    let stretched = ((i as f64 - first) / (last - first)).clamp(0.0, 1.0);
                    w * (1.0 - stretched + stretched / factor)
                };
                (plain.enumerate().map(scaled).collect(), attention)
            }
        }
    }
}

/// An object that is read field by field.
struct Fields<'a> {
    file: &'a Path,
    object: &'a Map<String, Value>,
    known: BTreeSet<&'a str>,
}

impl<'a> Fields<'a> {
    fn error(&self, problem: &str) -> ConfigError {
        field(self.file, problem)
    }

    /// A field that is there and not null.
    fn get(&mut self, name: &'a str) -> Option<&'a Value> {
        self.known.insert(name);
        self.object.get(name).filter(|value| !value.is_null())
    }

    fn optional_size(&mut self, name: &'a str) -> Result<Option<usize>, ConfigError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
        match number.filter(|&number| (1..=MAX_SIZE).contains(&number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.error(&format!("{name} = {value}: must be a whole number from 1 to {MAX_SIZE}"))),
        }
    }

    fn size(&mut self, name: &'a str) -> Result<usize, ConfigError> {
        let missing = format!("field '{name}' is missing: must be a whole number from 1 on");
        self.optional_size(name)?.ok_or_else(|| self.error(&missing))
    }

    fn size_or(&mut self, name: &'a str, default: usize) -> Result<usize, ConfigError> {
        Ok(self.optional_size(name)?.unwrap_or(default))
    }

    fn positive(&mut self, name: &'a str, default: f64) -> Result<f64, ConfigError> {
        let Some(value) = self.get(name) else { return Ok(default) };
        match value.as_f64().filter(|number| *number > 0.0 && number.is_finite()) {
            Some(number) => Ok(number),
            None => Err(self.error(&format!("{name} = {value}: must be a positive number"))),
        }
    }

    fn flag(&mut self, name: &'a str, default: bool) -> Result<bool, ConfigError> {
        let Some(value) = self.get(name) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.error(&format!("{name} = {value}: must be true or false")))
    }

    /// A token's id; negative ones, which some files have, are none.
    fn token(&mut self, name: &'a str) -> Result<Option<u32>, ConfigError> {
        Ok(self.tokens(name)?.first().copied())
    }

    fn tokens(&mut self, name: &'a str) -> Result<Vec<u32>, ConfigError> {
        let Some(value) = self.get(name) else { return Ok(Vec::new()) };
        if value.as_i64().is_some_and(|id| id < 0) {
            return Ok(Vec::new());
        }
        token_ids(value).ok_or_else(|| self.error(&format!("{name} = {value}: must be a token's number, or several")))
    }

    /// A field that changes the model, of which only some values are supported.
    fn only(&mut self, name: &'a str, supported: &[Value], default: &Value) -> Result<(), ConfigError> {
        let value = self.get(name).unwrap_or(default);
        if supported.contains(value) {
            return Ok(());
        }
        let listed: Vec<String> = supported.iter().map(Value::to_string).collect();
        Err(self.error(&format!("{name} = {value} is not supported: must be {}", listed.join(" or "))))
    }

    /// Whether the model writes or scores.
    fn output(&mut self) -> Result<Output, ConfigError> {
        let labels = self.size_or("num_labels", 0).ok();
        let listed = self.get("id2label").and_then(Value::as_object).map(Map::len);
        self.known.insert("label2id");
        let architecture = self.object.get("architectures").and_then(|all| all.get(0)).and_then(Value::as_str);
        match architecture {
            Some(name) if name.ends_with("ForSequenceClassification") => {
                // transformers' own default is two.
                Ok(Output::Scores(labels.filter(|&count| count > 0).or(listed).unwrap_or(2)))
            }
            Some(name) if !name.ends_with("ForCausalLM") && !name.ends_with("LMHeadModel") => {
                let problem = format!(
                    "architectures = [\"{name}\"] is not supported: must be …ForCausalLM, GPT2LMHeadModel or …ForSequenceClassification"
                );
                Err(self.error(&problem))
            }
            _ => Ok(Output::Tokens),
        }
    }

    /// transformers 5 says for every layer what it attends to; here all are alike.
    fn layer_types(&mut self, layers: usize, window: Option<usize>) -> Result<(), ConfigError> {
        let Some(value) = self.get("layer_types") else { return Ok(()) };
        let expected = if window.is_some() { "sliding_attention" } else { "full_attention" };
        let alike = value.as_array().is_some_and(|all| all.len() == layers && all.iter().all(|kind| kind == expected));
        match alike {
            true => Ok(()),
            false => Err(self.error(&format!(
                "layer_types = {value} is not supported: must be \"{expected}\" for each of the {layers} layers"
            ))),
        }
    }

    /// Rotary positions, in transformers' older and newer spelling.
    fn rotary(&mut self, context: usize) -> Result<Positions, ConfigError> {
        // transformers' own default.
        let theta = self.positive("rope_theta", 10_000.0)?;
        let older = self.get("rope_scaling");
        let Some(value) = self.get("rope_parameters").or(older) else {
            return Ok(Positions::Rotary { theta, scaling: RopeScaling::Default });
        };
        let Value::Object(object) = value else {
            return Err(self.error(&format!("rope_parameters = {value}: must be an object")));
        };
        let mut fields = Fields { file: self.file, object, known: BTreeSet::new() };
        let theta = fields.positive("rope_theta", theta)?;
        let kind = fields.get("rope_type").or_else(|| fields.get("type")).and_then(Value::as_str).unwrap_or("default");
        fields.only("partial_rotary_factor", &[json!(1.0), json!(1)], &json!(1.0))?;
        let scaling = match kind {
            "default" => RopeScaling::Default,
            "linear" => RopeScaling::Linear { factor: fields.factor()? },
            "llama3" => RopeScaling::Llama3 {
                factor: fields.factor()?,
                low: fields.positive("low_freq_factor", 1.0)?,
                high: fields.positive("high_freq_factor", 4.0)?,
                original: fields.positive("original_max_position_embeddings", context as f64)?,
            },
            "yarn" => {
                let factor = fields.factor()?;
                // arXiv 2309.00071, eq. 22.
                let grown = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
                let inferred = match (fields.number("mscale"), fields.number("mscale_all_dim")) {
                    (Some(one), Some(all)) if one != 0.0 && all != 0.0 => grown(one) / grown(all),
                    _ => grown(1.0),
                };
                RopeScaling::Yarn {
                    factor,
                    fast: fields.positive("beta_fast", 32.0)?,
                    slow: fields.positive("beta_slow", 1.0)?,
                    original: fields.positive("original_max_position_embeddings", context as f64)?,
                    attention: fields.positive("attention_factor", inferred)?,
                    truncate: fields.flag("truncate", true)?,
                }
            }
            other => {
                let problem = format!(
                    "rope_type = \"{other}\" is not supported: must be \"default\", \"linear\", \"llama3\" or \"yarn\""
                );
                return Err(self.error(&problem));
            }
        };
        Ok(Positions::Rotary { theta, scaling })
    }

    fn factor(&mut self) -> Result<f64, ConfigError> {
        if self.get("factor").is_none() {
            return Err(self.error("field 'factor' of the rotary scaling is missing: must be a positive number"));
        }
        self.positive("factor", 1.0)
    }

    fn number(&mut self, name: &'a str) -> Option<f64> {
        self.get(name).and_then(Value::as_f64)
    }
}

/// Larger sizes are mistakes, and products of several still fit a number.
const MAX_SIZE: usize = 1 << 30;

/// One token's number, or a list of them.
pub(crate) fn token_ids(value: &Value) -> Option<Vec<u32>> {
    let one = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(all) => all.iter().map(one).collect(),
        _ => one(value).map(|id| vec![id]),
    }
}

fn field(file: &Path, problem: &str) -> ConfigError {
    ConfigError::Field { file: file.to_owned(), problem: problem.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::{ModelConfig, RopeScaling, SmallLlama};

    fn llama() -> Value {
        ModelConfig::small_llama(SmallLlama { vocabulary: 40, hidden: 32, layers: 2, heads: 4, context: 64 }).to_json()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let config =
            ModelConfig::small_llama(SmallLlama { vocabulary: 40, hidden: 32, layers: 2, heads: 4, context: 64 });
        let (read, remarks) = ModelConfig::parse(Path::new("config.json"), config.to_json()).expect("it is valid");
        assert_eq!(ModelConfig { original: config.original.clone(), ..read.clone() }, config);
        assert_eq!(remarks, Vec::<String>::new());
        assert_eq!(read.to_json(), config.to_json());
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let cases = [
            (("hidden_size", json!(null)), "field 'hidden_size' is missing"),
            (("hidden_size", json!("32")), "hidden_size = \"32\": must be a whole number"),
            (("num_hidden_layers", json!(0)), "num_hidden_layers = 0: must be a whole number"),
            (("model_type", json!("bert")), "model_type = \"bert\": must be llama, mistral, qwen2 or gpt2"),
            (("hidden_act", json!("relu")), "hidden_act = \"relu\" is not supported"),
            (("num_key_value_heads", json!(3)), "num_attention_heads = 4 is not a multiple of num_key_value_heads = 3"),
            (("head_dim", json!(7)), "head_dim = 7: must be even"),
            (("rms_norm_eps", json!(-1.0)), "rms_norm_eps = -1.0: must be a positive number"),
            (("tie_word_embeddings", json!(1)), "tie_word_embeddings = 1: must be true or false"),
            (("rope_scaling", json!({"type": "longrope"})), "rope_type = \"longrope\" is not supported"),
            (("rope_scaling", json!({"type": "linear"})), "field 'factor' of the rotary scaling is missing"),
            (("eos_token_id", json!("</s>")), "eos_token_id = \"</s>\": must be a token's number"),
        ];
        for ((name, value), expected) in cases {
            let mut config = llama();
            config[name] = value;
            let error = ModelConfig::parse(Path::new("dir/config.json"), config).expect_err(expected).to_string();
            assert!(error.starts_with("dir/config.json: ") && error.contains(expected), "{error}");
        }
        let mut config = llama();
        config["colour"] = json!("blue");
        let (_, remarks) = ModelConfig::parse(Path::new("config.json"), config).expect("it can be used");
        assert_eq!(remarks, ["config.json: field 'colour' is not known to pairwise and changes nothing here"]);
    }

    /// Expected values: transformers 5.23's ROPE_INIT_FUNCTIONS for a head of 16 columns, θ = 10,000 (float32).
    #[test]
    fn scaled_frequencies_are_those_of_transformers() {
        let cases = [
            (RopeScaling::Linear { factor: 4.0 }, LINEAR, 1.0),
            (RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 256.0 }, LLAMA3, 1.0),
            (
                RopeScaling::Yarn {
                    factor: 4.0,
                    fast: 32.0,
                    slow: 1.0,
                    original: 256.0,
                    attention: 1.138_629_436_111_989,
                    truncate: true,
                },
                YARN,
                1.138_629_436_111_989,
            ),
        ];
        for (scaling, expected, factor) in cases {
            let (found, found_factor) = scaling.frequencies(10_000.0, 16);
            for (f, e) in found.iter().zip(expected) {
                assert!((f - e).abs() < 1e-6 * e, "{scaling:?}: {found:?}, expected {expected:?}");
            }
            assert!((found_factor - factor).abs() < 1e-9);
        }
    }

    const LINEAR: [f64; 8] =
        [0.25, 0.079_056_941, 0.025, 0.007_905_694_66, 0.0025, 0.000_790_569_466, 0.000_25, 7.905_694_66e-5];
    const LLAMA3: [f64; 8] =
        [1.0, 0.316_227_764, 0.1, 0.006_613_106_93, 0.001_25, 0.000_395_284_733, 0.000_125, 3.952_847_33e-5];
    const YARN: [f64; 8] =
        [1.0, 0.256_935_06, 0.0625, 0.013_834_965_4, 0.0025, 0.000_790_569_466, 0.000_25, 7.905_694_66e-5];
}
