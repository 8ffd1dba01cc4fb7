//! Figures, printed by `cargo test --release --lib kv::tier::tests::speed -- --ignored --nocapture --test-threads 1`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use super::*;
use crate::kv::tier::Directory;
use crate::kv::tier::slab::{Identity, Layout, encode, file_name};

/// What this thread has computed, where the system tells: unlike the time of a clock it does not tell of others that do.
fn computed() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(Duration::from_nanos(
        text.split_whitespace().next()?.parse().ok()?,
    ))
}

/// Slabs of as many records as fit, with tables and without records.
fn sparse(folder: &std::path::Path, bytes: u64, record: u64, secret: &Secret) -> u64 {
    std::fs::create_dir(folder).unwrap();
    std::fs::write(folder.join("secret"), secret.as_bytes()).unwrap();
    let identity = Identity::new(fingerprint("a"), secret, record);
    let namer = Namer::new(secret.clone(), 0, fingerprint("a"));
    let layout = Layout::within(record, 1 << 30, u32::MAX).unwrap();
    let root = namer.root(b"");
    let mut generation = 0;
    for number in 0..bytes / layout.size() {
        let file = File::create(folder.join(file_name(number))).unwrap();
        file.write_all_at(&identity.header(&layout, 1), 0).unwrap();
        let mut table = vec![];
        let mut parent = root;
        for slot in 0..layout.capacity {
            generation += 1;
            // Chains of a hundred.
            if slot.is_multiple_of(100) {
                parent = root;
            }
            let name = after(&namer, root, parent, generation as u32);
            parent = name.key;
            table.extend(encode(&name, generation, &[], slot).0);
        }
        file.write_all_at(&table, Layout::entry_at(0)).unwrap();
        file.set_len(layout.size()).unwrap();
    }
    generation
}

#[test]
#[ignore = "prints a figure; writes tables of up to 130 MB"]
fn opening_10_gb() {
    let folder = tempfile::tempdir().unwrap();
    for record in [1 << 20, 128 << 10, 20 << 10] {
        let path = folder.path().join(record.to_string());
        let blocks = sparse(&path, 10_000_000_000, record, &Secret::fixed([1; 32]));
        for policy in PolicyKind::ALL {
            let config = StoreConfig {
                fingerprint: fingerprint("a"),
                block_bytes: record as usize,
                budget: 11_000_000_000,
                policy,
            };
            let (begin, before) = (Instant::now(), computed());
            let store = SlabStore::open(Box::new(Directory::open(&path).unwrap()), config).unwrap();
            let time = begin.elapsed();
            let computed = computed().zip(before).map(|(after, before)| after - before);
            assert_eq!((store.counts().blocks, store.counts().corrupt), (blocks, 0));
            println!(
                "{record:8} bytes: {blocks:7} blocks, {:8} opened in {time:.1?}, computing {:.1?}",
                policy.name(),
                computed.unwrap_or_default()
            );
        }
    }
}

#[test]
#[ignore = "prints figures; writes several GB"]
fn throughput_beside_plain_files() {
    let folder = tempfile::tempdir_in(std::env::var("LIBINFER_SPEED_DIR").unwrap_or("/tmp".into())).unwrap();
    let total = 256 << 20;
    for record in [1 << 20, 64 << 10] {
        let (blocks, batch) = (total / record, 16);
        let names = |store: &SlabStore, round: usize| -> Vec<BlockName> {
            (0..blocks)
                .map(|i| name(store, (round * blocks + i) as u32))
                .collect()
        };
        let data = content_of(&Key::from_bytes([3; 32]), record);
        let config = StoreConfig {
            fingerprint: fingerprint("a"),
            block_bytes: record,
            budget: 1 << 30,
            policy: PolicyKind::Lru,
        };
        let path = folder.path().join(format!("store-{record}"));
        let store = SlabStore::open(Box::new(Directory::open(&path).unwrap()), config).unwrap();
        let rate = |bytes: usize, f: &mut dyn FnMut()| {
            let begin = Instant::now();
            f();
            bytes as f64 / begin.elapsed().as_secs_f64() / 1e9
        };
        let mut out = vec![0; record];
        for round in 0..3 {
            let plain = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(folder.path().join(format!("plain-{record}-{round}")))
                .unwrap();
            let write = rate(total, &mut || {
                for i in 0..blocks {
                    plain.write_all_at(&data, (i * record) as u64).unwrap();
                    if i % batch == batch - 1 {
                        plain.sync_data().unwrap();
                    }
                }
            });
            let all = names(&store, round);
            let put = rate(total, &mut || {
                for part in all.chunks(batch) {
                    let part: Vec<_> = part.iter().map(|name| (*name, &data[..])).collect();
                    assert_eq!(store.put(&part).unwrap(), part.len());
                }
            });
            let read = rate(total, &mut || {
                for i in 0..blocks {
                    plain.read_exact_at(&mut out, (i * record) as u64).unwrap();
                }
            });
            let get = rate(total, &mut || {
                for name in &all {
                    assert!(store.get(name, &mut out).unwrap());
                }
            });
            println!(
                "{:4} KiB: write {write:.2} GB/s, put {put:.2} ({:.2}); read from the page cache {read:.2}, get {get:.2} \
                 ({:.2})",
                record >> 10,
                put / write,
                get / read
            );
        }
    }
}
