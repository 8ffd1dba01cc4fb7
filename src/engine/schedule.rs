//! Which sequences run, and what each step computes of them.
//!
//! A request is admitted when a place is free and memory holds its prompt and a little more; memory for what it generates
//! is taken as it grows. When none is left, the sequence of the lowest rank gives up its place: its blocks stay in the
//! prefix cache as long as nobody needs them, it waits in the line of its rank, and later goes on with the same tokens,
//! because the same tokens give the same keys and values.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::alerts::Alert;
use super::policy::{Policy, Rank};
use super::sampling::Sampled;
use super::sequence::Sequence;
use super::stats::{Counters, nanoseconds};
use super::worker::Worker;
use crate::kv::prefix::Prefix;
use crate::kv::{BLOCK_TOKENS, KvFull, SequenceId};
use crate::memory::MemoryError;
use crate::model::{Row, Wants};

/// Waiting requests that are compared; those behind them came later.
const HORIZON: usize = 1024;
/// The same where a comparison looks a prompt up.
const HORIZON_OF_LOOKUPS: usize = 32;

/// Where a sequence waits.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// It ran before.
    Preempted(usize),
    Queued(usize),
}

/// What asking for the memory of a step's rows brought.
enum Room {
    There,
    /// The sequence itself had to go.
    Lost,
    Refused(KvFull),
}

impl Worker {
    /// Takes waiting sequences in while there is a place and memory for them.
    pub(crate) fn admit(&mut self, queue: &mut VecDeque<Sequence>) {
        if self.cold.is_some() {
            self.rename(queue);
            self.read_early(queue);
        }
        loop {
            let full = self.running.len() == self.max_running;
            if full && self.policy != Policy::Priority {
                return;
            }
            if self.blocked.is_some() && self.policy == Policy::CachedPrefix {
                // Prompts are looked up again when memory may have become free, not in every step.
                return;
            }
            let Some((place, rank)) = self.first_in_line(queue) else {
                return;
            };
            let waiting = self.waiting(place, queue);
            let arrival = waiting.map(|s| s.arrival);
            if self.blocked == arrival {
                return;
            }
            let fitting = match waiting {
                Some(sequence) if !full => self.fitting_prefix(sequence),
                _ => None,
            };
            let Some(prefix) = fitting else {
                if self.running.is_empty() && self.stop_reading() {
                    // What was read for others may be evicted for this one.
                    continue;
                }
                if self.yields_to(&rank) {
                    self.preempt_last();
                    continue;
                }
                if !full {
                    self.blocked = arrival;
                }
                return;
            };
            let taken = match place {
                Place::Preempted(i) => self.preempted.remove(i),
                Place::Queued(i) => queue.remove(i),
            };
            let (Some(mut sequence), Some(slot)) = (taken, self.kv.open()) else {
                return;
            };
            for other in self.preempted.iter_mut().chain(queue.iter_mut().take(HORIZON)) {
                if other.arrival < sequence.arrival {
                    other.overtaken += 1;
                }
            }
            sequence.admit(slot);
            sequence.adopt(&mut self.kv, &prefix);
            let rank = self.rank(&sequence);
            let at = self.running.partition_point(|s| self.rank(s) < rank);
            self.running.insert(at, sequence);
        }
    }

    fn waiting<'a>(&'a self, place: Place, queue: &'a VecDeque<Sequence>) -> Option<&'a Sequence> {
        match place {
            Place::Preempted(i) => self.preempted.get(i),
            Place::Queued(i) => queue.get(i),
        }
    }

    /// The rank of a running sequence.
    fn rank(&self, sequence: &Sequence) -> Rank {
        Rank::new(self.policy, self.max_overtaken, sequence, 0)
    }

    /// Who is next, and its rank.
    fn first_in_line(&mut self, queue: &mut VecDeque<Sequence>) -> Option<(Place, Rank)> {
        let horizon = match self.policy {
            Policy::FirstCome => 1,
            Policy::Priority => HORIZON,
            Policy::CachedPrefix => HORIZON_OF_LOOKUPS,
        };
        self.find_roots(queue, horizon);
        let cached = |s: &Sequence| match (self.policy, s.root) {
            (Policy::CachedPrefix, Some(root)) => self.kv.find(root, s.findable()).len(),
            _ => 0,
        };
        let rank = |s: &Sequence| Rank::new(self.policy, self.max_overtaken, s, cached(s));
        let preempted = self.preempted.iter().enumerate();
        let preempted = preempted.map(|(i, s)| (Place::Preempted(i), rank(s)));
        let queued = queue.iter().enumerate().take(horizon);
        let queued = queued.map(|(i, s)| (Place::Queued(i), rank(s)));
        preempted.chain(queued).min_by_key(|(_, rank)| *rank)
    }

    /// Tells the first of those that wait where their cached prefixes begin.
    pub(super) fn find_roots(&self, queue: &mut VecDeque<Sequence>, horizon: usize) {
        let Some(index) = self.kv.index() else { return };
        let rootless = |s: &&mut Sequence| s.root.is_none() && s.cache_prompt;
        for s in queue.iter_mut().take(horizon).filter(rootless) {
            s.root = Some(index.root(s.cache_salt.as_bytes()));
        }
    }

    /// Whether the last running sequence has to go for one of this rank.
    fn yields_to(&self, rank: &Rank) -> bool {
        let last = self.running.last().map(|s| self.rank(s));
        let pushes = self.policy == Policy::Priority && rank.patient();
        pushes && last.is_some_and(|last| rank.outranks(&last))
    }

    /// The longest cached prefix of a sequence with which it has room beside the running ones; `None` when it has none.
    fn fitting_prefix(&self, sequence: &Sequence) -> Option<Prefix> {
        let others = || self.running.iter().filter(|s| s.arrival != sequence.arrival);
        let promised = || others().filter_map(|s| Some((s.slot?, s.next_tokens(0))));
        // Room to grow keeps those who come from pushing each other out at once.
        let growth = if others().next().is_some() {
            BLOCK_TOKENS
        } else {
            0
        };
        if others().any(|s| s.arrival < sequence.arrival && s.is_sibling(sequence)) {
            // That one reads the prompt for both.
            let own = 1 + usize::from(growth > 0);
            return (own <= self.kv.room(promised())).then(Prefix::default);
        }
        let mut prefix = match sequence.root {
            Some(root) => self.kv.find(root, sequence.findable()),
            None => Prefix::default(),
        };
        let fits = |prefix: &Prefix| self.kv.fits(promised(), sequence.next_tokens(growth), prefix);
        if let (false, Some(root)) = (fits(&prefix), sequence.root) {
            // A block to copy from is in use beside its copy: the last of the memory is better spent on tokens.
            prefix = self.kv.find_whole(root, sequence.findable(), prefix);
        }
        fits(&prefix).then_some(prefix)
    }

    /// Looks once more before a sequence's first row: others may have computed its beginning since it was admitted. One
    /// that dropped tokens gives up what it held of them.
    fn adopt_late(&mut self, index: usize) {
        let sequence = &self.running[index];
        let Some(slot) = sequence.slot.filter(|_| sequence.is_untouched()) else {
            return;
        };
        let stale = self.kv.len(slot) > sequence.computed;
        if stale {
            self.kv.truncate(slot, 0);
        }
        if sequence.root.is_none() {
            return;
        }
        let longer = self
            .fitting_prefix(sequence)
            .filter(|prefix| stale || prefix.len() > sequence.computed);
        if let Some(prefix) = longer {
            self.running[index].adopt(&mut self.kv, &prefix);
        }
    }

    /// Whether another completion of the same request is reading the prompt for this one too.
    fn waits_for_sibling(&self, index: usize) -> bool {
        let sequence = &self.running[index];
        let reads = |s: &Sequence| s.in_prefill() && s.is_sibling(sequence);
        sequence.is_untouched() && self.running[..index].iter().any(reads)
    }

    /// Lets a sequence that computed nothing yet look into the second tier; answers whether it has to wait for that.
    fn looks_into_tier(&mut self, index: usize) -> bool {
        if self.cold.is_none() || !self.running[index].is_untouched() {
            return false;
        }
        if self.waits_for_tier(&self.running[index]) {
            return true;
        }
        if self.running[index].sought {
            return false;
        }
        // What it waited for has come; there may be more now.
        let mut sequence = self.running.remove(index);
        let came = sequence.load.take();
        self.seek(&mut sequence);
        sequence.load = sequence.load.or(came);
        let waits = self.waits_for_tier(&sequence);
        self.running.insert(index, sequence);
        waits
    }

    /// Gives what a sequence has of its prompt to the completions of the same request that wait for it.
    pub(super) fn share_prompt(&mut self, index: usize) {
        let Some(from) = self.running[index].slot else {
            return;
        };
        for other in index + 1..self.running.len() {
            let (leader, follower) = (&self.running[index], &self.running[other]);
            if follower.is_untouched() && follower.is_sibling(leader) {
                self.running[other].follow(&mut self.kv, from);
            }
        }
    }

    /// Takes a sequence out of the running ones; it waits for its turn to go on.
    fn preempt_last(&mut self) {
        let Some(mut sequence) = self.running.pop() else {
            return;
        };
        if let Some(slot) = sequence.slot.take() {
            match sequence.root {
                Some(root) => self.kv.close_keeping(slot, root, &sequence.tokens),
                None => self.kv.close(slot),
            }
        }
        sequence.computed = 0;
        (sequence.load, sequence.sought) = (None, false);
        sequence.overtaken += u32::from(self.policy != Policy::FirstCome);
        self.blocked = None;
        Counters::add(&self.counters.preemptions, 1);
        let at = self.preempted.partition_point(|s| s.arrival < sequence.arrival);
        self.preempted.insert(at, sequence);
    }

    /// Memory for the next rows of a sequence, if need be that of sequences after it.
    fn make_room(&mut self, index: usize, slot: SequenceId, rows: usize) -> Room {
        loop {
            let Err(full) = self.kv.reserve(slot, rows) else {
                return Room::There;
            };
            if self.stop_reading() {
                continue;
            }
            if index + 1 < self.running.len() {
                self.preempt_last();
            } else if index > 0 {
                self.preempt_last();
                return Room::Lost;
            } else {
                // Alone, every sequence fits: the system has refused the memory.
                return Room::Refused(full);
            }
        }
    }

    /// Fills `rows`: one per generating sequence and draft, and prompt tokens up to the chunk, in the order of rank. Answers the
    /// numbers of prompt and of generated rows.
    pub(super) fn plan(&mut self, now: Instant) -> (usize, usize) {
        self.rows.clear();
        self.sampled.clear();
        self.shares.clear();
        let generating = self.running.iter().filter(|s| !s.in_prefill()).count();
        let chunk = self.pace.chunk(generating, self.prefill_chunk);
        let (mut prefill, mut decode) = (0, 0);
        let mut index = 0;
        while index < self.running.len() {
            let waits = self.waits_for_sibling(index) || self.looks_into_tier(index);
            if prefill < chunk && !waits {
                self.adopt_late(index);
            }
            let sequence = &self.running[index];
            let pending = sequence.pending();
            let reading = sequence.in_prefill();
            // Each sequence after it may need one row of logits.
            let others = self.running.len() - index - 1 + self.sampled.len();
            let logit_rows = self.workspace.max_logit_rows().saturating_sub(others);
            let n = match reading {
                _ if waits => 0,
                true => sequence.rows_within(pending.min(chunk - prefill), logit_rows),
                false => pending,
            };
            let Some(slot) = sequence.slot.filter(|_| n > 0) else {
                self.shares.push(0);
                index += 1;
                continue;
            };
            match self.make_room(index, slot, n) {
                Room::There => {}
                Room::Lost => break,
                Room::Refused(full) => {
                    let what = format!("the key/value cache of a running request ({full})");
                    let bytes = full.needed * self.kv.pool().geometry().block_bytes();
                    self.running[index].failure =
                        Some(Arc::new(MemoryError::Exhausted { what, bytes }.into()));
                    self.running[index].drop_drafts();
                    self.shares.push(0);
                    index += 1;
                    continue;
                }
            }
            let drafted = if reading {
                0
            } else {
                self.make_room_for_drafts(index, slot)
            };
            self.note_begun(index);
            let sequence = &mut self.running[index];
            if let Some(waited) = sequence.start(now) {
                let waited = nanoseconds(waited);
                self.counters.waited(waited);
                self.alerts
                    .check(Alert::QueueTime, waited, sequence.mailbox.tag());
                if sequence.root.is_some() {
                    Counters::add(&self.counters.prefix_lookups, 1);
                    Counters::add(&self.counters.prefix_hit_tokens, sequence.cached as u64);
                }
            }
            for i in 0..n + drafted {
                let position = sequence.computed + i;
                let token = sequence.tokens.get(position).copied();
                let wants = match i < n {
                    true => sequence.wants(position),
                    false => Wants::Logits,
                };
                if wants == Wants::Logits {
                    let len = position + 1;
                    self.sampled.push(Sampled { sequence: index, len });
                }
                self.rows.push(Row {
                    token: token.or_else(|| sequence.draft(i - n)).unwrap_or(0),
                    position: position as u32,
                    sequence: slot,
                    wants,
                });
            }
            *(if reading { &mut prefill } else { &mut decode }) += n + drafted;
            self.shares.push(n + drafted);
            index += 1;
        }
        (prefill, decode)
    }
}
