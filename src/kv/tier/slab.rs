//! The format of a slab: a file of records of one size.
//!
//! ```text
//! offset  bytes
//!      0  4096         header
//!   4096  256 c        table: an entry for each of the c records, padded to a multiple of 4096
//!      …  s c          records, s = bytes of a record, r, rounded up to a multiple of 4096
//! ```
//!
//! The file may be shorter: records after its end were never written. The header:
//!
//! ```text
//! offset  bytes
//!      0  8            "infslab\0"
//!      8  4            version of this format, 1
//!     12  4            bytes of an entry, 256
//!     16  8            r, bytes of a record
//!     24  8            s, from one record to the next
//!     32  8            c, number of records
//!     40  32           BLAKE3 of the fingerprint
//!     72  16           mark of the directory's secret: keys of another one name nothing here
//!     88  4            f, bytes of the fingerprint that follow
//!     92  4            zero
//!     96  f            fingerprint, cut off where it does not fit; then zeros
//!   4080  8            XXH3-64 of everything before
//!   4088  8            a number that grows with every change of the table, for other processes
//! ```
//!
//! An entry of the table; one of zeros is vacant:
//!
//! ```text
//! offset  bytes
//!      0  32           key of the block
//!     32  32           key of the block before it
//!     64  128          its tokens
//!    192  16           the root of its chain: the first bytes of its key
//!    208  8            generation: grows with every record written
//!    216  16           XXH3-128 of the record; the seed is XXH3-64 of the 216 bytes before
//!    232  4            state, 1
//!    236  12           zero
//!    248  8            XXH3-64 of the 248 bytes before; the seed is the entry's number
//! ```
//!
//! Numbers are little-endian. An entry never straddles a sector of 512 bytes. A record is written and synced before its entry
//! is, and because the record's checksum covers name and generation, a record and an entry that do not belong
//! together, whatever a crash or another process left, do not agree. Checksums find damage; they do not find forgery.

use crate::kv::BLOCK_TOKENS;
use crate::kv::prefix::{Fingerprint, Key, Secret};

use super::BlockName;

const MAGIC: &[u8; 8] = b"infslab\0";
const VERSION: u32 = 1;
pub(super) const HEADER: usize = 4096;
pub(super) const ENTRY: usize = 256;
/// Where the header's number of changes is.
pub(super) const CHANGES_AT: u64 = 4088;
const CHECKSUM_AT: usize = 4080;
const TEXT_AT: usize = 96;
const PAGE: u64 = 4096;
const FULL: u32 = 1;
/// A file with a higher number is not ours.
const MOST_NUMBERS: u64 = 1_000_000_000_000;

const _: () = assert!(
    BLOCK_TOKENS * 4 <= 128,
    "the tokens of a block have 128 bytes in an entry"
);

/// Where the parts of a slab lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// Bytes of a record.
    pub record: u64,
    /// Number of records.
    pub capacity: u32,
}

impl Layout {
    pub fn stride(&self) -> u64 {
        self.record.next_multiple_of(PAGE)
    }

    pub fn entry_at(slot: u32) -> u64 {
        HEADER as u64 + u64::from(slot) * ENTRY as u64
    }

    /// Where the records begin.
    pub fn records_at(&self) -> u64 {
        HEADER as u64 + (u64::from(self.capacity) * ENTRY as u64).next_multiple_of(PAGE)
    }

    pub fn record_at(&self, slot: u32) -> u64 {
        self.records_at() + u64::from(slot) * self.stride()
    }

    /// Bytes of the whole file.
    pub fn size(&self) -> u64 {
        self.record_at(self.capacity)
    }

    /// The largest slab that fits; `None` when not even one record does. Never more than `at_most` records.
    pub fn within(record: u64, room: u64, at_most: u32) -> Option<Self> {
        let each = record.checked_next_multiple_of(PAGE)?.checked_add(ENTRY as u64)?;
        let most = room.saturating_sub(HEADER as u64) / each;
        let mut layout = Self {
            record,
            capacity: most.min(u64::from(at_most)) as u32,
        };
        while layout.capacity > 0 && layout.size() > room {
            layout.capacity -= 1;
        }
        (layout.capacity > 0).then_some(layout)
    }
}

/// What slabs must have in common to be used together.
#[derive(Debug)]
pub(super) struct Identity {
    fingerprint: Fingerprint,
    mark: [u8; 16],
    record: u64,
}

impl Identity {
    pub fn new(fingerprint: Fingerprint, secret: &Secret, record: u64) -> Self {
        let hash = blake3::keyed_hash(secret.as_bytes(), b"infslab");
        Self {
            fingerprint,
            mark: *hash.as_bytes().first_chunk().unwrap_or(&[0; 16]),
            record,
        }
    }

    pub fn record(&self) -> u64 {
        self.record
    }

    fn hash(&self) -> [u8; 32] {
        *blake3::hash(self.fingerprint.as_str().as_bytes()).as_bytes()
    }

    /// The header of a slab.
    pub fn header(&self, layout: &Layout, changes: u64) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        let text = self.fingerprint.as_str().as_bytes();
        let text = &text[..text.len().min(CHECKSUM_AT - TEXT_AT)];
        put(&mut out, 0, MAGIC);
        put(&mut out, 8, &VERSION.to_le_bytes());
        put(&mut out, 12, &(ENTRY as u32).to_le_bytes());
        put(&mut out, 16, &layout.record.to_le_bytes());
        put(&mut out, 24, &layout.stride().to_le_bytes());
        put(&mut out, 32, &u64::from(layout.capacity).to_le_bytes());
        put(&mut out, 40, &self.hash());
        put(&mut out, 72, &self.mark);
        put(&mut out, 88, &(text.len() as u32).to_le_bytes());
        put(&mut out, TEXT_AT, text);
        let checksum = twox_hash::XxHash3_64::oneshot(&out[..CHECKSUM_AT]);
        put(&mut out, CHECKSUM_AT, &checksum.to_le_bytes());
        put(&mut out, CHANGES_AT as usize, &changes.to_le_bytes());
        out
    }

    /// The layout of a slab of `len` bytes and its number of changes, or why it is not used.
    pub fn check(&self, header: &[u8; HEADER], len: u64) -> Result<(Layout, u64), String> {
        let differs = |what: &str, expected: u64, found: u64| {
            Err(format!("{what}: expected {expected}, found {found}"))
        };
        if header[..8] != *MAGIC {
            return Err("it does not begin like a slab".to_string());
        }
        let version = u32::from_le_bytes(take(header, 8));
        if version != VERSION {
            return differs("version of the format", VERSION.into(), version.into());
        }
        let checksum = u64::from_le_bytes(take(header, CHECKSUM_AT));
        if checksum != twox_hash::XxHash3_64::oneshot(&header[..CHECKSUM_AT]) {
            return Err("its header is damaged: the checksum differs".to_string());
        }
        if take::<32>(header, 40) != self.hash() {
            let f = u32::from_le_bytes(take(header, 88)) as usize;
            let text = header
                .get(TEXT_AT..TEXT_AT + f.min(CHECKSUM_AT - TEXT_AT))
                .unwrap_or_default();
            let difference = self.fingerprint.difference(&String::from_utf8_lossy(text));
            return Err(format!(
                "fingerprint: {}",
                difference.unwrap_or_else(|| "its hash differs".to_string())
            ));
        }
        if take::<16>(header, 72) != self.mark {
            return Err("it was written under another secret".to_string());
        }
        let entry = u32::from_le_bytes(take(header, 12));
        if entry as usize != ENTRY {
            return differs("bytes of an entry", ENTRY as u64, entry.into());
        }
        let (record, stride) = (
            u64::from_le_bytes(take(header, 16)),
            u64::from_le_bytes(take(header, 24)),
        );
        let capacity = u64::from_le_bytes(take(header, 32));
        if record != self.record {
            return differs("bytes of a block", self.record, record);
        }
        if stride != record.next_multiple_of(PAGE) {
            return differs(
                "bytes from record to record",
                record.next_multiple_of(PAGE),
                stride,
            );
        }
        // So that nothing below overflows.
        let per_record = stride + ENTRY as u64;
        let Some(capacity) = u32::try_from(capacity).ok().filter(|&n| {
            n > 0
                && per_record
                    .checked_mul(n.into())
                    .is_some_and(|bytes| bytes < u64::MAX / 2)
        }) else {
            return Err(format!("number of records: found {capacity}"));
        };
        let layout = Layout { record, capacity };
        if len < layout.records_at() {
            return Err(format!(
                "it is cut off: a table of {capacity} entries ends at byte {}, the file at {len}",
                layout.records_at()
            ));
        }
        Ok((layout, u64::from_le_bytes(take(header, CHANGES_AT as usize))))
    }
}

/// The first bytes of a root's key, as entries have them.
pub(super) type RootTag = [u8; 16];

pub(super) fn root_tag(root: &Key) -> RootTag {
    *root.as_bytes().first_chunk().unwrap_or(&[0; 16])
}

/// What an entry says of its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub key: Key,
    pub parent: Key,
    pub root: RootTag,
    pub generation: u64,
    pub checksum: u128,
}

/// What lies in a place of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    Vacant,
    Damaged,
    Full(Entry),
}

/// An entry up to the checksum of its record.
fn begin(name: &BlockName, generation: u64) -> [u8; ENTRY] {
    let mut out = [0; ENTRY];
    put(&mut out, 0, name.key.as_bytes());
    put(&mut out, 32, name.parent.as_bytes());
    for (i, token) in name.tokens.iter().enumerate() {
        put(&mut out, 64 + 4 * i, &token.to_le_bytes());
    }
    put(&mut out, 192, &root_tag(&name.root));
    put(&mut out, 208, &generation.to_le_bytes());
    out
}

fn record_checksum(entry: &[u8; ENTRY], data: &[u8]) -> u128 {
    let seed = twox_hash::XxHash3_64::oneshot(&entry[..216]);
    twox_hash::XxHash3_128::oneshot_with_seed(seed, data)
}

/// The checksum that a record of this name and generation has.
pub(super) fn checksum(name: &BlockName, generation: u64, data: &[u8]) -> u128 {
    record_checksum(&begin(name, generation), data)
}

/// The entry of a record, and its checksum.
pub(super) fn encode(name: &BlockName, generation: u64, data: &[u8], slot: u32) -> ([u8; ENTRY], u128) {
    let mut out = begin(name, generation);
    let checksum = record_checksum(&out, data);
    put(&mut out, 216, &checksum.to_le_bytes());
    put(&mut out, 232, &FULL.to_le_bytes());
    let own = twox_hash::XxHash3_64::oneshot_with_seed(slot.into(), &out[..248]);
    put(&mut out, 248, &own.to_le_bytes());
    (out, checksum)
}

/// Reads the entry in a place of the table.
pub(super) fn decode(bytes: &[u8; ENTRY], slot: u32) -> Slot {
    if bytes.iter().all(|&b| b == 0) {
        return Slot::Vacant;
    }
    let own = u64::from_le_bytes(take(bytes, 248));
    let state = u32::from_le_bytes(take(bytes, 232));
    if own != twox_hash::XxHash3_64::oneshot_with_seed(slot.into(), &bytes[..248]) || state != FULL {
        return Slot::Damaged;
    }
    Slot::Full(Entry {
        key: Key::from_bytes(take(bytes, 0)),
        parent: Key::from_bytes(take(bytes, 32)),
        root: take(bytes, 192),
        generation: u64::from_le_bytes(take(bytes, 208)),
        checksum: u128::from_le_bytes(take(bytes, 216)),
    })
}

/// Whether an entry has this name.
pub(super) fn is_of(entry: &[u8; ENTRY], name: &BlockName) -> bool {
    entry[..208] == begin(name, 0)[..208]
}

/// The name of a slab's file.
pub(super) fn file_name(number: u64) -> String {
    format!("slab-{number:06}")
}

/// The number of a slab by the name of its file.
pub(super) fn file_number(name: &str) -> Option<u64> {
    let number = name.strip_prefix("slab-")?.parse().ok()?;
    (number < MOST_NUMBERS && file_name(number) == name).then_some(number)
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}
