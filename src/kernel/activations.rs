//! The input rows of matrix products: as `f32`, and as signed bytes with scales where weights are quantized.

use super::generic::matmul::{panel_columns, x_panel_bytes};
use super::{CpuLevel, KernelError, Kernels, ThreadPool, for_each_chunk_mut};
use crate::memory;

/// Forms in which products need their activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forms {
    /// As they are: for float weights, and for [`super::Precision::Exact`].
    pub floats: bool,
    /// As bytes, for quantized weights.
    pub bytes: bool,
}

impl Forms {
    /// Both forms.
    pub const ALL: Self = Self {
        floats: true,
        bytes: true,
    };
}

/// Reusable buffers for the rows that go into [`super::matmul`]. No allocation once they have grown to the largest
/// number of rows and width in use.
#[derive(Debug)]
pub struct Activations {
    rows: usize,
    width: usize,
    /// `f32` from one row to the next: the width rounded up to whole vectors, plus some so that rows do not alias.
    stride: usize,
    floats: Vec<f32>,
    has_floats: bool,
    /// Panels of a few rows, as [`super::generic::quantize::quantize_panel`] writes them.
    bytes: Vec<Line>,
    panel_columns: usize,
    quantized_for: Option<CpuLevel>,
}

/// A line of the cache, so that panels begin at one.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl Line {
    const ZERO: Self = Self([0; 64]);
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
            has_floats: false,
            bytes: Vec::new(),
            panel_columns: 1,
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
        // The last panel may be filled up to eight columns.
        let columns = rows.checked_add(7).ok_or_else(overflow)?;
        let row = width.div_ceil(32).checked_mul(40).ok_or_else(overflow)?;
        let bytes = columns.checked_mul(row).ok_or_else(overflow)?;
        if floats > self.floats.len() {
            self.floats = memory::filled(0.0, floats, "activations")?;
        }
        if bytes.div_ceil(64) > self.bytes.len() {
            self.bytes = memory::filled(Line::ZERO, bytes.div_ceil(64), "quantized activations")?;
        }
        Ok(())
    }

    /// Takes `rows` contiguous rows of `width` values from `x`, in the forms that the products to come need.
    ///
    /// # Errors
    /// `x` does not have `rows · width` values, rows as bytes are not of whole blocks of 32, or the buffers had to grow
    /// and memory is short.
    pub fn set(
        &mut self,
        k: &Kernels,
        pool: &ThreadPool,
        x: &[f32],
        rows: usize,
        width: usize,
        forms: Forms,
    ) -> Result<(), KernelError> {
        let whole = width > 0 && (!forms.bytes || width.is_multiple_of(32));
        if rows.checked_mul(width) != Some(x.len()) || !whole {
            return Err(KernelError::Shape {
                action: "take activations",
                expected: format!(
                    "{rows} rows of {width} values, more than 0{}",
                    if forms.bytes { " and a multiple of 32" } else { "" }
                ),
                found: format!("{} values", x.len()),
            });
        }
        self.rows = 0;
        self.reserve(rows, width)?;
        self.width = width;
        self.stride = stride_of(width).unwrap_or(width);
        self.has_floats = forms.floats;
        if forms.floats {
            for (row, out) in x
                .chunks_exact(width)
                .zip(self.floats.chunks_exact_mut(self.stride))
            {
                out[..width].copy_from_slice(row);
                out[width..].fill(0.0);
            }
        }
        self.quantized_for = None;
        if forms.bytes {
            let columns = panel_columns(k.max_columns, rows);
            let panel = x_panel_bytes(width, columns);
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.bytes);
            let panels = &mut bytes[..rows.div_ceil(columns) * panel];
            for_each_chunk_mut(pool, panels, panel, |i, out| {
                let last = rows.min((i + 1) * columns);
                k.quantize_panel(&x[i * columns * width..last * width], width, columns, out);
            });
            self.panel_columns = columns;
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

    pub(super) fn quantized_for(&self) -> Option<CpuLevel> {
        self.quantized_for
    }

    pub(super) fn has_floats(&self) -> bool {
        self.has_floats
    }

    /// The panels of bytes, and their columns.
    pub(super) fn panels(&self) -> (*const u8, usize) {
        (self.bytes.as_ptr().cast(), self.panel_columns)
    }

    /// The rows as `f32`, and from one to the next.
    pub(super) fn floats(&self) -> (*const f32, usize) {
        (self.floats.as_ptr(), self.stride)
    }
}

/// Whole vectors of 16 values, and one more.
fn stride_of(width: usize) -> Option<usize> {
    width.checked_next_multiple_of(16)?.checked_add(16)
}
