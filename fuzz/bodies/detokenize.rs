//! A stream of byte tokens gives whole characters, together what lossy conversion of all bytes gives.

use std::sync::OnceLock;

use infer::gguf::{Array, Metadata, Value};
use infer::tokenizer::Tokenizer;

fn bytes() -> &'static Tokenizer {
    static BYTES: OnceLock<Tokenizer> = OnceLock::new();
    BYTES.get_or_init(|| {
        let mut m = Metadata::new();
        let texts = (0..=255u8).map(|b| format!("<0x{b:02X}>")).collect();
        m.insert("tokenizer.ggml.model", Value::String("llama".into()));
        m.insert("tokenizer.ggml.tokens", Value::Array(Array::String(texts)));
        m.insert("tokenizer.ggml.token_type", Value::Array(Array::I32(vec![6; 256])));
        Tokenizer::from_metadata(&m)
            .expect("a vocabulary of all bytes")
            .expect("a tokenizer")
    })
}

/// Decodes `data` byte by byte.
pub fn run(data: &[u8]) {
    let tokenizer = bytes();
    let mut stream = tokenizer.detokenizer();
    let mut out = String::new();
    for &byte in data {
        stream.push(tokenizer, byte.into(), false, &mut out);
    }
    stream.finish(&mut out);
    assert_eq!(out, String::from_utf8_lossy(data));
}
