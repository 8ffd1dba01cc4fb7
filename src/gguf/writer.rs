//! Writing GGUF files, version 3 unless told otherwise.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::identity::io;
use super::tensors::check_entry;
use super::{Array, GgufError, MAX_HEADER_BYTES, MAX_KEY_BYTES, Metadata, Value, parse, split};
use super::{KEY_ALIGNMENT, KEY_SPLIT_COUNT, KEY_SPLIT_NO, KEY_SPLIT_TENSORS};
use crate::quant::TensorType;
use crate::{Error, Result};

/// Collects metadata and tensors and writes them as a file that [`Gguf`](super::Gguf) reads back.
///
/// Everything the reader would refuse is refused here. The alignment is what the metadata's
/// `general.alignment` (a `u32`) says, else 32. `'a` is how long borrowed tensor data lives.
#[derive(Debug)]
pub struct GgufWriter<'a> {
    version: u32,
    metadata: Metadata,
    tensors: Vec<Tensor<'a>>,
    names: HashSet<String>,
}

#[derive(Debug)]
struct Tensor<'a> {
    name: String,
    dims: Vec<u64>,
    ty: TensorType,
    n_bytes: u64,
    /// `None` for a tensor that was declared and comes from a [`Source`].
    data: Option<Cow<'a, [u8]>>,
}

/// Hands the bytes of a declared tensor to the function it is given, piece by piece.
pub type Source<'s> = dyn FnMut(&str, &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> + 's;

impl Default for GgufWriter<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> GgufWriter<'a> {
    /// A version 3 file without metadata and tensors.
    pub fn new() -> Self {
        Self {
            version: 3,
            metadata: Metadata::new(),
            tensors: Vec::new(),
            names: HashSet::new(),
        }
    }

    /// Chooses the version of the format, 1 to 3.
    pub fn version(&mut self, version: u32) -> Result<&mut Self> {
        if !(1..=3).contains(&version) {
            return Err(GgufError::Version { found: version }.into());
        }
        self.version = version;
        Ok(self)
    }

    /// Appends a metadata entry.
    ///
    /// # Errors
    /// An empty, too long or repeated key, a NUL in it, an unusable `general.alignment`.
    pub fn insert(&mut self, key: impl Into<String>, value: Value) -> Result<&mut Self> {
        let key = key.into();
        let index = self.metadata.len() as u64;
        let len = key.len() as u64;
        if key.is_empty() {
            return Err(GgufError::EmptyKey { index }.into());
        }
        if len > MAX_KEY_BYTES {
            return Err(GgufError::KeyTooLong { index, len }.into());
        }
        if key.contains('\0') {
            let what = "metadata key";
            return Err(GgufError::Nul { what, text: key }.into());
        }
        if self.metadata.get(&key).is_some() {
            return Err(GgufError::DuplicateKey(key).into());
        }
        if key == KEY_ALIGNMENT {
            let mut alone = Metadata::new();
            alone.insert(KEY_ALIGNMENT, value.clone());
            parse::alignment(&alone)?;
        }
        self.metadata.insert(key, value);
        Ok(self)
    }

    /// Appends a tensor: `dims[0]` contiguous, `data` in the type's blocks.
    ///
    /// # Errors
    /// Any name, shape or type that the reader refuses; data of another length than the shape needs.
    pub fn tensor(
        &mut self,
        name: impl Into<String>,
        dims: &[u64],
        ty: TensorType,
        data: impl Into<Cow<'a, [u8]>>,
    ) -> Result<&mut Self> {
        self.add(name.into(), dims, ty, Some(data.into()))
    }

    /// Appends a tensor whose data comes later, from the source of [`GgufWriter::write_file_from`]: files larger than
    /// memory are written this way.
    ///
    /// # Errors
    /// As [`GgufWriter::tensor`].
    pub fn declare(&mut self, name: impl Into<String>, dims: &[u64], ty: TensorType) -> Result<&mut Self> {
        self.add(name.into(), dims, ty, None)
    }

    fn add(
        &mut self,
        name: String,
        dims: &[u64],
        ty: TensorType,
        data: Option<Cow<'a, [u8]>>,
    ) -> Result<&mut Self> {
        let n_bytes = check_entry(self.tensors.len() as u64, &name, dims, ty)?;
        if let Some(data) = &data {
            check_length(&name, n_bytes, data.len() as u64)?;
        }
        if !self.names.insert(name.clone()) {
            return Err(GgufError::DuplicateTensor(name).into());
        }
        self.tensors.push(Tensor {
            name,
            dims: dims.to_vec(),
            ty,
            n_bytes,
            data,
        });
        Ok(self)
    }

    /// Writes the file to `out`, in many small pieces: buffer it.
    ///
    /// # Errors
    /// [`Error::Io`] when `out` fails; [`Error::Gguf`] when a number does not fit version 1 or the metadata is
    /// larger than the reader accepts.
    pub fn write_to(&self, out: &mut impl Write) -> Result<()> {
        let path = Path::new("(output)");
        self.emit(&self.metadata, &self.tensors, out, path, &mut no_source)
    }

    /// Writes the file at `path`, all or nothing: under a temporary name beside it, then renamed.
    pub fn write_file(&self, path: &Path) -> Result<()> {
        self.emit_file(&self.metadata, &self.tensors, path, &mut no_source)
    }

    /// As [`GgufWriter::write_file`]; `source` is asked for the declared tensors, one after the other in file order.
    ///
    /// # Errors
    /// As [`GgufWriter::write_file`], what `source` answers, and a tensor of more or fewer bytes than its shape needs.
    /// Nothing remains under `path` then that was not there before.
    pub fn write_file_from(&self, path: &Path, source: &mut Source<'_>) -> Result<()> {
        self.emit_file(&self.metadata, &self.tensors, path, source)
    }

    /// Writes `PREFIX-00001-of-0000N.gguf` and so on with at most `max_tensors` tensors each; answers the paths.
    ///
    /// `prefix` is a path without that ending. The first file carries the metadata.
    pub fn write_split(&self, prefix: &Path, max_tensors: usize) -> Result<Vec<PathBuf>> {
        let per_file = max_tensors.max(1);
        let count = self.tensors.len().div_ceil(per_file).max(1) as u64;
        let (Ok(count16), Ok(total)) = (u16::try_from(count), i32::try_from(self.tensors.len())) else {
            return Err(GgufError::SplitCount { found: count }.into());
        };
        let mut paths = Vec::new();
        for no in 0..count16 {
            let mut metadata = if no == 0 {
                self.metadata.clone()
            } else {
                let mut rest = Metadata::new();
                if let Some(alignment) = self.metadata.get(KEY_ALIGNMENT) {
                    rest.insert(KEY_ALIGNMENT, alignment.clone());
                }
                rest
            };
            for (key, value) in [
                (KEY_SPLIT_NO, Value::U16(no)),
                (KEY_SPLIT_COUNT, Value::U16(count16)),
                (KEY_SPLIT_TENSORS, Value::I32(total)),
            ] {
                if !metadata.insert(key, value) {
                    return Err(GgufError::DuplicateKey(key.to_string()).into());
                }
            }
            let first = usize::from(no) * per_file;
            let last = first.saturating_add(per_file).min(self.tensors.len());
            let mut name = prefix.as_os_str().to_os_string();
            name.push(split::suffix(no.into(), count));
            let path = PathBuf::from(name);
            self.emit_file(&metadata, &self.tensors[first..last], &path, &mut no_source)?;
            paths.push(path);
        }
        Ok(paths)
    }

    fn emit_file(
        &self,
        metadata: &Metadata,
        tensors: &[Tensor<'_>],
        path: &Path,
        source: &mut Source<'_>,
    ) -> Result<()> {
        let mut name = path.as_os_str().to_os_string();
        name.push(format!(".{}.part", std::process::id()));
        let part = PathBuf::from(name);
        let mut write = || {
            let file = File::create(&part).map_err(|e| io("create", &part, e))?;
            let mut out = BufWriter::new(file);
            self.emit(metadata, tensors, &mut out, &part, source)?;
            drop(out);
            std::fs::rename(&part, path).map_err(|e| io("create", path, e))
        };
        write().inspect_err(|_: &Error| {
            // The first error is the one to report.
            let _ = std::fs::remove_file(&part);
        })
    }

    fn emit(
        &self,
        metadata: &Metadata,
        tensors: &[Tensor<'_>],
        out: &mut impl Write,
        path: &Path,
        source: &mut Source<'_>,
    ) -> Result<()> {
        let alignment = parse::alignment(metadata)?;
        let mut dry = Out::new(std::io::sink(), self.version, path);
        dry.header(metadata, tensors, alignment)?;
        if dry.written > MAX_HEADER_BYTES {
            let what = "the tensor table".to_string();
            return Err(GgufError::HeaderTooLarge { what }.into());
        }
        let mut out = Out::new(out, self.version, path);
        out.header(metadata, tensors, alignment)?;
        out.pad(alignment)?;
        for t in tensors {
            let start = out.written;
            match &t.data {
                Some(data) => out.bytes(data)?,
                None => source(&t.name, &mut |bytes| {
                    // Told before the disk is filled with what cannot be right.
                    let found = (out.written - start).saturating_add(bytes.len() as u64);
                    if found > t.n_bytes {
                        check_length(&t.name, t.n_bytes, found)?;
                    }
                    out.bytes(bytes)
                })?,
            }
            check_length(&t.name, t.n_bytes, out.written - start)?;
            out.pad(alignment)?;
        }
        out.inner.flush().map_err(|e| io("write", path, e))
    }
}

/// The source of writers without one: declared tensors stay empty, which is an error.
fn no_source(_: &str, _: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    Ok(())
}

fn check_length(name: &str, expected: u64, found: u64) -> Result<(), GgufError> {
    if expected == found {
        return Ok(());
    }
    Err(GgufError::DataLength {
        name: name.to_string(),
        expected,
        found,
    })
}

/// Little-endian output that knows its position.
struct Out<'p, W> {
    inner: W,
    version: u32,
    path: &'p Path,
    written: u64,
}

impl<'p, W: Write> Out<'p, W> {
    fn new(inner: W, version: u32, path: &'p Path) -> Self {
        Self {
            inner,
            version,
            path,
            written: 0,
        }
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.written = self.written.saturating_add(bytes.len() as u64);
        self.inner.write_all(bytes).map_err(|e| io("write", self.path, e))
    }

    fn pad(&mut self, alignment: u64) -> Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut missing = self.written.next_multiple_of(alignment) - self.written;
        while missing > 0 {
            let n = missing.min(ZEROS.len() as u64);
            self.bytes(&ZEROS[..n as usize])?;
            missing -= n;
        }
        Ok(())
    }

    /// A count, length or dimension.
    fn length(&mut self, value: u64, what: impl FnOnce() -> String) -> Result<()> {
        if self.version > 1 {
            return self.bytes(&value.to_le_bytes());
        }
        match u32::try_from(value) {
            Ok(v) => self.bytes(&v.to_le_bytes()),
            Err(_) => Err(GgufError::TooLargeForV1 { what: what(), value }.into()),
        }
    }

    fn string(&mut self, s: &str, what: impl FnOnce() -> String) -> Result<()> {
        self.length(s.len() as u64, what)?;
        self.bytes(s.as_bytes())
    }

    fn header(&mut self, metadata: &Metadata, tensors: &[Tensor<'_>], alignment: u64) -> Result<()> {
        self.bytes(b"GGUF")?;
        self.bytes(&self.version.to_le_bytes())?;
        self.length(tensors.len() as u64, || "the count of tensors".to_string())?;
        self.length(metadata.len() as u64, || {
            "the count of metadata entries".to_string()
        })?;
        for (key, value) in metadata.iter() {
            self.string(key, || format!("the length of key '{key}'"))?;
            self.value(key, value)?;
        }
        let mut offset = 0u64;
        for t in tensors {
            self.string(&t.name, || format!("the length of name '{}'", t.name))?;
            self.bytes(&(t.dims.len() as u32).to_le_bytes())?;
            for &d in &t.dims {
                self.length(d, || format!("a dimension of tensor '{}'", t.name))?;
            }
            self.bytes(&t.ty.id().to_le_bytes())?;
            self.bytes(&offset.to_le_bytes())?;
            offset = offset
                .checked_add(t.n_bytes)
                .and_then(|end| end.checked_next_multiple_of(alignment))
                .ok_or_else(|| GgufError::OffsetOverflow {
                    name: t.name.clone(),
                    offset,
                    n_bytes: t.n_bytes,
                })?;
        }
        Ok(())
    }

    fn value(&mut self, key: &str, value: &Value) -> Result<()> {
        if let Value::Array(array) = value {
            self.bytes(&9u32.to_le_bytes())?;
            return self.array(key, array);
        }
        self.bytes(&type_id(value).to_le_bytes())?;
        match value {
            Value::U8(v) => self.bytes(&v.to_le_bytes()),
            Value::I8(v) => self.bytes(&v.to_le_bytes()),
            Value::U16(v) => self.bytes(&v.to_le_bytes()),
            Value::I16(v) => self.bytes(&v.to_le_bytes()),
            Value::U32(v) => self.bytes(&v.to_le_bytes()),
            Value::I32(v) => self.bytes(&v.to_le_bytes()),
            Value::F32(v) => self.bytes(&v.to_le_bytes()),
            Value::Bool(v) => self.bytes(&[u8::from(*v)]),
            Value::U64(v) => self.bytes(&v.to_le_bytes()),
            Value::I64(v) => self.bytes(&v.to_le_bytes()),
            Value::F64(v) => self.bytes(&v.to_le_bytes()),
            Value::String(v) => self.string(v, || format!("the length of '{key}'")),
            Value::Array(_) => Ok(()),
        }
    }

    fn array(&mut self, key: &str, array: &Array) -> Result<()> {
        self.bytes(&element_id(array).to_le_bytes())?;
        self.length(array.len() as u64, || format!("the length of array '{key}'"))?;
        match array {
            Array::U8(a) => self.bytes(a),
            Array::I8(a) => self.each(a, |v| v.to_le_bytes()),
            Array::U16(a) => self.each(a, |v| v.to_le_bytes()),
            Array::I16(a) => self.each(a, |v| v.to_le_bytes()),
            Array::U32(a) => self.each(a, |v| v.to_le_bytes()),
            Array::I32(a) => self.each(a, |v| v.to_le_bytes()),
            Array::F32(a) => self.each(a, |v| v.to_le_bytes()),
            Array::Bool(a) => self.each(a, |v| [u8::from(v)]),
            Array::U64(a) => self.each(a, |v| v.to_le_bytes()),
            Array::I64(a) => self.each(a, |v| v.to_le_bytes()),
            Array::F64(a) => self.each(a, |v| v.to_le_bytes()),
            Array::String(a) => a
                .iter()
                .try_for_each(|s| self.string(s, || format!("the length of a string of '{key}'"))),
        }
    }

    fn each<T: Copy, const N: usize>(&mut self, values: &[T], bytes: impl Fn(T) -> [u8; N]) -> Result<()> {
        values.iter().try_for_each(|&v| self.bytes(&bytes(v)))
    }
}

fn type_id(value: &Value) -> u32 {
    match value {
        Value::U8(_) => 0,
        Value::I8(_) => 1,
        Value::U16(_) => 2,
        Value::I16(_) => 3,
        Value::U32(_) => 4,
        Value::I32(_) => 5,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::String(_) => 8,
        Value::Array(_) => 9,
        Value::U64(_) => 10,
        Value::I64(_) => 11,
        Value::F64(_) => 12,
    }
}

fn element_id(array: &Array) -> u32 {
    match array {
        Array::U8(_) => 0,
        Array::I8(_) => 1,
        Array::U16(_) => 2,
        Array::I16(_) => 3,
        Array::U32(_) => 4,
        Array::I32(_) => 5,
        Array::F32(_) => 6,
        Array::Bool(_) => 7,
        Array::String(_) => 8,
        Array::U64(_) => 10,
        Array::I64(_) => 11,
        Array::F64(_) => 12,
    }
}
