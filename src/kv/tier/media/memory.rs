//! A directory in memory.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::sync::{Arc, PoisonError};

use super::{Access, Media, MediaFile, MediaLock};
use crate::sync::{Mutex, MutexGuard};

/// Files in memory. Clones are the same directory, as other processes would see it.
#[derive(Debug, Clone, Default)]
pub struct MemoryMedia(Arc<Mutex<Contents>>);

#[derive(Debug, Default)]
struct Contents {
    files: BTreeMap<String, Arc<MemoryFile>>,
    locked: Vec<String>,
}

#[derive(Debug, Default)]
struct MemoryFile(Mutex<Vec<u8>>);

#[derive(Debug)]
struct MemoryLock {
    media: MemoryMedia,
    name: String,
}

impl MemoryMedia {
    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryFile {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn error(kind: ErrorKind, name: &str) -> Error {
    Error::new(kind, format!("{name} in memory: {kind}"))
}

/// A length that memory may have.
fn grow(bytes: &mut Vec<u8>, len: u64) -> Result<()> {
    let len = usize::try_from(len).map_err(|_| error(ErrorKind::FileTooLarge, "a file"))?;
    let more = len.saturating_sub(bytes.len());
    crate::memory::reserve(bytes, more, "files in memory")
        .map_err(|e| Error::new(ErrorKind::OutOfMemory, e.to_string()))?;
    bytes.resize(len, 0);
    Ok(())
}

impl Media for MemoryMedia {
    fn list(&self) -> Result<Vec<(String, u64)>> {
        let contents = self.contents();
        let files = contents.files.iter();
        Ok(files
            .map(|(name, file)| (name.clone(), file.bytes().len() as u64))
            .collect())
    }

    fn open(&self, name: &str, _: Access) -> Result<Arc<dyn MediaFile>> {
        match self.contents().files.get(name) {
            Some(file) => Ok(file.clone()),
            None => Err(error(ErrorKind::NotFound, name)),
        }
    }

    fn create(&self, name: &str) -> Result<Arc<dyn MediaFile>> {
        let mut contents = self.contents();
        if contents.files.contains_key(name) {
            return Err(error(ErrorKind::AlreadyExists, name));
        }
        let file = Arc::<MemoryFile>::default();
        contents.files.insert(name.to_string(), file.clone());
        Ok(file)
    }

    fn replace(&self, name: &str, content: &[u8]) -> Result<()> {
        let file = Arc::new(MemoryFile(Mutex::new(content.to_vec())));
        self.contents().files.insert(name.to_string(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<()> {
        match self.contents().files.remove(name) {
            Some(_) => Ok(()),
            None => Err(error(ErrorKind::NotFound, name)),
        }
    }

    fn lock(&self, name: &str) -> Result<Option<Box<dyn MediaLock>>> {
        let mut contents = self.contents();
        if contents.locked.iter().any(|locked| locked == name) {
            return Ok(None);
        }
        contents.locked.push(name.to_string());
        Ok(Some(Box::new(MemoryLock {
            media: self.clone(),
            name: name.to_string(),
        })))
    }

    fn name(&self) -> String {
        "memory".to_string()
    }
}

impl MediaLock for MemoryLock {
    fn is_current(&self) -> bool {
        true
    }
}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.media.contents().locked.retain(|name| *name != self.name);
    }
}

impl MediaFile for MemoryFile {
    fn read_at(&self, out: &mut [u8], offset: u64) -> Result<usize> {
        let bytes = self.bytes();
        let rest = usize::try_from(offset).ok().and_then(|at| bytes.get(at..));
        let rest = rest.unwrap_or_default();
        let n = rest.len().min(out.len());
        out[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn write_at(&self, new: &[u8], offset: u64) -> Result<usize> {
        let mut bytes = self.bytes();
        let end = offset.saturating_add(new.len() as u64);
        if end > bytes.len() as u64 {
            grow(&mut bytes, end)?;
        }
        bytes[offset as usize..][..new.len()].copy_from_slice(new);
        Ok(new.len())
    }

    fn len(&self) -> Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        grow(&mut self.bytes(), len)
    }

    fn sync_data(&self) -> Result<()> {
        Ok(())
    }
}
