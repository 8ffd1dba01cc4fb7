//! Plays a load through the index of the library, with numbers for blocks, and with a second tier if there is one.

use std::collections::HashSet;

use infer::kernel::RowType;
use infer::kv::prefix::{Fingerprint, Insert, Key, Namer, NodeId, PolicyKind, PrefixIndex, Secret};
use infer::kv::{BLOCK_TOKENS, BlockId, Geometry};

use super::tier::Tier;
use super::traces::{Request, Trace};

/// What became of the blocks of a prompt.
#[derive(Debug, Clone, Copy, Default)]
pub struct Served {
    pub asked: usize,
    pub memory: usize,
    pub disk: usize,
}

/// The cache in memory.
struct Memory {
    index: PrefixIndex,
    root: Key,
    held: HashSet<u32>,
    capacity: usize,
}

impl Memory {
    fn new(capacity: usize, kind: PolicyKind) -> Option<Self> {
        let geometry = Geometry::new(RowType::F16, Vec::new()).ok()?;
        let namer = Namer::new(Secret::fixed([1; 32]), 0, Fingerprint::new(&geometry, &[]));
        let index = PrefixIndex::new(namer, kind);
        let root = index.root(b"");
        Some(Self {
            index,
            root,
            held: HashSet::new(),
            capacity,
        })
    }

    fn make_room(&mut self, tier: &mut Option<Tier>) {
        while self.index.len() >= self.capacity
            && let Some(gone) = self.index.evict()
        {
            let block = gone.0.number();
            self.held.remove(&block);
            if let Some(tier) = tier {
                tier.offer(block);
            }
        }
    }

    fn serve(&mut self, request: &Request, tier: &mut Option<Tier>) -> Served {
        let prompt = &request.blocks[..request.prompt];
        let on_disk = |b: &u32| tier.as_ref().is_some_and(|tier| tier.holds(*b));
        let known = |b: &&u32| self.held.contains(*b) || on_disk(b);
        let found: Vec<u32> = prompt.iter().take_while(known).copied().collect();
        let read: Vec<u32> = found
            .iter()
            .filter(|b| !self.held.contains(*b))
            .copied()
            .collect();
        if let Some(tier) = tier {
            tier.used(prompt);
        }
        let ids: Vec<u32> = request.blocks.iter().flat_map(|b| [*b; BLOCK_TOKENS]).collect();
        let prefix = self.index.lookup(self.root, &ids, request.prompt * BLOCK_TOKENS);
        self.index.touch(&prefix);
        let mut pinned: Vec<NodeId> = prefix.blocks.iter().map(|(id, _)| *id).collect();
        pinned.iter().for_each(|id| self.index.pin(*id));
        let mut parent = prefix.chain().unwrap_or(self.root);
        for &block in &request.blocks[pinned.len()..] {
            self.make_room(tier);
            let tokens = [block; BLOCK_TOKENS];
            parent = match self.index.insert(self.root, parent, &tokens, BlockId::new(block)) {
                Insert::New(id, key) => {
                    self.held.insert(block);
                    pinned.push(id);
                    key
                }
                // A block that outlived its parent.
                Insert::Known(id, _, key) => {
                    self.index.pin(id);
                    pinned.push(id);
                    key
                }
                Insert::Covered => break,
            };
        }
        for id in pinned.into_iter().rev() {
            self.index.unpin(id);
        }
        Served {
            asked: prompt.len(),
            memory: found.len() - read.len(),
            disk: read.len(),
        }
    }
}

/// Every request's fate.
pub fn play(trace: &Trace, kind: PolicyKind, tier: &mut Option<Tier>) -> Vec<Served> {
    let Some(mut memory) = Memory::new(trace.capacity, kind) else {
        return Vec::new();
    };
    let requests = trace.requests.iter();
    requests.map(|request| memory.serve(request, tier)).collect()
}
