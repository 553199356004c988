//! A decoder-only transformer: Llama, Mistral, Qwen2 and GPT-2 in one.
//!
//! Parameters are plain tensors in one list; the [`Layout`] says which is which, and which tensors of a Hugging Face
//! checkpoint they are made of. Linear layers that read the same input are one: queries, keys and values, gate and up.

use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use burn::tensor::{Device, FloatDType, Gradients, Tensor};
use rand_distr::{Distribution as _, Normal};
use serde::{Deserialize, Serialize};

use super::batch::{Batch, Targets};
use super::config::{Family, ModelConfig, Output, Positions};
use super::lora::Adapters;
use crate::nn::constant;
use crate::nn::fused::decoder::{
    AttentionLayout, attention, gated_silu, gelu_tanh, linear, norm, rows, token_log_probs,
};
use crate::random::{Rng, stream};

/// A model and its parameters.
#[derive(Debug, Clone)]
pub struct Decoder {
    /// Sizes.
    pub config: ModelConfig,
    /// Which parameter is which.
    pub layout: Arc<Layout>,
    /// In the order of `layout.tensors`, each of its shape.
    pub parameters: Vec<Tensor<2>>,
    /// Low-rank updates; where there are some, only they (and a score head) are trained.
    pub adapters: Option<Adapters>,
    /// What products are computed in.
    pub precision: Precision,
}

/// What matrix products and what lies between them are computed in. Parameters, the residual stream, normalisation,
/// softmax, log-probabilities and the optimiser are always in f32, so that small updates are not lost (mixed precision,
/// Micikevicius et al. 2018, arXiv 1710.03740).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits with the exponent of 32 (bfloat16): what GPUs multiply fastest. The CPU has no fast path for it.
    Bf16,
}

/// Which parameter is which.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// All parameters.
    pub tensors: Vec<TensorSpec>,
    /// `[vocabulary, hidden]`
    pub embedding: usize,
    /// `[context, hidden]`, learned positions.
    pub positions: Option<usize>,
    /// One for each layer.
    pub blocks: Vec<BlockLayout>,
    /// After the last block.
    pub final_norm: NormAt,
    /// `[vocabulary, hidden]`, which may be the embedding, or `[scores, hidden]`.
    pub head: usize,
}

/// One parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorSpec {
    /// Its name here.
    pub name: String,
    /// Its shape; a vector is one row.
    pub shape: [usize; 2],
    /// The checkpoint's tensors that it consists of, first row first.
    pub pieces: Vec<Piece>,
    /// Fresh values.
    pub init: Init,
}

/// A tensor of a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// Its name there.
    pub name: String,
    /// The rows that it fills here; all columns of a vector.
    pub rows: Range<usize>,
    /// There it is `[in, out]`, as in GPT-2.
    pub transposed: bool,
    /// There it has one dimension.
    pub vector: bool,
}

impl Piece {
    /// The tensor's shape in the checkpoint, in a parameter of so many columns.
    #[must_use]
    pub fn shape(&self, columns: usize) -> Vec<usize> {
        let rows = self.rows.len();
        match (self.vector, self.transposed) {
            (true, _) => vec![rows],
            (false, true) => vec![columns, rows],
            (false, false) => vec![rows, columns],
        }
    }
}

/// How a parameter begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// All zero.
    Zeros,
    /// All one.
    Ones,
    /// Gaussian with this standard deviation.
    Normal(f64),
}

/// Parameters of a block.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockLayout {
    /// Before attention.
    pub attention_norm: NormAt,
    /// To queries, keys and values: `[heads.joint(), hidden]`.
    pub qkv: LinearAt,
    /// From the heads back: `[hidden, heads.query_columns()]`.
    pub output: LinearAt,
    /// Before the feed-forward layer.
    pub mlp_norm: NormAt,
    /// `[intermediate, hidden]`, or with a gate before it `[2 · intermediate, hidden]`.
    pub up: LinearAt,
    /// `[hidden, intermediate]`
    pub down: LinearAt,
}

/// Indices of a normalisation's parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NormAt {
    /// `[1, hidden]`
    pub weight: usize,
    /// `[1, hidden]`
    pub bias: Option<usize>,
}

/// Indices of a linear layer's parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinearAt {
    /// `[out, in]`
    pub weight: usize,
    /// `[1, out]`
    pub bias: Option<usize>,
}

impl Layout {
    /// The parameters of a model.
    #[must_use]
    pub fn new(config: &ModelConfig) -> Self {
        let mut tensors = Tensors { list: Vec::new(), gpt2: config.family == Family::Gpt2 };
        let gpt2 = tensors.gpt2;
        let (hidden, heads) = (config.hidden, config.heads);
        let plain = Init::Normal(config.initializer_range);
        // GPT-2 (Radford et al. 2019, 2.3): what is added to the residual stream begins smaller with more layers.
        let residual = Init::Normal(config.initializer_range / (2.0 * config.layers as f64).sqrt());
        let root = if gpt2 { "transformer." } else { "model." };
        let name = |llama: &str, of_gpt2: &str| format!("{root}{}", if gpt2 { of_gpt2 } else { llama });

        let embedding = tensors.matrix(&name("embed_tokens", "wte"), config.vocabulary, hidden, false, plain);
        let positions = match config.positions {
            Positions::Learned => Some(tensors.matrix(&name("", "wpe"), config.context, hidden, false, plain)),
            Positions::Rotary { .. } => None,
        };
        let block = |i: usize| {
            let at = |llama: &str, of_gpt2: &str| name(&format!("layers.{i}.{llama}"), &format!("h.{i}.{of_gpt2}"));
            let attention_norm = tensors.norm(&at("input_layernorm", "ln_1"), hidden);
            let qkv = match gpt2 {
                true => tensors.linear(&[(at("", "attn.c_attn"), heads.joint())], hidden, config.qkv_bias, plain),
                false => {
                    let parts = [("q", heads.query_columns()), ("k", heads.key_columns()), ("v", heads.key_columns())];
                    let parts = parts.map(|(part, rows)| (at(&format!("self_attn.{part}_proj"), ""), rows));
                    tensors.linear(&parts, hidden, config.qkv_bias, plain)
                }
            };
            let output = [(at("self_attn.o_proj", "attn.c_proj"), hidden)];
            let output = tensors.linear(&output, heads.query_columns(), config.output_bias, residual);
            let mlp_norm = tensors.norm(&at("post_attention_layernorm", "ln_2"), hidden);
            let up: &[(String, usize)] = match gpt2 {
                true => &[(at("", "mlp.c_fc"), config.intermediate)],
                false => &["gate", "up"].map(|part| (at(&format!("mlp.{part}_proj"), ""), config.intermediate)),
            };
            let up = tensors.linear(up, hidden, config.mlp_bias, plain);
            let down = [(at("mlp.down_proj", "mlp.c_proj"), hidden)];
            let down = tensors.linear(&down, config.intermediate, config.mlp_bias, residual);
            BlockLayout { attention_norm, qkv, output, mlp_norm, up, down }
        };
        let blocks = (0..config.layers).map(block).collect();
        let final_norm = tensors.norm(&name("norm", "ln_f"), hidden);
        let head = match config.output {
            Output::Tokens if config.tied => embedding,
            Output::Tokens => tensors.matrix("lm_head", config.vocabulary, hidden, false, plain),
            Output::Scores(count) => tensors.matrix("score", count, hidden, false, plain),
        };
        Self { tensors: tensors.list, embedding, positions, blocks, final_norm, head }
    }

    /// The linear layers of all blocks, which adapters can be put on.
    pub fn linears(&self) -> impl Iterator<Item = LinearAt> + '_ {
        self.blocks.iter().flat_map(|block| [block.qkv, block.output, block.up, block.down])
    }
}

/// A list that grows.
struct Tensors {
    list: Vec<TensorSpec>,
    gpt2: bool,
}

impl Tensors {
    fn add(&mut self, spec: TensorSpec) -> usize {
        self.list.push(spec);
        self.list.len() - 1
    }

    fn matrix(&mut self, module: &str, rows: usize, columns: usize, transposed: bool, init: Init) -> usize {
        let name = format!("{module}.weight");
        let pieces = vec![Piece { name: name.clone(), rows: 0..rows, transposed, vector: false }];
        self.add(TensorSpec { name, shape: [rows, columns], pieces, init })
    }

    fn norm(&mut self, module: &str, width: usize) -> NormAt {
        let mut vector = |part: &str, init: Init| {
            let name = format!("{module}.{part}");
            let pieces = vec![Piece { name: name.clone(), rows: 0..width, transposed: false, vector: true }];
            self.add(TensorSpec { name, shape: [1, width], pieces, init })
        };
        let weight = vector("weight", Init::Ones);
        NormAt {
            weight,
            bias: self.gpt2.then(|| {
                let name = format!("{module}.bias");
                let pieces = vec![Piece { name: name.clone(), rows: 0..width, transposed: false, vector: true }];
                self.add(TensorSpec { name, shape: [1, width], pieces, init: Init::Zeros })
            }),
        }
    }

    /// A linear layer made of the checkpoint's modules, each with its number of outputs.
    fn linear(&mut self, modules: &[(String, usize)], inputs: usize, bias: bool, init: Init) -> LinearAt {
        let outputs = modules.iter().map(|(_, rows)| rows).sum();
        let pieces = |part: &str, transposed: bool, vector: bool| {
            let mut end = 0;
            let piece = |(module, rows): &(String, usize)| {
                end += rows;
                Piece { name: format!("{module}.{part}"), rows: end - rows..end, transposed, vector }
            };
            modules.iter().map(piece).collect::<Vec<_>>()
        };
        let joined = |part: &str| {
            let names: Vec<&str> = modules.iter().map(|(module, _)| module.as_str()).collect();
            format!("{}.{part}", names.join("+"))
        };
        let transposed = self.gpt2;
        let weight = TensorSpec {
            name: joined("weight"),
            shape: [outputs, inputs],
            pieces: pieces("weight", transposed, false),
            init,
        };
        let weight = self.add(weight);
        let bias = bias.then(|| {
            let pieces = pieces("bias", false, true);
            self.add(TensorSpec { name: joined("bias"), shape: [1, outputs], pieces, init: Init::Zeros })
        });
        LinearAt { weight, bias }
    }
}

impl Decoder {
    /// A model with fresh weights.
    #[must_use]
    pub fn new(config: ModelConfig, seed: u64, device: &Device) -> Self {
        let layout = Arc::new(Layout::new(&config));
        let parameters = layout.tensors.iter().enumerate().map(|(i, spec)| spec.fresh(seed, i, device)).collect();
        Self { config, layout, parameters, adapters: None, precision: Precision::default() }
    }

    /// Where the parameters are, without autodiff.
    #[must_use]
    pub fn device(&self) -> Device {
        self.parameters[0].device().without_autodiff()
    }

    /// The last hidden states, normalised.
    ///
    /// With `dropout`, adapters' inputs are dropped as configured.
    ///
    /// # Shapes
    /// - returns `[batch.len(), hidden]`
    #[must_use]
    pub fn hidden(&self, batch: &Batch, mut dropout: Option<&mut Rng>) -> Tensor<2> {
        let attention = self.attention_layout(batch);
        let mut x = self.embed(batch);
        for block in &self.layout.blocks {
            x = self.block(block, x, &attention, dropout.as_deref_mut());
        }
        self.normalise_last(x)
    }

    /// The last block's output, normalised.
    ///
    /// # Shapes
    /// - `x`, and what is returned: `[rows, hidden]`
    #[must_use]
    pub fn normalise_last(&self, x: Tensor<2>) -> Tensor<2> {
        self.normalise(self.layout.final_norm, x)
    }

    /// Tokens' vectors, with learned positions.
    ///
    /// # Shapes
    /// - returns `[batch.len(), hidden]`
    #[must_use]
    pub fn embed(&self, batch: &Batch) -> Tensor<2> {
        let tokens = rows(self.parameters[self.layout.embedding].clone(), Arc::new(batch.ids.clone()));
        match self.layout.positions {
            None => tokens,
            Some(positions) => tokens + rows(self.parameters[positions].clone(), Arc::new(batch.places.clone())),
        }
    }

    /// One block.
    ///
    /// # Shapes
    /// - `x`, and what is returned: `[rows, hidden]`
    #[must_use]
    pub fn block(
        &self,
        block: &BlockLayout,
        x: Tensor<2>,
        layout: &Arc<AttentionLayout>,
        mut dropout: Option<&mut Rng>,
    ) -> Tensor<2> {
        // Only the residual stream is in f32 all along.
        let short = |x: Tensor<2>| x.cast(self.precision.kind());
        let long = |x: Tensor<2>| x.cast(FloatDType::F32);
        let normalised = short(self.normalise(block.attention_norm, x.clone()));
        let qkv = self.linear(block.qkv, &normalised, dropout.as_deref_mut());
        let x = x + long(self.linear(block.output, &attention(qkv, layout), dropout.as_deref_mut()));
        let normalised = short(self.normalise(block.mlp_norm, x.clone()));
        let up = self.linear(block.up, &normalised, dropout.as_deref_mut());
        let activated = match self.config.family {
            Family::Gpt2 => gelu_tanh(up),
            _ => gated_silu(up),
        };
        x + long(self.linear(block.down, &activated, dropout))
    }

    /// Who attends to whom.
    #[must_use]
    pub fn attention_layout(&self, batch: &Batch) -> Arc<AttentionLayout> {
        let heads = self.config.heads;
        Arc::new(AttentionLayout {
            sequences: batch.sequences.clone(),
            heads,
            scale: 1.0 / (heads.width as f32).sqrt(),
            window: self.config.window,
            rotation: self.config.rotation(&batch.places),
        })
    }

    /// Log-probability of every target, nats; and, without gradients, the entropy of its distribution, nats, and 1 where
    /// it is the likeliest token, else 0.
    ///
    /// `temperature` divides the logits.
    ///
    /// # Shapes
    /// - `hidden`: `[rows, hidden]`
    /// - returns `[targets.ids.len()]` and `[2, targets.ids.len()]`
    #[must_use]
    pub fn log_probs(&self, hidden: Tensor<2>, targets: &Targets, temperature: f64) -> (Tensor<1>, Tensor<2>) {
        assert_eq!(self.config.output, Output::Tokens, "a model that scores does not write");
        let mut predicting = rows(hidden, Arc::new(targets.rows.clone()));
        if temperature != 1.0 {
            predicting = predicting / temperature;
        }
        let predicting = predicting.cast(self.precision.kind());
        token_log_probs(predicting, self.parameters[self.layout.head].clone(), Arc::new(targets.ids.clone()))
    }

    /// The score head's outputs at some rows.
    ///
    /// # Shapes
    /// - `hidden`: `[rows, hidden]`
    /// - returns `[at.len(), scores]`
    #[must_use]
    pub fn scores(&self, hidden: Tensor<2>, at: Vec<u32>) -> Tensor<2> {
        assert!(matches!(self.config.output, Output::Scores(_)), "a model that writes does not score");
        linear(rows(hidden, Arc::new(at)), self.parameters[self.layout.head].clone(), None)
    }

    /// Names of what is trained: adapters and a score head, or everything.
    #[must_use]
    pub fn trained_names(&self) -> Vec<String> {
        let of_layout = |&i: &usize| self.layout.tensors[i].name.clone();
        let adapters = self.adapters.iter().flat_map(Adapters::names);
        adapters.chain(self.trained_indices().iter().map(of_layout)).collect()
    }

    /// What is trained, in the order of the names.
    pub fn trained_mut(&mut self) -> Vec<&mut Tensor<2>> {
        let indices = self.trained_indices();
        let adapters = self.adapters.iter_mut().flat_map(|adapters| adapters.parameters.iter_mut());
        let own = self.parameters.iter_mut().enumerate().filter(|(i, _)| indices.binary_search(i).is_ok());
        adapters.chain(own.map(|(_, tensor)| tensor)).collect()
    }

    /// Which of the model's own parameters are trained.
    fn trained_indices(&self) -> Vec<usize> {
        match (&self.adapters, self.config.output) {
            (None, _) => (0..self.parameters.len()).collect(),
            (Some(_), Output::Scores(_)) => vec![self.layout.head],
            (Some(_), Output::Tokens) => Vec::new(),
        }
    }

    /// The same model with a gradient to come for everything that is trained.
    #[must_use]
    pub fn tracked(&self) -> Self {
        let mut tracked = self.clone();
        for tensor in tracked.trained_mut() {
            *tensor = tensor.clone().autodiff().require_grad();
        }
        tracked
    }

    /// The gradients of what is trained, in the order of the names, where there are some.
    #[must_use]
    pub fn gradients(mut self, gradients: &mut Gradients) -> Vec<Option<Tensor<2>>> {
        self.trained_mut().into_iter().map(|tensor| tensor.grad_remove(gradients)).collect()
    }

    fn normalise(&self, at: NormAt, x: Tensor<2>) -> Tensor<2> {
        let parameter = |i: usize| self.parameters[i].clone();
        norm(x, parameter(at.weight), at.bias.map(parameter), self.config.norm())
    }

    fn linear(&self, at: LinearAt, x: &Tensor<2>, dropout: Option<&mut Rng>) -> Tensor<2> {
        let parameter = |i: usize| self.parameters[i].clone();
        let output = linear(x.clone(), parameter(at.weight), at.bias.map(parameter));
        match &self.adapters {
            None => output,
            Some(adapters) => adapters.add(at.weight, x, output, dropout),
        }
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            _ => Err(format!("unknown precision '{text}': use f32 or bf16")),
        }
    }
}

impl Precision {
    fn kind(self) -> FloatDType {
        match self {
            Self::F32 => FloatDType::F32,
            Self::Bf16 => FloatDType::BF16,
        }
    }
}

impl TensorSpec {
    /// Fresh values, the parameter being number `index` of a model made with `seed`.
    #[must_use]
    pub fn fresh(&self, seed: u64, index: usize, device: &Device) -> Tensor<2> {
        let count = self.shape[0] * self.shape[1];
        let values = match self.init {
            Init::Zeros => vec![0.0; count],
            Init::Ones => vec![1.0; count],
            Init::Normal(deviation) => {
                let normal = Normal::new(0.0, deviation).expect("a configuration's deviation is positive");
                let mut rng = stream(seed, "weights", index as u64);
                (0..count).map(|_| normal.sample(&mut rng) as f32).collect()
            }
        };
        constant(&values, self.shape, device)
    }
}
