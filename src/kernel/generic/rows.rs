//! Rows of keys and values in the types a cache stores: writing one, dot products with many, weighted sums of many.

#![allow(unsafe_code, reason = "raw loads and stores of the vector trait")]

use super::float::{Bf16, F16, F32, Floats};
use super::quantize::{largest_magnitude, scale_of, to_i8};
use crate::kernel::RowType;
use crate::kernel::simd::{Simd, load_part, store_part};
use crate::quant::float::f32_to_bf16;

/// Eight-bit values behind their row's scale.
struct I8;
impl Floats for I8 {
    const BYTES: usize = 1;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::F {
        // SAFETY: as promised by the caller.
        unsafe { S::load_i8(p) }
    }
}

/// Bytes before the values of a row: the scale of [`RowType::Q8`].
const Q8_SCALE: usize = 4;

/// Writes `x` as one row.
#[inline(always)]
pub(crate) unsafe fn store<S: Simd>(ty: RowType, x: &[f32], out: &mut [u8]) {
    match ty {
        RowType::F32 => {
            for (o, x) in out.as_chunks_mut::<4>().0.iter_mut().zip(x) {
                *o = x.to_le_bytes();
            }
        }
        RowType::F16 => {
            let whole = x.len() / S::LANES * S::LANES;
            for i in (0..whole).step_by(S::LANES) {
                // SAFETY: i + LANES <= x.len(), and out has two bytes for each value.
                unsafe { S::store_f16(out.as_mut_ptr().add(2 * i), S::load(x.as_ptr().add(i))) };
            }
            for (o, &x) in out[2 * whole..]
                .as_chunks_mut::<2>()
                .0
                .iter_mut()
                .zip(&x[whole..])
            {
                *o = half::f16::from_f32_const(x).to_le_bytes();
            }
        }
        RowType::BF16 => {
            for (o, &x) in out.as_chunks_mut::<2>().0.iter_mut().zip(x) {
                *o = f32_to_bf16(x).to_le_bytes();
            }
        }
        RowType::Q8 => {
            let (scale, inverse) = scale_of(largest_magnitude(x));
            let (head, values) = out.split_at_mut(Q8_SCALE);
            head.copy_from_slice(&scale.to_le_bytes());
            for (o, &x) in values.iter_mut().zip(x) {
                *o = if inverse == 0.0 {
                    0
                } else {
                    to_i8(x, inverse) as u8
                };
            }
        }
    }
}

/// out\[i\] ← q · row i.
#[inline(always)]
pub(crate) unsafe fn dot<S: Simd>(ty: RowType, q: &[f32], rows: &[u8], out: &mut [f32]) {
    // SAFETY: the caller checked that `rows` holds `out.len()` rows of `q.len()` values.
    unsafe {
        match ty {
            RowType::F32 => dot_typed::<S, F32>(q, rows, 0, out),
            RowType::F16 => dot_typed::<S, F16>(q, rows, 0, out),
            RowType::BF16 => dot_typed::<S, Bf16>(q, rows, 0, out),
            RowType::Q8 => dot_typed::<S, I8>(q, rows, Q8_SCALE, out),
        }
    }
}

#[inline(always)]
unsafe fn dot_typed<S: Simd, W: Floats>(q: &[f32], rows: &[u8], head: usize, out: &mut [f32]) {
    let n = q.len();
    let stride = head + n * W::BYTES;
    let whole = n / S::LANES * S::LANES;
    for (i, o) in out.iter_mut().enumerate() {
        // SAFETY: row i is inside `rows`, and loads are below n.
        unsafe {
            let row = rows.as_ptr().add(i * stride);
            let values = row.add(head);
            let mut acc = [S::splat(0.0); 2];
            let mut k = 0;
            while k + 2 * S::LANES <= whole {
                for j in 0..2 {
                    let at = k + j * S::LANES;
                    acc[j] = S::fma(
                        S::load(q.as_ptr().add(at)),
                        W::load::<S>(values.add(at * W::BYTES)),
                        acc[j],
                    );
                }
                k += 2 * S::LANES;
            }
            if k < whole {
                acc[0] = S::fma(
                    S::load(q.as_ptr().add(k)),
                    W::load::<S>(values.add(k * W::BYTES)),
                    acc[0],
                );
            }
            if whole < n {
                let v = load_part_of::<S, W>(values.add(whole * W::BYTES), n - whole);
                acc[0] = S::fma(load_part::<S>(q.as_ptr().add(whole), n - whole), v, acc[0]);
            }
            let dot = S::sum(S::add(acc[0], acc[1]));
            *o = if head == 0 {
                dot
            } else {
                dot * row.cast::<f32>().read_unaligned()
            };
        }
    }
}

#[inline(always)]
unsafe fn load_part_of<S: Simd, W: Floats>(p: *const u8, n: usize) -> S::F {
    let mut rest = [0u8; 64];
    // SAFETY: the caller gives n < LANES values, at most 64 bytes.
    unsafe {
        std::ptr::copy_nonoverlapping(p, rest.as_mut_ptr(), n * W::BYTES);
        W::load::<S>(rest.as_ptr())
    }
}

/// acc ← acc + Σ weights\[i\] · row i, in ascending i.
#[inline(always)]
pub(crate) unsafe fn add_weighted<S: Simd>(ty: RowType, weights: &[f32], rows: &[u8], acc: &mut [f32]) {
    // SAFETY: the caller checked that `rows` holds `weights.len()` rows of `acc.len()` values.
    unsafe {
        match ty {
            RowType::F32 => add_weighted_typed::<S, F32>(weights, rows, 0, acc),
            RowType::F16 => add_weighted_typed::<S, F16>(weights, rows, 0, acc),
            RowType::BF16 => add_weighted_typed::<S, Bf16>(weights, rows, 0, acc),
            RowType::Q8 => add_weighted_typed::<S, I8>(weights, rows, Q8_SCALE, acc),
        }
    }
}

/// Vectors of the sum kept in registers at a time.
const WIDTH: usize = 8;

#[inline(always)]
unsafe fn add_weighted_typed<S: Simd, W: Floats>(weights: &[f32], rows: &[u8], head: usize, acc: &mut [f32]) {
    let n = acc.len();
    let stride = head + n * W::BYTES;
    let out = acc.as_mut_ptr();
    let mut k = 0;
    // SAFETY: rows are inside `rows`; loads and stores are below n.
    unsafe {
        while k + WIDTH * S::LANES <= n {
            let mut sum = [S::splat(0.0); WIDTH];
            for j in 0..WIDTH {
                sum[j] = S::load(out.add(k + j * S::LANES));
            }
            for (i, &weight) in weights.iter().enumerate() {
                let row = rows.as_ptr().add(i * stride);
                let w = row_weight::<S>(weight, row, head);
                for j in 0..WIDTH {
                    let v = W::load::<S>(row.add(head + (k + j * S::LANES) * W::BYTES));
                    sum[j] = S::fma(w, v, sum[j]);
                }
            }
            for j in 0..WIDTH {
                S::store(out.add(k + j * S::LANES), sum[j]);
            }
            k += WIDTH * S::LANES;
        }
        while k < n {
            let lanes = S::LANES.min(n - k);
            let whole = lanes == S::LANES;
            let mut sum = if whole {
                S::load(out.add(k))
            } else {
                load_part::<S>(out.add(k), lanes)
            };
            for (i, &weight) in weights.iter().enumerate() {
                let row = rows.as_ptr().add(i * stride);
                let w = row_weight::<S>(weight, row, head);
                let p = row.add(head + k * W::BYTES);
                let v = if whole {
                    W::load::<S>(p)
                } else {
                    load_part_of::<S, W>(p, lanes)
                };
                sum = S::fma(w, v, sum);
            }
            if whole {
                S::store(out.add(k), sum);
            } else {
                store_part::<S>(out.add(k), sum, lanes);
            }
            k += lanes;
        }
    }
}

#[inline(always)]
unsafe fn row_weight<S: Simd>(weight: f32, row: *const u8, head: usize) -> S::F {
    // SAFETY: a row with a head begins with its f32 scale.
    unsafe {
        S::splat(if head == 0 {
            weight
        } else {
            weight * row.cast::<f32>().read_unaligned()
        })
    }
}
