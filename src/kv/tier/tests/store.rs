//! What is put is there, until it is removed or has to go.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;

use super::*;

#[test]
fn what_is_put_comes_back_also_after_opening_again() {
    let media = MemoryMedia::default();
    let store = open(media.clone(), 40);
    assert_eq!(put(&store, 0..20).unwrap(), 20);
    assert_eq!(put(&store, 15..25).unwrap(), 10);
    assert_eq!(present(&store, 0..30), (0..25).collect::<Vec<_>>());
    let counts = store.counts();
    assert_eq!((counts.blocks, counts.evictions, counts.corrupt), (25, 0, 0));
    assert!(
        counts.writer && counts.written >= 25 * BLOCK as u64 && counts.read == counts.blocks * BLOCK as u64
    );
    assert!(counts.bytes <= counts.budget);
    let mut keys = store.list();
    drop(store);
    let store = open(media, 40);
    assert_eq!(present(&store, 0..30), (0..25).collect::<Vec<_>>());
    let mut again = store.list();
    keys.sort();
    again.sort();
    assert_eq!(keys, again);
    assert_eq!(put(&store, 25..30).unwrap(), 5);
    assert_eq!(present(&store, 0..30).len(), 30);
    assert_eq!(store.counts().foreign_files, 0);
    assert!(store.take_notices().is_empty());
}

#[test]
fn a_name_that_does_not_agree_is_a_miss_and_costs_nothing() {
    let store = open(MemoryMedia::default(), 8);
    put(&store, 0..2).unwrap();
    let right = name(&store, 0);
    let other = name(&store, 1);
    let mut out = vec![0; BLOCK];
    let mut tokens = right;
    tokens.tokens[31] += 1;
    let wrong = [
        tokens,
        BlockName {
            parent: other.key,
            ..right
        },
        BlockName {
            root: other.root,
            ..right
        },
        BlockName {
            key: other.key,
            ..right
        },
    ];
    for name in wrong {
        assert!(!store.get(&name, &mut out).unwrap());
    }
    assert!(get(&store, 0) && get(&store, 1));
    assert_eq!(store.counts().corrupt, 0);
    assert_eq!(
        store.get(&right, &mut out[1..]).unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
    let e = store.put(&[(right, &out[1..])]).unwrap_err();
    assert!(e.to_string().contains("4999 bytes among those of 5000"), "{e}");
}

#[test]
fn the_budget_holds_and_the_least_recent_goes_first() {
    for blocks in [1, 2, 7, 8, 9, 17, 64, 200] {
        let media = MemoryMedia::default();
        let store = open(media.clone(), blocks);
        let mut stored = 0;
        for i in 0..300 {
            put(&store, [i]).unwrap();
            let counts = store.counts();
            stored = counts.blocks;
            let bytes: u64 = media.list().unwrap().iter().map(|(_, len)| len).sum();
            assert!(bytes <= counts.budget, "{bytes} of {}", counts.budget);
            assert!(counts.bytes <= bytes);
        }
        assert!(stored >= blocks - blocks / 8, "{stored} of {blocks}");
        let kept: Vec<_> = (300 - stored as u32..300).collect();
        assert_eq!(present(&store, 0..300), kept);
        assert_eq!(store.counts().evictions, 300 - stored);
        drop(store);
        let store = open(media, blocks);
        assert_eq!(present(&store, 0..300), kept);
    }
}

#[test]
fn a_budget_below_one_block_names_both_figures() {
    let open = |budget| {
        let config = StoreConfig { budget, ..config(1) };
        SlabStore::open(Box::<MemoryMedia>::default(), config)
    };
    for budget in [0, 1, 4096, 20_000] {
        let e = open(budget).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidInput);
        let text = e.to_string();
        assert!(
            text.contains("5000 bytes") && text.contains(&format!("budget is {budget} bytes")),
            "{text}"
        );
    }
    open(4096 + 8192 + 8192).unwrap();
    let config = StoreConfig {
        block_bytes: usize::MAX,
        ..config(1)
    };
    SlabStore::open(Box::<MemoryMedia>::default(), config).unwrap_err();
}

#[test]
fn a_batch_larger_than_the_store_keeps_what_fits() {
    let store = open(MemoryMedia::default(), 16);
    let n = put(&store, 0..100).unwrap();
    assert_eq!((n, store.counts().blocks), (16, 16));
    assert_eq!(present(&store, 0..100), (0..16).collect::<Vec<_>>());
    assert_eq!(put(&store, [50, 50, 51, 50]).unwrap(), 2);
    assert!(get(&store, 50) && get(&store, 51));
}

#[test]
fn a_scan_does_not_push_out_what_is_in_use() {
    let store = open(MemoryMedia::default(), 64);
    let offer = |i: u32| {
        let admitted = store.admits(&name(&store, i));
        if admitted {
            put(&store, [i]).unwrap();
        }
        admitted
    };
    for i in 0..64 {
        assert!(offer(i), "{i}");
        assert!(!offer(i), "it is there");
    }
    let written = store.counts().written;
    // The secret is another one in every run, and with it the places that names share in the sketch: a few look as if they
    // had been seen before.
    let admitted = (1000..1500).filter(|&i| offer(i)).count();
    assert!(admitted <= 5, "{admitted} of 500");
    assert_eq!(store.counts().refusals, 500 - admitted as u64);
    assert_eq!(store.counts().written == written, admitted == 0);
    assert!(present(&store, 0..64).len() >= 64 - admitted);
    // What is asked for again and again gets in.
    let tries = (0..10).take_while(|_| !offer(2000)).count();
    assert!((1..10).contains(&tries), "{tries}");
    assert!(get(&store, 2000));
    // And so does everything, once what is there was not used for long.
    let mut in_time = 0;
    for round in 0..40 {
        in_time += (0..64).filter(|i| offer(3000 + round * 64 + i)).count();
    }
    assert!((64..=256).contains(&in_time), "{in_time}");
}

#[test]
fn a_touched_block_stays_and_a_parent_outlives_its_child() {
    for policy in PolicyKind::ALL {
        let media = MemoryMedia::default();
        let store = SlabStore::open(Box::new(media.clone()), StoreConfig { policy, ..config(32) }).unwrap();
        let namer = namer(&store);
        let root = root(&store, 0);
        let mut chain = vec![];
        for i in 0..8 {
            let parent = chain.last().map_or(root, |b: &BlockName| b.key);
            chain.push(after(&namer, root, parent, 10_000 + i));
        }
        let contents: Vec<_> = chain.iter().map(|b| content_of(&b.key, BLOCK)).collect();
        let batch: Vec<_> = chain.iter().zip(&contents).map(|(b, c)| (*b, &c[..])).collect();
        store.put(&batch).unwrap();
        let keys: Vec<_> = chain.iter().rev().map(|b| b.key).collect();
        let check = |store: &SlabStore| {
            let there: Vec<_> = chain.iter().map(|b| store.contains(&b.key)).collect();
            assert!(there.is_sorted_by(|a, b| a >= b), "{policy:?}: {there:?}");
            there.iter().filter(|&&there| there).count()
        };
        for i in 0..100 {
            put(&store, [i]).unwrap();
            if i < 60 {
                store.touch(&keys);
                assert_eq!(check(&store), 8, "{policy:?}: a touched block is gone");
            }
        }
        check(&store);
        // The order survives the end of the process.
        put(&store, 100..105).unwrap();
        drop(store);
        if policy == PolicyKind::Lru {
            let store = SlabStore::open(Box::new(media), StoreConfig { policy, ..config(32) }).unwrap();
            for i in 200..232 {
                put(&store, [i]).unwrap();
                check(&store);
            }
        }
    }
}

#[test]
fn after_opening_a_parent_is_not_given_up_before_its_child() {
    let media = MemoryMedia::default();
    let store = open(media.clone(), 16);
    let namer = namer(&store);
    let root = root(&store, 0);
    let a = after(&namer, root, root, 1);
    let b = after(&namer, root, a.key, 2);
    let c = after(&namer, root, b.key, 3);
    for (i, name) in [a, b, c].iter().enumerate() {
        let content = content_of(&name.key, BLOCK);
        store.put(&[(*name, &content)]).unwrap();
        put(&store, [100 + i as u32]).unwrap();
    }
    drop(store);
    let store = open(media, 16);
    let mut there = vec![];
    for i in 200..216 {
        put(&store, [i]).unwrap();
        there.push([a, b, c].map(|n| store.contains(&n.key)));
        assert!(there.iter().all(|t| t[0] >= t[1] && t[1] >= t[2]), "{there:?}");
    }
    assert_eq!(there.last(), Some(&[false; 3]));
}

#[test]
fn what_was_forgotten_is_not_in_any_file() {
    let media = MemoryMedia::default();
    let store = open(media.clone(), 40);
    put(&store, 0..30).unwrap();
    store.remove(Some(root(&store, 1))).unwrap();
    let kept: Vec<_> = (0..30).filter(|i| i % 3 != 1).collect();
    assert_eq!(present(&store, 0..30), kept);
    assert_eq!(store.counts().blocks, 20);
    let bytes = |media: &MemoryMedia| -> Vec<Vec<u8>> {
        let files = media.list().unwrap().into_iter();
        files
            .map(|(name, len)| {
                let mut bytes = vec![0; len as usize];
                let file = media.open(&name, crate::kv::tier::Access::Read).unwrap();
                file.read_all_at(&mut bytes, 0).unwrap();
                bytes
            })
            .collect()
    };
    let traces = |i: u32| {
        let name = name(&store, i);
        let content = content_of(&name.key, BLOCK);
        let key = &name.key.as_bytes()[..];
        let tokens = &[i as u8, 0, 0, 0, i as u8, 0, 0, 0, i as u8][..];
        let files = bytes(&media);
        [key, tokens, &content[..40], &content[4900..]].map(|trace| {
            files
                .iter()
                .any(|file| file.windows(trace.len()).any(|w| w == trace))
        })
    };
    assert_eq!(traces(27), [true; 4]);
    assert_eq!(traces(28), [false; 4]);
    store.remove(None).unwrap();
    assert!(present(&store, 0..30).is_empty());
    assert_eq!(traces(27), [false; 4]);
    assert_eq!(store.counts().bytes, 0);
    put(&store, 0..30).unwrap();
    assert_eq!(present(&store, 0..30).len(), 30);
    drop(store);
    let store = open(media, 40);
    store.remove(Some(root(&store, 0))).unwrap();
    assert_eq!(present(&store, 0..30).len(), 20);
}

/// Puts, gets, removals and openings at random, against a map.
#[test]
fn any_order_of_calls_agrees_with_a_map() {
    for seed in 0..20 {
        let mut random = random(seed);
        let media = MemoryMedia::default();
        let capacity = 8 + random() % 60;
        let mut store = Some(open(media.clone(), capacity));
        // What was put and not removed: the store may have given some of it up.
        let mut known = BTreeSet::new();
        let mut roots: BTreeMap<u8, Key> = BTreeMap::new();
        for _ in 0..200 {
            let open_store = store.as_ref().unwrap();
            let i = (random() % 100) as u32;
            match random() % 20 {
                0..8 => {
                    let n = (random() % 6) as u32;
                    let before: BTreeSet<_> = open_store.list().into_iter().collect();
                    let stored = put(open_store, i..i + n).unwrap();
                    assert_eq!(stored, n as usize);
                    known.extend(i..i + n);
                    let now = open_store.list();
                    let evicted = open_store.counts().evictions;
                    assert!(now.len() <= capacity as usize);
                    assert!(now.len() >= before.len(), "{evicted}");
                    assert!((i..i + n).all(|i| get(open_store, i)));
                }
                8..14 => {
                    let there = open_store.contains(&name(open_store, i).key);
                    assert_eq!(get(open_store, i), there);
                    assert!(!there || known.contains(&i));
                }
                14 => {
                    let tenant = (random() % 3) as u8;
                    let root = *roots.entry(tenant).or_insert_with(|| root(open_store, tenant));
                    open_store.remove(Some(root)).unwrap();
                    known.retain(|i| i % 3 != u32::from(tenant));
                }
                15 => {
                    if random().is_multiple_of(4) {
                        open_store.remove(None).unwrap();
                        known.clear();
                    }
                }
                16 => open_store.touch(&[name(open_store, i).key]),
                17 => _ = open_store.admits(&name(open_store, i)),
                18 => open_store.maintain().unwrap(),
                _ => {
                    let mut before = open_store.list();
                    drop(store.take());
                    let again = open(media.clone(), capacity);
                    let mut now = again.list();
                    before.sort();
                    now.sort();
                    assert_eq!(before, now, "seed {seed}");
                    store = Some(again);
                }
            }
        }
        let store = store.unwrap();
        assert!((0..110).all(|i| !get(&store, i) || known.contains(&i)));
        assert_eq!((store.counts().corrupt, store.counts().foreign_files), (0, 0));
    }
}

#[test]
fn a_smaller_budget_removes_the_oldest_and_a_larger_one_nothing() {
    let media = MemoryMedia::default();
    let store = open(media.clone(), 64);
    put(&store, 0..64).unwrap();
    drop(store);
    let store = open(media.clone(), 24);
    let there = present(&store, 0..64);
    assert!(
        (16..=24).contains(&there.len()) && there.contains(&63) && !there.contains(&0),
        "{there:?}"
    );
    let bytes: u64 = media.list().unwrap().iter().map(|(_, len)| len).sum();
    assert!(bytes <= config(24).budget);
    drop(store);
    let store = open(media, 200);
    assert_eq!(present(&store, 0..64), there);
    put(&store, 100..250).unwrap();
    assert_eq!(present(&store, 0..64), there);
}

#[test]
fn a_secret_is_kept_and_a_damaged_one_replaced() {
    let media = MemoryMedia::default();
    let store = open(media.clone(), 8);
    let secret = store.secret();
    put(&store, 0..4).unwrap();
    drop(store);
    assert_eq!(open(media.clone(), 8).secret().as_bytes(), secret.as_bytes());
    media.replace("secret", &[7; 31]).unwrap();
    let store = open(media, 8);
    assert_ne!(store.secret().as_bytes(), secret.as_bytes());
    let notices = store.take_notices().join("\n");
    assert!(
        notices.contains("secret is damaged") && notices.contains("under another secret"),
        "{notices}"
    );
    assert_eq!((store.counts().blocks, store.counts().foreign_files), (0, 1));
    let _ = Secret::random();
}
