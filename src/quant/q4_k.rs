//! Q4_K: blocks of 256 values, 144 bytes: `d` f16, `dmin` f16, 12 bytes of 6-bit sub-scales and minima,
//! 128 bytes of 4-bit `q`.
//!
//! Sub-blocks have 32 values; sub-block `2p` is the low, `2p + 1` the high nibbles of bytes `32p … 32p + 31`.
//! Value = d · scale · q − dmin · min. Source: gguf-py `quants.py`, class `Q4_K`.

use super::TensorType;
use super::float::f16_to_f32;
use super::panel;
use super::quantize::{f16_bytes, through_f16};
use super::search::{self, Affine, inverse, level};

/// The 6-bit scale and minimum of sub-block `s` of 8, from the 12 bytes that Q4_K and Q5_K share.
///
/// Sub-blocks 0…3 have the low 6 bits of bytes `s` and `s + 4`; the others have nibbles of byte `s + 4` and, as
/// their two high bits, the high bits of bytes `s − 4` and `s`.
#[inline(always)]
pub(crate) fn sub_scale_min(packed: &[u8], s: usize) -> (u8, u8) {
    if s < 4 {
        (packed[s] & 63, packed[s + 4] & 63)
    } else {
        (
            (packed[s + 4] & 15) | ((packed[s - 4] >> 2) & 0x30),
            (packed[s + 4] >> 4) | ((packed[s] >> 2) & 0x30),
        )
    }
}

/// Bytes of one block of 256 values.
pub const BLOCK_BYTES: usize = 144;

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
                let q = (b[16 + 32 * (s / 2) + l] >> (4 * (s % 2))) & 15;
                y[32 * s + l] = scale * f32::from(q) - min;
            }
        }
    }
}

pub(super) fn quantize(src: &[f32], dst: &mut [u8]) {
    let how = Affine {
        n: 15.0,
        first: -1.0,
        tries: 20,
        absolute: false,
    };
    let blocks = dst.as_chunks_mut::<BLOCK_BYTES>().0;
    for (b, x) in blocks.iter_mut().zip(src.as_chunks::<256>().0) {
        let (head, q) = quantize_block(x, &how);
        b[..16].copy_from_slice(&head);
        panel::set_values(TensorType::Q4_K, &q, b);
    }
}

/// The first 16 bytes and the values of a block of Q4_K or Q5_K: sub-scales and minima of least squared error, in which
/// a value weighs its magnitude and the root mean square of its sub-block.
pub(super) fn quantize_block(x: &[f32; 256], how: &Affine) -> ([u8; 16], [u8; 256]) {
    let subs = x.as_chunks::<32>().0;
    let (mut scales, mut mins) = ([0.0f32; 8], [0.0f32; 8]);
    for (s, x) in subs.iter().enumerate() {
        let rms = (x.iter().map(|v| v * v).sum::<f32>() / 32.0).sqrt();
        (scales[s], mins[s]) = search::affine(x, &x.map(|v| rms + v.abs()), how);
    }
    let d = scales.iter().copied().fold(0.0, f32::max) / 63.0;
    let dmin = mins.iter().copied().fold(0.0, f32::max) / 63.0;
    let mut head = [0; 16];
    head[..2].copy_from_slice(&f16_bytes(d));
    head[2..4].copy_from_slice(&f16_bytes(dmin));
    let mut q = [0; 256];
    for (s, (q, x)) in q.as_chunks_mut::<32>().0.iter_mut().zip(subs).enumerate() {
        let scale = level(scales[s] * inverse(d), 0.0, 63.0);
        let min = level(mins[s] * inverse(dmin), 0.0, 63.0);
        set_sub_scale_min(&mut head[4..], s, scale as u8, min as u8);
        let (factor, min) = (inverse(through_f16(d) * scale), through_f16(dmin) * min);
        *q = x.map(|v| level((v + min) * factor, 0.0, how.n) as u8);
    }
    (head, q)
}

/// The inverse of [`sub_scale_min`] on bytes that were zero.
fn set_sub_scale_min(packed: &mut [u8], s: usize, scale: u8, min: u8) {
    if s < 4 {
        packed[s] |= scale;
        packed[s + 4] |= min;
    } else {
        packed[s + 4] = (scale & 15) | (min << 4);
        packed[s - 4] |= (scale >> 4) << 6;
        packed[s] |= (min >> 4) << 6;
    }
}
