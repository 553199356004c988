//! The decoder's operations on slices, for generating text token by token, where a tensor for every product would cost
//! more than the product.

use super::kernels::{GateForward, GeluForward, NormForward, Rotate, exponentials, maximum};
use super::layout::{Heads, NormConfig, Rotation};
use super::matrix::{Matrix, multiply};
use crate::nn::fused::simd::{Kernel, MAX_LANES, PRODUCTS, Vector, dispatch};

/// Rows up to which a product reads the weights once, along their rows; above, packing them pays.
const FEW_ROWS: usize = 8;

/// `input · weightᵀ + bias`
///
/// # Shapes
/// - `input`: `[rows, in]`; `weight`: `[out, in]`; `bias`: `[out]`; `output`: `[rows, out]`
pub(crate) fn project(input: &[f32], weight: &[f32], bias: Option<&[f32]>, inputs: usize, output: &mut [f32]) {
    let (rows, outputs) = (input.len() / inputs, weight.len() / inputs);
    if rows < FEW_ROWS {
        dispatch(ProjectFew { input, weight, inputs, output });
    } else {
        let (input, weight) = (Matrix::new(input, inputs), Matrix::new(weight, inputs).transposed());
        multiply([rows, outputs, inputs], input, weight, 1.0, output, outputs, false);
    }
    if let Some(bias) = bias {
        output.chunks_exact_mut(outputs).for_each(|row| add(row, bias));
    }
}

/// A weight matrix in little more than a quarter of its bytes: 8-bit integers, and a scale for every block of a row.
/// Every token of a sequence needs all weights, so the speed of memory is the speed of generation.
pub(crate) struct Quantized {
    /// `[out, padded in]`: whole numbers in −127..=127; those beyond a row's end are 0.
    values: Vec<i8>,
    /// `[out, padded in / QUANTIZED]`; rows are padded to [`ROW`]
    scales: Vec<f32>,
    inputs: usize,
}

/// Entries of a row that share a scale: as many as are multiplied at a time, and few enough that one large entry costs
/// its neighbours little.
const QUANTIZED: usize = PRODUCTS;

/// How many bytes ahead weights are asked for: about as many as are multiplied in the few hundred cycles that memory
/// takes to answer.
const AHEAD: usize = 4096;

/// Rows are padded to whole multiples: two blocks, summed side by side so that one need not wait for the other.
const ROW: usize = 2 * QUANTIZED;

impl Quantized {
    /// Rounds every entry to the nearest multiple of its block's largest divided by 127.
    ///
    /// # Shapes
    /// - `weight`: `[out, inputs]`
    pub(crate) fn of(weight: &[f32], inputs: usize) -> Self {
        let padded = inputs.next_multiple_of(ROW);
        let (mut values, mut scales) = (Vec::with_capacity(weight.len()), Vec::with_capacity(weight.len() / QUANTIZED));
        for row in weight.chunks_exact(inputs) {
            for block in row.chunks(QUANTIZED) {
                let largest = block.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
                let scale = largest / 127.0;
                scales.push(scale);
                let whole = |value: &f32| if scale > 0.0 { (value / scale).round() as i8 } else { 0 };
                values.extend(block.iter().map(whole));
            }
            values.resize(values.len().next_multiple_of(padded), 0);
            scales.resize(scales.len().next_multiple_of(padded / QUANTIZED), 0.0);
        }
        Self { values, scales, inputs }
    }

    /// The entries that it stands for.
    ///
    /// # Shapes
    /// - returns `[out, inputs]`
    #[cfg(test)]
    pub(crate) fn restored(&self) -> Vec<f32> {
        let padded = self.inputs.next_multiple_of(ROW);
        let entry = |i: usize| f32::from(self.values[i]) * self.scales[i / QUANTIZED];
        let rows = self.values.len() / padded;
        (0..rows).flat_map(|row| (0..self.inputs).map(move |i| row * padded + i)).map(entry).collect()
    }
}

/// [`project`] with rounded weights. The input is rounded too, to 16 bits, since whole numbers are multiplied in fewer
/// instructions than weights are turned into `f32`; its rounding is a 256th of theirs.
pub(crate) fn project_quantized(input: &[f32], weight: &Quantized, bias: Option<&[f32]>, output: &mut [f32]) {
    let outputs = output.len() / (input.len() / weight.inputs);
    dispatch(ProjectQuantized { input, weight, output });
    if let Some(bias) = bias {
        output.chunks_exact_mut(outputs).for_each(|row| add(row, bias));
    }
}

/// `sum += values`
pub(crate) fn add(sum: &mut [f32], values: &[f32]) {
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}

/// [`super::ops::norm`] of slices.
pub(crate) fn norm_on_host(input: &[f32], weight: &[f32], bias: Option<&[f32]>, norm: NormConfig, output: &mut [f32]) {
    dispatch(NormForward { input, weight, bias, norm, output, statistics: &mut [] });
}

/// [`super::ops::gated_silu`] of slices.
pub(crate) fn gated_silu_on_host(gate_up: &[f32], width: usize, output: &mut [f32]) {
    dispatch(GateForward { gate_up, width, output });
}

/// [`super::ops::gelu_tanh`] of slices.
pub(crate) fn gelu_tanh_on_host(input: &[f32], output: &mut [f32]) {
    dispatch(GeluForward { input, output });
}

/// Turns queries and keys in place.
///
/// # Shapes
/// - `qkv`: `[rows, heads.joint()]`
pub(crate) fn rotate_on_host(qkv: &mut [f32], heads: Heads, rotation: &Rotation) {
    dispatch(Rotate { qkv, heads, rotation, back: false });
}

/// Keys and values of one sequence's tokens in one layer, as generating text reads them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kept {
    /// `[blocks, heads.key_columns(), BLOCK]`: the scores of a block's tokens are computed side by side.
    keys: Vec<f32>,
    /// `[tokens, heads.keys, padded width]`
    values: Vec<f32>,
    tokens: usize,
}

/// Tokens of a block of keys: enough sums side by side to hide how long one takes.
const BLOCK: usize = 32;

impl Kept {
    /// Adds a token.
    ///
    /// # Shapes
    /// - `keys`, `values`: `[heads.key_columns()]`
    pub(crate) fn push(&mut self, keys: &[f32], values: &[f32], width: usize) {
        let place = self.tokens % BLOCK;
        if place == 0 {
            self.keys.resize(self.keys.len() + keys.len() * BLOCK, 0.0);
        }
        let block = self.keys.len() - keys.len() * BLOCK;
        for (column, key) in self.keys[block..].chunks_exact_mut(BLOCK).zip(keys) {
            column[place] = *key;
        }
        for value in values.chunks_exact(width) {
            self.values.extend_from_slice(value);
            self.values.resize(self.values.len() + padding(width), 0.0);
        }
        self.tokens += 1;
    }
}

/// Zeros after a head's values, for whole vectors.
fn padding(width: usize) -> usize {
    width.next_multiple_of(MAX_LANES) - width
}

/// Attention of a sequence's newest token to what is kept of it.
///
/// # Shapes
/// - `query`, `output`: `[heads.query_columns()]`
pub(crate) struct AttendToCache<'a> {
    pub(crate) query: &'a [f32],
    pub(crate) kept: &'a Kept,
    /// The first token that it sees.
    pub(crate) first: usize,
    pub(crate) heads: Heads,
    pub(crate) scale: f32,
    pub(crate) scores: &'a mut Vec<f32>,
    pub(crate) output: &'a mut [f32],
}

impl AttendToCache<'_> {
    /// Computes the output.
    pub(crate) fn run(self) {
        dispatch(self);
    }
}

impl Kernel for AttendToCache<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector, const ROWS: usize>(self) {
        let Self { query, kept, first, heads, scale, scores, output } = self;
        let (columns, width) = (heads.key_columns(), heads.width);
        let padded = width + padding(width);
        // Whole blocks: those with a token that is seen.
        let start = first - first % BLOCK;
        let blocks = &kept.keys[start * columns..];
        let values = &kept.values[first * heads.keys * padded..];
        scores.resize(blocks.len() / columns, 0.0);
        for (head, (query, output)) in query.chunks_exact(width).zip(output.chunks_exact_mut(width)).enumerate() {
            let group = head / (heads.queries / heads.keys);
            for (block, scores) in blocks.chunks_exact(columns * BLOCK).zip(scores.chunks_exact_mut(BLOCK)) {
                let keys = block[group * width * BLOCK..(group + 1) * width * BLOCK].as_chunks::<BLOCK>().0;
                // As many as a vector of four lanes needs.
                let mut sums = [V::splat(0.0); BLOCK / 4];
                for (key, query) in keys.iter().zip(query) {
                    let query = V::splat(*query * scale);
                    for i in 0..BLOCK / V::LANES {
                        sums[i] = V::load(&key[i * V::LANES..]).mul_add(query, sums[i]);
                    }
                }
                for i in 0..BLOCK / V::LANES {
                    sums[i].store(&mut scores[i * V::LANES..(i + 1) * V::LANES]);
                }
            }
            let seen = &mut scores[first - start..kept.tokens - start];
            let largest = maximum::<V>(seen);
            let (total, _) = exponentials::<V>(seen, largest);
            for (at, output) in output.chunks_mut(MAX_LANES).enumerate() {
                let column = group * padded + at * MAX_LANES;
                let mut sums = [V::splat(0.0); MAX_LANES / 4];
                for (value, weight) in values.chunks_exact(heads.keys * padded).zip(seen.iter()) {
                    let value = &value[column..column + MAX_LANES];
                    let weight = V::splat(*weight);
                    for i in 0..MAX_LANES / V::LANES {
                        sums[i] = V::load(&value[i * V::LANES..]).mul_add(weight, sums[i]);
                    }
                }
                for (output, sum) in output.chunks_mut(V::LANES).zip(sums) {
                    sum.div(V::splat(total)).store(output);
                }
            }
        }
    }
}

/// [`project`] for few rows.
struct ProjectFew<'a> {
    input: &'a [f32],
    weight: &'a [f32],
    inputs: usize,
    output: &'a mut [f32],
}

impl Kernel for ProjectFew<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector, const ROWS: usize>(self) {
        let Self { input, weight, inputs, output } = self;
        let outputs = weight.len() / inputs;
        // Every weight is read once, and meets all rows while it is near.
        for (column, weight) in weight.chunks_exact(inputs).enumerate() {
            for (row, input) in input.chunks_exact(inputs).enumerate() {
                output[row * outputs + column] = dot::<V>(input, weight);
            }
        }
    }
}

/// [`project_quantized`].
pub(super) struct ProjectQuantized<'a> {
    pub(super) input: &'a [f32],
    pub(super) weight: &'a Quantized,
    pub(super) output: &'a mut [f32],
}

impl Kernel for ProjectQuantized<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector, const ROWS: usize>(self) {
        let Self { input, weight: Quantized { values, scales, inputs }, output } = self;
        let padded = inputs.next_multiple_of(ROW);
        let rows = input.len() / inputs;
        let (mut whole, mut steps) = (vec![0; rows * padded], vec![0.0; rows * padded / QUANTIZED]);
        let places = whole.chunks_exact_mut(padded).zip(steps.chunks_exact_mut(padded / QUANTIZED));
        for ((whole, steps), input) in places.zip(input.chunks_exact(*inputs)) {
            for ((whole, step), block) in whole.chunks_mut(QUANTIZED).zip(steps).zip(input.chunks(QUANTIZED)) {
                *step = round(block, whole);
            }
        }
        let outputs = values.len() / padded;
        let weights = values.chunks_exact(padded).zip(scales.chunks_exact(padded / QUANTIZED));
        for (column, (weight, scales)) in weights.enumerate() {
            for (row, (input, steps)) in
                whole.chunks_exact(padded).zip(steps.chunks_exact(padded / QUANTIZED)).enumerate()
            {
                let (mut even, mut odd) = (V::splat(0.0), V::splat(0.0));
                let both = input.as_chunks::<ROW>().0.iter().zip(weight.as_chunks::<ROW>().0);
                let scales = steps.as_chunks::<2>().0.iter().zip(scales.as_chunks::<2>().0);
                for ((input, weight), (step, scale)) in both.zip(scales) {
                    V::prefetch(weight.as_ptr().wrapping_add(AHEAD));
                    let (input, weight) = (input.as_chunks::<QUANTIZED>().0, weight.as_chunks::<QUANTIZED>().0);
                    even = V::products(&input[0], &weight[0]).mul_add(V::splat(step[0] * scale[0]), even);
                    odd = V::products(&input[1], &weight[1]).mul_add(V::splat(step[1] * scale[1]), odd);
                }
                output[row * outputs + column] = even.add(odd).sum();
            }
        }
    }
}

/// Rounds a block of inputs to multiples of a step, and returns the step: the largest input divided by 32,767, or NaN
/// if an input is NaN or infinite.
#[inline(always)]
fn round(block: &[f32], whole: &mut [i16]) -> f32 {
    let largest = block.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let finite: f32 = block.iter().map(|value| value * 0.0).sum();
    let step = largest / f32::from(i16::MAX);
    let steps = if step > 0.0 { step.recip() } else { 0.0 };
    for (whole, value) in whole.iter_mut().zip(block) {
        *whole = (value * steps).round_ties_even() as i16;
    }
    step + finite
}

/// Σ a · b
#[inline(always)]
fn dot<V: Vector>(a: &[f32], b: &[f32]) -> f32 {
    /// Sums side by side, so that one multiplication need not wait for the one before it.
    const SUMS: usize = 4;
    let mut sums = [V::splat(0.0); SUMS];
    let step = SUMS * V::LANES;
    let whole = a.len() - a.len() % step;
    for (a, b) in a[..whole].chunks_exact(step).zip(b[..whole].chunks_exact(step)) {
        for i in 0..SUMS {
            let range = i * V::LANES..(i + 1) * V::LANES;
            sums[i] = V::load(&a[range.clone()]).mul_add(V::load(&b[range]), sums[i]);
        }
    }
    for (a, b) in a[whole..].chunks(V::LANES).zip(b[whole..].chunks(V::LANES)) {
        sums[0] = V::load(a).mul_add(V::load(b), sums[0]);
    }
    sums[0].add(sums[1]).add(sums[2].add(sums[3])).sum()
}
