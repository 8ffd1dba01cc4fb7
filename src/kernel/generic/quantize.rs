//! Activations to signed bytes, symmetric, one scale per 32 values; the same bits at every CPU level.

#![allow(unsafe_code, reason = "writes panels of activations through raw pointers")]

use super::matmul::X_BLOCK;

/// Largest magnitude of 32 values by comparing bits, so that a NaN or infinity is never lost.
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

/// Writes `columns` rows of `n` activations, `stride` apart, as a panel of `width` columns: for each 32 values the bytes
/// of every column, their scales, and the sums of their halves. Columns past the last repeat it.
///
/// # Safety
/// Rows and panel are as long as that; `n` is a multiple of 32; `columns` is not 0.
#[inline(always)]
pub(crate) unsafe fn quantize_panel(
    x: *const f32,
    stride: usize,
    n: usize,
    columns: usize,
    width: usize,
    out: *mut u8,
) {
    for c in 0..width {
        let mut at = 0;
        while at < n {
            // SAFETY: 32 values from `at` on are inside the row; the panel has X_BLOCK bytes for each of them.
            unsafe {
                let row = x.add(c.min(columns - 1) * stride + at);
                let block = out.add(at / 32 * X_BLOCK * width);
                let q: &mut [i8; 32] = &mut *block.add(32 * c).cast();
                let (scale, sums) = quantize_block(&*row.cast(), q);
                block.add(32 * width + 4 * c).cast::<f32>().write_unaligned(scale);
                block
                    .add(36 * width + 4 * c)
                    .cast::<[i16; 2]>()
                    .write_unaligned(sums);
            }
            at += 32;
        }
    }
}

/// 32 values to bytes; their scale, and the sum of each half.
#[inline(always)]
fn quantize_block(x: &[f32; 32], q: &mut [i8; 32]) -> (f32, [i16; 2]) {
    let (scale, inverse) = scale_of(largest_magnitude(x));
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
    (scale, sums)
}
