//! Products of matrices in slices, by the `gemm` crate.

#![allow(unsafe_code, reason = "gemm takes pointers; the bounds are checked before")]

/// A matrix in a slice, read with strides.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a> {
    /// From its first value on.
    pub(crate) data: &'a [f32],
    /// Distance of two rows.
    pub(crate) row: usize,
    /// Distance of two columns.
    pub(crate) column: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix whose rows are `row` values apart.
    pub(crate) fn new(data: &'a [f32], row: usize) -> Self {
        Self { data, row, column: 1 }
    }

    /// The transposed matrix.
    pub(crate) fn transposed(self) -> Self {
        Self { row: self.column, column: self.row, ..self }
    }

    /// The index after the last value of a `[rows, columns]` matrix with these strides.
    fn end(&self, rows: usize, columns: usize) -> usize {
        (rows - 1) * self.row + (columns - 1) * self.column + 1
    }
}

/// `out = kept · out + factor · a · b`, where `kept` is 0 or 1.
///
/// Sums run in the same order whatever the number of threads, since there is one.
///
/// # Shapes
/// - `a`: `[m, k]`; `b`: `[k, n]`; `out`: `[m, n]` with rows `out_row` apart
pub(crate) fn multiply(
    [m, n, k]: [usize; 3],
    a: Matrix<'_>,
    b: Matrix<'_>,
    factor: f32,
    out: &mut [f32],
    out_row: usize,
    kept: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if !kept {
            out.chunks_mut(out_row).take(m).for_each(|row| row[..n].fill(0.0));
        }
        return;
    }
    assert!(a.data.len() >= a.end(m, k), "the left matrix holds [m, k]");
    assert!(b.data.len() >= b.end(k, n), "the right matrix holds [k, n]");
    assert!(out_row >= n && out.len() >= (m - 1) * out_row + n, "the result holds [m, n], rows apart");
    let signed = |stride: usize| isize::try_from(stride).expect("a stride lies within a slice");
    // SAFETY: all three matrices lie within their slices, as checked above, and `out` is borrowed for writing alone.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            signed(out_row),
            kept,
            a.data.as_ptr(),
            signed(a.column),
            signed(a.row),
            b.data.as_ptr(),
            signed(b.column),
            signed(b.row),
            1.0_f32,
            factor,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
