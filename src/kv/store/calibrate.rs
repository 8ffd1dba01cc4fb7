//! How many tokens to store in one call.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::shape::{Elements, Shape};
use super::{BLOCK_TOKENS, Counters, KvStore, Pool, Sequence, Shared};
use crate::error::Result;
use crate::memory;

/// Most tokens of a call that are tried.
const MOST: usize = 2 * BLOCK_TOKENS;

/// How long each number of tokens is measured, about.
const EACH: Duration = Duration::from_micros(400);

impl Sequence {
    /// Tokens for a call of [`Sequence::store_batch`]: the smallest power of two up to 64 with which a token takes at most
    /// 5 % longer than with the best. Measured on this machine with rows of this store when it is first asked for,
    /// which takes a few milliseconds and memory for two blocks of one layer; the store keeps the answer.
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

/// Stores into a store of one layer beside the real one.
fn measure(shared: &Shared) -> Result<usize> {
    let shape = Shape {
        n_layers: 1,
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
        }),
    };
    let sequence = store.open("")?;
    let rows = memory::filled(0.5f32, MOST * shape.token_elements(), "rows to measure with")?;
    let round = |n: usize| -> Result<Duration> {
        let rows = &rows[..n * shape.token_elements()];
        let start = Instant::now();
        for position in (0..MOST).step_by(n) {
            sequence.store_batch(0, position, n, Elements::F32(rows), Elements::F32(rows))?;
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
    let enough = |n: &usize| best[n.ilog2() as usize] <= least + least / 20;
    Ok(sizes().find(enough).unwrap_or(MOST))
}
