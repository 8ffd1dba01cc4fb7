//! Unpacks the block formats into [`WeightChunk`]s: plain loops over fixed sizes, which compile to vector code inside
//! an entry point with the level's features. The bit layouts are described in [`crate::quant`].
//!
//! Scales and minima are computed by the operations of the scalar dequantization, so that s · (q − offset) + m equals
//! it bit for bit. No closures here: one that is not inlined would be compiled without the level's features.

#![allow(unsafe_code, reason = "calls the unsafe vector trait")]
#![allow(
    clippy::needless_range_loop,
    reason = "fixed-size loops: the index form is the one compilers turn into vectors"
)]

use crate::kernel::chunk::WeightChunk;
use crate::kernel::simd::{MIN, OFFSET, Simd, WIDE};
use crate::quant::{iq4_nl, iq4_xs, mxfp4, q3_k, q4_k};

/// A quantized weight type as the matrix kernels see it.
pub(crate) trait Format {
    /// Bytes per block.
    const BYTES: usize;
    /// Blocks per chunk of 256 values: 8 or 1.
    const BLOCKS: usize;
    /// One of [`OFFSET`], [`MIN`], [`WIDE`].
    const KIND: u8;
    /// Subtracted from `q`; 0 for [`MIN`].
    const ZERO_POINT: f32;
    /// Unpacks block `i` of the chunk.
    ///
    /// # Safety
    /// The CPU has the features of `S`; `b.len() == BYTES`; `i < BLOCKS`.
    unsafe fn block<S: Simd>(b: &[u8], i: usize, w: &mut WeightChunk);
}

/// Unpacks the whole blocks of `src`, at most [`Format::BLOCKS`], and zeroes the rest of the chunk.
///
/// # Safety
/// The CPU has the features of `S`.
#[inline(always)]
pub(crate) unsafe fn chunk<S: Simd, F: Format>(src: &[u8], w: &mut WeightChunk) {
    if F::BLOCKS == 1 {
        // SAFETY: the caller has the features; the length is checked by the slice.
        unsafe { F::block::<S>(&src[..F::BYTES], 0, w) };
    } else if src.len() == F::BYTES * F::BLOCKS {
        for i in 0..F::BLOCKS {
            // SAFETY: as above.
            unsafe { F::block::<S>(&src[F::BYTES * i..F::BYTES * (i + 1)], i, w) };
        }
    } else {
        *w = WeightChunk::ZERO;
        for (i, b) in src.chunks_exact(F::BYTES).enumerate() {
            // SAFETY: as above.
            unsafe { F::block::<S>(b, i, w) };
        }
    }
}

#[inline(always)]
unsafe fn f16_at<S: Simd>(b: &[u8], at: usize) -> f32 {
    // SAFETY: the caller has the features of `S`.
    unsafe { S::f16(u16::from_le_bytes([b[at], b[at + 1]])) }
}

/// Scale of the 32 values of block `i`: two groups.
#[inline(always)]
fn scale32<S: Simd>(a: &mut [f32; 16], i: usize, value: f32) {
    a[S::SLOT[2 * i]] = value;
    a[S::SLOT[2 * i + 1]] = value;
}

/// 16 bytes to 32 nibbles, the low ones first.
#[inline(always)]
fn nibbles(src: &[u8], q: &mut [u8]) {
    let src: &[u8; 16] = src[..16].as_array_ref();
    let q = &mut q[..32];
    for j in 0..16 {
        q[j] = src[j] & 15;
        q[j + 16] = src[j] >> 4;
    }
}

/// 16 bytes of nibbles with a fifth bit each.
#[inline(always)]
unsafe fn five_bits<S: Simd>(src: &[u8], bits: u32, q: &mut [u8]) {
    let q = &mut q.as_chunks_mut::<32>().0[0];
    // SAFETY: the caller has the features of `S`.
    unsafe { S::five_bits(src.as_array_ref(), bits, q) };
}

/// Codebook values of 16 bytes of indices.
#[inline(always)]
unsafe fn lookup<S: Simd>(src: &[u8], table: &[u8; 16], q: &mut [u8]) {
    let q = &mut q.as_chunks_mut::<32>().0[0];
    // SAFETY: the caller has the features of `S`.
    unsafe { S::lookup(src.as_array_ref(), table, q) };
}

/// Codebook moved to unsigned values.
const fn shifted(codebook: [i8; 16], by: i16) -> [u8; 16] {
    let mut t = [0; 16];
    let mut i = 0;
    while i < 16 {
        t[i] = (codebook[i] as i16 + by) as u8;
        i += 1;
    }
    t
}

/// A fixed-size view of a slice whose length has been checked by slicing.
trait ArrayRef {
    fn as_array_ref<const N: usize>(&self) -> &[u8; N];
}
impl ArrayRef for [u8] {
    #[inline(always)]
    fn as_array_ref<const N: usize>(&self) -> &[u8; N] {
        &self.as_chunks::<N>().0[0]
    }
}

pub(crate) struct Q4_0;
impl Format for Q4_0 {
    const BYTES: usize = 18;
    const BLOCKS: usize = 8;
    const KIND: u8 = OFFSET;
    const ZERO_POINT: f32 = 8.0;
    #[inline(always)]
    unsafe fn block<S: Simd>(b: &[u8], i: usize, w: &mut WeightChunk) {
        nibbles(&b[2..18], &mut w.q[32 * i..32 * i + 32]);
        // SAFETY: the caller has the features of `S`.
        scale32::<S>(&mut w.s, i, unsafe { f16_at::<S>(b, 0) });
    }
}

pub(crate) struct Q4_1;
impl Format for Q4_1 {
    const BYTES: usize = 20;
    const BLOCKS: usize = 8;
    const KIND: u8 = MIN;
    const ZERO_POINT: f32 = 0.0;
    #[inline(always)]
    unsafe fn block<S: Simd>(b: &[u8], i: usize, w: &mut WeightChunk) {
        nibbles(&b[4..20], &mut w.q[32 * i..32 * i + 32]);
        // SAFETY: the caller has the features of `S`.
        scale32::<S>(&mut w.s, i, unsafe { f16_at::<S>(b, 0) });
        // SAFETY: as above.
        scale32::<S>(&mut w.m, i, unsafe { f16_at::<S>(b, 2) });
    }
}

pub(crate) struct Q5_0;
impl Format for Q5_0 {
    const BYTES: usize = 22;
    const BLOCKS: usize = 8;
    const KIND: u8 = OFFSET;
    const ZERO_POINT: f32 = 16.0;
    #[inline(always)]
    unsafe fn block<S: Simd>(b: &[u8], i: usize, w: &mut WeightChunk) {
        let q = &mut w.q[32 * i..32 * i + 32];
        let bits = u32::from_le_bytes([b[2], b[3], b[4], b[5]]);
        // SAFETY: the caller has the features of `S`.
        unsafe { five_bits::<S>(&b[6..22], bits, q) };
        // SAFETY: the caller has the features of `S`.
        scale32::<S>(&mut w.s, i, unsafe { f16_at::<S>(b, 0) });
    }
}

pub(crate) struct Q5_1;
impl Format for Q5_1 {
    const BYTES: usize = 24;
    const BLOCKS: usize = 8;
    const KIND: u8 = MIN;
    const ZERO_POINT: f32 = 0.0;
    #[inline(always)]
    unsafe fn block<S: Simd>(b: &[u8], i: usize, w: &mut WeightChunk) {
        let q = &mut w.q[32 * i..32 * i + 32];
        let bits = u32::from_le_bytes([b[4], b[5], b[6], b[7]]);
        // SAFETY: the caller has the features of `S`.
        unsafe { five_bits::<S>(&b[8..24], bits, q) };
        // SAFETY: the caller has the features of `S`.
        scale32::<S>(&mut w.s, i, unsafe { f16_at::<S>(b, 0) });
        // SAFETY: as above.
        scale32::<S>(&mut w.m, i, unsafe { f16_at::<S>(b, 2) });
    }
}

pub(crate) struct Q8_0;
impl Format for Q8_0 {
    const BYTES: usize = 34;
    const BLOCKS: usize = 8;
    const KIND: u8 = WIDE;
    const ZERO_POINT: f32 = 128.0;
    #[inline(always)]
    unsafe fn block<S: Simd>(b: &[u8], i: usize, w: &mut WeightChunk) {
        let src: &[u8; 32] = b[2..34].as_array_ref();
        let q = &mut w.q[32 * i..32 * i + 32];
        for j in 0..32 {
            q[j] = src[j] ^ 0x80;
        }
        // SAFETY: the caller has the features of `S`.
        scale32::<S>(&mut w.s, i, unsafe { f16_at::<S>(b, 0) });
    }
}

pub(crate) struct Iq4Nl;
impl Format for Iq4Nl {
    const BYTES: usize = 18;
    const BLOCKS: usize = 8;
    const KIND: u8 = WIDE;
    const ZERO_POINT: f32 = 128.0;
    #[inline(always)]
    unsafe fn block<S: Simd>(b: &[u8], i: usize, w: &mut WeightChunk) {
        const TABLE: [u8; 16] = shifted(iq4_nl::CODEBOOK, 128);
        // SAFETY: the caller has the features of `S`.
        unsafe { lookup::<S>(&b[2..18], &TABLE, &mut w.q[32 * i..32 * i + 32]) };
        // SAFETY: the caller has the features of `S`.
        scale32::<S>(&mut w.s, i, unsafe { f16_at::<S>(b, 0) });
    }
}

pub(crate) struct Mxfp4;
impl Format for Mxfp4 {
    const BYTES: usize = 17;
    const BLOCKS: usize = 8;
    const KIND: u8 = OFFSET;
    const ZERO_POINT: f32 = 16.0;
    #[inline(always)]
    unsafe fn block<S: Simd>(b: &[u8], i: usize, w: &mut WeightChunk) {
        const TABLE: [u8; 16] = shifted(mxfp4::CODEBOOK, 16);
        // SAFETY: the caller has the features of `S`.
        unsafe { lookup::<S>(&b[1..17], &TABLE, &mut w.q[32 * i..32 * i + 32]) };
        scale32::<S>(&mut w.s, i, mxfp4::half_scale(b[0]));
    }
}

/// The 2-bit values of Q2_K and Q3_K: four from each byte, 32 apart, per half of 128.
#[inline(always)]
fn crumbs(src: &[u8], q: &mut [u8; 256]) {
    let src: &[u8; 64] = src[..64].as_array_ref();
    for h in 0..2 {
        for p in 0..4 {
            for l in 0..32 {
                q[128 * h + 32 * p + l] = (src[32 * h + l] >> (2 * p)) & 3;
            }
        }
    }
}

pub(crate) struct Q2K;
impl Format for Q2K {
    const BYTES: usize = 84;
    const BLOCKS: usize = 1;
    const KIND: u8 = MIN;
    const ZERO_POINT: f32 = 0.0;
    #[inline(always)]
    unsafe fn block<S: Simd>(b: &[u8], _: usize, w: &mut WeightChunk) {
        crumbs(&b[16..80], &mut w.q);
        // SAFETY: the caller has the features of `S`.
        let (d, dmin) = unsafe { (f16_at::<S>(b, 80), f16_at::<S>(b, 82)) };
        let packed: &[u8; 16] = b.as_array_ref();
        let (mut scales, mut minima) = ([0; 16], [0; 16]);
        for g in 0..16 {
            scales[g] = (packed[g] & 15) as i8;
            minima[g] = (packed[g] >> 4) as i8;
        }
        // SAFETY: as above.
        unsafe {
            S::scales(scales, d, &mut w.s);
            S::scales(minima, -dmin, &mut w.m);
        }
    }
}

pub(crate) struct Q3K;
impl Format for Q3K {
    const BYTES: usize = 110;
    const BLOCKS: usize = 1;
    const KIND: u8 = OFFSET;
    const ZERO_POINT: f32 = 4.0;
    #[inline(always)]
    unsafe fn block<S: Simd>(b: &[u8], _: usize, w: &mut WeightChunk) {
        let b: &[u8; 110] = b.as_array_ref();
        crumbs(&b[32..96], &mut w.q);
        for s in 0..8 {
            for l in 0..32 {
                w.q[32 * s + l] |= ((b[l] >> s) & 1) << 2;
            }
        }
        // SAFETY: the caller has the features of `S`.
        let d = unsafe { f16_at::<S>(b, 108) };
        let mut scales = [0; 16];
        for g in 0..16 {
            scales[g] = q3_k::sub_scale(b, g);
        }
        // SAFETY: as above.
        unsafe { S::scales(scales, d, &mut w.s) };
    }
}

/// Scales and minima that Q4_K and Q5_K share, in their first 16 bytes.
#[inline(always)]
unsafe fn scales_and_minima<S: Simd>(b: &[u8], w: &mut WeightChunk) {
    // SAFETY: the caller has the features of `S`.
    let (d, dmin) = unsafe { (f16_at::<S>(b, 0), f16_at::<S>(b, 2)) };
    let (scales, minima) = q4_k::sub_scales_minima(b[4..16].as_array_ref());
    // SAFETY: as above.
    unsafe {
        S::scales32(scales, d, &mut w.s);
        S::scales32(minima, -dmin, &mut w.m);
    }
}

/// The nibbles of Q4_K and Q5_K: 32 low ones, then the 32 high ones of the same bytes.
#[inline(always)]
fn nibbles_by_32(src: &[u8], q: &mut [u8; 256]) {
    let src: &[u8; 128] = src[..128].as_array_ref();
    for p in 0..4 {
        for l in 0..32 {
            q[64 * p + l] = src[32 * p + l] & 15;
            q[64 * p + 32 + l] = src[32 * p + l] >> 4;
        }
    }
}

pub(crate) struct Q4K;
impl Format for Q4K {
    const BYTES: usize = 144;
    const BLOCKS: usize = 1;
    const KIND: u8 = MIN;
    const ZERO_POINT: f32 = 0.0;
    #[inline(always)]
    unsafe fn block<S: Simd>(b: &[u8], _: usize, w: &mut WeightChunk) {
        nibbles_by_32(&b[16..144], &mut w.q);
        // SAFETY: the caller has the features of `S`.
        unsafe { scales_and_minima::<S>(b, w) };
    }
}

pub(crate) struct Q5K;
impl Format for Q5K {
    const BYTES: usize = 176;
    const BLOCKS: usize = 1;
    const KIND: u8 = MIN;
    const ZERO_POINT: f32 = 0.0;
    #[inline(always)]
    unsafe fn block<S: Simd>(b: &[u8], _: usize, w: &mut WeightChunk) {
        nibbles_by_32(&b[48..176], &mut w.q);
        let high: &[u8; 32] = b[16..48].as_array_ref();
        for s in 0..8 {
            for l in 0..32 {
                w.q[32 * s + l] |= ((high[l] >> s) & 1) << 4;
            }
        }
        // SAFETY: the caller has the features of `S`.
        unsafe { scales_and_minima::<S>(b, w) };
    }
}

pub(crate) struct Q6K;
impl Format for Q6K {
    const BYTES: usize = 210;
    const BLOCKS: usize = 1;
    const KIND: u8 = OFFSET;
    const ZERO_POINT: f32 = 32.0;
    #[inline(always)]
    unsafe fn block<S: Simd>(b: &[u8], _: usize, w: &mut WeightChunk) {
        let b: &[u8; 210] = b.as_array_ref();
        for h in 0..2 {
            for p in 0..4 {
                for l in 0..32 {
                    let low = (b[64 * h + 32 * (p % 2) + l] >> (4 * (p / 2))) & 15;
                    let high = (b[128 + 32 * h + l] >> (2 * p)) & 3;
                    w.q[128 * h + 32 * p + l] = low | (high << 4);
                }
            }
        }
        // SAFETY: the caller has the features of `S`.
        let d = unsafe { f16_at::<S>(b, 208) };
        let mut scales = [0; 16];
        for g in 0..16 {
            scales[g] = b[192 + g] as i8;
        }
        // SAFETY: as above.
        unsafe { S::scales(scales, d, &mut w.s) };
    }
}

pub(crate) struct Iq4Xs;
impl Format for Iq4Xs {
    const BYTES: usize = 136;
    const BLOCKS: usize = 1;
    const KIND: u8 = WIDE;
    const ZERO_POINT: f32 = 128.0;
    #[inline(always)]
    unsafe fn block<S: Simd>(b: &[u8], _: usize, w: &mut WeightChunk) {
        const TABLE: [u8; 16] = shifted(iq4_nl::CODEBOOK, 128);
        let b: &[u8; 136] = b.as_array_ref();
        // SAFETY: the caller has the features of `S`.
        let d = unsafe { f16_at::<S>(b, 0) };
        let mut scales = [0; 8];
        for s in 0..8 {
            // SAFETY: as above.
            unsafe { lookup::<S>(&b[8 + 16 * s..24 + 16 * s], &TABLE, &mut w.q[32 * s..32 * s + 32]) };
            scales[s] = iq4_xs::sub_scale(b, s) as u8;
        }
        // SAFETY: as above.
        unsafe { S::scales32(scales, d, &mut w.s) };
    }
}
