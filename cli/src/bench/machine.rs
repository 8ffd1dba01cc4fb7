//! The machine and this process as the system describes them.

use serde_json::{Value, json};

use infer::topology::Topology;

/// What identifies a machine in records.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// CPUs this process may use.
    pub cpus: usize,
    /// Cores behind them; the threads of a core share its units.
    pub cores: usize,
    /// The same in words, with kinds of cores, quota and nodes.
    pub layout: String,
    /// Bytes of memory, 0 where unknown.
    pub memory: u64,
}

impl Machine {
    /// This machine.
    pub fn this() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let topology = Topology::this();
        Self {
            cpu: value(&cpuinfo, "model name")
                .unwrap_or(std::env::consts::ARCH)
                .to_string(),
            cpus: topology.cpus(),
            cores: topology.cores(),
            layout: topology.to_string(),
            memory: kilobytes(&read("/proc/meminfo"), "MemTotal").unwrap_or(0),
        }
    }

    /// As records have it.
    pub fn json(&self) -> Value {
        json!({
            "cpu": self.cpu,
            "arch": std::env::consts::ARCH,
            "os": std::env::consts::OS,
            "kernel": read("/proc/sys/kernel/osrelease").trim(),
            "cpus": self.cpus,
            "cores": self.cores,
            "layout": self.layout,
            "memory_bytes": self.memory,
        })
    }
}

/// Memory of this process in bytes; 0 where the system does not tell.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// Most that was resident so far (`VmHWM`).
    pub peak: u64,
    /// Private memory that is resident now (`RssAnon`).
    pub anonymous: u64,
}

impl Memory {
    /// Of this process, now.
    pub fn now() -> Self {
        let status = read("/proc/self/status");
        Self {
            peak: kilobytes(&status, "VmHWM").unwrap_or(0),
            anonymous: kilobytes(&status, "RssAnon").unwrap_or(0),
        }
    }

    /// Without memory that belongs to the measuring.
    pub fn less(self, bytes: u64) -> Self {
        Self {
            peak: self.peak.saturating_sub(bytes),
            anonymous: self.anonymous.saturating_sub(bytes),
        }
    }
}

/// Processor time of all threads that this process has now, in seconds; `None` where the system does not tell.
pub fn cpu_seconds() -> Option<f64> {
    let threads = std::fs::read_dir("/proc/self/task").ok()?;
    let nanoseconds = threads.flatten().map(|thread| {
        let times = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        times.split_whitespace().next()?.parse::<u64>().ok()
    });
    // One that has ended meanwhile says nothing.
    let known: Vec<u64> = nanoseconds.flatten().collect();
    (!known.is_empty()).then(|| known.iter().sum::<u64>() as f64 / 1e9)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The first value of a key in lines like `key : value`.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim())
    })
}

fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let number = value(text, key)?.split_whitespace().next()?;
    number.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn processor_time_grows_with_work() {
        let before = cpu_seconds().unwrap();
        let started = std::time::Instant::now();
        while started.elapsed().as_millis() < 20 {
            std::hint::black_box(0);
        }
        assert!(cpu_seconds().unwrap() > before);
    }

    #[test]
    fn sizes_of_the_system_are_kilobytes() {
        let status = "Name:\tinfer\nVmHWM:\t   12 kB\nRssAnon:\t 5 kB\n";
        assert_eq!(kilobytes(status, "VmHWM"), Some(12 << 10));
        assert_eq!(kilobytes(status, "VmSwap"), None);
    }
}
