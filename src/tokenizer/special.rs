//! Finding the texts of special tokens in a text, before the tokenizer proper sees it.
//!
//! The longest special token goes first, wherever it stands; then the next shorter one is looked for in what
//! is left, and so on (the order of llama.cpp, which differs from leftmost-longest when tokens overlap).
//! A trie finds all candidates in one pass over the text.

use std::ops::Range;

use super::TokenizerError;
use super::queue::sort;
use super::vocab::{NONE, Vocabulary};
use crate::memory;

/// A part of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fragment {
    /// Bytes that the tokenizer proper encodes.
    Text(Range<usize>),
    /// A special token.
    Token(u32),
}

/// What a special token does to white space around it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Strip {
    pub(super) left: bool,
    pub(super) right: bool,
}

#[derive(Debug, Clone, Default)]
struct Node {
    /// Index into `tokens` of the token that ends here, or NONE.
    token: u32,
    children: Vec<(u8, u32)>,
}

#[derive(Debug, Clone)]
struct Special {
    id: u32,
    /// Index of its length in `lengths`.
    length: u32,
    strip: Strip,
    /// Index of the longest special token that is a proper prefix of this one, or NONE.
    shorter: u32,
}

/// A set of special tokens to look for.
#[derive(Debug, Default)]
pub(super) struct SpecialTokens {
    nodes: Vec<Node>,
    /// Child of the root by first byte, or NONE.
    first: Vec<u32>,
    tokens: Vec<Special>,
    /// Lengths that occur, descending.
    lengths: Vec<u32>,
}

impl SpecialTokens {
    /// Builds the set from ids and what they strip.
    pub(super) fn new(
        vocab: &Vocabulary,
        ids: impl Iterator<Item = (u32, Strip)>,
    ) -> Result<Self, TokenizerError> {
        const WHAT: &str = "the index of special tokens";
        let mut set = Self {
            first: memory::filled(NONE, 256, WHAT)?,
            ..Self::default()
        };
        for (id, strip) in ids {
            set.insert(vocab.text(id).as_bytes(), id, strip);
        }
        set.link_prefixes(vocab);
        let len = |id: u32| vocab.text(id).len() as u32;
        set.lengths = set.tokens.iter().map(|t| len(t.id)).collect();
        set.lengths.sort_unstable_by(|a, b| b.cmp(a));
        set.lengths.dedup();
        for token in &mut set.tokens {
            // Descending, so that the longer ones come first.
            token.length = set.lengths.partition_point(|&l| l > len(token.id)) as u32;
        }
        Ok(set)
    }

    fn insert(&mut self, text: &[u8], id: u32, strip: Strip) {
        let mut at = NONE;
        for &byte in text {
            let next = self.child(at, byte);
            at = if next == NONE {
                let new = self.nodes.len() as u32;
                self.nodes.push(Node {
                    token: NONE,
                    children: Vec::new(),
                });
                match self.nodes.get_mut(at as usize) {
                    Some(node) => node.children.push((byte, new)),
                    None => self.first[byte as usize] = new,
                }
                new
            } else {
                next
            };
        }
        if let Some(node) = self.nodes.get_mut(at as usize) {
            node.token = self.tokens.len() as u32;
            self.tokens.push(Special {
                id,
                length: 0,
                strip,
                shorter: NONE,
            });
        }
    }

    fn link_prefixes(&mut self, vocab: &Vocabulary) {
        for i in 0..self.tokens.len() {
            let text = vocab.text(self.tokens[i].id).as_bytes();
            self.tokens[i].shorter = self.longest_at(&text[..text.len() - 1]).unwrap_or(NONE);
        }
    }

    /// Child of node `at` (the root when NONE) for `byte`, or NONE.
    fn child(&self, at: u32, byte: u8) -> u32 {
        match self.nodes.get(at as usize) {
            None => self.first[byte as usize],
            Some(node) => node
                .children
                .iter()
                .find(|(b, _)| *b == byte)
                .map_or(NONE, |&(_, next)| next),
        }
    }

    /// The longest token that `text` starts with.
    fn longest_at(&self, text: &[u8]) -> Option<u32> {
        let mut found = None;
        let mut at = NONE;
        for &byte in text {
            at = self.child(at, byte);
            if at == NONE {
                break;
            }
            let token = self.nodes[at as usize].token;
            if token != NONE {
                found = Some(token);
            }
        }
        found
    }

    /// Splits `text` into special tokens and what lies between them.
    pub(super) fn split(&self, text: &str) -> Result<Vec<Fragment>, TokenizerError> {
        const WHAT: &str = "the special tokens of a text";
        let bytes = text.as_bytes();
        let whole = || Fragment::Text(0..bytes.len());
        if bytes.is_empty() {
            return Ok(Vec::new());
        }
        // Where a token of each length may stand, by index into `lengths`. Every position begins with the
        // longest token there.
        let mut starts: Vec<Vec<u32>> = vec![Vec::new(); self.lengths.len()];
        let mut found = false;
        if !self.tokens.is_empty() {
            for (i, &byte) in bytes.iter().enumerate() {
                if self.first[byte as usize] == NONE {
                    continue;
                }
                if let Some(token) = self.longest_at(&bytes[i..]) {
                    let length = self.tokens[token as usize].length;
                    push(&mut starts[length as usize], i as u32)?;
                    found = true;
                }
            }
        }
        if !found {
            return Ok(vec![whole()]);
        }
        let mut taken = memory::filled(false, bytes.len(), WHAT)?;
        let mut accepted: Vec<(u32, Range<usize>)> = Vec::new();
        for length in 0..self.lengths.len() {
            let mut here = std::mem::take(&mut starts[length]);
            // Those passed on from longer tokens come out of order.
            sort(&mut here)?;
            let len = self.lengths[length] as usize;
            for start in here {
                let start = start as usize;
                if taken[start] {
                    continue;
                }
                let end = start + len;
                let Some(token) = self.longest_at(&bytes[start..end]) else {
                    continue;
                };
                let special = &self.tokens[token as usize];
                // A taken range is at least as long as this one, or touches one that is: looking at both
                // ends suffices.
                if taken[end - 1] {
                    if let Some(shorter) = self.tokens.get(special.shorter as usize) {
                        push(&mut starts[shorter.length as usize], start as u32)?;
                    }
                    continue;
                }
                taken[start..end].fill(true);
                let (mut from, mut to) = (start, end);
                if special.strip.left {
                    while from > 0 && !taken[from - 1] && is_space(bytes[from - 1]) {
                        from -= 1;
                        taken[from] = true;
                    }
                }
                if special.strip.right {
                    while to < bytes.len() && !taken[to] && is_space(bytes[to]) {
                        taken[to] = true;
                        to += 1;
                    }
                }
                push(&mut accepted, (special.id, from..to))?;
            }
        }
        accepted.sort_unstable_by_key(|(_, range)| range.start);
        let mut fragments = memory::with_capacity(accepted.len() * 2 + 1, WHAT)?;
        let mut end = 0;
        for (id, range) in accepted {
            if range.start > end {
                fragments.push(Fragment::Text(end..range.start));
            }
            fragments.push(Fragment::Token(id));
            end = range.end;
        }
        if end < bytes.len() {
            fragments.push(Fragment::Text(end..bytes.len()));
        }
        Ok(fragments)
    }
}

/// White space of the C locale.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | 0x09..=0x0D)
}

/// Appends, growing fallibly.
pub(super) fn push<T>(v: &mut Vec<T>, value: T) -> Result<(), TokenizerError> {
    if v.len() == v.capacity() {
        let more = v.len().max(16);
        memory::reserve(v, more, "the tokens of a text")?;
    }
    v.push(value);
    Ok(())
}
