//! Memory of a store: blocks that one sequence fills and that nobody changes from then on.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use super::BLOCK_TOKENS;
use crate::memory::{MemoryError, Region};

/// Blocks of one size, at most so many; memory is taken when a block is first used and kept for the next one.
#[derive(Debug)]
pub(super) struct Pool {
    block_bytes: usize,
    capacity: usize,
    state: Mutex<State>,
    /// Tokens in the blocks handed out.
    tokens: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    free: Vec<Region>,
    /// Blocks handed out.
    live: usize,
}

impl Pool {
    pub(super) fn new(block_bytes: usize, capacity: usize) -> Self {
        Self {
            block_bytes,
            capacity,
            state: Mutex::default(),
            tokens: AtomicU64::new(0),
        }
    }

    /// Blocks there can be.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Blocks handed out and not given back.
    pub(super) fn live(&self) -> usize {
        self.lock().live
    }

    /// Tokens in them.
    pub(super) fn tokens(&self) -> u64 {
        self.tokens.load(Relaxed)
    }

    /// A block to write to; `None` when all are out. What it held before is still there.
    ///
    /// # Errors
    /// When the system has no memory.
    pub(super) fn take(self: &Arc<Self>) -> Result<Option<Block>, MemoryError> {
        let mut state = self.lock();
        if state.live >= self.capacity {
            return Ok(None);
        }
        let region = match state.free.pop() {
            Some(region) => region,
            None => Region::new(self.block_bytes, "a block of the key/value cache")?,
        };
        state.live += 1;
        Ok(Some(Block {
            full: OnceLock::new(),
            open: RwLock::new(Some(region)),
            tokens: AtomicUsize::new(0),
            pool: Arc::clone(self),
        }))
    }

    fn give_back(&self, region: Option<Region>) {
        let mut state = self.lock();
        state.live -= 1;
        // Where there is no memory for the list, the block itself goes back to the system.
        if let Some(region) = region
            && state.free.try_reserve(1).is_ok()
        {
            state.free.push(region);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A block. It is open, written by one sequence and read under a lock, and then frozen: shared by any number of
/// readers, who need no lock. The memory goes back to the pool with the last of them.
#[derive(Debug)]
pub(super) struct Block {
    full: OnceLock<Region>,
    open: RwLock<Option<Region>>,
    tokens: AtomicUsize,
    pool: Arc<Pool>,
}

impl Block {
    /// Lets `f` write, unless the block is frozen.
    pub(super) fn write(&self, f: impl FnOnce(&mut [u8])) -> bool {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        open.as_deref_mut().map(f).is_some()
    }

    /// The memory of a block that nobody else has and that is open.
    pub(super) fn memory(&mut self) -> Option<&mut Region> {
        let open = self.open.get_mut().unwrap_or_else(PoisonError::into_inner);
        open.as_mut()
    }

    /// Lets `f` read; under a lock while the block is open.
    pub(super) fn read<T>(&self, f: impl FnOnce(&[u8]) -> T) -> T {
        if let Some(bytes) = self.full.get() {
            return f(bytes);
        }
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        match &*open {
            Some(bytes) => f(bytes),
            None => f(self.frozen().unwrap_or_default()),
        }
    }

    /// The bytes of a frozen block.
    pub(super) fn frozen(&self) -> Option<&[u8]> {
        self.full.get().map(|region| &**region)
    }

    /// Ends writing.
    pub(super) fn freeze(&self) {
        if self.full.get().is_some() {
            return;
        }
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(region) = open.take() {
            // Only the one that took the region from `open` sets it.
            let _ = self.full.set(region);
        }
    }

    /// Opens a block again that nobody else has.
    pub(super) fn thaw(&mut self) {
        if let Some(region) = self.full.take() {
            *self.open.get_mut().unwrap_or_else(PoisonError::into_inner) = Some(region);
        }
    }

    /// Notes how many tokens the block holds.
    pub(super) fn set_tokens(&self, tokens: usize) {
        let tokens = tokens.min(BLOCK_TOKENS);
        let before = self.tokens.swap(tokens, Relaxed);
        let change = (tokens as u64).wrapping_sub(before as u64);
        self.pool.tokens.fetch_add(change, Relaxed);
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.set_tokens(0);
        let open = self.open.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        self.pool.give_back(self.full.take().or(open));
    }
}
