//! `infer bench`: what it measures and how it says it. No test looks at how fast anything is.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::{DEMO, json, run};
use serde_json::Value;

/// Arguments that measure on the demo model, and more.
fn bench<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["bench", "--model", DEMO, "--threads", "2"][..], more].concat()
}

/// What a result is of: kind, prompt tokens, generated tokens, batch, depth.
fn case(result: &Value) -> (&str, u64, u64, u64, u64) {
    let number = |key: &str| result[key].as_u64().unwrap();
    (
        result["kind"].as_str().unwrap(),
        number("prompt_tokens"),
        number("generate_tokens"),
        number("batch"),
        number("depth"),
    )
}

#[test]
fn every_combination_is_a_result_with_all_its_fields() {
    let report = json(bench(&[
        "--json",
        "--prompt-tokens",
        "24,40",
        "--generate-tokens",
        "4",
        "--batch",
        "1,3",
        "--depth",
        "0,40",
        "--repetitions",
        "2",
    ]));
    let results = report["results"].as_array().unwrap();
    assert_eq!(
        results.iter().map(case).collect::<Vec<_>>(),
        [
            ("pp", 24, 0, 1, 0),
            ("pp", 40, 0, 1, 0),
            ("tg", 0, 4, 1, 0),
            ("batched_tg", 0, 4, 3, 0),
            ("tg", 0, 4, 1, 40),
            ("batched_tg", 0, 4, 3, 40),
        ]
    );
    for result in results {
        assert_eq!(result["threads"], 2);
        let runs: Vec<f64> = result["runs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v.as_f64().unwrap())
            .collect();
        assert_eq!(runs.len(), 2, "{result}");
        let median = result["tokens_per_second"].as_f64().unwrap();
        assert!(
            (median - (runs[0] + runs[1]) / 2.0).abs() <= 1e-9 * median,
            "{result}"
        );
        for key in [
            "limit_tokens_per_second",
            "fraction_of_limit",
            "bandwidth_gb_s",
            "clock_ghz",
        ] {
            assert!(result[key].as_f64().unwrap() > 0.0, "{key}: {result}");
        }
        assert!(result["spread"].as_f64().unwrap() >= 0.0, "{result}");
    }
    assert!(!report["machine"]["cpu"].as_str().unwrap().is_empty());
    assert!(report["machine"]["cores"].as_u64().unwrap() >= 1);
    assert_eq!(report["model"]["path"], DEMO);
    assert_eq!(report["options"]["kv_type"], "f16");
    assert!(report["load_seconds"].as_f64().unwrap() > 0.0);
    if cfg!(target_os = "linux") {
        // The model's memory, without the buffer of the probe.
        let peak = report["peak_rss_bytes"].as_u64().unwrap();
        assert!((2_000_000..200_000_000).contains(&peak), "{peak}");
        assert!(report["rss_anon_bytes"].as_u64().unwrap() > 0);
    }
}

#[test]
fn zero_measures_none_of_a_kind() {
    let report = json(bench(&[
        "--json",
        "--prompt-tokens",
        "16",
        "--generate-tokens",
        "0",
        "--repetitions",
        "1",
    ]));
    let cases: Vec<_> = report["results"].as_array().unwrap().iter().map(case).collect();
    assert_eq!(cases, [("pp", 16, 0, 1, 0)]);

    let report = json(bench(&[
        "--json",
        "--prompt-tokens",
        "0",
        "--generate-tokens",
        "3",
        "--batch",
        "2",
        "--repetitions",
        "1",
    ]));
    let cases: Vec<_> = report["results"].as_array().unwrap().iter().map(case).collect();
    assert_eq!(cases, [("batched_tg", 0, 3, 2, 0)]);
}

#[test]
fn without_json_it_is_a_table() {
    let answer = run(bench(&[
        "--prompt-tokens",
        "16",
        "--generate-tokens",
        "2",
        "--batch",
        "1,2",
        "--repetitions",
        "1",
    ]));
    assert_eq!(answer.code, Some(0), "{answer:?}");
    for part in ["machine", "loaded in", "kernels", "of limit", "GB/s"] {
        assert!(answer.stdout.contains(part), "{part}: {answer:?}");
    }
    for kind in ["pp ", "tg ", "batched_tg "] {
        let rows = answer
            .stdout
            .lines()
            .filter(|line| line.starts_with(kind))
            .count();
        assert_eq!(rows, 1, "{kind}: {answer:?}");
    }
}

#[test]
fn what_the_model_has_no_room_for_is_refused_before_anything_is_measured() {
    for (arguments, sentence) in [
        (
            &["--depth", "2048"][..],
            "--depth 2048: 640 tokens are to be decoded after it",
        ),
        (&["--depth", "0,1500"], "--depth 1500"),
        (
            &["--prompt-tokens", "2047"],
            "--prompt-tokens 2047: the model attends to 2048 tokens",
        ),
        (
            &["--generate-tokens", "4096"],
            "--depth 0: 4096 tokens are to be decoded after it",
        ),
    ] {
        let answer = run(bench(arguments));
        assert_eq!(answer.code, Some(2), "{arguments:?}: {answer:?}");
        assert!(answer.stderr.contains(sentence), "{arguments:?}: {answer:?}");
        assert_eq!(answer.stdout, "");
    }
}

#[test]
fn a_measurement_of_nothing_or_of_what_no_engine_does_is_refused() {
    for (arguments, sentence) in [
        (&["--batch", "0"][..], "--batch 0: expected 1 to 4096 sequences"),
        (&["--batch", "1,5000"], "--batch 5000"),
        (&["--batch", "many"], "found 'many'"),
        (&["--depth", "-1"], "found '-1'"),
        (&["--repetitions", "0"], "0 is not in 1..=1000"),
        (
            &["--prompt-tokens", "0", "--generate-tokens", "0"],
            "nothing to measure",
        ),
        (&["--founding", "--batch", "2"], "cannot be used with"),
        (&["--kv-type", "f64"], "f32|f16|bf16|q8"),
    ] {
        let answer = run(bench(arguments));
        assert_eq!(answer.code, Some(2), "{arguments:?}: {answer:?}");
        assert!(answer.stderr.contains(sentence), "{arguments:?}: {answer:?}");
    }
    let answer = run(["bench", "--model", "/nowhere/m.gguf"]);
    assert_eq!(answer.code, Some(1), "{answer:?}");
    assert!(answer.stderr.contains("/nowhere/m.gguf"), "{answer:?}");
}

#[test]
fn founding_figures_are_measured_or_said_to_be_missing() {
    let report = json(bench(&["--json", "--founding"]));
    let figures = report["founding"].as_array().unwrap();
    let named = |part: &str| {
        let found = figures
            .iter()
            .find(|f| f["figure"].as_str().unwrap().contains(part));
        found.unwrap_or_else(|| panic!("{part}: {report}"))
    };
    for part in [
        "dot of 1024",
        "matmul 256 x 256 f32",
        "ReLU of 1024",
        "sigmoid of 1024",
        "sum of 1024",
        "RMS norm of 512",
        "RMS norm of 1024",
        "RMS norm of 2048",
        "dot, ",
        "fused against several passes",
        "int8 against f32",
        "allocations over whole requests",
        "everything on against everything off",
        "key/value store of f16",
        "key/value store of f32",
        "call overhead saved",
    ] {
        assert!(
            named(part)["measured"].as_f64().unwrap() > 0.0,
            "{part}: {report}"
        );
    }
    // Figures that no clock decides.
    assert_eq!(named("4 heads sharing one")["measured"], 75.0);
    let saved = named("flash-attention workspace")["measured"].as_f64().unwrap();
    assert!((92.0..100.0).contains(&saved), "{saved}");
    assert_eq!(named("allocations per decode step")["measured"], 0.0);
    assert!(named("blocks of keys and values")["measured"].as_f64().unwrap() >= 95.0);
    for figure in figures.iter().filter(|f| f["measured"].is_null()) {
        assert!(!figure["note"].as_str().unwrap().is_empty(), "{figure}");
    }
    assert!(named("read back from the disk")["measured"].is_null());
}
