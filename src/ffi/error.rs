//! Error objects.

use std::ffi::{CStr, c_char};
use std::fmt::Write as _;

use super::guard::Failure;
use super::handle::{self, Handle, Object, magic};
use super::status::{self, infer_status};
use super::{fork, guard};

/// Why a call failed: a status and a sentence for people. It belongs to the caller, who frees it with
/// infer_error_free().
///
/// Threads: one user at a time; reading it from several is fine.
pub struct infer_error {
    _private: [u8; 0],
}

pub(crate) struct ErrorState {
    status: infer_status,
    message: Message,
    /// It belongs to a request or queue: freeing it does nothing.
    borrowed: bool,
}

enum Message {
    Static(&'static CStr),
    /// Ends with NUL and has no other.
    Owned(Vec<u8>),
}

impl Object for infer_error {
    type State = ErrorState;
    const MAGIC: u64 = magic(b"INFerror");
    const NAME: &'static str = "infer_error";
}

/// The sentence of an error: what was attempted, on what, what was expected and what was found. NUL-terminated UTF-8
/// that lives as long as the error; "no error" for NULL.
///
/// Threads: any number of readers, also in a forked child and inside a callback.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_error_message(error: *const infer_error) -> *const c_char {
    guard::quiet(c"invalid error handle".as_ptr(), || {
        if error.is_null() {
            return c"no error".as_ptr();
        }
        // SAFETY: the conventions of the header: a handle that is not NULL was not freed.
        match unsafe { handle::get(error) }.map(|state| &state.message) {
            Ok(Message::Static(text)) => text.as_ptr(),
            Ok(Message::Owned(text)) => text.as_ptr().cast(),
            Err(_) => c"invalid error handle".as_ptr(),
        }
    })
}

/// The status of an error, the same number that the call answered; INFER_OK for NULL.
///
/// Threads: any number of readers, also in a forked child and inside a callback.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_error_status(error: *const infer_error) -> i32 {
    guard::quiet(infer_status::INFER_ERR_INTERNAL as i32, || {
        if error.is_null() {
            return infer_status::INFER_OK as i32;
        }
        // SAFETY: the conventions of the header: a handle that is not NULL was not freed.
        unsafe { handle::get(error) }.map_or(infer_status::INFER_ERR_INVALID_HANDLE as i32, |state| {
            state.status as i32
        })
    })
}

/// Frees an error. NULL is ignored, and so is an error that an event only lent.
///
/// Threads: any; nobody else may be using the error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_error_free(error: *mut infer_error) {
    if error.is_null() || STATICS.iter().any(|s| std::ptr::addr_eq(*s, error)) || fork::is_child() {
        return;
    }
    guard::quiet((), || {
        // SAFETY: the conventions of the header: it is an error object that was not freed.
        unsafe {
            if handle::get(error.cast_const()).is_ok_and(|state| !state.borrowed) {
                drop(handle::take(error));
            }
        }
    });
}

static OUT_OF_MEMORY: Handle<ErrorState> = fixed(
    infer_status::INFER_ERR_NO_MEMORY,
    c"cannot allocate memory: the system is out of memory or a limit is reached",
);
static FORKED: Handle<ErrorState> = fixed(
    infer_status::INFER_ERR_FORKED,
    c"libinfer was used before fork(): a child process cannot use what its parent created; call exec, or use libinfer only after forking",
);
static IN_CALLBACK: Handle<ErrorState> = fixed(
    infer_status::INFER_ERR_REENTRANT,
    c"called from inside a callback of libinfer: return from the callback first",
);
static STATICS: [&Handle<ErrorState>; 3] = [&OUT_OF_MEMORY, &FORKED, &IN_CALLBACK];

const fn fixed(status: infer_status, message: &'static CStr) -> Handle<ErrorState> {
    Handle::new(
        infer_error::MAGIC,
        ErrorState {
            status,
            message: Message::Static(message),
            borrowed: false,
        },
    )
}

/// The status of a failure.
pub(crate) fn status_of(failure: &Failure) -> infer_status {
    match failure {
        Failure::Library(e) => status::of(e),
        Failure::Handle(_) => infer_status::INFER_ERR_INVALID_HANDLE,
        Failure::Utf8(_) => infer_status::INFER_ERR_INVALID_UTF8,
        Failure::BufferTooSmall(_) => infer_status::INFER_ERR_BUFFER_TOO_SMALL,
        Failure::NotFound(_) => infer_status::INFER_ERR_NOT_FOUND,
        Failure::Abi(_) => infer_status::INFER_ERR_ABI,
        Failure::NoMemory => infer_status::INFER_ERR_NO_MEMORY,
        Failure::Forked => infer_status::INFER_ERR_FORKED,
        Failure::InCallback => infer_status::INFER_ERR_REENTRANT,
    }
}

/// The error object of a failure, owned by the caller in C.
pub(crate) fn create(failure: &Failure) -> *mut infer_error {
    let fixed = |object: &'static Handle<ErrorState>| handle::borrowed::<infer_error>(object).cast_mut();
    let text: &dyn std::fmt::Display = match failure {
        Failure::NoMemory => return fixed(&OUT_OF_MEMORY),
        Failure::Forked => return fixed(&FORKED),
        Failure::InCallback => return fixed(&IN_CALLBACK),
        Failure::Library(e) => e,
        Failure::Handle(m)
        | Failure::Utf8(m)
        | Failure::BufferTooSmall(m)
        | Failure::NotFound(m)
        | Failure::Abi(m) => m,
    };
    state(status_of(failure), text, false)
        .and_then(handle::create)
        .unwrap_or_else(|_| fixed(&OUT_OF_MEMORY))
}

/// An error that an event lends.
pub(crate) fn lent(error: &crate::error::Error) -> Option<Box<Handle<ErrorState>>> {
    state(status::of(error), error, true)
        .and_then(handle::boxed::<infer_error>)
        .ok()
}

/// The pointer to an error that an event lends.
pub(crate) fn lent_pointer(error: Option<&Handle<ErrorState>>) -> *const infer_error {
    handle::borrowed(error.unwrap_or(&OUT_OF_MEMORY))
}

fn state(status: infer_status, text: &dyn std::fmt::Display, borrowed: bool) -> Result<ErrorState, Failure> {
    let mut message = Sentence(Vec::new());
    write!(message, "{text}").map_err(|_| Failure::NoMemory)?;
    message.0.try_reserve(1).map_err(|_| Failure::NoMemory)?;
    message.0.push(0);
    Ok(ErrorState {
        status,
        message: Message::Owned(message.0),
        borrowed,
    })
}

/// Text without NUL that grows fallibly.
struct Sentence(Vec<u8>);

impl std::fmt::Write for Sentence {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        self.0.try_reserve(s.len()).map_err(|_| std::fmt::Error)?;
        self.0.extend(s.bytes().map(|b| if b == 0 { b' ' } else { b }));
        Ok(())
    }
}
