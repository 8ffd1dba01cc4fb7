//! A cache of keys and values for programs with an attention of their own.

use std::ffi::c_char;

use super::error::infer_error;
use super::guard;
use super::handle::{self, Object, magic};
use super::kv_cache_options::infer_kv_cache_options;
use super::kv_seq::infer_kv_seq;
use super::memory::{self, AbiStruct};
use super::options;
use super::status::infer_status;
use super::string;
use crate::kv::store::{KvStore, Pin, StoreStats};

/// A cache of keys and values for programs with an attention of their own: sequences of tokens in blocks of 32, which
/// share what they have in common, in memory and, with a cold tier, in a directory.
///
/// A sequence is stored into layer by layer with infer_kv_cache_store_batch(); infer_kv_cache_advance() then makes the
/// tokens readable by infer_kv_cache_fetch() and infer_kv_cache_view(). infer_kv_cache_seal() says which tokens these
/// are, so that infer_kv_cache_lookup() finds them, also when the sequence is gone.
///
/// It is counted inside: it lives until the handle and every sequence, view and pin of it are freed.
///
/// Threads: any number at the same time.
pub struct infer_kv_cache {
    _private: [u8; 0],
}

pub(crate) struct KvCacheState {
    store: KvStore,
}

impl Object for infer_kv_cache {
    type State = KvCacheState;
    const MAGIC: u64 = magic(b"INFkvcac");
    const NAME: &'static str = "infer_kv_cache";
}

/// Keeps a sealed prefix in memory while it lives.
///
/// Threads: any number at the same time.
pub struct infer_kv_pin {
    _private: [u8; 0],
}

pub(crate) struct KvPinState {
    pin: Pin,
}

impl Object for infer_kv_pin {
    type State = KvPinState;
    const MAGIC: u64 = magic(b"INFkvpin");
    const NAME: &'static str = "infer_kv_pin";
}

/// Counts of a key/value cache since it was created, and its state now. Those that begin with cold_ are 0 without a cold
/// tier.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct infer_kv_stats {
    /// Set by INFER_KV_STATS_INIT.
    pub struct_size: u32,
    /// Always 0.
    pub reserved: u32,
    /// Bytes of a block of 32 tokens.
    pub block_bytes: u64,
    /// Blocks that memory may hold.
    pub hot_blocks: u64,
    /// Blocks in use by sequences, views and pins; one that several use counts once.
    pub hot_blocks_used: u64,
    /// Sealed blocks that nobody uses, kept until their memory is needed.
    pub hot_blocks_cached: u64,
    /// Bytes of the blocks in use and cached.
    pub hot_bytes: u64,
    /// Tokens held in the blocks in use and cached.
    pub hot_tokens: u64,
    /// Share of the token slots of these blocks that holds tokens, from 0 to 1.
    pub utilization: f64,
    /// Tokens that sequences advanced by.
    pub tokens_stored: u64,
    /// Tokens of blocks that were sealed.
    pub tokens_sealed: u64,
    /// Lookups and pins.
    pub lookups: u64,
    /// Tokens they asked for.
    pub lookup_tokens: u64,
    /// Tokens they found, those of the cold tier included.
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
    /// Whether there is a cold tier that works: 1 or 0.
    pub cold_active: u64,
    /// Blocks in the cold tier.
    pub cold_blocks: u64,
    /// Bytes they take.
    pub cold_bytes: u64,
    /// Bytes they may take.
    pub cold_budget: u64,
    /// Tokens that lookups found there, part of hit_tokens.
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

// SAFETY: repr(C), struct_size first, two u32 before fields of eight bytes leave no padding, zero is a value.
unsafe impl AbiStruct for infer_kv_stats {
    const NAME: &'static str = "infer_kv_stats";
    const MIN: usize = 16;
}

impl From<&StoreStats> for infer_kv_stats {
    fn from(s: &StoreStats) -> Self {
        Self {
            struct_size: 0,
            reserved: 0,
            block_bytes: s.block_bytes,
            hot_blocks: s.hot_blocks,
            hot_blocks_used: s.hot_blocks_used,
            hot_blocks_cached: s.hot_blocks_cached,
            hot_bytes: (s.hot_blocks_used + s.hot_blocks_cached) * s.block_bytes,
            hot_tokens: s.hot_tokens,
            utilization: s.utilization(),
            tokens_stored: s.tokens_stored,
            tokens_sealed: s.tokens_sealed,
            lookups: s.lookups,
            lookup_tokens: s.lookup_tokens,
            hit_tokens: s.hit_tokens,
            misses: s.misses,
            evictions: s.evictions,
            copies: s.copies,
            fetches: s.fetches,
            tokens_fetched: s.tokens_fetched,
            cold_active: u64::from(s.cold_active),
            cold_blocks: s.cold_blocks,
            cold_bytes: s.cold_bytes,
            cold_budget: s.cold_budget,
            cold_hit_tokens: s.cold_hit_tokens,
            cold_reads: s.cold_reads,
            spills: s.spills,
            spills_refused: s.spills_refused,
            cold_queue_bytes: s.cold_queue_bytes,
        }
    }
}

/// Creates a cache. Memory for tokens is taken when it is first used. Free it with infer_kv_cache_free().
///
/// Errors: INFER_ERR_INVALID_ARGUMENT when the options give no shape or one too large, INFER_ERR_NO_MEMORY,
/// INFER_ERR_INVALID_ARGUMENT also when the directory of the cold tier is none, or others can write to it.
/// Threads: any, while nobody changes options.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kv_cache_create(
    options: *const infer_kv_cache_options,
    cache: *mut *mut infer_kv_cache,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        memory::check(cache.cast_const(), "cache")?;
        let mut default = None;
        // SAFETY: the conventions of the header.
        let options = unsafe { options::or_default(options, &mut default)? };
        let store = KvStore::new(&options.options)?;
        // SAFETY: checked above.
        unsafe { memory::put(cache, handle::create(KvCacheState { store })?) };
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_kv_cache_create", error, body) }
}

/// Frees a cache. Its sequences, views and pins keep what they need. With the option cold_persist what is sealed is
/// written to the cold tier when the cache and all sequences are freed: the last of these calls waits for it, up to
/// cold_patience_ms. NULL is ignored.
///
/// Threads: any; nobody else may be using the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kv_cache_free(cache: *mut infer_kv_cache) {
    // SAFETY: the conventions of the header.
    unsafe { guard::free(cache) }
}

/// Opens an empty sequence. salt names who may find what it seals: lookups of another salt never do. "" is a salt like
/// any other. Free it with infer_kv_seq_free().
///
/// Errors: INFER_ERR_INVALID_UTF8, INFER_ERR_NO_MEMORY.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kv_seq_open(
    cache: *const infer_kv_cache,
    salt: *const c_char,
    salt_len: usize,
    seq: *mut *mut infer_kv_seq,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        memory::check(seq.cast_const(), "seq")?;
        // SAFETY: the conventions of the header.
        let (cache, salt) = unsafe { (handle::get(cache)?, string::input(salt, salt_len, "salt")?) };
        let sequence = cache.store.open(salt)?;
        // SAFETY: checked above.
        unsafe { memory::put(seq, handle::create(sequence)?) };
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_kv_seq_open", error, body) }
}

/// Opens a sequence that begins with the longest prefix of tokens that was sealed below salt. infer_kv_seq_length() says
/// how long that is, 0 where nothing was found. Nothing is copied: the sequence shares the blocks, and copies the last
/// one when it goes on in its middle. What only the cold tier has is read back into memory as far as there is room, whole
/// blocks of 32 tokens; in memory the prefix is found to the token. Free it with infer_kv_seq_free().
///
/// Errors: INFER_ERR_INVALID_UTF8, INFER_ERR_NO_MEMORY.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kv_cache_lookup(
    cache: *const infer_kv_cache,
    salt: *const c_char,
    salt_len: usize,
    tokens: *const u32,
    n_tokens: usize,
    seq: *mut *mut infer_kv_seq,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        memory::check(seq.cast_const(), "seq")?;
        // SAFETY: the conventions of the header.
        let (cache, salt, tokens) = unsafe {
            (
                handle::get(cache)?,
                string::input(salt, salt_len, "salt")?,
                memory::input(tokens, n_tokens, "tokens")?,
            )
        };
        let sequence = cache.store.lookup(salt, tokens)?;
        // SAFETY: checked above.
        unsafe { memory::put(seq, handle::create(sequence)?) };
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_kv_cache_lookup", error, body) }
}

/// Keeps the longest prefix of tokens that was sealed below salt in memory until the pin is freed by infer_kv_pin_free().
/// infer_kv_pin_length() says how long it is.
///
/// Errors: INFER_ERR_INVALID_UTF8, INFER_ERR_NO_MEMORY.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kv_cache_pin(
    cache: *const infer_kv_cache,
    salt: *const c_char,
    salt_len: usize,
    tokens: *const u32,
    n_tokens: usize,
    pin: *mut *mut infer_kv_pin,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        memory::check(pin.cast_const(), "pin")?;
        // SAFETY: the conventions of the header.
        let (cache, salt, tokens) = unsafe {
            (
                handle::get(cache)?,
                string::input(salt, salt_len, "salt")?,
                memory::input(tokens, n_tokens, "tokens")?,
            )
        };
        let state = KvPinState {
            pin: cache.store.pin(salt, tokens)?,
        };
        // SAFETY: checked above.
        unsafe { memory::put(pin, handle::create(state)?) };
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_kv_cache_pin", error, body) }
}

/// Tokens of the prefix that a pin keeps; 0 where nothing was found, and for NULL.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kv_pin_length(pin: *const infer_kv_pin) -> usize {
    guard::quiet(0, || {
        // SAFETY: the conventions of the header.
        unsafe { handle::get(pin) }.map_or(0, |state| state.pin.len())
    })
}

/// Frees a pin: its prefix can be evicted again. NULL is ignored.
///
/// Threads: any; nobody else may be using the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kv_pin_free(pin: *mut infer_kv_pin) {
    // SAFETY: the conventions of the header.
    unsafe { guard::free(pin) }
}

/// Fills a snapshot of the counters.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT when stats is NULL or too small.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_kv_cache_stats(
    cache: *const infer_kv_cache,
    stats: *mut infer_kv_stats,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        let cache = unsafe { handle::get(cache)? };
        // SAFETY: the conventions of the header; the struct passed the check.
        unsafe {
            let size = memory::struct_size(stats.cast_const(), "stats")?;
            memory::write_struct(&(&cache.store.stats()).into(), stats, size);
        }
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_kv_cache_stats", error, body) }
}
