//! Where the time of a forward pass goes.

/// Time per component, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ComponentTimes {
    /// Reading embedding rows.
    pub embedding: u64,
    /// Attention with its norm, projections and cache.
    pub attention: u64,
    /// Feed-forward network with its norm, experts included.
    pub ffn: u64,
    /// Final norm and output projection to logits.
    pub projection: u64,
    /// Sampling and detokenizing.
    pub sampling: u64,
}

impl ComponentTimes {
    /// Sum of all components.
    pub fn total(&self) -> u64 {
        self.embedding + self.attention + self.ffn + self.projection + self.sampling
    }
}
