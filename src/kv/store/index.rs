//! Which sealed blocks there are, and who uses them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::BLOCK_TOKENS;
use super::block::Block;
use crate::kv::BlockId;
use crate::kv::prefix::{BlockName, Insert, Key, NodeId, Prefix, PrefixIndex, Secret};

/// The sealed blocks in memory by the tokens they hold.
#[derive(Debug)]
pub(super) struct Index {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    prefixes: PrefixIndex,
    /// By the number that the prefix index knows a block under.
    entries: Vec<Option<Entry>>,
    unused: Vec<u32>,
    /// Entries without users.
    cached: usize,
}

#[derive(Debug)]
struct Entry {
    block: Arc<Block>,
    /// `None` when it is forgotten and goes with its last user.
    node: Option<NodeId>,
    name: BlockName,
    users: u32,
}

/// A use of a sealed block: it is not evicted while there is one.
#[derive(Debug)]
pub(super) struct Hold {
    index: Arc<Index>,
    number: u32,
    pub(super) block: Arc<Block>,
    pub(super) key: Key,
}

/// What became of a block offered to the index.
pub(super) enum Sealed {
    /// It is known now.
    New(Hold),
    /// Another block of the same name is.
    Known(Hold),
    /// There was no memory for an entry.
    Refused,
}

/// What a lookup found: full blocks from the beginning, and one of which so many tokens agree.
#[derive(Default)]
pub(super) struct Found {
    pub(super) blocks: Vec<Hold>,
    pub(super) partial: Option<(Hold, usize)>,
}

impl Found {
    pub(super) fn len(&self) -> usize {
        self.blocks.len() * BLOCK_TOKENS + self.partial.as_ref().map_or(0, |(_, n)| *n)
    }
}

impl State {
    fn entry(&mut self, number: u32) -> Option<&mut Entry> {
        self.entries.get_mut(number as usize)?.as_mut()
    }

    fn retain(&mut self, number: u32) {
        if let Some(entry) = self.entry(number) {
            entry.users += 1;
            if let Some(node) = entry.node.filter(|_| entry.users == 1) {
                self.cached -= 1;
                self.prefixes.pin(node);
            }
        }
    }

    fn release(&mut self, number: u32) {
        if let Some(entry) = self.entry(number) {
            entry.users -= 1;
            match entry.node {
                _ if entry.users > 0 => {}
                Some(node) => {
                    self.cached += 1;
                    self.prefixes.unpin(node);
                }
                None => self.drop_entry(number),
            }
        }
    }

    fn drop_entry(&mut self, number: u32) {
        self.entries[number as usize] = None;
        self.unused.push(number);
    }

    /// Forgets everything and names what comes with another secret. What is in use goes with its last user.
    fn rename(&mut self, secret: Secret) {
        for number in 0..self.entries.len() as u32 {
            let Some(entry) = self.entry(number) else { continue };
            let (node, unused) = (entry.node.take(), entry.users == 0);
            if let Some(node) = node {
                self.prefixes.remove(node);
            }
            if unused {
                self.cached -= 1;
                self.drop_entry(number);
            }
        }
        self.prefixes.rename(secret);
    }
}

impl Index {
    pub(super) fn new(prefixes: PrefixIndex) -> Self {
        Self {
            state: Mutex::new(State {
                prefixes,
                entries: Vec::new(),
                unused: Vec::new(),
                cached: 0,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the prefixes of a salt begin.
    pub(super) fn root(&self, salt: &[u8]) -> Key {
        self.lock().prefixes.root(salt)
    }

    /// Forgets everything, and makes keys with another secret from now on.
    pub(super) fn rename(&self, secret: Secret) {
        self.lock().rename(secret);
    }

    /// Blocks that nobody uses.
    pub(super) fn cached(&self) -> usize {
        self.lock().cached
    }

    fn hold(self: &Arc<Self>, state: &mut State, number: u32) -> Option<Hold> {
        state.retain(number);
        let entry = state.entry(number)?;
        Some(Hold {
            index: Arc::clone(self),
            number,
            block: Arc::clone(&entry.block),
            key: entry.name.key,
        })
    }

    /// The longest known prefix of `tokens` after `parent`, from now on in use; it counts as a hit of the policy.
    pub(super) fn lookup(self: &Arc<Self>, parent: Key, tokens: &[u32]) -> Found {
        let mut state = self.lock();
        let prefix: Prefix = state.prefixes.lookup(parent, tokens, tokens.len());
        state.prefixes.touch(&prefix);
        let mut found = Found::default();
        for (_, block) in &prefix.blocks {
            let Some(hold) = self.hold(&mut state, block.number()) else {
                return found;
            };
            found.blocks.push(hold);
        }
        found.partial = prefix
            .partial
            .and_then(|(_, block, n)| Some((self.hold(&mut state, block.number())?, n)));
        found
    }

    /// The name of the block with these tokens after `parent`.
    pub(super) fn name(&self, root: Key, parent: Key, tokens: &[u32; BLOCK_TOKENS]) -> Option<BlockName> {
        self.lock().prefixes.name(root, parent, tokens)
    }

    /// Every block it knows.
    pub(super) fn all(&self) -> Vec<(BlockName, Arc<Block>)> {
        let state = self.lock();
        let entries = state.entries.iter().flatten();
        entries
            .filter(|entry| entry.node.is_some())
            .map(|entry| (entry.name, Arc::clone(&entry.block)))
            .collect()
    }

    /// Offers a frozen block with these tokens after `parent`.
    pub(super) fn insert(
        self: &Arc<Self>,
        root: Key,
        parent: Key,
        tokens: &[u32; BLOCK_TOKENS],
        block: &Arc<Block>,
    ) -> Sealed {
        let mut state = self.lock();
        let number = match state.unused.pop() {
            Some(number) => number,
            None => {
                if state.entries.try_reserve(1).is_err() || state.unused.try_reserve(1).is_err() {
                    return Sealed::Refused;
                }
                state.entries.push(None);
                (state.entries.len() - 1) as u32
            }
        };
        let outcome = state.prefixes.insert(root, parent, tokens, BlockId::new(number));
        if !matches!(outcome, Insert::New(..)) {
            state.unused.push(number);
        }
        match outcome {
            Insert::New(node, key) => {
                let name = BlockName {
                    key,
                    parent,
                    root,
                    tokens: *tokens,
                };
                state.entries[number as usize] = Some(Entry {
                    block: Arc::clone(block),
                    node: Some(node),
                    name,
                    users: 1,
                });
                Sealed::New(Hold {
                    index: Arc::clone(self),
                    number,
                    block: Arc::clone(block),
                    key,
                })
            }
            Insert::Known(_, known, _) => match self.hold(&mut state, known.number()) {
                Some(hold) => Sealed::Known(hold),
                None => Sealed::Refused,
            },
            Insert::Covered => Sealed::Refused,
        }
    }

    /// Forgets the block that the policy chooses among those that nobody uses.
    pub(super) fn evict(&self) -> Option<(BlockName, Arc<Block>)> {
        let mut state = self.lock();
        let number = state.prefixes.evict()?.0.number();
        let entry = state.entries.get_mut(number as usize)?.take()?;
        state.unused.push(number);
        state.cached -= 1;
        Some((entry.name, entry.block))
    }
}

impl Clone for Hold {
    fn clone(&self) -> Self {
        self.index.lock().retain(self.number);
        Self {
            index: Arc::clone(&self.index),
            number: self.number,
            block: Arc::clone(&self.block),
            key: self.key,
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.index.lock().release(self.number);
    }
}
