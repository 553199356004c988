//! The decoder's operations on slices, for generating text token by token: there a tensor for every product would cost
//! more than the product.

use super::kernels::{GateForward, GeluForward, NormForward, Rotate, exponentials, maximum};
use super::matrix::{Matrix, multiply};
use super::{Heads, NormConfig, Rotation};
use crate::nn::fused::simd::{Kernel, Vector, dispatch};

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

/// `sum += values`
pub(crate) fn add(sum: &mut [f32], values: &[f32]) {
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}

/// [`super::norm`] of slices.
pub(crate) fn norm_on_host(input: &[f32], weight: &[f32], bias: Option<&[f32]>, norm: NormConfig, output: &mut [f32]) {
    dispatch(NormForward { input, weight, bias, norm, output, statistics: &mut [] });
}

/// [`super::gated_silu`] of slices.
pub(crate) fn gated_silu_on_host(gate_up: &[f32], width: usize, output: &mut [f32]) {
    dispatch(GateForward { gate_up, width, output });
}

/// [`super::gelu_tanh`] of slices.
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

/// Attention of one token to the keys and values kept of its sequence.
///
/// # Shapes
/// - `query`, `output`: `[heads.query_columns()]`; `keys`, `values`: `[tokens, heads.key_columns()]`, what it sees
pub(crate) struct AttendToCache<'a> {
    pub(crate) query: &'a [f32],
    pub(crate) keys: &'a [f32],
    pub(crate) values: &'a [f32],
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
        let Self { query, keys, values, heads, scale, scores, output } = self;
        let (row, width) = (heads.key_columns(), heads.width);
        for (head, (query, output)) in query.chunks_exact(width).zip(output.chunks_exact_mut(width)).enumerate() {
            let column = head / (heads.queries / heads.keys) * width;
            // A loop and no closure: a closure is compiled without this function's instructions.
            scores.clear();
            for key in keys.chunks_exact(row) {
                scores.push(dot::<V>(query, &key[column..column + width]) * scale);
            }
            let largest = maximum::<V>(scores);
            let (total, _) = exponentials::<V>(scores, largest);
            output.fill(0.0);
            for (value, weight) in values.chunks_exact(row).zip(scores.iter()) {
                let weight = V::splat(weight / total);
                let value = &value[column..column + width];
                for (value, output) in value.chunks(V::LANES).zip(output.chunks_mut(V::LANES)) {
                    V::load(value).mul_add(weight, V::load(output)).store(output);
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
