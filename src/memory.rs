//! Fallible memory: every allocation whose size depends on a file, a request or an option comes from here.
//!
//! Exhaustion is an error value. Large regions are anonymous mappings with huge-page advice.

use std::path::Path;

use memmap2::MmapMut;

use crate::topology::cgroup::Groups;
use crate::topology::{field, read};

/// Memory could not be obtained.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The allocator or the kernel refused.
    #[error("cannot allocate {bytes} bytes for {what}: the system is out of memory or a limit is reached")]
    Exhausted {
        /// What the memory was for.
        what: String,
        /// How much was asked for.
        bytes: usize,
    },
    /// The size does not fit this machine's address space.
    #[error("the size of {what} overflows: {detail}")]
    Overflow {
        /// What the memory was for.
        what: String,
        /// The arithmetic that overflowed.
        detail: String,
    },
    /// A budget set by an option would be exceeded.
    #[error("{what} needs {needed} bytes, but the budget is {budget} bytes")]
    OverBudget {
        /// What the memory was for.
        what: String,
        /// How much was asked for.
        needed: u64,
        /// The limit.
        budget: u64,
    },
}

/// From here on a vector that is to be filled is compared with what is available: the system promises more memory than
/// it has, and ends processes that use it.
const CHECKED_BYTES: usize = 64 << 20;

/// A vector of `len` copies of `value`, or an error when memory is short.
pub fn filled<T: Clone>(value: T, len: usize, what: &str) -> Result<Vec<T>, MemoryError> {
    let bytes = len.saturating_mul(size_of::<T>());
    if bytes >= CHECKED_BYTES && bytes as u64 > available() {
        return Err(MemoryError::Exhausted {
            what: what.to_string(),
            bytes,
        });
    }
    let mut v = with_capacity(len, what)?;
    v.resize(len, value);
    Ok(v)
}

/// An empty vector with room for `len` elements, or an error when memory is short.
pub fn with_capacity<T>(len: usize, what: &str) -> Result<Vec<T>, MemoryError> {
    #[cfg(infer_faults)]
    crate::fault::exhausted_at("memory", what)?;
    let mut v = Vec::new();
    v.try_reserve_exact(len).map_err(|_| MemoryError::Exhausted {
        what: what.to_string(),
        bytes: len.saturating_mul(size_of::<T>()),
    })?;
    Ok(v)
}

/// A copy of a slice, or an error when memory is short.
pub fn copy<T: Copy>(values: &[T], what: &str) -> Result<Vec<T>, MemoryError> {
    let mut v = with_capacity(values.len(), what)?;
    v.extend_from_slice(values);
    Ok(v)
}

/// Room for `more` elements beyond those of `v`, or an error when memory is short. It may grow by more, so that growing
/// again and again costs little.
pub fn reserve<T>(v: &mut Vec<T>, more: usize, what: &str) -> Result<(), MemoryError> {
    #[cfg(infer_faults)]
    crate::fault::exhausted_at("memory", what)?;
    v.try_reserve(more).map_err(|_| MemoryError::Exhausted {
        what: what.to_string(),
        bytes: v.len().saturating_add(more).saturating_mul(size_of::<T>()),
    })
}

/// A zeroed, page-aligned anonymous region with huge-page advice where the platform has it.
#[derive(Debug)]
pub struct Region(MmapMut);

impl Region {
    /// Maps `bytes` bytes of zeroed memory; pages are touched lazily.
    pub fn new(bytes: usize, what: &str) -> Result<Self, MemoryError> {
        #[cfg(infer_faults)]
        crate::fault::exhausted_at("memory", what)?;
        let map = MmapMut::map_anon(bytes.max(1)).map_err(|_| MemoryError::Exhausted {
            what: what.to_string(),
            bytes,
        })?;
        #[cfg(target_os = "linux")]
        if bytes >= 4 << 20 {
            // Advice only: a kernel without huge pages answers an error that changes nothing.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Ok(Self(map))
    }
}

impl std::ops::Deref for Region {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl std::ops::DerefMut for Region {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// Bytes of memory this process can still use: what the system has free or can free, within the limits of its control
/// groups. A guess of 1 GiB where the system does not tell.
pub fn available() -> u64 {
    available_below(Path::new("/"))
}

/// The same by the files below `root`.
pub(crate) fn available_below(root: &Path) -> u64 {
    let system =
        read(&root.join("proc/meminfo")).and_then(|text| field(&text, "MemAvailable:")?.checked_mul(1024));
    let groups = Groups::of_this_process(root).memory_available();
    [system, groups].into_iter().flatten().min().unwrap_or(1 << 30)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_impossible_size_is_an_error() {
        let e = with_capacity::<u64>(usize::MAX / 16, "a test").unwrap_err();
        assert!(e.to_string().contains("for a test"), "{e}");
        assert!(Region::new(usize::MAX / 2, "a test").is_err());
    }

    #[test]
    fn more_than_there_is_is_refused_instead_of_being_touched() {
        let e = filled(0u64, (available() / 8) as usize * 4, "a test").unwrap_err();
        assert!(e.to_string().contains("for a test"), "{e}");
    }

    #[test]
    fn a_region_is_zeroed_and_writable() {
        let mut r = Region::new(8 << 20, "a test").unwrap();
        assert!(r.iter().all(|&b| b == 0));
        r[5] = 1;
        assert_eq!(r[5], 1);
    }
}
