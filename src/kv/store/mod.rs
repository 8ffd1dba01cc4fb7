//! Keys and values of sequences for programs with an attention of their own: the C object `infer_kv_cache`.
//!
//! A [`KvStore`] holds blocks of [`BLOCK_TOKENS`] tokens of all layers, row by row ([`Shape`]). A [`Sequence`] is stored
//! into layer by layer; what all layers have becomes readable by [`Sequence::advance`]. Blocks that are full are never
//! written again: sequences share them, readers need no lock, and whoever goes on from the middle of one copies it.
//!
//! [`Sequence::seal`] says which tokens a sequence holds. Its full blocks are found again by [`KvStore::lookup`], and stay
//! when the sequence is gone until their memory is needed. What was never sealed is known to its sequence alone.
//!
//! Any number of threads may use a store. A sequence has one writer at a time, a second one is refused; readers go on
//! beside it. No lock is held while full blocks are copied.
//!
//! With a cold tier, sealed blocks that memory gives up are written behind ([`tier`](super::tier)), and a lookup reads back
//! whole blocks of what it finds there.

mod block;
mod calibrate;
mod cold;
mod index;
mod sequence;
mod shape;
mod stats;
mod view;
mod writer;

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use block::{Block, Pool};
use index::{Found, Index};
pub use sequence::Sequence;
pub use shape::{Elements, ElementsMut, Shape};
pub use stats::StoreStats;
use stats::{Counters, add};
pub use view::{Pin, View, ViewPart};

use super::prefix::{Fingerprint, Key, Namer, PolicyKind, PrefixIndex, Secret};
use super::tier::{State, Tier};
use super::{BLOCK_TOKENS, Geometry, LayerShape};
use crate::error::{Error, Result};
use crate::kernel::{CpuLevel, Kernels, RowType};
use crate::options::{KvCacheOptions, OptionSet};

/// Version of the layout of blocks, raised with every change of where an element lies.
const LAYOUT_VERSION: u32 = 1;

/// Tokens in memory with the option `test_mode`, at most.
const TEST_TOKENS: usize = 8 * BLOCK_TOKENS;

/// Every block is in use by sequences, views and pins.
#[derive(Debug, thiserror::Error)]
#[error(
    "the key/value cache is full: one more block of {BLOCK_TOKENS} tokens is needed, all {capacity} are in use by sequences, views and pins; they hold {tokens} tokens"
)]
pub struct StoreFull {
    /// Blocks there are.
    pub capacity: usize,
    /// Tokens they hold.
    pub tokens: u64,
}

/// A store of keys and values; clones are the same store. It lives until the last clone, sequence, view and pin is gone.
#[derive(Debug, Clone)]
pub struct KvStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    shape: Shape,
    kernels: &'static Kernels,
    pool: Arc<Pool>,
    index: Arc<Index>,
    counters: Counters,
    /// Measured when it is first asked for.
    optimal_batch: OnceLock<usize>,
    /// Where sealed blocks go that memory gives up.
    tier: Option<Tier>,
    /// How long to wait at the end for what memory has to be written, if it is to be.
    persist: Option<Duration>,
}

impl KvStore {
    /// A store as the options say.
    ///
    /// # Errors
    /// Options outside their range, a shape of nothing or too large.
    pub fn new(options: &KvCacheOptions) -> Result<Self> {
        options.check()?;
        let row_type = RowType::from_name(options.kv_type).unwrap_or(RowType::F16);
        let shape = Shape {
            n_layers: options.n_layers,
            n_kv_heads: options.n_kv_heads,
            head_dim: options.head_dim,
            row_type,
        };
        shape.check()?;
        let layer = LayerShape {
            n_kv_heads: shape.n_kv_heads,
            key_dim: shape.head_dim,
            value_dim: shape.head_dim,
            window: None,
        };
        let geometry = Geometry::new(row_type, vec![layer; shape.n_layers])?;
        let fingerprint = Fingerprint::new(
            &geometry,
            &[
                ("store_layout", &LAYOUT_VERSION),
                ("identity", &options.identity.escape_default()),
            ],
        );
        let policy = PolicyKind::from_name(options.policy).unwrap_or(PolicyKind::Adaptive);
        let tier = cold::open(options, &fingerprint, shape.block_bytes())?;
        let secret = tier.as_ref().map_or_else(Secret::random, Tier::secret);
        let namer = Namer::new(secret, 0, fingerprint);
        let tokens = if options.test_mode {
            options.hot_tokens.min(TEST_TOKENS)
        } else {
            options.hot_tokens
        };
        let kernels = Self::kernels()?;
        let capacity = tokens.div_ceil(BLOCK_TOKENS).max(1);
        Ok(Self {
            shared: Arc::new(Shared {
                shape,
                kernels,
                pool: Arc::new(Pool::new(shape.block_bytes(), capacity)),
                index: Arc::new(Index::new(PrefixIndex::new(namer, policy))),
                counters: Counters::default(),
                optimal_batch: OnceLock::new(),
                tier,
                persist: options
                    .cold_persist
                    .then_some(Duration::from_millis(options.cold_patience_ms)),
            }),
        })
    }

    fn kernels() -> Result<&'static Kernels> {
        let level = CpuLevel::selected()?;
        Kernels::for_level(level)
            .ok_or_else(|| Error::Unsupported(format!("cannot use the kernels of level {}", level.name())))
    }

    /// What it stores.
    pub fn shape(&self) -> &Shape {
        &self.shared.shape
    }

    /// A new, empty sequence. What it seals is found only below the same salt.
    ///
    /// # Errors
    /// When memory is short.
    pub fn open(&self, salt: &str) -> Result<Sequence> {
        let root = self.shared.root(salt);
        Sequence::new(&self.shared, salt, root, Found::default())
    }

    /// A new sequence that begins with the longest prefix of `tokens` that was sealed below this salt; its length says
    /// how long that is, 0 where nothing was found. Nothing is copied: it shares the blocks.
    ///
    /// # Errors
    /// When memory is short.
    pub fn lookup(&self, salt: &str, tokens: &[u32]) -> Result<Sequence> {
        let root = self.shared.root(salt);
        let found = self.shared.find(root, tokens);
        Sequence::new(&self.shared, salt, root, found)
    }

    /// Keeps the longest prefix of `tokens` that was sealed below this salt until the answer is dropped.
    ///
    /// # Errors
    /// When memory is short.
    pub fn pin(&self, salt: &str, tokens: &[u32]) -> Result<Pin> {
        let root = self.shared.root(salt);
        let found = self.shared.find(root, tokens);
        Ok(Pin::new(found))
    }

    /// Counts so far and the state now.
    pub fn stats(&self) -> StoreStats {
        self.shared.stats()
    }
}

impl Shared {
    /// Where the prefixes of a salt begin. When storage turned up late with a secret of its own, what memory has sealed is
    /// forgotten, and named with that one from now on.
    fn root(&self, salt: &str) -> Key {
        if let Some(secret) = self.tier.as_ref().and_then(Tier::new_secret) {
            self.index.rename(secret);
        }
        self.index.root(salt.as_bytes())
    }

    /// The longest sealed prefix of the tokens.
    fn find(&self, root: Key, tokens: &[u32]) -> Found {
        let mut found = self.index.lookup(root, tokens);
        if let Some(tier) = &self.tier {
            self.find_cold(tier, root, tokens, &mut found);
        }
        let counters = &self.counters;
        add(&counters.lookups, 1);
        add(&counters.lookup_tokens, tokens.len());
        add(&counters.hit_tokens, found.len());
        if found.len() == 0 {
            add(&counters.misses, 1);
        }
        found
    }

    /// A block to write to, of one that was evicted where none is free.
    fn take_block(&self) -> Result<Block> {
        loop {
            if let Some(block) = self.pool.take()? {
                return Ok(block);
            }
            let Some((name, block)) = self.index.evict() else {
                return Err(StoreFull {
                    capacity: self.pool.capacity(),
                    tokens: self.pool.tokens(),
                }
                .into());
            };
            add(&self.counters.evictions, 1);
            if let (Some(tier), Some(bytes)) = (&self.tier, block.frozen()) {
                tier.offer(&name, bytes);
            }
            drop(block);
        }
    }

    fn stats(&self) -> StoreStats {
        let (blocks, cached) = (self.pool.live(), self.index.cached());
        let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Relaxed);
        let c = &self.counters;
        let cold = self.tier.as_ref().map(Tier::stats).unwrap_or_default();
        StoreStats {
            hot_blocks: self.pool.capacity() as u64,
            hot_blocks_used: blocks.saturating_sub(cached) as u64,
            hot_blocks_cached: cached as u64,
            block_bytes: self.shape.block_bytes() as u64,
            hot_tokens: self.pool.tokens(),
            tokens_stored: get(&c.tokens_stored),
            tokens_sealed: get(&c.tokens_sealed),
            lookups: get(&c.lookups),
            lookup_tokens: get(&c.lookup_tokens),
            hit_tokens: get(&c.hit_tokens),
            misses: get(&c.misses),
            evictions: get(&c.evictions),
            copies: get(&c.copies),
            fetches: get(&c.fetches),
            tokens_fetched: get(&c.tokens_fetched),
            cold_active: cold.state != State::Off,
            cold_blocks: cold.blocks,
            cold_bytes: cold.bytes,
            cold_budget: cold.budget,
            cold_hit_tokens: cold.hit_tokens,
            cold_reads: cold.reads,
            spills: cold.spills,
            spills_refused: cold.refusals + cold.dropped,
            cold_queue_bytes: cold.queued * self.shape.block_bytes() as u64,
        }
    }
}

#[cfg(test)]
mod cold_tests;
#[cfg(test)]
mod tests;
