//! One step of a forward pass: the rows it computes, the buffers it works in, and the operations a family's forward
//! pass is written in.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::residual::{Residual, RmsNorm};
use super::rope::Rope;
use super::times::ComponentTimes;
use super::weights::Weight;
use crate::error::{Error, Result};
use crate::kernel::attention::{AttentionShape, Form, Run};
use crate::kernel::{
    Activations, Forms, Kernels, MatmulJob, Precision, ThreadPool, for_each_chunk_mut, matmul,
};
use crate::kv::{KvCache, SequenceId};
use crate::memory;
use crate::quant::TensorType;

/// One token at one position of one sequence.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Token id.
    pub token: u32,
    /// Position in the sequence.
    pub position: u32,
    /// Whose keys and values.
    pub sequence: SequenceId,
    /// What is needed of it besides its keys and values.
    pub wants: Wants,
}

/// What a row is computed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    /// Its keys and values only.
    Nothing,
    /// The logits after its token.
    Logits,
    /// The state after the final norm, which the output projection would make logits of.
    State,
}

/// What computes: kernels of one CPU level, threads, the precision of quantized weights, and the form of attention.
#[derive(Clone, Copy)]
pub struct Compute<'a> {
    /// Dispatch table.
    pub kernels: &'static Kernels,
    /// Worker threads.
    pub pool: &'a ThreadPool,
    /// How weights are multiplied.
    pub precision: Precision,
    /// How attention is computed; the workspace of a step must be for the same.
    pub attention: Form,
}

impl Compute<'_> {
    /// Multiplies the rows of `x` with several weights at once: one job, one barrier. Each output is `rows × n_out`.
    pub fn matmul(&self, x: &Activations, outputs: &mut [(&Weight, &mut [f32])]) -> Result<()> {
        let (kernels, pool, rows) = (self.kernels, self.pool, x.rows());
        match outputs {
            [(a, out)] => matmul(kernels, pool, x, &mut [self.job(a, out, rows)?])?,
            [(a, out_a), (b, out_b)] => {
                let jobs = &mut [self.job(a, out_a, rows)?, self.job(b, out_b, rows)?];
                matmul(kernels, pool, x, jobs)?;
            }
            [(a, out_a), (b, out_b), (c, out_c)] => {
                let jobs = &mut [
                    self.job(a, out_a, rows)?,
                    self.job(b, out_b, rows)?,
                    self.job(c, out_c, rows)?,
                ];
                matmul(kernels, pool, x, jobs)?;
            }
            more => {
                for (w, out) in more {
                    matmul(kernels, pool, x, &mut [self.job(w, out, rows)?])?;
                }
            }
        }
        Ok(())
    }

    /// The forms in which weights of these types need their activations.
    pub fn forms(&self, types: impl Iterator<Item = TensorType>) -> Forms {
        types.fold(Forms::NONE, |forms, ty| {
            forms.and(Forms::of(self.kernels, ty, self.precision))
        })
    }

    fn job<'b>(&self, weight: &'b Weight, out: &'b mut [f32], rows: usize) -> Result<MatmulJob<'b>> {
        let out = &mut out[..rows * weight.n_out()];
        Ok(MatmulJob::new(weight.matrix()?, out).precision(self.precision))
    }

    /// Takes `silu(gate) · up` for `rows` rows of `width` into `out`.
    pub fn gated(
        &self,
        gate: &mut [f32],
        up: &[f32],
        (rows, width): (usize, usize),
        forms: Forms,
        out: &mut Activations,
    ) -> Result<()> {
        let k = self.kernels;
        let gate = &mut gate[..rows * width];
        out.set_from(k, self.pool, gate, rows, width, forms, |i, gate, out| {
            out.copy_from_slice(gate);
            k.silu_mul(out, &up[i * width..(i + 1) * width]);
        })?;
        Ok(())
    }

    /// Adds `bias` to each row of `x`.
    pub fn add_bias(&self, x: &mut [f32], bias: Option<&Vec<f32>>, rows: usize) {
        let Some(bias) = bias else { return };
        for_each_chunk_mut(self.pool, &mut x[..rows * bias.len()], bias.len(), |_, row| {
            self.kernels.add_in_place(row, bias);
        });
    }
}

/// Widths a family's forward pass needs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Widths {
    /// Residual stream.
    pub n_embd: usize,
    /// All query heads of the widest layer.
    pub q: usize,
    /// All keys of the widest layer.
    pub k: usize,
    /// All values of the widest layer.
    pub v: usize,
    /// All outputs of the heads of the widest layer.
    pub attended: usize,
    /// Feed-forward network of the widest layer.
    pub n_ff: usize,
    /// Rotated pairs of a head.
    pub rope_pairs: usize,
    /// Most query heads of a layer.
    pub n_heads: usize,
    /// Fewest key/value heads of a layer.
    pub n_kv_heads: usize,
    /// Vocabulary.
    pub n_vocab: usize,
    /// Experts per layer, 0 in a dense model.
    pub n_experts: usize,
    /// Experts that compute a token.
    pub n_experts_used: usize,
}

impl Widths {
    /// A layer that needs as much memory as any.
    pub(crate) fn attention_shape(&self) -> AttentionShape {
        let heads = self.n_heads.max(1);
        AttentionShape {
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            key_dim: self.q / heads,
            value_dim: self.attended / heads,
            scale: 1.0,
            window: None,
            softcap: None,
            precision: Precision::Native,
        }
    }

    /// Rows of logits for steps of so many sequences: one for each, and some for prompts of which all are wanted.
    pub(crate) fn logit_rows(&self, sequences: usize) -> usize {
        const BYTES: usize = 8 << 20;
        const MOST: usize = 64;
        sequences + (BYTES / (4 * self.n_vocab.max(1))).clamp(1, MOST)
    }

    /// The buffer of gates holds the states of a step when the layers are done with it.
    fn gate(&self) -> usize {
        self.n_ff.max(self.n_embd)
    }

    /// Values of workspace that a form of attention has use for, with up to `rows` sequences that share their beginning.
    fn partial(&self, attention: Form, threads: usize, positions: usize, rows: usize) -> usize {
        let s = self.attention_shape();
        let floats = attention.workspace_floats(s.n_heads, s.n_kv_heads, s.value_dim, threads, positions);
        floats.max(2 * rows * s.n_heads)
    }
}

/// Buffers of a step, sized once: computing never allocates.
#[derive(Debug)]
pub struct Workspace {
    max_rows: usize,
    max_logit_rows: usize,
    pub(super) residual: Residual,
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
    pub(super) attended: Vec<f32>,
    /// Of attention: chunks that other threads merge, or all scores of a row for each thread.
    pub(super) partial: Vec<f32>,
    pub(super) gate: Vec<f32>,
    pub(super) up: Vec<f32>,
    pub(super) activations: Activations,
    pub(super) hidden: Activations,
    pub(super) runs: Vec<Run>,
    pub(super) rope: super::rope::RopeTable,
    pub(super) experts: super::experts::ExpertBuffers,
    logits: Vec<f32>,
    n_vocab: usize,
    n_logit_rows: usize,
    n_embd: usize,
    n_state_rows: usize,
}

impl Workspace {
    /// Buffers for steps of up to `max_rows` rows, of which up to `max_logit_rows` want logits, of sequences of up to
    /// `positions` positions, on a number of threads, with a form of attention.
    ///
    /// # Errors
    /// When memory is short.
    pub fn new(
        w: &Widths,
        max_rows: usize,
        max_logit_rows: usize,
        threads: usize,
        positions: usize,
        attention: Form,
    ) -> Result<Self> {
        let max_logit_rows = max_logit_rows.min(max_rows);
        let buffer =
            |width: usize| memory::filled(0.0f32, max_rows.saturating_mul(width), "the buffers of a step");
        let widest = w.n_embd.max(w.attended);
        Ok(Self {
            max_rows,
            max_logit_rows,
            residual: Residual::new(max_rows, w.n_embd)?,
            q: buffer(w.q)?,
            k: buffer(w.k)?,
            v: buffer(w.v)?,
            attended: buffer(w.attended)?,
            partial: memory::filled(
                0.0,
                w.partial(attention, threads, positions, max_logit_rows),
                "the workspace of attention",
            )?,
            gate: buffer(w.gate())?,
            up: buffer(w.n_ff)?,
            activations: Activations::new(max_rows, widest)?,
            hidden: Activations::new(max_rows, w.n_ff)?,
            runs: memory::with_capacity(max_rows, "the buffers of a step")?,
            rope: super::rope::RopeTable::new(max_rows, w.rope_pairs)?,
            experts: super::experts::ExpertBuffers::new(w, max_rows)?,
            logits: memory::filled(
                0.0,
                max_logit_rows.saturating_mul(w.n_vocab),
                "the logits of a step",
            )?,
            n_vocab: w.n_vocab,
            n_logit_rows: 0,
            n_embd: w.n_embd,
            n_state_rows: 0,
        })
    }

    /// Bytes [`Workspace::new`] takes, about.
    pub fn bytes(
        w: &Widths,
        max_rows: usize,
        max_logit_rows: usize,
        threads: usize,
        positions: usize,
        attention: Form,
    ) -> u64 {
        let per_row = 2 * w.n_embd + w.q + w.k + w.v + w.attended + w.n_ff + w.gate() + 2 * w.rope_pairs;
        let quantized = w.n_embd.max(w.attended) + w.n_ff;
        let experts = w.n_experts + w.n_experts_used * w.n_embd;
        let floats = max_rows * (per_row + experts) + max_logit_rows.min(max_rows) * w.n_vocab;
        4 * (floats + w.partial(attention, threads, positions, max_logit_rows.min(max_rows))) as u64
            + (max_rows * quantized * 3) as u64
    }

    /// Rows a step may have.
    pub fn max_rows(&self) -> usize {
        self.max_rows
    }

    /// Rows of a step that may want logits.
    pub fn max_logit_rows(&self) -> usize {
        self.max_logit_rows
    }

    /// The logits of the rows that wanted them, in row order, and their width: one number per vocabulary entry.
    pub fn logits(&mut self) -> (&mut [f32], usize) {
        (&mut self.logits[..self.n_logit_rows * self.n_vocab], self.n_vocab)
    }

    /// The states of the rows that wanted them, in row order, and their width.
    pub fn states(&self) -> (&[f32], usize) {
        (&self.gate[..self.n_state_rows * self.n_embd], self.n_embd)
    }
}

/// One step in the making.
pub struct Step<'a> {
    /// What computes.
    pub compute: Compute<'a>,
    /// The rows. Rows of one sequence are in ascending positions without gaps; their slots are reserved in `kv`.
    pub rows: &'a [Row],
    /// Keys and values.
    pub kv: &'a mut KvCache,
    /// Buffers; holds the logits and states afterwards.
    pub workspace: &'a mut Workspace,
    /// Where the time went.
    pub times: &'a mut ComponentTimes,
    /// Asked between layers; true gives the step up.
    pub cancelled: &'a dyn Fn() -> bool,
}

impl Step<'_> {
    /// Refuses a step that is too large for its workspace, and finds the rows that belong together.
    pub(super) fn begin(&mut self) -> Result<()> {
        let logit_rows = self.rows.iter().filter(|r| r.wants == Wants::Logits).count();
        if self.rows.len() > self.workspace.max_rows || logit_rows > self.workspace.max_logit_rows {
            return Err(Error::InvalidArgument(format!(
                "a step of {} rows with {logit_rows} rows of logits: the workspace has room for {} and {}",
                self.rows.len(),
                self.workspace.max_rows,
                self.workspace.max_logit_rows
            )));
        }
        super::attention::find_runs(self.kv, self.rows, &mut self.workspace.runs);
        Ok(())
    }

    /// Whether to go on with the next layer.
    pub(super) fn check_cancelled(&self) -> Result<()> {
        if (self.cancelled)() {
            Err(Error::Cancelled("the step"))
        } else {
            Ok(())
        }
    }

    /// Reads the embedding row of every token into the residual stream, and turns every position into angles.
    pub(super) fn embed(&mut self, embedding: &Weight, rope: &Rope) -> Result<()> {
        let start = Instant::now();
        let (rows, ws, pool) = (self.rows, &mut *self.workspace, self.compute.pool);
        let refused = Mutex::new(None);
        let x = ws.residual.start(rows.len());
        for_each_chunk_mut(pool, x, embedding.n_in(), |i, x| {
            if let Err(e) = embedding.read_row(rows[i].token as usize, x) {
                *refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
            }
        });
        if let Some(e) = refused.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(e);
        }
        ws.rope.set(pool, rope, rows.len(), |i| rows[i].position);
        self.times.embedding += elapsed(start);
        Ok(())
    }

    /// Final norm of the rows that want their state, and output projection of those that want logits.
    pub(super) fn project(&mut self, norm: RmsNorm<'_>, output: &Weight) -> Result<()> {
        let start = Instant::now();
        let (compute, ws) = (self.compute, &mut *self.workspace);
        let wanting = |wants| {
            let rows = self.rows.iter().enumerate();
            rows.filter(move |(_, r)| r.wants == wants).map(|(i, _)| i)
        };
        ws.n_state_rows = 0;
        let states = ws.gate.chunks_exact_mut(ws.n_embd.max(1));
        for (row, state) in wanting(Wants::State).zip(states) {
            ws.residual.state(compute.kernels, norm, row, state);
            ws.n_state_rows += 1;
        }
        let n = ws.residual.keep(wanting(Wants::Logits));
        if n > 0 {
            let forms = compute.forms([output.ty()].into_iter());
            ws.residual.norm(&compute, norm, n, forms, &mut ws.activations)?;
            compute.matmul(&ws.activations, &mut [(output, &mut ws.logits)])?;
        }
        ws.n_logit_rows = n;
        self.times.projection += elapsed(start);
        Ok(())
    }
}

pub(super) fn elapsed(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
