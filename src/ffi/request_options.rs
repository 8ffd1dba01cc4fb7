//! Options of a request: what to continue, how, and where events go.

use std::ffi::c_char;
use std::sync::Arc;

use super::error::infer_error;
use super::guard::{self, Answer, Failure, invalid};
use super::handle::{self, Object, magic};
use super::queue::infer_queue;
use super::status::infer_status;
use super::{memory, options, string};
use crate::options::{Prompt, RequestOptions};

/// Options of a request. They can be used for many requests: submitting copies them.
///
/// Threads: one user at a time; submitting counts as reading.
pub struct infer_request_options {
    _private: [u8; 0],
}

/// The prompt is kept beside the other options, because copying it has to be able to fail.
#[derive(Default)]
pub(crate) struct RequestOptionsState {
    options: RequestOptions,
    prompt: Prompt,
}

impl RequestOptionsState {
    /// A copy for a request.
    pub(crate) fn to_request(&self) -> Result<RequestOptions, Failure> {
        let mut copy = self.options.clone();
        copy.prompt = self.copy_prompt()?;
        Ok(copy)
    }

    fn copy_prompt(&self) -> Result<Prompt, Failure> {
        Ok(match &self.prompt {
            Prompt::None => Prompt::None,
            Prompt::Text(text) => Prompt::Text(string::owned(text, "the prompt")?),
            Prompt::Ids(ids) => Prompt::Ids(copy_ids(ids)?),
            Prompt::Messages(messages) => Prompt::Messages(messages.clone()),
        })
    }
}

fn copy_ids(ids: &[u32]) -> Result<Vec<u32>, Failure> {
    let mut copy = crate::memory::with_capacity(ids.len(), "the prompt's token ids")?;
    copy.extend_from_slice(ids);
    Ok(copy)
}

impl Object for infer_request_options {
    type State = RequestOptionsState;
    const MAGIC: u64 = magic(b"INFopt_r");
    const NAME: &'static str = "infer_request_options";
}

/// New options with every default and no prompt; NULL only when there is no memory. Free them with
/// infer_request_options_free().
///
/// Threads: any.
#[unsafe(no_mangle)]
pub extern "C" fn infer_request_options_new() -> *mut infer_request_options {
    options::create()
}

/// Frees options. NULL is ignored.
///
/// Threads: any; nobody else may be using the options.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_request_options_free(options: *mut infer_request_options) {
    // SAFETY: the conventions of the header.
    unsafe { guard::free(options) }
}

/// Sets everything back to what infer_request_options_new() gives.
///
/// Errors: those of every call.
/// Threads: one user of options at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_request_options_reset(
    options: *mut infer_request_options,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        *unsafe { handle::get_mut(options)? } = RequestOptionsState::default();
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_request_options_reset", error, body) }
}

/// Creates options that are a copy of others, prompt included, to vary them. Free the copy with
/// infer_request_options_free().
///
/// Errors: INFER_ERR_NO_MEMORY.
/// Threads: any, while nobody changes options.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_request_options_copy(
    options: *const infer_request_options,
    copy: *mut *mut infer_request_options,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        memory::check(copy.cast_const(), "copy")?;
        // SAFETY: the conventions of the header.
        let options = unsafe { handle::get(options)? };
        let state = RequestOptionsState {
            prompt: options.copy_prompt()?,
            options: options.options.clone(),
        };
        // SAFETY: checked above.
        unsafe { memory::put(copy, handle::create(state)?) };
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_request_options_copy", error, body) }
}

/// Sets the option key to value, both NUL-terminated; infer_options_describe() lists keys, types and ranges.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT for an unknown key or a value outside the range.
/// Threads: one user of options at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_request_options_set(
    options: *mut infer_request_options,
    key: *const c_char,
    value: *const c_char,
    error: *mut *mut infer_error,
) -> infer_status {
    // SAFETY: the conventions of the header.
    let body = || unsafe { options::set(options, key, value, |state| &mut state.options) };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_request_options_set", error, body) }
}

/// Sets the prompt as text, which is copied. It replaces any prompt set before. The request's options add_special and
/// parse_special say how it becomes tokens.
///
/// Errors: INFER_ERR_INVALID_UTF8, INFER_ERR_NO_MEMORY.
/// Threads: one user of options at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_request_options_set_prompt(
    options: *mut infer_request_options,
    text: *const c_char,
    text_len: usize,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        let (options, text) = unsafe {
            (
                handle::get_mut(options)?,
                string::input(text, text_len, "the prompt")?,
            )
        };
        options.prompt = Prompt::Text(string::owned(text, "the prompt")?);
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_request_options_set_prompt", error, body) }
}

/// Sets the prompt as n token ids, which are copied and used as they are. It replaces any prompt set before. Ids
/// outside the vocabulary are refused when the request is submitted.
///
/// Errors: INFER_ERR_NO_MEMORY.
/// Threads: one user of options at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_request_options_set_prompt_ids(
    options: *mut infer_request_options,
    ids: *const u32,
    n: usize,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        let (options, ids) = unsafe { (handle::get_mut(options)?, memory::input(ids, n, "ids")?) };
        options.prompt = Prompt::Ids(copy_ids(ids)?);
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_request_options_set_prompt_ids", error, body) }
}

/// Sets the prompt as a conversation of n messages, rendered by the model's chat template when the request is
/// submitted. It replaces any prompt set before.
///
/// roles is an array of NUL-terminated texts like "system", "user", "assistant". contents is an array of texts;
/// content_lens has their lengths (INFER_NTS allowed), or is NULL when all are NUL-terminated. Everything is copied.
///
/// Errors: INFER_ERR_INVALID_UTF8, INFER_ERR_NO_MEMORY.
/// Threads: one user of options at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_request_options_set_messages(
    options: *mut infer_request_options,
    roles: *const *const c_char,
    contents: *const *const c_char,
    content_lens: *const usize,
    n: usize,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        let (options, messages) = unsafe {
            (
                handle::get_mut(options)?,
                messages(roles, contents, content_lens, n)?,
            )
        };
        options.prompt = Prompt::Messages(messages);
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_request_options_set_messages", error, body) }
}

/// Sets the prompt as a conversation in JSON, an array of objects with role, content and whatever else the model's
/// chat template knows. It replaces any prompt set before.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT when it is not such JSON, INFER_ERR_INVALID_UTF8, INFER_ERR_NO_MEMORY.
/// Threads: one user of options at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_request_options_set_messages_json(
    options: *mut infer_request_options,
    json: *const c_char,
    json_len: usize,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        let (options, json) = unsafe {
            (
                handle::get_mut(options)?,
                string::input(json, json_len, "the JSON")?,
            )
        };
        options.prompt = Prompt::Messages(messages_from_json(json)?);
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_request_options_set_messages_json", error, body) }
}

/// Sets how many tokens are generated at most: the option max_tokens.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT outside its range.
/// Threads: one user of options at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_request_options_set_max_tokens(
    options: *mut infer_request_options,
    max_tokens: u64,
    error: *mut *mut infer_error,
) -> infer_status {
    // SAFETY: the conventions of the header.
    let body = || unsafe { set_number(options, "max_tokens", max_tokens) };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_request_options_set_max_tokens", error, body) }
}

/// Sets the temperature: 0 takes the most likely token each time.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT outside its range.
/// Threads: one user of options at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_request_options_set_temperature(
    options: *mut infer_request_options,
    temperature: f64,
    error: *mut *mut infer_error,
) -> infer_status {
    // SAFETY: the conventions of the header.
    let body = || unsafe { set_number(options, "temperature", temperature) };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_request_options_set_temperature", error, body) }
}

/// Sets the seed: the same request with the same seed gives the same tokens.
///
/// Errors: those of every call.
/// Threads: one user of options at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_request_options_set_seed(
    options: *mut infer_request_options,
    seed: u64,
    error: *mut *mut infer_error,
) -> infer_status {
    // SAFETY: the conventions of the header.
    let body = || unsafe { set_number(options, "seed", seed) };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_request_options_set_seed", error, body) }
}

/// Sets the number that comes back in every event of the request.
///
/// Errors: those of every call.
/// Threads: one user of options at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_request_options_set_tag(
    options: *mut infer_request_options,
    tag: u64,
    error: *mut *mut infer_error,
) -> infer_status {
    // SAFETY: the conventions of the header.
    let body = || unsafe { set_number(options, "tag", tag) };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_request_options_set_tag", error, body) }
}

/// Adds a text that ends the completion where it appears; it is not part of the output. The text must not be empty.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT, INFER_ERR_INVALID_UTF8, INFER_ERR_NO_MEMORY.
/// Threads: one user of options at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_request_options_add_stop(
    options: *mut infer_request_options,
    text: *const c_char,
    text_len: usize,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        let (options, text) = unsafe {
            (
                handle::get_mut(options)?,
                string::input(text, text_len, "the stop text")?,
            )
        };
        if text.is_empty() {
            return Err(invalid(
                "the stop text: expected at least one character, found none",
            ));
        }
        let text = string::owned(text, "the stop text")?;
        options
            .options
            .stop
            .try_reserve(1)
            .map_err(|_| Failure::NoMemory)?;
        options.options.stop.push(text);
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_request_options_add_stop", error, body) }
}

/// Adds a token id that ends the completion.
///
/// Errors: INFER_ERR_NO_MEMORY.
/// Threads: one user of options at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_request_options_add_stop_id(
    options: *mut infer_request_options,
    id: u32,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        let options = unsafe { handle::get_mut(options)? };
        options
            .options
            .stop_ids
            .try_reserve(1)
            .map_err(|_| Failure::NoMemory)?;
        options.options.stop_ids.push(id);
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_request_options_add_stop_id", error, body) }
}

/// Lets requests report to a queue, marked with tag, instead of being read one by one: infer_queue_next() then gives
/// their events, and infer_request_next() answers INFER_ERR_INVALID_ARGUMENT. A NULL queue takes that back. What
/// requests report after the queue was freed is lost.
///
/// Errors: those of every call.
/// Threads: one user of options at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_request_options_set_queue(
    options: *mut infer_request_options,
    queue: *const infer_queue,
    tag: u64,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        let (options, queue) = unsafe {
            let queue = if queue.is_null() {
                None
            } else {
                Some(Arc::clone(&handle::get(queue)?.queue))
            };
            (handle::get_mut(options)?, queue)
        };
        options.options.queue = queue;
        options::assign(&mut options.options, "tag", &tag.to_string())
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_request_options_set_queue", error, body) }
}

/// Sets an option from a number, through the same check as from text.
unsafe fn set_number(options: *mut infer_request_options, key: &str, value: impl ToString) -> Answer {
    // SAFETY: the promise of the caller.
    let options = unsafe { handle::get_mut(options)? };
    options::assign(&mut options.options, key, &value.to_string())
}

/// Messages as the chat template takes them.
///
/// # Safety
/// The arrays have `n` elements (`lens` may be NULL) and the texts are as the header asks.
pub(crate) unsafe fn messages(
    roles: *const *const c_char,
    contents: *const *const c_char,
    lens: *const usize,
    n: usize,
) -> Result<serde_json::Value, Failure> {
    // SAFETY: the promise of the caller.
    let (roles, contents) = unsafe {
        (
            memory::input(roles, n, "roles")?,
            memory::input(contents, n, "contents")?,
        )
    };
    let lens = if lens.is_null() {
        None
    } else {
        // SAFETY: the promise of the caller.
        Some(unsafe { memory::input(lens, n, "content_lens")? })
    };
    let mut messages = crate::memory::with_capacity(n, "the messages")?;
    for (i, (&role, &content)) in roles.iter().zip(contents).enumerate() {
        let length = lens.and_then(|l| l.get(i)).copied().unwrap_or(string::NTS);
        // SAFETY: the promise of the caller.
        let (role, content) = unsafe {
            (
                string::input(role, string::NTS, &format!("the role of message {i}"))?,
                string::input(content, length, &format!("the content of message {i}"))?,
            )
        };
        let mut message = serde_json::Map::new();
        message.insert("role".to_string(), string::owned(role, "a role")?.into());
        message.insert("content".to_string(), string::owned(content, "a message")?.into());
        messages.push(serde_json::Value::Object(message));
    }
    Ok(serde_json::Value::Array(messages))
}

/// Messages given as JSON.
pub(crate) fn messages_from_json(json: &str) -> Result<serde_json::Value, Failure> {
    let value: serde_json::Value =
        serde_json::from_str(json).map_err(|e| invalid(format!("the messages are not JSON: {e}")))?;
    match value.as_array() {
        Some(list) if list.iter().all(serde_json::Value::is_object) => Ok(value),
        _ => Err(invalid(
            "the messages: expected a JSON array of objects with role and content, found something else",
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;
    use std::ptr;

    use super::super::error::{infer_error_free, infer_error_message};
    use super::*;

    #[test]
    fn setters_check_and_copy() {
        let mut error = ptr::null_mut();
        // SAFETY: every pointer is valid for the call, and freed once.
        unsafe {
            let options = infer_request_options_new();
            assert_eq!(
                infer_request_options_set_prompt(options, c"a tree".as_ptr(), string::NTS, &mut error),
                infer_status::INFER_OK
            );
            assert!(error.is_null());
            assert_eq!(
                infer_request_options_set_temperature(options, f64::NAN, &mut error),
                infer_status::INFER_ERR_INVALID_ARGUMENT
            );
            assert!(
                CStr::from_ptr(infer_error_message(error))
                    .to_str()
                    .unwrap()
                    .contains("temperature")
            );
            infer_error_free(error);
            let roles = [c"user".as_ptr()];
            let contents = [c"Why\xffx".as_ptr()];
            assert_eq!(
                infer_request_options_set_messages(
                    options,
                    roles.as_ptr(),
                    contents.as_ptr(),
                    ptr::null(),
                    1,
                    &mut error
                ),
                infer_status::INFER_ERR_INVALID_UTF8
            );
            infer_error_free(error);
            let state = handle::get(options.cast_const()).unwrap();
            assert!(matches!(&state.to_request().unwrap().prompt, Prompt::Text(t) if t == "a tree"));
            infer_request_options_free(options);
        }
    }

    #[test]
    fn messages_in_json_are_checked_for_their_shape() {
        assert!(messages_from_json(r#"[{"role":"user","content":"hi"}]"#).is_ok());
        for bad in ["", "{}", "[1]", "[", "\"text\""] {
            assert!(messages_from_json(bad).is_err(), "{bad}");
        }
        let deep = "[".repeat(100_000);
        assert!(messages_from_json(&deep).is_err());
    }
}
