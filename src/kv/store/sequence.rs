//! A sequence: which blocks hold its tokens, and reading them.

use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::block::Block;
use super::index::{Found, Hold};
use super::shape::{ElementsMut, Shape};
use super::stats::add;
use super::view::{Part, Rows, View};
use super::writer::Writer;
use super::{BLOCK_TOKENS, Key, KvStore, Shared};
use crate::error::{Error, Result};
use crate::memory;

/// Keys and values of one sequence of tokens. Any number of threads may read while one writes.
#[derive(Debug)]
pub struct Sequence {
    pub(super) shared: Arc<Shared>,
    pub(super) salt: Arc<str>,
    pub(super) table: RwLock<Table>,
    pub(super) writer: Mutex<Writer>,
}

#[derive(Debug)]
pub(super) struct Table {
    /// Where the prefixes of its salt began when its blocks were named.
    pub(super) root: Key,
    pub(super) slots: Vec<Slot>,
    /// Tokens that can be read.
    pub(super) len: usize,
    /// Blocks from the beginning whose keys are known.
    pub(super) sealed: usize,
}

/// A block of a sequence.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) block: Arc<Block>,
    /// When the index knows the block.
    pub(super) hold: Option<Hold>,
    /// Its name, when it is sealed.
    pub(super) key: Option<Key>,
}

impl Table {
    /// Drops blocks that no token before `len` is in.
    pub(super) fn cut(&mut self, len: usize) {
        // The last first: no block is ever more recent than its ancestors.
        while self.slots.len() > len.div_ceil(BLOCK_TOKENS) {
            self.slots.pop();
        }
        self.sealed = self.sealed.min(len / BLOCK_TOKENS);
        self.len = self.len.min(len);
    }
}

/// A piece of a range of positions that lies in one block.
pub(super) struct Piece {
    /// Position of its first token, and number in the range.
    pub(super) position: usize,
    pub(super) first: usize,
    pub(super) n: usize,
}

impl Piece {
    pub(super) fn index(&self) -> usize {
        self.position / BLOCK_TOKENS
    }

    pub(super) fn slot(&self) -> usize {
        self.position % BLOCK_TOKENS
    }
}

/// The pieces of `n` tokens from `position` on.
pub(super) fn pieces(position: usize, n: usize) -> impl Iterator<Item = Piece> {
    let end = position + n;
    let mut at = position;
    std::iter::from_fn(move || {
        let piece = Piece {
            position: at,
            first: at - position,
            n: (BLOCK_TOKENS - at % BLOCK_TOKENS).min(end - at),
        };
        at += piece.n;
        (piece.n > 0).then_some(piece)
    })
}

impl Sequence {
    pub(super) fn new(shared: &Arc<Shared>, salt: &str, root: Key, found: Found) -> Result<Self> {
        let len = found.len();
        let partial = found.partial.map(|(hold, _)| hold);
        let mut table = Table {
            root,
            slots: memory::with_capacity(found.blocks.len() + 1, "a sequence of the key/value cache")?,
            len,
            sealed: found.blocks.len(),
        };
        let slots = found.blocks.into_iter().map(|hold| (Some(hold.key), hold));
        let slots = slots.chain(partial.map(|hold| (None, hold)));
        table.slots.extend(slots.map(|(key, hold)| Slot {
            block: Arc::clone(&hold.block),
            hold: Some(hold),
            key,
        }));
        Self::with_table(shared, salt.into(), table)
    }

    fn with_table(shared: &Arc<Shared>, salt: Arc<str>, table: Table) -> Result<Self> {
        let writer = Writer::new(shared.shape.n_layers, table.len)?;
        Ok(Self {
            shared: Arc::clone(shared),
            salt,
            table: RwLock::new(table),
            writer: Mutex::new(writer),
        })
    }

    /// The store it belongs to.
    pub fn kv_store(&self) -> KvStore {
        KvStore {
            shared: Arc::clone(&self.shared),
        }
    }

    /// What it stores.
    pub fn shape(&self) -> &Shape {
        &self.shared.shape
    }

    /// Tokens that can be read.
    pub fn len(&self) -> usize {
        self.read_table().len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn read_table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write_table(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new sequence with the same tokens, which shares every block; whoever goes on in the last one first copies it.
    ///
    /// # Errors
    /// When memory is short.
    pub fn fork(&self) -> Result<Self> {
        let table = self.read_table();
        let n = table.len.div_ceil(BLOCK_TOKENS);
        let mut slots = memory::with_capacity(n, "a sequence of the key/value cache")?;
        slots.extend_from_slice(&table.slots[..n]);
        if let Some(last) = slots.last() {
            last.block.freeze();
        }
        let copy = Table {
            root: table.root,
            slots,
            len: table.len,
            sealed: table.sealed,
        };
        drop(table);
        Self::with_table(&self.shared, Arc::clone(&self.salt), copy)
    }

    pub(super) fn check_layer(&self, layer: usize) -> Result<()> {
        let n = self.shared.shape.n_layers;
        if layer < n {
            return Ok(());
        }
        Err(Error::InvalidArgument(format!(
            "layer: expected less than {n}, found {layer}"
        )))
    }

    /// Copies keys and values of `n` tokens of a layer from `position` on, `[token][head][element]`.
    ///
    /// # Errors
    /// Positions that cannot be read yet, or arrays of another size.
    pub fn fetch(
        &self,
        layer: usize,
        position: usize,
        n: usize,
        mut keys: ElementsMut<'_>,
        mut values: ElementsMut<'_>,
    ) -> Result<()> {
        let (shape, kernels) = (&self.shared.shape, self.shared.kernels);
        self.check_layer(layer)?;
        keys.check(shape, n, "keys")?;
        values.check(shape, n, "values")?;
        let blocks = self.blocks(position, n)?;
        for (piece, slot) in pieces(position, n).zip(&blocks) {
            slot.read(|bytes| {
                let (at, n, first) = (piece.slot(), piece.n, piece.first);
                keys.read(kernels, shape, first, &bytes[shape.keys(layer, at, n)])?;
                values.read(kernels, shape, first, &bytes[shape.values(layer, at, n)])
            })?;
        }
        self.count_fetch(n);
        Ok(())
    }

    fn count_fetch(&self, n: usize) {
        add(&self.shared.counters.fetches, 1);
        add(&self.shared.counters.tokens_fetched, n);
    }

    /// The blocks of a range that can be read.
    fn blocks(&self, position: usize, n: usize) -> Result<Vec<Arc<Block>>> {
        let table = self.read_table();
        let range = readable(&table, position, n)?;
        let mut blocks = memory::with_capacity(range.len(), "a list of blocks")?;
        blocks.extend(table.slots[range].iter().map(|slot| Arc::clone(&slot.block)));
        Ok(blocks)
    }

    /// Keys and values of `n` tokens of a layer from `position` on as they lie in memory.
    ///
    /// # Errors
    /// Positions that cannot be read yet, and when memory is short.
    pub fn view(&self, layer: usize, position: usize, n: usize) -> Result<View> {
        self.check_layer(layer)?;
        let shape = &self.shared.shape;
        let table = self.read_table();
        let range = readable(&table, position, n)?;
        let mut parts = memory::with_capacity(range.len(), "a view of blocks")?;
        for (piece, slot) in pieces(position, n).zip(&table.slots[range]) {
            let rows = if slot.block.frozen().is_some() {
                Rows::Block {
                    block: Arc::clone(&slot.block),
                    slot: piece.slot(),
                    _hold: slot.hold.clone(),
                }
            } else {
                let size = 2 * piece.n * shape.token_bytes();
                let mut copy = memory::with_capacity(size, "a view of a block that is not full")?;
                slot.block.read(|bytes| {
                    copy.extend_from_slice(&bytes[shape.keys(layer, piece.slot(), piece.n)]);
                    copy.extend_from_slice(&bytes[shape.values(layer, piece.slot(), piece.n)]);
                });
                Rows::Copy(copy)
            };
            parts.push(Part {
                position: piece.position,
                n: piece.n,
                rows,
            });
        }
        drop(table);
        self.count_fetch(n);
        Ok(View {
            shape: *shape,
            layer,
            parts,
        })
    }
}

/// The slots that hold a range, if all of it can be read.
fn readable(table: &Table, position: usize, n: usize) -> Result<std::ops::Range<usize>> {
    match position.checked_add(n) {
        Some(end) if end <= table.len => Ok(if n == 0 {
            0..0
        } else {
            position / BLOCK_TOKENS..end.div_ceil(BLOCK_TOKENS)
        }),
        _ => Err(Error::InvalidArgument(format!(
            "cannot read {n} tokens from position {position} on: the sequence has {} tokens",
            table.len
        ))),
    }
}

impl Drop for Sequence {
    fn drop(&mut self) {
        self.table
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .cut(0);
    }
}
