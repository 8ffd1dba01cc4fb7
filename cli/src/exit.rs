//! Exit codes, and what a failure prints.

use std::process::ExitCode;

use infer::options::LogLevel;
use serde_json::json;

use crate::log;
use crate::output::{self, Output, Style};

/// The exit codes as `--help` lists them.
pub const HELP: &str = "\
Exit codes:
  0    success
  1    failure: a model, a file or a generation; `check` found problems; lines of a `batch` failed
  2    the command line is wrong
  130  interrupted (Ctrl-C)

A failure prints one line `infer: ...` on standard error, a wrong command line also its usage; with --json also \
{\"error\": \"...\"} on standard output.";

/// Success.
pub const OK: u8 = 0;
/// The work failed, or `check` found problems.
pub const FAILED: u8 = 1;
/// The command line is wrong.
pub const USAGE: u8 = 2;

/// Ctrl-C.
pub const INTERRUPTED: u8 = 130;

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
    if log::is_json() {
        log::record(LogLevel::Error, "infer", sentence, json!({}));
        return;
    }
    let sentence = output::printable(sentence, output::Lines::Escape);
    output::stderr_line(&format!("{} {sentence}", output::styled("infer:", Style::Error)));
}

/// A wrong command line, or one that asks for help or the version.
pub fn not_a_command(message: &clap::Error) -> ExitCode {
    let wrong = message.use_stderr();
    // The arguments could not be understood, so the flag is looked for among them as they are.
    if wrong && std::env::args_os().any(|argument| argument == "--json") {
        // Standard output may be what failed; the lines below tell it in any case.
        let _ = Output::new().json(&json!({ "error": usage_sentence(message) }));
    }
    match message.print() {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            complain(&format!("cannot write to standard output: {e}"));
            FAILED.into()
        }
        _ if wrong => USAGE.into(),
        _ => OK.into(),
    }
}

/// What is wrong with the command line, as one line.
fn usage_sentence(message: &clap::Error) -> String {
    if message.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "a command is expected; --help lists them".to_string();
    }
    first_sentence(&message.to_string())
}

/// The message of an error of the argument parser without its label and without the usage that follows.
fn first_sentence(message: &str) -> String {
    let message = message.split("\n\n").next().unwrap_or_default();
    let message = message.strip_prefix("error: ").unwrap_or(message);
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::first_sentence;

    #[test]
    fn the_sentence_of_a_usage_error_is_one_line_without_label_and_usage() {
        assert_eq!(
            first_sentence("error: the following are missing:\n  --out <PATH>\n\nUsage: infer\n"),
            "the following are missing: --out <PATH>"
        );
        assert_eq!(first_sentence(""), "");
    }
}
