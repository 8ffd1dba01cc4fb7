//! Python's methods and Jinja's tests where minijinja's differ or are missing.

use minijinja::value::{Kwargs, Rest, Tuple, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value};

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
    environment.add_test("integer", |v: &Value| {
        v.is_integer() || v.kind() == ValueKind::Bool
    });
    environment.add_test("callable", |v: &Value| v.kind() == ValueKind::Plain);
}
