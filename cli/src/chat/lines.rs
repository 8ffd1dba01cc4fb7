//! Where messages come from: an edited line of the terminal, or a plain line of standard input.

use std::io::{BufRead, IsTerminal, Read};

use rustyline::config::{BellStyle, Config};
use rustyline::error::ReadlineError;
use rustyline::{DefaultEditor, history::MemHistory};

use crate::exit::Failure;

/// What stands before a line that is typed.
const PROMPT: &str = "> ";

/// What reading a line brought.
pub enum Input {
    /// A line.
    Line(String),
    /// Ctrl-C while a line was edited, which is gone.
    Interrupted,
    /// A line that is none, and why.
    Unreadable(String),
    /// No more lines.
    End,
}

/// A source of lines.
pub enum LineSource {
    /// Lines edited on the terminal.
    Terminal(Box<DefaultEditor>),
    /// Lines of standard input with up to this many bytes.
    Plain(u64),
}

impl LineSource {
    /// The terminal when standard input and output are one and `edit` is wanted, otherwise plain lines.
    pub fn new(edit: bool, limit: u64) -> Result<Self, Failure> {
        if !(edit && std::io::stdin().is_terminal() && std::io::stdout().is_terminal()) {
            return Ok(LineSource::Plain(limit));
        }
        let config = Config::builder()
            .auto_add_history(true)
            .bell_style(BellStyle::None)
            .build();
        let editor = DefaultEditor::with_history(config, MemHistory::new());
        let editor =
            editor.map_err(|e| Failure::Failed(format!("cannot edit lines on this terminal: {e}")))?;
        Ok(LineSource::Terminal(Box::new(editor)))
    }

    /// Whether somebody types.
    pub fn is_terminal(&self) -> bool {
        matches!(self, LineSource::Terminal(_))
    }

    /// The next line, without its end.
    pub fn next(&mut self) -> Input {
        match self {
            LineSource::Terminal(editor) => match editor.readline(PROMPT) {
                Ok(line) => Input::Line(line),
                Err(ReadlineError::Interrupted) => Input::Interrupted,
                Err(_) => Input::End,
            },
            LineSource::Plain(limit) => plain(&mut std::io::stdin().lock(), *limit),
        }
    }
}

fn plain(source: &mut impl BufRead, limit: u64) -> Input {
    let mut bytes = Vec::new();
    match source
        .by_ref()
        .take(limit.saturating_add(1))
        .read_until(b'\n', &mut bytes)
    {
        Ok(0) => return Input::End,
        Ok(_) => {}
        Err(e) => return Input::Unreadable(format!("cannot read standard input: {e}")),
    }
    if !bytes.ends_with(b"\n") && bytes.len() as u64 > limit {
        return match source.skip_until(b'\n') {
            Ok(_) => Input::Unreadable(format!(
                "a line is longer than {limit} bytes, the limit for a message"
            )),
            Err(e) => Input::Unreadable(format!("cannot read standard input: {e}")),
        };
    }
    match String::from_utf8(bytes) {
        Ok(line) => Input::Line(line),
        Err(e) => Input::Unreadable(format!(
            "a line is not UTF-8 text (at byte {})",
            e.utf8_error().valid_up_to()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_too_long_or_no_text_are_skipped_whole() {
        let mut source = &b"one\n0123456789\n\xff\xfe\nlast"[..];
        assert!(matches!(plain(&mut source, 5), Input::Line(l) if l == "one\n"));
        assert!(matches!(plain(&mut source, 5), Input::Unreadable(e) if e.contains("5 bytes")));
        assert!(matches!(plain(&mut source, 5), Input::Unreadable(e) if e.contains("UTF-8")));
        assert!(matches!(plain(&mut source, 5), Input::Line(l) if l == "last"));
        assert!(matches!(plain(&mut source, 5), Input::End));
    }
}
