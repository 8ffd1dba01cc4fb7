//! Chunks that several sequences have in common: they are attended to once, by the rows of all of them together.
//!
//! What a row saw there is the state its other chunks begin with, so its result is the one it has alone, bit for bit.

use std::ops::Range;

use super::plan::head_parts;
use super::tile::Tile;
use super::{AttentionShape, CHUNK, Run};
use crate::kernel::Kernels;

/// Neighbouring runs of one row each whose first chunks are the same blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub runs: Range<usize>,
    pub chunks: usize,
}

/// The group that begins with the run `first`; one run and no chunks where the next ones share nothing with it.
fn group(runs: &[Run], first: usize) -> Group {
    let alone = |run: &Run| run.rows != 1;
    let mut group = Group {
        runs: first..first + 1,
        chunks: 0,
    };
    for (i, run) in runs.iter().enumerate().skip(first + 1) {
        if alone(&runs[first]) || alone(run) || run.shared == 0 || run.shared < group.chunks {
            break;
        }
        if group.chunks == 0 {
            group.chunks = run.shared;
        }
        group.runs.end = i + 1;
    }
    group
}

/// Every group of a step, those of one run among them.
pub(super) fn groups(runs: &[Run]) -> impl Iterator<Item = Group> {
    let mut first = 0;
    std::iter::from_fn(move || {
        let next = (first < runs.len()).then(|| group(runs, first))?;
        first = next.runs.end;
        Some(next)
    })
}

/// Chunks of a run that are attended to with others.
pub(super) fn chunks_of(runs: &[Run], index: usize) -> usize {
    groups(runs)
        .find(|g| g.runs.contains(&index))
        .map_or(0, |g| g.chunks)
}

/// How the shared chunks are divided into tasks: some rows of a group and some heads that share keys and values.
pub(super) struct SharedPlan {
    heads: usize,
    rows: usize,
    head_tasks: usize,
}

impl SharedPlan {
    /// For tasks of at most `queries` queries.
    pub fn new(s: &AttentionShape, queries: usize) -> Self {
        let (heads, head_tasks) = head_parts(s, queries);
        Self {
            heads,
            rows: queries / heads,
            head_tasks,
        }
    }

    fn tasks_of(&self, group: &Group) -> usize {
        match group.chunks {
            0 => 0,
            _ => group.runs.len().div_ceil(self.rows) * self.head_tasks,
        }
    }

    /// Number of tasks.
    pub fn tasks(&self, runs: &[Run]) -> usize {
        groups(runs).map(|g| self.tasks_of(&g)).sum()
    }

    /// The tile of a task: its rows see all of its chunks.
    pub fn tile<'a>(
        &self,
        k: &'static Kernels,
        s: &'a AttentionShape,
        runs: &[Run],
        mut task: usize,
    ) -> Option<Tile<'a>> {
        let per_kv_head = s.n_heads / s.n_kv_heads;
        for group in groups(runs) {
            let count = self.tasks_of(&group);
            if task >= count {
                task -= count;
                continue;
            }
            let (part, head_task) = (task / self.head_tasks, task % self.head_tasks);
            let (kv_head, head_part) = (head_task % s.n_kv_heads, head_task / s.n_kv_heads);
            let (from, first_head) = (part * self.rows, head_part * self.heads);
            let leader = &runs[group.runs.start];
            return Some(Tile {
                k,
                shape: s,
                sequence: leader.sequence,
                kv_head,
                row: leader.first + from,
                rows: self.rows.min(group.runs.len() - from),
                position: group.chunks * CHUNK,
                head: kv_head * per_kv_head + first_head,
                heads: self.heads.min(per_kv_head - first_head),
                chunks: 0..group.chunks,
            });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: usize, rows: usize, shared: usize) -> Run {
        Run {
            sequence: first as u32,
            first,
            rows,
            position: 5000,
            shared,
        }
    }

    #[test]
    fn runs_that_share_as_much_form_a_group() {
        let runs = [
            run(0, 1, 0),
            run(1, 1, 3),
            run(2, 1, 4),
            run(3, 1, 2),
            run(4, 1, 2),
            run(5, 7, 5),
            run(12, 1, 5),
            run(13, 1, 0),
        ];
        let found: Vec<_> = groups(&runs).map(|g| (g.runs, g.chunks)).collect();
        // The fourth shares less with the third than that with those before it.
        assert_eq!(found, [(0..3, 3), (3..5, 2), (5..6, 0), (6..7, 0), (7..8, 0)]);
        assert_eq!(chunks_of(&runs, 2), 3);
        assert_eq!(chunks_of(&runs, 6), 0);
    }
}
