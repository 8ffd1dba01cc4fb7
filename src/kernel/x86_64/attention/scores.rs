//! Products of queries and a block of keys.

#![allow(
    unsafe_code,
    reason = "vector intrinsics and raw pointers into blocks of keys and values"
)]

use std::arch::x86_64::*;

use super::super::avx512::Avx512;
use super::stored::{Stored, pair_of_columns};
use super::{LANES, ahead, dot};
use crate::kernel::generic::attention::{BLOCK, ChunkJob, SCORES};
use crate::kernel::generic::fetch::Ahead;

/// Scores of all queries with a block of keys.
#[inline(always)]
pub(super) unsafe fn block_scores<W: Stored>(job: &ChunkJob, b: usize) {
    // SAFETY: passes the caller's promise on.
    unsafe {
        let ahead = ahead::<W>(job.values[b], job.value_dim, job.key_dim.div_ceil(2));
        let scales = W::key_scales(job.keys[b], job.key_dim);
        let keys = job.keys[b].add(W::HEAD * BLOCK);
        match job.queries {
            1 => few_scores::<W, 1>(job, keys, scales, b * BLOCK, ahead),
            2 => few_scores::<W, 2>(job, keys, scales, b * BLOCK, ahead),
            3 => few_scores::<W, 3>(job, keys, scales, b * BLOCK, ahead),
            4 => few_scores::<W, 4>(job, keys, scales, b * BLOCK, ahead),
            5 => few_scores::<W, 5>(job, keys, scales, b * BLOCK, ahead),
            6 => few_scores::<W, 6>(job, keys, scales, b * BLOCK, ahead),
            7 => few_scores::<W, 7>(job, keys, scales, b * BLOCK, ahead),
            8 => few_scores::<W, 8>(job, keys, scales, b * BLOCK, ahead),
            _ => {
                pack_keys::<W>(keys, job.key_dim, scales, job.packed, ahead);
                all_scores(job, [scales[0].0, scales[1].0], b * BLOCK);
            }
        }
    }
}

/// Scores of the `C` queries there are, whose pairs of keys stay in registers.
#[inline(always)]
unsafe fn few_scores<W: Stored, const C: usize>(
    job: &ChunkJob,
    keys: *const u8,
    scales: [(__m512, __m512); 2],
    at: usize,
    mut ahead: Ahead,
) {
    // SAFETY: passes the caller's promise on.
    unsafe {
        let mut acc = [[_mm512_setzero_si512(); C]; 2];
        let mut q = job.q;
        for pair in 0..job.key_dim.div_ceil(2) {
            ahead.step::<Avx512>();
            for i in 0..2 {
                let k = pair_of_columns::<W>(keys, job.key_dim, pair, i, scales[i].1);
                for c in 0..C {
                    acc[i][c] = dot(acc[i][c], _mm512_set1_epi32(*q.add(c) as i32), k);
                }
            }
            q = q.add(job.q_stride);
        }
        put_scores(job, &acc, [scales[0].0, scales[1].0], at, 0);
    }
}

/// Pairs of columns of a block of keys, 32 pairs each.
#[inline(always)]
unsafe fn pack_keys<W: Stored>(
    keys: *const u8,
    dim: usize,
    scales: [(__m512, __m512); 2],
    out: *mut u32,
    mut ahead: Ahead,
) {
    for pair in 0..dim.div_ceil(2) {
        // SAFETY: the columns exist; the output has room for whole pairs of columns.
        unsafe {
            ahead.step::<Avx512>();
            for i in 0..2 {
                let pairs = pair_of_columns::<W>(keys, dim, pair, i, scales[i].1);
                _mm512_storeu_si512(out.add(pair * BLOCK + i * LANES).cast(), pairs);
            }
        }
    }
}

/// Scores of all queries with the packed block of keys at position `at` of the chunk.
#[inline(always)]
unsafe fn all_scores(job: &ChunkJob, scales: [__m512; 2], at: usize) {
    let mut c = 0;
    // SAFETY: queries from c on exist.
    unsafe {
        while c + 12 <= job.queries {
            some_scores::<12>(job, scales, at, c);
            c += 12;
        }
        while c + 4 <= job.queries {
            some_scores::<4>(job, scales, at, c);
            c += 4;
        }
        while c < job.queries {
            some_scores::<1>(job, scales, at, c);
            c += 1;
        }
    }
}

#[inline(always)]
unsafe fn some_scores<const C: usize>(job: &ChunkJob, scales: [__m512; 2], at: usize, first: usize) {
    // SAFETY: queries first..first + C exist, and so do the packed keys.
    unsafe {
        let mut acc = [[_mm512_setzero_si512(); C]; 2];
        let (mut keys, mut q) = (job.packed.cast_const(), job.q.add(first));
        for _ in 0..job.key_dim.div_ceil(2) {
            let k = [
                _mm512_loadu_si512(keys.cast()),
                _mm512_loadu_si512(keys.add(LANES).cast()),
            ];
            for c in 0..C {
                let x = _mm512_set1_epi32(*q.add(c) as i32);
                for i in 0..2 {
                    acc[i][c] = dot(acc[i][c], x, k[i]);
                }
            }
            keys = keys.add(BLOCK);
            q = q.add(job.q_stride);
        }
        put_scores(job, &acc, scales, at, first);
    }
}

/// Writes the scores of queries from `first` on.
#[inline(always)]
unsafe fn put_scores<const C: usize>(
    job: &ChunkJob,
    acc: &[[__m512i; C]; 2],
    scales: [__m512; 2],
    at: usize,
    first: usize,
) {
    for c in 0..C {
        // SAFETY: queries first..first + C exist.
        unsafe {
            let scale = _mm512_set1_ps(*job.q_scales.add(first + c));
            for i in 0..2 {
                let score = _mm512_mul_ps(_mm512_cvtepi32_ps(acc[i][c]), scales[i]);
                let out = job.scores.add((first + c) * SCORES + at + i * LANES);
                _mm512_storeu_ps(out, _mm512_mul_ps(score, scale));
            }
        }
    }
}
