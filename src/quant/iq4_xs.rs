//! IQ4_XS: blocks of 256 values, 136 bytes: `d` f16, high bits of the sub-scales (`u16`), 4 bytes of their low
//! nibbles, 128 bytes of 4-bit indices into the codebook of IQ4_NL.
//!
//! Sub-blocks have 32 values in 16 bytes, nibbles as in Q4_0. Sub-scales have 6 bits with offset 32.
//! Value = d · scale · CODEBOOK\[index\]. Source: gguf-py `quants.py`, class `IQ4_XS`.

use super::float::f16_to_f32;
use super::iq4_nl::CODEBOOK;
use super::quantize::{f16_bytes, nibbles, through_f16};
use super::search::{self, extreme, inverse, level, nearest_entry};

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

/// Scales of least squared error weighted by the squares of the values; the largest gets −32.
pub(super) fn quantize(src: &[f32], dst: &mut [u8]) {
    let blocks = dst.as_chunks_mut::<BLOCK_BYTES>().0;
    for (b, x) in blocks.iter_mut().zip(src.as_chunks::<256>().0) {
        let subs = x.as_chunks::<32>().0;
        let mut scales = [0.0; 8];
        for (scale, x) in scales.iter_mut().zip(subs) {
            *scale = search::codebook(x, &CODEBOOK);
        }
        let d = extreme(&scales) / -32.0;
        let (factor, d16) = (inverse(d), through_f16(d));
        b.fill(0);
        b[..2].copy_from_slice(&f16_bytes(d));
        let mut high = 0u16;
        for (s, x) in subs.iter().enumerate() {
            let sub = level(factor * scales[s], -32.0, 31.0);
            let stored = (sub + 32.0) as u8;
            b[4 + s / 2] |= (stored & 15) << (4 * (s % 2));
            high |= u16::from(stored >> 4) << (2 * s);
            let factor = inverse(d16 * sub);
            nibbles(
                &x.map(|v| nearest_entry(&CODEBOOK, v * factor) as u8),
                &mut b[8 + 16 * s..],
            );
        }
        b[2..4].copy_from_slice(&high.to_le_bytes());
    }
}
