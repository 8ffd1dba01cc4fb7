//! AVX-512 with AVX512_BF16: the entry points of AVX-512, but for those that multiply pairs of bfloat16 with `vdpbf16ps`.
//!
//! Attention over keys and values of 16 and 8 bits: blocks are turned into pairs of bfloat16 once for all queries of a
//! task, keys as pairs of elements per position, values as pairs of positions per element. Weights are rounded to
//! bfloat16. A block of values is always taken as a whole: positions that a query does not see have the weight zero, and
//! where a value of theirs is not finite, so that zero times it would not be zero, they are cleared for that row.

#![allow(
    unsafe_code,
    reason = "vector intrinsics and raw pointers into scratch memory"
)]

use std::arch::x86_64::*;

use super::avx512::{self, Avx512};
use crate::kernel::generic::attention::{BLOCK, CHUNK, ChunkJob, SCORES};
use crate::kernel::generic::float::{Bf16, F16, Floats};
use crate::kernel::generic::ops;
use crate::kernel::generic::rows::{I8, Q8_SCALE, load_part_of};
use crate::kernel::simd::Simd;
use crate::kernel::table::Bf16Attention;
use crate::kernel::{CpuLevel, Kernels, RowType};

/// Function table of the level.
pub(crate) static TABLE: Kernels = Kernels {
    level: CpuLevel::Avx512Bf16,
    bf16: Some(super::bf16::rows),
    peak_bf16: Some(super::bf16::peak),
    bf16_attention: Some(Bf16Attention { pack_query, chunk }),
    ..avx512::table::TABLE
};

/// Lanes of a vector.
const LANES: usize = 16;

/// Writes the pairs of a query, scaled, `stride` apart; an odd element is paired with zero.
///
/// # Safety
/// `out` has room; the CPU has the features.
#[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn pack_query(q: &[f32], scale: f32, out: *mut u32, stride: usize) {
    for (part, q) in q.chunks(2 * LANES).enumerate() {
        let mut x = [0.0f32; 2 * LANES];
        x[..q.len()].copy_from_slice(q);
        let mut pairs = [0u32; LANES];
        // SAFETY: arrays of two vectors and one; the output by the caller's promise.
        unsafe {
            let scale = _mm512_set1_ps(scale);
            let low = _mm512_mul_ps(_mm512_loadu_ps(x.as_ptr()), scale);
            let high = _mm512_mul_ps(_mm512_loadu_ps(x.as_ptr().add(LANES)), scale);
            _mm512_storeu_si512(pairs.as_mut_ptr().cast(), bf16(low, high));
            for (i, pair) in pairs[..q.len().div_ceil(2)].iter().enumerate() {
                *out.add((part * LANES + i) * stride) = *pair;
            }
        }
    }
}

/// The chunk of a job: largest scores, sums of exponentials and weighted values.
///
/// # Safety
/// What the job points to is there; the CPU has the features.
#[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn chunk(job: &ChunkJob) {
    // SAFETY: passes the caller's promise on.
    unsafe {
        match job.ty {
            RowType::F16 => chunk_of::<F16, 0>(job),
            RowType::BF16 => chunk_of::<Bf16, 0>(job),
            RowType::Q8 => chunk_of::<I8, Q8_SCALE>(job),
            // Floats of 32 bits are multiplied as such.
            RowType::F32 => {}
        }
    }
}

/// `HEAD` is the size of the scale before a row of values.
#[inline(always)]
unsafe fn chunk_of<W: Floats, const HEAD: usize>(job: &ChunkJob) {
    // SAFETY: passes the caller's promise on; every row, block and query is one of the job's.
    unsafe {
        let rows = job.queries / job.heads;
        let width = job.value_dim.next_multiple_of(LANES);
        // Blocks that the first row, which sees the earliest, or the last, which sees the latest, has a part in.
        let blocks = job.seen(0).0 / BLOCK..job.seen(rows - 1).1.div_ceil(BLOCK);
        let mut value_scales = [1.0f32; CHUNK];
        for b in blocks.clone() {
            let keys = job.keys[b];
            // What is read next comes while this block is multiplied.
            if b + 1 < blocks.end {
                prefetch(job.keys[b + 1], job.key_dim * W::BYTES * BLOCK);
            }
            prefetch(job.values[b], (HEAD + job.value_dim * W::BYTES) * BLOCK);
            let scales = if HEAD == 0 { std::ptr::null() } else { keys.cast() };
            pack_keys::<W>(keys.add(HEAD * BLOCK), job.key_dim, job.packed);
            all_scores(job, scales, b * BLOCK);
            if HEAD != 0 {
                for t in 0..BLOCK {
                    let row = job.values[b].add(t * (HEAD + job.value_dim));
                    value_scales[b * BLOCK + t] = row.cast::<f32>().read_unaligned();
                }
            }
        }
        for c in 0..job.queries {
            let scales = if HEAD == 0 {
                std::ptr::null()
            } else {
                value_scales.as_ptr()
            };
            let (from, to) = job.seen(c / job.heads);
            *job.stats.add(c) = if from % BLOCK == 0 && to % BLOCK == 0 {
                weights::<true>(job, c, (from, to), scales)
            } else {
                weights::<false>(job, c, (from, to), scales)
            };
        }
        std::ptr::write_bytes(job.sums, 0, job.queries * width);
        for b in blocks {
            let block = b * BLOCK..(b + 1) * BLOCK;
            let part = |row: usize| {
                let (from, to) = job.seen(row);
                (from.max(block.start), to.min(block.end))
            };
            // Rows that see some of the block lie together.
            let first = (0..rows).find(|&r| job.seen(r).1 > block.start).unwrap_or(rows);
            let end = (first..rows)
                .find(|&r| job.seen(r).0 >= block.end)
                .unwrap_or(rows);
            if first == end {
                continue;
            }
            // The last row sees the latest positions, and those after them may not be stored yet.
            let stored = part(end - 1).1 - block.start;
            let finite = pack_values::<W, HEAD>(job.values[b], job.value_dim, (0, stored), job.packed);
            if finite {
                all_sums(job, first * job.heads, end * job.heads, block.start, width);
                continue;
            }
            for row in first..end {
                let (from, to) = part(row);
                let seen = (from - block.start, to - block.start);
                pack_values::<W, HEAD>(job.values[b], job.value_dim, seen, job.packed);
                all_sums(job, row * job.heads, (row + 1) * job.heads, block.start, width);
            }
        }
    }
}

/// Asks for the lines of a block.
#[inline(always)]
unsafe fn prefetch(block: *const u8, bytes: usize) {
    for at in (0..bytes).step_by(64) {
        // SAFETY: a hint that never faults.
        unsafe { Avx512::prefetch(block.wrapping_add(at)) };
    }
}

/// Two vectors rounded to bfloat16, one after the other.
#[inline(always)]
unsafe fn bf16(low: __m512, high: __m512) -> __m512i {
    // SAFETY: vectors of the same size; the features are the caller's promise.
    unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(high, low)) }
}

/// The lanes of two vectors rounded to bfloat16 and paired.
#[inline(always)]
unsafe fn paired(even: __m512, odd: __m512) -> __m512i {
    const ORDER: [u16; 32] = {
        let mut order = [0; 32];
        let mut i = 0;
        while i < 32 {
            order[i] = (i / 2 + i % 2 * LANES) as u16;
            i += 1;
        }
        order
    };
    // SAFETY: as above.
    unsafe { _mm512_permutexvar_epi16(_mm512_loadu_si512(ORDER.as_ptr().cast()), bf16(even, odd)) }
}

/// acc + the products of pairs.
#[inline(always)]
unsafe fn dot(acc: __m512, a: __m512i, b: __m512i) -> __m512 {
    // SAFETY: vectors of the same size; the features are the caller's promise.
    unsafe {
        let pairs = |v| std::mem::transmute::<__m512i, __m512bh>(v);
        _mm512_dpbf16_ps(acc, pairs(a), pairs(b))
    }
}

/// Pairs of columns of a block of keys: 32 pairs each.
#[inline(always)]
unsafe fn pack_keys<W: Floats>(keys: *const u8, dim: usize, out: *mut u32) {
    for pair in 0..dim.div_ceil(2) {
        for half in 0..2 {
            // SAFETY: the columns exist; the output has room for whole pairs of columns.
            unsafe {
                let even = keys.add((2 * pair * BLOCK + half * LANES) * W::BYTES);
                let odd = if 2 * pair + 1 < dim {
                    W::load::<Avx512>(even.add(BLOCK * W::BYTES))
                } else {
                    _mm512_setzero_ps()
                };
                let pairs = paired(W::load::<Avx512>(even), odd);
                _mm512_storeu_si512(out.add(pair * BLOCK + half * LANES).cast(), pairs);
            }
        }
    }
}

/// Scores of all queries with the packed block of keys at position `at` of the chunk.
#[inline(always)]
unsafe fn all_scores(job: &ChunkJob, scales: *const f32, at: usize) {
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
unsafe fn some_scores<const C: usize>(job: &ChunkJob, scales: *const f32, at: usize, first: usize) {
    // SAFETY: queries first..first + C exist, and so do the packed keys.
    unsafe {
        let mut acc = [[_mm512_setzero_ps(); C]; 2];
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
        for i in 0..2 {
            for c in 0..C {
                let mut y = acc[i][c];
                if !scales.is_null() {
                    y = _mm512_mul_ps(y, _mm512_loadu_ps(scales.add(i * LANES)));
                }
                _mm512_storeu_ps(job.scores.add((first + c) * SCORES + at + i * LANES), y);
            }
        }
    }
}

/// Turns the scores of query `c` into weights, in place: exp(score − largest) times the scale of the position's values,
/// in bfloat16, zero for positions of its blocks that it does not see. Answers the largest score and the sum of the
/// exponentials.
///
/// `WHOLE`: it sees whole blocks.
#[inline(always)]
unsafe fn weights<const WHOLE: bool>(
    job: &ChunkJob,
    c: usize,
    (from, to): (usize, usize),
    scales: *const f32,
) -> (f32, f32) {
    // SAFETY: the query has scores of whole blocks.
    unsafe {
        let scores = job.scores.add(c * SCORES);
        if job.softcap > 0.0 {
            let seen = std::slice::from_raw_parts_mut(scores.add(from), to - from);
            ops::softcap::<Avx512>(seen, job.softcap);
        }
        let blocks = from / BLOCK..to.div_ceil(BLOCK);
        // Lanes seen of the vector at a position.
        let mask = |at: usize| {
            if WHOLE {
                return !0;
            }
            let below = |n: usize| (1u32 << n.saturating_sub(at).min(LANES)).wrapping_sub(1);
            (below(to) & !below(from)) as __mmask16
        };
        let lowest = _mm512_set1_ps(f32::NEG_INFINITY);
        let mut max = [lowest; 2];
        for b in blocks.clone() {
            for i in 0..2 {
                let at = b * BLOCK + i * LANES;
                max[i] = _mm512_mask_max_ps(max[i], mask(at), _mm512_loadu_ps(scores.add(at)), max[i]);
            }
        }
        let largest = Avx512::largest(_mm512_max_ps(max[0], max[1]));
        let minus = _mm512_set1_ps(-largest * std::f32::consts::LOG2_E);
        let mut sum = [_mm512_setzero_ps(); 2];
        for b in blocks {
            let mut p = [_mm512_setzero_ps(); 2];
            for i in 0..2 {
                let at = b * BLOCK + i * LANES;
                p[i] = _mm512_maskz_mov_ps(mask(at), exp(_mm512_loadu_ps(scores.add(at)), minus));
                sum[i] = _mm512_add_ps(sum[i], p[i]);
                if !scales.is_null() {
                    p[i] = _mm512_maskz_mul_ps(mask(at), p[i], _mm512_loadu_ps(scales.add(at)));
                }
            }
            // Half the size: what is overwritten has been read.
            _mm512_storeu_si512(scores.add(b * BLOCK / 2).cast(), bf16(p[0], p[1]));
        }
        (largest, Avx512::sum(_mm512_add_ps(sum[0], sum[1])))
    }
}

/// 2 to the power of x · log₂ e + `minus`, within 4e-6: four hundred times as close as bfloat16.
#[inline(always)]
unsafe fn exp(x: __m512, minus: __m512) -> __m512 {
    // SAFETY: register arithmetic; the features are the caller's promise.
    unsafe {
        let x = _mm512_fmadd_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E), minus);
        // Whatever lies below becomes zero. NaN stays.
        let x = _mm512_max_ps(_mm512_set1_ps(-200.0), x);
        let n = Avx512::round(x);
        let r = _mm512_sub_ps(x, n);
        // Interpolation of 2ʳ on −½…½ at the Chebyshev points.
        let mut p = _mm512_set1_ps(EXP2[4]);
        for c in [EXP2[3], EXP2[2], EXP2[1], EXP2[0]] {
            p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
        }
        _mm512_scalef_ps(p, n)
    }
}

/// Coefficients of 2ʳ, lowest first.
const EXP2: [f32; 5] = [1.0, 0.693_121, 0.240_223_5, 0.055_921_98, 0.009_666_368];

/// Pairs of rows of a block of values, each as wide as whole vectors; positions outside of `seen` as zeros. Answers
/// whether all those seen are finite.
#[inline(always)]
unsafe fn pack_values<W: Floats, const HEAD: usize>(
    values: *const u8,
    dim: usize,
    seen: (usize, usize),
    out: *mut u32,
) -> bool {
    // SAFETY: rows seen exist; the output has room for 16 pairs of whole vectors.
    unsafe {
        let width = dim.next_multiple_of(LANES);
        let exponent = _mm512_set1_epi16(0x7f80);
        let mut infinite = 0;
        for pair in 0..BLOCK / 2 {
            for d in (0..dim).step_by(LANES) {
                let load = |t: usize| {
                    if !(seen.0..seen.1).contains(&t) {
                        return _mm512_setzero_ps();
                    }
                    let p = values.add(t * (HEAD + dim * W::BYTES) + HEAD + d * W::BYTES);
                    if dim - d < LANES {
                        load_part_of::<Avx512, W>(p, dim - d)
                    } else {
                        W::load::<Avx512>(p)
                    }
                };
                let pairs = paired(load(2 * pair), load(2 * pair + 1));
                infinite |= _mm512_cmpeq_epi16_mask(_mm512_and_si512(pairs, exponent), exponent);
                _mm512_storeu_si512(out.add(pair * width + d).cast(), pairs);
            }
        }
        infinite == 0
    }
}

/// Adds the packed block of values at position `at` of the chunk to the sums of queries `from..to`.
#[inline(always)]
unsafe fn all_sums(job: &ChunkJob, from: usize, to: usize, at: usize, width: usize) {
    let mut c = from;
    // SAFETY: queries from c on exist.
    unsafe {
        while c + 6 <= to {
            some_sums::<6>(job, c, at, width);
            c += 6;
        }
        while c + 4 <= to {
            some_sums::<4>(job, c, at, width);
            c += 4;
        }
        while c < to {
            some_sums::<1>(job, c, at, width);
            c += 1;
        }
    }
}

#[inline(always)]
unsafe fn some_sums<const C: usize>(job: &ChunkJob, first: usize, at: usize, width: usize) {
    let mut d = 0;
    // SAFETY: vectors from d on lie inside the width.
    unsafe {
        while d + 4 * LANES <= width {
            vectors_of_sums::<C, 4>(job, first, at, width, d);
            d += 4 * LANES;
        }
        while d < width {
            vectors_of_sums::<C, 1>(job, first, at, width, d);
            d += LANES;
        }
    }
}

#[inline(always)]
unsafe fn vectors_of_sums<const C: usize, const V: usize>(
    job: &ChunkJob,
    first: usize,
    at: usize,
    width: usize,
    d: usize,
) {
    // SAFETY: queries first..first + C and V vectors from element d on exist.
    unsafe {
        let sums = job.sums.add(first * width + d);
        let mut acc = [[_mm512_setzero_ps(); V]; C];
        for c in 0..C {
            for i in 0..V {
                acc[c][i] = _mm512_loadu_ps(sums.add(c * width + i * LANES));
            }
        }
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
            values = values.add(width);
            weights = weights.add(1);
        }
        for c in 0..C {
            for i in 0..V {
                _mm512_storeu_ps(sums.add(c * width + i * LANES), acc[c][i]);
            }
        }
    }
}
