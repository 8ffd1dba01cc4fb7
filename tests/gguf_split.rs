//! Split models: written and read together, and every way in which their files can disagree.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails"
)]

use std::path::{Path, PathBuf};

use infer::gguf::{Gguf, GgufWriter, LoadMode, LoadOptions, Value};
use infer::quant::TensorType;

fn data(i: usize) -> Vec<u8> {
    vec![i as u8 + 1; 64]
}

/// Five tensors in three files.
fn split(dir: &Path) -> Vec<PathBuf> {
    let mut w = GgufWriter::new();
    w.insert("general.architecture", Value::String("llama".into()))
        .unwrap();
    for i in 0..5 {
        w.tensor(format!("t{i}"), &[16], TensorType::F32, data(i))
            .unwrap();
    }
    w.write_split(&dir.join("model"), 2).unwrap()
}

/// A file with these split keys, `None` for absent.
fn shard(path: &Path, no: Option<u16>, count: Option<u16>, total: Option<i32>) {
    let mut w = GgufWriter::new();
    if let Some(no) = no {
        w.insert("split.no", Value::U16(no)).unwrap();
    }
    if let Some(count) = count {
        w.insert("split.count", Value::U16(count)).unwrap();
    }
    if let Some(total) = total {
        w.insert("split.tensors.count", Value::I32(total)).unwrap();
    }
    w.write_file(path).unwrap();
}

#[track_caller]
fn refused(path: &Path, message: &str) {
    let e = Gguf::open(path).expect_err("must be refused").to_string();
    assert!(e.contains(message), "expected '{message}' in '{e}'");
}

#[test]
fn a_split_model_is_read_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let paths = split(dir.path());
    let names: Vec<_> = paths
        .iter()
        .map(|p| p.file_name().unwrap().to_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "model-00001-of-00003.gguf",
            "model-00002-of-00003.gguf",
            "model-00003-of-00003.gguf"
        ]
    );
    let gguf = Gguf::open(&paths[0]).unwrap();
    assert_eq!(gguf.paths(), paths);
    let shards: Vec<_> = gguf.tensors().iter().map(|t| t.shard).collect();
    assert_eq!(shards, [0, 0, 1, 1, 2]);
    for mode in [LoadMode::Read, LoadMode::Mmap] {
        let options = LoadOptions {
            mode,
            ..Default::default()
        };
        let tensors = gguf.load(&options, &mut |_, _| true).unwrap();
        for i in 0..5 {
            assert_eq!(*tensors.get(&format!("t{i}")).unwrap(), *data(i));
        }
    }
}

#[test]
fn only_the_first_file_opens_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let paths = split(dir.path());
    refused(
        &paths[1],
        "is number 1 of a split model where number 0 was expected",
    );
}

#[test]
fn a_missing_sibling_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let paths = split(dir.path());
    std::fs::remove_file(&paths[2]).unwrap();
    refused(&paths[0], "model-00003-of-00003.gguf");
}

#[test]
fn a_sibling_with_another_index_or_count() {
    let dir = tempfile::tempdir().unwrap();
    let paths = split(dir.path());
    std::fs::copy(&paths[2], &paths[1]).unwrap();
    refused(
        &paths[0],
        "is number 2 of a split model where number 1 was expected",
    );
    shard(&paths[1], Some(1), Some(4), Some(5));
    refused(
        &paths[0],
        "belongs to a split model of 4 files, the first file to one of 3",
    );
    shard(&paths[1], Some(1), None, None);
    refused(&paths[0], "metadata key 'split.count' is missing");
}

#[test]
fn the_number_of_tensors_must_be_as_promised() {
    let dir = tempfile::tempdir().unwrap();
    let paths = split(dir.path());
    shard(&paths[1], Some(1), Some(3), Some(5));
    refused(
        &paths[0],
        "split.tensors.count is 5, but the files of the model hold 3 tensors",
    );
}

#[test]
fn a_tensor_in_two_files_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let paths = split(dir.path());
    let mut w = GgufWriter::new();
    w.insert("split.no", Value::U16(1)).unwrap();
    w.insert("split.count", Value::U16(3)).unwrap();
    w.tensor("t0", &[16], TensorType::F32, data(0)).unwrap();
    w.tensor("t3", &[16], TensorType::F32, data(3)).unwrap();
    w.write_file(&paths[1]).unwrap();
    refused(&paths[0], "tensor 't0' occurs twice");
}

#[test]
fn names_and_keys_that_do_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other.gguf");
    shard(&path, Some(0), Some(2), Some(0));
    refused(&path, "its name does not end with '-00001-of-00002.gguf'");
    shard(&path, Some(0), Some(0), Some(0));
    refused(&path, "split.count is 0; 1 to 99999 was expected");
    shard(&path, None, Some(2), Some(0));
    refused(&path, "metadata key 'split.no' is missing");
    let first = dir.path().join("m-00001-of-00002.gguf");
    shard(&first, Some(0), Some(2), None);
    refused(&first, "metadata key 'split.tensors.count' is missing");

    let mut w = GgufWriter::new();
    w.insert("split.count", Value::U64(1 << 40)).unwrap();
    w.write_file(&path).unwrap();
    refused(&path, "split.count is 1099511627776");
    let mut w = GgufWriter::new();
    w.insert("split.count", Value::String("../../etc/passwd".into()))
        .unwrap();
    w.write_file(&path).unwrap();
    refused(
        &path,
        "'split.count': expected a non-negative integer, found string",
    );
}

#[test]
fn siblings_are_looked_for_only_beside_the_first_file() {
    // The file's metadata names other places; only the given path decides.
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    let outside = dir.path().join("m-00002-of-00002.gguf");
    shard(&outside, Some(1), Some(2), Some(0));
    let first = inner.join("m-00001-of-00002.gguf");
    let mut w = GgufWriter::new();
    for key in ["general.name", "split.name", "split.path", "general.basename"] {
        w.insert(key, Value::String("../m".into())).unwrap();
    }
    w.insert("split.no", Value::U16(0)).unwrap();
    w.insert("split.count", Value::U16(2)).unwrap();
    w.insert("split.tensors.count", Value::I32(0)).unwrap();
    w.write_file(&first).unwrap();
    let expected = inner.join("m-00002-of-00002.gguf");
    refused(&first, &expected.display().to_string());
}

#[test]
fn one_file_of_one_is_an_ordinary_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("single.gguf");
    shard(&path, Some(0), Some(1), Some(0));
    assert!(Gguf::open(&path).is_ok());
}

#[test]
fn a_split_model_in_memory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let paths = split(dir.path());
    let e = Gguf::from_bytes(&std::fs::read(&paths[0]).unwrap()).unwrap_err();
    assert!(e.to_string().contains("one of 3 of a split model"), "{e}");
}
