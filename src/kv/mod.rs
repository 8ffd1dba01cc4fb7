//! Keys and values of running sequences, in blocks of [`BLOCK_TOKENS`] tokens.
//!
//! A [`pool::Pool`] owns the memory, a [`table::BlockTable`] says which blocks hold a sequence, and [`KvCache`] is
//! what a forward pass sees: store the keys and values of a row, read those of a block. There is one layer group so
//! far, full attention; a group has its own pool, geometry and [`prefix`] index, so that windows, latents and recurrent
//! states can join with other lifetimes.
//!
//! Sequences share blocks: a full block is never written again, and whoever goes on from the middle of a shared block
//! copies it first. With an index, the blocks of finished sequences stay until their memory is needed.

mod cold;
mod geometry;
mod pool;
pub mod prefix;
mod sharing;
pub mod store;
mod table;
pub mod tier;
mod transfer;

pub use cold::ColdPrefix;
pub use geometry::{BLOCK_TOKENS, Geometry, LayerShape};
pub use pool::{BlockId, KvFull, Pool};
use prefix::PrefixIndex;
pub use table::{BlockTable, SequenceId};

use std::sync::Arc;

use crate::error::Result;
use crate::kernel::Kernels;
use tier::Tier;

/// The cache of one layer group: a pool of blocks and the tables of the sequences that use them.
#[derive(Debug)]
pub struct KvCache {
    pool: Pool,
    tables: Vec<BlockTable>,
    unused_tables: Vec<SequenceId>,
    index: Option<PrefixIndex>,
    /// Where full blocks go that memory gives up.
    tier: Option<Arc<Tier>>,
}

impl KvCache {
    /// A cache for up to `max_sequences` sequences of up to `max_tokens` tokens within `budget` bytes.
    ///
    /// # Errors
    /// When not even one block fits the budget, or memory is short.
    pub fn new(geometry: Geometry, max_sequences: usize, max_tokens: usize, budget: u64) -> Result<Self> {
        let pool = Pool::new(geometry, budget)?;
        let blocks = max_tokens.div_ceil(BLOCK_TOKENS).min(pool.capacity());
        let mut tables = crate::memory::with_capacity(max_sequences, "block tables")?;
        let mut unused_tables = crate::memory::with_capacity(max_sequences, "block tables")?;
        for i in 0..max_sequences {
            tables.push(BlockTable::with_capacity(blocks)?);
            unused_tables.push(SequenceId((max_sequences - 1 - i) as u32));
        }
        Ok(Self {
            pool,
            tables,
            unused_tables,
            index: None,
            tier: None,
        })
    }

    /// The pool, for its counts.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// A new, empty sequence; `None` when `max_sequences` are open.
    pub fn open(&mut self) -> Option<SequenceId> {
        self.unused_tables.pop()
    }

    /// Ends a sequence and releases its blocks; those that the index knows stay cached.
    pub fn close(&mut self, sequence: SequenceId) {
        self.truncate(sequence, 0);
        self.tables[sequence.index()].chain = None;
        self.unused_tables.push(sequence);
    }

    /// Tokens held by a sequence.
    pub fn len(&self, sequence: SequenceId) -> usize {
        self.tables[sequence.index()].len()
    }

    /// Blocks at the beginning that two sequences share.
    pub fn common_blocks(&self, a: SequenceId, b: SequenceId) -> usize {
        let (a, b) = (&self.tables[a.index()], &self.tables[b.index()]);
        let pairs = a.blocks().iter().zip(b.blocks());
        pairs.take_while(|(a, b)| a == b).count()
    }

    /// Tokens held in the blocks in use; those of a block that several sequences share count once.
    pub fn tokens(&self) -> usize {
        let vacant: usize = self.tables.iter().map(BlockTable::vacant).sum();
        (self.pool.used() * BLOCK_TOKENS).saturating_sub(vacant)
    }

    /// Makes room for `additional` more tokens. On failure the sequence keeps what it had, and possibly some of the
    /// new blocks when the system refused memory half way.
    ///
    /// # Errors
    /// [`KvFull`] when too few blocks are free or cached.
    pub fn reserve(&mut self, sequence: SequenceId, additional: usize) -> Result<(), KvFull> {
        let table = &self.tables[sequence.index()];
        let needed = (table.len() + additional)
            .div_ceil(BLOCK_TOKENS)
            .saturating_sub(table.blocks().len());
        let shared = table.partial().filter(|&b| additional > 0 && self.is_shared(b));
        let available = self.pool.free() + self.pool.cached();
        if needed + usize::from(shared.is_some()) > available {
            return Err(KvFull {
                needed: needed + usize::from(shared.is_some()),
                free: available,
            });
        }
        if let Some(old) = shared {
            let new = self.take()?;
            self.pool.copy(old, new);
            let table = &mut self.tables[sequence.index()];
            table.replace(table.len() / BLOCK_TOKENS, new);
            self.release(old);
        }
        for _ in 0..needed {
            let block = self.take()?;
            self.tables[sequence.index()].push(block);
        }
        Ok(())
    }

    /// Declares `n` more tokens stored.
    pub fn advance(&mut self, sequence: SequenceId, n: usize) {
        self.tables[sequence.index()].advance(n);
    }

    /// Forgets all tokens from position `len` on and releases blocks that are no longer needed.
    pub fn truncate(&mut self, sequence: SequenceId, len: usize) {
        while let Some(block) = self.tables[sequence.index()].pop_beyond(len) {
            self.release(block);
        }
        self.forget_seals(sequence);
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
        let block = self.tables[sequence.index()].blocks()[position / BLOCK_TOKENS];
        self.pool
            .store(kernels, block, layer, position % BLOCK_TOKENS, k, v);
    }

    /// Key columns of one head in the block that holds position `index * BLOCK_TOKENS`.
    pub fn keys(&self, sequence: SequenceId, layer: usize, head: usize, index: usize) -> &[u8] {
        self.pool
            .keys(self.tables[sequence.index()].blocks()[index], layer, head)
    }

    /// Value rows, likewise.
    pub fn values(&self, sequence: SequenceId, layer: usize, head: usize, index: usize) -> &[u8] {
        self.pool
            .values(self.tables[sequence.index()].blocks()[index], layer, head)
    }
}

#[cfg(test)]
mod tests;
