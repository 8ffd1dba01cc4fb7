//! The error of the crate: one variant per part of the library that can refuse something.
//!
//! Every message is a sentence for the person who has to act on it: what was attempted, on what, what was
//! expected and what was found.

use std::path::PathBuf;

use crate::gguf::GgufError;
use crate::kernel::KernelError;
use crate::memory::MemoryError;
use crate::options::OptionError;
use crate::tokenizer::TokenizerError;

/// Result with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong in libinfer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to open, read or write a file.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted, a verb phrase: "open", "read 4096 bytes at offset 32 of".
        action: String,
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A GGUF file is malformed.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A model file is well formed but its hyper-parameters, tensors or vocabulary do not fit together.
    #[error("{0}")]
    InvalidModel(String),
    /// Something this version does not implement: an architecture, a tensor type, a feature left out.
    #[error("{0}")]
    Unsupported(String),
    /// A kernel, a thread pool or the CPU level could not be used as asked.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A tokenizer could not be built from the file, or could not encode.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// An option or argument is outside its range.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// An argument is outside what the call accepts.
    #[error("{0}")]
    InvalidArgument(String),
    /// Bytes of a tensor do not fit its type.
    #[error(transparent)]
    Quant(#[from] crate::quant::QuantError),
    /// Memory could not be obtained, or would exceed a budget.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Every block of a key/value store is in use.
    #[error(transparent)]
    KvStoreFull(#[from] crate::kv::store::StoreFull),
    /// A prompt or a completion does not fit the context.
    #[error("{0}")]
    ContextOverflow(String),
    /// The engine's queue is full; submit again later.
    #[error("{0}")]
    Busy(String),
    /// The caller cancelled the operation.
    #[error("{0} was cancelled")]
    Cancelled(&'static str),
    /// The object is shut down or draining.
    #[error("{0}")]
    Closed(String),
    /// The call is not allowed from inside a callback or while another thread reads.
    #[error("{0}")]
    Reentrant(String),
    /// A defect of the library, caught before it could do harm.
    #[error("internal error in {place}: {message}")]
    Internal {
        /// The function or worker that failed.
        place: String,
        /// Panic message and source location.
        message: String,
    },
}
