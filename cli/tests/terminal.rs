//! `infer chat` and `infer batch` on a terminal. Waits are for what the command writes; the limit only ends a test that hangs.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::{DEMO, infer, run_with_input};
use rexpect::process::WaitStatus;
use rexpect::session::{PtySession, spawn_command};

const LIMIT_MS: u64 = 300_000;

/// An answer with these options takes minutes: nobody waits for its end.
const ENDLESS: [&str; 9] = [
    "chat",
    "--model",
    DEMO,
    "--temperature",
    "0",
    "--context-length",
    "1000000",
    "--ignore-end-of-generation",
    "--max-tokens",
];

fn terminal(args: &[&str]) -> PtySession {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_infer"));
    command.args(args).env("TERM", "xterm").env_remove("NO_COLOR");
    spawn_command(command, Some(LIMIT_MS)).unwrap()
}

fn leaves(mut session: PtySession) {
    session.exp_eof().unwrap();
    let status = session.process().wait().unwrap();
    assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
}

#[test]
fn ctrl_c_stops_the_answer_and_not_the_program() {
    // What the answer begins with, from a run that ends.
    let mut short = ENDLESS.to_vec();
    short.push("8");
    let answer = run_with_input(short, b"Prince Andrew\n");
    let begin: String = answer.stdout.trim().chars().take(12).collect();
    assert!(begin.len() >= 8, "{answer:?}");

    let mut long = ENDLESS.to_vec();
    long.push("900000");
    let mut session = terminal(&long);
    for _ in 0..2 {
        session.exp_string("> ").unwrap();
        session.send_line("Prince Andrew").unwrap();
        session.exp_string(&begin).unwrap();
        session.send_control('c').unwrap();
        session.exp_string("(stopped)").unwrap();
        session.exp_string("> ").unwrap();
        session.send_line("/reset").unwrap();
        session.exp_string("forgotten").unwrap();
    }
    session.exp_string("> ").unwrap();
    session.send_line("/exit").unwrap();
    leaves(session);
}

#[test]
fn ctrl_c_twice_at_the_prompt_leaves_unless_something_is_said_between() {
    let mut session = terminal(&["chat", "--model", DEMO]);
    session.exp_string("> ").unwrap();
    session.send_control('c').unwrap();
    session.exp_string("Ctrl-C again").unwrap();
    session.exp_string("> ").unwrap();
    session.send_line("/help").unwrap();
    session.exp_string("/save FILE").unwrap();
    session.exp_string("> ").unwrap();
    session.send_control('c').unwrap();
    session.exp_string("Ctrl-C again").unwrap();
    session.exp_string("> ").unwrap();
    session.send_control('c').unwrap();
    leaves(session);
}

#[test]
fn lines_are_edited_and_called_back_and_ctrl_d_leaves() {
    let mut session = terminal(&["chat", "--model", DEMO]);
    session.exp_string("> ").unwrap();
    // Left, then a letter before the last one: /help.
    session.send("/hep\x1b[Dl").unwrap();
    session.send_line("").unwrap();
    session.exp_string("/save FILE").unwrap();
    session.exp_string("> ").unwrap();
    // Up: the line before.
    session.send("\x1b[A").unwrap();
    session.send_line("").unwrap();
    session.exp_string("/save FILE").unwrap();
    session.exp_string("> ").unwrap();
    session.send_control('d').unwrap();
    leaves(session);
}

#[test]
fn a_batch_draws_its_progress_on_a_terminal_and_ctrl_c_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let (input, output) = (path("in.jsonl"), path("out.jsonl"));
    let line = r#"{"prompt": "Prince", "max_tokens": 900000, "ignore_end_of_generation": true}"#;
    std::fs::write(&input, format!("{line}\n").repeat(9)).unwrap();
    let args = [
        "batch",
        "--model",
        DEMO,
        "--input",
        &input,
        "--output",
        &output,
        "--context-length",
        "1000000",
    ];
    let mut session = terminal(&args);
    session.exp_string("computing [").unwrap();
    session.exp_string("0/9").unwrap();
    session.send_control('c').unwrap();
    session.exp_eof().unwrap();
    let status = session.process().wait().unwrap();
    assert!(matches!(status, WaitStatus::Exited(_, 130)), "{status:?}");
}

#[test]
fn ctrl_c_without_a_terminal_ends_the_program_while_it_waits() {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};
    let mut child = infer()
        .args(["chat", "--model", DEMO, "--max-tokens", "4"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"Prince\n/help\n").unwrap();
    // When the help is there, the command waits for a line or is about to.
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|l| l.unwrap().contains("/exit")));
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
