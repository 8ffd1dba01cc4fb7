//! Keys, values and queries as vectors of integers with a scale, and pairs of these.

#![allow(
    unsafe_code,
    reason = "vector intrinsics and raw pointers into blocks of keys and values"
)]

use std::arch::x86_64::*;

use super::super::avx512::Avx512;
use super::LANES;
use crate::kernel::generic::attention::BLOCK;
use crate::kernel::generic::float::{Bf16, F16, Floats};
use crate::kernel::generic::rows::{I8, Q8_SCALE};

/// Greatest length of a key or query in integers, before rounding.
const LONGEST: f32 = 32767.0;
/// Square of the length below which it counts as zero: squares of smaller elements would not be precise.
const NOTHING: f32 = 1e-30;
/// Largest magnitude of a value of 16 bits.
pub(super) const VALUE: i32 = 8191;

/// How keys and values become integers.
pub(super) trait Stored {
    const BYTES: usize;
    /// Bytes per position before the values.
    const HEAD: usize;
    /// Scales of the positions of a block of keys, and what its elements are multiplied by.
    unsafe fn key_scales(keys: *const u8, dim: usize) -> [(__m512, __m512); 2];
    /// The same of a block of values.
    unsafe fn value_scales(values: *const u8, dim: usize) -> [(__m512, __m512); 2];
    /// An integer in the lower 16 bits of each lane.
    unsafe fn load(p: *const u8, factor: __m512) -> __m512i;
}

/// Floats of 16 bits: their magnitudes are in the order of their bits, all but the highest.
trait Float16: Floats {}
impl Float16 for F16 {}
impl Float16 for Bf16 {}

impl<W: Float16> Stored for W {
    const BYTES: usize = 2;
    const HEAD: usize = 0;

    #[inline(always)]
    unsafe fn key_scales(keys: *const u8, dim: usize) -> [(__m512, __m512); 2] {
        // SAFETY: columns of 32 positions.
        unsafe {
            // Of even and odd elements, of two vectors of positions.
            let (mut even, mut odd) = ([_mm512_setzero_ps(); 2], [_mm512_setzero_ps(); 2]);
            let mut column = keys;
            for _ in 0..dim / 2 {
                add_squares::<W>(&mut even, column);
                add_squares::<W>(&mut odd, column.add(2 * BLOCK));
                column = column.add(4 * BLOCK);
            }
            if dim % 2 == 1 {
                add_squares::<W>(&mut even, column);
            }
            [
                by_length(_mm512_add_ps(even[0], odd[0])),
                by_length(_mm512_add_ps(even[1], odd[1])),
            ]
        }
    }

    #[inline(always)]
    unsafe fn value_scales(values: *const u8, dim: usize) -> [(__m512, __m512); 2] {
        // SAFETY: rows 0…31 have `dim` values.
        unsafe {
            let mut eights = [_mm512_setzero_si512(); 4];
            for i in 0..4 {
                eights[i] = largest_of_eight(values.add(8 * i * 2 * dim), dim);
            }
            // Of lanes of 128 bits even ones are compared with odd ones.
            let half = larger_lanes(eights[0], eights[1]);
            by_largest::<W>(larger_lanes(half, larger_lanes(eights[2], eights[3])))
        }
    }

    #[inline(always)]
    unsafe fn load(p: *const u8, factor: __m512) -> __m512i {
        // SAFETY: passes the caller's promise on.
        unsafe { integers(<W as Floats>::load::<Avx512>(p), factor) }
    }
}

impl Stored for I8 {
    const BYTES: usize = 1;
    const HEAD: usize = Q8_SCALE;

    #[inline(always)]
    unsafe fn key_scales(keys: *const u8, _: usize) -> [(__m512, __m512); 2] {
        // SAFETY: the scales lie in front.
        unsafe {
            let scales: *const f32 = keys.cast();
            let none = _mm512_setzero_ps();
            [
                (_mm512_loadu_ps(scales), none),
                (_mm512_loadu_ps(scales.add(LANES)), none),
            ]
        }
    }

    #[inline(always)]
    unsafe fn value_scales(values: *const u8, dim: usize) -> [(__m512, __m512); 2] {
        let mut scales = [0.0f32; BLOCK];
        for (t, scale) in scales.iter_mut().enumerate() {
            // SAFETY: each row begins with its scale.
            *scale = unsafe { values.add(t * (Q8_SCALE + dim)).cast::<f32>().read_unaligned() };
        }
        // SAFETY: an array of two vectors.
        unsafe { Self::key_scales(scales.as_ptr().cast(), dim) }
    }

    #[inline(always)]
    unsafe fn load(p: *const u8, _: __m512) -> __m512i {
        // SAFETY: passes the caller's promise on.
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())) }
    }
}

/// Adds the squares of a column.
#[inline(always)]
unsafe fn add_squares<W: Float16>(sums: &mut [__m512; 2], column: *const u8) {
    for i in 0..2 {
        // SAFETY: a column has 32 numbers of 16 bits.
        unsafe {
            let x = <W as Floats>::load::<Avx512>(column.add(2 * i * LANES));
            sums[i] = _mm512_fmadd_ps(x, x, sums[i]);
        }
    }
}

/// Numbers of 16 bits without their signs.
#[inline(always)]
unsafe fn magnitude(x: __m512i) -> __m512i {
    // SAFETY: register arithmetic; the features are the caller's promise.
    unsafe { _mm512_and_si512(x, _mm512_set1_epi16(0x7fff)) }
}

/// The larger of even and odd lanes of 128 bits: two of `a`, then two of `b`.
#[inline(always)]
unsafe fn larger_lanes(a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: register arithmetic; the features are the caller's promise.
    unsafe {
        let even = _mm512_shuffle_i64x2::<0b10_00_10_00>(a, b);
        _mm512_max_epu16(even, _mm512_shuffle_i64x2::<0b11_01_11_01>(a, b))
    }
}

/// Largest magnitudes of eight rows of numbers of 16 bits, in order in each lane of 128 bits: of all its numbers there.
#[inline(always)]
unsafe fn largest_of_eight(rows: *const u8, dim: usize) -> __m512i {
    // SAFETY: the rows exist; lanes beyond them are not loaded.
    unsafe {
        let mut x = [_mm512_setzero_si512(); 8];
        let whole = dim / BLOCK * BLOCK;
        for d in (0..whole).step_by(BLOCK) {
            for t in 0..8 {
                let part = _mm512_loadu_si512(rows.add((t * dim + d) * 2).cast());
                x[t] = _mm512_max_epu16(x[t], magnitude(part));
            }
        }
        if whole < dim {
            let rest = (1 << (dim - whole)) - 1;
            for t in 0..8 {
                let part = _mm512_maskz_loadu_epi16(rest, rows.add((t * dim + whole) * 2).cast());
                x[t] = _mm512_max_epu16(x[t], magnitude(part));
            }
        }
        // Two are interleaved, which leaves half as many, and the halves of that compared.
        for t in (0..8).step_by(2) {
            let (a, b) = (x[t], x[t + 1]);
            x[t] = _mm512_max_epu16(_mm512_unpacklo_epi16(a, b), _mm512_unpackhi_epi16(a, b));
        }
        for t in (0..8).step_by(4) {
            let (a, b) = (x[t], x[t + 2]);
            x[t] = _mm512_max_epu16(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        }
        let (a, b) = (x[0], x[4]);
        _mm512_max_epu16(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b))
    }
}

/// Scales of 32 values by their largest magnitudes, and what makes those [`VALUE`]; not a number where one is not finite.
#[inline(always)]
unsafe fn by_largest<W: Float16>(largest: __m512i) -> [(__m512, __m512); 2] {
    let mut halves = [0u8; 2 * BLOCK];
    // SAFETY: an array of 32 numbers of 16 bits.
    unsafe {
        _mm512_storeu_si512(halves.as_mut_ptr().cast(), largest);
        let x = <W as Floats>::load::<Avx512>(halves.as_ptr());
        let y = <W as Floats>::load::<Avx512>(halves.as_ptr().add(2 * LANES));
        [scaled(x, VALUE as f32), scaled(y, VALUE as f32)]
    }
}

/// Scales of keys or queries by the squares of their lengths, and what makes the lengths [`LONGEST`]; not a number where one
/// is not finite.
#[inline(always)]
pub(super) unsafe fn by_length(squares: __m512) -> (__m512, __m512) {
    // SAFETY: register arithmetic; the features are the caller's promise.
    unsafe {
        // NaN is something.
        let something = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(squares, _mm512_set1_ps(NOTHING));
        let (scale, factor) = scaled(_mm512_sqrt_ps(squares), LONGEST);
        (
            _mm512_maskz_mov_ps(something, scale),
            _mm512_maskz_mov_ps(something, factor),
        )
    }
}

/// What `limit` is to be multiplied by to give x, and x to give `limit`; not a number where x is not finite.
#[inline(always)]
unsafe fn scaled(x: __m512, limit: f32) -> (__m512, __m512) {
    // SAFETY: register arithmetic; the features are the caller's promise.
    unsafe {
        let limit = _mm512_set1_ps(limit);
        let nothing = _mm512_mul_ps(x, _mm512_setzero_ps());
        (
            _mm512_add_ps(_mm512_div_ps(x, limit), nothing),
            _mm512_div_ps(limit, x),
        )
    }
}

/// x · factor, rounded, in the lower 16 bits; 0 where that is infinite, anything where it is no number.
#[inline(always)]
pub(super) unsafe fn integers(x: __m512, factor: __m512) -> __m512i {
    // Its last bits are those of integers.
    const MAGIC: f32 = 12_582_912.0;
    // SAFETY: register arithmetic; the features are the caller's promise.
    unsafe { _mm512_castps_si512(_mm512_fmadd_ps(x, factor, _mm512_set1_ps(MAGIC))) }
}

/// The lower 16 bits of two vectors, paired.
#[inline(always)]
unsafe fn paired(even: __m512i, odd: __m512i) -> __m512i {
    const ODD_OR_LOWER_EVEN: i32 = 0xf8;
    // SAFETY: register arithmetic; the features are the caller's promise.
    unsafe {
        let (odd, lower) = (_mm512_slli_epi32::<16>(odd), _mm512_set1_epi32(0xffff));
        _mm512_ternarylogic_epi32::<ODD_OR_LOWER_EVEN>(odd, even, lower)
    }
}

/// A pair of columns of a block of keys, 16 positions from `half` on.
#[inline(always)]
pub(super) unsafe fn pair_of_columns<W: Stored>(
    keys: *const u8,
    dim: usize,
    pair: usize,
    half: usize,
    factor: __m512,
) -> __m512i {
    // SAFETY: the columns exist, the second one if the number of elements is even.
    unsafe {
        let even = keys.add((2 * pair * BLOCK + half * LANES) * W::BYTES);
        let odd = if 2 * pair + 1 < dim {
            W::load(even.add(BLOCK * W::BYTES), factor)
        } else {
            _mm512_setzero_si512()
        };
        paired(W::load(even, factor), odd)
    }
}

/// A pair of rows of a block of values, 16 elements or what is left of them from `d` on.
#[inline(always)]
pub(super) unsafe fn pair_of_rows<W: Stored, const WHOLE: bool>(
    (values, factors): (*const u8, &[f32]),
    dim: usize,
    pair: usize,
    d: usize,
) -> __m512i {
    // SAFETY: the rows exist.
    unsafe {
        let row_bytes = W::HEAD + dim * W::BYTES;
        let p = values.add(2 * pair * row_bytes + W::HEAD + d * W::BYTES);
        let (even, odd) = (
            _mm512_set1_ps(factors[2 * pair]),
            _mm512_set1_ps(factors[2 * pair + 1]),
        );
        if WHOLE {
            return paired(W::load(p, even), W::load(p.add(row_bytes), odd));
        }
        let n = dim - d;
        paired(
            load_rest::<W>(p, n, even),
            load_rest::<W>(p.add(row_bytes), n, odd),
        )
    }
}

/// The last `n` values of a row.
#[inline(always)]
unsafe fn load_rest<W: Stored>(p: *const u8, n: usize, factor: __m512) -> __m512i {
    let mut rest = [0u8; 2 * LANES];
    // SAFETY: there are `n` values, fewer than a vector.
    unsafe {
        std::ptr::copy_nonoverlapping(p, rest.as_mut_ptr(), n * W::BYTES);
        W::load(rest.as_ptr(), factor)
    }
}
