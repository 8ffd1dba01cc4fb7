//! `infer score` and `infer embed` on the demo model.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::{DEMO, json, run, run_with_input};
use serde_json::Value;

const TEXT: &str = "Prince Andrew looked at her and";

fn floats(value: &Value) -> Vec<f64> {
    let values = value.as_array().unwrap().iter();
    values.map(|v| v.as_f64().unwrap_or(f64::NAN)).collect()
}

#[test]
fn a_text_is_scored_token_by_token() {
    let answer = json(["score", "--model", DEMO, "--json", TEXT]);
    let logprobs = floats(&answer["logprobs"]);
    assert_eq!(logprobs.len(), answer["ids"].as_array().unwrap().len());
    assert_eq!(logprobs.len(), answer["tokens"].as_array().unwrap().len());
    assert!(answer["logprobs"][0].is_null() && logprobs[1..].iter().all(|x| *x < 0.0));
    let sum: f64 = logprobs[1..].iter().sum();
    assert!((sum - answer["sum"].as_f64().unwrap()).abs() < 1e-9);
    assert_eq!(
        answer["scored_tokens"].as_u64().unwrap() as usize,
        logprobs.len() - 1
    );
    let perplexity = (-sum / (logprobs.len() - 1) as f64).exp();
    assert!((perplexity - answer["perplexity"].as_f64().unwrap()).abs() < 1e-9);

    let plain = run_with_input(["score", "--model", DEMO], TEXT.as_bytes());
    let lines: Vec<&str> = plain.stdout.lines().collect();
    assert_eq!(lines.len(), logprobs.len() + 1);
    assert!(lines[0].starts_with("-\t") && lines[1].starts_with(&format!("{:.4}\t", logprobs[1])));
    assert!(lines[logprobs.len()].starts_with(&format!("sum {sum:.4} of 6 tokens, perplexity ")));
}

#[test]
fn texts_become_vectors_in_their_order() {
    let answer = json(["embed", "--model", DEMO, "--json", TEXT, "War", TEXT]);
    let all: Vec<Vec<f64>> = answer["embeddings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| floats(&e["embedding"]))
        .collect();
    assert_eq!(all.len(), 3);
    assert_eq!(all[0], all[2]);
    assert_ne!(all[0], all[1]);
    assert_eq!(all[0].len() as u64, answer["n_embd"].as_u64().unwrap());
    let norm: f64 = all[1].iter().map(|x| x * x).sum();
    assert!((norm - 1.0).abs() < 1e-5, "{norm}");
    assert_eq!(answer["embeddings"][0]["tokens"], 7);

    let raw = json([
        "embed",
        "--model",
        DEMO,
        "--json",
        "--no-embedding-normalize",
        "--pooling",
        "last",
        TEXT,
    ]);
    let raw = floats(&raw["embeddings"][0]["embedding"]);
    assert!(raw.iter().map(|x| x * x).sum::<f64>() > 2.0);
    let plain = run_with_input(["embed", "--model", DEMO], TEXT.as_bytes());
    let line: Vec<f64> = plain
        .stdout
        .split_whitespace()
        .map(|x| x.parse().unwrap())
        .collect();
    assert_eq!((plain.stdout.lines().count(), line.len()), (1, all[0].len()));
    let refused = run(["embed", "--model", DEMO, "--pooling", "max", TEXT]);
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("--pooling"), "{refused:?}");
}
