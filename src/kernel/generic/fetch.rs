//! Asking for weights, keys and values before they are used, in small parts while others are multiplied.

#![allow(unsafe_code, reason = "prefetches through the unsafe vector trait")]

use super::formats::Format;
use crate::kernel::simd::Simd;
use crate::quant::panel::PANEL_ROWS;

/// How far ahead of its use the weight stream is prefetched: the hardware stops at pages.
pub(super) const PREFETCH: usize = 4096;

/// What is asked for while a tile is computed: for each set of 32 values as many bytes of memory as a set has there, its part of
/// the block's scales included.
pub(super) struct Fetch<const R: usize> {
    at: [*const u8; R],
    /// Sets until the next one that asks, and from that to the one after it.
    wait: usize,
    every: usize,
    /// Not to the first cache. What memory brings then waits in the second, which has room for more that is on its way:
    /// the first is busy with activations, if there are several columns of them.
    second: bool,
}

impl<const R: usize> Fetch<R> {
    /// What lies [`PREFETCH`] bytes behind the weights of a tile of `columns`.
    #[inline(always)]
    pub(super) fn ahead(weights: [*const u8; R], columns: usize) -> Self {
        Self {
            at: weights.map(|w| w.wrapping_add(PREFETCH)),
            wait: 0,
            every: 1,
            second: columns > 1,
        }
    }

    /// The share of tile `tile` of `n_tiles`, which ask for what is at `next` together: no nearer than to the second cache, if
    /// `second`.
    #[inline(always)]
    pub(super) fn share(next: [*const u8; R], tile: usize, n_tiles: usize, second: bool) -> Self {
        Self {
            at: next,
            wait: tile,
            every: n_tiles,
            second,
        }
    }

    /// Asks for what belongs to a set, if it is this one's turn.
    ///
    /// # Safety
    /// The CPU has the features of `S`.
    #[inline(always)]
    pub(super) unsafe fn set<S: Simd, F: Format>(&mut self) {
        if self.wait == 0 {
            self.wait = self.every;
            // Vectors of the same panel need the same lines.
            for at in self.at.iter().step_by(PANEL_ROWS / S::LANES) {
                let mut line = 0;
                while line < F::SET_BYTES {
                    // SAFETY: the caller's promise; a hint, wherever it points.
                    unsafe {
                        if self.second {
                            S::prefetch_second(at.wrapping_add(line));
                        } else {
                            S::prefetch(at.wrapping_add(line));
                        }
                    }
                    line += 64;
                }
            }
        }
        self.wait -= 1;
        for at in &mut self.at {
            *at = at.wrapping_add(F::SET_BYTES);
        }
    }
}

/// A block of keys or values that is asked for step by step while another is multiplied: to the second cache, where there
/// is room for many lines on their way.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    block: *const u8,
    at: usize,
    step: usize,
}

impl Ahead {
    /// `bytes` bytes in `steps` steps.
    #[inline(always)]
    pub fn new(block: *const u8, bytes: usize, steps: usize) -> Self {
        Self {
            block,
            at: 0,
            step: bytes.div_ceil(steps),
        }
    }

    /// Asks for the lines that begin in the next step's bytes.
    ///
    /// # Safety
    /// The CPU has the features of `S`.
    #[inline(always)]
    pub unsafe fn step<S: Simd>(&mut self) {
        let mut line = self.at.next_multiple_of(64);
        self.at += self.step;
        while line < self.at {
            // SAFETY: the caller's promise; a hint, wherever it points.
            unsafe { S::prefetch_second(self.block.wrapping_add(line)) };
            line += 64;
        }
    }
}
