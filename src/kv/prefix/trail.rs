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
