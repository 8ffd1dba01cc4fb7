//! Values as Python's `str` and `repr` write them.

use std::fmt::Write;

use minijinja::value::ValueKind;
use minijinja::{Error, Value};
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

use super::generator;

/// Nesting beyond which printing is refused.
const MAX_DEPTH: usize = 128;

/// Longest text of one value, in bytes.
const MAX_TEXT: usize = 64 << 20;

/// An error when a value being written is nested too deeply or grows too long.
pub(super) fn check(out: &str, depth: usize) -> Result<(), Error> {
    let problem = if depth > MAX_DEPTH {
        format!("is nested more than {MAX_DEPTH} deep")
    } else if out.len() > MAX_TEXT {
        format!("takes more than {MAX_TEXT} bytes to write")
    } else {
        return Ok(());
    };
    Err(Error::new(
        minijinja::ErrorKind::InvalidOperation,
        format!("a value {problem}"),
    ))
}

/// `str(value)`; undefined values are empty.
pub(super) fn str(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map | ValueKind::Number => {
            let mut out = String::new();
            repr(value, &mut out, 0)?;
            Ok(out)
        }
        _ => Ok(value.to_string()),
    }
}

fn repr(value: &Value, out: &mut String, depth: usize) -> Result<(), Error> {
    check(out, depth)?;
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::String => string(value.as_str().unwrap_or_default(), out),
        ValueKind::Number if !value.is_integer() => {
            if let Ok(v) = f64::try_from(value.clone()) {
                out.push_str(&float(v));
            }
        }
        // Namespaces, loops and tuples are objects with a form of their own.
        ValueKind::Seq | ValueKind::Iterable if is_list(value) => {
            out.push('[');
            for (i, item) in value.try_iter()?.enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                repr(&item, out, depth + 1)?;
            }
            out.push(']');
        }
        ValueKind::Map if format!("{value:?}").starts_with('{') => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                repr(&key, out, depth + 1)?;
                out.push_str(": ");
                repr(&value.get_item(&key)?, out, depth + 1)?;
            }
            out.push('}');
        }
        _ => {
            let _ = write!(out, "{value:?}");
        }
    }
    Ok(())
}

fn is_list(value: &Value) -> bool {
    value.downcast_object_ref::<minijinja::value::Tuple>().is_none()
        && !generator::is_generator(value)
        && value.len().is_some()
}

fn string(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.push(quote);
    for c in text.chars() {
        let code = c as u32;
        let _ = match c {
            '\\' => write!(out, "\\\\"),
            '\n' => write!(out, "\\n"),
            '\r' => write!(out, "\\r"),
            '\t' => write!(out, "\\t"),
            c if c == quote => write!(out, "\\{c}"),
            c if is_printable(c) => write!(out, "{c}"),
            _ if code <= 0xFF => write!(out, "\\x{code:02x}"),
            _ if code <= 0xFFFF => write!(out, "\\u{code:04x}"),
            _ => write!(out, "\\U{code:08x}"),
        };
    }
    out.push(quote);
}

fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    !matches!(
        c.general_category_group(),
        GeneralCategoryGroup::Other | GeneralCategoryGroup::Separator
    )
}

/// `repr` of a float: the shortest digits that read back, with an exponent from 1e16 and below 1e-4.
pub(super) fn float(v: f64) -> String {
    if v.is_nan() {
        return "nan".to_string();
    }
    if v.is_infinite() {
        return if v > 0.0 { "inf" } else { "-inf" }.to_string();
    }
    let scientific = format!("{v:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if v != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = format!("{v}");
    if plain.contains('.') {
        plain
    } else {
        format!("{plain}.0")
    }
}
