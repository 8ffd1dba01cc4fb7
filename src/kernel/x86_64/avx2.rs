//! AVX2 with FMA and F16C: eight lanes; integer products by `vpmaddubsw`, which adds pairs with saturation to 16 bits.
//!
//! Weights below 64 times activations up to ±127 stay within 16 bits (2 · 63 · 127 = 16002). Whole-byte weights are made
//! signed, and their sign is moved to the activations: at most 2 · 128 · 127 = 32512, as activations are never −128.
//!
//! A level that differs in its products only shares the rest: [`Products`].

#![allow(unsafe_code, reason = "vector intrinsics")]

use std::arch::x86_64::*;
use std::marker::PhantomData;

use crate::kernel::simd::Simd;

/// The integer products of a level with the vectors of AVX2; as in [`Simd`].
pub(super) trait Products: Copy + 'static {
    const WIDE_BIAS: i16;
    const PAIRS: bool = false;
    unsafe fn dot(acc: __m256i, w: __m256i, x: __m256i) -> __m256i;
    unsafe fn dot_wide(acc: __m256i, w: __m256i, x: __m256i) -> __m256i;
    #[inline(always)]
    unsafe fn dot_pairs(acc: __m256i, _w: __m256i, _x: __m256i) -> __m256i {
        acc
    }
    #[inline(always)]
    unsafe fn dot_pairs_wide(acc: __m256i, _w: __m256i, _x: __m256i) -> __m256i {
        acc
    }
}

/// The vectors of AVX2 with the products `P`.
#[derive(Clone, Copy)]
pub(super) struct Ymm<P>(PhantomData<P>);

// The safety of every block below is that of the trait: the CPU has AVX2, FMA, F16C and what `P` needs, and pointers are
// valid.
impl<P: Products> Simd for Ymm<P> {
    const FUSED: bool = true;
    const LANES: usize = 8;
    const REGISTERS: usize = 16;
    const WIDE_BIAS: i16 = P::WIDE_BIAS;
    const PAIRS: bool = P::PAIRS;
    type F = __m256;
    type I = __m256i;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m256) {
        // SAFETY: see above.
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn round(a: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    unsafe fn pow2(n: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe {
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
        }
    }
    #[inline(always)]
    unsafe fn sum(a: __m256) -> f32 {
        // SAFETY: see above.
        unsafe {
            let s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let s = _mm_add_ps(s, _mm_movehl_ps(s, s));
            _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)))
        }
    }
    #[inline(always)]
    unsafe fn largest(a: __m256) -> f32 {
        // SAFETY: see above.
        unsafe {
            let s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let s = _mm_max_ps(s, _mm_movehl_ps(s, s));
            _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)))
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> __m256 {
        // SAFETY: see above.
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u8, v: __m256) {
        // SAFETY: see above.
        unsafe { _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT }>(v)) }
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
    unsafe fn splat_int(x: i32) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_set1_epi32(x) }
    }
    #[inline(always)]
    unsafe fn load_int(p: *const u8) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn repeat(p: *const u8) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn widen(p: *const u8) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast())) }
    }
    #[inline(always)]
    unsafe fn and(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_and_si256(a, b) }
    }
    #[inline(always)]
    unsafe fn or(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_or_si256(a, b) }
    }
    #[inline(always)]
    unsafe fn add_bytes(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_add_epi8(a, b) }
    }
    #[inline(always)]
    unsafe fn shift_right(a: __m256i, n: u32) -> __m256i {
        // SAFETY: see above.
        unsafe {
            match n {
                1 => _mm256_srli_epi16::<1>(a),
                2 => _mm256_srli_epi16::<2>(a),
                3 => _mm256_srli_epi16::<3>(a),
                4 => _mm256_srli_epi16::<4>(a),
                5 => _mm256_srli_epi16::<5>(a),
                6 => _mm256_srli_epi16::<6>(a),
                7 => _mm256_srli_epi16::<7>(a),
                _ => a,
            }
        }
    }
    #[inline(always)]
    unsafe fn shift_left(a: __m256i, n: u32) -> __m256i {
        // SAFETY: see above.
        unsafe {
            match n {
                1 => _mm256_slli_epi16::<1>(a),
                2 => _mm256_slli_epi16::<2>(a),
                3 => _mm256_slli_epi16::<3>(a),
                4 => _mm256_slli_epi16::<4>(a),
                5 => _mm256_slli_epi16::<5>(a),
                6 => _mm256_slli_epi16::<6>(a),
                7 => _mm256_slli_epi16::<7>(a),
                _ => a,
            }
        }
    }
    #[inline(always)]
    unsafe fn store_int(p: *mut u8, v: __m256i) {
        // SAFETY: see above.
        unsafe { _mm256_storeu_si256(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn to_upper(a: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_slli_epi32::<16>(a) }
    }
    #[inline(always)]
    unsafe fn to_float(a: __m256i) -> Self::F {
        // SAFETY: see above.
        unsafe { _mm256_cvtepi32_ps(a) }
    }
    #[inline(always)]
    unsafe fn add_pairs(acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_add_epi32(acc, Self::pairs(a, b)) }
    }
    #[inline(always)]
    unsafe fn from_bits(a: __m256i) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_castsi256_ps(a) }
    }
    #[inline(always)]
    unsafe fn pairs(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_madd_epi16(a, b) }
    }
    #[inline(always)]
    unsafe fn table(values: &[u8; 16]) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(values.as_ptr().cast())) }
    }
    #[inline(always)]
    unsafe fn lookup(table: __m256i, index: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_shuffle_epi8(table, index) }
    }
    #[inline(always)]
    unsafe fn dot(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { P::dot(acc, w, x) }
    }
    #[inline(always)]
    unsafe fn dot_wide(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { P::dot_wide(acc, w, x) }
    }
    #[inline(always)]
    unsafe fn dot_pairs(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { P::dot_pairs(acc, w, x) }
    }
    #[inline(always)]
    unsafe fn dot_pairs_wide(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { P::dot_pairs_wide(acc, w, x) }
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

/// Products of AVX2 itself.
#[derive(Clone, Copy)]
pub(super) struct Avx2;

impl Products for Avx2 {
    const WIDE_BIAS: i16 = 0;
    const PAIRS: bool = true;

    #[inline(always)]
    unsafe fn dot(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { in_order(widen(acc, _mm256_maddubs_epi16(w, x))) }
    }
    #[inline(always)]
    unsafe fn dot_wide(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { in_order(widen(acc, Self::dot_pairs_wide(_mm256_setzero_si256(), w, x))) }
    }
    #[inline(always)]
    unsafe fn dot_pairs(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { in_order(_mm256_add_epi16(acc, _mm256_maddubs_epi16(w, x))) }
    }
    #[inline(always)]
    unsafe fn dot_pairs_wide(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe {
            let w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
            in_order(_mm256_add_epi16(
                acc,
                _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)),
            ))
        }
    }
}

/// The same sum, of which the compiler does not know how it was made: it would make a tree of a chain of sums, for which there
/// are too few registers.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn in_order(mut sum: __m256i) -> __m256i {
    // SAFETY: no instruction.
    unsafe {
        std::arch::asm!("/* {0} */", inout(ymm_reg) sum, options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// acc + the sums of pairs of 16 bits.
#[inline(always)]
unsafe fn widen(acc: __m256i, pairs: __m256i) -> __m256i {
    // SAFETY: see above.
    unsafe { _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))) }
}

/// Entry points and function table of the level.
pub(crate) mod table {
    crate::kernel::table::define_level!(
        super::Ymm<super::Avx2>,
        crate::kernel::CpuLevel::Avx2,
        #[target_feature(enable = "avx2,fma,f16c")];
        quantize #[target_feature(enable = "avx2,fma,f16c")]
    );
}
