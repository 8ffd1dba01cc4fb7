//! Sums of the values of a block, by the weights of the queries.

#![allow(
    unsafe_code,
    reason = "vector intrinsics and raw pointers into blocks of keys and values"
)]

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::avx512::Avx512;
use super::stored::{Stored, pair_of_rows};
use super::{LANES, ahead, dot};
use crate::kernel::generic::attention::{BLOCK, ChunkJob, SCORES};
use crate::kernel::generic::fetch::Ahead;

/// Adds a block of values to the sums of some queries; `factors` are those of its rows, `scales` those of the weights.
#[inline(always)]
pub(super) unsafe fn block_sums<W: Stored>(
    job: &ChunkJob,
    b: usize,
    queries: Range<usize>,
    factors: &[f32],
    scales: &[f32],
) {
    let rows = (job.values[b], factors);
    let ahead = ahead::<W>(job.next_keys[b], job.key_dim, BLOCK / 2);
    // SAFETY: passes the caller's promise on.
    unsafe {
        match queries.len() {
            1 => few_sums::<W, 1>(job, queries.start, b * BLOCK, rows, scales, ahead),
            2 => few_sums::<W, 2>(job, queries.start, b * BLOCK, rows, scales, ahead),
            3 => few_sums::<W, 3>(job, queries.start, b * BLOCK, rows, scales, ahead),
            4 => few_sums::<W, 4>(job, queries.start, b * BLOCK, rows, scales, ahead),
            5 => few_sums::<W, 5>(job, queries.start, b * BLOCK, rows, scales, ahead),
            6 => few_sums::<W, 6>(job, queries.start, b * BLOCK, rows, scales, ahead),
            7 => few_sums::<W, 7>(job, queries.start, b * BLOCK, rows, scales, ahead),
            8 => few_sums::<W, 8>(job, queries.start, b * BLOCK, rows, scales, ahead),
            _ => {
                pack_values::<W>(rows, job.value_dim, job.packed, ahead);
                all_sums(job, queries, b * BLOCK, scales);
            }
        }
    }
}

/// The same for `C` queries from `first` on, whose pairs of values stay in registers.
#[inline(always)]
unsafe fn few_sums<W: Stored, const C: usize>(
    job: &ChunkJob,
    first: usize,
    at: usize,
    rows: (*const u8, &[f32]),
    scales: &[f32],
    mut ahead: Ahead,
) {
    let mut d = 0;
    // SAFETY: passes the caller's promise on; vectors from d on lie inside the rows, or what is left of the last one.
    unsafe {
        while C <= 4 && d + 4 * LANES <= job.value_dim {
            few_vectors::<W, C, 4, true>(job, first, at, rows, d, scales, &mut ahead);
            d += 4 * LANES;
        }
        while d + 2 * LANES <= job.value_dim {
            few_vectors::<W, C, 2, true>(job, first, at, rows, d, scales, &mut ahead);
            d += 2 * LANES;
        }
        while d + LANES <= job.value_dim {
            few_vectors::<W, C, 1, true>(job, first, at, rows, d, scales, &mut ahead);
            d += LANES;
        }
        if d < job.value_dim {
            few_vectors::<W, C, 1, false>(job, first, at, rows, d, scales, &mut ahead);
        }
    }
}

#[inline(always)]
unsafe fn few_vectors<W: Stored, const C: usize, const V: usize, const WHOLE: bool>(
    job: &ChunkJob,
    first: usize,
    at: usize,
    rows: (*const u8, &[f32]),
    d: usize,
    scales: &[f32],
    ahead: &mut Ahead,
) {
    // SAFETY: queries first..first + C and V vectors from element d on exist.
    unsafe {
        let mut acc = [[_mm512_setzero_si512(); V]; C];
        let weights = job.scores.cast_const().add(first * SCORES + at / 2).cast::<i32>();
        for pair in 0..BLOCK / 2 {
            if d == 0 {
                ahead.step::<Avx512>();
            }
            let mut v = [_mm512_setzero_si512(); V];
            for i in 0..V {
                v[i] = pair_of_rows::<W, WHOLE>(rows, job.value_dim, pair, d + i * LANES);
            }
            for c in 0..C {
                let w = _mm512_set1_epi32(*weights.add(c * SCORES + pair));
                for i in 0..V {
                    acc[c][i] = dot(acc[c][i], w, v[i]);
                }
            }
        }
        add_sums(job, &acc, first, d, scales);
    }
}

/// Pairs of rows of a block of values, each as wide as whole vectors.
#[inline(always)]
unsafe fn pack_values<W: Stored>(rows: (*const u8, &[f32]), dim: usize, out: *mut u32, mut ahead: Ahead) {
    let width = dim.next_multiple_of(LANES);
    for pair in 0..BLOCK / 2 {
        // SAFETY: the rows exist; the output has room for 16 pairs of whole vectors.
        unsafe {
            ahead.step::<Avx512>();
            for d in (0..dim).step_by(LANES) {
                let pairs = if d + LANES <= dim {
                    pair_of_rows::<W, true>(rows, dim, pair, d)
                } else {
                    pair_of_rows::<W, false>(rows, dim, pair, d)
                };
                _mm512_storeu_si512(out.add(pair * width + d).cast(), pairs);
            }
        }
    }
}

/// Adds the packed block of values at position `at` of the chunk to the sums of some queries.
#[inline(always)]
unsafe fn all_sums(job: &ChunkJob, queries: Range<usize>, at: usize, scales: &[f32]) {
    let mut c = queries.start;
    // SAFETY: queries from c on exist.
    unsafe {
        while c + 6 <= queries.end {
            some_sums::<6>(job, c, at, scales);
            c += 6;
        }
        while c + 4 <= queries.end {
            some_sums::<4>(job, c, at, scales);
            c += 4;
        }
        while c < queries.end {
            some_sums::<1>(job, c, at, scales);
            c += 1;
        }
    }
}

#[inline(always)]
unsafe fn some_sums<const C: usize>(job: &ChunkJob, first: usize, at: usize, scales: &[f32]) {
    let mut d = 0;
    // SAFETY: vectors from d on lie inside the packed rows.
    unsafe {
        while d + 4 * LANES <= job.value_dim.next_multiple_of(LANES) {
            vectors_of_sums::<C, 4>(job, first, at, d, scales);
            d += 4 * LANES;
        }
        while d < job.value_dim {
            vectors_of_sums::<C, 1>(job, first, at, d, scales);
            d += LANES;
        }
    }
}

#[inline(always)]
unsafe fn vectors_of_sums<const C: usize, const V: usize>(
    job: &ChunkJob,
    first: usize,
    at: usize,
    d: usize,
    scales: &[f32],
) {
    // SAFETY: queries first..first + C and V vectors from element d on exist.
    unsafe {
        let mut acc = [[_mm512_setzero_si512(); V]; C];
        let mut values = job.packed.cast_const().add(d);
        let mut weights = job.scores.cast_const().add(first * SCORES + at / 2).cast::<i32>();
        for _ in 0..BLOCK / 2 {
            let mut v = [_mm512_setzero_si512(); V];
            for i in 0..V {
                v[i] = _mm512_loadu_si512(values.add(i * LANES).cast());
            }
            for c in 0..C {
                let w = _mm512_set1_epi32(*weights.add(c * SCORES));
                for i in 0..V {
                    acc[c][i] = dot(acc[c][i], w, v[i]);
                }
            }
            values = values.add(job.value_dim.next_multiple_of(LANES));
            weights = weights.add(1);
        }
        add_sums(job, &acc, first, d, scales);
    }
}

/// Adds what a block gave the queries from `first` on, in vectors from element `d` on.
#[inline(always)]
unsafe fn add_sums<const C: usize, const V: usize>(
    job: &ChunkJob,
    acc: &[[__m512i; V]; C],
    first: usize,
    d: usize,
    scales: &[f32],
) {
    let width = job.value_dim.next_multiple_of(LANES);
    for c in 0..C {
        // SAFETY: queries first..first + C have sums of whole vectors.
        unsafe {
            let scale = _mm512_set1_ps(scales[first + c]);
            for i in 0..V {
                let sum = job.sums.add((first + c) * width + d + i * LANES);
                let added = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[c][i]), scale, _mm512_loadu_ps(sum));
                _mm512_storeu_ps(sum, added);
            }
        }
    }
}
