//! Groups whose rows see a window: what leaves it, and what of it is worth keeping.

use std::ops::Range;

use super::KvCache;
use super::geometry::BLOCK_TOKENS;
use super::group::{Group, GroupKind, ROLL_BACK};
use super::prefix::Key;
use super::table::SequenceId;

impl KvCache {
    /// Gives up the blocks that left the windows of a sequence. Those of one that takes part in the prefix cache, whose root and
    /// tokens are given, are indexed before: they stay until memory is needed. Without windows it does nothing.
    pub fn slide(&mut self, sequence: SequenceId, prefixes: Option<(Key, &[u32])>) {
        for group in &mut self.groups {
            if group.kind != GroupKind::Full {
                let prefixes = prefixes.map(|(root, tokens)| (group.own_root(root), tokens));
                group.slide(sequence, prefixes);
            }
        }
    }

    /// Notes that a prompt ends where the sequence does now. Later ones are likely to go on from here, so what a row here sees
    /// is not the first to be evicted when it left the window.
    pub fn checkpoint(&mut self, sequence: SequenceId) {
        for group in &mut self.groups {
            let table = &mut group.tables[sequence.index()];
            table.border = Some(table.len());
        }
    }
}

impl GroupKind {
    /// The blocks that rows see after a prefix of `len` tokens, or of the full blocks of it.
    fn seen_from(self, len: usize) -> Range<usize> {
        self.first_block(len / BLOCK_TOKENS * BLOCK_TOKENS)..len.div_ceil(BLOCK_TOKENS)
    }
}

impl Group {
    fn slide(&mut self, sequence: SequenceId, prefixes: Option<(Key, &[u32])>) {
        let table = &self.tables[sequence.index()];
        let first = self.kind.first_block(table.len().saturating_sub(ROLL_BACK));
        if first <= table.first() {
            return;
        }
        if let Some((root, tokens)) = prefixes {
            self.seal(sequence, root, tokens);
        }
        let border = self.tables[sequence.index()].border;
        let border = border.map_or(0..0, |border| self.kind.seen_from(border));
        while self.tables[sequence.index()].first() < first
            && let Some((place, block)) = self.tables[sequence.index()].pop_first()
        {
            let node = self.pool.indexed(block);
            if let (Some(index), Some(id), true) = (&mut self.index, node, border.contains(&place)) {
                index.keep(id);
            }
            if self.pool.release(block)
                && let (Some(index), Some(id)) = (&mut self.index, node)
            {
                index.unpin_passed(id);
            }
        }
    }

    /// Makes what a sequence holds at its end checkpoints.
    pub(super) fn keep_last(&mut self, sequence: SequenceId) {
        if self.kind == GroupKind::Full {
            return;
        }
        let table = &self.tables[sequence.index()];
        for place in table.first()..table.blocks().len() {
            let node = self.pool.indexed(table.at(place));
            if let (Some(index), Some(id)) = (&mut self.index, node) {
                index.keep(id);
            }
        }
    }
}
