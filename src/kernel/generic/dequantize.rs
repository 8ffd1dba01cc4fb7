//! Expands rows of the block formats to `f32`, bit for bit as [`crate::quant::dequantize_row`] does.

#![allow(unsafe_code, reason = "calls the unsafe vector trait")]

use super::float::{Bf16, F16, F32, Floats};
use super::unpack::{self, Format};
use crate::kernel::chunk::{CHUNK, GROUP, WeightChunk};
use crate::kernel::simd::{MIN, Simd, WIDE, store_part};
use crate::quant::TensorType;

/// out ← the values of `src`, which has `ty.row_bytes(out.len())` bytes; `ty` is supported.
#[inline(always)]
pub(crate) unsafe fn row<S: Simd>(ty: TensorType, src: &[u8], out: &mut [f32]) {
    // SAFETY: passes the caller's promise on.
    unsafe {
        match ty {
            TensorType::F32 => floats::<S, F32>(src, out),
            TensorType::F16 => floats::<S, F16>(src, out),
            TensorType::BF16 => floats::<S, Bf16>(src, out),
            TensorType::Q4_0 => blocks::<S, unpack::Q4_0>(src, out),
            TensorType::Q4_1 => blocks::<S, unpack::Q4_1>(src, out),
            TensorType::Q5_0 => blocks::<S, unpack::Q5_0>(src, out),
            TensorType::Q5_1 => blocks::<S, unpack::Q5_1>(src, out),
            TensorType::Q8_0 => blocks::<S, unpack::Q8_0>(src, out),
            TensorType::Q2_K => blocks::<S, unpack::Q2K>(src, out),
            TensorType::Q3_K => blocks::<S, unpack::Q3K>(src, out),
            TensorType::Q4_K => blocks::<S, unpack::Q4K>(src, out),
            TensorType::Q5_K => blocks::<S, unpack::Q5K>(src, out),
            TensorType::Q6_K => blocks::<S, unpack::Q6K>(src, out),
            TensorType::IQ4_NL => blocks::<S, unpack::Iq4Nl>(src, out),
            TensorType::IQ4_XS => blocks::<S, unpack::Iq4Xs>(src, out),
            TensorType::MXFP4 => blocks::<S, unpack::Mxfp4>(src, out),
            _ => {}
        }
    }
}

#[inline(always)]
unsafe fn floats<S: Simd, W: Floats>(src: &[u8], out: &mut [f32]) {
    let n = out.len().min(src.len() / W::BYTES);
    let (from, to) = (src.as_ptr(), out.as_mut_ptr());
    // SAFETY: loads and stores are below n; the buffer has room for a vector of the widest type.
    unsafe {
        let mut i = 0;
        while i + S::LANES <= n {
            S::store(to.add(i), W::load::<S>(from.add(i * W::BYTES)));
            i += S::LANES;
        }
        if i < n {
            let mut rest = [0u8; 64];
            std::ptr::copy_nonoverlapping(from.add(i * W::BYTES), rest.as_mut_ptr(), (n - i) * W::BYTES);
            store_part::<S>(to.add(i), W::load::<S>(rest.as_ptr()), n - i);
        }
    }
}

#[inline(always)]
unsafe fn blocks<S: Simd, F: Format>(src: &[u8], out: &mut [f32]) {
    let mut w = WeightChunk::ZERO;
    let mut values = [0.0f32; CHUNK];
    for (src, out) in src.chunks(F::BYTES * F::BLOCKS).zip(out.chunks_mut(CHUNK)) {
        // SAFETY: the caller has the features; a chunk has room for CHUNK values.
        unsafe {
            unpack::chunk::<S, F>(src, &mut w);
            if out.len() == CHUNK {
                expand::<S, F>(&mut w, out.as_mut_ptr());
            } else {
                expand::<S, F>(&mut w, values.as_mut_ptr());
                out.copy_from_slice(&values[..out.len()]);
            }
        }
    }
}

/// Writes the values of a chunk, by the operations of the scalar dequantization. Vectors are spelled out: of a plain
/// loop the compiler makes gathers with AVX-512.
///
/// # Safety
/// `out` has room for [`CHUNK`] values; the CPU has the features of `S`.
#[inline(always)]
unsafe fn expand<S: Simd, F: Format>(w: &mut WeightChunk, out: *mut f32) {
    // Vectors are loaded from signed bytes: whole bytes become signed by taking their zero point off.
    let mut zero_point = F::ZERO_POINT;
    if F::KIND == WIDE {
        for q in &mut w.q {
            *q ^= 0x80;
        }
        zero_point -= 128.0;
    }
    for g in 0..CHUNK / GROUP {
        // SAFETY: groups are whole vectors, as LANES divides GROUP.
        unsafe {
            let (s, m) = (S::splat(w.s[S::SLOT[g]]), S::splat(w.m[S::SLOT[g]]));
            let mut i = g * GROUP;
            while i < (g + 1) * GROUP {
                let q = S::sub(S::load_i8(w.q.as_ptr().add(i)), S::splat(zero_point));
                let v = S::mul(s, q);
                S::store(out.add(i), if F::KIND == MIN { S::add(v, m) } else { v });
                i += S::LANES;
            }
        }
    }
}
