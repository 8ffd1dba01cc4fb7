//! Keys and values of running sequences, in blocks of [`BLOCK_TOKENS`] tokens.
//!
//! A [`pool::Pool`] owns the memory, a [`table::BlockTable`] says which blocks hold a sequence, and [`KvCache`] is
//! what a forward pass sees: store the keys and values of a row, read those of a block. Layers whose blocks live and die
//! together are a [`Group`], with a pool, tables and a [`prefix`] index of its own: those of full attention keep
//! every block, those with a window give up what left it.
//!
//! Sequences share blocks: a full block is never written again, and whoever goes on from the middle of a shared block
//! copies it first. With an index, the blocks of finished sequences stay until their memory is needed.

mod cold;
mod geometry;
mod group;
mod pool;
pub mod prefix;
mod prefixes;
mod sharing;
pub mod store;
mod table;
pub mod tier;
mod transfer;
mod window;

pub use cold::ColdPrefix;
pub use geometry::{BLOCK_TOKENS, Geometry, LayerShape};
pub use group::{Group, GroupKind};
pub use pool::{BlockId, KvFull, Pool};
pub use table::{BlockTable, SequenceId};

use crate::error::Result;
use crate::kernel::Kernels;

/// The cache of a model: a group for all layers of one kind, within one budget.
#[derive(Debug)]
pub struct KvCache {
    /// That of full attention first, where there is one.
    groups: Vec<Group>,
    layers: Vec<Place>,
    unused_tables: Vec<SequenceId>,
}

/// Where a layer's keys and values are.
#[derive(Debug, Clone, Copy)]
struct Place {
    group: usize,
    /// Its number among the layers of the group.
    layer: usize,
}

/// What the groups hold, added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of blocks in use.
    pub bytes_used: u64,
    /// Bytes of blocks that nobody uses and an index names.
    pub bytes_cached: u64,
    /// Bytes of all blocks there may be.
    pub bytes_budget: u64,
    /// Token slots of the blocks in use.
    pub slots: usize,
    /// Tokens in them; those of a block that several sequences share count once.
    pub tokens: usize,
    /// Blocks that indexes gave up.
    pub evictions: u64,
}

impl KvCache {
    /// A cache for up to `max_sequences` sequences of up to `max_tokens` tokens within `budget` bytes. Layers of the geometry with
    /// windows have room for whole sequences too; [`KvCache::for_steps`] saves it.
    ///
    /// # Errors
    /// When not even one block of each group fits the budget, or memory is short.
    pub fn new(geometry: Geometry, max_sequences: usize, max_tokens: usize, budget: u64) -> Result<Self> {
        Self::for_steps(&geometry, max_sequences, max_tokens, max_tokens, budget)
    }

    /// A cache for sequences that grow by up to `step` tokens between two calls of [`KvCache::slide`]. The groups divide the
    /// budget in proportion to the most that a sequence of `max_tokens` tokens has of each at a time.
    ///
    /// # Errors
    /// As [`KvCache::new`].
    pub fn for_steps(
        geometry: &Geometry,
        max_sequences: usize,
        max_tokens: usize,
        step: usize,
        budget: u64,
    ) -> Result<Self> {
        let whole = geometry.sequence_bytes(max_tokens, step)?.max(1);
        let mut layers = crate::memory::filled(Place { group: 0, layer: 0 }, geometry.n_layers(), "layers")?;
        let mut groups = Vec::new();
        for (group, (kind, geometry, members)) in geometry.groups()?.into_iter().enumerate() {
            for (layer, member) in members.into_iter().enumerate() {
                layers[member] = Place { group, layer };
            }
            let own = kind.most_blocks(max_tokens, step) as u64;
            let own = own.saturating_mul(geometry.block_bytes() as u64);
            let share = if own == whole {
                budget
            } else {
                (u128::from(budget) * u128::from(own) / u128::from(whole)) as u64
            };
            groups.push(Group::new(
                group as u32,
                (kind, geometry),
                max_sequences,
                (max_tokens, step),
                share,
            )?);
        }
        let mut unused_tables = crate::memory::with_capacity(max_sequences, "block tables")?;
        unused_tables.extend((0..max_sequences).rev().map(|i| SequenceId(i as u32)));
        Ok(Self {
            groups,
            layers,
            unused_tables,
        })
    }

    /// Whether all layers are of full attention: one group that keeps every block.
    pub fn is_plain(&self) -> bool {
        self.groups.len() == 1 && self.groups[0].kind == GroupKind::Full
    }

    /// The pool of the first group, for its counts.
    pub fn pool(&self) -> &Pool {
        &self.groups[0].pool
    }

    /// What all groups hold.
    pub fn usage(&self) -> Usage {
        let mut all = Usage::default();
        for group in &self.groups {
            let (pool, bytes) = (&group.pool, group.pool.geometry().block_bytes() as u64);
            all.bytes_used += pool.used() as u64 * bytes;
            all.bytes_cached += pool.cached() as u64 * bytes;
            all.bytes_budget = all
                .bytes_budget
                .saturating_add((pool.capacity() as u64).saturating_mul(bytes));
            all.slots += pool.used() * BLOCK_TOKENS;
            all.tokens += group.tokens();
            all.evictions += group.index.as_ref().map_or(0, prefix::PrefixIndex::evictions);
        }
        all
    }

    /// Bytes of keys and values per token, in all groups.
    pub fn token_bytes(&self) -> usize {
        let groups = self.groups.iter();
        groups.map(|g| g.pool.geometry().token_bytes()).sum()
    }

    /// Blocks that are free or cached in the group that has fewest of them.
    pub fn available(&self) -> usize {
        let available = self.groups.iter().map(|g| g.pool.free() + g.pool.cached());
        available.min().unwrap_or(0)
    }

    /// Blocks in use and all blocks, of the group that is fullest.
    pub fn fullest(&self) -> (usize, usize) {
        let counts = self.groups.iter().map(|g| (g.pool.used(), g.pool.capacity()));
        let share = |(used, capacity): &(usize, usize)| *used as f64 / (*capacity).max(1) as f64;
        counts
            .max_by(|a, b| share(a).total_cmp(&share(b)))
            .unwrap_or_default()
    }

    /// Tokens a sequence may have so that it always fits alone.
    pub fn max_tokens(&self) -> usize {
        let most = self.groups.iter().map(Group::max_tokens);
        most.min().unwrap_or(0)
    }

    /// A new, empty sequence; `None` when `max_sequences` are open.
    pub fn open(&mut self) -> Option<SequenceId> {
        self.unused_tables.pop()
    }

    /// Ends a sequence and releases its blocks; those that the index knows stay cached.
    pub fn close(&mut self, sequence: SequenceId) {
        self.truncate(sequence, 0);
        for group in &mut self.groups {
            group.tables[sequence.index()].chain = None;
        }
        self.unused_tables.push(sequence);
    }

    /// Tokens held by a sequence.
    pub fn len(&self, sequence: SequenceId) -> usize {
        self.groups[0].tables[sequence.index()].len()
    }

    /// Blocks at the beginning that two sequences share in layers of full attention.
    pub fn common_blocks(&self, a: SequenceId, b: SequenceId) -> usize {
        let group = &self.groups[0];
        if group.kind != GroupKind::Full {
            return 0;
        }
        let (a, b) = (&group.tables[a.index()], &group.tables[b.index()]);
        let pairs = a.blocks().iter().zip(b.blocks());
        pairs.take_while(|(a, b)| a == b).count()
    }

    /// Tokens held in the blocks in use, in all groups; those of a block that several sequences share count once.
    pub fn tokens(&self) -> usize {
        self.groups.iter().map(Group::tokens).sum()
    }

    /// Makes room for `additional` more tokens. On failure the sequence keeps what it had, and possibly some of the
    /// new blocks when the system refused memory half way.
    ///
    /// # Errors
    /// [`KvFull`] when too few blocks of a group are free or cached.
    pub fn reserve(&mut self, sequence: SequenceId, additional: usize) -> Result<(), KvFull> {
        for group in &self.groups {
            group.check_room(sequence, additional)?;
        }
        for group in &mut self.groups {
            group.grow(sequence, additional)?;
        }
        Ok(())
    }

    /// Declares `n` more tokens stored.
    pub fn advance(&mut self, sequence: SequenceId, n: usize) {
        for group in &mut self.groups {
            group.tables[sequence.index()].advance(n);
        }
    }

    /// Forgets all tokens from position `len` on and releases blocks that are no longer needed. Where a window group gave up
    /// what the next row would see, which it does not within the last 32 tokens before the last [`KvCache::slide`], all
    /// tokens are forgotten. Answers how many are left.
    pub fn truncate(&mut self, sequence: SequenceId, len: usize) -> usize {
        let len = if self.holds(sequence, len) { len } else { 0 };
        for group in &mut self.groups {
            group.truncate(sequence, len);
        }
        self.len(sequence)
    }

    /// Whether all groups have what the row at position `len` of a sequence sees.
    fn holds(&self, sequence: SequenceId, len: usize) -> bool {
        self.groups.iter().all(|group| group.holds(sequence, len))
    }

    /// Stores the keys and values of one token: `k` is `n_kv_heads × head_dim_k`, `v` is `n_kv_heads × head_dim_v`.
    /// The position must be reserved.
    pub fn store(
        &mut self,
        kernels: &Kernels,
        sequence: SequenceId,
        layer: usize,
        position: usize,
        k: &[f32],
        v: &[f32],
    ) {
        let place = self.layers[layer];
        self.groups[place.group].store(kernels, sequence, place.layer, position, k, v);
    }

    /// The group of a layer, and the layer's number there.
    pub fn layer(&self, layer: usize) -> (&Group, usize) {
        let place = self.layers[layer];
        (&self.groups[place.group], place.layer)
    }

    /// Key columns of one head in the block that holds position `index * BLOCK_TOKENS`.
    pub fn keys(&self, sequence: SequenceId, layer: usize, head: usize, index: usize) -> &[u8] {
        let (group, layer) = self.layer(layer);
        group.keys(sequence, layer, head, index)
    }

    /// Value rows, likewise.
    pub fn values(&self, sequence: SequenceId, layer: usize, head: usize, index: usize) -> &[u8] {
        let (group, layer) = self.layer(layer);
        group.values(sequence, layer, head, index)
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod window_tests;
