//! Engines: submission, waiting, life cycle, reports.

use std::collections::HashMap;
use std::ffi::c_char;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::engine_options::infer_engine_options;
use super::error::infer_error;
use super::guard::{self, Failure, invalid};
use super::handle::{self, Object, magic};
use super::histogram::{self, infer_histogram};
use super::model::infer_model;
use super::request::{RequestState, infer_request};
use super::request_options::infer_request_options;
use super::stats::infer_stats;
use super::status::infer_status;
use super::{memory, options, string};
use crate::engine::Engine;

/// Schedules the requests of one model and computes them on its threads.
///
/// Threads: any number at the same time.
pub struct infer_engine {
    _private: [u8; 0],
}

pub(crate) struct EngineState {
    pub(super) engine: Engine,
    requests: Arc<Requests>,
}

impl Object for infer_engine {
    type State = EngineState;
    const MAGIC: u64 = magic(b"INFengin");
    const NAME: &'static str = "infer_engine";
}

/// The handles of an engine's requests by request number, for [`infer_engine_wait`].
#[derive(Default)]
pub(crate) struct Requests(Mutex<HashMap<u64, Address>>);

/// A handle that is only handed back to its owner.
struct Address(*mut infer_request);

// SAFETY: the pointer is copied and never followed.
unsafe impl Send for Address {}

impl Requests {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Address>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a request that is freed.
    pub(crate) fn remove(&self, id: u64) {
        self.lock().remove(&id);
    }
}

/// A timeout as the library takes it.
pub(crate) fn timeout(milliseconds: i64) -> Option<Duration> {
    u64::try_from(milliseconds).ok().map(Duration::from_millis)
}

/// Creates an engine for a model, which it keeps alive. options may be NULL. Unless the option manual_step is set it
/// starts threads of its own. Free it with infer_engine_free().
///
/// Errors: INFER_ERR_NO_MEMORY, INFER_ERR_UNSUPPORTED for a CPU level this machine lacks or a model loaded without
/// weights, INFER_ERR_INVALID_ARGUMENT for options that contradict each other.
/// Threads: any, while nobody changes options.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_engine_create(
    model: *const infer_model,
    options: *const infer_engine_options,
    engine: *mut *mut infer_engine,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        memory::check(engine.cast_const(), "engine")?;
        let mut default = None;
        // SAFETY: the conventions of the header.
        let (model, options) = unsafe { (handle::get(model)?, options::or_default(options, &mut default)?) };
        let created = Engine::new(Arc::clone(&model.model), options.options.clone())?;
        let state = EngineState {
            engine: created,
            requests: Arc::default(),
        };
        // SAFETY: checked above.
        unsafe { memory::put(engine, handle::create(state)?) };
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_engine_create", error, body) }
}

/// Frees an engine: its requests end as cancelled, their readers wake up, its threads end. The requests themselves
/// still have to be freed, before or after. NULL is ignored.
///
/// Threads: any; nobody else may be using the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_engine_free(engine: *mut infer_engine) {
    // SAFETY: the conventions of the header.
    unsafe { guard::free(engine) }
}

/// Submits a request. It never waits for other requests; text is turned into tokens on the calling thread. options are
/// copied. Free the request with infer_request_free().
///
/// Errors: INFER_ERR_BUSY when max_queued requests wait, INFER_ERR_CLOSED while draining, INFER_ERR_INVALID_ARGUMENT
/// without a prompt or with ids outside the vocabulary, INFER_ERR_CONTEXT for a prompt that does not fit,
/// INFER_ERR_TOKENIZER, INFER_ERR_UNSUPPORTED, INFER_ERR_NO_MEMORY.
/// Threads: any, while nobody changes options.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_engine_submit(
    engine: *const infer_engine,
    options: *const infer_request_options,
    request: *mut *mut infer_request,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        memory::check(request.cast_const(), "request")?;
        // SAFETY: the conventions of the header.
        let (state, options) = unsafe { (handle::get(engine)?, handle::get(options)?) };
        let submitted = state.engine.submit(options.to_request()?)?;
        // SAFETY: checked above.
        unsafe { memory::put(request, register(state, submitted)?) };
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_engine_submit", error, body) }
}

/// Submits n requests, all or none: options is an array of n option objects (the same one may appear more than once),
/// requests receives n requests in the same order. Free each with infer_request_free().
///
/// Errors: as infer_engine_submit(); the error names the index.
/// Threads: any, while nobody changes options.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_engine_submit_batch(
    engine: *const infer_engine,
    options: *const *const infer_request_options,
    n: usize,
    requests: *mut *mut infer_request,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        if n == 0 {
            return Err(invalid("n: expected at least 1 request, found 0"));
        }
        memory::check(requests.cast_const(), "requests")?;
        // SAFETY: the conventions of the header.
        let (state, options) = unsafe { (handle::get(engine)?, memory::input(options, n, "options")?) };
        let mut batch = crate::memory::with_capacity(n, "the requests of a batch")?;
        for &one in options {
            // SAFETY: the conventions of the header.
            batch.push(unsafe { handle::get(one)? }.to_request()?);
        }
        let mut handles = crate::memory::with_capacity(n, "the requests of a batch")?;
        for submitted in state.engine.submit_batch(batch)? {
            match register(state, submitted) {
                Ok(handle) => handles.push(handle),
                Err(failure) => {
                    for handle in handles {
                        // SAFETY: created just now, and nobody has seen it. Requests not yet seen end by being dropped.
                        unsafe { drop(handle::take(handle)) };
                    }
                    return Err(failure);
                }
            }
        }
        for (i, handle) in handles.into_iter().enumerate() {
            // SAFETY: the array has room for n handles by the conventions of the header.
            unsafe { memory::put(requests.add(i), handle) };
        }
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_engine_submit_batch", error, body) }
}

fn register(state: &EngineState, submitted: crate::engine::Request) -> Result<*mut infer_request, Failure> {
    let id = submitted.id();
    let handle = handle::create(RequestState::new(submitted, Arc::clone(&state.requests)))?;
    state.requests.lock().insert(id, Address(handle));
    Ok(handle)
}

/// Waits until requests of this engine have events to read, writes up to capacity of them to ready and how many to
/// *n. They stay ready until they are read, and stay yours to free with infer_request_free(). Requests that report to
/// a queue do not appear. Do not free a request of this engine while another thread may be given it here.
///
/// Answers INFER_TIMEOUT with *n = 0 when none became ready.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT for a capacity of 0.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_engine_wait(
    engine: *const infer_engine,
    timeout_ms: i64,
    ready: *mut *mut infer_request,
    capacity: usize,
    n: *mut usize,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        if capacity == 0 {
            return Err(invalid("capacity: expected room for at least 1 request, found 0"));
        }
        memory::check(ready.cast_const(), "ready")?;
        memory::check(n.cast_const(), "n")?;
        // SAFETY: the conventions of the header.
        let state = unsafe { handle::get(engine)? };
        let deadline = timeout(timeout_ms).and_then(|t| Instant::now().checked_add(t));
        loop {
            let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
            let mut ids = Vec::new();
            state
                .engine
                .wait(left, capacity.min(4096), &mut |id| ids.push(id));
            let mut count = 0;
            {
                let known = state.requests.lock();
                for handle in ids.iter().filter_map(|id| known.get(id)) {
                    // SAFETY: `count` stays below `capacity`, for which there is room.
                    unsafe { memory::put(ready.add(count), handle.0) };
                    count += 1;
                }
            }
            let late = deadline.is_some_and(|end| Instant::now() >= end);
            if count > 0 || late {
                // SAFETY: checked above.
                unsafe { memory::put(n, count) };
                return Ok(if count > 0 {
                    infer_status::INFER_OK
                } else {
                    infer_status::INFER_TIMEOUT
                });
            }
            // What is ready was submitted a moment ago and its handle is about to be known, or it was just freed.
            if !ids.is_empty() {
                std::thread::yield_now();
            }
        }
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_engine_wait", error, body) }
}

/// Stops taking requests, which are answered with INFER_ERR_CLOSED from then on, and waits until those that were taken
/// have ended. infer_engine_resume() takes requests again.
///
/// Answers INFER_TIMEOUT when some are still running; call again or free the engine.
///
/// Errors: INFER_ERR_REENTRANT while another thread is in infer_engine_step().
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_engine_drain(
    engine: *const infer_engine,
    timeout_ms: i64,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        let state = unsafe { handle::get(engine)? };
        Ok(if state.engine.drain(timeout(timeout_ms))? {
            infer_status::INFER_OK
        } else {
            infer_status::INFER_TIMEOUT
        })
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_engine_drain", error, body) }
}

/// Stops computing after the current step until infer_engine_resume(). Requests can still be submitted and cancelled.
///
/// Errors: those of every call.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_engine_pause(
    engine: *const infer_engine,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        unsafe { handle::get(engine)? }.engine.pause();
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_engine_pause", error, body) }
}

/// Goes on after infer_engine_pause(), and takes requests again after infer_engine_drain().
///
/// Errors: those of every call.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_engine_resume(
    engine: *const infer_engine,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        unsafe { handle::get(engine)? }.engine.resume();
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_engine_resume", error, body) }
}

/// Gives up to bytes of memory that is only kept for speed back to the system. How much it was is written to *freed,
/// which may be NULL.
///
/// Errors: those of every call.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_engine_trim(
    engine: *const infer_engine,
    bytes: u64,
    freed: *mut u64,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        if !freed.is_null() {
            memory::check(freed.cast_const(), "freed")?;
        }
        // SAFETY: the conventions of the header.
        let given = unsafe { handle::get(engine)? }.engine.trim(bytes);
        if !freed.is_null() {
            // SAFETY: checked above.
            unsafe { memory::put(freed, given) };
        }
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_engine_trim", error, body) }
}

/// Forgets cached keys and values of finished requests: those with this salt, or all when the salt is empty. The salt
/// is any text up to salt_len bytes.
///
/// Errors: INFER_ERR_INVALID_UTF8.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_engine_cache_clear(
    engine: *const infer_engine,
    salt: *const c_char,
    salt_len: usize,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        let (state, salt) = unsafe { (handle::get(engine)?, string::input(salt, salt_len, "the salt")?) };
        state.engine.cache_clear(salt.as_bytes())?;
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_engine_cache_clear", error, body) }
}

/// Computes one step on the calling thread, for engines created with the option manual_step. 1 is written to *more
/// when there is still work and 0 when all requests have ended. more may be NULL.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT for an engine that steps by itself, INFER_ERR_REENTRANT while another thread is
/// in a step.
/// Threads: any, one at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_engine_step(
    engine: *const infer_engine,
    more: *mut u32,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        if !more.is_null() {
            memory::check(more.cast_const(), "more")?;
        }
        // SAFETY: the conventions of the header.
        let left = unsafe { handle::get(engine)? }.engine.step()?;
        if !more.is_null() {
            // SAFETY: checked above.
            unsafe { memory::put(more, u32::from(left)) };
        }
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_engine_step", error, body) }
}

/// Fills stats with a snapshot of the engine's counters. Reading them does not slow the engine down.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT when stats is NULL or too small.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_engine_stats(
    engine: *const infer_engine,
    stats: *mut infer_stats,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        let (state, size) = unsafe {
            (
                handle::get(engine)?,
                memory::struct_size(stats.cast_const(), "stats")?,
            )
        };
        let ours = infer_stats::from(&state.engine.stats());
        // SAFETY: `stats` passed the check.
        unsafe { memory::write_struct(&ours, stats, size) };
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_engine_stats", error, body) }
}

/// Fills histogram with how often values fell into each bucket; kind is an infer_histogram_kind. Reading it does not slow
/// the engine down.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT when histogram is NULL or too small, or when there is no such kind.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_engine_histogram(
    engine: *const infer_engine,
    kind: u32,
    histogram: *mut infer_histogram,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        let (state, size) = unsafe {
            (
                handle::get(engine)?,
                memory::struct_size(histogram.cast_const(), "histogram")?,
            )
        };
        let ours = infer_histogram::from(&state.engine.histogram(histogram::kind_of(kind)?));
        // SAFETY: `histogram` passed the check.
        unsafe { memory::write_struct(&ours, histogram, size) };
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_engine_histogram", error, body) }
}

/// Copies a report for people into buffer: for each feature whether it is on, what the model's geometry predicts, and
/// what was measured. See "Text out" above for buffer, capacity and needed; the report can grow between two calls, so
/// leave some room.
///
/// Errors: INFER_ERR_BUFFER_TOO_SMALL.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_engine_summary(
    engine: *const infer_engine,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        let text = unsafe { handle::get(engine)? }.engine.summary();
        // SAFETY: the conventions of the header.
        unsafe { string::output(&text, buffer, capacity, needed) }
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_engine_summary", error, body) }
}

/// Copies the counters and histograms in Prometheus' text format into buffer. See infer_engine_summary() for buffer,
/// capacity and needed.
///
/// Errors: INFER_ERR_BUFFER_TOO_SMALL.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_engine_metrics_text(
    engine: *const infer_engine,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        let text = unsafe { handle::get(engine)? }.engine.metrics_text();
        // SAFETY: the conventions of the header.
        unsafe { string::output(&text, buffer, capacity, needed) }
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_engine_metrics_text", error, body) }
}
