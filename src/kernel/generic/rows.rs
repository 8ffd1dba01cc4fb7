//! Rows of keys and values in the types a cache stores.

#![allow(unsafe_code, reason = "raw loads and stores of the vector trait")]

use super::float::Floats;
use super::quantize::{largest_magnitude, scale_of, to_i8};
use crate::kernel::RowType;
use crate::kernel::simd::Simd;
use crate::quant::float::f32_to_bf16;

/// Eight-bit values behind their row's scale.
pub(crate) struct I8;
impl Floats for I8 {
    const BYTES: usize = 1;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::F {
        // SAFETY: as promised by the caller.
        unsafe { S::load_i8(p) }
    }
}

/// Bytes before the values of a row: the scale of [`RowType::Q8`].
pub(crate) const Q8_SCALE: usize = 4;

/// Writes `x` as one row.
#[inline(always)]
pub(crate) unsafe fn store<S: Simd>(ty: RowType, x: &[f32], out: &mut [u8]) {
    match ty {
        RowType::F32 => {
            for (o, x) in out.as_chunks_mut::<4>().0.iter_mut().zip(x) {
                *o = x.to_le_bytes();
            }
        }
        RowType::F16 => {
            let whole = x.len() / S::LANES * S::LANES;
            for i in (0..whole).step_by(S::LANES) {
                // SAFETY: i + LANES <= x.len(), and out has two bytes for each value.
                unsafe { S::store_f16(out.as_mut_ptr().add(2 * i), S::load(x.as_ptr().add(i))) };
            }
            for (o, &x) in out[2 * whole..]
                .as_chunks_mut::<2>()
                .0
                .iter_mut()
                .zip(&x[whole..])
            {
                *o = half::f16::from_f32_const(x).to_le_bytes();
            }
        }
        RowType::BF16 => {
            for (o, &x) in out.as_chunks_mut::<2>().0.iter_mut().zip(x) {
                *o = f32_to_bf16(x).to_le_bytes();
            }
        }
        RowType::Q8 => {
            let (scale, inverse) = scale_of(largest_magnitude(x));
            let (head, values) = out.split_at_mut(Q8_SCALE);
            head.copy_from_slice(&scale.to_le_bytes());
            for (o, &x) in values.iter_mut().zip(x) {
                *o = if inverse == 0.0 {
                    0
                } else {
                    to_i8(x, inverse) as u8
                };
            }
        }
    }
}

/// Loads `n < LANES` values of a stored type, the other lanes zero.
#[inline(always)]
pub(crate) unsafe fn load_part_of<S: Simd, W: Floats>(p: *const u8, n: usize) -> S::F {
    let mut rest = [0u8; 64];
    // SAFETY: the caller gives n < LANES values, at most 64 bytes.
    unsafe {
        std::ptr::copy_nonoverlapping(p, rest.as_mut_ptr(), n * W::BYTES);
        W::load::<S>(rest.as_ptr())
    }
}
