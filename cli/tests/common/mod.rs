//! Running the built command and looking at what it answers.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::print_stdout, reason = "a test says what it measured or skipped")]
#![allow(dead_code, reason = "each test program uses its part")]

#[path = "../../../tests/common/skip.rs"]
mod skip;
#[allow(unused_imports, reason = "each test binary uses a part")]
pub use skip::{fixtures, skip};

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

/// The demo model in the source tree.
pub const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tolstoy-3m-Q8_0.gguf");

/// What a run left behind.
#[derive(Debug)]
pub struct Answer {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// The command, reading nothing, in an environment of its own.
pub fn infer() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_infer"));
    command.stdin(Stdio::null());
    for name in ["INFER_DEMO_MODEL", "INFER_CPU_LEVEL", "CLICOLOR_FORCE"] {
        command.env_remove(name);
    }
    command
}

/// Runs the command with these arguments.
pub fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Answer {
    finish(infer().args(args))
}

/// Runs a prepared command.
pub fn finish(command: &mut Command) -> Answer {
    let output = command.output().unwrap();
    Answer {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs the command with bytes on standard input.
pub fn run_with_input<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>, input: &[u8]) -> Answer {
    let mut child = infer()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that refuses its arguments does not read.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    Answer {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs the command, expects success, and parses its one JSON object.
pub fn json<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Value {
    object(&run(args), 0)
}

/// The one JSON object of an answer with this exit code.
pub fn object(answer: &Answer, code: i32) -> Value {
    assert_eq!(answer.code, Some(code), "{answer:?}");
    let value: Value = serde_json::from_str(&answer.stdout).unwrap_or_else(|e| panic!("{e}: {answer:?}"));
    assert!(value.is_object(), "{value}");
    value
}

/// The ids in a JSON array.
pub fn ids(value: &Value) -> Vec<u64> {
    value
        .as_array()
        .unwrap_or_else(|| panic!("{value} is no array"))
        .iter()
        .map(|v| v.as_u64().unwrap())
        .collect()
}

/// Ids as the command line takes them.
pub fn comma_separated(ids: &[u64]) -> String {
    ids.iter().map(u64::to_string).collect::<Vec<_>>().join(",")
}

/// The demo model, for [`chat_model`].
pub fn demo_model() -> std::path::PathBuf {
    DEMO.into()
}

#[path = "../../../tests/common/chat.rs"]
pub mod chat_model;

/// Lines of a text as JSON objects.
pub fn objects(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| {
            let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            assert!(value.is_object(), "{line}");
            value
        })
        .collect()
}
