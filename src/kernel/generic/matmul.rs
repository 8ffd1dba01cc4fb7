//! Matrix products over rows of weights in the file's layout.
//!
//! Quantized weights times int8 activations go chunk by chunk through [`Simd::dot_chunk`]. With one activation row
//! each chunk is unpacked to the stack and used once; with more, a block of weight rows is unpacked to the worker's
//! scratch memory and reused by all of them. Both add the same products in the same order, so a result does not
//! depend on its neighbours. Float weights, and quantized ones in the exact mode, use `f32` products with one
//! running vector per result, again in the same order for every tile.

#![allow(
    unsafe_code,
    reason = "raw pointers into weights, activations and outputs shared by workers"
)]

use super::unpack::{self, Format};
use crate::kernel::chunk::{CHUNK, COLUMN_TILE, ROW_TILE, WeightChunk, XChunk};
use crate::kernel::simd::{MIN, OFFSET, Simd, WIDE};
use crate::quant::TensorType;

/// How far ahead of its use the weight stream of a single activation row is prefetched: the hardware stops at pages.
const PREFETCH: usize = 4096;

/// Weight rows unpacked to scratch memory at a time, when they fit.
const PANEL_ROWS: usize = 16;

/// One weight matrix, its activations and its output, as workers see it. Lengths were checked when it was built.
#[derive(Clone, Copy)]
pub(crate) struct JobView {
    pub ty: TensorType,
    pub exact: bool,
    pub data: *const u8,
    pub row_bytes: usize,
    pub n_in: usize,
    pub n_out: usize,
    pub out: *mut f32,
    /// Activation rows used, and their numbers where they are a subset.
    pub columns: usize,
    pub subset: *const u32,
    pub x: *const XChunk,
    pub n_chunks: usize,
    pub x_f32: *const f32,
    pub x_stride: usize,
}

impl JobView {
    #[inline(always)]
    unsafe fn x_row(&self, column: usize) -> usize {
        if self.subset.is_null() {
            column
        } else {
            // SAFETY: column < self.columns, the length of the subset.
            unsafe { *self.subset.add(column) as usize }
        }
    }
    /// First chunk of a column; the following ones are [`COLUMN_TILE`] apart.
    #[inline(always)]
    unsafe fn x_chunks(&self, column: usize) -> *const XChunk {
        // SAFETY: rows of the activations are in panels of COLUMN_TILE of n_chunks each.
        unsafe {
            let row = self.x_row(column);
            self.x
                .add(row / COLUMN_TILE * self.n_chunks * COLUMN_TILE + row % COLUMN_TILE)
        }
    }
    #[inline(always)]
    unsafe fn x_floats(&self, column: usize) -> *const f32 {
        // SAFETY: the row exists.
        unsafe { self.x_f32.add(self.x_row(column) * self.x_stride) }
    }
    #[inline(always)]
    unsafe fn put(&self, row: usize, column: usize, value: f32) {
        // SAFETY: row < n_out and column < columns; no other worker has this row.
        unsafe { *self.out.add(column * self.n_out + row) = value }
    }
}

/// Work of [`Simd::tile`]: up to [`ROW_TILE`] unpacked rows times up to [`COLUMN_TILE`] columns.
pub(crate) struct Tile<'a> {
    pub job: &'a JobView,
    /// First chunk of the first row; rows are 1, chunks [`ROW_TILE`] apart.
    pub w: *const WeightChunk,
    pub row: usize,
    pub rows: usize,
    pub column: usize,
    pub columns: usize,
    pub offset: f32,
}

/// Computes output rows `from..to` of a job.
///
/// # Safety
/// The view's pointers are valid, the CPU has the features of `S`, no one else writes these rows or uses `scratch`.
#[inline(always)]
pub(crate) unsafe fn rows_int8<S: Simd, F: Format>(
    job: &JobView,
    from: usize,
    to: usize,
    scratch: &mut [WeightChunk],
) {
    let fit = scratch.len() / job.n_chunks.max(1) / ROW_TILE * ROW_TILE;
    let panel = fit.min(PANEL_ROWS);
    if job.columns == 1 || panel == 0 {
        for column in 0..job.columns {
            // SAFETY: passes the caller's promise on.
            unsafe { column_int8::<S, F>(job, from, to, column) };
        }
        return;
    }
    let mut row = from;
    while row < to {
        let rows = panel.min(to - row);
        for r in 0..rows {
            // SAFETY: row + r < n_out; the slice is that row.
            let src =
                unsafe { std::slice::from_raw_parts(job.data.add((row + r) * job.row_bytes), job.row_bytes) };
            let first = r / ROW_TILE * job.n_chunks * ROW_TILE + r % ROW_TILE;
            for (i, src) in src.chunks(F::BYTES * F::BLOCKS).enumerate() {
                // SAFETY: the CPU has the features.
                unsafe { unpack::chunk::<S, F>(src, &mut scratch[first + i * ROW_TILE]) };
            }
        }
        let mut column = 0;
        while column < job.columns {
            let columns = COLUMN_TILE.min(job.columns - column);
            let mut r = 0;
            while r < rows {
                let t = Tile {
                    job,
                    w: scratch[r * job.n_chunks..].as_ptr(),
                    row: row + r,
                    rows: ROW_TILE.min(rows - r),
                    column,
                    columns,
                    offset: F::ZERO_POINT,
                };
                // SAFETY: rows and columns exist and were unpacked above.
                unsafe { S::tile(F::KIND, &t) };
                r += ROW_TILE;
            }
            column += columns;
        }
        row += rows;
    }
}

/// Output rows `from..to` for one activation row, unpacking on the fly.
#[inline(always)]
unsafe fn column_int8<S: Simd, F: Format>(job: &JobView, from: usize, to: usize, column: usize) {
    let mut w = WeightChunk::ZERO;
    // SAFETY: the column exists.
    let x = unsafe { job.x_chunks(column) };
    for row in from..to {
        // SAFETY: row < n_out; the slice is that row; the CPU has the features; x has n_chunks chunks.
        unsafe {
            let src = std::slice::from_raw_parts(job.data.add(row * job.row_bytes), job.row_bytes);
            let mut acc = [[S::acc_zero()]];
            for (i, src) in src.chunks(F::BYTES * F::BLOCKS).enumerate() {
                prefetch::<S>(src);
                unpack::chunk::<S, F>(src, &mut w);
                let x = x.add(i * COLUMN_TILE);
                match F::KIND {
                    OFFSET => S::dot_chunk::<OFFSET, 1, 1>(&mut acc, [&w], [x], F::ZERO_POINT),
                    MIN => S::dot_chunk::<MIN, 1, 1>(&mut acc, [&w], [x], 0.0),
                    _ => S::dot_chunk::<WIDE, 1, 1>(&mut acc, [&w], [x], F::ZERO_POINT),
                }
            }
            job.put(row, column, S::acc_sum(acc[0][0]));
        }
    }
}

/// Prefetches what follows `src` at the distance [`PREFETCH`].
#[inline(always)]
unsafe fn prefetch<S: Simd>(src: &[u8]) {
    let mut i = 0;
    while i < src.len() {
        // SAFETY: a hint for any address.
        unsafe { S::prefetch(src.as_ptr().wrapping_add(PREFETCH + i)) };
        i += 64;
    }
}

/// Runs a tile in micro-tiles of `R` rows, which divides [`ROW_TILE`], and as many columns as there are.
///
/// # Safety
/// As for [`Simd::tile`].
#[inline(always)]
pub(crate) unsafe fn tile_by_kind<S: Simd, const R: usize>(kind: u8, t: &Tile) {
    // SAFETY: passes the caller's promise on.
    unsafe {
        match kind {
            OFFSET => tile_by_columns::<S, OFFSET, R>(t),
            MIN => tile_by_columns::<S, MIN, R>(t),
            _ => tile_by_columns::<S, WIDE, R>(t),
        }
    }
}

#[inline(always)]
unsafe fn tile_by_columns<S: Simd, const KIND: u8, const R: usize>(t: &Tile) {
    let mut r = 0;
    while r + R <= t.rows {
        // SAFETY: rows r..r + R exist.
        unsafe {
            match t.columns {
                4 => micro::<S, KIND, R, 4>(t, r),
                3 => micro::<S, KIND, R, 3>(t, r),
                2 => micro::<S, KIND, R, 2>(t, r),
                _ => micro::<S, KIND, R, 1>(t, r),
            }
        }
        r += R;
    }
    while r < t.rows {
        // SAFETY: row r exists.
        unsafe {
            match t.columns {
                4 => micro::<S, KIND, 1, 4>(t, r),
                3 => micro::<S, KIND, 1, 3>(t, r),
                2 => micro::<S, KIND, 1, 2>(t, r),
                _ => micro::<S, KIND, 1, 1>(t, r),
            }
        }
        r += 1;
    }
}

#[inline(always)]
unsafe fn micro<S: Simd, const KIND: u8, const R: usize, const C: usize>(t: &Tile, r: usize) {
    // SAFETY: the tile's rows and columns exist; chunks lie as documented at the fields.
    unsafe {
        let mut acc = [[S::acc_zero(); C]; R];
        let mut w = [t.w; R];
        let mut x = [t.job.x; C];
        for i in 0..R {
            w[i] = t.w.add(r + i);
        }
        for c in 0..C {
            x[c] = t.job.x_chunks(t.column + c);
        }
        for _ in 0..t.job.n_chunks {
            S::dot_chunk::<KIND, R, C>(&mut acc, w, x, t.offset);
            for w in &mut w {
                *w = w.wrapping_add(ROW_TILE);
            }
            for x in &mut x {
                *x = x.wrapping_add(COLUMN_TILE);
            }
        }
        for i in 0..R {
            for c in 0..C {
                t.job.put(t.row + r + i, t.column + c, S::acc_sum(acc[i][c]));
            }
        }
    }
}

/// A source of `f32` weights, a vector at a time.
pub(crate) trait Floats {
    /// Bytes per value.
    const BYTES: usize;
    /// # Safety
    /// `p` has [`Simd::LANES`] values; the CPU has the features of `S`.
    unsafe fn load<S: Simd>(p: *const u8) -> S::F;
}
pub(crate) struct F32;
pub(crate) struct F16;
pub(crate) struct Bf16;
impl Floats for F32 {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::F {
        // SAFETY: as promised by the caller; loads need no alignment.
        unsafe { S::load(p.cast()) }
    }
}
impl Floats for F16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::F {
        // SAFETY: as promised by the caller.
        unsafe { S::load_f16(p) }
    }
}
impl Floats for Bf16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::F {
        // SAFETY: as promised by the caller.
        unsafe { S::load_bf16(p) }
    }
}

/// Adds `n` products (whole vectors, then a zero-padded rest) of `R` weight rows and `C` activation rows.
#[inline(always)]
unsafe fn dot_floats<S: Simd, W: Floats, const R: usize, const C: usize>(
    acc: &mut [[S::F; C]; R],
    w: [*const u8; R],
    x: [*const f32; C],
    n: usize,
) {
    let whole = n / S::LANES * S::LANES;
    // SAFETY: weights have n values; activation rows are padded with zeros to whole vectors.
    unsafe {
        let mut i = 0;
        while i < whole {
            let mut wv = [S::splat(0.0); R];
            for r in 0..R {
                let p = w[r].add(i * W::BYTES);
                wv[r] = W::load::<S>(p);
                if R == 1 && C == 1 {
                    S::prefetch(p.wrapping_add(PREFETCH));
                }
            }
            for c in 0..C {
                let xv = S::load(x[c].add(i));
                for r in 0..R {
                    acc[r][c] = S::fma(wv[r], xv, acc[r][c]);
                }
            }
            i += S::LANES;
        }
        if whole < n {
            for r in 0..R {
                let mut rest = [0u8; 64];
                std::ptr::copy_nonoverlapping(
                    w[r].add(whole * W::BYTES),
                    rest.as_mut_ptr(),
                    (n - whole) * W::BYTES,
                );
                let wv = W::load::<S>(rest.as_ptr());
                for c in 0..C {
                    acc[r][c] = S::fma(wv, S::load(x[c].add(whole)), acc[r][c]);
                }
            }
        }
    }
}

/// Output rows `from..to` of a job with float weights.
///
/// # Safety
/// As for [`rows_int8`].
#[inline(always)]
pub(crate) unsafe fn rows_float<S: Simd, W: Floats>(job: &JobView, from: usize, to: usize) {
    if job.columns == 1 {
        for row in from..to {
            // SAFETY: the row exists.
            unsafe { micro_float::<S, W, 1, 1>(job, row, 0) };
        }
        return;
    }
    let mut block = from;
    while block < to {
        let end = to.min(block + PANEL_ROWS);
        let mut column = 0;
        while column < job.columns {
            let columns = COLUMN_TILE.min(job.columns - column);
            let mut row = block;
            while row + 4 <= end {
                // SAFETY: rows and columns exist.
                unsafe {
                    match columns {
                        4 if S::TILE.0 < 4 => {
                            micro_float::<S, W, 4, 2>(job, row, column);
                            micro_float::<S, W, 4, 2>(job, row, column + 2);
                        }
                        4 => micro_float::<S, W, 4, 4>(job, row, column),
                        _ => {
                            for c in 0..columns {
                                micro_float::<S, W, 4, 1>(job, row, column + c);
                            }
                        }
                    }
                }
                row += 4;
            }
            for row in row..end {
                for c in 0..columns {
                    // SAFETY: as above.
                    unsafe { micro_float::<S, W, 1, 1>(job, row, column + c) };
                }
            }
            column += columns;
        }
        block = end;
    }
}

#[inline(always)]
unsafe fn micro_float<S: Simd, W: Floats, const R: usize, const C: usize>(
    job: &JobView,
    row: usize,
    column: usize,
) {
    // SAFETY: rows row..row + R and columns column..column + C exist.
    unsafe {
        let mut acc = [[S::splat(0.0); C]; R];
        let mut w = [job.data; R];
        let mut x = [job.x_f32; C];
        for r in 0..R {
            w[r] = job.data.add((row + r) * job.row_bytes);
        }
        for c in 0..C {
            x[c] = job.x_floats(column + c);
        }
        dot_floats::<S, W, R, C>(&mut acc, w, x, job.n_in);
        for r in 0..R {
            for c in 0..C {
                job.put(row + r, column + c, S::sum(acc[r][c]));
            }
        }
    }
}

/// Output rows `from..to` with dequantized weights and `f32` activations.
///
/// # Safety
/// As for [`rows_int8`].
#[inline(always)]
pub(crate) unsafe fn rows_exact<S: Simd, F: Format>(job: &JobView, from: usize, to: usize) {
    let mut w = WeightChunk::ZERO;
    let mut values = [0.0f32; CHUNK];
    for row in from..to {
        // SAFETY: row < n_out; the slice is that row.
        let src = unsafe { std::slice::from_raw_parts(job.data.add(row * job.row_bytes), job.row_bytes) };
        let mut column = 0;
        while column < job.columns {
            let columns = COLUMN_TILE.min(job.columns - column);
            // SAFETY: columns exist; activation rows are padded with zeros to whole chunks.
            unsafe {
                let mut acc = [[S::splat(0.0); COLUMN_TILE]];
                let mut x = [job.x_f32; COLUMN_TILE];
                for c in 0..COLUMN_TILE {
                    // A column past the end repeats the last one; its sum is not stored.
                    x[c] = job.x_floats(column + c.min(columns - 1));
                }
                for (i, src) in src.chunks(F::BYTES * F::BLOCKS).enumerate() {
                    unpack::chunk::<S, F>(src, &mut w);
                    dequantize_chunk::<S, F>(&w, &mut values);
                    let n = CHUNK.min(job.n_in - i * CHUNK);
                    dot_floats::<S, F32, 1, COLUMN_TILE>(&mut acc, [values.as_ptr().cast()], x, n);
                    for x in &mut x {
                        *x = x.wrapping_add(CHUNK);
                    }
                }
                for c in 0..columns {
                    job.put(row, column + c, S::sum(acc[0][c]));
                }
            }
            column += columns;
        }
    }
}

/// Values of a chunk, by the operations of the scalar dequantization.
#[inline(always)]
pub(crate) fn dequantize_chunk<S: Simd, F: Format>(w: &WeightChunk, out: &mut [f32; CHUNK]) {
    for (g, (out, q)) in out
        .as_chunks_mut::<16>()
        .0
        .iter_mut()
        .zip(w.q.as_chunks::<16>().0)
        .enumerate()
    {
        let (s, m) = (w.s[S::SLOT[g]], w.m[S::SLOT[g]]);
        for (out, &q) in out.iter_mut().zip(q) {
            let v = s * (f32::from(q) - F::ZERO_POINT);
            *out = if F::KIND == MIN { v + m } else { v };
        }
    }
}

/// An entry point that computes a range of output rows of one weight type.
pub(crate) type RowsFn = unsafe fn(&JobView, usize, usize, &mut [WeightChunk]);
