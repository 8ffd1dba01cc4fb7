//! The cold tier of a store: sealed blocks that memory gave up.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::index::{Found, Sealed};
use super::{BLOCK_TOKENS, Key, PolicyKind, Shared};
use crate::error::Result;
use crate::kv::prefix::Fingerprint;
use crate::kv::tier::{Open, StorageOptions, Tier, TierOptions};
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

impl Shared {
    /// Goes on where memory ends: reads back what the tier has, as far as memory has room, and what memory has behind
    /// that.
    pub(super) fn find_cold(&self, tier: &Tier, root: Key, tokens: &[u32], found: &mut Found) {
        let mut read = Vec::new();
        while let Some(block) = tokens.as_chunks::<BLOCK_TOKENS>().0.get(found.blocks.len()) {
            let parent = found.blocks.last().map_or(root, |hold| hold.key);
            let Some(hold) = self.read_back(tier, root, parent, block) else {
                break;
            };
            read.push(hold.key);
            let rest = &tokens[(found.blocks.len() + 1) * BLOCK_TOKENS..];
            let more = self.index.lookup(hold.key, rest);
            found.blocks.push(hold);
            found.blocks.extend(more.blocks);
            found.partial = more.partial;
        }
        tier.count_lookup(read.len() * BLOCK_TOKENS);
        read.reverse();
        tier.touch(&read);
    }

    /// Reads the block with these tokens after `parent` into memory.
    fn read_back(
        &self,
        tier: &Tier,
        root: Key,
        parent: Key,
        tokens: &[u32; BLOCK_TOKENS],
    ) -> Option<super::index::Hold> {
        let name = self.index.name(root, parent, tokens)?;
        if !tier.contains(&name) {
            return None;
        }
        // Without memory for it the prefix ends here.
        let block = self.take_block().ok()?;
        let mut read = false;
        block.write(|bytes| read = tier.read(&name, bytes));
        if !read {
            return None;
        }
        block.set_tokens(BLOCK_TOKENS);
        block.freeze();
        match self.index.insert(root, parent, tokens, &Arc::new(block)) {
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
