//! The common form that weights and activations take inside the integer matrix kernels: chunks of 256 values along k.
//!
//! Every quantized type is unpacked to unsigned bytes with one `f32` scale and minimum per 16 values; activations are
//! signed bytes with one scale per 32. So there is one matrix kernel per CPU level, not one per type, and a single
//! row times a single column is computed by the same operations in the same order as inside a large product.

/// Values per chunk.
pub(crate) const CHUNK: usize = 256;
/// Values per weight scale.
pub(crate) const GROUP: usize = 16;
/// Weight rows that lie side by side, chunk by chunk, in a worker's scratch memory.
pub(crate) const ROW_TILE: usize = 4;
/// Activation rows that lie side by side, chunk by chunk.
pub(crate) const COLUMN_TILE: usize = 4;

/// 256 weights of one row: value = s · (q − offset) + m.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct WeightChunk {
    pub q: [u8; CHUNK],
    /// Scales of the 16 groups, in the level's slot order.
    pub s: [f32; 16],
    /// Minima of the 16 groups, in the level's slot order; read for types that have them only.
    pub m: [f32; 16],
}

impl WeightChunk {
    pub(crate) const ZERO: Self = Self {
        q: [0; CHUNK],
        s: [0.0; 16],
        m: [0.0; 16],
    };
}

/// 256 activations of one row: value = s · q.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct XChunk {
    /// −127…127.
    pub q: [i8; CHUNK],
    /// Scales of the 16 groups (equal in pairs), in slot order.
    pub s: [f32; 16],
    /// Sum of `q` over each group, exact.
    pub sum: [f32; 16],
    /// s · sum.
    pub scaled_sum: [f32; 16],
}

impl XChunk {
    pub(crate) const ZERO: Self = Self {
        q: [0; CHUNK],
        s: [0.0; 16],
        sum: [0.0; 16],
        scaled_sum: [0.0; 16],
    };
}
