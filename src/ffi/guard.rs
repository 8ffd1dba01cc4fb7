//! What surrounds the body of every exported function: nothing unwinds, nothing runs in a forked child or inside a
//! callback, and the caller's error pointer is always written.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::error::{self, infer_error};
use super::handle::{self, Handle, Object};
use super::status::infer_status;
use super::{callback, fork, panic_hook};
use crate::error::Error;
use crate::kernel::KernelError;
use crate::memory::MemoryError;
use crate::options::OptionError;
use crate::panic_guard;

/// Why a call fails.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The library refused.
    Library(Error),
    /// A handle is not what it should be.
    Handle(String),
    /// Text is not UTF-8.
    Utf8(String),
    /// The caller's buffer has no room.
    BufferTooSmall(String),
    /// No entry of that name.
    NotFound(String),
    /// Header and library differ.
    Abi(String),
    /// Not even the error could be allocated.
    NoMemory,
    /// In a child after `fork`.
    Forked,
    /// From inside a callback.
    InCallback,
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Failure::Library(e)
    }
}

impl From<MemoryError> for Failure {
    fn from(e: MemoryError) -> Self {
        Failure::Library(e.into())
    }
}

impl From<KernelError> for Failure {
    fn from(e: KernelError) -> Self {
        Failure::Library(e.into())
    }
}

impl From<OptionError> for Failure {
    fn from(e: OptionError) -> Self {
        Failure::Library(e.into())
    }
}

/// An argument is not what the function accepts.
pub(crate) fn invalid(message: impl Into<String>) -> Failure {
    Failure::Library(Error::InvalidArgument(message.into()))
}

/// What a body answers.
pub(crate) type Answer = Result<infer_status, Failure>;

/// Runs the body of the exported function `place`.
///
/// # Safety
/// `error` is NULL or points to a writable pointer.
pub(crate) unsafe fn call(
    place: &'static str,
    error: *mut *mut infer_error,
    body: impl FnOnce() -> Answer,
) -> infer_status {
    let error = if error.is_aligned() {
        error
    } else {
        std::ptr::null_mut()
    };
    let answer = if fork::is_child() {
        Err(Failure::Forked)
    } else if callback::is_inside() {
        Err(Failure::InCallback)
    } else {
        panic_hook::install();
        caught(place, body).and_then(|answer| answer)
    };
    let (status, object) = match answer {
        Ok(status) => (status, std::ptr::null_mut()),
        Err(failure) if error.is_null() => (error::status_of(&failure), std::ptr::null_mut()),
        Err(failure) => (error::status_of(&failure), error::create(&failure)),
    };
    if !error.is_null() {
        // SAFETY: aligned, and writable by the promise of the caller.
        unsafe { error.write(object) };
    }
    status
}

/// Runs a body that cannot report an error; `otherwise` is the answer when it panics.
pub(crate) fn quiet<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    caught("", body).unwrap_or(otherwise)
}

fn caught<T>(place: &'static str, body: impl FnOnce() -> T) -> Result<T, Failure> {
    let inside = panic_guard::enter();
    let result = catch_unwind(AssertUnwindSafe(|| {
        #[cfg(infer_faults)]
        crate::fault::panic_at(if place.is_empty() { "quiet" } else { place });
        body()
    }));
    drop(inside);
    result.map_err(|payload| {
        let message = panic_guard::describe(payload.as_ref());
        // A payload is whatever was thrown; its destructor may throw as well.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
        Failure::Library(Error::Internal {
            place: place.to_string(),
            message,
        })
    })
}

/// Frees a handle: nothing happens for NULL and in a forked child; inside a callback, where dropping could wait for
/// the very thread it runs on, another thread does it.
///
/// # Safety
/// `object` is NULL or a handle that nobody uses any more.
pub(crate) unsafe fn free<O>(object: *mut O)
where
    O: Object,
    O::State: Send + 'static,
{
    if object.is_null() || fork::is_child() {
        return;
    }
    panic_hook::install();
    quiet((), || {
        // SAFETY: the promise of the caller is that of `take`.
        let Some(owned) = (unsafe { handle::take(object) }) else {
            return;
        };
        if callback::is_inside() {
            drop_elsewhere::<O>(owned);
        } else {
            drop(owned);
        }
    });
}

fn drop_elsewhere<O>(owned: Box<Handle<O::State>>)
where
    O: Object,
    O::State: Send + 'static,
{
    // Without a thread the object leaks, which is the lesser evil: waiting for oneself never ends.
    let owned = std::mem::ManuallyDrop::new(owned);
    let _ = std::thread::Builder::new()
        .name("infer-free".to_string())
        .spawn(move || quiet((), || drop(std::mem::ManuallyDrop::into_inner(owned))));
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;
    use std::ptr;

    use super::super::error::{infer_error_free, infer_error_message, infer_error_status};
    use super::*;

    fn run(body: impl FnOnce() -> Answer) -> (infer_status, Option<String>) {
        let mut error: *mut infer_error = ptr::without_provenance_mut(1);
        // SAFETY: `error` is a pointer on this stack, the object is freed after its use.
        unsafe {
            let status = call("infer_test", &mut error, body);
            if error.is_null() {
                return (status, None);
            }
            assert_eq!(infer_error_status(error), status as i32);
            let message = CStr::from_ptr(infer_error_message(error))
                .to_str()
                .unwrap()
                .to_string();
            infer_error_free(error);
            (status, Some(message))
        }
    }

    #[test]
    fn the_error_pointer_is_always_written() {
        assert_eq!(run(|| Ok(infer_status::INFER_OK)), (infer_status::INFER_OK, None));
        assert_eq!(
            run(|| Ok(infer_status::INFER_END)),
            (infer_status::INFER_END, None)
        );
        let (status, message) = run(|| Err(invalid("a reason")));
        assert_eq!(status, infer_status::INFER_ERR_INVALID_ARGUMENT);
        assert_eq!(message.unwrap(), "a reason");
    }

    #[test]
    fn a_panic_becomes_an_error_with_place_message_and_location() {
        let (status, message) = run(|| panic!("found {}", 42));
        let message = message.unwrap();
        assert_eq!(status, infer_status::INFER_ERR_INTERNAL);
        for part in ["infer_test", "found 42", "guard.rs"] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn a_call_from_inside_a_callback_is_refused() {
        let scope = callback::enter();
        let (status, message) = run(|| Ok(infer_status::INFER_OK));
        drop(scope);
        assert_eq!(status, infer_status::INFER_ERR_REENTRANT);
        assert!(message.unwrap().contains("callback"));
        assert_eq!(run(|| Ok(infer_status::INFER_OK)).0, infer_status::INFER_OK);
    }
}
