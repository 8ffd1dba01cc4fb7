//! The file mapping behind [`LoadMode::Mmap`](super::LoadMode::Mmap), the only unsafe code of this module.
#![allow(
    unsafe_code,
    reason = "mapping a file is unsafe because another process can change it"
)]

use std::fs::File;

/// A read-only mapping of a whole file.
#[derive(Debug)]
pub(super) struct Mapping(memmap2::Mmap);

impl Mapping {
    /// Maps `file` as long as it is now.
    pub(super) fn new(file: &File) -> std::io::Result<Self> {
        // SAFETY: the mapping is read-only in this process. That no other process truncates or writes the file
        // while it is mapped cannot be ensured here: it is the documented condition of choosing
        // `LoadMode::Mmap`, which is never the default. The bytes are only ever read as integers and floats, for
        // which every bit pattern is a value.
        let map = unsafe { memmap2::Mmap::map(file) }?;
        #[cfg(unix)]
        {
            // Advice only: reading ahead makes the first pass over the weights faster; a refusal changes nothing.
            let _ = map.advise(memmap2::Advice::WillNeed);
        }
        Ok(Self(map))
    }
}

impl std::ops::Deref for Mapping {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}
