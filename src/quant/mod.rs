//! Tensor element types and their block formats: layout, scalar dequantization and quantization, one file per format.
//!
//! Every format keeps its values in blocks along a row. The functions here are the readable definition and the
//! oracle of the tests; the fast paths live in [`crate::kernel`]. Operations are plain multiplications and
//! additions in the order of the `gguf` Python package, so results equal it bit for bit.

pub mod float;
pub mod iq4_nl;
pub mod iq4_xs;
pub mod mxfp4;
pub mod panel;
pub mod q2_k;
pub mod q3_k;
pub mod q4_0;
pub mod q4_1;
pub mod q4_k;
pub mod q5_0;
pub mod q5_1;
pub mod q5_k;
pub mod q6_k;
pub mod q8_0;
mod quantize;
mod search;

pub use quantize::{QuantizeError, quantize_row};

/// Element type of a GGUF tensor. The numbers are those of the file format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(
    non_camel_case_types,
    reason = "the field's names for the formats: Q4_K, IQ4_XS"
)]
#[allow(
    missing_docs,
    reason = "each name is the definition; the format is documented in its own file"
)]
#[repr(u32)]
#[non_exhaustive]
pub enum TensorType {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q8_1 = 9,
    Q2_K = 10,
    Q3_K = 11,
    Q4_K = 12,
    Q5_K = 13,
    Q6_K = 14,
    Q8_K = 15,
    IQ2_XXS = 16,
    IQ2_XS = 17,
    IQ3_XXS = 18,
    IQ1_S = 19,
    IQ4_NL = 20,
    IQ3_S = 21,
    IQ2_S = 22,
    IQ4_XS = 23,
    I8 = 24,
    I16 = 25,
    I32 = 26,
    I64 = 27,
    F64 = 28,
    IQ1_M = 29,
    BF16 = 30,
    TQ1_0 = 34,
    TQ2_0 = 35,
    MXFP4 = 39,
}

/// Type, name, values per block, bytes per block. Sizes: `GGML_QUANT_SIZES` of gguf-py.
const TYPES: [(TensorType, &str, usize, usize); 32] = [
    (TensorType::F32, "F32", 1, 4),
    (TensorType::F16, "F16", 1, 2),
    (TensorType::Q4_0, "Q4_0", 32, 18),
    (TensorType::Q4_1, "Q4_1", 32, 20),
    (TensorType::Q5_0, "Q5_0", 32, 22),
    (TensorType::Q5_1, "Q5_1", 32, 24),
    (TensorType::Q8_0, "Q8_0", 32, 34),
    (TensorType::Q8_1, "Q8_1", 32, 40),
    (TensorType::Q2_K, "Q2_K", 256, 84),
    (TensorType::Q3_K, "Q3_K", 256, 110),
    (TensorType::Q4_K, "Q4_K", 256, 144),
    (TensorType::Q5_K, "Q5_K", 256, 176),
    (TensorType::Q6_K, "Q6_K", 256, 210),
    (TensorType::Q8_K, "Q8_K", 256, 292),
    (TensorType::IQ2_XXS, "IQ2_XXS", 256, 66),
    (TensorType::IQ2_XS, "IQ2_XS", 256, 74),
    (TensorType::IQ3_XXS, "IQ3_XXS", 256, 98),
    (TensorType::IQ1_S, "IQ1_S", 256, 50),
    (TensorType::IQ4_NL, "IQ4_NL", 32, 18),
    (TensorType::IQ3_S, "IQ3_S", 256, 110),
    (TensorType::IQ2_S, "IQ2_S", 256, 82),
    (TensorType::IQ4_XS, "IQ4_XS", 256, 136),
    (TensorType::I8, "I8", 1, 1),
    (TensorType::I16, "I16", 1, 2),
    (TensorType::I32, "I32", 1, 4),
    (TensorType::I64, "I64", 1, 8),
    (TensorType::F64, "F64", 1, 8),
    (TensorType::IQ1_M, "IQ1_M", 256, 56),
    (TensorType::BF16, "BF16", 1, 2),
    (TensorType::TQ1_0, "TQ1_0", 256, 54),
    (TensorType::TQ2_0, "TQ2_0", 256, 66),
    (TensorType::MXFP4, "MXFP4", 32, 17),
];

impl TensorType {
    /// The type with number `id` in a GGUF file, if there is one (removed numbers have none).
    pub fn from_id(id: u32) -> Option<Self> {
        TYPES.iter().find(|t| t.0 as u32 == id).map(|t| t.0)
    }

    /// Every type of the file format that this version knows by name, supported or not.
    pub fn all() -> impl Iterator<Item = Self> {
        TYPES.iter().map(|t| t.0)
    }

    /// The number in a GGUF file.
    pub fn id(self) -> u32 {
        self as u32
    }

    fn entry(self) -> &'static (TensorType, &'static str, usize, usize) {
        // Every variant is in the table, which a test holds; the first row keeps this total.
        TYPES.iter().find(|t| t.0 == self).unwrap_or(&TYPES[0])
    }

    /// The name used by the field, such as `Q4_K`.
    pub fn name(self) -> &'static str {
        self.entry().1
    }

    /// Values per block; 1 for types without blocks.
    pub fn block_len(self) -> usize {
        self.entry().2
    }

    /// Bytes per block.
    pub fn block_bytes(self) -> usize {
        self.entry().3
    }

    /// Bytes of a row of `n` values; `None` where `n` is not a multiple of the block or the size overflows.
    pub fn row_bytes(self, n: usize) -> Option<usize> {
        let (_, _, len, bytes) = *self.entry();
        n.is_multiple_of(len)
            .then(|| (n / len).checked_mul(bytes))
            .flatten()
    }

    /// Whether tensors of this type can be dequantized and multiplied.
    pub fn is_supported(self) -> bool {
        use TensorType::*;
        matches!(
            self,
            F32 | F16
                | BF16
                | Q4_0
                | Q4_1
                | Q5_0
                | Q5_1
                | Q8_0
                | Q2_K
                | Q3_K
                | Q4_K
                | Q5_K
                | Q6_K
                | IQ4_NL
                | IQ4_XS
                | MXFP4
        )
    }

    /// Whether the type stores scaled integers, as opposed to F32, F16 and BF16.
    pub fn is_quantized(self) -> bool {
        !matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }
}

impl std::fmt::Display for TensorType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A row could not be dequantized.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantError {
    /// The type has no implementation.
    #[error("cannot dequantize {ty}: this version does not support the tensor type")]
    Unsupported {
        /// The type.
        ty: TensorType,
    },
    /// Bytes and values do not belong together.
    #[error("cannot dequantize {ty}: {values} values do not fit {bytes} bytes (blocks of {len} values in {block} bytes)", len = ty.block_len(), block = ty.block_bytes())]
    Length {
        /// The type.
        ty: TensorType,
        /// Length of the source.
        bytes: usize,
        /// Length of the destination.
        values: usize,
    },
}

/// Expands `src`, a whole number of blocks of `ty`, into `dst`.
///
/// # Errors
/// The type is not supported, or `src.len()` is not `ty.row_bytes(dst.len())`.
pub fn dequantize_row(ty: TensorType, src: &[u8], dst: &mut [f32]) -> Result<(), QuantError> {
    if !ty.is_supported() {
        return Err(QuantError::Unsupported { ty });
    }
    if ty.row_bytes(dst.len()) != Some(src.len()) {
        return Err(QuantError::Length {
            ty,
            bytes: src.len(),
            values: dst.len(),
        });
    }
    expand(ty, src, dst);
    Ok(())
}

/// [`dequantize_row`] of a supported type with lengths that fit. Inlined, so that an entry point of a CPU level compiles
/// it with the level's features.
#[inline(always)]
pub(crate) fn expand(ty: TensorType, src: &[u8], dst: &mut [f32]) {
    match ty {
        TensorType::F32 => float::dequantize_f32(src, dst),
        TensorType::F16 => float::dequantize_f16(src, dst),
        TensorType::BF16 => float::dequantize_bf16(src, dst),
        TensorType::Q4_0 => q4_0::dequantize(src, dst),
        TensorType::Q4_1 => q4_1::dequantize(src, dst),
        TensorType::Q5_0 => q5_0::dequantize(src, dst),
        TensorType::Q5_1 => q5_1::dequantize(src, dst),
        TensorType::Q8_0 => q8_0::dequantize(src, dst),
        TensorType::Q2_K => q2_k::dequantize(src, dst),
        TensorType::Q3_K => q3_k::dequantize(src, dst),
        TensorType::Q4_K => q4_k::dequantize(src, dst),
        TensorType::Q5_K => q5_k::dequantize(src, dst),
        TensorType::Q6_K => q6_k::dequantize(src, dst),
        TensorType::IQ4_NL => iq4_nl::dequantize(src, dst),
        TensorType::IQ4_XS => iq4_xs::dequantize(src, dst),
        TensorType::MXFP4 => mxfp4::dequantize(src, dst),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_answers_to_its_own_id_and_name() {
        for (i, t) in TYPES.iter().enumerate() {
            assert_eq!(TensorType::from_id(t.0.id()), Some(t.0));
            assert_eq!(t.0.name(), format!("{:?}", t.0));
            assert!(TYPES[..i].iter().all(|u| u.0 != t.0));
        }
        for id in [4, 5, 31, 32, 33, 36, 37, 38, 1000, u32::MAX] {
            assert_eq!(TensorType::from_id(id), None);
        }
    }

    #[test]
    fn row_bytes_refuses_partial_blocks_and_overflow() {
        assert_eq!(TensorType::Q4_K.row_bytes(512), Some(288));
        assert_eq!(TensorType::Q4_K.row_bytes(128), None);
        assert_eq!(TensorType::F32.row_bytes(usize::MAX), None);
        assert_eq!(TensorType::F64.row_bytes(usize::MAX / 4), None);
    }

    #[test]
    fn an_unsupported_type_and_a_wrong_length_are_errors_that_name_the_type() {
        let e = dequantize_row(TensorType::IQ1_S, &[0; 50], &mut [0.0; 256]).unwrap_err();
        assert!(e.to_string().contains("IQ1_S"), "{e}");
        let e = dequantize_row(TensorType::Q8_0, &[0; 33], &mut [0.0; 32]).unwrap_err();
        assert!(
            e.to_string().contains("Q8_0") && e.to_string().contains("33 bytes"),
            "{e}"
        );
    }
}
