//! Exit codes, and what a failure prints.

use std::process::ExitCode;

use serde_json::json;

use crate::output::{self, Output, Style};

/// The exit codes as `--help` lists them.
pub const HELP: &str = "\
Exit codes:
  0    success
  1    failure: a model, a file or a generation; `check` found problems
  2    the command line is wrong
  130  interrupted (Ctrl-C)

A failure prints one line `infer: ...` on standard error; with --json also {\"error\": \"...\"} on standard \
output.";

/// Success.
pub const OK: u8 = 0;
/// The work failed, or `check` found problems.
pub const FAILED: u8 = 1;
/// The command line is wrong.
pub const USAGE: u8 = 2;

/// Why a command did not do its work.
#[derive(Debug)]
pub enum Failure {
    /// The command line asks for something impossible.
    Usage(String),
    /// The work failed; a sentence.
    Failed(String),
    /// The reader of standard output went away: nobody is left to tell.
    BrokenPipe,
}

/// What a command ends with: its exit code or a failure.
pub type Outcome = Result<u8, Failure>;

impl From<infer::Error> for Failure {
    fn from(e: infer::Error) -> Self {
        match e {
            infer::Error::Option(e) => Self::Usage(e.to_string()),
            e => Self::Failed(e.to_string()),
        }
    }
}

impl From<infer::options::OptionError> for Failure {
    fn from(e: infer::options::OptionError) -> Self {
        Self::Usage(e.to_string())
    }
}

impl Failure {
    /// A failure to `action` (a verb phrase that names the file).
    pub fn io(action: &str, e: &std::io::Error) -> Self {
        Self::Failed(format!("cannot {action}: {e}"))
    }

    /// A failure to write to standard output.
    pub fn stdout(e: &std::io::Error) -> Self {
        if e.kind() == std::io::ErrorKind::BrokenPipe {
            Self::BrokenPipe
        } else {
            Self::io("write to standard output", e)
        }
    }
}

/// Prints a failure and answers the exit code.
pub fn report(outcome: Outcome, json: bool) -> ExitCode {
    let (code, sentence) = match outcome {
        Ok(code) => return code.into(),
        // As with `yes | head`: the reader has what it wanted.
        Err(Failure::BrokenPipe) => return OK.into(),
        Err(Failure::Usage(sentence)) => (USAGE, sentence),
        Err(Failure::Failed(sentence)) => (FAILED, sentence),
    };
    if json {
        // Standard output may be what failed; the line below tells it in any case.
        let _ = Output::new().json(&json!({ "error": sentence }));
    }
    complain(&sentence);
    code.into()
}

/// One line about a failure on standard error.
fn complain(sentence: &str) {
    let sentence = output::printable(sentence, output::Lines::Escape);
    output::stderr_line(&format!("{} {sentence}", output::styled("infer:", Style::Error)));
}

/// A wrong command line, or one that asks for help or the version.
pub fn not_a_command(message: &clap::Error) -> ExitCode {
    match message.print() {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            complain(&format!("cannot write to standard output: {e}"));
            FAILED.into()
        }
        _ if message.use_stderr() => USAGE.into(),
        _ => OK.into(),
    }
}
