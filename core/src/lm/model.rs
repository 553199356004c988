//! A decoder-only transformer: Llama, Mistral, Qwen2 and GPT-2 in one.
//!
//! Parameters are plain tensors in one list; the [`Layout`] says which is which.

use std::str::FromStr;
use std::sync::Arc;

use burn::tensor::{Device, FloatDType, Gradients, Tensor};
use serde::{Deserialize, Serialize};

use super::batch::{Batch, Targets};
use super::config::{Family, ModelConfig, Output};
use super::layout::{BlockLayout, Layout, LinearAt, NormAt};
use super::lora::Adapters;
use crate::nn::fused::decoder::{
    AttentionLayout, attention, gated_silu, gelu_tanh, linear, norm, rows, token_log_probs,
};
use crate::random::Rng;

/// A model and its parameters.
#[derive(Debug, Clone)]
pub struct Decoder {
    /// Its architecture and sizes.
    pub config: ModelConfig,
    /// Which parameter is which.
    pub layout: Arc<Layout>,
    /// In the order of `layout.tensors`, each of its shape.
    pub parameters: Vec<Tensor<2>>,
    /// Low-rank updates. A model that has some trains only them, and a score head.
    pub adapters: Option<Adapters>,
    /// Precision in which products are computed.
    pub precision: Precision,
}

/// Precision in which matrix products, and what lies between them, are computed. Parameters, the residual stream,
/// normalisation, softmax, log-probabilities and the optimiser are always in f32, so that small updates are not lost
/// (mixed precision, Micikevicius et al. 2018, arXiv 1710.03740).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits with the exponent of 32 (bfloat16). GPUs multiply it fastest; the CPU has no fast path for it.
    Bf16,
}

/// A precision that there is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown precision '{0}': use f32 or bf16")]
pub struct UnknownPrecision(String);

impl Decoder {
    /// A model with fresh weights.
    #[must_use]
    pub fn new(config: ModelConfig, seed: u64, device: &Device) -> Self {
        let layout = Arc::new(Layout::new(&config));
        let parameters = layout.tensors.iter().enumerate().map(|(i, spec)| spec.fresh(seed, i, device)).collect();
        Self { config, layout, parameters, adapters: None, precision: Precision::default() }
    }

    /// The device that the parameters are on, without autodiff.
    #[must_use]
    pub fn device(&self) -> Device {
        self.parameters[0].device().without_autodiff()
    }

    /// The last hidden states, normalised.
    ///
    /// With `dropout`, adapters' inputs are dropped as configured.
    ///
    /// # Shapes
    /// - returns `[batch.ids.len(), hidden]`
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
    /// - returns `[batch.ids.len(), hidden]`
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
        // Only the residual stream stays in f32 all the way.
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

    /// Which rows attend to which.
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

    /// Log-probability of every target, nats. Beside it, without gradients: the entropy of the distribution there,
    /// nats, and 1 where the target is the likeliest token, else 0.
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

    /// Names of the parameters that are trained: adapters and a score head, or all.
    #[must_use]
    pub fn trained_names(&self) -> Vec<String> {
        let of_layout = |&i: &usize| self.layout.tensors[i].name.clone();
        let adapters = self.adapters.iter().flat_map(Adapters::names);
        adapters.chain(self.trained_indices().iter().map(of_layout)).collect()
    }

    /// The parameters that are trained, in the order of [`Decoder::trained_names`].
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

    /// The same model, whose trained parameters require gradients.
    #[must_use]
    pub fn tracked(&self) -> Self {
        let mut tracked = self.clone();
        for tensor in tracked.trained_mut() {
            *tensor = tensor.clone().autodiff().require_grad();
        }
        tracked
    }

    /// The gradients of the trained parameters, in their order; `None` for one that nothing depended on.
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
    type Err = UnknownPrecision;

    fn from_str(text: &str) -> Result<Self, UnknownPrecision> {
        match text {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            _ => Err(UnknownPrecision(text.to_owned())),
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
