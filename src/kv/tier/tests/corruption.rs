//! Damage of every kind is a miss that is counted, and never wrong content.

use super::*;
use crate::kv::tier::media::Access;
use crate::kv::tier::slab;
use crate::kv::tier::slab::{HEADER, Layout};

const BLOCKS: u32 = 12;

/// Two slabs, the first of which is full.
fn stored() -> MemoryMedia {
    let media = MemoryMedia::default();
    let store = open(media.clone(), 24);
    assert_eq!(put(&store, 0..BLOCKS).unwrap(), BLOCKS as usize);
    media
}

fn copy(media: &MemoryMedia) -> MemoryMedia {
    let to = MemoryMedia::default();
    for (name, len) in media.list().unwrap() {
        let mut bytes = vec![0; len as usize];
        let file = media.open(&name, Access::Read).unwrap();
        file.read_all_at(&mut bytes, 0).unwrap();
        to.replace(&name, &bytes).unwrap();
    }
    to
}

fn flip(media: &MemoryMedia, offset: u64, bit: u32) {
    let file = media.open("slab-000000", Access::Write).unwrap();
    let mut byte = [0];
    file.read_all_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1 << (bit % 8)], offset).unwrap();
}

/// Blocks that are there, and what was counted, after all were asked for. Whatever is missing can be stored again.
fn examine(media: &MemoryMedia) -> (usize, u64, u64) {
    let store = open(media.clone(), 24);
    let n = present(&store, 0..BLOCKS).len();
    assert_eq!(present(&store, 0..BLOCKS).len(), n);
    let counts = store.counts();
    assert_eq!(counts.blocks, n as u64, "what is no good is not in the list");
    assert_eq!(
        store.take_notices().is_empty(),
        counts.corrupt + counts.foreign_files == 0
    );
    put(&store, 0..BLOCKS).unwrap();
    assert_eq!(present(&store, 0..BLOCKS).len(), BLOCKS as usize);
    (n, counts.corrupt, counts.foreign_files)
}

#[test]
fn a_flipped_bit_anywhere_in_the_header() {
    let media = stored();
    for offset in (0..96).chain((96..4080).step_by(61)).chain(4080..4088) {
        let media = copy(&media);
        flip(&media, offset, offset as u32 * 5);
        assert_eq!(examine(&media), (4, 0, 1), "offset {offset}");
    }
    // The number of changes means nothing to the one that writes.
    flip(&media, 4088, 3);
    assert_eq!(examine(&media), (12, 0, 0));
}

#[test]
fn a_flipped_bit_anywhere_in_an_entry() {
    let media = stored();
    for offset in 0..256 {
        let media = copy(&media);
        flip(&media, Layout::entry_at(3) + offset, offset as u32 * 3);
        assert_eq!(examine(&media), (11, 1, 0), "offset {offset}");
    }
    // In a vacant one too.
    let empty = Layout::entry_at(8) + 100;
    flip(&media, empty, 0);
    assert_eq!(examine(&media), (12, 0, 0), "padding of the table");
}

#[test]
fn a_flipped_bit_anywhere_in_a_record() {
    let media = stored();
    let layout = Layout {
        record: BLOCK as u64,
        capacity: 8,
    };
    for offset in (0..64).chain((64..BLOCK as u64).step_by(37)).chain([4999]) {
        let media = copy(&media);
        flip(&media, layout.record_at(5) + offset, offset as u32);
        assert_eq!(examine(&media), (11, 1, 0), "offset {offset}");
    }
    flip(&media, layout.record_at(5) + 5000, 0);
    assert_eq!(examine(&media), (12, 0, 0), "padding of the record");
}

#[test]
fn a_file_cut_off_anywhere() {
    let media = stored();
    let layout = Layout {
        record: BLOCK as u64,
        capacity: 8,
    };
    let edges = [0, 1, 8, 511, 4095, 4096, 4097, 8191, 8192, 8193, 16_384];
    for len in edges.into_iter().chain((0..layout.size()).step_by(1777)) {
        let media = copy(&media);
        media
            .open("slab-000000", Access::Write)
            .unwrap()
            .set_len(len)
            .unwrap();
        let whole = len.saturating_sub(layout.records_at()) + layout.stride() - layout.record;
        let whole = (whole / layout.stride()).min(8);
        let expected = if len < layout.records_at() {
            (4, 0, 1)
        } else {
            (4 + whole as usize, 8 - whole, 0)
        };
        assert_eq!(examine(&media), expected, "{len} bytes");
    }
}

#[test]
fn records_and_entries_that_changed_places() {
    let media = stored();
    let layout = Layout {
        record: BLOCK as u64,
        capacity: 8,
    };
    let file = media.open("slab-000000", Access::Write).unwrap();
    let read = |at, len| {
        let mut bytes = vec![0; len];
        file.read_all_at(&mut bytes, at).unwrap();
        bytes
    };
    // A record over another, whose entry stays.
    file.write_all_at(&read(layout.record_at(0), BLOCK), layout.record_at(1))
        .unwrap();
    // An entry over another, whose record stays.
    file.write_all_at(&read(Layout::entry_at(2), 256), Layout::entry_at(3))
        .unwrap();
    assert_eq!(examine(&media), (10, 2, 0));
}

#[test]
fn an_old_entry_with_a_new_record_and_the_other_way_round() {
    let media = MemoryMedia::default();
    let store = open(media.clone(), 1);
    put(&store, [0]).unwrap();
    let old = copy(&media);
    put(&store, [1]).unwrap();
    drop(store);
    let layout = Layout {
        record: BLOCK as u64,
        capacity: 1,
    };
    for (at, len) in [(Layout::entry_at(0), 256), (layout.record_at(0), BLOCK)] {
        let mixed = copy(&media);
        let mut bytes = vec![0; len];
        old.open("slab-000000", Access::Read)
            .unwrap()
            .read_all_at(&mut bytes, at)
            .unwrap();
        mixed
            .open("slab-000000", Access::Write)
            .unwrap()
            .write_all_at(&bytes, at)
            .unwrap();
        let store = open(mixed, 1);
        assert!(!get(&store, 0) && !get(&store, 1));
        assert_eq!(store.counts().corrupt, 1);
    }
}

/// A header that is whole, and says something else.
fn with_header(change: impl Fn(&mut [u8])) -> MemoryMedia {
    let media = stored();
    let file = media.open("slab-000000", Access::Write).unwrap();
    let mut header = [0; HEADER];
    file.read_all_at(&mut header, 0).unwrap();
    change(&mut header);
    let checksum = twox_hash::XxHash3_64::oneshot(&header[..4080]);
    header[4080..4088].copy_from_slice(&checksum.to_le_bytes());
    file.write_all_at(&header, 0).unwrap();
    media
}

#[test]
fn a_header_of_another_version_or_geometry_is_named() {
    let cases: [(usize, u64, usize, &str); 9] = [
        (8, 2, 4, "version of the format: expected 1, found 2"),
        (8, 0, 4, "version of the format: expected 1, found 0"),
        (8, 1 << 24, 4, "version of the format: expected 1, found 16777216"),
        (12, 128, 4, "bytes of an entry: expected 256, found 128"),
        (16, 6000, 8, "bytes of a block: expected 5000, found 6000"),
        (
            24,
            4096,
            8,
            "bytes from record to record: expected 8192, found 4096",
        ),
        (32, 0, 8, "number of records: found 0"),
        (32, u64::MAX, 8, "number of records: found 18446744073709551615"),
        (32, 1_000_000, 8, "a table of 1000000 entries ends at byte"),
    ];
    for (at, value, len, expected) in cases {
        let media = with_header(|h| h[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]));
        let notices = open(media.clone(), 24).take_notices().join("\n");
        assert!(
            notices.contains("slab-000000 is not used") && notices.contains(expected),
            "{notices}"
        );
        assert_eq!(examine(&media), (4, 0, 1));
    }
    // A table of fewer entries has its records elsewhere.
    let media = with_header(|h| h[32] = 7);
    let (n, corrupt, _) = examine(&media);
    assert_eq!((n, corrupt), (11, 0), "tables of 7 and 8 entries have one length");
}

#[test]
fn another_models_directory_is_left_alone_until_its_room_is_needed() {
    let media = stored();
    let other = StoreConfig {
        fingerprint: fingerprint("b"),
        ..config(24)
    };
    let store = SlabStore::open(Box::new(media.clone()), other.clone()).unwrap();
    assert_eq!((store.counts().foreign_files, store.counts().blocks), (2, 0));
    let notices = store.take_notices().join("\n");
    assert!(
        notices.contains("fingerprint: expected \"model=b\", found \"model=a\""),
        "{notices}"
    );
    assert!(present(&store, 0..BLOCKS).is_empty());
    put(&store, [50]).unwrap();
    drop(store);
    // One fit beside them, so the first model finds its blocks.
    let store = open(media.clone(), 24);
    assert_eq!(
        (present(&store, 0..BLOCKS).len(), store.counts().foreign_files),
        (12, 1)
    );
    drop(store);
    let store = SlabStore::open(Box::new(media.clone()), other).unwrap();
    media.replace("slab-x", b"unknown").unwrap();
    media.replace("notes", b"unknown").unwrap();
    put(&store, 50..74).unwrap();
    assert!(present(&store, 50..74).len() >= 23);
    assert_eq!(store.counts().foreign_files, 0);
    let bytes: u64 = media.list().unwrap().iter().map(|(_, len)| len).sum();
    assert!(bytes <= store.counts().budget + 14);
    assert!(media.open("slab-x", Access::Read).is_ok() && media.open("notes", Access::Read).is_ok());
}

#[test]
fn files_of_nonsense() {
    let mut random = random(3);
    for _ in 0..50 {
        let media = stored();
        let len = [0, 1, 4096, 8192, 20_000, 100_000][random() as usize % 6];
        let bytes: Vec<u8> = (0..len).map(|_| random() as u8).collect();
        for name in [
            "slab-000000",
            "slab-000001",
            "slab-999999999",
            "slab-",
            "slab--1",
            "lock",
        ] {
            media.replace(name, &bytes).unwrap();
        }
        let store = open(media, 24);
        assert!(present(&store, 0..BLOCKS).is_empty());
        assert_eq!(store.counts().foreign_files, 3);
        put(&store, 0..BLOCKS).unwrap();
        assert_eq!(present(&store, 0..BLOCKS).len(), 12);
    }
    assert_eq!(slab::file_number("slab-18446744073709551615"), None);
    assert_eq!(slab::file_number("slab-0000000"), None);
    assert_eq!(slab::file_number("slab-000007"), Some(7));
    assert_eq!(slab::file_number("slab-1234567"), Some(1_234_567));
}
