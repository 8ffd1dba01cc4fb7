//! What the command line accepts, refuses, and says about it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::{DEMO, finish, infer, run, run_with_input};

#[test]
fn values_outside_their_range_are_refused_with_the_range_and_exit_code_2() {
    for (flag, value, sentence) in [
        (
            "--top-p",
            "2",
            "expected float in the range 0 < x <= 1, found '2'",
        ),
        ("--top-p", "0", "0 < x <= 1"),
        (
            "--temperature",
            "-1",
            "expected float in the range 0 <= x <= 1000, found '-1'",
        ),
        ("--temperature", "NaN", "found 'NaN'"),
        ("--min-p", "1.5", "0 <= x <= 1"),
        ("--top-k", "many", "expected integer"),
        ("--max-tokens", "2147483648", "0..=2147483647"),
        ("--max-tokens", "-5", "found '-5'"),
        ("--seed", "18446744073709551616", "expected integer"),
        ("--threads", "100000", "0..=1024"),
        ("--kv-type", "f64", "f32|f16|bf16|q8"),
        (
            "--cpu-level",
            "sse",
            "auto|scalar|sse41|avx2|avx_vnni|avx512|avx512_bf16|neon|neon_dotprod|i8mm",
        ),
        ("--repetition-penalty", "0", "0 < x <= 100"),
        ("--ids", "1,two", "found 'two' as number 2"),
        ("--ids", "", "found none"),
        ("--ids", "-1", "found '-1' as number 1"),
        ("--stop-ids", "x", "found 'x' as number 1"),
    ] {
        let answer = run(["generate", "--model", DEMO, flag, value]);
        assert_eq!(answer.code, Some(2), "{flag} {value}: {answer:?}");
        assert!(answer.stderr.contains(sentence), "{flag} {value}: {answer:?}");
        assert!(answer.stderr.contains(flag), "{flag} {value}: {answer:?}");
        assert_eq!(answer.stdout, "");
    }
}

#[test]
fn a_wrong_command_line_exits_with_2_and_prints_on_standard_output_only_what_json_asks_for() {
    for args in [
        &[][..],
        &["frobnicate"],
        &["generate", "--frobnicate"],
        &["generate", "--prompt", "a", "--file", "b"],
        &["generate", "--prompt", "a", "--ids", "1"],
        &["generate", "--prompt", "a", "--system", "without chat"],
        &["generate", "--ids", "1", "--chat"],
        &["tokenize", "--text", "a", "--file", "b"],
        &["logits", "--ids", "1"],
        &["logits", "--out", "x"],
        &["inspect"],
        &["check", "a", "b"],
    ] {
        let answer = run(args);
        assert_eq!(answer.code, Some(2), "{args:?}: {answer:?}");
        assert_eq!(answer.stdout, "", "{args:?}");
        assert!(answer.stderr.contains("Usage: infer"), "{args:?}: {answer:?}");

        let answer = run(["--json"].iter().chain(args));
        assert_eq!(answer.code, Some(2), "{args:?}: {answer:?}");
        let object: serde_json::Value = serde_json::from_str(&answer.stdout).unwrap();
        let sentence = object["error"].as_str().unwrap();
        assert!(
            !sentence.is_empty() && !sentence.contains("Usage"),
            "{args:?}: {sentence}"
        );
        assert!(answer.stderr.contains("Usage: infer"), "{args:?}: {answer:?}");
    }
}

#[test]
fn help_and_version_go_to_standard_output() {
    let answer = run(["--version"]);
    assert_eq!(answer.code, Some(0));
    assert_eq!(answer.stdout, concat!("infer ", env!("CARGO_PKG_VERSION"), "\n"));

    let answer = run(["--help"]);
    assert_eq!(answer.code, Some(0));
    for part in [
        "Exit codes:",
        "generate",
        "inspect",
        "check",
        "tokenize",
        "logits",
        "--json",
    ] {
        assert!(answer.stdout.contains(part), "{part}: {}", answer.stdout);
    }

    let answer = run(["generate", "--help"]);
    for part in [
        "INFER_DEMO_MODEL",
        "default 0.7",
        "default 0.9",
        "default 256",
        "0 takes the most likely token",
        "auto|edge|desktop|server; default auto",
        "auto|f32|f16|bf16|q8;",
    ] {
        assert!(answer.stdout.contains(part), "{part}: {}", answer.stdout);
    }
    let answer = run(["logits", "--help"]);
    assert!(answer.stdout.contains("default f32"), "{}", answer.stdout);
}

#[test]
fn every_command_has_help() {
    for command in [
        "generate",
        "chat",
        "batch",
        "bench",
        "inspect",
        "check",
        "tokenize",
        "logits",
        "score",
        "embed",
        "completions",
        "man",
    ] {
        for flag in ["-h", "--help"] {
            let answer = run([command, flag]);
            assert_eq!(answer.code, Some(0), "{command} {flag}: {answer:?}");
            assert!(answer.stdout.contains("--json"), "{command} {flag}: {answer:?}");
        }
    }
}

#[test]
fn a_missing_model_is_one_line_that_names_it() {
    let answer = run(["generate", "--model", "/nowhere/m.gguf", "--prompt", "a"]);
    assert_eq!(answer.code, Some(1), "{answer:?}");
    assert_eq!(answer.stdout, "");
    assert!(
        answer.stderr.starts_with("infer: cannot open /nowhere/m.gguf: "),
        "{answer:?}"
    );
    assert_eq!(answer.stderr.lines().count(), 1, "{answer:?}");

    let answer = run([
        "generate",
        "--model",
        "/nowhere/m.gguf",
        "--prompt",
        "a",
        "--json",
    ]);
    let object = common::object(&answer, 1);
    assert!(object["error"].as_str().unwrap().contains("/nowhere/m.gguf"));
}

#[test]
fn an_error_about_a_hostile_name_stays_one_line_without_escapes() {
    let answer = run(["inspect", "/nowhere/a\nb\x1b[2J.gguf"]);
    assert_eq!(answer.code, Some(1));
    assert_eq!(answer.stderr.lines().count(), 1, "{answer:?}");
    assert!(!answer.stderr.contains('\x1b'), "{answer:?}");
}

#[test]
fn a_prompt_file_that_is_not_text_is_named_with_the_offset() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prompt.txt");
    std::fs::write(&path, b"good\xffbad").unwrap();
    for command in ["generate", "tokenize"] {
        let answer = run([
            command.as_ref(),
            "--model".as_ref(),
            DEMO.as_ref(),
            "--file".as_ref(),
            path.as_os_str(),
        ]);
        assert_eq!(answer.code, Some(1), "{answer:?}");
        assert!(
            answer.stderr.contains("prompt.txt") && answer.stderr.contains("byte 0xff at offset 4"),
            "{answer:?}"
        );
        let answer = run_with_input([command, "--model", DEMO], b"\xf0\x9f");
        assert_eq!(answer.code, Some(1), "{answer:?}");
        assert!(answer.stderr.contains("standard input"), "{answer:?}");

        let missing = run([command, "--model", DEMO, "--file", "/nowhere/prompt"]);
        assert_eq!(missing.code, Some(1));
        assert!(
            missing.stderr.contains("cannot open /nowhere/prompt"),
            "{missing:?}"
        );
        let directory = run([command, "--model", DEMO, "--file", "/"]);
        assert_eq!(directory.code, Some(1), "{directory:?}");
    }
}

#[test]
fn a_prompt_longer_than_the_limit_is_refused() {
    let answer = run_with_input(["generate", "--model", DEMO, "--max-prompt-bytes", "3"], b"four");
    assert_eq!(answer.code, Some(1), "{answer:?}");
    assert!(answer.stderr.contains("longer than 3 bytes"), "{answer:?}");
}

#[test]
fn standard_output_without_room_is_an_error() {
    let Ok(full) = std::fs::OpenOptions::new().write(true).open("/dev/full") else {
        common::skip("standard output without room", "this system has no /dev/full");
        return;
    };
    for args in [&["inspect", DEMO][..], &["inspect", DEMO, "--json"], &["--help"]] {
        let output = infer()
            .args(args)
            .stdout(full.try_clone().unwrap())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(
            stderr.contains("cannot write to standard output"),
            "{args:?}: {stderr}"
        );
    }
}

#[test]
fn a_reader_that_goes_away_ends_the_command_quietly() {
    let mut child = infer()
        .args(["inspect", DEMO, "--all", "--json"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn nothing_is_coloured_and_no_bar_is_drawn_without_a_terminal() {
    for args in [
        &["inspect", DEMO][..],
        &["check", DEMO],
        &["check", "/nowhere"],
        &["--help"],
    ] {
        let answer = finish(infer().args(args));
        assert!(!answer.stdout.contains('\x1b'), "{args:?}: {answer:?}");
        assert!(!answer.stderr.contains('\x1b'), "{args:?}: {answer:?}");
    }
}
