//! An opened GGUF model: one file, the files of a split model, or bytes in memory.

use std::collections::HashMap;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cursor::Cursor;
use super::identity::{Identity, open_regular};
use super::load::{self, LoadOptions, TensorData};
use super::parse::{self, Parsed};
use super::{GgufError, Metadata, TensorInfo, split, tensors};
use crate::memory::Region;
use crate::{Error, Result};

/// Metadata and tensor table of a model; the data comes with [`Gguf::load`].
#[derive(Debug)]
pub struct Gguf {
    version: u32,
    alignment: u64,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    index: HashMap<String, usize>,
    file_bytes: u64,
    pub(super) source: Source,
}

/// Where the data is.
#[derive(Debug)]
pub(super) enum Source {
    Files(Vec<Shard>),
    /// The bytes from `base` on.
    Memory {
        data: Arc<Region>,
        base: u64,
    },
}

/// One file, as it was when it was opened.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) path: PathBuf,
    pub(super) identity: Identity,
}

impl Gguf {
    /// Opens a file and, when it is the first of a split model (`NAME-00001-of-00003.gguf`), its siblings.
    ///
    /// Reads header, metadata and tensor table only.
    ///
    /// # Errors
    /// [`Error::Io`] when the system refuses, [`Error::Gguf`] when a file is malformed, [`Error::Memory`].
    pub fn open(path: &Path) -> Result<Self> {
        let (parsed, shard) = open_shard(path)?;
        let (parsed, shards) = split::join(parsed, shard)?;
        let file_bytes = shards.iter().fold(0u64, |n, s| n.saturating_add(s.identity.len));
        Self::build(parsed, file_bytes, Source::Files(shards)).map_err(|e| in_file(path, e))
    }

    /// Parses a whole file in memory and keeps a copy of its data section.
    ///
    /// # Errors
    /// [`Error::Gguf`] when the bytes are malformed or one of several files of a split model, [`Error::Memory`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let size = bytes.len() as u64;
        let parsed = parse::parse(&mut Cursor::new(bytes, size, None))?;
        if let Some((_, count)) = split::position(&parsed.metadata)? {
            return Err(GgufError::SplitInMemory { count }.into());
        }
        let base = parsed.data_start.min(size);
        // `base` is at most the length of `bytes`.
        let data = bytes.get(base as usize..).unwrap_or_default();
        let mut region = Region::new(data.len(), "the tensors of a GGUF file in memory")?;
        region[..data.len()].copy_from_slice(data);
        let data = Arc::new(region);
        Self::build(parsed, size, Source::Memory { data, base })
    }

    fn build(parsed: Parsed, file_bytes: u64, source: Source) -> Result<Self> {
        Ok(Self {
            version: parsed.version,
            alignment: parsed.alignment,
            metadata: parsed.metadata,
            index: tensors::index(&parsed.tensors)?,
            tensors: parsed.tensors,
            file_bytes,
            source,
        })
    }

    /// Gives up the bytes of a model in memory, which its [`TensorData`] then owns alone; it cannot be loaded again.
    pub fn release_data(&mut self) {
        if let Source::Memory { data, .. } = &mut self.source
            && let Ok(empty) = Region::new(0, "nothing")
        {
            *data = Arc::new(empty);
        }
    }

    /// Version of the format, 1 to 3; of a split model, that of the first file.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Alignment of the data in bytes; of a split model, that of the first file.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// The metadata alone.
    pub fn into_metadata(self) -> Metadata {
        self.metadata
    }

    /// The metadata; of a split model, that of the first file.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors, in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.index.get(name).and_then(|&i| self.tensors.get(i))
    }

    /// Bytes of all files together.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Bytes of all tensors together, without padding.
    pub fn data_bytes(&self) -> u64 {
        self.tensors.iter().fold(0u64, |n, t| n.saturating_add(t.n_bytes))
    }

    /// The files, in the order of [`TensorInfo::shard`]; empty for a model in memory.
    pub fn paths(&self) -> Vec<&Path> {
        match &self.source {
            Source::Files(shards) => shards.iter().map(|s| s.path.as_path()).collect(),
            Source::Memory { .. } => Vec::new(),
        }
    }

    /// Brings the data of all tensors into memory.
    ///
    /// `progress` is called on the calling thread with the bytes done and the bytes in all, at the beginning,
    /// as reading goes on, and at the end; when it answers false, loading ends with [`Error::Cancelled`].
    ///
    /// # Errors
    /// [`GgufError::Changed`] when a file is not what it was when it was opened, [`Error::Io`],
    /// [`Error::Memory`] when memory is short or the budget would be exceeded, [`Error::Cancelled`].
    pub fn load(
        &self,
        options: &LoadOptions,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<TensorData> {
        load::load(self, options, progress)
    }
}

/// Parses one file.
pub(super) fn open_shard(path: &Path) -> Result<(Parsed, Shard)> {
    let file = open_regular(path)?;
    let identity = Identity::of(&file, path)?;
    let reader = BufReader::with_capacity(32 << 10, &file);
    let mut cursor = Cursor::new(reader, identity.len, Some(path));
    let parsed = parse::parse(&mut cursor).map_err(|e| in_file(path, e))?;
    identity.check(&Identity::of(&file, path)?, path)?;
    let path = path.to_path_buf();
    Ok((parsed, Shard { path, identity }))
}

/// Adds the file to an error about its contents.
pub(super) fn in_file(path: &Path, e: Error) -> Error {
    match e {
        Error::Gguf(e) => e.in_file(path).into(),
        e => e,
    }
}
