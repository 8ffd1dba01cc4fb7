//! What the writer writes, the reader reads back; what the reader would refuse, the writer refuses.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails"
)]

use infer::gguf::{Array, Gguf, GgufWriter, LoadOptions, Value};
use infer::quant::TensorType;

fn every_value() -> Vec<(&'static str, Value)> {
    vec![
        ("u8", Value::U8(200)),
        ("i8", Value::I8(-100)),
        ("u16", Value::U16(60_000)),
        ("i16", Value::I16(-30_000)),
        ("u32", Value::U32(4_000_000_000)),
        ("i32", Value::I32(-2_000_000_000)),
        ("f32", Value::F32(-0.0)),
        ("bool", Value::Bool(true)),
        ("string", Value::String("naïve \u{1F980} \0 ok".to_string())),
        ("empty", Value::String(String::new())),
        ("u64", Value::U64(u64::MAX)),
        ("i64", Value::I64(i64::MIN)),
        ("f64", Value::F64(1.0e-300)),
        ("array.u8", Value::Array(Array::U8((0..=255).collect()))),
        ("array.i8", Value::Array(Array::I8(vec![-1, 1]))),
        ("array.u16", Value::Array(Array::U16(vec![1, 65_535]))),
        ("array.i16", Value::Array(Array::I16(vec![-1, 7]))),
        ("array.u32", Value::Array(Array::U32((0..5000).collect()))),
        ("array.i32", Value::Array(Array::I32(vec![-1, i32::MAX]))),
        ("array.f32", Value::Array(Array::F32(vec![f32::MIN, 0.5]))),
        ("array.bool", Value::Array(Array::Bool(vec![true, false]))),
        (
            "array.string",
            Value::Array(Array::String(vec!["a".into(), String::new(), "ü".into()])),
        ),
        ("array.u64", Value::Array(Array::U64(vec![u64::MAX]))),
        ("array.i64", Value::Array(Array::I64(vec![i64::MIN]))),
        ("array.f64", Value::Array(Array::F64(vec![f64::MAX]))),
        ("array.empty", Value::Array(Array::String(vec![]))),
    ]
}

fn bytes(n: usize, seed: u8) -> Vec<u8> {
    (0..n).map(|i| (i as u8).wrapping_mul(31) ^ seed).collect()
}

/// Tensors of several types and shapes with their data.
fn tensors() -> Vec<(&'static str, Vec<u64>, TensorType, Vec<u8>)> {
    vec![
        ("a.weight", vec![3, 5], TensorType::F32, bytes(60, 1)),
        ("b.weight", vec![32, 2, 2], TensorType::Q8_0, bytes(34 * 4, 2)),
        (
            "c.weight",
            vec![256, 1, 1, 3],
            TensorType::Q4_K,
            bytes(144 * 3, 3),
        ),
        ("d.bias", vec![1], TensorType::F16, bytes(2, 4)),
    ]
}

fn writer() -> GgufWriter<'static> {
    let mut w = GgufWriter::new();
    for (key, value) in every_value() {
        w.insert(key, value).unwrap();
    }
    for (name, dims, ty, data) in tensors() {
        w.tensor(name, &dims, ty, data).unwrap();
    }
    w
}

fn check(gguf: &Gguf) {
    for (key, value) in every_value() {
        assert_eq!(gguf.metadata().get(key), Some(&value), "{key}");
    }
    let data = gguf.load(&LoadOptions::default(), &mut |_, _| true).unwrap();
    assert_eq!(gguf.tensors().len(), 4);
    for (name, dims, ty, bytes) in tensors() {
        let t = gguf.tensor(name).unwrap();
        assert_eq!((&t.dims, t.ty, t.n_bytes), (&dims, ty, bytes.len() as u64));
        assert_eq!(t.n_elements(), dims.iter().product::<u64>());
        assert_eq!(*data.get(name).unwrap(), *bytes, "{name}");
    }
    assert!(gguf.tensor("e").is_none() && data.get("e").is_none());
}

#[test]
fn every_version_round_trips_through_memory() {
    for version in 1..=3 {
        let mut w = writer();
        w.version(version).unwrap();
        let mut out = Vec::new();
        w.write_to(&mut out).unwrap();
        let gguf = Gguf::from_bytes(&out).unwrap();
        assert_eq!(gguf.version(), version);
        assert_eq!(gguf.metadata().len(), every_value().len());
        check(&gguf);
    }
}

#[test]
fn every_alignment_round_trips_through_a_file() {
    let dir = tempfile::tempdir().unwrap();
    for alignment in [8u32, 16, 64, 4096, 1 << 20] {
        let path = dir.path().join("file.gguf");
        let mut w = writer();
        w.insert("general.alignment", Value::U32(alignment)).unwrap();
        w.write_file(&path).unwrap();
        let gguf = Gguf::open(&path).unwrap();
        assert_eq!(gguf.alignment(), u64::from(alignment));
        let first = &gguf.tensors()[0];
        assert_eq!(first.offset % u64::from(alignment), 0);
        assert_eq!(gguf.file_bytes(), std::fs::metadata(&path).unwrap().len());
        check(&gguf);
    }
    // Nothing is left of the temporary names.
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_file_is_not_replaced_when_writing_fails() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("missing").join("file.gguf");
    let e = writer().write_file(&path).unwrap_err().to_string();
    assert!(e.contains("cannot create") && e.contains("missing"), "{e}");
}

#[test]
fn the_writer_refuses_what_the_reader_refuses() {
    let mut w = GgufWriter::new();
    let refused = |e: Option<infer::Error>, message: &str| {
        let e = e.expect("must be refused").to_string();
        assert!(e.contains(message), "expected '{message}' in '{e}'");
    };
    refused(w.version(4).err(), "GGUF version 4 is not supported");
    refused(w.insert("", Value::U8(0)).err(), "empty key");
    refused(w.insert("k".repeat(65_536), Value::U8(0)).err(), "65536 bytes");
    refused(w.insert("a\0", Value::U8(0)).err(), "NUL");
    w.insert("a", Value::U8(0)).unwrap();
    refused(w.insert("a", Value::U8(0)).err(), "occurs twice");
    refused(
        w.insert("general.alignment", Value::U32(7)).err(),
        "general.alignment is 7",
    );
    refused(
        w.insert("general.alignment", Value::U8(8)).err(),
        "expected u32, found u8",
    );

    let f32 = TensorType::F32;
    refused(w.tensor("", &[1], f32, vec![0; 4]).err(), "empty name");
    refused(w.tensor("n".repeat(65), &[1], f32, vec![0; 4]).err(), "65 bytes");
    refused(w.tensor("n\0", &[1], f32, vec![0; 4]).err(), "NUL");
    refused(w.tensor("n", &[], f32, vec![]).err(), "0 dimensions");
    refused(w.tensor("n", &[1; 5], f32, vec![0; 4]).err(), "5 dimensions");
    refused(
        w.tensor("n", &[2, 0], f32, vec![]).err(),
        "dimension 1 of tensor 'n' is zero",
    );
    refused(w.tensor("n", &[u64::MAX, 3], f32, vec![]).err(), "overflows");
    refused(
        w.tensor("n", &[33], TensorType::Q8_0, vec![0; 34]).err(),
        "not a multiple",
    );
    refused(
        w.tensor("n", &[2], f32, vec![0; 4]).err(),
        "needs 8 bytes, 4 were given",
    );
    w.tensor("n", &[1], f32, vec![0; 4]).unwrap();
    refused(w.tensor("n", &[1], f32, vec![0; 4]).err(), "occurs twice");

    // What was refused is not in the file.
    let mut out = Vec::new();
    w.write_to(&mut out).unwrap();
    let gguf = Gguf::from_bytes(&out).unwrap();
    assert_eq!((gguf.metadata().len(), gguf.tensors().len()), (1, 1));
}

#[test]
fn an_output_that_fails_is_an_error() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    assert!(matches!(
        writer().write_to(&mut Full),
        Err(infer::Error::Io { .. })
    ));
}

#[test]
fn declared_tensors_come_from_the_source_in_file_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("streamed.gguf");
    let mut writer = GgufWriter::new();
    writer.declare("a", &[4], TensorType::F32).unwrap();
    writer
        .tensor("b", &[2], TensorType::F16, vec![1, 2, 3, 4])
        .unwrap();
    writer.declare("c", &[32], TensorType::Q8_0).unwrap();
    let mut asked = Vec::new();
    writer
        .write_file_from(&path, &mut |name, sink| {
            asked.push(name.to_string());
            let len = if name == "a" { 16 } else { 34 };
            for byte in 0..len {
                sink(&[byte])?;
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(asked, ["a", "c"]);
    let gguf = Gguf::open(&path).unwrap();
    let data = gguf.load(&LoadOptions::default(), &mut |_, _| true).unwrap();
    assert_eq!(data.get("a").unwrap()[..], (0..16).collect::<Vec<u8>>()[..]);
    assert_eq!(data.get("b").unwrap()[..], [1, 2, 3, 4]);
    assert_eq!(data.get("c").unwrap()[..], (0..34).collect::<Vec<u8>>()[..]);
}

#[test]
fn a_declared_tensor_of_another_length_or_without_source_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("streamed.gguf");
    let mut writer = GgufWriter::new();
    writer.declare("a", &[4], TensorType::F32).unwrap();
    for len in [0, 15, 17, 100] {
        let e = writer
            .write_file_from(&path, &mut |_, sink| sink(&vec![0; len]))
            .unwrap_err();
        assert!(e.to_string().contains("tensor 'a' needs 16 bytes"), "{e}");
    }
    writer.write_file(&path).unwrap_err();
    let e = writer
        .write_file_from(&path, &mut |_, _| Err(infer::Error::Cancelled("testing")))
        .unwrap_err();
    assert!(matches!(e, infer::Error::Cancelled(_)), "{e}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
