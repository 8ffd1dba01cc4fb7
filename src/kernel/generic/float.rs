//! Matrix products in `f32`: float weights in the file's layout, and quantized ones expanded, in the exact mode.
//!
//! Each result has one running vector that takes the products in ascending order, whatever the tile.

#![allow(
    unsafe_code,
    reason = "raw pointers into weights, activations and outputs shared by workers"
)]

use super::job::JobView;
use super::matmul::PREFETCH;
use crate::kernel::simd::Simd;
use crate::quant::dequantize_row;
use crate::quant::panel::{PANEL_ROWS, unpack_block};

/// Weight rows that are multiplied together with one activation row.
const ROW_TILE: usize = 4;
/// Activation rows that are multiplied together.
const COLUMN_TILE: usize = 4;
/// Values dequantized at a time in the exact mode: the longest block.
const CHUNK: usize = 256;

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
    // The next rows where they are near, otherwise the same ones further on.
    let row = n * W::BYTES;
    let ahead = if row <= 2 * PREFETCH { R * row } else { PREFETCH };
    // SAFETY: weights have n values; activation rows are padded with zeros to whole vectors.
    unsafe {
        let mut i = 0;
        while i < whole {
            let mut wv = [S::splat(0.0); R];
            for r in 0..R {
                let p = w[r].add(i * W::BYTES);
                wv[r] = W::load::<S>(p);
                if C == 1 {
                    S::prefetch(p.wrapping_add(ahead));
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

/// Rows `16 · from..16 · to` of a job with float weights.
///
/// # Safety
/// As for [`super::matmul::panels`].
#[inline(always)]
pub(crate) unsafe fn rows_float<S: Simd, W: Floats>(job: &JobView, from: usize, to: usize) {
    let (from, to) = (from * PANEL_ROWS, (to * PANEL_ROWS).min(job.n_out));
    if job.columns == 1 {
        // The sum of a row is one chain of additions: several rows at a time keep the CPU and the memory busy.
        let mut row = from;
        while row + ROW_TILE <= to {
            // SAFETY: the rows exist.
            unsafe { micro_float::<S, W, ROW_TILE, 1>(job, row, 0) };
            row += ROW_TILE;
        }
        for row in row..to {
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
                        4 if S::LANES < 16 => {
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

/// Rows `16 · from..16 · to` with dequantized weights and `f32` activations.
///
/// # Safety
/// As for [`super::matmul::panels`].
#[inline(always)]
pub(crate) unsafe fn rows_exact<S: Simd>(job: &JobView, from: usize, to: usize) {
    let mut block = [0u8; CHUNK];
    let mut values = [0.0f32; CHUNK];
    let (len, bytes) = (job.ty.block_len(), job.ty.block_bytes());
    for row in from * PANEL_ROWS..(to * PANEL_ROWS).min(job.n_out) {
        // SAFETY: the row's panel exists; a panel has the bytes of 16 rows.
        let panel =
            unsafe { std::slice::from_raw_parts(job.panel(row / PANEL_ROWS), PANEL_ROWS * job.row_bytes) };
        let mut column = 0;
        while column < job.columns {
            let columns = COLUMN_TILE.min(job.columns - column);
            // SAFETY: columns exist; activation rows are padded with zeros to whole vectors.
            unsafe {
                let mut acc = [[S::splat(0.0); COLUMN_TILE]];
                let mut x = [job.x_f32; COLUMN_TILE];
                for c in 0..COLUMN_TILE {
                    // A column past the end repeats the last one; its sum is not stored.
                    x[c] = job.x_floats(column + c.min(columns - 1));
                }
                for i in 0..job.n_in / len {
                    unpack_block(job.ty, panel, i, row % PANEL_ROWS, &mut block[..bytes]);
                    // Cannot fail: a whole block of a supported type.
                    let _ = dequantize_row(job.ty, &block[..bytes], &mut values[..len]);
                    dot_floats::<S, F32, 1, COLUMN_TILE>(&mut acc, [values.as_ptr().cast()], x, len);
                    for x in &mut x {
                        *x = x.wrapping_add(len);
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
