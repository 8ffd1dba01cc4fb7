//! What the disk below a directory does: sequential writes and reads, beside what is stored there.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use crate::exit::Failure;

/// Bytes of a call.
const PIECE: usize = 1 << 20;
/// Bytes written and read.
const SIZE: usize = 256 << 20;

/// Bytes per second.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    pub write: f64,
    pub read: f64,
}

impl Rates {
    /// Writes a file until it is on the disk, and reads it back from there.
    pub fn measure(directory: &Path) -> Result<Self, Failure> {
        let path = directory.join("probe");
        let rates = Self::of_file(&path);
        let removed = fs::remove_file(&path);
        let rates = rates.map_err(|e| failure("measure the disk with", &path, &e))?;
        removed.map_err(|e| failure("remove", &path, &e))?;
        Ok(rates)
    }

    fn of_file(path: &Path) -> std::io::Result<Self> {
        let mut piece = vec![0u8; PIECE];
        // Nothing that could be stored in fewer bytes.
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        for bytes in piece.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.copy_from_slice(&state.to_le_bytes());
        }
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        let begin = Instant::now();
        for _ in 0..SIZE / PIECE {
            file.write_all(&piece)?;
        }
        file.sync_data()?;
        let write = SIZE as f64 / begin.elapsed().as_secs_f64();
        drop(file);
        forget(path)?;
        let mut file = File::open(path)?;
        let begin = Instant::now();
        let mut read = 0;
        while read < SIZE {
            file.read_exact(&mut piece)?;
            read += PIECE;
        }
        let read = SIZE as f64 / begin.elapsed().as_secs_f64();
        Ok(Self { write, read })
    }

    pub fn json(&self) -> Value {
        json!({"write_gb_s": self.write / 1e9, "read_gb_s": self.read / 1e9})
    }
}

/// Takes the files of a directory out of the system's page cache: what is read next comes from the disk.
pub fn forget_files(directory: &Path) -> Result<(), Failure> {
    let all = || -> std::io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_file() {
                forget(&path)?;
            }
        }
        Ok(())
    };
    all().map_err(|e| failure("empty the page cache of", directory, &e))
}

/// Takes a file out of the page cache. Pages must be on the disk before they can go.
fn forget(path: &Path) -> std::io::Result<()> {
    let file = File::open(path)?;
    file.sync_all()?;
    #[cfg(target_os = "linux")]
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    Ok(())
}

pub fn failure(action: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::Failed(format!("cannot {action} {}: {error}", path.display()))
}
