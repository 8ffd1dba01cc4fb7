use super::prefix::{Fingerprint, Key, Namer, PolicyKind, PrefixIndex, Secret};
use super::*;
use crate::kernel::{CpuLevel, RowType};

fn geometry(ty: RowType) -> Geometry {
    Geometry::new(
        ty,
        vec![
            LayerShape {
                n_kv_heads: 2,
                key_dim: 8,
                value_dim: 16,
                window: None,
            };
            3
        ],
    )
    .unwrap()
}

fn cache(max_sequences: usize, blocks: u64) -> KvCache {
    let g = geometry(RowType::F32);
    let budget = g.block_bytes() as u64 * blocks;
    KvCache::new(g, max_sequences, 4096, budget).unwrap()
}

#[test]
fn rows_come_back_where_they_were_stored() {
    let kernels = Kernels::for_level(CpuLevel::Scalar).unwrap();
    let mut cache = cache(2, 8);
    let s = cache.open().unwrap();
    cache.reserve(s, 40).unwrap();
    for position in 0..40 {
        for layer in 0..3 {
            let k: Vec<f32> = (0..16)
                .map(|i| (position * 1000 + layer * 100 + i) as f32)
                .collect();
            let v: Vec<f32> = (0..32)
                .map(|i| -((position * 1000 + layer * 100 + i) as f32))
                .collect();
            cache.store(kernels, s, layer, position, &k, &v);
        }
    }
    cache.advance(s, 40);
    assert_eq!(cache.len(s), 40);
    let columns: &[f32] = bytemuck::cast_slice(cache.keys(s, 2, 1, 1));
    assert_eq!(columns[5 * BLOCK_TOKENS + 3], (35 * 1000 + 200 + 8 + 5) as f32);
    let rows: &[f32] = bytemuck::cast_slice(cache.values(s, 0, 1, 0));
    assert_eq!(rows[31 * 16 + 15], -((31 * 1000 + 31) as f32));
}

#[test]
fn a_full_pool_refuses_and_keeps_what_there_was() {
    let mut cache = cache(3, 4);
    let (a, b) = (cache.open().unwrap(), cache.open().unwrap());
    cache.reserve(a, 3 * BLOCK_TOKENS).unwrap();
    cache.advance(a, 3 * BLOCK_TOKENS);
    let e = cache.reserve(b, BLOCK_TOKENS + 1).unwrap_err();
    assert_eq!((e.needed, e.free), (2, 1));
    cache.reserve(b, BLOCK_TOKENS).unwrap();
    cache.close(a);
    assert_eq!(cache.pool().free(), 3);
    cache.close(b);
    assert_eq!((cache.pool().free(), cache.tokens()), (4, 0));
}

#[test]
fn truncating_releases_whole_blocks_only() {
    let mut cache = cache(1, 4);
    let s = cache.open().unwrap();
    assert!(cache.open().is_none());
    cache.reserve(s, 70).unwrap();
    cache.advance(s, 70);
    cache.truncate(s, 33);
    assert_eq!((cache.len(s), cache.pool().free()), (33, 2));
    cache.truncate(s, 32);
    assert_eq!(cache.pool().free(), 3);
}

#[test]
fn trimming_gives_memory_back_and_blocks_can_be_taken_again() {
    let mut cache = cache(1, 4096);
    let s = cache.open().unwrap();
    cache.reserve(s, 4000).unwrap();
    assert!(cache.pool().resident_bytes() > 0);
    cache.close(s);
    let resident = cache.pool().resident_bytes();
    assert_eq!(cache.trim(u64::MAX), resident);
    assert_eq!(cache.pool().resident_bytes(), 0);
    let s = cache.open().unwrap();
    cache.reserve(s, 4000).unwrap();
}

#[test]
fn a_budget_without_end_costs_nothing_until_it_is_used() {
    let mut cache = KvCache::new(geometry(RowType::F16), 1, 4096, u64::MAX).unwrap();
    assert_eq!(cache.pool().resident_bytes(), 0);
    let s = cache.open().unwrap();
    cache.reserve(s, 4096).unwrap();
    assert_eq!(cache.pool().used(), 4096 / BLOCK_TOKENS);
}

#[test]
fn released_blocks_are_taken_again_before_new_memory() {
    let mut cache = cache(2, 65536);
    let (a, b) = (cache.open().unwrap(), cache.open().unwrap());
    for _ in 0..3 {
        cache.reserve(a, 100_000).unwrap();
        cache.reserve(b, 32).unwrap();
        let resident = cache.pool().resident_bytes();
        cache.truncate(a, 0);
        cache.reserve(a, 100_000).unwrap();
        assert_eq!(cache.pool().resident_bytes(), resident);
        cache.truncate(b, 0);
        cache.truncate(a, 0);
        assert_eq!(cache.trim(u64::MAX), resident);
    }
}

/// A cache with an index, and the root of its prefixes.
fn indexed(max_sequences: usize, blocks: u64) -> (KvCache, Key) {
    let cache = cache(max_sequences, blocks);
    let fingerprint = Fingerprint::new(cache.pool().geometry(), &[]);
    let namer = Namer::new(Secret::random(), 0, fingerprint);
    let cache = cache.with_index(PrefixIndex::new(namer, PolicyKind::Adaptive));
    let root = cache.index().unwrap().root(b"");
    (cache, root)
}

/// Stores a token's id as its keys and values: what is read back says which token it was.
fn write(cache: &mut KvCache, s: SequenceId, tokens: &[u32]) {
    let kernels = Kernels::for_level(CpuLevel::Scalar).unwrap();
    let begin = cache.len(s);
    cache.reserve(s, tokens.len() - begin).unwrap();
    for (i, &token) in tokens.iter().enumerate().skip(begin) {
        for layer in 0..3 {
            cache.store(kernels, s, layer, i, &[token as f32; 16], &[token as f32; 32]);
        }
    }
    cache.advance(s, tokens.len() - begin);
}

fn check(cache: &KvCache, s: SequenceId, tokens: &[u32]) {
    assert_eq!(cache.len(s), tokens.len());
    for (i, &token) in tokens.iter().enumerate() {
        let (block, slot) = (i / BLOCK_TOKENS, i % BLOCK_TOKENS);
        let keys: &[f32] = bytemuck::cast_slice(cache.keys(s, 1, 1, block));
        assert_eq!(keys[3 * BLOCK_TOKENS + slot], token as f32, "key {i}");
        let values: &[f32] = bytemuck::cast_slice(cache.values(s, 2, 0, block));
        assert_eq!(values[slot * 16], token as f32, "value {i}");
    }
}

fn run(cache: &mut KvCache, root: Key, tokens: &[u32]) -> (SequenceId, usize) {
    let s = cache.open().unwrap();
    let prefix = cache.find(root, tokens);
    cache.adopt(s, root, &prefix);
    check(cache, s, &tokens[..prefix.len()]);
    write(cache, s, tokens);
    check(cache, s, tokens);
    (s, prefix.len())
}

#[test]
fn finished_sequences_serve_later_ones_to_the_token() {
    let (mut cache, root) = indexed(2, 16);
    let a: Vec<u32> = (0..75).collect();
    let (s, _) = run(&mut cache, root, &a);
    cache.close_keeping(s, root, &a);
    assert_eq!((cache.pool().used(), cache.pool().cached()), (0, 3));
    // All of it but the last token, whose logits are wanted.
    let (s, cached) = run(&mut cache, root, &a);
    assert_eq!((cached, cache.pool().used(), cache.pool().cached()), (74, 3, 1));
    // A branch within the second block.
    let mut b = a.clone();
    b[50] = 900;
    let (t, cached) = run(&mut cache, root, &b);
    assert_eq!(cached, 50);
    check(&cache, s, &a);
    assert_eq!(cache.tokens(), 75 + 75 - 32);
    cache.close_keeping(t, root, &b);
    cache.close_keeping(s, root, &a);
    assert_eq!(cache.find(root, &b).len(), 74);
    assert_eq!(cache.find(root, &a).len(), 74);
    let other = cache.index().unwrap().root(b"other");
    assert_eq!(cache.find(other, &a).len(), 0);
    cache.forget_prefixes(Some(other));
    assert_eq!(cache.find(root, &a).len(), 74);
    cache.forget_prefixes(Some(root));
    assert_eq!((cache.find(root, &a).len(), cache.pool().free()), (0, 16));
}

#[test]
fn sequences_that_compute_the_same_at_once_end_with_one_copy() {
    let (mut cache, root) = indexed(2, 16);
    let a: Vec<u32> = (0..64).collect();
    let (s, _) = run(&mut cache, root, &a);
    let (t, cached) = run(&mut cache, root, &a);
    assert_eq!((cached, cache.pool().used()), (0, 4));
    cache.seal(s, root, &a);
    cache.seal(t, root, &a);
    assert_eq!((cache.pool().used(), cache.tokens()), (2, 64));
    check(&cache, s, &a);
    check(&cache, t, &a);
    cache.close(s);
    assert_eq!((cache.pool().used(), cache.pool().cached()), (2, 0));
    cache.close(t);
    assert_eq!((cache.pool().used(), cache.pool().cached()), (0, 2));
}

#[test]
fn a_fork_shares_until_one_writes() {
    let (mut cache, root) = indexed(3, 16);
    let a: Vec<u32> = (0..40).collect();
    let (s, _) = run(&mut cache, root, &a);
    let t = cache.fork(s).unwrap();
    assert_eq!((cache.pool().used(), cache.held_blocks(t)), (2, 1));
    let mut b = a.clone();
    b.extend(500..560);
    write(&mut cache, t, &b);
    check(&cache, s, &a);
    check(&cache, t, &b);
    let mut c = a.clone();
    c.push(7);
    write(&mut cache, s, &c);
    check(&cache, s, &c);
    check(&cache, t, &b);
    assert_eq!(cache.pool().used(), 1 + 1 + 3);
    // Back to within a shared block, and on from there.
    cache.truncate(t, 20);
    b.truncate(20);
    b.extend(800..830);
    write(&mut cache, t, &b);
    check(&cache, s, &c);
    check(&cache, t, &b);
    cache.close_keeping(s, root, &c);
    cache.close_keeping(t, root, &b);
    assert_eq!(cache.pool().used(), 0);
}

#[test]
fn cached_blocks_make_room_and_used_ones_never() {
    let (mut cache, root) = indexed(2, 8);
    let first: Vec<u32> = (0..100).collect();
    let (s, _) = run(&mut cache, root, &first);
    cache.seal(s, root, &first);
    for round in 1..40 {
        let tokens: Vec<u32> = (0..100).map(|i| round * 1000 + i).collect();
        let (t, _) = run(&mut cache, root, &tokens);
        cache.close_keeping(t, root, &tokens);
        assert_eq!(cache.pool().free() + cache.pool().cached(), 4);
        check(&cache, s, &first);
    }
    assert!(cache.index().unwrap().evictions() > 100);
    cache.close(s);
    let all = cache.open().unwrap();
    cache.reserve(all, 8 * BLOCK_TOKENS).unwrap();
    assert_eq!((cache.pool().used(), cache.pool().cached()), (8, 0));
    assert!(cache.index().unwrap().is_empty());
}

#[test]
fn trimming_takes_cached_blocks_and_leaves_used_ones() {
    let (mut cache, root) = indexed(2, 4096);
    let a: Vec<u32> = (0..2000).collect();
    let (s, _) = run(&mut cache, root, &a);
    cache.close_keeping(s, root, &a);
    let resident = cache.pool().resident_bytes();
    assert_eq!(cache.trim(u64::MAX), resident);
    assert_eq!((cache.pool().cached(), cache.find(root, &a).len()), (0, 0));
    let (s, cached) = run(&mut cache, root, &a);
    assert_eq!(cached, 0);
    assert_eq!(cache.trim(u64::MAX), 0);
    check(&cache, s, &a);
}

#[test]
fn random_sequences_read_what_they_wrote() {
    for (seed, blocks) in [(1u64, 24), (2, 40), (3, 400)] {
        let (mut cache, root) = indexed(4, blocks);
        let mut state = seed;
        let mut random = |n: u64| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        let mut texts: Vec<Vec<u32>> = vec![vec![1]];
        let mut open: Vec<(SequenceId, Vec<u32>)> = Vec::new();
        for _ in 0..600 {
            if open.len() == 4 || (!open.is_empty() && random(3) == 0) {
                let (s, tokens) = open.swap_remove(random(open.len() as u64) as usize);
                check(&cache, s, &tokens);
                if random(5) == 0 {
                    cache.close(s);
                } else {
                    cache.close_keeping(s, root, &tokens);
                }
                continue;
            }
            let mut tokens = texts[random(texts.len() as u64) as usize].clone();
            tokens.truncate(1 + random(120) as usize);
            for _ in 0..1 + random(40) {
                tokens.push(random(3) as u32);
            }
            let s = cache.open().unwrap();
            let prefix = cache.find(root, &tokens);
            cache.adopt(s, root, &prefix);
            if cache.reserve(s, tokens.len() - cache.len(s)).is_err() {
                cache.close(s);
                continue;
            }
            write(&mut cache, s, &tokens);
            if random(2) == 0 {
                cache.seal(s, root, &tokens);
            }
            texts.push(tokens.clone());
            open.push((s, tokens));
            for (s, tokens) in &open {
                check(&cache, *s, tokens);
            }
        }
        for (s, _) in open {
            cache.close(s);
        }
        assert_eq!(cache.pool().used(), 0);
        assert_eq!(cache.pool().cached(), cache.index().unwrap().len());
    }
}
