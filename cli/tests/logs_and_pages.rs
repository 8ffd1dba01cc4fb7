//! Logs in both formats, completions and manual pages.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::{DEMO, json, objects, run};

const GENERATE: [&str; 7] = [
    "generate",
    "--model",
    DEMO,
    "--prompt",
    "Prince",
    "--max-tokens",
    "3",
];

fn log(more: &[&str]) -> String {
    let answer = run([&GENERATE[..], more].concat());
    assert_eq!(answer.code, Some(0), "{answer:?}");
    answer.stderr
}

#[test]
fn levels_choose_what_is_logged_and_every_line_of_text_has_its_form() {
    assert_eq!(log(&[]), "");
    assert_eq!(log(&["--log-level", "error"]), "");
    let info = log(&["--log-level", "info"]);
    for line in info.lines() {
        let mut parts = line.splitn(4, ": ");
        assert_eq!(parts.next(), Some("infer"), "{line}");
        assert_eq!(parts.next(), Some("info"), "{line}");
        assert!(["engine", "model"].contains(&parts.next().unwrap()), "{line}");
        assert!(!parts.next().unwrap().is_empty(), "{line}");
    }
    assert!(
        info.contains("engine created") && info.contains("loaded llama"),
        "{info}"
    );
    let verbose = log(&["--verbose"]);
    assert!(verbose.contains("engine created"), "{verbose}");
}

#[test]
fn json_records_have_time_level_target_message_and_fields() {
    let text = log(&["--log-level", "debug", "--log-format", "json", "--stats"]);
    let records = objects(&text);
    assert!(records.len() >= 3, "{text}");
    for record in &records {
        let time = record["time"].as_str().unwrap();
        assert!(
            time.len() == 24 && time.starts_with("20") && time.ends_with('Z'),
            "{time}"
        );
        assert!(["error", "warn", "info", "debug"].contains(&record["level"].as_str().unwrap()));
        assert!(record["target"].is_string() && record["message"].is_string());
        assert!(record["fields"].is_object());
    }
    assert!(records.iter().any(|r| r["target"] == "generate"), "{text}");
}

#[test]
fn a_failure_is_a_record_too_for_every_command() {
    for command in ["generate", "chat", "tokenize", "inspect", "check"] {
        let flag = if ["inspect", "check"].contains(&command) {
            None
        } else {
            Some("--model")
        };
        let args = [
            Some(command),
            flag,
            Some("/no/such/file"),
            Some("--log-format"),
            Some("json"),
        ];
        let answer = run(args.into_iter().flatten());
        assert_eq!(answer.code, Some(1), "{answer:?}");
        if command != "check" {
            let record = &objects(&answer.stderr)[0];
            assert_eq!(record["level"], "error");
            assert!(
                record["message"].as_str().unwrap().contains("/no/such/file"),
                "{record}"
            );
        }
    }
}

#[test]
fn completions_of_every_shell_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(["completions", shell]);
        assert_eq!((script.code, script.stderr.as_str()), (Some(0), ""), "{shell}");
        for word in ["generate", "chat", "batch", "max-tokens", "log-format"] {
            assert!(script.stdout.contains(word), "{shell}: {word}");
        }
        let object = json(["completions", shell, "--json"]);
        assert_eq!(object["script"].as_str().unwrap(), script.stdout);
    }
    assert_eq!(run(["completions", "tcsh"]).code, Some(2));
}

#[test]
fn manual_pages_are_printed_or_written_for_every_command() {
    let page = run(["man"]);
    assert_eq!(page.code, Some(0), "{page:?}");
    assert!(page.stdout.contains(".TH infer 1") && page.stdout.contains("batch"));
    let folder = tempfile::tempdir().unwrap();
    let answer = run(["man", "--out", folder.path().to_str().unwrap()]);
    assert_eq!((answer.code, answer.stdout.as_str()), (Some(0), ""), "{answer:?}");
    for name in [
        "infer.1",
        "infer-generate.1",
        "infer-chat.1",
        "infer-batch.1",
        "infer-man.1",
    ] {
        let text = std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert!(text.contains(".SH SYNOPSIS"), "{name}: {text}");
    }
}
