//! Status numbers and which error of the library becomes which.

use std::ffi::{CStr, c_char};

use crate::error::Error;
use crate::kernel::KernelError;
use crate::memory::MemoryError;
use crate::tokenizer::TokenizerError;

/// What a call answers. Numbers are never given to another meaning; later versions can add some, so treat every
/// negative number as an error.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum infer_status {
    /// It worked.
    INFER_OK = 0,
    /// Not an error: nothing came within the timeout.
    INFER_TIMEOUT = 1,
    /// Not an error: there is nothing more, the last event or entry was already given.
    INFER_END = 2,
    /// A defect of libinfer that was caught; the error names the place. The process can go on.
    INFER_ERR_INTERNAL = -1,
    /// An argument or option is NULL, out of range or contradicts another.
    INFER_ERR_INVALID_ARGUMENT = -2,
    /// A handle is of another type, or not one of libinfer, or was freed.
    INFER_ERR_INVALID_HANDLE = -3,
    /// Text is not UTF-8; the error names the first bad byte.
    INFER_ERR_INVALID_UTF8 = -4,
    /// The operating system refused to open or read a file.
    INFER_ERR_IO = -5,
    /// A model file is malformed or its parts do not fit together.
    INFER_ERR_INVALID_MODEL = -6,
    /// This version or this build cannot do it.
    INFER_ERR_UNSUPPORTED = -7,
    /// Text could not be turned into tokens or back.
    INFER_ERR_TOKENIZER = -8,
    /// Memory could not be obtained, or a memory budget would be exceeded, or every block of a key/value cache is in use.
    INFER_ERR_NO_MEMORY = -9,
    /// Prompt and completion do not fit into the context.
    INFER_ERR_CONTEXT = -10,
    /// The engine's queue is full, submit again later; or another thread is writing the same sequence of a key/value
    /// cache.
    INFER_ERR_BUSY = -11,
    /// A callback cancelled the operation.
    INFER_ERR_CANCELLED = -12,
    /// The engine is draining or was freed.
    INFER_ERR_CLOSED = -13,
    /// Called from inside a callback, or while another thread is reading the same request or queue.
    INFER_ERR_REENTRANT = -14,
    /// Called in a child process after fork().
    INFER_ERR_FORKED = -15,
    /// The program was compiled against a header whose binary interface the library does not have.
    INFER_ERR_ABI = -16,
    /// The caller's buffer is too small; the size it needs was reported.
    INFER_ERR_BUFFER_TOO_SMALL = -17,
    /// There is no entry of that name.
    INFER_ERR_NOT_FOUND = -18,
}

use infer_status::*;

/// The name of a status as it is written in C, like "INFER_ERR_BUSY"; "unknown status" for any other number. The text
/// lives forever.
///
/// Threads: any, also in a forked child and inside a callback.
#[unsafe(no_mangle)]
pub extern "C" fn infer_status_name(status: i32) -> *const c_char {
    name(status).as_ptr()
}

/// The statuses there are.
pub(crate) const ALL: &[(infer_status, &CStr)] = &[
    (INFER_OK, c"INFER_OK"),
    (INFER_TIMEOUT, c"INFER_TIMEOUT"),
    (INFER_END, c"INFER_END"),
    (INFER_ERR_INTERNAL, c"INFER_ERR_INTERNAL"),
    (INFER_ERR_INVALID_ARGUMENT, c"INFER_ERR_INVALID_ARGUMENT"),
    (INFER_ERR_INVALID_HANDLE, c"INFER_ERR_INVALID_HANDLE"),
    (INFER_ERR_INVALID_UTF8, c"INFER_ERR_INVALID_UTF8"),
    (INFER_ERR_IO, c"INFER_ERR_IO"),
    (INFER_ERR_INVALID_MODEL, c"INFER_ERR_INVALID_MODEL"),
    (INFER_ERR_UNSUPPORTED, c"INFER_ERR_UNSUPPORTED"),
    (INFER_ERR_TOKENIZER, c"INFER_ERR_TOKENIZER"),
    (INFER_ERR_NO_MEMORY, c"INFER_ERR_NO_MEMORY"),
    (INFER_ERR_CONTEXT, c"INFER_ERR_CONTEXT"),
    (INFER_ERR_BUSY, c"INFER_ERR_BUSY"),
    (INFER_ERR_CANCELLED, c"INFER_ERR_CANCELLED"),
    (INFER_ERR_CLOSED, c"INFER_ERR_CLOSED"),
    (INFER_ERR_REENTRANT, c"INFER_ERR_REENTRANT"),
    (INFER_ERR_FORKED, c"INFER_ERR_FORKED"),
    (INFER_ERR_ABI, c"INFER_ERR_ABI"),
    (INFER_ERR_BUFFER_TOO_SMALL, c"INFER_ERR_BUFFER_TOO_SMALL"),
    (INFER_ERR_NOT_FOUND, c"INFER_ERR_NOT_FOUND"),
];

fn name(status: i32) -> &'static CStr {
    ALL.iter()
        .find(|(s, _)| *s as i32 == status)
        .map_or(c"unknown status", |(_, name)| name)
}

/// The status of an error of the library.
pub(crate) fn of(error: &Error) -> infer_status {
    match error {
        Error::Io { .. } => INFER_ERR_IO,
        Error::Gguf(_) | Error::InvalidModel(_) => INFER_ERR_INVALID_MODEL,
        Error::Unsupported(_) => INFER_ERR_UNSUPPORTED,
        Error::Quant(_) => INFER_ERR_INVALID_MODEL,
        Error::Tokenizer(TokenizerError::Memory(e)) => of_memory(e),
        Error::Tokenizer(_) => INFER_ERR_TOKENIZER,
        Error::Option(_) | Error::InvalidArgument(_) => INFER_ERR_INVALID_ARGUMENT,
        Error::Memory(e) => of_memory(e),
        Error::Kernel(KernelError::Memory(e)) => of_memory(e),
        Error::KvStoreFull(_) => INFER_ERR_NO_MEMORY,
        // The stack of a thread is the memory that is most likely missing.
        Error::Kernel(KernelError::Thread { .. }) => INFER_ERR_NO_MEMORY,
        Error::Kernel(KernelError::UnsupportedType(_)) => INFER_ERR_UNSUPPORTED,
        Error::Kernel(KernelError::UnknownLevel { .. } | KernelError::Pool { .. }) => {
            INFER_ERR_INVALID_ARGUMENT
        }
        Error::Kernel(KernelError::Shape { .. }) => INFER_ERR_INTERNAL,
        Error::ContextOverflow(_) => INFER_ERR_CONTEXT,
        Error::Busy(_) => INFER_ERR_BUSY,
        Error::Cancelled(_) => INFER_ERR_CANCELLED,
        Error::Closed(_) => INFER_ERR_CLOSED,
        Error::Reentrant(_) => INFER_ERR_REENTRANT,
        Error::Internal { .. } => INFER_ERR_INTERNAL,
    }
}

fn of_memory(error: &MemoryError) -> infer_status {
    match error {
        MemoryError::Exhausted { .. } | MemoryError::Overflow { .. } | MemoryError::OverBudget { .. } => {
            INFER_ERR_NO_MEMORY
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_own_number_and_name() {
        let mut numbers: Vec<i32> = ALL.iter().map(|(s, _)| *s as i32).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (-18..=2).collect::<Vec<_>>());
        for (s, n) in ALL {
            assert_eq!(format!("{s:?}"), n.to_str().unwrap());
        }
        assert_eq!(name(-1000), c"unknown status");
    }
}
