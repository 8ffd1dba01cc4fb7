//! Attention of a step's rows over the cached keys and values of their sequences.

use super::step::{Compute, Row};
use crate::error::Result;
use crate::kernel::RowType;
use crate::kernel::attention::{self, AttentionShape, CHUNK, Form, KeyValues, Run};
use crate::kv::{BLOCK_TOKENS, Group, KvCache, SequenceId};

/// The cache as one layer's attention sees it: the blocks of its group.
struct LayerCache<'a> {
    group: &'a Group,
    layer: usize,
}

impl KeyValues for LayerCache<'_> {
    fn row_type(&self) -> RowType {
        self.group.row_type()
    }
    fn keys(&self, sequence: u32, head: usize, index: usize) -> &[u8] {
        self.group.keys(SequenceId(sequence), self.layer, head, index)
    }
    fn values(&self, sequence: u32, head: usize, index: usize) -> &[u8] {
        self.group.values(SequenceId(sequence), self.layer, head, index)
    }
}

/// Attends with every row: `q` is `rows × n_heads × key_dim`, `out` is `rows × n_heads × value_dim`. Each row sees the
/// positions up to its own in its sequence, which must be stored. `partial` is the workspace of the form of attention.
#[allow(
    clippy::too_many_arguments,
    reason = "what computes, what is read, what is written"
)]
pub fn attend(
    compute: &Compute,
    cache: &KvCache,
    runs: &[Run],
    layer: usize,
    shape: &AttentionShape,
    q: &[f32],
    out: &mut [f32],
    partial: &mut [f32],
) -> Result<()> {
    let (group, layer) = cache.layer(layer);
    let kv = LayerCache { group, layer };
    let (k, pool) = (compute.kernels, compute.pool);
    match compute.attention {
        Form::Tiled => attention::attend(k, pool, shape, &kv, runs, q, out, partial)?,
        Form::TwoPass => attention::attend_two_pass(k, pool, shape, &kv, runs, q, out, partial)?,
    }
    Ok(())
}

/// Neighbouring rows that continue each other, into `runs`, which has room for a run per row. Single rows of sequences
/// that share blocks know it.
pub fn find_runs(cache: &KvCache, rows: &[Row], runs: &mut Vec<Run>) {
    runs.clear();
    for (i, row) in rows.iter().enumerate() {
        let (sequence, position) = (row.sequence.0, row.position as usize);
        match runs.last_mut() {
            Some(run) if run.sequence == sequence && run.position + run.rows == position => {
                run.rows += 1;
                run.shared = 0;
            }
            last => {
                let common = last.map_or(0, |last| {
                    let blocks = cache.common_blocks(SequenceId(last.sequence), row.sequence);
                    (blocks * BLOCK_TOKENS).min(last.position).min(position)
                });
                runs.push(Run {
                    sequence,
                    first: i,
                    rows: 1,
                    position,
                    shared: common / CHUNK,
                });
            }
        }
    }
}
