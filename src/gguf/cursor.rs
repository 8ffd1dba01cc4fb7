//! A reader that knows how much is left, so that no length in a file is believed before it is possible.

use std::fmt;
use std::io::Read;
use std::path::Path;

use super::identity::io;
use super::{GgufError, MAX_HEADER_BYTES};
use crate::{Result, memory};

/// The part of the file being read, for messages; formatted only when there is one.
#[derive(Clone, Copy)]
pub(super) enum Part<'a> {
    /// A fixed part: "the magic".
    Fixed(&'static str),
    /// The key of the n-th metadata entry.
    Key(u64),
    /// The value of a key.
    Value(&'a str),
    /// The name of the n-th tensor.
    TensorName(u64),
    /// The description of a tensor.
    Tensor(&'a str),
}

impl fmt::Display for Part<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Fixed(what) => f.write_str(what),
            Part::Key(index) => write!(f, "the key of metadata entry {index}"),
            Part::Value(key) => write!(f, "the value of metadata key '{key}'"),
            Part::TensorName(index) => write!(f, "the name of tensor {index}"),
            Part::Tensor(name) => write!(f, "the description of tensor '{name}'"),
        }
    }
}

/// Sequential little-endian reader over `size` bytes.
pub(super) struct Cursor<'p, R> {
    inner: R,
    path: Option<&'p Path>,
    at: u64,
    size: u64,
    /// Width of counts and lengths: 4 bytes in version 1, 8 since.
    pub(super) wide: bool,
}

impl<'p, R: Read> Cursor<'p, R> {
    pub(super) fn new(inner: R, size: u64, path: Option<&'p Path>) -> Self {
        Self {
            inner,
            path,
            at: 0,
            size,
            wide: true,
        }
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> u64 {
        self.at
    }

    /// Bytes of the whole file.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Bytes not yet read.
    pub(super) fn left(&self) -> u64 {
        self.size.saturating_sub(self.at)
    }

    /// Bytes of a count or length.
    pub(super) fn length_bytes(&self) -> u64 {
        if self.wide { 8 } else { 4 }
    }

    /// Fills `buf` or says that the file ends inside `part`.
    pub(super) fn fill(&mut self, buf: &mut [u8], part: Part<'_>) -> Result<()> {
        let needed = buf.len() as u64;
        let left = self.left();
        if needed > left {
            return Err(self.truncated(needed, left, part));
        }
        if needed > MAX_HEADER_BYTES.saturating_sub(self.at) {
            return Err(GgufError::HeaderTooLarge {
                what: part.to_string(),
            }
            .into());
        }
        match self.inner.read_exact(buf) {
            Ok(()) => {
                self.at = self.at.saturating_add(needed);
                Ok(())
            }
            // The file has become shorter than it was when its length was asked for.
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Err(self.truncated(needed, 0, part)),
            Err(e) => Err(io("read", self.path.unwrap_or(Path::new("(memory)")), e)),
        }
    }

    fn truncated(&self, needed: u64, left: u64, part: Part<'_>) -> crate::Error {
        GgufError::Truncated {
            what: part.to_string(),
            at: self.at,
            needed,
            left,
        }
        .into()
    }

    pub(super) fn array<const N: usize>(&mut self, part: Part<'_>) -> Result<[u8; N]> {
        let mut buf = [0; N];
        self.fill(&mut buf, part)?;
        Ok(buf)
    }

    pub(super) fn u32(&mut self, part: Part<'_>) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(part)?))
    }

    pub(super) fn u64(&mut self, part: Part<'_>) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(part)?))
    }

    /// A count or length: 32 bits in version 1, 64 since.
    pub(super) fn length(&mut self, part: Part<'_>) -> Result<u64> {
        if self.wide {
            self.u64(part)
        } else {
            Ok(self.u32(part)?.into())
        }
    }

    /// `len` bytes of UTF-8, after checking that the file has them.
    pub(super) fn text(&mut self, len: u64, part: Part<'_>) -> Result<String> {
        let left = self.left();
        if len > left {
            return Err(GgufError::StringLength {
                what: part.to_string(),
                len,
                left,
            }
            .into());
        }
        if len > MAX_HEADER_BYTES {
            return Err(GgufError::HeaderTooLarge {
                what: part.to_string(),
            }
            .into());
        }
        // Within MAX_HEADER_BYTES, so the cast loses nothing.
        let mut bytes = memory::filled(0u8, len as usize, "a string of a GGUF file")?;
        self.fill(&mut bytes, part)?;
        String::from_utf8(bytes).map_err(|e| {
            GgufError::InvalidUtf8 {
                what: part.to_string(),
                valid_up_to: e.utf8_error().valid_up_to(),
            }
            .into()
        })
    }

    /// A length and that many bytes of UTF-8.
    pub(super) fn string(&mut self, part: Part<'_>) -> Result<String> {
        let len = self.length(part)?;
        self.text(len, part)
    }

    /// `count` numbers of `N` bytes each; the caller has checked that the file holds them.
    pub(super) fn numbers<T, const N: usize>(
        &mut self,
        count: usize,
        part: Part<'_>,
        mut decode: impl FnMut([u8; N]) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut out = memory::with_capacity(count, "an array of a GGUF file")?;
        let mut buf = [0u8; 4096];
        let per_read = buf.len() / N;
        let mut missing = count;
        while missing > 0 {
            let n = missing.min(per_read);
            let chunk = &mut buf[..n * N];
            self.fill(chunk, part)?;
            for raw in chunk.as_chunks::<N>().0 {
                out.push(decode(*raw)?);
            }
            missing -= n;
        }
        Ok(out)
    }
}
