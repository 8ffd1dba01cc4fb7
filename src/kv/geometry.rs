//! Shape of a block: what every layer of a group stores per token, and where it lies in the block.

use crate::error::{Error, Result};
use crate::kernel::RowType;

/// Tokens in a block. It divides the 256-token chunk of attention.
pub const BLOCK_TOKENS: usize = crate::kernel::attention::BLOCK;

/// Keys and values of one layer and token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerShape {
    /// Key/value heads.
    pub n_kv_heads: usize,
    /// Elements of a key of one head.
    pub key_dim: usize,
    /// Elements of a value of one head.
    pub value_dim: usize,
    /// Positions a row sees, its own among them; `None` for all before it.
    pub window: Option<usize>,
}

/// Layout of a block, in bytes from its start:
///
/// ```text
/// layer 0: keys   [head 0: key_dim columns of 32][head 1: ...]
///          values [head 0: 32 rows of value_dim][head 1: ...]
/// layer 1: ...
/// ```
///
/// This is what attention reads: scores have positions in their lanes, weighted values have elements. Eight-bit keys have
/// the 32 scales of their positions before the columns, eight-bit values a scale before each row.
#[derive(Debug, Clone)]
pub struct Geometry {
    row_type: RowType,
    layers: Vec<Layer>,
    block_bytes: usize,
}

#[derive(Debug, Clone, Copy)]
struct Layer {
    shape: LayerShape,
    keys: usize,
    values: usize,
    key_head_bytes: usize,
    value_head_bytes: usize,
}

impl Geometry {
    /// The layout for these layers.
    ///
    /// # Errors
    /// When the size of a block overflows.
    pub fn new(row_type: RowType, shapes: Vec<LayerShape>) -> Result<Self> {
        let mut layers = crate::memory::with_capacity(shapes.len(), "the layout of key/value blocks")?;
        let overflow = |shape: &LayerShape| {
            Error::InvalidModel(format!(
                "a key/value block of {} heads of {} and {} elements does not fit the address space",
                shape.n_kv_heads, shape.key_dim, shape.value_dim
            ))
        };
        let mut end = 0usize;
        for shape in shapes {
            let head = |dim: usize| BLOCK_TOKENS.checked_mul(row_type.row_bytes(dim)?);
            let sizes = (|| {
                let (key_head_bytes, value_head_bytes) = (head(shape.key_dim)?, head(shape.value_dim)?);
                let values = end.checked_add(key_head_bytes.checked_mul(shape.n_kv_heads)?)?;
                let next = values.checked_add(value_head_bytes.checked_mul(shape.n_kv_heads)?)?;
                // Blocks start on cache lines, so the last layer's end is rounded up.
                next.checked_next_multiple_of(64)?;
                Some((key_head_bytes, value_head_bytes, values, next))
            })();
            let Some((key_head_bytes, value_head_bytes, values, next)) = sizes else {
                return Err(overflow(&shape));
            };
            layers.push(Layer {
                shape,
                keys: end,
                values,
                key_head_bytes,
                value_head_bytes,
            });
            end = next;
        }
        let block_bytes = end.next_multiple_of(64);
        Ok(Self {
            row_type,
            layers,
            block_bytes,
        })
    }

    /// Element type of the rows.
    pub fn row_type(&self) -> RowType {
        self.row_type
    }

    /// Bytes of a block.
    pub fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    /// Bytes per token, rounded up.
    pub fn token_bytes(&self) -> usize {
        self.block_bytes.div_ceil(BLOCK_TOKENS)
    }

    /// Layers.
    pub fn n_layers(&self) -> usize {
        self.layers.len()
    }

    /// Shape of a layer.
    pub fn layer(&self, layer: usize) -> LayerShape {
        self.layers[layer].shape
    }

    /// The shapes of all layers as text, runs of equal ones together: `layers*heads/key_dim/value_dim`, and
    /// `/window` where there is one.
    pub fn shapes(&self) -> String {
        let runs = self.layers.chunk_by(|a, b| a.shape == b.shape);
        let texts = runs.map(|run| {
            let shape = run[0].shape;
            let (heads, key, value) = (shape.n_kv_heads, shape.key_dim, shape.value_dim);
            let window = shape.window.map_or(String::new(), |window| format!("/{window}"));
            format!("{}*{heads}/{key}/{value}{window}", run.len())
        });
        texts.collect::<Vec<_>>().join(",")
    }

    /// Zeroes the slots of a block from `slot` on, for a block that is handed out without what it held there.
    pub(super) fn clear_slots(&self, block: &mut [u8], slot: usize) {
        let slot = slot.min(BLOCK_TOKENS);
        for (index, layer) in self.layers.iter().enumerate() {
            for head in 0..layer.shape.n_kv_heads {
                // Scales, where there are some, lie like one more column.
                let mut keys = &mut block[self.keys(index, head)];
                if self.row_type == RowType::Q8 {
                    let (scales, columns) = keys.split_at_mut(4 * BLOCK_TOKENS);
                    scales[4 * slot..].fill(0);
                    keys = columns;
                }
                let column = keys.len() / layer.shape.key_dim.max(1);
                if column > 0 {
                    for column in keys.chunks_exact_mut(column) {
                        let element = column.len() / BLOCK_TOKENS;
                        column[slot * element..].fill(0);
                    }
                }
                let rows = &mut block[self.values(index, head)];
                let row = rows.len() / BLOCK_TOKENS;
                rows[slot * row..].fill(0);
            }
        }
    }

    /// Where the key columns of a head lie in a block.
    pub(super) fn keys(&self, layer: usize, head: usize) -> std::ops::Range<usize> {
        let l = &self.layers[layer];
        let start = l.keys + head * l.key_head_bytes;
        start..start + l.key_head_bytes
    }

    /// Where the value rows of a head lie in a block.
    pub(super) fn values(&self, layer: usize, head: usize) -> std::ops::Range<usize> {
        let l = &self.layers[layer];
        let start = l.values + head * l.value_head_bytes;
        start..start + l.value_head_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_beyond_the_address_space_are_refused() {
        let layer = |n_kv_heads, key_dim, value_dim| LayerShape {
            n_kv_heads,
            key_dim,
            value_dim,
            window: None,
        };
        let half = layer(1, usize::MAX / 256 - 8, 1);
        for (row_type, shapes) in [
            (RowType::F32, vec![layer(1, usize::MAX / 2, 1)]),
            (RowType::Q8, vec![layer(1, 1, usize::MAX)]),
            (RowType::F16, vec![layer(usize::MAX / 32, 8, 8)]),
            // Each layer fits, their sum does not; the sum fits, but not rounded up.
            (RowType::F32, vec![half; 3]),
            (RowType::Q8, vec![layer(1, (1 << 59) - 9, 0)]),
        ] {
            let e = Geometry::new(row_type, shapes).unwrap_err();
            assert!(e.to_string().contains("address space"), "{e}");
        }
        assert!(Geometry::new(RowType::F32, vec![half]).is_ok());
    }
}
