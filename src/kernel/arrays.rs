//! Methods of [`Kernels`] for callers that bring their own arrays: compensated sums, plain matrices, activation functions
//! and rows of the block formats. The engine does not use them; the C object `infer_kernels` does.

#![allow(
    unsafe_code,
    reason = "calls the entry points of a level after checking lengths"
)]

use super::generic::dense::MAX_K_I8;
use super::{KernelError, Kernels};
use crate::quant::{QuantError, TensorType};

/// Methods from one array to another of the same length.
macro_rules! maps {
    ($($(#[$doc:meta])* $name:ident = $entry:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name(&self, x: &[f32], out: &mut [f32]) {
            assert_eq!(x.len(), out.len());
            // SAFETY: lengths are equal, slices do not overlap; a table exists only where its features do.
            unsafe { (self.$entry)(x.as_ptr(), out.as_mut_ptr(), x.len()) }
        }
    )*};
}

/// Checks the lengths of A (m × k), B (k × n) and C (m × n).
fn check_shape(
    (m, k, n): (usize, usize, usize),
    a: usize,
    b: usize,
    c: usize,
    most: usize,
) -> Result<(), KernelError> {
    let fits = m.checked_mul(k) == Some(a) && k.checked_mul(n) == Some(b) && m.checked_mul(n) == Some(c);
    if fits && k <= most {
        return Ok(());
    }
    Err(KernelError::Shape {
        action: "multiply matrices",
        expected: format!("{m} x {k} times {k} x {n} values, k at most {most}"),
        found: format!("{a} times {b} values for {c}"),
    })
}

impl Kernels {
    /// Longest sum of products of [`Kernels::matmul_i8`], the k of its shapes.
    pub const MAX_K_I8: usize = MAX_K_I8;

    /// Σ aᵢ·bᵢ with an error that does not grow with the length: Kahan's compensated summation.
    ///
    /// The products are not compensated beyond that: the error is a few units in the last place of Σ |aᵢ·bᵢ|.
    pub fn dot_kahan(&self, a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        // SAFETY: lengths are equal; a table exists only where its features do.
        unsafe { (self.dot_kahan)(a, b) }
    }

    /// c ← a · b with a of m × k, b of k × n and c of m × n values, row by row. Runs on the calling thread.
    ///
    /// Each value is one sum over k in ascending order.
    ///
    /// # Errors
    /// Lengths that do not fit the shape.
    pub fn matmul_f32(
        &self,
        (m, k, n): (usize, usize, usize),
        a: &[f32],
        b: &[f32],
        c: &mut [f32],
    ) -> Result<(), KernelError> {
        check_shape((m, k, n), a.len(), b.len(), c.len(), usize::MAX)?;
        // SAFETY: lengths fit; a table exists only where its features do.
        unsafe { (self.matmul_f32)(a, b, m, k, n, c) };
        Ok(())
    }

    /// As [`Kernels::matmul_f32`] for signed bytes, exactly; k is at most [`Kernels::MAX_K_I8`].
    ///
    /// # Errors
    /// Lengths that do not fit the shape, and a k that could overflow.
    pub fn matmul_i8(
        &self,
        (m, k, n): (usize, usize, usize),
        a: &[i8],
        b: &[i8],
        c: &mut [i32],
    ) -> Result<(), KernelError> {
        check_shape((m, k, n), a.len(), b.len(), c.len(), MAX_K_I8)?;
        // SAFETY: lengths fit; a table exists only where its features do.
        unsafe { (self.matmul_i8)(a, b, m, k, n, c) };
        Ok(())
    }

    maps! {
        /// out ← max(x, 0).
        relu = relu;
        /// out ← x · σ(x).
        silu = silu;
        /// out ← x · Φ(x) in its tanh form: ½·x·(1 + tanh(√(2/π)·(x + 0.044715·x³))).
        gelu = gelu;
        /// out ← 1 / (1 + exp(−x)).
        sigmoid = sigmoid;
    }

    /// Expands `src`, a whole number of blocks of `ty`, into `out`; equal to [`crate::quant::dequantize_row`] bit for bit.
    ///
    /// # Errors
    /// The type is not supported, or `src.len()` is not `ty.row_bytes(out.len())`.
    pub fn dequantize(&self, ty: TensorType, src: &[u8], out: &mut [f32]) -> Result<(), QuantError> {
        if !ty.is_supported() {
            return Err(QuantError::Unsupported { ty });
        }
        if ty.row_bytes(out.len()) != Some(src.len()) {
            return Err(QuantError::Length {
                ty,
                bytes: src.len(),
                values: out.len(),
            });
        }
        // SAFETY: type and lengths are checked; a table exists only where its features do.
        unsafe { (self.dequantize)(ty, src, out) };
        Ok(())
    }
}
