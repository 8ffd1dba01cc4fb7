//! How many tokens to store in one call.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::shape::{Elements, Shape};
use super::{BLOCK_TOKENS, Counters, KvStore, Pool, Sequence, Shared};
use crate::error::Result;
use crate::memory;

/// Most tokens of a call that are tried.
const MOST: usize = 2 * BLOCK_TOKENS;

/// Bytes stored to, about: more than the caches next to a core hold, as with a real store.
const BYTES: usize = 8 << 20;

/// How long each number of tokens is measured, about.
const EACH: Duration = Duration::from_micros(1500);

impl Sequence {
    /// Tokens for a call of [`Sequence::store_batch`]: the largest power of two up to 64 with which a token takes at most
    /// 3 % longer than with the best. Measured on this machine with rows of this store when it is first asked for,
    /// which takes about 15 milliseconds and 8 MiB of memory, or more where 64 tokens of a layer are more; the store keeps
    /// the answer.
    ///
    /// # Errors
    /// When memory is short.
    pub fn optimal_batch(&self) -> Result<usize> {
        if let Some(&n) = self.shared.optimal_batch.get() {
            return Ok(n);
        }
        let n = measure(&self.shared)?;
        Ok(*self.shared.optimal_batch.get_or_init(|| n))
    }
}

/// Stores into a small store beside the real one.
fn measure(shared: &Shared) -> Result<usize> {
    let layer = 2 * MOST * shared.shape.token_bytes();
    let shape = Shape {
        n_layers: (BYTES / layer.max(1)).clamp(1, shared.shape.n_layers),
        ..shared.shape
    };
    let store = KvStore {
        shared: Arc::new(Shared {
            shape,
            kernels: shared.kernels,
            pool: Arc::new(Pool::new(shape.block_bytes(), MOST / BLOCK_TOKENS)),
            index: Arc::clone(&shared.index),
            counters: Counters::default(),
            optimal_batch: OnceLock::new(),
            tier: None,
            persist: None,
        }),
    };
    let sequence = store.open("")?;
    let rows = memory::filled(0.5f32, MOST * shape.token_elements(), "rows to measure with")?;
    let round = |n: usize| -> Result<Duration> {
        let rows = &rows[..n * shape.token_elements()];
        let start = Instant::now();
        for position in (0..MOST).step_by(n) {
            for layer in 0..shape.n_layers {
                sequence.store_batch(layer, position, n, Elements::F32(rows), Elements::F32(rows))?;
            }
        }
        Ok(start.elapsed())
    };
    // Memory is touched before it is measured.
    round(MOST)?;
    let sizes = || (0..).map(|i| 1usize << i).take_while(|n| *n <= MOST);
    let mut best = [Duration::MAX; usize::BITS as usize];
    for n in sizes() {
        let end = Instant::now() + EACH;
        loop {
            let best = &mut best[n.ilog2() as usize];
            *best = round(n)?.min(*best);
            if Instant::now() >= end {
                break;
            }
        }
    }
    let least = best.iter().min().copied().unwrap_or_default();
    let good = |n: &usize| best[n.ilog2() as usize] <= least + least / 33;
    // The largest: memory that no cache holds likes long runs even better.
    Ok(sizes().filter(good).last().unwrap_or(MOST))
}
