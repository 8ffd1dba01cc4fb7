//! Layouts of machines and containers, written as files below a directory of the test.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::path::Path;

use super::cgroup::Groups;
use super::*;

/// A machine of files.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, path: &str, text: impl AsRef<[u8]>) -> &Self {
        let path = self.root().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    fn cpu(&self, cpu: usize, file: &str, text: impl AsRef<[u8]>) -> &Self {
        self.write(&format!("sys/devices/system/cpu/cpu{cpu}/{file}"), text)
    }

    /// A core on CPUs `cpus`.
    fn core(&self, package: usize, id: usize, cpus: &[usize]) -> &Self {
        let list: Vec<String> = cpus.iter().map(usize::to_string).collect();
        for &cpu in cpus {
            self.cpu(
                cpu,
                "topology/thread_siblings_list",
                format!("{}\n", list.join(",")),
            );
            self.cpu(cpu, "topology/physical_package_id", format!("{package}\n"));
            self.cpu(cpu, "topology/core_id", format!("{id}\n"));
        }
        self
    }

    fn online(&self, list: &str) -> &Self {
        self.write("sys/devices/system/cpu/online", format!("{list}\n"))
    }

    /// What a process on CPUs `affinity` sees.
    fn seen(&self, affinity: impl IntoIterator<Item = usize>) -> Topology {
        Topology::read(self.root(), &affinity.into_iter().collect::<Vec<_>>())
    }

    fn memory(&self) -> Option<u64> {
        Groups::of_this_process(self.root()).memory_available()
    }

    /// A group's own files, of version 2 mounted as usual.
    fn group(&self, path: &str, file: &str, text: &str) -> &Self {
        self.write(&format!("sys/fs/cgroup/{path}/{file}"), text)
    }
}

/// CPUs, cores, fast cores, nodes.
fn counts(t: &Topology) -> [usize; 4] {
    [t.cpus(), t.cores(), t.performance_cores(), t.nodes()]
}

/// 8 fast cores of two threads (CPUs 0-15) and 16 slow ones (16-31).
fn hybrid() -> Files {
    let files = Files::new();
    files.online("0-31");
    for core in 0..8 {
        files.core(0, core * 4, &[2 * core, 2 * core + 1]);
    }
    for core in 0..16 {
        files.core(0, 32 + core, &[16 + core]);
    }
    files
}

#[test]
fn a_hybrid_machine_has_fast_cores_by_name_or_by_frequency() {
    let named = hybrid();
    named.write("sys/devices/cpu_core/cpus", "0-15\n");
    named.write("sys/devices/cpu_atom/cpus", "16-31\n");
    let by_frequency = hybrid();
    for cpu in 0..32 {
        // Two favoured cores are a little faster than the other fast ones.
        let khz = match cpu {
            8..12 => "5800000",
            0..16 => "5500000",
            _ => "4300000",
        };
        by_frequency.cpu(cpu, "cpufreq/cpuinfo_max_freq", khz);
    }
    for files in [&named, &by_frequency] {
        let all = files.seen(0..32);
        assert_eq!(counts(&all), [32, 24, 8, 1]);
        assert_eq!(all.to_string(), "24 cores (8 fast, 32 threads)");
        // Bound to slow cores, these are what there is; to one thread of each fast core and two slow ones, ten.
        assert_eq!(counts(&files.seen(16..24)), [8, 8, 8, 1]);
        assert_eq!(
            counts(&files.seen((0..18).filter(|c| c % 2 == 0 || *c > 15))),
            [10, 10, 8, 1]
        );
        // Both threads of a core are one.
        assert_eq!(counts(&files.seen([2, 3])), [2, 1, 1, 1]);
    }
    assert_eq!(
        counts(&hybrid().seen(0..32)),
        [32, 24, 24, 1],
        "nothing tells them apart"
    );
}

#[test]
fn a_server_with_two_sockets_has_two_nodes_and_caches() {
    let files = Files::new();
    files.online("0-63");
    for core in 0..32 {
        // Numbers of cores begin again in each socket.
        files.core(core / 16, core % 16, &[core, core + 32]);
    }
    for cpu in 0..64 {
        let socket = (cpu % 32) / 16;
        let shared = ["0-15,32-47", "16-31,48-63"][socket];
        files
            .cpu(cpu, "cache/index0/level", "1")
            .cpu(cpu, "cache/index0/shared_cpu_list", cpu.to_string());
        files
            .cpu(cpu, "cache/index1/level", "3")
            .cpu(cpu, "cache/index1/shared_cpu_list", shared);
    }
    files.write("sys/devices/system/node/online", "0-1\n");
    files.write("sys/devices/system/node/node0/cpulist", "0-15,32-47\n");
    files.write("sys/devices/system/node/node1/cpulist", "16-31,48-63\n");
    let all = files.seen(0..64);
    assert_eq!((counts(&all), all.last_caches()), ([64, 32, 32, 2], 2));
    assert_eq!(all.to_string(), "32 cores (64 threads), 2 nodes");
    let one = files.seen(16..32);
    assert_eq!((counts(&one), one.last_caches()), ([16, 16, 16, 1], 1));
    // Without lists of siblings, sockets and numbers tell.
    for cpu in 0..64 {
        std::fs::remove_file(files.root().join(format!(
            "sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        )))
        .unwrap();
    }
    assert_eq!(counts(&files.seen(0..64)), [64, 32, 32, 2]);
}

#[test]
fn a_container_is_bound_by_its_affinity_and_by_whole_cpus_of_its_quota() {
    let files = Files::new();
    files.online("0-7");
    (0..8).for_each(|cpu| _ = files.core(0, cpu, &[cpu]));
    // Its own name space: the group is the root of what it sees.
    files.write("proc/self/cgroup", "0::/\n");
    files.write(
        "proc/self/mountinfo",
        "31 23 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw\n",
    );
    files.group("", "cpu.max", "250000 100000\n");
    let three = files.seen([1, 4, 6]);
    assert_eq!((counts(&three), three.quota()), ([2, 2, 2, 1], Some(2.5)));
    assert_eq!(three.to_string(), "3 cores, quota 2.5 CPUs");
    for (max, cpus) in [
        ("150000 100000", 1),
        ("30000 100000", 1),
        ("max 100000", 3),
        ("500000", 3),
    ] {
        files.group("", "cpu.max", max);
        assert_eq!(files.seen([1, 4, 6]).cores(), cpus, "{max}");
    }
}

#[test]
fn the_tightest_group_on_the_way_up_counts() {
    let files = Files::new();
    files.write("proc/self/cgroup", "0::/outer.slice/inner/own\n");
    files.write(
        "proc/self/mountinfo",
        "22 1 8:1 / / rw - ext4 /dev/sda rw\n31 23 0:26 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw\n",
    );
    files.group("outer.slice", "cpu.max", "300000 100000\n");
    files.group("outer.slice/inner", "cpu.max", "100000 50000\n");
    files.group("outer.slice/inner/own", "cpu.max", "max 100000\n");
    files.group("elsewhere", "cpu.max", "1000 100000\n");
    assert_eq!(files.seen(0..8).quota(), Some(2.0));

    files.group("outer.slice", "memory.max", "9000\n");
    files.group("outer.slice", "memory.current", "8000\n");
    files.group(
        "outer.slice",
        "memory.stat",
        "anon 1\ninactive_file 500\nactive_file 100\n",
    );
    files.group("outer.slice/inner", "memory.max", "max\n");
    files.group("outer.slice/inner", "memory.current", "700\n");
    files.group("outer.slice/inner/own", "memory.max", "5000\n");
    files.group("outer.slice/inner/own", "memory.current", "700\n");
    assert_eq!(files.memory(), Some(1600));
    files.group("outer.slice/inner/own", "memory.high", "1000\n");
    assert_eq!(files.memory(), Some(300));
    files.group("outer.slice/inner/own", "memory.current", "7000\n");
    assert_eq!(files.memory(), Some(0));
    // The rest of the machine's memory may be less than the groups allow.
    files.group("outer.slice/inner/own", "memory.current", "100\n");
    assert_eq!(crate::memory::available_below(files.root()), 900);
    files.write("proc/meminfo", "MemTotal: 9 kB\nMemAvailable:       0 kB\n");
    assert_eq!(crate::memory::available_below(files.root()), 0);
}

#[test]
fn groups_of_version_1_have_a_place_for_each_controller() {
    let files = Files::new();
    files.write(
        "proc/self/cgroup",
        "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n",
    );
    // The container sees its own group at the mounts, under the name it has outside.
    files.write(
        "proc/self/mountinfo",
        "40 30 0:33 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro master:15 - cgroup cgroup rw,cpu,cpuacct\n\
         41 30 0:34 /docker/abc /sys/fs/cgroup/with\\040blank ro master:16 - cgroup cgroup rw,memory\n",
    );
    files.group("cpu,cpuacct", "cpu.cfs_quota_us", "350000\n");
    files.group("cpu,cpuacct", "cpu.cfs_period_us", "100000\n");
    files.group("with blank", "memory.limit_in_bytes", "4000\n");
    files.group("with blank", "memory.usage_in_bytes", "3000\n");
    files.group(
        "with blank",
        "memory.stat",
        "total_inactive_file 200\ntotal_active_file 100\n",
    );
    assert_eq!(files.seen(0..8).quota(), Some(3.5));
    assert_eq!(files.memory(), Some(1300));
    files.group("cpu,cpuacct", "cpu.cfs_quota_us", "-1\n");
    assert_eq!(files.seen(0..8).quota(), None);
}

#[test]
fn groups_of_a_host_of_version_1_nest() {
    let files = Files::new();
    files.write("proc/self/cgroup", "4:cpu,cpuacct:/a/b\n");
    for (group, quota) in [("a", "100000"), ("a/b", "400000")] {
        files.group(&format!("cpu/{group}"), "cpu.cfs_quota_us", quota);
        files.group(&format!("cpu/{group}"), "cpu.cfs_period_us", "100000");
    }
    assert_eq!(
        files.seen(0..8).quota(),
        Some(1.0),
        "found where it usually is, without mounts"
    );
}

#[test]
fn big_and_little_cores_differ_by_capacity() {
    let files = Files::new();
    files.online("0-7");
    for cpu in 0..8 {
        let capacity = match cpu {
            7 => "1024\n",
            4.. => "870\n",
            _ => "326\n",
        };
        files.core(0, cpu, &[cpu]).cpu(cpu, "cpu_capacity", capacity);
    }
    let all = files.seen(0..8);
    assert_eq!(counts(&all), [8, 8, 4, 1]);
    assert_eq!(all.to_string(), "8 cores (4 fast)");
    assert_eq!(files.seen(0..4).performance_cores(), 4);
}

#[test]
fn without_files_every_cpu_is_a_core() {
    let files = Files::new();
    assert_eq!(counts(&files.seen(0..6)), [6, 6, 6, 1]);
    assert_eq!(counts(&files.seen([])), [1, 1, 1, 1]);
    assert_eq!((files.seen(0..6).quota(), files.memory()), (None, None));
    assert_eq!(crate::memory::available_below(files.root()), 1 << 30);
    assert!(crate::memory::available() > 0);
}

#[test]
fn cpus_that_are_offline_do_not_count() {
    let files = Files::new();
    files.online("0-1,4-5");
    (0..4).for_each(|core| _ = files.core(0, core, &[2 * core, 2 * core + 1]));
    assert_eq!(counts(&files.seen(0..8)), [4, 2, 2, 1]);
    assert_eq!(
        counts(&files.seen([6, 7])),
        [2, 1, 1, 1],
        "the affinity cannot be wrong"
    );
}

#[test]
fn nonsense_counts_as_nothing() {
    let huge = "9".repeat(400);
    let long = "0,".repeat(300_000);
    let nonsense: [&[u8]; 10] = [
        b"",
        b"\n",
        b"garbage",
        b"-5",
        b"1-",
        b"\xff\xfe\0",
        b"18446744073709551615",
        b"0 0",
        huge.as_bytes(),
        long.as_bytes(),
    ];
    for text in nonsense {
        let files = Files::new();
        files.write("sys/devices/system/cpu/online", text);
        for cpu in 0..4 {
            for file in [
                "thread_siblings_list",
                "core_cpus_list",
                "physical_package_id",
                "core_id",
            ] {
                files.cpu(cpu, &format!("topology/{file}"), text);
            }
            for file in ["cpu_capacity", "cpufreq/cpuinfo_max_freq", "cache/index0/level"] {
                files.cpu(cpu, file, text);
            }
            files.cpu(cpu, "cache/index0/shared_cpu_list", text);
        }
        for file in [
            "sys/devices/cpu_core/cpus",
            "sys/devices/cpu_atom/cpus",
            "sys/devices/system/node/online",
            "sys/devices/system/node/node0/cpulist",
            "sys/fs/cgroup/cpu.max",
            "sys/fs/cgroup/memory.max",
            "sys/fs/cgroup/memory.current",
            "sys/fs/cgroup/memory.stat",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us",
            "proc/self/cgroup",
            "proc/self/mountinfo",
        ] {
            files.write(file, text);
        }
        let seen = files.seen(0..4);
        let name = String::from_utf8_lossy(&text[..text.len().min(20)]);
        assert!((1..=4).contains(&seen.cores()), "{name}: {seen:?}");
        assert!(
            (1..=seen.cpus()).contains(&seen.performance_cores()),
            "{name}: {seen:?}"
        );
        files.memory();
    }
}

#[test]
fn paths_that_lead_elsewhere_are_not_followed() {
    let files = Files::new();
    files.group("", "cpu.max", "400000 100000");
    files.write("sys/fs/other/cpu.max", "100000 100000");
    for path in [
        "0::/../other",
        "0::/no/such/group",
        "0::",
        "x",
        "0:",
        &format!("0::{}", "/a".repeat(9999)),
    ] {
        files.write("proc/self/cgroup", path);
        assert_eq!(files.seen(0..8).quota(), Some(4.0), "{path:.40}");
    }
}

#[test]
fn this_machine_is_understood() {
    let this = Topology::this();
    assert!(1 <= this.performance_cores() && this.performance_cores() <= this.cores());
    assert!(this.cores() <= this.cpus() && this.nodes() >= 1 && this.last_caches() >= 1);
    let std = std::thread::available_parallelism().map_or(1, |n| n.get());
    assert_eq!(this.cpus(), std, "{this}");
}

/// As found on a virtual machine with two CPUs of a cloud: controllers of version 1 beside an empty hierarchy of version 2.
#[test]
fn a_captured_virtual_machine_is_understood() {
    let files = Files::new();
    files.online("0-1");
    for cpu in 0..2 {
        files.core(0, cpu, &[cpu]).cpu(cpu, "cpu_capacity", "1024\n");
    }
    files.write("sys/devices/system/node/online", "0\n");
    files.write("sys/devices/system/node/node0/cpulist", "0-1\n");
    files.write(
        "proc/self/cgroup",
        "9:name=systemd:/\n8:pids:/\n7:blkio:/\n6:freezer:/\n5:devices:/\n4:memory:/service/343c88d3\n\
         3:cpuset:/\n2:cpuacct:/\n1:cpu:/\n0::/\n",
    );
    files.write(
        "proc/self/mountinfo",
        "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
         32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
         33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct\n\
         34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n\
         35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
         40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n\
         41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n",
    );
    files.group("cpu", "cpu.cfs_quota_us", "-1\n");
    files.group("cpu", "cpu.cfs_period_us", "100000\n");
    let memory = "memory/service/343c88d3";
    files.group(memory, "memory.limit_in_bytes", "9223372036854771712\n");
    files.group(memory, "memory.usage_in_bytes", "5000\n");
    let seen = files.seen(0..2);
    assert_eq!(counts(&seen), [2, 2, 2, 1]);
    assert_eq!(seen.quota(), None);
    // The same with a quota and a limit set there.
    files.group("cpu", "cpu.cfs_quota_us", "150000\n");
    files.group(memory, "memory.limit_in_bytes", "9000\n");
    assert_eq!(files.seen(0..2).quota(), Some(1.5));
    assert_eq!(files.memory(), Some(4000));
}
