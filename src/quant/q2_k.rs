//! Q2_K: blocks of 256 values, 84 bytes: 16 bytes of sub-scales, 64 bytes of 2-bit `q`, `d` f16, `dmin` f16.
//!
//! Sub-block `s` of 16 values has scale d · (low nibble of byte `s`) and minimum dmin · (high nibble).
//! Value `128·h + 32·p + l` sits in byte `32·h + l` of `q`, bits `2p` and `2p + 1`.
//! Value = scale · q − minimum. Source: gguf-py `quants.py`, class `Q2_K`.

use super::float::f16_to_f32;

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
