//! Where blocks lie that left memory: what a tier asks of its storage.

use crate::kv::prefix::{BlockName, Key};

/// A store of blocks of one size under one fingerprint, in memory, in a directory, or elsewhere. All methods may be
/// called from several threads; [`Backend::contains`] and [`Backend::admits`] answer from memory and never wait for a
/// disk.
pub trait Backend: Send + Sync + std::fmt::Debug {
    /// Whether a copy of the block is published. A later [`Backend::get`] can still miss.
    fn contains(&self, key: &Key) -> bool;

    /// Whether the block is worth its write: false when a copy is there, when others may write only, or when it is less
    /// likely to be asked for than what it would push out. Counts as a sign that the block is of use.
    fn admits(&self, name: &BlockName) -> bool;

    /// Writes blocks, evicting others where there is no room, and then publishes them. Answers how many are published now.
    ///
    /// # Errors
    /// Of the storage. Blocks of the batch are then published or not, each as a whole.
    fn put(&self, batch: &[(BlockName, &[u8])]) -> std::io::Result<usize>;

    /// Copies a block to `out`, which has the size of a block. `false` when there is none, or none that agrees with
    /// all of the name and its checksum; `out` then holds anything.
    ///
    /// # Errors
    /// Of the storage.
    fn get(&self, name: &BlockName, out: &mut [u8]) -> std::io::Result<bool>;

    /// Counts a use of blocks, the deepest of a chain first.
    fn touch(&self, keys: &[Key]);

    /// Forgets the blocks below a root, or all of them, so that they do not come back after a restart.
    ///
    /// # Errors
    /// Of the storage; they are forgotten in memory all the same.
    fn remove(&self, root: Option<Key>) -> std::io::Result<()>;

    /// Names of all published blocks.
    fn list(&self) -> Vec<Key>;

    /// What is due from time to time: looking for what other processes wrote, taking over as the one that writes.
    ///
    /// # Errors
    /// Of the storage.
    fn maintain(&self) -> std::io::Result<()>;

    /// Makes everything published survive a power cut.
    ///
    /// # Errors
    /// Of the storage.
    fn sync(&self) -> std::io::Result<()>;

    /// Counts since it was opened, and sizes now.
    fn counts(&self) -> BackendCounts;

    /// What somebody should know since the last call, in sentences for a log; a flood is cut off.
    fn take_notices(&self) -> Vec<String> {
        Vec::new()
    }
}

/// What a [`Backend`] counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BackendCounts {
    /// Blocks published now.
    pub blocks: u64,
    /// Bytes they take in storage.
    pub bytes: u64,
    /// Bytes they may take.
    pub budget: u64,
    /// Blocks pushed out by others.
    pub evictions: u64,
    /// Blocks that were not worth a write.
    pub refusals: u64,
    /// Bytes written.
    pub written: u64,
    /// Bytes read.
    pub read: u64,
    /// Copies that did not agree with their name or checksum.
    pub corrupt: u64,
    /// Files that are not used because they are damaged, or of another version, model or layout.
    pub foreign_files: u64,
    /// Whether this process is the one that writes.
    pub writer: bool,
}
