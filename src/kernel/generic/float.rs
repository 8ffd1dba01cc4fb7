//! Matrix products in `f32`: float weights in the file's layout, and quantized ones expanded, in the exact mode.
//!
//! Each result has one running vector that takes the products in ascending order, whatever the tile. Where 32 registers hold a
//! tile of 24 of them, weights stream by and meet tile after tile of activation rows; elsewhere they do so for up to
//! four. With fewer registers and more activation rows, 16 weight rows at a time meet all of them, from 16 activation rows on a
//! stretch at a time, which is copied as `f32` to where the first cache holds it; the running vectors wait in memory meanwhile.

#![allow(
    unsafe_code,
    reason = "raw pointers into weights, activations and outputs shared by workers"
)]

use super::fetch::PREFETCH;
use super::job::JobView;
use super::matmul::COLUMN_BYTES;
use crate::kernel::simd::Simd;
use crate::quant::dequantize_row;
use crate::quant::panel::{PANEL_ROWS, unpack_block};

/// Weight rows that meet two columns at a time, where 16 are taken together.
const ROW_TILE: usize = 4;
/// Activation rows that are multiplied together in the exact mode.
const COLUMN_TILE: usize = 4;
/// Values dequantized at a time in the exact mode: the longest block.
const CHUNK: usize = 256;

/// Values of a row that are fetched before the row is reached, with one or two activation rows: the CPU fetches by itself what
/// follows, unless it is busy with several.
pub(crate) const FETCHED: usize = 256;
/// Most values of a stretch: 16 rows of them as `f32` and what they meet stay in the first cache.
const STRETCH: usize = 256;
/// Most activation rows at once, whose running vectors wait in the second cache.
const MAX_COLUMNS: usize = 48;
/// Activation rows from which on it is worth while to copy weights first.
const COPY_FROM: usize = 16;
/// Bytes of a vector at most, and from one copied row to the next: the lines of several rows differ in their sets.
const VECTOR: usize = 64;
const COPIED_ROW: usize = 4 * STRETCH + VECTOR;
/// Where running vectors lie in the scratch memory.
const SUMS_AT: usize = PANEL_ROWS * COPIED_ROW;
/// Bytes of scratch memory: the above, wherever it begins.
const SCRATCH: usize = VECTOR + SUMS_AT + PANEL_ROWS * VECTOR * MAX_COLUMNS;
const _: () = assert!(SCRATCH <= crate::kernel::pool::SCRATCH);

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

/// What is fetched while products are computed.
enum Fetch {
    Nothing,
    /// What lies so many bytes behind the weights, to the second cache.
    Ahead(usize),
    /// A line, `step` bytes further with every vector, to the first cache.
    Line {
        at: *const u8,
        step: usize,
    },
}

/// Adds `n` products (whole vectors, then a zero-padded rest) of `R` weight rows and `C` activation rows.
#[inline(always)]
unsafe fn dot_floats<S: Simd, W: Floats, const R: usize, const C: usize>(
    acc: &mut [[S::F; C]; R],
    w: [*const u8; R],
    x: [*const f32; C],
    n: usize,
    mut fetch: Fetch,
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
                if let Fetch::Ahead(bytes) = fetch {
                    S::prefetch_second(p.wrapping_add(bytes));
                }
            }
            if let Fetch::Line { at, step } = &mut fetch {
                S::prefetch(*at);
                *at = at.wrapping_add(*step);
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
                let wv = load_rest::<S, W>(w[r].add(whole * W::BYTES), n - whole);
                for c in 0..C {
                    acc[r][c] = S::fma(wv, S::load(x[c].add(whole)), acc[r][c]);
                }
            }
        }
    }
}

/// Fewer values than a vector has, and zeros.
#[inline(always)]
unsafe fn load_rest<S: Simd, W: Floats>(p: *const u8, n: usize) -> S::F {
    // SAFETY: there are n values, less than a vector.
    unsafe {
        let mut rest = [0u8; VECTOR];
        std::ptr::copy_nonoverlapping(p, rest.as_mut_ptr(), n * W::BYTES);
        W::load::<S>(rest.as_ptr())
    }
}

/// Rows `16 · from..16 · to` of a job with float weights.
///
/// # Safety
/// As for [`super::matmul::panels`], but `scratch` has [`SCRATCH`] bytes.
#[inline(always)]
pub(crate) unsafe fn rows_float<S: Simd, W: Floats>(
    job: &JobView,
    from: usize,
    to: usize,
    scratch: &mut [u8],
) {
    let (from, to) = (from * PANEL_ROWS, (to * PANEL_ROWS).min(job.n_out));
    // Whether registers hold a tile of 24 sums.
    let wide = S::REGISTERS >= 32;
    // Activations stay in the second cache while all rows pass by; whole tiles of them, where that is possible.
    let room = COLUMN_BYTES / (size_of::<f32>() * job.x_stride);
    let together = if wide {
        whole_tiles(room)
    } else {
        room.clamp(4, MAX_COLUMNS) / 2 * 2
    };
    let mut first = 0;
    while first < job.columns {
        let columns = first..job.columns.min(first + together);
        first = columns.end;
        let n = columns.len();
        // SAFETY: the rows and columns exist.
        unsafe {
            match n {
                1 => stream::<S, W, 8, 1>(job, from, to, columns),
                2 if wide => stream::<S, W, 8, 2>(job, from, to, columns),
                2 => stream::<S, W, 4, 2>(job, from, to, columns),
                3..=4 if wide => stream::<S, W, 4, 4>(job, from, to, columns),
                3..=4 => stream::<S, W, 2, 4>(job, from, to, columns),
                _ if wide && sixes_waste_less(n) => stream::<S, W, 4, 6>(job, from, to, columns),
                _ if wide => stream::<S, W, 3, 8>(job, from, to, columns),
                _ => sixteens::<S, W>(job, from, to, columns, scratch),
            }
        }
    }
}

/// The most columns in whole tiles of six or eight for which there is `room`, at least a tile.
pub(crate) fn whole_tiles(room: usize) -> usize {
    (room / 6 * 6).max(room / 8 * 8).max(6)
}

/// Whether tiles of six columns rather than eight leave fewer places empty.
pub(crate) fn sixes_waste_less(columns: usize) -> bool {
    columns.next_multiple_of(6) < columns.next_multiple_of(8)
}

/// Rows `from..to` of five columns or more, 16 rows at a time and what is left row by row.
#[inline(always)]
unsafe fn sixteens<S: Simd, W: Floats>(
    job: &JobView,
    from: usize,
    to: usize,
    columns: std::ops::Range<usize>,
    scratch: &mut [u8],
) {
    let mut row = from;
    // SAFETY: the rows and columns exist, and the scratch memory is long enough.
    unsafe {
        while row + PANEL_ROWS <= to {
            if columns.len() >= COPY_FROM {
                block::<S, W, F32, true>(job, row, columns.clone(), scratch);
            } else {
                block::<S, W, W, false>(job, row, columns.clone(), scratch);
            }
            row += PANEL_ROWS;
        }
        stream::<S, W, 8, 1>(job, row, to, columns);
    }
}

/// Rows `from..to` of some columns: `R` rows at a time meet `C` columns after `C` columns. The sum of a row is one chain of
/// additions: several keep the CPU and the memory busy.
#[inline(always)]
unsafe fn stream<S: Simd, W: Floats, const R: usize, const C: usize>(
    job: &JobView,
    from: usize,
    to: usize,
    columns: std::ops::Range<usize>,
) {
    let mut row = from;
    // SAFETY: the rows and the columns exist.
    unsafe {
        while row + R <= to {
            for first in columns.clone().step_by(C) {
                rows_of_columns::<S, W, R, C>(job, row, first..columns.end);
            }
            row += R;
        }
        while row < to {
            for first in columns.clone().step_by(C) {
                rows_of_columns::<S, W, 1, C>(job, row, first..columns.end);
            }
            row += 1;
        }
    }
}

/// `R` rows and the first `C` of some columns.
#[inline(always)]
unsafe fn rows_of_columns<S: Simd, W: Floats, const R: usize, const C: usize>(
    job: &JobView,
    row: usize,
    columns: std::ops::Range<usize>,
) {
    // SAFETY: rows row..row + R and the columns exist.
    unsafe {
        let mut acc = [[S::splat(0.0); C]; R];
        let mut w = [job.data; R];
        for r in 0..R {
            w[r] = job.data.add((row + r) * job.row_bytes);
        }
        let mut x = [job.x_f32; C];
        for c in 0..C {
            // A column past the end repeats the last one; its sum is not stored.
            x[c] = job.x_floats((columns.start + c).min(columns.end - 1));
        }
        // At the end of the rows the beginning of the next ones is fetched. Before it, the CPU fetches by itself what follows, unless
        // it is busy with several columns.
        let (far, here) = if C <= 2 {
            (FETCHED, Fetch::Nothing)
        } else {
            let far = PREFETCH / R / W::BYTES;
            (far, Fetch::Ahead(far * W::BYTES))
        };
        let first = job.n_in.saturating_sub(far) / S::LANES * S::LANES;
        dot_floats::<S, W, R, C>(&mut acc, w, x, first, here);
        for w in &mut w {
            *w = w.add(first * W::BYTES);
        }
        for x in &mut x {
            *x = x.add(first);
        }
        let next = Fetch::Ahead(R * job.row_bytes - first * W::BYTES);
        dot_floats::<S, W, R, C>(&mut acc, w, x, job.n_in - first, next);
        for r in 0..R {
            for c in 0..C.min(columns.len()) {
                job.put(row + r, columns.start + c, S::sum(acc[r][c]));
            }
        }
    }
}

/// A stretch of 16 rows of weights and of the activations that they meet.
struct Stretch {
    w: [*const u8; PANEL_ROWS],
    at: usize,
    n: usize,
    next: Next,
}

/// The weights that are needed next, fetched by the tiles of a stretch together: each begins `share` bytes further on.
struct Next {
    at: *const u8,
    share: usize,
    /// Tiles that still have a share.
    tiles: usize,
    step: usize,
}

impl Next {
    /// What the next tile fetches.
    #[inline(always)]
    fn share(&mut self) -> Fetch {
        let (at, step) = (self.at, self.step);
        // Without a share it is once more the last one's, which costs nothing.
        if self.tiles > 1 {
            self.tiles -= 1;
            self.at = at.wrapping_add(self.share);
        }
        Fetch::Line { at, step }
    }
}

/// 16 rows of several columns, multiplied as they are (`V` is `W`), or a stretch at a time where they are copied as `f32`
/// first, which all columns share.
#[inline(always)]
unsafe fn block<S: Simd, W: Floats, V: Floats, const COPY: bool>(
    job: &JobView,
    row: usize,
    columns: std::ops::Range<usize>,
    scratch: &mut [u8],
) {
    const { assert!(V::BYTES == if COPY { 4 } else { W::BYTES }) };
    debug_assert!(scratch.len() >= SCRATCH && columns.len() <= MAX_COLUMNS);
    // Sums on their way through memory cost little where a stretch has 32 vectors.
    let most = if COPY {
        STRETCH.min(32 * S::LANES)
    } else {
        job.n_in
    };
    let copies = scratch.as_mut_ptr();
    let copies = copies.wrapping_add(copies.align_offset(VECTOR));
    let sums: *mut f32 = copies.wrapping_add(SUMS_AT).cast();
    let groups = columns.len().div_ceil(2);
    let vector = S::LANES * W::BYTES;
    let mut at = 0;
    while at < job.n_in {
        let n = most.min(job.n_in - at);
        let last = at + n == job.n_in;
        // The next stretch, or the first one of the next 16 rows.
        let ahead = if last {
            (PANEL_ROWS * job.row_bytes).wrapping_sub(at * W::BYTES)
        } else {
            n * W::BYTES
        };
        // SAFETY: rows and columns exist; the scratch memory has room for 16 copied rows of a stretch and for the
        // running vectors of 16 rows and all columns.
        unsafe {
            let next = job
                .data
                .add(row * job.row_bytes + at * W::BYTES)
                .wrapping_add(ahead);
            let next = if COPY {
                // A row of the stretch for each tile.
                Next {
                    at: next,
                    share: job.row_bytes,
                    tiles: PANEL_ROWS,
                    step: vector,
                }
            } else {
                // Whole rows follow each other; three groups of columns or more ask for less than a line with a vector.
                let step = (ROW_TILE * vector).div_ceil(groups);
                Next {
                    at: next,
                    share: n / S::LANES * step,
                    tiles: PANEL_ROWS / ROW_TILE * groups,
                    step,
                }
            };
            let mut w = [job.data; PANEL_ROWS];
            for r in 0..PANEL_ROWS {
                w[r] = job.data.add((row + r) * job.row_bytes + at * W::BYTES);
                if COPY {
                    let to = copies.add(r * COPIED_ROW);
                    copy::<S, W>(w[r], n, to.cast());
                    w[r] = to;
                }
            }
            let mut stretch = Stretch { w, at, n, next };
            let mut column = columns.start;
            while column < columns.end {
                let sums = sums.add((column - columns.start) * PANEL_ROWS * S::LANES);
                column += match columns.end - column {
                    2.. => tiles::<S, V, 2>(job, row, column, &mut stretch, sums),
                    _ => tiles::<S, V, 1>(job, row, column, &mut stretch, sums),
                };
            }
        }
        at += n;
    }
}

/// Copies `n` values as `f32`, and zeros up to a whole vector.
#[inline(always)]
unsafe fn copy<S: Simd, W: Floats>(w: *const u8, n: usize, out: *mut f32) {
    let whole = n / S::LANES * S::LANES;
    // SAFETY: there are n values, and room for whole vectors of them.
    unsafe {
        let mut i = 0;
        while i < whole {
            S::store(out.add(i), W::load::<S>(w.add(i * W::BYTES)));
            i += S::LANES;
        }
        if whole < n {
            S::store(
                out.add(whole),
                load_rest::<S, W>(w.add(whole * W::BYTES), n - whole),
            );
        }
    }
}

/// A stretch of 16 rows and `C` columns, whose running vectors are at `sums`. Answers `C`.
#[inline(always)]
unsafe fn tiles<S: Simd, W: Floats, const C: usize>(
    job: &JobView,
    row: usize,
    column: usize,
    stretch: &mut Stretch,
    sums: *mut f32,
) -> usize {
    // SAFETY: as promised by the caller: weights and activations have the stretch, and sums has room.
    unsafe {
        let mut x = [job.x_f32; C];
        for c in 0..C {
            x[c] = job.x_floats(column + c).add(stretch.at);
        }
        for r in (0..PANEL_ROWS).step_by(ROW_TILE) {
            let mut acc = [[S::splat(0.0); C]; ROW_TILE];
            let sums = sums.add(r * C * S::LANES);
            if stretch.at > 0 {
                for i in 0..ROW_TILE {
                    for c in 0..C {
                        acc[i][c] = S::load(sums.add((i * C + c) * S::LANES));
                    }
                }
            }
            let w = &stretch.w;
            let w = [w[r], w[r + 1], w[r + 2], w[r + 3]];
            dot_floats::<S, W, ROW_TILE, C>(&mut acc, w, x, stretch.n, stretch.next.share());
            for i in 0..ROW_TILE {
                for c in 0..C {
                    if stretch.at + stretch.n == job.n_in {
                        job.put(row + r + i, column + c, S::sum(acc[i][c]));
                    } else {
                        S::store(sums.add((i * C + c) * S::LANES), acc[i][c]);
                    }
                }
            }
        }
    }
    C
}

/// Rows `16 · from..16 · to` with dequantized weights and `f32` activations.
///
/// # Safety
/// As for [`super::matmul::panels`].
#[inline(always)]
pub(crate) unsafe fn rows_exact<S: Simd>(job: &JobView, from: usize, to: usize, _: &mut [u8]) {
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
                    dot_floats::<S, F32, 1, COLUMN_TILE>(
                        &mut acc,
                        [values.as_ptr().cast()],
                        x,
                        len,
                        Fetch::Nothing,
                    );
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
