//! Bounds on the values that a template builds, where the engine has none.
//!
//! Fuel bounds the number of instructions, but a string can double and a list can nest with each of them, and
//! values nested too deeply overflow the stack when they are dropped. What lasts from one expression to the
//! next goes through `set` or a macro's arguments; the source is changed to check it there.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};

use super::generator;
use super::print::MAX_DEPTH;

/// Name of the function that the source calls.
pub(super) const FUNCTION: &str = "__bounded__";
/// Variable with the text length of the input.
pub(super) const INPUT: &str = "__input_bytes__";
/// Longest string kept, in bytes, besides twice the input.
const MAX_STRING: usize = 4 << 20;
/// Parts of values that one rendering may have checked.
const MAX_CHECKED: u64 = 20_000_000;
/// Bytes that one rendering may write, captured ones included.
const MAX_WRITTEN: usize = 256 << 20;

/// What a rendering has used up.
#[derive(Default)]
struct Used {
    checked: u64,
    written: usize,
}

fn used<'a>(state: &'a mut State<'_, '_>) -> &'a mut Used {
    state.get_or_insert_extension(Used::default())
}

fn too_large(what: &str) -> Error {
    Error::new(
        ErrorKind::InvalidOperation,
        format!("a value of the template {what}"),
    )
}

/// Answers `value`, if it is within bounds. Where it becomes part of something, as `inside` says, it cannot be
/// a namespace: those can be made to contain themselves.
pub(super) fn bounded(state: &mut State, value: Value, inside: Option<bool>) -> Result<Value, Error> {
    if inside == Some(true) && is_namespace(&value) {
        return Err(too_large("would contain a namespace"));
    }
    let input = state
        .lookup(INPUT)
        .and_then(|v| usize::try_from(v).ok())
        .unwrap_or(0);
    let mut checked = 0;
    let room = MAX_CHECKED.saturating_sub(used(state).checked);
    let limits = (MAX_STRING + 2 * input, room);
    check(&value, 0, limits, &mut checked)?;
    used(state).checked += checked;
    Ok(value)
}

/// Counts text that is written.
pub(super) fn write(state: &mut State, bytes: usize) -> Result<(), Error> {
    let written = &mut used(state).written;
    *written = written.saturating_add(bytes);
    if *written > MAX_WRITTEN {
        return Err(too_large("is written too often"));
    }
    Ok(())
}

fn check(value: &Value, depth: usize, limits: (usize, u64), checked: &mut u64) -> Result<(), Error> {
    *checked += 1;
    if *checked > limits.1 {
        return Err(too_large("has too many parts"));
    }
    if depth > MAX_DEPTH {
        return Err(too_large("is nested too deeply"));
    }
    if let Some(text) = value.as_str() {
        if text.len() > limits.0 {
            return Err(too_large("is too long a string"));
        }
        return Ok(());
    }
    if let Some(items) = generator::items(value) {
        return items
            .iter()
            .try_for_each(|item| check(item, depth + 1, limits, checked));
    }
    if depth > 0 && is_namespace(value) {
        return Err(too_large("would contain a namespace"));
    }
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            for item in value.try_iter()? {
                check(&item, depth + 1, limits, checked)?;
            }
        }
        ValueKind::Map => {
            for key in value.try_iter()? {
                check(&key, depth + 1, limits, checked)?;
                check(&value.get_item(&key)?, depth + 1, limits, checked)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn is_namespace(value: &Value) -> bool {
    value
        .as_object()
        .is_some_and(|object| object.type_name().ends_with("Namespace"))
}
