//! Blocks in the order of their scores.

use std::collections::BTreeSet;

use super::super::NodeId;

/// Blocks by score, the lowest first; those in use have a score and no place.
#[derive(Debug)]
pub(super) struct Ranking<S> {
    places: BTreeSet<(S, NodeId)>,
    scores: Vec<Option<(S, bool)>>,
    len: usize,
}

impl<S> Default for Ranking<S> {
    fn default() -> Self {
        Self {
            places: BTreeSet::new(),
            scores: Vec::new(),
            len: 0,
        }
    }
}

impl<S: Ord + Copy> Ranking<S> {
    /// Adds a block that is in use.
    pub(super) fn insert_pinned(&mut self, id: NodeId, score: S) {
        if self.scores.len() <= id.index() {
            self.scores.resize(id.index() + 1, None);
        }
        self.remove(id);
        self.scores[id.index()] = Some((score, true));
        self.len += 1;
    }

    /// Blocks, in use or not.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn contains(&self, id: NodeId) -> bool {
        self.score(id).is_some()
    }

    pub(super) fn score(&self, id: NodeId) -> Option<S> {
        self.scores
            .get(id.index())
            .copied()
            .flatten()
            .map(|(score, _)| score)
    }

    pub(super) fn set(&mut self, id: NodeId, score: S) {
        if let Some(Some((old, pinned))) = self.scores.get_mut(id.index()) {
            if !*pinned {
                self.places.remove(&(*old, id));
                self.places.insert((score, id));
            }
            *old = score;
        }
    }

    pub(super) fn pin(&mut self, id: NodeId) {
        if let Some(Some((score, pinned))) = self.scores.get_mut(id.index())
            && !*pinned
        {
            *pinned = true;
            self.places.remove(&(*score, id));
        }
    }

    pub(super) fn unpin(&mut self, id: NodeId) {
        if let Some(Some((score, pinned))) = self.scores.get_mut(id.index())
            && *pinned
        {
            *pinned = false;
            self.places.insert((*score, id));
        }
    }

    /// Answers the score it had and whether it was in use.
    pub(super) fn remove(&mut self, id: NodeId) -> Option<(S, bool)> {
        let (score, pinned) = self.scores.get_mut(id.index())?.take()?;
        if !pinned {
            self.places.remove(&(score, id));
        }
        self.len -= 1;
        Some((score, pinned))
    }

    /// The lowest that is not in use.
    pub(super) fn first(&self) -> Option<(S, NodeId)> {
        self.places.first().copied()
    }
}
