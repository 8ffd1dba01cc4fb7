//! The x86-64 levels.

pub(crate) mod avx2;
pub(crate) mod avx512;
