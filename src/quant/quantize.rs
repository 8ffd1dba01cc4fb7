//! Quantizing rows: values to the blocks of a format.

use super::TensorType;
use super::{float, iq4_nl, iq4_xs, mxfp4, q2_k, q3_k, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0};

/// A row could not be quantized.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum QuantizeError {
    /// The type has no implementation.
    #[error("cannot quantize to {ty}: this version does not support the tensor type")]
    Unsupported {
        /// The type.
        ty: TensorType,
    },
    /// Values and bytes do not belong together.
    #[error("cannot quantize to {ty}: {values} values do not fit {bytes} bytes (blocks of {len} values in {block} bytes)", len = ty.block_len(), block = ty.block_bytes())]
    Length {
        /// The type.
        ty: TensorType,
        /// Length of the source.
        values: usize,
        /// Length of the destination.
        bytes: usize,
    },
    /// A value is infinite, not a number, or larger than the type can hold.
    #[error("cannot quantize to {ty}: value {position} of the row is {value}, expected at most {limit:e} in magnitude", limit = limit(*ty))]
    Value {
        /// The type.
        ty: TensorType,
        /// Place of the value in the row, from 0.
        position: usize,
        /// The value.
        value: f32,
    },
}

/// Largest magnitude a row of this type may have: its scales are F16, BF16 or a power of two.
fn limit(ty: TensorType) -> f32 {
    match ty {
        TensorType::F32 | TensorType::MXFP4 => f32::MAX,
        TensorType::BF16 => f32::from_bits(0x7f7f_0000),
        _ => 65504.0,
    }
}

/// Compresses `src` into `dst`, a whole number of blocks of `ty`. The same values give the same bytes on every machine.
///
/// F16 and BF16 round to nearest, ties to even. Formats of 32 values per block follow the reference of the `gguf` Python
/// package to the byte; the others search for their scales by weighted least squares.
///
/// # Errors
/// The type is not supported, `dst.len()` is not `ty.row_bytes(src.len())`, or a value is not finite or too large for
/// the type, which then names its position.
pub fn quantize_row(ty: TensorType, src: &[f32], dst: &mut [u8]) -> Result<(), QuantizeError> {
    if !ty.is_supported() {
        return Err(QuantizeError::Unsupported { ty });
    }
    if ty.row_bytes(src.len()) != Some(dst.len()) {
        return Err(QuantizeError::Length {
            ty,
            values: src.len(),
            bytes: dst.len(),
        });
    }
    let limit = limit(ty);
    if let Some(position) = src.iter().position(|v| v.is_nan() || v.abs() > limit) {
        return Err(QuantizeError::Value {
            ty,
            position,
            value: src[position],
        });
    }
    match ty {
        TensorType::F32 => float::quantize_f32(src, dst),
        TensorType::F16 => float::quantize_f16(src, dst),
        TensorType::BF16 => float::quantize_bf16(src, dst),
        TensorType::Q4_0 => q4_0::quantize(src, dst),
        TensorType::Q4_1 => q4_1::quantize(src, dst),
        TensorType::Q5_0 => q5_0::quantize(src, dst),
        TensorType::Q5_1 => q5_1::quantize(src, dst),
        TensorType::Q8_0 => q8_0::quantize(src, dst),
        TensorType::Q2_K => q2_k::quantize(src, dst),
        TensorType::Q3_K => q3_k::quantize(src, dst),
        TensorType::Q4_K => q4_k::quantize(src, dst),
        TensorType::Q5_K => q5_k::quantize(src, dst),
        TensorType::Q6_K => q6_k::quantize(src, dst),
        TensorType::IQ4_NL => iq4_nl::quantize(src, dst),
        TensorType::IQ4_XS => iq4_xs::quantize(src, dst),
        TensorType::MXFP4 => mxfp4::quantize(src, dst),
        _ => {}
    }
    Ok(())
}

/// Bytes of `x` as F16.
#[inline(always)]
pub(super) fn f16_bytes(x: f32) -> [u8; 2] {
    half::f16::from_f32_const(x).to_le_bytes()
}

/// `x` as it comes back from F16.
#[inline(always)]
pub(super) fn through_f16(x: f32) -> f32 {
    float::f16_to_f32(half::f16::from_f32_const(x).to_bits())
}

/// Smallest and largest value.
#[inline(always)]
pub(super) fn range(x: &[f32; 32]) -> (f32, f32) {
    x.iter()
        .fold((x[0], x[0]), |(low, high), &v| (low.min(v), high.max(v)))
}

/// Packs 32 nibbles: value `j` is the low and `j + 16` the high one of byte `j`.
#[inline(always)]
pub(super) fn nibbles(q: &[u8; 32], out: &mut [u8]) {
    for (j, out) in out.iter_mut().enumerate().take(16) {
        *out = (q[j] & 15) | (q[j + 16] << 4);
    }
}

/// The fifth bits of 32 values as a word.
#[inline(always)]
pub(super) fn fifth_bits(q: &[u8; 32]) -> u32 {
    (0..32).fold(0, |word, i| word | u32::from(q[i] >> 4) << i)
}
