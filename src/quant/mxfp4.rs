//! MXFP4: blocks of 32 values, 17 bytes: one power-of-two exponent byte `e`, 16 bytes of 4-bit floats (E2M1).
//!
//! Nibbles as in Q4_0. The codebook holds the E2M1 values doubled, so the scale is 2^(e − 128).
//! Source: OCP Microscaling Formats v1.0; gguf-py `quants.py`, class `MXFP4`.

use super::quantize::nibbles;
use super::search::extreme;

/// Bytes of one block of 32 values.
pub const BLOCK_BYTES: usize = 17;

/// E2M1 values, doubled to be integers.
pub const CODEBOOK: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// 2^(e − 128): half of the E8M0 scale, subnormal for the two smallest exponents.
#[inline(always)]
pub fn half_scale(e: u8) -> f32 {
    f32::from_bits(if e < 2 {
        0x0020_0000 << e
    } else {
        u32::from(e - 1) << 23
    })
}

#[inline(always)]
pub(super) fn dequantize(src: &[u8], dst: &mut [f32]) {
    let blocks = src.as_chunks::<BLOCK_BYTES>().0;
    for (b, y) in blocks.iter().zip(dst.as_chunks_mut::<32>().0) {
        let d = half_scale(b[0]);
        for j in 0..16 {
            y[j] = d * f32::from(CODEBOOK[usize::from(b[1 + j] & 15)]);
            y[j + 16] = d * f32::from(CODEBOOK[usize::from(b[1 + j] >> 4)]);
        }
    }
}

/// The exponent is that of the largest magnitude less that of the largest level, as the specification has it; each value
/// gets the nearest level, the smaller one of two.
pub(super) fn quantize(src: &[f32], dst: &mut [u8]) {
    const MIDDLES: [f32; 7] = [0.5, 1.5, 2.5, 3.5, 5.0, 7.0, 10.0];
    let blocks = dst.as_chunks_mut::<BLOCK_BYTES>().0;
    for (b, x) in blocks.iter_mut().zip(src.as_chunks::<32>().0) {
        let max = extreme(x).abs();
        // The biased exponent; 0 for zero and subnormal numbers, which are below every level but zero.
        let e = ((max.to_bits() >> 23) as u8).saturating_sub(2);
        let d = half_scale(e);
        let code = |v: f32| {
            let level = MIDDLES.iter().filter(|m| v.abs() > **m * d).count() as u8;
            if v < 0.0 && level > 0 { level | 8 } else { level }
        };
        b[0] = e;
        nibbles(&x.map(code), &mut b[1..]);
    }
}
