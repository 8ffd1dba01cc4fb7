//! Requests: reading events and cancelling.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use super::engine::{Requests, timeout};
use super::error::infer_error;
use super::event::{Slots, infer_event};
use super::guard::{self, Failure};
use super::handle::{self, Object, magic};
use super::memory;
use super::status::infer_status;
use crate::engine::{Poll, Request};
use crate::error::Error;

/// One submitted completion. It does not keep its engine running: when the engine is freed, the request ends as
/// cancelled and can still be read.
///
/// Threads: one reader at a time; cancel and the accessors from any.
pub struct infer_request {
    _private: [u8; 0],
}

pub(crate) struct RequestState {
    request: Request,
    requests: Arc<Requests>,
    /// Owns what events of the last read point to.
    slots: Mutex<Slots>,
}

impl RequestState {
    pub(crate) fn new(request: Request, requests: Arc<Requests>) -> Self {
        Self {
            request,
            requests,
            slots: Mutex::default(),
        }
    }
}

impl Drop for RequestState {
    fn drop(&mut self) {
        self.requests.remove(self.request.id());
    }
}

impl Object for infer_request {
    type State = RequestState;
    const MAGIC: u64 = magic(b"INFreque");
    const NAME: &'static str = "infer_request";
}

/// The buffers behind the events of a request or queue; an error while another thread reads.
pub(crate) fn reader<'a>(slots: &'a Mutex<Slots>, what: &str) -> Result<MutexGuard<'a, Slots>, Failure> {
    match slots.try_lock() {
        Ok(slots) => Ok(slots),
        Err(TryLockError::Poisoned(e)) => Ok(PoisonError::into_inner(e)),
        Err(TryLockError::WouldBlock) => Err(Failure::Library(Error::Reentrant(format!(
            "another thread is reading this {what}: a {what} has one reader at a time"
        )))),
    }
}

/// Waits for the next event and fills event. Everything that was produced since the last read comes in one event. The
/// last one has the kind INFER_EVENT_FINISHED; after it comes INFER_END. What the event points to lives until the next
/// read of the request or until it is freed.
///
/// Answers INFER_TIMEOUT when nothing came in time, INFER_END after the last event; event is then unchanged.
///
/// Errors: INFER_ERR_REENTRANT while another thread reads, INFER_ERR_INVALID_ARGUMENT for a request that reports to a
/// queue.
/// Threads: one reader of the request at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_request_next(
    request: *const infer_request,
    timeout_ms: i64,
    event: *mut infer_event,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        let (state, size) = unsafe {
            (
                handle::get(request)?,
                memory::struct_size(event.cast_const(), "event")?,
            )
        };
        let mut slots = reader(&state.slots, "request")?;
        let poll = state.request.next(timeout(timeout_ms), &mut slots.events(1)[0])?;
        Ok(match poll {
            Poll::Event => {
                // SAFETY: `event` passed the check.
                unsafe { memory::write_struct(&slots.publish(0), event, size) };
                infer_status::INFER_OK
            }
            Poll::Timeout => infer_status::INFER_TIMEOUT,
            Poll::End => infer_status::INFER_END,
        })
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_request_next", error, body) }
}

/// Waits for the next event and takes all that are there, up to capacity. events is an array whose elements are stride
/// bytes apart, sizeof(infer_event) in your program; they need no initialization. How many were filled is written to
/// *n. What they point to lives until the next read of the request or until it is freed.
///
/// Answers as infer_request_next(); *n is 0 unless it is INFER_OK.
///
/// Errors: as infer_request_next().
/// Threads: one reader of the request at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_request_next_many(
    request: *const infer_request,
    timeout_ms: i64,
    events: *mut infer_event,
    capacity: usize,
    stride: usize,
    n: *mut usize,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        memory::check(n.cast_const(), "n")?;
        let capacity = super::event::check_array(events, capacity, stride)?;
        // SAFETY: the conventions of the header.
        let state = unsafe { handle::get(request)? };
        let mut slots = reader(&state.slots, "request")?;
        let mut count = 0;
        let mut last = Poll::Timeout;
        // A request has one event waiting at most, and one more can come while it is taken.
        for slot in slots.events(capacity.min(2)) {
            let wait = if count == 0 { timeout_ms } else { 0 };
            last = state.request.next(timeout(wait), slot)?;
            if last != Poll::Event {
                break;
            }
            count += 1;
        }
        // SAFETY: both were checked, and the array has room for `capacity` events.
        unsafe {
            slots.publish_array(count, events, stride);
            memory::put(n, count);
        }
        Ok(match last {
            _ if count > 0 => infer_status::INFER_OK,
            Poll::End => infer_status::INFER_END,
            _ => infer_status::INFER_TIMEOUT,
        })
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_request_next_many", error, body) }
}

/// Cancels a request: it ends within one layer or chunk of its prompt, its memory is released before its last event,
/// and that event has the reason INFER_FINISH_CANCELLED. Cancelling twice, or after the end, changes nothing.
///
/// Errors: those of every call.
/// Threads: any, also while another one reads.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_request_cancel(
    request: *const infer_request,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        unsafe { handle::get(request)? }.request.cancel();
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_request_cancel", error, body) }
}

/// Frees a request; if it has not ended it is cancelled, without waiting for that. Events of a request that reports to
/// a queue can still be in there. NULL is ignored.
///
/// Threads: any; nobody else may be using the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_request_free(request: *mut infer_request) {
    // SAFETY: the conventions of the header.
    unsafe { guard::free(request) }
}

/// The tag from the request's options; 0 for NULL.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_request_tag(request: *const infer_request) -> u64 {
    guard::quiet(0, || {
        // SAFETY: the conventions of the header.
        unsafe { handle::get(request) }.map_or(0, |s| s.request.tag())
    })
}

/// A number that no other request of this process has; 0 for NULL.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_request_id(request: *const infer_request) -> u64 {
    guard::quiet(0, || {
        // SAFETY: the conventions of the header.
        unsafe { handle::get(request) }.map_or(0, |s| s.request.id())
    })
}
