//! Shape of a store and where an element lies in a block of it.

use super::BLOCK_TOKENS;
use crate::error::{Error, Result};
use crate::kernel::{Kernels, RowType};
use crate::quant::TensorType;

/// Keys and values of a token, the same for every layer, and how a block holds those of [`BLOCK_TOKENS`] tokens:
///
/// ```text
/// layer 0: keys   [token 0: head 0, head 1, ...][token 1: ...] ...
///          values [token 0: head 0, head 1, ...][token 1: ...] ...
/// layer 1: ...
/// ```
///
/// A head is `head_dim` elements of the store's type; eight-bit ones have their scale, an `f32`, before them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Layers.
    pub n_layers: usize,
    /// Key/value heads of a layer.
    pub n_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Type of the elements stored.
    pub row_type: RowType,
}

impl Shape {
    /// Checks that there is something to store and that a block fits the address space.
    ///
    /// # Errors
    /// When it does not.
    pub(super) fn check(&self) -> Result<()> {
        let parts = [
            ("n_layers", self.n_layers),
            ("n_kv_heads", self.n_kv_heads),
            ("head_dim", self.head_dim),
        ];
        for (name, value) in parts {
            if value == 0 {
                return Err(Error::InvalidArgument(format!(
                    "cannot create a key/value cache: {name} must be set, found 0"
                )));
            }
        }
        let bytes = (|| {
            let head = self.row_type.row_bytes(self.head_dim)?;
            let token = head.checked_mul(self.n_kv_heads)?;
            let layer = token.checked_mul(2 * BLOCK_TOKENS)?;
            // The same shape as floats has to fit as well: that is what comes in.
            token.checked_mul(8)?;
            layer.checked_mul(self.n_layers)
        })();
        match bytes {
            Some(bytes) if bytes <= isize::MAX as usize => Ok(()),
            _ => Err(Error::InvalidArgument(format!(
                "cannot create a key/value cache: a block of {} layers of {} heads of {} elements does not fit the address space",
                self.n_layers, self.n_kv_heads, self.head_dim
            ))),
        }
    }

    /// Elements of the keys of one token and layer, and of its values.
    pub fn token_elements(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Bytes from one head to the next.
    pub fn head_bytes(&self) -> usize {
        self.row_type.row_bytes(self.head_dim).unwrap_or(0)
    }

    /// Bytes from one token to the next: the keys of one token and layer, or its values.
    pub fn token_bytes(&self) -> usize {
        self.n_kv_heads * self.head_bytes()
    }

    /// Bytes of a block.
    pub fn block_bytes(&self) -> usize {
        2 * BLOCK_TOKENS * self.token_bytes() * self.n_layers
    }

    /// Where the keys of `n` tokens from `slot` on lie in a block.
    pub(super) fn keys(&self, layer: usize, slot: usize, n: usize) -> std::ops::Range<usize> {
        let start = (2 * layer * BLOCK_TOKENS + slot) * self.token_bytes();
        start..start + n * self.token_bytes()
    }

    /// Where their values lie.
    pub(super) fn values(&self, layer: usize, slot: usize, n: usize) -> std::ops::Range<usize> {
        let start = ((2 * layer + 1) * BLOCK_TOKENS + slot) * self.token_bytes();
        start..start + n * self.token_bytes()
    }
}

/// Keys or values of some tokens as they come in: `[token][head][element]`.
#[derive(Debug, Clone, Copy)]
pub enum Elements<'a> {
    /// As floats, converted to the type of the store.
    F32(&'a [f32]),
    /// In the type and layout of the store, taken over bit for bit.
    Stored(&'a [u8]),
}

impl<'a> Elements<'a> {
    /// Checks that there are `n` tokens of them.
    pub(super) fn check(&self, shape: &Shape, n: usize, what: &str) -> Result<()> {
        match self {
            Self::F32(x) => expect(x.len(), n.checked_mul(shape.token_elements()), what, "elements"),
            Self::Stored(x) => expect(x.len(), n.checked_mul(shape.token_bytes()), what, "bytes"),
        }
    }

    /// Those of `n` tokens from token `first` on.
    pub(super) fn part(&self, shape: &Shape, first: usize, n: usize) -> Elements<'a> {
        let range = |unit: usize| first * unit..(first + n) * unit;
        match self {
            Self::F32(x) => Self::F32(&x[range(shape.token_elements())]),
            Self::Stored(x) => Self::Stored(&x[range(shape.token_bytes())]),
        }
    }

    /// Writes them as a block holds them.
    pub(super) fn write(&self, kernels: &Kernels, shape: &Shape, out: &mut [u8]) {
        match (self, shape.row_type) {
            (Self::Stored(x), _) => out.copy_from_slice(x),
            (Self::F32(x), RowType::Q8) => {
                let heads = out.chunks_exact_mut(shape.head_bytes());
                for (out, x) in heads.zip(x.chunks_exact(shape.head_dim)) {
                    kernels.store_row(RowType::Q8, x, out);
                }
            }
            (Self::F32(x), ty) => kernels.store_row(ty, x, out),
        }
    }
}

/// Where keys or values of some tokens go: `[token][head][element]`.
#[derive(Debug)]
pub enum ElementsMut<'a> {
    /// As floats, converted from the type of the store.
    F32(&'a mut [f32]),
    /// In the type and layout of the store.
    Stored(&'a mut [u8]),
}

impl ElementsMut<'_> {
    /// Checks that there is room for `n` tokens exactly.
    pub(super) fn check(&self, shape: &Shape, n: usize, what: &str) -> Result<()> {
        match self {
            Self::F32(x) => expect(x.len(), n.checked_mul(shape.token_elements()), what, "elements"),
            Self::Stored(x) => expect(x.len(), n.checked_mul(shape.token_bytes()), what, "bytes"),
        }
    }

    /// Fills tokens from `first` on with what a block holds.
    pub(super) fn read(&mut self, kernels: &Kernels, shape: &Shape, first: usize, rows: &[u8]) -> Result<()> {
        match self {
            Self::Stored(out) => {
                let start = first * shape.token_bytes();
                out[start..start + rows.len()].copy_from_slice(rows);
            }
            Self::F32(out) => {
                let start = first * shape.token_elements();
                let n = rows.len() / shape.token_bytes() * shape.token_elements();
                widen(kernels, shape, rows, &mut out[start..start + n])?;
            }
        }
        Ok(())
    }
}

/// Converts whole tokens to floats.
fn widen(kernels: &Kernels, shape: &Shape, rows: &[u8], out: &mut [f32]) -> Result<()> {
    let ty = match shape.row_type {
        RowType::F32 => TensorType::F32,
        RowType::F16 => TensorType::F16,
        RowType::BF16 => TensorType::BF16,
        RowType::Q8 => {
            let heads = rows.chunks_exact(shape.head_bytes());
            for (row, out) in heads.zip(out.chunks_exact_mut(shape.head_dim)) {
                let Some((scale, values)) = row.split_first_chunk::<4>() else {
                    continue;
                };
                let scale = f32::from_le_bytes(*scale);
                for (o, &v) in out.iter_mut().zip(values) {
                    *o = scale * f32::from(v.cast_signed());
                }
            }
            return Ok(());
        }
    };
    Ok(kernels.dequantize(ty, rows, out)?)
}

fn expect(found: usize, expected: Option<usize>, what: &str, unit: &str) -> Result<()> {
    match expected {
        Some(expected) if expected == found => Ok(()),
        Some(expected) => Err(Error::InvalidArgument(format!(
            "{what}: expected {expected} {unit}, found {found}"
        ))),
        None => Err(Error::InvalidArgument(format!(
            "{what}: more {unit} than memory can hold"
        ))),
    }
}
