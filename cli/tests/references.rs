//! The command against reference outputs that other programs made. They lie outside the source tree; without
//! `LIBINFER_FIXTURES` these tests print what they skip.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::print_stdout, reason = "a test says what it measured or skipped")]

mod common;

use std::path::{Path, PathBuf};

use common::{comma_separated, fixtures, ids, json, object, run};
use serde_json::Value;

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn floats(path: &Path) -> Vec<f64> {
    let bytes = std::fs::read(path).unwrap();
    bytes
        .chunks_exact(4)
        .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())))
        .collect()
}

fn gguf_files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "gguf"))
        .collect();
    files.sort();
    files
}

/// Generates greedily and compares with every case of a reference file, as far as `most` tokens. Where the
/// reference gives the distance of its two best logits, ids are compared up to the first one below `gap`. The
/// references were made with keys and values in F32.
fn greedy(model: &Path, expected: &Path, most: usize, gap: f64, kv_type: &str) {
    for case in read_json(expected)["cases"].as_array().unwrap() {
        let prompt = case["prompt"].as_str().unwrap();
        let mut reference = ids(&case["greedy_ids"]);
        if let Some(gaps) = case["greedy_top2_gap"].as_array() {
            let clear = gaps.iter().take_while(|g| g.as_f64().unwrap() > gap).count();
            reference.truncate(clear);
        }
        reference.truncate(most);
        let n = reference.len().max(1).to_string();
        let answer = json([
            "generate".as_ref(),
            "--json".as_ref(),
            "--model".as_ref(),
            model.as_os_str(),
            "--prompt".as_ref(),
            prompt.as_ref(),
            "--max-tokens".as_ref(),
            n.as_ref(),
            "--temperature".as_ref(),
            "0".as_ref(),
            "--kv-type".as_ref(),
            kv_type.as_ref(),
        ]);
        let name = model.file_name().unwrap();
        assert_eq!(
            ids(&answer["prompt_ids"]),
            ids(&case["prompt_ids"]),
            "{name:?} '{prompt}'"
        );
        let generated = ids(&answer["generated_ids"]);
        assert_eq!(generated[..reference.len()], reference, "{name:?} '{prompt}'");
        println!("{name:?} '{prompt}': {} greedy ids agree", reference.len());
    }
}

#[test]
fn greedy_ids_of_stories260k_equal_the_reference() {
    let Some(folder) = fixtures("greedy generation with stories260K") else {
        return;
    };
    let folder = folder.join("models/stories260K");
    greedy(
        &folder.join("stories260K-F32.gguf"),
        &folder.join("expected-greedy.json"),
        200,
        0.0,
        "f16",
    );
}

#[test]
fn greedy_ids_of_the_other_llama_models_equal_the_reference() {
    let Some(folder) = fixtures("greedy generation with small llama models") else {
        return;
    };
    let models = folder.join("models");
    greedy(
        &models.join("llama2xs/llama2xs-F16.gguf"),
        &models.join("llama2xs/expected-greedy.json"),
        60,
        0.0,
        "f32",
    );
    let tolstoy = models.join("tolstoy");
    greedy(
        &tolstoy.join("tolstoy-3m-F16.gguf"),
        &tolstoy.join("expected-greedy-3m.json"),
        48,
        0.001,
        "f32",
    );
    greedy(
        &tolstoy.join("tolstoy-21m-F16.gguf"),
        &tolstoy.join("expected-greedy-21m.json"),
        48,
        0.001,
        "f32",
    );
}

/// Normalized mean square error of the last `reference` rows of what `infer logits` computes.
fn nmse(gguf: &Path, reference: &Path, more: &[&str]) -> f64 {
    let case = read_json(&gguf.with_extension("json"));
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("logits");
    let prompt = comma_separated(&ids(&case["prompt_ids"]));
    let mut args = vec![
        "logits".as_ref(),
        "--json".as_ref(),
        "--model".as_ref(),
        gguf.as_os_str(),
        "--ids".as_ref(),
        prompt.as_ref(),
        "--out".as_ref(),
        out.as_os_str(),
    ];
    args.extend(more.iter().map(std::ffi::OsStr::new));
    let answer = json(args);
    assert_eq!(answer["n_vocab"], case["n_vocab"]);
    let (all, reference) = (floats(&out), floats(reference));
    let found = &all[all.len() - reference.len()..];
    let error: f64 = found.iter().zip(&reference).map(|(a, b)| (a - b).powi(2)).sum();
    error / reference.iter().map(|b| b * b).sum::<f64>()
}

#[test]
fn logits_equal_the_reference_within_its_tolerances() {
    let Some(folder) = fixtures("logits against references") else {
        return;
    };
    let check = |gguf: &Path, reference: &str, more: &[&str], tolerance: f64| {
        let nmse = nmse(gguf, &gguf.with_extension(reference), more);
        let name = gguf.file_stem().unwrap().to_string_lossy();
        println!("{name} against {reference} {more:?}: NMSE {nmse:.2e}");
        assert!(nmse <= tolerance, "{name}: NMSE {nmse} > {tolerance}");
    };
    let runs = |gguf: &PathBuf| {
        let checked = json(["check".as_ref(), gguf.as_os_str(), "--json".as_ref()]);
        // A tokenizer that is not supported does not hinder: the prompts are ids.
        let hindered = |w: &Value| !w.as_str().unwrap().contains("cannot encode text");
        !checked["warnings"].as_array().unwrap().iter().any(hindered)
    };
    let folder = folder.join("fixtures");
    let mut n = 0;
    for gguf in gguf_files(&folder.join("arch")).iter().filter(|g| runs(g)) {
        check(gguf, "logits.f32", &[], 1e-6);
        n += 1;
    }
    for gguf in gguf_files(&folder.join("quant")).iter().filter(|g| runs(g)) {
        check(gguf, "exact.logits.f32", &["--exact"], 1e-6);
        check(gguf, "logits.f32", &[], 5e-3);
        n += 1;
    }
    assert!(n >= 20, "only {n} files could run");
}

#[test]
fn every_reference_file_is_sound_and_can_be_inspected() {
    let Some(folder) = fixtures("check and inspect of every reference file") else {
        return;
    };
    let mut n = 0;
    for sub in ["fixtures/arch", "fixtures/quant", "fixtures/vocab"] {
        for path in gguf_files(&folder.join(sub)) {
            let answer = object(&run(["check".as_ref(), path.as_os_str(), "--json".as_ref()]), 0);
            assert_eq!(answer["ok"], true, "{path:?}: {answer}");
            let shown = json(["inspect".as_ref(), path.as_os_str(), "--json".as_ref()]);
            assert!(shown["architecture"].is_string(), "{path:?}");
            if shown["architecture"] == "llama" && sub == "fixtures/arch" {
                assert_eq!(shown["runs"], true, "{path:?}: {}", shown["reason"]);
            }
            n += 1;
        }
    }
    println!("{n} files are sound");
    assert!(n >= 70, "only {n} files were found");
}

#[test]
fn a_version_1_file_generates_like_its_version_3_twin() {
    let Some(folder) = fixtures("a GGUF version 1 file") else {
        return;
    };
    let v1 = folder.join("models/gguf-v1/stories260K-v1-F32.gguf");
    assert_eq!(
        json(["inspect".as_ref(), v1.as_os_str(), "--json".as_ref()])["version"],
        1
    );
    let expected = folder.join("models/stories260K/expected-greedy.json");
    greedy(&v1, &expected, 40, 0.0, "f16");
}

#[test]
fn vocabulary_only_files_tokenize_and_cannot_generate() {
    let Some(folder) = fixtures("tokenizing with vocabulary-only files") else {
        return;
    };
    let folder = folder.join("fixtures/vocab");
    for name in ["llama-spm", "phi-3", "llama-bpe", "gpt-2", "qwen2"] {
        let model = folder.join(format!("ggml-vocab-{name}.gguf"));
        let read = |more: &str| std::fs::read_to_string(format!("{}{more}", model.display())).unwrap();
        let (texts, expected) = (read(".inp"), read(".out"));
        // The tokenizer's own tests take every case; these are for the way through the command.
        for (text, line) in texts
            .split("\n__ggml_vocab_test__\n")
            .zip(expected.lines())
            .take(10)
        {
            let expected: Vec<u64> = line.split_whitespace().map(|id| id.parse().unwrap()).collect();
            let answer = json([
                "tokenize".as_ref(),
                "--json".as_ref(),
                "--no-special".as_ref(),
                "--model".as_ref(),
                model.as_os_str(),
                "--text".as_ref(),
                text.as_ref(),
            ]);
            assert_eq!(ids(&answer["ids"]), expected, "{name} {text:?}");
        }
        let answer = run([
            "generate".as_ref(),
            "--model".as_ref(),
            model.as_os_str(),
            "--prompt".as_ref(),
            "a".as_ref(),
        ]);
        assert_eq!(answer.code, Some(1), "{answer:?}");
        assert_eq!(answer.stdout, "");
        assert_eq!(answer.stderr.lines().count(), 1, "{answer:?}");
    }
}
