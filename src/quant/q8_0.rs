//! Q8_0: blocks of 32 values, 34 bytes: `d` f16, 32 signed bytes `q`.
//!
//! Value = q · d. Source: gguf-py `quants.py`, class `Q8_0`.

use super::float::f16_to_f32;
use super::quantize::f16_bytes;
use super::search::{extreme, inverse};

/// Bytes of one block of 32 values.
pub const BLOCK_BYTES: usize = 34;

#[inline(always)]
pub(super) fn dequantize(src: &[u8], dst: &mut [f32]) {
    let blocks = src.as_chunks::<BLOCK_BYTES>().0;
    for (b, y) in blocks.iter().zip(dst.as_chunks_mut::<32>().0) {
        let d = f16_to_f32(u16::from_le_bytes([b[0], b[1]]));
        for j in 0..32 {
            y[j] = f32::from(b[2 + j] as i8) * d;
        }
    }
}

/// The value of largest magnitude gets ±127; halves round away from zero.
pub(super) fn quantize(src: &[f32], dst: &mut [u8]) {
    let blocks = dst.as_chunks_mut::<BLOCK_BYTES>().0;
    for (b, x) in blocks.iter_mut().zip(src.as_chunks::<32>().0) {
        let d = extreme(x).abs() / 127.0;
        let factor = inverse(d);
        b[..2].copy_from_slice(&f16_bytes(d));
        for (q, v) in b[2..].iter_mut().zip(x) {
            let v = v * factor;
            // Casting drops the fraction and keeps within −128…127.
            *q = (v + 0.5f32.copysign(v)) as i8 as u8;
        }
    }
}
