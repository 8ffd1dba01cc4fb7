//! Products of half-precision weights with activations rounded to bfloat16, by `vdpbf16ps`.
//!
//! Each result has one running vector of 16 lanes that takes 32 products at a time in ascending order, whatever the tile,
//! and is summed up at the end. Binary16 weights are rounded to bfloat16.

#![allow(
    unsafe_code,
    reason = "vector intrinsics; raw pointers into weights, activations and outputs shared by workers"
)]

use std::arch::x86_64::*;

use crate::kernel::generic::fetch::PREFETCH;
use crate::kernel::generic::job::JobView;
use crate::kernel::generic::peak::SUMS;
use crate::kernel::simd::Simd;
use crate::quant::TensorType;
use crate::quant::panel::PANEL_ROWS;

/// Values multiplied by one instruction.
const LANES: usize = 32;
/// Rows and columns of a tile.
const ROWS: usize = 4;
const COLUMNS: usize = 6;
/// Bytes of activations that are multiplied with all rows of a task before the next ones are taken: they stay in the
/// second cache.
const COLUMN_BYTES: usize = 384 << 10;

/// Where 32 weights come from.
trait Weights {
    /// # Safety
    /// `p` has 64 readable bytes; the CPU has AVX512_BF16.
    unsafe fn load(p: *const u8) -> __m512bh;
}

struct Bf16;
impl Weights for Bf16 {
    #[inline(always)]
    unsafe fn load(p: *const u8) -> __m512bh {
        // SAFETY: as promised by the caller; both types are 64 bytes without a meaning of their own.
        unsafe { std::mem::transmute(_mm512_loadu_si512(p.cast())) }
    }
}

struct F16;
impl Weights for F16 {
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
    // Converted once for all columns, where there is room.
    let converted = ROWS * job.n_in.next_multiple_of(LANES) * 2;
    let convert = job.ty == TensorType::F16 && job.columns > COLUMNS && converted <= scratch.len();
    let together = (COLUMN_BYTES / (2 * job.n_in)).max(1).next_multiple_of(COLUMNS);
    let mut column = 0;
    while column < job.columns {
        let columns = column..job.columns.min(column + together);
        let mut row = from;
        while row < to {
            let rows = if row + ROWS <= to { ROWS } else { 1 };
            // SAFETY: rows and columns exist; the scratch memory has room for the rows.
            unsafe {
                let data = job.data.add(row * job.row_bytes);
                if convert {
                    for r in 0..rows {
                        let to = scratch.as_mut_ptr().add(r * converted / ROWS);
                        convert_row(data.add(r * job.row_bytes), job.n_in, to);
                    }
                    block::<Bf16>(
                        job,
                        scratch.as_ptr(),
                        converted / ROWS,
                        row,
                        rows,
                        columns.clone(),
                    );
                } else if job.ty == TensorType::F16 {
                    block::<F16>(job, data, job.row_bytes, row, rows, columns.clone());
                } else {
                    block::<Bf16>(job, data, job.row_bytes, row, rows, columns.clone());
                }
            }
            row += rows;
        }
        column = columns.end;
    }
}

/// Rounds a row of binary16 values.
#[inline(always)]
unsafe fn convert_row(row: *const u8, n: usize, out: *mut u8) {
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

/// Some columns of one or [`ROWS`] rows, which lie `stride` bytes apart.
#[inline(always)]
unsafe fn block<W: Weights>(
    job: &JobView,
    data: *const u8,
    stride: usize,
    row: usize,
    rows: usize,
    columns: std::ops::Range<usize>,
) {
    let mut column = columns.start;
    while column < columns.end {
        let left = columns.end - column;
        // SAFETY: rows and columns exist.
        unsafe {
            column += match (rows, left) {
                (ROWS, COLUMNS..) => tile::<W, ROWS, COLUMNS>(job, data, stride, row, column),
                (ROWS, 2..) => tile::<W, ROWS, 2>(job, data, stride, row, column),
                (ROWS, _) => {
                    // One stream of weights at a time.
                    for r in 0..ROWS {
                        tile::<W, 1, 1>(job, data.add(r * stride), stride, row + r, column);
                    }
                    1
                }
                _ => tile::<W, 1, 1>(job, data, stride, row, column),
            };
        }
    }
}

/// `R` rows times `C` columns; answers `C`.
#[inline(always)]
unsafe fn tile<W: Weights, const R: usize, const C: usize>(
    job: &JobView,
    data: *const u8,
    stride: usize,
    row: usize,
    column: usize,
) -> usize {
    // SAFETY: rows row..row + R and columns column..column + C exist; weights have n_in values, activation rows are
    // padded with zeros to whole vectors.
    unsafe {
        let mut acc = [[_mm512_setzero_ps(); C]; R];
        let mut x = [job.x; C];
        for c in 0..C {
            x[c] = job.x_bf16(column + c);
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
                if R == 1 {
                    super::avx512::Avx512::prefetch(p.wrapping_add(PREFETCH));
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
            for c in 0..C {
                job.put(row + r, column + c, super::avx512::Avx512::sum(acc[r][c]));
            }
        }
    }
    C
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
        sums.into_iter()
            .fold(0.0, |all, sum| all + super::avx512::Avx512::sum(sum))
    }
}
