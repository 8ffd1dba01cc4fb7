//! The CPUs that this process may use: how many cores they are, of which kinds, on how many nodes, and for how much time.
//!
//! Read from the files by which Linux describes a machine, below a root that tests choose. Every file may be missing or
//! hold nonsense: each then counts as not there, and a CPU of which nothing is known is a core of its own.

pub(crate) mod cgroup;
mod files;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::Path;

use cgroup::Groups;
pub(crate) use files::{cpu_list, field, number, read};

/// A core slower than this share of the fastest by `cpu_capacity` is for saving energy.
const SLOW_CAPACITY: f64 = 0.6;
/// The same by highest frequency, which says less: cores of one kind differ by a tenth.
const SLOW_FREQUENCY: f64 = 0.8;

/// A CPU as the system counts them: a thread of a core.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cpu {
    core: Core,
    /// Whether its core is one of the fast ones.
    fast: bool,
    node: usize,
    /// The lowest CPU with which it shares its last cache.
    cache: usize,
}

/// What tells cores apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Core {
    /// The lowest CPU of those that share the core.
    First(usize),
    /// Socket and number.
    Numbered(usize, usize),
}

/// What a process may use of a machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Topology {
    cpus: Vec<Cpu>,
    quota: Option<f64>,
}

impl Topology {
    /// Of this process, now.
    pub fn this() -> Self {
        Self::read(Path::new("/"), &crate::kernel::affinity())
    }

    /// Of a process that may run on the CPUs `affinity`, described by the files below `root`.
    pub fn read(root: &Path, affinity: &[usize]) -> Self {
        let dir = root.join("sys/devices/system/cpu");
        let allowed: BTreeSet<usize> = affinity.iter().copied().collect();
        let online: BTreeSet<usize> = list(&dir.join("online")).into_iter().collect();
        let mut usable: Vec<usize> = allowed.intersection(&online).copied().collect();
        if usable.is_empty() {
            usable = allowed.into_iter().collect();
        }
        if usable.is_empty() {
            usable.push(0);
        }
        let fast = fast_cpus(root, &usable);
        let nodes = nodes(root);
        let node = |cpu: usize| {
            let of = nodes.iter().find(|(_, cpus)| cpus.contains(&cpu));
            of.map_or(0, |(node, _)| *node)
        };
        let cpus = usable.into_iter().map(|cpu| {
            let dir = dir.join(format!("cpu{cpu}"));
            Cpu {
                core: core(&dir.join("topology"), cpu),
                fast: fast.contains(&cpu),
                node: node(cpu),
                cache: last_cache(&dir.join("cache"), cpu),
            }
        });
        Self {
            cpus: cpus.collect(),
            quota: Groups::of_this_process(root).cpu_quota(),
        }
    }

    /// CPUs that can compute at once: threads of cores, and no more than the quota pays for.
    pub fn cpus(&self) -> usize {
        self.within_quota(self.cpus.len())
    }

    /// Workers that a pool gets by default: one for each core, and no more than the quota pays for. The threads of a
    /// core share its arithmetic units, so a second worker there only takes from the first.
    pub fn cores(&self) -> usize {
        self.within_quota(self.count(|c| Some(c.core)))
    }

    /// Cores among these that are fast; all of them on a machine with one kind.
    pub fn performance_cores(&self) -> usize {
        self.within_quota(self.count(|c| c.fast.then_some(c.core)))
    }

    /// How many of `threads` workers, which the system places on fast cores first, have one: all of them on a machine
    /// with one kind, where a second thread of a core is as good as the first.
    pub fn performance_cores_of(&self, threads: usize) -> usize {
        let fast = self.count(|c| c.fast.then_some(c.core));
        if fast < self.count(|c| Some(c.core)) {
            threads.min(fast)
        } else {
            threads
        }
    }

    /// Nodes of memory with at least one of the CPUs.
    pub fn nodes(&self) -> usize {
        self.count(|c| Some(c.node))
    }

    /// Last-level caches of the CPUs.
    pub fn last_caches(&self) -> usize {
        self.count(|c| Some(c.cache))
    }

    /// The CPU time this process may take per time, in CPUs; `None` without a limit.
    pub fn quota(&self) -> Option<f64> {
        self.quota
    }

    /// Whole CPUs of the quota, at least one: a fraction more would stop every thread for the rest of a period, and with
    /// it all that wait for one of them.
    fn within_quota(&self, n: usize) -> usize {
        let whole = self.quota.map_or(usize::MAX, |q| q as usize);
        n.min(whole).max(1)
    }

    fn count<T: Ord>(&self, what: impl FnMut(&Cpu) -> Option<T>) -> usize {
        self.cpus.iter().filter_map(what).collect::<BTreeSet<_>>().len()
    }
}

impl std::fmt::Display for Topology {
    /// As in `24 cores (8 fast, 32 threads), quota 2.5 CPUs, 2 nodes`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plural = |n: usize| if n == 1 { "" } else { "s" };
        let cores = self.count(|c| Some(c.core));
        let fast = self.count(|c| c.fast.then_some(c.core));
        let threads = self.cpus.len();
        write!(f, "{cores} core{}", plural(cores))?;
        match (fast < cores, cores < threads) {
            (true, true) => write!(f, " ({fast} fast, {threads} threads)")?,
            (true, false) => write!(f, " ({fast} fast)")?,
            (false, true) => write!(f, " ({threads} threads)")?,
            (false, false) => {}
        }
        if let Some(quota) = self.quota {
            write!(f, ", quota {quota} CPUs")?;
        }
        let nodes = self.nodes();
        if nodes > 1 {
            write!(f, ", {nodes} nodes")?;
        }
        Ok(())
    }
}

/// CPU numbers of a file; none where there is no such file or it is no list.
fn list(path: &Path) -> Vec<usize> {
    read(path).and_then(|text| cpu_list(&text)).unwrap_or_default()
}

/// The core of `cpu` by the files of its directory `topology`.
fn core(dir: &Path, cpu: usize) -> Core {
    let siblings = ["core_cpus_list", "thread_siblings_list"]
        .into_iter()
        .map(|name| list(&dir.join(name)))
        .find(|cpus| cpus.contains(&cpu));
    if let Some(first) = siblings.and_then(|cpus| cpus.into_iter().min()) {
        return Core::First(first);
    }
    let id = |name: &str| number(&dir.join(name));
    match (id("physical_package_id"), id("core_id")) {
        (Some(package), Some(core)) => Core::Numbered(package as usize, core as usize),
        _ => Core::First(cpu),
    }
}

/// The lowest CPU with which `cpu` shares its highest level of cache.
fn last_cache(dir: &Path, cpu: usize) -> usize {
    let last = (0..10)
        .map_while(|i| {
            let dir = dir.join(format!("index{i}"));
            Some((number(&dir.join("level"))?, dir))
        })
        .max_by_key(|(level, _)| *level);
    let shared = last.map(|(_, dir)| list(&dir.join("shared_cpu_list")));
    shared.and_then(|cpus| cpus.into_iter().min()).unwrap_or(cpu)
}

/// Node numbers and their CPUs.
fn nodes(root: &Path) -> Vec<(usize, Vec<usize>)> {
    let dir = root.join("sys/devices/system/node");
    list(&dir.join("online"))
        .into_iter()
        .map(|node| (node, list(&dir.join(format!("node{node}/cpulist")))))
        .collect()
}

/// Those of `cpus` whose cores are for speed: by the kinds that x86 names, by capacity (ARM), or by frequency. All where
/// they do not differ.
fn fast_cpus(root: &Path, cpus: &[usize]) -> BTreeSet<usize> {
    let devices = root.join("sys/devices");
    let named = list(&devices.join("cpu_core/cpus"));
    let known: BTreeSet<usize> = [named.clone(), list(&devices.join("cpu_atom/cpus"))]
        .concat()
        .into_iter()
        .collect();
    let mut fast: BTreeSet<usize> = cpus.iter().copied().filter(|c| named.contains(c)).collect();
    if fast.is_empty() || !cpus.iter().all(|c| known.contains(c)) {
        let files = [
            ("cpu_capacity", SLOW_CAPACITY),
            ("cpufreq/cpuinfo_max_freq", SLOW_FREQUENCY),
        ];
        let by_file = files.into_iter().find_map(|(file, share)| {
            let value = |&c: &usize| number(&devices.join(format!("system/cpu/cpu{c}/{file}")));
            let values: Vec<u64> = cpus.iter().map(value).collect::<Option<_>>()?;
            let limit = *values.iter().max()? as f64 * share;
            let fast = cpus.iter().zip(values).filter(|(_, v)| *v as f64 >= limit);
            Some(fast.map(|(c, _)| *c).collect())
        });
        fast = by_file.unwrap_or_default();
    }
    if fast.is_empty() {
        fast = cpus.iter().copied().collect();
    }
    fast
}
