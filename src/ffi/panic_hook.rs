//! The panic hook of the C interface: silent about panics inside libinfer, which are caught and become errors.

use std::panic::{set_hook, take_hook};
use std::sync::Once;

use crate::panic_guard;

/// Installs the hook at the first entry. Panics elsewhere, in callbacks of the host too, go to the hook that was there.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = take_hook();
        set_hook(Box::new(move |info| {
            if !panic_guard::keep(info) {
                previous(info);
            }
        }));
    });
}
