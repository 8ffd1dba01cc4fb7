#![allow(clippy::unwrap_used, reason = "test code")]

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use super::*;

const LAYERS: usize = 3;
const HEADS: usize = 2;
const DIM: usize = 24;
const ROW: usize = HEADS * DIM;

pub(super) fn options(kv_type: &'static str, blocks: usize) -> KvCacheOptions {
    KvCacheOptions {
        n_layers: LAYERS,
        n_kv_heads: HEADS,
        head_dim: DIM,
        kv_type,
        hot_tokens: blocks * BLOCK_TOKENS,
        policy: "lru",
        ..KvCacheOptions::default()
    }
}

fn store(kv_type: &'static str, blocks: usize) -> KvStore {
    KvStore::new(&options(kv_type, blocks)).unwrap()
}

/// A value in -1…1 that depends on everything.
fn value(seed: u32, layer: usize, position: usize, element: usize, is_value: bool) -> f32 {
    let mut x = seed
        .wrapping_mul(0x9e37_79b9)
        .wrapping_add((layer * 1_000_003 + position * 4099 + element * 17 + usize::from(is_value)) as u32);
    x = (x ^ (x >> 15)).wrapping_mul(0x2c1b_3c6d);
    x = (x ^ (x >> 12)).wrapping_mul(0x297a_2d39);
    (x >> 8) as f32 / (1 << 23) as f32 - 1.0
}

fn rows(seed: u32, layer: usize, position: usize, n: usize, is_value: bool) -> Vec<f32> {
    let of = |p| (0..ROW).map(move |e| value(seed, layer, p, e, is_value));
    (position..position + n).flat_map(of).collect()
}

/// Stores `n` tokens behind those there are, in calls of `batch`.
pub(super) fn fill(sequence: &Sequence, seed: u32, n: usize, batch: usize) {
    let from = sequence.len();
    for layer in 0..LAYERS {
        for at in (from..from + n).step_by(batch) {
            let n = batch.min(from + n - at);
            let (k, v) = (rows(seed, layer, at, n, false), rows(seed, layer, at, n, true));
            sequence
                .store_batch(layer, at, n, Elements::F32(&k), Elements::F32(&v))
                .unwrap();
        }
    }
    sequence.advance(n).unwrap();
}

fn fetch(sequence: &Sequence, layer: usize, position: usize, n: usize) -> (Vec<f32>, Vec<f32>) {
    let (mut k, mut v) = (vec![9.0; n * ROW], vec![9.0; n * ROW]);
    let (to_k, to_v) = (ElementsMut::F32(&mut k), ElementsMut::F32(&mut v));
    sequence.fetch(layer, position, n, to_k, to_v).unwrap();
    (k, v)
}

/// Largest difference to what `fill` stored.
pub(super) fn difference(sequence: &Sequence, seed: u32, position: usize, n: usize) -> f32 {
    let mut largest = 0.0f32;
    for layer in 0..LAYERS {
        let (k, v) = fetch(sequence, layer, position, n);
        let expected = [false, true].map(|is_value| rows(seed, layer, position, n, is_value));
        for (found, expected) in k.iter().chain(&v).zip(expected.iter().flatten()) {
            largest = largest.max((found - expected).abs());
        }
    }
    largest
}

fn text(e: impl std::fmt::Display) -> String {
    e.to_string()
}

#[test]
fn what_is_stored_comes_back_in_every_type_and_batch() {
    for (kv_type, tolerance) in [
        ("f32", 0.0),
        ("f16", 1.0 / 2048.0),
        ("bf16", 1.0 / 256.0),
        ("q8", 0.5 / 127.0 + 1e-6),
    ] {
        for batch in [1, 7, 32, 64] {
            let sequence = store(kv_type, 4).open("").unwrap();
            fill(&sequence, 1, 100, batch);
            let found = difference(&sequence, 1, 0, 100);
            assert!(found <= tolerance, "{kv_type} {batch}: {found}");
            assert!(kv_type == "f32" || found > tolerance / 8.0, "{kv_type}: {found}");
            assert!(difference(&sequence, 1, 31, 35) <= tolerance);
            assert!(
                difference(&sequence, 2, 0, 100) > 0.5,
                "other values would be seen"
            );
        }
    }
}

#[test]
fn stored_elements_are_taken_over_and_given_bit_for_bit() {
    for kv_type in ["f32", "f16", "bf16", "q8"] {
        let store = store(kv_type, 8);
        let (a, b) = (store.open("").unwrap(), store.open("").unwrap());
        fill(&a, 3, 70, 64);
        let bytes = 70 * store.shape().token_bytes();
        let raw = |sequence: &Sequence, layer| {
            let (mut k, mut v) = (vec![0; bytes], vec![0; bytes]);
            let (to_k, to_v) = (ElementsMut::Stored(&mut k), ElementsMut::Stored(&mut v));
            sequence.fetch(layer, 0, 70, to_k, to_v).unwrap();
            (k, v)
        };
        for layer in 0..LAYERS {
            let (k, v) = raw(&a, layer);
            b.store_batch(layer, 0, 70, Elements::Stored(&k), Elements::Stored(&v))
                .unwrap();
        }
        b.advance(70).unwrap();
        for layer in 0..LAYERS {
            assert_eq!(raw(&a, layer), raw(&b, layer));
            assert_eq!(fetch(&a, layer, 0, 70), fetch(&b, layer, 0, 70));
        }
    }
}

#[test]
fn arguments_outside_what_a_call_accepts_are_named() {
    let sequence = store("f32", 4).open("").unwrap();
    let x = rows(0, 0, 0, 2, false);
    let e = text(sequence.store(LAYERS, 0, &x[..ROW], &x[..ROW]).unwrap_err());
    assert!(e.contains("layer") && e.contains('3'), "{e}");
    let e = text(sequence.store(0, 0, &x[..ROW], &x).unwrap_err());
    assert!(
        e.contains("values") && e.contains("48") && e.contains("96"),
        "{e}"
    );
    let e = text(sequence.store(0, 1, &x[..ROW], &x[..ROW]).unwrap_err());
    assert!(e.contains("position 1"), "{e}");
    sequence.store(0, 0, &x[..ROW], &x[..ROW]).unwrap();
    let e = text(sequence.advance(1).unwrap_err());
    assert!(e.contains("layer 1"), "{e}");
    for layer in 1..LAYERS {
        sequence.store(layer, 0, &x[..ROW], &x[..ROW]).unwrap();
    }
    assert!(sequence.advance(2).is_err());
    sequence.advance(1).unwrap();
    assert!(sequence.store(0, 0, &x[..ROW], &x[..ROW]).is_err());
    assert!(sequence.truncate(2).is_err());
    assert!(sequence.seal(&[1, 2]).is_err());
    let mut out = vec![0.0; 2 * ROW];
    let mut more = out.clone();
    let (k, v) = (ElementsMut::F32(&mut out), ElementsMut::F32(&mut more));
    let e = text(sequence.fetch(0, 0, 2, k, v).unwrap_err());
    assert!(e.contains("has 1 tokens"), "{e}");
    assert!(sequence.view(0, usize::MAX, 2).is_err());
    assert!(sequence.view(0, 1, 0).unwrap().is_empty());
    assert!(
        sequence
            .store_batch(0, 1, usize::MAX, Elements::F32(&x), Elements::F32(&x))
            .is_err()
    );
    let many = rows(0, 0, 1, 4 * BLOCK_TOKENS, false);
    let many = Elements::F32(&many);
    let e = text(
        sequence
            .store_batch(0, 1, 4 * BLOCK_TOKENS, many, many)
            .unwrap_err(),
    );
    assert!(e.contains("memory for 128 tokens"), "{e}");
    let nothing = KvStore::new(&KvCacheOptions::default()).unwrap_err();
    assert!(text(nothing).contains("n_layers"));
    let large = KvCacheOptions {
        n_layers: 65536,
        n_kv_heads: 65536,
        head_dim: 65536,
        kv_type: "f32",
        ..KvCacheOptions::default()
    };
    // 2^6 tokens of 2^50 bytes each: a block that fits the address space and no machine.
    if let Ok(store) = KvStore::new(&large) {
        let huge = store.open("").unwrap();
        assert!(huge.view(0, 0, 1).is_err());
    }
}

#[test]
fn forks_share_until_one_writes() {
    let store = store("f32", 8);
    let a = store.open("").unwrap();
    fill(&a, 1, 40, 64);
    let b = a.fork().unwrap();
    assert_eq!((b.len(), store.stats().hot_blocks_used), (40, 2));
    fill(&a, 1, 30, 7);
    assert_eq!(store.stats().copies, 1);
    fill(&b, 2, 10, 3);
    // The first to go on copied, so the other has the block for itself.
    assert_eq!((store.stats().copies, store.stats().hot_blocks_used), (1, 4));
    assert_eq!(difference(&a, 1, 0, 70), 0.0);
    assert_eq!(difference(&b, 1, 0, 40), 0.0);
    assert_eq!(difference(&b, 2, 40, 10), 0.0);
    drop(a);
    assert_eq!(difference(&b, 1, 0, 40), 0.0);
    drop(b);
    assert_eq!((store.stats().hot_blocks_used, store.stats().hot_tokens), (0, 0));
}

#[test]
fn a_fork_keeps_what_was_stored_and_not_advanced_over_yet() {
    let store = store("f32", 8);
    let a = store.open("").unwrap();
    fill(&a, 1, 5, 5);
    let (k, v) = (rows(1, 0, 5, 3, false), rows(1, 0, 5, 3, true));
    a.store_batch(0, 5, 3, Elements::F32(&k), Elements::F32(&v))
        .unwrap();
    let b = a.fork().unwrap();
    for layer in 1..LAYERS {
        let (k, v) = (rows(1, layer, 5, 3, false), rows(1, layer, 5, 3, true));
        a.store_batch(layer, 5, 3, Elements::F32(&k), Elements::F32(&v))
            .unwrap();
    }
    a.advance(3).unwrap();
    assert_eq!(difference(&a, 1, 0, 8), 0.0);
    assert!(b.advance(1).is_err(), "the fork has not stored them");
}

#[test]
fn truncating_forgets_and_going_on_overwrites() {
    let store = store("f32", 8);
    let a = store.open("").unwrap();
    fill(&a, 1, 100, 64);
    for len in [70, 64, 40, 0] {
        a.truncate(len).unwrap();
        assert_eq!((a.len(), store.stats().hot_tokens), (len, len as u64));
        assert_eq!(difference(&a, 1, 0, len), 0.0);
        assert!(a.view(0, 0, len + 1).is_err());
        let blocks = len.div_ceil(BLOCK_TOKENS) as u64;
        assert_eq!(store.stats().hot_blocks_used, blocks);
        fill(&a, 2, 5, 5);
        assert_eq!(difference(&a, 2, len, 5), 0.0);
        assert_eq!(difference(&a, 1, 0, len), 0.0);
        a.truncate(len).unwrap();
    }
    assert_eq!(store.stats().copies, 0, "nobody shared anything");
}

#[test]
fn a_lookup_finds_the_longest_prefix_to_the_token() {
    let store = store("f32", 16);
    let tokens: Vec<u32> = (0..100).collect();
    let a = store.open("").unwrap();
    fill(&a, 1, 100, 64);
    assert_eq!(store.lookup("", &tokens).unwrap().len(), 0, "not sealed");
    assert_eq!(a.seal(&tokens[..50]).unwrap(), 32);
    assert_eq!(a.seal(&tokens).unwrap(), 96);
    drop(a);
    let mut other = tokens.clone();
    other[70] = 1000;
    for (tokens, expected) in [
        (&tokens[..], 96),
        (&tokens[..64], 64),
        (&tokens[..50], 50),
        (&other, 70),
    ] {
        let found = store.lookup("", tokens).unwrap();
        assert_eq!(found.len(), expected);
        assert_eq!(difference(&found, 1, 0, expected), 0.0);
        // Going on copies what is shared and leaves it as it was.
        fill(&found, 2, 20, 20);
        assert_eq!(difference(&found, 1, 0, expected), 0.0);
        assert_eq!(difference(&found, 2, expected, 20), 0.0);
    }
    assert_eq!(difference(&store.lookup("", &tokens).unwrap(), 1, 0, 96), 0.0);
    assert_eq!(store.lookup("tenant", &tokens).unwrap().len(), 0);
    assert_eq!(store.lookup("", &[]).unwrap().len(), 0);
    let stats = store.stats();
    assert_eq!(
        (stats.lookups, stats.misses, stats.hit_tokens),
        (8, 3, 96 * 2 + 64 + 50 + 70)
    );
}

#[test]
fn a_chain_goes_on_behind_a_lookup_and_a_truncation() {
    let store = store("f32", 16);
    let mut tokens: Vec<u32> = (0..128).collect();
    let a = store.open("").unwrap();
    fill(&a, 1, 70, 64);
    a.seal(&tokens[..70]).unwrap();
    let b = store.lookup("", &tokens).unwrap();
    assert_eq!(b.len(), 64);
    fill(&b, 1, 64, 64);
    assert_eq!(b.seal(&tokens).unwrap(), 128);
    assert_eq!(store.lookup("", &tokens).unwrap().len(), 128);
    b.truncate(50).unwrap();
    tokens[50..].fill(7);
    fill(&b, 5, 60, 32);
    assert_eq!(b.seal(&tokens[..110]).unwrap(), 96);
    let c = store.lookup("", &tokens).unwrap();
    assert_eq!(
        (c.len(), difference(&c, 1, 0, 50), difference(&c, 5, 50, 46)),
        (96, 0.0, 0.0)
    );
}

#[test]
fn equal_blocks_are_kept_once_and_different_ones_stay_with_their_sequence() {
    let store = store("f32", 16);
    let tokens: Vec<u32> = (0..64).collect();
    let (a, b, c) = (
        store.open("").unwrap(),
        store.open("").unwrap(),
        store.open("").unwrap(),
    );
    for (sequence, seed) in [(&a, 1), (&b, 1), (&c, 2)] {
        fill(sequence, seed, 64, 64);
        assert_eq!(sequence.seal(&tokens).unwrap(), 64);
    }
    assert_eq!(store.stats().hot_blocks_used, 4);
    assert_eq!(difference(&b, 1, 0, 64), 0.0);
    assert_eq!(difference(&c, 2, 0, 64), 0.0);
    assert_eq!(difference(&store.lookup("", &tokens).unwrap(), 1, 0, 64), 0.0);
}

#[test]
fn only_blocks_that_nobody_uses_are_evicted() {
    let store = store("f32", 4);
    let tokens = |seed: u32| -> Vec<u32> { (0..64).map(|i| seed * 1000 + i).collect() };
    let sealed = |seed| {
        let sequence = store.open("").unwrap();
        fill(&sequence, seed, 64, 64);
        sequence.seal(&tokens(seed)).unwrap();
        sequence
    };
    let a = sealed(1);
    drop(sealed(2));
    assert_eq!(
        (store.stats().hot_blocks_used, store.stats().hot_blocks_cached),
        (2, 2)
    );
    let c = sealed(3);
    assert_eq!(store.stats().evictions, 2);
    assert_eq!(store.lookup("", &tokens(2)).unwrap().len(), 0);
    assert_eq!(difference(&a, 1, 0, 64), 0.0);
    assert_eq!(store.lookup("", &tokens(1)).unwrap().len(), 64);
    // All four are in use now.
    let d = store.open("").unwrap();
    let e = d.store(0, 0, &[0.0; ROW], &[0.0; ROW]).unwrap_err();
    assert!(matches!(
        e,
        Error::KvStoreFull(StoreFull {
            capacity: 4,
            tokens: 128
        })
    ));
    assert!(
        text(&e).contains("all 4") && text(&e).contains("128 tokens"),
        "{e}"
    );
    drop(c);
    fill(&d, 4, 32, 32);
    assert_eq!(difference(&d, 4, 0, 32), 0.0);
    assert_eq!(difference(&a, 1, 0, 64), 0.0);
}

#[test]
fn a_pinned_prefix_stays_until_it_is_unpinned() {
    let store = store("f32", 4);
    let tokens: Vec<u32> = (0..64).collect();
    let a = store.open("").unwrap();
    fill(&a, 1, 64, 64);
    a.seal(&tokens).unwrap();
    drop(a);
    let pin = store.pin("", &tokens[..40]).unwrap();
    assert_eq!(pin.len(), 40);
    assert!(store.pin("tenant", &tokens).unwrap().is_empty());
    let churn = || {
        for seed in 5..9 {
            let b = store.open("").unwrap();
            fill(&b, seed, 64, 64);
            b.seal(&[seed; 64]).unwrap();
        }
    };
    churn();
    assert_eq!(store.lookup("", &tokens).unwrap().len(), 64);
    drop(pin);
    churn();
    assert_eq!(store.lookup("", &tokens).unwrap().len(), 0);
}

#[test]
fn a_view_stays_as_it_is_whatever_becomes_of_the_sequence() {
    for kv_type in ["f32", "q8"] {
        let store = store(kv_type, 6);
        let a = store.open("").unwrap();
        fill(&a, 1, 80, 64);
        a.seal(&[3; 64]).unwrap();
        let view = a.view(1, 10, 70).unwrap();
        assert_eq!(view.len(), 3);
        let copy: Vec<_> = (0..3)
            .map(|i| {
                let part = view.part(i).unwrap();
                (part.position, part.n, part.keys.to_vec(), part.values.to_vec())
            })
            .collect();
        assert_eq!([copy[0].0, copy[1].0, copy[2].0], [10, 32, 64]);
        assert_eq!([copy[0].1, copy[1].1, copy[2].1], [22, 32, 16]);
        let token = store.shape().token_bytes();
        let bytes = 70 * token;
        let (mut k, mut v) = (vec![0; bytes], vec![0; bytes]);
        let (to_k, to_v) = (ElementsMut::Stored(&mut k), ElementsMut::Stored(&mut v));
        a.fetch(1, 10, 70, to_k, to_v).unwrap();
        assert_eq!(copy.iter().flat_map(|c| c.2.clone()).collect::<Vec<_>>(), k);
        assert_eq!(copy.iter().flat_map(|c| c.3.clone()).collect::<Vec<_>>(), v);
        a.truncate(0).unwrap();
        fill(&a, 2, 64, 64);
        drop(a);
        for seed in 5..9 {
            let b = store.open("").unwrap();
            fill(&b, seed, 64, 64);
            b.seal(&[seed; 64]).unwrap();
        }
        assert!(store.stats().evictions > 0);
        for (i, (position, n, keys, values)) in copy.iter().enumerate() {
            let part = view.part(i).unwrap();
            assert_eq!((part.position, part.n), (*position, *n));
            assert!(part.keys == keys && part.values == values);
        }
        assert!(view.part(3).is_none());
    }
}

#[test]
fn readers_go_on_beside_the_writer_and_a_second_writer_is_refused() {
    let store = store("f32", 24);
    let sequence = store.open("").unwrap();
    fill(&sequence, 1, 10, 10);
    let (done, start) = (AtomicBool::new(false), Barrier::new(4));
    std::thread::scope(|scope| {
        for reader in 0..3 {
            let (sequence, done, start, store) = (&sequence, &done, &start, &store);
            scope.spawn(move || {
                start.wait();
                let mut last = 0;
                while !done.load(SeqCst) {
                    let len = sequence.len();
                    assert!(len >= last);
                    last = len;
                    match reader {
                        0 => assert_eq!(difference(sequence, 1, len / 2, len - len / 2), 0.0),
                        1 => {
                            let fork = sequence.fork().unwrap();
                            assert!(fork.len() >= len);
                            assert_eq!(difference(&fork, 1, len - 3, 3), 0.0);
                        }
                        _ => {
                            let view = sequence.view(2, len - 5, 5).unwrap();
                            let last = view.part(view.len() - 1).unwrap();
                            let expected = rows(1, 2, last.position, last.n, true);
                            assert_eq!(last.values, bytemuck::cast_slice::<f32, u8>(&expected));
                            drop(store.lookup("", &[1; 640]).unwrap());
                        }
                    }
                }
            });
        }
        start.wait();
        for i in 0..600 {
            fill(&sequence, 1, 1 + i % 2, 2);
            if i % 50 == 0 {
                sequence.seal(&vec![1; sequence.len()]).unwrap();
            }
            if sequence.len() > 500 {
                break;
            }
        }
        done.store(true, SeqCst);
    });
    let len = sequence.len();
    assert!(len > 500);
    assert_eq!(difference(&sequence, 1, 0, len), 0.0);
    let guard = sequence.writer.lock().unwrap();
    for refused in [
        sequence.store(0, len, &[0.0; ROW], &[0.0; ROW]),
        sequence.advance(0),
        sequence.truncate(0),
        sequence.seal(&[]).map(|_| ()),
    ] {
        assert!(matches!(refused, Err(Error::Busy(_))));
    }
    drop(guard);
    sequence.truncate(0).unwrap();
}

#[test]
fn many_sequences_are_written_at_once() {
    let store = store("f16", 64);
    std::thread::scope(|scope| {
        for t in 0..4u32 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..20 {
                    let seed = t * 100 + round;
                    let sequence = store.open("").unwrap();
                    fill(&sequence, seed, 200, 48);
                    sequence.seal(&[seed; 200]).unwrap();
                    drop(sequence);
                    let found = store.lookup("", &[seed; 200]).unwrap();
                    assert!(difference(&found, seed, 0, found.len()) < 1e-3);
                }
            });
        }
    });
    let stats = store.stats();
    assert!(stats.evictions > 0 && stats.hot_blocks_used == 0, "{stats:?}");
    assert_eq!(stats.tokens_stored, 4 * 20 * 200);
    assert_eq!(stats.utilization(), 1.0);
}

#[test]
fn the_batch_is_measured_once_and_small() {
    let store = store("f16", 2);
    let sequence = store.open("").unwrap();
    let n = sequence.optimal_batch().unwrap();
    assert!(n.is_power_of_two() && n <= 64, "{n}");
    assert!(n > 1, "a call costs more than a row of 48 elements");
    assert_eq!(store.open("").unwrap().optimal_batch().unwrap(), n);
    assert_eq!((sequence.len(), store.stats().tokens_stored), (0, 0));
}
