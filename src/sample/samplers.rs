//! Working memory of sampling for several threads.

use std::sync::{Mutex, MutexGuard, TryLockError};

use super::Sampler;
use crate::error::Result;
use crate::memory;

/// As many samplers as rows can be sampled at the same time. Which one a row gets does not matter to its token.
#[derive(Debug)]
pub struct Samplers(Vec<Mutex<Sampler>>);

impl Samplers {
    /// `count` samplers, at least one, for a vocabulary of `n_vocab` tokens.
    ///
    /// # Errors
    /// When memory is short.
    pub fn new(n_vocab: usize, count: usize) -> Result<Self> {
        let mut samplers = memory::with_capacity(count.max(1), "sampling")?;
        for _ in 0..count.max(1) {
            samplers.push(Mutex::new(Sampler::new(n_vocab)?));
        }
        Ok(Self(samplers))
    }

    /// One that is not in use. Waits where more threads ask than there are samplers.
    pub fn lend(&self) -> MutexGuard<'_, Sampler> {
        loop {
            for sampler in &self.0 {
                match sampler.try_lock() {
                    Ok(sampler) => return sampler,
                    // A panic leaves nothing behind that the next choice would read.
                    Err(TryLockError::Poisoned(e)) => return e.into_inner(),
                    Err(TryLockError::WouldBlock) => {}
                }
            }
            std::hint::spin_loop();
        }
    }
}
