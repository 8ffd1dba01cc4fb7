//! Power cuts at any moment: of what was written since the last sync, any sectors may be there.

use std::collections::BTreeSet;

use super::*;
use crate::kv::tier::media::recording::RecordingMedia;

/// What a call left behind.
struct Moment {
    /// Events recorded so far.
    events: usize,
    /// Blocks that the store had then.
    there: BTreeSet<u32>,
    /// Those of them that must survive: all but the last batch, and all of them after [`Backend::maintain`].
    settled: BTreeSet<u32>,
    /// Blocks that were removed and not put again.
    removed: BTreeSet<u32>,
}

const BLOCKS: u32 = 90;

/// A life of a store: it fills, blocks give way to others, a tenant is removed, it is opened again.
fn life(seed: u64) -> (RecordingMedia, Vec<Moment>) {
    let media = RecordingMedia::default();
    let mut store = open(media.clone(), 24);
    let mut random = random(seed);
    let (mut removed, mut settled, mut there) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut moments: Vec<Moment> = vec![];
    for step in 0..60 {
        let i = random() as u32 % (BLOCKS - 6);
        match random() % 12 {
            0 => {
                let tenant = random() as u32 % 3;
                store.remove(Some(root(&store, tenant as u8))).unwrap();
                removed.extend((0..BLOCKS).filter(|i| i % 3 == tenant));
            }
            1 if step % 3 == 0 => {
                store.remove(None).unwrap();
                removed.extend(0..BLOCKS);
            }
            1 | 2 => {
                store.maintain().unwrap();
                settled.clone_from(&there);
            }
            3 => {
                drop(store);
                store = open(media.clone(), 24);
            }
            _ => {
                let n = 1 + random() as u32 % 6;
                let written = store.counts().written;
                put(&store, i..i + n).unwrap();
                if store.counts().written > written {
                    settled.clone_from(&there);
                }
                removed.retain(|block| !(i..i + n).contains(block));
            }
        }
        there = (0..BLOCKS)
            .filter(|&i| store.contains(&name(&store, i).key))
            .collect();
        settled.retain(|i| there.contains(i));
        moments.push(Moment {
            events: media.now(),
            there: there.clone(),
            settled: settled.clone(),
            removed: removed.clone(),
        });
    }
    (media, moments)
}

#[test]
fn no_cut_yields_a_wrong_block_or_loses_more_than_the_last_batch() {
    let cuts = number("LIBINFER_POWER_CUTS", 500);
    let per_life = 50;
    let (mut kept, mut damaged) = (0, 0);
    for seed in 0..cuts.div_ceil(per_life) {
        let (media, moments) = life(seed as u64);
        let mut random = random(1000 + seed as u64);
        for _ in 0..per_life {
            // Any moment after the first call returned.
            let begin = moments[0].events;
            let cut = begin + random() as usize % (media.now() - begin + 1);
            let done = moments.iter().rposition(|m| m.events <= cut).unwrap();
            let left = media.after_cut(cut, &mut random);
            let store = open(left, 24);
            let there: BTreeSet<_> = present(&store, 0..BLOCKS).into_iter().collect();
            kept += there.len();
            damaged += store.counts().corrupt;
            // What a call under way was to remove, or to write over, may be gone.
            let under_way = moments.get(done + 1).map(|m| &m.there);
            for i in &moments[done].settled {
                let replaced = under_way.is_some_and(|now| !now.contains(i));
                assert!(
                    there.contains(i) || replaced,
                    "seed {seed}, cut {cut}: block {i} is lost"
                );
            }
            // What was removed does not come back, unless it is being put again.
            for i in &moments[done].removed {
                let again = under_way.is_some_and(|now| now.contains(i));
                assert!(
                    !there.contains(i) || again,
                    "seed {seed}, cut {cut}: block {i} came back"
                );
            }
            // It goes on.
            put(&store, 0..4).unwrap();
            assert_eq!(present(&store, 0..4).len(), 4);
        }
    }
    assert!(
        kept > cuts * 4 && damaged > 0,
        "{kept} blocks kept, {damaged} damaged: nothing was tested"
    );
}
