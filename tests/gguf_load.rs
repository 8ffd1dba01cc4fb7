//! Loading data: equal in all modes, cancellable, bounded, and safe against files that change.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails"
)]

#[path = "common/skip.rs"]
mod skip;

use std::path::{Path, PathBuf};

use infer::Error;
use infer::gguf::{Gguf, GgufWriter, LoadMode, LoadOptions, TensorBytes, Value};
use infer::memory::MemoryError;
use infer::quant::TensorType;

fn bytes(n: usize, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = |_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 32) as u8
    };
    (0..n).map(next).collect()
}

/// Sizes that need several regions, several chunks in one tensor, and tensors smaller than a cache line.
const SIZES: [usize; 7] = [4, 70 << 20, 1000, 5 << 20, 36, 64 << 20, 12];

fn model(dir: &Path) -> PathBuf {
    let path = dir.join("model.gguf");
    let mut w = GgufWriter::new();
    for (i, &n) in SIZES.iter().enumerate() {
        let data = bytes(n, i as u64);
        w.tensor(format!("t{i}"), &[n as u64 / 4], TensorType::F32, data)
            .unwrap();
    }
    w.write_file(&path).unwrap();
    path
}

fn small(path: &Path) {
    let mut w = GgufWriter::new();
    w.insert("general.name", Value::String("small".into())).unwrap();
    w.tensor("t", &[1 << 10], TensorType::F32, bytes(4 << 10, 1))
        .unwrap();
    w.write_file(path).unwrap();
}

fn mode(mode: LoadMode, threads: usize) -> LoadOptions {
    LoadOptions {
        mode,
        threads,
        memory_budget: None,
    }
}

#[test]
fn every_mode_and_thread_count_gives_the_bytes_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = model(dir.path());
    let total = SIZES.iter().sum::<usize>() as u64;
    let gguf = Gguf::open(&path).unwrap();
    assert_eq!(gguf.data_bytes(), total);
    for options in [
        mode(LoadMode::Read, 0),
        mode(LoadMode::Read, 1),
        mode(LoadMode::Read, 3),
        mode(LoadMode::Mmap, 0),
    ] {
        let mut seen = Vec::new();
        let caller = std::thread::current().id();
        let data = gguf
            .load(&options, &mut |done, all| {
                assert_eq!(std::thread::current().id(), caller, "progress on another thread");
                assert_eq!(all, total);
                seen.push(done);
                true
            })
            .unwrap();
        assert!(seen.is_sorted() && seen[0] == 0, "{seen:?}");
        assert_eq!(seen.last(), Some(&total));
        for (i, &n) in SIZES.iter().enumerate() {
            let t = data.get(&format!("t{i}")).unwrap();
            // Compared as a whole: a difference must not print 70 MB.
            assert!(*t == *bytes(n, i as u64), "t{i} differs with {options:?}");
            if options.mode == LoadMode::Read {
                assert_eq!(t.as_ptr().addr() % 64, 0, "t{i}");
            }
        }
    }
}

#[test]
fn tensors_outlive_the_model_and_cross_threads() {
    fn send_sync<T: Clone + Send + Sync + 'static>(_: &T) {}
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    small(&path);
    let gguf = Gguf::open(&path).unwrap();
    let data = gguf.load(&LoadOptions::default(), &mut |_, _| true).unwrap();
    drop(gguf);
    let t: TensorBytes = data.get("t").unwrap();
    drop(data);
    std::fs::remove_file(&path).unwrap();
    send_sync(&t);
    let other = t.clone();
    let n = std::thread::spawn(move || other.len()).join().unwrap();
    assert_eq!(n, 4 << 10);
    assert_eq!(*t, *bytes(4 << 10, 1));
}

#[test]
fn a_tensor_can_be_changed_in_place_and_bytes_in_use_elsewhere_are_copied_first() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    small(&path);
    let file = std::fs::read(&path).unwrap();
    for options in [mode(LoadMode::Read, 1), mode(LoadMode::Mmap, 0)] {
        let gguf = Gguf::open(&path).unwrap();
        let mut data = gguf.load(&options, &mut |_, _| true).unwrap();
        assert!(data.get_mut("no such tensor").unwrap().is_none());
        data.get_mut("t").unwrap().unwrap()[0] = 77;
        let kept = data.get("t").unwrap();
        assert_eq!(kept[0], 77);
        data.get_mut("t").unwrap().unwrap()[0] = 78;
        assert_eq!((kept[0], data.get("t").unwrap()[0]), (77, 78));
        assert_eq!(kept[1..], data.get("t").unwrap()[1..]);
    }
    assert_eq!(std::fs::read(&path).unwrap(), file);
}

#[test]
fn progress_can_cancel_at_any_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = model(dir.path());
    let gguf = Gguf::open(&path).unwrap();
    for options in [
        mode(LoadMode::Read, 1),
        mode(LoadMode::Read, 4),
        mode(LoadMode::Mmap, 0),
    ] {
        for allowed in [0, 1] {
            let mut calls = 0;
            let e = gguf
                .load(&options, &mut |_, _| {
                    calls += 1;
                    calls <= allowed
                })
                .unwrap_err();
            assert!(matches!(e, Error::Cancelled("loading the model")), "{e:?}");
            assert_eq!(calls, allowed + 1, "called again after it cancelled");
        }
    }
    let e = Gguf::from_bytes(&std::fs::read(&path).unwrap())
        .unwrap()
        .load(&LoadOptions::default(), &mut |_, _| false)
        .unwrap_err();
    assert!(matches!(e, Error::Cancelled(_)), "{e:?}");
}

#[test]
fn the_budget_is_checked_before_memory_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    small(&path);
    let gguf = Gguf::open(&path).unwrap();
    let with = |memory_budget| LoadOptions {
        memory_budget,
        ..Default::default()
    };
    let e = gguf.load(&with(Some(4095)), &mut |_, _| true).unwrap_err();
    assert!(
        matches!(e, Error::Memory(MemoryError::OverBudget { .. })),
        "{e:?}"
    );
    assert!(e.to_string().contains("needs 4096 bytes"), "{e}");
    assert!(gguf.load(&with(Some(4096)), &mut |_, _| true).is_ok());
}

#[test]
fn a_sparse_file_of_terabytes_is_refused_by_the_budget() {
    // A sparse file of 8 TiB, well formed: nothing but the budget says that it is too large.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("huge.gguf");
    let mut head = Vec::new();
    head.extend_from_slice(b"GGUF\x03\0\0\0");
    head.extend_from_slice(&1u64.to_le_bytes());
    head.extend_from_slice(&0u64.to_le_bytes());
    head.extend_from_slice(&1u64.to_le_bytes());
    head.push(b't');
    head.extend_from_slice(&1u32.to_le_bytes());
    head.extend_from_slice(&(1u64 << 43).to_le_bytes());
    head.extend_from_slice(&24u32.to_le_bytes());
    head.extend_from_slice(&0u64.to_le_bytes());
    std::fs::write(&path, &head).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    if file.set_len((1 << 43) + 4096).is_err() {
        skip::skip(
            "a huge sparse model",
            "the file system does not hold files of 8 TiB",
        );
        return;
    }
    let gguf = Gguf::open(&path).unwrap();
    let options = LoadOptions {
        memory_budget: Some(1 << 40),
        ..Default::default()
    };
    let e = gguf.load(&options, &mut |_, _| true).unwrap_err();
    assert!(matches!(e, Error::Memory(_)), "{e:?}");
}

#[track_caller]
fn changed(gguf: &Gguf, message: &str) {
    for mode in [LoadMode::Read, LoadMode::Mmap] {
        let options = LoadOptions {
            mode,
            ..Default::default()
        };
        let e = gguf.load(&options, &mut |_, _| true).unwrap_err();
        assert!(e.to_string().contains(message), "expected '{message}' in '{e}'");
        assert!(
            e.to_string().contains("since it was opened"),
            "expected the reason in '{e}'"
        );
    }
}

#[test]
fn a_file_truncated_after_opening_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    small(&path);
    let gguf = Gguf::open(&path).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(200).unwrap();
    changed(&gguf, "shrank from");
}

#[test]
fn a_file_replaced_after_opening_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    small(&path);
    let gguf = Gguf::open(&path).unwrap();
    let other = dir.path().join("other.gguf");
    small(&other);
    std::fs::rename(&other, &path).unwrap();
    #[cfg(unix)]
    changed(&gguf, "was replaced");
}

#[test]
fn a_file_written_to_after_opening_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    small(&path);
    let gguf = Gguf::open(&path).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
    file.set_modified(later).unwrap();
    changed(&gguf, "was modified");
}

#[test]
fn a_file_truncated_while_it_is_read_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    for threads in [1, 2] {
        let path = model(dir.path());
        let gguf = Gguf::open(&path).unwrap();
        let mut calls = 0;
        // At the second call the first chunks are in memory, and most of the file is not.
        let e = gguf
            .load(&mode(LoadMode::Read, threads), &mut |_, _| {
                calls += 1;
                if calls == 2 {
                    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
                    file.set_len(1 << 20).unwrap();
                }
                true
            })
            .unwrap_err();
        assert!(e.to_string().contains("shrank"), "{e}");
    }
}

#[test]
fn a_file_modified_while_it_is_read_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = model(dir.path());
    let gguf = Gguf::open(&path).unwrap();
    let mut calls = 0;
    let e = gguf
        .load(&mode(LoadMode::Read, 2), &mut |_, _| {
            calls += 1;
            if calls == 2 {
                use std::io::Write;
                let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
                file.write_all(b"more").unwrap();
            }
            true
        })
        .unwrap_err();
    assert!(e.to_string().contains("was modified since it was opened"), "{e}");
}

#[test]
fn a_file_removed_after_opening_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    small(&path);
    let gguf = Gguf::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let e = gguf.load(&LoadOptions::default(), &mut |_, _| true).unwrap_err();
    assert!(matches!(e, Error::Io { .. }), "{e:?}");
}
