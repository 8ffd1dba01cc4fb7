#![allow(clippy::unwrap_used, reason = "test code")]

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Instant;

use super::tests::{difference, fill, options};
use super::*;
use crate::kv::prefix::BlockName;
use crate::kv::tier::{Backend, BackendCounts};
use crate::options::OpenStorage;

/// Storage in memory that outlives the stores of a test, as a directory does.
#[derive(Debug, Default)]
struct Memory {
    blocks: Mutex<HashMap<Key, (BlockName, Vec<u8>)>>,
    /// It cannot be opened.
    shut: AtomicBool,
    /// What a read takes.
    read_ms: AtomicU64,
    /// Reads under way, and the most there were.
    reading: AtomicUsize,
    most_reading: AtomicUsize,
    /// Reading this block finds it damaged.
    damaged: Mutex<Option<Key>>,
}

impl Backend for Memory {
    fn contains(&self, key: &Key) -> bool {
        self.blocks.lock().unwrap().contains_key(key)
    }
    fn admits(&self, name: &BlockName) -> bool {
        !self.contains(&name.key)
    }
    fn put(&self, batch: &[(BlockName, &[u8])]) -> std::io::Result<usize> {
        let mut blocks = self.blocks.lock().unwrap();
        for (name, bytes) in batch {
            blocks.insert(name.key, (*name, bytes.to_vec()));
        }
        Ok(batch.len())
    }
    fn get(&self, name: &BlockName, out: &mut [u8]) -> std::io::Result<bool> {
        let reading = self.reading.fetch_add(1, SeqCst) + 1;
        self.most_reading.fetch_max(reading, SeqCst);
        std::thread::sleep(Duration::from_millis(self.read_ms.load(SeqCst)));
        self.reading.fetch_sub(1, SeqCst);
        let blocks = self.blocks.lock().unwrap();
        let damaged = *self.damaged.lock().unwrap() == Some(name.key);
        let found = blocks
            .get(&name.key)
            .filter(|(known, _)| known == name && !damaged);
        if let Some((_, bytes)) = found {
            out.copy_from_slice(bytes);
        }
        Ok(found.is_some())
    }
    fn touch(&self, _: &[Key]) {}
    fn remove(&self, root: Option<Key>) -> std::io::Result<()> {
        let kept = |name: &BlockName| root.is_some_and(|root| name.root != root);
        self.blocks.lock().unwrap().retain(|_, (name, _)| kept(name));
        Ok(())
    }
    fn list(&self) -> Vec<Key> {
        self.blocks.lock().unwrap().keys().copied().collect()
    }
    fn maintain(&self) -> std::io::Result<()> {
        Ok(())
    }
    fn sync(&self) -> std::io::Result<()> {
        Ok(())
    }
    fn take_notices(&self) -> Vec<String> {
        Vec::new()
    }
    fn counts(&self) -> BackendCounts {
        BackendCounts {
            blocks: self.list().len() as u64,
            ..BackendCounts::default()
        }
    }
}

/// A store of so many blocks over a storage.
fn store(storage: &Arc<Memory>, kv_type: &'static str, blocks: usize, persist: bool) -> KvStore {
    let storage = Arc::clone(storage);
    let open: OpenStorage = Arc::new(move |_| {
        if storage.shut.load(SeqCst) {
            return Err(std::io::Error::other("the storage is shut"));
        }
        let backend: Arc<dyn Backend> = Arc::<Memory>::clone(&storage);
        Ok((backend, Secret::fixed([5; 32])))
    });
    KvStore::new(&KvCacheOptions {
        cold_storage: Some(open),
        cold_persist: persist,
        ..options(kv_type, blocks)
    })
    .unwrap()
}

fn sealed(store: &KvStore, seed: u32, n: usize) -> Vec<u32> {
    let tokens: Vec<u32> = (0..n as u32).map(|i| seed * 1000 + i).collect();
    let sequence = store.open("").unwrap();
    fill(&sequence, seed, n, 48);
    sequence.seal(&tokens).unwrap();
    tokens
}

/// Waits until nothing is on its way to the storage.
fn settle(store: &KvStore) {
    let tier = store.shared.tier.as_ref().unwrap();
    assert!(tier.flush(Duration::from_secs(10)));
}

#[test]
fn what_memory_gave_up_is_read_back_to_the_token() {
    for kv_type in ["f32", "q8"] {
        let store = store(&Arc::default(), kv_type, 4, true);
        let mut tokens = sealed(&store, 1, 128);
        for seed in 2..5 {
            sealed(&store, seed, 128);
            settle(&store);
        }
        assert_eq!(store.stats().evictions, 12);
        tokens[100] = 7;
        let found = store.lookup("", &tokens).unwrap();
        // The fourth block is not in memory, and it is another than that of the tokens.
        assert_eq!(found.len(), 96);
        let tolerance = if kv_type == "f32" { 0.0 } else { 0.004 };
        assert!(difference(&found, 1, 0, 96) <= tolerance);
        let stats = store.stats();
        assert!(stats.cold_active);
        assert_eq!((stats.cold_hit_tokens, stats.cold_reads), (96, 3));
        assert_eq!(stats.hit_tokens, 96);
        fill(&found, 9, 20, 20);
        assert!(difference(&found, 1, 0, 96) <= tolerance);
        assert_eq!(store.lookup("tenant", &tokens).unwrap().len(), 0);
    }
}

#[test]
fn as_much_is_read_back_as_memory_has_room_for() {
    let store = store(&Arc::default(), "f32", 4, true);
    let tokens = sealed(&store, 1, 128);
    sealed(&store, 2, 128);
    settle(&store);
    let user = store.open("").unwrap();
    fill(&user, 3, 64, 64);
    settle(&store);
    let found = store.lookup("", &tokens).unwrap();
    assert_eq!((found.len(), difference(&found, 1, 0, 64)), (64, 0.0));
    assert_eq!(difference(&user, 3, 0, 64), 0.0);
}

#[test]
fn a_later_store_finds_what_an_earlier_one_sealed() {
    let storage = Arc::<Memory>::default();
    let first = store(&storage, "f16", 8, true);
    let tokens = sealed(&first, 1, 100);
    let open = first.open("").unwrap();
    fill(&open, 2, 64, 64);
    drop(first);
    assert_eq!(storage.list().len(), 0, "a sequence still uses the store");
    drop(open);
    assert_eq!(storage.list().len(), 3, "what was not sealed is not written");
    let second = store(&storage, "f16", 8, true);
    let found = second.lookup("", &tokens).unwrap();
    assert_eq!(found.len(), 96);
    assert!(difference(&found, 1, 0, 96) < 1e-3);
    assert_eq!(second.stats().cold_reads, 3);
    drop((found, second));
    // Nothing stays where nothing is to stay.
    drop(store(&storage, "f16", 8, false));
    assert_eq!(storage.list().len(), 0);
}

#[test]
fn another_type_shape_or_identity_finds_nothing() {
    let storage = Arc::<Memory>::default();
    let first = store(&storage, "f16", 8, true);
    let tokens = sealed(&first, 1, 96);
    drop(first);
    assert_eq!(storage.list().len(), 3);
    let open = Arc::clone(&storage);
    let other = KvStore::new(&KvCacheOptions {
        cold_storage: Some(Arc::new(move |_| {
            let backend: Arc<dyn Backend> = Arc::<Memory>::clone(&open);
            Ok((backend, Secret::fixed([5; 32])))
        })),
        identity: "another model".to_string(),
        ..options("f16", 8)
    })
    .unwrap();
    assert_eq!(other.lookup("", &tokens).unwrap().len(), 0);
    assert_eq!(
        store(&storage, "bf16", 8, true)
            .lookup("", &tokens)
            .unwrap()
            .len(),
        0
    );
    assert_eq!(
        store(&storage, "f16", 8, true).lookup("", &tokens).unwrap().len(),
        96
    );
}

/// Storage with four blocks of a prefix.
fn stored() -> (Arc<Memory>, Vec<u32>) {
    let storage = Arc::<Memory>::default();
    let tokens = sealed(&store(&storage, "f32", 8, true), 1, 128);
    assert_eq!(storage.list().len(), 4);
    (storage, tokens)
}

#[test]
fn blocks_of_a_prefix_are_read_at_the_same_time_and_come_in_order() {
    let (storage, tokens) = stored();
    storage.read_ms.store(20, SeqCst);
    let store = store(&storage, "f32", 8, true);
    let found = store.lookup("", &tokens).unwrap();
    assert_eq!((found.len(), difference(&found, 1, 0, 128)), (128, 0.0));
    assert!(storage.most_reading.load(SeqCst) > 1);
}

#[test]
fn a_damaged_block_ends_what_is_read_back() {
    let (storage, tokens) = stored();
    let keys = {
        let store = store(&storage, "f32", 8, true);
        let index = &store.shared.index;
        let mut parent = index.root(b"");
        let blocks = tokens.as_chunks::<BLOCK_TOKENS>().0.iter();
        let keys = blocks.map(|block| {
            parent = index.name(parent, parent, block).unwrap().key;
            parent
        });
        keys.collect::<Vec<_>>()
    };
    for (i, key) in keys.into_iter().enumerate() {
        *storage.damaged.lock().unwrap() = Some(key);
        let store = store(&storage, "f32", 8, true);
        let found = store.lookup("", &tokens).unwrap();
        assert_eq!(found.len(), i * BLOCK_TOKENS);
        assert_eq!(difference(&found, 1, 0, found.len()), 0.0);
        *storage.damaged.lock().unwrap() = None;
        assert_eq!(store.lookup("", &tokens).unwrap().len(), 128);
    }
}

#[test]
fn what_memory_has_behind_a_gap_is_not_read() {
    let store = store(&Arc::default(), "f32", 4, true);
    let tokens: Vec<u32> = (0..128).collect();
    let sequence = store.open("").unwrap();
    fill(&sequence, 1, 128, 32);
    sequence.seal(&tokens).unwrap();
    let last = sequence.view(0, 96, 32).unwrap();
    drop(sequence);
    sealed(&store, 2, 96);
    settle(&store);
    let found = store.lookup("", &tokens).unwrap();
    assert_eq!((found.len(), difference(&found, 1, 0, 128)), (128, 0.0));
    assert_eq!(store.stats().cold_reads, 3);
    drop(last);
}

#[test]
fn storage_that_hangs_is_given_up() {
    let (storage, tokens) = stored();
    let store = store(&storage, "f32", 8, true);
    storage.read_ms.store(4000, SeqCst);
    let begin = Instant::now();
    assert_eq!(store.lookup("", &tokens).unwrap().len(), 0);
    assert_eq!(store.lookup("", &tokens).unwrap().len(), 0, "it is left alone");
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
}

#[test]
fn storage_that_turns_up_late_is_used_with_its_own_secret() {
    let (storage, tokens) = stored();
    storage.shut.store(true, SeqCst);
    let late = store(&storage, "f32", 8, true);
    assert!(!late.stats().cold_active);
    // One sequence is in use when the storage turns up, one is cached.
    let own: Vec<u32> = (0..64).map(|i| 2000 + i).collect();
    let sequence = late.open("").unwrap();
    fill(&sequence, 2, 64, 64);
    sequence.seal(&own).unwrap();
    let cached = sealed(&late, 3, 64);
    storage.shut.store(false, SeqCst);
    let begin = Instant::now();
    while !late.stats().cold_active {
        assert!(begin.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(20));
    }
    let found = late.lookup("", &tokens).unwrap();
    assert_eq!((found.len(), difference(&found, 1, 0, 128)), (128, 0.0));
    assert_eq!(
        late.lookup("", &cached).unwrap().len(),
        0,
        "its names are made with another secret"
    );
    let stats = late.stats();
    assert_eq!((stats.hot_blocks_used, stats.hot_blocks_cached), (6, 0));
    assert_eq!(late.lookup("", &own).unwrap().len(), 0);
    assert_eq!(sequence.seal(&own).unwrap(), 64, "it is named anew");
    assert_eq!(late.lookup("", &own).unwrap().len(), 64);
    assert_eq!(difference(&sequence, 2, 0, 64), 0.0);
    drop((found, sequence));
    let stats = late.stats();
    assert_eq!((stats.hot_blocks_used, stats.hot_blocks_cached), (0, 6));
    drop(late);
    assert_eq!(storage.list().len(), 6);
    assert_eq!(
        store(&storage, "f32", 8, true).lookup("", &own).unwrap().len(),
        64
    );
}
