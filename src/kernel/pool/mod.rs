//! A pool of threads for short parallel jobs, shareable by several engines that take turns.
//!
//! The calling thread takes part as worker 0. Tasks are claimed one by one from a counter, so a worker that loses its
//! CPU holds up no more than its current task. A worker joins a job only while the job is open: when no task is left to
//! claim, the caller closes the job and waits for those that joined, never for a thread that sleeps or was not
//! scheduled. Idle workers spin briefly, so that no wake-up falls inside a decode step, and then sleep.
//!
//! Each job is for the first few workers only: no more than there are CPUs to run them, and fewer when the caller says
//! so ([`ThreadPool::with_workers`]). The others sleep through it, at no cost: so a pool of many more threads than CPUs
//! is as fast as one that fits.

#![allow(
    unsafe_code,
    reason = "lends a job's closure to the workers; thread attributes through libc"
)]

#[cfg(all(test, infer_models))]
mod models;
mod pieces;
pub(super) mod system;
mod turn;

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

pub(super) use pieces::Pieces;
pub use pieces::{for_each_chunk_mut, for_each_row_mut};
use turn::Turn;

use super::KernelError;
use crate::memory::{self, Region};
use crate::sync::thread::{Builder, JoinHandle};
use crate::sync::{
    AtomicBool, AtomicU64, AtomicUsize, Condvar, MODELLED, Mutex, MutexGuard, planted, spin_loop,
    thread_local,
};
use crate::topology::Topology;

/// Stack of a worker, in bytes; kernels need a few kilobytes.
const STACK: usize = 2 << 20;
/// Scratch memory of a worker, in bytes: unpacked weights, sums that wait, copied activations.
pub(super) const SCRATCH: usize = 640 << 10;
/// How long an idle worker spins before it sleeps: longer than the pauses inside a decode step.
const SPIN: Duration = Duration::from_micros(200);
/// The same where there are more threads than CPUs, and spinning would take time from a thread with work.
const SPIN_OVERSUBSCRIBED: Duration = Duration::from_micros(2);
/// How often an idle worker looks for work before it looks at the clock.
const LOOKS: usize = if MODELLED { 1 } else { 32 };
/// More threads than any machine has use for.
const MAX_THREADS: usize = 1024;

/// Called in each worker thread with the worker's number.
pub type ThreadHook = Arc<dyn Fn(usize) + Send + Sync>;

/// How to build a [`ThreadPool`].
#[derive(Clone, Default)]
pub struct ThreadPoolOptions {
    /// Workers including the caller; by default the number of `cpus`, or one for each core this process may use
    /// ([`Topology::cores`]).
    pub threads: Option<usize>,
    /// Most workers that compute at the same time; by default the CPUs this process may use ([`Topology::cpus`]). More
    /// only take time from each other: this is for tests.
    pub at_once: Option<usize>,
    /// CPU numbers to pin to: worker `i` gets number `i` (modulo their count). Worker 0 is the caller and not pinned.
    pub cpus: Option<Vec<usize>>,
    /// Prefix of the threads' names; `infer` where empty. Names are cut to the 15 bytes the system keeps.
    pub name: String,
    /// Called in each created thread before its first task.
    pub on_start: Option<ThreadHook>,
    /// Called in each created thread after its last task.
    pub on_stop: Option<ThreadHook>,
}

impl std::fmt::Debug for ThreadPoolOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ThreadPoolOptions")
            .field("threads", &self.threads)
            .field("at_once", &self.at_once)
            .field("cpus", &self.cpus)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// Set in [`Shared::state`] while workers may join the job.
const OPEN: u64 = 1 << 31;
/// One job further; the bits below count the workers that joined.
const EPOCH: u64 = 1 << 32;
const JOINED: u64 = OPEN - 1;

struct Shared {
    /// Epoch (upper half), [`OPEN`], and the number of joined workers.
    state: AtomicU64,
    /// The job; written by the caller while no worker can join, read by joined workers.
    task: UnsafeCell<Option<*const Task<'static>>>,
    n_tasks: AtomicUsize,
    next: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Workers that may join the job: those with a lower number. Written like `task`, but read by all.
    limit: AtomicUsize,
    seats: Vec<Seat>,
    sleep: Mutex<()>,
    /// The caller sleeps until the joined workers are done.
    caller_waits: AtomicBool,
    done: Condvar,
    stop: AtomicBool,
    spin: Duration,
    scratch: Vec<UnsafeCell<Region>>,
}

/// Where a worker sleeps.
struct Seat {
    /// It sleeps or is about to.
    asleep: AtomicBool,
    wake: Condvar,
}

// SAFETY: `task` is written only while no worker is joined and none can join (state is closed) and read only by joined
// workers, with the release/acquire pair on `state` between; `scratch[i]` is used by worker i alone.
unsafe impl Sync for Shared {}
// SAFETY: the raw task pointer is a loan that ends before `run` returns; nothing else is tied to a thread.
unsafe impl Send for Shared {}

/// Threads for parallel jobs. See the [module documentation](self).
pub struct ThreadPool {
    shared: Arc<Shared>,
    threads: usize,
    at_once: usize,
    decode_workers: usize,
    handles: Vec<JoinHandle<()>>,
    turn: Turn,
    process: u32,
}

impl std::fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ThreadPool({} threads)", self.threads)
    }
}

/// A pool whose job the current thread is executing, and as which worker; a list through the stack, innermost first.
struct Frame {
    pool: *const Shared,
    worker: usize,
    outer: *const Frame,
}

thread_local! {
    static FRAMES: Cell<*const Frame> = const { Cell::new(std::ptr::null()) };
    /// Most workers of this thread's jobs.
    static WORKERS: Cell<usize> = const { Cell::new(usize::MAX) };
}

impl ThreadPool {
    /// Starts the workers.
    ///
    /// # Errors
    /// The number of threads is 0 or absurd, a CPU number is not one this process may use, or the system refuses a
    /// thread or memory; threads already started are joined first.
    pub fn new(options: ThreadPoolOptions) -> Result<Self, KernelError> {
        let topology = Topology::this();
        let cpus = options.cpus.filter(|c| !c.is_empty());
        let threads = options
            .threads
            .or(cpus.as_ref().map(Vec::len))
            .unwrap_or(topology.cores());
        let refuse = |reason: String| KernelError::Pool { threads, reason };
        if threads == 0 || threads > MAX_THREADS {
            return Err(refuse(format!("expected 1 to {MAX_THREADS}")));
        }
        if let Some(cpu) = cpus.iter().flatten().find(|&&c| !system::may_use(c)) {
            return Err(refuse(format!("this process may not use CPU {cpu}")));
        }
        let mut scratch = memory::with_capacity(threads, "a thread pool")?;
        for _ in 0..threads {
            // Pages of its own, which begin at a cache line and leave no holes in the heap.
            scratch.push(UnsafeCell::new(Region::new(
                if MODELLED { 0 } else { SCRATCH },
                "a worker's scratch memory",
            )?));
        }
        let at_once = options.at_once.unwrap_or(topology.cpus()).clamp(1, threads);
        let decode_workers = match cpus {
            // Who names CPUs has chosen their kinds.
            Some(_) => at_once,
            None => at_once.min(topology.performance_cores_of(threads)),
        };
        let mut seats = memory::with_capacity(threads, "a thread pool")?;
        seats.resize_with(threads, || Seat {
            asleep: AtomicBool::new(false),
            wake: Condvar::new(),
        });
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            task: UnsafeCell::new(None),
            n_tasks: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            panic: Mutex::new(None),
            limit: AtomicUsize::new(at_once),
            seats,
            sleep: Mutex::new(()),
            caller_waits: AtomicBool::new(false),
            done: Condvar::new(),
            stop: AtomicBool::new(false),
            spin: if MODELLED {
                Duration::ZERO
            } else if at_once > topology.cpus() {
                SPIN_OVERSUBSCRIBED
            } else {
                SPIN
            },
            scratch,
        });
        let mut pool = Self {
            shared,
            threads,
            at_once,
            decode_workers,
            handles: memory::with_capacity(threads - 1, "a thread pool")?,
            turn: Turn::new(),
            process: std::process::id(),
        };
        let prefix = if options.name.is_empty() {
            "infer"
        } else {
            options.name.as_str()
        };
        for worker in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let cpu = cpus.as_ref().map(|c| c[worker % c.len()]);
            let (on_start, on_stop) = (options.on_start.clone(), options.on_stop.clone());
            let body = move || {
                let _inside = crate::panic_guard::enter();
                super::fp_env::set_default();
                if let Some(cpu) = cpu {
                    system::pin(cpu);
                }
                // A hook that panics is the host's affair; it must not cost the pool a worker.
                let hook = |h: Option<ThreadHook>| {
                    let _ = catch_unwind(AssertUnwindSafe(|| h.map(|h| h(worker))));
                };
                hook(on_start);
                shared.work(worker);
                hook(on_stop);
            };
            let name = system::thread_name(prefix, worker);
            let builder = Builder::new().name(name.clone()).stack_size(STACK);
            let spawned = system::with_signals_blocked(|| builder.spawn(body));
            // On failure, dropping the pool joins the threads there are.
            pool.handles.push(spawned.map_err(|source| KernelError::Thread {
                name: format!("{name} of a pool of {threads}"),
                source,
            })?);
        }
        Ok(pool)
    }

    /// Number of workers, the caller included.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Workers that decoding should take: those that have fast cores. A step that reads every weight for a few rows waits
    /// for memory, and for the slowest that takes part.
    pub fn decode_workers(&self) -> usize {
        self.decode_workers
    }

    /// Jobs so far that were for more than one worker: each has one barrier, at its end. Begins again at 0 after 2³².
    pub fn jobs(&self) -> u64 {
        self.shared.state.load(Ordering::Relaxed) / EPOCH
    }

    /// Runs `f`, whose jobs on any pool then take no more than the first `workers` workers.
    pub fn with_workers<R>(workers: usize, f: impl FnOnce() -> R) -> R {
        struct Restore(usize);
        impl Drop for Restore {
            fn drop(&mut self) {
                WORKERS.with(|w| w.set(self.0));
            }
        }
        let _restore = Restore(WORKERS.with(|w| w.replace(workers)));
        f()
    }

    /// Calls `task(i, worker)` once for each `i` below `n_tasks`, spread over the workers, and returns when all are done.
    ///
    /// Callers take turns. From inside a task of the same pool it runs the tasks one after the other on the current
    /// worker. (A task that waits for another thread's `run` on the same pool waits for ever.) If a task panics the
    /// others still run, and the first panic is resumed here. Allocates nothing.
    pub fn run(&self, n_tasks: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        if n_tasks == 0 {
            return;
        }
        let mut frame = FRAMES.with(Cell::get);
        while !frame.is_null() {
            // SAFETY: frames live on this thread's stack below us, and are unlinked before they end.
            let f = unsafe { &*frame };
            if std::ptr::eq(f.pool, &raw const *self.shared) {
                (0..n_tasks).for_each(|i| task(i, f.worker));
                return;
            }
            frame = f.outer;
        }
        let turn = self.turn.take();
        let workers = self.at_once.min(WORKERS.with(Cell::get));
        if workers <= 1 || n_tasks == 1 {
            self.shared
                .within(0, || (0..n_tasks).for_each(|i| self.shared.call(task, i, 0)));
        } else {
            self.shared.run(n_tasks, workers, task);
        }
        let panic = lock(&self.shared.panic).take();
        drop(turn);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// The scratch memory of `worker`.
    ///
    /// # Safety
    /// Only from a task that runs as this worker, one use at a time.
    #[allow(
        clippy::mut_from_ref,
        reason = "each worker has its own, as the safety rule says"
    )]
    pub(crate) unsafe fn scratch(&self, worker: usize) -> &mut [u8] {
        // SAFETY: exclusive by the caller's promise.
        unsafe { &mut *self.shared.scratch[worker].get() }
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        if std::process::id() != self.process {
            // A forked child: the threads are gone, their locks may be held for ever.
            std::mem::take(&mut self.handles)
                .into_iter()
                .for_each(std::mem::forget);
            std::mem::forget(Arc::clone(&self.shared));
            return;
        }
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.wake(self.threads, self.threads);
        for handle in self.handles.drain(..) {
            let _ = handle.join();
        }
    }
}

impl Shared {
    /// Runs `f` with this thread marked as `worker` of this pool.
    fn within(&self, worker: usize, f: impl FnOnce()) {
        struct Unlink(*const Frame);
        impl Drop for Unlink {
            fn drop(&mut self) {
                FRAMES.with(|frames| frames.set(self.0));
            }
        }
        let frame = Frame {
            pool: self,
            worker,
            outer: FRAMES.with(Cell::get),
        };
        let _unlink = Unlink(frame.outer);
        FRAMES.with(|frames| frames.set(&raw const frame));
        f();
    }

    /// Runs one task and keeps its panic, if it is the first.
    fn call(&self, task: &Task<'_>, i: usize, worker: usize) {
        let body = || {
            #[cfg(infer_faults)]
            crate::fault::panic_at(if worker == 0 {
                "task"
            } else {
                "task of a pool thread"
            });
            task(i, worker);
        };
        if let Err(p) = catch_unwind(AssertUnwindSafe(body)) {
            let mut first = lock(&self.panic);
            if first.is_none() {
                *first = Some(p);
            }
        }
    }

    /// Claims and runs tasks until none is left.
    fn claim(&self, task: &Task<'_>, worker: usize) {
        let n = self.n_tasks.load(Ordering::Relaxed);
        loop {
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            if i >= n {
                return;
            }
            self.call(task, i, worker);
        }
    }

    /// The caller's side of a job for `workers` workers; the caller holds the turn.
    fn run(&self, n_tasks: usize, workers: usize, task: &Task<'_>) {
        // SAFETY: only the lifetime changes. The job is closed and all joined workers are gone before this returns.
        let task_static = unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(task) };
        // SAFETY: the state is closed with nobody joined, so no worker reads the cell.
        unsafe { *self.task.get() = Some(task_static) };
        self.n_tasks.store(n_tasks, Ordering::Relaxed);
        self.next.store(0, Ordering::Relaxed);
        // A worker that sees this before the job opens cannot join the job before it, which is closed.
        self.limit.store(workers, Ordering::Relaxed);
        let epoch = (self.state.load(Ordering::Relaxed) / EPOCH).wrapping_add(1) & 0xffff_ffff;
        self.state.store(epoch * EPOCH + OPEN, Ordering::SeqCst);
        self.wake(workers, n_tasks - 1);
        self.within(0, || self.claim(task, 0));
        let mut state = self.state.fetch_and(!OPEN, Ordering::AcqRel) & !OPEN;
        let start = Instant::now();
        while state & JOINED != 0 {
            if start.elapsed() < self.spin {
                spin_loop();
            } else {
                self.wait_for_joined();
            }
            state = self.state.load(Ordering::Acquire);
        }
    }

    /// Wakes up to `n` of the workers below `limit` that sleep. Taking the lock orders this after the last look of a
    /// thread that is about to sleep; one that takes it later sees what there is to wake up for.
    fn wake(&self, limit: usize, n: usize) {
        let asleep = |seat: &&Seat| seat.asleep.load(Ordering::SeqCst);
        let mut locked = planted();
        for seat in self.seats[1..limit].iter().filter(asleep).take(n) {
            if !locked {
                drop(lock(&self.sleep));
                locked = true;
            }
            seat.wake.notify_one();
        }
    }

    /// Wakes who sleeps on `condvar`, in the same way.
    fn signal(&self, condvar: &Condvar) {
        if !planted() {
            drop(lock(&self.sleep));
        }
        condvar.notify_all();
    }

    /// Sleeps until no worker is joined. The last one to leave sees the flag, as both sides use one total order.
    fn wait_for_joined(&self) {
        let mut guard = lock(&self.sleep);
        self.caller_waits.store(true, Ordering::SeqCst);
        while self.state.load(Ordering::SeqCst) & JOINED != 0 {
            guard = self.done.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.caller_waits.store(false, Ordering::SeqCst);
    }

    /// A worker's life.
    fn work(&self, worker: usize) {
        let mut seen = 0;
        while let Some(epoch) = self.next_job(worker, seen) {
            seen = epoch;
            let mut state = self.state.load(Ordering::Acquire);
            let joined = loop {
                if state / EPOCH != epoch || state & OPEN == 0 {
                    break false;
                }
                match self
                    .state
                    .compare_exchange_weak(state, state + 1, Ordering::AcqRel, Ordering::Acquire)
                {
                    Ok(_) => break true,
                    Err(s) => state = s,
                }
            };
            if !joined {
                continue;
            }
            // SAFETY: joined, so the caller has written the cell for this epoch and waits for us to leave.
            if let Some(task) = unsafe { *self.task.get() } {
                // SAFETY: the closure lives until the caller returns, which is after we leave.
                self.within(worker, || self.claim(unsafe { &*task }, worker));
            }
            let before = self.state.fetch_sub(1, Ordering::SeqCst);
            if before & JOINED == 1 && self.caller_waits.load(Ordering::SeqCst) {
                self.signal(&self.done);
            }
        }
    }

    /// Waits for an epoch other than `seen` with a job for `worker`; `None` when the pool stops.
    fn next_job(&self, worker: usize, mut seen: u64) -> Option<u64> {
        let stopped = || self.stop.load(Ordering::SeqCst);
        let mut next = || {
            let epoch = self.state.load(Ordering::SeqCst) / EPOCH;
            if epoch == seen {
                return None;
            }
            seen = epoch;
            (worker < self.limit.load(Ordering::Relaxed)).then_some(epoch)
        };
        let start = Instant::now();
        loop {
            for _ in 0..LOOKS {
                if stopped() {
                    return None;
                }
                if let Some(epoch) = next() {
                    return Some(epoch);
                }
                spin_loop();
            }
            if start.elapsed() >= self.spin {
                break;
            }
        }
        let seat = &self.seats[worker];
        let mut guard = lock(&self.sleep);
        seat.asleep.store(true, Ordering::SeqCst);
        let epoch = loop {
            if stopped() {
                break None;
            }
            if let Some(epoch) = next() {
                break Some(epoch);
            }
            guard = seat.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        };
        seat.asleep.store(false, Ordering::SeqCst);
        epoch
    }
}

/// Locks whatever happened before: the data behind the pool's locks is always whole.
fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}
