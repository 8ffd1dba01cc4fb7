//! A file descriptor that is readable while a queue has events.
//!
//! It is opened when it is first asked for, so that hosts without an event loop do not spend one.

use std::ffi::c_int;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

#[derive(Default)]
pub(crate) struct Signal(Mutex<State>);

#[derive(Default)]
struct State {
    full: bool,
    #[cfg(target_os = "linux")]
    fd: Option<std::os::fd::OwnedFd>,
}

impl Signal {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queue fills (`true`) or was drained (`false`).
    pub(crate) fn set(&self, full: bool) {
        let mut s = self.lock();
        if s.full != full {
            s.full = full;
            s.show();
        }
    }

    /// The descriptor, opened now if it is not yet.
    #[cfg(target_os = "linux")]
    pub(crate) fn fd(&self) -> Result<c_int> {
        use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
        let mut s = self.lock();
        if let Some(fd) = &s.fd {
            return Ok(fd.as_raw_fd());
        }
        // SAFETY: eventfd has no preconditions.
        let raw = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if raw < 0 {
            return Err(Error::Io {
                action: "open".to_string(),
                path: "an eventfd".into(),
                source: std::io::Error::last_os_error(),
            });
        }
        // SAFETY: just opened, and owned by nobody else.
        s.fd = Some(unsafe { OwnedFd::from_raw_fd(raw) });
        if s.full {
            s.show();
        }
        Ok(raw)
    }

    /// Elsewhere there is none.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn fd(&self) -> Result<c_int> {
        Err(Error::Unsupported(
            "a file descriptor for a queue needs eventfd, which only Linux has".to_string(),
        ))
    }
}

impl State {
    /// Makes the descriptor say what `full` says.
    #[cfg(target_os = "linux")]
    fn show(&self) {
        use std::os::fd::AsRawFd;
        let Some(fd) = &self.fd else { return };
        let mut count = 1u64.to_ne_bytes();
        // SAFETY: the descriptor is open, and an eventfd takes and gives exactly these eight bytes. It never blocks:
        // the counter is 0 or 1 and the descriptor is non-blocking.
        unsafe {
            if self.full {
                libc::write(fd.as_raw_fd(), count.as_ptr().cast(), count.len());
            } else {
                libc::read(fd.as_raw_fd(), count.as_mut_ptr().cast(), count.len());
            }
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn show(&self) {}
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn readable(fd: c_int) -> bool {
        let mut poll = libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd on this stack.
        unsafe { libc::poll(&mut poll, 1, 0) == 1 }
    }

    #[test]
    fn the_descriptor_is_readable_while_the_queue_is_full() {
        let signal = Signal::default();
        signal.set(true);
        let fd = signal.fd().unwrap();
        assert_eq!(signal.fd().unwrap(), fd);
        assert!(readable(fd));
        signal.set(true);
        signal.set(false);
        assert!(!readable(fd));
        signal.set(true);
        assert!(readable(fd));
    }
}
