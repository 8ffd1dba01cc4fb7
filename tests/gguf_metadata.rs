//! Typed lookups of metadata: any width of integer where it fits, and a message that names key, expected and found.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use infer::gguf::{Array, GgufError, Metadata, Value};

fn metadata() -> Metadata {
    let mut m = Metadata::new();
    for (key, value) in [
        ("u8", Value::U8(7)),
        ("i64", Value::I64(1 << 40)),
        ("negative", Value::I32(-1)),
        ("f32", Value::F32(0.5)),
        ("f64", Value::F64(0.25)),
        ("bool", Value::Bool(true)),
        ("string", Value::String("text".into())),
        ("strings", Value::Array(Array::String(vec!["a".into()]))),
        ("f32s", Value::Array(Array::F32(vec![1.5]))),
        ("u16s", Value::Array(Array::U16(vec![65_535]))),
        ("u64s", Value::Array(Array::U64(vec![u64::MAX]))),
    ] {
        assert!(m.insert(key, value));
    }
    m
}

#[track_caller]
fn wrong<T: std::fmt::Debug>(result: Result<Option<T>, GgufError>, message: &str) {
    assert_eq!(result.unwrap_err().to_string(), message);
}

#[test]
fn values_of_a_fitting_type_are_found() {
    let m = metadata();
    assert_eq!(m.u32("u8").unwrap(), Some(7));
    assert_eq!(m.u64("i64").unwrap(), Some(1 << 40));
    assert_eq!(m.f32("f32").unwrap(), Some(0.5));
    assert_eq!(m.f32("f64").unwrap(), Some(0.25));
    assert_eq!(m.bool("bool").unwrap(), Some(true));
    assert_eq!(m.str("string").unwrap(), Some("text"));
    assert_eq!(m.strings("strings").unwrap().unwrap(), ["a"]);
    assert_eq!(m.f32s("f32s").unwrap().unwrap(), [1.5]);
    assert_eq!(m.integers("u16s").unwrap().unwrap(), [65_535]);
}

#[test]
fn an_absent_key_is_no_error() {
    let m = metadata();
    assert_eq!(m.u32("absent").unwrap(), None);
    assert_eq!(m.str("absent").unwrap(), None);
    assert_eq!(m.integers("absent").unwrap(), None);
}

#[test]
fn a_value_or_element_of_another_type_is_named() {
    let m = metadata();
    wrong(
        m.u32("i64"),
        "metadata key 'i64': expected an unsigned 32-bit integer, found i64",
    );
    wrong(
        m.u64("negative"),
        "metadata key 'negative': expected a non-negative integer, found i32",
    );
    wrong(m.f32("u8"), "metadata key 'u8': expected a float, found u8");
    wrong(m.bool("u8"), "metadata key 'u8': expected a bool, found u8");
    wrong(
        m.str("bool"),
        "metadata key 'bool': expected a string, found bool",
    );
    wrong(
        m.strings("f32s"),
        "metadata key 'f32s': expected an array of strings, found array of f32",
    );
    wrong(
        m.strings("string"),
        "metadata key 'string': expected an array of strings, found string",
    );
    wrong(
        m.f32s("u16s"),
        "metadata key 'u16s': expected an array of f32, found array of u16",
    );
    wrong(
        m.integers("strings"),
        "metadata key 'strings': expected an array of integers, found array of string",
    );
    wrong(
        m.integers("u64s"),
        "metadata key 'u64s': expected an array of integers, found array of u64",
    );
}

#[test]
fn keys_keep_their_order_and_are_unique() {
    let mut m = metadata();
    assert!(!m.insert("u8", Value::U8(9)));
    assert_eq!(m.get("u8"), Some(&Value::U8(7)));
    let keys: Vec<_> = m.iter().map(|(k, _)| k).take(3).collect();
    assert_eq!(keys, ["u8", "i64", "negative"]);
    assert_eq!(m.len(), 11);
}
