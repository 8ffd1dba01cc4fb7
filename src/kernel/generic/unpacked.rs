//! Matrix products with several tiles of columns: a stretch of weights is unpacked to bytes once, where the first cache
//! holds it, and meets all columns before the next one is.
//!
//! The sums of the columns wait in memory meanwhile, so each is added up in the order and by the operations of a single
//! tile, and a result is the same.

#![allow(
    unsafe_code,
    reason = "raw pointers into weights, activations and scratch memory"
)]

use super::columns::{Columns, X_BLOCK};
use super::fetch::Fetch;
use super::formats::{Format, Unpacked, block_bytes, sub_bytes, vector};
use super::job::JobView;
use super::matmul::{keep_block, kept_per_set, products, put, raised, rows_of};
use crate::kernel::simd::Simd;
use crate::quant::panel::PANEL_ROWS;

/// Sets of 32 values of a stretch: whole blocks of every format.
const STRETCH: usize = 16;

/// Bytes of the unpacked values of a set, of 16 rows.
const SET: usize = 512;

/// Most rows of a tile in vectors of 16, most vectors of scales of a set, and most bytes of a vector.
const ROWS: usize = 2;
const KEPT: usize = 4;
const VECTOR: usize = 64;

/// Most columns at once: with more, their sums and the unpacked weights would not stay in the first cache together.
pub(super) const MAX_COLUMNS: usize = 64;

/// Where the scales and the sums lie in the scratch memory.
const SCALES_AT: usize = ROWS * STRETCH * SET;
const SUMS_AT: usize = SCALES_AT + ROWS * STRETCH * KEPT * VECTOR;

/// Bytes of scratch memory: the above, wherever it begins.
pub(super) const SCRATCH: usize = VECTOR + SUMS_AT + ROWS * VECTOR * MAX_COLUMNS;

/// All rows of the panels `from..to` with several tiles of columns.
///
/// # Safety
/// As for `matmul::panels`; `scratch` has [`SCRATCH`] bytes, and there are at most [`MAX_COLUMNS`] columns.
#[inline(always)]
pub(super) unsafe fn tiles<S: Simd, F: Format, const R: usize, const C: usize>(
    job: &JobView,
    from: usize,
    to: usize,
    columns: &Columns,
    scratch: *mut u8,
) {
    const { assert!(R <= ROWS && S::LANES <= 16 && STRETCH.is_multiple_of(F::SUBS)) };
    let scratch = scratch.wrapping_add(scratch.align_offset(VECTOR));
    let planes = scratch;
    let scales: *mut f32 = scratch.wrapping_add(SCALES_AT).cast();
    let sums: *mut f32 = scratch.wrapping_add(SUMS_AT).cast();
    let subs = job.n_in / 32;
    let end = to * (PANEL_ROWS / S::LANES);
    let mut at = from * (PANEL_ROWS / S::LANES);
    while at < end {
        // SAFETY: the scratch memory has room for the stretch, its scales and the sums of a tile of each group of
        // columns; panels of weights and activations exist.
        unsafe {
            let (mut p, lanes) = rows_of::<S, R>(job, at, end);
            let mut first = 0;
            while first < subs {
                let stretch = STRETCH.min(subs - first);
                unpack::<S, F, R>(p, lanes, stretch, planes, scales);
                let bytes = stretch / F::SUBS * block_bytes::<F>();
                for p in &mut p {
                    *p = p.add(bytes);
                }
                let last = first + stretch == subs;
                let next = if last && at + R < end {
                    rows_of::<S, R>(job, at + R, end).0
                } else {
                    p
                };
                let n_tiles = columns.count.div_ceil(C);
                for tile in 0..n_tiles {
                    let x = columns.x.add(tile * columns.stride + first * X_BLOCK * C);
                    let sums = sums.add(tile * R * C * S::LANES);
                    let mut y = [[S::splat(0.0); C]; R];
                    if first > 0 {
                        for i in 0..R {
                            for c in 0..C {
                                y[i][c] = S::load(sums.add((i * C + c) * S::LANES));
                            }
                        }
                    }
                    let fetch = Fetch::share(next, tile, n_tiles, false);
                    multiply::<S, F, R, C>(&mut y, planes, lanes, scales, x, stretch, fetch);
                    if last {
                        let column = tile * C;
                        put::<S, R, C>(job, at, end, columns.first + column, columns.count - column, &y);
                    } else {
                        for i in 0..R {
                            for c in 0..C {
                                S::store(sums.add((i * C + c) * S::LANES), y[i][c]);
                            }
                        }
                    }
                }
                first += stretch;
            }
        }
        at += R;
    }
}

/// Unpacks a stretch of the values and scales of a tile's rows.
#[inline(always)]
unsafe fn unpack<S: Simd, F: Format, const R: usize>(
    mut p: [*const u8; R],
    lanes: [usize; R],
    stretch: usize,
    planes: *mut u8,
    mut scales: *mut f32,
) {
    let mut set = 0;
    while set < stretch {
        // SAFETY: the caller has room for a stretch of values and scales.
        unsafe {
            keep_block::<S, F, R>(p, lanes, scales);
            scales = scales.add(F::SUBS * kept_per_set::<S, F, R>());
            for i in 0..R {
                for sub in 0..F::SUBS {
                    let from = p[i].add(sub * sub_bytes::<F>() + 4 * lanes[i]);
                    let to = planes.add((i * STRETCH + set + sub) * SET + 4 * lanes[i]);
                    store::<S, F, 0>(from, to);
                    store::<S, F, 1>(from, to);
                    store::<S, F, 2>(from, to);
                    store::<S, F, 3>(from, to);
                    store::<S, F, 4>(from, to);
                    store::<S, F, 5>(from, to);
                    store::<S, F, 6>(from, to);
                    store::<S, F, 7>(from, to);
                }
                p[i] = p[i].add(block_bytes::<F>());
            }
        }
        set += F::SUBS;
    }
}

/// Unpacks vector `V` of a set, raised to 128 above what it stands for where sums begin so.
#[inline(always)]
unsafe fn store<S: Simd, F: Format, const V: usize>(from: *const u8, to: *mut u8) {
    // SAFETY: the planes of the set, and room for its unpacked values.
    unsafe {
        let mut w = vector::<S, F, V>(from);
        if raised::<S, Unpacked<F>>() && !F::WIDE {
            w = S::add_bytes(w, S::splat_int((128 - F::ZERO_POINT as i32) * 0x0101_0101));
        }
        S::store_int(to.add(64 * V), w);
    }
}

/// Adds the products of a stretch to a tile.
#[inline(always)]
unsafe fn multiply<S: Simd, F: Format, const R: usize, const C: usize>(
    y: &mut [[S::F; C]; R],
    planes: *const u8,
    lanes: [usize; R],
    mut scales: *const f32,
    mut x: *const u8,
    stretch: usize,
    mut fetch: Fetch<R>,
) {
    let mut p = [planes; R];
    for i in 0..R {
        p[i] = planes.wrapping_add(i * STRETCH * SET);
    }
    for _ in 0..stretch / F::SUBS {
        // SAFETY: the stretch was unpacked; the activations are as long.
        unsafe {
            products::<S, Unpacked<F>, R, C>(y, p, lanes, scales, x, &mut fetch);
            scales = scales.add(F::SUBS * kept_per_set::<S, F, R>());
            x = x.add(F::SUBS * X_BLOCK * C);
            for p in &mut p {
                *p = p.add(F::SUBS * SET);
            }
        }
    }
}
