//! Blocks of key/value memory: allocated lazily in slabs, never beyond the budget, given back by trimming.
//!
//! A block is free, in use by one or more sequences, or cached: used by nobody, kept because an index still names it.
//!
//! Only the worker of an engine touches a pool, so nothing here is atomic.

use super::geometry::{BLOCK_TOKENS, Geometry};
use super::prefix::NodeId;
use crate::error::{Error, Result};
use crate::kernel::Kernels;
use crate::memory::{MemoryError, Region};

/// Number of a block in its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockId(pub(super) u32);

impl BlockId {
    /// A number that stands for a block, for an index without a pool.
    pub fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number.
    pub fn number(self) -> u32 {
        self.0
    }
}

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
    cached: usize,
}

#[derive(Debug, Default)]
struct Slab {
    memory: Option<Region>,
    free: Vec<BlockId>,
    states: Vec<BlockState>,
    /// Blocks in use or cached.
    occupied: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct BlockState {
    users: u32,
    indexed: Option<NodeId>,
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
            cached: 0,
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
        self.capacity - self.used - self.cached
    }

    /// Blocks in use; one that several sequences share counts once.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Blocks that nobody uses and an index names.
    pub fn cached(&self) -> usize {
        self.cached
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
            free: self.free(),
        };
        if full.free == 0 {
            return Err(full);
        }
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
                let states = n.saturating_sub(slab.states.len());
                if slab.free.try_reserve(n).is_err() || slab.states.try_reserve(states).is_err() {
                    return Err(full);
                }
                slab.states.resize(n, BlockState::default());
                slab.free
                    .extend((first..first + n).rev().map(|i| BlockId(i as u32)));
                slab.memory = Some(region);
            }
            if let Some(block) = slab.free.pop() {
                slab.occupied += 1;
                slab.states[block.0 as usize % self.blocks_per_slab].users = 1;
                self.used += 1;
                self.first_free = index;
                return Ok(block);
            }
        }
        Err(full)
    }

    /// Adds a user to a block that is in use or cached.
    pub(super) fn retain(&mut self, block: BlockId) {
        let state = self.state(block);
        state.users += 1;
        if state.users == 1 {
            self.used += 1;
            self.cached -= 1;
        }
    }

    /// Takes a user from a block; answers whether it was the last. The block is then cached if an index names it, and
    /// free otherwise.
    pub(super) fn release(&mut self, block: BlockId) -> bool {
        let state = self.state(block);
        state.users -= 1;
        let (last, indexed) = (state.users == 0, state.indexed.is_some());
        if last {
            self.used -= 1;
            if indexed {
                self.cached += 1;
            } else {
                self.give_back(block);
            }
        }
        last
    }

    /// Users of a block.
    pub(super) fn users(&self, block: BlockId) -> u32 {
        self.slabs[block.0 as usize / self.blocks_per_slab].states[block.0 as usize % self.blocks_per_slab]
            .users
    }

    /// The entry of the index that names the block.
    pub(super) fn indexed(&self, block: BlockId) -> Option<NodeId> {
        self.slabs[block.0 as usize / self.blocks_per_slab].states[block.0 as usize % self.blocks_per_slab]
            .indexed
    }

    /// Notes which entry of an index names the block; one that nobody names or uses becomes free.
    pub(super) fn set_indexed(&mut self, block: BlockId, node: Option<NodeId>) {
        let state = self.state(block);
        let was = state.indexed.is_some();
        state.indexed = node;
        if state.users == 0 && was && node.is_none() {
            self.cached -= 1;
            self.give_back(block);
        }
    }

    fn state(&mut self, block: BlockId) -> &mut BlockState {
        let (slab, index) = (
            block.0 as usize / self.blocks_per_slab,
            block.0 as usize % self.blocks_per_slab,
        );
        &mut self.slabs[slab].states[index]
    }

    fn give_back(&mut self, block: BlockId) {
        let index = block.0 as usize / self.blocks_per_slab;
        self.first_free = self.first_free.min(index);
        let slab = &mut self.slabs[index];
        slab.free.push(block);
        slab.occupied -= 1;
    }

    /// Copies all of a block to another one.
    pub(super) fn copy(&mut self, from: BlockId, to: BlockId) {
        let ((a, start), (b, target)) = (self.locate(from), self.locate(to));
        let n = self.geometry.block_bytes();
        if a == b {
            if let Some(memory) = self.slabs[a].memory.as_deref_mut() {
                memory.copy_within(start..start + n, target);
            }
        } else if let Ok([a, b]) = self.slabs.get_disjoint_mut([a, b])
            && let (Some(from), Some(to)) = (a.memory.as_deref(), b.memory.as_deref_mut())
        {
            to[target..target + n].copy_from_slice(&from[start..start + n]);
        }
    }

    /// Fills a block with the bytes of one.
    pub(super) fn write(&mut self, block: BlockId, bytes: &[u8]) {
        let (slab, start) = self.locate(block);
        if let Some(memory) = self.slabs[slab].memory.as_deref_mut() {
            memory[start..start + bytes.len()].copy_from_slice(bytes);
        }
    }

    /// Gives back the memory of slabs whose blocks are all free until `bytes` are reached; answers how much.
    pub fn trim(&mut self, bytes: u64) -> u64 {
        let mut freed = 0;
        for (index, slab) in self.slabs.iter_mut().enumerate().rev() {
            if freed >= bytes {
                break;
            }
            if slab.occupied == 0
                && let Some(memory) = slab.memory.take()
            {
                freed += memory.len() as u64;
                slab.free = Vec::new();
                self.first_free = self.first_free.min(index);
            }
        }
        freed
    }

    /// All of a block's bytes.
    pub(super) fn block(&self, block: BlockId) -> &[u8] {
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
