//! The cold tier of a store: sealed blocks that memory gave up.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::index::{Found, Hold, Sealed};
use super::{BLOCK_TOKENS, Key, PolicyKind, Shared};
use crate::error::Result;
use crate::kv::prefix::{BlockName, Fingerprint};
use crate::kv::tier::{Fetch, Open, StorageOptions, Tier, TierOptions};
use crate::options::KvCacheOptions;

/// Opens the tier that the options ask for.
pub(super) fn open(
    options: &KvCacheOptions,
    fingerprint: &Fingerprint,
    block_bytes: usize,
) -> Result<Option<Tier>> {
    let storage = StorageOptions {
        budget: options.cold_bytes,
        policy: PolicyKind::from_name(options.cold_policy).unwrap_or(PolicyKind::Adaptive),
        fingerprint: fingerprint.clone(),
        block_bytes,
    };
    let open: Open = match &options.cold_storage {
        Some(own) => {
            let own = Arc::clone(own);
            Box::new(move || own(&storage))
        }
        None if options.test_mode => storage.in_memory(),
        None if options.cold_dir.is_empty() => return Ok(None),
        None => storage.in_directory(PathBuf::from(&options.cold_dir)),
    };
    let tier = Tier::new(TierOptions {
        open,
        block_bytes,
        queue_bytes: options.cold_queue_bytes,
        persist: options.cold_persist,
        patience: Duration::from_millis(options.cold_patience_ms),
        log: options.log.clone(),
    })?;
    Ok(Some(tier))
}

/// A block of a prefix, behind what memory has from its beginning.
enum Step {
    Memory(Hold),
    Tier(BlockName),
}

impl Shared {
    /// Goes on where memory ends: reads back what the tier has, as far as memory has room, and what memory has behind
    /// that. The tier reads ahead while blocks are put into memory.
    pub(super) fn find_cold(&self, tier: &Tier, root: Key, tokens: &[u32], found: &mut Found) {
        let steps = self.plan(tier, root, tokens, found);
        let missing = steps.iter().filter_map(|step| match step {
            Step::Tier(name) => Some(*name),
            Step::Memory(_) => None,
        });
        let missing: Vec<_> = missing.collect();
        if missing.is_empty() {
            tier.count_lookup(0);
            return;
        }
        let fetch = tier.fetch(missing);
        let mut read = Vec::new();
        let mut steps = steps.into_iter();
        for step in steps.by_ref() {
            let hold = match step {
                Step::Memory(hold) => hold,
                Step::Tier(_) => {
                    let Some(hold) = self.receive(&fetch) else {
                        break;
                    };
                    read.push(hold.key);
                    hold
                }
            };
            found.blocks.push(hold);
        }
        drop(fetch);
        // What is not reached is let go from its end: no block is ever more recent than its ancestors.
        steps.rev().for_each(drop);
        if let Some(last) = found.blocks.last().filter(|_| !read.is_empty()) {
            let rest = &tokens[found.blocks.len() * BLOCK_TOKENS..];
            let more = self.index.lookup(last.key, rest);
            found.blocks.extend(more.blocks);
            found.partial = more.partial;
        }
        tier.count_lookup(read.len() * BLOCK_TOKENS);
        read.reverse();
        tier.touch(&read);
    }

    /// The blocks behind `found` that memory and the tier have together, as far as memory has room.
    fn plan(&self, tier: &Tier, root: Key, tokens: &[u32], found: &Found) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut parent = found.blocks.last().map_or(root, |hold| hold.key);
        let mut rest = &tokens[found.blocks.len() * BLOCK_TOKENS..];
        let mut wanted = 0;
        while let Some((block, behind)) = rest.split_first_chunk::<BLOCK_TOKENS>() {
            let Some(name) = self.index.name(root, parent, block) else {
                break;
            };
            // What is found in memory is in use from then on.
            let in_use = self.pool.live().saturating_sub(self.index.cached());
            if in_use + wanted >= self.pool.capacity() || !tier.contains(&name) {
                break;
            }
            wanted += 1;
            steps.push(Step::Tier(name));
            let more = self.index.lookup(name.key, behind).blocks;
            parent = more.last().map_or(name.key, |hold| hold.key);
            rest = &behind[more.len() * BLOCK_TOKENS..];
            steps.extend(more.into_iter().map(Step::Memory));
        }
        steps
    }

    /// Puts the block that comes next into memory.
    fn receive(&self, fetch: &Fetch) -> Option<Hold> {
        // Without memory for it the prefix ends here.
        let mut block = self.take_block().ok()?;
        let mut loaded = fetch.next()?;
        if !loaded.exchange(block.memory()?) {
            return None;
        }
        let BlockName {
            root, parent, tokens, ..
        } = loaded.name;
        drop(loaded);
        block.set_tokens(BLOCK_TOKENS);
        block.freeze();
        match self.index.insert(root, parent, &tokens, &Arc::new(block)) {
            Sealed::New(hold) | Sealed::Known(hold) => Some(hold),
            Sealed::Refused => None,
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let (Some(tier), Some(patience)) = (&self.tier, self.persist) else {
            return;
        };
        let deadline = Instant::now() + patience;
        for (name, block) in self.index.all() {
            if let Some(bytes) = block.frozen() {
                tier.offer_until(&name, bytes, deadline);
            }
        }
    }
}
