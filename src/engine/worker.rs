//! The scheduler: every step takes the next token of each running sequence and a piece of the prompts being read,
//! computes them in one forward pass, and hands out what came of it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::alerts::Alerts;
use super::cold::Cold;
use super::event::FinishReason;
use super::outputs::Chosen;
use super::pace::Pace;
use super::policy::Policy;
use super::prefix::PrefixCache;
use super::queue::Outbox;
use super::sampling::Sampled;
use super::sequence::{Ending, Sequence};
use super::speculation::{self, DraftModel, Speculation};
use super::stats::{Counters, nanoseconds};
use crate::error::{Error, Result};
use crate::histogram::HistogramKind;
use crate::kernel::attention::Form;
use crate::kernel::{CpuLevel, Kernels, Precision, RowType, ThreadPool, ThreadPoolOptions};
use crate::kv::{Geometry, KvCache};
use crate::memory;
use crate::model::{ComponentTimes, Compute, Model, Row, Step, Workspace};
use crate::options::EngineOptions;
use crate::options::preset::Preset;
use crate::sample::Samplers;

/// What the scheduler owns: only the thread that steps touches it.
pub(crate) struct Worker {
    pub(super) model: Arc<Model>,
    pub(super) kernels: &'static Kernels,
    pub(super) pool: Arc<ThreadPool>,
    pub(super) precision: Precision,
    pub(super) attention: Form,
    pub(super) kv: KvCache,
    pub(super) workspace: Workspace,
    pub(super) samplers: Samplers,
    /// In the order of rank.
    pub(super) running: Vec<Sequence>,
    pub(super) max_running: usize,
    pub(super) prefill_chunk: usize,
    pub(super) pace: Pace,
    pub(super) policy: Policy,
    pub(super) max_overtaken: u32,
    /// Those that had to give up their place, in the order of arrival.
    pub(super) preempted: VecDeque<Sequence>,
    /// The waiting sequence that memory was too short for, until a running one ends.
    pub(super) blocked: Option<u64>,
    pub(super) rows: Vec<Row>,
    /// The rows with logits, in row order.
    pub(super) sampled: Vec<Sampled>,
    /// What was chosen or scored for it.
    pub(super) chosen: Vec<Chosen>,
    /// `None` when it is off.
    pub(super) speculation: Option<Box<Speculation>>,
    /// `None` without a second tier.
    pub(super) cold: Option<Box<Cold>>,
    /// Rows of this step per running sequence.
    pub(super) shares: Vec<usize>,
    pub(super) endings: Vec<Option<Ending>>,
    /// Sequences that ended since it was last asked.
    ended: usize,
    outbox: Outbox,
    pub(super) counters: Arc<Counters>,
    pub(super) alerts: Alerts,
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
    /// Allocates everything a step needs; the options are resolved. Answers the worker, in a box because hosts create
    /// engines on small stacks, and the context length it can serve.
    pub(crate) fn new(
        model: Arc<Model>,
        options: &EngineOptions,
        machine: Machine,
        counters: Arc<Counters>,
    ) -> Result<(Box<Self>, usize)> {
        let body = model.body()?;
        let n_vocab = model.info().n_vocab;
        let asked = options.context_length;
        let geometry = Geometry::new(machine.kv_type, body.layer_shapes())?;
        let drafting = match options.drafting_model() {
            Some(draft) => {
                speculation::check_vocabulary(&model, draft)?;
                let shapes = draft.body()?.layer_shapes();
                Some((draft, Geometry::new(machine.kv_type, shapes)?))
            }
            None if options.speculation == "draft" => {
                return Err(Error::InvalidArgument(
                    "engine option 'speculation': 'draft' needs a draft model, but none was set".to_string(),
                ));
            }
            None => None,
        };
        let own = geometry.sequence_bytes(asked, options.growth())?;
        let (more, draft_block) = match &drafting {
            Some((_, g)) => (
                g.sequence_bytes(asked, options.draft_model_growth())?,
                g.block_bytes() as u64,
            ),
            None => (0, 0),
        };
        let share = Preset::named(options.preset).kv_share(memory::available());
        let budget = match options.kv_budget {
            0 => own
                .saturating_add(more)
                .saturating_mul(options.max_running as u64)
                .min(share.max(geometry.block_bytes() as u64 + draft_block)),
            n => n,
        };
        // Both caches hold the same number of tokens.
        let whole = (u128::from(own) + u128::from(more)).max(1);
        let share = (u128::from(budget) * u128::from(more) / whole) as u64;
        let draft = match drafting {
            Some((draft, geometry)) => {
                let threads = machine.pool.threads();
                Some(DraftModel::new(draft, options, &geometry, share, threads)?)
            }
            None => None,
        };
        let budget = budget - share;
        let prefix_cache = match options.prefix_cache {
            true => Some(PrefixCache::new(&model, options, &machine, &geometry)?),
            false => None,
        };
        let mut kv = KvCache::for_steps(&geometry, options.max_running, asked, options.growth(), budget)?;
        let mut cold = None;
        if let Some(PrefixCache { index, tier }) = prefix_cache {
            kv = kv.with_index(index);
            if let Some(tier) = tier {
                if !kv.can_have_tier() {
                    return Err(Error::Unsupported(
                        "engine option 'kv_cold_dir': a cold tier for a model with attention windows"
                            .to_string(),
                    ));
                }
                cold = Some(Cold::new(Arc::clone(&tier)));
                kv = kv.with_tier(tier);
            }
        }
        let context = asked.min(kv.max_tokens());
        let widths = body.widths();
        let max_rows = options.prefill_chunk + options.max_running + options.draft_rows();
        let logit_rows = widths.logit_rows(options.max_running) + options.draft_rows();
        let workspace = Workspace::new(
            &widths,
            max_rows,
            logit_rows,
            machine.pool.threads(),
            context,
            options.attention(),
        )?;
        let what = "the scheduler";
        Counters::set(
            &counters.kv_bytes_budget,
            kv.usage().bytes_budget + draft.as_ref().map_or(0, |draft| draft.kv.usage().bytes_budget),
        );
        let worker = Self {
            samplers: Samplers::new(n_vocab, machine.pool.threads().min(logit_rows))?,
            kernels: machine.kernels,
            pool: machine.pool,
            precision: options.precision(),
            attention: options.attention(),
            kv,
            workspace,
            running: memory::with_capacity(options.max_running, what)?,
            max_running: options.max_running,
            prefill_chunk: options.prefill_chunk,
            pace: Pace::new(options.prefill_budget),
            policy: Policy::from_name(options.policy).ok_or_else(|| Error::Internal {
                place: "engine options".to_string(),
                message: options.policy.to_string(),
            })?,
            max_overtaken: options.max_overtaken,
            preempted: VecDeque::from(memory::with_capacity(options.max_running, what)?),
            blocked: None,
            rows: memory::with_capacity(max_rows, what)?,
            sampled: memory::with_capacity(logit_rows, what)?,
            chosen: memory::with_capacity(logit_rows, what)?,
            speculation: Speculation::new(options, draft),
            cold,
            shares: memory::with_capacity(options.max_running, what)?,
            endings: memory::with_capacity(options.max_running, what)?,
            ended: 0,
            outbox: Outbox::with_capacity(2 * options.max_running)?,
            alerts: Alerts::new(options, Arc::clone(&counters)),
            counters,
            model,
        };
        Ok((Box::new(worker), context))
    }

    pub(crate) fn kernels(&self) -> &'static Kernels {
        self.kernels
    }

    pub(crate) fn pool(&self) -> &Arc<ThreadPool> {
        &self.pool
    }

    pub(crate) fn kv_type(&self) -> RowType {
        self.kv.pool().geometry().row_type()
    }

    /// Bytes of keys and values per token, those of a draft model included.
    pub(crate) fn token_bytes(&self) -> usize {
        let draft = self.speculation.as_ref().and_then(|s| s.draft.as_ref());
        self.kv.token_bytes() + draft.map_or(0, |draft| draft.kv.token_bytes())
    }

    /// Gives back cache memory that no sequence uses.
    pub(crate) fn trim(&mut self, bytes: u64) -> u64 {
        self.release_loads();
        let mut freed = self.kv.trim(bytes);
        if let Some(draft) = self.speculation.as_mut().and_then(|s| s.draft.as_mut()) {
            freed += draft.kv.trim(bytes.saturating_sub(freed));
        }
        self.publish_cache();
        freed
    }

    /// Forgets the cached prefixes of a salt, or all of them when it is empty.
    pub(crate) fn forget_prefixes(&mut self, salt: &[u8]) {
        // What is being read may be of that salt.
        self.stop_reading();
        let root = self.kv.index().map(|index| index.root(salt));
        self.kv.forget_prefixes(root.filter(|_| !salt.is_empty()));
        self.publish_cache();
    }

    /// Sequences that have a place or had one.
    pub(crate) fn preempted(&self) -> usize {
        self.preempted.len()
    }

    /// Ends sequences that were cancelled or whose time is up; answers how many.
    pub(crate) fn reap(&mut self) -> usize {
        let now = Instant::now();
        for i in (0..self.running.len()).rev() {
            if let Some(ending) = self.running[i].interrupted(now) {
                self.end(i, ending);
            }
        }
        for i in (0..self.preempted.len()).rev() {
            if let Some(ending) = self.preempted[i].interrupted(now)
                && let Some(sequence) = self.preempted.remove(i)
            {
                self.finish(sequence, ending);
            }
        }
        self.outbox.flush();
        std::mem::take(&mut self.ended)
    }

    /// Ends everything in the same way; answers how many.
    pub(crate) fn end_all(&mut self, ending: &dyn Fn() -> Ending) -> usize {
        while !self.running.is_empty() {
            self.end(self.running.len() - 1, ending());
        }
        while let Some(sequence) = self.preempted.pop_front() {
            self.finish(sequence, ending());
        }
        self.outbox.flush();
        std::mem::take(&mut self.ended)
    }

    /// One step. Answers how many sequences ended in it.
    pub(crate) fn step(&mut self, shutdown: &dyn Fn() -> bool) -> usize {
        let reaped = self.reap();
        if self.running.is_empty() {
            self.receive();
            return reaped;
        }
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.compute(shutdown))) {
            Counters::add(&self.counters.panics, 1);
            let error = Arc::new(Error::Internal {
                place: "a step of the engine".to_string(),
                message: crate::panic_guard::describe(&*panic),
            });
            if self.ended > 0 {
                // The shares belong to sequences that moved: none can be trusted to be whole.
                self.shares.clear();
            }
            self.running.iter_mut().for_each(Sequence::stop_trying);
            self.fail_step(&error);
        }
        self.release_loads();
        self.outbox.flush();
        self.publish_cache();
        reaped + std::mem::take(&mut self.ended)
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
        let mut times = ComponentTimes::default();
        self.receive();
        self.propose(shutdown, &mut times);
        let (prefill_rows, decode_rows) = self.plan(begin);
        if self.rows.is_empty() {
            self.nap();
            return;
        }
        let (used, capacity) = self.kv.fullest();
        self.alerts.check_memory(used, capacity);
        self.alerts.check_preemptions(begin);
        let mut times = ComponentTimes::default();
        let drafted = self.running.iter().map(Sequence::drafted).sum::<usize>();
        let generating = decode_rows - drafted;
        let (running, shares) = (&self.running, &self.shares);
        let cancelled = || {
            shutdown()
                || running
                    .iter()
                    .zip(shares)
                    .all(|(s, &n)| n == 0 || s.is_cancelled())
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
        self.advance();
        self.take_states();
        let sampling = Instant::now();
        self.sample(sampling);
        times.sampling += nanoseconds(sampling.elapsed());
        self.hand_out();

        let c = &self.counters;
        let batch = self.shares.iter().filter(|n| **n > 0).count() as u64;
        Counters::add(&c.steps, 1);
        Counters::add(&c.prompt_tokens, prefill_rows as u64);
        Counters::add(&c.decode_rows, decode_rows as u64);
        Counters::raise(&c.max_batch, batch);
        let calls = match self.attention {
            Form::Tiled => &c.attention_tiled_calls,
            Form::TwoPass => &c.attention_two_pass_calls,
        };
        Counters::add(calls, self.model.info().n_layers as u64);
        let taken = begin.elapsed();
        c.add_step(&times, nanoseconds(taken), prefill_rows, decode_rows);
        c.record(HistogramKind::BatchSize, batch);
        c.record(HistogramKind::StepTime, nanoseconds(taken));
        let seconds = taken.as_secs_f64();
        self.pace.record(generating, prefill_rows, seconds);
        if let Some(cold) = &mut self.cold {
            cold.record(prefill_rows, decode_rows, seconds);
        }
        self.record_speculation(prefill_rows, generating, drafted, seconds);
    }

    /// Notes that the keys and values of the step's rows are stored.
    fn advance(&mut self) {
        for index in 0..self.running.len() {
            let sequence = &mut self.running[index];
            // Those of drafts count when they turn out to be right.
            let n = self.shares.get(index).map_or(0, |n| n - sequence.drafted());
            let Some(slot) = sequence.slot.filter(|_| n > 0) else {
                continue;
            };
            let reading = sequence.in_prefill();
            self.kv.advance(slot, n);
            sequence.computed += n;
            if reading && !sequence.in_prefill() {
                self.share_prompt(index);
                self.kv.checkpoint(slot);
            }
            // Others can share a prompt while its completion is still being written.
            let sequence = &self.running[index];
            if let Some(root) = sequence.root.filter(|_| reading) {
                self.kv.seal(slot, root, &sequence.tokens);
            }
            let prefixes = sequence.root.map(|root| (root, &sequence.tokens[..]));
            self.kv.slide(slot, prefixes);
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
        if let Some(draft) = self.speculation.as_mut().and_then(|s| s.draft.as_mut()) {
            draft.forget_others(&self.running);
        }
        self.blocked = None;
        self.publish_cache();
        self.finish(sequence, ending);
    }

    /// Tells the reader of a sequence without blocks that it ended.
    fn finish(&mut self, sequence: Sequence, ending: Ending) {
        self.ended += 1;
        self.counters.count_ending(ending.reason);
        sequence.finish(ending, &mut self.outbox);
    }

    pub(super) fn publish_cache(&self) {
        let (usage, c) = (self.kv.usage(), &self.counters);
        let draft = self.speculation.as_ref().and_then(|s| s.draft.as_ref());
        let used = usage.bytes_used + draft.map_or(0, DraftModel::bytes_used);
        Counters::set(&c.kv_bytes_used, used);
        let tokens = usage.tokens as u64;
        if used > c.kv_bytes_peak.load(Relaxed) {
            Counters::set(&c.kv_bytes_peak, used);
            Counters::set(&c.kv_tokens_peak, tokens);
        }
        Counters::set(&c.kv_tokens_used, tokens);
        Counters::set(&c.kv_slots_used, usage.slots as u64);
        Counters::set(&c.kv_bytes_cached, usage.bytes_cached);
        Counters::set(&c.prefix_evictions, usage.evictions);
        Counters::set(&c.running, self.running.len() as u64);
    }
}
