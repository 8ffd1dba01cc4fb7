//! Least recently used: the order in which blocks were last let go.

use super::super::{Key, NodeId};
use super::Policy;
use super::ranking::Ranking;

#[derive(Debug, Default)]
pub(super) struct Lru {
    ranking: Ranking<u64>,
    now: u64,
}

impl Policy for Lru {
    fn insert(&mut self, id: NodeId, _: &Key, _: Option<NodeId>) {
        self.ranking.insert_pinned(id, self.now);
    }

    fn hit(&mut self, id: NodeId) {
        self.now += 1;
        self.ranking.set(id, self.now);
    }

    fn pin(&mut self, id: NodeId) {
        self.ranking.pin(id);
    }

    fn unpin(&mut self, id: NodeId) {
        self.now += 1;
        self.ranking.set(id, self.now);
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
