//! Reading the tables of slabs: which records there are. The records themselves are read when they are asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Error, ErrorKind, Result};
use std::sync::Arc;

use super::index::{Place, Record, ShortMap};
use super::media::{Access, Media, MediaFile};
use super::slab::{self, ENTRY, HEADER, Identity, Layout, Slot};
use crate::kv::prefix::Key;
use crate::memory;

/// Bytes of a table that are read at once.
const PIECE: usize = 1 << 20;

/// A slab in use. A place of it is published, or vacant in one of the three ways below.
#[derive(Debug)]
pub(super) struct Slab {
    pub file: Arc<dyn MediaFile>,
    pub layout: Layout,
    pub len: u64,
    /// The number of changes in the header.
    pub changes: u64,
    /// Whether entries were written since the last sync, by this process or another one.
    pub dirty: bool,
    /// Records published.
    pub used: u32,
    /// No place from here on was ever used.
    pub fresh: u32,
    /// Places with an entry of zeros.
    pub free: Vec<u32>,
    /// Places whose entry still says something.
    pub unclean: BTreeSet<u32>,
}

impl Slab {
    pub fn new(file: Arc<dyn MediaFile>, layout: Layout, len: u64, changes: u64) -> Self {
        Self {
            file,
            layout,
            len,
            changes,
            dirty: false,
            used: 0,
            fresh: 0,
            free: Vec::new(),
            unclean: BTreeSet::new(),
        }
    }

    /// Places for records.
    pub fn vacant(&self) -> usize {
        self.free.len() + self.unclean.len() + (self.layout.capacity - self.fresh) as usize
    }

    /// Takes a vacant place.
    pub fn take(&mut self) -> Option<u32> {
        if let Some(slot) = self.unclean.pop_first().or_else(|| self.free.pop()) {
            return Some(slot);
        }
        (self.fresh < self.layout.capacity).then(|| {
            self.fresh += 1;
            self.fresh - 1
        })
    }
}

/// A file that has a slab's name and is not used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Foreign {
    pub len: u64,
    /// It could not be removed.
    pub stuck: bool,
}

/// What a directory has.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub slabs: BTreeMap<u64, Slab>,
    pub foreign: BTreeMap<u64, Foreign>,
    /// Records with the keys of their parents, the most valuable last.
    pub blocks: Vec<(Record, Key)>,
    /// Entries that are damaged.
    pub damaged: u64,
    pub notices: Vec<String>,
}

/// Reads all tables.
///
/// # Errors
/// When the directory cannot be listed, or memory is short. What is wrong with a single file is no error.
pub(super) fn load(media: &dyn Media, identity: &Identity, access: Access) -> Result<Loaded> {
    let mut all = Loaded::default();
    let mut files: Vec<_> = media.list()?;
    files.sort();
    for (name, len) in files {
        let Some(number) = slab::file_number(&name) else {
            continue;
        };
        match load_slab(media, identity, number, access) {
            Ok((slab, mut blocks, damaged)) => {
                if damaged > 0 {
                    all.notices
                        .push(format!("{name}: {damaged} entries are damaged and not used"));
                }
                all.damaged += damaged;
                all.slabs.insert(number, slab);
                memory::reserve(&mut all.blocks, blocks.len(), "records of stored blocks")
                    .map_err(exhausted)?;
                all.blocks.append(&mut blocks);
            }
            Err(reason) => {
                all.notices.push(format!("{name} is not used: {reason}"));
                all.foreign.insert(number, Foreign { len, stuck: false });
            }
        }
    }
    let (blocks, replaced) = in_order(std::mem::take(&mut all.blocks))?;
    for run in blocks.chunk_by(|(a, _), (b, _)| a.place.slab == b.place.slab) {
        if let Some(slab) = run
            .first()
            .and_then(|(record, _)| all.slabs.get_mut(&record.place.slab))
        {
            slab.used += run.len() as u32;
        }
    }
    for (record, _) in replaced {
        if let Some(slab) = all.slabs.get_mut(&record.place.slab) {
            slab.unclean.insert(record.place.slot);
        }
    }
    all.blocks = blocks;
    Ok(all)
}

pub(super) fn exhausted(e: memory::MemoryError) -> Error {
    Error::new(ErrorKind::OutOfMemory, e.to_string())
}

type Blocks = Vec<(Record, Key)>;
type Table = (Slab, Blocks, u64);

/// Opens a slab and reads its table. The places of damaged entries are unclean, those of records are the caller's to
/// publish. The error is the reason not to use it, in words.
pub(super) fn load_slab(
    media: &dyn Media,
    identity: &Identity,
    number: u64,
    access: Access,
) -> std::result::Result<Table, String> {
    let words = |e: Error| e.to_string();
    let file = media.open(&slab::file_name(number), access).map_err(words)?;
    let len = file.len().map_err(words)?;
    if len < HEADER as u64 {
        return Err(format!("it is cut off: {len} bytes are less than a header"));
    }
    let mut header = [0; HEADER];
    file.read_all_at(&mut header, 0).map_err(words)?;
    let (layout, changes) = identity.check(&header, len)?;
    let mut slab = Slab::new(file, layout, len, changes);
    slab.dirty = access == Access::Write;
    let (blocks, damaged) = read_table(&mut slab, number).map_err(words)?;
    Ok((slab, blocks, damaged))
}

/// Reads the table of a slab: its records, and how many entries are damaged.
pub(super) fn read_table(slab: &mut Slab, number: u64) -> Result<(Blocks, u64)> {
    let Layout { capacity, .. } = slab.layout;
    let mut blocks = Vec::new();
    let mut damaged = 0;
    slab.free.clear();
    slab.unclean.clear();
    slab.fresh = 0;
    let bytes = (capacity as usize).saturating_mul(ENTRY).min(PIECE);
    let mut piece = memory::filled(0u8, bytes, "table of stored blocks").map_err(exhausted)?;
    let mut slot = 0;
    while slot < capacity {
        let n = ((capacity - slot) as usize).min(piece.len() / ENTRY);
        slab.file
            .read_all_at(&mut piece[..n * ENTRY], Layout::entry_at(slot))?;
        memory::reserve(&mut blocks, n, "records of stored blocks").map_err(exhausted)?;
        for entry in piece[..n * ENTRY].as_chunks::<ENTRY>().0 {
            let found = slab::decode(entry, slot);
            if found != Slot::Vacant {
                slab.free.extend(slab.fresh..slot);
                slab.fresh = slot + 1;
            }
            let end = slab.layout.record_at(slot) + slab.layout.record;
            match found {
                Slot::Full(e) if end <= slab.len => {
                    let place = Place { slab: number, slot };
                    let record = Record::new(e.key, e.root, e.generation, e.checksum, place);
                    blocks.push((record, e.parent));
                }
                Slot::Full(_) | Slot::Damaged => {
                    slab.unclean.insert(slot);
                    damaged += 1;
                }
                Slot::Vacant => {}
            }
            slot += 1;
        }
    }
    // The first ones are taken first.
    slab.free.reverse();
    Ok((blocks, damaged))
}

/// Puts records in the order in which they were written, each before its parent: a block is worth as much as what was
/// written after it. Of two with one key the later stays; the others are answered behind those.
fn in_order(mut blocks: Blocks) -> Result<(Blocks, Blocks)> {
    blocks.sort_unstable_by_key(|(record, _)| std::cmp::Reverse((record.generation, record.place)));
    let mut by_key = ShortMap::default();
    by_key.try_reserve(blocks.len())?;
    for (i, (record, _)) in blocks.iter().enumerate() {
        by_key.entry(record.key.short()).or_insert(i);
    }
    // The latest generation of each record's descendants, and how far above the youngest it is.
    let mut ranks: Vec<Option<(u64, u32)>> =
        memory::filled(None, blocks.len(), "order of stored blocks").map_err(exhausted)?;
    for i in 0..blocks.len() {
        if by_key.get(&blocks[i].0.key.short()) != Some(&i) {
            continue;
        }
        let latest = blocks[i].0.generation;
        let (mut at, mut above) = (i, 0);
        while ranks[at].is_none() {
            ranks[at] = Some((latest, above));
            above += 1;
            match by_key.get(&blocks[at].1.short()) {
                Some(&parent) => at = parent,
                None => break,
            }
        }
    }
    // Numbers are sorted, not records. Those without a rank come first.
    let mut order = memory::with_capacity(blocks.len(), "order of stored blocks").map_err(exhausted)?;
    order.extend(0..blocks.len() as u32);
    order.sort_by_key(|&i| ranks[i as usize]);
    let (replaced, kept) = order.split_at(order.partition_point(|&i| ranks[i as usize].is_none()));
    let in_this = |order: &[u32]| {
        let mut out = memory::with_capacity(order.len(), "order of stored blocks").map_err(exhausted)?;
        out.extend(order.iter().map(|&i| blocks[i as usize]));
        Ok::<_, Error>(out)
    };
    Ok((in_this(kept)?, in_this(replaced)?))
}
