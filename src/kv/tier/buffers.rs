//! Memory for blocks on their way, used again and again.

use std::sync::{Mutex, PoisonError};

use crate::memory::Region;

/// Keeps memory of blocks that arrived for those that come next.
#[derive(Debug)]
pub(super) struct Buffers {
    block_bytes: usize,
    most: usize,
    unused: Mutex<Vec<Region>>,
}

impl Buffers {
    /// Keeps up to `most` of them.
    pub(super) fn new(block_bytes: usize, most: usize) -> Self {
        Self {
            block_bytes,
            most,
            unused: Mutex::default(),
        }
    }

    /// One of them; `None` when memory is short.
    pub(super) fn take(&self) -> Option<Region> {
        let unused = self.unused.lock().unwrap_or_else(PoisonError::into_inner).pop();
        unused.or_else(|| Region::new(self.block_bytes, "a block on its way to or from the cold tier").ok())
    }

    pub(super) fn give_back(&self, buffer: Region) {
        let mut unused = self.unused.lock().unwrap_or_else(PoisonError::into_inner);
        if unused.len() < self.most && unused.try_reserve(1).is_ok() {
            unused.push(buffer);
        }
    }
}
