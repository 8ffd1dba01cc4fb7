//! The GGUF file format: reader for versions 1 to 3 and split files, loader, and writer.
//!
//! A file is a header, key/value [`Metadata`], a table of tensors and, aligned, their data; all numbers are
//! little-endian. [`Gguf::open`] reads everything but the data, checks it, and costs memory in proportion to
//! the metadata; [`Gguf::load`] brings the data in. [`GgufWriter`] writes files that the reader accepts.
//! Source of the format: the GGUF specification in the ggml repository, `docs/gguf.md`.
//!
//! ```text
//! "GGUF"  version:u32  n_tensors:u64  n_metadata:u64          (v1: both counts and every length are u32)
//! n_metadata × { key:string  type:u32  value }                string = length:u64, UTF-8 bytes
//! n_tensors  × { name:string  n_dims:u32  dims:u64[]  type:u32  offset:u64 }        (v1: dims are u32)
//! padding to general.alignment, then the data; offsets count from here
//! ```
//!
//! # Files are hostile until proven otherwise
//! Nothing is allocated from a count that the rest of the file could not hold; header, metadata and tensor
//! table together are at most [`MAX_HEADER_BYTES`]; each tensor's bytes lie inside the file, aligned, and
//! overlap no other's. What is refused has its own [`GgufError`].
//!
//! # A file that changes while it is in use
//! [`LoadMode::Read`], the default, copies the data into memory of the process: whatever happens to the file
//! afterwards cannot be noticed, and a change between `open` and the end of `load` is an error value (told by
//! inode, length and time of modification: a write of the same length within one tick of the file system's clock
//! goes unnoticed, and gives other weights but no undefined behaviour).
//! [`LoadMode::Mmap`] maps the file: if another process truncates it, touching a lost page raises `SIGBUS`,
//! which ends the host; choose it only for files that nobody writes to.

mod content;
mod cursor;
mod error;
mod file;
mod identity;
mod load;
mod mapping;
mod metadata;
mod parse;
mod read;
mod split;
mod tensors;
mod writer;

pub use content::ContentHash;
pub use error::GgufError;
pub use file::Gguf;
pub use load::{LoadMode, LoadOptions, TensorBytes, TensorData};
pub use metadata::{Array, Metadata, Value};
pub use tensors::TensorInfo;
pub use writer::{GgufWriter, Source};

/// Longest metadata key in bytes, as the specification has it.
pub const MAX_KEY_BYTES: u64 = 65_535;
/// Longest tensor name in bytes, as the specification has it.
pub const MAX_TENSOR_NAME_BYTES: u64 = 64;
/// Most dimensions of a tensor.
pub const MAX_DIMS: u32 = 4;
/// Largest `general.alignment`.
pub const MAX_ALIGNMENT: u64 = 1 << 20;
/// Smallest `general.alignment`: the specification wants a multiple of 8, and so every element is aligned.
pub const MIN_ALIGNMENT: u64 = 8;
/// Alignment of a file without `general.alignment`.
pub const DEFAULT_ALIGNMENT: u64 = 32;
/// Most bytes of header, metadata and tensor table of one file; the largest vocabularies need a tenth.
pub const MAX_HEADER_BYTES: u64 = 256 << 20;
/// Most files of a split model: the number in the file name has five digits.
pub const MAX_SPLITS: u64 = 99_999;

/// Key of the data alignment.
pub const KEY_ALIGNMENT: &str = "general.alignment";
/// Key of a split file's zero-based index.
pub const KEY_SPLIT_NO: &str = "split.no";
/// Key of the number of files of a split model.
pub const KEY_SPLIT_COUNT: &str = "split.count";
/// Key of the number of tensors in all files of a split model.
pub const KEY_SPLIT_TENSORS: &str = "split.tensors.count";
