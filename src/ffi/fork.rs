//! Tells a child process after `fork` from the process that created the objects.
//!
//! On Linux a page that the kernel wipes in the child says so; where that is missing the process id is compared. The
//! mark is set at the first entry, so a child whose parent had never entered may use the library.

#[cfg(unix)]
mod imp {
    use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

    /// Holds 1 here and 0 in a child; NULL before the first entry.
    static PAGE: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());
    /// The process of the first entry, when there is no page; 0 before.
    static PROCESS: AtomicI32 = AtomicI32::new(0);

    pub(super) fn is_child() -> bool {
        let page = PAGE.load(Ordering::Acquire);
        if !page.is_null() {
            // SAFETY: the page is mapped readable and never unmapped.
            return unsafe { page.read_volatile() } == 0;
        }
        match PROCESS.load(Ordering::Acquire) {
            0 => mark(),
            // SAFETY: getpid has no preconditions.
            process => return process != unsafe { libc::getpid() },
        }
        false
    }

    fn mark() {
        if let Some(page) = wiped_page() {
            if PAGE
                .compare_exchange(std::ptr::null_mut(), page, Ordering::AcqRel, Ordering::Acquire)
                .is_err()
            {
                // SAFETY: mapped by `wiped_page` with this length, and nobody else has seen it.
                unsafe { libc::munmap(page.cast(), page_size()) };
            }
        } else {
            // SAFETY: getpid has no preconditions.
            PROCESS.store(unsafe { libc::getpid() }, Ordering::Release);
        }
    }

    fn page_size() -> usize {
        // SAFETY: sysconf has no preconditions.
        usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
    }

    #[cfg(target_os = "linux")]
    fn wiped_page() -> Option<*mut u8> {
        let size = page_size();
        // SAFETY: a new private anonymous mapping touches no existing memory.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return None;
        }
        // SAFETY: the mapping was just made with this size and is writable.
        unsafe {
            if libc::madvise(page, size, libc::MADV_WIPEONFORK) != 0 {
                libc::munmap(page, size);
                return None;
            }
            page.cast::<u8>().write_volatile(1);
        }
        Some(page.cast())
    }

    #[cfg(not(target_os = "linux"))]
    fn wiped_page() -> Option<*mut u8> {
        None
    }
}

#[cfg(not(unix))]
mod imp {
    pub(super) fn is_child() -> bool {
        false
    }
}

/// Whether this process is a child of the one that entered first. Takes no lock and allocates nothing.
pub(crate) fn is_child() -> bool {
    imp::is_child()
}
