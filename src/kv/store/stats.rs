//! What a store counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::BLOCK_TOKENS;

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) tokens_stored: AtomicU64,
    pub(super) tokens_sealed: AtomicU64,
    pub(super) lookups: AtomicU64,
    pub(super) lookup_tokens: AtomicU64,
    pub(super) hit_tokens: AtomicU64,
    pub(super) misses: AtomicU64,
    pub(super) evictions: AtomicU64,
    pub(super) copies: AtomicU64,
    pub(super) fetches: AtomicU64,
    pub(super) tokens_fetched: AtomicU64,
}

pub(super) fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Relaxed);
}

/// Counts of a store since it was created, and its state now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Blocks that memory may hold.
    pub hot_blocks: u64,
    /// Blocks in use by sequences, views and pins; one that several use counts once.
    pub hot_blocks_used: u64,
    /// Sealed blocks that nobody uses, kept until their memory is needed.
    pub hot_blocks_cached: u64,
    /// Bytes of a block.
    pub block_bytes: u64,
    /// Tokens held in the blocks in use and cached.
    pub hot_tokens: u64,
    /// Tokens that sequences advanced by.
    pub tokens_stored: u64,
    /// Tokens of blocks that were sealed.
    pub tokens_sealed: u64,
    /// Lookups and pins.
    pub lookups: u64,
    /// Tokens they asked for.
    pub lookup_tokens: u64,
    /// Tokens they found.
    pub hit_tokens: u64,
    /// Lookups and pins that found nothing.
    pub misses: u64,
    /// Blocks that memory gave up for others.
    pub evictions: u64,
    /// Blocks copied because a sequence went on in the middle of a shared one.
    pub copies: u64,
    /// Fetches and views.
    pub fetches: u64,
    /// Tokens they covered, of one layer each.
    pub tokens_fetched: u64,
    /// Whether there is a cold tier that works.
    pub cold_active: bool,
    /// Blocks in the cold tier.
    pub cold_blocks: u64,
    /// Bytes they take.
    pub cold_bytes: u64,
    /// Bytes they may take.
    pub cold_budget: u64,
    /// Tokens that lookups found there, part of `hit_tokens`.
    pub cold_hit_tokens: u64,
    /// Blocks read back.
    pub cold_reads: u64,
    /// Blocks written.
    pub spills: u64,
    /// Blocks offered to the cold tier that were not written: not worth it, or no room to wait.
    pub spills_refused: u64,
    /// Bytes that wait to be written.
    pub cold_queue_bytes: u64,
}

impl StoreStats {
    /// Share of the token slots in used and cached blocks that holds tokens, from 0 to 1.
    pub fn utilization(&self) -> f64 {
        let slots = (self.hot_blocks_used + self.hot_blocks_cached) * BLOCK_TOKENS as u64;
        if slots == 0 {
            0.0
        } else {
            self.hot_tokens as f64 / slots as f64
        }
    }
}
