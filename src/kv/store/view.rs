//! Blocks as they lie in memory, and prefixes that stay.

use std::sync::Arc;

use super::block::Block;
use super::index::{Found, Hold};
use super::shape::Shape;

/// Keys and values of a range of positions of one layer, without a copy of what lies in full blocks. They stay as they
/// are while the view lives, whatever becomes of the sequence. Rows of a block that was not full yet are a copy.
#[derive(Debug)]
pub struct View {
    pub(super) shape: Shape,
    pub(super) layer: usize,
    pub(super) parts: Vec<Part>,
}

#[derive(Debug)]
pub(super) struct Part {
    pub(super) position: usize,
    pub(super) n: usize,
    pub(super) rows: Rows,
}

#[derive(Debug)]
pub(super) enum Rows {
    /// From a slot of a frozen block on, which is not evicted meanwhile.
    Block {
        block: Arc<Block>,
        slot: usize,
        _hold: Option<Hold>,
    },
    /// Keys and then values.
    Copy(Vec<u8>),
}

/// The part of a view that lies in one block: `[token][head][element]`, tokens [`Shape::token_bytes`] apart and heads
/// [`Shape::head_bytes`].
#[derive(Debug, Clone, Copy)]
pub struct ViewPart<'a> {
    /// Position of the first token.
    pub position: usize,
    /// Tokens.
    pub n: usize,
    /// Their keys.
    pub keys: &'a [u8],
    /// Their values.
    pub values: &'a [u8],
}

impl View {
    /// Type and strides.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Blocks it covers.
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// Whether it covers nothing.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The part in the block number `index`, counted from 0; `None` behind the last.
    pub fn part(&self, index: usize) -> Option<ViewPart<'_>> {
        let part = self.parts.get(index)?;
        let (keys, values) = match &part.rows {
            Rows::Block { block, slot, .. } => {
                let bytes = block.frozen()?;
                (
                    &bytes[self.shape.keys(self.layer, *slot, part.n)],
                    &bytes[self.shape.values(self.layer, *slot, part.n)],
                )
            }
            Rows::Copy(bytes) => bytes.split_at(part.n * self.shape.token_bytes()),
        };
        Some(ViewPart {
            position: part.position,
            n: part.n,
            keys,
            values,
        })
    }
}

/// Keeps a sealed prefix in memory until it is dropped.
#[derive(Debug)]
pub struct Pin {
    blocks: Vec<Hold>,
    len: usize,
}

impl Pin {
    pub(super) fn new(found: Found) -> Self {
        let len = found.len();
        let mut blocks = found.blocks;
        // A block of which only a part agrees belongs to another prefix, but its beginning to this one.
        blocks.extend(found.partial.map(|(hold, _)| hold));
        Self { blocks, len }
    }

    /// Tokens of the prefix that it keeps; 0 where nothing was found.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it keeps nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        // The last first: no block is ever more recent than its ancestors.
        while self.blocks.pop().is_some() {}
    }
}
