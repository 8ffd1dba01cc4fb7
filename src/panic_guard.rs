//! Which threads are inside libinfer, and what the last panic there said.
//!
//! Panics of libinfer are caught and become errors. A process has one panic hook, and it runs before the catch: the C
//! interface installs one that asks [`keep`] first, so that such a panic is stored for the error instead of printed.
//! The Rust library alone installs none.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::PanicHookInfo;

thread_local! {
    // A cell without a destructor can be used while the thread ends.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Sets this thread's depth back when it is dropped.
#[derive(Debug)]
pub(crate) struct Scope(u32);

/// Marks this thread as inside libinfer. The library's own threads hold one for life.
pub(crate) fn enter() -> Scope {
    Scope(DEPTH.replace(DEPTH.get().saturating_add(1)))
}

/// Marks this thread as running code of the host, which libinfer calls back.
pub(crate) fn leave() -> Scope {
    Scope(DEPTH.replace(0))
}

impl Drop for Scope {
    fn drop(&mut self) {
        DEPTH.set(self.0);
    }
}

/// Stores what a panic hook is told when the panic is libinfer's own; answers whether it was.
pub(crate) fn keep(info: &PanicHookInfo<'_>) -> bool {
    if DEPTH.get() == 0 {
        return false;
    }
    let mut text = text(info.payload()).to_string();
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

fn text(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}

/// Message of a panic that was just caught, with its location when it happened on this thread and a hook kept it.
pub(crate) fn describe(payload: &(dyn Any + Send)) -> String {
    let text = text(payload);
    LAST.try_with(|last| last.try_borrow_mut().ok().and_then(|mut last| last.take()))
        .ok()
        .flatten()
        .filter(|last| last.starts_with(text))
        .unwrap_or_else(|| text.to_string())
}
