//! Caches of several groups: what a sequence holds, what is found again, and what goes first.

use super::group::ROLL_BACK;
use super::prefix::{Fingerprint, Key, Namer, PolicyKind, PrefixIndex, Secret};
use super::*;
use crate::kernel::{CpuLevel, RowType};

const WINDOWS: [Option<usize>; 4] = [None, Some(40), None, Some(100)];
const STEP: usize = 70;
const MAX_TOKENS: usize = 4096;

fn geometry(windows: &[Option<usize>]) -> Geometry {
    let shape = |&window: &Option<usize>| LayerShape {
        n_kv_heads: 1,
        key_dim: 4,
        value_dim: 4,
        window,
    };
    Geometry::new(RowType::F32, windows.iter().map(shape).collect()).unwrap()
}

/// A cache with an index whose budget holds so many sequences, and the root of its prefixes.
fn cache_of(windows: &[Option<usize>], max_sequences: usize, sequences: u64) -> (KvCache, Key) {
    let geometry = geometry(windows);
    let budget = sequences * geometry.sequence_bytes(MAX_TOKENS, STEP).unwrap();
    let cache = KvCache::for_steps(&geometry, max_sequences, MAX_TOKENS, STEP, budget).unwrap();
    let namer = Namer::new(Secret::fixed([3; 32]), 0, Fingerprint::new(&geometry, &[]));
    let cache = cache.with_index(PrefixIndex::new(namer, PolicyKind::Lru));
    let root = cache.index().unwrap().root(b"");
    (cache, root)
}

fn cache(max_sequences: usize, sequences: u64) -> (KvCache, Key) {
    cache_of(&WINDOWS, max_sequences, sequences)
}

/// Stores the missing tokens in pieces, and every piece's window is given up. A token's id is its key and value.
fn write(cache: &mut KvCache, s: SequenceId, root: Option<Key>, tokens: &[u32]) -> Result<(), KvFull> {
    let kernels = Kernels::for_level(CpuLevel::Scalar).unwrap();
    while cache.len(s) < tokens.len() {
        let begin = cache.len(s);
        let n = (tokens.len() - begin).min(STEP);
        cache.reserve(s, n)?;
        for (i, &token) in tokens.iter().enumerate().skip(begin).take(n) {
            for layer in 0..cache.layers.len() {
                cache.store(kernels, s, layer, i, &[token as f32; 4], &[token as f32; 4]);
            }
        }
        cache.advance(s, n);
        if let Some(root) = root {
            cache.seal(s, root, &tokens[..begin + n]);
        }
        cache.slide(s, root.map(|root| (root, &tokens[..begin + n])));
    }
    Ok(())
}

/// The next row of the sequence sees its tokens.
fn check(cache: &KvCache, s: SequenceId, tokens: &[u32]) {
    assert_eq!(cache.len(s), tokens.len());
    for layer in 0..cache.layers.len() {
        let window = cache.layer(layer).0.pool.geometry().layer(0).window;
        let first = (tokens.len() + 1).saturating_sub(window.unwrap_or(usize::MAX));
        for (i, &token) in tokens.iter().enumerate().skip(first) {
            let keys: &[f32] = bytemuck::cast_slice(cache.keys(s, layer, 0, i / BLOCK_TOKENS));
            assert_eq!(
                keys[BLOCK_TOKENS + i % BLOCK_TOKENS],
                token as f32,
                "key {i} of {layer}"
            );
            let values: &[f32] = bytemuck::cast_slice(cache.values(s, layer, 0, i / BLOCK_TOKENS));
            assert_eq!(values[i % BLOCK_TOKENS * 4], token as f32, "value {i} of {layer}");
        }
    }
}

fn run(cache: &mut KvCache, root: Key, tokens: &[u32]) -> (SequenceId, usize) {
    let s = cache.open().unwrap();
    let prefix = cache.find(root, tokens);
    cache.adopt(s, root, &prefix);
    check(cache, s, &tokens[..prefix.len()]);
    write(cache, s, Some(root), tokens).unwrap();
    cache.checkpoint(s);
    check(cache, s, tokens);
    (s, prefix.len())
}

#[test]
fn layers_of_a_kind_share_a_group_and_groups_divide_the_budget_by_need() {
    let (cache, _) = cache(2, 3);
    let kinds: Vec<_> = cache.groups.iter().map(|g| g.kind).collect();
    let expected = [GroupKind::Full, GroupKind::Window(40), GroupKind::Window(100)];
    assert_eq!(kinds, expected);
    let places: Vec<_> = cache.layers.iter().map(|p| (p.group, p.layer)).collect();
    assert_eq!(places, [(0, 0), (1, 0), (0, 1), (2, 0)]);
    for group in &cache.groups {
        let most = group.kind.most_blocks(MAX_TOKENS, STEP);
        assert_eq!(group.pool.capacity(), 3 * most);
    }
    assert_eq!(cache.max_tokens(), 3 * MAX_TOKENS);
    // Too small for a window: a sequence then fits as in a full group.
    let geometry = geometry(&WINDOWS);
    let budget = geometry.sequence_bytes(MAX_TOKENS, STEP).unwrap() / 2;
    let cache = KvCache::for_steps(&geometry, 1, MAX_TOKENS, STEP, budget).unwrap();
    let least = cache.groups.iter().map(|g| g.pool.capacity()).min().unwrap();
    assert_eq!(cache.max_tokens(), least * BLOCK_TOKENS);
    // A window beyond the context needs no more than the context.
    let all = self::geometry(&[Some(usize::MAX)])
        .sequence_bytes(MAX_TOKENS, STEP)
        .unwrap();
    assert_eq!(
        all,
        self::geometry(&[None]).sequence_bytes(MAX_TOKENS, STEP).unwrap()
    );
}

#[test]
fn a_prefix_of_whole_blocks_has_what_its_next_row_sees() {
    for windows in [
        &[Some(70)][..],
        &[None],
        &[None, Some(70)],
        &[Some(40), Some(100)],
    ] {
        let (mut cache, root) = cache_of(windows, 2, 4);
        let tokens: Vec<u32> = (0..300).collect();
        let (s, _) = run(&mut cache, root, &tokens);
        cache.close_keeping(s, root, &tokens);
        for common in 180..260 {
            let mut other = tokens.clone();
            other[common] = 9000;
            let found = cache.find(root, &other);
            let whole = cache.find_whole(root, &other, found);
            assert!(whole.len().is_multiple_of(BLOCK_TOKENS) && whole.len() <= common);
            let s = cache.open().unwrap();
            cache.adopt(s, root, &whole);
            check(&cache, s, &other[..whole.len()]);
            cache.close(s);
        }
    }
}

#[test]
fn windows_bound_the_blocks_of_a_sequence() {
    for indexed in [false, true] {
        let (mut cache, root) = cache(1, 1);
        let root = indexed.then_some(root);
        let tokens: Vec<u32> = (0..4000).collect();
        let s = cache.open().unwrap();
        if let Some(root) = root {
            cache.adopt(s, root, &prefix::Prefix::default());
        }
        for end in (1..=4000).step_by(61) {
            write(&mut cache, s, root, &tokens[..end]).unwrap();
            check(&cache, s, &tokens[..end]);
            assert_eq!(cache.groups[0].pool.used(), end.div_ceil(BLOCK_TOKENS));
            for group in &cache.groups[1..] {
                let GroupKind::Window(window) = group.kind else {
                    unreachable!()
                };
                // What the next row and those it can be taken back to see.
                let most = (window + ROLL_BACK).div_ceil(BLOCK_TOKENS) + 1;
                assert!(group.pool.used() <= most, "{end} {window}: {}", group.pool.used());
                assert!(end < 1000 || group.pool.used() + 1 >= most);
                let cached = if indexed {
                    group.index.as_ref().unwrap().len()
                } else {
                    0
                };
                assert!(indexed || group.pool.cached() == 0);
                assert!(group.pool.used() + group.pool.cached() <= group.pool.capacity());
                assert!(!indexed || end < 2000 || cached + 4 > group.pool.capacity());
            }
        }
        cache.close(s);
        assert_eq!((cache.usage().bytes_used, cache.tokens()), (0, 0));
    }
}

#[test]
fn a_sequence_can_be_shortened_a_little_and_begins_again_beyond() {
    let (mut cache, _) = cache(2, 2);
    let tokens: Vec<u32> = (0..1000).collect();
    let s = cache.open().unwrap();
    for len in [500, 544, 577, 991] {
        write(&mut cache, s, None, &tokens[..len]).unwrap();
        for less in [1, 7, ROLL_BACK] {
            write(&mut cache, s, None, &tokens[..len]).unwrap();
            assert_eq!(cache.truncate(s, len - less), len - less);
            check(&cache, s, &tokens[..len - less]);
        }
    }
    write(&mut cache, s, None, &tokens).unwrap();
    let t = cache.open().unwrap();
    assert_eq!(cache.share(s, t, 999), 999);
    check(&cache, t, &tokens[..999]);
    assert_eq!(cache.share(s, t, 500), 0);
    assert_eq!(cache.truncate(s, 500), 0);
    write(&mut cache, s, None, &tokens[..10]).unwrap();
    check(&cache, s, &tokens[..10]);
}

/// Ten turns of a chat, each longer than the windows; answers its tokens and where the turns ended.
fn chat(cache: &mut KvCache, root: Key) -> (Vec<u32>, Vec<usize>) {
    let (mut tokens, mut ends) = (Vec::new(), Vec::new());
    for turn in 0..10u32 {
        tokens.extend((0..171 + 13 * turn).map(|i| 1000 * turn + i));
        let (s, cached) = run(cache, root, &tokens);
        assert_eq!(Some(cached), ends.last().copied().or(Some(0)));
        // The answer, token by token.
        for i in 0..143 {
            tokens.push(1000 * turn + 500 + i);
            write(cache, s, Some(root), &tokens).unwrap();
        }
        check(cache, s, &tokens);
        cache.close_keeping(s, root, &tokens);
        ends.push(tokens.len());
    }
    (tokens, ends)
}

#[test]
fn branches_of_a_chat_hit_at_the_end_of_every_turn() {
    let (mut cache, root) = cache(2, 30);
    let (tokens, ends) = chat(&mut cache, root);
    // Nothing was evicted: a hit is as long as what agrees, anywhere.
    for len in [50, 171, 400, 1000, tokens.len() - 1] {
        let mut branch = tokens[..len].to_vec();
        branch.extend([77_777; 20]);
        assert_eq!(cache.find(root, &branch).len(), len);
    }
    // Everything that left a window and is no checkpoint goes first.
    for group in &mut cache.groups[1..] {
        let GroupKind::Window(window) = group.kind else {
            unreachable!()
        };
        // The end of a prompt, and that of a completion with what it could be taken back, in each turn.
        let checkpoints = 10 * (2 * window.div_ceil(BLOCK_TOKENS) + 3);
        let cached = group.pool.cached();
        assert!(cached > checkpoints, "{window}: {cached}");
        for _ in checkpoints..cached {
            assert!(group.evict());
        }
    }
    for (turn, &end) in ends.iter().enumerate() {
        let mut branch = tokens[..end].to_vec();
        branch.extend([77_777; 20]);
        assert_eq!(cache.find(root, &branch).len(), end, "turn {turn}");
        // Tokens at the border may be others.
        branch[end - 5..].fill(88_888);
        let found = cache.find(root, &branch).len();
        assert_eq!(found, end - 5, "turn {turn}");
    }
    // The same question once more, and another way out of it.
    let question = ends[4] + 171 + 13 * 5;
    let mut branch = tokens[..question].to_vec();
    branch.extend([99_999; 50]);
    let (s, cached) = run(&mut cache, root, &branch);
    assert_eq!(cached, question);
    cache.close_keeping(s, root, &branch);
}

#[test]
fn without_checkpoints_a_branch_begins_earlier() {
    let (mut cache, root) = cache(2, 30);
    let (tokens, ends) = chat(&mut cache, root);
    for group in &mut cache.groups[1..] {
        while group.pool.cached() > 20 * 3 {
            assert!(group.evict());
        }
    }
    // In the middle of an answer there is none.
    let mut branch = tokens[..ends[6] - 45].to_vec();
    branch.extend([77_777; 20]);
    let found = cache.find(root, &branch).len();
    assert!(found < ends[6] - 45 && found >= ends[5], "{found} {ends:?}");
    // Without the window groups' blocks nothing is found, though the full group has all.
    while cache.groups[1].evict() {}
    assert_eq!(cache.find(root, &branch).len(), 0);
    assert!(cache.groups[0].pool.cached() > 50);
}

#[test]
fn salts_are_apart_in_every_group_and_are_forgotten_in_every_group() {
    let (mut cache, root) = cache(2, 4);
    let other = cache.index().unwrap().root(b"other");
    let tokens: Vec<u32> = (0..300).collect();
    let (s, _) = run(&mut cache, root, &tokens);
    cache.close_keeping(s, root, &tokens);
    assert_eq!(cache.find(root, &tokens).len(), 299);
    assert!(cache.find(other, &tokens).is_empty());
    cache.forget_prefixes(Some(other));
    assert_eq!(cache.find(root, &tokens).len(), 299);
    cache.forget_prefixes(Some(root));
    assert!(cache.find(root, &tokens).is_empty());
    for group in &cache.groups {
        assert_eq!((group.pool.used(), group.pool.cached()), (0, 0));
        assert!(group.index.as_ref().unwrap().is_empty());
    }
}

#[test]
fn a_hit_is_cut_to_whole_blocks_in_all_groups() {
    let (mut cache, root) = cache(2, 4);
    let tokens: Vec<u32> = (0..300).collect();
    let (s, _) = run(&mut cache, root, &tokens);
    cache.close_keeping(s, root, &tokens);
    let prefix = cache.find(root, &tokens);
    let whole = cache.find_whole(root, &tokens, prefix);
    assert_eq!(whole.len(), 288);
    assert!(whole.others.iter().all(|p| p.len() == 288 && p.partial.is_none()));
    let t = cache.open().unwrap();
    cache.adopt(t, root, &whole);
    check(&cache, t, &tokens[..288]);
}

#[test]
fn random_sequences_read_what_they_wrote() {
    let shapes: [&[Option<usize>]; 3] = [&WINDOWS, &[Some(1), Some(33)], &[None, Some(64)]];
    for (seed, sequences, windows) in [(1u64, 1, 0), (2, 2, 1), (3, 2, 2), (4, 3, 0), (5, 1, 2)] {
        let (mut cache, root) = cache_of(shapes[windows], 4, sequences);
        let mut state = seed;
        let mut random = |n: u64| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        let mut texts: Vec<Vec<u32>> = vec![vec![1]];
        let mut open: Vec<(SequenceId, Vec<u32>)> = Vec::new();
        let mut hits = 0;
        for _ in 0..500 {
            if open.len() == 4 || (!open.is_empty() && random(3) == 0) {
                let (s, tokens) = open.swap_remove(random(open.len() as u64) as usize);
                check(&cache, s, &tokens);
                match random(5) {
                    0 => cache.close(s),
                    _ => cache.close_keeping(s, root, &tokens),
                }
                continue;
            }
            if open.len() < 4 && random(6) == 0 && !open.is_empty() {
                let (s, tokens) = open[random(open.len() as u64) as usize].clone();
                let t = cache.fork(s).unwrap();
                check(&cache, t, &tokens);
                open.push((t, tokens));
            }
            if open.len() == 4 {
                continue;
            }
            let mut tokens = texts[random(texts.len() as u64) as usize].clone();
            tokens.truncate(1 + random(400) as usize);
            for _ in 0..1 + random(90) {
                tokens.push(random(3) as u32);
            }
            let s = cache.open().unwrap();
            let prefix = cache.find(root, &tokens);
            hits += prefix.len();
            cache.adopt(s, root, &prefix);
            check(&cache, s, &tokens[..prefix.len()]);
            let done = write(&mut cache, s, Some(root), &tokens).is_ok();
            tokens.truncate(cache.len(s));
            if done && random(2) == 0 {
                cache.checkpoint(s);
            }
            let less = random(tokens.len().min(9) as u64 + 1) as usize;
            if done && random(4) == 0 {
                let left = cache.truncate(s, tokens.len() - less);
                assert!(left == tokens.len() - less || left == 0);
                tokens.truncate(left);
            }
            texts.push(tokens.clone());
            if texts[texts.len() - 1].is_empty() {
                texts.pop();
            }
            open.push((s, tokens));
            for (s, tokens) in &open {
                check(&cache, *s, tokens);
            }
        }
        assert!(hits > 1000, "{hits}");
        for (s, _) in open {
            cache.close(s);
        }
        for group in &cache.groups {
            assert_eq!(group.pool.used(), 0);
            assert_eq!(group.pool.cached(), group.index.as_ref().unwrap().len());
        }
    }
}
