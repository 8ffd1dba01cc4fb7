//! The date for templates, in UTC: the time zone of a machine is none of a prompt's business.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// The present time in the format of Python's `strftime`.
pub(super) fn now(format: &str) -> String {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    strftime(format, seconds)
}

/// Seconds since 1970 in the format of Python's `strftime`; directives it does not know stay as they are.
fn strftime(format: &str, seconds: u64) -> String {
    let days = seconds / 86_400;
    let (year, month, day) = date(days);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let weekday = ((days + 4) % 7) as usize;
    let month_name = MONTHS[(month - 1) as usize % 12];
    let hour12 = (hour + 11) % 12 + 1;
    let mut out = String::new();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let pad = chars.next_if_eq(&'-').is_none();
        let directive = chars.next().unwrap_or('%');
        let mut number = |v: u64, width: usize| {
            let width = if pad { width } else { 0 };
            let _ = write!(out, "{v:0width$}");
        };
        match directive {
            'Y' => number(year, 4),
            'y' => number(year % 100, 2),
            'm' => number(month, 2),
            'd' => number(day, 2),
            'H' => number(hour, 2),
            'I' => number(hour12, 2),
            'M' => number(minute, 2),
            'S' => number(second, 2),
            'j' => number(day_of_year(days, year), 3),
            'w' => number(weekday as u64, 1),
            's' => number(seconds, 1),
            'e' => out.push_str(&format!("{day:>2}")),
            'B' => out.push_str(month_name),
            'b' | 'h' => out.push_str(&month_name[..3]),
            'A' => out.push_str(DAYS[weekday]),
            'a' => out.push_str(&DAYS[weekday][..3]),
            'p' => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            'F' => out.push_str(&strftime("%Y-%m-%d", seconds)),
            'T' | 'X' => out.push_str(&strftime("%H:%M:%S", seconds)),
            'R' => out.push_str(&strftime("%H:%M", seconds)),
            'D' | 'x' => out.push_str(&strftime("%m/%d/%y", seconds)),
            'c' => out.push_str(&strftime("%a %b %e %H:%M:%S %Y", seconds)),
            'z' => out.push_str("+0000"),
            'Z' => out.push_str("UTC"),
            'n' => out.push('\n'),
            't' => out.push('\t'),
            '%' => out.push('%'),
            other => {
                out.push('%');
                out.push(other);
            }
        }
    }
    out
}

/// Year, month and day of a count of days since 1970, by Howard Hinnant's algorithm over 400-year eras.
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

fn day_of_year(days: u64, year: u64) -> u64 {
    let mut first = days;
    while first > 0 && date(first - 1).0 == year {
        first -= 1;
    }
    days - first + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_python_writes_them() {
        // datetime.fromtimestamp(1709210096, UTC): 2024-02-29 12:34:56, a Thursday
        assert_eq!(strftime("%d %b %Y", 1_709_210_096), "29 Feb 2024");
        assert_eq!(
            strftime("%Y-%m-%d %H:%M:%S %A %B %j", 1_709_210_096),
            "2024-02-29 12:34:56 Thursday February 060"
        );
        assert_eq!(
            strftime("%-d.%-m.%y %I%p %% %Q", 1_709_210_096),
            "29.2.24 12PM % %Q"
        );
        assert_eq!(strftime("%F %T", 0), "1970-01-01 00:00:00");
    }
}
