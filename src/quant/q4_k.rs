//! Q4_K: blocks of 256 values, 144 bytes: `d` f16, `dmin` f16, 12 bytes of 6-bit sub-scales and minima,
//! 128 bytes of 4-bit `q`.
//!
//! Sub-blocks have 32 values; sub-block `2p` is the low, `2p + 1` the high nibbles of bytes `32p … 32p + 31`.
//! Value = d · scale · q − dmin · min. Source: gguf-py `quants.py`, class `Q4_K`.

use super::float::f16_to_f32;

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
