//! Numeric kernels: vector operations, rows of keys and values, matrix products, and the thread pool they run on.
//!
//! The algorithms are written once ([`generic`]) over a small vector trait ([`simd`]); a thin file per instruction set
//! implements it and compiles the algorithms with that set's features. [`Kernels`] is the function table of a level,
//! chosen at run time by [`CpuLevel::selected`]. Results depend on inputs and level only: not on the number of
//! threads, nor on the other rows of a product.

#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod aarch64;
mod activations;
mod arrays;
pub mod attention;
pub mod fp_env;
mod generic;
mod level;
mod matrix;
mod parts;
pub mod pool;
mod simd;
mod spawn;
mod table;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub use activations::{Activations, Forms};
pub use level::CpuLevel;
pub use matrix::{MatmulJob, Matrix, Packed, Precision, matmul, pack};
pub use parts::Parts;
#[cfg(unix)]
pub(crate) use pool::system::begin_writing;
pub(crate) use pool::system::{affinity, with_signals_blocked};
pub use pool::{ThreadPool, ThreadPoolOptions, for_each_chunk_mut, for_each_row_mut};
pub(crate) use spawn::spawn_thread;
pub use table::{Kernels, Products};

use crate::memory::MemoryError;
use crate::quant::TensorType;

/// How a row of keys or values is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RowType {
    /// 32-bit floats.
    F32,
    /// IEEE half floats.
    F16,
    /// The upper halves of 32-bit floats.
    BF16,
    /// One `f32` scale per row, then signed bytes.
    Q8,
}

impl RowType {
    /// Bytes of a row of `n` values; `None` on overflow.
    pub fn row_bytes(self, n: usize) -> Option<usize> {
        match self {
            Self::F32 => n.checked_mul(4),
            Self::F16 | Self::BF16 => n.checked_mul(2),
            Self::Q8 => n.checked_add(4),
        }
    }

    /// The type of an option's word.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::F32, Self::F16, Self::BF16, Self::Q8]
            .into_iter()
            .find(|t| t.name() == name)
    }

    /// The name used in options: `f32`, `f16`, `bf16`, `q8`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::Q8 => "q8",
        }
    }
}

/// A kernel was asked for something it cannot do.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// `INFER_CPU_LEVEL` or an option names no level.
    #[error("unknown CPU level \"{word}\": expected one of {valid}")]
    UnknownLevel {
        /// The word found.
        word: String,
        /// The words there are.
        valid: &'static str,
    },
    /// A weight matrix of a type without kernels.
    #[error("cannot multiply by a matrix of type {0}: this version does not support the tensor type")]
    UnsupportedType(TensorType),
    /// Shapes or lengths that do not fit together.
    #[error("cannot {action}: expected {expected}, found {found}")]
    Shape {
        /// What was attempted.
        action: &'static str,
        /// What would fit.
        expected: String,
        /// What was given.
        found: String,
    },
    /// Memory could not be obtained.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A thread pool could not be built.
    #[error("cannot start a pool of {threads} threads: {reason}")]
    Pool {
        /// Threads asked for.
        threads: usize,
        /// What failed.
        reason: String,
    },
    /// The system has no memory, or no number, for one more thread.
    #[error("the system refused the thread {name}: {source}")]
    Thread {
        /// The thread's name, and what it is part of.
        name: String,
        /// What the system said.
        source: std::io::Error,
    },
}
