//! The portable level: eight lanes as a plain array, which a compiler may or may not turn into vectors.

#![allow(unsafe_code, reason = "implements the unsafe vector trait; raw loads")]
#![allow(
    clippy::needless_range_loop,
    reason = "fixed-size lanes: the index form is the one compilers turn into vectors"
)]

use crate::kernel::chunk::{GROUP, WeightChunk, XChunk};
use crate::kernel::simd::{MIN, Simd};
use crate::quant::float::{bf16_to_f32, f16_to_f32};

#[derive(Clone, Copy)]
pub(crate) struct Scalar;

const LANES: usize = 8;
type F = [f32; LANES];

#[inline(always)]
fn map2(a: F, b: F, f: impl Fn(f32, f32) -> f32) -> F {
    let mut r = [0.0; LANES];
    for i in 0..LANES {
        r[i] = f(a[i], b[i]);
    }
    r
}

impl Simd for Scalar {
    const LANES: usize = LANES;
    const SLOT: [usize; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    const TILE: (usize, usize) = (1, 4);
    type F = F;
    type Acc = [f32; 16];

    #[inline(always)]
    unsafe fn splat(x: f32) -> F {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F {
        // SAFETY: the caller gives LANES readable values.
        unsafe { p.cast::<F>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: F) {
        // SAFETY: the caller gives LANES writable values.
        unsafe { p.cast::<F>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        map2(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        map2(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        map2(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        map2(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        map2(map2(a, b, |a, b| a * b), c, |p, c| p + c)
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        map2(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(a: F, b: F) -> F {
        map2(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn round(a: F) -> F {
        // Adding 1.5 · 2^23 leaves no fraction bits, so the addition itself rounds to nearest even.
        const MAGIC: f32 = 12_582_912.0;
        a.map(|x| (x + MAGIC) - MAGIC)
    }
    #[inline(always)]
    unsafe fn pow2(n: F) -> F {
        n.map(|x| f32::from_bits((((x as i32) + 127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn sum(a: F) -> f32 {
        ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))
    }
    #[inline(always)]
    unsafe fn largest(a: F) -> f32 {
        let mut m = a[0];
        for i in 1..LANES {
            m = if m > a[i] { m } else { a[i] };
        }
        m
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> F {
        // SAFETY: the caller gives LANES readable 16-bit values.
        unsafe { p.cast::<[u16; LANES]>().read_unaligned() }.map(f16_to_f32)
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> F {
        // SAFETY: the caller gives LANES readable 16-bit values.
        unsafe { p.cast::<[u16; LANES]>().read_unaligned() }.map(bf16_to_f32)
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> F {
        // SAFETY: the caller gives LANES readable bytes.
        unsafe { p.cast::<[i8; LANES]>().read_unaligned() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn f16(bits: u16) -> f32 {
        f16_to_f32(bits)
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u8, v: F) {
        // SAFETY: the caller gives room for LANES 16-bit values.
        unsafe {
            p.cast::<[u16; LANES]>()
                .write_unaligned(v.map(|x| half::f16::from_f32_const(x).to_bits()))
        }
    }
    #[inline(always)]
    unsafe fn lookup(src: &[u8; 16], table: &[u8; 16], out: &mut [u8; 32]) {
        for j in 0..16 {
            out[j] = table[usize::from(src[j] & 15)];
            out[j + 16] = table[usize::from(src[j] >> 4)];
        }
    }
    #[inline(always)]
    unsafe fn five_bits(src: &[u8; 16], bits: u32, out: &mut [u8; 32]) {
        for j in 0..16 {
            out[j] = (src[j] & 15) | (((bits >> j) & 1) << 4) as u8;
            out[j + 16] = (src[j] >> 4) | (((bits >> (j + 16)) & 1) << 4) as u8;
        }
    }
    #[inline(always)]
    unsafe fn scales(bytes: [i8; 16], d: f32, out: &mut [f32; 16]) {
        for g in 0..16 {
            out[g] = d * f32::from(bytes[g]);
        }
    }
    #[inline(always)]
    unsafe fn scales32(bytes: [u8; 8], d: f32, out: &mut [f32; 16]) {
        for g in 0..16 {
            out[g] = d * f32::from(bytes[g / 2] as i8);
        }
    }
    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}

    #[inline(always)]
    unsafe fn acc_zero() -> [f32; 16] {
        [0.0; 16]
    }
    #[inline(always)]
    unsafe fn acc_sum(a: [f32; 16]) -> f32 {
        let mut r = [0.0; LANES];
        for i in 0..LANES {
            r[i] = a[i] + a[i + LANES];
        }
        // SAFETY: plain arithmetic at this level.
        unsafe { Self::sum(r) }
    }
    #[inline(always)]
    unsafe fn dot_chunk<const KIND: u8, const R: usize, const C: usize>(
        acc: &mut [[[f32; 16]; C]; R],
        w: [*const WeightChunk; R],
        x: [*const XChunk; C],
        offset: f32,
    ) {
        for r in 0..R {
            // SAFETY: the caller gives valid chunks.
            let w = unsafe { &*w[r] };
            for c in 0..C {
                // SAFETY: the caller gives valid chunks.
                let x = unsafe { &*x[c] };
                let acc = &mut acc[r][c];
                for g in 0..16 {
                    let mut dot = 0i32;
                    for i in GROUP * g..GROUP * (g + 1) {
                        dot += i32::from(i16::from(w.q[i])) * i32::from(i16::from(x.q[i]));
                    }
                    // Integers below 2^24: conversion and offset are exact.
                    let mut dot = dot as f32;
                    if KIND != MIN {
                        dot -= offset * x.sum[g];
                    }
                    acc[g] += w.s[g] * x.s[g] * dot;
                    if KIND == MIN {
                        acc[g] += w.m[g] * x.scaled_sum[g];
                    }
                }
            }
        }
    }
    unsafe fn tile(kind: u8, t: &super::matmul::Tile) {
        // SAFETY: passes the caller's promise on.
        unsafe { super::matmul::tile_by_kind::<Self, 1>(kind, t) }
    }
}

/// Entry points and function table of the level.
pub(crate) mod table {
    crate::kernel::table::define_level!(super::Scalar, crate::kernel::CpuLevel::Scalar);
}
