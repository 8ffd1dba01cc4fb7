//! Thread pools that several engines may share.

use std::sync::Arc;

use super::error::infer_error;
use super::guard;
use super::handle::{self, Object, magic};
use super::memory;
use super::options;
use super::status::infer_status;
use super::threads_options::infer_threads_options;
use crate::kernel::ThreadPool;

/// A pool of worker threads that several engines may share; they take turns.
///
/// Threads: any number at the same time.
pub struct infer_threads {
    _private: [u8; 0],
}

pub(crate) struct ThreadsState {
    pub(crate) pool: Arc<ThreadPool>,
}

impl Object for infer_threads {
    type State = ThreadsState;
    const MAGIC: u64 = magic(b"INFthrea");
    const NAME: &'static str = "infer_threads";
}

/// Creates a thread pool. options may be NULL. Free it with infer_threads_free().
///
/// Errors: INFER_ERR_INVALID_ARGUMENT for a CPU list that this process may not use or more threads than the system
/// gives, INFER_ERR_NO_MEMORY.
/// Threads: any, while nobody changes options.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_threads_create(
    options: *const infer_threads_options,
    threads: *mut *mut infer_threads,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        memory::check(threads.cast_const(), "threads")?;
        let mut default = None;
        // SAFETY: the conventions of the header.
        let options = unsafe { options::or_default(options, &mut default)? };
        let pool = Arc::new(ThreadPool::from_options(&options.options)?);
        // SAFETY: checked above.
        unsafe { memory::put(threads, handle::create(ThreadsState { pool })?) };
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_threads_create", error, body) }
}

/// Frees a pool. Engines that use it keep it alive. NULL is ignored.
///
/// Threads: any; nobody else may be using the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_threads_free(threads: *mut infer_threads) {
    // SAFETY: the conventions of the header.
    unsafe { guard::free(threads) }
}

/// The number of threads that compute, that of the engine included; 0 for NULL.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_threads_count(threads: *const infer_threads) -> u32 {
    guard::quiet(0, || {
        // SAFETY: the conventions of the header.
        unsafe { handle::get(threads) }
            .map_or(0, |state| u32::try_from(state.pool.threads()).unwrap_or(u32::MAX))
    })
}
