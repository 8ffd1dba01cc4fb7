//! Bringing tensors into memory: what was loaded, and from where. How it is read is in `read`.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

use super::content::{self, ContentHash};
use super::file::{Gguf, Shard, Source};
use super::identity::{Identity, PositionalFile, io, open_regular};
use super::mapping::Mapping;
use super::{TensorInfo, read};
use crate::memory::{self, MemoryError, Region};
use crate::{Error, Result};

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
    pub(super) backings: Vec<Backing>,
    tensors: HashMap<String, Place>,
    pub(super) content: ContentHash,
}

/// Where a tensor lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) backing: usize,
    pub(super) start: usize,
    pub(super) len: usize,
}

impl TensorData {
    /// The bytes of a tensor: rows of blocks as the file holds them.
    pub fn get(&self, name: &str) -> Option<TensorBytes> {
        let place = self.tensors.get(name)?;
        Some(TensorBytes {
            backing: self.backings.get(place.backing)?.clone(),
            start: place.start,
            len: place.len,
        })
    }

    /// The bytes of a tensor, to change them; `Ok(None)` when there is no such tensor. Bytes that are mapped from the file
    /// or in use elsewhere are copied first.
    ///
    /// # Errors
    /// Memory for a copy is short.
    pub fn get_mut(&mut self, name: &str) -> Result<Option<&mut [u8]>> {
        let Some(place) = self.tensors.get_mut(name) else {
            return Ok(None);
        };
        let owned = match self.backings.get_mut(place.backing) {
            Some(Backing::Region(region)) => Arc::get_mut(region).is_some(),
            _ => false,
        };
        if !owned {
            let mut copy = Region::new(place.len, "a copy of a tensor")?;
            if let Some(backing) = self.backings.get(place.backing) {
                copy.copy_from_slice(&backing.bytes()[place.start..place.start + place.len]);
            }
            *place = Place {
                backing: self.backings.len(),
                start: 0,
                len: place.len,
            };
            self.backings.push(Backing::Region(Arc::new(copy)));
        }
        let Some(Backing::Region(region)) = self.backings.get_mut(place.backing) else {
            return Ok(None);
        };
        Ok(Arc::get_mut(region).map(|r| &mut r[place.start..place.start + place.len]))
    }

    /// Hash of all tensors as they were loaded.
    pub fn content_hash(&self) -> ContentHash {
        self.content
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
    pub(super) backing: Backing,
    pub(super) start: usize,
    pub(super) len: usize,
}

/// What holds the bytes.
#[derive(Debug, Clone)]
pub(super) enum Backing {
    Region(Arc<Region>),
    Mapping(Arc<Mapping>),
}

impl Backing {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Region(r) => r,
            Self::Mapping(m) => m,
        }
    }
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
        &self.backing.bytes()[self.start..self.start + self.len]
    }
}

impl std::fmt::Debug for TensorBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TensorBytes({} bytes)", self.len)
    }
}

pub(super) type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

/// Loads all tensors of `gguf`.
pub(super) fn load(gguf: &Gguf, options: &LoadOptions, progress: Progress<'_>) -> Result<TensorData> {
    let total = gguf.data_bytes();
    report(progress, 0, total)?;
    match &gguf.source {
        Source::Memory { data, base } => {
            let backing = Backing::Region(data.clone());
            let held = backing.bytes().len();
            let places = gguf.tensors().iter().map(|t| place(t, 0, *base, held));
            let mut data = collect(gguf.tensors(), vec![backing.clone()], places)?;
            data.content = content::of_loaded(LoadMode::Read, gguf.tensors(), &data);
            report(progress, total, total)?;
            Ok(data)
        }
        Source::Files(shards) => {
            let files = open_all(shards)?;
            let data = match options.mode {
                LoadMode::Mmap => map(gguf.tensors(), shards, &files)?,
                LoadMode::Read => read::read(gguf.tensors(), shards, &files, options, progress)?,
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

pub(super) fn report(progress: Progress<'_>, done: u64, total: u64) -> Result<()> {
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

pub(super) fn collect(
    tensors: &[TensorInfo],
    backings: Vec<Backing>,
    places: impl Iterator<Item = Result<Place>>,
) -> Result<TensorData> {
    let mut all = HashMap::new();
    all.try_reserve(tensors.len())
        .map_err(|_| MemoryError::Exhausted {
            what: "the table of loaded tensors".to_string(),
            bytes: tensors.len().saturating_mul(size_of::<(String, Place)>()),
        })?;
    for (t, place) in tensors.iter().zip(places) {
        all.insert(t.name.clone(), place?);
    }
    Ok(TensorData {
        backings,
        tensors: all,
        content: ContentHash::default(),
    })
}

/// Where tensor `t` lies in backing `backing`, which holds `held` bytes of the file from byte `base` on.
fn place(t: &TensorInfo, backing: usize, base: u64, held: usize) -> Result<Place> {
    let start = t.offset.checked_sub(base).and_then(|s| usize::try_from(s).ok());
    let len = usize::try_from(t.n_bytes).ok();
    match (start, len) {
        (Some(start), Some(len)) if start.checked_add(len).is_some_and(|end| end <= held) => {
            Ok(Place { backing, start, len })
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
    let lengths: Vec<usize> = mappings.iter().map(|m| m.bytes().len()).collect();
    let places = tensors.iter().map(|t| match lengths.get(t.shard) {
        Some(&held) => place(t, t.shard, 0, held),
        None => Err(no_such_shard(t)),
    });
    let mut data = collect(tensors, mappings, places)?;
    data.content = content::of_loaded(LoadMode::Mmap, tensors, &data);
    Ok(data)
}

fn no_such_shard(t: &TensorInfo) -> Error {
    Error::Internal {
        place: "gguf::load".to_string(),
        message: format!("tensor '{}' is in file {} of fewer", t.name, t.shard),
    }
}
