//! Q5_1: blocks of 32 values, 24 bytes: `d` f16, `m` f16, 32 high bits (`u32`), 16 bytes of low nibbles.
//!
//! Bits as in Q5_0. Value = d · q + m. Source: gguf-py `quants.py`, class `Q5_1`.

use super::float::f16_to_f32;
use super::quantize::{f16_bytes, fifth_bits, nibbles, range};
use super::search::inverse;

/// Bytes of one block of 32 values.
pub const BLOCK_BYTES: usize = 24;

#[inline(always)]
pub(super) fn dequantize(src: &[u8], dst: &mut [f32]) {
    let blocks = src.as_chunks::<BLOCK_BYTES>().0;
    for (b, y) in blocks.iter().zip(dst.as_chunks_mut::<32>().0) {
        let d = f16_to_f32(u16::from_le_bytes([b[0], b[1]]));
        let m = f16_to_f32(u16::from_le_bytes([b[2], b[3]]));
        let high = u32::from_le_bytes([b[4], b[5], b[6], b[7]]);
        for j in 0..16 {
            let low = b[8 + j];
            let q0 = (low & 15) | (((high >> j) & 1) << 4) as u8;
            let q1 = (low >> 4) | (((high >> (j + 16)) & 1) << 4) as u8;
            y[j] = d * f32::from(q0) + m;
            y[j + 16] = d * f32::from(q1) + m;
        }
    }
}

/// The smallest value gets 0, the largest 31.
pub(super) fn quantize(src: &[f32], dst: &mut [u8]) {
    let blocks = dst.as_chunks_mut::<BLOCK_BYTES>().0;
    for (b, x) in blocks.iter_mut().zip(src.as_chunks::<32>().0) {
        let (low, high) = range(x);
        let d = (high - low) / 31.0;
        let factor = inverse(d);
        let q = x.map(|v| (((v - low) * factor + 0.5) as u8).min(31));
        b[..2].copy_from_slice(&f16_bytes(d));
        b[2..4].copy_from_slice(&f16_bytes(low));
        b[4..8].copy_from_slice(&fifth_bits(&q).to_le_bytes());
        nibbles(&q, &mut b[8..]);
    }
}
