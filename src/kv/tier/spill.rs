//! Write-behind: blocks wait in memory until a thread of the tier has written them, in batches.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{BlockName, Key, Shared, TierCounters};
use crate::memory::Region;

/// Bytes written at once, about: a sync takes a while, however little there is to sync.
const BATCH_BYTES: usize = 32 << 20;
/// Blocks written at once: so many where they are large, and where they are small.
const BATCH: std::ops::RangeInclusive<usize> = 16..=256;
/// How often storage is looked after when there is nothing to write.
const MAINTENANCE: Duration = Duration::from_secs(2);

/// A block on its way to storage.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) name: BlockName,
    pub(super) data: Region,
}

#[derive(Debug)]
enum Job {
    Write(Arc<Waiting>),
    Forget(Option<Key>),
}

/// What waits for the writing thread.
#[derive(Debug)]
pub(super) struct Writes {
    most: usize,
    /// Most blocks written at once.
    batch: usize,
    queue: Mutex<Queue>,
    /// There is something to write, or the end has come.
    filled: Condvar,
    /// There is room again, or nothing is left.
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Those that are waiting or being written.
    by_key: HashMap<Key, Arc<Waiting>>,
    /// Roots whose blocks storage is still to forget; `None` for all.
    forgetting: Vec<Option<Key>>,
    /// Places promised to blocks that are being copied.
    promised: usize,
    /// The thread is at work on some it took.
    busy: bool,
}

impl Writes {
    pub(super) fn new(most: usize, block_bytes: usize) -> Self {
        let batch = (BATCH_BYTES / block_bytes.max(1)).clamp(*BATCH.start(), *BATCH.end());
        Self {
            most,
            // The rest of the queue fills while these are written.
            batch: batch.min(most / 2).max(1),
            queue: Mutex::default(),
            filled: Condvar::new(),
            emptied: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn len(&self) -> usize {
        self.lock().by_key.len()
    }

    pub(super) fn contains(&self, key: &Key) -> bool {
        self.lock().by_key.contains_key(key)
    }

    /// Where a block is to be looked for.
    pub(super) fn place(&self, name: &BlockName) -> Place {
        let queue = self.lock();
        match queue.by_key.get(&name.key) {
            Some(waiting) => Place::Queue(Arc::clone(waiting)),
            None if queue.forgets(&name.root) => Place::Nowhere,
            None => Place::Storage,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.lock().is_full(self.most)
    }

    pub(super) fn wake(&self) {
        drop(self.lock());
        self.filled.notify_all();
        self.emptied.notify_all();
    }

    pub(super) fn wait_for_room(&self, timeout: Duration) {
        let queue = self.lock();
        let full = |queue: &mut Queue| queue.is_full(self.most);
        drop(self.emptied.wait_timeout_while(queue, timeout, full));
    }

    pub(super) fn wait_until_empty(&self, timeout: Duration) -> bool {
        let queue = self.lock();
        let left = |queue: &mut Queue| queue.busy || !queue.jobs.is_empty();
        let waited = self.emptied.wait_timeout_while(queue, timeout, left);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    pub(super) fn forget(&self, root: Option<Key>) {
        let mut queue = self.lock();
        queue
            .by_key
            .retain(|_, waiting| root.is_some_and(|root| waiting.name.root != root));
        let Queue { jobs, by_key, .. } = &mut *queue;
        jobs.retain(|job| match job {
            Job::Write(waiting) => by_key.contains_key(&waiting.name.key),
            Job::Forget(_) => true,
        });
        // A host may clear again and again while a disk hangs.
        if !queue.is_to_forget(root) {
            queue.jobs.push_back(Job::Forget(root));
        }
        if !queue.forgetting.contains(&root) {
            queue.forgetting.push(root);
        }
        drop(queue);
        self.filled.notify_all();
    }
}

/// Where a block is to be looked for.
pub(super) enum Place {
    /// It waits to be written.
    Queue(Arc<Waiting>),
    Storage,
    /// Storage has it at best until it has forgotten it.
    Nowhere,
}

impl Queue {
    fn forgets(&self, root: &Key) -> bool {
        let mut roots = self.forgetting.iter();
        roots.any(|forgotten| forgotten.as_ref().is_none_or(|forgotten| forgotten == root))
    }

    /// Whether storage is still to be told of a root.
    fn is_to_forget(&self, root: Option<Key>) -> bool {
        let mut jobs = self.jobs.iter();
        jobs.any(|job| matches!(job, Job::Forget(other) if *other == root))
    }

    fn is_full(&self, most: usize) -> bool {
        self.by_key.len() + self.promised >= most
    }
}

impl Shared {
    pub(super) fn wants(&self, name: &BlockName) -> bool {
        let misnamed = self.misnamed.load(Relaxed);
        if misnamed || self.writes.contains(&name.key) || !self.writing.may_try() {
            return false;
        }
        self.backend().is_some_and(|backend| backend.admits(name))
    }

    /// Copies a block into the queue, unless that is full.
    pub(super) fn enqueue(&self, name: &BlockName, data: &[u8]) -> bool {
        let place = {
            let mut queue = self.writes.lock();
            let free = !queue.is_full(self.writes.most)
                && queue.by_key.try_reserve(1).is_ok()
                && queue.jobs.try_reserve(1).is_ok();
            queue.promised += usize::from(free);
            free
        };
        let buffer = if place { self.buffers.take() } else { None };
        let copy = buffer.filter(|buffer| buffer.len() == data.len());
        let taken = copy.is_some();
        // The copy is made without the lock.
        let waiting = copy.map(|mut buffer| {
            buffer.copy_from_slice(data);
            Arc::new(Waiting {
                name: *name,
                data: buffer,
            })
        });
        let mut queue = self.writes.lock();
        queue.promised -= usize::from(place);
        if let Some(waiting) = waiting {
            queue.by_key.insert(name.key, Arc::clone(&waiting));
            queue.jobs.push_back(Job::Write(waiting));
        }
        drop(queue);
        if taken {
            self.writes.filled.notify_one();
        } else {
            TierCounters::add(&self.counters.dropped, 1);
        }
        taken
    }

    /// The writing thread.
    pub(super) fn write_until_closed(&self) {
        let mut maintained = Instant::now();
        while !self.shutdown.load(Relaxed) {
            let jobs = self.next_jobs();
            let idle = jobs.is_empty();
            self.work_off(jobs);
            if idle || maintained.elapsed() >= MAINTENANCE {
                maintained = Instant::now();
                self.maintain();
            }
        }
        if !self.persist {
            self.writes.lock().forgetting.push(None);
        }
        self.forget_again();
        self.sync();
    }

    /// Waits for something to do; nothing when it is time to look after the storage.
    fn next_jobs(&self) -> Vec<Job> {
        let queue = self.writes.lock();
        let waits = |queue: &mut Queue| queue.jobs.is_empty() && !self.shutdown.load(Relaxed);
        let waited = self.writes.filled.wait_timeout_while(queue, MAINTENANCE, waits);
        let mut queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        queue.busy = !queue.jobs.is_empty();
        let n = queue.jobs.len().min(self.writes.batch);
        queue.jobs.drain(..n).collect()
    }

    fn work_off(&self, jobs: Vec<Job>) {
        let mut batch = Vec::new();
        for job in jobs {
            match job {
                Job::Write(waiting) => batch.push(waiting),
                Job::Forget(root) => {
                    self.write(std::mem::take(&mut batch));
                    self.forget_stored(root);
                }
            }
        }
        self.write(batch);
        let mut queue = self.writes.lock();
        queue.busy = false;
        drop(queue);
        self.writes.emptied.notify_all();
    }

    fn write(&self, mut batch: Vec<Arc<Waiting>>) {
        // Those that were forgotten meanwhile are not written.
        batch.retain(|waiting| self.writes.contains(&waiting.name.key));
        if batch.is_empty() {
            return;
        }
        let blocks: Vec<(BlockName, &[u8])> = batch
            .iter()
            .map(|waiting| (waiting.name, &*waiting.data))
            .collect();
        let begin = Instant::now();
        let backend = self.backend().filter(|_| self.writing.may_try());
        let put = backend.map(|backend| backend.put(&blocks));
        let written = match put {
            Some(Ok(n)) => {
                let taken = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
                self.counters.write_times.record(taken);
                self.succeeded(&self.writing, "writing");
                n
            }
            Some(Err(e)) => {
                self.failed(&self.writing, "writing", &e);
                0
            }
            None => 0,
        };
        TierCounters::add(&self.counters.spills, written as u64);
        TierCounters::add(&self.counters.dropped, (batch.len() - written) as u64);
        let mut queue = self.writes.lock();
        for waiting in &batch {
            queue.by_key.remove(&waiting.name.key);
        }
        drop(queue);
        for waiting in batch {
            // A reader may still be copying from it; then its memory is not used again.
            if let Some(waiting) = Arc::into_inner(waiting) {
                self.buffers.give_back(waiting.data);
            }
        }
    }

    /// Has storage forget a root; until it has, its blocks are not looked for there.
    fn forget_stored(&self, root: Option<Key>) {
        match self.backend().map(|backend| backend.remove(root)) {
            Some(Ok(())) => {
                let mut queue = self.writes.lock();
                if !queue.is_to_forget(root) {
                    queue.forgetting.retain(|other| *other != root);
                }
            }
            Some(Err(e)) => self.failed(&self.writing, "forgetting", &e),
            None => {}
        }
    }

    /// Tries again what storage did not forget when it was to.
    fn forget_again(&self) {
        let roots = self.writes.lock().forgetting.clone();
        for root in roots {
            self.forget_stored(root);
        }
    }

    /// Opens storage that was given up, and has open storage do what is due.
    fn maintain(&self) {
        if !self.opening.may_try() {
            return;
        }
        let due = match self.backend() {
            Some(backend) => {
                let result = backend.maintain();
                self.report(&*backend);
                result
            }
            None => self.reopen(),
        };
        match due {
            Ok(()) => {
                self.succeeded(&self.opening, "it is open");
                if self.writing.may_try() {
                    self.forget_again();
                }
            }
            Err(e) => self.failed(&self.opening, "looking after it", &e),
        }
    }

    fn sync(&self) {
        if let Some(backend) = self.backend()
            && let Err(e) = backend.sync()
        {
            self.failed(&self.writing, "syncing", &e);
        }
    }
}
