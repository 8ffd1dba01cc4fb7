//! Copies of cached prefixes: out of the pool, and back into it.

use super::geometry::BLOCK_TOKENS;
use super::group::Group;
use super::pool::BlockId;
use super::prefix::{Insert, Key, Prefix, PrefixIndex};
use crate::memory::{self, MemoryError};

impl Group {
    /// Appends the blocks of a prefix found just now. Slots of the last one that hold other tokens come as zeros.
    pub(super) fn export(&self, prefix: &Prefix, out: &mut Vec<u8>) -> Result<(), MemoryError> {
        let geometry = self.pool.geometry();
        let n = prefix.len().div_ceil(BLOCK_TOKENS);
        let bytes = n.saturating_mul(geometry.block_bytes());
        memory::reserve(out, bytes, "a copy of key/value blocks")?;
        for (_, block) in &prefix.blocks {
            out.extend_from_slice(self.pool.block(*block));
        }
        if let Some((_, block, tokens)) = prefix.partial {
            let start = out.len();
            out.extend_from_slice(self.pool.block(block));
            geometry.clear_slots(&mut out[start..], tokens);
        }
        Ok(())
    }

    /// Caches blocks that [`Group::export`] gave for these tokens, as far as they fit beside those in use; others are
    /// evicted for them.
    pub(super) fn import(&mut self, root: Key, tokens: &[u32], blocks: &[u8]) {
        let bytes = self.pool.geometry().block_bytes().max(1);
        let mut held = Vec::new();
        let mut parent = root;
        for (tokens, bytes) in tokens.chunks(BLOCK_TOKENS).zip(blocks.chunks_exact(bytes)) {
            if held.try_reserve(1).is_err() {
                break;
            }
            let Some((key, block)) = self.import_block(root, parent, tokens, bytes) else {
                break;
            };
            held.push(block);
            parent = key;
        }
        // The last first: no block is ever more recent than its ancestors.
        held.into_iter().rev().for_each(|block| self.release(block));
    }

    /// Answers the block that holds these tokens after `parent`, in use, and its key.
    pub(super) fn import_block(
        &mut self,
        root: Key,
        parent: Key,
        tokens: &[u32],
        bytes: &[u8],
    ) -> Option<(Key, BlockId)> {
        let known = self.index.as_ref().and_then(|index| index.known(parent, tokens));
        if let Some((key, block)) = known {
            self.retain(block);
            return Some((key, block));
        }
        let block = self.take().ok()?;
        self.pool.write(block, bytes);
        match self.enter(root, parent, tokens, block) {
            Some(Insert::New(id, key)) => {
                self.pool.set_indexed(block, Some(id));
                Some((key, block))
            }
            Some(Insert::Known(_, known, key)) => {
                self.retain(known);
                self.release(block);
                Some((key, known))
            }
            Some(Insert::Covered) | None => {
                self.release(block);
                None
            }
        }
    }

    /// Offers a block to the index, which forgets those that these tokens continue.
    pub(super) fn enter(&mut self, root: Key, parent: Key, tokens: &[u32], block: BlockId) -> Option<Insert> {
        let index: &mut PrefixIndex = self.index.as_mut()?;
        let mut kept = false;
        while let Some(old) = index.superseded(parent, tokens) {
            kept |= index.is_kept(old);
            if let Some(block) = index.remove(old) {
                self.pool.set_indexed(block, None);
            }
        }
        let entered = index.insert(root, parent, tokens, block);
        if let (true, Insert::New(id, _)) = (kept, entered) {
            index.keep(id);
        }
        Some(entered)
    }
}
