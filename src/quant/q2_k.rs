//! Q2_K: blocks of 256 values, 84 bytes: 16 bytes of sub-scales, 64 bytes of 2-bit `q`, `d` f16, `dmin` f16.
//!
//! Sub-block `s` of 16 values has scale d · (low nibble of byte `s`) and minimum dmin · (high nibble).
//! Value `128·h + 32·p + l` sits in byte `32·h + l` of `q`, bits `2p` and `2p + 1`.
//! Value = scale · q − minimum. Source: gguf-py `quants.py`, class `Q2_K`.

use super::TensorType;
use super::float::f16_to_f32;
use super::panel;
use super::quantize::{f16_bytes, through_f16};
use super::search::{self, Affine, inverse, level};

/// Bytes of one block of 256 values.
pub const BLOCK_BYTES: usize = 84;

#[inline(always)]
pub(super) fn dequantize(src: &[u8], dst: &mut [f32]) {
    let blocks = src.as_chunks::<BLOCK_BYTES>().0;
    for (b, y) in blocks.iter().zip(dst.as_chunks_mut::<256>().0) {
        let d = f16_to_f32(u16::from_le_bytes([b[80], b[81]]));
        let dmin = f16_to_f32(u16::from_le_bytes([b[82], b[83]]));
        for (i, y) in y.iter_mut().enumerate() {
            let scale = d * f32::from(b[i / 16] & 15);
            let min = dmin * f32::from(b[i / 16] >> 4);
            let q = (b[16 + 32 * (i / 128) + i % 32] >> (2 * (i / 32 % 4))) & 3;
            *y = scale * f32::from(q) - min;
        }
    }
}

/// Sub-scales and minima of least magnitude of error weighted by the magnitude of the values.
pub(super) fn quantize(src: &[f32], dst: &mut [u8]) {
    let how = Affine {
        n: 3.0,
        first: -0.5,
        tries: 15,
        absolute: true,
    };
    let blocks = dst.as_chunks_mut::<BLOCK_BYTES>().0;
    for (b, x) in blocks.iter_mut().zip(src.as_chunks::<256>().0) {
        let subs = x.as_chunks::<16>().0;
        let (mut scales, mut mins) = ([0.0f32; 16], [0.0f32; 16]);
        for (s, x) in subs.iter().enumerate() {
            (scales[s], mins[s]) = search::affine(x, &x.map(f32::abs), &how);
        }
        let d = scales.iter().copied().fold(0.0, f32::max) / 15.0;
        let dmin = mins.iter().copied().fold(0.0, f32::max) / 15.0;
        b[80..82].copy_from_slice(&f16_bytes(d));
        b[82..].copy_from_slice(&f16_bytes(dmin));
        let mut q = [0; 256];
        for (s, (q, x)) in q.as_chunks_mut::<16>().0.iter_mut().zip(subs).enumerate() {
            let scale = level(scales[s] * inverse(d), 0.0, 15.0);
            let min = level(mins[s] * inverse(dmin), 0.0, 15.0);
            b[s] = scale as u8 | (min as u8) << 4;
            let (factor, min) = (inverse(through_f16(d) * scale), through_f16(dmin) * min);
            *q = x.map(|v| level((v + min) * factor, 0.0, 3.0) as u8);
        }
        panel::set_values(TensorType::Q2_K, &q, b);
    }
}
