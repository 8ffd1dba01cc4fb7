//! Recency and decaying frequency in one score, and a weight between them that follows the load.
//!
//! With weight 0 it is lru; the larger the weight, the longer a block lives for its hits. For each of a few weights a
//! [`Shadow`] tells what would have been hit, and the weight that would have had the most hits lately decides. Since
//! lru is among them, a load that frequency does not fit costs little.

use super::super::{Key, NodeId};
use super::Policy;
use super::ranking::Ranking;
use super::shadow::{Clock, Heat, Score, Shadow, Weights};

const WEIGHTS: [Weights; 6] = [
    weights(0.0, false),
    weights(4.0, true),
    weights(0.5, false),
    weights(2.0, false),
    weights(8.0, false),
    weights(32.0, false),
];

const fn weights(frequency: f32, inherit: bool) -> Weights {
    Weights { frequency, inherit }
}

/// Weights must be better by this factor to replace the present ones, and to replace those of lru.
const CLEARLY: f32 = 1.03;
const CLEARLY_NOT_LRU: f32 = 1.25;

/// A cache of so many blocks is sampled, one block in [`SAMPLE`].
const SAMPLE_FROM: usize = 1024;
const SAMPLE: u64 = 4;

#[derive(Debug)]
pub(super) struct Adaptive {
    ranking: Ranking<Score>,
    blocks: Vec<Option<(Key, Heat)>>,
    shadows: Vec<Shadow>,
    /// Hits that not all of the shadows had, lately.
    hits: [f32; WEIGHTS.len()],
    present: usize,
    clock: Clock,
    next_choice: u64,
}

impl Default for Adaptive {
    fn default() -> Self {
        Self {
            ranking: Ranking::default(),
            blocks: Vec::new(),
            shadows: WEIGHTS.map(Shadow::new).into(),
            hits: [0.0; WEIGHTS.len()],
            present: 0,
            clock: Clock::default(),
            next_choice: 0,
        }
    }
}

impl Adaptive {
    fn weights(&self) -> Weights {
        WEIGHTS[self.present]
    }

    /// Shadows of a large cache see a sample of the blocks: their choice needs no more.
    fn sampled(&self, key: &Key) -> bool {
        self.clock.blocks < SAMPLE_FROM || key.short().is_multiple_of(SAMPLE)
    }

    fn ask_shadows(&mut self, key: &Key, heat: Heat) {
        if !self.sampled(key) {
            return;
        }
        let mut had = [false; WEIGHTS.len()];
        for (had, shadow) in had.iter_mut().zip(&mut self.shadows) {
            *had = shadow.access(key, heat, &self.clock);
        }
        if had.contains(&false) {
            for (hits, had) in self.hits.iter_mut().zip(had) {
                *hits += f32::from(u8::from(had));
            }
        }
    }

    fn used(&mut self, id: NodeId, hits: f32) {
        let weights = self.weights();
        if let Some(Some((_, heat))) = self.blocks.get_mut(id.index()) {
            heat.used(hits, &self.clock);
            self.ranking.set(id, heat.score(weights, &self.clock));
        }
    }

    fn drop_block(&mut self, id: NodeId) -> Option<(Key, Heat)> {
        self.ranking.remove(id);
        self.blocks.get_mut(id.index())?.take()
    }

    /// Once per turnover of the cache: takes the weight that did best. Ordering all blocks anew costs a logarithm for
    /// each of those computed since.
    fn choose(&mut self) {
        if self.clock.now < self.next_choice {
            return;
        }
        self.next_choice = self.clock.now + self.clock.blocks.max(16) as u64 / 2;
        // In doubt it is lru.
        let mut best = 0;
        let lru = self.hits[0];
        for (i, hits) in self.hits.iter().enumerate() {
            if *hits > lru * CLEARLY_NOT_LRU && *hits > self.hits[best] {
                best = i;
            }
        }
        if best != self.present && (best == 0 || self.hits[best] > self.hits[self.present] * CLEARLY) {
            self.present = best;
            let (weights, clock, blocks) = (WEIGHTS[best], &self.clock, &self.blocks);
            self.ranking.rescore(|id| {
                let heat = blocks.get(id.index()).and_then(Option::as_ref);
                heat.map_or((0, 0), |(_, heat)| heat.score(weights, clock))
            });
        }
        for hits in &mut self.hits {
            *hits *= 0.95;
        }
    }
}

impl Policy for Adaptive {
    fn insert(&mut self, id: NodeId, key: &Key, parent: Option<NodeId>) {
        self.clock.now += 1;
        self.clock.order += 1;
        self.clock.blocks = self.clock.blocks.max(self.ranking.len() + 1);
        let above = parent.and_then(|id| self.blocks.get_mut(id.index())?.as_mut());
        let heat = Heat::child_of(above.map(|(_, heat)| heat), &self.clock);
        if self.blocks.len() <= id.index() {
            self.blocks.resize(id.index() + 1, None);
        }
        self.ask_shadows(key, heat);
        // One that should have been kept comes back with its history.
        let heat = self.shadows[self.present].heat(key).unwrap_or(heat);
        self.blocks[id.index()] = Some((*key, heat));
        self.ranking
            .insert_pinned(id, heat.score(self.weights(), &self.clock));
    }

    fn hit(&mut self, id: NodeId) {
        self.clock.order += 1;
        self.used(id, 1.0);
        if let Some(&Some((key, heat))) = self.blocks.get(id.index()) {
            self.ask_shadows(&key, heat);
        }
    }

    fn pin(&mut self, id: NodeId) {
        self.ranking.pin(id);
    }

    fn unpin(&mut self, id: NodeId) {
        self.clock.order += 1;
        self.used(id, 0.0);
        self.ranking.unpin(id);
        if let Some(Some((key, _))) = self.blocks.get(id.index()) {
            for shadow in &mut self.shadows {
                shadow.use_again(key, 0.0, &self.clock);
            }
        }
    }

    fn evict(&mut self) -> Option<NodeId> {
        self.clock.blocks = self.ranking.len();
        self.choose();
        let (_, id) = self.ranking.first()?;
        let blocks = match self.clock.blocks {
            few if few < SAMPLE_FROM => few,
            many => many / SAMPLE as usize,
        };
        for shadow in &mut self.shadows {
            shadow.shrink(blocks);
        }
        self.drop_block(id);
        Some(id)
    }

    fn forget(&mut self, id: NodeId) {
        if let Some((key, _)) = self.drop_block(id) {
            for shadow in &mut self.shadows {
                shadow.forget(&key);
            }
        }
    }
}
