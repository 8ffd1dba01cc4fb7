//! The quantized formats as the matrix kernels see them: planes of bits and vectors of scales in panels.
//!
//! The layout is described in [`crate::quant::panel`], the formats in [`crate::quant`]. Scales and minima are computed
//! by the operations of the scalar dequantization. No closures here: one that is not inlined would be compiled without
//! the level's features.

#![allow(unsafe_code, reason = "raw loads through the unsafe vector trait")]

use crate::kernel::simd::Simd;
use crate::quant::panel::PANEL_ROWS;
use crate::quant::{iq4_nl, mxfp4};

/// Where the scales and minima of a vector of rows go: for each set of 32 values one or two vectors of scales, one for each
/// half, then as many for minima if there are any. In a block of several sets minima are pairs of integers, which meet
/// the pairs of sums of the activations: of both halves of a set where it has halves, otherwise of two neighbouring sets,
/// in the first of them. What all minima are multiplied by stands in the last vector of the first set, or, without
/// halves, of the second.
#[derive(Clone, Copy)]
pub(crate) struct Kept {
    pub first: *mut f32,
    /// From one set to the next.
    pub step: usize,
}

impl Kept {
    #[inline(always)]
    unsafe fn put<S: Simd>(self, set: usize, vector: usize, v: S::F) {
        // SAFETY: the caller has room for the vectors of all sets of a block.
        unsafe { S::store(self.first.add(set * self.step + vector * S::LANES), v) }
    }
    /// Puts a pair of integers below 2¹⁵ for each lane.
    #[inline(always)]
    unsafe fn put_pair<S: Simd>(self, set: usize, vector: usize, a: S::I, b: S::I) {
        // SAFETY: as above.
        unsafe {
            let at = self.first.add(set * self.step + vector * S::LANES);
            S::store_int(at.cast(), S::or(a, S::to_upper(b)));
        }
    }
}

/// A quantized weight type: value = scale · (q − zero point) − or + min.
pub(crate) trait Format {
    /// Bits of the low and of the high plane.
    const LOW: u32;
    const HIGH: u32 = 0;
    /// Sets of 32 values per block.
    const SUBS: usize;
    /// Bytes of scales per block and row.
    const SCALE_BYTES: usize;
    /// Whether 16 values share a scale, not 32.
    const HALVES: bool = false;
    /// Whether there are minima; they are added, in the sign that takes.
    const MIN: bool = false;
    /// Subtracted from unsigned values.
    const ZERO_POINT: i16 = 0;
    /// Whether the activations that meet it have one scale per 256, because its blocks are that long.
    const COARSE: bool = Self::SUBS > 1;
    /// Whether the values are whole bytes, signed with 128 added.
    const WIDE: bool = false;
    /// Largest magnitude that meets activations where wide values are made signed.
    const LARGEST: i32 = match Self::CODEBOOK {
        Some(values) => largest(values),
        None if Self::WIDE => 128,
        None => (1 << (Self::LOW + Self::HIGH)) - 1,
    };
    /// Bytes of memory that a set of 32 values of a panel comes from.
    const SET_BYTES: usize = block_bytes::<Self>() / Self::SUBS;
    /// Whether scales are half-precision numbers.
    const HALF_SCALE: bool = false;
    /// Whether 128 is subtracted from values and activations bring along what their sums begin with, where unsigned bytes
    /// meet signed ones.
    const RAISED: bool = false;
    /// What the values are indices into; then they are wide.
    const CODEBOOK: Option<[u8; 16]> = None;
    /// Reads the scales of the rows from `lane` on; `p` is the beginning of the block's scale bytes.
    ///
    /// # Safety
    /// The CPU has the features of `S`; the panel's scale bytes are readable; `out` has room.
    unsafe fn scales<S: Simd>(p: *const u8, lane: usize, out: Kept);
}

/// Signed values with 128 added.
const fn wide(codebook: [i8; 16]) -> [u8; 16] {
    let mut values = [0; 16];
    let mut i = 0;
    while i < 16 {
        values[i] = codebook[i] as u8 ^ 0x80;
        i += 1;
    }
    values
}

/// Largest magnitude of signed values with 128 added.
const fn largest(values: [u8; 16]) -> i32 {
    let mut largest = 0;
    let mut i = 0;
    while i < 16 {
        let magnitude = (values[i] as i32 - 128).abs();
        if magnitude > largest {
            largest = magnitude;
        }
        i += 1;
    }
    largest
}

/// Bytes of the planes of 32 values of a panel.
pub(crate) const fn sub_bytes<F: Format + ?Sized>() -> usize {
    (F::LOW + F::HIGH) as usize * 64
}

/// Bytes of a block of a panel.
pub(crate) const fn block_bytes<F: Format + ?Sized>() -> usize {
    F::SUBS * sub_bytes::<F>() + F::SCALE_BYTES * PANEL_ROWS
}

/// Vector `V` of 8 of a set of 32 values: four neighbouring values for each lane. `p` is the set's first byte, moved to
/// the first lane.
///
/// # Safety
/// The CPU has the features of `S`; the planes are readable.
#[inline(always)]
pub(crate) unsafe fn vector<S: Simd, F: Format, const V: usize>(p: *const u8) -> S::I {
    // SAFETY: offsets are inside the planes of the set.
    unsafe {
        let low = match F::LOW {
            8 => S::load_int(p.add(64 * V)),
            4 => {
                let both = S::load_int(p.add(64 * (V % 4)));
                let nibble = if V < 4 { both } else { S::shift_right(both, 4) };
                S::and(nibble, S::splat_int(0x0f0f_0f0f))
            }
            _ => {
                let four = S::load_int(p.add(64 * (V / 4)));
                let crumb = S::shift_right(four, 2 * (V as u32 % 4));
                S::and(crumb, S::splat_int(0x0303_0303))
            }
        };
        let high = p.add(64 * F::LOW as usize);
        let value = match F::HIGH {
            1 => {
                let moved = place::<S>(S::load_int(high), V as u32, F::LOW);
                S::or(low, S::and(moved, S::splat_int(0x0101_0101 << F::LOW)))
            }
            2 => {
                let moved = place::<S>(S::load_int(high.add(64 * (V / 4))), 2 * (V as u32 % 4), F::LOW);
                S::or(low, S::and(moved, S::splat_int(0x0303_0303 << F::LOW)))
            }
            _ => low,
        };
        match F::CODEBOOK {
            Some(codebook) => S::lookup(S::table(&codebook), value),
            None => value,
        }
    }
}

/// Moves bit `from` to bit `to`.
#[inline(always)]
unsafe fn place<S: Simd>(a: S::I, from: u32, to: u32) -> S::I {
    // SAFETY: the caller has the features of `S`.
    unsafe {
        if from <= to {
            S::shift_left(a, to - from)
        } else {
            S::shift_right(a, from - to)
        }
    }
}

/// The half-precision field at byte `at` of the scales.
#[inline(always)]
unsafe fn half<S: Simd>(p: *const u8, at: usize, lane: usize) -> S::F {
    // SAFETY: the caller gives a field inside the scales.
    unsafe { S::load_f16(p.add(PANEL_ROWS * at + 2 * lane)) }
}

/// The byte field `at`, one unsigned integer for each lane.
#[inline(always)]
unsafe fn byte<S: Simd>(p: *const u8, at: usize, lane: usize) -> S::I {
    // SAFETY: the caller gives a field inside the scales.
    unsafe { S::widen(p.add(PANEL_ROWS * at + lane)) }
}

/// Bits `from …` of each lane under `mask`.
#[inline(always)]
unsafe fn field<S: Simd>(a: S::I, from: u32, mask: i32) -> S::I {
    // SAFETY: the caller has the features of `S`; lanes hold single bytes.
    unsafe { S::and(S::shift_right(a, from), S::splat_int(mask)) }
}

macro_rules! one_scale {
    ($name:ident, $low:expr, $high:expr, $bytes:expr, $($constants:tt)*) => {
        pub(crate) struct $name;
        impl Format for $name {
            const LOW: u32 = $low;
            const HIGH: u32 = $high;
            const SUBS: usize = 1;
            const SCALE_BYTES: usize = $bytes;
            const HALF_SCALE: bool = true;
            $($constants)*
            #[inline(always)]
            unsafe fn scales<S: Simd>(p: *const u8, lane: usize, out: Kept) {
                // SAFETY: fields 0 and 2 are half-precision numbers of the format.
                unsafe {
                    out.put::<S>(0, 0, half::<S>(p, 0, lane));
                    if Self::MIN {
                        out.put::<S>(0, 1, half::<S>(p, 2, lane));
                    }
                }
            }
        }
    };
}
one_scale! { Q4_0, 4, 0, 2, const ZERO_POINT: i16 = 8; }
one_scale! { Q4_1, 4, 0, 4, const MIN: bool = true; }
one_scale! { Q5_0, 4, 1, 2, const ZERO_POINT: i16 = 16; }
one_scale! { Q5_1, 4, 1, 4, const MIN: bool = true; }
one_scale! { Q8_0, 8, 0, 2, const WIDE: bool = true; }
one_scale! {
    Iq4Nl, 4, 0, 2,
    const WIDE: bool = true;
    const CODEBOOK: Option<[u8; 16]> = Some(wide(iq4_nl::CODEBOOK));
}

pub(crate) struct Mxfp4;
impl Format for Mxfp4 {
    const LOW: u32 = 4;
    const SUBS: usize = 1;
    const SCALE_BYTES: usize = 1;
    const WIDE: bool = true;
    const CODEBOOK: Option<[u8; 16]> = Some(wide(mxfp4::CODEBOOK));
    #[inline(always)]
    unsafe fn scales<S: Simd>(p: *const u8, lane: usize, out: Kept) {
        // SAFETY: field 0 is the exponent byte.
        unsafe {
            // 2^(e − 128) as the product of two powers in the range of normal numbers.
            let e = byte::<S>(p, 0, lane);
            let a = S::to_float(S::shift_right(e, 1));
            let b = S::sub(S::to_float(e), a);
            let bias = S::splat(64.0);
            out.put::<S>(0, 0, S::mul(S::pow2(S::sub(a, bias)), S::pow2(S::sub(b, bias))));
        }
    }
}

pub(crate) struct Q2K;
impl Format for Q2K {
    const LOW: u32 = 2;
    const SUBS: usize = 8;
    const SCALE_BYTES: usize = 20;
    const HALVES: bool = true;
    const MIN: bool = true;
    #[inline(always)]
    unsafe fn scales<S: Simd>(p: *const u8, lane: usize, out: Kept) {
        // SAFETY: 16 bytes of nibbles, then two half-precision numbers.
        unsafe {
            let (d, dmin) = (half::<S>(p, 16, lane), half::<S>(p, 18, lane));
            let dmin = S::sub(S::splat(0.0), dmin);
            out.put::<S>(0, 3, dmin);
            for s in 0..8 {
                let (a, b) = (byte::<S>(p, 2 * s, lane), byte::<S>(p, 2 * s + 1, lane));
                out.put::<S>(s, 0, S::mul(d, S::to_float(field::<S>(a, 0, 15))));
                out.put::<S>(s, 1, S::mul(d, S::to_float(field::<S>(b, 0, 15))));
                out.put_pair::<S>(s, 2, field::<S>(a, 4, 15), field::<S>(b, 4, 15));
            }
        }
    }
}

pub(crate) struct Q3K;
impl Format for Q3K {
    const LOW: u32 = 2;
    const HIGH: u32 = 1;
    const SUBS: usize = 8;
    const SCALE_BYTES: usize = 14;
    const HALVES: bool = true;
    const ZERO_POINT: i16 = 4;
    #[inline(always)]
    unsafe fn scales<S: Simd>(p: *const u8, lane: usize, out: Kept) {
        // SAFETY: 12 bytes of sub-scales, then a half-precision number.
        unsafe {
            let (d, bias) = (half::<S>(p, 12, lane), S::splat(32.0));
            for g in 0..16 {
                let low = field::<S>(byte::<S>(p, g % 8, lane), 4 * (g as u32 / 8), 15);
                let high = field::<S>(byte::<S>(p, 8 + g % 4, lane), 2 * (g as u32 / 4), 3);
                let scale = S::to_float(S::or(low, S::shift_left(high, 4)));
                out.put::<S>(g / 2, g % 2, S::mul(d, S::sub(scale, bias)));
            }
        }
    }
}

/// Scales and minima that Q4_K and Q5_K share.
#[inline(always)]
unsafe fn scales_and_minima<S: Simd>(p: *const u8, lane: usize, out: Kept) {
    // SAFETY: two half-precision numbers, then 12 bytes of sub-scales and minima.
    unsafe {
        let (d, dmin) = (half::<S>(p, 0, lane), half::<S>(p, 2, lane));
        out.put::<S>(1, 1, S::sub(S::splat(0.0), dmin));
        let mut minima = [S::splat_int(0); 8];
        for s in 0..4 {
            let (scale, min) = (byte::<S>(p, 4 + s, lane), byte::<S>(p, 8 + s, lane));
            let rest = byte::<S>(p, 12 + s, lane);
            out.put::<S>(s, 0, S::mul(d, S::to_float(field::<S>(scale, 0, 63))));
            minima[s] = field::<S>(min, 0, 63);
            let scale = S::or(field::<S>(rest, 0, 15), field::<S>(scale, 2, 0x30));
            out.put::<S>(s + 4, 0, S::mul(d, S::to_float(scale)));
            minima[s + 4] = S::or(field::<S>(rest, 4, 15), field::<S>(min, 2, 0x30));
        }
        for s in [0, 2, 4, 6] {
            out.put_pair::<S>(s, 1, minima[s], minima[s + 1]);
        }
    }
}

pub(crate) struct Q4K;
impl Format for Q4K {
    const LOW: u32 = 4;
    const SUBS: usize = 8;
    const SCALE_BYTES: usize = 16;
    const MIN: bool = true;
    #[inline(always)]
    unsafe fn scales<S: Simd>(p: *const u8, lane: usize, out: Kept) {
        // SAFETY: passes the caller's promise on.
        unsafe { scales_and_minima::<S>(p, lane, out) }
    }
}

pub(crate) struct Q5K;
impl Format for Q5K {
    const LOW: u32 = 4;
    const HIGH: u32 = 1;
    const SUBS: usize = 8;
    const SCALE_BYTES: usize = 16;
    const MIN: bool = true;
    #[inline(always)]
    unsafe fn scales<S: Simd>(p: *const u8, lane: usize, out: Kept) {
        // SAFETY: passes the caller's promise on.
        unsafe { scales_and_minima::<S>(p, lane, out) }
    }
}

pub(crate) struct Q6K;
impl Format for Q6K {
    const LOW: u32 = 4;
    const HIGH: u32 = 2;
    const SUBS: usize = 8;
    const SCALE_BYTES: usize = 18;
    const HALVES: bool = true;
    const ZERO_POINT: i16 = 32;
    #[inline(always)]
    unsafe fn scales<S: Simd>(p: *const u8, lane: usize, out: Kept) {
        // SAFETY: 16 signed bytes, then a half-precision number.
        unsafe {
            let d = half::<S>(p, 16, lane);
            for g in 0..16 {
                let scale = S::load_i8(p.add(PANEL_ROWS * g + lane));
                out.put::<S>(g / 2, g % 2, S::mul(d, scale));
            }
        }
    }
}

pub(crate) struct Iq4Xs;
impl Format for Iq4Xs {
    const LOW: u32 = 4;
    const SUBS: usize = 8;
    const SCALE_BYTES: usize = 8;
    const WIDE: bool = true;
    const CODEBOOK: Option<[u8; 16]> = Some(wide(iq4_nl::CODEBOOK));
    #[inline(always)]
    unsafe fn scales<S: Simd>(p: *const u8, lane: usize, out: Kept) {
        // SAFETY: a half-precision number, two bytes of high and four of low bits.
        unsafe {
            let (d, bias) = (half::<S>(p, 0, lane), S::splat(32.0));
            for s in 0..8 {
                let high = field::<S>(byte::<S>(p, 2 + s / 4, lane), 2 * (s as u32 % 4), 3);
                let low = field::<S>(byte::<S>(p, 4 + s / 2, lane), 4 * (s as u32 % 2), 15);
                let scale = S::to_float(S::or(low, S::shift_left(high, 4)));
                out.put::<S>(s, 0, S::mul(d, S::sub(scale, bias)));
            }
        }
    }
}

/// A format whose values were unpacked to bytes: planes of eight bits, without scales between them.
pub(crate) struct Unpacked<F>(std::marker::PhantomData<F>);
impl<F: Format> Format for Unpacked<F> {
    const LOW: u32 = 8;
    const SUBS: usize = F::SUBS;
    const SCALE_BYTES: usize = 0;
    const HALVES: bool = F::HALVES;
    const MIN: bool = F::MIN;
    const ZERO_POINT: i16 = F::ZERO_POINT;
    const COARSE: bool = F::COARSE;
    const WIDE: bool = F::WIDE;
    const LARGEST: i32 = F::LARGEST;
    const SET_BYTES: usize = F::SET_BYTES;
    const HALF_SCALE: bool = F::HALF_SCALE;
    // Activations that share a scale among 256 values bring the beginnings of halves.
    const RAISED: bool = (F::WIDE || F::ZERO_POINT != 0) && (F::HALVES || !F::COARSE);
    #[inline(always)]
    unsafe fn scales<S: Simd>(_: *const u8, _: usize, _: Kept) {}
}
