//! IQ4_XS: blocks of 256 values, 136 bytes: `d` f16, high bits of the sub-scales (`u16`), 4 bytes of their low
//! nibbles, 128 bytes of 4-bit indices into the codebook of IQ4_NL.
//!
//! Sub-blocks have 32 values in 16 bytes, nibbles as in Q4_0. Sub-scales have 6 bits with offset 32.
//! Value = d · scale · CODEBOOK\[index\]. Source: gguf-py `quants.py`, class `IQ4_XS`.

use super::float::f16_to_f32;
use super::iq4_nl::CODEBOOK;

/// Sub-scale `s` of 8, −32…31.
#[inline(always)]
pub(crate) fn sub_scale(block: &[u8; BLOCK_BYTES], s: usize) -> i8 {
    let high = u16::from_le_bytes([block[2], block[3]]) >> (2 * s) & 3;
    let low = (block[4 + s / 2] >> (4 * (s % 2))) & 15;
    (low | ((high as u8) << 4)) as i8 - 32
}

/// Bytes of one block of 256 values.
pub const BLOCK_BYTES: usize = 136;

#[inline(always)]
pub(super) fn dequantize(src: &[u8], dst: &mut [f32]) {
    let blocks = src.as_chunks::<BLOCK_BYTES>().0;
    for (b, y) in blocks.iter().zip(dst.as_chunks_mut::<256>().0) {
        let d = f16_to_f32(u16::from_le_bytes([b[0], b[1]]));
        for s in 0..8 {
            let scale = d * f32::from(sub_scale(b, s));
            for j in 0..16 {
                let byte = b[8 + 16 * s + j];
                y[32 * s + j] = scale * f32::from(CODEBOOK[usize::from(byte & 15)]);
                y[32 * s + j + 16] = scale * f32::from(CODEBOOK[usize::from(byte >> 4)]);
            }
        }
    }
}
