//! The optional check that every weight is a finite number.

use crate::error::{Error, Result};
use crate::gguf::{Gguf, TensorData};
use crate::memory;
use crate::quant::dequantize_row;

/// Reads every tensor of a supported type once.
///
/// # Errors
/// The first NaN or infinite value, by tensor and position.
pub fn all_finite(gguf: &Gguf, data: &TensorData) -> Result<()> {
    const PIECE: usize = 4096;
    let mut values = memory::filled(0.0f32, PIECE, "checking tensors")?;
    for tensor in gguf.tensors().iter().filter(|t| t.ty.is_supported()) {
        let Some(bytes) = data.get(&tensor.name) else {
            continue;
        };
        // Every block length divides the piece.
        let piece_bytes = tensor.ty.row_bytes(PIECE).unwrap_or(bytes.len().max(1));
        for (piece, bytes) in bytes.chunks(piece_bytes).enumerate() {
            let n = bytes.len() / tensor.ty.block_bytes() * tensor.ty.block_len();
            dequantize_row(tensor.ty, bytes, &mut values[..n])?;
            if let Some(i) = values[..n].iter().position(|v| !v.is_finite()) {
                return Err(Error::InvalidModel(format!(
                    "tensor '{}': expected finite numbers, found {} at element {}",
                    tensor.name,
                    values[i],
                    piece * PIECE + i
                )));
            }
        }
    }
    Ok(())
}
