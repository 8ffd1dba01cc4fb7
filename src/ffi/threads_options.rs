//! Options of creating a thread pool.

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use super::callback::{self, UserData, infer_free_callback};
use super::error::infer_error;
use super::guard;
use super::handle::{self, Object, magic};
use super::options;
use super::status::infer_status;
use crate::options::ThreadsOptions;

/// Options of creating a thread pool.
///
/// Threads: one user at a time.
pub struct infer_threads_options {
    _private: [u8; 0],
}

/// Runs on a thread of a pool when it starts or before it ends, with the thread's number and the pointer given with
/// the hook.
///
/// Threads: the one of the pool that it is about.
pub type infer_thread_hook = Option<unsafe extern "C" fn(index: u32, user_data: *mut c_void)>;

#[derive(Default)]
pub(crate) struct ThreadsOptionsState {
    pub(crate) options: ThreadsOptions,
}

impl Object for infer_threads_options {
    type State = ThreadsOptionsState;
    const MAGIC: u64 = magic(b"INFopt_t");
    const NAME: &'static str = "infer_threads_options";
}

/// New options with every default; NULL only when there is no memory. Free them with infer_threads_options_free().
///
/// Threads: any.
#[unsafe(no_mangle)]
pub extern "C" fn infer_threads_options_new() -> *mut infer_threads_options {
    options::create()
}

/// Frees options. NULL is ignored.
///
/// Threads: any; nobody else may be using the options.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_threads_options_free(options: *mut infer_threads_options) {
    // SAFETY: the conventions of the header.
    unsafe { guard::free(options) }
}

/// Sets the option key to value, both NUL-terminated; infer_options_describe() lists keys, types and ranges.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT for an unknown key or a value outside the range.
/// Threads: one user of options at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_threads_options_set(
    options: *mut infer_threads_options,
    key: *const c_char,
    value: *const c_char,
    error: *mut *mut infer_error,
) -> infer_status {
    // SAFETY: the conventions of the header.
    let body = || unsafe { options::set(options, key, value, |state| &mut state.options) };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_threads_options_set", error, body) }
}

/// Sets functions that run on each thread of the pool when it starts and before it ends, for naming it in a profiler
/// or attaching it to a runtime. Each may be NULL. free_user_data may be NULL; it runs when the options and all pools
/// created from them are gone.
///
/// Errors: those of every call.
/// Threads: one user of options at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_threads_options_set_hooks(
    options: *mut infer_threads_options,
    on_start: infer_thread_hook,
    on_stop: infer_thread_hook,
    user_data: *mut c_void,
    free_user_data: infer_free_callback,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        let options = unsafe { handle::get_mut(options)? };
        let user_data = Arc::new(UserData::new(user_data, free_user_data));
        let wrap = |hook: infer_thread_hook| {
            hook.map(|hook| {
                let user_data = Arc::clone(&user_data);
                let hook: Arc<dyn Fn(usize) + Send + Sync> = Arc::new(move |index| {
                    let _scope = callback::enter();
                    let index = u32::try_from(index).unwrap_or(u32::MAX);
                    // SAFETY: the host gave the function to be called with this pointer.
                    unsafe { hook(index, user_data.pointer()) }
                });
                hook
            })
        };
        options.options.on_start = wrap(on_start);
        options.options.on_stop = wrap(on_stop);
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_threads_options_set_hooks", error, body) }
}
