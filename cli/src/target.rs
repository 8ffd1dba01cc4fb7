//! Output files that appear under their name when they are complete.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::exit::Failure;

/// The file being written: a temporary beside the final name, removed unless committed. A name that exists and is
/// no regular file, such as a pipe, is written directly.
pub struct Target {
    writer: BufWriter<File>,
    bytes: Vec<u8>,
    temporary: Option<PathBuf>,
}

impl Target {
    /// Begins the file that `flag` names.
    pub fn create(path: &Path, flag: &str) -> Result<Self, Failure> {
        let direct = path.metadata().is_ok_and(|m| !m.is_file());
        let temporary = if direct { None } else { Some(beside(path, flag)?) };
        let opened = match &temporary {
            None => OpenOptions::new().write(true).open(path),
            Some(temporary) => OpenOptions::new().write(true).create_new(true).open(temporary),
        };
        let file = opened.map_err(|e| Failure::io(&format!("create {}", path.display()), &e))?;
        Ok(Self {
            writer: BufWriter::with_capacity(1 << 16, file),
            bytes: Vec::new(),
            temporary,
        })
    }

    /// Writes numbers, little-endian.
    pub fn row(&mut self, row: &[f32]) -> std::io::Result<()> {
        self.bytes.clear();
        self.bytes.extend(row.iter().flat_map(|v| v.to_le_bytes()));
        self.writer.write_all(&self.bytes)
    }

    /// Writes bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.writer.write_all(bytes)
    }

    /// Gives the file its name.
    pub fn commit(mut self, path: &Path) -> Result<(), Failure> {
        let done = self.writer.flush().and_then(|()| match &self.temporary {
            Some(temporary) => std::fs::rename(temporary, path),
            None => Ok(()),
        });
        done.map_err(|e| Failure::io(&format!("write {}", path.display()), &e))?;
        self.temporary = None;
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // The failure that leads here is the one to report.
            let _ = std::fs::remove_file(temporary);
        }
    }
}

/// A name beside `path` that belongs to this process.
fn beside(path: &Path, flag: &str) -> Result<PathBuf, Failure> {
    let Some(name) = path.file_name() else {
        return Err(Failure::Usage(format!(
            "{flag}: '{}' does not name a file",
            path.display()
        )));
    };
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.tmp", std::process::id()));
    Ok(path.with_file_name(temporary))
}
