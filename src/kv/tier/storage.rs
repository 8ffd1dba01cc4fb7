//! Which storage a tier has.

use std::path::PathBuf;
use std::sync::Arc;

use super::Open;
use crate::kv::prefix::{Fingerprint, PolicyKind};

/// What storage is opened with.
#[derive(Debug, Clone)]
pub struct StorageOptions {
    /// Where it lies, if it is a directory.
    pub directory: Option<PathBuf>,
    /// Most bytes it may take.
    pub budget: u64,
    /// Which blocks it gives up when it is full.
    pub policy: PolicyKind,
    /// What blocks must agree with.
    pub fingerprint: Fingerprint,
    /// Bytes of a block.
    pub block_bytes: usize,
}

impl StorageOptions {
    /// Slabs in a directory.
    pub fn in_directory(self) -> Open {
        todo_open(self)
    }

    /// 1 MiB of memory at most, or room for two blocks: for tests, which then need no disk.
    pub fn in_memory(self) -> Open {
        todo_open(self)
    }
}
fn todo_open(_: StorageOptions) -> Open {
    Box::new(|| Err(std::io::Error::other("not yet")))
}
