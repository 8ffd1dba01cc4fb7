//! How a product is cut into the parts that workers claim: large ones first, small ones at the end.
//!
//! The large ones keep the weights a worker reads in one stream; the small ones fill the time in which others are still
//! at their last large one, so that a worker that is slow, or loses its CPU for a while, does not hold up the rest.

use std::ops::Range;

/// Large parts per thread, were there no others.
const LARGE_PER_THREAD: usize = 8;
/// The same of small ones.
const SMALL_PER_THREAD: usize = 32;

/// Panels of the parts of a product: large parts first, small ones at the end.
#[derive(Debug, Clone, Copy)]
pub struct Parts {
    large: usize,
    small: usize,
}

impl Parts {
    /// For a product of `panels` panels in all.
    pub fn new(panels: usize, threads: usize) -> Self {
        // An even number, for tiles of two vectors of rows, and not 0 where there is nothing to compute.
        let even = |per_thread: usize| ((panels / (threads * per_thread)) & !1).max(2);
        Self {
            large: even(LARGE_PER_THREAD),
            small: even(SMALL_PER_THREAD),
        }
    }

    /// Parts of a matrix of `panels` panels.
    pub fn of(self, panels: usize) -> usize {
        let large = self.large_ones(panels);
        large + (panels - large * self.large).div_ceil(self.small)
    }

    /// The panels of part `i`.
    pub fn range(self, panels: usize, i: usize) -> Range<usize> {
        let large = self.large_ones(panels);
        let (start, len) = if i < large {
            (i * self.large, self.large)
        } else {
            (large * self.large + (i - large) * self.small, self.small)
        };
        start..(start + len).min(panels)
    }

    /// Three quarters of the work are in large parts.
    fn large_ones(self, panels: usize) -> usize {
        panels / 4 * 3 / self.large
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_whole_in_order() {
        for threads in [1, 2, 3, 8, 64, 1024] {
            for panels in [0, 1, 2, 3, 4, 5, 7, 8, 31, 128, 129, 8000] {
                // Also as one matrix of several that share a job.
                for all in [panels, 3 * panels + 1] {
                    let parts = Parts::new(all, threads);
                    let mut next = 0;
                    for i in 0..parts.of(panels) {
                        let range = parts.range(panels, i);
                        assert!(range.start == next && range.end > next, "{range:?} of {panels}");
                        next = range.end;
                    }
                    assert_eq!(next, panels);
                }
            }
        }
    }

    /// The time that workers of these speeds take for `panels` panels, by a clock that only this test sees: each takes
    /// the next part when it has finished its last. Of those that are free at once, the last or the first takes it.
    fn time(panels: usize, speeds: &[f64], last: bool) -> f64 {
        let mut free = vec![0.0f64; speeds.len()];
        let parts = Parts::new(panels, speeds.len());
        for i in 0..parts.of(panels) {
            let earliest = free.iter().copied().fold(f64::INFINITY, f64::min);
            let mut idle = (0..speeds.len()).filter(|&w| free[w] == earliest);
            let worker = if last { idle.next_back() } else { idle.next() };
            let worker = worker.expect("somebody is the first");
            free[worker] += parts.range(panels, i).len() as f64 / speeds[worker];
        }
        free.into_iter().fold(0.0, f64::max)
    }

    #[test]
    fn a_worker_of_a_third_of_the_speed_costs_no_more_than_a_tenth_of_all() {
        // Matrices of 2048 to 128 000 rows, in panels of 16.
        for panels in [128, 192, 256, 320, 512, 688, 896, 1024, 1792, 8000] {
            // With fewer panels for each, one part of two panels is too long.
            for threads in (2..=16).filter(|t| panels >= 48 * t) {
                let mut speeds = vec![1.0; threads];
                speeds[threads - 1] = 1.0 / 3.0;
                let ideal = panels as f64 / speeds.iter().sum::<f64>();
                for last in [false, true] {
                    let share = ideal / time(panels, &speeds, last);
                    assert!(share >= 0.9, "{panels} panels, {threads} workers: {share:.3}");
                }
            }
        }
    }

    #[test]
    fn every_worker_could_take_eight_parts() {
        for threads in [1, 2, 4, 8, 16, 64] {
            for panels in [16 * threads, 48 * threads, 4096, 8000] {
                let parts = Parts::new(panels, threads);
                let n = parts.of(panels);
                assert!(
                    n >= 8 * threads || parts.large == 2,
                    "{panels} panels, {threads} threads: {n} parts"
                );
            }
        }
    }
}
