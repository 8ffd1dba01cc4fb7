//! AVX-512 with AVX512_BF16: the entry points of AVX-512, but for weights in half precision, which `vdpbf16ps` multiplies.

use super::{avx512, bf16};
use crate::kernel::{CpuLevel, Kernels};

/// Function table of the level.
pub(crate) static TABLE: Kernels = Kernels {
    level: CpuLevel::Avx512Bf16,
    bf16: Some(bf16::rows),
    peak_bf16: Some(bf16::peak),
    ..avx512::TABLE
};
