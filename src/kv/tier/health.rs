//! Whether storage works, and when it is tried again after it failed.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// State of a tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    /// There is none, or its storage cannot be opened; it is tried again from time to time.
    Off = 0,
    /// It works.
    Ok = 1,
    /// Reading or writing failed lately and is left alone for a while.
    Degraded = 2,
}

impl State {
    /// Its word: `off`, `ok`, `degraded`.
    pub fn name(self) -> &'static str {
        match self {
            State::Off => "off",
            State::Ok => "ok",
            State::Degraded => "degraded",
        }
    }
}

/// First and longest time that storage is left alone.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// From so many failures in a row on it is opened anew.
const HOPELESS: u32 = 3;

/// One direction, reading or writing.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<Failing>);

#[derive(Debug, Default)]
struct Failing {
    /// Failures in a row.
    failures: u32,
    /// Not to be tried before.
    retry_at: Option<Instant>,
}

impl Failing {
    fn is_paused(&self) -> bool {
        self.retry_at.is_some_and(|at| Instant::now() < at)
    }
}

/// What a failure leads to.
pub(super) struct Failure {
    /// It worked before.
    pub(super) first: bool,
    pub(super) hopeless: bool,
    pub(super) pause: Duration,
}

impl Health {
    fn lock(&self) -> MutexGuard<'_, Failing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the last attempt succeeded.
    pub(super) fn is_well(&self) -> bool {
        self.lock().failures == 0
    }

    /// Whether it may be tried now.
    pub(super) fn may_try(&self) -> bool {
        !self.lock().is_paused()
    }

    pub(super) fn failed(&self) -> Failure {
        let mut failing = self.lock();
        let pause = PAUSES
            .0
            .saturating_mul(1 << failing.failures.min(16))
            .min(PAUSES.1);
        if failing.is_paused() {
            // Others were under way when it failed: that is one failure.
            return Failure {
                first: false,
                hopeless: false,
                pause,
            };
        }
        failing.failures = failing.failures.saturating_add(1);
        failing.retry_at = Instant::now().checked_add(pause);
        Failure {
            first: failing.failures == 1,
            hopeless: failing.failures >= HOPELESS,
            pause,
        }
    }

    /// Answers whether it had failed.
    pub(super) fn succeeded(&self) -> bool {
        let mut failing = self.lock();
        if failing.is_paused() {
            // It was under way before the failure.
            return false;
        }
        let had_failed = failing.failures > 0;
        *failing = Failing::default();
        had_failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let health = Health::default();
        assert!(health.is_well() && health.may_try() && !health.succeeded());
        // As if each pause were over at once.
        let fail = || {
            health.lock().retry_at = None;
            health.failed()
        };
        let pauses: Vec<Failure> = (0..12).map(|_| fail()).collect();
        assert!(pauses[0].first && !pauses[1].first);
        assert!(!pauses[1].hopeless && pauses[2].hopeless);
        assert_eq!(pauses[0].pause, PAUSES.0);
        assert_eq!(pauses[1].pause, 2 * PAUSES.0);
        assert_eq!(pauses[11].pause, PAUSES.1);
        assert!(!health.is_well() && !health.may_try());
        let late = health.failed();
        assert!(!late.first && !late.hopeless && !health.succeeded());
        health.lock().retry_at = None;
        assert!(health.succeeded() && health.is_well() && health.may_try());
    }
}
