//! What a pool asks of the operating system: CPUs, affinity, signal masks, thread names.

#![allow(unsafe_code, reason = "affinity and signal masks through libc")]

/// CPU numbers that the calling thread may run on; as many as the standard library counts where the system does not
/// tell them.
pub(crate) fn affinity() -> Vec<usize> {
    allowed().unwrap_or_else(|| (0..std::thread::available_parallelism().map_or(1, |n| n.get())).collect())
}

#[cfg(target_os = "linux")]
fn allowed() -> Option<Vec<usize>> {
    const BITS: usize = u64::BITS as usize;
    // The call fails for a set smaller than the kernel's own.
    [16, 256].into_iter().find_map(|words| {
        let mut set = vec![0u64; words];
        // SAFETY: the call writes at most the length given, to a set of whole words as the kernel has them.
        let refused =
            unsafe { libc::sched_getaffinity(0, size_of_val(&set[..]), set.as_mut_ptr().cast()) } != 0;
        let is_set = |cpu: &usize| set[cpu / BITS] >> (cpu % BITS) & 1 == 1;
        (!refused).then(|| (0..words * BITS).filter(is_set).collect())
    })
}

#[cfg(not(target_os = "linux"))]
fn allowed() -> Option<Vec<usize>> {
    None
}

/// `prefix-worker`, the prefix cut so that the whole fits the 15 bytes the system keeps, and without NUL.
pub(super) fn thread_name(prefix: &str, worker: usize) -> String {
    let suffix = format!("-{worker}");
    let mut name = String::new();
    for c in prefix.chars().filter(|&c| c != '\0') {
        if name.len() + c.len_utf8() + suffix.len() > 15 {
            break;
        }
        name.push(c);
    }
    name + &suffix
}

/// Whether the process may run on `cpu`.
#[cfg(target_os = "linux")]
pub(super) fn may_use(cpu: usize) -> bool {
    // SAFETY: a zeroed set is valid; the call writes at most its size.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 {
            return true;
        }
        set
    };
    // SAFETY: the index is inside the set.
    cpu < 8 * size_of::<libc::cpu_set_t>() && unsafe { libc::CPU_ISSET(cpu, &set) }
}

/// CPU numbers are not checked where there is no affinity.
#[cfg(not(target_os = "linux"))]
pub(super) fn may_use(_: usize) -> bool {
    true
}

/// Pins the current thread; without effect where the system refuses.
#[cfg(target_os = "linux")]
pub(super) fn pin(cpu: usize) {
    if cpu < 8 * size_of::<libc::cpu_set_t>() {
        // SAFETY: a zeroed set is valid, the index is inside it, the call reads its size.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(cpu, &mut set);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
        }
    }
}

/// Without effect where there is no affinity.
#[cfg(not(target_os = "linux"))]
pub(super) fn pin(_: usize) {}

/// Asks the system to begin writing a part of a file to its disk, and does not wait for that. A hint: it says nothing of
/// what a power cut leaves.
#[cfg(target_os = "linux")]
pub(crate) fn begin_writing(file: &std::fs::File, offset: u64, bytes: u64) {
    use std::os::fd::AsRawFd;
    let (Ok(offset), Ok(bytes)) = (offset.try_into(), bytes.try_into()) else {
        return;
    };
    // SAFETY: the descriptor is open as long as `file` is borrowed, and no memory is handed over. What it answers is of no
    // interest: an error of the disk is found by the sync that follows.
    unsafe { libc::sync_file_range(file.as_raw_fd(), offset, bytes, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Without effect where the system takes no such hints.
#[cfg(all(unix, not(target_os = "linux")))]
pub(crate) fn begin_writing(_: &std::fs::File, _: u64, _: u64) {}

/// Runs `f` with all signals blocked on this thread, so that threads it creates inherit that.
#[cfg(unix)]
pub(crate) fn with_signals_blocked<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: both sets are initialised by the calls before they are read.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut old: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        let blocked = libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut old) == 0;
        let result = f();
        if blocked {
            libc::pthread_sigmask(libc::SIG_SETMASK, &old, std::ptr::null_mut());
        }
        result
    }
}

/// There are no signals to block.
#[cfg(not(unix))]
pub(crate) fn with_signals_blocked<R>(f: impl FnOnce() -> R) -> R {
    f()
}
