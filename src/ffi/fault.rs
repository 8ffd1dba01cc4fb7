//! What C tests arm faults with. It is in no header: the tests declare it themselves.

use std::ffi::{CStr, c_char};

use crate::fault;

/// Arms a fault: it strikes at the named place after that was passed `skip` times.
///
/// # Safety
/// `place` is NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_fault_arm(place: *const c_char, skip: u64) {
    // SAFETY: the promise of the caller.
    let place = unsafe { CStr::from_ptr(place) };
    fault::arm(&place.to_string_lossy(), skip);
}

/// Disarms the fault; answers 1 when it had struck, else 0.
#[unsafe(no_mangle)]
pub extern "C" fn infer_fault_disarm() -> u32 {
    u32::from(fault::disarm())
}
