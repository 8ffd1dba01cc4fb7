//! Reading ahead: a thread of the tier reads blocks for requests that wait, a few at a time.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::spill::Place;
use super::{BlockName, Shared, TierCounters};
use crate::memory::Region;

/// Blocks that are being read; dropping it ends the reading.
pub struct Fetch {
    job: Arc<Job>,
    shared: Arc<Shared>,
}

struct Job {
    names: Vec<BlockName>,
    cancelled: AtomicBool,
    state: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    loaded: VecDeque<(usize, Region)>,
    /// Nothing more will come.
    ended: bool,
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

impl Drop for Loaded {
    fn drop(&mut self) {
        if let Some(data) = self.data.take() {
            self.shared.buffers.give_back(data);
        }
        self.shared.reads.taken(1);
    }
}

impl Fetch {
    /// The next block, if it is there.
    pub fn take(&self) -> Option<Loaded> {
        let (index, data) = self.job.lock().loaded.pop_front()?;
        Some(Loaded {
            name: *self.job.names.get(index)?,
            data: Some(data),
            shared: Arc::clone(&self.shared),
        })
    }

    /// Whether everything that could be read was taken.
    pub fn is_over(&self) -> bool {
        let progress = self.job.lock();
        progress.ended && progress.loaded.is_empty()
    }

    /// Blocks that were asked for.
    pub fn names(&self) -> &[BlockName] {
        &self.job.names
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.job.cancelled.store(true, Relaxed);
        let left = std::mem::take(&mut self.job.lock().loaded);
        let n = left.len();
        for (_, data) in left {
            self.shared.buffers.give_back(data);
        }
        self.shared.reads.taken(n);
    }
}

impl Job {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What waits for the reading thread, and how much of what it read was not taken yet.
pub(super) struct Reads {
    /// Most blocks that were read and not taken.
    most: usize,
    queue: Mutex<Queue>,
    /// There is something to read, room for it, or the end has come.
    changed: Condvar,
    /// Something was read.
    news: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Arc<Job>>,
    /// Blocks of all jobs that were not read yet.
    ahead: usize,
    untaken: usize,
    /// Rises with every block and end.
    news: u64,
    /// What waiting has seen of it.
    seen: u64,
}

impl Reads {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            queue: Mutex::default(),
            changed: Condvar::new(),
            news: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ahead(&self) -> usize {
        self.lock().ahead
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

    fn taken(&self, n: usize) {
        let mut queue = self.lock();
        queue.untaken -= n.min(queue.untaken);
        drop(queue);
        self.changed.notify_all();
    }

    /// A block was read.
    fn note_block(&self) {
        let mut queue = self.lock();
        queue.ahead -= 1;
        queue.untaken += 1;
        queue.news += 1;
        drop(queue);
        self.news.notify_all();
    }

    /// A job has ended with blocks that were not read.
    fn note_end(&self, unread: usize) {
        let mut queue = self.lock();
        queue.ahead -= unread;
        queue.news += 1;
        drop(queue);
        self.news.notify_all();
    }
}

impl Shared {
    pub(super) fn begin_fetch(self: &Arc<Self>, names: Vec<BlockName>) -> Fetch {
        let job = Arc::new(Job {
            names,
            cancelled: AtomicBool::new(false),
            state: Mutex::default(),
        });
        let mut queue = self.reads.lock();
        queue.ahead += job.names.len();
        queue.jobs.push_back(Arc::clone(&job));
        drop(queue);
        self.reads.changed.notify_all();
        Fetch {
            job,
            shared: Arc::clone(self),
        }
    }

    /// The reading thread.
    pub(super) fn read_until_closed(&self) {
        while let Some(job) = self.next_read() {
            let mut read = 0;
            for (index, name) in job.names.iter().enumerate() {
                if !self.wait_for_room(&job) {
                    break;
                }
                let Some(mut data) = self.buffers.take() else {
                    break;
                };
                if !self.read(name, &mut data) {
                    self.buffers.give_back(data);
                    break;
                }
                let mut progress = job.lock();
                if job.cancelled.load(Relaxed) {
                    // Nobody will take it any more.
                    drop(progress);
                    self.buffers.give_back(data);
                    break;
                }
                self.reads.note_block();
                progress.loaded.push_back((index, data));
                read += 1;
            }
            job.lock().ended = true;
            self.reads.note_end(job.names.len() - read);
        }
    }

    fn next_read(&self) -> Option<Arc<Job>> {
        let queue = self.reads.lock();
        let idle = |queue: &mut Queue| queue.jobs.is_empty() && !self.shutdown.load(Relaxed);
        let waited = self.reads.changed.wait_while(queue, idle);
        let mut queue = waited.unwrap_or_else(PoisonError::into_inner);
        if self.shutdown.load(Relaxed) {
            return None;
        }
        queue.jobs.pop_front()
    }

    /// Waits until the next block may be read; `false` when nobody wants it any more.
    fn wait_for_room(&self, job: &Job) -> bool {
        let queue = self.reads.lock();
        let given_up = || job.cancelled.load(Relaxed) || self.shutdown.load(Relaxed);
        let full = |queue: &mut Queue| queue.untaken >= self.reads.most && !given_up();
        drop(self.reads.changed.wait_while(queue, full));
        !given_up()
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
