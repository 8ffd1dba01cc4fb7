//! Completion queues: many requests report to one place, read by one thread.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::event::{Event, Mailbox, Poll};
use crate::error::{Error, Result};
use crate::sync::{Condvar, Mutex, MutexGuard};

/// Called with `true` when a queue becomes non-empty and with `false` when it is drained, under the queue's lock:
/// a host's event descriptor follows it.
pub type Wake = Box<dyn Fn(bool) + Send + Sync>;

/// A completion queue. Create it, name it in the options of requests, and read the events of all of them here.
pub struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
    wake: Option<Wake>,
}

#[derive(Default)]
struct QueueState {
    ready: VecDeque<Arc<Mailbox>>,
    reading: bool,
}

impl Default for Queue {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Queue {
    /// An empty queue; `wake` is told when it fills and empties.
    pub fn new(wake: Option<Wake>) -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            wake,
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A wake that panics is the host's affair; it must not cost a request its end.
    fn tell(&self, full: bool) {
        if let Some(wake) = &self.wake {
            let _ = catch_unwind(AssertUnwindSafe(|| wake(full)));
        }
    }

    /// Takes mailboxes in, all at once: whoever reads sees all of them or none.
    fn push_all(&self, mailboxes: impl Iterator<Item = Arc<Mailbox>>) {
        let mut s = self.lock();
        let was_empty = s.ready.is_empty();
        s.ready.extend(mailboxes);
        if was_empty && !s.ready.is_empty() {
            self.tell(true);
            drop(s);
            self.changed.notify_one();
        }
    }

    /// Waits until events are there and fills `events` from the front, one per request at most: what a request
    /// produced since it was last read comes in one event. Answers how many were filled; 0 means the timeout
    /// passed. `None` waits without limit.
    ///
    /// # Errors
    /// [`Error::Reentrant`] while another thread reads this queue, [`Error::InvalidArgument`] without room.
    pub fn next(&self, timeout: Option<Duration>, events: &mut [Event]) -> Result<usize> {
        if events.is_empty() {
            return Err(Error::InvalidArgument(
                "reading a queue needs room for at least one event".to_string(),
            ));
        }
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        let mut s = self.lock();
        if s.reading {
            return Err(Error::Reentrant(
                "another thread is reading this queue: a queue has one reader at a time".to_string(),
            ));
        }
        s.reading = true;
        while s.ready.is_empty() {
            s = match deadline {
                None => self.changed.wait(s).unwrap_or_else(PoisonError::into_inner),
                Some(end) => {
                    let now = Instant::now();
                    if now >= end {
                        s.reading = false;
                        return Ok(0);
                    }
                    self.changed
                        .wait_timeout(s, end - now)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
        let mut n = 0;
        while n < events.len() {
            let Some(mailbox) = s.ready.pop_front() else { break };
            let (poll, more) = mailbox.take(&mut events[n]);
            n += usize::from(poll == Poll::Event);
            if more {
                s.ready.push_back(mailbox);
            }
        }
        if s.ready.is_empty() {
            self.tell(false);
        }
        s.reading = false;
        Ok(n)
    }
}

/// Mailboxes that a step has filled and whose queues do not know yet. They are told together when the step is done,
/// so that one call of a reader brings what a whole step produced.
#[derive(Default)]
pub(crate) struct Outbox(Vec<Arc<Mailbox>>);

impl Outbox {
    /// Room for `n` mailboxes, so that a step does not allocate here.
    pub(crate) fn with_capacity(n: usize) -> Result<Self> {
        Ok(Self(crate::memory::with_capacity(n, "the outbox of a step")?))
    }

    pub(crate) fn add(&mut self, mailbox: &Arc<Mailbox>) {
        self.0.push(Arc::clone(mailbox));
    }

    /// Tells the queues.
    pub(crate) fn flush(&mut self) {
        while let Some(queue) = self.0.first().map(|m| m.queue()) {
            let same = self
                .0
                .iter()
                .take_while(|m| same_queue(&queue, &m.queue()))
                .count();
            let mailboxes = self.0.drain(..same);
            // Nobody reads what reports to a queue that was dropped.
            if let Some(queue) = queue {
                queue.push_all(mailboxes);
            }
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.flush();
    }
}

fn same_queue(a: &Option<Arc<Queue>>, b: &Option<Arc<Queue>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

/// Requests of one engine that have something to read.
#[derive(Default)]
pub(crate) struct ReadyList {
    ready: Mutex<VecDeque<Weak<Mailbox>>>,
    changed: Condvar,
}

impl ReadyList {
    pub(crate) fn push(&self, mailbox: &Arc<Mailbox>) {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if mailbox.listed.swap(true, Relaxed) {
            return;
        }
        // Requests freed by readers that never call `wait` leave dead entries behind.
        if ready.len() >= 64 && ready.len().is_power_of_two() {
            ready.retain(|m| m.strong_count() > 0);
        }
        ready.push_back(Arc::downgrade(mailbox));
        drop(ready);
        self.changed.notify_all();
    }

    /// Waits until requests have events and calls `found` for up to `max` of them. They stay listed until read.
    pub(crate) fn wait(
        &self,
        timeout: Option<Duration>,
        max: usize,
        found: &mut dyn FnMut(&Arc<Mailbox>),
    ) -> usize {
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            ready.retain(|m| {
                m.upgrade().is_some_and(|m| {
                    let full = m.is_full();
                    m.listed.store(full, Relaxed);
                    full
                })
            });
            let mut n = 0;
            for mailbox in ready.iter().filter_map(Weak::upgrade).take(max) {
                found(&mailbox);
                n += 1;
            }
            if n > 0 {
                return n;
            }
            ready = match deadline {
                None => self.changed.wait(ready).unwrap_or_else(PoisonError::into_inner),
                Some(end) => {
                    let now = Instant::now();
                    if now >= end {
                        return 0;
                    }
                    self.changed
                        .wait_timeout(ready, end - now)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
    }
}
