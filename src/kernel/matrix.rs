//! Matrix products: weights times rows of activations, spread over a thread pool.

#![allow(
    unsafe_code,
    reason = "workers write disjoint parts of the outputs through raw pointers"
)]

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::generic::columns::{X_BLOCK, x_panel_bytes};
use super::generic::job::JobView;
use super::generic::matmul::SCRATCH as OF_PRODUCTS;
use super::parts::Parts;
use super::pool::SCRATCH;
use super::{Activations, Forms, KernelError, Kernels, ThreadPool};
use crate::memory;
use crate::quant::panel::{self, PANEL_ROWS};
use crate::quant::{TensorType, dequantize_row};

/// No block of a type with kernels has more bytes.
const MAX_BLOCK_BYTES: usize = 256;

/// A weight matrix of `n_out` rows of `n_in` values: rows in the file's layout where the type is a float, otherwise
/// panels of 16 rows ([`crate::quant::panel`]) as [`pack`] makes them.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    ty: TensorType,
    n_in: usize,
    n_out: usize,
    data: &'a [u8],
    tail: &'a [u8],
}

/// Packs a matrix of `n_out` contiguous rows of `n_in` values where it lies, and answers the last panel where it is not
/// whole; the bytes of its rows in `data` are no longer used then. Floats stay as they are.
///
/// # Errors
/// As [`Matrix::new`], or memory is short; `data` may be packed in part then.
pub fn pack(
    pool: &ThreadPool,
    ty: TensorType,
    n_in: usize,
    n_out: usize,
    data: &mut [u8],
) -> Result<Vec<u8>, KernelError> {
    let row_bytes = check(ty, n_in, n_out, data.len())?;
    if !ty.is_quantized() {
        return Ok(Vec::new());
    }
    let panel = PANEL_ROWS * row_bytes;
    let (whole, rest) = data.split_at_mut(n_out / PANEL_ROWS * panel);
    let mut tail = Vec::new();
    if !rest.is_empty() {
        tail = memory::filled(0, panel, "a panel of weights")?;
        panel::pack(ty, row_bytes, rest, &mut tail);
    }
    // Rows that a worker's scratch memory does not hold get memory of their own, once for all of them.
    let own = if panel > SCRATCH { panel } else { 0 };
    let own = Mutex::new(memory::filled(0u8, own, "a panel of weights")?);
    let base = Base(whole.as_mut_ptr());
    let base = &base;
    pool.run(whole.len() / panel, &|i, worker| {
        // SAFETY: whole panels of a slice that this function holds exclusively, one for each task; the worker's scratch
        // memory is its own while the task runs.
        let (panel, scratch) = unsafe {
            let first = base.0.wrapping_add(i * panel);
            (std::slice::from_raw_parts_mut(first, panel), pool.scratch(worker))
        };
        let mut own =
            (panel.len() > scratch.len()).then(|| own.lock().unwrap_or_else(PoisonError::into_inner));
        let rows = match &mut own {
            Some(own) => &mut own[..panel.len()],
            None => &mut scratch[..panel.len()],
        };
        rows.copy_from_slice(panel);
        panel::pack(ty, row_bytes, rows, panel);
    });
    Ok(tail)
}

/// The panels of a matrix, which tasks take one each.
struct Base(*mut u8);
// SAFETY: see above.
unsafe impl Sync for Base {}

/// Checks type and lengths, and answers the bytes of a row.
fn check(ty: TensorType, n_in: usize, n_out: usize, len: usize) -> Result<usize, KernelError> {
    if !ty.is_supported() {
        return Err(KernelError::UnsupportedType(ty));
    }
    let row = ty.row_bytes(n_in).filter(|_| n_in > 0);
    match row.map(|b| (b, b.checked_mul(n_out))) {
        Some((row, Some(bytes))) if bytes == len => Ok(row),
        found => Err(KernelError::Shape {
            action: "use a weight matrix",
            expected: match found {
                Some((_, Some(b))) => format!("{b} bytes for {n_out} rows of {n_in} {ty} values"),
                _ => format!("rows of whole blocks of {} {ty} values", ty.block_len()),
            },
            found: format!("{len} bytes, {n_in} values per row"),
        }),
    }
}

impl<'a> Matrix<'a> {
    /// A matrix over what [`pack`] left in `data`, and its answer.
    ///
    /// # Errors
    /// The type has no kernels, `n_in` is not a multiple of its block, `data` has not exactly the rows' bytes, or `tail`
    /// is not the panel that goes with it.
    pub fn new(
        ty: TensorType,
        n_in: usize,
        n_out: usize,
        data: &'a [u8],
        tail: &'a [u8],
    ) -> Result<Self, KernelError> {
        let row_bytes = check(ty, n_in, n_out, data.len())?;
        let partial = ty.is_quantized() && !n_out.is_multiple_of(PANEL_ROWS);
        let expected = if partial { PANEL_ROWS * row_bytes } else { 0 };
        if tail.len() != expected {
            return Err(KernelError::Shape {
                action: "use a weight matrix",
                expected: format!("a last panel of {expected} bytes"),
                found: format!("{}", tail.len()),
            });
        }
        Ok(Self {
            ty,
            n_in,
            n_out,
            data,
            tail,
        })
    }

    /// Element type.
    pub fn ty(&self) -> TensorType {
        self.ty
    }

    /// Values per row: the width of the input.
    pub fn n_in(&self) -> usize {
        self.n_in
    }

    /// Rows: the width of the output.
    pub fn n_out(&self) -> usize {
        self.n_out
    }

    fn row_bytes(&self) -> usize {
        self.data.len() / self.n_out.max(1)
    }

    /// Writes row `i`, dequantized, to `out` of [`Matrix::n_in`] values.
    ///
    /// # Errors
    /// There is no such row, or `out` has another length.
    pub fn read_row(&self, i: usize, out: &mut [f32]) -> Result<(), KernelError> {
        if i >= self.n_out || out.len() != self.n_in {
            return Err(KernelError::Shape {
                action: "read a row of a weight matrix",
                expected: format!("a row below {} into {} values", self.n_out, self.n_in),
                found: format!("row {i}, {} values", out.len()),
            });
        }
        let row = self.row_bytes();
        let unsupported = |_| KernelError::UnsupportedType(self.ty);
        if !self.ty.is_quantized() {
            return dequantize_row(self.ty, &self.data[i * row..(i + 1) * row], out).map_err(unsupported);
        }
        let first = i / PANEL_ROWS * PANEL_ROWS;
        let panel = if first + PANEL_ROWS <= self.n_out {
            &self.data[first * row..(first + PANEL_ROWS) * row]
        } else {
            self.tail
        };
        let mut block = [0; MAX_BLOCK_BYTES];
        let block = &mut block[..self.ty.block_bytes()];
        for (b, out) in out.chunks_exact_mut(self.ty.block_len()).enumerate() {
            panel::unpack_block(self.ty, panel, b, i - first, block);
            dequantize_row(self.ty, block, out).map_err(unsupported)?;
        }
        Ok(())
    }
}

/// A matrix with its memory.
#[derive(Debug, Clone)]
pub struct Packed {
    ty: TensorType,
    n_in: usize,
    n_out: usize,
    data: Vec<u8>,
    tail: Vec<u8>,
}

impl Packed {
    /// Copies and packs a matrix of `n_out` contiguous rows of `n_in` values.
    ///
    /// # Errors
    /// As [`pack`].
    pub fn new(
        pool: &ThreadPool,
        ty: TensorType,
        n_in: usize,
        n_out: usize,
        rows: &[u8],
    ) -> Result<Self, KernelError> {
        let mut data = memory::with_capacity(rows.len(), "a weight matrix")?;
        data.extend_from_slice(rows);
        let tail = pack(pool, ty, n_in, n_out, &mut data)?;
        Ok(Self {
            ty,
            n_in,
            n_out,
            data,
            tail,
        })
    }

    /// The matrix.
    ///
    /// # Errors
    /// None that packing has not found.
    pub fn matrix(&self) -> Result<Matrix<'_>, KernelError> {
        Matrix::new(self.ty, self.n_in, self.n_out, &self.data, &self.tail)
    }
}

/// How weights are multiplied. `F32` weights, and half-precision ones where the level has no products of them, always
/// meet `f32` activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Quantized weights meet activations as signed bytes, in integer products; `BF16` weights meet activations rounded
    /// to bfloat16; `F16` weights meet `f32`.
    #[default]
    Native,
    /// As `Native`, but `F16` weights are rounded to bfloat16 too.
    Half,
    /// Weights expanded to `f32`, `f32` activations: slow, for comparison.
    Exact,
}

/// One product of a [`matmul`]: `out` is \[rows\]\[n_out\], row-major.
#[derive(Debug)]
pub struct MatmulJob<'a> {
    weight: Matrix<'a>,
    out: *mut f32,
    out_len: usize,
    precision: Precision,
    rows: Option<&'a [u32]>,
    _out: PhantomData<&'a mut [f32]>,
}

// SAFETY: `out` stands for the exclusive slice it was made from; workers write disjoint elements of it.
unsafe impl Send for MatmulJob<'_> {}
// SAFETY: a shared job gives no access to `out` outside `matmul`, which takes jobs exclusively.
unsafe impl Sync for MatmulJob<'_> {}

impl<'a> MatmulJob<'a> {
    /// `out` ← every activation row times `weight`.
    pub fn new(weight: Matrix<'a>, out: &'a mut [f32]) -> Self {
        Self {
            weight,
            out: out.as_mut_ptr(),
            out_len: out.len(),
            precision: Precision::default(),
            rows: None,
            _out: PhantomData,
        }
    }

    /// Sets the precision; the default is [`Precision::Native`].
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Uses only these activation rows, in this order; `out` is then \[rows.len()\]\[n_out\].
    pub fn rows(mut self, rows: &'a [u32]) -> Self {
        self.rows = Some(rows);
        self
    }

    fn columns(&self, x: &Activations) -> usize {
        self.rows.map_or(x.rows(), <[u32]>::len)
    }

    /// Panels of rows to compute.
    fn panels(&self, x: &Activations) -> usize {
        if self.columns(x) == 0 {
            0
        } else {
            self.weight.n_out.div_ceil(PANEL_ROWS)
        }
    }

    fn check(&self, k: &Kernels, x: &Activations) -> Result<(), KernelError> {
        let shape = |expected, found| KernelError::Shape {
            action: "multiply by a weight matrix",
            expected,
            found,
        };
        let w = &self.weight;
        if w.n_in != x.width() && self.columns(x) > 0 {
            return Err(shape(
                format!("activations of width {}", w.n_in),
                format!("{}", x.width()),
            ));
        }
        if self.columns(x).checked_mul(w.n_out) != Some(self.out_len) {
            let expected = format!("an output of {} · {} values", self.columns(x), w.n_out);
            return Err(shape(expected, format!("{}", self.out_len)));
        }
        if let Some(row) = self.rows.unwrap_or(&[]).iter().find(|&&r| r as usize >= x.rows()) {
            return Err(shape(format!("row numbers below {}", x.rows()), format!("{row}")));
        }
        if self.columns(x) == 0 {
            return Ok(());
        }
        let needs = self.forms(k);
        let needs_bytes = needs.bytes || needs.coarse;
        if !needs_bytes && !x.has(needs) {
            let what = if needs.bf16 { "bfloat16" } else { "f32" };
            return Err(shape(format!("activations as {what}"), "other forms".into()));
        }
        if needs_bytes && self.rows.is_some() && x_panel_bytes(w.n_in, 1) > SCRATCH - OF_PRODUCTS {
            let expected = format!(
                "rows of at most {} values for a subset of them",
                (SCRATCH - OF_PRODUCTS) / X_BLOCK * 32
            );
            return Err(shape(expected, format!("{}", w.n_in)));
        }
        if needs_bytes && (x.quantized_for() != Some(k.level()) || !x.has(needs)) {
            let found = x.quantized_for().map_or("f32 only", |l| l.name());
            return Err(shape(
                format!(
                    "activations quantized for level {} and {}",
                    k.level().name(),
                    w.ty
                ),
                found.to_string(),
            ));
        }
        Ok(())
    }

    fn forms(&self, k: &Kernels) -> Forms {
        Forms::of(k, self.weight.ty, self.precision)
    }

    fn view(&self, k: &Kernels, x: &Activations) -> JobView {
        let forms = self.forms(k);
        let (bytes, x_width) = if forms.bf16 {
            (x.bf16(), 1)
        } else {
            x.panels(forms.coarse)
        };
        let (floats, stride) = x.floats();
        JobView {
            ty: self.weight.ty,
            precision: self.precision,
            data: self.weight.data.as_ptr(),
            tail: self.weight.tail.as_ptr(),
            row_bytes: self.weight.row_bytes(),
            n_in: self.weight.n_in,
            n_out: self.weight.n_out,
            out: self.out,
            columns: self.columns(x),
            subset: self.rows.map_or(std::ptr::null(), <[u32]>::as_ptr),
            x: bytes,
            x_width,
            x_f32: floats,
            x_stride: stride,
        }
    }
}

/// Computes all `jobs`, which share the activations `x`, as one piece of parallel work with one barrier at its end.
///
/// Each element depends on its weight row, its activation row, the precision and the CPU level only. Allocates nothing.
///
/// # Errors
/// Lengths, row numbers or the level of the quantized activations do not fit; nothing has been computed then.
pub fn matmul(
    k: &Kernels,
    pool: &ThreadPool,
    x: &Activations,
    jobs: &mut [MatmulJob<'_>],
) -> Result<(), KernelError> {
    let mut total = 0usize;
    for job in jobs.iter() {
        job.check(k, x)?;
        total = total.saturating_add(job.panels(x));
    }
    let jobs = &*jobs;
    let parts = Parts::new(total, pool.threads());
    let tasks = jobs.iter().map(|job| parts.of(job.panels(x))).sum();
    pool.run(tasks, &|task, worker| {
        let mut at = task;
        for job in jobs {
            let panels = job.panels(x);
            let of_job = parts.of(panels);
            if at < of_job {
                let Range { start, end } = parts.range(panels, at);
                // SAFETY: `check` held for the job, so every pointer covers what the view says; tasks have disjoint
                // rows; the worker's scratch memory is its own while the task runs.
                unsafe { k.panels(&job.view(k, x), start, end, pool.scratch(worker)) };
                return;
            }
            at -= of_job;
        }
    });
    Ok(())
}
