//! Byte-level byte-pair encoding, `tokenizer.ggml.model` "gpt2".
//!
//! Text is split into words ([`super::pretokenize`]); the bytes of a word are merged in the order of the
//! file's merges. Token texts write each byte as a printable character, after GPT-2's table.

use super::TokenizerError;
use super::merge::{MergeRules, Merger};
use super::pretokenize::{self, PreTokenizer};
use super::special::push;
use super::vocab::{NONE, Vocabulary, mix};
use crate::gguf::{GgufError, Metadata};
use crate::memory;

const MERGES: &str = "tokenizer.ggml.merges";

/// The character that stands for `byte` in token texts: itself where it is printable in Latin-1, else one
/// of those from U+0100 on.
pub(super) const fn byte_to_char(byte: u8) -> char {
    let shifted = match byte {
        0x00..=0x20 => 0x100 + byte as u32,
        0x7F..=0xA0 => 0x121 + (byte - 0x7F) as u32,
        0xAD => 0x143,
        _ => byte as u32,
    };
    match char::from_u32(shifted) {
        Some(c) => c,
        None => char::REPLACEMENT_CHARACTER,
    }
}

/// The byte that `c` stands for in token texts.
pub(super) fn char_to_byte(c: char) -> Option<u8> {
    Some(match c as u32 {
        v @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => v as u8,
        v @ 0x100..=0x120 => (v - 0x100) as u8,
        v @ 0x121..=0x142 => (v - 0x121) as u8 + 0x7F,
        0x143 => 0xAD,
        _ => return None,
    })
}

/// Tables for encoding, made once per vocabulary.
#[derive(Debug)]
pub(super) struct Bpe {
    pre_tokenizer: PreTokenizer,
    /// Token of each byte, or NONE.
    bytes: Vec<u32>,
    merges: Merges,
}

/// Rank and result by pair of ids: a table with linear probing.
#[derive(Debug)]
struct Merges {
    keys: Vec<u64>,
    values: Vec<(u32, u32)>,
    count: usize,
}

/// No pair has this key: ids are below 2^31.
const FREE: u64 = u64::MAX;

impl Merges {
    fn new(count: usize) -> Result<Self, TokenizerError> {
        const WHAT: &str = "the merges of a vocabulary";
        let len = count.saturating_mul(2).max(2).checked_next_power_of_two();
        let len = len.unwrap_or(usize::MAX);
        Ok(Self {
            keys: memory::filled(FREE, len, WHAT)?,
            values: memory::filled((0, 0), len, WHAT)?,
            count,
        })
    }

    fn slot(&self, key: u64) -> usize {
        let mask = self.keys.len() - 1;
        let mut slot = mix(key) as usize & mask;
        while self.keys[slot] != key && self.keys[slot] != FREE {
            slot = (slot + 1) & mask;
        }
        slot
    }

    /// Keeps the first of two equal pairs.
    fn insert(&mut self, left: u32, right: u32, rank: u32, id: u32) {
        let key = u64::from(left) << 32 | u64::from(right);
        let slot = self.slot(key);
        if self.keys[slot] == FREE {
            self.keys[slot] = key;
            self.values[slot] = (rank, id);
        }
    }
}

impl MergeRules for Merges {
    fn ranks(&self) -> usize {
        self.count
    }

    fn merge(&self, left: u32, right: u32, _: &[u8]) -> Option<(u32, u32)> {
        if left == NONE || right == NONE {
            return None;
        }
        let key = u64::from(left) << 32 | u64::from(right);
        let slot = self.slot(key);
        (self.keys[slot] == key).then(|| self.values[slot])
    }
}

impl Bpe {
    pub(super) fn new(
        metadata: &Metadata,
        vocab: &Vocabulary,
        pre_tokenizer: PreTokenizer,
    ) -> Result<Self, TokenizerError> {
        let lines = metadata
            .strings(MERGES)?
            .ok_or_else(|| GgufError::MissingKey(MERGES.to_string()))?;
        let mut merges = Merges::new(lines.len())?;
        let mut joined = Vec::new();
        for (index, line) in lines.iter().enumerate() {
            let (left, right) = parts(line).ok_or_else(|| TokenizerError::MalformedMerge {
                index,
                text: line.clone(),
            })?;
            joined.clear();
            joined.extend_from_slice(left.as_bytes());
            joined.extend_from_slice(right.as_bytes());
            let find = |text: &[u8]| {
                vocab.find(text).ok_or_else(|| TokenizerError::UnknownMerge {
                    index,
                    text: String::from_utf8_lossy(text).into_owned(),
                })
            };
            let (l, r) = (find(left.as_bytes())?, find(right.as_bytes())?);
            merges.insert(l, r, index as u32, find(&joined)?);
        }
        let mut bytes = memory::filled(NONE, 256, "the byte tokens of a vocabulary")?;
        for byte in 0..=255u8 {
            let mut buffer = [0; 4];
            let text = byte_to_char(byte).encode_utf8(&mut buffer);
            bytes[byte as usize] = vocab.find(text.as_bytes()).unwrap_or(NONE);
        }
        Ok(Self {
            pre_tokenizer,
            bytes,
            merges,
        })
    }

    /// Appends the ids of `text`. Bytes without a token are left out, as the reference implementations do.
    pub(super) fn encode(
        &self,
        vocab: &Vocabulary,
        text: &str,
        merger: &mut Merger,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        let mut escaped = String::new();
        pretokenize::split(self.pre_tokenizer.rule, text, &mut |word: &str| {
            if self.pre_tokenizer.whole_words && word.len() <= vocab.longest() {
                escaped.clear();
                escaped.extend(word.bytes().map(byte_to_char));
                if let Some(id) = vocab.find(escaped.as_bytes()) {
                    return push(ids, id);
                }
            }
            merger.clear(word.len())?;
            for (start, &byte) in word.as_bytes().iter().enumerate() {
                merger.push(start, self.bytes[byte as usize]);
            }
            merger.run(&self.merges, word.as_bytes(), |id, _| {
                if id == NONE { Ok(()) } else { push(ids, id) }
            })
        })
    }
}

/// The two texts of a merge: the first may itself begin with a space.
fn parts(line: &str) -> Option<(&str, &str)> {
    let first = line.chars().next()?.len_utf8();
    let at = first + line[first..].find(' ')?;
    let (left, right) = (&line[..at], &line[at + 1..]);
    (!right.is_empty()).then_some((left, right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_printable_character_of_its_own() {
        for byte in 0..=255u8 {
            let c = byte_to_char(byte);
            assert_eq!(char_to_byte(c), Some(byte));
            assert!(!c.is_whitespace() && !c.is_control(), "{byte}: {c:?}");
        }
        assert_eq!(byte_to_char(b' '), 'Ġ');
        assert_eq!(byte_to_char(b'\n'), 'Ċ');
        assert_eq!(char_to_byte('字'), None);
    }
}
