//! The portable level: eight lanes as a plain array, which a compiler may or may not turn into vectors.

#![allow(unsafe_code, reason = "implements the unsafe vector trait; raw loads")]

use crate::kernel::simd::Simd;
use crate::quant::float::{bf16_to_f32, f16_to_f32};

#[derive(Clone, Copy)]
pub(crate) struct Scalar;

const LANES: usize = 8;
type F = [f32; LANES];
type I = [u32; LANES];

#[inline(always)]
fn int2(a: I, b: I, f: impl Fn(u32, u32) -> u32) -> I {
    let mut r = [0; LANES];
    for i in 0..LANES {
        r[i] = f(a[i], b[i]);
    }
    r
}

// The standard `map` of arrays is not always inlined.
#[inline(always)]
fn map1<T: Copy>(a: [T; LANES], f: impl Fn(T) -> f32) -> F {
    let mut r = [0.0; LANES];
    for i in 0..LANES {
        r[i] = f(a[i]);
    }
    r
}

#[inline(always)]
fn map2(a: F, b: F, f: impl Fn(f32, f32) -> f32) -> F {
    let mut r = [0.0; LANES];
    for i in 0..LANES {
        r[i] = f(a[i], b[i]);
    }
    r
}

// Integer products are calls: unrolled into tiles, their scalar code is a megabyte that no one wants to load.
impl Simd for Scalar {
    const FUSED: bool = false;
    const LANES: usize = LANES;
    const REGISTERS: usize = 8;
    const WIDE_BIAS: i16 = 128;
    type F = F;
    type I = I;

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
        map1(a, |x| (x + MAGIC) - MAGIC)
    }
    #[inline(always)]
    unsafe fn pow2(n: F) -> F {
        map1(n, |x| f32::from_bits((((x as i32) + 127) as u32) << 23))
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
        map1(unsafe { p.cast::<[u16; LANES]>().read_unaligned() }, f16_to_f32)
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> F {
        // SAFETY: the caller gives LANES readable 16-bit values.
        map1(unsafe { p.cast::<[u16; LANES]>().read_unaligned() }, bf16_to_f32)
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> F {
        // SAFETY: the caller gives LANES readable bytes.
        map1(unsafe { p.cast::<[i8; LANES]>().read_unaligned() }, f32::from)
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
    unsafe fn prefetch(_: *const u8) {}
    #[inline(always)]
    unsafe fn prefetch_second(_: *const u8) {}

    #[inline(always)]
    unsafe fn splat_int(x: i32) -> I {
        [x as u32; LANES]
    }
    #[inline(always)]
    unsafe fn load_int(p: *const u8) -> I {
        // SAFETY: the caller gives four readable bytes for each lane.
        unsafe { p.cast::<I>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn repeat(p: *const u8) -> I {
        // SAFETY: the caller gives four readable bytes.
        [unsafe { p.cast::<u32>().read_unaligned() }; LANES]
    }
    #[inline(always)]
    unsafe fn widen(p: *const u8) -> I {
        let mut r = [0; LANES];
        for i in 0..LANES {
            // SAFETY: the caller gives a readable byte for each lane.
            r[i] = u32::from(unsafe { *p.add(i) });
        }
        r
    }
    #[inline(always)]
    unsafe fn and(a: I, b: I) -> I {
        int2(a, b, |a, b| a & b)
    }
    #[inline(always)]
    unsafe fn or(a: I, b: I) -> I {
        int2(a, b, |a, b| a | b)
    }
    #[inline(always)]
    unsafe fn add_bytes(a: I, b: I) -> I {
        let sum = |a: u32, b: u32| {
            let low = (a & 0x7f7f_7f7f) + (b & 0x7f7f_7f7f);
            low ^ ((a ^ b) & 0x8080_8080)
        };
        int2(a, b, sum)
    }
    #[inline(always)]
    unsafe fn shift_right(a: I, n: u32) -> I {
        let mask = 0xffff_u32 >> n;
        int2(a, a, |a, _| (a >> n) & (mask | mask << 16))
    }
    #[inline(always)]
    unsafe fn shift_left(a: I, n: u32) -> I {
        let mask = 0xffff_u32 >> n;
        int2(a, a, |a, _| (a & (mask | mask << 16)) << n)
    }
    #[inline(always)]
    unsafe fn store_int(p: *mut u8, v: I) {
        // SAFETY: the caller has room for a vector.
        unsafe { p.cast::<I>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn to_upper(a: I) -> I {
        int2(a, a, |a, _| a << 16)
    }
    #[inline(always)]
    unsafe fn add_pairs(acc: I, a: I, b: I) -> I {
        // SAFETY: lanes only.
        int2(acc, unsafe { Self::pairs(a, b) }, u32::wrapping_add)
    }
    #[inline(always)]
    unsafe fn to_float(a: I) -> F {
        map1(a, |x| x as i32 as f32)
    }
    #[inline(always)]
    unsafe fn from_bits(a: I) -> F {
        map1(a, f32::from_bits)
    }
    #[inline(never)]
    unsafe fn pairs(a: I, b: I) -> I {
        let half = |x: u32, i: u32| i32::from((x >> (16 * i)) as i16);
        int2(a, b, |a, b| {
            (half(a, 0) * half(b, 0) + half(a, 1) * half(b, 1)) as u32
        })
    }
    #[inline(always)]
    unsafe fn table(values: &[u8; 16]) -> I {
        let mut r = [0; LANES];
        for i in 0..4 {
            let v = &values[4 * i..];
            r[i] = u32::from_le_bytes([v[0], v[1], v[2], v[3]]);
        }
        r
    }
    #[inline(never)]
    unsafe fn lookup(table: I, index: I) -> I {
        let value = |x: u32| (table[x as usize / 4 % 4] >> (8 * (x % 4))) & 255;
        int2(index, index, |x, _| {
            let b = x.to_le_bytes().map(u32::from);
            value(b[0]) | value(b[1]) << 8 | value(b[2]) << 16 | value(b[3]) << 24
        })
    }
    #[inline(never)]
    unsafe fn dot(acc: I, w: I, x: I) -> I {
        let mut r = acc;
        for i in 0..LANES {
            let (w, x) = (w[i].to_le_bytes(), x[i].to_le_bytes());
            for j in 0..4 {
                r[i] = r[i].wrapping_add((i32::from(w[j]) * i32::from(x[j] as i8)) as u32);
            }
        }
        r
    }
    #[inline(always)]
    unsafe fn dot_wide(acc: I, w: I, x: I) -> I {
        // SAFETY: plain arithmetic, exact for all bytes.
        unsafe { Self::dot(acc, w, x) }
    }
}

/// Entry points and function table of the level.
pub(crate) mod table {
    crate::kernel::table::define_level!(super::Scalar, crate::kernel::CpuLevel::Scalar);
}
