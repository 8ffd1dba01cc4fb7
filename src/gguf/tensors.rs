//! The tensor table: names, shapes and places, checked so that later code can index without doubt.

use std::collections::HashMap;
use std::io::Read;

use super::cursor::{Cursor, Part};
use super::{GgufError, MAX_DIMS, MAX_TENSOR_NAME_BYTES};
use crate::quant::TensorType;
use crate::{Result, memory};

/// A tensor's entry in the table of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, unique in the model: 1 to 64 bytes without NUL.
    pub name: String,
    /// One to four dimensions, none zero; `dims[0]` is contiguous in memory.
    pub dims: Vec<u64>,
    /// Element type.
    pub ty: TensorType,
    /// Which file of a split model holds the data, from 0.
    pub shard: usize,
    /// First byte of the data, counted from the beginning of its file.
    pub offset: u64,
    /// Bytes of the data.
    pub n_bytes: u64,
}

impl TensorInfo {
    /// Number of elements, the product of the dimensions.
    pub fn n_elements(&self) -> u64 {
        self.dims.iter().fold(1, |n, &d| n.saturating_mul(d))
    }
}

/// Reads `count` entries; their offsets are still relative to the data section.
pub(super) fn table<R: Read>(cursor: &mut Cursor<'_, R>, count: usize) -> Result<Vec<TensorInfo>> {
    let mut table = memory::with_capacity(count, "the tensor table of a GGUF file")?;
    for index in 0..count as u64 {
        table.push(entry(cursor, index)?);
    }
    Ok(table)
}

fn entry<R: Read>(cursor: &mut Cursor<'_, R>, index: u64) -> Result<TensorInfo> {
    let part = Part::TensorName(index);
    let len = cursor.length(part)?;
    check_name_len(len, index)?;
    let name = cursor.text(len, part)?;
    let part = Part::Tensor(&name);
    let n_dims = cursor.u32(part)?;
    if !(1..=MAX_DIMS).contains(&n_dims) {
        let n_dims = n_dims.into();
        return Err(GgufError::DimCount { name, n_dims }.into());
    }
    let mut dims = Vec::with_capacity(MAX_DIMS as usize);
    for _ in 0..n_dims {
        dims.push(cursor.length(part)?);
    }
    let id = cursor.u32(part)?;
    let offset = cursor.u64(part)?;
    let ty = tensor_type(&name, id)?;
    let n_bytes = check_shape(&name, &dims, ty)?;
    Ok(TensorInfo {
        name,
        dims,
        ty,
        shard: 0,
        offset,
        n_bytes,
    })
}

fn check_name_len(len: u64, index: u64) -> Result<(), GgufError> {
    match len {
        0 => Err(GgufError::EmptyTensorName { index }),
        l if l > MAX_TENSOR_NAME_BYTES => Err(GgufError::TensorNameTooLong { index, len }),
        _ => Ok(()),
    }
}

fn tensor_type(name: &str, id: u32) -> Result<TensorType, GgufError> {
    TensorType::from_id(id).ok_or_else(|| GgufError::UnknownTensorType {
        name: name.to_string(),
        id,
        state: match id {
            4 => "was removed from the format (Q4_2)",
            5 => "was removed from the format (Q4_3)",
            31..=33 => "was removed from the format (interleaved Q4_0)",
            36..=38 => "was removed from the format (interleaved IQ4_NL)",
            _ => "is unknown to this version of the library",
        },
    })
}

/// Checks name and shape of the `index`-th tensor to be written; answers the size of its data.
pub(super) fn check_entry(index: u64, name: &str, dims: &[u64], ty: TensorType) -> Result<u64, GgufError> {
    check_name_len(name.len() as u64, index)?;
    if !(1..=MAX_DIMS as usize).contains(&dims.len()) {
        return Err(GgufError::DimCount {
            name: name.to_string(),
            n_dims: dims.len() as u64,
        });
    }
    check_shape(name, dims, ty)
}

/// The bytes of a tensor of this shape, or why it cannot be.
fn check_shape(name: &str, dims: &[u64], ty: TensorType) -> Result<u64, GgufError> {
    if name.contains('\0') {
        return Err(GgufError::Nul {
            what: "tensor name",
            text: name.to_string(),
        });
    }
    let overflow = |what| GgufError::SizeOverflow {
        name: name.to_string(),
        what,
        dims: dims.to_vec(),
    };
    if let Some(dim) = dims.iter().position(|&d| d == 0) {
        let name = name.to_string();
        return Err(GgufError::ZeroDim { name, dim });
    }
    let elements = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
    let elements = elements.ok_or_else(|| overflow("number of elements"))?;
    let (block, block_bytes) = (ty.block_len() as u64, ty.block_bytes() as u64);
    let row = dims.first().copied().unwrap_or(0);
    if !row.is_multiple_of(block) {
        return Err(GgufError::PartialBlock {
            name: name.to_string(),
            ty: ty.name(),
            row,
            block,
        });
    }
    (elements / block)
        .checked_mul(block_bytes)
        .ok_or_else(|| overflow("number of bytes"))
}

/// Makes offsets absolute and checks that every tensor lies alone, aligned and inside the file.
pub(super) fn place(
    mut table: Vec<TensorInfo>,
    data_start: u64,
    alignment: u64,
    file_bytes: u64,
) -> Result<Vec<TensorInfo>> {
    for t in &mut table {
        if !t.offset.is_multiple_of(alignment) {
            return Err(GgufError::Unaligned {
                name: t.name.clone(),
                offset: t.offset,
                alignment,
            }
            .into());
        }
        // The end is also checked with its padding, which a writer appends.
        let start = t.offset.checked_add(data_start);
        let end = start.and_then(|s| s.checked_add(t.n_bytes));
        let (Some(start), Some(end), Some(_padded)) = (
            start,
            end,
            end.and_then(|e| e.checked_next_multiple_of(alignment)),
        ) else {
            return Err(GgufError::OffsetOverflow {
                name: t.name.clone(),
                offset: t.offset,
                n_bytes: t.n_bytes,
            }
            .into());
        };
        if end > file_bytes {
            return Err(GgufError::PastEnd {
                name: t.name.clone(),
                end,
                file_bytes,
            }
            .into());
        }
        t.offset = start;
    }
    check_overlap(&table)?;
    Ok(table)
}

fn check_overlap(table: &[TensorInfo]) -> Result<()> {
    let mut order: Vec<&TensorInfo> = memory::with_capacity(table.len(), "the tensor table of a GGUF file")?;
    order.extend(table);
    order.sort_unstable_by_key(|t| t.offset);
    for pair in order.windows(2) {
        let [a, b] = pair else { continue };
        if b.offset - a.offset < a.n_bytes {
            return Err(GgufError::Overlap {
                first: a.name.clone(),
                second: b.name.clone(),
            }
            .into());
        }
    }
    Ok(())
}

/// Position of each name; an error when one occurs twice.
pub(super) fn index(tensors: &[TensorInfo]) -> Result<HashMap<String, usize>> {
    let mut index = HashMap::new();
    index
        .try_reserve(tensors.len())
        .map_err(|_| memory::MemoryError::Exhausted {
            what: "the tensor table of a GGUF file".to_string(),
            bytes: tensors.len().saturating_mul(size_of::<(String, usize)>()),
        })?;
    for (i, t) in tensors.iter().enumerate() {
        if index.insert(t.name.clone(), i).is_some() {
            return Err(GgufError::DuplicateTensor(t.name.clone()).into());
        }
    }
    Ok(index)
}
