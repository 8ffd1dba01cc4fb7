//! Blocks in the slabs of a directory.
//!
//! One process writes, whoever has the directory's lock; the others read what it wrote. No lock of memory is held while
//! the disk works, but for the one that keeps those who write apart.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::sync::{Arc, PoisonError};

use super::index::{Index, Record};
use super::load::{Foreign, Loaded, Slab, load};
use super::media::{Access, Media, MediaLock};
use super::notices::Notices;
use super::slab::{self, ENTRY, Identity, Layout, RootTag, Slot, root_tag};
use super::{Backend, BackendCounts, BlockName};
use crate::kv::prefix::{Fingerprint, Key, PolicyKind, Secret};
use crate::sync::{Mutex, MutexGuard};

/// What the files beside the slabs take.
const OTHER_FILES: u64 = 4096;
/// A slab is not larger, and not a larger part of the budget, unless it would hold fewer records than this.
const SLAB_BYTES: u64 = 1 << 30;
const SLAB_SHARE: u64 = 8;
const SLAB_RECORDS: u32 = 8;

/// What a [`SlabStore`] is to hold.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// What the content of blocks depends on.
    pub fingerprint: Fingerprint,
    /// Bytes of a block.
    pub block_bytes: usize,
    /// Bytes that all files together may have.
    pub budget: u64,
    /// Which blocks to give up first.
    pub policy: PolicyKind,
}

/// Blocks in the slabs of a directory: see `slab.rs` for the format.
///
/// A block that was published survives the end of the process at any moment, and a power cut once [`Backend::sync`],
/// [`Backend::maintain`] or the next [`Backend::put`] returned. What a crash leaves half written is a miss.
#[derive(Debug)]
pub struct SlabStore {
    pub(super) media: Box<dyn Media>,
    pub(super) identity: Identity,
    pub(super) secret: Secret,
    pub(super) budget: u64,
    slab_records: u32,
    /// Held by who writes to the directory, or reads its tables again.
    writing: Mutex<()>,
    state: Mutex<State>,
}

/// What is known of the directory. Nobody holds it while the disk works.
#[derive(Debug)]
pub(super) struct State {
    pub index: Index,
    pub slabs: BTreeMap<u64, Slab>,
    pub foreign: BTreeMap<u64, Foreign>,
    /// Of the process that writes.
    pub lock: Option<Arc<dyn MediaLock>>,
    pub next_generation: u64,
    pub next_number: u64,
    /// What was forgotten while another process wrote: below this root, up to this generation.
    pub forgotten: Vec<(Option<RootTag>, u64)>,
    /// Whether places are unclean that were to be cleared.
    pub uncleared: bool,
    /// The record that could not be read last.
    suspect: Option<Key>,
    pub counts: BackendCounts,
    pub notices: Notices,
}

impl State {
    /// Notes that a record is no longer in the index.
    pub fn vacate(&mut self, record: &Record) {
        if let Some(slab) = self.slabs.get_mut(&record.place.slab) {
            slab.used = slab.used.saturating_sub(1);
            slab.unclean.insert(record.place.slot);
        }
    }

    /// Notes that a record could not be read. The second time in a row that it is the same one, its place is bad, not the
    /// whole disk: it is given up.
    fn suspect(&mut self, record: &Record) {
        if self.suspect.replace(record.key) != Some(record.key) {
            return;
        }
        let same = |now: &Record| now.place == record.place && now.generation == record.generation;
        if self.index.get(&record.key).is_some_and(same)
            && let Some(record) = self.index.remove(&record.key)
        {
            self.vacate(&record);
            let file = slab::file_name(record.place.slab);
            let text = format!(
                "{file}: record {} cannot be read and is given up",
                record.place.slot
            );
            self.notices.add(text);
        }
    }

    pub fn is_forgotten(&self, record: &Record) -> bool {
        let mut forgotten = self.forgotten.iter();
        forgotten.any(|(root, until)| root.is_none_or(|r| r == record.root) && record.generation <= *until)
    }

    /// Notes that a generation is in use.
    pub fn see(&mut self, generation: u64) {
        self.next_generation = self.next_generation.max(generation.saturating_add(1));
    }
}

impl SlabStore {
    /// Opens the directory's slabs, and becomes the one that writes when no other process is. Reads headers and tables,
    /// no records. What cannot be used is counted and left alone until its room is needed.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when not even one block fits the budget; else of the storage.
    pub fn open(media: Box<dyn Media>, config: StoreConfig) -> Result<Self> {
        let record = config.block_bytes as u64;
        let room = config.budget.saturating_sub(OTHER_FILES);
        if record == 0 || Layout::within(record, room, 1).is_none() {
            let needed = record.saturating_add(3 * 4096 + OTHER_FILES);
            let text = format!(
                "cannot keep blocks in {}: a block of {record} bytes needs about {needed} bytes with its tables, and the \
                 budget is {} bytes",
                media.name(),
                config.budget
            );
            return Err(Error::new(ErrorKind::InvalidInput, text));
        }
        let mut notices = Notices::default();
        let (lock, secret) = super::processes::enter(&*media, &mut notices)?;
        let share = Layout::within(record, SLAB_BYTES.min(config.budget / SLAB_SHARE), u32::MAX);
        let store = Self {
            identity: Identity::new(config.fingerprint, &secret, record),
            media,
            secret,
            budget: room,
            slab_records: share.map_or(0, |layout| layout.capacity).max(SLAB_RECORDS),
            writing: Mutex::new(()),
            state: Mutex::new(State {
                index: Index::new(config.policy),
                slabs: BTreeMap::new(),
                foreign: BTreeMap::new(),
                lock: None,
                next_generation: 1,
                next_number: 0,
                forgotten: Vec::new(),
                uncleared: false,
                suspect: None,
                counts: BackendCounts::default(),
                notices,
            }),
        };
        let access = if lock.is_some() {
            Access::Write
        } else {
            Access::Read
        };
        let loaded = load(&*store.media, &store.identity, access)?;
        store.install(loaded, lock)?;
        if access == Access::Write {
            let _writing = store.writing();
            store.shrink();
        }
        Ok(store)
    }

    /// The secret that keys are to be made with. It is the same for all who use the directory.
    pub fn secret(&self) -> Secret {
        self.secret.clone()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces what is known by what was read.
    pub(super) fn install(&self, loaded: Loaded, lock: Option<Box<dyn MediaLock>>) -> Result<()> {
        let mut state = self.state();
        state.index.clear();
        let numbers = loaded.slabs.keys().chain(loaded.foreign.keys());
        state.next_number = state.next_number.max(numbers.max().map_or(0, |n| n + 1));
        state.slabs = loaded.slabs;
        state.foreign = loaded.foreign;
        if lock.is_some() {
            state.counts.corrupt += loaded.damaged;
        }
        for text in loaded.notices {
            state.notices.add(text);
        }
        let mut blocks = loaded.blocks;
        for (record, _) in &blocks {
            state.see(record.generation);
        }
        if !state.forgotten.is_empty() {
            let (forgotten, kept) = blocks.into_iter().partition(|(r, _)| state.is_forgotten(r));
            blocks = kept;
            for (record, _) in Vec::<(Record, Key)>::as_slice(&forgotten) {
                state.vacate(record);
                state.uncleared = true;
            }
        }
        for replaced in state.index.insert(&blocks)? {
            state.vacate(&replaced);
        }
        state.lock = lock.map(Arc::from);
        Ok(())
    }

    /// Blocks that the budget allows.
    fn capacity(&self) -> usize {
        let layout = Layout::within(self.identity.record(), self.budget, u32::MAX);
        layout.map_or(0, |layout| layout.capacity as usize)
    }

    /// The slab to create next: what the budget leaves beside those in use and what cannot be removed.
    pub(super) fn next_slab(&self, state: &State) -> Option<Layout> {
        let used: u64 = state.slabs.values().map(|slab| slab.layout.size()).sum();
        let stuck: u64 = state.foreign.values().filter(|f| f.stuck).map(|f| f.len).sum();
        let room = self.budget.saturating_sub(used).saturating_sub(stuck);
        Layout::within(self.identity.record(), room, self.slab_records)
    }

    /// Why a record did not agree with its name: `true` when it is of no use any more, and whether it is damaged.
    fn examine(&self, name: &BlockName, record: &Record, slab: &dyn super::MediaFile) -> (bool, bool) {
        let mut entry = [0; ENTRY];
        let read = slab.read_all_at(&mut entry, Layout::entry_at(record.place.slot));
        let writer = self.state().lock.is_some();
        match slab::decode(&entry, record.place.slot) {
            // The caller means another block.
            Slot::Full(e)
                if read.is_ok() && e.generation == record.generation && !slab::is_of(&entry, name) =>
            {
                (false, false)
            }
            // Of a process that only reads, this is what it sees when the other one uses the place again.
            _ => (true, writer),
        }
    }
}

impl Backend for SlabStore {
    fn contains(&self, key: &Key) -> bool {
        self.state().index.get(key).is_some()
    }

    fn admits(&self, name: &BlockName) -> bool {
        let capacity = self.capacity();
        let mut state = self.state();
        let state = &mut *state;
        state.index.count_use(&name.key, capacity);
        if state.index.get(&name.key).is_some() {
            state.index.refresh(&name.key);
            return false;
        }
        if state.lock.is_none() {
            return false;
        }
        let room = state.slabs.values().any(|slab| slab.vacant() > 0) || self.next_slab(state).is_some();
        let admitted = room || state.index.is_worth_more(&name.key);
        state.counts.refusals += u64::from(!admitted);
        admitted
    }

    fn put(&self, batch: &[(BlockName, &[u8])]) -> Result<usize> {
        self.write_batch(batch)
    }

    fn get(&self, name: &BlockName, out: &mut [u8]) -> Result<bool> {
        let expected = self.identity.record();
        if out.len() as u64 != expected {
            let text = format!("cannot read a block of {expected} bytes into {}", out.len());
            return Err(Error::new(ErrorKind::InvalidInput, text));
        }
        let (record, file, layout) = {
            let state = self.state();
            let Some(record) = state.index.get(&name.key).copied() else {
                return Ok(false);
            };
            let Some(slab) = state.slabs.get(&record.place.slab) else {
                return Ok(false);
            };
            (record, slab.file.clone(), slab.layout)
        };
        if record.root != root_tag(&name.root) {
            return Ok(false);
        }
        let read = file.read_all_at(out, layout.record_at(record.place.slot));
        match read {
            Err(e) if e.kind() != ErrorKind::UnexpectedEof => {
                self.state().suspect(&record);
                return Err(e);
            }
            _ => {}
        }
        let agrees = read.is_ok() && slab::checksum(name, record.generation, out) == record.checksum();
        let (useless, damaged) = if agrees {
            (false, false)
        } else {
            self.examine(name, &record, &*file)
        };
        let mut state = self.state();
        state.counts.read += out.len() as u64;
        if agrees {
            return Ok(true);
        }
        // Another block may have its place by now.
        let same = |now: &Record| now.place == record.place && now.generation == record.generation;
        if useless && state.index.get(&name.key).is_some_and(same) {
            if let Some(record) = state.index.remove(&name.key) {
                state.vacate(&record);
            }
            if damaged {
                state.counts.corrupt += 1;
                let file = slab::file_name(record.place.slab);
                let text = format!("{file}: record {} is damaged and not used", record.place.slot);
                state.notices.add(text);
            }
        }
        Ok(false)
    }

    fn touch(&self, keys: &[Key]) {
        let capacity = self.capacity();
        let mut state = self.state();
        for key in keys {
            state.index.count_use(key, capacity);
            state.index.hit(key);
        }
    }

    fn remove(&self, root: Option<Key>) -> Result<()> {
        self.forget(root)
    }

    fn list(&self) -> Vec<Key> {
        self.state().index.iter().map(|record| record.key).collect()
    }

    fn maintain(&self) -> Result<()> {
        self.look_around()
    }

    fn sync(&self) -> Result<()> {
        let _writing = self.writing();
        self.sync_slabs(Vec::new())
    }

    fn counts(&self) -> BackendCounts {
        let state = self.state();
        BackendCounts {
            blocks: state.index.len() as u64,
            bytes: state.slabs.values().map(|slab| slab.len).sum(),
            budget: self.budget + OTHER_FILES,
            foreign_files: state.foreign.len() as u64,
            writer: state.lock.is_some(),
            ..state.counts
        }
    }

    fn take_notices(&self) -> Vec<String> {
        self.state().notices.take()
    }
}
