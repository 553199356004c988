//! PPO's loss on one minibatch, networks included: what it is, in plain tensor operations, and the same with its
//! gradient in one pass.

use std::ops::Range;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata as _};
use burn::tensor::{FloatDType, Shape, Slice};

use super::reference::mlp;
use super::scratch::Scratch;
use super::simd::{Kernel, Vector, exp};
use crate::nn::layout::Layout;

/// A policy and a value function whose parameters are one row: the policy's, the logarithm of its standard deviation,
/// the value function's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActorCritic {
    /// Observation → logits, or means.
    pub policy: Layout,
    /// Width of the log standard deviation of a diagonal Gaussian policy; 0 for a softmax.
    pub log_std: usize,
    /// Observation → value.
    pub value: Layout,
}

/// Numbers of the loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PpoLoss {
    /// Clipping range ε.
    pub clip: f32,
    /// Weight c₁ of the value loss.
    pub value_coefficient: f32,
    /// Weight c₂ of the entropy bonus.
    pub entropy_coefficient: f32,
    /// Standardise the minibatch's advantages.
    pub normalize_advantages: bool,
}

impl PpoLoss {
    /// Columns of a batch beside the action's.
    pub const EXTRA_COLUMNS: usize = 3;
    /// Metrics that come with the loss.
    pub const METRICS: usize = 5;
}

/// ½ ln 2π
pub const HALF_LN_2PI: f32 = 0.918_938_5;

impl ActorCritic {
    /// Number of parameters.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "networks without parameters do not occur")]
    pub fn len(&self) -> usize {
        self.policy.len() + self.log_std + self.value.len()
    }

    /// Where the policy's parameters are in the row.
    #[must_use]
    pub fn policy_range(&self) -> Range<usize> {
        0..self.policy.len()
    }

    /// Where the log standard deviation is.
    #[must_use]
    pub fn log_std_range(&self) -> Range<usize> {
        self.policy.len()..self.policy.len() + self.log_std
    }

    /// Where the value function's parameters are.
    #[must_use]
    pub fn value_range(&self) -> Range<usize> {
        self.policy.len() + self.log_std..self.len()
    }
}

/// The loss `[1]`, and as `[5]`: policy loss, value loss, entropy, k3 estimate of KL(old ‖ new), clipped share.
///
/// # Shapes
/// - as in [`super::ops::ppo_loss`]
pub(super) fn reference<B: Backend>(
    observations: FloatTensor<B>,
    parameters: &FloatTensor<B>,
    batch: &FloatTensor<B>,
    networks: &ActorCritic,
    loss: PpoLoss,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let times = |x: FloatTensor<B>, factor: f32| B::float_mul_scalar(x, factor.into());
    let plus = |x: FloatTensor<B>, term: f32| B::float_add_scalar(x, term.into());
    let square = |x: FloatTensor<B>| B::float_mul(x.clone(), x);
    let [rows, width] = batch.shape().dims();
    let k = width - PpoLoss::EXTRA_COLUMNS;

    // What policy and value function say of the observations.
    let part = |range: Range<usize>| B::float_slice(parameters.clone(), &[Slice::from(0..1), Slice::from(range)]);
    let inputs = Shape::from([1, rows, networks.policy.inputs()]);
    let observations = B::float_reshape(observations, inputs);
    let run = |range: Range<usize>, layout: &Layout| {
        let outputs = mlp::<B>(observations.clone(), &part(range), layout);
        B::float_reshape(outputs, Shape::from([rows, layout.outputs()]))
    };
    let outputs = run(networks.policy_range(), &networks.policy);
    let values = run(networks.value_range(), &networks.value);

    let columns = |range: Range<usize>| B::float_slice(batch.clone(), &[Slice::from(0..rows), Slice::from(range)]);
    let (actions, old_log_probs) = (columns(0..k), columns(k..k + 1));
    let (mut advantages, targets) = (columns(k + 1..k + 2), columns(k + 2..k + 3));
    if loss.normalize_advantages {
        advantages = B::float_sub(advantages.clone(), B::float_mean_dim(advantages, 0));
        let variance = times(B::float_sum_dim(square(advantages.clone()), 0), 1.0 / (rows as f32 - 1.0));
        advantages = B::float_div(advantages, plus(B::float_sqrt(variance), 1e-8));
    }

    // log π(a|s) and the policy's entropy.
    let (log_probs, entropy) = if networks.log_std > 0 {
        let log_std = part(networks.log_std_range());
        let noise = B::float_mul(B::float_sub(actions, outputs), B::float_exp(B::float_neg(log_std.clone())));
        let density = plus(B::float_sub(times(square(noise), -0.5), log_std.clone()), -HALF_LN_2PI);
        // H = Σ (ln σ + ½ ln 2πe)
        (B::float_sum_dim(density, 1), B::float_sum(plus(log_std, HALF_LN_2PI + 0.5)))
    } else {
        let log_softmax = B::log_softmax(outputs, 1);
        let terms = B::float_mul(B::float_exp(log_softmax.clone()), log_softmax.clone());
        let entropy = B::float_neg(B::float_mean(B::float_sum_dim(terms, 1)));
        (B::float_sum_dim(B::float_mul(log_softmax, actions), 1), entropy)
    };

    // Policy loss, eq. 7: the smaller of ratio·Â and clip(ratio)·Â, as x − max(0, x − y).
    let log_ratio = B::float_sub(log_probs, old_log_probs);
    let ratio = B::float_exp(log_ratio.clone());
    let clipped = B::float_clamp(ratio.clone(), (1.0 - loss.clip).into(), (1.0 + loss.clip).into());
    let plain = B::float_mul(ratio.clone(), advantages.clone());
    let surplus = B::relu(B::float_sub(plain.clone(), B::float_mul(clipped, advantages)));
    let policy_loss = B::float_neg(B::float_mean(B::float_sub(plain, surplus)));
    // Value loss.
    let value_loss = B::float_mean(square(B::float_sub(values, targets)));
    // Total loss, eq. 9, negated.
    let total = B::float_add(policy_loss.clone(), times(value_loss.clone(), loss.value_coefficient));
    let total = B::float_sub(total, times(entropy.clone(), loss.entropy_coefficient));

    let kl = B::float_mean(B::float_sub(plus(ratio.clone(), -1.0), log_ratio));
    let bool_dtype = burn::backend::BoolDType::Native;
    let outside = B::float_greater_elem(B::float_abs(plus(ratio, -1.0)), loss.clip.into(), bool_dtype);
    let outside = B::float_mean(B::bool_into_float(outside, FloatDType::F32));
    (total, B::float_cat(vec![policy_loss, value_loss, entropy, kl, outside], 0))
}

/// The loss of what policy and value function say, and its gradients with respect to that, on slices.
pub(super) struct PpoKernel<'a> {
    /// `[batch, k]`
    pub(super) outputs: &'a [f32],
    /// `[k]`, or empty for a softmax
    pub(super) log_std: &'a [f32],
    /// `[batch]`
    pub(super) values: &'a [f32],
    /// `[batch, k + 3]`
    pub(super) batch: &'a [f32],
    pub(super) loss: PpoLoss,
    /// `[batch, k]`, overwritten
    pub(super) outputs_gradient: &'a mut [f32],
    /// As `log_std`, added to
    pub(super) log_std_gradient: &'a mut [f32],
    /// `[batch]`, overwritten
    pub(super) values_gradient: &'a mut [f32],
}

/// The loss and its metrics.
#[derive(Debug, Clone, Copy)]
pub(super) struct PpoValue {
    /// The loss.
    pub(super) total: f32,
    /// As [`reference`] returns them.
    pub(super) metrics: [f32; PpoLoss::METRICS],
}

impl Kernel for PpoKernel<'_> {
    type Output = PpoValue;

    #[inline(always)]
    fn run<V: Vector, const ROWS: usize>(self) -> PpoValue {
        let Self {
            outputs,
            log_std,
            values,
            batch,
            loss,
            outputs_gradient: by_output,
            log_std_gradient,
            values_gradient,
        } = self;
        let (rows, k) = (values.len(), outputs.len() / values.len());
        let gaussian = !log_std.is_empty();
        let share = 1.0 / rows as f32;
        let width = k + PpoLoss::EXTRA_COLUMNS;
        let sample = |row: usize| &batch[row * width..(row + 1) * width];
        let (mean, inverse_deviation) = match loss.normalize_advantages {
            true => standardisation((0..rows).map(|row| sample(row)[k + 1])),
            false => (0.0, 1.0),
        };

        // Gaussian: ∂ log π(a|s) / ∂ outputs; softmax: probabilities. Both become ∂ loss / ∂ outputs further down.
        let (mut details, mut log_ratios, mut ratios) =
            (Scratch::new(rows * k), Scratch::new(rows), Scratch::new(rows));
        // Gaussian: noise; softmax: log-probabilities of all actions.
        let details = &mut details.0[..rows * k];
        let (log_ratios, ratios) = (&mut log_ratios.0[..rows], &mut ratios.0[..rows]);
        let mut entropy = 0.0;
        if gaussian {
            let inverse_std: Vec<f32> = log_std.iter().map(|l| (-l).exp()).collect();
            let constant: f32 = log_std.iter().map(|l| l + HALF_LN_2PI).sum();
            entropy = log_std.iter().map(|l| l + HALF_LN_2PI + 0.5).sum();
            for row in 0..rows {
                let mut squares = 0.0;
                let sample = sample(row);
                for j in 0..k {
                    let i = row * k + j;
                    let noise = (sample[j] - outputs[i]) * inverse_std[j];
                    squares += noise * noise;
                    details[i] = noise;
                    by_output[i] = noise * inverse_std[j];
                }
                log_ratios[row] = -0.5 * squares - constant - sample[k];
            }
        } else {
            for (shifted, logits) in details.chunks_mut(k).zip(outputs.chunks(k)) {
                let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                shifted.iter_mut().zip(logits).for_each(|(shifted, logit)| *shifted = logit - max);
            }
            by_output.copy_from_slice(details);
            map_exp::<V>(by_output);
            for row in 0..rows {
                let (probabilities, logs) = (&mut by_output[row * k..][..k], &mut details[row * k..][..k]);
                let total: f32 = probabilities.iter().sum();
                let log_total = total.ln();
                let (mut log_prob, mut row_entropy) = (0.0, 0.0);
                for j in 0..k {
                    probabilities[j] /= total;
                    logs[j] -= log_total;
                    row_entropy -= probabilities[j] * logs[j];
                    log_prob += sample(row)[j] * logs[j];
                }
                entropy += row_entropy * share;
                log_ratios[row] = log_prob - sample(row)[k];
            }
        }
        ratios.copy_from_slice(log_ratios);
        map_exp::<V>(ratios);

        let (mut surrogate, mut squares, mut kl, mut outside) = (0.0, 0.0, 0.0, 0.0);
        for row in 0..rows {
            let sample = sample(row);
            let advantage = (sample[k + 1] - mean) * inverse_deviation;
            let ratio = ratios[row];
            let plain = ratio * advantage;
            let clipped = ratio.clamp(1.0 - loss.clip, 1.0 + loss.clip) * advantage;
            surrogate += plain.min(clipped);
            kl += ratio - 1.0 - log_ratios[row];
            outside += f32::from(u8::from((ratio - 1.0).abs() > loss.clip));
            // ∂ loss / ∂ log π(a|s); where the clipped term is the smaller, it is constant.
            let slope = if clipped < plain { 0.0 } else { -plain * share };
            let (by_output, details) = (&mut by_output[row * k..][..k], &details[row * k..][..k]);
            if gaussian {
                for j in 0..k {
                    by_output[j] *= slope;
                    log_std_gradient[j] += slope * (details[j] * details[j] - 1.0);
                }
            } else {
                let row_entropy: f32 = -by_output.iter().zip(details).map(|(p, log)| p * log).sum::<f32>();
                for j in 0..k {
                    let probability = by_output[j];
                    let of_entropy = -probability * (details[j] + row_entropy);
                    by_output[j] = slope * (sample[j] - probability) - loss.entropy_coefficient * share * of_entropy;
                }
            }
            let error = values[row] - sample[k + 2];
            squares += error * error;
            values_gradient[row] = 2.0 * loss.value_coefficient * share * error;
        }
        if gaussian {
            log_std_gradient.iter_mut().for_each(|g| *g -= loss.entropy_coefficient);
        }
        let (policy_loss, value_loss) = (-surrogate * share, squares * share);
        PpoValue {
            total: policy_loss + loss.value_coefficient * value_loss - loss.entropy_coefficient * entropy,
            metrics: [policy_loss, value_loss, entropy, kl * share, outside * share],
        }
    }
}

/// Mean, and 1 / (standard deviation + 1e-8).
fn standardisation(values: impl ExactSizeIterator<Item = f32> + Clone) -> (f32, f32) {
    let count = values.len() as f64;
    let mean = values.clone().map(f64::from).sum::<f64>() / count;
    let squares = values.map(|v| (f64::from(v) - mean) * (f64::from(v) - mean)).sum::<f64>();
    (mean as f32, (1.0 / ((squares / (count - 1.0)).sqrt() + 1e-8)) as f32)
}

#[inline(always)]
fn map_exp<V: Vector>(values: &mut [f32]) {
    for chunk in values.chunks_mut(V::LANES) {
        exp(V::load(chunk)).store(chunk);
    }
}
