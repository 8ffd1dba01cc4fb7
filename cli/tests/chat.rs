//! `infer chat` through pipes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::{Answer, DEMO, chat_model, object, objects, run_with_input};
use serde_json::{Value, json};

fn chat(model: &str, more: &[&str], input: &str) -> Answer {
    let mut args = vec![
        "chat",
        "--model",
        model,
        "--temperature",
        "0",
        "--max-tokens",
        "8",
    ];
    args.extend_from_slice(more);
    run_with_input(args, input.as_bytes())
}

fn messages(answer: &Answer) -> Vec<Value> {
    object(answer, 0)["messages"].as_array().unwrap().clone()
}

#[test]
fn every_line_is_answered_in_view_of_those_before() {
    let folder = tempfile::tempdir().unwrap();
    let model = chat_model::demo_model(folder.path());
    let model = model.to_str().unwrap();
    let answer = chat(model, &["--system", "Be brief."], "Prince Andrew\n\nPierre\n");
    assert_eq!(answer.code, Some(0), "{answer:?}");
    assert!(!answer.stderr.contains("template"), "{answer:?}");
    let both = chat(
        model,
        &["--system", "Be brief.", "--json"],
        "Prince Andrew\n\nPierre\n",
    );
    let both = messages(&both);
    let roles: Vec<&str> = both.iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user", "assistant"]);
    assert_eq!(both[1]["content"], "Prince Andrew");
    let texts = format!(
        "{}\n{}\n",
        both[2]["content"].as_str().unwrap(),
        both[4]["content"].as_str().unwrap()
    );
    assert_eq!(answer.stdout, texts);
    // The second answer is the one to the whole conversation as the template writes it.
    let prompt = format!(
        "system: Be brief.\nuser: Prince Andrew\nassistant: {}\nuser: Pierre\nassistant:",
        both[2]["content"].as_str().unwrap()
    );
    let generated = common::json([
        "generate",
        "--model",
        model,
        "--temperature",
        "0",
        "--max-tokens",
        "8",
        "--json",
        "--prompt",
        &prompt,
    ]);
    assert_eq!(
        generated["text"].as_str().unwrap().trim(),
        both[4]["content"].as_str().unwrap()
    );
}

#[test]
fn a_model_without_a_template_gets_plain_turns_and_says_so() {
    let answer = chat(DEMO, &[], "Prince Andrew\n");
    assert_eq!(answer.code, Some(0), "{answer:?}");
    assert!(answer.stderr.contains("no chat template"), "{answer:?}");
    let generated = common::run([
        "generate",
        "--model",
        DEMO,
        "--temperature",
        "0",
        "--max-tokens",
        "8",
        "--prompt",
        "User: Prince Andrew\nAssistant:",
    ]);
    assert_eq!(answer.stdout.trim(), generated.stdout.trim());
}

#[test]
fn commands_answer_and_unknown_ones_are_failures_that_end_nothing() {
    let answer = chat(
        DEMO,
        &[],
        "/help\n/nonsense\n/save\nPrince\n/stats\n/exit\nnever read\n",
    );
    assert_eq!(answer.code, Some(1), "{answer:?}");
    assert!(answer.stdout.contains("/save FILE"), "{answer:?}");
    assert!(answer.stderr.contains("no command '/nonsense'"), "{answer:?}");
    assert!(answer.stderr.contains("/save needs"), "{answer:?}");
    assert!(
        answer
            .stdout
            .contains("requests: 1 submitted, 0 running, 0 waiting, 1 completed"),
        "{answer:?}"
    );
    assert!(answer.stdout.contains("last answer:"), "{answer:?}");
    let slash = messages(&chat(DEMO, &["--json"], "//help\n"));
    assert_eq!(slash[0], json!({ "role": "user", "content": "/help" }));
}

#[test]
fn reset_forgets_and_the_system_message_stays() {
    let input = "Prince Andrew\n/reset\nPierre\n";
    let answer = messages(&chat(DEMO, &["--json", "--system", "S"], input));
    let alone = messages(&chat(DEMO, &["--json", "--system", "S"], "Pierre\n"));
    assert_eq!(answer, alone);
    assert_eq!(answer.len(), 3);
}

#[test]
fn conversations_are_saved_as_json_or_markdown_over_nothing_but_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let (a, b, other) = (path("a.json"), path("b.md"), path("other.md"));
    std::fs::write(&other, "mine").unwrap();
    let input = format!("/save {a}\nPrince Andrew\n/save {a}\n/save {b}\n/save {other}\n");
    let answer = chat(DEMO, &[], &input);
    assert_eq!(answer.code, Some(1), "{answer:?}");
    assert!(answer.stderr.contains("other.md exists"), "{answer:?}");
    assert!(answer.stderr.contains("saved 2 messages") && answer.stderr.contains("as Markdown"));
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "mine");
    let saved: Value = serde_json::from_str(&std::fs::read_to_string(&a).unwrap()).unwrap();
    assert_eq!(
        saved["messages"][0],
        json!({ "role": "user", "content": "Prince Andrew" })
    );
    assert_eq!(
        saved["messages"][1]["content"].as_str().unwrap(),
        answer.stdout.trim()
    );
    let markdown = std::fs::read_to_string(&b).unwrap();
    assert!(
        markdown.contains("\n## User\n\nPrince Andrew\n\n## Assistant\n\n"),
        "{markdown}"
    );
}

#[test]
fn a_full_context_hides_the_oldest_turns_and_says_so() {
    let input = "one two three four five six\n".repeat(6);
    let answer = chat(DEMO, &["--context-length", "96", "--json"], &input);
    assert!(
        answer.stderr.contains("the context of 96 tokens is full"),
        "{answer:?}"
    );
    // What the model no longer sees is still part of what was said.
    assert_eq!(messages(&answer).len(), 12, "{answer:?}");
}

#[test]
fn a_message_that_fits_no_context_is_a_failure_and_the_talk_goes_on() {
    let input = format!("{}\nPrince\n", "word ".repeat(200));
    let answer = chat(DEMO, &["--context-length", "96", "--json"], &input);
    let said = object(&answer, 1);
    assert!(answer.stderr.contains("the context holds 96"), "{answer:?}");
    assert_eq!(said["messages"].as_array().unwrap().len(), 2);
    assert_eq!(said["messages"][0]["content"], "Prince");
}

#[test]
fn a_line_that_is_no_text_is_a_failure_and_the_talk_goes_on() {
    let answer = run_with_input(
        ["chat", "--model", DEMO, "--max-tokens", "4", "--json"],
        b"\xff\xfe\nPrince\n",
    );
    assert_eq!(object(&answer, 1)["messages"].as_array().unwrap().len(), 2);
    assert!(answer.stderr.contains("not UTF-8"), "{answer:?}");
}

#[test]
fn with_logs_in_json_every_line_of_standard_error_is_a_record() {
    let args = ["--json", "--log-format", "json", "--log-level", "debug"];
    let answer = chat(DEMO, &args, "Prince\n/reset\n/nonsense\n");
    object(&answer, 1);
    let records = objects(&answer.stderr);
    assert!(
        records
            .iter()
            .any(|r| r["message"] == "the conversation is forgotten"),
        "{records:?}"
    );
    assert!(
        records
            .iter()
            .any(|r| r["target"] == "engine" && r["level"] == "info"),
        "{records:?}"
    );
    assert!(
        records
            .iter()
            .any(|r| r["target"] == "chat" && r["level"] == "error"),
        "{records:?}"
    );
}
