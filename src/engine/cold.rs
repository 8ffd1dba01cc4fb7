//! The second tier in the engine: blocks of a prompt that memory gave up are read back while the request waits.
//!
//! A sequence looks when it is among the first that wait, and when it gets a place. What only the tier has is read in
//! the background and put into the cache as it comes; the sequence begins when all of it is there, and finds it like any
//! cached prefix. Reading is given up when nothing comes for a while, when memory is needed by those who run, or when
//! computing is faster.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::sequence::Sequence;
use super::worker::Worker;
use crate::kv::prefix::Key;
use crate::kv::tier::{Fetch, Tier};
use crate::kv::{BLOCK_TOKENS, BlockId, Pool};

/// Requests that read while they wait for a place.
const EARLY: usize = 4;
/// So long the worker waits for the tier at a time when it has nothing to compute.
const NAP: Duration = Duration::from_millis(5);
/// Bytes that are put into the cache between two steps: those who generate wait for it.
const RECEIVED_BYTES: usize = 16 << 20;
/// One prompt in so many is read although computing is thought to be faster, so that the thought can turn out wrong.
const RETRY: u64 = 32;

/// What a sequence waits for, shared with others that begin alike.
pub(crate) type Ticket = Arc<()>;

/// Blocks on their way from the tier.
pub(super) struct Load {
    /// Gone when nobody waits for the blocks any more.
    ticket: Weak<()>,
    /// Blocks of the prompt that memory had, in use as long.
    held: Vec<BlockId>,
    /// `None` when nothing more will come.
    fetch: Option<Fetch>,
    /// What came, in use until those who wait have it.
    blocks: Vec<BlockId>,
    /// Somebody has begun with them.
    used: bool,
}

/// What the worker keeps about the tier.
pub(super) struct Cold {
    tier: Arc<Tier>,
    loads: Vec<Load>,
    /// When the last block came, or waiting began.
    progress: Instant,
    /// Seconds per row of a prompt, as measured lately.
    row_seconds: Option<f64>,
    /// Prompts that were computed because that seemed faster.
    declined: u64,
}

impl Cold {
    pub(super) fn new(tier: Arc<Tier>) -> Box<Self> {
        Box::new(Self {
            tier,
            loads: Vec::new(),
            progress: Instant::now(),
            row_seconds: None,
            declined: 0,
        })
    }

    /// Notes what a step with rows of prompts took.
    pub(super) fn record(&mut self, prompt: usize, others: usize, seconds: f64) {
        if prompt >= 16 && prompt >= 4 * others {
            let row = seconds / prompt as f64;
            self.row_seconds = Some(self.row_seconds.map_or(row, |old| old + (row - old) * 0.25));
        }
    }

    /// Whether so many blocks are read sooner than computed.
    fn pays(&mut self, blocks: usize, block_bytes: usize) -> bool {
        let (Some(rate), Some(row)) = (self.tier.read_rate(), self.row_seconds) else {
            return true;
        };
        let read = (self.tier.reads_ahead() + blocks) as f64 * block_bytes as f64 / rate;
        let compute = (blocks * BLOCK_TOKENS) as f64 * row;
        self.declined += u64::from(read >= compute);
        read < compute || self.declined.is_multiple_of(RETRY)
    }
}

impl Worker {
    /// Lets the first of those that wait read, when much of the memory is not in use.
    pub(super) fn read_early(&mut self, queue: &mut VecDeque<Sequence>) {
        let pool = self.kv.pool();
        if pool.used() > pool.capacity() / 2 {
            return;
        }
        self.find_roots(queue, EARLY);
        for sequence in queue.iter_mut().take(EARLY) {
            self.seek(sequence);
        }
    }

    /// Looks whether the tier has more of a sequence's tokens than memory, and begins to read that: once while it waits,
    /// and once when it has a place.
    pub(super) fn seek(&mut self, sequence: &mut Sequence) {
        let Some(root) = sequence
            .root
            .filter(|_| !sequence.sought && sequence.load.is_none())
        else {
            return;
        };
        let Some(cold) = &mut self.cold else { return };
        sequence.sought = true;
        if sequence.follows() {
            return;
        }
        let tokens = sequence.findable();
        let found = self.kv.find_cold(root, &tokens[..tokens.len() - 1]);
        // What memory has is used as well: the tier's copies of it must not be the first to go.
        let keys: Vec<Key> = found.keys.into_iter().rev().collect();
        cold.tier.touch(&keys);
        let (Some(first), n) = (found.missing.first().map(|name| name.key), found.missing.len()) else {
            cold.tier
                .count_found(0, !std::mem::replace(&mut sequence.counted, true));
            return;
        };
        let reads_first = |load: &&Load| {
            let names = load.fetch.iter().flat_map(Fetch::names);
            names.into_iter().any(|name| name.key == first)
        };
        if let Some(ticket) = cold
            .loads
            .iter()
            .find(reads_first)
            .and_then(|load| load.ticket.upgrade())
        {
            // It may want more than the other one: it looks again when that has come.
            sequence.load = Some(ticket);
            sequence.sought = false;
            return;
        }
        let first_look = !std::mem::replace(&mut sequence.counted, true);
        cold.tier.count_found(n * BLOCK_TOKENS, first_look);
        if !cold.pays(n, self.kv.pool().geometry().block_bytes()) {
            cold.tier.count_recomputed(n * BLOCK_TOKENS);
            return;
        }
        if cold.loads.iter().all(|load| load.fetch.is_none()) {
            cold.progress = Instant::now();
        }
        // What comes must not push out what it continues.
        self.kv.hold(&found.present);
        let ticket = Ticket::default();
        cold.loads.push(Load {
            ticket: Arc::downgrade(&ticket),
            held: found.present,
            fetch: Some(cold.tier.fetch(found.missing)),
            blocks: Vec::new(),
            used: false,
        });
        sequence.load = Some(ticket);
    }

    /// Puts what has come into the cache.
    pub(super) fn receive(&mut self) {
        self.release_loads();
        let Some(cold) = &mut self.cold else { return };
        let now = Instant::now();
        let mut room = (RECEIVED_BYTES / self.kv.pool().geometry().block_bytes().max(1)).max(2);
        for load in &mut cold.loads {
            while let Some(fetch) = load.fetch.as_ref().filter(|_| room > 0) {
                let over = fetch.is_over();
                if let Some(block) = fetch.take() {
                    cold.progress = now;
                    room -= 1;
                    if let Some(block) = self.kv.bring_in(&block.name, &block) {
                        load.blocks.push(block);
                        continue;
                    }
                } else if !over {
                    break;
                }
                // Nothing more comes, or there is no memory for it.
                load.fetch = None;
            }
        }
        let waits = cold.loads.iter().any(|load| load.fetch.is_some());
        if waits && now.saturating_duration_since(cold.progress) >= cold.tier.stall() {
            cold.tier.note_stall();
            cold.loads.iter_mut().for_each(|load| load.fetch = None);
        }
    }

    /// Lets go of what nobody waits for any more.
    pub(super) fn release_loads(&mut self) {
        self.let_go(&|load| load.ticket.strong_count() == 0);
    }

    /// Whether a sequence has to wait for the tier.
    pub(super) fn waits_for_tier(&self, sequence: &Sequence) -> bool {
        let (Some(cold), Some(ticket)) = (&self.cold, &sequence.load) else {
            return false;
        };
        let mut loads = cold.loads.iter();
        loads.any(|load| load.fetch.is_some() && load.ticket.as_ptr() == Arc::as_ptr(ticket))
    }

    /// The sequence begins: it needs what was read for it no longer.
    pub(super) fn note_begun(&mut self, index: usize) {
        let (Some(ticket), Some(cold)) = (self.running[index].load.take(), &mut self.cold) else {
            return;
        };
        for load in &mut cold.loads {
            load.used |= load.ticket.as_ptr() == Arc::as_ptr(&ticket);
        }
    }

    /// Gives up reading for the sake of those who run. Answers whether that made blocks free.
    pub(super) fn stop_reading(&mut self) -> bool {
        let available = |pool: &Pool| pool.free() + pool.cached();
        let before = available(self.kv.pool());
        self.let_go(&|_| true);
        available(self.kv.pool()) > before
    }

    fn let_go(&mut self, given_up: &dyn Fn(&Load) -> bool) {
        let Some(cold) = &mut self.cold else { return };
        cold.loads.retain(|load| {
            let gone = given_up(load);
            if gone {
                self.kv.let_go(&load.blocks);
                self.kv.let_go(&load.held);
                let n = load.blocks.len();
                let useful = if load.used { n } else { 0 };
                cold.tier.count_fetched(useful, n - useful);
            }
            !gone
        });
    }

    /// Waits a little for the tier when there is nothing else to do.
    pub(super) fn nap(&self) {
        if let Some(cold) = self.cold.as_ref().filter(|cold| !cold.loads.is_empty()) {
            cold.tier.wait(NAP);
        }
    }

    /// Goes over to the secret of a storage that turned up late.
    pub(super) fn rename(&mut self, queue: &mut VecDeque<Sequence>) {
        let Some(secret) = self.cold.as_ref().and_then(|cold| cold.tier.new_secret()) else {
            return;
        };
        self.let_go(&|_| true);
        self.kv.rename(&secret);
        self.blocked = None;
        // What was named with the old secret nobody will look for.
        let sequences = self.running.iter_mut().chain(&mut self.preempted);
        sequences.for_each(|sequence| sequence.root = None);
        for sequence in queue {
            (sequence.root, sequence.load, sequence.sought) = (None, None, false);
        }
    }

    /// Hands what memory has cached to the tier, and closes it.
    pub(crate) fn close_tier(&mut self, patience: Duration) {
        self.let_go(&|_| true);
        let Some(tier) = self.cold.as_ref().map(|cold| Arc::clone(&cold.tier)) else {
            return;
        };
        let deadline = Instant::now() + patience;
        if tier.persists() {
            self.kv.spill_all(deadline);
        }
        tier.close(deadline);
    }
}
