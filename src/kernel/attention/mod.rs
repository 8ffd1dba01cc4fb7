//! Attention of many queries over blocks of keys and values, in the one canonical order.
//!
//! Positions are taken in chunks of [`CHUNK`] at absolute positions, each chunk in blocks of [`BLOCK`]; a chunk yields its
//! largest score, the sum of its exponentials and its weighted values, and chunks are merged in ascending order. The
//! result of a query depends on nothing but the query, the keys and values it sees, and its position: it is the same
//! alone, among others, in a prefill or in a decode step, with any number of threads.
//!
//! A task takes a few neighbouring rows of a sequence and the query heads of one key/value head together, so that each
//! block of keys and values is read once for all of them; where there are few rows for the threads, it takes some of the
//! chunks only.
//!
//! Sequences that begin with the same blocks attend to these together.
//!
//! [`attend_two_pass`] is the plain form, for comparison; a [`Form`] is one of the two.

#![allow(
    unsafe_code,
    reason = "tasks write disjoint parts of the output through raw pointers"
)]

mod form;
mod plain;
mod plan;
mod shared;
mod tile;

pub use super::generic::attention::{BLOCK, CHUNK};
use super::generic::attention::{MOST_QUERIES, Scores, Sums};
use super::{KernelError, Kernels, Precision, RowType, ThreadPool};
pub use form::Form;
pub use plain::{attend_two_pass, two_pass_floats};
pub use plan::workspace_floats;
use plan::{Plan, nth_row};
use shared::{SharedPlan, chunks_of};
use tile::{Stats, merge, most_queries, pair_products};

/// Most elements of a key or value.
pub const MAX_DIM: usize = 1024;

/// Shape of an attention layer.
#[derive(Debug, Clone, Copy)]
pub struct AttentionShape {
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
    /// Positions a row sees, its own among them; `None` for all before it.
    pub window: Option<usize>,
    /// Scores become cap · tanh(score / cap).
    pub softcap: Option<f32>,
    /// [`Precision::Exact`] multiplies keys and values in `f32` at every level; otherwise AVX-512 takes those of 16 and 8 bits
    /// as integers of 16 bits.
    pub precision: Precision,
}

/// Neighbouring rows of one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// What [`KeyValues`] knows the sequence by.
    pub sequence: u32,
    /// The first row, and how many; their positions ascend without gaps.
    pub first: usize,
    /// Number of rows.
    pub rows: usize,
    /// Position of the first row; it sees the positions up to and with its own.
    pub position: usize,
    /// How many of its first chunks of [`CHUNK`] positions are the same blocks as those of the run before it. All its rows
    /// see the whole of them. 0 is always right.
    pub shared: usize,
}

/// Where keys and values lie: blocks of [`BLOCK`] positions per key/value head, all of one type.
pub trait KeyValues: Sync {
    /// How they are stored.
    fn row_type(&self) -> RowType;
    /// The columns of keys of block `index` of a sequence, as [`Kernels::store_key`] writes them.
    fn keys(&self, sequence: u32, head: usize, index: usize) -> &[u8];
    /// The rows of values, as [`Kernels::store_row`] writes them.
    fn values(&self, sequence: u32, head: usize, index: usize) -> &[u8];
}

/// Attends with every row of `runs`: `q` is rows × n_heads × key_dim, `out` rows × n_heads × value_dim. Allocates nothing.
///
/// Where there are few rows for the threads, a row's chunks are divided among several of them; what each saw is kept in
/// `workspace`, of which [`workspace_floats`] says how much is of use. Results do not depend on it.
///
/// # Errors
/// Shapes or lengths do not fit, or a run has rows that are not there.
#[allow(
    clippy::too_many_arguments,
    reason = "what computes, what is read, what is written"
)]
pub fn attend(
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
    let pairs = pair_products(k, kv.row_type(), shape.precision).is_some();
    let plan = Plan::new(
        s,
        runs,
        most_queries(s, pairs, super::pool::SCRATCH),
        pool.threads(),
        workspace.len(),
    );
    let rows = runs.iter().map(|r| r.first + r.rows).max().unwrap_or(0);
    let sharing = plan.ranges == 1
        && s.window.is_none()
        && 2 * rows * s.n_heads <= workspace.len()
        && runs.iter().any(|run| run.shared > 0);
    let (out, partial) = (Output(out.as_mut_ptr()), Output(workspace.as_mut_ptr()));
    // SAFETY: rows and heads of the tasks of a job are disjoint parts of the output, which this function holds exclusively.
    let output =
        |row: usize, head: usize| unsafe { out.part((row * s.n_heads + head) * s.value_dim, s.value_dim) };
    // SAFETY: likewise; there is room as `sharing` says.
    let state = |row: usize, head: usize| unsafe { partial.part(2 * (row * s.n_heads + head), 2) };
    if sharing {
        let plan = SharedPlan::new(s, most_queries(s, pairs, super::pool::SCRATCH));
        pool.run(plan.tasks(runs), &|task, worker| {
            let Some(tile) = plan.tile(k, s, runs, task) else {
                return;
            };
            // SAFETY: the worker's scratch memory is its own while the task runs.
            let scratch = unsafe { pool.scratch(worker) };
            let mut states = [NOTHING; MOST_QUERIES];
            for c in 0..tile.rows * tile.heads {
                output(tile.row + c / tile.heads, tile.head + c % tile.heads).fill(0.0);
            }
            tile.attend(kv, q, scratch, |row, head, _, stats, sums| {
                let state = &mut states[row * tile.heads + head - tile.head];
                merge(k, state, stats, sums, output(tile.row + row, head));
            });
            for (c, &(max, sum)) in states[..tile.rows * tile.heads].iter().enumerate() {
                let place = state(tile.row + c / tile.heads, tile.head + c % tile.heads);
                (place[0], place[1]) = (max, sum);
            }
        });
    }
    pool.run(plan.tasks(runs), &|task, worker| {
        let Some((index, rows_before, mut tile)) = plan.tile(k, s, runs, task) else {
            return;
        };
        let run = &runs[index];
        // SAFETY: the worker's scratch memory is its own while the task runs.
        let scratch = unsafe { pool.scratch(worker) };
        if plan.ranges > 1 {
            tile.attend(kv, q, scratch, |row, head, chunk, stats, sums| {
                let row = rows_before + tile.row - run.first + row;
                // SAFETY: the place of this row, head and chunk, which one task has.
                let place = unsafe { partial.part(plan.partial(s, row, head, chunk), s.value_dim + 2) };
                (place[0], place[1]) = stats;
                place[2..].copy_from_slice(sums);
            });
            return;
        }
        let mut states = [NOTHING; MOST_QUERIES];
        let seen = if sharing { chunks_of(runs, index) } else { 0 };
        tile.chunks.start = tile.chunks.start.max(seen);
        for (c, known) in states[..tile.rows * tile.heads].iter_mut().enumerate() {
            let (row, head) = (tile.row + c / tile.heads, tile.head + c % tile.heads);
            if seen == 0 {
                output(row, head).fill(0.0);
            } else {
                let place = state(row, head);
                *known = (place[0], place[1]);
            }
        }
        tile.attend(kv, q, scratch, |row, head, _, stats, sums| {
            let state = &mut states[row * tile.heads + head - tile.head];
            merge(k, state, stats, sums, output(tile.row + row, head));
        });
        for (c, (_, sum)) in states[..tile.rows * tile.heads].iter().enumerate() {
            let out = output(tile.row + c / tile.heads, tile.head + c % tile.heads);
            k.scale_in_place(out, 1.0 / sum);
        }
    });
    if plan.ranges > 1 {
        pool.run(plan.rows * s.n_kv_heads, &|task, _| {
            let (row, group) = (task / s.n_kv_heads, s.n_heads / s.n_kv_heads);
            let Some((run, in_run)) = nth_row(runs, row) else {
                return;
            };
            for head in (task % s.n_kv_heads) * group..(task % s.n_kv_heads + 1) * group {
                let at = ((run.first + in_run) * s.n_heads + head) * s.value_dim;
                // SAFETY: rows and heads of the tasks are disjoint.
                let out = unsafe { out.part(at, s.value_dim) };
                out.fill(0.0);
                let mut state = NOTHING;
                for chunk in s.chunks(run.position + in_run, 1) {
                    // SAFETY: the place is this task's, and was written by a task before.
                    let place = unsafe { partial.part(plan.partial(s, row, head, chunk), s.value_dim + 2) };
                    merge(k, &mut state, (place[0], place[1]), &place[2..], out);
                }
                k.scale_in_place(out, 1.0 / state.1);
            }
        });
    }
    Ok(())
}

/// What a query has seen before its first chunk.
const NOTHING: Stats = (f32::NEG_INFINITY, 0.0);

/// Memory or output, written by all tasks in disjoint parts.
struct Output(*mut f32);
// SAFETY: see above.
unsafe impl Sync for Output {}

impl Output {
    /// `n` values from `at` on.
    ///
    /// # Safety
    /// They exist; one use at a time, and no other task has them.
    #[allow(
        clippy::mut_from_ref,
        reason = "each task has its own part, as the safety rule says"
    )]
    unsafe fn part(&self, at: usize, n: usize) -> &mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), n) }
    }
}

fn check(s: &AttentionShape, runs: &[Run], q: &[f32], out: &[f32]) -> Result<(), KernelError> {
    let bad = |expected: String, found: String| KernelError::Shape {
        action: "attend",
        expected,
        found,
    };
    if s.n_kv_heads == 0
        || !s.n_heads.is_multiple_of(s.n_kv_heads)
        || s.n_heads == 0
        || !(1..=MAX_DIM).contains(&s.key_dim)
        || !(1..=MAX_DIM).contains(&s.value_dim)
    {
        let expected = format!("whole groups of heads of 1 to {MAX_DIM} elements");
        return Err(bad(expected, format!("{s:?}")));
    }
    if s.window == Some(0) || s.softcap.is_some_and(|c| !(c > 0.0 && c.is_finite())) {
        return Err(bad("a window and a cap above 0".into(), format!("{s:?}")));
    }
    let rows = (q.len() / (s.n_heads * s.key_dim)).min(out.len() / (s.n_heads * s.value_dim));
    match runs
        .iter()
        .find(|r| r.first.checked_add(r.rows).is_none_or(|end| end > rows))
    {
        Some(run) => Err(bad(format!("runs within {rows} rows"), format!("{run:?}"))),
        None => Ok(()),
    }
}

impl Kernels {
    /// Writes a key as position `slot` of a block of columns of `ty.row_bytes(x.len()) · BLOCK` bytes.
    pub fn store_key(&self, ty: RowType, x: &[f32], keys: &mut [u8], slot: usize) {
        assert_eq!(Some(keys.len() / BLOCK), ty.row_bytes(x.len()));
        assert!(slot < BLOCK && keys.len().is_multiple_of(BLOCK));
        // SAFETY: lengths as asserted; a table exists only where its features do.
        unsafe { (self.store_key)(ty, x, keys.as_mut_ptr(), slot) }
    }

    /// Scores of `q` = (elements, stride from one element to the next, number of queries) with a block of keys; `next` is
    /// asked for meanwhile.
    fn scores(
        &self,
        ty: RowType,
        (keys, next): (&[u8], &[u8]),
        (q, q_stride, queries): (&[f32], usize, usize),
        out: &mut [f32],
        out_stride: usize,
    ) {
        let dim = match ty {
            RowType::Q8 => keys.len() / BLOCK - 4,
            RowType::F32 => keys.len() / BLOCK / 4,
            RowType::F16 | RowType::BF16 => keys.len() / BLOCK / 2,
        };
        assert!(queries > 0 && dim > 0 && q.len() >= (dim - 1) * q_stride + queries);
        assert!(out_stride >= BLOCK && out.len() >= (queries - 1) * out_stride + BLOCK);
        let job = Scores {
            ty,
            keys: keys.as_ptr(),
            next: (next.as_ptr(), next.len()),
            dim,
            q: q.as_ptr(),
            q_stride,
            queries,
            out: out.as_mut_ptr(),
            out_stride,
        };
        // SAFETY: lengths as asserted; a table exists only where its features do.
        unsafe { (self.scores)(&job) }
    }

    /// Adds `n` rows of a block of values from a first one on, weighted by (weights, stride from one query to the next, number of
    /// queries); `next` is asked for meanwhile.
    pub(crate) fn weighted_sums(
        &self,
        ty: RowType,
        (values, next): (&[u8], &[u8]),
        (from, n): (usize, usize),
        (weights, stride, queries): (&[f32], usize, usize),
        out: &mut [f32],
        dim: usize,
    ) {
        assert!(Some(values.len() / BLOCK) == ty.row_bytes(dim) && n > 0 && from + n <= BLOCK);
        let values = &values[from * (values.len() / BLOCK)..];
        assert!(weights.len() >= (queries - 1) * stride + n && out.len() >= queries * dim);
        let job = Sums {
            ty,
            values: values.as_ptr(),
            next: (next.as_ptr(), next.len()),
            dim,
            n,
            weights: weights.as_ptr(),
            weight_stride: stride,
            queries,
            out: out.as_mut_ptr(),
        };
        // SAFETY: lengths as asserted; a table exists only where its features do.
        unsafe { (self.weighted_sums)(&job) }
    }
}
