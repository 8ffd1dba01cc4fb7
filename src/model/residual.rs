//! The residual stream: what a step's rows carry from block to block.

use super::step::Compute;
use crate::error::Result;
use crate::kernel::{Activations, Forms, Kernels};
use crate::memory;

/// The stream, and the output of the last block, which the norm before the next one adds to it on its way.
#[derive(Debug)]
pub struct Residual {
    width: usize,
    x: Vec<f32>,
    delta: Vec<f32>,
    /// Whether `delta` is still to be added.
    pending: bool,
}

/// An RMS norm: weights, and what is added to the mean square.
#[derive(Debug, Clone, Copy)]
pub struct RmsNorm<'a> {
    /// One factor per element.
    pub weight: &'a [f32],
    /// Added to the mean square.
    pub epsilon: f32,
}

impl Residual {
    /// Room for `max_rows` rows of `width` values.
    ///
    /// # Errors
    /// When memory is short.
    pub fn new(max_rows: usize, width: usize) -> Result<Self> {
        let buffer = || memory::filled(0.0f32, max_rows.saturating_mul(width), "the buffers of a step");
        Ok(Self {
            width,
            x: buffer()?,
            delta: buffer()?,
            pending: false,
        })
    }

    /// The stream of `rows` rows, to be written anew.
    pub fn start(&mut self, rows: usize) -> &mut [f32] {
        self.pending = false;
        &mut self.x[..rows * self.width]
    }

    /// Where a block writes its output for `rows` rows.
    pub fn delta(&mut self, rows: usize) -> &mut [f32] {
        self.pending = true;
        &mut self.delta[..rows * self.width]
    }

    /// The stream after [`Residual::norm`], for a block that adds its output itself.
    pub fn stream(&mut self, rows: usize) -> &mut [f32] {
        &mut self.x[..rows * self.width]
    }

    /// Adds the last block's output, and takes the normed rows into `out`: one pass over every row.
    pub fn norm(
        &mut self,
        compute: &Compute,
        norm: RmsNorm<'_>,
        rows: usize,
        forms: Forms,
        out: &mut Activations,
    ) -> Result<()> {
        let (k, width) = (compute.kernels, self.width);
        let delta = std::mem::take(&mut self.pending).then_some(&self.delta);
        let x = &mut self.x[..rows * width];
        out.set_from(k, compute.pool, x, rows, width, forms, |i, x, out| {
            if let Some(delta) = delta {
                k.add_in_place(x, &delta[i * width..(i + 1) * width]);
            }
            k.rms_norm(x, norm.weight, norm.epsilon, out);
        })?;
        Ok(())
    }

    /// Takes one normed row, with the last block's output, into `out`; it must be the last use of the row.
    pub fn state(&mut self, kernels: &Kernels, norm: RmsNorm<'_>, row: usize, out: &mut [f32]) {
        let range = row * self.width..(row + 1) * self.width;
        let x = &mut self.x[range.clone()];
        if self.pending {
            kernels.add_in_place(x, &self.delta[range]);
        }
        kernels.rms_norm(x, norm.weight, norm.epsilon, out);
    }

    /// Keeps only these rows, given in ascending order; answers how many.
    pub fn keep(&mut self, rows: impl Iterator<Item = usize>) -> usize {
        let mut kept = 0;
        for row in rows {
            let from = row * self.width..(row + 1) * self.width;
            self.x.copy_within(from.clone(), kept * self.width);
            self.delta.copy_within(from, kept * self.width);
            kept += 1;
        }
        kept
    }
}
