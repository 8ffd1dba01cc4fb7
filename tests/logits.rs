//! Logits against reference implementations, and their independence of threads and chunks.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "test code"
)]

mod common;

use std::path::Path;

use common::tiny::Tiny;
use common::{demo_model, fixtures, ids, load, logits, nmse, read_f32, read_json};
use infer::engine::Engine;
use infer::gguf;
use infer::kernel::CpuLevel;
use infer::options::{EngineOptions, Prompt, RequestOptions};
use serde_json::Value;

fn options(level: CpuLevel, exact: bool) -> EngineOptions {
    EngineOptions {
        cpu_level: level.name(),
        kv_type: "f32",
        exact,
        ..EngineOptions::default()
    }
}

fn argmax(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

/// Names of the fixtures of a folder whose `general.architecture` is llama and whose types are covered.
fn names(folder: &Path) -> Vec<String> {
    let supported = [
        "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
        "IQ4_NL", "IQ4_XS", "MXFP4",
    ];
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "json"))
        .filter(|p| {
            let json = read_json(p);
            let types = json["tensor_types"].as_array().unwrap();
            json["architecture"] == "llama" && types.iter().all(|t| supported.contains(&t.as_str().unwrap()))
        })
        .map(|p| p.file_stem().unwrap().to_str().unwrap().to_string())
        .collect();
    names.sort();
    names
}

/// The eight reference positions of our logits for the fixture's prompt.
fn measured(folder: &Path, name: &str, json: &Value, options: &EngineOptions) -> Vec<f32> {
    let model = load(&folder.join(format!("{name}.gguf")));
    let prompt = ids(&json["prompt_ids"]);
    let n_vocab = json["n_vocab"].as_u64().unwrap() as usize;
    let all = logits(&model, &prompt, options);
    ids(&json["logits_positions"])
        .iter()
        .flat_map(|&p| all[p as usize * n_vocab..(p as usize + 1) * n_vocab].to_vec())
        .collect()
}

/// Rows whose top token must agree do agree: all of them, or those whose best two are further apart than `gap`.
fn check_top(name: &str, ours: &[f32], reference: &[f32], n_vocab: usize, gap: f32) {
    for (i, (a, b)) in ours
        .chunks_exact(n_vocab)
        .zip(reference.chunks_exact(n_vocab))
        .enumerate()
    {
        let best = argmax(b);
        let second = b
            .iter()
            .enumerate()
            .filter(|(j, _)| *j != best)
            .map(|(_, v)| *v)
            .fold(f32::MIN, f32::max);
        if b[best] - second > gap {
            assert_eq!(argmax(a), best, "{name}: top token of row {i}");
        }
    }
}

#[test]
fn float_models_of_the_llama_family_match_the_reference_at_every_level() {
    let Some(root) = fixtures("logits of the llama fixtures") else {
        return;
    };
    let folder = root.join("fixtures/arch");
    let names = names(&folder);
    assert!(names.len() >= 8, "{names:?}");
    for name in names {
        let json = read_json(&folder.join(format!("{name}.json")));
        let reference = read_f32(&folder.join(format!("{name}.logits.f32")));
        for level in CpuLevel::available() {
            let ours = measured(&folder, &name, &json, &options(level, false));
            let error = nmse(&ours, &reference);
            println!("{name:24} {:7} NMSE {error:.2e}", level.name());
            assert!(error <= 1e-6, "{name} at {}: NMSE {error:e}", level.name());
        }
    }
}

#[test]
fn float_models_generate_the_reference_tokens() {
    let Some(root) = fixtures("greedy tokens of the llama fixtures") else {
        return;
    };
    let folder = root.join("fixtures/arch");
    for name in names(&folder) {
        let json = read_json(&folder.join(format!("{name}.json")));
        let model = load(&folder.join(format!("{name}.gguf")));
        let engine = Engine::new(
            model,
            EngineOptions {
                kv_type: "f32",
                ..EngineOptions::default()
            },
        )
        .unwrap();
        let expected = ids(&json["greedy_ids"]);
        let request = RequestOptions {
            prompt: Prompt::Ids(ids(&json["prompt_ids"])),
            ignore_end_of_generation: true,
            ..common::greedy(expected.len())
        };
        assert_eq!(common::generate(&engine, request).tokens, expected, "{name}");
    }
}

#[test]
fn quantized_models_match_the_reference_at_every_level() {
    let Some(root) = fixtures("logits of the quantized fixtures") else {
        return;
    };
    let folder = root.join("fixtures/quant");
    let names = names(&folder);
    assert!(names.len() >= 15, "{names:?}");
    for name in names {
        let json = read_json(&folder.join(format!("{name}.json")));
        let n_vocab = json["n_vocab"].as_u64().unwrap() as usize;
        let reference = read_f32(&folder.join(format!("{name}.logits.f32")));
        let exact = folder.join(format!("{name}.exact.logits.f32"));
        let exact = read_f32(&exact);
        let gap = 0.3 * json["spread"].as_f64().unwrap() as f32;
        for level in CpuLevel::available() {
            let ours = measured(&folder, &name, &json, &options(level, false));
            let ours_exact = measured(&folder, &name, &json, &options(level, true));
            let (any, precise) = (nmse(&ours, &reference), nmse(&ours_exact, &exact));
            println!(
                "{name:10} {:7} NMSE {any:.2e} to the reference, {:.2e} to the exact logits, {precise:.2e} with exact",
                level.name(),
                nmse(&ours, &exact)
            );
            assert!(any <= 5e-3, "{name} at {}: NMSE {any:e}", level.name());
            assert!(
                precise <= 1e-6,
                "{name} exact at {}: NMSE {precise:e}",
                level.name()
            );
            check_top(&name, &ours, &reference, n_vocab, gap);
            check_top(&name, &ours_exact, &exact, n_vocab, 0.0);
        }
    }
}

#[test]
fn logits_do_not_depend_on_the_number_of_threads() {
    let model = load(&demo_model());
    let prompt = model
        .tokenize("Prince Andrew looked at her and", true, true)
        .unwrap();
    for kv_type in ["f32", "f16", "bf16", "q8"] {
        let with = |threads| {
            logits(
                &model,
                &prompt,
                &EngineOptions {
                    threads,
                    kv_type,
                    ..EngineOptions::default()
                },
            )
        };
        let one = with(1);
        assert!(one.iter().all(|v| v.is_finite()));
        for threads in [2, 4] {
            assert!(one == with(threads), "{kv_type}, {threads} threads");
        }
    }
}

/// llama.cpp reads `yarn_ext_factor` only for `grok` and `yarn_log_multiplier` only for `mistral3` and later families.
#[test]
fn yarn_keys_that_belong_to_other_families_change_nothing() {
    let with = |more: &[(&str, f32)]| {
        let mut tiny = Tiny::spm();
        tiny.set("llama.rope.scaling.type", gguf::Value::String("yarn".to_string()));
        tiny.set("llama.rope.scaling.original_context_length", gguf::Value::U32(4));
        tiny.set("llama.rope.scaling.factor", gguf::Value::F32(8.0));
        for (key, value) in more {
            tiny.set(&format!("llama.rope.scaling.{key}"), gguf::Value::F32(*value));
        }
        let prompt: Vec<u32> = (10..30).collect();
        logits(&tiny.load().unwrap(), &prompt, &EngineOptions::default())
    };
    let plain = with(&[]);
    assert!(plain == with(&[("yarn_ext_factor", 0.25), ("yarn_log_multiplier", 0.7)]));
    assert!(plain != with(&[("yarn_beta_slow", 0.01)]));
    assert!(plain != with(&[("attn_factor", 1.5)]));
}
