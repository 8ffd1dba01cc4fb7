//! Quantizing activations with AVX2, for every level that has it: the bits are those of the portable functions.

#![allow(unsafe_code, reason = "vector intrinsics")]

use std::arch::x86_64::*;

/// Bits of the largest magnitude of 32 values.
///
/// # Safety
/// The CPU has AVX2; 32 values at `x`.
#[inline(always)]
pub(super) unsafe fn largest_magnitude(x: *const f32) -> u32 {
    // SAFETY: the caller's promise.
    unsafe {
        let mut m = _mm256_setzero_si256();
        for i in 0..4 {
            let bits = _mm256_loadu_si256(x.add(8 * i).cast());
            m = _mm256_max_epu32(m, _mm256_and_si256(bits, _mm256_set1_epi32(i32::MAX)));
        }
        let m = _mm_max_epu32(_mm256_castsi256_si128(m), _mm256_extracti128_si256::<1>(m));
        let m = _mm_max_epu32(m, _mm_shuffle_epi32::<0b1110>(m));
        let m = _mm_max_epu32(m, _mm_shuffle_epi32::<1>(m));
        _mm_cvtsi128_si32(m) as u32
    }
}

/// 32 values to bytes, as [`crate::kernel::generic::quantize::to_i8`] does; the sum of each half.
///
/// # Safety
/// The CPU has AVX2; 32 values at `x`, room for 32 bytes at `q`.
#[inline(always)]
pub(super) unsafe fn to_bytes(x: *const f32, inverse: f32, q: *mut i8) -> [i16; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        // After adding 1.5 · 2^23 the low byte is the integer's; packing bytes below 256 keeps them as they are.
        let (inverse, round) = (_mm256_set1_ps(inverse), _mm256_set1_ps(12_582_912.0));
        let mut v = [_mm256_setzero_si256(); 4];
        for i in 0..4 {
            let rounded = _mm256_add_ps(_mm256_mul_ps(_mm256_loadu_ps(x.add(8 * i)), inverse), round);
            v[i] = _mm256_and_si256(_mm256_castps_si256(rounded), _mm256_set1_epi32(0xff));
        }
        let (a, b) = (_mm256_packus_epi32(v[0], v[1]), _mm256_packus_epi32(v[2], v[3]));
        // Packing works within halves of a vector: its eight groups of four values come as 0 2 4 6 1 3 5 7.
        let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        let bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(a, b), order);
        _mm256_storeu_si256(q.cast(), bytes);
        // Sums of eight bytes each, of values raised by 128 so that none is negative.
        let raised = _mm256_xor_si256(bytes, _mm256_set1_epi8(-128));
        let sums = _mm256_sad_epu8(raised, _mm256_setzero_si256());
        let sums = _mm256_add_epi64(sums, _mm256_shuffle_epi32::<0b1110>(sums));
        let half = |v| (_mm_cvtsi128_si32(v) - 16 * 128) as i16;
        [
            half(_mm256_castsi256_si128(sums)),
            half(_mm256_extracti128_si256::<1>(sums)),
        ]
    }
}
