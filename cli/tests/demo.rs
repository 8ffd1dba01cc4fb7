//! Every command on the demo model that the source tree carries.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::{Answer, DEMO, comma_separated, finish, ids, infer, json, object, run, run_with_input};
use serde_json::Value;

const PROMPT: &str = "Prince Andrew looked at her and";

fn generate(more: &[&str]) -> Value {
    let mut args = vec!["generate", "--model", DEMO, "--json", "--max-tokens", "12"];
    args.extend_from_slice(more);
    json(args)
}

#[test]
fn generate_answers_one_object_with_ids_text_and_timings() {
    let answer = generate(&["--prompt", PROMPT, "--temperature", "0"]);
    let keys: Vec<&str> = answer.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "model",
            "prompt_ids",
            "generated_ids",
            "text",
            "finish_reason",
            "stop",
            "cached_tokens",
            "timings"
        ]
    );
    // From the reference output that comes with the model.
    assert_eq!(ids(&answer["prompt_ids"]), [4094, 1364, 548, 725, 341, 337, 274]);
    assert_eq!(ids(&answer["generated_ids"]).len(), 12);
    assert_eq!(answer["finish_reason"], "length");
    assert!(!answer["text"].as_str().unwrap().contains("Prince Andrew"));
    for key in [
        "load_seconds",
        "queue_seconds",
        "time_to_first_token_seconds",
        "prefill_tokens_per_second",
        "decode_tokens_per_second",
        "total_seconds",
    ] {
        let value = answer["timings"][key].as_f64().unwrap();
        assert!(value >= 0.0 && value.is_finite(), "{key}: {value}");
    }
    assert!(answer["timings"]["total_seconds"].as_f64() > answer["timings"]["load_seconds"].as_f64());
    assert!(answer["timings"]["prefill_tokens_per_second"].as_f64().unwrap() > 0.0);
    assert!(answer["timings"]["decode_tokens_per_second"].as_f64().unwrap() > 0.0);
}

#[test]
fn generated_text_is_the_same_streamed_and_in_json() {
    let args = ["--prompt", PROMPT, "--seed", "3", "--max-tokens", "24"];
    let streamed = run(["generate", "--model", DEMO].iter().chain(&args));
    assert_eq!(streamed.code, Some(0), "{streamed:?}");
    assert_eq!(streamed.stderr, "");
    let object = json(["generate", "--model", DEMO, "--json"].iter().chain(&args));
    let text = object["text"].as_str().unwrap();
    assert!(!text.is_empty());
    assert_eq!(
        streamed.stdout.trim_end_matches('\n'),
        text.trim_end_matches('\n')
    );
}

#[test]
fn temperature_0_and_equal_seeds_repeat_themselves_and_other_seeds_differ() {
    let text = |more: &[&str]| {
        let mut args = vec!["--prompt", PROMPT, "--max-tokens", "32"];
        args.extend_from_slice(more);
        ids(&generate(&args)["generated_ids"])
    };
    assert_eq!(
        text(&["--temperature", "0"]),
        text(&["--temperature", "0", "--seed", "9"])
    );
    assert_eq!(text(&["--seed", "1"]), text(&["--seed", "1"]));
    assert_eq!(
        text(&[]),
        text(&["--seed", "0", "--temperature", "0.7", "--top-p", "0.9"])
    );
    assert_ne!(text(&["--seed", "1"]), text(&["--seed", "2"]));
    assert_eq!(
        text(&["--seed", "1", "--top-k", "1"]),
        text(&["--temperature", "0"])
    );
    assert_eq!(
        text(&["--seed", "5", "--threads", "1"]),
        text(&["--seed", "5", "--threads", "3", "--prefill-chunk", "2"])
    );
}

#[test]
fn a_prompt_comes_from_flag_file_input_or_ids_alike() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompt");
    std::fs::write(&file, PROMPT).unwrap();
    let file = file.to_str().unwrap();
    let direct = generate(&["--prompt", PROMPT, "--temperature", "0"]);
    let same = |other: &Value| {
        for key in ["prompt_ids", "generated_ids", "text"] {
            assert_eq!(direct[key], other[key], "{key}");
        }
    };
    same(&generate(&["--file", file, "--temperature", "0"]));
    let args = [
        "generate",
        "--json",
        "--model",
        DEMO,
        "--max-tokens",
        "12",
        "--temperature",
        "0",
    ];
    same(&object(&run_with_input(args, PROMPT.as_bytes()), 0));
    let prompt_ids = comma_separated(&ids(&direct["prompt_ids"]));
    same(&generate(&["--ids", &prompt_ids, "--temperature", "0"]));
}

#[test]
fn prompts_may_be_empty_or_begin_with_hyphens() {
    assert_eq!(ids(&generate(&["--prompt", ""])["prompt_ids"]), [4094]);
    for prompt in ["-foo", "--json", "--", "-"] {
        let joined = format!("--prompt={prompt}");
        let separate = generate(&["--prompt", prompt, "--temperature", "0"]);
        assert!(ids(&separate["prompt_ids"]).len() > 1, "{prompt}");
        assert_eq!(
            separate["prompt_ids"],
            generate(&[&joined, "--temperature", "0"])["prompt_ids"]
        );
    }
}

#[test]
fn a_stop_text_ends_the_completion_and_is_not_part_of_it() {
    let whole = generate(&["--prompt", PROMPT, "--temperature", "0", "--max-tokens", "24"]);
    let text = whole["text"].as_str().unwrap();
    let stop = text.split_whitespace().nth(3).unwrap();
    let cut = generate(&[
        "--prompt",
        PROMPT,
        "--temperature",
        "0",
        "--max-tokens",
        "24",
        "--stop",
        "-never-",
        "--stop",
        stop,
    ]);
    assert_eq!(cut["finish_reason"], "stop");
    assert_eq!(cut["stop"], stop);
    assert_eq!(cut["text"].as_str().unwrap(), text.split(stop).next().unwrap());

    let id = ids(&whole["generated_ids"])[2].to_string();
    let cut = generate(&["--prompt", PROMPT, "--temperature", "0", "--stop-ids", &id]);
    assert_eq!(cut["finish_reason"], "stop");
    let first = ids(&whole["generated_ids"])
        .iter()
        .position(|i| i.to_string() == id)
        .unwrap();
    assert_eq!(
        ids(&cut["generated_ids"]),
        &ids(&whole["generated_ids"])[..=first]
    );
}

#[test]
fn special_tokens_in_a_prompt_are_read_unless_told_otherwise() {
    let parsed = generate(&["--prompt", "<|end_of_text|>"]);
    assert_eq!(ids(&parsed["prompt_ids"]), [4094, 4095]);
    let plain = generate(&["--prompt", "<|end_of_text|>", "--no-special"]);
    assert!(!ids(&plain["prompt_ids"]).iter().any(|&id| id >= 4094));
}

#[test]
fn chat_without_a_template_in_the_file_is_an_error() {
    let answer = run(["generate", "--model", DEMO, "--chat", "--prompt", "hello"]);
    assert_eq!(answer.code, Some(1), "{answer:?}");
    assert!(answer.stderr.contains("chat template"), "{answer:?}");
}

#[test]
fn ids_outside_the_vocabulary_are_an_error() {
    for args in [
        &["generate", "--ids", "1,4096"][..],
        &["logits", "--ids", "1,4096", "--out", "/dev/null"],
    ] {
        let answer = run(args.iter().chain(&["--model", DEMO]));
        assert_eq!(answer.code, Some(1), "{answer:?}");
        assert!(answer.stderr.contains("4096"), "{answer:?}");
    }
}

#[test]
fn a_prompt_beyond_the_context_is_an_error() {
    let answer = run([
        "generate",
        "--model",
        DEMO,
        "--ids",
        "1,2,3,4,5,6,7,8,9",
        "--context-length",
        "4",
    ]);
    assert_eq!(answer.code, Some(1), "{answer:?}");
    assert!(answer.stderr.contains('4'), "{answer:?}");
}

#[test]
fn statistics_go_to_standard_error_on_request() {
    let answer = run([
        "generate",
        "--model",
        DEMO,
        "--prompt",
        PROMPT,
        "--max-tokens",
        "3",
        "--stats",
        "--json",
    ]);
    object(&answer, 0);
    assert!(answer.stderr.contains("7 prompt tokens"), "{answer:?}");
    assert!(answer.stderr.contains("3 generated"), "{answer:?}");
}

#[test]
fn the_demo_model_is_found_from_any_directory() {
    let folder = tempfile::tempdir().unwrap();
    let demo = |command: &mut std::process::Command| -> Answer {
        finish(command.args(["tokenize", "--text", "Prince", "--json"]))
    };
    let answer = demo(infer().current_dir(folder.path()));
    assert_eq!(ids(&object(&answer, 0)["ids"])[0], 4094);

    // A folder `models` of the current directory comes first.
    std::fs::create_dir(folder.path().join("models")).unwrap();
    let here = folder.path().join("models/tolstoy-3m-Q8_0.gguf");
    std::fs::write(&here, b"not a model").unwrap();
    let answer = demo(infer().current_dir(folder.path()));
    assert_eq!(answer.code, Some(1), "{answer:?}");
    assert!(
        answer.stderr.contains("models/tolstoy-3m-Q8_0.gguf"),
        "{answer:?}"
    );

    // The variable comes before everything.
    let answer = demo(infer().current_dir(folder.path()).env("INFER_DEMO_MODEL", DEMO));
    assert_eq!(answer.code, Some(0), "{answer:?}");
    let answer = demo(infer().env("INFER_DEMO_MODEL", "/nowhere/other.gguf"));
    assert_eq!(answer.code, Some(1), "{answer:?}");
    assert!(answer.stderr.contains("/nowhere/other.gguf"), "{answer:?}");
}

#[test]
fn an_installed_program_finds_the_demo_model_in_share() {
    let root = tempfile::tempdir().unwrap();
    let (bin, models) = (root.path().join("bin"), root.path().join("share/infer/models"));
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::create_dir_all(&models).unwrap();
    std::fs::write(models.join("tolstoy-3m-Q8_0.gguf"), b"not a model").unwrap();
    let program = bin.join("infer");
    std::fs::copy(env!("CARGO_BIN_EXE_infer"), &program).unwrap();
    let answer = finish(
        std::process::Command::new(program)
            .current_dir(root.path())
            .env_remove("INFER_DEMO_MODEL")
            .args(["tokenize", "--text", "a"]),
    );
    assert_eq!(answer.code, Some(1), "{answer:?}");
    assert!(answer.stderr.contains("share/infer/models"), "{answer:?}");
}

#[test]
fn tokenize_answers_ids_with_and_without_special_tokens() {
    let tokens =
        |more: &[&str]| ids(&json(["tokenize", "--model", DEMO, "--json"].iter().chain(more))["ids"]);
    assert_eq!(tokens(&["--text", PROMPT]), [4094, 1364, 548, 725, 341, 337, 274]);
    assert_eq!(
        tokens(&["--text", PROMPT, "--no-special"]),
        [1364, 548, 725, 341, 337, 274]
    );
    assert_eq!(tokens(&["--text", ""]), [4094]);
    assert_eq!(tokens(&["--text="]), [4094]);
    assert_eq!(tokens(&["--text", "", "--no-special"]), [0u64; 0]);
    assert_eq!(tokens(&["--text", "<|end_of_text|>"]), [4094, 4095]);
    assert!(tokens(&["--text", "<|end_of_text|>", "--no-special"]).len() > 1);
    for text in ["-foo", "--no-special", "--", "-", "--text"] {
        assert_eq!(
            tokens(&["--text", text]),
            tokens(&[&format!("--text={text}")]),
            "{text}"
        );
        assert!(tokens(&["--text", text]).len() > 1, "{text}");
    }
}

#[test]
fn tokenize_reads_files_and_input_and_prints_ids_as_text() {
    let plain = run(["tokenize", "--model", DEMO, "--text", PROMPT]);
    assert_eq!(plain.stdout, "4094 1364 548 725 341 337 274\n");
    let piped = run_with_input(["tokenize", "--model", DEMO], PROMPT.as_bytes());
    assert_eq!(piped.stdout, plain.stdout);
    let piped = run_with_input(["tokenize", "--model", DEMO, "--file", "-"], PROMPT.as_bytes());
    assert_eq!(piped.stdout, plain.stdout);
    let verbose = json([
        "tokenize",
        "--model",
        DEMO,
        "--text",
        PROMPT,
        "--verbose",
        "--json",
    ]);
    let tokens: Vec<&str> = verbose["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t.as_str().unwrap())
        .collect();
    assert_eq!(tokens[0], "<|begin_of_text|>");
    assert_eq!(tokens[1..].concat(), PROMPT);
}

#[test]
fn logits_are_positions_times_vocabulary_floats_whose_best_is_the_greedy_token() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("logits");
    let out = out.to_str().unwrap();
    let prompt = "4094,1364,548,725,341,337,274";
    let answer = json(["logits", "--model", DEMO, "--ids", prompt, "--out", out, "--json"]);
    assert_eq!(answer["positions"], 7);
    assert_eq!(answer["n_vocab"], 4096);
    assert_eq!(answer["out"], out);
    let bytes = std::fs::read(out).unwrap();
    assert_eq!(bytes.len(), 7 * 4096 * 4);
    let last: Vec<f32> = bytes[6 * 4096 * 4..]
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    let best = (0..4096).max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap();
    let greedy = generate(&[
        "--ids",
        prompt,
        "--temperature",
        "0",
        "--max-tokens",
        "1",
        "--kv-type",
        "f32",
    ]);
    assert_eq!(ids(&greedy["generated_ids"]), [best as u64]);

    let first = json(["logits", "--model", DEMO, "--ids", "4094", "--out", out, "--json"]);
    assert_eq!(first["positions"], 1);
    assert_eq!(
        std::fs::read(out).unwrap(),
        bytes[..4096 * 4],
        "a row does not depend on later ones"
    );
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        1,
        "no temporary stays"
    );

    let failed = run(["logits", "--model", DEMO, "--ids", "1", "--out", "/nowhere/x"]);
    assert_eq!(failed.code, Some(1));
    assert!(failed.stderr.contains("/nowhere/x"), "{failed:?}");
}

#[test]
fn inspect_shows_metadata_tensors_types_and_memory() {
    let answer = json(["inspect", DEMO, "--json"]);
    assert_eq!(answer["version"], 3);
    assert_eq!(answer["architecture"], "llama");
    assert_eq!(answer["parameters"], 2_622_720);
    assert_eq!(answer["file_bytes"], std::fs::metadata(DEMO).unwrap().len());
    assert_eq!(answer["metadata"]["llama.context_length"], 2048);
    assert_eq!(answer["metadata"]["tokenizer.ggml.tokens"]["length"], 4096);
    assert_eq!(answer["tensors"].as_array().unwrap().len(), 20);
    assert_eq!(answer["tensors"][1]["name"], "token_embd.weight");
    assert_eq!(answer["tensors"][1]["type"], "Q8_0");
    assert_eq!(answer["tensors"][1]["shape"], serde_json::json!([256, 4096]));
    assert_eq!(answer["runs"], true, "{}", answer["reason"]);
    let memory = &answer["memory"];
    assert_eq!(memory["context_length"], 2048);
    // Two layers, two heads of 64 for keys and values each, 2 bytes.
    assert_eq!(memory["kv_cache"], 2 * 2 * 2 * 64 * 2 * 2048);
    assert!(memory["total"].as_u64() > memory["weights"].as_u64());

    let all = json(["inspect", DEMO, "--json", "--all"]);
    assert_eq!(
        all["metadata"]["tokenizer.ggml.tokens"].as_array().unwrap().len(),
        4096
    );
    let text = run(["inspect", DEMO]);
    for part in [
        "GGUF version 3",
        "tokenizer.ggml.merges",
        "blk.1.ffn_up.weight",
        "256 x 768",
        "Q8_0",
        "kv cache",
    ] {
        assert!(text.stdout.contains(part), "{part}: {}", text.stdout);
    }
}

#[test]
fn check_finds_the_demo_model_sound() {
    let answer = json(["check", DEMO, "--json", "--strict"]);
    assert_eq!(answer["ok"], true);
    assert_eq!(answer["problems"], serde_json::json!([]));
    assert_eq!(answer["warnings"], serde_json::json!([]));
    let text = run(["check", DEMO]);
    assert_eq!((text.code, text.stdout.as_str()), (Some(0), "ok\n"), "{text:?}");
}

#[test]
fn check_names_what_is_wrong_with_a_broken_file() {
    let folder = tempfile::tempdir().unwrap();
    let good = std::fs::read(DEMO).unwrap();
    let path = folder.path().join("broken.gguf");
    let check = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let text = run(["check".as_ref(), path.as_os_str()]);
        assert_eq!(text.code, Some(1), "{text:?}");
        assert!(text.stdout.starts_with("problem: "), "{text:?}");
        let answer = object(&run(["check".as_ref(), path.as_os_str(), "--json".as_ref()]), 1);
        assert_eq!(answer["ok"], false);
        answer["problems"][0].as_str().unwrap().to_string()
    };
    assert!(check(b"").contains("empty"));
    assert!(check(b"PK\x03\x04 something else").contains("not a GGUF file"));
    assert!(check(&good[..1000]).contains("broken.gguf"));
    assert!(check(&good[..good.len() - 100_000]).contains("ends at byte"));

    // The first tensor's data is output_norm.weight in F32.
    let gguf = infer::gguf::Gguf::open(DEMO.as_ref()).unwrap();
    let at = gguf.tensor("output_norm.weight").unwrap().offset as usize;
    let mut bytes = good.clone();
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let problem = check(&bytes);
    assert!(problem.contains("output_norm.weight"), "{problem}");

    // The same in a file of an architecture that is not supported, which is only a warning.
    let name = b"general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0llama";
    let place = bytes.windows(name.len()).position(|w| w == name).unwrap();
    let foreign = |mut bytes: Vec<u8>| {
        bytes[place..place + name.len()][name.len() - 5..].copy_from_slice(b"alpha");
        bytes
    };
    assert!(check(&foreign(bytes)).contains("output_norm.weight"));
    std::fs::write(&path, foreign(good)).unwrap();
    let answer = json(["check".as_ref(), path.as_os_str(), "--json".as_ref()]);
    assert_eq!(answer["problems"], serde_json::json!([]));
    assert!(
        answer["warnings"][0].as_str().unwrap().contains("'alpha'"),
        "{answer}"
    );
    let strict = run(["check".as_ref(), path.as_os_str(), "--strict".as_ref()]);
    assert_eq!(strict.code, Some(1), "{strict:?}");

    let answer = object(&run(["check", "/nowhere/m.gguf", "--json"]), 1);
    assert!(
        answer["problems"][0]
            .as_str()
            .unwrap()
            .contains("/nowhere/m.gguf")
    );
}

#[cfg(unix)]
#[test]
fn paths_need_not_be_text() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join(std::ffi::OsStr::from_bytes(b"m\xff.gguf"));
    if let Err(e) = std::fs::copy(DEMO, &model) {
        common::skip(
            "paths that are not text",
            &format!("this file system refuses them: {e}"),
        );
        return;
    }
    let out = folder.path().join(std::ffi::OsStr::from_bytes(b"l\xfe"));
    let m = model.as_os_str();
    for args in [
        vec![
            "generate".as_ref(),
            "--prompt".as_ref(),
            "a".as_ref(),
            "--max-tokens".as_ref(),
            "1".as_ref(),
            "--model".as_ref(),
            m,
        ],
        vec![
            "logits".as_ref(),
            "--ids".as_ref(),
            "1".as_ref(),
            "--out".as_ref(),
            out.as_os_str(),
            "--model".as_ref(),
            m,
        ],
        vec![
            "tokenize".as_ref(),
            "--text".as_ref(),
            "a".as_ref(),
            "--model".as_ref(),
            m,
        ],
        vec!["inspect".as_ref(), m],
        vec!["check".as_ref(), m],
    ] {
        let answer = run(args.iter().copied().chain(["--json".as_ref()]));
        object(&answer, 0);
    }
    assert!(out.is_file());
}
