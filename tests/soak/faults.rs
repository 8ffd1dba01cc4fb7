//! Faults that strike while the engines are busy, in test builds that can (`--cfg infer_faults`); elsewhere nothing.

#[cfg(infer_faults)]
use std::sync::{Mutex, PoisonError};

/// Where faults strike, with how often a place is passed before at most. A fault in the engine's thread outside a step
/// would end the engine, and is not among them.
#[cfg(infer_faults)]
const PLACES: [(&std::ffi::CStr, usize); 4] = [
    (c"step", 20),
    (c"task", 2000),
    (c"task of a pool thread", 40),
    (c"memory", 30),
];
/// Refused memory; all others are panics.
#[cfg(infer_faults)]
const MEMORY: usize = 3;

/// What has struck.
#[derive(Debug, Default, Clone, Copy)]
pub struct Struck {
    pub panics: u64,
    pub refusals: u64,
}

impl Struck {
    pub fn since(self, before: Self) -> Self {
        Self {
            panics: self.panics - before.panics,
            refusals: self.refusals - before.refusals,
        }
    }
}

/// The place of the fault that is armed, and what has struck before.
#[cfg(infer_faults)]
static ARMED: Mutex<(Option<usize>, Struck)> = Mutex::new((
    None,
    Struck {
        panics: 0,
        refusals: 0,
    },
));

/// Arms a fault in place of the one before; `below(n)` decides.
#[cfg(infer_faults)]
pub fn arm(below: &mut dyn FnMut(usize) -> usize) {
    let place = below(PLACES.len());
    let (name, most) = PLACES[place];
    let mut armed = ARMED.lock().unwrap_or_else(PoisonError::into_inner);
    settle(&mut armed);
    armed.0 = Some(place);
    #[allow(unsafe_code, reason = "what C tests arm faults with")]
    // SAFETY: the text ends with a NUL.
    unsafe {
        infer::ffi::infer_fault_arm(name.as_ptr(), below(most) as u64);
    }
}

#[cfg(not(infer_faults))]
pub fn arm(_below: &mut dyn FnMut(usize) -> usize) {}

/// Disarms; answers what has struck so far.
#[cfg(infer_faults)]
pub fn struck() -> Struck {
    let mut armed = ARMED.lock().unwrap_or_else(PoisonError::into_inner);
    settle(&mut armed);
    armed.1
}

#[cfg(not(infer_faults))]
pub fn struck() -> Struck {
    Struck::default()
}

#[cfg(infer_faults)]
fn settle(armed: &mut (Option<usize>, Struck)) {
    if infer::ffi::infer_fault_disarm() == 1 {
        match armed.0 {
            Some(MEMORY) => armed.1.refusals += 1,
            _ => armed.1.panics += 1,
        }
    }
    armed.0 = None;
}
