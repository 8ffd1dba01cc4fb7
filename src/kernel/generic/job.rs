//! One matrix product as the workers that share it see it.

#![allow(
    unsafe_code,
    reason = "raw pointers into weights, activations and outputs shared by workers"
)]

use crate::kernel::Precision;
use crate::quant::TensorType;
use crate::quant::panel::PANEL_ROWS;

/// One weight matrix, its activations and its output, as workers see it. Lengths were checked when it was built.
#[derive(Clone, Copy)]
pub(crate) struct JobView {
    pub ty: TensorType,
    pub precision: Precision,
    /// Rows of float weights; panels of quantized ones.
    pub data: *const u8,
    /// The last panel, where it is not whole.
    pub tail: *const u8,
    pub row_bytes: usize,
    pub n_in: usize,
    pub n_out: usize,
    pub out: *mut f32,
    /// Activation rows used, and their numbers where they are a subset.
    pub columns: usize,
    pub subset: *const u32,
    /// Activations as bytes, in panels of `x_width` columns, or rows of bfloat16.
    pub x: *const u8,
    pub x_width: usize,
    pub x_f32: *const f32,
    pub x_stride: usize,
}

impl JobView {
    #[inline(always)]
    pub(super) unsafe fn x_row(&self, column: usize) -> usize {
        if self.subset.is_null() {
            column
        } else {
            // SAFETY: column < self.columns, the length of the subset.
            unsafe { *self.subset.add(column) as usize }
        }
    }
    #[inline(always)]
    pub(super) unsafe fn x_floats(&self, column: usize) -> *const f32 {
        // SAFETY: the row exists.
        unsafe { self.x_f32.add(self.x_row(column) * self.x_stride) }
    }
    #[inline(always)]
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "only x86-64 has such products")
    )]
    pub(crate) unsafe fn x_bf16(&self, column: usize) -> *const u8 {
        // SAFETY: the row exists; rows have the stride of those in f32, in values.
        unsafe { self.x.add(2 * self.x_row(column) * self.x_stride) }
    }
    #[inline(always)]
    pub(crate) unsafe fn put(&self, row: usize, column: usize, value: f32) {
        // SAFETY: row < n_out and column < columns; no other worker has this row.
        unsafe { *self.out.add(column * self.n_out + row) = value }
    }
    /// The panel of rows `16 · i …`.
    #[inline(always)]
    pub(super) unsafe fn panel(&self, i: usize) -> *const u8 {
        if (i + 1) * PANEL_ROWS <= self.n_out {
            // SAFETY: a whole panel of the matrix.
            unsafe { self.data.add(i * PANEL_ROWS * self.row_bytes) }
        } else {
            self.tail
        }
    }
}

/// An entry point that computes some panels (16 rows each) of one weight type.
pub(crate) type PanelsFn = unsafe fn(&JobView, usize, usize, &mut [u8]);
