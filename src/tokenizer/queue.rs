//! A priority queue over (rank, position) whose every operation costs a bounded number of steps.
//!
//! A binary heap would make merging n symbols cost n log n. Here each rank has a bucket; a bitset of 64-ary
//! levels finds the lowest rank that has entries. A bucket's entries form a list that is brought into
//! ascending order once, by a radix sort, when the bucket is first popped. Entries that come later and out
//! of order go to a sparse bitset of six 64-ary levels over positions.

use std::collections::HashMap;

use crate::memory::{self, MemoryError};

const NIL: u32 = u32::MAX;
/// 64^6 covers all 32-bit positions.
const LATE_LEVELS: u32 = 6;

#[derive(Clone, Copy)]
struct Node {
    position: u32,
    next: u32,
}

#[derive(Clone, Copy)]
struct Bucket {
    head: u32,
    tail: u32,
    late: u32,
    ascending: bool,
    started: bool,
}

const EMPTY: Bucket = Bucket {
    head: NIL,
    tail: NIL,
    late: 0,
    ascending: true,
    started: false,
};

/// See the module.
pub(super) struct RankQueue {
    /// `levels[0]` has one bit per rank; each higher level one bit per word of the level below.
    levels: Vec<Vec<u64>>,
    /// Bucket of each rank, or NIL before its first use.
    bucket_of: Vec<u32>,
    buckets: Vec<Bucket>,
    nodes: Vec<Node>,
    free: u32,
    /// Words of the sparse bitsets, by (bucket, level, index).
    late: HashMap<(u32, u32, u32), u64>,
    /// Steps taken so far.
    pub(super) steps: u64,
}

impl RankQueue {
    /// An empty queue for ranks below `ranks`.
    pub(super) fn new(ranks: usize) -> Result<Self, MemoryError> {
        const WHAT: &str = "the tokenizer's merge queue";
        let mut levels = Vec::new();
        let mut len = ranks.max(1);
        loop {
            len = len.div_ceil(64);
            levels.push(memory::filled(0u64, len, WHAT)?);
            if len == 1 {
                break;
            }
        }
        Ok(Self {
            levels,
            bucket_of: memory::filled(NIL, ranks, WHAT)?,
            buckets: Vec::new(),
            nodes: Vec::new(),
            free: NIL,
            late: HashMap::new(),
            steps: 0,
        })
    }

    /// Adds an entry; `rank` is below the count given to [`Self::new`].
    pub(super) fn push(&mut self, rank: u32, position: u32) -> Result<(), MemoryError> {
        self.steps += 1;
        let b = self.bucket(rank)?;
        let bucket = self.buckets[b as usize];
        if bucket.head == NIL && bucket.late == 0 {
            self.mark(rank);
        }
        let in_order = bucket.tail == NIL || self.nodes[bucket.tail as usize].position <= position;
        if bucket.started && !in_order {
            return self.push_late(b, position);
        }
        let node = self.node(position)?;
        let bucket = &mut self.buckets[b as usize];
        bucket.ascending &= in_order;
        if bucket.tail == NIL {
            bucket.head = node;
        } else {
            self.nodes[bucket.tail as usize].next = node;
        }
        bucket.tail = node;
        Ok(())
    }

    /// Removes the entry of lowest rank, and of lowest position among those.
    pub(super) fn pop(&mut self) -> Result<Option<(u32, u32)>, MemoryError> {
        let Some(rank) = self.lowest() else {
            return Ok(None);
        };
        self.steps += 1;
        let b = self.bucket_of[rank as usize];
        if !self.buckets[b as usize].started {
            self.start(b)?;
        }
        let bucket = self.buckets[b as usize];
        let listed = (bucket.head != NIL).then(|| self.nodes[bucket.head as usize].position);
        let late = if bucket.late > 0 { self.first_late(b) } else { None };
        let position = match (listed, late) {
            (Some(l), Some(p)) if p < l => self.remove_late(b, p),
            (None, Some(p)) => self.remove_late(b, p),
            (Some(l), _) => {
                let next = self.nodes[bucket.head as usize].next;
                self.nodes[bucket.head as usize].next = self.free;
                self.free = bucket.head;
                let bucket = &mut self.buckets[b as usize];
                bucket.head = next;
                if next == NIL {
                    bucket.tail = NIL;
                }
                l
            }
            (None, None) => return Ok(None),
        };
        let bucket = &mut self.buckets[b as usize];
        if bucket.head == NIL && bucket.late == 0 {
            *bucket = EMPTY;
            self.unmark(rank);
        }
        Ok(Some((rank, position)))
    }

    fn bucket(&mut self, rank: u32) -> Result<u32, MemoryError> {
        let known = self.bucket_of[rank as usize];
        if known != NIL {
            return Ok(known);
        }
        reserve(&mut self.buckets)?;
        let b = self.buckets.len() as u32;
        self.buckets.push(EMPTY);
        self.bucket_of[rank as usize] = b;
        Ok(b)
    }

    fn node(&mut self, position: u32) -> Result<u32, MemoryError> {
        let new = Node { position, next: NIL };
        if self.free != NIL {
            let node = self.free;
            self.free = self.nodes[node as usize].next;
            self.nodes[node as usize] = new;
            return Ok(node);
        }
        reserve(&mut self.nodes)?;
        self.nodes.push(new);
        Ok(self.nodes.len() as u32 - 1)
    }

    fn mark(&mut self, rank: u32) {
        let mut i = rank as usize;
        for level in &mut self.levels {
            self.steps += 1;
            let word = &mut level[i / 64];
            let had = *word != 0;
            *word |= 1 << (i % 64);
            if had {
                break;
            }
            i /= 64;
        }
    }

    fn unmark(&mut self, rank: u32) {
        let mut i = rank as usize;
        for level in &mut self.levels {
            self.steps += 1;
            let word = &mut level[i / 64];
            *word &= !(1 << (i % 64));
            if *word != 0 {
                break;
            }
            i /= 64;
        }
    }

    fn lowest(&mut self) -> Option<u32> {
        let mut i = 0usize;
        for level in self.levels.iter().rev() {
            self.steps += 1;
            let word = level[i];
            if word == 0 {
                return None;
            }
            i = i * 64 + word.trailing_zeros() as usize;
        }
        Some(i as u32)
    }

    /// Brings the list of a bucket into ascending order.
    fn start(&mut self, b: u32) -> Result<(), MemoryError> {
        let bucket = self.buckets[b as usize];
        self.buckets[b as usize].started = true;
        if bucket.ascending {
            return Ok(());
        }
        let mut count = 0;
        let mut node = bucket.head;
        while node != NIL {
            count += 1;
            node = self.nodes[node as usize].next;
        }
        let mut positions = memory::with_capacity(count, "the tokenizer's merge queue")?;
        node = bucket.head;
        while node != NIL {
            positions.push(self.nodes[node as usize].position);
            node = self.nodes[node as usize].next;
        }
        self.steps += 3 * count as u64 + sort(&mut positions)?;
        node = bucket.head;
        for position in positions {
            self.nodes[node as usize].position = position;
            node = self.nodes[node as usize].next;
        }
        self.buckets[b as usize].ascending = true;
        Ok(())
    }

    fn push_late(&mut self, b: u32, position: u32) -> Result<(), MemoryError> {
        self.late
            .try_reserve(LATE_LEVELS as usize)
            .map_err(|_| exhausted(self.late.len() * 32))?;
        let mut i = position;
        for level in 0..LATE_LEVELS {
            self.steps += 1;
            let word = self.late.entry((b, level, i / 64)).or_insert(0);
            let bit = 1u64 << (i % 64);
            let had = *word;
            if level == 0 && had & bit == 0 {
                self.buckets[b as usize].late += 1;
            }
            *word |= bit;
            if had != 0 {
                break;
            }
            i /= 64;
        }
        Ok(())
    }

    fn first_late(&mut self, b: u32) -> Option<u32> {
        let mut i = 0u32;
        for level in (0..LATE_LEVELS).rev() {
            self.steps += 1;
            let word = *self.late.get(&(b, level, i))?;
            i = (i << 6) + word.trailing_zeros();
        }
        Some(i)
    }

    fn remove_late(&mut self, b: u32, position: u32) -> u32 {
        self.buckets[b as usize].late -= 1;
        let mut i = position;
        for level in 0..LATE_LEVELS {
            self.steps += 1;
            let key = (b, level, i / 64);
            if let Some(word) = self.late.get_mut(&key) {
                *word &= !(1u64 << (i % 64));
                if *word != 0 {
                    break;
                }
                self.late.remove(&key);
            }
            i /= 64;
        }
        position
    }
}

/// Sorts ascending in linear time: four passes over digits of eight bits; answers the steps taken.
pub(super) fn sort(values: &mut Vec<u32>) -> Result<u64, MemoryError> {
    let n = values.len();
    if n <= 64 {
        values.sort_unstable();
        return Ok(6 * n as u64);
    }
    let mut other = memory::filled(0u32, n, "the tokenizer's merge queue")?;
    for shift in [0, 8, 16, 24] {
        let mut starts = [0usize; 257];
        for &v in values.iter() {
            starts[(v >> shift) as usize % 256 + 1] += 1;
        }
        for digit in 0..256 {
            starts[digit + 1] += starts[digit];
        }
        for &v in values.iter() {
            let at = &mut starts[(v >> shift) as usize % 256];
            other[*at] = v;
            *at += 1;
        }
        std::mem::swap(values, &mut other);
    }
    Ok(8 * n as u64)
}

/// Room for one more element, growing by half.
fn reserve<T>(v: &mut Vec<T>) -> Result<(), MemoryError> {
    if v.len() < v.capacity() {
        return Ok(());
    }
    let more = v.len() / 2 + 64;
    v.try_reserve_exact(more)
        .map_err(|_| exhausted((v.len() + more) * size_of::<T>()))
}

fn exhausted(bytes: usize) -> MemoryError {
    MemoryError::Exhausted {
        what: "the tokenizer's merge queue".to_string(),
        bytes,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn entries_come_out_by_rank_then_position_whatever_the_order_they_went_in() {
        let mut seed = 7u64;
        let mut random = move |n: u64| {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (seed >> 33) % n
        };
        for ranks in [1, 63, 5000, 300_000] {
            let mut queue = RankQueue::new(ranks).unwrap();
            let mut expected = BTreeSet::new();
            for _ in 0..20_000 {
                if random(5) < 3 {
                    let entry = (random(ranks.min(40) as u64) as u32, random(1 << 22) as u32);
                    if expected.insert(entry) {
                        queue.push(entry.0, entry.1).unwrap();
                    }
                } else {
                    assert_eq!(queue.pop().unwrap(), expected.pop_first());
                }
            }
            while let Some(entry) = expected.pop_first() {
                assert_eq!(queue.pop().unwrap(), Some(entry));
            }
            assert_eq!(queue.pop().unwrap(), None);
        }
    }

    #[test]
    fn the_radix_sort_orders_values_of_all_widths() {
        let mut values: Vec<u32> = (0..1000u32).map(|i| i.wrapping_mul(2_654_435_761)).collect();
        let mut expected = values.clone();
        expected.sort_unstable();
        sort(&mut values).unwrap();
        assert_eq!(values, expected);
    }
}
