//! The second tier: full blocks that memory had no room for, kept where it is slower and larger.

mod backend;

pub use backend::{Backend, BackendCounts, BlockName};
