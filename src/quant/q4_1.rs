//! Q4_1: blocks of 32 values, 20 bytes: `d` f16, `m` f16, 16 bytes of 4-bit `q`.
//!
//! Byte `j` holds value `j` in its low and value `j + 16` in its high nibble. Value = d · q + m.
//! Source: gguf-py `quants.py`, class `Q4_1`.

use super::float::f16_to_f32;
use super::quantize::{f16_bytes, nibbles, range};
use super::search::inverse;

/// Bytes of one block of 32 values.
pub const BLOCK_BYTES: usize = 20;

#[inline(always)]
pub(super) fn dequantize(src: &[u8], dst: &mut [f32]) {
    let blocks = src.as_chunks::<BLOCK_BYTES>().0;
    for (b, y) in blocks.iter().zip(dst.as_chunks_mut::<32>().0) {
        let d = f16_to_f32(u16::from_le_bytes([b[0], b[1]]));
        let m = f16_to_f32(u16::from_le_bytes([b[2], b[3]]));
        for j in 0..16 {
            y[j] = d * f32::from(b[4 + j] & 15) + m;
            y[j + 16] = d * f32::from(b[4 + j] >> 4) + m;
        }
    }
}

/// The smallest value gets 0, the largest 15.
pub(super) fn quantize(src: &[f32], dst: &mut [u8]) {
    let blocks = dst.as_chunks_mut::<BLOCK_BYTES>().0;
    for (b, x) in blocks.iter_mut().zip(src.as_chunks::<32>().0) {
        let (low, high) = range(x);
        let d = (high - low) / 15.0;
        let factor = inverse(d);
        b[..2].copy_from_slice(&f16_bytes(d));
        b[2..4].copy_from_slice(&f16_bytes(low));
        nibbles(
            &x.map(|v| (((v - low) * factor + 0.5) as u8).min(15)),
            &mut b[4..],
        );
    }
}
