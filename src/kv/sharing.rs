//! Blocks of a group with more than one owner: the prefix index, and where memory comes from when none is free.

use std::time::Instant;

use super::geometry::BLOCK_TOKENS;
use super::group::Group;
use super::pool::{BlockId, KvFull};
use super::prefix::{BlockName, Insert, Key, Prefix, PrefixIndex};
use super::table::SequenceId;
use super::tier::Tier;

impl Group {
    /// Blocks that nobody uses and that [`Group::adopt`] would bring into use.
    pub(super) fn awakened(&self, prefix: &Prefix) -> usize {
        let blocks = prefix.blocks.iter().map(|(_, block)| *block);
        let partial = prefix.partial.map(|(_, block, _)| block);
        blocks.chain(partial).filter(|&b| self.pool.users(b) == 0).count()
    }

    /// Replaces what the sequence holds by a prefix found just now, which it shares from here on. Blocks that it fills
    /// can be indexed below `root`.
    pub(super) fn adopt(&mut self, sequence: SequenceId, root: Key, prefix: &Prefix) {
        // Users first: the old blocks may be among the new ones.
        let blocks = prefix.blocks.iter().map(|(_, block)| *block);
        for block in blocks.clone().chain(prefix.partial.map(|(_, block, _)| block)) {
            self.retain(block);
        }
        self.truncate(sequence, 0);
        let table = &mut self.tables[sequence.index()];
        table.skip(prefix.first);
        blocks.clone().for_each(|block| table.push(block));
        table.sealed = prefix.first + prefix.blocks.len();
        if let Some((_, block, _)) = prefix.partial {
            table.push(block);
        }
        table.advance(prefix.len());
        table.chain = Some(prefix.chain().unwrap_or(root));
        if let Some(index) = &mut self.index {
            index.touch(prefix);
        }
    }

    /// Blocks the sequence has for itself or shares for good; a partly filled one that it must copy does not count.
    pub(super) fn held_blocks(&self, sequence: SequenceId) -> usize {
        let table = &self.tables[sequence.index()];
        let copies = table.partial().is_some_and(|block| self.is_shared(block));
        table.blocks().len() - table.first() - usize::from(copies)
    }

    /// Indexes the blocks that are full and not indexed yet. `tokens` are those of the sequence from its beginning,
    /// `root` the one it was adopted with.
    pub(super) fn seal(&mut self, sequence: SequenceId, root: Key, tokens: &[u32]) {
        loop {
            let table = &self.tables[sequence.index()];
            let begin = table.sealed * BLOCK_TOKENS;
            let end = begin + BLOCK_TOKENS;
            let (Some(parent), true) = (table.chain, end <= table.len().min(tokens.len())) else {
                return;
            };
            let Some(key) = self.offer(sequence, root, parent, &tokens[begin..end]) else {
                self.tables[sequence.index()].chain = None;
                return;
            };
            let table = &mut self.tables[sequence.index()];
            table.sealed += 1;
            table.chain = Some(key);
        }
    }

    /// Indexes all that it can of a sequence that ends, the last, partly filled block included.
    pub(super) fn keep_end(&mut self, sequence: SequenceId, root: Key, tokens: &[u32]) {
        self.seal(sequence, root, tokens);
        let table = &self.tables[sequence.index()];
        let (begin, end) = (table.sealed * BLOCK_TOKENS, table.len().min(tokens.len()));
        if let Some(parent) = table.chain.filter(|_| begin < end) {
            self.offer(sequence, root, parent, &tokens[begin..end]);
        }
        self.keep_last(sequence);
    }

    /// Indexes the first unsealed block. Answers its key, or `None` when the chain cannot go on.
    fn offer(&mut self, sequence: SequenceId, root: Key, parent: Key, tokens: &[u32]) -> Option<Key> {
        let position = self.tables[sequence.index()].sealed;
        let block = self.tables[sequence.index()].at(position);
        match self.enter(root, parent, tokens, block)? {
            Insert::New(id, _) if self.pool.indexed(block).is_some() => {
                // A shared block that nothing was written to keeps the entry it has.
                self.index.as_mut()?.remove(id);
                None
            }
            Insert::New(id, key) => {
                self.pool.set_indexed(block, Some(id));
                Some(key)
            }
            Insert::Known(_, known, key) if known != block => {
                // Two sequences computed the same, bit for bit: one copy is enough.
                self.retain(known);
                self.tables[sequence.index()].replace(position, known);
                self.release(block);
                Some(key)
            }
            Insert::Known(_, _, key) => Some(key),
            Insert::Covered => None,
        }
    }

    /// Replaces what the sequence `to` holds by the first `len` tokens of another one, of which the next row sees
    /// nothing that is gone.
    pub(super) fn share(&mut self, from: SequenceId, to: SequenceId, len: usize) {
        self.truncate(to, 0);
        let first = self.tables[from.index()].first();
        self.tables[to.index()].skip(first);
        for i in first..len.div_ceil(BLOCK_TOKENS) {
            let block = self.tables[from.index()].at(i);
            self.retain(block);
            self.tables[to.index()].push(block);
        }
        let (sealed, chain) = {
            let table = &self.tables[from.index()];
            (table.sealed, table.chain)
        };
        let table = &mut self.tables[to.index()];
        table.advance(len);
        (table.sealed, table.chain) = (sealed, chain);
        self.forget_seals(to);
    }

    /// Forgets what memory has cached below a root, or all of it.
    pub(super) fn forget_cached(&mut self, root: Option<Key>) {
        let Some(index) = &mut self.index else { return };
        for (id, block) in index.entries(root) {
            index.remove(id);
            self.pool.set_indexed(block, None);
        }
    }

    /// A free block, or the memory of a cached one.
    pub(super) fn take(&mut self) -> Result<BlockId, KvFull> {
        let full = match self.pool.take() {
            Ok(block) => return Ok(block),
            Err(full) => full,
        };
        if !self.evict() {
            return Err(full);
        }
        self.pool.take()
    }

    /// Makes a cached block free, if there is one; a full one is offered to the second tier.
    pub(super) fn evict(&mut self) -> bool {
        self.evict_to(|tier, name, data| tier.offer(name, data))
    }

    /// The same, but the tier may take its time until a moment.
    pub(super) fn evict_until(&mut self, deadline: Instant) -> bool {
        self.evict_to(|tier, name, data| tier.offer_until(name, data, deadline))
    }

    fn evict_to(&mut self, offer: impl FnOnce(&Tier, &BlockName, &[u8]) -> bool) -> bool {
        let Some((block, name)) = self.index.as_mut().and_then(PrefixIndex::evict) else {
            return false;
        };
        if let (Some(tier), Some(name)) = (&self.tier, name) {
            offer(tier, &name, self.pool.block(block));
        }
        self.pool.set_indexed(block, None);
        true
    }

    pub(super) fn retain(&mut self, block: BlockId) {
        self.pool.retain(block);
        if self.pool.users(block) == 1
            && let (Some(index), Some(id)) = (&mut self.index, self.pool.indexed(block))
        {
            index.pin(id);
        }
    }

    pub(super) fn release(&mut self, block: BlockId) {
        let node = self.pool.indexed(block);
        if self.pool.release(block)
            && let (Some(index), Some(id)) = (&mut self.index, node)
        {
            index.unpin(id);
        }
    }

    /// Whether writing to the block would be seen by somebody else.
    pub(super) fn is_shared(&self, block: BlockId) -> bool {
        self.pool.users(block) > 1 || self.pool.indexed(block).is_some()
    }

    /// After a truncation: a sequence that lost sealed blocks is not indexed any further, because the key of its end
    /// is not known any more.
    pub(super) fn forget_seals(&mut self, sequence: SequenceId) {
        let table = &mut self.tables[sequence.index()];
        let full = table.len() / BLOCK_TOKENS;
        if table.sealed > full {
            table.sealed = full;
            table.chain = None;
        }
    }
}
