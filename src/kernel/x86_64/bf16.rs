//! Products of half-precision weights with activations rounded to bfloat16, by `vdpbf16ps`.
//!
//! Each result has one running vector of 16 lanes that takes 32 products at a time in ascending order, whatever the tile,
//! and is summed up at the end. Binary16 weights are rounded to bfloat16.

#![allow(
    unsafe_code,
    reason = "vector intrinsics; raw pointers into weights, activations and outputs shared by workers"
)]

use std::arch::x86_64::*;

use crate::kernel::generic::float::{FETCHED, sixes_waste_less, whole_tiles};
use crate::kernel::generic::job::JobView;
use crate::kernel::generic::peak::SUMS;
use crate::kernel::simd::Simd;
use crate::quant::TensorType;
use crate::quant::panel::PANEL_ROWS;

use super::avx512::Avx512;

/// Values multiplied by one instruction.
const LANES: usize = 32;
/// Bytes of activations that are multiplied with all rows of a task before the next ones are taken: they stay in the
/// second cache.
const COLUMN_BYTES: usize = 384 << 10;

/// Where 32 weights come from.
trait Weights {
    /// Whether they are rounded to become bfloat16.
    const ROUNDED: bool;
    /// # Safety
    /// `p` has 64 readable bytes; the CPU has AVX512_BF16.
    unsafe fn load(p: *const u8) -> __m512bh;
}

struct Bf16;
impl Weights for Bf16 {
    const ROUNDED: bool = false;
    #[inline(always)]
    unsafe fn load(p: *const u8) -> __m512bh {
        // SAFETY: as promised by the caller; both types are 64 bytes without a meaning of their own.
        unsafe { std::mem::transmute(_mm512_loadu_si512(p.cast())) }
    }
}

struct F16;
impl Weights for F16 {
    const ROUNDED: bool = true;
    #[inline(always)]
    unsafe fn load(p: *const u8) -> __m512bh {
        // SAFETY: as promised by the caller.
        unsafe {
            let low = _mm512_cvtph_ps(_mm256_loadu_si256(p.cast()));
            let high = _mm512_cvtph_ps(_mm256_loadu_si256(p.add(32).cast()));
            _mm512_cvtne2ps_pbh(high, low)
        }
    }
}

/// Rows `16 · from..16 · to` of a job with weights in F16 or BF16 and activations in bfloat16.
///
/// # Safety
/// As for [`crate::kernel::generic::matmul::panels`]; the CPU has AVX512_BF16 besides the features of AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
pub(super) unsafe fn rows(job: &JobView, from: usize, to: usize, scratch: &mut [u8]) {
    let (from, to) = (from * PANEL_ROWS, (to * PANEL_ROWS).min(job.n_out));
    let room = COLUMN_BYTES / (2 * job.n_in);
    let together = whole_tiles(room);
    let mut first = 0;
    while first < job.columns {
        let columns = first..job.columns.min(first + together);
        first = columns.end;
        // SAFETY: the rows and columns exist.
        unsafe {
            if job.ty == TensorType::F16 {
                of_columns::<F16>(job, from, to, columns, scratch);
            } else {
                of_columns::<Bf16>(job, from, to, columns, scratch);
            }
        }
    }
}

/// Rows `from..to` of some columns, in tiles for as many.
#[inline(always)]
unsafe fn of_columns<W: Weights>(
    job: &JobView,
    from: usize,
    to: usize,
    columns: std::ops::Range<usize>,
    scratch: &mut [u8],
) {
    // SAFETY: passes the caller's promise on.
    unsafe {
        match columns.len() {
            1 => stream::<W, 8, 1>(job, from, to, columns, scratch),
            2 => stream::<W, 8, 2>(job, from, to, columns, scratch),
            3..=4 => stream::<W, 4, 4>(job, from, to, columns, scratch),
            n if sixes_waste_less(n) => stream::<W, 4, 6>(job, from, to, columns, scratch),
            _ => stream::<W, 3, 8>(job, from, to, columns, scratch),
        }
    }
}

/// `R` rows at a time meet `C` columns after `C` columns. Binary16 weights are rounded once for all of them, if they are more
/// than `C`.
#[inline(always)]
unsafe fn stream<W: Weights, const R: usize, const C: usize>(
    job: &JobView,
    from: usize,
    to: usize,
    columns: std::ops::Range<usize>,
    scratch: &mut [u8],
) {
    let rounded = job.n_in.next_multiple_of(LANES) * 2;
    let round = W::ROUNDED && columns.len() > C && R * rounded <= scratch.len();
    let mut row = from;
    while row < to {
        let rows = if row + R <= to { R } else { 1 };
        // SAFETY: rows and columns exist; the scratch memory has room for the rows where they are rounded.
        unsafe {
            let data = job.data.add(row * job.row_bytes);
            let ahead = data.wrapping_add(rows * job.row_bytes);
            if round {
                for r in 0..rows {
                    let to = scratch.as_mut_ptr().add(r * rounded);
                    round_row(data.add(r * job.row_bytes), job.n_in, to);
                }
            }
            for first in columns.clone().step_by(C) {
                let columns = first..columns.end;
                match (round, rows == R) {
                    (false, true) => tile::<W, R, C>(job, data, job.row_bytes, ahead, row, columns),
                    (false, false) => tile::<W, 1, C>(job, data, job.row_bytes, ahead, row, columns),
                    (true, true) => tile::<Bf16, R, C>(job, scratch.as_ptr(), rounded, ahead, row, columns),
                    (true, false) => tile::<Bf16, 1, C>(job, scratch.as_ptr(), rounded, ahead, row, columns),
                }
            }
        }
        row += rows;
    }
}

/// Rounds a row of binary16 values.
#[inline(always)]
unsafe fn round_row(row: *const u8, n: usize, out: *mut u8) {
    let whole = n / LANES * LANES;
    // SAFETY: the row has n values; `out` has room for n rounded up to whole vectors.
    unsafe {
        for i in (0..whole).step_by(LANES) {
            store(out.add(2 * i), F16::load(row.add(2 * i)));
        }
        if whole < n {
            store(out.add(2 * whole), rest::<F16>(row.add(2 * whole), n - whole));
        }
    }
}

#[inline(always)]
unsafe fn store(p: *mut u8, v: __m512bh) {
    // SAFETY: the caller has 64 writable bytes; both types are that long.
    unsafe { _mm512_storeu_si512(p.cast(), std::mem::transmute::<__m512bh, __m512i>(v)) }
}

/// The last `n` < 32 weights, followed by zeros.
#[inline(always)]
unsafe fn rest<W: Weights>(p: *const u8, n: usize) -> __m512bh {
    let mut rest = [0u8; 2 * LANES];
    // SAFETY: the caller gives n readable values.
    unsafe {
        std::ptr::copy_nonoverlapping(p, rest.as_mut_ptr(), 2 * n);
        W::load(rest.as_ptr())
    }
}

/// `R` rows, `stride` bytes apart, and the first `C` of some columns. Meanwhile rows of the matrix that lie at `ahead` are asked for;
/// with one or two columns only where they begin.
#[inline(always)]
unsafe fn tile<W: Weights, const R: usize, const C: usize>(
    job: &JobView,
    data: *const u8,
    stride: usize,
    ahead: *const u8,
    row: usize,
    columns: std::ops::Range<usize>,
) {
    // SAFETY: rows row..row + R and the columns exist; weights have n_in values, activation rows are padded with zeros to
    // whole vectors.
    unsafe {
        let mut acc = [[_mm512_setzero_ps(); C]; R];
        let mut x = [job.x; C];
        for c in 0..C {
            // A column past the end repeats the last one; its sum is not stored.
            x[c] = job.x_bf16((columns.start + c).min(columns.end - 1));
        }
        let whole = job.n_in / LANES * LANES;
        let mut i = 0;
        while i < job.n_in {
            let mut w = [_mm512_setzero_si512(); R];
            for r in 0..R {
                let p = data.add(r * stride + 2 * i);
                let v = if i < whole {
                    W::load(p)
                } else {
                    rest::<W>(p, job.n_in - whole)
                };
                w[r] = std::mem::transmute::<__m512bh, __m512i>(v);
                if C > 2 || i < FETCHED {
                    Avx512::prefetch_second(ahead.wrapping_add(r * job.row_bytes + 2 * i));
                }
            }
            for c in 0..C {
                let x = Bf16::load(x[c].add(2 * i));
                for r in 0..R {
                    let w = std::mem::transmute::<__m512i, __m512bh>(w[r]);
                    acc[r][c] = _mm512_dpbf16_ps(acc[r][c], w, x);
                }
            }
            i += LANES;
        }
        for r in 0..R {
            for c in 0..C.min(columns.len()) {
                job.put(row + r, columns.start + c, Avx512::sum(acc[r][c]));
            }
        }
    }
}

/// `steps` products of bfloat16 for each of [`SUMS`] sums, on registers only.
///
/// # Safety
/// The CPU has AVX512_BF16 besides the features of AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
pub(super) unsafe fn peak(steps: usize) -> f32 {
    let one = [0x80u8, 0x3f].repeat(LANES);
    // SAFETY: 64 readable bytes, then register arithmetic.
    unsafe {
        let x = Bf16::load(one.as_ptr());
        let mut sums = std::hint::black_box([_mm512_setzero_ps(); SUMS]);
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, x, x);
            }
        }
        sums.into_iter().fold(0.0, |all, sum| all + Avx512::sum(sum))
    }
}
