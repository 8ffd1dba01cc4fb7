//! Several processes, as several stores on one directory; and several threads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::*;

#[test]
fn one_writes_and_the_other_reads_and_takes_over() {
    let media = MemoryMedia::default();
    let writer = open(media.clone(), 16);
    put(&writer, 0..5).unwrap();
    let reader = open(media.clone(), 16);
    assert!(writer.counts().writer && !reader.counts().writer);
    assert_eq!(reader.secret().as_bytes(), writer.secret().as_bytes());
    assert_eq!(present(&reader, 0..10), [0, 1, 2, 3, 4]);
    assert!(!reader.admits(&name(&reader, 7)));
    assert_eq!(put(&reader, 3..8).unwrap(), 2);
    put(&writer, 5..12).unwrap();
    assert_eq!(present(&reader, 0..12).len(), 5);
    reader.maintain().unwrap();
    assert_eq!(present(&reader, 0..12).len(), 12);
    // Places that are used again are misses, and no damage.
    put(&writer, 100..116).unwrap();
    assert!(present(&reader, 0..12).is_empty());
    reader.maintain().unwrap();
    assert!(present(&reader, 100..116).len() >= 15);
    assert_eq!(reader.counts().corrupt, 0);
    writer.remove(None).unwrap();
    assert!(present(&reader, 100..116).is_empty());
    reader.maintain().unwrap();
    assert_eq!((reader.counts().blocks, reader.counts().corrupt), (0, 0));
    put(&writer, 20..24).unwrap();
    drop(writer);
    reader.maintain().unwrap();
    assert!(reader.counts().writer);
    assert_eq!(present(&reader, 20..24).len(), 4);
    assert_eq!(put(&reader, 24..30).unwrap(), 6);
    let third = open(media, 16);
    assert!(!third.counts().writer);
    assert_eq!(present(&third, 20..30).len(), 10);
}

#[test]
fn what_a_reader_forgets_stays_forgotten_for_it() {
    let media = MemoryMedia::default();
    let writer = open(media.clone(), 48);
    put(&writer, 0..9).unwrap();
    let reader = open(media.clone(), 48);
    reader.remove(Some(root(&reader, 0))).unwrap();
    put(&writer, 9..18).unwrap();
    reader.maintain().unwrap();
    let expected: Vec<_> = (0..18).filter(|i| *i >= 9 || i % 3 != 0).collect();
    assert_eq!(present(&reader, 0..18), expected);
    drop(writer);
    reader.maintain().unwrap();
    assert!(reader.counts().writer);
    assert_eq!(present(&reader, 0..18), expected);
    drop(reader);
    assert_eq!(present(&open(media, 48), 0..18), expected);
}

#[test]
fn readers_and_writers_at_once_never_see_wrong_content() {
    let media = MemoryMedia::default();
    let stores = [open(media.clone(), 20), open(media.clone(), 20), open(media, 20)];
    let going = AtomicBool::new(true);
    std::thread::scope(|scope| {
        for (t, store) in stores.iter().enumerate() {
            for part in 0..2 {
                let going = &going;
                scope.spawn(move || {
                    let mut random = random(t as u64 * 2 + part);
                    let mut hits = 0;
                    while going.load(Ordering::Relaxed) {
                        let i = random() as u32 % 60;
                        match random() % 8 {
                            0 | 1 => _ = put(store, i..i + 3).unwrap(),
                            2 if random().is_multiple_of(20) => {
                                store.remove(Some(root(store, (i % 3) as u8))).unwrap()
                            }
                            2 => store.maintain().unwrap(),
                            _ => hits += u32::from(get(store, i)),
                        }
                    }
                    assert!(hits > 0);
                });
            }
        }
        std::thread::sleep(Duration::from_millis(400));
        going.store(false, Ordering::Relaxed);
    });
    let counts = stores.each_ref().map(|s| s.counts());
    assert!(
        counts.iter().all(|c| c.corrupt == 0 && c.foreign_files == 0),
        "{counts:?}"
    );
    assert_eq!(counts.iter().filter(|c| c.writer).count(), 1);
}

#[test]
fn a_reader_waits_for_the_secret_of_the_first() {
    let media = MemoryMedia::default();
    let lock = media.lock("lock").unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(50));
            media.replace("secret", &[9; 32]).unwrap();
        });
        let store = open(media.clone(), 8);
        assert_eq!(store.secret().as_bytes(), &[9; 32]);
        assert!(!store.counts().writer);
    });
    drop(lock);
}
