//! The algorithms, written once over [`super::simd::Simd`].

pub(crate) mod matmul;
pub(crate) mod ops;
pub(crate) mod quantize;
pub(crate) mod rows;
pub(crate) mod scalar;
pub(crate) mod unpack;
