//! The directory of the file system.

use super::*;
use crate::kv::tier::Directory;
use crate::kv::tier::media::Access;

#[test]
fn directory_and_memory_are_alike() {
    let folder = tempfile::tempdir().unwrap();
    let media: [Box<dyn Media>; 2] = [
        Box::new(Directory::open(folder.path().join("a/b")).unwrap()),
        Box::<MemoryMedia>::default(),
    ];
    for media in media {
        assert!(media.list().unwrap().is_empty());
        assert_eq!(
            media.open("x", Access::Read).unwrap_err().kind(),
            std::io::ErrorKind::NotFound
        );
        let file = media.create("x").unwrap();
        assert!(media.create("x").is_err());
        file.write_all_at(b"abc", 10).unwrap();
        file.sync_data().unwrap();
        assert_eq!(file.len().unwrap(), 13);
        file.set_len(12).unwrap();
        let mut out = [1; 12];
        media
            .open("x", Access::Read)
            .unwrap()
            .read_all_at(&mut out, 0)
            .unwrap();
        assert_eq!(&out, b"\0\0\0\0\0\0\0\0\0\0ab");
        let e = file.read_all_at(&mut out, 1).unwrap_err();
        assert_eq!(e.kind(), std::io::ErrorKind::UnexpectedEof);
        media.replace("y", b"1").unwrap();
        media.replace("y", b"22").unwrap();
        let mut files = media.list().unwrap();
        files.sort();
        assert_eq!(files, [("x".to_string(), 12), ("y".to_string(), 2)]);
        media.remove("x").unwrap();
        assert!(media.remove("x").is_err());
        let lock = media.lock("lock").unwrap().unwrap();
        assert!(lock.is_current());
        assert!(media.lock("lock").unwrap().is_none());
        drop(lock);
        assert!(media.lock("lock").unwrap().is_some());
    }
}

/// Long pieces at page borders may go to the disk without a copy, the others never do: together they are one file.
#[test]
fn long_and_short_writes_anywhere_are_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let directory = Directory::open(folder.path()).unwrap();
    let bytes = (512 << 10) + 100;
    let mut memory = crate::memory::Region::new(bytes + 4096, "a test").unwrap();
    let mut next = random(1);
    memory.iter_mut().for_each(|byte| *byte = next() as u8);
    let mut expected = vec![0; 4 << 20];
    let file = directory.create("x").unwrap();
    file.set_len(4096).unwrap();
    let mut end = 4096;
    for (begin, n, offset) in [
        (0, bytes, 4096),
        (0, 256 << 10, 1 << 20),
        // In the middle of what was written without a copy, and over what was copied.
        (5, 1000, 8000),
        (4096, 300 << 10, 4096 + (400 << 10)),
        (1, bytes, 1 << 20),
        (0, bytes, 2049 << 10),
        (0, bytes, (3 << 20) - 4096),
    ] {
        let piece = &memory[begin..begin + n];
        file.write_all_at(piece, offset as u64).unwrap();
        file.begin_sync(offset as u64, n as u64);
        expected[offset..offset + n].copy_from_slice(piece);
        end = end.max(offset + n);
        let mut out = crate::memory::Region::new(end, "a test").unwrap();
        for from in [0, 1, 4096] {
            file.read_all_at(&mut out[from..], from as u64).unwrap();
            assert!(out[from..] == expected[from..end], "{n} bytes at {offset}");
        }
        let e = file.read_all_at(&mut out, 4096).unwrap_err();
        assert_eq!(e.kind(), std::io::ErrorKind::UnexpectedEof);
    }
    file.sync_data().unwrap();
    assert_eq!(file.len().unwrap(), end as u64);
}

#[test]
fn large_blocks_of_a_directory_are_checked_like_small_ones() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    let bytes = (512 << 10) + 96;
    let open = || {
        let config = StoreConfig {
            block_bytes: bytes,
            budget: 16 << 20,
            ..config(1)
        };
        SlabStore::open(Box::new(Directory::open(&path).unwrap()), config).unwrap()
    };
    let mut memory = crate::memory::Region::new(bytes, "a test").unwrap();
    let store = open();
    let names: Vec<_> = (0..4).map(|i| name(&store, i)).collect();
    for name in &names {
        memory.copy_from_slice(&content_of(&name.key, bytes));
        assert_eq!(store.put(&[(*name, &memory[..])]).unwrap(), 1);
    }
    let mut found = |store: &SlabStore, i: usize| {
        memory.fill(7);
        let found = store.get(&names[i], &mut memory).unwrap();
        assert!(!found || memory[..] == content_of(&names[i].key, bytes)[..]);
        found
    };
    assert!((0..4).all(|i| found(&store, i)));
    drop(store);
    // The first byte of the first record, in the middle of the second and the last one of the third.
    let file = Directory::open(&path)
        .unwrap()
        .open("slab-000000", Access::Write)
        .unwrap();
    let stride = bytes.next_multiple_of(4096) as u64;
    let begin = file.len().unwrap() - 3 * stride - bytes as u64;
    for at in [
        begin,
        begin + stride + 300_000,
        begin + 2 * stride + bytes as u64 - 1,
    ] {
        let mut byte = [0];
        file.read_all_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    }
    let store = open();
    assert_eq!(
        (0..4).map(|i| found(&store, i)).collect::<Vec<_>>(),
        [false, false, false, true]
    );
    assert_eq!(store.counts().corrupt, 3);
}

#[cfg(unix)]
mod unix {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn only_the_owner_can_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        let store = open(Directory::open(&path).unwrap(), 8);
        put(&store, 0..3).unwrap();
        assert_eq!(mode(&path), 0o700);
        let names: Vec<_> = fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(names.len(), 3, "{names:?}");
        for name in names {
            assert_eq!(mode(&name), 0o600, "{name:?}");
        }
    }

    #[test]
    fn what_is_no_directory_of_ones_own_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::create_dir(path.join("real")).unwrap();
        symlink(path.join("real"), path.join("link")).unwrap();
        fs::write(path.join("file"), b"").unwrap();
        fs::create_dir(path.join("open")).unwrap();
        fs::set_permissions(path.join("open"), PermissionsExt::from_mode(0o770)).unwrap();
        for (name, expected) in [
            ("link", "it is a symbolic link"),
            ("link/", "it is a symbolic link"),
            ("link/.", "it is a symbolic link"),
            ("file", "it is not a directory"),
            ("file/below", "cannot"),
            ("open", "others can write to it (mode 0770)"),
        ] {
            let e = Directory::open(path.join(name)).unwrap_err().to_string();
            assert!(
                e.contains(expected) && e.contains(&*path.to_string_lossy()),
                "{name}: {e}"
            );
        }
        Directory::open(path.join("real")).unwrap();
    }

    #[test]
    fn links_and_directories_in_place_of_files_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        let store = open(Directory::open(&path).unwrap(), 24);
        put(&store, 0..24).unwrap();
        drop(store);
        let outside = folder.path().join("outside");
        fs::rename(path.join("slab-000000"), &outside).unwrap();
        symlink(&outside, path.join("slab-000000")).unwrap();
        fs::remove_file(path.join("slab-000001")).unwrap();
        fs::create_dir(path.join("slab-000001")).unwrap();
        let before = fs::read(&outside).unwrap();
        let store = open(Directory::open(&path).unwrap(), 24);
        assert_eq!(store.counts().foreign_files, 2);
        assert_eq!(present(&store, 0..24).len(), 8);
        put(&store, 100..150).unwrap();
        assert!(present(&store, 100..150).len() >= 23);
        store.remove(None).unwrap();
        drop(store);
        assert_eq!(fs::read(&outside).unwrap(), before);
        // Nor for the other files.
        fs::remove_file(path.join("secret")).unwrap();
        symlink(&outside, path.join("secret")).unwrap();
        SlabStore::open(Box::new(Directory::open(&path).unwrap()), config(8)).unwrap_err();
        fs::remove_file(path.join("secret")).unwrap();
        fs::remove_file(path.join("lock")).unwrap();
        symlink(folder.path().join("new"), path.join("lock")).unwrap();
        SlabStore::open(Box::new(Directory::open(&path).unwrap()), config(8)).unwrap_err();
        assert!(!folder.path().join("new").exists());
        assert_eq!(fs::read(&outside).unwrap(), before);
    }

    #[test]
    fn a_directory_that_was_removed_and_came_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        let store = open(Directory::open(&path).unwrap(), 24);
        put(&store, 0..8).unwrap();
        fs::remove_dir_all(&path).unwrap();
        assert_eq!(present(&store, 0..8).len(), 8, "open files are still there");
        store.maintain().unwrap_err();
        assert!(!store.counts().writer);
        assert!(
            store
                .take_notices()
                .join("\n")
                .contains("was the directory removed?")
        );
        fs::create_dir(&path).unwrap();
        store.maintain().unwrap();
        assert!(store.counts().writer);
        assert!(present(&store, 0..8).is_empty());
        put(&store, 0..8).unwrap();
        drop(store);
        let store = open(Directory::open(&path).unwrap(), 24);
        assert_eq!(
            present(&store, 0..8).len(),
            8,
            "the secret is the one that keys were made with"
        );
    }
}
