//! The tokens of a block, as the index orders them.

use super::BLOCK_TOKENS;

/// Up to a block of token ids, ordered like words in a dictionary.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tokens {
    ids: [u32; BLOCK_TOKENS],
    len: u8,
}

impl Tokens {
    pub(super) fn new(tokens: &[u32]) -> Self {
        let mut ids = [0; BLOCK_TOKENS];
        let n = tokens.len().min(BLOCK_TOKENS);
        ids[..n].copy_from_slice(&tokens[..n]);
        Self { ids, len: n as u8 }
    }

    pub(super) fn as_slice(&self) -> &[u32] {
        &self.ids[..self.len as usize]
    }
}

impl PartialEq for Tokens {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Tokens {}

impl PartialOrd for Tokens {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Tokens {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_slice().cmp(other.as_slice())
    }
}
