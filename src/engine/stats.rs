//! Counters of an engine: plain atomics written by the worker and read by anyone.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Time per component of the forward pass, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ComponentTimes {
    /// Reading embedding rows.
    pub embedding: u64,
    /// Attention with its norm, projections and cache.
    pub attention: u64,
    /// Feed-forward network with its norm, experts included.
    pub ffn: u64,
    /// Final norm and output projection to logits.
    pub projection: u64,
    /// Sampling and detokenizing.
    pub sampling: u64,
}

impl ComponentTimes {
    /// Sum of all components.
    pub fn total(&self) -> u64 {
        self.embedding + self.attention + self.ffn + self.projection + self.sampling
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// A snapshot of an engine's counters. Times are nanoseconds; counts only grow, except the gauges
        /// `running`, `queued`, `kv_bytes_used`.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }

        /// The live counters behind [`Stats`].
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)*
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
    requests_submitted,
    /// Requests refused because the queue was full.
    requests_refused,
    /// Requests that ended by length, stop or end of generation.
    requests_completed,
    /// Requests that were cancelled.
    requests_cancelled,
    /// Requests whose deadline passed.
    requests_expired,
    /// Requests that failed.
    requests_failed,
    /// Sequences being computed now.
    running,
    /// Requests waiting now.
    queued,
    /// Steps of the scheduler.
    steps,
    /// Largest number of sequences in one step.
    max_batch,
    /// Prompt tokens computed.
    prompt_tokens,
    /// Tokens generated.
    generated_tokens,
    /// Sum of the times requests waited before their first step.
    queue_time,
    /// Longest such time.
    max_queue_time,
    /// Sum of the times from submission to the first token.
    time_to_first_token,
    /// Longest such time.
    max_time_to_first_token,
    /// Time in steps, split by the share of prompt rows.
    prefill_time,
    /// Time in steps, split by the share of generated rows.
    decode_time,
    /// Prefill: embedding.
    prefill_embedding_time,
    /// Prefill: attention.
    prefill_attention_time,
    /// Prefill: feed-forward network.
    prefill_ffn_time,
    /// Prefill: output projection.
    prefill_projection_time,
    /// Prefill: sampling.
    prefill_sampling_time,
    /// Decode: embedding.
    decode_embedding_time,
    /// Decode: attention.
    decode_attention_time,
    /// Decode: feed-forward network.
    decode_ffn_time,
    /// Decode: output projection.
    decode_projection_time,
    /// Decode: sampling.
    decode_sampling_time,
    /// Bytes of key/value blocks in use now.
    kv_bytes_used,
    /// Most bytes of key/value blocks that were in use.
    kv_bytes_peak,
    /// Bytes of key/value blocks the engine may use.
    kv_bytes_budget,
    /// Tokens held in the key/value blocks in use now.
    kv_tokens_used,
    /// Caught panics of a step.
    panics,
}

impl Stats {
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
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Relaxed);
    }

    pub(crate) fn set(counter: &AtomicU64, n: u64) {
        counter.store(n, Relaxed);
    }

    pub(crate) fn raise(counter: &AtomicU64, n: u64) {
        counter.fetch_max(n, Relaxed);
    }

    /// Adds a step's component times, split between prefill and decode by the share of prefill rows.
    pub(crate) fn add_step(&self, times: &ComponentTimes, prefill_rows: usize, decode_rows: usize) {
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
            (times.total(), &self.prefill_time, &self.decode_time),
        ] {
            Self::add(p, prefill(t));
            Self::add(d, t - prefill(t));
        }
    }
}
