//! The vector operations the generic kernels are written over; one implementation per CPU level.
//!
//! Implementations are thin: each function is one or a few instructions, always inlined into an entry point that
//! enables the level's target features.

#![allow(unsafe_code, reason = "vector intrinsics and raw loads of the kernels")]

use super::chunk::{WeightChunk, XChunk};

/// Weights whose value is `s · (q − offset)` with `q < 64`.
pub(crate) const OFFSET: u8 = 0;
/// Weights whose value is `s · q + m` with `q < 64`.
pub(crate) const MIN: u8 = 1;
/// Weights whose value is `s · (q − 128)` with `q` over the whole byte.
pub(crate) const WIDE: u8 = 2;

/// One level's vectors of `f32` and its integer dot product.
///
/// # Safety
/// Every method needs a CPU with the level's features; pointers must be valid for [`Simd::LANES`] elements (or as
/// documented), without alignment unless stated.
pub(crate) trait Simd: Copy + 'static {
    /// `f32` per vector, at most 16.
    const LANES: usize;
    /// Where the scale of group `g` (16 values) lies among the 16 scales of a chunk, so that it meets the integer
    /// sum of its group in the same lane.
    const SLOT: [usize; 16];
    /// Rows and columns of the integer micro-tile; rows divide [`super::chunk::ROW_TILE`].
    const TILE: (usize, usize);
    /// A vector of `f32`.
    type F: Copy;
    /// Running sum of one weight row times one activation row.
    type Acc: Copy;

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
    /// One binary16 to `f32`.
    unsafe fn f16(bits: u16) -> f32;
    /// To binary16, to nearest even.
    unsafe fn store_f16(p: *mut u8, v: Self::F);

    /// Looks up the low, then the high nibbles of 16 bytes.
    unsafe fn lookup(src: &[u8; 16], table: &[u8; 16], out: &mut [u8; 32]);
    /// The low, then the high nibbles of 16 bytes, each with bit `i` of `bits` above it as its fifth.
    unsafe fn five_bits(src: &[u8; 16], bits: u32, out: &mut [u8; 32]);
    /// d times each of 16 signed bytes (in the order of their groups), to slot order.
    unsafe fn scales(bytes: [i8; 16], d: f32, out: &mut [f32; 16]);
    /// d times each of 8 signed bytes (one for every two groups), to slot order.
    unsafe fn scales32(bytes: [u8; 8], d: f32, out: &mut [f32; 16]);
    /// Asks for the cache line at `p`, which may lie anywhere.
    unsafe fn prefetch(p: *const u8);

    unsafe fn acc_zero() -> Self::Acc;
    unsafe fn acc_sum(a: Self::Acc) -> f32;
    /// Adds the products of `R` weight chunks and `C` activation chunks; `KIND` is one of [`OFFSET`], [`MIN`],
    /// [`WIDE`]. The integer part is exact.
    unsafe fn dot_chunk<const KIND: u8, const R: usize, const C: usize>(
        acc: &mut [[Self::Acc; C]; R],
        w: [*const WeightChunk; R],
        x: [*const XChunk; C],
        offset: f32,
    );
    /// The micro-tile driver of [`super::generic::matmul`], compiled with the level's features.
    unsafe fn tile(kind: u8, t: &super::generic::matmul::Tile);
}

/// The inverse of a slot order as bytes: which group lies in each slot.
pub(crate) const fn group_in_slot(slot: [usize; 16]) -> [i8; 16] {
    let mut groups = [0; 16];
    let mut g = 0;
    while g < 16 {
        groups[slot[g]] = g as i8;
        g += 1;
    }
    groups
}

/// Which of 8 scales of 32 values belongs to each slot.
pub(crate) const fn pair_in_slot(slot: [usize; 16]) -> [i8; 16] {
    let mut pairs = group_in_slot(slot);
    let mut i = 0;
    while i < 16 {
        pairs[i] /= 2;
        i += 1;
    }
    pairs
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
