//! The forms of attention, and the memory they compute in.

use super::tile::{most_queries, pair_products, scratch_floats};
use super::{AttentionShape, two_pass_floats, workspace_floats};
use crate::kernel::pool::SCRATCH;
use crate::kernel::{Kernels, RowType};

/// How attention is computed. Results differ in their last bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// Many queries and a chunk of positions at a time: [`attend`](super::attend).
    #[default]
    Tiled,
    /// A query and all its positions at a time: [`attend_two_pass`](super::attend_two_pass).
    TwoPass,
}

impl Form {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tiled => "tiled",
            Self::TwoPass => "two-pass",
        }
    }

    /// `f32` of workspace to hand to the form, for sequences of up to `positions` positions.
    pub fn workspace_floats(
        self,
        n_heads: usize,
        n_kv_heads: usize,
        value_dim: usize,
        threads: usize,
        positions: usize,
    ) -> usize {
        match self {
            Self::Tiled => workspace_floats(n_heads, n_kv_heads, value_dim, threads, positions),
            Self::TwoPass => two_pass_floats(threads, positions),
        }
    }

    /// Bytes the form computes in at most: its workspace and what it uses of the scratch memory of the threads.
    pub fn bytes(
        self,
        k: &'static Kernels,
        ty: RowType,
        s: &AttentionShape,
        threads: usize,
        positions: usize,
    ) -> usize {
        let workspace = self.workspace_floats(s.n_heads, s.n_kv_heads, s.value_dim, threads, positions);
        let scratch = match self {
            Self::Tiled => scratch_floats(s, pair_products(k, ty, s.precision).is_some()),
            Self::TwoPass => 0,
        };
        workspace
            .saturating_add(scratch.saturating_mul(threads))
            .saturating_mul(size_of::<f32>())
    }

    /// Bytes for each query that a thread has in hand: a full tile's share of its scratch memory, or a row of scores.
    pub fn bytes_per_query(
        self,
        k: &'static Kernels,
        ty: RowType,
        s: &AttentionShape,
        positions: usize,
    ) -> f64 {
        let floats = match self {
            Self::Tiled => {
                let pairs = pair_products(k, ty, s.precision).is_some();
                scratch_floats(s, pairs) as f64 / most_queries(s, pairs, SCRATCH) as f64
            }
            Self::TwoPass => two_pass_floats(1, positions) as f64,
        };
        floats * size_of::<f32>() as f64
    }
}
