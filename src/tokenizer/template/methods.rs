//! Python's methods and Jinja's tests where minijinja's differ or are missing.

use minijinja::value::{Kwargs, Rest, Tuple, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters};

use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

use super::generator;

/// A method that the value does not have itself.
pub(super) fn call(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str()
        && let Some(result) = string(text, method, args)?
    {
        return Ok(result);
    }
    match (value.kind(), method) {
        (ValueKind::Map | ValueKind::Seq, "copy") => {
            let () = from_args(args)?;
            Ok(value.clone())
        }
        // What the source's `x[a:b:c]` was replaced by.
        (ValueKind::Seq | ValueKind::Iterable | ValueKind::String, "__slice__") => slice(value, args),
        (ValueKind::Seq, "index") => {
            let (wanted,): (Value,) = from_args(args)?;
            match value.try_iter()?.position(|item| item == wanted) {
                Some(i) => Ok(Value::from(i)),
                None => Err(Error::new(ErrorKind::InvalidOperation, "value is not in list")),
            }
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn string(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "split" | "rsplit" => split(text, method == "rsplit", args)?,
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            partition(text, separator, method == "rpartition")?
        }
        "strip" | "lstrip" | "rstrip" => strip(text, method, args)?,
        "index" | "rindex" => {
            let (wanted,): (&str,) = from_args(args)?;
            let found = if method == "index" {
                text.find(wanted)
            } else {
                text.rfind(wanted)
            };
            let at = found.ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "substring not found"))?;
            Value::from(text[..at].chars().count())
        }
        "join" => {
            let (items,): (Value,) = from_args(args)?;
            join(text, &items)?
        }
        "title" => {
            let () = from_args(args)?;
            Value::from(title(text))
        }
        "splitlines" => {
            let (keep_ends,): (Option<bool>,) = from_args(args)?;
            split_lines(text, keep_ends.unwrap_or(false))
                .into_iter()
                .map(Value::from)
                .collect()
        }
        "isdigit" | "isdecimal" => {
            let () = from_args(args)?;
            let decimal = |c: char| c.general_category() == GeneralCategory::DecimalNumber;
            Value::from(!text.is_empty() && text.chars().all(decimal))
        }
        "casefold" => {
            let () = from_args(args)?;
            Value::from(text.to_lowercase())
        }
        "swapcase" => {
            let () = from_args(args)?;
            let swapped: String = text
                .chars()
                .flat_map(|c| -> Vec<char> {
                    if c.is_uppercase() {
                        c.to_lowercase().collect()
                    } else {
                        c.to_uppercase().collect()
                    }
                })
                .collect();
            Value::from(swapped)
        }
        "zfill" | "ljust" | "rjust" | "center" => pad(text, method, args)?,
        _ => return Ok(None),
    }))
}

fn join(separator: &str, items: &Value) -> Result<Value, Error> {
    let mut out = String::new();
    for (i, item) in items.try_iter()?.enumerate() {
        let text = item.as_str().ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidOperation,
                format!("item {i} of a join is of type {}, expected a string", item.kind()),
            )
        })?;
        if i > 0 {
            out.push_str(separator);
        }
        out.push_str(text);
    }
    Ok(Value::from(out))
}

/// Upper case after anything that is no letter, lower case after letters.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphabetic();
    }
    out
}

fn split_lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let is_end = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_end) {
        let end = match rest[at..].strip_prefix("\r\n") {
            Some(after) => rest.len() - after.len(),
            None => at + rest[at..].chars().next().map_or(0, char::len_utf8),
        };
        lines.push(&rest[..if keep_ends { end } else { at }]);
        rest = &rest[end..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// White space of Python's `str.isspace`.
fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

fn strip(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (chars,): (Option<&str>,) = from_args(args)?;
    let unwanted = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    Ok(Value::from(match method {
        "strip" => text.trim_matches(unwanted),
        "lstrip" => text.trim_start_matches(unwanted),
        _ => text.trim_end_matches(unwanted),
    }))
}

fn split(text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let (positional, kwargs): (Rest<Value>, Kwargs) = from_args(args)?;
    let named: (Option<Value>, Option<i64>) = (kwargs.get("sep")?, kwargs.get("maxsplit")?);
    kwargs.assert_all_used()?;
    let separator = positional.first().cloned().or(named.0);
    let limit = match positional.get(1) {
        Some(limit) => i64::try_from(limit.clone())?,
        None => named.1.unwrap_or(-1),
    };
    let parts = usize::try_from(limit).map_or(usize::MAX, |n| n.saturating_add(1));
    let pieces: Vec<&str> = match separator.as_ref().and_then(|s| s.as_str()) {
        Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
        Some(separator) if from_right => {
            let mut pieces: Vec<&str> = text.rsplitn(parts, separator).collect();
            pieces.reverse();
            pieces
        }
        Some(separator) => text.splitn(parts, separator).collect(),
        None => split_space(text, parts, from_right),
    };
    Ok(pieces.into_iter().map(Value::from).collect())
}

/// At most `parts` pieces between runs of white space.
fn split_space(text: &str, parts: usize, from_right: bool) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text.trim_matches(is_space);
    while !rest.is_empty() {
        let cut = if from_right {
            rest.rfind(is_space)
        } else {
            rest.find(is_space)
        };
        let Some(at) = cut.filter(|_| pieces.len() + 1 < parts) else {
            pieces.push(rest);
            break;
        };
        let (before, after) = rest.split_at(at);
        if from_right {
            pieces.push(after.trim_start_matches(is_space));
            rest = before.trim_end_matches(is_space);
        } else {
            pieces.push(before);
            rest = after.trim_start_matches(is_space);
        }
    }
    if from_right {
        pieces.reverse();
    }
    pieces
}

/// Python's `value[start:stop:step]`; a part left out comes as an empty tuple.
fn slice(value: &Value, args: &[Value]) -> Result<Value, Error> {
    let (start, stop, step): (Value, Value, Value) = from_args(args)?;
    let bound = |v: Value| -> Result<Option<i64>, Error> {
        if v.is_none() || (v.kind() == ValueKind::Seq && v.len() == Some(0)) {
            return Ok(None);
        }
        Ok(Some(i64::try_from(v)?))
    };
    let step = bound(step)?.unwrap_or(1);
    if step == 0 {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "slice step cannot be zero",
        ));
    }
    let items: Vec<Value> = match value.as_str() {
        Some(text) => text.chars().map(Value::from).collect(),
        None => value.try_iter()?.collect(),
    };
    let n = items.len() as i64;
    // Indices run over 0..n forwards and over -1..n-1 backwards.
    let (low, high) = if step > 0 { (0, n) } else { (-1, n - 1) };
    let clamp = |i: i64| {
        if i < 0 {
            i.saturating_add(n).max(low)
        } else {
            i.min(high)
        }
    };
    let first = bound(start)?.map_or(if step > 0 { low } else { high }, clamp);
    let end = bound(stop)?.map_or(if step > 0 { high } else { low }, clamp);
    let mut picked = Vec::new();
    let mut i = first;
    while if step > 0 { i < end } else { i > end } {
        picked.extend(usize::try_from(i).ok().and_then(|i| items.get(i)).cloned());
        i = i.saturating_add(step);
    }
    if value.as_str().is_some() {
        return Ok(Value::from(
            picked.iter().filter_map(|c| c.as_str()).collect::<String>(),
        ));
    }
    Ok(Value::from(picked))
}

fn partition(text: &str, separator: &str, from_right: bool) -> Result<Value, Error> {
    if separator.is_empty() {
        return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
    }
    let found = if from_right {
        text.rsplit_once(separator)
    } else {
        text.split_once(separator)
    };
    let parts = match found {
        Some((before, after)) => [before, separator, after],
        None if from_right => ["", "", text],
        None => [text, "", ""],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from))))
}

fn pad(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (width, fill): (usize, Option<char>) = from_args(args)?;
    let missing = width.min(1 << 20).saturating_sub(text.chars().count());
    let fill = fill.unwrap_or(if method == "zfill" { '0' } else { ' ' });
    let run = |n: usize| std::iter::repeat_n(fill, n).collect::<String>();
    Ok(Value::from(match method {
        "ljust" => format!("{text}{}", run(missing)),
        "rjust" => format!("{}{text}", run(missing)),
        "center" => {
            // Python puts the odd one left when the width is odd.
            let left = missing / 2 + (missing & width & 1);
            format!("{}{text}{}", run(left), run(missing - left))
        }
        _ => match text.strip_prefix(['-', '+']) {
            Some(digits) => format!("{}{}{digits}", &text[..1], run(missing)),
            None => format!("{}{text}", run(missing)),
        },
    }))
}

/// `int` and `float` with a default for what is no number, and `length`, which is 0 of undefined values.
pub(super) fn add_filters(environment: &mut Environment<'_>) {
    let numbers = [
        ("int", Value::from_function(filters::int), Value::from(0)),
        ("float", Value::from_function(filters::float), Value::from(0.0)),
    ];
    for (name, original, zero) in numbers {
        environment.add_filter(
            name,
            move |state: &mut State, value: Value, rest: Rest<ValueOrKwargs>| {
                let mut args = vec![value];
                args.extend(rest.into_values());
                original.call(state, &args).unwrap_or_else(|_| zero.clone())
            },
        );
    }
    environment.add_filter("wordcount", |text: &str| {
        split_space(text, usize::MAX, false).len()
    });
    for name in ["length", "count"] {
        environment.add_filter(name, |value: &Value| {
            generator::refuse(value, "has no length")?;
            if value.is_undefined() {
                Ok(0)
            } else {
                filters::length(value)
            }
        });
    }
    // minijinja's own, which Jinja does not have.
    for name in ["split", "lines", "chain", "zip", "bool"] {
        environment.remove_filter(name);
    }
    environment.remove_global("debug");
}

/// Tests that answer otherwise in Jinja: strings and dicts are sequences, bools are numbers.
pub(super) fn add_tests(environment: &mut Environment<'_>) {
    environment.add_test("sequence", |v: &Value| {
        matches!(
            v.kind(),
            ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Undefined
        )
    });
    environment.add_test("iterable", |v: &Value| {
        matches!(
            v.kind(),
            ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::Undefined
        )
    });
    environment.add_test("number", |v: &Value| {
        matches!(v.kind(), ValueKind::Number | ValueKind::Bool)
    });
    environment.add_test("callable", |v: &Value| v.kind() == ValueKind::Plain);
}
