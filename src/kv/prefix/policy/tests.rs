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
