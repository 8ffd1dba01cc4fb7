//! What the process holds, as Linux tells it; elsewhere everything is 0.

use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy)]
pub struct Held {
    pub threads: u64,
    pub files: usize,
    pub resident_kib: u64,
}

pub fn idle() -> Held {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find(|l| l.starts_with(name));
        line.and_then(|l| l.split_whitespace().nth(1))
            .map_or(0, |n| n.parse().unwrap())
    };
    Held {
        threads: field("Threads:"),
        files: std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
        resident_kib: field("VmRSS:"),
    }
}

/// The same, once threads that were joined are gone from the system's list too.
pub fn settled(expected: Held) -> Held {
    let begin = Instant::now();
    loop {
        let now = idle();
        if now.threads == expected.threads || begin.elapsed() > Duration::from_secs(5) {
            return now;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
