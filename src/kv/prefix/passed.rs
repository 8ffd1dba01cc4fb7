//! Blocks that left the window of who used them: kept as long as there is room, the first to go, the oldest before others.
//!
//! Those where a prompt or a completion ended are checkpoints, and no exception: later turns and branches begin there.

use std::collections::BTreeMap;

use super::NodeId;

#[derive(Debug, Default)]
pub(super) struct Passed {
    /// In the order they left.
    order: BTreeMap<u64, NodeId>,
    now: u64,
    /// By entry: its place in the order, and whether it is a checkpoint.
    blocks: Vec<(Option<u64>, bool)>,
}

impl Passed {
    fn entry(&mut self, id: NodeId) -> &mut (Option<u64>, bool) {
        if self.blocks.len() <= id.index() {
            self.blocks.resize(id.index() + 1, (None, false));
        }
        &mut self.blocks[id.index()]
    }

    /// Takes in a block that nobody uses; `false` for a checkpoint.
    pub(super) fn insert(&mut self, id: NodeId) -> bool {
        self.now += 1;
        let now = self.now;
        let entry = self.entry(id);
        if entry.1 {
            return false;
        }
        if let Some(old) = entry.0.replace(now) {
            self.order.remove(&old);
        }
        self.order.insert(now, id);
        true
    }

    /// Takes out a block; `false` where it was not in.
    pub(super) fn remove(&mut self, id: NodeId) -> bool {
        let place = self.blocks.get_mut(id.index()).and_then(|entry| entry.0.take());
        place.is_some_and(|place| self.order.remove(&place).is_some())
    }

    /// Takes out the oldest.
    pub(super) fn pop(&mut self) -> Option<NodeId> {
        let (_, id) = self.order.pop_first()?;
        self.entry(id).0 = None;
        Some(id)
    }

    pub(super) fn keep(&mut self, id: NodeId) {
        self.entry(id).1 = true;
    }

    pub(super) fn is_kept(&self, id: NodeId) -> bool {
        self.blocks.get(id.index()).is_some_and(|entry| entry.1)
    }

    /// The entry is gone.
    pub(super) fn forget(&mut self, id: NodeId) {
        self.remove(id);
        if let Some(entry) = self.blocks.get_mut(id.index()) {
            entry.1 = false;
        }
    }
}
