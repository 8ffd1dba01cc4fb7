//! `tojson` as Python's `json.dumps`.

use std::fmt::Write;

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use super::generator;
use super::print;

/// A JSON value as a template sees it.
pub(super) fn to_value(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match json {
        Json::Null => Value::from(()),
        Json::Bool(v) => Value::from(*v),
        Json::Number(v) => match (v.as_i64(), v.as_u64()) {
            (Some(v), _) => Value::from(v),
            (None, Some(v)) => Value::from(v),
            (None, None) => Value::from(v.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(v) => Value::from(v.as_str()),
        Json::Array(v) => v.iter().map(to_value).collect(),
        Json::Object(v) => Value::from_pairs(v.iter().map(|(k, v)| (k.as_str(), to_value(v)))),
    }
}

struct Style {
    ensure_ascii: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

/// The filter: `tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)`.
pub(super) fn tojson(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let option = |index: usize, name: &str| -> Result<Option<Value>, Error> {
        let named: Option<Value> = kwargs.get(name)?;
        let given = named.or_else(|| args.get(index).cloned());
        Ok(given.filter(|v| !v.is_none() && !v.is_undefined()))
    };
    let ensure_ascii = option(0, "ensure_ascii")?.is_some_and(|v| v.is_true());
    let indent = match option(1, "indent")? {
        None => None,
        Some(text) if text.as_str().is_some() => text.as_str().map(str::to_string),
        Some(width) => {
            let width = i64::try_from(width)?.clamp(0, 64) as usize;
            Some(" ".repeat(width))
        }
    };
    let mut style = Style {
        ensure_ascii,
        item_separator: if indent.is_some() { "," } else { ", " }.to_string(),
        key_separator: ": ".to_string(),
        indent,
        sort_keys: false,
    };
    if let Some(separators) = option(2, "separators")? {
        style.item_separator = separators.get_item(&Value::from(0))?.to_string();
        style.key_separator = separators.get_item(&Value::from(1))?.to_string();
    }
    style.sort_keys = option(3, "sort_keys")?.is_some_and(|v| v.is_true());
    kwargs.assert_all_used()?;
    let mut out = String::new();
    write_value(value, &style, 0, &mut out)?;
    Ok(Value::from(out))
}

fn write_value(value: &Value, style: &Style, depth: usize, out: &mut String) -> Result<(), Error> {
    print::check(out, depth)?;
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => write_number(value, out),
        ValueKind::String => write_string(value.as_str().unwrap_or_default(), style, out),
        // Slices and sums of lists are iterables to minijinja.
        ValueKind::Seq | ValueKind::Iterable if !generator::is_generator(value) => {
            let mut first = true;
            out.push('[');
            for item in value.try_iter()? {
                begin_item(style, depth + 1, &mut first, out);
                write_value(&item, style, depth + 1, out)?;
            }
            end(style, depth, first, ']', out);
        }
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            if style.sort_keys {
                keys.sort();
            }
            let mut first = true;
            out.push('{');
            for key in keys {
                begin_item(style, depth + 1, &mut first, out);
                write_key(&key, style, out)?;
                out.push_str(&style.key_separator);
                write_value(&value.get_item(&key)?, style, depth + 1, out)?;
            }
            end(style, depth, first, '}', out);
        }
        kind => {
            return Err(Error::new(
                ErrorKind::BadSerialization,
                format!("a value of type {kind} is not JSON serializable"),
            ));
        }
    }
    Ok(())
}

fn begin_item(style: &Style, depth: usize, first: &mut bool, out: &mut String) {
    if !std::mem::replace(first, false) {
        out.push_str(&style.item_separator);
    }
    line(style, depth, out);
}

fn end(style: &Style, depth: usize, empty: bool, close: char, out: &mut String) {
    if !empty {
        line(style, depth, out);
    }
    out.push(close);
}

fn line(style: &Style, depth: usize, out: &mut String) {
    if let Some(indent) = &style.indent {
        out.push('\n');
        for _ in 0..depth {
            out.push_str(indent);
        }
    }
}

fn write_number(value: &Value, out: &mut String) {
    if value.is_integer() {
        let _ = write!(out, "{value}");
        return;
    }
    let v = f64::try_from(value.clone()).unwrap_or(f64::NAN);
    match v {
        v if v.is_nan() => out.push_str("NaN"),
        v if v.is_infinite() => out.push_str(if v > 0.0 { "Infinity" } else { "-Infinity" }),
        v => out.push_str(&print::float(v)),
    }
}

fn write_key(key: &Value, style: &Style, out: &mut String) -> Result<(), Error> {
    match key.kind() {
        ValueKind::String => write_string(key.as_str().unwrap_or_default(), style, out),
        ValueKind::None | ValueKind::Bool | ValueKind::Number => {
            out.push('"');
            write_value(key, style, 0, out)?;
            out.push('"');
        }
        kind => {
            return Err(Error::new(
                ErrorKind::BadSerialization,
                format!("keys of type {kind} are not JSON serializable"),
            ));
        }
    }
    Ok(())
}

fn write_string(text: &str, style: &Style, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        let _ = match c {
            '"' => write!(out, "\\\""),
            '\\' => write!(out, "\\\\"),
            '\n' => write!(out, "\\n"),
            '\r' => write!(out, "\\r"),
            '\t' => write!(out, "\\t"),
            '\u{8}' => write!(out, "\\b"),
            '\u{c}' => write!(out, "\\f"),
            c if (c as u32) < 0x20 => write!(out, "\\u{:04x}", c as u32),
            c if style.ensure_ascii && !c.is_ascii() => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
                Ok(())
            }
            c => write!(out, "{c}"),
        };
    }
    out.push('"');
}
