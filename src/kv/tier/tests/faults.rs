//! A directory that fails: errors, and nothing worse; when it works again, so does the store.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::kv::tier::media::faulty::{Call, Faults, FaultyMedia};

const CODES: [i32; 5] = [libc::EIO, libc::ENOSPC, libc::EROFS, libc::EACCES, libc::ENOENT];

fn faulty(blocks: u64) -> (SlabStore, Arc<Faults>, MemoryMedia) {
    let memory = MemoryMedia::default();
    let (media, faults) = FaultyMedia::new(memory.clone());
    (open(media, blocks), faults, memory)
}

/// All blocks that the store claims to have are there.
fn consistent(store: &SlabStore) {
    let there = present(store, 0..200);
    assert_eq!(there.len(), store.list().len());
    assert_eq!(there.len() as u64, store.counts().blocks);
    for i in 0..200 {
        assert_eq!(store.contains(&name(store, i).key), there.contains(&i));
    }
}

#[test]
fn every_call_may_fail_at_any_time() {
    for call in Call::ALL {
        for code in CODES {
            for spared in [0, 1, 2, 3, 5, 8] {
                let (store, faults, memory) = faulty(24);
                put(&store, 0..20).unwrap();
                faults.fail_after(spared, &[call], code);
                // Whether or not they fail, nobody panics, and no block is wrong.
                let tried = [
                    put(&store, 20..40).is_err(),
                    (0..40).any(|i| try_get(&store, i).is_err()),
                    store.sync().is_err(),
                    store.remove(Some(root(&store, 1))).is_err(),
                    store.maintain().is_err(),
                    put(&store, 40..44).is_err(),
                ];
                store.touch(&[name(&store, 3).key]);
                store.admits(&name(&store, 60));
                if spared == 0 {
                    let expected = match call {
                        Call::Write | Call::Sync => tried[0],
                        Call::Read => tried[1],
                        _ => true,
                    };
                    assert!(expected, "{call:?} {code}: {tried:?}");
                }
                faults.heal();
                store.maintain().unwrap();
                consistent(&store);
                let of_root: Vec<_> = present(&store, 0..40)
                    .into_iter()
                    .filter(|i| i % 3 == 1)
                    .collect();
                assert!(of_root.is_empty(), "{call:?} {code}: {of_root:?}");
                put(&store, 100..110).unwrap();
                assert_eq!(present(&store, 100..110).len(), 10, "{call:?} {code}");
                consistent(&store);
                drop(store);
                let store = open(memory, 24);
                present(&store, 0..200);
                consistent(&store);
                assert_eq!(present(&store, 100..110).len(), 10, "{call:?} {code}");
                assert!(
                    present(&store, 0..40).iter().all(|i| i % 3 != 1),
                    "{call:?} {code}: it came back"
                );
            }
        }
    }
}

#[test]
fn opening_fails_or_does_without() {
    for call in Call::ALL {
        for code in CODES {
            for spared in 0..6 {
                let (store, _, memory) = faulty(24);
                put(&store, 0..20).unwrap();
                drop(store);
                let (media, faults) = FaultyMedia::new(memory.clone());
                // A secret that is not there has to be made anew.
                if matches!(call, Call::Open | Call::Read | Call::Len) && code == libc::ENOENT {
                    continue;
                }
                faults.fail_after(spared, &[call], code);
                match SlabStore::open(Box::new(media), config(24)) {
                    Ok(store) => {
                        present_or_error(&store);
                        faults.heal();
                        store.maintain().unwrap();
                        present(&store, 0..20);
                    }
                    Err(e) => assert_ne!(e.kind(), ErrorKind::InvalidInput, "{e}"),
                }
                faults.heal();
                let store = open(memory, 24);
                assert_eq!(present(&store, 0..20).len(), 20, "{call:?} {code} {spared}");
            }
        }
    }
}

fn present_or_error(store: &SlabStore) {
    for i in 0..20 {
        let _ = try_get(store, i);
    }
}

#[test]
fn unreadable_slabs_are_counted() {
    let (store, _, memory) = faulty(24);
    put(&store, 0..20).unwrap();
    drop(store);
    let (media, faults) = FaultyMedia::new(memory);
    // The first file that is opened is the secret.
    faults.fail_after(1, &[Call::Open], libc::EACCES);
    let store = open(media, 24);
    assert_eq!((store.counts().foreign_files, store.counts().blocks), (3, 0));
    assert!(store.take_notices()[0].contains("slab-000000 is not used: Permission denied"));
}

#[test]
fn short_reads_and_writes_are_gone_on_with() {
    let (store, faults, memory) = faulty(24);
    faults.shorten(700);
    put(&store, 0..20).unwrap();
    assert_eq!(present(&store, 0..20).len(), 20);
    store.remove(Some(root(&store, 0))).unwrap();
    assert_eq!(present(&store, 0..20).len(), 13);
    drop(store);
    let (media, faults) = FaultyMedia::new(memory);
    faults.shorten(1);
    assert_eq!(present(&open(media, 24), 0..20).len(), 13);
}

#[test]
fn reading_does_not_wait_for_writing() {
    let (store, faults, _) = faulty(24);
    put(&store, 0..10).unwrap();
    faults.delay_writes(20);
    let writing = AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            put(&store, 10..40).unwrap();
            writing.store(false, Ordering::SeqCst);
        });
        std::thread::sleep(Duration::from_millis(50));
        let (begin, mut reads) = (Instant::now(), 0);
        while reads < 20 && begin.elapsed() < Duration::from_secs(60) {
            let block = name(&store, reads % 10);
            store.contains(&block.key);
            store.admits(&block);
            store.touch(&[block.key]);
            try_get(&store, reads % 10).unwrap();
            reads += 1;
        }
        // Thirty blocks take more than half a second.
        assert!(
            writing.load(Ordering::SeqCst),
            "{reads} reads in {:?}",
            begin.elapsed()
        );
    });
}

#[test]
fn a_directory_that_vanishes_and_comes_back() {
    let (store, faults, _) = faulty(24);
    put(&store, 0..10).unwrap();
    faults.vanish();
    assert!(store.maintain().is_err());
    assert_eq!(present(&store, 0..10).len(), 10);
    assert!(!store.counts().writer);
    assert_eq!(put(&store, 10..12).unwrap(), 0);
    assert!(store.maintain().is_err());
    faults.heal();
    store.maintain().unwrap();
    assert!(store.counts().writer);
    assert_eq!(put(&store, 10..12).unwrap(), 2);
    assert_eq!(present(&store, 0..12).len(), 12);
}

#[test]
fn nothing_is_asked_of_the_disk_by_what_must_not_wait() {
    let (store, faults, _) = faulty(24);
    put(&store, 0..20).unwrap();
    let calls = || Call::ALL.map(|call| faults.calls(call));
    let before = calls();
    for i in 0..100 {
        store.contains(&name(&store, i).key);
        store.admits(&name(&store, i));
        store.touch(&[name(&store, i).key]);
    }
    store.list();
    store.counts();
    assert_eq!(calls(), before);
    // A block is one read.
    assert!(get(&store, 0));
    let reads = faults.calls(Call::Read);
    assert_eq!(reads - before[Call::Read as usize], 1);
}
