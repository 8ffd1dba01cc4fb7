//! One task of attention: a few neighbouring rows of a sequence, some query heads of one key/value head, and a range of
//! chunks.

use std::ops::Range;

use super::{AttentionShape, BLOCK, CHUNK, KeyValues};
use crate::kernel::generic::attention::{ChunkJob, MOST_QUERIES, SCORES};
use crate::kernel::pool::SCRATCH;
use crate::kernel::table::PairAttention;
use crate::kernel::{Kernels, Precision, RowType};

/// Most queries of a task with products of `f32`. With pairs of integers, into which keys and values are turned once for all
/// of them, there are up to [`MOST_QUERIES`].
pub(super) const QUERIES: usize = 64;

/// Lanes of the widest vectors.
const LANES: usize = 16;

/// The products of pairs of integers of a level, where they are for keys and values of a type: not for `f32`, nor in the
/// exact mode.
pub(super) fn pair_products(
    k: &'static Kernels,
    ty: RowType,
    precision: Precision,
) -> Option<&'static PairAttention> {
    let wanted = ty != RowType::F32 && precision != Precision::Exact;
    k.pair_attention.as_ref().filter(|_| wanted)
}

/// Most queries of a task, so that what it needs fits the scratch memory of a worker.
pub(super) fn most_queries(s: &AttentionShape, pairs: bool, scratch: usize) -> usize {
    if !pairs {
        return QUERIES;
    }
    ((scratch / 4 - packed(s)) / floats_of_pairs(s)).min(MOST_QUERIES)
}

/// `f32` of scratch memory that the largest task uses.
pub(super) fn scratch_floats(s: &AttentionShape, pairs: bool) -> usize {
    let queries = most_queries(s, pairs, SCRATCH);
    if pairs {
        queries * floats_of_pairs(s) + packed(s)
    } else {
        queries * (CHUNK + s.value_dim + s.key_dim)
    }
}

/// Scores, sums and pairs of elements of a query.
fn floats_of_pairs(s: &AttentionShape) -> usize {
    SCORES + s.value_dim.next_multiple_of(LANES) + s.key_dim.div_ceil(2)
}

/// Pairs of a packed block.
fn packed(s: &AttentionShape) -> usize {
    BLOCK * s.key_dim.div_ceil(2).max(s.value_dim.next_multiple_of(LANES) / 2)
}

/// Rows, heads and chunks of one task.
pub(super) struct Tile<'a> {
    pub k: &'static Kernels,
    pub shape: &'a AttentionShape,
    pub sequence: u32,
    pub kv_head: usize,
    pub row: usize,
    pub rows: usize,
    /// Position of the first row.
    pub position: usize,
    pub head: usize,
    pub heads: usize,
    pub chunks: Range<usize>,
}

/// What a query has seen: the largest score and the sum of exponentials.
pub(super) type Stats = (f32, f32);

impl Tile<'_> {
    /// Attends to the chunks one after the other; `sink` is given the row and head of a query, the chunk, and what the query saw
    /// there.
    pub(super) fn attend(
        &self,
        kv: &impl KeyValues,
        q: &[f32],
        scratch: &mut [u8],
        mut sink: impl FnMut(usize, usize, usize, Stats, &[f32]),
    ) {
        let s = self.shape;
        let queries = self.rows * self.heads;
        let pairs = pair_products(self.k, kv.row_type(), self.shape.precision);
        // The pool's scratch memory begins at a cache line and is large enough for the largest shape.
        let scratch: &mut [f32] = bytemuck::cast_slice_mut(scratch);
        let width = if pairs.is_some() {
            s.value_dim.next_multiple_of(LANES)
        } else {
            s.value_dim
        };
        let score_width = if pairs.is_some() { SCORES } else { CHUNK };
        let (scores, scratch) = scratch.split_at_mut(queries * score_width);
        let (sums, scratch) = scratch.split_at_mut(queries * width);
        let mut stats = [(0.0f32, 0.0f32); MOST_QUERIES];
        // Query c is head c % heads of row c / heads; its elements, or pairs of them, lie `queries` apart.
        let query = |c: usize| {
            let at = (self.row + c / self.heads) * s.n_heads + self.head + c % self.heads;
            &q[at * s.key_dim..(at + 1) * s.key_dim]
        };
        let mut q_scales = [0.0f32; MOST_QUERIES];
        let (columns, packed_block) = match pairs {
            Some(f) => {
                let (columns, rest) = scratch.split_at_mut(queries * s.key_dim.div_ceil(2));
                for c in 0..queries {
                    let out: *mut u32 = columns[c..].as_mut_ptr().cast();
                    // SAFETY: pairs of a query lie `queries` apart, beginning at its own.
                    q_scales[c] = unsafe { (f.pack_query)(query(c), s.scale, out, queries) };
                }
                (columns, &mut rest[..packed(s)])
            }
            None => {
                let (columns, rest) = scratch.split_at_mut(queries * s.key_dim);
                for c in 0..queries {
                    for (d, x) in query(c).iter().enumerate() {
                        columns[d * queries + c] = x * s.scale;
                    }
                }
                (columns, &mut rest[..0])
            }
        };
        for chunk in self.chunks.clone() {
            let start = chunk * CHUNK;
            let rows = self.rows_of(start);
            if rows.is_empty() {
                continue;
            }
            let (first, end) = (rows.start * self.heads, rows.end * self.heads);
            let mut job = ChunkJob {
                ty: kv.row_type(),
                key_dim: s.key_dim,
                value_dim: s.value_dim,
                softcap: s.softcap.unwrap_or(0.0),
                window: s.window.unwrap_or(usize::MAX),
                position: self.position + rows.start - start,
                heads: self.heads,
                queries: end - first,
                keys: [std::ptr::null(); CHUNK / BLOCK],
                values: [std::ptr::null(); CHUNK / BLOCK],
                next_keys: [std::ptr::null(); CHUNK / BLOCK],
                q: columns[first..].as_ptr().cast(),
                q_stride: queries,
                q_scales: q_scales[first..].as_ptr(),
                scores: scores.as_mut_ptr(),
                sums: sums.as_mut_ptr(),
                packed: packed_block.as_mut_ptr().cast(),
                stats: stats.as_mut_ptr(),
            };
            match pairs {
                Some(f) => {
                    let last = job.seen(rows.len() - 1).1;
                    for b in job.seen(0).0 / BLOCK..last.div_ceil(BLOCK) {
                        let index = start / BLOCK + b;
                        let keys = kv.keys(self.sequence, self.kv_head, index);
                        let values = kv.values(self.sequence, self.kv_head, index);
                        assert_eq!(Some(keys.len() / BLOCK), job.ty.row_bytes(s.key_dim));
                        assert_eq!(Some(values.len() / BLOCK), job.ty.row_bytes(s.value_dim));
                        (job.keys[b], job.values[b]) = (keys.as_ptr(), values.as_ptr());
                    }
                    for (next, keys) in job.next_keys.iter_mut().zip(self.next_keys(kv, start)) {
                        *next = keys.as_ptr();
                    }
                    // SAFETY: blocks have the lengths asserted, buffers were cut for the queries of the tile, which those
                    // of the job are a part of; a table exists only where its features do.
                    unsafe { (f.chunk)(&job) };
                }
                None => self.chunk_f32(
                    kv,
                    &job,
                    start,
                    (&columns[first..], queries),
                    scores,
                    sums,
                    &mut stats,
                ),
            }
            for c in 0..end - first {
                let (row, head) = (rows.start + c / self.heads, self.head + c % self.heads);
                sink(
                    row,
                    head,
                    chunk,
                    stats[c],
                    &sums[c * width..c * width + s.value_dim],
                );
            }
        }
    }

    /// Rows of the tile that see some of the chunk that begins at `start`.
    fn rows_of(&self, start: usize) -> Range<usize> {
        let first = start.saturating_sub(self.position).min(self.rows);
        // The first position a row sees lies before the end of the chunk.
        let end = match self.shape.window {
            Some(window) => (start + CHUNK)
                .saturating_add(window - 1)
                .saturating_sub(self.position),
            None => self.rows,
        };
        first..end.clamp(first, self.rows)
    }

    /// The keys of the chunk after the one that begins at `start`, if this task attends to it.
    fn next_keys<'k>(&self, kv: &'k impl KeyValues, start: usize) -> impl Iterator<Item = &'k [u8]> {
        let next = start + CHUNK;
        let end = (self.position + self.rows)
            .min(self.chunks.end * CHUNK)
            .min(next + CHUNK);
        (next / BLOCK..end.div_ceil(BLOCK)).map(|b| kv.keys(self.sequence, self.kv_head, b))
    }

    /// A chunk by products of `f32`.
    #[allow(
        clippy::too_many_arguments,
        reason = "parts of the scratch memory of one task"
    )]
    fn chunk_f32(
        &self,
        kv: &impl KeyValues,
        job: &ChunkJob,
        start: usize,
        (columns, stride): (&[f32], usize),
        scores: &mut [f32],
        sums: &mut [f32],
        stats: &mut [Stats],
    ) {
        let (k, dim) = (self.k, job.value_dim);
        let rows = job.queries / job.heads;
        let blocks = job.seen(0).0 / BLOCK..job.seen(rows - 1).1.div_ceil(BLOCK);
        let keys = |b: usize| kv.keys(self.sequence, self.kv_head, start / BLOCK + b);
        let values = |b: usize| kv.values(self.sequence, self.kv_head, start / BLOCK + b);
        for b in blocks.clone() {
            // As with pairs: the values come meanwhile, and with them the next chunk's keys.
            k.scores(
                job.ty,
                (keys(b), values(b)),
                (columns, stride, job.queries),
                &mut scores[b * BLOCK..],
                CHUNK,
            );
        }
        for c in 0..job.queries {
            let (from, to) = job.seen(c / job.heads);
            let scores = &mut scores[c * CHUNK + from..c * CHUNK + to];
            if job.softcap > 0.0 {
                k.softcap_in_place(scores, job.softcap);
            }
            let max = k.max(scores);
            stats[c] = (max, k.exp_minus_in_place(scores, max));
        }
        sums[..job.queries * dim].fill(0.0);
        for b in blocks.clone() {
            let block = values(b);
            let later = self.next_keys(kv, start).nth(b).unwrap_or(&[]);
            let part = |row: usize| {
                let (from, to) = job.seen(row);
                (
                    from.max(b * BLOCK) - b * BLOCK,
                    to.min((b + 1) * BLOCK).saturating_sub(b * BLOCK),
                )
            };
            let mut row = 0;
            while row < rows {
                // Rows that see the whole block are taken together, the others one by one.
                let (from, to) = part(row);
                let mut next = row + 1;
                while (from, to) == (0, BLOCK) && next < rows && part(next) == (0, BLOCK) {
                    next += 1;
                }
                if from < to {
                    let c = row * job.heads;
                    k.weighted_sums(
                        job.ty,
                        (block, later),
                        (from, to - from),
                        (
                            &scores[c * CHUNK + b * BLOCK + from..],
                            CHUNK,
                            (next - row) * job.heads,
                        ),
                        &mut sums[c * dim..],
                        dim,
                    );
                }
                row = next;
            }
        }
    }
}

/// Merges a chunk into what was seen before it; nothing seen is (−∞, 0) and zeros.
pub(super) fn merge(k: &Kernels, state: &mut Stats, chunk: Stats, sums: &[f32], out: &mut [f32]) {
    let (max, sum) = *state;
    let new_max = max.max(chunk.0);
    let (keep, add) = (factor(max, new_max), factor(chunk.0, new_max));
    k.scale_and_add(out, keep, sums, add);
    *state = (new_max, sum * keep + chunk.1 * add);
}

/// exp(from − to), where nothing seen yet counts as 0 and an unchanged maximum as exactly 1.
fn factor(from: f32, to: f32) -> f32 {
    if from == to { 1.0 } else { (from - to).exp() }
}
