//! Vectors of `f32` for several instruction sets, chosen at run time, and the functions that libm only has for scalars.
//!
//! A [`Kernel`] is written once over a [`Vector`] and compiled for AVX-512, for AVX2 with FMA, and for the rest.

#![allow(unsafe_code, reason = "vector instructions; each block says why it is sound")]

use std::sync::LazyLock;

/// Code that is compiled for every instruction set.
pub(super) trait Kernel {
    /// What it returns.
    type Output;

    /// The body. `ROWS` is the height of a register tile that this instruction set has registers for. It must be
    /// `#[inline(always)]`, to be compiled with the features of the function it is called from.
    fn run<V: Vector, const ROWS: usize>(self) -> Self::Output;
}

/// Several `f32` in one register.
pub(super) trait Vector: Copy {
    /// How many.
    const LANES: usize;

    /// The vector of half as many, where this instruction set has one that is worth it; else itself.
    type Half: Vector;

    fn splat(value: f32) -> Self;

    /// # Safety
    /// `LANES` values can be read from `from`.
    unsafe fn read(from: *const f32) -> Self;

    /// # Safety
    /// `LANES` values can be written to `to`.
    unsafe fn write(self, to: *mut f32);

    /// Runs a kernel with vectors of this type, as a function of its own.
    fn call<K: Kernel>(kernel: K) -> K::Output;

    /// Asks for a line of memory that will be read later; any address will do, and nothing is read from it now.
    #[inline(always)]
    fn prefetch<T>(_: *const T) {}

    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    /// The smaller; `other` where either is not a number, so bounds are written as `bound.min(x)` and let it through.
    fn min(self, other: Self) -> Self;
    /// The larger; `other` where either is not a number, as for [`Vector::min`].
    fn max(self, other: Self) -> Self;
    fn sqrt(self) -> Self;

    /// `self · factor + term`, rounded once where there is hardware for it.
    fn mul_add(self, factor: Self, term: Self) -> Self;

    /// `self > 0 ? positive : other`, lane by lane.
    fn where_positive(self, positive: Self, other: Self) -> Self;

    /// 2 to the power of `self`, whose lanes are whole numbers in −126..=127.
    fn exp2_of_integer(self) -> Self;

    /// Turns a square of `LANES` rows and columns, whose rows are `from_row` apart, into one whose rows are `to_row`
    /// apart.
    ///
    /// # Safety
    /// `LANES` values can be read from each of the rows, and written to each.
    unsafe fn transpose(from: *const f32, from_row: usize, to: *mut f32, to_row: usize);

    /// The first values of `from`; lanes beyond its end are zero.
    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        if from.len() >= Self::LANES {
            // SAFETY: the slice is long enough.
            return unsafe { Self::read(from.as_ptr()) };
        }
        let mut padded = [0.0; MAX_LANES];
        padded[..from.len()].copy_from_slice(from);
        // SAFETY: MAX_LANES is the largest LANES.
        unsafe { Self::read(padded.as_ptr()) }
    }

    /// Writes as many values as `to` has, at most `LANES`.
    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        if to.len() >= Self::LANES {
            // SAFETY: the slice is long enough.
            return unsafe { self.write(to.as_mut_ptr()) };
        }
        let mut all = [0.0; MAX_LANES];
        // SAFETY: MAX_LANES is the largest LANES.
        unsafe { self.write(all.as_mut_ptr()) };
        to.copy_from_slice(&all[..to.len()]);
    }

    /// Sum over the lanes, in a fixed order.
    fn sum(self) -> f32;

    /// Lanes that together are Σ a · b, multiplied and added as whole numbers.
    fn products(a: &[i16; PRODUCTS], b: &[i8; PRODUCTS]) -> Self;
}

/// Numbers that [`Vector::products`] multiplies: one read of memory for the widest vector, and few enough that no lane
/// overflows.
pub(super) const PRODUCTS: usize = 32;

/// Lanes of the widest vector.
pub(super) const MAX_LANES: usize = 16;

/// Runs the kernel with the best instruction set of this machine.
pub(super) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    run_on(*ISA, kernel)
}

/// Runs the kernel with one instruction set, which this machine must have.
pub(super) fn run_on<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => {
            // SAFETY: the value comes from `Isa::available`, which looked for these features.
            unsafe { x86::run_avx512(kernel) }
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => {
            // SAFETY: the same.
            unsafe { x86::run_avx2(kernel) }
        }
        Isa::Portable => <[f32; 4]>::call(kernel),
    }
}

/// Instruction sets that kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isa {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Isa {
    /// Those of this machine, the best first.
    pub(super) fn available() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if avx2 && is_x86_feature_detected!("avx512f") {
                all.push(Self::Avx512);
            }
            if avx2 {
                all.push(Self::Avx2);
            }
        }
        all.push(Self::Portable);
        all
    }
}

static ISA: LazyLock<Isa> = LazyLock::new(|| Isa::available()[0]);

// --------------------------------------------------------------------------------------------------------- functions

/// tanh(x) with a relative error below 4e-7, and 1 or −1 beyond ±9.02, where the nearest `f32` is that.
///
/// x·P(x²)/Q(x²) of degree 9/8, a minimax fit (Lawson's iteration) to tanh(x)/x: 2.1e-8 before rounding.
#[inline(always)]
pub(super) fn tanh<V: Vector>(x: V) -> V {
    const P: [f32; 5] = [1.331_910_4e-8, 2.058_351_5e-5, 3.494_037e-3, 0.133_797_2, 1.0];
    const Q: [f32; 5] = [7.762_036e-7, 3.283_096_6e-4, 2.587_108_3e-2, 0.467_130_36, 1.0];
    let x = V::splat(-9.02).max(V::splat(9.02).min(x));
    let t = x.mul(x);
    let ratio = x.mul(polynomial(&P, t)).div(polynomial(&Q, t));
    V::splat(-1.0).max(V::splat(1.0).min(ratio))
}

/// eˣ with a relative error below 3e-7 for x in −87..=88; beyond, that of the nearest of the two.
///
/// 2ⁿ·eʳ with r in ±½ ln 2 and a minimax polynomial of degree 6 (3e-9 before rounding).
#[inline(always)]
pub(super) fn exp<V: Vector>(x: V) -> V {
    const C: [f32; 7] = [1.381_461_3e-3, 8.368_71e-3, 4.166_839e-2, 0.166_665_21, 0.499_999_94, 1.0, 1.0];
    // ln 2 in two parts: the first has trailing zeros, so that n times it is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Adding and subtracting 1.5 · 2²³ rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    let x = V::splat(-87.0).max(V::splat(88.0).min(x));
    let n = x.mul_add(V::splat(std::f32::consts::LOG2_E), V::splat(ROUND)).sub(V::splat(ROUND));
    let r = n.mul_add(V::splat(-LN_2_HIGH), x);
    let r = n.mul_add(V::splat(-LN_2_LOW), r);
    polynomial(&C, r).mul(n.exp2_of_integer())
}

/// 1 / (1 + e⁻ˣ)
#[inline(always)]
pub(super) fn sigmoid<V: Vector>(x: V) -> V {
    let one = V::splat(1.0);
    one.div(one.add(exp(V::splat(0.0).sub(x))))
}

/// Horner's scheme, highest coefficient first.
#[inline(always)]
fn polynomial<V: Vector, const N: usize>(coefficients: &[f32; N], x: V) -> V {
    let mut sum = V::splat(coefficients[0]);
    for &coefficient in &coefficients[1..] {
        sum = sum.mul_add(x, V::splat(coefficient));
    }
    sum
}

// -------------------------------------------------------------------------------------------------- instruction sets

/// An array of four, written out: closures and loops, in the thousands that kernels make of them, take LLVM a minute.
macro_rules! lanes {
    ($i:ident => $lane:expr) => {{
        macro_rules! lane {
            ($at:literal) => {{
                let $i = $at;
                $lane
            }};
        }
        [lane!(0), lane!(1), lane!(2), lane!(3)]
    }};
}

impl Vector for [f32; 4] {
    const LANES: usize = 4;
    type Half = Self;

    #[inline(never)]
    fn call<K: Kernel>(kernel: K) -> K::Output {
        kernel.run::<Self, 4>()
    }
    #[inline(always)]
    fn splat(value: f32) -> Self {
        [value; 4]
    }
    #[inline(always)]
    unsafe fn read(from: *const f32) -> Self {
        // SAFETY: the caller promises four values; an array of f32 has the alignment of one.
        unsafe { *from.cast::<Self>() }
    }
    #[inline(always)]
    unsafe fn write(self, to: *mut f32) {
        // SAFETY: the same.
        unsafe { *to.cast::<Self>() = self }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        lanes!(i => self[i] + other[i])
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        lanes!(i => self[i] - other[i])
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        lanes!(i => self[i] * other[i])
    }
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        lanes!(i => self[i] / other[i])
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        lanes!(i => if self[i] < other[i] { self[i] } else { other[i] })
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        lanes!(i => if self[i] > other[i] { self[i] } else { other[i] })
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        lanes!(i => self[i].sqrt())
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        // Not `f32::mul_add`: without hardware for it, that is a slow function call.
        lanes!(i => self[i] * factor[i] + term[i])
    }
    #[inline(always)]
    fn where_positive(self, positive: Self, other: Self) -> Self {
        lanes!(i => if self[i] > 0.0 { positive[i] } else { other[i] })
    }
    #[inline(always)]
    fn exp2_of_integer(self) -> Self {
        lanes!(i => f32::from_bits(((self[i] as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
        for r in 0..Self::LANES {
            for c in 0..Self::LANES {
                // SAFETY: the caller promises both squares.
                unsafe { *to.add(c * to_row + r) = *from.add(r * from_row + c) };
            }
        }
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        (self[0] + self[2]) + (self[1] + self[3])
    }
    #[inline(always)]
    fn products(a: &[i16; PRODUCTS], b: &[i8; PRODUCTS]) -> Self {
        let mut sums = [0; 4];
        for (a, b) in a.as_chunks::<4>().0.iter().zip(b.as_chunks::<4>().0) {
            for i in 0..4 {
                sums[i] += i32::from(a[i]) * i32::from(b[i]);
            }
        }
        sums.map(|sum| sum as f32)
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Kernel, PRODUCTS, Vector};

    /// # Safety
    /// The machine has AVX-512F, AVX2 and FMA.
    #[target_feature(enable = "avx512f,avx2,fma")]
    #[inline(never)]
    pub(super) fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
        kernel.run::<__m512, 8>()
    }

    /// # Safety
    /// The machine has AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    #[inline(never)]
    pub(super) fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
        kernel.run::<__m256, 4>()
    }

    /// Methods of [`Vector`] that are one instruction.
    macro_rules! instructions {
        ($run:ident, $splat:ident, $read:ident, $write:ident; $($name:ident($($argument:ident),*) = $body:expr;)*) => {
            #[inline(always)]
            fn call<K: Kernel>(kernel: K) -> K::Output {
                // SAFETY: a kernel gets this vector type only from the function above that has its features.
                unsafe { $run(kernel) }
            }
            #[inline(always)]
            fn splat(value: f32) -> Self {
                // SAFETY: the same.
                unsafe { $splat(value) }
            }
            #[inline(always)]
            unsafe fn read(from: *const f32) -> Self {
                // SAFETY: the caller promises `LANES` values; the instruction needs no alignment.
                unsafe { $read(from) }
            }
            #[inline(always)]
            unsafe fn write(self, to: *mut f32) {
                // SAFETY: the same.
                unsafe { $write(to, self) }
            }
            #[inline(always)]
            fn prefetch<T>(from: *const T) {
                // SAFETY: a hint, which cannot fail whatever the address is; every machine with this vector has SSE.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
            }
            $(
                #[inline(always)]
                fn $name(self $(, $argument: Self)*) -> Self {
                    let x = self;
                    // SAFETY: as for `call`.
                    unsafe { ($body)(x $(, $argument)*) }
                }
            )*
        };
    }

    /// a · b of either half, with neighbours added: at most 2 · 2¹⁵ · 2⁷ in a lane.
    ///
    /// # Safety
    /// The machine has AVX2.
    #[inline(always)]
    unsafe fn products_of_halves(a: &[i16; PRODUCTS], b: &[i8; PRODUCTS]) -> [__m256i; 2] {
        let half = |i: usize| {
            // SAFETY: 16 of the 32 values of each are read, with instructions that need no alignment.
            unsafe {
                let b = _mm256_cvtepi8_epi16(_mm_loadu_si128(b.as_ptr().add(i).cast()));
                _mm256_madd_epi16(_mm256_loadu_si256(a.as_ptr().add(i).cast()), b)
            }
        };
        [half(0), half(PRODUCTS / 2)]
    }

    impl Vector for __m512 {
        const LANES: usize = 16;
        type Half = __m256;

        #[inline(always)]
        unsafe fn transpose(from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
            // SAFETY: the caller promises both squares.
            unsafe {
                let mut quads = [_mm512_setzero_ps(); 16];
                for group in 0..4 {
                    let mut rows = [_mm512_setzero_ps(); 4];
                    for i in 0..4 {
                        rows[i] = _mm512_loadu_ps(from.add((4 * group + i) * from_row));
                    }
                    let [low, high] = [_mm512_unpacklo_ps(rows[0], rows[1]), _mm512_unpackhi_ps(rows[0], rows[1])];
                    let [low2, high2] = [_mm512_unpacklo_ps(rows[2], rows[3]), _mm512_unpackhi_ps(rows[2], rows[3])];
                    let pairs = [_mm512_castps_pd(low), _mm512_castps_pd(high)];
                    let pairs2 = [_mm512_castps_pd(low2), _mm512_castps_pd(high2)];
                    // Quarter k of the i-th: four rows of column 4 k + i.
                    for i in 0..2 {
                        let even = _mm512_unpacklo_pd(pairs[i], pairs2[i]);
                        let odd = _mm512_unpackhi_pd(pairs[i], pairs2[i]);
                        quads[4 * group + 2 * i] = _mm512_castpd_ps(even);
                        quads[4 * group + 2 * i + 1] = _mm512_castpd_ps(odd);
                    }
                }
                for i in 0..4 {
                    let [a, b, c, d] = [quads[i], quads[4 + i], quads[8 + i], quads[12 + i]];
                    let [ab, cd] = [_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(c, d)];
                    _mm512_storeu_ps(to.add(i * to_row), _mm512_shuffle_f32x4::<0x88>(ab, cd));
                    _mm512_storeu_ps(to.add((8 + i) * to_row), _mm512_shuffle_f32x4::<0xdd>(ab, cd));
                    let [ab, cd] = [_mm512_shuffle_f32x4::<0xdd>(a, b), _mm512_shuffle_f32x4::<0xdd>(c, d)];
                    _mm512_storeu_ps(to.add((4 + i) * to_row), _mm512_shuffle_f32x4::<0x88>(ab, cd));
                    _mm512_storeu_ps(to.add((12 + i) * to_row), _mm512_shuffle_f32x4::<0xdd>(ab, cd));
                }
            }
        }
        #[inline(always)]
        fn sum(self) -> f32 {
            // SAFETY: as for the methods below.
            unsafe { _mm512_reduce_add_ps(self) }
        }
        #[inline(always)]
        fn products(a: &[i16; PRODUCTS], b: &[i8; PRODUCTS]) -> Self {
            // SAFETY: as for the methods below; AVX-512F has no such product of its own.
            unsafe {
                let [first, second] = products_of_halves(a, b);
                _mm512_cvtepi32_ps(_mm512_inserti64x4::<1>(_mm512_castsi256_si512(first), second))
            }
        }
        instructions! {
            run_avx512, _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps;
            add(other) = |x, other| _mm512_add_ps(x, other);
            sub(other) = |x, other| _mm512_sub_ps(x, other);
            mul(other) = |x, other| _mm512_mul_ps(x, other);
            div(other) = |x, other| _mm512_div_ps(x, other);
            min(other) = |x, other| _mm512_min_ps(x, other);
            max(other) = |x, other| _mm512_max_ps(x, other);
            sqrt() = |x| _mm512_sqrt_ps(x);
            mul_add(factor, term) = |x, factor, term| _mm512_fmadd_ps(x, factor, term);
            where_positive(positive, other) = |x, positive, other| {
                _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, _mm512_setzero_ps()), other, positive)
            };
            exp2_of_integer() = |x| {
                let biased = _mm512_add_epi32(_mm512_cvtps_epi32(x), _mm512_set1_epi32(127));
                _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
            };
        }
    }

    impl Vector for __m256 {
        const LANES: usize = 8;
        type Half = Self;

        #[inline(always)]
        unsafe fn transpose(from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
            // SAFETY: the caller promises both squares.
            unsafe {
                let mut quads = [_mm256_setzero_ps(); 8];
                for group in 0..2 {
                    let mut rows = [_mm256_setzero_ps(); 4];
                    for i in 0..4 {
                        rows[i] = _mm256_loadu_ps(from.add((4 * group + i) * from_row));
                    }
                    let [low, high] = [_mm256_unpacklo_ps(rows[0], rows[1]), _mm256_unpackhi_ps(rows[0], rows[1])];
                    let [low2, high2] = [_mm256_unpacklo_ps(rows[2], rows[3]), _mm256_unpackhi_ps(rows[2], rows[3])];
                    let pairs = [_mm256_castps_pd(low), _mm256_castps_pd(high)];
                    let pairs2 = [_mm256_castps_pd(low2), _mm256_castps_pd(high2)];
                    // Half k of the i-th: four rows of column 4 k + i.
                    for i in 0..2 {
                        let even = _mm256_unpacklo_pd(pairs[i], pairs2[i]);
                        let odd = _mm256_unpackhi_pd(pairs[i], pairs2[i]);
                        quads[4 * group + 2 * i] = _mm256_castpd_ps(even);
                        quads[4 * group + 2 * i + 1] = _mm256_castpd_ps(odd);
                    }
                }
                for i in 0..4 {
                    let [a, b] = [quads[i], quads[4 + i]];
                    _mm256_storeu_ps(to.add(i * to_row), _mm256_permute2f128_ps::<0x20>(a, b));
                    _mm256_storeu_ps(to.add((4 + i) * to_row), _mm256_permute2f128_ps::<0x31>(a, b));
                }
            }
        }
        #[inline(always)]
        fn sum(self) -> f32 {
            // SAFETY: as for the methods below.
            unsafe {
                let half = _mm_add_ps(_mm256_castps256_ps128(self), _mm256_extractf128_ps::<1>(self));
                let pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
                _mm_cvtss_f32(_mm_add_ss(pair, _mm_shuffle_ps::<1>(pair, pair)))
            }
        }
        #[inline(always)]
        fn products(a: &[i16; PRODUCTS], b: &[i8; PRODUCTS]) -> Self {
            // SAFETY: as for the methods below.
            unsafe {
                let [first, second] = products_of_halves(a, b);
                _mm256_cvtepi32_ps(_mm256_add_epi32(first, second))
            }
        }
        instructions! {
            run_avx2, _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps;
            add(other) = |x, other| _mm256_add_ps(x, other);
            sub(other) = |x, other| _mm256_sub_ps(x, other);
            mul(other) = |x, other| _mm256_mul_ps(x, other);
            div(other) = |x, other| _mm256_div_ps(x, other);
            min(other) = |x, other| _mm256_min_ps(x, other);
            max(other) = |x, other| _mm256_max_ps(x, other);
            sqrt() = |x| _mm256_sqrt_ps(x);
            mul_add(factor, term) = |x, factor, term| _mm256_fmadd_ps(x, factor, term);
            where_positive(positive, other) = |x, positive, other| {
                _mm256_blendv_ps(other, positive, _mm256_cmp_ps::<_CMP_GT_OQ>(x, _mm256_setzero_ps()))
            };
            exp2_of_integer() = |x| {
                let biased = _mm256_add_epi32(_mm256_cvtps_epi32(x), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Isa, Kernel, Vector, exp, run_on, sigmoid, tanh};

    /// A function over a slice.
    struct Map<'a> {
        of: Function,
        values: &'a mut [f32],
    }

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Function {
        Tanh,
        Exp,
        Sigmoid,
    }

    impl Kernel for Map<'_> {
        type Output = ();

        #[inline(always)]
        fn run<V: Vector, const ROWS: usize>(self) {
            for chunk in self.values.chunks_mut(V::LANES) {
                let x = V::load(chunk);
                let y = match self.of {
                    Function::Tanh => tanh(x),
                    Function::Exp => exp(x),
                    Function::Sigmoid => sigmoid(x),
                };
                y.store(chunk);
            }
        }
    }

    /// Every 997th `f32` from −100 to 100, and the same number evenly spaced: all magnitudes, both signs.
    fn points() -> Vec<f32> {
        let last = 100.0_f32.to_bits();
        let positive = (0..=last).step_by(997).map(f32::from_bits);
        let even = (0..2_000_001).map(|i| i as f32 * 1e-4 - 100.0);
        positive.flat_map(|x| [x, -x]).chain(even).collect()
    }

    #[test]
    fn functions_are_within_their_bounds_on_every_instruction_set() {
        for isa in Isa::available() {
            for of in [Function::Tanh, Function::Exp, Function::Sigmoid] {
                let inputs = points();
                let mut found = inputs.clone();
                run_on(isa, Map { of, values: &mut found });
                let mut worst = (0.0, 0.0);
                for (&x, &y) in inputs.iter().zip(&found) {
                    let wide = f64::from(x);
                    let (expected, bound) = match of {
                        Function::Tanh => (wide.tanh(), 4e-7),
                        Function::Exp => (wide.clamp(-87.0, 88.0).exp(), 3e-7),
                        Function::Sigmoid => (1.0 / (1.0 + (-wide).clamp(-87.0, 88.0).exp()), 4e-7),
                    };
                    let error = (f64::from(y) - expected).abs() / expected.abs().max(1e-45);
                    assert!(error.is_finite(), "{isa:?} {of:?}({x}) = {y}");
                    if error / bound > worst.0 {
                        worst = (error / bound, x);
                    }
                }
                assert!(worst.0 < 1.0, "{isa:?} {of:?}: {} of the bound at {}", worst.0, worst.1);
            }
        }
    }

    #[test]
    fn what_is_not_a_number_stays_so() {
        for isa in Isa::available() {
            for of in [Function::Tanh, Function::Exp, Function::Sigmoid] {
                let mut values = vec![f32::NAN; 19];
                run_on(isa, Map { of, values: &mut values });
                assert!(values.iter().all(|y| y.is_nan()), "{isa:?} {of:?} {values:?}");
            }
        }
    }

    #[test]
    fn tanh_never_leaves_its_range() {
        for isa in Isa::available() {
            let mut values = points();
            run_on(isa, Map { of: Function::Tanh, values: &mut values });
            assert!(values.iter().all(|y| y.abs() <= 1.0));
        }
    }
}
