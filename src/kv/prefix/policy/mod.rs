//! Which block to forget when memory is needed.
//!
//! A policy orders the blocks that nobody uses; every operation takes logarithmic time at most (amortized where a
//! policy gives second chances). Callers report uses from the deepest block of a chain to the first, so that on equal
//! terms a leaf goes before its ancestors.

mod adaptive;
mod lfu;
mod lru;
mod ranking;
mod s3_fifo;
mod shadow;
mod sketch;
mod tiny_lfu;

pub(crate) use sketch::Sketch;

use super::{Key, NodeId};

/// An eviction policy.
pub trait Policy: Send + Sync + std::fmt::Debug {
    /// A block was computed and indexed after its parent, if that is known; it is in use.
    fn insert(&mut self, id: NodeId, key: &Key, parent: Option<NodeId>);
    /// A lookup found the block.
    fn hit(&mut self, id: NodeId);
    /// The block is in use now: it must not be evicted.
    fn pin(&mut self, id: NodeId);
    /// Nobody uses the block now.
    fn unpin(&mut self, id: NodeId);
    /// Chooses a block that nobody uses, and forgets it.
    fn evict(&mut self) -> Option<NodeId>;
    /// The block is gone for another reason.
    fn forget(&mut self, id: NodeId);
}

/// The policies there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyKind {
    /// Least recently used.
    Lru,
    /// Least frequently used.
    Lfu,
    /// Three queues: blocks that are used once leave early (Yang et al. 2023).
    S3Fifo,
    /// A small window before a main part that a sketch of frequencies guards (Einziger et al. 2017).
    TinyLfu,
    /// Recency and decaying frequency, weighted by what would have been hit.
    Adaptive,
}

/// Words for the policies, in the order of [`PolicyKind::ALL`].
pub const POLICY_NAMES: &[&str] = &["lru", "lfu", "s3fifo", "tinylfu", "adaptive"];

impl PolicyKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Lru, Self::Lfu, Self::S3Fifo, Self::TinyLfu, Self::Adaptive];

    /// Its word.
    pub fn name(self) -> &'static str {
        POLICY_NAMES[self as usize]
    }

    /// By its word.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// A policy that knows no block yet.
    pub fn create(self) -> Box<dyn Policy> {
        match self {
            Self::Lru => Box::<lru::Lru>::default(),
            Self::Lfu => Box::<lfu::Lfu>::default(),
            Self::S3Fifo => Box::<s3_fifo::S3Fifo>::default(),
            Self::TinyLfu => Box::<tiny_lfu::TinyLfu>::default(),
            Self::Adaptive => Box::<adaptive::Adaptive>::default(),
        }
    }
}

#[cfg(test)]
mod tests;
