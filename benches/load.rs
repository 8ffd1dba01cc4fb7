//! Seconds per GB and peak memory of loading a model from a warm page cache, by mode.
//!
//! `cargo bench --bench load` writes a model of 1.2 GB to the temporary directory and starts itself once per
//! mode, because peak memory belongs to a process. Each process loads several times and reports the first load
//! (which may touch memory that a virtual machine has never used) and the best of the others.
//! The rows "bare" fill one anonymous mapping without the library, with and without huge-page advice.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use infer::gguf::{Gguf, GgufWriter, LoadMode, LoadOptions};
use infer::quant::TensorType;

const LOADS: usize = 5;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Ok(mode) = std::env::var("INFER_BENCH_LOAD_MODE") {
        return measure(
            &mode,
            Path::new(&std::env::var("INFER_BENCH_LOAD_FILE").unwrap_or_default()),
        );
    }
    // Without `--bench` this is a run of the tests, which has no time for it.
    if !args.iter().any(|a| a == "--bench") {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("model.gguf");
    write_model(&path);
    let size = std::fs::metadata(&path).expect("the model").len();
    println!(
        "{:.3} GB; seconds per GB: first load, best of the others; peak of resident memory / file",
        size as f64 / 1e9
    );
    for mode in [
        "read threads=1",
        "read threads=2",
        "read threads=4",
        "mmap",
        "mmap touched",
        "bare 4k threads=1",
        "bare 4k threads=2",
        "bare huge threads=1",
        "bare huge threads=2",
    ] {
        let status = Command::new(&args[0])
            .env("INFER_BENCH_LOAD_MODE", mode)
            .env("INFER_BENCH_LOAD_FILE", &path)
            .status()
            .expect("this program again");
        assert!(status.success(), "{mode}");
    }
}

/// Tensors of the sizes of a small language model: 1.2 GB.
fn write_model(path: &Path) {
    let data: Vec<u8> = (0..144usize << 20).map(|i| (i >> 4) as u8 ^ i as u8).collect();
    let mut w = GgufWriter::new();
    let mut add = |name: String, cols: u64, rows: u64| {
        let n = TensorType::Q4_K.block_bytes() * (cols / 256 * rows) as usize;
        w.tensor(name, &[cols, rows], TensorType::Q4_K, &data[..n])
            .expect("a tensor");
    };
    add("token_embd.weight".into(), 2048, 128_256);
    for layer in 0..40 {
        for name in ["attn_q", "attn_output"] {
            add(format!("blk.{layer}.{name}.weight"), 2048, 2048);
        }
        for name in ["attn_k", "attn_v"] {
            add(format!("blk.{layer}.{name}.weight"), 2048, 512);
        }
        for name in ["ffn_gate", "ffn_up", "ffn_down"] {
            add(format!("blk.{layer}.{name}.weight"), 2048, 5632);
        }
    }
    w.write_file(path).expect("the model is written");
}

fn measure(mode: &str, path: &Path) {
    let threads = mode
        .rsplit_once('=')
        .and_then(|(_, n)| n.parse().ok())
        .unwrap_or(1);
    let mut seconds = Vec::new();
    for _ in 0..LOADS {
        let start = Instant::now();
        if mode.starts_with("bare") {
            bare(path, threads, mode.contains("huge"));
        } else {
            library(path, threads, mode);
        }
        seconds.push(start.elapsed().as_secs_f64());
    }
    let size = std::fs::metadata(path).expect("the model").len() as f64;
    let best = seconds[1..].iter().copied().fold(f64::INFINITY, f64::min);
    let peak = peak_resident().map_or("?".to_string(), |b| format!("{:.3}", b / size));
    println!(
        "{mode:22} {:6.3} {:6.3}   {peak}",
        seconds[0] / size * 1e9,
        best / size * 1e9
    );
}

fn library(path: &Path, threads: usize, mode: &str) {
    let gguf = Gguf::open(path).expect("the model opens");
    let mmap = mode.starts_with("mmap");
    let options = LoadOptions {
        mode: if mmap { LoadMode::Mmap } else { LoadMode::Read },
        threads,
        memory_budget: None,
    };
    let data = gguf.load(&options, &mut |_, _| true).expect("the model loads");
    if mode.ends_with("touched") {
        for t in gguf.tensors() {
            let bytes = data.get(&t.name).expect("a tensor");
            std::hint::black_box(bytes.iter().step_by(4096).fold(0u8, |a, &b| a ^ b));
        }
    }
    std::hint::black_box(&data);
}

/// The file read into one mapping by `threads` threads.
fn bare(path: &Path, threads: usize, huge: bool) {
    let size = std::fs::metadata(path).expect("the model").len() as usize;
    let mut map = memmap2::MmapMut::map_anon(size.next_multiple_of(2 << 20)).expect("memory");
    #[cfg(target_os = "linux")]
    if huge {
        map.advise(memmap2::Advice::HugePage).expect("advice");
    }
    let _ = huge;
    let share = (size / threads).next_multiple_of(4 << 20);
    std::thread::scope(|scope| {
        for (i, part) in map[..size].chunks_mut(share).enumerate() {
            let path: PathBuf = path.into();
            scope.spawn(move || {
                use std::io::{Read, Seek, SeekFrom};
                let mut file = std::fs::File::open(path).expect("the model");
                file.seek(SeekFrom::Start((i * share) as u64)).expect("seek");
                for chunk in part.chunks_mut(4 << 20) {
                    file.read_exact(chunk).expect("read");
                }
            });
        }
    });
    std::hint::black_box(&map);
}

/// `VmHWM` of this process in bytes, where the system tells.
fn peak_resident() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024.0)
}
