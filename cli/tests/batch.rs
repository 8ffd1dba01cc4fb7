//! `infer batch`: results, lines that fail, and runs that go on where another ended.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Answer, DEMO, chat_model, finish, infer, object, objects, run, run_with_input};
use serde_json::{Value, json};
use tempfile::TempDir;

struct Batch {
    _folder: TempDir,
    input: PathBuf,
    output: PathBuf,
}

impl Batch {
    fn new(lines: &[String]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let this = Self {
            input: folder.path().join("in.jsonl"),
            output: folder.path().join("out.jsonl"),
            _folder: folder,
        };
        // The mark is what some editors begin a file with.
        std::fs::write(&this.input, format!("\u{feff}{}\n", lines.join("\n"))).unwrap();
        this
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = infer();
        command
            .args(["batch", "--model", DEMO, "--input"])
            .arg(&self.input);
        command.arg("--output").arg(&self.output).args(more);
        command
    }

    fn run(&self, more: &[&str]) -> Answer {
        finish(&mut self.command(more))
    }

    fn start(&self, more: &[&str]) -> Child {
        let mut command = self.command(more);
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap()
    }

    /// The results by line.
    fn results(&self) -> Vec<Value> {
        let mut results = objects(&self.text());
        results.sort_by_key(|r| r["line"].as_u64());
        results
    }

    /// Waits until the output has this many lines.
    fn wait_for(&self, lines: usize) {
        let complete = |text: String| text.matches('\n').count() >= lines;
        while !std::fs::read_to_string(&self.output).is_ok_and(complete) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn lines(n: usize, tokens: usize) -> Vec<String> {
    (0..n)
        .map(|i| json!({ "id": format!("p{i}"), "prompt": format!("Prince number {i}"), "max_tokens": tokens, "seed": i }))
        .map(|line| line.to_string())
        .collect()
}

#[test]
fn every_line_has_the_result_it_has_alone() {
    let batch = Batch::new(&lines(40, 6));
    let answer = batch.run(&["--max-running", "8"]);
    assert_eq!(
        (answer.code, answer.stdout.as_str(), answer.stderr.as_str()),
        (Some(0), "", "")
    );
    let results = batch.results();
    assert_eq!(results.len(), 40);
    for (i, result) in results.iter().enumerate() {
        assert_eq!(result["line"], json!(i + 1));
        assert_eq!(result["id"], json!(format!("p{i}")));
        assert_eq!(result["finish_reason"], "length");
        assert_eq!(result["generated_tokens"], 6);
        assert!(result["prompt_tokens"].as_u64() > Some(2));
    }
    for i in [0, 17, 39] {
        let (prompt, seed) = (format!("Prince number {i}"), i.to_string());
        let alone = common::json([
            "generate",
            "--model",
            DEMO,
            "--json",
            "--max-tokens",
            "6",
            "--prompt",
            &prompt,
            "--seed",
            &seed,
        ]);
        assert_eq!(results[i]["text"], alone["text"]);
    }
}

#[test]
fn bad_lines_are_reported_with_their_number_and_the_rest_is_computed() {
    let batch = Batch::new(&[
        r#"{"id": 1, "prompt": "Prince"}"#.to_string(),
        "no json".to_string(),
        String::new(),
        r#"{"id": "x", "prompt": "Prince", "max_tokens": -1}"#.to_string(),
        r#"{"prompt": ""}"#.to_string(),
        r#"{"id": "m", "messages": [{"role": "user", "content": "a"}]}"#.to_string(),
        json!({ "prompt": "word ".repeat(3000) }).to_string(),
        r#"{"prompt": "Pierre", "stop": ["e"]}"#.to_string(),
    ]);
    let answer = batch.run(&["--max-tokens", "4"]);
    assert_eq!(answer.code, Some(1), "{answer:?}");
    let results = batch.results();
    let lines: Vec<u64> = results.iter().map(|r| r["line"].as_u64().unwrap()).collect();
    // An empty prompt still has the begin token. Line 3 is empty.
    assert_eq!(lines, [1, 2, 4, 5, 6, 7, 8]);
    let errors: Vec<u64> = results
        .iter()
        .filter(|r| r.get("error").is_some())
        .map(|r| r["line"].as_u64().unwrap())
        .collect();
    for line in [2, 4, 6, 7] {
        assert!(errors.contains(&line), "{results:?}");
        assert!(answer.stderr.contains(&format!("line {line}: ")), "{answer:?}");
    }
    assert!(!errors.contains(&1) && !errors.contains(&8), "{results:?}");
    assert_eq!(results[2]["id"], "x");
    assert!(results[2]["error"].as_str().unwrap().contains("max_tokens"));
    assert!(results[4]["error"].as_str().unwrap().contains("template"));
    assert!(answer.stderr.contains("of 7 lines failed"), "{answer:?}");
    // They have a result: another run has nothing to do and says the same.
    let before = batch.text();
    let again = object(&batch.run(&["--max-tokens", "4", "--json"]), 1);
    assert_eq!(
        (again["lines"].clone(), again["lines_before"].clone()),
        (json!(7), json!(7))
    );
    assert_eq!(batch.text(), before);
}

#[test]
fn conversations_go_through_the_template_of_the_model() {
    let batch = Batch::new(&[r#"{"messages": [{"role": "user", "content": "Pierre"}]}"#.to_string()]);
    let folder = tempfile::tempdir().unwrap();
    let model = chat_model::demo_model(folder.path());
    let answer = batch.run(&["--model", model.to_str().unwrap(), "--max-tokens", "5"]);
    assert_eq!(answer.code, Some(0), "{answer:?}");
    let model = model.to_str().unwrap();
    let alone = common::json([
        "generate",
        "--model",
        model,
        "--json",
        "--max-tokens",
        "5",
        "--chat",
        "--prompt",
        "Pierre",
    ]);
    assert_eq!(batch.results()[0]["text"], alone["text"]);
}

#[test]
fn a_killed_run_is_continued_and_a_torn_last_line_is_mended() {
    let whole = Batch::new(&lines(24, 40));
    assert_eq!(whole.run(&["--max-running", "2"]).code, Some(0));
    let batch = Batch::new(&lines(24, 40));
    let mut child = batch.start(&["--max-running", "2"]);
    batch.wait_for(3);
    child.kill().unwrap();
    child.wait().unwrap();
    // What a kill in the middle of a write leaves.
    let mut torn = batch.text();
    torn.push_str("{\"line\":24,\"id\":\"p23\",\"te");
    std::fs::write(&batch.output, &torn).unwrap();
    let before = torn.lines().count() - 1;
    let object = object(&batch.run(&["--max-running", "2", "--json"]), 0);
    assert_eq!(object["lines_before"], json!(before));
    assert_eq!(object["lines"], 24);
    assert_eq!(batch.results(), whole.results());
    assert!(batch.text().starts_with(torn.lines().next().unwrap()));
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_with_what_is_complete_and_two_runs_never_write_one_file() {
    let mut input = lines(3, 4);
    let endless = json!({ "prompt": "Prince", "max_tokens": 900_000, "ignore_end_of_generation": true });
    input.extend((0..8).map(|_| endless.to_string()));
    let batch = Batch::new(&input);
    let args = ["--context-length", "1000000", "--max-running", "3", "--stats"];
    let child = batch.start(&args);
    batch.wait_for(3);
    let second = batch.run(&args);
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(second.stderr.contains("another run"), "{second:?}");
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("3 lines in "), "{stderr}");
    assert_eq!(batch.results().len(), 3);
    assert!(batch.text().ends_with('\n'));
}

#[test]
fn an_output_of_something_else_is_not_touched() {
    let batch = Batch::new(&lines(2, 3));
    for (content, said) in [
        ("my notes\n", "no result of a batch"),
        ("{\"a\": 1}\n", "no result of a batch"),
        ("{\"line\":1,\"id\":\"other\",\"text\":\"\"}\n", "another input"),
    ] {
        std::fs::write(&batch.output, content).unwrap();
        let answer = batch.run(&[]);
        assert_eq!(answer.code, Some(1), "{answer:?}");
        assert!(answer.stderr.contains(said), "{answer:?}");
        assert_eq!(batch.text(), content);
    }
    let same = run([
        Path::new("batch"),
        Path::new("--input"),
        &batch.input,
        Path::new("--output"),
        &batch.input,
    ]);
    assert_eq!(same.code, Some(2), "{same:?}");
}

#[test]
fn prompts_come_from_standard_input_and_statistics_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.jsonl");
    let output = output.to_str().unwrap();
    let args = [
        "batch",
        "--model",
        DEMO,
        "--input",
        "-",
        "--output",
        output,
        "--stats",
        "--max-tokens",
        "3",
    ];
    let answer = run_with_input(args, b"{\"prompt\": \"Prince\"}\n{\"prompt\": \"Pierre\"}");
    assert_eq!(answer.code, Some(0), "{answer:?}");
    assert!(answer.stderr.starts_with("2 lines in "), "{answer:?}");
    assert!(answer.stderr.contains(" 6 generated"), "{answer:?}");
    let row = |name: &str| -> Vec<f64> {
        let line = answer.stderr.lines().find(|l| l.starts_with(name)).unwrap();
        let cells = line[name.len()..].split_whitespace();
        cells.map(|cell| cell.parse().unwrap()).collect()
    };
    // Mean, four quantiles, the maximum, and how many values: two requests of three tokens.
    for (name, values) in [
        ("waiting, ms", 2.0),
        ("first token, ms", 2.0),
        ("between tokens, ms", 4.0),
    ] {
        let row = row(name);
        assert_eq!((row.len(), row[6]), (7, values), "{name}: {answer:?}");
        assert!(row[1..6].is_sorted(), "{name}: {answer:?}");
    }
    assert!(answer.stderr.contains("\nkey/value memory: "), "{answer:?}");
    let json = object(&run_with_input([&args[..], &["--json"]].concat(), b""), 0);
    assert_eq!(
        (json["lines"].clone(), json["generated_tokens"].clone()),
        (json!(2), json!(0))
    );
    // Nothing was left to do, so nothing was measured.
    assert_eq!(json["statistics"]["inter_token_time_seconds"]["count"], 0);
    assert_eq!(json["statistics"]["batch_size"]["p99.9"], 0.0);
    assert_eq!(json["statistics"]["preemptions"], 0);
}
