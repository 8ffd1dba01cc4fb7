//! Activations to signed bytes, symmetric, one scale per 32 or per 256 values; the same bits at every CPU level.

#![allow(unsafe_code, reason = "writes panels of activations through raw pointers")]

use super::columns::{X_BLOCK, ZERO_POINT};
use super::matmul::OFFSET;
use crate::kernel::simd::Simd;

/// Values that share a scale where it is coarse: a block of the formats that want it so.
pub(crate) const LONG_BLOCK: usize = 256;

/// Largest magnitude by comparing bits, so that a NaN or infinity is never lost.
#[inline(always)]
pub(crate) fn largest_magnitude(x: &[f32]) -> f32 {
    let mut m = 0u32;
    for v in x {
        m = m.max(v.to_bits() & 0x7fff_ffff);
    }
    f32::from_bits(m)
}

/// Scale and its reciprocal for a largest magnitude: (0, 0) below anything that can matter, (NaN, 0) for values that
/// are not finite.
#[inline(always)]
pub(crate) fn scale_of(largest: f32) -> (f32, f32) {
    if !largest.is_finite() {
        (f32::NAN, 0.0)
    } else if largest < 1e-35 {
        (0.0, 0.0)
    } else {
        (largest / 127.0, 127.0 / largest)
    }
}

/// x · inverse to the nearest integer, ties to even, for magnitudes up to 127.
#[inline(always)]
pub(crate) fn to_i8(x: f32, inverse: f32) -> i8 {
    // Adding 1.5 · 2^23 rounds to the nearest integer, which is then in the low bits.
    ((x * inverse + 12_582_912.0).to_bits() as i32 - 0x4b40_0000) as i8
}

/// Writes a row of `n` activations as the columns `at..at + copies` of a panel of `width`: for each 32 values the bytes of
/// every column, their scales, the sums of their halves and what sums with them begin with. `coarse` gives a scale to 256
/// values, and sums in place of the other scales, as [`X_BLOCK`] says.
///
/// # Safety
/// The CPU has the level's features for quantizing. Row and panel are as long as that; `n` is a multiple of 32, or of 256 if `coarse`; the columns are in the panel, and no
/// one else has them.
#[inline(always)]
pub(crate) unsafe fn quantize_row<S: Simd>(
    x: *const f32,
    n: usize,
    (at, copies, width): (usize, usize, usize),
    coarse: bool,
    out: *mut u8,
) {
    let group = if coarse { LONG_BLOCK } else { 32 };
    for c in at..at + copies {
        for first in (0..n).step_by(group) {
            // SAFETY: the values of the group are inside the row; the panel has X_BLOCK bytes for each 32 of them.
            unsafe {
                let row = x.add(first);
                let mut largest = 0;
                for set in 0..group / 32 {
                    largest = largest.max(S::largest_magnitude(row.add(32 * set)));
                }
                let (scale, inverse) = scale_of(f32::from_bits(largest));
                let mut before = 0;
                for set in 0..group / 32 {
                    let block = out.add((first / 32 + set) * X_BLOCK * width);
                    let sums = S::to_bytes(row.add(32 * set), inverse, block.add(32 * c).cast());
                    block
                        .add(36 * width + 4 * c)
                        .cast::<[i16; 2]>()
                        .write_unaligned(sums);
                    let place = block.add(32 * width + 4 * c);
                    let sum = sums[0] + sums[1];
                    let begins = if coarse {
                        sums.map(|sum| -128 * i32::from(sum))
                    } else {
                        [128, ZERO_POINT]
                            .map(|zero| OFFSET.to_bits() as i32 - i32::from(zero) * i32::from(sum))
                    };
                    for (i, begin) in begins.into_iter().enumerate() {
                        let place = block.add((40 + 4 * i) * width + 4 * c);
                        place.cast::<i32>().write_unaligned(begin);
                    }
                    if set % 2 == 0 {
                        before = sum;
                    } else {
                        let even = place.sub(X_BLOCK * width);
                        even.cast::<[i16; 2]>().write_unaligned([before, sum]);
                    }
                    place.cast::<f32>().write_unaligned(scale);
                }
            }
        }
    }
}

/// 32 values to bytes; the sum of each half.
#[inline(always)]
pub(crate) fn to_bytes(x: &[f32; 32], inverse: f32, q: &mut [i8; 32]) -> [i16; 2] {
    for i in 0..32 {
        // A value that is not finite gives an arbitrary byte, and its block's scale is NaN.
        q[i] = to_i8(x[i], inverse);
    }
    let mut sums = [0i16; 2];
    for (sum, q) in sums.iter_mut().zip(q.as_chunks::<16>().0) {
        for q in q {
            *sum += i16::from(*q);
        }
    }
    sums
}
