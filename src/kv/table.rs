//! Which blocks hold a sequence, in the order of its positions.

use super::geometry::BLOCK_TOKENS;
use super::pool::BlockId;
use super::prefix::Key;
use crate::memory::{self, MemoryError};

/// Number of an open sequence in its cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SequenceId(pub(crate) u32);

impl SequenceId {
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// Blocks of one sequence and how many tokens they hold.
#[derive(Debug, Default)]
pub struct BlockTable {
    blocks: Vec<BlockId>,
    /// Leading blocks that left the window: they keep their places, but are not the sequence's any more.
    first: usize,
    len: usize,
    /// Where a prompt ended.
    pub(super) border: Option<usize>,
    /// Leading blocks that the prefix index knows.
    pub(super) sealed: usize,
    /// Key of the last sealed block, or the root of its prefixes; `None` when the sequence must not be indexed.
    pub(super) chain: Option<Key>,
}

impl BlockTable {
    /// An empty table that never allocates up to `blocks` blocks.
    pub(super) fn with_capacity(blocks: usize) -> Result<Self, MemoryError> {
        Ok(Self {
            blocks: memory::with_capacity(blocks, "a block table")?,
            ..Self::default()
        })
    }

    /// The blocks, by position; those before [`BlockTable::first`] are gone.
    pub fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// The first block that is held.
    pub fn first(&self) -> usize {
        self.first
    }

    /// The block at a place; it is held.
    pub(super) fn at(&self, index: usize) -> BlockId {
        debug_assert!(index >= self.first, "block {index} left the window");
        self.blocks[index]
    }

    /// Tokens stored.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token is stored.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Token slots of the blocks that hold no token.
    pub(super) fn vacant(&self) -> usize {
        self.blocks.len() * BLOCK_TOKENS - self.len
    }

    /// The block that the next token goes to, if it holds tokens already.
    pub(super) fn partial(&self) -> Option<BlockId> {
        (!self.len.is_multiple_of(BLOCK_TOKENS)).then(|| self.blocks[self.len / BLOCK_TOKENS])
    }

    pub(super) fn replace(&mut self, index: usize, block: BlockId) -> BlockId {
        std::mem::replace(&mut self.blocks[index], block)
    }

    pub(super) fn push(&mut self, block: BlockId) {
        self.blocks.push(block);
    }

    pub(super) fn advance(&mut self, n: usize) {
        self.len += n;
        debug_assert!(self.len <= self.blocks.len() * BLOCK_TOKENS);
    }

    /// Shortens to `len` tokens; answers a block that is no longer needed, call again until none is left.
    pub(super) fn pop_beyond(&mut self, len: usize) -> Option<BlockId> {
        self.len = self.len.min(len);
        self.border = self.border.filter(|&border| border <= self.len);
        let kept = len.div_ceil(BLOCK_TOKENS);
        if self.blocks.len() > kept.max(self.first) {
            return self.blocks.pop();
        }
        self.blocks.truncate(kept);
        self.first = self.first.min(self.blocks.len());
        None
    }

    /// Leaves out the first `n` blocks, which nobody is going to read.
    pub(super) fn skip(&mut self, n: usize) {
        self.blocks.resize(n, BlockId::new(u32::MAX));
        self.first = n;
    }

    /// Gives up the first block; answers its place and which it is.
    pub(super) fn pop_first(&mut self) -> Option<(usize, BlockId)> {
        let index = self.first;
        let block = *self.blocks.get(index)?;
        self.first += 1;
        Some((index, block))
    }
}
