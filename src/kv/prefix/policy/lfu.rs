//! Least frequently used: by the number of hits since a block was computed, the least recent on ties.

use super::super::{Key, NodeId};
use super::Policy;
use super::ranking::Ranking;

#[derive(Debug, Default)]
pub(super) struct Lfu {
    ranking: Ranking<(u64, u64)>,
    now: u64,
}

impl Lfu {
    fn used(&mut self, id: NodeId, hits: u64) {
        self.now += 1;
        let count = self.ranking.score(id).map_or(0, |(count, _)| count);
        self.ranking.set(id, (count + hits, self.now));
    }
}

impl Policy for Lfu {
    fn insert(&mut self, id: NodeId, _: &Key, _: Option<NodeId>) {
        self.ranking.insert_pinned(id, (0, self.now));
    }

    fn hit(&mut self, id: NodeId) {
        self.used(id, 1);
    }

    fn pin(&mut self, id: NodeId) {
        self.ranking.pin(id);
    }

    fn unpin(&mut self, id: NodeId) {
        self.used(id, 0);
        self.ranking.unpin(id);
    }

    fn evict(&mut self) -> Option<NodeId> {
        let (_, id) = self.ranking.first()?;
        self.ranking.remove(id);
        Some(id)
    }

    fn forget(&mut self, id: NodeId) {
        self.ranking.remove(id);
    }
}
