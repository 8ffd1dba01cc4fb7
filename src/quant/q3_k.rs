//! Q3_K: blocks of 256 values, 110 bytes: 32 bytes of high bits, 64 bytes of low 2 bits, 12 bytes of 6-bit
//! sub-scales, `d` f16.
//!
//! Low bits are placed as in Q2_K. Bit `i / 32` of high byte `i % 32` belongs to value `i`: the value is
//! q − 4 where it is clear, q where it is set. The sub-scale of 16 values is stored with offset 32.
//! Source: gguf-py `quants.py`, class `Q3_K`.

use super::TensorType;
use super::float::f16_to_f32;
use super::panel;
use super::quantize::{f16_bytes, through_f16};
use super::search::{self, extreme, inverse, level};

/// Sub-scale `s` of 16, −32…31: four low bits from bytes 96…103, two high bits from bytes 104…107.
#[inline(always)]
pub(crate) fn sub_scale(block: &[u8; BLOCK_BYTES], s: usize) -> i8 {
    let low = (block[96 + s % 8] >> (4 * (s / 8))) & 15;
    let high = (block[104 + s % 4] >> (2 * (s / 4))) & 3;
    (low | (high << 4)) as i8 - 32
}

/// Bytes of one block of 256 values.
pub const BLOCK_BYTES: usize = 110;

#[inline(always)]
pub(super) fn dequantize(src: &[u8], dst: &mut [f32]) {
    let blocks = src.as_chunks::<BLOCK_BYTES>().0;
    for (b, y) in blocks.iter().zip(dst.as_chunks_mut::<256>().0) {
        let d = f16_to_f32(u16::from_le_bytes([b[108], b[109]]));
        for (i, y) in y.iter_mut().enumerate() {
            let scale = d * f32::from(sub_scale(b, i / 16));
            let low = (b[32 + 32 * (i / 128) + i % 32] >> (2 * (i / 32 % 4))) & 3;
            let high = (b[i % 32] >> (i / 32)) & 1;
            *y = scale * f32::from((low | (high << 2)) as i8 - 4);
        }
    }
}

/// Sub-scales of least squared error weighted by the squares of the values; the largest gets −32.
pub(super) fn quantize(src: &[f32], dst: &mut [u8]) {
    let blocks = dst.as_chunks_mut::<BLOCK_BYTES>().0;
    for (b, x) in blocks.iter_mut().zip(src.as_chunks::<256>().0) {
        let subs = x.as_chunks::<16>().0;
        let mut scales = [0.0; 16];
        for (scale, x) in scales.iter_mut().zip(subs) {
            *scale = search::refined(x, 4.0);
        }
        let d = extreme(&scales) / -32.0;
        let (factor, d16) = (inverse(d), through_f16(d));
        b.fill(0);
        b[108..].copy_from_slice(&f16_bytes(d));
        let mut q = [0; 256];
        for (s, (q, x)) in q.as_chunks_mut::<16>().0.iter_mut().zip(subs).enumerate() {
            let sub = level(factor * scales[s], -32.0, 31.0);
            let stored = (sub + 32.0) as u8;
            b[96 + s % 8] |= (stored & 15) << (4 * (s / 8));
            b[104 + s % 4] |= (stored >> 4) << (2 * (s / 4));
            let factor = inverse(d16 * sub);
            *q = x.map(|v| (level(v * factor, -4.0, 3.0) + 4.0) as u8);
        }
        panel::set_values(TensorType::Q3_K, &q, b);
    }
}
