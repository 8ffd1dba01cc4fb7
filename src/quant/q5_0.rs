//! Q5_0: blocks of 32 values, 22 bytes: `d` f16, 32 high bits (`u32`), 16 bytes of low nibbles.
//!
//! Byte `j` holds the low 4 bits of values `j` and `j + 16`; bit `i` of the word is the fifth bit of value `i`.
//! Value = d · (q − 16). Source: gguf-py `quants.py`, class `Q5_0`.

use super::float::f16_to_f32;
use super::quantize::{f16_bytes, fifth_bits, nibbles};
use super::search::{extreme, inverse};

/// Bytes of one block of 32 values.
pub const BLOCK_BYTES: usize = 22;

#[inline(always)]
pub(super) fn dequantize(src: &[u8], dst: &mut [f32]) {
    let blocks = src.as_chunks::<BLOCK_BYTES>().0;
    for (b, y) in blocks.iter().zip(dst.as_chunks_mut::<32>().0) {
        let d = f16_to_f32(u16::from_le_bytes([b[0], b[1]]));
        let high = u32::from_le_bytes([b[2], b[3], b[4], b[5]]);
        for j in 0..16 {
            let low = b[6 + j];
            let q0 = (low & 15) | (((high >> j) & 1) << 4) as u8;
            let q1 = (low >> 4) | (((high >> (j + 16)) & 1) << 4) as u8;
            y[j] = d * f32::from(q0 as i8 - 16);
            y[j + 16] = d * f32::from(q1 as i8 - 16);
        }
    }
}

/// The value of largest magnitude gets −16.
pub(super) fn quantize(src: &[f32], dst: &mut [u8]) {
    let blocks = dst.as_chunks_mut::<BLOCK_BYTES>().0;
    for (b, x) in blocks.iter_mut().zip(src.as_chunks::<32>().0) {
        let d = extreme(x) / -16.0;
        let factor = inverse(d);
        let q = x.map(|v| ((v * factor + 16.5) as u8).min(31));
        b[..2].copy_from_slice(&f16_bytes(d));
        b[2..6].copy_from_slice(&fifth_bits(&q).to_le_bytes());
        nibbles(&q, &mut b[6..]);
    }
}
