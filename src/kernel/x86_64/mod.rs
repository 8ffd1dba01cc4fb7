//! The x86-64 levels.

#![allow(
    clippy::needless_range_loop,
    reason = "loops over fixed sizes and small tiles: the index form says which array moves and compiles to vectors"
)]

mod attention;
pub(crate) mod avx2;
pub(crate) mod avx512;
pub(crate) mod avx512_bf16;
pub(crate) mod avx_vnni;
mod bf16;
mod quantize;
pub(crate) mod sse41;
