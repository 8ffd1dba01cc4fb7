//! Which blocks along some tokens an index knows, whatever it knows of those before them: what a group asks whose rows see
//! a window only.

use super::{BLOCK_TOKENS, BlockId, Key, NodeId, Prefix, PrefixIndex};

/// The blocks along some tokens.
pub struct Trail<'a> {
    index: &'a PrefixIndex,
    tokens: &'a [u32],
    /// Key of the block before each one, and of the last.
    chain: Vec<Key>,
    known: Vec<Option<(NodeId, BlockId)>>,
    /// Before each block: the first of those before it that are known without a gap.
    since: Vec<usize>,
}

impl PrefixIndex {
    /// Looks up every block along the tokens.
    pub fn trail<'a>(&'a self, root: Key, tokens: &'a [u32]) -> Trail<'a> {
        let (mut chain, mut known, mut since) = (vec![root], Vec::new(), vec![0]);
        let mut parent = root;
        for tokens in tokens.chunks_exact(BLOCK_TOKENS) {
            let key = self.namer.child(&parent, tokens);
            let found = self.find(&key, &parent, tokens);
            known.push(found.map(|(id, node)| (id, node.block)));
            since.push(match found {
                Some(_) => since[known.len() - 1],
                None => known.len(),
            });
            chain.push(key);
            parent = key;
        }
        Trail {
            index: self,
            tokens,
            chain,
            known,
            since,
        }
    }
}

impl Trail<'_> {
    /// The longest prefix of at most `limit` tokens after which a row sees known blocks only; `first_block` says from which block
    /// on the row at a position sees. It holds these blocks and no others.
    pub fn longest(&self, limit: usize, first_block: impl Fn(usize) -> usize) -> Prefix {
        let limit = limit.min(self.tokens.len());
        for full in (0..=limit / BLOCK_TOKENS).rev() {
            let begin = full * BLOCK_TOKENS;
            // A whole block more was tried before.
            let end = limit.min(begin + BLOCK_TOKENS - 1);
            let partial = self.index.closest(&self.chain[full], &self.tokens[begin..end]);
            let len = begin + partial.map_or(0, |(_, _, n)| n);
            let first = first_block(len).min(full);
            // What is shorter within this block sees at least as far back.
            if let (true, Some(blocks)) = (
                self.since[full] <= first,
                self.known[first..full].iter().copied().collect(),
            ) {
                return Prefix {
                    first,
                    blocks,
                    partial,
                    chain: Some(self.chain[full]),
                    others: Vec::new(),
                };
            }
        }
        Prefix::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Fingerprint, Insert, Namer, PolicyKind, Secret};
    use super::*;
    use crate::kernel::RowType;
    use crate::kv::Geometry;

    /// The longest prefix by its definition: every length is tried.
    fn longest(index: &PrefixIndex, root: Key, tokens: &[u32], limit: usize, window: usize) -> usize {
        let mut keys = vec![root];
        for tokens in tokens.chunks_exact(BLOCK_TOKENS) {
            keys.push(index.namer.child(&keys[keys.len() - 1], tokens));
        }
        let serves = |len: &usize| {
            let (full, rest) = (len / BLOCK_TOKENS, len % BLOCK_TOKENS);
            let first = (len + 1).saturating_sub(window) / BLOCK_TOKENS;
            let block = |i: usize| &tokens[i * BLOCK_TOKENS..(i + 1) * BLOCK_TOKENS];
            let tail = &tokens[full * BLOCK_TOKENS..*len];
            (first..full).all(|i| index.known(keys[i], block(i)).is_some())
                && (rest == 0
                    || index
                        .closest(&keys[full], tail)
                        .is_some_and(|(_, _, n)| n == rest))
        };
        (0..=limit).rev().find(serves).unwrap()
    }

    #[test]
    fn the_longest_prefix_is_that_of_all_lengths_tried() {
        let geometry = Geometry::new(RowType::F16, Vec::new()).unwrap();
        let namer = Namer::new(Secret::fixed([7; 32]), 0, Fingerprint::new(&geometry, &[]));
        let mut state = 17u64;
        let mut random = |n: u64| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        let mut lengths = Vec::new();
        for _ in 0..400 {
            let mut index = PrefixIndex::new(namer.clone(), PolicyKind::Lru);
            let root = index.root(b"");
            let tokens: Vec<u32> = (0..32 * 8 + 20).map(|i| 100 + i).collect();
            let (mut parent, mut number) = (root, 0);
            for block in tokens.chunks(BLOCK_TOKENS) {
                let mut block = block.to_vec();
                // Some are missing, some end or differ early.
                let agree = match random(5) {
                    0 => 0,
                    1 => random(block.len() as u64) as usize,
                    _ => block.len(),
                };
                if agree < block.len() {
                    block.truncate(agree + random(3) as usize);
                    block.iter_mut().skip(agree).for_each(|t| *t = 9);
                }
                number += 1;
                if !block.is_empty()
                    && let Insert::New(id, _) = index.insert(root, parent, &block, BlockId::new(number))
                {
                    index.unpin(id);
                }
                let at = (number as usize - 1) * BLOCK_TOKENS;
                let whole = &tokens[at..tokens.len().min(at + BLOCK_TOKENS)];
                parent = index.namer.child(&parent, whole);
            }
            let limit = random(tokens.len() as u64 + 1) as usize;
            let trail = index.trail(root, &tokens[..limit]);
            for window in [1, 2, 31, 32, 33, 64, 100, usize::MAX] {
                let found = trail.longest(limit, |len| (len + 1).saturating_sub(window) / BLOCK_TOKENS);
                assert_eq!(
                    found.len(),
                    longest(&index, root, &tokens, limit, window),
                    "{limit} {window}"
                );
                lengths.push(found.len());
            }
            let all = trail.longest(limit, |_| 0);
            assert_eq!(all.len(), index.lookup(root, &tokens, limit).len());
        }
        assert!(lengths.contains(&0) && lengths.iter().any(|n| *n > 200));
    }
}
