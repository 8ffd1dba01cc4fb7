//! The algorithms, written once over [`super::simd::Simd`].

#![allow(
    clippy::needless_range_loop,
    reason = "loops over fixed sizes and small tiles: the index form says which array moves and compiles to vectors"
)]

pub(crate) mod attention;
pub(crate) mod columns;
pub(crate) mod dense;
pub(crate) mod elementwise;
pub(crate) mod fetch;
pub(crate) mod float;
pub(crate) mod formats;
pub(crate) mod job;
pub(crate) mod matmul;
pub(crate) mod ops;
pub(crate) mod peak;
pub(crate) mod quantize;
pub(crate) mod reduce;
pub(crate) mod rows;
pub(crate) mod scalar;
pub(crate) mod unpacked;
