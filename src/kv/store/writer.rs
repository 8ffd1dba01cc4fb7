//! Writing a sequence: store, advance, truncate, seal.

use std::sync::{Arc, MutexGuard, TryLockError};

use super::BLOCK_TOKENS;
use super::block::Block;
use super::index::Sealed;
use super::sequence::{Sequence, Slot, pieces};
use super::shape::Elements;
use super::stats::add;
use crate::error::{Error, Result};
use crate::memory::{self, MemoryError};

/// What only the one that writes a sequence knows.
#[derive(Debug)]
pub(super) struct Writer {
    /// Of each layer, the position behind the last token stored.
    stored: Vec<usize>,
}

impl Writer {
    pub(super) fn new(n_layers: usize, len: usize) -> Result<Self, MemoryError> {
        Ok(Self {
            stored: memory::filled(len, n_layers, "a sequence of the key/value cache")?,
        })
    }
}

impl Sequence {
    fn writer(&self) -> Result<MutexGuard<'_, Writer>> {
        match self.writer.try_lock() {
            Ok(writer) => Ok(writer),
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => Err(Error::Busy(
                "another thread is writing this sequence of the key/value cache: a sequence has one writer at a time"
                    .to_string(),
            )),
        }
    }

    /// Stores keys and values of one token of a layer: [`Sequence::store_batch`] of one.
    ///
    /// # Errors
    /// Those of [`Sequence::store_batch`].
    pub fn store(&self, layer: usize, position: usize, keys: &[f32], values: &[f32]) -> Result<()> {
        self.store_batch(layer, position, 1, Elements::F32(keys), Elements::F32(values))
    }

    /// Stores keys and values of `n` tokens of a layer from `position` on, `[token][head][element]`. Positions follow on
    /// those of the layer without a gap; those not advanced over yet can be stored again. Nothing is stored on an error,
    /// except what came before the block that there was no memory for.
    ///
    /// # Errors
    /// A layer or position outside the range, arrays of another size, [`Error::KvStoreFull`] when every block is in
    /// use, [`Error::Busy`] when another thread is writing.
    pub fn store_batch(
        &self,
        layer: usize,
        position: usize,
        n: usize,
        keys: Elements<'_>,
        values: Elements<'_>,
    ) -> Result<()> {
        let (shape, kernels) = (&self.shared.shape, self.shared.kernels);
        self.check_layer(layer)?;
        keys.check(shape, n, "keys")?;
        values.check(shape, n, "values")?;
        let mut writer = self.writer()?;
        let (from, to) = (self.len(), writer.stored[layer]);
        let end = match position.checked_add(n) {
            Some(end) if (from..=to).contains(&position) => end,
            _ => {
                return Err(Error::InvalidArgument(format!(
                    "cannot store {n} tokens of layer {layer} at position {position}: expected a position from {from}, the length of the sequence, to {to}, where this layer goes on"
                )));
            }
        };
        let most = self.shared.pool.capacity().saturating_mul(BLOCK_TOKENS);
        if end > most {
            return Err(Error::InvalidArgument(format!(
                "cannot store {n} tokens at position {position}: the key/value cache has memory for {most} tokens"
            )));
        }
        for piece in pieces(position, n) {
            let write = |bytes: &mut [u8]| {
                let (at, n, first) = (piece.slot(), piece.n, piece.first);
                let keys = keys.part(shape, first, n);
                keys.write(kernels, shape, &mut bytes[shape.keys(layer, at, n)]);
                let values = values.part(shape, first, n);
                values.write(kernels, shape, &mut bytes[shape.values(layer, at, n)]);
            };
            // A fork can freeze the block between making it writable and writing.
            while !self
                .read_table()
                .slots
                .get(piece.index())
                .is_some_and(|slot| slot.block.write(write))
            {
                self.make_writable(piece.index(), &writer)?;
            }
            let stored = &mut writer.stored[layer];
            *stored = (*stored).max(piece.position + piece.n);
        }
        debug_assert!(n == 0 || writer.stored[layer] >= end);
        Ok(())
    }

    /// Appends a block, or replaces one that is shared by a copy.
    fn make_writable(&self, index: usize, writer: &Writer) -> Result<()> {
        let mut shared = None;
        if let Some(slot) = self.write_table().slots.get_mut(index) {
            match (&slot.hold, Arc::get_mut(&mut slot.block)) {
                (None, Some(block)) => {
                    block.thaw();
                    return Ok(());
                }
                _ => shared = Some(Arc::clone(&slot.block)),
            }
        }
        let block = self.shared.take_block()?;
        if let Some(shared) = &shared {
            let stored = writer.stored.iter().copied().max().unwrap_or(0);
            self.copy(shared, &block, stored.saturating_sub(index * BLOCK_TOKENS));
            add(&self.shared.counters.copies, 1);
        }
        let mut table = self.write_table();
        block.set_tokens(table.len.saturating_sub(index * BLOCK_TOKENS));
        let slot = Slot {
            block: Arc::new(block),
            hold: None,
            key: None,
        };
        match table.slots.get_mut(index) {
            Some(old) => {
                let old = std::mem::replace(old, slot);
                drop(table);
                drop(old);
            }
            None => {
                memory::reserve(&mut table.slots, 1, "a sequence of the key/value cache")?;
                table.slots.push(slot);
            }
        }
        Ok(())
    }

    /// Copies the first tokens of a block to an open one.
    fn copy(&self, from: &Block, to: &Block, tokens: usize) {
        let (shape, n) = (&self.shared.shape, tokens.min(BLOCK_TOKENS));
        from.read(|from| {
            to.write(|to| {
                for layer in 0..shape.n_layers {
                    for range in [shape.keys(layer, 0, n), shape.values(layer, 0, n)] {
                        to[range.clone()].copy_from_slice(&from[range]);
                    }
                }
            })
        });
    }

    /// Makes `n` more tokens readable. Every layer has to have them.
    ///
    /// # Errors
    /// When a layer does not have them, naming it; [`Error::Busy`] when another thread is writing.
    pub fn advance(&self, n: usize) -> Result<()> {
        let writer = self.writer()?;
        let mut table = self.write_table();
        let from = table.len;
        let mut stored = writer.stored.iter().enumerate();
        let missing = stored.find(|(_, end)| **end - from < n);
        if let Some((layer, end)) = missing {
            return Err(Error::InvalidArgument(format!(
                "cannot advance from {from} by {n} tokens: layer {layer} has {} tokens stored behind position {from}",
                end - from
            )));
        }
        table.len += n;
        for piece in pieces(from, n) {
            let block = &table.slots[piece.index()].block;
            let tokens = piece.slot() + piece.n;
            block.set_tokens(tokens);
            if tokens == BLOCK_TOKENS {
                block.freeze();
            }
        }
        add(&self.shared.counters.tokens_stored, n);
        Ok(())
    }

    /// Forgets all tokens from position `len` on, those stored and not advanced over included.
    ///
    /// # Errors
    /// When there are not so many tokens; [`Error::Busy`] when another thread is writing.
    pub fn truncate(&self, len: usize) -> Result<()> {
        let mut writer = self.writer()?;
        let mut table = self.write_table();
        if len > table.len {
            return Err(Error::InvalidArgument(format!(
                "cannot truncate to {len} tokens: the sequence has {}",
                table.len
            )));
        }
        table.cut(len);
        writer.stored.fill(len);
        // A block of its own holds fewer tokens now; what a shared one holds is not for this sequence to say.
        if let Some(slot) = table
            .slots
            .last_mut()
            .filter(|_| !len.is_multiple_of(BLOCK_TOKENS))
            && slot.hold.is_none()
            && let Some(block) = Arc::get_mut(&mut slot.block)
        {
            block.set_tokens(len % BLOCK_TOKENS);
        }
        if let Some(slot) = table.slots.get_mut(len / BLOCK_TOKENS) {
            slot.key = None;
        }
        Ok(())
    }

    /// Says which tokens the sequence holds from its beginning: its full blocks are found by them from now on, by
    /// [`KvStore::lookup`](super::KvStore::lookup) below the salt of the sequence. What was sealed before is not looked at
    /// again. Answers how many tokens are sealed now.
    ///
    /// Where the same bytes are known already, the sequence shares them and gives its own block back.
    ///
    /// # Errors
    /// More tokens than the sequence has; [`Error::Busy`] when another thread is writing.
    pub fn seal(&self, tokens: &[u32]) -> Result<usize> {
        let _writer = self.writer()?;
        let root = self.shared.root(&self.salt);
        let (len, mut sealed, mut parent) = {
            let mut table = self.write_table();
            if table.root != root {
                // Its blocks were named with a secret that is in use no more.
                (table.root, table.sealed) = (root, 0);
            }
            let last = table.sealed.checked_sub(1).and_then(|i| table.slots.get(i));
            let parent = last.and_then(|slot| slot.key).unwrap_or(root);
            (table.len, table.sealed, parent)
        };
        if tokens.len() > len {
            return Err(Error::InvalidArgument(format!(
                "cannot seal {} tokens: the sequence has {len}",
                tokens.len()
            )));
        }
        let (blocks, _) = tokens.as_chunks::<BLOCK_TOKENS>();
        for tokens in blocks.iter().skip(sealed) {
            let block = Arc::clone(&self.read_table().slots[sealed].block);
            let (key, hold) = match self.shared.index.insert(root, parent, tokens, &block) {
                Sealed::New(hold) => (hold.key, Some(hold)),
                Sealed::Known(hold) if hold.block.frozen() == block.frozen() => (hold.key, Some(hold)),
                // Computed otherwise: both stay as they are.
                Sealed::Known(hold) => (hold.key, None),
                Sealed::Refused => break,
            };
            let mut table = self.write_table();
            table.sealed = sealed + 1;
            let slot = &mut table.slots[sealed];
            slot.key = Some(key);
            let old = hold.map(|hold| {
                let block = std::mem::replace(&mut slot.block, Arc::clone(&hold.block));
                (block, slot.hold.replace(hold))
            });
            drop(table);
            drop(old);
            add(&self.shared.counters.tokens_sealed, BLOCK_TOKENS);
            (sealed, parent) = (sealed + 1, key);
        }
        Ok(sealed * BLOCK_TOKENS)
    }
}
