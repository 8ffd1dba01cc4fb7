//! Which storage a tier has.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Backend, Directory, Media, MemoryMedia, Open, SlabStore, StoreConfig};
use crate::kv::prefix::{Fingerprint, PolicyKind, Secret};

/// Bytes of storage in memory, unless one block needs more.
const TEST_BYTES: u64 = 1 << 20;

/// What storage is opened with.
#[derive(Debug, Clone)]
pub struct StorageOptions {
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
    pub fn in_directory(self, path: PathBuf) -> Open {
        Box::new(move || self.slabs(Box::new(Directory::open(&path)?)))
    }

    /// 1 MiB of memory, or room for four blocks: for tests, which then need no disk.
    pub fn in_memory(self) -> Open {
        let media = MemoryMedia::default();
        let four = (self.block_bytes as u64 + 4096)
            .saturating_mul(4)
            .saturating_add(1 << 16);
        let options = Self {
            budget: TEST_BYTES.max(four),
            ..self
        };
        Box::new(move || options.slabs(Box::new(media.clone())))
    }

    fn slabs(&self, media: Box<dyn Media>) -> io::Result<(Arc<dyn Backend>, Secret)> {
        let config = StoreConfig {
            fingerprint: self.fingerprint.clone(),
            block_bytes: self.block_bytes,
            budget: self.budget,
            policy: self.policy,
        };
        let store = SlabStore::open(media, config)?;
        let secret = store.secret();
        Ok((Arc::new(store), secret))
    }
}
