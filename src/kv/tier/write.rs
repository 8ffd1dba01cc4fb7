//! What the one that writes does: publishing blocks, clearing them away, making and removing slabs.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::{Error, ErrorKind, Result};
use std::sync::Arc;

use super::BlockName;
use super::index::{Place, Record};
use super::load::{Foreign, Slab};
use super::media::MediaFile;
use super::slab::{self, CHANGES_AT, ENTRY, Layout, RootTag, root_tag};
use super::store::SlabStore;
use crate::kv::prefix::Key;

/// Bytes that are written before the disk is told of them.
const PIECE: u64 = 1 << 20;

/// A block with a place that nobody else uses.
struct Placed<'a> {
    name: &'a BlockName,
    data: &'a [u8],
    place: Place,
    generation: u64,
    file: Arc<dyn MediaFile>,
    layout: Layout,
    entry: [u8; ENTRY],
    checksum: u128,
}

impl Placed<'_> {
    fn is_before(&self, other: &Self) -> bool {
        self.place.slab == other.place.slab && self.place.slot + 1 == other.place.slot
    }
}

impl SlabStore {
    /// See [`super::Backend::put`].
    pub(super) fn write_batch(&self, batch: &[(BlockName, &[u8])]) -> Result<usize> {
        let expected = self.identity.record();
        if let Some((_, data)) = batch.iter().find(|(_, data)| data.len() as u64 != expected) {
            let text = format!(
                "cannot store a block of {} bytes among those of {expected}",
                data.len()
            );
            return Err(Error::new(ErrorKind::InvalidInput, text));
        }
        let _writing = self.writing();
        let (mut new, mut present, mut seen) = (Vec::new(), 0, HashSet::new());
        {
            let mut state = self.state();
            for (name, data) in batch {
                if state.index.get(&name.key).is_some() {
                    state.index.refresh(&name.key);
                    present += 1;
                } else if state.lock.is_some() && seen.insert(name.key) {
                    new.push((name, *data));
                }
            }
        }
        if new.is_empty() {
            return Ok(present);
        }
        self.make_room(new.len())?;
        let mut placed = self.place(&new);
        let mut published = 0;
        let written = self
            .write_records(&mut placed)
            .and_then(|()| self.write_entries(&placed, &mut published));
        let known = self.publish(&placed, published);
        written?;
        known?;
        Ok(present + published)
    }

    /// Creates slabs for `blocks` more, as far as the budget goes.
    fn make_room(&self, blocks: usize) -> Result<()> {
        loop {
            let (number, layout, foreign) = {
                let mut state = self.state();
                let vacant: usize = state.slabs.values().map(Slab::vacant).sum();
                let Some(layout) = self.next_slab(&state).filter(|_| vacant < blocks) else {
                    return Ok(());
                };
                let used: u64 = state.slabs.values().map(|slab| slab.layout.size()).sum();
                let foreign: u64 = state.foreign.values().map(|f| f.len).sum();
                let mut removable = state.foreign.iter().filter(|(_, f)| !f.stuck);
                let oldest = removable.next().map(|(&number, _)| number);
                let over = used.saturating_add(foreign).saturating_add(layout.size()) > self.budget;
                let number = state.next_number;
                if !over {
                    state.next_number += 1;
                }
                (number, layout, oldest.filter(|_| over))
            };
            match foreign {
                Some(number) => self.remove_foreign(number),
                None => self.create_slab(number, layout)?,
            }
        }
    }

    fn create_slab(&self, number: u64, layout: Layout) -> Result<()> {
        let name = slab::file_name(number);
        let file = self.media.create(&name)?;
        let header = self.identity.header(&layout, 0);
        let len = layout.records_at();
        let made = file
            .write_all_at(&header, 0)
            .and_then(|()| file.set_len(len))
            .and_then(|()| file.sync_data());
        let mut state = self.state();
        if made.is_ok() {
            state.slabs.insert(number, Slab::new(file, layout, len, 0));
        } else {
            drop(state);
            if self.media.remove(&name).is_err() {
                state = self.state();
                state.foreign.insert(number, Foreign { len, stuck: false });
            }
        }
        made
    }

    fn remove_foreign(&self, number: u64) {
        let name = slab::file_name(number);
        let removed = self.media.remove(&name);
        let mut state = self.state();
        match removed {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                if let Some(foreign) = state.foreign.get_mut(&number) {
                    foreign.stuck = true;
                }
                state.notices.add(format!("{name} keeps its room: {e}"));
            }
            _ => {
                state.foreign.remove(&number);
                state
                    .notices
                    .add(format!("{name}, which was not used, was removed to make room"));
            }
        }
    }

    /// Removes a slab. Processes that read it find it empty.
    fn remove_slab(&self, number: u64) -> Result<()> {
        let Some(file) = self.state().slabs.get(&number).map(|slab| slab.file.clone()) else {
            return Ok(());
        };
        file.set_len(0)?;
        let removed = self.media.remove(&slab::file_name(number));
        let mut state = self.state();
        state.slabs.remove(&number);
        if removed.is_err() {
            state.foreign.insert(number, Foreign { len: 0, stuck: false });
        }
        Ok(())
    }

    /// Finds places for as many blocks as there can be, giving up others.
    fn place<'a>(&self, new: &[(&'a BlockName, &'a [u8])]) -> Vec<Placed<'a>> {
        let mut state = self.state();
        let state = &mut *state;
        let mut placed = Vec::new();
        for &(name, data) in new {
            let find = |slabs: &mut std::collections::BTreeMap<u64, Slab>| {
                let mut slabs = slabs.iter_mut().filter(|(_, slab)| slab.vacant() > 0);
                let (&number, slab) = slabs.next()?;
                let place = Place {
                    slab: number,
                    slot: slab.take()?,
                };
                Some((place, slab.file.clone(), slab.layout))
            };
            let found = find(&mut state.slabs).or_else(|| {
                let record = state.index.evict()?;
                state.counts.evictions += 1;
                state.vacate(&record);
                find(&mut state.slabs)
            });
            let Some((place, file, layout)) = found else {
                break;
            };
            let generation = state.next_generation;
            state.see(generation);
            placed.push(Placed {
                name,
                data,
                place,
                generation,
                file,
                layout,
                entry: [0; ENTRY],
                checksum: 0,
            });
        }
        placed.sort_by_key(|p| p.place);
        placed
    }

    /// Writes and syncs records, and makes their entries. The disk works on one piece while the next is copied and checksums
    /// are taken.
    fn write_records(&self, placed: &mut [Placed<'_>]) -> Result<()> {
        for run in placed.chunk_by_mut(|a, b| a.is_before(b)) {
            let each = run.first().map_or(1, |p| p.layout.stride().max(1));
            for piece in run.chunks_mut((PIECE / each).max(1) as usize) {
                for p in piece.iter() {
                    p.file.write_all_at(p.data, p.layout.record_at(p.place.slot))?;
                    let mut state = self.state();
                    state.counts.written += p.data.len() as u64;
                    if let Some(slab) = state.slabs.get_mut(&p.place.slab) {
                        slab.len = slab.len.max(p.layout.record_at(p.place.slot) + p.layout.record);
                    }
                }
                if let Some(first) = piece.first() {
                    let begin = first.layout.record_at(first.place.slot);
                    first.file.begin_sync(begin, each * piece.len() as u64);
                }
                for p in piece {
                    (p.entry, p.checksum) = slab::encode(p.name, p.generation, p.data, p.place.slot);
                }
            }
        }
        self.sync_slabs(placed.iter().map(|p| p.place.slab).collect())
    }

    /// Syncs these slabs and those that have new entries.
    pub(super) fn sync_slabs(&self, also: Vec<u64>) -> Result<()> {
        let files: Vec<_> = {
            let state = self.state();
            let slabs = state.slabs.iter();
            slabs
                .filter(|(number, slab)| slab.dirty || also.contains(number))
                .map(|(&number, slab)| (number, slab.file.clone()))
                .collect()
        };
        for (number, file) in files {
            file.sync_data()?;
            if let Some(slab) = self.state().slabs.get_mut(&number) {
                slab.dirty = false;
            }
        }
        Ok(())
    }

    /// Writes the entries of records that are synced, and counts those that are there.
    fn write_entries(&self, placed: &[Placed<'_>], published: &mut usize) -> Result<()> {
        for run in placed.chunk_by(|a, b| a.is_before(b)) {
            let mut entries = Vec::with_capacity(run.len() * ENTRY);
            for p in run {
                entries.extend(p.entry);
            }
            let Some(first) = run.first() else {
                continue;
            };
            self.write_table(first.place.slab, &first.file, first.place.slot, &entries)?;
            *published += run.len();
            self.state().counts.written += entries.len() as u64;
        }
        for run in placed.chunk_by(|a, b| a.place.slab == b.place.slab) {
            if let Some(p) = run.first() {
                self.note_change(p.place.slab, &p.file)?;
            }
        }
        Ok(())
    }

    fn write_table(&self, number: u64, file: &Arc<dyn MediaFile>, slot: u32, entries: &[u8]) -> Result<()> {
        if let Some(slab) = self.state().slabs.get_mut(&number) {
            slab.dirty = true;
        }
        file.write_all_at(entries, Layout::entry_at(slot))
    }

    /// Tells processes that read that a table has changed.
    fn note_change(&self, number: u64, file: &Arc<dyn MediaFile>) -> Result<()> {
        let changes = {
            let mut state = self.state();
            let Some(slab) = state.slabs.get_mut(&number) else {
                return Ok(());
            };
            slab.dirty = true;
            slab.changes = slab.changes.wrapping_add(1);
            slab.changes
        };
        file.write_all_at(&changes.to_le_bytes(), CHANGES_AT)
    }

    /// Makes the first ones known, and gives back the places of the others.
    fn publish(&self, placed: &[Placed<'_>], published: usize) -> Result<()> {
        let (done, failed) = placed.split_at(published);
        let mut blocks: Vec<_> = done
            .iter()
            .map(|p| {
                let record = Record::new(
                    p.name.key,
                    root_tag(&p.name.root),
                    p.generation,
                    p.checksum,
                    p.place,
                );
                (record, p.name.parent)
            })
            .collect();
        // The deepest of a chain first, so that none is worth more than its parent.
        let parents: HashMap<Key, Key> = blocks
            .iter()
            .map(|(record, parent)| (record.key, *parent))
            .collect();
        let depth = |record: &Record| {
            let mut key = record.key;
            let above = std::iter::from_fn(|| {
                key = *parents.get(&key)?;
                Some(())
            });
            above.take(blocks.len()).count()
        };
        let mut order: Vec<_> = blocks
            .iter()
            .map(|block| (std::cmp::Reverse(depth(&block.0)), *block))
            .collect();
        order.sort_by_key(|(depth, _)| *depth);
        blocks = order.into_iter().map(|(_, block)| block).collect();

        let mut state = self.state();
        for p in failed {
            if let Some(slab) = state.slabs.get_mut(&p.place.slab) {
                slab.unclean.insert(p.place.slot);
            }
        }
        let inserted = state.index.insert(&blocks);
        for p in done {
            if let Some(slab) = state.slabs.get_mut(&p.place.slab) {
                match inserted {
                    Ok(_) => slab.used += 1,
                    Err(_) => _ = slab.unclean.insert(p.place.slot),
                }
            }
        }
        for replaced in inserted? {
            state.vacate(&replaced);
        }
        for (_, parent) in &blocks {
            if !parents.contains_key(parent) {
                state.index.refresh(parent);
            }
        }
        Ok(())
    }

    /// See [`super::Backend::remove`]. In a process that only reads, blocks are forgotten for itself, and cleared away
    /// when it becomes the one that writes.
    pub(super) fn forget(&self, root: Option<Key>) -> Result<()> {
        let _writing = self.writing();
        if self.state().lock.is_none() {
            // What it has not seen yet is to be forgotten too, as far as it can be seen.
            let _ = self.refresh();
        }
        {
            let mut state = self.state();
            let root: Option<RootTag> = root.map(|root| root_tag(&root));
            let removed = state
                .index
                .remove_where(|record| root.is_none_or(|root| record.root == root));
            for record in &removed {
                state.vacate(record);
            }
            if state.lock.is_none() {
                let until = state.next_generation - 1;
                state.forgotten.retain(|(old, _)| *old != root);
                state.forgotten.push((root, until));
                return Ok(());
            }
            state.uncleared = true;
        }
        self.clear()
    }

    /// Clears what entries of vacant places say, and their records.
    pub(super) fn clear(&self) -> Result<()> {
        let unclean: Vec<_> = {
            let state = self.state();
            let slabs = state.slabs.iter().filter(|(_, slab)| !slab.unclean.is_empty());
            slabs.map(|(&number, slab)| (number, slab.used == 0)).collect()
        };
        let mut failed = None;
        for (number, empty) in unclean {
            if empty && self.remove_slab(number).is_ok() {
                continue;
            }
            if let Err(e) = self.clear_slab(number) {
                failed = Some(e);
            }
        }
        match failed {
            None => {
                self.state().uncleared = false;
                Ok(())
            }
            Some(e) => Err(e),
        }
    }

    fn clear_slab(&self, number: u64) -> Result<()> {
        let (file, layout, len, slots) = {
            let state = self.state();
            let Some(slab) = state.slabs.get(&number) else {
                return Ok(());
            };
            (slab.file.clone(), slab.layout, slab.len, slab.unclean.clone())
        };
        for &slot in &slots {
            self.write_table(number, &file, slot, &[0; ENTRY])?;
        }
        self.note_change(number, &file)?;
        file.sync_data()?;
        let zeros = vec![0; layout.stride().min(1 << 16) as usize];
        for &slot in &slots {
            let (mut at, end) = (
                layout.record_at(slot),
                len.min(layout.record_at(slot) + layout.stride()),
            );
            while at < end {
                let n = (end - at).min(zeros.len() as u64);
                file.write_all_at(&zeros[..n as usize], at)?;
                at += n;
            }
        }
        file.sync_data()?;
        let mut state = self.state();
        if let Some(slab) = state.slabs.get_mut(&number) {
            let cleared: BTreeSet<_> = slots;
            slab.unclean.retain(|slot| !cleared.contains(slot));
            slab.free.extend(cleared);
        }
        Ok(())
    }

    /// Removes slabs until the others fit the budget, those with the oldest records first.
    pub(super) fn shrink(&self) {
        loop {
            let number = {
                let mut state = self.state();
                let used: u64 = state.slabs.values().map(|slab| slab.layout.size()).sum();
                if used <= self.budget {
                    return;
                }
                let mut latest: HashMap<u64, u64> = state.slabs.keys().map(|&n| (n, 0)).collect();
                for record in state.index.iter() {
                    let generation = latest.entry(record.place.slab).or_default();
                    *generation = record.generation.max(*generation);
                }
                let Some(number) = latest
                    .into_iter()
                    .min_by_key(|&(n, latest)| (latest, n))
                    .map(|(n, _)| n)
                else {
                    return;
                };
                let removed = state.index.remove_where(|record| record.place.slab == number);
                state.counts.evictions += removed.len() as u64;
                number
            };
            if let Err(e) = self.remove_slab(number) {
                let mut state = self.state();
                let name = slab::file_name(number);
                if let Some(slab) = state.slabs.remove(&number) {
                    state.foreign.insert(
                        number,
                        Foreign {
                            len: slab.len,
                            stuck: true,
                        },
                    );
                }
                state.notices.add(format!("{name} keeps its room: {e}"));
            }
        }
    }
}
