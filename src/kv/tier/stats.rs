//! What a tier counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Backend, BackendCounts, Shared, State};
use crate::histogram::{HistogramKind, Recorder};

macro_rules! tier_stats {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// Counts of a tier since it was opened, and what it holds now.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct TierStats {
            /// Whether it works.
            pub state: State,
            $($(#[doc = $doc])* pub $name: u64,)*
        }

        impl Default for TierStats {
            fn default() -> Self {
                Self { state: State::Off, $($name: 0,)* }
            }
        }
    };
}

tier_stats! {
    /// Blocks that can be read.
    blocks,
    /// Bytes they take in storage.
    bytes,
    /// Bytes they may take.
    budget,
    /// Prompts that were looked up.
    lookups,
    /// Tokens of them that were there.
    hit_tokens,
    /// Blocks that were read.
    reads,
    /// Blocks that were to be read and could not be had.
    misses,
    /// Of those, blocks that did not agree with their name or checksum.
    corrupt,
    /// Blocks that were written.
    spills,
    /// Blocks that others pushed out of storage.
    evictions,
    /// Blocks that were not worth a write.
    refusals,
    /// Blocks that were lost because the queue was full or storage failed.
    dropped,
    /// Blocks that wait to be written.
    queued,
    /// Bytes written.
    written,
    /// Bytes read.
    read,
    /// Blocks that were read for a request and used by it.
    useful,
    /// Blocks that were read for a request that did not use them.
    useless,
    /// Tokens that were there and computed all the same, because that is faster.
    recomputed,
    /// Errors of storage.
    errors,
    /// Files of the directory that are damaged, or of another version, model or layout.
    foreign_files,
    /// 1 when this process is the one that writes, 0 when another one does.
    writer,
}

/// The live counters behind [`TierStats`].
#[derive(Debug)]
pub(super) struct TierCounters {
    pub(super) lookups: AtomicU64,
    pub(super) hit_tokens: AtomicU64,
    pub(super) reads: AtomicU64,
    pub(super) misses: AtomicU64,
    pub(super) spills: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) useful: AtomicU64,
    pub(super) useless: AtomicU64,
    pub(super) recomputed: AtomicU64,
    pub(super) errors: AtomicU64,
    pub(super) read_times: Recorder,
    pub(super) write_times: Recorder,
    /// Bytes per second of reading, as bits of an `f64`; 0 before the first.
    rate: AtomicU64,
    /// Counts of storage that was given up.
    before: Mutex<BackendCounts>,
}

impl Default for TierCounters {
    fn default() -> Self {
        Self {
            lookups: AtomicU64::default(),
            hit_tokens: AtomicU64::default(),
            reads: AtomicU64::default(),
            misses: AtomicU64::default(),
            spills: AtomicU64::default(),
            dropped: AtomicU64::default(),
            useful: AtomicU64::default(),
            useless: AtomicU64::default(),
            recomputed: AtomicU64::default(),
            errors: AtomicU64::default(),
            read_times: Recorder::new(HistogramKind::ColdReadTime),
            write_times: Recorder::new(HistogramKind::ColdWriteTime),
            rate: AtomicU64::default(),
            before: Mutex::default(),
        }
    }
}

impl TierCounters {
    pub(super) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Relaxed);
    }

    /// Notes that the reading thread took so long for so many bytes.
    pub(super) fn note_read(&self, bytes: usize, time: Duration) {
        let rate = bytes as f64 / time.as_secs_f64().max(1e-9);
        let old = f64::from_bits(self.rate.load(Relaxed));
        let new = if old == 0.0 {
            rate
        } else {
            old + (rate - old) * 0.1
        };
        self.rate.store(new.to_bits(), Relaxed);
    }

    pub(super) fn read_rate(&self) -> Option<f64> {
        let rate = f64::from_bits(self.rate.load(Relaxed));
        (rate > 0.0).then_some(rate)
    }

    /// Keeps the counts of storage that is given up.
    pub(super) fn keep(&self, backend: &Option<Arc<dyn Backend>>) {
        if let Some(backend) = backend {
            let now = backend.counts();
            let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
            before.evictions += now.evictions;
            before.refusals += now.refusals;
            before.written += now.written;
            before.read += now.read;
            before.corrupt += now.corrupt;
        }
    }
}

impl Shared {
    pub(super) fn stats(&self) -> TierStats {
        let c = &self.counters;
        let storage = self
            .backend()
            .map_or(BackendCounts::default(), |backend| backend.counts());
        let before = *c.before.lock().unwrap_or_else(PoisonError::into_inner);
        TierStats {
            state: self.state(),
            blocks: storage.blocks,
            bytes: storage.bytes,
            budget: storage.budget,
            lookups: c.lookups.load(Relaxed),
            hit_tokens: c.hit_tokens.load(Relaxed),
            reads: c.reads.load(Relaxed),
            misses: c.misses.load(Relaxed),
            corrupt: before.corrupt + storage.corrupt,
            spills: c.spills.load(Relaxed),
            evictions: before.evictions + storage.evictions,
            refusals: before.refusals + storage.refusals,
            dropped: c.dropped.load(Relaxed),
            queued: self.writes.len() as u64,
            written: before.written + storage.written,
            read: before.read + storage.read,
            useful: c.useful.load(Relaxed),
            useless: c.useless.load(Relaxed),
            recomputed: c.recomputed.load(Relaxed),
            errors: c.errors.load(Relaxed),
            foreign_files: storage.foreign_files,
            writer: u64::from(storage.writer),
        }
    }
}
