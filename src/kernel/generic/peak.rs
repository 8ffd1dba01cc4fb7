//! Multiply-adds on registers only: what the units for products allow, to measure kernels against.

#![allow(unsafe_code, reason = "vector operations of a level")]

use std::hint::black_box;

use crate::kernel::simd::Simd;

/// Independent sums: more than an instruction's latency, and they fit sixteen registers with their factors.
pub(crate) const SUMS: usize = 12;

/// `steps` products of bytes for each sum.
///
/// # Safety
/// The CPU has the features of `S`.
#[inline(always)]
pub(crate) unsafe fn int8<S: Simd>(steps: usize) -> f32 {
    // SAFETY: register arithmetic.
    unsafe {
        let w = S::splat_int(0x0101_0101);
        // Sums that began alike would be one.
        let mut sums = black_box([S::splat_int(0); SUMS]);
        for _ in 0..steps {
            // The factors differ, and change: products that are the same would be computed once.
            for i in 0..SUMS {
                let x = sums[(i + 1) % SUMS];
                sums[i] = if S::PAIRS {
                    S::dot_pairs(sums[i], w, x)
                } else {
                    S::dot(sums[i], w, x)
                };
            }
        }
        sums.into_iter()
            .fold(0.0, |all, sum| all + S::sum(S::to_float(sum)))
    }
}

/// `steps` products of pairs of 16-bit integers for each sum.
///
/// # Safety
/// The CPU has the features of `S`.
#[inline(always)]
pub(crate) unsafe fn int16<S: Simd>(steps: usize) -> f32 {
    // SAFETY: register arithmetic.
    unsafe {
        let w = S::splat_int(0x0001_0001);
        let mut sums = black_box([S::splat_int(0); SUMS]);
        for _ in 0..steps {
            for i in 0..SUMS {
                sums[i] = S::add_pairs(sums[i], w, sums[(i + 1) % SUMS]);
            }
        }
        sums.into_iter()
            .fold(0.0, |all, sum| all + S::sum(S::to_float(sum)))
    }
}

/// `steps` products of `f32` for each sum.
///
/// # Safety
/// The CPU has the features of `S`.
#[inline(always)]
pub(crate) unsafe fn float<S: Simd>(steps: usize) -> f32 {
    // SAFETY: register arithmetic.
    unsafe {
        let w = S::splat(0.5);
        let mut sums = black_box([S::splat(0.0); SUMS]);
        for _ in 0..steps {
            let x = S::min(sums[0], w);
            for sum in &mut sums {
                *sum = S::fma(w, x, *sum);
            }
        }
        sums.into_iter().fold(0.0, |all, sum| all + S::sum(sum))
    }
}
