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
    /// Steps that verified proposed tokens.
    pub speculative_steps: u64,
    /// Tokens proposed and verified.
    pub draft_tokens: u64,
    /// Proposed tokens that were right.
    pub accepted_tokens: u64,
    /// Share of the proposed tokens that were right, from 0 to 1.
    pub draft_acceptance: f64,
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

/// Every counter of the struct, in its order.
const COUNTERS: &[Counter] = &[
    Counter {
        name: "requests_submitted",
        kind: Kind::Count,
        get: |s| &mut s.requests_submitted,
    },
    Counter {
        name: "requests_refused",
        kind: Kind::Count,
        get: |s| &mut s.requests_refused,
    },
    Counter {
        name: "requests_completed",
        kind: Kind::Count,
        get: |s| &mut s.requests_completed,
    },
    Counter {
        name: "requests_cancelled",
        kind: Kind::Count,
        get: |s| &mut s.requests_cancelled,
    },
    Counter {
        name: "requests_expired",
        kind: Kind::Count,
        get: |s| &mut s.requests_expired,
    },
    Counter {
        name: "requests_failed",
        kind: Kind::Count,
        get: |s| &mut s.requests_failed,
    },
    Counter {
        name: "running",
        kind: Kind::Gauge,
        get: |s| &mut s.running,
    },
    Counter {
        name: "queued",
        kind: Kind::Gauge,
        get: |s| &mut s.queued,
    },
    Counter {
        name: "steps",
        kind: Kind::Count,
        get: |s| &mut s.steps,
    },
    Counter {
        name: "max_batch",
        kind: Kind::Maximum,
        get: |s| &mut s.max_batch,
    },
    Counter {
        name: "prompt_tokens",
        kind: Kind::Count,
        get: |s| &mut s.prompt_tokens,
    },
    Counter {
        name: "generated_tokens",
        kind: Kind::Count,
        get: |s| &mut s.generated_tokens,
    },
    Counter {
        name: "queue_time",
        kind: Kind::Count,
        get: |s| &mut s.queue_time_ns,
    },
    Counter {
        name: "max_queue_time",
        kind: Kind::Maximum,
        get: |s| &mut s.max_queue_time_ns,
    },
    Counter {
        name: "time_to_first_token",
        kind: Kind::Count,
        get: |s| &mut s.time_to_first_token_ns,
    },
    Counter {
        name: "max_time_to_first_token",
        kind: Kind::Maximum,
        get: |s| &mut s.max_time_to_first_token_ns,
    },
    Counter {
        name: "prefill_time",
        kind: Kind::Count,
        get: |s| &mut s.prefill_time_ns,
    },
    Counter {
        name: "decode_time",
        kind: Kind::Count,
        get: |s| &mut s.decode_time_ns,
    },
    Counter {
        name: "prefill_embedding_time",
        kind: Kind::Count,
        get: |s| &mut s.prefill_embedding_time_ns,
    },
    Counter {
        name: "prefill_attention_time",
        kind: Kind::Count,
        get: |s| &mut s.prefill_attention_time_ns,
    },
    Counter {
        name: "prefill_ffn_time",
        kind: Kind::Count,
        get: |s| &mut s.prefill_ffn_time_ns,
    },
    Counter {
        name: "prefill_projection_time",
        kind: Kind::Count,
        get: |s| &mut s.prefill_projection_time_ns,
    },
    Counter {
        name: "prefill_sampling_time",
        kind: Kind::Count,
        get: |s| &mut s.prefill_sampling_time_ns,
    },
    Counter {
        name: "decode_embedding_time",
        kind: Kind::Count,
        get: |s| &mut s.decode_embedding_time_ns,
    },
    Counter {
        name: "decode_attention_time",
        kind: Kind::Count,
        get: |s| &mut s.decode_attention_time_ns,
    },
    Counter {
        name: "decode_ffn_time",
        kind: Kind::Count,
        get: |s| &mut s.decode_ffn_time_ns,
    },
    Counter {
        name: "decode_projection_time",
        kind: Kind::Count,
        get: |s| &mut s.decode_projection_time_ns,
    },
    Counter {
        name: "decode_sampling_time",
        kind: Kind::Count,
        get: |s| &mut s.decode_sampling_time_ns,
    },
    Counter {
        name: "kv_bytes_used",
        kind: Kind::Gauge,
        get: |s| &mut s.kv_bytes_used,
    },
    Counter {
        name: "kv_bytes_peak",
        kind: Kind::Gauge,
        get: |s| &mut s.kv_bytes_peak,
    },
    Counter {
        name: "kv_bytes_budget",
        kind: Kind::Gauge,
        get: |s| &mut s.kv_bytes_budget,
    },
    Counter {
        name: "kv_tokens_used",
        kind: Kind::Gauge,
        get: |s| &mut s.kv_tokens_used,
    },
    Counter {
        name: "panics",
        kind: Kind::Count,
        get: |s| &mut s.panics,
    },
    Counter {
        name: "prefix_lookups",
        kind: Kind::Count,
        get: |s| &mut s.prefix_lookups,
    },
    Counter {
        name: "prefix_hit_tokens",
        kind: Kind::Count,
        get: |s| &mut s.prefix_hit_tokens,
    },
    Counter {
        name: "prefix_evictions",
        kind: Kind::Count,
        get: |s| &mut s.prefix_evictions,
    },
    Counter {
        name: "kv_bytes_cached",
        kind: Kind::Gauge,
        get: |s| &mut s.kv_bytes_cached,
    },
    Counter {
        name: "kv_slots_used",
        kind: Kind::Gauge,
        get: |s| &mut s.kv_slots_used,
    },
    Counter {
        name: "preemptions",
        kind: Kind::Count,
        get: |s| &mut s.preemptions,
    },
    Counter {
        name: "speculative_steps",
        kind: Kind::Count,
        get: |s| &mut s.speculative_steps,
    },
    Counter {
        name: "draft_tokens",
        kind: Kind::Count,
        get: |s| &mut s.draft_tokens,
    },
    Counter {
        name: "accepted_tokens",
        kind: Kind::Count,
        get: |s| &mut s.accepted_tokens,
    },
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
