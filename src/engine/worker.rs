//! The scheduler: every step takes the next token of each running sequence and a piece of the prompts being read,
//! computes them in one forward pass, and hands out what came of it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::event::FinishReason;
use super::queue::Outbox;
use super::sequence::{Ending, Sequence};
use super::stats::{Counters, nanoseconds};
use crate::error::{Error, Result};
use crate::kernel::attention::Form;
use crate::kernel::{CpuLevel, Kernels, Precision, RowType, ThreadPool, ThreadPoolOptions, for_each_row_mut};
use crate::kv::prefix::{Fingerprint, Namer, PolicyKind, Prefix, PrefixIndex, Secret};
use crate::kv::{BLOCK_TOKENS, Geometry, KvCache};
use crate::memory::{self, MemoryError};
use crate::model::{ComponentTimes, Compute, Model, Row, Step, Workspace};
use crate::options::EngineOptions;
use crate::options::preset::Preset;
use crate::sample::Samplers;

/// What the scheduler owns: only the thread that steps touches it.
pub(crate) struct Worker {
    model: Arc<Model>,
    kernels: &'static Kernels,
    pool: Arc<ThreadPool>,
    precision: Precision,
    attention: Form,
    kv: KvCache,
    workspace: Workspace,
    samplers: Samplers,
    running: Vec<Sequence>,
    max_running: usize,
    prefill_chunk: usize,
    /// The waiting request that memory was too short for, until a running one ends.
    blocked: Option<u64>,
    rows: Vec<Row>,
    /// For each row with logits, in row order: its sequence in `running`.
    sampled: Vec<usize>,
    /// What was chosen for it; `None` where no logit was a number.
    chosen: Vec<Option<u32>>,
    /// Rows of this step per running sequence.
    shares: Vec<usize>,
    endings: Vec<Option<Ending>>,
    outbox: Outbox,
    counters: Arc<Counters>,
}

/// What an engine with these options computes with; shared with evaluation outside an engine.
pub(crate) struct Machine {
    pub(crate) kernels: &'static Kernels,
    pub(crate) pool: Arc<ThreadPool>,
    pub(crate) kv_type: RowType,
}

impl Machine {
    /// Chooses kernels and threads by resolved options.
    ///
    /// # Errors
    /// A level the CPU lacks, or threads that cannot be started.
    pub(crate) fn new(options: &EngineOptions) -> Result<Self> {
        let level = match CpuLevel::from_name(options.cpu_level)? {
            None => CpuLevel::selected()?,
            Some(level) => level,
        };
        let kernels = Kernels::for_level(level).ok_or_else(|| {
            Error::Unsupported(format!(
                "engine option 'cpu_level': this CPU has no '{}'; it has {}",
                level.name(),
                CpuLevel::available()
                    .iter()
                    .map(|l| l.name())
                    .collect::<Vec<_>>()
                    .join(", ")
            ))
        })?;
        let pool = match &options.shared_threads {
            Some(pool) => Arc::clone(pool),
            None => {
                let threads = (options.threads > 0).then_some(options.threads);
                Arc::new(ThreadPool::new(ThreadPoolOptions {
                    threads,
                    ..ThreadPoolOptions::default()
                })?)
            }
        };
        let kv_type = RowType::from_name(options.kv_type).ok_or_else(|| Error::Internal {
            place: "engine options".to_string(),
            message: options.kv_type.to_string(),
        })?;
        Ok(Self {
            kernels,
            pool,
            kv_type,
        })
    }
}

impl Worker {
    /// Allocates everything a step needs; the options are resolved. Answers the worker and the context length it can serve.
    pub(crate) fn new(
        model: Arc<Model>,
        options: &EngineOptions,
        counters: Arc<Counters>,
    ) -> Result<(Self, usize)> {
        let body = model.body()?;
        let machine = Machine::new(options)?;
        let n_vocab = model.info().n_vocab;
        let asked = options.context_length;
        let geometry = Geometry::new(machine.kv_type, body.layer_shapes())?;
        let sequence = (asked.div_ceil(BLOCK_TOKENS) as u64).saturating_mul(geometry.block_bytes() as u64);
        let share = Preset::named(options.preset).kv_share(memory::available());
        let budget = match options.kv_budget {
            0 => sequence
                .saturating_mul(options.max_running as u64)
                .min(share.max(geometry.block_bytes() as u64)),
            n => n,
        };
        let index = match options.prefix_cache {
            true => Some(prefix_index(&model, options, &machine, &geometry)?),
            false => None,
        };
        let mut kv = KvCache::new(geometry, options.max_running, asked, budget)?;
        if let Some(index) = index {
            kv = kv.with_index(index);
        }
        let context = asked.min(kv.pool().capacity().saturating_mul(BLOCK_TOKENS));
        let max_rows = options.prefill_chunk + options.max_running;
        let workspace = Workspace::new(
            &body.widths(),
            max_rows,
            options.max_running,
            machine.pool.threads(),
            context,
            options.attention(),
        )?;
        let what = "the scheduler";
        Counters::set(
            &counters.kv_bytes_budget,
            kv.pool().capacity() as u64 * kv.pool().geometry().block_bytes() as u64,
        );
        let worker = Self {
            samplers: Samplers::new(n_vocab, machine.pool.threads().min(options.max_running))?,
            kernels: machine.kernels,
            pool: machine.pool,
            precision: options.precision(),
            attention: options.attention(),
            kv,
            workspace,
            running: memory::with_capacity(options.max_running, what)?,
            max_running: options.max_running,
            prefill_chunk: options.prefill_chunk,
            blocked: None,
            rows: memory::with_capacity(max_rows, what)?,
            sampled: memory::with_capacity(options.max_running, what)?,
            chosen: memory::with_capacity(options.max_running, what)?,
            shares: memory::with_capacity(options.max_running, what)?,
            endings: memory::with_capacity(options.max_running, what)?,
            outbox: Outbox::with_capacity(2 * options.max_running)?,
            counters,
            model,
        };
        Ok((worker, context))
    }

    pub(crate) fn kernels(&self) -> &'static Kernels {
        self.kernels
    }

    pub(crate) fn pool(&self) -> &Arc<ThreadPool> {
        &self.pool
    }

    pub(crate) fn geometry(&self) -> &Geometry {
        self.kv.pool().geometry()
    }

    /// Gives back cache memory that no sequence uses.
    pub(crate) fn trim(&mut self, bytes: u64) -> u64 {
        let freed = self.kv.trim(bytes);
        self.publish_cache();
        freed
    }

    /// Forgets the cached prefixes of a salt, or all of them when it is empty.
    pub(crate) fn forget_prefixes(&mut self, salt: &[u8]) {
        let root = self.kv.index().map(|index| index.root(salt));
        self.kv.forget_prefixes(root.filter(|_| !salt.is_empty()));
        self.publish_cache();
    }

    /// Takes waiting sequences in while there is a place and memory for their whole length.
    pub(crate) fn admit(&mut self, queue: &mut VecDeque<Sequence>) {
        while self.running.len() < self.max_running {
            let Some(next) = queue.front_mut() else { return };
            let id = next.mailbox.id();
            if self.blocked == Some(id) {
                return;
            }
            if next.cache_prompt {
                next.root = self
                    .kv
                    .index()
                    .map(|index| index.root(next.cache_salt.as_bytes()));
            }
            let Some(prefix) = self.fitting_prefix(next) else {
                self.blocked = Some(id);
                return;
            };
            let (Some(mut sequence), Some(slot)) = (queue.pop_front(), self.kv.open()) else {
                return;
            };
            sequence.slot = Some(slot);
            sequence.adopt(&mut self.kv, &prefix);
            self.running.push(sequence);
        }
    }

    /// The longest cached prefix of a sequence with which its whole length has room beside the running ones; `None`
    /// when it has none.
    fn fitting_prefix(&self, sequence: &Sequence) -> Option<Prefix> {
        let mut prefix = match sequence.root {
            Some(root) => self.kv.find(root, &sequence.tokens),
            None => Prefix::default(),
        };
        let others = self.running.iter().filter(|s| s.slot != sequence.slot);
        let promised: usize = others
            .filter_map(|s| Some(s.blocks().saturating_sub(self.kv.held_blocks(s.slot?))))
            .sum();
        let pool = self.kv.pool();
        let available = pool.capacity().saturating_sub(pool.used() + promised);
        let needed = |prefix: &Prefix| {
            let fresh = sequence.blocks().saturating_sub(prefix.blocks.len());
            fresh + self.kv.awakened(prefix)
        };
        if needed(&prefix) > available {
            // A block to copy from is in use beside its copy: the last of the memory is better spent on tokens.
            prefix.partial = None;
        }
        (needed(&prefix) <= available).then_some(prefix)
    }

    /// Looks once more before a prompt's first row: others may have computed its beginning since it was admitted.
    fn adopt_late(&mut self, index: usize) {
        if !self.running[index].is_untouched() {
            return;
        }
        let longer = self
            .fitting_prefix(&self.running[index])
            .filter(|prefix| prefix.len() > self.running[index].computed);
        if let Some(prefix) = longer {
            self.running[index].adopt(&mut self.kv, &prefix);
        }
    }

    /// Ends sequences that were cancelled or whose time is up; answers how many.
    pub(crate) fn reap(&mut self) -> usize {
        let now = Instant::now();
        let mut ended = 0;
        for i in (0..self.running.len()).rev() {
            if let Some(ending) = self.running[i].interrupted(now) {
                self.end(i, ending);
                ended += 1;
            }
        }
        self.outbox.flush();
        ended
    }

    /// Ends everything in the same way; answers how many.
    pub(crate) fn end_all(&mut self, ending: &dyn Fn() -> Ending) -> usize {
        let n = self.running.len();
        while !self.running.is_empty() {
            self.end(self.running.len() - 1, ending());
        }
        self.outbox.flush();
        n
    }

    /// One step. Answers how many sequences ended in it.
    pub(crate) fn step(&mut self, shutdown: &dyn Fn() -> bool) -> usize {
        let mut ended = self.reap();
        if self.running.is_empty() {
            return ended;
        }
        let before = self.running.len();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.compute(shutdown))) {
            Counters::add(&self.counters.panics, 1);
            let error = Arc::new(Error::Internal {
                place: "a step of the engine".to_string(),
                message: crate::panic_guard::describe(&*panic),
            });
            if self.running.len() != before {
                // The shares belong to sequences that moved: none can be trusted to be whole.
                self.shares.clear();
            }
            self.fail_step(&error);
        }
        self.outbox.flush();
        // Counted here, because a panic loses what `compute` counted.
        ended += before - self.running.len();
        self.publish_cache();
        ended
    }

    /// Ends the sequences that had rows in the current step.
    fn fail_step(&mut self, error: &Arc<Error>) {
        for i in (0..self.running.len()).rev() {
            if self.shares.get(i).is_none_or(|&n| n > 0) {
                self.end(i, Ending::failed(Arc::clone(error)));
            }
        }
    }

    fn compute(&mut self, shutdown: &dyn Fn() -> bool) {
        #[cfg(infer_faults)]
        crate::fault::panic_at("step");
        let begin = Instant::now();
        let (prefill_rows, decode_rows) = self.plan(begin);
        let mut times = ComponentTimes::default();
        let (running, shares) = (&self.running, &self.shares);
        let cancelled = || {
            shutdown()
                || running
                    .iter()
                    .zip(shares)
                    .all(|(s, &n)| n == 0 || s.cancelled.load(std::sync::atomic::Ordering::Relaxed))
        };
        let mut step = Step {
            compute: Compute {
                kernels: self.kernels,
                pool: &self.pool,
                precision: self.precision,
                attention: self.attention,
            },
            rows: &self.rows,
            kv: &mut self.kv,
            workspace: &mut self.workspace,
            times: &mut times,
            cancelled: &cancelled,
        };
        let workers = match prefill_rows {
            0 => self.pool.decode_workers(),
            _ => self.pool.threads(),
        };
        let body = self.model.body();
        let result = body.and_then(|body| ThreadPool::with_workers(workers, || body.forward(&mut step)));
        match result {
            Ok(()) => {}
            // Cancelled sequences are ended at the beginning of the next step.
            Err(Error::Cancelled(_)) => return,
            Err(e) => return self.fail_step(&Arc::new(e)),
        }
        for (sequence, &n) in self.running.iter_mut().zip(&self.shares) {
            if let Some(slot) = sequence.slot.filter(|_| n > 0) {
                self.kv.advance(slot, n);
                sequence.computed += n;
                // Others can share a prompt while its completion is still being written.
                if let Some(root) = sequence.root.filter(|_| sequence.in_prefill()) {
                    self.kv.seal(slot, root, &sequence.tokens);
                }
            }
        }
        let sampling = Instant::now();
        self.sample(sampling);
        times.sampling += nanoseconds(sampling.elapsed());
        self.hand_out();

        let c = &self.counters;
        Counters::add(&c.steps, 1);
        Counters::add(&c.prompt_tokens, prefill_rows as u64);
        Counters::raise(
            &c.max_batch,
            self.shares.iter().filter(|n| **n > 0).count() as u64,
        );
        c.add_step(&times, nanoseconds(begin.elapsed()), prefill_rows, decode_rows);
    }

    /// Fills `rows`: one per generating sequence, and prompt tokens up to the chunk, first come first served. Answers
    /// the numbers of prompt and of generated rows.
    fn plan(&mut self, now: Instant) -> (usize, usize) {
        self.rows.clear();
        self.sampled.clear();
        self.shares.clear();
        let (mut prefill, mut decode) = (0, 0);
        for index in 0..self.running.len() {
            if prefill < self.prefill_chunk {
                self.adopt_late(index);
            }
            let sequence = &mut self.running[index];
            let pending = sequence.pending();
            let n = if sequence.in_prefill() {
                pending.min(self.prefill_chunk - prefill)
            } else {
                pending
            };
            let Some(slot) = sequence.slot.filter(|_| n > 0) else {
                self.shares.push(0);
                continue;
            };
            // Admission set the blocks aside, so only the system can refuse their memory.
            if let Err(full) = self.kv.reserve(slot, n) {
                let what = format!("the key/value cache of a running request ({full})");
                let bytes = full.needed * self.kv.pool().geometry().block_bytes();
                sequence.failure = Some(Arc::new(MemoryError::Exhausted { what, bytes }.into()));
                self.shares.push(0);
                continue;
            }
            if let Some(waited) = sequence.start(now) {
                Counters::add(&self.counters.queue_time, nanoseconds(waited));
                Counters::raise(&self.counters.max_queue_time, nanoseconds(waited));
                if sequence.root.is_some() {
                    Counters::add(&self.counters.prefix_lookups, 1);
                    Counters::add(&self.counters.prefix_hit_tokens, sequence.cached as u64);
                }
            }
            for i in 0..n {
                let position = sequence.computed + i;
                let wants_logits = i + 1 == pending;
                self.rows.push(Row {
                    token: sequence.tokens[position],
                    position: position as u32,
                    sequence: slot,
                    wants_logits,
                });
            }
            if n == pending {
                self.sampled.push(index);
            }
            *(if sequence.in_prefill() {
                &mut prefill
            } else {
                &mut decode
            }) += n;
            self.shares.push(n);
        }
        (prefill, decode)
    }

    /// Chooses a token for every row with logits, each on some thread.
    fn choose(&mut self) {
        let rows = self.sampled.len();
        self.chosen.clear();
        self.chosen.resize(rows, None);
        let (kernels, running, sampled) = (self.kernels, &self.running, &self.sampled);
        let samplers = &self.samplers;
        for_each_row_mut(
            &self.pool,
            rows,
            self.workspace.logits(),
            (&mut self.chosen, 1),
            |row, logits, chosen| {
                let s = &running[sampled[row]];
                chosen[0] = samplers
                    .lend()
                    .choose(kernels, logits, &s.params, &s.tokens, s.noise_key());
            },
        );
    }

    /// Takes the next token of every sequence whose logits are there.
    fn sample(&mut self, now: Instant) {
        self.endings.clear();
        self.endings.resize_with(self.running.len(), || None);
        self.choose();
        let tokenizer = self.model.tokenizer_if_any();
        for (&index, &chosen) in self.sampled.iter().zip(&self.chosen) {
            let sequence = &mut self.running[index];
            let Some(token) = chosen else {
                let message = "the model produced no finite logit".to_string();
                self.endings[index] = Some(Ending::failed(Arc::new(Error::InvalidModel(message))));
                continue;
            };
            Counters::add(&self.counters.generated_tokens, 1);
            let (ending, first) = sequence.accept(token, tokenizer, now);
            if let Some(first) = first {
                Counters::add(&self.counters.time_to_first_token, nanoseconds(first));
                Counters::raise(&self.counters.max_time_to_first_token, nanoseconds(first));
            }
            self.endings[index] = ending;
        }
    }

    /// Delivers what the step brought.
    fn hand_out(&mut self) {
        let mut i = 0;
        let mut endings = std::mem::take(&mut self.endings);
        for ending in endings.drain(..) {
            match ending {
                Some(ending) => self.end(i, ending),
                None => {
                    self.running[i].deliver(&mut self.outbox);
                    i += 1;
                }
            }
        }
        self.endings = endings;
    }

    /// Releases the blocks of a sequence, then tells its reader.
    fn end(&mut self, index: usize, ending: Ending) {
        // Order matters: rows are planned in the order of arrival.
        let mut sequence = self.running.remove(index);
        if let Some(slot) = sequence.slot.take() {
            match sequence.root.filter(|_| ending.reason != FinishReason::Error) {
                Some(root) => self.kv.close_keeping(slot, root, &sequence.tokens),
                None => self.kv.close(slot),
            }
        }
        self.blocked = None;
        self.publish_cache();
        self.counters.count_ending(ending.reason);
        sequence.finish(ending, &mut self.outbox);
    }

    fn publish_cache(&self) {
        let (pool, c) = (self.kv.pool(), &self.counters);
        let bytes = pool.geometry().block_bytes() as u64;
        let used = pool.used() as u64 * bytes;
        Counters::set(&c.kv_bytes_used, used);
        Counters::raise(&c.kv_bytes_peak, used);
        Counters::set(&c.kv_tokens_used, self.kv.tokens() as u64);
        Counters::set(&c.kv_slots_used, (pool.used() * BLOCK_TOKENS) as u64);
        Counters::set(&c.kv_bytes_cached, pool.cached() as u64 * bytes);
        let evictions = self.kv.index().map_or(0, PrefixIndex::evictions);
        Counters::set(&c.prefix_evictions, evictions);
        Counters::set(&c.running, self.running.len() as u64);
    }
}

/// An empty index for what this engine computes.
fn prefix_index(
    model: &Model,
    options: &EngineOptions,
    machine: &Machine,
    geometry: &Geometry,
) -> Result<PrefixIndex> {
    let info = model.info();
    let fingerprint = Fingerprint::new(
        geometry,
        &[
            &info.description,
            machine.kv_type.name(),
            machine.kernels.level().name(),
            options.f16_products,
        ],
        &[
            info.n_vocab as u64,
            info.n_parameters,
            u64::from(options.exact),
            u64::from(options.flash_attention),
        ],
    );
    let policy = PolicyKind::from_name(options.prefix_policy).ok_or_else(|| Error::Internal {
        place: "engine options".to_string(),
        message: options.prefix_policy.to_string(),
    })?;
    Ok(PrefixIndex::new(
        Namer::new(Secret::random(), 0, fingerprint),
        policy,
    ))
}
