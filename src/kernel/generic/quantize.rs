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
    if let Some(whole) = x.as_chunks::<CHUNK>().0.first() {
        quantize_whole(whole, slot, out);
    } else {
        let mut padded = [0.0f32; CHUNK];
        padded[..x.len()].copy_from_slice(x);
        quantize_whole(&padded, slot, out);
    }
}

/// In passes over the whole chunk, each of which compiles to vector code.
#[inline(always)]
fn quantize_whole(x: &[f32; CHUNK], slot: &[usize; 16], out: &mut XChunk) {
    let mut scales = [0.0f32; 8];
    let mut inverses = [0.0f32; 8];
    for b in 0..8 {
        scales[b] = largest_magnitude(&x[32 * b..32 * b + 32]);
    }
    for b in 0..8 {
        (scales[b], inverses[b]) = scale_of(scales[b]);
    }
    for b in 0..8 {
        for i in 32 * b..32 * b + 32 {
            // A value that is not finite gives an arbitrary byte, and its block's scale is NaN.
            out.q[i] = to_i8(x[i], inverses[b]);
        }
    }
    let mut sums = [0i16; 16];
    for g in 0..16 {
        let mut sum = 0i16;
        for i in GROUP * g..GROUP * (g + 1) {
            sum += i16::from(out.q[i]);
        }
        sums[g] = sum;
    }
    for g in 0..16 {
        let (at, scale, sum) = (slot[g], scales[g / 2], f32::from(sums[g]));
        out.s[at] = scale;
        out.sum[at] = sum;
        out.scaled_sum[at] = scale * sum;
    }
}
