//! The inner products of attention over one block of keys and values.
//!
//! Keys lie in columns: for each element of a key the values of [`BLOCK`] positions, so that lanes are positions and a
//! score is one running product over the elements in ascending order. Values lie in rows, so that lanes are elements and
//! a weighted sum runs over the positions in ascending order. Both orders are the same whatever the number of queries
//! computed together. Eight-bit keys have the scales of their positions in front, eight-bit values that of their row.

#![allow(unsafe_code, reason = "raw loads and stores of the vector trait")]

use super::fetch::Ahead;
use super::float::{Bf16, F16, F32, Floats};
use super::rows::{I8, Q8_SCALE, load_part_of};
use crate::kernel::RowType;
use crate::kernel::simd::{Simd, load_part, store_part};

/// Positions in a block of keys and values.
pub const BLOCK: usize = 32;

/// Positions in a chunk.
pub const CHUNK: usize = 256;
/// Most queries of a [`ChunkJob`].
pub(crate) const MOST_QUERIES: usize = 128;
/// From the scores of one query to those of the next in a [`ChunkJob`]: not a power of two, so that the scores of several
/// queries lie in different sets of a cache.
pub(crate) const SCORES: usize = CHUNK + 16;

/// Neighbouring queries of a sequence and a chunk of keys and values, of which each query sees some, for products of pairs
/// of integers.
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "only levels of x86-64 multiply pairs of integers")
)]
pub(crate) struct ChunkJob {
    pub ty: RowType,
    pub key_dim: usize,
    pub value_dim: usize,
    /// Bound of the scores, or 0.
    pub softcap: f32,
    /// Positions a row sees.
    pub window: usize,
    /// Position of the first row, counted from the begin of the chunk.
    pub position: usize,
    /// Queries of a row.
    pub heads: usize,
    pub queries: usize,
    /// The blocks of the chunk, as far as a row sees them.
    pub keys: [*const u8; CHUNK / BLOCK],
    pub values: [*const u8; CHUNK / BLOCK],
    /// The keys of the next chunk, where it is the same task's, or null.
    pub next_keys: [*const u8; CHUNK / BLOCK],
    /// Pairs of elements, `q_stride` apart, and the scale of each query.
    pub q: *const u32,
    pub q_stride: usize,
    pub q_scales: *const f32,
    /// Room for [`SCORES`] per query.
    pub scores: *mut f32,
    /// Weighted values, whole vectors per query.
    pub sums: *mut f32,
    /// Room for a block of pairs.
    pub packed: *mut u32,
    /// Largest score and sum of exponentials of each query.
    pub stats: *mut (f32, f32),
}

impl ChunkJob {
    /// The positions of the chunk that a row sees.
    #[inline(always)]
    pub fn seen(&self, row: usize) -> (usize, usize) {
        let end = self.position + row + 1;
        (end.saturating_sub(self.window), end.min(CHUNK))
    }
}

/// Queries times a block of keys: `out[c · out_stride + t]` ← Σ q\[d · q_stride + c\] · key\[t\]\[d\].
#[derive(Clone, Copy)]
pub(crate) struct Scores {
    pub ty: RowType,
    /// A block of `dim` columns.
    pub keys: *const u8,
    /// What is asked for meanwhile, and its bytes.
    pub next: (*const u8, usize),
    pub dim: usize,
    pub q: *const f32,
    pub q_stride: usize,
    pub queries: usize,
    pub out: *mut f32,
    pub out_stride: usize,
}

/// Computes the scores.
///
/// # Safety
/// Keys, queries and outputs are there; the CPU has the features of `S`.
#[inline(always)]
pub(crate) unsafe fn scores<S: Simd>(job: &Scores) {
    let mut job = *job;
    // SAFETY: passes the caller's promise on.
    unsafe {
        match job.ty {
            RowType::F32 => all_scores::<S, F32>(job, std::ptr::null()),
            RowType::F16 => all_scores::<S, F16>(job, std::ptr::null()),
            RowType::BF16 => all_scores::<S, Bf16>(job, std::ptr::null()),
            RowType::Q8 => {
                let scales = job.keys.cast();
                job.keys = job.keys.add(BLOCK * Q8_SCALE);
                all_scores::<S, I8>(job, scales);
            }
        }
    }
}

#[inline(always)]
unsafe fn all_scores<S: Simd, W: Floats>(job: Scores, scales: *const f32) {
    let mut c = 0;
    while c < job.queries {
        let left = job.queries - c;
        // SAFETY: queries c and on exist.
        unsafe {
            if left >= 8 && S::REGISTERS >= 32 {
                some_scores::<S, W, 8>(job, scales, c);
                c += 8;
            } else if left >= 4 {
                some_scores::<S, W, 4>(job, scales, c);
                c += 4;
            } else {
                some_scores::<S, W, 1>(job, scales, c);
                c += 1;
            }
        }
    }
}

/// `scales` are those of the positions, or null.
#[inline(always)]
unsafe fn some_scores<S: Simd, W: Floats, const C: usize>(job: Scores, scales: *const f32, first: usize) {
    let mut t = 0;
    let mut ahead = Ahead::new(job.next.0, job.next.1, job.dim * (BLOCK / (2 * S::LANES)));
    while t < BLOCK {
        // SAFETY: BLOCK is a multiple of two vectors.
        unsafe {
            let mut acc = [[S::splat(0.0); C]; 2];
            let mut keys = job.keys.add(t * W::BYTES);
            let mut q = job.q.add(first);
            for _ in 0..job.dim {
                if first == 0 {
                    ahead.step::<S>();
                }
                let k = [W::load::<S>(keys), W::load::<S>(keys.add(S::LANES * W::BYTES))];
                for c in 0..C {
                    let x = S::splat(*q.add(c));
                    for i in 0..2 {
                        acc[i][c] = S::fma(x, k[i], acc[i][c]);
                    }
                }
                keys = keys.add(BLOCK * W::BYTES);
                q = q.add(job.q_stride);
            }
            for i in 0..2 {
                let at = t + i * S::LANES;
                for c in 0..C {
                    let y = if scales.is_null() {
                        acc[i][c]
                    } else {
                        S::mul(acc[i][c], S::load(scales.add(at)))
                    };
                    S::store(job.out.add((first + c) * job.out_stride + at), y);
                }
            }
        }
        t += 2 * S::LANES;
    }
}

/// Weighted sums of the first `n` rows of a block of values: `out[c · dim + d]` is increased by
/// Σ weights\[c · weight_stride + t\] · value\[t\]\[d\].
#[derive(Clone, Copy)]
pub(crate) struct Sums {
    pub ty: RowType,
    /// Rows of `dim` elements.
    pub values: *const u8,
    /// What is asked for meanwhile, and its bytes.
    pub next: (*const u8, usize),
    pub dim: usize,
    pub n: usize,
    pub weights: *const f32,
    pub weight_stride: usize,
    pub queries: usize,
    pub out: *mut f32,
}

/// Adds the weighted sums.
///
/// # Safety
/// Values, weights and outputs are there; the CPU has the features of `S`.
#[inline(always)]
pub(crate) unsafe fn weighted_sums<S: Simd>(job: &Sums) {
    // SAFETY: passes the caller's promise on.
    unsafe {
        match job.ty {
            RowType::F32 => all_sums::<S, F32, 0>(*job),
            RowType::F16 => all_sums::<S, F16, 0>(*job),
            RowType::BF16 => all_sums::<S, Bf16, 0>(*job),
            RowType::Q8 => all_sums::<S, I8, Q8_SCALE>(*job),
        }
    }
}

#[inline(always)]
unsafe fn all_sums<S: Simd, W: Floats, const HEAD: usize>(job: Sums) {
    let mut c = 0;
    while c < job.queries {
        let left = job.queries - c;
        // SAFETY: queries c and on exist.
        unsafe {
            if left >= 4 {
                some_sums::<S, W, HEAD, 4>(job, c);
                c += 4;
            } else {
                some_sums::<S, W, HEAD, 1>(job, c);
                c += 1;
            }
        }
    }
}

#[inline(always)]
unsafe fn some_sums<S: Simd, W: Floats, const HEAD: usize, const C: usize>(job: Sums, first: usize) {
    let mut d = 0;
    // SAFETY: vectors lie inside the rows; the last elements are taken as a part of a vector.
    unsafe {
        while S::REGISTERS >= 32 && d + 4 * S::LANES <= job.dim {
            vectors_of_sums::<S, W, HEAD, C, 4>(job, first, d);
            d += 4 * S::LANES;
        }
        while d + 2 * S::LANES <= job.dim {
            vectors_of_sums::<S, W, HEAD, C, 2>(job, first, d);
            d += 2 * S::LANES;
        }
        while d + S::LANES <= job.dim {
            vectors_of_sums::<S, W, HEAD, C, 1>(job, first, d);
            d += S::LANES;
        }
        if d < job.dim {
            let rest = job.dim - d;
            for c in first..first + C {
                let out = job.out.add(c * job.dim + d);
                let mut acc = load_part::<S>(out, rest);
                for t in 0..job.n {
                    let row = job.values.add(t * (HEAD + job.dim * W::BYTES));
                    let v = load_part_of::<S, W>(row.add(HEAD + d * W::BYTES), rest);
                    let w = weight::<HEAD>(job.weights.add(c * job.weight_stride + t), row);
                    acc = S::fma(S::splat(w), v, acc);
                }
                store_part::<S>(out, acc, rest);
            }
        }
    }
}

#[inline(always)]
unsafe fn vectors_of_sums<S: Simd, W: Floats, const HEAD: usize, const C: usize, const V: usize>(
    job: Sums,
    first: usize,
    d: usize,
) {
    // SAFETY: V vectors from element d on lie inside the rows; queries first..first + C exist.
    unsafe {
        let out = job.out.add(first * job.dim + d);
        let mut acc = [[S::splat(0.0); V]; C];
        for c in 0..C {
            for i in 0..V {
                acc[c][i] = S::load(out.add(c * job.dim + i * S::LANES));
            }
        }
        let mut row = job.values;
        let mut weights = job.weights.add(first * job.weight_stride);
        let mut ahead = Ahead::new(job.next.0, job.next.1, job.n);
        for _ in 0..job.n {
            if first == 0 && d == 0 {
                ahead.step::<S>();
            }
            let mut v = [S::splat(0.0); V];
            for i in 0..V {
                v[i] = W::load::<S>(row.add(HEAD + (d + i * S::LANES) * W::BYTES));
            }
            for c in 0..C {
                let w = S::splat(weight::<HEAD>(weights.add(c * job.weight_stride), row));
                for i in 0..V {
                    acc[c][i] = S::fma(w, v[i], acc[c][i]);
                }
            }
            row = row.add(HEAD + job.dim * W::BYTES);
            weights = weights.add(1);
        }
        for c in 0..C {
            for i in 0..V {
                S::store(out.add(c * job.dim + i * S::LANES), acc[c][i]);
            }
        }
    }
}

/// A weight, times the scale at the head of its row where rows have one.
#[inline(always)]
unsafe fn weight<const HEAD: usize>(weight: *const f32, row: *const u8) -> f32 {
    // SAFETY: the weight exists; a row with a head begins with its f32 scale.
    unsafe {
        if HEAD == 0 {
            *weight
        } else {
            *weight * row.cast::<f32>().read_unaligned()
        }
    }
}

/// Writes a key of `x.len()` elements as position `slot` of a block of columns.
///
/// # Safety
/// `keys` is a block of `x.len()` columns; `slot` < [`BLOCK`].
#[inline(always)]
pub(crate) unsafe fn store_key<S: Simd>(ty: RowType, x: &[f32], keys: *mut u8, slot: usize) {
    const PART: usize = 64;
    let mut row = [0u8; PART * 4 + Q8_SCALE];
    // SAFETY: column d of the block has room at `slot`.
    unsafe {
        if ty == RowType::Q8 {
            let (scale, inverse) = super::quantize::scale_of(super::quantize::largest_magnitude(x));
            keys.cast::<f32>().add(slot).write_unaligned(scale);
            let columns = keys.add(BLOCK * Q8_SCALE + slot);
            for (d, &x) in x.iter().enumerate() {
                let q = if inverse == 0.0 {
                    0
                } else {
                    super::quantize::to_i8(x, inverse)
                };
                *columns.add(d * BLOCK) = q as u8;
            }
            return;
        }
        let bytes = if ty == RowType::F32 { 4 } else { 2 };
        for (part, x) in x.chunks(PART).enumerate() {
            super::rows::store::<S>(ty, x, &mut row[..x.len() * bytes]);
            for d in 0..x.len() {
                let to = keys.add(((part * PART + d) * BLOCK + slot) * bytes);
                std::ptr::copy_nonoverlapping(row.as_ptr().add(d * bytes), to, bytes);
            }
        }
    }
}
