//! A line of the input as a request.

use infer::options::{OptionSet, Prompt, RequestOptions};
use serde_json::{Map, Value};

use crate::flags::Offer;
use crate::generate::Sampling;

/// What a line asks for: its id, as far as it can be told, and the request or why it is none.
pub fn parse(line: &[u8], defaults: &RequestOptions) -> (Option<Value>, Result<RequestOptions, String>) {
    let fields = match serde_json::from_slice(line) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) => {
            return (
                None,
                Err("expected a JSON object, found another value".to_string()),
            );
        }
        Err(e) => {
            // The parser counts lines too, but here there is one.
            let why = e.to_string().replace(" at line 1 column ", " at column ");
            return (None, Err(format!("expected a JSON object, found none: {why}")));
        }
    };
    let id = match fields.get("id") {
        None | Some(Value::Null) => None,
        Some(id @ (Value::String(_) | Value::Number(_))) => Some(id.clone()),
        Some(_) => return (None, Err("'id' is neither a text nor a number".to_string())),
    };
    (id, request(fields, defaults))
}

fn request(fields: Map<String, Value>, defaults: &RequestOptions) -> Result<RequestOptions, String> {
    let mut options = defaults.clone();
    for (key, value) in fields {
        match key.as_str() {
            "id" => {}
            "prompt" | "messages" if !matches!(options.prompt, Prompt::None) => {
                return Err("expected one of 'prompt' and 'messages', found both".to_string());
            }
            "prompt" => match value {
                Value::String(text) => options.prompt = Prompt::Text(text),
                _ => return Err("'prompt' is not a text".to_string()),
            },
            "messages" => options.prompt = Prompt::Messages(messages(value)?),
            "stop" => options.stop = stops(value)?,
            _ => set(&mut options, &key, &value)?,
        }
    }
    match options.prompt {
        Prompt::None => Err("expected 'prompt' or 'messages', found neither".to_string()),
        _ => Ok(options),
    }
}

/// A JSON array of objects with role and content; the template sees to the rest.
fn messages(value: Value) -> Result<Value, String> {
    let message = |m: &Value| m.get("role").is_some_and(Value::is_string) && m.get("content").is_some();
    match value.as_array() {
        Some(list) if !list.is_empty() && list.iter().all(message) => Ok(value),
        _ => Err("'messages' is not a list of objects with 'role' and 'content'".to_string()),
    }
}

fn stops(value: Value) -> Result<Vec<String>, String> {
    let text = |v| match v {
        Value::String(text) => Some(text),
        _ => None,
    };
    match value {
        Value::Array(list) => list.into_iter().map(text).collect(),
        one => text(one).map(|t| vec![t]),
    }
    .ok_or_else(|| "'stop' is neither a text nor a list of texts".to_string())
}

/// An option by its name, with the table's check.
fn set(options: &mut RequestOptions, key: &str, value: &Value) -> Result<(), String> {
    if !Sampling::OPTIONS.iter().any(|(name, _)| *name == key) {
        let names: Vec<&str> = Sampling::OPTIONS.iter().map(|(name, _)| *name).collect();
        let key: String = key.chars().take(100).collect();
        return Err(format!(
            "there is no field '{key}'; expected id, prompt, messages, stop or one of {}",
            names.join(", ")
        ));
    }
    let text = match value {
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        _ => return Err(format!("'{key}' is neither a number nor true or false")),
    };
    options.set(key, &text).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> (Option<Value>, Result<RequestOptions, String>) {
        parse(line.as_bytes(), &RequestOptions::default())
    }

    #[test]
    fn a_line_sets_its_options_over_the_defaults() {
        let (id, options) = parsed(
            r#"{"id": 7, "prompt": "a", "max_tokens": 3, "temperature": 0.5, "seed": 18446744073709551615,
                "stop": "x", "ignore_end_of_generation": true}"#,
        );
        let options = options.unwrap();
        assert_eq!(id, Some(Value::from(7)));
        assert_eq!((options.max_tokens, options.temperature), (3, 0.5));
        assert_eq!((options.seed, options.top_p), (u64::MAX, 0.9));
        assert!(options.ignore_end_of_generation);
        assert_eq!(options.stop, ["x"]);
        let (id, options) = parsed(r#"{"messages": [{"role": "user", "content": "a"}], "stop": ["x", "y"]}"#);
        assert_eq!((id, options.unwrap().stop.len()), (None, 2));
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said() {
        for (line, said) in [
            ("", "JSON object"),
            ("{\"prompt\": \"a\"", "JSON object"),
            ("[1]", "another value"),
            ("{}", "found neither"),
            (r#"{"prompt": 1}"#, "'prompt' is not a text"),
            (
                r#"{"prompt": "a", "messages": [{"role": "user", "content": "a"}]}"#,
                "found both",
            ),
            (r#"{"messages": []}"#, "'messages'"),
            (r#"{"messages": [{"role": "user"}]}"#, "'messages'"),
            (r#"{"prompt": "a", "max_token": 3}"#, "'max_token'"),
            (r#"{"prompt": "a", "tag": 3}"#, "'tag'"),
            (r#"{"prompt": "a", "max_tokens": -3}"#, "'-3'"),
            (r#"{"prompt": "a", "max_tokens": "3"}"#, "'max_tokens' is neither"),
            (r#"{"prompt": "a", "temperature": 1e9}"#, "temperature"),
            (r#"{"prompt": "a", "stop": [1]}"#, "'stop'"),
            (r#"{"prompt": "a", "id": [1]}"#, "'id'"),
        ] {
            let e = parsed(line).1.err().unwrap();
            assert!(e.contains(said), "{line}: {e}");
        }
        assert!(
            parse(b"{\"prompt\": \"\xff\"}", &RequestOptions::default())
                .1
                .is_err()
        );
    }
}
