//! Mixture of experts: a router picks a few feed-forward networks per token and weights their outputs.

use super::step::{Compute, Widths};
use super::weights::Weight;
use crate::error::Result;
use crate::kernel::{Activations, Forms, MatmulJob, for_each_chunk_mut, for_each_row_mut, matmul};
use crate::memory;
use crate::quant::TensorType;

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

    /// Types of the experts; separate ones may differ.
    fn types(&self) -> impl Iterator<Item = TensorType> {
        let weights = match self {
            Self::Stacked(w) => std::slice::from_ref(w),
            Self::Separate(w) => w,
        };
        weights.iter().map(Weight::ty)
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
    /// Hidden rows in the kernels' form.
    pub hidden: &'a mut Activations,
    /// `rows × n_ff`.
    pub gate: &'a mut [f32],
    /// `rows × n_ff`.
    pub up: &'a mut [f32],
}

impl Experts {
    /// The forms in which router and experts need their input.
    pub fn forms(&self, compute: &Compute) -> Forms {
        let experts = self.gate.types().chain(self.up.types());
        compute.forms(experts.chain([self.router.ty()]))
    }

    /// Adds the weighted outputs of the chosen experts for the normed rows `x` to `residual` (`rows × n_embd`).
    ///
    /// Rows are grouped by expert so that each expert's weights are read once; the outputs of a row are added in the
    /// order of its choice, so that they do not depend on the other rows.
    pub fn forward(
        &self,
        compute: &Compute,
        x: &Activations,
        residual: &mut [f32],
        scratch: ExpertScratch<'_>,
    ) -> Result<()> {
        let ExpertScratch {
            buffers,
            hidden,
            gate,
            up,
        } = scratch;
        let (n_embd, n_experts, rows) = (self.router.n_in(), self.router.n_out(), x.rows());
        let (kernels, pool) = (compute.kernels, compute.pool);
        compute.matmul(x, &mut [(&self.router, &mut buffers.scores)])?;
        let scores = (&mut buffers.scores[..], n_experts);
        let chosen = (&mut buffers.chosen[..], self.n_used);
        for_each_row_mut(pool, rows, scores, chosen, |_, scores, chosen| {
            kernels.softmax_in_place(scores);
            choose(scores, chosen, self.weights_scale);
        });
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
            self.run(compute, expert, x, hidden, gate, up, buffers)?;
        }
        let buffers = &*buffers;
        for_each_chunk_mut(pool, residual, n_embd, |row, residual| {
            for slot in row * self.n_used..(row + 1) * self.n_used {
                let weight = buffers.chosen[slot].1;
                let output = &buffers.outputs[slot * n_embd..(slot + 1) * n_embd];
                residual
                    .iter_mut()
                    .zip(output)
                    .for_each(|(r, o)| *r += weight * o);
            }
        });
        Ok(())
    }

    /// Computes one expert for its member rows.
    #[allow(clippy::too_many_arguments, reason = "the borrowed parts of one scratch")]
    fn run(
        &self,
        compute: &Compute,
        expert: usize,
        x: &Activations,
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
        let (kernels, pool, precision) = (compute.kernels, compute.pool, compute.precision);
        let rows = &buffers.member_rows;
        let jobs = &mut [
            MatmulJob::new(gate_matrix, gate).precision(precision).rows(rows),
            MatmulJob::new(up_matrix, up).precision(precision).rows(rows),
        ];
        matmul(kernels, pool, x, jobs)?;
        let forms = compute.forms(self.down.types());
        compute.gated(gate, up, (n, n_ff), forms, hidden)?;
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

/// The most probable experts, as many as `chosen` holds, the lowest number first on ties, with weights that add up to
/// `scale`. Each expert is chosen once, whatever the probabilities: the buffers have room for no more.
fn choose(probabilities: &mut [f32], chosen: &mut [(u32, f32)], scale: f32) {
    const TAKEN: f32 = f32::NEG_INFINITY;
    // A NaN, which spoiled weights lead to, ranks below every probability and above what is taken.
    let rank = |p: f32| if p.is_nan() { -1.0 } else { p };
    let mut sum = 0.0f32;
    for slot in chosen.iter_mut() {
        let mut best = 0;
        for (i, &p) in probabilities.iter().enumerate() {
            if rank(p) > rank(probabilities[best]) {
                best = i;
            }
        }
        *slot = (best as u32, probabilities[best]);
        sum += probabilities[best];
        probabilities[best] = TAKEN;
    }
    // The smallest normal half-precision number keeps the division finite, as the reference does.
    let norm = scale / sum.max(6.103_515_6e-5);
    chosen.iter_mut().for_each(|(_, w)| *w *= norm);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen<const N: usize>(mut probabilities: Vec<f32>) -> [(u32, f32); N] {
        let mut chosen = [(0, 0.0); N];
        choose(&mut probabilities, &mut chosen, 2.0);
        chosen
    }

    #[test]
    fn the_most_probable_are_chosen_and_their_weights_add_up() {
        assert_eq!(
            chosen(vec![0.25, 0.5, 0.0, 0.25]),
            [(1, 4.0 / 3.0), (0, 2.0 / 3.0)]
        );
    }

    #[test]
    fn probabilities_that_are_no_numbers_choose_each_expert_once_and_stay_no_numbers() {
        for spoiled in [[f32::NAN; 3], [f32::NAN, 0.5, f32::NAN]] {
            let chosen: [_; 3] = chosen(spoiled.to_vec());
            let mut ids = chosen.map(|(id, _)| id);
            ids.sort_unstable();
            assert_eq!(ids, [0, 1, 2]);
            assert!(chosen.iter().any(|(_, w)| w.is_nan()));
        }
    }
}
