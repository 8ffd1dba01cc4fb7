//! AVX-VNNI: the vectors of AVX2, and `vpdpbusd` on them, which adds products of unsigned and signed bytes without
//! saturation.

#![allow(unsafe_code, reason = "vector intrinsics")]

use std::arch::x86_64::*;

use super::avx2::{Products, Ymm};

#[derive(Clone, Copy)]
pub(super) struct AvxVnni;

// The safety of every block below is that of the trait: the CPU has AVX-VNNI besides what AVX2 needs.
impl Products for AvxVnni {
    const WIDE_BIAS: i16 = 128;

    #[inline(always)]
    unsafe fn dot(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_dpbusd_avx_epi32(acc, w, x) }
    }
    #[inline(always)]
    unsafe fn dot_wide(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_dpbusd_avx_epi32(acc, w, x) }
    }
}

/// Entry points and function table of the level.
pub(crate) mod table {
    crate::kernel::table::define_level!(
        super::Ymm<super::AvxVnni>,
        crate::kernel::CpuLevel::AvxVnni,
        #[target_feature(enable = "avxvnni,avx2,fma,f16c")];
        quantize #[target_feature(enable = "avx2,fma,f16c")]
    );
}
