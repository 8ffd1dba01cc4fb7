//! The input rows of matrix products: as `f32`, and as signed bytes with scales where weights are quantized.

use super::chunk::{CHUNK, COLUMN_TILE, XChunk};
use super::{CpuLevel, KernelError, Kernels};
use crate::memory;

/// Reusable buffers for the rows that go into [`super::matmul`]. No allocation once they have grown to the largest
/// number of rows and width in use.
#[derive(Debug)]
pub struct Activations {
    rows: usize,
    width: usize,
    /// `f32` from one row to the next: the width rounded up to whole vectors, plus one so that rows do not alias.
    stride: usize,
    floats: Vec<f32>,
    /// Panels of [`COLUMN_TILE`] rows; inside a panel chunk after chunk, each for all rows of the panel.
    chunks: Vec<XChunk>,
    n_chunks: usize,
    quantized_for: Option<CpuLevel>,
}

impl std::fmt::Debug for XChunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("XChunk")
    }
}

impl Activations {
    /// Buffers for up to `max_rows` rows of up to `max_width` values.
    ///
    /// # Errors
    /// Memory is short.
    pub fn new(max_rows: usize, max_width: usize) -> Result<Self, KernelError> {
        let mut a = Self {
            rows: 0,
            width: 0,
            stride: 0,
            floats: Vec::new(),
            chunks: Vec::new(),
            n_chunks: 0,
            quantized_for: None,
        };
        a.reserve(max_rows, max_width)?;
        Ok(a)
    }

    fn reserve(&mut self, rows: usize, width: usize) -> Result<(), KernelError> {
        let overflow = || memory::MemoryError::Overflow {
            what: "activations".into(),
            detail: format!("{rows} rows of {width} values"),
        };
        let stride = stride_of(width).ok_or_else(overflow)?;
        let floats = rows.checked_mul(stride).ok_or_else(overflow)?;
        let panel_rows = rows.checked_next_multiple_of(COLUMN_TILE).ok_or_else(overflow)?;
        let chunks = panel_rows
            .checked_mul(width.div_ceil(CHUNK))
            .ok_or_else(overflow)?;
        if floats > self.floats.len() {
            self.floats = memory::filled(0.0, floats, "activations")?;
        }
        if chunks > self.chunks.len() {
            self.chunks = memory::filled(XChunk::ZERO, chunks, "quantized activations")?;
        }
        Ok(())
    }

    /// Takes `rows` contiguous rows of `width` values from `x`; with `quantize` also as bytes, which products with
    /// quantized weights need (except [`super::Precision::Exact`] ones).
    ///
    /// # Errors
    /// `x` does not have `rows · width` values, or the buffers had to grow and memory is short.
    pub fn set(
        &mut self,
        k: &Kernels,
        x: &[f32],
        rows: usize,
        width: usize,
        quantize: bool,
    ) -> Result<(), KernelError> {
        if rows.checked_mul(width) != Some(x.len()) || width == 0 {
            return Err(KernelError::Shape {
                action: "take activations",
                expected: format!("{rows} rows of {width} > 0 values"),
                found: format!("{} values", x.len()),
            });
        }
        self.rows = 0;
        self.reserve(rows, width)?;
        self.width = width;
        self.stride = stride_of(width).unwrap_or(width);
        self.n_chunks = width.div_ceil(CHUNK);
        for (row, out) in x
            .chunks_exact(width)
            .zip(self.floats.chunks_exact_mut(self.stride))
        {
            out[..width].copy_from_slice(row);
            out[width..].fill(0.0);
        }
        self.quantized_for = None;
        if quantize {
            for (i, row) in x.chunks_exact(width).enumerate() {
                let first = i / COLUMN_TILE * self.n_chunks * COLUMN_TILE + i % COLUMN_TILE;
                for (j, values) in row.chunks(CHUNK).enumerate() {
                    k.quantize_chunk(values, &mut self.chunks[first + j * COLUMN_TILE]);
                }
            }
            self.quantized_for = Some(k.level());
        }
        self.rows = rows;
        Ok(())
    }

    /// Number of rows set last.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values per row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Row `i` as `f32`; empty where there is no such row.
    pub fn row(&self, i: usize) -> &[f32] {
        if i >= self.rows {
            return &[];
        }
        &self.floats[i * self.stride..][..self.width]
    }

    pub(super) fn quantized_for(&self) -> Option<CpuLevel> {
        self.quantized_for
    }

    pub(super) fn chunks(&self) -> (*const XChunk, usize) {
        (self.chunks.as_ptr(), self.n_chunks)
    }

    pub(super) fn floats(&self) -> (*const f32, usize) {
        (self.floats.as_ptr(), self.stride)
    }
}

/// Whole vectors of 16 values, and one more.
fn stride_of(width: usize) -> Option<usize> {
    width.checked_next_multiple_of(16)?.checked_add(16)
}
