//! Tests of the store of blocks. A block's content follows from its key, so that any block can be checked.

mod corruption;
mod faults;
mod media;
mod power;
mod processes;
mod speed;
mod store;

use super::media::Media;
use super::{Backend, BlockName, MemoryMedia, SlabStore, StoreConfig};
use crate::kernel::RowType;
use crate::kv::prefix::{Fingerprint, Key, Namer, PolicyKind, Secret};
use crate::kv::{BLOCK_TOKENS, Geometry};

/// Not a multiple of anything.
const BLOCK: usize = 5000;
/// Of one in a file.
const STRIDE: u64 = 8192;

fn fingerprint(model: &str) -> Fingerprint {
    let geometry = Geometry::new(RowType::F16, Vec::new()).unwrap();
    Fingerprint::new(&geometry, &[("model", &model)])
}

fn config(blocks: u64) -> StoreConfig {
    // Room for slabs of eight.
    let slabs = blocks.div_ceil(8);
    StoreConfig {
        fingerprint: fingerprint("a"),
        block_bytes: BLOCK,
        budget: 4096 + blocks * STRIDE + slabs * 8192,
        policy: PolicyKind::Lru,
    }
}

fn open(media: impl Media + 'static, blocks: u64) -> SlabStore {
    SlabStore::open(Box::new(media), config(blocks)).unwrap()
}

fn namer(store: &SlabStore) -> Namer {
    Namer::new(store.secret(), 0, fingerprint("a"))
}

/// Block `i` of tenant `i % 3`, the first of a chain.
fn name(store: &SlabStore, i: u32) -> BlockName {
    let namer = namer(store);
    let root = namer.root(&[(i % 3) as u8]);
    after(&namer, root, root, i)
}

fn after(namer: &Namer, root: Key, parent: Key, i: u32) -> BlockName {
    let tokens = [i; BLOCK_TOKENS];
    BlockName {
        key: namer.child(&parent, &tokens),
        parent,
        root,
        tokens,
    }
}

fn root(store: &SlabStore, tenant: u8) -> Key {
    namer(store).root(&[tenant])
}

/// The content of a block: 5000 bytes, unless told otherwise.
fn content_of(key: &Key, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new()
        .update(key.as_bytes())
        .finalize_xof()
        .fill(&mut out);
    out
}

fn put(store: &SlabStore, blocks: impl IntoIterator<Item = u32>) -> std::io::Result<usize> {
    let names: Vec<_> = blocks.into_iter().map(|i| name(store, i)).collect();
    let contents: Vec<_> = names.iter().map(|name| content_of(&name.key, BLOCK)).collect();
    let batch: Vec<_> = names
        .iter()
        .zip(&contents)
        .map(|(name, c)| (*name, &c[..]))
        .collect();
    store.put(&batch)
}

/// Whether a block is there. It must be the right one.
fn try_get(store: &SlabStore, i: u32) -> std::io::Result<bool> {
    let name = name(store, i);
    let mut out = vec![0; BLOCK];
    let found = store.get(&name, &mut out)?;
    assert!(
        !found || out == content_of(&name.key, BLOCK),
        "wrong content of block {i}"
    );
    Ok(found)
}

fn get(store: &SlabStore, i: u32) -> bool {
    try_get(store, i).unwrap()
}

fn present(store: &SlabStore, blocks: std::ops::Range<u32>) -> Vec<u32> {
    blocks.filter(|&i| get(store, i)).collect()
}

/// Numbers that look random, the same in every run.
fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11
    }
}

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |n| n.parse().unwrap())
}
