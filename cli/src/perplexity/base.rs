//! Saved logits, to compare other runs with.
//!
//! All numbers are little-endian:
//!
//! ```text
//! "INFERLOG"  version:u32 = 1  n_vocab:u32  context:u32  n_chunks:u32
//! n_chunks × context × token:u32
//! n_chunks × (context − context / 2 − 1) × n_vocab × logit:f32       positions context / 2 … context − 2 of each chunk
//! ```

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use infer::memory;

use super::measure;
use crate::exit::Failure;

const MAGIC: &[u8; 8] = b"INFERLOG";
const VERSION: u32 = 1;

/// The beginning of a file for these chunks.
pub fn header(n_vocab: usize, context: usize, chunks: &[Vec<u32>]) -> Vec<u8> {
    let numbers = [VERSION, n_vocab as u32, context as u32, chunks.len() as u32];
    let tokens = chunks.iter().flatten();
    let numbers = numbers.iter().chain(tokens).flat_map(|n| n.to_le_bytes());
    MAGIC.iter().copied().chain(numbers).collect()
}

/// A file of saved logits, read row by row.
#[derive(Debug)]
pub struct Saved {
    path: PathBuf,
    reader: BufReader<File>,
    bytes: Vec<u8>,
}

impl Saved {
    /// Opens `path`, or answers `None` when it is no such file. The run must have been one over the same tokens.
    pub fn open(
        path: &Path,
        n_vocab: usize,
        context: usize,
        chunks: &[Vec<u32>],
    ) -> Result<Option<Self>, Failure> {
        let file = File::open(path).map_err(|e| Failure::io(&format!("open {}", path.display()), &e))?;
        let size = file.metadata().map_or(0, |m| m.len());
        let mut reader = BufReader::with_capacity(1 << 16, file);
        let expected = header(n_vocab, context, chunks);
        let mut found = Vec::new();
        let failed = |e| Failure::io(&format!("read {}", path.display()), &e);
        (&mut reader)
            .take(expected.len() as u64)
            .read_to_end(&mut found)
            .map_err(failed)?;
        if !found.starts_with(MAGIC) {
            return Ok(None);
        }
        let number = |found: &[u8], i: usize| {
            let bytes = found.get(8 + 4 * i..12 + 4 * i)?;
            Some(u32::from_le_bytes(bytes.try_into().ok()?))
        };
        let names = ["format version", "vocabulary size", "context", "number of chunks"];
        for (i, what) in names.iter().enumerate() {
            if number(&found, i) != number(&expected, i) {
                let text = |n: Option<u32>| n.map_or("none".to_string(), |n| n.to_string());
                return Err(Failure::Failed(format!(
                    "{} is of another run: its {what} is {}, here it is {}",
                    path.display(),
                    text(number(&found, i)),
                    text(number(&expected, i))
                )));
            }
        }
        let rows = measure::scored(context) * chunks.len();
        let complete = expected.len() as u64 + 4 * rows as u64 * n_vocab as u64;
        if found != expected || size != complete {
            return Err(Failure::Failed(format!(
                "{} is of another run or incomplete: its tokens differ, or it has not {complete} bytes",
                path.display()
            )));
        }
        Ok(Some(Self {
            path: path.to_path_buf(),
            reader,
            bytes: memory::filled(0, 4 * n_vocab, "a row of logits").map_err(infer::Error::from)?,
        }))
    }

    /// The next row.
    pub fn row(&mut self, row: &mut [f32]) -> infer::Result<()> {
        self.reader
            .read_exact(&mut self.bytes)
            .map_err(|source| infer::Error::Io {
                action: "read".to_string(),
                path: self.path.clone(),
                source,
            })?;
        for (value, bytes) in row.iter_mut().zip(self.bytes.as_chunks::<4>().0) {
            *value = f32::from_le_bytes(*bytes);
        }
        Ok(())
    }
}
