//! The second tier: full blocks that memory had no room for, kept where it is slower and larger.
//!
//! A [`Tier`] stands between those who compute and a [`Backend`]. Blocks are handed to it as memory gives them up and are
//! written by a thread of its own ([`spill`]); they are read back by others while the request that wants them waits
//! ([`fetch`]). Nobody who computes waits for a disk, and nothing that a disk does makes a request fail: what cannot be
//! read is computed again, what cannot be written is gone. A disk that fails is left alone for a while and tried again
//! ([`health`]).

mod backend;
mod buffers;
mod fetch;
mod health;
mod index;
mod load;
mod media;
mod notices;
mod processes;
mod slab;
mod spill;
mod stats;
mod storage;
mod store;
#[cfg(test)]
mod tests;
mod write;

pub use backend::{Backend, BackendCounts};
pub use fetch::{Fetch, Loaded};
pub use health::State;
pub use media::{Access, Directory, Media, MediaFile, MediaLock, MemoryMedia};
pub use stats::TierStats;
pub use storage::StorageOptions;
pub use store::{SlabStore, StoreConfig};

use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use super::prefix::BlockName;
use super::prefix::{Key, Secret};
use crate::error::Result;
use crate::histogram::Histogram;
use crate::options::{LogCallback, LogLevel, LogRecord};
use buffers::Buffers;
use fetch::Reads;
use health::Health;
use spill::{Place, Writes};
use stats::TierCounters;

/// Opens the storage: at the beginning, and again after it was given up. Answers it, and the secret that its keys are
/// made with.
pub type Open = Box<dyn Fn() -> io::Result<(Arc<dyn Backend>, Secret)> + Send + Sync>;

/// What a tier is made of.
pub struct TierOptions {
    /// Opens the storage.
    pub open: Open,
    /// Bytes of a block.
    pub block_bytes: usize,
    /// Bytes of memory for blocks that wait to be written; a quarter of it again for blocks that were read. Two blocks at
    /// least each.
    pub queue_bytes: usize,
    /// Whether blocks stay when the tier is closed. Those of an earlier one are forgotten as well if not.
    pub persist: bool,
    /// Longest time that closing waits for blocks to be written.
    pub patience: Duration,
    /// Where log records go.
    pub log: Option<LogCallback>,
}

/// A second tier of blocks.
pub struct Tier {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    patience: Duration,
}

/// What a tier shares with its threads.
struct Shared {
    open: Open,
    /// `None` while the storage is given up.
    backend: RwLock<Option<Arc<dyn Backend>>>,
    /// What the keys in use are made with, and the storage's own where that is another.
    secrets: Mutex<(Secret, Option<Secret>)>,
    opening: Health,
    reading: Health,
    writing: Health,
    writes: Writes,
    reads: Reads,
    buffers: Buffers,
    counters: TierCounters,
    persist: bool,
    /// Names are made with another secret than the storage's: nothing is looked for there, nor handed over.
    misnamed: AtomicBool,
    shutdown: AtomicBool,
    log: Option<LogCallback>,
}

impl std::fmt::Debug for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tier").field("state", &self.state()).finish()
    }
}

impl Tier {
    /// Opens the storage and starts the threads. Storage that cannot be opened is no error: it is tried again later.
    ///
    /// # Errors
    /// When threads cannot be started, or the storage says that it was asked for something impossible: its place is no
    /// directory, or not the caller's to use, or a block does not fit the budget.
    pub fn new(options: TierOptions) -> Result<Self> {
        let blocks = (options.queue_bytes / options.block_bytes.max(1)).max(2);
        let shared = Arc::new(Shared {
            open: options.open,
            backend: RwLock::new(None),
            secrets: Mutex::new((Secret::random(), None)),
            opening: Health::default(),
            reading: Health::default(),
            writing: Health::default(),
            writes: Writes::new(blocks, options.block_bytes),
            // Memory that is used again soon is in the caches, and its pages are there.
            reads: Reads::new((blocks / 4).max(2), options.block_bytes),
            buffers: Buffers::new(options.block_bytes, blocks),
            counters: TierCounters::default(),
            persist: options.persist,
            misnamed: AtomicBool::new(false),
            shutdown: AtomicBool::new(false),
            log: options.log,
        });
        match shared.try_open() {
            // Time does not mend these.
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::InvalidInput | ErrorKind::NotADirectory | ErrorKind::PermissionDenied
                ) =>
            {
                return Err(crate::Error::InvalidArgument(format!(
                    "cannot open the cold tier: {e}"
                )));
            }
            Err(e) => shared.failed(&shared.opening, "opening", &e),
            Ok(secret) => shared.lock_secrets().0 = secret,
        }
        let tier = Self {
            shared,
            threads: Mutex::default(),
            patience: options.patience,
        };
        // A tier that lacks a thread ends those it has when it is dropped.
        let shared = Arc::clone(&tier.shared);
        let writer = crate::kernel::spawn_thread("infer-kv-write", move || shared.write_until_closed())?;
        tier.lock_threads().push(writer);
        for _ in 0..fetch::READERS {
            let shared = Arc::clone(&tier.shared);
            let reader = crate::kernel::spawn_thread("infer-kv-read", move || shared.read_until_closed())?;
            tier.lock_threads().push(reader);
        }
        Ok(tier)
    }

    /// What the keys of its blocks must be made with.
    pub fn secret(&self) -> Secret {
        self.shared.lock_secrets().0.clone()
    }

    /// Storage that could not be opened at first has turned up with a secret of its own: this one. Whoever asks has to
    /// make its keys with it from now on; until somebody does, the storage is not used.
    pub fn new_secret(&self) -> Option<Secret> {
        let mut secrets = self.shared.lock_secrets();
        let new = secrets.1.take()?;
        secrets.0 = new.clone();
        self.shared.misnamed.store(false, Relaxed);
        Some(new)
    }

    /// Whether [`Tier::offer`] would take a block just now.
    pub fn wants(&self, name: &BlockName) -> bool {
        self.shared.wants(name)
    }

    /// Hands over a block that memory gives up. It is copied when it is worth a write and there is room for it, and
    /// forgotten otherwise; nothing waits. Answers whether it was taken.
    pub fn offer(&self, name: &BlockName, data: &[u8]) -> bool {
        self.shared.wants(name) && self.shared.enqueue(name, data)
    }

    /// The same, but waits for room until a moment.
    pub fn offer_until(&self, name: &BlockName, data: &[u8], deadline: Instant) -> bool {
        while self.shared.writes.is_full() && self.shared.writing.is_well() {
            let now = Instant::now();
            if now >= deadline {
                return false;
            }
            self.shared.writes.wait_for_room(deadline - now);
        }
        self.offer(name, data)
    }

    /// Whether a block can be had from here, as far as is known without looking.
    pub fn contains(&self, name: &BlockName) -> bool {
        match self.shared.writes.place(name) {
            Place::Queue(_) => true,
            Place::Nowhere => false,
            Place::Storage => {
                let usable = self.shared.reading.may_try() && !self.shared.misnamed.load(Relaxed);
                let backend = self.shared.backend().filter(|_| usable);
                backend.is_some_and(|backend| backend.contains(&name.key))
            }
        }
    }

    /// Begins to read blocks, in this order, while the caller does something else. The first that cannot be had is the
    /// end.
    pub fn fetch(&self, names: Vec<BlockName>) -> Fetch {
        self.shared.begin_fetch(names)
    }

    /// Waits until some fetch has something new, or for a while.
    pub fn wait(&self, timeout: Duration) {
        self.shared.reads.wait(timeout);
    }

    /// Blocks that are to be read for others before a fetch that begins now.
    pub fn reads_ahead(&self) -> usize {
        self.shared.reads.ahead()
    }

    /// Bytes per second of reading, as measured lately.
    pub fn read_rate(&self) -> Option<f64> {
        self.shared.counters.read_rate()
    }

    /// Counts a use of blocks, the deepest of a chain first.
    pub fn touch(&self, keys: &[Key]) {
        if let Some(backend) = self.shared.backend() {
            backend.touch(keys);
        }
    }

    /// Forgets the blocks below a root, or all of them. The storage is told by the writing thread, in order with what
    /// was offered before.
    pub fn forget(&self, root: Option<Key>) {
        self.shared.writes.forget(root);
    }

    /// Waits until all that was handed over is written, or for a while; answers whether it is.
    pub fn flush(&self, timeout: Duration) -> bool {
        self.shared.writes.wait_until_empty(timeout)
    }

    /// Whether blocks stay when it is closed.
    pub fn persists(&self) -> bool {
        self.shared.persist
    }

    /// Its state.
    pub fn state(&self) -> State {
        self.shared.state()
    }

    /// What it counted, and what it holds now.
    pub fn stats(&self) -> TierStats {
        self.shared.stats()
    }

    /// Times of reading a block, in nanoseconds.
    pub fn read_times(&self) -> Histogram {
        self.shared.counters.read_times.read()
    }

    /// Times of writing a batch of blocks, in nanoseconds.
    pub fn write_times(&self) -> Histogram {
        self.shared.counters.write_times.read()
    }

    /// Counts blocks that were read and then used, or not.
    pub fn count_fetched(&self, useful: usize, useless: usize) {
        TierCounters::add(&self.shared.counters.useful, useful as u64);
        TierCounters::add(&self.shared.counters.useless, useless as u64);
    }

    /// Counts tokens that are here and were computed all the same, because that is faster.
    pub fn count_recomputed(&self, tokens: usize) {
        TierCounters::add(&self.shared.counters.recomputed, tokens as u64);
    }

    /// Counts a prompt that was looked up here, and the tokens that are here.
    pub fn count_lookup(&self, tokens: usize) {
        self.count_found(tokens, true);
    }

    /// The same for a prompt that may have been looked up before.
    pub fn count_found(&self, tokens: usize, first_look: bool) {
        TierCounters::add(&self.shared.counters.lookups, u64::from(first_look));
        TierCounters::add(&self.shared.counters.hit_tokens, tokens as u64);
    }
}

impl Tier {
    fn lock_threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reading that shows nothing for so long is given up.
    pub fn stall(&self) -> Duration {
        self.shared.reads.stall
    }

    /// Reading made no progress for a while: it is left alone like storage that fails.
    pub fn note_stall(&self) {
        self.shared.stalled();
    }

    /// Writes what was handed over, as far as it can be done until a moment and if it is to stay, and lets go of the storage. Nothing
    /// can be had from a closed tier, and nothing is taken by it.
    pub fn close(&self, deadline: Instant) {
        let threads = std::mem::take(&mut *self.lock_threads());
        if threads.is_empty() {
            return;
        }
        if self.persists() {
            self.flush(deadline.saturating_duration_since(Instant::now()));
        }
        self.shared.shutdown.store(true, Relaxed);
        self.shared.writes.wake();
        self.shared.reads.wake();
        for thread in threads {
            while !thread.is_finished() && Instant::now() < deadline + Duration::from_secs(1) {
                std::thread::sleep(Duration::from_micros(200));
            }
            if thread.is_finished() {
                let _ = thread.join();
            }
            // A thread that a disk holds up is left to itself: it owns what it uses.
        }
        self.shared.counters.keep(&self.shared.set_backend(None));
    }
}

impl Drop for Tier {
    fn drop(&mut self) {
        self.close(Instant::now() + self.patience);
    }
}

impl Shared {
    fn lock_secrets(&self) -> MutexGuard<'_, (Secret, Option<Secret>)> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn backend(&self) -> Option<Arc<dyn Backend>> {
        self.backend
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_backend(&self, backend: Option<Arc<dyn Backend>>) -> Option<Arc<dyn Backend>> {
        let mut place = self.backend.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *place, backend)
    }

    fn try_open(&self) -> io::Result<Secret> {
        let (backend, secret) = (self.open)()?;
        self.report(&*backend);
        if !self.persist {
            backend.remove(None)?;
        }
        self.set_backend(Some(backend));
        Ok(secret)
    }

    /// Opens storage that was given up.
    fn reopen(&self) -> io::Result<()> {
        let secret = self.try_open()?;
        let mut secrets = self.lock_secrets();
        let misnamed = secrets.0 != secret;
        secrets.1 = misnamed.then_some(secret);
        self.misnamed.store(misnamed, Relaxed);
        Ok(())
    }

    /// Notes an error of the storage.
    fn failed(&self, health: &Health, what: &str, error: &io::Error) {
        TierCounters::add(&self.counters.errors, 1);
        let failure = health.failed();
        if failure.hopeless && error.kind() != ErrorKind::StorageFull {
            // Whatever it is, it is opened anew: the directory may have gone, or another one come.
            self.counters.keep(&self.set_backend(None));
        }
        if failure.first {
            let pause = failure.pause.as_secs_f64();
            self.log(
                LogLevel::Warn,
                &format!("the cold tier is left alone for {pause} s: {what} failed: {error}"),
            );
        }
    }

    /// Notes that reading shows nothing.
    fn stalled(&self) {
        let error = io::Error::new(ErrorKind::TimedOut, "no block came for a while");
        self.failed(&self.reading, "reading", &error);
    }

    /// Notes that the storage does what it should.
    fn succeeded(&self, health: &Health, what: &str) {
        if health.succeeded() {
            self.log(LogLevel::Info, &format!("the cold tier works again: {what}"));
        }
    }

    fn state(&self) -> State {
        if self.backend().is_none() {
            State::Off
        } else if [&self.opening, &self.reading, &self.writing]
            .iter()
            .all(|health| health.is_well())
        {
            State::Ok
        } else {
            State::Degraded
        }
    }

    /// Logs what storage found wrong with its files.
    fn report(&self, backend: &dyn Backend) {
        for notice in backend.take_notices() {
            self.log(LogLevel::Warn, &notice);
        }
    }

    fn log(&self, level: LogLevel, message: &str) {
        if let Some(log) = &self.log {
            log(&LogRecord {
                level,
                target: "kv_cold",
                message,
                fields: "{}",
            });
        }
    }
}
