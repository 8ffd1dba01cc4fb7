//! Stored blocks after the process that writes them was killed at any moment, and while another one reads.
//!
//! The test starts itself again as the process that writes. `LIBINFER_CRASHES` says how often it is killed.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "helpers of tests stop at the first error")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use infer::kernel::RowType;
use infer::kv::prefix::{Fingerprint, Namer, PolicyKind};
use infer::kv::tier::{Backend, BlockName, Directory, SlabStore, StoreConfig};
use infer::kv::{BLOCK_TOKENS, Geometry};

const BLOCK: usize = 30_000;
const DIRECTORY: &str = "LIBINFER_TEST_TIER_DIRECTORY";
const BLOCKS: &str = "LIBINFER_TEST_TIER_BLOCKS";
const FIRST: &str = "LIBINFER_TEST_TIER_FIRST";

fn fingerprint() -> Fingerprint {
    Fingerprint::new(&Geometry::new(RowType::F16, Vec::new()).unwrap(), &[])
}

fn open(path: &Path, blocks: u64) -> SlabStore {
    let config = StoreConfig {
        fingerprint: fingerprint(),
        block_bytes: BLOCK,
        budget: blocks * 34_000,
        policy: PolicyKind::Lru,
    };
    SlabStore::open(Box::new(Directory::open(path).unwrap()), config).unwrap()
}

fn name(store: &SlabStore, i: u32) -> BlockName {
    let namer = Namer::new(store.secret(), 0, fingerprint());
    let root = namer.root(b"");
    let tokens = [i; BLOCK_TOKENS];
    let key = namer.child(&root, &tokens);
    BlockName {
        key,
        parent: root,
        root,
        tokens,
    }
}

fn content(name: &BlockName) -> Vec<u8> {
    let mut out = vec![0; BLOCK];
    blake3::Hasher::new()
        .update(name.key.as_bytes())
        .finalize_xof()
        .fill(&mut out);
    out
}

/// Whether a block is there. It must be the right one.
fn get(store: &SlabStore, i: u32) -> bool {
    let name = name(store, i);
    let mut out = vec![0; BLOCK];
    let found = store.get(&name, &mut out).unwrap();
    assert!(!found || out == content(&name), "wrong content of block {i}");
    found
}

/// The process that is killed: it puts batches of three, and says so.
#[test]
fn the_one_that_writes() {
    let Some(path) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let number = |name: &str| std::env::var(name).unwrap().parse::<u32>().unwrap();
    let store = open(Path::new(&path), number(BLOCKS).into());
    while !store.counts().writer {
        std::thread::sleep(Duration::from_millis(5));
        store.maintain().unwrap();
    }
    let mut out = std::io::stdout();
    for i in (number(FIRST)..).step_by(3) {
        let names = [i, i + 1, i + 2].map(|i| name(&store, i));
        let contents = names.each_ref().map(content);
        let batch: Vec<_> = names.iter().zip(&contents).map(|(n, c)| (*n, &c[..])).collect();
        assert_eq!(store.put(&batch).unwrap(), 3);
        // A line that the harness does not take for its own.
        writeln!(out, "\nput {i}").unwrap();
        out.flush().unwrap();
    }
}

fn start(path: &Path, blocks: u64, first: u32) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "the_one_that_writes",
            "--nocapture",
            "--test-threads",
            "1",
        ])
        .env(DIRECTORY, path)
        .env(BLOCKS, blocks.to_string())
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Lets it write for a while and kills it. Answers the first blocks of the batches that it has put.
fn kill_after(mut child: Child, time: Duration) -> Vec<u32> {
    let out = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let lines = BufReader::new(out).lines().map_while(Result::ok);
        lines
            .filter_map(|line| line.strip_prefix("put ")?.parse().ok())
            .collect()
    });
    std::thread::sleep(time);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

#[test]
fn killed_at_any_moment() {
    let crashes: u32 = std::env::var("LIBINFER_CRASHES").map_or(10, |n| n.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let mut seed = std::process::id();
    let (mut next, mut written, mut lost_files) = (0, BTreeSet::new(), 0);
    // With room for everything, and with places that are used again all the time.
    for (round, room) in [(0, 1_000_000), (1, 40)] {
        let path = folder.path().join(round.to_string());
        written.clear();
        for _ in 0..crashes.div_ceil(2) {
            let child = start(&path, room, next);
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let put = kill_after(child, Duration::from_millis(20 + u64::from(seed >> 16) % 150));
            written.extend(put.iter().flat_map(|&i| i..i + 3));
            let store = open(&path, room);
            assert!(store.counts().writer, "the lock of a process that ended is free");
            lost_files += store.counts().foreign_files;
            let end = put.last().map_or(next, |i| i + 3) + 3;
            if round == 0 {
                for &i in &written {
                    assert!(get(&store, i), "block {i} was put");
                }
                assert_eq!(store.counts().corrupt, 0);
                // What was under way is there or not.
                (next..end).for_each(|i| _ = get(&store, i));
            } else {
                let there = (0..end).filter(|&i| get(&store, i)).count() as u64;
                assert_eq!(there, store.counts().blocks);
                assert!(written.len() < 40 || there > 30, "{there}");
                // At most those whose places were being written over.
                assert!(store.counts().corrupt <= 3);
            }
            next = end;
            assert!(std::fs::read_dir(&path).unwrap().count() > 2);
        }
        assert!(
            written.len() > 30 * crashes.min(10) as usize / 10,
            "only {} blocks were written",
            written.len()
        );
    }
    assert!(
        lost_files <= u64::from(crashes),
        "a slab that was about to be made"
    );
}

#[test]
fn another_process_reads_and_takes_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    let child = start(&path, 200, 0);
    let begin = Instant::now();
    while !path.join("secret").exists() {
        assert!(begin.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(5));
    }
    let store = open(&path, 200);
    assert!(!store.counts().writer);
    let mut hits = BTreeSet::<u32>::new();
    while hits.len() < 300 {
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "{} blocks seen",
            hits.len()
        );
        store.maintain().unwrap();
        let last = hits.last().copied().unwrap_or(0);
        for i in (last.saturating_sub(100)..last + 100)
            .filter(|&i| get(&store, i))
            .collect::<Vec<_>>()
        {
            hits.insert(i);
        }
    }
    assert!(!store.counts().writer);
    let put = kill_after(child, Duration::ZERO);
    let last = put.last().unwrap() + 2;
    store.maintain().unwrap();
    assert!(store.counts().writer);
    assert!(get(&store, last));
    let name = name(&store, 1_000_000);
    assert_eq!(store.put(&[(name, &content(&name))]).unwrap(), 1);
    assert!(get(&store, 1_000_000));
}
