//! F16 and BF16: one 16-bit float per value, little-endian; F32: one 32-bit float per value.
//!
//! Source: IEEE 754 binary16; bfloat16 is the upper half of a binary32.

/// IEEE binary16 bits to `f32`, exactly; written without branches so that loops over it vectorise.
///
/// Needs a floating-point environment that keeps subnormal numbers (the default one).
#[inline(always)]
pub fn f16_to_f32(bits: u16) -> f32 {
    // 2^112 moves the exponent bias from 15 to 127; the product is exact, also for subnormal halves.
    const REBIAS: f32 = f32::from_bits((127 + 112) << 23);
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff) << 13;
    let finite = (f32::from_bits(magnitude) * REBIAS).to_bits();
    let special = magnitude | 0x7f80_0000;
    f32::from_bits(sign | if magnitude >= 0x0f80_0000 { special } else { finite })
}

/// bfloat16 bits to `f32`, exactly.
#[inline(always)]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// `f32` to bfloat16 bits, to nearest, ties to even; a NaN stays a NaN.
#[inline(always)]
pub fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if (bits & 0x7fff_ffff) > 0x7f80_0000 {
        return ((bits >> 16) | 0x40) as u16;
    }
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

#[inline(always)]
pub(super) fn dequantize_f32(src: &[u8], dst: &mut [f32]) {
    for (b, y) in src.as_chunks::<4>().0.iter().zip(dst) {
        *y = f32::from_le_bytes(*b);
    }
}

#[inline(always)]
pub(super) fn dequantize_f16(src: &[u8], dst: &mut [f32]) {
    for (b, y) in src.as_chunks::<2>().0.iter().zip(dst) {
        *y = f16_to_f32(u16::from_le_bytes(*b));
    }
}

#[inline(always)]
pub(super) fn dequantize_bf16(src: &[u8], dst: &mut [f32]) {
    for (b, y) in src.as_chunks::<2>().0.iter().zip(dst) {
        *y = bf16_to_f32(u16::from_le_bytes(*b));
    }
}

pub(super) fn quantize_f32(src: &[f32], dst: &mut [u8]) {
    for (b, x) in dst.as_chunks_mut::<4>().0.iter_mut().zip(src) {
        *b = x.to_le_bytes();
    }
}

pub(super) fn quantize_f16(src: &[f32], dst: &mut [u8]) {
    for (b, x) in dst.as_chunks_mut::<2>().0.iter_mut().zip(src) {
        *b = half::f16::from_f32_const(*x).to_le_bytes();
    }
}

pub(super) fn quantize_bf16(src: &[f32], dst: &mut [u8]) {
    for (b, x) in dst.as_chunks_mut::<2>().0.iter_mut().zip(src) {
        *b = f32_to_bf16(*x).to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_converts_as_the_half_crate_does() {
        for bits in 0..=u16::MAX {
            let ours = f16_to_f32(bits);
            let theirs = half::f16::from_bits(bits).to_f32_const();
            assert!(
                ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()),
                "{bits:#x}"
            );
            let ours = bf16_to_f32(bits);
            let theirs = half::bf16::from_bits(bits).to_f32_const();
            assert!(
                ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()),
                "{bits:#x}"
            );
        }
    }

    #[test]
    fn bf16_rounds_as_the_half_crate_does() {
        for i in 0..=u32::from(u16::MAX) {
            for low in [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let x = f32::from_bits((i << 16) | low);
                let theirs = half::bf16::from_f32_const(x);
                let ours = half::bf16::from_bits(f32_to_bf16(x));
                assert!(ours == theirs || (ours.is_nan() && theirs.is_nan()), "{x:?}");
            }
        }
    }
}
