//! Evicts the block whose place has the fewest hits to expect, as learned from the load itself.
//!
//! Only blocks without idle blocks after them are candidates, so chains go from their ends and a chain that was begun
//! is worth less and less while others stay whole. Of the candidates of one class the one that was used last and the
//! one that was used first are looked at: hits become more or less likely with age, and the least is at an end.
//! Evicted blocks are watched a while longer, or it would never be seen that they were wanted.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::super::{Key, NodeId};
use super::Policy;
use super::density::{CLASSES, Densities, class};

/// Evicted blocks that are watched, for each block of the cache.
const WATCHED: usize = 2;
/// Turnovers of the cache after which a hit counts half.
const HALF_LIFE: f32 = 64.0;
/// Least number of blocks that the time of a turnover is taken from.
const FEW: usize = 16;

/// What is known of a block, evicted or not.
#[derive(Debug, Clone, Copy)]
struct Past {
    /// When it was last in use. Time is counted in uses of blocks.
    last: u64,
    /// Hits, fading.
    hits: f32,
}

#[derive(Debug)]
struct Block {
    name: u64,
    past: Past,
    /// The block before it and that one's birth: numbers are given again.
    parent: Option<(NodeId, u64)>,
    birth: u64,
    /// Blocks after it that nobody uses.
    idle_children: u32,
    in_use: bool,
}

#[derive(Debug, Default)]
pub(super) struct Adaptive {
    blocks: Vec<Option<Block>>,
    len: usize,
    /// What may be evicted, by class, in the order of the last use.
    candidates: [BTreeSet<(u64, NodeId)>; CLASSES],
    densities: Densities,
    watched: HashMap<u64, Past>,
    /// Names of the watched, and when they were last in use: those used again since are watched no more.
    watched_order: VecDeque<(u64, u64)>,
    now: u64,
    next_learning: u64,
}

impl Adaptive {
    fn block(&mut self, id: NodeId) -> Option<&mut Block> {
        self.blocks.get_mut(id.index())?.as_mut()
    }

    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    /// Changes a block, and its place among the candidates with it.
    fn change(&mut self, id: NodeId, change: impl FnOnce(&mut Block)) {
        let Some(block) = self.blocks.get_mut(id.index()).and_then(Option::as_mut) else {
            return;
        };
        if block.is_candidate() {
            self.candidates[class(block.past.hits)].remove(&(block.past.last, id));
        }
        change(block);
        if block.is_candidate() {
            self.candidates[class(block.past.hits)].insert((block.past.last, id));
        }
    }

    fn change_parent(&mut self, parent: Option<(NodeId, u64)>, change: impl FnOnce(&mut Block)) {
        if let Some((id, birth)) = parent
            && self.block(id).is_some_and(|block| block.birth == birth)
        {
            self.change(id, change);
        }
    }

    /// A block with this past is used now: what is known of it then.
    fn used(&mut self, past: Past) -> Past {
        let age = self.now - past.last;
        self.densities.used(past.hits, age);
        let turnovers = age as f32 / self.len.max(FEW) as f32;
        Past {
            last: self.now,
            hits: past.hits * (-turnovers / HALF_LIFE).exp2() + 1.0,
        }
    }

    fn drop_block(&mut self, id: NodeId) -> Option<Block> {
        // In use it is no candidate, and its parent does not count it.
        self.pin(id);
        self.len -= usize::from(self.block(id).is_some());
        self.blocks.get_mut(id.index())?.take()
    }

    fn watch(&mut self, block: &Block) {
        self.watched.insert(block.name, block.past);
        self.watched_order.push_back((block.name, block.past.last));
        while self.watched_order.len() > WATCHED * self.len.max(FEW) {
            if let Some((name, last)) = self.watched_order.pop_front()
                && self.watched.get(&name).is_some_and(|past| past.last == last)
                && let Some(past) = self.watched.remove(&name)
            {
                self.densities.given_up(past.hits, self.now - past.last);
            }
        }
    }
}

impl Block {
    fn is_candidate(&self) -> bool {
        !self.in_use && self.idle_children == 0
    }
}

impl Policy for Adaptive {
    fn insert(&mut self, id: NodeId, key: &Key, parent: Option<NodeId>) {
        self.drop_block(id);
        let birth = self.tick();
        let name = key.short();
        let new = Past {
            last: birth,
            hits: 0.0,
        };
        let past = self.watched.remove(&name).map_or(new, |past| self.used(past));
        let parent = parent.and_then(|id| Some((id, self.block(id)?.birth)));
        if self.blocks.len() <= id.index() {
            self.blocks.resize_with(id.index() + 1, || None);
        }
        self.blocks[id.index()] = Some(Block {
            name,
            past,
            parent,
            birth,
            idle_children: 0,
            in_use: true,
        });
        self.len += 1;
    }

    fn hit(&mut self, id: NodeId) {
        self.tick();
        if let Some(past) = self.block(id).map(|block| block.past) {
            let past = self.used(past);
            self.change(id, |block| block.past = past);
        }
    }

    fn pin(&mut self, id: NodeId) {
        if let Some(block) = self.block(id).filter(|block| !block.in_use) {
            let parent = block.parent;
            self.change(id, |block| block.in_use = true);
            self.change_parent(parent, |block| block.idle_children -= 1);
        }
    }

    fn unpin(&mut self, id: NodeId) {
        let now = self.tick();
        if let Some(block) = self.block(id).filter(|block| block.in_use) {
            let parent = block.parent;
            self.change(id, |block| {
                block.in_use = false;
                block.past.last = now;
            });
            self.change_parent(parent, |block| block.idle_children += 1);
        }
    }

    fn evict(&mut self) -> Option<NodeId> {
        if self.now >= self.next_learning {
            self.next_learning = self.now + self.len.max(FEW) as u64;
            self.densities.learn(self.len.max(FEW));
        }
        let ends = |(class, candidates): (usize, &BTreeSet<_>)| {
            let ends = [candidates.first().copied(), candidates.last().copied()];
            ends.map(|end| end.map(|(last, id)| (self.densities.of(class, self.now - last), last, id)))
        };
        let candidates = self.candidates.iter().enumerate().flat_map(ends).flatten();
        let (.., id) = candidates.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)))?;
        let block = self.drop_block(id)?;
        self.watch(&block);
        Some(id)
    }

    fn forget(&mut self, id: NodeId) {
        self.drop_block(id);
    }
}
