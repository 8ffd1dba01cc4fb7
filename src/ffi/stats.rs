//! Statistics: a snapshot, and arithmetic on snapshots.

use super::error::infer_error;
use super::guard;
use super::memory::{self, AbiStruct};
use super::status::infer_status;
use crate::engine::Stats;

/// A snapshot of an engine's counters. Those that end in _ns are nanoseconds. Counts and times only grow; running,
/// queued and the kv_ fields say how it is at the moment; those that begin with max_ are the largest so far. Rates and
/// shares are computed from the counts and times beside them.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct infer_stats {
    /// Set by INFER_STATS_INIT.
    pub struct_size: u32,
    /// Always 0.
    pub reserved: u32,
    /// Requests accepted.
    pub requests_submitted: u64,
    /// Requests refused because the queue was full.
    pub requests_refused: u64,
    /// Requests that ended by length, stop or end of generation.
    pub requests_completed: u64,
    /// Requests that were cancelled.
    pub requests_cancelled: u64,
    /// Requests whose deadline passed.
    pub requests_expired: u64,
    /// Requests that failed.
    pub requests_failed: u64,
    /// Sequences being computed now.
    pub running: u64,
    /// Requests waiting now.
    pub queued: u64,
    /// Steps of the scheduler.
    pub steps: u64,
    /// Largest number of sequences in one step.
    pub max_batch: u64,
    /// Prompt tokens computed.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Sum of the times requests waited before their first step.
    pub queue_time_ns: u64,
    /// Longest such time.
    pub max_queue_time_ns: u64,
    /// Sum of the times from submission to the first token.
    pub time_to_first_token_ns: u64,
    /// Longest such time.
    pub max_time_to_first_token_ns: u64,
    /// Time in steps, split by the share of prompt rows.
    pub prefill_time_ns: u64,
    /// Time in steps, split by the share of generated rows.
    pub decode_time_ns: u64,
    /// Prefill: embedding.
    pub prefill_embedding_time_ns: u64,
    /// Prefill: attention.
    pub prefill_attention_time_ns: u64,
    /// Prefill: feed-forward network.
    pub prefill_ffn_time_ns: u64,
    /// Prefill: output projection.
    pub prefill_projection_time_ns: u64,
    /// Prefill: sampling.
    pub prefill_sampling_time_ns: u64,
    /// Decode: embedding.
    pub decode_embedding_time_ns: u64,
    /// Decode: attention.
    pub decode_attention_time_ns: u64,
    /// Decode: feed-forward network.
    pub decode_ffn_time_ns: u64,
    /// Decode: output projection.
    pub decode_projection_time_ns: u64,
    /// Decode: sampling.
    pub decode_sampling_time_ns: u64,
    /// Bytes of key/value blocks in use now.
    pub kv_bytes_used: u64,
    /// Most bytes of key/value blocks that were in use.
    pub kv_bytes_peak: u64,
    /// Bytes of key/value blocks the engine may use.
    pub kv_bytes_budget: u64,
    /// Tokens held in the key/value blocks in use now.
    pub kv_tokens_used: u64,
    /// Caught panics of a step.
    pub panics: u64,
    /// Tokens generated per second of decode_time_ns.
    pub decode_tokens_per_second: f64,
    /// Prompt tokens computed per second of prefill_time_ns.
    pub prefill_tokens_per_second: f64,
    /// Share of the prefill time that went to reading embedding rows, from 0 to 1.
    pub prefill_embedding_share: f64,
    /// Share of the prefill time that went to attention, from 0 to 1.
    pub prefill_attention_share: f64,
    /// Share of the prefill time that went to the feed-forward network, from 0 to 1.
    pub prefill_ffn_share: f64,
    /// Share of the prefill time that went to the output projection, from 0 to 1.
    pub prefill_projection_share: f64,
    /// Share of the prefill time that went to sampling, from 0 to 1.
    pub prefill_sampling_share: f64,
    /// Share of the decode time that went to reading embedding rows, from 0 to 1.
    pub decode_embedding_share: f64,
    /// Share of the decode time that went to attention, from 0 to 1.
    pub decode_attention_share: f64,
    /// Share of the decode time that went to the feed-forward network, from 0 to 1.
    pub decode_ffn_share: f64,
    /// Share of the decode time that went to the output projection, from 0 to 1.
    pub decode_projection_share: f64,
    /// Share of the decode time that went to sampling, from 0 to 1.
    pub decode_sampling_share: f64,
    /// Prompts that were looked up in the prefix cache.
    pub prefix_lookups: u64,
    /// Prompt tokens found there, which were not computed.
    pub prefix_hit_tokens: u64,
    /// Blocks that the prefix cache gave up for others.
    pub prefix_evictions: u64,
    /// Bytes of key/value blocks that no request uses and the prefix cache keeps.
    pub kv_bytes_cached: u64,
    /// Token slots of the key/value blocks in use now.
    pub kv_slots_used: u64,
    /// Share of kv_slots_used that holds tokens, from 0 to 1.
    pub kv_utilization: f64,
    /// Share of the prompt tokens that were found in the prefix cache, from 0 to 1.
    pub prefix_hit_share: f64,
    /// Times that a running sequence gave up its memory or place to others.
    pub preemptions: u64,
    /// Rows of generated tokens computed.
    pub decode_rows: u64,
    /// Calls of attention tile by tile: one per layer and step.
    pub attention_tiled_calls: u64,
    /// Calls of attention in two passes: one per layer and step.
    pub attention_two_pass_calls: u64,
    /// Requests that waited longer than alert_queue_time_ms.
    pub alerts_queue_time: u64,
    /// Requests whose first token took longer than alert_time_to_first_token_ms.
    pub alerts_time_to_first_token: u64,
    /// Tokens that took longer than alert_inter_token_ms.
    pub alerts_inter_token_time: u64,
    /// Times that the key/value memory in use rose above alert_kv_used_percent.
    pub alerts_kv_used: u64,
    /// Minutes with more preemptions than alert_preemptions_per_minute.
    pub alerts_preemptions: u64,
    /// Tokens held in the key/value blocks when most bytes of them were in use.
    pub kv_tokens_peak: u64,
    /// Steps that verified proposed tokens.
    pub speculative_steps: u64,
    /// Tokens proposed and verified.
    pub draft_tokens: u64,
    /// Proposed tokens that were right.
    pub accepted_tokens: u64,
    /// Share of the proposed tokens that were right, from 0 to 1.
    pub draft_acceptance: f64,
    /// State of the cold tier: 0 off or not to be opened, 1 it works, 2 it failed lately and is left alone for a while.
    pub kv_cold_state: u64,
    /// Blocks that can be read from the cold tier.
    pub kv_cold_blocks: u64,
    /// Bytes they take in its storage.
    pub kv_cold_bytes: u64,
    /// Bytes they may take.
    pub kv_cold_bytes_budget: u64,
    /// Prompts of which the cold tier was asked for what memory does not have.
    pub kv_cold_lookups: u64,
    /// Prompt tokens that the cold tier had and memory had not.
    pub kv_cold_hit_tokens: u64,
    /// Of those, tokens that were computed all the same because that is faster.
    pub kv_cold_recomputed_tokens: u64,
    /// Blocks read from the cold tier.
    pub kv_cold_reads: u64,
    /// Blocks that were to be read from it and could not be had.
    pub kv_cold_misses: u64,
    /// Of those, blocks that did not agree with their name or checksum.
    pub kv_cold_corrupt: u64,
    /// Blocks written to the cold tier.
    pub kv_cold_spills: u64,
    /// Blocks that its storage gave up for others.
    pub kv_cold_evictions: u64,
    /// Blocks that were not worth a write.
    pub kv_cold_refusals: u64,
    /// Blocks that were lost because the queue was full or writing failed.
    pub kv_cold_dropped: u64,
    /// Blocks that wait in memory to be written.
    pub kv_cold_queued: u64,
    /// Bytes written to the cold tier.
    pub kv_cold_bytes_written: u64,
    /// Bytes read from it.
    pub kv_cold_bytes_read: u64,
    /// Blocks that were read for a request that then began with them.
    pub kv_cold_prefetch_useful: u64,
    /// Blocks that were read for a request that ended before, or whose memory others needed.
    pub kv_cold_prefetch_useless: u64,
    /// Errors of the cold tier's storage.
    pub kv_cold_errors: u64,
    /// Files in its directory that cannot be used: damaged, or of another version, model or layout.
    pub kv_cold_foreign_files: u64,
    /// 1 when this process is the one that writes to the directory, 0 when another one does.
    pub kv_cold_writer: u64,
}

// SAFETY: repr(C), struct_size first, two u32 before fields of eight bytes leave no padding, zero is a value.
unsafe impl AbiStruct for infer_stats {
    const NAME: &'static str = "infer_stats";
    const MIN: usize = 16;
}

/// How a counter behaves over time and over engines.
enum Kind {
    /// Grows; differences and sums make sense.
    Count,
    /// The present state; sums over engines make sense.
    Gauge,
    /// The largest so far.
    Maximum,
}

/// A counter, where it is, and what the Rust library calls it.
struct Counter {
    name: &'static str,
    kind: Kind,
    get: fn(&mut infer_stats) -> &mut u64,
}

const fn counter(name: &'static str, kind: Kind, get: fn(&mut infer_stats) -> &mut u64) -> Counter {
    Counter { name, kind, get }
}

/// Every counter of the struct, in its order.
const COUNTERS: &[Counter] = &[
    counter("requests_submitted", Kind::Count, |s| &mut s.requests_submitted),
    counter("requests_refused", Kind::Count, |s| &mut s.requests_refused),
    counter("requests_completed", Kind::Count, |s| &mut s.requests_completed),
    counter("requests_cancelled", Kind::Count, |s| &mut s.requests_cancelled),
    counter("requests_expired", Kind::Count, |s| &mut s.requests_expired),
    counter("requests_failed", Kind::Count, |s| &mut s.requests_failed),
    counter("running", Kind::Gauge, |s| &mut s.running),
    counter("queued", Kind::Gauge, |s| &mut s.queued),
    counter("steps", Kind::Count, |s| &mut s.steps),
    counter("max_batch", Kind::Maximum, |s| &mut s.max_batch),
    counter("prompt_tokens", Kind::Count, |s| &mut s.prompt_tokens),
    counter("generated_tokens", Kind::Count, |s| &mut s.generated_tokens),
    counter("queue_time", Kind::Count, |s| &mut s.queue_time_ns),
    counter("max_queue_time", Kind::Maximum, |s| &mut s.max_queue_time_ns),
    counter("time_to_first_token", Kind::Count, |s| {
        &mut s.time_to_first_token_ns
    }),
    counter("max_time_to_first_token", Kind::Maximum, |s| {
        &mut s.max_time_to_first_token_ns
    }),
    counter("prefill_time", Kind::Count, |s| &mut s.prefill_time_ns),
    counter("decode_time", Kind::Count, |s| &mut s.decode_time_ns),
    counter("prefill_embedding_time", Kind::Count, |s| {
        &mut s.prefill_embedding_time_ns
    }),
    counter("prefill_attention_time", Kind::Count, |s| {
        &mut s.prefill_attention_time_ns
    }),
    counter("prefill_ffn_time", Kind::Count, |s| &mut s.prefill_ffn_time_ns),
    counter("prefill_projection_time", Kind::Count, |s| {
        &mut s.prefill_projection_time_ns
    }),
    counter("prefill_sampling_time", Kind::Count, |s| {
        &mut s.prefill_sampling_time_ns
    }),
    counter("decode_embedding_time", Kind::Count, |s| {
        &mut s.decode_embedding_time_ns
    }),
    counter("decode_attention_time", Kind::Count, |s| {
        &mut s.decode_attention_time_ns
    }),
    counter("decode_ffn_time", Kind::Count, |s| &mut s.decode_ffn_time_ns),
    counter("decode_projection_time", Kind::Count, |s| {
        &mut s.decode_projection_time_ns
    }),
    counter("decode_sampling_time", Kind::Count, |s| {
        &mut s.decode_sampling_time_ns
    }),
    counter("kv_bytes_used", Kind::Gauge, |s| &mut s.kv_bytes_used),
    counter("kv_bytes_peak", Kind::Gauge, |s| &mut s.kv_bytes_peak),
    counter("kv_bytes_budget", Kind::Gauge, |s| &mut s.kv_bytes_budget),
    counter("kv_tokens_used", Kind::Gauge, |s| &mut s.kv_tokens_used),
    counter("panics", Kind::Count, |s| &mut s.panics),
    counter("prefix_lookups", Kind::Count, |s| &mut s.prefix_lookups),
    counter("prefix_hit_tokens", Kind::Count, |s| &mut s.prefix_hit_tokens),
    counter("prefix_evictions", Kind::Count, |s| &mut s.prefix_evictions),
    counter("kv_bytes_cached", Kind::Gauge, |s| &mut s.kv_bytes_cached),
    counter("kv_slots_used", Kind::Gauge, |s| &mut s.kv_slots_used),
    counter("preemptions", Kind::Count, |s| &mut s.preemptions),
    counter("decode_rows", Kind::Count, |s| &mut s.decode_rows),
    counter("attention_tiled_calls", Kind::Count, |s| {
        &mut s.attention_tiled_calls
    }),
    counter("attention_two_pass_calls", Kind::Count, |s| {
        &mut s.attention_two_pass_calls
    }),
    counter("alerts_queue_time", Kind::Count, |s| &mut s.alerts_queue_time),
    counter("alerts_time_to_first_token", Kind::Count, |s| {
        &mut s.alerts_time_to_first_token
    }),
    counter("alerts_inter_token_time", Kind::Count, |s| {
        &mut s.alerts_inter_token_time
    }),
    counter("alerts_kv_used", Kind::Count, |s| &mut s.alerts_kv_used),
    counter("alerts_preemptions", Kind::Count, |s| &mut s.alerts_preemptions),
    counter("kv_tokens_peak", Kind::Gauge, |s| &mut s.kv_tokens_peak),
    counter("speculative_steps", Kind::Count, |s| &mut s.speculative_steps),
    counter("draft_tokens", Kind::Count, |s| &mut s.draft_tokens),
    counter("accepted_tokens", Kind::Count, |s| &mut s.accepted_tokens),
    counter("kv_cold_state", Kind::Maximum, |s| &mut s.kv_cold_state),
    counter("kv_cold_blocks", Kind::Gauge, |s| &mut s.kv_cold_blocks),
    counter("kv_cold_bytes", Kind::Gauge, |s| &mut s.kv_cold_bytes),
    counter("kv_cold_bytes_budget", Kind::Gauge, |s| {
        &mut s.kv_cold_bytes_budget
    }),
    counter("kv_cold_lookups", Kind::Count, |s| &mut s.kv_cold_lookups),
    counter("kv_cold_hit_tokens", Kind::Count, |s| &mut s.kv_cold_hit_tokens),
    counter("kv_cold_recomputed_tokens", Kind::Count, |s| {
        &mut s.kv_cold_recomputed_tokens
    }),
    counter("kv_cold_reads", Kind::Count, |s| &mut s.kv_cold_reads),
    counter("kv_cold_misses", Kind::Count, |s| &mut s.kv_cold_misses),
    counter("kv_cold_corrupt", Kind::Count, |s| &mut s.kv_cold_corrupt),
    counter("kv_cold_spills", Kind::Count, |s| &mut s.kv_cold_spills),
    counter("kv_cold_evictions", Kind::Count, |s| &mut s.kv_cold_evictions),
    counter("kv_cold_refusals", Kind::Count, |s| &mut s.kv_cold_refusals),
    counter("kv_cold_dropped", Kind::Count, |s| &mut s.kv_cold_dropped),
    counter("kv_cold_queued", Kind::Gauge, |s| &mut s.kv_cold_queued),
    counter("kv_cold_bytes_written", Kind::Count, |s| {
        &mut s.kv_cold_bytes_written
    }),
    counter("kv_cold_bytes_read", Kind::Count, |s| &mut s.kv_cold_bytes_read),
    counter("kv_cold_prefetch_useful", Kind::Count, |s| {
        &mut s.kv_cold_prefetch_useful
    }),
    counter("kv_cold_prefetch_useless", Kind::Count, |s| {
        &mut s.kv_cold_prefetch_useless
    }),
    counter("kv_cold_errors", Kind::Count, |s| &mut s.kv_cold_errors),
    counter("kv_cold_foreign_files", Kind::Gauge, |s| {
        &mut s.kv_cold_foreign_files
    }),
    counter("kv_cold_writer", Kind::Gauge, |s| &mut s.kv_cold_writer),
];

impl infer_stats {
    fn zero() -> Self {
        // SAFETY: integers and floats: zero is a value of every field.
        unsafe { std::mem::zeroed() }
    }

    /// Fills rates and shares from counts and times.
    fn derive(mut self) -> Self {
        let ratio = |part: u64, whole: u64| {
            if whole == 0 {
                0.0
            } else {
                part as f64 / whole as f64
            }
        };
        let per_second = |count: u64, ns: u64| {
            if ns == 0 {
                0.0
            } else {
                count as f64 * 1e9 / ns as f64
            }
        };
        self.decode_tokens_per_second = per_second(self.generated_tokens, self.decode_time_ns);
        self.prefill_tokens_per_second = per_second(self.prompt_tokens, self.prefill_time_ns);
        self.prefill_embedding_share = ratio(self.prefill_embedding_time_ns, self.prefill_time_ns);
        self.prefill_attention_share = ratio(self.prefill_attention_time_ns, self.prefill_time_ns);
        self.prefill_ffn_share = ratio(self.prefill_ffn_time_ns, self.prefill_time_ns);
        self.prefill_projection_share = ratio(self.prefill_projection_time_ns, self.prefill_time_ns);
        self.prefill_sampling_share = ratio(self.prefill_sampling_time_ns, self.prefill_time_ns);
        self.decode_embedding_share = ratio(self.decode_embedding_time_ns, self.decode_time_ns);
        self.decode_attention_share = ratio(self.decode_attention_time_ns, self.decode_time_ns);
        self.decode_ffn_share = ratio(self.decode_ffn_time_ns, self.decode_time_ns);
        self.decode_projection_share = ratio(self.decode_projection_time_ns, self.decode_time_ns);
        self.decode_sampling_share = ratio(self.decode_sampling_time_ns, self.decode_time_ns);
        self.kv_utilization = ratio(self.kv_tokens_used, self.kv_slots_used);
        let prompts = self.prompt_tokens.saturating_add(self.prefix_hit_tokens);
        self.prefix_hit_share = ratio(self.prefix_hit_tokens, prompts);
        self.draft_acceptance = ratio(self.accepted_tokens, self.draft_tokens);
        self
    }

    fn difference(mut self, mut earlier: Self) -> Self {
        for counter in COUNTERS {
            if matches!(counter.kind, Kind::Count) {
                let value = (counter.get)(&mut self);
                *value = value.saturating_sub(*(counter.get)(&mut earlier));
            }
        }
        self.derive()
    }

    fn merged(mut self, mut other: Self) -> Self {
        for counter in COUNTERS {
            let (value, more) = ((counter.get)(&mut self), *(counter.get)(&mut other));
            *value = match counter.kind {
                Kind::Count | Kind::Gauge => value.saturating_add(more),
                Kind::Maximum => (*value).max(more),
            };
        }
        self.derive()
    }
}

impl From<&Stats> for infer_stats {
    fn from(stats: &Stats) -> Self {
        let mut ours = infer_stats::zero();
        for (name, value) in stats.fields() {
            if let Some(counter) = COUNTERS.iter().find(|c| c.name == name) {
                *(counter.get)(&mut ours) = value;
            }
        }
        ours.derive()
    }
}

/// Computes what happened between two snapshots of the same engine: counts and times are subtracted, the present state
/// and maxima are those of later, rates and shares are those of the time between. delta may be one of the others.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT when one is NULL or too small.
/// Threads: any, while nobody changes the structs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_stats_delta(
    later: *const infer_stats,
    earlier: *const infer_stats,
    delta: *mut infer_stats,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        unsafe {
            let later = memory::read_struct(later, "later")?;
            let earlier = memory::read_struct(earlier, "earlier")?;
            let size = memory::struct_size(delta.cast_const(), "delta")?;
            memory::write_struct(&later.difference(earlier), delta, size);
        }
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_stats_delta", error, body) }
}

/// Adds the snapshot of another engine to total: counts, times and present states are added, the larger maximum stays,
/// rates and shares are those of both.
///
/// Errors: INFER_ERR_INVALID_ARGUMENT when one is NULL or too small.
/// Threads: any, while nobody changes the structs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn infer_stats_merge(
    total: *mut infer_stats,
    other: *const infer_stats,
    error: *mut *mut infer_error,
) -> infer_status {
    let body = || {
        // SAFETY: the conventions of the header.
        unsafe {
            let other = memory::read_struct(other, "other")?;
            let size = memory::struct_size(total.cast_const(), "total")?;
            let merged = memory::read_struct(total.cast_const(), "total")?.merged(other);
            memory::write_struct(&merged, total, size);
        }
        Ok(infer_status::INFER_OK)
    };
    // SAFETY: the conventions of the header.
    unsafe { guard::call("infer_stats_merge", error, body) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_of_the_engine_is_in_the_struct() {
        let stats = Stats::default();
        let missing: Vec<&str> = stats
            .fields()
            .map(|(name, _)| name)
            .filter(|name| !COUNTERS.iter().any(|c| c.name == *name))
            .collect();
        assert!(
            missing.is_empty(),
            "append to infer_stats and COUNTERS: {missing:?}"
        );
        assert_eq!(COUNTERS.len(), stats.fields().count());
    }

    #[test]
    fn differences_subtract_counts_and_keep_states() {
        let earlier = Stats {
            generated_tokens: 10,
            decode_time: 1_000_000_000,
            running: 3,
            max_batch: 4,
            ..Stats::default()
        };
        let later = Stats {
            generated_tokens: 40,
            decode_time: 2_000_000_000,
            running: 1,
            max_batch: 4,
            decode_ffn_time: 500_000_000,
            ..Stats::default()
        };
        let delta = infer_stats::from(&later).difference((&earlier).into());
        assert_eq!(
            (delta.generated_tokens, delta.running, delta.max_batch),
            (30, 1, 4)
        );
        assert_eq!(delta.decode_tokens_per_second, 30.0);
        assert_eq!(delta.decode_ffn_share, 0.5);
        let merged = infer_stats::from(&later).merged((&earlier).into());
        assert_eq!(
            (merged.generated_tokens, merged.running, merged.max_batch),
            (50, 4, 4)
        );
    }
}
