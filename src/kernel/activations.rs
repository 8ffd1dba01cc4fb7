//! The input rows of matrix products: as `f32`, and as signed bytes with scales where weights are quantized.

#![allow(
    unsafe_code,
    reason = "tasks write disjoint rows and columns of shared buffers"
)]

use super::generic::columns::{X_BLOCK, panel_columns, x_panel_bytes};
use super::generic::quantize::LONG_BLOCK;
use super::pool::Pieces;
use super::{CpuLevel, KernelError, Kernels, Precision, RowType, ThreadPool};
use crate::memory;
use crate::quant::TensorType;

/// Forms in which products need their activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forms {
    /// As they are: for float weights, and for [`super::Precision::Exact`].
    pub floats: bool,
    /// As bytes with a scale per 32 values, for weights in blocks of 32.
    pub bytes: bool,
    /// As bytes with a scale per 256 values, for weights in blocks of 256.
    pub coarse: bool,
    /// Rounded to bfloat16, for weights in half precision.
    pub bf16: bool,
}

impl Forms {
    /// Every form.
    pub const ALL: Self = Self {
        floats: true,
        bytes: true,
        coarse: true,
        bf16: true,
    };

    /// No form.
    pub const NONE: Self = Self {
        floats: false,
        bytes: false,
        coarse: false,
        bf16: false,
    };

    /// The form that a product with weights of a type needs.
    pub fn of(k: &Kernels, ty: TensorType, precision: Precision) -> Self {
        let mut forms = Self::NONE;
        let form = match (ty, precision) {
            (_, Precision::Exact) => &mut forms.floats,
            (TensorType::BF16, _) | (TensorType::F16, Precision::Half) if k.bf16.is_some() => &mut forms.bf16,
            _ if !ty.is_quantized() => &mut forms.floats,
            _ if ty.block_len() == LONG_BLOCK => &mut forms.coarse,
            _ => &mut forms.bytes,
        };
        *form = true;
        forms
    }

    /// The forms of both.
    pub fn and(self, other: Self) -> Self {
        Self {
            floats: self.floats || other.floats,
            bytes: self.bytes || other.bytes,
            coarse: self.coarse || other.coarse,
            bf16: self.bf16 || other.bf16,
        }
    }

    /// Values per block that rows in these forms are made of.
    fn block_len(self) -> usize {
        match self {
            Self { coarse: true, .. } => LONG_BLOCK,
            Self { bytes: true, .. } => 32,
            _ => 1,
        }
    }
}

/// Reusable buffers for the rows that go into [`super::matmul`]. No allocation once they have grown to the largest
/// number of rows and width in use.
#[derive(Debug)]
pub struct Activations {
    rows: usize,
    width: usize,
    /// `f32` from one row to the next: the width rounded up to whole vectors, plus some so that rows do not alias.
    stride: usize,
    floats: Vec<Line>,
    /// Rows of bfloat16 with the same stride in values.
    bf16: Vec<Line>,
    /// What was set last.
    forms: Forms,
    /// Panels of a few rows, as [`super::generic::quantize::quantize_row`] writes them.
    bytes: Vec<Line>,
    coarse: Vec<Line>,
    panel_columns: usize,
    quantized_for: Option<CpuLevel>,
}

/// A line of the cache, so that rows and panels begin at one.
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
            bf16: Vec::new(),
            forms: Forms::NONE,
            bytes: Vec::new(),
            coarse: Vec::new(),
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
        let row = width.div_ceil(32).checked_mul(X_BLOCK).ok_or_else(overflow)?;
        let bytes = columns.checked_mul(row).ok_or_else(overflow)?;
        // Strides are whole lines of either.
        let (floats, bf16, bytes) = (floats / 16, floats / 32, bytes.div_ceil(64));
        for (buffer, lines, what) in [
            (&mut self.floats, floats, "activations"),
            (&mut self.bf16, bf16, "activations"),
            (&mut self.bytes, bytes, "quantized activations"),
            (&mut self.coarse, bytes, "quantized activations"),
        ] {
            if lines > buffer.len() {
                *buffer = memory::filled(Line::ZERO, lines, what)?;
            }
        }
        Ok(())
    }

    /// Takes `rows` contiguous rows of `width` values from `x`, in the forms that the products to come need.
    ///
    /// # Errors
    /// `x` does not have `rows · width` values, rows as bytes are not of whole blocks, or the buffers had to grow and memory
    /// is short.
    pub fn set(
        &mut self,
        k: &Kernels,
        pool: &ThreadPool,
        x: &[f32],
        rows: usize,
        width: usize,
        forms: Forms,
    ) -> Result<(), KernelError> {
        self.begin(x.len(), rows, width, forms)?;
        self.take(k, pool, rows, &|i, out| {
            out.copy_from_slice(&x[i * width..(i + 1) * width]);
        });
        Ok(())
    }

    /// Takes `rows` rows of `width` values that are computed on the way: `f(i, from, out)` writes row `i` to `out`, and may
    /// change the row of `source` (of `width` values, too) that it is made from. The rows are quantized while they are in
    /// the cache.
    ///
    /// # Errors
    /// As [`Activations::set`].
    #[allow(clippy::too_many_arguments, reason = "what set has, and how rows are made")]
    pub fn set_from(
        &mut self,
        k: &Kernels,
        pool: &ThreadPool,
        source: &mut [f32],
        rows: usize,
        width: usize,
        forms: Forms,
        f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
    ) -> Result<(), KernelError> {
        self.begin(source.len(), rows, width, forms)?;
        let source = Pieces::of(source);
        self.take(k, pool, rows, &|i, out| {
            // SAFETY: the slice is borrowed exclusively, and each row is taken once.
            let from = unsafe { source.get(i, width) };
            f(i, from, out);
        });
        Ok(())
    }

    /// Makes room for rows made from `found` values.
    fn begin(&mut self, found: usize, rows: usize, width: usize, forms: Forms) -> Result<(), KernelError> {
        let block = forms.block_len();
        let whole = width > 0 && width.is_multiple_of(block);
        if rows.checked_mul(width) != Some(found) || !whole {
            return Err(KernelError::Shape {
                action: "take activations",
                expected: format!("{rows} rows of {width} values, more than 0 and a multiple of {block}"),
                found: format!("{found} values"),
            });
        }
        self.rows = 0;
        self.reserve(rows, width)?;
        self.width = width;
        self.stride = stride_of(width).unwrap_or(width);
        self.forms = forms;
        self.quantized_for = None;
        Ok(())
    }

    /// Calls `write(i, row)` once for every row, and brings what it wrote into the forms wanted.
    fn take(
        &mut self,
        k: &Kernels,
        pool: &ThreadPool,
        rows: usize,
        write: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) {
        let (width, stride, forms) = (self.width, self.stride, self.forms);
        let columns = panel_columns(k.max_columns, rows);
        let panel = x_panel_bytes(width, columns);
        let floats = Pieces::of(bytemuck::cast_slice_mut::<_, f32>(&mut self.floats));
        let bf16 = Pieces::of(bytemuck::cast_slice_mut::<_, u16>(&mut self.bf16));
        let bytes = Pieces::of(bytemuck::cast_slice_mut::<_, u8>(&mut self.bytes));
        let coarse = Pieces::of(bytemuck::cast_slice_mut::<_, u8>(&mut self.coarse));
        let wanted = [(forms.bytes, false, &bytes), (forms.coarse, true, &coarse)];
        // Neighbouring columns share cache lines, so a task takes a panel, or a thread's share of a few rows.
        let together = rows.div_ceil(pool.threads()).clamp(1, columns);
        pool.run(rows.div_ceil(together), &|task, worker| {
            for i in task * together..rows.min((task + 1) * together) {
                // SAFETY: the worker's scratch memory is its own while the task runs.
                let scratch: &mut [f32] = bytemuck::cast_slice_mut(unsafe { pool.scratch(worker) });
                let row = if forms.floats || width > scratch.len() {
                    // SAFETY: held exclusively, and one task has this row.
                    unsafe { floats.get(i, stride) }
                } else {
                    &mut scratch[..width]
                };
                let (row, rest) = row.split_at_mut(width);
                write(i, row);
                rest.fill(0.0);
                if forms.bf16 {
                    // SAFETY: held exclusively, and one task has this row.
                    let (out, rest) = unsafe { bf16.get(i, stride) }.split_at_mut(width);
                    k.store_row(RowType::BF16, row, bytemuck::cast_slice_mut(out));
                    rest.fill(0);
                }
                // Columns past the last repeat it.
                let at = i % columns;
                let copies = if i + 1 == rows { columns - at } else { 1 };
                for (_, coarse, out) in wanted.iter().filter(|w| w.0) {
                    // SAFETY: `begin` made room for all panels, and one task has these columns.
                    unsafe {
                        let panel = out.at(i / columns * panel);
                        k.quantize_row(row, (at, copies, columns), *coarse, panel);
                    }
                }
            }
        });
        self.panel_columns = columns;
        self.quantized_for = (forms.bytes || forms.coarse).then(|| k.level());
        self.rows = rows;
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

    /// Whether the rows are there in these forms.
    pub(super) fn has(&self, forms: Forms) -> bool {
        self.forms.and(forms) == self.forms
    }

    /// The panels of bytes, and their columns.
    pub(super) fn panels(&self, coarse: bool) -> (*const u8, usize) {
        let bytes = if coarse { &self.coarse } else { &self.bytes };
        (bytes.as_ptr().cast(), self.panel_columns)
    }

    /// The rows as bfloat16, as far apart in values as those in `f32`.
    pub(super) fn bf16(&self) -> *const u8 {
        self.bf16.as_ptr().cast()
    }

    /// The rows as `f32`, and from one to the next.
    pub(super) fn floats(&self) -> (*const f32, usize) {
        (self.floats.as_ptr().cast(), self.stride)
    }
}

/// Whole vectors of 32 values, and one more, so that rows do not alias.
fn stride_of(width: usize) -> Option<usize> {
    width.checked_next_multiple_of(32)?.checked_add(32)
}
