//! Weights of a model: tensors of a file checked against the shapes the hyper-parameters ask for.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::gguf::{Gguf, TensorBytes, TensorData, TensorInfo};
use crate::kernel::{Matrix, ThreadPool, ThreadPoolOptions, pack};
use crate::memory::{self, MemoryError};
use crate::quant::TensorType;
use crate::topology::Topology;

/// A matrix, or a stack of equal matrices (one per expert), packed for the kernels.
#[derive(Debug, Clone)]
pub struct Weight {
    ty: TensorType,
    n_in: usize,
    n_out: usize,
    matrix_bytes: usize,
    data: TensorBytes,
    tails: Arc<Tails>,
}

/// The last panels of the matrices of a tensor, where they are not whole.
#[derive(Debug, Default)]
struct Tails {
    bytes: Vec<u8>,
    each: usize,
}

impl Weight {
    /// The matrix.
    ///
    /// # Errors
    /// None that loading has not checked.
    pub fn matrix(&self) -> Result<Matrix<'_>> {
        self.expert(0)
    }

    /// Matrix `index` of a stack.
    ///
    /// # Errors
    /// When the stack has fewer.
    pub fn expert(&self, index: usize) -> Result<Matrix<'_>> {
        let start = index * self.matrix_bytes;
        let data = self.data.get(start..start + self.matrix_bytes).unwrap_or(&[]);
        let start = index * self.tails.each;
        let tail = self
            .tails
            .bytes
            .get(start..start + self.tails.each)
            .unwrap_or(&[]);
        Ok(Matrix::new(self.ty, self.n_in, self.n_out, data, tail)?)
    }

    /// Element type.
    pub fn ty(&self) -> TensorType {
        self.ty
    }

    /// Inputs of the matrix: the length of a row.
    pub fn n_in(&self) -> usize {
        self.n_in
    }

    /// Outputs of the matrix: its rows.
    pub fn n_out(&self) -> usize {
        self.n_out
    }

    /// Writes row `row`, dequantized, to `out` of [`Weight::n_in`] elements.
    ///
    /// # Errors
    /// When the row does not exist.
    pub fn read_row(&self, row: usize, out: &mut [f32]) -> Result<()> {
        Ok(self.matrix()?.read_row(row, out)?)
    }
}

/// Fewer bytes are packed on the calling thread alone.
const ALONE_BELOW: u64 = 16 << 20;
/// More threads do not pack faster: memory bandwidth is the limit.
const MAX_THREADS: usize = 8;

/// The tensors of a file, with the matrices packed for the kernels.
pub struct Tensors {
    data: TensorData,
    tails: HashMap<String, Arc<Tails>>,
}

impl Tensors {
    /// Packs every quantized tensor of `data` where it lies, on `threads` threads (0 chooses).
    ///
    /// # Errors
    /// Memory is short.
    pub fn pack(gguf: &Gguf, mut data: TensorData, threads: usize) -> Result<Self> {
        let quantized = || {
            let tensors = gguf.tensors().iter();
            tensors.filter(|t| t.ty.is_quantized() && t.ty.is_supported())
        };
        let bytes = quantized().fold(0u64, |n, t| n.saturating_add(t.n_bytes));
        let threads = match threads {
            _ if bytes < ALONE_BELOW => 1,
            0 => Topology::this().cores().min(MAX_THREADS),
            n => n,
        };
        let options = |threads| ThreadPoolOptions {
            threads: Some(threads),
            name: "infer-load".to_string(),
            ..ThreadPoolOptions::default()
        };
        // Refused threads are no reason to fail.
        let pool = ThreadPool::new(options(threads)).or_else(|_| ThreadPool::new(options(1)))?;
        let mut tails = HashMap::new();
        for info in quantized() {
            let Some(bytes) = data.get_mut(&info.name)? else {
                continue;
            };
            // The reader checked that the sizes multiply to the tensor's bytes.
            let dim = |i: usize| info.dims.get(i).map_or(1, |&d| d as usize);
            let (n_in, n_out) = (dim(0), dim(1));
            let Some(matrix) = info.ty.row_bytes(n_in).map(|b| b * n_out).filter(|&b| b > 0) else {
                continue;
            };
            let mut all = Tails::default();
            for matrix in bytes.chunks_exact_mut(matrix) {
                let tail = pack(&pool, info.ty, n_in, n_out, matrix)?;
                all.each = tail.len();
                all.bytes
                    .try_reserve(tail.len())
                    .map_err(|_| MemoryError::Exhausted {
                        what: format!("the last panels of tensor '{}'", info.name),
                        bytes: tail.len(),
                    })?;
                all.bytes.extend_from_slice(&tail);
            }
            tails.insert(info.name.clone(), Arc::new(all));
        }
        Ok(Self { data, tails })
    }
}

/// Takes tensors out of a file by name and remembers which were taken.
pub struct Loader<'a> {
    gguf: &'a Gguf,
    tensors: &'a Tensors,
    taken: RefCell<HashSet<String>>,
}

impl<'a> Loader<'a> {
    /// A loader of the tensors of `gguf`.
    pub fn new(gguf: &'a Gguf, tensors: &'a Tensors) -> Self {
        Self {
            gguf,
            tensors,
            taken: RefCell::default(),
        }
    }

    /// Whether the file has the tensor.
    pub fn has(&self, name: &str) -> bool {
        self.gguf.tensor(name).is_some()
    }

    fn take(&self, name: &str, dims: &[usize]) -> Result<Option<(&'a TensorInfo, TensorBytes)>> {
        let Some(info) = self.gguf.tensor(name) else {
            return Ok(None);
        };
        // Trailing dimensions of 1 are the same shape.
        let found = trimmed(info.dims.iter().copied());
        if found != trimmed(dims.iter().map(|&d| d as u64)) {
            return Err(Error::InvalidModel(format!(
                "tensor '{name}': the hyper-parameters and the vocabulary ask for the shape {dims:?}, the file has {:?}",
                info.dims
            )));
        }
        check_type(info)?;
        self.taken.borrow_mut().insert(name.to_string());
        let data = self
            .tensors
            .data
            .get(name)
            .ok_or_else(|| Error::InvalidModel(format!("tensor '{name}' was not loaded")))?;
        Ok(Some((info, data)))
    }

    fn missing(name: &str) -> Error {
        Error::InvalidModel(format!("tensor '{name}' is missing"))
    }

    /// A matrix of `n_out` rows of `n_in` elements; `Ok(None)` when the file has none.
    pub fn optional_matrix(&self, name: &str, n_in: usize, n_out: usize) -> Result<Option<Weight>> {
        self.stack(name, n_in, n_out, &[n_in, n_out])
    }

    /// A matrix that must be there.
    pub fn matrix(&self, name: &str, n_in: usize, n_out: usize) -> Result<Weight> {
        self.optional_matrix(name, n_in, n_out)?
            .ok_or_else(|| Self::missing(name))
    }

    /// A stack of `count` matrices; `Ok(None)` when the file has none.
    pub fn optional_experts(
        &self,
        name: &str,
        n_in: usize,
        n_out: usize,
        count: usize,
    ) -> Result<Option<Weight>> {
        self.stack(name, n_in, n_out, &[n_in, n_out, count])
    }

    fn stack(&self, name: &str, n_in: usize, n_out: usize, dims: &[usize]) -> Result<Option<Weight>> {
        let Some((info, data)) = self.take(name, dims)? else {
            return Ok(None);
        };
        // Non-zero and without overflow: the reader checked the tensor's size against these dimensions.
        let matrix_bytes = data.len() / dims.get(2).copied().unwrap_or(1);
        let weight = Weight {
            ty: info.ty,
            n_in,
            n_out,
            matrix_bytes,
            data,
            tails: self.tensors.tails.get(name).cloned().unwrap_or_default(),
        };
        weight.matrix()?;
        Ok(Some(weight))
    }

    /// A vector as f32; `Ok(None)` when the file has none.
    pub fn optional_vector(&self, name: &str, n: usize) -> Result<Option<Vec<f32>>> {
        let Some(weight) = self.stack(name, n, 1, &[n])? else {
            return Ok(None);
        };
        let mut out = memory::filled(0.0, n, name)?;
        weight.read_row(0, &mut out)?;
        Ok(Some(out))
    }

    /// A vector that must be there.
    pub fn vector(&self, name: &str, n: usize) -> Result<Vec<f32>> {
        self.optional_vector(name, n)?.ok_or_else(|| Self::missing(name))
    }

    /// Ends loading.
    ///
    /// # Errors
    /// When the file has a tensor nobody took: the model would not be computed as its file says.
    pub fn finish(self) -> Result<()> {
        let taken = self.taken.into_inner();
        match self
            .gguf
            .tensors()
            .iter()
            .find(|t| !taken.contains(&t.name) && !is_ignored(&t.name))
        {
            None => Ok(()),
            Some(t) => Err(Error::InvalidModel(format!(
                "the file has the tensor '{}', which a model of this architecture and these hyper-parameters does not use",
                t.name
            ))),
        }
    }
}

/// Tables that old converters wrote and that every reader computes itself.
fn is_ignored(name: &str) -> bool {
    name.ends_with(".attn_rot_embd") || name.ends_with(".attn_rot_embd.weight")
}

fn check_type(info: &TensorInfo) -> Result<()> {
    if info.ty.is_supported() {
        return Ok(());
    }
    Err(Error::Unsupported(format!(
        "tensor '{}' has the type {}, which this version cannot compute with",
        info.name,
        info.ty.name()
    )))
}

/// Refuses types without kernels from the header alone, before gigabytes are read for nothing.
pub fn check_types(gguf: &Gguf) -> Result<()> {
    let mut used = gguf.tensors().iter().filter(|t| !is_ignored(&t.name));
    used.try_for_each(check_type)
}

fn trimmed(dims: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut dims: Vec<u64> = dims.collect();
    while dims.len() > 1 && dims.last() == Some(&1) {
        dims.pop();
    }
    dims
}
