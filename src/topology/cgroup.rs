//! Limits of the control groups this process is in: CPU time and memory, in both versions of the interface.
//!
//! A group is limited by every group around it, so the tightest limit on the way up counts. Where the mounts do not
//! tell, the groups are looked for where they usually are.

use std::path::{Path, PathBuf};

use super::{field, number, read};

/// More levels than any system nests.
const MAX_DEPTH: usize = 64;

/// The directories of the groups of this process, each from its own group up to the uppermost that is visible.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    unified: Vec<PathBuf>,
    cpu: Vec<PathBuf>,
    memory: Vec<PathBuf>,
}

/// A line of `/proc/self/mountinfo` that mounts groups.
struct Mount {
    /// The group that is seen at `at`.
    root: String,
    at: String,
    version: Version,
}

enum Version {
    One { controllers: String },
    Two,
}

impl Groups {
    /// Those of the process whose `/proc` is below `root`.
    pub(crate) fn of_this_process(root: &Path) -> Self {
        let mounts: Vec<Mount> = read(&root.join("proc/self/mountinfo"))
            .map(|text| text.lines().filter_map(mount).collect())
            .unwrap_or_default();
        let memberships = read(&root.join("proc/self/cgroup")).unwrap_or_default();
        // `hierarchy:controllers:path`; of version 2 `0::path`.
        let path_of = |controller: &str| {
            memberships.lines().find_map(|line| {
                let (_, rest) = line.split_once(':')?;
                let (controllers, path) = rest.split_once(':')?;
                controllers.split(',').any(|c| c == controller).then_some(path)
            })
        };
        let directories = |controller: &str, usual: &str| {
            let mounted = mounts.iter().find(|m| match &m.version {
                Version::Two => controller.is_empty(),
                Version::One { controllers } => controllers.split(',').any(|c| c == controller),
            });
            let path = path_of(controller).unwrap_or("/");
            match mounted {
                Some(m) => upwards(&below(root, &m.at), inside(path, &m.root)),
                None => upwards(&below(root, usual), path),
            }
        };
        Self {
            unified: directories("", "/sys/fs/cgroup"),
            cpu: directories("cpu", "/sys/fs/cgroup/cpu"),
            memory: directories("memory", "/sys/fs/cgroup/memory"),
        }
    }

    /// CPU time per time, in CPUs.
    pub(crate) fn cpu_quota(&self) -> Option<f64> {
        let unified = self.unified.iter().filter_map(|dir| {
            let text = read(&dir.join("cpu.max"))?;
            let mut words = text.split_whitespace();
            let quota = words.next()?.parse().ok()?;
            share(quota, words.next().map_or(Some(100_000), |p| p.parse().ok())?)
        });
        let old = self.cpu.iter().filter_map(|dir| {
            // -1 without a limit.
            let quota = number(&dir.join("cpu.cfs_quota_us"))?;
            share(quota, number(&dir.join("cpu.cfs_period_us"))?)
        });
        unified.chain(old).reduce(f64::min)
    }

    /// Bytes that may still be used.
    pub(crate) fn memory_available(&self) -> Option<u64> {
        let rest = |dir: &Path, limit: u64, usage: &str, cache: [&str; 2]| {
            // Cached pages of files count as used, but make room: a model file just read would fill the group.
            let stat = read(&dir.join("memory.stat")).unwrap_or_default();
            let cached = cache
                .iter()
                .filter_map(|name| field(&stat, name))
                .fold(0u64, u64::saturating_add);
            let used = number(&dir.join(usage))?.saturating_sub(cached);
            Some(limit.saturating_sub(used))
        };
        let unified = self.unified.iter().filter_map(|dir| {
            // Above `high` a process is not ended, but slowed until nothing moves.
            let limits = ["memory.max", "memory.high"];
            let limit = limits.iter().filter_map(|name| number(&dir.join(name))).min()?;
            rest(dir, limit, "memory.current", ["active_file", "inactive_file"])
        });
        let old = self.memory.iter().filter_map(|dir| {
            let limit = number(&dir.join("memory.limit_in_bytes"))?;
            let cache = ["total_active_file", "total_inactive_file"];
            rest(dir, limit, "memory.usage_in_bytes", cache)
        });
        unified.chain(old).min()
    }
}

/// CPUs that a quota pays for; `None` where the numbers make no sense.
fn share(quota: u64, period: u64) -> Option<f64> {
    (quota > 0 && period > 0).then(|| quota as f64 / period as f64)
}

/// A line of mountinfo: `36 35 0:30 /root /at options [tags] - type source options`, blanks as `\040`.
fn mount(line: &str) -> Option<Mount> {
    let (this, file_system) = line.split_once(" - ")?;
    let mut this = this.split(' ').skip(3);
    let mut file_system = file_system.split(' ');
    let (root, at) = (this.next()?, this.next()?);
    let version = match file_system.next()? {
        "cgroup2" => Version::Two,
        "cgroup" => Version::One {
            controllers: file_system.nth(1)?.to_string(),
        },
        _ => return None,
    };
    Some(Mount {
        root: root.replace("\\040", " "),
        at: at.replace("\\040", " "),
        version,
    })
}

/// The part of a group's path below the group that is mounted; nothing for one outside it, as in a container that sees
/// its own group at the mount, but the name that the group has outside.
fn inside<'a>(path: &'a str, mounted: &str) -> &'a str {
    match path.strip_prefix(mounted.trim_end_matches('/')) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
        _ => "",
    }
}

/// An absolute path, below `root`.
fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// The directory of group `path` and those around it, up to `mount`. Of a path that leads out of the mount, or to
/// nothing, only the part that exists.
fn upwards(mount: &Path, path: &str) -> Vec<PathBuf> {
    let mut directories = vec![mount.to_path_buf()];
    let mut dir = mount.to_path_buf();
    for name in path.split('/').filter(|n| !n.is_empty()).take(MAX_DEPTH) {
        dir.push(name);
        if name == ".." || !dir.is_dir() {
            break;
        }
        directories.push(dir.clone());
    }
    directories
}
