//! AVX-512 with VNNI: sixteen lanes, and `vpdpbusd`, which adds products of unsigned and signed bytes without
//! saturation.

#![allow(unsafe_code, reason = "vector intrinsics")]

use std::arch::x86_64::*;

use crate::kernel::chunk::{WeightChunk, XChunk};
use crate::kernel::generic::matmul::{Tile, tile_by_kind};
use crate::kernel::simd::{MIN, Simd, group_in_slot, pair_in_slot};

#[derive(Clone, Copy)]
pub(crate) struct Avx512;

/// Byte shuffles that bring scales to slot order.
static GROUPS: [i8; 16] = group_in_slot(Avx512::SLOT);
static PAIRS: [i8; 16] = pair_in_slot(Avx512::SLOT);

// The safety of every block below is that of the trait: the CPU has AVX-512 F, BW, DQ, VL and VNNI, and pointers are
// valid.
impl Simd for Avx512 {
    const LANES: usize = 16;
    /// The transposing sums of four steps of 64 values leave group 4 · step + i in lane 4 · i + step.
    const SLOT: [usize; 16] = [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15];
    const TILE: (usize, usize) = (4, 4);
    type F = __m512;
    type Acc = __m512;

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
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
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
    unsafe fn f16(bits: u16) -> f32 {
        // SAFETY: see above; the level's features include F16C.
        unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits)))) }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u8, v: __m512) {
        // SAFETY: see above.
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT }>(v)) }
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
            let fifth = _mm256_maskz_set1_epi8(bits, 16);
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
    unsafe fn acc_zero() -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn acc_sum(a: __m512) -> f32 {
        // SAFETY: see above.
        unsafe { Self::sum(a) }
    }
    #[inline(always)]
    unsafe fn dot_chunk<const KIND: u8, const R: usize, const C: usize>(
        acc: &mut [[__m512; C]; R],
        w: [*const WeightChunk; R],
        x: [*const XChunk; C],
        offset: f32,
    ) {
        // SAFETY: see above; chunks are aligned to 64 bytes.
        unsafe {
            for r in 0..R {
                let wp: *const __m512i = (&raw const (*w[r]).q).cast();
                let mut q = [_mm512_setzero_si512(); 4];
                for i in 0..4 {
                    q[i] = _mm512_load_si512(wp.add(i));
                }
                let ws = lanes(&raw const (*w[r]).s);
                for c in 0..C {
                    let xp: *const __m512i = (&raw const (*x[c]).q).cast();
                    let mut d = [_mm512_setzero_si512(); 4];
                    for i in 0..4 {
                        d[i] = _mm512_dpbusd_epi32(d[i], q[i], _mm512_load_si512(xp.add(i)));
                    }
                    // Adds the four lanes of each group while transposing steps and groups.
                    let d01 = _mm512_add_epi32(
                        _mm512_unpacklo_epi32(d[0], d[1]),
                        _mm512_unpackhi_epi32(d[0], d[1]),
                    );
                    let d23 = _mm512_add_epi32(
                        _mm512_unpacklo_epi32(d[2], d[3]),
                        _mm512_unpackhi_epi32(d[2], d[3]),
                    );
                    let sums =
                        _mm512_add_epi32(_mm512_unpacklo_epi64(d01, d23), _mm512_unpackhi_epi64(d01, d23));
                    let mut dot = _mm512_cvtepi32_ps(sums);
                    if KIND != MIN {
                        // Integers below 2^24: exact.
                        dot = _mm512_fnmadd_ps(_mm512_set1_ps(offset), lanes(&raw const (*x[c]).sum), dot);
                    }
                    let scale = _mm512_mul_ps(ws, lanes(&raw const (*x[c]).s));
                    acc[r][c] = _mm512_fmadd_ps(scale, dot, acc[r][c]);
                    if KIND == MIN {
                        let m = lanes(&raw const (*w[r]).m);
                        acc[r][c] = _mm512_fmadd_ps(m, lanes(&raw const (*x[c]).scaled_sum), acc[r][c]);
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

/// Sixteen scales or sums in slot order.
#[inline(always)]
unsafe fn lanes(p: *const [f32; 16]) -> __m512 {
    // SAFETY: the caller gives an array of an aligned chunk.
    unsafe { _mm512_load_ps(p.cast()) }
}

/// d times 16 signed bytes.
#[inline(always)]
unsafe fn scaled(bytes: __m128i, d: f32, out: &mut [f32; 16]) {
    // SAFETY: see above; `out` has 16 values.
    unsafe {
        let s = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
        _mm512_storeu_ps(out.as_mut_ptr(), _mm512_mul_ps(_mm512_set1_ps(d), s));
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn tile(kind: u8, t: &Tile) {
    // SAFETY: passes the caller's promise on.
    unsafe { tile_by_kind::<Avx512, 4>(kind, t) }
}

/// Entry points and function table of the level.
pub(crate) mod table {
    crate::kernel::table::define_level!(
        super::Avx512,
        crate::kernel::CpuLevel::Avx512,
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    );
}
