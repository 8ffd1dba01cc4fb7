//! The machine and this process as the system describes them.

use serde_json::{Value, json};

use infer::kernel::pool::available_cpus;

/// What identifies a machine in records.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// CPUs this process may use.
    pub cpus: usize,
    /// Cores behind them; the threads of a core share its units.
    pub cores: usize,
    /// Bytes of memory, 0 where unknown.
    pub memory: u64,
}

impl Machine {
    /// This machine.
    pub fn this() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let cpus = available_cpus();
        Self {
            cpu: value(&cpuinfo, "model name")
                .unwrap_or(std::env::consts::ARCH)
                .to_string(),
            cpus,
            cores: cores(&cpuinfo).map_or(cpus, |n| n.min(cpus)),
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

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The first value of a key in lines like `key : value`.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    values(text, key).next()
}

fn values<'a>(text: &'a str, key: &str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim())
    })
}

fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let number = value(text, key)?.split_whitespace().next()?;
    number.parse::<u64>().ok()?.checked_mul(1024)
}

/// Different cores in the text of `/proc/cpuinfo`; `None` where it does not name them.
fn cores(cpuinfo: &str) -> Option<usize> {
    let mut cores: Vec<_> = values(cpuinfo, "physical id")
        .zip(values(cpuinfo, "core id"))
        .collect();
    cores.sort_unstable();
    cores.dedup();
    (!cores.is_empty()).then_some(cores.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_a_core_are_one_core() {
        let cpu = |socket, core| format!("processor\t: 0\nphysical id\t: {socket}\ncore id\t\t: {core}\n\n");
        let text = [cpu(0, 0), cpu(0, 1), cpu(0, 0), cpu(1, 0)].concat();
        assert_eq!(cores(&text), Some(3));
        assert_eq!(cores("processor : 0\nBogoMIPS : 50\n"), None);
    }

    #[test]
    fn sizes_of_the_system_are_kilobytes() {
        let status = "Name:\tinfer\nVmHWM:\t   12 kB\nRssAnon:\t 5 kB\n";
        assert_eq!(kilobytes(status, "VmHWM"), Some(12 << 10));
        assert_eq!(kilobytes(status, "VmSwap"), None);
    }
}
