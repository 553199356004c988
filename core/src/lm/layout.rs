//! What a model's parameters are: which tensors there are, what each of them is for, and which tensors of a Hugging
//! Face checkpoint it consists of.
//!
//! Linear layers that read the same input are one: queries, keys and values; gate and up.

use std::ops::Range;

use burn::tensor::{Device, Tensor};
use rand_distr::{Distribution as _, Normal};

use super::config::{Family, ModelConfig, Output, Positions};
use crate::nn::constant;
use crate::random::stream;

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

impl ModelConfig {
    /// How many parameters the model has; a tied output layer is counted once. The product of any sizes that a file may
    /// have is still a number.
    #[must_use]
    pub fn parameters(&self) -> usize {
        let of_layers = |layers: usize| {
            let all = Layout::new(&Self { layers, ..self.clone() }).tensors;
            let size = |shape: [usize; 2]| shape[0].saturating_mul(shape[1]);
            all.iter().map(|tensor| size(tensor.shape)).fold(0, usize::saturating_add)
        };
        let (one, two) = (of_layers(1), of_layers(2));
        one.saturating_add((two - one).saturating_mul(self.layers - 1))
    }
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

        let embedding = tensors.matrix(&name("embed_tokens", "wte"), config.vocabulary, hidden, plain);
        let positions = match config.positions {
            Positions::Learned => Some(tensors.matrix(&name("", "wpe"), config.context, hidden, plain)),
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
            Output::Tokens => tensors.matrix("lm_head", config.vocabulary, hidden, plain),
            Output::Scores(count) => tensors.matrix("score", count, hidden, plain),
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

    fn matrix(&mut self, module: &str, rows: usize, columns: usize, init: Init) -> usize {
        let name = format!("{module}.weight");
        let pieces = vec![Piece { name: name.clone(), rows: 0..rows, transposed: false, vector: false }];
        self.add(TensorSpec { name, shape: [rows, columns], pieces, init })
    }

    fn norm(&mut self, module: &str, width: usize) -> NormAt {
        let gpt2 = self.gpt2;
        let mut vector = |part: &str, init: Init| {
            let name = format!("{module}.{part}");
            let pieces = vec![Piece { name: name.clone(), rows: 0..width, transposed: false, vector: true }];
            self.add(TensorSpec { name, shape: [1, width], pieces, init })
        };
        NormAt { weight: vector("weight", Init::Ones), bias: gpt2.then(|| vector("bias", Init::Zeros)) }
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

#[cfg(test)]
mod tests {
    use super::Layout;
    use crate::lm::config::{ModelConfig, SmallLlama};

    #[test]
    fn sizes_without_bounds_are_counted_without_memory() {
        let size = SmallLlama { vocabulary: 40, hidden: 32, layers: 3, heads: 4, context: 64 };
        let config = ModelConfig::small_llama(size);
        let all = Layout::new(&config).tensors;
        assert_eq!(config.parameters(), all.iter().map(|tensor| tensor.shape[0] * tensor.shape[1]).sum::<usize>());
        let huge = 1 << 30;
        let large = ModelConfig { layers: huge, vocabulary: huge, hidden: huge, ..config };
        assert!(large.parameters() > 1 << 60);
    }
}
