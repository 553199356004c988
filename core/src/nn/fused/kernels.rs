//! Small networks on slices: products with a fused end, the layers of a multilayer perceptron forward and backward,
//! and Adam's update.
//!
//! Sums over the inner dimension run in order, so a row's result depends neither on the batch it is in nor on the
//! number of threads. Every matrix is row-major.

#![allow(unsafe_code, reason = "the register tile reads without bounds checks; its callers check both matrices")]

use super::scratch::Scratch;
use super::simd::{Kernel, MAX_LANES, Vector, sigmoid, tanh};
use crate::nn::layout::{Activation, Layout};

/// Rows of a batch that go through all layers together: their activations stay in the first two caches.
pub(super) const BLOCK: usize = 64;

/// Outputs up to which a product runs along its inner dimension: a tile's columns would be mostly padding.
const NARROW: usize = 2;

/// The slope of leaky ReLU for negative inputs (Christiano et al. 2017, A.1).
const LEAKY_SLOPE: f32 = 0.01;

// ------------------------------------------------------------------------------------------------- the whole network

/// Evaluates a network on one batch.
///
/// # Shapes
/// - `input`: `[batch, in]`; `parameters`: `[layout.len()]`; `output`: `[batch, out]`
/// - `saved`: for the backward pass, `[batch, layout.saved()]` in blocks of [`BLOCK`] rows; without a backward pass
///   one block is enough, and is used again and again
pub(super) struct Forward<'a> {
    pub(super) layout: &'a Layout,
    pub(super) input: &'a [f32],
    pub(super) parameters: &'a [f32],
    pub(super) output: &'a mut [f32],
    pub(super) saved: &'a mut [f32],
}

/// Gradients of [`Forward`]'s parameters and, if wanted, of its input.
///
/// # Shapes
/// - as in [`Forward`]; `output_gradient`: `[batch, out]`
/// - `gradient`: `[layout.len()]`, added to; `input_gradient`: `[batch, in]`, overwritten, or empty
pub(super) struct Backward<'a> {
    pub(super) layout: &'a Layout,
    pub(super) input: &'a [f32],
    pub(super) parameters: &'a [f32],
    pub(super) saved: &'a [f32],
    pub(super) output_gradient: &'a [f32],
    pub(super) gradient: &'a mut [f32],
    pub(super) input_gradient: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector, const ROWS: usize>(self) {
        let Self { layout, input, parameters, output, saved } = self;
        let (inputs, outputs) = (layout.inputs(), layout.outputs());
        let mut panel = Vec::new();
        let layers = layout.layers();
        let blocks = input.chunks(BLOCK * inputs).zip(output.chunks_mut(BLOCK * outputs));
        for (block, (input, output)) in blocks.enumerate() {
            let rows = input.len() / inputs;
            let start = block * BLOCK * layout.saved();
            let end = start + rows * layout.saved();
            let saved = if saved.len() >= end { &mut saved[start..end] } else { &mut saved[..rows * layout.saved()] };
            // Where the layer's values (and slopes) begin among the saved ones, and where those below it did.
            let (mut at, mut below) = (0, 0);
            for (i, layer) in layers.iter().enumerate() {
                let [weight, bias] = layer.of(parameters);
                let (before, here) = saved.split_at_mut(at);
                let x = if i == 0 { input } else { &before[below..][..rows * layer.inputs] };
                let kept = &mut here[..rows * layout.saved_of(i)];
                // Nothing is kept of a linear output.
                let (activation, (values, slopes)) = match kept.len() {
                    0 => (Activation::Identity, (&mut *output, kept)),
                    _ => (layout.activation_of(i), kept.split_at_mut(rows * layer.outputs)),
                };
                let store = Biased { out: values, bias, activation, slopes };
                linear::<V, ROWS>(x, rows, layer.inputs, layer.outputs, weight, &mut panel, store);
                (below, at) = (at, at + rows * layout.saved_of(i));
            }
            if below < at {
                output.copy_from_slice(&saved[below..][..output.len()]);
            }
        }
    }
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector, const ROWS: usize>(self) {
        let Self { layout, input, parameters, saved, output_gradient, gradient, input_gradient } = self;
        let (inputs, outputs) = (layout.inputs(), layout.outputs());
        let layers = layout.layers();
        let mut panel = Vec::new();
        // Transposed weights, for the gradients of the layers' inputs.
        let mut transposed = Scratch::new(parameters.len());
        for layer in &layers[usize::from(input_gradient.is_empty())..] {
            transpose::<V>(layer.of(parameters)[0], layer.inputs, layer.outputs, &mut transposed.0[layer.weight()]);
        }
        let widest = layers.iter().map(|layer| layer.inputs.max(layer.outputs)).max().unwrap_or(0);
        let (mut above, mut below) = (Scratch::new(BLOCK * widest), Scratch::new(BLOCK * widest));
        let blocks = input.chunks(BLOCK * inputs).zip(output_gradient.chunks(BLOCK * outputs));
        for (block, (input, output_gradient)) in blocks.enumerate() {
            let rows = input.len() / inputs;
            let saved = &saved[block * BLOCK * layout.saved()..];
            // Where each layer's values (and slopes) are among the saved ones.
            let mut end = rows * layout.saved();
            let mut kept_of = |i: usize| {
                let start = end - rows * layout.saved_of(i);
                let kept = &saved[start..end];
                end = start;
                kept.split_at(kept.len().min(rows * layers[i].outputs))
            };
            let (values, slopes) = kept_of(layers.len() - 1);
            if layout.output != Activation::Identity {
                let out = &mut above.0[..output_gradient.len()];
                // All of it as one row.
                let mut store = Sloped { out, values, slopes, activation: layout.output };
                for (i, gradient) in output_gradient.chunks(V::LANES).enumerate() {
                    store.store(0, 0, i * V::LANES, gradient.len(), V::load(gradient));
                }
            }
            for (i, layer) in layers.iter().enumerate().rev() {
                let linear_output = i + 1 == layers.len() && layout.output == Activation::Identity;
                let delta: &[f32] = if linear_output { output_gradient } else { &above.0[..rows * layer.outputs] };
                let width = rows * layer.inputs;
                let (x, slopes) = if i == 0 { (input, &[][..]) } else { kept_of(i - 1) };
                let (weight_gradient, bias_gradient) = layer.of_mut(gradient);
                sum_columns::<V>(delta, bias_gradient);
                weights::<V, ROWS>(x, delta, rows, layer.inputs, layer.outputs, weight_gradient, &mut panel);
                if i == 0 && input_gradient.is_empty() {
                    break;
                }
                let delta = Strided { data: delta, row: layer.outputs, column: 1 };
                let back = &transposed.0[layer.weight()];
                let at = block * BLOCK * inputs;
                let (out, values, slopes, activation) = match i {
                    0 => (&mut input_gradient[at..at + width], &[][..], &[][..], Activation::Identity),
                    _ => (&mut below.0[..width], x, slopes, layout.activation),
                };
                let store = Sloped { out, values, slopes, activation };
                product::<V, ROWS>(rows, layer.inputs, layer.outputs, delta, back, &mut panel, store);
                std::mem::swap(&mut above, &mut below);
            }
        }
    }
}

// ------------------------------------------------------------------------------------------------------------- layers

/// `store(x · weight)`.
///
/// # Shapes
/// - `x`: `[rows, inputs]`; `weight`: `[inputs, outputs]`
#[inline(always)]
pub(super) fn linear<V: Vector, const ROWS: usize>(
    x: &[f32],
    rows: usize,
    inputs: usize,
    outputs: usize,
    weight: &[f32],
    panel: &mut Vec<f32>,
    mut store: impl Store,
) {
    if outputs > NARROW {
        let x = Strided { data: x, row: inputs, column: 1 };
        return product::<V, ROWS>(rows, outputs, inputs, x, weight, panel, store);
    }
    let mut columns = Scratch::new(weight.len());
    transpose::<V>(weight, inputs, outputs, &mut columns.0);
    let columns = &columns.0[..weight.len()];
    for (row, x) in x.chunks(inputs).enumerate() {
        for (output, column) in columns.chunks(inputs).enumerate() {
            let mut sum = V::splat(0.0);
            for (x, w) in x.chunks(V::LANES).zip(column.chunks(V::LANES)) {
                sum = V::load(x).mul_add(V::load(w), sum);
            }
            store.store_one::<V>(row, outputs, output, sum.sum());
        }
    }
}

/// Adds `xᵀ · delta` to `out`.
///
/// # Shapes
/// - `x`: `[rows, inputs]`; `delta`: `[rows, outputs]`; `out`: `[inputs, outputs]`
#[inline(always)]
pub(super) fn weights<V: Vector, const ROWS: usize>(
    x: &[f32],
    delta: &[f32],
    rows: usize,
    inputs: usize,
    outputs: usize,
    out: &mut [f32],
    panel: &mut Vec<f32>,
) {
    if outputs >= V::LANES || inputs < V::LANES {
        let x = Strided { data: x, row: 1, column: inputs };
        product::<V, ROWS>(inputs, outputs, rows, x, delta, panel, Added { out });
    } else {
        // The transposed product has its vectors along the wide side.
        let delta = Strided { data: delta, row: 1, column: outputs };
        product::<V, ROWS>(outputs, inputs, rows, delta, x, panel, AddedTransposed { out, outputs });
    }
}

/// Adds the sum of each column of `values` to `out`.
///
/// # Shapes
/// - `values`: `[rows, out.len()]`
#[inline(always)]
pub(super) fn sum_columns<V: Vector>(values: &[f32], out: &mut [f32]) {
    /// Rows that are summed side by side: an addition takes a few cycles, and the next one of a sum waits for it.
    const ROWS: usize = 4;
    let width = out.len();
    if width < V::LANES {
        return sum_narrow_columns::<V>(values, out);
    }
    let rows = values.len() / width;
    let whole = rows - rows % ROWS;
    for column in (0..width).step_by(V::LANES) {
        let end = width.min(column + V::LANES);
        let mut sums = [V::splat(0.0); ROWS];
        for row in (0..whole).step_by(ROWS) {
            for r in 0..ROWS {
                let start = (row + r) * width;
                sums[r] = sums[r].add(V::load(&values[start + column..start + end]));
            }
        }
        for row in whole..rows {
            sums[0] = sums[0].add(V::load(&values[row * width + column..row * width + end]));
        }
        let sum = sums[0].add(sums[1]).add(sums[2].add(sums[3]));
        V::load(&out[column..end]).add(sum).store(&mut out[column..end]);
    }
}

/// The same where a row is less than a vector: `LANES` rows are `out.len()` vectors.
#[inline(always)]
fn sum_narrow_columns<V: Vector>(values: &[f32], out: &mut [f32]) {
    let width = out.len();
    let mut sums = [V::splat(0.0); MAX_LANES];
    for rows in values.chunks(width * V::LANES) {
        for (sum, part) in sums.iter_mut().zip(rows.chunks(V::LANES)) {
            *sum = sum.add(V::load(part));
        }
    }
    let mut lanes = [0.0; MAX_LANES * MAX_LANES];
    for (sum, lanes) in sums.iter().zip(lanes.chunks_mut(V::LANES)).take(width) {
        sum.store(lanes);
    }
    for row in lanes.chunks(width).take(V::LANES) {
        for column in 0..width {
            out[column] += row[column];
        }
    }
}

/// `[rows, columns]` → `[columns, rows]`
#[inline(always)]
fn transpose<V: Vector>(matrix: &[f32], rows: usize, columns: usize, out: &mut [f32]) {
    assert!(matrix.len() >= rows * columns && out.len() >= rows * columns, "both hold rows · columns values");
    let (whole_rows, whole_columns) = (rows - rows % V::LANES, columns - columns % V::LANES);
    for r in (0..whole_rows).step_by(V::LANES) {
        for c in (0..whole_columns).step_by(V::LANES) {
            // SAFETY: the square lies within the matrix, the turned one within `out`.
            unsafe {
                V::transpose(matrix.as_ptr().add(r * columns + c), columns, out.as_mut_ptr().add(c * rows + r), rows);
            }
        }
    }
    // What is left at the right and at the bottom.
    for r in 0..rows {
        let start = if r < whole_rows { whole_columns } else { 0 };
        for c in start..columns {
            out[c * rows + r] = matrix[r * columns + c];
        }
    }
}

// -------------------------------------------------------------------------------------------------------- the product

/// A matrix read with strides, so that a transposed one needs no copy.
#[derive(Clone, Copy)]
pub(super) struct Strided<'a> {
    pub(super) data: &'a [f32],
    /// Distance of two rows.
    pub(super) row: usize,
    /// Distance of two columns.
    pub(super) column: usize,
}

/// What becomes of sums while they are still in registers.
pub(super) trait Store {
    /// Takes the first `count` lanes of `sums`: columns `column..` of row `row`, in a matrix `width` columns wide.
    fn store<V: Vector>(&mut self, row: usize, width: usize, column: usize, count: usize, sums: V);

    /// The same for a single sum.
    #[inline(always)]
    fn store_one<V: Vector>(&mut self, row: usize, width: usize, column: usize, sum: f32) {
        self.store(row, width, column, 1, V::splat(sum));
    }
}

/// `out = activation(sums + bias)`
pub(super) struct Biased<'a> {
    pub(super) out: &'a mut [f32],
    pub(super) bias: &'a [f32],
    pub(super) activation: Activation,
    /// The activation's derivative, where it cannot be told from its value; else empty.
    pub(super) slopes: &'a mut [f32],
}

/// `out = sums · activation′`
pub(super) struct Sloped<'a> {
    pub(super) out: &'a mut [f32],
    /// Values of the activation.
    pub(super) values: &'a [f32],
    /// Its derivative, where it cannot be told from its value; else empty.
    pub(super) slopes: &'a [f32],
    pub(super) activation: Activation,
}

/// `out += sums`
struct Added<'a> {
    out: &'a mut [f32],
}

/// `outᵀ += sums`
struct AddedTransposed<'a> {
    out: &'a mut [f32],
    /// Columns of `out`.
    outputs: usize,
}

impl Store for Biased<'_> {
    #[inline(always)]
    fn store<V: Vector>(&mut self, row: usize, width: usize, column: usize, count: usize, sums: V) {
        let z = sums.add(V::load(&self.bias[column..column + count]));
        let at = row * width + column;
        let (zero, one) = (V::splat(0.0), V::splat(1.0));
        let value = match self.activation {
            Activation::Identity => z,
            Activation::Tanh => tanh(z),
            Activation::Relu => zero.max(z),
            Activation::LeakyRelu => z.where_positive(z, z.mul(V::splat(LEAKY_SLOPE))),
            Activation::Silu => {
                let gate = sigmoid(z);
                if !self.slopes.is_empty() {
                    // (z·σ(z))′ = σ(z)·(1 + z·(1 − σ(z)))
                    let slope = gate.mul(z.mul_add(one.sub(gate), one));
                    slope.store(&mut self.slopes[at..at + count]);
                }
                z.mul(gate)
            }
        };
        value.store(&mut self.out[at..at + count]);
    }

    #[inline(always)]
    fn store_one<V: Vector>(&mut self, row: usize, width: usize, column: usize, sum: f32) {
        match self.activation {
            Activation::Identity => self.out[row * width + column] = sum + self.bias[column],
            _ => self.store(row, width, column, 1, V::splat(sum)),
        }
    }
}

impl Store for Sloped<'_> {
    #[inline(always)]
    fn store<V: Vector>(&mut self, row: usize, width: usize, column: usize, count: usize, sums: V) {
        let at = row * width + column;
        let (zero, one) = (V::splat(0.0), V::splat(1.0));
        let of = |data: &[f32]| V::load(&data[at..at + count]);
        let gradient = match self.activation {
            Activation::Identity => sums,
            Activation::Tanh => {
                let value = of(self.values);
                sums.mul(zero.sub(value).mul_add(value, one))
            }
            Activation::Relu => of(self.values).where_positive(sums, zero),
            Activation::LeakyRelu => of(self.values).where_positive(sums, sums.mul(V::splat(LEAKY_SLOPE))),
            Activation::Silu => sums.mul(of(self.slopes)),
        };
        gradient.store(&mut self.out[at..at + count]);
    }
}

impl Store for Added<'_> {
    #[inline(always)]
    fn store<V: Vector>(&mut self, row: usize, width: usize, column: usize, count: usize, sums: V) {
        let out = &mut self.out[row * width + column..][..count];
        V::load(out).add(sums).store(out);
    }
}

impl Store for AddedTransposed<'_> {
    #[inline(always)]
    fn store<V: Vector>(&mut self, row: usize, _width: usize, column: usize, count: usize, sums: V) {
        let mut lanes = [0.0; MAX_LANES];
        sums.store(&mut lanes[..V::LANES]);
        for (i, lane) in lanes[..count].iter().enumerate() {
            self.out[(column + i) * self.outputs + row] += lane;
        }
    }
}

/// `store(a · b)`
///
/// # Shapes
/// - `a`: `[m, k]`; `b`: `[k, n]`
#[inline(always)]
pub(super) fn product<V: Vector, const ROWS: usize>(
    m: usize,
    n: usize,
    k: usize,
    a: Strided<'_>,
    b: &[f32],
    panel: &mut Vec<f32>,
    mut store: impl Store,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(k == 0 || a.data.len() > (m - 1) * a.row + (k - 1) * a.column, "the left matrix holds [m, k]");
    assert!(b.len() >= k * n, "the right matrix holds [k, n]");
    let mut column = 0;
    while column < n {
        let left = n - column;
        let store = &mut store;
        if left >= 2 * V::LANES {
            let b = &b[column..];
            V::call(Panel::<2, false, _> { m, n, k, a, b, b_row: n, column, width: 2 * V::LANES, store });
            column += 2 * V::LANES;
        } else if left >= V::LANES {
            let b = &b[column..];
            V::call(Panel::<1, false, _> { m, n, k, a, b, b_row: n, column, width: V::LANES, store });
            column += V::LANES;
        } else {
            // The last columns are padded with zeros to a vector, half of one if that is enough.
            let padded = if left > V::Half::LANES { V::LANES } else { V::Half::LANES };
            panel.clear();
            panel.resize(k * padded, 0.0);
            for p in 0..k {
                for c in 0..left {
                    panel[p * padded + c] = b[p * n + column + c];
                }
            }
            let last = Panel::<1, true, _> { m, n, k, a, b: panel, b_row: padded, column, width: left, store };
            match padded == V::LANES {
                true => V::call(last),
                false => V::Half::call(last),
            }
            column = n;
        }
    }
}

/// `VECTORS` vectors of columns of a product, of which some are padding if `PADDED`. Compiled as a function of its own:
/// the many tiles and ends of a product, all in the function of a whole network, take LLVM a minute.
///
/// [`product`] has checked that `a` is `[m, k]`, and that `b` has `k` rows, each of `VECTORS` vectors from its start.
struct Panel<'a, const VECTORS: usize, const PADDED: bool, S> {
    m: usize,
    n: usize,
    k: usize,
    a: Strided<'a>,
    b: &'a [f32],
    /// Distance of two rows of `b`.
    b_row: usize,
    /// The first column, among those of the whole product.
    column: usize,
    /// Columns that are not padding.
    width: usize,
    store: &'a mut S,
}

impl<const VECTORS: usize, const PADDED: bool, S: Store> Kernel for Panel<'_, VECTORS, PADDED, S> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector, const ROWS: usize>(self) {
        const { assert!(ROWS <= 8 && VECTORS <= 2, "the lines below store that many") };
        let Self { m, n, k, a, b, b_row, column, width, store } = self;
        // Known to the compiler, so that whole vectors are stored without a question.
        let width = if PADDED { width } else { VECTORS * V::LANES };
        let mut row = 0;
        // Written out, because sums that are indexed in a loop go through memory.
        macro_rules! store_rows {
            ($rows:expr, $sums:ident, $($r:literal)*) => {$(
                if $r < $rows {
                    let sums = $sums[usize::min($r, $rows - 1)];
                    store.store(row + $r, n, column, width.min(V::LANES), sums[0]);
                    if VECTORS > 1 {
                        let count = (width - V::LANES).min(V::LANES);
                        store.store(row + $r, n, column + V::LANES, count, sums[VECTORS - 1]);
                    }
                }
            )*};
        }
        macro_rules! tile {
            ($rows:expr) => {{
                // SAFETY: `product` checked both matrices; a row of `b` has VECTORS vectors from its start.
                let sums =
                    unsafe { tile::<V, { $rows }, VECTORS>(k, a.data.as_ptr().add(row * a.row), a, b.as_ptr(), b_row) };
                store_rows!($rows, sums, 0 1 2 3 4 5 6 7);
                row += $rows;
            }};
        }
        while row < m {
            match m - row {
                left if left >= ROWS => tile!(ROWS),
                1 => tile!(1),
                2 => tile!(2),
                3 => tile!(3),
                _ => tile!(4),
            }
        }
    }
}

/// Sums of `ROWS` rows and `VECTORS` vectors of columns, all in registers.
///
/// # Safety
/// `a` points at the first of ROWS rows of k values, with the strides of `matrix`; `b` has k rows of VECTORS vectors.
#[inline(always)]
unsafe fn tile<V: Vector, const ROWS: usize, const VECTORS: usize>(
    k: usize,
    a: *const f32,
    matrix: Strided<'_>,
    b: *const f32,
    b_row: usize,
) -> [[V; VECTORS]; ROWS] {
    let mut sums = [[V::splat(0.0); VECTORS]; ROWS];
    for p in 0..k {
        // SAFETY: p < k, and the caller promises the rest.
        unsafe {
            let mut columns = [V::splat(0.0); VECTORS];
            for v in 0..VECTORS {
                columns[v] = V::read(b.add(p * b_row + v * V::LANES));
            }
            for r in 0..ROWS {
                let factor = V::splat(*a.add(r * matrix.row + p * matrix.column));
                for v in 0..VECTORS {
                    sums[r][v] = factor.mul_add(columns[v], sums[r][v]);
                }
            }
        }
    }
    sums
}

// --------------------------------------------------------------------------------------------------------------- Adam

/// Σ x² of a slice.
pub(super) struct SquaredNorm<'a>(pub(super) &'a [f32]);

/// One step of Adam on one parameter, in place; gradients are first multiplied by `scale`.
pub(super) struct AdamStep<'a> {
    pub(super) parameter: &'a mut [f32],
    pub(super) gradient: &'a [f32],
    pub(super) first: &'a mut [f32],
    pub(super) second: &'a mut [f32],
    pub(super) scale: f32,
    pub(super) beta1: f32,
    pub(super) beta2: f32,
    pub(super) epsilon: f32,
    /// Learning rate over 1 − β₁ᵗ.
    pub(super) step_size: f32,
    /// 1 over 1 − β₂ᵗ.
    pub(super) correction2: f32,
    /// What is left of a parameter after its weight decay.
    pub(super) kept: f32,
}

impl Kernel for SquaredNorm<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<V: Vector, const ROWS: usize>(self) -> f32 {
        /// Sums side by side, as in [`sum_columns`].
        const SUMS: usize = 4;
        let mut sums = [V::splat(0.0); SUMS];
        let mut blocks = self.0.chunks_exact(SUMS * V::LANES);
        for block in &mut blocks {
            for i in 0..SUMS {
                let part = V::load(&block[i * V::LANES..(i + 1) * V::LANES]);
                sums[i] = part.mul_add(part, sums[i]);
            }
        }
        for part in blocks.remainder().chunks(V::LANES) {
            let part = V::load(part);
            sums[0] = part.mul_add(part, sums[0]);
        }
        sums[0].add(sums[1]).add(sums[2].add(sums[3])).sum()
    }
}

impl Kernel for AdamStep<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector, const ROWS: usize>(mut self) {
        let len = self.parameter.len();
        let whole = len - len % V::LANES;
        for at in (0..whole).step_by(V::LANES) {
            self.update::<V>(at..at + V::LANES);
        }
        self.update::<V>(whole..len);
    }
}

impl AdamStep<'_> {
    /// Takes the step for at most a vector of numbers.
    #[inline(always)]
    fn update<V: Vector>(&mut self, range: std::ops::Range<usize>) {
        let all = V::splat;
        let parameter = &mut self.parameter[range.clone()];
        let (first, second) = (&mut self.first[range.clone()], &mut self.second[range.clone()]);
        let g = V::load(&self.gradient[range]).mul(all(self.scale));
        let m = V::load(first).mul_add(all(self.beta1), g.mul(all(1.0 - self.beta1)));
        let v = V::load(second).mul_add(all(self.beta2), g.mul(g).mul(all(1.0 - self.beta2)));
        m.store(first);
        v.store(second);
        let denominator = v.mul(all(self.correction2)).sqrt().add(all(self.epsilon));
        V::load(parameter).mul(all(self.kept)).sub(m.mul(all(self.step_size)).div(denominator)).store(parameter);
    }
}
