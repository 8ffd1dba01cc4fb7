//! The engine: a bounded queue of requests, a scheduler, and the thread that computes them.
//!
//! [`Engine::submit`] tokenizes on the caller's thread and never blocks on model work; the worker thread runs
//! [`worker::Worker::step`] until nothing is left; events reach readers through mailboxes ([`event`]).

mod alerts;
mod cold;
pub mod evaluate;
mod event;
#[cfg(all(test, infer_models))]
mod models;
mod outputs;
mod pace;
mod policy;
mod prefix;
mod queue;
mod report;
mod request;
mod sampling;
mod schedule;
mod sequence;
mod speculation;
mod state;
mod stats;
mod stop;
#[cfg(test)]
mod tests;
#[cfg(all(test, not(infer_models)))]
mod window_tests;
mod worker;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use crate::histogram::{Histogram, HistogramKind};
pub use crate::model::ComponentTimes;
pub(crate) use policy::SCHEDULING_POLICIES;
pub(crate) use speculation::SPECULATIONS;

pub use event::{Channel, Event, EventKind, Finish, FinishReason, Poll};
pub use queue::{Queue, Wake};
pub use request::Request;
pub use stats::Stats;

use crate::error::{Error, Result};
use crate::kernel::{Kernels, RowType};
use crate::kv::prefix::Fingerprint;
use crate::kv::tier::Tier;
use crate::model::Model;
use crate::options::{EngineOptions, LogLevel, LogRecord, OptionSet, RequestOptions};
use alerts::{Alerts, Due};
use queue::{Outbox, ReadyList};
use sequence::{Ending, Sequence};
use stats::Counters;
use worker::{Machine, Worker};

/// A scheduler with its threads and cache, for one model. Dropping it cancels what is left and wakes all readers.
pub struct Engine {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the engine, its worker thread and its requests share.
struct Shared {
    model: Arc<Model>,
    options: EngineOptions,
    context: usize,
    machine: Facts,
    counters: Arc<Counters>,
    /// The second tier, for its counts; the worker's cache uses it.
    tier: Option<Arc<Tier>>,
    ready: Arc<ReadyList>,
    inbox: Mutex<Inbox>,
    /// The worker has something to look at.
    wake: Condvar,
    /// A request ended.
    ended: Condvar,
    shutdown: AtomicBool,
    /// A thread of the host is in a step.
    stepping: AtomicBool,
    /// Held during steps; who only wants to know something reads `machine` and `counters`.
    worker: Mutex<Box<Worker>>,
}

/// What an engine computes with.
struct Facts {
    kernels: &'static Kernels,
    threads: usize,
    kv_type: RowType,
    kv_token_bytes: usize,
    kv_block_bytes: usize,
    /// Whether all its layers are of full attention.
    kv_plain: bool,
    kv_budget: u64,
    /// What the blocks of its prefix cache depend on, if it has one.
    fingerprint: Option<Fingerprint>,
}

/// Something for whoever owns the worker.
type Errand = Box<dyn FnOnce(&mut Worker) + Send>;

#[derive(Default)]
struct Inbox {
    queue: VecDeque<Sequence>,
    /// Accepted so far.
    arrivals: u64,
    /// Accepted and not ended.
    outstanding: usize,
    draining: bool,
    paused: bool,
    /// What is to be done between two steps.
    errands: Vec<Errand>,
    /// Salts whose cached prefixes are to be forgotten.
    clears: Vec<Vec<u8>>,
    /// A request was cancelled: look at the queue.
    cancelled: bool,
    /// No deadline of the queue is earlier.
    next_deadline: Option<Instant>,
}

impl Engine {
    /// Allocates the cache and buffers and starts the worker thread (none with `manual_step`).
    ///
    /// # Errors
    /// A model without weights, options that contradict the machine, memory or threads that cannot be had.
    pub fn new(model: Arc<Model>, options: EngineOptions) -> Result<Engine> {
        options.check()?;
        let options = model.resolve(&options);
        let counters = Counters::shared();
        let machine = Machine::new(&options)?;
        let (worker, context) = Worker::new(Arc::clone(&model), &options, machine, Arc::clone(&counters))?;
        let manual = options.manual_step;
        let tier = worker.kv.tier().map(Arc::clone);
        let machine = Facts {
            kernels: worker.kernels(),
            threads: worker.pool().threads(),
            kv_type: worker.kv_type(),
            kv_token_bytes: worker.token_bytes(),
            kv_block_bytes: worker.kv.pool().geometry().block_bytes(),
            kv_plain: worker.kv.is_plain(),
            kv_budget: counters.kv_bytes_budget.load(Relaxed),
            fingerprint: worker.kv.index().map(|index| index.fingerprint().clone()),
        };
        let message = format!(
            "engine created: {}, kernels {}, {} threads, context {context}",
            model.info().description,
            machine.kernels.level().name(),
            machine.threads
        );
        let shared = Arc::new(Shared {
            model,
            options,
            context,
            machine,
            counters,
            tier,
            ready: Arc::default(),
            inbox: Mutex::default(),
            wake: Condvar::new(),
            ended: Condvar::new(),
            shutdown: AtomicBool::new(false),
            stepping: AtomicBool::new(false),
            worker: Mutex::new(worker),
        });
        let thread = if manual {
            None
        } else {
            let shared = Arc::clone(&shared);
            Some(crate::kernel::spawn_thread("infer-engine", move || {
                shared.run_until_closed()
            })?)
        };
        shared.log(LogLevel::Info, &message);
        Ok(Engine { shared, thread })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.shared.model
    }

    /// The options with what the preset chose for those that were left open. `kv_budget` stays 0 when it was; the
    /// budget that came of it is in [`Stats`], and the context that fits it is [`Engine::context_length`].
    pub fn options(&self) -> &EngineOptions {
        &self.shared.options
    }

    /// Tokens of prompt and completion a sequence can hold.
    pub fn context_length(&self) -> usize {
        self.shared.context
    }

    /// The token ids that [`Engine::submit`] would make of the request's prompt: for hosts that want to know them, and
    /// then submit them as [`Prompt::Ids`](crate::options::Prompt::Ids).
    ///
    /// # Errors
    /// As `submit`, as far as they concern turning the prompt into ids.
    pub fn prompt_ids(&self, options: &RequestOptions) -> Result<Vec<u32>> {
        request::prompt_ids(&self.shared, &mut options.clone())
    }

    /// Queues a request. The prompt is tokenized here; nothing is computed and nothing waits.
    ///
    /// # Errors
    /// [`Error::Busy`] when the queue is full, [`Error::Closed`] while draining, [`Error::ContextOverflow`] when the
    /// prompt leaves no room, and whatever is wrong with the options.
    pub fn submit(&self, options: RequestOptions) -> Result<Request> {
        let mut requests = self.submit_batch(vec![options])?;
        requests.pop().ok_or_else(|| Error::Internal {
            place: "submit".to_string(),
            message: "a batch of one came back empty".to_string(),
        })
    }

    /// Queues all of the requests or none.
    ///
    /// # Errors
    /// As [`Engine::submit`], for the first request that is refused.
    pub fn submit_batch(&self, options: Vec<RequestOptions>) -> Result<Vec<Request>> {
        let shared = &self.shared;
        shared.check_room(&shared.lock(), options.len())?;
        let mut requests = crate::memory::with_capacity(options.len(), "a batch of requests")?;
        let mut sequences = crate::memory::with_capacity(options.len(), "a batch of requests")?;
        for options in options {
            let first = sequences.len();
            request::prepare(shared, options, &mut sequences)?;
            requests.extend(sequences.get(first).map(|first| Request::new(first, shared)));
        }
        let n = sequences.len();
        let mut inbox = shared.lock();
        // Others may have submitted meanwhile.
        let room = shared.check_room(&inbox, n).and_then(|()| {
            inbox.queue.try_reserve(n).map_err(|_| {
                let what = "the queue of requests".to_string();
                let bytes = n * size_of::<Sequence>();
                crate::memory::MemoryError::Exhausted { what, bytes }.into()
            })
        });
        if let Err(e) = room {
            drop(inbox);
            return Err(e);
        }
        inbox.outstanding += n;
        Counters::add(&shared.counters.requests_submitted, n as u64);
        for mut sequence in sequences {
            inbox.arrivals += 1;
            sequence.arrival = inbox.arrivals;
            inbox.next_deadline = earlier(inbox.next_deadline, sequence.deadline());
            inbox.queue.push_back(sequence);
        }
        Counters::set(&shared.counters.queued, inbox.queue.len() as u64);
        drop(inbox);
        shared.wake.notify_all();
        Ok(requests)
    }

    /// Waits until requests that do not report to a queue have something to read, and calls `found` with the ids of
    /// up to `max` of them. Answers how many; 0 when the timeout passed. `None` waits without limit.
    pub fn wait(&self, timeout: Option<Duration>, max: usize, found: &mut dyn FnMut(u64)) -> usize {
        if max == 0 {
            return 0;
        }
        self.shared
            .ready
            .wait(timeout, max, &mut |mailbox| found(mailbox.id()))
    }

    /// Refuses new requests and waits until all accepted ones have ended; answers whether they have. In manual mode
    /// it steps itself. While the engine is paused nothing ends but what is cancelled or late. [`Engine::resume`] opens
    /// the engine again.
    ///
    /// # Errors
    /// In manual mode as [`Engine::step`].
    pub fn drain(&self, timeout: Option<Duration>) -> Result<bool> {
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        let late = || deadline.is_some_and(|d| Instant::now() >= d);
        self.shared.lock().draining = true;
        self.shared.wake.notify_all();
        if self.shared.options.manual_step {
            while self.shared.lock().outstanding > 0 && !late() {
                self.step()?;
                let inbox = self.shared.lock();
                if inbox.paused && !inbox.cancelled && inbox.outstanding > 0 {
                    let left = deadline.map_or(PATIENCE, |d| d.saturating_duration_since(Instant::now()));
                    drop(self.shared.wake.wait_timeout(inbox, left.min(PATIENCE)));
                }
            }
            return Ok(self.shared.lock().outstanding == 0);
        }
        let mut inbox = self.shared.lock();
        while inbox.outstanding > 0 && !late() {
            let left = deadline.map_or(Duration::from_secs(3600), |d| d - Instant::now().min(d));
            inbox = self
                .shared
                .ended
                .wait_timeout(inbox, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        Ok(inbox.outstanding == 0)
    }

    /// Stops computing after the current step; requests are still accepted and can be cancelled.
    pub fn pause(&self) {
        self.shared.lock().paused = true;
        self.shared.wake.notify_all();
    }

    /// Ends a pause, and accepts requests again after a drain.
    pub fn resume(&self) {
        let mut inbox = self.shared.lock();
        inbox.paused = false;
        inbox.draining = false;
        drop(inbox);
        self.shared.wake.notify_all();
    }

    /// Gives memory that caches hold back to the system, up to about `bytes`; answers how much. Takes effect between
    /// two steps.
    pub fn trim(&self, bytes: u64) -> u64 {
        self.between_steps(move |worker| worker.trim(bytes)).unwrap_or(0)
    }

    /// Has the owner of the worker do something between two steps, and waits for what comes of it.
    fn between_steps<T: Send + 'static>(
        &self,
        errand: impl FnOnce(&mut Worker) -> T + Send + 'static,
    ) -> Result<T> {
        let closed = || Error::Closed("the engine is shutting down".to_string());
        if self.shared.options.manual_step {
            let mut worker = self.shared.worker();
            forget(&mut self.shared.lock(), &mut worker);
            return Ok(errand(&mut worker));
        }
        let (sender, receiver) = mpsc::channel();
        let mut inbox = self.shared.lock();
        if self.shared.shutdown.load(Relaxed) {
            return Err(closed());
        }
        inbox.errands.push(Box::new(move |worker| {
            // A caller that is gone needs no answer.
            let _ = sender.send(errand(worker));
        }));
        drop(inbox);
        self.shared.wake.notify_all();
        receiver.recv().map_err(|_| closed())
    }

    /// Forgets cached prefixes of a salt, or all of them when it is empty. Takes effect between two steps, before any
    /// request that is submitted later.
    ///
    /// # Errors
    /// None so far.
    pub fn cache_clear(&self, salt: &[u8]) -> Result<()> {
        self.shared.lock().clears.push(salt.to_vec());
        self.shared.wake.notify_all();
        Ok(())
    }

    /// Runs one step on the caller's thread and answers whether more is left to do.
    ///
    /// # Errors
    /// When the engine has a thread of its own, or another thread is stepping.
    pub fn step(&self) -> Result<bool> {
        if !self.shared.options.manual_step {
            return Err(Error::InvalidArgument(
                "step: the engine has a thread of its own; create it with manual_step to step it".to_string(),
            ));
        }
        if self.shared.stepping.swap(true, Acquire) {
            return Err(Error::Reentrant(
                "step: another thread is stepping this engine".to_string(),
            ));
        }
        let _stepping = Stepping(&self.shared.stepping);
        let mut worker = self.shared.worker();
        let paused = self.shared.feed(&mut worker);
        let ended = crate::kernel::fp_env::with_default(|| {
            if paused {
                worker.reap()
            } else {
                worker.step(&|| self.shared.shutdown.load(Relaxed))
            }
        });
        let alerts = worker.alerts.due();
        drop(worker);
        self.shared.log_alerts(alerts);
        let inbox = self.shared.note_ended(ended);
        Ok(inbox.outstanding > 0 && !paused)
    }

    /// The counters.
    pub fn stats(&self) -> Stats {
        let mut stats = self.shared.counters.snapshot();
        if let Some(tier) = &self.shared.tier {
            stats.set_cold(&tier.stats());
        }
        stats
    }

    /// How often values fell into each bucket of a histogram. Reading does not slow the engine down.
    pub fn histogram(&self, kind: HistogramKind) -> Histogram {
        match (kind, &self.shared.tier) {
            (HistogramKind::ColdReadTime, Some(tier)) => tier.read_times(),
            (HistogramKind::ColdWriteTime, Some(tier)) => tier.write_times(),
            _ => self.shared.counters.histograms.of(kind).read(),
        }
    }

    /// What is on and what was measured, as text for people.
    pub fn summary(&self) -> String {
        report::summary(&self.shared)
    }

    /// The counters and histograms in Prometheus' text format, version 0.0.4.
    pub fn metrics_text(&self) -> String {
        report::metrics(
            &self.stats(),
            &HistogramKind::ALL.map(|kind| self.histogram(kind)),
        )
    }
}

/// Ends a step of the host's, also when it panics.
struct Stepping<'a>(&'a AtomicBool);

impl Drop for Stepping<'_> {
    fn drop(&mut self) {
        self.0.store(false, Release);
    }
}

/// Deadlines of waiting requests are looked at this often when nothing else happens.
const PATIENCE: Duration = Duration::from_millis(500);

/// Does what [`Engine::cache_clear`] left to do.
fn forget(inbox: &mut Inbox, worker: &mut Worker) {
    for salt in std::mem::take(&mut inbox.clears) {
        worker.forget_prefixes(&salt);
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    a.into_iter().chain(b).min()
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.shutdown.store(true, Relaxed);
        // The lock orders the flag before the worker's next look at the inbox.
        drop(self.shared.lock());
        self.shared.wake.notify_all();
        match self.thread.take() {
            Some(thread) if thread.thread().id() != std::thread::current().id() => {
                // The worker catches panics of steps; one that escapes has ended the thread all the same.
                let _ = thread.join();
            }
            Some(_) => {}
            None => self.shared.close(&|| Ending::plain(FinishReason::Cancelled)),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn worker(&self) -> MutexGuard<'_, Box<Worker>> {
        self.worker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_room(&self, inbox: &Inbox, n: usize) -> Result<()> {
        if inbox.draining || self.shutdown.load(Relaxed) {
            return Err(Error::Closed(
                "the engine accepts no requests: it is draining or shutting down".to_string(),
            ));
        }
        if inbox.queue.len() + n > self.options.max_queued {
            Counters::add(&self.counters.requests_refused, n as u64);
            return Err(Error::Busy(format!(
                "{} requests wait and {n} more were submitted, but the engine queues {} at most; submit again later",
                inbox.queue.len(),
                self.options.max_queued
            )));
        }
        Ok(())
    }

    /// The worker thread.
    fn run_until_closed(&self) {
        // Steps catch their own panics. One outside a step must not leave readers waiting for a thread that is gone.
        let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.run())) else {
            return;
        };
        let error = Arc::new(Error::Internal {
            place: "the engine's thread".to_string(),
            message: crate::panic_guard::describe(&*panic),
        });
        Counters::add(&self.counters.panics, 1);
        self.shutdown.store(true, Relaxed);
        let _ = catch_unwind(AssertUnwindSafe(|| {
            self.close(&|| Ending::failed(Arc::clone(&error)));
            self.log(LogLevel::Error, &error.to_string());
        }));
        let mut inbox = self.lock();
        inbox.outstanding = 0;
        inbox.errands.clear();
        self.ended.notify_all();
    }

    fn run(&self) {
        loop {
            let mut inbox = self.lock();
            while !self.shutdown.load(Relaxed) && !self.has_work(&inbox) {
                let patience = if inbox.outstanding > 0 {
                    PATIENCE
                } else {
                    Duration::from_secs(3600)
                };
                inbox = self
                    .wake
                    .wait_timeout(inbox, patience)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
                if inbox.outstanding > 0 {
                    break;
                }
            }
            drop(inbox);
            if self.shutdown.load(Relaxed) {
                self.close(&|| Ending::plain(FinishReason::Cancelled));
                return;
            }
            #[cfg(infer_faults)]
            crate::fault::panic_at("thread");
            let mut worker = self.worker();
            let paused = self.feed(&mut worker);
            let ended = if paused {
                worker.reap()
            } else {
                worker.step(&|| self.shutdown.load(Relaxed))
            };
            let alerts = worker.alerts.due();
            drop(worker);
            self.log_alerts(alerts);
            drop(self.note_ended(ended));
        }
    }

    fn has_work(&self, inbox: &Inbox) -> bool {
        let runnable = inbox.outstanding > 0 && !inbox.paused;
        runnable || inbox.cancelled || !inbox.errands.is_empty() || !inbox.clears.is_empty()
    }

    /// Ends waiting requests that were given up, admits others, runs errands. Answers whether computing is paused.
    fn feed(&self, worker: &mut Worker) -> bool {
        let now = Instant::now();
        let mut inbox = self.lock();
        let late = inbox.next_deadline.is_some_and(|d| now >= d);
        let mut given_up = Vec::new();
        if std::mem::take(&mut inbox.cancelled) || late {
            if inbox.queue.iter().any(|s| s.interrupted(now).is_some()) {
                for _ in 0..inbox.queue.len() {
                    let Some(sequence) = inbox.queue.pop_front() else {
                        break;
                    };
                    match sequence.interrupted(now) {
                        Some(ending) => given_up.push((sequence, ending)),
                        None => inbox.queue.push_back(sequence),
                    }
                }
            }
            inbox.next_deadline = inbox.queue.iter().filter_map(Sequence::deadline).min();
        }
        forget(&mut inbox, worker);
        if !inbox.paused {
            worker.admit(&mut inbox.queue);
        }
        let waiting = inbox.queue.len() + worker.preempted();
        Counters::set(&self.counters.queued, waiting as u64);
        let (paused, errands) = (inbox.paused, std::mem::take(&mut inbox.errands));
        drop(inbox);
        errands.into_iter().for_each(|errand| errand(worker));
        let n = given_up.len();
        let mut outbox = Outbox::default();
        for (sequence, ending) in given_up {
            self.counters.count_ending(ending.reason);
            sequence.finish(ending, &mut outbox);
        }
        drop(outbox);
        drop(self.note_ended(n));
        paused
    }

    fn note_ended(&self, n: usize) -> MutexGuard<'_, Inbox> {
        let mut inbox = self.lock();
        if n > 0 {
            inbox.outstanding -= n;
            self.ended.notify_all();
        }
        inbox
    }

    /// Ends everything and wakes all readers.
    fn close(&self, ending: &dyn Fn() -> Ending) {
        let mut worker = self.worker();
        // What was to be forgotten must not be written when the tier is closed.
        forget(&mut self.lock(), &mut worker);
        let mut n = worker.end_all(ending);
        drop(worker);
        let mut inbox = self.lock();
        let queue = std::mem::take(&mut inbox.queue);
        // Who waits for an errand learns that nobody runs it any more.
        inbox.errands.clear();
        drop(inbox);
        let mut outbox = Outbox::default();
        for sequence in queue {
            let ending = ending();
            self.counters.count_ending(ending.reason);
            sequence.finish(ending, &mut outbox);
            n += 1;
        }
        drop(outbox);
        drop(self.note_ended(n));
        // Last: nobody waits for a disk to learn how a request ended.
        self.worker()
            .close_tier(Duration::from_millis(self.options.kv_cold_patience_ms));
    }

    fn log_alerts(&self, alerts: [Option<Due>; Alerts::KINDS]) {
        if let Some(log) = &self.options.log {
            alerts.iter().flatten().for_each(|alert| alert.log(log));
        }
    }

    fn log(&self, level: LogLevel, message: &str) {
        if let Some(log) = &self.options.log {
            log(&LogRecord {
                level,
                target: "engine",
                message,
                fields: "{}",
            });
        }
    }
}
