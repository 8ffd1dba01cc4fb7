//! W-TinyLFU (Einziger, Friedman and Manes, "TinyLFU: a highly efficient cache admission policy", 2017): a small
//! window in order of use; what leaves it displaces a block of the main part unless a sketch has seen that more often.

use super::super::{Key, NodeId};
use super::Policy;
use super::ranking::Ranking;
use super::sketch::Sketch;

/// One block in this many is in the window.
const WINDOW_SHARE: usize = 100;

#[derive(Debug, Default)]
pub(super) struct TinyLfu {
    window: Ranking<u64>,
    probation: Ranking<u64>,
    protected: Ranking<u64>,
    names: Vec<u64>,
    sketch: Sketch,
    now: u64,
}

impl TinyLfu {
    fn len(&self) -> usize {
        self.window.len() + self.probation.len() + self.protected.len()
    }

    fn shift(from: &mut Ranking<u64>, to: &mut Ranking<u64>, id: NodeId, now: u64) {
        if let Some((_, pinned)) = from.remove(id) {
            to.insert_pinned(id, now);
            if !pinned {
                to.unpin(id);
            }
        }
    }
}

impl Policy for TinyLfu {
    fn insert(&mut self, id: NodeId, key: &Key, _: Option<NodeId>) {
        if self.names.len() <= id.index() {
            self.names.resize(id.index() + 1, 0);
        }
        self.names[id.index()] = key.short();
        self.sketch.add(key.short(), self.len() + 1);
        self.now += 1;
        self.window.insert_pinned(id, self.now);
    }

    fn hit(&mut self, id: NodeId) {
        self.now += 1;
        let now = self.now;
        let n = self.len();
        self.sketch.add(self.names[id.index()], n);
        self.window.set(id, now);
        self.protected.set(id, now);
        if self.probation.contains(id) {
            Self::shift(&mut self.probation, &mut self.protected, id, now);
            let main = self.probation.len() + self.protected.len();
            while self.protected.len() * 5 > main * 4 {
                let Some((score, oldest)) = self.protected.first() else {
                    break;
                };
                Self::shift(&mut self.protected, &mut self.probation, oldest, score);
            }
        }
    }

    fn pin(&mut self, id: NodeId) {
        for part in [&mut self.window, &mut self.probation, &mut self.protected] {
            part.pin(id);
        }
    }

    fn unpin(&mut self, id: NodeId) {
        self.now += 1;
        for part in [&mut self.window, &mut self.probation, &mut self.protected] {
            part.set(id, self.now);
            part.unpin(id);
        }
    }

    fn evict(&mut self) -> Option<NodeId> {
        // What leaves the window has to contend for a place in the main part once that is large.
        while self.window.len() * 4 > self.len()
            && let Some((score, id)) = self.window.first()
        {
            Self::shift(&mut self.window, &mut self.probation, id, score);
        }
        let victim = self.probation.first().or_else(|| self.protected.first());
        let full = self.window.len() * WINDOW_SHARE > self.len();
        let candidate = self.window.first().filter(|_| full || victim.is_none());
        let id = match (candidate, victim) {
            (Some((score, new)), Some((_, old))) => {
                let count = |id: NodeId| self.sketch.count(self.names[id.index()]);
                // On equal terms recency decides, and with it the place in the chain.
                if count(new) >= count(old) {
                    Self::shift(&mut self.window, &mut self.probation, new, score);
                    old
                } else {
                    new
                }
            }
            (Some((_, id)), None) | (None, Some((_, id))) => id,
            (None, None) => return None,
        };
        self.forget(id);
        Some(id)
    }

    fn forget(&mut self, id: NodeId) {
        for part in [&mut self.window, &mut self.probation, &mut self.protected] {
            part.remove(id);
        }
    }
}
