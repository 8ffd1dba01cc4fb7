//! Vector operations over `f32` slices: dot product, norms, softmax, activations, rotary embedding.
//!
//! Lengths are the caller's duty (the safe methods of [`crate::kernel::Kernels`] check them). Each result depends on
//! its inputs and the CPU level only.

#![allow(unsafe_code, reason = "raw loads and stores of the vector trait")]

use super::elementwise;
use crate::kernel::simd::{Simd, load_part, store_part};

/// Applies `$body` to `$x[i]` (and `$y[i]`) vector by vector, in place in `$x`.
macro_rules! map_in_place {
    ($S:ty, $x:ident, $y:ident, |$a:ident, $b:ident| $body:expr) => {{
        let (n, px, py) = ($x.len(), $x.as_mut_ptr(), $y.as_ptr());
        let mut i = 0;
        // SAFETY: both slices have n values; the rest is handled by partial loads and stores.
        unsafe {
            while i + <$S>::LANES <= n {
                let ($a, $b) = (<$S>::load(px.add(i)), <$S>::load(py.add(i)));
                <$S>::store(px.add(i), $body);
                i += <$S>::LANES;
            }
            if i < n {
                let ($a, $b) = (
                    load_part::<$S>(px.add(i), n - i),
                    load_part::<$S>(py.add(i), n - i),
                );
                store_part::<$S>(px.add(i), $body, n - i);
            }
        }
    }};
}

/// Σ aᵢ·bᵢ with four running vectors.
#[inline(always)]
pub(crate) unsafe fn dot<S: Simd>(a: &[f32], b: &[f32]) -> f32 {
    let n = a.len().min(b.len());
    let (pa, pb) = (a.as_ptr(), b.as_ptr());
    // SAFETY: all loads are below n.
    unsafe {
        let mut acc = [S::splat(0.0); 4];
        let mut i = 0;
        while i + 4 * S::LANES <= n {
            for j in 0..4 {
                let at = i + j * S::LANES;
                acc[j] = S::fma(S::load(pa.add(at)), S::load(pb.add(at)), acc[j]);
            }
            i += 4 * S::LANES;
        }
        while i + S::LANES <= n {
            acc[0] = S::fma(S::load(pa.add(i)), S::load(pb.add(i)), acc[0]);
            i += S::LANES;
        }
        if i < n {
            let (va, vb) = (load_part::<S>(pa.add(i), n - i), load_part::<S>(pb.add(i), n - i));
            acc[1] = S::fma(va, vb, acc[1]);
        }
        S::sum(S::add(S::add(acc[0], acc[1]), S::add(acc[2], acc[3])))
    }
}

/// Σ xᵢ with four running vectors.
#[inline(always)]
pub(crate) unsafe fn sum<S: Simd>(x: &[f32]) -> f32 {
    let (n, p) = (x.len(), x.as_ptr());
    // SAFETY: all loads are below n.
    unsafe {
        let mut acc = [S::splat(0.0); 4];
        let mut i = 0;
        while i + 4 * S::LANES <= n {
            for j in 0..4 {
                acc[j] = S::add(acc[j], S::load(p.add(i + j * S::LANES)));
            }
            i += 4 * S::LANES;
        }
        while i + S::LANES <= n {
            acc[0] = S::add(acc[0], S::load(p.add(i)));
            i += S::LANES;
        }
        if i < n {
            acc[1] = S::add(acc[1], load_part::<S>(p.add(i), n - i));
        }
        S::sum(S::add(S::add(acc[0], acc[1]), S::add(acc[2], acc[3])))
    }
}

/// Largest value; −∞ for none.
#[inline(always)]
pub(crate) unsafe fn max<S: Simd>(x: &[f32]) -> f32 {
    let (n, p) = (x.len(), x.as_ptr());
    // SAFETY: all loads are below n.
    unsafe {
        let mut acc = S::splat(f32::NEG_INFINITY);
        let mut i = 0;
        while i + S::LANES <= n {
            acc = S::max(S::load(p.add(i)), acc);
            i += S::LANES;
        }
        let mut m = S::largest(acc);
        while i < n {
            m = if *p.add(i) > m { *p.add(i) } else { m };
            i += 1;
        }
        m
    }
}

/// out ← out · keep + x · add.
#[inline(always)]
pub(crate) unsafe fn scale_and_add<S: Simd>(out: &mut [f32], keep: f32, x: &[f32], add: f32) {
    // SAFETY: register arithmetic; lengths are equal.
    let (keep, add) = unsafe { (S::splat(keep), S::splat(add)) };
    map_in_place!(S, out, x, |o, x| S::fma(x, add, S::mul(o, keep)));
}

/// x ← cap · tanh(x / cap).
#[inline(always)]
pub(crate) unsafe fn softcap<S: Simd>(x: &mut [f32], cap: f32) {
    let (n, p) = (x.len(), x.as_mut_ptr());
    // SAFETY: all loads and stores are below n; the features are the caller's promise.
    unsafe {
        let (factor, minus) = (S::splat(2.0 / cap), S::splat(-2.0 * cap));
        let (cap, one) = (S::splat(cap), S::splat(1.0));
        // tanh y = 1 - 2 / (exp 2y + 1)
        let capped = |x: S::F| {
            let e = exp::<S>(S::mul(x, factor));
            S::add(cap, S::div(minus, S::add(e, one)))
        };
        let mut i = 0;
        while i + S::LANES <= n {
            S::store(p.add(i), capped(S::load(p.add(i))));
            i += S::LANES;
        }
        if i < n {
            store_part::<S>(p.add(i), capped(load_part::<S>(p.add(i), n - i)), n - i);
        }
    }
}

/// x ← x + y.
#[inline(always)]
pub(crate) unsafe fn add<S: Simd>(x: &mut [f32], y: &[f32]) {
    map_in_place!(S, x, y, |a, b| S::add(a, b));
}

/// x ← x · y.
#[inline(always)]
pub(crate) unsafe fn mul<S: Simd>(x: &mut [f32], y: &[f32]) {
    map_in_place!(S, x, y, |a, b| S::mul(a, b));
}

/// x ← x · s.
#[inline(always)]
pub(crate) unsafe fn scale<S: Simd>(x: &mut [f32], s: f32) {
    for x in x {
        *x *= s;
    }
}

/// exp(x): relative error below 2e-7; 0 and ∞ at the ends; NaN stays.
#[inline(always)]
pub(crate) unsafe fn exp<S: Simd>(x: S::F) -> S::F {
    // SAFETY: register arithmetic only.
    unsafe {
        // Past these bounds the result is 0 or infinite anyway, and powers of two stay in range when halved.
        let x = S::min(S::splat(89.0), S::max(S::splat(-104.0), x));
        let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        // ln 2 in two parts, the first with trailing zeros, so that the reduction is exact.
        let r = S::fma(n, S::splat(-0.693_359_4), x);
        let r = S::fma(n, S::splat(2.121_944_4e-4), r);
        // Minimax polynomial of (exp(r) - 1 - r) / r² on [-ln2/2, ln2/2] (Cephes expf).
        let mut p = S::splat(1.987_569_2e-4);
        for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = S::fma(p, r, S::splat(c));
        }
        let p = S::add(S::fma(p, S::mul(r, r), r), S::splat(1.0));
        // 2ⁿ in two factors: n reaches −150 and 129, beyond the exponents of normal numbers.
        let half = S::round(S::mul(n, S::splat(0.5)));
        S::mul(S::mul(p, S::pow2(half)), S::pow2(S::sub(n, half)))
    }
}

/// x / (1 + exp(−x)).
#[inline(always)]
pub(crate) unsafe fn silu<S: Simd>(x: S::F) -> S::F {
    // SAFETY: register arithmetic only.
    unsafe { S::div(x, S::add(S::splat(1.0), exp::<S>(S::sub(S::splat(0.0), x)))) }
}

/// Gaussian error unit in its tanh form: x · σ(2·√(2/π)·(x + 0.044715·x³)).
#[inline(always)]
pub(crate) unsafe fn gelu<S: Simd>(x: S::F) -> S::F {
    // SAFETY: register arithmetic only.
    unsafe {
        let cubic = S::fma(S::mul(x, x), S::splat(0.044_715), S::splat(1.0));
        let u = S::mul(S::mul(x, S::splat(-1.595_769)), cubic);
        S::div(x, S::add(S::splat(1.0), exp::<S>(u)))
    }
}

/// gate ← silu(gate) · up.
#[inline(always)]
pub(crate) unsafe fn silu_mul<S: Simd>(gate: &mut [f32], up: &[f32]) {
    map_in_place!(S, gate, up, |g, u| S::mul(silu::<S>(g), u));
}

/// gate ← gelu(gate) · up.
#[inline(always)]
pub(crate) unsafe fn gelu_mul<S: Simd>(gate: &mut [f32], up: &[f32]) {
    map_in_place!(S, gate, up, |g, u| S::mul(gelu::<S>(g), u));
}

/// x ← exp(x − m); answers the sum.
#[inline(always)]
pub(crate) unsafe fn exp_minus<S: Simd>(x: &mut [f32], m: f32) -> f32 {
    // SAFETY: all loads and stores are below n; the features are the caller's promise.
    unsafe {
        let (n, p, m) = (x.len(), x.as_mut_ptr(), S::splat(m));
        let mut i = 0;
        while i + S::LANES <= n {
            S::store(p.add(i), exp::<S>(S::sub(S::load(p.add(i)), m)));
            i += S::LANES;
        }
        if i < n {
            let v = exp::<S>(S::sub(load_part::<S>(p.add(i), n - i), m));
            store_part::<S>(p.add(i), v, n - i);
        }
        sum::<S>(x)
    }
}

/// x ← exp(x − max) / Σ exp(x − max).
#[inline(always)]
pub(crate) unsafe fn softmax<S: Simd>(x: &mut [f32]) {
    // SAFETY: the features are the caller's promise.
    unsafe {
        let m = max::<S>(x);
        let total = exp_minus::<S>(x, m);
        scale::<S>(x, 1.0 / total);
    }
}

/// out ← x / √(mean(x²) + eps) · weight.
#[inline(always)]
pub(crate) unsafe fn rms_norm<S: Simd>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    // SAFETY: the lengths are equal; the features are the caller's promise.
    unsafe { elementwise::rms_norm::<S>(x.as_ptr(), weight.as_ptr(), eps, out.as_mut_ptr(), out.len()) }
}

/// out ← (x − mean(x)) / √(var(x) + eps) · weight + bias.
#[inline(always)]
pub(crate) unsafe fn layer_norm<S: Simd>(
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    eps: f32,
    out: &mut [f32],
) {
    let bias = match bias {
        Some(bias) => bias.as_ptr(),
        None => std::ptr::null(),
    };
    // SAFETY: the lengths are equal; the features are the caller's promise.
    unsafe {
        elementwise::layer_norm::<S>(
            x.as_ptr(),
            weight.as_ptr(),
            bias,
            eps,
            out.as_mut_ptr(),
            out.len(),
        )
    }
}

/// Rotates the pairs (2i, 2i + 1) of `x` by the angles whose cosines and sines are given.
#[inline(always)]
pub(crate) unsafe fn rope_interleaved<S: Simd>(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    for ((pair, &c), &s) in x.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
        let [a, b] = *pair;
        *pair = [a * c - b * s, a * s + b * c];
    }
}

/// Rotates the pairs (i, i + cos.len()) of `x`.
#[inline(always)]
pub(crate) unsafe fn rope_neox<S: Simd>(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = x.split_at_mut(cos.len());
    for (((a, b), &c), &s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        let (va, vb) = (*a, *b);
        *a = va * c - vb * s;
        *b = va * s + vb * c;
    }
}
