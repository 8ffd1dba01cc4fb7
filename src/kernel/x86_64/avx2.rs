//! AVX2 with FMA and F16C: eight lanes; integer products by `vpmaddubsw`, which adds pairs with saturation to 16 bits.
//!
//! Weights below 64 times activations up to ±127 stay within 16 bits (2 · 63 · 127 = 16002). Whole-byte weights are made
//! signed, and their sign is moved to the activations: at most 2 · 128 · 127 = 32512, as activations are never −128.

#![allow(unsafe_code, reason = "vector intrinsics")]

use std::arch::x86_64::*;

use crate::kernel::chunk::{WeightChunk, XChunk};
use crate::kernel::generic::matmul::{Tile, tile_by_kind};
use crate::kernel::simd::{MIN, Simd, WIDE, group_in_slot, pair_in_slot};

#[derive(Clone, Copy)]
pub(crate) struct Avx2;

/// Byte shuffles that bring scales to slot order.
static GROUPS: [i8; 16] = group_in_slot(Avx2::SLOT);
static PAIRS: [i8; 16] = pair_in_slot(Avx2::SLOT);

// The safety of every block below is that of the trait: the CPU has AVX2, FMA and F16C, and pointers are valid.
impl Simd for Avx2 {
    const LANES: usize = 8;
    /// The pairwise sums of four steps of 32 values leave the even groups of a half chunk in the lower 128 bits, the odd
    /// ones in the upper.
    const SLOT: [usize; 16] = [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15];
    const TILE: (usize, usize) = (2, 4);
    type F = __m256;
    type Acc = __m256;

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
    unsafe fn f16(bits: u16) -> f32 {
        // SAFETY: see above.
        unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits)))) }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u8, v: __m256) {
        // SAFETY: see above.
        unsafe { _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT }>(v)) }
    }
    #[inline(always)]
    unsafe fn lookup(src: &[u8; 16], table: &[u8; 16], out: &mut [u8; 32]) {
        // SAFETY: see above.
        unsafe {
            let (b, table) = (
                _mm_loadu_si128(src.as_ptr().cast()),
                _mm_loadu_si128(table.as_ptr().cast()),
            );
            let nibble = _mm_set1_epi8(15);
            let low = _mm_shuffle_epi8(table, _mm_and_si128(b, nibble));
            let high = _mm_shuffle_epi8(table, _mm_and_si128(_mm_srli_epi16::<4>(b), nibble));
            _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm256_set_m128i(high, low));
        }
    }
    #[inline(always)]
    unsafe fn five_bits(src: &[u8; 16], bits: u32, out: &mut [u8; 32]) {
        // SAFETY: see above.
        unsafe {
            let b = _mm_loadu_si128(src.as_ptr().cast());
            let both = _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16::<4>(b), b), _mm256_set1_epi8(15));
            // Each byte of the word to eight lanes, then the lane's own bit of it.
            let byte = _mm256_setr_epi64x(
                0,
                0x0101_0101_0101_0101,
                0x0202_0202_0202_0202,
                0x0303_0303_0303_0303,
            );
            let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
            let spread = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(bits as i32), byte), bit);
            let fifth = _mm256_and_si256(_mm256_cmpeq_epi8(spread, bit), _mm256_set1_epi8(16));
            _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm256_or_si256(both, fifth));
        }
    }
    #[inline(always)]
    unsafe fn scales(bytes: [i8; 16], d: f32, out: &mut [f32; 16]) {
        // SAFETY: see above.
        unsafe {
            let order = _mm_loadu_si128((&raw const GROUPS).cast());
            scaled(
                _mm_shuffle_epi8(_mm_loadu_si128(bytes.as_ptr().cast()), order),
                d,
                out,
            );
        }
    }
    #[inline(always)]
    unsafe fn scales32(bytes: [u8; 8], d: f32, out: &mut [f32; 16]) {
        // SAFETY: see above.
        unsafe {
            let order = _mm_loadu_si128((&raw const PAIRS).cast());
            scaled(
                _mm_shuffle_epi8(_mm_cvtsi64_si128(i64::from_le_bytes(bytes)), order),
                d,
                out,
            );
        }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        // SAFETY: a hint that never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }

    #[inline(always)]
    unsafe fn acc_zero() -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn acc_sum(a: __m256) -> f32 {
        // SAFETY: see above.
        unsafe { Self::sum(a) }
    }
    #[inline(always)]
    unsafe fn dot_chunk<const KIND: u8, const R: usize, const C: usize>(
        acc: &mut [[__m256; C]; R],
        w: [*const WeightChunk; R],
        x: [*const XChunk; C],
        offset: f32,
    ) {
        // SAFETY: see above; chunks are aligned to 64 bytes.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            for half in 0..2 {
                for r in 0..R {
                    let wp: *const __m256i = (&raw const (*w[r]).q).cast::<__m256i>().add(4 * half);
                    let mut q = [_mm256_setzero_si256(); 4];
                    for i in 0..4 {
                        q[i] = _mm256_load_si256(wp.add(i));
                        if KIND == WIDE {
                            q[i] = _mm256_xor_si256(q[i], _mm256_set1_epi8(-128));
                        }
                    }
                    let ws = _mm256_load_ps((&raw const (*w[r]).s).cast::<f32>().add(8 * half));
                    for c in 0..C {
                        let xp: *const __m256i = (&raw const (*x[c]).q).cast::<__m256i>().add(4 * half);
                        let mut d = [_mm256_setzero_si256(); 4];
                        for i in 0..4 {
                            let xq = _mm256_load_si256(xp.add(i));
                            let pairs = if KIND == WIDE {
                                _mm256_maddubs_epi16(_mm256_abs_epi8(q[i]), _mm256_sign_epi8(xq, q[i]))
                            } else {
                                _mm256_maddubs_epi16(q[i], xq)
                            };
                            d[i] = _mm256_madd_epi16(pairs, ones);
                        }
                        let sums =
                            _mm256_hadd_epi32(_mm256_hadd_epi32(d[0], d[1]), _mm256_hadd_epi32(d[2], d[3]));
                        let mut dot = _mm256_cvtepi32_ps(sums);
                        if KIND != WIDE && KIND != MIN {
                            // Integers below 2^24: exact.
                            dot = _mm256_fnmadd_ps(
                                _mm256_set1_ps(offset),
                                half_of(half, &raw const (*x[c]).sum),
                                dot,
                            );
                        }
                        let scale = _mm256_mul_ps(ws, half_of(half, &raw const (*x[c]).s));
                        acc[r][c] = _mm256_fmadd_ps(scale, dot, acc[r][c]);
                        if KIND == MIN {
                            let m = half_of(half, &raw const (*w[r]).m);
                            acc[r][c] =
                                _mm256_fmadd_ps(m, half_of(half, &raw const (*x[c]).scaled_sum), acc[r][c]);
                        }
                    }
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn tile(kind: u8, t: &Tile) {
        // SAFETY: passes the caller's promise on.
        unsafe { tile(kind, t) }
    }
}

/// One half of 16 scales or sums in slot order.
#[inline(always)]
unsafe fn half_of(half: usize, p: *const [f32; 16]) -> __m256 {
    // SAFETY: the caller gives an array of an aligned chunk.
    unsafe { _mm256_load_ps(p.cast::<f32>().add(8 * half)) }
}

/// d times 16 signed bytes.
#[inline(always)]
unsafe fn scaled(bytes: __m128i, d: f32, out: &mut [f32; 16]) {
    // SAFETY: see above; `out` has 16 values.
    unsafe {
        let d = _mm256_set1_ps(d);
        let low = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
        let high = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes)));
        _mm256_storeu_ps(out.as_mut_ptr(), _mm256_mul_ps(d, low));
        _mm256_storeu_ps(out.as_mut_ptr().add(8), _mm256_mul_ps(d, high));
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile(kind: u8, t: &Tile) {
    // SAFETY: passes the caller's promise on.
    unsafe { tile_by_kind::<Avx2, 2>(kind, t) }
}

/// Entry points and function table of the level.
pub(crate) mod table {
    crate::kernel::table::define_level!(
        super::Avx2,
        crate::kernel::CpuLevel::Avx2,
        #[target_feature(enable = "avx2,fma,f16c")]
    );
}
