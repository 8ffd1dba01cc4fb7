//! AVX-512 with AVX512_BF16: the entry points of AVX-512, but for those that multiply pairs of bfloat16.

use super::avx512;
use crate::kernel::{CpuLevel, Kernels};

/// Function table of the level.
pub(crate) static TABLE: Kernels = Kernels {
    level: CpuLevel::Avx512Bf16,
    bf16: Some(super::bf16::rows),
    ..avx512::table::TABLE
};
