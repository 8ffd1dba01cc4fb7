//! Cached prefixes that outlive an engine.

use std::ffi::c_char;

use super::engine::infer_engine;
use super::error::infer_error;
use super::guard;
use super::handle;
use super::status::infer_status;
use super::{memory, string};

/// Copies what the prefix cache holds of the longest cached prefix of these token ids, with this salt (any text up to
/// salt_len bytes), into buffer, so that infer_engine_state_restore() can bring it back in another engine or process.
/// When nothing of it is cached that is a state of no tokens. The bytes hold the token ids in the clear. Running requests
/// wait while it is copied, between two steps.
///
/// The size of the state is always written to *needed: ask for it with a NULL buffer of capacity 0, and leave some room,
/// because it grows with requests that are running.
///
/// Errors: INFER_ERR_BUFFER_TOO_SMALL, INFER_ERR_UNSUPPORTED for an engine without prefix_cache, INFER_ERR_INVALID_UTF8,
/// INFER_ERR_NO_MEMORY.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_engine_state_save(
    engine: *const infer_engine,
    ids: *const u32,
    n_ids: usize,
    salt: *const c_char,
    salt_len: usize,
    buffer: *mut u8,
    capacity: usize,
    needed: *mut usize,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        let (state, ids, salt) = unsafe {
            (
                handle::get(engine)?,
                memory::input(ids, n_ids, "ids")?,
                string::input(salt, salt_len, "the salt")?,
            )
        };
        let size = state.engine.state_size(ids, salt.as_bytes())?;
        // SAFETY: the conventions of the header.
        if !unsafe { memory::report(size, buffer.is_null(), capacity, needed)? } {
            return Ok(infer_status::INFER_OK);
        }
        let saved = state.engine.save_state(ids, salt.as_bytes())?;
        // SAFETY: the conventions of the header.
        unsafe { memory::output(&saved, buffer, capacity, needed) }
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_engine_state_save", error, body) }
}

/// Brings the size bytes of a saved state into the prefix cache: requests with this salt whose prompts begin with its
/// tokens start after them, with the output they have without it. How many tokens are cached then is written to
/// *n_tokens, which may be NULL; they are fewer than were saved when the cache is too small beside what is running.
/// The bytes are needed only during the call. Running requests wait while they are copied, between two steps.
///
/// A state fits engines that compute the same bits: same weights, element type of the cache, CPU level, precision and
/// version of the arithmetic. Bytes that are damaged are refused, but restore only what you saved: who writes
/// states can choose what the model takes for the meaning of a prompt.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT for bytes that are no state, or one of another kind of engine: the error says what
/// differs; INFER_ERR_UNSUPPORTED for an engine without prefix_cache, INFER_ERR_INVALID_UTF8, INFER_ERR_NO_MEMORY.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_engine_state_restore(
    engine: *const infer_engine,
    buffer: *const u8,
    size: usize,
    salt: *const c_char,
    salt_len: usize,
    n_tokens: *mut usize,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        if !n_tokens.is_null() {
            memory::check(n_tokens.cast_const(), "n_tokens")?;
        }
        // SAFETY: the conventions of the header.
        let (state, bytes, salt) = unsafe {
            (
                handle::get(engine)?,
                memory::input(buffer, size, "buffer")?,
                string::input(salt, salt_len, "the salt")?,
            )
        };
        let n = state.engine.restore_state(bytes, salt.as_bytes())?;
        if !n_tokens.is_null() {
            // SAFETY: checked above.
            unsafe { memory::put(n_tokens, n) };
        }
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_engine_state_restore", error, body) }
}
