//! Bringing tensors into memory.
//!
//! The default copies: consecutive tensors share an anonymous region of about 64 MiB with huge-page advice,
//! filled by positional reads of 4 MiB from several threads. A region is given back when the last of its
//! tensors is dropped, so weights that are converted layer by layer do not need twice the memory.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use super::file::{Gguf, Shard, Source};
use super::identity::{Identity, PositionalFile, io, open_regular};
use super::mapping::Mapping;
use super::{GgufError, TensorInfo};
use crate::memory::{self, MemoryError, Region};
use crate::{Error, Result};

/// Tensors of a region begin at multiples of this, a cache line and the widest vector.
const TENSOR_ALIGNMENT: usize = 64;
/// A region takes tensors until it has this many bytes.
const REGION_BYTES: usize = 64 << 20;
/// Larger regions are whole huge pages: the kernel aligns only those to huge-page boundaries.
const HUGE_PAGE: usize = 2 << 20;
/// Bytes of one read.
const CHUNK: usize = 4 << 20;
/// Fewer bytes are read on the calling thread alone.
const ALONE_BELOW: u64 = 16 << 20;
/// More threads do not read faster: memory bandwidth is the limit.
const MAX_THREADS: usize = 8;

/// Where tensors live after loading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LoadMode {
    /// In memory of this process; the file may change or vanish afterwards.
    #[default]
    Read,
    /// In a mapping of the file, shared with other processes through the page cache and loaded on first use.
    ///
    /// The file must not change while tensors are alive: when another process truncates it, using a lost page
    /// raises `SIGBUS` and ends this process; when another process writes to it, results change. Replacing the
    /// file by renaming another over it is harmless.
    Mmap,
}

/// How to load.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Copy or map.
    pub mode: LoadMode,
    /// Threads that read; 0 chooses from the processors this process may use, at most 8. One reads on the
    /// calling thread. Mapping and models in memory need none.
    pub threads: usize,
    /// Most bytes of memory to allocate in [`LoadMode::Read`], checked before the first allocation.
    pub memory_budget: Option<u64>,
}

/// The bytes of all tensors of a model, by name.
#[derive(Debug, Default)]
pub struct TensorData {
    tensors: HashMap<String, TensorBytes>,
}

impl TensorData {
    /// The bytes of a tensor: rows of blocks as the file holds them.
    pub fn get(&self, name: &str) -> Option<TensorBytes> {
        self.tensors.get(name).cloned()
    }

    /// Takes a tensor out; its memory is freed when the answer and its neighbours in the region are dropped.
    pub fn take(&mut self, name: &str) -> Option<TensorBytes> {
        self.tensors.remove(name)
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }
}

/// The bytes of one tensor, cheap to clone and to send between threads.
///
/// They begin at a multiple of 64 after [`LoadMode::Read`], else of the file's alignment, which is at least 8.
#[derive(Clone)]
pub struct TensorBytes {
    backing: Backing,
    start: usize,
    len: usize,
}

#[derive(Clone)]
enum Backing {
    Region(Arc<Region>),
    Mapping(Arc<Mapping>),
}

impl TensorBytes {
    /// All of a region.
    pub fn from_region(region: Region) -> Self {
        let len = region.len();
        Self {
            backing: Backing::Region(Arc::new(region)),
            start: 0,
            len,
        }
    }
}

impl Deref for TensorBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        let all: &[u8] = match &self.backing {
            Backing::Region(r) => r,
            Backing::Mapping(m) => m,
        };
        &all[self.start..self.start + self.len]
    }
}

impl std::fmt::Debug for TensorBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TensorBytes({} bytes)", self.len)
    }
}

type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

/// Loads all tensors of `gguf`.
pub(super) fn load(gguf: &Gguf, options: &LoadOptions, progress: Progress<'_>) -> Result<TensorData> {
    let total = gguf.data_bytes();
    report(progress, 0, total)?;
    match &gguf.source {
        Source::Memory { data, base } => {
            let backing = Backing::Region(data.clone());
            let bytes = gguf.tensors().iter().map(|t| view(t, &backing, *base));
            let data = collect(gguf.tensors(), bytes)?;
            report(progress, total, total)?;
            Ok(data)
        }
        Source::Files(shards) => {
            let files = open_all(shards)?;
            let data = match options.mode {
                LoadMode::Mmap => map(gguf.tensors(), shards, &files)?,
                LoadMode::Read => read(gguf.tensors(), shards, &files, options, progress)?,
            };
            for (shard, file) in shards.iter().zip(&files) {
                let now = Identity::of(&file.file, &shard.path)?;
                shard.identity.check(&now, &shard.path)?;
            }
            if options.mode == LoadMode::Mmap {
                report(progress, total, total)?;
            }
            Ok(data)
        }
    }
}

fn report(progress: Progress<'_>, done: u64, total: u64) -> Result<()> {
    if progress(done, total) {
        Ok(())
    } else {
        Err(Error::Cancelled("loading the model"))
    }
}

fn open_all(shards: &[Shard]) -> Result<Vec<PositionalFile>> {
    let mut files = memory::with_capacity(shards.len(), "the files of a split model")?;
    for shard in shards {
        let file = open_regular(&shard.path)?;
        let now = Identity::of(&file, &shard.path)?;
        shard.identity.check(&now, &shard.path)?;
        files.push(PositionalFile::new(file));
    }
    Ok(files)
}

fn collect(tensors: &[TensorInfo], bytes: impl Iterator<Item = Result<TensorBytes>>) -> Result<TensorData> {
    let mut all = HashMap::new();
    all.try_reserve(tensors.len())
        .map_err(|_| MemoryError::Exhausted {
            what: "the table of loaded tensors".to_string(),
            bytes: tensors.len().saturating_mul(size_of::<(String, TensorBytes)>()),
        })?;
    for (t, bytes) in tensors.iter().zip(bytes) {
        all.insert(t.name.clone(), bytes?);
    }
    Ok(TensorData { tensors: all })
}

/// The part of `backing`, which holds the file from byte `base` on, that is tensor `t`.
fn view(t: &TensorInfo, backing: &Backing, base: u64) -> Result<TensorBytes> {
    let held = match backing {
        Backing::Region(r) => r.len(),
        Backing::Mapping(m) => m.len(),
    };
    let start = t.offset.checked_sub(base).and_then(|s| usize::try_from(s).ok());
    let len = usize::try_from(t.n_bytes).ok();
    match (start, len) {
        (Some(start), Some(len)) if start.checked_add(len).is_some_and(|end| end <= held) => {
            let backing = backing.clone();
            Ok(TensorBytes { backing, start, len })
        }
        _ => Err(MemoryError::Overflow {
            what: format!("tensor '{}'", t.name),
            detail: format!("{} bytes at {} in {held} bytes", t.n_bytes, t.offset),
        }
        .into()),
    }
}

fn map(tensors: &[TensorInfo], shards: &[Shard], files: &[PositionalFile]) -> Result<TensorData> {
    let mut mappings = memory::with_capacity(files.len(), "the mappings of a split model")?;
    for (shard, file) in shards.iter().zip(files) {
        let mapping = Mapping::new(&file.file).map_err(|e| io("map", &shard.path, e))?;
        mappings.push(Backing::Mapping(Arc::new(mapping)));
    }
    let bytes = tensors.iter().map(|t| match mappings.get(t.shard) {
        Some(mapping) => view(t, mapping, 0),
        None => Err(no_such_shard(t)),
    });
    collect(tensors, bytes)
}

fn no_such_shard(t: &TensorInfo) -> Error {
    Error::Internal {
        place: "gguf::load".to_string(),
        message: format!("tensor '{}' is in file {} of fewer", t.name, t.shard),
    }
}

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

/// One read: fill `buf` from `offset` of file `shard`.
struct Job<'r> {
    shard: usize,
    offset: u64,
    buf: &'r mut [u8],
}

fn read(
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
    let jobs = jobs(&groups, &mut regions)?;
    run(jobs, shards, files, options.threads, progress)?;

    let backings = regions.into_iter().map(|r| Backing::Region(Arc::new(r)));
    let bytes = groups.iter().zip(backings).flat_map(|(group, backing)| {
        let mut start = 0;
        group.tensors.iter().map(move |t| {
            let backing = backing.clone();
            // Sizes and sums were checked when the group was made.
            let len = t.n_bytes as usize;
            let bytes = TensorBytes { backing, start, len };
            start += len.next_multiple_of(TENSOR_ALIGNMENT);
            Ok(bytes)
        })
    });
    collect(tensors, bytes)
}

/// Cuts the regions into reads of at most [`CHUNK`] bytes, in file order.
fn jobs<'r>(groups: &[Group<'_>], regions: &'r mut [Region]) -> Result<Vec<Job<'r>>> {
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
                let n = buf.len() as u64;
                jobs.push(Job { shard, offset, buf });
                offset += n;
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
                let thread = std::thread::Builder::new().name("infer-load".to_string());
                // A refused thread is no reason to fail: the others, or this one, do its work.
                spawned += usize::from(thread.spawn_scoped(scope, work).is_ok());
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
    let n = job.buf.len();
    match file.read_exact_at(job.buf, job.offset) {
        Ok(()) => Ok(n as u64),
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            let what = format!("shrank below {} bytes", job.offset + n as u64);
            Err(GgufError::Changed { what }.in_file(&shard.path).into())
        }
        Err(e) => {
            let action = format!("read {n} bytes at offset {} of", job.offset);
            Err(io(&action, &shard.path, e))
        }
    }
}
