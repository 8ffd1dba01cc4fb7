//! What a store of blocks needs of a directory, so that tests can have one that fails, or loses power.

mod directory;
#[cfg(test)]
pub(crate) mod faulty;
mod memory;
#[cfg(test)]
pub(crate) mod recording;

use std::io::{Error, ErrorKind, Result};
use std::sync::Arc;

pub use directory::Directory;
pub use memory::MemoryMedia;

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    Read,
    /// Reading and writing.
    Write,
}

/// A directory, without folders in it. Errors name the file.
pub trait Media: Send + Sync + std::fmt::Debug {
    /// Names and lengths of all files; what is not a regular file has length 0.
    ///
    /// # Errors
    /// Of the storage.
    fn list(&self) -> Result<Vec<(String, u64)>>;

    /// Opens a file that is there. Links are not followed.
    ///
    /// # Errors
    /// Of the storage, and when it is not a regular file.
    fn open(&self, name: &str, access: Access) -> Result<Arc<dyn MediaFile>>;

    /// Creates a file that was not there, for reading and writing. The name survives a power cut.
    ///
    /// # Errors
    /// Of the storage, and when there is something of that name.
    fn create(&self, name: &str) -> Result<Arc<dyn MediaFile>>;

    /// Gives a small file a new content: after a crash at any moment it has the old one or the new one.
    ///
    /// # Errors
    /// Of the storage.
    fn replace(&self, name: &str, content: &[u8]) -> Result<()>;

    /// Removes a file, also after a power cut.
    ///
    /// # Errors
    /// Of the storage.
    fn remove(&self, name: &str) -> Result<()>;

    /// Takes a lock that one process at a time can have, until it is dropped or the process ends. `None` when another
    /// has it; never waits.
    ///
    /// # Errors
    /// Of the storage, and when it has no such locks.
    fn lock(&self, name: &str) -> Result<Option<Box<dyn MediaLock>>>;

    /// What it is called in messages.
    fn name(&self) -> String;
}

/// A lock that is held.
pub trait MediaLock: Send + Sync + std::fmt::Debug {
    /// Whether others still see it. They do not when the directory was removed or exchanged.
    fn is_current(&self) -> bool;
}

#[allow(clippy::len_without_is_empty, reason = "a file is not a collection")]
/// An open file. All methods may be called from several threads.
pub trait MediaFile: Send + Sync + std::fmt::Debug {
    /// Reads at an offset; fewer bytes than asked for when it likes, none at the end of the file only.
    ///
    /// # Errors
    /// Of the storage.
    fn read_at(&self, out: &mut [u8], offset: u64) -> Result<usize>;

    /// Writes at an offset; fewer bytes than given when it likes.
    ///
    /// # Errors
    /// Of the storage.
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<usize>;

    /// Bytes.
    ///
    /// # Errors
    /// Of the storage.
    fn len(&self) -> Result<u64>;

    /// Cuts the file off, or fills it up with zeros.
    ///
    /// # Errors
    /// Of the storage.
    fn set_len(&self, len: u64) -> Result<()>;

    /// Begins to bring what was written there to the disk, and does not wait: the sync that follows has less to do then. A
    /// hint only.
    fn begin_sync(&self, _offset: u64, _bytes: u64) {}

    /// What was written survives a power cut from now on.
    ///
    /// # Errors
    /// Of the storage; what was written may be lost then.
    fn sync_data(&self) -> Result<()>;
}

impl dyn MediaFile + '_ {
    /// Reads all of `out`.
    pub(super) fn read_all_at(&self, mut out: &mut [u8], mut offset: u64) -> Result<()> {
        while !out.is_empty() {
            match self.read_at(out, offset) {
                Ok(0) => {
                    let text = format!("the file ends {} bytes before what is read", out.len());
                    return Err(Error::new(ErrorKind::UnexpectedEof, text));
                }
                Ok(n) => {
                    out = out.get_mut(n..).unwrap_or_default();
                    offset += n as u64;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Writes all of `bytes`.
    pub(super) fn write_all_at(&self, mut bytes: &[u8], mut offset: u64) -> Result<()> {
        while !bytes.is_empty() {
            match self.write_at(bytes, offset) {
                Ok(0) => {
                    let text = format!("{} bytes are left that the file does not take", bytes.len());
                    return Err(Error::new(ErrorKind::WriteZero, text));
                }
                Ok(n) => {
                    bytes = bytes.get(n..).unwrap_or_default();
                    offset += n as u64;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
