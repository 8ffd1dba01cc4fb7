//! The compensated dot product.

#![allow(unsafe_code, reason = "raw loads of the vector trait")]

use super::ops::dot;
use crate::kernel::simd::{Simd, load_part};

/// Running vectors, each with its own compensation.
const CHAINS: usize = 4;

/// Adds a product to a running sum; `lost` is what rounding has taken from the sum so far (Kahan 1965).
#[inline(always)]
unsafe fn step<S: Simd>(a: S::F, b: S::F, sum: &mut S::F, lost: &mut S::F) {
    // SAFETY: register arithmetic only; the features are the caller's promise.
    unsafe {
        let y = S::fma(a, b, *lost);
        let t = S::add(*sum, y);
        *lost = S::sub(y, S::sub(t, *sum));
        *sum = t;
    }
}

/// Σ aᵢ·bᵢ whose rounding error does not grow with the length: each running sum carries what its rounding lost, and the
/// sums are added in `f64`.
///
/// Where an infinite sum makes the compensation meaningless, the plain dot product is the answer.
#[inline(always)]
pub(crate) unsafe fn dot_kahan<S: Simd>(a: &[f32], b: &[f32]) -> f32 {
    let n = a.len().min(b.len());
    let (pa, pb) = (a.as_ptr(), b.as_ptr());
    // SAFETY: all loads are below n, all stores inside the arrays, as LANES <= 16.
    unsafe {
        let mut sums = [S::splat(0.0); CHAINS];
        let mut lost = sums;
        let mut i = 0;
        while i + CHAINS * S::LANES <= n {
            for j in 0..CHAINS {
                let at = i + j * S::LANES;
                step::<S>(
                    S::load(pa.add(at)),
                    S::load(pb.add(at)),
                    &mut sums[j],
                    &mut lost[j],
                );
            }
            i += CHAINS * S::LANES;
        }
        while i + S::LANES <= n {
            step::<S>(S::load(pa.add(i)), S::load(pb.add(i)), &mut sums[0], &mut lost[0]);
            i += S::LANES;
        }
        if i < n {
            let (va, vb) = (load_part::<S>(pa.add(i), n - i), load_part::<S>(pb.add(i), n - i));
            step::<S>(va, vb, &mut sums[1], &mut lost[1]);
        }
        let mut total = 0.0f64;
        for j in 0..CHAINS {
            let (mut s, mut l) = ([0.0f32; 16], [0.0f32; 16]);
            S::store(s.as_mut_ptr(), sums[j]);
            S::store(l.as_mut_ptr(), lost[j]);
            for lane in 0..S::LANES {
                total += f64::from(s[lane]) + f64::from(l[lane]);
            }
        }
        if total.is_nan() {
            dot::<S>(a, b)
        } else {
            total as f32
        }
    }
}
