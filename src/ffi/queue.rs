//! Completion queues.

use std::ffi::c_int;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::engine::timeout;
use super::error::infer_error;
use super::event::{self, Slots, infer_event};
use super::event_fd::Signal;
use super::guard;
use super::handle::{self, Object, magic};
use super::memory;
use super::request::reader;
use super::status::infer_status;
use crate::engine::Queue;

/// A completion queue: many requests, of one engine or several, report to it, and one thread reads the events of all.
///
/// Threads: one reader at a time; requests may be pointed at it from any.
pub struct infer_queue {
    _private: [u8; 0],
}

pub(crate) struct QueueState {
    pub(crate) queue: Arc<Queue>,
    signal: Arc<Signal>,
    slots: Mutex<Slots>,
}

impl Object for infer_queue {
    type State = QueueState;
    const MAGIC: u64 = magic(b"INFqueue");
    const NAME: &'static str = "infer_queue";
}

/// Creates a queue. Free it with infer_queue_free().
///
/// Errors: INFER_ERR_NO_MEMORY.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_queue_create(
    queue: *mut *mut infer_queue,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        memory::check(queue.cast_const(), "queue")?;
        let signal = Arc::new(Signal::default());
        let follow = Arc::clone(&signal);
        let state = QueueState {
            queue: Arc::new(Queue::new(Some(Box::new(move |full| follow.set(full))))),
            signal,
            slots: Mutex::default(),
        };
        // SAFETY: checked above.
        unsafe { memory::put(queue, handle::create(state)?) };
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_queue_create", error, body) }
}

/// Frees a queue. Requests that report to it go on, unread. NULL is ignored.
///
/// Threads: any; nobody else may be using the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_queue_free(queue: *mut infer_queue) {
    // SAFETY: the conventions of the header.
    unsafe { guard::free(queue) }
}

/// Waits until there are events and takes up to capacity of them, at most one per request: what a request produced
/// since it was last read comes in one event, so a slow reader gets fewer and longer ones. The request is known by the
/// tag. events is an array whose elements are stride bytes apart, sizeof(infer_event) in your program; they need no
/// initialization. How many were filled is written to *n. What they point to lives until the next read of the queue.
///
/// Answers INFER_TIMEOUT with *n = 0 when nothing came in time. A queue has no end: count the events of kind
/// INFER_EVENT_FINISHED.
///
/// Errors: INFER_ERR_REENTRANT while another thread reads.
/// Threads: one reader of the queue at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_queue_next(
    queue: *const infer_queue,
    timeout_ms: i64,
    events: *mut infer_event,
    capacity: usize,
    stride: usize,
    n: *mut usize,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        memory::check(n.cast_const(), "n")?;
        let capacity = event::check_array(events, capacity, stride)?;
        // SAFETY: the conventions of the header.
        let state = unsafe { handle::get(queue)? };
        let mut slots = reader(&state.slots, "queue")?;
        let deadline = timeout(timeout_ms).and_then(|t| Instant::now().checked_add(t));
        let count = loop {
            let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
            let count = state.queue.next(left, slots.events(capacity))?;
            // A wake-up without an event is not the end of the wait.
            if count > 0 || deadline.is_some_and(|end| Instant::now() >= end) {
                break count;
            }
        };
        // SAFETY: both were checked, and the array has room for `capacity` events.
        unsafe {
            slots.publish_array(count, events, stride);
            memory::put(n, count);
        }
        Ok(if count > 0 {
            infer_status::INFER_OK
        } else {
            infer_status::INFER_TIMEOUT
        })
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_queue_next", error, body) }
}

/// Writes a file descriptor to *fd that is readable while the queue has events, for poll, epoll or an event loop. It
/// belongs to the queue: neither read nor close it. Every call gives the same one; freeing the queue closes it.
///
/// Errors: INFER_ERR_UNSUPPORTED where there is no eventfd, which is everywhere but Linux; INFER_ERR_IO when the
/// process has too many open files.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_queue_fd(
    queue: *const infer_queue,
    fd: *mut c_int,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        memory::check(fd.cast_const(), "fd")?;
        // SAFETY: the conventions of the header.
        let opened = unsafe { handle::get(queue)? }.signal.fd()?;
        // SAFETY: checked above.
        unsafe { memory::put(fd, opened) };
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_queue_fd", error, body) }
}
