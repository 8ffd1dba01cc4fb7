//! The aarch64 levels.
//!
//! Instructions whose intrinsics are not stable are written as inline assembly.

#![allow(
    clippy::needless_range_loop,
    reason = "loops over fixed sizes and small tiles: the index form says which array moves and compiles to vectors"
)]

pub(crate) mod i8mm;
pub(crate) mod neon;
pub(crate) mod neon_dotprod;
