//! Attention of many queries over blocks of keys and values, in the one canonical order.
//!
//! Positions are taken in chunks of [`CHUNK`] at absolute positions, each chunk in blocks of [`BLOCK`]; a chunk yields its
//! largest score, the sum of its exponentials and its weighted values, and chunks are merged in ascending order. The
//! result of a query depends on nothing but the query, the keys and values it sees, and its position: it is the same
//! alone, among others, in a prefill or in a decode step, with any number of threads.
//!
//! A task takes a few neighbouring rows of a sequence and the query heads of one key/value head together, so that each
//! block of keys and values is read once for all of them.

#![allow(
    unsafe_code,
    reason = "tasks write disjoint parts of the output through raw pointers"
)]

pub use super::generic::attention::BLOCK;
use super::generic::attention::{Scores, Sums};
use super::{KernelError, Kernels, RowType, ThreadPool};

/// Positions in a chunk.
pub const CHUNK: usize = 256;
/// Queries of a task.
const QUERIES: usize = 64;
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
/// # Errors
/// Shapes or lengths do not fit, or a run has rows that are not there.
pub fn attend(
    k: &Kernels,
    pool: &ThreadPool,
    shape: &AttentionShape,
    kv: &impl KeyValues,
    runs: &[Run],
    q: &[f32],
    out: &mut [f32],
) -> Result<(), KernelError> {
    let bad = |expected: String, found: String| KernelError::Shape {
        action: "attend",
        expected,
        found,
    };
    let s = shape;
    if s.n_kv_heads == 0
        || !s.n_heads.is_multiple_of(s.n_kv_heads)
        || s.n_heads == 0
        || !(1..=MAX_DIM).contains(&s.key_dim)
        || !(1..=MAX_DIM).contains(&s.value_dim)
    {
        let expected = format!("whole groups of heads of 1 to {MAX_DIM} elements");
        return Err(bad(expected, format!("{s:?}")));
    }
    let (q_row, out_row) = (s.n_heads * s.key_dim, s.n_heads * s.value_dim);
    let rows = (q.len() / q_row).min(out.len() / out_row);
    if let Some(run) = runs
        .iter()
        .find(|r| r.first.checked_add(r.rows).is_none_or(|end| end > rows))
    {
        return Err(bad(format!("runs within {rows} rows"), format!("{run:?}")));
    }
    let group = s.n_heads / s.n_kv_heads;
    let heads = group.min(QUERIES);
    let rows_of_task = QUERIES / heads;
    let head_tasks = s.n_kv_heads * group.div_ceil(heads);
    let tasks = runs
        .iter()
        .map(|r| r.rows.div_ceil(rows_of_task) * head_tasks)
        .sum();
    let out = Output(out.as_mut_ptr());
    pool.run(tasks, &|mut task, worker| {
        for run in runs {
            let count = run.rows.div_ceil(rows_of_task) * head_tasks;
            if task >= count {
                task -= count;
                continue;
            }
            let (part, head_task) = (task / head_tasks, task % head_tasks);
            let (kv_head, head_part) = (head_task % s.n_kv_heads, head_task / s.n_kv_heads);
            let from = part * rows_of_task;
            let first_head = head_part * heads;
            let tile = Tile {
                k,
                shape,
                sequence: run.sequence,
                kv_head,
                row: run.first + from,
                rows: rows_of_task.min(run.rows - from),
                position: run.position + from,
                head: kv_head * group + first_head,
                heads: heads.min(group - first_head),
            };
            // SAFETY: the worker's scratch memory is its own while the task runs; rows and heads of the tasks are
            // disjoint parts of the output, which this function holds exclusively.
            unsafe { tile.attend(kv, q, &out, pool.scratch(worker)) };
            return;
        }
    });
    Ok(())
}

/// The output, written by all tasks in disjoint parts.
struct Output(*mut f32);
// SAFETY: see above.
unsafe impl Sync for Output {}

/// Rows and heads of one task.
struct Tile<'a> {
    k: &'a Kernels,
    shape: &'a AttentionShape,
    sequence: u32,
    kv_head: usize,
    row: usize,
    rows: usize,
    position: usize,
    head: usize,
    heads: usize,
}

impl Tile<'_> {
    /// # Safety
    /// No other task writes these rows and heads of `out`.
    unsafe fn attend(&self, kv: &impl KeyValues, q: &[f32], out: &Output, scratch: &mut [u8]) {
        let s = self.shape;
        let (ty, queries) = (kv.row_type(), self.rows * self.heads);
        // The pool's scratch memory begins at a cache line and is large enough for the largest shape.
        let scratch: &mut [f32] = bytemuck::cast_slice_mut(scratch);
        let (scores, scratch) = scratch.split_at_mut(QUERIES * CHUNK);
        let (sums, scratch) = scratch.split_at_mut(queries * s.value_dim);
        let columns = &mut scratch[..queries * s.key_dim];
        // Query c is head c % heads of row c / heads; its elements lie `queries` apart.
        for c in 0..queries {
            let at = (self.row + c / self.heads) * s.n_heads + self.head + c % self.heads;
            for (d, x) in q[at * s.key_dim..(at + 1) * s.key_dim].iter().enumerate() {
                columns[d * queries + c] = x * s.scale;
            }
        }
        let mut state = [(f32::NEG_INFINITY, 0.0f32); QUERIES];
        let last = self.position + self.rows - 1;
        for start in (0..=last).step_by(CHUNK) {
            // Rows before the chunk do not see it.
            let first = start.saturating_sub(self.position) * self.heads;
            let blocks = CHUNK.min(last + 1 - start).div_ceil(BLOCK);
            for b in 0..blocks {
                let keys = kv.keys(self.sequence, self.kv_head, start / BLOCK + b);
                self.k.scores(
                    ty,
                    keys,
                    (&columns[first..], queries, queries - first),
                    &mut scores[first * CHUNK + b * BLOCK..],
                    CHUNK,
                );
            }
            let seen = |c: usize| CHUNK.min(self.position + c / self.heads + 1 - start);
            let mut chunk = [(0.0f32, 0.0f32); QUERIES];
            for c in first..queries {
                let scores = &mut scores[c * CHUNK..c * CHUNK + seen(c)];
                let max = self.k.max(scores);
                chunk[c] = (max, self.k.exp_minus_in_place(scores, max));
            }
            sums[first * s.value_dim..].fill(0.0);
            for b in 0..blocks {
                let values = kv.values(self.sequence, self.kv_head, start / BLOCK + b);
                let mut c = first;
                while c < queries {
                    // Rows that see the whole block are taken together, the others one by one.
                    let n = BLOCK.min(seen(c).saturating_sub(b * BLOCK));
                    let count = if n == BLOCK { queries - c } else { self.heads };
                    if n > 0 {
                        self.k.weighted_sums(
                            ty,
                            values,
                            n,
                            (&scores[c * CHUNK + b * BLOCK..], CHUNK, count),
                            &mut sums[c * s.value_dim..],
                            s.value_dim,
                        );
                    }
                    c += count;
                }
            }
            for c in first..queries {
                let sums = &sums[c * s.value_dim..(c + 1) * s.value_dim];
                // SAFETY: this task's part of the output.
                let out = unsafe { self.output(out, c) };
                merge(&mut state[c], chunk[c], sums, out, start == 0);
            }
        }
        for (c, (_, sum)) in state[..queries].iter().enumerate() {
            let norm = 1.0 / sum;
            // SAFETY: this task's part of the output.
            unsafe { self.output(out, c) }.iter_mut().for_each(|o| *o *= norm);
        }
    }

    /// Where query `c` is written.
    ///
    /// # Safety
    /// One use at a time; no other task has it.
    #[allow(
        clippy::mut_from_ref,
        reason = "each task has its own part, as the safety rule says"
    )]
    unsafe fn output<'o>(&self, out: &'o Output, c: usize) -> &'o mut [f32] {
        let s = self.shape;
        let at = (self.row + c / self.heads) * s.n_heads + self.head + c % self.heads;
        // SAFETY: inside the output, as the rows are; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(out.0.add(at * s.value_dim), s.value_dim) }
    }
}

/// Merges a chunk into what was seen before it.
fn merge(state: &mut (f32, f32), chunk: (f32, f32), sums: &[f32], out: &mut [f32], first: bool) {
    let (max, sum) = *state;
    let new_max = max.max(chunk.0);
    let (keep, add) = (factor(max, new_max), factor(chunk.0, new_max));
    if first {
        out.fill(0.0);
    }
    for (o, c) in out.iter_mut().zip(sums) {
        *o = *o * keep + *c * add;
    }
    *state = (new_max, sum * keep + chunk.1 * add);
}

/// exp(from − to), where nothing seen yet counts as 0 and an unchanged maximum as exactly 1.
fn factor(from: f32, to: f32) -> f32 {
    if from == to { 1.0 } else { (from - to).exp() }
}

impl Kernels {
    /// Writes a key as position `slot` of a block of columns of `ty.row_bytes(x.len()) · BLOCK` bytes.
    pub fn store_key(&self, ty: RowType, x: &[f32], keys: &mut [u8], slot: usize) {
        assert_eq!(Some(keys.len() / BLOCK), ty.row_bytes(x.len()));
        assert!(slot < BLOCK && keys.len().is_multiple_of(BLOCK));
        // SAFETY: lengths as asserted; a table exists only where its features do.
        unsafe { (self.store_key)(ty, x, keys.as_mut_ptr(), slot) }
    }

    /// Scores of `q` = (elements, stride from one element to the next, number of queries) with a block of keys.
    fn scores(
        &self,
        ty: RowType,
        keys: &[u8],
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

    /// Adds the first `n` rows of a block of values, weighted by (weights, stride from one query to the next, number of
    /// queries).
    pub(crate) fn weighted_sums(
        &self,
        ty: RowType,
        values: &[u8],
        n: usize,
        (weights, stride, queries): (&[f32], usize, usize),
        out: &mut [f32],
        dim: usize,
    ) {
        assert!(Some(values.len() / BLOCK) == ty.row_bytes(dim) && (1..=BLOCK).contains(&n));
        assert!(weights.len() >= (queries - 1) * stride + n && out.len() >= queries * dim);
        let job = Sums {
            ty,
            values: values.as_ptr(),
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
