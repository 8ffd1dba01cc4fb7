//! Text to token ids and back, special tokens, chat templates.

use std::ffi::c_char;

use super::error::infer_error;
use super::guard::{self, Failure, invalid};
use super::handle;
use super::memory;
use super::model::infer_model;
use super::request_options::{messages, messages_from_json};
use super::status::infer_status;
use super::string;
use crate::model::Model;

/// Flags of infer_model_tokenize(), to be combined with |.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum infer_tokenize_flag {
    /// Add the begin and end tokens the model asks for.
    INFER_TOKENIZE_ADD_SPECIAL = 1,
    /// Read the texts of special tokens as these tokens.
    INFER_TOKENIZE_PARSE_SPECIAL = 2,
}

/// Flags of infer_model_detokenize(), to be combined with |.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum infer_detokenize_flag {
    /// Write the texts of special tokens instead of leaving them out.
    INFER_DETOKENIZE_RENDER_SPECIAL = 1,
}

/// Flags of infer_model_apply_chat_template(), to be combined with |.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum infer_chat_flag {
    /// End with what makes the model answer as the assistant.
    INFER_CHAT_ADD_GENERATION_PROMPT = 1,
}

/// A token with a meaning of its own.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum infer_special_token {
    /// Begins a text.
    INFER_TOKEN_BOS = 1,
    /// Ends a text.
    INFER_TOKEN_EOS = 2,
    /// Ends a turn of a conversation.
    INFER_TOKEN_EOT = 3,
    /// Ends a message.
    INFER_TOKEN_EOM = 4,
    /// Stands for what the vocabulary does not have.
    INFER_TOKEN_UNKNOWN = 5,
    /// Fills up.
    INFER_TOKEN_PADDING = 6,
    /// Separates.
    INFER_TOKEN_SEPARATOR = 7,
}

fn flags(given: u32, known: u32) -> Result<(), Failure> {
    if given & !known == 0 {
        Ok(())
    } else {
        Err(invalid(format!(
            "flags: expected a combination of the bits {known:#x}, found {given:#x}"
        )))
    }
}

/// Turns text into token ids and copies them into ids, which has room for capacity of them. How many there are is
/// always written to *needed, also when there is no room (ids is then left alone); ask for it with a NULL array of
/// capacity 0. flags combines infer_tokenize_flag.
///
/// Errors: INFER_ERR_BUFFER_TOO_SMALL, INFER_ERR_INVALID_UTF8, INFER_ERR_TOKENIZER, INFER_ERR_UNSUPPORTED for a model
/// without a tokenizer or with one this version does not know.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_model_tokenize(
    model: *const infer_model,
    text: *const c_char,
    text_len: usize,
    flags: u32,
    ids: *mut u32,
    capacity: usize,
    needed: *mut usize,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        let (special, parse) = (
            infer_tokenize_flag::INFER_TOKENIZE_ADD_SPECIAL as u32,
            infer_tokenize_flag::INFER_TOKENIZE_PARSE_SPECIAL as u32,
        );
        self::flags(flags, special | parse)?;
        // SAFETY: the conventions of the header.
        let (state, text) = unsafe { (handle::get(model)?, string::input(text, text_len, "the text")?) };
        let found = state
            .model
            .tokenize(text, flags & special != 0, flags & parse != 0)?;
        // SAFETY: the conventions of the header.
        unsafe { memory::output(&found, ids, capacity, needed) }
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_model_tokenize", error, body) }
}

/// Turns n token ids into text and copies it into buffer. Bytes that are not UTF-8 are replaced by U+FFFD. See "Text
/// out" above for buffer, capacity and needed. flags combines infer_detokenize_flag.
///
/// Errors: INFER_ERR_BUFFER_TOO_SMALL, INFER_ERR_INVALID_ARGUMENT for an id outside the vocabulary,
/// INFER_ERR_UNSUPPORTED for a model without a tokenizer.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_model_detokenize(
    model: *const infer_model,
    ids: *const u32,
    n: usize,
    flags: u32,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        let render = infer_detokenize_flag::INFER_DETOKENIZE_RENDER_SPECIAL as u32;
        self::flags(flags, render)?;
        // SAFETY: the conventions of the header.
        let (state, ids) = unsafe { (handle::get(model)?, memory::input(ids, n, "ids")?) };
        let text = state.model.detokenize(ids, flags & render != 0)?;
        // SAFETY: the conventions of the header.
        unsafe { string::output(&text, buffer, capacity, needed) }
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_model_detokenize", error, body) }
}

/// Copies the text of one token into buffer, special tokens included. A token that is only a part of a code point
/// gives U+FFFD: to show a stream, use the text of events. See "Text out" above for buffer, capacity and needed.
///
/// Errors: as infer_model_detokenize().
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_model_token_text(
    model: *const infer_model,
    id: u32,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        let state = unsafe { handle::get(model)? };
        let text = state.model.detokenize(&[id], true)?;
        // SAFETY: the conventions of the header.
        unsafe { string::output(&text, buffer, capacity, needed) }
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_model_token_text", error, body) }
}

/// Writes the id of a special token, an infer_special_token, to *id.
///
/// Errors: INFER_ERR_NOT_FOUND when the model has no such token, INFER_ERR_INVALID_ARGUMENT for an unknown kind,
/// INFER_ERR_UNSUPPORTED for a model without a tokenizer.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_model_special_token(
    model: *const infer_model,
    kind: u32,
    id: *mut u32,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        memory::check(id.cast_const(), "id")?;
        // SAFETY: the conventions of the header.
        let state = unsafe { handle::get(model)? };
        let found = special_token(&state.model, kind)?
            .ok_or_else(|| Failure::NotFound(format!("the model has no special token of kind {kind}")))?;
        // SAFETY: checked above.
        unsafe { memory::put(id, found) };
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_model_special_token", error, body) }
}

/// Writes 1 to *answer when the token ends a completion, else 0. A model can have several such tokens.
///
/// Errors: INFER_ERR_UNSUPPORTED for a model without a tokenizer.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_model_is_end_of_generation(
    model: *const infer_model,
    id: u32,
    answer: *mut u32,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        memory::check(answer.cast_const(), "answer")?;
        // SAFETY: the conventions of the header.
        let state = unsafe { handle::get(model)? };
        let ends = state.model.tokenizer()?.is_end_of_generation(id);
        // SAFETY: checked above.
        unsafe { memory::put(answer, u32::from(ends)) };
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_model_is_end_of_generation", error, body) }
}

fn special_token(model: &Model, kind: u32) -> Result<Option<u32>, Failure> {
    let t = model.tokenizer()?;
    match kind {
        1 => Ok(t.bos()),
        2 => Ok(t.eos()),
        3 => Ok(t.eot()),
        4 => Ok(t.eom()),
        5 => Ok(t.unknown()),
        6 => Ok(t.pad()),
        7 => Ok(t.sep()),
        _ => Err(invalid(format!(
            "kind: expected an infer_special_token, found {kind}"
        ))),
    }
}

/// Renders a conversation of n messages by the model's chat template and copies the text into buffer. For roles,
/// contents and content_lens see infer_request_options_set_messages(), for buffer, capacity and needed "Text out"
/// above. flags combines infer_chat_flag.
///
/// Errors: INFER_ERR_UNSUPPORTED when the model has no template, INFER_ERR_INVALID_ARGUMENT with the template's reason
/// when it refuses the messages, INFER_ERR_BUFFER_TOO_SMALL, INFER_ERR_INVALID_UTF8.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_model_apply_chat_template(
    model: *const infer_model,
    roles: *const *const c_char,
    contents: *const *const c_char,
    content_lens: *const usize,
    n: usize,
    flags: u32,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        let prompt = infer_chat_flag::INFER_CHAT_ADD_GENERATION_PROMPT as u32;
        self::flags(flags, prompt)?;
        // SAFETY: the conventions of the header.
        let (state, messages) = unsafe { (handle::get(model)?, messages(roles, contents, content_lens, n)?) };
        let text = state.model.apply_chat_template(&messages, flags & prompt != 0)?;
        // SAFETY: the conventions of the header.
        unsafe { string::output(&text, buffer, capacity, needed) }
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_model_apply_chat_template", error, body) }
}

/// Renders and copies as infer_model_apply_chat_template() does, with the messages as JSON: an array of objects with
/// role, content and whatever else the template knows.
///
/// Errors: as infer_model_apply_chat_template(), and INFER_ERR_INVALID_ARGUMENT when it is not such JSON.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_model_apply_chat_template_json(
    model: *const infer_model,
    json: *const c_char,
    json_len: usize,
    flags: u32,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        let prompt = infer_chat_flag::INFER_CHAT_ADD_GENERATION_PROMPT as u32;
        self::flags(flags, prompt)?;
        // SAFETY: the conventions of the header.
        let (state, json) = unsafe { (handle::get(model)?, string::input(json, json_len, "the JSON")?) };
        let text = state
            .model
            .apply_chat_template(&messages_from_json(json)?, flags & prompt != 0)?;
        // SAFETY: the conventions of the header.
        unsafe { string::output(&text, buffer, capacity, needed) }
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_model_apply_chat_template_json", error, body) }
}
