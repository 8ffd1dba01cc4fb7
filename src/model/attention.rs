//! Attention of rows over the cached keys and values of their sequences, in the one canonical order.
//!
//! Keys are taken in chunks of 256 at absolute positions, each chunk in blocks of [`BLOCK_TOKENS`]; a chunk yields
//! its maximum, its sum and its weighted values, and chunks are merged in ascending order. The result of a row
//! depends on nothing but its query, its keys and values, and its position, so it is the same for a row computed
//! alone, among others, in a prefill or in a decode step, with any number of threads.

use super::step::{Compute, Row};
use crate::kernel::{RowType, for_each_chunk_mut};
use crate::kv::{BLOCK_TOKENS, KvCache};
use crate::model::config::MAX_HEAD_DIM;

/// Positions in a chunk.
pub const CHUNK: usize = 256;

/// Shape of the attention of one layer.
#[derive(Debug, Clone, Copy)]
pub struct AttentionShape {
    /// Which layer's keys and values.
    pub layer: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads; each serves `n_heads / n_kv_heads` neighbouring query heads.
    pub n_kv_heads: usize,
    /// Elements of a query and key.
    pub key_dim: usize,
    /// Elements of a value.
    pub value_dim: usize,
    /// Factor on the scores.
    pub scale: f32,
}

/// Attends with every row: `q` is `rows × n_heads × key_dim`, `out` is `rows × n_heads × value_dim`. Row `i` sees the
/// positions `0..=rows[i].position` of its sequence, which must be stored.
pub fn attend(
    compute: &Compute,
    kv: &KvCache,
    rows: &[Row],
    shape: &AttentionShape,
    q: &[f32],
    out: &mut [f32],
) {
    let group = shape.n_heads / shape.n_kv_heads;
    let out = &mut out[..rows.len() * shape.n_heads * shape.value_dim];
    for_each_chunk_mut(compute.pool, out, group * shape.value_dim, |task, out| {
        let (row, kv_head) = (task / shape.n_kv_heads, task % shape.n_kv_heads);
        let first = (row * shape.n_heads + kv_head * group) * shape.key_dim;
        let q = &q[first..first + group * shape.key_dim];
        for (q, out) in q
            .chunks_exact(shape.key_dim)
            .zip(out.chunks_exact_mut(shape.value_dim))
        {
            attend_head(compute, kv, &rows[row], shape, kv_head, q, out);
        }
    });
}

/// One query head of one row.
fn attend_head(
    compute: &Compute,
    kv: &KvCache,
    row: &Row,
    shape: &AttentionShape,
    kv_head: usize,
    q: &[f32],
    out: &mut [f32],
) {
    let ty = kv.pool().geometry().row_type();
    let visible = row.position as usize + 1;
    let (mut max, mut sum) = (f32::NEG_INFINITY, 0.0f32);
    let mut chunk_out = [0.0f32; MAX_HEAD_DIM];
    let chunk_out = &mut chunk_out[..shape.value_dim];
    out.fill(0.0);
    for start in (0..visible).step_by(CHUNK) {
        let n = CHUNK.min(visible - start);
        let (chunk_max, chunk_sum) =
            attend_chunk(compute, kv, ty, row, shape, kv_head, q, start, n, chunk_out);
        let new_max = max.max(chunk_max);
        let (keep, add) = (factor(max, new_max), factor(chunk_max, new_max));
        for (o, c) in out.iter_mut().zip(chunk_out.iter()) {
            *o = *o * keep + *c * add;
        }
        sum = sum * keep + chunk_sum * add;
        max = new_max;
    }
    let norm = 1.0 / sum;
    out.iter_mut().for_each(|o| *o *= norm);
}

/// exp(from − to), where nothing seen yet counts as 0 and an unchanged maximum as exactly 1.
fn factor(from: f32, to: f32) -> f32 {
    if from == to { 1.0 } else { (from - to).exp() }
}

/// Maximum, sum of exponentials and weighted values of the positions `start..start + n`.
#[allow(clippy::too_many_arguments, reason = "the coordinates of one inner loop")]
fn attend_chunk(
    compute: &Compute,
    kv: &KvCache,
    ty: RowType,
    row: &Row,
    shape: &AttentionShape,
    kv_head: usize,
    q: &[f32],
    start: usize,
    n: usize,
    out: &mut [f32],
) -> (f32, f32) {
    let kernels = compute.kernels;
    let mut scores = [0.0f32; CHUNK];
    let scores = &mut scores[..n];
    let first_block = start / BLOCK_TOKENS;
    for (i, scores) in scores.chunks_mut(BLOCK_TOKENS).enumerate() {
        let keys = kv.key_rows(row.sequence, shape.layer, kv_head, first_block + i);
        kernels.dot_rows(ty, q, &keys[..keys.len() / BLOCK_TOKENS * scores.len()], scores);
    }
    kernels.scale_in_place(scores, shape.scale);
    let max = kernels.max(scores);
    let sum = kernels.exp_minus_in_place(scores, max);
    out.fill(0.0);
    for (i, weights) in scores.chunks(BLOCK_TOKENS).enumerate() {
        let values = kv.value_rows(row.sequence, shape.layer, kv_head, first_block + i);
        let values = &values[..values.len() / BLOCK_TOKENS * weights.len()];
        kernels.add_weighted_rows(ty, weights, values, out);
    }
    (max, sum)
}
