//! Loading when memory is short: an error value at every limit, never the end of the process.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails"
)]

use std::path::Path;
use std::process::Command;

use infer::Error;
use infer::gguf::{Gguf, GgufWriter, LoadOptions};
use infer::quant::TensorType;

const FILE: &str = "INFER_TEST_LOAD_FILE";
const TENSOR: usize = 40 << 20;
const TENSORS: usize = 5;

/// What the processes started by the test do: load once, and say how it went.
fn child(path: &Path) {
    let gguf = Gguf::open(path).unwrap();
    let outcome = match gguf.load(&LoadOptions::default(), &mut |_, _| true) {
        Ok(data) => {
            assert!(data.get("t4").unwrap().iter().all(|&b| b == 4));
            "loaded".to_string()
        }
        Err(e @ Error::Memory(_)) => format!("refused: {e}"),
        Err(e) => panic!("{e}"),
    };
    println!("outcome {outcome}");
}

/// Runs a child with at most `limit` KiB of address space; answers its outcome.
fn start(path: &Path, limit: Option<u64>) -> String {
    let limit = limit.map_or("unlimited".to_string(), |l| l.to_string());
    let out = Command::new("sh")
        .arg("-c")
        .arg("ulimit -v $1; exec \"$0\" --exact --nocapture --test-threads=1 loading_survives_every_limit")
        .arg(std::env::current_exe().unwrap())
        .arg(&limit)
        .env(FILE, path)
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        out.status.success(),
        "with {limit} KiB: {}\n{text}\n{}",
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    // The test runner's own output may stand before it on the line.
    let outcome = text.lines().find_map(|l| Some(l.split_once("outcome ")?.1));
    outcome
        .unwrap_or_else(|| panic!("no outcome in {text}"))
        .to_string()
}

#[test]
fn loading_survives_every_limit() {
    if let Some(path) = std::env::var_os(FILE) {
        return child(Path::new(&path));
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let mut w = GgufWriter::new();
    for i in 0..TENSORS {
        w.tensor(
            format!("t{i}"),
            &[TENSOR as u64],
            TensorType::I8,
            vec![i as u8; TENSOR],
        )
        .unwrap();
    }
    w.write_file(&path).unwrap();

    assert_eq!(start(&path, None), "loaded");
    // The program itself starts in less than 32 MiB; threads and their arenas take a third of the rest.
    let model = (TENSOR * TENSORS) as u64 / 1024;
    let outcomes: Vec<_> = (0..=24)
        .map(|step| start(&path, Some((32 << 10) + model * step / 16)))
        .collect();
    for outcome in &outcomes {
        assert!(
            outcome == "loaded" || outcome.contains("cannot allocate"),
            "{outcome}"
        );
    }
    let loaded = outcomes.iter().filter(|o| *o == "loaded").count();
    println!("{loaded} of {} limits were enough", outcomes.len());
    assert!((2..=outcomes.len() - 10).contains(&loaded), "{outcomes:?}");
}
