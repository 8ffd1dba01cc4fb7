//! AVX-512 with VNNI: sixteen lanes, and `vpdpbusd`, which adds products of unsigned and signed bytes without
//! saturation.

#![allow(unsafe_code, reason = "vector intrinsics")]

use std::arch::x86_64::*;

use crate::kernel::Kernels;
use crate::kernel::simd::Simd;

#[derive(Clone, Copy)]
pub(crate) struct Avx512;

// The safety of every block below is that of the trait: the CPU has AVX-512 F, BW, DQ, VL and VNNI, and pointers are
// valid.
impl Simd for Avx512 {
    const FUSED: bool = true;
    const LANES: usize = 16;
    const REGISTERS: usize = 32;
    const WIDE_BIAS: i16 = 128;
    type F = __m512;
    type I = __m512i;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m512) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn round(a: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    unsafe fn pow2(n: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe {
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        }
    }
    #[inline(always)]
    unsafe fn sum(a: __m512) -> f32 {
        // SAFETY: see above.
        unsafe {
            let s = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            let s = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps::<1>(s));
            let s = _mm_add_ps(s, _mm_movehl_ps(s, s));
            _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)))
        }
    }
    #[inline(always)]
    unsafe fn largest(a: __m512) -> f32 {
        // SAFETY: see above.
        unsafe {
            let s = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            let s = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps::<1>(s));
            let s = _mm_max_ps(s, _mm_movehl_ps(s, s));
            _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)))
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> __m512 {
        // SAFETY: see above.
        // Named with the current rounding, which conversions to more bits do not have, so that the load is part of it.
        unsafe { _mm512_cvt_roundph_ps::<_MM_FROUND_CUR_DIRECTION>(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> __m512 {
        // SAFETY: see above.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u8, v: __m512) {
        // SAFETY: see above.
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT }>(v)) }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        // SAFETY: a hint that never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn prefetch_second(p: *const u8) {
        // SAFETY: a hint that never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }

    #[inline(always)]
    unsafe fn splat_int(x: i32) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    unsafe fn load_int(p: *const u8) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn repeat(p: *const u8) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn widen(p: *const u8) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn and(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_and_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn add_bytes(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_add_epi8(a, b) }
    }
    #[inline(always)]
    unsafe fn shift_right(a: __m512i, n: u32) -> __m512i {
        // SAFETY: see above.
        unsafe {
            match n {
                1 => _mm512_srli_epi16::<1>(a),
                2 => _mm512_srli_epi16::<2>(a),
                3 => _mm512_srli_epi16::<3>(a),
                4 => _mm512_srli_epi16::<4>(a),
                5 => _mm512_srli_epi16::<5>(a),
                6 => _mm512_srli_epi16::<6>(a),
                7 => _mm512_srli_epi16::<7>(a),
                _ => a,
            }
        }
    }
    #[inline(always)]
    unsafe fn shift_left(a: __m512i, n: u32) -> __m512i {
        // SAFETY: see above.
        unsafe {
            match n {
                1 => _mm512_slli_epi16::<1>(a),
                2 => _mm512_slli_epi16::<2>(a),
                3 => _mm512_slli_epi16::<3>(a),
                4 => _mm512_slli_epi16::<4>(a),
                5 => _mm512_slli_epi16::<5>(a),
                6 => _mm512_slli_epi16::<6>(a),
                7 => _mm512_slli_epi16::<7>(a),
                _ => a,
            }
        }
    }
    #[inline(always)]
    unsafe fn store_int(p: *mut u8, v: __m512i) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_si512(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn to_upper(a: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_slli_epi32::<16>(a) }
    }
    #[inline(always)]
    unsafe fn to_float(a: __m512i) -> Self::F {
        // SAFETY: see above.
        unsafe { _mm512_cvtepi32_ps(a) }
    }
    #[inline(always)]
    unsafe fn add_pairs(acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_dpwssd_epi32(acc, a, b) }
    }
    #[inline(always)]
    unsafe fn from_bits(a: __m512i) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_castsi512_ps(a) }
    }
    #[inline(always)]
    unsafe fn pairs(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_madd_epi16(a, b) }
    }
    #[inline(always)]
    unsafe fn table(values: &[u8; 16]) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(values.as_ptr().cast())) }
    }
    #[inline(always)]
    unsafe fn lookup(table: __m512i, index: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_shuffle_epi8(table, index) }
    }
    #[inline(always)]
    unsafe fn dot(acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_dpbusd_epi32(acc, w, x) }
    }
    #[inline(always)]
    unsafe fn dot_wide(acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_dpbusd_epi32(acc, w, x) }
    }
    #[inline(always)]
    unsafe fn largest_magnitude(x: *const f32) -> u32 {
        // SAFETY: see above; the level has AVX2.
        unsafe { super::quantize::largest_magnitude(x) }
    }
    #[inline(always)]
    unsafe fn to_bytes(x: *const f32, inverse: f32, q: *mut i8) -> [i16; 2] {
        // SAFETY: see above; the level has AVX2.
        unsafe { super::quantize::to_bytes(x, inverse, q) }
    }
}

/// Function table of the level.
pub(crate) static TABLE: Kernels = Kernels {
    pair_attention: Some(super::attention::TABLE),
    ..table::TABLE
};

/// Entry points of the level.
mod table {
    crate::kernel::table::define_level!(
        super::Avx512,
        crate::kernel::CpuLevel::Avx512,
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")];
        quantize #[target_feature(enable = "avx2,fma,f16c")]
    );
}
