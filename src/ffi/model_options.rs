//! Options of loading a model.

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use super::callback::{self, UserData, infer_free_callback};
use super::error::infer_error;
use super::guard;
use super::handle::{self, Object, magic};
use super::options;
use super::status::infer_status;
use crate::options::ModelOptions;

/// Options of loading a model.
///
/// Threads: one user at a time.
pub struct infer_model_options {
    _private: [u8; 0],
}

/// Tells how far loading has come, as a fraction from 0 to 1 that never falls. Answer nonzero to go on and 0 to
/// cancel: the load then answers INFER_ERR_CANCELLED. user_data is the pointer given with the callback.
///
/// Threads: the one that loads the model.
pub type infer_progress_callback = Option<unsafe extern "C" fn(fraction: f32, user_data: *mut c_void) -> u32>;

#[derive(Default)]
pub(crate) struct ModelOptionsState {
    pub(crate) options: ModelOptions,
    pub(crate) progress: Option<Arc<Progress>>,
}

/// A progress callback with its data.
pub(crate) struct Progress {
    callback: unsafe extern "C" fn(f32, *mut c_void) -> u32,
    user_data: UserData,
}

impl Progress {
    /// Tells the host; answers whether to go on.
    pub(crate) fn report(&self, fraction: f32) -> bool {
        let _scope = callback::enter();
        // SAFETY: the host gave the function to be called with this pointer.
        unsafe { (self.callback)(fraction, self.user_data.pointer()) != 0 }
    }
}

impl Object for infer_model_options {
    type State = ModelOptionsState;
    const MAGIC: u64 = magic(b"INFopt_m");
    const NAME: &'static str = "infer_model_options";
}

/// New options with every default; NULL only when there is no memory. Free them with infer_model_options_free().
///
/// Threads: any.
#[unsafe(no_mangle)]
pub extern "C" fn infer_model_options_new() -> *mut infer_model_options {
    options::create()
}

/// Frees options. NULL is ignored.
///
/// Threads: any; nobody else may be using the options.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_model_options_free(options: *mut infer_model_options) {
    // SAFETY: the conventions of the header.
    unsafe { guard::free(options) }
}

/// Sets the option key to value, both NUL-terminated; infer_options_describe() lists keys, types and ranges.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT for an unknown key or a value outside the range.
/// Threads: one user of options at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_model_options_set(
    options: *mut infer_model_options,
    key: *const c_char,
    value: *const c_char,
    error: *mut *mut infer_error,
) -> infer_status {
    // SAFETY: the conventions of the header.
    let body = || unsafe { options::set(options, key, value, |state| &mut state.options) };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_model_options_set", error, body) }
}

/// Sets the function that is told about the progress of loading; NULL removes it. free_user_data may be NULL; it runs
/// when the options are gone.
///
/// Errors: those of every call.
/// Threads: one user of options at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_model_options_set_progress(
    options: *mut infer_model_options,
    callback: infer_progress_callback,
    user_data: *mut c_void,
    free_user_data: infer_free_callback,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        let options = unsafe { handle::get_mut(options)? };
        let user_data = UserData::new(user_data, free_user_data);
        options.progress = callback.map(|callback| Arc::new(Progress { callback, user_data }));
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_model_options_set_progress", error, body) }
}
