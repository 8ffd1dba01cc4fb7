//! What the tests of the public interface share.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test code")]

pub mod chat;
pub mod prometheus;
pub mod tiny;

mod skip;
#[allow(unused_imports, reason = "each test binary uses a part")]
pub use skip::{fixtures, skip};

use std::path::{Path, PathBuf};
use std::sync::Arc;

use infer::engine::{Engine, Event, Finish, Poll, Request};
use infer::model::Model;
use infer::options::{EngineOptions, ModelOptions, RequestOptions};

/// The small model of the repository.
pub fn demo_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tolstoy-3m-Q8_0.gguf")
}

/// Loads a model with default options.
pub fn load(path: &Path) -> Arc<Model> {
    Model::load(path, &ModelOptions::default(), &mut |_| true).unwrap()
}

/// Normalized mean square error of `x` against `reference`.
pub fn nmse(x: &[f32], reference: &[f32]) -> f64 {
    assert_eq!(x.len(), reference.len());
    let square = |v: f64| v * v;
    let error: f64 = x
        .iter()
        .zip(reference)
        .map(|(a, b)| square(f64::from(a - b)))
        .sum();
    error / reference.iter().map(|b| square(f64::from(*b))).sum::<f64>()
}

/// Little-endian f32 values of a file.
pub fn read_f32(path: &Path) -> Vec<f32> {
    std::fs::read(path)
        .unwrap()
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}

/// A JSON file.
pub fn read_json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Token ids of a JSON array.
pub fn ids(value: &serde_json::Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_u64().unwrap() as u32)
        .collect()
}

/// All logits of `ids` on one CPU level, position by position.
pub fn logits(model: &Model, ids: &[u32], options: &EngineOptions) -> Vec<f32> {
    let mut all = Vec::new();
    infer::engine::evaluate::logits(model, ids, options, &mut |_, row| {
        all.extend_from_slice(row);
        Ok(())
    })
    .unwrap();
    all
}

/// What a request brought until its end.
#[derive(Debug)]
pub struct Output {
    pub text: String,
    pub tokens: Vec<u32>,
    pub finish: Finish,
}

/// Reads a request to its end.
pub fn read(request: &Request) -> Output {
    let (mut text, mut tokens, mut finish) = (String::new(), Vec::new(), None);
    let mut event = Event::default();
    while request.next(None, &mut event).unwrap() == Poll::Event {
        text.push_str(&event.text);
        tokens.extend_from_slice(&event.tokens);
        finish = finish.or(event.finish.take());
    }
    Output {
        text,
        tokens,
        finish: finish.unwrap(),
    }
}

/// Runs one request on an engine.
pub fn generate(engine: &Engine, options: RequestOptions) -> Output {
    read(&engine.submit(options).unwrap())
}

/// Greedy options for `n` tokens.
pub fn greedy(n: usize) -> RequestOptions {
    RequestOptions {
        temperature: 0.0,
        max_tokens: n,
        ..RequestOptions::default()
    }
}
