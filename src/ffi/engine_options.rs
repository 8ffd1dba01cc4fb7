//! Options of creating an engine.

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use super::callback::{self, UserData, infer_free_callback};
use super::error::infer_error;
use super::guard;
use super::handle::{self, Object, magic};
use super::model::infer_model;
use super::options;
use super::status::infer_status;
use super::threads::infer_threads;
use crate::options::{EngineOptions, LogLevel, LogRecord};

/// Options of creating an engine.
///
/// Threads: one user at a time.
pub struct infer_engine_options {
    _private: [u8; 0],
}

/// Severity of a log record.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum infer_log_level {
    /// Something failed.
    INFER_LOG_ERROR = 1,
    /// Something works less well than it could.
    INFER_LOG_WARN = 2,
    /// What a person who operates a service wants to know.
    INFER_LOG_INFO = 3,
    /// Details for finding out why.
    INFER_LOG_DEBUG = 4,
}

/// One log record, a whole line. The texts are NUL-terminated and live until the callback returns.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct infer_log_record {
    /// The size the library knows; fields beyond it do not exist.
    pub struct_size: u32,
    /// An infer_log_level.
    pub level: u32,
    /// The part of the library that speaks, like "engine".
    pub target: *const c_char,
    /// A sentence without a line end.
    pub message: *const c_char,
    /// Keys and values as one JSON object; "{}" when there are none.
    pub fields_json: *const c_char,
}

/// Receives the log records of an engine. record lives until the callback returns; user_data is the pointer given
/// with it.
///
/// Threads: any, several at the same time.
pub type infer_log_callback =
    Option<unsafe extern "C" fn(record: *const infer_log_record, user_data: *mut c_void)>;

#[derive(Default)]
pub(crate) struct EngineOptionsState {
    pub(crate) options: EngineOptions,
}

impl Object for infer_engine_options {
    type State = EngineOptionsState;
    const MAGIC: u64 = magic(b"INFopt_e");
    const NAME: &'static str = "infer_engine_options";
}

/// New options with every default; NULL only when there is no memory. Free them with infer_engine_options_free().
///
/// Threads: any.
#[unsafe(no_mangle)]
pub extern "C" fn infer_engine_options_new() -> *mut infer_engine_options {
    options::create()
}

/// Frees options. NULL is ignored.
///
/// Threads: any; nobody else may be using the options.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_engine_options_free(options: *mut infer_engine_options) {
    // SAFETY: the conventions of the header.
    unsafe { guard::free(options) }
}

/// Sets the option key to value, both NUL-terminated; infer_options_describe() lists keys, types and ranges.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT for an unknown key or a value outside the range.
/// Threads: one user of options at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_engine_options_set(
    options: *mut infer_engine_options,
    key: *const c_char,
    value: *const c_char,
    error: *mut *mut infer_error,
) -> infer_status {
    // SAFETY: the conventions of the header.
    let body = || unsafe { options::set(options, key, value, |state| &mut state.options) };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_engine_options_set", error, body) }
}

/// Sets the function that receives the log records of engines created with these options; NULL means silence, which
/// is the default. free_user_data may be NULL; it runs when the options and all engines created from them are gone.
///
/// Errors: those of every call.
/// Threads: one user of options at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_engine_options_set_log(
    options: *mut infer_engine_options,
    callback: infer_log_callback,
    user_data: *mut c_void,
    free_user_data: infer_free_callback,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        let options = unsafe { handle::get_mut(options)? };
        let user_data = UserData::new(user_data, free_user_data);
        options.options.log = callback.map(|callback| {
            let log: crate::options::LogCallback =
                Arc::new(move |record: &LogRecord<'_>| deliver(callback, &user_data, record));
            log
        });
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_engine_options_set_log", error, body) }
}

/// Lets engines created with these options compute on a thread pool that others may share, instead of one of their
/// own; NULL takes that back. The pool lives on until the last engine that uses it is freed.
///
/// Errors: those of every call.
/// Threads: one user of options at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_engine_options_set_threads(
    options: *mut infer_engine_options,
    threads: *const infer_threads,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        unsafe {
            let options = handle::get_mut(options)?;
            options.options.shared_threads = if threads.is_null() {
                None
            } else {
                Some(Arc::clone(&handle::get(threads)?.pool))
            };
        }
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_engine_options_set_threads", error, body) }
}

/// Gives engines created with these options a draft model: a smaller model with the same tokens, which proposes what one
/// step of the engine's model verifies, so that the same tokens come sooner; NULL takes that back. The option speculation
/// says whether it is used; auto does. The draft's key/value cache is a share of kv_budget. The model lives on until the
/// last engine that uses it is freed.
///
/// Errors: those of every call; infer_engine_create() refuses a model with other tokens and names the first.
/// Threads: one user of options at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_engine_options_set_draft_model(
    options: *mut infer_engine_options,
    model: *const infer_model,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        unsafe {
            let options = handle::get_mut(options)?;
            options.options.draft_model = if model.is_null() {
                None
            } else {
                Some(Arc::clone(&handle::get(model)?.model))
            };
        }
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_engine_options_set_draft_model", error, body) }
}

fn deliver(
    callback: unsafe extern "C" fn(*const infer_log_record, *mut c_void),
    user_data: &UserData,
    record: &LogRecord<'_>,
) {
    let [target, message, fields] =
        [record.target, record.message, record.fields].map(super::string::terminated);
    let record = infer_log_record {
        struct_size: size_of::<infer_log_record>() as u32,
        level: match record.level {
            LogLevel::Error => infer_log_level::INFER_LOG_ERROR,
            LogLevel::Warn => infer_log_level::INFER_LOG_WARN,
            LogLevel::Info => infer_log_level::INFER_LOG_INFO,
            LogLevel::Debug => infer_log_level::INFER_LOG_DEBUG,
        } as u32,
        target: target.as_ptr().cast(),
        message: message.as_ptr().cast(),
        fields_json: fields.as_ptr().cast(),
    };
    let _scope = callback::enter();
    // SAFETY: the host gave the function to be called with this pointer; the record lives until it returns.
    unsafe { callback(&record, user_data.pointer()) };
}
