//! Prefixes of the whole cache: the longest that all groups can serve, taken, kept and forgotten in all of them.

use std::time::{Duration, Instant};

use super::group::{Group, GroupKind};
use super::prefix::{Key, Prefix, PrefixIndex, Trail};
use super::table::SequenceId;
use super::{BLOCK_TOKENS, KvCache};
use crate::memory::MemoryError;

/// Longest time that trimming waits for the second tier.
const TRIM_PATIENCE: Duration = Duration::from_secs(1);

impl KvCache {
    /// Keeps blocks of finished sequences and finds them again by their tokens. The index is that of the first group; the others
    /// get indexes like it.
    pub fn with_index(mut self, index: PrefixIndex) -> Self {
        for (number, group) in self.groups.iter_mut().enumerate().skip(1) {
            group.index = Some(index.for_group(number as u32));
        }
        self.groups[0].index = Some(index);
        self
    }

    /// The index of the first group, for its counts and roots. A root of it stands for its salt in all groups.
    pub fn index(&self) -> Option<&PrefixIndex> {
        self.groups[0].index.as_ref()
    }

    /// The longest cached prefix below `root`, without changing anything. The last token is never part of it: its
    /// logits are wanted.
    pub fn find(&self, root: Key, tokens: &[u32]) -> Prefix {
        self.find_within(root, tokens, tokens.len().saturating_sub(1))
    }

    /// The longest cached prefix below `root`, which may be all of the tokens.
    pub fn find_all(&self, root: Key, tokens: &[u32]) -> Prefix {
        self.find_within(root, tokens, tokens.len())
    }

    /// A prefix found just now without its last block, if it is not used whole. What a shorter one needs of a window begins
    /// earlier.
    pub fn find_whole(&self, root: Key, tokens: &[u32], mut prefix: Prefix) -> Prefix {
        if let [only] = &self.groups[..]
            && only.kind == GroupKind::Full
        {
            prefix.partial = None;
        }
        while !prefix.len().is_multiple_of(BLOCK_TOKENS) {
            let limit = prefix.len() / BLOCK_TOKENS * BLOCK_TOKENS;
            prefix = self.find_within(root, tokens, limit);
        }
        prefix
    }

    fn find_within(&self, root: Key, tokens: &[u32], limit: usize) -> Prefix {
        let Some(index) = self.index() else {
            return Prefix::default();
        };
        let mut len = limit.min(tokens.len());
        if self.groups[0].kind == GroupKind::Full {
            let prefix = index.lookup(root, tokens, len);
            if self.groups.len() == 1 {
                return prefix;
            }
            len = prefix.len();
        }
        let tokens = &tokens[..len];
        let trails: Vec<_> = self.groups.iter().filter_map(|g| g.trail(root, tokens)).collect();
        let longest =
            |(kind, trail): &(GroupKind, Trail<'_>), limit| trail.longest(limit, |len| kind.first_block(len));
        // What one group can serve need not be what another one can: it is tried again until all agree.
        loop {
            let agreed = trails.iter().fold(len, |len, trail| longest(trail, len).len());
            if agreed == len {
                break;
            }
            len = agreed;
        }
        let mut parts = trails.iter().map(|trail| longest(trail, len));
        let mut prefix = parts.next().unwrap_or_default();
        prefix.others = parts.collect();
        prefix
    }

    /// Blocks of the first group that nobody uses and that [`KvCache::adopt`] would bring into use.
    pub fn awakened(&self, prefix: &Prefix) -> usize {
        self.groups[0].awakened(prefix)
    }

    /// Blocks of the first group that the sequence has for itself or shares for good; a partly filled one that it must
    /// copy does not count.
    pub fn held_blocks(&self, sequence: SequenceId) -> usize {
        self.groups[0].held_blocks(sequence)
    }

    /// Blocks that are left in the group that has fewest, when each of some sequences has what it needs for so many tokens.
    pub fn room(&self, others: impl Iterator<Item = (SequenceId, usize)> + Clone) -> usize {
        let room = self.groups.iter().map(|group| group.room(others.clone()));
        room.min().unwrap_or(0)
    }

    /// Whether a sequence of so many tokens that begins with `prefix` has room beside others.
    pub fn fits(
        &self,
        others: impl Iterator<Item = (SequenceId, usize)> + Clone,
        tokens: usize,
        prefix: &Prefix,
    ) -> bool {
        self.groups.iter().all(|group| {
            let part = group.part(prefix);
            let found = part.map_or(0, |part| part.blocks.len());
            let fresh = group.blocks_of(tokens).saturating_sub(found);
            let needed = fresh + part.map_or(0, |part| group.awakened(part));
            // The most that is held at a time counts a copy already.
            needed.min(group.blocks_of(usize::MAX)) <= group.room(others.clone())
        })
    }

    /// Replaces what the sequence holds by a prefix found just now, which it shares from here on. Blocks that it fills
    /// can be indexed below `root`.
    pub fn adopt(&mut self, sequence: SequenceId, root: Key, prefix: &Prefix) {
        let nothing = Prefix::default();
        for group in &mut self.groups {
            let root = group.own_root(root);
            group.adopt(sequence, root, group.part(prefix).unwrap_or(&nothing));
        }
    }

    /// Indexes the blocks that are full and not indexed yet. `tokens` are those of the sequence from its beginning,
    /// `root` the one it was adopted with.
    pub fn seal(&mut self, sequence: SequenceId, root: Key, tokens: &[u32]) {
        for group in &mut self.groups {
            group.seal(sequence, group.own_root(root), tokens);
        }
    }

    /// Ends a sequence and keeps what it computed, the last, partly filled block included.
    pub fn close_keeping(&mut self, sequence: SequenceId, root: Key, tokens: &[u32]) {
        for group in &mut self.groups {
            group.keep_end(sequence, group.own_root(root), tokens);
        }
        self.close(sequence);
    }

    /// A new sequence with the same tokens, which shares every block; whoever writes to the last one first copies it.
    /// `None` when no sequence can be opened.
    pub fn fork(&mut self, sequence: SequenceId) -> Option<SequenceId> {
        let new = self.open()?;
        self.share(sequence, new, self.len(sequence));
        Some(new)
    }

    /// Replaces what the sequence `to` holds by the first `len` tokens of another one, as [`KvCache::fork`], or by none where a
    /// window group gave up what the next row would see. Answers how many it has.
    pub fn share(&mut self, from: SequenceId, to: SequenceId, len: usize) -> usize {
        if !self.holds(from, len) {
            return self.truncate(to, 0);
        }
        for group in &mut self.groups {
            group.share(from, to, len);
        }
        len
    }

    /// Gives back memory of blocks that no sequence uses, about `bytes` of it, cached blocks in the order of eviction;
    /// answers how much. The second tier has a moment to take what it can.
    pub fn trim(&mut self, bytes: u64) -> u64 {
        let deadline = Instant::now() + TRIM_PATIENCE;
        let mut freed = 0;
        for group in &mut self.groups {
            freed += group.pool.trim(bytes.saturating_sub(freed));
        }
        for group in &mut self.groups {
            while freed < bytes && group.evict_until(deadline) {
                freed += group.pool.trim(bytes - freed);
            }
        }
        freed
    }

    /// Forgets the cached prefixes of a root, or all of them, in memory and in the second tier.
    pub fn forget_prefixes(&mut self, root: Option<Key>) {
        for group in &mut self.groups {
            group.forget_cached(root.map(|root| group.own_root(root)));
        }
        if let Some(tier) = self.tier() {
            tier.forget(root);
        }
    }

    /// Appends the blocks of a prefix found just now, of the first group: all there is of a cache of one. Slots of the last one
    /// that hold other tokens come as zeros.
    ///
    /// # Errors
    /// When memory is short.
    pub fn export(&self, prefix: &Prefix, out: &mut Vec<u8>) -> Result<(), MemoryError> {
        self.groups[0].export(prefix, out)
    }

    /// Caches blocks that [`KvCache::export`] gave for these tokens, as far as they fit beside those in use; others are
    /// evicted for them. Answers how many of the tokens are cached then.
    pub fn import(&mut self, root: Key, tokens: &[u32], blocks: &[u8]) -> usize {
        self.groups[0].import(root, tokens, blocks);
        self.find_all(root, tokens).len()
    }
}

impl Group {
    /// Which blocks along the tokens it knows, and how far back a row sees.
    fn trail<'a>(&'a self, root: Key, tokens: &'a [u32]) -> Option<(GroupKind, Trail<'a>)> {
        let trail = self.index.as_ref()?.trail(self.own_root(root), tokens);
        Some((self.kind, trail))
    }

    /// Blocks that are left when each of some sequences has what it needs for so many tokens.
    fn room(&self, others: impl Iterator<Item = (SequenceId, usize)>) -> usize {
        let more = |(sequence, tokens)| self.blocks_of(tokens).saturating_sub(self.held_blocks(sequence));
        let promised: usize = others.map(more).sum();
        self.pool.capacity().saturating_sub(self.pool.used() + promised)
    }
}
