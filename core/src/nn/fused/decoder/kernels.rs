//! Rows of numbers: normalisation, nonlinearities, softmax, rotation. Matrices are row-major.

use super::layout::{AttentionLayout, Heads, NormConfig, NormKind, Rotation};
use super::reference::{GELU_CUBIC, GELU_SCALE};
use crate::nn::fused::simd::{Kernel, MAX_LANES, Vector, exp, sigmoid, tanh};

// ------------------------------------------------------------------------------------------------------ normalisation

/// Normalises every row.
///
/// # Shapes
/// - `input`, `output`: `[rows, width]`; `weight`, `bias`: `[width]`
/// - `statistics`: `[rows, 2]`, mean and reciprocal scale for the backward pass, or empty
pub(super) struct NormForward<'a> {
    pub(super) input: &'a [f32],
    pub(super) weight: &'a [f32],
    pub(super) bias: Option<&'a [f32]>,
    pub(super) norm: NormConfig,
    pub(super) output: &'a mut [f32],
    pub(super) statistics: &'a mut [f32],
}

impl Kernel for NormForward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector, const ROWS: usize>(self) {
        let width = self.weight.len();
        let rows = self.input.chunks_exact(width).zip(self.output.chunks_exact_mut(width));
        for (row, (x, y)) in rows.enumerate() {
            let mean = match self.norm.kind {
                NormKind::Layer => sum::<V>(x) / width as f32,
                NormKind::RootMeanSquare => 0.0,
            };
            let squares = fold::<V>(x, |x| {
                let centred = x.sub(V::splat(mean));
                centred.mul(centred)
            });
            let inverse = 1.0 / (squares / width as f32 + self.norm.epsilon).sqrt();
            if let Some(kept) = self.statistics.get_mut(2 * row..2 * row + 2) {
                kept.copy_from_slice(&[mean, inverse]);
            }
            for at in (0..width).step_by(V::LANES) {
                let end = width.min(at + V::LANES);
                let scaled = V::load(&x[at..end]).sub(V::splat(mean)).mul(V::splat(inverse));
                let scaled = scaled.mul(V::load(&self.weight[at..end]));
                let value = match self.bias {
                    None => scaled,
                    Some(bias) => scaled.add(V::load(&bias[at..end])),
                };
                value.store(&mut y[at..end]);
            }
        }
    }
}

/// Gradients of [`NormForward`]: of the input written, of the weight added to.
pub(super) struct NormBackward<'a> {
    pub(super) input: &'a [f32],
    pub(super) weight: &'a [f32],
    pub(super) statistics: &'a [f32],
    pub(super) norm: NormConfig,
    pub(super) output_gradient: &'a [f32],
    pub(super) input_gradient: &'a mut [f32],
    pub(super) weight_gradient: &'a mut [f32],
}

impl Kernel for NormBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector, const ROWS: usize>(self) {
        let width = self.weight.len();
        let rows = self.input.chunks_exact(width).zip(self.output_gradient.chunks_exact(width));
        let rows = rows.zip(self.input_gradient.chunks_exact_mut(width)).zip(self.statistics.chunks_exact(2));
        for (((x, dy), dx), statistics) in rows {
            let (mean, inverse) = (V::splat(statistics[0]), V::splat(statistics[1]));
            // x̂ and dx̂ = dy · weight; Σ dx̂ and Σ dx̂ · x̂.
            let (mut gradients, mut products) = (V::splat(0.0), V::splat(0.0));
            for at in (0..width).step_by(V::LANES) {
                let end = width.min(at + V::LANES);
                let dy = V::load(&dy[at..end]);
                // Lanes beyond the end have dy = 0, so they add nothing.
                let scaled = V::load(&x[at..end]).sub(mean).mul(inverse);
                let gradient = dy.mul(V::load(&self.weight[at..end]));
                gradients = gradients.add(gradient);
                products = gradient.mul_add(scaled, products);
                let weight_gradient = &mut self.weight_gradient[at..end];
                dy.mul_add(scaled, V::load(weight_gradient)).store(weight_gradient);
            }
            let shift = match self.norm.kind {
                NormKind::Layer => gradients.sum() / width as f32,
                NormKind::RootMeanSquare => 0.0,
            };
            let (shift, pull) = (V::splat(shift), V::splat(products.sum() / width as f32));
            for at in (0..width).step_by(V::LANES) {
                let end = width.min(at + V::LANES);
                let scaled = V::load(&x[at..end]).sub(mean).mul(inverse);
                let gradient = V::load(&dy[at..end]).mul(V::load(&self.weight[at..end]));
                let value = gradient.sub(shift).sub(scaled.mul(pull)).mul(inverse);
                value.store(&mut dx[at..end]);
            }
        }
    }
}

// ----------------------------------------------------------------------------------------------------- nonlinearities

/// silu(gate) · up
///
/// # Shapes
/// - `gate_up`: `[rows, 2 · width]`, in every row the gates first; `output`: `[rows, width]`
pub(super) struct GateForward<'a> {
    pub(super) gate_up: &'a [f32],
    pub(super) width: usize,
    pub(super) output: &'a mut [f32],
}

/// Gradient of [`GateForward`].
pub(super) struct GateBackward<'a> {
    pub(super) gate_up: &'a [f32],
    pub(super) width: usize,
    pub(super) output_gradient: &'a [f32],
    pub(super) gradient: &'a mut [f32],
}

/// GELU.
pub(super) struct GeluForward<'a> {
    pub(super) input: &'a [f32],
    pub(super) output: &'a mut [f32],
}

/// Gradient of [`GeluForward`].
pub(super) struct GeluBackward<'a> {
    pub(super) input: &'a [f32],
    pub(super) output_gradient: &'a [f32],
    pub(super) input_gradient: &'a mut [f32],
}

impl Kernel for GateForward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector, const ROWS: usize>(self) {
        let rows = self.gate_up.chunks_exact(2 * self.width).zip(self.output.chunks_exact_mut(self.width));
        for (gate_up, output) in rows {
            let (gate, up) = gate_up.split_at(self.width);
            for ((gate, up), output) in gate.chunks(V::LANES).zip(up.chunks(V::LANES)).zip(output.chunks_mut(V::LANES))
            {
                let z = V::load(gate);
                z.mul(sigmoid(z)).mul(V::load(up)).store(output);
            }
        }
    }
}

impl Kernel for GateBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector, const ROWS: usize>(self) {
        let one = V::splat(1.0);
        let width = self.width;
        let rows = self.gate_up.chunks_exact(2 * width).zip(self.output_gradient.chunks_exact(width));
        for ((gate_up, dy), gradient) in rows.zip(self.gradient.chunks_exact_mut(2 * width)) {
            let (gate, up) = gate_up.split_at(width);
            let (of_gate, of_up) = gradient.split_at_mut(width);
            for at in (0..width).step_by(V::LANES) {
                let range = at..width.min(at + V::LANES);
                let (z, dy) = (V::load(&gate[range.clone()]), V::load(&dy[range.clone()]));
                let open = sigmoid(z);
                // (z·σ(z))′ = σ(z)·(1 + z·(1 − σ(z)))
                let slope = open.mul(z.mul_add(one.sub(open), one));
                dy.mul(V::load(&up[range.clone()])).mul(slope).store(&mut of_gate[range.clone()]);
                dy.mul(z).mul(open).store(&mut of_up[range]);
            }
        }
    }
}

impl Kernel for GeluForward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector, const ROWS: usize>(self) {
        for (input, output) in self.input.chunks(V::LANES).zip(self.output.chunks_mut(V::LANES)) {
            gelu(V::load(input)).store(output);
        }
    }
}

impl Kernel for GeluBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector, const ROWS: usize>(self) {
        let (half, one) = (V::splat(0.5), V::splat(1.0));
        for at in (0..self.input.len()).step_by(V::LANES) {
            let range = at..self.input.len().min(at + V::LANES);
            let x = V::load(&self.input[range.clone()]);
            let t = tanh(gelu_inner(x));
            // u′ = √(2/π)·(1 + 3·0.044715·x²)
            let inner_slope = x.mul(x).mul_add(V::splat(3.0 * GELU_CUBIC), one).mul(V::splat(GELU_SCALE));
            let slope = half.mul(one.add(t)).add(half.mul(x).mul(one.sub(t.mul(t))).mul(inner_slope));
            V::load(&self.output_gradient[range.clone()]).mul(slope).store(&mut self.input_gradient[range]);
        }
    }
}

#[inline(always)]
fn gelu<V: Vector>(x: V) -> V {
    V::splat(0.5).mul(x).mul(V::splat(1.0).add(tanh(gelu_inner(x))))
}

#[inline(always)]
fn gelu_inner<V: Vector>(x: V) -> V {
    x.mul(x).mul_add(V::splat(GELU_CUBIC), V::splat(1.0)).mul(x).mul(V::splat(GELU_SCALE))
}

// ------------------------------------------------------------------------------------------------------------ softmax

/// Softmax of every row of `logits` in place; the log-probability of the row's target, the entropy, and whether the
/// target is the likeliest.
///
/// # Shapes
/// - `logits`: `[rows, vocabulary]`; `targets`, `log_probs`, `entropy`, `likeliest`: `[rows]`
pub(super) struct LogProbs<'a> {
    pub(super) logits: &'a mut [f32],
    pub(super) targets: &'a [u32],
    pub(super) log_probs: &'a mut [f32],
    pub(super) entropy: &'a mut [f32],
    pub(super) likeliest: &'a mut [f32],
}

impl Kernel for LogProbs<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector, const ROWS: usize>(self) {
        let vocabulary = self.logits.len() / self.targets.len().max(1);
        for (row, logits) in self.logits.chunks_exact_mut(vocabulary.max(1)).enumerate() {
            let target = logits[self.targets[row] as usize];
            let largest = maximum::<V>(logits);
            let (total, weighted) = exponentials::<V>(logits, largest);
            self.log_probs[row] = target - largest - total.ln();
            self.entropy[row] = total.ln() - weighted / total;
            self.likeliest[row] = if target >= largest { 1.0 } else { 0.0 };
            scale::<V>(logits, 1.0 / total);
        }
    }
}

/// `probabilities` become the gradient of the logits: gradient · (one-hot of the target − probabilities).
pub(super) struct LogProbsBackward<'a> {
    pub(super) probabilities: &'a mut [f32],
    pub(super) targets: &'a [u32],
    pub(super) gradient: &'a [f32],
}

impl Kernel for LogProbsBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector, const ROWS: usize>(self) {
        let vocabulary = self.probabilities.len() / self.targets.len().max(1);
        for (row, values) in self.probabilities.chunks_exact_mut(vocabulary.max(1)).enumerate() {
            scale::<V>(values, -self.gradient[row]);
            values[self.targets[row] as usize] += self.gradient[row];
        }
    }
}

/// Weights of attention from scores, in place; what a query does not see gets weight 0. The forward pass writes the
/// logarithm of each row's sum, the backward pass reads it.
///
/// # Shapes
/// - `scores`: `[queries, keys]`: query `i` is the token at `position + i` of its sequence, key `j` the one at
///   `first_key + j`; `log_sums`: `[queries]`, `log_sums_apart` values apart
pub(super) struct Attend<'a> {
    pub(super) scores: &'a mut [f32],
    pub(super) keys: usize,
    pub(super) position: usize,
    pub(super) first_key: usize,
    pub(super) layout: &'a AttentionLayout,
    pub(super) log_sums: &'a mut [f32],
    pub(super) log_sums_apart: usize,
    pub(super) again: bool,
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector, const ROWS: usize>(self) {
        for (i, scores) in self.scores.chunks_exact_mut(self.keys).enumerate() {
            let visible = self.layout.visible(self.position + i);
            let (start, end) = (visible.start - self.first_key, visible.end - self.first_key);
            scores[..start].fill(0.0);
            scores[end..].fill(0.0);
            let seen = &mut scores[start..end];
            let log_sum = &mut self.log_sums[i * self.log_sums_apart];
            if self.again {
                exponentials::<V>(seen, *log_sum);
            } else {
                let largest = maximum::<V>(seen);
                let (total, _) = exponentials::<V>(seen, largest);
                *log_sum = largest + total.ln();
                scale::<V>(seen, 1.0 / total);
            }
        }
    }
}

/// `gradient` = weights · (gradient − Σ gradient · weights), the gradient of scores from that of their softmax.
///
/// # Shapes
/// - both: `[queries, keys]`
pub(super) struct AttendBackward<'a> {
    pub(super) weights: &'a [f32],
    pub(super) gradient: &'a mut [f32],
    pub(super) keys: usize,
}

impl Kernel for AttendBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector, const ROWS: usize>(self) {
        for (weights, gradient) in self.weights.chunks_exact(self.keys).zip(self.gradient.chunks_exact_mut(self.keys)) {
            let mut dot = V::splat(0.0);
            for (w, g) in weights.chunks(V::LANES).zip(gradient.chunks(V::LANES)) {
                dot = V::load(w).mul_add(V::load(g), dot);
            }
            let dot = V::splat(dot.sum());
            for (w, g) in weights.chunks(V::LANES).zip(gradient.chunks_mut(V::LANES)) {
                V::load(w).mul(V::load(g).sub(dot)).store(g);
            }
        }
    }
}

// ----------------------------------------------------------------------------------------------------------- rotation

/// Turns every head of queries and keys by the row's angles, or back.
///
/// # Shapes
/// - `qkv`: `[rows, heads.joint()]`
pub(super) struct Rotate<'a> {
    pub(super) qkv: &'a mut [f32],
    pub(super) heads: Heads,
    pub(super) rotation: &'a Rotation,
    pub(super) back: bool,
}

impl Kernel for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector, const ROWS: usize>(self) {
        let heads = self.heads;
        let half = heads.width / 2;
        let sign = V::splat(if self.back { -1.0 } else { 1.0 });
        let angles = self.rotation.cos.chunks_exact(half).zip(self.rotation.sin.chunks_exact(half));
        for (row, (cos, sin)) in self.qkv.chunks_exact_mut(heads.joint()).zip(angles) {
            for head in row[..heads.query_columns() + heads.key_columns()].chunks_exact_mut(heads.width) {
                let (real, imaginary) = head.split_at_mut(half);
                for at in (0..half).step_by(V::LANES) {
                    let range = at..half.min(at + V::LANES);
                    let (cos, sin) = (V::load(&cos[range.clone()]), V::load(&sin[range.clone()]).mul(sign));
                    let (re, im) = (V::load(&real[range.clone()]), V::load(&imaginary[range.clone()]));
                    re.mul(cos).sub(im.mul(sin)).store(&mut real[range.clone()]);
                    im.mul(cos).add(re.mul(sin)).store(&mut imaginary[range]);
                }
            }
        }
    }
}

// --------------------------------------------------------------------------------------------------------- reductions

/// Σ f(x); lanes that pad the last vector do not count.
#[inline(always)]
fn fold<V: Vector>(values: &[f32], f: impl Fn(V) -> V) -> f32 {
    let mut total = V::splat(0.0);
    let mut whole = values.chunks_exact(V::LANES);
    for part in &mut whole {
        total = total.add(f(V::load(part)));
    }
    let rest = whole.remainder();
    let mut last = [0.0; MAX_LANES];
    if !rest.is_empty() {
        f(V::load(rest)).store(&mut last[..rest.len()]);
    }
    total.sum() + last.iter().sum::<f32>()
}

#[inline(always)]
fn sum<V: Vector>(values: &[f32]) -> f32 {
    fold::<V>(values, |x| x)
}

/// The largest value; NaN if one of them is.
#[inline(always)]
pub(super) fn maximum<V: Vector>(values: &[f32]) -> f32 {
    let mut largest = V::splat(f32::NEG_INFINITY);
    let mut whole = values.chunks_exact(V::LANES);
    for part in &mut whole {
        largest = largest.max(V::load(part));
    }
    let mut lanes = [f32::NEG_INFINITY; MAX_LANES];
    largest.store(&mut lanes[..V::LANES]);
    lanes.iter().chain(whole.remainder()).fold(f32::NEG_INFINITY, |a, &b| if a >= b { a } else { b })
}

/// Values become e^(value − shift); their sum, and the sum of each times its exponent.
#[inline(always)]
pub(super) fn exponentials<V: Vector>(values: &mut [f32], shift: f32) -> (f32, f32) {
    let (mut total, mut weighted) = (V::splat(0.0), V::splat(0.0));
    let mut whole = values.chunks_exact_mut(V::LANES);
    for part in &mut whole {
        let exponent = V::load(part).sub(V::splat(shift));
        let value = exp(exponent);
        value.store(part);
        total = total.add(value);
        weighted = value.mul_add(exponent, weighted);
    }
    let (mut total, mut weighted) = (total.sum(), weighted.sum());
    let rest = whole.into_remainder();
    if !rest.is_empty() {
        let exponents = V::load(rest).sub(V::splat(shift));
        let values = exp(exponents);
        let mut lanes = [0.0; MAX_LANES];
        values.mul(exponents).store(&mut lanes[..rest.len()]);
        values.store(rest);
        total += rest.iter().sum::<f32>();
        weighted += lanes.iter().sum::<f32>();
    }
    (total, weighted)
}

#[inline(always)]
fn scale<V: Vector>(values: &mut [f32], factor: f32) {
    for part in values.chunks_mut(V::LANES) {
        V::load(part).mul(V::splat(factor)).store(part);
    }
}
