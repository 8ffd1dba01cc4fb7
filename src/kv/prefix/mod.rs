//! Which blocks hold the keys and values of which prefixes, so that a prompt computes only what no earlier one had.
//!
//! A block is named by a [`Key`] over its tokens and the key of the block before it. A lookup follows the longest chain
//! of full blocks and then takes the block whose tokens agree longest with what follows; whoever goes on from the middle
//! of a block copies it. Entries are found by content, not by links: a chain whose middle was evicted is whole again as
//! soon as that block is computed once more.
//!
//! The index knows nothing of memory: blocks are numbers to it, so that policies can be tried without a model.

mod fingerprint;
mod key;
mod passed;
pub mod policy;
mod tokens;
mod trail;

pub use fingerprint::{Fingerprint, NUMERICS_VERSION};
pub use key::{BlockName, Key, Namer, Secret};
pub use policy::{Policy, PolicyKind};
pub use trail::Trail;

use std::collections::{BTreeMap, HashMap};

use passed::Passed;
use tokens::Tokens;

use super::geometry::BLOCK_TOKENS;
use super::pool::BlockId;

/// Number of an entry of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

impl NodeId {
    /// Of a row of another table whose rows a policy orders.
    pub(crate) fn new(index: u32) -> Self {
        Self(index)
    }

    /// For tables with a row per entry.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Debug)]
struct Node {
    key: Key,
    parent: Key,
    root: Key,
    tokens: Tokens,
    block: BlockId,
}

impl Node {
    /// Its name, if it is a full block.
    fn name(&self) -> Option<BlockName> {
        Some(BlockName {
            key: self.key,
            parent: self.parent,
            root: self.root,
            tokens: *self.tokens.as_slice().first_chunk::<BLOCK_TOKENS>()?,
        })
    }
}

/// What a lookup found.
#[derive(Debug, Clone, Default)]
pub struct Prefix {
    /// Blocks at the beginning that nobody is going to read.
    pub first: usize,
    /// Full blocks after them, with their entries.
    pub blocks: Vec<(NodeId, BlockId)>,
    /// A block of which only so many tokens agree, or may be used.
    pub partial: Option<(NodeId, BlockId, usize)>,
    /// Key of the last full block, or the root.
    chain: Option<Key>,
    /// What the other groups have of the same tokens.
    pub others: Vec<Prefix>,
}

impl Prefix {
    /// Tokens found.
    pub fn len(&self) -> usize {
        (self.first + self.blocks.len()) * BLOCK_TOKENS + self.partial.map_or(0, |(_, _, n)| n)
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Key of the last full block, or the root.
    pub fn chain(&self) -> Option<Key> {
        self.chain
    }
}

/// What became of a block offered to the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Insert {
    /// It is known now, under this entry, and in use until it is unpinned.
    New(NodeId, Key),
    /// Another block with this content is known; the offered one is not needed.
    Known(NodeId, BlockId, Key),
    /// It is not taken: a longer one begins with these tokens, or there is no memory for an entry.
    Covered,
}

/// The index of one layer group. A window group asks for the last blocks of a prefix only ([`PrefixIndex::trail`]), and a
/// recurrent one would for its last snapshot; each has its own index, and a hit is the longest that all of them can serve.
#[derive(Debug)]
pub struct PrefixIndex {
    namer: Namer,
    nodes: Vec<Option<Node>>,
    unused: Vec<NodeId>,
    by_key: HashMap<Key, NodeId>,
    /// Blocks by the prefix they continue, then by their tokens: neighbours agree longest.
    children: BTreeMap<(Key, Tokens), NodeId>,
    kind: PolicyKind,
    policy: Box<dyn Policy>,
    /// Blocks that go before those the policy orders; they are in use to it.
    passed: Passed,
    evictions: u64,
}

impl PrefixIndex {
    /// An empty index.
    pub fn new(namer: Namer, policy: PolicyKind) -> Self {
        Self {
            namer,
            nodes: Vec::new(),
            unused: Vec::new(),
            by_key: HashMap::new(),
            children: BTreeMap::new(),
            kind: policy,
            policy: policy.create(),
            passed: Passed::default(),
            evictions: 0,
        }
    }

    /// An empty index for another group of the same cache.
    pub fn for_group(&self, group: u32) -> Self {
        Self::new(self.namer.for_group(group), self.kind)
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether it knows nothing.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Blocks evicted so far.
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    /// What the blocks depend on beside their tokens.
    pub fn fingerprint(&self) -> &Fingerprint {
        self.namer.fingerprint()
    }

    /// Where the prefixes of a salt begin.
    pub fn root(&self, salt: &[u8]) -> Key {
        self.namer.root(salt)
    }

    /// Where the prefixes of this group begin that begin at `root` in the first group.
    pub fn root_below(&self, root: &Key) -> Key {
        self.namer.root_below(root)
    }

    /// The longest known prefix of `tokens`, of `limit` tokens at most. Changes nothing.
    pub fn lookup(&self, root: Key, tokens: &[u32], limit: usize) -> Prefix {
        let limit = limit.min(tokens.len());
        let mut found = Prefix::default();
        let mut parent = root;
        for tokens in tokens[..limit].chunks_exact(BLOCK_TOKENS) {
            let key = self.namer.child(&parent, tokens);
            let Some((id, node)) = self.find(&key, &parent, tokens) else {
                break;
            };
            found.blocks.push((id, node.block));
            parent = key;
        }
        found.chain = Some(parent);
        let rest = &tokens[found.blocks.len() * BLOCK_TOKENS..limit];
        found.partial = self.closest(&parent, rest);
        found
    }

    /// The block of exactly these tokens after `parent`, and its key.
    pub fn known(&self, parent: Key, tokens: &[u32]) -> Option<(Key, BlockId)> {
        let key = self.namer.child(&parent, tokens);
        let (_, node) = self.find(&key, &parent, tokens)?;
        Some((key, node.block))
    }

    /// The block of this name.
    pub fn block(&self, name: &BlockName) -> Option<BlockId> {
        let (_, node) = self.find(&name.key, &name.parent, &name.tokens)?;
        Some(node.block)
    }

    /// The entry of a key, if it is what the key claims.
    fn find(&self, key: &Key, parent: &Key, tokens: &[u32]) -> Option<(NodeId, &Node)> {
        let &id = self.by_key.get(key)?;
        let node = self.nodes[id.index()].as_ref()?;
        (node.parent == *parent && node.tokens.as_slice() == tokens).then_some((id, node))
    }

    /// The block after `parent` that agrees longest with `tokens`, and how long.
    fn closest(&self, parent: &Key, tokens: &[u32]) -> Option<(NodeId, BlockId, usize)> {
        let tokens = &tokens[..tokens.len().min(BLOCK_TOKENS)];
        if tokens.is_empty() {
            return None;
        }
        let at = (*parent, Tokens::new(tokens));
        let before = self.children.range(..&at).next_back();
        let after = self.children.range(&at..).next();
        let mut best = None;
        for ((above, theirs), &id) in before.into_iter().chain(after) {
            let agree = theirs.as_slice().iter().zip(tokens);
            let n = agree.take_while(|(a, b)| a == b).count();
            if above == parent
                && n > best.map_or(0, |(_, _, n)| n)
                && let Some(node) = &self.nodes[id.index()]
            {
                best = Some((id, node.block, n));
            }
        }
        best
    }

    /// Counts a use of everything found, the deepest block first: no block is ever more recent than its ancestors.
    pub fn touch(&mut self, prefix: &Prefix) {
        if let Some((id, ..)) = prefix.partial {
            self.policy.hit(id);
        }
        for (id, _) in prefix.blocks.iter().rev() {
            self.policy.hit(*id);
        }
    }

    /// Offers a block with these tokens after the prefix `parent` of `root`.
    pub fn insert(&mut self, root: Key, parent: Key, tokens: &[u32], block: BlockId) -> Insert {
        let key = self.namer.child(&parent, tokens);
        if let Some(&id) = self.by_key.get(&key) {
            return match &self.nodes[id.index()] {
                Some(node) if node.parent == parent && node.tokens.as_slice() == tokens => {
                    Insert::Known(id, node.block, key)
                }
                _ => Insert::Covered,
            };
        }
        let at = (parent, Tokens::new(tokens));
        let next = self.children.range(&at..).next();
        if next.is_some_and(|((p, t), _)| *p == parent && t.as_slice().starts_with(tokens)) {
            return Insert::Covered;
        }
        if self.by_key.try_reserve(1).is_err() || self.nodes.try_reserve(1).is_err() {
            return Insert::Covered;
        }
        let id = self.unused.pop().unwrap_or_else(|| {
            self.nodes.push(None);
            NodeId((self.nodes.len() - 1) as u32)
        });
        let parent_node = self.by_key.get(&parent).copied();
        self.nodes[id.index()] = Some(Node {
            key,
            parent,
            root,
            tokens: at.1,
            block,
        });
        self.by_key.insert(key, id);
        self.children.insert(at, id);
        self.policy.insert(id, &key, parent_node);
        Insert::New(id, key)
    }

    /// The entry that these tokens continue: a shorter block after the same prefix, which is not needed beside them.
    pub fn superseded(&self, parent: Key, tokens: &[u32]) -> Option<NodeId> {
        let before = self.children.range(..&(parent, Tokens::new(tokens))).next_back();
        let ((p, t), &id) = before?;
        (*p == parent && tokens.starts_with(t.as_slice())).then_some(id)
    }

    /// Notes that the block is in use: it cannot be evicted.
    pub fn pin(&mut self, id: NodeId) {
        if !self.passed.remove(id) {
            self.policy.pin(id);
        }
    }

    /// Notes that nobody uses the block any more.
    pub fn unpin(&mut self, id: NodeId) {
        self.policy.unpin(id);
    }

    /// Notes that nobody uses the block any more, and that it left the window of who did last: it goes before any other,
    /// unless it is kept.
    pub fn unpin_passed(&mut self, id: NodeId) {
        if !self.passed.insert(id) {
            self.policy.unpin(id);
        }
    }

    /// Makes a block that is in use a checkpoint: leaving a window does not make it the first to go.
    pub fn keep(&mut self, id: NodeId) {
        self.passed.keep(id);
    }

    /// Whether the block is a checkpoint.
    pub fn is_kept(&self, id: NodeId) -> bool {
        self.passed.is_kept(id)
    }

    /// Chooses a block that nobody uses and forgets it. Answers it, and its name if it is full.
    pub fn evict(&mut self) -> Option<(BlockId, Option<BlockName>)> {
        let id = match self.passed.pop() {
            Some(id) => {
                self.policy.forget(id);
                id
            }
            None => self.policy.evict()?,
        };
        self.evictions += 1;
        let node = self.drop_node(id)?;
        Some((node.block, node.name()))
    }

    /// Forgets an entry.
    pub fn remove(&mut self, id: NodeId) -> Option<BlockId> {
        self.policy.forget(id);
        self.drop_node(id).map(|node| node.block)
    }

    fn drop_node(&mut self, id: NodeId) -> Option<Node> {
        let node = self.nodes[id.index()].take()?;
        self.passed.forget(id);
        self.by_key.remove(&node.key);
        self.children.remove(&(node.parent, node.tokens));
        self.unused.push(id);
        Some(node)
    }

    /// The name of the full block with these tokens after `parent`; `None` when they are no full block.
    pub fn name(&self, root: Key, parent: Key, tokens: &[u32]) -> Option<BlockName> {
        let tokens: &[u32; BLOCK_TOKENS] = tokens.try_into().ok()?;
        Some(BlockName {
            key: self.namer.child(&parent, tokens),
            parent,
            root,
            tokens: *tokens,
        })
    }

    /// Makes keys with another secret from now on. It must be empty.
    pub fn rename(&mut self, secret: Secret) {
        self.namer = self.namer.with_secret(secret);
    }

    /// Every entry of a root, or all of them, with its block.
    pub fn entries(&self, root: Option<Key>) -> Vec<(NodeId, BlockId)> {
        let of_root = |node: &Node| root.is_none_or(|root| node.root == root);
        let entries = self.nodes.iter().enumerate();
        entries
            .filter_map(|(i, node)| node.as_ref().map(|node| (NodeId(i as u32), node)))
            .filter(|(_, node)| of_root(node))
            .map(|(id, node)| (id, node.block))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::RowType;
    use crate::kv::Geometry;

    fn index() -> PrefixIndex {
        let geometry = Geometry::new(RowType::F16, Vec::new()).unwrap();
        let fingerprint = Fingerprint::new(&geometry, &[]);
        let namer = Namer::new(Secret::fixed([7; 32]), 0, fingerprint);
        PrefixIndex::new(namer, PolicyKind::Lru)
    }

    /// Indexes tokens in blocks numbered from `first`.
    fn store(index: &mut PrefixIndex, root: Key, tokens: &[u32], first: u32) {
        let mut parent = root;
        for (i, tokens) in tokens.chunks(BLOCK_TOKENS).enumerate() {
            match index.insert(root, parent, tokens, BlockId(first + i as u32)) {
                Insert::New(id, key) => {
                    index.unpin(id);
                    parent = key;
                }
                Insert::Known(_, _, key) => parent = key,
                Insert::Covered => return,
            }
        }
    }

    #[test]
    fn the_longest_prefix_is_found_to_the_token() {
        let mut index = index();
        let root = index.root(b"");
        let a: Vec<u32> = (0..100).collect();
        store(&mut index, root, &a, 0);
        assert_eq!(index.lookup(root, &a, 99).len(), 99);
        assert_eq!(index.lookup(root, &a, 64).len(), 64);
        let mut b = a.clone();
        b[70] = 1000;
        let found = index.lookup(root, &b, 99);
        assert_eq!((found.blocks.len(), found.len()), (2, 70));
        b[3] = 1000;
        assert_eq!(index.lookup(root, &b, 99).len(), 3);
        b[0] = 1000;
        assert!(index.lookup(root, &b, 99).is_empty());
        assert!(index.lookup(index.root(b"other"), &a, 99).is_empty());
    }

    #[test]
    fn of_many_continuations_the_closest_is_taken() {
        let mut index = index();
        let root = index.root(b"");
        for i in 0..50 {
            let tokens: Vec<u32> = (0..20).map(|j| if j < i % 20 { 5 } else { i + j }).collect();
            store(&mut index, root, &tokens, i);
        }
        for n in 1..19 {
            let mut tokens = vec![5; 20];
            tokens[n..].fill(999);
            let best = (0..50u32)
                .map(|i| {
                    let stored = (0..20).map(|j| if j < i % 20 { 5 } else { i + j });
                    stored.zip(&tokens).take_while(|(a, b)| a == *b).count()
                })
                .max();
            assert_eq!(Some(index.lookup(root, &tokens, 20).len()), best);
        }
    }

    #[test]
    fn a_longer_block_supersedes_its_beginning() {
        let mut index = index();
        let root = index.root(b"");
        let tokens: Vec<u32> = (0..32).collect();
        store(&mut index, root, &tokens[..10], 0);
        let old = index.superseded(root, &tokens[..20]).unwrap();
        assert_eq!(index.remove(old), Some(BlockId(0)));
        store(&mut index, root, &tokens[..20], 1);
        assert_eq!(
            index.insert(root, root, &tokens[..5], BlockId(2)),
            Insert::Covered
        );
        assert_eq!(index.superseded(root, &[0, 1, 7]), None);
        assert_eq!(index.len(), 1);
    }

    #[test]
    fn evicting_ends_with_an_empty_index_and_a_gap_closes_again() {
        let mut index = index();
        let root = index.root(b"");
        let tokens: Vec<u32> = (0..96).collect();
        store(&mut index, root, &tokens, 0);
        let middle = index.lookup(root, &tokens, 96).blocks[1];
        index.remove(middle.0);
        assert_eq!(index.lookup(root, &tokens, 96).len(), 32);
        store(&mut index, root, &tokens[..64], 7);
        assert_eq!(index.lookup(root, &tokens, 96).len(), 96);
        while index.evict().is_some() {}
        assert!(index.is_empty() && index.children.is_empty());
    }
}
