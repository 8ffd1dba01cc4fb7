//! Reading ahead: threads of the tier read blocks for requests that wait, a few at a time.
//!
//! Several threads keep the disk busy while one of them checks what it has read. They serve the oldest request first, block by
//! block, and blocks are taken in their order.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::spill::Place;
use super::{BlockName, Shared, TierCounters};
use crate::memory::Region;

/// Threads that read.
pub(super) const READERS: usize = 3;
/// Reading that shows nothing for so long is given up, beside the time that a block takes.
const STALL: Duration = Duration::from_secs(1);
/// Bytes per second of the slowest disk that is worth waiting for.
const SLOWEST: usize = 20 << 20;

/// Blocks that are being read; dropping it ends the reading.
pub struct Fetch {
    id: u64,
    names: Arc<[BlockName]>,
    shared: Arc<Shared>,
}

/// A block that was read. Its memory is used again when it is dropped.
pub struct Loaded {
    /// What it is.
    pub name: BlockName,
    data: Option<Region>,
    shared: Arc<Shared>,
}

impl std::ops::Deref for Loaded {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.data.as_deref().unwrap_or_default()
    }
}

impl Loaded {
    /// Exchanges its bytes for memory of the same size, without a copy; what was in that is the block's then. Answers
    /// whether it did.
    pub fn exchange(&mut self, other: &mut Region) -> bool {
        let data = self.data.as_mut().filter(|data| data.len() == other.len());
        data.map(|data| std::mem::swap(data, other)).is_some()
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if let Some(data) = self.data.take() {
            self.shared.buffers.give_back(data);
        }
        self.shared.reads.make_room(1);
    }
}

impl Fetch {
    /// The next block, if it is there.
    pub fn take(&self) -> Option<Loaded> {
        let mut queue = self.shared.reads.lock();
        let (index, data) = queue.jobs.get_mut(&self.id)?.take()?;
        drop(queue);
        self.loaded(index, data)
    }

    /// Waits for the next block; `None` when nothing more comes. Where nothing at all is read for as long as
    /// [`Reads::stall`] says, the storage is left alone like one that fails.
    pub fn next(&self) -> Option<Loaded> {
        let reads = &self.shared.reads;
        let mut queue = reads.lock();
        let mut stalls = (queue.news, Instant::now() + reads.stall);
        loop {
            let job = queue.jobs.get_mut(&self.id)?;
            if let Some((index, data)) = job.take() {
                drop(queue);
                return self.loaded(index, data);
            }
            if job.taken >= job.end || self.shared.shutdown.load(Relaxed) {
                return None;
            }
            if queue.news != stalls.0 {
                stalls = (queue.news, Instant::now() + reads.stall);
            }
            let left = stalls.1.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(queue);
                self.shared.stalled();
                return None;
            }
            let waited = reads.news.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn loaded(&self, index: usize, data: Region) -> Option<Loaded> {
        Some(Loaded {
            name: *self.names.get(index)?,
            data: Some(data),
            shared: Arc::clone(&self.shared),
        })
    }

    /// Whether everything that could be read was taken.
    pub fn is_over(&self) -> bool {
        let queue = self.shared.reads.lock();
        queue.jobs.get(&self.id).is_none_or(|job| job.taken >= job.end)
    }

    /// Blocks that were asked for.
    pub fn names(&self) -> &[BlockName] {
        &self.names
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        let job = self.shared.reads.lock().jobs.remove(&self.id);
        let left = job.map_or_else(BTreeMap::new, |job| job.ready);
        let n = left.len();
        left.into_values()
            .for_each(|data| self.shared.buffers.give_back(data));
        self.shared.reads.make_room(n);
    }
}

/// How far a fetch is. Blocks before `taken` are gone, those before `next` were read or are being read.
struct Job {
    names: Arc<[BlockName]>,
    taken: usize,
    next: usize,
    /// The first that cannot be had, or their number.
    end: usize,
    ready: BTreeMap<usize, Region>,
}

impl Job {
    fn take(&mut self) -> Option<(usize, Region)> {
        let index = self.taken;
        let data = self.ready.remove(&index)?;
        self.taken += 1;
        Some((index, data))
    }
}

/// What waits for the reading threads, and how much of what they read was not taken yet.
pub(super) struct Reads {
    /// Most blocks that are being read, or were read and not taken.
    most: usize,
    /// Reading that shows nothing for so long is given up.
    pub(super) stall: Duration,
    queue: Mutex<Queue>,
    /// There is something to read, room for it, or the end has come.
    changed: Condvar,
    /// Something was read.
    news: Condvar,
}

#[derive(Default)]
struct Queue {
    /// By age.
    jobs: BTreeMap<u64, Job>,
    begun: u64,
    untaken: usize,
    /// Rises with every block and end.
    news: u64,
    /// What waiting has seen of it.
    seen: u64,
}

impl Queue {
    /// The next block to read.
    fn next(&mut self) -> Option<(u64, usize, BlockName)> {
        let (&id, job) = self.jobs.iter_mut().find(|(_, job)| job.next < job.end)?;
        let index = job.next;
        let name = *job.names.get(index)?;
        job.next += 1;
        self.untaken += 1;
        Some((id, index, name))
    }

    fn has_next(&self) -> bool {
        self.jobs.values().any(|job| job.next < job.end)
    }
}

impl Reads {
    pub(super) fn new(most: usize, block_bytes: usize) -> Self {
        // Every reader may read a block of its own.
        let reading = (block_bytes.saturating_mul(READERS) / (SLOWEST / 1000)) as u64;
        Self {
            most,
            stall: STALL + Duration::from_millis(reading),
            queue: Mutex::default(),
            changed: Condvar::new(),
            news: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks that are still to be read.
    pub(super) fn ahead(&self) -> usize {
        let queue = self.lock();
        queue
            .jobs
            .values()
            .map(|job| job.end.saturating_sub(job.next))
            .sum()
    }

    pub(super) fn wake(&self) {
        drop(self.lock());
        self.changed.notify_all();
        self.news.notify_all();
    }

    pub(super) fn wait(&self, timeout: Duration) {
        let queue = self.lock();
        let old = |queue: &mut Queue| queue.seen == queue.news;
        let waited = self.news.wait_timeout_while(queue, timeout, old);
        let mut queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        queue.seen = queue.news;
    }

    fn make_room(&self, n: usize) {
        let mut queue = self.lock();
        queue.untaken -= n.min(queue.untaken);
        drop(queue);
        self.changed.notify_all();
    }

    /// Notes what became of a block, and answers the memory of those that nobody will take.
    fn deliver(&self, id: u64, index: usize, data: Option<Region>) -> Vec<Region> {
        let mut queue = self.lock();
        let mut unwanted = Vec::new();
        let failed = data.is_none();
        match (queue.jobs.get_mut(&id), data) {
            (Some(job), Some(data)) if index < job.end => {
                job.ready.insert(index, data);
            }
            (Some(job), None) => {
                job.end = job.end.min(index);
                unwanted.extend(job.ready.split_off(&job.end).into_values());
            }
            (_, data) => unwanted.extend(data),
        }
        queue.untaken -= (unwanted.len() + usize::from(failed)).min(queue.untaken);
        queue.news += 1;
        drop(queue);
        self.news.notify_all();
        if failed || !unwanted.is_empty() {
            self.changed.notify_all();
        }
        unwanted
    }
}

impl Shared {
    pub(super) fn begin_fetch(self: &Arc<Self>, names: Vec<BlockName>) -> Fetch {
        let names: Arc<[BlockName]> = names.into();
        let mut queue = self.reads.lock();
        queue.begun += 1;
        let id = queue.begun;
        let job = Job {
            names: Arc::clone(&names),
            taken: 0,
            next: 0,
            end: names.len(),
            ready: BTreeMap::new(),
        };
        queue.jobs.insert(id, job);
        drop(queue);
        self.reads.changed.notify_all();
        Fetch {
            id,
            names,
            shared: Arc::clone(self),
        }
    }

    /// A reading thread.
    pub(super) fn read_until_closed(&self) {
        while let Some((id, index, name)) = self.next_read() {
            let data = self.buffers.take().and_then(|mut data| {
                let found = self.read(&name, &mut data);
                if found {
                    return Some(data);
                }
                self.buffers.give_back(data);
                None
            });
            let unwanted = self.reads.deliver(id, index, data);
            unwanted.into_iter().for_each(|data| self.buffers.give_back(data));
        }
    }

    /// Waits for a block to read and for room for it; `None` at the end.
    fn next_read(&self) -> Option<(u64, usize, BlockName)> {
        let queue = self.reads.lock();
        let idle = |queue: &mut Queue| {
            let can = queue.has_next() && queue.untaken < self.reads.most;
            !can && !self.shutdown.load(Relaxed)
        };
        let waited = self.reads.changed.wait_while(queue, idle);
        let mut queue = waited.unwrap_or_else(PoisonError::into_inner);
        if self.shutdown.load(Relaxed) {
            return None;
        }
        queue.next()
    }

    pub(super) fn read(&self, name: &BlockName, out: &mut [u8]) -> bool {
        let found = match self.writes.place(name) {
            Place::Nowhere => false,
            Place::Queue(waiting) => {
                let same = waiting.name == *name && waiting.data.len() == out.len();
                if same {
                    out.copy_from_slice(&waiting.data);
                }
                same
            }
            Place::Storage => self.read_stored(name, out),
        };
        let counter = match found {
            true => &self.counters.reads,
            false => &self.counters.misses,
        };
        TierCounters::add(counter, 1);
        found
    }

    fn read_stored(&self, name: &BlockName, out: &mut [u8]) -> bool {
        let Some(backend) = self.backend().filter(|_| self.reading.may_try()) else {
            return false;
        };
        let begin = Instant::now();
        match backend.get(name, out) {
            Ok(found) => {
                let time = begin.elapsed();
                self.succeeded(&self.reading, "reading");
                if found {
                    self.counters.note_read(out.len(), time);
                    let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
                    self.counters.read_times.record(time);
                }
                found
            }
            Err(e) => {
                self.failed(&self.reading, "reading", &e);
                false
            }
        }
    }
}
