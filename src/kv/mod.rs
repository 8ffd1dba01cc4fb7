//! Keys and values of running sequences, in blocks of [`BLOCK_TOKENS`] tokens.
//!
//! A [`pool::Pool`] owns the memory, a [`table::BlockTable`] says which blocks hold a sequence, and [`KvCache`] is
//! what a forward pass sees: store the keys and values of a row, read those of a block. There is one layer group so
//! far, full attention; a group has its own pool and geometry, so that windows, latents and recurrent states can
//! join with other lifetimes.

mod geometry;
mod pool;
mod table;

pub use geometry::{BLOCK_TOKENS, Geometry, LayerShape};
pub use pool::{BlockId, KvFull, Pool};
pub use table::{BlockTable, SequenceId};

use crate::error::Result;
use crate::kernel::Kernels;

/// The cache of one layer group: a pool of blocks and the tables of the sequences that use them.
#[derive(Debug)]
pub struct KvCache {
    pool: Pool,
    tables: Vec<BlockTable>,
    unused_tables: Vec<SequenceId>,
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
        })
    }

    /// The pool, for its counts.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Gives back memory of unused blocks, about `bytes` of it; answers how much.
    pub fn trim(&mut self, bytes: u64) -> u64 {
        self.pool.trim(bytes)
    }

    /// A new, empty sequence; `None` when `max_sequences` are open.
    pub fn open(&mut self) -> Option<SequenceId> {
        self.unused_tables.pop()
    }

    /// Ends a sequence and releases its blocks.
    pub fn close(&mut self, sequence: SequenceId) {
        self.truncate(sequence, 0);
        self.unused_tables.push(sequence);
    }

    /// Tokens held by a sequence.
    pub fn len(&self, sequence: SequenceId) -> usize {
        self.tables[sequence.index()].len()
    }

    /// Sum of the lengths of all sequences.
    pub fn tokens(&self) -> usize {
        self.tables.iter().map(BlockTable::len).sum()
    }

    /// Makes room for `additional` more tokens. On failure the sequence keeps what it had, and possibly some of the
    /// new blocks when the system refused memory half way.
    ///
    /// # Errors
    /// [`KvFull`] when the pool has too few free blocks.
    pub fn reserve(&mut self, sequence: SequenceId, additional: usize) -> Result<(), KvFull> {
        let table = &mut self.tables[sequence.index()];
        let needed = (table.len() + additional)
            .div_ceil(BLOCK_TOKENS)
            .saturating_sub(table.blocks().len());
        if needed > self.pool.free() {
            return Err(KvFull {
                needed,
                free: self.pool.free(),
            });
        }
        for _ in 0..needed {
            table.push(self.pool.take()?);
        }
        Ok(())
    }

    /// Declares `n` more tokens stored.
    pub fn advance(&mut self, sequence: SequenceId, n: usize) {
        self.tables[sequence.index()].advance(n);
    }

    /// Forgets all tokens from position `len` on and releases blocks that are no longer needed.
    pub fn truncate(&mut self, sequence: SequenceId, len: usize) {
        let table = &mut self.tables[sequence.index()];
        while let Some(block) = table.pop_beyond(len) {
            self.pool.release(block);
        }
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
mod tests {
    use super::*;
    use crate::kernel::{CpuLevel, RowType};

    fn geometry(ty: RowType) -> Geometry {
        Geometry::new(
            ty,
            vec![
                LayerShape {
                    n_kv_heads: 2,
                    key_dim: 8,
                    value_dim: 16
                };
                3
            ],
        )
        .unwrap()
    }

    fn cache(max_sequences: usize, blocks: u64) -> KvCache {
        let g = geometry(RowType::F32);
        let budget = g.block_bytes() as u64 * blocks;
        KvCache::new(g, max_sequences, 4096, budget).unwrap()
    }

    #[test]
    fn rows_come_back_where_they_were_stored() {
        let kernels = Kernels::for_level(CpuLevel::Scalar).unwrap();
        let mut cache = cache(2, 8);
        let s = cache.open().unwrap();
        cache.reserve(s, 40).unwrap();
        for position in 0..40 {
            for layer in 0..3 {
                let k: Vec<f32> = (0..16)
                    .map(|i| (position * 1000 + layer * 100 + i) as f32)
                    .collect();
                let v: Vec<f32> = (0..32)
                    .map(|i| -((position * 1000 + layer * 100 + i) as f32))
                    .collect();
                cache.store(kernels, s, layer, position, &k, &v);
            }
        }
        cache.advance(s, 40);
        assert_eq!(cache.len(s), 40);
        let columns: &[f32] = bytemuck::cast_slice(cache.keys(s, 2, 1, 1));
        assert_eq!(columns[5 * BLOCK_TOKENS + 3], (35 * 1000 + 200 + 8 + 5) as f32);
        let rows: &[f32] = bytemuck::cast_slice(cache.values(s, 0, 1, 0));
        assert_eq!(rows[31 * 16 + 15], -((31 * 1000 + 31) as f32));
    }

    #[test]
    fn a_full_pool_refuses_and_keeps_what_there_was() {
        let mut cache = cache(3, 4);
        let (a, b) = (cache.open().unwrap(), cache.open().unwrap());
        cache.reserve(a, 3 * BLOCK_TOKENS).unwrap();
        cache.advance(a, 3 * BLOCK_TOKENS);
        let e = cache.reserve(b, BLOCK_TOKENS + 1).unwrap_err();
        assert_eq!((e.needed, e.free), (2, 1));
        cache.reserve(b, BLOCK_TOKENS).unwrap();
        cache.close(a);
        assert_eq!(cache.pool().free(), 3);
        cache.close(b);
        assert_eq!((cache.pool().free(), cache.tokens()), (4, 0));
    }

    #[test]
    fn truncating_releases_whole_blocks_only() {
        let mut cache = cache(1, 4);
        let s = cache.open().unwrap();
        assert!(cache.open().is_none());
        cache.reserve(s, 70).unwrap();
        cache.advance(s, 70);
        cache.truncate(s, 33);
        assert_eq!((cache.len(s), cache.pool().free()), (33, 2));
        cache.truncate(s, 32);
        assert_eq!(cache.pool().free(), 3);
    }

    #[test]
    fn trimming_gives_memory_back_and_blocks_can_be_taken_again() {
        let mut cache = cache(1, 4096);
        let s = cache.open().unwrap();
        cache.reserve(s, 4000).unwrap();
        assert!(cache.pool().resident_bytes() > 0);
        cache.close(s);
        let resident = cache.pool().resident_bytes();
        assert_eq!(cache.trim(u64::MAX), resident);
        assert_eq!(cache.pool().resident_bytes(), 0);
        let s = cache.open().unwrap();
        cache.reserve(s, 4000).unwrap();
    }

    #[test]
    fn a_budget_without_end_costs_nothing_until_it_is_used() {
        let mut cache = KvCache::new(geometry(RowType::F16), 1, 4096, u64::MAX).unwrap();
        assert_eq!(cache.pool().resident_bytes(), 0);
        let s = cache.open().unwrap();
        cache.reserve(s, 4096).unwrap();
        assert_eq!(cache.pool().used(), 4096 / BLOCK_TOKENS);
    }

    #[test]
    fn released_blocks_are_taken_again_before_new_memory() {
        let mut cache = cache(2, 65536);
        let (a, b) = (cache.open().unwrap(), cache.open().unwrap());
        for _ in 0..3 {
            cache.reserve(a, 100_000).unwrap();
            cache.reserve(b, 32).unwrap();
            let resident = cache.pool().resident_bytes();
            cache.truncate(a, 0);
            cache.reserve(a, 100_000).unwrap();
            assert_eq!(cache.pool().resident_bytes(), resident);
            cache.truncate(b, 0);
            cache.truncate(a, 0);
            assert_eq!(cache.trim(u64::MAX), resident);
        }
    }
}
