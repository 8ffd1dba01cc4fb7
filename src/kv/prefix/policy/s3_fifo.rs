//! S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023): new blocks pass a small queue,
//! those used meanwhile move to the main queue, those seen again soon after their eviction enter it at once.

use std::collections::{HashSet, VecDeque};

use super::super::{Key, NodeId};
use super::Policy;
use super::ranking::Ranking;

/// The small queue gives way while it holds more than one block in this many.
const SMALL_SHARE: usize = 10;
const MOST_USES: u8 = 3;

#[derive(Debug, Default)]
pub(super) struct S3Fifo {
    small: Ranking<u64>,
    main: Ranking<u64>,
    blocks: Vec<Block>,
    ghosts: HashSet<Key>,
    ghost_order: VecDeque<Key>,
    now: u64,
}

#[derive(Debug, Clone, Default)]
struct Block {
    key: Option<Key>,
    uses: u8,
    placed: bool,
}

impl S3Fifo {
    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    fn remember(&mut self, id: NodeId) {
        if let Some(key) = self.blocks[id.index()].key
            && self.ghosts.insert(key)
        {
            self.ghost_order.push_back(key);
        }
        while self.ghost_order.len() > self.main.len().max(1) {
            if let Some(key) = self.ghost_order.pop_front() {
                self.ghosts.remove(&key);
            }
        }
    }

    fn move_to_main(&mut self, id: NodeId) {
        self.small.remove(id);
        let now = self.tick();
        self.main.insert_pinned(id, now);
        self.main.unpin(id);
    }
}

impl Policy for S3Fifo {
    fn insert(&mut self, id: NodeId, key: &Key, _: Option<NodeId>) {
        if self.blocks.len() <= id.index() {
            self.blocks.resize(id.index() + 1, Block::default());
        }
        self.blocks[id.index()] = Block {
            key: Some(*key),
            ..Block::default()
        };
        let now = self.tick();
        if self.ghosts.contains(key) {
            self.main.insert_pinned(id, now);
        } else {
            self.small.insert_pinned(id, now);
        }
    }

    fn hit(&mut self, id: NodeId) {
        let uses = &mut self.blocks[id.index()].uses;
        *uses = (*uses + 1).min(MOST_USES);
    }

    fn pin(&mut self, id: NodeId) {
        self.small.pin(id);
        self.main.pin(id);
    }

    fn unpin(&mut self, id: NodeId) {
        // A block enters its queue when it is let go for the first time.
        if !std::mem::replace(&mut self.blocks[id.index()].placed, true) {
            let now = self.tick();
            self.small.set(id, now);
            self.main.set(id, now);
        }
        self.small.unpin(id);
        self.main.unpin(id);
    }

    fn evict(&mut self) -> Option<NodeId> {
        loop {
            let (small, main) = (self.small.first(), self.main.first());
            let crowded = self.small.len() * SMALL_SHARE >= self.small.len() + self.main.len();
            match (small, main) {
                (Some((_, id)), other) if crowded || other.is_none() => {
                    if self.blocks[id.index()].uses > 0 {
                        self.blocks[id.index()].uses = 0;
                        self.move_to_main(id);
                        continue;
                    }
                    self.small.remove(id);
                    self.remember(id);
                    return Some(id);
                }
                (_, Some((_, id))) => {
                    if self.blocks[id.index()].uses > 0 {
                        self.blocks[id.index()].uses -= 1;
                        let now = self.tick();
                        self.main.set(id, now);
                        continue;
                    }
                    self.main.remove(id);
                    return Some(id);
                }
                _ => return None,
            }
        }
    }

    fn forget(&mut self, id: NodeId) {
        self.small.remove(id);
        self.main.remove(id);
    }
}
