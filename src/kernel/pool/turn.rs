//! Whose job a pool runs: callers take turns.
//!
//! A free pool is taken at once, also by the caller that had it last, so a caller's jobs follow each other without a
//! thread switch between them. One that finds the pool taken sleeps for a moment, and then stands in line: from there on
//! nobody passes it. So two engines that decode share the pool in slices of [`PATIENCE`], and neither starves.

use std::sync::PoisonError;
use std::time::Duration;

use crate::sync::{Condvar, MODELLED, Mutex, MutexGuard, thread};

/// How long a caller lets others pass. Many steps of a tiny model, and little to a person who waits.
const PATIENCE: Duration = Duration::from_millis(1);

/// Held by one caller at a time.
pub(super) struct Turn {
    state: Mutex<State>,
    passed_on: Condvar,
}

struct State {
    taken: bool,
    /// Callers that have ever stood in line, and those of them that have had their turn.
    joined: u64,
    served: u64,
}

/// A turn, until dropped.
pub(super) struct Taken<'a>(&'a Turn);

impl Turn {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                taken: false,
                joined: 0,
                served: 0,
            }),
            passed_on: Condvar::new(),
        }
    }

    /// Waits for the turn.
    pub(super) fn take(&self) -> Taken<'_> {
        let mut state = self.lock();
        if state.taken || state.joined != state.served {
            drop(state);
            if !MODELLED {
                thread::sleep(PATIENCE);
            }
            state = self.lock();
            let place = state.joined;
            state.joined += 1;
            while state.taken || state.served != place {
                let waited = self.passed_on.wait(state);
                state = waited.unwrap_or_else(PoisonError::into_inner);
            }
            state.served += 1;
        }
        state.taken = true;
        Taken(self)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.taken = false;
        if state.joined != state.served {
            // All of them, as only one is the next in line.
            drop(state);
            self.0.passed_on.notify_all();
        }
    }
}

#[cfg(all(test, not(infer_models)))]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

    use super::*;

    #[test]
    fn one_that_takes_turn_after_turn_does_not_starve_the_others() {
        /// Forty times those that the others wait for, so that starving them is a failure and not a wait without end.
        const MOST: usize = 20_000;
        let (turn, stop) = (Turn::new(), AtomicBool::new(false));
        let turns: [AtomicUsize; 3] = Default::default();
        std::thread::scope(|s| {
            // Never without the turn for longer than it takes to ask for it again.
            s.spawn(|| {
                while !stop.load(SeqCst) && turns[0].load(SeqCst) < MOST {
                    let _taken = turn.take();
                    turns[0].fetch_add(1, SeqCst);
                    std::thread::sleep(Duration::from_micros(100));
                }
            });
            let others: Vec<_> = (1..3)
                .map(|i| {
                    let (turn, turns) = (&turn, &turns);
                    s.spawn(move || {
                        // Once the first has begun.
                        while turns[0].load(SeqCst) == 0 {
                            std::thread::yield_now();
                        }
                        for _ in 0..20 {
                            let _taken = turn.take();
                            turns[i].fetch_add(1, SeqCst);
                        }
                    })
                })
                .collect();
            others.into_iter().for_each(|t| t.join().unwrap());
            stop.store(true, SeqCst);
        });
        let taken = turns[0].load(SeqCst);
        assert!(taken < MOST, "{taken}");
    }
}
