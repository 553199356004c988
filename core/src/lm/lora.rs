//! Low-rank adaptation of linear layers (Hu et al. 2021, arXiv 2106.09685), in PEFT's files.

use std::ops::Range;

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use rand::RngExt as _;
use serde::{Deserialize, Serialize};

use super::layout::Layout;
use crate::nn::fused::decoder::linear;
use crate::nn::{constant, kaiming_uniform};
use crate::random::{Rng, stream};

/// Hyper-parameters of adapters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank of the updates.
    pub rank: usize,
    /// The update is multiplied with alpha / rank, or alpha / √rank (`rslora`).
    pub alpha: f64,
    /// Share of the inputs that is dropped in training.
    pub dropout: f64,
    /// Modules by the ends of their names, such as `q_proj`, or `all-linear`.
    pub targets: Vec<String>,
    /// Rank-stabilised scaling (Kalajdzievski 2023, arXiv 2312.03732).
    pub rslora: bool,
}

/// Low-rank updates of some linear layers: W + scale · B · A.
#[derive(Debug, Clone)]
pub struct Adapters {
    /// Hyper-parameters.
    pub config: LoraConfig,
    /// The modules that have an update.
    pub modules: Vec<AdapterModule>,
    /// For each module A `[rank, in]`, then B `[out, rank]`.
    pub parameters: Vec<Tensor<2>>,
    /// What was taken out of the base when they were read. It is taken out again whenever they are read.
    pub start: LoraStart,
}

/// What PEFT takes out of the base's weights each time that it reads an adapter, before it adds the updates
/// (`init_lora_weights`). The updates began as that part of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LoraStart {
    /// Nothing.
    #[default]
    Whole,
    /// The best approximation of the updates' rank (Meng et al. 2024, arXiv 2404.02948).
    Pissa,
    /// The product of the first columns of Q and rows of R, times the updates' scale (Büyükakyüz 2024, arXiv
    /// 2406.01775).
    Olora,
}

/// A module of the checkpoint with an update: a linear layer, or a part of one, where several are joined here.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterModule {
    /// Its name in the checkpoint, such as `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// Index of the weight among the model's parameters.
    pub weight: usize,
    /// Rows of that weight.
    pub rows: Range<usize>,
    /// Columns of that weight.
    pub inputs: usize,
    /// Rank of its update.
    pub rank: usize,
    /// As [`LoraConfig::alpha`].
    pub alpha: f64,
}

/// A target that no linear layer's name ends with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no linear layer is called '{target}': there are {known}, or all-linear for all of them")]
pub struct UnknownModule {
    target: String,
    known: String,
}

impl Default for LoraConfig {
    /// TRL's defaults, on all linear layers (Schulman et al. 2025, "LoRA without regret").
    fn default() -> Self {
        Self { rank: 16, alpha: 32.0, dropout: 0.05, targets: vec!["all-linear".to_owned()], rslora: false }
    }
}

impl LoraConfig {
    /// The factor of an update of this rank and alpha.
    #[must_use]
    pub fn scale(&self, rank: usize, alpha: f64) -> f64 {
        match self.rslora {
            false => alpha / rank as f64,
            true => alpha / (rank as f64).sqrt(),
        }
    }

    /// The modules of a model that the targets name, in the order of the layers.
    ///
    /// # Errors
    /// [`UnknownModule`]: a target that no module's name ends with.
    pub fn modules(&self, layout: &Layout) -> Result<Vec<AdapterModule>, UnknownModule> {
        let module = |weight: usize| {
            let spec = &layout.tensors[weight];
            spec.pieces.iter().map(move |piece| AdapterModule {
                name: piece.name.trim_end_matches(".weight").to_owned(),
                weight,
                rows: piece.rows.clone(),
                inputs: spec.shape[1],
                rank: self.rank,
                alpha: self.alpha,
            })
        };
        let all: Vec<AdapterModule> = layout.linears().flat_map(|at| module(at.weight)).collect();
        if self.targets.iter().any(|target| target == "all-linear") {
            return Ok(all);
        }
        let is = |name: &str, target: &str| name == target || name.ends_with(&format!(".{target}"));
        if let Some(target) = self.targets.iter().find(|target| !all.iter().any(|module| is(&module.name, target))) {
            let mut ends: Vec<&str> = all.iter().filter_map(|module| module.name.rsplit('.').next()).collect();
            ends.sort_unstable();
            ends.dedup();
            return Err(UnknownModule { target: target.clone(), known: ends.join(", ") });
        }
        Ok(all.into_iter().filter(|module| self.targets.iter().any(|target| is(&module.name, target))).collect())
    }
}

impl Adapters {
    /// Fresh adapters, which change nothing: A begins as PyTorch's linear layers do, B is zero.
    ///
    /// # Errors
    /// As [`LoraConfig::modules`].
    pub fn new(config: LoraConfig, layout: &Layout, seed: u64, device: &Device) -> Result<Self, UnknownModule> {
        let modules = config.modules(layout)?;
        let fresh = |(i, module): (usize, &AdapterModule)| {
            // PEFT's kaiming_uniform_(a=√5): uniform in ±1/√in.
            let mut rng = stream(seed, "adapter", i as u64);
            let a = kaiming_uniform(config.rank * module.inputs, module.inputs, &mut rng);
            let b = vec![0.0; module.rows.len() * config.rank];
            [constant(&a, [config.rank, module.inputs], device), constant(&b, [module.rows.len(), config.rank], device)]
        };
        let parameters = modules.iter().enumerate().flat_map(fresh).collect();
        Ok(Self { config, modules, parameters, start: LoraStart::Whole })
    }

    /// Names of the parameters, in their order, as PEFT spells them.
    pub fn names(&self) -> impl Iterator<Item = String> + '_ {
        let both = |module: &AdapterModule| ["A", "B"].map(|part| format!("{}.lora_{part}.weight", module.name));
        self.modules.iter().flat_map(both)
    }

    /// `output` with the updates of the modules on this weight.
    ///
    /// # Shapes
    /// - `input`: `[rows, in]`; `output`, and what is returned: `[rows, out]`
    #[must_use]
    pub fn add(&self, weight: usize, input: &Tensor<2>, output: Tensor<2>, mut dropout: Option<&mut Rng>) -> Tensor<2> {
        let width = output.dims()[1];
        let mut output = output;
        for (i, module) in self.modules.iter().enumerate().filter(|(_, module)| module.weight == weight) {
            let input = match dropout.as_deref_mut() {
                Some(rng) if self.config.dropout > 0.0 => dropped(input.clone(), self.config.dropout, rng),
                _ => input.clone(),
            };
            let down = linear(input, self.parameters[2 * i].clone(), None);
            let scale = self.config.scale(module.rank, module.alpha);
            let update = linear(down, self.parameters[2 * i + 1].clone(), None) * scale;
            let Range { start, end } = module.rows;
            if module.rows.len() == width {
                output = output + update;
                continue;
            }
            let mut parts = Vec::with_capacity(3);
            if start > 0 {
                parts.push(output.clone().narrow(1, 0, start));
            }
            parts.push(output.clone().narrow(1, start, end - start) + update);
            if end < width {
                parts.push(output.narrow(1, end, width - end));
            }
            output = Tensor::cat(parts, 1);
        }
        output
    }

    /// scale · B · A of module `i`, without gradients.
    ///
    /// # Shapes
    /// - returns `[module.rows.len(), module.inputs]`
    #[must_use]
    pub fn update(&self, i: usize) -> Tensor<2> {
        let part = |j: usize| self.parameters[j].clone().inner();
        let AdapterModule { rank, alpha, .. } = self.modules[i];
        part(2 * i + 1).matmul(part(2 * i)) * self.config.scale(rank, alpha)
    }
}

/// Inverted dropout: a value stays with probability 1 − share, and is then divided by that.
fn dropped(input: Tensor<2>, share: f64, rng: &mut Rng) -> Tensor<2> {
    let [rows, columns] = input.dims();
    let kept = (1.0 / (1.0 - share)) as f32;
    let mask: Vec<f32> = (0..rows * columns).map(|_| if rng.random::<f64>() < share { 0.0 } else { kept }).collect();
    let device = input.device().without_autodiff();
    let mask: Tensor<2> = Tensor::from_data(TensorData::new(mask, [rows, columns]), &device);
    let kind: FloatDType = input.dtype().into();
    input * mask.cast(kind)
}
