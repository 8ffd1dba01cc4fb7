//! Activations to signed bytes, symmetric, one scale per 32 values; the same bits at every CPU level.

use crate::kernel::chunk::{CHUNK, GROUP, XChunk};

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

/// Quantizes one chunk; `x` may be shorter than 256, the rest is zero. `slot` is the level's order of scales.
#[inline(always)]
pub(crate) fn quantize_chunk(x: &[f32], slot: &[usize; 16], out: &mut XChunk) {
    let mut padded = [0.0f32; CHUNK];
    padded[..x.len()].copy_from_slice(x);
    for (b, x) in padded.as_chunks::<32>().0.iter().enumerate() {
        let (scale, inverse) = scale_of(largest_magnitude(x));
        let q: &mut [i8; 32] = &mut out.q[..].as_chunks_mut::<32>().0[b];
        if inverse == 0.0 {
            *q = [0; 32];
        } else {
            for (q, &x) in q.iter_mut().zip(x) {
                *q = to_i8(x, inverse);
            }
        }
        for half in 0..2 {
            let sum: i32 = q[GROUP * half..GROUP * (half + 1)]
                .iter()
                .map(|&q| i32::from(q))
                .sum();
            let at = slot[2 * b + half];
            out.s[at] = scale;
            out.sum[at] = sum as f32;
            out.scaled_sum[at] = scale * sum as f32;
        }
    }
}
