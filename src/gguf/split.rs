//! Split models: `PREFIX-00001-of-00003.gguf` and its siblings, as `llama-gguf-split` writes them.
//!
//! The first file carries the metadata; each carries `split.no` (from 0), `split.count` and, for all files
//! together, `split.tensors.count`. The siblings' names are made from the first's: nothing in the file can
//! point anywhere else.

use std::path::{Path, PathBuf};

use super::file::{Shard, in_file, open_shard};
use super::parse::Parsed;
use super::{GgufError, KEY_SPLIT_COUNT, KEY_SPLIT_NO, KEY_SPLIT_TENSORS, MAX_SPLITS, Metadata};
use crate::{Result, memory};

/// `split.no` and `split.count` of a file that is one of several, else `None`.
pub(super) fn position(metadata: &Metadata) -> Result<Option<(u64, u64)>, GgufError> {
    match metadata.u64(KEY_SPLIT_COUNT)? {
        None | Some(1) => Ok(None),
        Some(found) if found == 0 || found > MAX_SPLITS => Err(GgufError::SplitCount { found }),
        Some(count) => {
            let no = metadata.u64(KEY_SPLIT_NO)?;
            let no = no.ok_or_else(|| GgufError::MissingKey(KEY_SPLIT_NO.to_string()))?;
            Ok(Some((no, count)))
        }
    }
}

/// The end of the name of file `no` (from 0) of `count`.
pub(super) fn suffix(no: u64, count: u64) -> String {
    format!("-{:05}-of-{count:05}.gguf", no.saturating_add(1))
}

/// Adds the siblings of a first file, if it has any.
pub(super) fn join(first: Parsed, shard: Shard) -> Result<(Parsed, Vec<Shard>)> {
    let path = shard.path.clone();
    let Some((no, count)) = position(&first.metadata).map_err(|e| e.in_file(&path))? else {
        return Ok((first, vec![shard]));
    };
    let siblings = Siblings::of(&path, no, count).map_err(|e| e.in_file(&path))?;
    let tensors = first.metadata.u64(KEY_SPLIT_TENSORS);
    let expected = tensors
        .and_then(|n| n.ok_or_else(|| GgufError::MissingKey(KEY_SPLIT_TENSORS.to_string())))
        .map_err(|e| e.in_file(&path))?;

    let mut all = first;
    let mut shards = vec![shard];
    for no in 1..count {
        let sibling = siblings.path(no);
        let (mut parsed, shard) = open_shard(&sibling)?;
        check_sibling(&parsed.metadata, no, count).map_err(|e| e.in_file(&sibling))?;
        for t in &mut parsed.tensors {
            t.shard = no as usize;
        }
        let more = parsed.tensors.len();
        memory::reserve(&mut all.tensors, more, "the tensor tables of a split GGUF model")?;
        all.tensors.append(&mut parsed.tensors);
        shards.push(shard);
    }
    let found = all.tensors.len() as u64;
    if found != expected {
        return Err(in_file(&path, GgufError::SplitTensors { expected, found }.into()));
    }
    Ok((all, shards))
}

fn check_sibling(metadata: &Metadata, expected: u64, count: u64) -> Result<(), GgufError> {
    let missing = || GgufError::MissingKey(KEY_SPLIT_COUNT.to_string());
    let found = metadata.u64(KEY_SPLIT_COUNT)?.ok_or_else(missing)?;
    if found != count {
        let expected = count;
        return Err(GgufError::SplitCountDiffers { expected, found });
    }
    let (found, _) = position(metadata)?.ok_or_else(missing)?;
    if found != expected {
        return Err(GgufError::SplitIndex { expected, found });
    }
    Ok(())
}

/// Makes the names of the other files.
struct Siblings<'a> {
    first: &'a Path,
    prefix: &'a str,
    count: u64,
}

impl<'a> Siblings<'a> {
    fn of(first: &'a Path, no: u64, count: u64) -> Result<Self, GgufError> {
        if no != 0 {
            return Err(GgufError::SplitIndex {
                expected: 0,
                found: no,
            });
        }
        let expected = suffix(0, count);
        let name = first.file_name().and_then(|n| n.to_str());
        let Some(prefix) = name.and_then(|n| n.strip_suffix(expected.as_str())) else {
            return Err(GgufError::SplitName { expected });
        };
        Ok(Self { first, prefix, count })
    }

    fn path(&self, no: u64) -> PathBuf {
        let name = format!("{}{}", self.prefix, suffix(no, self.count));
        self.first.with_file_name(name)
    }
}
