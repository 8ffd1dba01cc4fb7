#![allow(clippy::unwrap_used, reason = "test code")]

use std::collections::HashMap;
use std::sync::Mutex;

use super::tests::{difference, fill, options};
use super::*;
use crate::kv::prefix::BlockName;
use crate::kv::tier::{Backend, BackendCounts};
use crate::options::OpenStorage;

/// Storage in memory that outlives the stores of a test, as a directory does.
#[derive(Debug, Default)]
struct Memory {
    blocks: Mutex<HashMap<Key, (BlockName, Vec<u8>)>>,
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
        let blocks = self.blocks.lock().unwrap();
        let found = blocks.get(&name.key).filter(|(known, _)| known == name);
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
