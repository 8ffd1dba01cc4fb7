//! Which blocks are stored where, and which of them to give up first. All of it is in memory: for each block its key,
//! place and checksum, and what the policy keeps; not its tokens.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io::{Error, ErrorKind, Result};

use super::slab::RootTag;
use crate::kv::prefix::policy::Sketch;
use crate::kv::prefix::{Key, NodeId, Policy, PolicyKind};
use crate::memory;

/// A record: number of the slab and place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub slab: u64,
    pub slot: u32,
}

/// A map by eight bytes of keys, which need no hash: they are of one.
pub(super) type ShortMap<V> = HashMap<u64, V, BuildHasherDefault<Short>>;

/// See [`ShortMap`].
#[derive(Debug, Default)]
pub(super) struct Short(u64);

impl Hasher for Short {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, short: u64) {
        self.0 = short;
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
}

/// A stored block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    pub key: Key,
    pub root: RootTag,
    pub generation: u64,
    checksum: [u64; 2],
    pub place: Place,
}

impl Record {
    pub fn new(key: Key, root: RootTag, generation: u64, checksum: u128, place: Place) -> Self {
        let checksum = [checksum as u64, (checksum >> 64) as u64];
        Self {
            key,
            root,
            generation,
            checksum,
            place,
        }
    }

    pub fn checksum(&self) -> u128 {
        u128::from(self.checksum[0]) | u128::from(self.checksum[1]) << 64
    }
}

/// The stored blocks.
#[derive(Debug)]
pub(super) struct Index {
    kind: PolicyKind,
    records: Vec<Option<Record>>,
    unused: Vec<u32>,
    /// By eight bytes of the key, which is a keyed hash: that two blocks agree in them is left to chance, and then the
    /// later one stays.
    by_key: ShortMap<u32>,
    policy: Box<dyn Policy>,
    /// What the policy gave up already, and is still there: what candidates are compared with.
    victim: Option<NodeId>,
    sketch: Sketch,
}

impl Index {
    pub fn new(kind: PolicyKind) -> Self {
        Self {
            kind,
            records: Vec::new(),
            unused: Vec::new(),
            by_key: ShortMap::default(),
            policy: kind.create(),
            victim: None,
            sketch: Sketch::default(),
        }
    }

    /// Forgets all blocks, and not how often names were seen.
    pub fn clear(&mut self) {
        let sketch = std::mem::take(&mut self.sketch);
        *self = Self {
            sketch,
            ..Self::new(self.kind)
        };
    }

    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().flatten()
    }

    fn id(&self, key: &Key) -> Option<NodeId> {
        let &id = self.by_key.get(&key.short())?;
        let record = self.records.get(id as usize)?.as_ref()?;
        (record.key == *key).then_some(NodeId::new(id))
    }

    pub fn get(&self, key: &Key) -> Option<&Record> {
        self.records[self.id(key)?.index()].as_ref()
    }

    /// Adds blocks, the later ones more valuable than those before them, with the keys of their parents. Answers what
    /// they replace. Nothing is added on an error.
    pub fn insert(&mut self, blocks: &[(Record, Key)]) -> Result<Vec<Record>> {
        let full = |e: memory::MemoryError| Error::new(ErrorKind::OutOfMemory, e.to_string());
        memory::reserve(&mut self.records, blocks.len(), "records of stored blocks").map_err(full)?;
        memory::reserve(&mut self.unused, blocks.len(), "records of stored blocks").map_err(full)?;
        let mut ids = memory::with_capacity(blocks.len(), "records of stored blocks").map_err(full)?;
        self.by_key.try_reserve(blocks.len())?;
        let mut replaced = Vec::new();
        for (record, _) in blocks {
            if let Some(&old) = self.by_key.get(&record.key.short()) {
                replaced.extend(self.remove_id(NodeId::new(old)));
            }
            let id = self.unused.pop().unwrap_or_else(|| {
                self.records.push(None);
                (self.records.len() - 1) as u32
            });
            self.records[id as usize] = Some(*record);
            self.by_key.insert(record.key.short(), id);
            ids.push(NodeId::new(id));
        }
        // Of two with one key only the later is there.
        let is_there = |records: &[Option<Record>], id: NodeId, record: &Record| {
            let known = records[id.index()].as_ref();
            known.is_some_and(|known| known.place == record.place && known.generation == record.generation)
        };
        for (id, (record, parent)) in ids.iter().zip(blocks) {
            if is_there(&self.records, *id, record) {
                let parent = self.id(parent);
                self.policy
                    .insert(*id, &record.key, parent.filter(|&p| Some(p) != self.victim));
            }
        }
        for (id, (record, _)) in ids.iter().zip(blocks) {
            if is_there(&self.records, *id, record) {
                self.policy.unpin(*id);
            }
        }
        Ok(replaced)
    }

    pub fn remove(&mut self, key: &Key) -> Option<Record> {
        self.remove_id(self.id(key)?)
    }

    fn remove_id(&mut self, id: NodeId) -> Option<Record> {
        if self.victim == Some(id) {
            self.victim = None;
        } else {
            self.policy.forget(id);
        }
        self.drop_record(id)
    }

    fn drop_record(&mut self, id: NodeId) -> Option<Record> {
        let record = self.records.get_mut(id.index())?.take()?;
        self.by_key.remove(&record.key.short());
        self.unused.push(id.index() as u32);
        Some(record)
    }

    /// Removes all blocks that agree, and answers them.
    pub fn remove_where(&mut self, agrees: impl Fn(&Record) -> bool) -> Vec<Record> {
        let ids = self.records.iter().enumerate();
        let ids: Vec<_> = ids
            .filter(|(_, record)| record.as_ref().is_some_and(&agrees))
            .map(|(i, _)| NodeId::new(i as u32))
            .collect();
        ids.into_iter().filter_map(|id| self.remove_id(id)).collect()
    }

    /// Counts a name's being of use. `blocks` is what the store can hold.
    pub fn count_use(&mut self, key: &Key, blocks: usize) {
        self.sketch.add(key.short(), blocks);
    }

    /// Counts a lookup that found the block, if it is there.
    pub fn hit(&mut self, key: &Key) {
        if let Some(id) = self.id(key) {
            self.spare(id);
            self.policy.hit(id);
        }
    }

    /// Notes that a block was in use until now, if it is there.
    pub fn refresh(&mut self, key: &Key) {
        if let Some(id) = self.id(key) {
            self.spare(id);
            self.policy.pin(id);
            self.policy.unpin(id);
        }
    }

    /// Gives the block back to the policy if that gave it up.
    fn spare(&mut self, id: NodeId) {
        if self.victim == Some(id)
            && let Some(record) = &self.records[id.index()]
        {
            self.victim = None;
            self.policy.insert(id, &record.key, None);
            self.policy.unpin(id);
        }
    }

    /// Whether a name was seen more often lately than the block that would have to go for it.
    pub fn is_worth_more(&mut self, key: &Key) -> bool {
        if self.victim.is_none() {
            self.victim = self.policy.evict();
        }
        let victim = self.victim.and_then(|id| self.records[id.index()].as_ref());
        victim.is_some_and(|victim| self.sketch.count(key.short()) > self.sketch.count(victim.key.short()))
    }

    /// Gives up a block.
    pub fn evict(&mut self) -> Option<Record> {
        let id = self.victim.take().or_else(|| self.policy.evict())?;
        self.drop_record(id)
    }
}
