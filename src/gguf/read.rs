//! Copying tensors out of files.
//!
//! Consecutive tensors share an anonymous region of about 64 MiB with huge-page advice,
//! filled by positional reads from several threads, 4 MiB at a time. A region is given back when the last of its
//! tensors is dropped, so weights that are converted layer by layer do not need twice the memory.
//!
//! `cargo bench --bench load` on two cores of a cloud machine, seconds per GB from a warm page cache and from the
//! second load on: 0.08 with huge pages, 0.34 to 0.49 with pages of 4 KiB, 0.02 for touching every page of a
//! mapping. Huge pages, not threads, make the difference; threads help where huge pages are switched off and
//! where the file comes from a fast disk.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use super::content;
use super::file::Shard;
use super::identity::{PositionalFile, io};
use super::load::{Backing, LoadMode, LoadOptions, Place, Progress, TensorData, collect, report};
use super::{GgufError, TensorInfo};
use crate::kernel::with_signals_blocked;
use crate::memory::{self, MemoryError, Region};
use crate::{Error, Result};

/// Tensors of a region begin at multiples of this, a cache line and the widest vector.
const TENSOR_ALIGNMENT: usize = 64;
/// A region takes tensors until it has this many bytes.
const REGION_BYTES: usize = 64 << 20;
/// Larger regions are whole huge pages: the kernel aligns only those to huge-page boundaries.
const HUGE_PAGE: usize = 2 << 20;
/// Bytes that a thread takes at a time, whole pieces.
const CHUNK: usize = 16 * content::PIECE;
/// Fewer bytes are read on the calling thread alone.
const ALONE_BELOW: u64 = 16 << 20;
/// More threads do not read faster: memory bandwidth is the limit.
const MAX_THREADS: usize = 8;

/// Stack of a reading thread.
const STACK: usize = 256 << 10;

/// Tensors that share a region.
struct Group<'t> {
    tensors: &'t [TensorInfo],
    bytes: usize,
}

fn groups(tensors: &[TensorInfo]) -> Result<Vec<Group<'_>>> {
    let mut groups = Vec::new();
    let mut first = 0;
    let mut bytes = 0usize;
    for (i, t) in tensors.iter().enumerate() {
        bytes = padded(t)
            .and_then(|b| bytes.checked_add(b))
            .ok_or_else(|| MemoryError::Overflow {
                what: format!("tensor '{}'", t.name),
                detail: format!("{} bytes do not fit this machine's address space", t.n_bytes),
            })?;
        if bytes >= REGION_BYTES || i + 1 == tensors.len() {
            if bytes >= REGION_BYTES {
                bytes = bytes.checked_next_multiple_of(HUGE_PAGE).unwrap_or(bytes);
            }
            let tensors = &tensors[first..=i];
            groups.push(Group { tensors, bytes });
            first = i + 1;
            bytes = 0;
        }
    }
    Ok(groups)
}

fn padded(t: &TensorInfo) -> Option<usize> {
    let bytes = usize::try_from(t.n_bytes).ok()?;
    bytes.checked_next_multiple_of(TENSOR_ALIGNMENT)
}

/// Fill `buf` from `offset` of file `shard`, and hash its pieces.
struct Job<'r> {
    shard: usize,
    offset: u64,
    buf: &'r mut [u8],
    hashes: &'r mut [u128],
}

/// Copies all tensors into regions of memory.
pub(super) fn read(
    tensors: &[TensorInfo],
    shards: &[Shard],
    files: &[PositionalFile],
    options: &LoadOptions,
    progress: Progress<'_>,
) -> Result<TensorData> {
    let groups = groups(tensors)?;
    let needed = groups.iter().fold(0u64, |n, g| n.saturating_add(g.bytes as u64));
    if let Some(budget) = options.memory_budget
        && needed > budget
    {
        let what = "the model's tensors".to_string();
        return Err(MemoryError::OverBudget { what, needed, budget }.into());
    }
    let mut regions = memory::with_capacity(groups.len(), "the regions of a model")?;
    for group in &groups {
        regions.push(Region::new(group.bytes, "a model's tensors")?);
    }
    let pieces = tensors.iter().map(content::pieces).sum();
    let mut hashes = memory::filled(0u128, pieces, "the hashes of a model's tensors")?;
    let jobs = jobs(&groups, &mut regions, &mut hashes)?;
    run(jobs, shards, files, options.threads, progress)?;

    let backings = regions
        .into_iter()
        .map(|r| Backing::Region(Arc::new(r)))
        .collect();
    let places = groups.iter().enumerate().flat_map(|(backing, group)| {
        let mut start = 0;
        group.tensors.iter().map(move |t| {
            // Sizes and sums were checked when the group was made.
            let len = t.n_bytes as usize;
            let place = Place { backing, start, len };
            start += len.next_multiple_of(TENSOR_ALIGNMENT);
            Ok(place)
        })
    });
    let mut data = collect(tensors, backings, places)?;
    data.content = content::combine(LoadMode::Read, tensors, &hashes);
    Ok(data)
}

/// Cuts the regions into jobs of at most [`CHUNK`] bytes, in file order.
fn jobs<'r>(
    groups: &[Group<'_>],
    regions: &'r mut [Region],
    mut hashes: &'r mut [u128],
) -> Result<Vec<Job<'r>>> {
    let of = |t: &TensorInfo| t.n_bytes.div_ceil(CHUNK as u64) as usize;
    let count = groups
        .iter()
        .map(|g| g.tensors.iter().map(of).sum::<usize>())
        .sum();
    let mut jobs = memory::with_capacity(count, "the plan of reading a model")?;
    for (group, region) in groups.iter().zip(regions) {
        let mut rest: &mut [u8] = region;
        for t in group.tensors {
            // Sizes and sums were checked when the group was made.
            let len = t.n_bytes as usize;
            let (own, tail) = rest.split_at_mut(len.next_multiple_of(TENSOR_ALIGNMENT));
            rest = tail;
            let mut offset = t.offset;
            for buf in own[..len].chunks_mut(CHUNK) {
                let shard = t.shard;
                let n = buf.len();
                let own;
                (own, hashes) = hashes.split_at_mut(n.div_ceil(content::PIECE));
                jobs.push(Job {
                    shard,
                    offset,
                    buf,
                    hashes: own,
                });
                offset += n as u64;
            }
        }
    }
    Ok(jobs)
}

/// Performs all reads, on this thread or on several.
fn run(
    jobs: Vec<Job<'_>>,
    shards: &[Shard],
    files: &[PositionalFile],
    threads: usize,
    progress: Progress<'_>,
) -> Result<()> {
    let total = jobs.iter().map(|j| j.buf.len() as u64).sum();
    let threads = match threads {
        _ if total < ALONE_BELOW => 1,
        0 => std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS)),
        n => n.min(jobs.len()),
    };
    let queue = Mutex::new(jobs.into_iter());
    let stop = AtomicBool::new(false);
    let next = || {
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        queue.lock().unwrap_or_else(PoisonError::into_inner).next()
    };
    let mut done = 0;
    let mut account = |read: Result<u64>| {
        done += read?;
        report(progress, done, total)
    };

    let spawned_result = std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        let mut spawned = 0;
        if threads > 1 {
            for _ in 0..threads {
                let sender = sender.clone();
                let work = || {
                    let _inside = crate::panic_guard::enter();
                    let sender = sender;
                    while let Some(job) = next() {
                        if sender.send(read_one(job, shards, files)).is_err() {
                            break;
                        }
                    }
                };
                let thread = std::thread::Builder::new()
                    .name("infer-load".to_string())
                    .stack_size(STACK);
                // A refused thread is no reason to fail: the others, or this one, do its work.
                let thread = with_signals_blocked(|| thread.spawn_scoped(scope, work));
                spawned += usize::from(thread.is_ok());
            }
        }
        drop(sender);
        if spawned == 0 {
            return None;
        }
        let mut result = Ok(());
        for read in receiver {
            if result.is_ok() {
                result = account(read);
                stop.store(result.is_err(), Ordering::Relaxed);
            }
        }
        Some(result)
    });
    if let Some(result) = spawned_result {
        return result;
    }
    while let Some(job) = next() {
        account(read_one(job, shards, files))?;
    }
    Ok(())
}

fn read_one(job: Job<'_>, shards: &[Shard], files: &[PositionalFile]) -> Result<u64> {
    let (Some(shard), Some(file)) = (shards.get(job.shard), files.get(job.shard)) else {
        return Err(Error::Internal {
            place: "gguf::load".to_string(),
            message: format!("no file {}", job.shard),
        });
    };
    let mut offset = job.offset;
    for (buf, hash) in job.buf.chunks_mut(content::PIECE).zip(job.hashes) {
        let n = buf.len();
        match file.read_exact_at(buf, offset) {
            Ok(()) => *hash = content::piece(buf),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                let what = format!("shrank below {} bytes", offset + n as u64);
                return Err(GgufError::Changed { what }.in_file(&shard.path).into());
            }
            Err(e) => {
                let action = format!("read {n} bytes at offset {offset} of");
                return Err(io(&action, &shard.path, e));
            }
        }
        offset += n as u64;
    }
    Ok(offset - job.offset)
}
