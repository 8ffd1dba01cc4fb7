//! The second tier as a cache sees it: where blocks go that memory gives up, and come back from.
//!
//! A cache of one group has one. With windows a prefix would need the blocks of all groups at its end.

use std::sync::Arc;
use std::time::Instant;

use super::KvCache;
use super::geometry::BLOCK_TOKENS;
use super::pool::BlockId;
use super::prefix::{BlockName, Key, Secret};
use super::tier::Tier;

/// What memory and the second tier hold of a prompt, together.
#[derive(Debug, Default)]
pub struct ColdPrefix {
    /// Full blocks that only the tier has, in order. All before them are in memory or among these.
    pub missing: Vec<BlockName>,
    /// Those that memory has.
    pub present: Vec<BlockId>,
    /// Keys of all full blocks, the first one first.
    pub keys: Vec<Key>,
}

impl KvCache {
    /// Whether a second tier can serve it: it has one group.
    pub fn can_have_tier(&self) -> bool {
        self.groups.len() == 1
    }

    /// Hands blocks that memory gives up to a second tier.
    pub fn with_tier(mut self, tier: Arc<Tier>) -> Self {
        if self.can_have_tier() {
            self.groups[0].tier = Some(tier);
        }
        self
    }

    /// The second tier.
    pub fn tier(&self) -> Option<&Arc<Tier>> {
        self.groups[0].tier.as_ref()
    }

    /// The longest prefix of full blocks below `root` that memory and the tier have together.
    pub fn find_cold(&self, root: Key, tokens: &[u32]) -> ColdPrefix {
        let mut found = ColdPrefix::default();
        let (Some(tier), Some(index)) = (self.tier(), self.index()) else {
            return found;
        };
        let mut parent = root;
        for tokens in tokens.chunks_exact(BLOCK_TOKENS) {
            let Some(name) = index.name(root, parent, tokens) else {
                break;
            };
            match index.block(&name) {
                Some(block) => found.present.push(block),
                None if tier.contains(&name) => found.missing.push(name),
                None => break,
            }
            found.keys.push(name.key);
            parent = name.key;
        }
        found
    }

    /// Brings a block back from the tier. It is in use until [`KvCache::let_go`]; `None` when there is no memory for it.
    pub fn bring_in(&mut self, name: &BlockName, data: &[u8]) -> Option<BlockId> {
        let (_, block) = self.groups[0].import_block(name.root, name.parent, &name.tokens, data)?;
        Some(block)
    }

    /// Keeps cached blocks in use until [`KvCache::let_go`].
    pub fn hold(&mut self, blocks: &[BlockId]) {
        blocks.iter().for_each(|block| self.groups[0].retain(*block));
    }

    /// Ends the use of blocks that were brought in one after the other; they stay cached.
    pub fn let_go(&mut self, blocks: &[BlockId]) {
        // The last first: no block is ever more recent than its ancestors.
        blocks
            .iter()
            .rev()
            .for_each(|block| self.groups[0].release(*block));
    }

    /// Makes keys with another secret from now on; what is cached is forgotten.
    pub fn rename(&mut self, secret: &Secret) {
        for group in &mut self.groups {
            group.forget_cached(None);
            if let Some(index) = &mut group.index {
                index.rename(secret.clone());
            }
        }
    }

    /// Hands what is cached to the tier, the most valuable blocks first, as long as the tier has room and time is left.
    /// Nothing is cached in memory then.
    pub fn spill_all(&mut self, deadline: Instant) {
        let group = &mut self.groups[0];
        let (Some(tier), Some(index)) = (&group.tier, &mut group.index) else {
            return;
        };
        let mut blocks = Vec::new();
        while let Some((block, name)) = index.evict() {
            group.pool.set_indexed(block, None);
            blocks.extend(name.map(|name| (block, name)));
        }
        let room = tier.stats().budget / group.pool.geometry().block_bytes().max(1) as u64;
        for (block, name) in blocks.iter().rev().take(room as usize) {
            if !tier.offer_until(name, group.pool.block(*block), deadline) && Instant::now() >= deadline {
                return;
            }
        }
    }
}
