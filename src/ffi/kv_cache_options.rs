//! Options of creating a key/value cache.

use std::ffi::c_char;

use super::error::infer_error;
use super::guard;
use super::handle::{Object, magic};
use super::options;
use super::status::infer_status;
use crate::options::KvCacheOptions;

/// Options of creating a key/value cache. n_layers, n_kv_heads and head_dim have to be set.
///
/// Threads: one user at a time.
pub struct infer_kv_cache_options {
    _private: [u8; 0],
}

#[derive(Default)]
pub(crate) struct KvCacheOptionsState {
    pub(crate) options: KvCacheOptions,
}

impl Object for infer_kv_cache_options {
    type State = KvCacheOptionsState;
    const MAGIC: u64 = magic(b"INFopt_k");
    const NAME: &'static str = "infer_kv_cache_options";
}

/// New options with every default; NULL only when there is no memory. Free them with infer_kv_cache_options_free().
///
/// Threads: any.
#[unsafe(no_mangle)]
pub extern "C" fn infer_kv_cache_options_new() -> *mut infer_kv_cache_options {
    options::create()
}

/// Frees options. NULL is ignored.
///
/// Threads: any; nobody else may be using the options.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kv_cache_options_free(options: *mut infer_kv_cache_options) {
    // SAFETY: the conventions of the header.
    unsafe { guard::free(options) }
}

/// Sets the option key to value, both NUL-terminated; infer_options_describe() lists keys, types and ranges.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT for an unknown key or a value outside the range.
/// Threads: one user of options at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kv_cache_options_set(
    options: *mut infer_kv_cache_options,
    key: *const c_char,
    value: *const c_char,
    error: *mut *mut infer_error,
) -> infer_status {
    // SAFETY: the conventions of the header.
    let body = || unsafe { options::set(options, key, value, |state| &mut state.options) };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_kv_cache_options_set", error, body) }
}
