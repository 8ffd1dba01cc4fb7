//! IQ4_NL: blocks of 32 values, 18 bytes: `d` f16, 16 bytes of 4-bit indices into a fixed codebook.
//!
//! Nibbles as in Q4_0. Value = d · CODEBOOK\[index\]. Source: gguf-py `quants.py`, class `IQ4_NL`.

use super::float::f16_to_f32;
use super::quantize::{f16_bytes, nibbles};
use super::search::{self, inverse, nearest_entry};

/// The non-linear levels of IQ4_NL and IQ4_XS.
pub const CODEBOOK: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// Bytes of one block of 32 values.
pub const BLOCK_BYTES: usize = 18;

#[inline(always)]
pub(super) fn dequantize(src: &[u8], dst: &mut [f32]) {
    let blocks = src.as_chunks::<BLOCK_BYTES>().0;
    for (b, y) in blocks.iter().zip(dst.as_chunks_mut::<32>().0) {
        let d = f16_to_f32(u16::from_le_bytes([b[0], b[1]]));
        for j in 0..16 {
            y[j] = d * f32::from(CODEBOOK[usize::from(b[2 + j] & 15)]);
            y[j + 16] = d * f32::from(CODEBOOK[usize::from(b[2 + j] >> 4)]);
        }
    }
}

/// The scale of least squared error weighted by the squares of the values.
pub(super) fn quantize(src: &[f32], dst: &mut [u8]) {
    let blocks = dst.as_chunks_mut::<BLOCK_BYTES>().0;
    for (b, x) in blocks.iter_mut().zip(src.as_chunks::<32>().0) {
        let d = search::codebook(x, &CODEBOOK);
        let factor = inverse(d);
        b[..2].copy_from_slice(&f16_bytes(d));
        nibbles(
            &x.map(|v| nearest_entry(&CODEBOOK, v * factor) as u8),
            &mut b[2..],
        );
    }
}
