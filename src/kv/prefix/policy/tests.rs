use super::super::{Fingerprint, Namer, Secret};
use super::*;
use crate::kernel::RowType;
use crate::kv::Geometry;

fn key(n: u32) -> Key {
    let geometry = Geometry::new(RowType::F16, Vec::new()).unwrap();
    let namer = Namer::new(Secret::fixed([1; 32]), 0, Fingerprint::new(&geometry, &[]));
    namer.child(&namer.root(b""), &[n])
}

#[test]
fn names_lead_to_policies() {
    for kind in PolicyKind::ALL {
        assert_eq!(PolicyKind::from_name(kind.name()), Some(kind));
    }
    assert_eq!(PolicyKind::from_name("fifo"), None);
}

#[test]
fn blocks_in_use_are_never_evicted_and_all_others_are_once() {
    for kind in PolicyKind::ALL {
        let mut policy = kind.create();
        for i in 0..100 {
            policy.insert(NodeId(i), &key(i), i.checked_sub(1).map(NodeId));
        }
        assert_eq!(policy.evict(), None, "{kind:?}");
        for i in (0..100).rev().filter(|i| i % 3 != 0) {
            policy.unpin(NodeId(i));
        }
        for i in (0..100).filter(|i| i % 4 == 1) {
            policy.hit(NodeId(i));
        }
        policy.pin(NodeId(1));
        policy.forget(NodeId(2));
        let mut evicted: Vec<u32> = std::iter::from_fn(|| policy.evict()).map(|id| id.0).collect();
        evicted.sort_unstable();
        let expected: Vec<u32> = (3..100).filter(|i| i % 3 != 0).collect();
        assert_eq!(evicted, expected, "{kind:?}");
        policy.unpin(NodeId(1));
        assert_eq!(policy.evict(), Some(NodeId(1)), "{kind:?}");
    }
}

#[test]
fn leaves_go_before_their_ancestors() {
    for kind in PolicyKind::ALL {
        let mut policy = kind.create();
        for i in 0..10 {
            policy.insert(NodeId(i), &key(i), i.checked_sub(1).map(NodeId));
        }
        for i in (0..10).rev() {
            policy.unpin(NodeId(i));
        }
        for i in (0..10).rev() {
            assert_eq!(policy.evict(), Some(NodeId(i)), "{kind:?}");
        }
    }
}

#[test]
fn a_block_that_is_used_again_and_again_survives_a_scan() {
    for kind in PolicyKind::ALL.into_iter().filter(|k| *k != PolicyKind::Lru) {
        let mut policy = kind.create();
        let mut resident = std::collections::HashSet::new();
        let mut next = 1;
        policy.insert(NodeId(0), &key(0), None);
        policy.unpin(NodeId(0));
        let mut rounds = vec![4; 60];
        rounds.extend([150; 20]);
        for scan in rounds {
            if resident.contains(&0) {
                policy.hit(NodeId(0));
            } else {
                policy.insert(NodeId(0), &key(0), None);
                policy.unpin(NodeId(0));
                resident.insert(0);
            }
            for _ in 0..scan {
                policy.insert(NodeId(next), &key(next), None);
                policy.unpin(NodeId(next));
                resident.insert(next);
                next += 1;
                if resident.len() > 100 {
                    let gone = policy.evict().unwrap();
                    resident.remove(&gone.0);
                }
            }
        }
        assert!(resident.contains(&0), "{kind:?}");
    }
}

/// Plays blocks without parents in a cache of so many; answers how many were found.
fn found(kind: PolicyKind, capacity: usize, asked: impl Iterator<Item = u32>) -> usize {
    let mut policy = kind.create();
    let mut resident = std::collections::HashSet::new();
    let mut found = 0;
    for block in asked {
        if resident.contains(&block) {
            found += 1;
            policy.hit(NodeId(block));
            continue;
        }
        if resident.len() == capacity {
            resident.remove(&policy.evict().unwrap().0);
        }
        policy.insert(NodeId(block), &key(block), None);
        policy.unpin(NodeId(block));
        resident.insert(block);
    }
    found
}

#[test]
fn a_round_that_does_not_fit_is_found_in_part() {
    let round = || (0..60).flat_map(|_| 0..150);
    assert_eq!(found(PolicyKind::Lru, 100, round()), 0);
    // The best is 99 of 149.
    let share = found(PolicyKind::Adaptive, 100, round()) as f64 / round().count() as f64;
    assert!(share > 0.4, "{share}");
}

#[test]
fn what_recency_finds_adaptive_finds_too() {
    // Each block a few times soon after it was new.
    let recent = || (300..6000u32).flat_map(|i| [i, i - (i * 7919) % 60, i - (i * 104_729) % 40]);
    let [lru, adaptive] = [PolicyKind::Lru, PolicyKind::Adaptive].map(|kind| found(kind, 100, recent()));
    assert!(adaptive * 500 >= lru * 499, "{adaptive} {lru}");
}

#[test]
fn adaptive_evicts_no_block_before_an_idle_one_after_it() {
    let mut random = 7u64;
    let mut below = |n: usize| {
        random = random
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        ((random >> 33) as usize) % n
    };
    let mut policy = PolicyKind::Adaptive.create();
    let mut parents: Vec<Option<u32>> = Vec::new();
    let mut idle: Vec<u32> = Vec::new();
    for round in 0..3000u32 {
        // A block after one that is there, which is in use meanwhile.
        let parent = (!idle.is_empty() && below(8) > 0).then(|| idle[below(idle.len())]);
        if let Some(parent) = parent {
            policy.hit(NodeId(parent));
            policy.pin(NodeId(parent));
        }
        policy.insert(NodeId(round), &key(round), parent.map(NodeId));
        policy.unpin(NodeId(round));
        if let Some(parent) = parent {
            policy.unpin(NodeId(parent));
        }
        parents.push(parent);
        idle.push(round);
        if round % 97 == 0 {
            let gone = idle.swap_remove(below(idle.len()));
            policy.forget(NodeId(gone));
        }
        if idle.len() > 64 {
            let gone = policy.evict().unwrap().0;
            assert!(idle.iter().all(|block| parents[*block as usize] != Some(gone)));
            idle.retain(|block| *block != gone);
        }
    }
}
