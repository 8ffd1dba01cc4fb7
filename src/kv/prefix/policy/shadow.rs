//! What a cache with a fixed weight of frequency would hold: names and scores without blocks.
//!
//! Each is a ghost list with an opinion: it remembers blocks that the real cache evicted but this weight would have
//! kept, so that a lookup of one says which weight was right.

use std::collections::{BTreeMap, HashMap};

use super::super::Key;

/// How recently and how often a block was used. Time is counted in computed blocks, so the age at which a block is
/// evicted is about the number of blocks in the cache, whatever the load.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Heat {
    last: u64,
    /// Breaks ties between uses at the same time.
    order: u64,
    /// Hits, halved with every [`HALF_LIFE`] turnovers of the cache.
    hits: f32,
    /// What it has from its parent's hits, halved likewise.
    inherited: f32,
    /// Blocks that were computed after this one.
    children: u32,
}

/// Turnovers of the cache after which a hit counts half.
const HALF_LIFE: f32 = 8.0;

/// The present, as scores see it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Clock {
    pub(super) now: u64,
    pub(super) order: u64,
    /// Blocks in the cache: the turnover.
    pub(super) blocks: usize,
}

/// What a score is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weights {
    /// Of frequency; that of recency is 1.
    pub(super) frequency: f32,
    /// Whether a new block has a share of its parent's hits.
    pub(super) inherit: bool,
}

/// Score of a block and the order among equal scores.
pub(super) type Score = (u64, u64);

impl Heat {
    /// A new block after `parent`. It shares its parent's hits with the parent's other children: the next block of a
    /// long conversation is worth as much as the conversation, one of a thousand users of a system prompt little.
    pub(super) fn child_of(parent: Option<&mut Heat>, clock: &Clock) -> Self {
        let inherited = parent.map_or(0.0, |parent| {
            parent.children += 1;
            (parent.hits + parent.inherited) * parent.decay(clock) / parent.children as f32
        });
        Self {
            last: clock.now,
            order: clock.order,
            hits: 0.0,
            inherited,
            children: 0,
        }
    }

    fn decay(&self, clock: &Clock) -> f32 {
        let age = (clock.now - self.last) as f32 / (HALF_LIFE * clock.blocks.max(1) as f32);
        (-age).exp2()
    }

    /// Counts `hits` and a use now.
    pub(super) fn used(&mut self, hits: f32, clock: &Clock) {
        let decay = self.decay(clock);
        self.hits = self.hits * decay + hits;
        self.inherited *= decay;
        self.last = clock.now;
        self.order = clock.order;
    }

    /// Recency plus weighted frequency: each doubling of the hits counts like so many turnovers of the cache.
    /// It does not change while the block is not used, so that it can be a place in an ordered set.
    pub(super) fn score(&self, weights: Weights, clock: &Clock) -> Score {
        let hits = self.hits + if weights.inherit { self.inherited } else { 0.0 };
        let bonus = weights.frequency * clock.blocks as f32 * (1.0 + hits).log2();
        (self.last.saturating_add(bonus as u64), self.order)
    }
}

/// A cache of names.
#[derive(Debug)]
pub(super) struct Shadow {
    weights: Weights,
    blocks: HashMap<Key, (Heat, Score)>,
    order: BTreeMap<Score, Key>,
}

impl Shadow {
    pub(super) fn new(weights: Weights) -> Self {
        Self {
            weights,
            blocks: HashMap::new(),
            order: BTreeMap::new(),
        }
    }

    /// A lookup of a block, or its computation: `heat` is what the real cache knows of it. Answers whether the block was
    /// there.
    pub(super) fn access(&mut self, key: &Key, heat: Heat, clock: &Clock) -> bool {
        if self.use_again(key, 1.0, clock) {
            return true;
        }
        let score = heat.score(self.weights, clock);
        self.order.insert(score, *key);
        self.blocks.insert(*key, (heat, score));
        false
    }

    /// The block is gone for a reason that is not the policy's.
    pub(super) fn forget(&mut self, key: &Key) {
        if let Some((_, place)) = self.blocks.remove(key) {
            self.order.remove(&place);
        }
    }

    /// What it knows of a block.
    pub(super) fn heat(&self, key: &Key) -> Option<Heat> {
        self.blocks.get(key).map(|(heat, _)| *heat)
    }

    /// Counts `hits` and a use now, if the block is there.
    pub(super) fn use_again(&mut self, key: &Key, hits: f32, clock: &Clock) -> bool {
        let Some((heat, place)) = self.blocks.get_mut(key) else {
            return false;
        };
        self.order.remove(place);
        heat.used(hits, clock);
        *place = heat.score(self.weights, clock);
        self.order.insert(*place, *key);
        true
    }

    /// Evicts down to the size of the real cache.
    pub(super) fn shrink(&mut self, blocks: usize) {
        while self.blocks.len() > blocks {
            let Some((_, key)) = self.order.pop_first() else {
                return;
            };
            self.blocks.remove(&key);
        }
    }
}
