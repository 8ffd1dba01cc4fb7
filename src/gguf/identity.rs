//! Is this still the same file? And reads at a position that need no shared cursor.

use std::fs::File;
use std::path::Path;
use std::time::SystemTime;

use super::GgufError;
use crate::{Error, Result};

/// What tells a file from its successor: length, time of modification and, where there is one, the inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) len: u64,
    modified: Option<SystemTime>,
    inode: (u64, u64),
}

impl Identity {
    /// Of an open file; `path` only for messages.
    pub(super) fn of(file: &File, path: &Path) -> Result<Self> {
        let meta = file.metadata().map_err(|e| io("examine", path, e))?;
        Ok(Self {
            len: meta.len(),
            modified: meta.modified().ok(),
            inode: inode(&meta),
        })
    }

    /// An error that says how `now` differs from what was opened.
    pub(super) fn check(&self, now: &Self, path: &Path) -> Result<()> {
        let what = if self.inode != now.inode {
            "was replaced".to_string()
        } else if now.len < self.len {
            format!("shrank from {} to {} bytes", self.len, now.len)
        } else if self != now {
            "was modified".to_string()
        } else {
            return Ok(());
        };
        Err(GgufError::Changed { what }.in_file(path).into())
    }
}

#[cfg(unix)]
fn inode(meta: &std::fs::Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (meta.dev(), meta.ino())
}

#[cfg(not(unix))]
fn inode(_: &std::fs::Metadata) -> (u64, u64) {
    (0, 0)
}

/// Opens a regular file for reading. Anything else (a pipe would block, a device has no size) is refused.
pub(super) fn open_regular(path: &Path) -> Result<File> {
    let meta = std::fs::metadata(path).map_err(|e| io("open", path, e))?;
    if !meta.is_file() {
        let why = std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is not a regular file");
        return Err(io("open", path, why));
    }
    File::open(path).map_err(|e| io("open", path, e))
}

/// The crate's error for a refusal of the operating system.
pub(super) fn io(action: &str, path: &Path, source: std::io::Error) -> Error {
    Error::Io {
        action: action.to_string(),
        path: path.to_path_buf(),
        source,
    }
}

impl GgufError {
    /// This error with the file it is about.
    pub(super) fn in_file(self, path: &Path) -> Self {
        match self {
            e @ Self::InFile { .. } => e,
            e => Self::InFile {
                path: path.to_path_buf(),
                source: Box::new(e),
            },
        }
    }
}

/// A file that several threads read at positions of their own.
#[derive(Debug)]
pub(super) struct PositionalFile {
    pub(super) file: File,
    #[cfg(not(any(unix, windows)))]
    cursor: std::sync::Mutex<()>,
}

impl PositionalFile {
    pub(super) fn new(file: File) -> Self {
        Self {
            file,
            #[cfg(not(any(unix, windows)))]
            cursor: std::sync::Mutex::new(()),
        }
    }

    /// Fills `buf` from `offset`; `UnexpectedEof` when the file ends before.
    #[cfg(unix)]
    pub(super) fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, buf, offset)
    }

    /// Fills `buf` from `offset`; `UnexpectedEof` when the file ends before.
    #[cfg(windows)]
    pub(super) fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> std::io::Result<()> {
        use std::os::windows::fs::FileExt;
        while !buf.is_empty() {
            match self.file.seek_read(buf, offset) {
                Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    buf = &mut buf[n..];
                    offset += n as u64;
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Fills `buf` from `offset`; `UnexpectedEof` when the file ends before.
    #[cfg(not(any(unix, windows)))]
    pub(super) fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
        use std::io::{Read, Seek, SeekFrom};
        let _one_at_a_time = self.cursor.lock();
        (&self.file).seek(SeekFrom::Start(offset))?;
        (&self.file).read_exact(buf)
    }
}
