//! How the rows, heads and chunks of a step are divided into tasks. Results do not depend on it.

use std::ops::Range;

use super::tile::Tile;
use super::{AttentionShape, CHUNK, Run};
use crate::kernel::Kernels;

/// Tasks per thread that there should be, so that none waits long for the last.
const TASKS_PER_THREAD: usize = 4;
/// Fewest queries of a task that is made smaller for the sake of more tasks.
const FEW_QUERIES: usize = 32;

/// `f32` of workspace with which [`super::attend`] can divide the chunks of single rows of up to `positions` positions
/// wherever there are too few of them for the threads.
pub fn workspace_floats(
    n_heads: usize,
    n_kv_heads: usize,
    value_dim: usize,
    threads: usize,
    positions: usize,
) -> usize {
    // The most rows that make fewer tasks than there should be.
    let rows = (wanted(threads) - 1) / n_kv_heads.max(1);
    rows.saturating_mul(per_row(n_heads, value_dim, positions.div_ceil(CHUNK)))
}

/// Tasks there should be.
fn wanted(threads: usize) -> usize {
    if threads > 1 {
        TASKS_PER_THREAD * threads
    } else {
        1
    }
}

/// Maximum, sum and weighted values of each head and chunk.
fn per_row(n_heads: usize, value_dim: usize, chunks: usize) -> usize {
    n_heads.saturating_mul(chunks).saturating_mul(value_dim + 2)
}

impl AttentionShape {
    /// The chunks that `rows` rows from `position` on see.
    pub(super) fn chunks(&self, position: usize, rows: usize) -> Range<usize> {
        let first = (position + 1).saturating_sub(self.window.unwrap_or(usize::MAX));
        first / CHUNK..(position + rows).div_ceil(CHUNK)
    }
}

/// The run that has the `row`-th of all rows, and which of its own it is.
pub(super) fn nth_row(runs: &[Run], mut row: usize) -> Option<(&Run, usize)> {
    for run in runs {
        if row < run.rows {
            return Some((run, row));
        }
        row -= run.rows;
    }
    None
}

/// A division into tasks.
pub(super) struct Plan {
    /// Heads of a task, and tasks of all heads of a row.
    heads: usize,
    head_tasks: usize,
    rows_of_task: usize,
    /// Parts into which the chunks of a task are divided.
    pub ranges: usize,
    /// All rows, and the most chunks one sees.
    pub rows: usize,
    chunks: usize,
}

/// Heads of a task of at most `queries` queries, and tasks of all heads of a row.
pub(super) fn head_parts(s: &AttentionShape, queries: usize) -> (usize, usize) {
    let group = s.n_heads / s.n_kv_heads;
    let heads = group.min(queries);
    (heads, s.n_kv_heads * group.div_ceil(heads))
}

impl Plan {
    /// For tasks of at most `queries` queries, and `workspace` values of workspace.
    pub fn new(s: &AttentionShape, runs: &[Run], queries: usize, threads: usize, workspace: usize) -> Self {
        let wanted = wanted(threads);
        let (heads, head_tasks) = head_parts(s, queries);
        let mut plan = Self {
            heads,
            head_tasks,
            rows_of_task: queries / heads,
            ranges: 1,
            rows: runs.iter().map(|r| r.rows).sum(),
            chunks: runs
                .iter()
                .map(|r| (r.position + r.rows).div_ceil(CHUNK))
                .max()
                .unwrap_or(0),
        };
        while plan.tasks(runs) < wanted && plan.rows_of_task > 1 && plan.rows_of_task * heads > FEW_QUERIES {
            plan.rows_of_task /= 2;
        }
        let tasks = plan.tasks(runs);
        if (1..wanted).contains(&tasks)
            && per_row(s.n_heads, s.value_dim, plan.chunks).saturating_mul(plan.rows) <= workspace
        {
            plan.ranges = wanted.div_ceil(tasks).min(plan.chunks);
        }
        plan
    }

    /// Number of tasks.
    pub fn tasks(&self, runs: &[Run]) -> usize {
        runs.iter().map(|r| self.tasks_of(r)).sum()
    }

    fn tasks_of(&self, run: &Run) -> usize {
        run.rows.div_ceil(self.rows_of_task) * self.head_tasks * self.ranges
    }

    /// The number of a task's run, the rows of the runs before it, and the task's tile.
    pub fn tile<'a>(
        &self,
        k: &'static Kernels,
        s: &'a AttentionShape,
        runs: &[Run],
        mut task: usize,
    ) -> Option<(usize, usize, Tile<'a>)> {
        let group = s.n_heads / s.n_kv_heads;
        let mut rows_before = 0;
        for (index, run) in runs.iter().enumerate() {
            let count = self.tasks_of(run);
            if task >= count {
                task -= count;
                rows_before += run.rows;
                continue;
            }
            let (range, task) = (task % self.ranges, task / self.ranges);
            let (part, head_task) = (task / self.head_tasks, task % self.head_tasks);
            let (kv_head, head_part) = (head_task % s.n_kv_heads, head_task / s.n_kv_heads);
            let from = part * self.rows_of_task;
            let first_head = head_part * self.heads;
            let (position, rows) = (run.position + from, self.rows_of_task.min(run.rows - from));
            let chunks = s.chunks(position, rows);
            let at = |range: usize| chunks.start + chunks.len() * range / self.ranges;
            let tile = Tile {
                k,
                shape: s,
                sequence: run.sequence,
                kv_head,
                row: run.first + from,
                rows,
                position,
                head: kv_head * group + first_head,
                heads: self.heads.min(group - first_head),
                chunks: at(range)..at(range + 1),
            };
            return Some((index, rows_before, tile));
        }
        None
    }

    /// Where in the workspace a chunk of a row and head lies.
    pub fn partial(&self, s: &AttentionShape, row: usize, head: usize, chunk: usize) -> usize {
        ((row * s.n_heads + head) * self.chunks + chunk) * (s.value_dim + 2)
    }
}
