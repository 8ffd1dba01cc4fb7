//! Small text files as the system writes them, trusted in nothing.

use std::io::Read;
use std::path::Path;

/// No file that describes a machine is longer.
const MAX_BYTES: u64 = 4 << 20;
/// More CPUs than the largest machines have.
const MAX_CPU: usize = 1 << 14;

/// The text of a file; `None` where there is none.
pub(crate) fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    std::fs::File::open(path)
        .ok()?
        .take(MAX_BYTES)
        .read_to_string(&mut text)
        .ok()?;
    Some(text)
}

/// The number that is a file's whole text.
pub(crate) fn number(path: &Path) -> Option<u64> {
    read(path)?.trim().parse().ok()
}

/// The number after the line's first word `name`.
pub(crate) fn field(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some(name)).then(|| words.next())?
        })?
        .parse()
        .ok()
}

/// CPU numbers of a list like `0-3,8`; `None` when it is no list or names impossible CPUs.
pub(crate) fn cpu_list(text: &str) -> Option<Vec<usize>> {
    if text.trim().is_empty() {
        return Some(Vec::new());
    }
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (
            first.trim().parse::<usize>().ok()?,
            last.trim().parse::<usize>().ok()?,
        );
        if first > last || last >= MAX_CPU || cpus.len() > MAX_CPU {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "inactive_file 7\nfile 12\nMemAvailable:   34 kB\n";
        assert_eq!(field(text, "file"), Some(12));
        assert_eq!(field(text, "MemAvailable:"), Some(34));
        assert_eq!(field(text, "active_file"), None);
    }

    #[test]
    fn lists_of_numbers_and_ranges() {
        assert_eq!(cpu_list("0-2, 5\n"), Some(vec![0, 1, 2, 5]));
        assert_eq!(cpu_list(" \n"), Some(vec![]));
        for bad in ["x", "1-", "3-1", "0-99999999999", "1,,2", "-1", "0-16384"] {
            assert_eq!(cpu_list(bad), None, "{bad}");
        }
    }
}
