//! Header and metadata of one file.

use std::io::Read;

use super::cursor::{Cursor, Part};
use super::tensors::{self, TensorInfo};
use super::{Array, GgufError, MAX_HEADER_BYTES, MAX_KEY_BYTES, Metadata, Value};
use super::{DEFAULT_ALIGNMENT, KEY_ALIGNMENT, MAX_ALIGNMENT, MIN_ALIGNMENT};
use crate::{Result, memory};

/// Everything of one file but the tensors' bytes.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) version: u32,
    pub(super) alignment: u64,
    pub(super) metadata: Metadata,
    /// In the file's order, offsets absolute, shard 0.
    pub(super) tensors: Vec<TensorInfo>,
    /// Where the data section begins.
    pub(super) data_start: u64,
}

/// Parses one file from its first byte.
pub(super) fn parse<R: Read>(cursor: &mut Cursor<'_, R>) -> Result<Parsed> {
    let version = magic_and_version(cursor)?;
    cursor.wide = version > 1;
    let n_tensors = cursor.length(Part::Fixed("the count of tensors"))?;
    let n_metadata = cursor.length(Part::Fixed("the count of metadata entries"))?;
    let len = cursor.length_bytes();
    // Shortest entry: a one-letter key and a one-byte value; shortest tensor: a one-letter name, one dimension.
    let n_metadata = possible(cursor, "metadata entries", n_metadata, len + 1 + 4 + 1)?;
    let n_tensors = possible(cursor, "tensors", n_tensors, len + 1 + 4 + len + 4 + 8)?;
    let metadata = metadata(cursor, n_metadata)?;
    let alignment = alignment(&metadata)?;
    let table = tensors::table(cursor, n_tensors)?;
    let data_start = cursor
        .position()
        .checked_next_multiple_of(alignment)
        .unwrap_or(u64::MAX);
    let tensors = tensors::place(table, data_start, alignment, cursor.size())?;
    Ok(Parsed {
        version,
        alignment,
        metadata,
        tensors,
        data_start,
    })
}

fn magic_and_version<R: Read>(cursor: &mut Cursor<'_, R>) -> Result<u32> {
    if cursor.size() == 0 {
        return Err(GgufError::Empty.into());
    }
    let magic: [u8; 4] = cursor.array(Part::Fixed("the magic"))?;
    if magic == *b"FUGG" {
        return Err(GgufError::BigEndian.into());
    }
    if magic != *b"GGUF" {
        let found = magic.escape_ascii().to_string();
        return Err(GgufError::BadMagic { found }.into());
    }
    let version = cursor.u32(Part::Fixed("the version"))?;
    match version {
        1..=3 => Ok(version),
        // Small numbers have their low bytes set; a number with only high bytes was written the other way round.
        v if v != 0 && v.trailing_zeros() >= 16 => Err(GgufError::BigEndian.into()),
        found => Err(GgufError::Version { found }.into()),
    }
}

/// `count`, if what is left of the file could hold so many entries of at least `min_bytes`.
fn possible<R>(cursor: &Cursor<'_, R>, what: &'static str, count: u64, min_bytes: u64) -> Result<usize>
where
    R: Read,
{
    let left = cursor.left();
    let most = left.min(MAX_HEADER_BYTES) / min_bytes;
    if count > most {
        return Err(GgufError::Count {
            what,
            count,
            left,
            most,
        }
        .into());
    }
    Ok(count as usize)
}

fn metadata<R: Read>(cursor: &mut Cursor<'_, R>, count: usize) -> Result<Metadata> {
    let mut metadata = Metadata::new();
    metadata.try_reserve(count)?;
    for index in 0..count as u64 {
        let part = Part::Key(index);
        let len = cursor.length(part)?;
        if len == 0 {
            return Err(GgufError::EmptyKey { index }.into());
        }
        if len > MAX_KEY_BYTES {
            return Err(GgufError::KeyTooLong { index, len }.into());
        }
        let key = cursor.text(len, part)?;
        if key.contains('\0') {
            return Err(GgufError::Nul {
                what: "metadata key",
                text: key,
            }
            .into());
        }
        let value = value(cursor, &key)?;
        if metadata.get(&key).is_some() {
            return Err(GgufError::DuplicateKey(key).into());
        }
        metadata.insert(key, value);
    }
    Ok(metadata)
}

fn value<R: Read>(cursor: &mut Cursor<'_, R>, key: &str) -> Result<Value> {
    let part = Part::Value(key);
    let id = cursor.u32(part)?;
    Ok(match id {
        0 => Value::U8(u8::from_le_bytes(cursor.array(part)?)),
        1 => Value::I8(i8::from_le_bytes(cursor.array(part)?)),
        2 => Value::U16(u16::from_le_bytes(cursor.array(part)?)),
        3 => Value::I16(i16::from_le_bytes(cursor.array(part)?)),
        4 => Value::U32(cursor.u32(part)?),
        5 => Value::I32(i32::from_le_bytes(cursor.array(part)?)),
        6 => Value::F32(f32::from_le_bytes(cursor.array(part)?)),
        7 => Value::Bool(bool_of(key, cursor.array(part)?)?),
        8 => Value::String(cursor.string(part)?),
        9 => Value::Array(array(cursor, key)?),
        10 => Value::U64(cursor.u64(part)?),
        11 => Value::I64(i64::from_le_bytes(cursor.array(part)?)),
        12 => Value::F64(f64::from_le_bytes(cursor.array(part)?)),
        _ => {
            let key = key.to_string();
            return Err(GgufError::UnknownValueType { key, id }.into());
        }
    })
}

fn bool_of(key: &str, byte: [u8; 1]) -> Result<bool> {
    match byte[0] {
        0 => Ok(false),
        1 => Ok(true),
        found => Err(GgufError::Bool {
            key: key.to_string(),
            found,
        }
        .into()),
    }
}

/// Name and least size in the file of an array's element type.
fn element(id: u32, length_bytes: u64) -> Option<(&'static str, u64)> {
    Some(match id {
        0 => ("u8", 1),
        1 => ("i8", 1),
        2 => ("u16", 2),
        3 => ("i16", 2),
        4 => ("u32", 4),
        5 => ("i32", 4),
        6 => ("f32", 4),
        7 => ("bools", 1),
        8 => ("strings", length_bytes),
        10 => ("u64", 8),
        11 => ("i64", 8),
        12 => ("f64", 8),
        _ => return None,
    })
}

fn array<R: Read>(cursor: &mut Cursor<'_, R>, key: &str) -> Result<Array> {
    let p = Part::Value(key);
    let id = cursor.u32(p)?;
    let count = cursor.length(p)?;
    if id == 9 {
        return Err(GgufError::NestedArray(key.to_string()).into());
    }
    let Some((element, bytes)) = element(id, cursor.length_bytes()) else {
        let key = key.to_string();
        return Err(GgufError::UnknownElementType { key, id }.into());
    };
    let left = cursor.left();
    if count.checked_mul(bytes).is_none_or(|total| total > left) {
        return Err(GgufError::ArrayLength {
            key: key.to_string(),
            count,
            element,
            left,
        }
        .into());
    }
    if count > MAX_HEADER_BYTES {
        return Err(GgufError::HeaderTooLarge { what: p.to_string() }.into());
    }
    let n = count as usize;
    Ok(match id {
        0 => Array::U8(cursor.numbers(n, p, |b| Ok(u8::from_le_bytes(b)))?),
        1 => Array::I8(cursor.numbers(n, p, |b| Ok(i8::from_le_bytes(b)))?),
        2 => Array::U16(cursor.numbers(n, p, |b| Ok(u16::from_le_bytes(b)))?),
        3 => Array::I16(cursor.numbers(n, p, |b| Ok(i16::from_le_bytes(b)))?),
        4 => Array::U32(cursor.numbers(n, p, |b| Ok(u32::from_le_bytes(b)))?),
        5 => Array::I32(cursor.numbers(n, p, |b| Ok(i32::from_le_bytes(b)))?),
        6 => Array::F32(cursor.numbers(n, p, |b| Ok(f32::from_le_bytes(b)))?),
        7 => Array::Bool(cursor.numbers(n, p, |b| bool_of(key, b))?),
        10 => Array::U64(cursor.numbers(n, p, |b| Ok(u64::from_le_bytes(b)))?),
        11 => Array::I64(cursor.numbers(n, p, |b| Ok(i64::from_le_bytes(b)))?),
        12 => Array::F64(cursor.numbers(n, p, |b| Ok(f64::from_le_bytes(b)))?),
        _ => {
            let mut strings = memory::with_capacity(n, "an array of a GGUF file")?;
            for _ in 0..n {
                strings.push(cursor.string(p)?);
            }
            Array::String(strings)
        }
    })
}

/// The alignment that `metadata` asks for, checked.
pub(super) fn alignment(metadata: &Metadata) -> Result<u64> {
    let Some(value) = metadata.get(KEY_ALIGNMENT) else {
        return Ok(DEFAULT_ALIGNMENT);
    };
    let Value::U32(found) = *value else {
        return Err(GgufError::WrongType {
            key: KEY_ALIGNMENT.to_string(),
            expected: "u32",
            found: value.type_name(),
        }
        .into());
    };
    let found = u64::from(found);
    if !found.is_power_of_two() || !(MIN_ALIGNMENT..=MAX_ALIGNMENT).contains(&found) {
        return Err(GgufError::Alignment { found }.into());
    }
    Ok(found)
}
