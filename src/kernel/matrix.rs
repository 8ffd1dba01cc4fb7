//! Matrix products: weights in the file's layout times rows of activations, spread over a thread pool.

#![allow(
    unsafe_code,
    reason = "workers write disjoint parts of the outputs through raw pointers"
)]

use std::marker::PhantomData;

use super::generic::matmul::JobView;
use super::{Activations, KernelError, Kernels, ThreadPool};
use crate::quant::TensorType;

/// Parts per thread and product, so that a thread that loses its CPU for a while does not hold up the others.
const PARTS_PER_THREAD: usize = 8;

/// A weight matrix: `n_out` contiguous rows of `n_in` values.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    ty: TensorType,
    n_in: usize,
    n_out: usize,
    data: &'a [u8],
}

impl<'a> Matrix<'a> {
    /// Checks type and lengths.
    ///
    /// # Errors
    /// The type has no kernels, `n_in` is not a multiple of its block, or `data` has not exactly the rows' bytes.
    pub fn new(ty: TensorType, n_in: usize, n_out: usize, data: &'a [u8]) -> Result<Self, KernelError> {
        if !ty.is_supported() {
            return Err(KernelError::UnsupportedType(ty));
        }
        let bytes = ty.row_bytes(n_in).and_then(|b| b.checked_mul(n_out));
        if bytes != Some(data.len()) || n_in == 0 {
            return Err(KernelError::Shape {
                action: "use a weight matrix",
                expected: match bytes {
                    Some(b) if n_in > 0 => format!("{b} bytes for {n_out} rows of {n_in} {ty} values"),
                    _ => format!("rows of whole blocks of {} {ty} values", ty.block_len()),
                },
                found: format!("{} bytes, {n_in} values per row", data.len()),
            });
        }
        Ok(Self {
            ty,
            n_in,
            n_out,
            data,
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

    /// The bytes of row `i`; `None` past the end.
    pub fn row(&self, i: usize) -> Option<&'a [u8]> {
        let bytes = self.data.len() / self.n_out.max(1);
        self.data
            .get(i.checked_mul(bytes)?..)?
            .get(..bytes)
            .filter(|_| i < self.n_out)
    }
}

/// How quantized weights are multiplied. Float weights always use `f32` activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Activations as signed bytes with a scale per 32 values; integer products.
    #[default]
    Int8,
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

    /// Sets the precision; the default is [`Precision::Int8`].
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
        let needs_bytes = w.ty.is_quantized() && self.precision == Precision::Int8;
        if needs_bytes && x.quantized_for() != Some(k.level()) && self.columns(x) > 0 {
            let found = x.quantized_for().map_or("f32 only", |l| l.name());
            return Err(shape(
                format!("activations quantized for level {}", k.level().name()),
                found.to_string(),
            ));
        }
        Ok(())
    }

    fn view(&self, x: &Activations) -> JobView {
        let (chunks, n_chunks) = x.chunks();
        let (floats, stride) = x.floats();
        JobView {
            ty: self.weight.ty,
            exact: self.precision == Precision::Exact,
            data: self.weight.data.as_ptr(),
            row_bytes: self.weight.data.len() / self.weight.n_out.max(1),
            n_in: self.weight.n_in,
            n_out: self.weight.n_out,
            out: self.out,
            columns: self.columns(x),
            subset: self.rows.map_or(std::ptr::null(), <[u32]>::as_ptr),
            x: chunks,
            n_chunks,
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
    let mut columns = 0;
    for job in jobs.iter() {
        job.check(k, x)?;
        if job.columns(x) > 0 {
            total = total.saturating_add(job.weight.n_out);
            columns = columns.max(job.columns(x));
        }
    }
    let jobs = &*jobs;
    // Few rows at a time for one activation row; whole panels of unpacked weights for many.
    let unit = if columns == 1 { 4 } else { 16 };
    let part = total
        .div_ceil(pool.threads() * PARTS_PER_THREAD)
        .next_multiple_of(unit)
        .max(unit);
    let parts_of = |job: &MatmulJob<'_>| {
        if job.columns(x) == 0 {
            0
        } else {
            job.weight.n_out.div_ceil(part)
        }
    };
    let tasks = jobs.iter().map(parts_of).sum();
    pool.run(tasks, &|task, worker| {
        let mut at = task;
        for job in jobs {
            let parts = parts_of(job);
            if at < parts {
                let from = at * part;
                let to = (from + part).min(job.weight.n_out);
                // SAFETY: `check` held for the job, so every pointer covers what the view says; tasks have disjoint
                // rows; the worker's scratch memory is its own while the task runs.
                unsafe { k.rows(&job.view(x), from, to, pool.scratch(worker)) };
                return;
            }
            at -= parts;
        }
    });
    Ok(())
}
