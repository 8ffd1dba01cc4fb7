//! Blocks of key/value memory: allocated lazily in slabs, never beyond the budget, given back by trimming.
//!
//! Only the worker of an engine touches a pool, so nothing here is atomic.

use super::geometry::{BLOCK_TOKENS, Geometry};
use crate::error::{Error, Result};
use crate::kernel::Kernels;
use crate::memory::{MemoryError, Region};

/// Number of a block in its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockId(u32);

/// The pool has too few free blocks.
#[derive(Debug, thiserror::Error)]
#[error("the key/value cache is full: {needed} more blocks are needed, {free} are free")]
pub struct KvFull {
    /// Blocks asked for.
    pub needed: usize,
    /// Blocks free.
    pub free: usize,
}

/// Slabs are about this large: big enough for huge pages, small enough to give back.
const SLAB_BYTES: usize = 16 << 20;

/// Owner of all blocks of a layer group.
#[derive(Debug)]
pub struct Pool {
    geometry: Geometry,
    /// Those used so far: a large budget costs nothing until it is needed.
    slabs: Vec<Slab>,
    /// No slab before this one has a free block.
    first_free: usize,
    blocks_per_slab: usize,
    capacity: usize,
    used: usize,
}

#[derive(Debug, Default)]
struct Slab {
    memory: Option<Region>,
    free: Vec<BlockId>,
    used: usize,
}

impl Pool {
    /// A pool of as many blocks as fit `budget` bytes; memory is taken when blocks are first used.
    ///
    /// # Errors
    /// When not one block fits the budget.
    pub fn new(geometry: Geometry, budget: u64) -> Result<Self> {
        let block = geometry.block_bytes();
        let capacity = usize::try_from(budget / block.max(1) as u64)
            .unwrap_or(usize::MAX)
            .min(u32::MAX as usize);
        if capacity == 0 {
            return Err(Error::Memory(MemoryError::OverBudget {
                what: "one block of the key/value cache".to_string(),
                needed: block as u64,
                budget,
            }));
        }
        let blocks_per_slab = (SLAB_BYTES / block.max(1)).clamp(1, capacity);
        Ok(Self {
            geometry,
            slabs: Vec::new(),
            first_free: 0,
            blocks_per_slab,
            capacity,
            used: 0,
        })
    }

    /// The layout of its blocks.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Blocks it may ever hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Blocks that can be taken.
    pub fn free(&self) -> usize {
        self.capacity - self.used
    }

    /// Blocks in use.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Bytes obtained from the system.
    pub fn resident_bytes(&self) -> u64 {
        self.slabs
            .iter()
            .filter_map(|s| s.memory.as_deref())
            .map(|m| m.len() as u64)
            .sum()
    }

    /// Takes a block, from slabs in order so that later ones can be trimmed.
    ///
    /// # Errors
    /// [`KvFull`] when all are in use or the system refuses memory.
    pub fn take(&mut self) -> Result<BlockId, KvFull> {
        let full = KvFull {
            needed: 1,
            free: self.capacity - self.used,
        };
        for index in self.first_free..self.capacity.div_ceil(self.blocks_per_slab) {
            if index == self.slabs.len() {
                if self.slabs.try_reserve(1).is_err() {
                    return Err(full);
                }
                self.slabs.push(Slab::default());
            }
            let slab = &mut self.slabs[index];
            if slab.memory.is_none() {
                let first = index * self.blocks_per_slab;
                let n = self.blocks_per_slab.min(self.capacity - first);
                let bytes = n.saturating_mul(self.geometry.block_bytes());
                let Ok(region) = Region::new(bytes, "the key/value cache") else {
                    return Err(full);
                };
                if slab.free.try_reserve(n).is_err() {
                    return Err(full);
                }
                slab.free
                    .extend((first..first + n).rev().map(|i| BlockId(i as u32)));
                slab.memory = Some(region);
            }
            if let Some(block) = slab.free.pop() {
                slab.used += 1;
                self.used += 1;
                self.first_free = index;
                return Ok(block);
            }
        }
        Err(full)
    }

    /// Returns a block.
    pub fn release(&mut self, block: BlockId) {
        let index = block.0 as usize / self.blocks_per_slab;
        self.first_free = self.first_free.min(index);
        let slab = &mut self.slabs[index];
        slab.free.push(block);
        slab.used -= 1;
        self.used -= 1;
    }

    /// Gives back the memory of slabs without a used block until `bytes` are reached; answers how much.
    pub fn trim(&mut self, bytes: u64) -> u64 {
        let mut freed = 0;
        for (index, slab) in self.slabs.iter_mut().enumerate().rev() {
            if freed >= bytes {
                break;
            }
            if slab.used == 0
                && let Some(memory) = slab.memory.take()
            {
                freed += memory.len() as u64;
                slab.free = Vec::new();
                self.first_free = self.first_free.min(index);
            }
        }
        freed
    }

    fn block(&self, block: BlockId) -> &[u8] {
        let (slab, start) = self.locate(block);
        // A block in use lies in a slab with memory: `take` mapped it and `trim` leaves it.
        self.slabs[slab]
            .memory
            .as_deref()
            .map_or(&[], |m| &m[start..start + self.geometry.block_bytes()])
    }

    fn locate(&self, block: BlockId) -> (usize, usize) {
        let index = block.0 as usize;
        (
            index / self.blocks_per_slab,
            index % self.blocks_per_slab * self.geometry.block_bytes(),
        )
    }

    /// Stores keys and values of all heads of one token into slot `slot` of the block.
    pub(super) fn store(
        &mut self,
        kernels: &Kernels,
        block: BlockId,
        layer: usize,
        slot: usize,
        k: &[f32],
        v: &[f32],
    ) {
        let (slab, start) = self.locate(block);
        let geometry = &self.geometry;
        let Some(memory) = self.slabs[slab].memory.as_deref_mut() else {
            return;
        };
        let block = &mut memory[start..start + geometry.block_bytes()];
        let (ty, shape) = (geometry.row_type(), geometry.layer(layer));
        for (head, k) in k.chunks_exact(shape.key_dim).enumerate() {
            kernels.store_key(ty, k, &mut block[geometry.keys(layer, head)], slot);
        }
        for (head, v) in v.chunks_exact(shape.value_dim).enumerate() {
            let rows = &mut block[geometry.values(layer, head)];
            let row = rows.len() / BLOCK_TOKENS;
            kernels.store_row(ty, v, &mut rows[slot * row..(slot + 1) * row]);
        }
    }

    /// Key columns of one head of a block.
    pub fn keys(&self, block: BlockId, layer: usize, head: usize) -> &[u8] {
        &self.block(block)[self.geometry.keys(layer, head)]
    }

    /// Value rows of one head of a block.
    pub fn values(&self, block: BlockId, layer: usize, head: usize) -> &[u8] {
        &self.block(block)[self.geometry.values(layer, head)]
    }
}
