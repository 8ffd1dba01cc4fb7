//! Log records on standard error: lines for people, or one JSON object per line for whatever collects logs.
//!
//! The library says nothing by itself; an engine's records come through [`callback`]. The command adds its own by
//! [`record`]. In the JSON format failures of the command are records as well, so that every line parses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use infer::options::{LogCallback, LogLevel};
use serde_json::{Value, json};

use crate::output::{self, Lines, Style, printable, styled};

/// What the flags choose, for every command.
#[derive(clap::Args)]
pub struct Settings {
    /// How log records are written on standard error: lines for people, or one JSON object per line.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text, value_name = "FORMAT", help_heading = "Logging")]
    log_format: Format,
    /// The least severe records to write.
    #[arg(long, global = true, value_enum, default_value_t = Level::Warn, value_name = "LEVEL", help_heading = "Logging")]
    log_level: Level,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

static JSON: AtomicBool = AtomicBool::new(false);
static MOST: AtomicU32 = AtomicU32::new(LogLevel::Warn as u32);

/// Puts the settings in force.
pub fn install(settings: &Settings) {
    JSON.store(settings.log_format == Format::Json, Relaxed);
    let level = match settings.log_level {
        Level::Error => LogLevel::Error,
        Level::Warn => LogLevel::Warn,
        Level::Info => LogLevel::Info,
        Level::Debug => LogLevel::Debug,
    };
    MOST.store(level as u32, Relaxed);
}

/// Writes everything from now on.
pub fn be_verbose() {
    MOST.store(LogLevel::Debug as u32, Relaxed);
}

/// Whether records are JSON.
pub fn is_json() -> bool {
    JSON.load(Relaxed)
}

/// Writes a record of the command's own.
pub fn record(level: LogLevel, target: &str, message: &str, fields: Value) {
    if level as u32 <= MOST.load(Relaxed) {
        let line = if is_json() {
            object(SystemTime::now(), level, target, message, fields)
        } else {
            text(level, target, message, &fields)
        };
        output::stderr_line(&line);
    }
}

/// Writes a line that was asked for whatever the level: statistics, a remark in a conversation. In the JSON format it is
/// a record.
pub fn line(target: &str, text: &str) {
    if is_json() {
        let record = object(SystemTime::now(), LogLevel::Info, target, text, json!({}));
        output::stderr_line(&record);
    } else {
        output::stderr_line(text);
    }
}

/// Receives the records of an engine.
pub fn callback() -> LogCallback {
    Arc::new(|r| {
        let fields = serde_json::from_str(r.fields).unwrap_or_else(|_| json!({ "fields": r.fields }));
        record(r.level, r.target, r.message, fields);
    })
}

fn text(level: LogLevel, target: &str, message: &str, fields: &Value) -> String {
    let (word, style) = match level {
        LogLevel::Error => ("error", Style::Error),
        LogLevel::Warn => ("warning", Style::Warning),
        LogLevel::Info => ("info", Style::Dim),
        LogLevel::Debug => ("debug", Style::Dim),
    };
    let empty = fields.as_object().is_none_or(|f| f.is_empty());
    let fields = if empty {
        String::new()
    } else {
        format!(" {fields}")
    };
    let line = format!("{target}: {message}{fields}");
    format!(
        "infer: {}: {}",
        styled(word, style),
        printable(&line, Lines::Escape)
    )
}

fn object(now: SystemTime, level: LogLevel, target: &str, message: &str, fields: Value) -> String {
    let level = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
    };
    json!({
        "time": rfc3339(now),
        "level": level,
        "target": target,
        "message": message,
        "fields": fields,
    })
    .to_string()
}

/// A time as RFC 3339 writes it, in UTC with milliseconds; times before 1970 become its begin.
fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (mut days, second) = (since.as_secs() / 86400, since.as_secs() % 86400);
    let leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!(
        "{year:04}-{month:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        days + 1,
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_millis()
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_dates_of_the_calendar() {
        // From `date -u -d @SECONDS`.
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_709_164_800, "2024-02-29T00:00:00.000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), date);
        }
    }

    #[test]
    fn a_message_cannot_break_out_of_its_line() {
        let message = "a\nb\x1b[2J \"c\"";
        let line = object(UNIX_EPOCH, LogLevel::Warn, "engine", message, json!({ "k": 1 }));
        assert_eq!(line.lines().count(), 1);
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["message"], message);
        assert_eq!(value["fields"]["k"], 1);
        let line = text(LogLevel::Warn, "engine", message, &json!({}));
        assert!(line.ends_with("engine: a\\nb\\u{1b}[2J \"c\""), "{line}");
    }
}
