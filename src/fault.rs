//! Faults on demand, for tests of what hosts see of a defect or of missing memory.
//!
//! Compiled with `--cfg infer_faults` alone (`.ci/proofs`): no library that is shipped has any of it. One fault can be
//! armed at a time; it strikes once, when its place has been passed as often as asked.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};

use crate::memory::MemoryError;

struct Fault {
    place: String,
    /// How often the place is passed unharmed.
    skip: u64,
}

static ARMED: Mutex<Option<Fault>> = Mutex::new(None);
static FIRED: AtomicBool = AtomicBool::new(false);

/// Arms a fault in place of the one before.
pub(crate) fn arm(place: &str, skip: u64) {
    let place = place.to_string();
    let mut armed = ARMED.lock().unwrap_or_else(PoisonError::into_inner);
    *armed = Some(Fault { place, skip });
    FIRED.store(false, SeqCst);
}

/// Disarms; answers whether the fault had struck.
pub(crate) fn disarm() -> bool {
    *ARMED.lock().unwrap_or_else(PoisonError::into_inner) = None;
    FIRED.swap(false, SeqCst)
}

fn strikes(place: &str) -> bool {
    let mut armed = ARMED.lock().unwrap_or_else(PoisonError::into_inner);
    match &mut *armed {
        Some(fault) if fault.place == place && fault.skip == 0 => {
            *armed = None;
            FIRED.store(true, SeqCst);
            true
        }
        Some(fault) if fault.place == place => {
            fault.skip -= 1;
            false
        }
        _ => false,
    }
}

/// Panics when the fault is armed for this place.
pub(crate) fn panic_at(place: &str) {
    assert!(!strikes(place), "an injected fault: {place}");
}

/// Answers that memory is short when the fault is armed for this place.
pub(crate) fn exhausted_at(place: &str, what: &str) -> Result<(), MemoryError> {
    if strikes(place) {
        return Err(MemoryError::Exhausted {
            what: format!("{what} (an injected fault)"),
            bytes: 0,
        });
    }
    Ok(())
}
