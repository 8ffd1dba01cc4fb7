//! The vector instructions that every aarch64 CPU has: four lanes in 32 registers; integer products by `smull`, added in
//! pairs.
//!
//! Pairs of products of bytes fit 16 bits, as activations are never −128: at most 2 · 128 · 127 = 32512. Whole-byte
//! weights are made signed first.
//!
//! Levels that differ in their products only share the rest: [`Products`].

#![allow(unsafe_code, reason = "vector intrinsics")]

use std::arch::aarch64::*;
use std::arch::asm;
use std::marker::PhantomData;

use crate::kernel::simd::Simd;

/// The integer products of a level with the vectors of NEON; as in [`Simd`].
pub(super) trait Products: Copy + 'static {
    const WIDE_BIAS: i16;
    unsafe fn dot(acc: int32x4_t, w: uint8x16_t, x: int8x16_t) -> int32x4_t;
    unsafe fn dot_wide(acc: int32x4_t, w: uint8x16_t, x: int8x16_t) -> int32x4_t;
}

/// The vectors of NEON with the products `P`.
#[derive(Clone, Copy)]
pub(super) struct Neon<P>(PhantomData<P>);

// The safety of every block below is that of the trait: the CPU has NEON and what `P` needs, and pointers are valid.
impl<P: Products> Simd for Neon<P> {
    const FUSED: bool = true;
    const LANES: usize = 4;
    const REGISTERS: usize = 32;
    const WIDE_BIAS: i16 = P::WIDE_BIAS;
    type F = float32x4_t;
    type I = int32x4_t;

    #[inline(always)]
    unsafe fn splat(x: f32) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vld1q_f32(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: float32x4_t) {
        // SAFETY: see above.
        unsafe { vst1q_f32(p, v) }
    }
    #[inline(always)]
    unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vaddq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vsubq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vmulq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vdivq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vfmaq_f32(c, a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vbslq_f32(vcltq_f32(a, b), a, b) }
    }
    #[inline(always)]
    unsafe fn round(a: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vrndnq_f32(a) }
    }
    #[inline(always)]
    unsafe fn pow2(n: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe {
            let biased = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
        }
    }
    #[inline(always)]
    unsafe fn sum(a: float32x4_t) -> f32 {
        // SAFETY: see above.
        unsafe { vaddvq_f32(a) }
    }
    #[inline(always)]
    unsafe fn largest(a: float32x4_t) -> f32 {
        // SAFETY: see above.
        unsafe { vmaxvq_f32(a) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> float32x4_t {
        let v: float32x4_t;
        // SAFETY: see above; the instruction reads and writes registers only.
        unsafe {
            asm!(
                "fcvtl {v:v}.4s, {half:v}.4h",
                half = in(vreg) vcreate_u16(p.cast::<u64>().read_unaligned()),
                v = lateout(vreg) v,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        v
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> float32x4_t {
        // SAFETY: see above.
        unsafe {
            let wide = vmovl_u16(vcreate_u16(p.cast::<u64>().read_unaligned()));
            vreinterpretq_f32_u32(vshlq_n_u32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> float32x4_t {
        // SAFETY: see above.
        unsafe {
            let bytes = vcreate_s8(u64::from(p.cast::<u32>().read_unaligned()));
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes))))
        }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u8, v: float32x4_t) {
        let half: uint16x4_t;
        // SAFETY: see above; the instruction reads and writes registers only.
        unsafe {
            asm!(
                "fcvtn {half:v}.4h, {v:v}.4s",
                v = in(vreg) v,
                half = lateout(vreg) half,
                options(pure, nomem, nostack, preserves_flags)
            );
            p.cast::<u64>()
                .write_unaligned(vget_lane_u64::<0>(vreinterpret_u64_u16(half)));
        }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        // SAFETY: a hint that never faults.
        unsafe {
            asm!(
                "prfm pldl1keep, [{p}]",
                p = in(reg) p,
                options(nomem, nostack, preserves_flags)
            );
        }
    }
    #[inline(always)]
    unsafe fn prefetch_second(p: *const u8) {
        // SAFETY: a hint that never faults.
        unsafe {
            asm!(
                "prfm pldl2keep, [{p}]",
                p = in(reg) p,
                options(nomem, nostack, preserves_flags)
            );
        }
    }

    #[inline(always)]
    unsafe fn splat_int(x: i32) -> int32x4_t {
        // SAFETY: see above.
        unsafe { vdupq_n_s32(x) }
    }
    #[inline(always)]
    unsafe fn load_int(p: *const u8) -> int32x4_t {
        // SAFETY: see above.
        unsafe { vreinterpretq_s32_u8(vld1q_u8(p)) }
    }
    #[inline(always)]
    unsafe fn repeat(p: *const u8) -> int32x4_t {
        // SAFETY: see above.
        unsafe { vdupq_n_s32(p.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn widen(p: *const u8) -> int32x4_t {
        // SAFETY: see above.
        unsafe {
            let bytes = vcreate_u8(u64::from(p.cast::<u32>().read_unaligned()));
            vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(bytes))))
        }
    }
    #[inline(always)]
    unsafe fn and(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: see above.
        unsafe { vandq_s32(a, b) }
    }
    #[inline(always)]
    unsafe fn or(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: see above.
        unsafe { vorrq_s32(a, b) }
    }
    #[inline(always)]
    unsafe fn add_bytes(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: see above.
        unsafe {
            let (a, b) = (vreinterpretq_u8_s32(a), vreinterpretq_u8_s32(b));
            vreinterpretq_s32_u8(vaddq_u8(a, b))
        }
    }
    #[inline(always)]
    unsafe fn shift_right(a: int32x4_t, n: u32) -> int32x4_t {
        // SAFETY: see above.
        unsafe {
            let halves = vreinterpretq_u16_s32(a);
            match n {
                1 => vreinterpretq_s32_u16(vshrq_n_u16::<1>(halves)),
                2 => vreinterpretq_s32_u16(vshrq_n_u16::<2>(halves)),
                3 => vreinterpretq_s32_u16(vshrq_n_u16::<3>(halves)),
                4 => vreinterpretq_s32_u16(vshrq_n_u16::<4>(halves)),
                5 => vreinterpretq_s32_u16(vshrq_n_u16::<5>(halves)),
                6 => vreinterpretq_s32_u16(vshrq_n_u16::<6>(halves)),
                7 => vreinterpretq_s32_u16(vshrq_n_u16::<7>(halves)),
                _ => a,
            }
        }
    }
    #[inline(always)]
    unsafe fn shift_left(a: int32x4_t, n: u32) -> int32x4_t {
        // SAFETY: see above.
        unsafe {
            let halves = vreinterpretq_u16_s32(a);
            match n {
                1 => vreinterpretq_s32_u16(vshlq_n_u16::<1>(halves)),
                2 => vreinterpretq_s32_u16(vshlq_n_u16::<2>(halves)),
                3 => vreinterpretq_s32_u16(vshlq_n_u16::<3>(halves)),
                4 => vreinterpretq_s32_u16(vshlq_n_u16::<4>(halves)),
                5 => vreinterpretq_s32_u16(vshlq_n_u16::<5>(halves)),
                6 => vreinterpretq_s32_u16(vshlq_n_u16::<6>(halves)),
                7 => vreinterpretq_s32_u16(vshlq_n_u16::<7>(halves)),
                _ => a,
            }
        }
    }
    #[inline(always)]
    unsafe fn store_int(p: *mut u8, v: int32x4_t) {
        // SAFETY: see above.
        unsafe { vst1q_u8(p, vreinterpretq_u8_s32(v)) }
    }
    #[inline(always)]
    unsafe fn to_upper(a: int32x4_t) -> int32x4_t {
        // SAFETY: see above.
        unsafe { vshlq_n_s32::<16>(a) }
    }
    #[inline(always)]
    unsafe fn add_pairs(acc: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: see above.
        unsafe { vaddq_s32(acc, Self::pairs(a, b)) }
    }
    #[inline(always)]
    unsafe fn to_float(a: int32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vcvtq_f32_s32(a) }
    }
    #[inline(always)]
    unsafe fn from_bits(a: int32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vreinterpretq_f32_s32(a) }
    }
    #[inline(always)]
    unsafe fn pairs(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: see above.
        unsafe {
            let (a, b) = (vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b));
            let low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
            vpaddq_s32(low, vmull_high_s16(a, b))
        }
    }
    #[inline(always)]
    unsafe fn table(values: &[u8; 16]) -> int32x4_t {
        // SAFETY: see above.
        unsafe { vreinterpretq_s32_u8(vld1q_u8(values.as_ptr())) }
    }
    #[inline(always)]
    unsafe fn lookup(table: int32x4_t, index: int32x4_t) -> int32x4_t {
        // SAFETY: see above.
        unsafe {
            vreinterpretq_s32_u8(vqtbl1q_u8(
                vreinterpretq_u8_s32(table),
                vreinterpretq_u8_s32(index),
            ))
        }
    }
    #[inline(always)]
    unsafe fn dot(acc: int32x4_t, w: int32x4_t, x: int32x4_t) -> int32x4_t {
        // SAFETY: see above.
        unsafe { P::dot(acc, vreinterpretq_u8_s32(w), vreinterpretq_s8_s32(x)) }
    }
    #[inline(always)]
    unsafe fn dot_wide(acc: int32x4_t, w: int32x4_t, x: int32x4_t) -> int32x4_t {
        // SAFETY: see above.
        unsafe { P::dot_wide(acc, vreinterpretq_u8_s32(w), vreinterpretq_s8_s32(x)) }
    }
}

/// Products of NEON itself.
#[derive(Clone, Copy)]
pub(super) struct Widening;

impl Products for Widening {
    const WIDE_BIAS: i16 = 0;

    #[inline(always)]
    unsafe fn dot(acc: int32x4_t, w: uint8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: see above.
        unsafe {
            let w = vreinterpretq_s8_u8(w);
            let low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
            vpadalq_s16(acc, vpaddq_s16(low, vmull_high_s8(w, x)))
        }
    }
    #[inline(always)]
    unsafe fn dot_wide(acc: int32x4_t, w: uint8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: see above.
        unsafe { Self::dot(acc, veorq_u8(w, vdupq_n_u8(0x80)), x) }
    }
}

/// Entry points and function table of the level.
pub(crate) mod table {
    crate::kernel::table::define_level!(
        super::Neon<super::Widening>,
        crate::kernel::CpuLevel::Neon,
        #[target_feature(enable = "neon")];
        quantize #[target_feature(enable = "neon")]
    );
}
