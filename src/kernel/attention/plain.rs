//! Attention in two plain passes, a query at a time: all scores and their softmax, then the weighted values. What the tiled
//! form is compared with.
//!
//! A query's result depends on nothing but the query, the keys and values it sees, and its position, here too; the order of
//! its additions is another than that of the tiled form, so their last bits differ.

use super::plan::nth_row;
use super::{AttentionShape, BLOCK, KeyValues, Output, Run, check};
use crate::kernel::{KernelError, Kernels, ThreadPool};

/// `f32` of workspace that [`attend_two_pass`] needs on a number of threads for rows of up to `positions` positions.
pub fn two_pass_floats(threads: usize, positions: usize) -> usize {
    threads.saturating_mul(scores_of_row(positions))
}

/// Scores are computed in whole blocks.
fn scores_of_row(positions: usize) -> usize {
    positions.div_ceil(BLOCK).saturating_mul(BLOCK)
}

/// As [`attend`](super::attend), but every thread holds all scores of the query it is at, in its part of `workspace`.
///
/// # Errors
/// As those of `attend`, or the workspace is smaller than [`two_pass_floats`] says.
#[allow(
    clippy::too_many_arguments,
    reason = "what computes, what is read, what is written"
)]
pub fn attend_two_pass(
    k: &'static Kernels,
    pool: &ThreadPool,
    shape: &AttentionShape,
    kv: &impl KeyValues,
    runs: &[Run],
    q: &[f32],
    out: &mut [f32],
    workspace: &mut [f32],
) -> Result<(), KernelError> {
    check(shape, runs, q, out)?;
    let s = shape;
    let positions = runs.iter().map(|r| r.position + r.rows).max().unwrap_or(0);
    let needed = two_pass_floats(pool.threads(), positions);
    if workspace.len() < needed {
        return Err(KernelError::Shape {
            action: "attend",
            expected: format!("a workspace of {needed} values for {positions} positions"),
            found: format!("{} values", workspace.len()),
        });
    }
    let width = scores_of_row(positions);
    let (out, buffers) = (Output(out.as_mut_ptr()), Output(workspace.as_mut_ptr()));
    let rows: usize = runs.iter().map(|r| r.rows).sum();
    pool.run(rows * s.n_heads, &|task, worker| {
        let (row, head) = (task / s.n_heads, task % s.n_heads);
        let Some((run, in_run)) = nth_row(runs, row) else {
            return;
        };
        let query = (run.first + in_run) * s.n_heads + head;
        // SAFETY: a row and head is a part of the output that one task has, and this function holds the output exclusively.
        let out = unsafe { out.part(query * s.value_dim, s.value_dim) };
        // SAFETY: there is a part for each worker, which is its own while the task runs.
        let scores = unsafe { buffers.part(worker * width, width) };
        let q = &q[query * s.key_dim..(query + 1) * s.key_dim];
        attend_one(k, s, kv, run, (run.position + in_run, head), q, scores, out);
    });
    Ok(())
}

/// One query, at a position and of a head. The score of position t is `scores[t]`.
#[allow(
    clippy::too_many_arguments,
    reason = "what computes, what is read, what is written"
)]
fn attend_one(
    k: &Kernels,
    s: &AttentionShape,
    kv: &impl KeyValues,
    run: &Run,
    (position, head): (usize, usize),
    q: &[f32],
    scores: &mut [f32],
    out: &mut [f32],
) {
    let (ty, kv_head) = (kv.row_type(), head / (s.n_heads / s.n_kv_heads));
    let end = position + 1;
    let first = end.saturating_sub(s.window.unwrap_or(usize::MAX));
    let blocks = first / BLOCK..end.div_ceil(BLOCK);
    for b in blocks.clone() {
        let keys = kv.keys(run.sequence, kv_head, b);
        assert_eq!(Some(keys.len() / BLOCK), ty.row_bytes(s.key_dim));
        k.scores(
            ty,
            (keys, &[]),
            (q, 1, 1),
            &mut scores[b * BLOCK..(b + 1) * BLOCK],
            BLOCK,
        );
    }
    let seen = &mut scores[first..end];
    k.scale_in_place(seen, s.scale);
    if let Some(cap) = s.softcap {
        k.softcap_in_place(seen, cap);
    }
    let max = k.max(seen);
    let sum = k.exp_minus_in_place(seen, max);
    out.fill(0.0);
    for b in blocks {
        let (from, to) = (first.max(b * BLOCK), end.min((b + 1) * BLOCK));
        let part = (from - b * BLOCK, to - from);
        let values = kv.values(run.sequence, kv_head, b);
        k.weighted_sums(
            ty,
            (values, &[]),
            part,
            (&scores[from..to], to - from, 1),
            out,
            s.value_dim,
        );
    }
    k.scale_in_place(out, 1.0 / sum);
}
