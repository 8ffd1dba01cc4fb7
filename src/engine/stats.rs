//! Counters of an engine: plain atomics written by the worker and read by anyone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::event::FinishReason;
use crate::histogram::{HistogramKind, Recorders};
use crate::kv::tier::TierStats;
pub(super) use crate::model::ComponentTimes;

/// Unit of a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Count,
    Bytes,
    Nanoseconds,
}

/// Whether the word says gauge: a value that can fall.
const fn is_gauge(word: &str) -> bool {
    word.len() == "gauge".len()
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident: $unit:ident $kind:ident),* $(,)?) => {
        /// A snapshot of an engine's counters. Times are nanoseconds. Counters only grow; gauges say what is now, or
        /// the largest value so far.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Stats {
            $($(#[doc = $doc])* pub $name: u64,)*
        }

        /// Per field in declaration order: its doc, its unit, and whether it can fall.
        pub(super) const FIELDS: &[(&str, Unit, bool)] =
            &[$((concat!($($doc),*), Unit::$unit, is_gauge(stringify!($kind))),)*];

        /// The live counters behind [`Stats`].
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)*
            pub(super) histograms: Recorders,
        }

        impl Counters {
            /// Reads every counter; each is exact, together they are from about the same moment.
            pub(crate) fn snapshot(&self) -> Stats {
                Stats { $($name: self.$name.load(Relaxed),)* }
            }
        }

        impl Stats {
            /// Names and values in declaration order.
            pub fn fields(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }
        }
    };
}

counters! {
    /// Requests accepted.
    requests_submitted: Count counter,
    /// Requests refused because the queue was full.
    requests_refused: Count counter,
    /// Requests that ended by length, stop or end of generation.
    requests_completed: Count counter,
    /// Requests that were cancelled.
    requests_cancelled: Count counter,
    /// Requests whose deadline passed.
    requests_expired: Count counter,
    /// Requests that failed.
    requests_failed: Count counter,
    /// Sequences being computed now.
    running: Count gauge,
    /// Requests waiting now.
    queued: Count gauge,
    /// Steps of the scheduler.
    steps: Count counter,
    /// Largest number of sequences in one step.
    max_batch: Count gauge,
    /// Prompt tokens computed.
    prompt_tokens: Count counter,
    /// Tokens generated.
    generated_tokens: Count counter,
    /// Sum of the times requests waited before their first step.
    queue_time: Nanoseconds counter,
    /// Longest such time.
    max_queue_time: Nanoseconds gauge,
    /// Sum of the times from submission to the first token.
    time_to_first_token: Nanoseconds counter,
    /// Longest such time.
    max_time_to_first_token: Nanoseconds gauge,
    /// Time in steps, split by the share of prompt rows.
    prefill_time: Nanoseconds counter,
    /// Time in steps, split by the share of generated rows.
    decode_time: Nanoseconds counter,
    /// Prefill: embedding.
    prefill_embedding_time: Nanoseconds counter,
    /// Prefill: attention.
    prefill_attention_time: Nanoseconds counter,
    /// Prefill: feed-forward network.
    prefill_ffn_time: Nanoseconds counter,
    /// Prefill: output projection.
    prefill_projection_time: Nanoseconds counter,
    /// Prefill: sampling.
    prefill_sampling_time: Nanoseconds counter,
    /// Decode: embedding.
    decode_embedding_time: Nanoseconds counter,
    /// Decode: attention.
    decode_attention_time: Nanoseconds counter,
    /// Decode: feed-forward network.
    decode_ffn_time: Nanoseconds counter,
    /// Decode: output projection.
    decode_projection_time: Nanoseconds counter,
    /// Decode: sampling.
    decode_sampling_time: Nanoseconds counter,
    /// Bytes of key/value blocks in use now.
    kv_bytes_used: Bytes gauge,
    /// Most bytes of key/value blocks that were in use.
    kv_bytes_peak: Bytes gauge,
    /// Bytes of key/value blocks the engine may use.
    kv_bytes_budget: Bytes gauge,
    /// Tokens held in the key/value blocks in use now.
    kv_tokens_used: Count gauge,
    /// Caught panics of a step.
    panics: Count counter,
    /// Prompts that were looked up in the prefix cache.
    prefix_lookups: Count counter,
    /// Prompt tokens found there, which were not computed.
    prefix_hit_tokens: Count counter,
    /// Blocks that the prefix cache gave up for others.
    prefix_evictions: Count counter,
    /// Bytes of key/value blocks that no request uses and the prefix cache keeps.
    kv_bytes_cached: Bytes gauge,
    /// Token slots of the key/value blocks in use now.
    kv_slots_used: Count gauge,
    /// Times that a running sequence gave up its memory or place to others.
    preemptions: Count counter,
    /// Rows of generated tokens computed.
    decode_rows: Count counter,
    /// Calls of attention tile by tile: one per layer and step.
    attention_tiled_calls: Count counter,
    /// Calls of attention in two passes: one per layer and step.
    attention_two_pass_calls: Count counter,
    /// Requests that waited longer than alert_queue_time_ms.
    alerts_queue_time: Count counter,
    /// Requests whose first token took longer than alert_time_to_first_token_ms.
    alerts_time_to_first_token: Count counter,
    /// Tokens that took longer than alert_inter_token_ms.
    alerts_inter_token_time: Count counter,
    /// Times that the key/value memory in use rose above alert_kv_used_percent.
    alerts_kv_used: Count counter,
    /// Minutes with more preemptions than alert_preemptions_per_minute.
    alerts_preemptions: Count counter,
    /// Tokens held in the key/value blocks when most bytes of them were in use.
    kv_tokens_peak: Count gauge,
    /// Steps that verified proposed tokens.
    speculative_steps: Count counter,
    /// Tokens proposed and verified.
    draft_tokens: Count counter,
    /// Proposed tokens that were right.
    accepted_tokens: Count counter,
    /// State of the cold tier: 0 off or not to be opened, 1 it works, 2 it failed lately and is left alone for a while.
    kv_cold_state: Count gauge,
    /// Blocks that can be read from the cold tier.
    kv_cold_blocks: Count gauge,
    /// Bytes they take in its storage.
    kv_cold_bytes: Bytes gauge,
    /// Bytes they may take.
    kv_cold_bytes_budget: Bytes gauge,
    /// Prompts of which the cold tier was asked for what memory does not have.
    kv_cold_lookups: Count counter,
    /// Prompt tokens that the cold tier had and memory had not.
    kv_cold_hit_tokens: Count counter,
    /// Of those, tokens that were computed all the same because that is faster.
    kv_cold_recomputed_tokens: Count counter,
    /// Blocks read from the cold tier.
    kv_cold_reads: Count counter,
    /// Blocks that were to be read from it and could not be had.
    kv_cold_misses: Count counter,
    /// Of those, blocks that did not agree with their name or checksum.
    kv_cold_corrupt: Count counter,
    /// Blocks written to the cold tier.
    kv_cold_spills: Count counter,
    /// Blocks that its storage gave up for others.
    kv_cold_evictions: Count counter,
    /// Blocks that were not worth a write.
    kv_cold_refusals: Count counter,
    /// Blocks that were lost because the queue was full or writing failed.
    kv_cold_dropped: Count counter,
    /// Blocks that wait in memory to be written.
    kv_cold_queued: Count gauge,
    /// Bytes written to the cold tier.
    kv_cold_bytes_written: Bytes counter,
    /// Bytes read from it.
    kv_cold_bytes_read: Bytes counter,
    /// Blocks that were read for a request that then began with them.
    kv_cold_prefetch_useful: Count counter,
    /// Blocks that were read for a request that ended before, or whose memory others needed.
    kv_cold_prefetch_useless: Count counter,
    /// Errors of the cold tier's storage.
    kv_cold_errors: Count counter,
    /// Files in its directory that cannot be used: damaged, or of another version, model or layout.
    kv_cold_foreign_files: Count gauge,
    /// 1 when this process is the one that writes to the directory, 0 when another one does.
    kv_cold_writer: Count gauge,
}

impl Stats {
    /// Fills in what the cold tier counts for itself.
    pub(super) fn set_cold(&mut self, tier: &TierStats) {
        self.kv_cold_state = tier.state as u64;
        self.kv_cold_blocks = tier.blocks;
        self.kv_cold_bytes = tier.bytes;
        self.kv_cold_bytes_budget = tier.budget;
        self.kv_cold_lookups = tier.lookups;
        self.kv_cold_hit_tokens = tier.hit_tokens;
        self.kv_cold_recomputed_tokens = tier.recomputed;
        self.kv_cold_reads = tier.reads;
        self.kv_cold_misses = tier.misses;
        self.kv_cold_corrupt = tier.corrupt;
        self.kv_cold_spills = tier.spills;
        self.kv_cold_evictions = tier.evictions;
        self.kv_cold_refusals = tier.refusals;
        self.kv_cold_dropped = tier.dropped;
        self.kv_cold_queued = tier.queued;
        self.kv_cold_bytes_written = tier.written;
        self.kv_cold_bytes_read = tier.read;
        self.kv_cold_prefetch_useful = tier.useful;
        self.kv_cold_prefetch_useless = tier.useless;
        self.kv_cold_errors = tier.errors;
        self.kv_cold_foreign_files = tier.foreign_files;
        self.kv_cold_writer = tier.writer;
    }

    /// Generated tokens per second of decode time; 0 before the first.
    pub fn decode_tokens_per_second(&self) -> f64 {
        per_second(self.generated_tokens, self.decode_time)
    }

    /// Prompt tokens per second of prefill time; 0 before the first.
    pub fn prefill_tokens_per_second(&self) -> f64 {
        per_second(self.prompt_tokens, self.prefill_time)
    }

    /// Components of the prefill time.
    pub fn prefill_components(&self) -> ComponentTimes {
        ComponentTimes {
            embedding: self.prefill_embedding_time,
            attention: self.prefill_attention_time,
            ffn: self.prefill_ffn_time,
            projection: self.prefill_projection_time,
            sampling: self.prefill_sampling_time,
        }
    }

    /// Components of the decode time.
    pub fn decode_components(&self) -> ComponentTimes {
        ComponentTimes {
            embedding: self.decode_embedding_time,
            attention: self.decode_attention_time,
            ffn: self.decode_ffn_time,
            projection: self.decode_projection_time,
            sampling: self.decode_sampling_time,
        }
    }
}

fn per_second(count: u64, nanoseconds: u64) -> f64 {
    if nanoseconds == 0 {
        0.0
    } else {
        count as f64 * 1e9 / nanoseconds as f64
    }
}

pub(crate) fn nanoseconds(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

impl Counters {
    /// All at 0, made away from the stack of who creates an engine.
    #[inline(never)]
    pub(crate) fn shared() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Relaxed);
    }

    pub(crate) fn set(counter: &AtomicU64, n: u64) {
        counter.store(n, Relaxed);
    }

    pub(crate) fn raise(counter: &AtomicU64, n: u64) {
        counter.fetch_max(n, Relaxed);
    }

    /// Adds a value to a histogram. Only who holds the worker does.
    pub(super) fn record(&self, kind: HistogramKind, value: u64) {
        self.histograms.of(kind).record(value);
    }

    /// Counts the time a request waited for its first step, in nanoseconds.
    pub(super) fn waited(&self, time: u64) {
        Self::add(&self.queue_time, time);
        Self::raise(&self.max_queue_time, time);
        self.record(HistogramKind::QueueTime, time);
    }

    /// Counts the time from a request's submission to its first token, in nanoseconds.
    pub(super) fn answered(&self, time: u64) {
        Self::add(&self.time_to_first_token, time);
        Self::raise(&self.max_time_to_first_token, time);
        self.record(HistogramKind::TimeToFirstToken, time);
    }

    /// Counts a request's end.
    pub(crate) fn count_ending(&self, reason: FinishReason) {
        let counter = match reason {
            FinishReason::Length | FinishReason::Stop | FinishReason::EndOfGeneration => {
                &self.requests_completed
            }
            FinishReason::Cancelled => &self.requests_cancelled,
            FinishReason::Deadline => &self.requests_expired,
            FinishReason::Error => &self.requests_failed,
        };
        Self::add(counter, 1);
    }

    /// Adds the times of a step of `total` nanoseconds, split between prefill and decode by the share of their rows.
    pub(crate) fn add_step(
        &self,
        times: &ComponentTimes,
        total: u64,
        prefill_rows: usize,
        decode_rows: usize,
    ) {
        let rows = (prefill_rows + decode_rows).max(1) as u64;
        let prefill = |t: u64| (t as u128 * prefill_rows as u128 / rows as u128) as u64;
        for (t, p, d) in [
            (
                times.embedding,
                &self.prefill_embedding_time,
                &self.decode_embedding_time,
            ),
            (
                times.attention,
                &self.prefill_attention_time,
                &self.decode_attention_time,
            ),
            (times.ffn, &self.prefill_ffn_time, &self.decode_ffn_time),
            (
                times.projection,
                &self.prefill_projection_time,
                &self.decode_projection_time,
            ),
            (
                times.sampling,
                &self.prefill_sampling_time,
                &self.decode_sampling_time,
            ),
            (total, &self.prefill_time, &self.decode_time),
        ] {
            Self::add(p, prefill(t));
            Self::add(d, t - prefill(t));
        }
    }
}
