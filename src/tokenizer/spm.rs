//! SentencePiece-style encoding, `tokenizer.ggml.model` "llama".
//!
//! Spaces become U+2581; characters are merged into the token of highest score, leftmost first; what is no
//! token becomes byte tokens, or the unknown token.

use super::TokenizerError;
use super::merge::{MergeRules, Merger};
use super::special::push;
use super::vocab::{NONE, TokenKind, Vocabulary};
use crate::memory;

/// The escaped space.
pub(super) const SPACE: char = '\u{2581}';

/// Tables for encoding, made once per vocabulary.
#[derive(Debug)]
pub(super) struct Spm {
    /// Rank of each token: 0 for the highest score.
    ranks: Vec<u32>,
    n_ranks: usize,
    /// Token for each byte that no token covers, or NONE.
    bytes: Vec<u32>,
    /// Characters that some token has before an escaped space, sorted. Elsewhere, nothing merges across the
    /// front of an escaped space, and the text can be cut there.
    before_space: Vec<char>,
}

struct Rules<'a> {
    spm: &'a Spm,
    vocab: &'a Vocabulary,
}

impl MergeRules for Rules<'_> {
    fn ranks(&self) -> usize {
        self.spm.n_ranks
    }

    fn merge(&self, _: u32, _: u32, text: &[u8]) -> Option<(u32, u32)> {
        let id = self.vocab.find(text)?;
        Some((self.spm.ranks[id as usize], id))
    }
}

impl Spm {
    pub(super) fn new(vocab: &Vocabulary) -> Result<Self, TokenizerError> {
        const WHAT: &str = "the merge ranks of a vocabulary";
        let n = vocab.len() as u32;
        let mut by_score = memory::with_capacity(n as usize, WHAT)?;
        by_score.extend(0..n);
        // Adding zero makes both zeros one.
        let score = |id: u32| vocab.score(id) + 0.0;
        by_score.sort_unstable_by(|&a, &b| score(b).total_cmp(&score(a)));
        let mut ranks = memory::filled(0u32, n as usize, WHAT)?;
        let mut rank = 0;
        for pair in by_score.windows(2) {
            if score(pair[0]) != score(pair[1]) {
                rank += 1;
            }
            ranks[pair[1] as usize] = rank;
        }
        let mut before_space = Vec::new();
        for id in 0..n {
            let text = vocab.text(id);
            for (at, _) in text.match_indices(SPACE) {
                before_space.extend(text[..at].chars().next_back());
            }
        }
        before_space.sort_unstable();
        before_space.dedup();
        Ok(Self {
            ranks,
            n_ranks: rank as usize + 1,
            bytes: byte_tokens(vocab)?,
            before_space,
        })
    }

    /// Appends the ids of `text`, which is preceded by a space when `prefix` is set.
    pub(super) fn encode(
        &self,
        vocab: &Vocabulary,
        unknown: Option<u32>,
        text: &str,
        prefix: bool,
        merger: &mut Merger,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        let spaces = text.bytes().filter(|&b| b == b' ').count() + usize::from(prefix);
        let buffer: Vec<u8> = memory::with_capacity(text.len() + 2 * spaces + 1, "an escaped text")?;
        let mut escaped = String::from_utf8(buffer).unwrap_or_default();
        if prefix {
            escaped.push(SPACE);
        }
        for (i, part) in text.split(' ').enumerate() {
            if i > 0 {
                escaped.push(SPACE);
            }
            escaped.push_str(part);
        }
        let mut rest = escaped.as_str();
        while !rest.is_empty() {
            let (word, after) = rest.split_at(self.word_end(rest));
            self.encode_word(vocab, unknown, word, merger, ids)?;
            rest = after;
        }
        Ok(())
    }

    /// End of the part at the front of `text` that no merge crosses.
    fn word_end(&self, text: &str) -> usize {
        let mut searched = 0;
        while let Some(found) = text[searched..].find(SPACE) {
            let at = searched + found;
            if let Some(before) = text[..at].chars().next_back()
                && self.before_space.binary_search(&before).is_err()
            {
                return at;
            }
            searched = at + SPACE.len_utf8();
        }
        text.len()
    }

    fn encode_word(
        &self,
        vocab: &Vocabulary,
        unknown: Option<u32>,
        word: &str,
        merger: &mut Merger,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        merger.clear(word.chars().count())?;
        for (start, c) in word.char_indices() {
            let mut buffer = [0; 4];
            let id = vocab.find(c.encode_utf8(&mut buffer).as_bytes()).unwrap_or(NONE);
            merger.push(start, id);
        }
        merger.run(&Rules { spm: self, vocab }, word.as_bytes(), |id, text| {
            if id != NONE {
                return push(ids, id);
            }
            for &byte in text {
                let id = match self.bytes[byte as usize] {
                    NONE => unknown.ok_or(TokenizerError::Unencodable { byte })?,
                    id => id,
                };
                push(ids, id)?;
            }
            Ok(())
        })
    }
}

/// The byte a text like `<0x0A>` names.
pub(super) fn named_byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

fn byte_tokens(vocab: &Vocabulary) -> Result<Vec<u32>, TokenizerError> {
    let mut bytes = memory::filled(NONE, 256, "the byte tokens of a vocabulary")?;
    for id in 0..vocab.len() as u32 {
        if vocab.kind(id) == TokenKind::Byte
            && let Some(byte) = named_byte(vocab.text(id))
        {
            bytes[byte as usize] = id;
        }
    }
    for byte in 0..=255u8 {
        if bytes[byte as usize] == NONE {
            let named = vocab.find(format!("<0x{byte:02X}>").as_bytes());
            bytes[byte as usize] = named.or_else(|| vocab.find(&[byte])).unwrap_or(NONE);
        }
    }
    Ok(bytes)
}
