//! The content hash: what tells one model's tensors from another's, whatever the file is called.
//!
//! ```text
//! BLAKE3 of { mode, then for each tensor by name: name, type, dimensions, hashes of its pieces }
//! ```
//!
//! A piece is hashed with XXH3-128 by the thread that has just read it, while it is in its cache: that costs a few
//! per cent of reading. XXH3 finds every accident and no forgery: whoever can replace the model's file can give two
//! models one hash. Metadata are not part of it, so that a changed chat template does not change it; neither is the
//! order of the tensors or how they are spread over files.

use super::load::TensorData;
use super::{LoadMode, TensorInfo};

/// Bytes of a piece: it stays in a core's cache between being read and being hashed.
pub(super) const PIECE: usize = 256 << 10;
/// Of a mapped tensor only this much is looked at, in so many places: reading all of it would undo the mapping.
const SAMPLE: usize = 4 << 10;
const SAMPLES: usize = 4;

/// Hash of the names, types, shapes and data of a model's tensors.
///
/// It is the same for any number of loading threads, for one file or several and for bytes in memory. With
/// [`LoadMode::Mmap`] it covers samples of the data, so that it differs from that of the same file when it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ContentHash {
    bytes: [u8; 32],
    sampled: bool,
}

impl ContentHash {
    /// The hash's bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.bytes
    }
}

impl std::fmt::Display for ContentHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.sampled {
            f.write_str("sampled-")?;
        }
        self.bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Hash of a piece.
pub(super) fn piece(bytes: &[u8]) -> u128 {
    twox_hash::XxHash3_128::oneshot(bytes)
}

/// How many pieces a tensor has.
pub(super) fn pieces(tensor: &TensorInfo) -> usize {
    tensor.n_bytes.div_ceil(PIECE as u64) as usize
}

/// Combines the hashes of all pieces, which come in the order of the tensors.
pub(super) fn combine(mode: LoadMode, tensors: &[TensorInfo], mut hashes: &[u128]) -> ContentHash {
    let mut parts: Vec<(&TensorInfo, &[u128])> = Vec::new();
    for tensor in tensors {
        let n = match mode {
            LoadMode::Read => pieces(tensor),
            LoadMode::Mmap => 1,
        };
        let (own, rest) = hashes.split_at(n.min(hashes.len()));
        parts.push((tensor, own));
        hashes = rest;
    }
    parts.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
    let mut hasher = blake3::Hasher::new();
    let number = |hasher: &mut blake3::Hasher, n: u64| {
        hasher.update(&n.to_le_bytes());
    };
    number(&mut hasher, mode as u64);
    number(&mut hasher, parts.len() as u64);
    for (tensor, hashes) in parts {
        number(&mut hasher, tensor.name.len() as u64);
        hasher.update(tensor.name.as_bytes());
        number(&mut hasher, tensor.ty.name().len() as u64);
        hasher.update(tensor.ty.name().as_bytes());
        number(&mut hasher, tensor.dims.len() as u64);
        tensor.dims.iter().for_each(|&n| number(&mut hasher, n));
        number(&mut hasher, tensor.n_bytes);
        for hash in hashes {
            hasher.update(&hash.to_le_bytes());
        }
    }
    ContentHash {
        bytes: *hasher.finalize().as_bytes(),
        sampled: mode == LoadMode::Mmap,
    }
}

/// Of tensors that are in memory already.
pub(super) fn of_loaded(mode: LoadMode, tensors: &[TensorInfo], data: &TensorData) -> ContentHash {
    let mut hashes = Vec::new();
    for tensor in tensors {
        let bytes = data.get(&tensor.name);
        let bytes = bytes.as_deref().unwrap_or_default();
        match mode {
            LoadMode::Read => hashes.extend(bytes.chunks(PIECE).map(piece)),
            LoadMode::Mmap => hashes.push(samples(bytes)),
        }
    }
    combine(mode, tensors, &hashes)
}

/// Hash of a few places of a tensor, its beginning and its end among them.
fn samples(bytes: &[u8]) -> u128 {
    if bytes.len() <= SAMPLE * SAMPLES {
        return piece(bytes);
    }
    let mut hashes = [0; SAMPLES * size_of::<u128>()];
    for (i, hash) in hashes.chunks_exact_mut(size_of::<u128>()).enumerate() {
        let start = (bytes.len() - SAMPLE) / (SAMPLES - 1) * i;
        hash.copy_from_slice(&piece(&bytes[start..start + SAMPLE]).to_le_bytes());
    }
    piece(&hashes)
}
