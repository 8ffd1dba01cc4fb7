//! Dot products of signed bytes (FEAT_DotProd): the vectors of NEON, and `sdot` on them. Whole-byte weights are made
//! signed first.

#![allow(unsafe_code, reason = "vector intrinsics")]

use std::arch::aarch64::*;
use std::arch::asm;

use super::neon::{Neon, Products};

#[derive(Clone, Copy)]
pub(super) struct Dotprod;

// The safety of every block below is that of the trait: the CPU has FEAT_DotProd.
impl Products for Dotprod {
    const WIDE_BIAS: i16 = 0;

    #[inline(always)]
    unsafe fn dot(mut acc: int32x4_t, w: uint8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: see above; reads and writes its operands only.
        unsafe {
            asm!(
                ".arch_extension dotprod",
                "sdot {acc:v}.4s, {w:v}.16b, {x:v}.16b",
                acc = inout(vreg) acc,
                w = in(vreg) w,
                x = in(vreg) x,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        acc
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
        super::Neon<super::Dotprod>,
        crate::kernel::CpuLevel::NeonDotprod,
        #[target_feature(enable = "neon,dotprod")];
        quantize #[target_feature(enable = "neon")]
    );
}
