//! Token ids of real and of tiny vocabularies, against ids made by llama.cpp.
//!
//! Needs the shared fixtures: set LIBINFER_FIXTURES to the folder that holds `fixtures/` and `models/`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails; skipped ones say so"
)]

#[path = "common/skip.rs"]
mod skip;

use std::path::Path;

use infer::gguf::Gguf;
use infer::tokenizer::{Tokenizer, TokenizerError};

fn tokenizer(path: &Path) -> Tokenizer {
    let file = Gguf::open(path).unwrap();
    Tokenizer::from_metadata(file.metadata()).unwrap().unwrap()
}

#[test]
fn real_vocabularies_encode_as_the_reference_does_and_decode_to_the_text() {
    let Some(root) = skip::fixtures("token ids of real vocabularies") else {
        return;
    };
    for name in ["llama-spm", "phi-3", "llama-bpe", "gpt-2", "qwen2"] {
        let path = root.join(format!("fixtures/vocab/ggml-vocab-{name}.gguf"));
        let tokenizer = tokenizer(&path);
        let read =
            |extension: &str| std::fs::read_to_string(format!("{}.{extension}", path.display())).unwrap();
        let input = read("inp");
        let output = read("out");
        let cases: Vec<&str> = input.split("\n__ggml_vocab_test__\n").collect();
        let expected: Vec<Vec<u32>> = output
            .lines()
            .map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect())
            .collect();
        assert!(expected.len() >= 40, "{name}: {} cases", expected.len());
        assert!(cases.len() >= expected.len(), "{name}");
        for (text, expected) in cases.iter().zip(&expected) {
            let ids = tokenizer.encode(text, false, false).unwrap();
            assert_eq!(&ids, expected, "{name}: {text:?}");
            assert_eq!(tokenizer.decode(&ids, false), *text, "{name}");
        }
        println!("{name}: {} cases", expected.len());
    }
}

#[test]
fn tiny_models_encode_as_the_reference_does_or_name_what_is_unsupported() {
    let Some(root) = skip::fixtures("token ids of real vocabularies") else {
        return;
    };
    let (mut encoded, mut refused) = (0, Vec::new());
    for folder in ["arch", "quant"] {
        for entry in std::fs::read_dir(root.join("fixtures").join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|e| e != "gguf") {
                continue;
            }
            let json = std::fs::read_to_string(path.with_extension("json")).unwrap();
            let json: serde_json::Value = serde_json::from_str(&json).unwrap();
            let tokenizer = tokenizer(&path);
            for case in json["tokenize"].as_array().into_iter().flatten() {
                let text = case["text"].as_str().unwrap();
                let expected: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
                match tokenizer.encode(text, true, true) {
                    Ok(ids) => {
                        assert_eq!(ids, expected, "{}: {text:?}", path.display());
                        encoded += 1;
                    }
                    Err(error) => {
                        let name = match &error {
                            TokenizerError::UnsupportedModel(name)
                            | TokenizerError::UnsupportedPreTokenizer(name) => name.clone(),
                            other => panic!("{}: {other}", path.display()),
                        };
                        assert!(error.to_string().contains(&format!("'{name}'")));
                        refused.push(name);
                    }
                }
            }
        }
    }
    refused.sort();
    refused.dedup();
    println!("{encoded} texts encoded; unsupported: {refused:?}");
    assert!(encoded > 100);
    for supported in ["llama", "gpt2", "llama-bpe", "gpt-2", "qwen2", "default", ""] {
        assert!(!refused.iter().any(|r| r == supported), "{supported}");
    }
}

#[test]
fn every_shared_model_has_a_tokenizer_that_loads() {
    let Some(root) = skip::fixtures("token ids of real vocabularies") else {
        return;
    };
    let mut loaded = 0;
    for folder in std::fs::read_dir(root.join("models")).unwrap() {
        let folder = folder.unwrap().path();
        if !folder.is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|e| e != "gguf") {
                continue;
            }
            let tokenizer = tokenizer(&path);
            match tokenizer.encode("Once upon a time, é🙂", false, false) {
                Ok(ids) => assert!(!ids.is_empty()),
                Err(e) => println!("{}: {e}", path.display()),
            }
            loaded += 1;
        }
    }
    assert!(loaded > 5);
}
