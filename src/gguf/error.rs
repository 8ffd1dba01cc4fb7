//! What a GGUF file can do wrong, one variant per kind of defect.

use std::path::PathBuf;

use super::{MAX_ALIGNMENT, MAX_DIMS, MAX_HEADER_BYTES, MAX_KEY_BYTES, MAX_TENSOR_NAME_BYTES, MIN_ALIGNMENT};

/// A GGUF file is malformed, or what should be written would make a malformed one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each field is named in its variant's message")]
pub enum GgufError {
    /// Another error, with the file it is about.
    #[error("GGUF file {}: {source}", path.display())]
    InFile { path: PathBuf, source: Box<GgufError> },

    /// The file has no bytes.
    #[error("the file is empty; a GGUF file was expected")]
    Empty,
    /// The file ends inside a part that is needed.
    #[error("the file ends inside {what}: {needed} bytes expected at offset {at}, {left} left")]
    Truncated {
        what: String,
        at: u64,
        needed: u64,
        left: u64,
    },
    /// Header, metadata and tensor table exceed the limit on their size.
    #[error(
        "{what} ends beyond byte {MAX_HEADER_BYTES} of the file, the limit for metadata and tensor table"
    )]
    HeaderTooLarge { what: String },
    /// The first four bytes are not `GGUF`.
    #[error("not a GGUF file: it begins with '{found}' instead of 'GGUF'")]
    BadMagic { found: String },
    /// The file was written for big-endian machines.
    #[error("the file is big-endian (byte-swapped); only little-endian GGUF files are supported")]
    BigEndian,
    /// The version is 0 or from the future.
    #[error("GGUF version {found} is not supported; versions 1 to 3 are")]
    Version { found: u32 },
    /// A count in the header is larger than the file could hold.
    #[error("the header counts {count} {what}, but the {left} bytes that follow hold at most {most}")]
    Count {
        what: &'static str,
        count: u64,
        left: u64,
        most: u64,
    },

    /// A metadata key has no characters.
    #[error("metadata entry {index} has an empty key")]
    EmptyKey { index: u64 },
    /// A metadata key is too long.
    #[error("metadata entry {index} has a key of {len} bytes; at most {MAX_KEY_BYTES} are allowed")]
    KeyTooLong { index: u64, len: u64 },
    /// A key or tensor name contains a NUL byte.
    #[error("{what} '{}' contains a NUL byte", text.escape_default())]
    Nul { what: &'static str, text: String },
    /// A metadata key occurs twice.
    #[error("metadata key '{0}' occurs twice")]
    DuplicateKey(String),
    /// A metadata value has a type that the format does not have.
    #[error("metadata key '{key}' has the unknown value type {id}")]
    UnknownValueType { key: String, id: u32 },
    /// An array's element type does not exist.
    #[error("metadata key '{key}' is an array of the unknown element type {id}")]
    UnknownElementType { key: String, id: u32 },
    /// An array of arrays.
    #[error("metadata key '{0}' is an array of arrays, which is not supported")]
    NestedArray(String),
    /// A bool that is neither 0 nor 1.
    #[error("metadata key '{key}' holds the bool {found}; 0 or 1 was expected")]
    Bool { key: String, found: u8 },
    /// A string that the rest of the file cannot hold.
    #[error("{what} claims {len} bytes, but only {left} are left in the file")]
    StringLength { what: String, len: u64, left: u64 },
    /// A string is not UTF-8.
    #[error("{what} is not valid UTF-8 (byte {valid_up_to} of it)")]
    InvalidUtf8 { what: String, valid_up_to: usize },
    /// An array that the rest of the file cannot hold.
    #[error(
        "metadata key '{key}' claims an array of {count} {element}, but only {left} bytes are left in the file"
    )]
    ArrayLength {
        key: String,
        count: u64,
        element: &'static str,
        left: u64,
    },
    /// `general.alignment` is not usable.
    #[error(
        "general.alignment is {found}; a power of two from {MIN_ALIGNMENT} to {MAX_ALIGNMENT} was expected"
    )]
    Alignment { found: u64 },
    /// A metadata key holds a value of another type than its meaning needs.
    #[error("metadata key '{key}': expected {expected}, found {found}")]
    WrongType {
        key: String,
        expected: &'static str,
        found: &'static str,
    },
    /// A metadata key that is needed is absent.
    #[error("metadata key '{0}' is missing")]
    MissingKey(String),

    /// A tensor has no name.
    #[error("tensor {index} has an empty name")]
    EmptyTensorName { index: u64 },
    /// A tensor's name is too long.
    #[error("tensor {index} has a name of {len} bytes; at most {MAX_TENSOR_NAME_BYTES} are allowed")]
    TensorNameTooLong { index: u64, len: u64 },
    /// Two tensors have the same name.
    #[error("tensor '{0}' occurs twice")]
    DuplicateTensor(String),
    /// A tensor has no dimension or too many.
    #[error("tensor '{name}' has {n_dims} dimensions; 1 to {MAX_DIMS} were expected")]
    DimCount { name: String, n_dims: u64 },
    /// A dimension is zero.
    #[error("dimension {dim} of tensor '{name}' is zero")]
    ZeroDim { name: String, dim: usize },
    /// The number of elements or bytes does not fit 64 bits.
    #[error("the {what} of tensor '{name}' with dimensions {dims:?} overflows 64 bits")]
    SizeOverflow {
        name: String,
        what: &'static str,
        dims: Vec<u64>,
    },
    /// A tensor type that the format does not have any more, or not yet.
    #[error("tensor '{name}' has type {id}, which {state}")]
    UnknownTensorType {
        name: String,
        id: u32,
        state: &'static str,
    },
    /// A row is not a whole number of blocks.
    #[error(
        "tensor '{name}' of type {ty} has rows of {row} elements, not a multiple of its block of {block}"
    )]
    PartialBlock {
        name: String,
        ty: &'static str,
        row: u64,
        block: u64,
    },
    /// A tensor's data does not begin at the alignment.
    #[error("tensor '{name}' begins at data offset {offset}, not a multiple of the alignment {alignment}")]
    Unaligned {
        name: String,
        offset: u64,
        alignment: u64,
    },
    /// The end of a tensor's data does not fit 64 bits.
    #[error("tensor '{name}' of {n_bytes} bytes at data offset {offset} ends beyond 64 bits")]
    OffsetOverflow { name: String, offset: u64, n_bytes: u64 },
    /// A tensor's data ends after the file.
    #[error("tensor '{name}' ends at byte {end}, but the file has only {file_bytes} bytes")]
    PastEnd { name: String, end: u64, file_bytes: u64 },
    /// Two tensors share bytes.
    #[error("tensors '{first}' and '{second}' overlap in the file")]
    Overlap { first: String, second: String },

    /// The number of split files is not usable.
    #[error("split.count is {found}; 1 to {max} was expected", max = super::MAX_SPLITS)]
    SplitCount { found: u64 },
    /// A split file is not the one its place asks for.
    #[error(
        "the file is number {found} of a split model where number {expected} was expected (split.no, from 0)"
    )]
    SplitIndex { expected: u64, found: u64 },
    /// Two files of a split model disagree on how many there are.
    #[error("the file belongs to a split model of {found} files, the first file to one of {expected}")]
    SplitCountDiffers { expected: u64, found: u64 },
    /// A split file's name does not follow the pattern from which the names of the others are made.
    #[error("the file is part of a split model, but its name does not end with '{expected}'")]
    SplitName { expected: String },
    /// The files of a split model together hold another number of tensors than promised.
    #[error("split.tensors.count is {expected}, but the files of the model hold {found} tensors")]
    SplitTensors { expected: u64, found: u64 },
    /// A split model cannot be read from memory.
    #[error("the file is one of {count} of a split model; these can only be opened by path")]
    SplitInMemory { count: u64 },

    /// The file is not what it was when it was opened.
    #[error("the file {what} since it was opened; open it again")]
    Changed { what: String },

    /// The writer was given data of another length than dimensions and type need.
    #[error("tensor '{name}' needs {expected} bytes, {found} were given")]
    DataLength { name: String, expected: u64, found: u64 },
    /// The writer was asked for a number that version 1 stores in 32 bits.
    #[error("{what} is {value}, which GGUF version 1 cannot store in 32 bits")]
    TooLargeForV1 { what: String, value: u64 },
}
