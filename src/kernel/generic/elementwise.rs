//! Operations from arrays to an array: each element of the output depends on the elements at its place, and for norms on
//! a few numbers of the whole input.
//!
//! They take pointers because the output may be one of the inputs: an element is read before its place is written, and
//! never again. Inputs and output may not overlap in any other way.

#![allow(unsafe_code, reason = "raw loads and stores of the vector trait")]

use super::ops::{dot, exp, gelu, silu, sum};
use crate::kernel::simd::{Simd, load_part, store_part};

/// Writes `$body` to `$out[i]` vector by vector, with each `$v` the values of `$p` there.
macro_rules! map {
    ($S:ty, $n:expr, $out:ident, |$($v:ident = $p:ident),*| $body:expr) => {{
        let n = $n;
        let mut i = 0;
        // SAFETY: the caller gives n values behind each pointer; the rest is handled by partial loads and stores.
        unsafe {
            while i + <$S>::LANES <= n {
                $(let $v = <$S>::load($p.add(i));)*
                <$S>::store($out.add(i), $body);
                i += <$S>::LANES;
            }
            if i < n {
                $(let $v = load_part::<$S>($p.add(i), n - i);)*
                store_part::<$S>($out.add(i), $body, n - i);
            }
        }
    }};
}

/// out ← a + b.
#[inline(always)]
pub(crate) unsafe fn add<S: Simd>(a: *const f32, b: *const f32, out: *mut f32, n: usize) {
    map!(S, n, out, |x = a, y = b| S::add(x, y));
}

/// out ← a · b.
#[inline(always)]
pub(crate) unsafe fn mul<S: Simd>(a: *const f32, b: *const f32, out: *mut f32, n: usize) {
    map!(S, n, out, |x = a, y = b| S::mul(x, y));
}

/// out ← max(x, 0); NaN stays, as the second operand of the maximum.
#[inline(always)]
pub(crate) unsafe fn relu<S: Simd>(x: *const f32, out: *mut f32, n: usize) {
    map!(S, n, out, |v = x| S::max(S::splat(0.0), v));
}

/// out ← x · σ(x).
#[inline(always)]
pub(crate) unsafe fn silu_to<S: Simd>(x: *const f32, out: *mut f32, n: usize) {
    map!(S, n, out, |v = x| silu::<S>(v));
}

/// out ← gelu(x) in its tanh form.
#[inline(always)]
pub(crate) unsafe fn gelu_to<S: Simd>(x: *const f32, out: *mut f32, n: usize) {
    map!(S, n, out, |v = x| gelu::<S>(v));
}

/// out ← 1 / (1 + exp(−x)).
#[inline(always)]
pub(crate) unsafe fn sigmoid<S: Simd>(x: *const f32, out: *mut f32, n: usize) {
    map!(S, n, out, |v = x| S::div(
        S::splat(1.0),
        S::add(S::splat(1.0), exp::<S>(S::sub(S::splat(0.0), v)))
    ));
}

/// out ← x / √(mean(x²) + eps) · weight.
#[inline(always)]
pub(crate) unsafe fn rms_norm<S: Simd>(x: *const f32, weight: *const f32, eps: f32, out: *mut f32, n: usize) {
    // SAFETY: n values behind each pointer, and nothing is written while the slice lives.
    let mean = unsafe {
        let x = std::slice::from_raw_parts(x, n);
        dot::<S>(x, x) / n as f32
    };
    // SAFETY: the features are the caller's promise.
    let s = unsafe { S::splat(1.0 / (mean + eps).sqrt()) };
    map!(S, n, out, |v = x, w = weight| S::mul(S::mul(v, s), w));
}

/// out ← (x − mean(x)) / √(var(x) + eps) · weight + bias; no bias when that pointer is null.
#[inline(always)]
pub(crate) unsafe fn layer_norm<S: Simd>(
    x: *const f32,
    weight: *const f32,
    bias: *const f32,
    eps: f32,
    out: *mut f32,
    n: usize,
) {
    // SAFETY: n values behind each pointer, and nothing is written while the slice lives.
    let mean = unsafe { S::splat(sum::<S>(std::slice::from_raw_parts(x, n)) / n as f32) };
    map!(S, n, out, |v = x| S::sub(v, mean));
    // SAFETY: as above; the values were just written.
    let variance = unsafe {
        let centred = std::slice::from_raw_parts(out.cast_const(), n);
        dot::<S>(centred, centred) / n as f32
    };
    // SAFETY: the features are the caller's promise.
    let s = unsafe { S::splat(1.0 / (variance + eps).sqrt()) };
    if bias.is_null() {
        map!(S, n, out, |v = out, w = weight| S::mul(S::mul(v, s), w));
    } else {
        map!(S, n, out, |v = out, w = weight, b = bias| S::add(
            S::mul(S::mul(v, s), w),
            b
        ));
    }
}
