//! SSE4.1 with SSSE3: four lanes; integer products by `pmaddubsw`, which adds pairs with saturation to 16 bits, kept
//! from saturating as with AVX2; conversions of half-precision numbers by arithmetic.

#![allow(unsafe_code, reason = "vector intrinsics")]

use std::arch::x86_64::*;

use crate::kernel::simd::Simd;

#[derive(Clone, Copy)]
pub(crate) struct Sse41;

// The safety of every block below is that of the trait: the CPU has SSE4.1 and SSSE3, and pointers are valid.
impl Simd for Sse41 {
    const FUSED: bool = false;
    const LANES: usize = 4;
    const REGISTERS: usize = 16;
    const PAIRS: bool = true;
    const WIDE_BIAS: i16 = 0;
    type F = __m128;
    type I = __m128i;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m128 {
        // SAFETY: see above.
        unsafe { _mm_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m128 {
        // SAFETY: see above.
        unsafe { _mm_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m128) {
        // SAFETY: see above.
        unsafe { _mm_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn add(a: __m128, b: __m128) -> __m128 {
        // SAFETY: see above.
        unsafe { _mm_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m128, b: __m128) -> __m128 {
        // SAFETY: see above.
        unsafe { _mm_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m128, b: __m128) -> __m128 {
        // SAFETY: see above.
        unsafe { _mm_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m128, b: __m128) -> __m128 {
        // SAFETY: see above.
        unsafe { _mm_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m128, b: __m128, c: __m128) -> __m128 {
        // SAFETY: see above.
        unsafe { _mm_add_ps(_mm_mul_ps(a, b), c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m128, b: __m128) -> __m128 {
        // SAFETY: see above.
        unsafe { _mm_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m128, b: __m128) -> __m128 {
        // SAFETY: see above.
        unsafe { _mm_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn round(a: __m128) -> __m128 {
        // SAFETY: see above.
        unsafe { _mm_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    unsafe fn pow2(n: __m128) -> __m128 {
        // SAFETY: see above.
        unsafe {
            let biased = _mm_add_epi32(_mm_cvtps_epi32(n), _mm_set1_epi32(127));
            _mm_castsi128_ps(_mm_slli_epi32::<23>(biased))
        }
    }
    #[inline(always)]
    unsafe fn sum(a: __m128) -> f32 {
        // SAFETY: see above.
        unsafe {
            let s = _mm_add_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)))
        }
    }
    #[inline(always)]
    unsafe fn largest(a: __m128) -> f32 {
        // SAFETY: see above.
        unsafe {
            let s = _mm_max_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)))
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> __m128 {
        // SAFETY: see above.
        unsafe {
            let half = _mm_cvtepu16_epi32(_mm_loadl_epi64(p.cast()));
            let sign = _mm_slli_epi32::<16>(_mm_and_si128(half, _mm_set1_epi32(0x8000)));
            let magnitude = _mm_slli_epi32::<13>(_mm_and_si128(half, _mm_set1_epi32(0x7fff)));
            // 2^112 moves the exponent bias from 15 to 127, except for infinities and NaNs.
            let rebias = _mm_castsi128_ps(_mm_set1_epi32((127 + 112) << 23));
            let finite = _mm_mul_ps(_mm_castsi128_ps(magnitude), rebias);
            let special = _mm_cmpgt_epi32(magnitude, _mm_set1_epi32(0x0f7f_ffff));
            let special = _mm_and_si128(special, _mm_set1_epi32(0x7f80_0000));
            _mm_or_ps(finite, _mm_castsi128_ps(_mm_or_si128(sign, special)))
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> __m128 {
        // SAFETY: see above.
        unsafe {
            let wide = _mm_cvtepu16_epi32(_mm_loadl_epi64(p.cast()));
            _mm_castsi128_ps(_mm_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> __m128 {
        // SAFETY: see above.
        unsafe {
            _mm_cvtepi32_ps(_mm_cvtepi8_epi32(_mm_cvtsi32_si128(
                p.cast::<i32>().read_unaligned(),
            )))
        }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u8, v: __m128) {
        // SAFETY: see above.
        unsafe {
            let mut values = [0.0f32; 4];
            Self::store(values.as_mut_ptr(), v);
            p.cast::<[u16; 4]>()
                .write_unaligned(values.map(|x| half::f16::from_f32_const(x).to_bits()));
        }
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
    unsafe fn splat_int(x: i32) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_set1_epi32(x) }
    }
    #[inline(always)]
    unsafe fn load_int(p: *const u8) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_loadu_si128(p.cast()) }
    }
    #[inline(always)]
    unsafe fn repeat(p: *const u8) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn widen(p: *const u8) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_cvtepu8_epi32(_mm_cvtsi32_si128(p.cast::<i32>().read_unaligned())) }
    }
    #[inline(always)]
    unsafe fn and(a: __m128i, b: __m128i) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_and_si128(a, b) }
    }
    #[inline(always)]
    unsafe fn or(a: __m128i, b: __m128i) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_or_si128(a, b) }
    }
    #[inline(always)]
    unsafe fn add_bytes(a: __m128i, b: __m128i) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_add_epi8(a, b) }
    }
    #[inline(always)]
    unsafe fn shift_right(a: __m128i, n: u32) -> __m128i {
        // SAFETY: see above.
        unsafe {
            match n {
                1 => _mm_srli_epi16::<1>(a),
                2 => _mm_srli_epi16::<2>(a),
                3 => _mm_srli_epi16::<3>(a),
                4 => _mm_srli_epi16::<4>(a),
                5 => _mm_srli_epi16::<5>(a),
                6 => _mm_srli_epi16::<6>(a),
                7 => _mm_srli_epi16::<7>(a),
                _ => a,
            }
        }
    }
    #[inline(always)]
    unsafe fn shift_left(a: __m128i, n: u32) -> __m128i {
        // SAFETY: see above.
        unsafe {
            match n {
                1 => _mm_slli_epi16::<1>(a),
                2 => _mm_slli_epi16::<2>(a),
                3 => _mm_slli_epi16::<3>(a),
                4 => _mm_slli_epi16::<4>(a),
                5 => _mm_slli_epi16::<5>(a),
                6 => _mm_slli_epi16::<6>(a),
                7 => _mm_slli_epi16::<7>(a),
                _ => a,
            }
        }
    }
    #[inline(always)]
    unsafe fn store_int(p: *mut u8, v: __m128i) {
        // SAFETY: see above.
        unsafe { _mm_storeu_si128(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn to_upper(a: __m128i) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_slli_epi32::<16>(a) }
    }
    #[inline(always)]
    unsafe fn to_float(a: __m128i) -> Self::F {
        // SAFETY: see above.
        unsafe { _mm_cvtepi32_ps(a) }
    }
    #[inline(always)]
    unsafe fn add_pairs(acc: __m128i, a: __m128i, b: __m128i) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_add_epi32(acc, Self::pairs(a, b)) }
    }
    #[inline(always)]
    unsafe fn from_bits(a: __m128i) -> __m128 {
        // SAFETY: see above.
        unsafe { _mm_castsi128_ps(a) }
    }
    #[inline(always)]
    unsafe fn pairs(a: __m128i, b: __m128i) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_madd_epi16(a, b) }
    }
    #[inline(always)]
    unsafe fn table(values: &[u8; 16]) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_loadu_si128(values.as_ptr().cast()) }
    }
    #[inline(always)]
    unsafe fn lookup(table: __m128i, index: __m128i) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_shuffle_epi8(table, index) }
    }
    #[inline(always)]
    unsafe fn dot(acc: __m128i, w: __m128i, x: __m128i) -> __m128i {
        // SAFETY: see above.
        unsafe { Self::add_pairs(acc, _mm_maddubs_epi16(w, x), _mm_set1_epi16(1)) }
    }
    #[inline(always)]
    unsafe fn dot_wide(acc: __m128i, w: __m128i, x: __m128i) -> __m128i {
        // SAFETY: see above.
        unsafe {
            Self::add_pairs(
                acc,
                Self::dot_pairs_wide(_mm_setzero_si128(), w, x),
                _mm_set1_epi16(1),
            )
        }
    }
    #[inline(always)]
    unsafe fn dot_pairs(acc: __m128i, w: __m128i, x: __m128i) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_add_epi16(acc, _mm_maddubs_epi16(w, x)) }
    }
    #[inline(always)]
    unsafe fn dot_pairs_wide(acc: __m128i, w: __m128i, x: __m128i) -> __m128i {
        // SAFETY: see above.
        unsafe {
            let w = _mm_xor_si128(w, _mm_set1_epi8(-128));
            _mm_add_epi16(acc, _mm_maddubs_epi16(_mm_abs_epi8(w), _mm_sign_epi8(x, w)))
        }
    }
}

/// Entry points and function table of the level.
pub(crate) mod table {
    crate::kernel::table::define_level!(
        super::Sse41,
        crate::kernel::CpuLevel::Sse41,
        #[target_feature(enable = "sse4.1,ssse3")];
        quantize #[target_feature(enable = "sse4.1,ssse3")]
    );
}
