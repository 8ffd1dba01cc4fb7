//! What the machine gives at this moment: read bandwidth of memory and the clock, both with all threads of a pool.
//!
//! A shared machine drifts within minutes, so the probe runs beside every measurement. It reads a buffer larger than
//! caches on pages as large as those of the weights; the clock is that of a chain of instructions that depend on each other.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use infer::kernel::{ThreadPool, for_each_chunk_mut};
use infer::memory::Region;

/// Bytes read per pass.
const BUFFER: usize = 256 << 20;
/// Passes per probe; the median counts.
const PASSES: usize = 5;
/// Pieces of a pass that each thread can claim.
const PIECES_PER_THREAD: usize = 16;
/// Links of the chain.
const LINKS: u64 = 500_000;
/// Cycles of a link: a 64-bit multiplication takes three on current cores, the exclusive or that follows one.
const CYCLES_PER_LINK: f64 = 4.0;

/// Figures of one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// Bytes per second that all threads together read from memory.
    pub bandwidth: f64,
    /// Cycles per second.
    pub clock: f64,
}

impl Sample {
    /// The larger figures of the two: a limit is what the machine can do.
    pub fn or_better(self, other: Sample) -> Sample {
        Sample {
            bandwidth: self.bandwidth.max(other.bandwidth),
            clock: self.clock.max(other.clock),
        }
    }
}

/// A buffer and the threads that read it.
pub struct Probe {
    pool: Arc<ThreadPool>,
    buffer: Region,
}

impl Probe {
    /// Fills the buffer.
    pub fn new(pool: Arc<ThreadPool>) -> infer::Result<Self> {
        let mut buffer = Region::new(BUFFER, "the buffer of the bandwidth probe")?;
        buffer.fill(1);
        Ok(Self { pool, buffer })
    }

    /// Bytes of memory the probe itself holds.
    pub fn bytes(&self) -> u64 {
        self.buffer.len() as u64
    }

    /// Measures now; takes about 50 milliseconds.
    pub fn sample(&self) -> Sample {
        let mut passes: Vec<f64> = (0..PASSES).map(|_| self.read()).collect();
        passes.sort_by(f64::total_cmp);
        Sample {
            bandwidth: passes[PASSES / 2],
            clock: self.clock(),
        }
    }

    fn read(&self) -> f64 {
        let mut sums = vec![0u64; PIECES_PER_THREAD * self.pool.threads()];
        let piece = self.buffer.len() / sums.len();
        let started = Instant::now();
        for_each_chunk_mut(&self.pool, &mut sums, 1, |i, sum| {
            for sum in sum {
                *sum = add_up(&self.buffer[i * piece..(i + 1) * piece]);
            }
        });
        black_box(&sums);
        (piece * sums.len()) as f64 / started.elapsed().as_secs_f64()
    }

    fn clock(&self) -> f64 {
        let mut clocks = vec![0.0f64; 2 * self.pool.threads()];
        for_each_chunk_mut(&self.pool, &mut clocks, 1, |_, clock| {
            for clock in clock {
                *clock = chain();
            }
        });
        // An interruption makes a chain longer, nothing makes it shorter.
        clocks.into_iter().fold(0.0, f64::max)
    }
}

/// Sum of the numbers in `bytes`, in as many independent sums as the vectors of a wide core need.
fn add_up(bytes: &[u8]) -> u64 {
    let mut sums = [0u64; 16];
    for line in bytes.chunks_exact(128) {
        for (sum, word) in sums.iter_mut().zip(line.as_chunks::<8>().0) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    sums.iter().fold(0, |a, b| a.wrapping_add(*b))
}

/// Cycles per second of the core this runs on.
pub fn chain() -> f64 {
    let factor = black_box(0x9e37_79b9_7f4a_7c15u64);
    let mask = black_box(0x5555_5555_5555_5555u64);
    let mut x = black_box(1u64);
    let started = Instant::now();
    for _ in 0..LINKS {
        x = x.wrapping_mul(factor) ^ mask;
    }
    let seconds = started.elapsed().as_secs_f64();
    black_box(x);
    LINKS as f64 * CYCLES_PER_LINK / seconds.max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_the_buffer_is_added() {
        let mut bytes = vec![0u8; 1024];
        for i in 0..128 {
            bytes[8 * i] = i as u8;
        }
        assert_eq!(add_up(&bytes), 127 * 128 / 2);
    }

    #[test]
    fn a_sample_takes_the_better_of_each_figure() {
        let a = Sample {
            bandwidth: 1.0,
            clock: 4.0,
        };
        let b = Sample {
            bandwidth: 2.0,
            clock: 3.0,
        };
        let c = a.or_better(b);
        assert_eq!((c.bandwidth, c.clock), (2.0, 4.0));
    }
}
