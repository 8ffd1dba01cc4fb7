//! Calls from the library into the host, and the data the host attaches to them.

use std::cell::Cell;
use std::ffi::c_void;

use crate::panic_guard;

/// Frees the user data of a callback. It is called exactly once, when the object that owns the callback and
/// everything created from it no longer need it. When the function that was to set the callback fails, it is not
/// called.
///
/// Threads: any.
pub type infer_free_callback = Option<unsafe extern "C" fn(user_data: *mut c_void)>;

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// This thread runs host code until the scope is dropped.
pub(crate) struct Scope {
    _host: panic_guard::Scope,
}

/// Marks this thread as running host code.
pub(crate) fn enter() -> Scope {
    DEPTH.set(DEPTH.get().saturating_add(1));
    Scope {
        _host: panic_guard::leave(),
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get().saturating_sub(1));
    }
}

/// Whether this thread runs host code that libinfer called.
pub(crate) fn is_inside() -> bool {
    DEPTH.get() > 0
}

/// A pointer of the host's that travels with a callback and is freed with it.
pub(crate) struct UserData {
    pointer: *mut c_void,
    free: infer_free_callback,
}

// SAFETY: the header states on which threads callbacks run; the host made the pointer fit for that.
unsafe impl Send for UserData {}
// SAFETY: as above; libinfer itself never looks behind the pointer.
unsafe impl Sync for UserData {}

impl UserData {
    pub(crate) fn new(pointer: *mut c_void, free: infer_free_callback) -> Self {
        Self { pointer, free }
    }

    /// The host's pointer.
    pub(crate) fn pointer(&self) -> *mut c_void {
        self.pointer
    }
}

impl Drop for UserData {
    fn drop(&mut self) {
        if let Some(free) = self.free {
            let _scope = enter();
            // SAFETY: the host gave this function for this pointer, and a drop happens once.
            unsafe { free(self.pointer) };
        }
    }
}
