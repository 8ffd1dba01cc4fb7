//! FEAT_I8MM: the vectors of NEON, and `usdot` on them, which multiplies unsigned and signed bytes.
//!
//! `smmla`, which has twice the products of a dot product, takes eight neighbouring values of each of two rows, where a
//! panel has four of each of four: weights would have to be reordered on the way.

#![allow(unsafe_code, reason = "vector intrinsics")]

use std::arch::aarch64::*;
use std::arch::asm;

use super::neon::{Neon, Products};

#[derive(Clone, Copy)]
pub(super) struct I8mm;

// The safety of every block below is that of the trait: the CPU has FEAT_I8MM.
impl Products for I8mm {
    const WIDE_BIAS: i16 = 128;

    #[inline(always)]
    unsafe fn dot(mut acc: int32x4_t, w: uint8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: see above; reads and writes its operands only.
        unsafe {
            asm!(
                ".arch_extension i8mm",
                "usdot {acc:v}.4s, {w:v}.16b, {x:v}.16b",
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
        unsafe { Self::dot(acc, w, x) }
    }
}

/// Entry points and function table of the level.
pub(crate) mod table {
    crate::kernel::table::define_level!(
        super::Neon<super::I8mm>,
        crate::kernel::CpuLevel::I8mm,
        #[target_feature(enable = "neon,i8mm")];
        quantize #[target_feature(enable = "neon")]
    );
}
