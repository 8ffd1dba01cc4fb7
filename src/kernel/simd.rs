//! The vector operations the generic kernels are written over; one implementation per CPU level.
//!
//! Implementations are thin: each function is one or a few instructions, always inlined into an entry point that
//! enables the level's target features.

#![allow(unsafe_code, reason = "vector intrinsics and raw loads of the kernels")]

use super::generic::quantize;

/// One level's vectors of `f32`, and of 32-bit lanes of four bytes for integer products.
///
/// # Safety
/// Every method needs a CPU with the level's features; pointers must be valid for [`Simd::LANES`] elements (or as
/// documented), without alignment unless stated.
pub(crate) trait Simd: Copy + 'static {
    /// `f32` per vector, at most 16.
    const LANES: usize;
    /// Vector registers to fill.
    const REGISTERS: usize;
    /// Most columns of a tile of the integer products.
    const MAX_COLUMNS: usize = if Self::REGISTERS >= 32 { 8 } else { 4 };
    /// Vectors of rows in a tile of 4 or 6 columns.
    const TILE_ROWS: usize = if Self::REGISTERS >= 32 { 2 } else { 1 };
    /// Tiles of columns up to which weights are unpacked for each tile anew, rather than once and for all to memory.
    const STREAMED_TILES: usize = if Self::LANES >= 16 { 2 } else { 1 };
    /// What of the 128 that was added to each weight [`Simd::dot_wide`] leaves to be subtracted: 128 or 0.
    const WIDE_BIAS: i16;
    /// Whether products of bytes are first added in pairs to 16 bits, where some of them can wait: [`Simd::dot_pairs`].
    const PAIRS: bool = false;
    /// Whether [`Simd::fma`] rounds once.
    const FUSED: bool;
    /// A vector of `f32`.
    type F: Copy;
    /// A vector of as many lanes of 32 bits: an integer, two of 16 bits, or four bytes.
    type I: Copy;

    unsafe fn splat(x: f32) -> Self::F;
    unsafe fn load(p: *const f32) -> Self::F;
    unsafe fn store(p: *mut f32, v: Self::F);
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a · b + c`, fused where the level has it.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger; `b` where one is NaN.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// The smaller; `b` where one is NaN.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    /// To the nearest integer, ties to even, for magnitudes below 2²².
    unsafe fn round(a: Self::F) -> Self::F;
    /// 2ⁿ for integral `n` in −126…127.
    unsafe fn pow2(n: Self::F) -> Self::F;
    /// Sum of the lanes in a fixed order.
    unsafe fn sum(a: Self::F) -> f32;
    /// Largest lane.
    unsafe fn largest(a: Self::F) -> f32;
    /// Binary16 values to `f32`.
    unsafe fn load_f16(p: *const u8) -> Self::F;
    /// bfloat16 values to `f32`.
    unsafe fn load_bf16(p: *const u8) -> Self::F;
    /// Signed bytes to `f32`.
    unsafe fn load_i8(p: *const u8) -> Self::F;
    /// To binary16, to nearest even.
    unsafe fn store_f16(p: *mut u8, v: Self::F);

    /// Asks for the cache line at `p`, which may lie anywhere.
    unsafe fn prefetch(p: *const u8);
    /// The same, no nearer than to the second cache: it waits for more lines at a time than the first.
    unsafe fn prefetch_second(p: *const u8);

    /// Every lane set to `x`.
    unsafe fn splat_int(x: i32) -> Self::I;
    /// Four bytes for each lane.
    unsafe fn load_int(p: *const u8) -> Self::I;
    /// The same four bytes for every lane.
    unsafe fn repeat(p: *const u8) -> Self::I;
    /// One unsigned byte for each lane.
    unsafe fn widen(p: *const u8) -> Self::I;
    unsafe fn store_int(p: *mut u8, v: Self::I);
    unsafe fn and(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn or(a: Self::I, b: Self::I) -> Self::I;
    /// Sums of bytes, without carries.
    unsafe fn add_bytes(a: Self::I, b: Self::I) -> Self::I;
    /// Shifts every 16 bits right by `n`, a constant of 0 to 7.
    unsafe fn shift_right(a: Self::I, n: u32) -> Self::I;
    /// Shifts every 16 bits left by `n`, a constant of 0 to 7.
    unsafe fn shift_left(a: Self::I, n: u32) -> Self::I;
    /// Moves the lower 16 bits of every lane to its upper ones.
    unsafe fn to_upper(a: Self::I) -> Self::I;
    /// Integers to `f32`.
    unsafe fn to_float(a: Self::I) -> Self::F;
    /// Bits as `f32`.
    unsafe fn from_bits(a: Self::I) -> Self::F;
    /// Products of signed 16-bit integers, added in pairs.
    unsafe fn pairs(a: Self::I, b: Self::I) -> Self::I;
    /// acc + [`Simd::pairs`].
    unsafe fn add_pairs(acc: Self::I, a: Self::I, b: Self::I) -> Self::I;
    /// A table for [`Simd::lookup`].
    unsafe fn table(values: &[u8; 16]) -> Self::I;
    /// The values of a table for bytes below 16.
    unsafe fn lookup(table: Self::I, index: Self::I) -> Self::I;
    /// acc + the products of four unsigned bytes below 64 of `w` and four signed bytes of `x`. Exact.
    unsafe fn dot(acc: Self::I, w: Self::I, x: Self::I) -> Self::I;
    /// acc + the products of four bytes of `w`, of which 128 − [`Simd::WIDE_BIAS`] is subtracted, and four signed bytes of
    /// `x`, none of which is −128. Exact.
    unsafe fn dot_wide(acc: Self::I, w: Self::I, x: Self::I) -> Self::I;
    /// The products of [`Simd::dot`], added in pairs to those of 16 bits of `acc`, which must have room for them; where
    /// [`Simd::PAIRS`].
    #[inline(always)]
    unsafe fn dot_pairs(acc: Self::I, _w: Self::I, _x: Self::I) -> Self::I {
        acc
    }
    /// The same of [`Simd::dot_wide`].
    #[inline(always)]
    unsafe fn dot_pairs_wide(acc: Self::I, _w: Self::I, _x: Self::I) -> Self::I {
        acc
    }

    /// Bits of the largest magnitude of 32 values.
    #[inline(always)]
    unsafe fn largest_magnitude(x: *const f32) -> u32 {
        // SAFETY: the caller gives 32 values.
        unsafe { quantize::largest_magnitude(std::slice::from_raw_parts(x, 32)).to_bits() }
    }
    /// 32 values times `inverse` to signed bytes, the same at every level; the sum of each half.
    #[inline(always)]
    unsafe fn to_bytes(x: *const f32, inverse: f32, q: *mut i8) -> [i16; 2] {
        // SAFETY: the caller gives 32 values and room for as many bytes.
        unsafe { quantize::to_bytes(&*x.cast(), inverse, &mut *q.cast()) }
    }
}

/// Loads `n < LANES` values, the other lanes zero.
#[inline(always)]
pub(crate) unsafe fn load_part<S: Simd>(p: *const f32, n: usize) -> S::F {
    let mut buffer = [0.0f32; 16];
    // SAFETY: the caller gives `n` readable values, and n < LANES <= 16.
    unsafe {
        std::ptr::copy_nonoverlapping(p, buffer.as_mut_ptr(), n);
        S::load(buffer.as_ptr())
    }
}

/// Stores the first `n < LANES` lanes.
#[inline(always)]
pub(crate) unsafe fn store_part<S: Simd>(p: *mut f32, v: S::F, n: usize) {
    let mut buffer = [0.0f32; 16];
    // SAFETY: the caller gives `n` writable values, and n < LANES <= 16.
    unsafe {
        S::store(buffer.as_mut_ptr(), v);
        std::ptr::copy_nonoverlapping(buffer.as_ptr(), p, n);
    }
}
