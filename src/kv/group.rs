//! One layer group: layers whose blocks live and die together, with a pool, block tables and a prefix index of their own.

use std::sync::Arc;

use super::geometry::{BLOCK_TOKENS, Geometry};
use super::pool::{KvFull, Pool};
use super::prefix::{Key, Prefix, PrefixIndex};
use super::table::{BlockTable, SequenceId};
use super::tier::Tier;
use crate::error::Result;
use crate::kernel::{Kernels, RowType};

/// Tokens by which a sequence can be shortened without losing what its next row sees: more than are ever proposed at
/// once. A window group gives blocks up that much later.
pub(super) const ROLL_BACK: usize = BLOCK_TOKENS;
const _: () = assert!(crate::options::MAX_SPECULATION_TOKENS < ROLL_BACK);

/// How long the blocks of a group are needed.
///
/// Everything that depends on it is a method here. Latents of multi-head latent attention live like keys and values: they
/// would be another shape of layer in a full group. Recurrent states would be a kind of their own: a row needs the
/// newest only, and a prefix the snapshot at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupKind {
    /// A row sees every position before it.
    Full,
    /// A row sees so many positions, its own among them.
    Window(usize),
}

impl GroupKind {
    /// Of a layer with this window.
    pub(super) fn of(window: Option<usize>) -> Self {
        window.map_or(Self::Full, Self::Window)
    }

    /// The first block that the row at position `len` sees, or later ones do.
    pub(super) fn first_block(self, len: usize) -> usize {
        match self {
            Self::Full => 0,
            Self::Window(window) => (len + 1).saturating_sub(window) / BLOCK_TOKENS,
        }
    }

    /// Most blocks that a sequence of up to `tokens` tokens has at a time, when it grows by up to `step` tokens between
    /// two times that it gives up what left the window. One more is for a copy of a shared block.
    pub(super) fn most_blocks(self, tokens: usize, step: usize) -> usize {
        let all = tokens.div_ceil(BLOCK_TOKENS);
        match self {
            Self::Full => all,
            Self::Window(window) => {
                let seen = window.saturating_add(ROLL_BACK).saturating_add(step);
                all.min(seen.div_ceil(BLOCK_TOKENS).saturating_add(2))
            }
        }
    }
}

impl Geometry {
    /// The groups of these layers, that of full attention first, and which layers each has.
    ///
    /// # Errors
    /// When memory is short.
    pub(super) fn groups(&self) -> Result<Vec<(GroupKind, Geometry, Vec<usize>)>> {
        let mut kinds: Vec<(GroupKind, Vec<usize>)> = vec![(GroupKind::Full, Vec::new())];
        for layer in 0..self.n_layers() {
            let kind = GroupKind::of(self.layer(layer).window);
            match kinds.iter_mut().find(|(k, _)| *k == kind) {
                Some((_, layers)) => layers.push(layer),
                None => kinds.push((kind, vec![layer])),
            }
        }
        if kinds.len() > 1 && kinds[0].1.is_empty() {
            kinds.remove(0);
        }
        let group = |(kind, layers): (GroupKind, Vec<usize>)| {
            let shapes = layers.iter().map(|&layer| self.layer(layer)).collect();
            Ok((kind, Geometry::new(self.row_type(), shapes)?, layers))
        };
        kinds.into_iter().map(group).collect()
    }

    /// Bytes of the blocks that a sequence of up to `tokens` tokens has at most at a time, in all groups, when it grows by up to
    /// `step` tokens at once.
    ///
    /// # Errors
    /// When memory is short.
    pub fn sequence_bytes(&self, tokens: usize, step: usize) -> Result<u64> {
        let bytes = |(kind, geometry, _): &(GroupKind, Geometry, _)| {
            let blocks = kind.most_blocks(tokens, step) as u64;
            blocks.saturating_mul(geometry.block_bytes() as u64)
        };
        Ok(self.groups()?.iter().map(bytes).fold(0, u64::saturating_add))
    }
}

/// Pool, tables and index of a layer group.
#[derive(Debug)]
pub struct Group {
    /// Its number among the groups of the cache.
    number: u32,
    pub(super) kind: GroupKind,
    step: usize,
    pub(super) pool: Pool,
    pub(super) tables: Vec<BlockTable>,
    pub(super) index: Option<PrefixIndex>,
    /// Where full blocks go that memory gives up.
    pub(super) tier: Option<Arc<Tier>>,
}

impl Group {
    /// For up to `max_sequences` sequences of up to `max_tokens` tokens, that grow by up to `step` tokens at once, within
    /// `budget` bytes.
    pub(super) fn new(
        number: u32,
        (kind, geometry): (GroupKind, Geometry),
        max_sequences: usize,
        (max_tokens, step): (usize, usize),
        budget: u64,
    ) -> Result<Self> {
        let pool = Pool::new(geometry, budget)?;
        let blocks = match kind {
            GroupKind::Full => max_tokens.div_ceil(BLOCK_TOKENS).min(pool.capacity()),
            // Positions are absolute: blocks that are gone keep their place in the table.
            GroupKind::Window(_) => max_tokens.div_ceil(BLOCK_TOKENS),
        };
        let mut tables = crate::memory::with_capacity(max_sequences, "block tables")?;
        for _ in 0..max_sequences {
            tables.push(BlockTable::with_capacity(blocks)?);
        }
        Ok(Self {
            number,
            kind,
            step,
            pool,
            tables,
            index: None,
            tier: None,
        })
    }

    /// How its blocks are stored.
    pub fn row_type(&self) -> RowType {
        self.pool.geometry().row_type()
    }

    /// Key columns of one head in the block that holds position `index * BLOCK_TOKENS`. The layer's number is that in the
    /// group.
    pub fn keys(&self, sequence: SequenceId, layer: usize, head: usize, index: usize) -> &[u8] {
        self.pool
            .keys(self.tables[sequence.index()].at(index), layer, head)
    }

    /// Value rows, likewise.
    pub fn values(&self, sequence: SequenceId, layer: usize, head: usize, index: usize) -> &[u8] {
        self.pool
            .values(self.tables[sequence.index()].at(index), layer, head)
    }

    pub(super) fn store(
        &mut self,
        kernels: &Kernels,
        sequence: SequenceId,
        layer: usize,
        position: usize,
        k: &[f32],
        v: &[f32],
    ) {
        let block = self.tables[sequence.index()].at(position / BLOCK_TOKENS);
        self.pool
            .store(kernels, block, layer, position % BLOCK_TOKENS, k, v);
    }

    /// Tokens a sequence may have so that it always fits alone.
    pub(super) fn max_tokens(&self) -> usize {
        if self.kind.most_blocks(usize::MAX, self.step) <= self.pool.capacity() {
            usize::MAX
        } else {
            self.pool.capacity().saturating_mul(BLOCK_TOKENS)
        }
    }

    /// Most blocks that a sequence of so many tokens has at a time.
    pub(super) fn blocks_of(&self, tokens: usize) -> usize {
        self.kind.most_blocks(tokens, self.step)
    }

    /// Tokens held in the blocks in use.
    pub(super) fn tokens(&self) -> usize {
        let vacant: usize = self.tables.iter().map(BlockTable::vacant).sum();
        (self.pool.used() * BLOCK_TOKENS).saturating_sub(vacant)
    }

    /// Where the prefixes of this group begin that begin at `root` in the first one.
    pub(super) fn own_root(&self, root: Key) -> Key {
        match &self.index {
            Some(index) if self.number > 0 => index.root_below(&root),
            _ => root,
        }
    }

    /// Its part of a prefix of the whole cache; `None` of an empty one.
    pub(super) fn part<'a>(&self, prefix: &'a Prefix) -> Option<&'a Prefix> {
        match self.number as usize {
            0 => Some(prefix),
            n => prefix.others.get(n - 1),
        }
    }

    /// Whether a sequence, shortened to `len` tokens, still has all that its next row sees.
    pub(super) fn holds(&self, sequence: SequenceId, len: usize) -> bool {
        self.tables[sequence.index()].first() <= self.kind.first_block(len)
    }

    /// Blocks that a sequence needs for `additional` more tokens, and the shared one that it has to copy.
    fn needs(&self, sequence: SequenceId, additional: usize) -> (usize, Option<super::BlockId>) {
        let table = &self.tables[sequence.index()];
        let needed = (table.len() + additional)
            .div_ceil(BLOCK_TOKENS)
            .saturating_sub(table.blocks().len());
        let shared = table.partial().filter(|&b| additional > 0 && self.is_shared(b));
        (needed, shared)
    }

    /// Refuses what [`Group::grow`] has no room for.
    pub(super) fn check_room(&self, sequence: SequenceId, additional: usize) -> Result<(), KvFull> {
        let (needed, shared) = self.needs(sequence, additional);
        let available = self.pool.free() + self.pool.cached();
        let needed = needed + usize::from(shared.is_some());
        if needed > available {
            return Err(KvFull {
                needed,
                free: available,
            });
        }
        Ok(())
    }

    /// Takes the blocks for `additional` more tokens.
    pub(super) fn grow(&mut self, sequence: SequenceId, additional: usize) -> Result<(), KvFull> {
        let (needed, shared) = self.needs(sequence, additional);
        if let Some(old) = shared {
            let new = self.take()?;
            self.pool.copy(old, new);
            let table = &mut self.tables[sequence.index()];
            table.replace(table.len() / BLOCK_TOKENS, new);
            self.release(old);
        }
        for _ in 0..needed {
            let block = self.take()?;
            self.tables[sequence.index()].push(block);
        }
        Ok(())
    }

    /// Forgets all tokens from position `len` on, which it must be able to, and releases blocks that are no longer needed.
    pub(super) fn truncate(&mut self, sequence: SequenceId, len: usize) {
        while let Some(block) = self.tables[sequence.index()].pop_beyond(len) {
            self.release(block);
        }
        self.forget_seals(sequence);
    }
}
