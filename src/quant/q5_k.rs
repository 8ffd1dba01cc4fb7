//! Q5_K: blocks of 256 values, 176 bytes: `d` f16, `dmin` f16, 12 bytes of 6-bit sub-scales and minima, 32 bytes
//! of high bits, 128 bytes of low nibbles.
//!
//! Sub-blocks and nibbles as in Q4_K; bit `s` of high byte `l` is the fifth bit of value `32·s + l`.
//! Value = d · scale · q − dmin · min. Source: gguf-py `quants.py`, class `Q5_K`.

use super::TensorType;
use super::float::f16_to_f32;
use super::panel;
use super::q4_k::{quantize_block, sub_scale_min};
use super::search::Affine;

/// Bytes of one block of 256 values.
pub const BLOCK_BYTES: usize = 176;

#[inline(always)]
pub(super) fn dequantize(src: &[u8], dst: &mut [f32]) {
    let blocks = src.as_chunks::<BLOCK_BYTES>().0;
    for (b, y) in blocks.iter().zip(dst.as_chunks_mut::<256>().0) {
        let d = f16_to_f32(u16::from_le_bytes([b[0], b[1]]));
        let dmin = f16_to_f32(u16::from_le_bytes([b[2], b[3]]));
        for s in 0..8 {
            let (scale, min) = sub_scale_min(&b[4..16], s);
            let scale = d * f32::from(scale);
            let min = dmin * f32::from(min);
            for l in 0..32 {
                let low = (b[48 + 32 * (s / 2) + l] >> (4 * (s % 2))) & 15;
                let high = (b[16 + l] >> s) & 1;
                y[32 * s + l] = scale * f32::from(low | (high << 4)) - min;
            }
        }
    }
}

pub(super) fn quantize(src: &[f32], dst: &mut [u8]) {
    let how = Affine {
        n: 31.0,
        first: -0.5,
        tries: 15,
        absolute: false,
    };
    let blocks = dst.as_chunks_mut::<BLOCK_BYTES>().0;
    for (b, x) in blocks.iter_mut().zip(src.as_chunks::<256>().0) {
        let (head, q) = quantize_block(x, &how);
        b[..16].copy_from_slice(&head);
        panel::set_values(TensorType::Q5_K, &q, b);
    }
}
