//! Cached prefixes as bytes that outlive the engine.
//!
//! ```text
//! offset  bytes
//!      0  8            "inferkv\0"
//!      8  4            version of this format, 1
//!     12  4            f, length of the fingerprint
//!     16  8            n, number of tokens
//!     24  8            b, bytes of a block
//!     32  f            fingerprint: lines name=value, UTF-8
//!   32+f  4 n          token ids
//!      …  b ⌈n / 32⌉   blocks of keys and values; slots after the last token are zeros
//!      …  8            XXH3-64 of everything before
//! ```
//!
//! Numbers are little-endian. Every length is checked before anything is taken from the bytes. The checksum finds damage;
//! it does not find forgery: whoever can write a state can choose what a model remembers.

use super::worker::Worker;
use super::{Engine, Shared};
use crate::error::{Error, Result};
use crate::kv::prefix::{Fingerprint, Prefix};
use crate::kv::{BLOCK_TOKENS, KvCache};
use crate::memory;

const MAGIC: &[u8; 8] = b"inferkv\0";
const VERSION: u32 = 1;
const HEADER: usize = 32;
const CHECKSUM: usize = 8;

impl Engine {
    /// Copies what the prefix cache holds of the longest cached prefix of these token ids with this salt, so that
    /// [`Engine::restore_state`] can bring it back in another engine or process. A prefix of no tokens is a state too.
    /// The bytes hold the token ids in the clear.
    ///
    /// It is done between two steps, which wait for it.
    ///
    /// # Errors
    /// [`Error::Unsupported`] without a prefix cache, or for a model with sliding windows; [`Error::Closed`] while shutting
    /// down; [`Error::Memory`].
    pub fn save_state(&self, ids: &[u32], salt: &[u8]) -> Result<Vec<u8>> {
        let fingerprint = self.shared.fingerprint("save a state")?.clone();
        let (ids, salt) = (memory::copy(ids, "token ids")?, salt.to_vec());
        self.between_steps(move |worker| worker.save_state(&fingerprint, &ids, &salt))?
    }

    /// Bytes that [`Engine::save_state`] would answer now. Requests that are running can make it more, and evictions less.
    ///
    /// # Errors
    /// As [`Engine::save_state`].
    pub fn state_size(&self, ids: &[u32], salt: &[u8]) -> Result<usize> {
        let fingerprint = self.shared.fingerprint("measure a state")?;
        let (text, block) = (fingerprint.as_str().len(), self.shared.machine.kv_block_bytes);
        let (ids, salt) = (memory::copy(ids, "token ids")?, salt.to_vec());
        let n = self.between_steps(move |worker| find(&worker.kv, &ids, &salt).len())?;
        Ok(HEADER + text + 4 * n + n.div_ceil(BLOCK_TOKENS) * block + CHECKSUM)
    }

    /// Brings a saved state into the prefix cache under a salt: requests with this salt whose prompts begin with its
    /// tokens start after them, with the output they have without it. Answers how many tokens are cached then; fewer
    /// than were saved when the cache is too small beside what is running. Blocks that are cached already are kept.
    ///
    /// It is done between two steps, which wait for it. Restore only what you saved: the checksum finds damage, but
    /// someone who writes states can choose what the model takes for the meaning of a prompt.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for bytes that are damaged, or saved with another model, layout, CPU level, precision
    /// or version of the arithmetic, which it names; [`Error::Unsupported`] as for [`Engine::save_state`];
    /// [`Error::Closed`] while shutting down; [`Error::Memory`].
    pub fn restore_state(&self, state: &[u8], salt: &[u8]) -> Result<usize> {
        let fingerprint = self.shared.fingerprint("restore a state")?;
        let machine = &self.shared.machine;
        let saved = Saved::parse(
            state,
            fingerprint,
            machine.kv_block_bytes,
            self.shared.model.info().n_vocab,
        )?;
        let blocks = memory::copy(saved.blocks, "the blocks of a state")?;
        let (tokens, salt) = (saved.tokens, salt.to_vec());
        self.between_steps(move |worker| worker.restore_state(&tokens, &blocks, &salt))
    }
}

impl Shared {
    fn fingerprint(&self, what: &str) -> Result<&Fingerprint> {
        if !self.machine.kv_plain {
            return Err(Error::Unsupported(format!(
                "cannot {what}: states of models with sliding windows are not supported yet"
            )));
        }
        self.machine.fingerprint.as_ref().ok_or_else(|| {
            Error::Unsupported(format!(
                "cannot {what}: the engine has no prefix cache; create it with the option prefix_cache"
            ))
        })
    }
}

fn find(kv: &KvCache, ids: &[u32], salt: &[u8]) -> Prefix {
    let root = kv.index().map(|index| index.root(salt));
    root.map_or_else(Prefix::default, |root| kv.find_all(root, ids))
}

impl Worker {
    fn save_state(&self, fingerprint: &Fingerprint, ids: &[u32], salt: &[u8]) -> Result<Vec<u8>> {
        let prefix = find(&self.kv, ids, salt);
        let text = fingerprint.as_str();
        let n = prefix.len();
        let block = self.kv.pool().geometry().block_bytes();
        let mut out = memory::with_capacity(
            HEADER + text.len() + 4 * n + n.div_ceil(BLOCK_TOKENS) * block + CHECKSUM,
            "a saved state",
        )?;
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(text.len() as u32).to_le_bytes());
        out.extend_from_slice(&(n as u64).to_le_bytes());
        out.extend_from_slice(&(block as u64).to_le_bytes());
        out.extend_from_slice(text.as_bytes());
        for id in &ids[..n] {
            out.extend_from_slice(&id.to_le_bytes());
        }
        self.kv.export(&prefix, &mut out)?;
        let checksum = twox_hash::XxHash3_64::oneshot(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        Ok(out)
    }

    fn restore_state(&mut self, tokens: &[u32], blocks: &[u8], salt: &[u8]) -> usize {
        let Some(root) = self.kv.index().map(|index| index.root(salt)) else {
            return 0;
        };
        let n = self.kv.import(root, tokens, blocks);
        self.publish_cache();
        n
    }
}

/// A state whose every part was checked.
#[derive(Debug)]
struct Saved<'a> {
    tokens: Vec<u32>,
    blocks: &'a [u8],
}

impl<'a> Saved<'a> {
    fn parse(state: &'a [u8], ours: &Fingerprint, block_bytes: usize, n_vocab: usize) -> Result<Self> {
        let invalid = |detail: String| Error::InvalidArgument(format!("cannot restore the state: {detail}"));
        let mut cursor = Cursor(state);
        if cursor.take(MAGIC.len()) != Some(MAGIC) {
            return Err(invalid(format!(
                "expected bytes that begin with \"inferkv\", found {} bytes that do not",
                state.len()
            )));
        }
        let cut = || invalid(format!("it ends within its header, after {} bytes", state.len()));
        let version = cursor.u32().ok_or_else(cut)?;
        if version != VERSION {
            return Err(invalid(format!(
                "expected version {VERSION} of the format, found {version}"
            )));
        }
        let text = cursor.u32().ok_or_else(cut)?;
        let n = cursor.u64().ok_or_else(cut)?;
        let block = cursor.u64().ok_or_else(cut)?;
        let lengths = (|| {
            let (text, tokens) = (
                usize::try_from(text).ok()?,
                usize::try_from(n.checked_mul(4)?).ok()?,
            );
            let blocks = n.div_ceil(BLOCK_TOKENS as u64).checked_mul(block)?;
            let blocks = usize::try_from(blocks).ok()?;
            let total = HEADER.checked_add(text)?.checked_add(tokens)?;
            let total = total.checked_add(blocks)?.checked_add(CHECKSUM)?;
            (total == state.len()).then_some((text, tokens, blocks))
        })();
        let Some((text, tokens, blocks)) = lengths else {
            return Err(invalid(format!(
                "its header tells of {text} bytes of fingerprint, {n} tokens and blocks of {block} bytes, which are not \
                 the {} bytes it has",
                state.len()
            )));
        };
        let (body, checksum) = state.split_at(state.len() - CHECKSUM);
        let checksum = checksum.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        if checksum != Some(twox_hash::XxHash3_64::oneshot(body)) {
            return Err(invalid(
                "its checksum is wrong: the bytes were damaged after they were saved".to_string(),
            ));
        }
        // The lengths were found to be those of the bytes.
        let text = cursor.take(text).unwrap_or_default();
        let tokens = cursor.take(tokens).unwrap_or_default();
        let blocks = cursor.take(blocks).unwrap_or_default();
        if let Some(difference) = ours.difference(&String::from_utf8_lossy(text)) {
            return Err(invalid(format!(
                "it was saved by another kind of engine: {difference}"
            )));
        }
        if block != block_bytes as u64 {
            return Err(invalid(format!(
                "expected blocks of {block_bytes} bytes, found {block}"
            )));
        }
        let mut ids = memory::with_capacity(tokens.len() / 4, "the tokens of a state")?;
        for id in tokens.chunks_exact(4) {
            let id = u32::from_le_bytes(*id.first_chunk().unwrap_or(&[0; 4]));
            if id as usize >= n_vocab {
                return Err(invalid(format!(
                    "it has the token {id}, but the vocabulary has {n_vocab} tokens"
                )));
            }
            ids.push(id);
        }
        Ok(Self { tokens: ids, blocks })
    }
}

/// Takes bytes from the front.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(*self.take(4)?.first_chunk()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(*self.take(8)?.first_chunk()?))
    }
}
