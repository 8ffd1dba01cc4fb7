//! `infer bench --kv --kv-dir`: the cold tier of a key/value store. More is stored than memory holds, so blocks are evicted
//! and written behind: that is timed from when memory is full until the last block is on the disk. Then a new store reads
//! them back twice: into memory that was never used, which the system gives page by page, and again when that is full, as in a process
//! that has run for a while. Before and after each of the two a file is written and read in pieces of a block: rates of disks drift, so a
//! fraction is of the mean of the two beside it. The median of all rounds is told.
//!
//! What the system has in memory of a file is dropped before it is read, by `dd` with `oflag=nocache`; where there is no
//! `dd` the report says that reads came from memory.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use infer::kv::store::{Elements, KvStore};
use infer::options::KvCacheOptions;
use serde_json::{Value, json};

use super::kv::{HEAD_DIM, HEADS, LAYERS, Rows, TOKENS};
use super::median;
use crate::exit::Failure;
use crate::output::Output;

/// Sequences stored, and tokens of each: four times what memory holds. The first ones fill it.
const SEQUENCES: usize = 8;
const FIRST: usize = 2;
const LENGTH: usize = TOKENS / FIRST;
/// Bytes of the file beside it.
const FILE_BYTES: usize = 1 << 30;
/// Tokens of a call.
const BATCH: usize = 64;

/// A folder that goes with the measurement.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed stays: the report is what counts.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn failed(action: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let (action, path) = (action.to_string(), path.to_path_buf());
    move |source| Failure::from(infer::Error::Io { action, path, source })
}

fn open(folder: &Path) -> infer::Result<KvStore> {
    KvStore::new(&KvCacheOptions {
        n_layers: LAYERS,
        n_kv_heads: HEADS,
        head_dim: HEAD_DIM,
        kv_type: "f16",
        hot_tokens: TOKENS,
        cold_dir: folder.to_string_lossy().into_owned(),
        cold_bytes: 4 << 30,
        cold_patience_ms: 120_000,
        ..KvCacheOptions::default()
    })
}

fn tokens(sequence: usize) -> Vec<u32> {
    (0..LENGTH).map(|i| (sequence * LENGTH + i) as u32).collect()
}

/// Drops what the system has of a file in memory.
fn drop_cache(path: &Path) -> bool {
    let of = format!("of={}", path.display());
    let mut dd = Command::new("dd");
    dd.args([&of, "oflag=nocache", "conv=notrunc,fdatasync", "count=0"]);
    let ended = dd
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    ended.is_ok_and(|status| status.success())
}

/// Stores some sequences; seconds that storing took.
fn store(store: &KvStore, sequences: Range<usize>) -> infer::Result<f64> {
    let rows = Rows::new(store.shape(), BATCH)?;
    let (keys, values) = (Elements::F32(&rows.keys), Elements::F32(&rows.values));
    let started = Instant::now();
    for number in sequences {
        let sequence = store.open("")?;
        for position in (0..LENGTH).step_by(BATCH) {
            for layer in 0..LAYERS {
                sequence.store_batch(layer, position, BATCH, keys, values)?;
            }
            sequence.advance(BATCH)?;
        }
        sequence.seal(&tokens(number))?;
    }
    Ok(started.elapsed().as_secs_f64())
}

/// Bytes per second of writing a file with a sync at the end, and of reading it.
fn file(path: &Path, piece: usize) -> Result<(f64, f64, bool), Failure> {
    let mut buffer = vec![0u8; piece];
    for (i, byte) in buffer.iter_mut().enumerate() {
        *byte = (i * 31 % 251) as u8;
    }
    let n = FILE_BYTES / piece;
    let mut file = File::create(path).map_err(failed("create", path))?;
    let started = Instant::now();
    for _ in 0..n {
        file.write_all(&buffer).map_err(failed("write", path))?;
    }
    file.sync_all().map_err(failed("sync", path))?;
    let write = (n * piece) as f64 / started.elapsed().as_secs_f64();
    let dropped = drop_cache(path);
    let mut file = File::open(path).map_err(failed("open", path))?;
    let started = Instant::now();
    for _ in 0..n {
        file.read_exact(&mut buffer).map_err(failed("read", path))?;
    }
    let read = (n * piece) as f64 / started.elapsed().as_secs_f64();
    Ok((write, read, dropped))
}

/// What finding all sequences took.
struct Back {
    tokens: usize,
    blocks: u64,
    seconds: f64,
    dropped: bool,
}

/// Finds all sequences, whose files the system has nothing of in memory.
fn read_back(store: &KvStore, cache: &Path) -> Result<Back, Failure> {
    let mut dropped = true;
    for entry in fs::read_dir(cache).map_err(failed("list", cache))?.flatten() {
        dropped &= drop_cache(&entry.path());
    }
    let before = store.stats().cold_reads;
    let (mut tokens, mut time) = (0, Duration::ZERO);
    for number in 0..SEQUENCES {
        let ids = self::tokens(number);
        let started = Instant::now();
        let sequence = store.lookup("", &ids)?;
        time += started.elapsed();
        tokens += sequence.len();
    }
    Ok(Back {
        tokens,
        blocks: store.stats().cold_reads - before,
        seconds: time.as_secs_f64(),
        dropped,
    })
}

/// One round, in a new folder: figures by name.
fn round(parent: &Path) -> Result<Vec<(&'static str, f64)>, Failure> {
    let folder = Folder(parent.join(format!("infer-bench-kv-{}", std::process::id())));
    fs::create_dir_all(&folder.0).map_err(failed("create", &folder.0))?;
    let (cache, plain) = (folder.0.join("cache"), folder.0.join("file"));
    let first = open(&cache)?;
    let block = first.shape().block_bytes();
    store(&first, 0..FIRST)?;
    let before = file(&plain, block)?;
    let stored = store(&first, FIRST..SEQUENCES)?;
    let started = Instant::now();
    let counts = first.stats();
    drop(first);
    let closed = started.elapsed().as_secs_f64();
    let between = file(&plain, block)?;

    let second = open(&cache)?;
    let kept = second.stats();
    let into_fresh = read_back(&second, &cache)?;
    let again = read_back(&second, &cache)?;
    drop(second);
    let after = file(&plain, block)?;
    let dropped = before.2 && between.2 && into_fresh.dropped && again.dropped && after.2;
    let write = (kept.cold_blocks as usize * block) as f64 / (stored + closed);
    let rate = |back: &Back| (back.blocks as usize * block) as f64 / back.seconds;
    let read = rate(&again);
    let (disk_write, disk_read) = ((before.0 + between.0) / 2.0, (between.1 + after.1) / 2.0);
    Ok(vec![
        ("block_bytes", block as f64),
        (
            "store_tokens_per_second",
            ((SEQUENCES - FIRST) * LENGTH) as f64 / stored,
        ),
        ("evictions", counts.evictions as f64),
        ("refused_or_dropped", counts.spills_refused as f64),
        ("blocks_kept", kept.cold_blocks as f64),
        ("write_gb_s", write / 1e9),
        ("disk_write_gb_s", disk_write / 1e9),
        ("fraction_of_disk_write", write / disk_write),
        ("tokens_found", into_fresh.tokens as f64),
        ("blocks_read", again.blocks as f64),
        ("read_into_fresh_memory_gb_s", rate(&into_fresh) / 1e9),
        ("read_gb_s", read / 1e9),
        ("disk_read_gb_s", disk_read / 1e9),
        ("fraction_of_disk_read", read / disk_read),
        ("caches_dropped", f64::from(u8::from(dropped))),
    ])
}

/// Measures so many rounds. Of each figure the median, and the fractions of every round.
pub fn measure(parent: &Path, rounds: usize) -> Result<Value, Failure> {
    let rounds: Vec<_> = (0..rounds.max(1))
        .map(|_| round(parent))
        .collect::<Result<_, _>>()?;
    let all = |name: &str| -> Vec<f64> {
        let figures = rounds.iter().flatten().filter(|(n, _)| *n == name);
        figures.map(|(_, figure)| *figure).collect()
    };
    let mut report = json!({
        "rounds": rounds.len(),
        "tokens": SEQUENCES * LENGTH,
        "fractions_of_disk_write": all("fraction_of_disk_write"),
        "fractions_of_disk_read": all("fraction_of_disk_read"),
    });
    for (name, _) in rounds.iter().take(1).flatten() {
        report[*name] = json!(median(&mut all(name)));
    }
    report["caches_dropped"] = json!(all("caches_dropped").iter().all(|&dropped| dropped == 1.0));
    Ok(report)
}

/// Writes the report for people.
pub fn print(out: &mut Output, cold: &Value) -> Result<(), Failure> {
    let number = |name: &str| cold[name].as_f64().unwrap_or(0.0);
    let list = |name: &str| {
        let figures = cold[name].as_array().into_iter().flatten();
        let figures = figures.map(|figure| format!("{:.2}", figure.as_f64().unwrap_or(0.0)));
        figures.collect::<Vec<_>>().join(" ")
    };
    out.text(&format!(
        "with eviction and write-behind: {:.0} tokens/s, {} evictions, {} blocks kept, {} not written\n",
        number("store_tokens_per_second"),
        number("evictions"),
        number("blocks_kept"),
        number("refused_or_dropped"),
    ))?;
    out.text(&format!(
        "written {:.2} GB/s, a file {:.2} GB/s ({:.2} of it; rounds: {})\n",
        number("write_gb_s"),
        number("disk_write_gb_s"),
        number("fraction_of_disk_write"),
        list("fractions_of_disk_write"),
    ))?;
    out.text(&format!(
        "read back {:.2} GB/s, a file {:.2} GB/s ({:.2} of it; rounds: {}), into memory never used {:.2} GB/s{}\n",
        number("read_gb_s"),
        number("disk_read_gb_s"),
        number("fraction_of_disk_read"),
        list("fractions_of_disk_read"),
        number("read_into_fresh_memory_gb_s"),
        if cold["caches_dropped"] == true {
            ""
        } else {
            ", from the system's memory"
        },
    ))
}
