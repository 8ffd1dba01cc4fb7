//! Standard output and standard error: JSON, colours, and texts of unknown origin made harmless.

use std::borrow::Cow;
use std::io::{IsTerminal, Write};

use anstream::adapter::strip_str;
use anstream::{AutoStream, ColorChoice};

use crate::exit::Failure;

/// Where a command writes: locked standard output, as a rule. Colours pass only to a terminal; a closed pipe becomes
/// [`Failure::BrokenPipe`].
pub struct Output {
    stream: Box<dyn Write>,
    colours: bool,
    terminal: bool,
}

impl Output {
    /// Takes standard output until dropped.
    pub fn new() -> Self {
        let stream = std::io::stdout().lock();
        Self {
            colours: AutoStream::choice(&stream) != ColorChoice::Never,
            terminal: stream.is_terminal(),
            stream: Box::new(stream),
        }
    }

    /// Writes to standard error instead, for what is not the answer of a command with `--json`.
    pub fn on_stderr() -> Self {
        let stream = std::io::stderr();
        Self {
            colours: AutoStream::choice(&stream) != ColorChoice::Never,
            terminal: stream.is_terminal(),
            stream: Box::new(stream),
        }
    }

    /// Writes nothing.
    pub fn nowhere() -> Self {
        Self {
            colours: false,
            terminal: false,
            stream: Box::new(std::io::sink()),
        }
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.stream.write_all(bytes).map_err(|e| Failure::stdout(&e))
    }

    /// Writes text of our own, styles included.
    pub fn text(&mut self, text: &str) -> Result<(), Failure> {
        if self.colours {
            self.bytes(text.as_bytes())
        } else {
            self.bytes(strip_str(text).to_string().as_bytes())
        }
    }

    /// Writes what a model said: byte for byte, except that a terminal gets no control characters.
    pub fn generated(&mut self, text: &str) -> Result<(), Failure> {
        if self.terminal {
            self.bytes(printable(text, Lines::Keep).as_bytes())
        } else {
            self.bytes(text.as_bytes())
        }
    }

    /// Hands everything written so far to the reader.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.stream.flush().map_err(|e| Failure::stdout(&e))
    }

    /// Writes one JSON object as a line, and flushes.
    pub fn json(&mut self, value: &serde_json::Value) -> Result<(), Failure> {
        self.bytes(format!("{value}\n").as_bytes())?;
        self.flush()
    }
}

/// How a text is set off on a terminal.
#[derive(Clone, Copy)]
pub enum Style {
    /// Something failed.
    Error,
    /// Something deserves attention.
    Warning,
    /// All is well.
    Good,
    /// The heading of a section.
    Heading,
    /// Less important than its surroundings.
    Dim,
}

/// `text` between the escape sequences of a style; streams that are no terminal drop these.
pub fn styled(text: &str, style: Style) -> String {
    use anstyle::AnsiColor::{Cyan, Green, Red, Yellow};
    let style = match style {
        Style::Error => Red.on_default().bold(),
        Style::Warning => Yellow.on_default().bold(),
        Style::Good => Green.on_default().bold(),
        Style::Heading => Cyan.on_default().bold(),
        Style::Dim => anstyle::Style::new().dimmed(),
    };
    format!("{style}{text}{style:#}")
}

/// One line on standard error. There is nobody to tell when that fails.
pub fn stderr_line(line: &str) {
    let mut stderr = anstream::stderr().lock();
    let _ = writeln!(stderr, "{line}");
}

/// What [`printable`] does with line feeds and tabs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lines {
    /// They stay.
    Keep,
    /// They are escaped like other control characters, so that the text stays one line.
    Escape,
}

/// `text` with control characters escaped: a model file must not drive the terminal.
pub fn printable(text: &str, lines: Lines) -> Cow<'_, str> {
    let harmful = |c: char| c.is_control() && (lines == Lines::Escape || !matches!(c, '\n' | '\t'));
    if !text.contains(harmful) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if harmful(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// Bytes for people: `512 bytes`, `2.9 MB`.
pub fn bytes(n: u64) -> String {
    match n {
        0..1000 => format!("{n} bytes"),
        _ => format!("{}B", scaled(n)),
    }
}

/// A count for people: `512`, `2.6 M`.
pub fn count(n: u64) -> String {
    match n {
        0..1000 => n.to_string(),
        _ => scaled(n),
    }
}

fn scaled(n: u64) -> String {
    let mut value = n as f64 / 1e3;
    let mut units = ["k", "M", "G", "T", "P", "E"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    // What would round to four digits moves to the next unit.
    while value >= 999.95
        && let Some(next) = units.next()
    {
        value /= 1e3;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_never_reach_a_terminal() {
        assert_eq!(
            printable("a\x1b[2Jb\n\u{9b}c", Lines::Keep),
            "a\\u{1b}[2Jb\n\\u{9b}c"
        );
        assert_eq!(printable("a\r\nb\tc", Lines::Escape), "a\\r\\nb\\tc");
        assert!(matches!(printable("Größe 🙂\n", Lines::Keep), Cow::Borrowed(_)));
    }

    #[test]
    fn sizes_are_written_with_one_decimal_and_the_right_unit() {
        assert_eq!(bytes(999), "999 bytes");
        assert_eq!(bytes(2_949_000), "2.9 MB");
        assert_eq!(bytes(999_999), "1.0 MB");
        assert_eq!(count(2_600_000), "2.6 M");
        assert_eq!(count(u64::MAX), "18.4 E");
    }
}
