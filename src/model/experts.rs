//! Mixture of experts: a router picks a few feed-forward networks per token and weights their outputs.

use super::step::{Compute, Widths};
use super::weights::Weight;
use crate::error::Result;
use crate::kernel::{Activations, MatmulJob, matmul};
use crate::memory;

/// Router and experts of a layer; the experts are stacked in one tensor or come one by one.
#[derive(Debug)]
pub struct Experts {
    /// Scores of the experts: n_embd → n_experts.
    pub router: Weight,
    /// Gate projections: n_embd → n_ff.
    pub gate: ExpertWeights,
    /// Up projections: n_embd → n_ff.
    pub up: ExpertWeights,
    /// Down projections: n_ff → n_embd.
    pub down: ExpertWeights,
    /// Experts that compute a token.
    pub n_used: usize,
    /// Factor on the normalized weights.
    pub weights_scale: f32,
}

/// One projection of all experts of a layer.
#[derive(Debug)]
pub enum ExpertWeights {
    /// One tensor with the experts one after the other.
    Stacked(Weight),
    /// A tensor per expert, as older files have it.
    Separate(Vec<Weight>),
}

impl ExpertWeights {
    fn matrix(&self, expert: usize) -> Result<crate::kernel::Matrix<'_>> {
        match self {
            Self::Stacked(w) => w.expert(expert),
            Self::Separate(w) => w[expert].matrix(),
        }
    }

    fn ty(&self) -> crate::quant::TensorType {
        match self {
            Self::Stacked(w) => w.ty(),
            Self::Separate(w) => w[0].ty(),
        }
    }
}

/// Buffers of the expert computation of a step.
#[derive(Debug)]
pub struct ExpertBuffers {
    scores: Vec<f32>,
    chosen: Vec<(u32, f32)>,
    members: Vec<u32>,
    member_rows: Vec<u32>,
    member_out: Vec<f32>,
    outputs: Vec<f32>,
}

impl ExpertBuffers {
    pub(super) fn new(w: &Widths, max_rows: usize) -> Result<Self> {
        let what = "the buffers of the experts";
        let rows = if w.n_experts == 0 { 0 } else { max_rows };
        Ok(Self {
            scores: memory::filled(0.0, rows * w.n_experts, what)?,
            chosen: memory::filled((0, 0.0), rows * w.n_experts_used, what)?,
            members: memory::with_capacity(rows, what)?,
            member_rows: memory::with_capacity(rows, what)?,
            member_out: memory::filled(0.0, rows * w.n_embd, what)?,
            outputs: memory::filled(0.0, rows * w.n_experts_used * w.n_embd, what)?,
        })
    }
}

/// Working memory lent by the step.
pub struct ExpertScratch<'a> {
    /// Buffers of its own.
    pub buffers: &'a mut ExpertBuffers,
    /// Input rows in the kernels' form.
    pub activations: &'a mut Activations,
    /// Hidden rows in the kernels' form.
    pub hidden: &'a mut Activations,
    /// `rows × n_ff`.
    pub gate: &'a mut [f32],
    /// `rows × n_ff`.
    pub up: &'a mut [f32],
}

impl Experts {
    /// Adds the weighted outputs of the chosen experts for the normed rows `x` (`rows × n_embd`) to `residual`.
    ///
    /// Rows are grouped by expert so that each expert's weights are read once; the outputs of a row are added in the
    /// order of its choice, so that they do not depend on the other rows.
    pub fn forward(
        &self,
        compute: &Compute,
        x: &[f32],
        rows: usize,
        residual: &mut [f32],
        scratch: ExpertScratch<'_>,
    ) -> Result<()> {
        let ExpertScratch {
            buffers,
            activations,
            hidden,
            gate,
            up,
        } = scratch;
        let (n_embd, n_experts) = (self.router.n_in(), self.router.n_out());
        compute.matmul(activations, x, rows, &mut [(&self.router, &mut buffers.scores)])?;
        for row in 0..rows {
            let scores = &mut buffers.scores[row * n_experts..(row + 1) * n_experts];
            compute.kernels.softmax_in_place(scores);
            self.choose(
                scores,
                &mut buffers.chosen[row * self.n_used..(row + 1) * self.n_used],
            );
        }
        let quantize = !compute.exact && (self.gate.ty().is_quantized() || self.up.ty().is_quantized());
        activations.set(compute.kernels, &x[..rows * n_embd], rows, n_embd, quantize)?;
        for expert in 0..n_experts {
            buffers.members.clear();
            buffers.member_rows.clear();
            for (slot, &(chosen, _)) in buffers.chosen[..rows * self.n_used].iter().enumerate() {
                if chosen as usize == expert {
                    buffers.members.push(slot as u32);
                    buffers.member_rows.push((slot / self.n_used) as u32);
                }
            }
            if buffers.members.is_empty() {
                continue;
            }
            self.run(compute, expert, activations, hidden, gate, up, buffers)?;
        }
        for row in 0..rows {
            let residual = &mut residual[row * n_embd..(row + 1) * n_embd];
            for slot in row * self.n_used..(row + 1) * self.n_used {
                let weight = buffers.chosen[slot].1;
                let output = &buffers.outputs[slot * n_embd..(slot + 1) * n_embd];
                residual
                    .iter_mut()
                    .zip(output)
                    .for_each(|(r, o)| *r += weight * o);
            }
        }
        Ok(())
    }

    /// The `n_used` most probable experts, the lowest number first on ties, with weights that add up to the scale.
    fn choose(&self, probabilities: &mut [f32], chosen: &mut [(u32, f32)]) {
        let mut sum = 0.0f32;
        for slot in chosen.iter_mut() {
            let mut best = 0;
            for (i, &p) in probabilities.iter().enumerate() {
                if p > probabilities[best] {
                    best = i;
                }
            }
            *slot = (best as u32, probabilities[best]);
            sum += probabilities[best];
            probabilities[best] = f32::NEG_INFINITY;
        }
        // The smallest normal half-precision number keeps the division finite, as the reference does.
        let norm = self.weights_scale / sum.max(6.103_515_6e-5);
        chosen.iter_mut().for_each(|(_, w)| *w *= norm);
    }

    /// Computes one expert for its member rows.
    #[allow(clippy::too_many_arguments, reason = "the borrowed parts of one scratch")]
    fn run(
        &self,
        compute: &Compute,
        expert: usize,
        activations: &mut Activations,
        hidden: &mut Activations,
        gate: &mut [f32],
        up: &mut [f32],
        buffers: &mut ExpertBuffers,
    ) -> Result<()> {
        let n = buffers.members.len();
        let (gate_matrix, up_matrix, down_matrix) = (
            self.gate.matrix(expert)?,
            self.up.matrix(expert)?,
            self.down.matrix(expert)?,
        );
        let (n_ff, n_embd) = (gate_matrix.n_out(), down_matrix.n_out());
        let (gate, up) = (&mut gate[..n * n_ff], &mut up[..n * n_ff]);
        let (kernels, pool, precision) = (compute.kernels, compute.pool, compute.precision());
        let rows = &buffers.member_rows;
        let jobs = &mut [
            MatmulJob::new(gate_matrix, gate).precision(precision).rows(rows),
            MatmulJob::new(up_matrix, up).precision(precision).rows(rows),
        ];
        matmul(kernels, pool, activations, jobs)?;
        compute.silu_mul(gate, up, n_ff, n);
        let quantize = !compute.exact && self.down.ty().is_quantized();
        hidden.set(kernels, gate, n, n_ff, quantize)?;
        let out = &mut buffers.member_out[..n * n_embd];
        matmul(
            kernels,
            pool,
            hidden,
            &mut [MatmulJob::new(down_matrix, out).precision(precision)],
        )?;
        for (&slot, out) in buffers
            .members
            .iter()
            .zip(buffers.member_out.chunks_exact(n_embd))
        {
            let slot = slot as usize;
            buffers.outputs[slot * n_embd..(slot + 1) * n_embd].copy_from_slice(out);
        }
        Ok(())
    }
}
