//! Panics of libinfer are caught and become errors; this keeps the panic hook from printing them.
//!
//! The C interface installs a hook at its first entry. For threads that are inside libinfer it stores message and
//! location; for all others, host callbacks included, it calls the hook that was there before. A program that uses
//! the Rust library alone never gets here, and its hook stays what it was.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{PanicHookInfo, set_hook, take_hook};
use std::sync::Once;

use super::callback;

thread_local! {
    // A cell without a destructor can be used while the thread ends.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Marks this thread as inside libinfer until it is dropped. Worker threads hold one for life.
#[derive(Debug)]
pub(crate) struct Inside(());

/// Enters libinfer on this thread.
pub(crate) fn enter() -> Inside {
    DEPTH.set(DEPTH.get().saturating_add(1));
    Inside(())
}

impl Drop for Inside {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get().saturating_sub(1));
    }
}

/// Installs the hook, once.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = take_hook();
        set_hook(Box::new(move |info| {
            if !keep(info) {
                previous(info);
            }
        }));
    });
}

/// Stores what the hook is told when the panic is libinfer's own.
fn keep(info: &PanicHookInfo<'_>) -> bool {
    if DEPTH.get() == 0 || callback::is_inside() {
        return false;
    }
    let mut text = payload_text(info.payload()).to_string();
    if let Some(location) = info.location() {
        text.push_str(&format!(" at {location}"));
    }
    let _ = LAST.try_with(|last| {
        if let Ok(mut last) = last.try_borrow_mut() {
            *last = Some(text);
        }
    });
    true
}

fn payload_text(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}

/// Message and location of a panic that was just caught on this thread.
pub(crate) fn describe(payload: &(dyn Any + Send)) -> String {
    LAST.try_with(|last| last.try_borrow_mut().ok().and_then(|mut last| last.take()))
        .ok()
        .flatten()
        .unwrap_or_else(|| payload_text(payload).to_string())
}

/// Whether a panic of `body` inside libinfer stays away from the hook that was there before.
#[cfg(test)]
pub(crate) fn is_silent_for(body: impl FnOnce() + std::panic::UnwindSafe) -> bool {
    let inside = enter();
    let caught = std::panic::catch_unwind(body);
    drop(inside);
    // The hook of libinfer took the message, the previous one would have left nothing here.
    caught.is_err()
        && LAST
            .with(|last| last.borrow_mut().take())
            .is_some_and(|m| m.contains(" at "))
}
