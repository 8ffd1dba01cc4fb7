//! Metadata of a model as text.

use std::ffi::c_char;

use super::error::infer_error;
use super::guard::{self, Failure};
use super::handle;
use super::memory;
use super::model::infer_model;
use super::status::infer_status;
use super::string;
use crate::gguf::{Array, Value};

/// The number of metadata keys of a model; 0 for NULL.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_model_metadata_count(model: *const infer_model) -> usize {
    guard::quiet(0, || {
        // SAFETY: the conventions of the header.
        unsafe { handle::get(model) }.map_or(0, |state| state.model.metadata().len())
    })
}

/// The metadata key number index, in the order of the file. The key is not NUL-terminated; it lives as long as the
/// model's handle.
///
/// Answers INFER_END past the last key.
///
/// Errors: those of every call.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_model_metadata_at(
    model: *const infer_model,
    index: usize,
    key: *mut *const c_char,
    key_len: *mut usize,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        memory::check(key.cast_const(), "key")?;
        memory::check(key_len.cast_const(), "key_len")?;
        // SAFETY: the conventions of the header.
        let state = unsafe { handle::get(model)? };
        let Some((found, _)) = state.model.metadata().iter().nth(index) else {
            return Ok(infer_status::INFER_END);
        };
        // SAFETY: both were checked.
        unsafe {
            memory::put(key, found.as_ptr().cast());
            memory::put(key_len, found.len());
        }
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_model_metadata_at", error, body) }
}

/// Copies the value of a metadata key as text into buffer: a string as it is, numbers in decimal, true or false, an
/// array as JSON. See "Text out" above for buffer, capacity and needed.
///
/// Errors: INFER_ERR_NOT_FOUND, INFER_ERR_BUFFER_TOO_SMALL, INFER_ERR_INVALID_UTF8.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_model_metadata_get(
    model: *const infer_model,
    key: *const c_char,
    key_len: usize,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        let (state, key) = unsafe { (handle::get(model)?, string::input(key, key_len, "the key")?) };
        let value = state.model.metadata().get(key).ok_or_else(|| {
            let key: String = key.chars().take(100).collect();
            Failure::NotFound(format!("the model has no metadata key '{key}'"))
        })?;
        // SAFETY: the conventions of the header.
        unsafe { string::output(&text(value), buffer, capacity, needed) }
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_model_metadata_get", error, body) }
}

/// A value as text.
fn text(value: &Value) -> std::borrow::Cow<'_, str> {
    match value {
        Value::String(v) => v.as_str().into(),
        Value::U8(v) => v.to_string().into(),
        Value::I8(v) => v.to_string().into(),
        Value::U16(v) => v.to_string().into(),
        Value::I16(v) => v.to_string().into(),
        Value::U32(v) => v.to_string().into(),
        Value::I32(v) => v.to_string().into(),
        Value::U64(v) => v.to_string().into(),
        Value::I64(v) => v.to_string().into(),
        Value::F32(v) => v.to_string().into(),
        Value::F64(v) => v.to_string().into(),
        Value::Bool(v) => v.to_string().into(),
        Value::Array(v) => array(v).into(),
    }
}

fn array(values: &Array) -> String {
    fn json<T: ToString>(values: &[T]) -> String {
        let items: Vec<String> = values.iter().map(T::to_string).collect();
        format!("[{}]", items.join(","))
    }
    // JSON has no infinities and no NaN.
    fn floats<T: Copy + ToString + Into<f64>>(values: &[T]) -> String {
        let items: Vec<String> = values
            .iter()
            .map(|&v| {
                if v.into().is_finite() {
                    v.to_string()
                } else {
                    "null".to_string()
                }
            })
            .collect();
        format!("[{}]", items.join(","))
    }
    match values {
        Array::U8(v) => json(v),
        Array::I8(v) => json(v),
        Array::U16(v) => json(v),
        Array::I16(v) => json(v),
        Array::U32(v) => json(v),
        Array::I32(v) => json(v),
        Array::U64(v) => json(v),
        Array::I64(v) => json(v),
        Array::Bool(v) => json(v),
        Array::F32(v) => floats(v),
        Array::F64(v) => floats(v),
        Array::String(v) => serde_json::Value::from(v.as_slice()).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_value_has_a_text() {
        assert_eq!(text(&Value::String("a\"b".into())), "a\"b");
        assert_eq!(text(&Value::F32(0.1)), "0.1");
        assert_eq!(text(&Value::I64(-3)), "-3");
        assert_eq!(text(&Value::Bool(true)), "true");
        let strings = Array::String(vec!["a\"b".into(), "c".into()]);
        assert_eq!(text(&Value::Array(strings)), r#"["a\"b","c"]"#);
        assert_eq!(text(&Value::Array(Array::F32(vec![1.5, f32::NAN]))), "[1.5,null]");
    }
}
