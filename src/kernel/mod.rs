//! Kernels.

use crate::error::Result;
use crate::options::ThreadsOptions;

/// Stub.
pub struct ThreadPool {}

impl ThreadPool {
    /// Stub.
    pub fn from_options(_o: &ThreadsOptions) -> Result<ThreadPool> {
        Ok(ThreadPool {})
    }
    /// Stub.
    pub fn threads(&self) -> usize {
        1
    }
}
