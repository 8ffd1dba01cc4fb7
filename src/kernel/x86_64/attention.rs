//! Attention over keys and values of 16 and 8 bits in products of 16-bit integers, with AVX-512 and VNNI: `vpdpwssd` adds
//! two products in the time of one of `f32`, and exactly.
//!
//! A key is a vector of integers of 16 bits times a scale of its own, and so is a query. Both are at most [`LONGEST`] long, so
//! their product has at most 31 bits. That is finer than binary16 for all but the smallest elements. A value is 13 bits of its
//! position's largest, and the weights of a query in a chunk, times the scales of the values, are 14 bits of the heaviest: a
//! sum over a block has 32 bits. Eight-bit keys and values are what they are.
//!
//! Few queries meet keys and values as they are turned into integers; for many a block is turned into pairs of integers
//! first, keys as pairs of elements per position, values as pairs of positions per element. Either way sums of integers are
//! exact, so results are the same. A block of values is always taken as a whole: positions that a query does not see have
//! the weight zero, and whatever lies there is some integer. What is not finite has a scale that is not a number, so it
//! reaches those who see it.

#![allow(
    unsafe_code,
    reason = "vector intrinsics and raw pointers into scratch memory"
)]

use std::arch::x86_64::*;

use super::avx512::Avx512;
use crate::kernel::RowType;
use crate::kernel::generic::attention::{BLOCK, CHUNK, ChunkJob, MOST_QUERIES, SCORES};
use crate::kernel::generic::float::{Bf16, F16, Floats};
use crate::kernel::generic::ops;
use crate::kernel::generic::rows::{I8, Q8_SCALE};
use crate::kernel::simd::{Simd, load_part};
use crate::kernel::table::PairAttention;

/// The entry points.
pub(super) const TABLE: PairAttention = PairAttention { pack_query, chunk };

/// Lanes of a vector.
const LANES: usize = 16;
/// Greatest length of a key or query in integers.
const LONGEST: f32 = 32767.0;
/// Square of the length below which it counts as zero: squares of smaller elements would not be precise.
const NOTHING: f32 = 1e-30;
/// Largest weight, and largest magnitude of a value of 16 bits.
const WEIGHT: i32 = 16383;
const VALUE: i32 = 4095;
const _: () = assert!(WEIGHT as i64 * VALUE as i64 * BLOCK as i64 <= i32::MAX as i64);

/// How keys and values become integers.
trait Stored {
    const BYTES: usize;
    /// Bytes per position before the values.
    const HEAD: usize;
    /// Scales of the positions of a block of keys, and what its elements are multiplied by.
    unsafe fn key_scales(keys: *const u8, dim: usize) -> [(__m512, __m512); 2];
    /// The same of a block of values.
    unsafe fn value_scales(values: *const u8, dim: usize) -> [(__m512, __m512); 2];
    /// An integer in the lower 16 bits of each lane.
    unsafe fn load(p: *const u8, factor: __m512) -> __m512i;
}

/// Numbers of 16 bits whose magnitudes are in the order of their bits, all but the highest.
trait Half: Floats {}
impl Half for F16 {}
impl Half for Bf16 {}

impl<W: Half> Stored for W {
    const BYTES: usize = 2;
    const HEAD: usize = 0;

    #[inline(always)]
    unsafe fn key_scales(keys: *const u8, dim: usize) -> [(__m512, __m512); 2] {
        // SAFETY: columns of 32 positions.
        unsafe {
            // Of even and odd elements, of two vectors of positions.
            let (mut even, mut odd) = ([_mm512_setzero_ps(); 2], [_mm512_setzero_ps(); 2]);
            let mut column = keys;
            for _ in 0..dim / 2 {
                add_squares::<W>(&mut even, column);
                add_squares::<W>(&mut odd, column.add(2 * BLOCK));
                column = column.add(4 * BLOCK);
            }
            if dim % 2 == 1 {
                add_squares::<W>(&mut even, column);
            }
            [
                by_length(_mm512_add_ps(even[0], odd[0])),
                by_length(_mm512_add_ps(even[1], odd[1])),
            ]
        }
    }

    #[inline(always)]
    unsafe fn value_scales(values: *const u8, dim: usize) -> [(__m512, __m512); 2] {
        // SAFETY: rows 0…31 have `dim` values.
        unsafe {
            let mut eights = [_mm512_setzero_si512(); 4];
            for i in 0..4 {
                eights[i] = largest_of_eight(values.add(8 * i * 2 * dim), dim);
            }
            // Of lanes of 128 bits even ones are compared with odd ones.
            let half = larger_lanes(eights[0], eights[1]);
            by_largest::<W>(larger_lanes(half, larger_lanes(eights[2], eights[3])))
        }
    }

    #[inline(always)]
    unsafe fn load(p: *const u8, factor: __m512) -> __m512i {
        // SAFETY: passes the caller's promise on.
        unsafe { integers(<W as Floats>::load::<Avx512>(p), factor) }
    }
}

impl Stored for I8 {
    const BYTES: usize = 1;
    const HEAD: usize = Q8_SCALE;

    #[inline(always)]
    unsafe fn key_scales(keys: *const u8, _: usize) -> [(__m512, __m512); 2] {
        // SAFETY: the scales lie in front.
        unsafe {
            let scales: *const f32 = keys.cast();
            let none = _mm512_setzero_ps();
            [
                (_mm512_loadu_ps(scales), none),
                (_mm512_loadu_ps(scales.add(LANES)), none),
            ]
        }
    }

    #[inline(always)]
    unsafe fn value_scales(values: *const u8, dim: usize) -> [(__m512, __m512); 2] {
        let mut scales = [0.0f32; BLOCK];
        for (t, scale) in scales.iter_mut().enumerate() {
            // SAFETY: each row begins with its scale.
            *scale = unsafe { values.add(t * (Q8_SCALE + dim)).cast::<f32>().read_unaligned() };
        }
        // SAFETY: an array of two vectors.
        unsafe { Self::key_scales(scales.as_ptr().cast(), dim) }
    }

    #[inline(always)]
    unsafe fn load(p: *const u8, _: __m512) -> __m512i {
        // SAFETY: passes the caller's promise on.
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())) }
    }
}

/// Adds the squares of a column.
#[inline(always)]
unsafe fn add_squares<W: Half>(sums: &mut [__m512; 2], column: *const u8) {
    for i in 0..2 {
        // SAFETY: a column has 32 numbers of 16 bits.
        unsafe {
            let x = <W as Floats>::load::<Avx512>(column.add(2 * i * LANES));
            sums[i] = _mm512_fmadd_ps(x, x, sums[i]);
        }
    }
}

/// Numbers of 16 bits without their signs.
#[inline(always)]
unsafe fn magnitude(x: __m512i) -> __m512i {
    // SAFETY: register arithmetic; the features are the caller's promise.
    unsafe { _mm512_and_si512(x, _mm512_set1_epi16(0x7fff)) }
}

/// The larger of even and odd lanes of 128 bits: two of `a`, then two of `b`.
#[inline(always)]
unsafe fn larger_lanes(a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: register arithmetic; the features are the caller's promise.
    unsafe {
        let even = _mm512_shuffle_i64x2::<0b10_00_10_00>(a, b);
        _mm512_max_epu16(even, _mm512_shuffle_i64x2::<0b11_01_11_01>(a, b))
    }
}

/// Largest magnitudes of eight rows of numbers of 16 bits, in order in each lane of 128 bits: of all its numbers there.
#[inline(always)]
unsafe fn largest_of_eight(rows: *const u8, dim: usize) -> __m512i {
    // SAFETY: the rows exist; lanes beyond them are not loaded.
    unsafe {
        let mut x = [_mm512_setzero_si512(); 8];
        let whole = dim / BLOCK * BLOCK;
        for d in (0..whole).step_by(BLOCK) {
            for t in 0..8 {
                let part = _mm512_loadu_si512(rows.add((t * dim + d) * 2).cast());
                x[t] = _mm512_max_epu16(x[t], magnitude(part));
            }
        }
        if whole < dim {
            let rest = (1 << (dim - whole)) - 1;
            for t in 0..8 {
                let part = _mm512_maskz_loadu_epi16(rest, rows.add((t * dim + whole) * 2).cast());
                x[t] = _mm512_max_epu16(x[t], magnitude(part));
            }
        }
        // Two are interleaved, which leaves half as many, and the halves of that compared.
        for t in (0..8).step_by(2) {
            let (a, b) = (x[t], x[t + 1]);
            x[t] = _mm512_max_epu16(_mm512_unpacklo_epi16(a, b), _mm512_unpackhi_epi16(a, b));
        }
        for t in (0..8).step_by(4) {
            let (a, b) = (x[t], x[t + 2]);
            x[t] = _mm512_max_epu16(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        }
        let (a, b) = (x[0], x[4]);
        _mm512_max_epu16(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b))
    }
}

/// Scales of 32 values by their largest magnitudes, and what makes those [`VALUE`]; not a number where one is not finite.
#[inline(always)]
unsafe fn by_largest<W: Half>(largest: __m512i) -> [(__m512, __m512); 2] {
    let mut halves = [0u8; 2 * BLOCK];
    // SAFETY: an array of 32 numbers of 16 bits.
    unsafe {
        _mm512_storeu_si512(halves.as_mut_ptr().cast(), largest);
        let x = <W as Floats>::load::<Avx512>(halves.as_ptr());
        let y = <W as Floats>::load::<Avx512>(halves.as_ptr().add(2 * LANES));
        [scaled(x, VALUE as f32), scaled(y, VALUE as f32)]
    }
}

/// Scales of keys or queries by the squares of their lengths, and what makes the lengths [`LONGEST`]; not a number where one
/// is not finite.
#[inline(always)]
unsafe fn by_length(squares: __m512) -> (__m512, __m512) {
    // SAFETY: register arithmetic; the features are the caller's promise.
    unsafe {
        // NaN is something.
        let something = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(squares, _mm512_set1_ps(NOTHING));
        let (scale, factor) = scaled(_mm512_sqrt_ps(squares), LONGEST);
        (
            _mm512_maskz_mov_ps(something, scale),
            _mm512_maskz_mov_ps(something, factor),
        )
    }
}

/// What `limit` is to be multiplied by to give x, and x to give `limit`; not a number where x is not finite.
#[inline(always)]
unsafe fn scaled(x: __m512, limit: f32) -> (__m512, __m512) {
    // SAFETY: register arithmetic; the features are the caller's promise.
    unsafe {
        let limit = _mm512_set1_ps(limit);
        let nothing = _mm512_mul_ps(x, _mm512_setzero_ps());
        (
            _mm512_add_ps(_mm512_div_ps(x, limit), nothing),
            _mm512_div_ps(limit, x),
        )
    }
}

/// x · factor, rounded, in the lower 16 bits; 0 where that is infinite.
#[inline(always)]
unsafe fn integers(x: __m512, factor: __m512) -> __m512i {
    // Its last bits are those of integers.
    const MAGIC: f32 = 12_582_912.0;
    // SAFETY: register arithmetic; the features are the caller's promise.
    unsafe { _mm512_castps_si512(_mm512_fmadd_ps(x, factor, _mm512_set1_ps(MAGIC))) }
}

/// The lower 16 bits of two vectors, paired.
#[inline(always)]
unsafe fn paired(even: __m512i, odd: __m512i) -> __m512i {
    const ODD_OR_LOWER_EVEN: i32 = 0xf8;
    // SAFETY: register arithmetic; the features are the caller's promise.
    unsafe {
        let (odd, lower) = (_mm512_slli_epi32::<16>(odd), _mm512_set1_epi32(0xffff));
        _mm512_ternarylogic_epi32::<ODD_OR_LOWER_EVEN>(odd, even, lower)
    }
}

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

/// A block that is asked for step by step while another is multiplied, to the second cache, where there is room for many
/// lines on their way.
struct Ahead {
    block: *const u8,
    at: usize,
    step: usize,
}

impl Ahead {
    /// The whole block of 32 rows of `dim` elements in `steps` steps.
    #[inline(always)]
    fn new<W: Stored>(block: *const u8, dim: usize, steps: usize) -> Self {
        let bytes = (W::HEAD + dim * W::BYTES) * BLOCK;
        Self {
            block,
            at: 0,
            step: bytes.div_ceil(steps),
        }
    }

    /// Asks for the lines that begin in the next step's bytes.
    #[inline(always)]
    unsafe fn step(&mut self) {
        let mut line = self.at.next_multiple_of(64);
        self.at += self.step;
        while line < self.at {
            // SAFETY: a hint that never faults.
            unsafe { Avx512::prefetch_second(self.block.wrapping_add(line)) };
            line += 64;
        }
    }
}

/// acc + the products of pairs.
#[inline(always)]
unsafe fn dot(acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: register arithmetic; the features are the caller's promise.
    unsafe { _mm512_dpwssd_epi32(acc, a, b) }
}

/// Scores of all queries with a block of keys.
#[inline(always)]
unsafe fn block_scores<W: Stored>(job: &ChunkJob, b: usize) {
    // SAFETY: passes the caller's promise on.
    unsafe {
        let ahead = Ahead::new::<W>(job.values[b], job.value_dim, job.key_dim.div_ceil(2));
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

/// A pair of columns of a block of keys, 16 positions from `half` on.
#[inline(always)]
unsafe fn pair_of_columns<W: Stored>(
    keys: *const u8,
    dim: usize,
    pair: usize,
    half: usize,
    factor: __m512,
) -> __m512i {
    // SAFETY: the columns exist, the second one if the number of elements is even.
    unsafe {
        let even = keys.add((2 * pair * BLOCK + half * LANES) * W::BYTES);
        let odd = if 2 * pair + 1 < dim {
            W::load(even.add(BLOCK * W::BYTES), factor)
        } else {
            _mm512_setzero_si512()
        };
        paired(W::load(even, factor), odd)
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
            ahead.step();
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
            ahead.step();
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
        let minus = _mm512_set1_ps(-largest * std::f32::consts::LOG2_E);
        let mut sum = [_mm512_setzero_ps(); 2];
        // By their bits: what is not finite is larger than any other.
        let mut heaviest = [_mm512_setzero_si512(); 2];
        for b in blocks.clone() {
            for i in 0..2 {
                let at = b * BLOCK + i * LANES;
                let p = _mm512_maskz_mov_ps(mask(at), exp(_mm512_loadu_ps(scores.add(at)), minus));
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
                let weight = integers(_mm512_loadu_ps(scores.add(at)), factor);
                // Half the size: what is overwritten has been read.
                _mm256_storeu_si256(scores.add(at / 2).cast(), _mm512_cvtepi32_epi16(weight));
            }
        }
        let sum = Avx512::sum(_mm512_add_ps(sum[0], sum[1]));
        ((largest, sum), heaviest / WEIGHT as f32 + heaviest * 0.0)
    }
}

/// 2 to the power of x · log₂ e + `minus`, within 4e-6.
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

/// Adds a block of values to the sums of some queries; `factors` are those of its rows, `scales` those of the weights.
#[inline(always)]
unsafe fn block_sums<W: Stored>(
    job: &ChunkJob,
    b: usize,
    queries: std::ops::Range<usize>,
    factors: &[f32],
    scales: &[f32],
) {
    let rows = (job.values[b], factors);
    let ahead = Ahead::new::<W>(job.next_keys[b], job.key_dim, BLOCK / 2);
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

/// A pair of rows of a block of values, 16 elements or what is left of them from `d` on.
#[inline(always)]
unsafe fn pair_of_rows<W: Stored, const WHOLE: bool>(
    (values, factors): (*const u8, &[f32]),
    dim: usize,
    pair: usize,
    d: usize,
) -> __m512i {
    // SAFETY: the rows exist.
    unsafe {
        let row_bytes = W::HEAD + dim * W::BYTES;
        let p = values.add(2 * pair * row_bytes + W::HEAD + d * W::BYTES);
        let (even, odd) = (
            _mm512_set1_ps(factors[2 * pair]),
            _mm512_set1_ps(factors[2 * pair + 1]),
        );
        if WHOLE {
            return paired(W::load(p, even), W::load(p.add(row_bytes), odd));
        }
        let n = dim - d;
        paired(
            load_rest::<W>(p, n, even),
            load_rest::<W>(p.add(row_bytes), n, odd),
        )
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
                ahead.step();
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
            ahead.step();
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

/// The last `n` values of a row.
#[inline(always)]
unsafe fn load_rest<W: Stored>(p: *const u8, n: usize, factor: __m512) -> __m512i {
    let mut rest = [0u8; 2 * LANES];
    // SAFETY: there are `n` values, fewer than a vector.
    unsafe {
        std::ptr::copy_nonoverlapping(p, rest.as_mut_ptr(), n * W::BYTES);
        W::load(rest.as_ptr(), factor)
    }
}

/// Adds the packed block of values at position `at` of the chunk to the sums of some queries.
#[inline(always)]
unsafe fn all_sums(job: &ChunkJob, queries: std::ops::Range<usize>, at: usize, scales: &[f32]) {
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
