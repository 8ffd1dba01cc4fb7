//! Q6_K: blocks of 256 values, 210 bytes: 128 bytes of low nibbles, 64 bytes of high 2 bits, 16 signed sub-scales,
//! `d` f16.
//!
//! In each half of 128 values, value `64·n + l` (n = 0, 1; l < 64) has nibble `n` of low byte `l`; value `32·p + l`
//! (l < 32) has bits `2p`, `2p + 1` of high byte `l`. Sub-scales cover 16 values. Value = d · scale · (q − 32).
//! Source: gguf-py `quants.py`, class `Q6_K`.

use super::TensorType;
use super::float::f16_to_f32;
use super::panel;
use super::quantize::{f16_bytes, through_f16};
use super::search::{self, extreme, inverse, level};

/// Bytes of one block of 256 values.
pub const BLOCK_BYTES: usize = 210;

#[inline(always)]
pub(super) fn dequantize(src: &[u8], dst: &mut [f32]) {
    let blocks = src.as_chunks::<BLOCK_BYTES>().0;
    for (b, y) in blocks.iter().zip(dst.as_chunks_mut::<256>().0) {
        let d = f16_to_f32(u16::from_le_bytes([b[208], b[209]]));
        for (i, y) in y.iter_mut().enumerate() {
            let scale = d * f32::from(b[192 + i / 16] as i8);
            let low = (b[64 * (i / 128) + i % 64] >> (4 * (i / 64 % 2))) & 15;
            let high = (b[128 + 32 * (i / 128) + i % 32] >> (2 * (i / 32 % 4))) & 3;
            *y = scale * f32::from((low | (high << 4)) as i8 - 32);
        }
    }
}

/// Sub-scales of least squared error weighted by the squares of the values; the largest gets −128.
pub(super) fn quantize(src: &[f32], dst: &mut [u8]) {
    let blocks = dst.as_chunks_mut::<BLOCK_BYTES>().0;
    for (b, x) in blocks.iter_mut().zip(src.as_chunks::<256>().0) {
        let subs = x.as_chunks::<16>().0;
        let mut scales = [0.0; 16];
        for (scale, x) in scales.iter_mut().zip(subs) {
            *scale = search::symmetric(x, 32.0);
        }
        let d = extreme(&scales) / -128.0;
        let (factor, d16) = (inverse(d), through_f16(d));
        b[208..].copy_from_slice(&f16_bytes(d));
        let mut q = [0; 256];
        for (s, (q, x)) in q.as_chunks_mut::<16>().0.iter_mut().zip(subs).enumerate() {
            let sub = level(factor * scales[s], -128.0, 127.0);
            b[192 + s] = sub as i8 as u8;
            let factor = inverse(d16 * sub);
            *q = x.map(|v| (level(v * factor, -32.0, 31.0) + 32.0) as u8);
        }
        panel::set_values(TensorType::Q6_K, &q, b);
    }
}
