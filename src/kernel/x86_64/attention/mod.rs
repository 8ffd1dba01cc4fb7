//! Attention over keys and values of 16 and 8 bits in products of 16-bit integers, with AVX-512 and VNNI: `vpdpwssd` adds
//! two products in the time of one of `f32`, and exactly.
//!
//! A key is a vector of integers of 16 bits times a scale of its own, and so is a query. Both are at most 32767 long, but for
//! rounding, so their product has at most 31 bits and a sign. That is finer than binary16 for all but the smallest elements. A
//! value has 13 bits of its position's largest and a sign, the weights of a query in a chunk, times the scales of the values, 13
//! bits of the heaviest: a sum over a block has 32 bits. Weights are rounded up or down by turns of their positions, so that what many light ones weigh
//! together is not lost. Eight-bit keys and values are what they are.
//!
//! Few queries meet keys and values as they are turned into integers; for many a block is turned into pairs of integers
//! first, keys as pairs of elements per position, values as pairs of positions per element. Either way sums of integers are
//! exact, so results are the same. A block of values is always taken as a whole: positions that a query does not see have
//! the weight zero, and whatever lies there is some integer. What is not finite, or as a square is not, has a scale that is
//! not a number, so it reaches those who see it.

#![allow(
    unsafe_code,
    reason = "vector intrinsics and raw pointers into scratch memory"
)]

mod scores;
mod stored;
mod sums;

use std::arch::x86_64::*;

use super::avx512::Avx512;
use crate::kernel::RowType;
use crate::kernel::generic::attention::{BLOCK, CHUNK, ChunkJob, MOST_QUERIES, SCORES};
use crate::kernel::generic::fetch::Ahead;
use crate::kernel::generic::float::{Bf16, F16};
use crate::kernel::generic::ops;
use crate::kernel::generic::rows::I8;
use crate::kernel::simd::{Simd, load_part};
use crate::kernel::table::PairAttention;
use scores::block_scores;
use stored::{Stored, VALUE, by_length, integers};
use sums::block_sums;

/// The entry points.
pub(super) const TABLE: PairAttention = PairAttention { pack_query, chunk };

/// Lanes of a vector.
const LANES: usize = 16;
/// Largest weight.
const WEIGHT: i32 = 8191;
// Rounding may add one.
const _: () = assert!((WEIGHT + 1) as i64 * VALUE as i64 * BLOCK as i64 <= i32::MAX as i64);
/// What is added to the weight of each position of a chunk before it is rounded: parts of one half up and down, evenly
/// spread over any stretch.
const TURNS: [f32; CHUNK] = {
    // The golden section in 16 bits.
    const STEP: u32 = 40503;
    let mut turns = [0.0; CHUNK];
    let mut t = 0;
    while t < CHUNK {
        turns[t] = (t as u32 * STEP % 65536) as f32 / 65536.0 - 0.5;
        t += 1;
    }
    // Not a whole half, so that nothing stays nothing.
    turns[0] = 0.0;
    turns
};

/// Writes the pairs of a query, `stride` apart, and answers the scale of its products; an odd element is paired with zero.
///
/// # Safety
/// `out` has room; the CPU has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn pack_query(q: &[f32], scale: f32, out: *mut u32, stride: usize) -> f32 {
    // SAFETY: parts of a vector are loaded as such; the output by the caller's promise.
    unsafe {
        let mut squares = _mm512_setzero_ps();
        for part in q.chunks(LANES) {
            let x = vector(part);
            squares = _mm512_fmadd_ps(x, x, squares);
        }
        let (length, factor) = by_length(_mm512_set1_ps(Avx512::sum(squares)));
        for (i, part) in q.chunks(LANES).enumerate() {
            let mut words = [0u16; LANES];
            let narrow = _mm512_cvtepi32_epi16(integers(vector(part), factor));
            _mm256_storeu_si256(words.as_mut_ptr().cast(), narrow);
            for pair in 0..part.len().div_ceil(2) {
                let (even, odd) = (words[2 * pair], words[2 * pair + 1]);
                *out.add((i * LANES / 2 + pair) * stride) = u32::from(even) | u32::from(odd) << 16;
            }
        }
        _mm512_cvtss_f32(length) * scale
    }
}

/// Up to 16 values, the others zero.
#[inline(always)]
unsafe fn vector(x: &[f32]) -> __m512 {
    // SAFETY: as many values as there are.
    unsafe {
        if x.len() == LANES {
            _mm512_loadu_ps(x.as_ptr())
        } else {
            load_part::<Avx512>(x.as_ptr(), x.len())
        }
    }
}

/// The chunk of a job: largest scores, sums of exponentials and weighted values.
///
/// # Safety
/// What the job points to is there; the CPU has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn chunk(job: &ChunkJob) {
    // SAFETY: passes the caller's promise on.
    unsafe {
        match job.ty {
            RowType::F16 => chunk_of::<F16>(job),
            RowType::BF16 => chunk_of::<Bf16>(job),
            RowType::Q8 => chunk_of::<I8>(job),
            // Floats of 32 bits are multiplied as such.
            RowType::F32 => {}
        }
    }
}

#[inline(always)]
unsafe fn chunk_of<W: Stored>(job: &ChunkJob) {
    // SAFETY: passes the caller's promise on; every row, block and query is one of the job's.
    unsafe {
        let rows = job.queries / job.heads;
        let width = job.value_dim.next_multiple_of(LANES);
        // Blocks that the first row, which sees the earliest, or the last, which sees the latest, has a part in.
        let blocks = job.seen(0).0 / BLOCK..job.seen(rows - 1).1.div_ceil(BLOCK);
        for b in blocks.clone() {
            // The values come while keys are multiplied, and the next chunk's keys while values are.
            block_scores::<W>(job, b);
        }
        let mut value_scales = [[0.0f32; CHUNK]; 2];
        for b in blocks.clone() {
            let scales = W::value_scales(job.values[b], job.value_dim);
            for i in 0..2 {
                let at = b * BLOCK + i * LANES;
                _mm512_storeu_ps(value_scales[0][at..].as_mut_ptr(), scales[i].0);
                _mm512_storeu_ps(value_scales[1][at..].as_mut_ptr(), scales[i].1);
            }
        }
        let mut weight_scales = [0.0f32; MOST_QUERIES];
        for c in 0..job.queries {
            let (from, to) = job.seen(c / job.heads);
            let scales = value_scales[0].as_ptr();
            (*job.stats.add(c), weight_scales[c]) = if from % BLOCK == 0 && to % BLOCK == 0 {
                weights::<true>(job, c, (from, to), scales)
            } else {
                weights::<false>(job, c, (from, to), scales)
            };
        }
        std::ptr::write_bytes(job.sums, 0, job.queries * width);
        for b in blocks.clone() {
            let block = b * BLOCK..(b + 1) * BLOCK;
            // Rows that see some of the block lie together.
            let first = (0..rows).find(|&r| job.seen(r).1 > block.start).unwrap_or(rows);
            let end = (first..rows)
                .find(|&r| job.seen(r).0 >= block.end)
                .unwrap_or(rows);
            if first < end {
                let queries = first * job.heads..end * job.heads;
                block_sums::<W>(job, b, queries, &value_scales[1][block], &weight_scales);
            }
        }
    }
}

/// A block of 32 rows of `dim` elements, if there is one, asked for in `steps` steps.
#[inline(always)]
fn ahead<W: Stored>(block: *const u8, dim: usize, steps: usize) -> Ahead {
    let bytes = if block.is_null() {
        0
    } else {
        (W::HEAD + dim * W::BYTES) * BLOCK
    };
    Ahead::new(block, bytes, steps)
}

/// acc + the products of pairs.
#[inline(always)]
unsafe fn dot(acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: register arithmetic; the features are the caller's promise.
    unsafe { _mm512_dpwssd_epi32(acc, a, b) }
}

/// Turns the scores of query `c` into weights, in place: exp(score − largest) times the scale of the position's values,
/// as integers of 16 bits, zero for positions of its blocks that it does not see. Answers the largest score and the sum of the
/// exponentials, and the scale of the weights.
///
/// `WHOLE`: it sees whole blocks.
#[inline(always)]
unsafe fn weights<const WHOLE: bool>(
    job: &ChunkJob,
    c: usize,
    (from, to): (usize, usize),
    scales: *const f32,
) -> ((f32, f32), f32) {
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
        let max = _mm512_set1_ps(largest);
        let mut sum = [_mm512_setzero_ps(); 2];
        // By their bits: what is not finite is larger than any other.
        let mut heaviest = [_mm512_setzero_si512(); 2];
        for b in blocks.clone() {
            for i in 0..2 {
                let at = b * BLOCK + i * LANES;
                let p =
                    _mm512_maskz_mov_ps(mask(at), exp(_mm512_sub_ps(_mm512_loadu_ps(scores.add(at)), max)));
                sum[i] = _mm512_add_ps(sum[i], p);
                let weight = _mm512_maskz_mul_ps(mask(at), p, _mm512_loadu_ps(scales.add(at)));
                heaviest[i] = _mm512_max_epu32(heaviest[i], _mm512_castps_si512(weight));
                _mm512_storeu_ps(scores.add(at), weight);
            }
        }
        let heaviest = f32::from_bits(_mm512_reduce_max_epu32(_mm512_max_epu32(
            heaviest[0],
            heaviest[1],
        )));
        let factor = _mm512_set1_ps(WEIGHT as f32 / heaviest);
        for b in blocks {
            for i in 0..2 {
                let at = b * BLOCK + i * LANES;
                let turn = _mm512_loadu_ps(TURNS[at..].as_ptr());
                let weight = _mm512_fmadd_ps(_mm512_loadu_ps(scores.add(at)), factor, turn);
                let weight = integers(weight, _mm512_set1_ps(1.0));
                // Half the size: what is overwritten has been read.
                _mm256_storeu_si256(scores.add(at / 2).cast(), _mm512_cvtepi32_epi16(weight));
            }
        }
        let sum = Avx512::sum(_mm512_add_ps(sum[0], sum[1]));
        ((largest, sum), heaviest / WEIGHT as f32 + heaviest * 0.0)
    }
}

/// eˣ within 4e-6, for x ≤ 0.
#[inline(always)]
unsafe fn exp(x: __m512) -> __m512 {
    // SAFETY: register arithmetic; the features are the caller's promise.
    unsafe {
        let x = _mm512_mul_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E));
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
