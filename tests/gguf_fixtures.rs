//! Real files, written by other programs, are read. Needs `LIBINFER_FIXTURES`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails"
)]

#[path = "common/skip.rs"]
mod skip;

use std::path::{Path, PathBuf};

use infer::gguf::{Gguf, LoadMode, LoadOptions};

fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|e| e == "gguf") {
            found.push(path);
        }
    }
}

#[test]
fn every_real_file_parses_and_loads_alike_in_all_modes() {
    let Some(root) = skip::fixtures("reading of real GGUF files") else {
        return;
    };
    let mut paths = Vec::new();
    for part in ["fixtures", "models"] {
        collect(&root.join(part), &mut paths);
    }
    assert!(
        paths.len() >= 80,
        "only {} files under {}",
        paths.len(),
        root.display()
    );
    for path in paths {
        let gguf = Gguf::open(&path).unwrap_or_else(|e| panic!("{e}"));
        assert!(
            gguf.metadata()
                .str("general.architecture")
                .unwrap()
                .is_some_and(|a| !a.is_empty())
                || gguf.metadata().is_empty(),
            "{}",
            path.display()
        );
        let load = |gguf: &Gguf, mode| {
            let options = LoadOptions {
                mode,
                ..Default::default()
            };
            gguf.load(&options, &mut |_, _| true)
                .unwrap_or_else(|e| panic!("{e}"))
        };
        let whole = std::fs::read(&path).unwrap();
        let memory = Gguf::from_bytes(&whole).unwrap();
        assert_eq!(memory.tensors(), gguf.tensors());
        assert_eq!(memory.metadata(), gguf.metadata());
        let all = [
            load(&gguf, LoadMode::Read),
            load(&gguf, LoadMode::Mmap),
            load(&memory, LoadMode::Read),
        ];
        for t in gguf.tensors() {
            let expected = &whole[t.offset as usize..][..t.n_bytes as usize];
            for data in &all {
                assert!(
                    *data.get(&t.name).unwrap() == *expected,
                    "{} of {}",
                    t.name,
                    path.display()
                );
            }
        }
    }
}

#[test]
fn the_version_1_file_equals_its_version_3_sibling() {
    let Some(root) = skip::fixtures("reading of real GGUF files") else {
        return;
    };
    let models = root.join("models");
    let old = Gguf::open(&models.join("gguf-v1/stories260K-v1-F32.gguf")).unwrap();
    let new = Gguf::open(&models.join("stories260K/stories260K-F32.gguf")).unwrap();
    assert_eq!((old.version(), new.version()), (1, 3));
    let load = |g: &Gguf| g.load(&LoadOptions::default(), &mut |_, _| true).unwrap();
    let (a, b) = (load(&old), load(&new));
    let mut compared = 0;
    for t in old.tensors() {
        let Some(other) = new.tensor(&t.name) else {
            continue;
        };
        assert_eq!((&t.dims, t.ty), (&other.dims, other.ty), "{}", t.name);
        assert!(*a.get(&t.name).unwrap() == *b.get(&t.name).unwrap(), "{}", t.name);
        compared += 1;
    }
    assert!(compared > 10, "only {compared} tensors in common");
}
