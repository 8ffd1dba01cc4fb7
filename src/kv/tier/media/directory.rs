//! A directory of the file system. What lies in it is the text of users: nobody else may read or write it, and nobody
//! else can lead a write elsewhere by a link.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Access, Media, MediaFile, MediaLock};

/// A directory of the file system.
///
/// On Unix it is created for its owner only (0700, files 0600). Neither it nor a file in it may be a symbolic link, and
/// it is refused when others can write to it. Elsewhere there are no such checks: access is what the directory's
/// parents give, and reads and writes of one file wait for each other.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// Keeps names durable.
    #[cfg(unix)]
    handle: File,
}

#[derive(Debug)]
struct DirectoryFile {
    path: PathBuf,
    #[cfg(unix)]
    file: File,
    /// The same file, open for reads and writes that the system does not copy; where the file system has such.
    #[cfg(target_os = "linux")]
    direct: Option<File>,
    #[cfg(not(unix))]
    file: crate::sync::Mutex<File>,
}

#[derive(Debug)]
struct DirectoryLock {
    #[cfg_attr(
        not(unix),
        expect(dead_code, reason = "it cannot be compared without inode numbers")
    )]
    path: PathBuf,
    /// The system releases the lock of a process that ends.
    file: File,
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // Closing is not enough: a forked child has the same open file.
        let _ = self.file.unlock();
    }
}

fn context(action: &str, path: &Path) -> impl FnOnce(Error) -> Error {
    let text = format!("cannot {action} {}", path.display());
    move |e| Error::new(e.kind(), format!("{text}: {e}"))
}

impl Directory {
    /// Opens a directory, and creates it when it is not there.
    ///
    /// # Errors
    /// When it cannot be created or read, is not a directory, or is a symbolic link; on Unix also when it belongs to
    /// somebody else or others can write to it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        // Without a slash at the end, which would follow a link.
        let absolute = std::path::absolute(path).map_err(context("use the directory", path))?;
        let path: PathBuf = absolute.components().collect();
        if fs::symlink_metadata(&path).is_err_and(|e| e.kind() == ErrorKind::NotFound) {
            create_directory(&path).map_err(context("create the directory", &path))?;
        }
        let found = fs::symlink_metadata(&path).map_err(context("use the directory", &path))?;
        if !found.is_dir() {
            let what = if found.is_symlink() {
                "a symbolic link"
            } else {
                "not a directory"
            };
            let text = format!(
                "cannot keep blocks in {}: it is {what}; name a directory, or a path where one can be created",
                path.display()
            );
            return Err(Error::new(ErrorKind::NotADirectory, text));
        }
        #[cfg(unix)]
        {
            let handle = owned(&path)?;
            Ok(Self { path, handle })
        }
        #[cfg(not(unix))]
        Ok(Self { path })
    }

    fn options(&self, access: Access) -> OpenOptions {
        Self::options_with(access, 0)
    }

    /// With further flags of the system.
    fn options_with(access: Access, flags: i32) -> OpenOptions {
        let mut options = OpenOptions::new();
        #[cfg(not(unix))]
        let _ = flags;
        options.read(true).write(access == Access::Write);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt;
            // A pipe of this name must not make the caller wait for whoever writes to it.
            options
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC | flags);
        }
        options
    }

    /// Makes a slab's file of an open one.
    #[cfg(target_os = "linux")]
    fn slab(file: File, path: PathBuf, access: Access) -> Arc<dyn MediaFile> {
        use std::os::unix::fs::MetadataExt;
        let same = |other: &File| {
            let (Ok(a), Ok(b)) = (file.metadata(), other.metadata()) else {
                return false;
            };
            (a.dev(), a.ino()) == (b.dev(), b.ino())
        };
        let direct = Self::options_with(access, libc::O_DIRECT).open(&path);
        let direct = direct.ok().filter(same);
        Arc::new(DirectoryFile { path, file, direct })
    }

    #[cfg(not(target_os = "linux"))]
    fn slab(file: File, path: PathBuf, _: Access) -> Arc<dyn MediaFile> {
        DirectoryFile::new(file, path)
    }

    fn regular(&self, options: &OpenOptions, path: &Path) -> Result<File> {
        let file = options.open(path)?;
        if file.metadata()?.is_file() {
            return Ok(file);
        }
        Err(Error::new(ErrorKind::InvalidInput, "it is not a regular file"))
    }

    /// Makes created, renamed and removed names survive a power cut.
    fn sync_names(&self) -> Result<()> {
        #[cfg(unix)]
        self.handle
            .sync_all()
            .map_err(context("sync the directory", &self.path))?;
        Ok(())
    }
}

fn create_directory(path: &Path) -> Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Opens a directory that is the caller's own.
#[cfg(unix)]
fn owned(path: &Path) -> Result<File> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC);
    let handle = options.open(path).map_err(context("open the directory", path))?;
    let permissions = handle.metadata().map_err(context("examine", path))?.permissions();
    let mode = permissions.mode() & 0o7777;
    if mode & 0o022 != 0 {
        let text = format!(
            "cannot keep blocks in {}: others can write to it (mode {mode:04o}); take that from them (chmod go-w) or \
             name another directory",
            path.display()
        );
        return Err(Error::new(ErrorKind::PermissionDenied, text));
    }
    // Only the owner may set a mode, be it the one that is there.
    match handle.set_permissions(permissions) {
        Err(e) if e.kind() == ErrorKind::PermissionDenied => {
            let text = format!(
                "cannot keep blocks in {}: it belongs to another user; name a directory of your own",
                path.display()
            );
            Err(Error::new(ErrorKind::PermissionDenied, text))
        }
        _ => Ok(handle),
    }
}

impl Media for Directory {
    fn list(&self) -> Result<Vec<(String, u64)>> {
        let failed = |e| context("list", &self.path)(e);
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // Names that are not text are not ours.
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            // It may have been removed meanwhile.
            let Ok(metadata) = fs::symlink_metadata(entry.path()) else {
                continue;
            };
            files.push((name, if metadata.is_file() { metadata.len() } else { 0 }));
        }
        Ok(files)
    }

    fn open(&self, name: &str, access: Access) -> Result<Arc<dyn MediaFile>> {
        let path = self.path.join(name);
        let file = self.regular(&self.options(access), &path);
        Ok(Self::slab(file.map_err(context("open", &path))?, path, access))
    }

    fn create(&self, name: &str) -> Result<Arc<dyn MediaFile>> {
        let path = self.path.join(name);
        let file = self.options(Access::Write).create_new(true).open(&path);
        let file = Self::slab(file.map_err(context("create", &path))?, path, Access::Write);
        self.sync_names()?;
        Ok(file)
    }

    fn replace(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.path.join(name);
        let new = self.path.join(format!("{name}.new"));
        let written = (|| {
            match fs::remove_file(&new) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let mut file = self.options(Access::Write).create_new(true).open(&new)?;
            std::io::Write::write_all(&mut file, content)?;
            file.sync_all()?;
            fs::rename(&new, &path)
        })();
        written.map_err(context("write", &path))?;
        self.sync_names()
    }

    fn remove(&self, name: &str) -> Result<()> {
        let path = self.path.join(name);
        fs::remove_file(&path).map_err(context("remove", &path))?;
        self.sync_names()
    }

    fn lock(&self, name: &str) -> Result<Option<Box<dyn MediaLock>>> {
        let path = self.path.join(name);
        let mut options = self.options(Access::Write);
        let file = self.regular(options.create(true).truncate(false), &path);
        let file = file.map_err(context("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(DirectoryLock { path, file }))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(context("lock", &path)(e)),
        }
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }
}

impl MediaLock for DirectoryLock {
    fn is_current(&self) -> bool {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let (Ok(held), Ok(there)) = (self.file.metadata(), fs::symlink_metadata(&self.path)) else {
                return false;
            };
            (held.dev(), held.ino()) == (there.dev(), there.ino())
        }
        #[cfg(not(unix))]
        true
    }
}

/// Alignment that reads and writes without a copy need in memory and in the file: what all disks are content with.
#[cfg(target_os = "linux")]
const DIRECT_PAGE: usize = 4096;
/// Shorter ones are copied: many of them are faster together.
#[cfg(target_os = "linux")]
const DIRECT_BYTES: usize = 256 << 10;

#[cfg(target_os = "linux")]
impl DirectoryFile {
    /// Bytes of the whole pages of a long piece, and the file to move them without a copy by the system; `None` when it has
    /// to be copied.
    fn whole_pages(&self, bytes: &[u8], offset: u64) -> Option<(usize, &File)> {
        let whole = bytes.len() / DIRECT_PAGE * DIRECT_PAGE;
        let aligned = bytes.as_ptr().addr().is_multiple_of(DIRECT_PAGE)
            && offset.is_multiple_of(DIRECT_PAGE as u64)
            && whole >= DIRECT_BYTES;
        Some((whole, self.direct.as_ref().filter(|_| aligned)?))
    }

    // What goes wrong in these is told by the copying read or write that follows: some file systems refuse them one by one.

    fn write_direct(&self, bytes: &[u8], offset: u64) -> Option<usize> {
        let (whole, file) = self.whole_pages(bytes, offset)?;
        let written = std::os::unix::fs::FileExt::write_at(file, bytes.get(..whole)?, offset);
        written.ok().filter(|&n| n > 0)
    }

    fn read_direct(&self, out: &mut [u8], offset: u64) -> Option<usize> {
        let (whole, file) = self.whole_pages(out, offset)?;
        let read = std::os::unix::fs::FileExt::read_at(file, out.get_mut(..whole)?, offset);
        read.ok().filter(|&n| n > 0)
    }
}

#[cfg(unix)]
impl DirectoryFile {
    #[cfg(not(target_os = "linux"))]
    fn new(file: File, path: PathBuf) -> Arc<Self> {
        Arc::new(Self { path, file })
    }

    fn with<T>(&self, action: &str, f: impl FnOnce(&File) -> Result<T>) -> Result<T> {
        f(&self.file).map_err(|e| context(action, &self.path)(e))
    }
}

#[cfg(not(unix))]
impl DirectoryFile {
    fn new(file: File, path: PathBuf) -> Arc<Self> {
        let file = crate::sync::Mutex::new(file);
        Arc::new(Self { path, file })
    }

    fn with<T>(&self, action: &str, f: impl FnOnce(&mut File) -> Result<T>) -> Result<T> {
        let mut file = self
            .file
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        f(&mut file).map_err(|e| context(action, &self.path)(e))
    }
}

impl MediaFile for DirectoryFile {
    fn read_at(&self, out: &mut [u8], offset: u64) -> Result<usize> {
        #[cfg(target_os = "linux")]
        if let Some(n) = self.read_direct(out, offset) {
            return Ok(n);
        }
        self.with("read", |file| {
            #[cfg(unix)]
            return std::os::unix::fs::FileExt::read_at(file, out, offset);
            #[cfg(not(unix))]
            {
                use std::io::{Read, Seek, SeekFrom};
                file.seek(SeekFrom::Start(offset))?;
                file.read(out)
            }
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<usize> {
        #[cfg(target_os = "linux")]
        if let Some(n) = self.write_direct(bytes, offset) {
            return Ok(n);
        }
        self.with("write", |file| {
            #[cfg(unix)]
            return std::os::unix::fs::FileExt::write_at(file, bytes, offset);
            #[cfg(not(unix))]
            {
                use std::io::{Seek, SeekFrom, Write};
                file.seek(SeekFrom::Start(offset))?;
                file.write(bytes)
            }
        })
    }

    fn len(&self) -> Result<u64> {
        self.with("examine", |file| Ok(file.metadata()?.len()))
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.with("change the length of", |file| file.set_len(len))
    }

    #[cfg(unix)]
    fn begin_sync(&self, offset: u64, bytes: u64) {
        crate::kernel::begin_writing(&self.file, offset, bytes);
    }

    fn sync_data(&self) -> Result<()> {
        self.with("sync", |file| file.sync_data())
    }
}
