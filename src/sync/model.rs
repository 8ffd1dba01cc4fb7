//! Runs a piece of concurrent code under thousands of schedules, chosen at random and by the PCT algorithm (Burckhardt
//! et al., ASPLOS 2010). A deadlock, a lost wake-up or a failed assertion under any of them fails the test.
//!
//! What it does not see: effects of weak memory orderings, as every access is sequentially consistent here.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LockResult;
use std::time::Duration;

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::sync::{MutexGuard, WaitTimeoutResult};
use shuttle::{Config, FailurePersistence, Runner};

/// A defect to be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Defect {
    /// What [`planted`] switches on.
    Planted,
    /// Condition variables wake nobody.
    LostWakeUps,
}

std::thread_local! {
    static DEFECT: Cell<Option<Defect>> = const { Cell::new(None) };
}

/// Whether the code is to have a known defect.
pub(crate) fn planted() -> bool {
    DEFECT.get() == Some(Defect::Planted)
}

/// A condition variable that can lose what it is told.
#[derive(Debug, Default)]
pub(crate) struct Condvar(shuttle::sync::Condvar);

impl Condvar {
    pub(crate) const fn new() -> Self {
        Self(shuttle::sync::Condvar::new())
    }

    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        self.0.wait(guard)
    }

    /// Time does not pass in a model: this waits for a notification.
    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        self.0.wait_timeout(guard, timeout)
    }

    pub(crate) fn notify_one(&self) {
        if DEFECT.get() != Some(Defect::LostWakeUps) {
            self.0.notify_one();
        }
    }

    pub(crate) fn notify_all(&self) {
        if DEFECT.get() != Some(Defect::LostWakeUps) {
            self.0.notify_all();
        }
    }
}

/// Schedules of each kind, or what `INFER_MODEL_RUNS` says.
fn runs() -> usize {
    std::env::var("INFER_MODEL_RUNS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(2000)
}

/// Holds under every schedule.
pub(crate) fn holds(model: fn()) {
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    config.failure_persistence = FailurePersistence::Print;
    Runner::new(RandomScheduler::new(runs()), config.clone()).run(model);
    Runner::new(PctScheduler::new(3, runs()), config).run(model);
}

/// Fails under some schedule when the defect is there.
pub(crate) fn finds(defect: Defect, model: fn()) {
    DEFECT.set(Some(defect));
    let found = catch_unwind(AssertUnwindSafe(|| holds(model))).is_err();
    DEFECT.set(None);
    assert!(found, "{defect:?} was not found: the model cannot fail");
}
