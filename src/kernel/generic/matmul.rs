//! Matrix products of quantized weights in panels ([`crate::quant::panel`]) and activations as bytes.
//!
//! Lanes are rows of the matrix: one load brings four values of each row, which meet four activations of a column,
//! repeated in every lane. A tile of a few vectors of rows and up to eight columns stays in registers. For each 32 values
//! the integer sum is exact; it is scaled and added to the tile in ascending order, by the same operations whatever
//! the tile: so a result does not depend on its neighbours, and a single activation row, a batch and a prompt share
//! one path.
//!
//! Levels without an instruction that adds four products to 32 bits add two to 16 first. Where values have few bits, some of those
//! sums wait there, and are widened together.
//!
//! Formats with blocks of 256 values meet activations with one scale per 256, whose multiplication is then needed once
//! per block, as is that of the minima.

#![allow(
    unsafe_code,
    reason = "raw pointers into weights, activations and outputs shared by workers"
)]

use super::columns::{BEGINS, Columns, X_BLOCK, ZERO_POINT, gather, panel_columns, x_panel_bytes};
use super::fetch::Fetch;
use super::formats::{Format, Kept, block_bytes, sub_bytes, vector};
use super::job::JobView;
use super::unpacked;
use crate::kernel::simd::Simd;
use crate::quant::panel::PANEL_ROWS;

/// Bytes of activations that are multiplied with all panels of a task before the next ones are taken: they stay in the
/// second cache.
pub(super) const COLUMN_BYTES: usize = 768 << 10;

/// Bytes of a worker's scratch memory that [`panels`] uses beside columns of a subset.
pub(crate) const SCRATCH: usize = unpacked::SCRATCH;

/// Added to integer sums, whose bits then are those of the `f32` that is larger by so much. Its product with a scale that is a
/// half-precision number is exact, so one fused operation that subtracts it gives the rounded product of scale and sum, without
/// a conversion; else it is subtracted first. (An infinite scale gives NaN where it is fused.)
pub(crate) const OFFSET: f32 = 12_582_912.0;

/// Computes panels `from..to` of a job.
///
/// # Safety
/// The view's pointers are valid, the CPU has the features of `S`, no one else writes these rows or uses `scratch`,
/// which is [`SCRATCH`] bytes and, for a subset of the activations, room for a column of them.
#[inline(always)]
pub(crate) unsafe fn panels<S: Simd, F: Format>(job: &JobView, from: usize, to: usize, scratch: &mut [u8]) {
    let (own, gathered) = scratch.split_at_mut(SCRATCH);
    let column_bytes = x_panel_bytes(job.n_in, 1);
    let (mut width, mut room) = (job.x_width, COLUMN_BYTES);
    if !job.subset.is_null() {
        width = panel_columns(S::MAX_COLUMNS, job.columns);
        room = gathered.len();
        while width > 1 && width * column_bytes > room {
            width = if width > 4 { width - 2 } else { 1 };
        }
    }
    let stride = column_bytes * width;
    let together = (room / stride).clamp(1, unpacked::MAX_COLUMNS / width) * width;
    let mut first = 0;
    while first < job.columns {
        let count = together.min(job.columns - first);
        // SAFETY: panels of the activations follow each other; columns of a subset are copied to the scratch memory.
        unsafe {
            let x = if job.subset.is_null() {
                job.x.add(first / width * stride)
            } else {
                gather(job, first, count, width, gathered.as_mut_ptr());
                gathered.as_ptr()
            };
            let columns = Columns {
                x,
                width,
                stride,
                first,
                count,
            };
            block::<S, F>(job, from, to, &columns, own.as_mut_ptr());
        }
        first += count;
    }
}

/// All rows of the panels `from..to` with some columns.
#[inline(always)]
unsafe fn block<S: Simd, F: Format>(
    job: &JobView,
    from: usize,
    to: usize,
    columns: &Columns,
    scratch: *mut u8,
) {
    // SAFETY: passes the caller's promise on.
    unsafe {
        match columns.width {
            // Vectors of a panel together, so that it streams by once.
            1 if S::LANES < PANEL_ROWS => of_width::<S, F, 2, 1>(job, from, to, columns, scratch),
            1 => of_width::<S, F, 1, 1>(job, from, to, columns, scratch),
            6 if S::MAX_COLUMNS >= 6 => of_width::<S, F, 2, 6>(job, from, to, columns, scratch),
            8 if S::MAX_COLUMNS >= 8 => of_width::<S, F, 1, 8>(job, from, to, columns, scratch),
            _ if S::TILE_ROWS == 2 => of_width::<S, F, 2, 4>(job, from, to, columns, scratch),
            _ => of_width::<S, F, 1, 4>(job, from, to, columns, scratch),
        }
    }
}

/// A few tiles of columns meet weights as they stream through, many meet weights that are unpacked for all of them.
#[inline(always)]
unsafe fn of_width<S: Simd, F: Format, const R: usize, const C: usize>(
    job: &JobView,
    from: usize,
    to: usize,
    columns: &Columns,
    scratch: *mut u8,
) {
    // SAFETY: passes the caller's promise on.
    unsafe {
        // Rows of weights, the next ones and the columns stay in the second cache, if there is more than one tile.
        let rows = R * S::LANES * job.row_bytes;
        let near = 2 * rows + columns.count.div_ceil(C) * columns.stride <= COLUMN_BYTES;
        if C == 1 || columns.count <= C || near && columns.count <= C * S::STREAMED_TILES {
            tiles::<S, F, R, C>(job, from, to, columns, scratch);
        } else {
            unpacked::tiles::<S, F, R, C>(job, from, to, columns, scratch);
        }
    }
}

/// All rows of the panels `from..to` with some tiles of columns: weights are unpacked in registers, as they stream through,
/// for each tile anew.
#[inline(always)]
unsafe fn tiles<S: Simd, F: Format, const R: usize, const C: usize>(
    job: &JobView,
    from: usize,
    to: usize,
    columns: &Columns,
    scratch: *mut u8,
) {
    let end = to * (PANEL_ROWS / S::LANES);
    let mut at = from * (PANEL_ROWS / S::LANES);
    let n_tiles = columns.count.div_ceil(C);
    while at < end {
        // SAFETY: panels of weights and panels of activations exist; there is room for the scales of a block.
        unsafe {
            let (rows, lanes) = rows_of::<S, R>(job, at, end);
            for tile in 0..n_tiles {
                let (mut p, mut x, scales) = (rows, columns.x.add(tile * columns.stride), scratch.cast());
                let mut fetch = if n_tiles == 1 {
                    Fetch::ahead(p, C)
                } else {
                    let next = rows.map(|w| w.wrapping_add(R * S::LANES * job.row_bytes));
                    Fetch::share(next, tile, n_tiles, true)
                };
                let mut y = [[S::splat(0.0); C]; R];
                for _ in 0..job.n_in / (32 * F::SUBS) {
                    keep_block::<S, F, R>(p, lanes, scales);
                    products::<S, F, R, C>(&mut y, p, lanes, scales, x, &mut fetch);
                    x = x.add(F::SUBS * X_BLOCK * C);
                    for i in 0..R {
                        p[i] = p[i].add(block_bytes::<F>());
                    }
                }
                let column = tile * C;
                put::<S, R, C>(job, at, end, columns.first + column, columns.count - column, &y);
            }
        }
        at += R;
    }
}

/// The panels that hold the vectors of rows `at …`, and the first lane of each. A vector from `end` on is the last once
/// more; it is computed twice and stored once.
#[inline(always)]
pub(super) unsafe fn rows_of<S: Simd, const R: usize>(
    job: &JobView,
    at: usize,
    end: usize,
) -> ([*const u8; R], [usize; R]) {
    // A panel is one vector of rows, or several where vectors are shorter.
    let per_panel = PANEL_ROWS / S::LANES;
    let mut w = [job.data; R];
    let mut lanes = [0; R];
    for i in 0..R {
        let at = (at + i).min(end - 1);
        lanes[i] = at % per_panel * S::LANES;
        // SAFETY: the panel exists.
        w[i] = unsafe { job.panel(at / per_panel) };
    }
    (w, lanes)
}

/// Stores a tile: vectors of rows `at …` below `end`, `columns` columns from `first` on.
#[inline(always)]
pub(super) unsafe fn put<S: Simd, const R: usize, const C: usize>(
    job: &JobView,
    at: usize,
    end: usize,
    first: usize,
    columns: usize,
    y: &[[S::F; C]; R],
) {
    for i in 0..R.min(end - at) {
        let row = (at + i) * S::LANES;
        for c in 0..C.min(columns) {
            // SAFETY: rows and columns of the output; no other worker has these rows.
            unsafe {
                let out = job.out.add((first + c) * job.n_out + row);
                if row + S::LANES <= job.n_out {
                    S::store(out, y[i][c]);
                } else if row < job.n_out {
                    crate::kernel::simd::store_part::<S>(out, y[i][c], job.n_out - row);
                }
            }
        }
    }
}

/// Adds the products of a block to a tile.
#[inline(always)]
pub(super) unsafe fn products<S: Simd, F: Format, const R: usize, const C: usize>(
    y: &mut [[S::F; C]; R],
    p: [*const u8; R],
    lanes: [usize; R],
    scales: *const f32,
    x: *const u8,
    fetch: &mut Fetch<R>,
) {
    // SAFETY: passes the caller's promise on.
    unsafe {
        if F::COARSE {
            long_block::<S, F, R, C>(y, p, lanes, scales, x, fetch);
        } else {
            fetch.set::<S, F>();
            set::<S, F, R, C>(y, p, lanes, scales, x);
        }
    }
}

/// Vectors of scales and minima of 32 values.
const fn vectors_per_sub<F: Format>() -> usize {
    (if F::HALVES { 2 } else { 1 }) * (if F::MIN { 2 } else { 1 })
}

/// Floats that the scales and minima of 32 values of all rows of a tile take.
pub(super) const fn kept_per_set<S: Simd, F: Format, const R: usize>() -> usize {
    R * vectors_per_sub::<F>() * S::LANES
}

/// Expands the scales of a block: for each set of 32 values, for each vector of rows, its scales and its minima.
#[inline(always)]
pub(super) unsafe fn keep_block<S: Simd, F: Format, const R: usize>(
    w: [*const u8; R],
    lanes: [usize; R],
    out: *mut f32,
) {
    // SAFETY: the block's scale bytes lie behind its planes; `out` has room.
    unsafe {
        for i in 0..R {
            let out = Kept {
                first: out.add(i * vectors_per_sub::<F>() * S::LANES),
                step: kept_per_set::<S, F, R>(),
            };
            F::scales::<S>(w[i].add(F::SUBS * sub_bytes::<F>()), lanes[i], out);
        }
    }
}

/// Adds the products of a block of 256 values.
#[inline(always)]
unsafe fn long_block<S: Simd, F: Format, const R: usize, const C: usize>(
    y: &mut [[S::F; C]; R],
    p: [*const u8; R],
    lanes: [usize; R],
    scales: *const f32,
    x: *const u8,
    fetch: &mut Fetch<R>,
) {
    // SAFETY: the planes, scales and activations of a whole block.
    unsafe {
        let mut part = [[S::splat(0.0); C]; R];
        let (mut planes, mut kept, mut at) = (p, scales, x);
        for _ in 0..F::SUBS {
            fetch.set::<S, F>();
            set::<S, F, R, C>(&mut part, planes, lanes, kept, at);
            for i in 0..R {
                planes[i] = planes[i].add(sub_bytes::<F>());
            }
            kept = kept.add(kept_per_set::<S, F, R>());
            at = at.add(X_BLOCK * C);
        }
        if F::MIN {
            add_minima::<S, F, R, C>(&mut part, scales, x);
        }
        let x_scales = x.add((F::SUBS - 1) * X_BLOCK * C + 32 * C);
        for c in 0..C {
            let d = S::splat(x_scales.add(4 * c).cast::<f32>().read_unaligned());
            for i in 0..R {
                y[i][c] = S::fma(part[i][c], d, y[i][c]);
            }
        }
    }
}

/// Adds the minima of a block of 256 values times the sums of its activations.
#[inline(always)]
unsafe fn add_minima<S: Simd, F: Format, const R: usize, const C: usize>(
    part: &mut [[S::F; C]; R],
    scales: *const f32,
    x: *const u8,
) {
    let (vector, pairs, of_all) = if F::HALVES {
        (2, F::SUBS, 3)
    } else {
        (1, F::SUBS / 2, 1)
    };
    let (sets, sums) = if F::HALVES { (1, 36 * C) } else { (2, 32 * C) };
    let of_all_set = if F::HALVES { 0 } else { 1 };
    // SAFETY: the scales and activations of a whole block.
    unsafe {
        for i in 0..R {
            let first = scales.add(i * vectors_per_sub::<F>() * S::LANES);
            let mut products = [S::splat_int(0); C];
            for pair in 0..pairs {
                let minima = first.add(pair * sets * kept_per_set::<S, F, R>() + vector * S::LANES);
                let minima = S::load_int(minima.cast());
                let x = x.add(pair * sets * X_BLOCK * C + sums);
                for c in 0..C {
                    products[c] = S::add_pairs(products[c], minima, S::repeat(x.add(4 * c)));
                }
            }
            let scale = S::load(first.add(of_all_set * kept_per_set::<S, F, R>() + of_all * S::LANES));
            for c in 0..C {
                part[i][c] = S::fma(scale, S::to_float(products[c]), part[i][c]);
            }
        }
    }
}

/// The sums of the products of some vectors of a set.
macro_rules! sums_of {
    ($s:ty, $f:ty, $r:ident, $c:ident, $planes:ident, $x:ident, ($first:literal, $second:literal), $($v:literal)*) => {{
        let zero = [[<$s>::splat_int(0); $c]; $r];
        let vectors = [$($v),*].len();
        let most = waiting::<$s, $f>().min(vectors);
        if most == 0 {
            let mut sums = start::<$s, $f, $r, $c>($x, $first, $second);
            $(advance::<$s, $f, $r, $c, $v>(&mut sums, $planes, $x);)*
            sums
        } else {
            let (mut sums, mut waiting, mut n) = (zero, zero, 0);
            $(
                advance::<$s, $f, $r, $c, $v>(&mut waiting, $planes, $x);
                n += 1;
                if n == most {
                    sums = start::<$s, $f, $r, $c>($x, $first, $second);
                }
                if n % most == 0 {
                    widen::<$s, $r, $c>(&mut sums, &waiting);
                    waiting = zero;
                }
            )*
            let _ = waiting;
            sums
        }
    }};
}

/// Adds the products of a set of 32 values.
#[inline(always)]
unsafe fn set<S: Simd, F: Format, const R: usize, const C: usize>(
    y: &mut [[S::F; C]; R],
    mut planes: [*const u8; R],
    lanes: [usize; R],
    scales: *const f32,
    x: *const u8,
) {
    // SAFETY: the planes, scales and activations of a whole set.
    unsafe {
        for i in 0..R {
            planes[i] = planes[i].add(4 * lanes[i]);
        }
        if F::HALVES {
            let sums = sums_of!(S, F, R, C, planes, x, (true, false), 0 1 2 3);
            add::<S, F, R, C>(y, &sums, scales, x, 0);
            let sums = sums_of!(S, F, R, C, planes, x, (false, true), 4 5 6 7);
            add::<S, F, R, C>(y, &sums, scales, x, 1);
        } else {
            // Both values of a byte are taken together.
            let sums = sums_of!(S, F, R, C, planes, x, (true, true), 0 4 1 5 2 6 3 7);
            add::<S, F, R, C>(y, &sums, scales, x, 0);
        }
    }
}

/// Vectors of values whose products can wait in 16 bits, or none where they do not.
const fn waiting<S: Simd, F: Format>() -> usize {
    // Pairs of products with activations of up to ±127.
    match i16::MAX as i32 / (2 * 127 * F::LARGEST) {
        _ if !S::PAIRS => 0,
        0 | 1 => 0,
        2 | 3 => 2,
        4..=7 => 4,
        _ => 8,
    }
}

/// What the sums of a set begin with: the zero point, or the bias of the signed product, times the activations, and the
/// offset.
#[inline(always)]
unsafe fn start<S: Simd, F: Format, const R: usize, const C: usize>(
    x: *const u8,
    first: bool,
    second: bool,
) -> [[S::I; C]; R] {
    // SAFETY: the caller gives a set of C columns.
    unsafe {
        let x_sums = x.add(36 * C);
        let mut sums = [[S::splat_int(0); C]; R];
        if let Some(at) = begins::<S, F>(first) {
            let begins = x.add(at * C);
            for c in 0..C {
                let sum = S::repeat(begins.add(4 * c));
                for i in 0..R {
                    sums[i][c] = sum;
                }
            }
            return sums;
        }
        let zero_point = if F::WIDE { S::WIDE_BIAS } else { F::ZERO_POINT };
        let begin = if offset::<S, F>() {
            OFFSET.to_bits() as i32
        } else {
            0
        };
        for c in 0..C {
            let mut sum = S::splat_int(begin);
            if zero_point != 0 {
                let x = S::repeat(x_sums.add(4 * c));
                sum = S::add_pairs(sum, x, S::splat_int(pair(-zero_point, first, second)));
            }
            for i in 0..R {
                sums[i][c] = sum;
            }
        }
        sums
    }
}

/// Whether sums of a set begin with [`OFFSET`].
const fn offset<S: Simd, F: Format>() -> bool {
    !F::COARSE && (scaled_with_offset::<S, F>() || begins::<S, F>(true).is_some())
}

/// Where activations have what the sums of a set begin with, if they bring it along.
const fn begins<S: Simd, F: Format>(first: bool) -> Option<usize> {
    if raised::<S, F>() {
        Some(BEGINS[if first { 0 } else { 1 }])
    } else if !F::COARSE && !F::WIDE && F::ZERO_POINT == ZERO_POINT {
        Some(BEGINS[1])
    } else {
        None
    }
}

/// Whether the product of [`OFFSET`] and a scale is exact, and one operation subtracts it.
const fn scaled_with_offset<S: Simd, F: Format>() -> bool {
    S::FUSED && F::HALF_SCALE
}

/// Whether values are raised to 128 above what they stand for, and what sums begin with comes with the activations.
pub(super) const fn raised<S: Simd, F: Format>() -> bool {
    F::RAISED && S::WIDE_BIAS == 128
}

/// Two 16-bit factors, for the sums of the first and the second half.
const fn pair(x: i16, first: bool, second: bool) -> i32 {
    let bits = x as u16 as u32;
    ((if first { bits } else { 0 }) | (if second { bits << 16 } else { 0 })) as i32
}

/// The products of values `4V … 4V + 3` of the set, added to sums, or to the pairs of 16 bits that wait.
#[inline(always)]
unsafe fn advance<S: Simd, F: Format, const R: usize, const C: usize, const V: usize>(
    sums: &mut [[S::I; C]; R],
    planes: [*const u8; R],
    x: *const u8,
) {
    // SAFETY: planes and activations of a whole set.
    unsafe {
        let mut w = [S::splat_int(0); R];
        for i in 0..R {
            w[i] = vector::<S, F, V>(planes[i]);
        }
        let wide = F::WIDE || raised::<S, F>();
        for c in 0..C {
            let x = S::repeat(x.add(32 * c + 4 * V));
            for i in 0..R {
                sums[i][c] = match (waiting::<S, F>() > 0, wide) {
                    (false, false) => S::dot(sums[i][c], w[i], x),
                    (false, true) => S::dot_wide(sums[i][c], w[i], x),
                    (true, false) => S::dot_pairs(sums[i][c], w[i], x),
                    (true, true) => S::dot_pairs_wide(sums[i][c], w[i], x),
                };
            }
        }
    }
}

/// Adds to sums what waits in 16 bits.
#[inline(always)]
unsafe fn widen<S: Simd, const R: usize, const C: usize>(
    sums: &mut [[S::I; C]; R],
    waiting: &[[S::I; C]; R],
) {
    for i in 0..R {
        for c in 0..C {
            // SAFETY: the caller has the features of `S`.
            unsafe {
                sums[i][c] = S::add_pairs(sums[i][c], waiting[i][c], S::splat_int(pair(1, true, true)))
            };
        }
    }
}

/// Scales the sums of a set, or of half `half` of it, and adds them; the scale of activations that belongs to a block of
/// 256 is left to its end.
#[inline(always)]
unsafe fn add<S: Simd, F: Format, const R: usize, const C: usize>(
    y: &mut [[S::F; C]; R],
    sums: &[[S::I; C]; R],
    scales: *const f32,
    x: *const u8,
    half: usize,
) {
    // SAFETY: the caller gives the scales of R vectors of rows and a set of C columns.
    unsafe {
        let (x_scales, x_sums) = (x.add(32 * C), x.add(36 * C));
        for c in 0..C {
            if F::COARSE {
                for i in 0..R {
                    let at = (i * vectors_per_sub::<F>() + half) * S::LANES;
                    y[i][c] = S::fma(S::load(scales.add(at)), S::to_float(sums[i][c]), y[i][c]);
                }
                continue;
            }
            let d = S::splat(x_scales.add(4 * c).cast::<f32>().read_unaligned());
            for i in 0..R {
                let at = i * vectors_per_sub::<F>() * S::LANES;
                let scale = S::load(scales.add(at));
                let mut product = if scaled_with_offset::<S, F>() {
                    let of_offset = S::mul(scale, S::splat(-OFFSET));
                    S::fma(scale, S::from_bits(sums[i][c]), of_offset)
                } else if offset::<S, F>() {
                    S::mul(scale, S::sub(S::from_bits(sums[i][c]), S::splat(OFFSET)))
                } else {
                    S::mul(scale, S::to_float(sums[i][c]))
                };
                if F::MIN {
                    let one = S::splat_int(pair(1, true, true));
                    let sum = S::to_float(S::pairs(S::repeat(x_sums.add(4 * c)), one));
                    let min = S::load(scales.add(at + S::LANES));
                    product = S::fma(min, sum, product);
                }
                y[i][c] = S::fma(product, d, y[i][c]);
            }
        }
    }
}
