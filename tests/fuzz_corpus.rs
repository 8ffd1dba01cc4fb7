//! The seeds of every fuzz target run through its body as ordinary tests.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails"
)]

use std::path::PathBuf;

#[path = "../fuzz/bodies/gguf.rs"]
mod gguf_body;

fn corpus(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target)
}

/// Runs `body` over every seed of `target`, of which there must be some.
fn run(target: &str, body: fn(&[u8])) {
    let mut paths: Vec<_> = std::fs::read_dir(corpus(target))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "no seeds for {target}");
    for path in paths {
        println!("{}", path.display());
        body(&std::fs::read(&path).unwrap());
    }
}

#[test]
fn gguf() {
    if std::env::var_os("INFER_WRITE_CORPUS").is_some() {
        seeds::write();
    }
    run("gguf", gguf_body::run);
}

/// Makes the seeds of `gguf`: small valid files, and what a mutation of each part leads to.
mod seeds {
    use infer::gguf::{Array, GgufWriter, Value};
    use infer::quant::TensorType;

    fn valid(version: u32, alignment: Option<u32>, types: &[TensorType]) -> Vec<u8> {
        let mut w = GgufWriter::new();
        w.version(version).unwrap();
        if let Some(alignment) = alignment {
            w.insert("general.alignment", Value::U32(alignment)).unwrap();
        }
        for (key, value) in [
            ("s", Value::String("llama".into())),
            ("a", Value::Array(Array::String(vec!["a".into(), "".into()]))),
            ("f", Value::Array(Array::F32(vec![0.5; 3]))),
            ("b", Value::Array(Array::Bool(vec![true, false]))),
            ("u", Value::U8(1)),
            ("t", Value::Bool(true)),
            ("l", Value::I64(-1)),
            ("d", Value::F64(f64::NAN)),
        ] {
            w.insert(key, value).unwrap();
        }
        for (i, &ty) in types.iter().enumerate() {
            let block = ty.block_len() as u64;
            let n = ty.block_bytes() * (i + 1);
            w.tensor(format!("t{i}"), &[block, i as u64 + 1], ty, vec![i as u8; n])
                .unwrap();
        }
        let mut out = Vec::new();
        w.write_to(&mut out).unwrap();
        out
    }

    pub fn write() {
        let dir = super::corpus("gguf");
        let save = |name: &str, bytes: &[u8]| std::fs::write(dir.join(name), bytes).unwrap();
        use TensorType::{F16, F32, I8, Q4_0, Q6_K, Q8_0};
        for version in 1..=3 {
            save(&format!("v{version}"), &valid(version, None, &[F32, F16, Q8_0]));
            save(&format!("v{version}-metadata-only"), &valid(version, None, &[]));
        }
        save("align-8", &valid(3, Some(8), &[Q4_0, I8, Q6_K]));
        save("align-512", &valid(3, Some(512), &[F32, I8]));
        save("empty", b"");
        save("magic-only", b"GGUF");

        // Positions that matter in the version 3 file: version, counts, first key, its type and length, and the
        // last tensor's name, dimensions, type and offset.
        let good = valid(3, None, &[F32, F16, Q8_0]);
        let tail = good.windows(2).rposition(|w| w == b"t2").unwrap();
        for (name, at, bytes) in [
            ("version-0", 4, &[0, 0, 0, 0][..]),
            ("big-endian", 4, &[0, 0, 0, 3]),
            ("tensors-huge", 8, &[255; 8]),
            ("metadata-huge", 16, &[255; 8]),
            ("key-empty", 24, &[0; 8]),
            ("key-huge", 24, &[255; 8]),
            ("key-nul", 32, &[0]),
            ("key-not-utf8", 32, &[255]),
            ("type-unknown", 33, &[13]),
            ("type-array", 33, &[9]),
            ("string-huge", 37, &[255; 8]),
            ("name-long", tail - 8, &[200]),
            ("name-twice", tail + 1, b"1"),
            ("dims-5", tail + 2, &[5]),
            ("dims-0", tail + 2, &[0]),
            ("dim-zero", tail + 6, &[0; 8]),
            ("dim-huge", tail + 6, &[255; 8]),
            ("dim-partial-block", tail + 6, &[33]),
            ("dim-overflow", tail + 6, &[0, 0, 0, 0, 0, 0, 0, 128]),
            ("tensor-type-removed", tail + 22, &[4]),
            ("tensor-type-unknown", tail + 22, &[99]),
            ("offset-unaligned", tail + 26, &[1]),
            ("offset-overlap", tail + 26, &[0; 8]),
            (
                "offset-huge",
                tail + 26,
                &[224, 255, 255, 255, 255, 255, 255, 255],
            ),
        ] {
            let mut bad = good.clone();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            save(name, &bad);
        }
        for n in [8, 20, 30, 40, tail, tail + 20, good.len() - 64] {
            save(&format!("cut-{n}"), &good[..n]);
        }
    }
}
