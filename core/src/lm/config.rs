//! The architecture of a decoder: Hugging Face's `config.json`, for the families Llama, Mistral, Qwen2 and GPT-2.

use std::fmt;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::fields::{Fields, FolderError, Harmless, MAX_SIZE, content, read_json, token_ids};
use crate::nn::fused::decoder::{Heads, NormConfig, NormKind, Rotation};

/// A decoder-only transformer.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The family whose names and defaults it has.
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
    /// Number that normalisation adds to variances.
    pub norm_epsilon: f64,
    /// How the model knows the places of tokens.
    pub positions: Positions,
    /// A token sees itself and the window − 1 tokens before it; `None`: all tokens before it.
    pub window: Option<usize>,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the output of attention has a bias.
    pub output_bias: bool,
    /// Whether the feed-forward layer has biases.
    pub mlp_bias: bool,
    /// Whether the output layer is the embedding.
    pub tied: bool,
    /// What is computed from the last hidden states.
    pub output: Output,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
    /// The token that sequences begin with, if they do.
    pub bos: Option<u32>,
    /// Tokens that end a sequence.
    pub eos: Vec<u32>,
    /// The token that other programs fill up batches with. Here there is no padding.
    pub pad: Option<u32>,
    /// The file that it was read from, so that nothing is lost when it is written again.
    pub original: Map<String, Value>,
    /// The `generation_config.json`, kept for the same reason; empty where there is none.
    pub generation: Map<String, Value>,
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

/// How a model knows the places of tokens.
#[derive(Debug, Clone, PartialEq)]
pub enum Positions {
    /// A vector for each place, added to the embedding.
    Learned,
    /// Queries and keys are rotated (Su et al. 2021, arXiv 2104.09864).
    Rotary {
        /// Base of the wavelengths: θ.
        theta: f64,
        /// How the wavelengths are changed for longer sequences than those of training.
        scaling: RopeScaling,
    },
}

/// Changes of the wavelengths of rotary positions, under transformers' names.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// No change.
    Default,
    /// All wavelengths are `factor` times as long.
    Linear {
        /// How many times.
        factor: f64,
    },
    /// Llama 3.1's: long wavelengths are stretched, and short ones are kept.
    Llama3 {
        /// How many times.
        factor: f64,
        /// Wavelengths above `original / low` are stretched by the whole factor.
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
        /// A wavelength with more turns than this over the original context is kept.
        fast: f64,
        /// A wavelength with fewer turns is stretched by the whole factor.
        slow: f64,
        /// Tokens the model was first trained on.
        original: f64,
        /// Factor of cosines and sines.
        attention: f64,
        /// Whether the range between the two is widened to whole dimensions.
        truncate: bool,
    },
}

impl fmt::Display for RopeScaling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("none"),
            Self::Linear { factor } => write!(f, "linear, factor {factor}"),
            Self::Llama3 { factor, low, high, original } => write!(
                f,
                "llama3, factor {factor}, low_freq_factor {low}, high_freq_factor {high}, original_max_position_embeddings {original}"
            ),
            Self::Yarn { factor, fast, slow, original, attention, truncate } => write!(
                f,
                "yarn, factor {factor}, beta_fast {fast}, beta_slow {slow}, original_max_position_embeddings {original}, attention_factor {attention}, truncate {truncate}"
            ),
        }
    }
}

impl Family {
    /// The family of a `model_type`.
    #[must_use]
    pub fn of(model_type: &str) -> Option<Self> {
        [Self::Llama, Self::Mistral, Self::Qwen2, Self::Gpt2].into_iter().find(|one| one.to_string() == model_type)
    }
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

/// Fields that cannot change what is computed here, each group with the reason. A field that is neither read nor listed
/// is refused. They were gathered from the configuration classes of transformers 4 and 5 and from files in use.
pub(super) const HARMLESS: Harmless = &[
    (
        "where the model comes from, and which programs made or may load it",
        &[
            "_commit_hash", "_name_or_path", "architectures", "auto_map", "finetuning_task", "is_llama_config",
            "model_type", "name_or_path", "prefix", "task_specific_params", "tokenizer_class",
            "transformers.js_config", "transformers_version", "unsloth_fixed", "unsloth_version",
        ],
    ),
    ("the type of the tensors is read from the tensors", &["dtype", "torch_dtype", "use_bfloat16"]),
    (
        "which of several ways of computing the same number, and what is kept in memory meanwhile",
        &[
            "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal",
            "_experts_implementation_internal", "_flash_attn_2_enabled", "attn_implementation",
            "chunk_size_feed_forward", "gradient_checkpointing", "pretraining_tp", "reorder_and_upcast_attn",
            "tf_legacy_loss", "torchscript", "use_cache", "use_flash_attention_2", "xla_device",
        ],
    ),
    (
        "dropout: training here has only that of adapters, which has options of its own",
        &[
            "attention_dropout", "attention_probs_dropout_prob", "attn_pdrop", "classifier_dropout", "embd_pdrop",
            "hidden_dropout", "hidden_dropout_prob", "resid_pdrop", "summary_first_dropout",
        ],
    ),
    (
        "heads that are not computed here, and the names of labels",
        &[
            "_num_labels", "label2id", "problem_type", "summary_activation", "summary_proj_to_labels", "summary_type",
            "summary_use_proj",
        ],
    ),
    (
        "what a call returns beside the result",
        &[
            "_output_attentions", "output_attentions", "output_hidden_states", "output_past", "output_scores",
            "return_dict", "return_dict_in_generate",
        ],
    ),
    (
        "tokens that the files of the tokenizer have",
        &["cls_token_id", "decoder_start_token_id", "mask_token_id", "sep_token_id", "unk_token_id"],
    ),
    (
        "how transformers samples: here the options of a command decide it, and transformers 5 does not read it here",
        &[
            "bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "do_sample", "early_stopping",
            "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "forced_bos_token_id",
            "forced_eos_token_id", "length_penalty", "max_length", "max_new_tokens", "min_length",
            "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_return_sequences", "remove_invalid_values",
            "repetition_penalty", "suppress_tokens", "temperature", "top_k", "top_p", "typical_p",
        ],
    ),
    (
        "limits and roles that transformers does not read in these families, or that are read here, too, where it does",
        &["is_decoder", "max_sequence_length", "max_window_layers", "model_max_length", "n_ctx", "use_sliding_window"],
    ),
];

impl ModelConfig {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// [`FolderError`], naming a field that is missing or wrong, or one that is not known, because it may change what
    /// the model computes.
    pub fn read(file: &Path) -> Result<Self, FolderError> {
        Self::parse(file, read_json(file)?.into())
    }

    /// Reads the content of a `config.json`.
    ///
    /// # Errors
    /// [`FolderError`], naming the field.
    pub fn parse(file: &Path, value: Value) -> Result<Self, FolderError> {
        let Value::Object(object) = value else {
            return Err(content(file, "must be a JSON object with the model's sizes"));
        };
        let mut fields = Fields::new(file, &object, HARMLESS);
        let named = object.get("model_type").and_then(Value::as_str);
        let Some(family) = named.and_then(Family::of) else {
            let found = named.map_or_else(|| "is missing".to_owned(), |found| format!("= \"{found}\""));
            let problem = format!("model_type {found}: must be llama, mistral, qwen2 or gpt2");
            return Err(content(file, &problem));
        };
        let mut config = match family {
            Family::Gpt2 => Self::gpt2(&mut fields)?,
            _ => Self::llama_like(family, &mut fields)?,
        };
        fields.common()?;
        fields.no_others("", "the model is the same")?;
        config.original = object;
        Ok(config)
    }

    fn llama_like(family: Family, fields: &mut Fields<'_>) -> Result<Self, FolderError> {
        let hidden = fields.size("hidden_size")?;
        let queries = fields.size("num_attention_heads")?;
        let keys = match family {
            // transformers' default where the field is missing. Where it is null, there are as many as queries.
            Family::Mistral if !fields.object.contains_key("num_key_value_heads") => 8,
            _ => fields.optional_size("num_key_value_heads")?.unwrap_or(queries),
        };
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
        let bias = match family {
            Family::Llama => fields.flag("attention_bias", false)?,
            // transformers gives the model these biases, whatever the file says.
            Family::Qwen2 => fields.only("attention_bias", &[json!(true)], &json!(true)).map(|()| true)?,
            _ => fields.only("attention_bias", &[json!(false)], &json!(false)).map(|()| false)?,
        };
        if family != Family::Llama {
            fields.only("mlp_bias", &[json!(false)], &json!(false))?;
        }
        let layers = fields.size("num_hidden_layers")?;
        let window = fields.window(family, layers)?;
        let positions = fields.rotary()?;
        let context = fields.rotary_context(&positions)?;
        Ok(Self {
            family,
            vocabulary: fields.size("vocab_size")?,
            hidden,
            intermediate: fields.size("intermediate_size")?,
            layers,
            heads: Heads { queries, keys, width },
            context,
            norm_epsilon: fields.positive("rms_norm_eps", 1e-6)?,
            positions,
            window,
            qkv_bias: bias,
            output_bias: bias && family != Family::Qwen2,
            mlp_bias: fields.flag("mlp_bias", false)?,
            tied: fields.flag("tie_word_embeddings", false)?,
            output: fields.output()?,
            initializer_range: fields.positive("initializer_range", 0.02)?,
            bos: fields.token("bos_token_id")?,
            eos: fields.tokens("eos_token_id")?,
            pad: fields.token("pad_token_id")?,
            original: Map::new(),
            generation: Map::new(),
        })
    }

    fn gpt2(fields: &mut Fields<'_>) -> Result<Self, FolderError> {
        let hidden = fields.size("n_embd")?;
        let heads = fields.size("n_head")?;
        if !hidden.is_multiple_of(heads) {
            return Err(fields.error(&format!("n_embd = {hidden} cannot be divided among n_head = {heads}")));
        }
        let gelu = [json!("gelu_new"), json!("gelu_pytorch_tanh")];
        fields.only("activation_function", &gelu, &json!("gelu_new"))?;
        fields.only("scale_attn_weights", &[json!(true)], &json!(true))?;
        fields.only("scale_attn_by_inverse_layer_idx", &[json!(false)], &json!(false))?;
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
            pad: fields.token("pad_token_id")?,
            original: Map::new(),
            generation: Map::new(),
        })
    }

    /// A Llama of this size, for models that are trained here: as many key heads as query heads, and the output layer
    /// tied to the embedding.
    #[must_use]
    pub fn small_llama(size: SmallLlama) -> Self {
        let SmallLlama { vocabulary, hidden, layers, heads, context } = size;
        Self {
            family: Family::Llama,
            vocabulary,
            hidden,
            // Shazeer 2020: with a gate, 8/3 of the width has as many parameters as four times the width without. It is
            // rounded up to a multiple of 8.
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
            pad: None,
            original: Map::new(),
            generation: Map::new(),
        }
    }

    /// The `config.json` of this model. Fields of the file that it was read from stay. A new file has the spelling that
    /// transformers 4 and 5 both read.
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
                // If the file has names for as many labels, they stay.
                if fields.get("id2label").and_then(Value::as_object).map(Map::len) != Some(count) {
                    let names = |i: usize| (i.to_string(), json!(format!("LABEL_{i}")));
                    fields.insert("id2label".into(), (0..count).map(names).collect::<Map<_, _>>().into());
                    let ids = |i: usize| (format!("LABEL_{i}"), json!(i));
                    fields.insert("label2id".into(), (0..count).map(ids).collect::<Map<_, _>>().into());
                }
            }
        }
        // Weights are written in this type. Two names for it are in use; a file has one of them.
        let types: Vec<&str> = ["dtype", "torch_dtype"].into_iter().filter(|name| fields.contains_key(*name)).collect();
        for name in if types.is_empty() { vec!["torch_dtype"] } else { types } {
            fields.insert(name.into(), json!("float32"));
        }
        // The file may say that the head is the embedding, and the weights may say otherwise.
        let tied = fields.get("tie_word_embeddings").and_then(Value::as_bool);
        if self.output == Output::Tokens && tied.unwrap_or(self.family == Family::Gpt2) != self.tied {
            fields.insert("tie_word_embeddings".into(), json!(self.tied));
        }
        // Reward models need such a token: transformers scores no batch without it.
        let pad = fields.get("pad_token_id").and_then(Value::as_u64);
        if let Some(own) = self.pad
            && pad.is_none()
        {
            fields.insert("pad_token_id".into(), json!(own));
        }
        object
    }

    /// The `generation_config.json` of this model: all that the file had that it was read from, and the tokens that
    /// begin and end texts.
    #[must_use]
    pub fn generation_json(&self) -> Value {
        let mut object = self.generation.clone();
        if object.get("bos_token_id").is_none_or(Value::is_null) {
            object.insert("bos_token_id".to_owned(), json!(self.bos));
        }
        let ends = object.get("eos_token_id").and_then(token_ids).unwrap_or_default();
        if ends != self.eos || self.eos.is_empty() {
            object.insert("eos_token_id".to_owned(), tokens_json(&self.eos));
        }
        object.into()
    }

    /// Everything beside weights and their shapes that the model's function depends on, under the names of
    /// `config.json`. Two models can be compared by it, in whatever way each file is spelled.
    #[must_use]
    pub fn function(&self) -> Vec<(&'static str, String)> {
        let gpt2 = self.family == Family::Gpt2;
        let name = |llama: &'static str, of_gpt2: &'static str| if gpt2 { of_gpt2 } else { llama };
        let or_null = |value: Option<usize>| value.map_or_else(|| "null".to_owned(), |value| value.to_string());
        let output = match self.output {
            Output::Tokens => "language model".to_owned(),
            Output::Scores(count) => format!("classifier of {count} labels"),
        };
        let mut all = vec![
            ("model_type", self.family.to_string()),
            ("architectures", output),
            (name("num_attention_heads", "n_head"), self.heads.queries.to_string()),
            ("num_key_value_heads", self.heads.keys.to_string()),
            ("head_dim", self.heads.width.to_string()),
            (name("rms_norm_eps", "layer_norm_epsilon"), self.norm_epsilon.to_string()),
            ("sliding_window", or_null(self.window)),
            ("attention_bias", self.qkv_bias.to_string()),
            ("mlp_bias", self.mlp_bias.to_string()),
            ("tie_word_embeddings", self.tied.to_string()),
        ];
        if let Positions::Rotary { theta, scaling } = &self.positions {
            all.push(("rope_theta", theta.to_string()));
            all.push(("rope_scaling", scaling.to_string()));
        }
        all
    }

    /// The names in `config.json` of all sizes that have this value, for messages about the size of a tensor.
    #[must_use]
    pub fn size_names(&self, size: usize) -> Vec<&'static str> {
        let gpt2 = self.family == Family::Gpt2;
        let name = |llama: &'static str, of_gpt2: &'static str| if gpt2 { of_gpt2 } else { llama };
        let Heads { queries, keys, width } = self.heads;
        let labels = if let Output::Scores(count) = self.output { count } else { 0 };
        [
            (self.vocabulary, "vocab_size"),
            (self.hidden, name("hidden_size", "n_embd")),
            (self.intermediate, name("intermediate_size", "n_inner")),
            (queries.saturating_mul(width), name("num_attention_heads × head_dim", "n_embd")),
            (keys.saturating_mul(width), name("num_key_value_heads × head_dim", "n_embd")),
            (self.heads.joint(), name("all heads", "3 × n_embd")),
            (self.context, name("max_position_embeddings", "n_positions")),
            (labels, "num_labels"),
        ]
        .into_iter()
        .filter(|(found, _)| *found == size)
        .map(|(_, name)| name)
        .collect()
    }

    /// The fields of a model that was not read from a file.
    fn fresh_json(&self) -> Value {
        let eos = tokens_json(&self.eos);
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
                let (theta, scaling) = match &self.positions {
                    Positions::Rotary { theta, scaling } => (*theta, scaling.to_json()),
                    Positions::Learned => (10_000.0, Value::Null),
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
                if family == Family::Qwen2 && self.window.is_some() {
                    fields.insert("use_sliding_window".into(), json!(true));
                    fields.insert("max_window_layers".into(), json!(0));
                }
                if !scaling.is_null() {
                    fields.insert("rope_scaling".into(), scaling);
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

    /// Cosines and sines of rotary positions for rows at these places; `None` of a model with learned positions.
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
    /// The older spelling, which all versions of transformers read; null for no change.
    fn to_json(&self) -> Value {
        match *self {
            Self::Default => Value::Null,
            Self::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
            Self::Llama3 { factor, low, high, original } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                // transformers wants a whole number.
                "original_max_position_embeddings": original as u64,
            }),
            Self::Yarn { factor, fast, slow, original, attention, truncate } => json!({
                "rope_type": "yarn",
                "factor": factor,
                "beta_fast": fast,
                "beta_slow": slow,
                "original_max_position_embeddings": original as u64,
                "attention_factor": attention,
                "truncate": truncate,
            }),
        }
    }

    /// Angular frequencies in radians per token, one for every pair of a head's columns, and the factor of cosines and
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
                // The pair of columns that turns so often over the original context (arXiv 2309.00071, eq. 15 f.).
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

/// What takes several fields to know.
impl<'a> Fields<'a> {
    /// Whether the model writes texts or scores them.
    fn output(&mut self) -> Result<Output, FolderError> {
        let labels = self.optional_size("num_labels")?;
        let listed = self.get("id2label").and_then(Value::as_object).map(Map::len);
        let architecture = self.object.get("architectures").and_then(|all| all.get(0)).and_then(Value::as_str);
        match architecture {
            Some(name) if name.ends_with("ForSequenceClassification") => {
                // As in transformers, the names of labels come first. Without either field there are two labels.
                Ok(Output::Scores(listed.or(labels).unwrap_or(2)))
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

    /// The window of all layers, if they have one.
    fn window(&mut self, family: Family, layers: usize) -> Result<Option<usize>, FolderError> {
        let found = match self.object.contains_key("sliding_window") {
            true => self.optional_size("sliding_window")?,
            // transformers' default of both families that have windows.
            false => Some(4096),
        };
        let window = match family {
            Family::Mistral => found,
            Family::Qwen2 if self.flag("use_sliding_window", false)? => found,
            _ => None,
        };
        // transformers 5 lists the layers that have the window. Without a list, all layers from a certain one have it.
        if let Some(value) = self.get("layer_types") {
            let all_are = |expected: &str| {
                value.as_array().is_some_and(|all| all.len() == layers && all.iter().all(|kind| kind == expected))
            };
            return match window {
                None if all_are("full_attention") => Ok(None),
                Some(_) if all_are("sliding_attention") => Ok(window),
                Some(_) if family == Family::Qwen2 && all_are("full_attention") => Ok(None),
                _ => {
                    let expected = if window.is_some() { "sliding_attention" } else { "full_attention" };
                    Err(self.error(&format!(
                        "layer_types = {value} is not supported: must be \"{expected}\" for each of the {layers} layers"
                    )))
                }
            };
        }
        let first = match family {
            Family::Qwen2 => self.get("max_window_layers").unwrap_or(&json!(28)).as_u64(),
            _ => Some(0),
        };
        match (window, first) {
            (None, _) => Ok(None),
            (Some(_), Some(0)) => Ok(window),
            (Some(_), Some(first)) if first >= layers as u64 => Ok(None),
            _ => {
                let value = self.get("max_window_layers").cloned().unwrap_or(json!(28));
                Err(self.error(&format!(
                    "max_window_layers = {value} with use_sliding_window: a model in which only some of the {layers} layers have a window is not supported"
                )))
            }
        }
    }

    /// Refuses values that would make another model, in fields that all families have.
    fn common(&mut self) -> Result<(), FolderError> {
        let no = json!(false);
        for name in
            ["add_cross_attention", "is_encoder_decoder", "tie_encoder_decoder", "rope_interleaved", "use_mrope"]
        {
            self.only(name, std::slice::from_ref(&no), &no)?;
        }
        self.only("pruned_heads", &[json!({}), json!([])], &json!({}))?;
        if let Some(value) = self.get("quantization_config") {
            let method = value.get("quant_method").and_then(Value::as_str).unwrap_or("it");
            return Err(self.error(&format!(
                "quantization_config: weights that are stored as {method} stores them are not supported: must be F32, F16 or BF16, not quantized"
            )));
        }
        Ok(())
    }

    /// Longest sequence of a model with rotary positions. With YaRN it is the original length times the factor, even
    /// where the file still has the original length.
    fn rotary_context(&mut self, positions: &Positions) -> Result<usize, FolderError> {
        let named = self.size("max_position_embeddings")?;
        let context = match positions {
            Positions::Rotary { scaling: RopeScaling::Yarn { factor, original, .. }, .. } => {
                named.max((factor * original).round().min(MAX_SIZE as f64) as usize)
            }
            _ => named,
        };
        match context <= MAX_CONTEXT {
            true => Ok(context),
            false => Err(self.error(&format!(
                "max_position_embeddings = {context}: must be at most {MAX_CONTEXT}, because 32-bit numbers do not tell later places apart"
            ))),
        }
    }

    /// Rotary positions, in the older or the newer spelling of transformers.
    fn rotary(&mut self) -> Result<Positions, FolderError> {
        let context = self.size("max_position_embeddings")? as f64;
        // transformers' default.
        let theta = self.positive("rope_theta", 10_000.0)?;
        self.only("partial_rotary_factor", &[json!(1.0), json!(1)], &json!(1.0))?;
        // The original length outside of the rotary parameters comes before one inside of them.
        let outside = match self.get("original_max_position_embeddings") {
            Some(_) => Some(self.positive("original_max_position_embeddings", 1.0)?),
            None => None,
        };
        // Where a file has both, transformers reads the older one.
        let newer = self.get("rope_parameters").filter(|value| **value != json!({}));
        let (name, value) = match self.get("rope_scaling").filter(|value| **value != json!({})) {
            Some(value) => ("rope_scaling", value),
            None => match newer {
                Some(value) => ("rope_parameters", value),
                None => return Ok(Positions::Rotary { theta, scaling: RopeScaling::Default }),
            },
        };
        let Value::Object(object) = value else {
            return Err(self.error(&format!("{name} = {value}: must be an object")));
        };
        let mut fields = Fields::new(self.file, object, &[]);
        let theta = fields.positive("rope_theta", theta)?;
        let (older, kind) = (fields.get("type"), fields.get("rope_type"));
        let kind = match kind.or(older) {
            None => "default",
            Some(Value::String(kind)) => kind,
            Some(other) => return Err(self.error(&format!("rope_type = {other}: must be a name"))),
        };
        fields.only("partial_rotary_factor", &[json!(1.0), json!(1)], &json!(1.0))?;
        let scaling = match kind {
            "default" => RopeScaling::Default,
            "linear" => RopeScaling::Linear { factor: fields.required("factor")? },
            "llama3" => {
                let (low, high) = (fields.required("low_freq_factor")?, fields.required("high_freq_factor")?);
                if high <= low {
                    let problem = format!("high_freq_factor = {high}: must be above low_freq_factor = {low}");
                    return Err(self.error(&problem));
                }
                RopeScaling::Llama3 {
                    factor: fields.required("factor")?,
                    low,
                    high,
                    original: fields.original(outside, context)?,
                }
            }
            "yarn" if theta <= 1.0 => {
                return Err(self.error(&format!("rope_theta = {theta}: must be above 1 with rope_type \"yarn\"")));
            }
            "yarn" => {
                let original = fields.original(outside, context)?;
                let factor = match object.get("factor") {
                    // As in transformers, it is by how much the context has grown.
                    Some(Value::Null) => context / original,
                    _ => fields.required("factor")?,
                };
                // arXiv 2309.00071, eq. 22.
                let grown = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
                let inferred = match (fields.number("mscale")?, fields.number("mscale_all_dim")?) {
                    (Some(one), Some(all)) if one != 0.0 && all != 0.0 => grown(one) / grown(all),
                    _ => grown(1.0),
                };
                RopeScaling::Yarn {
                    factor,
                    fast: fields.positive("beta_fast", 32.0)?,
                    slow: fields.positive("beta_slow", 1.0)?,
                    original,
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
        fields.no_others(&format!("{name}."), "the model is the same")?;
        Ok(Positions::Rotary { theta, scaling })
    }

    /// Length of the sequences that a model with stretched wavelengths was first trained on, tokens.
    fn original(&mut self, outside: Option<f64>, context: f64) -> Result<f64, FolderError> {
        let inside = self.positive("original_max_position_embeddings", context)?;
        Ok(outside.unwrap_or(inside))
    }

    /// A positive number of the rotary scaling, which must be there.
    fn required(&mut self, name: &'a str) -> Result<f64, FolderError> {
        if self.get(name).is_none() {
            return Err(
                self.error(&format!("field '{name}' of the rotary scaling is missing: must be a positive number"))
            );
        }
        self.positive(name, 1.0)
    }

    fn number(&mut self, name: &'a str) -> Result<Option<f64>, FolderError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_f64() {
            Some(number) => Ok(Some(number)),
            None => Err(self.error(&format!("{name} = {value}: must be a number"))),
        }
    }
}

/// The last place that a 32-bit float tells from the next one.
const MAX_CONTEXT: usize = 1 << 24;

/// Tokens as both files have them: null, one, or a list.
fn tokens_json(ids: &[u32]) -> Value {
    match ids {
        [] => Value::Null,
        [one] => json!(one),
        several => json!(several),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Map, Value, json};

    use super::{Family, ModelConfig, Output, Positions, RopeScaling, SmallLlama};

    fn llama() -> Value {
        ModelConfig::small_llama(SmallLlama { vocabulary: 40, hidden: 32, layers: 2, heads: 4, context: 64 }).to_json()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let config =
            ModelConfig::small_llama(SmallLlama { vocabulary: 40, hidden: 32, layers: 2, heads: 4, context: 64 });
        let read = ModelConfig::parse(Path::new("config.json"), config.to_json()).expect("it is valid");
        assert_eq!(ModelConfig { original: config.original.clone(), ..read.clone() }, config);
        assert_eq!(read.to_json(), config.to_json());
    }

    #[test]
    fn a_new_file_says_all_that_the_model_is() {
        let start = read(&json!({}));
        let scalings = [
            RopeScaling::Linear { factor: 2.0 },
            RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 32.0 },
            RopeScaling::Yarn { factor: 2.0, fast: 8.0, slow: 2.0, original: 32.0, attention: 1.5, truncate: false },
        ];
        let turned = |scaling| Positions::Rotary { theta: 500.0, scaling };
        let mut all: Vec<ModelConfig> =
            scalings.map(|scaling| ModelConfig { positions: turned(scaling), ..start.clone() }).to_vec();
        all.extend([None, Some(8)].map(|window| ModelConfig { family: Family::Mistral, window, ..start.clone() }));
        let qwen2 = ModelConfig { family: Family::Qwen2, qkv_bias: true, ..start.clone() };
        all.extend([None, Some(8)].map(|window| ModelConfig { window, ..qwen2.clone() }));
        for config in all {
            let config = ModelConfig { original: Map::new(), ..config };
            let read = ModelConfig::parse(Path::new("config.json"), config.to_json()).unwrap();
            assert_eq!(ModelConfig { original: Map::new(), ..read }, config);
        }
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
            (("colour", json!("blue")), "colour = \"blue\": pairwise does not know what it does; take it out"),
            (("rope_interleaved", json!(true)), "rope_interleaved = true is not supported"),
            (("partial_rotary_factor", json!(0.5)), "partial_rotary_factor = 0.5 is not supported"),
            (("pruned_heads", json!({"0": [1]})), "pruned_heads = {\"0\":[1]} is not supported"),
            (("quantization_config", json!({"quant_method": "gptq"})), "weights that are stored as gptq stores them"),
            (
                ("max_position_embeddings", json!(1 << 25)),
                "max_position_embeddings = 33554432: must be at most 16777216",
            ),
            (
                ("rope_scaling", json!({"type": "linear", "factor": 2.0, "low": 1})),
                "rope_scaling.low = 1: pairwise does",
            ),
            (
                ("rope_scaling", json!({"type": "llama3", "factor": 2.0})),
                "field 'low_freq_factor' of the rotary scaling",
            ),
            (("rope_scaling", json!("yarn")), "rope_scaling = \"yarn\": must be an object"),
        ];
        for ((name, value), expected) in cases {
            let mut config = llama();
            config[name] = value;
            let error = ModelConfig::parse(Path::new("dir/config.json"), config).expect_err(expected).to_string();
            assert!(error.starts_with("dir/config.json: ") && error.contains(expected), "{error}");
        }
        let mut config = llama();
        config["colour"] = json!(null);
        config["unsloth_version"] = json!("2025.1");
        let parsed = ModelConfig::parse(Path::new("config.json"), config.clone()).expect("null says nothing");
        assert_eq!(parsed.to_json(), config, "what is read stays when it is written");
    }

    fn read(changes: &Value) -> ModelConfig {
        let mut config = llama();
        for (name, value) in changes.as_object().unwrap() {
            config[name] = value.clone();
        }
        ModelConfig::parse(Path::new("config.json"), config).unwrap_or_else(|error| panic!("{error}"))
    }

    fn rotary(changes: &Value) -> (f64, RopeScaling, usize) {
        let config = read(changes);
        let Positions::Rotary { theta, scaling } = config.positions else { panic!("Llama's are") };
        (theta, scaling, config.context)
    }

    /// Which of several spellings counts: transformers 5.24's `convert_rope_params_to_dict`, `standardize_rope_params`
    /// and `_compute_yarn_parameters`. Expected values of YaRN by its ROPE_INIT_FUNCTIONS.
    #[test]
    fn rotary_fields_are_read_as_by_transformers() {
        let yarn = |factor, original, attention| RopeScaling::Yarn {
            factor,
            fast: 32.0,
            slow: 1.0,
            original,
            attention,
            truncate: true,
        };
        let attention = 1.138_629_436_111_989;
        let factor = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64});
        // The file has the old number, as Qwen2.5's model card says, or the new one.
        for context in [64, 256] {
            let changes = json!({"max_position_embeddings": context, "rope_scaling": factor});
            assert_eq!(rotary(&changes), (10_000.0, yarn(4.0, 64.0, attention), 256));
        }
        // Without a factor it is by how much the context has grown.
        let grown = json!({"rope_type": "yarn", "factor": null, "original_max_position_embeddings": 64});
        let changes = json!({"max_position_embeddings": 256, "rope_scaling": grown});
        assert_eq!(rotary(&changes), (10_000.0, yarn(4.0, 64.0, attention), 256));
        let changes = json!({"max_position_embeddings": 256, "rope_parameters": factor, "rope_scaling": null});
        assert_eq!(rotary(&changes).1, yarn(4.0, 64.0, attention));
        // Outside of the parameters it comes first; the older spelling comes before the newer; θ inside before outside.
        let changes = json!({"original_max_position_embeddings": 32, "rope_scaling": factor, "rope_theta": 5.0});
        assert_eq!(rotary(&changes), (5.0, yarn(4.0, 32.0, attention), 128));
        let both = json!({"rope_type": "linear", "factor": 2.0, "rope_theta": 7.0});
        let changes = json!({"rope_scaling": both, "rope_parameters": {"rope_type": "default", "rope_theta": 9.0}});
        assert_eq!(rotary(&changes), (7.0, RopeScaling::Linear { factor: 2.0 }, 64));
    }

    /// The fields of files that are in use, and of all that transformers 5.24 writes; sizes made small.
    #[test]
    fn files_in_use_are_read() {
        let smollm = json!({
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "attention_bias": false,
            "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 18,
            "initializer_range": 0.0416, "intermediate_size": 24, "is_llama_config": true,
            "max_position_embeddings": 8192, "mlp_bias": false, "num_attention_heads": 9, "num_hidden_layers": 2,
            "num_key_value_heads": 3, "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-5,
            "rope_interleaved": false, "rope_scaling": null, "rope_theta": 100_000, "tie_word_embeddings": true,
            "torch_dtype": "bfloat16", "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
            "transformers_version": "4.42.3", "use_cache": true, "vocab_size": 40,
        });
        let distilled = json!({
            "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0,
            "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 16, "initializer_range": 0.02,
            "intermediate_size": 24, "max_position_embeddings": 131_072, "max_window_layers": 21,
            "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
            "rope_theta": 10_000, "sliding_window": 4096, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
            "transformers_version": "4.44.0", "use_cache": true, "use_mrope": false, "use_sliding_window": false,
            "vocab_size": 40,
        });
        let mistral = json!({
            "model_type": "mistral", "architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
            "hidden_act": "silu", "hidden_size": 16, "initializer_range": 0.02, "intermediate_size": 24,
            "max_position_embeddings": 32768, "num_attention_heads": 4, "num_hidden_layers": 2,
            "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": 4096,
            "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.34.0.dev0",
            "use_cache": true, "vocab_size": 40, "_name_or_path": "a/b", "head_dim": null,
        });
        let distilgpt2 = json!({
            "model_type": "gpt2", "_num_labels": 1, "activation_function": "gelu_new",
            "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "bos_token_id": 0, "embd_pdrop": 0.1,
            "eos_token_id": 0, "id2label": {"0": "LABEL_0"}, "initializer_range": 0.02, "label2id": {"LABEL_0": 0},
            "layer_norm_epsilon": 1e-5, "n_ctx": 64, "n_embd": 16, "n_head": 2, "n_layer": 2, "n_positions": 64,
            "resid_pdrop": 0.1, "summary_activation": null, "summary_first_dropout": 0.1,
            "summary_proj_to_labels": true, "summary_type": "cls_index", "summary_use_proj": true,
            "task_specific_params": {"text-generation": {"do_sample": true, "max_length": 50}}, "vocab_size": 40,
        });
        // What PretrainedConfig.to_dict() has beside a family's own fields, transformers 4.
        let whole = r#"{
            "return_dict": true, "output_hidden_states": false, "output_attentions": false, "torchscript": false,
            "use_bfloat16": false, "tf_legacy_loss": false, "pruned_heads": {}, "chunk_size_feed_forward": 0,
            "is_encoder_decoder": false, "is_decoder": false, "cross_attention_hidden_size": null,
            "add_cross_attention": false, "tie_encoder_decoder": false, "max_length": 20, "min_length": 0,
            "do_sample": false, "early_stopping": false, "num_beams": 1, "num_beam_groups": 1,
            "diversity_penalty": 0.0, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "typical_p": 1.0,
            "repetition_penalty": 1.0, "length_penalty": 1.0, "no_repeat_ngram_size": 0,
            "encoder_no_repeat_ngram_size": 0, "bad_words_ids": null, "num_return_sequences": 1,
            "output_scores": false, "return_dict_in_generate": false, "forced_bos_token_id": null,
            "remove_invalid_values": false, "finetuning_task": null, "tokenizer_class": "X", "prefix": null,
            "sep_token_id": null, "decoder_start_token_id": null, "task_specific_params": null,
            "problem_type": null, "_attn_implementation_autoset": true, "_commit_hash": "0"
        }"#;
        let whole: Value = serde_json::from_str(whole).unwrap();
        for config in [smollm, distilled, mistral, distilgpt2] {
            for more in [json!({}), whole.clone()] {
                let mut config = config.clone();
                config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
                let read = ModelConfig::parse(Path::new("config.json"), config.clone());
                let read = read.unwrap_or_else(|error| panic!("{error}"));
                config["torch_dtype"] = json!("float32");
                assert_eq!(read.to_json(), config);
            }
        }
    }

    #[test]
    fn a_file_keeps_what_is_not_changed() {
        let changes = json!({
            "dtype": "bfloat16", "torch_dtype": null, "pad_token_id": null, "tie_word_embeddings": true,
            "id2label": {"0": "GOOD"}, "label2id": {"GOOD": 0}, "temperature": 0.5,
        });
        let mut config = read(&changes);
        config.output = Output::Scores(1);
        config.pad = Some(3);
        let written = config.to_json();
        for (name, expected) in [
            ("dtype", json!("float32")),
            ("pad_token_id", json!(3)),
            ("id2label", json!({"0": "GOOD"})),
            ("temperature", json!(0.5)),
            ("num_labels", json!(1)),
            ("architectures", json!(["LlamaForSequenceClassification"])),
        ] {
            assert_eq!(written[name], expected, "{name}");
        }
        config.output = Output::Tokens;
        config.tied = false;
        assert_eq!(config.to_json()["tie_word_embeddings"], json!(false));
    }

    #[test]
    fn windows_are_those_of_transformers() {
        let qwen2 = |changes: Value| {
            let mut all = json!({"model_type": "qwen2", "attention_bias": null, "mlp_bias": null});
            all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            let mut config = llama();
            for (name, value) in all.as_object().unwrap() {
                config[name] = value.clone();
            }
            ModelConfig::parse(Path::new("config.json"), config).map(|config| config.window).map_err(|e| e.to_string())
        };
        let use_it =
            |layers: Value| json!({"use_sliding_window": true, "sliding_window": 8, "max_window_layers": layers});
        assert_eq!(qwen2(json!({"sliding_window": 8, "max_window_layers": 0})), Ok(None));
        assert_eq!(qwen2(use_it(json!(0))), Ok(Some(8)), "every layer has it");
        assert_eq!(qwen2(use_it(json!(2))), Ok(None), "no layer has it");
        assert!(qwen2(use_it(json!(1))).unwrap_err().contains("max_window_layers = 1 with use_sliding_window"));
        assert_eq!(qwen2(json!({"use_sliding_window": true, "max_window_layers": 0})), Ok(Some(4096)));
        assert_eq!(
            qwen2(json!({"use_sliding_window": true, "sliding_window": null, "max_window_layers": 0})),
            Ok(None)
        );
        let mut listed = use_it(json!(28));
        listed["layer_types"] = json!(["sliding_attention", "sliding_attention"]);
        assert_eq!(qwen2(listed.clone()), Ok(Some(8)), "what is said for each layer counts");
        listed["layer_types"] = json!(["full_attention", "full_attention"]);
        assert_eq!(qwen2(listed.clone()), Ok(None));
        listed["layer_types"] = json!(["full_attention", "sliding_attention"]);
        assert!(qwen2(listed).unwrap_err().contains("layer_types = "));
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
